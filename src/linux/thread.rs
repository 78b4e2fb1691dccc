//! Threads beside the one that has the loop.

use std::io;
use std::thread::{Builder, Thread};

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// Starts a thread that is never joined: it may be stuck for as long as a disk or another process likes, and ends by itself or with the
/// process. Signals are for the thread that has the loop, so the new one starts with all of them blocked.
///
/// # Errors
/// EAGAIN when there may be no more threads; see `pthread_create(3)`.
pub fn start(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let started = Builder::new().name(name.to_owned()).stack_size(stack).spawn(work);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(started?.thread().clone())
}
