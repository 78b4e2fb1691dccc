//! Random updates of random stacks on virtual time, while services crash, are stopped and started by hand, and do not heed their signals. The
//! oracle knows the files and what the kernel has seen, and nothing of how the engine decides.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use firstmate::engine::spec::{Command as Program, Condition, Dependency, Memory, Readiness, Restart, Service, ServiceId, Stop};
use firstmate::engine::status::StateName;
use firstmate::engine::{
    Action, Cause, Command, Engine, Event, InstanceId, Notice, Outcome, RunId, ShutdownCause, Signal, Spec, Timestamp, Verb,
};

use crate::rng::Chance;
use crate::stacks;

#[derive(Debug, Default)]
struct Summary {
    updates: u64,
    refused: u64,
    added: u64,
    removed: u64,
    restarted: u64,
    amended: u64,
    kept_runs: u64,
    crashes: u64,
    wishes: u64,
    killed: u64,
    ended_in_the_middle: u64,
}

/// A file, by the names of its services.
type File = Vec<Entry>;

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    /// What a process is started from.
    version: u64,
    /// What no process can notice.
    policy: u64,
    instances: u16,
    on: Vec<String>,
}

fn spec(file: &File) -> Spec {
    let place = |name: &String| ServiceId(file.iter().position(|entry| entry.name == *name).unwrap());
    let service = |entry: &Entry| {
        let mut service = Service {
            depends_on: entry.on.iter().map(|name| Dependency { service: place(name), condition: Condition::Ready }).collect(),
            instances: entry.instances,
            restart: Restart::Always,
            give_up_after: None,
            stop: Stop { timeout: Duration::from_millis(500 + entry.policy), ..stacks::plain(String::new()).stop },
            ready: Readiness::Delay(Duration::from_millis(50)),
            ..stacks::plain(entry.name.clone())
        };
        service.launch.command = Program::Argv(vec![entry.version.to_string()]);
        service
    };
    let services = file.iter().map(service).collect();
    Spec { services, stop_timeout: Duration::from_secs(20), drain: Duration::ZERO, memory: Memory::default() }
}

fn version_of(service: &Service) -> u64 {
    match &service.launch.command {
        Program::Argv(words) => words[0].parse().unwrap(),
        Program::Shell(text) => panic!("{text}"),
    }
}

fn entry(chance: &mut Chance, name: String, earlier: &[Entry]) -> Entry {
    let on = earlier.iter().filter(|_| chance.percent(35)).map(|other| other.name.clone()).collect();
    Entry { name, version: 0, policy: 0, instances: 1 + chance.below(2) as u16, on }
}

fn first_file(chance: &mut Chance) -> File {
    let mut file = File::new();
    for number in 0..2 + chance.below(6) {
        let one = entry(chance, format!("n{number}"), &file);
        file.push(one);
    }
    file
}

/// The same with some added, removed and changed; in an order of its own, by which dependencies may turn around.
fn next_file(chance: &mut Chance, old: &File) -> File {
    let mut left = old.clone();
    if chance.percent(30) {
        left.reverse();
    }
    let mut file = File::new();
    for mut one in left {
        if chance.percent(12) {
            continue;
        }
        one.version += u64::from(chance.percent(25));
        one.policy += u64::from(chance.percent(15));
        if chance.percent(15) {
            one.instances = 1 + chance.below(3) as u16;
        }
        if chance.percent(20) {
            one.on = file.iter().filter(|_| chance.percent(35)).map(|other| other.name.clone()).collect();
        }
        // Only who is there, and comes before: a file has no circles.
        one.on.retain(|name| file.iter().any(|other| other.name == *name));
        file.push(one);
    }
    for number in 0..10 {
        let name = format!("n{number}");
        if chance.percent(10) && !file.iter().any(|one| one.name == name) {
            let one = entry(chance, name, &file);
            file.push(one);
        }
    }
    if file.is_empty() {
        file.push(old[0].clone());
        file[0].on.clear();
    }
    file
}

#[derive(Debug, PartialEq)]
enum What {
    Tell(Event),
    /// By itself, or obeying.
    Die(RunId, Outcome),
    Update,
    Wish,
}

