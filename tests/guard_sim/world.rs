//! The container: programs that use memory on virtual time, a kernel that kills when it is full, and the shell that answers the engine.
//!
//! Two times: the wall's, which firstmate sees, and the processor's, on which programs grow. They differ where somebody is starved.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;

use firstmate::engine::memory::{
    Accounts, Acted, Calm, Limit, Measurement, MemoryAction, MemoryEvent, MemoryNotice, Parts, Process, Pss, Reading, Rss, Usage,
};
use firstmate::engine::status::{LimitSource, MemoryMethod};
use firstmate::engine::{Action, Engine, Event, Notice, Outcome, RunId, Signal, Timestamp};

use crate::case::{Case, Clock, Program, Sight};
use crate::chance::Chance;
use crate::course::{Course, Line, MIB, SECOND, nanos, secs};
use crate::judge::{Judge, Report, Truth};

/// firstmate's own memory, and what the kernel holds for the container.
const OWN_ANON: f64 = 2.5 * MIB;
const OWN_KERNEL: f64 = 3.0 * MIB;
/// Of each process, and in nobody's books, as measured with php-fpm.
const UNEXPLAINED: f64 = 108.0 * 1024.0;
/// Of each process: page tables and a stack.
const VISIBLE: f64 = 48.0 * 1024.0;
const PAGE: f64 = 4096.0;
/// What is preferred by firstmate or not: every child starts 100 above it.
const ADJ: f64 = 100.0;
const ADJ_PREFERRED: f64 = 900.0;

#[derive(Debug, Clone)]
enum Happening {
    Tell(Event),
    /// It does what its stop signal asks.
    Obey(RunId),
    /// SIGKILL reaches it.
    Perish(RunId),
    /// Its memory is given back, and its end is seen.
    Gone(RunId, Outcome),
    /// The signal of its `action` has done its work.
    Relieve(RunId),
    Fork(RunId),
    Joined(RunId),
}

#[derive(Debug)]
struct Planned {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Alive,
    /// Will obey then; `None` never.
    Asked(Option<u64>),
    Dying,
}

/// A run's processes.
#[derive(Debug, Clone)]
struct Tree {
    program: usize,
    pid: u32,
    phase: Phase,
    heap: Line,
    worker: Line,
    bad_worker: Option<Line>,
    lazy: Line,
    mapped: Line,
    /// Copies of pages a snapshot child still needs.
    copied: Line,
    /// What the snapshot child holds, by its own view.
    child: Option<f64>,
    shared: f64,
    workers: u32,
    preferred: bool,
    told: Truth,
}

impl Tree {
    fn lines(&self) -> impl Iterator<Item = &Line> {
        [&self.heap, &self.worker, &self.mapped, &self.copied].into_iter().chain(&self.bad_worker)
    }

    fn lines_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        [&mut self.heap, &mut self.worker, &mut self.mapped, &mut self.copied, &mut self.lazy].into_iter().chain(&mut self.bad_worker)
    }

    fn processes(&self) -> f64 {
        1.0 + f64::from(self.workers) + f64::from(u8::from(self.bad_worker.is_some())) + f64::from(u8::from(self.child.is_some()))
    }

    fn kernel(&self, at: u64) -> f64 {
        if self.phase == Phase::Dying { 0.0 } else { self.processes() * VISIBLE + self.heap.at(at) / 512.0 }
    }

    fn fixed(&self) -> f64 {
        if self.phase == Phase::Dying { 0.0 } else { self.shared + self.processes() * UNEXPLAINED }
    }

    /// What its end would give back.
    fn holds(&self, at: u64) -> f64 {
        self.lines().map(|line| line.at(at)).sum::<f64>() + self.kernel(at) + self.fixed()
    }

    fn rate(&self, at: u64) -> f64 {
        self.lines().map(|line| line.rate_at(at)).sum()
    }

    fn until(&self) -> u64 {
        self.lines().map(|line| line.until).min().unwrap_or(u64::MAX).min(self.lazy.until)
    }

    fn main_rss(&self, at: u64) -> f64 {
        self.heap.at(at) + self.lazy.at(at) + self.mapped.at(at) + self.shared
    }

    fn rss(&self, at: u64) -> Rss {
        let worker = if self.workers > 0 { self.shared + self.worker.at(at) / f64::from(self.workers) } else { 0.0 };
        let bad = self.bad_worker.as_ref().map_or(0.0, |line| self.shared + line.at(at));
        let forked = f64::from(self.workers) + f64::from(u8::from(self.bad_worker.is_some()));
        let anon = self.heap.at(at)
            + self.lazy.at(at)
            + self.shared * (1.0 + forked)
            + self.worker.at(at)
            + self.bad_worker.as_ref().map_or(0.0, |line| line.at(at))
            + self.child.unwrap_or(0.0);
        Rss {
            anon: anon as u64,
            shmem: self.mapped.at(at) as u64,
            swap: 0,
            largest: self.main_rss(at).max(worker).max(bad).max(self.child.unwrap_or(0.0)) as u64,
            kernel: self.kernel(at) as u64,
            processes: self.processes() as u32,
        }
    }

    /// The kernel's victims: which process, by its own view.
    fn candidates(&self, at: u64) -> [(Victim, f64); 3] {
        [
            (Victim::Main, self.main_rss(at)),
            (Victim::BadWorker, self.bad_worker.as_ref().map_or(0.0, |line| self.shared + line.at(at))),
            (Victim::Child, self.child.unwrap_or(0.0)),
        ]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Main,
    BadWorker,
    Child,
}

