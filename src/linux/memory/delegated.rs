//! A cgroup for each run, where cgroup v2 is writable and it was asked for (`[memory] cgroups = true`).
//!
//! What it brings: a run's memory is known exactly and for the price of two small reads, whatever the user its processes run as; an OOM kill is known to be
//! this run's; growth can be slowed down while a program handles SIGTERM ([`Cgroups::brake`]); and SIGKILL reaches processes that have
//! hidden from everything else ([`Cgroups::kill`]).
//!
//! How it is laid out: a cgroup that hands a controller down may not hold processes itself ("no internal processes", see the kernel's
//! Documentation/admin-guide/cgroup-v2.rst). So firstmate, and whatever else it finds in its own cgroup, moves into one below it,
//! `firstmate.0`, and each run into one beside that, which has the instance's name. Nothing outside of its own cgroup is touched, and no process in it
//! is but moved. Only the root of the whole hierarchy may hold processes beside controllers; there nothing is moved.
//!
//! It is an accelerator and never a requirement: most containers have their cgroup read-only. What is refused is told once, as a
//! [`Refusal`], and everything works without.
//!
//! memory.oom.group of the container is switched off: Kubernetes sets it, and then the kernel answers one leaking service by
//! killing all of the container, firstmate included, which could have dealt with the death of one. It is left off for the runs,
//! too: the child that writes Redis's snapshot may be killed alone, and a program that notices the death of its worker goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cgroup::{self, Cgroup, Files, Version, number, value};
use crate::engine::RunId;

/// Where firstmate is, and what it found beside it. No instance has the number 0, so no run's cgroup is named like it.
pub(super) const LEAF: &str = "firstmate.0";

/// How often the processes found are moved, since each may have forked in the meantime.
const ROUNDS: usize = 32;

/// How many names are tried for a run whose own is taken by a cgroup that cannot be removed.
const NAMES: u32 = 9;

/// Cgroups within a run's that are looked into: it may have made some itself.
const DEPTH: usize = 8;

/// memory.high is set so far above what a run holds, in bytes: a little for handling its signal, and enough for what it takes between the
/// look and the write. Below the present usage the write would wait until the kernel has tried to reclaim the difference.
const BRAKE_SLACK: u64 = 2 << 20;

/// Who has been chosen by the OOM killer is dead after this: a gigabyte is given back in some 100 ms.
const DYING: Duration = Duration::from_secs(4);

/// memory.stat has about 1.5 kB in Linux 6.1 and 2 kB in 6.18, and what is read of it comes early.
const STAT_MAX: usize = 4096;

/// Why there is no cgroup for each run, and how to get one; whoever shows it says what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// cgroup v2 is not mounted, or does not have the memory controller: v1 has it.
    NotUnified,
    /// The memory controller is not handed down to firstmate's own cgroup, but as far as this one above it; `None` when it ends out of sight.
    NoController(Option<PathBuf>),
    /// It is mounted read-only: what container runtimes do unless told otherwise.
    ReadOnly(PathBuf),
    /// It belongs to another user.
    Denied(PathBuf),
    /// Processes that cannot be moved are in it: they are of outside the container.
    Busy(PathBuf),
    /// Anything else.
    Failed {
        /// What could not be done.
        doing: &'static str,
        /// To which directory or file.
        path: PathBuf,
        /// The kernel's word for it.
        errno: i32,
    },
}

