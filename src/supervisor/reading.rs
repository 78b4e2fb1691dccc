//! Those who read along: `logs`, `events` and `env` as the server asks for them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::log_book::{LogBook, Look, Reader, Shared, WHOLE, Wanted, Whom};
use super::log_ring::Entry;
use super::names::{resolve, resolve_lasting};
use super::verbs::Counter;
use super::{Message, Supervisor};
use crate::engine::{Engine, InstanceId, Notice, RunId};
use crate::observe::{Format, Happening, Level, Names, Stream};
use crate::server::{Feed, Reading, Reply, Variable, Variables};

/// For all events together, in bytes: some two hundred of them.
const EVENTS: usize = 32 * 1024;

/// Who follows gets the last lines before firstmate is gone, if it reads.
const LEAVE_WITHIN: Duration = Duration::from_millis(100);

/// The two books that are open to readers.
#[derive(Debug, Clone)]
pub(super) struct Books {
    /// What services wrote.
    pub(super) lines: Shared,
    /// What happened, an object a line.
    pub(super) events: Shared,
}

impl Books {
    /// Empty, and without a service yet.
    pub(super) fn new() -> Self {
        let shared = |book| Rc::new(RefCell::new(book));
        Self { lines: shared(LogBook::of_each()), events: shared(LogBook::of_all(EVENTS)) }
    }

    /// A line, or a piece of one that `continues` the last.
    pub(super) fn line(&self, id: InstanceId, now: SystemTime, stream: Stream, text: &[u8], continued: bool) {
        self.lines.borrow_mut().add(id, unix_ms(now), stream, text, continued);
    }

    /// What a notice says has happened.
    pub(super) fn notice(&self, notice: &Notice, names: &dyn Names, level: Level, text: &str) {
        if let Some((id, happening)) = Happening::of(notice, names, level, text) {
            self.happened(id, happening);
        }
    }

    pub(super) fn happened(&self, id: Option<InstanceId>, happening: Happening) {
        let mut events = self.events.borrow_mut();
        let at_unix_ms = unix_ms(SystemTime::now());
        let happening = Happening { number: Some(events.next_number()), at_unix_ms, ..happening };
        // Plain data is always to be written.
        if let Ok(text) = serde_json::to_string(&happening) {
            events.add(id.unwrap_or(WHOLE), at_unix_ms, Stream::Out, text.as_bytes(), false);
        }
    }

    /// The incidents the engine has kept since this was called last. `known` is the number of the last one.
    pub(super) fn incidents(&self, engine: &Engine, known: &mut u64) {
        for (number, instance) in engine.incidents_after(*known) {
            let id = instance.and_then(|name| engine.instance_ids().find(|id| engine.instance_name(*id) == name));
            self.happened(id, Happening::incident(number, instance));
            *known = number;
        }
    }

    /// Nothing more comes; waits a moment for those who follow to get what is left.
    pub(super) async fn close(&self) {
        let books = [&self.lines, &self.events];
        for book in books {
            book.borrow_mut().close();
        }
        let deadline = Instant::now() + LEAVE_WITHIN;
        while books.iter().any(|book| book.borrow().is_followed()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn unix_ms(now: SystemTime) -> u64 {
    u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Lines as they stand in the log where it is no terminal.
struct Plain {
    format: Format,
    engine: Rc<RefCell<Engine>>,
    names: BTreeMap<InstanceId, String>,
}

impl Look for Plain {
    fn line(&mut self, entry: &Entry, text: &[u8], out: &mut Vec<u8>) {
        let name = self.names.entry(entry.owner).or_insert_with(|| self.engine.borrow().instance_name(entry.owner));
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(entry.at_ms)).unwrap_or(UNIX_EPOCH);
        self.format.service_line(out, at, name, 0, entry.stream, text, entry.continued);
    }

    fn lost(&mut self, lines: u64, out: &mut Vec<u8>) {
        let text = match lines {
            1 => "1 line lost: it came faster than it was read".to_owned(),
            lines => format!("{lines} lines lost: they came faster than they were read"),
        };
        self.format.own_line(out, SystemTime::now(), Level::Warn, &text);
    }
}

/// Lines that are objects already.
struct Json;

impl Look for Json {
    fn line(&mut self, _: &Entry, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(text);
        out.push(b'\n');
    }

    fn lost(&mut self, lines: u64, out: &mut Vec<u8>) {
        let happening = Happening { at_unix_ms: unix_ms(SystemTime::now()), ..Happening::lost(lines) };
        if let Ok(text) = serde_json::to_string(&happening) {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
    }
}

impl Counter {
    pub(super) fn read_logs(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        let wanted = self.wanted(asked)?;
        let look = Plain { format: Format::detect(false, true), engine: Rc::clone(&self.engine), names: BTreeMap::new() };
        Ok(Box::new(Reader::new(&self.books.lines, wanted, look)))
    }

    pub(super) fn read_events(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        Ok(Box::new(Reader::new(&self.books.events, self.wanted(asked)?, Json)))
    }

    fn wanted(&self, asked: &Reading) -> Result<Wanted, Reply> {
        let named = resolve_lasting(&self.engine.borrow(), &asked.names)?;
        let is_all = asked.names.is_empty() || asked.names.iter().any(|name| name == "all");
        let whom = if is_all { Whom::All } else { Whom::Some(named) };
        let since_ms = asked.since.map(|since| unix_ms(SystemTime::now().checked_sub(since).unwrap_or(UNIX_EPOCH)));
        Ok(Wanted { whom, last: asked.last, since_ms, follow: asked.follow })
    }

    pub(super) fn ask_environment(&self, name: String, values: bool) -> oneshot::Receiver<Result<Variables, Reply>> {
        let (reply, receiver) = oneshot::channel();
        // The loop is gone only when everything is over; the client is told so by the dropped sender.
        let _ = self.messages.send(Message::Environment { name, values, reply });
        receiver
    }
}

impl Supervisor {
    /// The environment that the present run of an instance got, or its next one would get. Of a service with several it is the first's.
    pub(super) fn environment_of(&mut self, name: &str, values: bool) -> Result<Variables, Reply> {
        let engine = Rc::clone(&self.engine);
        let engine = engine.borrow();
        let failed = |why: String| Reply::Failed { why };
        let Some(id) = resolve(&engine, &[name.to_owned()])?.first().copied() else {
            return Err(failed("nothing has that name".to_owned()));
        };
        let run = engine.instance_status_of(self.now(), id).map_or(1, |status| status.run.max(1));
        let run = RunId { instance: id, run };
        let instance = engine.instance_name(id);
        let service = engine.service(id.service).cloned();
        let Some(service) = service else { return Err(failed("its service is not in the file".to_owned())) };
        let prepared = self.environments.prepare(run, &instance, &service, &self.trees);
        let prepared = prepared.and_then(|()| self.announcements.prepare(&service, self.environments.present_mut()));
        prepared.map_err(|error| failed(error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut variables: Vec<Variable> = self
            .environments
            .prepared()
            .iter()
            .map(|(name, value)| Variable { name: text(name), value: values.then(|| text(value)) })
            .collect();
        variables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Variables { instance, variables })
    }
}