pub struct World<'a> {
    case: &'a Case,
    chance: Chance,
    engine: Engine,
    /// The wall's time.
    now: u64,
    /// The processor's time.
    cpu: u64,
    began: u64,
    planned: BinaryHeap<Planned>,
    order: u64,
    trees: BTreeMap<RunId, Tree>,
    /// Being given back after the death was seen.
    ghosts: Vec<Line>,
    tmpfs: Vec<Line>,
    dead_tmpfs: Line,
    strangers: Line,
    cache: Line,
    pids: u32,
    armed: Option<(Timestamp, u64)>,
    /// Looks that are left to the other thread.
    watch: Option<Glances>,
    spins: u32,
    /// The container is gone.
    lost: bool,
    judge: Judge,
    trace: Option<VecDeque<String>>,
    out: Vec<Action>,
    queue: VecDeque<Event>,
    looks: u32,
    book: Option<Book>,
}

/// Who looks while all is calm.
#[derive(Debug, Clone, Copy)]
struct Glances {
    calm: Calm,
    /// When the next one reads all.
    exact_at: u64,
    /// When the last one was.
    calm_until: u64,
    /// When the next one is.
    at: u64,
}

/// All of it, until the first of the lines turns.
#[derive(Debug, Clone, Copy)]
struct Book {
    at: u64,
    value: f64,
    rate: f64,
    turn: u64,
}

/// Plays a case; the second says which invariant broke.
pub fn play(case: &Case) -> (Report, Result<(), String>) {
    let mut world = World::new(case, false);
    let result = world.play();
    (world.judge.report, result)
}

/// Plays it with its trace: the last lines of it.
pub fn trace(case: &Case) -> String {
    let mut world = World::new(case, true);
    let result = world.play();
    let lines = std::iter::once(case.describe()).chain(world.trace.unwrap_or_default()).collect::<Vec<_>>().join("\n");
    format!("{lines}\n{result:?}")
}

/// The same in fewer words: `RunId { instance: InstanceId { service: ServiceId(0), number: 1 }, run: 2 }` is `0.1#2`.
fn short(mut text: String) -> String {
    for (long, short) in [
        ("RunId { instance: InstanceId { service: ServiceId(", ""),
        ("InstanceId { service: ServiceId(", ""),
        ("), number: ", "."),
        (" }, run: ", "#"),
        ("Notice(Memory(", "(("),
    ] {
        text = text.replace(long, short);
    }
    text
}

