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

/// firstmate over one service that fills 88 % of 256 MiB and stays there, and a small one, once they have what they want.
fn large(memory: &str, before: &[&str]) -> Stage {
    large_with(memory, "", before)
}

/// `service` is what else their tables say.
fn large_with(memory: &str, service: &str, before: &[&str]) -> Stage {
    let one = |name: &str, size: &str| {
        format!("[services.{name}]\n{service}\ncommand = \"{{leaker}} limit=256MiB to={{dir}}/notes-{name} plateau size={size}\"\n")
    };
    let toml = memory.to_owned() + &one("large", "88%") + &one("small", "2%");
    let stage = Stage::start(Cgroup::new(256 * MIB, None), Place::Init, &toml, before);
    until("both have what they want", || {
        let done = |name: &str| std::fs::read_to_string(stage.directory.0.join(name)).is_ok_and(|notes| notes.contains(" done "));
        if done("notes-large") && done("notes-small") { Ok(()) } else { Err(stage.log.tail()) }
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
    says(&stage, &["no limit of memory is set", "the machine's"]);
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
fn cgroups_of_services_that_cannot_be_made_are_done_without_and_it_says_so() {
    let read_only = ["sh", "-c", "mount -o remount,bind,ro /sys/fs/cgroup/memory && exec \"$@\"", "sh"];
    let stage = large("[memory]\nrestart_above = \"97%\"\nhard_above = \"98%\"\nemergency_above = \"99%\"\ncgroups = true\n", &read_only);
    says(&stage, &["cgroups"]);
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

/// An ordinary user sees its own processes also where /proc hides everybody else's.
#[test]
fn an_ordinary_user_guards_its_own_services_under_hidepid() {
    let before = [
        &["sh", "-c", "mount -o remount,hidepid=2 /proc && exec \"$@\"", "sh"][..],
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    ];
    let start = Start::Quiet(Duration::from_millis(300));
    let before: &'static [&'static str] = Vec::leak(before.concat());
    run_and_judge(&[
        Trial { rate: Rate::PerSecond(100.0), start, before, ..Trial::default() },
        Trial { manner: Manner::Deaf, start, before, ..Trial::default() },
    ]);
}

/// With `hidepid`, see proc(5), a process that may not trace another does not see it at all, and `gid` says that root's group is no exception.
/// Whoever is large is then known by nothing, so nothing is done about it.
#[test]
fn where_proc_hides_the_services_nothing_is_done_on_a_guess() {
    let hide = ["sh", "-c", "mount -o remount,hidepid=2,gid=4242 /proc && exec \"$@\"", "sh"];
    let before: Vec<&str> = hide.iter().chain(&DOCKER).copied().collect();
    let stage = large_with("[memory]\nconfirm = \"0s\"\n", AS_NOBODY, &before);
    let status = until("it answers", || stage.try_status());
    assert_eq!(status.memory.map(|memory| memory.limit_bytes), Some(256 * MIB));
    says(&stage, &["memory", "hidepid"]);
    untouched(&stage);
}

#[test]
fn without_proc_it_starts_and_knows_nothing() {
    let hide = ["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"];
    let stage = large("[memory]\nconfirm = \"0s\"\n", &hide);
    says(&stage, &["no limit of memory is known", "mount /proc"]);
    let memory = untouched(&stage);
    assert_eq!(memory.and_then(|memory| memory.hard_bytes), None, "{}", stage.log.tail());
}
