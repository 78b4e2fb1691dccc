//! One epoll instance for every descriptor that is not tokio's business: log pipes, launch pipes, firstmate's own stdout.
//!
//! It is itself one descriptor in tokio's reactor, so a hundred services cost tokio nothing, and a pipe costs firstmate nothing
//! but the kernel's registration: no task, no buffer, no waker. Registrations are level-triggered, so a reader may stop after
//! any amount and is told again; the kernel moves a descriptor it reported to the end of its list, so a flood on one
//! pipe cannot keep the others from being reported.
//!
//! The order of arrival needs one thing more, [`Interest::ReadOnce`]: a descriptor once reported stays in the kernel's list, at
//! its old place, until a later wait finds it empty, and what arrives before that wait is reported in that old order.
//!
//! Invariant: tokio is told "not ready" only after an `epoll_wait` that found nothing. tokio listens edge-triggered, and a
//! descriptor that was reported and is still readable makes no new edge.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fmt, io};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest as TokioInterest;
use tokio::io::unix::AsyncFd;

/// The most that one turn reports, so that signals and timers get their turn during a flood.
pub const BATCH: usize = 64;

/// What is waited for on a descriptor. Errors and hang-ups are reported whatever is chosen; see epoll_ctl(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or end of file.
    Read,
    /// As `Read`, but reported once; `modify` with the same interest asks for the next report, which is due at once when there
    /// is more. Descriptors waited for like this are reported in the order in which something arrived at them.
    ReadOnce,
    /// Room to write.
    Write,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::ReadOnce => EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT,
            Self::Write => EpollFlags::EPOLLOUT,
        }
    }
}

/// One descriptor about which there is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The number it was added with.
    pub token: u64,
    /// A read would not block.
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The other end is gone, or the descriptor has an error; a pipe may still hold bytes to be read.
    pub hangup: bool,
}

struct Inner(Epoll);

impl AsRawFd for Inner {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// The epoll instance. Dropping it forgets every registration and closes none of the descriptors.
pub struct Poller {
    epoll: AsyncFd<Inner>,
    /// The last call reported something, so the next one first lets tokio's reactor run.
    hot: AtomicBool,
    waits: AtomicU64,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("fd", &self.epoll.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Poller {
    /// An instance without descriptors, nested into the tokio runtime that is entered.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM (epoll_create1(2)); ENOSPC when the user's watches are used up (epoll_ctl(2)).
    ///
    /// # Panics
    /// Outside a tokio runtime with its I/O driver enabled.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: `Inner` owns its descriptor, gives out the same one each time, and closes it only when dropped.
        let epoll = unsafe { AsyncFd::register_with_interest(Inner(epoll), TokioInterest::READABLE) }?;
        Ok(Self { epoll, hot: AtomicBool::new(false), waits: AtomicU64::new(0) })
    }

    fn inner(&self) -> &Epoll {
        &self.epoll.get_ref().0
    }

    /// Reports news of `fd` under `token` from now on. The caller keeps `fd` and removes it before closing it.
    ///
    /// # Errors
    /// EPERM: a regular file or directory, which is always ready. EEXIST: it is there already. See epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        self.inner().add(fd, EpollEvent::new(interest.flags(), token))
    }

    /// Changes the token or the interest of a descriptor that was added.
    ///
    /// # Errors
    /// ENOENT: it was not added. See epoll_ctl(2).
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        self.inner().modify(fd, &mut EpollEvent::new(interest.flags(), token))
    }

