//! What the operator asked for, as plain data: the output of `config`, the input of everything else.
//!
//! The engine decides by the policy fields; `Launch` and `Check` it only carries, for the shell that performs its actions.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::Signal;
use super::capability::Rights;

/// More copies of one service than this are a slip of the finger.
pub const MOST_INSTANCES: u16 = 1_000;

/// A whole, validated file. `config` guarantees: names unique, dependencies exist and have no cycle, `instances >= 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// In the order of the file; a `ServiceId` is an index into it.
    pub services: Vec<Service>,
    /// The whole shutdown, drain included.
    pub stop_timeout: Duration,
    /// After the stop was asked for: not ready, but still serving, for this long.
    pub drain: Duration,
    /// The memory guard of the whole container.
    pub memory: Memory,
}

/// `[memory]`: the guard of the whole container.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// In bytes; `None` is what the container has.
    pub limit: Option<u64>,
    /// Above it the culprit is restarted; `None` switches the guard off, services' own lines included.
    pub restart_above: Option<Amount>,
    /// It must have been above for so long.
    pub confirm: Duration,
    /// Above it the culprit is restarted without waiting.
    pub hard_above: Amount,
    /// Above it the culprit gets SIGKILL.
    pub emergency_above: Amount,
    /// A cgroup for each service, where cgroup v2 is writable.
    pub cgroups: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: None,
            restart_above: Some(Amount::Percent(75.0)),
            confirm: Duration::from_secs(10),
            hard_above: Amount::Percent(92.0),
            emergency_above: Amount::Percent(95.0),
            cgroups: false,
        }
    }
}

/// So much memory, or a share of the limit in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Above 0, at most 100.
    Percent(f64),
}

impl Amount {
    /// In bytes, where the limit is `limit`.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a size, good to the nearest kilobyte; never negative, and a float too large becomes the largest number"
    )]
    pub fn of(self, limit: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (limit as f64 * percent / 100.0) as u64,
        }
    }
}

/// `memory` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ServiceMemory {
    /// A line of each instance's own.
    pub restart_above: Option<Amount>,
    /// What is done when the guard has chosen it.
    pub action: MemoryAction,
    /// Whether the guard may choose it for the container's sake.
    pub victim: Victim,
}

/// `action` in `memory` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryAction {
    /// Restart it.
    #[default]
    Restart,
    /// Send this signal to its main process; restart it if that did not help. `reload` is its `reload_signal`.
    Signal(Signal),
}

/// `victim` in `memory` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Victim {
    /// When it is the one that has grown.
    #[default]
    Auto,
    /// Only when nobody else would do.
    Last,
    /// Never for the container's sake. A line of its own holds all the same.
    Never,
}

/// Index of a service in `Spec::services`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub usize);

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// `[A-Za-z0-9_-]+`.
    pub name: String,
    /// Long-running, or meant to end.
    pub kind: Kind,
    /// Numbered copies, at least 1.
    pub instances: u16,
    /// Names that stand for it and others on the command line: none is a service's, none twice.
    pub groups: Vec<String>,
    /// What must hold before an instance is started, at every start.
    pub depends_on: Vec<Dependency>,
    /// Started with firstmate; otherwise only when asked for.
    pub autostart: bool,
    /// Its giving up ends the container.
    pub essential: bool,
    /// When an ended run is followed by another.
    pub restart: Restart,
    /// Exit codes that are no failure.
    pub success_exit_codes: Vec<i32>,
    /// How long to wait before the next run.
    pub backoff: Backoff,
    /// Give up after so many consecutive failed runs; `None` is never.
    pub give_up_after: Option<u32>,
    /// A run that is not ready by then counts as failed.
    pub start_timeout: Duration,
    /// How it is asked to end.
    pub stop: Stop,
    /// What makes its main process read its configuration anew.
    pub reload_signal: Option<Signal>,
    /// What makes a run ready.
    pub ready: Readiness,
    /// Failing it restarts the instance.
    pub live: Option<Probe>,
    /// What the memory guard may do with it.
    pub memory: ServiceMemory,
    /// How its processes are started.
    pub launch: Launch,
    /// Files whose change restarts it.
    pub watch: Watch,
}

impl Service {
    /// Whether its end is never the last word: whatever it died of, a change of the files it watches may mend it. So nothing ends and nobody is
    /// given up because of it.
    #[must_use]
    pub const fn awaits_change(&self) -> bool {
        !self.watch.paths.is_empty()
    }
}

