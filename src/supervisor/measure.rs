//! What `/metrics` shows beside the engine's status: measured when somebody asks, at most once a second.

use super::Supervisor;
use crate::engine::RunId;
use crate::linux::container;
use crate::linux::cpu::CpuTimes;
use crate::linux::memory::limit::Files;
use crate::linux::own::OwnUsage;
use crate::observe::metrics::{Measured, OfContainer, OfInstance, OfProcess};

/// What was measured last.
#[derive(Default)]
pub(super) struct Gauges {
    files: Files,
    cpu: CpuTimes,
    container: OfContainer,
    own: OfProcess,
}

impl Gauges {
    /// A child of this run is dead and not reaped yet.
    pub(super) fn ended(&mut self, run: RunId, pid: u32) {
        self.cpu.ended(run, pid);
    }
}

impl Supervisor {
    /// All there is to measure; in between two looks what the last one saw, but for what firstmate counts itself.
    pub(super) fn measure(&mut self) -> Measured {
        let gauges = &mut self.gauges;
        if gauges.cpu.look(&mut self.trees) {
            let pids = container::pids(&gauges.files);
            gauges.container = OfContainer {
                throttling: container::throttling(&gauges.files).map(|seen| (seen.periods, seen.throttled_periods, seen.throttled)),
                pids: pids.map(|pids| pids.current),
                pids_limit: pids.and_then(|pids| pids.max),
                zombies: gauges.cpu.zombies(),
                stolen: container::stolen(&gauges.files),
            };
            let OwnUsage { cpu, open_fds, max_fds, virtual_bytes, resident_bytes } = OwnUsage::read();
            gauges.own = OfProcess { cpu, open_fds, max_fds, virtual_bytes, resident_bytes };
        }
        let instances = self
            .output
            .counted()
            .map(|(id, name, [stdout, stderr])| (name.to_owned(), OfInstance { cpu: gauges.cpu.of(id), stdout, stderr }))
            .collect();
        Measured { instances, container: gauges.container, log: self.output.log(), own: gauges.own }
    }
}