impl<'a> World<'a> {
    fn new(case: &'a Case, trace: bool) -> Self {
        let mut chance = Chance::new(case.seed);
        let began = chance.below(1 << 40);
        let start = |(value, course): &(f64, Course)| Line::new(0, *value, course.clone());
        Self {
            case,
            engine: Engine::new(case.spec(), case.seed, Timestamp::from_nanos(began)),
            now: 0,
            cpu: 0,
            began,
            planned: BinaryHeap::new(),
            order: 0,
            trees: BTreeMap::new(),
            ghosts: Vec::new(),
            tmpfs: case.programs.iter().map(|program| Line::new(0, 0.0, program.tmpfs.clone())).collect(),
            dead_tmpfs: start(&case.dead_tmpfs),
            strangers: start(&case.strangers),
            cache: start(&case.cache),
            pids: 1,
            armed: None,
            watch: None,
            spins: 0,
            lost: false,
            judge: Judge::new(case),
            trace: trace.then(VecDeque::new),
            out: Vec::new(),
            queue: VecDeque::new(),
            looks: 0,
            book: None,
            chance,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        let end = nanos(self.case.secs);
        self.step(Event::Tick)?;
        let limit = Limit {
            bytes: self.case.limit as u64,
            source: if self.case.machine { LimitSource::Machine } else { LimitSource::CgroupV2 },
            place: "/sys/fs/cgroup".to_owned(),
            growth_max: 4_000_000_000,
        };
        self.step(Event::Memory(MemoryEvent::Limit(Some(limit))))?;
        while self.now < end && !self.lost {
            let tick_at = self.tick_at();
            let planned_at = self.planned.peek().map(|next| next.at);
            let glance_at = self.watch.map(|watch| watch.at);
            let next = tick_at.into_iter().chain(planned_at).chain(glance_at).min().unwrap_or(end).min(end);
            if self.pass(next) {
                continue; // the kernel has killed; that comes first
            }
            if self.lost {
                break;
            }
            if planned_at.is_some_and(|at| at <= self.now) {
                if let Some(planned) = self.planned.pop() {
                    self.happen(planned.what)?;
                }
            } else if glance_at.is_some_and(|at| at <= self.now) {
                self.glance()?;
            } else if tick_at.is_some_and(|at| at <= self.now) {
                self.armed = None;
                self.spins += 1;
                if self.spins > 20 {
                    return Err(format!("woken {} times at the same moment", self.spins));
                }
                self.judge.report.ticks += 1;
                self.step(Event::Tick)?;
            }
        }
        let status = self.engine.status(self.timestamp(), "", 1);
        let hard = self.hard().0;
        self.judge.finish(self.now, hard, status.memory.as_ref())
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::from_nanos(self.began + self.now)
    }

    /// What is left to firstmate's other thread while all is calm.
    fn glance(&mut self) -> Result<(), String> {
        let Some(watch) = self.watch else { return Ok(()) };
        self.judge.report.ticks += 1;
        let calm = watch.calm;
        let exact_at = if self.now >= watch.exact_at { self.now + nanos(calm.exact_every.as_secs_f64()) } else { watch.exact_at };
        let stat_above = if exact_at == watch.exact_at { calm.above } else { 0 };
        let reading = (self.case.sight != Sight::Nothing).then(|| self.reading(stat_above));
        if reading.is_some_and(|reading| calm.is_still(&reading)) {
            let at = self.woken_at(self.now + nanos(calm.every.as_secs_f64()));
            self.watch = Some(Glances { calm_until: self.now, at, exact_at, ..watch });
            return Ok(());
        }
        self.watch = None;
        let calm_until = Timestamp::from_nanos(self.began + watch.calm_until);
        self.step(Event::Memory(MemoryEvent::Grew { calm_until, reading }))
    }

    /// When firstmate is really woken for its next deadline.
    fn tick_at(&mut self) -> Option<u64> {
        let now = self.timestamp();
        if let Some(calm) = self.engine.calm(now) {
            self.engine.watched(now);
            let at = self.woken_at(self.now + nanos(calm.every.as_secs_f64()));
            self.watch = Some(Glances { calm, calm_until: self.now, at, exact_at: self.now });
        } else if !self.engine.is_watched() {
            self.watch = None;
        }
        let deadline = self.engine.next_deadline()?;
        if let Some((armed, at)) = self.armed
            && armed == deadline
        {
            return Some(at);
        }
        let at = self.woken_at(deadline.as_nanos().saturating_sub(self.began));
        self.armed = Some((deadline, at));
        Some(at)
    }

    /// When a thread that asked to be woken then really is.
    fn woken_at(&mut self, due: u64) -> u64 {
        let late = match self.case.clock {
            Clock::Idle if self.chance.percent(1) => self.chance.between(0.0, 0.002),
            Clock::Idle | Clock::Quota { .. } => self.chance.between(0.000_03, 0.000_2),
            Clock::Busy { worst, .. } if self.chance.percent(4) => self.chance.between(0.0, worst),
            Clock::Busy { .. } => self.chance.between(0.000_05, 0.004),
        };
        let mut at = due.max(self.now) + nanos(late);
        if let Clock::Quota { period, run } = self.case.clock {
            let (period, run) = (nanos(period), nanos(run));
            if at % period >= run {
                at = at - at % period + period + nanos(late);
            }
        }
        at
    }

    fn cpu_at(&self, wall: u64) -> u64 {
        match self.case.clock {
            Clock::Idle => wall,
            Clock::Busy { share, .. } => (wall as f64 * share) as u64,
            Clock::Quota { period, run } => {
                let (period, run) = (nanos(period), nanos(run));
                wall / period * run + (wall % period).min(run)
            }
        }
    }

    /// The first moment of the wall at which the processor's time is that.
    fn wall_at(&self, cpu: u64) -> u64 {
        match self.case.clock {
            Clock::Idle => cpu,
            Clock::Busy { share, .. } => (cpu as f64 / share).ceil() as u64,
            Clock::Quota { period, run } => {
                let (period, run) = (nanos(period), nanos(run));
                cpu / run * period + cpu % run
            }
        }
    }

    /// What cannot be taken back, and how fast it grows.
    fn hard(&self) -> (f64, f64) {
        match self.book {
            Some(book) => (book.value + book.rate * secs(self.cpu - book.at), book.rate),
            None => self.count(),
        }
    }

    /// Counts everything once, for as long as nothing turns.
    fn book(&mut self) -> Book {
        let (value, rate) = match self.book {
            Some(book) => return book,
            None => self.count(),
        };
        let book = Book { at: self.cpu, value, rate, turn: self.turn_at() };
        self.book = Some(book);
        book
    }

    fn count(&self) -> (f64, f64) {
        let at = self.cpu;
        let (mut value, mut rate) = (OWN_ANON + OWN_KERNEL, 0.0);
        for tree in self.trees.values() {
            value += tree.holds(at);
            rate += tree.rate(at);
        }
        for line in self.ghosts.iter().chain(&self.tmpfs).chain([&self.dead_tmpfs, &self.strangers]) {
            value += line.at(at);
            rate += line.rate_at(at);
        }
        (value, rate)
    }

    fn turn_at(&self) -> u64 {
        let trees = self.trees.values().map(Tree::until);
        let others = self.ghosts.iter().chain(&self.tmpfs).chain([&self.dead_tmpfs, &self.strangers, &self.cache]).map(|line| line.until);
        trees.chain(others).min().unwrap_or(u64::MAX)
    }

    /// Time passes until `wall`, or until the kernel kills: then it says so.
    fn pass(&mut self, wall: u64) -> bool {
        if wall > self.now {
            self.spins = 0;
        }
        loop {
            let target = self.cpu_at(wall).max(self.cpu);
            let Book { turn, .. } = self.book();
            let (value, rate) = self.hard();
            if value >= self.case.limit && rate > 0.0 {
                self.judge.level(self.now, value);
                self.oom();
                return true;
            }
            let turn = turn.max(self.cpu);
            let full = if rate > 0.0 { self.cpu.saturating_add(nanos((self.case.limit - value).max(0.0) / rate) + 1) } else { u64::MAX };
            let next = target.min(turn).min(full);
            let passed = next - self.cpu;
            self.cpu = next;
            self.now = if next == target { self.now.max(wall) } else { self.wall_at(next).clamp(self.now, wall.max(self.now)) };
            self.judge.level(self.now, value + rate * secs(passed));
            if turn <= self.cpu {
                self.turn_lines();
            } else if full > self.cpu {
                return false;
            }
        }
    }

    fn turn_lines(&mut self) {
        self.book = None;
        let at = self.cpu;
        let chance = &mut self.chance;
        let trees = self.trees.values_mut().flat_map(Tree::lines_mut);
        let others = self.ghosts.iter_mut().chain(&mut self.tmpfs).chain([&mut self.dead_tmpfs, &mut self.strangers, &mut self.cache]);
        for line in trees.chain(others) {
            if line.until <= at {
                line.turn(at, chance);
            }
        }
        self.ghosts.retain(|line| line.at(at) > 0.0);
    }

    /// The kernel's OOM killer: the process with the most points; see proc_pid_oom_score_adj(5).
    fn oom(&mut self) {
        self.book = None;
        let at = self.cpu;
        let mut worst: Option<(RunId, Victim, f64)> = None;
        for (run, tree) in &self.trees {
            let adj = if tree.preferred { ADJ_PREFERRED } else { ADJ };
            for (victim, bytes) in tree.candidates(at) {
                let points = bytes + adj / 1000.0 * self.case.limit;
                if bytes > 0.0 && worst.is_none_or(|(_, _, most)| points > most) {
                    worst = Some((*run, victim, points));
                }
            }
        }
        self.say(|| format!("the limit is met: {worst:?}"));
        let Some((run, victim, _)) = worst else {
            // Nobody is left but firstmate.
            self.lost = true;
            self.judge.oom(self.now, None);
            return;
        };
        let Some(tree) = self.trees.get_mut(&run) else { return };
        if tree.phase == Phase::Dying {
            // It is on its way out: the kernel only helps it, and all others wait. See oom_kill_process() in mm/oom_kill.c.
            for line in tree.lines_mut() {
                line.set(at, 0.0);
                line.stop(at);
            }
            return;
        }
        self.judge.oom(self.now, Some((run, tree.program)));
        if self.case.oom_group {
            self.lost = true;
            self.judge.report.lost = true;
            return;
        }
        match victim {
            Victim::Main => {
                tree.phase = Phase::Dying;
                for line in tree.lines_mut() {
                    line.set(at, 0.0);
                    line.stop(at);
                }
                tree.child = None;
                let wait = nanos(self.chance.between(0.001, 0.03));
                self.plan(wait, Happening::Gone(run, Outcome::OomKilled));
            }
            Victim::BadWorker => {
                // Its master starts another.
                if let Some(line) = &mut tree.bad_worker {
                    line.set(at, 0.0);
                }
                self.plan(nanos(0.002), Happening::Tell(Event::Memory(MemoryEvent::OomKills { kills: 1, among: Vec::new() })));
            }
            Victim::Child => {
                tree.child = None;
                tree.copied.set(at, 0.0);
                tree.copied.stop(at);
                self.judge.report.misconf += 1;
                self.plan(nanos(0.002), Happening::Tell(Event::Memory(MemoryEvent::OomKills { kills: 1, among: Vec::new() })));
            }
        }
    }

    fn plan(&mut self, wait: u64, what: Happening) {
        self.order += 1;
        self.planned.push(Planned { at: self.now.saturating_add(wait), order: self.order, what });
    }

    fn program(&self, run: RunId) -> &'a Program {
        &self.case.programs[run.instance.service.0]
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        self.book = None;
        match what {
            Happening::Tell(event) => return self.step(event),
            Happening::Obey(run) => self.die(run, Outcome::Exited(0)),
            Happening::Perish(run) => self.die(run, Outcome::Signaled(Signal::KILL)),
            Happening::Gone(run, outcome) => {
                if let Some(mut tree) = self.trees.remove(&run) {
                    let at = self.cpu;
                    self.ghosts.extend(tree.lines_mut().filter(|line| line.at(at) > 0.0).map(|line| line.clone()));
                    return self.step(Event::Exited { run, outcome, left_behind: 0 });
                }
            }
            Happening::Relieve(run) => {
                let first = self.program(run).first;
                let at = self.cpu;
                if let Some(tree) = self.trees.get_mut(&run)
                    && tree.phase != Phase::Dying
                {
                    tree.heap.set(at, first);
                    if let Some(line) = &mut tree.bad_worker {
                        line.set(at, 0.0);
                    }
                }
            }
            Happening::Fork(run) => {
                let Some(plan) = self.program(run).snapshots else { return Ok(()) };
                let at = self.cpu;
                let lasts = plan.lasts * self.chance.between(0.8, 1.2);
                let every = plan.every * self.chance.between(0.9, 1.1);
                if let Some(tree) = self.trees.get_mut(&run)
                    && matches!(tree.phase, Phase::Alive | Phase::Asked(_))
                {
                    let size = tree.heap.at(at);
                    tree.child = Some(size);
                    // All of it is copied at the most.
                    tree.copied = Line::new(
                        at,
                        0.0,
                        Course::to(size.min(plan.writes * lasts), lasts.min(size / plan.writes.max(1.0)), Course::Still),
                    );
                    self.plan(nanos(lasts), Happening::Joined(run));
                    self.plan(nanos(every), Happening::Fork(run));
                }
            }
            Happening::Joined(run) => {
                let at = self.cpu;
                if let Some(tree) = self.trees.get_mut(&run)
                    && tree.phase != Phase::Dying
                {
                    tree.child = None;
                    tree.copied.drain(at, nanos(0.03));
                }
            }
        }
        Ok(())
    }

