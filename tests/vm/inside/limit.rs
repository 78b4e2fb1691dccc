//! What firstmate finds out about the limit above it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use firstmate::linux::memory::limit::{Files, Watch};

use crate::Failure;

/// Becomes a command in a cgroup namespace of its own, with the mounts of outside.
pub fn in_namespace(program: &str, arguments: &[&str]) -> Result<ExitCode, Failure> {
    // SAFETY: numbers only.
    if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } == -1 {
        return Err(format!("unshare: {}", std::io::Error::last_os_error()).into());
    }
    Err(Command::new(program).args(arguments).exec().into())
}

/// Says it, runs a command, and says it again.
pub fn around(program: &str, arguments: &[&str]) -> Result<ExitCode, Failure> {
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
