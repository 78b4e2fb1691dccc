//! What a run tells of itself, and what that changes: readiness by its own word, its status, its watchdog.
//!
//! Invariant: only a run whose `ready` says so is listened to. What it says is kept in the states in which it means something: a
//! watchdog can bite only who is ready, and nothing said is left over for the next run.

use std::time::Duration;

use super::Timestamp;
use super::event::{Action, Bite, Cause, Notice, RunId};
use super::instance::{BecomesReady, EndPhase, Ending, Instance, Leader, State};
use super::probe::Prober;
use super::spec::Service;

/// What a run says of itself once it is leaving.
const STOPPING: &str = "it says that it is stopping";

/// One thing a run told; words in capitals are those of sd_notify(3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// `READY=1`, the newline on its descriptor, or the line that was waited for.
    Ready,
    /// It has lost the means to say that it is ready: this is why.
    Mute(String),
    /// `RELOADING=1`; `READY=1` ends it.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
    /// `STATUS=`: one short printable line; empty takes the last one back.
    Status(String),
    /// `WATCHDOG=1`.
    Alive,
    /// `WATCHDOG=trigger`.
    Trigger,
    /// `WATCHDOG_USEC=`: from now on it must say `WATCHDOG=1` at least so often; `None` is never.
    WatchdogEvery(Option<Duration>),
    /// `EXTEND_TIMEOUT_USEC=`: it needs so long from now for its start, or for its end.
    ExtendTimeout(Duration),
}

/// How much of what was said so far has been passed on when a step looks what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Everything: who has said nothing is silent.
    Everything,
    /// What breaks a silence may wait behind the event of this step.
    Something,
}

/// What a run has said that still holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Voice {
    pub(super) status: Option<String>,
    pub(super) reloading: bool,
    /// How often it must say that it is alive.
    pub(super) watchdog: Option<Duration>,
}

impl Voice {
    /// `reloading: 3 of 8 workers`.
    pub(super) fn words(&self) -> Option<String> {
        match (&self.status, self.reloading) {
            (None, false) => None,
            (None, true) => Some("reloading".to_owned()),
            (Some(status), false) => Some(status.clone()),
            (Some(status), true) => Some(format!("reloading: {status}")),
        }
    }

    fn hear_status(&mut self, status: String) {
        self.status = Some(status).filter(|status| !status.is_empty());
    }
}

/// By what a run that is ready may cease to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StaysReady {
    /// By its end only.
    Unasked,
    /// By its probe.
    Asked(Prober),
    /// By its own word, or by its silence.
    Tells { voice: Voice, awaits: Awaits },
}

/// What must be heard of a run that tells, and by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Nothing.
    Nothing,
    /// That it is alive.
    Life { by: Timestamp },
    /// Its end: it has said `STOPPING=1`, and its watchdog is off for that.
    End { said_at: Timestamp, by: Timestamp },
}

impl Awaits {
    fn life(now: Timestamp, voice: &Voice) -> Self {
        voice.watchdog.map_or(Self::Nothing, |every| Self::Life { by: now.after(every) })
    }

    /// It has said that it is alive, or how often it will.
    fn is_alive(&mut self, now: Timestamp, voice: &Voice) {
        match self {
            Self::Nothing | Self::Life { .. } => *self = Self::life(now, voice),
            Self::End { .. } => {}
        }
    }

    const fn by(self) -> Option<Timestamp> {
        match self {
            Self::Nothing => None,
            Self::Life { by } | Self::End { by, .. } => Some(by),
        }
    }
}

impl StaysReady {
    fn tells(now: Timestamp, voice: Voice) -> Self {
        Self::Tells { awaits: Awaits::life(now, &voice), voice }
    }

    pub(super) const fn prober(&self) -> Option<&Prober> {
        match self {
            Self::Asked(prober) => Some(prober),
            Self::Unasked | Self::Tells { .. } => None,
        }
    }

    pub(super) const fn prober_mut(&mut self) -> Option<&mut Prober> {
        match self {
            Self::Asked(prober) => Some(prober),
            Self::Unasked | Self::Tells { .. } => None,
        }
    }

    pub(super) const fn voice(&self) -> Option<&Voice> {
        match self {
            Self::Tells { voice, .. } => Some(voice),
            Self::Unasked | Self::Asked(_) => None,
        }
    }

    /// By when something must be heard.
    pub(super) const fn silent_until(&self) -> Option<Timestamp> {
        match self {
            Self::Unasked | Self::Asked(_) => None,
            Self::Tells { awaits, .. } => awaits.by(),
        }
    }

    /// For what it is bitten, if nothing was heard for too long.
    pub(super) fn bites(&self, now: Timestamp) -> Option<Bite> {
        match self {
            Self::Tells { voice, awaits: Awaits::Life { by } } if *by <= now => voice.watchdog.map(Bite::Silent),
            Self::Tells { awaits: Awaits::End { said_at, by }, .. } if *by <= now => Some(Bite::Stayed(by.since(*said_at))),
            Self::Unasked | Self::Asked(_) | Self::Tells { .. } => None,
        }
    }
}

