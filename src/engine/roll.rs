//! A rolling restart: the instances of a service one after the other, so that the service stays ready.
//!
//! The rule is one sentence: a ready instance is ended only while all others of its service are ready, and there is another one. What a
//! crash, a probe or the memory guard does meanwhile is theirs; the roll waits until it is mended, and for no longer than `start_timeout`. The
//! first instance whose new run does not come up ends the roll, and those after it keep their runs: they are what still serves.
//!
//! It is the engine's, not the client's: it goes on when whoever asked for it has left.

use std::time::Duration;

use super::Timestamp;
use super::event::{Action, Cause, InstanceId, Notice, earlier};
use super::instance::{Desired, Ending, Idle, Instance, State};
use super::spec::{Kind, ServiceId};
use super::stack::Engine;

/// The present or the last rolling restart of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roll {
    /// Counted from 1 for each service. Who asks while one goes on adds to that one.
    pub order: u32,
    /// Numbers of the instances whose turn has not come; once it has ended, of those that kept their run.
    pub left: Vec<u16>,
    /// How far it is.
    pub state: RollState,
    /// How many instances the service is to have as soon as that does not take the last ready one away while another one is coming.
    pub shrink_to: Option<u16>,
}

/// How far a rolling restart is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollState {
    /// For the others to be ready, so that the next one may be ended; for no longer than until then.
    Waiting {
        /// When it gives up.
        until: Timestamp,
    },
    /// An instance is between its old run and its new one.
    Coming {
        /// Which.
        number: u16,
        /// Its old run, or the last one it had.
        run_before: u32,
        /// When it gives up waiting for what the start itself waits for; `None` while there is a process, which has deadlines of its own.
        until: Option<Timestamp>,
    },
    /// All are ready again.
    Done,
    /// Ended before its time.
    Stopped {
        /// The instance it stopped at.
        at: u16,
        /// Why.
        why: RollStop,
    },
}

/// Why a rolling restart ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollStop {
    /// The new run ended before it was ready.
    NotBack,
    /// The new run could not begin: what it depends on is not there.
    NotStarted,
    /// An operator stopped it meanwhile.
    StoppedByOperator,
    /// An operator restarted it by name before its turn, and none came after it.
    RestartedByOperator,
    /// An operator had its service have fewer instances, and none came after it.
    RemovedByOperator,
    /// This other instance is not ready, and stays so.
    OtherNotReady(u16),
    /// No other instance is wanted up.
    NoOther,
    /// The file has another definition of the service, or none.
    Updated,
}

impl Roll {
    /// Whether it goes on.
    #[must_use]
    pub const fn is_going(&self) -> bool {
        match self.state {
            RollState::Waiting { .. } | RollState::Coming { .. } => true,
            RollState::Done | RollState::Stopped { .. } => false,
        }
    }

    /// Whether this instance's turn is now, or still to come.
    #[must_use]
    pub fn is_pending(&self, number: u16) -> bool {
        let now = matches!(self.state, RollState::Coming { number: coming, .. } if coming == number);
        self.is_going() && (now || self.left.contains(&number))
    }

    const fn due(&self) -> Option<Timestamp> {
        match self.state {
            RollState::Waiting { until } => Some(until),
            RollState::Coming { until, .. } => until,
            RollState::Done | RollState::Stopped { .. } => None,
        }
    }
}

/// What is to be done next.
enum Turn {
    /// Nothing changes by itself.
    Wait,
    /// Only the state does.
    To(RollState),
    /// The next one.
    Next {
        from: Timestamp,
    },
    /// Restart this one.
    Restart(u16),
    Stop {
        at: u16,
        why: RollStop,
    },
    Done,
}

impl Engine {
    /// The present or the last rolling restart of a service.
    #[must_use]
    pub fn roll(&self, id: ServiceId) -> Option<&Roll> {
        self.services.get(id.0)?.roll.as_ref()
    }

    /// When a roll gives up at the latest.
    pub(super) fn roll_due(&self) -> Option<Timestamp> {
        self.services.iter().map(|entry| entry.roll.as_ref().and_then(Roll::due)).fold(None, earlier)
    }

