//! What must be true whatever happens, judged from outside: from events and actions alone, not from the engine's own state.
//!
//! The contract is written here a second time, in other words: what an ended run must be followed by, when a start is due and when
//! it is forbidden, what a probe's answers amount to, in which order a stop goes, and with which code everything ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstmate::engine::spec::{Condition, Dependency, Kind, Probe, Readiness, Restart, Service, ServiceId};
use firstmate::engine::status::{Phase, StateName};
use firstmate::engine::{
    Action, Announcement, Bite, Cause, Command, EndCause, Engine, Event, InstanceId, Notice, Outcome, ProbeKind, RollStop, RunId, Signal,
    Spec, Timestamp, Verb,
};

const SECOND: Duration = Duration::from_secs(1);
/// The last part of a stop, kept for SIGKILL and the reaping.
const RESERVE: Duration = Duration::from_millis(500);

/// One instance, across its runs.
#[derive(Debug)]
struct Known {
    id: InstanceId,
    wanted: bool,
    /// The highest run number spawned.
    last: u32,
    run: Option<Run>,
    done: Option<Done>,
    blocked_by: Option<ServiceId>,
    /// Not to be spawned before.
    not_before: Option<Timestamp>,
    /// Consecutive failed runs.
    failures: u32,
    /// Consecutive short runs.
    attempts: u32,
    last_outcome: Option<Outcome>,
    /// Its service has fewer instances now.
    leaving: bool,
}

impl Known {
    fn new(id: InstanceId, wanted: bool, last: u32) -> Self {
        Self {
            id,
            wanted,
            last,
            run: None,
            done: None,
            blocked_by: None,
            not_before: None,
            failures: 0,
            attempts: 0,
            last_outcome: None,
            leaving: false,
        }
    }

    /// It may take work, by what was said of it.
    fn is_up(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.ready && run.cause.is_none() && run.end.is_none())
    }
}

/// A rolling restart.
#[derive(Debug)]
struct Roll {
    /// Whose turn has not come.
    left: Vec<u16>,
    /// Whose turn it is, and its last run before.
    now: Option<(u16, u32)>,
    /// Those of whom an operator has had another wish in this step.
    left_out: Vec<u16>,
}

impl Roll {
    /// An operator has another wish of these.
    fn leave_out(&mut self, is_meant: impl Fn(u16) -> bool) {
        self.left_out.extend(self.left.iter().filter(|number| is_meant(**number)));
        self.left.retain(|number| !is_meant(*number));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Completed,
    Exited,
    Failed,
}

/// Spawned, and the engine was not told that all of it is gone.
#[derive(Debug)]
struct Run {
    id: RunId,
    spawned_at: Timestamp,
    executed_at: Option<Timestamp>,
    ready: bool,
    ready_at: Option<Timestamp>,
    ready_probe: Asking,
    live_probe: Asking,
    word: Word,
    /// Why it ends; `None` while it is to go on.
    cause: Option<Cause>,
    /// The first signal to it was sent, or SIGKILL.
    asked: bool,
    signals: usize,
    asked_at: Timestamp,
    kill_by: Option<Timestamp>,
    /// It said that it needs so long for its end, and nothing has made that less.
    needs_until: Timestamp,
    killed: bool,
    /// What its main process left behind must be told, too.
    pass_on: bool,
    /// What an operator last sent to it.
    sent: Option<Signal>,
    /// Of the main process, once that is gone.
    end: Option<(Outcome, Duration)>,
}

/// What a run has said of itself.
#[derive(Debug, Default)]
struct Word {
    /// Whether it must be ready now; `None` before it said anything of it.
    ready: Option<bool>,
    /// How often it must say that it is alive.
    watchdog: Option<Duration>,
    /// By when it must say so next.
    alive_by: Option<Timestamp>,
    /// It said that it is stopping: since when that counts, and by when it must be gone.
    gone_by: Option<(Timestamp, Timestamp)>,
    /// It asked to be ended.
    trigger: bool,
    /// It asked for so much time for its start.
    start_until: Option<Timestamp>,
}

impl Word {
    /// It should have said that it is alive, or be gone.
    fn is_silent(&self, now: Timestamp) -> bool {
        self.alive_by.is_some_and(|by| by <= now) || self.gone_by.is_some_and(|(_, by)| by <= now)
    }

    fn of(service: &Service) -> Self {
        let watchdog = match &service.ready {
            Readiness::Notify { watchdog } => *watchdog,
            _ => None,
        };
        Self { watchdog, ..Self::default() }
    }
}

/// A probe, by its questions and answers.
#[derive(Debug, Default)]
struct Asking {
    number: u32,
    /// When the question that has no answer yet was asked.
    open: Option<Timestamp>,
    answered_at: Option<Timestamp>,
    good: u32,
    bad: u32,
}

impl Asking {
    fn answered(&mut self, now: Timestamp, good: bool) {
        self.open = None;
        self.answered_at = Some(now);
        (self.good, self.bad) = if good { (self.good + 1, 0) } else { (0, self.bad + 1) };
    }

    fn lose(&mut self, now: Timestamp, probe: &Probe) {
        if self.open.is_some_and(|at| at.after(probe.timeout + SECOND) <= now) {
            self.answered(now, false);
        }
    }

    /// When the next question is due at the latest; `first`: the first one.
    fn due(&self, first: Timestamp, probe: &Probe) -> Option<Timestamp> {
        if self.open.is_some() {
            return None;
        }
        Some(self.answered_at.map_or(first, |at| at.after(probe.every)))
    }
}

/// What the end of a run must be followed by.
#[derive(Debug, PartialEq)]
enum Next {
    Completed,
    Stopped,
    NotRestarted,
    GaveUp { failures: u32 },
    Restarting { failures: u32, cause: Cause, low: f64, high: f64 },
}

/// Why everything ends.
#[derive(Debug, PartialEq)]
enum End {
    Asked,
    Killed,
    /// With one of these codes.
    Failed(Vec<i32>),
}

#[derive(Debug)]
pub struct Oracle {
    spec: Spec,
    known: Vec<Known>,
    /// The last run of those that are there no longer.
    retired: BTreeMap<InstanceId, u32>,
    rolls: BTreeMap<ServiceId, Roll>,
    /// What `Scaled` must say next.
    scaled: Option<(ServiceId, u16, u16)>,
    /// Removals that wait for an instance that comes back.
    held_back: BTreeMap<ServiceId, u16>,
    /// How many have.
    pub were_held_back: u64,
    spawned: u64,
    ended: u64,
    expected: Option<(InstanceId, Next)>,
    /// Probes of these must be cut off in this step.
    to_cancel: BTreeSet<RunId>,
    end: Option<End>,
    /// An essential service failed in this step.
    must_end: bool,
    stop_by: Option<Timestamp>,
    drain_until: Timestamp,
    /// From then on everything is killed, in no order.
    kill_all_at: Option<Timestamp>,
    kill_all: bool,
    stopping: bool,
    abandoned: u32,
    over: bool,
    jumped: bool,
    /// Everything that was said so far was passed on before this step.
    heard_all: bool,
    /// When the engine wanted to be asked next.
    due: Option<Timestamp>,
    /// Nothing is owed to who waits to hear of changed files.
    change_is_told: bool,
    steps: u64,
}

impl Oracle {
    pub fn new(spec: &Spec) -> Self {
        let mut known = Vec::new();
        for (index, service) in spec.services.iter().enumerate() {
            for number in 1..=service.instances {
                known.push(Known::new(InstanceId { service: ServiceId(index), number }, service.autostart, 0));
            }
        }
        Self {
            spec: spec.clone(),
            known,
            retired: BTreeMap::new(),
            rolls: BTreeMap::new(),
            scaled: None,
            held_back: BTreeMap::new(),
            were_held_back: 0,
            spawned: 0,
            ended: 0,
            expected: None,
            to_cancel: BTreeSet::new(),
            end: None,
            must_end: false,
            stop_by: None,
            drain_until: Timestamp::ZERO,
            kill_all_at: None,
            kill_all: false,
            stopping: false,
            abandoned: 0,
            over: false,
            jumped: false,
            heard_all: false,
            due: None,
            change_is_told: true,
            steps: 0,
        }
    }

