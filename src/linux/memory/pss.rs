//! The proportional set size of a process tree, read on a thread of its own.
//!
//! /proc/PID/smaps_rollup is the only place that says how much of its memory a process shares: each page counts by the number of processes that
//! map it, so that a sum over processes counts it once. It is dear (about 3.4 ms for each GB of small pages), it takes the
//! process's mmap lock, which a process that is itself stuck may hold for as long as it likes, and it is private:
//!
//! - it is opened plainly, or else as the process's own user; what is refused then too stays refused for a minute;
//! - one thread reads, started when it is first needed; the loop gives it lists and gets events, and never waits for it;
//! - a pass takes at most a quarter of a second, and the next may begin when 100 times its cost has passed, so that 1 % of a processor is spent at most;
//! - a tree is known as a whole or not at all: with one process unread there is no number.
//!
//! What is counted: Pss_Anon + Pss_Shmem - LazyFree + SwapPss of smaps_rollup, VmPTE of status, and 16 kB of kernel stack for each
//! thread. File pages are the page cache's, and LazyFree is what MADV_FREE gave back. Without smaps_rollup (before Linux 4.14,
//! commit 493b0e9d945f), or with one that does not tell Pss_Anon (before 5.3, "mm: smaps: split PSS into components"), there is no number.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::account::{KERNEL_STACK, Told, kibibytes, read_status};
use crate::engine::RunId;
use crate::engine::memory::{Measurement, MemoryEvent, Pss};
use crate::engine::status::MemoryMethod;
use crate::linux::thread;
use crate::linux::tree::{exists, open_private, own_dumpable, start_time};

/// After this a pass begins no other process.
const BUDGET: Duration = Duration::from_millis(250);

/// What took longer to read tells of another time.
const STALE: Duration = Duration::from_secs(2);

/// The next pass waits for so many times the cost of the last one.
const REST: u32 = 100;

/// A process that was refused is not asked again for so long. It may execute a program, or another user, meanwhile.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The thread opens, reads and adds.
const STACK: usize = 128 << 10;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Whose.
    pub run: RunId,
    /// All its processes: pid and start time.
    pub processes: Vec<(u32, u64)>,
}

/// Takes what was measured, on the thread that measured it.
type Report = Arc<dyn Fn(MemoryEvent) + Send + Sync>;

/// Measures on a thread of its own.
pub struct Meter {
    report: Report,
    proc: PathBuf,
    shared: Arc<Shared>,
    jobs: Option<SyncSender<Vec<Job>>>,
}

#[derive(Debug)]
struct Shared {
    busy: AtomicBool,
    epoch: Instant,
    /// Microseconds after the epoch: not before then.
    rest_until: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Meter {
    /// Nothing is started yet. `report` is called with one [`MemoryEvent::Measured`] for each run of each request: on the calling
    /// thread when there is no number anyway, else on the thread that measures. It must not block.
    #[must_use]
    pub fn new(report: impl Fn(MemoryEvent) + Send + Sync + 'static) -> Self {
        // While there is one thread only.
        own_dumpable();
        Self::over(PathBuf::from("/proc"), report)
    }

    fn over(proc: PathBuf, report: impl Fn(MemoryEvent) + Send + Sync + 'static) -> Self {
        let shared = Shared { busy: AtomicBool::new(false), epoch: Instant::now(), rest_until: AtomicU64::new(0) };
        Self { report: Arc::new(report), proc, shared: Arc::new(shared), jobs: None }
    }

    /// Whether it is still at the last request; for long when a process hangs in its mmap lock.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// How long until a request is taken that is not urgent; zero when busy.
    #[must_use]
    pub fn rest(&self) -> Duration {
        Duration::from_micros(self.shared.rest_until.load(Ordering::Acquire).saturating_sub(self.shared.now()))
    }

    /// Measures these runs, in this order. Every run gets its answer. It is `NotNow`, and at once, while the last request is being worked
    /// at, and while the last one's cost has not been waited out (unless this one is `urgent`); it is `Refused` when no thread can be started.
    pub fn measure(&mut self, jobs: Vec<Job>, urgent: bool) {
        if jobs.is_empty() {
            return;
        }
        if self.busy() || (!urgent && !self.rest().is_zero()) {
            return self.answer(&jobs, Measurement::NotNow);
        }
        self.shared.busy.store(true, Ordering::Release);
        if self.jobs.is_none() {
            self.jobs = self.start().ok();
        }
        let jobs = match &self.jobs {
            // There is room for one, and the thread is idle.
            Some(sender) => match sender.try_send(jobs) {
                Ok(()) => return,
                Err(error) => match error {
                    std::sync::mpsc::TrySendError::Full(jobs) | std::sync::mpsc::TrySendError::Disconnected(jobs) => jobs,
                },
            },
            None => jobs,
        };
        self.jobs = None;
        self.shared.busy.store(false, Ordering::Release);
        self.answer(&jobs, Measurement::Refused);
    }

    fn answer(&self, jobs: &[Job], all: Measurement) {
        for job in jobs {
            (self.report)(MemoryEvent::Measured { run: job.run, pss: all });
        }
    }

    fn start(&self) -> io::Result<SyncSender<Vec<Job>>> {
        let (sender, receiver) = sync_channel(1);
        let worker = Worker {
            report: self.report.clone(),
            shared: Arc::clone(&self.shared),
            proc: self.proc.clone(),
            refused: BTreeMap::new(),
            text: Vec::new(),
        };
        // It may hang where the process hangs that it reads of. It ends when the sender is dropped.
        thread::start("pss", STACK, move || worker.work(&receiver))?;
        Ok(sender)
    }
}

struct Worker {
    report: Report,
    shared: Arc<Shared>,
    proc: PathBuf,
    /// Who was refused, and until when that is believed.
    refused: BTreeMap<(u32, u64), Instant>,
    text: Vec<u8>,
}

/// What one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Holds {
        bytes: u64,
        as_user: bool,
    },
    Gone,
    /// It will be so next time, too.
    Refused,
    /// Not this time.
    Failed,
}

