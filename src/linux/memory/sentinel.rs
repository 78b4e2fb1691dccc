//! Looks at the container's memory on a thread of its own, while nothing is near.
//!
//! How often memory must be looked at is a matter of physics, and at 40 % of 1 GiB that is thirty times a second. Woken from an idle machine, the
//! whole loop has to be brought back into the processor's caches each time: 150 µs, where a thread that sleeps and reads one
//! small file takes 60 µs, most of them the kernel's. So while the engine says that all is calm ([`Calm`]) the loop sleeps on, and this
//! thread, which decides nothing, wakes it when that is over.
//!
//! The loop never waits for the thread: an order that cannot be left at once is not left at all.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Instant;

use super::counters::Counters;
use crate::engine::memory::{Calm, Reading};
use crate::linux::thread;

/// The thread sleeps, reads and compares.
const STACK: usize = 64 << 10;

/// It is calm no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// The last look that showed nothing; when the order was given, if there was none.
    pub calm_until: Instant,
    /// What the look showed that ended it; `None` when it failed.
    pub reading: Option<Reading>,
}

/// The thread, for who gives it orders.
#[derive(Debug)]
pub struct Sentinel {
    shared: Arc<Shared>,
    thread: Thread,
    /// What it was told last, as far as is known here.
    told: Option<Calm>,
}

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    /// There are new ones.
    changed: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    watch: Option<Calm>,
    /// To be read from now on.
    counters: Option<Counters>,
    ended: bool,
}

impl Sentinel {
    /// Starts the thread, which has nothing to do yet. `report` is called on it, once for each time it was set to watch at the most.
    ///
    /// # Errors
    /// EAGAIN when there may be no more threads.
    pub fn new(counters: Counters, report: impl Fn(Grown) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let worker = Worker { shared: Arc::clone(&shared), counters, watch: None, calm_until: Instant::now(), exact_at: Instant::now() };
        // It ends when this is dropped.
        let thread = thread::start("sentinel", STACK, move || worker.work(&report))?;
        Ok(Self { shared, thread, told: None })
    }

    /// Looks as `calm` says until that is over. Returns whether it does: if not, the loop has to look itself.
    #[must_use]
    pub fn watch(&mut self, calm: Calm) -> bool {
        self.told = self.tell(|orders| orders.watch = Some(calm)).then_some(calm);
        self.told.is_some()
    }

    /// Stops looking.
    pub fn rest(&mut self) {
        if self.told.is_some() && self.tell(|orders| orders.watch = None) {
            self.told = None;
        }
    }

    /// It has reported, and stopped looking with that.
    pub const fn has_reported(&mut self) {
        self.told = None;
    }

    /// Reads these from now on. Returns whether it does.
    #[must_use]
    pub fn read_from(&mut self, counters: Counters) -> bool {
        self.tell(|orders| orders.counters = Some(counters))
    }

