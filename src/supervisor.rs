//! The one event loop: feeds events to the engine and performs its actions.
//!
//! One thread does everything, and nothing on it blocks: signals come through a descriptor, launches report through pipes, log pipes
//! and standard output are non-blocking, probes and HTTP are futures. [`Reaper`] is the only owner of waits. A turn of the loop is:
//! take what is ready, turn it into events, let the engine decide, perform what it decided, write what there is to say.

mod announcements;
mod environment;
mod log_book;
mod log_ring;
mod measure;
mod memory;
mod names;
mod output;
mod probes;
mod reading;
mod setup;
mod siblings;
mod single;
mod terminals;
mod update;
mod verbs;
mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Again, Http, Loaded};
use crate::engine::spec::{Command, Readiness, Restart, Scope, Service, Watch};
use crate::engine::{
    Action, EndCause, Engine, Event, LaunchError, MemoryEvent, Notice, Outcome, ProbeKind, Reach, RunId, ShutdownCause, Signal, Stage,
    Timestamp,
};
use crate::linux::alarm::Alarm;
use crate::linux::footprint::unmap_start_code;
use crate::linux::memory::ecs::EcsLimit;
use crate::linux::memory::sentinel::Grown;
use crate::linux::output::{Streams, class_of};
use crate::linux::poll::{Interest, Poller, Ready};
use crate::linux::reap::Reaper;
use crate::linux::signals::{Meaning, Received, Signals};
use crate::linux::spawn::{self, Environment, LaunchProgress, OomScoreAdj, Placement, Request, Spawned, Stdio};
use crate::linux::termination_log::TerminationLog;
use crate::linux::tree::{Died, Sent, Trees};
use crate::linux::watch::{Told, Watcher};
use crate::observe::metrics::Measured;
use crate::observe::{Level, Stream, last_words};
use crate::server::{Reply, SocketPath, Variables};

use announcements::{A_TURN, Announcements, EVERYTHING};
use environment::Environments;
pub use environment::{of_command, of_variables};
use measure::Gauges;
use memory::Memory;
use output::Output;
use probes::Probes;
pub use setup::leave_word;
pub use single::run_single;
use terminals::Terminals;
use update::{Asker, Reread, Updates};
use verbs::{Asked, Desk};

/// What the command line decides beside the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overrules the file's `http`.
    pub http: Option<Http>,
    /// Overrules the file's `socket`.
    pub socket: Option<SocketPath>,
    /// The project's directory, absolute and without links, where a person started it: its socket is then the project's own, unless one is named.
    pub project: Option<PathBuf>,
    /// Lines have no time.
    pub no_timestamp: bool,
}

// Classes of poller tokens, in their highest byte; the rest is a pid where nothing else is said.
const SIGNALS: u8 = 1;
const SINK: u8 = 2;
const LAUNCH: u8 = 3;
const STREAM: u8 = 4;
const PROBE_LAUNCH: u8 = 5;
const PROBE_STREAM: u8 = 6;
const ALARM: u8 = 7;
const NOTIFY: u8 = 8;
const NOTIFY_FD: u8 = 9;
const OUTER: u8 = 10;

const fn token(class: u8, pid: u32) -> u64 {
    (class as u64) << 56 | pid as u64
}

fn pid_of(token: u64) -> u32 {
    u32::try_from(token & u64::from(u32::MAX)).unwrap_or_default()
}

/// At a run's end its pipes are emptied up to this; who writes faster than that is cut off.
const LAST_WORDS: usize = 256 * 1024;
/// Services are so much readier to be killed when memory runs out than firstmate is.
const OOM_SCORE_ADJ_ABOVE_OWN: i32 = 100;
/// So often the tasks of clients have a turn when everything is over: to take an answer and to write it needs two.
const LAST_TURNS: usize = 8;
/// For the last lines when everything is over.
const FLUSH_WITHIN: Duration = Duration::from_millis(250);

