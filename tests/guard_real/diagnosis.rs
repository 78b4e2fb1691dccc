//! Item 5: a death by the kernel's OOM killer is called one, and no other death is.

use firstmate::engine::status::InstanceStatus;

use super::ground::{Ground, MIB, Place, matrix, report};
use super::load::Load;
use super::native::processes::{self, kill};
use super::native::sandbox::{PATIENCE, until};
use super::stack::{Wish, crew};

const OFF: &str = "
[memory]
restart_above = \"off\"
";

/// In the few ms before the memory of the first has come back the kernel sometimes kills one more, or two (measured on 6.18: in one case of three),
/// and in a container of small processes one of them may be firstmate. These come before it, and after any leaker.
const DECOY: &str = "
[services.decoy]
command = \"./leaker plateau size=1MiB mark=1GiB\"
instances = 6
oom_score_adj = 500
backoff = { initial = \"10ms\", factor = 1.0, max = \"10ms\" }
give_up_after = 100000
essential = false
";

/// Services named so, each of which takes its file away once it is there and leaks flat out: one leak for each time the file is made.
fn leakers(names: &[&str]) -> String {
    let service = |name: &&str| {
        format!(
            "
[services.{name}]
command = \"sh -c 'until rm run/{name} 2>/dev/null; do sleep 0.02; done; exec ./leaker leak rate=max mark=1GiB'\"
backoff = {{ initial = \"10ms\", factor = 1.0, max = \"10ms\" }}
give_up_after = 100000
essential = false
"
        )
    };
    format!("{OFF}{DECOY}{}", names.iter().map(service).collect::<String>())
}

fn state(ground: &Ground, name: &str) -> InstanceStatus {
    until("the status is told", || ground.instance(&format!("{name}.1")))
}

/// How many OOM kills firstmate says there were, and how many deaths of services it calls by that name.
fn told(ground: &Ground) -> (u64, u64) {
    let status = until("the status is told", || ground.status());
    let called = status.services.iter().flat_map(|service| &service.instances).map(|one| u64::from(one.restarts.oom)).sum();
    (status.memory.map_or(0, |memory| memory.oom_kills), called)
}

/// One kill after the other, alternately by the kernel and from outside.
fn one_by_one(place: Place, times: u32) {
    let ground = Ground::plain(place, "diagnosis", 96 * MIB, &leakers(&["leaker"]), false);
    let replaced = |run: u32| ground.wait_for("leaker.1", PATIENCE, "replaced", |one| one.run > run && one.pid.is_some());
    let first = replaced(0);
    let mut run = first.run;
    for _ in 0..times {
        let (before, kernel) = (told(&ground), ground.memory().oom_kills);
        ground.touch("run/leaker");
        let now = replaced(run);
        let kernel = ground.memory().oom_kills - kernel;
        assert!(kernel >= 1, "{now:?}\n{}", ground.tail());
        until("it is told of", || {
            let after = told(&ground);
            if after.0 - before.0 == kernel { Ok(()) } else { Err(format!("{before:?} {after:?} {kernel}\n{}", ground.tail())) }
        });
        assert_eq!(now.last_outcome.as_deref(), Some("killed by the kernel's OOM killer"), "{now:?}\n{}", ground.tail());

        kill(ground.leader("leaker.1"), libc::SIGKILL);
        let after = replaced(now.run);
        assert_eq!(after.restarts.oom, now.restarts.oom, "a SIGKILL from outside was called an OOM kill\n{}", ground.tail());
        assert_eq!(after.last_outcome.as_deref(), Some("killed by SIGKILL"), "{after:?}");
        run = after.run;
    }
    let (last, kernel, calls) = (state(&ground, "leaker"), ground.memory().oom_kills, told(&ground));
    let logged = ground.said().iter().filter(|line| line.starts_with("leaker.1 killed by the kernel's OOM killer")).count();
    report(
        5,
        "one-by-one",
        &ground,
        &format!("runs={} oom_kills={kernel} called_oom={} logged={logged} outside={times} outside_called_oom=0", 2 * times, calls.1),
    );
    assert_eq!((last.restarts.oom, last.restarts.crash, last.restarts.total), (times, 2 * times, 2 * times), "{last:?}\n{}", ground.log());
    assert_eq!(logged, times as usize, "{}", ground.log());
    assert_eq!(calls.0, kernel, "{}", ground.log());
    assert!(calls.1 <= kernel, "{}", ground.log());
}

#[test]
fn oom_kills_are_told_from_others() {
    one_by_one(Place::Native, if matrix() { 50 } else { 5 });
}

#[test]
fn oom_kills_are_told_from_others_in_docker() {
    one_by_one(Place::Docker, if matrix() { 50 } else { 3 });
}

/// While firstmate stands still the kernel kills `by_kernel` of the services and the test `outside` others, so that it finds all of them dead at
/// once. How many the kernel killed, how many were called killed by it, and how many of these the test had killed.
fn batch(ground: &Ground, by_kernel: &[&str], outside: &[&str]) -> (u64, u64, u32) {
    let (before, kernel) = (told(ground), ground.memory().oom_kills);
    let all: Vec<&str> = by_kernel.iter().chain(outside).copied().collect();
    let runs: Vec<u32> = all.iter().map(|name| state(ground, name).run).collect();
    let blamed = || -> u32 { outside.iter().map(|name| state(ground, name).restarts.oom).sum() };
    let blamed_before = blamed();
    let leader = |name: &&str| ground.leader(&format!("{name}.1"));
    let (theirs, ours): (Vec<i32>, Vec<i32>) = (by_kernel.iter().map(leader).collect(), outside.iter().map(leader).collect());
    kill(ground.pid(), libc::SIGSTOP);
    until("firstmate stands still", || match std::fs::read_to_string(format!("/proc/{}/stat", ground.pid())) {
        Ok(stat) if stat.contains(") T ") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for name in by_kernel {
        ground.touch(&format!("run/{name}"));
    }
    for pid in &ours {
        kill(*pid, libc::SIGKILL);
    }
    for pid in theirs.iter().chain(&ours) {
        until("it is dead", || match processes::read(*pid) {
            Some(process) if !process.zombie => Err(format!("{process:?} {:?}", ground.memory())),
            _ => Ok(()),
        });
    }
    kill(ground.pid(), libc::SIGCONT);
    for (name, run) in all.iter().zip(runs) {
        ground.wait_for(&format!("{name}.1"), PATIENCE, "replaced", |one| one.run > run && one.pid.is_some());
    }
    // What cannot be said of a death is told all the same.
    let (kernel, called) = until("every kill is told of", || {
        let (after, kernel) = (told(ground), ground.memory().oom_kills - kernel);
        if after.0 - before.0 == kernel {
            Ok((kernel, after.1 - before.1))
        } else {
            Err(format!("{before:?} {after:?} {kernel}\n{}", ground.tail()))
        }
    });
    assert!(kernel >= by_kernel.len() as u64, "{kernel}");
    assert!(called <= kernel, "{called} deaths were called OOM kills, and there were {kernel}\n{}", ground.tail());
    let blamed = blamed() - blamed_before;
    // Unless it killed one more, who cannot be seen from outside, no kill is left for those it did not touch.
    let spare = kernel - by_kernel.len() as u64;
    assert!(u64::from(blamed) <= spare, "{blamed} with {spare} to spare\n{}", ground.tail());
    (kernel, called, blamed)
}

fn batches(place: Place, times: u32) {
    let ground = Ground::plain(place, "batches", 96 * MIB, &leakers(&["a", "b", "c", "d"]), false);
    let up = |name: &&str| drop(ground.wait_for(&format!("{name}.1"), PATIENCE, "up", |one| one.pid.is_some()));
    for (case, by_kernel, outside) in [
        ("one-and-one", &["a"][..], &["c"][..]),
        ("two-and-two", &["a", "b"], &["c", "d"]),
        ("two-oom", &["a", "b"], &[]),
        ("two-outside", &[], &["c", "d"]),
    ] {
        let (mut kills, mut calls, mut blamed) = (0, 0, 0);
        for _ in 0..times {
            ["a", "b", "c", "d"].iter().for_each(up);
            let (kernel, called, over) = batch(&ground, by_kernel, outside);
            blamed += over;
            kills += kernel;
            calls += called;
        }
        report(
            5,
            &format!("batch-{case}"),
            &ground,
            &format!("runs={times} oom_kills={kills} called_oom={calls} called_though_killed_from_outside={blamed}"),
        );
        // Nobody else died, so it can be said of all.
        if outside.is_empty() {
            assert_eq!(calls, kills, "{}", ground.log());
        }
    }
    for name in ["c", "d"] {
        assert_eq!(state(&ground, name).last_outcome.as_deref(), Some("killed by SIGKILL"));
    }
}

#[test]
fn deaths_in_the_same_moment_are_never_over_claimed() {
    batches(Place::Native, if matrix() { 10 } else { 3 });
}

#[test]
fn deaths_in_the_same_moment_are_never_over_claimed_in_docker() {
    batches(Place::Docker, if matrix() { 10 } else { 1 });
}

/// The kernel kills a worker of php-fpm: its main process goes on, and nobody says that it was killed.
fn worker(place: Place, times: u32) {
    let mut wish = Wish::new("worker", place, OFF);
    (wish.redis, wish.limit) = (0, 256 * MIB);
    let ground = wish.start();
    let crew = crew(&ground);
    for round in 1..=u64::from(times) {
        // Larger than the container, in a worker that then is the largest process by far.
        let load = Load::start(&ground, 1, "/?mb=100000");
        until("the kernel kills the worker", || {
            let kills = ground.memory().oom_kills;
            if kills >= round { Ok(()) } else { Err(format!("{:?}\n{}", ground.memory(), ground.tail())) }
        });
        let counted = load.finish();
        assert!(counted.lost >= 1, "{counted:?}");
        // The client may have asked twice before it was stopped.
        let kernel = ground.memory().oom_kills;
        until("it is told of", || {
            let told = ground.status()?.memory.map_or(0, |memory| memory.oom_kills);
            if told == kernel { Ok(()) } else { Err(format!("{told} of {kernel}\n{}", ground.tail())) }
        });
    }
    let kernel = ground.memory().oom_kills;
    let missing = ground.missing(&crew);
    let fpm = state(&ground, "php-fpm");
    let said = ground.said();
    let told = said.iter().filter(|line| line.contains("killed by the kernel's OOM killer")).count();
    // The message about it names nobody.
    let message = said.iter().any(|line| line.starts_with("the kernel's OOM killer killed") && !line.contains("php-fpm.1"));
    report(
        5,
        "php-fpm-worker",
        &ground,
        &format!("runs={times} oom_kills={kernel} blamed_on_main={} workers_gone={}", fpm.restarts.oom, missing.len()),
    );
    assert!(missing.iter().all(|who| who.starts_with("php-fpm")), "{missing:?}");
    assert!(message && told == 0, "{said:#?}");
    ground.assert_not_restarted(&super::stack::SERVICES);
    let load = Load::start(&ground, 2, "/");
    load.wait_for(50);
    assert_eq!(load.finish().lost, 0);
}

#[test]
fn a_worker_of_php_fpm_is_not_its_main_process() {
    worker(Place::Native, if matrix() { 10 } else { 3 });
}

#[test]
fn a_worker_of_php_fpm_is_not_its_main_process_in_docker() {
    worker(Place::Docker, if matrix() { 10 } else { 1 });
}
