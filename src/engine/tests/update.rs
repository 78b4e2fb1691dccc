//! Another file while everything runs: only what has changed moves, in order, and by whose definition.

use super::*;
use crate::engine::status::StateName;
use crate::engine::update::MOST_FORMER;

fn named(name: &str, words: &str) -> Service {
    let mut service = service(name);
    service.launch.command = Program::Argv(vec![words.into()]);
    service
}

fn on_all(service: Service, services: &[usize]) -> Service {
    let depends_on = services.iter().map(|id| Dependency { service: ServiceId(*id), condition: Condition::Ready }).collect();
    Service { depends_on, ..service }
}

fn spec(services: Vec<Service>) -> Spec {
    Spec { services, stop_timeout: Duration::from_millis(8_000), drain: Duration::ZERO, memory: Memory::default() }
}

/// Everything is ready.
fn ready(services: Vec<Service>) -> Rig {
    let mut rig = Rig::new(services);
    for _ in 0..4 {
        come_up(&mut rig);
    }
    rig.notices.clear();
    rig
}

/// Whoever is being executed is, and is ready.
fn come_up(rig: &mut Rig) {
    for id in rig.engine.instance_ids().collect::<Vec<_>>() {
        let status = rig.engine.instance_status_of(rig.now, id).unwrap();
        if let Some(run) = rig.engine.current_run(id).filter(|_| status.state == StateName::Starting) {
            rig.tell(Event::Spawned { run, pid: 7 });
            rig.tell(Event::Executed { run });
        }
    }
    rig.wait(1_000);
}

fn update(rig: &mut Rig, services: Vec<Service>) -> Vec<String> {
    rig.tell(Event::Update(Box::new(spec(services))))
}

fn steps(rig: &Rig, services: Vec<Service>) -> Vec<Step> {
    rig.engine.plan(&spec(services)).unwrap().services.iter().map(|planned| planned.step).collect()
}

fn names(rig: &Rig) -> Vec<String> {
    rig.status().services.into_iter().map(|service| service.name).collect()
}

#[test]
fn the_same_file_changes_nothing() {
    let all = || vec![named("db", "a"), on_all(named("web", "b"), &[0])];
    let mut rig = ready(all());
    assert!(rig.engine.plan(&spec(all())).unwrap().is_nothing());
    assert_eq!(update(&mut rig, all()), NOTHING);
    assert_eq!(rig.told(), NOTHING);
    // In another order it is the same, too: ids in the file are only places.
    let swapped = vec![on_all(named("web", "b"), &[1]), named("db", "a")];
    assert!(rig.engine.plan(&spec(swapped.clone())).unwrap().is_nothing());
    assert_eq!(update(&mut rig, swapped), NOTHING);
    assert_eq!(names(&rig), ["web", "db"], "in the order of the file");
}

#[test]
fn only_what_has_changed_moves() {
    let mut rig = ready(vec![named("a", "1"), named("b", "1"), named("c", "1")]);
    let words = update(&mut rig, vec![named("a", "1"), named("b", "2"), named("d", "1")]);
    assert_eq!(words, ["define d", "SIGTERM b.1#1", "SIGTERM c.1#1", "spawn d.1#1"]);
    assert_eq!(rig.told()[..2], ["updating 1 added, 1 removed, 1 restarted, 0 amended", "added d"]);
    assert!(rig.engine.is_updating());
    assert_eq!(names(&rig), ["a", "b", "d", "c"], "what goes comes last");
    assert_eq!(rig.exit(1, Outcome::Signaled(Signal::TERM)), ["define b", "spawn b.1#2"]);
    assert_eq!(rig.exit(2, Outcome::Signaled(Signal::TERM)), ["forget c"]);
    assert_eq!(names(&rig), ["a", "b", "d"]);
    assert!(!rig.engine.is_updating());
    assert_eq!(rig.told().last().unwrap(), "updated");
    assert_eq!(rig.engine.current_run(Rig::id(0)).map(|run| run.run), Some(1));
    come_up(&mut rig);
    assert!(rig.status().ready);
    // No crash, no restart of its own.
    assert_eq!(rig.status().services[1].instances[0].restarts.total, 0);
}

