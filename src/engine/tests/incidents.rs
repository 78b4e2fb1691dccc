//! Which ends are incidents, what each of them says, and that there are never too many.

use super::super::incident::{ActName, Because, Held, How, Incident, KEPT, RunEnded, Then, What};
use super::super::memory::{Act, Acted, Helpless, Limit, MemoryEvent, MemoryNotice, Process, Rule};
use super::super::status::{LimitSource, MemoryMethod};
use super::*;

const MIB: u64 = 1 << 20;

fn named(signal: &str) -> Signal {
    Signal::parse(signal).unwrap()
}

impl Rig {
    fn incidents(&self) -> Vec<Incident> {
        self.engine.incidents(self.now, None).incidents
    }

    /// The only one there is.
    fn incident(&self) -> Incident {
        let mut all = self.incidents();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The only one, which is the end of a run.
    pub(super) fn ended_run(&self) -> RunEnded {
        let What::RunEnded(ended) = self.incident().what else { panic!("{:?}", self.incident()) };
        *ended
    }

    /// What the guard would have told.
    fn guard_tells(&mut self, notice: MemoryNotice) {
        self.engine.record(self.now, None, &[Action::Notice(Notice::Memory(notice))]);
    }

    fn limited(&mut self) {
        let limit = Limit { bytes: 256 * MIB, source: LimitSource::CgroupV1, place: "/".into(), growth_max: 4_000_000_000 };
        self.tell(Event::Memory(MemoryEvent::Limit(Some(limit))));
    }

    fn acted(&self, act: Act) -> Box<Acted> {
        Box::new(Acted {
            run: self.run(0),
            act,
            rule: Rule::Held,
            bytes: 201 * MIB,
            method: MemoryMethod::Pss,
            slope: 3 << 20,
            hard: 205 * MIB,
            limit: 256 * MIB,
            line: 192 * MIB,
            above_for: Duration::from_secs(10),
            oom_in: Some(Duration::from_secs(17)),
            top: vec![Process { pid: 31, name: "php-fpm".into(), bytes: 20 * MIB }],
            uptime: Duration::from_secs(60),
        })
    }
}

#[test]
fn a_crash_is_an_incident_with_what_followed() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.up(0);
    rig.wait(2_500);
    rig.exit(0, Outcome::Exited(3));
    let incident = rig.incident();
    assert_eq!((incident.number, incident.at_ms, incident.at_unix_ms, incident.container), (1, 2_500, None, None));
    assert_eq!(
        rig.ended_run(),
        RunEnded {
            instance: "web.1".into(),
            run: 1,
            outcome: How::Exited { code: 3 },
            asked: false,
            cause: Cause::Crash,
            reason: None,
            guard: None,
            sigkill_after_ms: None,
            left_behind: 0,
            uptime_ms: 2_500,
            memory: None,
            failures: 1,
            then: Then::Restarted { delay_ms: 500 },
        }
    );
    rig.wait(500);
    rig.up(0);
    rig.exit(0, Outcome::Signaled(named("SEGV")));
    let all = rig.engine.incidents(rig.now, Some(1_000_000));
    let What::RunEnded(second) = &all.incidents[1].what else { panic!("{all:?}") };
    assert_eq!(second.outcome, How::Signaled { signal: "SIGSEGV".into(), number: 11 });
    assert_eq!((second.run, second.failures, second.then), (2, 2, Then::Restarted { delay_ms: 1_000 }));
    assert_eq!(
        (all.started_unix_ms, all.incidents[1].at_unix_ms, all.uptime_ms, all.dropped),
        (Some(1_000_000), Some(1_003_000), 3_000, 0)
    );
}

#[test]
fn an_end_as_wished_is_none() {
    // By itself with a success code, on an operator's stop and restart, a job that is done, and the end of everything.
    let mut rig = Rig::new(vec![Service { success_exit_codes: vec![0, 7], ..service("web") }, oneshot("job")]);
    rig.up(0);
    rig.up(1);
    rig.exit(1, Outcome::Exited(0));
    rig.exit(0, Outcome::Exited(7));
    rig.wait(500);
    rig.settle(0);
    rig.command(Verb::Restart, 0);
    rig.exit(0, Outcome::Signaled(Signal::TERM));
    rig.settle(0);
    rig.command(Verb::Stop, 0);
    rig.exit(0, Outcome::Exited(143));
    rig.command(Verb::Start, 0);
    rig.settle(0);
    rig.term();
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.incidents(), []);
    assert!(rig.over().is_some());
}

#[test]
fn a_stop_that_took_sigkill_is_one() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(2_000), ..service("web") }]);
    rig.settle(0);
    rig.command(Verb::Stop, 0);
    rig.wait(2_000);
    rig.exit(0, Outcome::Signaled(Signal::KILL));
    let ended = rig.ended_run();
    assert_eq!((ended.cause, ended.sigkill_after_ms, ended.asked, ended.then), (Cause::Operator, Some(2_000), true, Then::Stopped));
    assert_eq!(ended.failures, 0);
}

