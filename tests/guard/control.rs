//! The control experiment: without a guard every leak ends with the kernel's OOM killer, and this harness sees it.

use std::time::Duration;

use super::cell;
use super::stage::Place;
use super::trial::{Guard, Manner, Rate, Start, Trial};

#[test]
fn without_a_guard_the_kernel_kills_and_the_harness_counts_it() {
    let trial = |rate, threads, manner, start, place| Trial {
        rate,
        threads,
        manner,
        start,
        place,
        limit: 128,
        guard: Guard::Off,
        ..Trial::default()
    };
    let quiet = Start::Quiet(Duration::from_millis(200));
    let trials = [
        trial(Rate::Flat, 1, Manner::Well, Start::Cold, Place::Init),
        trial(Rate::Flat, 2, Manner::Deaf, quiet, Place::Below),
        trial(Rate::PerSecond(400.0), 2, Manner::Well, Start::Cold, Place::Below),
        trial(Rate::PerSecond(100.0), 1, Manner::Deaf, quiet, Place::Init),
    ];
    let trials = trials.into_iter().chain([Trial { place: Place::Docker, limit: 128, guard: Guard::Off, ..Trial::default() }]);
    let trials: Vec<Trial> = trials.collect();
    let outcomes = cell::run(&trials, 2);
    for (trial, outcome) in trials.iter().zip(&outcomes) {
        println!("{}", cell::line(trial, std::slice::from_ref(outcome)));
        assert_eq!(outcome.oom, 1, "{outcome:#?}\n{}", outcome.log);
        assert!(outcome.peak > 97.0, "{outcome:#?}\n{}", outcome.log);
        assert!(outcome.others_kept, "{outcome:#?}\n{}", outcome.log);
        assert_eq!(outcome.act, None, "{}", outcome.log);
    }
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_without_a_guard() {
    let rates = [Rate::PerSecond(20.0), Rate::PerSecond(100.0), Rate::PerSecond(400.0), Rate::PerSecond(1500.0), Rate::Flat];
    for rate in rates {
        for limit in [128, 256, 512, 1024] {
            let trial = Trial { rate, limit, guard: Guard::Off, ..Trial::default() };
            let outcomes = cell::run(std::slice::from_ref(&trial), 1);
            println!("{}", cell::line(&trial, &outcomes));
            assert_eq!(outcomes[0].oom, 1, "{}", outcomes[0].log);
        }
    }
}
