//! The real binary over a real file, and what a test can see of it from outside.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use firstmate::engine::status::{InstanceStatus, StateName, Status};

use super::processes::{self, Process};
use super::sandbox::{PATIENCE, Sandbox, until, within};

/// `$FIRSTMATE_BINARY`, the one that ships, else the one cargo has built for the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("FIRSTMATE_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_firstmate")), PathBuf::from)
}

pub struct Firstmate {
    /// `unshare`, which waits for firstmate.
    child: Child,
    /// firstmate's pid as the test sees it.
    pub pid: i32,
    pub socket: PathBuf,
    log: PathBuf,
    ended: bool,
}

impl Firstmate {
    /// Starts the file as PID 1 of a PID namespace and a mount namespace, in which the shell text `mounts` is run first.
    pub fn start(sandbox: &Sandbox, file: &Path, mounts: &str) -> Self {
        Self::start_with_socket(sandbox, file, mounts, sandbox.path().join("firstmate.sock"))
    }

    pub fn start_with_socket(sandbox: &Sandbox, file: &Path, mounts: &str, socket: PathBuf) -> Self {
        let mut logs = (1..).map(|number| sandbox.path().join(format!("log.{number}")));
        let log = logs.find(|log| !log.exists()).unwrap();
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new("unshare");
        command
            .args([
                "--pid",
                "--mount",
                "--mount-proc",
                "--fork",
                "--kill-child",
                "--",
                "sh",
                "-euc",
                &format!("{mounts}\nexec \"$@\""),
                "sh",
            ])
            .arg(binary())
            .args(["start", "-f"])
            .arg(file)
            .arg("--socket")
            .arg(&socket)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                // A test that dies takes the whole namespace with it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        let mut child = command.spawn().unwrap();
        let outer = i32::try_from(child.id()).unwrap();
        let pid = until("firstmate is PID 1", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("firstmate is gone with {status}:\n{}", std::fs::read_to_string(&log).unwrap());
            }
            let below = processes::below(outer);
            below
                .iter()
                .find(|process| process.inner == 1 && process.name == "firstmate")
                .map(|process| process.pid)
                .ok_or(format!("{below:?}"))
        });
        Self { child, pid, socket, log, ended: false }
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// What it said itself, in order.
    pub fn said(&self) -> Vec<String> {
        said(&self.log())
    }

    pub fn wait_until_said(&self, beginning: &str) {
        until(beginning, || if self.said().iter().any(|text| text.starts_with(beginning)) { Ok(()) } else { Err(self.log()) });
    }

    /// A subcommand, over the socket.
    pub fn ask(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(binary()).args(words).arg("--socket").arg(&self.socket).env_clear().output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    }

    pub fn status(&self) -> Result<Status, String> {
        let (code, text) = self.ask(&["status", "--json"]);
        serde_json::from_str(&text).map_err(|error| format!("{code:?} {error}: {text}"))
    }

    pub fn instance(&self, name: &str) -> Result<InstanceStatus, String> {
        let instances = self.status()?.services.into_iter().flat_map(|service| service.instances);
        instances.into_iter().find(|instance| instance.name == name).ok_or_else(|| format!("there is no {name}"))
    }

    /// The main process of an instance.
    pub fn leader(&self, name: &str) -> Result<Process, String> {
        let inner = self.instance(name)?.pid.ok_or_else(|| format!("{name} has no process"))?;
        let below = processes::below(self.pid);
        below.into_iter().find(|process| process.inner == inner && process.parent == self.pid).ok_or_else(|| format!("{name} is gone"))
    }

    /// Waits until everything is up and ready, or completed.
    pub fn wait_until_well(&self) -> Status {
        until("all is well", || {
            let status = self.status().map_err(|why| why + &self.log())?;
            let instances = status.services.iter().flat_map(|service| &service.instances);
            let bad: Vec<_> = instances.filter(|instance| !instance.ready && instance.state != StateName::Completed).collect();
            if bad.is_empty() && status.ready { Ok(status) } else { Err(format!("{bad:#?}\n{}", self.log())) }
        })
    }

    /// Waits until there is no process but those of the present runs: no zombie, nobody of a run that is over.
    pub fn wait_until_tidy(&self) {
        until("only present runs have processes", || {
            let status = self.status()?;
            let below = processes::below(self.pid);
            let mut leaders = BTreeMap::new();
            for instance in status.services.iter().flat_map(|service| &service.instances) {
                let Some(pid) = instance.pid else { continue };
                let leader = below.iter().find(|process| process.inner == pid && process.parent == self.pid);
                let leader = leader.ok_or_else(|| format!("{} is gone", instance.name))?;
                leaders.insert(leader.pid, format!(":{}:{}", instance.name, instance.run));
            }
            for process in &below {
                // PostgreSQL's backends have sessions of their own.
                let owner = leaders.get(&process.session).or_else(|| leaders.get(&process.parent));
                let Some(run) = owner else { return Err(format!("whose is {process:?}?")) };
                if process.zombie || process.run.as_ref().is_some_and(|marker| !marker.ends_with(run)) {
                    return Err(format!("{process:?} is left, beside {leaders:?}"));
                }
            }
            Ok(())
        });
    }

    /// SIGKILL to the instance's main process. Waits for the next run, and sees to it that nothing of this one is left by then.
    pub fn kill_and_see_it_replaced(&self, name: &str) {
        let old = until(name, || self.leader(name));
        let run = until(name, || self.instance(name)).run;
        let below = || processes::below(self.pid).into_iter();
        let children: Vec<_> = below().filter(|process| process.parent == old.pid).map(|process| process.pid).collect();
        processes::kill(old.pid, libc::SIGKILL);
        until("the next run", || {
            let instance = self.instance(name)?;
            if instance.run == run || instance.pid.is_none() { Err(format!("{instance:?}")) } else { Ok(()) }
        });
        let left: Vec<_> = below().filter(|process| process.session == old.session || children.contains(&process.pid)).collect();
        assert_eq!(left, [], "the next run of {name} began too early");
    }

    pub fn signal(&self, signal: i32) {
        processes::kill(self.pid, signal);
    }

    /// Its end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let status = within(patience, "firstmate is gone", || self.child.try_wait().unwrap().ok_or_else(|| self.log()));
        self.ended = true;
        status
    }

    /// SIGTERM and its end; how long it took.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.signal(libc::SIGTERM);
        let status = self.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", self.log());
        start.elapsed()
    }
}

