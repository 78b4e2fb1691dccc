//! A container for the real binary: PID, mount and network namespaces of its own, a temporary directory, its output line by line.
//!
//! Nothing here waits without a deadline, and nothing waits for a time to pass: always for a line, a state, an end. When a
//! [`Container`] goes, its namespace goes, and every process in it.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use firstmate::engine::Signal;
use firstmate::engine::status::{InstanceStatus, StateName, Status};

use crate::cgroup::Cgroup;

/// Far more than anything here takes on a busy machine; what has not come by then never will.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// See ioctl_tty(2); not in the libc crate.
const TIOCVHANGUP: libc::Ioctl = 0x5437;

/// Where in the process tree firstmate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// PID 1 of the container.
    Init,
    /// Below another init, which only reaps.
    Subreaper,
}

/// Each scenario twice: with firstmate as PID 1 and as a subreaper.
macro_rules! both_ways {
    ($($scenario:ident),+ $(,)?) => {
        mod as_pid_1 {
            $(#[test] fn $scenario() { super::$scenario(crate::harness::Place::Init); })+
        }
        mod as_subreaper {
            $(#[test] fn $scenario() { super::$scenario(crate::harness::Place::Subreaper); })+
        }
    };
}
pub(crate) use both_ways;

/// A directory of its own that goes at the end, traversable by everybody.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = PathBuf::from(format!("/tmp/firstmate-box-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A child that is an example of this package. Cargo builds them along with all tests, but not for `--test blackbox` alone.
fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let built = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let source = built(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs")));
    let program = built(&path);
    assert!(program.is_some() && program >= source, "{} is missing or stale: run `cargo build --example {name}`", path.display());
    path
}

/// How a container is to be started.
#[derive(Debug)]
pub struct Setup {
    directory: Directory,
    place: Place,
    arguments: Option<Vec<String>>,
    http: String,
    nofile: Option<u64>,
    terminal: bool,
    read: bool,
    rude_signals: bool,
    without_ipv6: bool,
    env: Vec<(String, String)>,
    cgroup: Option<Cgroup>,
}

impl Setup {
    /// With this firstmate.toml, in which `{actor}` is the scripted child and `{dir}` the container's directory.
    pub fn new(config: &str) -> Self {
        let setup = Self::empty();
        let config = setup.filled(config);
        std::fs::write(setup.directory.0.join("firstmate.toml"), config).unwrap();
        setup
    }

    /// Without a file.
    pub fn empty() -> Self {
        let directory = Directory::new();
        let setup = Self {
            directory,
            place: Place::Init,
            arguments: None,
            http: "off".to_owned(),
            nofile: None,
            terminal: false,
            read: true,
            rude_signals: false,
            without_ipv6: false,
            env: Vec::new(),
            cgroup: None,
        };
        setup.provide("actor");
        setup
    }

    /// An example within the container's directory: in the target directory other users may not be able to reach it.
    fn provide(&self, name: &str) {
        let there = self.directory.0.join(name);
        if std::fs::hard_link(example(name), &there).is_err() {
            std::fs::copy(example(name), &there).unwrap();
        }
    }

    /// In a cgroup v1 of its own with this limit in bytes, and with `{leaker}`, which uses memory.
    pub fn memory(self, limit: u64) -> Self {
        self.provide("leaker");
        Self { cgroup: Some(Cgroup::new(limit, None)), ..self }
    }

    pub fn dir(&self) -> &Path {
        &self.directory.0
    }

    fn filled(&self, text: &str) -> String {
        let dir = self.directory.0.to_str().unwrap();
        text.replace("{actor}", &format!("{dir}/actor")).replace("{leaker}", &format!("{dir}/leaker")).replace("{dir}", dir)
    }

    pub fn place(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// A file in the container's directory, with its mode.
    pub fn file(self, name: &str, mode: u32, text: &str) -> Self {
        let path = self.directory.0.join(name);
        std::fs::write(&path, self.filled(text)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// All arguments, in place of `start -f FILE --socket SOCKET --http off`.
    pub fn arguments(self, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| self.filled(argument)).collect();
        Self { arguments: Some(arguments), ..self }
    }

    /// Probes and status over TCP on this address, within the container's network.
    pub fn http(self, address: &str) -> Self {
        Self { http: address.to_owned(), ..self }
    }

    /// firstmate's own limit of open files.
    pub fn nofile(self, most: u64) -> Self {
        Self { nofile: Some(most), ..self }
    }

    /// Standard input, output and error are a terminal, and firstmate leads its session.
    pub fn terminal(self) -> Self {
        Self { terminal: true, ..self }
    }

    /// Nobody reads standard output until [`Container::read_on`].
    pub fn unread(self) -> Self {
        Self { read: false, ..self }
    }

    /// firstmate inherits blocked and ignored signals, as careless parents leave them.
    pub fn rude_signals(self) -> Self {
        Self { rude_signals: true, ..self }
    }

    /// Sockets of IPv6 are refused, as by a kernel that has none.
    pub fn without_ipv6(self) -> Self {
        Self { without_ipv6: true, ..self }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn start(self) -> Container {
        let dir = self.directory.0.to_str().unwrap().to_owned();
        let arguments = self.arguments.clone().unwrap_or_else(|| {
            let words = ["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock", "--http", &self.http];
            words.iter().map(|word| self.filled(word)).collect()
        });
        let c_string = |text: &str| CString::new(text).unwrap();
        let argv: Vec<CString> = std::iter::once("firstmate").chain(arguments.iter().map(String::as_str)).map(c_string).collect();
        let mut env = vec![c_string("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")];
        env.extend(self.env.iter().map(|(name, value)| c_string(&format!("{name}={value}"))));
        let (output, theirs) = if self.terminal { terminal() } else { pipe() };
        let (status, tell_status) = pipe();
        let doors: Vec<CString> = self.cgroup.iter().flat_map(Cgroup::doors).map(|door| c_string(door.to_str().unwrap())).collect();
        let plan = Plan {
            doors: &doors,
            program: c_string(env!("CARGO_BIN_EXE_firstmate")),
            argv: &pointers(&argv),
            env: &pointers(&env),
            dir: c_string(&dir),
            output: theirs.as_raw_fd(),
            status: tell_status.as_raw_fd(),
            setup: &self,
        };
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
        let init = clone(flags);
        if init == 0 {
            plan.perform();
        }
        assert!(init > 0, "these tests need root and PID, mount and network namespaces: clone: {}", std::io::Error::last_os_error());
        drop((theirs, tell_status));
        let log = Arc::new(Log::default());
        let container = Container {
            init,
            place: self.place,
            log,
            output: Mutex::new(Some(output)),
            status: File::from(status),
            ended: Mutex::new(None),
            directory: self.directory,
            cgroup: self.cgroup,
        };
        if self.read {
            container.read_on();
        }
        container
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors, which nobody else owns.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A pseudo-terminal: master and slave.
fn terminal() -> (OwnedFd, OwnedFd) {
    // SAFETY: `name` has room for the length given, and posix_openpt makes a descriptor that nobody else owns.
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0, "{}", std::io::Error::last_os_error());
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
        let slave = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(slave >= 0, "{}", std::io::Error::last_os_error());
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

/// fork(2) with flags: 0 in the child.
fn clone(flags: libc::c_int) -> i32 {
    // SAFETY: without CLONE_VM and with no stack given this is fork(2); the child makes async-signal-safe calls only.
    i32::try_from(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) }).unwrap()
}

/// What the first process of the namespace needs; everything is allocated before the fork.
struct Plan<'a> {
    doors: &'a [CString],
    program: CString,
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    dir: CString,
    output: i32,
    status: i32,
    setup: &'a Setup,
}

impl Plan<'_> {
    fn perform(&self) -> ! {
        let failed = self.steps();
        // SAFETY: a message of its length.
        unsafe {
            libc::write(self.output, failed.as_ptr().cast(), failed.len());
            libc::_exit(125)
        }
    }

    /// Returns what failed, as a line.
    fn steps(&self) -> &'static str {
        // SAFETY: every pointer is to a string with its NUL or to a structure of the size the call takes; all are async-signal-safe.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            for door in self.doors {
                let door = libc::open(door.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if libc::write(door, c"0".as_ptr().cast(), 1) != 1 {
                    return "harness: cannot enter the cgroup\n";
                }
                libc::close(door);
            }
            let none = std::ptr::null();
            if libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == -1
                || libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, none.cast()) == -1
                || libc::mount(c"tmpfs".as_ptr(), c"/run".as_ptr(), c"tmpfs".as_ptr(), 0, c"mode=755".as_ptr().cast()) == -1
            {
                return "harness: cannot mount within the container\n";
            }
            if !loopback_up() {
                return "harness: cannot bring the loopback interface up\n";
            }
            if self.setup.place == Place::Subreaper {
                let firstmate = clone(0);
                if firstmate == -1 {
                    return "harness: cannot fork\n";
                }
                if firstmate != 0 {
                    be_init(firstmate, self.status);
                }
            }
            if let Some(most) = self.setup.nofile {
                let limit = libc::rlimit { rlim_cur: most, rlim_max: 1024 };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == -1 {
                    return "harness: cannot set the limit of open files\n";
                }
            }
            let input = if self.setup.terminal {
                if libc::setsid() == -1 || libc::ioctl(self.output, libc::TIOCSCTTY, 0) == -1 {
                    return "harness: cannot take the terminal\n";
                }
                self.output
            } else {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY)
            };
            libc::dup2(input, 0);
            libc::dup2(self.output, 1);
            libc::dup2(self.output, 2);
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut blocked = 0_u64;
            if self.setup.rude_signals {
                blocked = u64::MAX;
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGCHLD, libc::SIGPIPE, libc::SIGUSR1] {
                    libc::signal(signal, libc::SIG_IGN);
                }
            }
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const blocked, std::ptr::null::<u64>(), 8);
            if self.setup.without_ipv6 && !refuse_ipv6() {
                return "harness: cannot refuse IPv6\n";
            }
            libc::chdir(self.dir.as_ptr());
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
        }
        "harness: cannot execute firstmate\n"
    }
}

