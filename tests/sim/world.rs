//! The fake kernel: processes that start, fail, exit, ignore signals and leave children behind, on virtual time.

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::time::Duration;

use firstmate::engine::{
    Action, Command, Engine, Event, InstanceId, LaunchError, Notice, Outcome, Reach, RunId, ShutdownCause, Signal, Spec, Stage, Timestamp,
    Verb,
};

use firstmate::engine::Announcement;
use firstmate::engine::spec::{Readiness, Service};

use crate::oracle::Oracle;
use crate::rng::Chance;
use crate::stacks;

#[derive(Debug, Default, Clone)]
pub struct Summary {
    pub steps: u64,
    pub runs: u64,
    pub failed_spawns: u64,
    pub left_behind: u64,
    pub lost_answers: u64,
    pub commands: u64,
    pub shutdowns: u64,
    pub killed_trees: u64,
    pub given_up: u64,
    pub live_failures: u64,
    pub announced: u64,
    /// Several words that waited for one late moment.
    pub queued: u64,
    pub watchdogs: u64,
    pub changes: u64,
    pub start_timeouts: u64,
    pub not_ready: u64,
    pub blocked: u64,
    pub drains: u64,
    pub kill_alls: u64,
    pub abandoned: u64,
    pub settled: u64,
    pub sent: u64,
    pub turns: u64,
    pub rolled: u64,
    pub rolls_stopped: u64,
    pub scaled: u64,
    /// Removals that waited for an instance that came back.
    pub held_back: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.runs += other.runs;
        self.failed_spawns += other.failed_spawns;
        self.left_behind += other.left_behind;
        self.lost_answers += other.lost_answers;
        self.commands += other.commands;
        self.shutdowns += other.shutdowns;
        self.killed_trees += other.killed_trees;
        self.given_up += other.given_up;
        self.live_failures += other.live_failures;
        self.announced += other.announced;
        self.queued += other.queued;
        self.watchdogs += other.watchdogs;
        self.changes += other.changes;
        self.start_timeouts += other.start_timeouts;
        self.not_ready += other.not_ready;
        self.blocked += other.blocked;
        self.drains += other.drains;
        self.kill_alls += other.kill_alls;
        self.abandoned += other.abandoned;
        self.settled += other.settled;
        self.sent += other.sent;
        self.turns += other.turns;
        self.rolled += other.rolled;
        self.rolls_stopped += other.rolls_stopped;
        self.scaled += other.scaled;
        self.held_back += other.held_back;
    }
}

