//! What happened, as plain data: a notice of the engine with its sentence, for programs that read along.
//!
//! Serialised as JSON it is a contract: fields and kinds are added, never renamed. The sentence is the one of the log, so the two agree.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::format::Level;
use super::notice::Names;
use crate::engine::Cause;
use crate::engine::event::{InstanceId, Notice, RunId};
use crate::engine::incident::{GuardAct, How};
use crate::engine::memory::MemoryNotice;

/// Texts that others wrote are cut after so many characters.
const OTHERS_CHARS: usize = 300;

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// In order, from 1; absent where nothing happened but something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// Whom it is about: `web.1`; absent when it is about the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Which of its runs, from 1; absent when it is about no run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u32>,
    /// What.
    #[serde(flatten)]
    pub what: What,
    /// All of it in a sentence.
    pub text: String,
}

/// What happened. Durations are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is what the notice of the same name says; docs/cli.md lists them for those who read the JSON")]
pub enum What {
    Started {
        pid: u32,
    },
    Waiting {
        on: String,
    },
    Ready {
        after_ms: u64,
    },
    NotReady {
        why: String,
    },
    NotLive {
        why: String,
    },
    Watchdog,
    StartTimedOut {
        after_ms: u64,
    },
    Ended {
        outcome: How,
        uptime_ms: u64,
        clean: bool,
        asked: bool,
        left_behind: u32,
    },
    FilesChanged {
        service: String,
        what: String,
    },
    Restarting {
        delay_ms: u64,
        failures: u32,
        cause: Cause,
    },
    Completed {
        took_ms: u64,
    },
    NotRestarted,
    GaveUp {
        failures: u32,
    },
    Blocked {
        on: String,
    },
    Stopping {
        signal: String,
        grace_ms: u64,
        cause: Cause,
    },
    Killing {
        after_ms: u64,
    },
    Stopped,
    RollBegun {
        service: String,
        instances: u16,
    },
    RollTurn {
        left: u16,
    },
    Rolled {
        service: String,
    },
    RollStopped {
        left: u16,
    },
    Scaled {
        service: String,
        from: u16,
        to: u16,
    },
    Updating {
        added: usize,
        removed: usize,
        restarted: usize,
        amended: usize,
    },
    Added {
        service: String,
    },
    Removed {
        service: String,
    },
    Changed {
        service: String,
        restarted: bool,
    },
    Updated,
    /// Nothing has changed, since the file, or the moment, is wrong; `text` says what is.
    UpdateRefused,
    ShuttingDown {
        within_ms: u64,
        drain_ms: u64,
    },
    Over {
        code: i32,
    },
    /// The memory guard restarts, kills or signals a run.
    Guard {
        guard: Box<GuardAct>,
    },
    /// The kernel's OOM killer killed processes that are no run's main process, or may not be.
    OomKills {
        kills: u64,
    },
    /// A restart brought it back to where it was.
    Plateau {
        bytes: u64,
    },
    /// Memory is short and no restart would help.
    Helpless,
    /// The rest of what the memory guard has to tell; `text` says it.
    Memory,
    /// An incident is kept; `firstmate why` shows it.
    Incident {
        incident: u64,
    },
    /// So many events came faster than this reader read, and it does not get them.
    Lost {
        lost: u64,
    },
}

impl Happening {
    /// Of a notice with its sentence, and whom it is about; `None`: it tells how something is going, not what happened.
    #[must_use]
    pub fn of(notice: &Notice, names: &dyn Names, level: Level, text: &str) -> Option<(Option<InstanceId>, Self)> {
        let (subject, what) = told(notice, names)?;
        let (id, run) = match subject {
            Subject::Whole => (None, None),
            Subject::Instance(id) => (Some(id), None),
            Subject::Run(run) => (Some(run.instance), Some(run.run)),
        };
        let instance = id.map(|id| format!("{}.{}", names.service(id.service).unwrap_or("?"), id.number));
        Some((id, Self { number: None, at_unix_ms: 0, level, instance, run, what, text: text.to_owned() }))
    }

