//! Another file while everything runs: who is new, who goes, who gets another definition, and who is left alone.
//!
//! Services are the same by their names, and a service keeps its id for as long as it is there. Who goes, or gets a definition that only a new
//! run can have, is asked to end in the order of a shutdown, dependents first, and by the definition it was started with; the new one holds
//! once nothing of the old run is left. A change that no process can notice is made at once. Everybody else keeps his runs.
//!
//! The place of a service that has gone is kept for another one of that name alone: its runs go on being numbered, so that none is ever
//! named twice, and a line of the old one is never shown under another name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Timestamp;
use super::event::{Action, Cause, InstanceId, Notice};
use super::instance::{Desired, Idle, Instance, Shared, State};
use super::roll::{RollState, RollStop};
use super::spec::{Command, Kind, Readiness, Service, ServiceId, Spec};
use super::stack::{Engine, Entry, dependencies_first, dependents, memory_policy};

/// So many services that have gone are remembered; whoever has had more is to start firstmate anew.
pub const MOST_FORMER: usize = 1_000;

/// How a service stands to the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// It is as the file says.
    Settled,
    /// Its runs are to end, and it comes back by this definition.
    Replaced(Shared),
    /// It goes on by this definition as soon as none of its runs is being ended by the old one.
    Amended(Shared),
    /// It is to go.
    Leaving,
    /// It has gone: it has no instance, and only its name and the numbers of its runs are left.
    Former,
}

impl Standing {
    /// Whether an update is not done with it.
    pub(super) const fn is_pending(&self) -> bool {
        match self {
            Self::Replaced(_) | Self::Amended(_) | Self::Leaving => true,
            Self::Settled | Self::Former => false,
        }
    }

    /// Whether no run of it is to be left.
    pub(super) const fn is_halting(&self) -> bool {
        match self {
            Self::Replaced(_) | Self::Leaving => true,
            Self::Settled | Self::Amended(_) | Self::Former => false,
        }
    }
}

/// What an update comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every service of the new file, in its order.
    pub services: Vec<Planned>,
    /// Those that are no longer in it.
    pub removed: Vec<ServiceId>,
    stop_timeout: Duration,
    drain: Duration,
    /// Whether one of these two is another than before.
    whole: bool,
}

impl Plan {
    /// Whether everything is as the file says already.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.removed.is_empty() && !self.whole && self.services.iter().all(|planned| planned.step == Step::Keep)
    }

    /// The whole shutdown from now on, and how long it serves on before.
    #[must_use]
    pub const fn patience(&self) -> (Duration, Duration) {
        (self.stop_timeout, self.drain)
    }
}

/// A service of the new file.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The one it has, or will have.
    pub id: ServiceId,
    /// Its new definition, by the ids of the running stack.
    pub service: Service,
    /// What is done with it.
    pub step: Step,
}

/// What an update does with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// It is new.
    Add,
    /// It has another definition, which its present runs are none the wiser of.
    Amend,
    /// It has another definition, which only new runs can have.
    Restart,
}

/// Why there can be no update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateRefusal {
    /// One is under way.
    UnderWay,
    /// Everything is being stopped.
    Stopping,
    /// Too many services have come and gone.
    TooMany,
}

impl std::fmt::Display for UpdateRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnderWay => f.write_str("an update is under way; wait for it to be done, as `firstmate events` tells"),
            Self::Stopping => f.write_str("firstmate is stopping; wait for it to be gone, then start it again"),
            Self::TooMany => write!(f, "more than {MOST_FORMER} services have come and gone; restart firstmate to use its file"),
        }
    }
}

