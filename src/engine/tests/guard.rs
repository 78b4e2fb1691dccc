//! The memory guard on rules of its own, with several services whose sizes are exactly known.

use super::*;
use crate::engine::spec::Amount;

const MIB: u64 = 1 << 20;

/// A limit of so many MiB.
fn limit(mib: u64) -> Event {
    let limit = Limit { bytes: mib * MIB, source: LimitSource::Configured, place: String::new(), growth_max: 4_000_000_000 };
    Event::Memory(MemoryEvent::Limit(Some(limit)))
}

fn with_own_line(name: &str, mib: u64) -> Service {
    Service { memory: ServiceMemory { restart_above: Some(Amount::Bytes(mib * MIB)), ..ServiceMemory::default() }, ..service(name) }
}

impl Rig {
    /// Everybody is up, 1,000 MiB is the limit, and all have been there for a minute.
    fn at_rest(services: Vec<Service>, holds: impl Fn(InstanceId) -> u64) -> Self {
        let mut rig = Self::new(services);
        rig.hear(limit(1_000), &holds);
        rig.begin_all(&holds);
        for _ in 0..600 {
            assert_eq!(rig.tenth(&holds), NOTHING);
        }
        rig.notices.clear();
        rig
    }

    /// The program of every run that was spawned runs.
    fn begin_all(&mut self, holds: &impl Fn(InstanceId) -> u64) {
        for id in self.engine.instance_ids().collect::<Vec<_>>() {
            if let Some(run) = self.engine.current_run(id) {
                self.hear(Event::Spawned { run, pid: 1 }, holds);
                self.hear(Event::Executed { run }, holds);
            }
        }
    }

    /// News, and what the guard makes of it.
    fn hear(&mut self, event: Event, holds: &impl Fn(InstanceId) -> u64) -> Vec<String> {
        let asked = self.tell(event);
        self.answer_guard(asked, holds)
    }

    /// A tenth of a second.
    fn tenth(&mut self, holds: &impl Fn(InstanceId) -> u64) -> Vec<String> {
        let asked = self.wait(100);
        self.answer_guard(asked, holds)
    }

    /// The guard gets every answer at once: each instance holds so many MiB. Returns what is done to runs.
    fn answer_guard(&mut self, mut asked: Vec<String>, holds: &impl Fn(InstanceId) -> u64) -> Vec<String> {
        let mut acts = Vec::new();
        while !asked.is_empty() {
            let mut next = Vec::new();
            for words in asked {
                let usages: Vec<Usage> = self
                    .engine
                    .instance_ids()
                    .filter_map(|id| {
                        let rss = Rss { anon: holds(id) * MIB, largest: holds(id) * MIB, processes: 1, ..Rss::default() };
                        let run = self.engine.current_run(id)?;
                        Some(Usage { run, rss: Some(rss), cgroup: Some(rss.anon), snapshot: false, top: Vec::new() })
                    })
                    .collect();
                if words.contains("memory Read") {
                    let hard = usages.iter().filter_map(|usage| usage.cgroup).sum();
                    next.extend(self.tell(Event::Memory(MemoryEvent::Read(Some(Reading { hard, parts: None })))));
                } else if words.contains("memory Account") {
                    let accounts = Accounts { runs: usages, others: Some(Rss::default()), tmpfs: Vec::new() };
                    next.extend(self.tell(Event::Memory(MemoryEvent::Accounted(Box::new(accounts)))));
                } else if ["SIGTERM", "kill ", "spawn "].iter().any(|act| words.contains(act)) {
                    acts.push(
                        words.split_once(' ').filter(|(ms, _)| ms.parse::<u64>().is_ok()).map_or(words.clone(), |(_, act)| act.to_owned()),
                    );
                }
            }
            asked = next;
        }
        acts
    }

    /// The first thing done to a run within so many seconds, and when, in tenths of a second; `holds` also gets the tenths that have passed.
    fn until_act(&mut self, seconds: u64, holds: impl Fn(u64, InstanceId) -> u64) -> Option<(u64, String)> {
        (0..seconds * 10).find_map(|tenth| Some((tenth, self.tenth(&|id| holds(tenth, id)).into_iter().next()?)))
    }
}

/// What is above the line when the limit changes, or when one look failed, is above it all the same.
#[test]
fn above_the_line_is_known_anew_after_a_change_of_the_limit_and_after_a_failed_look() {
    for news in [limit(990), Event::Memory(MemoryEvent::Read(None))] {
        let mut rig = Rig::at_rest(vec![service("web")], |_| 500);
        // Quickly to 780, and there it creeps on, a leak that would take half an hour to the hard line.
        assert_eq!(rig.until_act(1, |tenth, _| 600 + 18 * tenth), None);
        assert_eq!(rig.until_act(3, |_, _| 780), None);
        rig.hear(news.clone(), &|_| 780);
        let acted = rig.until_act(110, |tenth, _| 780 + tenth / 50);
        assert!(acted.as_ref().is_some_and(|(_, act)| act == "SIGTERM web.1#1"), "{news:?}: {acted:?}");
    }
}

