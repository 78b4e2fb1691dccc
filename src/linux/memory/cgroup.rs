//! The cgroup that holds firstmate's memory, as a directory.
//!
//! /proc/PID/cgroup gives a path within a hierarchy, /proc/PID/mountinfo where which part of that hierarchy is mounted. The two are
//! joined by the mount's root: the directory is the mount point and what the path has beyond that root. They must never be strung
//! together: Docker on cgroup v1 bind-mounts `/docker/ID` of the hierarchy, and the path is `/docker/ID` as well, so the directory is
//! the mount point itself. Sources: proc_pid_mountinfo(5), cgroups(7), cgroup_namespaces(7), and the kernel's
//! Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
//!
//! Which hierarchy: the memory controller is in exactly one. A v1 line of /proc/PID/cgroup that names `memory` says it is that
//! one; otherwise it can only be the unified one (`0::`). That holds for hybrid setups, too.
//!
//! With a cgroup namespace both paths are relative to its root, and what lies above begins with `/..`. A mount that was made outside
//! the namespace (`-v /sys/fs/cgroup:/sys/fs/cgroup`) has a root such as `/../..`: the names of the directories in between are told
//! nowhere, so they are looked for: the one, at the depth that is known, which lists our process.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::delegated::LEAF;
use super::mountinfo::{self, Mount};

/// More of a file of /proc is not read.
const TEXT_MAX: u64 = 16 << 20;
/// As many directories are looked into, at most, when the names of ours are not told.
const SEARCH_MAX: u32 = 4096;
/// There is no limit from here on. cgroup v1 says "none" with a number close to 2^63.
pub(super) const NO_LIMIT: u64 = 1 << 62;

/// Whose files are read. A test, or one container looking into another, may look elsewhere than its own /proc and /sys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    root: PathBuf,
    process: String,
    pid: u32,
}

impl Default for Files {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), process: "self".to_owned(), pid: std::process::id() }
    }
}

impl Files {
    /// The files below `root`, and the process `process` of its /proc, which is listed as `pid` in cgroup.procs.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, process: impl Into<String>, pid: u32) -> Self {
        Self { root: root.into(), process: process.into(), pid }
    }

    /// Where a file of the whole machine is.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file of the process, whole.
    pub(super) fn of_process(&self, name: &str) -> io::Result<Vec<u8>> {
        self.read(Path::new("/proc").join(&self.process).join(name))
    }

    pub(in crate::linux) fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        std::fs::File::open(self.at(path))?.take(TEXT_MAX).read_to_end(&mut text)?;
        Ok(text)
    }

    /// One number, as a file of a cgroup has it. `None` for `max`, too.
    pub(in crate::linux) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        std::str::from_utf8(self.read(path).ok()?.trim_ascii()).ok()?.parse().ok()
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        std::fs::exists(self.at(path)).unwrap_or(false)
    }
}

/// Which kind of hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A cgroup that accounts for firstmate's memory, and what is visible above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    pub(super) version: Version,
    /// Mount point of its hierarchy.
    point: PathBuf,
    /// Its directory, at or below `point`.
    pub(super) own: PathBuf,
    /// All processes of the machine are in it or below it: it is the root of the whole hierarchy, not of a namespace.
    pub(super) everything: bool,
}

/// A limit, and the directory of the cgroup that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tightest {
    pub(super) bytes: u64,
    /// Our own cgroup where the one that has the limit is not visible.
    pub(super) place: PathBuf,
}

impl Cgroup {
    /// Finds it. `None` when no hierarchy with the memory controller is mounted where we can see our part of it. Ours is the one that
    /// many levels above the one we are in.
    pub(super) fn locate(files: &Files, memberships: &[u8], above: usize) -> Option<Self> {
        let mounts = mountinfo::parse(&files.of_process("mountinfo").ok()?);
        let (version, path) = membership(memberships)?;
        let path = Within::parse(path)?;
        // Of several mounts at one place only the last is seen.
        let seen: BTreeMap<&Path, &Mount> = mounts.iter().map(|mount| (mount.point.as_path(), mount)).collect();
        seen.into_values()
            .filter(|mount| version.is_mounted_as(mount))
            .filter_map(|mount| Self::joined(files, version, mount, &path, above))
            // The one that shows the most above us; of several the first by name, so that it is the same at each look.
            .reduce(|best, other| if other.depth() > best.depth() { other } else { best })
    }

