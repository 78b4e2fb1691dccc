//! Everything that is said: services' lines, firstmate's own, all through one sink that never blocks.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;

use super::reading::Books;
use crate::config::LogBuffers;
use crate::engine::status::LimitSource;
use crate::engine::{Engine, InstanceId, MemoryNotice, Notice, ServiceId};
use crate::linux::output::{Gap, Origin, Piece, QUEUE, Sink};
use crate::linux::poll::Poller;
use crate::observe::metrics::{Lines, OfLog};
use crate::observe::notice::{self, Names, dropped};
use crate::observe::{Format, Level, Look, OwnLines, Stream, install, no_colour_wanted};

/// The names of services and instances, made once.
struct NameTable {
    services: Vec<String>,
    /// By service, then by number from 1.
    instances: Vec<Vec<String>>,
}

impl Names for NameTable {
    fn service(&self, id: ServiceId) -> Option<&str> {
        self.services.get(id.0).map(String::as_str)
    }
}

pub(super) struct Output {
    sink: Arc<Mutex<Sink>>,
    format: Format,
    discretion: Discretion,
    names: NameTable,
    /// What was said, for whoever asks later or reads along.
    pub(super) books: Books,
    /// Of each instance's standard output and standard error, as `names` has them.
    counts: Vec<Vec<[Lines; 2]>>,
    line: Vec<u8>,
    text: String,
}

impl Output {
    pub(super) fn new(engine: &Engine, poller: Arc<Poller>, token: u64, log_buffers: &LogBuffers, look: Look) -> std::io::Result<Self> {
        let stdout = std::io::stdout();
        let no_colour = no_colour_wanted(std::env::var_os("NO_COLOR").as_deref(), std::env::var_os("TERM").as_deref());
        let mut format = Format::detect(stdout.is_terminal(), no_colour).look(look);
        let services: Vec<String> = engine.names().map(ToOwned::to_owned).collect();
        let mut instances: Vec<Vec<String>> = services.iter().map(|_| Vec::new()).collect();
        for id in engine.instance_ids() {
            if let Some(numbered) = instances.get_mut(id.service.0) {
                numbered.push(engine.instance_name(id));
            }
        }
        format.fit_names(instances.iter().flatten().map(String::as_str));
        let counts = instances.iter().map(|numbered| vec![<[Lines; 2]>::default(); numbered.len()]).collect();
        let mut gap_format = format.clone();
        let tell = Box::new(move |out: &mut Vec<u8>, gap: Gap| {
            let text = dropped(gap.lines, gap.unread_for, gap.errno.map_or(0, |errno| errno as i32)).to_string();
            gap_format.own_line(out, SystemTime::now(), Level::Warn, &text);
        });
        let sink = Arc::new(Mutex::new(Sink::open(stdout.as_fd(), poller, token, QUEUE, tell)?));
        let shared = Arc::clone(&sink);
        // Another subscriber can only be there when a program embeds this crate; then it hears what libraries say.
        let _ = install(OwnLines::new(tracing::Level::INFO, format.clone(), move |line: &[u8]| {
            // Held by this very thread when the sink itself logs; waiting would be for ever.
            if let Ok(mut sink) = shared.try_lock() {
                sink.push(line, Origin::Own);
            }
        }));
        let books = Books::new();
        for (index, name) in services.iter().enumerate() {
            books.lines.borrow_mut().define(ServiceId(index), log_buffers.of(name));
        }
        Ok(Self {
            sink,
            format,
            discretion: Discretion::new(look.development),
            names: NameTable { services, instances },
            books,
            counts,
            line: Vec::new(),
            text: String::new(),
        })
    }

    /// The service has so many instances now. Names and counts of those that have gone stay: they may come again.
    pub(super) fn fit(&mut self, service: ServiceId, instances: u16) {
        let (Some(name), Some(numbered)) = (self.names.services.get(service.0), self.names.instances.get_mut(service.0)) else { return };
        for number in numbered.len().saturating_add(1)..=usize::from(instances) {
            numbered.push(format!("{name}.{number}"));
        }
        let known = numbered.len();
        if let Some(counts) = self.counts.get_mut(service.0) {
            counts.resize_with(known, Default::default);
        }
        self.format.fit_names(self.names.instances.iter().flatten().map(String::as_str));
    }

