//! The status as people read it, in supervisorctl's look: name, STATE, and what there is to say.

use std::fmt::Write as _;

use super::terminal::padded;
use crate::config::diagnostic::columns;
use crate::engine::status::{InstanceStatus, MemoryStatus, StateName};
use crate::server::printable;

/// The name of the container's own line. An instance's always has a dot, so nobody else has it.
const MEMORY: &str = "memory";

/// One line an instance, its columns aligned; where `whole` is asked for and memory is known, a last line for the container.
pub(super) fn render(instances: &[&InstanceStatus], memory: Option<&MemoryStatus>, whole: bool, color: bool) -> String {
    let names: Vec<_> = instances.iter().map(|instance| printable(&instance.name)).collect();
    let container = memory.filter(|_| whole);
    let longest = container.map_or(0, |_| MEMORY.len());
    let width = names.iter().map(|name| columns(name)).fold(longest, usize::max);
    let container_line = memory.and_then(|memory| memory.restart_above_bytes);
    let mut table = String::new();
    let mut line = |name: &str, paint: &str, state: &str, detail: &str| {
        let (on, off) = if color { (paint, "\x1b[0m") } else { ("", "") };
        let mut line = String::new();
        // Writing into a String cannot fail.
        let _ = write!(line, "{}  {on}{state:9}{off}  {detail}", padded(name, width));
        table.push_str(line.trim_end());
        table.push('\n');
    };
    for (instance, name) in instances.iter().zip(&names) {
        line(name, paint(instance), word(instance.state), &detail(instance, container_line));
    }
    if let Some(memory) = container {
        let (state, paint) = verdict(memory);
        let why = memory.why.as_deref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
        line(MEMORY, paint, state, &format!("{}{why}", memory.summary()));
    }
    table
}

/// How the container's memory is, in a word, with its colour.
const fn verdict(memory: &MemoryStatus) -> (&'static str, &'static str) {
    match memory {
        MemoryStatus { hard_bytes: None, .. } => ("UNKNOWN", YELLOW),
        MemoryStatus { restart_above_bytes: None, .. } => ("OFF", DIM),
        MemoryStatus { above_for_ms: Some(_), .. } => ("ABOVE", YELLOW),
        MemoryStatus { above_for_ms: None, .. } => ("OK", GREEN),
    }
}

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";

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
        StateName::Running if instance.ready => GREEN,
        StateName::Completed => GREEN,
        StateName::Running | StateName::Waiting | StateName::Starting | StateName::Stopping | StateName::Backoff => YELLOW,
        StateName::Stopped | StateName::Exited => DIM,
        StateName::Failed => RED,
    }
}