    fn joined(files: &Files, version: Version, mount: &Mount, path: &Within<'_>, above: usize) -> Option<Self> {
        let within = match Within::parse(&mount.root).and_then(|root| path.below(&root)) {
            Some(Below { unnamed: 0, names }) => join(&mount.point, &names),
            Some(Below { unnamed, names }) => {
                let mut left = SEARCH_MAX;
                search(files, &mount.point, unnamed, &names, &mut left)?
            }
            // The two texts do not fit together, but the kernel may still say that this is where we are.
            None => lists_us(files, &mount.point).then(|| mount.point.clone())?,
        };
        let own = within.ancestors().take_while(|level| level.starts_with(&mount.point)).take(above.saturating_add(1)).last()?;
        let mut cgroup = Self { version, point: mount.point.clone(), own: own.to_path_buf(), everything: false };
        match version {
            Version::V1 => files.exists(cgroup.own.join("memory.stat")).then_some(cgroup),
            Version::V2 => {
                // Where the controller is not enabled, the next one above accounts for the memory.
                let accounts = |level: &&Path| files.exists(level.join("memory.current"));
                let found = cgroup.levels().find(accounts).map(Path::to_path_buf);
                if let Some(own) = found {
                    // The part that firstmate has made for itself is not all there is of it.
                    let whole = own.parent().filter(|above| own.ends_with(LEAF) && above.starts_with(&cgroup.point));
                    let own = whole.map(Path::to_path_buf).unwrap_or(own);
                    return Some(Self { own, ..cgroup });
                }
                // The root of the whole hierarchy has neither memory.current nor cgroup.events; that of a namespace has both.
                cgroup.everything = cgroup.own == cgroup.point
                    && files.exists(cgroup.own.join("cgroup.procs"))
                    && !files.exists(cgroup.own.join("cgroup.events"));
                cgroup.everything.then_some(cgroup)
            }
        }
    }

    /// Whether our process is in that very cgroup, and not in one below it that has no memory controller.
    pub(super) fn holds_us(&self, files: &Files) -> bool {
        lists_us(files, &self.own) || lists_us(files, &self.own.join(LEAF))
    }

    /// Its directory and those above it, up to the mount point.
    fn levels(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|level| level.starts_with(&self.point))
    }

    fn depth(&self) -> usize {
        self.levels().count()
    }

    /// The limit that the kernel enforces, as far as it can be seen. More than `total`, the memory of the machine, is none.
    ///
    /// Of several equal ones the outermost counts: it holds at least as much.
    pub(super) fn tightest(&self, files: &Files, total: u64) -> Option<Tightest> {
        let sane = |bytes: &u64| (1..NO_LIMIT).contains(bytes) && *bytes <= total;
        let lowest = |name: &str, levels: &mut dyn Iterator<Item = &Path>| {
            levels
                .filter_map(|level| Some((files.number(level.join(name)).filter(sane)?, level)))
                .reduce(|best, other| if other.0 <= best.0 { other } else { best })
                .map(|(bytes, level)| Tightest { bytes, place: level.to_path_buf() })
        };
        match self.version {
            Version::V2 => lowest("memory.max", &mut self.levels()),
            Version::V1 => {
                let visible = lowest("memory.limit_in_bytes", &mut self.hierarchical(files));
                // It knows of ancestors that are not visible here.
                let stat = files.read(self.own.join("memory.stat")).ok()?;
                match value(&stat, b"hierarchical_memory_limit").filter(sane) {
                    Some(bytes) if visible.as_ref().is_none_or(|visible| bytes < visible.bytes) => {
                        Some(Tightest { bytes, place: self.own.clone() })
                    }
                    Some(_) | None => visible,
                }
            }
        }
    }

    /// The levels whose limits hold for us: before Linux 5.11, v1 ended that at a cgroup without `use_hierarchy`.
    fn hierarchical(&self, files: &Files) -> impl Iterator<Item = &Path> {
        let holds = |level: &Path| *level == self.own || files.number(level.join("memory.use_hierarchy")) != Some(0);
        let mut levels = self.levels();
        std::iter::from_fn(move || levels.next().filter(|level| holds(level))).fuse()
    }

    /// Whether the kernel kills the whole cgroup of a victim, PID 1 included, as far as it can be seen; `None` when that cannot be read.
    ///
    /// memory.oom.group of the victim's cgroup and those above it counts; cgroup v1 has no such thing.
    pub(super) fn oom_group(&self, files: &Files) -> Option<bool> {
        match self.version {
            Version::V1 => Some(false),
            Version::V2 if self.everything => Some(false),
            Version::V2 => {
                let told = self.levels().filter_map(|level| files.number(level.join("memory.oom.group")));
                told.map(|number| number != 0).reduce(|one, other| one || other)
            }
        }
    }
}

