//! Every state of an instance against every event, as a table in `transitions.txt`, so that a change of any pair is seen as a diff.
//!
//! `FIRSTMATE_BLESS=1 cargo nextest run transitions` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::announcement::{Awaits, StaysReady, Voice};
use super::instance::{BecomesReady, Desired, EndPhase, Ending, Idle, Instance, Leader, Life, State};
use super::probe::Prober;
use super::spec::{Backoff, Condition, Dependency, Kind, Memory, Probe, Readiness, Restart, Service};
use super::stack::NEVER;
use super::tests::{probe, service, words};
use super::*;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/transitions.txt");
const DB: InstanceId = InstanceId { service: ServiceId(0), number: 1 };
const WEB: InstanceId = InstanceId { service: ServiceId(1), number: 1 };
const RUN: u32 = 4;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn now() -> Timestamp {
    Timestamp::ZERO.after(ms(100_000))
}

fn ago(wait: u64) -> Timestamp {
    Timestamp::ZERO.after(ms(100_000 - wait))
}

fn soon(wait: u64) -> Timestamp {
    now().after(ms(wait))
}

fn life() -> Life {
    Life { run: RUN, pid: Some(7), since: ago(20_000) }
}

fn asked(mut prober: Prober, probe: &Probe) -> Prober {
    assert_eq!(prober.ask(ago(500), probe), Some(1));
    prober
}

fn ending(cause: Cause, leader: Leader, phase: EndPhase) -> State {
    State::Ending(Ending {
        life: life(),
        cause,
        leader,
        asked_at: ago(500),
        grace: ms(10_000),
        needs_until: ago(500),
        phase,
        say_at: soon(500),
    })
}

/// A state of `web` with what it takes: whether it is a job, and what is wanted of it.
struct Case {
    name: &'static str,
    kind: Kind,
    desired: Desired,
    state: State,
}