    /// An incident that was written down.
    #[must_use]
    pub fn incident(number: u64, instance: Option<&str>) -> Self {
        let about = instance.map_or_else(|| "the container".to_owned(), ToOwned::to_owned);
        let show = instance.map_or_else(|| "firstmate why".to_owned(), |instance| format!("firstmate why {instance}"));
        Self {
            number: None,
            at_unix_ms: 0,
            level: Level::Warn,
            instance: instance.map(ToOwned::to_owned),
            run: None,
            what: What::Incident { incident: number },
            text: format!("incident {number}, about {about}: `{show}` says more"),
        }
    }

    /// An update that was not made.
    #[must_use]
    pub fn update_refused(text: &str) -> Self {
        let text = text.to_owned();
        Self { number: None, at_unix_ms: 0, level: Level::Error, instance: None, run: None, what: What::UpdateRefused, text }
    }

    /// What a reader who is too slow gets in place of so many.
    #[must_use]
    pub fn lost(lost: u64) -> Self {
        let text = lost_events(lost);
        Self { number: None, at_unix_ms: 0, level: Level::Warn, instance: None, run: None, what: What::Lost { lost }, text }
    }
}

fn lost_events(lost: u64) -> String {
    match lost {
        1 => "1 event lost: it came faster than it was read".to_owned(),
        lost => format!("{lost} events lost: they came faster than they were read"),
    }
}

enum Subject {
    Whole,
    Instance(InstanceId),
    Run(RunId),
}

fn told(notice: &Notice, names: &dyn Names) -> Option<(Subject, What)> {
    use Subject::{Instance, Run, Whole};
    let service = |id| names.service(id).unwrap_or("?").to_owned();
    Some(match notice {
        Notice::Memory(notice) => memory(notice),
        Notice::Started { run, pid } => (Run(*run), What::Started { pid: *pid }),
        Notice::Waiting { instance, on } => (Instance(*instance), What::Waiting { on: service(*on) }),
        Notice::Ready { run, after } => (Run(*run), What::Ready { after_ms: millis(*after) }),
        Notice::NotReady { run, why } => (Run(*run), What::NotReady { why: cut(why) }),
        Notice::NotLive { run, why } => (Run(*run), What::NotLive { why: cut(why) }),
        Notice::WatchdogBit { run, why: _ } => (Run(*run), What::Watchdog),
        Notice::StartTimedOut { run, after, why: _ } => (Run(*run), What::StartTimedOut { after_ms: millis(*after) }),
        Notice::Ended { run, outcome, uptime, clean, left_behind, asked } => {
            let (outcome, uptime_ms) = (How::from(outcome), millis(*uptime));
            (Run(*run), What::Ended { outcome, uptime_ms, clean: *clean, asked: *asked, left_behind: *left_behind })
        }
        Notice::Changed { service: of, what } => (Whole, What::FilesChanged { service: service(*of), what: cut(what) }),
        Notice::Restarting { instance, delay, failures, cause } => {
            (Instance(*instance), What::Restarting { delay_ms: millis(*delay), failures: *failures, cause: *cause })
        }
        Notice::Completed { run, took } => (Run(*run), What::Completed { took_ms: millis(*took) }),
        Notice::NotRestarted { run, awaits_change: _ } => (Run(*run), What::NotRestarted),
        Notice::GaveUp { instance, failures } => (Instance(*instance), What::GaveUp { failures: *failures }),
        Notice::Blocked { instance, on } => (Instance(*instance), What::Blocked { on: service(*on) }),
        Notice::Stopping { run, signal, grace, cause } => {
            (Run(*run), What::Stopping { signal: signal.to_string(), grace_ms: millis(*grace), cause: *cause })
        }
        Notice::Killing { run, after } => (Run(*run), What::Killing { after_ms: millis(*after) }),
        Notice::Stopped { instance } => (Instance(*instance), What::Stopped),
        Notice::RollBegun { service: of, instances } => (Whole, What::RollBegun { service: service(*of), instances: *instances }),
        Notice::RollTurn { at, left } => (Instance(*at), What::RollTurn { left: *left }),
        Notice::Rolled { service: of } => (Whole, What::Rolled { service: service(*of) }),
        Notice::RollStopped { at, why: _, left } => (Instance(*at), What::RollStopped { left: *left }),
        Notice::Scaled { service: of, from, to } => (Whole, What::Scaled { service: service(*of), from: *from, to: *to }),
        Notice::Updating { added, removed, restarted, amended } => {
            (Whole, What::Updating { added: *added, removed: *removed, restarted: *restarted, amended: *amended })
        }
        Notice::Added { service: of } => (Whole, What::Added { service: service(*of) }),
        Notice::Removed { service: of } => (Whole, What::Removed { service: service(*of) }),
        Notice::Redefined { service: of, restarts } => (Whole, What::Changed { service: service(*of), restarted: *restarts }),
        Notice::Updated => (Whole, What::Updated),
        Notice::ShuttingDown { why: _, within, drain } => {
            (Whole, What::ShuttingDown { within_ms: millis(*within), drain_ms: millis(*drain) })
        }
        Notice::StillWaiting { .. } => return None,
        Notice::Over { why: _, code, abandoned: _ } => (Whole, What::Over { code: *code }),
    })
}

