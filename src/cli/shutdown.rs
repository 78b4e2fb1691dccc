//! `firstmate shutdown`: stop everything, in order, and wait until the supervisor is gone.

use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::client;
use super::output::{Failure, out};
use super::stream::duration_argument;
use super::verbs;
use crate::server::{Reply, SocketPath, printable};

/// For the request itself, which is answered at once.
const ASKING: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "\
Exit codes:
  0    the supervisor is gone
  1    it refused, or was not gone in time
  2    the arguments are wrong
  4    no firstmate answers
  137  this command itself was killed: the end of a container's PID 1 takes everything in it along";

/// Stop everything in order and wait until firstmate is gone
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct ShutdownArgs {
    /// Wait at most so long (10s, 2m); a bare number is seconds. It goes on all the same
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration_argument)]
    timeout: Duration,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &ShutdownArgs) -> Result<u8, Failure> {
    let now = Instant::now();
    let deadline = now.checked_add(args.timeout).unwrap_or(now + Duration::from_secs(366 * 86400));
    // Who does not wait for the end asks for it all the same.
    let connection = client::connect(args.socket.socket.as_deref(), Some(deadline.max(now + ASKING)))?;
    let (socket, pid) = (connection.socket.clone(), connection.pid);
    // Opened before the request, so that the pid cannot be another process's by then.
    let process = pid.and_then(pidfd);
    match verbs::ask(connection, "/v1/shutdown") {
        Ok(Reply::Done { .. }) => {}
        Ok(Reply::Failed { why } | Reply::Refused { why }) => {
            return Err(Failure::new(1, format!("cannot shut down: {}", printable(&why))));
        }
        Ok(Reply::UnknownName { .. }) => {
            return Err(Failure::new(1, format!("cannot shut down: the firstmate on {socket} asks for a name")));
        }
        Ok(Reply::Update { .. } | Reply::BadFile { .. }) => return Err(verbs::strange()),
        Err(failure) => {
            // It may be gone before its answer has left.
            if !wait(process.as_ref(), &socket, Instant::now()) {
                return Err(failure);
            }
        }
    }
    if wait(process.as_ref(), &socket, deadline) {
        out("firstmate: stopped\n");
        return Ok(0);
    }
    Err(Failure::new(1, format!("firstmate is still stopping after {} s", args.timeout.as_secs_f64()))
        .help("`firstmate status` says what it waits for"))
}

/// See pidfd_open(2); `None` before Linux 5.3 or where a filter forbids it.
fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags by value and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether the supervisor is gone by the deadline: its process has ended, or, where that cannot be watched, its socket is dead.
fn wait(process: Option<&OwnedFd>, socket: &SocketPath, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = match process {
            Some(process) => {
                // A pidfd is readable once the process has ended.
                let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
                match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                    Ok(0) => Ok(false),
                    Ok(_) => Ok(true),
                    Err(errno) => Err(errno),
                }
            }
            None if socket.connect(None).is_err() => Ok(true),
            None => poll(&mut [], PollTimeout::try_from(left.min(Duration::from_millis(50))).unwrap_or(PollTimeout::ZERO)).map(|_| false),
        };
        if result == Ok(true) {
            return true;
        }
        if deadline <= Instant::now() {
            return false;
        }
    }
}
