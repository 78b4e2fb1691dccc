//! `firstmate check`: the exec probe of Docker, ECS and Kubernetes. One request over the Unix socket, one short line, 0 or 1.

use std::time::{Duration, Instant};

use super::client::{self, encoded};
use super::output::out;
use crate::server::printable;

/// Docker keeps 4096 bytes of a probe's output.
const LINE_BYTES: usize = 4000;

/// A firstmate that has not answered by then is stuck. Docker (30 s) and ECS (5 s) wait longer, so they get to see the reason.
const PATIENCE: Duration = Duration::from_secs(2);

const EXIT_CODES: &str = "\
Exit codes:
  0  yes
  1  no, or no firstmate answers within 2 s, or the arguments are wrong";

/// Ask one probe question, as HEALTHCHECK, ECS and Kubernetes exec probes do
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct CheckArgs {
    /// live: need not be replaced; ready: may take work; startup: has come up once
    #[arg(value_enum, default_value_t = Question::Live)]
    question: Question,
    /// Ask it of one service (web) or instance (web.1) instead of the whole stack
    name: Option<String>,
    #[command(flatten)]
    socket: super::SocketArg,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Question {
    Live,
    Ready,
    Startup,
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    let (passed, text) = ask(args);
    let mut line = printable(&text).into_owned();
    if line.len() > LINE_BYTES {
        let end = (0..=LINE_BYTES).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push_str("...");
    }
    out(&(line + "\n"));
    u8::from(!passed)
}

fn ask(args: &CheckArgs) -> (bool, String) {
    let path = match args.question {
        Question::Live => "/livez",
        Question::Ready => "/readyz",
        Question::Startup => "/startupz",
    };
    let target = args.name.as_ref().map_or_else(|| path.to_owned(), |name| format!("{path}/{}", encoded(name)));
    let connection = match client::connect_to_any(args.socket.socket.as_deref(), Some(Instant::now() + PATIENCE)) {
        Ok(connection) => connection,
        Err(unreachable) => return (false, unreachable.short()),
    };
    match connection.request("GET", &target) {
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            (answer.code == 200, if answer.code == 200 { body } else { summary(&body) })
        }
        Err(failure) => (false, failure.message),
    }
}

/// The failing lines of a verbose answer, or the only line of another one.
fn summary(body: &str) -> String {
    let failing: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    if failing.is_empty() { body.trim_end().trim_start_matches("service unavailable: ").to_owned() } else { failing.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_fails() {
        let body = "[+]ping ok\n[-]redis not ready: refused\n[-]web not ready\nreadyz check failed\n";
        assert_eq!(summary(body), "redis not ready: refused; web not ready");
        assert_eq!(summary("service unavailable: redis not ready: refused\n"), "redis not ready: refused");
    }
}
