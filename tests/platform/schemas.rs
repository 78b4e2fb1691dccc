//! `docs/schema` is true of what is written as JSON: of every kind of event and incident, of every state, with all that may be absent and with
//! none of it; and it says no to anything else. What a real supervisor writes is held against it in `tests/docker/verbs.rs`.

use firstmate::engine::Cause;
use firstmate::engine::incident::{
    ActName, Because, ContainerMemory, GuardAct, Held, How, Incident, Incidents, RunEnded, Signalled, Then, What as Befell,
};
use firstmate::engine::memory::{Process, Rule};
use firstmate::engine::outcome::Stage;
use firstmate::engine::status::{
    GuardActs, InstanceMemory, InstanceStatus, LimitSource, MemoryMethod, MemoryStatus, Phase, ProbeStatus, Restarts, RollingStatus,
    ServiceStatus, StateName, Status,
};
use firstmate::observe::Level;
use firstmate::observe::happening::{Happening, What};
use firstmate::server::{Variable, Variables};
use serde::Serialize;
use serde_json::{Value, json};

use crate::tools::{accepted, all_against, text};

const STATUS: &str = "docs/schema/status.json";
const WHY: &str = "docs/schema/why.json";
const EVENTS: &str = "docs/schema/events.json";
const ENV: &str = "docs/schema/env.json";

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}

fn held() -> InstanceMemory {
    InstanceMemory {
        bytes: 3,
        at_least_bytes: 2,
        at_most_bytes: 4,
        method: MemoryMethod::PssAsUser,
        percent: 0.1,
        restart_above_bytes: Some(5),
        age_ms: 900,
    }
}

fn act() -> GuardAct {
    GuardAct {
        act: ActName::Signal,
        signal: Some("SIGRTMIN+3".to_owned()),
        rule: Rule::Forecast,
        bytes: 1,
        percent: 78.5,
        method: MemoryMethod::Interval,
        growth_bytes_per_second: -1,
        hard_bytes: 1,
        limit_bytes: 1,
        line_bytes: 1,
        above_for_ms: 0,
        oom_in_ms: Some(1),
        top: vec![Process { pid: 31, name: "php-fpm".to_owned(), bytes: 1 }],
    }
}

const CAUSES: [Cause; 9] = [
    Cause::Crash,
    Cause::Live,
    Cause::Watchdog,
    Cause::StartTimeout,
    Cause::Memory,
    Cause::Watch,
    Cause::Operator,
    Cause::Update,
    Cause::Shutdown,
];

fn outcomes() -> Vec<How> {
    let stages = [
        Stage::Pipes,
        Stage::Fork,
        Stage::Session,
        Stage::Stdio,
        Stage::Signals,
        Stage::Limits,
        Stage::Nice,
        Stage::OomScoreAdj,
        Stage::User,
        Stage::Group,
        Stage::BoundingSet,
        Stage::SupplementaryGroups,
        Stage::SetGroup,
        Stage::SetUser,
        Stage::Capabilities,
        Stage::NoNewPrivs,
        Stage::WorkingDir,
        Stage::Exec,
    ];
    let mut all = vec![How::Exited { code: 0 }, How::Signaled { signal: "SIGSEGV".to_owned(), number: 11 }, How::OomKilled];
    all.extend(stages.map(|stage| How::SpawnFailed { stage, errno: 2, error: "executing /x: ENOENT".to_owned() }));
    all
}

