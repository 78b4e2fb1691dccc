//! The incidents: every end of a run that was not as it should be, and what befell memory beside. Plain data, kept in a bounded journal.
//!
//! The journal reads the engine's own notices, as the log does, so the two cannot disagree; what a notice does not say (how large the run was)
//! is looked up before the step that brings it. A run that ended as wished, or with a success code by itself, is no incident.
//!
//! Serialised as JSON it is a contract: fields are added, never renamed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Action, Bite, Cause, Event, InstanceId, Notice, RunId};
use super::instance::{Ending, State};
use super::memory::{Act, Acted, Helpless, MemoryNotice, Process, Rule};
use super::outcome::{Outcome, Stage};
use super::stack::Engine;
use super::status::{InstanceMemory, LimitSource, MemoryMethod};
use super::{Signal, Timestamp};

/// So many are kept; the oldest goes first.
pub const KEPT: usize = 100;
/// So many runs or file systems one incident names.
const NAMED: usize = 10;
/// What a probe said is cut after this.
const REASON_CHARS: usize = 300;

/// All that are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Incidents {
    /// Since firstmate started: what `at_ms` is to be held against.
    pub uptime_ms: u64,
    /// When firstmate started, in milliseconds since 1970; absent when nobody told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// Older ones that made room.
    pub dropped: u64,
    /// The oldest first.
    pub incidents: Vec<Incident>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// From 1, in order.
    pub number: u64,
    /// When, since firstmate's start.
    pub at_ms: u64,
    /// When, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
    /// What.
    #[serde(flatten)]
    pub what: What,
    /// The container's memory as last read; absent where nothing is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerMemory>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A run ended as it should not have.
    RunEnded(Box<RunEnded>),
    /// The memory guard sent a run the signal its file names.
    Signalled(Box<Signalled>),
    /// The kernel's OOM killer killed processes that are no run's main process, or of which it cannot be said whether they are.
    OomKills {
        /// How many.
        kills: u64,
        /// Instances that died by SIGKILL in the same moment, ten at most.
        among: Vec<String>,
    },
    /// A restart brought an instance back to where it was.
    Plateau {
        /// Which: `web.1`.
        instance: String,
        /// Where it settles.
        bytes: u64,
        /// What was compared: the container's hard memory, or the instance's own.
        at_bytes: u64,
        /// With what: the limit, or the line.
        of_bytes: u64,
        /// The instance's own line.
        own: bool,
    },
    /// Above the line, and no restart would help.
    Helpless {
        /// Why.
        because: Because,
        /// Who holds how much, the largest first, ten at most.
        shares: Vec<Held>,
    },
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnded {
    /// `web.1`.
    pub instance: String,
    /// Which of its runs, from 1.
    pub run: u32,
    /// How its main process ended.
    pub outcome: How,
    /// The signal was firstmate's own, or it left while firstmate was stopping it.
    pub asked: bool,
    /// Why firstmate ended it; `crash` when it did not.
    pub cause: Cause,
    /// What its probe said, or which signal an operator sent it, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the memory guard saw, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardAct>,
    /// firstmate sent SIGKILL, so long after it had asked it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigkill_after_ms: Option<u64>,
    /// Processes it left behind.
    pub left_behind: u32,
    /// Since its start.
    pub uptime_ms: u64,
    /// Its memory as last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<InstanceMemory>,
    /// Consecutive failed runs, this one included where it counts as one.
    pub failures: u32,
    /// What firstmate did about it.
    pub then: Then,
}

/// How a main process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum How {
    /// It called exit.
    Exited {
        /// With this code.
        code: i32,
    },
    /// It was ended by a signal.
    Signaled {
        /// `SIGSEGV`.
        signal: String,
        /// Its number.
        number: i32,
    },
    /// By the kernel's OOM killer.
    OomKilled,
    /// Its program was never executed.
    SpawnFailed {
        /// What was being done.
        stage: Stage,
        /// See errno(3); 0 where no call failed.
        errno: i32,
        /// All of it in words.
        error: String,
    },
}

