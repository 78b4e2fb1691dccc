//! What the tests in the small machine do inside of it and busybox cannot.
//!
//! `inside hog MIB` takes so much memory, says so, and waits · `inside container [ro] COMMAND...` runs a command as PID 1 of namespaces of its own
//! (processes, mounts, cgroups), as a container runtime does: /proc is its own, and /sys/fs/cgroup shows its cgroup as the root, read-only
//! with `ro`; its exit code is the command's, 128 + n for signal n. · `inside namespace COMMAND...` becomes a command in a cgroup namespace of its own, with
//! the mounts of outside · `inside limit COMMAND...` says what firstmate finds out about the limit above it, runs a command, and says it again.

use std::ffi::CString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::ptr;

use firstmate::linux::memory::limit::{Files, Watch};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.split_first() {
        Some((&"hog", [mib])) => hog(mib),
        Some((&"container", ["ro", command @ ..])) => container(true, command),
        Some((&"container", command)) => container(false, command),
        Some((&"namespace", [program, arguments @ ..])) => namespace(program, arguments),
        Some((&"limit", [program, arguments @ ..])) => limit(program, arguments),
        _ => Err("usage: inside hog MIB | container [ro] COMMAND... | namespace COMMAND... | limit COMMAND...".into()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("inside: {error}");
        ExitCode::from(99)
    })
}

fn hog(mib: &str) -> Result<ExitCode, Failure> {
    let size = mib.parse::<usize>()?.checked_mul(1 << 20).ok_or("too much")?;
    let held = vec![1_u8; size];
    println!("holding {mib} MiB from {:p}", held.as_ptr());
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

fn check(result: i32, what: &str) -> Result<i32, Failure> {
    if result == -1 { Err(format!("{what}: {}", std::io::Error::last_os_error()).into()) } else { Ok(result) }
}

fn mount(kind: Option<&str>, at: &str, flags: u64) -> Result<(), Failure> {
    let kind = kind.map(CString::new).transpose()?;
    let at = CString::new(at)?;
    let kind = kind.as_ref().map_or(ptr::null(), |kind| kind.as_ptr());
    // SAFETY: strings with their NULs; without a type the kernel looks at flags and target only.
    check(unsafe { libc::mount(kind, at.as_ptr(), kind, flags, ptr::null()) }, &format!("mounting {at:?}"))?;
    Ok(())
}

fn container(read_only: bool, command: &[&str]) -> Result<ExitCode, Failure> {
    let argv = command.iter().map(|&word| CString::new(word)).collect::<Result<Vec<_>, _>>()?;
    let pointers: Vec<_> = argv.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let program = *pointers.first().ok_or("a command is needed")?;
    // SAFETY: numbers only.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) }, "unshare")?;
    mount(None, "/", libc::MS_REC | libc::MS_PRIVATE)?;
    // SAFETY: this process has one thread.
    let pid = check(unsafe { libc::fork() }, "fork")?;
    if pid == 0 {
        mount(Some("proc"), "/proc", 0)?;
        // The kernel mounts nothing twice at one place.
        // SAFETY: a string with its NUL.
        check(unsafe { libc::umount2(c"/sys/fs/cgroup".as_ptr(), libc::MNT_DETACH) }, "unmounting /sys/fs/cgroup")?;
        mount(Some("cgroup2"), "/sys/fs/cgroup", 0)?;
        if read_only {
            mount(None, "/sys/fs/cgroup", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY)?;
        }
        // SAFETY: strings with their NULs, and a null pointer at the end.
        check(unsafe { libc::execvp(program, pointers.as_ptr()) }, "exec")?;
    }
    let mut status = 0;
    // SAFETY: room for a status. Our own child, and not firstmate's: this is not firstmate.
    unsafe { libc::syscall(libc::SYS_wait4, pid, &raw mut status, 0, ptr::null::<u8>()) };
    let code = if libc::WIFSIGNALED(status) { 128_i32.saturating_add(libc::WTERMSIG(status)) } else { libc::WEXITSTATUS(status) };
    Ok(ExitCode::from(u8::try_from(code)?))
}

fn namespace(program: &str, arguments: &[&str]) -> Result<ExitCode, Failure> {
    // SAFETY: numbers only.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }, "unshare")?;
    Err(Command::new(program).args(arguments).exec().into())
}

#[expect(clippy::disallowed_methods, reason = "this is not firstmate, and waits for its own child")]
fn limit(program: &str, arguments: &[&str]) -> Result<ExitCode, Failure> {
    let mut watch = Watch::new(Files::default(), None);
    println!("path={}", std::fs::read_to_string("/proc/self/cgroup")?.trim());
    tell(&mut watch, "")?;
    let status = Command::new(program).args(arguments).status()?;
    println!("command={status}");
    println!("changed={}", watch.check());
    tell(&mut watch, "after-")?;
    Ok(ExitCode::SUCCESS)
}

fn tell(watch: &mut Watch, when: &str) -> Result<(), Failure> {
    let limit = watch.limit().ok_or("no limit is known")?;
    println!("{when}source={:?}\n{when}bytes={}\n{when}place={}", limit.source, limit.bytes, limit.place);
    println!("{when}oom_group={:?}", watch.oom_group());
    let reading = watch.counters().read(0)?;
    println!("{when}hard={}\n{when}anon={}", reading.hard, reading.parts.unwrap_or_default().anon);
    println!("{when}oom_kills={}", watch.counters().oom_kills().ok_or("kills cannot be counted")?);
    Ok(())
}
