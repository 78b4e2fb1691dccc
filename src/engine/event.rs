//! The engine's input and output: what happened, what is to be done, and what there is to tell.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::announcement::Announcement;
use super::memory::{MemoryAction, MemoryEvent, MemoryNotice};
use super::outcome::Outcome;
use super::roll::RollStop;
use super::spec::{ServiceId, Spec};
use super::{Signal, Timestamp};

/// One numbered copy of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// Which service.
    pub service: ServiceId,
    /// From 1.
    pub number: u16,
}

/// One life of an instance. No two lives share one, so a late message about a dead run cannot be taken for news of the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// Whose life.
    pub instance: InstanceId,
    /// From 1.
    pub run: u32,
}

/// Which of a run's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// May it take work.
    Ready,
    /// Must it be restarted.
    Live,
}

/// What a watchdog bites for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bite {
    /// It said no `WATCHDOG=1` for this long.
    Silent(Duration),
    /// It said `WATCHDOG=trigger`.
    Asked,
    /// It said `STOPPING=1` so long ago, and is still there.
    Stayed(Duration),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed, and everything that was said until now has been passed on before this. Only here a silence is judged: behind
    /// any other event the word that breaks it may still wait.
    Tick,
    /// The process exists; its program is being executed.
    Spawned {
        /// Which run.
        run: RunId,
        /// Of its main process.
        pid: u32,
    },
    /// The program is running.
    Executed {
        /// Which run.
        run: RunId,
    },
    /// The main process is gone (or there never was one, when `outcome` is a failed spawn).
    Exited {
        /// Which run.
        run: RunId,
        /// How.
        outcome: Outcome,
        /// Processes of the run's tree that are still there. 0: `TreeGone` will not follow.
        left_behind: u32,
    },
    /// After an `Exited` that left something behind: the last process of the run's tree is gone.
    TreeGone {
        /// Which run.
        run: RunId,
    },
    /// The answer to `Action::Probe` with the same number.
    Probed {
        /// Which run.
        run: RunId,
        /// Which probe.
        kind: ProbeKind,
        /// The number the action carried.
        number: u32,
        /// `Err` says in a short line what was wrong.
        result: Result<(), String>,
    },
    /// A run told something of itself, by the means its `ready` names.
    Announced {
        /// Which run.
        run: RunId,
        /// What it told.
        what: Announcement,
    },
    /// An operator's wish.
    Command(Command),
    /// An operator's wish of how many instances a service has from now on, whatever the file says.
    Scale {
        /// Of which service; a oneshot has as many as the file says.
        service: ServiceId,
        /// 1 to [`MOST_INSTANCES`](super::spec::MOST_INSTANCES).
        instances: u16,
    },
    /// Files that a service watches have changed.
    Changed {
        /// Which service.
        service: ServiceId,
        /// The first of them, and how many there were besides: one short line.
        what: String,
    },
    /// Everything is to be as this file says. Nothing comes of it where `Engine::plan` refuses.
    Update(Box<Spec>),
    /// News of memory.
    Memory(MemoryEvent),
    /// Stop everything, in order.
    Shutdown(ShutdownCause),
    /// Stop everything now: SIGKILL.
    KillAll,
}

/// What an operator may wish of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Be up. Forgets that it was given up.
    Start,
    /// Be down.
    Stop,
    /// Be up with a new run.
    Restart,
    /// The same for services with several instances, one after the other: none is ended while another one is not ready.
    Roll,
    /// Read the configuration anew: the service's `reload_signal` to the main process. Nothing where there is none.
    Reload,
    /// Get this signal, whatever comes of it.
    Signal {
        /// Which.
        signal: Signal,
        /// Who of the run.
        to: Reach,
    },
}

/// Who of a run gets an operator's signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The main process.
    Main,
    /// Every process of the run's tree.
    Tree,
}

/// A verb with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What is wished.
    pub verb: Verb,
    /// Of whom.
    pub instances: Vec<InstanceId>,
}

/// Why everything is being stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownCause {
    /// A signal to firstmate, and who sent it if the kernel told.
    Signal {
        /// Which.
        signal: Signal,
        /// The sender's pid as firstmate sees it; `None` when it came from outside the PID namespace or from the kernel.
        sender: Option<u32>,
    },
    /// `firstmate shutdown`.
    Command,
}

