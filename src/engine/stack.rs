//! The whole stack: who may start, who must stop and in which order, and when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::announcement::Heard;
use super::backoff::Rng;
use super::event::{Action, Cause, Command, EndCause, Event, InstanceId, Notice, Reach, RunId, ShutdownCause, Verb, earlier};
use super::guard::{Decision, Guard, May};
use super::incident::Journal;
use super::instance::{Consequence, Desired, Idle, Instance, Shared, State};
use super::memory::{Calm, MemoryEvent};
use super::roll::{Roll, RollStop};
use super::spec::{Condition, Dependency, Kind, Restart, Service, ServiceId, ServiceMemory, Spec, Victim};
use super::update::Standing;
use super::{Outcome, Timestamp};

/// Kept free at the end of `stop_timeout` for SIGKILL, the last reaping and the last log line.
const RESERVE: Duration = Duration::from_millis(500);
/// After a second Ctrl-C: how long the reaping may take before firstmate leaves all the same.
const KILL_ALL_WITHIN: Duration = Duration::from_secs(1);
/// A step that comes later than this after it was due shows that everything stood still: a container that was paused, a host that
/// slept. The clock of the kernel runs on meanwhile, and the services stand still as well.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// The decisions of one supervisor. See the module documentation of `engine`.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) services: Vec<Entry>,
    pub(super) instances: Vec<Instance>,
    pub(super) phase: Phase,
    pub(super) guard: Guard,
    pub(super) journal: Journal,
    pub(super) stop_timeout: Duration,
    pub(super) drain: Duration,
    rng: Rng,
    /// Every service that is there, in the order of the file; those that are to go come last.
    pub(super) order: Vec<ServiceId>,
    /// Every service after those it depends on.
    pub(super) dependencies_first: Vec<ServiceId>,
    pub(super) began: Timestamp,
    /// Until then nothing but the guard has anything to do by itself.
    idle_until: Timestamp,
}

/// Nothing is ever due.
pub(super) const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

/// A service with its place among the others.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) service: Shared,
    /// Index of its first instance.
    pub(super) first: usize,
    /// How many there are, those that are leaving included. The file's number until somebody scales it.
    pub(super) count: u16,
    /// The last run of each instance that is there no longer, so that no run is ever numbered twice.
    pub(super) retired: BTreeMap<u16, u32>,
    /// The last rolling restart.
    pub(super) roll: Option<Roll>,
    /// Services that depend on it.
    pub(super) dependents: Vec<ServiceId>,
    /// How it stands to the file.
    pub(super) standing: Standing,
}

impl Entry {
    /// Without instances; they are to come at `first`.
    pub(super) const fn new(service: Shared, first: usize) -> Self {
        Self { service, first, count: 0, retired: BTreeMap::new(), roll: None, dependents: Vec::new(), standing: Standing::Settled }
    }
}

/// Where the whole stack is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// Not ready, but everything still runs.
    Draining {
        why: EndCause,
        until: Timestamp,
        deadline: Timestamp,
    },
    Stopping {
        why: EndCause,
        kill_all_at: Timestamp,
        deadline: Timestamp,
    },
    Ended {
        why: EndCause,
    },
}

impl Phase {
    pub(super) const fn why(&self) -> Option<&EndCause> {
        match self {
            Self::Serving => None,
            Self::Draining { why, .. } | Self::Stopping { why, .. } | Self::Ended { why } => Some(why),
        }
    }
}

impl Engine {
    /// Nothing is started yet; the first `step` does. `seed` is the jitter's.
    #[must_use]
    pub fn new(spec: Spec, seed: u64, now: Timestamp) -> Self {
        let mut services = Vec::with_capacity(spec.services.len());
        let mut instances = Vec::new();
        for (index, service) in spec.services.into_iter().enumerate() {
            let first = instances.len();
            for number in 1..=service.instances {
                instances.push(Instance::new(InstanceId { service: ServiceId(index), number }, service.autostart));
            }
            let count = service.instances;
            services.push(Entry { count, ..Entry::new(Arc::new(service), first) });
        }
        dependents(&mut services);
        let order = (0..services.len()).map(ServiceId).collect();
        let dependencies_first = dependencies_first(&services);
        let guarded = instances.iter().map(|instance| {
            let service = services.get(instance.id.service.0).map(|entry| &entry.service);
            (instance.id, service.map(|service| memory_policy(service)).unwrap_or_default())
        });
        let guard = Guard::new(spec.memory, guarded, now);
        Self {
            services,
            instances,
            phase: Phase::Serving,
            guard,
            journal: Journal::default(),
            stop_timeout: spec.stop_timeout,
            drain: spec.drain,
            rng: Rng::new(seed),
            order,
            dependencies_first,
            began: now,
            idle_until: Timestamp::ZERO,
        }
    }

