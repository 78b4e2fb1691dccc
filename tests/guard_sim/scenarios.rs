//! The cases that have a name: those the first policy was tried on, and those the guard has to hold.

use crate::case::{Case, Nature, Program, Snapshots};
use crate::chance::Chance;
use crate::course::{Course, MB, MIB};

/// "Flat out" of one thread and of two.
pub const FLAT_OUT: f64 = 2_000.0;
pub const FLAT_OUT_TWO: f64 = 3_000.0;

/// How a leaker takes its stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Ends within 50 ms.
    Quick,
    /// Takes a second, and goes on growing.
    Slow,
    /// Ignores it, and goes on growing.
    Deaf,
}

/// A web server that holds a tenth of the limit, and one that leaks at `rate` MB/s after `quiet` seconds.
pub fn leak(rate: f64, limit_mib: f64, manners: Manners, quiet: f64, confirm: f64, seed: u64) -> Case {
    let mut chance = Chance::new(seed ^ 0xBEEF);
    let case = Case::new(format!("leak of {rate} MB/s in {limit_mib} MiB, {manners:?}, after {quiet} s"), seed, limit_mib, 0.0);
    let first = case.share(chance.between(3.0, 12.0));
    let course = Course::after(0.02 + quiet * chance.between(0.8, 1.2), Course::leak(rate * MB));
    let obeys = match manners {
        Manners::Quick => Some(0.05),
        Manners::Slow => Some(1.0),
        Manners::Deaf => None,
    };
    let leaker = Program::new("leaker", first).leaks(course).obeys(obeys);
    let web = Program::new("web", case.share(10.0)).heap(Course::Wobble { at: case.share(10.0), by: case.share(1.0), every: 3.0 });
    // Long enough to fill it once and a little more, and to see the next run begin.
    let fill = case.limit * 0.8 / (rate * MB);
    let secs = quiet * 1.2 + fill.max(0.2) * 1.4 + confirm + 15.0;
    Case { secs, ..case }.with(leaker).with(web).confirm(confirm)
}

/// One service of a 1 GiB container that does that.
fn alone(name: &str, seed: u64, secs: f64, first: f64, heap: Course, nature: Nature) -> Case {
    let case = Case::new(name, seed, 1_024.0, secs);
    let first = case.share(first);
    let program = Program { nature, ..Program::new("service", first).heap(heap) };
    case.with(program)
}

const L: f64 = 1_024.0 * MIB;

fn share(percent: f64) -> f64 {
    L * percent / 100.0
}

fn redis(first: f64, snapshots: Snapshots) -> Program {
    Program { snapshots: Some(snapshots), obeys: Some(0.3), grows_meanwhile: false, ..Program::new("redis", first) }
}

/// The scenarios of the first policy, with the same names. Each is played with several seeds.
pub fn published(seed: u64) -> Vec<Case> {
    let snapshots = |writes: f64| Snapshots { every: 60.0, lasts: 30.0, writes };
    let bgsave = |name: &str, writes: f64| {
        let case = Case::new(name, seed, 1_024.0, 1_800.0);
        case.with(redis(544.0 * MIB, snapshots(writes))).with(Program::new("web", 20.0 * MIB))
    };
    vec![
        alone("leak 0.5 MB/s, 1 h", seed, 3_600.0, 10.0, Course::leak(0.5 * MB), Nature::Leaks),
        alone("leak 50 MB/s, 2 min", seed, 120.0, 10.0, Course::leak(50.0 * MB), Nature::Leaks),
        alone("leak 1 GB/s", seed, 120.0, 10.0, Course::after(1.0, Course::leak(1_000.0 * MB)), Nature::Leaks),
        alone("leak 3 GB/s", seed, 120.0, 10.0, Course::after(1.0, Course::leak(3_000.0 * MB)), Nature::Leaks),
        alone("quiet 60 s then 2 GB/s", seed, 125.0, 30.0, Course::after(60.0, Course::leak(2_000.0 * MB)), Nature::Leaks),
        bgsave("BGSAVE idle, 30 min", 0.0),
        bgsave("BGSAVE +310 MB CoW (84 % for 30 s/min)", 310.0 * MIB / 36.0),
        bgsave("BGSAVE +600 MB CoW (would OOM)", 20.0 * MB),
        alone(
            "GC sawtooth 40-80 %, 20 s",
            seed,
            3_600.0,
            10.0,
            Course::Saw { low: share(40.0), high: share(80.0), period: 20.0, noise: 0.05 },
            Nature::Harmless,
        ),
        alone(
            "plateau at 78 % (JVM), 1 h",
            seed,
            3_600.0,
            10.0,
            Course::to(share(78.0), 40.0, Course::Wobble { at: share(77.5), by: share(0.5), every: 5.0 }),
            Nature::Settles,
        ),
        alone(
            "spike to 85 % for 3 s each minute",
            seed,
            3_600.0,
            30.0,
            Course::Spikes { base: share(30.0), peak: share(84.0), ramp: 0.5, hold: 3.0, every: 60.0 },
            Nature::Harmless,
        ),
    ]
}

