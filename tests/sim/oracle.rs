//! What must be true whatever happens, judged from outside: from events and actions alone, not from the engine's own state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstmate::engine::spec::{Condition, Restart, ServiceId};
use firstmate::engine::status::StateName;
use firstmate::engine::{Action, Cause, Engine, Event, InstanceId, Notice, RunId, Spec, Timestamp, Verb};

#[derive(Debug, Default)]
struct Known {
    /// The highest run number spawned.
    last: u32,
    /// Spawned, and the engine was not told that all of it is gone.
    live: Option<RunId>,
    spawned_at: Timestamp,
    executed: bool,
    main_gone: bool,
    ready: bool,
    completed: bool,
    /// Consecutive short runs, counted as the contract counts them.
    attempts: u32,
    /// Not to be spawned before.
    not_before: Option<Timestamp>,
    /// The grace period of the stop that is going on: SIGKILL at the latest then.
    kill_by: Option<Timestamp>,
    killed: bool,
    /// The next start is a restart by policy; a start by an operator's wish begins to count anew.
    restarting: bool,
}

#[derive(Debug)]
pub struct Oracle {
    spec: Spec,
    known: BTreeMap<InstanceId, Known>,
    /// Processes of these are gone in the kernel; the engine may not have heard yet.
    gone: BTreeSet<RunId>,
    spawned: u64,
    ended: u64,
    stop_by: Option<Timestamp>,
    stopping: bool,
    abandoned: u32,
    over: bool,
    jumped: bool,
}

impl Oracle {
    pub fn new(spec: &Spec) -> Self {
        Self {
            spec: spec.clone(),
            known: BTreeMap::new(),
            gone: BTreeSet::new(),
            spawned: 0,
            ended: 0,
            stop_by: None,
            stopping: false,
            abandoned: 0,
            over: false,
            jumped: false,
        }
    }

    /// The clock moved on without the engine being asked: deadlines may be seen late, once.
    pub const fn jumped(&mut self) {
        self.jumped = true;
    }

    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub fn gone(&mut self, run: RunId) {
        self.gone.insert(run);
    }

    pub fn commanded(&mut self, verb: Verb, instances: &[InstanceId]) {
        if self.stopping {
            return;
        }
        for instance in instances {
            let known = self.known.entry(*instance).or_default();
            match verb {
                Verb::Start | Verb::Restart => {
                    known.not_before = None;
                    // A start of what already runs forgets nothing.
                    if verb == Verb::Restart || known.live.is_none() {
                        known.attempts = 0;
                    }
                }
                Verb::Stop => known.not_before = None,
            }
        }
    }

    /// Before the engine hears of it.
    pub fn told(&mut self, now: Timestamp, event: &Event) {
        match event {
            Event::Executed { run } => {
                if let Some(known) = self.present(*run) {
                    known.executed = true;
                }
            }
            Event::Exited { run, left_behind, .. } => {
                if let Some(known) = self.present(*run) {
                    known.main_gone = true;
                    known.ready = false;
                    if *left_behind == 0 {
                        known.live = None;
                    }
                }
            }
            Event::TreeGone { run } => {
                if let Some(known) = self.present(*run)
                    && known.main_gone
                {
                    known.live = None;
                }
            }
            Event::Shutdown(_) if !self.stopping && !self.over => {
                self.stopping = true;
                self.stop_by = Some(now.after(self.spec.stop_timeout));
            }
            Event::KillAll if !self.over => {
                self.stopping = true;
                let soon = now.after(Duration::from_secs(1));
                self.stop_by = Some(self.stop_by.map_or(soon, |by| by.min(soon)));
            }
            Event::Tick | Event::Spawned { .. } | Event::Probed { .. } | Event::Command(_) | Event::Shutdown(_) | Event::KillAll => {}
        }
    }

    fn present(&mut self, run: RunId) -> Option<&mut Known> {
        self.known.get_mut(&run.instance).filter(|known| known.live == Some(run))
    }

