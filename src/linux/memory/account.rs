//! What each run's processes hold, without privilege and without waiting.
//!
//! /proc/PID/status is shown to everybody and takes no lock of the process it tells of, so it can be read on the loop, whoever owns the process
//! and however large it is: about 5 us each, about as much again to find out whose it is ([`Trees::census`]). Pages that several
//! processes share are in each one's count; what a run really holds is between its largest process and the sum of all.
//!
//! **How exact the counts are.** Linux counts a process's pages in private portions and adds them up late:
//!
//! - up to 6.1 each thread keeps up to 64 page faults to itself (SPLIT_RSS_COUNTING, `TASK_RSS_EVENTS_THRESH` in mm/memory.c);
//! - from 6.2 to 6.15 each processor keeps up to `max(32, 2 x processors)` pages of each counter (commit f1a7941243c1 made the counters
//!   a percpu_counter); they may be missing or, after pages were given back elsewhere, too many;
//! - from 6.16 on, and in stable kernels that took commit 82241a83cd15, the exact sum is shown.
//!
//! [`Rss`]'s sums are meant as upper bounds, so what may be missing is added to them; [`Rss::largest`] is meant as a lower bound, so what may
//! be too much is taken off it. Which kernel it is, is told by its release, and between 6.2 and 6.15 by trying: some distributions
//! have the correction and some have not. Not covered is the first reading of shared memory up to 6.1, where one fault may map 16 pages.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::engine::RunId;
use crate::engine::memory::{Accounts, Process, Rss, Usage};
use crate::linux::tree::{Census, Sighting, Trees, exists, numbers_in};

/// What the kernel keeps for each thread: its stack, THREAD_SIZE on x86-64 and arm64.
pub(super) const KERNEL_STACK: u64 = 16 << 10;

/// How many of a run's processes are named.
const TOP: usize = 3;

/// More strangers than this are not looked at: then firstmate sees a whole machine, and the loop has other work.
const STRANGERS_MAX: usize = 1000;

/// Clock ticks a second in /proc, on every architecture; see USER_HZ.
const TICKS: u64 = 100;

/// A fork that is not older may be about to execute a program.
const SNAPSHOT_AGE_MIN: u64 = TICKS / 10;

/// Nobody writes a snapshot for longer, and a series of them without a break is none.
const SNAPSHOT_AGE_MAX: u64 = 15 * 60 * TICKS;

/// A child as old as its parent is part of it.
const SNAPSHOT_AFTER: u64 = TICKS;

/// A child that is replaced within this time is a worker: a little longer than the time between two looks.
const SNAPSHOT_BREAK: u64 = 2 * TICKS;

/// Who was seen with several forked children is taken for a prefork server so long.
const PREFORK_FOR: u64 = 60 * TICKS;

/// Looks at what processes hold. It keeps its buffers, and remembers who forked what.
#[derive(Debug)]
pub struct Accountant {
    counters: Counters,
    group: Group,
    census: Census,
    text: Vec<u8>,
    held: Vec<Held>,
    pids: Vec<u32>,
    parents: Vec<Parent>,
}

/// How the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counters {
    Exact,
    /// So many bytes of each thread may be missing.
    PerThread(u64),
    /// So many bytes may be missing or too many, in each counter of each process.
    PerProcessor(u64),
}

/// Which of the visible processes count as the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    /// All: the PID namespace is ours.
    Namespace,
    /// Those of the cgroup firstmate was in at the start, and below.
    Path(Vec<u8>),
    /// It cannot be known.
    Unknown,
}

/// One process, as its status tells.
#[derive(Debug, Clone, Copy)]
struct Held {
    pid: u32,
    parent: u32,
    started: u64,
    forked: bool,
    anon: u64,
    /// How many children it has that were forked and have executed nothing, and the last of them.
    forks: u32,
    fork: usize,
}

/// Somebody large who forks.
#[derive(Debug, Clone, Copy)]
struct Parent {
    pid: u32,
    started: u64,
    /// Until then it is taken for a prefork server; in ticks, as everything here.
    prefork_until: u64,
    /// Its only forked child when last looked at.
    child: (u32, u64),
    /// When the first of an unbroken series of them was forked, and when the last of it was seen.
    since: u64,
    last: u64,
    /// The child was recognised, when its parent held so much.
    recognised: Option<u64>,
    present: bool,
}

