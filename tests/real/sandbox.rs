//! Where a test takes place: a network namespace with nothing but the loopback, and a directory.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing here takes a tenth of it; a condition that does not hold by then never will.
pub const PATIENCE: Duration = Duration::from_secs(60);

const INSTALL: &str = "apt-get install -y --no-install-recommends nginx-light php8.2-cli php8.2-fpm php8.2-redis redis-server apache2";

pub struct Sandbox(PathBuf);

impl Sandbox {
    /// The calling thread, and whatever it starts from now on, is in the namespace.
    pub fn new(name: &str, programs: &[&str]) -> Self {
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests make namespaces and become other users: run them as root");
        for program in programs {
            let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"]
                .iter()
                .any(|directory| Path::new(directory).join(program).exists());
            assert!(found, "{program} is missing; please run: {INSTALL}");
        }
        // SAFETY: concerns the calling thread only.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(unshared, 0, "cannot make a network namespace: {}", std::io::Error::last_os_error());
        raise_loopback();
        let path = PathBuf::from(format!("/tmp/firstmate-real-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A copy of a directory of the system, owners and modes kept.
    pub fn copy_of(&self, source: &str, name: &str) -> PathBuf {
        let path = self.0.join(name);
        let copied = Command::new("cp").args(["-a", source]).arg(&path).status().unwrap();
        assert!(copied.success(), "cannot copy {source}");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Changes a file of the system's in the way its procfile asks for; the text to be replaced must be there.
pub fn edit(path: &Path, changes: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{} has no `{from}`", path.display());
        text = text.replace(from, to);
    }
    std::fs::write(path, text).unwrap();
}

fn raise_loopback() {
    // SAFETY: a new descriptor, owned from here on.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)) };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap();
    // SAFETY: SIOCSIFFLAGS reads an ifreq.
    let raised = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(raised, 0, "cannot raise the loopback: {}", std::io::Error::last_os_error());
}

/// Waits until `condition` gives something; its last complaint is told if it never does.
pub fn until<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, condition)
}

pub fn within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(complaint) => assert!(start.elapsed() < patience, "in vain: until {what}; at last: {complaint}"),
        }
        // SAFETY: no descriptors; a breath between two looks.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 10) };
    }
}

/// `until` for a plain yes or no.
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || if condition() { Ok(()) } else { Err("no".to_owned()) });
}
