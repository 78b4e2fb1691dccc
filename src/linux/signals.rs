//! The signals sent to firstmate itself.
//!
//! All are blocked and read from a signalfd, so there is no handler, nothing is interrupted, and the sender is known. A blocked
//! signal also reaches PID 1: the kernel drops a signal whose action is the default only after asking whether it is blocked
//! (`sig_ignored` in kernel/signal.c: "Blocked signals are never ignored"), so that PID 1's protection from signals it has no
//! handler for (see "Notes" in kill(2)) does not apply.
//!
//! Left alone are those the processor raises (SEGV, BUS, FPE, ILL, TRAP, SYS) and ABRT: blocked, they would kill without a word.
//! Nothing is ever restored here, because [`super::spawn`] gives each child an empty mask and default actions.
//!
//! Standard signals coalesce: one CHLD may stand for any number of dead children.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::{SigHandler, Signal as NixSignal};

use crate::engine::Signal;
use crate::engine::signal::SIGRTMAX;

/// Bytes of the kernel's own signal set: one bit for each of 64 signals.
const SET_BYTES: usize = size_of::<u64>();

/// What a signal to firstmate means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A child may have ended: drain [`super::reap::Reaper`].
    ChildEnded,
    /// Stop everything, in order.
    Stop,
    /// Read the file again.
    Update,
    /// For the single program of `firstmate -- CMD`; nothing otherwise.
    Forward,
    /// Of no interest to anyone.
    Ignore,
    /// Not blocked and never received: the kernel's, or raised by firstmate's own fault.
    Untouched,
}

impl Meaning {
    /// The one table of what each signal means.
    #[must_use]
    pub fn of(signal: Signal) -> Self {
        match signal.number() {
            libc::SIGCHLD => Self::ChildEnded,
            // 37 is SIGRTMIN+3, "halt" as systemd-nspawn and podman send it. QUIT is the STOPSIGNAL that the official nginx and php
            // images hand down to whatever is built on them, PWR is how LXC asks for a shutdown.
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGPWR | 37 => Self::Stop,
            libc::SIGHUP => Self::Update,
            // Writing to a closed pipe is an error value; a background job may read and write its terminal.
            libc::SIGPIPE | libc::SIGTTIN | libc::SIGTTOU => Self::Ignore,
            libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP | libc::SIGSYS | libc::SIGABRT => Self::Untouched,
            // 32 and 33 are the C library's own.
            libc::SIGKILL | libc::SIGSTOP | 32 | 33 => Self::Untouched,
            _ => Self::Forward,
        }
    }
}

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Who sent it; `None` when the kernel did, or somebody outside this PID namespace (docker stop).
    pub sender_pid: Option<u32>,
    /// The sender's real uid; 0 when the kernel sent it or the sender's uid has no number in this user namespace.
    pub sender_uid: u32,
    /// Not sent by a process: a terminal's Ctrl-C, the death of a child.
    pub from_kernel: bool,
}

/// The stream of signals. There is one per program, made before anything is spawned.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks every signal firstmate has a [`Meaning`] for on this thread, and begins to queue them. Threads made later inherit the
    /// mask; call it while there is one.
    ///
    /// # Errors
    /// No file descriptor is left, or no memory.
    pub fn new() -> io::Result<Self> {
        // An ignored SIGCHLD, inherited from whoever started firstmate, would make the kernel reap our children and lose how they
        // ended (see "Notes" in wait(2)).
        // SAFETY: no handler is installed, only the default action.
        unsafe { nix::sys::signal::signal(NixSignal::SIGCHLD, SigHandler::SigDfl) }?;
        // The system calls and not their wrappers: musl keeps signal 34 for itself and refuses it in a set, but to container runtimes
        // 34 is SIGRTMIN.
        let set = blocked();
        // SAFETY: `set` is a kernel signal set of the size given; no old set is asked for.
        if unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const set, std::ptr::null::<u64>(), SET_BYTES) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; -1 asks for a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set, SET_BYTES, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
            Ok(fd) if fd >= 0 => Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The next signal; `None` when there is none at present.
    ///
    /// # Errors
    /// None that read(2) documents for a signalfd.
    pub fn read(&mut self) -> io::Result<Option<Received>> {
        loop {
            let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: `info` has room for `size` bytes.
            let got = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if got == -1 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR) => continue,
                    Some(_) | None => return Err(error),
                }
            }
            // SAFETY: zeroed before, and plain numbers in every pattern of bits.
            let info = unsafe { info.assume_init() };
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(Signal::from_number) else { return Ok(None) };
            // See sigaction(2), si_code: values above 0 are the kernel's own, the others say which call a process used.
            let from_kernel = info.ssi_code > 0;
            return Ok(Some(Received {
                signal,
                sender_pid: (!from_kernel && info.ssi_pid != 0).then_some(info.ssi_pid),
                sender_uid: info.ssi_uid,
                from_kernel,
            }));
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Every signal that is not [`Meaning::Untouched`], as the kernel writes a set: signal n is bit n - 1.
fn blocked() -> u64 {
    (1..=SIGRTMAX)
        .filter_map(Signal::from_number)
        .filter(|&signal| Meaning::of(signal) != Meaning::Untouched)
        .filter_map(|signal| u32::try_from(signal.number().saturating_sub(1)).ok())
        .fold(0, |set, bit| set | 1_u64.wrapping_shl(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(name: &str) -> Meaning {
        Meaning::of(Signal::parse(name).unwrap())
    }

    #[test]
    fn each_signal_has_the_meaning_the_manual_gives_it() {
        for (name, expected) in [
            ("TERM", Meaning::Stop),
            ("INT", Meaning::Stop),
            ("QUIT", Meaning::Stop),
            ("PWR", Meaning::Stop),
            ("RTMIN+3", Meaning::Stop),
            ("HUP", Meaning::Update),
            ("CHLD", Meaning::ChildEnded),
            ("USR1", Meaning::Forward),
            ("USR2", Meaning::Forward),
            ("WINCH", Meaning::Forward),
            ("CONT", Meaning::Forward),
            ("RTMIN", Meaning::Forward),
            ("RTMAX", Meaning::Forward),
            ("PIPE", Meaning::Ignore),
            ("TTOU", Meaning::Ignore),
            ("SEGV", Meaning::Untouched),
            ("ABRT", Meaning::Untouched),
            ("KILL", Meaning::Untouched),
            ("STOP", Meaning::Untouched),
            ("32", Meaning::Untouched),
        ] {
            assert_eq!(meaning(name), expected, "{name}");
        }
    }
}
