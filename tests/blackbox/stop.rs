//! The ordered end: who is asked when, who is killed when, what is said meanwhile, and the exit code.

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways};

both_ways![
    services_stop_in_the_order_of_their_dependencies,
    a_service_that_ignores_term_is_killed_at_its_stop_timeout,
    nobody_outlasts_the_global_stop_timeout,
];

/// The numbers of these lines are in this order.
#[track_caller]
fn in_order(container: &Container, lines: &[&str]) {
    let mut last = 0;
    for line in lines {
        last = container.told_from(last, line).0;
    }
}

fn services_stop_in_the_order_of_their_dependencies(place: Place) {
    let container = Setup::new(
        "
        [services.front]
        command = '{actor} print up print-received TERM sleep-ms 150'
        depends_on = { app = 'ready' }
        [services.app]
        instances = 2
        command = '{actor} print up print-received TERM sleep-ms 150'
        depends_on = { store = 'started' }
        [services.store]
        command = '{actor} print up print-received TERM sleep-ms 50'
        ",
    )
    .place(place)
    .start();
    container.until_ready("front.1");
    // Up in order...
    in_order(&container, &["store.1 started", "app.1 started", "app.2 started", "app.2 ready", "front.1 started"]);
    container.said("front.1", "listening for signals");
    assert_eq!(container.stop(), 0);
    // ...and down in reverse, each only when those that depend on it are gone.
    in_order(
        &container,
        &["stopping everything within", "stopping front.1 with SIGTERM", "front.1 exited with code 0", "stopping app.1", "stopping app.2"],
    );
    let asked = container.told("stopping store.1 with SIGTERM");
    assert!(container.told("app.1 stopped") < asked && container.told("app.2 stopped") < asked);
    let both = container.told("stopping app.2").max(container.told("stopping app.1"));
    assert!(both < container.told("app.1 exited").min(container.told("app.2 exited")), "copies stop side by side");
    let last = container.lines().pop().unwrap().text;
    assert!(last.starts_with("ended with code 0: SIGTERM received"), "{last}");
}

fn a_service_that_ignores_term_is_killed_at_its_stop_timeout(place: Place) {
    let container = Setup::new(
        "
        [firstmate]
        stop_timeout = '30s'
        [services.stubborn]
        command = '{actor} ignore-term child ignore-term sleep end print up sleep'
        stop_timeout = '1500ms'
        ",
    )
    .place(place)
    .start();
    container.said("stubborn.1", "up");
    assert_eq!(container.stop(), 0);
    let (_, asked) = container.told_from(0, "stopping stubborn.1 with SIGTERM, SIGKILL after 1.5 s");
    let (_, waiting) = container.told_from(0, "waiting for stubborn.1, pid ");
    let (_, killed) = container.told_from(0, "sending SIGKILL to all of stubborn.1, which did not end within 1.5 s");
    container.told("stubborn.1 killed by SIGKILL after");
    assert!(waiting.text.ends_with(", 1 s of 1.5 s"), "{}", waiting.text);
    let grace = killed.at_ms - asked.at_ms;
    assert!((1499..4000).contains(&grace), "{grace}");
    assert!(waiting.at_ms - asked.at_ms >= 999);
}

fn nobody_outlasts_the_global_stop_timeout(place: Place) {
    let container = Setup::new(
        "
        [firstmate]
        stop_timeout = '2s'
        [services.front]
        command = '{actor} ignore-term print up sleep'
        stop_timeout = '1h'
        depends_on = { store = 'started' }
        [services.store]
        command = '{actor} ignore-term print up sleep'
        stop_timeout = '1h'
        ",
    )
    .place(place)
    .start();
    container.said("front.1", "up");
    container.said("store.1", "up");
    assert_eq!(container.stop(), 0);
    let lines = container.lines();
    let (_, asked) = container.told_from(0, "stopping everything within 2 s");
    let took = lines.last().unwrap().at_ms - asked.at_ms;
    // 2 s, and what a busy machine takes to run us.
    assert!((1500..4000).contains(&took), "{took}");
    container.told("front.1 killed by SIGKILL");
    container.told("store.1 killed by SIGKILL");
}

#[test]
fn the_ladder_is_climbed_step_by_step() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print-received QUIT exit 3'
        stop_signal = ['TERM', 'INT', 'QUIT', 'KILL']
        stop_timeout = '1200ms'
        ",
    )
    .start();
    container.said("web.1", "listening for signals");
    assert_eq!(container.stop(), 0);
    let heard: Vec<String> = container.said_by("web.1").into_iter().filter(|line| line != "got SIGCONT").collect();
    assert_eq!(heard, ["listening for signals", "got SIGTERM", "got SIGINT", "got SIGQUIT"]);
    let times: Vec<u64> = ["SIGTERM", "SIGINT", "SIGQUIT"]
        .iter()
        .map(|signal| container.told_from(0, &format!("stopping web.1 with {signal}")).1.at_ms)
        .collect();
    assert!(times[1] - times[0] >= 299 && times[2] - times[1] >= 299, "{times:?}");
    assert_eq!(container.count_told("SIGKILL to all of web.1"), 0);
    container.told("web.1 exited with code 3");
}