fn memory(notice: &MemoryNotice) -> (Subject, What) {
    match notice {
        MemoryNotice::Acted(acted) => (Subject::Run(acted.run), What::Guard { guard: Box::new(GuardAct::from(&**acted)) }),
        MemoryNotice::OomKills { kills, among: _, limit: _ } => (Subject::Whole, What::OomKills { kills: *kills }),
        MemoryNotice::Plateau { instance, bytes, at: _, of: _, own: _ } => (Subject::Instance(*instance), What::Plateau { bytes: *bytes }),
        MemoryNotice::Helpless { .. } => (Subject::Whole, What::Helpless),
        MemoryNotice::GraceOver { run, hard: _, limit: _ } => (Subject::Run(*run), What::Memory),
        MemoryNotice::Limit { .. }
        | MemoryNotice::Readable(_)
        | MemoryNotice::Method { .. }
        | MemoryNotice::Near { .. }
        | MemoryNotice::Receded { .. } => (Subject::Whole, What::Memory),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(OTHERS_CHARS).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::outcome::Outcome;
    use crate::engine::spec::ServiceId;

    #[test]
    fn a_happening_is_one_object_and_reads_back() {
        let names: &[&str] = &["web"];
        let run = RunId { instance: InstanceId { service: ServiceId(0), number: 2 }, run: 7 };
        let notice = Notice::Ended {
            run,
            outcome: Outcome::Exited(3),
            uptime: Duration::from_millis(1_500),
            clean: false,
            left_behind: 1,
            asked: false,
        };
        let text = "web.2 exited with code 3 after 1.5 s; 1 process left behind";
        let (id, happening) = Happening::of(&notice, &names, Level::Warn, text).unwrap();
        assert_eq!(id, Some(run.instance));
        let happening = Happening { number: Some(12), at_unix_ms: 1_798_761_599_007, ..happening };
        let text = serde_json::to_string(&happening).unwrap();
        assert_eq!(
            text,
            r#"{"number":12,"at_unix_ms":1798761599007,"level":"warn","instance":"web.2","run":7,"kind":"ended","outcome":{"how":"exited","code":3},"uptime_ms":1500,"clean":false,"asked":false,"left_behind":1,"text":"web.2 exited with code 3 after 1.5 s; 1 process left behind"}"#
        );
        assert_eq!(serde_json::from_str::<Happening>(&text).unwrap(), happening);
    }

    #[test]
    fn progress_is_no_event_and_others_texts_are_bounded() {
        let names: &[&str] = &["web"];
        let run = RunId { instance: InstanceId { service: ServiceId(0), number: 1 }, run: 1 };
        let waiting = Notice::StillWaiting { run, pid: None, waited: Duration::ZERO, of: Duration::ZERO };
        assert_eq!(Happening::of(&waiting, &names, Level::Info, ""), None);
        let not_ready = Notice::NotReady { run, why: "x".repeat(10_000) };
        let what = Happening::of(&not_ready, &names, Level::Warn, "").unwrap().1.what;
        assert_eq!(what, What::NotReady { why: "x".repeat(OTHERS_CHARS) });
    }
}
