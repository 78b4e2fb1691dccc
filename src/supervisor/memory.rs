//! The shell of the memory guard: reads what the engine asks for, and says what the kernel has counted.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::output::Output;
use super::{Message, Owner, Supervisor};
use crate::engine::event::earlier;
use crate::engine::size::size;
use crate::engine::status::LimitSource;
use crate::engine::{Event, MemoryAction, MemoryEvent, Outcome, RunId, Signal, Timestamp, spec};
use crate::linux::memory::account::Accountant;
use crate::linux::memory::delegated::{Cgroups, Refusal};
use crate::linux::memory::ecs::{self, EcsLimit, Metadata};
use crate::linux::memory::limit::{Files, UsageOf, Watch};
use crate::linux::memory::pss::{Job, Meter};
use crate::linux::memory::sentinel::{Grown, Sentinel};
use crate::linux::memory::steer::Steering;
use crate::linux::memory::tmpfs;
use crate::linux::memory::toll::{self, Toll, Unexplained};
use crate::linux::probe::Hosts;
use crate::linux::reap::Dead;
use crate::observe::Level;

/// The limit and the OOM killer's count are looked at this often: a container is resized, a worker is killed.
const CHECK: Duration = Duration::from_secs(5);
/// Sooner, while a kill waits for the death that explains it.
const CHECK_SOON: Duration = Duration::from_secs(1);
/// The ECS metadata endpoint may not be there yet when the container starts.
const ECS_AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// A process that holds this part of the limit is large enough for its forked child to be worth a thought.
const LARGE_PART: u64 = 10;

/// The thread that looks while nothing is near.
enum Post {
    /// Not started yet.
    Empty,
    /// With how often its counters had been opened here when it got its own.
    Manned(Sentinel, u32),
    /// It could not be started: the loop looks itself.
    Given,
}

/// What the guard reads with.
pub(super) struct Memory {
    watch: Watch,
    toll: Toll,
    check_at: Timestamp,
    files: Files,
    accountant: Accountant,
    meter: Meter,
    steering: Steering,
    sentinel: Post,
    messages: UnboundedSender<Message>,
    /// Where each run has a cgroup of its own.
    cgroups: Option<Cgroups>,
}

impl Memory {
    /// Finds the limit, and takes the cgroup over where that is asked for.
    pub(super) fn new(spec: &spec::Memory, messages: &UnboundedSender<Message>, output: &mut Output) -> Self {
        let files = Files::default();
        let mut watch = Watch::new(files.clone(), spec.limit);
        // Before firstmate moves: what is the container's is told by its cgroup.
        let accountant = Accountant::new();
        let cgroups = if spec.cgroups { take_over(&files, &mut watch, output) } else { None };
        let toll = Toll::new(watch.counters().oom_kills());
        let loop_of = messages.clone();
        let meter = Meter::new(move |measured| {
            // Nobody listens any more once the loop has ended.
            let _ = loop_of.send(Message::Memory(measured));
        });
        let messages = messages.clone();
        Self {
            watch,
            toll,
            check_at: Timestamp::ZERO,
            files,
            accountant,
            meter,
            steering: Steering::default(),
            sentinel: Post::Empty,
            messages,
            cgroups,
        }
    }

    /// The cgroup of a run about to be started, to be entered by it.
    pub(super) fn create_cgroup(&mut self, run: RunId, name: &str) -> Option<Result<OwnedFd, Refusal>> {
        self.cgroups.as_mut().map(|cgroups| cgroups.create(run, name))
    }