/// `watch` of a service: files whose change restarts it. To the engine it matters only whether there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// None: nothing is watched.
    pub paths: Vec<WatchPath>,
    /// Names, or absolute paths, that are not watched, as glob patterns; `!` before one watches all the same.
    pub ignore: Vec<String>,
    /// A change counts once nothing has changed for so long.
    pub debounce: Duration,
}

impl Watch {
    /// Where nothing is configured; the product's contract.
    pub const DEBOUNCE: Duration = Duration::from_millis(200);
}

impl Default for Watch {
    fn default() -> Self {
        Self { paths: Vec::new(), ignore: Vec::new(), debounce: Self::DEBOUNCE }
    }
}

/// A file, or a directory with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchPath {
    /// An absolute path.
    pub root: PathBuf,
    /// Of what is below `root` only the files whose absolute path fits this glob pattern.
    pub only: Option<String>,
}

/// `type` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs until stopped.
    Service,
    /// Runs once, to its end.
    Oneshot,
}

/// One entry of `depends_on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// The service that is waited for.
    pub service: ServiceId,
    /// What is waited for.
    pub condition: Condition,
}

/// What a dependent waits for. It holds for a service when it holds for all its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Its program was executed and has not ended, or was a oneshot that ended well.
    Started,
    /// It is ready.
    Ready,
    /// The oneshot ended well.
    Completed,
}

/// `restart` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever the outcome.
    Always,
    /// Unless the outcome is a success.
    OnFailure,
    /// Never.
    Never,
}

/// How long an ended instance waits before its next run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first delay.
    pub initial: Duration,
    /// Each delay is the previous one times this; at least 1.
    pub factor: f64,
    /// No delay is longer, before jitter.
    pub max: Duration,
    /// Share by which a delay may differ from its value, 0 to 1.
    pub jitter: f64,
    /// A run that lasted this long makes the next restart immediate and forgets earlier failures.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.1,
            reset_after: Duration::from_secs(30),
        }
    }
}

/// How a run is asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Sent one after the other, the grace period shared out equally among them; never empty.
    pub signals: Vec<Signal>,
    /// The grace period: SIGKILL to the whole tree when it is over.
    pub timeout: Duration,
    /// Who gets the stop signals.
    pub scope: Scope,
}

/// Who gets a signal that is not SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The run's main process.
    Main,
    /// Its process group.
    Group,
}

/// `ready` in the file: what makes a run ready. Always exactly one thing, so no two can disagree; and a watchdog without
/// notifications, which nobody could calm, cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It has run this long.
    Delay(Duration),
    /// It is asked, again and again.
    Probe(Probe),
    /// It says `READY=1` on NOTIFY_SOCKET; see sd_notify(3).
    Notify {
        /// Once ready it must say `WATCHDOG=1` at least so often, or is restarted.
        watchdog: Option<Duration>,
    },
    /// It writes a newline to this descriptor, 3 or higher, as s6 and dinit have it.
    NotifyFd(u16),
    /// A line of its output matches this regular expression, which `config` has compiled once.
    Log(String),
}

impl Readiness {
    /// Where nothing is configured; the product's contract.
    pub const SETTLED_AFTER: Duration = Duration::from_secs(1);

    /// The question, where it is asked one.
    #[must_use]
    pub const fn probe(&self) -> Option<&Probe> {
        match self {
            Self::Probe(probe) => Some(probe),
            Self::Delay(_) | Self::Notify { .. } | Self::NotifyFd(_) | Self::Log(_) => None,
        }
    }

    /// Whether it is listened to on NOTIFY_SOCKET.
    #[must_use]
    pub const fn is_notify(&self) -> bool {
        matches!(self, Self::Notify { .. })
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::Delay(Self::SETTLED_AFTER)
    }
}

/// A question asked of a running instance again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// From one question to the next.
    pub every: Duration,
    /// A question not answered by then has failed.
    pub timeout: Duration,
    /// Consecutive failures that change the verdict to bad; at least 1.
    pub failures: u32,
    /// Consecutive successes that change the verdict to good; at least 1.
    pub successes: u32,
    /// From the start of the run to the first question.
    pub initial_delay: Duration,
}

/// What a probe does. Hosts are IP literals, `localhost` or names in /etc/hosts: there is no DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// An HTTP server answers as it should.
    Http(HttpCheck),
    /// A connection is accepted.
    Tcp {
        /// Where to connect.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A connection is accepted on a Unix socket: an absolute path, or `@name` for an abstract one.
    Unix(String),
    /// Redis answers PING, and not that it is busy with something else.
    Redis(RedisCheck),
    /// A FastCGI application such as php-fpm answers a request as it should.
    FastCgi(FastCgiCheck),
    /// A command, run as the service would be, exits 0.
    Exec(Command),
}