fn cases() -> Vec<Case> {
    let gone = || Leader::Gone { outcome: Outcome::Exited(1), uptime: ms(20_000) };
    let to_be_killed = EndPhase::Asked { sent: 1, next_at: soon(9_500), kill_at: soon(9_500) };
    let killed = EndPhase::Killed { again_at: soon(100) };
    let starting = BecomesReady::ByProbe {
        prober: asked(Prober::eager(ago(600)), &probe()),
        ready_by: soon(40_000),
        complaint: Some("refused".into()),
    };
    let running = |not_ready: Option<&str>| State::Running {
        life: life(),
        not_ready: not_ready.map(str::to_owned),
        ready: StaysReady::Asked(asked(Prober::steady(ago(600)), &probe())),
        live: Some(asked(Prober::steady(ago(600)), &probe())),
        complaint: None,
    };
    let voice = || Voice { watchdog: Some(ms(30_000)), ..Voice::default() };
    let listened_to = BecomesReady::ByAnnouncement { voice: voice(), ready_by: soon(40_000), complaint: None };
    let tells = |not_ready: Option<&str>| State::Running {
        life: life(),
        not_ready: not_ready.map(str::to_owned),
        ready: StaysReady::Tells {
            voice: voice(),
            awaits: match not_ready {
                None => Awaits::Life { by: soon(10_000) },
                Some(_) => Awaits::End { said_at: ago(4_000), by: soon(6_000) },
            },
        },
        live: None,
        complaint: None,
    };
    let case = |name, desired, state| Case { name, kind: Kind::Service, desired, state };
    let job = |name, state| Case { name, kind: Kind::Oneshot, desired: Desired::Up, state };
    let up = |name, state| case(name, Desired::Up, state);
    vec![
        case("stopped", Desired::Down, State::Idle(Idle::Stopped)),
        up("due", State::Idle(Idle::Due { waits_for: Some(DB.service) })),
        up("backoff", State::Idle(Idle::Backoff { retry_at: soon(400) })),
        job("completed", State::Idle(Idle::Completed)),
        up("exited", State::Idle(Idle::Exited)),
        up("failed", State::Idle(Idle::Failed)),
        up("blocked", State::Idle(Idle::Blocked { on: DB.service })),
        up("launching", State::Launching { life: Life { pid: None, ..life() }, ready_by: Some(soon(40_000)) }),
        job("job launching", State::Launching { life: Life { pid: None, ..life() }, ready_by: None }),
        up("starting, settles", State::Starting { life: life(), how: BecomesReady::BySettling { at: soon(500) } }),
        up("starting, probed", State::Starting { life: life(), how: starting }),
        up("starting, tells", State::Starting { life: life(), how: listened_to }),
        up("running", running(None)),
        up("running, not ready", running(Some("refused"))),
        job("job running", State::Running { life: life(), not_ready: None, ready: StaysReady::Unasked, live: None, complaint: None }),
        up("running, tells", tells(None)),
        up("running, tells it is stopping", tells(Some("it says that it is stopping"))),
        up("ending, tells", ending(Cause::Operator, Leader::Alive, to_be_killed)),
        up("ending, asked", ending(Cause::Live, Leader::Alive, to_be_killed)),
        up("ending, out of grace", ending(Cause::Live, Leader::Alive, EndPhase::Asked { sent: 1, next_at: soon(100), kill_at: soon(100) })),
        up("ending, asked, main gone", ending(Cause::Crash, gone(), to_be_killed)),
        up("ending, killed", ending(Cause::Live, Leader::Alive, killed)),
        up("ending, killed, main gone", ending(Cause::Crash, gone(), killed)),
        case("ending, wanted down", Desired::Down, ending(Cause::Operator, Leader::Alive, to_be_killed)),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let run = RunId { instance: WEB, run: RUN };
    let exited = |outcome, left_behind| Event::Exited { run, outcome, left_behind };
    let probed = |kind, result: Result<(), &str>| Event::Probed { run, kind, number: 1, result: result.map_err(str::to_owned) };
    let says = |what| Event::Announced { run, what };
    let command = |verb| Event::Command(Command { verb, instances: vec![WEB] });
    let no_user = || Outcome::SpawnFailed(LaunchError { stage: Stage::User, errno: 0, detail: "nobody".into() });
    vec![
        ("tick", Event::Tick),
        ("tick when due", Event::Tick),
        ("spawned", Event::Spawned { run, pid: 8 }),
        ("executed", Event::Executed { run }),
        ("exited 0", exited(Outcome::Exited(0), 0)),
        ("exited 1", exited(Outcome::Exited(1), 0)),
        ("exited 1 leaving 2", exited(Outcome::Exited(1), 2)),
        ("died of TERM", exited(Outcome::Signaled(Signal::TERM), 0)),
        ("spawn failed", exited(no_user(), 0)),
        ("tree gone", Event::TreeGone { run }),
        ("ready: yes", probed(ProbeKind::Ready, Ok(()))),
        ("ready: no", probed(ProbeKind::Ready, Err("refused"))),
        ("live: yes", probed(ProbeKind::Live, Ok(()))),
        ("live: no", probed(ProbeKind::Live, Err("refused"))),
        ("says ready", says(Announcement::Ready)),
        ("says it is mute", says(Announcement::Mute("closed".into()))),
        ("says it reloads", says(Announcement::Reloading)),
        ("says it is stopping", says(Announcement::Stopping)),
        ("says its status", says(Announcement::Status("half way".into()))),
        ("says it is alive", says(Announcement::Alive)),
        ("says bite me", says(Announcement::Trigger)),
        ("says every second", says(Announcement::WatchdogEvery(Some(ms(1_000))))),
        ("says never", says(Announcement::WatchdogEvery(None))),
        ("says it needs a minute", says(Announcement::ExtendTimeout(ms(60_000)))),
        ("news of an old run", Event::Exited { run: RunId { run: RUN - 1, ..run }, outcome: Outcome::Exited(1), left_behind: 0 }),
        ("start", command(Verb::Start)),
        ("stop", command(Verb::Stop)),
        ("restart", command(Verb::Restart)),
        ("reload", command(Verb::Reload)),
        ("signal USR1 to all", command(Verb::Signal { signal: usr1(), to: Reach::Tree })),
        ("files change", Event::Changed { service: WEB.service, what: "src/app.py".into() }),
        ("shutdown", Event::Shutdown(ShutdownCause::Command)),
        ("kill all", Event::KillAll),
    ]
}

/// Another file: of `web` another process, another policy, nothing.
fn updates(case: &Case) -> Vec<(&'static str, Event)> {
    let update = |change: fn(&mut Vec<Service>)| {
        let mut services: Vec<Service> = engine(case).services.iter().map(|entry| (*entry.service).clone()).collect();
        change(&mut services);
        Event::Update(Box::new(Spec { services, stop_timeout: ms(8_000), drain: Duration::ZERO, memory: Memory::default() }))
    };
    vec![
        ("update, another process", update(|services| services[1].launch.nice = Some(1))),
        ("update, another policy", update(|services| services[1].stop.timeout = ms(3_000))),
        ("update, no longer there", update(|services| drop(services.remove(1)))),
    ]
}

fn usr1() -> Signal {
    Signal::parse("USR1").unwrap()
}

/// `db` serves and `web` is in the given state. Probes decide at once, delays have no jitter.
fn engine(case: &Case) -> Engine {
    let one = |probe: Probe| Probe { failures: 1, ..probe };
    let tells = case.name.contains("tells");
    let probes = case.kind == Kind::Service && case.name != "starting, settles" && !tells;
    let db = Service { essential: false, ..service("db") };
    let web = Service {
        kind: case.kind,
        restart: if case.kind == Kind::Oneshot { Restart::Never } else { Restart::Always },
        depends_on: vec![Dependency { service: DB.service, condition: Condition::Ready }],
        ready: match (tells, probes) {
            (true, _) => Readiness::Notify { watchdog: Some(ms(30_000)) },
            (false, true) => Readiness::Probe(one(probe())),
            (false, false) => Readiness::default(),
        },
        live: probes.then(|| one(probe())),
        reload_signal: Some(Signal::HUP),
        backoff: Backoff { jitter: 0.0, ..Backoff::default() },
        ..service("web")
    };
    // Something must be left when the one is failed and the other blocked.
    let blocked = matches!(case.state, State::Idle(Idle::Blocked { .. }));
    let mut services = vec![db, Service { essential: !blocked, ..web }];
    if blocked {
        services.push(service("other"));
    }
    let spec = Spec { services, stop_timeout: ms(8_000), drain: Duration::ZERO, memory: Memory::default() };
    let mut engine = Engine::new(spec, 1, ago(50_000));
    let db_life = Life { run: 1, ..life() };
    let db_state = if matches!(case.state, State::Idle(Idle::Due { .. })) {
        State::Starting { life: db_life, how: BecomesReady::BySettling { at: soon(800) } }
    } else if blocked {
        State::Idle(Idle::Failed)
    } else {
        State::Running { life: db_life, not_ready: None, ready: StaysReady::Unasked, live: None, complaint: None }
    };
    engine.instances[0] = Instance { state: db_state, runs: 1, last_outcome: Some(Outcome::Exited(1)), ..engine.instances[0].clone() };
    engine.instances[1] =
        Instance { state: case.state.clone(), desired: case.desired, runs: RUN, been_ready: true, ..engine.instances[1].clone() };
    if let Some(other) = engine.instances.get_mut(2) {
        let life = Life { run: 1, ..life() };
        *other = Instance {
            state: State::Running { life, not_ready: None, ready: StaysReady::Unasked, live: None, complaint: None },
            runs: 1,
            ..other.clone()
        };
    }
    engine
}

fn after(at: Timestamp, now: Timestamp) -> String {
    let (ahead, behind) = (at.since(now), now.since(at));
    if behind.is_zero() { format!("+{ahead:?}") } else { format!("-{behind:?}") }
}

/// A state in short, with its times relative to `now`.
fn state_words(engine: &Engine, instance: &Instance, now: Timestamp) -> String {
    let name = |id: ServiceId| engine.service(id).map_or("?", |service| service.name.as_str()).to_owned();
    let asks = |prober: &Option<Prober>| prober.as_ref().map_or("-".to_owned(), |prober| after(prober.deadline(), now));
    match &instance.state {
        State::Idle(Idle::Stopped) => "stopped".to_owned(),
        State::Idle(Idle::Due { waits_for: None }) => "due".to_owned(),
        State::Idle(Idle::Due { waits_for: Some(on) }) => format!("due, waits for {}", name(*on)),
        State::Idle(Idle::Backoff { retry_at }) => format!("backoff until {}", after(*retry_at, now)),
        State::Idle(Idle::Completed) => "completed".to_owned(),
        State::Idle(Idle::Exited) => "exited".to_owned(),
        State::Idle(Idle::Failed) => "failed".to_owned(),
        State::Idle(Idle::Blocked { on }) => format!("blocked on {}", name(*on)),
        State::Launching { life, ready_by } => {
            let by = ready_by.map_or("-".to_owned(), |by| after(by, now));
            format!("launching #{}, pid {:?}, ready by {by}", life.run, life.pid)
        }
        State::Starting { life, how: BecomesReady::BySettling { at } } => format!("starting #{}, ready at {}", life.run, after(*at, now)),
        State::Starting { life, how: BecomesReady::ByProbe { prober, ready_by, complaint } } => {
            format!(
                "starting #{}, probe {}, ready by {}, said {complaint:?}",
                life.run,
                after(prober.deadline(), now),
                after(*ready_by, now)
            )
        }
        State::Starting { life, how: BecomesReady::ByAnnouncement { voice, ready_by, complaint } } => {
            format!("starting #{}, {}, ready by {}, said {complaint:?}", life.run, voice_words(voice), after(*ready_by, now))
        }
        State::Running { life, not_ready, ready: StaysReady::Tells { voice, awaits }, .. } => {
            let bites = match awaits {
                Awaits::Nothing => "waits for nothing".to_owned(),
                Awaits::Life { by } => format!("must be alive by {}", after(*by, now)),
                Awaits::End { by, .. } => format!("must be gone by {}", after(*by, now)),
            };
            let said = not_ready.as_ref().map_or(String::new(), |why| format!(", not ready: {why}"));
            format!("running #{}, {}, {bites}{said}", life.run, voice_words(voice))
        }
        State::Running { life, not_ready, ready, live, complaint } => {
            let ready = match ready {
                StaysReady::Asked(prober) => Some(prober.clone()),
                StaysReady::Unasked | StaysReady::Tells { .. } => None,
            };
            let said = not_ready.as_ref().map_or(String::new(), |why| format!(", not ready: {why}"));
            let complaint = complaint.as_ref().map_or(String::new(), |why| format!(", said {why}"));
            format!("running #{}, ready probe {}, live probe {}{said}{complaint}", life.run, asks(&ready), asks(live))
        }
        State::Ending(Ending { life, cause, leader, phase, .. }) => {
            let leader = match leader {
                Leader::Alive => "main alive",
                Leader::Gone { .. } => "main gone",
            };
            let phase = match phase {
                EndPhase::Asked { sent, kill_at, .. } => format!("{sent} signal sent, kill at {}", after(*kill_at, now)),
                EndPhase::Killed { again_at } => format!("killed, again at {}", after(*again_at, now)),
            };
            format!("ending #{} ({cause:?}), {leader}, {phase}", life.run)
        }
    }
}

fn voice_words(voice: &Voice) -> String {
    let every = voice.watchdog.map_or("no watchdog".to_owned(), |every| format!("watchdog {every:?}"));
    voice.words().map_or(every.clone(), |words| format!("{every}, says {words:?}"))
}

/// The first word or two of a state: its box in the diagram.
const fn box_of(state: &State) -> &'static str {
    match state {
        State::Idle(Idle::Stopped) => "stopped",
        State::Idle(Idle::Due { .. }) => "due",
        State::Idle(Idle::Backoff { .. }) => "backoff",
        State::Idle(Idle::Completed) => "completed",
        State::Idle(Idle::Exited) => "exited",
        State::Idle(Idle::Failed) => "failed",
        State::Idle(Idle::Blocked { .. }) => "blocked",
        State::Launching { .. } => "launching",
        State::Starting { .. } => "starting",
        State::Running { .. } => "running",
        State::Ending(Ending { phase: EndPhase::Asked { .. }, .. }) => "ending: asked",
        State::Ending(Ending { phase: EndPhase::Killed { .. }, .. }) => "ending: killed",
    }
}