    /// Takes the wish; whom it concerns is restarted by `roll_on`. Nothing comes of it where there is only one instance, or a oneshot.
    pub(super) fn begin_rolls(&mut self, now: Timestamp, instances: &[InstanceId], out: &mut Vec<Action>) {
        for index in 0..self.services.len() {
            let id = ServiceId(index);
            if !self.may_roll(id) {
                continue;
            }
            let staying: Vec<u16> = self.staying(id).map(|instance| instance.id.number).collect();
            let asked: Vec<u16> =
                instances.iter().filter(|one| one.service == id && staying.contains(&one.number)).map(|one| one.number).collect();
            let Some(entry) = self.services.get_mut(index).filter(|_| !asked.is_empty()) else { continue };
            match entry.roll.as_mut().filter(|roll| roll.is_going()) {
                Some(roll) => {
                    for number in asked {
                        if !roll.left.contains(&number) {
                            roll.left.push(number);
                        }
                    }
                }
                None => {
                    let order = entry.roll.as_ref().map_or(0, |roll| roll.order).saturating_add(1);
                    let state = RollState::Waiting { until: now.after(entry.service.start_timeout) };
                    let count = u16::try_from(asked.len()).unwrap_or(u16::MAX);
                    entry.roll = Some(Roll { order, left: asked, state, shrink_to: None });
                    out.push(Action::Notice(Notice::RollBegun { service: id, instances: count }));
                }
            }
        }
    }

    /// Whether the service can stay ready while one of its instances is not there.
    #[must_use]
    pub fn may_roll(&self, id: ServiceId) -> bool {
        !self.is_halting(id) && self.service(id).is_some_and(|service| service.kind == Kind::Service) && self.staying(id).count() > 1
    }

    /// An operator has had another wish of these since. Where that leaves nobody while nobody is coming back, it has ended, and not as it should.
    pub(super) fn leave_out_of_rolls(&mut self, instances: &[InstanceId], why: RollStop, out: &mut Vec<Action>) {
        for id in instances {
            let Some(roll) = self.services.get_mut(id.service.0).and_then(|entry| entry.roll.as_mut()) else { continue };
            if !roll.is_going() || !roll.left.contains(&id.number) {
                continue;
            }
            roll.left.retain(|number| *number != id.number);
            if roll.left.is_empty() && matches!(roll.state, RollState::Waiting { .. }) {
                roll.state = RollState::Stopped { at: id.number, why };
                out.push(Action::Notice(Notice::RollStopped { at: *id, why, left: 0 }));
            }
        }
    }

    /// Takes every roll as far as it may go now.
    pub(super) fn roll_on(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if !self.is_serving() {
            return;
        }
        // Before, so that who is to go is not restarted first; and after, since a roll that has given up holds nobody back.
        self.shrink_on(now, out);
        for index in 0..self.services.len() {
            while self.roll_step(now, ServiceId(index), out) {}
        }
        self.shrink_on(now, out);
    }

    /// Whether there may be another step at once.
    fn roll_step(&mut self, now: Timestamp, id: ServiceId, out: &mut Vec<Action>) -> bool {
        let Some(entry) = self.services.get(id.0) else { return false };
        let Some(roll) = entry.roll.as_ref().filter(|roll| roll.is_going()) else { return false };
        let service = entry.service.clone();
        let turn = self.turn(now, id, roll, service.start_timeout);
        let Some(roll) = self.services.get_mut(id.0).and_then(|entry| entry.roll.as_mut()) else { return false };
        match turn {
            Turn::Wait => false,
            Turn::To(state) => {
                roll.state = state;
                false
            }
            Turn::Next { from } => {
                roll.state = RollState::Waiting { until: from.after(service.start_timeout) };
                true
            }
            Turn::Restart(number) => {
                roll.left.retain(|other| *other != number);
                let instance = InstanceId { service: id, number };
                let run_before = self.instance(instance).map_or(0, |instance| instance.runs);
                if let Some(roll) = self.services.get_mut(id.0).and_then(|entry| entry.roll.as_mut()) {
                    roll.state = RollState::Coming { number, run_before, until: None };
                    let left = u16::try_from(roll.left.len()).unwrap_or(u16::MAX);
                    out.push(Action::Notice(Notice::RollTurn { at: instance, left }));
                }
                if let Some(instance) = self.instance_mut(instance) {
                    instance.restart(now, &service, out);
                }
                true
            }
            Turn::Stop { at, why } => {
                roll.state = RollState::Stopped { at, why };
                let left = u16::try_from(roll.left.len()).unwrap_or(u16::MAX);
                out.push(Action::Notice(Notice::RollStopped { at: InstanceId { service: id, number: at }, why, left }));
                false
            }
            Turn::Done => {
                roll.state = RollState::Done;
                out.push(Action::Notice(Notice::Rolled { service: id }));
                false
            }
        }
    }

