//! What is true now, as plain data: the one source of `status`, the probe endpoints and the page.
//!
//! Serialised as JSON it is a contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

use super::size::{percent, size};

/// The whole supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// firstmate's own version.
    pub version: String,
    /// firstmate's own pid, as it sees itself.
    pub pid: u32,
    /// Since firstmate started.
    pub uptime_ms: u64,
    /// When firstmate started, in milliseconds since 1970; absent when nobody told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// The file that is run, as an absolute path; absent when nobody told, or when it is not to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where the whole stack is in its life.
    pub phase: Phase,
    /// May it take work: every essential instance is up and ready, no stop was asked for, the log is written, and memory is not beyond help.
    pub ready: bool,
    /// It need not be replaced: nothing essential is beyond repair.
    pub live: bool,
    /// Every essential instance has been ready once, and every essential oneshot has completed.
    pub started: bool,
    /// Why the stack is stopping; empty before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_because: Option<String>,
    /// Why firstmate's own log gets nowhere; absent while it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_blocked_because: Option<String>,
    /// The container's memory and what the guard makes of it; absent when nothing can be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStatus>,
    /// In the order of the file.
    pub services: Vec<ServiceStatus>,
}

/// The container's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// The limit in force.
    pub limit_bytes: u64,
    /// Where it came from.
    pub limit_source: LimitSource,
    /// The cgroup's path or the address where it was found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limit_place: String,
    /// Memory that cannot be taken back without swapping or killing; absent when it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_bytes: Option<u64>,
    /// The guard acts above it; absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_above_bytes: Option<u64>,
    /// How long it has been above that; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above_for_ms: Option<u64>,
    /// Processes the kernel's OOM killer has killed in this container since firstmate started.
    pub oom_kills: u64,
    /// What the guard has done, by rule.
    pub acts: GuardActs,
    /// Above `hard_above`, and no restart would help.
    #[serde(default, skip_serializing_if = "is_false")]
    pub helpless: bool,
    /// What the guard waits for, or cannot do: one short line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What the guard has done, by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuardActs {
    /// Above `restart_above` for `confirm`.
    pub held: u32,
    /// Soon at `hard_above`.
    pub forecast: u32,
    /// Above `hard_above`.
    pub hard: u32,
    /// Above `emergency_above`, or about to be.
    pub emergency: u32,
    /// A service's own line.
    pub own: u32,
}

impl GuardActs {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.held.saturating_add(self.forecast).saturating_add(self.hard).saturating_add(self.emergency).saturating_add(self.own)
    }
}

/// `3 acts (2 held, 1 hard)`.
impl std::fmt::Display for GuardActs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total = self.total();
        write!(f, "{total} act{}", if total == 1 { "" } else { "s" })?;
        let rules =
            [(self.held, "held"), (self.forecast, "forecast"), (self.hard, "hard"), (self.emergency, "emergency"), (self.own, "own line")];
        for (at, (count, rule)) in rules.into_iter().filter(|(count, _)| *count > 0).enumerate() {
            write!(f, "{}{count} {rule}", if at == 0 { " (" } else { ", " })?;
        }
        f.write_str(if total > 0 { ")" } else { "" })
    }
}

/// Where the limit in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitSource {
    /// `[memory] limit`.
    Configured,
    /// cgroup v1.
    CgroupV1,
    /// cgroup v2.
    CgroupV2,
    /// The container's limit in the ECS task metadata.
    EcsContainer,
    /// The task's limit in the ECS task metadata.
    EcsTask,
    /// There is none: all the memory of the machine.
    Machine,
}

impl std::fmt::Display for LimitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::CgroupV1 => "cgroup v1",
            Self::CgroupV2 => "cgroup v2",
            Self::EcsContainer => "ECS container",
            Self::EcsTask => "ECS task",
            Self::Machine => "the machine's",
        })
    }
}

/// How a service's memory is known, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMethod {
    /// It has a cgroup of its own.
    Cgroup,
    /// Proportional set size.
    Pss,
    /// Proportional set size, read as the service's own user.
    PssAsUser,
    /// Between two bounds from what each process holds and what the cgroup counts.
    Interval,
    /// Resident set sizes added up: shared pages are counted more than once.
    Rss,
}