/// Runs a file in the foreground until everything is over; `again` is how it is read once more. Returns firstmate's exit code; see `--help`.
#[must_use]
pub fn run(loaded: Loaded, again: Again, options: Options) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return setup::cannot_run("create the event loop", &error),
    };
    // The first thing of all: a signal that comes before would be lost, or be the end.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return setup::cannot_run("receive signals", &error),
    };
    let reaper = match Reaper::adopt_orphans() {
        Ok(reaper) => reaper,
        Err(error) => return setup::cannot_run("become the parent of orphans", &error),
    };
    let tasks = tokio::task::LocalSet::new();
    // On the heap, and not twice on the stack: it is moved before it begins.
    tasks.block_on(&runtime, Box::pin(setup::run(loaded, again, options, signals, reaper)))
}

/// What the shell knows of a run.
struct Run {
    pid: u32,
    /// Until the launch has succeeded or failed.
    launch: Option<OwnedFd>,
    failed: Option<LaunchError>,
    streams: [Option<u64>; 2],
    /// Until it has said there that it is ready.
    notify_fd: Option<OwnedFd>,
}

/// Whose child a pid is.
#[derive(Clone, Copy)]
enum Owner {
    Run(RunId),
    Probe,
}

/// What tasks tell the loop.
enum Message {
    /// A probe that is a future has its answer.
    Probed { run: RunId, kind: ProbeKind, number: u32, result: Result<(), String> },
    /// An exec probe's time is up.
    ProbeExpired { pid: u32, number: u32 },
    /// An exec probe may have left somebody behind who could not be asked a moment ago.
    ProbeLeft,
    /// An operator's wish.
    Asked(Asked),
    /// Somebody is at the terminal of a run.
    Attached { run: RunId },
    /// A client has left it.
    Detached { run: RunId, number: u64 },
    /// The file, read once more.
    Reread(Box<Reread>),
    /// Somebody wants `/metrics`.
    Measure(oneshot::Sender<Measured>),
    /// What was measured aside.
    Memory(MemoryEvent),
    /// It is calm no longer.
    Grown(Grown),
    /// Of files that are watched.
    Files(Told),
    /// What the ECS task metadata tells of the memory limit.
    Ecs(Result<Option<EcsLimit>, String>),
    /// Somebody wants to see an instance's environment.
    Environment { name: String, values: bool, reply: oneshot::Sender<Result<Variables, Reply>> },
}

struct Supervisor {
    engine: Rc<RefCell<Engine>>,
    origin: Instant,
    events: VecDeque<Event>,
    actions: Vec<Action>,
    to_spawn: Vec<RunId>,
    /// firstmate's own, at its start.
    own_oom_score_adj: i32,
    exit: Option<i32>,
    /// What the alarm is set to.
    alarm_at: Option<Timestamp>,
    trees: Trees,
    owners: HashMap<u32, Owner>,
    runs: BTreeMap<RunId, Run>,
    /// Runs whose main process is gone and whose tree is not.
    clearing: BTreeSet<RunId>,
    environments: Environments,
    /// In the order of the file, as the engine has them.
    services: Vec<Arc<Service>>,
    /// The command of each.
    commands: Vec<Vec<OsString>>,
    poller: Arc<Poller>,
    streams: Streams<(RunId, Stream)>,
    terminals: Rc<RefCell<Terminals>>,
    output: Output,
    probes: Probes,
    announcements: Announcements,
    desk: Desk,
    updates: Updates,
    memory: Memory,
    gauges: Gauges,
    /// Kept for as long as files are watched.
    watcher: Option<Watcher>,
    /// What it watches.
    watched: Vec<(String, Watch, Restart)>,
    interrupted: bool,
    /// The number of the last one of which those who read along know.
    last_incident: u64,
    /// Where the last words go, if anywhere.
    termination_log: Option<TerminationLog>,
    last_words: LastWords,
}

