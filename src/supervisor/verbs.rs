//! Operators' wishes: from names to instances, and back to an answer once each is as was wished.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::output::LogHealth;
use super::reading::Books;
use super::terminals::{Refusal, Terminals};
use super::update::Asker;
use super::{Message, Supervisor, names};
use crate::engine::event::earlier;
use crate::engine::spec::{Kind, Service};
use crate::engine::status::{InstanceStatus, Phase, StateName, Status};
use crate::engine::{
    Command, Engine, Event, Incidents, InstanceId, Roll, RollState, RunId, ServiceId, ShutdownCause, Signal, Timestamp, Verb,
};
use crate::linux::tree::Sent;
use crate::observe::metrics::{self, Exposition};
use crate::observe::roll_stop;
use crate::server::attach::Attachment;
use crate::server::{Answer, Backend, Diff, Feed, MetricsFormat, Patience, Reading, Reply, Request, Scale, Variables, Verdict, Wish};

/// Beyond the service's own `stop_timeout` and `start_timeout`.
const PATIENCE: Duration = Duration::from_secs(5);

/// A wish on its way to the loop.
pub(super) struct Asked {
    request: Request,
    reply: oneshot::Sender<Reply>,
}

/// The supervisor as the server sees it.
pub(super) struct Counter {
    pub(super) engine: Rc<RefCell<Engine>>,
    pub(super) origin: Instant,
    /// The same moment by the clock on the wall, in milliseconds since 1970. As it was then: a start does not move when the clock is set.
    pub(super) started_unix_ms: Option<u64>,
    /// The file that is run.
    pub(super) file: String,
    pub(super) messages: UnboundedSender<Message>,
    pub(super) log: LogHealth,
    pub(super) books: Books,
    pub(super) terminals: Rc<RefCell<Terminals>>,
}

impl Counter {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Backend for Counter {
    fn status(&self) -> Status {
        let status = self.engine.borrow().status(self.now(), env!("CARGO_PKG_VERSION"), std::process::id());
        let log_blocked_because = self.log.trouble();
        let ready = status.ready && log_blocked_because.is_none() && !status.memory.as_ref().is_some_and(|memory| memory.helpless);
        Status { started_unix_ms: self.started_unix_ms, file: Some(self.file.clone()), ready, log_blocked_because, ..status }
    }

    fn incidents(&self) -> Incidents {
        self.engine.borrow().incidents(self.now(), self.started_unix_ms)
    }

    fn metrics(&self, format: MetricsFormat) -> Pin<Box<dyn Future<Output = String> + '_>> {
        let exposition = match format {
            MetricsFormat::Prometheus => Exposition::Prometheus,
            MetricsFormat::OpenMetrics => Exposition::OpenMetrics,
        };
        let (reply, measured) = oneshot::channel();
        let _ = self.messages.send(Message::Measure(reply));
        // The loop is gone only when everything is over; then what it would have measured is not known.
        Box::pin(async move { metrics::render(&self.status(), &measured.await.unwrap_or_default(), exposition) })
    }

    fn request(&self, request: Request) -> oneshot::Receiver<Reply> {
        let (reply, receiver) = oneshot::channel();
        // The loop is gone only when everything is over; the client is told so by the dropped sender.
        let _ = self.messages.send(Message::Asked(Asked { request, reply }));
        receiver
    }

    fn logs(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        self.read_logs(asked)
    }

    fn events(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        self.read_events(asked)
    }

    fn environment(&self, name: String, values: bool) -> oneshot::Receiver<Result<Variables, Reply>> {
        self.ask_environment(name, values)
    }