/// What the kernel knows of a run.
#[derive(Debug, Clone)]
struct Process {
    main_alive: bool,
    /// Other processes of the tree.
    others: u32,
    ignores_stop: bool,
    /// So long after the first SIGKILL it is still there: uninterruptible sleep.
    stuck: Duration,
    stuck_until: Option<Timestamp>,
    /// How often it must say that it is alive.
    watchdog: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
enum Happening {
    Tell(Event),
    /// The main process ends by itself.
    Die(RunId, Outcome),
    /// It acts on a stop signal.
    Obey(RunId, Signal),
    /// SIGKILL takes effect.
    Perish(RunId),
    /// What is left of the tree ends.
    OthersEnd(RunId),
    /// It tells something of itself, if it is still there.
    Says(RunId, Announcement),
    /// It says that it is alive, and will again.
    Ping(RunId),
}

impl Happening {
    /// Whether it is something that a run tells, or what must be known of a run before it is listened to.
    const fn is_a_word(&self) -> bool {
        matches!(self, Self::Says(..) | Self::Ping(_) | Self::Tell(Event::Spawned { .. } | Event::Executed { .. }))
    }
}

/// Two are the same when they are due at the same moment; no two are.
#[derive(Debug, PartialEq)]
struct Planned {
    at: Timestamp,
    order: u64,
    what: Happening,
}

impl Eq for Planned {}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct World {
    chance: Chance,
    /// For what services say of themselves.
    voices: Chance,
    /// For what operators wish beyond up and down; `None` in histories of odd numbers, which stay as they were without.
    wishes: Option<Chance>,
    engine: Engine,
    oracle: Oracle,
    spec: Spec,
    now: Timestamp,
    planned: BinaryHeap<Planned>,
    order: u64,
    processes: BTreeMap<RunId, Process>,
    pids: u32,
    /// From here on nothing goes wrong any more.
    well_behaved: bool,
    exited: Option<i32>,
    out: Vec<Action>,
    summary: Summary,
    trace: Option<String>,
}

/// Plays one history; `Err` says which invariant broke, with the end of the trace if one was wanted.
pub fn history(seed: u64, trace: bool) -> Result<Summary, String> {
    let (world, result) = played(seed, trace);
    match (result, &world.trace) {
        (Ok(()), _) => Ok(world.summary),
        (Err(broken), None) => Err(broken),
        (Err(broken), Some(trace)) => {
            let from = trace.lines().count().saturating_sub(60);
            let tail: Vec<&str> = trace.lines().skip(from).collect();
            let shape =
                |s: &Service| format!("{} {:?} x{} {:?} {:?} {:?}", s.name, s.kind, s.instances, s.essential, s.restart, s.depends_on);
            let services: Vec<String> = world.spec.services.iter().map(shape).collect();
            Err(format!("{broken}\n{}\n{}", services.join("\n"), tail.join("\n")))
        }
    }
}

/// Every event and action of a history, one a line.
pub fn trace(seed: u64) -> String {
    played(seed, true).0.trace.unwrap_or_default()
}

fn played(seed: u64, trace: bool) -> (World, Result<(), String>) {
    let mut chance = Chance::new(seed);
    let mut voices = Chance::new(!seed);
    let mut wishes = seed.is_multiple_of(2).then(|| Chance::new(seed.rotate_left(32) ^ 0x5eed));
    let mut spec = stacks::random(&mut chance, &mut voices);
    if let Some(wishes) = &mut wishes {
        stacks::for_wishes(&mut spec, wishes);
    }
    let now = Timestamp::from_nanos(chance.below(1 << 40));
    let mut world = World {
        engine: Engine::new(spec.clone(), seed, now),
        oracle: Oracle::new(&spec),
        spec,
        chance,
        voices,
        wishes,
        now,
        planned: BinaryHeap::new(),
        order: 0,
        processes: BTreeMap::new(),
        pids: 1,
        well_behaved: false,
        exited: None,
        out: Vec::new(),
        summary: Summary::default(),
        trace: trace.then(String::new),
    };
    let result = world.play();
    world.summary.held_back = world.oracle.were_held_back;
    (world, result)
}

impl World {
    fn play(&mut self) -> Result<(), String> {
        self.step(Event::Tick)?;
        let events = 5 + self.chance.below(60);
        let mut stop_asked = false;
        for _ in 0..events {
            if self.exited.is_some() {
                break;
            }
            match self.chance.below(100) {
                0..=11 => self.random_command()?,
                12..=13 => {
                    self.summary.shutdowns += 1;
                    let cause = if self.chance.percent(50) {
                        ShutdownCause::Command
                    } else {
                        ShutdownCause::Signal { signal: Signal::TERM, sender: None }
                    };
                    stop_asked = true;
                    self.step(Event::Shutdown(cause))?;
                    // A second Ctrl-C soon after the first.
                    if self.chance.percent(20) && self.advance()? && self.exited.is_none() {
                        self.summary.kill_alls += 1;
                        self.step(Event::KillAll)?;
                    }
                }
                14..=15 if stop_asked || self.chance.percent(8) => {
                    self.summary.kill_alls += 1;
                    self.step(Event::KillAll)?;
                }
                16 => self.stray_event()?,
                17..=19 => {
                    // The supervisor was not scheduled for a while, or the machine slept.
                    self.now = self.now.after(self.chance.clone().wait(Duration::from_secs(3_600)));
                    self.chance.next();
                    self.oracle.jumped();
                    self.tick()?;
                }
                _ => {
                    if !self.advance()? {
                        break;
                    }
                }
            }
        }
        // From any state, in a well-behaved world, everything comes to rest.
        self.well_behaved = true;
        for process in self.processes.values_mut() {
            process.stuck = Duration::ZERO;
            process.stuck_until = None;
        }
        self.speak_well();
        if self.exited.is_none() && self.chance.percent(40) {
            self.summary.shutdowns += 1;
            self.step(Event::Shutdown(ShutdownCause::Command))?;
        }
        let give_up_at = self.now.after(Duration::from_secs(1_200));
        while self.exited.is_none() && self.now < give_up_at {
            if self.engine.is_settled() && !self.oracle.is_stopping() {
                break;
            }
            if self.oracle.only_waits_for_the_operator(&self.engine, self.now) {
                break;
            }
            if !self.advance()? {
                break;
            }
        }
        if self.exited.is_none() {
            let stuck = !self.engine.is_settled() && !self.oracle.only_waits_for_the_operator(&self.engine, self.now);
            if stuck || self.oracle.is_stopping() {
                return Err(format!("stuck: {:#?}", self.engine.status(self.now, "", 1)));
            }
            self.summary.settled += 1;
            // And a stop then still ends everything.
            self.step(Event::Shutdown(ShutdownCause::Command))?;
            // By the clock and not by steps: who has a watchdog of a millisecond says so two thousand times a second.
            let give_up_at = self.now.after(Duration::from_secs(1_200));
            while self.exited.is_none() && self.now < give_up_at {
                if !self.advance()? {
                    break;
                }
            }
            if self.exited != Some(0) {
                return Err(format!("a stop that was asked for ended with {:?}", self.exited));
            }
        }
        self.oracle.check_accounts()
    }

