//! A container, and what a test can see of it from outside.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use firstmate::engine::status::{InstanceStatus, StateName, Status};

use super::client::{self, Got};
use super::processes::{self, Process};

pub const STACK: &str = "firstmate-all-in-one:test";
pub const BUSYBOX: &str = "firstmate-busybox:test";
pub const SCRATCH: &str = "firstmate-scratch:test";
/// Every container of these tests has it: `docker ps -a --filter label=firstmate.test`.
pub const LABEL: &str = "firstmate.test";

/// For what happens within a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something to see. `look` says what it saw instead.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(instead) if Instant::now() > deadline => panic!("waited {PATIENCE:?} until {what}; last seen: {instead}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A name nobody else has.
pub fn unique(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("firstmate-{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Exit code, standard output and standard error of a `docker` command.
pub fn docker(words: &[&str]) -> (i32, String, String) {
    let output = Command::new("docker").args(words).output().expect("cannot execute docker; run `tests/setup`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The output of a `docker` command that must succeed.
pub fn docker_ok(words: &[&str]) -> String {
    let (code, out, err) = docker(words);
    assert_eq!(code, 0, "docker {words:?}: {out}{err}");
    out.trim_end().to_owned()
}

fn require(image: &str) {
    let (code, _, err) = docker(&["image", "inspect", image]);
    if code == 0 {
        return;
    }
    if docker(&["info"]).0 != 0 {
        panic!("cannot reach the Docker daemon; start it with `tests/setup docker`: {err}");
    }
    panic!(
        "there is no image {image}; make it with `make build && tests/docker/images target/{}-unknown-linux-musl/release/firstmate`",
        std::env::consts::ARCH
    );
}

/// A directory whose files containers are given.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(unique("files"));
        std::fs::create_dir(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The option of `docker run` that shows one of the files at `place`.
    pub fn mount(&self, file: &str, place: &str) -> String {
        format!("--volume={}:{place}", self.0.join(file).display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Container {
    pub name: String,
    /// What it was given as files lives as long as it does.
    _files: Option<Directory>,
}

impl Container {
    /// `docker run --detach OPTIONS IMAGE WORDS`.
    pub fn run(image: &str, options: &[&str], words: &[&str]) -> Self {
        Self::run_with(image, options, words, None)
    }

    /// Busybox over this TOML file.
    pub fn busybox(options: &[&str], toml: &str) -> Self {
        let files = Directory::new(&[("firstmate.toml", toml)]);
        let mount = files.mount("firstmate.toml", "/etc/firstmate/firstmate.toml:ro");
        Self::run_with(BUSYBOX, &[&[mount.as_str()], options].concat(), &[], Some(files))
    }

    /// The stack, its file changed by `edit`.
    pub fn stack_with(options: &[&str], edit: impl Fn(&str) -> String) -> Self {
        let shipped = include_str!("../../examples/all-in-one/firstmate.toml");
        let files = Directory::new(&[("firstmate.toml", &edit(shipped))]);
        let mount = files.mount("firstmate.toml", "/srv/stack/firstmate.toml:ro");
        Self::run_with(STACK, &[&[mount.as_str()], options].concat(), &[], Some(files))
    }

    fn run_with(image: &str, options: &[&str], words: &[&str], files: Option<Directory>) -> Self {
        require(image);
        let name = unique("test");
        let container = Self { name, _files: files };
        // The health check runs a process every few seconds: only the tests about it have it.
        let own = ["run", "--detach", "--label", LABEL, "--name", &container.name];
        let quiet: &[&str] = if options.iter().any(|option| option.starts_with("--health")) { &[] } else { &["--no-healthcheck"] };
        docker_ok(&[&own, quiet, options, &[image], words].concat());
        container
    }

    pub fn inspect(&self, template: &str) -> String {
        docker_ok(&["inspect", "--format", template, &self.name])
    }

    pub fn address(&self, port: u16) -> SocketAddr {
        let text = self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        let address: IpAddr = text.parse().unwrap_or_else(|error| panic!("{text:?} is no address: {error}\n{}", self.log()));
        SocketAddr::new(address, port)
    }

    /// The first process's pid on the host.
    pub fn pid(&self) -> i32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    pub fn processes(&self) -> Vec<Process> {
        processes::of_namespace(self.pid())
    }

    /// Everything it wrote to standard output: services' lines and firstmate's.
    pub fn log(&self) -> String {
        docker(&["logs", &self.name]).1
    }

    /// What it wrote to standard error, where firstmate complains before its log begins.
    pub fn complaints(&self) -> String {
        docker(&["logs", &self.name]).2
    }

    /// firstmate's own lines, without time and level.
    pub fn said(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| line.split_once(' ')?.1.strip_prefix("firstmate ")?.split_once("| "));
        lines.map(|(_, text)| text.to_owned()).collect()
    }

    pub fn wait_until_said(&self, part: &str) -> String {
        let look = || self.said().into_iter().find(|line| line.contains(part)).ok_or_else(|| self.log());
        until(&format!("it says {part:?}"), look)
    }

    /// `docker exec`: exit code and both outputs.
    pub fn exec(&self, words: &[&str]) -> (i32, String) {
        self.exec_with(&[], words)
    }

    pub fn exec_with(&self, options: &[&str], words: &[&str]) -> (i32, String) {
        let (code, out, err) = docker(&[&["exec"], options, &[self.name.as_str()], words].concat());
        (code, out + &err)
    }

    pub fn exec_ok(&self, words: &[&str]) -> String {
        let (code, text) = self.exec(words);
        assert_eq!(code, 0, "{words:?}: {text}\n{}", self.log());
        text
    }

    pub fn get(&self, port: u16, target: &str) -> Got {
        client::get(self.address(port), target)
    }

    /// What firstmate says over HTTP.
    pub fn status(&self) -> Result<Status, String> {
        match self.get(9180, "/status") {
            Got::Answer(200, body) => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
            other => Err(format!("{other:?}\n{}", self.log())),
        }
    }

    /// Waits until everything is up and ready, or completed.
    pub fn wait_until_well(&self) -> Status {
        until("all is well", || {
            let status = self.status()?;
            let well = |instance: &InstanceStatus| instance.ready || instance.state == StateName::Completed;
            let all_well = status.ready && status.services.iter().flat_map(|service| &service.instances).all(well);
            if all_well { Ok(status) } else { Err(format!("{status:#?}\n{}", self.log())) }
        })
    }

    /// Waits until there is no process but firstmate, those of present runs, and what docker exec brought: no zombie, and nobody of a run
    /// that is over.
    pub fn wait_until_tidy(&self) {
        let init = self.pid();
        until("only present runs have processes", || {
            let status = self.status()?;
            let present: Vec<_> =
                status.services.iter().flat_map(|service| &service.instances).filter_map(|one| Some((one.pid?, one))).collect();
            let all = processes::of_namespace(init);
            for process in all.iter().filter(|process| process.inner != 1 && process.parent != 0) {
                if process.zombie {
                    return Err(format!("a zombie: {process:?}"));
                }
                // nginx, php-fpm and Redis write their titles over their environment, so that parentage must tell for them.
                let leader = processes::topmost(process, &all, init);
                if leader.parent == 0 {
                    continue;
                }
                let Some((_, owner)) = present.iter().find(|(pid, _)| *pid == leader.inner) else {
                    return Err(format!("whose is {process:?}?"));
                };
                let marker = format!(":{}:{}", owner.name, owner.run);
                if process.run.as_ref().is_some_and(|run| !run.ends_with(&marker)) {
                    return Err(format!("{process:?} is not of {marker}"));
                }
            }
            Ok(())
        });
    }

    /// `docker stop`, and how long it took.
    pub fn stop(&self) -> Duration {
        let begin = Instant::now();
        docker_ok(&["stop", &self.name]);
        begin.elapsed()
    }

    /// Waits until it has ended, and says with which code.
    pub fn ended(&self) -> i32 {
        until("the container has ended", || match self.inspect("{{.State.Status}} {{.State.ExitCode}}").split_once(' ') {
            Some(("exited", code)) => Ok(code.parse().unwrap()),
            other => Err(format!("{other:?}\n{}", self.log())),
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (_, out, err) = docker(&["logs", "--tail", "80", &self.name]);
            eprintln!("the last lines of {}:\n{out}{err}", self.name);
        }
        let _ = docker(&["rm", "--force", "--volumes", &self.name]);
    }
}
