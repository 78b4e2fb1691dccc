//! A container, as far as it matters here.

use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::ptr;

use crate::Failure;

fn check(result: i32, what: &str) -> Result<i32, Failure> {
    if result == -1 { Err(format!("{what}: {}", std::io::Error::last_os_error()).into()) } else { Ok(result) }
}

fn mount(kind: Option<&str>, at: &str, flags: u64) -> Result<(), Failure> {
    let kind = kind.map(CString::new).transpose()?;
    let target = CString::new(at)?;
    let kind = kind.as_ref().map_or(ptr::null(), |kind| kind.as_ptr());
    // SAFETY: strings with their NULs; without a type the kernel looks at flags and target only.
    check(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, ptr::null()) }, &format!("mounting {at}"))?;
    Ok(())
}

fn execute(command: &[&str]) -> Failure {
    let argv: Vec<CString> = command.iter().filter_map(|&word| CString::new(word).ok()).collect();
    let pointers: Vec<_> = argv.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let Some(&program) = pointers.first().filter(|program| !program.is_null()) else { return "a command is needed".into() };
    // SAFETY: strings with their NULs, and a null pointer at the end.
    unsafe { libc::execvp(program, pointers.as_ptr()) };
    format!("{}: {}", command.join(" "), std::io::Error::last_os_error()).into()
}

/// Without root's rights.
pub fn as_nobody(command: &[&str]) -> Result<ExitCode, Failure> {
    const NOBODY: u32 = 65534;
    // SAFETY: an empty list, and numbers.
    unsafe {
        check(libc::setgroups(0, ptr::null()), "setgroups")?;
        check(libc::setresgid(NOBODY, NOBODY, NOBODY), "setresgid")?;
        check(libc::setresuid(NOBODY, NOBODY, NOBODY), "setresuid")?;
    }
    Err(execute(command))
}

/// Without anything at /sys/fs/cgroup.
pub fn without_cgroup(command: &[&str]) -> Result<ExitCode, Failure> {
    // SAFETY: a string with its NUL.
    check(unsafe { libc::umount2(c"/sys/fs/cgroup".as_ptr(), libc::MNT_DETACH) }, "unmounting /sys/fs/cgroup")?;
    Err(execute(command))
}

/// PID 1 of its own namespaces in the cgroup that this process is in, which this process leaves to it.
pub fn run(read_only: bool, command: &[&str]) -> Result<ExitCode, Failure> {
    // SAFETY: numbers only.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) }, "unshare")?;
    let (mut wait, mut go) = std::io::pipe()?;
    // SAFETY: this process has one thread.
    let pid = check(unsafe { libc::fork() }, "fork")?;
    if pid == 0 {
        wait.read_exact(&mut [0])?;
        // SAFETY: numbers only.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) }, "unshare")?;
        mount(None, "/", libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some("proc"), "/proc", 0)?;
        // The kernel mounts nothing twice at one place.
        // SAFETY: a string with its NUL.
        check(unsafe { libc::umount2(c"/sys/fs/cgroup".as_ptr(), libc::MNT_DETACH) }, "unmounting /sys/fs/cgroup")?;
        mount(Some("cgroup2"), "/sys/fs/cgroup", 0)?;
        if read_only {
            mount(None, "/sys/fs/cgroup", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)?;
        }
        return Err(execute(command));
    }
    std::fs::write("/sys/fs/cgroup/cgroup.procs", "0")?;
    go.write_all(b"!")?;
    let mut status = 0;
    // SAFETY: room for a status.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) }, "wait")?;
    let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Ok(ExitCode::from(u8::try_from(code)?))
}