    /// It ends: its memory is given back, and then its end is seen, or a little before that.
    fn die(&mut self, run: RunId, outcome: Outcome) {
        let at = self.cpu;
        let Some(tree) = self.trees.get_mut(&run) else { return };
        if tree.phase == Phase::Dying {
            return;
        }
        let holds = tree.holds(at);
        let within = (0.015 + 0.11 * holds / 1e9) * self.chance.between(0.7, 1.5);
        if tree.child.take().is_some() {
            self.judge.report.misconf += 1;
        }
        // The shared pages go with the last of them.
        let rest = tree.fixed() + tree.kernel(at);
        let shared = tree.worker.at(at) + rest;
        tree.worker.set(at, shared);
        tree.phase = Phase::Dying;
        for line in tree.lines_mut() {
            line.drain(at, nanos(within));
        }
        let early = if self.chance.percent(20) { 0.4 } else { 1.0 };
        let seen = self.wall_at(at + nanos(within * early)).saturating_sub(self.now);
        self.plan(seen, Happening::Gone(run, outcome));
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        let Some(trace) = &mut self.trace else { return };
        let hard = {
            let at = self.cpu;
            let trees: f64 = self.trees.values().map(|tree| tree.holds(at)).sum();
            let others: f64 =
                self.ghosts.iter().chain(&self.tmpfs).chain([&self.dead_tmpfs, &self.strangers]).map(|line| line.at(at)).sum();
            trees + others + OWN_ANON + OWN_KERNEL
        };
        if trace.len() >= 2_000 {
            trace.pop_front();
        }
        let mut text = String::new();
        let _ = write!(text, "{:>12.4} {:>6.2} %  {}", secs(self.now), 100.0 * hard / self.case.limit, line());
        trace.push_back(text);
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let mut queue = std::mem::take(&mut self.queue);
        queue.push_back(event);
        while let Some(event) = queue.pop_front() {
            let is_look = matches!(event, Event::Tick | Event::Memory(MemoryEvent::Read(Some(_))));
            if !matches!(event, Event::Tick | Event::Memory(MemoryEvent::Read(Some(_)) | MemoryEvent::Accounted(_))) {
                self.say(|| short(format!("{event:?}")));
            }
            self.told(&event);
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            let now = self.timestamp();
            self.engine.step(now, event, &mut out);
            for (index, action) in out.iter().enumerate() {
                if !matches!(action, Action::Memory(MemoryAction::Read { .. } | MemoryAction::Account)) {
                    self.say(|| short(format!("    {action:?}")));
                    if let Action::Notice(Notice::Memory(MemoryNotice::Acted(_))) = action {
                        let held: Vec<String> = self
                            .trees
                            .iter()
                            .map(|(run, tree)| {
                                let percent = 100.0 * tree.holds(self.cpu) / self.case.limit;
                                short(format!("{run:?} {} {percent:.1} %", self.case.programs[tree.program].name))
                            })
                            .collect();
                        self.say(|| format!("    in truth: {}", held.join(", ")));
                    }
                }
                self.judge_action(action, &out, index)?;
                self.perform(action, &mut queue);
            }
            self.out = out;
            // Looks are many and change little.
            self.looks = self.looks.wrapping_add(u32::from(is_look));
            if !is_look || self.looks.is_multiple_of(64) {
                self.engine.check_invariants(now)?;
            }
        }
        self.queue = queue;
        // While it is watched the next look is the other thread's.
        let glance = self.watch.filter(|_| self.engine.is_watched()).map(|watch| Timestamp::from_nanos(self.began + watch.at));
        self.judge.stepped(self.now, self.timestamp(), glance.or_else(|| self.engine.next_deadline()))
    }