impl Drop for Firstmate {
    fn drop(&mut self) {
        if !self.ended {
            if std::thread::panicking() {
                eprintln!("{}", self.log());
            }
            // With PID 1 everything in its namespace goes. To be sure it is told itself: one that has become another user has lost the signal
            // that its parent's death would send; see PR_SET_PDEATHSIG in prctl(2). Only `unshare` waits for it, so that as long as it is a
            // child there the pid is its own.
            let outer = self.child.id();
            let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
            if children.split_whitespace().any(|child| child.parse() == Ok(self.pid)) {
                // SAFETY: no memory is involved.
                unsafe { libc::kill(self.pid, libc::SIGKILL) };
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// firstmate's own words in a log, in order.
pub fn said(log: &str) -> Vec<String> {
    let own = |line: &str| {
        let (head, text) = line.split_once(" | ")?;
        head.split(' ').nth(1).filter(|name| *name == "firstmate").map(|_| text.to_owned())
    };
    log.lines().filter_map(own).collect()
}

/// Sees to it that firstmate said these, each after the one before.
pub fn assert_order(said: &[String], beginnings: &[&str]) {
    let mut rest = said.iter();
    for beginning in beginnings {
        assert!(rest.any(|text| text.starts_with(beginning)), "`{beginning}` was not said, or too early:\n{}", said.join("\n"));
    }
}