/// How to get a writable cgroup.
const WRITABLE: &str = "start the container with `--security-opt writable-cgroups=true` (Docker 28 or later) or `--security-opt unmask=/sys/fs/cgroup` \
     (podman), or set `cgroups = false` in [memory]";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnified => f.write_str(
                "cgroup v2 with the memory controller is not mounted here; boot the host with cgroup v2 alone \
                 (systemd.unified_cgroup_hierarchy=1), or set `cgroups = false` in [memory]",
            ),
            Self::NoController(ends) => {
                f.write_str("the memory controller is not handed down to firstmate's own cgroup")?;
                if let Some(ends) = ends {
                    write!(f, ", but only as far as {}", ends.display())?;
                }
                f.write_str("; let whatever made that cgroup hand it down (systemd: `Delegate=yes`), or set `cgroups = false` in [memory]")
            }
            Self::ReadOnly(path) => write!(f, "{} is read-only; {WRITABLE}", path.display()),
            Self::Denied(path) => write!(
                f,
                "{} belongs to another user; let it be handed down to firstmate's (systemd: `Delegate=yes`), run firstmate as root, or set \
                 `cgroups = false` in [memory]",
                path.display()
            ),
            Self::Busy(path) => write!(
                f,
                "processes from outside of the container are in {} and cannot be moved out of it; start the container with a PID namespace and a \
                 cgroup of its own, or set `cgroups = false` in [memory]",
                path.display()
            ),
            Self::Failed { doing, path, errno } => {
                let reason = io::Error::from_raw_os_error(*errno);
                write!(f, "{doing} {}: {reason}; set `cgroups = false` in [memory] if that is to be so", path.display())
            }
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    fn of(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EROFS) => Self::ReadOnly(path.to_owned()),
            Some(libc::EACCES | libc::EPERM) => Self::Denied(path.to_owned()),
            errno => Self::Failed { doing, path: path.to_owned(), errno: errno.unwrap_or(libc::EIO) },
        }
    }
}

/// Our part of the hierarchy, with a cgroup for each run that is alive.
#[derive(Debug)]
pub struct Cgroups {
    /// The container's.
    root: PathBuf,
    runs: BTreeMap<RunId, Leaf>,
    /// Of runs that are gone; the kernel did not remove them at the time.
    leftover: Vec<PathBuf>,
    oom_group: bool,
}

/// The cgroup of a run.
#[derive(Debug)]
struct Leaf {
    path: PathBuf,
    /// How many kills have been told of, or were counted too long ago to explain a death.
    oom_kills: u64,
    /// What the count was when it was last looked at, and since when.
    seen: (u64, Instant),
}