/// Each with everything that may be absent, then with nothing of it.
fn statuses() -> Vec<Value> {
    let probe = ProbeStatus { successes: 1, failures: 2, last_passed: false, last_took_us: 3, total_took_us: 4 };
    let states = [
        StateName::Stopped,
        StateName::Waiting,
        StateName::Starting,
        StateName::Running,
        StateName::Stopping,
        StateName::Backoff,
        StateName::Completed,
        StateName::Exited,
        StateName::Failed,
    ];
    let words = || Some("so".to_owned());
    let full = |state| InstanceStatus {
        name: "web.1".to_owned(),
        state,
        ready: false,
        pid: Some(31),
        uptime_ms: Some(1),
        run: 2,
        restarts: Restarts::default(),
        why: words(),
        last_outcome: words(),
        last_exit_code: Some(137),
        says: words(),
        memory: Some(held()),
        ready_probe: Some(probe),
        live_probe: Some(probe),
    };
    let bare = |state| InstanceStatus {
        pid: None,
        uptime_ms: None,
        why: None,
        last_outcome: None,
        last_exit_code: None,
        says: None,
        memory: None,
        ready_probe: None,
        live_probe: None,
        ..full(state)
    };
    let service = |instances| ServiceStatus {
        name: "web".to_owned(),
        kind: "service".to_owned(),
        essential: true,
        ready: false,
        reason: words(),
        groups: vec!["front".to_owned()],
        instances_in_file: Some(2),
        rolling: Some(RollingStatus { now: Some("web.1".to_owned()), left: vec!["web.2".to_owned()] }),
        instances,
    };
    let plain = |instances| ServiceStatus {
        kind: "oneshot".to_owned(),
        reason: None,
        groups: Vec::new(),
        instances_in_file: None,
        rolling: None,
        ..service(instances)
    };
    let memory = MemoryStatus {
        limit_bytes: 1,
        limit_source: LimitSource::CgroupV1,
        limit_place: "/sys/fs/cgroup".to_owned(),
        hard_bytes: Some(1),
        restart_above_bytes: Some(1),
        above_for_ms: Some(1),
        oom_kills: 1,
        acts: GuardActs::default(),
        helpless: true,
        why: words(),
    };
    let whole = |phase| Status {
        version: "0.1.0".to_owned(),
        pid: 1,
        uptime_ms: 1,
        started_unix_ms: Some(1),
        file: Some("/srv/firstmate.toml".to_owned()),
        phase,
        ready: true,
        live: true,
        started: true,
        stopping_because: words(),
        log_blocked_because: words(),
        memory: Some(memory.clone()),
        services: vec![service(states.map(full).to_vec()), plain(states.map(bare).to_vec())],
    };
    let mut all: Vec<Value> = [Phase::Running, Phase::Draining, Phase::Stopping, Phase::Ended].map(|phase| value(whole(phase))).to_vec();
    let less = MemoryStatus {
        limit_place: String::new(),
        hard_bytes: None,
        restart_above_bytes: None,
        above_for_ms: None,
        helpless: false,
        why: None,
        ..memory.clone()
    };
    let sources = [LimitSource::Configured, LimitSource::CgroupV2, LimitSource::EcsContainer, LimitSource::EcsTask, LimitSource::Machine];
    for limit_source in sources {
        let memory = Some(MemoryStatus { limit_source, ..less.clone() });
        all.push(value(Status { memory, stopping_because: None, log_blocked_because: None, ..whole(Phase::Running) }));
    }
    all.push(value(Status {
        started_unix_ms: None,
        file: None,
        stopping_because: None,
        log_blocked_because: None,
        memory: None,
        services: Vec::new(),
        ..whole(Phase::Running)
    }));
    all
}

fn incidents() -> Vec<Value> {
    let ended = |outcome, cause, then| RunEnded {
        instance: "web.1".to_owned(),
        run: 1,
        outcome,
        asked: false,
        cause,
        reason: Some("refused".to_owned()),
        guard: Some(act()),
        sigkill_after_ms: Some(1),
        left_behind: 0,
        uptime_ms: 1,
        memory: Some(held()),
        failures: 1,
        then,
    };
    let mut befell: Vec<Befell> = Vec::new();
    for outcome in outcomes() {
        befell.push(Befell::RunEnded(Box::new(ended(outcome, Cause::Crash, Then::Pending))));
    }
    for cause in CAUSES {
        let bare = RunEnded {
            reason: None,
            guard: None,
            sigkill_after_ms: None,
            memory: None,
            ..ended(How::OomKilled, cause, Then::Restarted { delay_ms: 0 })
        };
        befell.push(Befell::RunEnded(Box::new(bare)));
    }
    for then in [Then::GaveUp, Then::NotRestarted, Then::Stopped] {
        befell.push(Befell::RunEnded(Box::new(ended(How::OomKilled, Cause::Memory, then))));
    }
    befell.push(Befell::Signalled(Box::new(Signalled { instance: "web.1".to_owned(), run: 1, uptime_ms: 1, guard: act() })));
    befell.push(Befell::OomKills { kills: 1, among: vec!["web.1".to_owned()] });
    befell.push(Befell::Plateau { instance: "web.1".to_owned(), bytes: 1, at_bytes: 1, of_bytes: 1, own: true });
    let held = || Held { name: "/run".to_owned(), bytes: 1 };
    let reasons = [
        Because::Tmpfs { bytes: 1, places: vec![held()] },
        Because::Others { bytes: 1 },
        Because::NobodyGrew,
        Because::Forbidden,
        Because::Unknown,
    ];
    befell.extend(reasons.map(|because| Befell::Helpless { because, shares: vec![held()] }));
    // One that is not above is a new kind, and belongs there as well.
    for what in &befell {
        match what {
            Befell::RunEnded(_) | Befell::Signalled(_) | Befell::OomKills { .. } | Befell::Plateau { .. } | Befell::Helpless { .. } => {}
        }
    }
    let container =
        ContainerMemory { hard_bytes: Some(1), limit_bytes: 1, limit_source: LimitSource::EcsTask, restart_above_bytes: Some(1) };
    let full = befell.into_iter().map(|what| Incident { number: 1, at_ms: 0, at_unix_ms: Some(1), what, container: Some(container) });
    let full: Vec<Incident> = full.collect();
    let less = ContainerMemory { hard_bytes: None, restart_above_bytes: None, ..container };
    let bare = full.iter().cloned().map(|incident| Incident { at_unix_ms: None, container: Some(less), ..incident }).collect();
    let none = full.iter().cloned().map(|incident| Incident { container: None, ..incident }).collect();
    let all = |incidents| value(Incidents { uptime_ms: 1, started_unix_ms: Some(1), dropped: 0, incidents });
    vec![all(full), all(bare), all(none), value(Incidents::default())]
}

