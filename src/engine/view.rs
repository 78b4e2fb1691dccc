//! `Engine::status`: what is true now, in the words people read.

use super::event::InstanceId;
use super::instance::{BecomesReady, Desired, Ending, Idle, Instance, State};
use super::roll::RollState;
use super::spec::{Condition, Kind, Service};
use super::stack::{Engine, Phase};
use super::status::{InstanceStatus, Phase as PhaseName, RollingStatus, ServiceStatus, StateName, Status};
use super::{Cause, EndCause, ServiceId, Timestamp};

impl Engine {
    /// Where the whole stack is in its life.
    #[must_use]
    pub const fn phase(&self) -> PhaseName {
        match &self.phase {
            Phase::Serving => PhaseName::Running,
            Phase::Draining { .. } => PhaseName::Draining,
            Phase::Stopping { .. } => PhaseName::Stopping,
            Phase::Ended { .. } => PhaseName::Ended,
        }
    }

    /// What is true at `now`. `version` and `pid` are firstmate's own.
    #[must_use]
    pub fn status(&self, now: Timestamp, version: &str, pid: u32) -> Status {
        let phase = self.phase();
        let mut ready = phase == PhaseName::Running;
        let mut started = true;
        let mut services = Vec::with_capacity(self.services.len());
        for id in self.service_ids() {
            let Some(service) = self.service(id) else { continue };
            let instances = self.instances_of(id);
            let is_ready = self.staying(id).all(|one| is_ready(service, one));
            if counts(service, instances) {
                ready &= is_ready;
                started &= self.staying(id).all(|one| one.been_ready);
            }
            let shown: Vec<InstanceStatus> = instances.iter().map(|one| self.instance_status(now, service, one)).collect();
            let reason = shown.iter().find(|one| !one.ready && !is_ready).map(|one| match &one.why {
                Some(why) => format!("{} is {}: {why}", one.name, one.state),
                None => format!("{} is {}", one.name, one.state),
            });
            services.push(ServiceStatus {
                name: service.name.clone(),
                kind: match service.kind {
                    Kind::Service => "service".to_owned(),
                    Kind::Oneshot => "oneshot".to_owned(),
                },
                essential: service.essential,
                ready: is_ready,
                reason,
                groups: service.groups.clone(),
                instances_in_file: (self.instances_wanted(id) != service.instances && !self.is_halting(id)).then_some(service.instances),
                rolling: self.rolling_status(id),
                instances: shown,
            });
        }
        Status {
            version: version.to_owned(),
            pid,
            uptime_ms: millis(now.since(self.began)),
            started_unix_ms: None,
            file: None,
            phase,
            ready,
            live: !self.phase.why().is_some_and(is_beyond_repair),
            started,
            stopping_because: self.phase.why().map(|why| self.describe_end(why)),
            log_blocked_because: None,
            memory: self.guard.status(now),
            services,
        }
    }

    fn rolling_status(&self, id: ServiceId) -> Option<RollingStatus> {
        let roll = self.roll(id).filter(|roll| roll.is_going())?;
        let name = |number| self.instance_name(InstanceId { service: id, number });
        let now = match roll.state {
            RollState::Coming { number, .. } => Some(name(number)),
            RollState::Waiting { .. } | RollState::Done | RollState::Stopped { .. } => None,
        };
        Some(RollingStatus { now, left: roll.left.iter().map(|number| name(*number)).collect() })
    }