impl Cgroups {
    /// Moves firstmate and what is beside it into a cgroup of their own, and has the memory controller handed down. Cgroups that an earlier
    /// firstmate left are removed.
    ///
    /// Called once, before the first run. Waits for the kernel to move the processes: some milliseconds.
    ///
    /// # Errors
    /// What stands against it; then everything is as it was.
    pub fn set_up(files: &Files) -> Result<Self, Refusal> {
        let memberships = files.of_process("cgroup").map_err(|error| Refusal::of("reading", Path::new("/proc/self/cgroup"), &error))?;
        let Some(cgroup) = Cgroup::locate(files, &memberships, 0).filter(|cgroup| cgroup.version == Version::V2) else {
            let unified = cgroup::is_unified(files, &memberships);
            return Err(if unified { Refusal::NoController(None) } else { Refusal::NotUnified });
        };
        let root = files.at(&cgroup.own);
        let offers = |name: &str| {
            let listed = std::fs::read_to_string(root.join(name)).unwrap_or_default();
            move |controller: &str| listed.split_ascii_whitespace().any(|known| known == controller)
        };
        let offered = offers("cgroup.controllers");
        if !offered("memory") {
            return Err(Refusal::NotUnified);
        }
        // Where the controller ends above us, what was found is not where we are.
        if !cgroup.holds_us(files) {
            return Err(Refusal::NoController(Some(root)));
        }
        let cgroups = Self { root, runs: BTreeMap::new(), leftover: Vec::new(), oom_group: false };
        let leaf = cgroups.root.join(LEAF);
        let mut second_life = false;
        if !cgroup.everything {
            match std::fs::create_dir(&leaf) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => second_life = true,
                Err(error) => return Err(Refusal::of("making a cgroup in", &cgroups.root, &error)),
            }
        }
        let handed_down = cgroups.hand_down(cgroup.everything);
        if let Err(refusal) = handed_down {
            // As it was. What cannot be undone does no harm: a cgroup that has no limit of its own.
            let _ = cgroups.empty(&leaf, &cgroups.root);
            let _ = std::fs::remove_dir(&leaf);
            return Err(refusal);
        }
        if offered("pids") {
            // Not needed for anything here, and of use to whoever looks.
            let _ = cgroups.write("cgroup.subtree_control", "+pids");
        }
        let oom_group = read_number(&cgroups.root.join("memory.oom.group")) == Some(1) && cgroups.write("memory.oom.group", "0").is_ok();
        if second_life {
            cgroups.sweep();
        }
        Ok(Self { oom_group, ..cgroups })
    }

    /// Whether memory.oom.group of the container was on, and is now off: one line in the log.
    #[must_use]
    pub fn oom_group_switched_off(&self) -> bool {
        self.oom_group
    }

    /// The container's cgroup, which holds all others.
    #[must_use]
    pub fn container(&self) -> &Path {
        &self.root
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write(&self.root.join(name), text)
    }

    fn hand_down(&self, everything: bool) -> Result<(), Refusal> {
        let file = self.root.join("cgroup.subtree_control");
        for _ in 0..ROUNDS {
            if !everything {
                self.empty(&self.root, &self.root.join(LEAF))?;
            }
            match self.write("cgroup.subtree_control", "+memory") {
                Ok(()) => return Ok(()),
                // Somebody has come, or forked, in between.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(Refusal::of("writing to", &file, &error)),
            }
        }
        Err(Refusal::Busy(self.root.clone()))
    }

    /// Moves all processes of one cgroup into another.
    fn empty(&self, from: &Path, to: &Path) -> Result<(), Refusal> {
        let (source, target) = (from.join("cgroup.procs"), to.join("cgroup.procs"));
        for _ in 0..ROUNDS {
            let listed = std::fs::read_to_string(&source).map_err(|error| Refusal::of("reading", &source, &error))?;
            if listed.is_empty() {
                return Ok(());
            }
            let mut moved = false;
            // A process of a PID namespace above ours is listed as 0, and writing 0 would mean ourselves.
            for pid in listed.lines().filter(|pid| *pid != "0") {
                match write(&target, pid) {
                    Ok(()) => moved = true,
                    // Gone in the meantime.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => moved = true,
                    Err(error) => return Err(Refusal::of("moving processes into", to, &error)),
                }
            }
            if !moved {
                break;
            }
        }
        Err(Refusal::Busy(self.root.clone()))
    }

    /// Removes what an earlier firstmate left, as far as nobody is in it.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name != LEAF && is_runs(name)) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = remove(&entry.path(), DEPTH);
            }
        }
    }

    /// Makes the cgroup of a run. `instance` is its name, such as `web.1`.
    ///
    /// What is returned is its directory, for [`super::super::spawn::Request::cgroup`]: the child enters it before it executes its program. It
    /// can be closed after the fork.
    ///
    /// # Errors
    /// The kernel makes none; the run is to be started without.
    pub fn create(&mut self, run: RunId, instance: &str) -> Result<OwnedFd, Refusal> {
        self.leftover.retain(|path| remove(path, DEPTH).is_err());
        let mut refusal = Refusal::Busy(self.root.join(instance));
        for attempt in 1..=NAMES {
            // Beside an earlier run's that is not empty: none of its processes may be taken for one of this run.
            let name = if attempt == 1 { instance.to_owned() } else { format!("{instance}-{attempt}") };
            let path = self.root.join(name);
            if self.runs.values().any(|taken| taken.path == path) {
                continue;
            }
            let made = match std::fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match remove(&path, DEPTH) {
                    Ok(()) => std::fs::create_dir(&path),
                    Err(_) => continue,
                },
                made => made,
            };
            let opened = made.and_then(|()| {
                let directory = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(&path);
                directory.inspect_err(|_| drop(std::fs::remove_dir(&path)))
            });
            match opened {
                Ok(directory) => {
                    self.runs.insert(run, Leaf { path, oom_kills: 0, seen: (0, Instant::now()) });
                    return Ok(directory.into());
                }
                Err(error) => {
                    refusal = Refusal::of("making", &path, &error);
                    break;
                }
            }
        }
        Err(refusal)
    }

    /// Whether the run's main process is in the run's cgroup; `None` when it has none. To be asked once its program is running: a child that
    /// could not enter stays where firstmate is, and what its cgroup says would be untrue. Then the cgroup is removed, and the run has
    /// none.
    pub fn joined(&mut self, run: RunId, pid: u32) -> Option<bool> {
        let path = self.path(run)?;
        // Of a zombie it is told, too.
        let joined = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            let told = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            told.lines().filter_map(|line| line.strip_prefix("0::")).any(|own| own.rsplit('/').next() == Some(name))
        });
        if !joined {
            self.remove(run);
        }
        Some(joined)
    }

    /// What the run holds, in bytes: all that is charged to its cgroup, and swapped out of it, less page cache on the file lists and
    /// reclaimable slab; and less what is in tmpfs and none of its processes maps (`mapped` bytes they do): that outlives it.
    /// `None` when it has no cgroup, or the kernel does not say.
    #[must_use]
    pub fn usage(&self, run: RunId, mapped: u64) -> Option<u64> {
        let path = self.path(run)?;
        let current = read_number(&path.join("memory.current"))?;
        // Without swap there is no such file.
        let swap = read_number(&path.join("memory.swap.current")).unwrap_or(0);
        let mut buffer = [0; STAT_MAX];
        let stat = read(&path.join("memory.stat"), &mut buffer)?;
        let given_back = [&b"inactive_file"[..], b"active_file", b"slab_reclaimable"].map(|key| value(stat, key));
        let [Some(inactive), Some(active), Some(slab)] = given_back else { return None };
        let left_behind = value(stat, b"shmem").unwrap_or(0).saturating_sub(mapped);
        // Before Linux 5.12 not told: then what is read back from swap and still has its place there counts twice.
        let twice = value(stat, b"swapcached").unwrap_or(0);
        let charged = current.saturating_add(swap).saturating_sub(twice);
        Some(charged.saturating_sub(inactive).saturating_sub(active).saturating_sub(slab).saturating_sub(left_behind))
    }

    /// How many of the run's processes the kernel's OOM killer has killed, whichever limit was reached. Counted before the signal is sent, so it is
    /// known when the death is seen.
    #[must_use]
    pub fn oom_kills(&self, run: RunId) -> Option<u64> {
        let mut buffer = [0; STAT_MAX];
        value(read(&self.path(run)?.join("memory.events"), &mut buffer)?, b"oom_kill")
    }

    /// How many of them since this was last asked.
    pub fn new_oom_kills(&mut self, run: RunId) -> Option<u64> {
        let now = self.oom_kills(run)?;
        let leaf = self.runs.get_mut(&run)?;
        Some(now.saturating_sub(std::mem::replace(&mut leaf.oom_kills, now)))
    }

    /// Takes what was counted some seconds ago as told, in every run: it was one of the run's other processes, and does not explain a later
    /// death. To be called every few seconds.
    pub fn forget_oom_kills(&mut self, now: Instant) {
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        for run in runs {
            if let Some(count) = self.oom_kills(run)
                && let Some(leaf) = self.runs.get_mut(&run)
            {
                let (before, since) = leaf.seen;
                if count != before {
                    leaf.seen = (count, now);
                } else if now.saturating_duration_since(since) >= DYING {
                    leaf.oom_kills = count;
                }
            }
        }
    }

    fn path(&self, run: RunId) -> Option<&Path> {
        self.runs.get(&run).map(|leaf| leaf.path.as_path())
    }

    /// The run's processes, however they may have hidden.
    #[must_use]
    pub fn processes(&self, run: RunId) -> Vec<u32> {
        let mut pids = Vec::new();
        if let Some(path) = self.path(run) {
            list(path, DEPTH, &mut pids);
        }
        pids
    }

    /// Slows the run's growth down to next to nothing: whoever takes more than what it all holds now, and a little, is made to wait, for
    /// seconds where nothing can be reclaimed. It can still handle a signal, and end. Returns where the brake is, in bytes.
    pub fn brake(&self, run: RunId) -> Option<u64> {
        let path = self.path(run)?;
        let high = read_number(&path.join("memory.current"))?.saturating_add(BRAKE_SLACK);
        write(&path.join("memory.high"), &high.to_string()).ok().map(|()| high)
    }

    /// Lets go of the brake.
    pub fn release(&self, run: RunId) {
        if let Some(path) = self.path(run) {
            let _ = write(&path.join("memory.high"), "max");
        }
    }

    /// SIGKILL to all of the run at once, forks included. Returns false before Linux 5.14, where it is to be done one by one.
    #[must_use]
    pub fn kill(&self, run: RunId) -> bool {
        self.path(run).is_some_and(|path| write(&path.join("cgroup.kill"), "1").is_ok())
    }

    /// The run is gone. Whoever is left in its cgroup can only have hidden, and gets SIGKILL.
    pub fn remove(&mut self, run: RunId) {
        if let Some(Leaf { path, .. }) = self.runs.remove(&run)
            && remove(&path, DEPTH).is_err()
        {
            let _ = write(&path.join("cgroup.kill"), "1");
            self.leftover.push(path);
        }
    }
}