    /// A service has come, or has another definition, and has so many instances at present.
    pub(super) fn define(&mut self, service: ServiceId, name: &str, instances: u16, log_buffers: &LogBuffers) {
        // The engine numbers them without a gap.
        self.books.lines.borrow_mut().define(service, log_buffers.of(name));
        if service.0 >= self.names.services.len() {
            self.names.services.push(name.to_owned());
            self.names.instances.push(Vec::new());
            self.counts.push(Vec::new());
        }
        self.fit(service, instances);
    }

    /// A service has gone. Its name stays: no other has its number.
    pub(super) fn forget(&mut self, service: ServiceId) {
        if let (Some(numbered), Some(counts)) = (self.names.instances.get_mut(service.0), self.counts.get_mut(service.0)) {
            numbered.clear();
            counts.clear();
        }
        self.books.lines.borrow_mut().forget(service);
    }

    /// `web.1`.
    pub(super) fn instance_name(&self, id: InstanceId) -> &str {
        let number = usize::from(id.number).saturating_sub(1);
        self.names.instances.get(id.service.0).and_then(|numbered| numbered.get(number)).map_or("?", String::as_str)
    }

    pub(super) fn service_line(&mut self, id: InstanceId, stream: Stream, piece: Piece<'_>) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let number = usize::from(id.number).saturating_sub(1);
        let name = self.names.instances.get(id.service.0).and_then(|numbered| numbered.get(number)).map_or("?", String::as_str);
        let now = SystemTime::now();
        self.format.service_line(&mut line, now, name, id.service.0, stream, piece.text, piece.continued);
        let taken = lock(&self.sink).push(&line, Origin::Service);
        self.books.line(id, now, stream, piece.text, piece.continued);
        self.line = line;
        if let Some(of_streams) = self.counts.get_mut(id.service.0).and_then(|numbered| numbered.get_mut(number)) {
            let [out, err] = of_streams;
            let lines = match stream {
                Stream::Out => out,
                Stream::Err => err,
            };
            lines.read = lines.read.saturating_add(u64::from(!piece.continued));
            lines.dropped = lines.dropped.saturating_add(u64::from(!taken));
        }
    }

    /// Each instance's name and what it has written on standard output and standard error.
    pub(super) fn counted(&self) -> impl Iterator<Item = (InstanceId, &str, [Lines; 2])> {
        self.names.instances.iter().zip(&self.counts).enumerate().flat_map(|(service, (names, counts))| {
            names
                .iter()
                .zip(counts)
                .zip(1..)
                .map(move |((name, lines), number)| (InstanceId { service: ServiceId(service), number }, name.as_str(), *lines))
        })
    }

    /// The log as a whole.
    pub(super) fn log(&self) -> OfLog {
        let sink = lock(&self.sink);
        OfLog { dropped: Some(sink.dropped()), queued_bytes: u64::try_from(sink.queued()).ok() }
    }

    /// A line of firstmate's own.
    pub(super) fn say(&mut self, level: Level, text: &str) {
        self.line.clear();
        self.format.own_line(&mut self.line, SystemTime::now(), level, text);
        lock(&self.sink).push(&self.line, Origin::Own);
    }

    /// Tells a notice, and gives back what was said.
    pub(super) fn notice(&mut self, notice: &Notice) -> String {
        let mut text = std::mem::take(&mut self.text);
        let level = notice::tell(notice, &self.names, &mut text);
        if !self.discretion.leaves_out(notice) {
            self.say(level, &text);
        }
        self.books.notice(notice, &self.names, level, &text);
        let said = if matches!(notice, Notice::Over { .. }) { text.clone() } else { String::new() };
        self.text = text;
        said
    }

    /// For those who ask whether the log is written, at any time.
    pub(super) fn health(&self) -> LogHealth {
        LogHealth(Arc::clone(&self.sink))
    }

    pub(super) fn flush(&self) {
        lock(&self.sink).flush();
    }