#[test]
fn a_stopped_service_hears_its_stop_signal() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up kill-self STOP sleep'\nstop_timeout = '20s'").start();
    let pid = container.pid_of("web.1");
    crate::harness::until("it is stopped", || container.processes().iter().find(|one| one.pid == pid && one.state == 'T').map(|_| ()));
    assert_eq!(container.stop(), 0);
    container.told("web.1 killed by SIGTERM");
    assert_eq!(container.count_told("sending SIGKILL"), 0);
}

#[test]
fn another_stop_signal_and_the_group() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} child print-received RTMIN+1 end print-received RTMIN+1 sleep-ms 100'
        stop_signal = 'SIGRTMIN+1'
        signal_scope = 'group'
        [services.only-main]
        command = '{actor} child ignore USR2 print kid sleep end print-received USR2 kill-self TERM'
        stop_signal = 'USR2'
        stop_timeout = '900ms'
        ",
    )
    .start();
    container.said("only-main.1", "kid");
    container.said("only-main.1", "listening for signals");
    let first = container.said("web.1", "listening for signals");
    container.said_from(first + 1, "web.1", "listening for signals");
    assert_eq!(container.stop(), 0);
    let heard = container.said_by("web.1").iter().filter(|line| *line == "got SIGRTMIN+1").count();
    assert_eq!(heard, 2, "the main process and its child");
    container.told("web.1 exited with code 0");
    // The child of the other one ignores what its main process got when that was gone, and is killed.
    container.told("1 process left behind");
    container.told("sending SIGKILL to all of only-main.1");
}

#[test]
fn a_drain_comes_before_the_stop() {
    let container = Setup::new(
        "
        [firstmate]
        stop_timeout = '20s'
        drain = '700ms'
        [services.web]
        command = '{actor} print up sleep'
        ",
    )
    .start();
    container.until_ready("web.1");
    assert_eq!(container.ask("GET", "/readyz").unwrap().0, 200);
    container.signal("TERM");
    let (_, began) = container.told_from(0, "stopping everything within 20 s, serving on for 700 ms first: SIGTERM received");
    let (code, body) = container.ask("GET", "/readyz").unwrap();
    assert_eq!(code, 503, "{body}");
    assert_eq!(container.ask("GET", "/livez").unwrap().0, 200);
    assert_eq!(container.code(), 0);
    let (_, stopping) = container.told_from(0, "stopping web.1");
    assert!(stopping.at_ms - began.at_ms >= 699);
}

#[test]
fn a_stop_while_starting_backing_off_and_stopping_is_an_ordinary_one() {
    let container = Setup::new(
        "
        [services.crashing]
        command = '{actor} exit 1'
        give_up_after = 'never'
        backoff = { initial = '10s' }
        [services.starting]
        command = '{actor} print up sleep'
        ready = { exec = '{actor} exit 1' }
        [services.waiting]
        command = '{actor} sleep'
        depends_on = { starting = 'ready' }
        [services.slow]
        command = '{actor} print up print-received TERM wait-file {dir}/go'
        ",
    )
    .start();
    container.until_state("crashing.1", StateName::Backoff);
    container.said("starting.1", "up");
    container.until_state("waiting.1", StateName::Waiting);
    container.said("slow.1", "listening for signals");
    container.signal("TERM");
    container.said("slow.1", "got SIGTERM");
    let status = container.status();
    assert_eq!(status.phase, firstmate::engine::status::Phase::Stopping);
    assert!(status.stopping_because.unwrap().contains("SIGTERM"));
    // Repeated, as platforms do: it changes nothing.
    let before = container.lines().len();
    for _ in 0..5 {
        container.signal("TERM");
    }
    assert_eq!(container.instance("slow.1").state, StateName::Stopping);
    assert_eq!(container.count_told("stopping everything"), 1);
    assert_eq!(container.lines().iter().skip(before).filter(|line| line.text.contains("SIGTERM received")).count(), 0);
    let (code, _, error) = container.cli(&["start", "waiting"]);
    assert_eq!(code, 1);
    assert!(error.starts_with("error: cannot start: firstmate is stopping"), "{error}");
    container.touch("go");
    assert_eq!(container.code(), 0);
    assert_eq!(container.count_told("waiting.1 started"), 0);
}
