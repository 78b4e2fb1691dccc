//! Where a page's commands are run: a machine of its own, and the host's Docker for those that are Docker's.
//!
//! The machine is a container of bare Debian, with nothing in it but what README's first `apt-get` line installs. It and the host share one directory, the
//! reader's, in which are what a build needs of the sources and a binary where `make build` leaves it. What the host has only once is the walk's own:
//! names of containers, images and volumes, and published ports, are replaced before a command is run and put back in what it prints.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::compare;

/// For what takes seconds at most; building an image may take longer, the first time.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_TO_BUILD: Duration = Duration::from_secs(240);
/// Where the shared directory is in the machine.
const PLACE: &str = "/root/firstmate";
/// Names that the pages give to containers, images and volumes.
const NAMES: [&str; 2] = ["badges", "shop"];
/// Ports that the pages publish on the host's loopback.
const PORTS: [u16; 2] = [8080, 9180];
const LABEL: &str = "firstmate.test";

pub fn docker(words: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(words).env("DOCKER_BUILDKIT", "0").output().expect("cannot execute docker; run `tests/setup`");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text.trim_end().to_owned()) } else { Err(format!("docker {words:?}: {text}")) }
}

/// Debian, and what README's walk installs on the laptop.
fn image(installs: &[String]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(root.join("Dockerfile.debian")).unwrap();
    let base = dockerfile.lines().find_map(|line| line.strip_prefix("ARG DEBIAN_IMAGE=")).unwrap();
    if docker(&["image", "inspect", base]).is_err() {
        panic!("there is no image {base}, or no Docker daemon: `tests/setup docker && tests/docker/base-images` makes both");
    }
    let runs: String = installs.iter().map(|command| format!("RUN {command}\n")).collect();
    build("firstmate-walk:test", &format!("FROM {base}\n{runs}"))
}

/// What a page's Dockerfile installs is built beforehand under a name that stays, so that Docker has it the next time: the page's own image goes with its test.
pub fn keep_base(dockerfile: &str) {
    let lines: Vec<_> = dockerfile.lines().take_while(|line| !line.starts_with("COPY")).collect();
    build("firstmate-walk-shop:test", &(lines.join("\n") + "\n"));
}

fn build(tag: &str, dockerfile: &str) -> String {
    let directory = std::env::temp_dir().join(format!("firstmate-walk-{}-image", std::process::id()));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("Dockerfile"), dockerfile).unwrap();
    // Tests of several pages would each install the same.
    let lock = fs::File::create(std::env::temp_dir().join("firstmate-walk-image.lock")).unwrap();
    lock.lock().unwrap();
    let built = docker(&["build", "--quiet", "--tag", tag, directory.to_str().unwrap()]);
    drop(lock);
    fs::remove_dir_all(&directory).unwrap();
    built.unwrap_or_else(|error| panic!("{error}"));
    tag.to_owned()
}

pub fn binary() -> PathBuf {
    std::env::var_os("FIRSTMATE_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_firstmate")), PathBuf::from)
}

/// Lines of a stream, read by a thread, so that whoever waits for them can stop waiting.
struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl std::io::Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line);
                // A terminal ends lines with a return as well, and shows Ctrl-C in front of what comes next.
                let line = line.strip_prefix("^C").unwrap_or(&line).trim_end_matches('\r');
                if sender.send(line.to_owned()).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }
}

/// A shell that keeps its directory and variables from one command to the next.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Lines,
}

impl Shell {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Self { child, input, lines }
    }

    /// What it prints, both streams in one, and its exit code.
    fn run(&mut self, text: &str) -> (Vec<String>, i32) {
        const END: &str = "@@END ";
        write!(self.input, "{{ {text}\n}} </dev/null 2>&1; printf '\\n{END}%d\\n' $?\n").unwrap();
        let deadline = Instant::now() + if text.contains("docker build") { PATIENCE_TO_BUILD } else { PATIENCE };
        let mut output = Vec::new();
        loop {
            match self.lines.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix(END) {
                    Some(code) => {
                        output.pop_if(|last: &mut String| last.is_empty());
                        return (output, code.parse().unwrap());
                    }
                    None => output.push(line),
                },
                Err(why) => panic!("`{text}` does not end ({why}); so far:\n{}", output.join("\n")),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal with a command in it.
struct Terminal {
    shell: Shell,
    seen: Vec<String>,
}

impl Terminal {
    /// Reads on until all of it has come, in this order.
    fn wait_for(&mut self, expected: &[String]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(missing) = compare::missing(expected, &self.seen) {
            match self.shell.lines.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(why) => {
                    let seen = &self.seen[..self.seen.len().min(60)];
                    return Err(format!("`{missing}` does not come ({why}); there is, to begin with:\n{}", seen.join("\n")));
                }
            }
        }
        Ok(())
    }

    fn wait_for_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shell.lines.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("Ctrl-C does not end it; there is:\n{}", self.seen.join("\n")),
            }
        }
    }
}