impl Engine {
    /// What this file would change.
    ///
    /// # Errors
    ///
    /// It cannot be now.
    pub fn plan(&self, spec: &Spec) -> Result<Plan, UpdateRefusal> {
        if !self.is_serving() {
            return Err(UpdateRefusal::Stopping);
        }
        if self.is_updating() {
            return Err(UpdateRefusal::UnderWay);
        }
        let known: BTreeMap<&str, usize> =
            self.services.iter().enumerate().map(|(index, entry)| (entry.service.name.as_str(), index)).collect();
        let mut next = self.services.len();
        let mut ids = Vec::with_capacity(spec.services.len());
        for service in &spec.services {
            ids.push(ServiceId(known.get(service.name.as_str()).copied().unwrap_or_else(|| {
                next = next.saturating_add(1);
                next.saturating_sub(1)
            })));
        }
        if next.saturating_sub(ids.len()) > MOST_FORMER {
            return Err(UpdateRefusal::TooMany);
        }
        let planned = |(service, id): (&Service, &ServiceId)| {
            let mut service = service.clone();
            for dependency in &mut service.depends_on {
                if let Some(id) = ids.get(dependency.service.0) {
                    dependency.service = *id;
                }
            }
            let step = match self.services.get(id.0).filter(|entry| entry.standing != Standing::Former) {
                None => Step::Add,
                Some(entry) => step(&entry.service, &service),
            };
            Planned { id: *id, service, step }
        };
        let services = spec.services.iter().zip(&ids).map(planned).collect();
        let stay: BTreeSet<ServiceId> = ids.iter().copied().collect();
        let removed = self.order.iter().copied().filter(|id| !stay.contains(id)).collect();
        let whole = (spec.stop_timeout, spec.drain) != (self.stop_timeout, self.drain);
        Ok(Plan { services, removed, stop_timeout: spec.stop_timeout, drain: spec.drain, whole })
    }

    /// The whole shutdown, and how long it serves on before.
    #[must_use]
    pub const fn patience(&self) -> (Duration, Duration) {
        (self.stop_timeout, self.drain)
    }

    /// Whether an update is not done: something of an old definition is still there.
    #[must_use]
    pub fn is_updating(&self) -> bool {
        self.services.iter().any(|entry| entry.standing.is_pending())
    }

    /// Whether a service is on its way out, or to another definition.
    #[must_use]
    pub fn is_pending(&self, id: ServiceId) -> bool {
        self.services.get(id.0).is_some_and(|entry| entry.standing.is_pending())
    }

    /// Whether no run of a service is to be left.
    pub(super) fn is_halting(&self, id: ServiceId) -> bool {
        self.services.get(id.0).is_some_and(|entry| entry.standing.is_halting())
    }

    /// Whether a service is to have more instances as soon as its new definition holds.
    pub(super) fn is_growing(&self, id: ServiceId) -> bool {
        let Some(Entry { standing: Standing::Amended(service), service: old, .. }) = self.services.get(id.0) else { return false };
        // Who was scaled by hand stays so, unless the file's number is another one.
        service.instances != old.instances && service.instances > self.instances_wanted(id)
    }

    /// Whether a service is there.
    #[must_use]
    pub fn is_there(&self, id: ServiceId) -> bool {
        self.services.get(id.0).is_some_and(|entry| entry.standing != Standing::Former)
    }

    /// Takes the wish. Whoever asks has looked at the plan before: what cannot be is not done.
    pub(super) fn begin_update(&mut self, now: Timestamp, spec: &Spec, out: &mut Vec<Action>) {
        let Ok(plan) = self.plan(spec) else { return };
        (self.stop_timeout, self.drain) = (plan.stop_timeout, plan.drain);
        let count = |step| plan.services.iter().filter(|planned| planned.step == step).count();
        let (added, restarted, amended) = (count(Step::Add), count(Step::Restart), count(Step::Amend));
        let removed = plan.removed.len();
        self.order = plan.services.iter().map(|planned| planned.id).chain(plan.removed.iter().copied()).collect();
        if added.saturating_add(restarted).saturating_add(amended).saturating_add(removed) == 0 {
            return;
        }
        out.push(Action::Notice(Notice::Updating { added, removed, restarted, amended }));
        for id in &plan.removed {
            self.begin_halt(*id, Standing::Leaving, out);
        }
        // In the order of the file, so that new ones get the places the plan says.
        for Planned { id, service, step } in plan.services {
            match step {
                Step::Keep => {}
                Step::Add => self.add_service(now, id, service, out),
                Step::Amend => {
                    if let Some(entry) = self.services.get_mut(id.0) {
                        entry.standing = Standing::Amended(Arc::new(service));
                    }
                }
                Step::Restart => self.begin_halt(id, Standing::Replaced(Arc::new(service)), out),
            }
        }
        self.find_edges();
        // Where somebody has only come, there is nothing to wait for.
        if !self.is_updating() {
            out.push(Action::Notice(Notice::Updated));
        }
    }

