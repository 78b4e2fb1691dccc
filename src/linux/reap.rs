//! Collecting dead children: the only place in firstmate that waits.
//!
//! A dead child is looked at first, handed to the caller while its zombie still pins pid and process group, and reaped when the
//! caller is done with it. Signals coalesce, so one SIGCHLD may stand for thousands: call [`Reaper::peek`] until it returns `None`.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use crate::engine::{Outcome, Signal};

/// The one owner of every wait. Not `Send`: it stays on the thread that spawns.
#[derive(Debug)]
pub struct Reaper {
    not_send: PhantomData<*const ()>,
}

/// A child that has ended and is not reaped yet.
///
/// It is reaped when this value goes, and the reaper shows no other one before: so nobody can reap first and act later, look at
/// two at once, or forget one.
#[derive(Debug)]
#[must_use = "it is reaped at once when it is not looked at"]
pub struct Dead<'reaper> {
    pid: u32,
    outcome: Outcome,
    reaper: PhantomData<&'reaper mut Reaper>,
}

impl Reaper {
    /// Makes this process the parent of every orphan below it. PID 1 is so by nature; any other needs
    /// PR_SET_CHILD_SUBREAPER, see prctl(2).
    ///
    /// # Errors
    /// The kernel is older than 3.4.
    pub fn adopt_orphans() -> io::Result<Self> {
        if std::process::id() != 1 {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        Ok(Self { not_send: PhantomData })
    }

    /// The next dead child; `None` when there is none, be it that all live or that there are no children.
    ///
    /// # Errors
    /// Only what waitid(2) cannot answer with these arguments; a seccomp filter might.
    pub fn peek(&mut self) -> io::Result<Option<Dead<'_>>> {
        Ok(look(libc::P_ALL, 0)?.map(|(pid, outcome)| Dead { pid, outcome, reaper: PhantomData }))
    }
}

/// A dead child, left as it is.
fn look(whom: libc::idtype_t, id: u32) -> io::Result<Option<(u32, Outcome)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a whole siginfo_t; WNOHANG keeps the call from blocking.
    if unsafe { libc::waitid(whom, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) } == -1 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: zeroed before and filled by waitid; for SIGCHLD the pid and status members of the union are the valid ones, and
    // all-zero means that there was no child to report.
    let (info, pid, status) = unsafe {
        let info = info.assume_init();
        (info, info.si_pid(), info.si_status())
    };
    let Some(pid) = u32::try_from(pid).ok().filter(|&pid| pid != 0) else { return Ok(None) };
    // nix and libc's status macros reject real-time signals; siginfo carries the bare number.
    let outcome = match (info.si_code, Signal::from_number(status)) {
        (libc::CLD_KILLED | libc::CLD_DUMPED, Some(signal)) => Outcome::Signaled(signal),
        _ => Outcome::Exited(status),
    };
    Ok(Some((pid, outcome)))
}

impl Dead<'_> {
    /// Nobody else can have this pid, nor this process group id, until the value goes.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended. A child whose launch pipe tells of a failed launch never executed its program: read that pipe first.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// How another child ended, if it has: it stays unreaped, and is shown in its turn.
    #[must_use]
    pub fn also(&self, pid: u32) -> Option<Outcome> {
        // A child that is no more, or never was ours, has no outcome to tell.
        look(libc::P_PID, pid).ok().flatten().map(|(_, outcome)| outcome)
    }

    /// Frees the pid. The same as dropping, by a name that says so.
    pub fn reap(self) {}
}

impl Drop for Dead<'_> {
    fn drop(&mut self) {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is a whole siginfo_t. The child is known to be dead; WNOHANG all the same, since this thread never blocks.
        // It fails only where there is nothing left to reap.
        let _ = unsafe { libc::waitid(libc::P_PID, self.pid, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG) };
    }
}