    /// The clock moved on without the engine being asked: deadlines may be seen late, once.
    pub const fn jumped(&mut self) {
        self.jumped = true;
    }

    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn service(&self, id: InstanceId) -> &Service {
        &self.spec.services[id.service.0]
    }

    fn find(&mut self, id: InstanceId) -> &mut Known {
        self.known.iter_mut().find(|known| known.id == id).expect("an instance of the file")
    }

    fn present(&mut self, id: RunId) -> Option<&mut Run> {
        self.known.iter_mut().find(|known| known.id == id.instance)?.run.as_mut().filter(|run| run.id == id)
    }

    /// The instances of a service but for those that are leaving.
    fn copies(&self, service: ServiceId) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| known.id.service == service && !known.leaving)
    }

    /// Before the engine hears of it.
    pub fn told(&mut self, now: Timestamp, event: &Event) {
        self.heard_all = matches!(event, Event::Tick);
        // Who is asked more than a second late stood still, and so did all that could have said anything.
        if self.due.take().is_some_and(|due| now > due.after(SECOND)) {
            for word in self.known.iter_mut().filter_map(|known| known.run.as_mut()).map(|run| &mut run.word) {
                word.alive_by = word.alive_by.and(word.watchdog).map(|every| now.after(every));
                word.gone_by = word.gone_by.map(|(since, by)| (now, now.after(by.since(since))));
            }
        }
        if let Event::Probed { run, kind, number, result } = event
            && let Some(run) = self.present(*run)
            && run.cause.is_none()
        {
            let asking = match kind {
                ProbeKind::Ready => &mut run.ready_probe,
                ProbeKind::Live => &mut run.live_probe,
            };
            if asking.open.is_some() && asking.number == *number {
                asking.answered(now, result.is_ok());
            }
        }
        for index in 0..self.known.len() {
            let service = &self.spec.services[self.known[index].id.service.0];
            if let Some(run) = &mut self.known[index].run
                && run.cause.is_none()
            {
                if let Some(probe) = service.ready.probe() {
                    run.ready_probe.lose(now, probe);
                }
                if let Some(probe) = &service.live {
                    run.live_probe.lose(now, probe);
                }
            }
        }
        if self.stopping && self.kill_all_at.is_none() && self.drain_until <= now {
            self.begin_stopping(now);
        }
        match event {
            Event::Memory(_) | Event::Update(_) => {}
            Event::Announced { run, what } => self.said(now, *run, what),
            Event::Executed { run } => {
                if let Some(run) = self.present(*run)
                    && run.cause.is_none()
                {
                    run.executed_at = Some(now);
                }
            }
            Event::Exited { run, outcome, left_behind } => {
                let Some(known) = self.known.iter_mut().find(|known| known.id == run.instance) else { return };
                let Some(run) = known.run.as_mut().filter(|present| present.id == *run && present.end.is_none()) else { return };
                run.end = Some((outcome.clone(), now.since(run.spawned_at)));
                run.pass_on = *left_behind > 0;
                if run.ready_probe.open.is_some() || run.live_probe.open.is_some() {
                    self.to_cancel.insert(run.id);
                }
                if *left_behind == 0 {
                    let id = known.id;
                    self.run_over(now, id);
                }
            }
            Event::TreeGone { run } => {
                if self.present(*run).is_some_and(|run| run.end.is_some()) {
                    self.run_over(now, run.instance);
                }
            }
            Event::Command(command) => self.commanded(now, command),
            Event::Scale { service, instances } => self.scaled(now, *service, *instances),
            Event::Changed { service, .. } => self.files_changed(now, *service),
            Event::Shutdown(_) => {
                if !self.stopping && !self.over {
                    self.stopping = true;
                    self.end = Some(End::Asked);
                    self.stop_by = Some(now.after(self.spec.stop_timeout));
                    let drain = self.spec.drain.min(self.spec.stop_timeout.saturating_sub(RESERVE));
                    self.drain_until = now.after(drain);
                    if drain.is_zero() {
                        self.begin_stopping(now);
                    }
                }
            }
            Event::KillAll => {
                if !self.over {
                    if matches!(self.end, None | Some(End::Asked)) {
                        self.end = Some(End::Killed);
                    }
                    self.stopping = true;
                    self.kill_all = true;
                    let soon = now.after(SECOND);
                    self.stop_by = Some(self.stop_by.map_or(soon, |by| by.min(soon)));
                    self.kill_all_at = Some(now);
                }
            }
            Event::Tick | Event::Spawned { .. } | Event::Probed { .. } => {}
        }
    }

    fn said(&mut self, now: Timestamp, id: RunId, what: &Announcement) {
        let service = self.service(id.instance).clone();
        let notify = matches!(service.ready, Readiness::Notify { .. });
        if !notify && !matches!(service.ready, Readiness::NotifyFd(_) | Readiness::Log(_)) {
            return;
        }
        let whole = self.spec.stop_timeout;
        let Some(run) = self.present(id) else { return };
        if run.asked {
            if let (Announcement::ExtendTimeout(by), true, false, None) = (what, notify, run.killed, &run.end) {
                let until = now.after(*by).min(run.asked_at.after(whole));
                run.kill_by = run.kill_by.map(|at| at.max(until));
                run.needs_until = run.needs_until.max(until);
            }
            return;
        }
        // A oneshot has nothing to say but how long its end may take.
        let mute = service.kind != Kind::Service || run.executed_at.is_none() || run.cause.is_some() || run.end.is_some();
        if mute || (run.ready_at.is_some() && !notify) {
            return;
        }
        let word = &mut run.word;
        match what {
            Announcement::Ready => {
                if notify && !run.ready {
                    word.gone_by = None;
                    word.alive_by = word.watchdog.map(|every| now.after(every));
                }
                word.ready = Some(true);
            }
            Announcement::Stopping if run.ready => {
                (word.ready, word.alive_by) = (Some(false), None);
                word.gone_by = Some((now, now.after(service.stop.timeout)));
            }
            Announcement::Alive => {
                if let (Some(by), Some(every)) = (&mut word.alive_by, word.watchdog) {
                    *by = now.after(every);
                }
            }
            Announcement::WatchdogEvery(every) => {
                word.watchdog = *every;
                word.alive_by = every.filter(|_| run.ready).map(|every| now.after(every));
            }
            Announcement::Trigger => word.trigger = true,
            Announcement::ExtendTimeout(by) if run.ready_at.is_none() => {
                word.start_until = word.start_until.max(Some(now.after(*by)));
            }
            Announcement::ExtendTimeout(more) => {
                word.gone_by = word.gone_by.map(|(since, by)| (since, by.max(now.after(*more).min(since.after(whole)))));
            }
            _ => {}
        }
    }

    fn begin_stopping(&mut self, now: Timestamp) {
        let left = self.stop_by.expect("a stop has a deadline").since(now);
        let reserve = RESERVE.min(left / 8);
        self.kill_all_at = Some(now.after(left - reserve));
        // The other half is for the last lines.
        self.stop_by = Some(now.after(left - reserve / 2));
    }

    fn commanded(&mut self, now: Timestamp, command: &Command) {
        if self.stopping {
            return;
        }
        match command.verb {
            Verb::Start => {}
            Verb::Stop | Verb::Restart => {
                for (service, roll) in &mut self.rolls {
                    roll.leave_out(|number| command.instances.contains(&InstanceId { service: *service, number }));
                }
            }
            Verb::Roll => return self.rolled(command),
            // Nothing is to be otherwise than before.
            Verb::Reload | Verb::Signal { .. } => return,
        }
        for id in &command.instances {
            if self.known.iter().any(|known| known.id == *id && !known.leaving) {
                if let Some(Roll { now: Some((number, before)), .. }) = self.rolls.get_mut(&id.service)
                    && *number == id.number
                    && command.verb == Verb::Restart
                {
                    *before = self.known.iter().find(|known| known.id == *id).map_or(0, |known| known.last);
                }
                self.wished(now, *id, command.verb);
            }
        }
    }

    fn wished(&mut self, now: Timestamp, id: InstanceId, verb: Verb) {
        let grace = self.service(id).stop.timeout;
        let known = self.find(id);
        known.wanted = verb != Verb::Stop;
        match (&mut known.run, verb) {
            (None, Verb::Start | Verb::Restart) => {
                (known.failures, known.attempts, known.done, known.not_before) = (0, 0, None, None);
                known.blocked_by = None;
            }
            (None, Verb::Stop) => {
                known.not_before = None;
                known.blocked_by = None;
                known.done = known.done.filter(|done| *done == Done::Completed);
            }
            // What is over soon is followed by what was wished.
            (Some(run), Verb::Start) => run.cause = run.cause.map(|_| Cause::Operator).or(run.end.as_ref().map(|_| Cause::Operator)),
            (Some(run), Verb::Stop | Verb::Restart) => {
                if verb == Verb::Restart {
                    (known.failures, known.attempts) = (0, 0);
                }
                let by = now.after(grace);
                run.kill_by = Some(run.kill_by.map_or(by, |earlier| earlier.min(by)));
                run.cause = Some(Cause::Operator);
            }
            (None | Some(_), Verb::Roll | Verb::Reload | Verb::Signal { .. }) => {}
        }
    }

    fn rolled(&mut self, command: &Command) {
        for index in 0..self.spec.services.len() {
            let id = ServiceId(index);
            let named = |known: &&Known| command.instances.contains(&known.id);
            let named: Vec<u16> = self.copies(id).filter(named).map(|known| known.id.number).collect();
            if named.is_empty() || self.copies(id).count() < 2 || self.spec.services[index].kind != Kind::Service {
                continue;
            }
            let roll = self.rolls.entry(id).or_insert(Roll { left: Vec::new(), now: None, left_out: Vec::new() });
            for number in named {
                if !roll.left.contains(&number) {
                    roll.left.push(number);
                }
            }
        }
    }

    fn scaled(&mut self, now: Timestamp, id: ServiceId, to: u16) {
        let from = self.copies(id).count() as u16;
        let to = to.max(1);
        if self.stopping || self.over || self.spec.services[id.0].kind != Kind::Service {
            return;
        }
        self.held_back.remove(&id);
        if from == to {
            return;
        }
        if to < from && self.takes_the_last_ready(id, to) {
            self.were_held_back += 1;
            self.held_back.insert(id, to);
            if let Some(roll) = self.rolls.get_mut(&id) {
                roll.leave_out(|number| number > to);
            }
            return;
        }
        self.scaled = Some((id, from, to));
        self.have(now, id, from, to);
    }

    /// Whether nobody would be ready without those above, while a rolling restart brings back one of those that stay.
    fn takes_the_last_ready(&self, id: ServiceId, to: u16) -> bool {
        let comes = self.rolls.get(&id).and_then(|roll| roll.now).is_some_and(|(number, _)| number <= to);
        let up: Vec<u16> = self.copies(id).filter(|known| known.is_up()).map(|known| known.id.number).collect();
        comes && !up.is_empty() && up.iter().all(|number| *number > to)
    }

    /// From now on a service has so many.
    fn have(&mut self, now: Timestamp, id: ServiceId, from: u16, to: u16) {
        let wanted = self.copies(id).next().expect("a service has an instance").wanted;
        for number in from + 1..=to {
            let instance = InstanceId { service: id, number };
            match self.known.iter_mut().find(|known| known.id == instance) {
                Some(known) => {
                    known.leaving = false;
                    known.wanted = wanted;
                    if let Some(run) = &mut known.run {
                        run.cause = Some(Cause::Operator);
                    }
                }
                None => {
                    let last = self.retired.remove(&instance).unwrap_or_default();
                    let at = self.known.iter().position(|known| known.id > instance).unwrap_or(self.known.len());
                    self.known.insert(at, Known::new(instance, wanted, last));
                }
            }
        }
        for number in to + 1..=from {
            let instance = InstanceId { service: id, number };
            self.wished(now, instance, Verb::Stop);
            self.find(instance).leaving = true;
        }
        if let Some(roll) = self.rolls.get_mut(&id) {
            roll.leave_out(|number| number > to);
        }
    }

    /// A turn in a rolling restart: the rule the whole thing is for.
    fn check_turn(&mut self, now: Timestamp, at: InstanceId, left: u16) -> Result<(), String> {
        let roll = self.rolls.get(&at.service).ok_or(format!("{at:?} has a turn in a rolling restart nobody asked for"))?;
        if !roll.left.contains(&at.number) || roll.left.len() != usize::from(left) + 1 {
            return Err(format!("it is the turn of {at:?}, {left} left, and {roll:?} was asked for"));
        }
        if let Some((number, _)) = roll.now.filter(|(number, before)| !self.has_come(at.service, *number, *before)) {
            return Err(format!("it is the turn of {at:?} while {number} is not back"));
        }
        let own = self.copies(at.service).find(|known| known.id == at).ok_or(format!("a turn of {at:?}, which is not there"))?;
        let others: Vec<&Known> = self.copies(at.service).filter(|known| known.id != at && known.wanted).collect();
        if own.is_up() && (others.is_empty() || !others.iter().all(|known| known.is_up())) {
            return Err(format!("{at:?} is ready and is taken away while another one is not ready"));
        }
        let before = own.last;
        let roll = self.rolls.get_mut(&at.service).ok_or("a roll")?;
        roll.left.retain(|number| *number != at.number);
        roll.now = Some((at.number, before));
        self.wished(now, at, Verb::Restart);
        Ok(())
    }

    /// Whether it has a new run that is ready, or none is expected of it any more.
    fn has_come(&self, service: ServiceId, number: u16, before: u32) -> bool {
        self.copies(service).find(|known| known.id.number == number).is_none_or(|known| known.last > before && known.is_up())
    }

    /// Whether it has a new run that is ready.
    fn is_back(&self, service: ServiceId, number: u16, before: u32) -> bool {
        self.copies(service).any(|known| known.id.number == number && known.last > before && known.is_up())
    }

    /// Who has come back has had its turn, whatever becomes of it later.
    fn welcome_back(&mut self) {
        let come: Vec<ServiceId> = self
            .rolls
            .iter()
            .filter(|(id, roll)| roll.now.is_some_and(|(number, before)| self.has_come(**id, number, before)))
            .map(|(id, _)| *id)
            .collect();
        for id in come {
            if let Some(roll) = self.rolls.get_mut(&id) {
                roll.now = None;
            }
        }
        for roll in self.rolls.values_mut() {
            roll.left_out.clear();
        }
    }

    /// A rolling restart that may go on does.
    fn check_rolls(&self) -> Result<(), String> {
        for (id, roll) in &self.rolls {
            if let Some((number, before)) = roll.now {
                let known = self.copies(*id).find(|known| known.id.number == number);
                if known.is_some_and(|known| known.last > before && (known.run.is_none() || !known.wanted)) {
                    return Err(format!("{id:?}: {number} has not come back, and the rolling restart goes on"));
                }
                if !self.has_come(*id, number, before) {
                    continue;
                }
            }
            let unready = |number: &u16| self.copies(*id).any(|known| known.id.number == *number && !known.is_up());
            let first = roll.left.first().ok_or(format!("{id:?}: a rolling restart is done and does not say so"))?;
            let mut others = self.copies(*id).filter(|known| known.id.number != *first && known.wanted);
            if roll.left.iter().any(unready) || others.all(Known::is_up) {
                return Err(format!("{id:?}: a rolling restart could go on and does not: {roll:?}"));
            }
        }
        Ok(())
    }

    fn check_roll_stop(&mut self, at: InstanceId, why: RollStop, left: u16) -> Result<(), String> {
        let roll = self.rolls.remove(&at.service).ok_or("a rolling restart stops that nobody asked for")?;
        let known = self.find(at);
        let is_now = roll.now.is_some_and(|(number, _)| number == at.number);
        let before = roll.now.map_or(0, |(_, before)| before);
        let right = match why {
            // Histories with updates have an oracle of their own.
            RollStop::Updated => false,
            RollStop::NotBack => is_now && known.last > before && !known.is_up(),
            RollStop::NotStarted => is_now && known.last == before && known.run.is_none(),
            // Nobody is left, and nobody is coming back.
            RollStop::StoppedByOperator => !known.wanted && (is_now || (roll.now.is_none() && roll.left_out.contains(&at.number))),
            RollStop::RestartedByOperator => known.wanted && roll.now.is_none() && roll.left_out.contains(&at.number),
            RollStop::RemovedByOperator => known.leaving && (is_now || (roll.now.is_none() && roll.left_out.contains(&at.number))),
            RollStop::OtherNotReady(number) => {
                roll.left.contains(&at.number) && self.copies(at.service).any(|one| one.id.number == number && one.wanted && !one.is_up())
            }
            RollStop::NoOther => {
                roll.left.contains(&at.number) && !self.copies(at.service).any(|one| one.id.number != at.number && one.wanted)
            }
        };
        if right && roll.left.len() == usize::from(left) {
            Ok(())
        } else {
            Err(format!("{why:?} at {at:?}, {left} left, is not so: {roll:?}"))
        }
    }

    /// Whoever is wanted up begins anew, unless it is about to anyway.
    fn files_changed(&mut self, now: Timestamp, service: ServiceId) {
        if self.stopping || self.spec.services[service.0].kind == Kind::Oneshot {
            return;
        }
        let grace = self.spec.services[service.0].stop.timeout;
        let mut begin_anew = 0;
        for known in self.known.iter_mut().filter(|known| known.id.service == service && known.wanted) {
            match &mut known.run {
                None if known.not_before.is_some() || matches!(known.done, Some(Done::Failed | Done::Exited)) => {
                    (known.failures, known.attempts, known.done, known.not_before) = (0, 0, None, None);
                    begin_anew += 1;
                }
                None => {}
                Some(run) if run.cause.is_none() && run.end.is_none() => {
                    let by = now.after(grace);
                    run.kill_by = Some(run.kill_by.map_or(by, |earlier| earlier.min(by)));
                    run.cause = Some(Cause::Watch);
                    begin_anew += 1;
                }
                // What is over soon is followed by a run with what has changed.
                Some(run) if matches!(run.cause, None | Some(Cause::Crash | Cause::Live | Cause::Watchdog | Cause::StartTimeout)) => {
                    run.cause = Some(Cause::Watch);
                    begin_anew += 1;
                }
                Some(_) => {}
            }
        }
        self.change_is_told = begin_anew == 0;
    }

    /// Nothing is left of the run: decides what must come next, as the contract says it.
    fn run_over(&mut self, now: Timestamp, id: InstanceId) {
        let service = self.service(id).clone();
        let stopping = self.stopping;
        let known = self.find(id);
        let Some(run) = known.run.take() else { return };
        let Some((outcome, uptime)) = run.end else { return };
        let success = matches!(&outcome, Outcome::Exited(code) if service.success_exit_codes.contains(code));
        let cause = run.cause.unwrap_or(Cause::Crash);
        known.last_outcome = Some(outcome.clone());
        known.not_before = None;
        let next = if cause == Cause::Crash && success && service.kind == Kind::Oneshot {
            known.done = Some(Done::Completed);
            (known.failures, known.attempts) = (0, 0);
            Next::Completed
        } else if stopping || !known.wanted {
            Next::Stopped
        } else if cause == Cause::Operator {
            (known.failures, known.attempts) = (0, 0);
            return;
        } else if cause == Cause::Watch {
            (known.failures, known.attempts) = (0, 0);
            Next::Restarting { failures: 0, cause, low: 0.0, high: 0.0 }
        } else {
            let failed = !success || cause != Cause::Crash;
            let stable = cause != Cause::StartTimeout && uptime >= service.backoff.reset_after;
            if stable {
                (known.failures, known.attempts) = (0, 0);
            } else {
                known.failures = if failed { known.failures + 1 } else { 0 };
            }
            let again = match service.restart {
                Restart::Always => true,
                Restart::OnFailure => failed,
                Restart::Never => false,
            };
            if !again {
                known.done = Some(if failed { Done::Failed } else { Done::Exited });
                if service.essential && service.watch.paths.is_empty() {
                    let code = if failed { failure_code(&outcome) } else { outcome.exit_code() };
                    (self.must_end, self.end) = (true, Some(End::Failed(vec![code])));
                }
                Next::NotRestarted
            } else if failed && !stable && service.give_up_after.is_some_and(|limit| known.failures >= limit) {
                known.done = Some(Done::Failed);
                let failures = known.failures;
                if service.essential && service.watch.paths.is_empty() {
                    (self.must_end, self.end) = (true, Some(End::Failed(vec![failure_code(&outcome)])));
                }
                Next::GaveUp { failures }
            } else {
                let base = if stable { 0.0 } else { base_delay(&service.backoff, known.attempts) };
                known.attempts += u32::from(!stable);
                // The notice says when exactly; until then it may not start.
                known.not_before = Some(now.after(Duration::from_secs_f64(base * (1.0 - service.backoff.jitter))));
                let failures = known.failures;
                // A crash to its policy, and told as what it was.
                let own = matches!(&outcome, Outcome::Signaled(signal) if run.sent == Some(*signal));
                let cause = if cause == Cause::Crash && own { Cause::Operator } else { cause };
                Next::Restarting {
                    failures,
                    cause,
                    low: base * (1.0 - service.backoff.jitter) - 1e-6,
                    high: base * (1.0 + service.backoff.jitter) + 1e-6,
                }
            }
        };
        self.expected = Some((id, next));
    }

    pub fn acted(&mut self, now: Timestamp, action: &Action) -> Result<(), String> {
        match action {
            Action::Memory(_) => Ok(()),
            // Histories with updates have an oracle of their own.
            Action::Define { .. } | Action::Forget { .. } => Err(format!("an update nobody asked for: {action:?}")),
            Action::Spawn { run } => self.check_spawn(now, *run),
            Action::Signal { run, signal } => {
                let signals = self.service(run.instance).stop.signals.clone();
                self.check_ending(now, *run, false)?;
                let Some(run) = self.present(*run) else { return Err(format!("an action for a dead run: {action:?}")) };
                if signals.get(run.signals) == Some(signal) {
                    run.signals += 1;
                } else if !(run.end.is_some() && run.signals.checked_sub(1).and_then(|last| signals.get(last)) == Some(signal)) {
                    return Err(format!("signal {signal} to {:?} is not the next of {signals:?} after {}", run.id, run.signals));
                }
                Ok(())
            }
            Action::Send { run, signal, .. } => match self.present(*run) {
                Some(run) if run.executed_at.is_some() || run.cause.is_some() => {
                    run.sent = Some(*signal);
                    Ok(())
                }
                _ => Err(format!("a signal to what does not run: {action:?}")),
            },
            Action::KillTree { run } => self.check_ending(now, *run, true),
            Action::Probe { run, kind, number } => self.check_probe(now, *run, *kind, *number),
            Action::CancelProbes { run } => {
                self.to_cancel.remove(run);
                if run.run > self.find(run.instance).last {
                    return Err(format!("probes of a run that never was are cancelled: {run:?}"));
                }
                if let Some(run) = self.present(*run) {
                    run.ready_probe.open = None;
                    run.live_probe.open = None;
                }
                Ok(())
            }
            Action::Notice(notice) => self.heard(now, notice),
            Action::Exit { code } => self.check_exit(*code),
        }
    }

    fn check_exit(&mut self, code: i32) -> Result<(), String> {
        let alive = self.known.iter().filter(|known| known.run.is_some()).count();
        if alive != usize::try_from(self.abandoned).unwrap() {
            return Err(format!("left with {alive} live runs, but {} were said to be abandoned", self.abandoned));
        }
        let codes = match &self.end {
            Some(End::Asked) => vec![0],
            Some(End::Killed) => vec![130],
            Some(End::Failed(codes)) => codes.clone(),
            None => match self.nothing_left() {
                Some(code) => vec![code],
                None => return Err("left although something runs, will run, or is kept down by an operator".to_owned()),
            },
        };
        if !codes.contains(&code) {
            return Err(format!("left with {code} instead of {codes:?}: {:?}", self.end));
        }
        self.over = true;
        self.stopping = false;
        self.stop_by = None;
        Ok(())
    }

    /// The code, when nothing runs and nothing will.
    fn nothing_left(&self) -> Option<i32> {
        let rests = |known: &Known| {
            known.run.is_none()
                && (known.done.is_some_and(|done| done == Done::Completed || !self.awaits_change(known.id.service))
                    || known.blocked_by.is_some_and(|on| self.is_dead(on))
                    || (!known.wanted && known.last == 0 && !self.service(known.id).autostart))
        };
        let staying = |known: &&Known| !known.leaving || known.run.is_some();
        if !self.known.iter().filter(staying).all(rests) || !self.known.iter().any(|known| known.wanted) {
            return None;
        }
        let failed = self.known.iter().find(|known| known.done == Some(Done::Failed));
        Some(failed.and_then(|known| known.last_outcome.as_ref()).map_or(0, failure_code))
    }

    /// The end of such a service ends nothing else.
    fn awaits_change(&self, service: ServiceId) -> bool {
        !self.spec.services[service.0].watch.paths.is_empty()
    }

    fn is_dead(&self, service: ServiceId) -> bool {
        self.copies(service).any(|known| {
            known.run.is_none()
                && ((matches!(known.done, Some(Done::Exited | Done::Failed)) && !self.awaits_change(service))
                    || known.blocked_by.is_some_and(|on| self.is_dead(on)))
        })
    }

    /// The codes that dead services under this one may account for.
    fn codes_of(&self, service: ServiceId, into: &mut Vec<i32>) {
        for known in self.copies(service) {
            match (known.done, known.blocked_by) {
                (Some(Done::Exited | Done::Failed), _) => into.extend(known.last_outcome.as_ref().map(failure_code)),
                (_, Some(on)) => self.codes_of(on, into),
                _ => {}
            }
        }
    }

    fn holds(&self, dependency: Dependency) -> bool {
        self.copies(dependency.service).all(|known| {
            let up = known.run.as_ref().filter(|run| run.cause.is_none() && run.end.is_none() && run.executed_at.is_some());
            match dependency.condition {
                Condition::Started => up.is_some() || (known.run.is_none() && known.done == Some(Done::Completed)),
                Condition::Ready => up.is_some_and(|run| run.ready),
                Condition::Completed => known.run.is_none() && known.done == Some(Done::Completed),
            }
        })
    }

    fn may_start(&self, known: &Known, now: Timestamp) -> Result<(), String> {
        if self.stopping {
            return Err("the stack stops".to_owned());
        }
        if !known.wanted {
            return Err("it is wanted down".to_owned());
        }
        if let Some(run) = &known.run {
            return Err(format!("{:?} lives", run.id));
        }
        if let Some(done) = known.done {
            return Err(format!("it is {done:?}"));
        }
        if known.not_before.is_some_and(|at| now < at) {
            return Err("its delay is not over".to_owned());
        }
        match self.service(known.id).depends_on.iter().find(|dependency| !self.holds(**dependency)) {
            Some(dependency) => Err(format!("{dependency:?} does not hold")),
            None => Ok(()),
        }
    }

    fn check_spawn(&mut self, now: Timestamp, id: RunId) -> Result<(), String> {
        let known = self.known.iter().find(|known| known.id == id.instance).ok_or("a stranger is started")?;
        self.may_start(known, now).map_err(|why| format!("{id:?} is started although {why}"))?;
        let word = Word::of(self.service(id.instance));
        let known = self.find(id.instance);
        if id.run <= known.last {
            return Err(format!("{id:?} is started again"));
        }
        known.last = id.run;
        known.not_before = None;
        known.blocked_by = None;
        known.run = Some(Run {
            id,
            spawned_at: now,
            executed_at: None,
            ready: false,
            ready_at: None,
            ready_probe: Asking::default(),
            live_probe: Asking::default(),
            word,
            cause: None,
            asked: false,
            signals: 0,
            asked_at: now,
            kill_by: None,
            needs_until: Timestamp::ZERO,
            killed: false,
            pass_on: false,
            sent: None,
            end: None,
        });
        self.spawned += 1;
        Ok(())
    }

    /// A stop signal or SIGKILL: there must be a reason, and it must be time.
    fn check_ending(&mut self, now: Timestamp, id: RunId, kill: bool) -> Result<(), String> {
        let service = self.service(id.instance).clone();
        let forced = self.kill_all || self.kill_all_at.is_some_and(|at| at <= now);
        let stops = self.stopping && (self.kill_all || self.drain_until <= now);
        let needed = self.is_needed(id.instance.service);
        let (serving, jumped) = (!self.stopping, self.jumped);
        let Some(run) = self.present(id) else { return Err(format!("a signal to a dead run: {id:?}")) };
        run.pass_on = false;
        if !run.asked {
            (run.asked, run.asked_at) = (true, now);
            if run.cause.is_none() && run.end.is_none() {
                if !stops {
                    return Err(format!("{id:?} is ended without a reason"));
                }
                if needed && !forced {
                    return Err(format!("{id:?} is stopped while others still need it"));
                }
                run.cause = Some(Cause::Shutdown);
            }
            let grace = if run.cause.is_none() { service.stop.timeout.min(SECOND) } else { service.stop.timeout };
            // Its main process died by itself.
            run.cause.get_or_insert(Cause::Crash);
            let by = now.after(grace);
            run.kill_by = Some(run.kill_by.map_or(by, |earlier| earlier.min(by)));
        }
        if kill {
            if serving && !run.killed && run.kill_by.is_some_and(|by| now < by) {
                return Err(format!("{id:?} is killed before its grace period is over"));
            }
            if !forced && !run.killed && run.kill_by.is_some_and(|by| now < by.min(run.needs_until)) {
                return Err(format!("{id:?} is killed although it needs more time, and there is"));
            }
            let all = run.signals == service.stop.signals.len() || service.stop.timeout.is_zero();
            if serving && !jumped && !run.killed && !all {
                return Err(format!("{id:?} is killed before it got every one of its stop signals"));
            }
            run.killed = true;
        }
        if run.ready_probe.open.is_some() || run.live_probe.open.is_some() {
            return Err(format!("{id:?} is ended, but a probe still waits for an answer"));
        }
        Ok(())
    }

    /// What those that the service depends on need for their own end, one after the other.
    fn below(&self, service: ServiceId) -> Duration {
        let own = |on: ServiceId| {
            let there = self.copies(on).any(|known| known.run.is_some());
            if there { self.spec.services[on.0].stop.timeout } else { Duration::ZERO }
        };
        self.spec.services[service.0].depends_on.iter().map(|on| own(on.service) + self.below(on.service)).max().unwrap_or_default()
    }

    /// Whether something that depends on the service is there.
    fn is_needed(&self, service: ServiceId) -> bool {
        self.known
            .iter()
            .any(|known| known.run.is_some() && self.service(known.id).depends_on.iter().any(|dependency| dependency.service == service))
    }

    fn check_probe(&mut self, now: Timestamp, id: RunId, kind: ProbeKind, number: u32) -> Result<(), String> {
        let service = self.service(id.instance).clone();
        let Some(run) = self.present(id) else { return Err(format!("a dead run is probed: {id:?}")) };
        if run.executed_at.is_none() || run.cause.is_some() || run.end.is_some() {
            return Err(format!("a probe of something that does not run, or ends: {id:?}"));
        }
        let (asking, probe) = match kind {
            ProbeKind::Ready => (&mut run.ready_probe, service.ready.probe()),
            ProbeKind::Live => (&mut run.live_probe, service.live.as_ref()),
        };
        let Some(probe) = probe else { return Err(format!("{id:?} has no such probe: {kind:?}")) };
        if asking.open.is_some() {
            return Err(format!("two questions of one probe are open at once: {id:?} {kind:?}"));
        }
        if number != asking.number + 1 {
            return Err(format!("{id:?} {kind:?}: question {number} follows {}", asking.number));
        }
        if now < run.spawned_at.after(probe.initial_delay) {
            return Err(format!("{id:?} {kind:?} is asked before its initial delay is over"));
        }
        let eager = kind == ProbeKind::Ready && run.ready_at.is_none();
        let gap = if eager { probe.every.min(Duration::from_millis(20)) } else { probe.every };
        if asking.answered_at.is_some_and(|at| now < at.after(gap)) {
            return Err(format!("{id:?} {kind:?} is asked again too soon"));
        }
        if kind == ProbeKind::Live && run.ready_at.is_none() {
            return Err(format!("{id:?} is asked whether it lives before it was ready"));
        }
        asking.number = number;
        asking.open = Some(now);
        Ok(())
    }

    fn expect(&mut self, id: InstanceId, next: Next) -> Result<(), String> {
        match self.expected.take() {
            Some((expected, what)) if expected == id && what == next => Ok(()),
            other => Err(format!("{id:?}: {next:?} instead of {other:?}")),
        }
    }

    fn heard(&mut self, now: Timestamp, notice: &Notice) -> Result<(), String> {
        match notice {
            Notice::Memory(_) => {}
            Notice::Ready { run: id, .. } => {
                let probe = self.service(id.instance).ready.clone();
                let Some(run) = self.present(*id) else { return Err(format!("a dead run is ready: {id:?}")) };
                let enough = match &probe {
                    Readiness::Probe(probe) => run.ready_probe.good >= probe.successes,
                    Readiness::Delay(delay) => run.executed_at.is_some_and(|at| at.after(*delay) <= now),
                    Readiness::Notify { .. } | Readiness::NotifyFd(_) | Readiness::Log(_) => run.word.ready == Some(true),
                };
                if !enough || run.ready || run.cause.is_some() || run.end.is_some() || run.executed_at.is_none() {
                    return Err(format!("not ready, but said to be: {run:?}"));
                }
                run.ready = true;
                run.ready_at.get_or_insert(now);
            }
            Notice::NotReady { run: id, .. } => {
                let failures = self.service(id.instance).ready.probe().map_or(u32::MAX, |probe| probe.failures);
                let Some(run) = self.present(*id) else { return Err(format!("a dead run is not ready: {id:?}")) };
                if !run.ready || (run.ready_probe.bad < failures && run.word.ready != Some(false)) {
                    return Err(format!("ready, but said not to be: {run:?}"));
                }
                run.ready = false;
            }
            Notice::NotLive { run: id, .. } => {
                let failures = self.service(id.instance).live.as_ref().map_or(u32::MAX, |probe| probe.failures);
                let Some(run) = self.present(*id) else { return Err(format!("a dead run is not live: {id:?}")) };
                if run.live_probe.bad < failures || run.cause.is_some() {
                    return Err(format!("live, but said not to be: {run:?}"));
                }
                run.cause = Some(Cause::Live);
            }
            Notice::WatchdogBit { run: id, why } => {
                let heard_all = self.heard_all;
                let Some(run) = self.present(*id) else { return Err(format!("the watchdog bites a dead run: {id:?}")) };
                let due = match why {
                    Bite::Stayed(time) => heard_all && run.word.gone_by.is_some_and(|(since, by)| by <= now && by.since(since) == *time),
                    Bite::Silent(silent_for) => {
                        heard_all && run.word.watchdog == Some(*silent_for) && run.word.alive_by.is_some_and(|by| by <= now)
                    }
                    Bite::Asked => run.word.trigger,
                };
                if !due || run.cause.is_some() || run.end.is_some() {
                    return Err(format!("the watchdog bites who said enough: {run:?}"));
                }
                run.cause = Some(Cause::Watchdog);
            }
            Notice::StartTimedOut { run: id, .. } => {
                let service = self.service(id.instance).clone();
                let heard_all = self.heard_all;
                let Some(run) = self.present(*id) else { return Err(format!("a dead run timed out: {id:?}")) };
                if !times_out(&service, run, now) || (!heard_all && may_have_said_more(&service, run, now)) {
                    return Err(format!("timed out before its time: {run:?}"));
                }
                run.cause = Some(Cause::StartTimeout);
            }
            Notice::Ended { run: id, outcome, clean, .. } => {
                self.ended += 1;
                if id.run != self.find(id.instance).last {
                    return Err(format!("an old run ended: {id:?}"));
                }
                // An exit with nothing left behind has taken the run away already.
                if let Some(run) = self.present(*id)
                    && run.end.as_ref().map(|(outcome, _)| outcome) != Some(outcome)
                {
                    return Err(format!("{outcome} was not how {run:?} ended"));
                }
                let success = matches!(outcome, Outcome::Exited(code) if self.service(id.instance).success_exit_codes.contains(code));
                if success && !clean || *clean && matches!(outcome, Outcome::SpawnFailed(_) | Outcome::Signaled(Signal::KILL)) {
                    return Err(format!("{id:?}: {outcome} is said to be clean: {clean}"));
                }
            }
            Notice::Completed { run, .. } => return self.expect(run.instance, Next::Completed),
            Notice::NotRestarted { run, awaits_change } => {
                if *awaits_change != self.awaits_change(run.instance.service) {
                    return Err(format!("{notice:?} of {:?}", self.service(run.instance).watch));
                }
                return self.expect(run.instance, Next::NotRestarted);
            }
            Notice::GaveUp { instance, failures } => return self.expect(*instance, Next::GaveUp { failures: *failures }),
            Notice::Stopped { instance } => {
                let known = self.find(*instance);
                // At an operator's wish, with nothing to be ended.
                if known.run.is_none() && !known.wanted && self.expected.is_none() {
                    return Ok(());
                }
                return self.expect(*instance, Next::Stopped);
            }
            Notice::Restarting { instance, delay, cause: said, failures: counted } => {
                match self.expected.take() {
                    Some((expected, Next::Restarting { failures, cause, low, high }))
                        if expected == *instance
                            && cause == *said
                            && failures == *counted
                            && (low..=high).contains(&delay.as_secs_f64()) => {}
                    other => return Err(format!("{notice:?} instead of {other:?}")),
                }
                self.find(*instance).not_before = Some(now.after(*delay));
            }
            Notice::Changed { .. } => {
                if self.change_is_told {
                    return Err(format!("{notice:?}, and nobody begins anew, or it was told before"));
                }
                self.change_is_told = true;
            }
            Notice::Waiting { instance, on } => {
                let holds =
                    self.service(*instance).depends_on.iter().filter(|dependency| dependency.service == *on).all(|one| self.holds(*one));
                if holds {
                    return Err(format!("{instance:?} waits for {on:?}, whose condition holds"));
                }
                // It waits for this now, and no longer for a delay.
                self.find(*instance).not_before = None;
            }
            Notice::Blocked { instance, on } => {
                let depends = self.service(*instance).depends_on.iter().any(|dependency| dependency.service == *on);
                if !depends || !self.is_dead(*on) {
                    return Err(format!("{instance:?} is blocked by {on:?}, which has not failed"));
                }
                let essential = self.service(*instance).essential;
                let known = self.find(*instance);
                known.blocked_by = Some(*on);
                known.not_before = None;
                if essential && !self.stopping && self.end.is_none() {
                    let mut codes = Vec::new();
                    self.codes_of(*on, &mut codes);
                    (self.must_end, self.end) = (true, Some(End::Failed(codes)));
                }
            }
            Notice::RollBegun { service, instances } => {
                if self.rolls.get(service).is_none_or(|roll| roll.left.len() != usize::from(*instances) || roll.now.is_some()) {
                    return Err(format!("{notice:?} of {:?}", self.rolls.get(service)));
                }
            }
            Notice::RollTurn { at, left } => return self.check_turn(now, *at, *left),
            Notice::Rolled { service } => match self.rolls.remove(service) {
                // Of nobody coming back nothing is done.
                Some(Roll { left, now: Some((number, before)), .. }) if left.is_empty() && self.is_back(*service, number, before) => {}
                other => return Err(format!("a rolling restart is said to be done: {other:?}")),
            },
            Notice::RollStopped { at, why, left } => return self.check_roll_stop(*at, *why, *left),
            Notice::Scaled { service, from, to } => {
                let is_due = self.scaled.take() == Some((*service, *from, *to));
                if !is_due && (self.held_back.remove(service) != Some(*to) || self.copies(*service).count() != usize::from(*from)) {
                    return Err(format!("{notice:?} was not asked for"));
                }
                if self.takes_the_last_ready(*service, *to) {
                    return Err(format!("{notice:?} leaves nobody ready while one is coming back"));
                }
                if !is_due {
                    self.have(now, *service, *from, *to);
                }
            }
            Notice::Updating { .. } | Notice::Added { .. } | Notice::Removed { .. } | Notice::Redefined { .. } | Notice::Updated => {
                return Err(format!("an update nobody asked for: {notice:?}"));
            }
            Notice::ShuttingDown { within, drain, .. } => {
                if self.end.is_none() {
                    return Err(format!("a stop without a reason: {notice:?}"));
                }
                if !self.stopping {
                    self.must_end = false;
                    self.stopping = true;
                    self.stop_by = Some(now.after(*within));
                    self.drain_until = now.after(*drain);
                    self.begin_stopping(now);
                }
            }
            Notice::Over { abandoned, why, .. } => {
                let right = match why {
                    EndCause::Asked(_) => self.end == Some(End::Asked),
                    EndCause::Killed => self.end == Some(End::Killed),
                    EndCause::NothingLeft { .. } => self.end.is_none(),
                    EndCause::GaveUp { .. } | EndCause::EssentialEnded { .. } | EndCause::Blocked { .. } => {
                        matches!(self.end, Some(End::Failed(_)))
                    }
                };
                if !right {
                    return Err(format!("it ended because of {why:?}, not {:?}", self.end));
                }
                self.abandoned = *abandoned;
            }
            Notice::Started { .. } | Notice::Stopping { .. } | Notice::Killing { .. } | Notice::StillWaiting { .. } => {}
        }
        Ok(())
    }

    /// The highest go first, and only they can be forgotten.
    fn forget_gone(&mut self) {
        for index in 0..self.spec.services.len() {
            while let Some(at) = self.known.iter().rposition(|known| known.id.service == ServiceId(index))
                && self.known[at].leaving
                && self.known[at].run.is_none()
            {
                let gone = self.known.remove(at);
                self.retired.insert(gone.id, gone.last);
            }
        }
    }

    pub fn after_step(&mut self, now: Timestamp, engine: &Engine) -> Result<(), String> {
        self.steps += 1;
        self.due = engine.next_deadline();
        if !std::mem::replace(&mut self.change_is_told, true) {
            return Err("it begins anew because of changed files, and nobody was told".to_owned());
        }
        if let Some(missing) = self.expected.take() {
            return Err(format!("{missing:?} did not follow"));
        }
        if let Some(scaled) = self.scaled.take() {
            return Err(format!("{scaled:?} was not told"));
        }
        if let Some(run) = self.to_cancel.pop_first() {
            return Err(format!("{run:?} is gone, but its probes were not cancelled"));
        }
        if self.over {
            return Ok(());
        }
        if let Some(kill_all_at) = self.kill_all_at {
            // More time for the one is never less for those it depends on.
            for index in 0..self.known.len() {
                let below = self.below(self.known[index].id.service);
                if let Some(run) = &mut self.known[index].run {
                    run.needs_until = run.needs_until.min(now.after(kill_all_at.since(now).saturating_sub(below)));
                }
            }
        }
        if self.must_end {
            return Err("an essential service failed and nothing followed".to_owned());
        }
        if let Some(by) = self.stop_by
            && now >= by
        {
            return Err(format!("the stop should have ended by {by:?}, it is {now:?}"));
        }
        if !self.stopping && self.nothing_left().is_some() {
            return Err("nothing is left, and it goes on".to_owned());
        }
        if !self.stopping {
            if let Some((id, to)) = self.held_back.iter().find(|(id, to)| !self.takes_the_last_ready(**id, **to)) {
                return Err(format!("{id:?} could have {to} instances by now"));
            }
            self.check_rolls()?;
            self.welcome_back();
        }
        self.forget_gone();
        for known in &self.known {
            match &known.run {
                Some(run) => self.check_run(run, now)?,
                None => {
                    if self.may_start(known, now).is_ok() {
                        return Err(format!("{:?} could be started and is not", known.id));
                    }
                }
            }
        }
        let waits = !self.heard_all
            && self.known.iter().any(|known| {
                known.run.as_ref().is_some_and(|run| run.cause.is_none() && may_have_said_more(self.service(known.id), run, now))
            });
        if self.jumped {
            self.jumped = false;
        } else if !waits
            && let Some(deadline) = engine.next_deadline()
            && deadline <= now
        {
            return Err(format!("a deadline of {deadline:?} is not later than {now:?}"));
        }
        // Dear, so not always.
        if self.steps.is_multiple_of(16) { self.check_status(now, engine) } else { Ok(()) }
    }

    /// Whatever is due to a run must have been done.
    fn check_run(&self, run: &Run, now: Timestamp) -> Result<(), String> {
        let service = self.service(run.id.instance);
        if !run.killed && run.kill_by.is_some_and(|by| by <= now) {
            return Err(format!("{:?} outlived its grace period without SIGKILL", run.id));
        }
        if run.pass_on {
            return Err(format!("what {:?} left behind was told nothing", run.id));
        }
        if run.cause.is_some() || run.end.is_some() {
            return if run.asked { Ok(()) } else { Err(format!("nothing was done to end {run:?}")) };
        }
        if self.stopping && (self.kill_all || (self.drain_until <= now && !self.is_needed(run.id.instance.service))) {
            return Err(format!("{:?} could be stopped and is not", run.id));
        }
        let may_have_said_more = !self.heard_all && may_have_said_more(service, run, now);
        if times_out(service, run, now) && !may_have_said_more {
            return Err(format!("{run:?} is late and was not ended"));
        }
        let (Some(executed_at), Kind::Service) = (run.executed_at, service.kind) else { return Ok(()) };
        match &service.ready {
            Readiness::Delay(delay) => {
                if !run.ready && executed_at.after(*delay) <= now {
                    return Err(format!("{run:?} has run for {delay:?} and is not ready"));
                }
            }
            Readiness::Notify { .. } | Readiness::NotifyFd(_) | Readiness::Log(_) => {
                if run.word.trigger || (run.word.is_silent(now) && !may_have_said_more) {
                    return Err(format!("{run:?} should have been ended by its watchdog"));
                }
                if run.word.ready.unwrap_or_default() != run.ready {
                    return Err(format!("{run:?} does not follow its own word"));
                }
            }
            Readiness::Probe(probe) => {
                let asking = &run.ready_probe;
                if !run.ready && asking.good >= probe.successes || run.ready && asking.bad >= probe.failures {
                    return Err(format!("{run:?} does not follow the answers of its probe"));
                }
                if asking.due(run.spawned_at.after(probe.initial_delay).max(executed_at), probe).is_some_and(|at| at <= now) {
                    return Err(format!("{run:?} should have been asked whether it is ready"));
                }
            }
        }
        if let (Some(probe), Some(ready_at)) = (&service.live, run.ready_at) {
            if run.live_probe.bad >= probe.failures {
                return Err(format!("{run:?} is not live and goes on"));
            }
            if run.live_probe.due(run.spawned_at.after(probe.initial_delay).max(ready_at), probe).is_some_and(|at| at <= now) {
                return Err(format!("{run:?} should have been asked whether it lives"));
            }
        }
        Ok(())
    }

    /// What people read is what is so.
    fn check_status(&self, now: Timestamp, engine: &Engine) -> Result<(), String> {
        let status = engine.status(now, "", 1);
        let mut all_ready = true;
        let mut rows = status.services.iter().flat_map(|service| &service.instances);
        for known in &self.known {
            let service = self.service(known.id);
            let row = rows.next().ok_or("an instance has no status")?;
            let oneshot = service.kind == Kind::Oneshot;
            let state = match (&known.run, known.done) {
                (Some(run), _) if run.cause.is_some() || run.end.is_some() => StateName::Stopping,
                (Some(run), _) if run.ready_at.is_some() || (oneshot && run.executed_at.is_some()) => StateName::Running,
                (Some(_), _) => StateName::Starting,
                (None, Some(Done::Completed)) => StateName::Completed,
                (None, Some(Done::Exited)) => StateName::Exited,
                (None, Some(Done::Failed)) => StateName::Failed,
                (None, None) if self.stopping || !known.wanted => StateName::Stopped,
                (None, None) if known.blocked_by.is_some_and(|on| self.is_dead(on)) => StateName::Failed,
                (None, None) if known.not_before.is_some_and(|at| now < at) => StateName::Backoff,
                (None, None) => StateName::Waiting,
            };
            let up = known.run.as_ref().is_some_and(|run| run.ready && run.cause.is_none() && run.end.is_none());
            let ready = up || (oneshot && state == StateName::Completed);
            if (row.state, row.ready, row.run) != (state, ready, known.last) {
                return Err(format!("{state:?} with ready {ready} and run {} is shown as {row:?}", known.last));
            }
            let copies = || self.copies(known.id.service);
            if known.leaving {
                continue;
            }
            if service.essential && (service.autostart || copies().any(|one| one.wanted || one.last > 0)) {
                all_ready &= ready;
            }
        }
        let phase = match (self.stopping, self.kill_all || self.drain_until <= now) {
            (false, _) => Phase::Running,
            (true, false) => Phase::Draining,
            (true, true) => Phase::Stopping,
        };
        let live = !matches!(self.end, Some(End::Failed(_)));
        if (status.phase, status.ready, status.live) != (phase, all_ready && !self.stopping, live) {
            return Err(format!("{phase:?}, ready {all_ready}, live {live} is shown as {status:?}"));
        }
        Ok(())
    }

    /// Some wait for what an operator (or `autostart = false`) keeps down, or for what waits for files to change: nothing else may be open.
    pub fn only_waits_for_the_operator(&self, engine: &Engine, now: Timestamp) -> bool {
        if self.stopping {
            return false;
        }
        let status = engine.status(now, "", 1);
        let down: BTreeSet<&str> = status
            .services
            .iter()
            .enumerate()
            .filter(|(index, service)| {
                service.instances.iter().any(|one| match one.state {
                    StateName::Stopped => true,
                    StateName::Waiting => one.why.is_some(),
                    StateName::Exited | StateName::Failed => self.awaits_change(ServiceId(*index)),
                    StateName::Running | StateName::Completed | StateName::Starting | StateName::Stopping | StateName::Backoff => false,
                })
            })
            .map(|(_, service)| service.name.as_str())
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
        let unreaped = self.known.iter().filter(|known| known.run.as_ref().is_some_and(|run| run.end.is_none())).count() as u64;
        if missing != unreaped {
            return Err(format!("{} runs were spawned and {} ended, {unreaped} were left alive", self.spawned, self.ended));
        }
        Ok(())
    }
}