impl Accountant {
    /// To be made before firstmate moves to another cgroup.
    #[must_use]
    pub fn new() -> Self {
        let group = if std::process::id() == 1 {
            Group::Namespace
        } else {
            let own = std::fs::read("/proc/self/cgroup").unwrap_or_default();
            memory_group(&own).map_or(Group::Unknown, |path| Group::Path(path.to_vec()))
        };
        Self {
            counters: Counters::of_this_kernel(),
            group,
            census: Census::default(),
            text: Vec::new(),
            held: Vec::new(),
            pids: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// Looks at the processes of every run. A child that a process of at least `large` bytes of its own has forked is a snapshot where it looks like one.
    ///
    /// The cgroups of runs and the tmpfs are for others to fill in.
    pub fn account(&mut self, trees: &mut Trees, large: u64) -> Accounts {
        trees.census(&mut self.census);
        let now = ticks_since_boot();
        for parent in &mut self.parents {
            parent.present = false;
        }
        let census = std::mem::take(&mut self.census);
        let mut runs = Vec::new();
        for members in census.members().chunk_by(|a, b| a.run == b.run) {
            if let Some(run) = members.first().map(|member| member.run)
                && let Some(usage) = self.usage(run, members, census.hidden().contains(&run), large, now)
            {
                runs.push(usage);
            }
        }
        for &run in census.hidden() {
            if census.of(run).is_empty() {
                runs.push(Usage { run, rss: None, cgroup: None, snapshot: false, top: Vec::new() });
            }
        }
        runs.sort_unstable_by_key(|usage| usage.run);
        self.parents.retain(|parent| parent.present);
        let others = if trees.shows_everybody() { self.others(&census) } else { None };
        self.census = census;
        Accounts { runs, others, tmpfs: Vec::new() }
    }

    /// The processes of a run at the last [`Self::account`], for those who want to look closer.
    #[must_use]
    pub fn processes(&self, run: RunId) -> &[Sighting] {
        self.census.of(run)
    }

    /// `None`: all have just died.
    fn usage(&mut self, run: RunId, members: &[Sighting], hidden: bool, large: u64, now: u64) -> Option<Usage> {
        let mut rss = Rss::default();
        let mut top: Vec<Process> = Vec::with_capacity(TOP.saturating_add(1));
        let mut unreadable = hidden;
        let proc = Path::new("/proc");
        self.held.clear();
        for member in members {
            let status = match read_status(proc, member.pid, &mut self.text) {
                Told::Status(status) => status,
                Told::Gone => continue,
                Told::Refused => {
                    unreadable = true;
                    continue;
                }
            };
            rss.add(&status, self.counters);
            let bytes = status.bytes();
            if top.len() < TOP || top.last().is_some_and(|least| least.bytes < bytes) {
                let at = top.partition_point(|process| process.bytes >= bytes);
                top.insert(at, Process { pid: member.pid, name: String::from_utf8_lossy(status.name).into_owned(), bytes });
                top.truncate(TOP);
            }
            let Sighting { pid, parent, started, forked, .. } = *member;
            self.held.push(Held { pid, parent, started, forked, anon: status.anon, forks: 0, fork: 0 });
        }
        if rss.processes == 0 && !unreadable {
            return None;
        }
        let snapshot = self.snapshot(large, now);
        Some(Usage { run, rss: (!unreadable).then_some(rss), cgroup: None, snapshot, top })
    }

    /// Whether one of those held is a snapshot of its parent.
    ///
    /// That it was forked and executes nothing new is a flag of the process which the kernel shows to everybody: /proc/PID/exe
    /// would need the right to trace it, which Docker's default capabilities do not give over another user's process. What then
    /// remains to be told apart is the worker of a prefork server, which shares its parent's memory just as well:
    ///
    /// - a snapshot is its parent's only fork; a prefork server has several workers, and who was seen with several is one for a minute;
    /// - it is not there from its parent's first second;
    /// - when it ends there is none for a while, where a worker is replaced at once: the age of an unbroken series counts;
    /// - it does not grow, so a leaking worker has soon more than its parent; and it ends, within 15 minutes.
    ///
    /// Between fork and exec every child looks like one, so a tenth of a second must have passed.
    fn snapshot(&mut self, large: u64, now: u64) -> bool {
        for index in 0..self.held.len() {
            if let Some(&Held { parent, forked: true, .. }) = self.held.get(index)
                && let Ok(at) = self.held.binary_search_by_key(&parent, |held| held.pid)
                && let Some(parent) = self.held.get_mut(at)
            {
                parent.forks = parent.forks.saturating_add(1);
                parent.fork = index;
            }
        }
        let mut found = false;
        for held in &self.held {
            let known = self.parents.iter().position(|parent| (parent.pid, parent.started) == (held.pid, held.started));
            if held.anon < large && known.is_none() {
                continue;
            }
            let index = match known {
                Some(index) => index,
                // Worth remembering once it has forked.
                None if held.forks == 0 => continue,
                None => {
                    self.parents.push(Parent::new(held));
                    self.parents.len().saturating_sub(1)
                }
            };
            if let (Some(parent), Some(child)) = (self.parents.get_mut(index), self.held.get(held.fork)) {
                parent.present = true;
                found |= parent.writes_snapshot(held, child, large, now);
            }
        }
        found
    }

    fn others(&mut self, census: &Census) -> Option<Rss> {
        let mut rss = Rss::default();
        let proc = Path::new("/proc");
        self.pids.clear();
        self.pids.extend(census.members().iter().map(|member| member.pid));
        self.pids.sort_unstable();
        let listed;
        let everybody = if let Some(listed) = census.listed() {
            listed
        } else {
            listed = numbers_in("/proc");
            &*listed
        };
        if !everybody.contains(&std::process::id()) {
            return None;
        }
        if everybody.len().saturating_sub(self.pids.len()) > STRANGERS_MAX {
            return None;
        }
        for pid in everybody.iter().filter(|pid| self.pids.binary_search(pid).is_err()) {
            match &self.group {
                Group::Namespace => {}
                Group::Unknown => return None,
                Group::Path(own) => match read_small(&proc.join(format!("{pid}/cgroup")), &mut self.text) {
                    Ok(()) if memory_group(&self.text).is_none_or(|path| !is_within(path, own)) => continue,
                    Ok(()) => {}
                    Err(()) if exists(*pid) => return None,
                    Err(()) => continue,
                },
            }
            match read_status(proc, *pid, &mut self.text) {
                Told::Status(status) => rss.add(&status, self.counters),
                Told::Gone => {}
                Told::Refused => return None,
            }
        }
        Some(rss)
    }
}

impl Default for Accountant {
    fn default() -> Self {
        Self::new()
    }
}

impl Parent {
    const fn new(held: &Held) -> Self {
        Self { pid: held.pid, started: held.started, prefork_until: 0, child: (0, 0), since: 0, last: 0, recognised: None, present: true }
    }

    /// `child` is its only one if it has one.
    fn writes_snapshot(&mut self, own: &Held, child: &Held, large: u64, now: u64) -> bool {
        if own.forks > 1 {
            self.prefork_until = now.saturating_add(PREFORK_FOR);
            self.recognised = None;
        }
        if own.forks != 1 {
            return false;
        }
        if self.child != (child.pid, child.started) {
            if child.started > self.last.saturating_add(SNAPSHOT_BREAK) {
                self.since = child.started;
            }
            self.child = (child.pid, child.started);
            self.recognised = None;
        }
        self.last = now;
        let age = now.saturating_sub(child.started);
        if now < self.prefork_until || now.saturating_sub(self.since) > SNAPSHOT_AGE_MAX || age < SNAPSHOT_AGE_MIN {
            return false;
        }
        // What a snapshot has written it may give back, and its parent may delete everything: then it is still one.
        let parents = own.anon.max(self.recognised.unwrap_or_default());
        let grown = child.anon > parents.saturating_add(parents / 20 * 3);
        if self.recognised.is_none()
            && own.anon >= large
            && child.anon >= own.anon / 2
            && !grown
            && self.since >= own.started.saturating_add(SNAPSHOT_AFTER)
        {
            self.recognised = Some(own.anon);
        }
        self.recognised.is_some() && !grown
    }
}

/// What one process's status tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Status<'a> {
    name: &'a [u8],
    /// It has memory of its own: none has who is exiting, and no thread of the kernel.
    pub(super) resident: bool,
    anon: u64,
    shmem: u64,
    swap: u64,
    pub(super) tables: u64,
    pub(super) threads: u64,
}

impl Status<'_> {
    const fn bytes(&self) -> u64 {
        self.anon.saturating_add(self.shmem).saturating_add(self.swap)
    }
}