    fn turn(&self, now: Timestamp, id: ServiceId, roll: &Roll, patience: Duration) -> Turn {
        match roll.state {
            RollState::Waiting { until } => self.next_turn(now, id, roll, until),
            RollState::Coming { number, run_before, until } => match self.instance(InstanceId { service: id, number }) {
                // Scaled away meanwhile: it has not come back, so that alone does not make it done.
                None if roll.left.is_empty() => Turn::Stop { at: number, why: RollStop::RemovedByOperator },
                None => Turn::Next { from: now },
                Some(instance) if instance.desired == Desired::Gone && roll.left.is_empty() => {
                    Turn::Stop { at: number, why: RollStop::RemovedByOperator }
                }
                Some(instance) if instance.desired == Desired::Gone => Turn::Next { from: now },
                Some(instance) if instance.desired == Desired::Down => Turn::Stop { at: number, why: RollStop::StoppedByOperator },
                Some(instance) => coming(now, instance, run_before, until, patience),
            },
            RollState::Done | RollState::Stopped { .. } => Turn::Wait,
        }
    }

    /// Who is next, if anybody may be.
    fn next_turn(&self, now: Timestamp, id: ServiceId, roll: &Roll, until: Timestamp) -> Turn {
        // The last one has just come back: who is left out by an operator does not get here.
        let Some(first) = roll.left.first().copied() else { return Turn::Done };
        let unready = |number: &u16| self.instance(InstanceId { service: id, number: *number }).is_some_and(|one| !one.is_ready());
        // Nothing is lost by ending who is not ready, and a new run may be what mends it.
        if let Some(number) = roll.left.iter().copied().find(unready) {
            return Turn::Restart(number);
        }
        let mut others = self.staying(id).filter(|one| one.id.number != first && one.desired == Desired::Up).peekable();
        if others.peek().is_none() {
            return Turn::Stop { at: first, why: RollStop::NoOther };
        }
        match others.find(|one| !one.is_ready()) {
            None => Turn::Restart(first),
            Some(other) if until <= now => Turn::Stop { at: first, why: RollStop::OtherNotReady(other.id.number) },
            Some(_) => Turn::Wait,
        }
    }
}

/// How the instance comes along whose turn it is.
fn coming(now: Timestamp, instance: &Instance, run_before: u32, until: Option<Timestamp>, patience: Duration) -> Turn {
    let number = instance.id.number;
    let is_new = instance.runs > run_before;
    match &instance.state {
        State::Running { not_ready: None, .. } if is_new => Turn::Next { from: now },
        // It waits for a dependency, or for the memory its old run held.
        State::Idle(Idle::Due { .. } | Idle::Backoff { .. }) if !is_new => match until {
            Some(until) if until <= now => Turn::Stop { at: number, why: RollStop::NotStarted },
            Some(_) => Turn::Wait,
            None => Turn::To(RollState::Coming { number, run_before, until: Some(now.after(patience)) }),
        },
        State::Idle(Idle::Blocked { .. }) if !is_new => Turn::Stop { at: number, why: RollStop::NotStarted },
        // Or an operator has asked for yet another one.
        State::Ending(Ending { cause: Cause::Operator | Cause::Update, .. }) => {
            Turn::To(RollState::Coming { number, run_before: instance.runs, until: None })
        }
        State::Idle(_) | State::Ending(_) if is_new => Turn::Stop { at: number, why: RollStop::NotBack },
        State::Idle(Idle::Stopped | Idle::Completed | Idle::Exited | Idle::Failed) => Turn::Stop { at: number, why: RollStop::NotBack },
        State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {
            Turn::To(RollState::Coming { number, run_before, until: None })
        }
    }
}
