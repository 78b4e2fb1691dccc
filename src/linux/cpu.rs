//! How long each instance was on a processor: all its runs, each with its whole process tree.
//!
//! Of every living process what /proc/PID/stat says of it, and of the children it has waited for. Who dies and is waited for by firstmate (the
//! main process, and orphans that had been seen in the tree) is read while it is a zombie, and kept for the instance. So nothing is counted
//! twice, and what is missing is little:
//!
//! - an orphan that was born and died without being looked at in between, and what a parent that ignores SIGCHLD did not wait for;
//! - exec probes, which are no part of the run;
//! - what the kernel cuts off: it counts in hundredths of a second.
//!
//! The sum never goes down: while a child is dead and its parent has not waited for it yet, the higher number seen before is kept.
//!
//! **Budget.** A look reads one small file in memory for each process, about 5 us, on the loop. It is made at most once a second, and never
//! takes more than one hundredth of the time, however many processes there are and however often somebody asks: in between, the last look answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::tree::{Census, Trees, cpu_ticks};
use crate::engine::{InstanceId, RunId};

/// Clock ticks a second in /proc, on every architecture; see USER_HZ.
const TICKS: u64 = 100;

/// No look sooner after the last one.
const PAUSE: Duration = Duration::from_secs(1);

/// Nor before so many times what the last one took.
const SHARE: u32 = 100;

/// What the instances used.
#[derive(Debug, Default)]
pub struct CpuTimes {
    census: Census,
    /// Of processes that are gone, in ticks.
    ended: BTreeMap<InstanceId, u64>,
    /// As last looked at.
    seen: BTreeMap<InstanceId, u64>,
    again: Option<Instant>,
}

impl CpuTimes {
    /// A child of firstmate's that belonged to this run is dead and not reaped yet.
    pub fn ended(&mut self, run: RunId, pid: u32) {
        let ticks = cpu_ticks(pid).unwrap_or_default();
        let ended = self.ended.entry(run.instance).or_default();
        *ended = ended.saturating_add(ticks);
    }

    /// Looks anew, if it is time to. Returns whether it did.
    pub fn look(&mut self, trees: &mut Trees) -> bool {
        let began = Instant::now();
        if self.again.is_some_and(|again| began < again) {
            return false;
        }
        trees.census(&mut self.census);
        let mut now = self.ended.clone();
        for member in self.census.members() {
            let ticks = now.entry(member.run.instance).or_default();
            *ticks = ticks.saturating_add(member.cpu_ticks);
        }
        for (instance, ticks) in now {
            let seen = self.seen.entry(instance).or_default();
            *seen = ticks.max(*seen);
        }
        let took = began.elapsed();
        self.again = Some(began + took + PAUSE.max(took.saturating_mul(SHARE)));
        true
    }

    /// What the instance has used since firstmate started; `None` before its first look.
    #[must_use]
    pub fn of(&self, instance: InstanceId) -> Option<Duration> {
        self.seen.get(&instance).map(|ticks| Duration::from_millis(ticks.saturating_mul(1000 / TICKS)))
    }

    /// Processes that are dead and not reaped, in the whole container; see [`Census::zombies`].
    #[must_use]
    pub fn zombies(&self) -> Option<u32> {
        self.census.zombies()
    }
}
