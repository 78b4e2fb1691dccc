//! Runs of real processes, and the means to look at them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use firstmate::engine::memory::{Accounts, Rss, Usage};
use firstmate::engine::{InstanceId, RunId, ServiceId};
use firstmate::linux::memory::account::Accountant;
use firstmate::linux::spawn::{self, Request, Stdio};
use firstmate::linux::tree::{Census, MARKER, Trees};

use crate::stage::{Stage, alone, fields, launched, plain, until};

pub(crate) const MB: u64 = 1 << 20;

pub(crate) struct Ground {
    pub(crate) stage: Stage,
    pub(crate) trees: Trees,
    pub(crate) accountant: Accountant,
    pub(crate) scratch: PathBuf,
    /// Kept open, so that nobody dies of a closed pipe.
    outputs: Vec<OwnedFd>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

pub(crate) fn run(service: usize) -> RunId {
    RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run: 1 }
}

/// Every test with each way to find children.
pub(crate) fn in_both_ways(act: impl Fn(&mut Ground)) {
    for files in [true, false] {
        let mut ground = Ground::new(files);
        act(&mut ground);
        ground.clear();
    }
}

/// In a PID namespace of its own, whose /proc is mounted with these options, as its PID 1 or 2.
pub(crate) fn apart(options: &str, pid: u32, act: impl Fn() + std::panic::RefUnwindSafe) {
    let mounted = || {
        let options = std::ffi::CString::new(options).unwrap();
        // SAFETY: strings with a NUL at their end, and null where nothing is to be told.
        unsafe {
            let null = std::ptr::null();
            assert_eq!(libc::mount(null, c"/".as_ptr(), null, libc::MS_REC | libc::MS_PRIVATE, null.cast()), 0);
            assert_eq!(libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, options.as_ptr().cast()), 0);
        }
        if pid == 1 { act() } else { alone(&act) }
    };
    alone(|| {
        // SAFETY: numbers only; this process has one thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) }, 0);
        alone(std::panic::AssertUnwindSafe(mounted));
    });
}

/// A Python program that writes its pid to `file` once it has done `code`, and then sleeps.
pub(crate) fn python(code: &str, file: &str) -> Vec<OsString> {
    let code = format!(
        "import os, sys, time, mmap, ctypes, signal\n{code}\nopen('{file}.new', 'w').write(str(os.getpid()))\nos.rename('{file}.new', '{file}')\nwhile True: time.sleep(1000)\n"
    );
    ["/usr/bin/python3", "-I", "-S", "-c", &code].map(OsString::from).to_vec()
}

impl Ground {
    pub(crate) fn new(files: bool) -> Self {
        let trees = if files { Trees::new() } else { Trees::new().without_children_files() };
        let scratch = std::env::temp_dir().join(format!("firstmate-account-{}-{files}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &scratch,
            nix::sys::stat::Mode::from_bits_truncate(0o777),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .unwrap();
        Self { stage: Stage::new(), trees, accountant: Accountant::new(), scratch, outputs: Vec::new() }
    }

    pub(crate) fn start_as(&mut self, service: usize, argv: &[OsString], marked: bool, user: Option<&str>) -> u32 {
        let mut env = self.stage.env.clone();
        if marked {
            env.set(MARKER.as_ref(), &self.trees.marker(&format!("s{service}.1"), run(service))).unwrap();
        }
        let request = Request { working_dir: &self.scratch, stdio: Stdio::Capture, user, ..plain(argv, &env) };
        let spawned = spawn::spawn(&request).unwrap();
        launched(&spawned).unwrap();
        self.outputs.extend(spawned.stdout);
        spawned.pid
    }

    pub(crate) fn start(&mut self, service: usize, argv: &[OsString]) -> u32 {
        let pid = self.start_as(service, argv, true, None);
        self.trees.started(run(service), &format!("s{service}.1"), pid);
        pid
    }

    pub(crate) fn drain(&mut self) {
        while let Some(dead) = self.stage.reaper.peek().unwrap() {
            self.trees.died(dead.pid());
            let pid = dead.pid();
            self.stage.dead.push((pid, dead.outcome().clone()));
            dead.reap();
            self.trees.reaped(pid);
        }
    }

    pub(crate) fn pid_in(&mut self, file: &str) -> u32 {
        let path = self.scratch.join(file);
        until(file, || {
            self.drain();
            std::fs::read_to_string(&path).ok()?.parse().ok()
        })
    }

    pub(crate) fn census(&mut self) -> Census {
        let mut census = Census::default();
        self.trees.census(&mut census);
        census
    }

    pub(crate) fn pids(&mut self, service: usize) -> BTreeSet<u32> {
        self.census().of(run(service)).iter().map(|seen| seen.pid).collect()
    }

    pub(crate) fn account(&mut self) -> Accounts {
        self.accountant.account(&mut self.trees, 64 * MB)
    }

    pub(crate) fn usage(&mut self, service: usize) -> Usage {
        self.account().runs.into_iter().find(|usage| usage.run == run(service)).unwrap()
    }

    pub(crate) fn rss(&mut self, service: usize) -> Rss {
        self.usage(service).rss.unwrap()
    }

    pub(crate) fn clear(&mut self) {
        until("the ground is empty", || {
            self.drain();
            let children = children();
            for &pid in &children {
                kill(pid, libc::SIGKILL);
            }
            children.is_empty().then_some(())
        });
    }
}

pub(crate) fn children() -> Vec<u32> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{own}/task")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path().join("children")).unwrap();
        found.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found
}

pub(crate) fn kill(pid: u32, signal: i32) {
    // SAFETY: numbers only; children of this test's that are not reaped yet.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

pub(crate) fn status_of(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    fields(&text)[key].split(' ').next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Docker's default capabilities, 00000000a80425fb: without CAP_SYS_PTRACE, CAP_SYS_RESOURCE and CAP_SYS_ADMIN, with CAP_SETUID and CAP_DAC_OVERRIDE.
pub(crate) fn docker_capabilities() {
    const DEFAULT: u64 = 0xa804_25fb;
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    // SAFETY: header and data are as capset(2) wants them in version 3.
    unsafe {
        for capability in 0..64 {
            // Else a program that root executes would get it back. Those the kernel does not know are refused.
            if DEFAULT & (1 << capability) == 0 {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
        }
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()), 0);
        let low = u32::try_from(DEFAULT).unwrap();
        (data[0], data[1], data[2]) = (low, low, 0);
        (data[3], data[4], data[5]) = (0, 0, 0);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()), 0);
    }
}
