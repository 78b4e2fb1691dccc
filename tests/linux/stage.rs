//! What the process tests share: a stage on which real children act.
//!
//! Each test adopts orphans and waits for any child, so each needs a process of its own: run them with cargo-nextest. `cargo test`
//! would run them as threads of one process, and [`Stage::new`] fails there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use firstmate::engine::capability::Rights;
use firstmate::engine::{LaunchError, Outcome};
use firstmate::linux::reap::Reaper;
use firstmate::linux::spawn::{self, Environment, LaunchProgress, OomScoreAdj, Placement, Request, Spawned, Stdio};

/// Nothing here takes long; a condition that does not hold by then never will.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Stage {
    pub reaper: Reaper,
    pub env: Environment,
    /// Children that have died, in that order.
    pub dead: Vec<(u32, Outcome)>,
}

impl Stage {
    pub fn new() -> Self {
        assert!(std::env::var_os("NEXTEST").is_some(), "each of these tests needs a process of its own: run `cargo nextest run`");
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests start programs as other users: run them as root");
        let mut env = Environment::default();
        env.set(OsStr::new("PATH"), OsStr::new("/usr/bin:/bin")).unwrap();
        Self { reaper: Reaper::adopt_orphans().unwrap(), env, dead: Vec::new() }
    }

    /// Starts and sees to the end of it: what it wrote, and how it ended.
    pub fn play(&mut self, request: &Request<'_>) -> Result<(String, Outcome), LaunchError> {
        let spawned = spawn::spawn(request)?;
        let launched = launched(&spawned);
        let output = spawned.stdout.map(read_all).unwrap_or_default() + &spawned.stderr.map(read_all).unwrap_or_default();
        let outcome = self.outcome_of(spawned.pid);
        match launched {
            Ok(()) => Ok((output, outcome)),
            Err(error) => {
                assert_eq!(outcome, Outcome::Exited(127), "a child that failed to launch ends by itself");
                Err(error)
            }
        }
    }

    /// Reaps whoever is dead at present.
    pub fn drain(&mut self) {
        while let Some(dead) = self.reaper.peek().unwrap() {
            self.dead.push((dead.pid(), dead.outcome().clone()));
            dead.reap();
        }
    }

    pub fn outcome_of(&mut self, pid: u32) -> Outcome {
        until("the child ends", || {
            self.drain();
            self.dead.iter().find(|(dead, _)| *dead == pid).map(|(_, outcome)| outcome.clone())
        })
    }
}

/// Runs the act in a forked process: there it is the only thread, and leads neither group nor session.
pub fn alone(act: impl FnOnce() + std::panic::UnwindSafe) {
    // SAFETY: the other thread of this process only waits for this one, so it holds no lock.
    let pid = unsafe { libc::fork() };
    assert_ne!(pid, -1);
    if pid == 0 {
        let code = if std::panic::catch_unwind(act).is_ok() { 0 } else { 1 };
        // SAFETY: nothing of the parent's is to be run or flushed twice.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: a valid pointer; a child of ours.
    let waited = unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, 0, 0) };
    assert_eq!((waited, status), (i64::from(pid), 0), "what went wrong is told above");
}

/// A request that asks for nothing special.
pub fn plain<'a>(argv: &'a [OsString], env: &'a Environment) -> Request<'a> {
    Request {
        argv,
        env,
        working_dir: Path::new("/"),
        user: None,
        group: None,
        umask: None,
        nice: None,
        oom_score_adj: OomScoreAdj::Inherited,
        rights: Rights::default(),
        limits: &[],
        stdio: Stdio::Pipes,
        placement: Placement::Session,
        cgroup: None,
        notify_fd: None,
    }
}

pub fn words(text: &str) -> Vec<OsString> {
    text.split(' ').map(OsString::from).collect()
}

/// The command of the actor with this script.
pub fn actor(script: &str) -> Vec<OsString> {
    let mut argv = vec![actor_path().into_os_string()];
    argv.extend(words(script));
    argv
}

/// Where cargo puts it.
pub fn actor_path() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join("examples/actor");
    assert!(path.exists(), "{} is missing: run `cargo build --example actor`", path.display());
    path
}

/// Waits until `condition` gives something.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "in vain: until {what}");
        // SAFETY: no descriptors; a millisecond of politeness between two looks.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
    }
}

pub fn launched(spawned: &Spawned) -> Result<(), LaunchError> {
    until("the launch is decided", || match spawn::read_launch(spawned.launch.as_fd()) {
        LaunchProgress::Pending => None,
        LaunchProgress::Executed => Some(Ok(())),
        LaunchProgress::Failed(error) => Some(Err(error)),
    })
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut pipe = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    until("the output ends", || {
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => Some(()),
            Ok(n) => {
                bytes.extend_from_slice(&buffer[..n]);
                None
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    });
    String::from_utf8(bytes).unwrap()
}

/// The fields of /proc/self/status that `grep` prints.
pub fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}