    pub fn acted(&mut self, now: Timestamp, action: &Action) -> Result<(), String> {
        match action {
            Action::Spawn { run } => self.check_spawn(now, *run),
            Action::Signal { run, .. } | Action::KillTree { run } | Action::Probe { run, .. } => {
                let kill = matches!(action, Action::KillTree { .. });
                let signal = matches!(action, Action::Signal { .. });
                let probe = matches!(action, Action::Probe { .. });
                let service = &self.spec.services[run.instance.service.0];
                let grace = service.stop.timeout;
                let Some(known) = self.known.get_mut(&run.instance).filter(|known| known.live == Some(*run)) else {
                    return Err(format!("an action for a dead run: {action:?}"));
                };
                if probe && (known.main_gone || !known.executed) {
                    return Err(format!("a probe of something that does not run: {action:?}"));
                }
                if signal && known.kill_by.is_none() {
                    known.kill_by = Some(now.after(grace));
                }
                known.killed |= kill;
                Ok(())
            }
            Action::CancelProbes { run } => {
                if self.known.get(&run.instance).is_some_and(|known| known.last >= run.run) {
                    Ok(())
                } else {
                    Err(format!("probes of a run that never was are cancelled: {run:?}"))
                }
            }
            Action::Notice(notice) => self.heard(now, notice),
            Action::Exit { .. } => {
                let alive = self.known.values().filter(|known| known.live.is_some()).count();
                if alive != usize::try_from(self.abandoned).unwrap() {
                    return Err(format!("left with {alive} live runs, but {} were said to be abandoned", self.abandoned));
                }
                self.over = true;
                self.stopping = false;
                self.stop_by = None;
                Ok(())
            }
        }
    }

    fn check_spawn(&mut self, now: Timestamp, run: RunId) -> Result<(), String> {
        if self.stopping {
            return Err(format!("{run:?} is started while the stack stops"));
        }
        let service = &self.spec.services[run.instance.service.0];
        for dependency in &service.depends_on {
            let other = &self.spec.services[dependency.service.0];
            for number in 1..=other.instances {
                let id = InstanceId { service: ServiceId(dependency.service.0), number };
                let holds = self.known.get(&id).is_some_and(|known| match dependency.condition {
                    Condition::Started => {
                        known.completed || known.live.is_some() && known.executed && !known.main_gone && known.kill_by.is_none()
                    }
                    Condition::Ready => known.live.is_some() && known.ready && known.kill_by.is_none(),
                    Condition::Completed => known.completed,
                });
                if !holds {
                    return Err(format!("{run:?} is started although {dependency:?} does not hold for {id:?}"));
                }
            }
        }
        let known = self.known.entry(run.instance).or_default();
        if let Some(live) = known.live {
            return Err(format!("{run:?} is started while {live:?} lives"));
        }
        if run.run <= known.last {
            return Err(format!("{run:?} is started again"));
        }
        if known.not_before.is_some_and(|at| now < at) {
            return Err(format!("{run:?} is started before its delay was over"));
        }
        *known = Known {
            last: run.run,
            live: Some(run),
            spawned_at: now,
            attempts: if known.restarting { known.attempts } else { 0 },
            ..Known::default()
        };
        self.spawned += 1;
        Ok(())
    }

