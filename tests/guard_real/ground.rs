//! One container with a memory limit, native or Docker's, and what can be seen of it from outside.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use firstmate::engine::status::{InstanceStatus, StateName, Status};

use super::docked::container::{Container, STACK};
use super::docked::processes::{self, Process, topmost};
use super::native::client::redis;
use super::native::firstmate::{Firstmate, binary, said};
use super::native::sandbox::{PATIENCE, Sandbox, until, within};

pub const MIB: u64 = 1 << 20;
const CGROUPS: &str = "/sys/fs/cgroup/memory";

/// firstmate's socket in Docker, seen from both sides.
const SOCKET: &str = "run/firstmate.sock";
const REDIS: u16 = 6379;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Native,
    Docker,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Docker => "docker",
        }
    }
}

/// The whole matrix was asked for, not the sample.
pub fn matrix() -> bool {
    std::env::var_os("FIRSTMATE_GUARD_MATRIX").is_some_and(|value| value == "1")
}

/// A cgroup of its own that goes at the end, once it is empty.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, limit: u64) -> Self {
        let path = PathBuf::from(format!("{CGROUPS}/fm-guard-real-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}; cgroup v1 is needed", path.display()));
        let cgroup = Self(path);
        std::fs::write(cgroup.0.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            breathe(10);
        }
    }
}

/// A breath between two looks.
pub fn breathe(ms: i32) {
    // SAFETY: no descriptors.
    unsafe { libc::poll(std::ptr::null_mut(), 0, ms) };
}

/// Fields drop in this order: firstmate, with everybody in its namespace, before its cgroup and its files.
enum Runner {
    Native { firstmate: Firstmate, cgroup: Cgroup },
    Docker { container: Container },
}

pub struct Ground {
    runner: Runner,
    /// Its files, as the test sees them.
    files: Files,
    pub place: Place,
    pub limit: u64,
}

/// A directory for firstmate.toml and all that it names.
pub struct Files {
    /// With a network namespace of its own, for native grounds.
    sandbox: Option<Sandbox>,
    path: PathBuf,
    /// The same directory as firstmate sees it.
    pub inside: PathBuf,
}