    fn tell(&self, change: impl FnOnce(&mut Orders)) -> bool {
        let mut orders = match self.shared.orders.try_lock() {
            Ok(orders) => orders,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is taking the orders before these, for some nanoseconds as a rule.
            Err(TryLockError::WouldBlock) => return false,
        };
        change(&mut orders);
        drop(orders);
        self.shared.changed.store(true, Ordering::Release);
        self.thread.unpark();
        true
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

struct Worker {
    shared: Arc<Shared>,
    counters: Counters,
    watch: Option<Calm>,
    calm_until: Instant,
    exact_at: Instant,
}

impl Worker {
    fn work(mut self, report: &impl Fn(Grown)) {
        loop {
            match self.watch {
                Some(calm) => std::thread::park_timeout(calm.every),
                None => std::thread::park(),
            }
            if self.shared.changed.swap(false, Ordering::Acquire) {
                let mut orders = self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
                if orders.ended {
                    return;
                }
                self.watch = orders.watch;
                if let Some(counters) = orders.counters.take() {
                    self.counters = counters;
                }
                drop(orders);
                self.calm_until = Instant::now();
                continue;
            }
            // Woken too early, which may happen, it looks too early, which does no harm.
            let Some(calm) = self.watch else { continue };
            let now = Instant::now();
            let exact = now >= self.exact_at;
            if exact {
                self.exact_at = now + calm.exact_every;
            }
            let reading = self.counters.read(if exact { 0 } else { calm.above }).ok();
            if reading.is_some_and(|reading| calm.is_still(&reading)) {
                self.calm_until = now;
                continue;
            }
            self.watch = None;
            report(Grown { calm_until: self.calm_until, reading });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::super::cgroup::{Files, Version};
    use super::super::counters::Whose;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const OFTEN: Duration = Duration::from_millis(1);
    const CALM: Calm = Calm { every: OFTEN, above: 2_000, below: 500, exact_every: Duration::from_millis(3) };

    /// Two files of a cgroup v2, and a sentinel that reads them.
    struct Post {
        root: PathBuf,
        sentinel: Sentinel,
        grown: Receiver<Grown>,
    }

    impl Drop for Post {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    fn write(root: &Path, usage: u64, file: u64) {
        // In place and at once, as the kernel's files change: whoever reads sees the old number or the new one.
        let put = |name: &str, text: String| {
            let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(root.join(name)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
        };
        put("memory.stat", format!("inactive_file {file:09}\nactive_file 0\n"));
        put("memory.current", format!("{usage:09}\n"));
    }

    fn counters(root: &Path) -> Counters {
        let mut counters = Counters::closed();
        counters.reopen(&Files::new(root, "self", 1), &Whose::Cgroup(Version::V2, "/".into()), None);
        counters
    }

    fn post(name: &str) -> Post {
        let root = std::env::temp_dir().join(format!("firstmate-sentinel-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        write(&root, 1_000, 0);
        let (sender, grown) = channel();
        let sentinel = Sentinel::new(counters(&root), move |one| sender.send(one).unwrap()).unwrap();
        Post { root, sentinel, grown }
    }

    #[test]
    fn growth_is_reported_once_with_the_last_look_before_it() {
        let mut post = post("grows");
        let began = Instant::now();
        assert!(post.sentinel.watch(CALM) && post.sentinel.told.is_some());
        write(&post.root, 3_000, 0);
        let grown = post.grown.recv_timeout(PATIENCE).unwrap();
        assert_eq!(grown.reading.map(|reading| reading.hard), Some(3_000));
        assert!(grown.calm_until >= began && grown.calm_until <= Instant::now());
        // It has stopped: only a new order makes it look again.
        assert!(post.grown.recv_timeout(OFTEN * 20).is_err());
        assert!(post.sentinel.watch(CALM));
        assert!(post.grown.recv_timeout(PATIENCE).is_ok());
    }

    #[test]
    fn page_cache_is_no_growth() {
        let mut post = post("cache");
        write(&post.root, 9_000, 8_000);
        assert!(post.sentinel.watch(CALM));
        assert!(post.grown.recv_timeout(OFTEN * 50).is_err());
        write(&post.root, 9_000, 6_000);
        assert_eq!(post.grown.recv_timeout(PATIENCE).unwrap().reading.map(|reading| reading.hard), Some(3_000));
    }

    #[test]
    fn what_page_cache_has_taken_over_is_less() {
        let mut post = post("less");
        assert!(post.sentinel.watch(CALM));
        write(&post.root, 1_000, 700);
        assert_eq!(post.grown.recv_timeout(PATIENCE).unwrap().reading.map(|reading| reading.hard), Some(300));
    }

    #[test]
    fn at_rest_it_does_not_look() {
        let mut post = post("rests");
        assert!(post.sentinel.watch(CALM));
        while post.sentinel.told.is_some() {
            post.sentinel.rest();
        }
        write(&post.root, 3_000, 0);
        // One that it was about to report may still come.
        let late = std::iter::from_fn(|| post.grown.recv_timeout(OFTEN * 20).ok()).count();
        assert!(late <= 1, "{late}");
    }

    #[test]
    fn what_cannot_be_read_is_over_too_and_other_files_can_be_given() {
        let mut post = post("moves");
        let other = post.root.join("other");
        std::fs::create_dir_all(&other).unwrap();
        write(&other, 5_000, 0);
        std::fs::write(post.root.join("memory.current"), "no number\n").unwrap();
        assert!(post.sentinel.watch(CALM));
        assert_eq!(post.grown.recv_timeout(PATIENCE).unwrap().reading, None);
        while !post.sentinel.read_from(counters(&other)) {}
        while !post.sentinel.watch(CALM) {}
        assert_eq!(post.grown.recv_timeout(PATIENCE).unwrap().reading.map(|reading| reading.hard), Some(5_000));
    }
}
