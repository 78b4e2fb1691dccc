//! What the container uses: a few small files, kept open and read anew at each look, without allocation.
//!
//! What is counted, for the cgroup whose limit is in force:
//!
//! | | v1 | v2 |
//! |---|---|---|
//! | usage | memory.memsw.usage_in_bytes (memory and swap), else memory.usage_in_bytes | memory.current + memory.swap.current |
//! | page cache | total_inactive_file, total_active_file | inactive_file, active_file |
//! | reclaimable slab | not shown | slab_reclaimable |
//! | in swap and in memory | not counted twice | swapcached |
//!
//! hard = usage - page cache - reclaimable slab - what is counted twice. What is swapped out counts as used. Plain usage is never less
//! than hard, so it answers alone as long as it is low enough. Sources: Documentation/admin-guide/cgroup-v1/memory.rst (sections 2.1, 5.2, 5.5),
//! cgroup-v2.rst ("Memory Interface Files"), Documentation/filesystems/proc.rst (MemAvailable).
//!
//! Errors of these numbers: usage includes what each processor has charged ahead, at most 64 pages; memory.stat may lag by 64 pages for
//! each processor; some pages of each processor are not on any list yet; and usage is read a few microseconds before the rest.
//!
//! Without a cgroup that has a limit it is the machine: hard = MemTotal - MemAvailable.
//!
//! Cgroup files are made up by the kernel at each read and never wait for a disk. /proc/meminfo is so, too, unless LXCFS stands in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::engine::memory::{Parts, Reading};

use super::cgroup::{Cgroup, Files, Version, number, value};

/// The longest of these texts, /proc/vmstat, has about 5 kB; memory.stat half of it.
const BUFFER: usize = 8192;

/// Whose memory counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// The cgroup in this directory.
    Cgroup(Version, PathBuf),
    Machine,
}

/// The open files.
#[derive(Debug)]
pub struct Counters {
    usage: io::Result<Usage>,
    own: Option<Own>,
    /// Where the kernel counts its kills, and the file if it could be opened.
    oom: Option<(PathBuf, io::Result<File>)>,
    /// `oom_kill` when it was last read.
    oom_last: Option<u64>,
    /// OOM kills since the first time.
    oom_kills: u64,
    /// The last read failed.
    failed: bool,
    text: Box<[u8; BUFFER]>,
}

#[derive(Debug)]
enum Usage {
    Cgroup(Group),
    /// /proc/meminfo.
    Machine(File),
}

/// Our own cgroup.
#[derive(Debug)]
enum Own {
    /// It is the one whose usage counts.
    Same,
    Other(Group),
}

#[derive(Debug)]
struct Group {
    version: Version,
    usage: File,
    /// Where `usage` is without it.
    swap: Option<File>,
    stat: File,
}

impl Counters {
    /// Nothing is open; every read fails.
    pub(super) fn closed() -> Self {
        Self {
            usage: Err(io::ErrorKind::NotConnected.into()),
            own: None,
            oom: None,
            oom_last: None,
            oom_kills: 0,
            failed: true,
            text: Box::new([0; BUFFER]),
        }
    }

    /// Opens what is to be read from now on. What cannot be opened is an error at each read.
    pub(super) fn reopen(&mut self, files: &Files, whose: &Whose, own: Option<&Cgroup>) {
        // What was killed in the old cgroup since the last look is not to be forgotten.
        let _ = self.oom_kills();
        self.usage = match whose {
            Whose::Machine => File::open(files.at("/proc/meminfo")).map(Usage::Machine),
            Whose::Cgroup(version, directory) => Group::open(files, *version, directory).map(Usage::Cgroup),
        };
        self.own = own.and_then(|own| match whose {
            Whose::Cgroup(_, directory) if *directory == own.own => Some(Own::Same),
            Whose::Cgroup(..) | Whose::Machine => Group::open(files, own.version, &own.own).ok().map(Own::Other),
        });
        let oom = own.map(oom_file).map(|path| (files.at(&path), path)).map(|(at, path)| (path, File::open(at)));
        if oom.as_ref().map(|(path, _)| path) != self.oom.as_ref().map(|(path, _)| path) {
            self.oom_last = None;
        }
        self.oom = oom;
        let _ = self.oom_kills();
        self.failed = self.usage.is_err();
    }

    /// Whether the files should be opened anew: the last read failed, as it does when a cgroup was removed.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Looks. What memory consists of is read only when its usage is above `stat_above` bytes. Takes some microseconds and allocates nothing.
    ///
    /// # Errors
    /// When a file cannot be read, such as ENODEV for that of a cgroup that was removed, or is not what it should be (`InvalidData`).
    pub fn read(&mut self, stat_above: u64) -> io::Result<Reading> {
        let reading = self.look(stat_above);
        self.failed = reading.is_err();
        reading
    }

