//! `firstmate -- CMD ARG...`: tini's job. Runs one program on firstmate's own standard streams, forwards signals to it, reaps orphans,
//! and exits as it did.
//!
//! It needs no runtime: one poll(2) on the signal descriptor and the launch pipe.

use std::ffi::OsString;
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::environment::handed_on;
use super::setup::cannot_run;
use crate::engine::capability::Rights;
use crate::engine::{LaunchError, Outcome};
use crate::linux::footprint::unmap_start_code;
use crate::linux::reap::Reaper;
use crate::linux::signals::{Meaning, Received, Signals};
use crate::linux::spawn::{self, LaunchProgress, OomScoreAdj, Placement, Request, Stdio};

/// Runs one program. Returns its exit code, 128 + signal, or 126 and 127 when it cannot be executed, as a shell would.
#[must_use]
pub fn run_single(argv: &[OsString]) -> u8 {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return cannot_run("receive signals", &error),
    };
    let mut reaper = match Reaper::adopt_orphans() {
        Ok(reaper) => reaper,
        Err(error) => return cannot_run("become the parent of orphans", &error),
    };
    let working_dir = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let spawned = spawn::spawn(&Request {
        argv,
        env: &handed_on(),
        working_dir: &working_dir,
        user: None,
        group: None,
        umask: None,
        nice: None,
        oom_score_adj: OomScoreAdj::Inherited,
        rights: Rights::default(),
        limits: &[],
        stdio: Stdio::Inherit,
        placement: Placement::Foreground,
        cgroup: None,
        notify_fd: None,
    });
    let spawned = match spawned {
        Ok(spawned) => spawned,
        Err(error) => return failed(error),
    };
    let mut launch = Some(spawned.launch);
    let mut failure = None;
    unmap_start_code();
    loop {
        let mut waited = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(launch) = &launch {
            waited.push(PollFd::new(launch.as_fd(), PollFlags::POLLIN));
        }
        // EINTR cannot come, since every signal with a meaning is blocked; whatever else is wrong shows at the next read.
        let _ = poll(&mut waited, PollTimeout::NONE);
        drop(waited);
        if let Some(pipe) = &launch {
            match spawn::read_launch(pipe.as_fd()) {
                LaunchProgress::Pending => {}
                LaunchProgress::Executed => launch = None,
                LaunchProgress::Failed(error) => {
                    failure = Some(error);
                    launch = None;
                }
            }
        }
        let mut child_ended = false;
        loop {
            match signals.read() {
                Ok(Some(received)) => match Meaning::of(received.signal) {
                    Meaning::ChildEnded => child_ended = true,
                    Meaning::Stop | Meaning::Update | Meaning::Forward => forward(&received, spawned.pid),
                    Meaning::Ignore | Meaning::Untouched => {}
                },
                Ok(None) => break,
                Err(error) => return cannot_run("read signals", &error),
            }
        }
        if !child_ended {
            continue;
        }
        loop {
            match reaper.peek() {
                Ok(Some(dead)) => {
                    let ours = (dead.pid() == spawned.pid).then(|| dead.outcome().clone());
                    dead.reap();
                    if let Some(outcome) = ours {
                        return match failure {
                            Some(error) => failed(error),
                            None => code(&outcome),
                        };
                    }
                }
                Ok(None) => break,
                Err(error) => return cannot_run("wait for children", &error),
            }
        }
    }
}

fn forward(received: &Received, pid: u32) {
    // The program leads the terminal's foreground group, so what the terminal sends has reached it already.
    if received.from_kernel {
        return;
    }
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: no memory is involved. The call is made directly because nix has no real-time signals. The child is not reaped, so
        // the pid is its own.
        unsafe { libc::kill(Pid::from_raw(pid).as_raw(), received.signal.number()) };
    }
}

fn failed(error: LaunchError) -> u8 {
    eprintln!("error: cannot start the program: {error}");
    code(&Outcome::SpawnFailed(error))
}

fn code(outcome: &Outcome) -> u8 {
    u8::try_from(outcome.exit_code().clamp(0, 255)).unwrap_or(u8::MAX)
}
