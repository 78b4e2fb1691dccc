//! The proportional set size: against what is really shared, and who may know it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use firstmate::engine::RunId;
use firstmate::engine::memory::{Measurement, MemoryEvent, Pss};
use firstmate::engine::status::MemoryMethod;
use firstmate::linux::memory::pss::{Job, Meter};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::ground::{Ground, MB, docker_capabilities, kill, python, run, status_of};
use crate::stage::{PATIENCE, actor, until, words};

type Answers = BTreeMap<RunId, Option<Pss>>;

/// What was measured, if anything.
fn number(measurement: Measurement) -> Option<Pss> {
    match measurement {
        Measurement::Pss(pss) => Some(pss),
        Measurement::Refused | Measurement::NotNow => None,
    }
}

fn meter() -> (Meter, Receiver<MemoryEvent>) {
    let (sender, receiver): (Sender<MemoryEvent>, _) = channel();
    (Meter::new(move |event| sender.send(event).unwrap()), receiver)
}

fn answers(receiver: &Receiver<MemoryEvent>, count: usize) -> Answers {
    let answer = || {
        let MemoryEvent::Measured { run, pss } = receiver.recv_timeout(PATIENCE).unwrap() else { panic!("another event") };
        (run, number(pss))
    };
    (0..count).map(|_| answer()).collect()
}

impl Ground {
    fn job(&mut self, service: usize) -> Job {
        Job { run: run(service), processes: self.census().of(run(service)).iter().map(|seen| (seen.pid, seen.started)).collect() }
    }

    /// Of one run, whatever the last measurement cost.
    fn pss(&mut self, service: usize) -> Option<Pss> {
        let (mut meter, receiver) = meter();
        meter.measure(vec![self.job(service)], true);
        answers(&receiver, 1)[&run(service)]
    }
}

/// The processes' page tables and stacks, which are counted too.
fn kernel(ground: &mut Ground, service: usize) -> u64 {
    ground.rss(service).kernel
}

#[test]
fn what_twenty_forks_share_is_counted_once() {
    let mut ground = Ground::new(true);
    let code =
        "data = b'x' * (30 << 20)\nfor n in range(20):\n  if os.fork() == 0:\n    open(f'child{n}', 'w').write('1')\n    time.sleep(1000)";
    ground.start(0, &python(code, "ready"));
    ground.pid_in("ready");
    for n in 0..20 {
        ground.pid_in(&format!("child{n}"));
    }
    let rss = ground.rss(0);
    assert_eq!(rss.processes, 21);
    assert!(rss.anon > 21 * 30 * MB, "{rss:?}");
    let pss = ground.pss(0).unwrap();
    let own = pss.bytes - kernel(&mut ground, 0);
    assert_eq!(pss.method, MemoryMethod::Pss);
    assert!((30 * MB..60 * MB).contains(&own), "{} MB", own / MB);
    ground.clear();
}

#[test]
fn what_was_given_back_does_not_count_and_shared_memory_counts_once() {
    let mut ground = Ground::new(true);
    let free = "MADV_FREE = 8\nm = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nm.write(b'x' * (64 << 20))\nm.madvise(MADV_FREE)";
    ground.start(0, &python(free, "free"));
    let shared = "m = mmap.mmap(-1, 64 << 20)\nm.write(b'x' * (64 << 20))\nif os.fork() == 0:\n  sum(m[i] for i in range(0, 64 << 20, 4096))\n  open('child', 'w').write('1')\n  time.sleep(1000)";
    ground.start(1, &python(shared, "shared"));
    for file in ["free", "shared", "child"] {
        ground.pid_in(file);
    }
    assert!(ground.rss(0).anon > 64 * MB, "the kernel has not taken it yet");
    let own = ground.pss(0).unwrap().bytes - kernel(&mut ground, 0);
    assert!(own < 30 * MB, "{} MB", own / MB);
    assert!(ground.rss(1).shmem >= 128 * MB);
    let own = ground.pss(1).unwrap().bytes - kernel(&mut ground, 1);
    assert!((64 * MB..90 * MB).contains(&own), "{} MB", own / MB);
    ground.clear();
}