impl MemoryStatus {
    /// `201.3 MiB of 512 MiB (39.3%), cgroup v2, acts above 75%, 1 act (1 held), 2 OOM kills`: the container's memory as people read it.
    #[must_use]
    pub fn summary(&self) -> String {
        let limit = size(self.limit_bytes);
        let mut text = match self.hard_bytes {
            Some(hard) => format!("{} of {limit} ({}), {}", size(hard), percent(hard, self.limit_bytes), self.limit_source),
            None => format!("unknown of {limit}, {}", self.limit_source),
        };
        if let Some(line) = self.restart_above_bytes {
            text.push_str(&format!(", acts above {}", percent(line, self.limit_bytes)));
        }
        if self.acts.total() > 0 {
            text.push_str(&format!(", {}", self.acts));
        }
        match self.oom_kills {
            0 => {}
            1 => text.push_str(", 1 OOM kill"),
            kills => text.push_str(&format!(", {kills} OOM kills")),
        }
        text
    }
}

impl InstanceMemory {
    /// `201.3 MiB (39%)` of the container's limit, or `180 MiB of 200 MiB (90%)` where it has a line of its own, which is any but
    /// `container_line`. `~` before what may be off by more than a tenth.
    #[must_use]
    pub fn summary(&self, container_line: Option<u64>) -> String {
        let spread = self.at_most_bytes.saturating_sub(self.at_least_bytes);
        let about = if spread > self.bytes / 5 { "~" } else { "" };
        let bytes = size(self.bytes);
        match self.restart_above_bytes.filter(|line| Some(*line) != container_line) {
            Some(line) => format!("{about}{bytes} of {} ({})", size(line), percent(self.bytes, line)),
            None => format!("{about}{bytes} ({:.0}%)", self.percent),
        }
    }
}

/// One instance's memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InstanceMemory {
    /// The best estimate.
    pub bytes: u64,
    /// It is at least this.
    pub at_least_bytes: u64,
    /// It is at most this.
    pub at_most_bytes: u64,
    /// How it is known.
    pub method: MemoryMethod,
    /// Share of the limit in force, 0 to 100.
    pub percent: f64,
    /// The line that holds for it, its own or the container's; absent when the guard is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_above_bytes: Option<u64>,
    /// How long ago it was looked at.
    pub age_ms: u64,
}

/// Where the whole stack is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Running, or on the way there.
    Running,
    /// A stop was asked for; not ready, but still serving.
    Draining,
    /// Services are being stopped.
    Stopping,
    /// Nothing is left.
    Ended,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `service` or `oneshot`.
    pub kind: String,
    /// Its giving up ends the container.
    pub essential: bool,
    /// All its instances are ready, or the oneshot has completed.
    pub ready: bool,
    /// Why not; one short line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Names that stand for it and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// How many instances it was started with, as the file or `-m` says; absent while it has as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances_in_file: Option<u16>,
    /// A rolling restart that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingStatus>,
    /// In order of their numbers.
    pub instances: Vec<InstanceStatus>,
}

/// A rolling restart that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollingStatus {
    /// The instance whose turn it is; absent while it waits for the others to be ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// Those whose turn is still to come.
    pub left: Vec<String>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// `web.1`.
    pub name: String,
    /// Its state.
    pub state: StateName,
    /// May it take work.
    pub ready: bool,
    /// Of the main process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Of the present run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Number of the present or last run, from 1; 0 before the first.
    pub run: u32,
    /// How often firstmate has started it again by itself.
    pub restarts: Restarts,
    /// What it waits for, why it is down, what its last failed probe said: one short line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How the last run ended: `exit 1`, `killed by SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_outcome: Option<String>,
    /// The same as a shell says it: the exit code, 128 + signal, or 126 or 127 where it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
    /// What it last said of itself by sd_notify's `STATUS=` and `RELOADING=1`: one short printable line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// Its memory, as last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<InstanceMemory>,
    /// The answers of its `ready` probe, over all runs; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_probe: Option<ProbeStatus>,
    /// The same of its `live` probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_probe: Option<ProbeStatus>,
}

/// What the answers of one probe came to. Counts never go down while firstmate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Answers that passed.
    pub successes: u64,
    /// Answers that did not, and questions without an answer.
    pub failures: u64,
    /// Whether the last one passed.
    pub last_passed: bool,
    /// From the last question to its answer, or to where it was cut off.
    pub last_took_us: u64,
    /// The same of all questions, added up.
    pub total_took_us: u64,
}