    /// Numbers the engine has been told about a run.
    fn told(&mut self, event: &Event) {
        let now = self.now;
        let Event::Memory(event) = event else { return };
        match event {
            MemoryEvent::Accounted(accounts) => {
                for usage in &accounts.runs {
                    if let Some(tree) = self.trees.get_mut(&usage.run)
                        && (usage.rss.is_some() || usage.cgroup.is_some())
                    {
                        tree.told.number_at = Some(now);
                    }
                }
            }
            MemoryEvent::Measured { run, pss: Measurement::Pss(_) } => {
                if let Some(tree) = self.trees.get_mut(run) {
                    tree.told.number_at = Some(now);
                }
            }
            MemoryEvent::Read(reading) | MemoryEvent::Grew { reading, .. } => self.judge.read(now, *reading),
            MemoryEvent::Limit(_) | MemoryEvent::Measured { .. } | MemoryEvent::OomKills { .. } => {}
        }
    }

    fn judge_action(&mut self, action: &Action, out: &[Action], index: usize) -> Result<(), String> {
        let hard = self.hard().0;
        match action {
            Action::Signal { run, .. } => self.judge.asked(self.now, *run, out, index),
            Action::KillTree { run } => {
                let needless = self.needless(*run);
                self.judge.killed(self.now, *run, out, index, hard, needless)
            }
            Action::Memory(MemoryAction::Signal { run, .. }) => self.judge.signalled(self.now, *run, out, index),
            Action::Notice(notice) => {
                let truth = |acted: &Acted| {
                    let tree = self.trees.get(&acted.run)?;
                    Some(Truth { holds: tree.holds(self.cpu), alive: tree.phase != Phase::Dying, ..tree.told })
                };
                self.judge.notice(self.now, notice, out, index, hard, truth)
            }
            Action::Memory(action) => self.judge.memory_action(self.now, action),
            Action::Send { run, signal, .. } => Err(format!("{signal} is sent to {run:?}, and no operator is there")),
            Action::Define { .. } | Action::Forget { .. } => Err(format!("an update, and no operator is there: {action:?}")),
            Action::Spawn { .. } | Action::Probe { .. } | Action::CancelProbes { .. } | Action::Exit { .. } => Ok(()),
        }
    }