    fn look(&mut self, stat_above: u64) -> io::Result<Reading> {
        let text = self.text.as_mut_slice();
        let usage = match &self.usage {
            Ok(usage) => usage,
            Err(error) => return Err(again(error)),
        };
        let (hard, parts) = match usage {
            Usage::Cgroup(group) => {
                let swap = group.swapped(text)?;
                let used = group.used(text)?.saturating_add(swap);
                if used <= stat_above {
                    return Ok(Reading { hard: used, parts: None });
                }
                let stat = group.stat(text)?;
                (stat.hard(used), stat.parts(swap))
            }
            Usage::Machine(meminfo) => {
                let text = read(meminfo, text)?;
                let total = kilobytes(text, b"MemTotal:").ok_or(io::ErrorKind::InvalidData)?;
                // Linux has it since 3.14.
                let available = kilobytes(text, b"MemAvailable:").ok_or(io::ErrorKind::InvalidData)?;
                let hard = total.saturating_sub(available);
                if hard <= stat_above {
                    return Ok(Reading { hard, parts: None });
                }
                (hard, None)
            }
        };
        let parts = match &self.own {
            None => None,
            Some(Own::Same) => parts,
            Some(Own::Other(own)) => own.parts(text),
        };
        Ok(Reading { hard, parts })
    }

    /// How many processes of firstmate's own cgroup the kernel's OOM killer has killed since these counters were first opened, whatever
    /// cgroup firstmate was in. On v2 and in the root of a hierarchy those of the cgroups below it are among them. `None` when that
    /// cannot be read, as on Linux before 4.13. Allocates nothing.
    ///
    /// The kernel counts a kill before it sends the signal, so at the time a death is seen it has been counted.
    pub fn oom_kills(&mut self) -> Option<u64> {
        let (_, Ok(file)) = self.oom.as_ref()? else { return None };
        let now = value(read(file, self.text.as_mut_slice()).ok()?, b"oom_kill")?;
        let before = self.oom_last.replace(now).unwrap_or(now);
        self.oom_kills = self.oom_kills.saturating_add(now.saturating_sub(before));
        Some(self.oom_kills)
    }
}

/// Where the kernel counts its kills. The root of a v2 hierarchy has no memory.events, but all there are on the machine are below it.
fn oom_file(own: &Cgroup) -> PathBuf {
    match own.version {
        Version::V1 => own.own.join("memory.oom_control"),
        Version::V2 if own.everything => PathBuf::from("/proc/vmstat"),
        Version::V2 => own.own.join("memory.events"),
    }
}

impl Group {
    fn open(files: &Files, version: Version, directory: &Path) -> io::Result<Self> {
        let open = |name: &str| File::open(files.at(directory.join(name)));
        let (usage, swap) = match version {
            // Absent where swap is not accounted for.
            Version::V1 => (open("memory.memsw.usage_in_bytes").or_else(|_| open("memory.usage_in_bytes"))?, None),
            Version::V2 => (open("memory.current")?, open("memory.swap.current").ok()),
        };
        Ok(Self { version, usage, swap, stat: open("memory.stat")? })
    }

    fn used(&self, text: &mut [u8]) -> io::Result<u64> {
        one_number(&self.usage, text)
    }

    fn swapped(&self, text: &mut [u8]) -> io::Result<u64> {
        self.swap.as_ref().map_or(Ok(0), |swap| one_number(swap, text))
    }

    fn stat(&self, text: &mut [u8]) -> io::Result<Stat> {
        let stat = Stat::parse(self.version, read(&self.stat, text)?);
        // Without these it is not the file it should be.
        if stat.file.is_some() { Ok(stat) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn parts(&self, text: &mut [u8]) -> Option<Parts> {
        let swap = self.swapped(text).ok()?;
        self.stat(text).ok()?.parts(swap)
    }
}

/// What memory.stat says, descendants included.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stat {
    anon: Option<u64>,
    shmem: Option<u64>,
    /// On the lists of the page cache.
    file: Option<u64>,
    /// On the anonymous lists, and unevictable.
    unreclaimable: Option<u64>,
    /// Only v1 has it here.
    swap: Option<u64>,
    swapcached: u64,
    slab_reclaimable: u64,
}

impl Stat {
    fn parse(version: Version, text: &[u8]) -> Self {
        let mut stat = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let key = match version {
                Version::V1 => match line.strip_prefix(b"total_") {
                    Some(key) => key,
                    None => continue,
                },
                Version::V2 => line,
            };
            let Some(blank) = key.iter().position(|&byte| byte == b' ') else { continue };
            let Some((key, value)) = key.split_at_checked(blank) else { continue };
            let add = |sum: &mut Option<u64>| {
                if let Some(value) = value.split_first().and_then(|(_, digits)| number(digits)) {
                    *sum = Some(sum.unwrap_or(0).saturating_add(value));
                }
            };
            let only = |there: &mut u64| {
                let mut sum = None;
                add(&mut sum);
                *there = sum.unwrap_or(0);
            };
            match (key, version) {
                (b"inactive_file" | b"active_file", _) => add(&mut stat.file),
                (b"inactive_anon" | b"active_anon" | b"unevictable", _) => add(&mut stat.unreclaimable),
                (b"rss", Version::V1) | (b"anon", Version::V2) => add(&mut stat.anon),
                (b"shmem", _) => add(&mut stat.shmem),
                (b"swap", Version::V1) => add(&mut stat.swap),
                (b"swapcached", Version::V2) => only(&mut stat.swapcached),
                (b"slab_reclaimable", Version::V2) => only(&mut stat.slab_reclaimable),
                (_, Version::V1 | Version::V2) => {}
            }
        }
        stat
    }