/// Nothing in these may be acted on, for hours.
pub fn harmless(seed: u64) -> Vec<Case> {
    let mut chance = Chance::new(seed ^ 0x00C0_FFEE);
    let mut cases = Vec::new();
    let hours = 3_600.0 * 2.0;
    for (ramp, name) in [(0.02, "20 ms"), (0.1, "100 ms"), (1.0, "1 s")] {
        // By half of 128 MiB within 20 ms is as fast as a leak of two threads, and cannot be told from one: docs/design/guard-simulation.md.
        let smallest = if ramp < 0.1 { 256.0 } else { 128.0 };
        for limit_mib in [smallest, 512.0, 2_048.0] {
            let case = Case::new(format!("spikes of 3 s to 88 %, within {name}, {limit_mib} MiB"), seed, limit_mib, 900.0);
            // firstmate and the kernel hold something, too.
            let (base, peak) = (case.share(chance.between(20.0, 60.0)), case.share(chance.between(80.0, 87.5)) - 6.0 * MIB);
            let spikes = Course::Spikes { base, peak, ramp, hold: 3.0, every: chance.between(20.0, 120.0) };
            cases.push(case.with(Program::new("bursty", base).heap(spikes)));
        }
    }
    for period in [5.0, 20.0, 90.0, 300.0, 600.0, 1_200.0] {
        for limit_mib in [256.0, 1_024.0] {
            let case = Case::new(format!("garbage collector, 40 to 80 % in {period} s, {limit_mib} MiB"), seed, limit_mib, hours);
            let own = case.share(5.0);
            let saw = Course::Saw { low: case.share(40.0) - own, high: case.share(80.0) - own, period, noise: chance.between(0.0, 0.08) };
            cases.push(case.with(Program::new("java", own).heap(saw)).with(Program::new("web", own * 0.5)));
        }
    }
    for (low, high, period) in [(72.0, 78.0, 20.0), (70.5, 80.0, 120.0)] {
        let case = Case::new(format!("hovers about the line, {low} to {high} % in {period} s"), seed, 512.0, hours);
        let saw = Course::Saw { low: case.share(low) - 7.0 * MIB, high: case.share(high) - 7.0 * MIB, period, noise: 0.01 };
        cases.push(case.with(Program::new("java", 40.0 * MIB).heap(saw)));
    }
    for (name, writes, limit_mib) in [("idle", 0.0, 768.0), ("with writes", 6.0, 1_024.0)] {
        let case = Case::new(format!("BGSAVE of 544 MiB in {limit_mib} MiB, {name}"), seed, limit_mib, hours);
        cases.push(case.with(redis(544.0 * MIB, Snapshots { every: 60.0, lasts: 40.0, writes: writes * MB })));
    }
    let case = Case::new("BGSAVE of a Redis that holds 70 %", seed, 2_048.0, hours);
    let first = case.share(70.0);
    cases.push(case.with(redis(first, Snapshots { every: 300.0, lasts: 60.0, writes: 3.0 * MB })).with(Program::new("web", 20.0 * MIB)));
    let case = Case::new("page cache fills the limit", seed, 256.0, hours);
    let first = case.share(30.0);
    let cache = (0.0, Course::to(case.limit * 2.0, 20.0, Course::Still));
    cases.push(Case { cache, ..case }.with(Program::new("web", first)));
    let case = Case::new("given back by MADV_FREE", seed, 256.0, hours);
    let lazy = Course::Spikes { base: 0.0, peak: case.share(78.0), ramp: 1.0, hold: 60.0, every: 90.0 };
    cases.push(case.with(Program { lazy, ..Program::new("allocator", 8.0 * MIB) }));
    let case = Case::new("prefork: RSS far above the limit", seed, 512.0, hours);
    let pool = Program {
        workers: 60,
        shared: case.share(5.0),
        worker: Course::to(case.share(8.0), 30.0, Course::Wobble { at: case.share(8.0), by: case.share(2.0), every: 5.0 }),
        ..Program::new("php-fpm", 10.0 * MIB)
    };
    cases.push(case.with(pool).with(Program::new("nginx", 12.0 * MIB)));
    cases
}

/// 80 % of the limit in a tmpfs file of a process that is gone.
pub fn dead_tmpfs(seed: u64) -> Case {
    dead_tmpfs_of(seed, 73.0)
}