/// What is to be done. The shell performs these in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start the run's main process; answered by `Spawned` or by `Exited` with a failed spawn.
    Spawn {
        /// Which run.
        run: RunId,
    },
    /// Send a stop signal, followed by SIGCONT, to the main process or its group; to every process left of the tree when the
    /// main process is gone.
    Signal {
        /// Which run.
        run: RunId,
        /// Which signal.
        signal: Signal,
    },
    /// Send a signal an operator asked for, and nothing after it.
    Send {
        /// Which run.
        run: RunId,
        /// Which signal.
        signal: Signal,
        /// Who of the run.
        to: Reach,
    },
    /// SIGKILL to every process of the run's tree.
    KillTree {
        /// Which run.
        run: RunId,
    },
    /// Ask a probe's question; answered by `Probed` with the same number.
    Probe {
        /// Which run.
        run: RunId,
        /// Which probe.
        kind: ProbeKind,
        /// To be given back.
        number: u32,
    },
    /// Nothing is waiting for this probe's answer any more; cut it off.
    CancelProbes {
        /// Which run.
        run: RunId,
    },
    /// A service has come, or has another definition: `Engine::service` is the one that holds for its next run.
    Define {
        /// Which.
        service: ServiceId,
    },
    /// A service has gone; its id is another one's only if that has the same name.
    Forget {
        /// Which.
        service: ServiceId,
    },
    /// The memory guard wants to know or to do something.
    Memory(MemoryAction),
    /// Something to tell.
    Notice(Notice),
    /// Everything is over: leave with this exit code. The last action there is.
    Exit {
        /// 0 to 255.
        code: i32,
    },
}

/// Why firstmate ended, or is restarting, a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It ended by itself, or could not be started.
    Crash,
    /// Its liveness probe failed.
    Live,
    /// Its watchdog heard nothing of it in time, or was asked by itself to end it.
    Watchdog,
    /// It was not ready within `start_timeout`.
    StartTimeout,
    /// The memory guard chose it.
    Memory,
    /// Files it watches have changed.
    Watch,
    /// An operator's stop or restart; of what has ended, also an operator's signal.
    Operator,
    /// The file has another definition of it, or none.
    Update,
    /// The whole stack is stopping.
    Shutdown,
}