/// Why everything ended, and who is to blame.
#[derive(Default)]
struct LastWords {
    sentence: String,
    /// Name, and what it said last.
    blamed: Option<(String, Vec<u8>)>,
}

impl Supervisor {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Until everything is over. Returns the exit code.
    async fn supervise(mut self, mut signals: Signals, mut reaper: Reaper, mut messages: mpsc::UnboundedReceiver<Message>) -> u8 {
        let mut ready = Vec::new();
        if let Err(error) = self.poller.add(&signals, token(SIGNALS, 0), Interest::Read) {
            return setup::cannot_run("wait for signals", &error.into());
        }
        let alarm = match Alarm::new() {
            Ok(alarm) => alarm,
            Err(error) => return setup::cannot_run("create a timer", &error),
        };
        if let Err(error) = self.poller.add(&alarm, token(ALARM, 0), Interest::Read) {
            return setup::cannot_run("wait for a timer", &error.into());
        }
        self.events.push_back(Event::Tick);
        self.settle();
        // Children that were there before firstmate was executed may have died already, and their SIGCHLD with them.
        self.reap(&mut reaper);
        unmap_start_code();
        while self.exit.is_none() {
            self.output.flush();
            self.mind_the_sentinel();
            self.set_alarm(&alarm);
            tokio::select! {
                polled = self.poller.ready(&mut ready) => {
                    if let Err(error) = polled {
                        self.output.say(Level::Error, &format!("cannot wait for events: {error}"));
                    }
                    self.take_ready(&ready, &mut signals, &mut reaper, &alarm);
                }
                Some(message) = messages.recv() => self.take_message(message),
            }
            self.settle();
        }
        self.output.flush();
        // Who waits for what has come with the end gets its answer: the tasks that write it have a turn each.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
        self.output.books.close().await;
        self.leave()
    }

    /// To the next thing that is due; when that has not changed it is set already.
    fn set_alarm(&mut self, alarm: &Alarm) {
        let at = self.next_deadline();
        if self.alarm_at == Some(at) {
            return;
        }
        self.alarm_at = Some(at);
        alarm.set(at.since(self.now()));
    }

    fn take_ready(&mut self, ready: &[Ready], signals: &mut Signals, reaper: &mut Reaper, alarm: &Alarm) {
        let mut is_due = false;
        for one in ready {
            match class_of(one.token) {
                SIGNALS => self.take_signals(signals, reaper),
                ALARM => is_due = true,
                SINK => self.output.flush(),
                LAUNCH => self.launch_progressed(pid_of(one.token)),
                STREAM => self.read_stream(one.token),
                NOTIFY => self.take_notifications(A_TURN),
                NOTIFY_FD => self.read_notify_fd(pid_of(one.token)),
                OUTER => self.tell_outer(),
                PROBE_LAUNCH => self.probes.launch_progressed(pid_of(one.token), &self.poller),
                PROBE_STREAM => self.probes.read_stream(one.token),
                _ => {}
            }
        }
        if is_due {
            alarm.clear();
            self.alarm_at = None;
            // A tick comes behind everything that was said before it.
            self.take_notifications(EVERYTHING);
            self.events.push_back(Event::Tick);
            self.check_memory(self.now());
        }
    }

    fn take_signals(&mut self, signals: &mut Signals, reaper: &mut Reaper) {
        let mut child_ended = false;
        loop {
            match signals.read() {
                Ok(Some(received)) => match Meaning::of(received.signal) {
                    Meaning::ChildEnded => child_ended = true,
                    Meaning::Stop => self.stop_signal(&received),
                    // A terminal that hangs up is a user who closed the window.
                    Meaning::Update if received.from_kernel => self.stop_signal(&received),
                    Meaning::Forward if received.signal == Signal::WINCH => self.terminals.borrow_mut().resized(),
                    Meaning::Update => self.reread(Asker::Signal),
                    Meaning::Forward | Meaning::Ignore | Meaning::Untouched => {}
                },
                Ok(None) => break,
                Err(error) => {
                    self.output.say(Level::Error, &format!("cannot read a signal: {error}"));
                    break;
                }
            }
        }
        if child_ended {
            self.reap(reaper);
        }
    }