/// So much of the limit is in a tmpfs whose writer is gone.
pub fn dead_tmpfs_of(seed: u64, percent: f64) -> Case {
    dead_tmpfs_from(seed, percent, 30.0)
}

/// The same, filled within 5 s from then on; from 0, it was full before the services began.
pub fn dead_tmpfs_from(seed: u64, percent: f64, after: f64) -> Case {
    let case = Case::new(format!("tmpfs filled to {percent} % after {after} s by a process that is gone"), seed, 256.0, 3_600.0);
    let size = case.share(percent);
    let dead_tmpfs = if after > 0.0 { (0.0, Course::after(after, Course::to(size, 5.0, Course::Still))) } else { (size, Course::Still) };
    Case { dead_tmpfs, ..case }.with(Program::new("web", 12.0 * MIB)).with(Program::new("worker", 8.0 * MIB))
}

/// The plateau of a service that holds 78 % and no more.
pub fn plateau(seed: u64, percent: f64, within: f64, limit_mib: f64, secs: f64) -> Case {
    let case = Case::new(format!("plateau at {percent:.0} % within {within:.0} s in {limit_mib} MiB"), seed, limit_mib, secs);
    let own = case.share(percent) - 8.0 * MIB - case.share(3.0);
    let noise = case.share(0.4);
    let heap = Course::to(own, within, Course::Wobble { at: own, by: noise, every: 10.0 });
    let java =
        Program { nature: Nature::Settles, obeys: Some(0.5), grows_meanwhile: false, ..Program::new("java", case.share(5.0)).heap(heap) };
    let web = case.share(3.0);
    case.with(java).with(Program::new("web", web))
}

/// Several services, of which one leaks: who is chosen? Without the leak they stay below 72 % of the limit.
pub fn among_others(seed: u64) -> Case {
    let mut chance = Chance::new(seed ^ 0x0007_7000);
    let limit_mib = chance.pick(&[256.0, 512.0, 1_024.0, 4_096.0]);
    let rate = chance.scale(0.3, 400.0);
    let case = Case::new(format!("leak of {rate:.1} MB/s among others in {limit_mib} MiB"), seed, limit_mib, 0.0);
    let at = |percent: f64| case.share(percent);
    let mut programs = Vec::new();
    // In percent: what they hold at the most.
    let mut held = 100.0 * 12.0 * MIB / case.limit;
    let java = chance.between(8.0, 14.0);
    held += java;
    let saw = Course::Saw { low: at(5.0), high: at(java), period: chance.scale(5.0, 300.0), noise: 0.1 };
    programs.push(Program::new("java", at(5.0)).heap(saw));
    if chance.percent(50) {
        let shared = chance.between(1.0, 6.0);
        held += shared + 6.0;
        let worker = Course::Wobble { at: at(4.0), by: at(1.0), every: 3.0 };
        programs.push(Program { workers: 20, shared: at(shared), worker, ..Program::new("php-fpm", at(1.0)) });
    }
    if chance.percent(50) {
        let first = chance.between(5.0, 12.0);
        held += first * 1.6;
        programs.push(redis(at(first), Snapshots { every: 120.0, lasts: 20.0, writes: at(first) / 40.0 }));
    }
    let leaker = Program::new("leaker", at(2.0)).obeys(Some(chance.scale(0.02, 2.0)));
    let instances = chance.pick(&[1, 1, 2, 4]);
    let many = f64::from(instances);
    let course = match chance.below(3) {
        0 => Course::leak(rate * MB / many),
        1 => Course::Leak { rate: rate * MB / many, uneven: 0.8 },
        _ => Course::Steps { bytes: at(0.5), every: at(0.5) / (rate * MB) * many },
    };
    let course = Course::after(chance.scale(1.0, 300.0), course);
    held += 2.5 * many;
    let leaker = if chance.percent(25) {
        // A leaking worker of a prefork server.
        held += 3.5 * many;
        Program { workers: 8, shared: at(3.0), bad_worker: Some(course), instances, nature: Nature::Leaks, ..leaker }
    } else {
        Program { instances, ..leaker.leaks(course) }
    };
    programs.push(leaker);
    let largest = at(chance.between(15.0, 40.0).min(70.0 - held));
    programs.push(Program::new("largest", largest).heap(Course::Wobble { at: largest, by: largest * 0.02, every: 4.0 }));
    let secs = (case.limit / (rate * MB) * 2.0).clamp(60.0, 7_200.0) + 330.0;
    let mut case = Case { secs, ..case };
    // The order of the file means nothing.
    while !programs.is_empty() {
        let index = chance.below(programs.len() as u64) as usize;
        case.programs.push(programs.swap_remove(index));
    }
    case
}