    fn attach(&self, name: &str) -> Result<Attachment, Reply> {
        let engine = self.engine.borrow();
        let failed = |why| Err(Reply::Failed { why });
        let instances = names::resolve(&engine, &[name.to_owned()])?;
        let [id] = instances.as_slice() else {
            let names: Vec<String> = instances.iter().take(4).map(|id| engine.instance_name(*id)).collect();
            return failed(format!(
                "`{name}` stands for {} instances, and one is attached to one: name it, as in {}",
                instances.len(),
                names.join(", ")
            ));
        };
        let (instance, service) = (engine.instance_name(*id), engine.service(id.service));
        let state = engine.instance_status_of(self.now(), *id).map_or(StateName::Stopped, |status| status.state);
        let Some(run) = engine.current_run(*id) else {
            return failed(format!("{instance} does not run, it is {state}; `firstmate why` and `firstmate status` tell more"));
        };
        let service_name = service.map_or("", |service| service.name.as_str());
        self.terminals.borrow_mut().attach(run, &instance).or_else(|refusal| {
            failed(match refusal {
                Refusal::NoTerminal => format!(
                    "{instance} has no terminal: give it one with tty = true under [services.{service_name}], or start firstmate with --tty, and restart it"
                ),
                Refusal::Taken => format!("somebody is attached to {instance} already, and there is room for one; ask them to detach"),
                Refusal::Failed => format!("no descriptor is left for {instance}; raise the limit of open files firstmate is started with (`ulimit -n`)"),
            })
        })
    }
}

/// Wishes that are being carried out. Bounded by the number of connections, each of which waits for one.
#[derive(Default)]
pub(super) struct Desk {
    open: Vec<Open>,
}

struct Open {
    entries: Vec<Entry>,
    until: Timestamp,
    /// What an update has changed.
    diff: Option<Box<Diff>>,
    reply: Option<oneshot::Sender<Reply>>,
}

struct Entry {
    id: InstanceId,
    name: String,
    aim: Aim,
    run_before: u32,
    verdict: Option<Verdict>,
}

/// An instance that an update moves.
pub(super) struct Watched {
    pub(super) id: InstanceId,
    pub(super) name: String,
    aim: Aim,
    run_before: u32,
    verdict: Option<Verdict>,
    longest: Duration,
}

impl Watched {
    const fn new(service: ServiceId, number: u16, aim: Aim, longest: Duration) -> Self {
        Self { id: InstanceId { service, number }, name: String::new(), aim, run_before: 0, verdict: None, longest }
    }

    /// Nothing of it is to be left; `longest`: how long that may take.
    pub(super) const fn leaves(service: ServiceId, number: u16, longest: Duration) -> Self {
        Self::new(service, number, Aim::Gone, longest)
    }

    /// It is new.
    pub(super) const fn comes(service: ServiceId, number: u16, longest: Duration) -> Self {
        Self::new(service, number, Aim::Up, longest)
    }

    /// It is to have a new run.
    pub(super) const fn comes_back(service: ServiceId, number: u16, longest: Duration) -> Self {
        Self::new(service, number, Aim::NewRun, longest)
    }

    /// Notes how it is before the update.
    pub(super) fn look(&mut self, engine: &Engine, now: Timestamp) {
        let status = engine.instance_status_of(now, self.id);
        self.run_before = status.as_ref().map_or(0, |status| status.run);
        // Who was stopped by hand stays so, also where it had done its job before; one that is added is wanted as the first is.
        let like = if status.is_some() && !engine.is_leaving(self.id) { self.id } else { InstanceId { number: 1, ..self.id } };
        if self.aim != Aim::Gone && engine.is_wanted_down(like) {
            self.verdict = Some(Verdict::AlreadyStopped);
        }
    }
}

/// What an instance is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Up,
    Down,
    NewRun,
    /// A new run when its turn comes, in the rolling restart of this order.
    Turn(u32),
    /// A signal is sent to it.
    Signal(Signal),
    /// It is there no longer.
    Gone,
}

impl Supervisor {
    /// Takes an operator's wish.
    pub(super) fn asked(&mut self, asked: Asked) {
        let Asked { request, reply } = asked;
        let now = self.now();
        let engine = Rc::clone(&self.engine);
        let taken = match request {
            Request::Wish(wish) => wished(&wish, &engine.borrow(), now),
            Request::Scale(scale) => scaled(&scale, &engine.borrow(), now),
            Request::Update(wish) => return self.reread(Asker::Client { wish, reply }),
            Request::Shutdown => {
                // Who asked may be gone by now; the wish stands.
                let _ = reply.send(Reply::Done { instances: Vec::new() });
                return self.events.push_back(Event::Shutdown(ShutdownCause::Command));
            }
        };
        let events = self.desk.take(taken, reply, &engine.borrow());
        self.events.extend(events);
    }
}