#[test]
fn an_operators_restart_that_went_wrong_was_followed_by_a_start() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    rig.command(Verb::Restart, 0);
    rig.exit(0, Outcome::Exited(1));
    assert_eq!(rig.ended_run().then, Then::Pending);
    rig.up(0);
    let ended = rig.ended_run();
    assert_eq!((ended.cause, ended.then, ended.failures), (Cause::Operator, Then::Restarted { delay_ms: 0 }, 0));
}

#[test]
fn a_failed_liveness_probe_is_one_however_it_ends() {
    let mut rig = Rig::new(vec![Service { live: Some(probe()), ..service("web") }]);
    rig.settle(0);
    for number in 1..=3 {
        rig.answer(0, ProbeKind::Live, number, false);
        rig.wait(10_000);
    }
    rig.exit(0, Outcome::Exited(0));
    let ended = rig.ended_run();
    assert_eq!((ended.cause, ended.reason.as_deref(), ended.outcome), (Cause::Live, Some("refused"), How::Exited { code: 0 }));
    assert_eq!((ended.asked, ended.failures), (true, 0), "it was stable");
}

#[test]
fn not_being_ready_in_time_is_one() {
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), start_timeout: Duration::from_secs(1), ..service("web") }]);
    rig.up(0);
    rig.answer(0, ProbeKind::Ready, 1, false);
    rig.wait(1_000);
    rig.exit(0, Outcome::Signaled(Signal::TERM));
    let ended = rig.ended_run();
    assert_eq!((ended.cause, ended.reason.as_deref(), ended.asked), (Cause::StartTimeout, Some("refused"), true));
    assert_eq!((ended.failures, ended.then), (1, Then::Restarted { delay_ms: 500 }));
}

#[test]
fn a_start_that_failed_is_one() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.exit(0, no_program());
    let error = "executing /nowhere: ENOENT (no such file or directory)".to_owned();
    assert_eq!(rig.ended_run().outcome, How::SpawnFailed { stage: Stage::Exec, errno: 2, error });
}

#[test]
fn nothing_is_done_before_what_was_left_behind_is_gone() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    rig.exit_leaving(0, Outcome::Exited(1), 2);
    let ended = rig.ended_run();
    assert_eq!((ended.left_behind, ended.then), (2, Then::Pending));
    rig.tree_gone(0);
    let ended = rig.ended_run();
    assert_eq!((ended.left_behind, ended.then, ended.failures), (2, Then::Restarted { delay_ms: 500 }, 1));
}

#[test]
fn giving_up_and_not_restarting_are_told_apart() {
    let once = Service { give_up_after: Some(1), ..optional("web") };
    let never = Service { restart: Restart::Never, ..optional("web") };
    for (service, then) in [(once, Then::GaveUp), (never, Then::NotRestarted)] {
        let mut rig = Rig::new(vec![service, super::service("other")]);
        rig.up(0);
        rig.exit(0, Outcome::Exited(1));
        let ended = rig.ended_run();
        assert_eq!((ended.then, ended.failures), (then, 1));
    }
}

#[test]
fn an_oom_kill_is_named_with_the_containers_memory() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.limited();
    rig.settle(0);
    rig.exit(0, Outcome::OomKilled);
    let ended = rig.ended_run();
    assert_eq!((ended.outcome, ended.cause, ended.asked), (How::OomKilled, Cause::Crash, false));
    let container = rig.incident().container.unwrap();
    assert_eq!(
        (container.limit_bytes, container.limit_source, container.restart_above_bytes),
        (256 * MIB, LimitSource::CgroupV1, Some(192 * MIB))
    );
}

#[test]
fn an_act_of_the_guard_is_told_with_the_end_it_brought() {
    for (act, name) in [(Act::Restart, ActName::Restart), (Act::Kill, ActName::Kill)] {
        let mut rig = Rig::new(vec![service("web")]);
        rig.settle(0);
        rig.guard_tells(MemoryNotice::Acted(rig.acted(act)));
        assert_eq!(rig.incidents(), [], "it still runs");
        rig.exit(0, Outcome::Signaled(Signal::KILL));
        let ended = rig.ended_run();
        let guard = ended.guard.unwrap();
        assert_eq!((ended.cause, guard.act, guard.signal, guard.rule), (Cause::Memory, name, None, Rule::Held));
        assert_eq!((guard.bytes, guard.percent, guard.method, guard.oom_in_ms), (201 * MIB, 78.5, MemoryMethod::Pss, Some(17_000)));
        assert_eq!((guard.hard_bytes, guard.limit_bytes, guard.line_bytes), (205 * MIB, 256 * MIB, 192 * MIB));
        assert_eq!((guard.growth_bytes_per_second, guard.top.len()), (3 << 20, 1));
    }
}

#[test]
fn what_was_said_of_one_run_is_not_said_of_the_next() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    let acted = rig.acted(Act::Restart);
    rig.exit(0, Outcome::Exited(1));
    rig.guard_tells(MemoryNotice::Acted(acted));
    rig.wait(500);
    rig.up(0);
    rig.exit(0, Outcome::Exited(1));
    let What::RunEnded(second) = rig.incidents().remove(1).what else { panic!("no end") };
    assert_eq!((second.run, second.cause, second.guard), (2, Cause::Crash, None));
}

