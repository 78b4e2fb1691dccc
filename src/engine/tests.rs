//! One rule each, on virtual time, through the engine's own door: events in, actions out.

mod announcements;
mod guard;
mod incidents;
mod operated;
mod update;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use super::spec::{
    Backoff, Check, Command as Program, Condition, Dependency, Kind, Launch, Memory, Probe, Readiness, Restart, Scope, Service,
    ServiceMemory, Stop, Victim, Watch,
};
use super::status::{LimitSource, Phase, StateName, Status};
use super::*;
use crate::engine::capability::Rights;
use crate::engine::memory::{Accounts, Limit, Reading, Rss, Usage};

const STRANGE: i32 = 3;

/// A service with the file's defaults, but no jitter.
pub(super) fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        kind: Kind::Service,
        instances: 1,
        groups: Vec::new(),
        depends_on: Vec::new(),
        autostart: true,
        essential: true,
        restart: Restart::Always,
        success_exit_codes: vec![0],
        backoff: Backoff { jitter: 0.0, ..Backoff::default() },
        give_up_after: Some(10),
        start_timeout: Duration::from_secs(60),
        stop: Stop { signals: vec![Signal::TERM], timeout: Duration::from_secs(10), scope: Scope::Main },
        reload_signal: None,
        ready: Readiness::default(),
        live: None,
        memory: ServiceMemory::default(),
        watch: Watch::default(),
        launch: Launch {
            command: Program::Argv(vec!["actor".into()]),
            working_dir: "/".into(),
            inherit_env: true,
            env_defaults: BTreeMap::new(),
            env: BTreeMap::new(),
            port: None,
            user: None,
            group: None,
            umask: None,
            nice: None,
            oom_score_adj: None,
            rights: Rights::default(),
            tty: false,
            limits: Vec::new(),
        },
    }
}

fn optional(name: &str) -> Service {
    Service { essential: false, ..service(name) }
}

fn oneshot(name: &str) -> Service {
    Service { kind: Kind::Oneshot, restart: Restart::Never, ..service(name) }
}

fn on(service: usize, condition: Condition) -> Vec<Dependency> {
    vec![Dependency { service: ServiceId(service), condition }]
}

fn stop_within(ms: u64) -> Stop {
    Stop { signals: vec![Signal::TERM], timeout: Duration::from_millis(ms), scope: Scope::Main }
}

pub(super) fn probe() -> Probe {
    Probe {
        check: Check::Tcp { host: "127.0.0.1".into(), port: 1 },
        every: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        failures: 3,
        successes: 1,
        initial_delay: Duration::ZERO,
    }
}

fn no_memory() -> Outcome {
    Outcome::SpawnFailed(LaunchError { stage: Stage::Fork, errno: 11, detail: String::new() })
}

fn no_program() -> Outcome {
    Outcome::SpawnFailed(LaunchError { stage: Stage::Exec, errno: 2, detail: "/nowhere".into() })
}

/// An action in a few words; notices begin with a dot.
pub(super) fn words(engine: &Engine, action: &Action) -> String {
    let run = |run: &RunId| format!("{}#{}", engine.instance_name(run.instance), run.run);
    match action {
        Action::Spawn { run: id } => format!("spawn {}", run(id)),
        Action::Signal { run: id, signal } => format!("{signal} {}", run(id)),
        Action::Send { run: id, signal, to } => format!("send {signal} to {to:?} of {}", run(id)),
        Action::KillTree { run: id } => format!("kill {}", run(id)),
        Action::Probe { run: id, kind, number } => format!("ask {} {kind:?} {number}", run(id)),
        Action::CancelProbes { run: id } => format!("cancel {}", run(id)),
        Action::Define { service } => format!("define {}", name_of(engine, *service)),
        Action::Forget { service } => format!("forget {}", name_of(engine, *service)),
        Action::Memory(action) => format!("memory {action:?}"),
        Action::Exit { code } => format!("exit {code}"),
        Action::Notice(notice) => format!(". {}", notice_words(engine, notice)),
    }
}

fn name_of(engine: &Engine, id: ServiceId) -> String {
    engine.service(id).map_or("?", |service| service.name.as_str()).to_owned()
}

fn notice_words(engine: &Engine, notice: &Notice) -> String {
    let run = |run: &RunId| format!("{}#{}", engine.instance_name(run.instance), run.run);
    let one = |id: &InstanceId| engine.instance_name(*id);
    let name = |id: &ServiceId| name_of(engine, *id);
    match notice {
        Notice::Memory(notice) => format!("memory {notice:?}"),
        Notice::Started { run: id, pid } => format!("started {} as {pid}", run(id)),
        Notice::Waiting { instance, on } => format!("{} waits for {}", one(instance), name(on)),
        Notice::Ready { run: id, after } => format!("ready {} after {after:?}", run(id)),
        Notice::NotReady { run: id, why } => format!("not ready {}: {why}", run(id)),
        Notice::NotLive { run: id, why } => format!("not live {}: {why}", run(id)),
        Notice::WatchdogBit { run: id, why } => format!("watchdog {}: {why:?}", run(id)),
        Notice::StartTimedOut { run: id, after, why } => format!("not ready in time {} after {after:?}: {why:?}", run(id)),
        Notice::Ended { run: id, outcome, uptime, clean, left_behind, asked } => {
            format!("ended {}: {outcome} after {uptime:?}, clean {clean}, asked {asked}, left {left_behind}", run(id))
        }
        Notice::Changed { service, what } => format!("{what} changed, {} begins anew", name(service)),
        Notice::Restarting { instance, delay, failures, cause } => {
            format!("restarting {} in {delay:?} after {failures} failures ({cause:?})", one(instance))
        }
        Notice::Completed { run: id, took } => format!("completed {} in {took:?}", run(id)),
        Notice::NotRestarted { run: id, awaits_change: false } => format!("not restarted {}", run(id)),
        Notice::NotRestarted { run: id, awaits_change: true } => format!("not restarted {}, awaits a change", run(id)),
        Notice::GaveUp { instance, failures } => format!("gave up {} after {failures} failures", one(instance)),
        Notice::Blocked { instance, on } => format!("blocked {} by {}", one(instance), name(on)),
        Notice::Stopping { run: id, signal, grace, cause } => format!("stopping {} by {signal} within {grace:?} ({cause:?})", run(id)),
        Notice::Killing { run: id, after } => format!("killing {} after {after:?}", run(id)),
        Notice::Stopped { instance } => format!("stopped {}", one(instance)),
        Notice::RollBegun { service, instances } => format!("rolling {instances} of {}", name(service)),
        Notice::RollTurn { at, left } => format!("turn of {}, {left} left", one(at)),
        Notice::Rolled { service } => format!("rolled {}", name(service)),
        Notice::RollStopped { at, why, left } => format!("roll stopped at {}: {why:?}, {left} left", one(at)),
        Notice::Updating { added, removed, restarted, amended } => {
            format!("updating {added} added, {removed} removed, {restarted} restarted, {amended} amended")
        }
        Notice::Added { service } => format!("added {}", name(service)),
        Notice::Removed { service } => format!("removed {}", name(service)),
        Notice::Redefined { service, restarts } => format!("changed {}, restarts {restarts}", name(service)),
        Notice::Updated => "updated".to_owned(),
        Notice::Scaled { service, from, to } => format!("scaled {} from {from} to {to}", name(service)),
        Notice::ShuttingDown { within, drain, .. } => format!("shutting down within {within:?}, drain {drain:?}"),
        Notice::StillWaiting { run: id, pid, waited, of } => format!("still waiting for {} ({pid:?}), {waited:?} of {of:?}", run(id)),
        Notice::Over { code, abandoned, .. } => format!("over with {code}, {abandoned} abandoned"),
    }
}

/// An engine on virtual time. Services are named by their index; every step's invariants are checked.
struct Rig {
    engine: Engine,
    began: Timestamp,
    now: Timestamp,
    notices: Vec<Notice>,
}

impl Rig {
    fn new(services: Vec<Service>) -> Self {
        Self::with(services, 8_000, 0)
    }

    /// Also takes `stop_timeout` and `drain` in milliseconds. The first step is taken.
    fn with(services: Vec<Service>, stop_timeout: u64, drain: u64) -> Self {
        let began = Timestamp::from_nanos(5_000_000_000);
        let spec = Spec {
            services,
            stop_timeout: Duration::from_millis(stop_timeout),
            drain: Duration::from_millis(drain),
            memory: Memory::default(),
        };
        let mut rig = Self { engine: Engine::new(spec, 1, began), began, now: began, notices: Vec::new() };
        rig.tell(Event::Tick);
        rig
    }