impl Desk {
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.open.iter().map(|open| Some(open.until)).fold(None, earlier)
    }

    /// Takes a wish; the events it means to the engine.
    fn take(&mut self, taken: Result<Taken, Reply>, reply: oneshot::Sender<Reply>, engine: &Engine) -> Vec<Event> {
        let stopping = || Reply::Refused { why: "firstmate is stopping; wait for it to be gone, then start it again".to_owned() };
        match taken {
            Ok(_) if engine.phase() != Phase::Running => {
                let _ = reply.send(stopping());
                Vec::new()
            }
            Ok((entries, until, events)) => {
                self.open.push(Open { entries, until, diff: None, reply: Some(reply) });
                events
            }
            Err(no) => {
                let _ = reply.send(no);
                Vec::new()
            }
        }
    }

    /// Waits for what an update moves; it has been handed to the engine.
    pub(super) fn open_update(
        &mut self,
        watched: Vec<Watched>,
        diff: Diff,
        patience: Patience,
        reply: oneshot::Sender<Reply>,
        now: Timestamp,
    ) {
        let own = watched.iter().fold(PATIENCE, |sum, one| sum.saturating_add(one.longest));
        let entry = |Watched { id, name, aim, run_before, verdict, longest: _ }| Entry { id, name, aim, run_before, verdict };
        let mut entries: Vec<Entry> = watched.into_iter().map(entry).collect();
        let until = until(&mut entries, patience, own, now);
        self.open.push(Open { entries, until, diff: Some(Box::new(diff)), reply: Some(reply) });
    }

    /// What became of an operator's signal.
    pub(super) fn sent(&mut self, run: RunId, signal: Signal, sent: &Sent) {
        let waits = |entry: &&mut Entry| entry.id == run.instance && entry.aim == Aim::Signal(signal) && entry.verdict.is_none();
        for entry in self.open.iter_mut().flat_map(|open| &mut open.entries).filter(waits) {
            entry.verdict = Some(match sent.refused.first() {
                None if sent.reached == 0 => Verdict::Failed { why: "it has just ended".to_owned() },
                None => Verdict::Signalled { signal: signal.to_string(), processes: sent.reached },
                Some((pid, errno)) => {
                    let error = std::io::Error::from_raw_os_error(*errno);
                    Verdict::Failed { why: format!("pid {pid}: {error}; is it another user's, and firstmate not root?") }
                }
            });
        }
    }

    /// Answers every wish that is fulfilled, or cannot be. Called after whatever happens, so it costs as much as there are instances that are
    /// waited for, however large the stack is.
    pub(super) fn settle(&mut self, engine: &Engine, now: Timestamp) {
        if self.open.is_empty() {
            return;
        }
        let stopping = engine.phase() != Phase::Running;
        for open in &mut self.open {
            let late = open.until <= now;
            for entry in open.entries.iter_mut().filter(|entry| entry.verdict.is_none()) {
                entry.verdict = entry.judged(engine, now, stopping, late);
            }
            if open.entries.iter().all(|entry| entry.verdict.is_some())
                && let Some(reply) = open.reply.take()
            {
                let instances = open
                    .entries
                    .iter_mut()
                    .filter_map(|entry| Some(Answer { instance: std::mem::take(&mut entry.name), verdict: entry.verdict.take()? }))
                    .collect();
                let _ = reply.send(match open.diff.take() {
                    Some(diff) => Reply::Update { diff, instances },
                    None => Reply::Done { instances },
                });
            }
        }
        self.open.retain(|open| open.reply.as_ref().is_some_and(|reply| !reply.is_closed()));
    }
}

impl Entry {
    fn waits_for_its_turn(&self, engine: &Engine) -> bool {
        let left = engine.roll(self.id.service).is_some_and(|roll| roll.is_going() && roll.left.contains(&self.id.number));
        left && matches!(self.aim, Aim::Turn(_))
    }

