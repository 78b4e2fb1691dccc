//! The real binary in a cgroup of its own, and what it says.

use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use firstmate::engine::status::Status;

use super::cgroup::{Cgroup, unique};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const MIB: u64 = 1 << 20;

/// The static one that ships.
pub fn binary() -> PathBuf {
    built("FIRSTMATE_BINARY", "firstmate", "make build")
}

/// Static as well, so that containers of any kind can run it.
pub fn leaker() -> PathBuf {
    let path = built("FIRSTMATE_LEAKER", "examples/leaker", "make build");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/leaker.rs");
    assert!(changed(&path) >= changed(&source), "{} is older than its source; run `make build`", path.display());
    path
}

fn built(variable: &str, name: &str, how: &str) -> PathBuf {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/{}-unknown-linux-musl/release/{name}", std::env::consts::ARCH));
    let path = std::env::var_os(variable).map_or(usual, PathBuf::from);
    assert!(path.is_file(), "there is no {}; make it with `{how}`, or name another with {variable}", path.display());
    path
}

/// The output of a `docker` command that must succeed.
pub fn docker(words: &[&str]) -> String {
    let output = Command::new("docker").args(words).output().expect("cannot execute docker; run `tests/setup`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(
        output.status.success(),
        "docker {words:?}: {}\n(the daemon: `tests/setup docker`; the image: `make build` and `tests/docker/images`)",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// CLOCK_MONOTONIC, as the leaker tells it.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// Looks until there is something to see. `look` says what it saw instead.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(instead) if Instant::now() > deadline => panic!("waited {PATIENCE:?} until {what}; last seen: {instead}"),
            Err(_) => std::thread::sleep(Duration::from_millis(3)),
        }
    }
}

/// Where firstmate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An ordinary program in the limited cgroup, under an init that is a shell.
    Below,
    /// PID 1 of a PID namespace, the whole of it in the limited cgroup.
    Init,
    /// PID 1 of a Docker container with Docker's default capabilities.
    Docker,
}

/// A directory of its own that goes at the end.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        let path = PathBuf::from("/tmp").join(unique());
        std::fs::create_dir(&path).unwrap();
        // Whoever the services run as leaves notes here, and may not be able to reach the target directory.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let there = path.join("leaker");
        if std::fs::hard_link(leaker(), &there).is_err() {
            std::fs::copy(leaker(), &there).unwrap();
        }
        Self(path)
    }

    /// `{dir}` filled in, and `{leaker}`, which is in it.
    pub fn filled(&self, text: &str) -> String {
        text.replace("{leaker}", "{dir}/leaker").replace("{dir}", self.0.to_str().unwrap())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One line of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When firstmate wrote it, by CLOCK_MONOTONIC, to the millisecond.
    pub at: Duration,
    /// `firstmate` or `web.1`; empty for what is no line of the log.
    pub name: String,
    pub text: String,
}

impl Line {
    /// `wall_less_monotonic` in milliseconds.
    fn parse(raw: &str, wall_less_monotonic: u64) -> Self {
        let parsed = || {
            let (time, rest) = raw.split_once(' ')?;
            let wall = milliseconds(time)?;
            let (head, text) = rest.split_once("| ")?;
            let name = head.split(' ').next()?;
            Some(Self { at: Duration::from_millis(wall.saturating_sub(wall_less_monotonic)), name: name.to_owned(), text: text.to_owned() })
        };
        parsed().unwrap_or_else(|| Self { at: Duration::ZERO, name: String::new(), text: raw.to_owned() })
    }
}

/// `2026-01-02T03:04:05.678Z` in milliseconds since 1970.
fn milliseconds(time: &str) -> Option<u64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = clock.split([':', '.']).map(number);
    let (hour, minute, second, milli) = (clock.next()??, clock.next()??, clock.next()??, clock.next()??);
    // The year begins with March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milli)
}

#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<(Vec<Line>, bool)>,
    news: Condvar,
}

/// Why a line did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Whoever wrote the output is gone.
    Ended,
    Late,
}