    /// One step now; returns the actions that are no notices, in words.
    fn tell(&mut self, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        self.engine.step(self.now, event, &mut out);
        if let Err(broken) = self.engine.check_invariants(self.now) {
            panic!("{broken}");
        }
        let mut words = Vec::new();
        for action in out {
            if let Action::Notice(notice) = action {
                self.notices.push(notice);
            } else {
                words.push(self::words(&self.engine, &action));
            }
        }
        words
    }

    fn told(&self) -> Vec<String> {
        self.notices.iter().map(|notice| notice_words(&self.engine, notice)).collect()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.now.since(self.began).as_millis()).unwrap()
    }

    /// Lets time pass, stepping exactly when the engine asks to; each action is preceded by its milliseconds since the beginning.
    fn wait(&mut self, ms: u64) -> Vec<String> {
        let end = self.now.after(Duration::from_millis(ms));
        let mut all = Vec::new();
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            assert!(at > self.now, "a deadline that has passed: {at:?} at {:?}", self.now);
            self.now = at;
            let elapsed = self.elapsed_ms();
            all.extend(self.tell(Event::Tick).into_iter().map(|words| format!("{elapsed} {words}")));
        }
        self.now = end;
        all
    }

    fn id(service: usize) -> InstanceId {
        InstanceId { service: ServiceId(service), number: 1 }
    }

    fn run(&self, service: usize) -> RunId {
        self.engine.current_run(Self::id(service)).expect("something runs")
    }

    /// Its process exists and its program runs.
    fn up(&mut self, service: usize) -> Vec<String> {
        let run = self.run(service);
        let pid = 100 + u32::try_from(service).unwrap();
        let mut words = self.tell(Event::Spawned { run, pid });
        words.extend(self.tell(Event::Executed { run }));
        words
    }

    /// Up, and then a second.
    fn settle(&mut self, service: usize) -> Vec<String> {
        self.up(service);
        self.wait(1_000)
    }

    fn exit(&mut self, service: usize, outcome: Outcome) -> Vec<String> {
        self.exit_leaving(service, outcome, 0)
    }

    fn exit_leaving(&mut self, service: usize, outcome: Outcome, left_behind: u32) -> Vec<String> {
        let run = self.run(service);
        self.tell(Event::Exited { run, outcome, left_behind })
    }

    fn tree_gone(&mut self, service: usize) -> Vec<String> {
        let run = self.run(service);
        self.tell(Event::TreeGone { run })
    }

    fn answer(&mut self, service: usize, kind: ProbeKind, number: u32, good: bool) -> Vec<String> {
        let run = self.run(service);
        let result = if good { Ok(()) } else { Err("refused".to_owned()) };
        self.tell(Event::Probed { run, kind, number, result })
    }

    fn command(&mut self, verb: Verb, service: usize) -> Vec<String> {
        self.tell(Event::Command(Command { verb, instances: vec![Self::id(service)] }))
    }

    fn term(&mut self) -> Vec<String> {
        self.tell(Event::Shutdown(ShutdownCause::Signal { signal: Signal::TERM, sender: None }))
    }

    fn status(&self) -> Status {
        self.engine.status(self.now, "0", 1)
    }

    fn state(&self, service: usize) -> StateName {
        self.engine.instance_status_of(self.now, Self::id(service)).unwrap().state
    }

    fn why(&self, service: usize) -> Option<String> {
        self.engine.instance_status_of(self.now, Self::id(service)).unwrap().why
    }

    /// The delay of the last restart, in milliseconds.
    fn delay_ms(&self) -> Option<u64> {
        self.notices.iter().rev().find_map(|notice| {
            let Notice::Restarting { delay, .. } = notice else { return None };
            Some(u64::try_from(delay.as_millis()).unwrap())
        })
    }

    fn over(&self) -> Option<(EndCause, i32, u32)> {
        self.notices.iter().find_map(|notice| {
            let Notice::Over { why, code, abandoned } = notice else { return None };
            Some((why.clone(), *code, *abandoned))
        })
    }

    /// Whether the end that was told was clean, and whether it was asked for.
    fn ended(&self) -> Option<(bool, bool)> {
        self.notices.iter().find_map(|notice| {
            let Notice::Ended { clean, asked, .. } = notice else { return None };
            Some((*clean, *asked))
        })
    }
}

const NOTHING: [&str; 0] = [];

// ---------------------------------------------------------------- backoff and giving up

#[test]
fn a_crash_loop_waits_as_the_file_says_to_the_millisecond() {
    // (initial, factor, max) in ms, and the delays before the second, third... run.
    let table: [(u64, f64, u64, &[u64]); 4] = [
        (500, 2.0, 30_000, &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]),
        (100, 3.0, 1_000, &[100, 300, 900, 1_000, 1_000]),
        (250, 1.0, 30_000, &[250, 250, 250]),
        (2_000, 2.0, 1_000, &[1_000, 1_000]),
    ];
    for (initial, factor, max, delays) in table {
        let backoff =
            Backoff { initial: Duration::from_millis(initial), factor, max: Duration::from_millis(max), jitter: 0.0, ..Backoff::default() };
        let mut rig = Rig::new(vec![Service { backoff, give_up_after: None, ..service("web") }]);
        for (index, delay) in delays.iter().enumerate() {
            rig.up(0);
            assert_eq!(rig.exit(0, Outcome::Exited(1)), NOTHING);
            let died = rig.elapsed_ms();
            assert_eq!(rig.wait(delay - 1), NOTHING, "the {index}th delay of {initial} ms x {factor} is too short");
            assert_eq!(rig.wait(1), [format!("{} spawn web.1#{}", died + delay, index + 2)]);
            assert_eq!(rig.delay_ms(), Some(*delay));
        }
    }
}

#[test]
fn jitter_moves_a_delay_by_its_share_at_most_and_differs_between_copies() {
    let backoff = Backoff { jitter: 0.2, ..Backoff::default() };
    let mut rig = Rig::new(vec![Service { instances: 50, backoff, ..service("web") }]);
    let ids: Vec<InstanceId> = rig.engine.instance_ids().collect();
    let mut delays = Vec::new();
    for instance in ids {
        rig.tell(Event::Exited { run: RunId { instance, run: 1 }, outcome: Outcome::Exited(1), left_behind: 0 });
        delays.push(rig.delay_ms().unwrap());
    }
    assert!(delays.iter().all(|delay| (400..=600).contains(delay)), "{delays:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 30, "copies that died together come back together: {delays:?}");
}

#[test]
fn the_first_restart_after_a_stable_run_is_immediate_and_begins_anew() {
    let mut rig = Rig::new(vec![service("web")]);
    for delay in [500, 1_000] {
        rig.up(0);
        rig.exit(0, Outcome::Exited(1));
        rig.wait(delay);
    }
    rig.up(0);
    rig.wait(29_999);
    rig.exit(0, Outcome::Exited(1));
    assert_eq!(rig.delay_ms(), Some(2_000), "a run just short of reset_after is none");
    rig.wait(2_000);
    rig.up(0);
    rig.wait(30_000);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), ["spawn web.1#5"]);
    assert!(rig.told().contains(&"restarting web.1 in 0ns after 0 failures (Crash)".to_owned()), "{:?}", rig.told());
    rig.up(0);
    rig.exit(0, Outcome::Exited(1));
    assert_eq!(rig.delay_ms(), Some(500));
}

#[test]
fn a_run_that_was_never_ready_is_no_stable_run_however_long_it_took() {
    // start_timeout is longer than reset_after, as it is by default.
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), give_up_after: Some(2), ..service("web") }]);
    rig.up(0);
    rig.wait(60_000);
    rig.exit(0, Outcome::Signaled(Signal::TERM));
    assert_eq!(rig.delay_ms(), Some(500));
    rig.wait(500);
    rig.up(0);
    rig.wait(60_000);
    rig.exit(0, Outcome::Signaled(Signal::TERM));
    assert!(matches!(rig.over(), Some((EndCause::GaveUp { failures: 2, .. }, 143, 0))), "{:?}", rig.over());
}

#[test]
fn giving_up_counts_consecutive_failures() {
    for limit in [1, 2, 5] {
        let mut rig = Rig::new(vec![Service { give_up_after: Some(limit), ..optional("web") }, optional("other")]);
        for run in 1..=limit {
            assert_eq!(rig.run(0).run, run);
            rig.up(0);
            rig.exit(0, Outcome::Exited(1));
            rig.wait(29_000);
        }
        assert_eq!(rig.state(0), StateName::Failed);
        assert!(rig.told().contains(&format!("gave up web.1 after {limit} failures")));
        assert_eq!(rig.engine.current_run(Rig::id(0)), None);
    }
    let mut rig = Rig::new(vec![Service { give_up_after: None, ..service("web") }]);
    for _ in 0..100 {
        rig.exit(0, Outcome::Exited(1));
        rig.wait(30_000);
    }
    assert_eq!(rig.state(0), StateName::Starting);
    assert_eq!(rig.run(0).run, 101);
}