    /// `None`: not decided yet.
    fn judged(&self, engine: &Engine, now: Timestamp, stopping: bool, late: bool) -> Option<Verdict> {
        let Some(status) = engine.instance_status_of(now, self.id) else {
            return Some(match self.aim {
                Aim::Gone => Verdict::Removed,
                Aim::Down => Verdict::Stopped,
                Aim::Up | Aim::NewRun | Aim::Turn(_) | Aim::Signal(_) if !engine.is_there(self.id.service) => {
                    Verdict::Failed { why: "it is there no longer: its service is not in the file any more".to_owned() }
                }
                Aim::Up | Aim::NewRun | Aim::Turn(_) | Aim::Signal(_) => {
                    Verdict::Failed { why: "it is there no longer: its service has fewer instances now".to_owned() }
                }
            });
        };
        let verdict = match self.aim {
            Aim::Turn(order) => judge_turn(engine, self.id, order, self.run_before, &status),
            // It would have been sent by now.
            Aim::Signal(_) => Some(Verdict::Failed { why: format!("it is {}, so there is nothing to send it to", status.state) }),
            aim @ (Aim::Up | Aim::Down | Aim::NewRun | Aim::Gone) => judge(aim, self.run_before, &status),
        };
        // Somebody else has had another wish since, so it is not to come.
        let unwanted = matches!(self.aim, Aim::Up | Aim::NewRun) && engine.is_wanted_down(self.id);
        // A removal that has begun goes on whatever happens; one that waits for another instance to be ready may yet come to nothing.
        let waits_to_go = self.aim == Aim::Gone && !engine.is_leaving(self.id);
        // What an update makes of it holds only when nothing of the old runs is left.
        let waits_for_update = waits_to_go && engine.is_pending(self.id.service);
        let down = matches!(self.aim, Aim::Down | Aim::Gone) && !waits_to_go;
        match verdict {
            None if unwanted => Some(Verdict::Failed { why: "it was stopped meanwhile".to_owned() }),
            None if stopping && !down => Some(Verdict::Failed { why: "firstmate is stopping".to_owned() }),
            None if waits_to_go && !waits_for_update && self.id.number <= engine.instances_to_be(self.id.service) => {
                Some(Verdict::Failed { why: "it stays: another number of instances has been asked for since".to_owned() })
            }
            None if late && waits_to_go && !waits_for_update => {
                Some(Verdict::Failed { why: "it goes once another instance is ready, for which a rolling restart waits".to_owned() })
            }
            None if late && self.waits_for_its_turn(engine) => {
                Some(Verdict::Failed { why: "its turn has not come; the rolling restart goes on".to_owned() })
            }
            None if late => Some(Verdict::Failed { why: still(&status) }),
            verdict => verdict,
        }
    }
}

type Taken = (Vec<Entry>, Timestamp, Vec<Event>);

/// What a wish means: whom to watch, until when, and what to tell the engine.
fn wished(wish: &Wish, engine: &Engine, now: Timestamp) -> Result<Taken, Reply> {
    let mut patience = Duration::ZERO;
    let mut concerned = Vec::new();
    let mut entries = Vec::new();
    for id in names::resolve(engine, &wish.names)? {
        let (Some(service), Some(status)) = (engine.service(id.service), engine.instance_status_of(now, id)) else { continue };
        let longest = service.stop.timeout.saturating_add(service.start_timeout).saturating_add(PATIENCE);
        let (aim, verdict) = match wish.verb {
            Verb::Start if is_up(&status) && status.state != StateName::Completed => (Aim::Up, Some(Verdict::AlreadyStarted)),
            Verb::Start => (Aim::Up, None),
            Verb::Stop if is_down(&status) => (Aim::Down, Some(Verdict::AlreadyStopped)),
            Verb::Stop => (Aim::Down, None),
            Verb::Restart => (Aim::NewRun, None),
            Verb::Roll if engine.is_pending(id.service) => (Aim::NewRun, Some(Verdict::Failed { why: being_updated(service) })),
            Verb::Roll if !engine.may_roll(id.service) => (Aim::NewRun, Some(Verdict::Failed { why: cannot_roll(service) })),
            Verb::Roll => {
                let before = engine.roll(id.service);
                let order = before.map_or(1, |roll| if roll.is_going() { roll.order } else { roll.order.saturating_add(1) });
                (Aim::Turn(order), None)
            }
            Verb::Reload => match service.reload_signal {
                Some(signal) => (Aim::Signal(signal), None),
                None => (Aim::NewRun, Some(Verdict::Failed { why: cannot_reload(service) })),
            },
            Verb::Signal { signal, to: _ } => (Aim::Signal(signal), None),
        };
        patience = match aim {
            // One after the other, and each may first have to wait for the others.
            Aim::Turn(_) => patience.saturating_add(longest).saturating_add(service.start_timeout),
            Aim::Up | Aim::Down | Aim::NewRun | Aim::Signal(_) | Aim::Gone => patience.max(longest),
        };
        // Who is up, or down, already gets the wish as well: it may be about to change.
        let refused = matches!(verdict, Some(Verdict::Failed { .. }));
        if !refused {
            concerned.push(id);
        }
        entries.push(Entry { id, name: status.name, aim, run_before: status.run, verdict });
    }
    let until = until(&mut entries, wish.patience, patience, now);
    Ok((entries, until, vec![Event::Command(Command { verb: wish.verb, instances: concerned })]))
}

