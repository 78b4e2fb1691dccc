//! The seeded simulation: the real engine against a fake kernel on virtual time, through random histories.
//!
//! `FIRSTMATE_SIM_HISTORIES` sets how many (default: 3,000 in an unoptimised build, 100,000 otherwise), `FIRSTMATE_SIM_SEED` runs one
//! seed with its trace. A failure prints the seed and the end of its trace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "a test stops at the first surprise"
)]

mod large;
mod oracle;
mod rng;
mod stacks;
mod updates;
mod world;

use std::time::Instant;

/// Seeds that failed once: 49887, a second Ctrl-C while draining moved the deadline of the stop.
///
/// A seed is a history only as long as the world draws the same chances: after a change of the world, plant the old fault again
/// (`tests/sim/mutations` has it) and keep the seed that finds it now.
const ONCE_FAILED: &[u64] = &[49_887, 51_477];

#[test]
fn seeds_that_failed_once() {
    for &seed in ONCE_FAILED {
        run(seed);
    }
}

#[test]
fn random_histories_keep_every_invariant() {
    if let Ok(seed) = std::env::var("FIRSTMATE_SIM_SEED") {
        let seed = seed.parse().expect("FIRSTMATE_SIM_SEED is a number");
        match world::history(seed, true) {
            Ok(summary) => println!("seed {seed}: {summary:?}"),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
        return;
    }
    let histories: u64 = match std::env::var("FIRSTMATE_SIM_HISTORIES") {
        Ok(number) => number.parse().expect("FIRSTMATE_SIM_HISTORIES is a number"),
        Err(_) if is_unoptimised() => 3_000,
        Err(_) => 100_000,
    };
    let began = Instant::now();
    let mut total = world::Summary::default();
    for seed in 0..histories {
        total.add(&run(seed));
    }
    println!("{histories} histories in {:.1} s: {total:?}", began.elapsed().as_secs_f64());
    // A simulation in which nothing happens proves nothing.
    assert!(total.steps > histories * 20, "{total:?}");
    for (what, count) in [
        ("runs", total.runs),
        ("failed spawns", total.failed_spawns),
        ("runs with leftovers", total.left_behind),
        ("lost answers", total.lost_answers),
        ("commands", total.commands),
        ("shutdowns", total.shutdowns),
        ("killed trees", total.killed_trees),
        ("given up", total.given_up),
        ("liveness restarts", total.live_failures),
        ("announcements", total.announced),
        ("words that waited in a queue", total.queued),
        ("watchdog restarts", total.watchdogs),
        ("restarts by a change of files", total.changes),
        ("start timeouts", total.start_timeouts),
        ("readiness lost", total.not_ready),
        ("blocked", total.blocked),
        ("drains", total.drains),
        ("immediate ends", total.kill_alls),
        ("abandoned runs", total.abandoned * 10),
        ("settled at the end", total.settled),
        ("operators' signals", total.sent),
        ("turns of rolling restarts", total.turns),
        ("rolling restarts to their end", total.rolled),
        ("rolling restarts that stopped", total.rolls_stopped),
        ("other numbers of instances", total.scaled),
        ("removals that waited", total.held_back * 10),
    ] {
        assert!(count > histories / 100, "hardly any {what}: {total:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history_to_the_last_byte() {
    for seed in 0..200 {
        let first = world::trace(seed);
        assert!(first.lines().count() > 3, "{first}");
        assert_eq!(first, world::trace(seed), "seed {seed}");
    }
    assert_ne!(world::trace(1), world::trace(2));
}

/// By the folder cargo built this in: the profile `sim` is optimised and keeps its debug assertions.
fn is_unoptimised() -> bool {
    std::env::current_exe().is_ok_and(|path| path.ancestors().nth(2).is_some_and(|folder| folder.ends_with("debug")))
}

fn run(seed: u64) -> world::Summary {
    match world::history(seed, false) {
        Ok(summary) => summary,
        Err(failure) => {
            let trace = match world::history(seed, true) {
                Ok(_) => "it does not fail again: the engine is not deterministic".to_owned(),
                Err(again) => again,
            };
            panic!("seed {seed}: {failure}\n{trace}");
        }
    }
}