#[test]
fn a_success_in_between_forgets_failures_but_not_the_growing_delay() {
    let mut rig = Rig::new(vec![Service { give_up_after: Some(2), ..service("web") }]);
    for (code, delay) in [(1, 500), (0, 1_000), (1, 2_000), (0, 4_000)] {
        rig.exit(0, Outcome::Exited(code));
        assert_eq!(rig.delay_ms(), Some(delay));
        rig.wait(delay);
    }
    assert_eq!(rig.state(0), StateName::Starting);
}

#[test]
fn giving_up_on_an_essential_service_ends_the_stack_with_its_own_code() {
    let killed = Signal::from_number(37).unwrap();
    for (outcome, code) in [
        (Outcome::Exited(1), 1),
        (Outcome::Exited(77), 77),
        (Outcome::Signaled(Signal::KILL), 137),
        (Outcome::Signaled(killed), 165),
        (no_memory(), 126),
        (no_program(), 127),
    ] {
        let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..service("web") }, optional("other")]);
        rig.settle(1);
        assert_eq!(rig.exit(0, outcome.clone()), ["SIGTERM other.1#1"]);
        assert!(!rig.status().live, "nothing but a fresh container mends this");
        assert_eq!(rig.exit(1, Outcome::Exited(0)), [format!("exit {code}")], "{outcome}");
        assert!(matches!(rig.over(), Some((EndCause::GaveUp { .. }, _, 0))));
    }
}

#[test]
fn a_failure_never_ends_the_container_with_zero() {
    // It is ended for not being ready, and leaves politely with 0.
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), give_up_after: Some(1), ..service("web") }]);
    rig.up(0);
    rig.wait(60_000);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 1"]);

    // The same with a policy that says never.
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), restart: Restart::Never, ..service("web") }]);
    rig.up(0);
    rig.wait(60_000);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 1"]);

    // Exit 0 is no success where the file says so.
    let mut rig = Rig::new(vec![Service { success_exit_codes: vec![STRANGE], restart: Restart::Never, ..service("web") }]);
    rig.up(0);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 1"]);

    // An essential service that can never start is a failure, whatever ended the one it needs.
    let mut rig = Rig::new(vec![
        Service { restart: Restart::OnFailure, ..optional("db") },
        Service { depends_on: on(0, Condition::Ready), ..service("web") },
    ]);
    rig.up(0);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 1"]);
    assert!(matches!(rig.over(), Some((EndCause::Blocked { .. }, 1, 0))));
}

#[test]
fn a_non_essential_service_is_given_up_and_the_rest_goes_on() {
    let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..optional("extra") }, service("web")]);
    rig.settle(1);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), NOTHING);
    rig.wait(3_600_000);
    assert_eq!((rig.state(0), rig.state(1)), (StateName::Failed, StateName::Running));
    let status = rig.status();
    assert!(status.ready && status.live && status.started);
    assert_eq!(status.services[0].reason.as_deref(), Some("extra.1 is failed: given up after 1 failed run; the last: exit 1"));
}

// ---------------------------------------------------------------- restart policies

#[test]
fn policy_by_outcome() {
    use Restart::{Always, Never, OnFailure};
    use StateName::{Backoff as Again, Exited, Failed};
    let killed = || Outcome::Signaled(Signal::KILL);
    let table = [
        (Always, Outcome::Exited(0), Again),
        (Always, Outcome::Exited(STRANGE), Again),
        (Always, Outcome::Exited(1), Again),
        (Always, killed(), Again),
        (Always, no_memory(), Again),
        (OnFailure, Outcome::Exited(0), Exited),
        (OnFailure, Outcome::Exited(STRANGE), Exited),
        (OnFailure, Outcome::Exited(1), Again),
        // Nobody asked it to: death by SIGTERM is then no success.
        (OnFailure, Outcome::Signaled(Signal::TERM), Again),
        (OnFailure, Outcome::Exited(143), Again),
        (OnFailure, killed(), Again),
        (OnFailure, no_memory(), Again),
        (Never, Outcome::Exited(0), Exited),
        (Never, Outcome::Exited(STRANGE), Exited),
        (Never, Outcome::Exited(1), Failed),
        (Never, killed(), Failed),
        (Never, no_memory(), Failed),
    ];
    for (restart, outcome, expected) in table {
        let success_exit_codes = vec![0, STRANGE];
        let mut rig = Rig::new(vec![Service { restart, success_exit_codes, ..optional("web") }, optional("other")]);
        rig.up(0);
        rig.exit(0, outcome.clone());
        assert_eq!(rig.state(0), expected, "{restart:?}, {outcome}");
        let told = rig.told();
        let not_restarted = told.contains(&"not restarted web.1#1".to_owned());
        assert_eq!(not_restarted, expected != Again, "{restart:?}, {outcome}: {told:?}");
    }
}

#[test]
fn an_essential_service_that_is_not_restarted_ends_the_stack() {
    for (outcome, code) in [(Outcome::Exited(0), 0), (Outcome::Exited(4), 4), (Outcome::Signaled(Signal::KILL), 137)] {
        let mut rig = Rig::new(vec![Service { restart: Restart::Never, ..service("web") }, optional("other")]);
        rig.settle(1);
        rig.up(0);
        assert_eq!(rig.exit(0, outcome), ["SIGTERM other.1#1"]);
        assert_eq!(rig.exit(1, Outcome::Signaled(Signal::TERM)), [format!("exit {code}")]);
        assert!(matches!(rig.over(), Some((EndCause::EssentialEnded { .. }, _, 0))));
    }
}

#[test]
fn oneshots_complete_fail_or_are_tried_again() {
    let mut rig = Rig::new(vec![oneshot("migrate"), service("web")]);
    rig.up(0);
    rig.wait(3_600_000);
    assert_eq!(rig.state(0), StateName::Running, "a job takes its time: no start_timeout");
    assert!(!rig.status().services[0].ready);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.state(0), StateName::Completed);
    assert!(rig.status().services[0].ready);
    assert!(rig.told().contains(&"completed migrate.1#1 in 3600s".to_owned()));

    let mut rig = Rig::new(vec![oneshot("migrate"), optional("web")]);
    rig.up(0);
    assert_eq!(rig.exit(0, Outcome::Exited(9)), ["SIGTERM web.1#1"]);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["exit 9"]);

    let mut rig = Rig::new(vec![Service { restart: Restart::OnFailure, give_up_after: Some(3), ..oneshot("migrate") }]);
    for (outcome, delay) in [(Outcome::Exited(9), 500), (no_memory(), 1_000)] {
        rig.exit(0, outcome);
        assert_eq!(rig.delay_ms(), Some(delay));
        rig.wait(delay);
    }
    rig.up(0);
    rig.exit(0, Outcome::Exited(0));
    assert!(matches!(rig.over(), Some((EndCause::NothingLeft { code: 0 }, 0, 0))), "{:?}", rig.over());
}

#[test]
fn an_end_that_was_asked_for_is_clean_by_exit_0_or_by_the_signal_itself() {
    let table = [
        (Outcome::Exited(0), true, true),
        (Outcome::Exited(143), true, true),
        (Outcome::Exited(STRANGE), true, true),
        (Outcome::Exited(130), false, true),
        (Outcome::Exited(1), false, true),
        (Outcome::Signaled(Signal::TERM), true, true),
        (Outcome::Signaled(Signal::INT), false, false),
        // Not firstmate's: it has not sent it yet.
        (Outcome::Signaled(Signal::KILL), false, false),
    ];
    for (outcome, clean, asked) in table {
        let mut rig = Rig::new(vec![Service { success_exit_codes: vec![STRANGE], ..service("web") }]);
        rig.settle(0);
        rig.command(Verb::Stop, 0);
        rig.exit(0, outcome.clone());
        assert_eq!(rig.ended(), Some((clean, asked)), "{outcome}");
    }
    // Nobody asked: only success_exit_codes count.
    for (outcome, clean) in [(Outcome::Exited(0), true), (Outcome::Exited(143), false), (Outcome::Signaled(Signal::TERM), false)] {
        let mut rig = Rig::new(vec![service("web")]);
        rig.settle(0);
        rig.exit(0, outcome.clone());
        assert_eq!(rig.ended(), Some((clean, false)), "{outcome}");
    }
}