/// See seccomp(2): socket(2) with AF_INET6 fails, also for all that is executed later.
unsafe fn refuse_ipv6() -> bool {
    // Offsets in seccomp_data: the number of the call, and the lower half of its first argument.
    let load = |offset| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let unless_equal = |value: i64, skip| libc::sock_filter { code: 0x15, jt: 0, jf: skip, k: u32::try_from(value).unwrap_or_default() };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut filter = [
        load(0),
        unless_equal(libc::SYS_socket, 3),
        load(16),
        unless_equal(libc::AF_INET6.into(), 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT.unsigned_abs()),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: filter.as_mut_ptr() };
    // SAFETY: a whole program of the length said; root needs no no_new_privs for it.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) == 0 }
}

/// See netdevice(7).
unsafe fn loopback_up() -> bool {
    // SAFETY: `request` is a whole ifreq; the name fits.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
        let up = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) == 0;
        libc::close(socket);
        up
    }
}

/// An init that only reaps, and tells how firstmate ended. It ends with the container.
unsafe fn be_init(firstmate: i32, tell: i32) -> ! {
    // SAFETY: valid pointers and numbers; nothing is allocated.
    unsafe {
        libc::dup2(tell, 3);
        libc::close(0);
        libc::close(1);
        libc::close(2);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        loop {
            let mut status = 0_i32;
            let pid = libc::syscall(libc::SYS_wait4, -1, &raw mut status, 0, 0);
            if pid == i64::from(firstmate) {
                libc::write(3, (&raw const status).cast(), size_of::<i32>());
            } else if pid == -1 {
                libc::poll(std::ptr::null_mut(), 0, 10);
            }
        }
    }
}