/// The engine's story, for logs, metrics and people.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The memory guard's part of it.
    Memory(MemoryNotice),
    /// Its process exists.
    Started {
        /// Which run.
        run: RunId,
        /// Of its main process.
        pid: u32,
    },
    /// A dependency's condition does not hold, so it is not started yet. Told once per wait.
    Waiting {
        /// Who waits.
        instance: InstanceId,
        /// For which service.
        on: ServiceId,
    },
    /// It may take work.
    Ready {
        /// Which run.
        run: RunId,
        /// Since its start.
        after: Duration,
    },
    /// It was ready and its probe says it is not any more.
    NotReady {
        /// Which run.
        run: RunId,
        /// What the probe, or the run itself, said.
        why: String,
    },
    /// The liveness probe failed so often that the run is ended.
    NotLive {
        /// Which run.
        run: RunId,
        /// What the probe said.
        why: String,
    },
    /// The watchdog ends the run.
    WatchdogBit {
        /// Which run.
        run: RunId,
        /// What for.
        why: Bite,
    },
    /// It was not ready in its time, so the run is ended.
    StartTimedOut {
        /// Which run.
        run: RunId,
        /// How long it had: `start_timeout`, or more where it asked for more.
        after: Duration,
        /// What the probe, or the run itself, last said.
        why: Option<String>,
    },
    /// The main process is gone.
    Ended {
        /// Which run.
        run: RunId,
        /// How.
        outcome: Outcome,
        /// Since its start.
        uptime: Duration,
        /// Whether this counts as an end as wished or as a success.
        clean: bool,
        /// Processes it left behind.
        left_behind: u32,
        /// The signal that ended it was firstmate's own; true as well for an exit while it was being stopped.
        asked: bool,
    },
    /// Files a service watches have changed, and so it begins anew.
    Changed {
        /// Which service.
        service: ServiceId,
        /// The first of them, and how many there were besides.
        what: String,
    },
    /// Another run follows after the delay.
    Restarting {
        /// Who.
        instance: InstanceId,
        /// How long it waits.
        delay: Duration,
        /// Consecutive failed runs so far.
        failures: u32,
        /// Why.
        cause: Cause,
    },
    /// The oneshot ended well.
    Completed {
        /// Which run.
        run: RunId,
        /// How long it took.
        took: Duration,
    },
    /// It ended and its policy says not to start it again.
    NotRestarted {
        /// Which run.
        run: RunId,
        /// A change of the files it watches starts it again.
        awaits_change: bool,
    },
    /// Given up.
    GaveUp {
        /// Who.
        instance: InstanceId,
        /// Consecutive failed runs.
        failures: u32,
    },
    /// It can never start, since this service it depends on has failed.
    Blocked {
        /// Who.
        instance: InstanceId,
        /// The service that failed.
        on: ServiceId,
    },
    /// A stop signal was sent.
    Stopping {
        /// Which run.
        run: RunId,
        /// Which signal.
        signal: Signal,
        /// Until SIGKILL.
        grace: Duration,
        /// Why.
        cause: Cause,
    },
    /// SIGKILL was sent to the tree.
    Killing {
        /// Which run.
        run: RunId,
        /// How long it had been given.
        after: Duration,
    },
    /// Nothing is left of it, as wished.
    Stopped {
        /// Who.
        instance: InstanceId,
    },
    /// Its instances are being restarted one after the other.
    RollBegun {
        /// Of which service.
        service: ServiceId,
        /// How many of them.
        instances: u16,
    },
    /// It is this one's turn: its present run is asked to end, if it has one.
    RollTurn {
        /// Whose.
        at: InstanceId,
        /// How many come after it.
        left: u16,
    },
    /// All of them are ready again.
    Rolled {
        /// Of which service.
        service: ServiceId,
    },
    /// The rolling restart ends before its time.
    RollStopped {
        /// Where it was.
        at: InstanceId,
        /// Why.
        why: RollStop,
        /// How many go on with their old run.
        left: u16,
    },
    /// A service has another number of instances than before.
    Scaled {
        /// Which.
        service: ServiceId,
        /// Before.
        from: u16,
        /// From now on.
        to: u16,
    },
    /// The stack is about to be as another file says.
    Updating {
        /// Services that are new.
        added: usize,
        /// That are no longer there.
        removed: usize,
        /// That get new runs.
        restarted: usize,
        /// That keep their runs, with another definition.
        amended: usize,
    },
    /// A service is new.
    Added {
        /// Which.
        service: ServiceId,
    },
    /// Nothing is left of a service that is no longer in the file.
    Removed {
        /// Which.
        service: ServiceId,
    },
    /// A service has another definition from now on.
    Redefined {
        /// Which.
        service: ServiceId,
        /// Its old runs have ended for it.
        restarts: bool,
    },
    /// Nothing is left of what the old file said; what is new is on its way.
    Updated,
    /// The stack is being stopped.
    ShuttingDown {
        /// Why.
        why: EndCause,
        /// All of it, drain included.
        within: Duration,
        /// Not ready but still serving for this long first.
        drain: Duration,
    },
    /// Told every second of a stop, for each run it waits for.
    StillWaiting {
        /// Which run.
        run: RunId,
        /// Of its main process, if that is still there.
        pid: Option<u32>,
        /// Since its stop signal.
        waited: Duration,
        /// Its grace period.
        of: Duration,
    },
    /// The last one: why the container ended, and with which code.
    Over {
        /// Why.
        why: EndCause,
        /// firstmate's own exit code.
        code: i32,
        /// Runs whose processes did not go even after SIGKILL.
        abandoned: u32,
    },
}

/// Why the whole stack ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndCause {
    /// It was asked to.
    Asked(ShutdownCause),
    /// An essential service was given up.
    GaveUp {
        /// Which instance.
        instance: InstanceId,
        /// Its last outcome.
        outcome: Outcome,
        /// Consecutive failed runs.
        failures: u32,
    },
    /// An essential service ended and its policy says not to start it again.
    EssentialEnded {
        /// Which instance.
        instance: InstanceId,
        /// Its outcome.
        outcome: Outcome,
    },
    /// An essential service can never start, since this service it depends on has failed.
    Blocked {
        /// Which instance.
        instance: InstanceId,
        /// The service that failed.
        on: ServiceId,
        /// How that one's last run ended.
        outcome: Outcome,
    },
    /// Everything has ended by itself and nothing will be started again.
    NothingLeft {
        /// The code of the first failed service in the file's order, or 0.
        code: i32,
    },
    /// A second Ctrl-C.
    Killed,
}

/// The earlier of two deadlines; `None` is never.
#[must_use]
pub fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
