//! A place in which any Procfile may be started: wherever one of its words may be taken for a program, there is the recorder.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Far more than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Firstmate,
    Foreman,
    Honcho,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firstmate => "firstmate",
            Self::Foreman => "foreman",
            Self::Honcho => "honcho",
        })
    }
}

impl Tool {
    fn program(self) -> PathBuf {
        match self {
            Self::Firstmate => std::env::var_os("FIRSTMATE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_firstmate").into(), PathBuf::from),
            Self::Foreman => "/usr/bin/foreman".into(),
            Self::Honcho => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/foreman-tools/bin/honcho"),
        }
    }
}

/// How the recorder was called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Below the working directory of the tool: empty where it is that.
    pub cwd: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Call {
    /// `web.1`, as each of them has it.
    pub fn instance(&self) -> Option<&str> {
        self.env.get("HONCHO_PROCESS_NAME").or_else(|| self.env.get("PS")).map(String::as_str)
    }
}

/// What became of a start.
#[derive(Debug)]
pub struct Ran {
    pub calls: Vec<Call>,
    /// `None` where it was ended.
    pub code: Option<i32>,
    pub said: String,
}

/// When a start that goes on is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Not before it ends by itself, or is in a loop.
    End,
    /// So many instances have called a program, each of which stays.
    Instances(usize),
}

pub struct Sandbox {
    root: PathBuf,
    work: PathBuf,
    recorder: PathBuf,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Sandbox {
    pub fn new(procfile: &[u8], dotenv: Option<&[u8]>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = PathBuf::from(format!("/tmp/firstmate-family-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        // Deep enough for what begins with `../../`.
        let work = root.join("a/b/c/work");
        std::fs::create_dir_all(&work).unwrap();
        std::fs::create_dir(root.join("path")).unwrap();
        std::fs::write(work.join("Procfile"), procfile).unwrap();
        if let Some(dotenv) = dotenv {
            std::fs::write(work.join(".env"), dotenv).unwrap();
        }
        let exe = std::env::current_exe().unwrap();
        let recorder = exe.parent().and_then(Path::parent).unwrap().join("examples/recorder");
        assert!(recorder.exists(), "{} is missing: run `cargo build --example recorder`", recorder.display());
        let sandbox = Self { root, work, recorder };
        sandbox.furnish(&String::from_utf8_lossy(procfile));
        sandbox
    }

    /// Every word is a program in PATH, or where it says it is.
    fn furnish(&self, procfile: &str) {
        let mut directories = vec![self.work.clone()];
        let words =
            || procfile.split(|c: char| c.is_whitespace() || "\"'`$(){}[];|&<>=,:!#*?\\".contains(c)).filter(|word| !word.is_empty());
        let mut after_cd = false;
        for word in words() {
            if after_cd && !word.starts_with('/') {
                let directory = self.work.join(word);
                std::fs::create_dir_all(&directory).unwrap();
                directories.push(directory);
            }
            after_cd = word == "cd";
        }
        for word in words().filter(|word| !matches!(*word, "." | "..")) {
            assert!(!is_program(word), "{word} is a program of this machine, and would be run");
            if !word.contains('/') {
                let _ = symlink(&self.recorder, self.root.join("path").join(word));
            } else if !word.starts_with('/') {
                for directory in &directories {
                    let place = directory.join(word);
                    // Where a directory is in the way, or a file is where a directory should be, it is no program.
                    let _ = place.parent().map(std::fs::create_dir_all);
                    let _ = symlink(&self.recorder, place);
                }
            }
        }
    }

    /// Runs it with these arguments, in the working directory and with an environment of which nothing matters.
    pub fn run(&self, tool: Tool, arguments: &[&str], until: Until) -> Ran {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let records = self.root.join(format!("records-{number}"));
        std::fs::create_dir(&records).unwrap();
        let said = self.root.join(format!("said-{number}"));
        let output = File::create(&said).unwrap();
        // foreman ends only what it started itself, and honcho fails where it is told to end before it knows all its children. So they get a PID
        // namespace, with which everything ends.
        let mut command = match tool {
            Tool::Firstmate => Command::new(tool.program()),
            Tool::Foreman | Tool::Honcho => {
                let mut command = Command::new("/usr/bin/unshare");
                command.args(["--pid", "--fork", "--kill-child", "--"]).arg(tool.program());
                command
            }
        };
        command.args(arguments).current_dir(&self.work).env_clear();
        command.env("PATH", self.root.join("path")).env("HOME", &self.root).env("LANG", "C.UTF-8").env("RECORD", &records);
        command.env("FIRSTMATE_SOCKET", self.root.join(format!("socket-{number}")));
        if until != Until::End {
            command.env("RECORD_STAYS", "1");
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut child =
            Guard(command.spawn().unwrap_or_else(|error| panic!("cannot run {tool}, which `tests/setup foreman` installs: {error}")));
        let deadline = Instant::now() + PATIENCE;
        let mut code = None;
        let mut asked = false;
        loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                code = code.or(status.code()).filter(|_| !asked);
                break;
            }
            let enough = match until {
                Until::End => false,
                Until::Instances(wanted) => {
                    let calls = self.calls(&records);
                    let mut instances: Vec<_> = calls.iter().filter_map(Call::instance).collect();
                    instances.sort_unstable();
                    instances.dedup();
                    instances.len() >= wanted
                }
            };
            if !asked && (enough || records.join("loop").exists()) {
                asked = true;
                let signal = if tool == Tool::Firstmate { libc::SIGTERM } else { libc::SIGKILL };
                // SAFETY: a child of ours that is not reaped.
                unsafe { libc::kill(i32::try_from(child.0.id()).unwrap(), signal) };
            }
            assert!(
                Instant::now() < deadline,
                "{tool} {arguments:?} goes on and on: {}",
                std::fs::read_to_string(&said).unwrap_or_default()
            );
            // SAFETY: no descriptors: a moment between two looks.
            unsafe { libc::poll(std::ptr::null_mut(), 0, 5) };
        }
        let said = String::from_utf8_lossy(&std::fs::read(&said).unwrap()).into_owned();
        Ran { calls: self.calls(&records), code, said }
    }

    fn calls(&self, records: &Path) -> Vec<Call> {
        let mut calls = Vec::new();
        for entry in std::fs::read_dir(records).unwrap().flatten() {
            let name = entry.file_name();
            if name == "loop" || name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            let mut strings = bytes.split(|byte| *byte == 0).map(|string| String::from_utf8_lossy(string).into_owned());
            let cwd = strings.next().unwrap();
            let cwd = cwd.strip_prefix(self.work.to_str().unwrap()).map_or(cwd.clone(), |below| below.trim_start_matches('/').to_owned());
            assert_eq!(strings.next().as_deref(), Some(""));
            // An argument may be empty, so the environment is found by its first entry's `=` from behind: see `RECORD`, which is always there.
            let rest: Vec<String> = strings.collect();
            let end = rest.len() - 1;
            let from = (0..end).rev().find(|at| rest[*at].is_empty()).unwrap();
            let env = rest[from + 1..end].iter().map(|entry| entry.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned()));
            calls.push(Call { cwd, argv: rest[..from].to_vec(), env: env.collect() });
        }
        calls.sort();
        calls
    }
}

/// An absolute path that the machine has as a program.
fn is_program(word: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    word.starts_with('/') && std::fs::metadata(word).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