    /// Whether this run would have ended by itself, asked (or already asked) to, before the container was nearly full. Needs a look
    /// into the future that the guard has not.
    fn needless(&self, run: RunId) -> Option<bool> {
        let tree = self.trees.get(&run)?;
        let program = self.program(run);
        let wait = match tree.phase {
            Phase::Dying => return None,
            Phase::Alive => program.obeys?,
            Phase::Asked(at) => secs(at?.saturating_sub(self.now)),
        };
        if wait > program.grace {
            return Some(false);
        }
        let (value, rate) = self.hard();
        let own = tree.rate(self.cpu);
        let grows = if program.grows_meanwhile { rate } else { rate - own };
        let cpu = secs(self.cpu_at(self.now + nanos(wait)) - self.cpu);
        Some(value + grows.max(0.0) * cpu < 0.97 * self.case.limit)
    }

    fn perform(&mut self, action: &Action, queue: &mut VecDeque<Event>) {
        if !matches!(action, Action::Memory(MemoryAction::Read { .. } | MemoryAction::Account) | Action::Notice(_)) {
            self.book = None;
        }
        match action {
            Action::Spawn { run } => self.spawn(*run),
            Action::Signal { run, .. } => {
                let program = self.program(*run);
                let at = self.cpu;
                let wait = program.obeys.map(|secs| nanos(secs * self.chance.between(0.7, 1.3)));
                let now = self.now;
                if let Some(tree) = self.trees.get_mut(run)
                    && tree.phase == Phase::Alive
                {
                    tree.phase = Phase::Asked(wait.map(|wait| now + wait));
                    if !program.grows_meanwhile {
                        for line in tree.lines_mut() {
                            line.stop(at);
                        }
                    }
                    if let Some(wait) = wait {
                        self.plan(wait, Happening::Obey(*run));
                    }
                }
            }
            Action::KillTree { run } => {
                let wait = nanos(self.chance.between(0.000_05, 0.000_4));
                self.plan(wait, Happening::Perish(*run));
            }
            Action::Memory(action) => self.perform_memory(action, queue),
            Action::Probe { .. }
            | Action::CancelProbes { .. }
            | Action::Send { .. }
            | Action::Define { .. }
            | Action::Forget { .. }
            | Action::Notice(_) => {}
            Action::Exit { .. } => self.lost = true,
        }
    }