/// What followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum Then {
    /// Nothing yet: what it left behind is being ended.
    Pending,
    /// Started again.
    Restarted {
        /// After so long.
        delay_ms: u64,
    },
    /// Given up: `give_up_after` was reached.
    GaveUp,
    /// Left down, as its `restart` policy says.
    NotRestarted,
    /// Left down, as wished.
    Stopped,
}

/// An act of the memory guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardAct {
    /// What was done.
    pub act: ActName,
    /// The signal, where it was one: `SIGUSR2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why.
    pub rule: Rule,
    /// What the run held.
    pub bytes: u64,
    /// That as a share of the limit, 0 to 100.
    pub percent: f64,
    /// How it was known.
    pub method: MemoryMethod,
    /// How fast it grew.
    pub growth_bytes_per_second: i64,
    /// The container's hard memory.
    pub hard_bytes: u64,
    /// The limit in force.
    pub limit_bytes: u64,
    /// The line that was crossed.
    pub line_bytes: u64,
    /// How long memory had been above the first line.
    pub above_for_ms: u64,
    /// The kernel's OOM killer would have struck after so long; absent when nothing grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_in_ms: Option<u64>,
    /// Its largest processes.
    pub top: Vec<Process>,
}

/// What the memory guard did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActName {
    /// Restarted it, with its grace period.
    Restart,
    /// SIGKILL to its tree.
    Kill,
    /// Sent it a signal.
    Signal,
}

/// A signal of the memory guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signalled {
    /// `web.1`.
    pub instance: String,
    /// Which of its runs, from 1.
    pub run: u32,
    /// Since its start.
    pub uptime_ms: u64,
    /// What the guard saw.
    pub guard: GuardAct,
}

/// Why no restart would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Because {
    /// Files in tmpfs, or shared memory, that no process holds.
    Tmpfs {
        /// So much.
        bytes: u64,
        /// Where, ten at most.
        places: Vec<Held>,
    },
    /// It belongs to no service.
    Others {
        /// So much.
        bytes: u64,
    },
    /// No service has grown enough.
    NobodyGrew,
    /// Those that would help may not be chosen.
    Forbidden,
    /// How much each holds cannot be known here.
    Unknown,
}

/// Who, or which place, holds how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// An instance, or where a file system is mounted.
    pub name: String,
    /// So much.
    pub bytes: u64,
}

/// The container's memory at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMemory {
    /// Memory that cannot be taken back without swapping or killing, as last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_bytes: Option<u64>,
    /// The limit in force.
    pub limit_bytes: u64,
    /// Where that came from.
    pub limit_source: LimitSource,
    /// Where the guard acts; absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_above_bytes: Option<u64>,
}

impl What {
    /// The instance it is about; `None` when it is about the container.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        match self {
            Self::RunEnded(ended) => Some(&ended.instance),
            Self::Signalled(signalled) => Some(&signalled.instance),
            Self::Plateau { instance, .. } => Some(instance),
            Self::OomKills { .. } | Self::Helpless { .. } => None,
        }
    }
}

impl From<&Outcome> for How {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Exited(code) => Self::Exited { code: *code },
            Outcome::Signaled(signal) => Self::Signaled { signal: signal.to_string(), number: signal.number() },
            Outcome::OomKilled => Self::OomKilled,
            Outcome::SpawnFailed(error) => Self::SpawnFailed { stage: error.stage, errno: error.errno, error: error.to_string() },
        }
    }
}

