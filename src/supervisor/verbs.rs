//! Operators' wishes: from names to instances, and back to an answer once each is as was wished.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::Message;
use super::output::LogHealth;
use crate::engine::event::earlier;
use crate::engine::status::{InstanceStatus, Phase, StateName, Status};
use crate::engine::{Command, Engine, Event, Incidents, InstanceId, ShutdownCause, Timestamp, Verb};
use crate::observe::metrics::{self, Exposition};
use crate::server::{Answer, Backend, MetricsFormat, Reply, Request, Verdict};

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
    pub(super) messages: UnboundedSender<Message>,
    pub(super) log: LogHealth,
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
        Status { started_unix_ms: self.started_unix_ms, ready, log_blocked_because, ..status }
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
}

/// Wishes that are being carried out. Bounded by the number of connections, each of which waits for one.
#[derive(Default)]
pub(super) struct Desk {
    open: Vec<Open>,
}

struct Open {
    verb: Verb,
    entries: Vec<Entry>,
    until: Timestamp,
    reply: Option<oneshot::Sender<Reply>>,
}

struct Entry {
    id: InstanceId,
    name: String,
    run_before: u32,
    verdict: Option<Verdict>,
}

impl Desk {
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.open.iter().map(|open| Some(open.until)).fold(None, earlier)
    }

    /// Takes a wish; the event it means to the engine.
    pub(super) fn take(&mut self, asked: Asked, engine: &Engine, now: Timestamp) -> Option<Event> {
        let Asked { request, reply } = asked;
        let (verb, names) = match request {
            Request::Start(names) => (Verb::Start, names),
            Request::Stop(names) => (Verb::Stop, names),
            Request::Restart(names) => (Verb::Restart, names),
            Request::Shutdown => {
                // Who asked may be gone by now; the wish stands.
                let _ = reply.send(Reply::Done { instances: Vec::new() });
                return Some(Event::Shutdown(ShutdownCause::Command));
            }
        };
        let refusal = match resolve(engine, &names) {
            Err(unknown) => Err(unknown),
            Ok(_) if engine.status(now, "", 0).phase != Phase::Running => {
                Err(Reply::Refused { why: "firstmate is stopping; wait for it to be gone, then start it again".to_owned() })
            }
            Ok(instances) => Ok(instances),
        };
        let instances = match refusal {
            Ok(instances) => instances,
            Err(no) => {
                let _ = reply.send(no);
                return None;
            }
        };
        let mut patience = PATIENCE;
        let entries = instances
            .iter()
            .filter_map(|id| {
                let service = engine.service(id.service)?;
                patience = patience.max(service.stop.timeout.saturating_add(service.start_timeout).saturating_add(PATIENCE));
                let status = engine.instance_status_of(now, *id)?;
                let already = match verb {
                    Verb::Start if is_up(&status) && status.state != StateName::Completed => Some(Verdict::AlreadyStarted),
                    Verb::Stop if is_down(&status) => Some(Verdict::AlreadyStopped),
                    Verb::Start | Verb::Stop | Verb::Restart => None,
                };
                Some(Entry { id: *id, name: status.name, run_before: status.run, verdict: already })
            })
            .collect();
        self.open.push(Open { verb, entries, until: now.after(patience), reply: Some(reply) });
        Some(Event::Command(Command { verb, instances }))
    }

    /// Answers every wish that is fulfilled, or cannot be.
    pub(super) fn settle(&mut self, engine: &Engine, now: Timestamp) {
        if self.open.is_empty() {
            return;
        }
        let stopping = engine.status(now, "", 0).phase != Phase::Running;
        for open in &mut self.open {
            for entry in &mut open.entries {
                if entry.verdict.is_some() {
                    continue;
                }
                let Some(status) = engine.instance_status_of(now, entry.id) else { continue };
                entry.verdict = judge(open.verb, entry.run_before, &status);
                if entry.verdict.is_none() && stopping && open.verb != Verb::Stop {
                    entry.verdict = Some(Verdict::Failed { why: "firstmate is stopping".to_owned() });
                }
                if entry.verdict.is_none() && open.until <= now {
                    entry.verdict = Some(Verdict::Failed { why: still(&status) });
                }
            }
            if open.entries.iter().all(|entry| entry.verdict.is_some())
                && let Some(reply) = open.reply.take()
            {
                let instances = open
                    .entries
                    .iter_mut()
                    .filter_map(|entry| Some(Answer { instance: std::mem::take(&mut entry.name), verdict: entry.verdict.take()? }))
                    .collect();
                let _ = reply.send(Reply::Done { instances });
            }
        }
        self.open.retain(|open| open.reply.as_ref().is_some_and(|reply| !reply.is_closed()));
    }
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
fn judge(verb: Verb, run_before: u32, status: &InstanceStatus) -> Option<Verdict> {
    let failed = || {
        let why = status.why.clone().unwrap_or_else(|| status.state.to_string());
        Some(Verdict::Failed { why })
    };
    match verb {
        Verb::Stop => is_down(status).then_some(Verdict::Stopped),
        Verb::Start | Verb::Restart => {
            if status.run <= run_before && !(verb == Verb::Start && status.state == StateName::Running) {
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
                    Some(if verb == Verb::Start { Verdict::Started } else { Verdict::Restarted })
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

/// `web`, `web.1` or `all`; each instance once, in the order of the file.
fn resolve(engine: &Engine, names: &[String]) -> Result<Vec<InstanceId>, Reply> {
    let all: Vec<(InstanceId, String)> = engine.instance_ids().map(|id| (id, engine.instance_name(id))).collect();
    let service_of = |name: &str| name.rsplit_once('.').map(|(service, _)| service.to_owned()).unwrap_or_default();
    for name in names {
        let known = name == "all" || all.iter().any(|(_, instance)| instance == name || service_of(instance) == *name);
        if !known {
            let mut nearest: Option<(usize, &str)> = None;
            for candidate in engine.names().chain(all.iter().map(|(_, instance)| instance.as_str())) {
                let distance = strsim::damerau_levenshtein(name, candidate);
                if distance <= 1 + candidate.len() / 4 && nearest.is_none_or(|(best, _)| distance < best) {
                    nearest = Some((distance, candidate));
                }
            }
            return Err(Reply::UnknownName { name: name.clone(), suggestion: nearest.map(|(_, found)| found.to_owned()) });
        }
    }
    let wanted = |instance: &str| names.iter().any(|name| name == "all" || name == instance || *name == service_of(instance));
    Ok(all.iter().filter(|(_, instance)| wanted(instance)).map(|(id, _)| *id).collect())
}
