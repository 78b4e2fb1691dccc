//! Everything, for `make guard-matrix`: minutes to an hour, and so not part of `make test`. Each kind's line goes to standard output.

use std::time::Duration;

use super::cell::{self, faults};
use super::stage::Place;
use super::trial::{Guard, Manner, Outcome, Rate, Running, Start, Trial};

const SLOW: Rate = Rate::PerSecond(1.0);
const RATES: [Rate; 5] = [Rate::PerSecond(20.0), Rate::PerSecond(100.0), Rate::PerSecond(400.0), Rate::PerSecond(1500.0), Rate::Flat];
const LIMITS: [u64; 4] = [128, 256, 512, 1024];
/// Minutes of quiet.
const QUIET: Duration = Duration::from_secs(120);
/// What services that wait may have in all, in MiB, so that the machine is not what runs out of memory.
const ROOM: f64 = 10.0 * 1024.0;

/// Every combination of rate, threads, manner and settings.
fn kinds(rates: &[Rate], limit: u64, place: Place, start: Start) -> Vec<Trial> {
    let mut kinds = Vec::new();
    for &rate in rates {
        for threads in [1, 2] {
            for manner in [Manner::Well, Manner::Deaf] {
                for guard in [Guard::AtOnce, Guard::Default] {
                    kinds.push(Trial { rate, threads, limit, manner, start, guard, place, ..Trial::default() });
                }
            }
        }
    }
    kinds
}

/// What must hold, and how close to the line it was decided.
fn report(trial: &Trial, outcomes: &[Outcome], wrong: &mut Vec<String>) {
    println!("{}", cell::line(trial, outcomes));
    for outcome in outcomes {
        let faults = faults(trial, outcome);
        if !faults.is_empty() {
            wrong.push(format!("{}: {}\n{}", cell::line(trial, std::slice::from_ref(outcome)), faults.join("; "), outcome.log));
        }
    }
}

fn judge(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} trials went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One after the other.
fn run_cold(kinds: &[Trial], runs: usize, wrong: &mut Vec<String>) {
    for trial in kinds {
        report(trial, &cell::run(&vec![trial.clone(); runs], 1), wrong);
    }
}

/// What grows by 1 MiB a second takes no processor, and so all of them run beside one another, as far as there is memory.
fn run_slow(place: Place, start: Start) {
    let mut wrong = Vec::new();
    let trials: Vec<Trial> = LIMITS.iter().flat_map(|&limit| kinds(&[SLOW], limit, place, start)).collect();
    for (trial, outcome) in trials.iter().zip(cell::run(&trials, 16)) {
        report(trial, &[outcome], &mut wrong);
    }
    judge(&wrong);
}

fn run_quiet(kinds: &[Trial], wrong: &mut Vec<String>) {
    let mut left = kinds;
    while !left.is_empty() {
        let mut room = ROOM;
        let fits = left.iter().take_while(|trial| {
            room -= trial.waits_with();
            room > 0.0
        });
        let (now, later) = left.split_at(fits.count().max(1));
        left = later;
        let running: Vec<Running> = now.iter().map(Trial::begin).collect();
        std::thread::sleep(QUIET);
        for (trial, running) in now.iter().zip(running) {
            report(trial, &[running.race()], wrong);
        }
    }
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_cold_as_pid_1() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_cold(&kinds(&RATES, limit, Place::Init, Start::Cold), 1, &mut wrong));
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_cold_below_another_init() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_cold(&kinds(&RATES, limit, Place::Below, Start::Cold), 1, &mut wrong));
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_after_quiet() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_quiet(&kinds(&RATES, limit, Place::Init, Start::Quiet(QUIET)), &mut wrong));
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_slow_as_pid_1() {
    run_slow(Place::Init, Start::Cold);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_slow_below_another_init() {
    run_slow(Place::Below, Start::Cold);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_slow_after_quiet() {
    run_slow(Place::Init, Start::Quiet(QUIET));
}

/// 64 MiB flat out is the physical edge: from the line to the limit there are a few milliseconds. Reported, not judged.
#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_edge_of_64_mib() {
    for threads in [1, 2] {
        for manner in [Manner::Well, Manner::Deaf] {
            let trial = Trial { threads, manner, limit: 64, ..Trial::default() };
            let outcomes = cell::run(&vec![trial.clone(); 25], 1);
            println!("{}", cell::line(&trial, &outcomes));
        }
    }
}

/// The burst nothing announces: from next to nothing, as fast as this machine can, between two looks.
#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_bursts_from_nothing() {
    let mut wrong = Vec::new();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    for limit in LIMITS {
        let threads = u32::try_from(threads).unwrap().max(2);
        run_cold(&[Trial { threads, limit, ..Trial::default() }], 20, &mut wrong);
    }
    judge(&wrong);
}

/// Where there is least time with the settings as they are by default: from where a spike may turn to where it is too late there are 10 MiB.
#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_small_and_flat_out() {
    let mut wrong = Vec::new();
    for start in [Start::Cold, Start::Quiet(Duration::from_millis(300))] {
        for threads in [1, 2] {
            for manner in [Manner::Well, Manner::Deaf] {
                run_cold(&[Trial { threads, manner, start, limit: 128, guard: Guard::Default, ..Trial::default() }], 10, &mut wrong);
            }
        }
    }
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_huge_pages() {
    let mut wrong = Vec::new();
    let huge = |limit, threads| Trial { huge: true, limit, threads, ..Trial::default() };
    run_cold(&[huge(256, 1), huge(256, 2), huge(1024, 1), huge(1024, 2)], 10, &mut wrong);
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_with_a_fifth_of_a_processor() {
    let mut wrong = Vec::new();
    for rate in [Rate::PerSecond(20.0), Rate::PerSecond(100.0), Rate::PerSecond(400.0), Rate::Flat] {
        for (manner, limit) in [(Manner::Well, 256), (Manner::Deaf, 256), (Manner::Well, 128), (Manner::Deaf, 512)] {
            run_cold(&[Trial { rate, manner, limit, quota: Some(0.2), ..Trial::default() }], 5, &mut wrong);
        }
    }
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_beside_four_busy_loops() {
    let mut wrong = Vec::new();
    for rate in [Rate::PerSecond(20.0), Rate::PerSecond(100.0), Rate::PerSecond(400.0), Rate::PerSecond(1500.0), Rate::Flat] {
        for (manner, limit) in [(Manner::Well, 256), (Manner::Deaf, 256), (Manner::Well, 128), (Manner::Deaf, 512)] {
            run_cold(&[Trial { rate, manner, limit, busy: 4, ..Trial::default() }], 5, &mut wrong);
        }
    }
    judge(&wrong);
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_in_docker() {
    let mut wrong = Vec::new();
    for rate in std::iter::once(SLOW).chain(RATES) {
        for (manner, limit, threads, guard) in [
            (Manner::Well, 256, 1, Guard::AtOnce),
            (Manner::Deaf, 256, 2, Guard::AtOnce),
            (Manner::Well, 512, 2, Guard::Default),
            (Manner::Deaf, 128, 1, Guard::Default),
        ] {
            let start = Start::Quiet(Duration::from_secs(1));
            run_cold(&[Trial { rate, manner, limit, threads, guard, start, place: Place::Docker, ..Trial::default() }], 3, &mut wrong);
        }
    }
    judge(&wrong);
}