/// What is there before the first command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing of firstmate: the page installs it.
    Nothing,
    /// firstmate is installed, and PID 1 of the machine: it runs `tests/walk/stack.toml`, with everything ready at the beginning of each block.
    Stack,
}

pub struct Ground {
    before: Before,
    /// Of the host; the machine has it as [`PLACE`].
    directory: PathBuf,
    machine: String,
    shell: Option<Shell>,
    host: Option<Shell>,
    terminals: BTreeMap<String, Terminal>,
    prefix: String,
    ports: Vec<(u16, u16)>,
}

impl Ground {
    pub fn new(before: Before, installs: &[String]) -> Self {
        let image = image(installs);
        let prefix = format!("firstmate-walk-{}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir(&directory).unwrap();
        copy(&root.join("examples"), &directory.join("examples"));
        copy(&root.join("procfiles"), &directory.join("procfiles"));
        for file in ["Dockerfile.debian", "Dockerfile.alpine", ".dockerignore"] {
            fs::copy(root.join(file), directory.join(file)).unwrap();
        }
        let release = directory.join(format!("target/{}-unknown-linux-musl/release", std::env::consts::ARCH));
        fs::create_dir_all(&release).unwrap();
        fs::copy(binary(), release.join("firstmate")).unwrap();
        let listeners: Vec<_> = PORTS.iter().map(|port| (*port, TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        let ports = listeners.iter().map(|(port, listener)| (*port, listener.local_addr().unwrap().port())).collect();
        let mut ground = Self {
            before,
            directory,
            machine: format!("{prefix}-machine"),
            shell: None,
            host: None,
            terminals: BTreeMap::new(),
            prefix,
            ports,
        };
        ground.begin(&image);
        ground
    }

    fn begin(&mut self, image: &str) {
        let shared = format!("--volume={}:{PLACE}", self.directory.display());
        let firstmate = format!("--volume={}:/usr/local/bin/firstmate:ro", binary().display());
        let place = format!("--workdir={PLACE}");
        let common = ["run", "--detach", "--label", LABEL, "--memory=512m", "--name", &self.machine, &shared, &place];
        match self.before {
            Before::Nothing => docker(&[&common[..], &["--init", image, "sleep", "infinity"]].concat()),
            Before::Stack => {
                let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/walk/stack.toml");
                fs::copy(stack, self.directory.join("firstmate.toml")).unwrap();
                docker(&[&common[..], &[&firstmate, image, "firstmate"]].concat())
            }
        }
        .unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new("docker");
        command.args(["exec", "--interactive", &self.machine, "bash"]);
        self.shell = Some(Shell::start(command));
        if self.before == Before::Stack {
            // Completions go where the shells have theirs, which a bare machine has not; `run-the-tests` is the reader's own program.
            let prepare = "mkdir -p /usr/share/bash-completion/completions /usr/local/share/zsh/site-functions \
                 ~/.config/fish/completions && ln -s /bin/true /usr/local/bin/run-the-tests && firstmate wait ready";
            let (output, code) = self.in_machine(prepare);
            assert_eq!(code, 0, "{output:?}");
        }
    }

    fn in_machine(&mut self, text: &str) -> (Vec<String>, i32) {
        self.shell.as_mut().unwrap().run(text)
    }

    /// Everything is as it was in the beginning.
    pub fn settle(&mut self) {
        if self.before == Before::Stack {
            let (output, code) = self.in_machine("firstmate start all && firstmate scale worker=2");
            assert_eq!(code, 0, "{}\n{}", output.join("\n"), docker(&["logs", &self.machine]).unwrap_or_default());
        }
    }

    pub fn run(&mut self, on_host: bool, text: &str) -> (Vec<String>, i32) {
        if !on_host {
            return self.in_machine(text);
        }
        let here = self.in_machine("pwd").0.join("");
        let below = here.strip_prefix(PLACE).unwrap_or_else(|| panic!("docker is asked for in {here}, which the host has not"));
        let directory = format!("{}{below}", self.directory.display());
        let shell = self.host.get_or_insert_with(|| {
            let mut command = Command::new("bash");
            // What the classic builder does, every Docker can.
            command.env("DOCKER_BUILDKIT", "0");
            Shell::start(command)
        });
        assert_eq!(shell.run(&format!("cd '{directory}'")), (Vec::new(), 0));
        let (output, code) = shell.run(&own(text, &self.prefix, &self.ports));
        (output.iter().map(|line| common(line, &self.prefix, &self.ports)).collect(), code)
    }

    pub fn write(&mut self, name: &str, text: &str) {
        let here = self.in_machine("pwd").0.join("");
        let below = here.strip_prefix(PLACE).unwrap_or_else(|| panic!("{here} is not the host's too")).trim_start_matches('/');
        let path = self.directory.join(below).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A terminal of the machine, in the directory where its shell is.
    pub fn open(&mut self, terminal: &str, text: &str, expected: &[String]) -> Result<(), String> {
        let here = self.in_machine("pwd").0.join("");
        let mut command = Command::new("docker");
        command.args([
            "exec",
            "--interactive",
            "--env",
            "NO_COLOR=1",
            "--workdir",
            &here,
            &self.machine,
            "script",
            "-qefc",
            text,
            "/dev/null",
        ]);
        let mut opened = Terminal { shell: Shell::start(command), seen: Vec::new() };
        let result = opened.wait_for(expected);
        self.terminals.insert(terminal.to_owned(), opened);
        result
    }

    pub fn interrupt(&mut self, terminal: &str, expected: &[String]) -> Result<(), String> {
        let mut closed = self.terminals.remove(terminal).unwrap_or_else(|| panic!("there is no terminal {terminal}"));
        closed.seen.clear();
        closed.shell.input.write_all(b"\x03").unwrap();
        closed.shell.input.flush().unwrap();
        closed.wait_for(expected)?;
        closed.wait_for_end();
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the machine's log:\n{}", docker(&["logs", "--tail", "40", &self.machine]).unwrap_or_default());
        }
        self.terminals.clear();
        self.shell = None;
        self.host = None;
        let _ = docker(&["rm", "--force", "--volumes", &self.machine]);
        for name in NAMES {
            let name = format!("{}-{name}", self.prefix);
            let _ = docker(&["rm", "--force", "--volumes", &name]);
            let _ = docker(&["volume", "rm", &name]);
            let _ = docker(&["image", "rm", &name]);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The command with names and ports that nobody else has.
fn own(text: &str, prefix: &str, ports: &[(u16, u16)]) -> String {
    let named = NAMES.iter().fold(text.to_owned(), |text, name| {
        let pattern = regex_lite::Regex::new(&format!(r"(^|[\s=]){name}(:|\s|$)")).unwrap();
        pattern.replace_all(&text, |found: &regex_lite::Captures<'_>| format!("{}{prefix}-{name}{}", &found[1], &found[2])).into_owned()
    });
    ports.iter().fold(named, |text, (port, other)| text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{other}")))
}

fn common(line: &str, prefix: &str, ports: &[(u16, u16)]) -> String {
    let line = line.replace(&format!("{prefix}-"), "");
    ports.iter().fold(line, |line, (port, other)| line.replace(&format!("127.0.0.1:{other}"), &format!("127.0.0.1:{port}")))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (here, there) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&here, &there);
        } else {
            fs::copy(&here, &there).unwrap();
        }
    }
}

#[test]
fn only_what_the_host_has_once_is_replaced() {
    let ports = [(8080, 40001), (9180, 40002)];
    let text = "docker run --name badges -p 127.0.0.1:8080:8080 -v badges:/srv/stack/data badges";
    let changed = own(text, "w-1", &ports);
    assert_eq!(changed, "docker run --name w-1-badges -p 127.0.0.1:40001:8080 -v w-1-badges:/srv/stack/data w-1-badges");
    assert_eq!(common(&changed, "w-1", &ports), text);
    assert_eq!(own("docker build -t a/badges .", "w-1", &ports), "docker build -t a/badges .");
}