impl Check {
    /// The Unix socket it connects to, if it is one.
    #[must_use]
    pub const fn socket_mut(&mut self) -> Option<&mut String> {
        let at = match self {
            Self::Http(check) => &mut check.at,
            Self::Redis(check) => &mut check.at,
            Self::FastCgi(check) => &mut check.at,
            Self::Unix(path) => return Some(path),
            Self::Tcp { .. } | Self::Exec(_) => return None,
        };
        match at {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        }
    }

    /// The host it connects to; `None` for one that needs none.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let at = match self {
            Self::Http(check) => &check.at,
            Self::Redis(check) => &check.at,
            Self::FastCgi(check) => &check.at,
            Self::Tcp { host, .. } => return Some(host),
            Self::Unix(_) | Self::Exec(_) => return None,
        };
        match at {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A port.
    Tcp {
        /// An IP literal, `localhost` or a name in /etc/hosts.
        host: String,
        /// From 1.
        port: u16,
    },
    /// A Unix socket: an absolute path, or `@name` for an abstract one.
    Unix(String),
}

/// `127.0.0.1:80`, `[::1]:80`, `/run/app.sock`.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// A question to an HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Where to connect.
    pub at: Address,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// How to ask.
    pub method: Method,
    /// Statuses that pass.
    pub status: Statuses,
    /// Text that must be in the first 10 KiB of the body; empty: anything passes.
    pub contains: String,
    /// Fields of the request, in place of firstmate's own of the same name. Names are tokens, values hold no line ends.
    pub headers: Vec<(String, String)>,
}

/// How an HTTP server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// With a body in the answer.
    #[default]
    Get,
    /// Without one.
    Head,
}

impl Method {
    /// As the request says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// Statuses that pass: ranges with both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(pub Vec<(u16, u16)>);

impl Statuses {
    /// Whether it is one of them.
    #[must_use]
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|&(from, to)| (from..=to).contains(&status))
    }
}

/// 200 to 399, as kubelet judges.
impl Default for Statuses {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

/// A question to Redis, Valkey or whatever speaks their protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisCheck {
    /// Where to connect.
    pub at: Address,
    /// The environment variable of the service that holds the password to log in with.
    pub password_env: Option<String>,
    /// Whose password it is; `None`: the default user's.
    pub username: Option<String>,
}

/// A question to a FastCGI application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastCgiCheck {
    /// Where to connect.
    pub at: Address,
    /// What is asked for, beginning with `/`: php-fpm's `ping.path`.
    pub path: String,
    /// Statuses that pass.
    pub status: Statuses,
    /// Text that must be in the first 10 KiB of the body: php-fpm's `ping.response`.
    pub contains: String,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Program and arguments; a program without `/` is searched for in the service's PATH. Never empty.
    Argv(Vec<String>),
    /// Text for `/bin/sh -c`, already with `exec` in front where that is safe.
    Shell(String),
}

/// How the processes of a service are started.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The program.
    pub command: Command,
    /// An absolute path.
    pub working_dir: PathBuf,
    /// Begin with the environment firstmate was given.
    pub inherit_env: bool,
    /// From `.env` files: only for names the inherited environment does not have.
    pub env_defaults: BTreeMap<OsString, OsString>,
    /// From `env`: these win.
    pub env: BTreeMap<OsString, OsString>,
    /// PORT of instance 1; each further instance gets one more. Procfile entries have it.
    pub port: Option<u16>,
    /// Name or number.
    pub user: Option<String>,
    /// Name or number; default: the user's own group.
    pub group: Option<String>,
    /// File mode creation mask, 0 to 0o777.
    pub umask: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000, see proc_pid_oom_score_adj(5). `None`: 100 above firstmate's own, so that firstmate is the last the kernel kills.
    pub oom_score_adj: Option<i32>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// What it may do beyond its user's rights.
    pub rights: Rights,
    /// Each process gets a pseudo-terminal of its own in place of pipes.
    pub tty: bool,
}

/// One resource limit, soft and hard; see setrlimit(2). `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Which.
    pub resource: Resource,
    /// What applies.
    pub soft: Option<u64>,
    /// How far the service may raise it.
    pub hard: Option<u64>,
}

/// Names are those of setrlimit(2) and prlimit(1) in lower case, without RLIMIT_.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "setrlimit(2) describes each")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    /// Every resource with its name in the file.
    pub const ALL: [(&'static str, Self); 16] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];
}