    /// What is down stays down; who runs is ended when it is his turn.
    fn begin_halt(&mut self, id: ServiceId, standing: Standing, out: &mut Vec<Action>) {
        let Some(entry) = self.services.get_mut(id.0) else { return };
        let leaves = standing == Standing::Leaving;
        entry.standing = standing;
        if let Some(roll) = entry.roll.as_mut().filter(|roll| roll.is_going()) {
            let at = match roll.state {
                RollState::Coming { number, .. } => number,
                RollState::Waiting { .. } | RollState::Done | RollState::Stopped { .. } => roll.left.first().copied().unwrap_or(1),
            };
            roll.left.clear();
            roll.state = RollState::Stopped { at, why: RollStop::Updated };
            let at = InstanceId { service: id, number: at };
            out.push(Action::Notice(Notice::RollStopped { at, why: RollStop::Updated, left: 0 }));
        }
        let range = entry.first..entry.first.saturating_add(usize::from(entry.count));
        for instance in self.instances.get_mut(range).unwrap_or_default() {
            if leaves {
                instance.desired = Desired::Gone;
            }
            match &instance.state {
                State::Idle(Idle::Stopped | Idle::Completed) => {}
                State::Idle(_) => {
                    instance.state = State::Idle(Idle::Stopped);
                    out.push(Action::Notice(Notice::Stopped { instance: instance.id }));
                }
                State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {}
            }
        }
    }

    fn add_service(&mut self, now: Timestamp, id: ServiceId, service: Service, out: &mut Vec<Action>) {
        let (instances, desired) = (service.instances, if service.autostart { Desired::Up } else { Desired::Down });
        let service = Arc::new(service);
        match self.services.get_mut(id.0) {
            Some(entry) => {
                entry.service = service;
                entry.standing = Standing::Settled;
            }
            None => self.services.push(Entry::new(service, self.instances.len())),
        }
        for number in 1..=instances {
            self.add(now, InstanceId { service: id, number }, desired);
        }
        out.push(Action::Define { service: id });
        out.push(Action::Notice(Notice::Added { service: id }));
    }

    /// Takes an update as far as it may go now.
    pub(super) fn update_on(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if !self.is_updating() {
            return;
        }
        if self.is_serving() {
            self.end_old_runs(now, out);
            for index in 0..self.services.len() {
                self.switch(now, ServiceId(index), out);
            }
        }
        self.drop_gone();
        for index in 0..self.services.len() {
            self.forget_gone(ServiceId(index), out);
        }
        self.find_edges();
        if self.is_serving() && !self.is_updating() {
            out.push(Action::Notice(Notice::Updated));
        }
    }

    /// Dependents first, by the definitions they were started with.
    fn end_old_runs(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let busy: Vec<bool> = (0..self.services.len())
            .map(|index| self.is_halting(ServiceId(index)) && self.instances_of(ServiceId(index)).iter().any(|one| !one.is_idle()))
            .collect();
        for entry in &self.services {
            let needed = entry.dependents.iter().any(|dependent| busy.get(dependent.0).is_some_and(|busy| *busy));
            if !entry.standing.is_halting() || needed {
                continue;
            }
            let range = entry.first..entry.first.saturating_add(usize::from(entry.count));
            for instance in self.instances.get_mut(range).unwrap_or_default() {
                match &instance.state {
                    State::Idle(_) | State::Ending(_) => {}
                    State::Launching { .. } | State::Starting { .. } | State::Running { .. } => {
                        instance.begin_end(now, &entry.service, Cause::Update, entry.service.stop.timeout, out);
                    }
                }
            }
        }
    }