/// `pid 31, uptime 0:04:03, mem 201.3 MiB (39%), 2 restarts (1 oom), not ready: connect 127.0.0.1:6379: refused`.
fn detail(instance: &InstanceStatus, container_line: Option<u64>) -> String {
    let mut parts = Vec::new();
    if let Some(pid) = instance.pid {
        parts.push(format!("pid {pid}"));
    }
    if let Some(uptime) = instance.uptime_ms.filter(|_| instance.pid.is_some()) {
        parts.push(format!("uptime {}", uptime_text(uptime)));
    }
    if let Some(memory) = instance.memory.as_ref().filter(|_| instance.pid.is_some()) {
        parts.push(format!("mem {}", memory.summary(container_line)));
    }
    // Why it is down often names it.
    let is_named = |outcome: &str| instance.why.as_deref().is_some_and(|why| why.contains(outcome));
    if let Some(outcome) = instance.last_outcome.as_deref().filter(|outcome| instance.pid.is_none() && !is_named(outcome)) {
        parts.push(printable(outcome).into_owned());
    }
    let causes = instance.restarts.in_words();
    match instance.restarts.total {
        0 => {}
        1 => parts.push(format!("1 restart{causes}")),
        restarts => parts.push(format!("{restarts} restarts{causes}")),
    }
    if matches!(instance.state, StateName::Running | StateName::Starting) {
        parts.push(if instance.ready { "ready" } else { "not ready" }.to_owned());
    }
    let mut text = parts.join(", ");
    if let Some(why) = instance.why.as_ref().or(instance.says.as_ref()) {
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
    use crate::engine::status::{GuardActs, InstanceMemory, LimitSource, MemoryMethod, Restarts};

    const MIB: u64 = 1 << 20;

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
            last_exit_code: None,
            says: None,
            memory: None,
            ready_probe: None,
            live_probe: None,
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
        let table = render(&stack.iter().collect::<Vec<_>>(), None, true, false);
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
        let memory = container();
        let mut colored = render(&instances, Some(&memory), true, true);
        assert!(colored.starts_with("nginx.1    \x1b[32mRUNNING  \x1b[0m  pid 31"), "{colored}");
        for code in ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"] {
            assert!(colored.contains(code), "{code:?}");
            colored = colored.replace(code, "");
        }
        let trimmed: Vec<_> = colored.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", render(&instances, Some(&memory), true, false));
    }

    fn container() -> MemoryStatus {
        MemoryStatus {
            limit_bytes: 512 * MIB,
            limit_source: LimitSource::CgroupV2,
            limit_place: "/sys/fs/cgroup".to_owned(),
            hard_bytes: Some(402 * MIB),
            restart_above_bytes: Some(384 * MIB),
            above_for_ms: Some(4_000),
            oom_kills: 1,
            acts: GuardActs { held: 1, own: 2, ..GuardActs::default() },
            helpless: false,
            why: Some("above the line for 4 s\nnginx.1  RUNNING".to_owned()),
        }
    }

    /// An instance that holds so much, its line and restarts for memory.
    fn holds(name: &str, mib: u64, line: u64, memory: u32, oom: u32) -> InstanceStatus {
        let bytes = mib * MIB;
        let held = InstanceMemory {
            bytes,
            at_least_bytes: bytes,
            at_most_bytes: bytes,
            method: MemoryMethod::Pss,
            percent: 100.0 * mib as f64 / 512.0,
            restart_above_bytes: Some(line * MIB),
            age_ms: 900,
        };
        InstanceStatus {
            ready: true,
            pid: Some(31),
            uptime_ms: Some(243_000),
            restarts: Restarts { total: memory + oom, crash: oom, memory, oom, ..Restarts::default() },
            memory: Some(held),
            ..instance(name, StateName::Running)
        }
    }

    #[test]
    fn memory_is_shown_with_its_share_and_the_containers_last() {
        let down = InstanceStatus { pid: None, uptime_ms: None, ready: false, state: StateName::Failed, ..holds("down.1", 1, 384, 0, 1) };
        let stack = [holds("redis.1", 201, 384, 0, 0), holds("worker.1", 180, 200, 3, 1), holds("w.2", 3, 384, 1, 0), down];
        let instances: Vec<_> = stack.iter().collect();
        let rows = "\
redis.1   RUNNING    pid 31, uptime 0:04:03, mem 201 MiB (39%), ready
worker.1  RUNNING    pid 31, uptime 0:04:03, mem 180 MiB of 200 MiB (90%), 4 restarts (3 memory, 1 oom), ready
w.2       RUNNING    pid 31, uptime 0:04:03, mem 3 MiB (1%), 1 restart (1 memory), ready
down.1    FAILED     1 restart (1 oom)
";
        let container = container();
        let acts = "acts above 75%, 3 acts (1 held, 2 own line), 1 OOM kill: above the line for 4 s\\nnginx.1  RUNNING";
        let memory = format!("memory    ABOVE      402 MiB of 512 MiB (78.5%), cgroup v2, {acts}\n");
        assert_eq!(render(&instances, Some(&container), true, false), format!("{rows}{memory}"));
        assert_eq!(render(&instances, Some(&container), false, false), rows, "some services were asked for");
    }

    #[test]
    fn the_containers_memory_in_a_word() {
        let word = |memory: MemoryStatus| render(&[], Some(&MemoryStatus { why: None, ..memory }), true, false);
        assert!(word(MemoryStatus { above_for_ms: None, ..container() }).starts_with("memory  OK         402 MiB of"));
        assert!(word(container()).starts_with("memory  ABOVE      402 MiB of"));
        assert!(word(MemoryStatus { restart_above_bytes: None, ..container() }).starts_with("memory  OFF        402 MiB of"));
        assert!(word(MemoryStatus { hard_bytes: None, ..container() }).starts_with("memory  UNKNOWN    unknown of 512 MiB"));
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