    /// What is true of the whole stack, counted without making a text of anything.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { ready: 0, of: 0, stopping: !matches!(self.phase, Phase::Serving) };
        for (index, entry) in self.services.iter().enumerate() {
            let instances = self.instances_of(ServiceId(index));
            if self.is_there(ServiceId(index)) && counts(&entry.service, instances) {
                tally.of = tally.of.saturating_add(1);
                let ready = self.staying(ServiceId(index)).all(|one| is_ready(&entry.service, one));
                tally.ready = tally.ready.saturating_add(usize::from(ready));
            }
        }
        tally
    }

    /// `3 of 4 services are ready`, or `stopping: SIGTERM was received`: one line for whoever watches the whole.
    #[must_use]
    pub fn tally_words(&self, tally: &Tally) -> String {
        match self.phase.why() {
            Some(why) => format!("stopping: {}", self.describe_end(why)),
            None => format!("{} of {} services are ready", tally.ready, tally.of),
        }
    }

    /// `web.1`.
    #[must_use]
    pub fn instance_name(&self, id: InstanceId) -> String {
        format!("{}.{}", self.service(id.service).map_or("?", |service| service.name.as_str()), id.number)
    }

    fn service_name(&self, id: ServiceId) -> &str {
        self.service(id).map_or("?", |service| service.name.as_str())
    }

    fn describe_end(&self, why: &EndCause) -> String {
        match why {
            EndCause::Asked(super::ShutdownCause::Signal { signal, .. }) => format!("{signal} was received"),
            EndCause::Asked(super::ShutdownCause::Command) => "a shutdown was asked for".to_owned(),
            EndCause::GaveUp { instance, outcome, failures } => {
                format!("{} was given up after {}; the last: {outcome}", self.instance_name(*instance), failed_runs(*failures))
            }
            EndCause::EssentialEnded { instance, outcome } => {
                format!("{} ended and is not to be restarted: {outcome}", self.instance_name(*instance))
            }
            EndCause::Blocked { instance, on, outcome } => {
                format!("{} cannot start, since {} failed: {outcome}", self.instance_name(*instance), self.service_name(*on))
            }
            EndCause::NothingLeft { .. } => "everything has ended".to_owned(),
            EndCause::Killed => "an immediate end was asked for".to_owned(),
        }
    }

    fn instance_status(&self, now: Timestamp, service: &Service, instance: &Instance) -> InstanceStatus {
        let (state, why) = match &instance.state {
            State::Idle(idle) => self.idle_words(now, service, instance, idle),
            State::Launching { .. } => (StateName::Starting, Some("its program is being executed".to_owned())),
            State::Starting { how, .. } => (
                StateName::Starting,
                match how {
                    BecomesReady::BySettling { .. } => None,
                    BecomesReady::ByProbe { complaint, .. } | BecomesReady::ByAnnouncement { complaint, .. } => complaint.clone(),
                },
            ),
            State::Running { not_ready, complaint, .. } => (StateName::Running, not_ready.clone().or_else(|| complaint.clone())),
            State::Ending(Ending { cause, .. }) => (
                StateName::Stopping,
                match cause {
                    Cause::Crash => Some("what it left behind is being ended".to_owned()),
                    Cause::Live => Some("its liveness probe failed".to_owned()),
                    Cause::Watchdog => Some("its watchdog ends it".to_owned()),
                    Cause::StartTimeout => Some("it was not ready in time".to_owned()),
                    Cause::Memory => Some("the memory guard chose it".to_owned()),
                    Cause::Operator | Cause::Update if instance.desired == Desired::Gone => Some(if self.is_halting(instance.id.service) {
                        "it is no longer in the file".to_owned()
                    } else {
                        "its service has fewer instances now".to_owned()
                    }),
                    Cause::Watch => Some("files it watches have changed".to_owned()),
                    Cause::Update => Some("its definition has changed".to_owned()),
                    Cause::Operator | Cause::Shutdown => None,
                },
            ),
        };
        InstanceStatus {
            name: self.instance_name(instance.id),
            state,
            ready: is_ready(service, instance),
            pid: instance.life().and_then(|life| life.pid),
            // So that the difference between the two uptimes, the moment of its start, is the same whenever it is asked for.
            uptime_ms: instance.life().map(|life| millis(now.since(self.began)).saturating_sub(millis(life.since.since(self.began)))),
            run: instance.runs,
            restarts: instance.restarts,
            why,
            last_outcome: instance.last_outcome.as_ref().map(ToString::to_string),
            last_exit_code: instance.last_outcome.as_ref().map(super::Outcome::exit_code),
            says: instance.says(),
            memory: self.guard.instance_status(now, instance),
            ready_probe: instance.ready_tally.status(),
            live_probe: instance.live_tally.status(),
        }
    }

    fn idle_words(&self, now: Timestamp, service: &Service, instance: &Instance, idle: &Idle) -> (StateName, Option<String>) {
        let last = instance.last_outcome.as_ref().map(ToString::to_string);
        match idle {
            Idle::Stopped => (StateName::Stopped, None),
            Idle::Due { waits_for } => (
                StateName::Waiting,
                waits_for.map(|on| {
                    let condition = service.depends_on.iter().find(|dependency| dependency.service == on);
                    let what = match condition.map(|dependency| dependency.condition) {
                        Some(Condition::Started) => "to be started",
                        Some(Condition::Ready) | None => "to be ready",
                        Some(Condition::Completed) => "to complete",
                    };
                    format!("for {} {what}", self.service_name(on))
                }),
            ),
            Idle::Backoff { retry_at } => {
                let after = last.map_or_else(String::new, |last| format!(" after {last}"));
                (StateName::Backoff, Some(format!("next run in {}{after}", wait_words(retry_at.since(now)))))
            }
            Idle::Completed => (StateName::Completed, None),
            Idle::Exited | Idle::Failed if service.awaits_change() => {
                let state = if matches!(idle, Idle::Exited) { StateName::Exited } else { StateName::Failed };
                (state, Some("waits until files it watches change".to_owned()))
            }
            Idle::Exited => (StateName::Exited, last),
            Idle::Failed => (
                StateName::Failed,
                Some(match last {
                    Some(last) => format!("given up after {}; the last: {last}", failed_runs(instance.failures)),
                    None => "given up".to_owned(),
                }),
            ),
            Idle::Blocked { on } => (StateName::Failed, Some(format!("{} failed, on which it depends", self.service_name(*on)))),
        }
    }

    /// What is true of one instance.
    #[must_use]
    pub fn instance_status_of(&self, now: Timestamp, id: InstanceId) -> Option<InstanceStatus> {
        Some(self.instance_status(now, self.service(id.service)?, self.instance(id)?))
    }
}