fn render() -> String {
    let mut table = String::new();
    let mut arrows: BTreeMap<(&'static str, &'static str), Vec<&'static str>> = BTreeMap::new();
    for case in cases() {
        let shown = {
            let engine = engine(&case);
            state_words(&engine, &engine.instances[1], now())
        };
        let _ = writeln!(table, "\n== {}: {shown}", case.name);
        let mut without_effect = Vec::new();
        for (event_name, event) in events().into_iter().chain(updates(&case)) {
            let mut engine = engine(&case);
            let before = engine.instances[1].clone();
            let mut at = now();
            if event_name == "tick when due" {
                // One without a deadline of its own is due when what it waits for is.
                match before.deadline().unwrap_or_else(|| engine.due()) {
                    NEVER => continue,
                    deadline => at = deadline,
                }
            }
            let mut out = Vec::new();
            engine.step(at, event, &mut out);
            if let Err(broken) = engine.check_invariants(at) {
                panic!("{} | {event_name}: {broken}", case.name);
            }
            let Some(web) = engine.instance(WEB) else {
                let _ = writeln!(table, "{event_name}\n    -> gone");
                for action in &out {
                    let _ = writeln!(table, "       {}", words(&engine, action));
                }
                arrows.entry((box_of(&before.state), "gone")).or_default().push(event_name);
                continue;
            };
            if *web == before && out.is_empty() {
                without_effect.push(event_name);
                continue;
            }
            let (from, to) = (box_of(&before.state), box_of(&web.state));
            if from != to {
                let labels = arrows.entry((from, to)).or_default();
                if !labels.contains(&event_name) {
                    labels.push(event_name);
                }
            }
            let wanted = match (before.desired, web.desired) {
                (Desired::Down, Desired::Up) => "; wanted up",
                (Desired::Up, Desired::Down) => "; wanted down",
                (Desired::Up, Desired::Up) | (Desired::Down, Desired::Down) => "",
                (Desired::Gone, _) | (_, Desired::Gone) => "; wanted away",
            };
            let state = if web.state == before.state { "unchanged".to_owned() } else { state_words(&engine, web, at) };
            let _ = writeln!(table, "{event_name}\n    -> {state}{wanted}");
            for action in &out {
                let _ = writeln!(table, "       {}", words(&engine, action));
            }
        }
        let _ = writeln!(table, "no effect: {}", without_effect.join(", "));
    }
    let mut text = String::from(
        "Every state of an instance against every event. Written by `FIRSTMATE_BLESS=1 cargo nextest run transitions`.\n\
         `web` needs `db` to be ready; probes decide by one answer. Times are relative to the event; lines with a dot are notices.\n\n\
         == Which state follows which\n",
    );
    let mut from = "";
    for ((before, next), labels) in &arrows {
        if *before != from {
            from = before;
            let _ = writeln!(text, "{from}");
        }
        let _ = writeln!(text, "    -> {next:<15} {}", labels.join(" | "));
    }
    text.push_str(&table);
    text
}

#[test]
fn every_transition_is_as_it_was_reviewed() {
    let rendered = render();
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(FILE, &rendered).unwrap();
        return;
    }
    let reviewed = std::fs::read_to_string(FILE).unwrap();
    for (number, (was, is)) in reviewed.lines().zip(rendered.lines()).enumerate() {
        assert_eq!(was, is, "transitions.txt:{}: look at the change, then FIRSTMATE_BLESS=1", number + 1);
    }
    assert_eq!(reviewed.lines().count(), rendered.lines().count());
}