#[test]
fn a_signal_of_the_guard_is_one_of_its_own() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    rig.guard_tells(MemoryNotice::Acted(rig.acted(Act::Signal(named("USR2")))));
    let What::Signalled(signalled) = rig.incident().what else { panic!("{:?}", rig.incident()) };
    assert_eq!((signalled.instance.as_str(), signalled.run, signalled.uptime_ms), ("web.1", 1, 60_000));
    assert_eq!((signalled.guard.act, signalled.guard.signal.as_deref()), (ActName::Signal, Some("SIGUSR2")));
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.incidents().len(), 1, "the signal is no reason to call the end after it an incident");
}

#[test]
fn what_befalls_memory_beside_is_told() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    let run = rig.run(0);
    rig.tell(Event::Memory(MemoryEvent::OomKills { kills: 2, among: vec![run; 12] }));
    rig.guard_tells(MemoryNotice::Plateau { instance: Rig::id(0), bytes: 5, at: 6, of: 7, own: true });
    let places = (0..12).map(|number| (format!("/{number}{}", "x".repeat(400)), 4)).collect();
    let why = Helpless::Tmpfs { bytes: 3, places };
    rig.guard_tells(MemoryNotice::Helpless { why, hard: 1, limit: 2, shares: vec![(run, 9); 12] });
    let all = rig.incidents();
    assert_eq!(all[0].what, What::OomKills { kills: 2, among: vec!["web.1".into(); 10] });
    assert_eq!(all[1].what, What::Plateau { instance: "web.1".into(), bytes: 5, at_bytes: 6, of_bytes: 7, own: true });
    let What::Helpless { because: Because::Tmpfs { bytes: 3, places }, shares } = &all[2].what else { panic!("{all:?}") };
    assert_eq!(*shares, vec![Held { name: "web.1".into(), bytes: 9 }; 10]);
    assert!(places.len() == 10 && places.iter().all(|place| place.name.len() == 300));
    assert_eq!(all.len(), 3);
}

#[test]
fn the_last_hundred_are_kept_and_the_others_counted() {
    let backoff = Backoff { jitter: 0.0, factor: 1.0, ..Backoff::default() };
    let mut rig = Rig::new(vec![Service { backoff, give_up_after: None, ..service("web") }, service("slow")]);
    rig.up(1);
    // Its incident makes room while it is not known yet what is done about it.
    rig.exit_leaving(1, Outcome::Exited(1), 1);
    for _ in 0..250 {
        rig.up(0);
        rig.exit(0, Outcome::Exited(1));
        rig.wait(500);
    }
    rig.tree_gone(1);
    let all = rig.engine.incidents(rig.now, None);
    assert_eq!((all.incidents.len(), all.dropped), (KEPT, 151));
    let numbers: Vec<u64> = all.incidents.iter().map(|incident| incident.number).collect();
    assert_eq!(numbers, (152..=251).collect::<Vec<u64>>());
    assert!(all.incidents.iter().all(|incident| matches!(&incident.what, What::RunEnded(ended) if ended.instance == "web.1")));
}

#[test]
fn a_probes_reason_is_cut() {
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), start_timeout: Duration::from_secs(1), ..service("web") }]);
    rig.up(0);
    let run = rig.run(0);
    rig.tell(Event::Probed { run, kind: ProbeKind::Ready, number: 1, result: Err("ü".repeat(10_000)) });
    rig.wait(1_000);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.ended_run().reason.unwrap().chars().count(), 300);
}

#[test]
fn the_json_is_a_contract() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.limited();
    rig.settle(0);
    rig.guard_tells(MemoryNotice::Acted(rig.acted(Act::Signal(named("USR2")))));
    rig.guard_tells(MemoryNotice::Acted(rig.acted(Act::Restart)));
    rig.exit(0, Outcome::Signaled(Signal::TERM));
    let run = RunId { instance: Rig::id(0), run: 1 };
    rig.guard_tells(MemoryNotice::OomKills { kills: 1, among: vec![run], limit: None });
    rig.guard_tells(MemoryNotice::Plateau { instance: Rig::id(0), bytes: 5, at: 6, of: 7, own: false });
    for why in [Helpless::Tmpfs { bytes: 3, places: vec![("/run".into(), 2)] }, Helpless::NobodyGrew] {
        rig.guard_tells(MemoryNotice::Helpless { why, hard: 1, limit: 2, shares: vec![(run, 9)] });
    }
    rig.wait(1_000);
    rig.exit(0, no_program());
    let all = rig.engine.incidents(rig.now, Some(1_798_761_599_007));
    let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/incidents.json");
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(file).unwrap(), "{file}: FIRSTMATE_BLESS=1 writes it anew");
    assert_eq!(serde_json::from_str::<Incidents>(&text).unwrap(), all);
}
