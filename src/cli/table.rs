//! The status as people read it, in supervisorctl's look: name, STATE, and what there is to say.

use std::fmt::Write as _;

use crate::engine::status::{InstanceStatus, StateName};
use crate::server::printable;

/// One line an instance, its columns aligned.
pub(super) fn render(instances: &[&InstanceStatus], color: bool) -> String {
    let names: Vec<_> = instances.iter().map(|instance| printable(&instance.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for (instance, name) in instances.iter().zip(&names) {
        let state = word(instance.state);
        let (on, off) = if color { (paint(instance), "\x1b[0m") } else { ("", "") };
        let mut line = String::new();
        // Writing into a String cannot fail.
        let _ = write!(line, "{name:width$}  {on}{state:9}{off}  {}", detail(instance));
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

/// Whether there is nothing to see to: up and ready, or completed.
pub(super) const fn is_well(instance: &InstanceStatus) -> bool {
    match instance.state {
        StateName::Running => instance.ready,
        StateName::Completed => true,
        StateName::Stopped
        | StateName::Waiting
        | StateName::Starting
        | StateName::Stopping
        | StateName::Backoff
        | StateName::Exited
        | StateName::Failed => false,
    }
}

const fn word(state: StateName) -> &'static str {
    match state {
        StateName::Stopped => "STOPPED",
        StateName::Waiting => "WAITING",
        StateName::Starting => "STARTING",
        StateName::Running => "RUNNING",
        StateName::Stopping => "STOPPING",
        StateName::Backoff => "BACKOFF",
        StateName::Completed => "COMPLETED",
        StateName::Exited => "EXITED",
        StateName::Failed => "FAILED",
    }
}

const fn paint(instance: &InstanceStatus) -> &'static str {
    match instance.state {
        StateName::Running if instance.ready => "\x1b[32m",
        StateName::Completed => "\x1b[32m",
        StateName::Running | StateName::Waiting | StateName::Starting | StateName::Stopping | StateName::Backoff => "\x1b[33m",
        StateName::Stopped | StateName::Exited => "\x1b[2m",
        StateName::Failed => "\x1b[31m",
    }
}

/// `pid 31, uptime 0:04:03, 2 restarts, not ready: connect 127.0.0.1:6379: refused`.
fn detail(instance: &InstanceStatus) -> String {
    let mut parts = Vec::new();
    if let Some(pid) = instance.pid {
        parts.push(format!("pid {pid}"));
    }
    if let Some(uptime) = instance.uptime_ms.filter(|_| instance.pid.is_some()) {
        parts.push(format!("uptime {}", uptime_text(uptime)));
    }
    if let Some(outcome) = instance.last_outcome.as_deref().filter(|_| instance.pid.is_none()) {
        parts.push(printable(outcome).into_owned());
    }
    match instance.restarts.total {
        0 => {}
        1 => parts.push("1 restart".to_owned()),
        restarts => parts.push(format!("{restarts} restarts")),
    }
    if matches!(instance.state, StateName::Running | StateName::Starting) {
        parts.push(if instance.ready { "ready" } else { "not ready" }.to_owned());
    }
    let mut text = parts.join(", ");
    if let Some(why) = &instance.why {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&printable(why));
    }
    text
}

/// As supervisorctl (Python's timedelta) writes it: `0:04:03`, `1 day, 0:04:03`, `12 days, 10:04:03`.
fn uptime_text(uptime_ms: u64) -> String {
    let seconds = uptime_ms / 1000;
    let clock = format!("{}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match seconds / 86400 {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::status::Restarts;

    fn instance(name: &str, state: StateName) -> InstanceStatus {
        InstanceStatus {
            name: name.to_owned(),
            state,
            ready: false,
            pid: None,
            uptime_ms: None,
            run: 1,
            restarts: Restarts::default(),
            why: None,
            last_outcome: None,
            memory: None,
        }
    }

    fn stack() -> Vec<InstanceStatus> {
        let restarts = |total| Restarts { total, crash: total, ..Restarts::default() };
        let up = |name, pid, ms| InstanceStatus { pid: Some(pid), uptime_ms: Some(ms), ..instance(name, StateName::Running) };
        vec![
            InstanceStatus { ready: true, ..up("nginx.1", 31, 243_999) },
            InstanceStatus { why: Some("connect 127.0.0.1:6379: refused".into()), restarts: restarts(1), ..up("redis.1", 32, 90_061_000) },
            InstanceStatus {
                last_outcome: Some("exit 1".into()),
                why: Some("next start in 2 s".into()),
                restarts: restarts(3),
                ..instance("worker.1", StateName::Backoff)
            },
            InstanceStatus { last_outcome: Some("exit 0".into()), ..instance("migrate.1", StateName::Completed) },
            instance("debug.1", StateName::Stopped),
            InstanceStatus { why: Some("x\nnginx.1  RUNNING\x1b[0m".into()), ..instance("evil.1", StateName::Failed) },
        ]
    }

    #[test]
    fn the_plain_table() {
        let stack = stack();
        let table = render(&stack.iter().collect::<Vec<_>>(), false);
        assert_eq!(
            table,
            "\
nginx.1    RUNNING    pid 31, uptime 0:04:03, ready
redis.1    RUNNING    pid 32, uptime 1 day, 1:01:01, 1 restart, not ready: connect 127.0.0.1:6379: refused
worker.1   BACKOFF    exit 1, 3 restarts: next start in 2 s
migrate.1  COMPLETED  exit 0
debug.1    STOPPED
evil.1     FAILED     x\\nnginx.1  RUNNING\\u{1b}[0m
"
        );
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let stack = stack();
        let instances: Vec<_> = stack.iter().collect();
        let mut colored = render(&instances, true);
        assert!(colored.starts_with("nginx.1    \x1b[32mRUNNING  \x1b[0m  pid 31"), "{colored}");
        for code in ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"] {
            assert!(colored.contains(code), "{code:?}");
            colored = colored.replace(code, "");
        }
        let trimmed: Vec<_> = colored.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", render(&instances, false));
    }

    #[test]
    fn uptimes_are_supervisorctls() {
        for (ms, text) in
            [(0, "0:00:00"), (999, "0:00:00"), (86_400_000, "1 day, 0:00:00"), (12 * 86_400_000 + 36_243_000, "12 days, 10:04:03")]
        {
            assert_eq!(uptime_text(ms), text);
        }
    }
}