    /// The sentinel, if there is one, with the counters that are read here.
    fn sentinel(&mut self, output: &mut Output) -> Option<&mut Sentinel> {
        if matches!(self.sentinel, Post::Empty) {
            let messages = self.messages.clone();
            let report = move |grown| {
                // Nobody listens any more once the loop has ended.
                let _ = messages.send(Message::Grown(grown));
            };
            self.sentinel = match Sentinel::new(self.watch.more_counters(), report) {
                Ok(sentinel) => Post::Manned(sentinel, self.watch.opened()),
                Err(error) => {
                    let text = format!(
                        "cannot start a thread to watch memory, so the loop does it at a higher price: {error}; raise the container's limit of processes (pids.max)"
                    );
                    output.say(Level::Warn, &text);
                    Post::Given
                }
            };
        }
        let Post::Manned(sentinel, opened) = &mut self.sentinel else { return None };
        if *opened != self.watch.opened() {
            if !sentinel.read_from(self.watch.more_counters()) {
                return None;
            }
            *opened = self.watch.opened();
        }
        Some(sentinel)
    }

    /// The run's program is running. Returns whether it is where it should be: in its cgroup, if it has one.
    pub(super) fn joined(&mut self, run: RunId, pid: u32) -> bool {
        self.cgroups.as_mut().and_then(|cgroups| cgroups.joined(run, pid)).unwrap_or(true)
    }

    /// SIGKILL to all of it, where that can be done at one blow.
    pub(super) fn kill_cgroup(&self, run: RunId) {
        if let Some(cgroups) = &self.cgroups {
            // Before Linux 5.14 there is only the way that follows anyway.
            let _ = cgroups.kill(run);
        }
    }

    /// Nothing is left of the run.
    pub(super) fn run_over(&mut self, run: RunId) {
        self.steering.forget(run);
        self.toll.run_over(run);
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.remove(run);
        }
    }
}

impl Supervisor {
    /// The limit in force, told to the engine; and what ECS knows of it, asked where nothing else does.
    pub(super) fn begin_memory(&mut self) {
        self.events.push_back(Event::Memory(MemoryEvent::Limit(self.memory.watch.limit().cloned())));
        let limit = self.memory.watch.limit();
        if let (Some(limit), Some((visible, place))) = (limit, self.memory.watch.visible())
            && limit.source == LimitSource::Configured
            && limit.bytes > visible
        {
            let text = format!(
                "`limit` in [memory] is {}, but the kernel allows {} ({place}) and kills there; take it out, or name less",
                size(limit.bytes),
                size(visible)
            );
            self.output.say(Level::Warn, &text);
        }
        if limit.is_some_and(|limit| limit.source == LimitSource::Configured) && self.memory.watch.usage_of() == UsageOf::Machine {
            self.output.say(
                Level::Warn,
                "there is no cgroup to read, so `limit` in [memory] is compared with what the whole machine uses, other programs included",
            );
        }
        if self.memory.watch.oom_group() == Some(true) {
            self.output.say(
                Level::Info,
                "memory.oom.group is 1: should the limit be reached, the kernel kills the whole container; the guard acts before",
            );
        }
    }

    /// Where no cgroup shows a limit, ECS may know of one.
    pub(super) fn ask_ecs(&mut self, messages: &UnboundedSender<Message>) {
        let Some(uri) = std::env::var_os(ecs::VARIABLE).filter(|_| self.memory.watch.wants_ecs()) else { return };
        // The address is a literal one on every platform.
        let metadata = match Metadata::parse(&uri.to_string_lossy(), &Hosts::default()) {
            Ok(metadata) => metadata,
            Err(why) => return self.output.say(Level::Warn, &no_ecs(&why)),
        };
        let messages = messages.clone();
        tokio::task::spawn_local(async move {
            let mut answer = metadata.ask(ecs::PATIENCE).await;
            for wait in ECS_AGAIN {
                if answer.is_ok() {
                    break;
                }
                tokio::time::sleep(wait).await;
                answer = metadata.ask(ecs::PATIENCE).await;
            }
            // Nobody listens any more once the loop has ended.
            let _ = messages.send(Message::Ecs(answer));
        });
    }

    pub(super) fn ecs_answered(&mut self, answer: Result<Option<EcsLimit>, String>) {
        match answer {
            Ok(limit) => {
                if self.memory.watch.tell_ecs(limit) {
                    self.tell_limit();
                }
            }
            Err(why) => self.output.say(Level::Warn, &no_ecs(&why)),
        }
    }

