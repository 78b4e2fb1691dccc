//! Everything, for `make guard-matrix`: minutes to an hour, and so not part of `make test`. Each kind's line goes to standard output.

use std::time::Duration;

use super::cell::{self, faults};
use super::stage::Place;
use super::trial::{Guard, Manner, Outcome, Rate, Running, Start, Trial};

const RATES: [Rate; 6] =
    [Rate::PerSecond(1.0), Rate::PerSecond(20.0), Rate::PerSecond(100.0), Rate::PerSecond(400.0), Rate::PerSecond(1500.0), Rate::Flat];
const LIMITS: [u64; 4] = [128, 256, 512, 1024];
/// Minutes of quiet.
const QUIET: Duration = Duration::from_secs(120);
/// What services that wait may have in all, in MiB, so that the machine is not what runs out of memory.
const ROOM: f64 = 6.0 * 1024.0;

/// Every combination of rate, threads, manner and settings.
fn kinds(limit: u64, place: Place, start: Start) -> Vec<Trial> {
    let mut kinds = Vec::new();
    for rate in RATES {
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

fn is_slow(trial: &Trial) -> bool {
    trial.rate == Rate::PerSecond(1.0)
}

/// What must hold, and how close to the line it was decided.
fn report(trial: &Trial, outcomes: &[Outcome], wrong: &mut Vec<String>) {
    println!("{}", cell::line(trial, outcomes));
    for outcome in outcomes {
        let mut faults = faults(trial, outcome);
        let measured = matches!(trial.rate, Rate::PerSecond(rate) if rate <= 400.0)
            && trial.guard == Guard::AtOnce
            && trial.quota.is_none()
            && trial.busy == 0;
        if let Some(act) = outcome.act.as_ref().filter(|act| measured && act.percent > 80.0) {
            faults.push(format!("decided at {:.1} %, past 80 %", act.percent));
        }
        if !faults.is_empty() {
            wrong.push(format!("{}: {}\n{}", cell::line(trial, std::slice::from_ref(outcome)), faults.join("; "), outcome.log));
        }
    }
}

fn judge(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} trials went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Those that grow by 1 MiB a second take no processor, and so run beside one another; all others one after the other.
fn run_cold(kinds: &[Trial], runs: usize, wrong: &mut Vec<String>) {
    let (slow, fast): (Vec<&Trial>, Vec<&Trial>) = kinds.iter().partition(|trial| is_slow(trial));
    for (kinds, at_a_time) in [(slow, 8), (fast, 1)] {
        let all: Vec<Trial> = kinds.iter().flat_map(|&trial| vec![trial.clone(); runs]).collect();
        // In pieces, so that their lines come as they are made.
        for (trial, outcomes) in
            kinds.iter().zip(all.chunks(8 * runs).flat_map(|some| cell::run(some, at_a_time)).collect::<Vec<_>>().chunks(runs))
        {
            report(trial, outcomes, wrong);
        }
    }
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
        let (mut slow, mut fast) = (Vec::new(), Vec::new());
        for (trial, running) in now.iter().zip(running) {
            if is_slow(trial) { slow.push((trial, running)) } else { fast.push((trial, running)) }
        }
        std::thread::scope(|scope| {
            let racing: Vec<_> = slow.into_iter().map(|(trial, running)| (trial, scope.spawn(|| running.race()))).collect();
            for (trial, racing) in racing {
                report(trial, &[racing.join().unwrap()], wrong);
            }
        });
        for (trial, running) in fast {
            report(trial, &[running.race()], wrong);
        }
    }
}

#[test]
#[ignore = "an hour; make guard-matrix"]
fn matrix_cold_as_pid_1() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_cold(&kinds(limit, Place::Init, Start::Cold), 1, &mut wrong));
    judge(&wrong);
}

#[test]
#[ignore = "an hour; make guard-matrix"]
fn matrix_cold_below_another_init() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_cold(&kinds(limit, Place::Below, Start::Cold), 1, &mut wrong));
    judge(&wrong);
}

#[test]
#[ignore = "an hour; make guard-matrix"]
fn matrix_after_quiet() {
    let mut wrong = Vec::new();
    LIMITS.iter().for_each(|&limit| run_quiet(&kinds(limit, Place::Init, Start::Quiet(QUIET)), &mut wrong));
    judge(&wrong);
}

/// 64 MiB flat out is the physical edge: from the line to the limit there are a few milliseconds. Reported, not judged.
#[test]
#[ignore = "an hour; make guard-matrix"]
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
#[ignore = "an hour; make guard-matrix"]
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
#[ignore = "an hour; make guard-matrix"]
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
#[ignore = "an hour; make guard-matrix"]
fn matrix_huge_pages() {
    let mut wrong = Vec::new();
    let huge = |limit, threads| Trial { huge: true, limit, threads, ..Trial::default() };
    run_cold(&[huge(256, 1), huge(256, 2), huge(1024, 1), huge(1024, 2)], 10, &mut wrong);
    judge(&wrong);
}

#[test]
#[ignore = "an hour; make guard-matrix"]
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
#[ignore = "an hour; make guard-matrix"]
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
#[ignore = "an hour; make guard-matrix"]
fn matrix_in_docker() {
    let mut wrong = Vec::new();
    for rate in RATES {
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