/// The same of other numbers of instances.
fn scaled(scale: &Scale, engine: &Engine, now: Timestamp) -> Result<Taken, Reply> {
    let mut patience = Duration::ZERO;
    let (mut entries, mut events) = (Vec::new(), Vec::new());
    let mut wanted: Vec<(ServiceId, u16)> = Vec::new();
    let mut named = Vec::with_capacity(scale.services.len());
    for (name, to) in &scale.services {
        named.extend(names::services(engine, name, *to)?.into_iter().map(|id| (id, to)));
    }
    for (id, to) in named {
        let Some(service) = engine.service(id) else { continue };
        if wanted.iter().any(|(known, _)| *known == id) {
            return Err(Reply::Failed { why: format!("{} is named twice", service.name) });
        }
        if let Some(why) = cannot_scale(engine, id, service, *to) {
            return Err(Reply::Failed { why });
        }
        wanted.push((id, *to));
    }
    for (id, to) in wanted {
        let Some(service) = engine.service(id) else { continue };
        let from = engine.instances_wanted(id);
        let own = service.stop.timeout.saturating_add(service.start_timeout);
        // A removal may have to wait for an instance that a rolling restart brings back, and that one for what it depends on.
        let rolls = engine.roll(id).is_some_and(Roll::is_going);
        let wait = if rolls { own.saturating_add(service.start_timeout) } else { Duration::ZERO };
        patience = patience.max(own.saturating_add(wait).saturating_add(PATIENCE));
        let entry = |number: u16, aim, verdict, name| Entry { id: InstanceId { service: id, number }, name, aim, run_before: 0, verdict };
        let scaled = Verdict::Scaled { from, to, in_file: service.instances };
        entries.push(entry(0, Aim::Gone, Some(scaled), service.name.clone()));
        let added = if engine.adds_up(id) { Aim::Up } else { Aim::Down };
        for number in from.saturating_add(1)..=to {
            let instance = InstanceId { service: id, number };
            entries.push(entry(number, added, None, engine.instance_name(instance)));
        }
        for number in (to.saturating_add(1)..=from).rev() {
            let instance = InstanceId { service: id, number };
            entries.push(entry(number, Aim::Gone, None, engine.instance_name(instance)));
        }
        events.push(Event::Scale { service: id, instances: to });
    }
    let until = until(&mut entries, scale.patience, patience, now);
    Ok((entries, until, events))
}

/// When the answer is due, whatever it is by then.
fn until(entries: &mut [Entry], asked: Patience, own: Duration, now: Timestamp) -> Timestamp {
    match asked {
        Patience::Own => now.after(own.max(PATIENCE)),
        Patience::AtMost(most) => now.after(most),
        Patience::None => {
            // A signal is sent before anybody could leave.
            for entry in entries.iter_mut().filter(|entry| entry.verdict.is_none() && !matches!(entry.aim, Aim::Signal(_))) {
                entry.verdict = Some(Verdict::Begun);
            }
            now.after(own.max(PATIENCE))
        }
    }
}

fn being_updated(service: &Service) -> String {
    format!("{} is being updated; try again once that is done", service.name)
}

fn cannot_roll(service: &Service) -> String {
    match service.kind {
        Kind::Oneshot => "a oneshot serves nobody; leave out --rolling".to_owned(),
        Kind::Service => format!(
            "{name} has one instance, without which it is not ready; give it a second one (`firstmate scale {name}=2`, or instances = 2 in \
             the file), or leave out --rolling",
            name = service.name
        ),
    }
}