#[test]
fn restarts_are_counted_by_cause() {
    let mut rig =
        Rig::new(vec![Service { ready: Readiness::Probe(probe()), live: Some(Probe { failures: 1, ..probe() }), ..service("web") }]);
    rig.up(0);
    rig.exit(0, Outcome::Exited(1));
    rig.wait(500);
    rig.up(0);
    rig.answer(0, ProbeKind::Ready, 1, true);
    assert_eq!(rig.answer(0, ProbeKind::Live, 1, false), ["cancel web.1#2", "SIGTERM web.1#2"]);
    rig.exit(0, Outcome::Exited(0));
    rig.wait(1_000);
    rig.up(0);
    rig.wait(60_000);
    rig.exit(0, Outcome::Exited(0));
    rig.wait(2_000);
    rig.command(Verb::Restart, 0);
    rig.exit(0, Outcome::Exited(0));
    let restarts = rig.status().services[0].instances[0].restarts;
    assert_eq!((restarts.total, restarts.crash, restarts.live, restarts.start_timeout), (3, 1, 1, 1), "an operator's wish is no restart");
    assert_eq!(rig.run(0).run, 5);
}

// ---------------------------------------------------------------- dependencies

#[test]
fn a_dependent_starts_when_its_condition_holds_and_not_before() {
    let db = |ready| Service { ready, ..service("db") };
    let web = |condition| Service { depends_on: on(0, condition), ..service("web") };

    let mut rig = Rig::new(vec![db(Readiness::default()), web(Condition::Started)]);
    assert!(rig.told().contains(&"web.1 waits for db".to_owned()));
    assert_eq!(rig.why(1).as_deref(), Some("for db to be started"));
    let run = rig.run(0);
    assert_eq!(rig.tell(Event::Spawned { run, pid: 2 }), NOTHING, "a process without its program has not started");
    assert_eq!(rig.tell(Event::Executed { run }), ["spawn web.1#1"]);

    let mut rig = Rig::new(vec![db(Readiness::default()), web(Condition::Ready)]);
    rig.up(0);
    assert_eq!(rig.wait(999), NOTHING);
    assert_eq!(rig.wait(1), ["1000 spawn web.1#1"]);

    let mut rig = Rig::new(vec![db(Readiness::Probe(Probe { successes: 2, ..probe() })), web(Condition::Ready)]);
    assert_eq!(rig.up(0), ["ask db.1#1 Ready 1"]);
    assert_eq!(rig.answer(0, ProbeKind::Ready, 1, true), NOTHING);
    assert_eq!(rig.wait(20), ["20 ask db.1#1 Ready 2"]);
    assert_eq!(rig.answer(0, ProbeKind::Ready, 2, true), ["spawn web.1#1"]);

    let mut rig = Rig::new(vec![oneshot("db"), web(Condition::Completed)]);
    assert_eq!(rig.up(0), NOTHING);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["spawn web.1#1"]);

    // One that has ended well was started, too.
    let mut rig = Rig::new(vec![oneshot("db"), Service { autostart: false, ..web(Condition::Started) }, service("other")]);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.command(Verb::Start, 1), ["spawn web.1#1"]);
}

#[test]
fn a_condition_asks_all_instances() {
    let mut rig =
        Rig::new(vec![Service { instances: 2, ..service("db") }, Service { depends_on: on(0, Condition::Started), ..service("web") }]);
    let run = |number| RunId { instance: InstanceId { service: ServiceId(0), number }, run: 1 };
    assert_eq!(rig.tell(Event::Executed { run: run(1) }), NOTHING);
    assert_eq!(rig.tell(Event::Executed { run: run(2) }), ["spawn web.1#1"]);
}

#[test]
fn a_service_waits_for_all_its_dependencies() {
    let mut rig = Rig::new(vec![
        service("a"),
        oneshot("b"),
        Service { depends_on: [on(0, Condition::Started), on(1, Condition::Completed)].concat(), ..service("web") },
    ]);
    rig.up(0);
    assert_eq!(rig.why(2).as_deref(), Some("for b to complete"));
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["spawn web.1#1"]);
}

#[test]
fn conditions_are_asked_at_every_restart_but_take_nothing_down() {
    let mut rig = Rig::new(vec![service("db"), Service { depends_on: on(0, Condition::Ready), ..service("web") }]);
    rig.settle(0);
    rig.settle(1);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), NOTHING, "a dependent that runs goes on");
    rig.exit(1, Outcome::Exited(1));
    assert_eq!(rig.wait(500), ["2500 spawn db.1#2"]);
    assert_eq!(rig.state(1), StateName::Waiting);
    assert_eq!(rig.settle(0), ["3500 spawn web.1#2"]);
}

#[test]
fn a_dependency_that_failed_blocks() {
    let db = || Service { give_up_after: Some(1), ..optional("db") };
    let web = || Service { depends_on: on(0, Condition::Ready), ..optional("web") };
    let app = || Service { depends_on: on(1, Condition::Ready), ..optional("app") };

    // Non-essential ones, through a chain, until an operator starts what failed.
    let mut rig = Rig::new(vec![db(), web(), app(), service("other")]);
    rig.up(0);
    rig.exit(0, Outcome::Exited(5));
    assert_eq!((rig.state(1), rig.state(2), rig.state(3)), (StateName::Failed, StateName::Failed, StateName::Starting));
    assert_eq!(rig.why(2).as_deref(), Some("web failed, on which it depends"));
    assert_eq!(rig.command(Verb::Start, 0), ["spawn db.1#2"]);
    assert_eq!(rig.state(1), StateName::Waiting);
    assert_eq!(rig.settle(0), ["1000 spawn web.1#1"]);
    assert_eq!(rig.settle(1), ["2000 spawn app.1#1"]);

    // An essential one at the end of the chain ends the stack with the code of the first.
    let mut rig = Rig::new(vec![db(), web(), Service { essential: true, ..app() }, optional("other")]);
    rig.settle(3);
    assert_eq!(rig.exit(0, Outcome::Exited(5)), ["SIGTERM other.1#1"]);
    assert_eq!(rig.exit(3, Outcome::Exited(0)), ["exit 5"]);
    assert!(matches!(rig.over(), Some((EndCause::Blocked { on: ServiceId(1), .. }, 5, 0))), "{:?}", rig.over());

    // One that already runs is not touched, but blocked when it must start again.
    let mut rig = Rig::new(vec![db(), web(), service("other")]);
    rig.settle(0);
    rig.settle(1);
    rig.exit(0, Outcome::Exited(5));
    assert_eq!(rig.state(1), StateName::Running);
    rig.exit(1, Outcome::Exited(1));
    rig.wait(500);
    assert_eq!((rig.state(1), rig.why(1).as_deref()), (StateName::Failed, Some("db failed, on which it depends")));
}

// ---------------------------------------------------------------- the end of everything

#[test]
fn when_nothing_is_left_firstmate_leaves() {
    type Ends<'a> = &'a [(Service, Outcome)];
    let table: [(Ends<'_>, Option<i32>); 5] = [
        (&[(oneshot("a"), Outcome::Exited(0)), (oneshot("b"), Outcome::Exited(0))], Some(0)),
        (&[(Service { restart: Restart::Never, ..optional("a") }, Outcome::Exited(4))], Some(4)),
        (&[(Service { give_up_after: Some(1), ..optional("a") }, Outcome::Signaled(Signal::KILL))], Some(137)),
        (&[(oneshot("a"), Outcome::Exited(0)), (Service { restart: Restart::Never, ..optional("b") }, Outcome::Exited(7))], Some(7)),
        (&[(oneshot("a"), Outcome::Exited(0)), (service("b"), Outcome::Exited(7))], None),
    ];
    for (services, code) in table {
        let mut rig = Rig::new(services.iter().map(|(service, _)| service.clone()).collect());
        for (index, (_, outcome)) in services.iter().enumerate() {
            rig.exit(index, outcome.clone());
        }
        assert_eq!(rig.over().map(|(_, code, _)| code), code, "{:?}", rig.told());
    }
}

#[test]
fn a_success_is_no_failure_whatever_its_number() {
    let success_exit_codes = vec![0, STRANGE];
    let mut rig = Rig::new(vec![Service { restart: Restart::OnFailure, success_exit_codes, ..optional("a") }]);
    assert_eq!(rig.exit(0, Outcome::Exited(STRANGE)), ["exit 0"]);
}

#[test]
fn what_an_operator_keeps_down_keeps_the_container() {
    // Stopped after it ran, and stopped before it ever could.
    let waiting = Service { depends_on: on(0, Condition::Completed), ..service("web") };
    let mut rig = Rig::new(vec![oneshot("migrate"), waiting]);
    rig.command(Verb::Stop, 1);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.over(), None);
    assert_eq!(rig.command(Verb::Start, 1), ["spawn web.1#1"]);
    rig.settle(1);
    rig.command(Verb::Stop, 1);
    rig.exit(1, Outcome::Exited(0));
    assert_eq!((rig.over(), rig.state(1)), (None, StateName::Stopped));

    // One that was never asked for does not.
    let mut rig = Rig::new(vec![oneshot("migrate"), Service { autostart: false, ..service("tool") }]);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 0"]);
}