trait Add {
    fn add(&mut self, status: &Status<'_>, counters: Counters);
}

impl Add for Rss {
    fn add(&mut self, status: &Status<'_>, counters: Counters) {
        let (anon, shmem, swap, excess) = match counters {
            Counters::Exact => (0, 0, 0, 0),
            Counters::PerThread(bytes) => (bytes.saturating_mul(status.threads), 0, 0, 0),
            Counters::PerProcessor(bytes) => (bytes, bytes, if status.swap == 0 { 0 } else { bytes }, bytes.saturating_mul(2)),
        };
        self.anon = self.anon.saturating_add(status.anon).saturating_add(anon);
        self.shmem = self.shmem.saturating_add(status.shmem).saturating_add(shmem);
        self.swap = self.swap.saturating_add(status.swap).saturating_add(swap);
        self.largest = self.largest.max(status.bytes().saturating_sub(excess));
        self.kernel = self.kernel.saturating_add(status.tables).saturating_add(status.threads.saturating_mul(KERNEL_STACK));
        self.processes = self.processes.saturating_add(1);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told<'a> {
    Status(Status<'a>),
    /// It has died.
    Gone,
    /// It is there, and its status cannot be read or does not say what it should.
    Refused,
}

pub(super) fn read_status<'a>(proc: &Path, pid: u32, text: &'a mut Vec<u8>) -> Told<'a> {
    if read_small(&proc.join(format!("{pid}/status")), text).is_err() {
        return if exists(pid) { Told::Refused } else { Told::Gone };
    }
    parse_status(text)
}

/// Reads a whole file of /proc that is made in one piece, as those are that tell of a process: a read that has room left has seen its end.
fn read_small(path: &Path, text: &mut Vec<u8>) -> Result<(), ()> {
    text.clear();
    let mut file = File::open(path).map_err(drop)?;
    let mut buffer = [0_u8; 4096];
    loop {
        let length = file.read(&mut buffer).map_err(drop)?;
        text.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if length < buffer.len() {
            return Ok(());
        }
    }
}

/// See proc_pid_status(5). RssAnon and RssShmem are told since Linux 4.5.
fn parse_status(text: &[u8]) -> Told<'_> {
    let mut status = Status::default();
    let (mut zombie, mut anon, mut shmem) = (false, None, None);
    for line in text.split(|&byte| byte == b'\n') {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (key, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match key {
            b"Name" => status.name = value,
            b"State" => zombie = matches!(value.first(), Some(b'Z' | b'X' | b'x')),
            b"VmRSS" => status.resident = true,
            b"RssAnon" => anon = kibibytes(value),
            b"RssShmem" => shmem = kibibytes(value),
            b"VmPTE" => status.tables = kibibytes(value).unwrap_or_default(),
            b"VmSwap" => status.swap = kibibytes(value).unwrap_or_default(),
            b"Threads" => {
                let threads: Option<u64> = std::str::from_utf8(value).ok().and_then(|number| number.parse().ok());
                return match (threads, anon, shmem) {
                    // Its main thread has ended and others go on: their memory is not shown here.
                    (Some(2..), ..) if zombie => Told::Refused,
                    (Some(_), ..) if zombie => Told::Gone,
                    (Some(threads), Some(anon), Some(shmem)) => Told::Status(Status { anon, shmem, threads, ..status }),
                    (Some(threads), ..) if !status.resident => Told::Status(Status { threads, ..status }),
                    _ => Told::Refused,
                };
            }
            _ => {}
        }
    }
    Told::Refused
}

/// `1234 kB`, in bytes.
pub(super) fn kibibytes(value: &[u8]) -> Option<u64> {
    let number = value.strip_suffix(b" kB")?;
    std::str::from_utf8(number).ok()?.parse::<u64>().ok().map(|number| number.saturating_mul(1024))
}

/// The path in /proc/PID/cgroup that memory is charged to: of version 1's memory hierarchy, else of version 2. See cgroups(7).
fn memory_group(text: &[u8]) -> Option<&[u8]> {
    let mut unified = None;
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if controllers.split(|&byte| byte == b',').any(|name| name == b"memory") {
            return Some(path);
        }
        if id == b"0" && controllers.is_empty() {
            unified = Some(path);
        }
    }
    unified
}

