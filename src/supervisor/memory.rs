//! The shell of the memory guard: reads what the engine asks for, and says what the kernel has counted.

use std::time::{Duration, Instant};

use super::{Owner, Supervisor};
use crate::engine::event::earlier;
use crate::engine::memory::{Accounts, Rss, Usage};
use crate::engine::{Event, MemoryAction, MemoryEvent, Outcome, RunId, Signal, Timestamp};
use crate::linux::memory::limit::{Files, Watch};
use crate::linux::memory::tmpfs;
use crate::linux::memory::toll::{Toll, Unexplained};
use crate::linux::reap::Dead;
use crate::observe::Level;

/// The limit and the OOM killer's count are looked at this often: a container is resized, a worker is killed.
const CHECK: Duration = Duration::from_secs(5);
/// Sooner, while a kill waits for the death that explains it.
const CHECK_SOON: Duration = Duration::from_secs(1);

/// What the guard reads with.
pub(super) struct Memory {
    watch: Watch,
    toll: Toll,
    check_at: Timestamp,
    files: Files,
}

impl Memory {
    /// Finds the limit. `configured` is `[memory] limit`.
    pub(super) fn new(configured: Option<u64>) -> Self {
        let files = Files::default();
        let mut watch = Watch::new(files.clone(), configured);
        let toll = Toll::new(watch.counters().oom_kills());
        Self { watch, toll, check_at: Timestamp::ZERO, files }
    }

    pub(super) const fn next_deadline(&self) -> Timestamp {
        self.check_at
    }
}

impl Supervisor {
    /// The limit in force, told to the engine; and what ECS knows of it, asked where nothing else does.
    pub(super) fn begin_memory(&mut self) {
        self.events.push_back(Event::Memory(MemoryEvent::Limit(self.memory.watch.limit().cloned())));
        if self.memory.watch.oom_group() == Some(true) {
            self.output.say(
                Level::Info,
                "memory.oom.group is 1: should the limit be reached, the kernel kills the whole container; the guard acts before",
            );
        }
    }

    fn tell_limit(&mut self) {
        self.events.push_back(Event::Memory(MemoryEvent::Limit(self.memory.watch.limit().cloned())));
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
        if outcome != Outcome::Signaled(Signal::KILL) {
            return outcome;
        }
        let Memory { watch, toll, .. } = &mut self.memory;
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
        let (oom, unexplained) = toll.judge(dead.pid(), run, || watch.counters().oom_kills(), others, |pid| dead.also(pid));
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
                let runs = self.runs.iter().map(|(run, known)| usage(*run, known.pid)).collect();
                let accounts = Accounts { runs, others: Some(Rss::default()), tmpfs: tmpfs::used(&self.memory.files) };
                self.events.push_front(Event::Memory(MemoryEvent::Accounted(Box::new(accounts))));
            }
            MemoryAction::Measure { .. } => {}
            MemoryAction::Steer { .. } => {}
            MemoryAction::Brake { .. } => {}
            MemoryAction::Signal { run, signal } => {
                let sent = self.trees.signal(run, signal, crate::engine::spec::Scope::Main);
                self.tell_refused(run, &sent);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let own = earlier(self.engine.borrow().next_deadline(), self.desk.next_deadline());
        earlier(own, Some(self.memory.next_deadline()))
    }
}

fn usage(run: RunId, pid: u32) -> Usage {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024)
    };
    let (anon, shmem, swap) = (field("RssAnon:"), field("RssShmem:"), field("VmSwap:"));
    let rss = Rss { anon, shmem, swap, largest: anon.saturating_add(shmem).saturating_add(swap), kernel: field("VmPTE:"), processes: 1 };
    Usage { run, rss: Some(rss), cgroup: None, snapshot: false, top: Vec::new() }
}