#[test]
fn dependents_stop_first() {
    let mut rig = Rig::new(vec![
        service("db"),
        Service { depends_on: on(0, Condition::Started), ..service("web") },
        Service { depends_on: on(1, Condition::Started), ..service("proxy") },
        service("loner"),
    ]);
    for index in [0, 1, 2, 3] {
        rig.up(index);
    }
    assert_eq!(rig.term(), ["SIGTERM proxy.1#1", "SIGTERM loner.1#1"]);
    assert_eq!(rig.exit_leaving(2, Outcome::Exited(0), 1), ["SIGTERM proxy.1#1"], "a stop is over when the whole tree is gone");
    assert_eq!(rig.tree_gone(2), ["SIGTERM web.1#1"]);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["SIGTERM db.1#1"]);
    assert_eq!(rig.exit(3, Outcome::Exited(0)), NOTHING);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), ["exit 0"], "it was asked to end: 0, whatever its services say");
}

#[test]
fn each_gets_its_share_of_the_one_deadline() {
    // Grace periods of 10 s each in a chain of three, and 8 s in all: 7.5 s for stopping, then SIGKILL, and 0.25 s for the last words.
    let mut rig = Rig::new(vec![
        service("db"),
        Service { depends_on: on(0, Condition::Started), ..service("web") },
        Service { depends_on: on(1, Condition::Started), ..service("proxy") },
    ]);
    for index in [0, 1, 2] {
        rig.up(index);
    }
    assert_eq!(rig.term(), ["SIGTERM proxy.1#1"]);
    assert_eq!(rig.wait(2_600), ["2500 kill proxy.1#1", "2600 kill proxy.1#1"]);
    assert_eq!(rig.exit(2, Outcome::Signaled(Signal::KILL)), ["SIGTERM web.1#1"]);
    assert_eq!(rig.wait(2_450), ["5050 kill web.1#1"], "half of what was left then");
    assert_eq!(rig.exit(1, Outcome::Signaled(Signal::KILL)), ["SIGTERM db.1#1"]);
    let kills = rig.wait(2_650);
    assert_eq!(kills, ["7500 kill db.1#1", "7600 kill db.1#1", "7700 kill db.1#1"]);
    assert_eq!(rig.wait(50), ["7750 exit 0"], "not even SIGKILL helped");
    assert!(matches!(rig.over(), Some((EndCause::Asked(_), 0, 1))));
}

#[test]
fn a_short_grace_period_is_not_stretched_by_a_long_budget() {
    let mut rig = Rig::with(vec![Service { stop: stop_within(300), ..service("web") }], 25_000, 0);
    rig.up(0);
    rig.term();
    assert_eq!(rig.wait(300), ["300 kill web.1#1"]);
}

#[test]
fn an_operator_s_long_stop_is_cut_to_the_budget_of_the_whole() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(60_000), ..service("web") }]);
    rig.up(0);
    rig.command(Verb::Stop, 0);
    rig.wait(1_000);
    assert_eq!(rig.term(), NOTHING, "it has its signal");
    assert_eq!(rig.wait(7_500), ["8500 kill web.1#1"]);
}

#[test]
fn a_ladder_shares_the_grace_period_equally() {
    let quit = Signal::QUIT;
    let stop = Stop { signals: vec![Signal::TERM, Signal::INT, quit], timeout: Duration::from_secs(9), scope: Scope::Main };
    let mut rig = Rig::new(vec![Service { stop, ..service("web") }]);
    rig.settle(0);
    assert_eq!(rig.command(Verb::Stop, 0), ["SIGTERM web.1#1"]);
    assert_eq!(rig.wait(9_050), ["4000 SIGINT web.1#1", "7000 SIGQUIT web.1#1", "10000 kill web.1#1"]);
    // Each signal that was sent explains the end; one that was not does not.
    for (waited, outcome, clean) in
        [(0, Signal::TERM, true), (0, Signal::INT, false), (3_000, Signal::INT, true), (3_000, Signal::TERM, true)]
    {
        let stop = Stop { signals: vec![Signal::TERM, Signal::INT], timeout: Duration::from_secs(6), scope: Scope::Main };
        let mut rig = Rig::new(vec![Service { stop, ..service("web") }]);
        rig.settle(0);
        rig.command(Verb::Stop, 0);
        rig.wait(waited);
        rig.exit(0, Outcome::Signaled(outcome));
        let ended = rig.notices.iter().any(|notice| matches!(notice, Notice::Ended { clean, .. } if *clean));
        assert_eq!(ended, clean, "{outcome} after {waited} ms");
    }
}

#[test]
fn sigkill_is_repeated_and_a_slow_stop_is_spoken_of() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(2_500), ..service("web") }]);
    rig.settle(0);
    rig.command(Verb::Stop, 0);
    let kills = rig.wait(8_600);
    let expected: Vec<String> = (0..=10)
        .map(|n| format!("{} kill web.1#1", 3_500 + n * 100))
        .chain([
            "4600 kill web.1#1".to_owned(),
            "5600 kill web.1#1".to_owned(),
            "6600 kill web.1#1".to_owned(),
            "7600 kill web.1#1".to_owned(),
            "8600 kill web.1#1".to_owned(),
            "9600 kill web.1#1".to_owned(),
        ])
        .collect();
    assert_eq!(kills, expected);
    assert!(rig.told().contains(&"still waiting for web.1#1 (Some(100)), 2s of 2.5s".to_owned()), "{:?}", rig.told());
}

#[test]
fn drain_serves_on_but_is_not_ready() {
    let mut rig = Rig::with(vec![service("db"), Service { depends_on: on(0, Condition::Started), ..service("web") }], 8_000, 3_000);
    rig.up(0);
    rig.settle(1);
    assert!(rig.status().ready);
    assert_eq!(rig.term(), NOTHING);
    let status = rig.status();
    assert_eq!((status.phase, status.ready, status.live), (Phase::Draining, false, true));
    assert_eq!(status.stopping_because.as_deref(), Some("SIGTERM was received"));
    // What crashes now is not started again, and an operator's wish comes too late.
    rig.exit(1, Outcome::Exited(1));
    assert_eq!(rig.command(Verb::Start, 1), NOTHING);
    assert_eq!(rig.wait(3_000), ["4000 SIGTERM db.1#1"]);
    assert_eq!(rig.status().phase, Phase::Stopping);
    assert_eq!(rig.wait(4_500), ["8500 kill db.1#1"], "drain is part of stop_timeout");
    assert_eq!(rig.exit(0, Outcome::Signaled(Signal::KILL)), ["exit 0"]);
    assert_eq!(rig.status().phase, Phase::Ended);

    // Nothing serves any more: nothing to drain.
    let mut rig = Rig::with(vec![service("web")], 8_000, 3_000);
    rig.settle(0);
    rig.term();
    assert_eq!(rig.exit(0, Outcome::Exited(1)), ["exit 0"]);

    // A service that was given up leaves nothing worth draining.
    let mut rig = Rig::with(vec![Service { give_up_after: Some(1), ..service("web") }, optional("other")], 8_000, 3_000);
    rig.up(1);
    assert_eq!(rig.exit(0, Outcome::Exited(1)), ["SIGTERM other.1#1"]);
}

#[test]
fn a_drain_as_long_as_the_whole_stop_still_leaves_time_to_die_in() {
    let mut rig = Rig::with(vec![service("web")], 4_000, 60_000);
    rig.up(0);
    assert_eq!(rig.term(), NOTHING);
    assert_eq!(rig.wait(3_500), ["3500 SIGTERM web.1#1"]);
    let rest = rig.wait(450);
    assert!(rest.first().is_some_and(|words| words.ends_with("kill web.1#1")), "{rest:?}");
    assert_eq!(rig.exit(0, Outcome::Signaled(Signal::KILL)), ["exit 0"]);
    assert!(matches!(rig.over(), Some((_, 0, 0))));
}

