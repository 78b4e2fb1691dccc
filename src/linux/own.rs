//! What firstmate itself uses.

use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// What firstmate itself uses. What cannot be read is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnUsage {
    /// On a processor, in user and in kernel mode, all threads, without children.
    pub cpu: Option<Duration>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// So many it may have.
    pub max_fds: Option<u64>,
    /// Address space in bytes.
    pub virtual_bytes: Option<u64>,
    /// In memory, in bytes, shared pages included.
    pub resident_bytes: Option<u64>,
}

impl OwnUsage {
    /// Looks. Takes as long as it takes to list the open descriptors: some microseconds and one more for each ten.
    #[must_use]
    pub fn read() -> Self {
        let cpu =
            getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| duration(usage.user_time()).saturating_add(duration(usage.system_time())));
        // The list itself takes one.
        let fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = pages.split_ascii_whitespace().map(|number| number.parse::<u64>().ok()?.checked_mul(page?));
        Self {
            cpu,
            open_fds: fds.and_then(|count| u64::try_from(count).ok()),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            virtual_bytes: pages.next().flatten(),
            resident_bytes: pages.next().flatten(),
        }
    }
}

fn duration(time: nix::sys::time::TimeVal) -> Duration {
    let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let before = OwnUsage::read();
        let (Some(open), Some(most)) = (before.open_fds, before.max_fds) else { panic!("{before:?}") };
        assert!((3..=most).contains(&open), "{before:?}");
        assert!(before.virtual_bytes > before.resident_bytes && before.resident_bytes > Some(100_000), "{before:?}");
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = OwnUsage::read();
        assert!(after.resident_bytes.unwrap() + (8 << 20) > before.resident_bytes.unwrap() + (block.len() as u64), "{before:?} {after:?}");
        assert!(after.cpu >= before.cpu && after.cpu > Some(Duration::ZERO));
    }
}
