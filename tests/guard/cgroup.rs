//! A cgroup v1 of a test's own, with a limit; everything in it ends with it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const MEMORY: &str = "/sys/fs/cgroup/memory";
const CPU: &str = "/sys/fs/cgroup/cpu";

/// A name that tells whose cgroups they are, should any be left behind.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("firstmate-guard-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[derive(Debug)]
pub struct Cgroup {
    memory: PathBuf,
    cpu: Option<PathBuf>,
    pub limit: u64,
    /// Made by us, and so removed by us.
    own: bool,
}

impl Cgroup {
    /// With this limit of memory in bytes, and, if given, this share of one processor.
    pub fn new(limit: u64, quota: Option<f64>) -> Self {
        let name = unique();
        let memory = PathBuf::from(MEMORY).join(&name);
        std::fs::create_dir(&memory).unwrap_or_else(|error| {
            panic!("cannot make {}: {error}; these tests need root and the memory controller of cgroup v1", memory.display())
        });
        std::fs::write(memory.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
        // Where there is swap, memory that is swapped out would not be missed. Without swap accounting the file does not exist.
        let _ = std::fs::write(memory.join("memory.memsw.limit_in_bytes"), limit.to_string());
        let cpu = quota.map(|share| {
            let cpu = PathBuf::from(CPU).join(&name);
            std::fs::create_dir(&cpu).unwrap_or_else(|error| panic!("cannot make {}: {error}", cpu.display()));
            std::fs::write(cpu.join("cpu.cfs_period_us"), "100000").unwrap();
            std::fs::write(cpu.join("cpu.cfs_quota_us"), format!("{:.0}", share * 100_000.0)).unwrap();
            cpu
        });
        Self { memory, cpu, limit, own: true }
    }

    /// The one a process is in, say a container's first one. Whoever made it removes it.
    pub fn of_process(pid: u32, limit: u64) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = text.lines().find_map(|line| line.split_once(":memory:")).expect("a memory cgroup").1.to_owned();
        Self { memory: PathBuf::from(MEMORY).join(path.trim_start_matches('/')), cpu: None, limit, own: false }
    }

    /// To write "0" to each of these files moves the writer in.
    pub fn doors(&self) -> Vec<PathBuf> {
        std::iter::once(&self.memory).chain(&self.cpu).map(|path| path.join("cgroup.procs")).collect()
    }

    fn number(&self, file: &str, field: Option<&str>) -> u64 {
        let path = self.memory.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value = match field {
            None => Some(text.trim()),
            Some(field) => text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' ')),
        };
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{field:?} in {}: {text}", path.display()))
    }

    /// Processes the kernel's OOM killer has killed here; `None` when the cgroup is gone.
    pub fn oom_kills(&self) -> Option<u64> {
        self.memory.exists().then(|| self.number("memory.oom_control", Some("oom_kill")))
    }

    fn files(&self) -> u64 {
        self.number("memory.stat", Some("total_inactive_file")) + self.number("memory.stat", Some("total_active_file"))
    }

    /// What cannot be taken back, now.
    pub fn hard(&self) -> u64 {
        self.number("memory.usage_in_bytes", None).saturating_sub(self.files())
    }

    /// The highest usage there has been, less the page cache there is now: a trial reads a few programs at its beginning and no file after that.
    /// All of the limit when the cgroup is gone, and a container's end with it.
    pub fn peak(&self) -> u64 {
        if !self.memory.exists() {
            return self.limit;
        }
        self.number("memory.max_usage_in_bytes", None).saturating_sub(self.files())
    }

    pub fn pids(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.memory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The processes whose command line has this word, by their numbers outside.
    pub fn pids_with(&self, word: &str) -> Vec<u32> {
        let has = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|part| part == word.as_bytes())
        };
        let mut pids: Vec<u32> = self.pids().into_iter().filter(has).collect();
        pids.sort_unstable();
        pids
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.own {
            return;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for pid in self.pids() {
                // SAFETY: numbers only; whoever is in this cgroup was started by this test.
                unsafe { libc::kill(i32::try_from(pid).unwrap_or(i32::MAX), libc::SIGKILL) };
            }
            let gone = std::fs::remove_dir(&self.memory).is_ok() || !self.memory.exists();
            let cpu_gone = self.cpu.as_ref().is_none_or(|cpu| std::fs::remove_dir(cpu).is_ok() || !cpu.exists());
            if gone && cpu_gone {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("cannot remove {}", self.memory.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