/// A job is done when it is done; without a probe a program that runs settles by itself.
fn times_out(service: &Service, run: &Run, now: Timestamp) -> bool {
    let settles = matches!(service.ready, Readiness::Delay(_));
    let waits = run.executed_at.is_none() || (!settles && run.ready_at.is_none());
    let by = run.spawned_at.after(service.start_timeout).max(run.word.start_until.unwrap_or(run.spawned_at));
    service.kind == Kind::Service && waits && by <= now && run.cause.is_none()
}

/// Its time is over, and the word that would have been in time may still wait to be passed on.
fn may_have_said_more(service: &Service, run: &Run, now: Timestamp) -> bool {
    let listened_to = matches!(service.ready, Readiness::Notify { .. } | Readiness::NotifyFd(_) | Readiness::Log(_));
    let late = run.word.is_silent(now) || times_out(service, run, now);
    listened_to && run.executed_at.is_some() && late
}

/// What fails never ends the container with 0.
fn failure_code(outcome: &Outcome) -> i32 {
    outcome.exit_code().max(1)
}

/// The contract's own words, written a second time on purpose: `initial`, times `factor` each time, at most `max`; in seconds.
fn base_delay(backoff: &firstmate::engine::spec::Backoff, attempts: u32) -> f64 {
    let mut delay = backoff.initial.as_secs_f64();
    for _ in 0..attempts.min(200) {
        delay = (delay * backoff.factor).min(backoff.max.as_secs_f64());
    }
    delay.min(backoff.max.as_secs_f64())
}
