//! Services that watch files: what a change means to them, and what their end means to the rest.

use super::super::spec::WatchPath;
use super::*;

fn watching(name: &str, restart: Restart) -> Service {
    let watch = Watch { paths: vec![WatchPath { root: "/srv/src".into(), only: None }], ..Watch::default() };
    Service { restart, watch, ..service(name) }
}

fn change(rig: &mut Rig) -> Vec<String> {
    rig.tell(Event::Changed { service: ServiceId(0), what: "src/app.py".to_owned() })
}

/// A developer's: whatever the code it ends with, the next change starts it again, and all others go on.
#[test]
fn whoever_waits_for_a_change_ends_nothing() {
    for (code, state) in [(0, StateName::Exited), (3, StateName::Failed)] {
        let mut rig = Rig::new(vec![watching("web", Restart::Never), service("db")]);
        rig.settle(0);
        rig.up(1);
        assert_eq!(rig.exit(0, Outcome::Exited(code)), NOTHING);
        assert_eq!(rig.told().last().unwrap(), "not restarted web.1#1, awaits a change");
        assert_eq!((rig.state(0), rig.why(0)), (state, Some("waits until files it watches change".to_owned())));
        assert!(rig.over().is_none());
        rig.notices.clear();
        assert_eq!(change(&mut rig), ["spawn web.1#2"]);
        assert_eq!(rig.told()[0], "src/app.py changed, web begins anew");
    }
}

/// It may be the only one there is, and cannot even be started.
#[test]
fn it_waits_also_when_nothing_else_is_left() {
    let mut rig = Rig::new(vec![watching("web", Restart::OnFailure), oneshot("migrate")]);
    rig.up(0);
    rig.up(1);
    rig.exit(1, Outcome::Exited(0));
    rig.exit(0, Outcome::Exited(0));
    assert!(rig.over().is_none() && rig.engine.next_deadline().is_none(), "it only waits");
    assert_eq!(change(&mut rig), ["spawn web.1#2"]);

    let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..watching("web", Restart::Always) }]);
    assert_eq!(rig.exit(0, no_program()), NOTHING);
    assert!(rig.over().is_none());
    assert_eq!(rig.state(0), StateName::Failed);
    assert_eq!(change(&mut rig), ["spawn web.1#2"]);
}

/// Who depends on it waits along and is not given up.
#[test]
fn nobody_is_blocked_by_who_waits_for_a_change() {
    let web = Service { depends_on: on(0, Condition::Ready), ..service("web") };
    let mut rig = Rig::new(vec![watching("db", Restart::Never), web]);
    rig.up(0);
    rig.exit(0, Outcome::Exited(3));
    assert!(rig.over().is_none());
    assert!(!rig.told().iter().any(|words| words.contains("blocked")), "{:?}", rig.told());
    assert_eq!(change(&mut rig), ["spawn db.1#2"]);
    assert_eq!(rig.settle(0), ["1000 spawn web.1#1"]);
}

/// Without files to wait for everything is as ever.
#[test]
fn who_watches_nothing_ends_all() {
    let mut rig = Rig::new(vec![Service { restart: Restart::Never, ..service("web") }, optional("db")]);
    rig.settle(0);
    rig.exit(0, Outcome::Exited(3));
    assert_eq!(rig.told().iter().find(|words| words.starts_with("not restarted")).unwrap(), "not restarted web.1#1");
    assert_eq!(rig.status().phase, Phase::Stopping);
}

#[test]
fn a_change_starts_nobody_who_is_to_be_down_and_none_that_leave() {
    let mut rig = Rig::new(vec![Service { instances: 2, ..watching("web", Restart::Always) }]);
    rig.command(Verb::Stop, 0);
    rig.tell(Event::Scale { service: ServiceId(0), instances: 1 });
    rig.notices.clear();
    assert_eq!(change(&mut rig), NOTHING);
    assert_eq!(rig.told(), NOTHING);
}

/// It has crashed and is about to be gone when it is stopped: a change is no reason to come back.
#[test]
fn who_is_stopped_while_it_ends_stays_down() {
    for wish in [Event::Command(Command { verb: Verb::Stop, instances: vec![Rig::id(0)] }), Event::Tick] {
        let mut rig = Rig::new(vec![watching("web", Restart::Always)]);
        rig.settle(0);
        rig.exit_leaving(0, Outcome::Exited(3), 1);
        let stays_down = matches!(wish, Event::Command(_));
        rig.tell(wish);
        rig.notices.clear();
        change(&mut rig);
        assert_eq!(rig.told().iter().any(|words| words.contains("begins anew")), !stays_down, "{:?}", rig.told());
        rig.tree_gone(0);
        assert_eq!(rig.state(0), if stays_down { StateName::Stopped } else { StateName::Starting });
    }
}