impl From<&Acted> for GuardAct {
    fn from(acted: &Acted) -> Self {
        let (act, signal) = match acted.act {
            Act::Restart => (ActName::Restart, None),
            Act::Kill => (ActName::Kill, None),
            Act::Signal(signal) => (ActName::Signal, Some(signal)),
        };
        Self {
            act,
            signal: signal.as_ref().map(Signal::to_string),
            rule: acted.rule,
            bytes: acted.bytes,
            percent: percent(acted.bytes, acted.limit),
            method: acted.method,
            growth_bytes_per_second: acted.slope,
            hard_bytes: acted.hard,
            limit_bytes: acted.limit,
            line_bytes: acted.line,
            above_for_ms: millis(acted.above_for),
            oom_in_ms: acted.oom_in.map(millis),
            top: acted.top.clone(),
        }
    }
}

/// What is kept, and what is known of runs that have not ended yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal {
    kept: VecDeque<Incident>,
    /// The number of the last one.
    last: u64,
    /// By instance: never more than there are.
    notes: BTreeMap<InstanceId, Note>,
    /// The incident of which it is not known yet what is done about it.
    pending: BTreeMap<InstanceId, u64>,
}

/// Why a run is being ended.
#[derive(Debug, Clone, Default)]
struct Note {
    run: u32,
    cause: Option<Cause>,
    reason: Option<String>,
    acted: Option<Box<Acted>>,
    sigkill_after: Option<Duration>,
}

/// What is to be known of a run before the step that ends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Witness {
    run: RunId,
    cause: Cause,
    memory: Option<InstanceMemory>,
}

impl Journal {
    fn note(&mut self, run: RunId) -> &mut Note {
        let note = self.notes.entry(run.instance).or_default();
        if note.run != run.run {
            *note = Note { run: run.run, ..Note::default() };
        }
        note
    }

    fn take_note(&mut self, run: RunId) -> Note {
        self.notes.remove(&run.instance).filter(|note| note.run == run.run).unwrap_or_default()
    }

    fn push(&mut self, at_ms: u64, what: What, container: Option<ContainerMemory>) -> u64 {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.last = self.last.saturating_add(1);
        self.kept.push_back(Incident { number: self.last, at_ms, at_unix_ms: None, what, container });
        self.last
    }

    /// What firstmate did about the last end of this instance, if that is not known yet.
    fn resolve(&mut self, instance: InstanceId, then: Then, failures: u32) {
        let Some(number) = self.pending.remove(&instance) else { return };
        // It may have made room already. The latest are at the end.
        if let Some(Incident { what: What::RunEnded(ended), .. }) = self.kept.iter_mut().rev().find(|incident| incident.number == number) {
            ended.then = then;
            ended.failures = failures;
        }
    }
}

impl Engine {
    /// The incidents that are kept. `started_unix_ms`: when the engine was made, in milliseconds since 1970, from a clock it does not have.
    #[must_use]
    pub fn incidents(&self, now: Timestamp, started_unix_ms: Option<u64>) -> Incidents {
        let at_unix_ms = |at_ms: u64| started_unix_ms.map(|started| started.saturating_add(at_ms));
        let kept = &self.journal.kept;
        Incidents {
            uptime_ms: millis(now.since(self.began)),
            started_unix_ms,
            dropped: self.journal.last.saturating_sub(u64::try_from(kept.len()).unwrap_or(u64::MAX)),
            incidents: kept.iter().map(|one| Incident { at_unix_ms: at_unix_ms(one.at_ms), ..one.clone() }).collect(),
        }
    }

    /// Number and instance of each incident that is kept and came after that one.
    pub fn incidents_after(&self, number: u64) -> impl Iterator<Item = (u64, Option<&str>)> {
        let new = self.journal.last.saturating_sub(number);
        let kept = &self.journal.kept;
        let skipped = kept.len().saturating_sub(usize::try_from(new).unwrap_or(usize::MAX));
        kept.iter().skip(skipped).map(|incident| (incident.number, incident.what.instance()))
    }

