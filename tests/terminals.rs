//! What an operator's terminal shows: lines as wide as its window, colours where they are wanted, and nothing that somebody else has forged.
//!
//! Nothing that a service, a probe or another process has said can disturb what an operator reads.
//!
//! Every text in an answer is made hostile, one at a time: it ends lines, forges others, moves the cursor, changes colours, sets the window's title, turns
//! the direction of writing. Whatever the command makes of it, a terminal shows as many lines as before and does nothing else.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::indexing_slicing,
    reason = "the stand is shared between test files, each of which uses a part"
)]

mod stand;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use firstmate::engine::text::is_active;
use serde_json::Value;
use stand::{Directory, Stand, measured, stack};

const HOSTILE: &str = "x\nnginx.1  RUNNING\r\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}\u{2028}\u{200b}\u{e0041}\t\x08\x7f\u{61c}y";

/// Answers every request with the same body.
struct Peer {
    _directory: Directory,
    socket: PathBuf,
    body: Arc<Mutex<String>>,
}

impl Peer {
    fn new() -> Self {
        let directory = Directory::new();
        let socket = directory.path().join("firstmate.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let body = Arc::new(Mutex::new(String::new()));
        let answered = Arc::clone(&body);
        // Ends with the test's process.
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 4096]);
                let body = answered.lock().unwrap().clone();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { _directory: directory, socket, body }
    }

    fn run(&self, body: &Value, arguments: &[&str], color: bool) -> (i32, String, String) {
        *self.body.lock().unwrap() = body.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstmate"));
        command.args(arguments).env_clear().env("FIRSTMATE_SOCKET", &self.socket).stdin(Stdio::null());
        if color {
            command.env("CLICOLOR_FORCE", "1");
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

/// Where each text of a document is, as a JSON pointer.
fn texts(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| texts(item, &format!("{at}/{index}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(key, item)| texts(item, &format!("{at}/{key}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The colours firstmate itself uses, taken away.
fn without_colours(text: &str) -> String {
    ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1;31m"]
        .iter()
        .fold(text.to_owned(), |text, colour| text.replace(colour, ""))
}

/// As many lines as there were, or a complaint that the answer cannot be read; and nothing active in either.
fn is_harmless(peer: &Peer, document: &Value, arguments: &[&str], least: usize) {
    let (_, before, _) = peer.run(document, arguments, false);
    let mut places = Vec::new();
    texts(document, "", &mut places);
    let mut shown = 0;
    for place in &places {
        let mut hostile = document.clone();
        *hostile.pointer_mut(place).unwrap() = Value::String(HOSTILE.to_owned());
        for color in [false, true] {
            let (code, out, err) = peer.run(&hostile, arguments, color);
            for text in [&out, &err] {
                let text = if color { without_colours(text) } else { text.clone() };
                assert!(!text.chars().any(|character| character != '\n' && is_active(character)), "{arguments:?} {place}: {text:?}");
            }
            if code == 4 {
                // What has a place among a few words only cannot be anything else.
                assert!(out.is_empty() && err.starts_with(if color { "\x1b[1;31merror" } else { "error: " }), "{place}: {err}");
                assert!(err.lines().count() <= 2, "{place}: {err}");
            } else {
                assert_eq!(out.lines().count(), before.lines().count(), "{arguments:?} {place}: {out}");
                assert!(!out.lines().chain(err.lines()).any(|line| line.starts_with("nginx.1  RUNNING")), "{place}: {out}");
                shown += usize::from(out.contains("nginx.1  RUNNING") || err.contains("nginx.1  RUNNING"));
            }
        }
    }
    assert!(shown >= least * 2, "{arguments:?}: only {shown} of {} are shown at all", places.len());
}

#[test]
fn no_text_of_a_status_disturbs_its_table() {
    let mut status = measured();
    status.stopping_because = Some("SIGTERM".to_owned());
    status.memory.as_mut().unwrap().why = Some("above the line".to_owned());
    status.services[0].instances[0].says = Some("serving".to_owned());
    status.services[0].instances[0].last_outcome = Some("exit 0".to_owned());
    let document = serde_json::to_value(&status).unwrap();
    let peer = Peer::new();
    is_harmless(&peer, &document, &["status"], 10);
    is_harmless(&peer, &document, &["status", "--json"], 15);
}

#[test]
fn no_text_of_an_incident_disturbs_its_paragraph() {
    let document: Value = serde_json::from_str(include_str!("../src/engine/incidents.json")).unwrap();
    let peer = Peer::new();
    is_harmless(&peer, &document, &["why"], 10);
    is_harmless(&peer, &document, &["why", "--json"], 10);
}

#[test]
fn no_text_of_a_reply_disturbs_a_verb() {
    let reply = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let peer = Peer::new();
    let verdict = |verdict| firstmate::server::Answer { instance: "web.1".to_owned(), verdict };
    let done = firstmate::server::Reply::Done {
        instances: vec![verdict(firstmate::server::Verdict::Stopped), verdict(firstmate::server::Verdict::Failed { why: "no".to_owned() })],
    };
    is_harmless(&peer, &serde_json::to_value(&done).unwrap(), &["stop", "web"], 3);
    let refused = firstmate::server::Reply::Refused { why: "no".to_owned() };
    for body in [serde_json::to_value(&refused).unwrap(), reply("{}"), reply("[\"x\"]")] {
        let mut hostile = body.clone();
        let mut places = Vec::new();
        texts(&body, "", &mut places);
        places.iter().for_each(|place| *hostile.pointer_mut(place).unwrap() = Value::String(HOSTILE.to_owned()));
        let (code, out, err) = peer.run(&hostile, &["restart", "web"], false);
        assert!(code != 0 && out.is_empty() && err.lines().count() <= 2 && !err.chars().any(|c| c != '\n' && is_active(c)), "{err:?}");
    }
}

/// What `script` (in every Debian) records of a terminal of so many columns.
fn on_a_terminal(stand: &Stand, columns: u32, environment: &[(&str, &str)], arguments: &str) -> String {
    let line = format!("stty cols {columns} rows 24; exec {} {arguments}", env!("CARGO_BIN_EXE_firstmate"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("SHELL", "/bin/sh");
    command.env("FIRSTMATE_SOCKET", stand.socket.to_os_string()).envs(environment.iter().copied()).stdin(Stdio::null());
    String::from_utf8(command.output().unwrap().stdout).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_narrow_window_cuts_lines_at_their_end() {
    let stand = Stand::new(stack());
    let table = "\
nginx.1    RUNNING    pid 31, uptime ...
redis.1    RUNNING    pid 31, uptime ...
worker.1   RUNNING    pid 31, uptime ...
worker.2   FAILED     exit 1: gave up...
migrate.1  COMPLETED
";
    let xterm = ("TERM", "xterm");
    assert_eq!(on_a_terminal(&stand, 40, &[xterm, ("NO_COLOR", "1")], "status"), table);
    let coloured = on_a_terminal(&stand, 40, &[xterm], "status");
    assert!(coloured.contains("\x1b[32mRUNNING") && coloured.contains("\x1b[31mFAILED"), "{coloured:?}");
    assert_eq!(without_colours(&coloured).lines().map(str::trim_end).collect::<Vec<_>>(), table.lines().collect::<Vec<_>>());
    let wide = on_a_terminal(&stand, 200, &[xterm, ("NO_COLOR", "1")], "status");
    assert!(wide.contains("not ready: connect 127.0.0.1:6379: refused\n") && !wide.contains("..."), "{wide}");
    let why = on_a_terminal(&stand, 60, &[xterm], "why -n 1");
    assert!(why.lines().all(|line| line.chars().count() <= 60) && why.contains("`restart_above` in"), "{why}");
}

#[test]
fn colour_is_for_those_who_want_it() {
    let stand = Stand::new(stack());
    let has_colour = |environment: &[(&str, &str)]| on_a_terminal(&stand, 80, environment, "status").contains('\x1b');
    assert!(has_colour(&[("TERM", "xterm")]) && has_colour(&[]));
    assert!(!has_colour(&[("TERM", "dumb")]) && !has_colour(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
    let piped = |environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstmate"));
        command.arg("status").env_clear().env("FIRSTMATE_SOCKET", stand.socket.to_os_string()).envs(environment.iter().copied());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(!piped(&[("TERM", "xterm")]).contains('\x1b'));
    assert!(piped(&[("CLICOLOR_FORCE", "1")]).contains("\x1b[32mRUNNING"));
    assert!(!piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\x1b'));
}

/// What a service writes reaches no other line of the terminal that `firstmate start` and `firstmate logs` share with it.
#[test]
fn a_service_cannot_forge_a_line_of_the_log() {
    let directory = Directory::new();
    let hostile = r"evil: printf '\033[31mred\n\033[2J\033[H\033]0;title\007\r\033[1A\033[2K09:00:00 db.1 | forged\n\302\2332J\n'";
    std::fs::write(directory.path().join("Procfile"), format!("{hostile}\n")).unwrap();
    let socket = directory.path().join("firstmate.sock");
    let mut command = Command::new("script");
    let line = format!(
        "stty cols 100 rows 24; exec {} start -f {} --socket {}",
        env!("CARGO_BIN_EXE_firstmate"),
        directory.path().join("Procfile").display(),
        socket.display()
    );
    command.args(["-qec", &line, "/dev/null"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("SHELL", "/bin/sh");
    let output = command.env("TERM", "xterm").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    let said: Vec<&str> = text.lines().filter_map(|line| line.split_once(" evil.1 |\x1b[0m ")).map(|(_, said)| said).collect();
    assert_eq!(said, ["\x1b[31mred\x1b[0m", " 09:00:00 db.1 | forged", "2J"], "{text:?}");
    let bare = ["\x1b[36m", "\x1b[33;1m", "\x1b[31;1m"].iter().fold(without_colours(&text), |text, colour| text.replace(colour, ""));
    assert!(!bare.chars().any(|character| character != '\n' && is_active(character)), "{bare:?}");
}
