//! What follows the end of a run: backoff, giving up, policies, and the container's own exit code.

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways};

both_ways![
    giving_up_on_an_essential_service_ends_the_container_with_its_code,
    a_non_essential_service_is_given_up_and_the_rest_goes_on,
    a_failed_oneshot_ends_the_container_with_its_code,
];

const BYSTANDER: &str = "\n[services.bystander]\ncommand = '{actor} print up sleep'\n";

fn start(place: Place, config: &str) -> Container {
    Setup::new(config).place(place).start()
}

/// How long the log says it took from each "restarts in" to the start that followed, in milliseconds.
fn delays(container: &Container, count: usize) -> Vec<u64> {
    let mut from = 0;
    let mut delays = Vec::new();
    for _ in 0..count {
        let (at, announced) = container.told_from(from, "web.1 restarts in ");
        let (next, started) = container.told_from(at, "web.1 started, pid ");
        delays.push(started.at_ms - announced.at_ms);
        from = next;
    }
    delays
}

#[test]
fn delays_follow_the_file_within_5_percent() {
    let config = "
        [services.web]
        command = '{actor} exit 3'
        backoff = { initial = '400ms', factor = 2.0, max = '1s', jitter = 0, reset_after = '1h' }
        give_up_after = 'never'
    ";
    let expected = [400, 800, 1000, 1000];
    let mut seen = Vec::new();
    // Too early is wrong whatever the machine does; too late may be the machine, which does not fail every time.
    for _ in 0..5 {
        let container = start(Place::Init, config);
        let delays = delays(&container, expected.len());
        for (number, announced) in ["400 ms", "800 ms", "1 s", "1 s"].iter().enumerate() {
            container.told(&format!("web.1 restarts in {announced} (failure {})", number + 1));
        }
        // Both times are cut to milliseconds.
        assert!(delays.iter().zip(expected).all(|(delay, expected)| delay + 1 >= expected), "too early: {delays:?}");
        if delays.iter().zip(expected).all(|(delay, expected)| *delay <= expected + expected / 20) {
            return;
        }
        seen.push(delays);
    }
    panic!("never within 5 % of {expected:?}: {seen:?}");
}

#[test]
fn jitter_keeps_to_its_share() {
    let container = start(
        Place::Init,
        "
        [services.web]
        command = '{actor} exit 3'
        backoff = { initial = '200ms', factor = 1, max = '200ms', jitter = 0.5, reset_after = '1h' }
        give_up_after = 'never'
        ",
    );
    let delays = delays(&container, 6);
    assert!(delays.iter().all(|delay| *delay >= 99), "{delays:?}");
    assert!(delays.iter().any(|delay| delay.abs_diff(200) > 2), "no jitter at all: {delays:?}");
}

#[test]
fn a_stable_run_is_followed_at_once_and_forgets_its_failures() {
    let container = start(
        Place::Init,
        "
        [services.web]
        command = \"sh -c 'if [ -e {dir}/stable ]; then {actor} sleep-ms 700; fi; exit 1'\"
        backoff = { initial = '100ms', factor = 2.0, max = '1s', jitter = 0, reset_after = '600ms' }
        give_up_after = 'never'
        ",
    );
    container.told("web.1 restarts in 200 ms (failure 2)");
    container.touch("stable");
    let (now, restarts) = container.told_from(0, "web.1 restarts now");
    assert_eq!(restarts.text, "web.1 restarts now");
    let (started, _) = container.told_from(now, "web.1 started, pid ");
    // Nothing comes between the two but the other line of the same decision.
    assert!(started <= now + 1, "{started} {now}");
    container.remove("stable");
    // The present run may be a stable one still; the failures after it are counted from 1 again.
    container.told_from(now, "web.1 restarts in 100 ms (failure 1)");
    container.told_from(now, "web.1 restarts in 200 ms (failure 2)");
}