/// Seen from inside of a cgroup namespace, what is outside of it begins with `/..`.
fn is_within(path: &[u8], group: &[u8]) -> bool {
    let group = group.strip_suffix(b"/").unwrap_or(group);
    path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || (rest.first() == Some(&b'/') && !rest.starts_with(b"/..")))
}

fn ticks_since_boot() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(0, |now| {
        let (seconds, nanoseconds) = (u64::try_from(now.tv_sec()).unwrap_or_default(), u64::try_from(now.tv_nsec()).unwrap_or_default());
        seconds.saturating_mul(TICKS).saturating_add(nanoseconds / (1_000_000_000 / TICKS))
    })
}

impl Counters {
    fn of_this_kernel() -> Self {
        let page = u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096)).unwrap_or(4096);
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let processors = online
            .as_deref()
            .and_then(count_of_ranges)
            .or_else(|| std::thread::available_parallelism().ok().map(|count| u64::try_from(count.get()).unwrap_or(1)));
        Self::of(&release(), page, processors.unwrap_or(1), || shows_new_pages_at_once(page))
    }

    fn of(release: &str, page: u64, processors: u64, exact: impl FnOnce() -> bool) -> Self {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 16) => Self::Exact,
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 2) => {
                if exact() {
                    return Self::Exact;
                }
                let batch = processors.saturating_mul(2).max(32);
                Self::PerProcessor(batch.saturating_mul(processors).saturating_mul(page))
            }
            // One fault more than the 64 brings the portion in.
            _ => Self::PerThread(page.saturating_mul(66)),
        }
    }
}