    fn tell_limit(&mut self) {
        self.events.push_back(Event::Memory(MemoryEvent::Limit(self.memory.watch.limit().cloned())));
    }

    /// Leaves the looks to the sentinel while the engine says that all is calm, and takes them back when it does not.
    pub(super) fn mind_the_sentinel(&mut self) {
        let now = self.now();
        let mut engine = self.engine.borrow_mut();
        if matches!(&self.memory.sentinel, Post::Manned(_, opened) if *opened != self.memory.watch.opened()) {
            // What it reads is not what counts any more.
            self.memory.sentinel(&mut self.output);
        }
        if engine.is_watched() {
            return;
        }
        if let Some(calm) = engine.calm(now) {
            if self.memory.sentinel(&mut self.output).is_some_and(|sentinel| sentinel.watch(calm)) {
                engine.watched(now);
            }
        } else if let Post::Manned(sentinel, _) = &mut self.memory.sentinel {
            sentinel.rest();
        }
    }

    /// The sentinel has seen something.
    pub(super) fn grown(&mut self, grown: Grown) {
        if let Post::Manned(sentinel, _) = &mut self.memory.sentinel {
            sentinel.has_reported();
        }
        let calm_until = grown.calm_until.saturating_duration_since(self.origin).as_nanos();
        let calm_until = Timestamp::from_nanos(u64::try_from(calm_until).unwrap_or(u64::MAX));
        self.events.push_back(Event::Memory(MemoryEvent::Grew { calm_until, reading: grown.reading }));
    }

    /// Every few seconds: whether the limit has changed, and whether the OOM killer has killed somebody nobody told about.
    pub(super) fn check_memory(&mut self, now: Timestamp) {
        if self.memory.check_at > now {
            return;
        }
        if self.memory.watch.check() {
            self.tell_limit();
        }
        let count = self.memory.watch.counters().oom_kills();
        if let Some(unexplained) = self.memory.toll.unexplained(count, Instant::now()) {
            self.tell_unexplained(unexplained);
        }
        if let Some(cgroups) = &mut self.memory.cgroups {
            cgroups.forget_oom_kills(Instant::now());
        }
        self.memory.check_at = now.after(if self.memory.toll.is_pending() { CHECK_SOON } else { CHECK });
    }

    fn tell_unexplained(&mut self, Unexplained { kills, among }: Unexplained) {
        self.events.push_back(Event::Memory(MemoryEvent::OomKills { kills, among }));
    }

    /// firstmate sends SIGKILL to this run.
    pub(super) fn sends_kill(&mut self, run: RunId) {
        self.memory.toll.sent_kill(run, Instant::now());
    }

    /// How a run's main process ended, the kernel's OOM killer named where it was that.
    pub(super) fn outcome_of(&mut self, dead: &Dead<'_>) -> Outcome {
        let outcome = dead.outcome().clone();
        let Some(Owner::Run(run)) = self.owners.get(&dead.pid()).copied() else { return outcome };
        let Memory { watch, toll, cgroups, .. } = &mut self.memory;
        if outcome != Outcome::Signaled(Signal::KILL) {
            toll.forget(dead.pid());
            return outcome;
        }
        if let Some(kills) = cgroups.as_mut().and_then(|cgroups| cgroups.new_oom_kills(run)) {
            let oom = toll.judge_by_own_count(dead.pid(), run, kills);
            return if oom { Outcome::OomKilled } else { outcome };
        }
        let owners = &self.owners;
        let others = || {
            owners
                .iter()
                .filter_map(|(pid, owner)| match owner {
                    Owner::Run(run) => Some((*pid, *run)),
                    Owner::Probe => None,
                })
                .collect()
        };
        let (oom, unexplained) = toll.judge(
            Instant::now(),
            dead.pid(),
            run,
            || watch.counters().oom_kills(),
            others,
            |pid| dead.also(pid).or_else(|| toll::is_being_killed(pid).then_some(Outcome::Signaled(Signal::KILL))),
        );
        if let Some(unexplained) = unexplained {
            self.tell_unexplained(unexplained);
        }
        if oom { Outcome::OomKilled } else { outcome }
    }