impl Instance {
    /// `at_most`: no end takes longer, whatever the run asks for.
    pub(super) fn on_announced(&mut self, now: Timestamp, service: &Service, at_most: Duration, what: Announcement, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        match &mut self.state {
            State::Starting { life, how: BecomesReady::ByAnnouncement { voice, ready_by, complaint } } => match what {
                Announcement::Ready => {
                    let ready = if service.ready.is_notify() {
                        StaysReady::tells(now, Voice { reloading: false, ..voice.clone() })
                    } else {
                        StaysReady::Unasked
                    };
                    let life = *life;
                    self.become_ready(now, service, life, ready, out);
                }
                Announcement::Mute(why) => *complaint = Some(why),
                Announcement::Stopping => *complaint = Some(STOPPING.to_owned()),
                Announcement::Status(status) => voice.hear_status(status),
                Announcement::Trigger => self.watchdog_bites(now, service, Bite::Asked, out),
                Announcement::WatchdogEvery(every) => voice.watchdog = every,
                Announcement::ExtendTimeout(by) => *ready_by = (*ready_by).max(now.after(by)),
                Announcement::Reloading | Announcement::Alive => {}
            },
            State::Running { not_ready, ready: StaysReady::Tells { voice, awaits }, .. } => match what {
                Announcement::Ready => {
                    voice.reloading = false;
                    if not_ready.take().is_some() {
                        *awaits = Awaits::life(now, voice);
                        out.push(Action::Notice(Notice::Ready { run, after: Duration::ZERO }));
                    }
                }
                Announcement::Stopping => {
                    if not_ready.is_none() {
                        // Who is leaving has no time for dogs, but does not stay for ever.
                        *awaits = Awaits::End { said_at: now, by: now.after(service.stop.timeout) };
                        *not_ready = Some(STOPPING.to_owned());
                        out.push(Action::Notice(Notice::NotReady { run, why: STOPPING.to_owned() }));
                    }
                }
                Announcement::Reloading => voice.reloading = true,
                Announcement::Status(status) => voice.hear_status(status),
                Announcement::Alive => awaits.is_alive(now, voice),
                Announcement::Trigger => self.watchdog_bites(now, service, Bite::Asked, out),
                Announcement::WatchdogEvery(every) => {
                    voice.watchdog = every;
                    awaits.is_alive(now, voice);
                }
                Announcement::ExtendTimeout(more) => {
                    if let Awaits::End { said_at, by } = awaits {
                        *by = (*by).max(now.after(more).min(said_at.after(at_most)));
                    }
                }
                Announcement::Mute(_) => {}
            },
            State::Ending(ending) => {
                if let Announcement::ExtendTimeout(by) = what
                    && service.ready.is_notify()
                {
                    ending.extend(now.after(by), at_most, service.stop.signals.len());
                }
            }
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } => {}
        }
    }

    /// Nothing was heard for too long, or it asked for it.
    pub(super) fn watchdog_bites(&mut self, now: Timestamp, service: &Service, why: Bite, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        out.push(Action::Notice(Notice::WatchdogBit { run, why }));
        self.begin_end(now, service, Cause::Watchdog, service.stop.timeout, out);
    }

    /// It stood still, and could neither say nor do anything: it has its whole time again.
    pub(super) fn is_silent_anew(&mut self, now: Timestamp) {
        if let State::Running { ready: StaysReady::Tells { voice, awaits }, .. } = &mut self.state {
            match awaits {
                Awaits::Nothing => {}
                Awaits::Life { .. } => awaits.is_alive(now, voice),
                Awaits::End { said_at, by } => (*said_at, *by) = (now, now.after(by.since(*said_at))),
            }
        }
    }

    /// What it has said of itself: one short line.
    pub(super) fn says(&self) -> Option<String> {
        match &self.state {
            State::Starting { how: BecomesReady::ByAnnouncement { voice, .. }, .. } => voice.words(),
            State::Running { ready, .. } => ready.voice().and_then(Voice::words),
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Ending(_) => None,
        }
    }
}

impl Ending {
    /// Lengthens the grace period up to `at_most`, never shortens it: SIGKILL not before `until`. What a whole stop leaves to it limits it
    /// all the same.
    fn extend(&mut self, until: Timestamp, at_most: Duration, signals: usize) {
        // What a main process leaves behind keeps others waiting, and nobody is there any more who would know what for.
        if self.leader != Leader::Alive {
            return;
        }
        let until = until.min(self.asked_at.after(at_most));
        self.needs_until = self.needs_until.max(until);
        if let EndPhase::Asked { sent, next_at, kill_at } = self.phase
            && until > kill_at
        {
            // After the last signal SIGKILL is the next thing; before it, the ladder goes on as it would have.
            let next_at = if sent >= signals { until } else { next_at };
            self.grace = until.since(self.asked_at);
            self.phase = EndPhase::Asked { sent, next_at, kill_at: until };
        }
    }
}