/// One line of firstmate's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Milliseconds since 1970; 0 where the line has no such time.
    pub at_ms: u64,
    /// `firstmate` or `web.1`.
    pub name: String,
    /// `out`, `err`, `warn`, `error`, or nothing.
    pub kind: String,
    /// It goes on where the stream's last one was cut.
    pub continued: bool,
    pub text: String,
    pub raw: String,
}

impl Line {
    fn parse(raw: String) -> Self {
        let parsed = || {
            let (time, rest) = raw.split_once(' ')?;
            let at_ms = milliseconds(time)?;
            let at = rest.find([' '])?;
            let (name, rest) = rest.split_at(at);
            let rest = rest.strip_prefix(' ')?;
            let bar = rest.find(['|', '+'])?;
            let kind = rest.get(..bar)?.trim().to_owned();
            let continued = rest.get(bar..=bar)? == "+";
            let text = rest.get(bar + 1..)?.strip_prefix(' ')?.to_owned();
            Some((at_ms, name.to_owned(), kind, continued, text))
        };
        let (at_ms, name, kind, continued, text) = parsed().unwrap_or_else(|| (0, String::new(), String::new(), false, raw.clone()));
        Self { at_ms, name, kind, continued, text, raw }
    }

    pub fn is_own(&self) -> bool {
        self.name == "firstmate"
    }
}