/// Frees the meter when the pass is over, however it ends.
struct Pass<'a> {
    shared: &'a Shared,
    processor_time: Duration,
}

impl<'a> Pass<'a> {
    fn begin(shared: &'a Shared) -> Self {
        Self { shared, processor_time: processor_time() }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // What the thread waited for cost nobody anything.
        let cost = processor_time().saturating_sub(self.processor_time).saturating_mul(REST);
        let until = self.shared.now().saturating_add(u64::try_from(cost.as_micros()).unwrap_or(u64::MAX));
        self.shared.rest_until.store(until, Ordering::Release);
        self.shared.busy.store(false, Ordering::Release);
    }
}

fn processor_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Worker {
    fn work(mut self, requests: &Receiver<Vec<Job>>) {
        while let Ok(jobs) = requests.recv() {
            let shared = Arc::clone(&self.shared);
            let mut pass = Some(Pass::begin(&shared));
            let begun = Instant::now();
            self.refused.retain(|_, until| *until > begun);
            let last = jobs.len().saturating_sub(1);
            for (index, job) in jobs.iter().enumerate() {
                let asked = Instant::now();
                let pss = self.measure(job, begun).filter(|_| asked.elapsed() < STALE).map_or(Measurement::Refused, Measurement::Pss);
                if index == last {
                    // Who hears the last answer may ask again.
                    pass = None;
                }
                (self.report)(MemoryEvent::Measured { run: job.run, pss });
            }
            drop(pass);
        }
    }

    /// `None` when one of its processes cannot be read, when the budget is spent, and when none of them is there any more: who came since
    /// is not in the list.
    fn measure(&mut self, job: &Job, begun: Instant) -> Option<Pss> {
        if job.processes.iter().any(|process| self.refused.contains_key(process)) {
            return None;
        }
        let mut sum = 0_u64;
        let mut read = false;
        let mut method = MemoryMethod::Pss;
        for &(pid, started) in &job.processes {
            if begun.elapsed() > BUDGET {
                return None;
            }
            match self.read(pid, started) {
                Answer::Holds { bytes, as_user } => {
                    read = true;
                    sum = sum.saturating_add(bytes);
                    if as_user {
                        method = MemoryMethod::PssAsUser;
                    }
                }
                Answer::Gone => {}
                Answer::Refused => {
                    self.refused.insert((pid, started), Instant::now().checked_add(REFUSED_FOR)?);
                    return None;
                }
                Answer::Failed => return None,
            }
        }
        read.then_some(Pss { bytes: sum, method })
    }

    fn read(&mut self, pid: u32, started: u64) -> Answer {
        // A process that executes a program between open and read is not to be read through the old file.
        for _ in 0..3 {
            let (resident, kernel) = match read_status(&self.proc, pid, &mut self.text) {
                Told::Status(status) => (status.resident, status.tables.saturating_add(status.threads.saturating_mul(KERNEL_STACK))),
                Told::Gone => return Answer::Gone,
                Told::Refused => return Answer::Failed,
            };
            if !resident {
                // It is exiting, and its memory is being given back.
                return self.other_than(pid, started).unwrap_or(Answer::Holds { bytes: kernel, as_user: false });
            }
            let (rollup, as_user) = match self.rollup(pid) {
                Ok(read) => read,
                Err(error) => {
                    return match (self.other_than(pid, started), error.raw_os_error()) {
                        (Some(answer), _) => answer,
                        // ENOENT: not told by this kernel.
                        (None, Some(libc::ENOENT | libc::EACCES | libc::EPERM)) => Answer::Refused,
                        (None, _) => Answer::Failed,
                    };
                }
            };
            match rollup {
                Rollup::Holds(bytes) => {
                    return self.other_than(pid, started).unwrap_or(Answer::Holds { bytes: bytes.saturating_add(kernel), as_user });
                }
                Rollup::Nothing => {}
                Rollup::Unknown => return Answer::Refused,
            }
        }
        Answer::Failed
    }

    /// `None` when the process of that number still is the one that is meant.
    fn other_than(&self, pid: u32, started: u64) -> Option<Answer> {
        match start_time(&self.proc, pid) {
            Some(present) => (present != started).then_some(Answer::Gone),
            None if exists(pid) => Some(Answer::Failed),
            None => Some(Answer::Gone),
        }
    }

    fn rollup(&self, pid: u32) -> io::Result<(Rollup, bool)> {
        let mut buffer = [0_u8; 4096];
        let opened = open_private(&self.proc, pid, "smaps_rollup");
        let read = opened.and_then(|(mut file, as_user)| Ok((file.read(&mut buffer)?, as_user)));
        match read {
            Ok((length, as_user)) => Ok((parse_rollup(buffer.get(..length).unwrap_or_default()), as_user)),
            // It has no memory any more, or not that which was opened.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok((Rollup::Nothing, false)),
            Err(error) => Err(error),
        }
    }
}