    /// `used` is usage and swap.
    fn hard(&self, used: u64) -> u64 {
        used.saturating_sub(self.file.unwrap_or(0)).saturating_sub(self.slab_reclaimable).saturating_sub(self.swapcached)
    }

    /// `swap` is what memory.swap.current says, on v2.
    fn parts(&self, swap: u64) -> Option<Parts> {
        Some(Parts {
            anon: self.anon?,
            shmem: self.shmem?,
            unreclaimable: self.unreclaimable?,
            swap: self.swap.unwrap_or_else(|| swap.saturating_sub(self.swapcached)),
        })
    }
}

/// The whole file, which is shorter than the buffer.
fn read<'a>(file: &File, text: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let read = file.read_at(text, 0)?;
    text.get(..read).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn one_number(file: &File, text: &mut [u8]) -> io::Result<u64> {
    number(read(file, text)?.trim_ascii()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A line of /proc/meminfo, in bytes.
fn kilobytes(text: &[u8], key: &[u8]) -> Option<u64> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    number(line.strip_suffix(b"kB")?.trim_ascii())?.checked_mul(1024)
}

/// All memory of the machine, in bytes.
pub(super) fn machine_total(files: &Files) -> Option<u64> {
    kilobytes(&files.read("/proc/meminfo").ok()?, b"MemTotal:")
}

/// The same error once more, without allocation.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V1: &str = "cache 1\nrss 2\nshmem 3\nswap 4\ninactive_anon 5\nhierarchical_memory_limit 268435456\ntotal_cache 900\ntotal_rss 100\n\
        total_rss_huge 0\ntotal_shmem 40\ntotal_swap 30\ntotal_swapcached 0\ntotal_inactive_anon 60\ntotal_active_anon 70\ntotal_inactive_file 500\n\
        total_active_file 300\ntotal_unevictable 8\n";
    const V2: &str = "anon 100\nfile 900\nkernel 50\nswapcached 5\nshmem 40\ninactive_anon 60\nactive_anon 70\ninactive_file 500\nactive_file 300\n\
        unevictable 8\nslab_reclaimable 20\nslab_unreclaimable 9\nslab 29\nworkingset_refault_file 7\n";

    #[test]
    fn v1_counts_descendants() {
        let stat = Stat::parse(Version::V1, V1.as_bytes());
        assert_eq!(stat.parts(0), Some(Parts { anon: 100, shmem: 40, unreclaimable: 138, swap: 30 }));
        assert_eq!(stat.hard(1000), 200);
    }

    #[test]
    fn v2_takes_swap_from_its_own_file_and_counts_nothing_twice() {
        let stat = Stat::parse(Version::V2, V2.as_bytes());
        assert_eq!(stat.parts(35), Some(Parts { anon: 100, shmem: 40, unreclaimable: 138, swap: 30 }));
        assert_eq!(stat.hard(1035), 1035 - 800 - 20 - 5);
    }

    #[test]
    fn nothing_is_less_than_nothing() {
        assert_eq!(Stat::parse(Version::V2, V2.as_bytes()).hard(100), 0);
        let full = format!("inactive_file {0}\nactive_file {0}\nanon {0}\nshmem {0}\ninactive_anon {0}\nactive_anon {0}\n", u64::MAX);
        let stat = Stat::parse(Version::V2, full.as_bytes());
        assert_eq!(stat.hard(5), 0);
        assert_eq!(stat.parts(7).map(|parts| parts.unreclaimable), Some(u64::MAX));
    }

    #[test]
    fn parts_that_are_not_told_are_absent() {
        for gone in ["anon 100", "shmem 40"] {
            let stat = Stat::parse(Version::V2, V2.replace(gone, "x").as_bytes());
            assert_eq!((stat.parts(0), stat.hard(1005)), (None, 180), "{gone}");
        }
    }

    #[test]
    fn meminfo_is_in_kilobytes() {
        let text = b"MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   23550824 kB\nHugePages_Total:       3\n";
        assert_eq!(kilobytes(text, b"MemTotal:"), Some(24_684_096 * 1024));
        assert_eq!(kilobytes(text, b"HugePages_Total:"), None, "a number of pages");
        assert_eq!(kilobytes(b"MemTotal: 18446744073709551615 kB", b"MemTotal:"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes: Vec<u8>, lines in "((total_)?(anon|rss|swap|inactive_file|swapcached|slab_reclaimable)? ?-?[0-9]{0,21}\n){0,9}", used: u64) {
            for text in [bytes.as_slice(), lines.as_bytes()] {
                for version in [Version::V1, Version::V2] {
                    let stat = Stat::parse(version, text);
                    prop_assert!(stat.hard(used) <= used);
                    let _ = stat.parts(used);
                }
                let _ = kilobytes(text, b"MemTotal:");
            }
        }
    }
}
