//! `firstmate logs`: what services wrote last, and what they write.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use super::client::UNREACHABLE;
use super::output::{Failure, err, is_colored};
use super::status;
use super::stream::{Arrived, Stream, duration_argument, name_query};
use crate::observe::{Format, Level, Stream as Which, parse_utc};
use crate::server::printable;

const EXIT_CODES: &str = "\
Exit codes:
  0  the lines are shown; with -f: firstmate has ended
  1  too many clients follow already
  2  the arguments are wrong
  4  a name is unknown, no firstmate answers, or it went away while it answered";

/// Show what services wrote last, merged in the order in which it came
///
/// Of each instance the last lines are kept, as many as fit into `log_buffer` of [firstmate], or of its service. On a terminal they look as in the log of `firstmate start`; elsewhere
/// each is `TIME NAME out | TEXT`, `err` for standard error, `+` for `|` where a line that was too long goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct LogsArgs {
    /// Services (web), instances (web.1), groups or all; everything when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what comes; who reads too slowly loses lines and is told how many
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines of all that are named together
    #[arg(short = 'n', long = "lines", value_name = "N")]
    last: Option<usize>,
    /// Only lines that are no older, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    since: Option<Duration>,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &LogsArgs) -> Result<u8, Failure> {
    let socket = args.socket.socket.as_deref();
    let stdout = std::io::stdout();
    let mut look = if stdout.is_terminal() {
        let status = status::fetch(socket)?;
        status::look_up(&status, &args.names)?;
        Some(Terminal::new(is_colored(&stdout), status.services.iter().flat_map(|service| &service.instances).map(|one| one.name.clone())))
    } else {
        None
    };
    let mut target = String::from("/logs?");
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
    let mut stream = Stream::open(socket, &target)?;
    // Without -f everything is read before anything is shown: firstmate does not wait for a pager.
    let mut all = Vec::new();
    loop {
        match stream.next(None)? {
            Arrived::Lines(lines) if args.follow => {
                if !show(&lines, look.as_mut()) {
                    return Ok(0);
                }
            }
            Arrived::Lines(lines) => all.extend(lines),
            Arrived::End | Arrived::CutOff if args.follow => {
                err("firstmate has ended\n");
                return Ok(0);
            }
            Arrived::End => {
                show(&all, look.as_mut());
                return Ok(0);
            }
            Arrived::CutOff | Arrived::Late => {
                show(&all, look.as_mut());
                return Err(Failure::new(UNREACHABLE, "firstmate went away before it had sent everything"));
            }
        }
    }
}

/// False when nobody reads any more.
fn show(lines: &[u8], look: Option<&mut Terminal>) -> bool {
    let rendered = look.map(|look| look.render(lines));
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(rendered.as_deref().unwrap_or(lines)).and_then(|()| stdout.flush()).is_ok()
}

/// The look of `firstmate start` on a terminal.
struct Terminal {
    format: Format,
    /// In the order of the file.
    services: Vec<String>,
}

impl Terminal {
    fn new(colored: bool, instances: impl Iterator<Item = String>) -> Self {
        let names: Vec<String> = instances.collect();
        let mut format = Format::detect(true, !colored);
        format.fit_names(names.iter().map(String::as_str));
        let mut services: Vec<String> = Vec::new();
        for name in &names {
            let service = service_of(name);
            if services.last().is_none_or(|last| last != service) {
                services.push(service.to_owned());
            }
        }
        Self { format, services }
    }

    fn render(&mut self, lines: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if self.line(line, &mut out).is_none() {
                out.extend_from_slice(printable(&String::from_utf8_lossy(line)).as_bytes());
                out.push(b'\n');
            }
        }
        out
    }

    /// `None`: it is no line of a log.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let time = parse_utc(std::str::from_utf8(words.next()?).ok()?)?;
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(time))?;
        let name = std::str::from_utf8(words.next()?).ok()?;
        let rest = words.next()?;
        if let Some((which, continued, text)) = service_text(rest) {
            let service = service_of(name);
            let order = self.services.iter().position(|known| known == service).unwrap_or_default();
            self.format.service_line(out, at, name, order, which, text, continued);
            return Some(());
        }
        // What is lost is told in a line of firstmate's own.
        let text = std::str::from_utf8(rest.strip_prefix(b"warn | ")?).ok()?;
        self.format.own_line(out, at, Level::Warn, text);
        Some(())
    }
}

fn service_text(rest: &[u8]) -> Option<(Which, bool, &[u8])> {
    let (which, rest) = match rest {
        [b'o', b'u', b't', b' ', rest @ ..] => (Which::Out, rest),
        [b'e', b'r', b'r', b' ', rest @ ..] => (Which::Err, rest),
        _ => return None,
    };
    match rest {
        [b'|', b' ', text @ ..] => Some((which, false, text)),
        [b'+', b' ', text @ ..] => Some((which, true, text)),
        _ => None,
    }
}

fn service_of(instance: &str) -> &str {
    instance.rsplit_once('.').map_or(instance, |(service, _)| service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_shows_the_same_lines_in_columns() {
        let mut look = Terminal::new(false, ["web.1", "web.2", "worker.1"].iter().map(|name| (*name).to_owned()));
        let lines = b"2026-12-31T23:59:59.007Z web.1 out | hello\n2026-12-31T23:59:59.008Z worker.1 err + rest | of\n\
            2026-12-31T23:59:59.009Z firstmate warn | 3 lines lost\nnonsense \x1b[2J\n";
        let text = String::from_utf8(look.render(lines)).unwrap();
        let shown: Vec<&str> = text.lines().map(|line| line.get(9..).unwrap_or(line)).collect();
        assert_eq!(shown[..3], ["web.1     out   | hello", "worker.1  err   + rest | of", "firstmate warn  | 3 lines lost"]);
        assert_eq!(text.lines().nth(3), Some("nonsense \\u{1b}[2J"));
        let mut look = Terminal::new(true, ["web.1", "worker.1"].iter().map(|name| (*name).to_owned()));
        let text = String::from_utf8(look.render(b"2026-12-31T23:59:59.008Z worker.1 out | \x1b[31mred\n")).unwrap();
        assert!(text.starts_with("\x1b[33m") && text.ends_with("\x1b[31mred\x1b[0m\n"), "{text:?}");
    }
}