    pub(super) fn flush_until(&self, deadline: Instant) {
        lock(&self.sink).flush_until(deadline);
    }
}

/// What the log leaves out where a person works on it: that no limit of memory is set but the machine's, and how the memory of each service is known
/// once the machine is well used. Both are news in a container, where a limit should be set, and every laptop's ordinary case. The guard is at work
/// all the same: `status` and `events` tell it, and the log what the guard does.
#[derive(Debug, Clone, Copy)]
struct Discretion {
    development: bool,
    /// The limit is the machine's.
    machine: bool,
}

impl Discretion {
    const fn new(development: bool) -> Self {
        Self { development, machine: false }
    }

    fn leaves_out(&mut self, notice: &Notice) -> bool {
        let Notice::Memory(notice) = notice else { return false };
        if let MemoryNotice::Limit { limit, .. } = notice {
            self.machine = limit.as_ref().is_some_and(|limit| limit.source == LimitSource::Machine);
        }
        self.development && self.machine && matches!(notice, MemoryNotice::Limit { .. } | MemoryNotice::Method { .. })
    }
}

/// Whether the log gets anywhere.
pub(super) struct LogHealth(Arc<Mutex<Sink>>);

/// As kube-apiserver's `log` check has it: a reader may pause, and a pipe fills in no time.
const BLOCKED_AFTER: Duration = Duration::from_secs(120);

impl LogHealth {
    /// `None` while it does.
    pub(super) fn trouble(&self) -> Option<String> {
        let sink = lock(&self.0);
        trouble_of(sink.broken(), sink.stalled_for())
    }
}

fn trouble_of(broken: Option<Errno>, stalled: Option<Duration>) -> Option<String> {
    if let Some(errno) = broken {
        return Some(format!("standard output cannot be written: {}; restart the container to have its log again", errno.desc()));
    }
    let stalled = stalled.filter(|stalled| *stalled >= BLOCKED_AFTER)?;
    Some(format!("standard output has taken nothing for {} s; see what reads the container's log", stalled.as_secs()))
}

/// A panic while it was held left a queue of whole lines, which is as good as ever.
fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::Limit;
    use crate::engine::status::MemoryMethod;

    #[test]
    fn only_who_develops_without_a_limit_is_spared_what_is_no_news() {
        let limit = |source| {
            let limit = Limit { bytes: 1 << 30, source, place: String::new(), growth_max: 1 << 30 };
            Notice::Memory(MemoryNotice::Limit { limit: Some(limit), restart_above: None })
        };
        let method = Notice::Memory(MemoryNotice::Method { service: ServiceId(0), method: MemoryMethod::Pss });
        let cannot = Notice::Memory(MemoryNotice::Readable(false));
        for (development, source, left_out) in [
            (true, LimitSource::Machine, true),
            (true, LimitSource::CgroupV2, false),
            (true, LimitSource::Configured, false),
            (false, LimitSource::Machine, false),
        ] {
            let mut discretion = Discretion::new(development);
            assert_eq!(discretion.leaves_out(&limit(source)), left_out, "{development} {source:?}");
            assert_eq!(discretion.leaves_out(&method), left_out, "{development} {source:?}");
            assert!(!discretion.leaves_out(&cannot), "{development} {source:?}");
            // A limit that is found later.
            assert!(!discretion.leaves_out(&limit(LimitSource::CgroupV1)) && !discretion.leaves_out(&method));
        }
    }

    #[test]
    fn a_pause_is_no_trouble_and_silence_is() {
        assert_eq!(trouble_of(None, None), None);
        assert_eq!(trouble_of(None, Some(BLOCKED_AFTER - Duration::from_millis(1))), None);
        let silent = "standard output has taken nothing for 121 s; see what reads the container's log";
        assert_eq!(trouble_of(None, Some(Duration::from_millis(121_900))).as_deref(), Some(silent));
        let broken = "standard output cannot be written: Broken pipe; restart the container to have its log again";
        assert_eq!(trouble_of(Some(Errno::EPIPE), None).as_deref(), Some(broken));
    }
}