/// `0.5 s`, `4 min 3 s`, `2 h 5 min`.
fn wait_words(wait: std::time::Duration) -> String {
    let seconds = wait.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", wait.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn failed_runs(failures: u32) -> String {
    if failures == 1 { "1 failed run".to_owned() } else { format!("{failures} failed runs") }
}

/// How far the essential services of the stack are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Services that are ready, or have completed.
    pub ready: usize,
    /// All that count: essential, and ever asked to start.
    pub of: usize,
    /// A stop was asked for, or has become necessary.
    pub stopping: bool,
}

impl Tally {
    /// May the stack take work.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready == self.of && !self.stopping
    }
}

/// One that was never asked to start is no part of the stack yet, whatever was started of it and is leaving.
fn counts(service: &Service, instances: &[Instance]) -> bool {
    let mut staying = instances.iter().filter(|one| one.desired != Desired::Gone);
    service.essential && (service.autostart || staying.any(|one| one.desired == Desired::Up || one.has_run()))
}

fn is_ready(service: &Service, instance: &Instance) -> bool {
    match service.kind {
        Kind::Service => instance.is_ready(),
        Kind::Oneshot => matches!(instance.state, State::Idle(Idle::Completed)),
    }
}

/// Only a fresh container can mend these; a stop that was asked for is no fault.
const fn is_beyond_repair(why: &EndCause) -> bool {
    match why {
        EndCause::GaveUp { .. } | EndCause::EssentialEnded { .. } | EndCause::Blocked { .. } => true,
        EndCause::Asked(_) | EndCause::NothingLeft { .. } | EndCause::Killed => false,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
