//! The memory guard on virtual time: the real engine in a container whose programs leak, burst, collect garbage, fork and settle.
//!
//! `docs/design/guard-simulation.md` says what is modelled, what is judged, and what came out. `FIRSTMATE_GUARD_TRACES` sets how many
//! random traces of each kind are played, `FIRSTMATE_GUARD_KIND=Leak FIRSTMATE_GUARD_SEED=7` prints one with its trace, and
//! `make guard-figures` prints the figures.
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

mod case;
mod chance;
mod course;
mod figures;
mod judge;
mod random;
mod scenarios;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use firstmate::engine::memory::{Act, Helpless, Rule};
use firstmate::engine::spec::{Amount, ServiceMemory, Victim};
use firstmate::engine::{InstanceId, ServiceId, Signal};

use case::{Case, Clock, Nature, Program, Sight, by_signal};
use course::{Course, MB, MIB};
use judge::Report;
use random::Kind;
use scenarios::{FLAT_OUT, FLAT_OUT_TWO, Manners};

/// Traces that failed once. A seed is a trace only as long as the world draws the same chances: after a change of the world, plant the
/// old fault again (`tests/guard_sim/mutations` has most of them) and keep the seed that finds it now.
const ONCE_FAILED: &[(Kind, u64)] = &[
    // Acted between the re-arming line and the line.
    (Kind::Snapshot, 6),
    // Restarted a neighbour of what had settled.
    (Kind::Plateau, 4),
    // Took for new what is there in every cycle.
    (Kind::Several, 2),
    // Took for usual what a leak had reached within a minute, and ended the largest.
    (Kind::Several, 30),
    // Followed a step across the line by its noise.
    (Kind::Sawtooth, 0),
    // A forecast for what settles just below the line, again and again.
    (Kind::Plateau, 69),
];

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
                    let (mut report, result) = world::play(case);
                    report.broken = result.err();
                    results.lock().unwrap()[index] = Some(report);
                }
            });
        }
    });
    cases.into_iter().zip(results.into_inner().unwrap().into_iter().flatten()).collect()
}

/// Stops with the trace of the first of which that does not hold.
#[track_caller]
fn hold(runs: &[(Case, Report)], what: &str, holds: impl Fn(&Case, &Report) -> bool) {
    let failed: Vec<&(Case, Report)> = runs.iter().filter(|(case, report)| !holds(case, report)).collect();
    if let Some((case, report)) = failed.first() {
        let names: Vec<String> = failed.iter().map(|(case, _)| format!("{} (seed {})", case.name, case.seed)).collect();
        let trace = world::trace(case);
        panic!("{what}: not in {} of {}: {}\n{trace}\n{report:#?}", failed.len(), runs.len(), names.join(", "));
    }
}

fn unbroken(_: &Case, report: &Report) -> bool {
    report.broken.is_none()
}

fn no_oom(_: &Case, report: &Report) -> bool {
    report.ooms.is_empty() && !report.lost
}

fn no_act(_: &Case, report: &Report) -> bool {
    report.acts.is_empty()
}

fn only_the_guilty(_: &Case, report: &Report) -> bool {
    report.acts.iter().all(|act| act.nature != Nature::Harmless)
}

/// How many random traces of a kind: more where the world is optimised, and as many as are asked for.
fn traces(optimised: u64) -> u64 {
    match std::env::var("FIRSTMATE_GUARD_TRACES") {
        Ok(number) => number.parse().expect("FIRSTMATE_GUARD_TRACES is a number"),
        Err(_) if is_unoptimised() => (optimised / 10).max(2),
        Err(_) => optimised,
    }
}

/// By the folder cargo built this in: the profile `sim` is optimised and keeps its debug assertions.
fn is_unoptimised() -> bool {
    std::env::current_exe().is_ok_and(|path| path.ancestors().nth(2).is_some_and(|folder| folder.ends_with("debug")))
}

fn random(kind: Kind, count: u64) -> Vec<(Case, Report)> {
    play_all((0..traces(count)).map(|seed| random::case(kind, seed)).collect())
}

