//! What is played: a container, its services' programs and how they use memory, and what is true about them.

use std::collections::BTreeMap;
use std::time::Duration;

use firstmate::engine::Signal;
use firstmate::engine::capability::Rights;
use firstmate::engine::spec::{
    Backoff, Command, Kind, Launch, Memory, MemoryAction, Readiness, Restart, Scope, Service, ServiceMemory, Spec, Stop, Watch,
};

use crate::course::{Course, MIB};

/// Who is guilty, in the model, of what the guard is there to prevent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Its memory stays within bounds by itself. To act on it is false unless the container would have been lost.
    Harmless,
    /// Grows until it is ended.
    Leaks,
    /// Grows to some level and stays there: one act may be needed to learn that.
    Settles,
}

/// A service's program.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: &'static str,
    pub instances: u16,
    pub nature: Nature,
    /// What a run takes at once when its program begins.
    pub first: f64,
    /// The main process's memory.
    pub heap: Course,
    /// Forked workers, what they share with the main process, and what they hold all together.
    pub workers: u32,
    pub shared: f64,
    pub worker: Course,
    /// One more worker, with a course of its own.
    pub bad_worker: Option<Course>,
    /// Given back by MADV_FREE: still in RSS, not in *hard*.
    pub lazy: Course,
    /// Shared memory the main process maps.
    pub mapped: Course,
    /// Files in /dev/shm, which outlive it.
    pub tmpfs: Course,
    /// Redis: a child writes a snapshot.
    pub snapshots: Option<Snapshots>,
    /// Its workers look like snapshot children for ever.
    pub looks_forked: bool,
    /// Seconds from the stop signal to its exit; `None`: it ignores it.
    pub obeys: Option<f64>,
    pub grows_meanwhile: bool,
    /// The signal of its `action` brings it back to `first`.
    pub relieved: bool,
    pub memory: ServiceMemory,
    /// Of the whole stop.
    pub grace: f64,
}

#[derive(Debug, Clone, Copy)]
pub struct Snapshots {
    /// From one to the next.
    pub every: f64,
    /// So long the child lives.
    pub lasts: f64,
    /// Copied on write meanwhile, in bytes a second.
    pub writes: f64,
}

impl Program {
    /// Holds `first` and does nothing.
    pub fn new(name: &'static str, first: f64) -> Self {
        Self {
            name,
            instances: 1,
            nature: Nature::Harmless,
            first,
            heap: Course::Still,
            workers: 0,
            shared: 0.0,
            worker: Course::Still,
            bad_worker: None,
            lazy: Course::Still,
            mapped: Course::Still,
            tmpfs: Course::Still,
            snapshots: None,
            looks_forked: false,
            obeys: Some(0.05),
            grows_meanwhile: true,
            relieved: false,
            memory: ServiceMemory::default(),
            grace: 10.0,
        }
    }

    pub fn heap(self, heap: Course) -> Self {
        Self { heap, ..self }
    }

    pub fn leaks(self, heap: Course) -> Self {
        Self { heap, nature: Nature::Leaks, ..self }
    }

    pub fn obeys(self, obeys: Option<f64>) -> Self {
        Self { obeys, ..self }
    }
}

/// How punctually processes run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clock {
    /// firstmate is woken within a tenth of a millisecond, rarely within two.
    Idle,
    /// Busy loops beside it: late by some milliseconds, now and then by `worst` seconds; the services get `share` of the processor.
    Busy { worst: f64, share: f64 },
    /// A processor quota of the container: everybody runs for `run` seconds of each `period`.
    Quota { period: f64, run: f64 },
}

/// What firstmate may see of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Everything.
    Full,
    /// No smaps_rollup: RSS only.
    NoPss,
    /// Nothing of any process.
    NoProcesses,
    /// Not even the container's usage.
    Nothing,
    /// Each service has a cgroup of its own.
    Cgroups,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub seed: u64,
    /// Bytes.
    pub limit: f64,
    /// There is no limit but the machine's memory.
    pub machine: bool,
    pub cpus: u32,
    /// memory.oom.group: an OOM kill ends the container.
    pub oom_group: bool,
    pub clock: Clock,
    pub sight: Sight,
    pub programs: Vec<Program>,
    /// Files nobody holds open, in /dev/shm from the beginning, and what they do.
    pub dead_tmpfs: (f64, Course),
    /// Processes firstmate did not start.
    pub strangers: (f64, Course),
    /// Page cache that is read in.
    pub cache: (f64, Course),
    pub memory: Memory,
    /// Seconds that are played.
    pub secs: f64,
}