    fn heard(&mut self, now: Timestamp, notice: &Notice) -> Result<(), String> {
        match notice {
            Notice::Ready { run, .. } => {
                let Some(known) = self.present(*run) else { return Err(format!("a dead run is ready: {run:?}")) };
                known.ready = true;
            }
            Notice::NotReady { run, .. } => {
                if let Some(known) = self.present(*run) {
                    known.ready = false;
                }
            }
            Notice::Ended { run, .. } => {
                self.ended += 1;
                let service = &self.spec.services[run.instance.service.0];
                let known = self.known.entry(run.instance).or_default();
                if run.run != known.last {
                    return Err(format!("an old run ended: {run:?}"));
                }
                let uptime = now.since(known.spawned_at);
                if uptime >= service.backoff.reset_after {
                    known.attempts = 0;
                }
                known.ready = false;
            }
            Notice::Completed { run, .. } => {
                let known = self.known.entry(run.instance).or_default();
                known.completed = true;
                known.attempts = 0;
            }
            Notice::Restarting { instance, delay, cause, failures } => {
                let service = &self.spec.services[instance.service.0];
                if service.restart == Restart::Never {
                    return Err(format!("{instance:?} restarts against its policy"));
                }
                if service.give_up_after.is_some_and(|limit| *failures > limit) {
                    return Err(format!("{instance:?} restarts after {failures} failures"));
                }
                if matches!(cause, Cause::Operator | Cause::Shutdown) {
                    return Err(format!("{instance:?}: a wished end is no restart"));
                }
                let known = self.known.entry(*instance).or_default();
                if !delay.is_zero() {
                    let base = base_delay(&service.backoff, known.attempts);
                    let (low, high) = (base * (1.0 - service.backoff.jitter), base * (1.0 + service.backoff.jitter));
                    let delay = delay.as_secs_f64();
                    if delay < low - 1e-6 || delay > high + 1e-6 {
                        return Err(format!(
                            "{instance:?}: a delay of {delay} s is not within {low} to {high} (attempt {})",
                            known.attempts
                        ));
                    }
                    known.attempts += 1;
                } else if service.backoff.jitter < 1.0 && known.attempts > 0 {
                    return Err(format!("{instance:?}: no delay at attempt {}", known.attempts));
                }
                known.not_before = Some(now.after(*delay));
                known.restarting = true;
            }
            Notice::Over { abandoned, .. } => self.abandoned = *abandoned,
            Notice::ShuttingDown { within, .. } => {
                self.stopping = true;
                self.stop_by.get_or_insert(now.after(*within));
            }
            _ => {}
        }
        Ok(())
    }

    pub fn after_step(&mut self, now: Timestamp, engine: &Engine) -> Result<(), String> {
        if let Some(by) = self.stop_by
            && now >= by
            && !self.over
        {
            return Err(format!("the stop should have ended by {by:?}, it is {now:?}"));
        }
        for (id, known) in &self.known {
            if known.live.is_some() && !known.killed && known.kill_by.is_some_and(|by| by <= now) && !self.over {
                return Err(format!("{id:?} outlived its grace period without SIGKILL"));
            }
        }
        if self.jumped {
            self.jumped = false;
        } else if let Some(deadline) = engine.next_deadline()
            && deadline <= now
        {
            return Err(format!("a deadline of {deadline:?} is not later than {now:?}"));
        }
        Ok(())
    }

    /// Some wait for what an operator (or `autostart = false`) keeps down: nothing else may be open.
    pub fn only_waits_for_the_operator(&self, engine: &Engine, now: Timestamp) -> bool {
        if self.stopping {
            return false;
        }
        let status = engine.status(now, "", 1);
        let down: BTreeSet<&str> = status
            .services
            .iter()
            .filter(|service| {
                service
                    .instances
                    .iter()
                    .any(|one| one.state == StateName::Stopped || (one.state == StateName::Waiting && one.why.is_some()))
            })
            .map(|service| service.name.as_str())
            .collect();
        status.services.iter().enumerate().all(|(index, service)| {
            service.instances.iter().all(|one| match one.state {
                StateName::Waiting => {
                    self.spec.services[index].depends_on.iter().any(|on| down.contains(self.spec.services[on.service.0].name.as_str()))
                }
                StateName::Running => one.ready,
                StateName::Stopped | StateName::Completed | StateName::Exited | StateName::Failed => true,
                StateName::Starting | StateName::Stopping | StateName::Backoff => false,
            })
        })
    }

    /// Every spawned run was reported to have ended, but for the abandoned ones.
    pub fn check_accounts(&self) -> Result<(), String> {
        if !self.over {
            return Err("the history ended without an exit".to_owned());
        }
        let missing = self.spawned - self.ended;
        let unreaped = self.known.values().filter(|known| known.live.is_some() && !known.main_gone).count() as u64;
        if missing != unreaped {
            return Err(format!("{} runs were spawned and {} ended, {unreaped} were left alive", self.spawned, self.ended));
        }
        Ok(())
    }
}

/// The contract's own words, written a second time on purpose: `initial`, times `factor` each time, at most `max`; in seconds.
fn base_delay(backoff: &firstmate::engine::spec::Backoff, attempts: u32) -> f64 {
    let mut delay = backoff.initial.as_secs_f64();
    for _ in 0..attempts.min(200) {
        delay = (delay * backoff.factor).min(backoff.max.as_secs_f64());
    }
    delay.min(backoff.max.as_secs_f64())
}