fn release() -> String {
    // SAFETY: an all-zero utsname is a valid one, and the call is given a whole one to fill.
    let name = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        name
    };
    name.release.iter().take_while(|&&byte| byte != 0).map(|byte| char::from(byte.to_ne_bytes()[0])).collect()
}

/// `0-3,5`.
fn count_of_ranges(text: &str) -> Option<u64> {
    text.trim().split(',').try_fold(0_u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Fewer than a processor keeps to itself at least, so that a kernel that does shows none of them, or 32 and more.
const TRIED: u64 = 24;

/// Whether pages that are touched are counted at once. Only for kernels that count per processor: a portion of a thread may be of any size.
fn shows_new_pages_at_once(page: u64) -> bool {
    let Ok(length) = usize::try_from(page.saturating_mul(TRIED)) else { return false };
    let mut text = Vec::new();
    let mut anon = || match read_status(Path::new("/proc"), std::process::id(), &mut text) {
        Told::Status(status) => Some(status.anon),
        Told::Gone | Told::Refused => None,
    };
    // What reading needs of memory it has after the first time. Another thread may come in between, which looks like a late counter.
    let _ = anon();
    let rises = |before: Option<u64>, after: Option<u64>| {
        before.zip(after).is_some_and(|(before, after)| after.checked_sub(before) == u64::try_from(length).ok())
    };
    let before = anon();
    // SAFETY: a new mapping of our own, which nothing else knows of: written to within its bounds, and unmapped again.
    let mapped = unsafe {
        let start =
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if start == libc::MAP_FAILED {
            return false;
        }
        libc::madvise(start, length, libc::MADV_NOHUGEPAGE);
        std::ptr::write_bytes(start.cast::<u8>(), 1, length);
        start
    };
    let exact = rises(before, anon());
    // SAFETY: as above.
    unsafe { libc::munmap(mapped, length) };
    exact
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATUS: &str = "Name:\ta) b\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\nVmPeak:\t  9 kB\nVmRSS:\t  70 kB\nRssAnon:\t  40 kB\n\
        RssFile:\t  20 kB\nRssShmem:\t  10 kB\nVmPTE:\t  8 kB\nVmSwap:\t  4 kB\nThreads:\t3\nSigQ:\t0/1\n";

    fn status(text: &str) -> Result<Status<'_>, bool> {
        match parse_status(text.as_bytes()) {
            Told::Status(status) => Ok(status),
            Told::Gone => Err(true),
            Told::Refused => Err(false),
        }
    }

    #[test]
    fn a_status_is_read() {
        let expected =
            Status { name: b"a) b", resident: true, anon: 40 << 10, shmem: 10 << 10, swap: 4 << 10, tables: 8 << 10, threads: 3 };
        assert_eq!(status(STATUS), Ok(expected));
        assert_eq!(expected.bytes(), 54 << 10);
    }

    #[test]
    fn what_a_status_does_not_tell_is_not_nothing() {
        // Before Linux 4.5.
        assert_eq!(status(&STATUS.replace("RssAnon", "Other")), Err(false));
        assert_eq!(status(&STATUS.replace("40 kB", "x kB")), Err(false));
        let end = STATUS.find("Threads").unwrap();
        for length in 0..end {
            assert_eq!(status(&STATUS[..length]), Err(false), "{length}");
        }
        // Exiting, or of the kernel.
        let empty: String =
            STATUS.lines().filter(|line| !line.starts_with("Vm") && !line.starts_with("Rss")).map(|line| format!("{line}\n")).collect();
        assert_eq!(status(&empty), Ok(Status { name: b"a) b", threads: 3, ..Status::default() }));
        assert_eq!(status(&empty.replace("S (sleeping)", "Z (zombie)")), Err(false), "two threads go on, and what they hold is not shown");
        assert_eq!(status(&empty.replace("S (sleeping)", "Z (zombie)").replace("Threads:\t3", "Threads:\t1")), Err(true));
    }

    #[test]
    fn what_the_kernel_counts_late_is_added_to_the_sums_and_taken_off_the_largest() {
        let with = |counters| {
            let mut rss = Rss::default();
            rss.add(&status(STATUS).unwrap(), counters);
            rss.add(&status(STATUS).unwrap(), counters);
            rss
        };
        let exact =
            Rss { anon: 80 << 10, shmem: 20 << 10, swap: 8 << 10, largest: 54 << 10, kernel: (2 * (8 + 3 * 16)) << 10, processes: 2 };
        assert_eq!(with(Counters::Exact), exact);
        assert_eq!(with(Counters::PerThread(1024)), Rss { anon: 86 << 10, ..exact });
        assert_eq!(with(Counters::PerProcessor(1024)), Rss { anon: 82 << 10, shmem: 22 << 10, swap: 10 << 10, largest: 52 << 10, ..exact });
    }

    #[test]
    fn the_kernels_release_says_how_it_counts() {
        let of = |release: &str, exact: bool| Counters::of(release, 4096, 4, || exact);
        for release in ["6.16.0", "6.18.44-fc-v595", "7.0", "10.1-rc1"] {
            assert_eq!(of(release, false), Counters::Exact, "{release}");
        }
        for release in ["6.2.0", "6.6.30-generic", "6.12.10", "6.15"] {
            assert_eq!(of(release, true), Counters::Exact, "{release}");
            assert_eq!(of(release, false), Counters::PerProcessor(32 * 4 * 4096), "{release}");
        }
        for release in ["6.1.192", "5.15.0-100-generic", "4.14", "3.10.0", "", "x", "6"] {
            assert_eq!(of(release, true), Counters::PerThread(66 * 4096), "{release}");
        }
        assert_eq!(Counters::of("6.6", 4096, 64, || false), Counters::PerProcessor(128 * 64 * 4096));
    }

    #[test]
    fn this_kernel_is_found_out() {
        let release = release();
        assert!(release.starts_with(|first: char| first.is_ascii_digit()), "{release}");
        if Counters::of(&release, 4096, 1, || false) == Counters::Exact {
            assert!((0..10).any(|_| shows_new_pages_at_once(4096)), "it can be seen from inside, too");
        }
    }

    #[test]
    fn ranges_of_processors_are_counted() {
        assert_eq!(count_of_ranges("0-3,5,8-9\n"), Some(7));
        assert_eq!(count_of_ranges("0"), Some(1));
        for wrong in ["", "3-1", "a", "0-", "0-18446744073709551615"] {
            assert_eq!(count_of_ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_group_is_found_and_what_is_below_it() {
        let v1: &[u8] = b"11:cpuset:/x\n4:cpu,memory:/docker/a\n0::/system.slice\n";
        assert_eq!(memory_group(v1), Some(&b"/docker/a"[..]));
        assert_eq!(memory_group(b"1:name=systemd:/x\n0::/kubepods/a:b\n"), Some(&b"/kubepods/a:b"[..]));
        assert_eq!(memory_group(b"1:name=memory:/x\n"), None);
        assert!(is_within(b"/a/b", b"/a") && is_within(b"/a", b"/a") && is_within(b"/a", b"/") && is_within(b"/", b"/"));
        assert!(!is_within(b"/ab", b"/a") && !is_within(b"/", b"/a") && !is_within(b"/../x", b"/") && !is_within(b"/..", b"/"));
    }

    /// Pid, start, and percent of what its parent has.
    type Child = (u32, u64, u64);
    /// At which time, and who was there.
    type Look<'a> = (u64, &'a [Child]);

    /// One parent of 100 MB that was started at 0, looked at in the given order.
    fn looks(looks: &[Look<'_>]) -> Vec<bool> {
        const PARENT: u64 = 100 << 20;
        let mut parents = None;
        looks
            .iter()
            .map(|&(now, children)| {
                let held = |pid, started, anon, forks| Held { pid, parent: 1, started, forked: true, anon, forks, fork: 0 };
                let own = held(1, 0, PARENT, u32::try_from(children.len()).unwrap());
                let parent = parents.get_or_insert_with(|| Parent::new(&own));
                let child = children.first().map_or(own, |&(pid, started, percent)| held(pid, started, PARENT / 100 * percent, 0));
                parent.writes_snapshot(&own, &child, 64 << 20, now)
            })
            .collect()
    }

    #[test]
    fn one_late_fork_as_large_as_its_parent_is_a_snapshot() {
        assert_eq!(looks(&[(1000, &[]), (2000, &[(5, 1990, 100)]), (9000, &[(5, 1990, 100)]), (9100, &[])]), [false, true, true, false]);
        // What it has written it gives back.
        assert_eq!(looks(&[(2000, &[(5, 1900, 60)]), (9000, &[(5, 1900, 10)])]), [true, true]);
        assert_eq!(looks(&[(2000, &[(5, 1900, 49)])]), [false], "too small");
        assert_eq!(looks(&[(2000, &[(5, 1995, 100)])]), [false], "about to execute, maybe");
        assert_eq!(
            looks(&[(200, &[(5, 99, 100)]), (201, &[(6, 101, 100)])]),
            [false, false],
            "there from the start, and its successor at once"
        );
    }

    #[test]
    fn a_snapshot_neither_grows_nor_stays() {
        assert_eq!(looks(&[(2000, &[(5, 1900, 110)]), (2100, &[(5, 1900, 116)])]), [true, false]);
        let old = 1900 + SNAPSHOT_AGE_MAX;
        assert_eq!(looks(&[(2000, &[(5, 1900, 100)]), (old, &[(5, 1900, 100)]), (old + 1, &[(5, 1900, 100)])]), [true, true, false]);
    }

    #[test]
    fn workers_that_follow_one_another_are_one_series() {
        // A new one every ten seconds, as soon as the last one ends, and seen twice.
        let children: Vec<Child> = (0..100).map(|number| (number + 5, 1000 + u64::from(number) * 1000, 100)).collect();
        let look = |after: u64| move |child: &Child| (child.1 + after, std::slice::from_ref(child).to_vec());
        let mut all: Vec<(u64, Vec<Child>)> = children.iter().flat_map(|child| [look(20)(child), look(980)(child)]).collect();
        let seen = looks(&all.iter().map(|(now, children)| (*now, &**children)).collect::<Vec<_>>());
        let last = seen.iter().rposition(|&snapshot| snapshot).unwrap();
        assert_eq!((seen[..last].iter().all(|&seen| seen), all[last].0), (true, 1000 + 89_980), "a quarter of an hour, and never again");
        // With a break between them each is new.
        all.retain(|(now, _)| now % 1000 == 20);
        assert!(looks(&all.iter().map(|(now, children)| (*now, &**children)).collect::<Vec<_>>()).iter().all(|&snapshot| snapshot));
    }

    #[test]
    fn who_was_seen_with_two_is_a_prefork_server_for_a_minute() {
        let two: &[Child] = &[(5, 1900, 100), (6, 1900, 100)];
        assert_eq!(looks(&[(2000, two), (2100, &[(5, 1900, 100)]), (8001, &[(7, 7900, 100)])]), [false, false, true]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (parse_status(&bytes), memory_group(&bytes));
        }

        #[test]
        fn nothing_like_a_status_panics(text in r"((Name|State|VmRSS|RssAnon|RssShmem|VmSwap|Threads):\t[Z0-9 kB]{0,20}\n){0,9}") {
            let _ = parse_status(text.as_bytes());
        }
    }
}
