//! What is measured for `/metrics` alone, at most once a second, beside what the engine knows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Kind, Page, Seconds};

/// All of it. What is not known is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Measured {
    /// By name, `web.1`.
    pub instances: BTreeMap<String, OfInstance>,
    /// The container's share of the machine.
    pub container: OfContainer,
    /// firstmate's own log.
    pub log: OfLog,
    /// firstmate's own process.
    pub own: OfProcess,
}

/// One instance, all its runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfInstance {
    /// On a processor, its whole process tree.
    pub cpu: Option<Duration>,
    /// What it wrote on standard output.
    pub stdout: Lines,
    /// What it wrote on standard error.
    pub stderr: Lines,
}

/// Lines of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lines {
    /// Read, those that were dropped included.
    pub read: u64,
    /// Dropped, since nobody reads firstmate's own output; of a line in pieces each piece.
    pub dropped: u64,
}

/// The container's share of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfContainer {
    /// Periods of the CPU limit, those of them in which it was used up, and how long processes were held back; absent without a limit.
    pub throttling: Option<(u64, u64, Duration)>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// So many there may be.
    pub pids_limit: Option<u64>,
    /// Processes that are dead and not reaped.
    pub zombies: Option<u32>,
    /// How long the machine's processors had work and the hypervisor ran another machine.
    pub stolen: Option<Duration>,
}

/// firstmate's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfLog {
    /// Lines dropped, services' and firstmate's own.
    pub dropped: Option<u64>,
    /// What waits to be written.
    pub queued_bytes: Option<u64>,
}

/// firstmate's own process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfProcess {
    /// On a processor.
    pub cpu: Option<Duration>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// So many it may have.
    pub max_fds: Option<u64>,
    /// Address space.
    pub virtual_bytes: Option<u64>,
    /// In memory.
    pub resident_bytes: Option<u64>,
}

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

pub(super) fn container(page: &mut Page, container: &OfContainer) {
    if let Some((periods, throttled_periods, throttled)) = container.throttling {
        let name = "firstmate_container_cpu_cfs_periods";
        page.alone(name, Kind::Counter, "", "Periods of the container's CPU limit in which there was something to run.", periods);
        let name = "firstmate_container_cpu_cfs_throttled_periods";
        page.alone(name, Kind::Counter, "", "Those of the periods in which the limit was reached.", throttled_periods);
        let name = "firstmate_container_cpu_cfs_throttled_seconds";
        let help = "How long processes were held back by the container's CPU limit, all processors together.";
        page.alone(name, Kind::Counter, "seconds", help, Seconds::from(throttled));
    }
    if let Some(stolen) = container.stolen {
        let name = "firstmate_machine_cpu_steal_seconds";
        let help = "How long the machine's processors had work and the hypervisor ran another machine, such as for want of CPU credits.";
        page.alone(name, Kind::Counter, "seconds", help, Seconds::from(stolen));
    }
    if let Some(pids) = container.pids {
        page.alone("firstmate_container_pids", Kind::Gauge, "", "Processes and threads of the container.", pids);
    }
    if let Some(limit) = container.pids_limit {
        let help = "So many processes and threads there may be; absent without a limit.";
        page.alone("firstmate_container_pids_limit", Kind::Gauge, "", help, limit);
    }
    if let Some(zombies) = container.zombies {
        let help = "Processes of the container that are dead and that their parent has not waited for.";
        page.alone("firstmate_container_zombies", Kind::Gauge, "", help, zombies);
    }
}

pub(super) fn log(page: &mut Page, log: &OfLog, blocked: bool) {
    let help = "Whether firstmate's own log gets nowhere, as the check log of /readyz says.";
    page.alone("firstmate_log_blocked", Kind::Gauge, "", help, u8::from(blocked));
    if let Some(dropped) = log.dropped {
        let help = "Lines of services and of firstmate that were dropped, since nobody read them.";
        page.alone("firstmate_log_dropped_lines", Kind::Counter, "", help, dropped);
    }
    if let Some(bytes) = log.queued_bytes {
        page.alone("firstmate_log_queued_bytes", Kind::Gauge, "bytes", "What waits to be written to standard output.", bytes);
    }
}

/// As every exporter of Prometheus calls them.
pub(super) fn own(page: &mut Page, own: &OfProcess, started_unix_ms: Option<u64>) {
    if let Some(cpu) = own.cpu {
        page.alone("process_cpu_seconds", Kind::Counter, "seconds", "CPU time of firstmate itself.", Seconds::from(cpu));
    }
    if let Some(count) = own.open_fds {
        page.alone("process_open_fds", Kind::Gauge, "", "Open file descriptors of firstmate itself.", count);
    }
    if let Some(count) = own.max_fds {
        page.alone("process_max_fds", Kind::Gauge, "", "So many file descriptors firstmate may have open.", count);
    }
    if let Some(bytes) = own.virtual_bytes {
        page.alone("process_virtual_memory_bytes", Kind::Gauge, "bytes", "Address space of firstmate itself.", bytes);
    }
    if let Some(bytes) = own.resident_bytes {
        page.alone("process_resident_memory_bytes", Kind::Gauge, "bytes", "Resident memory of firstmate itself.", bytes);
    }
    if let Some(at_ms) = started_unix_ms {
        page.alone("process_start_time_seconds", Kind::Gauge, "seconds", "When firstmate started, since 1970.", Seconds(at_ms));
    }
}
