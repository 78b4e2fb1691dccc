//! The real binary as PID 1 of a PID namespace, with its HTTP port on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use firstmate::engine::status::{InstanceStatus, Status};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

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

/// `$FIRSTMATE_BINARY`, the one that ships, else the one cargo has built for the tests.
fn binary() -> PathBuf {
    std::env::var_os("FIRSTMATE_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_firstmate")), PathBuf::from)
}

pub struct Firstmate {
    unshare: Child,
    pub pid: u32,
    directory: PathBuf,
    port: u16,
    /// Read up to where it says which port it has.
    pub output: Option<ChildStdout>,
}

impl Firstmate {
    /// Over the services of this file, without waiting for them. Its output is read on until the end.
    pub fn start(services: &str) -> Self {
        Self::start_beside(services, &[])
    }

    /// With these files in its directory, which is where its services run.
    pub fn start_beside(services: &str, files: &[(&str, &str)]) -> Self {
        Self::unread_beside(services, files, &[]).read_on()
    }

    /// In the cgroups whose cgroup.procs these are.
    pub fn start_within(services: &str, doors: &[PathBuf]) -> Self {
        Self::unread_beside(services, &[], doors).read_on()
    }

    fn read_on(mut self) -> Self {
        let mut output = self.output.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(1..) = output.read(&mut buffer) {}
        });
        self
    }

    /// The same, and its output is the test's to read.
    pub fn unread(services: &str) -> Self {
        Self::unread_beside(services, &[], &[])
    }

    fn unread_beside(services: &str, files: &[(&str, &str)], doors: &[PathBuf]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("firstmate-monitoring-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        for (name, text) in files.iter().chain([&("firstmate.toml", services)]) {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let doors = doors.iter().map(|door| door.to_str().unwrap());
        let mut unshare = Command::new("sh")
            .args(["-euc", "while [ \"$1\" != -- ]; do echo $$ >\"$1\"; shift; done; shift; exec unshare \"$@\"", "sh"])
            .args(doors)
            .args(["--", "--pid", "--fork", "--mount-proc", "--kill-child", "--"])
            .arg(binary())
            .args(["start", "-f", "firstmate.toml", "--socket", "firstmate.sock", "--http", "127.0.0.1:0"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cannot execute unshare; run `tests/setup packages`");
        let mut output = unshare.stdout.take().unwrap();
        let mut text = Vec::new();
        let port = loop {
            let mut byte = [0];
            let read = output.read(&mut byte).unwrap();
            assert_eq!(read, 1, "firstmate is gone: {}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
            let line = String::from_utf8_lossy(&text);
            let said = line.lines().find_map(|line| line.split_once("served on http://127.0.0.1:")).map(|(_, port)| port.parse());
            if let (Some(Ok(port)), b'\n') = (said, byte[0]) {
                break port;
            }
        };
        let outer = unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        let pid = children.trim().parse().unwrap();
        Self { unshare, pid, directory, port, output: Some(output) }
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Whatever is answered over TCP to these bytes; empty where the connection was refused a place.
    pub fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = self.tcp();
        // It may be closed before everything was read.
        let _ = stream.write_all(bytes);
        rest_of(&mut stream)
    }

    pub fn get(&self, target: &str) -> String {
        self.answer(request("GET", target, "").as_bytes())
    }

    /// The body, over the Unix socket.
    pub fn body(&self, target: &str, more: &str) -> String {
        let mut stream = UnixStream::connect(self.directory.join("firstmate.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request("GET", target, more).as_bytes()).unwrap();
        let answer = rest_of(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub fn instance(&self, name: &str) -> InstanceStatus {
        let status: Status = serde_json::from_str(&self.body("/status", "")).unwrap();
        let mut instances = status.services.into_iter().flat_map(|service| service.instances);
        instances.find(|instance| instance.name == name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub fn wait_until_ready(&self) {
        until("everything is ready", || {
            let answer = self.get("/readyz");
            if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(answer) }
        });
    }

    /// Its proportional set size in bytes.
    pub fn pss(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Firstmate {
    fn drop(&mut self) {
        // The namespace's init, and with it everything in there.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub fn request(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n")
}

/// To the end, which may be a reset.
pub fn rest_of(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "left hanging after {}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
