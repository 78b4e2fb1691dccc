//! One timer as a descriptor, exact to the microsecond: the memory guard may have milliseconds.
//!
//! tokio's own timers are rounded up to whole milliseconds and wake up twice for a long sleep; see timerfd_create(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Becomes readable at the time it was set to.
#[derive(Debug)]
pub struct Alarm {
    timer: TimerFd,
}

impl Alarm {
    /// Not set to any time yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; see timerfd_create(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)? })
    }

    /// Sets it, instead of to any time before; a wait of nothing is over at once.
    pub fn set(&self, wait: Duration) {
        // Zero would switch it off.
        let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
        // It fails only for times that cannot be, such as negative ones.
        let _ = self.timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty());
    }

    /// Not readable any more.
    pub fn clear(&self) {
        // `wait` is a read, which cannot block: EAGAIN means that it was not readable.
        let _ = self.timer.wait();
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