/// Restarts by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restarts {
    /// All of them.
    pub total: u32,
    /// It ended by itself, or could not be started.
    pub crash: u32,
    /// Its liveness probe failed.
    pub live: u32,
    /// Its watchdog heard nothing of it in time.
    #[serde(default)]
    pub watchdog: u32,
    /// It was not ready within `start_timeout`.
    pub start_timeout: u32,
    /// The memory guard chose it.
    #[serde(default)]
    pub memory: u32,
    /// Of `crash`: the kernel's OOM killer killed it.
    #[serde(default)]
    pub oom: u32,
    /// Files it watches have changed.
    #[serde(default)]
    pub watch: u32,
}

impl Restarts {
    /// ` (1 memory, 2 oom, 3 watch)`: those that memory or a change of files was the reason for; empty without any.
    #[must_use]
    pub fn in_words(&self) -> String {
        let causes = [(self.memory, "memory"), (self.oom, "oom"), (self.watch, "watch")];
        let told: Vec<String> = causes.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
    }
}

/// The state of an instance as people read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateName {
    /// Down, as wanted.
    Stopped,
    /// Wanted up; a dependency's condition does not hold yet.
    Waiting,
    /// Started, not ready yet.
    Starting,
    /// Up.
    Running,
    /// Asked to end, or being cleaned up after.
    Stopping,
    /// Down between two runs.
    Backoff,
    /// The oneshot ended well.
    Completed,
    /// It ended by itself and its policy says not to start it again.
    Exited,
    /// Given up.
    Failed,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Completed => "completed",
            Self::Exited => "exited",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_containers_memory_in_a_line() {
        let plain = MemoryStatus {
            limit_bytes: 512 * MIB,
            limit_source: LimitSource::CgroupV2,
            limit_place: "/sys/fs/cgroup".to_owned(),
            hard_bytes: Some(201 * MIB),
            restart_above_bytes: Some(384 * MIB),
            above_for_ms: None,
            oom_kills: 0,
            acts: GuardActs::default(),
            helpless: false,
            why: None,
        };
        let acts = GuardActs { held: 1, forecast: 2, hard: 3, emergency: 4, own: 5 };
        for (memory, text) in [
            (plain.clone(), "201 MiB of 512 MiB (39.3%), cgroup v2, acts above 75%"),
            (MemoryStatus { hard_bytes: None, restart_above_bytes: None, ..plain.clone() }, "unknown of 512 MiB, cgroup v2"),
            (
                MemoryStatus {
                    limit_source: LimitSource::Machine,
                    acts: GuardActs { own: 1, ..GuardActs::default() },
                    oom_kills: 1,
                    ..plain.clone()
                },
                "201 MiB of 512 MiB (39.3%), the machine's, acts above 75%, 1 act (1 own line), 1 OOM kill",
            ),
            (
                MemoryStatus { acts, oom_kills: 2, ..plain },
                "201 MiB of 512 MiB (39.3%), cgroup v2, acts above 75%, 15 acts (1 held, 2 forecast, 3 hard, 4 emergency, 5 own line), 2 OOM kills",
            ),
        ] {
            assert_eq!(memory.summary(), text);
        }
    }

    #[test]
    fn an_instances_memory_is_a_share_of_its_own_line_or_of_the_limit() {
        let memory = InstanceMemory {
            bytes: 201 * MIB,
            at_least_bytes: 190 * MIB,
            at_most_bytes: 210 * MIB,
            method: MemoryMethod::Interval,
            percent: 39.3,
            restart_above_bytes: Some(384 * MIB),
            age_ms: 0,
        };
        let container = Some(384 * MIB);
        assert_eq!(memory.summary(container), "201 MiB (39%)");
        assert_eq!(InstanceMemory { restart_above_bytes: None, ..memory }.summary(None), "201 MiB (39%)");
        assert_eq!(InstanceMemory { restart_above_bytes: Some(240 * MIB), ..memory }.summary(container), "201 MiB of 240 MiB (83.8%)");
        assert_eq!(InstanceMemory { at_least_bytes: 0, ..memory }.summary(container), "~201 MiB (39%)");
    }

    #[test]
    fn restarts_are_told_apart_by_what_they_were_for() {
        let restarts = |memory, oom| Restarts { memory, oom, ..Restarts::default() }.in_words();
        assert_eq!(Restarts { watch: 3, oom: 1, ..Restarts::default() }.in_words(), " (1 oom, 3 watch)");
        assert_eq!([restarts(0, 0), restarts(1, 0), restarts(0, 2), restarts(1, 2)], ["", " (1 memory)", " (2 oom)", " (1 memory, 2 oom)"]);
    }
}