impl Case {
    pub fn new(name: impl Into<String>, seed: u64, limit_mib: f64, secs: f64) -> Self {
        Self {
            name: name.into(),
            seed,
            limit: limit_mib * MIB,
            machine: false,
            cpus: 2,
            oom_group: false,
            clock: Clock::Idle,
            sight: Sight::Full,
            programs: Vec::new(),
            dead_tmpfs: (0.0, Course::Still),
            strangers: (0.0, Course::Still),
            cache: (0.0, Course::Still),
            memory: Memory::default(),
            secs,
        }
    }

    pub fn with(mut self, program: Program) -> Self {
        self.programs.push(program);
        self
    }

    pub fn confirm(mut self, secs: f64) -> Self {
        self.memory.confirm = Duration::from_secs_f64(secs);
        self
    }

    /// The same without a guard: what would have happened by itself.
    pub fn unguarded(&self) -> Self {
        let mut case = self.clone();
        case.memory.restart_above = None;
        for program in &mut case.programs {
            program.memory.restart_above = None;
        }
        case
    }

    /// What a failure prints.
    pub fn describe(&self) -> String {
        let percent = |bytes: f64| format!("{:.1} %", 100.0 * bytes / self.limit);
        let mut lines = vec![format!(
            "{} (seed {}): {:.0} MiB, {} processors, {:?}, {:?}, {:?}",
            self.name,
            self.seed,
            self.limit / MIB,
            self.cpus,
            self.clock,
            self.sight,
            self.memory
        )];
        for program in &self.programs {
            lines.push(format!(
                "  {} x{} {:?}: begins with {}, heap {:?}, {} workers share {}, worker {:?} bad {:?}, snapshots {:?}, obeys {:?}, {:?}",
                program.name,
                program.instances,
                program.nature,
                percent(program.first),
                program.heap,
                program.workers,
                percent(program.shared),
                program.worker,
                program.bad_worker,
                program.snapshots,
                program.obeys,
                program.memory,
            ));
        }
        lines.join("\n")
    }

    pub fn share(&self, percent: f64) -> f64 {
        self.limit * percent / 100.0
    }

    pub fn spec(&self) -> Spec {
        Spec {
            services: self.programs.iter().map(service).collect(),
            stop_timeout: Duration::from_secs(8),
            drain: Duration::ZERO,
            memory: self.memory.clone(),
        }
    }
}

fn service(program: &Program) -> Service {
    Service {
        name: program.name.to_owned(),
        kind: Kind::Service,
        instances: program.instances,
        groups: Vec::new(),
        depends_on: Vec::new(),
        autostart: true,
        essential: false,
        restart: Restart::Always,
        success_exit_codes: vec![0],
        backoff: Backoff::default(),
        give_up_after: None,
        start_timeout: Duration::from_secs(60),
        stop: Stop { signals: vec![Signal::TERM], timeout: Duration::from_secs_f64(program.grace), scope: Scope::Main },
        reload_signal: None,
        ready: Readiness::default(),
        live: None,
        memory: program.memory,
        watch: Watch::default(),
        launch: Launch {
            command: Command::Argv(vec!["actor".into()]),
            working_dir: "/".into(),
            inherit_env: true,
            env_defaults: BTreeMap::new(),
            env: BTreeMap::new(),
            port: None,
            user: None,
            group: None,
            umask: None,
            nice: None,
            oom_score_adj: None,
            rights: Rights::default(),
            tty: false,
            limits: Vec::new(),
        },
    }
}

pub fn by_signal(signal: Signal) -> ServiceMemory {
    ServiceMemory { action: MemoryAction::Signal(signal), ..ServiceMemory::default() }
}
