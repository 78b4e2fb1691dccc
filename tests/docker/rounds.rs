//! kill -9, again and again, of everything the stack is made of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::Got;
use super::container::{Container, STACK, until};

/// As long as Redis may keep a write to itself: `appendfsync everysec` holds writes back for at most 2 s while an fsync is under way.
const PERSISTENCE: Duration = Duration::from_secs(2);

/// A counter in Redis, and what was seen of it when.
#[derive(Default)]
struct Counter {
    seen: Vec<(Instant, u64)>,
    lost: u64,
}

impl Counter {
    fn saw(&mut self, value: u64) {
        self.seen.push((Instant::now(), value));
    }

    /// Redis was killed at `killed`, and now says `value`.
    fn check(&mut self, name: &str, killed: Instant, value: u64) {
        let persisted = self.seen.iter().filter(|(at, _)| *at + PERSISTENCE <= killed).map(|(_, value)| *value).max().unwrap_or(0);
        assert!(value >= persisted, "{name} fell to {value}, and was {persisted} for longer than Redis may keep that to itself");
        let last = self.seen.last().map_or(0, |(_, value)| *value);
        self.lost += last.saturating_sub(value);
        self.seen.clear();
        self.saw(value);
    }
}

/// The numbers on the page, which counts one visit more.
fn page(container: &Container) -> Result<BTreeMap<String, u64>, String> {
    match container.get(8080, "/?plain=1") {
        Got::Answer(200, body) => Ok(body
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()),
        other => Err(format!("{other:?}")),
    }
}

fn runs(container: &Container) -> BTreeMap<String, (u32, Option<u32>)> {
    let status = until("the status is told", || container.status());
    status.services.into_iter().flat_map(|service| service.instances).map(|one| (one.name, (one.run, one.pid))).collect()
}

struct Tally {
    visits: Counter,
    queued: Counter,
}

/// Kills the main processes of `victims` at one blow, and waits until the page answers and the dead have successors. `followers` end by
/// themselves when the victims do; nobody else may be touched.
fn kill(container: &Container, victims: &[&str], followers: &[&str], tally: &mut Tally) {
    // Jobs in the queue and in hand while it happens.
    let enqueued = matches!(container.get(8080, "/enqueue?n=6&ms=40&plain=1"), Got::Answer(202, _));
    assert!(enqueued, "{}", container.log());
    let before_page = page(container).unwrap();
    tally.visits.saw(before_page["visits"]);
    tally.queued.saw(before_page["jobs_queued"]);
    let before = runs(container);
    let mut words = vec!["kill".to_owned(), "-9".to_owned()];
    words.extend(victims.iter().map(|victim| before[*victim].1.unwrap_or_else(|| panic!("{victim} is down: {before:?}")).to_string()));
    let killed = Instant::now();
    container.exec_ok(&["sh", "-c", &words.join(" ")]);
    until(&format!("{victims:?} and {followers:?} have a new run each"), || {
        let now = runs(container);
        let renewed = |name: &&str| now[*name].0 > before[*name].0 && now[*name].1.is_some();
        if victims.iter().chain(followers).all(renewed) { Ok(()) } else { Err(format!("{now:?}\n{}", container.log())) }
    });
    let after_page = until("the page answers", || page(container));
    if victims.contains(&"redis.1") {
        tally.visits.check("the count of visits", killed, after_page["visits"]);
        tally.queued.check("the count of jobs", killed, after_page["jobs_queued"]);
    } else {
        assert!(after_page["visits"] > before_page["visits"]);
        assert_eq!(after_page["jobs_queued"], before_page["jobs_queued"]);
    }
    for (name, (run, _)) in runs(container) {
        if !victims.contains(&name.as_str()) && !followers.contains(&name.as_str()) {
            assert_eq!(run, before[&name].0, "{name} was restarted, and only {victims:?} were killed");
        }
    }
    container.wait_until_tidy();
}

fn round(container: &Container, tally: &mut Tally) {
    kill(container, &["nginx.1"], &[], tally);
    kill(container, &["php-fpm.1"], &[], tally);
    // A worker that loses Redis ends, and is started again once Redis is ready.
    kill(container, &["redis.1"], &["worker.1", "worker.2"], tally);
    kill(container, &["worker.1"], &[], tally);
    kill(container, &["nginx.1", "php-fpm.1", "redis.1", "worker.1", "worker.2"], &[], tally);
}

fn rounds(container: &Container, count: u32) {
    let mut tally = Tally { visits: Counter::default(), queued: Counter::default() };
    container.wait_until_well();
    let begin = Instant::now();
    for _ in 0..count {
        round(container, &mut tally);
    }
    println!(
        "{count} rounds in {:.1} s; lost of visits {}, of jobs {}",
        begin.elapsed().as_secs_f64(),
        tally.visits.lost,
        tally.queued.lost
    );
    // A killed worker's job is taken back a few seconds later.
    until("every job is done", || {
        let page = page(container)?;
        let over = page["jobs_done"] == page["jobs_queued"] && page["jobs_waiting"] == 0 && page["jobs_in_hand"] == 0;
        if over { Ok(()) } else { Err(format!("{page:?}")) }
    });
    container.wait_until_well();
    container.wait_until_tidy();
    let log = container.log();
    for sign in ["ddress already in use", "bind()", "unable to bind", "panicked", "another FPM instance"] {
        assert!(!log.contains(sign), "{sign}:\n{log}");
    }
    let orphaned =
        |name: &str| log.lines().any(|line| line.contains(&format!("{name}.1 killed by SIGKILL")) && line.contains("left behind"));
    assert!(orphaned("nginx") && orphaned("php-fpm"), "their workers outlive a killed master, which is what this is about:\n{log}");
    container.stop();
    assert_eq!(container.ended(), 0);
}

#[test]
fn twenty_rounds_of_kill_9_leave_nothing_behind() {
    let count = std::env::var("FIRSTMATE_ROUNDS").map_or(20, |count| count.parse().unwrap());
    // The shipped file waits up to 2 s before a restart and gives up after 50 failures in a row. Who kills everything every second is
    // not who those are for.
    let container = Container::stack_with(&[], |text| {
        let patient = text.replace("give_up_after = 50", "give_up_after = \"never\"");
        let quick = patient.replace("initial = \"100ms\", max = \"2s\"", "initial = \"20ms\", max = \"50ms\"");
        assert!(patient != text && quick != patient, "the shipped file has other values now");
        quick
    });
    rounds(&container, count);
}

#[test]
fn the_shipped_file_survives_a_round_too() {
    rounds(&Container::run(STACK, &[], &[]), 1);
}