#[derive(Debug, PartialEq)]
struct Planned {
    at: Timestamp,
    order: u64,
    what: What,
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
    engine: Engine,
    now: Timestamp,
    planned: BinaryHeap<Planned>,
    order: u64,
    file: File,
    /// By the number of the service, as the shell keeps it.
    table: Vec<Option<Service>>,
    /// Each live run, what it was started from, and whether it was asked to end.
    alive: BTreeMap<RunId, (u64, bool)>,
    last_run: BTreeMap<InstanceId, u32>,
    /// Names that this update may move, with what they depended on when it began.
    moves: BTreeMap<String, Vec<String>>,
    by_hand: BTreeSet<String>,
    well_behaved: bool,
    stopping: bool,
    exited: Option<i32>,
    summary: Summary,
    pids: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x0bad_f11e);
        let file = first_file(&mut chance);
        let now = Timestamp::from_nanos(chance.below(1 << 40));
        let first = spec(&file);
        let table = first.services.iter().cloned().map(Some).collect();
        Self {
            engine: Engine::new(first, seed, now),
            chance,
            now,
            planned: BinaryHeap::new(),
            order: 0,
            file,
            table,
            alive: BTreeMap::new(),
            last_run: BTreeMap::new(),
            moves: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            well_behaved: false,
            stopping: false,
            exited: None,
            summary: Summary::default(),
            pids: 1,
        }
    }

    fn plan(&mut self, wait: Duration, what: What) {
        self.order += 1;
        self.planned.push(Planned { at: self.now.after(wait), order: self.order, what });
    }

    fn name(&self, id: InstanceId) -> String {
        self.table[id.service.0].as_ref().map_or_else(String::new, |service| service.name.clone())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let mut out = Vec::new();
        self.engine.step(self.now, event, &mut out);
        for action in &out {
            self.perform(action).map_err(|why| format!("{why}\n{action:?}"))?;
        }
        self.engine.check_invariants(self.now)
    }

    fn perform(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Define { service } => {
                let new = self.engine.service(*service).cloned().ok_or("of nobody")?;
                if service.0 > self.table.len() {
                    return Err("a gap in the table".to_owned());
                }
                if service.0 == self.table.len() {
                    self.table.push(None);
                }
                self.table[service.0] = Some((*new).clone());
            }
            Action::Forget { service } => {
                if self.alive.keys().any(|run| run.instance.service == *service) {
                    return Err("something of it is alive".to_owned());
                }
                self.table[service.0] = None;
            }
            Action::Spawn { run } => self.spawn(*run)?,
            Action::Signal { run, .. } => {
                self.may_end(*run)?;
                let slow = !self.well_behaved && self.chance.percent(15);
                let wait = if slow { Duration::from_secs(30) } else { self.chance.wait(Duration::from_millis(400)) };
                self.plan(wait, What::Die(*run, Outcome::Exited(0)));
            }
            Action::KillTree { run } => {
                self.may_end(*run)?;
                self.summary.killed += 1;
                self.plan(Duration::from_millis(5), What::Die(*run, Outcome::Signaled(Signal::KILL)));
            }
            Action::Notice(notice) => self.hear(notice)?,
            Action::Exit { code } => self.exited = Some(*code),
            Action::Memory(_) => {}
            Action::Probe { .. } | Action::CancelProbes { .. } | Action::Send { .. } => return Err("nobody asked for it".to_owned()),
        }
        Ok(())
    }

    fn hear(&mut self, notice: &Notice) -> Result<(), String> {
        match notice {
            Notice::Stopping { cause: Cause::Update, run, .. } if self.stopping => {
                return Err(format!("{run:?}: not for an update any more"));
            }
            Notice::Updating { added, removed, restarted, amended } => {
                self.summary.added += *added as u64;
                self.summary.removed += *removed as u64;
                self.summary.restarted += *restarted as u64;
                self.summary.amended += *amended as u64;
            }
            Notice::Updated => {
                if let Some((run, _)) = self.alive.iter().find(|(run, (version, _))| self.is_old(**run, *version)) {
                    return Err(format!("{run:?} is of an old file"));
                }
                self.moves.clear();
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a live run is not what the newest file says.
    fn is_old(&self, run: RunId, version: u64) -> bool {
        let name = self.name(run.instance);
        self.file.iter().find(|entry| entry.name == name).is_none_or(|entry| entry.version != version)
    }

    fn spawn(&mut self, run: RunId) -> Result<(), String> {
        let service = self.table[run.instance.service.0].clone().ok_or("of a service that has gone")?;
        if self.stopping {
            return Err("while everything stops".to_owned());
        }
        if self.alive.keys().any(|other| other.instance == run.instance) {
            return Err("two runs of one instance".to_owned());
        }
        let last = self.last_run.insert(run.instance, run.run).unwrap_or_default();
        if run.run <= last {
            return Err(format!("run {last} was the last one"));
        }
        let entry = self.file.iter().find(|entry| entry.name == service.name).ok_or("it is not in the file")?.clone();
        if entry.version != version_of(&service) {
            return Err(format!("by version {} and not {}", version_of(&service), entry.version));
        }
        for name in &entry.on {
            let needed = self.file.iter().find(|entry| entry.name == *name).unwrap();
            let of = |run: &RunId| self.name(run.instance) == *name;
            let up = self.alive.iter().filter(|(run, (version, asked))| of(run) && *version == needed.version && !asked).count();
            if up < usize::from(needed.instances) {
                return Err(format!("{up} of {} {name} are there, which it needs", needed.instances));
            }
        }
        self.alive.insert(run, (entry.version, false));
        self.pids += 1;
        let pid = self.pids;
        self.plan(Duration::ZERO, What::Tell(Event::Spawned { run, pid }));
        let exec = self.chance.wait(Duration::from_millis(40));
        self.plan(exec, What::Tell(Event::Executed { run }));
        if !self.well_behaved && self.chance.percent(15) {
            let wait = exec + Duration::from_millis(1) + self.chance.wait(Duration::from_secs(4));
            self.plan(wait, What::Die(run, Outcome::Exited(1)));
        }
        Ok(())
    }

    /// Only who has changed is asked to end, and nobody whom one that is to end still needs.
    fn may_end(&mut self, run: RunId) -> Result<(), String> {
        let name = self.name(run.instance);
        let first = self.alive.get_mut(&run).is_some_and(|(_, asked)| !std::mem::replace(asked, true));
        if self.stopping || !first || self.by_hand.contains(&name) {
            return Ok(());
        }
        let Some(_) = self.moves.get(&name) else { return Err(format!("{name} has not changed")) };
        let fewer = self.file.iter().any(|entry| entry.name == name && entry.instances < run.instance.number);
        let old = self.alive.get(&run).is_some_and(|(version, _)| self.is_old(run, *version));
        if !old && !fewer {
            return Err(format!("{name} is as the file says"));
        }
        for (other, (version, _)) in &self.alive {
            let theirs = self.name(other.instance);
            let needs = self.moves.get(&theirs).is_some_and(|on| on.contains(&name));
            if needs && old && self.is_old(*other, *version) {
                return Err(format!("{theirs} is to end first"));
            }
        }
        Ok(())
    }

    fn update(&mut self) -> Result<(), String> {
        let new = next_file(&mut self.chance, &self.file);
        let spec = spec(&new);
        if self.stopping {
            return Ok(());
        }
        if self.engine.plan(&spec).is_err() {
            if !self.engine.is_updating() {
                return Err("refused for nothing".to_owned());
            }
            self.summary.refused += 1;
            return self.step(Event::Update(Box::new(spec)));
        }
        self.summary.updates += 1;
        let same = |entry: &&Entry| new.contains(entry);
        self.moves = self.file.iter().filter(|entry| !same(entry)).map(|entry| (entry.name.clone(), entry.on.clone())).collect();
        let kept: Vec<RunId> = {
            let is_kept = |run: &RunId| self.file.iter().any(|entry| entry.name == self.name(run.instance) && same(&entry));
            self.alive.keys().copied().filter(is_kept).collect()
        };
        self.file = new;
        self.step(Event::Update(Box::new(spec)))?;
        for run in &kept {
            if !self.alive.contains_key(run) {
                return Err(format!("{run:?} was none of the update's business"));
            }
        }
        self.summary.kept_runs += kept.len() as u64;
        Ok(())
    }

    fn wish(&mut self) -> Result<(), String> {
        let names: Vec<InstanceId> = self.engine.instance_ids().collect();
        let id = self.chance.pick(&names);
        let verb = self.chance.pick(&[Verb::Stop, Verb::Start, Verb::Start, Verb::Restart]);
        self.summary.wishes += 1;
        let name = self.name(id);
        self.by_hand.insert(name);
        self.step(Event::Command(Command { verb, instances: vec![id] }))
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Tell(Event::Spawned { run, .. } | Event::Executed { run }) if !self.alive.contains_key(&run) => Ok(()),
            What::Tell(event) => self.step(event),
            What::Die(run, outcome) => {
                if self.alive.remove(&run).is_none() {
                    return Ok(());
                }
                self.summary.crashes += u64::from(outcome == Outcome::Exited(1));
                self.step(Event::Exited { run, outcome, left_behind: 0 })
            }
            What::Update => self.update(),
            What::Wish => self.wish(),
        }
    }

    fn play(&mut self, for_so_long: Duration) -> Result<(), String> {
        let end = self.now.after(for_so_long);
        while self.exited.is_none() {
            let due = self.engine.next_deadline();
            let next = self.planned.peek().map(|planned| planned.at);
            let at = match (due, next) {
                (Some(due), Some(next)) => due.min(next),
                (due, next) => match due.or(next) {
                    Some(at) => at,
                    None => break,
                },
            };
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            match next.filter(|next| *next <= at).and_then(|_| self.planned.pop()) {
                Some(planned) => self.happen(planned.what)?,
                None => self.step(Event::Tick)?,
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn history(&mut self) -> Result<(), String> {
        self.step(Event::Tick)?;
        for _ in 0..1 + self.chance.below(4) {
            let wait = self.chance.wait(Duration::from_secs(6));
            self.plan(wait, What::Update);
        }
        for _ in 0..self.chance.below(3) {
            let wait = self.chance.wait(Duration::from_secs(6));
            self.plan(wait, What::Wish);
        }
        let to_the_end = self.chance.percent(60);
        let so_long = if to_the_end { Duration::from_secs(8) } else { self.chance.wait(Duration::from_secs(6)) };
        self.play(so_long)?;
        if to_the_end {
            self.well_behaved = true;
            self.play(Duration::from_secs(300))?;
            self.check_settled()?;
        }
        self.summary.ended_in_the_middle += u64::from(self.engine.is_updating());
        self.stopping = true;
        self.step(Event::Shutdown(ShutdownCause::Command))?;
        self.play(Duration::from_secs(60))?;
        match self.exited {
            Some(0) if self.alive.is_empty() => Ok(()),
            exited => Err(format!("left with {exited:?} and {:?} alive", self.alive)),
        }
    }

    /// Everything is as the newest file says, but for what was stopped by hand and what needs that.
    fn check_settled(&self) -> Result<(), String> {
        if self.engine.is_updating() {
            return Err("the update is never done".to_owned());
        }
        let status = self.engine.status(self.now, "", 1);
        let names: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
        let wanted: Vec<&str> = self.file.iter().map(|entry| entry.name.as_str()).collect();
        if names != wanted {
            return Err(format!("{names:?} are there, and not {wanted:?}"));
        }
        for (service, entry) in status.services.iter().zip(&self.file) {
            if service.instances.len() != usize::from(entry.instances) {
                return Err(format!("{} has {} instances, and not {}", service.name, service.instances.len(), entry.instances));
            }
            let by_hand = |one: &str| self.by_hand.contains(one);
            let excused = self.by_hand.iter().any(|name| self.needs(&entry.name, name)) || by_hand(&entry.name);
            let up = service.instances.iter().all(|one| one.state == StateName::Running && one.ready);
            if !up && !excused {
                return Err(format!("{} is not up: {:?}", service.name, service.reason));
            }
        }
        match self.alive.iter().find(|(run, (version, _))| self.is_old(**run, *version)) {
            None => Ok(()),
            Some((run, _)) => Err(format!("{run:?} is of an old file")),
        }
    }

    /// Whether one service needs another, by whatever it needs.
    fn needs(&self, name: &str, other: &str) -> bool {
        let entry = self.file.iter().find(|entry| entry.name == name);
        entry.is_some_and(|entry| entry.on.iter().any(|on| on == other || self.needs(on, other)))
    }
}

#[test]
fn random_updates_move_only_what_has_changed() {
    let histories: u64 = match std::env::var("FIRSTMATE_SIM_HISTORIES") {
        Ok(number) => number.parse().expect("FIRSTMATE_SIM_HISTORIES is a number"),
        Err(_) if crate::is_unoptimised() => 1_500,
        // The first one that was wrong once instances were still to come was number 1,833.
        Err(_) => 50_000,
    };
    let mut total = Summary::default();
    for seed in 0..histories {
        let mut world = World::new(seed);
        if let Err(why) = world.history() {
            let table: Vec<String> = world.file.iter().map(|entry| format!("{entry:?}")).collect();
            panic!("seed {seed}: {why}\nat {:?}\n{}\n{:#?}", world.now, table.join("\n"), world.engine.status(world.now, "", 1).services);
        }
        let one = &world.summary;
        total.updates += one.updates;
        total.refused += one.refused;
        total.added += one.added;
        total.removed += one.removed;
        total.restarted += one.restarted;
        total.amended += one.amended;
        total.kept_runs += one.kept_runs;
        total.crashes += one.crashes;
        total.wishes += one.wishes;
        total.killed += one.killed;
        total.ended_in_the_middle += one.ended_in_the_middle;
    }
    println!("{histories} histories: {total:?}");
    // A simulation in which nothing happens proves nothing.
    for count in [
        total.updates,
        total.refused,
        total.added,
        total.removed,
        total.restarted,
        total.amended,
        total.kept_runs,
        total.crashes,
        total.wishes,
        total.killed,
        total.ended_in_the_middle,
    ] {
        assert!(count > histories / 100, "{total:?}");
    }
}