fn giving_up_on_an_essential_service_ends_the_container_with_its_code(place: Place) {
    let config = "
        [services.web]
        command = '{actor} wait-file {dir}/go exit 7'
        backoff = { initial = '20ms', jitter = 0 }
        give_up_after = 3
    ";
    let container = start(place, &format!("{config}{BYSTANDER}"));
    container.said("bystander.1", "up");
    container.touch("go");
    assert_eq!(container.code(), 7);
    assert_eq!(container.count_told("web.1 started"), 3);
    let given_up = container.told("web.1 given up after 3 consecutive failed runs");
    let stopping = container.told("stopping bystander.1 with SIGTERM");
    let stopped = container.told("bystander.1 stopped");
    let last = container.lines().pop().unwrap();
    assert!(given_up < stopping && stopping < stopped);
    assert_eq!(last.text, "ended with code 7: essential web.1 was given up after 3 consecutive failed runs, the last: exit code 7");
    assert_eq!(last.kind, "error");
}

#[test]
fn giving_up_on_a_killed_service_ends_with_128_and_its_signal() {
    for (signal, name, code) in [("KILL", "SIGKILL", 137), ("SEGV", "SIGSEGV", 139), ("RTMIN+6", "SIGRTMIN+6", 168)] {
        let container = start(
            Place::Init,
            &format!(
                "[services.web]\ncommand = '{{actor}} default {signal} kill-self {signal} sleep'\ngive_up_after = 2\nlimits = {{ core = 0 }}\nbackoff = {{ initial = '20ms' }}"
            ),
        );
        assert_eq!(container.code(), code, "{signal}");
        let last = container.lines().pop().unwrap().text;
        assert!(last.ends_with(&format!("the last: killed by {name}")), "{last}");
    }
}

fn a_non_essential_service_is_given_up_and_the_rest_goes_on(place: Place) {
    let config = "
        [services.web]
        command = '{actor} exit 7'
        backoff = { initial = '20ms' }
        give_up_after = 2
        essential = false
    ";
    let container = start(place, &format!("{config}{BYSTANDER}"));
    let failed = container.until_state("web.1", StateName::Failed);
    assert_eq!((failed.run, failed.restarts.total, failed.restarts.crash), (2, 1, 1));
    assert!(failed.last_outcome.unwrap().contains('7'));
    container.until_ready("bystander.1");
    let status = container.status();
    assert!(status.live && status.ready && status.started, "{status:?}");
    // An operator may think otherwise.
    let (code, out, _) = container.cli(&["restart", "web"]);
    assert_eq!(code, 1, "{out}");
    assert!(container.instance("web.1").run > 2);
    assert_eq!(container.stop(), 0);
}

fn a_failed_oneshot_ends_the_container_with_its_code(place: Place) {
    let config = "
        [services.migrate]
        type = 'oneshot'
        command = '{actor} print migrating exit 5'
        [services.web]
        command = '{actor} print never sleep'
        depends_on = { migrate = 'completed' }
    ";
    let container = start(place, &format!("{config}{BYSTANDER}"));
    assert_eq!(container.code(), 5);
    assert_eq!(container.count_told("web.1 started"), 0);
    let last = container.lines().pop().unwrap().text;
    assert!(last.starts_with("ended with code 5: essential migrate.1 ended"), "{last}");
    assert!(last.ends_with("exit code 5"), "{last}");
}

#[test]
fn a_killed_oneshot_ends_the_container_with_128_and_its_signal() {
    let container = start(Place::Init, "[services.migrate]\ntype = 'oneshot'\ncommand = '{actor} kill-self USR2 sleep'");
    assert_eq!(container.code(), 128 + 12);
}