#[test]
fn dependents_stop_first_and_start_last() {
    let old = || vec![named("db", "1"), on_all(named("app", "1"), &[0]), on_all(named("web", "1"), &[1])];
    let mut rig = ready(old());
    // All three are others: first the one nobody needs.
    let new = vec![named("db", "2"), on_all(named("app", "2"), &[0]), on_all(named("web", "2"), &[1])];
    assert_eq!(update(&mut rig, new), ["SIGTERM web.1#1"]);
    assert_eq!(rig.exit(2, Outcome::Exited(0)), ["SIGTERM app.1#1", "define web"]);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["SIGTERM db.1#1", "define app"]);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["define db", "spawn db.1#2"]);
    assert_eq!(rig.state(1), StateName::Waiting);
    rig.settle(0);
    assert_eq!(rig.state(1), StateName::Starting);
    rig.settle(1);
    rig.settle(2);
    assert!(rig.status().ready);
    // The one in the middle alone: neither who needs it nor what it needs moves.
    let new = vec![named("db", "2"), on_all(named("app", "3"), &[0]), on_all(named("web", "2"), &[1])];
    assert_eq!(update(&mut rig, new), ["SIGTERM app.1#2"]);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["define app", "spawn app.1#3"]);
    assert_eq!(rig.run(2).run, 2);
}

#[test]
fn turned_around_dependencies_are_no_circle() {
    let mut rig = ready(vec![named("a", "1"), on_all(named("b", "1"), &[0])]);
    let new = vec![on_all(named("a", "2"), &[1]), named("b", "2")];
    assert_eq!(update(&mut rig, new), ["SIGTERM b.1#1"]);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["SIGTERM a.1#1", "define b", "spawn b.1#2"]);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["define a"]);
    rig.settle(1);
    assert_eq!(rig.state(0), StateName::Starting);
    // With everything being stopped in the middle: the old a needs b, and the new b needs a.
    let mut rig = ready(vec![named("b", "1"), on_all(named("a", "1"), &[0]), on_all(named("c", "1"), &[1])]);
    let new = vec![on_all(named("b", "1"), &[1]), named("a", "2"), named("c", "2")];
    assert_eq!(update(&mut rig, new), ["SIGTERM c.1#1", "define b"]);
    assert_eq!(rig.term(), NOTHING);
    assert_eq!(rig.exit(2, Outcome::Exited(0)), ["SIGTERM b.1#1", "SIGTERM a.1#1"]);
}

#[test]
fn a_change_that_no_process_can_notice_is_made_under_it() {
    let asks = |every| Service { ready: Readiness::Probe(Probe { every: Duration::from_secs(every), ..probe() }), ..service("web") };
    let base = || service("web");
    for new in [
        Service { stop: stop_within(3_000), ..base() },
        Service { restart: Restart::Never, ..base() },
        Service { give_up_after: None, ..base() },
        Service { start_timeout: Duration::from_secs(1), ..base() },
        Service { groups: vec!["front".into()], ..base() },
        Service { essential: false, ..base() },
        Service { reload_signal: Some(Signal::HUP), ..base() },
        Service { memory: ServiceMemory { victim: Victim::Never, ..ServiceMemory::default() }, ..base() },
    ] {
        let mut rig = ready(vec![base()]);
        assert_eq!(steps(&rig, vec![new.clone()]), [Step::Amend], "{new:?}");
        assert_eq!(update(&mut rig, vec![new]), ["define web"]);
        assert_eq!(rig.run(0).run, 1);
        assert_eq!(rig.told().last().unwrap(), "updated");
    }
    let mut rig = ready(vec![asks(10)]);
    assert_eq!(steps(&rig, vec![asks(5)]), [Step::Amend]);
    assert_eq!(update(&mut rig, vec![asks(5)]), ["define web"]);
    // What the process, or a question that is asked of it, was made from is no such change.
    let mut launch = base();
    launch.launch.nice = Some(5);
    for new in [
        launch,
        Service { ready: Readiness::Delay(Duration::from_secs(3)), ..base() },
        asks(10),
        Service { live: Some(probe()), ..base() },
        oneshot("web"),
    ] {
        let rig = ready(vec![base()]);
        assert_eq!(steps(&rig, vec![new]), [Step::Restart]);
    }
}

