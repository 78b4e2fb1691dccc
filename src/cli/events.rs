//! `firstmate events`: what happened, and what happens.

use std::io::Write as _;
use std::time::Duration;

use super::client::UNREACHABLE;
use super::output::{Failure, err};
use super::stream::{Arrived, Stream, duration_argument, name_query};
use crate::observe::{Level, utc};
use crate::server::printable;

const EXIT_CODES: &str = "\
Exit codes:
  0  the events are shown; with -f: firstmate has ended
  1  too many clients follow already
  2  the arguments are wrong
  4  a name is unknown, no firstmate answers, or it went away while it answered";

/// Show what happened: starts, ends, restarts and why, acts of the memory guard, incidents, the shutdown
///
/// Some two hundred events are kept. Each is a line `TIME LEVEL TEXT`, or with --json an object.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct EventsArgs {
    /// Services (web), instances (web.1), groups or all; everything when none is named. What is about the whole is shown in any case
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only the last N of them
    #[arg(short = 'n', value_name = "N")]
    last: Option<usize>,
    /// Only events that are no older, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    since: Option<Duration>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &EventsArgs) -> Result<u8, Failure> {
    let mut target = String::from("/events?");
    if args.follow {
        target.push_str("follow");
    }
    if let Some(last) = args.last {
        target.push_str(&format!("&last={last}"));
    }
    if let Some(since) = args.since {
        target.push_str(&format!("&since_ms={}", since.as_millis()));
    }
    target.push_str(&name_query(&args.names));
    let mut stream = Stream::open(args.socket.socket.as_deref(), &target)?;
    loop {
        match stream.next(None)? {
            Arrived::Lines(lines) => {
                if !show(&lines, args.json) {
                    return Ok(0);
                }
            }
            Arrived::End | Arrived::CutOff if args.follow => {
                err("firstmate has ended\n");
                return Ok(0);
            }
            Arrived::End => return Ok(0),
            Arrived::CutOff | Arrived::Late => {
                return Err(Failure::new(UNREACHABLE, "firstmate went away before it had sent everything"));
            }
        }
    }
}

/// False when nobody reads any more.
fn show(lines: &[u8], json: bool) -> bool {
    let mut text = Vec::new();
    for object in lines.split_inclusive(|byte| *byte == b'\n') {
        // A newer firstmate may tell of more than this one knows.
        match serde_json::from_slice::<Sentence>(object) {
            Ok(sentence) if !json => text.extend_from_slice(line(&sentence).as_bytes()),
            Ok(_) | Err(_) => text.extend_from_slice(object),
        }
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&text).and_then(|()| stdout.flush()).is_ok()
}

/// What every event has.
#[derive(serde::Deserialize)]
struct Sentence {
    at_unix_ms: u64,
    level: Level,
    text: String,
}

fn line(event: &Sentence) -> String {
    let level = match event.level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    format!("{} {level} {}\n", utc(event.at_unix_ms), printable(&event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sentence_with_its_time() {
        let mut event = Sentence { at_unix_ms: 1_798_761_599_007, level: Level::Warn, text: "web.1 exited with code 3".to_owned() };
        assert_eq!(line(&event), "2026-12-31T23:59:59.007Z warn web.1 exited with code 3\n");
        event.text = "a\n\x1b[2J".to_owned();
        assert_eq!(line(&event), "2026-12-31T23:59:59.007Z warn a\\n\\u{1b}[2J\n");
    }
}