#[test]
fn success_exit_codes_are_no_failure() {
    let container = start(
        Place::Init,
        "
        [services.migrate]
        type = 'oneshot'
        command = '{actor} exit 75'
        success_exit_codes = [0, 75]
        [services.batch]
        command = '{actor} exit 76'
        success_exit_codes = [76]
        restart = 'on-failure'
        essential = false
        [services.strict]
        command = '{actor} exit 0'
        success_exit_codes = [76]
        restart = 'on-failure'
        essential = false
        give_up_after = 2
        backoff = { initial = '20ms' }
        [services.web]
        command = '{actor} sleep'
        depends_on = { migrate = 'completed' }
        ",
    );
    container.told("migrate.1 completed in");
    container.until_ready("web.1");
    container.until_state("batch.1", StateName::Exited);
    container.told("batch.1 stays down: its `restart` policy asks for no further run");
    container.until_state("strict.1", StateName::Failed);
    assert_eq!(container.instance("batch.1").run, 1);
    assert_eq!(container.instance("strict.1").run, 2);
    assert_eq!(container.stop(), 0);
}

#[test]
fn on_failure_restarts_failures_only_and_never_restarts_nothing() {
    let container = start(
        Place::Init,
        "
        [services.sometimes]
        command = \"sh -c 'test -e {dir}/fixed'\"
        restart = 'on-failure'
        give_up_after = 'never'
        essential = false
        backoff = { initial = '50ms', max = '50ms' }
        [services.never]
        command = '{actor} exit 3'
        restart = 'never'
        essential = false
        [services.killed]
        command = '{actor} kill-self KILL sleep'
        restart = 'never'
        essential = false
        [services.always]
        command = '{actor} exit 0'
        essential = false
        give_up_after = 1
        backoff = { initial = '50ms', max = '50ms', jitter = 0 }
        [services.bystander]
        command = '{actor} sleep'
        ",
    );
    container.until("sometimes.1", "is run again and again", |instance| instance.run > 3);
    container.touch("fixed");
    let sometimes = container.until_state("sometimes.1", StateName::Exited);
    assert_eq!(sometimes.restarts.total, sometimes.run - 1);
    let never = container.until_state("never.1", StateName::Failed);
    assert_eq!((never.run, never.restarts.total), (1, 0));
    let killed = container.until_state("killed.1", StateName::Failed);
    assert_eq!(killed.last_outcome.as_deref().map(|text| text.contains("SIGKILL")), Some(true));
    // `always` means that also a success is followed by another run, and successes are never given up.
    container.until("always.1", "is run again and again", |instance| instance.run > 3);
    assert_eq!(container.stop(), 0);
}

#[test]
fn an_essential_service_that_is_not_to_be_restarted_ends_the_container() {
    for (script, code) in [("exit 0", 0), ("exit 9", 9), ("kill-self HUP", 129)] {
        let config = format!("[services.web]\ncommand = '{{actor}} {script}'\nrestart = 'never'{BYSTANDER}");
        let container = start(Place::Init, &config);
        assert_eq!(container.code(), code, "{script}");
        let last = container.lines().pop().unwrap().text;
        assert!(last.contains("essential web.1 ended and is not to be restarted"), "{last}");
    }
}

#[test]
fn when_nothing_is_left_the_container_ends() {
    let well = start(
        Place::Init,
        "
        [services.a]
        type = 'oneshot'
        command = '{actor} exit 0'
        [services.b]
        type = 'oneshot'
        command = '{actor} print done'
        depends_on = { a = 'completed' }
        ",
    );
    assert_eq!(well.code(), 0);
    let last = well.lines().pop().unwrap();
    assert_eq!((last.text.as_str(), last.kind.as_str()), ("ended with code 0: every service has ended and none is to be restarted", ""));

    let ill = start(
        Place::Subreaper,
        "
        [services.a]
        type = 'oneshot'
        command = '{actor} exit 0'
        [services.b]
        command = '{actor} exit 4'
        restart = 'never'
        essential = false
        ",
    );
    assert_eq!(ill.code(), 4);
    assert!(ill.lines().pop().unwrap().text.starts_with("ended with code 4: every service has ended, not all of them well"));
}