    /// The next thing that happens; `false` when nothing is to be expected any more.
    fn advance(&mut self) -> Result<bool, String> {
        let deadline = self.engine.next_deadline();
        let planned = self.planned.peek().map(|next| next.at);
        let next = match (deadline, planned) {
            (Some(deadline), Some(planned)) => deadline.min(planned),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return Ok(false),
        };
        self.now = self.now.max(next);
        if !self.well_behaved && self.chance.percent(10) {
            // Woken late.
            let late = self.chance.wait(Duration::from_millis(400));
            self.now = self.now.after(late);
            self.oracle.jumped();
        }
        if planned.is_some_and(|at| at <= self.now) && !(deadline.is_some_and(|at| at <= self.now) && self.chance.percent(30)) {
            if let Some(planned) = self.planned.pop() {
                self.happen(planned.what)?;
            }
        } else {
            self.tick()?;
        }
        Ok(true)
    }

    /// Time has passed. What was said by now has waited in a queue, and all of it comes first, each thing as a step of its own.
    fn tick(&mut self) -> Result<(), String> {
        if self.planned.peek().is_some_and(|next| next.at <= self.now) {
            let (said, rest): (Vec<Planned>, Vec<Planned>) =
                std::mem::take(&mut self.planned).into_vec().into_iter().partition(|one| one.at <= self.now && one.what.is_a_word());
            self.planned = rest.into();
            let mut said: BinaryHeap<Planned> = said.into();
            self.summary.queued += u64::from(said.len() > 1);
            while let Some(one) = said.pop() {
                self.happen(one.what)?;
            }
        }
        self.step(Event::Tick)
    }

    fn plan(&mut self, wait: Duration, what: Happening) {
        self.order += 1;
        self.planned.push(Planned { at: self.now.after(wait), order: self.order, what });
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Tell(event) => self.step(event),
            Happening::Die(run, outcome) => self.main_dies(run, outcome),
            Happening::Obey(run, signal) => {
                let outcome = match self.chance.below(3) {
                    0 => Outcome::Exited(0),
                    1 => Outcome::Exited(128 + signal.number()),
                    _ => Outcome::Signaled(signal),
                };
                self.main_dies(run, outcome)
            }
            Happening::Perish(run) => {
                let Some(process) = self.processes.get_mut(&run) else { return Ok(()) };
                if process.stuck_until.is_some_and(|until| until > self.now) {
                    return Ok(());
                }
                process.others = 0;
                if process.main_alive {
                    return self.main_dies(run, Outcome::Signaled(Signal::KILL));
                }
                self.tree_gone(run)
            }
            Happening::OthersEnd(run) => {
                let Some(process) = self.processes.get_mut(&run) else { return Ok(()) };
                process.others = 0;
                if process.main_alive { Ok(()) } else { self.tree_gone(run) }
            }
            Happening::Says(run, what) => {
                let Some(process) = self.processes.get_mut(&run) else { return Ok(()) };
                // Who behaves well ceases to talk nonsense; readiness is none.
                if self.well_behaved && what != Announcement::Ready {
                    return Ok(());
                }
                if let Announcement::WatchdogEvery(every) = &what {
                    process.watchdog = *every;
                }
                self.summary.announced += 1;
                self.step(Event::Announced { run, what })
            }
            Happening::Ping(run) => {
                let Some(Process { main_alive: true, watchdog: Some(every), .. }) = self.processes.get(&run) else { return Ok(()) };
                let every = *every;
                if !self.well_behaved && self.voices.percent(5) {
                    return Ok(());
                }
                self.plan(every / 2, Happening::Ping(run));
                self.step(Event::Announced { run, what: Announcement::Alive })
            }
        }
    }

