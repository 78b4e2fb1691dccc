//! The limit in force, and what the container uses of it.
//!
//! The limit is, in this order:
//!
//! 1. `[memory] limit`,
//! 2. the tightest one of the cgroups that are visible: v1's `hierarchical_memory_limit`, which knows of invisible ancestors as well, or
//!    the least memory.max of v2 from our own cgroup up to the mount point (`cgroup.rs`),
//! 3. what ECS tells in its task metadata ([`super::ecs`]): on Fargate the cgroup of a container shows no limit,
//! 4. the memory of the machine.
//!
//! A number of 2^62 or more, or above the memory of the machine, is none.
//!
//! The kernel's OOM killer compares a limit with the usage of the cgroup that has it, which includes everything beside us below that
//! cgroup, so that usage is what is read ([`Counters`]). Where the cgroup that has it is not visible, our own has to do: then usage
//! is too low by whatever else lives below the limit.

use std::path::Path;

use crate::engine::memory::Limit;
use crate::engine::status::LimitSource;

pub use super::cgroup::Files;
use super::cgroup::{Cgroup, Tightest, Version};
pub use super::counters::Counters;
use super::counters::{Whose, machine_total};
use super::ecs::EcsLimit;

/// No growth is faster on one processor with small pages, in bytes a second: about 2 GB/s were measured. Huge pages are twice as fast, and so are
/// several processors, until memory itself is what is slow: two threads have filled 512 MiB at 4.9 GB/s with small pages, and 1 GiB at more than
/// 9 GB/s with huge ones.
const GROWTH_MAX: u64 = 4_000_000_000;

/// Where the usage comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageOf {
    /// The cgroup in this directory.
    Cgroup(String),
    /// The whole machine: no cgroup has a limit, or none can be seen.
    Machine,
}

/// Watches the limit, and reads the usage.
#[derive(Debug)]
pub struct Watch {
    files: Files,
    configured: Option<u64>,
    /// Our cgroup is this many levels above the one firstmate is in.
    above: usize,
    /// `None` until it has told whether there is one.
    ecs: Option<Option<EcsLimit>>,
    /// /proc/PID/cgroup when `cgroup` was found by it.
    memberships: Option<Vec<u8>>,
    cgroup: Option<Cgroup>,
    tightest: Option<Tightest>,
    limit: Option<Limit>,
    whose: Option<Whose>,
    counters: Counters,
    /// How often they were opened.
    opened: u32,
    /// That firstmate may run on, and so its services: at the start.
    processors: usize,
}

impl Watch {
    /// Looks for the first time. `configured` is `[memory] limit`, in bytes.
    #[must_use]
    pub fn new(files: Files, configured: Option<u64>) -> Self {
        let mut watch = Self {
            files,
            configured,
            above: 0,
            ecs: None,
            memberships: None,
            cgroup: None,
            tightest: None,
            limit: None,
            whose: None,
            counters: Counters::closed(),
            opened: 0,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        };
        watch.check();
        watch
    }

    /// The limit in force; `None` when not even the memory of the machine is known.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    /// Where the usage comes from.
    #[must_use]
    pub fn usage_of(&self) -> UsageOf {
        match &self.whose {
            Some(Whose::Cgroup(_, directory)) => UsageOf::Cgroup(display(directory)),
            Some(Whose::Machine) | None => UsageOf::Machine,
        }
    }

    /// The limit the cgroups show, in bytes, and where, whatever limit is in force: the kernel kills there even if a higher one is configured.
    #[must_use]
    pub fn visible(&self) -> Option<(u64, String)> {
        self.tightest.as_ref().map(|tightest| (tightest.bytes, display(&tightest.place)))
    }

    /// Reads usage and OOM kills.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// How often [`Self::counters`] were opened: when that changes, those of [`Self::more_counters`] read what was before.
    #[must_use]
    pub const fn opened(&self) -> u32 {
        self.opened
    }

    /// The same files opened once more, to be read on another thread.
    #[must_use]
    pub fn more_counters(&self) -> Counters {
        let mut counters = Counters::closed();
        if let Some(whose) = &self.whose {
            counters.reopen(&self.files, whose, self.cgroup.as_ref());
        }
        counters
    }

    /// Whether the ECS task metadata would be believed: nothing that comes before it has a limit, and it has not told one yet.
    #[must_use]
    pub fn wants_ecs(&self) -> bool {
        self.configured.is_none() && self.tightest.is_none() && self.ecs.is_none()
    }

