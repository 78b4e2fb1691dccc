//! Leaks of every speed: the guard is there before the kernel, and chooses the one that leaks.
//!
//! Here is one of each kind; `matrix.rs` has them all.

use std::time::Duration;

use super::cell::run_and_judge;
use super::stage::Place;
use super::trial::{Guard, Manner, Rate, Start, Trial};

const SOON: Start = Start::Quiet(Duration::from_millis(300));

fn rate(mib: f64) -> Trial {
    Trial { rate: Rate::PerSecond(mib), ..Trial::default() }
}

#[test]
fn at_any_speed_it_acts_in_time() {
    run_and_judge(&[
        Trial { start: SOON, ..rate(1.0) },
        Trial { start: SOON, place: Place::Below, ..rate(20.0) },
        Trial { start: SOON, threads: 2, ..rate(100.0) },
        Trial { place: Place::Below, limit: 128, ..rate(100.0) },
        Trial { start: SOON, place: Place::Below, limit: 512, ..rate(400.0) },
        Trial { limit: 1024, threads: 2, ..rate(1500.0) },
        Trial { start: SOON, ..Trial::default() },
        Trial { start: SOON, threads: 2, limit: 512, ..Trial::default() },
        Trial { threads: 2, place: Place::Below, limit: 1024, ..Trial::default() },
    ]);
}

#[test]
fn one_that_is_deaf_to_sigterm_is_killed_before_the_kernel_does_it() {
    let deaf = |trial: Trial| Trial { manner: Manner::Deaf, start: SOON, ..trial };
    run_and_judge(&[
        deaf(Trial { threads: 2, limit: 128, ..rate(20.0) }),
        deaf(Trial { place: Place::Below, ..rate(100.0) }),
        deaf(Trial { limit: 512, ..rate(400.0) }),
        deaf(Trial { threads: 2, ..rate(1500.0) }),
        deaf(Trial { place: Place::Below, ..Trial::default() }),
        deaf(Trial { limit: 512, threads: 2, ..Trial::default() }),
    ]);
}

#[test]
fn with_the_settings_as_they_are_by_default_it_is_never_past_96_percent() {
    let usual = |trial: Trial| Trial { guard: Guard::Default, start: SOON, ..trial };
    run_and_judge(&[
        usual(rate(20.0)),
        usual(Trial { place: Place::Below, ..rate(100.0) }),
        usual(Trial { manner: Manner::Deaf, ..rate(400.0) }),
        usual(Trial { threads: 2, limit: 512, ..rate(1500.0) }),
        usual(Trial { manner: Manner::Deaf, ..Trial::default() }),
        usual(Trial { place: Place::Below, threads: 2, limit: 1024, ..Trial::default() }),
    ]);
}

#[test]
fn with_a_fifth_of_a_processor_or_a_busy_machine_it_is_in_time_all_the_same() {
    run_and_judge(&[
        Trial { quota: Some(0.2), start: SOON, ..Trial::default() },
        Trial { quota: Some(0.2), start: SOON, place: Place::Below, ..rate(100.0) },
        Trial { busy: 4, start: SOON, ..Trial::default() },
        Trial { busy: 4, start: SOON, place: Place::Below, manner: Manner::Deaf, ..rate(400.0) },
    ]);
}

#[test]
fn in_docker_with_default_capabilities_it_is_no_different() {
    let docker = |trial: Trial| Trial { place: Place::Docker, start: SOON, ..trial };
    run_and_judge(&[
        docker(rate(100.0)),
        docker(Trial { threads: 2, ..Trial::default() }),
        docker(Trial { manner: Manner::Deaf, guard: Guard::Default, ..rate(400.0) }),
    ]);
}

/// The counter moves in steps of what each processor charges ahead, which between two looks a few milliseconds apart are no sign of speed.
#[test]
fn a_slow_leak_in_a_small_container_is_asked_to_end_and_not_killed() {
    let trial = Trial { guard: Guard::Default, start: SOON, threads: 2, limit: 64, ..rate(4.0) };
    run_and_judge(&vec![trial; 2]);
}