#[test]
fn a_repeated_term_changes_nothing() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.up(0);
    rig.term();
    rig.wait(7_000);
    assert_eq!(rig.term(), NOTHING);
    assert_eq!(rig.tell(Event::Shutdown(ShutdownCause::Command)), NOTHING);
    assert_eq!(rig.wait(500), ["7500 kill web.1#1"]);
    let shutting_down = rig.notices.iter().filter(|notice| matches!(notice, Notice::ShuttingDown { .. })).count();
    assert_eq!(shutting_down, 1);
    assert_eq!(rig.exit(0, Outcome::Signaled(Signal::KILL)), ["exit 0"]);
}

#[test]
fn the_first_reason_to_stop_is_the_one_that_is_told() {
    let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..service("web") }, service("other")]);
    rig.up(1);
    rig.exit(0, Outcome::Exited(9));
    assert_eq!(rig.term(), NOTHING);
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["exit 9"]);

    let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..service("web") }, service("other")]);
    rig.up(0);
    rig.up(1);
    rig.term();
    rig.exit(0, Outcome::Exited(9));
    assert_eq!(rig.exit(1, Outcome::Exited(0)), ["exit 0"], "dying while being stopped is no reason of its own");
}

#[test]
fn kill_all_kills_at_once_whatever_the_order() {
    let mut rig = Rig::new(vec![service("db"), Service { depends_on: on(0, Condition::Started), ..service("web") }]);
    rig.up(0);
    rig.up(1);
    rig.term();
    assert_eq!(rig.tell(Event::KillAll), ["kill db.1#1", "kill web.1#1"]);
    rig.exit(0, Outcome::Signaled(Signal::KILL));
    assert_eq!(rig.exit(1, Outcome::Signaled(Signal::KILL)), ["exit 130"]);

    // In the middle of serving, with something that no signal ends.
    let mut rig = Rig::new(vec![service("web"), service("waits")]);
    rig.up(0);
    rig.exit(1, Outcome::Exited(1));
    assert_eq!(rig.tell(Event::KillAll), ["kill web.1#1"]);
    assert_eq!(rig.wait(1_000).last().map(String::as_str), Some("1000 exit 130"));
    assert!(matches!(rig.over(), Some((EndCause::Killed, 130, 1))));

    // While it drains: less time is left than an immediate end would take by itself, and that does not become more.
    let mut rig = Rig::with(vec![service("web")], 4_000, 3_500);
    rig.up(0);
    rig.term();
    assert_eq!(rig.wait(3_400), NOTHING);
    assert_eq!(rig.tell(Event::KillAll), ["kill web.1#1"]);
    rig.wait(300);
    assert_eq!(rig.tell(Event::KillAll), NOTHING);
    assert_eq!(rig.wait(300).last().map(String::as_str), Some("4000 exit 130"));

    // A stop that firstmate decided upon keeps its own reason and code.
    let mut rig = Rig::new(vec![Service { give_up_after: Some(1), ..service("web") }, service("other")]);
    rig.up(1);
    rig.exit(0, Outcome::Exited(9));
    rig.tell(Event::KillAll);
    assert_eq!(rig.exit(1, Outcome::Signaled(Signal::KILL)), ["exit 9"]);
}

#[test]
fn a_shutdown_before_anything_runs_ends_at_once() {
    let mut rig = Rig::new(vec![Service { autostart: false, ..service("web") }]);
    assert_eq!(rig.term(), ["exit 0"]);
    assert_eq!(rig.engine.next_deadline(), None);
    assert_eq!(rig.term(), NOTHING, "after the end nothing follows");
}

#[test]
fn a_shutdown_ends_what_is_being_started() {
    let mut rig = Rig::new(vec![service("web"), Service { depends_on: on(0, Condition::Ready), ..service("waits") }, service("dies")]);
    rig.exit(2, Outcome::Exited(1));
    assert_eq!(rig.term(), ["SIGTERM web.1#1"], "also a process whose program does not run yet");
    assert_eq!((rig.state(1), rig.state(2)), (StateName::Stopped, StateName::Stopped));
    assert_eq!(rig.up(0), NOTHING);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["exit 0"]);
}

// ---------------------------------------------------------------- what a run leaves behind

#[test]
fn a_new_run_waits_for_the_last_process_of_the_old_one() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.up(0);
    rig.wait(40_000);
    assert_eq!(rig.exit_leaving(0, Outcome::Signaled(Signal::KILL), 4), ["SIGTERM web.1#1"]);
    assert_eq!(rig.state(0), StateName::Stopping);
    assert_eq!(rig.why(0).as_deref(), Some("what it left behind is being ended"));
    assert_eq!(rig.wait(1_100), ["41000 kill web.1#1", "41100 kill web.1#1"], "a second, then SIGKILL");
    assert_eq!(rig.tree_gone(0), ["spawn web.1#2"], "the run was stable, so the next one follows at once");
    assert!(rig.told().iter().any(|words| words.contains("after 40s, clean false, asked false, left 4")), "{:?}", rig.told());
}

#[test]
fn a_shorter_grace_period_holds_for_the_left_behind_too() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(200), ..service("web") }]);
    rig.up(0);
    rig.exit_leaving(0, Outcome::Exited(1), 1);
    assert_eq!(rig.wait(200), ["200 kill web.1#1"]);
}

#[test]
fn the_uptime_is_that_of_the_main_process() {
    let mut rig = Rig::new(vec![Service { stop: stop_within(60_000), ..service("web") }]);
    rig.up(0);
    rig.exit_leaving(0, Outcome::Exited(1), 1);
    // The left-behind hang on for longer than reset_after.
    rig.wait(40_000);
    rig.tree_gone(0);
    assert_eq!(rig.delay_ms(), Some(500), "leftovers do not make a run stable");
}

#[test]
fn left_behind_by_a_stop_get_its_signal_and_the_rest_of_its_grace() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    rig.command(Verb::Stop, 0);
    rig.wait(4_000);
    assert_eq!(rig.exit_leaving(0, Outcome::Exited(0), 2), ["SIGTERM web.1#1"]);
    assert_eq!(rig.wait(6_000), ["11000 kill web.1#1"]);
    assert_eq!(rig.state(0), StateName::Stopping);
    assert_eq!(rig.tree_gone(0), NOTHING);
    assert_eq!(rig.state(0), StateName::Stopped);
}

// ---------------------------------------------------------------- operators

#[test]
fn an_operator_is_obeyed_in_every_state() {
    use StateName::{Backoff as Waits, Completed, Exited, Failed, Running, Starting, Stopped, Stopping, Waiting};
    let states: [(&str, StateName); 10] = [
        ("never started", Stopped),
        ("waiting", Waiting),
        ("launching", Starting),
        ("starting", Starting),
        ("running", Running),
        ("backoff", Waits),
        ("failed", Failed),
        ("exited", Exited),
        ("completed", Completed),
        ("ending", Stopping),
    ];
    // The actions of start, stop and restart, and the state after each and after the end that it may ask for.
    for (name, state) in states {
        for verb in [Verb::Start, Verb::Stop, Verb::Restart] {
            let kind = match name {
                "completed" => oneshot("web"),
                "failed" => Service { give_up_after: Some(1), ..service("web") },
                "exited" => Service { restart: Restart::OnFailure, ..service("web") },
                "never started" => Service { autostart: false, ..service("web") },
                _ => service("web"),
            };
            let kind = Service { depends_on: on(1, Condition::Started), essential: false, ..kind };
            let mut rig = Rig::new(vec![kind, Service { autostart: name != "waiting", ..service("db") }, service("other")]);
            if name != "waiting" {
                rig.up(1);
            }
            if ["starting", "backoff", "failed", "exited", "completed", "ending", "running"].contains(&name) {
                rig.up(0);
            }
            match name {
                "running" => drop(rig.wait(1_000)),
                "backoff" | "failed" => drop(rig.exit(0, Outcome::Exited(1))),
                "exited" | "completed" => drop(rig.exit(0, Outcome::Exited(0))),
                "ending" => drop(rig.exit_leaving(0, Outcome::Exited(1), 1)),
                _ => {}
            }
            assert_eq!(rig.state(0), state, "{name}");
            let acted = rig.command(verb, 0);
            let case = format!("{verb:?} while {name}: {acted:?}, {:?}", rig.state(0));
            let runs = matches!(name, "launching" | "starting" | "running");
            match (verb, name) {
                (Verb::Roll | Verb::Reload | Verb::Signal { .. }, _) => panic!("{case}"),
                (Verb::Start | Verb::Restart, "waiting") => assert_eq!(rig.state(0), Waiting, "{case}"),
                (Verb::Start, _) if runs => assert_eq!(acted, NOTHING, "{case}"),
                (Verb::Stop | Verb::Restart, _) if runs => {
                    assert_eq!(acted, ["SIGTERM web.1#1"], "{case}");
                    let then = rig.exit(0, Outcome::Exited(0));
                    if verb == Verb::Stop {
                        assert_eq!((then.len(), rig.state(0)), (0, Stopped), "{case}");
                    } else {
                        assert_eq!(then, ["spawn web.1#2"], "{case}");
                    }
                }
                (Verb::Start | Verb::Restart, "ending") => {
                    assert_eq!(acted, NOTHING, "{case}");
                    assert_eq!(rig.tree_gone(0), ["spawn web.1#2"], "{case}");
                }
                (Verb::Stop, "ending") => {
                    assert_eq!(acted, NOTHING, "{case}");
                    rig.tree_gone(0);
                    assert_eq!(rig.state(0), Stopped, "{case}");
                }
                (Verb::Start | Verb::Restart, "never started") => assert_eq!(acted, ["spawn web.1#1"], "{case}"),
                (Verb::Start | Verb::Restart, _) => assert_eq!(acted, ["spawn web.1#2"], "{case}"),
                (Verb::Stop, "completed") => assert_eq!(rig.state(0), Completed, "{case}"),
                (Verb::Stop, _) => assert_eq!((acted.len(), rig.state(0)), (0, Stopped), "{case}"),
            }
        }
    }
}

