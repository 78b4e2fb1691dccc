//! What a step costs in a stack far larger than any container's: PID 1 decides everything on its one thread.

use std::time::{Duration, Instant};

use firstmate::engine::spec::{Condition, Dependency, Memory, ServiceId};
use firstmate::engine::{Engine, Event, InstanceId, Outcome, RunId, ShutdownCause, Spec, Timestamp};

use crate::stacks;

/// `layers` of `width` services; each needs all of the layer before.
fn layered(layers: usize, width: usize) -> Spec {
    let mut services = Vec::new();
    for layer in 0..layers {
        for column in 0..width {
            let mut service = stacks::plain(format!("s{layer}-{column}"));
            if let Some(before) = layer.checked_sub(1) {
                service.depends_on = (0..width)
                    .map(|other| Dependency { service: ServiceId(before * width + other), condition: Condition::Started })
                    .collect();
            }
            services.push(service);
        }
    }
    Spec { services, stop_timeout: Duration::from_secs(8), drain: Duration::ZERO, memory: Memory::default() }
}

/// Starts everything, lets it become ready, crashes each once, stops everything. Returns the steps taken and the time they took.
fn life(spec: Spec) -> (u32, Duration) {
    let mut now = Timestamp::from_nanos(1);
    let mut engine = Engine::new(spec, 1, now);
    let ids: Vec<InstanceId> = engine.instance_ids().collect();
    let mut out = Vec::new();
    let began = Instant::now();
    let mut steps = 0;
    let mut step = |engine: &mut Engine, now: Timestamp, event: Event| {
        out.clear();
        engine.step(now, event, &mut out);
        std::hint::black_box(engine.next_deadline());
        steps += 1;
    };
    step(&mut engine, now, Event::Tick);
    for &instance in &ids {
        let run = RunId { instance, run: 1 };
        step(&mut engine, now, Event::Spawned { run, pid: 7 });
        step(&mut engine, now, Event::Executed { run });
    }
    now = now.after(Duration::from_secs(40));
    step(&mut engine, now, Event::Tick);
    for &instance in &ids {
        step(&mut engine, now, Event::Exited { run: RunId { instance, run: 1 }, outcome: Outcome::Exited(1), left_behind: 0 });
        step(&mut engine, now, Event::Executed { run: RunId { instance, run: 2 } });
    }
    step(&mut engine, now, Event::Shutdown(ShutdownCause::Command));
    for &instance in ids.iter().rev() {
        step(&mut engine, now, Event::Exited { run: RunId { instance, run: 2 }, outcome: Outcome::Exited(0), left_behind: 0 });
    }
    let took = began.elapsed();
    assert!(engine.next_deadline().is_none(), "everything has ended");
    (steps, took)
}

#[test]
fn a_step_is_cheap_in_a_large_stack() {
    for (layers, width) in [(1, 200), (1, 1_000), (4, 50), (10, 30)] {
        let (steps, took) = life(layered(layers, width));
        let each = took / steps;
        println!("{layers} layers of {width}: {steps} steps, {:.1} us each", each.as_secs_f64() * 1e6);
        assert!(each < Duration::from_millis(20), "{layers} layers of {width}: {each:?} for a step");
    }
}

#[test]
fn paths_through_the_dependencies_are_not_walked_one_by_one() {
    // 8^12 paths: one walk of them all would outlast the container.
    let (_, took) = life(layered(12, 8));
    assert!(took < Duration::from_secs(20), "{took:?}");
}