    /// Reports no more news of `fd`; what is already in a batch stays there.
    ///
    /// # Errors
    /// ENOENT: it was not added. See epoll_ctl(2).
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        self.inner().delete(fd)
    }

    /// Replaces `out` by what is ready now, at most [`BATCH`] descriptors in the order in which they became so; empty when
    /// nothing is. Never blocks.
    ///
    /// # Errors
    /// None that epoll_wait(2) documents for a live instance, EINTR excepted, which counts as nothing.
    pub fn try_ready(&self, out: &mut Vec<Ready>) -> Result<(), Errno> {
        out.clear();
        self.waits.fetch_add(1, Ordering::Relaxed);
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.inner().wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        out.extend(events.iter().take(count).map(|event| {
            let flags = event.events();
            Ready {
                token: event.data(),
                readable: flags.contains(EpollFlags::EPOLLIN),
                writable: flags.contains(EpollFlags::EPOLLOUT),
                hangup: flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
            }
        }));
        Ok(())
    }

    /// Waits until something is ready, then as [`Self::try_ready`] and never empty. Sleeps without a single wake-up until then.
    ///
    /// Safe to cancel: nothing is lost, since what was not taken is reported again. Called again at once, it lets tokio's timers
    /// and sockets have a turn first, which `AsyncFd` alone would not.
    ///
    /// # Errors
    /// As [`Self::try_ready`], or when the runtime is shutting down.
    pub async fn ready(&self, out: &mut Vec<Ready>) -> io::Result<()> {
        if self.hot.swap(false, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        loop {
            let mut guard = self.epoll.readable().await?;
            self.try_ready(out)?;
            if !out.is_empty() {
                self.hot.store(true, Ordering::Relaxed);
                return Ok(());
            }
            // An event that comes between the wait above and this line is an edge that tokio has not collected yet: the flag it
            // sets is newer than this guard's, and is not cleared.
            guard.clear_ready();
        }
    }

    /// How often the kernel was asked for news: a measure of wake-ups, which stands still while nothing happens.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(DEADLINE, work).await.expect("something that was due was never reported") })
    }

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn tokens(poller: &Poller) -> Vec<u64> {
        let mut batch = Vec::new();
        timeout(DEADLINE, poller.ready(&mut batch)).await.expect("nothing became ready").unwrap();
        batch.iter().map(|ready| ready.token).collect()
    }

    fn pipes(count: u64, poller: &Poller) -> Vec<(PipeReader, PipeWriter)> {
        (0..count)
            .map(|token| {
                let (reader, writer) = io::pipe().unwrap();
                poller.add(&reader, token, Interest::Read).unwrap();
                (reader, writer)
            })
            .collect()
    }

    #[test]
    fn pipes_are_reported_in_the_order_they_were_written() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(20, &poller);
            let order = [7_u64, 3, 19, 0, 11];
            for token in order {
                pipes[usize::try_from(token).unwrap()].1.write_all(b"x").unwrap();
            }
            assert_eq!(tokens(&poller).await, order);
        });
    }

    #[test]
    fn what_is_left_unread_is_reported_again_and_no_edge_is_lost() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(3, &poller);
            pipes[1].1.write_all(b"xy").unwrap();
            for _ in 0..3 {
                assert_eq!(tokens(&poller).await, [1]);
            }
            let mut one = [0; 1];
            pipes[1].0.read_exact(&mut one).unwrap();
            assert_eq!(tokens(&poller).await, [1]);
            pipes[1].0.read_exact(&mut one).unwrap();
            let mut batch = Vec::new();
            poller.try_ready(&mut batch).unwrap();
            assert_eq!(batch, []);
            // Again and again from silence: each time a new edge must reach tokio.
            for round in 0..1000_u64 {
                let token = usize::try_from(round % 3).unwrap();
                pipes[token].1.write_all(b"x").unwrap();
                assert_eq!(tokens(&poller).await, [round % 3]);
                pipes[token].0.read_exact(&mut one).unwrap();
            }
        });
    }

    #[test]
    fn what_is_waited_for_once_is_reported_once_until_asked_again() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let (reader, mut writer) = io::pipe().unwrap();
            poller.add(&reader, 5, Interest::ReadOnce).unwrap();
            writer.write_all(b"x").unwrap();
            assert_eq!(tokens(&poller).await, [5]);
            writer.write_all(b"y").unwrap();
            let mut batch = Vec::new();
            poller.try_ready(&mut batch).unwrap();
            assert_eq!(batch, []);
            poller.modify(&reader, 5, Interest::ReadOnce).unwrap();
            assert_eq!(tokens(&poller).await, [5], "what came meanwhile is not lost");
            drop(writer);
            poller.modify(&reader, 5, Interest::ReadOnce).unwrap();
            assert_eq!(tokens(&poller).await, [5]);
        });
    }

    #[test]
    fn a_batch_is_bounded_and_every_pipe_gets_its_turn() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let count = 3 * BATCH as u64 - 10;
            let mut pipes = pipes(count, &poller);
            for (_, writer) in &mut pipes {
                writer.write_all(b"x").unwrap();
            }
            let mut seen = Vec::new();
            for _ in 0..3 {
                let batch = tokens(&poller).await;
                assert_eq!(batch.len(), BATCH);
                seen.extend(batch);
            }
            assert_eq!(seen[..usize::try_from(count).unwrap()], (0..count).collect::<Vec<_>>());
            assert_eq!(seen[usize::try_from(count).unwrap()..], (0..10).collect::<Vec<_>>(), "nothing was read, so it begins anew");
        });
    }

    #[test]
    fn a_flood_leaves_timers_their_turn() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(1, &poller);
            pipes[0].1.write_all(b"never read").unwrap();
            let mut batch = Vec::new();
            let timer = tokio::time::sleep(Duration::from_millis(20));
            tokio::pin!(timer);
            let mut turns = 0_u64;
            loop {
                tokio::select! {
                    biased;
                    () = &mut timer => break,
                    result = poller.ready(&mut batch) => result.unwrap(),
                }
                turns += 1;
                assert!(turns < 5_000_000, "the timer never fired");
            }
            assert!(turns > 0);
        });
    }

    #[test]
    fn nothing_wakes_it_while_nothing_happens() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(200, &poller);
            pipes[150].1.write_all(b"x").unwrap();
            let mut batch = Vec::new();
            timeout(DEADLINE, poller.ready(&mut batch)).await.unwrap().unwrap();
            pipes[150].0.read_exact(&mut [0]).unwrap();
            // One look finds that nothing is left; from then on there is none, however long it lasts.
            assert!(timeout(Duration::from_secs(1), poller.ready(&mut batch)).await.is_err());
            let before = poller.waits();
            advance(Duration::from_secs(3600)).await;
            assert!(timeout(Duration::from_secs(3600), poller.ready(&mut batch)).await.is_err());
            assert_eq!(poller.waits(), before);
            pipes[0].1.write_all(b"x").unwrap();
            timeout(DEADLINE, poller.ready(&mut batch)).await.unwrap().unwrap();
            assert_eq!(poller.waits(), before + 1);
        });
    }

    #[test]
    fn interest_can_change_and_end() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(1, &poller);
            let mut batch = Vec::new();
            poller.add(&pipes[0].1, 9, Interest::Write).unwrap();
            assert_eq!(tokens(&poller).await, [9]);
            poller.modify(&pipes[0].1, 10, Interest::Write).unwrap();
            assert_eq!(tokens(&poller).await, [10]);
            poller.remove(&pipes[0].1).unwrap();
            assert_eq!(poller.remove(&pipes[0].1), Err(Errno::ENOENT));
            poller.try_ready(&mut batch).unwrap();
            assert_eq!(batch, []);
            pipes.remove(0).1.flush().unwrap();
            let file = std::fs::File::open("/proc/self/exe").unwrap();
            assert_eq!(poller.add(&file, 1, Interest::Read), Err(Errno::EPERM));
        });
    }

    #[test]
    fn a_closed_writer_is_a_hangup() {
        block_on(async {
            let poller = Poller::new().unwrap();
            let mut pipes = pipes(1, &poller);
            let (reader, mut writer) = pipes.remove(0);
            writer.write_all(b"last words").unwrap();
            drop(writer);
            let mut batch = Vec::new();
            poller.ready(&mut batch).await.unwrap();
            assert_eq!(batch, [Ready { token: 0, readable: true, writable: false, hangup: true }]);
            (&reader).read_exact(&mut [0; 10]).unwrap();
            poller.ready(&mut batch).await.unwrap();
            assert_eq!(batch, [Ready { token: 0, readable: false, writable: false, hangup: true }]);
        });
    }
}