impl Version {
    fn is_mounted_as(self, mount: &Mount) -> bool {
        match self {
            Self::V1 => mount.kind == b"cgroup" && mount.has_super_option(b"memory"),
            Self::V2 => mount.kind == b"cgroup2",
        }
    }
}

/// Whether the memory controller can only be that of v2, and v2 is mounted.
pub(super) fn is_unified(files: &Files, memberships: &[u8]) -> bool {
    let mounted = |mounts: &[Mount]| mounts.iter().any(|mount| Version::V2.is_mounted_as(mount));
    membership(memberships).is_some_and(|(version, _)| version == Version::V2)
        && files.of_process("mountinfo").is_ok_and(|text| mounted(&mountinfo::parse(&text)))
}

/// The value of `key` in a text of lines `key value`.
pub(in crate::linux) fn value(text: &[u8], key: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| number(line.strip_prefix(key)?.strip_prefix(b" ")?))
}

/// Decimal digits and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digit = |value: u64, byte: &u8| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte.saturating_sub(b'0'))),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// The directory of the cgroup firstmate is in, in the hierarchy that has this controller, and those visible above it. The part that
/// firstmate has made for itself is passed over.
pub(in crate::linux) fn levels_of(files: &Files, controller: &[u8]) -> Vec<PathBuf> {
    let found = || {
        let memberships = files.of_process("cgroup").ok()?;
        let (version, path) = membership_in(&memberships, controller)?;
        let path = Within::parse(path)?;
        let mounts = mountinfo::parse(&files.of_process("mountinfo").ok()?);
        let fits = |mount: &&Mount| match version {
            Version::V1 => mount.kind == b"cgroup" && mount.has_super_option(controller),
            Version::V2 => mount.kind == b"cgroup2",
        };
        mounts.iter().filter(fits).find_map(|mount| {
            let own = match Within::parse(&mount.root).and_then(|root| path.below(&root)) {
                Some(Below { unnamed: 0, names }) => join(&mount.point, &names),
                Some(Below { unnamed, names }) => {
                    let mut left = SEARCH_MAX;
                    search(files, &mount.point, unnamed, &names, &mut left)?
                }
                None => lists_us(files, &mount.point).then(|| mount.point.clone())?,
            };
            let own = own.parent().filter(|_| own.ends_with(LEAF)).map_or(own.as_path(), |above| above);
            Some(own.ancestors().take_while(|level| level.starts_with(&mount.point)).map(Path::to_path_buf).collect())
        })
    };
    found().unwrap_or_default()
}

/// Which hierarchy has the memory controller, and our path in it.
fn membership(text: &[u8]) -> Option<(Version, &[u8])> {
    membership_in(text, b"memory")
}

/// Which hierarchy has a controller, and our path in it; see cgroups(7), /proc/pid/cgroup.
fn membership_in<'a>(text: &'a [u8], wanted: &[u8]) -> Option<(Version, &'a [u8])> {
    let mut unified = None;
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if controllers.split(|&byte| byte == b',').any(|controller| controller == wanted) {
            return Some((Version::V1, path));
        }
        if id == b"0" && controllers.is_empty() {
            unified = Some((Version::V2, path));
        }
    }
    unified
}

/// A path relative to the root of the cgroup namespace: so many levels up, then down by these names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Within<'a> {
    up: usize,
    names: Vec<&'a [u8]>,
}

/// What a path has beyond another: directories whose names are not known, then these.
#[derive(Debug, PartialEq, Eq)]
struct Below<'a> {
    unnamed: usize,
    names: Vec<&'a [u8]>,
}

impl<'a> Within<'a> {
    fn parse(path: &'a [u8]) -> Option<Self> {
        let mut parts = path.strip_prefix(b"/")?.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).peekable();
        let mut up = 0_usize;
        while parts.next_if_eq(&&b".."[..]).is_some() {
            up = up.saturating_add(1);
        }
        let names: Vec<&[u8]> = parts.collect();
        // The kernel goes up only at the beginning.
        (!names.iter().any(|name| matches!(*name, b"." | b".."))).then_some(Self { up, names })
    }

    /// `None` when `self` is not at or below `root`.
    fn below(&self, root: &Self) -> Option<Below<'a>> {
        let unnamed = root.up.checked_sub(self.up)?;
        if unnamed == 0 {
            return Some(Below { unnamed, names: self.names.strip_prefix(root.names.as_slice())?.to_vec() });
        }
        // Further up than we are, and down again by another branch.
        root.names.is_empty().then(|| Below { unnamed, names: self.names.clone() })
    }
}

fn join(directory: &Path, names: &[&[u8]]) -> PathBuf {
    names.iter().fold(directory.to_path_buf(), |path, name| path.join(std::ffi::OsStr::from_bytes(name)))
}