    fn perform_memory(&mut self, action: &MemoryAction, queue: &mut VecDeque<Event>) {
        let sight = self.case.sight;
        match action {
            MemoryAction::Read { stat_above } => {
                let reading = (sight != Sight::Nothing).then(|| self.reading(*stat_above));
                queue.push_back(Event::Memory(MemoryEvent::Read(reading)));
            }
            MemoryAction::Account => {
                self.judge.report.accounts += 1;
                let processes: f64 = self.trees.values().map(Tree::processes).sum();
                let cost = 0.000_3 + 0.000_01 * processes;
                // The shell is busy meanwhile, and the programs are not.
                self.pass(self.now + nanos(cost));
                let accounts = self.accounts();
                queue.push_back(Event::Memory(MemoryEvent::Accounted(Box::new(accounts))));
            }
            MemoryAction::Measure { runs } => {
                let mut wait = 0;
                for run in runs {
                    let Some(tree) = self.trees.get(run) else { continue };
                    if tree.phase == Phase::Dying {
                        continue;
                    }
                    self.judge.report.measures += 1;
                    let rss = tree.rss(self.cpu);
                    let cost = 0.000_05 + 3.4e-12 * (rss.anon + rss.shmem) as f64;
                    let pss = if matches!(sight, Sight::Full | Sight::Cgroups) {
                        self.judge.report.measured_secs += cost;
                        wait += nanos(cost * self.chance.between(0.8, 2.0));
                        let unseen = tree.processes() * UNEXPLAINED;
                        let bytes = (tree.holds(self.cpu) - unseen).max(0.0) as u64;
                        Measurement::Pss(Pss { bytes, method: MemoryMethod::Pss })
                    } else {
                        Measurement::Refused
                    };
                    self.plan(wait, Happening::Tell(Event::Memory(MemoryEvent::Measured { run: *run, pss })));
                }
            }
            MemoryAction::Steer { run, prefer } => {
                if let Some(tree) = self.trees.get_mut(run) {
                    tree.preferred = *prefer;
                }
            }
            MemoryAction::Brake { run } => {
                let at = self.cpu;
                if sight == Sight::Cgroups
                    && let Some(tree) = self.trees.get_mut(run)
                {
                    for line in tree.lines_mut() {
                        line.brake(at, 2e6);
                    }
                }
            }
            MemoryAction::Signal { run, .. } => {
                if self.program(*run).relieved {
                    self.plan(nanos(0.2), Happening::Relieve(*run));
                }
            }
        }
    }

