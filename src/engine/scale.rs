//! Another number of instances than the file says, at run time: the highest numbers come last and go first.
//!
//! Who is to go is `Desired::Gone` and stays in the engine's sight until nothing of it is left. Its last run's number is kept: an instance
//! of the same number that comes later goes on counting, so that no run is ever named twice.
//!
//! A rolling restart promises that its service stays ready. So while one of its instances that stays is between two runs, nobody is removed
//! if that took the last ready one: the removal waits until one that stays is ready, or the rolling restart is over, which has deadlines of its own.

use super::Timestamp;
use super::event::{Action, Cause, InstanceId, Notice};
use super::instance::{Desired, Idle, Instance, State};
use super::roll::{RollState, RollStop};
use super::spec::{Kind, MOST_INSTANCES, ServiceId};
use super::stack::{Engine, memory_policy};
use super::update::Standing;

impl Engine {
    /// How many instances a service has, without those that are leaving.
    #[must_use]
    pub fn instances_wanted(&self, id: ServiceId) -> u16 {
        u16::try_from(self.staying(id).count()).unwrap_or(u16::MAX)
    }

    /// The same once a removal that waits has come.
    #[must_use]
    pub fn instances_to_be(&self, id: ServiceId) -> u16 {
        self.roll(id).and_then(|roll| roll.shrink_to).unwrap_or_else(|| self.instances_wanted(id))
    }

    /// Whether an instance goes at the moment because its service has fewer now.
    #[must_use]
    pub fn is_leaving(&self, id: InstanceId) -> bool {
        self.instance(id).is_some_and(|instance| instance.desired == Desired::Gone)
    }

    /// Whether an instance is wanted down: an operator has stopped it, or the file does not start it and nobody else has.
    #[must_use]
    pub fn is_wanted_down(&self, id: InstanceId) -> bool {
        self.instance(id).is_some_and(|instance| instance.desired == Desired::Down)
    }

    /// Whether instances that are added to a service are wanted up: as its first one is. What that one does at the moment says nothing of it.
    #[must_use]
    pub fn adds_up(&self, id: ServiceId) -> bool {
        self.instance(InstanceId { service: id, number: 1 }).is_none_or(|first| first.desired == Desired::Up)
    }

    /// What is added is wanted as the first instance is: a service that was stopped stays so.
    pub(super) fn scale(&mut self, now: Timestamp, id: ServiceId, to: u16, out: &mut Vec<Action>) {
        if self.service(id).is_some_and(|service| service.kind == Kind::Service) && self.is_there(id) && !self.is_pending(id) {
            self.resize(now, id, to, Cause::Operator, out);
        }
    }

    /// The same for whatever reason, and of oneshots as well.
    pub(super) fn resize(&mut self, now: Timestamp, id: ServiceId, to: u16, cause: Cause, out: &mut Vec<Action>) {
        let Some(service) = self.service(id).cloned() else { return };
        let (from, to) = (self.instances_wanted(id), to.clamp(1, MOST_INSTANCES));
        let waits = to < from && self.takes_the_last_ready(id, to);
        // A later wish is the one that counts.
        if let Some(roll) = self.services.get_mut(id.0).and_then(|entry| entry.roll.as_mut()) {
            roll.shrink_to = waits.then_some(to);
        }
        if from == to {
            return;
        }
        let away: Vec<InstanceId> = (to.saturating_add(1)..=from).map(|number| InstanceId { service: id, number }).collect();
        if waits {
            self.leave_out_of_rolls(&away, RollStop::RemovedByOperator, out);
            return;
        }
        out.push(Action::Notice(Notice::Scaled { service: id, from, to }));
        let desired = if self.adds_up(id) { Desired::Up } else { Desired::Down };
        for number in from.saturating_add(1)..=to {
            self.add(now, InstanceId { service: id, number }, desired);
        }
        for number in to.saturating_add(1)..=from {
            let Some(instance) = self.instance_mut(InstanceId { service: id, number }) else { continue };
            instance.desired = Desired::Gone;
            match &instance.state {
                State::Idle(Idle::Stopped) => {}
                State::Idle(_) => {
                    instance.state = State::Idle(Idle::Stopped);
                    out.push(Action::Notice(Notice::Stopped { instance: instance.id }));
                }
                State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {
                    instance.begin_end(now, &service, cause, service.stop.timeout, out);
                    instance.wished_by(cause);
                }
            }
        }
        self.leave_out_of_rolls(&away, RollStop::RemovedByOperator, out);
    }

    /// Whether a removal would leave nobody ready while a rolling restart brings one back that stays.
    fn takes_the_last_ready(&self, id: ServiceId, to: u16) -> bool {
        let comes = self.roll(id).is_some_and(|roll| matches!(roll.state, RollState::Coming { number, .. } if number <= to));
        let mut ready = self.staying(id).filter(|instance| instance.is_ready()).peekable();
        comes && ready.peek().is_some() && ready.all(|instance| instance.id.number > to)
    }

    /// Removals that have waited, and need not any more.
    pub(super) fn shrink_on(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        for id in (0..self.services.len()).map(ServiceId) {
            if let Some(to) = self.roll(id).and_then(|roll| roll.shrink_to).filter(|to| !self.takes_the_last_ready(id, *to)) {
                self.scale(now, id, to, out);
            }
        }
    }

    pub(super) fn add(&mut self, now: Timestamp, id: InstanceId, desired: Desired) {
        // It may not have gone yet.
        if let Some(instance) = self.instance_mut(id) {
            instance.desired = desired;
            if instance.is_idle() && desired == Desired::Up {
                instance.state = State::Idle(Idle::Due { waits_for: None });
            }
            instance.wished();
            return;
        }
        let Some(entry) = self.services.get_mut(id.service.0) else { return };
        let at = entry.first.saturating_add(usize::from(entry.count));
        let runs = entry.retired.remove(&id.number).unwrap_or_default();
        let policy = memory_policy(&entry.service);
        entry.count = entry.count.saturating_add(1);
        let instance = Instance { desired, runs, runs_before: runs, ..Instance::new(id, desired == Desired::Up) };
        self.instances.insert(at.min(self.instances.len()), instance);
        for later in self.services.iter_mut().skip(id.service.0.saturating_add(1)) {
            later.first = later.first.saturating_add(1);
        }
        self.guard.add(now, id, policy);
    }

    /// Forgets those that were to go and of which nothing is left.
    pub(super) fn drop_gone(&mut self) {
        if self.instances.iter().all(|instance| instance.desired != Desired::Gone) {
            return;
        }
        for index in 0..self.services.len() {
            while let Some(gone) = self.instances_of(ServiceId(index)).last().filter(|last| last.desired == Desired::Gone && last.is_idle())
            {
                let (id, runs) = (gone.id, gone.runs);
                let Some(entry) = self.services.get_mut(index).filter(|entry| entry.count > 1 || entry.standing == Standing::Leaving)
                else {
                    break;
                };
                entry.count = entry.count.saturating_sub(1);
                entry.retired.insert(id.number, runs);
                let at = entry.first.saturating_add(usize::from(entry.count));
                if at < self.instances.len() {
                    self.instances.remove(at);
                }
                for later in self.services.iter_mut().skip(index.saturating_add(1)) {
                    later.first = later.first.saturating_sub(1);
                }
                self.guard.remove(id);
            }
        }
    }
}