/// That nobody could help is told again when the operator did what was said, and it came to that again.
#[test]
fn the_warning_that_nobody_can_help_is_told_for_each_limit() {
    let never = Service { memory: ServiceMemory { victim: Victim::Never, ..ServiceMemory::default() }, ..service("web") };
    let mut rig = Rig::at_rest(vec![never], |_| 500);
    let warnings = |rig: &Rig| rig.told().iter().filter(|text| text.starts_with("memory Helpless")).count();
    assert_eq!(rig.until_act(20, |tenth, _| (500 + 10 * tenth).min(940)), None);
    assert_eq!(warnings(&rig), 1);
    rig.hear(limit(1_010), &|_| 940);
    assert_eq!(rig.until_act(20, |_, _| 940), None);
    assert_eq!(warnings(&rig), 2, "{:?}", rig.told());
}

/// Each line of a service's own is judged by itself.
#[test]
fn one_that_has_settled_above_its_own_line_does_not_shield_the_others() {
    let mut rig = Rig::at_rest(vec![with_own_line("cache", 100), with_own_line("worker", 100)], |_| 50);
    let cache = |id: InstanceId| id.service.0 == 0;
    // The cache needs 120, restart or not.
    let first = rig.until_act(100, |_, id| if cache(id) { 120 } else { 50 });
    assert_eq!(first.map(|(_, act)| act).as_deref(), Some("SIGTERM cache.1#1"));
    let run = rig.run(0);
    let settled = |id: InstanceId| if cache(id) { 120 } else { 50 };
    assert_eq!(rig.hear(Event::Exited { run, outcome: Outcome::Exited(0), left_behind: 0 }, &settled), ["spawn cache.1#2"]);
    rig.begin_all(&settled);
    assert_eq!(rig.until_act(200, |_, id| if cache(id) { 120 } else { 50 }), None);
    assert_eq!(rig.told().iter().filter(|text| text.starts_with("memory Plateau")).count(), 1, "{:?}", rig.told());
    // And now the worker leaks.
    let second = rig.until_act(100, |tenth, id| if cache(id) { 120 } else { 50 + tenth / 2 });
    assert_eq!(second.map(|(_, act)| act).as_deref(), Some("SIGTERM worker.1#1"));
}

/// As promised: one instance at a time, and the next only when the one before is ready again.
#[test]
fn a_service_loses_one_instance_at_a_time() {
    let worker = Service { instances: 2, ..with_own_line("worker", 100) };
    let mut rig = Rig::at_rest(vec![worker], |_| 50);
    let (first, act) = rig.until_act(100, |tenth, _| 50 + tenth).expect("both leak");
    let leaker = rig.engine.instance_ids().find(|id| act == format!("SIGTERM {}#1", rig.engine.instance_name(*id))).unwrap();
    // It leaves; the other leaks on, and is waited with.
    assert_eq!(rig.until_act(2, |tenth, _| 50 + first + tenth), None);
    let run = rig.engine.current_run(leaker).unwrap();
    let holds = |id: InstanceId| if id == leaker { 50 } else { 60 + first };
    let begun = rig.hear(Event::Exited { run, outcome: Outcome::Exited(0), left_behind: 0 }, &holds);
    assert!(begun.len() == 1 && begun[0].starts_with("spawn worker."), "{begun:?}");
    rig.begin_all(&holds);
    // Not ready yet: that takes a second.
    for _ in 0..9 {
        assert_eq!(rig.tenth(&holds), NOTHING);
    }
    let second = rig.until_act(20, |tenth, id| if id == leaker { 50 } else { 60 + first + tenth });
    assert!(second.is_some_and(|(_, act)| act.starts_with("SIGTERM worker.")));
}

/// A grace period of ten minutes for a line of its own does not keep the guard from the rest of the container.
#[test]
fn who_leaves_for_its_own_line_does_not_shield_a_leak() {
    let patient = Service {
        stop: Stop { signals: vec![Signal::TERM], timeout: Duration::from_secs(600), scope: Scope::Main },
        ..with_own_line("queue", 300)
    };
    let mut rig = Rig::at_rest(vec![patient, service("web")], |_| 100);
    let queue = |id: InstanceId| id.service.0 == 0;
    let first = rig.until_act(100, |_, id| if queue(id) { 310 } else { 100 });
    assert_eq!(first.map(|(_, act)| act).as_deref(), Some("SIGTERM queue.1#1"));
    let second = rig.until_act(60, |tenth, id| if queue(id) { 310 } else { 100 + 2 * tenth });
    assert_eq!(second.map(|(_, act)| act).as_deref(), Some("SIGTERM web.1#1"));
    assert!(!rig.told().iter().any(|text| text.starts_with("memory GraceOver")), "{:?}", rig.told());
}

/// As the manual has it: one above the container's own line never applies, however long the container's takes.
#[test]
fn a_line_of_its_own_above_the_containers_does_not_apply() {
    let mut rig = Rig::at_rest(vec![with_own_line("web", 800)], |_| 500);
    let shown = rig.status().services[0].instances[0].memory.as_ref().and_then(|memory| memory.restart_above_bytes);
    assert_eq!(shown, Some(750 * MIB), "the container's: {:#?}", rig.status());
    let mut control = Rig::at_rest(vec![service("web")], |_| 500);
    let slowly = |tenth: u64, _: InstanceId| 500 + tenth / 2;
    assert_eq!(rig.until_act(200, slowly), control.until_act(200, slowly));
}