    /// The new definition holds, if it can.
    fn switch(&mut self, now: Timestamp, id: ServiceId, out: &mut Vec<Action>) {
        let instances = self.instances_of(id);
        let Some(entry) = self.services.get(id.0) else { return };
        let (service, restarts) = match &entry.standing {
            Standing::Replaced(service) if instances.iter().all(Instance::is_idle) => (Arc::clone(service), true),
            Standing::Amended(service) if !instances.iter().any(|one| matches!(one.state, State::Ending(_))) => {
                (Arc::clone(service), false)
            }
            Standing::Settled | Standing::Replaced(_) | Standing::Amended(_) | Standing::Leaving | Standing::Former => return,
        };
        let (before, ids): (u16, Vec<InstanceId>) = (entry.service.instances, instances.iter().map(|one| one.id).collect());
        let to = service.instances;
        let policy = memory_policy(&service);
        if let Some(entry) = self.services.get_mut(id.0) {
            entry.service = service;
            entry.standing = Standing::Settled;
        }
        for id in ids {
            if restarts {
                // What is known of the memory of another program says nothing of this one.
                self.guard.remove(id);
                self.guard.add(now, id, policy);
            } else {
                self.guard.set_policy(id, policy);
            }
            if let Some(instance) = self.instance_mut(id) {
                instance.begin_anew(restarts);
            }
        }
        out.push(Action::Define { service: id });
        out.push(Action::Notice(Notice::Redefined { service: id, restarts }));
        // Who was scaled by hand stays so, unless it is this number that is another one.
        if before != to {
            self.resize(now, id, to, Cause::Update, out);
        }
    }

    fn forget_gone(&mut self, id: ServiceId, out: &mut Vec<Action>) {
        let Some(entry) = self.services.get_mut(id.0).filter(|entry| entry.standing == Standing::Leaving && entry.count == 0) else {
            return;
        };
        entry.standing = Standing::Former;
        entry.roll = None;
        // Only the name is needed any more.
        let mut service = (*entry.service).clone();
        service.launch.command = Command::Argv(Vec::new());
        service.launch.env = BTreeMap::new();
        service.launch.env_defaults = BTreeMap::new();
        (service.groups, service.depends_on, service.ready, service.live) = (Vec::new(), Vec::new(), Readiness::default(), None);
        entry.service = Arc::new(service);
        self.order.retain(|other| *other != id);
        out.push(Action::Notice(Notice::Removed { service: id }));
        out.push(Action::Forget { service: id });
    }

    fn find_edges(&mut self) {
        dependents(&mut self.services);
        self.dependencies_first = dependencies_first(&self.services);
    }
}

impl Instance {
    /// Its service has another definition.
    fn begin_anew(&mut self, restarts: bool) {
        let again = match &self.state {
            State::Idle(Idle::Stopped | Idle::Completed | Idle::Exited) => restarts,
            // Its old definition may be what was wrong.
            State::Idle(Idle::Failed | Idle::Blocked { .. }) => true,
            State::Idle(Idle::Due { .. } | Idle::Backoff { .. })
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Ending(_) => false,
        };
        match self.desired {
            Desired::Up if again => {
                (self.failures, self.attempts) = (0, 0);
                self.state = State::Idle(Idle::Due { waits_for: None });
            }
            // A job may have become a service.
            Desired::Down | Desired::Gone if restarts => self.state = State::Idle(Idle::Stopped),
            Desired::Up | Desired::Down | Desired::Gone => {}
        }
    }
}

/// What another definition takes. All that the engine reads when it decides may change under a run; what the process, its pipes or a
/// question that is open were made from may not.
fn step(old: &Service, new: &Service) -> Step {
    if old == new {
        return Step::Keep;
    }
    let is_asked = |service: &Service| service.ready.probe().is_some();
    let same_process = old.launch == new.launch && old.kind == new.kind;
    let same_ready = old.ready == new.ready || is_asked(old) && is_asked(new);
    let same_live = old.live.is_some() == new.live.is_some();
    let same_jobs = old.kind == Kind::Service || old.instances == new.instances;
    if same_process && same_ready && same_live && same_jobs { Step::Amend } else { Step::Restart }
}
