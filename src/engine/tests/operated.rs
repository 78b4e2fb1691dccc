//! Rolling restarts, other numbers of instances, signals: what operators wish beyond up and down.

use super::*;
use crate::engine::roll::{RollState, RollStop};

fn web(number: u16) -> InstanceId {
    InstanceId { service: ServiceId(0), number }
}

fn run_of(rig: &Rig, id: InstanceId) -> RunId {
    rig.engine.current_run(id).unwrap_or_else(|| panic!("{id:?} runs"))
}

/// Its process exists and its program runs.
fn up(rig: &mut Rig, id: InstanceId) -> Vec<String> {
    let run = run_of(rig, id);
    let mut words = rig.tell(Event::Spawned { run, pid: 7 });
    words.extend(rig.tell(Event::Executed { run }));
    words
}

fn exit(rig: &mut Rig, id: InstanceId, outcome: Outcome) -> Vec<String> {
    let run = run_of(rig, id);
    rig.tell(Event::Exited { run, outcome, left_behind: 0 })
}

fn wish(rig: &mut Rig, verb: Verb, numbers: &[u16]) -> Vec<String> {
    rig.tell(Event::Command(Command { verb, instances: numbers.iter().map(|number| web(*number)).collect() }))
}

fn scale(rig: &mut Rig, instances: u16) -> Vec<String> {
    rig.tell(Event::Scale { service: ServiceId(0), instances })
}

fn several(instances: u16) -> Service {
    Service { instances, start_timeout: Duration::from_secs(20), ..service("web") }
}

/// All instances of `web`, and what follows it, are ready.
fn ready(services: Vec<Service>) -> Rig {
    let mut rig = Rig::new(services);
    for _ in 0..4 {
        let waits = |id: &InstanceId| !ready_now(&rig, *id) && rig.engine.current_run(*id).is_some();
        let ids: Vec<InstanceId> = rig.engine.instance_ids().filter(waits).collect();
        for id in ids {
            up(&mut rig, id);
        }
        rig.wait(1_000);
    }
    rig.notices.clear();
    rig
}

fn ready_now(rig: &Rig, id: InstanceId) -> bool {
    rig.engine.instance_status_of(rig.now, id).is_some_and(|status| status.ready)
}

fn states(rig: &Rig) -> Vec<StateName> {
    rig.status().services[0].instances.iter().map(|one| one.state).collect()
}

fn roll(rig: &Rig) -> RollState {
    rig.engine.roll(ServiceId(0)).unwrap().state
}

fn told(rig: &mut Rig, start: &str) -> Vec<String> {
    let all = rig.told();
    rig.notices.clear();
    all.into_iter().filter(|words| words.starts_with(start)).collect()
}

// ---------------------------------------------------------------- rolling restarts

#[test]
fn a_rolling_restart_takes_the_next_only_once_the_one_before_is_ready() {
    let mut rig = ready(vec![several(3)]);
    assert_eq!(wish(&mut rig, Verb::Roll, &[1, 2, 3]), ["SIGTERM web.1#1"]);
    assert_eq!(told(&mut rig, "roll"), ["rolling 3 of web"]);
    for number in 1..=3 {
        assert_eq!(exit(&mut rig, web(number), Outcome::Signaled(Signal::TERM)), [format!("spawn web.{number}#2")]);
        assert_eq!(up(&mut rig, web(number)), NOTHING);
        // Up is not enough.
        assert_eq!(rig.wait(999), NOTHING);
        let others = (1..=3).filter(|other| *other != number).all(|other| ready_now(&rig, web(other)));
        assert!(others && !ready_now(&rig, web(number)));
        let next: Vec<String> = rig.wait(1).into_iter().map(|words| words.split_once(' ').unwrap().1.to_owned()).collect();
        let expected: Vec<String> = if number < 3 { vec![format!("SIGTERM web.{}#1", number + 1)] } else { Vec::new() };
        assert_eq!(next, expected);
    }
    assert_eq!(roll(&rig), RollState::Done);
    assert_eq!(told(&mut rig, "roll"), ["rolled web"]);
    assert_eq!(rig.wait(100_000), NOTHING);
}