    /// The service numbered `id`.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(id.0).map(|entry| &entry.service)
    }

    /// Every service's name, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.service_ids().filter_map(|id| self.service(id)).map(|service| service.name.as_str())
    }

    /// Every service that is there, in the order of the file.
    pub fn service_ids(&self) -> impl Iterator<Item = ServiceId> {
        self.order.iter().copied()
    }

    /// Every instance, in the order of the file.
    pub fn instance_ids(&self) -> impl Iterator<Item = InstanceId> {
        self.order.iter().flat_map(|id| self.instances_of(*id)).map(|instance| instance.id)
    }

    /// The run that is alive or being cleaned up, if there is one.
    #[must_use]
    pub fn current_run(&self, id: InstanceId) -> Option<RunId> {
        self.instance(id)?.run()
    }

    fn index(&self, id: InstanceId) -> Option<usize> {
        let entry = self.services.get(id.service.0)?;
        let within = usize::from(id.number.checked_sub(1)?);
        (within < usize::from(entry.count)).then(|| entry.first.saturating_add(within))
    }

    pub(super) fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(self.index(id)?)
    }

    pub(super) fn instance_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        let index = self.index(id)?;
        self.instances.get_mut(index)
    }

    pub(super) const fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    /// The instances of a service.
    pub(super) fn instances_of(&self, id: ServiceId) -> &[Instance] {
        let Some(entry) = self.services.get(id.0) else { return &[] };
        let end = entry.first.saturating_add(usize::from(entry.count));
        self.instances.get(entry.first..end).unwrap_or(&[])
    }

    /// When `step` must be called again at the latest; `None`: only an event can change anything.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if matches!(self.phase, Phase::Ended { .. }) {
            return None;
        }
        earlier((self.idle_until != NEVER).then_some(self.idle_until), self.guard.deadline())
    }

    /// Whether looks at memory may be left to somebody who decides nothing: [`Self::watched`] says that they are, and
    /// [`MemoryEvent::Grew`](super::memory::MemoryEvent::Grew) that it is over.
    #[must_use]
    pub fn calm(&self, now: Timestamp) -> Option<Calm> {
        self.guard.calm(now)
    }

    /// Somebody else looks at memory from now on, as the last [`Self::calm`] told.
    pub fn watched(&mut self, now: Timestamp) {
        self.guard.watched(now);
    }

    /// Whether somebody else still has to.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.guard.is_watched()
    }

    /// When something other than the guard's next look is due.
    pub(super) fn due(&self) -> Timestamp {
        let own = match self.phase {
            Phase::Serving => self.roll_due(),
            Phase::Draining { until, .. } => Some(until),
            Phase::Stopping { kill_all_at, deadline, .. } => {
                let killed = self.instances.iter().all(|instance| !self.may_still_be_killed(instance));
                Some(if killed { deadline } else { kill_all_at })
            }
            Phase::Ended { .. } => return NEVER,
        };
        self.instances.iter().map(Instance::deadline).fold(own, earlier).unwrap_or(NEVER)
    }

    fn may_still_be_killed(&self, instance: &Instance) -> bool {
        use super::instance::{EndPhase, Ending};
        match &instance.state {
            State::Idle(_) | State::Ending(Ending { phase: EndPhase::Killed { .. }, .. }) => false,
            State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => true,
        }
    }

    /// Takes an event and appends what is to be done, in order.
    ///
    /// News of a run that is not the present one is ignored. After `Action::Exit` nothing follows.
    pub fn step(&mut self, now: Timestamp, event: Event, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Ended { .. }) {
            return;
        }
        let before = out.len();
        // Between two things that happen there are thousands of looks at memory: they cost what they cost, and not a walk over all instances.
        let idle = now < self.idle_until && !self.guard.holds_back();
        if idle && matches!(event, Event::Tick) {
            self.guard.tick(now, out);
            return;
        }
        let looked = matches!(event, Event::Memory(MemoryEvent::Read(_)));
        // Before the first step nothing was due.
        if self.idle_until != Timestamp::ZERO && now.since(self.idle_until) > STOOD_STILL {
            for instance in &mut self.instances {
                instance.is_silent_anew(now);
            }
        }
        let heard = if matches!(event, Event::Tick) { Heard::Everything } else { Heard::Something };
        let witness = self.witness(now, &event);
        let consequence = self.take(now, event, out);
        if idle && looked && out.len() == before {
            return;
        }
        self.suffer(now, consequence, out);
        self.guard.tick(now, out);
        self.tick(now, heard, out);
        self.roll_on(now, out);
        self.update_on(now, out);
        self.drop_gone();
        self.reconcile(now, out);
        self.record(now, witness, out.get(before..).unwrap_or_default());
        self.idle_until = self.due();
    }

    /// News of memory, and what the guard makes of it.
    fn take_memory(&mut self, now: Timestamp, event: MemoryEvent, out: &mut Vec<Action>) {
        let may = if matches!(self.phase, Phase::Serving) { May::All } else { May::Emergency };
        let decision = self.guard.take(now, event, &self.instances, may, out);
        for instance in &mut self.instances {
            let Some(until) = self.guard.gate_of(instance.id) else { continue };
            match &mut instance.state {
                State::Idle(Idle::Backoff { retry_at }) if *retry_at > until => *retry_at = until,
                State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {}
            }
        }
        let (run, kill) = match decision {
            None => return,
            Some(Decision::Restart(run)) => (run, false),
            Some(Decision::Kill(run)) => (run, true),
        };
        let Some((instance, service, _)) = self.present(run) else { return };
        if kill {
            instance.kill_now(now, &service, Cause::Memory, out);
        } else {
            instance.begin_end(now, &service, Cause::Memory, service.stop.timeout, out);
        }
    }

    /// The replacement of what was ended for its memory, by the guard or by the kernel, waits for that memory.
    fn mind_the_gate(&mut self, now: Timestamp, run: RunId) {
        self.guard.run_gone(now);
        let Some(index) = self.index(run.instance) else { return };
        let Some(instance) = self.instances.get_mut(index) else { return };
        if !instance.is_idle() {
            return;
        }
        let due = match &instance.state {
            State::Idle(Idle::Due { .. }) => now,
            State::Idle(Idle::Backoff { retry_at }) => *retry_at,
            State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {
                // It is not to start again; the guard only has to know that it is gone.
                let _ = self.guard.run_ended(now, run, now);
                self.guard.gate_passed(run.instance);
                return;
            }
        };
        if let Some(until) = self.guard.run_ended(now, run, due) {
            instance.state = State::Idle(Idle::Backoff { retry_at: until });
        }
    }

    fn take(&mut self, now: Timestamp, event: Event, out: &mut Vec<Action>) -> Consequence {
        let serving = self.is_serving();
        // Whoever is to go, or to come back as another, is not started again as it was, and is no reason to end.
        let goes_on = |engine: &Self, run: RunId| serving && !engine.is_halting(run.instance.service);
        match event {
            Event::Tick => Consequence::Nothing,
            Event::Spawned { run, pid } => {
                if let Some((instance, _, _)) = self.present(run) {
                    instance.on_spawned(pid, out);
                }
                Consequence::Nothing
            }
            Event::Executed { run } => {
                if let Some((instance, service, _)) = self.present(run) {
                    instance.on_executed(now, &service, out);
                    self.guard.run_started(now);
                }
                Consequence::Nothing
            }
            Event::Exited { run, outcome, left_behind } => {
                if outcome == Outcome::OomKilled {
                    self.guard.oom_killed(run);
                }
                let goes_on = goes_on(self, run);
                let consequence = match self.present(run) {
                    Some((instance, service, rng)) => instance.on_exited(now, &service, outcome, left_behind, goes_on, rng, out),
                    None => Consequence::Nothing,
                };
                self.mind_the_gate(now, run);
                consequence
            }
            Event::TreeGone { run } => {
                let goes_on = goes_on(self, run);
                let consequence = match self.present(run) {
                    Some((instance, service, rng)) => instance.on_tree_gone(now, &service, goes_on, rng, out),
                    None => Consequence::Nothing,
                };
                self.mind_the_gate(now, run);
                consequence
            }
            Event::Probed { run, kind, number, result } => {
                if let Some((instance, service, _)) = self.present(run) {
                    let starting = matches!(instance.state, State::Starting { .. });
                    instance.on_probed(now, &service, kind, number, result, out);
                    if starting && matches!(instance.state, State::Running { .. }) {
                        self.guard.run_ready(now);
                    }
                }
                Consequence::Nothing
            }
            Event::Announced { run, what } => {
                let at_most = self.stop_timeout;
                if let Some((instance, service, _)) = self.present(run) {
                    let starting = matches!(instance.state, State::Starting { .. });
                    instance.on_announced(now, &service, at_most, what, out);
                    if starting && matches!(instance.state, State::Running { .. }) {
                        self.guard.run_ready(now);
                    }
                }
                Consequence::Nothing
            }
            Event::Command(command) => {
                if serving {
                    self.command(now, &command, out);
                }
                Consequence::Nothing
            }
            Event::Scale { service, instances } => {
                if serving {
                    self.scale(now, service, instances, out);
                }
                Consequence::Nothing
            }
            Event::Changed { service, what } => {
                if serving {
                    self.changed(now, service, what, out);
                }
                Consequence::Nothing
            }
            Event::Update(spec) => {
                if serving {
                    self.begin_update(now, &spec, out);
                }
                Consequence::Nothing
            }
            Event::Memory(event) => {
                self.take_memory(now, event, out);
                Consequence::Nothing
            }
            Event::Shutdown(cause) => Consequence::End(EndCause::Asked(cause)),
            Event::KillAll => {
                self.kill_all(now, out);
                Consequence::Nothing
            }
        }
    }

    /// The instance whose present run this is, with what its transitions need.
    fn present(&mut self, run: RunId) -> Option<(&mut Instance, Shared, &mut Rng)> {
        let index = self.index(run.instance)?;
        let service = Arc::clone(&self.services.get(run.instance.service.0)?.service);
        let instance = self.instances.get_mut(index)?;
        (instance.run() == Some(run)).then_some((instance, service, &mut self.rng))
    }

    fn command(&mut self, now: Timestamp, command: &Command, out: &mut Vec<Action>) {
        match command.verb {
            Verb::Roll => return self.begin_rolls(now, &command.instances, out),
            // Who has a new run, or is to have none, is not restarted once more.
            Verb::Stop => self.leave_out_of_rolls(&command.instances, RollStop::StoppedByOperator, out),
            Verb::Restart => self.leave_out_of_rolls(&command.instances, RollStop::RestartedByOperator, out),
            Verb::Start | Verb::Reload | Verb::Signal { .. } => {}
        }
        for id in &command.instances {
            let Some(index) = self.index(*id) else { continue };
            let Some(service) = self.service(id.service).cloned() else { continue };
            let halting = self.is_halting(id.service);
            let Some(instance) = self.instances.get_mut(index).filter(|instance| instance.desired != Desired::Gone) else { continue };
            let due = State::Idle(Idle::Due { waits_for: None });
            // Its present run ends when it is its turn, and a new one begins by the new definition: only whether is left to be said.
            if halting && matches!(command.verb, Verb::Start | Verb::Stop | Verb::Restart) {
                instance.desired = if command.verb == Verb::Stop { Desired::Down } else { Desired::Up };
                continue;
            }
            match command.verb {
                Verb::Start => {
                    instance.desired = Desired::Up;
                    if instance.is_idle() {
                        (instance.failures, instance.attempts) = (0, 0);
                        instance.state = due;
                    }
                    instance.wished();
                }
                Verb::Stop => {
                    instance.desired = Desired::Down;
                    match &instance.state {
                        // What is done stays done: others may depend on it.
                        State::Idle(Idle::Completed | Idle::Stopped) => {}
                        State::Idle(_) => {
                            instance.state = State::Idle(Idle::Stopped);
                            out.push(Action::Notice(Notice::Stopped { instance: *id }));
                        }
                        State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {
                            instance.begin_end(now, &service, Cause::Operator, service.stop.timeout, out);
                            instance.wished();
                        }
                    }
                }
                Verb::Restart => instance.restart(now, &service, out),
                Verb::Reload => {
                    if let (Some(signal), false) = (service.reload_signal, matches!(instance.state, State::Ending(_))) {
                        instance.send(signal, Reach::Main, out);
                    }
                }
                Verb::Signal { signal, to } => instance.send(signal, to, out),
                // Begun above.
                Verb::Roll => {}
            }
        }
    }

    fn suffer(&mut self, now: Timestamp, consequence: Consequence, out: &mut Vec<Action>) {
        let Consequence::End(why) = consequence else { return };
        if !matches!(self.phase, Phase::Serving) {
            // The first reason is the true one, and a repeated SIGTERM changes nothing: platforms repeat it.
            return;
        }
        let deadline = now.after(self.stop_timeout);
        // An essential service that was given up leaves nothing worth draining: the stack has not been ready for long.
        let drain = match why {
            // However long: the last moments are for SIGKILL and the reaping.
            EndCause::Asked(_) => self.drain.min(self.stop_timeout.saturating_sub(RESERVE)),
            EndCause::GaveUp { .. }
            | EndCause::EssentialEnded { .. }
            | EndCause::Blocked { .. }
            | EndCause::NothingLeft { .. }
            | EndCause::Killed => Duration::ZERO,
        };
        if !matches!(why, EndCause::NothingLeft { .. }) {
            out.push(Action::Notice(Notice::ShuttingDown { why: why.clone(), within: self.stop_timeout, drain }));
        }
        for instance in &mut self.instances {
            if matches!(instance.state, State::Idle(Idle::Due { .. } | Idle::Backoff { .. } | Idle::Blocked { .. })) {
                instance.state = State::Idle(Idle::Stopped);
            }
        }
        if drain.is_zero() {
            self.begin_stopping(now, why, deadline);
        } else {
            self.phase = Phase::Draining { why, until: now.after(drain), deadline };
        }
    }

    fn begin_stopping(&mut self, now: Timestamp, why: EndCause, deadline: Timestamp) {
        let left = deadline.since(now);
        let reserve = RESERVE.min(left.checked_div(8).unwrap_or(left));
        let kill_all_at = now.after(left.saturating_sub(reserve));
        // Whom even SIGKILL has not ended by then is left behind, so that the other half is there to write what there is to say.
        let deadline = now.after(left.saturating_sub(reserve.checked_div(2).unwrap_or_default()));
        self.phase = Phase::Stopping { why, kill_all_at, deadline };
    }

    fn kill_all(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let why = match &self.phase {
            Phase::Serving | Phase::Draining { .. } => EndCause::Killed,
            Phase::Stopping { why: EndCause::Asked(ShutdownCause::Command | ShutdownCause::Signal { .. }), .. } => EndCause::Killed,
            Phase::Stopping { why, .. } => why.clone(),
            Phase::Ended { .. } => return,
        };
        for instance in &mut self.instances {
            if matches!(instance.state, State::Idle(Idle::Due { .. } | Idle::Backoff { .. } | Idle::Blocked { .. })) {
                instance.state = State::Idle(Idle::Stopped);
            }
        }
        let already = match self.phase {
            Phase::Draining { deadline, .. } | Phase::Stopping { deadline, .. } => deadline,
            Phase::Serving | Phase::Ended { .. } => now.after(KILL_ALL_WITHIN),
        };
        self.phase = Phase::Stopping { why, kill_all_at: now, deadline: already.min(now.after(KILL_ALL_WITHIN)) };
        self.tick(now, Heard::Something, out);
    }

    fn tick(&mut self, now: Timestamp, heard: Heard, out: &mut Vec<Action>) {
        if let Phase::Draining { why, until, deadline } = &self.phase
            && *until <= now
        {
            let (why, deadline) = (why.clone(), *deadline);
            self.begin_stopping(now, why, deadline);
        }
        let kill_all = matches!(self.phase, Phase::Stopping { kill_all_at, .. } if kill_all_at <= now);
        for index in 0..self.instances.len() {
            let Some(id) = self.instances.get(index).map(|instance| instance.id) else { continue };
            let Some(service) = self.service(id.service).cloned() else { continue };
            let Some(instance) = self.instances.get_mut(index) else { continue };
            if kill_all {
                instance.kill_now(now, &service, Cause::Shutdown, out);
            }
            if instance.deadline().is_some_and(|deadline| deadline <= now) {
                instance.tick(now, &service, heard, out);
            }
        }
    }

    /// Brings what is true nearer to what is wanted.
    fn reconcile(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Serving => {
                let consequence = self.start_what_may_start(now, out);
                self.suffer(now, consequence, out);
                if matches!(self.phase, Phase::Serving) {
                    if let Some(code) = self.nothing_left() {
                        self.suffer(now, Consequence::End(EndCause::NothingLeft { code }), out);
                        self.stop_what_may_stop(now, out);
                    }
                } else {
                    self.stop_what_may_stop(now, out);
                }
            }
            Phase::Draining { .. } | Phase::Stopping { .. } => self.stop_what_may_stop(now, out),
            Phase::Ended { .. } => {}
        }
    }

    /// The instances of a service but for those that are leaving.
    pub(super) fn staying(&self, id: ServiceId) -> impl Iterator<Item = &Instance> {
        self.instances_of(id).iter().filter(|instance| instance.desired != Desired::Gone)
    }

    fn start_what_may_start(&mut self, now: Timestamp, out: &mut Vec<Action>) -> Consequence {
        // Starting one instance makes no condition true, but a blocked one blocks others: again until nothing changes.
        loop {
            let mut changed = false;
            for index in 0..self.instances.len() {
                if self.waits_for_another_definition(now, index) {
                    continue;
                }
                let Some(instance) = self.instances.get(index) else { continue };
                let waits_for = match &instance.state {
                    State::Idle(Idle::Due { waits_for }) => *waits_for,
                    State::Idle(Idle::Backoff { retry_at }) if *retry_at <= now => None,
                    State::Idle(Idle::Blocked { on }) => {
                        if self.is_dead(*on) {
                            continue;
                        }
                        None
                    }
                    State::Idle(Idle::Stopped | Idle::Backoff { .. } | Idle::Completed | Idle::Exited | Idle::Failed)
                    | State::Launching { .. }
                    | State::Starting { .. }
                    | State::Running { .. }
                    | State::Ending(_) => continue,
                };
                let id = instance.id;
                let Some(service) = self.service(id.service).cloned() else { continue };
                let dead = service.depends_on.iter().map(|dependency| dependency.service).find(|on| self.is_dead(*on));
                // What is to be replaced is as good as down, and so is a service of which instances are still to come.
                let unmet = |on: &&Dependency| self.is_halting(on.service) || self.is_growing(on.service) || !self.holds(**on);
                let missing = service.depends_on.iter().find(unmet).map(|dependency| dependency.service);
                let dead_outcome = dead.and_then(|on| self.failure_of(on));
                let Some(instance) = self.instances.get_mut(index) else { continue };
                match (dead, missing) {
                    (Some(on), _) => {
                        instance.state = State::Idle(Idle::Blocked { on });
                        changed = true;
                        out.push(Action::Notice(Notice::Blocked { instance: id, on }));
                        if service.essential {
                            let outcome = dead_outcome.unwrap_or(Outcome::Exited(1));
                            return Consequence::End(EndCause::Blocked { instance: id, on, outcome });
                        }
                    }
                    (None, Some(on)) => {
                        if waits_for != Some(on) || !matches!(instance.state, State::Idle(Idle::Due { .. })) {
                            instance.state = State::Idle(Idle::Due { waits_for: Some(on) });
                            out.push(Action::Notice(Notice::Waiting { instance: id, on }));
                        }
                    }
                    (None, None) => {
                        self.guard.gate_passed(id);
                        instance.spawn(now, &service, out);
                    }
                }
            }
            if !changed {
                return Consequence::Nothing;
            }
        }
    }

    /// Whether an instance is not to start since its service is about to have another definition. Its own delay may be over by then.
    fn waits_for_another_definition(&mut self, now: Timestamp, index: usize) -> bool {
        let pending = self.instances.get(index).is_some_and(|instance| self.is_pending(instance.id.service));
        if let Some(instance) = self.instances.get_mut(index).filter(|_| pending)
            && matches!(instance.state, State::Idle(Idle::Backoff { retry_at }) if retry_at <= now)
        {
            instance.state = State::Idle(Idle::Due { waits_for: None });
        }
        pending
    }

    /// Whether a condition holds: for all instances of the service that is waited for.
    fn holds(&self, dependency: Dependency) -> bool {
        self.staying(dependency.service).all(|instance| match dependency.condition {
            // A oneshot that has ended well was started, too.
            Condition::Started => {
                matches!(instance.state, State::Starting { .. } | State::Running { .. } | State::Idle(Idle::Completed))
            }
            Condition::Ready => instance.is_ready(),
            Condition::Completed => matches!(instance.state, State::Idle(Idle::Completed)),
        })
    }

    /// Whether a service will not run again unless an operator makes it. Who waits for files to change will, sooner or later.
    fn is_dead(&self, id: ServiceId) -> bool {
        let awaits_change = self.service(id).is_some_and(|service| service.awaits_change());
        self.staying(id).any(|instance| match &instance.state {
            State::Idle(Idle::Failed | Idle::Exited) => !awaits_change,
            State::Idle(Idle::Blocked { .. }) => true,
            State::Idle(Idle::Stopped | Idle::Due { .. } | Idle::Backoff { .. } | Idle::Completed)
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Ending(_) => false,
        })
    }

    /// The outcome that a dead service, or the dead one that blocks it, died of.
    fn failure_of(&self, id: ServiceId) -> Option<Outcome> {
        self.dead_of(id)?.last_outcome.clone()
    }

    /// The instance because of which everything ends; `None` where none is to blame.
    #[must_use]
    pub fn to_blame(&self, why: &EndCause) -> Option<InstanceId> {
        match why {
            EndCause::GaveUp { instance, .. } | EndCause::EssentialEnded { instance, .. } => Some(*instance),
            EndCause::Blocked { on, .. } => self.dead_of(*on).map(|dead| dead.id),
            EndCause::NothingLeft { .. } => {
                self.instances.iter().find(|one| matches!(one.state, State::Idle(Idle::Failed))).map(|one| one.id)
            }
            EndCause::Asked(_) | EndCause::Killed => None,
        }
    }

    /// The instance a dead service died of, or that of the dead one that blocks it.
    fn dead_of(&self, id: ServiceId) -> Option<&Instance> {
        let mut id = id;
        // As many steps as there are services: a chain of blocked ones ends at a failed one.
        for _ in 0..self.services.len() {
            let dead = self
                .instances_of(id)
                .iter()
                .find(|instance| matches!(instance.state, State::Idle(Idle::Failed | Idle::Exited | Idle::Blocked { .. })))?;
            match &dead.state {
                State::Idle(Idle::Blocked { on }) => id = *on,
                State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } | State::Ending(_) => {
                    return Some(dead);
                }
            }
        }
        None
    }

    /// The exit code when everything has ended by itself: of the first failure in the file's order, or 0. `None` while something runs, will run, waits for files
    /// to change, or was stopped by an operator.
    fn nothing_left(&self) -> Option<i32> {
        if self.is_updating() {
            return None;
        }
        let mut code = 0;
        let mut wanted = false;
        for instance in &self.instances {
            wanted |= instance.desired == Desired::Up;
            let awaits_change = self.service(instance.id.service).is_some_and(|service| service.awaits_change());
            match &instance.state {
                State::Idle(Idle::Failed | Idle::Exited) if awaits_change => return None,
                State::Idle(Idle::Failed) => {
                    if let Some(outcome) = &instance.last_outcome {
                        code = if code == 0 { failure_code(outcome) } else { code };
                    }
                }
                State::Idle(Idle::Completed | Idle::Exited | Idle::Blocked { .. }) => {}
                State::Idle(Idle::Stopped) => {
                    let was_wanted = self.service(instance.id.service).is_some_and(|service| service.autostart);
                    if was_wanted || instance.has_run() {
                        return None;
                    }
                }
                State::Idle(Idle::Due { .. } | Idle::Backoff { .. })
                | State::Launching { .. }
                | State::Starting { .. }
                | State::Running { .. }
                | State::Ending(_) => return None,
            }
        }
        wanted.then_some(code)
    }

    fn stop_what_may_stop(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let (kill_all_at, deadline) = match self.phase {
            Phase::Stopping { kill_all_at, deadline, .. } => (kill_all_at, deadline),
            Phase::Draining { .. } => {
                // Nothing serves any more, so there is nothing to drain.
                if self.instances.iter().all(Instance::is_idle) {
                    self.end(0, out);
                }
                return;
            }
            Phase::Serving | Phase::Ended { .. } => return,
        };
        // Nothing in the loop changes these: an instance that is asked to end is not idle yet.
        let busy: Vec<bool> =
            (0..self.services.len()).map(|index| self.instances_of(ServiceId(index)).iter().any(|instance| !instance.is_idle())).collect();
        let below = self.chains_below(&busy);
        let is_needed = |entry: &Entry| entry.dependents.iter().any(|dependent| busy.get(dependent.0).is_some_and(|busy| *busy));
        // Old definitions and new ones may wait for one another in the middle of an update.
        let stuck =
            self.instances.iter().filter(|instance| !instance.is_idle()).all(|instance| {
                !matches!(instance.state, State::Ending(_)) && self.services.get(instance.id.service.0).is_some_and(is_needed)
            });
        for instance in &mut self.instances {
            if instance.is_idle() {
                continue;
            }
            let id = instance.id.service;
            let Some(entry) = self.services.get(id.0) else { continue };
            let needed = !stuck && is_needed(entry);
            let needs = match &instance.state {
                State::Ending(ending) => ending.needs_until.since(now),
                State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } if needed => continue,
                State::Idle(_) | State::Launching { .. } | State::Starting { .. } | State::Running { .. } => Duration::ZERO,
            };
            let own = entry.service.stop.timeout;
            let below = below.get(id.0).copied().unwrap_or_default();
            let left = kill_all_at.since(now);
            // What it asked for, as far as that leaves those it depends on their own time.
            let grace = own.min(Self::share(own, below, left)).max(needs.min(left.saturating_sub(below)));
            // One that is ending already only gets less time: others wait for it now.
            instance.begin_end(now, &entry.service, Cause::Shutdown, grace, out);
        }
        let left = self.instances.iter().filter(|instance| !instance.is_idle()).count();
        if left == 0 || deadline <= now {
            self.end(u32::try_from(left).unwrap_or(u32::MAX), out);
        }
    }

    /// This service's part of the time that is left, so that those it depends on get theirs: by the grace periods on the longest
    /// chain of running services below it.
    fn share(own: Duration, below: Duration, left: Duration) -> Duration {
        let whole = own.saturating_add(below);
        if whole <= left || whole.is_zero() {
            return own;
        }
        left.mul_f64((own.as_secs_f64() / whole.as_secs_f64()).clamp(0.0, 1.0))
    }

    /// For each service the grace periods of the longest chain of running services below it, added up.
    fn chains_below(&self, busy: &[bool]) -> Vec<Duration> {
        let mut below = vec![Duration::ZERO; self.services.len()];
        for id in &self.dependencies_first {
            let Some(service) = self.service(*id) else { continue };
            let mut longest = Duration::ZERO;
            for Dependency { service: on, .. } in &service.depends_on {
                let runs = busy.get(on.0).is_some_and(|busy| *busy);
                let own = if runs { self.service(*on).map_or(Duration::ZERO, |service| service.stop.timeout) } else { Duration::ZERO };
                longest = longest.max(own.saturating_add(below.get(on.0).copied().unwrap_or_default()));
            }
            if let Some(below) = below.get_mut(id.0) {
                *below = longest;
            }
        }
        below
    }

    fn end(&mut self, abandoned: u32, out: &mut Vec<Action>) {
        let Some(why) = self.phase.why().cloned() else { return };
        let code = self.exit_code(&why);
        self.phase = Phase::Ended { why: why.clone() };
        out.push(Action::Notice(Notice::Over { why, code, abandoned }));
        out.push(Action::Exit { code });
    }

    /// firstmate's own exit code.
    fn exit_code(&self, why: &EndCause) -> i32 {
        match why {
            EndCause::Asked(_) => 0,
            EndCause::GaveUp { outcome, .. } | EndCause::Blocked { outcome, .. } => failure_code(outcome),
            EndCause::EssentialEnded { instance, outcome } => {
                let failed = self.instance(*instance).is_some_and(|one| matches!(one.state, State::Idle(Idle::Failed)));
                if failed { failure_code(outcome) } else { outcome.exit_code() }
            }
            EndCause::NothingLeft { code } => *code,
            EndCause::Killed => 130,
        }
    }

    /// Whether every instance has come to rest: ready, completed, down as wanted, or given up.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_updating()
            && self.instances.iter().all(|instance| match &instance.state {
                State::Idle(Idle::Due { .. } | Idle::Backoff { .. })
                | State::Launching { .. }
                | State::Starting { .. }
                | State::Ending(_)
                | State::Running { not_ready: Some(_), .. } => false,
                State::Idle(Idle::Stopped | Idle::Completed | Idle::Exited | Idle::Failed | Idle::Blocked { .. })
                | State::Running { not_ready: None, .. } => true,
            })
    }

    /// What must hold after every step; `Err` says what does not.
    ///
    /// # Errors
    ///
    /// The broken invariant, in words.
    pub fn check_invariants(&self, now: Timestamp) -> Result<(), String> {
        if self.idle_until != self.due() && self.idle_until != Timestamp::ZERO {
            return Err(format!("something is due at {:?}, and it says {:?}", self.due(), self.idle_until));
        }
        for index in 0..self.services.len() {
            if let Some(entry) = self.services.get(index).filter(|entry| (entry.count == 0) != (entry.standing == Standing::Former)) {
                return Err(format!("service {index} is {:?} and has {} instances", entry.standing, entry.count));
            }
            let Some(last) = self.instances_of(ServiceId(index)).last() else { continue };
            if last.desired == Desired::Gone && last.is_idle() {
                return Err(format!("{:?}: is to be gone, has nothing left and is there", last.id));
            }
        }
        for instance in &self.instances {
            let name = format!("{:?}", instance.id);
            if instance.life().is_some_and(|life| life.run != instance.runs) {
                return Err(format!("{name}: the live run is not the last one"));
            }
            if instance.life().is_some_and(|life| life.since > now) {
                return Err(format!("{name}: begins in the future"));
            }
            // Whether a silence was too long is said by the next `Event::Tick` alone.
            if instance.own_deadline().is_some_and(|deadline| deadline <= now) && !matches!(self.phase, Phase::Ended { .. }) {
                return Err(format!(
                    "{name}: something was due at {:?} and is not done at {now:?}: {:?}",
                    instance.own_deadline(),
                    instance.state
                ));
            }
            if !matches!(self.phase, Phase::Serving) && matches!(instance.state, State::Idle(Idle::Due { .. } | Idle::Backoff { .. })) {
                return Err(format!("{name}: waits to start while the stack stops"));
            }
            if matches!(self.phase, Phase::Serving) && instance.desired != Desired::Up && !self.is_halting(instance.id.service) {
                let ok = match &instance.state {
                    State::Idle(Idle::Stopped | Idle::Completed | Idle::Exited | Idle::Failed) | State::Ending(_) => true,
                    State::Idle(Idle::Due { .. } | Idle::Backoff { .. } | Idle::Blocked { .. })
                    | State::Launching { .. }
                    | State::Starting { .. }
                    | State::Running { .. } => false,
                };
                if !ok {
                    return Err(format!("{name}: is wanted down and is {:?}", instance.state));
                }
            }
            let entry = self.services.get(instance.id.service.0).ok_or_else(|| format!("{name}: has no service"))?;
            if entry.service.kind == Kind::Service && matches!(instance.state, State::Idle(Idle::Completed)) {
                return Err(format!("{name}: completed, but is no job"));
            }
        }
        if let Phase::Stopping { deadline, .. } = self.phase
            && deadline <= now
        {
            return Err(format!("still stopping at {now:?}, after the deadline {deadline:?}"));
        }
        Ok(())
    }
}

