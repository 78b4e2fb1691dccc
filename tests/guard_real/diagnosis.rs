//! Item 5: a death by the kernel's OOM killer is called one, and no other death is.

use std::path::PathBuf;

use firstmate::engine::status::InstanceStatus;

use super::ground::{Ground, MIB, Place, matrix, report};
use super::load::Load;
use super::native::processes::{self, kill};
use super::native::sandbox::{PATIENCE, until, within};
use super::stack::{Wish, crew};

const OFF: &str = "
[memory]
restart_above = \"off\"
";

/// Services named so, each of which leaks flat out when its file is there and else waits.
fn leakers(names: &[&str]) -> String {
    let service = |name: &&str| {
        format!(
            "
[services.{name}]
command = \"./leaker leak rate=max when=run/{name} mark=1GiB\"
backoff = {{ initial = \"10ms\", factor = 1.0, max = \"10ms\" }}
give_up_after = 100000
essential = false
"
        )
    };
    OFF.to_owned() + &names.iter().map(service).collect::<String>()
}

fn flag(ground: &Ground, name: &str) -> PathBuf {
    ground.path().join("run").join(name)
}

fn state(ground: &Ground, name: &str) -> InstanceStatus {
    until("the status is told", || ground.instance(&format!("{name}.1")))
}

/// Waits until the leaker of this service waits for its file.
fn wait_until_quiet(ground: &Ground, name: &str) {
    until("it is up again", || {
        let one = ground.instance(&format!("{name}.1"))?;
        let log = ground.log();
        // Each run says that it is quiet before it waits.
        let quiet = log.lines().filter(|line| line.contains(&format!(" {name}.1 out | leaker quiet"))).count();
        if one.pid.is_some() && quiet >= one.run as usize { Ok(()) } else { Err(format!("{one:?}\n{}", ground.tail())) }
    });
}

/// One kill after the other, alternately by the kernel and from outside.
fn one_by_one(place: Place, times: u32) {
    let ground = Ground::plain(place, "diagnosis", 64 * MIB, &leakers(&["leaker"]), false);
    let (mut right, mut outside) = (0, 0);
    for _ in 0..times {
        wait_until_quiet(&ground, "leaker");
        let (before, kernel) = (state(&ground, "leaker"), ground.memory().oom_kills);
        ground.touch("run/leaker");
        until("the kernel kills it", || if ground.memory().oom_kills > kernel { Ok(()) } else { Err(ground.tail()) });
        std::fs::remove_file(flag(&ground, "leaker")).unwrap();
        wait_until_quiet(&ground, "leaker");
        // A run that began before the file was gone was killed as well.
        let (after, kernel) = (state(&ground, "leaker"), ground.memory().oom_kills - kernel);
        assert_eq!(u64::from(after.restarts.oom - before.restarts.oom), kernel, "{after:?}\n{}", ground.tail());
        assert!(after.last_outcome.as_ref().is_some_and(|text| text.contains("OOM")), "{after:?}");
        right += kernel;

        kill(ground.leader("leaker.1"), libc::SIGKILL);
        within(PATIENCE, "it is replaced", || {
            let now = ground.instance("leaker.1")?;
            if now.run > after.run && now.pid.is_some() { Ok(()) } else { Err(format!("{now:?}")) }
        });
        let now = state(&ground, "leaker");
        assert_eq!(now.restarts.oom, after.restarts.oom, "a SIGKILL from outside was called an OOM kill\n{}", ground.tail());
        assert_eq!(now.last_outcome.as_deref(), Some("killed by SIGKILL"), "{now:?}");
        outside += 1;
    }
    let last = state(&ground, "leaker");
    assert_eq!(u64::from(last.restarts.oom), ground.memory().oom_kills, "{last:?}\n{}", ground.log());
    assert_eq!(last.restarts.total, last.restarts.crash, "{last:?}");
    let told = ground.said().iter().filter(|line| line.contains("OOM killer")).count();
    report(
        5,
        "one-by-one",
        &ground,
        &format!(
            "runs={} oom_kills={right} called_oom={} logged={told} outside={outside} outside_called_oom=0",
            right + outside,
            last.restarts.oom
        ),
    );
    assert!(told as u64 >= right, "{told} of {right}\n{}", ground.log());
    let status = until("the status is told", || ground.status());
    assert_eq!(status.memory.map(|memory| memory.oom_kills), Some(right));
}

#[test]
fn oom_kills_are_told_from_others() {
    one_by_one(Place::Native, if matrix() { 50 } else { 5 });
}

#[test]
fn oom_kills_are_told_from_others_in_docker() {
    one_by_one(Place::Docker, if matrix() { 50 } else { 3 });
}

/// While firstmate stands still the kernel kills `by_kernel` of the services and the test `outside` others, so that it finds all of them dead at once.
fn batch(ground: &Ground, by_kernel: &[&str], outside: &[&str]) -> (u64, u64, u64) {
    let all: Vec<&str> = by_kernel.iter().chain(outside).copied().collect();
    for name in &all {
        wait_until_quiet(ground, name);
    }
    let claimed = || -> u64 { all.iter().map(|name| u64::from(state(ground, name).restarts.oom)).sum() };
    let told = || until("the status is told", || ground.status()).memory.map_or(0, |memory| memory.oom_kills);
    let (claimed_before, told_before, kernel_before) = (claimed(), told(), ground.memory().oom_kills);
    let runs: Vec<u32> = all.iter().map(|name| state(ground, name).run).collect();
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
    for name in by_kernel {
        std::fs::remove_file(flag(ground, name)).unwrap();
    }
    let kernel = ground.memory().oom_kills - kernel_before;
    assert_eq!(kernel, by_kernel.len() as u64, "the kernel killed somebody else");
    kill(ground.pid(), libc::SIGCONT);
    for (name, run) in all.iter().zip(runs) {
        ground.wait_for(&format!("{name}.1"), PATIENCE, "replaced", |one| one.run > run && one.pid.is_some());
    }
    // What cannot be said of a death is told all the same.
    until("every kill is told of", || {
        let now = told() - told_before;
        if now >= kernel { Ok(()) } else { Err(format!("{now} of {kernel}\n{}", ground.tail())) }
    });
    let (claimed, told) = (claimed() - claimed_before, told() - told_before);
    assert!(claimed <= kernel, "{claimed} deaths were called OOM kills, and there were {kernel}\n{}", ground.tail());
    assert_eq!(told, kernel, "{}", ground.tail());
    for name in outside {
        if by_kernel.is_empty() {
            assert_eq!(state(ground, name).last_outcome.as_deref(), Some("killed by SIGKILL"));
        }
    }
    (kernel, claimed, told)
}

fn batches(place: Place, times: u32) {
    let ground = Ground::plain(place, "batches", 96 * MIB, &leakers(&["a", "b", "c", "d"]), false);
    for (case, by_kernel, outside) in [
        ("one-and-one", &["a"][..], &["c"][..]),
        ("two-and-two", &["a", "b"], &["c", "d"]),
        ("two-oom", &["a", "b"], &[]),
        ("two-outside", &[], &["c", "d"]),
    ] {
        let (mut kills, mut claims) = (0, 0);
        for _ in 0..times {
            let (kernel, claimed, _) = batch(&ground, by_kernel, outside);
            if outside.is_empty() {
                assert_eq!(claimed, kernel, "nobody else died\n{}", ground.tail());
            }
            kills += kernel;
            claims += claimed;
        }
        report(5, &format!("batch-{case}"), &ground, &format!("runs={times} oom_kills={kills} called_oom={claims} over_claimed=0"));
    }
}

#[test]
fn deaths_in_the_same_moment_are_never_over_claimed() {
    batches(Place::Native, if matrix() { 10 } else { 2 });
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
    let message = ground.said().into_iter().find(|line| line.contains("OOM killer"));
    report(
        5,
        "php-fpm-worker",
        &ground,
        &format!("runs={times} oom_kills={kernel} blamed_on_main={} workers_gone={}", fpm.restarts.oom, missing.len()),
    );
    assert!(missing.iter().all(|who| who.starts_with("php-fpm")), "{missing:?}");
    assert!(message.is_some(), "{}", ground.log());
    ground.assert_not_restarted(&super::stack::SERVICES);
    let load = Load::start(&ground, 2, "/");
    load.wait_for(50);
    assert_eq!(load.finish().lost, 0);
}

#[test]
fn a_worker_of_php_fpm_is_not_its_main_process() {
    worker(Place::Native, if matrix() { 10 } else { 2 });
}

#[test]
fn a_worker_of_php_fpm_is_not_its_main_process_in_docker() {
    worker(Place::Docker, if matrix() { 10 } else { 1 });
}
