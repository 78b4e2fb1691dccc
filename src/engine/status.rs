//! What is true now, as plain data: the one source of `status`, the probe endpoints and the page.
//!
//! Serialised as JSON it is a contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// The whole supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// firstmate's own version.
    pub version: String,
    /// firstmate's own pid, as it sees itself.
    pub pid: u32,
    /// Since firstmate started.
    pub uptime_ms: u64,
    /// Where the whole stack is in its life.
    pub phase: Phase,
    /// May it take work: every essential instance is up and ready, and no stop was asked for.
    pub ready: bool,
    /// It need not be replaced: nothing essential is beyond repair.
    pub live: bool,
    /// Every essential instance has been ready once, and every essential oneshot has completed.
    pub started: bool,
    /// Why the stack is stopping; empty before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_because: Option<String>,
    /// In the order of the file.
    pub services: Vec<ServiceStatus>,
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
    /// In order of their numbers.
    pub instances: Vec<InstanceStatus>,
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
    /// It was not ready within `start_timeout`.
    pub start_timeout: u32,
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
