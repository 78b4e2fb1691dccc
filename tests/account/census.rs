//! Who belongs to a run, what its processes say they hold, and who cannot be seen.

use std::collections::BTreeSet;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::ground::{Ground, MB, apart, docker_capabilities, in_both_ways, kill, python, run, status_of};
use crate::stage::{actor, alone, until};

#[test]
fn everybody_of_every_run_is_seen_at_one_look() {
    in_both_ways(|ground| {
        let first =
            ground.start(0, &actor("child write-pid a sleep end child setsid write-pid b child write-pid c sleep end sleep end sleep"));
        let second = ground.start(1, &actor("child write-pid d sleep end sleep"));
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|file| ground.pid_in(file));
        let census = ground.census();
        let of = |service| census.of(run(service)).iter().map(|seen| (seen.pid, seen.parent)).collect::<BTreeSet<_>>();
        let own = std::process::id();
        assert_eq!(of(0), BTreeSet::from([(first, own), (a, first), (b, first), (c, b)]));
        assert_eq!(of(1), BTreeSet::from([(second, own), (d, second)]));
        assert!(census.of(run(2)).is_empty());
        assert!(census.hidden().is_empty());
        assert_eq!(census.members().len(), 6);
        let forked: BTreeSet<u32> = census.members().iter().filter(|seen| seen.forked).map(|seen| seen.pid).collect();
        assert_eq!(forked, BTreeSet::from([a, b, c, d]), "the main processes are executed programs");
    });
}

#[test]
fn a_daemon_is_its_services() {
    in_both_ways(|ground| {
        ground.start(0, &actor("daemonise write-pid daemon child write-pid below sleep end sleep"));
        let other = ground.start(1, &actor("sleep"));
        let expected: BTreeSet<u32> = ["daemon", "below"].map(|file| ground.pid_in(file)).into();
        until("only daemon and child are left", || {
            ground.drain();
            (ground.pids(0) == expected).then_some(())
        });
        assert_eq!(ground.pids(1), BTreeSet::from([other]));
        assert_eq!(ground.rss(0).processes, 2);
    });
}

#[test]
fn who_was_counted_stays_known() {
    in_both_ways(|ground| {
        // In another session, and with no marker to be read: only having been counted there tells, and its session for who comes later.
        let leader = ground.start(
            0,
            &actor("child setsid wipe-env write-pid hidden wait-file fork child child write-pid late sleep end end sleep end sleep"),
        );
        let hidden = ground.pid_in("hidden");
        assert_eq!(ground.pids(0), BTreeSet::from([leader, hidden]));
        kill(leader, libc::SIGKILL);
        until("the leader is dead", || {
            ground.drain();
            ground.stage.dead.iter().find(|(pid, _)| *pid == leader).map(drop)
        });
        assert_eq!(ground.pids(0), BTreeSet::from([hidden]));
        std::fs::write(ground.scratch.join("fork"), "").unwrap();
        let late = ground.pid_in("late");
        until("the one between is gone", || {
            ground.drain();
            (ground.pids(0) == BTreeSet::from([hidden, late])).then_some(())
        });
        assert_eq!(ground.trees.survivors(run(0)).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([hidden, late]));
    });
}

fn check_others(mut ground: Ground) {
    let leader = ground.start(0, &actor("sleep"));
    let before = ground.account().others.unwrap();
    let argv = python("data = b'x' * (40 << 20)\nif os.fork() == 0: os.setsid(); time.sleep(1000)", "probe");
    let probe = ground.start_as(0, &argv, true, None);
    ground.trees.probe_started(probe);
    until("it has forked", || {
        let children = std::fs::read_to_string(format!("/proc/{probe}/task/{probe}/children"));
        children.is_ok_and(|text| !text.is_empty()).then_some(())
    });
    ground.start_as(1, &python("data = b'x' * (40 << 20)", "stranger"), false, None);
    ground.pid_in("stranger");
    assert_eq!(ground.pids(0), BTreeSet::from([leader]));
    let others = ground.account().others.unwrap();
    assert_eq!(others.processes, before.processes + 3, "the probe with its child, and the stranger");
    assert!(others.anon > before.anon + 120 * MB, "{before:?} {others:?}");
    assert!((40 * MB..60 * MB).contains(&others.largest), "{others:?}");
    kill(probe, libc::SIGKILL);
    until("the probe is dead", || {
        ground.drain();
        (ground.pids(0).len() == 2).then_some(())
    });
    assert_eq!(ground.account().others.unwrap().processes, before.processes + 1, "what it left behind is the run's");
    ground.clear();
}

#[test]
fn probes_and_strangers_are_others() {
    apart("", 1, || check_others(Ground::new(true)));
    apart("", 2, || check_others(Ground::new(true)));
    apart("", 2, || check_others(Ground::new(false)));
}

/// Two runs, of which one has a process of another user, and the same again as a daemon.
fn check_hidden(mut ground: Ground, files: bool) {
    docker_capabilities();
    ground.start(0, &actor("sleep"));
    assert!(ground.account().others.is_none(), "who is hidden cannot be counted");
    assert_eq!(ground.usage(0).rss.is_some(), files, "without lists of children nobody knows who is not seen");
    let pid = ground.start_as(1, &actor("write-pid user sleep"), true, Some("www-data"));
    ground.trees.started(run(1), "s1.1", pid);
    ground.pid_in("user");
    assert!(std::fs::read(format!("/proc/{pid}/stat")).is_err(), "it is hidden");
    let accounts = ground.account();
    let rss: Vec<bool> = accounts.runs.iter().map(|usage| usage.rss.is_some()).collect();
    assert_eq!(rss, [files, false], "{accounts:?}");
    assert!(accounts.others.is_none());
    // It dies: then nothing is hidden any more.
    kill(pid, libc::SIGKILL);
    until("it is dead", || {
        ground.drain();
        ground.stage.dead.iter().find(|(dead, _)| *dead == pid).map(drop)
    });
    let left: Vec<_> = ground.account().runs.iter().map(|usage| (usage.run, usage.rss.is_some())).collect();
    assert_eq!(left, if files { vec![(run(0), true)] } else { vec![(run(0), false), (run(1), false)] });
    // An orphan that is not seen may be anybody's.
    let stranger = ground.start_as(1, &actor("write-pid other sleep"), false, Some("www-data"));
    ground.pid_in("other");
    assert_eq!(ground.usage(0).rss, None);
    kill(stranger, libc::SIGKILL);
    ground.clear();
}

