//! What the tests in the small machine do inside of it and busybox cannot.
//!
//! `inside hog MIB` takes so much memory, says so, and waits · `inside container [ro] COMMAND...` runs a command as PID 1 of namespaces of its own
//! (processes, mounts, cgroups), as a container runtime does: /proc is its own, and /sys/fs/cgroup shows its cgroup as the root, read-only
//! with `ro`; its exit code is the command's, 128 + n for signal n · `inside nobody COMMAND...` runs it as user and group 65534 ·
//! `inside no-cgroup COMMAND...` within a container: with nothing at /sys/fs/cgroup · `inside cgroups SCENARIO` see [`cgroups`] ·
//! `inside namespace COMMAND...` becomes a command in a cgroup namespace of its own · `inside limit COMMAND...` see [`limit::around`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test waits for its own children")]
#![allow(missing_docs, unreachable_pub, reason = "what a test is about is its name")]

mod cgroups;
mod container;
mod limit;

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.split_first() {
        Some((&"hog", [mib])) => hog(mib),
        Some((&"container", ["ro", command @ ..])) => container::run(true, command),
        Some((&"container", command)) => container::run(false, command),
        Some((&"nobody", command)) => container::as_nobody(command),
        Some((&"no-cgroup", command)) => container::without_cgroup(command),
        Some((&"namespace", [program, arguments @ ..])) => limit::in_namespace(program, arguments),
        Some((&"limit", [program, arguments @ ..])) => limit::around(program, arguments),
        Some((&"cgroups", [scenario])) => cgroups::play(scenario),
        _ => Err("usage: inside hog MIB | container [ro] COMMAND... | nobody COMMAND... | no-cgroup COMMAND... | namespace COMMAND... | limit COMMAND... | cgroups SCENARIO".into()),
    };
    done.unwrap_or_else(|error| {
        println!("inside: {error}");
        ExitCode::from(99)
    })
}

fn hog(mib: &str) -> Result<ExitCode, Failure> {
    let held = vec![1_u8; mib.parse::<usize>()? << 20];
    println!("holding {mib} MiB from {:p}", held.as_ptr());
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}
