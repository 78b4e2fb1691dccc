//! One instance: what is wanted of it, what is true of it, and how the one follows the other.
//!
//! What is wanted (`Desired`) is changed by operators and by the end of the whole stack, what is true (`State`) only by events; so
//! "stop while starting" or "start while stopping" need no state of their own. Each state carries the data that exists in it and no
//! other: there is no pid without a process, no probe of a run that is ending, no retry time while something runs.

use std::sync::Arc;
use std::time::Duration;

use super::announcement::{Heard, StaysReady, Voice};
use super::backoff::Rng;
use super::event::{Action, Cause, InstanceId, Notice, ProbeKind, Reach, RunId, earlier};
use super::probe::{Prober, Tally, Verdict, deadline_of, earliest};
use super::spec::{Kind, Probe, Readiness, Restart, Service, ServiceId};
use super::status::Restarts;
use super::{EndCause, Outcome, Signal, Timestamp};

/// What a main process that died by itself left behind gets this long between the stop signal and SIGKILL, if its own grace period
/// is not shorter: the next run waits for the port they hold.
const LEFT_BEHIND_GRACE: Duration = Duration::from_secs(1);
/// SIGKILL is repeated this often while something of the tree is left: a process may fork between the look and the kill.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// Once it is clear that SIGKILL does not help (a process in uninterruptible sleep), this often.
const KILL_AGAIN_LATER: Duration = Duration::from_secs(1);
/// A stop that takes longer says every so often for whom it waits.
const SAY_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY_LATER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Desired {
    Up,
    Down,
    /// Down, and not there any more: its service has fewer instances now.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) desired: Desired,
    pub(super) state: State,
    /// How many runs there have been; the number of the last one.
    pub(super) runs: u32,
    /// How many of them were another one's, which had its number and has gone.
    pub(super) runs_before: u32,
    /// Consecutive failed runs, for `give_up_after`.
    pub(super) failures: u32,
    /// Consecutive short runs, for the delay.
    pub(super) attempts: u32,
    pub(super) restarts: Restarts,
    pub(super) last_outcome: Option<Outcome>,
    pub(super) been_ready: bool,
    /// The run an operator last sent a signal to, and which.
    pub(super) signalled: Option<(u32, Signal)>,
    pub(super) ready_tally: Tally,
    pub(super) live_tally: Tally,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No process.
    Idle(Idle),
    /// The process exists or is being created; its program does not run yet.
    Launching { life: Life, ready_by: Option<Timestamp> },
    /// The program runs and is not ready yet.
    Starting { life: Life, how: BecomesReady },
    /// Ready, or once ready and being watched.
    Running { life: Life, not_ready: Option<String>, ready: StaysReady, live: Option<Prober>, complaint: Option<String> },
    /// Asked to end, or being cleaned up after.
    Ending(Ending),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Idle {
    /// Down as wanted.
    Stopped,
    /// To be started as soon as its dependencies allow. `waits_for`: told that it waits for this service.
    Due { waits_for: Option<ServiceId> },
    /// Down until then.
    Backoff { retry_at: Timestamp },
    /// The oneshot ended well.
    Completed,
    /// Ended by itself, and its policy says not to start it again.
    Exited,
    /// Given up.
    Failed,
    /// Cannot start: this service it depends on failed.
    Blocked { on: ServiceId },
}

/// What every run has from its first moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) run: u32,
    /// `None` until the shell has told.
    pub(super) pid: Option<u32>,
    pub(super) since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "what follows the name of the type reads as a sentence")]