fn cannot_reload(service: &Service) -> String {
    format!(
        "{name} has no reload_signal; add reload_signal = \"HUP\", or whichever signal makes it read its configuration anew, to \
         [services.{name}], or use `firstmate restart {name}`",
        name = service.name
    )
}

/// Why a service cannot have so many instances.
fn cannot_scale(engine: &Engine, id: ServiceId, service: &Service, to: u16) -> Option<String> {
    let name = &service.name;
    if engine.is_pending(id) {
        return Some(being_updated(service));
    }
    if service.kind == Kind::Oneshot {
        return Some(format!("{name} is a oneshot, which runs as often as the file says"));
    }
    let port = service.launch.port?;
    let Some(last) = port.checked_add(to.saturating_sub(1)) else {
        return Some(format!("no PORT is left for {name}.{to}: {port} + {} is beyond 65535", to.saturating_sub(1)));
    };
    // Only a number that grows can take another's ports.
    if to <= engine.instances_wanted(id) {
        return None;
    }
    engine.service_ids().filter(|other| *other != id).find_map(|other| {
        let first = engine.service(other)?.launch.port?;
        let end = first.saturating_add(engine.instances_wanted(other).saturating_sub(1));
        let taken = port.max(first);
        (taken <= last.min(end)).then(|| {
            let whose = InstanceId { service: other, number: taken.saturating_sub(first).saturating_add(1) };
            format!(
                "{name}.{} would get PORT {taken}, which is that of {}",
                taken.saturating_sub(port).saturating_add(1),
                engine.instance_name(whose)
            )
        })
    })
}

/// What came of an instance's turn in a rolling restart.
fn judge_turn(engine: &Engine, id: InstanceId, order: u32, run_before: u32, status: &InstanceStatus) -> Option<Verdict> {
    let roll = engine.roll(id.service).filter(|roll| roll.order == order);
    if roll.is_some_and(|roll| roll.is_pending(id.number)) {
        return None;
    }
    let stopped = roll.and_then(|roll| match roll.state {
        RollState::Stopped { at, why } => Some((at, why, roll.left.contains(&id.number))),
        RollState::Waiting { .. } | RollState::Coming { .. } | RollState::Done => None,
    });
    let name = |number| engine.instance_name(InstanceId { number, ..id });
    Some(match stopped {
        Some((at, why, _)) if at == id.number => {
            let why = roll_stop(why, name);
            let now = status.why.as_deref().filter(|_| status.run > run_before).map(|why| format!(" ({why})")).unwrap_or_default();
            Verdict::Failed { why: format!("{why}{now}") }
        }
        Some((at, _, true)) => Verdict::Failed { why: format!("it keeps its run, since the rolling restart stopped at {}", name(at)) },
        Some(_) | None if status.run > run_before && is_up(status) => Verdict::Restarted,
        Some(_) | None => Verdict::Failed { why: still(status) },
    })
}

fn is_up(status: &InstanceStatus) -> bool {
    match status.state {
        StateName::Running => status.ready,
        StateName::Completed => true,
        StateName::Stopped
        | StateName::Waiting
        | StateName::Starting
        | StateName::Stopping
        | StateName::Backoff
        | StateName::Exited
        | StateName::Failed => false,
    }
}

const fn is_down(status: &InstanceStatus) -> bool {
    match status.state {
        StateName::Stopped | StateName::Completed | StateName::Exited | StateName::Failed => true,
        StateName::Waiting | StateName::Starting | StateName::Running | StateName::Stopping | StateName::Backoff => false,
    }
}

