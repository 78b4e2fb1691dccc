//! From a loaded file to a running loop: sockets, listeners, the first line of the log.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::error::Error as _;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::announcements::Announcements;
use super::environment::Environments;
use super::measure::Gauges;
use super::memory::Memory;
use super::output::Output;
use super::probes::Probes;
use super::siblings;
use super::terminals::Terminals;
use super::update::Updates;
use super::verbs::{Counter, Desk};
use super::{LastWords, Options, SINK, STREAM, Supervisor, argv_of, token};
use crate::config::{Again, Http, Loaded, TerminationLog as Setting};
use crate::engine::spec::Probe;
use crate::engine::{Engine, ServiceId, Spec, Timestamp};
use crate::linux::output::Streams;
use crate::linux::poll::Poller;
use crate::linux::probe::Hosts;
use crate::linux::reap::Reaper;
use crate::linux::signals::Signals;
use crate::linux::termination_log::TerminationLog;
use crate::linux::tree::Trees;
use crate::observe::notice::errno_text;
use crate::observe::{Level, Look, last_words};
use crate::server::{self, BindError, SocketPath, UnixSocket};

/// Where Kubernetes looks for last words; see terminationMessagePath in its documentation.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Where probes are answered when the file says nothing and firstmate is PID 1; the product's contract.
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9180);
/// Something firstmate cannot be without is not to be had; as sysexits(3) numbers it (EX_OSERR).
const CANNOT_RUN: u8 = 71;
/// As sysexits(3) numbers it (EX_UNAVAILABLE): another firstmate is there, or the address is taken.
const UNAVAILABLE: u8 = 69;

/// Says so on standard error, which is all there is before the loop.
pub(super) fn cannot_run(what: &str, error: &std::io::Error) -> u8 {
    eprintln!("error: cannot {what}: {error}");
    CANNOT_RUN
}

pub(super) async fn run(loaded: Loaded, again: Again, options: Options, signals: Signals, reaper: Reaper) -> u8 {
    let origin = Instant::now();
    let started_unix_ms = unix_ms();
    let Loaded { spec, settings, warnings, path, mode, remarks, base_port, .. } = loaded;
    let hosts = if needs_hosts(&spec) { Hosts::read() } else { Hosts::default() };
    let (services_count, instances) =
        (spec.services.len(), spec.services.iter().map(|service| usize::from(service.instances)).sum::<usize>());
    let commands = spec.services.iter().map(|service| argv_of(&service.launch.command)).collect();
    let memory = spec.memory.clone();
    let engine = Rc::new(RefCell::new(Engine::new(spec, seed(), Timestamp::ZERO)));
    let services: Vec<_> = {
        let engine = engine.borrow();
        (0..services_count).filter_map(|index| engine.service(ServiceId(index)).cloned()).collect()
    };
    let poller = match Poller::new() {
        Ok(poller) => Arc::new(poller),
        Err(error) => return cannot_run("create the event poll", &error),
    };
    let look = Look { development: mode.development, no_timestamp: options.no_timestamp };
    let mut output = match Output::new(&engine.borrow(), Arc::clone(&poller), token(SINK, 0), &settings.log_buffers, look) {
        Ok(output) => output,
        Err(error) => return cannot_run("write to standard output", &error),
    };
    let pid = std::process::id();
    output.say(
        Level::Info,
        &format!(
            "firstmate {} is pid {pid}, with {services_count} service{} ({instances} instance{}) from {}",
            env!("CARGO_PKG_VERSION"),
            plural(services_count),
            plural(instances),
            path.display()
        ),
    );
    for remark in &remarks {
        output.say(Level::Info, remark);
    }
    for warning in &warnings {
        let help = warning.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
        output.say(Level::Warn, &format!("{}: {}{help}", warning.place(), warning.message));
    }
    let termination_log = find_termination_log(&settings.termination_log, &mut output);

    let (sender, messages) = mpsc::unbounded_channel();
    let terminals = Rc::new(RefCell::new(Terminals::new(sender.clone())));
    let counter = Rc::new(Counter {
        engine: Rc::clone(&engine),
        origin,
        started_unix_ms,
        file: std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned(),
        messages: sender.clone(),
        log: output.health(),
        books: output.books.clone(),
        terminals: Rc::clone(&terminals),
    });
    let mut context = server::Context::new(counter);
    context.details = settings.http_details;

    let named = options.socket.or_else(|| settings.socket.as_ref().map(|path| SocketPath::parse(path.as_os_str())));
    match bind_socket(named.as_ref(), options.project.as_deref()) {
        Ok(socket) => {
            let context = context.clone();
            tokio::task::spawn_local(async move {
                let Err(error) = server::serve_unix(socket, context).await;
                tracing::error!(%error, "cannot serve the control socket");
            });
        }
        // Whoever names a socket, or has a firstmate there already, must know; elsewhere services matter more than verbs.
        Err(errors) if named.is_some() || errors.iter().any(|error| !error.may_try_elsewhere()) => {
            output.say(Level::Error, &said(&errors));
            output.flush_until(Instant::now() + super::FLUSH_WITHIN);
            cannot_begin(termination_log, UNAVAILABLE, &said(&errors));
            return UNAVAILABLE;
        }
        Err(errors) => output.say(Level::Warn, &format!("there is no control socket, so no verbs: {}", said(&errors))),
    }

    let address = match options.http.unwrap_or(settings.http) {
        Http::Default => (pid == 1).then_some((DEFAULT_HTTP, false)),
        Http::Off => None,
        Http::On(address) => Some((address, true)),
    };
    if let Some((address, asked_for)) = address {
        match server::bind_tcp(address) {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(address);
                if bound.is_ipv4() && address.is_ipv6() {
                    output.say(Level::Warn, &format!("there is no IPv6 here: instead of {address} probes and status get {bound}"));
                }
                output.say(Level::Info, &format!("probes and status are served on http://{bound}"));
                tokio::task::spawn_local(server::serve_tcp(listener, context));
            }
            Err(error) => {
                output.say(if asked_for { Level::Error } else { Level::Warn }, &error.to_string());
                // Without the port that was asked for the platform would see a dead container; better to say why at once.
                if asked_for {
                    output.flush_until(Instant::now() + super::FLUSH_WITHIN);
                    cannot_begin(termination_log, UNAVAILABLE, &error.to_string());
                    return UNAVAILABLE;
                }
            }
        }
    }

    let trees = Trees::new();
    if !trees.sees_processes() {
        output.say(
            Level::Warn,
            "/proc is not mounted for this PID namespace: of a service only the main process and its group can be ended; mount proc on /proc",
        );
    }

    let own_oom_score_adj = own_oom_score_adj();
    let updates = Updates::new(again, settings, memory.clone(), base_port, sender.clone());
    let memory = Memory::new(&memory, &sender, &mut output);
    let announcements = Announcements::new(&services, &poller, &mut output);
    let mut supervisor = Supervisor {
        engine,
        origin,
        events: VecDeque::new(),
        actions: Vec::new(),
        to_spawn: Vec::new(),
        own_oom_score_adj,
        exit: None,
        alarm_at: None,
        trees,
        owners: HashMap::new(),
        runs: BTreeMap::new(),
        clearing: BTreeSet::new(),
        environments: Environments::new(siblings::ports(services.iter().map(AsRef::as_ref))),
        services,
        commands,
        streams: Streams::new(Arc::clone(&poller), STREAM),
        terminals,
        probes: Probes::new(sender.clone(), Arc::clone(&poller), hosts, own_oom_score_adj),
        announcements,
        poller,
        output,
        desk: Desk::default(),
        updates,
        memory,
        gauges: Gauges::default(),
        watcher: None,
        watched: Vec::new(),
        interrupted: false,
        last_incident: 0,
        termination_log,
        last_words: LastWords::default(),
    };
    supervisor.begin_memory();
    supervisor.begin_watch(&sender);
    supervisor.ask_ecs(&sender);
    supervisor.supervise(signals, reaper, messages).await
}

