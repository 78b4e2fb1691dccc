//! From a loaded file to a running loop: sockets, listeners, the first line of the log.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::announcements::Announcements;
use super::environment::Environments;
use super::memory::Memory;
use super::output::Output;
use super::probes::Probes;
use super::verbs::{Counter, Desk};
use super::{Options, SINK, STREAM, Supervisor, argv_of, token};
use crate::config::{Http, Loaded};
use crate::engine::spec::{Check, Probe};
use crate::engine::{Engine, ServiceId, Spec, Timestamp};
use crate::linux::output::Streams;
use crate::linux::poll::Poller;
use crate::linux::probe::Hosts;
use crate::linux::reap::Reaper;
use crate::linux::signals::Signals;
use crate::linux::tree::Trees;
use crate::observe::Level;
use crate::server::{self, BindError, SocketPath, UnixSocket};

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

pub(super) async fn run(loaded: Loaded, options: Options, signals: Signals, reaper: Reaper) -> u8 {
    let origin = Instant::now();
    let started_unix_ms = unix_ms();
    let Loaded { spec, settings, warnings, path, .. } = loaded;
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
    let mut output = match Output::new(&engine.borrow(), Arc::clone(&poller), token(SINK, 0)) {
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
    for warning in &warnings {
        output.say(Level::Warn, &format!("{}: {}", warning.place(), warning.message));
    }

    let (sender, messages) = mpsc::unbounded_channel();
    let counter = Rc::new(Counter { engine: Rc::clone(&engine), origin, started_unix_ms, messages: sender.clone() });
    let context = server::Context::new(counter);

    let named = options.socket.or_else(|| settings.socket.as_ref().map(|path| SocketPath::parse(path.as_os_str())));
    match bind_socket(named.as_ref()) {
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
                output.say(Level::Info, &format!("probes and status are served on http://{bound}"));
                tokio::task::spawn_local(server::serve_tcp(listener, context));
            }
            Err(error) => {
                output.say(if asked_for { Level::Error } else { Level::Warn }, &error.to_string());
                // Without the port that was asked for the platform would see a dead container; better to say why at once.
                if asked_for {
                    output.flush_until(Instant::now() + super::FLUSH_WITHIN);
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
    let memory = Memory::new(&memory, &sender, &mut output);
    let announcements = Announcements::new(&services, &trees, &poller, &mut output);
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
        environments: Environments::new(),
        services,
        commands,
        streams: Streams::new(Arc::clone(&poller), STREAM),
        probes: Probes::new(sender.clone(), Arc::clone(&poller), hosts, own_oom_score_adj),
        announcements,
        poller,
        output,
        desk: Desk::default(),
        memory,
        interrupted: false,
        last_words: String::new(),
    };
    supervisor.begin_memory();
    supervisor.ask_ecs(&sender);
    supervisor.supervise(signals, reaper, messages).await
}

fn bind_socket(named: Option<&SocketPath>) -> Result<UnixSocket, Vec<BindError>> {
    match named {
        Some(path) => UnixSocket::bind(path).map_err(|error| vec![error]),
        None => server::bind_first(&server::default_sockets()),
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
fn needs_hosts(spec: &Spec) -> bool {
    let named = |probe: &Probe| match &probe.check {
        Check::Http { host, .. } | Check::Tcp { host, .. } => host.parse::<IpAddr>().is_err(),
        Check::Exec(_) => false,
    };
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