#[test]
fn an_operator_s_restart_holds_against_the_policy_of_a_run_that_is_ending() {
    // It crashed, left something behind, and would not be started again: but somebody asks for it in the meantime.
    for verb in [Verb::Restart, Verb::Start] {
        let mut rig = Rig::new(vec![Service { restart: Restart::Never, ..service("web") }, optional("other")]);
        rig.up(0);
        rig.exit_leaving(0, Outcome::Exited(1), 1);
        rig.command(verb, 0);
        assert_eq!(rig.tree_gone(0), ["spawn web.1#2"]);
        assert_eq!(rig.over(), None);
    }
    // Stopped and started again while it ends: the last wish counts.
    let mut rig = Rig::new(vec![service("web")]);
    rig.settle(0);
    rig.command(Verb::Stop, 0);
    rig.command(Verb::Start, 0);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), ["spawn web.1#2"]);
    rig.command(Verb::Restart, 0);
    rig.command(Verb::Stop, 0);
    assert_eq!(rig.exit(0, Outcome::Exited(0)), NOTHING);
    assert_eq!(rig.state(0), StateName::Stopped);
}

#[test]
fn an_operator_s_start_forgets_the_failures() {
    let mut rig = Rig::new(vec![Service { give_up_after: Some(2), ..optional("web") }, service("other")]);
    for delay in [500, 0] {
        rig.exit(0, Outcome::Exited(1));
        rig.wait(delay);
    }
    assert_eq!(rig.state(0), StateName::Failed);
    rig.command(Verb::Start, 0);
    rig.exit(0, Outcome::Exited(1));
    assert_eq!((rig.state(0), rig.delay_ms()), (StateName::Backoff, Some(500)));
}

#[test]
fn a_command_about_nobody_is_harmless() {
    let mut rig = Rig::new(vec![service("web")]);
    for id in [
        InstanceId { service: ServiceId(9), number: 1 },
        InstanceId { service: ServiceId(0), number: 0 },
        InstanceId { service: ServiceId(0), number: 2 },
    ] {
        for verb in [Verb::Start, Verb::Stop, Verb::Restart] {
            assert_eq!(rig.tell(Event::Command(Command { verb, instances: vec![id] })), NOTHING);
        }
    }
}

// ---------------------------------------------------------------- readiness and liveness

#[test]
fn without_a_probe_a_run_is_ready_after_a_second() {
    let mut rig = Rig::new(vec![service("web")]);
    rig.wait(300);
    rig.up(0);
    rig.wait(999);
    assert_eq!((rig.state(0), rig.status().ready), (StateName::Starting, false));
    rig.wait(1);
    assert_eq!((rig.state(0), rig.status().ready), (StateName::Running, true));
    assert!(rig.told().contains(&"ready web.1#1 after 1.3s".to_owned()), "{:?}", rig.told());
}

#[test]
fn a_probe_decides_and_asks_eagerly_until_then() {
    let mut rig = Rig::new(vec![Service {
        ready: Readiness::Probe(Probe { initial_delay: Duration::from_millis(50), ..probe() }),
        ..service("web")
    }]);
    assert_eq!(rig.up(0), NOTHING);
    assert_eq!(rig.wait(50), ["50 ask web.1#1 Ready 1"]);
    rig.answer(0, ProbeKind::Ready, 1, false);
    assert_eq!(rig.wait(20), ["70 ask web.1#1 Ready 2"]);
    rig.answer(0, ProbeKind::Ready, 2, false);
    assert_eq!(rig.why(0).as_deref(), Some("refused"));
    assert_eq!(rig.wait(40), ["110 ask web.1#1 Ready 3"]);
    rig.answer(0, ProbeKind::Ready, 3, true);
    assert_eq!(rig.state(0), StateName::Running);
    assert_eq!(rig.wait(9_999), NOTHING);
    assert_eq!(rig.wait(1), ["10110 ask web.1#1 Ready 4"]);
}

#[test]
fn not_ready_after_failures_in_a_row_and_ready_again_after_successes_in_a_row() {
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(Probe { failures: 2, successes: 2, ..probe() }), ..service("web") }]);
    rig.up(0);
    rig.answer(0, ProbeKind::Ready, 1, true);
    rig.wait(20);
    rig.answer(0, ProbeKind::Ready, 2, true);
    let mut seen = Vec::new();
    for (number, good) in (3..).zip([false, true, false, false, true, false, true, true]) {
        assert_eq!(rig.wait(10_000).len(), 1);
        rig.answer(0, ProbeKind::Ready, number, good);
        seen.push(rig.status().ready);
    }
    assert_eq!(seen, [true, true, true, false, false, false, false, true]);
    assert_eq!(rig.state(0), StateName::Running, "not ready is no reason to restart");
    assert!(rig.status().started, "it has been ready once");
}

#[test]
fn a_run_that_is_not_ready_in_time_is_ended_and_counts_as_failed() {
    let table = [
        // Its program was never executed.
        (false, Readiness::default(), "its program was not executed"),
        // Its probe said no.
        (true, Readiness::Probe(probe()), "refused"),
    ];
    for (executes, ready, why) in table {
        let probed = ready.probe().is_some();
        let mut rig = Rig::new(vec![Service { ready, start_timeout: Duration::from_secs(2), ..service("web") }]);
        if executes {
            rig.up(0);
            rig.answer(0, ProbeKind::Ready, 1, false);
            rig.wait(20);
        }
        let left = 2_000 - rig.elapsed_ms();
        let acted = rig.wait(left);
        assert_eq!(acted.last().map(String::as_str), Some("2000 SIGTERM web.1#1"));
        assert_eq!(acted.contains(&"2000 cancel web.1#1".to_owned()), probed);
        assert!(rig.told().contains(&format!("not ready in time web.1#1 after 2s: Some({why:?})")), "{:?}", rig.told());
        rig.exit(0, Outcome::Exited(0));
        assert!(rig.told().contains(&"restarting web.1 in 500ms after 1 failures (StartTimeout)".to_owned()));
    }
}

#[test]
fn liveness_restarts_after_failures_in_a_row_even_against_on_failure() {
    let live = Some(Probe { failures: 2, ..probe() });
    let mut rig = Rig::new(vec![Service { live, restart: Restart::OnFailure, ..service("web") }]);
    assert_eq!(rig.up(0), NOTHING, "liveness is asked once it is ready");
    assert_eq!(rig.wait(1_000), ["1000 ask web.1#1 Live 1"]);
    rig.answer(0, ProbeKind::Live, 1, false);
    assert_eq!(rig.why(0).as_deref(), Some("refused"));
    assert!(rig.status().ready);
    assert_eq!(rig.wait(10_000), ["11000 ask web.1#1 Live 2"]);
    // No answer at all: lost a second after its timeout.
    assert_eq!(rig.wait(2_999), NOTHING);
    assert_eq!(rig.wait(1), ["14000 cancel web.1#1", "14000 SIGTERM web.1#1"]);
    assert!(rig.told().contains(&"not live web.1#1: the probe gave no answer".to_owned()));
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(rig.delay_ms(), Some(500), "a run that had to be ended is a failed one, whatever it says");
}

