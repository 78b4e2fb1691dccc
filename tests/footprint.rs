//! What the binary that ships weighs, and what it costs while nothing happens.
//!
//! Measured is the static release binary: `FIRSTMATE_BINARY`, else where `make build` puts it. Each firstmate runs as PID 1 of a
//! namespace, from a copy of its own, so that it shares no page with another one and its PSS is all its own.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1, waits for its own children, and may sleep between two looks")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// For so long nothing may happen.
const WINDOW: Duration = Duration::from_secs(5);
const MIB: usize = 1024 * 1024;

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(instead) if Instant::now() > deadline => panic!("waited {PATIENCE:?} until {what}; last seen: {instead}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn binary() -> PathBuf {
    let built =
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/{}-unknown-linux-musl/release/firstmate", std::env::consts::ARCH));
    let path = std::env::var_os("FIRSTMATE_BINARY").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "there is no {}; make it with `make build`, or name another with FIRSTMATE_BINARY", path.display());
    path
}

struct Firstmate {
    unshare: Child,
    pid: u32,
    directory: PathBuf,
    http: u16,
}

impl Firstmate {
    /// PID 1 over `services` programs that do nothing, with its HTTP port on; returns once they are all ready.
    fn over(services: usize, memory: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("firstmate-footprint-{}-{services}-{}", std::process::id(), memory.len()));
        std::fs::create_dir(&directory).unwrap();
        let copy = directory.join("firstmate");
        std::fs::copy(binary(), &copy).unwrap();
        let mut text = format!("{memory}[firstmate]\nsocket = \"firstmate.sock\"\n");
        for number in 0..services {
            text += &format!("[services.service-{number}]\ncommand = \"sleep infinity\"\n");
        }
        std::fs::write(directory.join("firstmate.toml"), text).unwrap();
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"])
            .arg(&copy)
            .args(["start", "-f", "firstmate.toml", "--http", "127.0.0.1:0"])
            .current_dir(&directory)
            // firstmate holds what its services are to inherit: that of whoever runs the test is not to be measured.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cannot execute unshare; run `tests/setup packages`");
        let outer = unshare.id();
        // A pipe, as under Docker: for a regular file, which may block, firstmate has a second thread.
        let log = Arc::new(Mutex::new(String::new()));
        let (mut output, heard) = (unshare.stdout.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        let read = || log.lock().unwrap().clone();
        let pid = until("firstmate runs", || {
            assert_eq!(unshare.try_wait().unwrap(), None, "{}", read());
            let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).map_err(|error| error.to_string())?;
            let pid: u32 = children.trim().parse().map_err(|_| read())?;
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|error| error.to_string())?;
            if exe == copy { Ok(pid) } else { Err(format!("{}", exe.display())) }
        });
        let http = until("it says where it serves", || {
            let text = read();
            let port = text.lines().find_map(|line| line.split_once("served on http://127.0.0.1:")?.1.parse().ok());
            port.ok_or(text)
        });
        let firstmate = Self { unshare, pid, directory, http };
        until("everything is ready", || {
            let answer = firstmate.get("/readyz");
            if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(answer) }
        });
        firstmate
    }

    fn get(&self, target: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn pss(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Context switches and nanoseconds on a processor of all its threads; see proc_pid_status(5) and sched-stats.
    fn activity(&self) -> Vec<(String, Vec<String>)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let mut all: Vec<_> = tasks
            .map(|task| {
                let task = task.unwrap();
                let status = std::fs::read_to_string(task.path().join("status")).unwrap();
                let switches = status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned);
                let schedstat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                (task.file_name().into_string().unwrap(), switches.chain([schedstat]).collect())
            })
            .collect();
        all.sort();
        all
    }

    /// How often it woke up in `WINDOW`, while nothing happened.
    fn wake_ups(&self) -> u64 {
        let before = self.activity();
        assert_eq!(before.len(), 1, "one thread does everything");
        // Not a wait for something to happen: the measurement is that hardly anything does.
        std::thread::sleep(WINDOW);
        let after = self.activity();
        assert!(self.get("/livez").starts_with("HTTP/1.1 200 "));
        assert_ne!(self.activity(), after, "one question would have been seen");
        let waits = |activity: &[(String, Vec<String>)]| -> u64 {
            let line = activity[0].1.iter().find(|line| line.starts_with("voluntary_ctxt_switches:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        waits(&after) - waits(&before)
    }

    /// The connection that asked last has been taken down.
    fn comes_to_rest(&self) {
        until("it has come to rest", || {
            let before = self.activity();
            std::thread::sleep(Duration::from_millis(100));
            if self.activity() == before { Ok(()) } else { Err(format!("{before:?}")) }
        });
    }
}

impl Drop for Firstmate {
    fn drop(&mut self) {
        // With unshare goes its child, which is PID 1, and with that everything else.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn one_service_takes_at_most_2_5_mib() {
    let firstmate = Firstmate::over(1, "");
    firstmate.comes_to_rest();
    println!("PSS with one service: {} KiB", firstmate.pss() / 1024);
    assert!(firstmate.pss() <= 5 * MIB / 2, "{}", firstmate.pss());
}

#[test]
fn a_hundred_services_take_at_most_3_mib() {
    let firstmate = Firstmate::over(100, "");
    firstmate.comes_to_rest();
    println!("PSS with 100 services: {} KiB", firstmate.pss() / 1024);
    assert!(firstmate.pss() <= 3 * MIB, "{}", firstmate.pss());
}

/// Once a second where the whole machine is the limit, and every five seconds for the limit itself.
#[test]
fn with_nothing_to_do_the_guard_alone_wakes_it_and_seldom() {
    let firstmate = Firstmate::over(100, "");
    firstmate.comes_to_rest();
    let woke = firstmate.wake_ups();
    println!("wake-ups in {WINDOW:?}: {woke}");
    assert!(woke <= 12, "{woke}");
}

/// For the OOM killer's count, which is looked at all the same.
#[test]
fn without_the_guard_it_wakes_up_every_five_seconds() {
    let firstmate = Firstmate::over(100, "[memory]\nrestart_above = \"off\"\n");
    firstmate.comes_to_rest();
    let woke = firstmate.wake_ups();
    println!("wake-ups in {WINDOW:?} without the guard: {woke}");
    assert!(woke <= 4, "{woke}");
}

/// See elf(5); 64-bit little-endian, as both targets are.
#[test]
fn the_binary_is_static_stripped_and_at_most_4_mib() {
    const PT_INTERP: u64 = 3;
    const SHT_SYMTAB: u64 = 2;
    let data = std::fs::read(binary()).unwrap();
    assert_eq!(data[..6], *b"\x7fELF\x02\x01");
    let number = |at: usize, bytes: usize| data[at..at + bytes].iter().rev().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    let index = |at: usize, bytes: usize| usize::try_from(number(at, bytes)).unwrap();
    // Offset, size and number of the entries, and where in an entry its type is.
    let types = |offset: usize, size: usize, count: usize, place: usize| -> Vec<u64> {
        (0..index(count, 2)).map(|entry| number(index(offset, 8) + entry * index(size, 2) + place, 4)).collect()
    };
    let (programs, sections) = (types(32, 54, 56, 0), types(40, 58, 60, 4));
    assert!(!programs.is_empty() && !sections.is_empty());
    println!("the binary has {} bytes", data.len());
    assert!(!programs.contains(&PT_INTERP), "it needs a dynamic loader");
    assert!(!sections.contains(&SHT_SYMTAB), "it has a symbol table");
    assert!(data.len() <= 4 * MIB, "{}", data.len());
}