/// `2026-01-02T03:04:05.678Z`, within its day: no test lasts over two midnights.
fn milliseconds(time: &str) -> Option<u64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let day: u64 = date.rsplit('-').next()?.parse().ok()?;
    let mut parts = clock.split([':', '.']);
    let mut next = || parts.next()?.parse::<u64>().ok();
    let (hour, minute, second, milli) = (next()?, next()?, next()?, next()?);
    Some((((day * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milli)
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Line>,
    ended: bool,
}

/// How firstmate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// A process as the container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub name: String,
    pub state: char,
}

/// firstmate in a container of its own. All of it ends when this goes.
#[derive(Debug)]
pub struct Container {
    init: i32,
    place: Place,
    log: Arc<Log>,
    output: Mutex<Option<OwnedFd>>,
    status: File,
    ended: Mutex<Option<Ended>>,
    directory: Directory,
    cgroup: Option<Cgroup>,
}

impl Drop for Container {
    fn drop(&mut self) {
        // SAFETY: a child of ours that is not reaped: `end` of a PID 1 reaps it and sets `ended`.
        unsafe {
            if self.place == Place::Subreaper || self.ended.lock().unwrap().is_none() {
                libc::kill(self.init, libc::SIGKILL);
                libc::syscall(libc::SYS_wait4, self.init, std::ptr::null::<i32>(), 0, 0);
            }
        }
        if std::thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(60);
            eprintln!("--- what firstmate said ({skipped} earlier lines left out):");
            for line in lines.iter().skip(skipped) {
                eprintln!("{}", line.raw.chars().take(300).collect::<String>());
            }
        }
    }
}

impl Container {
    pub fn dir(&self) -> &Path {
        &self.directory.0
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("firstmate.sock")
    }

