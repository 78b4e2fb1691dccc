//! Who is chosen when the file has a word in it, and what is done to them.

use std::time::Duration;

use super::ground::{Ground, MIB, Place, report};
use super::native::sandbox::{PATIENCE, until};
use super::stack::Wish;

const CONFIRM: &str = "
[memory]
confirm = \"500ms\"
";
/// `confirm` grows to a multiple of itself for what stands still.
const LONG: Duration = Duration::from_secs(90);

/// Redis with half of 512 MiB and this word about it, nothing else but `more`.
fn redis(name: &str, victim: &str, more: &str) -> Ground {
    let more = format!("{CONFIRM}\n[services.redis.memory]\nvictim = \"{victim}\"\n{more}");
    let mut wish = Wish::new(name, Place::Native, &more);
    wish.redis_alone = true;
    wish.start()
}

/// Lets Redis grow by so many MiB, in steps that are no sudden burst.
fn grow(ground: &Ground, name: &str, mib: u64) {
    for step in 0..mib / 4 {
        ground.redis_ok(&format!("DEBUG POPULATE 16 {name}{step} {}", 256 * 1024), "+OK");
        super::ground::breathe(20);
    }
}

#[test]
fn who_may_never_be_chosen_is_not_even_when_only_it_would_help() {
    let ground = redis("never", "never", "[services.bystander]\ncommand = \"./leaker plateau size=6MiB\"\n");
    let pid = ground.leader("redis.1");
    grow(&ground, "more", 132);
    let said = until("it is told why nothing is done", || {
        let said = ground.said();
        said.iter().find(|line| line.contains("`victim = \"never\"`")).cloned().ok_or_else(|| ground.tail())
    });
    ground.for_as_long_as(Duration::from_secs(3), || {});
    let percent = ground.percent(ground.memory().hard);
    report(3, "victim-never", &ground, &format!("runs=1 restarts={} oom=0 hard={percent:.1}%", ground.acts()));
    assert!(percent > 75.0, "{percent}");
    assert!(said.contains("redis"), "{said}");
    assert_eq!(ground.leader("redis.1"), pid);
    ground.assert_quiet();
    ground.assert_not_restarted(&["redis", "bystander"]);
}

#[test]
fn who_comes_last_is_spared_for_one_who_grew_less() {
    let more = "[services.leaker]\ncommand = \"./leaker plateau size=66MiB over=2s when=run/go only-run=1 count=run/count\"\n";
    let ground = redis("last-spared", "last", more);
    ground.touch("run/go");
    grow(&ground, "more", 76);
    let leaker = ground.wait_for("leaker.1", LONG, "restarted", |one| one.run > 1);
    report(2, "victim-last-spared", &ground, &format!("runs=1 chosen=leaker rule={} oom={}", ground.rules(), ground.memory().oom_kills));
    assert_eq!(leaker.restarts.memory, 1, "{leaker:?}");
    assert_eq!(ground.memory().oom_kills, 0);
    ground.assert_not_restarted(&["redis"]);
}

#[test]
fn who_comes_last_is_chosen_when_nobody_else_would_do() {
    let ground = redis("last-chosen", "last", "[services.bystander]\ncommand = \"./leaker plateau size=6MiB\"\n");
    grow(&ground, "more", 132);
    let redis = ground.wait_for("redis.1", LONG, "restarted and up again", |one| one.run > 1 && one.ready);
    report(2, "victim-last-chosen", &ground, &format!("runs=1 chosen=redis rule={} oom={}", ground.rules(), ground.memory().oom_kills));
    assert_eq!((redis.restarts.memory, redis.restarts.total), (1, 1), "{redis:?}\n{}", ground.log());
    assert_eq!(ground.memory().oom_kills, 0);
    ground.assert_not_restarted(&["bystander"]);
}