#[test]
fn who_is_being_ended_is_ended_by_the_definition_it_was_started_with() {
    let mut rig = ready(vec![service("web")]);
    rig.command(Verb::Restart, 0);
    let new = Service { stop: Stop { signals: vec![Signal::QUIT], ..stop_within(1_000) }, ..service("web") };
    assert_eq!(update(&mut rig, vec![new]), NOTHING);
    assert!(rig.engine.is_updating());
    assert_eq!(rig.exit(0, Outcome::Signaled(Signal::TERM)), ["define web", "spawn web.1#2"]);
    assert_eq!(rig.ended(), Some((true, true)), "its end is as it was asked for");
    rig.settle(0);
    assert_eq!(rig.command(Verb::Stop, 0), ["SIGQUIT web.1#2"]);
}

#[test]
fn who_waits_beside_one_that_is_being_ended_starts_by_the_new_definition() {
    let two = |timeout| Service { instances: 2, stop: stop_within(timeout), ..service("web") };
    let second = InstanceId { service: ServiceId(0), number: 2 };
    let mut rig = ready(vec![two(10_000)]);
    let run = rig.engine.current_run(second).unwrap();
    rig.tell(Event::Exited { run, outcome: Outcome::Exited(1), left_behind: 0 });
    rig.command(Verb::Restart, 0);
    assert_eq!(update(&mut rig, vec![two(3_000)]), NOTHING);
    // Its delay is over, and nothing is due for it: it is the other one that is waited for.
    assert_eq!(rig.wait(5_000).iter().filter(|words| words.contains("spawn")).count(), 0);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["define web", "spawn web.1#2", "spawn web.2#2"]);
}

#[test]
fn another_number_of_instances_adds_and_removes_only_those() {
    let several = |instances| Service { instances, ..service("web") };
    let mut rig = ready(vec![several(2)]);
    assert_eq!(update(&mut rig, vec![several(3)]), ["define web", "spawn web.3#1"]);
    come_up(&mut rig);
    assert_eq!(update(&mut rig, vec![several(1)]), ["define web", "SIGTERM web.2#1", "SIGTERM web.3#1"]);
    // Scaled by hand: only another number in the file says otherwise.
    let mut rig = ready(vec![several(2)]);
    rig.tell(Event::Scale { service: ServiceId(0), instances: 3 });
    come_up(&mut rig);
    assert_eq!(update(&mut rig, vec![Service { stop: stop_within(1), ..several(2) }]), ["define web"]);
    assert_eq!(rig.engine.instances_wanted(ServiceId(0)), 3);
}

#[test]
fn who_is_new_waits_for_instances_that_are_still_to_come() {
    let db = |instances| Service { instances, ..named("db", "1") };
    let mut rig = ready(vec![db(2)]);
    assert_eq!(update(&mut rig, vec![db(1)]), ["define db", "SIGTERM db.2#1"]);
    assert!(!rig.engine.is_updating());
    // While the second one is still being ended it is to have three: those are what the new one needs, and not the one that is left.
    assert_eq!(update(&mut rig, vec![db(3), on_all(named("web", "1"), &[0])]), ["define web"]);
    let second = RunId { instance: InstanceId { service: ServiceId(0), number: 2 }, run: 1 };
    let words = rig.tell(Event::Exited { run: second, outcome: Outcome::Signaled(Signal::TERM), left_behind: 0 });
    assert_eq!(words, ["define db", "spawn db.2#2", "spawn db.3#1"]);
    come_up(&mut rig);
    assert_eq!(rig.engine.current_run(Rig::id(1)).map(|run| run.run), Some(1), "web starts now");
}