/// The directory that lists us: `unnamed` levels below `directory`, and by `names` from there.
fn search(files: &Files, directory: &Path, unnamed: usize, names: &[&[u8]], left: &mut u32) -> Option<PathBuf> {
    *left = left.checked_sub(1)?;
    let Some(unnamed) = unnamed.checked_sub(1) else {
        let candidate = join(directory, names);
        return lists_us(files, &candidate).then_some(candidate);
    };
    let found = std::fs::read_dir(files.at(directory)).ok()?.flatten().try_for_each(|entry| {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return ControlFlow::Continue(());
        }
        match search(files, &directory.join(entry.file_name()), unnamed, names, left) {
            Some(found) => ControlFlow::Break(Some(found)),
            None if *left == 0 => ControlFlow::Break(None),
            None => ControlFlow::Continue(()),
        }
    });
    match found {
        ControlFlow::Break(found) => found,
        ControlFlow::Continue(()) => None,
    }
}

/// Whether our process is in that very cgroup.
fn lists_us(files: &Files, directory: &Path) -> bool {
    let Ok(text) = files.read(directory.join("cgroup.procs")) else { return false };
    text.split(|&byte| byte == b'\n').any(|line| number(line) == Some(u64::from(files.pid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_memory_controller_is_in_one_hierarchy() {
        assert_eq!(membership(b"0::/a\n"), Some((Version::V2, &b"/a"[..])));
        assert_eq!(membership(b"0::/a\n5:cpu,memory:/b:c\n1:name=systemd:/d"), Some((Version::V1, &b"/b:c"[..])));
        assert_eq!(membership(b"1:name=memory:/x\n2:cpuset:/y\n"), None, "a name is no controller");
        assert_eq!(membership(b"3:hugememory:/x\n0::/y"), Some((Version::V2, &b"/y"[..])));
        assert_eq!(membership(b""), None);
    }

    #[test]
    fn what_a_path_has_beyond_a_root() {
        let below = |path: &str, root: &str| {
            let (path, root) = (Within::parse(path.as_bytes()).unwrap(), Within::parse(root.as_bytes()).unwrap());
            let found = path.below(&root)?;
            let names: Vec<_> = found.names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            Some((found.unnamed, names.join("/")))
        };
        let some = |unnamed, names: &str| Some((unnamed, names.to_owned()));
        assert_eq!(below("/docker/a", "/docker/a"), some(0, ""));
        assert_eq!(below("/docker/a/b", "/docker/a"), some(0, "b"));
        assert_eq!(below("/docker/ab", "/docker/a"), None, "names are whole");
        assert_eq!(below("/", "/docker/a"), None);
        assert_eq!(below("/a", "/"), some(0, "a"));
        assert_eq!(below("/", "/.."), some(1, ""));
        assert_eq!(below("/b", "/../.."), some(2, "b"));
        assert_eq!(below("/../x/y", "/../x"), some(0, "y"));
        assert_eq!(below("/../x", "/../.."), some(1, "x"));
        assert_eq!(below("/../x", "/"), None, "above the mount");
        assert_eq!(below("/b", "/../x"), None, "beside the mount");
    }

    #[test]
    fn paths_the_kernel_would_not_write_are_refused() {
        for path in ["", "a", "/a/../b", "/a/./b", "/../a/.."] {
            assert_eq!(Within::parse(path.as_bytes()), None, "{path}");
        }
        assert_eq!(Within::parse(b"//a//b/"), Within::parse(b"/a/b"));
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in ["", "18446744073709551616", "-1", "+1", "1 ", "max", "0x1"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(value(b"oom 1\noom_kill 7\noom_kill_disable 3\n", b"oom_kill"), Some(7));
        assert_eq!(value(b"oom_kill\noom_kill x\n", b"oom_kill"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text: Vec<u8>, other: Vec<u8>) {
            let _ = membership(&text);
            let _ = value(&text, &other);
            if let (Some(path), Some(root)) = (Within::parse(&text), Within::parse(&other)) {
                let _ = path.below(&root);
            }
        }

        #[test]
        fn what_is_below_leads_back(root in "(/\\.\\.){0,2}(/[ab]){0,3}", more in "(/[abc]){0,3}") {
            let path = format!("/{root}{more}");
            let root = format!("/{root}");
            let (path, root) = (Within::parse(path.as_bytes()).unwrap(), Within::parse(root.as_bytes()).unwrap());
            let below = path.below(&root).unwrap();
            prop_assert_eq!(below.unnamed, 0);
            prop_assert_eq!(join(Path::new(""), &below.names), Path::new(more.trim_start_matches('/')));
        }
    }
}
