//! What the memory guard is told and what it asks for, as plain data. Sizes are bytes.
//!
//! The number that decides is *hard*: memory that cannot be taken back without swapping or killing, that is usage less the page cache on
//! the file lists and less reclaimable slab. Whatever is above it is the kernel's to give.
//!
//! No service of a container can hold more than the container's hard memory, so one small read answers for all of them, and processes
//! are looked at only when it says that one of them may matter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::event::RunId;
use super::status::{LimitSource, MemoryMethod};

/// The limit in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Beyond it the kernel kills; of the machine when the source is `Machine`.
    pub bytes: u64,
    /// Who told.
    pub source: LimitSource,
    /// Where it was found: a cgroup's path or an address; empty where the source says it all.
    pub place: String,
    /// No growth is faster, in bytes a second: 4 GB/s on one processor with small pages, twice that on several, and twice that again where
    /// there are huge pages.
    pub growth_max: u64,
}

/// One look at the memory of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Of the cgroup whose limit is in force. An upper bound (plain usage) when `parts` is `None`. Without a cgroup: what is not
    /// available of the machine's memory.
    pub hard: u64,
    /// What it consists of; `None` when usage alone was below `stat_above`, or when it cannot be read.
    pub parts: Option<Parts>,
}

/// What firstmate's own cgroup holds, descendants included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// Anonymous memory as the cgroup counts it, pages that were given back by MADV_FREE included.
    pub anon: u64,
    /// tmpfs and shared memory, whether or not a process maps it.
    pub shmem: u64,
    /// Pages on the anonymous lists and unevictable ones: anonymous and shared memory without what MADV_FREE gave back.
    pub unreclaimable: u64,
    /// Swapped out.
    pub swap: u64,
}

/// Nothing is near any line and nothing grows: looks may be left to somebody who decides nothing, and says when this is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calm {
    /// The container is to be looked at this often.
    pub every: Duration,
    /// It is over when a look shows more than so many bytes of hard memory, or fails,
    pub above: u64,
    /// or less than so many: what comes back from below is growth, too.
    pub below: u64,
    /// An upper bound tells as much about `above` as hard memory itself, and nothing about `below`: the latter is read this often.
    pub exact_every: Duration,
}

impl Calm {
    /// Whether a look that shows this changes nothing.
    #[must_use]
    pub const fn is_still(&self, reading: &Reading) -> bool {
        self.below <= reading.hard && reading.hard <= self.above
    }
}

/// Every run's processes, as far as they can be seen without privilege and without waiting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// One for each run that has a process.
    pub runs: Vec<Usage>,
    /// The processes of the container that belong to no run, firstmate itself included; `None` when they cannot be seen.
    pub others: Option<Rss>,
    /// The tmpfs file systems that hold something: where they are mounted, and how much.
    pub tmpfs: Vec<(String, u64)>,
}

/// A sum over processes, of RssAnon, RssShmem and VmSwap: each process's own view, so pages that several share are counted once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rss {
    /// Private and copy-on-write memory.
    pub anon: u64,
    /// Shared memory.
    pub shmem: u64,
    /// Swapped out.
    pub swap: u64,
    /// anon + shmem + swap of the largest of them.
    pub largest: u64,
    /// Page tables and kernel stacks, which are shared with nobody.
    pub kernel: u64,
    /// How many.
    pub processes: u32,
}

/// One run's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Which run.
    pub run: RunId,
    /// What they hold; `None` when one of them cannot be read.
    pub rss: Option<Rss>,
    /// What its own cgroup holds, where it has one: exact.
    pub cgroup: Option<u64>,
    /// A forked child, not executed anew, holds about what its parent holds, and its parent is large: Redis writing its snapshot.
    pub snapshot: bool,
    /// The largest first, at most three.
    pub top: Vec<Process>,
}

/// One process, to be named in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its command name, as the process gave it: not to be trusted.
    pub name: String,
    /// RssAnon + RssShmem + VmSwap.
    pub bytes: u64,
}

/// The proportional set size of a run's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pss {
    /// Anonymous and shared memory by share, less what MADV_FREE gave back, with swap, page tables and kernel stacks.
    pub bytes: u64,
    /// How it was read.
    pub method: MemoryMethod,
}

/// Memory news for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryEvent {
    /// The limit in force, at the start and whenever it has changed; `None` when nothing can be known about memory.
    Limit(Option<Limit>),
    /// The answer to `MemoryAction::Read`; `None` when it could not be read.
    Read(Option<Reading>),
    /// It is calm no longer ([`Calm`]): what the look shows that saw it, and when the last one before it was.
    Grew {
        /// The look before: nothing had grown by then.
        calm_until: Timestamp,
        /// This one; `None` when it failed.
        reading: Option<Reading>,
    },
    /// The answer to `MemoryAction::Account`.
    Accounted(Box<Accounts>),
    /// The answer to `MemoryAction::Measure`, for each run of it.
    Measured {
        /// Which run.
        run: RunId,
        /// What came of it.
        pss: Measurement,
    },
    /// The kernel's OOM killer killed so many processes that no death seen here explains: children of services, or two deaths at once
    /// of which it cannot be said which it was.
    OomKills {
        /// Processes it killed.
        kills: u64,
        /// Runs whose main process died by SIGKILL in the same moment, of which some may be among them.
        among: Vec<RunId>,
    },
}

/// What came of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement {
    /// So much.
    Pss(Pss),
    /// There is no number to be had: the kernel refuses it, or it takes too long.
    Refused,
    /// Not at present: the last request is being worked at, or what it cost has not been waited out.
    NotNow,
}

