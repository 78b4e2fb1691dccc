//! Where something is missing that the guard would like to have: firstmate starts, says once what it can and cannot do, and never acts on a number
//! it does not have.

use std::time::Duration;

use firstmate::engine::status::{GuardActs, LimitSource, MemoryStatus};

use super::cell::run_and_judge;
use super::cgroup::Cgroup;
use super::stage::{MIB, PATIENCE, Place, Stage, until};
use super::trial::{Manner, Rate, Start, Trial, percent};

/// What Docker leaves a root process.
const DOCKER: [&str; 2] = [
    "setpriv",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,\
     +audit_write,+setfcap",
];
const AS_NOBODY: &str = "user = \"nobody\"";

/// One service that fills most of a container, and stays there.
const LARGE: &str = "[services.large]\ncommand = \"{leaker} limit=256MiB to={dir}/notes plateau size=88%\"\n\
                     [services.small]\ncommand = \"{leaker} limit=256MiB to={dir}/notes plateau size=2%\"\n";

/// firstmate over [`LARGE`] in 256 MiB, once it is as large as it gets.
fn large(memory: &str, before: &[&str]) -> Stage {
    let stage = Stage::start(Cgroup::new(256 * MIB, None), Place::Init, &format!("{memory}{LARGE}"), before);
    until("both have what they want", || {
        let notes = std::fs::read_to_string(stage.directory.0.join("notes")).unwrap_or_default();
        if notes.matches(" done ").count() == 2 { Ok(()) } else { Err(format!("{notes}\n{}", stage.log.tail())) }
    });
    let used = percent(stage.cgroup.hard(), stage.cgroup.limit);
    assert!(used > 88.0, "{used}");
    stage
}

/// Long enough for a guard that samples every 250 ms at the slowest, with `confirm = "0s"`.
const LONG: Duration = Duration::from_secs(3);

/// Neither has been touched, although there was time to, and nothing is said twice.
#[track_caller]
fn untouched(stage: &Stage) -> Option<MemoryStatus> {
    let before = stage.cgroup.pids_with("plateau");
    let touched = stage.log.line(LONG, |line| {
        line.name == "firstmate" && ["killed by", "exited with", "restarts"].iter().any(|what| line.text.contains(what))
    });
    assert!(touched.is_err(), "{touched:?}\n{}", stage.log.tail());
    assert_eq!(stage.cgroup.pids_with("plateau"), before, "{}", stage.log.tail());
    let mut own = stage.log.own();
    let all = own.len();
    own.sort();
    own.dedup();
    assert_eq!(own.len(), all, "something is said twice:\n{}", stage.log.tail());
    let memory = stage.status().memory;
    if let Some(memory) = &memory {
        assert_eq!(memory.acts, GuardActs::default(), "{memory:?}");
    }
    memory
}

/// Waits for the line in which firstmate says this about memory.
#[track_caller]
fn says(stage: &Stage, parts: &[&str]) {
    let said = stage.log.line(PATIENCE, |line| line.name == "firstmate" && parts.iter().all(|part| line.text.contains(part)));
    assert!(said.is_ok(), "no line with {parts:?}:\n{}", stage.log.tail());
}

#[test]
fn without_cgroups_the_machine_is_the_limit_and_a_full_container_is_not_seen() {
    let hide = ["sh", "-c", "umount -R -l /sys/fs/cgroup && exec \"$@\"", "sh"];
    let stage = large("[memory]\nconfirm = \"0s\"\n", &hide);
    says(&stage, &["memory", "machine"]);
    let memory = untouched(&stage).expect("the machine's memory is known");
    assert_eq!(memory.limit_source, LimitSource::Machine, "{memory:?}");
}

#[test]
fn read_only_cgroups_are_enough() {
    run_and_judge(&[Trial {
        rate: Rate::PerSecond(100.0),
        start: Start::Quiet(Duration::from_millis(300)),
        before: &["sh", "-c", "mount -o remount,bind,ro /sys/fs/cgroup/memory && exec \"$@\"", "sh"],
        ..Trial::default()
    }]);
}

#[test]
fn cgroups_for_services_are_asked_for_where_they_cannot_be_made_which_is_said() {
    let read_only = ["sh", "-c", "mount -o remount,bind,ro /sys/fs/cgroup/memory && exec \"$@\"", "sh"];
    let stage = large("[memory]\nrestart_above = \"98%\"\nhard_above = \"98%\"\nemergency_above = \"99%\"\ncgroups = true\n", &read_only);
    says(&stage, &["cgroup"]);
    untouched(&stage);
}

#[test]
fn services_of_another_user_are_watched_with_the_capabilities_docker_leaves() {
    let start = Start::Quiet(Duration::from_millis(300));
    let trial = Trial { start, before: &DOCKER, service: AS_NOBODY, ..Trial::default() };
    run_and_judge(&[
        Trial { rate: Rate::PerSecond(100.0), ..trial.clone() },
        Trial { manner: Manner::Deaf, threads: 2, place: Place::Below, ..trial },
    ]);
}

/// See `hidepid` in proc(5): a process that may not trace another does not see it at all. Whoever leaks is then known by nothing, so nothing is done
/// about it, and the kernel's kill, when it comes, is called that.
#[test]
fn where_proc_hides_the_services_nothing_is_done_on_a_guess() {
    let hide = ["sh", "-c", "mount -o remount,hidepid=2 /proc && exec \"$@\"", "sh"];
    let before: Vec<&str> = hide.iter().chain(&DOCKER).copied().collect();
    let memory = "[memory]\nconfirm = \"0s\"\n";
    let toml = LARGE.replace("[services.large]\n", &format!("[services.large]\n{AS_NOBODY}\n"));
    let toml = toml.replace("[services.small]\n", &format!("{memory}[services.small]\n{AS_NOBODY}\n"));
    let stage = Stage::start(Cgroup::new(256 * MIB, None), Place::Init, &toml, &before);
    let status = until("it answers", || stage.try_status());
    assert_eq!(status.memory.map(|memory| memory.limit_bytes), Some(256 * MIB));
    says(&stage, &["memory", "hidepid"]);
    untouched(&stage);
}

#[test]
fn without_proc_it_starts_and_knows_nothing() {
    let hide = ["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"];
    let stage = large("[memory]\nconfirm = \"0s\"\n", &hide);
    says(&stage, &["memory", "/proc"]);
    let memory = untouched(&stage);
    assert_eq!(memory.and_then(|memory| memory.hard_bytes), None, "{}", stage.log.tail());
}