#[test]
fn a_rolling_restart_stops_at_the_first_that_does_not_come_back() {
    let mut rig = ready(vec![Service { essential: false, ..several(3) }]);
    wish(&mut rig, Verb::Roll, &[1, 2, 3]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    up(&mut rig, web(1));
    assert_eq!(exit(&mut rig, web(1), Outcome::Exited(1)), NOTHING);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NotBack, 2 left"]);
    assert_eq!(rig.engine.roll(ServiceId(0)).unwrap().left, [2, 3]);
    // By its own policy it is tried on; the others are left alone even when that helps.
    assert_eq!(rig.wait(500).len(), 1);
    up(&mut rig, web(1));
    assert_eq!(rig.wait(200_000), NOTHING);
    assert_eq!((run_of(&rig, web(2)).run, run_of(&rig, web(3)).run), (1, 1));

    // A new run that cannot be executed, one that is not ready in time.
    let mut rig = ready(vec![several(2)]);
    wish(&mut rig, Verb::Roll, &[1, 2]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    exit(&mut rig, web(1), no_program());
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NotBack, 1 left"]);
    let slow = Service { ready: Readiness::NotifyFd(3), essential: false, ..several(2) };
    let mut rig = Rig::new(vec![slow]);
    for number in 1..=2 {
        up(&mut rig, web(number));
        let run = run_of(&rig, web(number));
        rig.tell(Event::Announced { run, what: Announcement::Ready });
    }
    assert_eq!(wish(&mut rig, Verb::Roll, &[1, 2]), ["SIGTERM web.1#1"]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    up(&mut rig, web(1));
    assert_eq!(rig.wait(20_000).len(), 1);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NotBack, 1 left"]);
}

#[test]
fn who_is_not_ready_comes_first_and_who_is_ready_waits_for_the_others() {
    // web.2 is down between two runs: ending it costs nothing, and a new run may mend it.
    let mut rig = ready(vec![several(3)]);
    exit(&mut rig, web(2), Outcome::Exited(1));
    assert_eq!(wish(&mut rig, Verb::Roll, &[1, 2, 3]), ["spawn web.2#2"]);
    up(&mut rig, web(2));
    assert_eq!(rig.wait(1_000), ["5000 SIGTERM web.1#1"]);

    // It is not asked for: then it is waited for.
    let mut rig = ready(vec![several(3)]);
    exit(&mut rig, web(2), Outcome::Exited(1));
    assert_eq!(wish(&mut rig, Verb::Roll, &[1]), NOTHING);
    rig.wait(500);
    up(&mut rig, web(2));
    assert_eq!(rig.wait(1_000), ["5500 SIGTERM web.1#1"]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    // One that fails in the meantime is waited for as well, and not for ever.
    up(&mut rig, web(1));
    wish(&mut rig, Verb::Roll, &[3]);
    exit(&mut rig, web(2), Outcome::Exited(1));
    assert_eq!(rig.engine.roll(ServiceId(0)).unwrap().order, 1);
    rig.wait(900);
    let acted = rig.wait(20_200);
    // Whatever becomes of web.2, web.3 keeps its run.
    assert!(acted.iter().all(|words| words.contains(" web.2#3")), "{acted:?}");
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.3: OtherNotReady(2), 1 left"]);
}

#[test]
fn a_service_that_would_not_be_ready_is_not_rolled() {
    let mut rig = ready(vec![service("web"), oneshot("job")]);
    assert!(!rig.engine.may_roll(ServiceId(0)) && !rig.engine.may_roll(ServiceId(1)));
    assert_eq!(wish(&mut rig, Verb::Roll, &[1]), NOTHING);
    assert_eq!(rig.engine.roll(ServiceId(0)), None);
    // Of two one was stopped: the other is all there is.
    let mut rig = ready(vec![several(2)]);
    wish(&mut rig, Verb::Stop, &[2]);
    exit(&mut rig, web(2), Outcome::Exited(0));
    assert_eq!(wish(&mut rig, Verb::Roll, &[1]), NOTHING);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NoOther, 1 left"]);
    // Asked for, it is started first, as a restart does.
    assert_eq!(wish(&mut rig, Verb::Roll, &[1, 2]), ["spawn web.2#2"]);
    up(&mut rig, web(2));
    assert_eq!(rig.wait(1_000).len(), 1);
}

#[test]
fn a_later_wish_is_the_one_that_counts() {
    // The one whose turn it is.
    let mut rig = ready(vec![several(3)]);
    wish(&mut rig, Verb::Roll, &[1, 2, 3]);
    assert_eq!(wish(&mut rig, Verb::Stop, &[1]), NOTHING);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: StoppedByOperator, 2 left"]);
    // Those whose turn is to come: stopped ones are left out, and so is who was restarted by itself.
    let mut rig = ready(vec![several(4)]);
    wish(&mut rig, Verb::Roll, &[1, 2, 3, 4]);
    wish(&mut rig, Verb::Stop, &[2]);
    wish(&mut rig, Verb::Restart, &[3]);
    for number in 1..=3 {
        exit(&mut rig, web(number), Outcome::Exited(0));
    }
    for number in [1, 3] {
        up(&mut rig, web(number));
    }
    assert_eq!(rig.wait(1_000), ["5000 SIGTERM web.4#1"]);
    // A restart of the one whose turn it is: the run after that is waited for.
    exit(&mut rig, web(4), Outcome::Exited(0));
    up(&mut rig, web(4));
    assert_eq!(wish(&mut rig, Verb::Restart, &[4]), ["SIGTERM web.4#2"]);
    assert_eq!(exit(&mut rig, web(4), Outcome::Exited(0)), ["spawn web.4#3"]);
    up(&mut rig, web(4));
    rig.wait(1_000);
    assert_eq!(told(&mut rig, "roll").last().unwrap(), "rolled web");
    // Asked for twice at once: each is restarted once more, and never two at a time.
    wish(&mut rig, Verb::Roll, &[1, 3, 4]);
    assert_eq!(wish(&mut rig, Verb::Roll, &[1, 3]), NOTHING);
    assert_eq!(rig.engine.roll(ServiceId(0)).unwrap().left, [3, 4, 1]);
    // A stop of the stack ends it.
    rig.term();
    let before = rig.notices.len();
    rig.wait(100);
    assert!(rig.notices[before..].iter().all(|notice| !matches!(notice, Notice::RollBegun { .. })));
}

#[test]
fn a_roll_waits_for_dependencies_as_a_start_does_and_not_for_ever() {
    let mut rig = ready(vec![Service { depends_on: on(1, Condition::Ready), ..several(2) }, service("db")]);
    rig.command(Verb::Stop, 1);
    rig.exit(1, Outcome::Exited(0));
    wish(&mut rig, Verb::Roll, &[1, 2]);
    assert_eq!(exit(&mut rig, web(1), Outcome::Exited(0)), NOTHING);
    assert_eq!(rig.wait(19_999), NOTHING);
    rig.wait(1);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NotStarted, 1 left"]);
    assert_eq!(states(&rig), [StateName::Waiting, StateName::Running]);
}

// ---------------------------------------------------------------- other numbers of instances

#[test]
fn instances_are_added_and_the_highest_go_first() {
    let mut rig = ready(vec![several(2), service("db")]);
    assert_eq!(scale(&mut rig, 4), ["spawn web.3#1", "spawn web.4#1"]);
    assert_eq!(told(&mut rig, "scaled"), ["scaled web from 2 to 4"]);
    assert_eq!(rig.status().services[0].instances_in_file, Some(2));
    // Who comes after it in the file is who it was.
    assert_eq!(rig.engine.instance_ids().count(), 5);
    assert_eq!(rig.state(1), StateName::Running);
    assert_eq!(rig.exit(1, Outcome::Exited(1)), NOTHING);
    assert_eq!(rig.wait(500), [format!("{} spawn db.1#2", rig.elapsed_ms())]);
    rig.settle(1);
    for number in 3..=4 {
        up(&mut rig, web(number));
    }
    rig.wait(1_000);
    assert!(rig.status().ready);

    assert_eq!(scale(&mut rig, 1), ["SIGTERM web.2#1", "SIGTERM web.3#1", "SIGTERM web.4#1"]);
    // What is leaving is no reason not to be ready.
    assert!(rig.status().ready && rig.status().services[0].ready);
    assert_eq!(rig.status().services[0].instances.len(), 4);
    // The middle goes first, and nothing but the end of all is waited for.
    exit(&mut rig, web(3), Outcome::Exited(0));
    exit(&mut rig, web(2), Outcome::Exited(0));
    exit(&mut rig, web(4), Outcome::Exited(0));
    assert_eq!(states(&rig), [StateName::Running]);
    assert_eq!(rig.engine.instance_ids().count(), 2);
    assert_eq!(rig.engine.instance_status_of(rig.now, web(2)), None);
    assert_eq!(rig.wait(100_000), NOTHING);
    // Runs are never numbered twice.
    assert_eq!(scale(&mut rig, 2), ["spawn web.2#2"]);
    assert_eq!(rig.status().services[0].instances_in_file, None);
}

#[test]
fn who_is_leaving_may_be_wanted_again_before_it_has_gone() {
    let mut rig = ready(vec![several(3)]);
    scale(&mut rig, 1);
    assert_eq!(scale(&mut rig, 2), NOTHING);
    assert_eq!(exit(&mut rig, web(2), Outcome::Exited(0)), ["spawn web.2#2"]);
    assert_eq!(exit(&mut rig, web(3), Outcome::Exited(0)), NOTHING);
    assert_eq!(states(&rig), [StateName::Running, StateName::Starting]);
    // One that has gone in the middle of those that are leaving.
    let mut rig = ready(vec![several(3)]);
    scale(&mut rig, 1);
    exit(&mut rig, web(2), Outcome::Exited(0));
    assert_eq!(states(&rig), [StateName::Running, StateName::Stopped, StateName::Stopping]);
    assert_eq!(scale(&mut rig, 3), ["spawn web.2#2"]);
    assert_eq!(exit(&mut rig, web(3), Outcome::Exited(0)), ["spawn web.3#2"]);
    // Verbs do not reach who is leaving.
    scale(&mut rig, 2);
    assert_eq!(wish(&mut rig, Verb::Start, &[3]), NOTHING);
    assert_eq!(wish(&mut rig, Verb::Restart, &[3]), NOTHING);
}

#[test]
fn what_is_added_is_wanted_as_the_first_one_is() {
    let mut rig = ready(vec![several(1), service("db")]);
    wish(&mut rig, Verb::Stop, &[1]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    assert_eq!(scale(&mut rig, 3), NOTHING);
    assert_eq!(states(&rig), [StateName::Stopped; 3]);
    assert_eq!(wish(&mut rig, Verb::Start, &[1, 2, 3]), ["spawn web.1#2", "spawn web.2#1", "spawn web.3#1"]);
    // In backoff, waiting, stopped: whoever has no process goes at once.
    exit(&mut rig, web(3), no_memory());
    scale(&mut rig, 2);
    assert_eq!(rig.engine.instance_ids().count(), 3);
    // At least one, at most as many as a file may say; a oneshot is left alone.
    scale(&mut rig, 0);
    assert_eq!(rig.engine.instances_wanted(ServiceId(0)), 1);
    let mut rig = ready(vec![oneshot("web")]);
    assert_eq!(scale(&mut rig, 3), NOTHING);
    assert_eq!(rig.engine.instance_ids().count(), 1);
}

#[test]
fn whoever_waits_for_a_service_does_not_wait_for_who_leaves_it() {
    let services = vec![several(2), Service { depends_on: on(0, Condition::Ready), autostart: false, ..service("front") }];
    let mut rig = ready(services);
    scale(&mut rig, 1);
    assert_eq!(rig.command(Verb::Start, 1), ["spawn front.1#1"]);
    // And a stop of the stack waits for all of them.
    rig.up(1);
    rig.term();
    rig.exit(1, Outcome::Exited(0));
    exit(&mut rig, web(1), Outcome::Exited(0));
    assert_eq!(rig.over(), None);
    exit(&mut rig, web(2), Outcome::Exited(0));
    assert!(rig.over().is_some());
}

#[test]
fn who_is_leaving_does_not_make_its_service_count() {
    let mut rig = ready(vec![Service { autostart: false, ..several(2) }, service("db")]);
    wish(&mut rig, Verb::Start, &[2]);
    assert!(!rig.status().ready, "it was started in part");
    scale(&mut rig, 1);
    assert_eq!(states(&rig), [StateName::Stopped, StateName::Stopping]);
    assert!(rig.status().ready && rig.engine.tally().is_ready());
}

#[test]
fn a_roll_and_another_number_of_instances_get_along() {
    let mut rig = ready(vec![several(3)]);
    wish(&mut rig, Verb::Roll, &[1, 2, 3]);
    // A new one is waited for like the others; one that leaves is not restarted.
    scale(&mut rig, 2);
    assert_eq!(scale(&mut rig, 2), NOTHING);
    exit(&mut rig, web(3), Outcome::Exited(0));
    exit(&mut rig, web(1), Outcome::Exited(0));
    assert_eq!(scale(&mut rig, 3), ["spawn web.3#2"]);
    up(&mut rig, web(1));
    assert_eq!(rig.wait(1_000), NOTHING);
    up(&mut rig, web(3));
    assert_eq!(rig.wait(1_000), [format!("{} SIGTERM web.2#1", rig.elapsed_ms())]);
    // The one whose turn it is is scaled away: it has not come back.
    scale(&mut rig, 1);
    assert_eq!(roll(&rig), RollState::Stopped { at: 2, why: RollStop::RemovedByOperator });
    assert_eq!(told(&mut rig, "roll").last().unwrap(), "roll stopped at web.2: RemovedByOperator, 0 left");
}

#[test]
fn a_roll_of_which_nobody_is_left_before_a_turn_is_not_done() {
    // web.2 is down between two runs, so web.1 waits for its turn.
    let waiting = || {
        let mut rig = ready(vec![several(3)]);
        exit(&mut rig, web(2), Outcome::Exited(1));
        assert_eq!(wish(&mut rig, Verb::Roll, &[1, 3]), NOTHING);
        told(&mut rig, "");
        rig
    };
    let mut rig = waiting();
    wish(&mut rig, Verb::Stop, &[3, 1]);
    assert_eq!(told(&mut rig, "roll"), ["roll stopped at web.1: StoppedByOperator, 0 left"]);
    let mut rig = waiting();
    wish(&mut rig, Verb::Stop, &[1]);
    assert_eq!(told(&mut rig, "roll"), NOTHING);
    wish(&mut rig, Verb::Restart, &[3]);
    assert_eq!(told(&mut rig, "roll"), ["roll stopped at web.3: RestartedByOperator, 0 left"]);
    let mut rig = waiting();
    wish(&mut rig, Verb::Restart, &[1]);
    scale(&mut rig, 2);
    assert_eq!(told(&mut rig, "roll"), ["roll stopped at web.3: RemovedByOperator, 0 left"]);
    // The one that comes back is the last, and then it is done.
    let mut rig = ready(vec![several(3)]);
    wish(&mut rig, Verb::Roll, &[1, 3]);
    wish(&mut rig, Verb::Stop, &[3]);
    exit(&mut rig, web(1), Outcome::Exited(0));
    up(&mut rig, web(1));
    rig.wait(1_000);
    assert_eq!(told(&mut rig, "roll"), ["rolling 2 of web", "rolled web"]);
}

#[test]
fn a_removal_leaves_the_last_ready_one_while_a_roll_brings_another_back() {
    let rolling = |instances: u16| {
        let mut rig = ready(vec![Service { essential: false, ..several(instances) }]);
        assert_eq!(wish(&mut rig, Verb::Roll, &[1, 2]), ["SIGTERM web.1#1"]);
        rig
    };
    let mut rig = rolling(2);
    assert_eq!(scale(&mut rig, 1), NOTHING);
    assert_eq!((rig.engine.instances_wanted(ServiceId(0)), rig.engine.instances_to_be(ServiceId(0))), (2, 1));
    exit(&mut rig, web(1), Outcome::Exited(0));
    up(&mut rig, web(1));
    assert_eq!(rig.wait(999), NOTHING);
    assert_eq!(told(&mut rig, "scaled"), NOTHING);
    assert_eq!(rig.wait(1), [format!("{} SIGTERM web.2#1", rig.elapsed_ms())]);
    assert_eq!(
        told(&mut rig, ""),
        ["ready web.1#2 after 1s", "scaled web from 2 to 1", "stopping web.2#1 by SIGTERM within 10s (Operator)", "rolled web"]
    );
    // The roll has given up: there is nothing to wait for.
    let mut rig = rolling(2);
    scale(&mut rig, 1);
    exit(&mut rig, web(1), Outcome::Exited(0));
    assert_eq!(exit(&mut rig, web(1), Outcome::Exited(1)), ["SIGTERM web.2#1"]);
    assert_eq!(told(&mut rig, "roll stopped"), ["roll stopped at web.1: NotBack, 0 left"]);
    // Who was to go has gone by itself: it does not come again.
    let mut rig = rolling(2);
    scale(&mut rig, 1);
    assert_eq!(exit(&mut rig, web(2), Outcome::Exited(1)), NOTHING);
    assert_eq!(states(&rig), [StateName::Stopping]);
    // A later wish is the one that counts, and nothing has happened to who was to go. It was left out of the roll.
    let mut rig = rolling(2);
    scale(&mut rig, 1);
    assert_eq!(scale(&mut rig, 3), ["spawn web.3#1"]);
    assert_eq!(rig.engine.instances_to_be(ServiceId(0)), 3);
    exit(&mut rig, web(1), Outcome::Exited(0));
    up(&mut rig, web(1));
    up(&mut rig, web(3));
    assert_eq!(rig.wait(5_000), NOTHING);
    assert_eq!((roll(&rig), run_of(&rig, web(2)).run), (RollState::Done, 1));
    // Another one that stays is ready, or the one that is coming goes itself: nobody is waited for.
    let mut rig = rolling(3);
    assert_eq!(scale(&mut rig, 2), ["SIGTERM web.3#1"]);
    let mut rig = ready(vec![several(2)]);
    wish(&mut rig, Verb::Roll, &[2]);
    exit(&mut rig, web(2), Outcome::Exited(0));
    assert_eq!(scale(&mut rig, 1), ["SIGTERM web.2#2"]);
}

// ---------------------------------------------------------------- signals

#[test]
fn a_reload_is_the_services_own_signal_to_a_program_that_runs() {
    let reloads = |signal| Service { reload_signal: signal, ..service("web") };
    let mut rig = Rig::new(vec![reloads(Some(Signal::HUP))]);
    // Before it is executed it could only die of it.
    assert_eq!(rig.command(Verb::Reload, 0), NOTHING);
    rig.up(0);
    assert_eq!(rig.command(Verb::Reload, 0), ["send SIGHUP to Main of web.1#1"]);
    rig.wait(1_000);
    assert_eq!(rig.command(Verb::Reload, 0), ["send SIGHUP to Main of web.1#1"]);
    assert_eq!(rig.state(0), StateName::Running);
    rig.command(Verb::Stop, 0);
    assert_eq!(rig.command(Verb::Reload, 0), NOTHING);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.command(Verb::Reload, 0), NOTHING);
    let mut rig = Rig::new(vec![reloads(None)]);
    rig.settle(0);
    assert_eq!(rig.command(Verb::Reload, 0), NOTHING);
}

#[test]
fn a_signal_is_sent_as_asked_and_its_end_is_firstmates_own_doing() {
    let signal = |signal, to| Verb::Signal { signal, to };
    let mut rig = Rig::new(vec![service("web")]);
    assert_eq!(rig.command(signal(Signal::TERM, Reach::Main), 0), NOTHING);
    rig.settle(0);
    assert_eq!(rig.command(signal(Signal::STOP, Reach::Tree), 0), ["send SIGSTOP to Tree of web.1#1"]);
    assert_eq!(rig.command(signal(Signal::KILL, Reach::Main), 0), ["send SIGKILL to Main of web.1#1"]);
    rig.exit(0, Outcome::Signaled(Signal::KILL));
    // Not as wished: a signal is no stop. But nobody else sent it.
    assert_eq!(rig.ended(), Some((false, true)));
    assert_eq!(rig.state(0), StateName::Backoff);
    // To its policy that is a crash; to whoever reads of it, it is the operator's.
    assert!(matches!(rig.notices.last(), Some(Notice::Restarting { failures: 1, cause: Cause::Operator, .. })), "{:?}", rig.notices);
    let incident = rig.ended_run();
    assert_eq!((incident.cause, incident.reason.as_deref()), (Cause::Operator, Some("an operator sent it SIGKILL")));
    rig.wait(500);
    rig.up(0);
    rig.notices.clear();
    rig.exit(0, Outcome::Signaled(Signal::KILL));
    assert_eq!(rig.ended(), Some((false, false)), "it was another run that got it");
    assert!(matches!(rig.notices.last(), Some(Notice::Restarting { cause: Cause::Crash, .. })), "{:?}", rig.notices);
    // Also while it ends.
    rig.wait(1_000);
    rig.up(0);
    rig.command(Verb::Stop, 0);
    assert_eq!(rig.command(signal(Signal::CONT, Reach::Main), 0), ["send SIGCONT to Main of web.1#3"]);
}