pub(super) enum BecomesReady {
    /// It has no probe: by running until then.
    BySettling { at: Timestamp },
    /// By its probe, which must say so by `ready_by`.
    ByProbe { prober: Prober, ready_by: Timestamp, complaint: Option<String> },
    /// By its own word, which must come by `ready_by`.
    ByAnnouncement { voice: Voice, ready_by: Timestamp, complaint: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) life: Life,
    pub(super) cause: Cause,
    pub(super) leader: Leader,
    pub(super) asked_at: Timestamp,
    pub(super) grace: Duration,
    /// It said that it needs so long; a time that has passed where it said nothing.
    pub(super) needs_until: Timestamp,
    pub(super) phase: EndPhase,
    pub(super) say_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leader {
    Alive,
    Gone { outcome: Outcome, uptime: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndPhase {
    /// `sent` stop signals are sent; the next thing is due at `next_at`.
    Asked { sent: usize, next_at: Timestamp, kill_at: Timestamp },
    /// SIGKILL is sent.
    Killed { again_at: Timestamp },
}

/// What an instance's own transition means to the whole stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Consequence {
    Nothing,
    /// The stack must end.
    End(EndCause),
}

impl Instance {
    pub(super) const fn new(id: InstanceId, autostart: bool) -> Self {
        let (desired, idle) = if autostart { (Desired::Up, Idle::Due { waits_for: None }) } else { (Desired::Down, Idle::Stopped) };
        Self {
            id,
            desired,
            state: State::Idle(idle),
            runs: 0,
            runs_before: 0,
            failures: 0,
            attempts: 0,
            restarts: Restarts { total: 0, crash: 0, live: 0, watchdog: 0, start_timeout: 0, memory: 0, oom: 0, watch: 0 },
            last_outcome: None,
            been_ready: false,
            signalled: None,
            ready_tally: Tally::NONE,
            live_tally: Tally::NONE,
        }
    }

    pub(super) const fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Idle(_) => None,
            State::Launching { life, .. } | State::Starting { life, .. } | State::Running { life, .. } => Some(life),
            State::Ending(ending) => Some(&ending.life),
        }
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle(_))
    }

    /// The present run's id; `None` when nothing runs.
    pub(super) fn run(&self) -> Option<RunId> {
        self.life().map(|life| RunId { instance: self.id, run: life.run })
    }

    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, State::Running { not_ready: None, .. })
    }

    /// When it must be looked at next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        earlier(self.own_deadline(), self.silent_until())
    }

    /// By when something must be heard of it; what is due then is done at a [`Event::Tick`](super::Event::Tick) only.
    pub(super) const fn silent_until(&self) -> Option<Timestamp> {
        match &self.state {
            State::Starting { how: BecomesReady::ByAnnouncement { ready_by, .. }, .. } => Some(*ready_by),
            State::Running { ready, .. } => ready.silent_until(),
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Ending(_) => None,
        }
    }

    /// When something is due whatever may still be heard.
    pub(super) fn own_deadline(&self) -> Option<Timestamp> {
        match &self.state {
            State::Idle(Idle::Backoff { retry_at }) => Some(*retry_at),
            State::Idle(Idle::Stopped | Idle::Due { .. } | Idle::Completed | Idle::Exited | Idle::Failed | Idle::Blocked { .. }) => None,
            State::Launching { ready_by, .. } => *ready_by,
            State::Starting { how: BecomesReady::BySettling { at }, .. } => Some(*at),
            State::Starting { how: BecomesReady::ByProbe { prober, ready_by, .. }, .. } => Some(prober.deadline().min(*ready_by)),
            State::Starting { how: BecomesReady::ByAnnouncement { .. }, .. } => None,
            State::Running { ready, live, .. } => earliest(&[deadline_of(ready.prober()), deadline_of(live.as_ref())]),
            State::Ending(ending) => Some(ending.say_at.min(match ending.phase {
                EndPhase::Asked { next_at, kill_at, .. } => next_at.min(kill_at),
                EndPhase::Killed { again_at } => again_at,
            })),
        }
    }

    /// Starts a new run. Only from `Idle`.
    pub(super) fn spawn(&mut self, now: Timestamp, service: &Service, out: &mut Vec<Action>) {
        self.runs = self.runs.saturating_add(1);
        let life = Life { run: self.runs, pid: None, since: now };
        let ready_by = match service.kind {
            Kind::Service => Some(now.after(service.start_timeout)),
            // A job is done when it is done: a migration may take its hour.
            Kind::Oneshot => None,
        };
        self.state = State::Launching { life, ready_by };
        out.push(Action::Spawn { run: RunId { instance: self.id, run: self.runs } });
    }

    pub(super) fn on_spawned(&mut self, pid: u32, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        match &mut self.state {
            State::Idle(_) => return,
            State::Launching { life, .. } | State::Starting { life, .. } | State::Running { life, .. } => life.pid = Some(pid),
            State::Ending(ending) => ending.life.pid = Some(pid),
        }
        out.push(Action::Notice(Notice::Started { run, pid }));
    }

    pub(super) fn on_executed(&mut self, now: Timestamp, service: &Service, out: &mut Vec<Action>) {
        let State::Launching { life, ready_by } = self.state else { return };
        let run = RunId { instance: self.id, run: life.run };
        self.state = match (service.kind, ready_by) {
            (Kind::Oneshot, _) | (Kind::Service, None) => {
                State::Running { life, not_ready: None, ready: StaysReady::Unasked, live: None, complaint: None }
            }
            (Kind::Service, Some(ready_by)) => {
                let how = match &service.ready {
                    Readiness::Delay(delay) => BecomesReady::BySettling { at: now.after(*delay) },
                    Readiness::Probe(probe) => BecomesReady::ByProbe {
                        prober: Prober::eager(life.since.after(probe.initial_delay).max(now)),
                        ready_by,
                        complaint: None,
                    },
                    Readiness::Notify { watchdog } => {
                        BecomesReady::ByAnnouncement { voice: Voice { watchdog: *watchdog, ..Voice::default() }, ready_by, complaint: None }
                    }
                    Readiness::NotifyFd(_) | Readiness::Log(_) => {
                        BecomesReady::ByAnnouncement { voice: Voice::default(), ready_by, complaint: None }
                    }
                };
                State::Starting { life, how }
            }
        };
        self.ask(now, service, run, out);
    }

    pub(super) fn become_ready(&mut self, now: Timestamp, service: &Service, life: Life, ready: StaysReady, out: &mut Vec<Action>) {
        let live = service.live.as_ref().map(|probe| Prober::steady(life.since.after(probe.initial_delay).max(now)));
        self.state = State::Running { life, not_ready: None, ready, live, complaint: None };
        self.been_ready = true;
        let run = RunId { instance: self.id, run: life.run };
        out.push(Action::Notice(Notice::Ready { run, after: now.since(life.since) }));
        self.ask(now, service, run, out);
    }

    /// Asks whatever is due to be asked.
    fn ask(&mut self, now: Timestamp, service: &Service, run: RunId, out: &mut Vec<Action>) {
        let mut ask = |prober: Option<&mut Prober>, probe: Option<&Probe>, kind: ProbeKind| {
            if let (Some(prober), Some(probe)) = (prober, probe)
                && let Some(number) = prober.ask(now, probe)
            {
                out.push(Action::Probe { run, kind, number });
            }
        };
        match &mut self.state {
            State::Starting { how: BecomesReady::ByProbe { prober, .. }, .. } => {
                ask(Some(prober), service.ready.probe(), ProbeKind::Ready);
            }
            State::Running { ready, live, .. } => {
                ask(ready.prober_mut(), service.ready.probe(), ProbeKind::Ready);
                ask(live.as_mut(), service.live.as_ref(), ProbeKind::Live);
            }
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Ending(_) => {}
        }
    }

    /// The present run's prober; `None` while it is not asked.
    const fn prober(&self, kind: ProbeKind) -> Option<&Prober> {
        match (&self.state, kind) {
            (State::Starting { how: BecomesReady::ByProbe { prober, .. }, .. }, ProbeKind::Ready) => Some(prober),
            (State::Running { ready, .. }, ProbeKind::Ready) => ready.prober(),
            (State::Running { live, .. }, ProbeKind::Live) => live.as_ref(),
            (State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Ending(_), ProbeKind::Ready | ProbeKind::Live) => {
                None
            }
        }
    }

    pub(super) fn on_probed(
        &mut self,
        now: Timestamp,
        service: &Service,
        kind: ProbeKind,
        number: u32,
        result: Result<(), String>,
        out: &mut Vec<Action>,
    ) {
        let run = RunId { instance: self.id, run: self.runs };
        if let Some(asked_at) = self.prober(kind).and_then(|prober| prober.asked_at(number)) {
            let tally = match kind {
                ProbeKind::Ready => &mut self.ready_tally,
                ProbeKind::Live => &mut self.live_tally,
            };
            tally.count(result.is_ok(), now.since(asked_at));
        }
        match (&mut self.state, kind) {
            (State::Starting { life, how: BecomesReady::ByProbe { prober, complaint, .. } }, ProbeKind::Ready) => {
                let Some(probe) = service.ready.probe() else { return };
                let verdict = prober.answer(now, number, result.is_ok(), probe);
                match result {
                    Ok(()) if verdict == Verdict::Good => {
                        let (life, prober) = (*life, prober.clone().settle(now, probe));
                        self.become_ready(now, service, life, StaysReady::Asked(prober), out);
                    }
                    Ok(()) => *complaint = None,
                    Err(why) => *complaint = Some(why),
                }
            }
            (State::Running { not_ready, ready: StaysReady::Asked(prober), .. }, ProbeKind::Ready) => {
                let Some(probe) = service.ready.probe() else { return };
                let verdict = prober.answer(now, number, result.is_ok(), probe);
                match (result, verdict, &not_ready) {
                    (Ok(()), Verdict::Good, Some(_)) => {
                        *not_ready = None;
                        out.push(Action::Notice(Notice::Ready { run, after: Duration::ZERO }));
                    }
                    (Err(why), Verdict::Bad, None) => {
                        *not_ready = Some(why.clone());
                        out.push(Action::Notice(Notice::NotReady { run, why }));
                    }
                    (Err(why), Verdict::Undecided | Verdict::Bad, Some(_)) => *not_ready = Some(why),
                    (Ok(()) | Err(_), Verdict::Undecided | Verdict::Good | Verdict::Bad, _) => {}
                }
            }
            (State::Running { live: Some(prober), complaint, .. }, ProbeKind::Live) => {
                let Some(probe) = &service.live else { return };
                let verdict = prober.answer(now, number, result.is_ok(), probe);
                match (result, verdict) {
                    (Err(why), Verdict::Bad) => {
                        out.push(Action::Notice(Notice::NotLive { run, why }));
                        self.begin_end(now, service, Cause::Live, service.stop.timeout, out);
                    }
                    (Err(why), Verdict::Undecided | Verdict::Good) => *complaint = Some(why),
                    (Ok(()), Verdict::Undecided | Verdict::Good | Verdict::Bad) => *complaint = None,
                }
            }
            (
                State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_),
                ProbeKind::Ready | ProbeKind::Live,
            ) => {}
        }
    }

    /// Whatever is due at `now`. Idle instances are the stack's business, not their own.
    pub(super) fn tick(&mut self, now: Timestamp, service: &Service, heard: Heard, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        match &mut self.state {
            State::Idle(_) => {}
            State::Launching { life, ready_by } => {
                if let Some(by) = ready_by.filter(|by| *by <= now) {
                    let had = by.since(life.since);
                    self.start_timed_out(now, service, had, Some("its program was not executed".to_owned()), out);
                }
            }
            State::Starting { life, how } => match how {
                BecomesReady::BySettling { at } => {
                    if *at <= now {
                        let life = *life;
                        self.become_ready(now, service, life, StaysReady::Unasked, out);
                    }
                }
                BecomesReady::ByProbe { prober, ready_by, complaint } => {
                    if *ready_by <= now {
                        let (had, why) = (ready_by.since(life.since), complaint.take());
                        self.start_timed_out(now, service, had, why, out);
                    } else if let Some(number) = prober.lost(now) {
                        self.on_probed(now, service, ProbeKind::Ready, number, Err(LOST.to_owned()), out);
                    } else {
                        self.ask(now, service, run, out);
                    }
                }
                BecomesReady::ByAnnouncement { ready_by, complaint, .. } => {
                    if heard == Heard::Everything && *ready_by <= now {
                        let (had, why) = (ready_by.since(life.since), complaint.take());
                        self.start_timed_out(now, service, had, why, out);
                    }
                }
            },
            State::Running { ready, live, .. } => {
                if heard == Heard::Everything
                    && let Some(why) = ready.bites(now)
                {
                    return self.watchdog_bites(now, service, why, out);
                }
                let lost_ready = ready.prober().and_then(|prober| prober.lost(now));
                let lost_live = live.as_ref().and_then(|prober| prober.lost(now));
                if let Some(number) = lost_ready {
                    self.on_probed(now, service, ProbeKind::Ready, number, Err(LOST.to_owned()), out);
                }
                if let Some(number) = lost_live {
                    self.on_probed(now, service, ProbeKind::Live, number, Err(LOST.to_owned()), out);
                }
                self.ask(now, service, run, out);
            }
            State::Ending(ending) => ending.tick(now, run, service, out),
        }
    }

    /// It had so long, and was not ready: `start_timeout`, or more where it asked for more.
    fn start_timed_out(&mut self, now: Timestamp, service: &Service, had: Duration, why: Option<String>, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        out.push(Action::Notice(Notice::StartTimedOut { run, after: had, why }));
        self.begin_end(now, service, Cause::StartTimeout, service.stop.timeout, out);
    }

    /// Asks the present run to end within `grace`; a run that is ending already keeps its cause and only gets less time.
    pub(super) fn begin_end(&mut self, now: Timestamp, service: &Service, cause: Cause, grace: Duration, out: &mut Vec<Action>) {
        let life = match &mut self.state {
            State::Idle(_) => return,
            State::Ending(ending) => return ending.hurry(now, grace),
            State::Launching { life, .. } | State::Starting { life, .. } | State::Running { life, .. } => *life,
        };
        self.end(now, service, life, cause, Leader::Alive, grace, out);
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different fact of the one transition into Ending")]
    fn end(&mut self, now: Timestamp, service: &Service, life: Life, cause: Cause, leader: Leader, grace: Duration, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: life.run };
        if service.ready.probe().is_some() || service.live.is_some() {
            out.push(Action::CancelProbes { run });
        }
        let mut ending = Ending {
            life,
            cause,
            leader,
            asked_at: now,
            grace,
            needs_until: now,
            phase: EndPhase::Asked { sent: 0, next_at: now, kill_at: now.after(grace) },
            say_at: now.after(SAY_EVERY),
        };
        ending.tick(now, run, service, out);
        self.state = State::Ending(ending);
    }

    /// An operator has spoken: a run that is ending is followed by what was wished, not by what its policy says.
    pub(super) const fn wished(&mut self) {
        self.wished_by(Cause::Operator);
    }

    /// The same by this cause, which is an operator's as well.
    pub(super) const fn wished_by(&mut self, cause: Cause) {
        if let State::Ending(ending) = &mut self.state {
            ending.cause = cause;
        }
    }

    /// Whether it has ever been started.
    pub(super) const fn has_run(&self) -> bool {
        self.runs > self.runs_before
    }

    /// Be up with a new run, as soon as nothing is left of the present one.
    pub(super) fn restart(&mut self, now: Timestamp, service: &Service, out: &mut Vec<Action>) {
        self.desired = Desired::Up;
        (self.failures, self.attempts) = (0, 0);
        if self.is_idle() {
            self.state = State::Idle(Idle::Due { waits_for: None });
        } else {
            self.begin_end(now, service, Cause::Operator, service.stop.timeout, out);
            self.wished();
        }
    }

    /// An operator's signal. A program that is not executed yet would get it before it could know what to do about it.
    pub(super) fn send(&mut self, signal: Signal, to: Reach, out: &mut Vec<Action>) {
        match &self.state {
            State::Idle(_) | State::Launching { .. } => {}
            State::Starting { life, .. } | State::Running { life, .. } | State::Ending(Ending { life, .. }) => {
                self.signalled = Some((life.run, signal));
                out.push(Action::Send { run: RunId { instance: self.id, run: life.run }, signal, to });
            }
        }
    }

    /// SIGKILL at once.
    pub(super) fn kill_now(&mut self, now: Timestamp, service: &Service, cause: Cause, out: &mut Vec<Action>) {
        let run = RunId { instance: self.id, run: self.runs };
        self.begin_end(now, service, cause, Duration::ZERO, out);
        if let State::Ending(ending) = &mut self.state {
            ending.tick(now, run, service, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an exit decides about everything an instance has")]
    pub(super) fn on_exited(
        &mut self,
        now: Timestamp,
        service: &Service,
        outcome: Outcome,
        left_behind: u32,
        serving: bool,
        rng: &mut Rng,
        out: &mut Vec<Action>,
    ) -> Consequence {
        let run = RunId { instance: self.id, run: self.runs };
        let Some(life) = self.life().copied() else { return Consequence::Nothing };
        if matches!(&self.state, State::Ending(Ending { leader: Leader::Gone { .. }, .. })) {
            return Consequence::Nothing;
        }
        let uptime = now.since(life.since);
        let clean = self.is_clean(service, &outcome);
        out.push(Action::Notice(Notice::Ended {
            run,
            outcome: outcome.clone(),
            uptime,
            clean,
            left_behind,
            asked: self.asked(service, &outcome),
        }));
        let cause = match &self.state {
            State::Ending(ending) => ending.cause,
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } => Cause::Crash,
        };
        if left_behind == 0 {
            if (service.ready.probe().is_some() || service.live.is_some()) && !matches!(self.state, State::Ending(_)) {
                out.push(Action::CancelProbes { run });
            }
            return self.over(now, service, cause, outcome, uptime, serving, rng, out);
        }
        let leader = Leader::Gone { outcome, uptime };
        if let State::Ending(ending) = &mut self.state {
            ending.leader = leader;
            // What the signal did not reach, because only the main process got it, gets it now.
            ending.pass_on(now, run, service, out);
        } else {
            self.end(now, service, life, cause, leader, service.stop.timeout.min(LEFT_BEHIND_GRACE), out);
        }
        Consequence::Nothing
    }

    pub(super) fn on_tree_gone(
        &mut self,
        now: Timestamp,
        service: &Service,
        serving: bool,
        rng: &mut Rng,
        out: &mut Vec<Action>,
    ) -> Consequence {
        let State::Ending(Ending { cause, leader: Leader::Gone { outcome, uptime }, .. }) = &self.state else {
            return Consequence::Nothing;
        };
        let (cause, outcome, uptime) = (*cause, outcome.clone(), *uptime);
        self.over(now, service, cause, outcome, uptime, serving, rng, out)
    }

    /// Whether firstmate itself sent the signal this outcome is about.
    fn asked(&self, service: &Service, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Signaled(signal) if self.is_signalled(*signal)) || self.is_of_stop(service, outcome)
    }

    /// Whether this is the signal an operator last sent to the last run.
    fn is_signalled(&self, signal: Signal) -> bool {
        self.signalled == Some((self.runs, signal))
    }

    /// The same of a signal that was to end it.
    fn is_of_stop(&self, service: &Service, outcome: &Outcome) -> bool {
        let State::Ending(ending) = &self.state else { return false };
        let signal = match outcome {
            Outcome::Signaled(signal) => signal,
            Outcome::OomKilled => return false,
            Outcome::Exited(_) | Outcome::SpawnFailed(_) => return true,
        };
        match ending.phase {
            EndPhase::Asked { sent, .. } => service.stop.signals.iter().take(sent).any(|sent| sent == signal),
            EndPhase::Killed { .. } => *signal == Signal::KILL || service.stop.signals.contains(signal),
        }
    }

    /// After firstmate's own stop signal exit 0, 128 + that signal and death by it are clean; otherwise `success_exit_codes`.
    fn is_clean(&self, service: &Service, outcome: &Outcome) -> bool {
        if let Outcome::Exited(code) = outcome
            && service.success_exit_codes.contains(code)
        {
            return true;
        }
        let State::Ending(_) = &self.state else { return false };
        match outcome {
            Outcome::Exited(code) => *code == 0 || service.stop.signals.iter().any(|signal| signal.number().saturating_add(128) == *code),
            Outcome::Signaled(signal) => *signal != Signal::KILL && self.is_of_stop(service, outcome),
            Outcome::OomKilled | Outcome::SpawnFailed(_) => false,
        }
    }

    /// Nothing is left of the run: what comes next.
    #[expect(clippy::too_many_arguments, reason = "the end of a run decides about everything an instance has")]
    fn over(
        &mut self,
        now: Timestamp,
        service: &Service,
        cause: Cause,
        outcome: Outcome,
        uptime: Duration,
        serving: bool,
        rng: &mut Rng,
        out: &mut Vec<Action>,
    ) -> Consequence {
        let run = RunId { instance: self.id, run: self.runs };
        let success = matches!(&outcome, Outcome::Exited(code) if service.success_exit_codes.contains(code));
        let failed = match cause {
            Cause::Crash => !success,
            Cause::Live | Cause::Watchdog | Cause::StartTimeout | Cause::Memory => true,
            Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown => false,
        };
        self.last_outcome = Some(outcome.clone());
        if cause == Cause::Crash && success && service.kind == Kind::Oneshot {
            self.state = State::Idle(Idle::Completed);
            self.been_ready = true;
            (self.failures, self.attempts) = (0, 0);
            out.push(Action::Notice(Notice::Completed { run, took: uptime }));
            return Consequence::Nothing;
        }
        if !serving || self.desired != Desired::Up {
            self.state = State::Idle(Idle::Stopped);
            out.push(Action::Notice(Notice::Stopped { instance: self.id }));
            return Consequence::Nothing;
        }
        if matches!(cause, Cause::Operator | Cause::Update | Cause::Shutdown) {
            (self.failures, self.attempts) = (0, 0);
            self.state = State::Idle(Idle::Due { waits_for: None });
            return Consequence::Nothing;
        }
        if cause == Cause::Watch {
            (self.failures, self.attempts) = (0, 0);
            self.restarts.watch = self.restarts.watch.saturating_add(1);
            self.restarts.total = self.restarts.total.saturating_add(1);
            self.state = State::Idle(Idle::Due { waits_for: None });
            out.push(Action::Notice(Notice::Restarting { instance: self.id, delay: Duration::ZERO, failures: 0, cause }));
            return Consequence::Nothing;
        }
        let again = match service.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        };
        // A run that never became ready in all its time was not stable: it would be retried without a delay, for ever.
        let stable = uptime >= service.backoff.reset_after && cause != Cause::StartTimeout;
        if stable {
            (self.failures, self.attempts) = (0, 0);
        } else if failed {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        if !again {
            self.state = State::Idle(if failed { Idle::Failed } else { Idle::Exited });
            out.push(Action::Notice(Notice::NotRestarted { run, awaits_change: service.awaits_change() }));
            return Self::consequence(service, EndCause::EssentialEnded { instance: self.id, outcome });
        }
        if failed && !stable && service.give_up_after.is_some_and(|limit| self.failures >= limit) {
            self.state = State::Idle(Idle::Failed);
            out.push(Action::Notice(Notice::GaveUp { instance: self.id, failures: self.failures }));
            return Self::consequence(service, EndCause::GaveUp { instance: self.id, outcome, failures: self.failures });
        }
        let delay = if stable { Duration::ZERO } else { service.backoff.delay(self.attempts, rng) };
        if !stable {
            self.attempts = self.attempts.saturating_add(1);
        }
        let counter = match cause {
            Cause::Live => &mut self.restarts.live,
            Cause::Watchdog => &mut self.restarts.watchdog,
            Cause::StartTimeout => &mut self.restarts.start_timeout,
            Cause::Memory => &mut self.restarts.memory,
            Cause::Watch => &mut self.restarts.watch,
            Cause::Crash | Cause::Operator | Cause::Update | Cause::Shutdown => &mut self.restarts.crash,
        };
        *counter = counter.saturating_add(1);
        self.restarts.total = self.restarts.total.saturating_add(1);
        if cause == Cause::Crash && outcome == Outcome::OomKilled {
            self.restarts.oom = self.restarts.oom.saturating_add(1);
        }
        self.state =
            State::Idle(if delay.is_zero() { Idle::Due { waits_for: None } } else { Idle::Backoff { retry_at: now.after(delay) } });
        // To its policy it is a crash, and to whoever reads of it an operator's doing.
        let killed = matches!(&outcome, Outcome::Signaled(signal) if self.is_signalled(*signal));
        let cause = if cause == Cause::Crash && killed { Cause::Operator } else { cause };
        out.push(Action::Notice(Notice::Restarting { instance: self.id, delay, failures: self.failures, cause }));
        Consequence::Nothing
    }

    fn consequence(service: &Service, cause: EndCause) -> Consequence {
        if service.essential && !service.awaits_change() { Consequence::End(cause) } else { Consequence::Nothing }
    }
}