/// `None`: not decided yet.
fn judge(aim: Aim, run_before: u32, status: &InstanceStatus) -> Option<Verdict> {
    let failed = || {
        let why = status.why.clone().unwrap_or_else(|| status.state.to_string());
        Some(Verdict::Failed { why })
    };
    match aim {
        Aim::Down => is_down(status).then_some(Verdict::Stopped),
        // Judged by others.
        Aim::Gone | Aim::Turn(_) | Aim::Signal(_) => None,
        Aim::Up | Aim::NewRun => {
            if status.run <= run_before && !(aim == Aim::Up && status.state == StateName::Running) {
                // The new run has not begun; that it never will is known only of these.
                return match status.state {
                    StateName::Failed if status.why.is_some() && status.pid.is_none() => failed(),
                    StateName::Stopped
                    | StateName::Waiting
                    | StateName::Starting
                    | StateName::Running
                    | StateName::Stopping
                    | StateName::Backoff
                    | StateName::Completed
                    | StateName::Exited
                    | StateName::Failed => None,
                };
            }
            match status.state {
                StateName::Running | StateName::Completed if is_up(status) => {
                    Some(if aim == Aim::Up { Verdict::Started } else { Verdict::Restarted })
                }
                StateName::Backoff | StateName::Failed | StateName::Exited => failed(),
                StateName::Stopped
                | StateName::Waiting
                | StateName::Starting
                | StateName::Running
                | StateName::Stopping
                | StateName::Completed => None,
            }
        }
    }
}

fn still(status: &InstanceStatus) -> String {
    match &status.why {
        Some(why) => format!("still {}: {why}", status.state),
        None => format!("still {}", status.state),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::config::check_toml;

    /// How long it takes to look whether the stop of one instance is over, at best.
    fn a_look(services: usize) -> Duration {
        let mut file = String::new();
        for number in 0..services {
            let _ = writeln!(file, "[services.s{number}]\ncommand = 'x'");
        }
        let spec = check_toml(Path::new("firstmate.toml"), file.as_bytes()).unwrap();
        let now = Timestamp::ZERO;
        let mut engine = Engine::new(spec, 1, now);
        let mut actions = Vec::new();
        engine.step(now, Event::Tick, &mut actions);
        let mut desk = Desk::default();
        let wish = Wish { verb: Verb::Stop, names: vec!["s0".to_owned()], patience: Patience::Own };
        let (reply, mut answer) = oneshot::channel();
        for event in desk.take(wished(&wish, &engine, now), reply, &engine) {
            engine.step(now, event, &mut actions);
        }
        let mut a_round = || {
            let began = Instant::now();
            (0..100).for_each(|_| desk.settle(&engine, now));
            began.elapsed()
        };
        let best = (0..20).map(|_| a_round()).min().unwrap_or_default();
        assert!(answer.try_recv().is_err(), "it is still waited for");
        best
    }

    /// Takes a wish, and hands it to the engine.
    fn wish(desk: &mut Desk, engine: &mut Engine, verb: Verb) -> oneshot::Receiver<Reply> {
        let wish = Wish { verb, names: vec!["web".to_owned()], patience: Patience::Own };
        let (reply, answer) = oneshot::channel();
        for event in desk.take(wished(&wish, engine, Timestamp::ZERO), reply, engine) {
            engine.step(Timestamp::ZERO, event, &mut Vec::new());
        }
        desk.settle(engine, Timestamp::ZERO);
        answer
    }

    #[test]
    fn who_waits_for_a_run_is_told_at_once_that_somebody_else_has_stopped_it() {
        let spec = check_toml(Path::new("firstmate.toml"), b"[services.web]\ncommand = 'x'").unwrap();
        let now = Timestamp::ZERO;
        let mut engine = Engine::new(spec, 1, now);
        engine.step(now, Event::Tick, &mut Vec::new());
        let run = engine.current_run(InstanceId { service: ServiceId(0), number: 1 }).unwrap();
        engine.step(now, Event::Spawned { run, pid: 2 }, &mut Vec::new());
        engine.step(now, Event::Executed { run }, &mut Vec::new());
        let mut desk = Desk::default();
        let mut restarted = wish(&mut desk, &mut engine, Verb::Restart);
        assert!(restarted.try_recv().is_err(), "its old run is still being ended");
        let _stopped = wish(&mut desk, &mut engine, Verb::Stop);
        let Ok(Reply::Done { instances }) = restarted.try_recv() else { panic!("it waits for a run that is not to come") };
        assert_eq!(instances.first().unwrap().verdict, Verdict::Failed { why: "it was stopped meanwhile".to_owned() });
    }

    #[test]
    fn an_open_wish_costs_as_much_in_a_large_stack_as_in_a_small_one() {
        let (small, large) = (a_look(2), a_look(1_000));
        assert!(large < small * 20, "{small:?} with 2 services and {large:?} with 1,000");
    }
}