    /// A file in the container's directory comes into being.
    pub fn touch(&self, name: &str) {
        std::fs::write(self.dir().join(name), "").unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir().join(name)).unwrap();
    }

    // --- what it says

    /// Begins to read standard output, if it is not read yet.
    pub fn read_on(&self) {
        let Some(output) = self.output.lock().unwrap().take() else { return };
        let mut pipe = File::from(output.try_clone().unwrap());
        if self.is_terminal(&output) {
            // Kept for typing.
            *self.output.lock().unwrap() = Some(output);
        }
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            let mut partial = Vec::new();
            loop {
                // A terminal whose last user is gone gives EIO.
                let count = pipe.read(&mut buffer).unwrap_or(0);
                partial.extend_from_slice(&buffer[..count]);
                let whole = if count == 0 { partial.len() } else { partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1) };
                let text: Vec<u8> = partial.drain(..whole).collect();
                let mut known = log.lines.lock().unwrap();
                let lines = String::from_utf8_lossy(&text);
                known.lines.extend(lines.lines().map(|line| Line::parse(line.to_owned())));
                known.ended = count == 0;
                log.news.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
    }

    fn is_terminal(&self, fd: &OwnedFd) -> bool {
        // SAFETY: a number.
        unsafe { libc::isatty(fd.as_raw_fd()) == 1 }
    }

    /// At the terminal's keyboard.
    pub fn type_in(&self, keys: &[u8]) {
        let output = self.output.lock().unwrap();
        File::from(output.as_ref().expect("a container with a terminal").try_clone().unwrap()).write_all(keys).unwrap();
    }

    /// The terminal's window is closed.
    pub fn hang_up(&self) {
        // The reader shares the open file, so it is the kernel that has to be told: see TIOCVHANGUP in ioctl_tty(2).
        let output = self.output.lock().unwrap();
        // SAFETY: numbers only.
        unsafe {
            let slave = libc::ioctl(
                output.as_ref().expect("a container with a terminal").as_raw_fd(),
                libc::TIOCGPTPEER,
                libc::O_RDWR | libc::O_NOCTTY,
            );
            assert!(slave >= 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::ioctl(slave, TIOCVHANGUP), 0, "{}", std::io::Error::last_os_error());
            libc::close(slave);
        }
    }

    pub fn lines(&self) -> Vec<Line> {
        self.log.lines.lock().unwrap().lines.clone()
    }

    /// The texts of an instance's lines.
    pub fn said_by(&self, name: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.name == name).map(|line| line.text).collect()
    }

    /// The first line from number `from` on that is so, with its number.
    #[track_caller]
    pub fn line_from(&self, from: usize, what: &str, is: impl Fn(&Line) -> bool) -> (usize, Line) {
        let deadline = Instant::now() + PATIENCE;
        let mut known = self.log.lines.lock().unwrap();
        let mut seen = from;
        loop {
            if let Some(at) = (seen..known.lines.len()).find(|&at| is(&known.lines[at])) {
                return (at, known.lines[at].clone());
            }
            seen = known.lines.len().max(from);
            let left = deadline.saturating_duration_since(Instant::now());
            if known.ended || left.is_zero() {
                let why = if known.ended { "the output ended" } else { "it was time" };
                drop(known);
                panic!("no line `{what}` from line {from} on when {why}");
            }
            known = self.log.news.wait_timeout(known, left).unwrap().0;
        }
    }

    /// Waits until firstmate itself has said something that contains this; the line's number.
    #[track_caller]
    pub fn told(&self, text: &str) -> usize {
        self.told_from(0, text).0
    }

    #[track_caller]
    pub fn told_from(&self, from: usize, text: &str) -> (usize, Line) {
        self.line_from(from, text, |line| line.is_own() && line.text.contains(text))
    }

    /// Waits until this instance has written that line; the line's number.
    #[track_caller]
    pub fn said(&self, name: &str, text: &str) -> usize {
        self.said_from(0, name, text).0
    }

    #[track_caller]
    pub fn said_from(&self, from: usize, name: &str, text: &str) -> (usize, Line) {
        self.line_from(from, &format!("{name}: {text}"), |line| line.name == name && line.text == text)
    }

    /// How many lines firstmate itself has said that contain this.
    pub fn count_told(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.is_own() && line.text.contains(text)).count()
    }

    // --- its end

    /// Waits for firstmate's end, and for the last of its output where it is read.
    #[track_caller]
    pub fn end(&self) -> Ended {
        let ended = until("firstmate ends", || self.try_end());
        if self.output.lock().unwrap().as_ref().is_none_or(|output| self.is_terminal(output)) {
            until("the output ends", || self.log.lines.lock().unwrap().ended.then_some(()));
        }
        ended
    }

    pub fn try_end(&self) -> Option<Ended> {
        let mut ended = self.ended.lock().unwrap();
        if ended.is_none() {
            let mut status = 0_i32;
            let over = match self.place {
                // SAFETY: a child of ours, which only this reaps, and a valid pointer.
                Place::Init => unsafe { libc::syscall(libc::SYS_wait4, self.init, &raw mut status, libc::WNOHANG, 0) != 0 },
                Place::Subreaper => {
                    let mut waited = libc::pollfd { fd: self.status.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                    let mut bytes = [0; 4];
                    // SAFETY: one whole pollfd.
                    let told = unsafe { libc::poll(&raw mut waited, 1, 0) } == 1;
                    told && {
                        (&self.status).read_exact(&mut bytes).unwrap();
                        status = i32::from_ne_bytes(bytes);
                        true
                    }
                }
            };
            if over {
                let by = status & 0x7f;
                *ended = Some(if by == 0 { Ended::Code((status >> 8) & 0xff) } else { Ended::Signal(by) });
            }
        }
        *ended
    }

    /// The exit code of a firstmate that is expected to exit.
    #[track_caller]
    pub fn code(&self) -> i32 {
        match self.end() {
            Ended::Code(code) => code,
            Ended::Signal(signal) => panic!("firstmate was killed by signal {signal}"),
        }
    }

    /// SIGTERM, as `docker stop` sends it, and the exit code.
    #[track_caller]
    pub fn stop(&self) -> i32 {
        self.signal("TERM");
        self.code()
    }

    // --- its processes

    /// firstmate's own pid as it sees itself.
    pub fn own_pid(&self) -> i32 {
        match self.place {
            Place::Init => 1,
            Place::Subreaper => 2,
        }
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// Everybody in the container, also the dead that nobody has reaped.
    pub fn processes(&self) -> Vec<Process> {
        let Ok(entries) = std::fs::read_dir(self.root().join("proc")) else { return Vec::new() };
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
            let mut fields = stat[close + 2..].split(' ');
            let state = fields.next().unwrap().chars().next().unwrap();
            let parent = fields.next().unwrap().parse().unwrap();
            all.push(Process { pid, parent, name: stat[open + 1..close].to_owned(), state });
        }
        all
    }

    /// How often the kernel has killed one of them for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.as_ref().and_then(Cgroup::oom_kills).expect("a container with a cgroup")
    }

    pub fn zombies(&self) -> usize {
        self.processes().iter().filter(|process| process.state == 'Z').count()
    }

    pub fn lives(&self, pid: i32) -> bool {
        self.processes().iter().any(|process| process.pid == pid && process.state != 'Z')
    }

    /// The number by which this test knows a process of the container.
    #[track_caller]
    pub fn outside(&self, pid: i32) -> i32 {
        let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", self.init)).unwrap();
        let inner = format!("\t{pid}");
        until("the process is found", || {
            std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
                let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
                let numbers = status.lines().find(|line| line.starts_with("NSpid:"))?;
                (numbers.ends_with(&inner) && std::fs::read_link(entry.path().join("ns/pid")).ok()? == namespace).then_some(number)
            })
        })
    }

    /// firstmate's number for this test.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        match self.place {
            Place::Init => self.init,
            Place::Subreaper => self.outside(2),
        }
    }

    /// To firstmate, from outside the container.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        send(self.pid(), name);
    }

    /// To any process, by its number in the container.
    #[track_caller]
    pub fn kill(&self, pid: i32, name: &str) {
        send(self.outside(pid), name);
    }

    /// A command that somebody else starts in the container, as docker exec does.
    pub fn foreign(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-p", "-n", "-m", "--"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The pid that a process of the container wrote with `write-pid {dir}/NAME`.
    #[track_caller]
    pub fn pid_in(&self, name: &str) -> i32 {
        let path = self.dir().join(name);
        until(&format!("{name} has a pid"), || std::fs::read_to_string(&path).ok()?.parse().ok())
    }

    // --- its control socket, command line and port

    /// The whole answer over the Unix socket: code and body.
    pub fn ask(&self, method: &str, target: &str) -> Result<(u16, String), std::io::Error> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        exchange(stream, method, target)
    }

    /// The same over TCP within the container's network.
    pub fn ask_tcp(&self, port: u16, method: &str, target: &str) -> Result<(u16, String), std::io::Error> {
        let stream = self.connect(port)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        exchange(stream, method, target)
    }

    /// A connection to a loopback port of the container.
    pub fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        let network = File::open(format!("/proc/{}/ns/net", self.init))?;
        // setns(2) moves one thread; the socket stays where it was made.
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                // SAFETY: an open descriptor of a namespace.
                if unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                TcpStream::connect(("127.0.0.1", port))
            });
            connecting.join().unwrap()
        })
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        let body = until("the control socket answers", || self.ask("GET", "/status").ok()).1;
        serde_json::from_str(&body).unwrap()
    }

    #[track_caller]
    pub fn instance(&self, name: &str) -> InstanceStatus {
        let status = self.status();
        status.services.into_iter().flat_map(|service| service.instances).find(|instance| instance.name == name).expect("an instance")
    }

    /// Waits until the instance is so.
    #[track_caller]
    pub fn until(&self, name: &str, what: &str, is: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let instance = self.instance(name);
            if is(&instance) {
                return instance;
            }
            assert!(Instant::now() < deadline, "in vain: until {name} {what}; it is {instance:?}");
            breathe();
        }
    }

    #[track_caller]
    pub fn until_state(&self, name: &str, state: StateName) -> InstanceStatus {
        self.until(name, &format!("is {state}"), |instance| instance.state == state)
    }

    #[track_caller]
    pub fn until_ready(&self, name: &str) -> InstanceStatus {
        self.until(name, "is ready", |instance| instance.ready)
    }

    /// The pid of an instance's main process, in the container.
    #[track_caller]
    pub fn pid_of(&self, name: &str) -> i32 {
        let found = self.until(name, "has a process", |instance| instance.pid.is_some());
        i32::try_from(found.pid.unwrap()).unwrap()
    }

    /// `firstmate ...` as an operator calls it: exit code, stdout, stderr.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        self.cli_as(0, arguments)
    }

    /// The same, to be started by whoever wants it beside other things.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // Other users may not reach the target directory.
        let program = self.dir().join("firstmate");
        if !program.exists() && std::fs::hard_link(env!("CARGO_BIN_EXE_firstmate"), &program).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_firstmate"), &program).unwrap();
        }
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("FIRSTMATE_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    pub fn cli_as(&self, uid: u32, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(arguments);
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    }
}

fn exchange(mut stream: impl std::io::Read + Write, method: &str, target: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap();
    let incomplete = || std::io::Error::other(format!("not a whole answer: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(incomplete)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(incomplete)?;
    Ok((code, body.to_owned()))
}

#[track_caller]
pub fn send(pid: i32, name: &str) {
    let signal = Signal::parse(name).unwrap();
    // SAFETY: numbers only.
    let sent = unsafe { libc::syscall(libc::SYS_kill, pid, signal.number()) };
    assert_eq!(sent, 0, "cannot send {name} to {pid}: {}", std::io::Error::last_os_error());
}

/// A moment between two looks.
fn breathe() {
    // SAFETY: no descriptors.
    unsafe { libc::poll(std::ptr::null_mut(), 0, 3) };
}

/// Waits until `condition` gives something.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: until {what}");
        breathe();
    }
}
