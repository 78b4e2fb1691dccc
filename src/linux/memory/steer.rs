//! Making the kernel choose a run's processes, should it have to kill: oom_score_adj.
//!
//! It cannot be made to spare anybody: lowering the value below what a process inherited needs CAP_SYS_RESOURCE, which containers
//! do not have. Raising it, and going back to what it was, needs no privilege over one's own user's processes; over those of others it
//! needs CAP_DAC_OVERRIDE, which Docker's default capabilities have. See proc_pid_oom_score_adj(5).
//!
//! What a process forks meanwhile inherits the raised value, so on the way back each process of the run that still has it gets what it had
//! itself, or its nearest known ancestor, or the run's main process. A process that has changed its own value meanwhile keeps that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};

use crate::engine::RunId;
use crate::linux::tree::{Census, Sighting, Trees, exists, start_time};
use std::path::Path;

/// A preferred process has at least this: above whatever an orchestrator gives a container that has a memory limit and a request.
pub const PREFERRED: i32 = 900;

/// How often a tree that forks is looked at again.
const ROUNDS: usize = 4;

/// Who is preferred, and what they had before.
#[derive(Debug, Default)]
pub struct Steering {
    runs: BTreeMap<RunId, Steered>,
    census: Census,
}

#[derive(Debug, Default)]
struct Steered {
    /// By pid and start time.
    before: BTreeMap<(u32, u64), i32>,
    /// What the main process had, or the first that was seen.
    base: Option<i32>,
    /// Who has been named as refusing.
    told: bool,
}

impl Steering {
    /// Prefers the run's processes, or lets them be as they were. To be called again for a preferred run to reach those that came by another way
    /// than a fork.
    ///
    /// Returns those that are there and could not be changed, with the errno, the first time that there are any for this run: EACCES where a
    /// service runs as another user and firstmate is not root, EROFS where /proc is read-only.
    #[must_use]
    pub fn steer(&mut self, trees: &mut Trees, run: RunId, prefer: bool) -> Vec<(u32, i32)> {
        if !prefer && !self.runs.contains_key(&run) {
            return Vec::new();
        }
        let mut refused = Vec::new();
        let mut done = BTreeSet::new();
        // A process forks between our look at it and our writing: then its child has the old value.
        for _ in 0..ROUNDS {
            trees.census(&mut self.census);
            let steered = self.runs.entry(run).or_default();
            let members = self.census.of(run);
            let known = done.len();
            for member in members {
                if !done.insert((member.pid, member.started)) {
                    continue;
                }
                let result = if prefer { steered.prefer(member) } else { steered.restore(member, members) };
                if let Err(error) = result
                    && start_time(Path::new("/proc"), member.pid).map_or_else(|| exists(member.pid), |started| started == member.started)
                {
                    refused.push((member.pid, error.raw_os_error().unwrap_or(libc::EINVAL)));
                }
            }
            if done.len() == known {
                break;
            }
        }
        let Some(steered) = self.runs.get_mut(&run) else { return refused };
        if prefer {
            let members = self.census.of(run);
            steered.before.retain(|&(pid, started), _| {
                members
                    .binary_search_by_key(&pid, |member| member.pid)
                    .is_ok_and(|at| members.get(at).is_some_and(|member| member.started == started))
            });
        } else {
            steered.before.clear();
            steered.base = None;
        }
        if steered.told {
            refused.clear();
        }
        steered.told |= !refused.is_empty();
        refused
    }

    /// The run is over.
    pub fn forget(&mut self, run: RunId) {
        self.runs.remove(&run);
    }
}

impl Steered {
    fn prefer(&mut self, member: &Sighting) -> io::Result<()> {
        let key = (member.pid, member.started);
        let inherited = self.before.keys().any(|&(pid, _)| pid == member.parent);
        change(member, |present| {
            if inherited && present >= PREFERRED {
                // A fork of a preferred one: it gets what that one had.
                return None;
            }
            let own = *self.before.entry(key).or_insert(present);
            if self.base.is_none() || member.parent == std::process::id() {
                self.base = Some(own);
            }
            (present < PREFERRED).then_some(PREFERRED)
        })
    }

    fn restore(&self, member: &Sighting, members: &[Sighting]) -> io::Result<()> {
        let wanted = self.before_of(member, members);
        change(member, |present| wanted.filter(|&wanted| present == PREFERRED && wanted != present))
    }

    fn before_of(&self, member: &Sighting, members: &[Sighting]) -> Option<i32> {
        let mut next = Some(member);
        // As deep as trees are; a circle cannot be.
        for _ in 0..32 {
            let Some(process) = next else { break };
            if let Some(&before) = self.before.get(&(process.pid, process.started)) {
                return Some(before);
            }
            next = members.binary_search_by_key(&process.parent, |member| member.pid).ok().and_then(|at| members.get(at));
        }
        self.base
    }
}

/// Replaces the value by what `decide` says to the present one.
fn change(member: &Sighting, decide: impl FnOnce(i32) -> Option<i32>) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/oom_score_adj", member.pid))?;
    // The file is this process's and no later one's: it was opened before it is known that it is the right one.
    if start_time(Path::new("/proc"), member.pid) != Some(member.started) {
        return Ok(());
    }
    let mut text = [0_u8; 16];
    let length = file.read(&mut text)?;
    let present = text.get(..length).and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    match present.map(decide) {
        Some(Some(value)) => file.write_all(value.to_string().as_bytes()),
        Some(None) => Ok(()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
