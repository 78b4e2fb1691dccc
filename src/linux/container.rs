//! What the container is allowed, and how far it was held back: processor time and the number of processes.
//!
//! From the cgroup firstmate is in, or the nearest one above it that has the controller, of v1 and v2. Whatever cannot be read is not known. These
//! files are made up by the kernel at each read and never wait for a disk. Sources: Documentation/scheduler/sched-bwc.rst,
//! Documentation/admin-guide/cgroup-v2.rst ("CPU Interface Files", "PID"), cgroup-v1/pids.rst, and proc_stat(5).

use std::time::Duration;

use super::memory::cgroup::{levels_of, value};
use super::memory::limit::Files;

/// How often, and for how long, the container's processes waited for the next period since they had used up their share of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// Periods in which there was something to run.
    pub periods: u64,
    /// Those of them in which the share was used up.
    pub throttled_periods: u64,
    /// How long processes were held back, all processors together.
    pub throttled: Duration,
}

/// Processes and threads, as fork counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids {
    /// So many there are.
    pub current: u64,
    /// So many there may be; `None`: as many as the machine takes.
    pub max: Option<u64>,
}

/// `None` where the container's processor time is not limited, or that cannot be seen.
#[must_use]
pub fn throttling(files: &Files) -> Option<Throttling> {
    levels_of(files, b"cpu").iter().find_map(|level| {
        let text = files.read(level.join("cpu.stat")).ok()?;
        // v1 counts nanoseconds, v2 microseconds.
        let throttled = match value(&text, b"throttled_usec") {
            Some(micros) => Duration::from_micros(micros),
            None => Duration::from_nanos(value(&text, b"throttled_time")?),
        };
        Some(Throttling { periods: value(&text, b"nr_periods")?, throttled_periods: value(&text, b"nr_throttled")?, throttled })
    })
}

/// `None` where they are not counted.
#[must_use]
pub fn pids(files: &Files) -> Option<Pids> {
    let levels = levels_of(files, b"pids");
    let current = levels.iter().find_map(|level| files.number(level.join("pids.current")))?;
    // The tightest: whichever is reached first refuses the fork.
    let max = levels.iter().filter_map(|level| files.number(level.join("pids.max"))).min();
    Some(Pids { current, max })
}

/// How long the machine's processors, all together, had work for this machine and the hypervisor ran another one: a burst instance out of
/// credits shows here.
#[must_use]
pub fn stolen(files: &Files) -> Option<Duration> {
    let text = files.read("/proc/stat").ok()?;
    let all = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"cpu "))?;
    let ticks: u64 = std::str::from_utf8(all).ok()?.split_ascii_whitespace().nth(7)?.parse().ok()?;
    Some(Duration::from_millis(ticks.saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("firstmate-container-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn files(&self) -> Files {
            Files::new(&self.0, "7", 7)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn cgroup_v1_as_docker_mounts_it() {
        let machine = Machine::new(
            "v1",
            &[
                ("proc/7/cgroup", "9:pids:/docker/a\n4:cpu,cpuacct:/docker/a\n3:memory:/docker/a\n"),
                (
                    "proc/7/mountinfo",
                    "30 20 0:28 /docker/a /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                     31 20 0:29 /docker/a /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
                ),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_periods 200\nnr_throttled 50\nthrottled_time 2500000000\n"),
                ("sys/fs/cgroup/pids/pids.current", "12\n"),
                ("sys/fs/cgroup/pids/pids.max", "max\n"),
            ],
        );
        let expected = Throttling { periods: 200, throttled_periods: 50, throttled: Duration::from_millis(2500) };
        assert_eq!(throttling(&machine.files()), Some(expected));
        assert_eq!(pids(&machine.files()), Some(Pids { current: 12, max: None }));
        assert_eq!(stolen(&machine.files()), None);
    }

    #[test]
    fn cgroup_v2_with_the_limits_above() {
        let machine = Machine::new(
            "v2",
            &[
                ("proc/7/cgroup", "0::/pod/a/firstmate.0\n"),
                ("proc/7/mountinfo", "30 20 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
                ("proc/stat", "cpu  1 2 3 4 5 6 7 890 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"),
                // Its own part has the controller and no limit.
                ("sys/fs/cgroup/pod/a/firstmate.0/cpu.stat", "usage_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
                ("sys/fs/cgroup/pod/a/cpu.stat", "usage_usec 9\nnr_periods 20\nnr_throttled 5\nthrottled_usec 250000\nnr_bursts 0\n"),
                ("sys/fs/cgroup/pod/a/pids.current", "12\n"),
                ("sys/fs/cgroup/pod/a/pids.max", "max\n"),
                ("sys/fs/cgroup/pod/pids.current", "30\n"),
                ("sys/fs/cgroup/pod/pids.max", "100\n"),
            ],
        );
        let expected = Throttling { periods: 20, throttled_periods: 5, throttled: Duration::from_millis(250) };
        assert_eq!(throttling(&machine.files()), Some(expected));
        assert_eq!(pids(&machine.files()), Some(Pids { current: 12, max: Some(100) }));
        assert_eq!(stolen(&machine.files()), Some(Duration::from_millis(8900)));
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        let machine = Machine::new("none", &[("proc/7/cgroup", "0::/\n"), ("proc/7/mountinfo", "")]);
        assert_eq!((throttling(&machine.files()), pids(&machine.files()), stolen(&machine.files())), (None, None, None));
        let unlimited = Machine::new(
            "unlimited",
            &[
                ("proc/7/cgroup", "0::/\n"),
                ("proc/7/mountinfo", "30 20 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
                ("sys/fs/cgroup/cpu.stat", "usage_usec 1\nuser_usec 1\nsystem_usec 0\n"),
                ("proc/stat", "cpu  1 2\n"),
            ],
        );
        assert_eq!(throttling(&unlimited.files()), None);
        assert_eq!(stolen(&unlimited.files()), None);
        assert!(levels_of(&unlimited.files(), b"cpu").iter().eq([Path::new("/sys/fs/cgroup")]));
    }
}