const LOST: &str = "the probe gave no answer";

impl Ending {
    /// Shortens the grace period; never lengthens it.
    fn hurry(&mut self, now: Timestamp, grace: Duration) {
        if let EndPhase::Asked { sent, next_at, kill_at } = self.phase {
            let sooner = now.after(grace);
            if sooner < kill_at {
                self.grace = sooner.since(self.asked_at);
                self.phase = EndPhase::Asked { sent, next_at: next_at.min(sooner), kill_at: sooner };
            }
        }
    }

    /// The main process is gone and left something behind: that gets the last signal its main process got.
    fn pass_on(&self, now: Timestamp, run: RunId, service: &Service, out: &mut Vec<Action>) {
        match self.phase {
            EndPhase::Asked { sent, .. } => {
                if let Some(signal) = service.stop.signals.get(sent.saturating_sub(1)) {
                    out.push(Action::Signal { run, signal: *signal });
                }
            }
            EndPhase::Killed { again_at } => {
                if again_at > now {
                    out.push(Action::KillTree { run });
                }
            }
        }
    }

    fn tick(&mut self, now: Timestamp, run: RunId, service: &Service, out: &mut Vec<Action>) {
        match self.phase {
            EndPhase::Asked { kill_at, .. } if kill_at <= now => {
                self.phase = EndPhase::Killed { again_at: now.after(KILL_AGAIN) };
                out.push(Action::Notice(Notice::Killing { run, after: now.since(self.asked_at) }));
                out.push(Action::KillTree { run });
            }
            EndPhase::Asked { sent, next_at, kill_at } if next_at <= now => {
                let steps = u32::try_from(service.stop.signals.len()).unwrap_or(1).max(1);
                let next_at = if sent.saturating_add(1) >= service.stop.signals.len() {
                    kill_at
                } else {
                    now.after(self.grace.checked_div(steps).unwrap_or(self.grace)).min(kill_at)
                };
                if let Some(signal) = service.stop.signals.get(sent) {
                    out.push(Action::Signal { run, signal: *signal });
                    out.push(Action::Notice(Notice::Stopping { run, signal: *signal, grace: kill_at.since(now), cause: self.cause }));
                }
                self.phase = EndPhase::Asked { sent: sent.saturating_add(1), next_at, kill_at };
            }
            EndPhase::Killed { again_at } if again_at <= now => {
                let hopeless = now.since(self.asked_at) > self.grace.saturating_add(KILL_AGAIN_LATER);
                self.phase = EndPhase::Killed { again_at: now.after(if hopeless { KILL_AGAIN_LATER } else { KILL_AGAIN }) };
                out.push(Action::KillTree { run });
            }
            EndPhase::Asked { .. } | EndPhase::Killed { .. } => {}
        }
        if self.say_at <= now {
            let waited = now.since(self.asked_at);
            self.say_at = now.after(if waited < SAY_EVERY_LATER { SAY_EVERY } else { SAY_EVERY_LATER });
            let pid = match self.leader {
                Leader::Alive => self.life.pid,
                Leader::Gone { .. } => None,
            };
            out.push(Action::Notice(Notice::StillWaiting { run, pid, waited, of: self.grace }));
        }
    }
}

/// The parts the stack needs, shared so that no instance copies its service.
pub(super) type Shared = Arc<Service>;
