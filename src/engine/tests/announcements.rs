//! What a run says of itself, and for how long firstmate waits for it.

use super::*;

/// Listened to, with a watchdog of so many milliseconds.
fn watched(name: &str, every: u64) -> Service {
    Service { ready: Readiness::Notify { watchdog: Some(Duration::from_millis(every)) }, ..optional(name) }
}

/// Listened to, without one.
fn listened_to(name: &str) -> Service {
    Service { ready: Readiness::Notify { watchdog: None }, ..optional(name) }
}

impl Rig {
    fn says(&mut self, service: usize, what: Announcement) -> Vec<String> {
        let run = self.run(service);
        self.tell(Event::Announced { run, what })
    }

    /// Up, and ready by its own word.
    fn says_ready(&mut self, service: usize) {
        self.up(service);
        assert_eq!(self.says(service, Announcement::Ready), NOTHING);
        assert!(self.is_ready(service));
    }

    fn is_ready(&self, service: usize) -> bool {
        self.engine.instance_status_of(self.now, Self::id(service)).unwrap().ready
    }

    /// Nobody steps for so long.
    fn sleep(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
    }
}

// ---------------------------------------------------------------- a late loop

#[test]
fn who_said_it_in_time_is_not_bitten_because_the_loop_is_late() {
    let mut rig = Rig::new(vec![watched("a", 1_000), watched("b", 1_000), watched("c", 1_000), optional("d")]);
    for service in 0..3 {
        rig.says_ready(service);
    }
    rig.up(3);
    // All three watchdogs are over by 200 ms. A and B said their word in time, and it has waited; C said none.
    rig.sleep(1_200);
    assert_eq!(rig.says(0, Announcement::Alive), NOTHING);
    assert_eq!(rig.exit(3, Outcome::Exited(0)), NOTHING);
    assert_eq!(rig.command(Verb::Start, 3), ["spawn d.1#2"]);
    assert_eq!(rig.says(1, Announcement::Alive), NOTHING);
    assert_eq!(rig.engine.next_deadline(), Some(rig.began.after(Duration::from_millis(1_000))), "C's time is over");
    assert_eq!(rig.tell(Event::Tick), ["SIGTERM c.1#1"]);
    assert!(rig.told().contains(&"watchdog c.1#1: Silent(1s)".to_owned()), "{:?}", rig.told());
    assert_eq!(rig.state(0), StateName::Running);
    assert_eq!(rig.state(1), StateName::Running);
}

#[test]
fn who_became_ready_in_time_is_not_ended_because_the_loop_is_late() {
    let late = |name| Service { start_timeout: Duration::from_secs(3), ..listened_to(name) };
    let mut rig = Rig::new(vec![late("a"), late("b"), late("c")]);
    for service in 0..3 {
        rig.up(service);
    }
    rig.sleep(3_100);
    rig.says(0, Announcement::Ready);
    rig.says(1, Announcement::Ready);
    assert_eq!(rig.state(2), StateName::Starting);
    assert_eq!(rig.tell(Event::Tick), ["SIGTERM c.1#1"]);
    assert!(rig.is_ready(0) && rig.is_ready(1));
}

// ---------------------------------------------------------------- time that nobody lived through

#[test]
fn nobody_is_silent_while_everything_stands_still() {
    for first_of_all in [None, Some(Verb::Stop)] {
        let mut rig = Rig::new(vec![watched("a", 30_000), watched("b", 60_000), optional("c")]);
        rig.says_ready(0);
        rig.says_ready(1);
        rig.settle(2);
        // `docker pause` for an hour.
        rig.sleep(3_600_000);
        if let Some(verb) = first_of_all {
            assert_eq!(rig.command(verb, 2), ["SIGTERM c.1#1"]);
            rig.exit(2, Outcome::Signaled(Signal::TERM));
        }
        assert_eq!(rig.tell(Event::Tick), NOTHING);
        // Its whole time from there on, and no longer.
        assert_eq!(rig.wait(29_999), NOTHING);
        assert_eq!(rig.wait(1), [format!("{} SIGTERM a.1#1", rig.elapsed_ms())]);
        rig.exit(0, Outcome::Signaled(Signal::TERM));
        assert_eq!(rig.says(1, Announcement::Alive), NOTHING);
        assert_eq!(rig.state(1), StateName::Running);
    }
}