#[test]
fn news_of_dead_runs_and_answers_nobody_waits_for_are_ignored() {
    let mut rig = Rig::new(vec![Service { ready: Readiness::Probe(probe()), live: Some(probe()), ..service("web") }]);
    let first = rig.run(0);
    rig.up(0);
    rig.exit(0, Outcome::Exited(1));
    rig.wait(500);
    rig.up(0);
    let before = rig.engine.clone();
    let told = rig.notices.len();
    let future = RunId { run: 3, ..first };
    let stranger = RunId { instance: InstanceId { service: ServiceId(7), number: 1 }, run: 1 };
    for run in [first, future, stranger] {
        for event in [
            Event::Spawned { run, pid: 9 },
            Event::Executed { run },
            Event::Exited { run, outcome: Outcome::Exited(1), left_behind: 0 },
            Event::TreeGone { run },
            Event::Probed { run, kind: ProbeKind::Ready, number: 1, result: Ok(()) },
        ] {
            assert_eq!(rig.tell(event), NOTHING);
        }
    }
    // Of the present run: a number that was not asked, a probe that does not run yet, the end of a tree whose root lives.
    for (kind, number) in [(ProbeKind::Ready, 2), (ProbeKind::Ready, 0), (ProbeKind::Live, 1)] {
        rig.answer(0, kind, number, true);
    }
    rig.tree_gone(0);
    assert_eq!(rig.notices.len(), told, "{:?}", rig.told());
    assert_eq!(rig.engine.instances, before.instances);
    assert_eq!(rig.engine.phase, before.phase);
}

// ---------------------------------------------------------------- memory that has to come back

const LIMIT: u64 = 100 << 20;

impl Rig {
    /// One service, which the kernel's OOM killer has just killed after a stable run; `guarded`: the guard is on.
    fn killed_by_the_kernel(guarded: bool) -> (Self, Vec<String>) {
        let mut rig = Self::new(vec![service("web")]);
        if !guarded {
            let spec = Spec {
                services: vec![service("web")],
                stop_timeout: Duration::from_secs(8),
                drain: Duration::ZERO,
                memory: Memory { restart_above: None, ..Memory::default() },
            };
            rig.engine = Engine::new(spec, 1, rig.now);
            rig.tell(Event::Tick);
        }
        let limit = Limit { bytes: LIMIT, source: LimitSource::Configured, place: String::new(), growth_max: 4_000_000_000 };
        rig.tell(Event::Memory(MemoryEvent::Limit(Some(limit))));
        rig.hard(10);
        rig.up(0);
        for _ in 0..40 {
            rig.wait(1_000);
            rig.hard(10);
        }
        let after = rig.exit(0, Outcome::OomKilled);
        (rig, after)
    }

    /// A look shows so many percent.
    fn hard(&mut self, percent: u64) -> Vec<String> {
        self.tell(Event::Memory(MemoryEvent::Read(Some(Reading { hard: LIMIT / 100 * percent, parts: None }))))
    }
}

#[test]
fn after_an_oom_kill_the_next_run_waits_until_the_memory_is_back() {
    for guarded in [true, false] {
        let (mut rig, after) = Rig::killed_by_the_kernel(guarded);
        assert_eq!(after, ["memory Read { stat_above: 0 }"], "guarded {guarded}: it looks at once, and starts nothing");
        for _ in 0..5 {
            assert_eq!(rig.hard(95), NOTHING, "guarded {guarded}: still full");
            let looks = rig.wait(10);
            assert!(looks.iter().any(|words| words.contains("Read")), "guarded {guarded}: looks again soon: {looks:?}");
        }
        let released = rig.hard(12);
        assert!(released.iter().any(|words| words == "spawn web.1#2"), "guarded {guarded}: {released:?}");
    }
}

#[test]
fn after_an_oom_kill_the_next_run_does_not_wait_for_ever() {
    let (mut rig, _) = Rig::killed_by_the_kernel(false);
    rig.hard(99);
    let started = rig.wait(5_000);
    assert!(started.iter().any(|words| words.ends_with("spawn web.1#2")), "{started:?}");
}

impl Rig {
    /// Answers what the guard asks in these words: the one service holds all there is. Returns whether the guard ends it.
    fn look(&mut self, hard: u64, mut words: Vec<String>) -> bool {
        while !words.is_empty() {
            let asked = std::mem::take(&mut words);
            if asked.iter().any(|word| word.contains("TERM")) {
                return true;
            }
            if asked.iter().any(|word| word.contains("Read")) {
                words.extend(self.tell(Event::Memory(MemoryEvent::Read(Some(Reading { hard, parts: None })))));
            }
            if asked.iter().any(|word| word.contains("Account")) {
                let rss = Rss { anon: hard, largest: hard, processes: 1, ..Rss::default() };
                let usage = Usage { run: self.run(0), rss: Some(rss), cgroup: Some(hard), snapshot: false, top: Vec::new() };
                let accounts = Accounts { runs: vec![usage], others: Some(Rss::default()), tmpfs: Vec::new() };
                words.extend(self.tell(Event::Memory(MemoryEvent::Accounted(Box::new(accounts)))));
            }
        }
        false
    }

    /// For so many seconds it holds `percent` at first and half a percent more each second. Returns after how many tenths of a second the
    /// guard ended it, if it did.
    fn hold(&mut self, percent: u64, seconds: u64) -> Option<u64> {
        (0..seconds * 10).find(|tenth| {
            let words = self.wait(100);
            self.look(LIMIT / 10_000 * (percent * 100 + tenth * 5), words)
        })
    }
}

/// What comes back by itself is waited for the next time. What a death gave back has not come back by itself.
#[test]
fn what_a_death_gave_back_is_no_reason_for_patience() {
    let mut rig = Rig::new(vec![Service { restart: Restart::Always, ..service("web") }]);
    let limit = Limit { bytes: LIMIT, source: LimitSource::Configured, place: String::new(), growth_max: 4_000_000_000 };
    rig.tell(Event::Memory(MemoryEvent::Limit(Some(limit))));
    rig.hard(5);
    let words = rig.up(0);
    assert!(!rig.look(0, words));
    assert_eq!(rig.hold(20, 70), None);
    // Above the line for less than `confirm`; then it crashes.
    assert_eq!(rig.hold(78, 9), None);
    let words = rig.exit(0, Outcome::Exited(1));
    assert!(!rig.look(0, words));
    assert_eq!(rig.hold(5, 1), None);
    let words = rig.up(0);
    assert!(!rig.look(0, words));
    assert_eq!(rig.hold(20, 70), None);
    let ended = rig.hold(77, 30);
    assert!(ended.is_some_and(|after| (95..120).contains(&after)), "after `confirm` and no later: {ended:?}");
}

// ---------------------------------------------------------------- what people read

#[test]
fn the_three_questions_follow_the_essential_services() {
    let mut rig =
        Rig::new(vec![oneshot("migrate"), Service { depends_on: on(0, Condition::Completed), ..service("web") }, optional("extra")]);
    let flags = |rig: &Rig| {
        let status = rig.status();
        (status.ready, status.live, status.started)
    };
    assert_eq!(flags(&rig), (false, true, false));
    assert_eq!(rig.status().services[1].reason.as_deref(), Some("web.1 is waiting: for migrate to complete"));
    rig.up(0);
    rig.exit(0, Outcome::Exited(0));
    assert_eq!(flags(&rig), (false, true, false));
    rig.settle(1);
    assert_eq!(flags(&rig), (true, true, true), "whatever the others do");
    rig.exit(1, Outcome::Exited(1));
    assert_eq!(flags(&rig), (false, true, true), "a service in backoff is a readiness matter");
    assert_eq!(rig.why(1).as_deref(), Some("next run in 0.5 s after exit 1"));
    rig.wait(500);
    rig.settle(1);
    assert_eq!(flags(&rig), (true, true, true));
    rig.term();
    assert_eq!(flags(&rig), (false, true, true), "a stop that was asked for is no fault");
}

#[test]
fn an_operator_s_stop_of_an_essential_service_makes_the_stack_unready_but_not_dead() {
    let mut rig = Rig::new(vec![service("web"), service("other")]);
    rig.up(0);
    rig.settle(1);
    rig.command(Verb::Stop, 0);
    rig.exit(0, Outcome::Exited(0));
    let status = rig.status();
    assert_eq!((status.ready, status.live, status.phase), (false, true, Phase::Running));
    assert_eq!(status.services[0].instances[0].pid, None);
    assert_eq!(status.services[1].instances[0].pid, Some(101));
    assert_eq!(status.services[1].instances[0].uptime_ms, Some(1_000));
}