fn events() -> Vec<Value> {
    let name = || "web".to_owned();
    let mut all = vec![
        What::Started { pid: 1 },
        What::Waiting { on: name() },
        What::Ready { after_ms: 1 },
        What::NotReady { why: name() },
        What::NotLive { why: name() },
        What::Watchdog,
        What::StartTimedOut { after_ms: 1 },
        What::Completed { took_ms: 1 },
        What::NotRestarted,
        What::GaveUp { failures: 1 },
        What::Blocked { on: name() },
        What::Killing { after_ms: 1 },
        What::Stopped,
        What::RollBegun { service: name(), instances: 2 },
        What::RollTurn { left: 1 },
        What::Rolled { service: name() },
        What::RollStopped { left: 0 },
        What::Scaled { service: name(), from: 1, to: 2 },
        What::FilesChanged { service: name(), what: "src/a.py".to_owned() },
        What::Updating { added: 1, removed: 0, restarted: 2, amended: 0 },
        What::Added { service: name() },
        What::Removed { service: name() },
        What::Changed { service: name(), restarted: true },
        What::Updated,
        What::UpdateRefused,
        What::ShuttingDown { within_ms: 1, drain_ms: 0 },
        What::Over { code: 137 },
        What::Guard { guard: Box::new(act()) },
        What::OomKills { kills: 1 },
        What::Plateau { bytes: 1 },
        What::Helpless,
        What::Memory,
        What::Incident { incident: 1 },
        What::Lost { lost: 1 },
    ];
    for outcome in outcomes() {
        all.push(What::Ended { outcome, uptime_ms: 1, clean: false, asked: true, left_behind: 0 });
    }
    for cause in CAUSES {
        all.push(What::Restarting { delay_ms: 0, failures: 1, cause });
        all.push(What::Stopping { signal: "SIGTERM".to_owned(), grace_ms: 1, cause });
    }
    let told = |what| {
        // Whom an event is about is as the engine's notices have it.
        let (instance, run) = match &what {
            What::Started { .. }
            | What::Ready { .. }
            | What::NotReady { .. }
            | What::NotLive { .. }
            | What::Watchdog
            | What::StartTimedOut { .. }
            | What::Ended { .. }
            | What::Completed { .. }
            | What::NotRestarted
            | What::Stopping { .. }
            | What::Killing { .. }
            | What::Guard { .. } => (true, true),
            What::Waiting { .. }
            | What::Restarting { .. }
            | What::GaveUp { .. }
            | What::Blocked { .. }
            | What::Stopped
            | What::RollTurn { .. }
            | What::RollStopped { .. }
            | What::Plateau { .. }
            | What::Incident { .. } => (true, false),
            What::RollBegun { .. }
            | What::Rolled { .. }
            | What::Scaled { .. }
            | What::FilesChanged { .. }
            | What::Updating { .. }
            | What::Added { .. }
            | What::Removed { .. }
            | What::Changed { .. }
            | What::Updated
            | What::UpdateRefused
            | What::ShuttingDown { .. }
            | What::Over { .. }
            | What::OomKills { .. }
            | What::Helpless
            | What::Memory
            | What::Lost { .. } => (false, false),
        };
        let number = if matches!(what, What::Lost { .. }) { None } else { Some(12) };
        let instance = instance.then(|| "web.1".to_owned());
        value(Happening { number, at_unix_ms: 1, level: Level::Warn, instance, run: run.then_some(7), what, text: name() })
    };
    all.into_iter().map(told).collect()
}

#[test]
fn what_is_written_is_as_the_schemas_say() {
    all_against(STATUS, &statuses()).unwrap();
    let mut all = incidents();
    all.push(serde_json::from_str(&text("src/engine/incidents.json")).unwrap());
    all_against(WHY, &all).unwrap();
    all_against(EVENTS, &events()).unwrap();
    let variables = |value: Option<&str>| {
        let variable = Variable { name: "A".to_owned(), value: value.map(ToOwned::to_owned) };
        self::value(Variables { instance: "web.1".to_owned(), variables: vec![variable] })
    };
    all_against(ENV, &[variables(None), variables(Some(""))]).unwrap();
}