    /// What a new run will say: well-behaved, that it is ready and, as often as it must, alive; else anything at any time.
    fn plan_words(&mut self, run: RunId, exec: Duration) {
        let ready = self.spec.services[run.instance.service.0].ready.clone();
        let watchdog = match ready {
            Readiness::Delay(_) | Readiness::Probe(_) => return,
            Readiness::Notify { watchdog } => watchdog,
            Readiness::NotifyFd(_) | Readiness::Log(_) => None,
        };
        if let Some(process) = self.processes.get_mut(&run) {
            process.watchdog = watchdog;
        }
        let chaos = !self.well_behaved;
        if !chaos || self.voices.percent(85) {
            let wait = exec + self.voices.wait(Duration::from_millis(if chaos { 2_000 } else { 10 }));
            self.plan(wait, Happening::Says(run, Announcement::Ready));
            self.plan(wait, Happening::Ping(run));
        }
        for _ in 0..if chaos { self.voices.below(5) } else { 0 } {
            let some = Duration::from_millis(self.voices.pick(&[1, 500, 20_000]));
            let what = match self.voices.below(10) {
                0 | 1 => Announcement::Ready,
                2 => Announcement::Mute("gone".into()),
                3 => Announcement::Reloading,
                4 => Announcement::Stopping,
                5 => Announcement::Status("half way".into()),
                6 => Announcement::Alive,
                7 => Announcement::Trigger,
                8 => Announcement::WatchdogEvery(self.voices.percent(70).then_some(some)),
                _ => Announcement::ExtendTimeout(some),
            };
            let wait = self.voices.wait(Duration::from_secs(20));
            self.plan(wait, Happening::Says(run, what));
        }
    }

    /// From now on everybody says what is expected.
    fn speak_well(&mut self) {
        let runs: Vec<RunId> = self.processes.keys().copied().collect();
        for run in runs {
            if !matches!(self.spec.services[run.instance.service.0].ready, Readiness::Delay(_) | Readiness::Probe(_)) {
                self.plan(Duration::ZERO, Happening::Says(run, Announcement::Ready));
                self.plan(Duration::ZERO, Happening::Ping(run));
            }
        }
    }