    /// What the engine's guard asks for; an answer that is known at once is an event at once.
    pub(super) fn perform_memory(&mut self, action: MemoryAction) {
        match action {
            MemoryAction::Read { stat_above } => {
                let reading = self.memory.watch.counters().read(stat_above).ok();
                self.events.push_front(Event::Memory(MemoryEvent::Read(reading)));
            }
            MemoryAction::Account => {
                let limit = self.memory.watch.limit().map_or(u64::MAX, |limit| limit.bytes);
                let mut accounts = self.memory.accountant.account(&mut self.trees, limit / LARGE_PART);
                accounts.tmpfs = tmpfs::used(&self.memory.files);
                if let Some(cgroups) = &self.memory.cgroups {
                    for usage in &mut accounts.runs {
                        usage.cgroup = cgroups.usage(usage.run, usage.rss.as_ref().map_or(0, |rss| rss.shmem));
                    }
                }
                self.events.push_front(Event::Memory(MemoryEvent::Accounted(Box::new(accounts))));
            }
            MemoryAction::Measure { runs } => {
                let job = |run: RunId| Job {
                    run,
                    processes: self.memory.accountant.processes(run).iter().map(|seen| (seen.pid, seen.started)).collect(),
                };
                let jobs = runs.into_iter().map(job).collect();
                self.memory.meter.measure(jobs, false);
            }
            MemoryAction::Steer { run, prefer } => {
                let refused = self.memory.steering.steer(&mut self.trees, run, prefer);
                if let Some((pid, errno)) = refused.first() {
                    let text = format!(
                        "cannot make the kernel prefer {} should memory run out: oom_score_adj of pid {pid}: {}; run firstmate as root, or the service as firstmate's own user",
                        self.output.instance_name(run.instance),
                        std::io::Error::from_raw_os_error(*errno)
                    );
                    self.output.say(Level::Warn, &text);
                }
            }
            MemoryAction::Brake { run } => {
                if self.memory.cgroups.as_ref().is_some_and(|cgroups| cgroups.brake(run).is_none()) {
                    let text = format!(
                        "cannot slow {} down while it ends: memory.high of its cgroup cannot be written; see that the container's cgroup stays writable, or set cgroups = false",
                        self.output.instance_name(run.instance)
                    );
                    self.output.say(Level::Warn, &text);
                }
            }
            MemoryAction::Signal { run, signal } => {
                let sent = self.trees.signal(run, signal, spec::Scope::Main);
                self.tell_refused(run, &sent);
            }
        }
    }

    /// When something is due at the latest.
    pub(super) fn next_deadline(&self) -> Timestamp {
        let own = earlier(self.engine.borrow().next_deadline(), self.desk.next_deadline());
        own.map_or(self.memory.check_at, |own| own.min(self.memory.check_at))
    }
}

/// A cgroup for each run, or one line that says why not.
fn take_over(files: &Files, watch: &mut Watch, output: &mut Output) -> Option<Cgroups> {
    match Cgroups::set_up(files) {
        Ok(cgroups) => {
            watch.moved_down(1);
            output.say(Level::Info, &format!("each service has a cgroup of its own below {}", cgroups.container().display()));
            if cgroups.oom_group_switched_off() {
                output.say(
                    Level::Info,
                    "memory.oom.group was 1 and is 0 now: should the limit be reached, the kernel kills one service, not all",
                );
            }
            Some(cgroups)
        }
        Err(refusal) => {
            output.say(Level::Warn, &format!("services get no cgroups of their own (`cgroups` in [memory]): {refusal}"));
            None
        }
    }
}

fn no_ecs(why: &str) -> String {
    format!("cannot learn the memory limit: {why}; if the task has one, set `limit` in [memory]")
}
