//! The line that says how far a verb is, on a terminal only: a pipe sees nothing of it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::output::err;
use super::{screen, status, table};
use crate::engine::status::{InstanceStatus, StateName, Status};
use crate::server::printable;

/// Whoever waits no longer than this has no need to see it.
const FIRST_AFTER: Duration = Duration::from_millis(300);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    Down,
    NewRun,
    /// Nothing that takes time.
    None,
}

/// One verb's.
pub(super) struct Progress {
    verb: String,
    goal: Goal,
    names: Vec<String>,
    socket: Option<OsString>,
    began: Instant,
    /// As it was before the verb; `None` where nothing is shown.
    before: Option<Status>,
    shown: bool,
}

impl Progress {
    pub(super) fn new(verb: &str, goal: Goal, names: &[String], socket: Option<&OsStr>) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let visible = goal != Goal::None && std::io::stderr().is_terminal() && !dumb;
        // Where it cannot be had the verb itself will say why.
        let before = visible.then(|| status::fetch(socket).ok()).flatten();
        Self {
            verb: verb.to_owned(),
            goal,
            names: names.to_vec(),
            socket: socket.map(OsStr::to_os_string),
            began: Instant::now(),
            before,
            shown: false,
        }
    }

    /// Shows the present state of it.
    pub(super) fn show(&mut self) {
        let Some(before) = &self.before else { return };
        let waited = self.began.elapsed();
        if waited < FIRST_AFTER {
            return;
        }
        let Ok(now) = status::fetch(self.socket.as_deref()) else { return };
        let line = line(&self.verb, self.goal, &self.names, before, &now, waited);
        let width = screen::size(&std::io::stderr()).map_or(80, |(columns, _)| columns);
        // One column is left free: a line that fills the last one wraps on some terminals.
        err(&format!("\r\x1b[K{}", screen::cut(&line, width.saturating_sub(1))));
        self.shown = true;
    }

    /// Takes the line away again.
    pub(super) fn clear(&mut self) {
        if self.shown {
            err("\r\x1b[K");
        }
    }
}

/// `restart: 1 of 4 done, 12 s; web.2 stopping`.
fn line(verb: &str, goal: Goal, names: &[String], before: &Status, now: &Status, waited: Duration) -> String {
    let mut now = now.clone();
    status::keep_named(&mut now, names);
    let run_before = |name: &str| {
        let all = before.services.iter().flat_map(|service| &service.instances);
        all.filter(|instance| instance.name == name).map(|instance| instance.run).next().unwrap_or_default()
    };
    let is_done = |instance: &&InstanceStatus| match goal {
        Goal::Up => table::is_well(instance),
        Goal::Down => matches!(instance.state, StateName::Stopped | StateName::Completed | StateName::Exited | StateName::Failed),
        Goal::NewRun => table::is_well(instance) && instance.run > run_before(&instance.name),
        Goal::None => true,
    };
    let all: Vec<&InstanceStatus> = now.services.iter().flat_map(|service| &service.instances).collect();
    let done = all.iter().filter(|instance| is_done(instance)).count();
    let mut text = format!("{verb}: {done} of {} done, {} s", all.len(), waited.as_secs());
    // Whose turn has not come says nothing; who is on the way is what is waited for.
    let moving = |instance: &&&InstanceStatus| !(is_done(instance) || goal == Goal::NewRun && table::is_well(instance));
    for (index, instance) in all.iter().filter(moving).enumerate() {
        // Writing into a String cannot fail.
        let _ = write!(text, "{} {} {}", if index == 0 { ";" } else { "," }, printable(&instance.name), instance.state);
        if let Some(why) = instance.why.as_deref().filter(|_| index == 0) {
            let _ = write!(text, " ({})", printable(why));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(instances: &str) -> Status {
        let text = format!(
            r#"{{"version":"1","pid":1,"uptime_ms":1,"phase":"running","ready":false,"live":true,"started":true,"services":[{{"name":"web","kind":"service","essential":true,"ready":false,"groups":["front"],"instances":[{instances}]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn one(number: u16, state: &str, ready: bool, run: u32, why: &str) -> String {
        let why = if why.is_empty() { String::new() } else { format!(r#","why":"{why}""#) };
        format!(
            r#"{{"name":"web.{number}","state":"{state}","ready":{ready},"run":{run},"restarts":{{"total":0,"crash":0,"live":0,"start_timeout":0}}{why}}}"#
        )
    }

    #[test]
    fn the_line_says_how_many_and_for_whom_it_waits() {
        let before = status(&[one(1, "running", true, 1, ""), one(2, "running", true, 1, ""), one(3, "running", true, 1, "")].join(","));
        let now =
            status(&[one(1, "running", true, 2, ""), one(2, "starting", false, 2, "refused"), one(3, "running", true, 1, "")].join(","));
        let names = |name: &str| vec![name.to_owned()];
        let after = Duration::from_millis(12_300);
        let said = |verb: &str, goal, name: &str| line(verb, goal, &names(name), &before, &now, after);
        assert_eq!(said("restart", Goal::NewRun, "web"), "restart: 1 of 3 done, 12 s; web.2 starting (refused)");
        assert_eq!(said("start", Goal::Up, "front"), "start: 2 of 3 done, 12 s; web.2 starting (refused)");
        assert_eq!(said("start", Goal::Up, "web.1"), "start: 1 of 1 done, 12 s");
        let now = status(&[one(1, "stopping", false, 2, ""), one(2, "stopped", false, 2, ""), one(3, "stopping", false, 1, "")].join(","));
        assert_eq!(
            line("stop", Goal::Down, &names("all"), &before, &now, after),
            "stop: 1 of 3 done, 12 s; web.1 stopping, web.3 stopping"
        );
    }
}