#[test]
fn who_was_stopped_by_hand_stays_so_by_the_new_definition() {
    let mut rig = ready(vec![named("web", "1"), named("db", "1")]);
    rig.command(Verb::Stop, 0);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(update(&mut rig, vec![named("web", "2"), named("db", "1")]), ["define web"]);
    assert_eq!(rig.state(0), StateName::Stopped);
    assert!(!rig.engine.is_updating());
    assert_eq!(rig.command(Verb::Start, 0), ["spawn web.1#2"]);
}

#[test]
fn what_is_wished_meanwhile_is_about_the_new_definition() {
    let two = || vec![named("db", "2"), on_all(named("web", "2"), &[0])];
    for (verb, state) in [(Verb::Stop, StateName::Stopped), (Verb::Restart, StateName::Starting), (Verb::Start, StateName::Starting)] {
        let mut rig = ready(vec![named("db", "1"), on_all(named("web", "1"), &[0])]);
        update(&mut rig, two());
        assert_eq!(rig.command(verb, 0), NOTHING, "it is not its turn");
        assert_eq!(rig.exit(1, Outcome::Exited(0)), ["SIGTERM db.1#1", "define web"]);
        rig.exit(0, Outcome::Exited(0));
        assert_eq!(rig.state(0), state, "{verb:?}");
    }
}

#[test]
fn whoever_is_to_go_is_no_reason_to_end_everything() {
    let fragile = || Service { restart: Restart::Never, ..named("old", "1") };
    let mut rig = ready(vec![named("web", "1"), fragile(), on_all(named("user", "1"), &[1])]);
    update(&mut rig, vec![named("web", "1")]);
    // It ends by itself before its turn has come.
    rig.exit(1, Outcome::Exited(1));
    assert!(rig.over().is_none());
    rig.exit(2, Outcome::Exited(0));
    assert_eq!(names(&rig), ["web"]);
    assert!(rig.status().ready);
    // The same of one that is to come back as another.
    let fragile = |command: &str| Service { restart: Restart::Never, ..named("db", command) };
    let mut rig = ready(vec![fragile("1"), on_all(named("web", "1"), &[0])]);
    update(&mut rig, vec![fragile("2"), on_all(named("web", "2"), &[0])]);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), ["define db", "spawn db.1#2"]);
    assert!(rig.over().is_none());
    assert_eq!(rig.status().services[0].instances[0].restarts.total, 0);
}

#[test]
fn who_was_given_up_is_tried_again_by_its_new_definition() {
    let broken = |command: &str, limit| Service { give_up_after: Some(limit), ..Service { essential: false, ..named("job", command) } };
    for new in [broken("2", 1), broken("1", 2)] {
        let mut rig = ready(vec![named("web", "1"), broken("1", 1)]);
        rig.exit(1, no_program());
        assert_eq!(rig.state(1), StateName::Failed);
        assert_eq!(update(&mut rig, vec![named("web", "1"), new]), ["define job", "spawn job.1#2"]);
    }
}

#[test]
fn a_job_that_is_done_is_done_again_only_if_it_is_another() {
    let job = |command: &str| Service { launch: named("job", command).launch, ..oneshot("job") };
    let mut rig = Rig::new(vec![job("1"), on_all(named("web", "1"), &[])]);
    rig.up(0);
    rig.exit(0, Outcome::Exited(0));
    rig.settle(1);
    let policy = Service { start_timeout: Duration::from_secs(7), ..job("1") };
    assert_eq!(update(&mut rig, vec![policy, named("web", "1")]), ["define job"]);
    assert_eq!(rig.state(0), StateName::Completed);
    assert_eq!(update(&mut rig, vec![job("2"), named("web", "1")]), ["define job", "spawn job.1#2"]);
}

#[test]
fn one_update_at_a_time_and_none_while_everything_stops() {
    let mut rig = ready(vec![named("a", "1"), named("b", "1")]);
    update(&mut rig, vec![named("a", "2"), named("b", "1")]);
    assert_eq!(rig.engine.plan(&spec(vec![named("a", "1")])), Err(UpdateRefusal::UnderWay));
    assert_eq!(update(&mut rig, vec![named("a", "3")]), NOTHING);
    rig.term();
    assert_eq!(rig.engine.plan(&spec(vec![named("a", "1")])), Err(UpdateRefusal::Stopping));
    // It stops as any other.
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["exit 0"]);
}