#[test]
fn a_loop_that_is_a_little_late_has_not_stood_still() {
    let mut rig = Rig::new(vec![watched("a", 1_000)]);
    rig.says_ready(0);
    rig.sleep(2_000);
    assert_eq!(rig.tell(Event::Tick), ["SIGTERM a.1#1"]);
}

// ---------------------------------------------------------------- more time

/// So many milliseconds from now.
fn needs(ms: u64) -> Announcement {
    Announcement::ExtendTimeout(Duration::from_millis(ms))
}

#[test]
fn more_time_for_the_end_is_given_in_a_shutdown_too_as_far_as_others_can_spare_it() {
    // (what web asks for after 500 ms, when it is killed): its own grace is 1 s, db's 2 s; SIGKILL comes to all at 19.5 s.
    for (asked, killed_at) in [(0, 1_000), (300, 1_000), (9_500, 10_000), (3_600_000, 17_500), (u64::MAX / 2, 17_500)] {
        let db = Service { stop: stop_within(2_000), ..optional("db") };
        let web = Service { stop: stop_within(1_000), depends_on: on(0, Condition::Ready), ..listened_to("web") };
        let mut rig = Rig::with(vec![db, web], 20_000, 0);
        rig.settle(0);
        rig.says_ready(1);
        let began = rig.elapsed_ms();
        assert_eq!(rig.term(), ["SIGTERM web.1#1"]);
        rig.wait(500);
        assert_eq!(rig.says(1, needs(asked)), NOTHING);
        assert_eq!(rig.wait(killed_at - 501), NOTHING, "asked for {asked} ms");
        assert_eq!(rig.wait(1), [format!("{} kill web.1#1", began + killed_at)]);
        assert_eq!(rig.exit(1, Outcome::Signaled(Signal::KILL)), ["SIGTERM db.1#1"]);
        // Its own time is left whole.
        assert_eq!(rig.wait(1_999), NOTHING);
        assert_eq!(rig.wait(1), [format!("{} kill db.1#1", began + killed_at + 2_000)]);
    }
}

#[test]
fn who_was_given_more_time_before_a_shutdown_gets_what_that_leaves_to_it() {
    let web = Service { stop: stop_within(1_000), ..listened_to("web") };
    let mut rig = Rig::with(vec![web, optional("other")], 8_000, 0);
    rig.says_ready(0);
    rig.settle(1);
    rig.command(Verb::Stop, 0);
    rig.says(0, needs(8_000));
    rig.wait(4_000);
    rig.term();
    rig.exit(1, Outcome::Signaled(Signal::TERM));
    assert_eq!(rig.wait(3_999), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} kill web.1#1", rig.elapsed_ms())]);
}

#[test]
fn more_time_for_an_end_is_at_most_that_of_the_whole() {
    let mut rig = Rig::with(vec![Service { stop: stop_within(1_000), ..listened_to("web") }], 8_000, 0);
    rig.says_ready(0);
    assert_eq!(rig.command(Verb::Restart, 0), ["SIGTERM web.1#1"]);
    rig.wait(500);
    rig.says(0, Announcement::ExtendTimeout(Duration::from_micros(u64::MAX)));
    assert_eq!(rig.wait(4_000), NOTHING);
    rig.says(0, Announcement::ExtendTimeout(Duration::from_micros(u64::MAX)));
    assert_eq!(rig.wait(3_499), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} kill web.1#1", rig.elapsed_ms())]);
}