impl Log {
    /// Reads the output in a thread of its own.
    pub fn of(mut output: ChildStdout) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let offset = u64::try_from(wall.saturating_sub(monotonic()).as_millis()).unwrap();
        let heard = Arc::clone(&log);
        std::thread::spawn(move || {
            let (mut buffer, mut partial) = (vec![0; 64 * 1024], Vec::new());
            loop {
                let count = output.read(&mut buffer).unwrap_or(0);
                partial.extend_from_slice(&buffer[..count]);
                let whole = if count == 0 { partial.len() } else { partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1) };
                let text: Vec<u8> = partial.drain(..whole).collect();
                let mut known = heard.lines.lock().unwrap();
                known.0.extend(String::from_utf8_lossy(&text).lines().map(|line| Line::parse(line, offset)));
                known.1 = count == 0;
                heard.news.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        log
    }

    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().0.clone()
    }

    /// The first line that is so.
    pub fn line(&self, patience: Duration, is: impl Fn(&Line) -> bool) -> Result<Line, Missing> {
        let deadline = Instant::now() + patience;
        let (mut known, mut seen) = (self.lines.lock().unwrap(), 0);
        loop {
            if let Some(found) = known.0[seen..].iter().find(|line| is(line)) {
                return Ok(found.clone());
            }
            seen = known.0.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if known.1 || left.is_zero() {
                return Err(if known.1 { Missing::Ended } else { Missing::Late });
            }
            known = self.news.wait_timeout(known, left).unwrap().0;
        }
    }

    /// What firstmate itself said.
    pub fn own(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.name == "firstmate").map(|line| line.text).collect()
    }

    /// To be shown when something went wrong.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let last = lines.iter().skip(lines.len().saturating_sub(40));
        last.map(|line| format!("  {:.3} {} | {}\n", line.at.as_secs_f64(), line.name, line.text.chars().take(400).collect::<String>()))
            .collect()
    }
}

/// What keeps a stage up.
#[derive(Debug)]
enum Holder {
    /// `unshare`, with whose end the PID namespace ends.
    Namespace(Child),
    /// A container's name, and the `docker logs` that reads its output.
    Container(String, Child),
}

/// firstmate in a cgroup, and everything it started. All of it ends when this goes.
#[derive(Debug)]
pub struct Stage {
    pub log: Arc<Log>,
    pub directory: Directory,
    holder: Holder,
    /// Last: it waits until the cgroup is empty.
    pub cgroup: Cgroup,
}

impl Stage {
    /// With this firstmate.toml, in which `{leaker}` and `{dir}` are filled in. `before` are words in front of the command, such as `setpriv`'s.
    pub fn start(cgroup: Cgroup, place: Place, toml: &str, before: &[&str]) -> Self {
        let directory = Directory::new();
        std::fs::write(directory.0.join("firstmate.toml"), directory.filled(toml)).unwrap();
        let mut words = Vec::new();
        if place == Place::Below {
            // More than one command, or the shell would execute the last one in its own place.
            words.extend(["sh", "-c", "\"$@\"; exit $?", "sh"]);
        }
        words.extend(before);
        let binary = binary();
        words.extend([
            binary.to_str().unwrap(),
            "start",
            "-f",
            "{dir}/firstmate.toml",
            "--socket",
            "{dir}/firstmate.sock",
            "--http",
            "off",
        ]);
        Self::run(cgroup, directory, &words, &[])
    }