/// Whatever is missing, is there beside, or is of another type, is noticed: wherever it is.
#[test]
fn the_schemas_say_no_to_anything_else() {
    let full = statuses().remove(0);
    let mut broken = Vec::new();
    for (schema, document, places) in [
        (STATUS, &full, &["", "/memory", "/memory/acts", "/services/0", "/services/0/rolling", "/services/0/instances/0"][..]),
        (STATUS, &full, &["/services/0/instances/0/memory", "/services/0/instances/0/restarts", "/services/0/instances/0/ready_probe"]),
        (WHY, &incidents()[0], &["", "/incidents/0", "/incidents/0/outcome", "/incidents/0/guard", "/incidents/0/container"]),
        (EVENTS, &events()[0], &[""]),
        (ENV, &value(Variables { instance: "web.1".to_owned(), variables: Vec::new() }), &[""]),
    ] {
        for place in places {
            let mut more = document.clone();
            more.pointer_mut(place).unwrap().as_object_mut().unwrap().insert("more".to_owned(), json!(1));
            broken.push((schema, format!("{place}: one more"), more));
        }
    }
    let cases: [(&str, Value, &str, Value); 12] = [
        (STATUS, full.clone(), "/services/0/instances/0/state", json!("RUNNING")),
        (STATUS, full.clone(), "/services/0/instances/0/name", json!("web")),
        (STATUS, full.clone(), "/services/0/instances/0/pid", json!(0)),
        (STATUS, full.clone(), "/services/0/instances", json!([])),
        (STATUS, full.clone(), "/phase", json!("starting")),
        (STATUS, full, "/memory/helpless", json!(false)),
        (WHY, incidents().remove(0), "/incidents/0/kind", json!("ended")),
        (WHY, incidents().remove(0), "/incidents/0/outcome", json!({ "how": "exited" })),
        (WHY, incidents().remove(0), "/incidents/0/then", json!({ "did": "restarted" })),
        (EVENTS, events().remove(0), "/kind", json!("begun")),
        (EVENTS, events().remove(0), "/kind", json!("ready")),
        (EVENTS, events().remove(0), "/level", json!("debug")),
    ];
    for (schema, mut document, place, wrong) in cases {
        *document.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}")) = wrong;
        broken.push((schema, place.to_owned(), document));
    }
    // An event without its number is only one of lost ones; whom it is about is not left out.
    for key in ["number", "instance", "run", "pid", "text"] {
        let mut less = events().remove(0);
        less.as_object_mut().unwrap().remove(key).unwrap();
        broken.push((EVENTS, format!("no {key}"), less));
    }
    for schema in [STATUS, WHY, EVENTS, ENV] {
        let these: Vec<_> = broken.iter().filter(|(of, ..)| *of == schema).collect();
        let documents: Vec<Value> = these.iter().map(|(_, _, document)| document.clone()).collect();
        let accepted = accepted(schema, &documents);
        let wrongly: Vec<&String> = these.iter().zip(accepted).filter(|(_, accepted)| *accepted).map(|((_, what, _), _)| what).collect();
        assert!(!documents.is_empty() && wrongly.is_empty(), "{schema} takes {wrongly:#?}");
    }
}

/// A property that nothing writes is a promise nobody keeps.
#[test]
fn every_property_of_the_schemas_is_written() {
    let env =
        value(Variables { instance: "web.1".to_owned(), variables: vec![Variable { name: "A".to_owned(), value: Some("b".to_owned()) }] });
    for (schema, documents) in [(STATUS, statuses()), (WHY, incidents()), (EVENTS, events()), (ENV, vec![env])] {
        let mut written = std::collections::BTreeSet::new();
        documents.iter().for_each(|document| keys(document, &mut written));
        let mut promised = std::collections::BTreeSet::new();
        properties(&serde_json::from_str(&text(schema)).unwrap(), &mut promised);
        assert_eq!(promised, written, "{schema}");
    }
}

fn keys(value: &Value, into: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            keys(value, into);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn properties(schema: &Value, into: &mut std::collections::BTreeSet<String>) {
    match schema {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            if let (true, Some(named)) = (key == "properties", value.as_object()) {
                into.extend(named.keys().cloned());
                named.values().for_each(|value| properties(value, into));
            } else {
                properties(value, into);
            }
        }),
        Value::Array(items) => items.iter().for_each(|item| properties(item, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