    /// Memory is charged 64 pages at a time for each processor that is used, and handed out from there: usage is too high by half of
    /// that on average, by another share of it at each look.
    fn noise(&mut self) -> f64 {
        let batch = 64.0 * PAGE;
        let processors = f64::from(self.case.cpus);
        let spread = (self.chance.unit() + self.chance.unit() + self.chance.unit() - 1.5) * processors.sqrt();
        batch * (processors / 2.0 + spread).clamp(0.0, processors)
    }

    fn reading(&mut self, stat_above: u64) -> Reading {
        self.judge.report.reads += 1;
        let at = self.cpu;
        let hard = self.hard().0;
        let cache = self.cache.at(at).min((self.case.limit - hard).max(0.0));
        let lazy: f64 = self.trees.values().map(|tree| tree.lazy.at(at)).sum();
        let usage = (hard + cache + lazy + self.noise()).min(self.case.limit) as u64;
        if self.case.machine {
            return Reading { hard: (hard + self.noise()) as u64, parts: None };
        }
        if usage < stat_above {
            return Reading { hard: usage, parts: None };
        }
        self.judge.report.stats += 1;
        let shmem = self.tmpfs.iter().chain([&self.dead_tmpfs]).map(|line| line.at(at)).sum::<f64>()
            + self.trees.values().map(|tree| tree.mapped.at(at)).sum::<f64>();
        let kernel: f64 = self
            .trees
            .values()
            .map(|tree| tree.kernel(at) + tree.fixed() - if tree.phase == Phase::Dying { 0.0 } else { tree.shared })
            .sum::<f64>()
            + OWN_KERNEL;
        let anon = (hard - shmem - kernel).max(0.0) + lazy;
        let hard = (hard + self.noise()).min(self.case.limit) as u64;
        let parts = Parts { anon: anon as u64, shmem: shmem as u64, unreclaimable: (anon - lazy + shmem) as u64, swap: 0 };
        Reading { hard, parts: Some(parts) }
    }

    fn accounts(&mut self) -> Accounts {
        let at = self.cpu;
        let sight = self.case.sight;
        let blind = matches!(sight, Sight::NoProcesses | Sight::Nothing);
        let mut runs = Vec::with_capacity(self.trees.len());
        for (run, tree) in &self.trees {
            let rss = tree.rss(at);
            let program = &self.case.programs[tree.program];
            runs.push(Usage {
                run: *run,
                rss: (!blind).then_some(rss),
                cgroup: (sight == Sight::Cgroups).then(|| tree.holds(at) as u64),
                snapshot: !blind && (tree.child.is_some() || program.looks_forked),
                top: if blind { Vec::new() } else { vec![Process { pid: tree.pid, name: program.name.to_owned(), bytes: rss.largest }] },
            });
        }
        let shm: f64 = self.tmpfs.iter().chain([&self.dead_tmpfs]).map(|line| line.at(at)).sum();
        let strangers = self.strangers.at(at) + OWN_ANON;
        Accounts {
            runs,
            others: (!blind).then_some(Rss {
                anon: strangers as u64,
                largest: strangers as u64,
                kernel: VISIBLE as u64,
                processes: 2,
                ..Rss::default()
            }),
            tmpfs: if shm > 0.0 { vec![("/dev/shm".to_owned(), shm as u64)] } else { Vec::new() },
        }
    }

    fn spawn(&mut self, run: RunId) {
        self.pids += 10;
        let pid = self.pids;
        let program = self.program(run);
        let at = self.cpu + nanos(0.002);
        let start = |value: f64, course: &Course| Line::new(at, value, course.clone());
        let tree = Tree {
            program: run.instance.service.0,
            pid,
            phase: Phase::Alive,
            heap: start(program.first.min(2.0 * MIB), &Course::to(program.first, (program.first / 8e8).max(0.02), program.heap.clone())),
            worker: start(0.0, &program.worker),
            bad_worker: program.bad_worker.as_ref().map(|course| start(0.0, course)),
            lazy: start(0.0, &program.lazy),
            mapped: start(0.0, &program.mapped),
            copied: start(0.0, &Course::Still),
            child: None,
            shared: program.shared,
            workers: program.workers,
            preferred: false,
            told: Truth::default(),
        };
        self.trees.insert(run, tree);
        if let Some(snapshots) = program.snapshots {
            let first = snapshots.every * self.chance.between(0.3, 1.0);
            self.plan(nanos(first), Happening::Fork(run));
        }
        self.plan(0, Happening::Tell(Event::Spawned { run, pid }));
        self.plan(2 * SECOND / 1000, Happening::Tell(Event::Executed { run }));
    }
}