    /// Anything, in a PID namespace of its own within the cgroup.
    pub fn run(cgroup: Cgroup, directory: Directory, words: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new("unshare");
        // The kernel ends the namespace when this test is no more.
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]).args(words.iter().map(|word| directory.filled(word)));
        command.current_dir(&directory.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(env.iter().map(|(name, value)| (*name, directory.filled(value))));
        let doors: Vec<_> = cgroup.doors().iter().map(|path| std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()).collect();
        // SAFETY: system calls only, on strings that were made before the fork.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                for door in &doors {
                    let door = libc::open(door.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                    if libc::write(door, c"0".as_ptr().cast(), 1) != 1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        // The signal at the parent's death comes when the *thread* ends that forked: this is called on the test's own, or on one that outlives it.
        let mut child = command.spawn().expect("cannot execute unshare; run `tests/setup packages`");
        let log = Log::of(child.stdout.take().unwrap());
        Self { log, directory, holder: Holder::Namespace(child), cgroup }
    }

    /// As PID 1 of a Docker container with Docker's default capabilities; `{leaker}` is within reach there, and so is `{dir}`.
    pub fn in_docker(limit: u64, toml: &str, options: &[&str]) -> Self {
        let directory = Directory::new();
        let place = directory.0.to_str().unwrap().to_owned();
        let toml = format!("[firstmate]\nsocket = \"{place}/firstmate.sock\"\nhttp = \"off\"\n{toml}");
        std::fs::write(directory.0.join("firstmate.toml"), directory.filled(&toml)).unwrap();
        let name = unique();
        let file = format!("{place}/firstmate.toml");
        let mounts = [
            format!("--volume={place}:{place}"),
            format!("--volume={}:/bin/firstmate:ro", binary().display()),
            format!("--memory={limit}"),
            format!("--memory-swap={limit}"),
        ];
        let mut words = vec!["run", "--detach", "--no-healthcheck", "--label", "firstmate.test", "--name", &name];
        words.extend(mounts.iter().map(String::as_str));
        words.extend(options);
        let image = std::env::var("FIRSTMATE_BUSYBOX").unwrap_or_else(|_| "firstmate-busybox:test".to_owned());
        words.extend([image.as_str(), "start", "-f", &file]);
        docker(&words);
        let mut logs = Command::new("docker");
        logs.args(["logs", "--follow", &name]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut logs = logs.spawn().unwrap();
        let log = Log::of(logs.stdout.take().unwrap());
        // From here on the container goes with this.
        let holder = Holder::Container(name.clone(), logs);
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &name]);
        let cgroup = Cgroup::of_process(pid.parse().unwrap_or_else(|_| panic!("{pid:?} is no pid\n{}", log.tail())), limit);
        Self { log, directory, holder, cgroup }
    }

    /// Processes the kernel's OOM killer has killed, also when it was the whole container.
    pub fn oom_kills(&self) -> u64 {
        match (&self.holder, self.cgroup.oom_kills()) {
            (_, Some(kills)) => kills,
            (Holder::Namespace(_), None) => panic!("the cgroup is gone"),
            (Holder::Container(name, _), None) => u64::from(docker(&["inspect", "--format", "{{.State.OOMKilled}}", name]) == "true"),
        }
    }

    /// A file in the directory.
    pub fn touch(&self, name: &str) {
        std::fs::write(self.directory.0.join(name), "").unwrap();
    }

    /// Waits until firstmate itself has said something that contains this.
    #[track_caller]
    pub fn told(&self, part: &str) -> Line {
        let found = self.log.line(PATIENCE, |line| line.name == "firstmate" && line.text.contains(part));
        found.unwrap_or_else(|why| panic!("firstmate did not say `{part}` ({why:?}):\n{}", self.log.tail()))
    }

    /// The answer of its control socket, while it has one.
    pub fn try_status(&self) -> Result<Status, String> {
        let ask = || {
            let mut stream = UnixStream::connect(self.directory.0.join("firstmate.sock"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        let text = ask().map_err(|error| error.to_string())?;
        let body = text.split_once("\r\n\r\n").ok_or("no whole answer")?.1;
        serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        until("the control socket answers", || self.try_status())
    }

    /// firstmate's own pid as this test sees it.
    pub fn pid(&self) -> u32 {
        let (all, binary) = (|| self.cgroup.pids(), binary().canonicalize().unwrap());
        let is = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
        until("firstmate runs", || all().into_iter().find(is).ok_or_else(|| self.log.tail()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let child = match &mut self.holder {
            Holder::Namespace(child) => child,
            Holder::Container(name, logs) => {
                let _ = Command::new("docker").args(["rm", "--force", "--volumes", name]).output();
                logs
            }
        };
        let _ = child.kill();
        let _ = child.wait();
    }
}