#[test]
fn a_name_that_comes_again_goes_on_counting_its_runs() {
    let mut rig = ready(vec![named("a", "1"), named("b", "1")]);
    update(&mut rig, vec![named("a", "1")]);
    let old = rig.run(1);
    rig.exit(1, Outcome::Exited(0));
    assert_eq!(update(&mut rig, vec![named("a", "1"), named("c", "1")]), ["define c", "spawn c.1#1"]);
    assert_eq!(update(&mut rig, vec![named("a", "1"), named("b", "1"), named("c", "1")]), ["define b", "spawn b.1#2"]);
    assert_eq!(rig.engine.service_ids().collect::<Vec<_>>(), [ServiceId(0), ServiceId(1), ServiceId(2)]);
    // Late news of the first one.
    assert_eq!(rig.tell(Event::Exited { run: old, outcome: Outcome::Exited(1), left_behind: 0 }), NOTHING);
    // One that is not started by itself has not been started, whatever ran before it.
    update(&mut rig, vec![named("a", "1"), named("c", "1")]);
    rig.exit(1, Outcome::Exited(0));
    let idle = Service { autostart: false, ..named("b", "1") };
    come_up(&mut rig);
    assert_eq!(update(&mut rig, vec![named("a", "1"), idle, named("c", "1")]), ["define b"]);
    assert!(rig.status().ready, "{:?}", rig.status());
}

#[test]
fn who_has_come_and_gone_too_often_is_refused() {
    let mut rig = ready(vec![named("a", "1")]);
    for number in 0..MOST_FORMER {
        let guest = Service { autostart: false, ..named(&format!("guest{number}"), "1") };
        update(&mut rig, vec![named("a", "1"), guest]);
        update(&mut rig, vec![named("a", "1")]);
        assert!(!rig.engine.is_updating());
    }
    let one_more = spec(vec![named("a", "1"), named("guest", "1")]);
    assert_eq!(rig.engine.plan(&one_more).map(|plan| plan.services.len()), Ok(2));
    update(&mut rig, one_more.services);
    come_up(&mut rig);
    assert_eq!(rig.engine.plan(&spec(vec![named("a", "1")])), Err(UpdateRefusal::TooMany));
}

#[test]
fn a_rolling_restart_ends_where_its_service_is_another() {
    let several = |command: &str| Service { instances: 2, ..named("web", command) };
    let mut rig = ready(vec![several("1")]);
    let both = [1, 2].map(|number| InstanceId { service: ServiceId(0), number }).to_vec();
    rig.tell(Event::Command(Command { verb: Verb::Roll, instances: both }));
    rig.notices.clear();
    assert_eq!(update(&mut rig, vec![several("2")]), ["SIGTERM web.2#1"]);
    assert!(rig.told()[1].starts_with("roll"), "{:?}", rig.told());
    assert!(!rig.engine.roll(ServiceId(0)).unwrap().is_going());
}

#[test]
fn the_time_to_stop_in_holds_at_once() {
    let mut rig = ready(vec![service("web")]);
    let other = Spec { stop_timeout: Duration::from_secs(2), ..spec(vec![service("web")]) };
    assert!(!rig.engine.plan(&other).unwrap().is_nothing());
    assert_eq!(rig.tell(Event::Update(Box::new(other))), NOTHING);
    rig.term();
    assert_eq!(rig.told(), ["shutting down within 2s, drain 0ns", "stopping web.1#1 by SIGTERM within 1.75s (Shutdown)"]);
}

#[test]
fn an_update_is_over_at_once_when_somebody_has_only_come() {
    let mut rig = ready(vec![named("a", "1")]);
    update(&mut rig, vec![named("a", "1"), named("b", "1")]);
    assert!(!rig.engine.is_updating());
    assert_eq!(rig.told().iter().filter(|told| *told == "updated").count(), 1, "{:?}", rig.told());
}