/// The outcome's own code, but never 0: a service that was ended for not being ready may well leave with 0, and is a failure still.
fn failure_code(outcome: &Outcome) -> i32 {
    match outcome.exit_code() {
        0 => 1,
        code => code,
    }
}

/// What the guard may do with the instances of a service.
pub(super) fn memory_policy(service: &Service) -> ServiceMemory {
    // What is not started again is not restarted either, only ended.
    let never = service.memory.victim == Victim::Auto && service.restart == Restart::Never;
    ServiceMemory { victim: if never { Victim::Last } else { service.memory.victim }, ..service.memory }
}

/// Writes down with each service who depends on it.
pub(super) fn dependents(services: &mut [Entry]) {
    let edges: Vec<(ServiceId, ServiceId)> = services
        .iter()
        .enumerate()
        .flat_map(|(index, entry)| entry.service.depends_on.iter().map(move |dependency| (dependency.service, ServiceId(index))))
        .collect();
    for entry in services.iter_mut() {
        entry.dependents.clear();
    }
    for (on, dependent) in edges {
        if let Some(entry) = services.get_mut(on.0) {
            entry.dependents.push(dependent);
        }
    }
}

pub(super) fn dependencies_first(services: &[Entry]) -> Vec<ServiceId> {
    let mut open: Vec<usize> = services.iter().map(|entry| entry.service.depends_on.len()).collect();
    let mut order: Vec<ServiceId> = open.iter().enumerate().filter(|(_, open)| **open == 0).map(|(index, _)| ServiceId(index)).collect();
    let mut done = 0;
    while let Some(entry) = order.get(done).and_then(|id| services.get(id.0)) {
        done = done.saturating_add(1);
        for dependent in &entry.dependents {
            if let Some(open) = open.get_mut(dependent.0) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    order.push(*dependent);
                }
            }
        }
    }
    order
}
