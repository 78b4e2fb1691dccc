//! Random but valid files: a few services with random policies on an acyclic graph.

use std::collections::BTreeMap;
use std::time::Duration;

use firstmate::engine::Signal;
use firstmate::engine::capability::Rights;
use firstmate::engine::spec::*;

use crate::rng::Chance;

/// `voices` decides what `ready` is where it is no probe: chances of its own, so that the others stay as they were.
pub fn random(chance: &mut Chance, voices: &mut Chance) -> Spec {
    let count = 1 + chance.below(5) as usize;
    let mut services: Vec<Service> = Vec::new();
    for index in 0..count {
        let kind = if chance.percent(20) { Kind::Oneshot } else { Kind::Service };
        let mut depends_on = Vec::new();
        for (earlier, other) in services.iter().enumerate() {
            if chance.percent(35) {
                let condition = match other.kind {
                    Kind::Oneshot => chance.pick(&[Condition::Completed, Condition::Completed, Condition::Started]),
                    Kind::Service => chance.pick(&[Condition::Started, Condition::Ready]),
                };
                depends_on.push(Dependency { service: ServiceId(earlier), condition });
            }
        }
        let signals = match chance.below(4) {
            0 => vec![Signal::QUIT],
            1 => vec![Signal::TERM, Signal::INT],
            _ => vec![Signal::TERM],
        };
        services.push(Service {
            name: format!("s{index}"),
            kind,
            instances: 1 + chance.below(3) as u16 / 2,
            groups: Vec::new(),
            depends_on,
            autostart: !chance.percent(10),
            essential: chance.percent(30),
            restart: match kind {
                Kind::Oneshot => chance.pick(&[Restart::Never, Restart::Never, Restart::OnFailure]),
                Kind::Service => chance.pick(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]),
            },
            success_exit_codes: if chance.percent(20) { vec![0, 3] } else { vec![0] },
            backoff: Backoff {
                initial: Duration::from_millis(chance.pick(&[1, 50, 500])),
                factor: chance.pick(&[1.0, 1.5, 2.0]),
                max: Duration::from_millis(chance.pick(&[500, 5_000, 30_000])),
                jitter: chance.pick(&[0.0, 0.1, 1.0]),
                reset_after: Duration::from_millis(chance.pick(&[10, 2_000, 30_000])),
            },
            give_up_after: chance.pick(&[Some(1), Some(3), Some(10), None]),
            start_timeout: Duration::from_millis(chance.pick(&[400, 3_000, 60_000])),
            stop: Stop {
                signals,
                timeout: Duration::from_millis(chance.pick(&[0, 100, 3_000, 10_000])),
                scope: chance.pick(&[Scope::Main, Scope::Group]),
            },
            reload_signal: None,
            ready: if chance.percent(50) { Readiness::Probe(probe(chance)) } else { own_word(voices) },
            live: chance.percent(40).then(|| probe(chance)),
            memory: ServiceMemory::default(),
            launch: launch(),
            watch: Watch::default(),
        });
    }
    Spec {
        services,
        stop_timeout: Duration::from_millis(chance.pick(&[500, 1_000, 4_000, 8_000, 25_000])),
        drain: Duration::from_millis(chance.pick(&[0, 0, 300, 2_000, 60_000])),
        memory: Memory::default(),
    }
}

/// More instances, and some that know how to reload: what operators can wish something of.
pub fn for_wishes(spec: &mut Spec, wishes: &mut Chance) {
    for service in &mut spec.services {
        if service.kind == Kind::Service {
            service.instances += wishes.below(3) as u16;
            if wishes.percent(25) {
                service.watch.paths.push(firstmate::engine::spec::WatchPath { root: "/srv".into(), only: None });
            }
        }
        service.reload_signal = wishes.percent(50).then_some(Signal::HUP);
    }
}

fn own_word(chance: &mut Chance) -> Readiness {
    match chance.below(10) {
        0..=3 => Readiness::Delay(Duration::from_millis(chance.pick(&[0, 300, 1_000, 1_000]))),
        4..=7 => Readiness::Notify { watchdog: chance.percent(60).then(|| Duration::from_millis(chance.pick(&[50, 1_000, 30_000]))) },
        8 => Readiness::NotifyFd(3),
        _ => Readiness::Log("up".into()),
    }
}

fn probe(chance: &mut Chance) -> Probe {
    Probe {
        check: Check::Tcp { host: "127.0.0.1".into(), port: 1 },
        every: Duration::from_millis(chance.pick(&[100, 1_000, 10_000])),
        timeout: Duration::from_millis(chance.pick(&[50, 1_000])),
        failures: 1 + chance.below(3) as u32,
        successes: 1 + chance.below(2) as u32,
        initial_delay: Duration::from_millis(chance.pick(&[0, 0, 100])),
    }
}

/// With the file's defaults.
pub fn plain(name: String) -> Service {
    Service {
        name,
        kind: Kind::Service,
        instances: 1,
        groups: Vec::new(),
        depends_on: Vec::new(),
        autostart: true,
        essential: true,
        restart: Restart::Always,
        success_exit_codes: vec![0],
        backoff: Backoff::default(),
        give_up_after: Some(10),
        start_timeout: Duration::from_secs(60),
        stop: Stop { signals: vec![Signal::TERM], timeout: Duration::from_secs(10), scope: Scope::Main },
        reload_signal: None,
        ready: Readiness::default(),
        live: None,
        memory: ServiceMemory::default(),
        launch: launch(),
        watch: Watch::default(),
    }
}

fn launch() -> Launch {
    Launch {
        command: Command::Argv(vec!["actor".into()]),
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
    }
}