/// Whether this may be the name of a run's cgroup: an instance's, and what [`Cgroups::create`] adds to it.
fn is_runs(name: &str) -> bool {
    let Some((service, number)) = name.rsplit_once('.') else { return false };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    word(service) && number.splitn(2, '-').all(digits)
}

/// Removes a cgroup and those below it, which is possible once nobody is in them.
fn remove(path: &Path, depth: usize) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => return done,
    }
    // Processes are in it, or cgroups that the run has made.
    let depth = depth.checked_sub(1).ok_or(io::ErrorKind::ResourceBusy)?;
    for below in below(path) {
        remove(&below, depth)?;
    }
    std::fs::remove_dir(path)
}

fn below(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).ok();
    let directories = |entry: io::Result<std::fs::DirEntry>| entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.into_iter().flatten().filter_map(directories).map(|entry| entry.path())
}

fn list(path: &Path, depth: usize, pids: &mut Vec<u32>) {
    let listed = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|pid| pid.parse::<u32>().ok()).filter(|pid| *pid != 0));
    if let Some(depth) = depth.checked_sub(1) {
        below(path).for_each(|below| list(&below, depth, pids));
    }
}

/// Nothing is created. Since Linux 6.17 a limit that is opened so does not wait until the usage has been brought below it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)?.write_all(text.as_bytes())
}

/// The beginning of a file.
fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = File::open(path).ok()?.read(buffer).ok()?;
    buffer.get(..length)
}

fn read_number(path: &Path) -> Option<u64> {
    let mut buffer = [0; 32];
    number(read(path, &mut buffer)?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_firstmate_may_have_made_is_swept() {
        for name in ["web.1", "php-fpm.12", "a_b.1-2", "1.1"] {
            assert!(is_runs(name), "{name}");
        }
        for name in ["web", "web.", ".1", "web.x", "system.slice", "web.1-", "web.1-x", "a b.1", "docker-1.scope", "init.scope"] {
            assert!(!is_runs(name), "{name}");
        }
    }
}