/// Who may read whom under Docker's default capabilities: as far as a fork, an exec and a flag make them.
#[test]
fn under_dockers_capabilities_a_users_program_is_read_as_its_user_and_a_hidden_one_not_at_all() {
    let mut ground = Ground::new(true);
    docker_capabilities();
    ground.start(0, &python("data = b'x' * (20 << 20)", "root"));
    let argv = python("data = b'x' * (20 << 20)", "user");
    let pid = ground.start_as(1, &argv, true, Some("www-data"));
    ground.trees.started(run(1), "s1.1", pid);
    // As php-fpm: a root master, and a worker that became another user without executing anything, and may not be looked into.
    let worker = "if os.fork() == 0:\n  data = b'x' * (20 << 20)\n  os.setgid(33)\n  os.setuid(33)\n  open('worker', 'w').write('1')\n  time.sleep(1000)";
    ground.start(2, &python(worker, "first"));
    // The same, but that it says it may be looked into, as nginx and php-fpm's `process.dumpable = yes` do.
    let dumpable = "if os.fork() == 0:\n  data = b'x' * (20 << 20)\n  os.setgroups([])\n  os.setgid(33)\n  os.setuid(33)\n  ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n  open('dumpable', 'w').write('1')\n  time.sleep(1000)";
    ground.start(3, &python(dumpable, "second"));
    for file in ["root", "user", "worker", "dumpable"] {
        ground.pid_in(file);
    }
    assert_eq!(ground.census().members().len(), 6);
    assert_eq!(ground.pss(0).unwrap().method, MemoryMethod::Pss);
    assert!(std::fs::read(format!("/proc/{pid}/smaps_rollup")).is_err(), "not plainly");
    let user = ground.pss(1).unwrap();
    assert_eq!(user.method, MemoryMethod::PssAsUser);
    assert!(user.bytes > 20 * MB);
    assert_eq!(ground.pss(2), None);
    let dumpable = ground.pss(3).unwrap();
    assert_eq!(dumpable.method, MemoryMethod::PssAsUser);
    assert!(dumpable.bytes > 20 * MB);
    // And what needs no privilege is known of all of them.
    assert!((0..4).all(|service| ground.rss(service).anon > 20 * MB));
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 1, "this process is as it was");
    ground.clear();
}

/// php-fpm's workers become another user without executing anything, and cannot be looked into unless its file says so.
#[test]
fn php_fpm_is_read_where_it_lets_itself_be_read() {
    let mut ground = Ground::new(true);
    docker_capabilities();
    for (service, dumpable) in [(0, "no"), (1, "yes")] {
        let text = format!(
            "[global]\nerror_log = /dev/null\n[www]\nuser = www-data\ngroup = www-data\nlisten = {}/{dumpable}.sock\nprocess.dumpable = {dumpable}\n\
             pm = static\npm.max_children = 5\n",
            ground.scratch.display()
        );
        std::fs::write(ground.scratch.join(format!("{dumpable}.conf")), text).unwrap();
        ground.start(service, &words(&format!("/usr/sbin/php-fpm8.2 -F -y {dumpable}.conf")));
        let is_worker = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("\nUid:\t33\t33\t33\t33\n");
        let sleeps = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ");
        until("all workers wait", || {
            let pids = ground.pids(service);
            (pids.iter().filter(|&&pid| is_worker(pid) && sleeps(pid)).count() == 5).then_some(())
        });
    }
    assert_eq!(ground.pss(0), None);
    let pss = ground.pss(1).unwrap();
    let rss = ground.rss(1);
    assert_eq!(pss.method, MemoryMethod::PssAsUser);
    assert!(pss.bytes < rss.anon + rss.shmem + rss.kernel, "{pss:?} {rss:?}");
    ground.clear();
}

#[test]
fn without_a_thread_there_is_no_number() {
    let mut ground = Ground::new(true);
    ground.start(0, &actor("sleep"));
    let job = ground.job(0);
    let (mut meter, receiver) = meter();
    let (before, most) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    let limit = |count: u64| setrlimit(Resource::RLIMIT_NPROC, count, most).unwrap();
    // SAFETY: numbers only. Another user may have no more processes; root may.
    unsafe {
        limit(0);
        assert_eq!(libc::setresuid(33, 33, 0), 0);
        meter.measure(vec![job.clone()], false);
        assert_eq!(libc::setresuid(0, 0, 0), 0);
        limit(before);
    }
    assert_eq!(answers(&receiver, 1), BTreeMap::from([(run(0), None)]));
    assert!(!meter.busy());
    meter.measure(vec![job], false);
    assert!(answers(&receiver, 1)[&run(0)].is_some(), "it is tried again");
    ground.clear();
}