    fn main_dies(&mut self, run: RunId, outcome: Outcome) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(&run) else { return Ok(()) };
        if !process.main_alive {
            return Ok(());
        }
        process.main_alive = false;
        let left_behind = process.others;
        if left_behind == 0 {
            self.processes.remove(&run);
        } else {
            self.summary.left_behind += 1;
            if self.chance.percent(30) {
                let wait = self.chance.wait(Duration::from_secs(5));
                self.plan(wait, Happening::OthersEnd(run));
            }
        }
        self.step(Event::Exited { run, outcome, left_behind })
    }

    fn tree_gone(&mut self, run: RunId) -> Result<(), String> {
        self.processes.remove(&run);
        self.step(Event::TreeGone { run })
    }

    fn random_command(&mut self) -> Result<(), String> {
        self.summary.commands += 1;
        let all: Vec<InstanceId> = self.engine.instance_ids().collect();
        if self.chance.percent(25) {
            let service = self.chance.pick(&all).service;
            return self.step(Event::Changed { service, what: "src/app.py".to_owned() });
        }
        let mut instances: Vec<InstanceId> = all.iter().copied().filter(|_| self.chance.percent(40)).collect();
        if instances.is_empty() {
            instances = all;
        }
        let verb = self.chance.pick(&[Verb::Start, Verb::Stop, Verb::Restart]);
        self.step(Event::Command(Command { verb, instances }))?;
        self.other_wish()
    }

    /// Rolling restarts, signals, other numbers of instances.
    fn other_wish(&mut self) -> Result<(), String> {
        let Some(wishes) = &mut self.wishes else { return Ok(()) };
        let all: Vec<InstanceId> = self.engine.instance_ids().collect();
        let mut instances: Vec<InstanceId> = all.iter().copied().filter(|_| wishes.percent(60)).collect();
        if instances.is_empty() {
            instances = all;
        }
        // Who is between two runs is not missed as long as another one is there.
        let fewer = wishes.percent(50).then(|| (wishes.pick(&instances).service, 1 + wishes.below(2) as u16));
        let event = match wishes.below(10) {
            0..=4 => {
                self.step(Event::Command(Command { verb: Verb::Roll, instances }))?;
                let Some((service, instances)) = fewer else { return Ok(()) };
                Event::Scale { service, instances }
            }
            5 => Event::Command(Command { verb: Verb::Reload, instances }),
            6 => {
                let signal = wishes.pick(&[Signal::TERM, Signal::HUP, Signal::KILL]);
                let to = wishes.pick(&[Reach::Main, Reach::Tree]);
                Event::Command(Command { verb: Verb::Signal { signal, to }, instances: instances.into_iter().take(1).collect() })
            }
            7 | 8 => {
                let service = wishes.pick(&instances).service;
                Event::Scale { service, instances: wishes.below(6) as u16 }
            }
            _ => return Ok(()),
        };
        self.step(event)
    }

    /// Late and nonsensical news: of runs long gone, of runs that never were.
    fn stray_event(&mut self) -> Result<(), String> {
        let all: Vec<InstanceId> = self.engine.instance_ids().collect();
        let instance = self.chance.pick(&all);
        let current = self.engine.current_run(instance).map_or(1, |run| run.run);
        let run = RunId { instance, run: current.wrapping_add(self.chance.pick(&[u32::MAX, 1, 7])) };
        if self.voices.percent(30) {
            return self.step(Event::Announced { run, what: Announcement::Trigger });
        }
        let event = match self.chance.below(5) {
            0 => Event::Spawned { run, pid: 1 },
            1 => Event::Executed { run },
            2 => Event::Exited { run, outcome: Outcome::Exited(0), left_behind: 0 },
            3 => {
                // Nonsense of the present run: its tree is gone, but its main process lives.
                let present = RunId { instance, run: current };
                let lives = self.processes.get(&present).is_some_and(|process| process.main_alive);
                Event::TreeGone { run: if lives { present } else { run } }
            }
            _ => Event::Probed { run, kind: firstmate::engine::ProbeKind::Ready, number: 1, result: Ok(()) },
        };
        self.step(event)
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        self.summary.steps += 1;
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>14.3} {event:?}", self.now.as_nanos() as f64 / 1e6);
        }
        self.oracle.told(self.now, &event);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        self.engine.step(self.now, event, &mut out);
        for action in &out {
            if let Some(trace) = &mut self.trace {
                let _ = writeln!(trace, "{:>14}     {action:?}", "");
            }
            self.oracle.acted(self.now, action)?;
            self.perform(action)?;
        }
        self.out = out;
        self.engine.check_invariants(self.now)?;
        self.oracle.after_step(self.now, &self.engine)
    }

    fn perform(&mut self, action: &Action) -> Result<(), String> {
        if self.exited.is_some() {
            return Err(format!("an action after the exit: {action:?}"));
        }
        match action {
            Action::Spawn { run } => self.spawn(*run),
            Action::Signal { run, signal } => {
                if !self.processes.contains_key(run) {
                    return Ok(()); // it has ended and the news is on its way
                }
                let notify = matches!(self.spec.services[run.instance.service.0].ready, Readiness::Notify { .. });
                if notify && !self.well_behaved && self.voices.percent(30) {
                    let by = Duration::from_millis(self.voices.pick(&[50, 2_000, 15_000, u64::MAX / 1_000_000_000]));
                    let wait = self.voices.wait(Duration::from_millis(1_000));
                    self.plan(wait, Happening::Says(*run, Announcement::ExtendTimeout(by)));
                }
                let Some(process) = self.processes.get(run) else { return Ok(()) };
                if !process.ignores_stop || self.well_behaved {
                    let wait = self.chance.wait(Duration::from_secs(3));
                    let what = if process.main_alive { Happening::Obey(*run, *signal) } else { Happening::OthersEnd(*run) };
                    self.plan(wait, what);
                }
            }
            Action::KillTree { run } => {
                self.summary.killed_trees += 1;
                if let Some(process) = self.processes.get_mut(run) {
                    process.stuck_until.get_or_insert(self.now.after(process.stuck));
                }
                let wait = self.chance.wait(Duration::from_millis(50));
                self.plan(wait, Happening::Perish(*run));
            }
            Action::Probe { run, kind, number } => {
                if !self.well_behaved && self.chance.percent(8) {
                    self.summary.lost_answers += 1;
                    return Ok(());
                }
                let good = self.well_behaved || self.chance.percent(70);
                let result = if good { Ok(()) } else { Err("refused".to_owned()) };
                let wait = self.chance.wait(Duration::from_millis(if self.well_behaved { 10 } else { 1_500 }));
                self.plan(wait, Happening::Tell(Event::Probed { run: *run, kind: *kind, number: *number, result }));
            }
            Action::Send { run, signal, .. } => {
                self.summary.sent += 1;
                // Most programs reload at a HUP, and go at the others.
                let wishes = self.wishes.as_mut().ok_or("a signal nobody asked for")?;
                if *signal != Signal::HUP && wishes.percent(70) {
                    self.plan(Duration::from_millis(1), Happening::Die(*run, Outcome::Signaled(*signal)));
                }
            }
            Action::CancelProbes { .. } | Action::Define { .. } | Action::Forget { .. } | Action::Memory(_) => {}
            Action::Notice(notice) => match notice {
                Notice::GaveUp { .. } => self.summary.given_up += 1,
                Notice::NotLive { .. } => self.summary.live_failures += 1,
                Notice::WatchdogBit { .. } => self.summary.watchdogs += 1,
                Notice::Changed { .. } => self.summary.changes += 1,
                Notice::StartTimedOut { .. } => self.summary.start_timeouts += 1,
                Notice::NotReady { .. } => self.summary.not_ready += 1,
                Notice::Blocked { .. } => self.summary.blocked += 1,
                Notice::RollTurn { .. } => self.summary.turns += 1,
                Notice::Rolled { .. } => self.summary.rolled += 1,
                Notice::RollStopped { .. } => self.summary.rolls_stopped += 1,
                Notice::Scaled { .. } => self.summary.scaled += 1,
                Notice::ShuttingDown { drain, .. } => self.summary.drains += u64::from(!drain.is_zero()),
                Notice::Over { abandoned, .. } => self.summary.abandoned += u64::from(*abandoned),
                _ => {}
            },
            Action::Exit { code } => self.exited = Some(*code),
        }
        Ok(())
    }

    fn spawn(&mut self, run: RunId) {
        self.summary.runs += 1;
        if !self.well_behaved && self.chance.percent(8) {
            self.summary.failed_spawns += 1;
            let error = LaunchError { stage: Stage::Fork, errno: 11, detail: String::new() };
            self.plan(Duration::ZERO, Happening::Tell(Event::Exited { run, outcome: Outcome::SpawnFailed(error), left_behind: 0 }));
            return;
        }
        self.pids += 1;
        let pid = self.pids;
        let chaos = !self.well_behaved;
        let stuck = if chaos && self.chance.percent(5) { self.chance.wait(Duration::from_secs(60)) } else { Duration::ZERO };
        let process = Process {
            main_alive: true,
            others: if chaos && self.chance.percent(25) { 1 + self.chance.below(4) as u32 } else { 0 },
            ignores_stop: chaos && self.chance.percent(15),
            stuck,
            stuck_until: None,
            watchdog: None,
        };
        self.processes.insert(run, process);
        self.plan(Duration::ZERO, Happening::Tell(Event::Spawned { run, pid }));
        let exec = match chaos {
            // A program on a slow disk.
            true if self.chance.percent(3) => self.chance.wait(Duration::from_secs(90)),
            true => self.chance.wait(Duration::from_millis(300)),
            false => Duration::from_millis(1),
        };
        if chaos && self.chance.percent(5) {
            let error = LaunchError { stage: Stage::Exec, errno: 2, detail: "/nowhere".into() };
            self.plan(exec, Happening::Die(run, Outcome::SpawnFailed(error)));
            return;
        }
        self.plan(exec, Happening::Tell(Event::Executed { run }));
        self.plan_words(run, exec);
        let oneshot = self.spec.services[run.instance.service.0].kind == firstmate::engine::spec::Kind::Oneshot;
        if oneshot || (chaos && self.chance.percent(50)) {
            let life = self.chance.wait(Duration::from_secs(40)) + exec;
            let outcome = if chaos && self.chance.percent(50) {
                self.chance.pick(&[(1, false), (3, false), (0, false), (9, true), (37, true), (11, true)])
            } else {
                (0, false)
            };
            let outcome = match outcome {
                (number, true) => Outcome::Signaled(Signal::from_number(number).unwrap()),
                (code, false) => Outcome::Exited(code),
            };
            self.plan(life, Happening::Die(run, outcome));
        }
    }
}
