//! A verb whose answer is waited for: whether firstmate still lives meanwhile, and what is said to whoever waits no longer.

use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::client::{self, Connection};
use super::output::err;
use crate::server::{SocketPath, printable};

/// So long a verb may take before anybody asks whether firstmate is still there, and so often.
const EVERY: Duration = Duration::from_secs(5);
/// As shells number the end by SIGINT.
const INTERRUPTED: i32 = 130;

/// One verb's.
pub(super) struct SignOfLife {
    socket: SocketPath,
    pid: Option<i32>,
    began: Instant,
    next: Instant,
    lives: bool,
}

impl SignOfLife {
    /// From now on the process is ended by Ctrl-C with a word about the verb.
    pub(super) fn new(verb: &str, connection: &Connection) -> Self {
        let now = Instant::now();
        speak_when_interrupted(verb);
        Self { socket: connection.socket.clone(), pid: connection.pid, began: now, next: now + EVERY, lives: true }
    }

    /// Whether firstmate lives, as far as is known. Says so when it does not, once.
    pub(super) fn look(&mut self) -> bool {
        if Instant::now() < self.next {
            return self.lives;
        }
        let lives = client::is_alive(&self.socket);
        if !lives && self.lives {
            err(&silence(&self.socket, self.pid, self.began.elapsed()));
        }
        self.lives = lives;
        self.next = Instant::now() + EVERY;
        lives
    }
}

fn silence(socket: &SocketPath, pid: Option<i32>, waited: Duration) -> String {
    let status = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok()).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).map(str::trim);
    let of = match (pid, state) {
        (Some(pid), Some(state)) => format!(", pid {pid}, which is {}", printable(state)),
        (Some(pid), None) => format!(", pid {pid}"),
        (None, _) => String::new(),
    };
    let help = match state {
        Some(state) if state.starts_with('T') => format!("`kill -CONT {}` lets it go on", pid.unwrap_or_default()),
        Some(_) | None => "see its log, and whether its machine has time for it; --timeout ends the wait".to_owned(),
    };
    let waited = waited.as_secs();
    format!("warning: the firstmate on {socket}{of}, has not answered for {waited} s; it may still do what was asked\n  = help: {help}\n")
}

/// By a thread of its own: whoever waits for an answer is in a system call, and must not wait longer for this.
fn speak_when_interrupted(verb: &str) {
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    // Blocked in all threads, it is left to the one that waits for it. Without it Ctrl-C ends the process as ever.
    if pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&interrupt), None).is_err() {
        return;
    }
    let text = format!(
        "\nnot waited for any longer: what was begun goes on, and what firstmate has not read yet may still be done ({verb}); `firstmate status` shows it\n"
    );
    let waiter = std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        if interrupt.wait().is_ok() {
            err(&text);
            std::process::exit(INTERRUPTED);
        }
    });
    if waiter.is_err() {
        let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&interrupt), None);
    }
}