/// The flag is the whole process's, and the loop changes its ids too, to read environments.
#[test]
fn two_threads_that_change_their_ids_leave_the_process_as_it_was() {
    let mut ground = Ground::new(true);
    docker_capabilities();
    let (mut meter, receiver) = meter();
    let pid = ground.start_as(1, &actor("write-pid user sleep"), true, Some("www-data"));
    ground.trees.started(run(1), "s1.1", pid);
    ground.pid_in("user");
    let job = ground.job(1);
    for round in 0..300 {
        meter.measure(vec![job.clone(); 20], true);
        // An orphan of another user whose environment has to be read as that user.
        let stranger = ground.start_as(2, &actor("sleep"), false, Some("www-data"));
        ground.census();
        for _ in 0..20 {
            let MemoryEvent::Measured { pss, .. } = receiver.recv_timeout(PATIENCE).unwrap() else { panic!("{round}") };
            assert!(number(pss).is_some_and(|pss| pss.method == MemoryMethod::PssAsUser), "{round}: {pss:?}");
        }
        // SAFETY: numbers only.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 1, "{round}");
        kill(stranger, libc::SIGKILL);
        ground.drain();
    }
    ground.clear();
}

#[test]
fn the_dead_and_the_executing_hold_nothing_and_do_not_spoil_the_rest() {
    let mut ground = Ground::new(true);
    let leader = ground.start(0, &python("data = b'x' * (20 << 20)", "ready"));
    ground.pid_in("ready");
    let child = ground.start(1, &actor("sleep"));
    let mut job = ground.job(0);
    let dead = ground.job(1).processes[0];
    kill(child, libc::SIGKILL);
    // A zombie first, and then nobody.
    until("it is dead", || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap().contains(") Z ").then_some(()));
    let (mut meter, receiver) = meter();
    job.processes.push(dead);
    // And somebody else under the leader's number.
    job.processes.push((leader, 1));
    let mut measure = |job: &Job| {
        meter.measure(vec![job.clone()], true);
        answers(&receiver, 1)[&run(0)].unwrap()
    };
    let with_zombie = measure(&job).bytes;
    until("it is reaped", || {
        ground.drain();
        (!std::fs::exists(format!("/proc/{child}")).unwrap()).then_some(())
    });
    let expected = status_of(leader, "RssAnon") + status_of(leader, "VmPTE") + 16384;
    for bytes in [with_zombie, measure(&job).bytes] {
        assert!(bytes.abs_diff(expected) < MB, "{bytes} {expected}");
    }
    // A process that executes itself all the time has always either memory or none.
    ground.start(
        2,
        &[
            "/bin/sh",
            "-c",
            "n=$((n + 1)); export n; exec /bin/sh -c \"$0\" \"$0\"",
            "n=$((n + 1)); export n; exec /bin/sh -c \"$0\" \"$0\"",
        ]
        .map(Into::into),
    );
    let job = ground.job(2);
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut known = 0;
    while Instant::now() < deadline {
        meter.measure(vec![job.clone()], true);
        let pss = answers(&receiver, 1)[&run(2)];
        assert!(pss.is_none_or(|pss| pss.bytes < 10 * MB), "{pss:?}");
        known += u32::from(pss.is_some());
    }
    assert!(known > 100, "{known}");
    ground.clear();
}

#[test]
fn the_next_pass_waits_for_a_hundred_times_the_cost_of_the_last() {
    let mut ground = Ground::new(true);
    ground.start(0, &python("data = b'x' * (300 << 20)", "ready"));
    ground.pid_in("ready");
    let job = ground.job(0);
    let (mut meter, receiver) = meter();
    assert!(meter.rest().is_zero());
    meter.measure(vec![job.clone()], false);
    assert!(answers(&receiver, 1)[&run(0)].is_some());
    let rest = meter.rest();
    assert!(!meter.busy() && rest > Duration::from_millis(20), "300 MB take a millisecond: {rest:?}");
    meter.measure(vec![job.clone(), Job { run: run(1), ..job.clone() }], false);
    assert_eq!(answers(&receiver, 2), BTreeMap::from([(run(0), None), (run(1), None)]), "at once");
    meter.measure(vec![job.clone()], true);
    assert!(answers(&receiver, 1)[&run(0)].is_some(), "urgent");
    until("it may measure again", || meter.rest().is_zero().then_some(()));
    meter.measure(vec![job], false);
    assert!(answers(&receiver, 1)[&run(0)].is_some());
    ground.clear();
}