#[test]
fn what_is_hidden_is_not_known() {
    // Whoever is in the group sees everything all the same, and root would be in group 0.
    for how in ["hidepid=2,gid=4242", "hidepid=1,gid=4242", "hidepid=4"] {
        apart(how, 1, || check_hidden(Ground::new(true), true));
        apart(how, 2, || check_hidden(Ground::new(false), false));
    }
}

#[test]
fn without_descriptors_nothing_is_known_and_nothing_is_made_up() {
    in_both_ways(|ground| {
        ground.start(0, &actor("child write-pid a sleep end sleep"));
        ground.pid_in("a");
        assert_eq!(ground.rss(0).processes, 2);
        let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let accounts = ground.account();
        setrlimit(Resource::RLIMIT_NOFILE, before, hard).unwrap();
        assert_eq!(accounts.runs.iter().map(|usage| (usage.run, usage.rss)).collect::<Vec<_>>(), [(run(0), None)]);
        assert_eq!(accounts.others, None);
        assert_eq!(ground.rss(0).processes, 2);
    });
}

#[test]
fn a_storm_of_programs_is_counted_as_it_goes() {
    in_both_ways(|ground| {
        let leader = ground.start(0, &["/bin/sh", "-c", "while :; do /bin/true; /bin/true | /bin/true; done"].map(Into::into));
        for _ in 0..300 {
            ground.drain();
            let usage = ground.usage(0);
            let rss = usage.rss.unwrap();
            assert!((1..8).contains(&rss.processes) && rss.anon < 20 * MB, "{rss:?}");
            assert!(ground.accountant.processes(run(0)).iter().any(|seen| seen.pid == leader));
        }
    });
}

#[test]
fn another_namespaces_proc_tells_nothing() {
    apart("", 2, || {
        // SAFETY: numbers only; this process has one thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        alone(|| {
            let mut ground = Ground::new(true);
            ground.start(0, &actor("sleep"));
            let accounts = ground.account();
            assert_eq!(accounts.runs.iter().map(|usage| (usage.run, usage.rss)).collect::<Vec<_>>(), [(run(0), None)]);
            assert_eq!(accounts.others, None);
        });
    });
}

#[test]
fn what_a_run_holds_is_what_its_processes_tell() {
    in_both_ways(|ground| {
        let code =
            "data = b'x' * (30 << 20)\nshared = mmap.mmap(-1, 20 << 20)\nshared.write(b'y' * (20 << 20))\nos.fork() or time.sleep(1000)";
        let leader = ground.start(0, &python(code, "ready"));
        ground.pid_in("ready");
        let child = ground.pids(0).into_iter().find(|&pid| pid != leader).unwrap();
        // The child has its first steps to make.
        let both = || [leader, child].map(|pid| ["RssAnon", "VmPTE"].map(|key| status_of(pid, key)));
        let mut before = both();
        let usage = until("both are at rest", || {
            let usage = ground.usage(0);
            let after = both();
            (std::mem::replace(&mut before, after) == after).then_some(usage)
        });
        let rss = usage.rss.unwrap();
        assert_eq!(rss.processes, 2);
        let sum = |key: &str| status_of(leader, key) + status_of(child, key);
        assert_eq!((rss.anon, rss.shmem, rss.swap), (sum("RssAnon"), sum("RssShmem"), sum("VmSwap")), "on a kernel that counts exactly");
        assert!((60 * MB..110 * MB).contains(&rss.anon), "{rss:?}");
        assert!((20 * MB..41 * MB).contains(&rss.shmem), "the child maps it and has read nothing of it: {rss:?}");
        assert_eq!(rss.kernel, sum("VmPTE") + 2 * 16384);
        let of = |pid| status_of(pid, "RssAnon") + status_of(pid, "RssShmem") + status_of(pid, "VmSwap");
        assert_eq!(rss.largest, of(leader).max(of(child)));
        assert_eq!(usage.top.len(), 2);
        assert_eq!((usage.top[0].pid, usage.top[0].bytes, &*usage.top[0].name), (leader, of(leader), "python3"));
        assert!(usage.top[0].bytes >= usage.top[1].bytes);
        assert!(!usage.snapshot, "its parent is small");
    });
}

#[test]
fn the_three_largest_are_named() {
    in_both_ways(|ground| {
        let code = "for n in (1, 9, 5, 3, 7):\n  if os.fork() == 0:\n    data = b'x' * (n * 8 << 20)\n    open('/proc/self/comm', 'w').write(f'a\\n) {n}')\n    open(str(n), 'w').write('1')\n    time.sleep(1000)";
        ground.start(0, &python(code, "ready"));
        for file in ["1", "3", "5", "7", "9", "ready"] {
            ground.pid_in(file);
        }
        let top = ground.usage(0).top;
        let names: Vec<&str> = top.iter().map(|process| &*process.name).collect();
        assert_eq!(names, ["a\\n) 9", "a\\n) 7", "a\\n) 5"]);
    });
}
