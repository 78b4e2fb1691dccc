//! Item 2: a leaker beside the real programs. It is chosen, they keep their pids, and nobody who asks them notices.

use super::ground::{MIB, Place, matrix, report};
use super::load::Load;
use super::native::sandbox::{PATIENCE, until};
use super::stack::{SERVICES, Wish, crew};

/// Without a guard the kernel kills somebody, and the harness sees whom. So what the other tests do not see was not there.
#[test]
fn without_a_guard_the_kernel_kills_and_the_harness_sees_it() {
    let more = "
[memory]
restart_above = \"off\"
[services.leaker]
command = \"./leaker leak rate=400 when=go\"
";
    let ground = Wish::new("bare", Place::Native, more).start();
    let crew = crew(&ground);
    let load = Load::start(&ground, 3, "/");
    load.wait_for(200);
    let before = ground.memory();
    assert!(before.hard > 256 * MIB, "{before:?}");
    ground.touch("go");
    // The leaker begins anew as often as it is killed, so that in the end it is not the only one.
    let (kills, missing) = until("the kernel kills somebody", || {
        let (now, missing) = (ground.memory(), ground.missing(&crew));
        if now.oom_kills > 0 && !missing.is_empty() { Ok((now.oom_kills, missing)) } else { Err(format!("{now:?}")) }
    });
    let counted = load.finish();
    report(
        2,
        "no-guard",
        &ground,
        &format!("runs=1 oom={kills} answered={} lost={} gone={}", counted.answered, counted.lost, missing.join(",")),
    );
}

/// One leak from the start of the stack on, and all there is to see of it.
fn leak(place: Place, rate: &str, term: &str) {
    if rate == "max" {
        flat_out(place, term, 100);
    } else {
        leak_after(place, rate, term, 100);
    }
}

/// It begins once so many requests have been answered: few, and the others have only just begun themselves. `false`: the kernel was first.
fn leak_after(place: Place, rate: &str, term: &str, requests: u64) -> bool {
    let more = format!(
        "
[services.leaker]
command = \"./leaker leak rate={rate} term={term} when=run/go only-run=1 count=run/count\"
user = \"www-data\"
stop_timeout = \"5s\"
"
    );
    let case = if requests < 100 { format!("{rate}-{term}-young") } else { format!("{rate}-{term}") };
    let ground = Wish::new(&format!("beside-{case}"), place, &more).start();
    let crew = crew(&ground);
    let load = Load::start(&ground, 3, "/");
    load.wait_for(requests);
    let watch = ground.watch();
    ground.touch("run/go");
    // At 1 MB/s it takes minutes to the line, and from there to where it is sure to be a leak.
    let patience = if rate == "1" { PATIENCE * 10 } else { PATIENCE };
    let leaker = ground.wait_for("leaker.1", patience, "restarted and up again", |one| one.run > 1 && one.ready);
    load.wait_for(100);
    let counted = load.finish();
    let (peak, memory, missing) = (watch.peak(), ground.memory(), ground.missing(&crew));
    let acted = ground.acted();
    report(
        2,
        &case,
        &ground,
        &format!(
            "runs=1 chosen={} oom={} kept={}/{} answered={} lost={} rule={} decided={} peak={:.1}%",
            leaker.restarts.memory,
            memory.oom_kills,
            crew.len() - missing.len(),
            crew.len(),
            counted.answered,
            counted.lost,
            ground.rules(),
            ground.decided(),
            ground.percent(peak),
        ),
    );
    if rate == "max" && memory.oom_kills > 0 {
        // From the line to the limit it takes as long as firstmate, on a machine with too little to give, waits for its turn: then the kernel
        // was first. The guard at least must have chosen nobody else.
        let status = until("the status is told", || ground.status());
        let others =
            status.services.iter().filter(|service| SERVICES.contains(&service.name.as_str())).flat_map(|service| &service.instances);
        assert_eq!(others.map(|one| one.restarts.memory).sum::<u32>(), 0, "{acted:#?}\n{}", ground.tail());
        return false;
    }
    assert_eq!(memory.oom_kills, 0, "{acted:#?}\n{}", ground.tail());
    assert_eq!((leaker.restarts.memory, leaker.restarts.total), (1, 1), "{acted:#?}\n{}", ground.tail());
    assert!(missing.is_empty(), "{missing:?}\n{}", ground.log());
    assert_eq!(counted.lost, 0, "{:?}\n{}", counted.instead, ground.log());
    ground.assert_not_restarted(&SERVICES);
    true
}

/// A leak flat out of which the kernel was not the first to notice: at once where the machine has nothing else to do, and beside other tests in
/// three attempts at the most.
fn flat_out(place: Place, term: &str, requests: u64) {
    let attempts = if matrix() { 1 } else { 3 };
    assert!((0..attempts).any(|_| leak_after(place, "max", term, requests)), "the kernel was faster, {attempts} times");
}

/// Each of 20, 100, 400, 1500 MB/s and flat out, with SIGTERM obeyed and ignored, three times, and one of 1 MB/s: 31 runs. The sample has two
/// of them.
#[test]
fn the_leaker_is_chosen_and_nobody_else_notices() {
    if matrix() {
        leak(Place::Native, "1", "default");
        for _ in 0..3 {
            for rate in ["20", "100", "400", "1500", "max"] {
                leak(Place::Native, rate, "default");
                leak(Place::Native, rate, "ignore");
            }
        }
    } else {
        leak(Place::Native, "100", "ignore");
        leak(Place::Native, "max", "default");
    }
}

/// The others have grown as well, since they began a moment ago, and the leaker is as old as they are.
#[test]
fn a_stack_that_has_just_begun_is_spared() {
    let rounds = if matrix() { 5 } else { 1 };
    for _ in 0..rounds {
        flat_out(Place::Native, "default", 10);
    }
}

/// In Docker nobody may look into the workers of php-fpm, so that their share is an interval.
#[test]
fn the_leaker_is_chosen_in_docker() {
    if matrix() {
        for rate in ["20", "100", "400", "max"] {
            leak(Place::Docker, rate, "default");
            leak(Place::Docker, rate, "ignore");
        }
    } else {
        leak(Place::Docker, "100", "default");
    }
}
