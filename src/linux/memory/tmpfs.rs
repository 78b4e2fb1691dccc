//! The tmpfs file systems that can be seen, and what they hold: memory that belongs to no process.
//!
//! Used are statfs(2)'s blocks that are not free. A tmpfs mounted without any limit (`size=0`) reports none, and ramfs never does.
//! A file system whose memory is another container's, such as a shared /dev/shm, cannot be told from one of ours.
//!
//! Never waits: the way to a mount point that leads through a network or FUSE file system is not gone, since looking up a name there
//! may wait for a server. Only kinds that are known to be local are passed through, and the root, without which nothing works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::cgroup::Files;
use super::mountinfo::{self, Mount};

/// Local, and so passed through on the way to a mount point.
const LOCAL: [&[u8]; 27] = [
    b"aufs",
    b"bcachefs",
    b"bpf",
    b"btrfs",
    b"cgroup",
    b"cgroup2",
    b"configfs",
    b"debugfs",
    b"devpts",
    b"devtmpfs",
    b"erofs",
    b"ext2",
    b"ext3",
    b"ext4",
    b"f2fs",
    b"hugetlbfs",
    b"mqueue",
    b"overlay",
    b"proc",
    b"ramfs",
    b"rootfs",
    b"securityfs",
    b"squashfs",
    b"sysfs",
    b"tmpfs",
    b"xfs",
    b"zfs",
];

/// Where they are mounted and how many bytes they hold, the fullest first. One that is mounted several times is told of once; empty ones are
/// left out.
#[must_use]
pub fn used(files: &Files) -> Vec<(String, u64)> {
    let Ok(text) = files.of_process("mountinfo") else { return Vec::new() };
    let mut found: Vec<(String, u64)> = candidates(&mountinfo::parse(&text))
        .filter_map(|mount| Some((super::limit::display(&mount.point), held(&files.at(&mount.point), mount.device)?)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    found.sort_by(|(place, bytes), (other_place, other_bytes)| (other_bytes, place).cmp(&(bytes, other_place)));
    found
}

/// Those to be asked, each file system once, by its shortest path.
fn candidates(mounts: &[Mount]) -> impl Iterator<Item = &Mount> {
    let by_id: BTreeMap<u64, &Mount> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    // Of several mounts at one place only the last is seen.
    let seen: BTreeMap<&Path, &Mount> = mounts.iter().map(|mount| (mount.point.as_path(), mount)).collect();
    let mut seen: Vec<&Mount> = seen.into_values().filter(|mount| is_tmpfs(mount) && is_reached_locally(mount, &by_id)).collect();
    seen.sort_by_key(|mount| mount.point.as_os_str().len());
    let mut told = BTreeSet::new();
    seen.into_iter().filter(move |mount| told.insert(mount.device))
}

fn is_tmpfs(mount: &Mount) -> bool {
    matches!(mount.kind.as_slice(), b"tmpfs" | b"devtmpfs")
}

fn is_reached_locally(mount: &Mount, by_id: &BTreeMap<u64, &Mount>) -> bool {
    let mut at = mount;
    // A parent has been mounted before its child, so there are no more of them than mounts; text that says otherwise ends here, too.
    for _ in 0..=by_id.len() {
        if at.point == Path::new("/") {
            return true;
        }
        if !LOCAL.contains(&at.kind.as_slice()) {
            return false;
        }
        match by_id.get(&at.parent) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    false
}

/// `None` when it is not what is seen there, or cannot be asked.
fn held(point: &PathBuf, device: (u32, u32)) -> Option<u64> {
    // O_PATH opens the place and not what is there.
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).open(point).ok()?;
    let seen = place.metadata().ok()?.dev();
    if (major(seen), minor(seen)) != (u64::from(device.0), u64::from(device.1)) {
        return None;
    }
    let stat = fstatfs(&place).ok()?;
    if stat.filesystem_type() != TMPFS_MAGIC {
        return None;
    }
    let block = u64::try_from(stat.block_size()).ok()?;
    Some(stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str) -> Vec<String> {
        let mounts = mountinfo::parse(text.as_bytes());
        candidates(&mounts).map(|mount| mount.point.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_file_system_is_asked_once_and_a_covered_mount_never() {
        let text = "1 0 0:1 / / rw - overlay o rw\n\
            2 1 0:2 / /dev rw - tmpfs t rw\n3 2 0:3 / /dev/shm rw - tmpfs t rw\n4 2 0:4 / /dev/shm rw - tmpfs t rw\n\
            5 1 0:2 /x /mnt/very/long rw - tmpfs t rw\n6 1 0:6 / /run/secret\\040one ro - tmpfs t rw\n7 1 0:7 / /sys ro - sysfs s ro\n";
        assert_eq!(points(text), ["/dev", "/dev/shm", "/run/secret one"]);
        let mounts = mountinfo::parse(text.as_bytes());
        assert!(candidates(&mounts).any(|mount| mount.device == (0, 4)) && !candidates(&mounts).any(|mount| mount.device == (0, 3)));
    }

    #[test]
    fn no_way_leads_through_a_server() {
        for kind in ["nfs4", "cifs", "fuse.sshfs", "9p", "autofs", "ceph", "nobody-knows"] {
            let text = format!(
                "1 0 0:1 / / rw - ext4 o rw\n2 1 0:2 / /far rw - {kind} s rw\n3 2 0:3 / /far/t rw - tmpfs t rw\n4 1 0:4 / /t rw - tmpfs t rw\n"
            );
            assert_eq!(points(&text), ["/t"], "{kind}");
        }
        // The root has to be gone through whatever it is.
        assert_eq!(points("1 0 0:1 / / rw - virtiofs o rw\n3 1 0:3 / /t rw - tmpfs t rw\n"), ["/t"]);
    }

    #[test]
    fn parents_that_are_missing_or_go_round_end_the_walk() {
        assert!(points("3 9 0:3 / /t rw - tmpfs t rw\n").is_empty());
        assert!(points("3 4 0:3 / /t rw - tmpfs t rw\n4 3 0:4 / /u rw - tmpfs t rw\n5 5 0:5 / /v rw - tmpfs t rw\n").is_empty());
    }
}