    fn stop_signal(&mut self, received: &Received) {
        let signal = received.signal;
        // A terminal's Ctrl-C comes from the kernel. Platforms repeat their SIGTERM and mean nothing by it; a person who presses
        // Ctrl-C again means now.
        if signal == Signal::INT && received.from_kernel {
            if self.interrupted {
                self.events.push_back(Event::KillAll);
                return;
            }
            self.interrupted = true;
        }
        self.events.push_back(Event::Shutdown(ShutdownCause::Signal { signal, sender: received.sender_pid }));
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Probed { run, kind, number, result } => {
                self.probes.answered(run, kind, number);
                self.events.push_back(Event::Probed { run, kind, number, result });
            }
            Message::ProbeExpired { pid, number } => {
                if let Some(event) = self.probes.expired(pid, number, &mut self.trees) {
                    self.events.push_back(event);
                }
            }
            Message::ProbeLeft => self.probes.look_again(&mut self.trees),
            Message::Measure(reply) => {
                // Who asked may be gone by now.
                let _ = reply.send(self.measure());
            }
            Message::Attached { run } => {
                let text = format!("somebody is attached to the terminal of {}", self.output.instance_name(run.instance));
                self.output.say(Level::Info, &text);
            }
            Message::Detached { run, number } => {
                if self.terminals.borrow_mut().detached(run, number) {
                    let text = format!("nobody is attached to the terminal of {} any more", self.output.instance_name(run.instance));
                    self.output.say(Level::Info, &text);
                }
            }
            Message::Memory(measured) => self.events.push_back(Event::Memory(measured)),
            Message::Grown(grown) => self.grown(grown),
            Message::Files(told) => self.take_told(told),
            Message::Ecs(answer) => self.ecs_answered(answer),
            Message::Environment { name, values, reply } => {
                // Who asked may be gone by now.
                let _ = reply.send(self.environment_of(&name, values));
            }
            Message::Asked(asked) => self.asked(asked),
            Message::Reread(reread) => self.reread_done(*reread),
        }
    }

    /// Lets the engine decide about all that happened, and performs it, until there is nothing more to decide.
    fn settle(&mut self) {
        let happened = !self.events.is_empty();
        while let Some(event) = self.events.pop_front() {
            let now = self.now();
            let mut actions = std::mem::take(&mut self.actions);
            self.engine.borrow_mut().step(now, event, &mut actions);
            for action in actions.drain(..) {
                // Telling does not wait for starting, nor the other way round; everything else keeps its order.
                if !matches!(action, Action::Spawn { .. } | Action::Notice(_)) {
                    self.spawn_all();
                }
                self.perform(action);
            }
            self.spawn_all();
            self.actions = actions;
        }
        self.output.books.incidents(&self.engine.borrow(), &mut self.last_incident);
        let now = self.now();
        // Where nothing has happened, no wish has come nearer: services write all the time.
        if happened || self.desk.next_deadline().is_some_and(|until| until <= now) {
            self.desk.settle(&self.engine.borrow(), now);
        }
        self.tell_outer();
    }

    fn tell(&mut self, notice: &Notice) {
        if let Notice::Scaled { service, .. } = notice {
            self.output.fit(*service, self.engine.borrow().instances_wanted(*service));
        }
        if matches!(notice, Notice::Updated) {
            let messages = self.updates.messages.clone();
            self.begin_watch(&messages);
        }
        let text = self.output.notice(notice);
        if let Notice::Over { why, .. } = notice {
            let blamed = self.engine.borrow().to_blame(why);
            let mut sentence = text;
            if let (EndCause::NothingLeft { .. }, Some(id)) = (why, blamed) {
                // Of all the others the notice names the one that is to blame.
                sentence = format!("{sentence}; {} failed", self.output.instance_name(id));
            }
            let blamed = blamed.map(|id| (self.output.instance_name(id).to_owned(), self.output.books.lines.borrow().last_words(id)));
            self.last_words = LastWords { sentence, blamed };
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { run } => self.to_spawn.push(run),
            Action::Signal { run, signal } => {
                if signal == Signal::KILL {
                    self.sends_kill(run);
                }
                let scope = self.services.get(run.instance.service.0).map_or(Scope::Main, |service| service.stop.scope);
                let sent = self.trees.stop(run, signal, scope);
                self.tell_refused(run, &sent);
            }
            Action::Send { run, signal, to } => self.send_asked(run, signal, to),
            Action::KillTree { run } => {
                self.sends_kill(run);
                self.memory.kill_cgroup(run);
                let sent = self.trees.kill_tree(run);
                self.tell_refused(run, &sent);
                self.check_cleared(run);
            }
            Action::Probe { run, kind, number } => self.probe(run, kind, number),
            Action::CancelProbes { run } => self.probes.cancel(run, &mut self.trees),
            Action::Define { service } => self.define(service),
            Action::Forget { service } => self.forget(service),
            Action::Memory(action) => self.perform_memory(action),
            Action::Notice(notice) => self.tell(&notice),
            Action::Exit { code } => self.exit = Some(code),
        }
    }

    /// An operator's signal; whoever asked is told what became of it.
    fn send_asked(&mut self, run: RunId, signal: Signal, to: Reach) {
        if signal == Signal::KILL {
            self.sends_kill(run);
        }
        let sent = match to {
            Reach::Main => self.trees.signal(run, signal, Scope::Main),
            Reach::Tree => self.trees.signal_all(run, signal),
        };
        self.desk.sent(run, signal, &sent);
        let (name, processes) = (self.output.instance_name(run.instance), sent.reached);
        let plural = if processes == 1 { "" } else { "es" };
        let text = format!("{signal} was sent to {processes} process{plural} of {name}, as an operator asked");
        self.output.say(Level::Info, &text);
        self.tell_refused(run, &sent);
    }

    /// Starts everything that is to be started: first every fork, then everything there is to note down about them.
    ///
    /// A fork makes every page of ours copy-on-write anew, so what is written between two forks costs a fault a page: a start among
    /// many is half as dear when the books are kept afterwards.
    fn spawn_all(&mut self) {
        if self.to_spawn.is_empty() {
            return;
        }
        let mut runs = std::mem::take(&mut self.to_spawn);
        let mut spawned = Vec::with_capacity(runs.len());
        for run in &runs {
            spawned.push(self.spawn(*run));
        }
        for (run, spawned) in runs.drain(..).zip(spawned) {
            match spawned {
                Ok(spawned) => self.spawned(run, spawned),
                Err(error) => self.events.push_back(Event::Exited { run, outcome: Outcome::SpawnFailed(error), left_behind: 0 }),
            }
        }
        self.to_spawn = runs;
    }

    fn spawn(&mut self, run: RunId) -> Result<Spawned, LaunchError> {
        let index = run.instance.service.0;
        let (Some(service), Some(argv)) = (self.services.get(index), self.commands.get(index)) else {
            return Err(LaunchError { stage: Stage::Exec, errno: libc::ESRCH, detail: "a service that is not in the file".to_owned() });
        };
        let name = self.output.instance_name(run.instance);
        self.environments.prepare(run, name, service, &self.trees)?;
        self.announcements.prepare(service, self.environments.present_mut())?;
        let cgroup = match self.memory.create_cgroup(run, name) {
            None => None,
            Some(Ok(directory)) => Some(directory),
            Some(Err(refusal)) => {
                let text = format!("{name} gets no cgroup of its own: {refusal}");
                self.output.say(Level::Warn, &text);
                None
            }
        };
        let cgroup = cgroup.as_ref().map(AsFd::as_fd);
        let stdio = if service.launch.tty { Stdio::Terminal(self.terminals.borrow().size()) } else { Stdio::Pipes };
        start(service, argv, self.environments.prepared(), stdio, self.own_oom_score_adj, cgroup)
    }

    fn spawned(&mut self, run: RunId, spawned: Spawned) {
        let pid = spawned.pid;
        self.trees.started(run, self.output.instance_name(run.instance), pid);
        self.output.books.lines.borrow_mut().new_run(run.instance);
        self.owners.insert(pid, Owner::Run(run));
        let mut streams = [None, None];
        for (place, (fd, stream)) in streams.iter_mut().zip([(spawned.stdout, Stream::Out), (spawned.stderr, Stream::Err)]) {
            let Some(fd) = fd else { continue };
            let is_terminal = self.services.get(run.instance.service.0).is_some_and(|service| service.launch.tty);
            let added = if is_terminal { self.read_terminal(fd, run) } else { self.streams.add(fd, (run, stream)) };
            match added {
                Ok(token) => *place = Some(token),
                Err(errno) => {
                    let name = self.output.instance_name(run.instance);
                    let text = format!("cannot read the output of {name}: {errno}; its output is lost");
                    self.output.say(Level::Error, &text);
                }
            }
        }
        self.events.push_back(Event::Spawned { run, pid });
        let launch = match self.poller.add(&spawned.launch, token(LAUNCH, pid), Interest::Read) {
            Ok(()) => Some(spawned.launch),
            Err(errno) => {
                let text =
                    format!("cannot watch the launch of {}: {errno}; it is taken for launched", self.output.instance_name(run.instance));
                self.output.say(Level::Error, &text);
                self.events.push_back(Event::Executed { run });
                None
            }
        };
        let notify_fd = spawned.notify.and_then(|fd| self.watch_notify_fd(run, pid, fd));
        self.announcements.started(run);
        self.runs.insert(run, Run { pid, launch, failed: None, streams, notify_fd });
    }

    /// Both outputs of a run are one, and what is typed goes there as well.
    fn read_terminal(&mut self, master: OwnedFd, run: RunId) -> Result<u64, Errno> {
        let again = master.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
        let token = self.streams.add_terminal(master, (run, Stream::Out))?;
        self.terminals.borrow_mut().opened(token, run, again);
        Ok(token)
    }

    fn probe(&mut self, run: RunId, kind: ProbeKind, number: u32) {
        let Some(service) = self.services.get(run.instance.service.0) else { return };
        let name = self.output.instance_name(run.instance);
        let mark = self.probes.next_mark();
        let environment = self.environments.prepare_probe(run, name, service, &self.trees, mark).map(|()| self.environments.prepared());
        if let Some(event) = self.probes.start(run, kind, number, service, environment, &mut self.trees, &mut self.owners, &self.poller) {
            self.events.push_back(event);
        }
    }

    fn launch_progressed(&mut self, pid: u32) {
        if let Some(Owner::Run(run)) = self.owners.get(&pid).copied() {
            self.read_launch(run);
        }
    }

    /// Takes what the launch pipe tells, if it tells something.
    fn read_launch(&mut self, run: RunId) {
        let Some(known) = self.runs.get_mut(&run) else { return };
        let Some(launch) = &known.launch else { return };
        match spawn::read_launch(launch.as_fd()) {
            LaunchProgress::Pending => return,
            LaunchProgress::Executed => {
                if !self.memory.joined(run, known.pid) {
                    let name = self.output.instance_name(run.instance);
                    let text = format!("{name} could not enter its cgroup; its memory is known by its processes, as without `cgroups`");
                    self.output.say(Level::Warn, &text);
                }
                self.events.push_back(Event::Executed { run });
            }
            LaunchProgress::Failed(error) => known.failed = Some(error),
        }
        if let Some(launch) = known.launch.take() {
            let _ = self.poller.remove(&launch);
        }
    }

    fn read_stream(&mut self, token: u64) {
        let (output, announcements) = (&mut self.output, &mut self.announcements);
        let ended = self.streams.read(token, &mut |(run, stream): (RunId, Stream), piece| {
            output.service_line(run.instance, stream, piece);
            announcements.line(run, piece.text);
        });
        if !self.terminals.borrow().is_empty() {
            self.terminals.borrow_mut().heard(token, self.streams.last_read());
        }
        self.take_matches();
        if let Some((run, _)) = ended
            && let Some(known) = self.runs.get_mut(&run)
        {
            for place in &mut known.streams {
                if *place == Some(token) {
                    *place = None;
                }
            }
        }
    }

    fn reap(&mut self, reaper: &mut Reaper) {
        loop {
            match reaper.peek() {
                Ok(Some(dead)) => {
                    // The engine acts while the zombie still pins pid and group, so that no signal can hit a stranger.
                    let outcome = self.outcome_of(&dead);
                    let pid = dead.pid();
                    self.child_died(pid, outcome);
                    dead.reap();
                    self.trees.reaped(pid);
                }
                Ok(None) => break,
                Err(error) => {
                    self.output.say(Level::Error, &format!("cannot wait for children: {error}"));
                    break;
                }
            }
        }
        let waiting: Vec<RunId> = self.clearing.iter().copied().collect();
        for run in waiting {
            self.check_cleared(run);
        }
        self.settle();
    }

    fn child_died(&mut self, pid: u32, outcome: Outcome) {
        let owner = self.owners.get(&pid).copied();
        if let Some(Owner::Run(run)) = owner {
            // A launch that failed, or succeeded, before this death.
            self.read_launch(run);
        }
        let died = self.trees.died(pid);
        match &died {
            Died::Leader { run, .. } | Died::Member(run) => self.gauges.ended(*run, pid),
            Died::Probe | Died::Orphan => {}
        }
        match owner {
            Some(Owner::Run(run)) => {
                let left_behind = match &died {
                    Died::Leader { survivors, .. } => u32::try_from(survivors.len()).unwrap_or(u32::MAX),
                    Died::Probe | Died::Member(_) | Died::Orphan => 0,
                };
                self.run_died(run, outcome, left_behind);
            }
            Some(Owner::Probe) => {
                if let Some(event) = self.probes.died(pid, &outcome, &self.poller, &mut self.trees) {
                    self.events.push_back(event);
                }
            }
            None => {}
        }
        self.owners.remove(&pid);
        self.settle();
    }

    fn run_died(&mut self, run: RunId, outcome: Outcome, left_behind: u32) {
        let Some(known) = self.runs.get_mut(&run) else { return };
        let outcome = known.failed.take().map_or(outcome, Outcome::SpawnFailed);
        self.terminals.borrow_mut().ended(run, &outcome);
        // What it said comes before the news of its end.
        let streams = known.streams;
        if left_behind == 0 {
            self.finish(run);
        } else {
            for token in streams.into_iter().flatten() {
                self.read_stream(token);
            }
            self.clearing.insert(run);
        }
        self.events.push_back(Event::Exited { run, outcome, left_behind });
    }

    /// Nothing is left of the run: its pipes are closed, its name is forgotten.
    fn finish(&mut self, run: RunId) {
        self.clearing.remove(&run);
        self.trees.forget(run);
        self.memory.run_over(run);
        self.drain_terminal(run);
        let Some(known) = self.runs.remove(&run) else { return };
        let output = &mut self.output;
        for token in known.streams.into_iter().flatten() {
            self.streams.close(token, LAST_WORDS, &mut |(run, stream): (RunId, Stream), piece| {
                output.service_line(run.instance, stream, piece);
            });
        }
        if let Some(launch) = &known.launch {
            let _ = self.poller.remove(launch);
        }
        if let Some(notify_fd) = &known.notify_fd {
            let _ = self.poller.remove(notify_fd);
        }
        self.announcements.over(run);
        self.terminals.borrow_mut().over(run);
        // The pid may be reaped and given to another child by now; only if it is still this run's is it to be forgotten.
        if matches!(self.owners.get(&known.pid), Some(Owner::Run(other)) if *other == run) {
            self.owners.remove(&known.pid);
        }
    }

    /// What a terminal still holds reaches who is attached, too.
    fn drain_terminal(&mut self, run: RunId) {
        if !self.services.get(run.instance.service.0).is_some_and(|service| service.launch.tty) {
            return;
        }
        let mut taken = 0_usize;
        while taken < LAST_WORDS {
            let Some(token) = self.runs.get(&run).and_then(|known| known.streams.iter().flatten().next().copied()) else { return };
            self.read_stream(token);
            match self.streams.last_read().len() {
                0 => return,
                count => taken = taken.saturating_add(count),
            }
        }
    }

    fn check_cleared(&mut self, run: RunId) {
        if !self.clearing.contains(&run) {
            return;
        }
        if self.trees.survivors(run).is_empty() {
            self.finish(run);
            self.events.push_back(Event::TreeGone { run });
        } else {
            let sent = self.trees.pass_on(run);
            self.tell_refused(run, &sent);
        }
    }

    fn tell_refused(&mut self, run: RunId, sent: &Sent) {
        if let Some((pid, errno)) = sent.refused.first() {
            let text = format!(
                "cannot signal pid {pid} of {}: {}; is it another user's, and firstmate not root?",
                self.output.instance_name(run.instance),
                std::io::Error::from_raw_os_error(*errno)
            );
            self.output.say(Level::Warn, &text);
        }
    }

    fn leave(self) -> u8 {
        let deadline = Instant::now() + FLUSH_WITHIN;
        let LastWords { sentence, blamed } = self.last_words;
        let writing = self.termination_log.map(|log| {
            log.write(move |room| last_words(&sentence, blamed.as_ref().map(|(name, said)| (name.as_str(), said.as_slice())), room))
        });
        self.output.flush_until(deadline);
        if let Some(writing) = writing {
            writing.wait_until(deadline);
        }
        u8::try_from(self.exit.unwrap_or_default().clamp(0, 255)).unwrap_or(u8::MAX)
    }
}

/// Starts a program as one of the service's: its main process or a probe.
fn start(
    service: &Service,
    argv: &[OsString],
    env: &Environment,
    stdio: Stdio,
    own: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Spawned, LaunchError> {
    let launch = &service.launch;
    let oom_score_adj = match launch.oom_score_adj {
        Some(value) => OomScoreAdj::Exactly(value),
        None => OomScoreAdj::Preferably(own.saturating_add(OOM_SCORE_ADJ_ABOVE_OWN).min(1_000)),
    };
    spawn::spawn(&Request {
        argv,
        env,
        working_dir: &launch.working_dir,
        user: launch.user.as_deref(),
        group: launch.group.as_deref(),
        umask: launch.umask,
        nice: launch.nice,
        oom_score_adj,
        limits: &launch.limits,
        rights: launch.rights,
        stdio,
        placement: Placement::Session,
        cgroup,
        notify_fd: match (stdio, &service.ready) {
            (Stdio::Pipes | Stdio::Terminal(_), Readiness::NotifyFd(number)) => Some(*number),
            _ => None,
        },
    })
}

fn argv_of(command: &Command) -> Vec<OsString> {
    match command {
        Command::Argv(words) => words.iter().map(OsString::from).collect(),
        Command::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.into()],
    }
}