#[test]
fn traces_that_failed_once() {
    let wanted = (std::env::var("FIRSTMATE_GUARD_KIND"), std::env::var("FIRSTMATE_GUARD_SEED"));
    if let (Ok(kind), Ok(seed)) = wanted {
        let kind = Kind::ALL.into_iter().find(|known| format!("{known:?}") == kind).expect("FIRSTMATE_GUARD_KIND is a kind");
        let case = random::case(kind, seed.parse().expect("FIRSTMATE_GUARD_SEED is a number"));
        println!("{}", world::trace(&case));
        return;
    }
    let runs = play_all(ONCE_FAILED.iter().map(|(kind, seed)| random::case(*kind, *seed)).collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the guilty", only_the_guilty);
    hold(&runs, "a plateau at most once", |_, report| report.acts_on(Nature::Settles) <= 1);
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_last_byte() {
    for kind in Kind::ALL {
        let mut case = random::case(kind, 3);
        case.secs = case.secs.min(300.0);
        let first = world::trace(&case);
        assert!(first.lines().count() > 10, "{first}");
        assert_eq!(first, world::trace(&case), "{kind:?}");
    }
}

const RATES: [f64; 7] = [1.0, 20.0, 100.0, 400.0, 1_500.0, FLAT_OUT, FLAT_OUT_TWO];

fn leakers(seeds: u64, confirm: f64) -> Vec<Case> {
    let mut cases = Vec::new();
    for rate in RATES {
        for limit in [128.0, 256.0, 512.0, 1_024.0] {
            for manners in [Manners::Quick, Manners::Slow, Manners::Deaf] {
                for quiet in [0.0, 120.0] {
                    for seed in 0..seeds {
                        cases.push(scenarios::leak(rate, limit, manners, quiet, confirm, seed));
                    }
                }
            }
        }
    }
    cases
}

/// In MB/s: a leaker's name tells.
fn rate_of(case: &Case) -> f64 {
    case.name.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn leakers_of_every_rate_are_ended_before_the_kernel_does_it() {
    let runs = play_all(leakers(traces(6), 10.0));
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
    hold(&runs, "it is acted on, never past 96 %", |_, report| report.decided().is_some_and(|(_, high)| high <= 96.0));
    hold(&runs, "a grace period that ends by memory", |_, report| report.peak < 99.5);
    hold(&runs, "the kernel would have been steered", |case, report| report.steered > 0 || rate_of(case) > 400.0);
    hold(&runs, "nothing is said to be larger than it is", |_, report| report.acts.iter().all(|act| act.overstated < 0.1));
}

#[test]
fn without_confirm_leakers_are_ended_at_the_line() {
    let runs = play_all(leakers(traces(6), 0.0));
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
    hold(&runs, "up to 400 MB/s between 75 and 80 %, beyond at 92 % at the most", |case, report| {
        let most = if rate_of(case) <= 400.0 { 80.0 } else { 92.0 };
        report.decided().is_some_and(|(low, high)| low >= 74.0 && high <= most)
    });
}

#[test]
fn nothing_harmless_is_ever_restarted() {
    let runs = play_all((0..traces(2)).flat_map(scenarios::harmless).collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no act", no_act);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "one warning at the most", |_, report| report.near <= 2 && report.helpless.is_empty() && report.plateaus == 0);
}

#[test]
fn tmpfs_of_a_dead_process_is_named_once_and_nobody_is_blamed() {
    let runs = play_all((0..traces(5)).map(scenarios::dead_tmpfs).collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no act", no_act);
    hold(&runs, "one message that names it", |_, report| {
        report.helpless.len() == 1
            && matches!(&report.helpless[0].1, Helpless::Tmpfs { places, .. } if places.iter().any(|(place, _)| place == "/dev/shm"))
    });
}

/// Between the line and the limit, whenever it was filled: ending the small ones beside it gives nothing back that lasts.
#[test]
fn what_no_restart_gives_back_is_no_reason_for_one_at_the_hard_line_either() {
    let mut cases = Vec::new();
    for percent in [78.0, 81.0, 82.5, 84.5] {
        for after in [0.0, 0.5, 5.0, 30.0, 300.0] {
            let filled = |seed| Case { secs: 600.0, ..scenarios::dead_tmpfs_from(seed, percent, after) };
            cases.extend((0..traces(2)).map(filled));
        }
    }
    let runs = play_all(cases);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "below the emergency line", |_, report| report.peak < 95.0);
    hold(&runs, "no act", no_act);
    hold(&runs, "one message that names it", |_, report| {
        report.helpless.len() == 1 && matches!(&report.helpless[0].1, Helpless::Tmpfs { .. })
    });
    // What leaks beside it is still ended, again and again.
    let cases = (0..traces(6)).flat_map(|seed| {
        [0.5, 20.0, 400.0].map(|rate| {
            let leaker = Program::new("leaker", 3.0 * MIB).leaks(Course::after(60.0, Course::leak(rate * MB)));
            Case { secs: 600.0, ..scenarios::dead_tmpfs_from(seed, 80.0, 30.0).with(leaker) }
        })
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
    hold(&runs, "and it is", |_, report| report.acts_on(Nature::Leaks) > 1);
}

#[test]
fn the_status_says_beyond_help_above_the_hard_line_alone() {
    // With what the services hold, which may not be restarted, it is a tenth more: once between the line and the hard line, once above that.
    let filled = |percent: f64| {
        let cases = (0..traces(3)).map(|seed| {
            let case = scenarios::dead_tmpfs_of(seed, percent);
            let never = ServiceMemory { victim: Victim::Never, ..ServiceMemory::default() };
            let programs = case.programs.iter().cloned().map(|program| Program { memory: never, ..program });
            Case { programs: programs.collect(), ..case }
        });
        play_all(cases.collect())
    };
    let runs = filled(75.0);
    hold(&runs, "said, and not beyond help", |_, report| !report.helpless.is_empty() && !report.beyond_help);
    let runs = filled(84.5);
    hold(&runs, "above the hard line", |_, report| report.peak > 92.0);
    hold(&runs, "beyond help", |_, report| !report.helpless.is_empty() && report.beyond_help);
    let runs = play_all((0..traces(2)).flat_map(scenarios::harmless).collect());
    hold(&runs, "fine", |_, report| !report.beyond_help);
}

#[test]
fn a_plateau_costs_one_restart_and_one_warning_in_four_hours() {
    let levels = [(76.5, 5.0), (78.0, 2.0), (78.0, 60.0), (78.0, 900.0), (82.0, 30.0), (86.0, 300.0), (88.0, 1_200.0)];
    let cases = (0..traces(2)).flat_map(|seed| {
        levels.iter().map(move |(percent, within)| {
            scenarios::plateau(seed, *percent, *within, if seed % 2 == 0 { 1_024.0 } else { 256.0 }, 14_400.0)
        })
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "at most one restart, in the first hour", |_, report| {
        report.acts.len() <= 1 && report.acts.iter().all(|act| act.at < 3_600.0)
    });
    hold(&runs, "then one warning", |_, report| report.plateaus <= 1 && report.helpless.len() <= 1 && report.near <= 3);
    let warned = runs.iter().filter(|(_, report)| report.plateaus == 1).count();
    assert!(warned * 2 > runs.len(), "only {warned} of {} plateaus are reported", runs.len());
}

#[test]
fn random_leaks_and_bursts_never_reach_the_oom_killer() {
    let runs = [random(Kind::Leak, 60), random(Kind::Burst, 60)].concat();
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
    let acts: usize = runs.iter().map(|(_, report)| report.acts.len()).sum();
    assert!(acts > runs.len(), "a simulation in which nothing happens proves nothing: {acts} acts");
}

#[test]
fn random_snapshots_spikes_and_steady_loads_are_left_alone() {
    for kind in [Kind::Snapshot, Kind::Spikes, Kind::Steady] {
        let runs = random(kind, 30);
        hold(&runs, "every invariant", unbroken);
        hold(&runs, "no act", no_act);
        hold(&runs, "no OOM kill", no_oom);
    }
}

#[test]
fn random_slow_sawtooths_are_left_alone() {
    let runs = random(Kind::Sawtooth, 20);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    let touched = runs.iter().filter(|(_, report)| !report.acts.is_empty()).count();
    // One that grows for the first time cannot be told from a leak: MEMORY had 15 of 40.
    assert!(touched * 20 <= runs.len(), "{touched} of {} sawtooths saw an act", runs.len());
}

#[test]
fn random_plateaus_are_restarted_once_at_the_most() {
    let runs = random(Kind::Plateau, 20);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "nobody else", only_the_guilty);
    let more = runs.iter().filter(|(_, report)| report.acts.len() > 1).count();
    assert!(more * 50 <= runs.len(), "{more} of {} plateaus saw more than one act", runs.len());
}

#[test]
fn among_several_services_the_leaker_is_chosen() {
    let runs = random(Kind::Several, 80);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
    hold(&runs, "it is acted on", |_, report| !report.acts.is_empty());
}

#[test]
fn of_anything_beside_anything_only_what_leaks_is_chosen() {
    let runs = random(Kind::Mixed, 60);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only what leaks", only_the_guilty);
}

#[test]
fn starved_of_processor_time_it_is_in_time_all_the_same() {
    let clocks = [
        Clock::Busy { worst: 0.02, share: 0.5 },
        Clock::Busy { worst: 0.05, share: 0.3 },
        Clock::Quota { period: 0.1, run: 0.02 },
        Clock::Quota { period: 0.1, run: 0.05 },
    ];
    let mut cases = Vec::new();
    for clock in clocks {
        for rate in [20.0, 400.0, FLAT_OUT] {
            for limit in [256.0, 1_024.0] {
                for seed in 0..traces(5) {
                    let case = scenarios::leak(rate, limit, Manners::Slow, 20.0, 10.0, seed);
                    cases.push(Case { clock, secs: case.secs * 3.0, ..case });
                }
            }
        }
    }
    let runs = play_all(cases);
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "only the leaker", only_the_guilty);
    let lost = runs.iter().filter(|(_, report)| !report.ooms.is_empty()).count();
    assert!(lost * 50 <= runs.len(), "{lost} of {} OOM kills", runs.len());
}

#[test]
fn with_oom_group_the_container_is_not_lost() {
    let cases = (0..traces(10)).flat_map(|seed| {
        [100.0, 1_500.0, FLAT_OUT_TWO].map(|rate| Case { oom_group: true, ..scenarios::leak(rate, 256.0, Manners::Deaf, 5.0, 10.0, seed) })
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "the container lives", no_oom);
}

#[test]
fn what_cannot_be_seen_is_never_a_reason_to_act() {
    for sight in [Sight::NoProcesses, Sight::Nothing] {
        let cases = (0..traces(4)).map(|seed| Case { sight, ..scenarios::leak(5.0, 256.0, Manners::Quick, 10.0, 10.0, seed) });
        let runs = play_all(cases.collect());
        hold(&runs, "every invariant", unbroken);
        hold(&runs, "no act without a number", no_act);
    }
    // Without smaps_rollup bounds are left, and they are enough: a prefork server whose sums are far above the limit is not blamed.
    let cases = (0..traces(10)).flat_map(|seed| {
        let leak = Case { sight: Sight::NoPss, ..scenarios::among_others(seed) };
        let still = Case { sight: Sight::NoPss, ..random::case(Kind::Snapshot, seed) };
        [leak, still]
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
}

#[test]
fn with_cgroups_of_their_own_leakers_are_braked() {
    let cases = (0..traces(6)).flat_map(|seed| {
        [100.0, 400.0, FLAT_OUT].map(|rate| {
            let mut case = Case { sight: Sight::Cgroups, ..scenarios::leak(rate, 256.0, Manners::Slow, 5.0, 10.0, seed) };
            case.memory.cgroups = true;
            case
        })
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
}

/// Below the container's line, above its own: after `confirm`, or as soon as possible.
#[test]
fn a_line_of_its_own_holds_for_each_instance() {
    let own = ServiceMemory { restart_above: Some(Amount::Percent(30.0)), ..ServiceMemory::default() };
    let cases = (0..traces(6)).map(|seed| {
        let case = Case::new("a line of its own", seed, 1_024.0, 1_800.0);
        let first = case.share(5.0);
        let leaker = Program { memory: own, instances: 2, ..Program::new("worker", first).leaks(Course::leak(1.0 * MB)) };
        case.with(leaker).with(Program::new("web", first))
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "acts by its own line, not far above it", |_, report| {
        report.acts_on(Nature::Leaks) >= 4 && report.acts.iter().all(|act| act.rule == Rule::Own)
    });
    hold(&runs, "both instances", |_, report| (1..=2).all(|number| report.acts.iter().any(|act| act.run.instance.number == number)));
}

#[test]
fn on_a_machine_without_a_limit_only_what_is_beyond_its_own_line_is_ended() {
    let own = ServiceMemory { restart_above: Some(Amount::Bytes(300 << 20)), ..ServiceMemory::default() };
    let cases = (0..traces(6)).map(|seed| {
        let case = Case { machine: true, ..Case::new("a machine", seed, 4_096.0, 1_200.0) };
        let strangers = (case.share(60.0), Course::Wobble { at: case.share(84.0), by: case.share(4.0), every: 30.0 });
        let worker = Program { memory: own, ..Program::new("worker", 40.0 * MIB).leaks(Course::leak(2.0 * MB)) };
        Case { strangers, ..case }.with(worker).with(Program::new("web", 100.0 * MIB))
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "only the leaker, and only beyond its own line", |_, report| {
        !report.acts.is_empty()
            && report.acts.iter().all(|act| matches!(act.rule, Rule::Own | Rule::Emergency) && act.nature == Nature::Leaks)
    });
}

#[test]
fn an_action_by_signal_gets_its_chance_and_a_restart_follows_where_it_does_not_help() {
    let case = |seed: u64, relieved: bool| {
        let case = Case::new("an action by signal", seed, 512.0, 1_500.0);
        let first = case.share(8.0);
        let leaker = Program {
            memory: by_signal(Signal::from_number(12).unwrap()),
            relieved,
            ..Program::new("unicorn", first).leaks(Course::leak(2.0 * MB))
        };
        case.with(leaker).with(Program::new("web", first))
    };
    let signal = |report: &Report| report.acts.iter().filter(|act| matches!(act.act, Act::Signal(_))).count();
    let helped = play_all((0..traces(6)).map(|seed| case(seed, true)).collect());
    hold(&helped, "every invariant", unbroken);
    hold(&helped, "the signal is tried", |_, report| signal(report) > 0);
    let not = play_all((0..traces(6)).map(|seed| case(seed, false)).collect());
    hold(&not, "every invariant", unbroken);
    hold(&not, "no OOM kill", no_oom);
    hold(&not, "a restart follows", |_, report| {
        signal(report) > 0 && report.acts.iter().any(|act| matches!(act.act, Act::Restart | Act::Kill))
    });
}

#[test]
fn who_must_not_be_chosen_is_not_and_who_comes_last_comes_last() {
    let cases = (0..traces(6)).map(|seed| {
        let case = scenarios::leak(5.0, 256.0, Manners::Quick, 5.0, 10.0, seed);
        let programs = case.programs.clone().into_iter().map(|program| {
            let victim = if program.nature == Nature::Leaks { Victim::Never } else { Victim::Auto };
            Program { memory: ServiceMemory { victim, ..ServiceMemory::default() }, ..program }
        });
        Case { programs: programs.collect(), ..case }
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "the leaker is spared", |_, report| report.acts_on(Nature::Leaks) == 0);
    hold(&runs, "and it is said", |_, report| {
        report.helpless.iter().any(|(_, why)| *why == Helpless::Forbidden) || !report.acts.is_empty()
    });
}

/// Redis that cannot finish its snapshot: its child doubles what is really there.
#[test]
fn a_snapshot_that_would_fill_the_container_is_ended_before_the_kernel_does_it() {
    let cases = (0..traces(4)).map(|seed| scenarios::published(seed).remove(7));
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "it is acted on, and not before the hard line", |_, report| report.decided().is_some_and(|(low, _)| low >= 90.0));
}

/// A fork that holds what its parent holds excuses no leak for long.
#[test]
fn a_leak_behind_what_looks_like_a_snapshot_is_ended_in_time() {
    let cases = (0..traces(6)).flat_map(|seed| {
        [5.0, 100.0, FLAT_OUT].map(|rate| {
            let mut case = scenarios::leak(rate, 256.0, Manners::Quick, 5.0, 10.0, seed);
            case.programs[0].looks_forked = true;
            case
        })
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "only the leaker", only_the_guilty);
}

/// One more than fits: neither a leak nor a plateau of one.
#[test]
fn many_that_are_too_much_together_are_reported_not_restarted_in_turn() {
    let cases = (0..traces(4)).map(|seed| {
        let case = Case::new("too many", seed, 1_024.0, 7_200.0);
        let each = case.share(78.0 / 6.0) - 2.0 * MIB;
        (0..6).fold(case, |case, _| case.with(Program::new("one", each).heap(Course::Wobble { at: each, by: each * 0.02, every: 7.0 })))
    });
    let runs = play_all(cases.collect());
    hold(&runs, "every invariant", unbroken);
    hold(&runs, "no OOM kill", no_oom);
    hold(&runs, "two restarts at the most", |_, report| report.acts.len() <= 2);
    hold(&runs, "and it is said", |_, report| !report.helpless.is_empty() || report.plateaus > 0);
}

/// The judge judges: each of these is a history that must be found bad.
#[test]
fn without_a_guard_the_kernel_kills() {
    let guilty = [scenarios::leak(100.0, 256.0, Manners::Quick, 0.0, 10.0, 1), random::case(Kind::Burst, 1)];
    let runs = play_all(guilty.iter().map(Case::unguarded).collect());
    hold(&runs, "it is the kernel that ends it", |_, report| !report.ooms.is_empty() && report.acts.is_empty());
    let harmless: Vec<Case> = scenarios::harmless(1)
        .iter()
        .chain(&(0..5).map(|seed| random::case(Kind::Sawtooth, seed)).collect::<Vec<_>>())
        .map(Case::unguarded)
        .collect();
    hold(&play_all(harmless), "what is called harmless stays below the limit by itself", no_oom);
    let first = InstanceId { service: ServiceId(0), number: 1 };
    assert!(runs.iter().all(|(case, _)| case.programs[first.service.0].nature == Nature::Leaks));
}

/// Prints the tables of `docs/design/guard-simulation.md`: `make guard-figures`.
#[test]
#[ignore = "takes minutes; make guard-figures"]
fn figures() {
    figures::print();
}