/// What smaps_rollup tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rollup {
    Holds(u64),
    /// There is no memory.
    Nothing,
    /// Not what is needed.
    Unknown,
}

/// See Documentation/ABI/testing/procfs-smaps_rollup of the kernel.
fn parse_rollup(text: &[u8]) -> Rollup {
    let (mut anon, mut shmem, mut lazy, mut swap) = (None, None, Some(0), Some(0));
    for line in text.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (key, value) = line.split_at(colon);
        let bytes = || kibibytes(value.get(1..).unwrap_or_default().trim_ascii());
        match key {
            b"Pss_Anon" => anon = bytes(),
            b"Pss_Shmem" => shmem = bytes(),
            b"LazyFree" => lazy = bytes(),
            b"SwapPss" => swap = bytes(),
            _ => {}
        }
    }
    match (anon, shmem, lazy, swap) {
        // LazyFree is not by share, so of what several share too much is taken off: never below nothing.
        (Some(anon), Some(shmem), Some(lazy), Some(swap)) => {
            Rollup::Holds(anon.saturating_sub(lazy).saturating_add(shmem).saturating_add(swap))
        }
        _ if text.is_empty() => Rollup::Nothing,
        _ => Rollup::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::engine::{InstanceId, ServiceId};

    const PATIENCE: Duration = Duration::from_secs(20);

    const ROLLUP: &str = "5581b0e2a000-7ffd3b5f6000 ---p 00000000 00:00 0    [rollup]\nRss:  9000 kB\nPss:  8000 kB\nPss_Dirty: 1 kB\n\
        Pss_Anon:    4000 kB\nPss_File:  1000 kB\nPss_Shmem:  300 kB\nLazyFree:  1000 kB\nSwap:  70 kB\nSwapPss:  50 kB\nLocked:  0 kB\n";

    fn run(service: usize) -> RunId {
        RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run: 1 }
    }

    /// A /proc that shows this process alone, as the kernel does, but for the file that matters.
    struct Proc {
        root: PathBuf,
        own: (u32, u64),
    }

    impl Proc {
        fn new(name: &str) -> Self {
            let pid = std::process::id();
            let root = std::env::temp_dir().join(format!("firstmate-pss-{pid}-{name}"));
            let directory = root.join(pid.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            for file in ["stat", "status"] {
                std::fs::copy(format!("/proc/{pid}/{file}"), directory.join(file)).unwrap();
            }
            let started = start_time(&root, pid).unwrap();
            Self { root, own: (pid, started) }
        }

        fn rollup(&self) -> PathBuf {
            self.root.join(format!("{}/smaps_rollup", self.own.0))
        }

        fn meter(&self) -> (Meter, Receiver<MemoryEvent>) {
            let (sender, receiver) = channel();
            (Meter::over(self.root.clone(), move |event| sender.send(event).unwrap()), receiver)
        }

        fn job(&self, service: usize) -> Job {
            Job { run: run(service), processes: vec![self.own] }
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    fn answer(receiver: &Receiver<MemoryEvent>) -> (RunId, Measurement) {
        let MemoryEvent::Measured { run, pss } = receiver.recv_timeout(PATIENCE).unwrap() else { panic!("another event") };
        (run, pss)
    }

    #[test]
    fn what_counts_is_added() {
        assert_eq!(parse_rollup(ROLLUP.as_bytes()), Rollup::Holds((4000 + 300 - 1000 + 50) << 10));
        let all_lazy = ROLLUP.replace("LazyFree:  1000 kB", "LazyFree: 9000 kB");
        assert_eq!(parse_rollup(all_lazy.as_bytes()), Rollup::Holds((300 + 50) << 10));
        // Linux 4.14 to 5.2 tell no parts.
        let old: String = ROLLUP.lines().filter(|line| !line.starts_with("Pss_")).map(|line| format!("{line}\n")).collect();
        assert_eq!(parse_rollup(old.as_bytes()), Rollup::Unknown);
        assert_eq!(parse_rollup(b""), Rollup::Nothing);
        assert_eq!(parse_rollup(ROLLUP.replace("4000 kB", "many kB").as_bytes()), Rollup::Unknown);
    }

    #[test]
    fn a_number_of_a_file_is_a_number_of_the_run() {
        let proc = Proc::new("number");
        std::fs::write(proc.rollup(), ROLLUP).unwrap();
        let (mut meter, receiver) = proc.meter();
        meter.measure(vec![proc.job(0)], false);
        let (of, pss) = answer(&receiver);
        assert_eq!(of, run(0));
        let Measurement::Pss(pss) = pss else { panic!("{pss:?}") };
        assert!(pss.bytes > 3350 << 10 && pss.method == MemoryMethod::Pss, "{pss:?}");
    }

    /// A pipe nobody writes to holds whoever opens it, as a process that is stuck in its mmap lock does.
    #[test]
    fn a_process_that_hangs_holds_the_thread_and_nobody_else() {
        let proc = Proc::new("hang");
        nix::unistd::mkfifo(&proc.rollup(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (mut meter, receiver) = proc.meter();
        meter.measure(vec![proc.job(0)], false);
        for _ in 0..3 {
            assert!(meter.busy());
            meter.measure(vec![proc.job(1), proc.job(2)], true);
            assert_eq!([answer(&receiver), answer(&receiver)], [(run(1), Measurement::NotNow), (run(2), Measurement::NotNow)]);
        }
        // It goes on one day: then the answer is of another time.
        let hung = Instant::now();
        while hung.elapsed() < STALE {
            assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err(), "it cannot answer");
        }
        std::fs::OpenOptions::new().write(true).open(proc.rollup()).unwrap().write_all(ROLLUP.as_bytes()).unwrap();
        assert_eq!(answer(&receiver), (run(0), Measurement::Refused));
        assert!(!meter.busy());
    }

    #[test]
    fn who_is_refused_is_not_asked_again() {
        let proc = Proc::new("refused");
        let (mut meter, receiver) = proc.meter();
        // As before Linux 4.14: no such file.
        meter.measure(vec![proc.job(0)], true);
        assert_eq!(answer(&receiver), (run(0), Measurement::Refused));
        std::fs::write(proc.rollup(), ROLLUP).unwrap();
        meter.measure(vec![proc.job(0), Job { run: run(1), processes: vec![(proc.own.0, proc.own.1 + 1)] }], true);
        assert_eq!(answer(&receiver), (run(0), Measurement::Refused), "it is known to be refused");
        assert_eq!(answer(&receiver), (run(1), Measurement::Refused), "whom this process has succeeded is gone, and nobody is left");
        meter.measure(vec![Job { run: run(2), processes: Vec::new() }], true);
        assert_eq!(answer(&receiver), (run(2), Measurement::Refused), "nobody holds what nobody was read of");
    }

    #[test]
    fn a_dropped_meter_ends_its_thread() {
        let proc = Proc::new("drop");
        std::fs::write(proc.rollup(), ROLLUP).unwrap();
        let (mut meter, receiver) = proc.meter();
        meter.measure(vec![proc.job(0)], true);
        assert!(matches!(answer(&receiver).1, Measurement::Pss(_)));
        drop(meter);
        // The thread has the last sender.
        assert_eq!(receiver.recv_timeout(PATIENCE), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    }
}