    /// What will be gone when this event has been taken.
    pub(super) fn witness(&self, now: Timestamp, event: &Event) -> Option<Witness> {
        let Event::Exited { run, .. } = event else { return None };
        let instance = self.instance(run.instance)?;
        let cause = match &instance.state {
            State::Ending(Ending { cause, .. }) => *cause,
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } => Cause::Crash,
        };
        (instance.run() == Some(*run)).then(|| Witness { run: *run, cause, memory: self.guard.instance_status(now, instance) })
    }

    /// Reads what a step had to tell.
    pub(super) fn record(&mut self, now: Timestamp, witness: Option<Witness>, actions: &[Action]) {
        for action in actions {
            let Action::Notice(notice) = action else { continue };
            match notice {
                Notice::Memory(notice) => self.record_memory(now, notice),
                Notice::NotLive { run, why } => {
                    let note = self.journal.note(*run);
                    (note.cause, note.reason) = (Some(Cause::Live), Some(cut(why)));
                }
                Notice::WatchdogBit { run, why } => {
                    let note = self.journal.note(*run);
                    note.cause = Some(Cause::Watchdog);
                    note.reason = Some(match why {
                        Bite::Silent(silent_for) => format!("no WATCHDOG=1 within {} ms", millis(*silent_for)),
                        Bite::Asked => "it said WATCHDOG=trigger".to_owned(),
                        Bite::Stayed(stayed_for) => format!("still there {} ms after its STOPPING=1", millis(*stayed_for)),
                    });
                }
                Notice::StartTimedOut { run, after: _, why } => {
                    let note = self.journal.note(*run);
                    (note.cause, note.reason) = (Some(Cause::StartTimeout), why.as_deref().map(cut));
                }
                Notice::Killing { run, after } => self.journal.note(*run).sigkill_after = Some(*after),
                Notice::Ended { run, outcome, uptime, clean, left_behind, asked } => {
                    let mut note = self.journal.take_note(*run);
                    let seen = witness.filter(|witness| witness.run == *run);
                    let mut cause = note.cause.or_else(|| seen.map(|seen| seen.cause)).unwrap_or(Cause::Crash);
                    // Nobody but an operator has firstmate send a signal to a run that is not being ended.
                    if let (Cause::Crash, true, Outcome::Signaled(signal)) = (cause, *asked, outcome) {
                        cause = Cause::Operator;
                        note.reason = Some(format!("an operator sent it {signal}"));
                    }
                    let abnormal = match cause {
                        Cause::Live | Cause::Watchdog | Cause::StartTimeout | Cause::Memory => true,
                        Cause::Crash | Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown => !clean,
                    };
                    if abnormal {
                        let ended = RunEnded {
                            instance: self.instance_name(run.instance),
                            run: run.run,
                            outcome: How::from(outcome),
                            asked: *asked,
                            cause,
                            reason: note.reason,
                            guard: note.acted.as_deref().map(GuardAct::from),
                            sigkill_after_ms: note.sigkill_after.map(millis),
                            left_behind: *left_behind,
                            uptime_ms: millis(*uptime),
                            memory: seen.and_then(|seen| seen.memory),
                            failures: self.failures_of(run.instance),
                            then: Then::Pending,
                        };
                        let number = self.push_incident(now, What::RunEnded(Box::new(ended)));
                        self.journal.pending.insert(run.instance, number);
                    } else {
                        self.journal.pending.remove(&run.instance);
                    }
                }
                Notice::Restarting { instance, delay, failures, cause: _ } => {
                    self.journal.resolve(*instance, Then::Restarted { delay_ms: millis(*delay) }, *failures);
                }
                Notice::GaveUp { instance, failures } => self.journal.resolve(*instance, Then::GaveUp, *failures),
                Notice::NotRestarted { run, awaits_change: _ } => {
                    let failures = self.failures_of(run.instance);
                    self.journal.resolve(run.instance, Then::NotRestarted, failures);
                }
                Notice::Stopped { instance } => {
                    let failures = self.failures_of(*instance);
                    self.journal.resolve(*instance, Then::Stopped, failures);
                }
                // An operator's restart is told by nothing else.
                Notice::Started { run, pid: _ } => self.journal.resolve(run.instance, Then::Restarted { delay_ms: 0 }, 0),
                Notice::Waiting { .. }
                | Notice::Ready { .. }
                | Notice::Changed { .. }
                | Notice::NotReady { .. }
                | Notice::Completed { .. }
                | Notice::Blocked { .. }
                | Notice::Stopping { .. }
                | Notice::RollBegun { .. }
                | Notice::RollTurn { .. }
                | Notice::Rolled { .. }
                | Notice::RollStopped { .. }
                | Notice::Scaled { .. }
                | Notice::Updating { .. }
                | Notice::Added { .. }
                | Notice::Removed { .. }
                | Notice::Redefined { .. }
                | Notice::Updated
                | Notice::ShuttingDown { .. }
                | Notice::StillWaiting { .. }
                | Notice::Over { .. } => {}
            }
        }
    }

    fn record_memory(&mut self, now: Timestamp, notice: &MemoryNotice) {
        let what = match notice {
            MemoryNotice::Acted(acted) => match acted.act {
                // Told with the end of the run.
                Act::Restart | Act::Kill => {
                    let note = self.journal.note(acted.run);
                    (note.cause, note.acted) = (Some(Cause::Memory), Some(acted.clone()));
                    return;
                }
                Act::Signal(_) => What::Signalled(Box::new(Signalled {
                    instance: self.instance_name(acted.run.instance),
                    run: acted.run.run,
                    uptime_ms: millis(acted.uptime),
                    guard: GuardAct::from(&**acted),
                })),
            },
            MemoryNotice::OomKills { kills, among, limit: _ } => {
                What::OomKills { kills: *kills, among: among.iter().take(NAMED).map(|run| self.instance_name(run.instance)).collect() }
            }
            MemoryNotice::Plateau { instance, bytes, at, of, own } => {
                What::Plateau { instance: self.instance_name(*instance), bytes: *bytes, at_bytes: *at, of_bytes: *of, own: *own }
            }
            MemoryNotice::Helpless { why, hard: _, limit: _, shares } => {
                let because = match why {
                    Helpless::Tmpfs { bytes, places } => {
                        let places = places.iter().take(NAMED).map(|(name, bytes)| Held { name: cut(name), bytes: *bytes }).collect();
                        Because::Tmpfs { bytes: *bytes, places }
                    }
                    Helpless::Others { bytes } => Because::Others { bytes: *bytes },
                    Helpless::NobodyGrew => Because::NobodyGrew,
                    Helpless::Forbidden => Because::Forbidden,
                    Helpless::Unknown => Because::Unknown,
                };
                let held = |(run, bytes): &(RunId, u64)| Held { name: self.instance_name(run.instance), bytes: *bytes };
                What::Helpless { because, shares: shares.iter().take(NAMED).map(held).collect() }
            }
            MemoryNotice::Limit { .. }
            | MemoryNotice::Readable(_)
            | MemoryNotice::Method { .. }
            | MemoryNotice::Near { .. }
            | MemoryNotice::GraceOver { .. }
            | MemoryNotice::Receded { .. } => return,
        };
        self.push_incident(now, what);
    }

    fn push_incident(&mut self, now: Timestamp, what: What) -> u64 {
        let container = self.guard.status(now).map(|memory| ContainerMemory {
            hard_bytes: memory.hard_bytes,
            limit_bytes: memory.limit_bytes,
            limit_source: memory.limit_source,
            restart_above_bytes: memory.restart_above_bytes,
        });
        self.journal.push(millis(now.since(self.began)), what, container)
    }

    fn failures_of(&self, instance: InstanceId) -> u32 {
        self.instance(instance).map_or(0, |instance| instance.failures)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(REASON_CHARS).collect()
}

/// To one decimal.
#[expect(clippy::cast_precision_loss, reason = "sizes below 8 PiB are exact")]
fn percent(bytes: u64, of: u64) -> f64 {
    (bytes as f64 * 1_000.0 / of.max(1) as f64).round() / 10.0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