/// What the guard asks of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryAction {
    /// Read the container's memory: plain usage, and what it consists of when usage is above this.
    Read {
        /// Bytes.
        stat_above: u64,
    },
    /// Look at the processes of every run, without asking anything that waits for them.
    Account,
    /// Read the proportional set size of these runs, without holding anything up.
    Measure {
        /// Which.
        runs: Vec<RunId>,
    },
    /// Make the kernel prefer (or no longer prefer) this run's processes, should it have to kill: oom_score_adj.
    Steer {
        /// Which run.
        run: RunId,
        /// Prefer it; otherwise back to what it was.
        prefer: bool,
    },
    /// Slow its growth down, where it has a cgroup of its own: memory.high at what it holds now.
    Brake {
        /// Which run.
        run: RunId,
    },
    /// The `action` of its file: this signal to its main process.
    Signal {
        /// Which run.
        run: RunId,
        /// Which signal.
        signal: super::Signal,
    },
}

/// Why the guard acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Above `restart_above` for `confirm`.
    Held,
    /// Soon at `hard_above`, at the present rate.
    Forecast,
    /// Above `hard_above`.
    Hard,
    /// Above `emergency_above`, or about to be before the next look.
    Emergency,
    /// The service's own `restart_above`, for `confirm`.
    Own,
}

/// What the guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Restarted it, with its grace period.
    Restart,
    /// SIGKILL to its tree, followed by a restart.
    Kill,
    /// Sent it the signal its file names.
    Signal(super::Signal),
}

/// One act of the guard, with all there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Acted {
    /// On whom.
    pub run: RunId,
    /// What was done.
    pub act: Act,
    /// Why.
    pub rule: Rule,
    /// What the run holds, as well as it is known.
    pub bytes: u64,
    /// How that is known.
    pub method: MemoryMethod,
    /// How fast it grows, in bytes a second.
    pub slope: i64,
    /// The container's hard memory.
    pub hard: u64,
    /// The limit in force.
    pub limit: u64,
    /// The line that was crossed, or is about to be.
    pub line: u64,
    /// Since `restart_above`, or the service's own line, was crossed.
    pub above_for: Duration,
    /// The kernel's OOM killer would have struck after so long, at the present rate; `None` when nothing grows.
    pub oom_in: Option<Duration>,
    /// Its largest processes.
    pub top: Vec<Process>,
    /// Since its start.
    pub uptime: Duration,
}

/// What the guard has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum MemoryNotice {
    /// The limit in force, at the start and whenever it has changed.
    Limit {
        /// `None`: nothing can be known about memory.
        limit: Option<Limit>,
        /// Where the guard acts; `None` when it is off.
        restart_above: Option<u64>,
    },
    /// It is read, or no longer read, how much memory the container uses.
    Readable(bool),
    /// How a service's memory is known, told once for each way.
    Method {
        /// Which service.
        service: super::ServiceId,
        /// How.
        method: MemoryMethod,
    },
    /// Above nine tenths of the line for the first time: who holds what.
    Near {
        /// The container's hard memory.
        hard: u64,
        /// The limit in force.
        limit: u64,
        /// The line.
        line: u64,
        /// Each run's share, the largest first.
        shares: Vec<(RunId, u64)>,
    },
    /// Acted.
    Acted(Box<Acted>),
    /// Above the line, and no restart would help: told once.
    Helpless {
        /// Why.
        why: Helpless,
        /// The container's hard memory.
        hard: u64,
        /// The limit in force.
        limit: u64,
        /// Each run's share, the largest first.
        shares: Vec<(RunId, u64)>,
    },
    /// A restart brought it back to where it was: told once.
    Plateau {
        /// Who.
        instance: super::InstanceId,
        /// Where it settles.
        bytes: u64,
        /// The container's hard memory, or the run's own when its own line was crossed.
        at: u64,
        /// The limit, or the service's own line.
        of: u64,
        /// Its own line.
        own: bool,
    },
    /// The grace period of a run that is being ended is over early, for want of memory: SIGKILL follows.
    GraceOver {
        /// Which run.
        run: RunId,
        /// The container's hard memory.
        hard: u64,
        /// The limit in force.
        limit: u64,
    },
    /// Back below the line.
    Receded {
        /// The container's hard memory.
        hard: u64,
        /// The limit in force.
        limit: u64,
        /// How long it was above.
        after: Duration,
    },
    /// The kernel's OOM killer killed processes that are no run's main process, or of which it cannot be said whether they are.
    OomKills {
        /// How many.
        kills: u64,
        /// Runs that died by SIGKILL in the same moment.
        among: Vec<RunId>,
        /// The limit in force, if one is known.
        limit: Option<u64>,
    },
}

/// Why no restart would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Helpless {
    /// Most of it is in tmpfs or shared memory that belongs to no process: the file systems that hold it.
    Tmpfs {
        /// In tmpfs and in nobody's memory.
        bytes: u64,
        /// Where.
        places: Vec<(String, u64)>,
    },
    /// Most of it belongs to no service: the kernel's own, or processes firstmate did not start.
    Others {
        /// So much.
        bytes: u64,
    },
    /// No service has grown enough for its restart to bring the container back below the line.
    NobodyGrew,
    /// Those that would help may not be chosen: `victim = "never"`.
    Forbidden,
    /// How much each holds cannot be known here.
    Unknown,
}