/// A line of its own, in bytes, far below the container's: only the instance that crosses it is restarted.
fn own_line(place: Place) {
    let more = format!(
        "{CONFIRM}
[services.worker]
command = \"sh -c 'exec ./leaker leak rate=40 size=110MiB when=run/go.$PS base=40MiB'\"
instances = 2
user = \"www-data\"
memory = {{ restart_above = \"96MiB\" }}
"
    );
    let ground = Ground::plain(place, "own-line", 512 * MIB, &more, false);
    ground.wait_until_well();
    ground.touch("run/go.worker.2");
    let second = ground.wait_for("worker.2", LONG, "restarted", |one| one.restarts.total > 0);
    std::fs::remove_file(ground.path().join("run/go.worker.2")).unwrap();
    let percent = ground.percent(ground.memory().hard);
    report(
        2,
        "own-line-of-one-instance",
        &ground,
        &format!("runs=1 chosen=worker.2 rule={} oom={}", ground.rules(), ground.memory().oom_kills),
    );
    assert_eq!(second.restarts.memory, second.restarts.total, "{second:?}");
    let first = until("the status is told", || ground.instance("worker.1"));
    assert_eq!((first.run, first.restarts.total), (1, 0), "{first:?}\n{}", ground.log());
    assert!(percent < 70.0, "{percent}: it was the container's line");
    assert_eq!(ground.memory().oom_kills, 0);
}

#[test]
fn a_line_of_its_own_concerns_one_instance() {
    own_line(Place::Native);
}

#[test]
fn a_line_of_its_own_concerns_one_instance_in_docker() {
    own_line(Place::Docker);
}

/// Grows to 140 MiB and stays; gives everything back when it gets SIGUSR2.
const GIVES_BACK: &str = r#"<?php
declare(strict_types=1);
pcntl_async_signals(true);
$held = [];
pcntl_signal(SIGUSR2, function () use (&$held): void {
    $held = [];
    echo "gave it back\n";
});
for ($block = 0; $block < 35; $block++) {
    $held[] = str_repeat('x', 4 << 20);
    usleep(50000);
}
while (true) {
    sleep(1000);
}
"#;

#[test]
fn a_signal_that_helps_needs_no_restart() {
    let more = format!(
        "{CONFIRM}
[services.worker]
command = \"php -d memory_limit=-1 app/worker.php\"
user = \"www-data\"
memory = {{ restart_above = \"96MiB\", action = \"signal:USR2\" }}
"
    );
    let files = super::ground::Files::new(Place::Native, "signal");
    files.write("firstmate.toml", &format!("{}{more}", super::stack::HEAD));
    files.write("app/worker.php", GIVES_BACK);
    let ground = Ground::start(Place::Native, "signal", files, 512 * MIB, false);
    ground.wait_for_line(LONG, "gave it back");
    // It would have been restarted by then, had the signal not helped.
    ground.for_as_long_as(Duration::from_secs(6), || {});
    let worker = until("the status is told", || ground.instance("worker.1"));
    let signals = ground.log().lines().filter(|line| line.contains("out | gave it back")).count();
    report(2, "signal-helps", &ground, &format!("runs=1 signals={signals} restarts={} oom=0", worker.restarts.total));
    assert_eq!((worker.run, worker.restarts.total, signals), (1, 0, 1), "{worker:?}\n{}", ground.log());
}

#[test]
fn a_signal_that_does_not_help_is_followed_by_a_restart() {
    let more = format!(
        "{CONFIRM}
[services.worker]
command = \"sh -c 'trap \\\"\\\" USR2; exec ./leaker plateau size=140MiB over=2s only-run=1 count=run/count'\"
user = \"www-data\"
memory = {{ restart_above = \"96MiB\", action = \"signal:USR2\" }}
"
    );
    let ground = Ground::plain(Place::Native, "deaf", 512 * MIB, &more, false);
    let worker = ground.wait_for("worker.1", LONG, "restarted", |one| one.restarts.total > 0);
    let said = ground.said();
    let signalled = said.iter().position(|line| line.contains("SIGUSR2"));
    report(2, "signal-does-not-help", &ground, &format!("runs=1 signals=1 restarts={} rule={}", worker.restarts.memory, ground.rules()));
    assert!(signalled.is_some(), "{said:#?}");
    assert_eq!((worker.restarts.memory, worker.restarts.total), (1, 1), "{worker:?}\n{}", ground.log());
    ground.wait_for("worker.1", PATIENCE, "up again", |one| one.ready);
}
