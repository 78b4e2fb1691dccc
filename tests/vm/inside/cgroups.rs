//! `linux::memory::delegated` at work: each scenario is a process of its own, PID 1 of a container with a limit, and prints what it finds as
//! lines `name=value`, which the test outside judges.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use firstmate::engine::capability::Rights;
use firstmate::engine::spec::ServiceId;
use firstmate::engine::{InstanceId, RunId};
use firstmate::linux::memory::delegated::Cgroups;
use firstmate::linux::memory::limit::{Files, Watch};
use firstmate::linux::spawn::{self, Environment, OomScoreAdj, Placement, Request, Spawned, Stdio};

use crate::Failure;

const PATIENCE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// Waits for a condition.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn run_id(service: usize, run: u32) -> RunId {
    RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: numbers only.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

/// How a child ended, if it has: 128 + n for signal n. It is reaped.
fn ended(pid: u32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: room for a status.
    let got = unsafe { libc::waitpid(i32::try_from(pid).unwrap(), &raw mut status, libc::WNOHANG) };
    (got > 0).then(|| if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
}

/// Reaps whatever there is, as PID 1 does.
fn reap_all() {
    // SAFETY: no status is wanted.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// A container with cgroups for its runs.
struct Stand {
    cgroups: Cgroups,
    env: Environment,
}

impl Stand {
    fn new() -> Result<Self, Failure> {
        let cgroups = Cgroups::set_up(&Files::default())?;
        let mut env = Environment::default();
        env.set("PATH".as_ref(), "/bin".as_ref()).unwrap();
        Ok(Self { cgroups, env })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cgroups.container().join(name)
    }

    fn spawn(&self, command: &str, cgroup: Option<BorrowedFd<'_>>) -> u32 {
        let spawned = self.fork(command, cgroup);
        until("the program runs", || spawn::read_launch(spawned.launch.as_fd()) != spawn::LaunchProgress::Pending);
        spawned.pid
    }

    fn fork(&self, command: &str, cgroup: Option<BorrowedFd<'_>>) -> Spawned {
        let argv: Vec<OsString> = shlex::split(command).unwrap().into_iter().map(OsString::from).collect();
        let request = Request {
            argv: &argv,
            env: &self.env,
            working_dir: Path::new("/tmp"),
            user: None,
            group: None,
            umask: None,
            nice: None,
            oom_score_adj: OomScoreAdj::Inherited,
            rights: Rights::default(),
            limits: &[],
            stdio: Stdio::Inherit,
            placement: Placement::Session,
            cgroup,
            notify_fd: None,
        };
        spawn::spawn(&request).unwrap()
    }

    /// Starts this in a cgroup of its own.
    fn start(&mut self, run: RunId, name: &str, command: &str) -> u32 {
        let directory = self.cgroups.create(run, name).unwrap();
        let pid = self.spawn(command, Some(directory.as_fd()));
        assert_eq!(self.cgroups.joined(run, pid), Some(true), "{name} is in its cgroup");
        pid
    }
}

fn show(name: &str, value: impl std::fmt::Display) {
    println!("{name}={value}");
}

fn membership(pid: impl std::fmt::Display) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default().trim().to_owned()
}

pub fn play(scenario: &str) -> Result<ExitCode, Failure> {
    match scenario {
        "set-up" => set_up()?,
        "again" => again()?,
        "usage" => usage()?,
        "brake" => brake()?,
        "kill" => end_all()?,
        "oom" => oom()?,
        "hidden" => hidden()?,
        "limit" => limit()?,
        "pace" => pace()?,
        _ => return Err(format!("there is no scenario `{scenario}`").into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Everybody moves, and the runs are where they belong.
fn set_up() -> Result<(), Failure> {
    let beside = std::process::Command::new("sleep").arg("1000").spawn()?.id();
    let mut stand = Stand::new()?;
    show("root", stand.cgroups.container().display());
    show("own", membership("self"));
    show("beside", membership(beside));
    show("handed-down", std::fs::read_to_string(stand.path("cgroup.subtree_control"))?.trim());
    let run = run_id(0, 1);
    let pid = stand.start(run, "web.1", "sh -c 'sleep 1000 & exec sleep 1000'");
    until("both are there", || stand.cgroups.processes(run).len() == 2);
    show("run", membership(pid));
    show("descriptors", std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    for pid in stand.cgroups.processes(run) {
        kill(pid, libc::SIGKILL);
    }
    until("all of it is gone", || {
        reap_all();
        stand.cgroups.processes(run).is_empty()
    });
    stand.cgroups.remove(run);
    show("removed", !stand.path("web.1").exists());
    show("joined-when-removed", stand.cgroups.joined(run, std::process::id()).is_some());
    // A child that does not get there is noticed.
    let run = run_id(0, 2);
    drop(stand.cgroups.create(run, "web.1")?);
    let pid = stand.spawn("sleep 1000", None);
    show("joined-without", stand.cgroups.joined(run, pid).unwrap());
    show("usage-without", stand.cgroups.usage(run, 0).is_some());
    show("left-without", stand.path("web.1").exists());
    // The next one finds this.
    stand.start(run_id(1, 1), "left.1", "sleep 1000");
    drop(stand.cgroups.create(run_id(2, 1), "empty.1")?);
    std::fs::create_dir(stand.path("not-ours"))?;
    Ok(())
}

/// In a container where another firstmate was before.
fn again() -> Result<(), Failure> {
    for directory in ["firstmate.0", "empty.1", "other", "busy.1"] {
        std::fs::create_dir_all(Path::new("/sys/fs/cgroup").join(directory))?;
    }
    std::fs::write("/sys/fs/cgroup/firstmate.0/cgroup.procs", "0")?;
    std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
    let stranger = std::process::Command::new("sleep").arg("1000").spawn()?.id();
    std::fs::write("/sys/fs/cgroup/busy.1/cgroup.procs", stranger.to_string())?;
    let mut stand = Stand::new()?;
    show("root", stand.cgroups.container().display());
    for name in ["empty.1", "busy.1", "other"] {
        show(name, stand.path(name).exists());
    }
    let pid = stand.start(run_id(0, 1), "busy.1", "sleep 1000");
    show("run", membership(pid));
    show("stranger", membership(stranger));
    show("processes", stand.cgroups.processes(run_id(0, 1)).len());
    Ok(())
}

/// What is held is what is said.
fn usage() -> Result<(), Failure> {
    let mut stand = Stand::new()?;
    let (small, anon, shared, lazy) = (run_id(0, 1), run_id(1, 1), run_id(2, 1), run_id(3, 1));
    stand.start(small, "small.1", "sleep 1000");
    stand.start(anon, "anon.1", "leaker plateau size=60MiB");
    stand.start(shared, "shared.1", "leaker tmpfs file=/tmp/held size=30MiB");
    stand.start(lazy, "lazy.1", "leaker lazyfree size=40MiB");
    // Both are at the end of what they do when they hold still.
    let still = |stand: &Stand, run: RunId, least: u64| {
        let mut last = (0, Instant::now());
        until("it holds still", || {
            let now = stand.cgroups.usage(run, u64::MAX).unwrap();
            if now != last.0 {
                last = (now, Instant::now());
            }
            now >= least && last.1.elapsed() > Duration::from_millis(500)
        });
        last.0
    };
    show("small", still(&stand, small, 1));
    show("anon", still(&stand, anon, 60 * MIB));
    show("shared", still(&stand, shared, 30 * MIB));
    // Nobody maps the file, and it outlives who wrote it.
    show("unmapped", stand.cgroups.usage(shared, 0).unwrap());
    show("lazy", still(&stand, lazy, 1));
    std::fs::remove_file("/tmp/held")?;
    Ok(())
}

/// A leaker at full speed is held below the limit until its handler has run.
fn brake() -> Result<(), Failure> {
    let mut stand = Stand::new()?;
    let run = run_id(0, 1);
    let limit: u64 = std::fs::read_to_string(stand.path("memory.max"))?.trim().parse()?;
    let current = || -> u64 { std::fs::read_to_string("/sys/fs/cgroup/memory.current").unwrap().trim().parse().unwrap() };
    for (ending, signal, seconds) in [("exit", libc::SIGTERM, 3), ("default", libc::SIGTERM, 1), ("ignore", libc::SIGKILL, 1)] {
        let pid = stand.start(run, "web.1", &format!("leaker leak rate=max threads=2 term={ending}"));
        until("it is at 75%", || current() >= limit / 4 * 3);
        let began = Instant::now();
        let high = stand.cgroups.brake(run).unwrap();
        show(&format!("{ending}-wrote-ms"), began.elapsed().as_millis());
        show(&format!("{ending}-high"), high * 100 / limit);
        let mut peak = 0;
        while began.elapsed() < Duration::from_secs(seconds) {
            peak = peak.max(current());
            assert_eq!(ended(pid), None, "it lives");
            std::thread::sleep(Duration::from_millis(20));
        }
        show(&format!("{ending}-peak"), peak * 100 / limit);
        let asked = Instant::now();
        kill(pid, signal);
        let mut status = None;
        until("it has ended", || {
            status = ended(pid);
            peak = peak.max(current());
            status.is_some()
        });
        show(&format!("{ending}-took-ms"), asked.elapsed().as_millis());
        show(&format!("{ending}-status"), status.unwrap());
        show(&format!("{ending}-peak-at-end"), peak * 100 / limit);
        stand.cgroups.release(run);
        show(&format!("{ending}-oom"), stand.cgroups.oom_kills(run).unwrap());
        stand.cgroups.remove(run);
    }
    Ok(())
}

/// Processes that hide, and those that are forked at the time.
fn end_all() -> Result<(), Failure> {
    let mut stand = Stand::new()?;
    let (run, other) = (run_id(0, 1), run_id(1, 1));
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; actor daemonise wipe-env ignore-term sleep & while :; do sleep 1000 & usleep 1000; done";
    let pid = stand.start(run, "web.1", &format!("sh -c '{script}'"));
    let spared = stand.start(other, "web.2", "sleep 1000");
    // Some of them come and go, so one look says that there are many and not a second one.
    until("there are many", || stand.cgroups.processes(run).len() > 12);
    let began = Instant::now();
    show("done", stand.cgroups.kill(run));
    let mut status = None;
    until("all are gone", || {
        status = status.or_else(|| ended(pid));
        status.is_some() && stand.cgroups.processes(run).is_empty()
    });
    show("took-ms", began.elapsed().as_millis());
    show("status", status.unwrap());
    reap_all();
    show("spared", Path::new(&format!("/proc/{spared}")).exists());
    show("oom", stand.cgroups.oom_kills(run).unwrap());
    stand.cgroups.remove(run);
    show("removed", !stand.path("web.1").exists());
    Ok(())
}

/// The counters tell whose it was, although the limit is the container's; and nobody else dies although memory.oom.group was set.
fn oom() -> Result<(), Failure> {
    std::fs::write("/sys/fs/cgroup/memory.oom.group", "1")?;
    let mut stand = Stand::new()?;
    show("group-was", stand.cgroups.oom_group_switched_off());
    let (leaking, innocent) = (run_id(0, 1), run_id(1, 1));
    let spared = stand.start(innocent, "innocent.1", "sleep 1000");
    for run in 1..=3 {
        let leaking = RunId { run, ..leaking };
        let pid = stand.start(leaking, "leaking.1", "sh -c 'sleep 1000 & exec leaker leak rate=max'");
        let mut counted = None;
        let mut status = None;
        until("it is killed", || {
            status = ended(pid);
            counted = counted.or_else(|| status.and_then(|_| stand.cgroups.oom_kills(leaking)));
            status.is_some()
        });
        show(&format!("status{run}"), status.unwrap());
        show(&format!("leaking{run}"), counted.unwrap());
        show(&format!("others{run}"), stand.cgroups.processes(leaking).len());
        let _ = stand.cgroups.kill(leaking);
        until("its child is gone", || {
            reap_all();
            stand.cgroups.processes(leaking).is_empty()
        });
        stand.cgroups.remove(leaking);
    }
    show("innocent", stand.cgroups.oom_kills(innocent).unwrap());
    show("spared", ended(spared).is_none());
    Ok(())
}

/// A run that ends and leaves somebody behind whom nothing but the cgroup knows.
fn hidden() -> Result<(), Failure> {
    let mut stand = Stand::new()?;
    let run = run_id(0, 1);
    let pid = stand.start(run, "web.1", "sh -c 'actor daemonise wipe-env ignore-term write-pid /tmp/hidden sleep'");
    until("the hidden one is there", || Path::new("/tmp/hidden").exists());
    until("the main process is gone", || ended(pid).is_some());
    show("left", stand.cgroups.processes(run).len());
    stand.cgroups.remove(run);
    until("the hidden one is gone", || {
        reap_all();
        std::fs::read_to_string(stand.path("web.1/cgroup.procs")).is_ok_and(|left| left.is_empty())
    });
    // The next run gets the name again, with nothing of the last one.
    let pid = stand.start(run_id(0, 2), "web.1", "sleep 1000");
    show("run", membership(pid));
    let made = stand.path("web.1/of-its-own");
    std::fs::create_dir(&made)?;
    show("kill", stand.cgroups.kill(run_id(0, 2)));
    until("it is gone", || ended(pid).is_some());
    stand.cgroups.remove(run_id(0, 2));
    show("nested-removed", !stand.path("web.1").exists());
    Ok(())
}

/// The limit and the counters stay the container's.
fn limit() -> Result<(), Failure> {
    let before = Watch::new(Files::default(), None);
    let mut stand = Stand::new()?;
    let mut after = Watch::new(Files::default(), None);
    show("limit", format!("{:?}", after.visible()));
    show("same-limit", before.visible() == after.visible());
    show("usage", format!("{:?}", after.usage_of()));
    show("same-usage", before.usage_of() == after.usage_of());
    let start = after.counters().oom_kills().unwrap();
    let pid = stand.start(run_id(0, 1), "web.1", "leaker leak rate=max");
    until("it is killed", || ended(pid).is_some());
    show("kills", after.counters().oom_kills().unwrap() - start);
    Ok(())
}

/// What starts cost firstmate, with cgroups and without: microseconds for each, thirty in a row.
fn pace() -> Result<(), Failure> {
    const STARTS: u32 = 30;
    let mut stand = Stand::new()?;
    for (name, wanted) in [("without", false), ("with", true)] {
        let (mut made, mut forked) = (Duration::ZERO, Duration::ZERO);
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut started = Vec::new();
        for number in 1..=STARTS {
            let run = run_id(usize::try_from(number)?, 1);
            let at = Instant::now();
            let directory = wanted.then(|| stand.cgroups.create(run, &format!("web.{number}")).unwrap());
            made += at.elapsed();
            let at = Instant::now();
            started.push((run, stand.fork("sleep 1000", directory.as_ref().map(|directory| directory.as_fd()))));
            forked += at.elapsed();
            slowest = slowest.max(at.elapsed());
        }
        for (_, spawned) in &started {
            until("the program runs", || spawn::read_launch(spawned.launch.as_fd()) != spawn::LaunchProgress::Pending);
        }
        let all = began.elapsed();
        for (_, spawned) in &started {
            kill(spawned.pid, libc::SIGKILL);
        }
        for (_, spawned) in &started {
            until("it is gone", || ended(spawned.pid).is_some());
        }
        let at = Instant::now();
        for (run, _) in &started {
            stand.cgroups.remove(*run);
        }
        let removed = at.elapsed();
        let each = |all: Duration| (all / STARTS).as_micros();
        show(
            name,
            format!(
                "made {} forked {} (slowest {}) all {} removed {}",
                each(made),
                each(forked),
                slowest.as_micros(),
                each(all),
                each(removed)
            ),
        );
    }
    Ok(())
}
