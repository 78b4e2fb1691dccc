//! The memory guard on virtual time: the real engine in a container whose programs leak, burst, collect garbage, fork and settle.
//!
//! `docs/design/guard-simulation.md` says what is modelled, what is judged, and what came out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test stops at the first surprise"
)]

mod case;
mod chance;
mod course;
mod judge;
mod random;
mod scenarios;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;
use judge::Report;

/// Plays them all, on all processors; the order is kept.
fn play_all(cases: Vec<Case>) -> Vec<(Case, Report)> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Report>>> = Mutex::new(vec![None; cases.len()]);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { return };
                    let (mut report, result) = world::play(case, false);
                    report.broken = result.err();
                    results.lock().unwrap()[index] = Some(report);
                }
            });
        }
    });
    cases.into_iter().zip(results.into_inner().unwrap().into_iter().flatten()).collect()
}

#[test]
fn explore() {
    use random::Kind;
    let count: u64 = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let only = std::env::var("KIND").ok();
    let seed = std::env::var("SEED").ok().and_then(|n| n.parse::<u64>().ok());
    for kind in Kind::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{kind:?}")) {
            continue;
        }
        if let Some(seed) = seed {
            let case = random::case(kind, seed);
            println!("{}", case.describe());
            println!("{}", world::trace(&case));
            continue;
        }
        let began = std::time::Instant::now();
        let runs = play_all((0..count).map(|seed| random::case(kind, seed)).collect());
        summary(&format!("{kind:?}"), &runs);
        println!("   {:.1} s", began.elapsed().as_secs_f64());
    }
}

fn summary(name: &str, runs: &[(Case, Report)]) {
    let mut acts = 0;
    let (mut false_acts, mut ooms, mut kills, mut needless, mut restarted, mut more) = (0, 0, 0, 0, 0, 0);
    let mut worst: f64 = 0.0;
    let mut ticks = 0.0;
    let mut accounts = 0.0;
    let mut secs = 0.0;
    for (case, report) in runs {
        acts += report.acts.len();
        false_acts += report.false_acts();
        ooms += report.ooms.len();
        kills += report.kills();
        needless += report.needless_kills();
        restarted += usize::from(!report.acts.is_empty());
        more += usize::from(report.acts_on(case::Nature::Settles) > 1);
        worst = worst.max(report.decided().map_or(0.0, |(_, high)| high));
        ticks += report.ticks as f64;
        accounts += report.accounts as f64;
        secs += report.secs;
        if report.broken.is_some()
            || !report.ooms.is_empty()
            || report.false_acts() > 0
            || report.acts_on(case::Nature::Settles) > 1
            || std::env::var("V").is_ok()
        {
            let acts: Vec<String> = report
                .acts
                .iter()
                .take(6)
                .map(|act| format!("{:.1}s {:?}/{:?}@{:.1}", act.at, act.rule, act.nature, act.percent))
                .collect();
            println!(
                "   seed {} {} limit {:.0} MiB: ooms {:?} acts {} {acts:?} peak {:.1} near {} helpless {:?} plateaus {} {}",
                case.seed,
                case.name,
                case.limit / course::MIB,
                report.ooms,
                report.acts.len(),
                report.peak,
                report.near,
                report.helpless.len(),
                report.plateaus,
                report.broken.as_deref().unwrap_or_default(),
            );
        }
    }
    println!(
        "{name}: {} runs, {restarted} with an act ({more} with more than one on a plateau), acts {acts}, false {false_acts}, OOMs {ooms}, SIGKILLs {kills} ({needless} needless), highest {worst:.1} %, {:.1} looks/s, {:.2} accounts/s",
        runs.len(),
        ticks / secs,
        accounts / secs
    );
}