impl Files {
    pub fn new(place: Place, name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("guard-{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let sandbox = match place {
            Place::Native => Some(Sandbox::new(&name, &super::stack::PROGRAMS)),
            Place::Docker => None,
        };
        let (path, inside) = match &sandbox {
            Some(sandbox) => (sandbox.path().to_owned(), sandbox.path().to_owned()),
            None => (PathBuf::from(format!("/tmp/firstmate-real-{name}-{}", std::process::id())), PathBuf::from("/srv/guard")),
        };
        if sandbox.is_none() {
            std::fs::create_dir(&path).unwrap();
        }
        let files = Self { sandbox, path, inside };
        for directory in ["run", "data", "app"] {
            let directory = files.path.join(directory);
            std::fs::create_dir(&directory).unwrap();
            // Users of the same name have other numbers in Docker. Not sticky: Redis replaces a file the test has made.
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let leaker = files.path.join("leaker");
        if std::fs::hard_link(leaker_program(), &leaker).is_err() {
            std::fs::copy(leaker_program(), &leaker).unwrap();
        }
        files
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.sandbox.is_none() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// `$FIRSTMATE_LEAKER`, else the example. Cargo builds it along with all tests, but not for `--test guard_real` alone.
fn leaker_program() -> PathBuf {
    if let Some(path) = std::env::var_os("FIRSTMATE_LEAKER") {
        return PathBuf::from(path);
    }
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join("examples/leaker");
    let built = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let (leaker, source) = (built(&path), built(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/leaker.rs")));
    assert!(leaker.is_some() && leaker >= source, "{} is missing or stale: run `cargo build --example leaker`", path.display());
    path
}

/// What the kernel counts for the cgroup.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Without the page cache on the file lists.
    pub hard: u64,
    /// Processes the OOM killer killed.
    pub oom_kills: u64,
    /// The highest usage ever, page cache included.
    pub usage_max: u64,
}

impl Memory {
    fn of(cgroup: &Path) -> Self {
        let read = |file: &str| std::fs::read_to_string(cgroup.join(file)).unwrap_or_default();
        let number = |file: &str| read(file).trim().parse().unwrap_or(0);
        let field = |text: &str, name: &str| -> u64 {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
        };
        let stat = read("memory.stat");
        let usage: u64 = number("memory.usage_in_bytes");
        let cache = field(&stat, "total_inactive_file") + field(&stat, "total_active_file");
        Self {
            hard: usage.saturating_sub(cache),
            oom_kills: field(&read("memory.oom_control"), "oom_kill"),
            usage_max: number("memory.max_usage_in_bytes"),
        }
    }
}

impl Ground {
    /// Starts the firstmate.toml in the files. `tmpfs` has a tmpfs at `shm` of their directory.
    pub fn start(place: Place, name: &str, files: Files, limit: u64, tmpfs: bool) -> Self {
        let shm = files.inside.join("shm");
        let runner = match &files.sandbox {
            Some(sandbox) => {
                let cgroup = Cgroup::new(name, limit);
                let mut join = format!("echo 0 >{}/cgroup.procs", cgroup.0.display());
                if tmpfs {
                    join += &format!("\nmkdir {0}; mount -t tmpfs -o mode=1777 tmpfs {0}", shm.display());
                }
                let firstmate = Firstmate::start(sandbox, &files.path.join("firstmate.toml"), &join);
                Runner::Native { firstmate, cgroup }
            }
            None => {
                let memory = format!("--memory={limit}b");
                // No swap beside it.
                let swap = format!("--memory-swap={limit}b");
                let volume = format!("--volume={}:{}", files.path.display(), files.inside.display());
                let own = format!("--volume={}:/usr/local/bin/firstmate:ro", binary().display());
                let mut all = vec![memory.as_str(), &swap, &volume];
                // The image has the binary it was made with; another one only if it is named, as only a static one would do.
                if std::env::var_os("FIRSTMATE_BINARY").is_some() {
                    all.push(&own);
                }
                let shm = format!("--tmpfs={}:mode=1777", shm.display());
                if tmpfs {
                    all.push(&shm);
                }
                let container = Container::run(
                    STACK,
                    &all,
                    &[
                        "start",
                        "-f",
                        &files.inside.join("firstmate.toml").display().to_string(),
                        "--socket",
                        &files.inside.join(SOCKET).display().to_string(),
                    ],
                );
                Runner::Docker { container }
            }
        };
        Self { runner, files, place, limit }
    }

    /// With nothing but what the text says, and the leaker.
    pub fn plain(place: Place, name: &str, limit: u64, text: &str, tmpfs: bool) -> Self {
        let files = Files::new(place, name);
        files.write("firstmate.toml", &format!("{}{text}", super::stack::HEAD));
        let ground = Self::start(place, name, files, limit, tmpfs);
        within(PATIENCE, "the status is told", || ground.status().map_err(|why| format!("{why}\n{}", ground.log())));
        ground
    }

    pub fn cgroup(&self) -> PathBuf {
        match &self.runner {
            Runner::Native { cgroup, .. } => cgroup.0.clone(),
            Runner::Docker { container } => PathBuf::from(format!("{CGROUPS}/docker/{}", container.inspect("{{.Id}}"))),
        }
    }

    pub fn memory(&self) -> Memory {
        Memory::of(&self.cgroup())
    }

    pub fn path(&self) -> &Path {
        &self.files.path
    }

    pub fn inside(&self) -> &Path {
        &self.files.inside
    }

    /// firstmate's pid as the test sees it.
    pub fn pid(&self) -> i32 {
        match &self.runner {
            Runner::Native { firstmate, .. } => firstmate.pid,
            Runner::Docker { container } => container.pid(),
        }
    }

    pub fn address(&self, port: u16) -> SocketAddr {
        match &self.runner {
            Runner::Native { .. } => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            Runner::Docker { container } => container.address(port),
        }
    }

    /// All that was written so far.
    pub fn log(&self) -> String {
        match &self.runner {
            Runner::Native { firstmate, .. } => firstmate.log(),
            Runner::Docker { container } => container.log() + &container.complaints(),
        }
    }

    /// firstmate's own words, in order.
    pub fn said(&self) -> Vec<String> {
        said(&self.log())
    }

    pub fn wait_until_said(&self, part: &str) -> String {
        until(part, || self.said().into_iter().find(|line| line.contains(part)).ok_or_else(|| self.log()))
    }

    /// Waits until a service has written this.
    pub fn wait_for_line(&self, patience: Duration, part: &str) {
        within(patience, part, || if self.log().lines().any(|line| line.contains(part)) { Ok(()) } else { Err(self.tail()) });
    }

    /// Looks again and again for so long, and does this each time.
    pub fn for_as_long_as(&self, time: Duration, mut each: impl FnMut()) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            each();
            breathe(50);
        }
    }

    /// Over the socket: who only reads over TCP is not told why a service ended.
    pub fn status(&self) -> Result<Status, String> {
        let told = |error: std::io::Error| error.to_string();
        let socket = match &self.runner {
            Runner::Native { firstmate, .. } => firstmate.socket.clone(),
            Runner::Docker { .. } => self.files.path.join(SOCKET),
        };
        let mut stream = UnixStream::connect(socket).map_err(told)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").map_err(told)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(told)?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(|error| format!("{error}: {text}"))
    }

    pub fn instance(&self, name: &str) -> Result<InstanceStatus, String> {
        let instances = self.status()?.services.into_iter().flat_map(|service| service.instances);
        instances.into_iter().find(|instance| instance.name == name).ok_or_else(|| format!("there is no {name}"))
    }

    /// What must be true of an instance at once or soon.
    pub fn wait_for(&self, name: &str, patience: Duration, what: &str, holds: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        within(patience, &format!("{name}: {what}"), || {
            let instance = self.instance(name).map_err(|why| format!("{why}\n{}", self.tail()))?;
            if holds(&instance) { Ok(instance) } else { Err(format!("{instance:?}\n{:?}\n{}", self.status()?.memory, self.tail())) }
        })
    }

    /// The end of the log, for a complaint.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits until every service that was to be started is up and ready.
    pub fn wait_until_well(&self) -> Status {
        within(PATIENCE * 2, "all is well", || {
            let status = self.status().map_err(|why| format!("{why}\n{}", self.log()))?;
            let instances = status.services.iter().flat_map(|service| &service.instances);
            let bad: Vec<_> =
                instances.filter(|one| !one.ready && !matches!(one.state, StateName::Completed | StateName::Stopped)).collect();
            if bad.is_empty() { Ok(status) } else { Err(format!("{bad:#?}\n{}", self.log())) }
        })
    }

    /// Everybody in there.
    pub fn processes(&self) -> Vec<Process> {
        processes::of_namespace(self.pid())
    }

    /// The pid of an instance's main process, as the test sees it.
    pub fn leader(&self, name: &str) -> i32 {
        until(name, || {
            let inner = self.instance(name)?.pid.ok_or_else(|| format!("{name} has no process"))?;
            self.processes()
                .iter()
                .find(|process| process.inner == inner)
                .map(|process| process.outer)
                .ok_or_else(|| format!("{name} is gone"))
        })
    }

    /// Those of the named services who stay: the main processes and their children. Redis's child that writes a snapshot comes and goes.
    pub fn crew(&self, services: &[&str]) -> Crew {
        let init = self.pid();
        let status = until("the status is told", || self.status());
        let instances = status.services.iter().flat_map(|service| &service.instances);
        let leaders: BTreeSet<u32> = instances
            .filter(|one| services.contains(&one.name.rsplit_once('.').map_or("", |(service, _)| service)))
            .filter_map(|one| one.pid)
            .collect();
        let all = self.processes();
        let stays = |process: &&Process| {
            let top = topmost(process, &all, init);
            let own = process.outer == top.outer || process.name != "redis-server";
            process.outer == init || (leaders.contains(&top.inner) && own && !process.zombie)
        };
        Crew(all.iter().filter(stays).cloned().collect())
    }

    /// Those of the crew who are no more, as sentences.
    pub fn missing(&self, crew: &Crew) -> Vec<String> {
        let all = self.processes();
        let there = |member: &Process| all.iter().any(|one| one.outer == member.outer && one.started == member.started && !one.zombie);
        crew.0.iter().filter(|member| !there(member)).map(|member| format!("{}({})", member.name, member.inner)).collect()
    }

    /// None of these services' instances was started again, for whatever reason.
    pub fn assert_not_restarted(&self, services: &[&str]) {
        let status = until("the status is told", || self.status());
        for service in status.services.iter().filter(|service| services.contains(&service.name.as_str())) {
            for instance in &service.instances {
                assert_eq!((instance.run, instance.restarts.total), (1, 0), "{instance:?}\n{}", self.log());
            }
        }
    }

    /// The guard has done nothing, and neither has the kernel.
    pub fn assert_quiet(&self) {
        assert_eq!((self.acts(), self.memory().oom_kills), (0, 0), "{:?}\n{}", self.status().map(|status| status.memory), self.log());
    }

    /// One command to the stack's Redis.
    pub fn redis(&self, command: &str) -> Result<String, String> {
        let stream = TcpStream::connect_timeout(&self.address(REDIS), Duration::from_secs(5)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        redis(stream, command)
    }

    /// A command that must be answered like this.
    pub fn redis_ok(&self, command: &str, expected: &str) {
        let answer = self.redis(command).unwrap_or_else(|error| panic!("{command}: {error}\n{}", self.log()));
        assert!(answer.starts_with(expected), "{command}: {answer}");
    }

    /// A field of INFO.
    pub fn redis_info(&self, section: &str, field: &str) -> Result<String, String> {
        let text = self.redis(&format!("INFO {section}"))?;
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        found.ok_or(text)
    }

    /// What the guard has done so far, all rules together.
    pub fn acts(&self) -> u32 {
        let status = until("the status is told", || self.status());
        status.memory.map_or(0, |memory| {
            let acts = memory.acts;
            acts.held + acts.forecast + acts.hard + acts.emergency + acts.own
        })
    }

    /// By rule, for the printed line.
    pub fn rules(&self) -> String {
        let status = until("the status is told", || self.status());
        let acts = status.memory.map(|memory| memory.acts).unwrap_or_default();
        let all = [("held", acts.held), ("forecast", acts.forecast), ("hard", acts.hard), ("emergency", acts.emergency), ("own", acts.own)];
        let told: Vec<String> = all.iter().filter(|(_, count)| *count > 0).map(|(rule, count)| format!("{rule}:{count}")).collect();
        if told.is_empty() { "none".to_owned() } else { told.join("+") }
    }

    /// What the guard says it has done.
    pub fn acted(&self) -> Vec<String> {
        self.said().into_iter().filter(|line| line.contains(" for its memory")).collect()
    }

    /// At how much of the limit it decided, for the printed line: `75.2%`.
    pub fn decided(&self) -> String {
        let percent = |line: String| Some(line.rsplit_once(") in use")?.0.rsplit_once('(')?.1.to_owned());
        let all: Vec<String> = self.acted().into_iter().filter_map(percent).collect();
        if all.is_empty() { "never".to_owned() } else { all.join("+") }
    }

    /// Watches the cgroup from now on.
    pub fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, cgroup) = (Arc::clone(&stop), self.cgroup());
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(Memory::of(&cgroup).hard);
                breathe(3);
            }
            peak
        });
        Watch { stop, thread }
    }

    pub fn percent(&self, bytes: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let share = 100.0 * bytes as f64 / self.limit as f64;
        share
    }

    /// Makes a file the leaker waits for.
    pub fn touch(&self, name: &str) {
        std::fs::File::create(self.files.path.join(name)).unwrap().flush().unwrap();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A container that has ended has no address any more; one complaint is enough.
            let state = std::panic::AssertUnwindSafe(|| (self.memory(), self.status().map(|status| status.memory)));
            if let Ok((memory, status)) = std::panic::catch_unwind(state) {
                eprintln!("{memory:?}\n{status:#?}");
            }
        }
    }
}

/// Processes that are to stay who they are.
pub struct Crew(Vec<Process>);

impl Crew {
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|process| process.name.starts_with(name)).count()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn pids(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().map(|process| process.outer)
    }
}

/// The highest hard memory seen, looked at every few ms.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    pub fn peak(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One line of the table.
pub fn report(item: u32, case: &str, ground: &Ground, words: &str) {
    println!("GUARD item={item} case={case} place={} limit={}MiB {words}", ground.place.name(), ground.limit / MIB);
}