/// Where the last words go. Nothing is said where the platform has made no file, unless one was named.
fn find_termination_log(setting: &Setting, output: &mut Output) -> Option<TerminationLog> {
    let (path, was_named) = match setting {
        Setting::Off => return None,
        Setting::Default => (Path::new(TERMINATION_LOG), false),
        Setting::At(path) => (path.as_path(), true),
    };
    match TerminationLog::find(path) {
        Ok(log) => Some(log),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !was_named => None,
        Err(error) => {
            let why = errno_text(error.raw_os_error().unwrap_or_default());
            let text = format!(
                "why this container ends cannot be written to {}: {why}; it must be a regular file that is there and may be written, or termination_log = \"off\"",
                path.display()
            );
            output.say(Level::Warn, &text);
            None
        }
    }
}

/// The last words of a container in which nothing was started because the file is wrong; `why` is a sentence.
pub fn leave_word(code: u8, why: &str) {
    // The file has no say: it may be what is wrong.
    let named = std::env::var_os(crate::config::TERMINATION_LOG).filter(|path| !path.is_empty());
    if named.as_deref() == Some(OsStr::new("off")) {
        return;
    }
    cannot_begin(TerminationLog::find(Path::new(named.as_deref().unwrap_or(OsStr::new(TERMINATION_LOG)))).ok(), code, why);
}

/// Only for the firstmate that is the container's own: another one that somebody starts in there ends nothing.
fn cannot_begin(log: Option<TerminationLog>, code: u8, why: &str) {
    let is_the_containers = std::process::id() == 1 || std::os::unix::process::parent_id() == 1;
    if let Some(log) = log.filter(|_| is_the_containers) {
        let sentence = format!("ended with code {code}, nothing was started: {why}");
        log.write(move |room| last_words(&sentence, None, room)).wait_until(Instant::now() + super::FLUSH_WITHIN);
    }
}

/// At the place that was named, else at those of the project, else at the default ones.
fn bind_socket(named: Option<&SocketPath>, project: Option<&Path>) -> Result<UnixSocket, Vec<BindError>> {
    match (named, project) {
        (Some(path), _) => UnixSocket::bind(path).map_err(|error| vec![error]),
        (None, Some(directory)) => {
            let uid = nix::unistd::geteuid().as_raw();
            server::bind_first(&server::sockets_of_project(uid, std::env::var_os("XDG_RUNTIME_DIR").as_deref(), directory))
        }
        (None, None) => server::bind_first(&server::default_sockets()),
    }
}

fn said(errors: &[BindError]) -> String {
    let told = |error: &BindError| error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    errors.iter().map(told).collect::<Vec<_>>().join("; ")
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Whether any probe names a host that is not an address.
pub(super) fn needs_hosts(spec: &Spec) -> bool {
    let named = |probe: &Probe| probe.check.host().is_some_and(|host| host.parse::<IpAddr>().is_err());
    spec.services.iter().any(|service| service.ready.probe().into_iter().chain(&service.live).any(named))
}

/// 0, the usual value, where it cannot be read.
fn own_oom_score_adj() -> i32 {
    std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// Milliseconds since 1970; `None` where the clock was never set.
fn unix_ms() -> Option<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// For the jitter only: copies of a container that are started together should not restart their services together.
fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    u64::try_from(time & u128::from(u64::MAX)).unwrap_or_default() ^ u64::from(std::process::id()).rotate_left(32)
}