    /// What the ECS task metadata told, `None` being that there is no limit. Returns whether the limit in force is another now.
    pub fn tell_ecs(&mut self, told: Option<EcsLimit>) -> bool {
        self.ecs = Some(told);
        self.check()
    }

    /// firstmate has moved itself this many levels down: the container is what is above, as far as that can be seen. To be told right
    /// after the move. Returns whether the limit in force is another now.
    pub fn moved_down(&mut self, levels: usize) -> bool {
        self.above = levels;
        self.memberships = None;
        self.check()
    }

    /// Whether the kernel kills all of the container at once, firstmate included, when a limit is reached; `None` when that cannot be
    /// read. What holds above the visible cgroups is not known.
    #[must_use]
    pub fn oom_group(&self) -> Option<bool> {
        self.cgroup.as_ref()?.oom_group(&self.files)
    }

    /// Looks again: whether the limit was changed, one has appeared on an ancestor, firstmate was moved to another cgroup, or counters
    /// that failed can be read again. To be called every few seconds; costs about as many small reads as the cgroup is deep. Returns
    /// whether the limit in force is another now.
    pub fn check(&mut self) -> bool {
        let memberships = self.files.of_process("cgroup").ok();
        let failed = self.counters.failed();
        let mut moved = false;
        if failed || self.cgroup.is_none() || memberships != self.memberships {
            let cgroup = memberships.as_deref().and_then(|text| Cgroup::locate(&self.files, text, self.above));
            moved = cgroup != self.cgroup;
            self.cgroup = cgroup;
            self.memberships = memberships;
        }
        let total = machine_total(&self.files);
        self.tightest = self.cgroup.as_ref().and_then(|cgroup| cgroup.tightest(&self.files, total.unwrap_or(u64::MAX)));
        let (limit, whose) = self.choose(total);
        if failed || moved || self.whose.as_ref() != Some(&whose) {
            self.counters.reopen(&self.files, &whose, self.cgroup.as_ref());
            self.opened = self.opened.wrapping_add(1);
        }
        self.whose = Some(whose);
        let changed = limit != self.limit;
        self.limit = limit;
        changed
    }

    /// The limit, and whose usage is compared with it.
    fn choose(&self, total: Option<u64>) -> (Option<Limit>, Whose) {
        let growth_max = growth_max(self.processors, has_huge_pages(&self.files));
        let limit = |bytes: u64, source: LimitSource, place: String| Some(Limit { bytes, source, place, growth_max });
        let own = || match &self.cgroup {
            Some(cgroup) if !cgroup.everything => Whose::Cgroup(cgroup.version, cgroup.own.clone()),
            Some(_) | None => Whose::Machine,
        };
        if let Some(bytes) = self.configured {
            return (limit(bytes, LimitSource::Configured, String::new()), own());
        }
        if let (Some(Tightest { bytes, place }), Some(cgroup)) = (&self.tightest, &self.cgroup) {
            let source = match cgroup.version {
                Version::V1 => LimitSource::CgroupV1,
                Version::V2 => LimitSource::CgroupV2,
            };
            return (limit(*bytes, source, display(place)), Whose::Cgroup(cgroup.version, place.clone()));
        }
        if let Some(EcsLimit { bytes, source, place }) =
            self.ecs.iter().flatten().find(|told| total.is_none_or(|total| told.bytes <= total))
        {
            return (limit(*bytes, *source, place.clone()), own());
        }
        (total.and_then(|bytes| limit(bytes, LimitSource::Machine, String::new())), Whose::Machine)
    }
}

const fn growth_max(processors: usize, huge_pages: bool) -> u64 {
    let several = if processors > 1 { 2 } else { 1 };
    let huge = if huge_pages { 2 } else { 1 };
    GROWTH_MAX.saturating_mul(several).saturating_mul(huge)
}

/// Whether a program gets huge pages, unasked or when it asks for them. See Documentation/admin-guide/mm/transhuge.rst: the choice is in brackets.
fn has_huge_pages(files: &Files) -> bool {
    let told = files.read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    told.split(u8::is_ascii_whitespace).any(|word| word == b"[always]" || word == b"[madvise]")
}

/// A path for people: what is not printable is replaced.
pub(super) fn display(path: &Path) -> String {
    path.to_string_lossy().chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_faster_with_huge_pages_and_with_several_processors() {
        for (processors, huge, expected) in [(1, false, 4), (1, true, 8), (2, false, 8), (64, true, 16)] {
            assert_eq!(growth_max(processors, huge), expected * 1_000_000_000, "{processors} {huge}");
        }
    }
}
