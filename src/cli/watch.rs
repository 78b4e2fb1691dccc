//! `firstmate status --watch`: the table again every second, in place on a terminal, one below the other in a pipe.

use std::ffi::OsStr;
use std::time::Duration;

use nix::poll::{PollTimeout, poll};

use super::output::{Failure, is_colored, is_read};
use super::{screen, status, table};
use crate::engine::status::{InstanceStatus, Status};
use crate::server::printable;

const EVERY: Duration = Duration::from_secs(1);

/// Until somebody interrupts it, nobody reads it, a name is unknown, or nobody answers any more.
pub(super) fn run(names: &[String], socket: Option<&OsStr>) -> Result<u8, Failure> {
    let mut is_first = true;
    loop {
        let status = status::fetch(socket)?;
        if let Some(unknown) = names.iter().find(|name| !status::is_known(&status, name)) {
            return Err(status::unknown_name(&status, unknown));
        }
        let stdout = std::io::stdout();
        let text = picture(status, names, is_colored(&stdout));
        let shown = match screen::size(&stdout) {
            Some((columns, rows)) => frame(&text, columns, rows, is_first),
            None if is_first => text,
            None => format!("\n{text}"),
        };
        if !is_read(&shown) {
            return Ok(0);
        }
        is_first = false;
        // An interrupted sleep is a short one.
        let _ = poll(&mut [], PollTimeout::try_from(EVERY).unwrap_or(PollTimeout::MAX));
    }
}

fn picture(mut status: Status, names: &[String], color: bool) -> String {
    status::keep_named(&mut status, names);
    let instances: Vec<&InstanceStatus> = status.services.iter().flat_map(|service| &service.instances).collect();
    let mut text = table::render(&instances, status.memory.as_ref(), status::is_whole(names), color);
    text.push_str(&status::notes(&status));
    if let Some(why) = &status.stopping_because {
        text.push_str(&format!("firstmate is stopping: {}\n", printable(why)));
    }
    text
}

/// The same over what was there before: nothing flickers, nothing wraps, nothing scrolls.
fn frame(text: &str, columns: usize, rows: usize, is_first: bool) -> String {
    let mut frame = String::from(if is_first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    let lines: Vec<&str> = text.lines().collect();
    // The last row stays free for the cursor.
    let room = rows.saturating_sub(1).max(1);
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    for line in lines.iter().take(shown) {
        frame.push_str(&screen::cut(line, columns.saturating_sub(1)));
        frame.push_str("\x1b[K\n");
    }
    let hidden = lines.len().saturating_sub(shown);
    if hidden > 0 {
        frame.push_str(&screen::cut(&format!("... and {hidden} more"), columns.saturating_sub(1)));
        frame.push_str("\x1b[K\n");
    }
    frame.push_str("\x1b[J");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_holds_what_fits() {
        let text = "a.1  RUNNING\nb.1  STOPPED\nc.1  FAILED\n";
        assert_eq!(frame(text, 80, 24, true), "\x1b[2J\x1b[Ha.1  RUNNING\x1b[K\nb.1  STOPPED\x1b[K\nc.1  FAILED\x1b[K\n\x1b[J");
        assert_eq!(frame(text, 7, 3, false), "\x1b[Ha.1  R\x1b[K\n... an\x1b[K\n\x1b[J");
        assert_eq!(frame(text, 80, 4, false), frame(text, 80, 24, false));
    }
}