#[test]
fn what_a_dead_main_process_left_behind_gets_no_more_time() {
    let mut rig = Rig::with(vec![listened_to("web")], 8_000, 0);
    rig.says_ready(0);
    assert_eq!(rig.exit_leaving(0, Outcome::Exited(1), 2), ["SIGTERM web.1#1"]);
    rig.says(0, needs(5_000));
    assert_eq!(rig.wait(999), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} kill web.1#1", rig.elapsed_ms())]);
}

// ---------------------------------------------------------------- who says that it is stopping

#[test]
fn who_says_that_it_is_stopping_must_be_gone_in_time() {
    let web = || Service { stop: stop_within(3_000), ..watched("web", 1_000) };
    let mut rig = Rig::new(vec![web()]);
    rig.says_ready(0);
    assert_eq!(rig.says(0, Announcement::Stopping), NOTHING);
    assert!(!rig.is_ready(0));
    // Its watchdog is off, what it says of that changes nothing, and saying it again is no new time.
    rig.wait(2_000);
    for what in [Announcement::Alive, Announcement::WatchdogEvery(Some(Duration::from_millis(10))), Announcement::Stopping] {
        rig.says(0, what);
    }
    assert_eq!(rig.wait(999), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} SIGTERM web.1#1", rig.elapsed_ms())]);
    assert!(rig.told().contains(&"watchdog web.1#1: Stayed(3s)".to_owned()), "{:?}", rig.told());
    assert_eq!(rig.exit(0, Outcome::Signaled(Signal::TERM)), NOTHING);
    rig.wait(500);
    assert_eq!(rig.run(0).run, 2, "as any other watchdog's restart");
    assert_eq!(rig.engine.instance_status_of(rig.now, Rig::id(0)).unwrap().restarts.watchdog, 1);

    // Without a watchdog just the same; READY=1 takes it back.
    let mut rig = Rig::new(vec![Service { stop: stop_within(3_000), ..listened_to("web") }]);
    rig.says_ready(0);
    rig.says(0, Announcement::Stopping);
    rig.wait(2_999);
    rig.says(0, Announcement::Ready);
    assert!(rig.is_ready(0));
    assert_eq!(rig.wait(60_000), NOTHING);
}

#[test]
fn who_says_that_it_is_stopping_may_ask_for_more_time_up_to_that_of_the_whole() {
    for (asked, ended_after) in [(500, 3_000), (4_000, 6_000), (u64::MAX / 2, 8_000)] {
        let mut rig = Rig::with(vec![Service { stop: stop_within(3_000), ..listened_to("web") }], 8_000, 0);
        rig.says_ready(0);
        let began = rig.elapsed_ms();
        rig.says(0, Announcement::Stopping);
        rig.wait(2_000);
        rig.says(0, needs(asked));
        assert_eq!(rig.wait(ended_after - 2_001), NOTHING, "asked for {asked} ms");
        assert_eq!(rig.wait(1), [format!("{} SIGTERM web.1#1", began + ended_after)]);
    }
}

#[test]
fn who_says_that_it_is_stopping_has_its_whole_time_again_after_everything_stood_still() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(3_000), ..listened_to("web") }]);
    rig.says_ready(0);
    rig.says(0, Announcement::Stopping);
    rig.sleep(3_600_000);
    assert_eq!(rig.tell(Event::Tick), NOTHING);
    assert_eq!(rig.wait(2_999), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} SIGTERM web.1#1", rig.elapsed_ms())]);
}

// ---------------------------------------------------------------- a start that takes too long

#[test]
fn a_start_that_took_too_long_is_told_with_the_time_it_had() {
    for (asked_after_2_s, had) in [(None, "5s"), (Some(1_000), "5s"), (Some(8_000), "10s")] {
        let mut rig = Rig::new(vec![Service { start_timeout: Duration::from_secs(5), ..listened_to("web") }]);
        rig.up(0);
        rig.wait(2_000);
        if let Some(more) = asked_after_2_s {
            rig.says(0, needs(more));
        }
        rig.wait(20_000);
        assert!(rig.told().contains(&format!("not ready in time web.1#1 after {had}: None")), "{:?}", rig.told());
    }
}
