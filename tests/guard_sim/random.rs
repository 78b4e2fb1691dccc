//! Random traces, by kind.

use crate::case::{Case, Clock, Nature, Program, Snapshots};
use crate::chance::Chance;
use crate::course::{Course, MB, MIB};
use crate::scenarios;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Leak,
    /// Quiet, and then more than there is.
    Burst,
    Snapshot,
    /// Of a few seconds, to less than 90 %.
    Spikes,
    /// Below 74 %.
    Steady,
    /// Slow ones that turn below 88 %.
    Sawtooth,
    /// At 76 to 90 %.
    Plateau,
    /// A leaker among others.
    Several,
    /// Anything beside anything, up to three of them leaking; below 72 % without those.
    Mixed,
}

impl Kind {
    pub const ALL: [Self; 9] =
        [Self::Leak, Self::Burst, Self::Snapshot, Self::Spikes, Self::Steady, Self::Sawtooth, Self::Plateau, Self::Several, Self::Mixed];
}

pub fn case(kind: Kind, seed: u64) -> Case {
    let mut chance = Chance::new(seed.wrapping_mul(31).wrapping_add(kind as u64));
    let limit_mib = chance.scale(128.0, 4_096.0).round();
    let case = Case::new(format!("{kind:?}"), seed, limit_mib, 1_800.0);
    let mut case = Case { cpus: chance.pick(&[1, 2, 4, 8, 16, 64]), ..case };
    if chance.percent(10) && matches!(kind, Kind::Leak | Kind::Several | Kind::Steady) {
        case.clock = Clock::Busy { worst: chance.between(0.01, 0.05), share: 0.4 };
    }
    let idle = case.share(chance.between(1.0, 8.0));
    let at = |percent: f64| case.share(percent);
    // firstmate, the kernel, and what the counters are too high by.
    let unseen = 7.0 * MIB + 0.13 * MIB * f64::from(case.cpus) + at(0.5);
    let obeys = if chance.percent(20) { None } else { Some(chance.scale(0.01, 3.0)) };
    let program = Program::new("service", at(chance.between(2.0, 10.0))).obeys(obeys);
    let beside = Program::new("beside", idle).heap(Course::Wobble { at: idle, by: idle * 0.1, every: 5.0 });
    match kind {
        Kind::Leak => {
            // Not faster than what is called flat out, and filling it within the half hour.
            let rate = chance.scale((case.limit / 1_200.0).max(0.05 * MB), 2_500.0 * MB);
            let course = match chance.below(5) {
                0 => Course::Accelerating { rate: rate / 50.0, doubles: chance.scale(2.0, 60.0) },
                1 => Course::Steps { bytes: at(chance.scale(0.1, 3.0)), every: at(1.0) / rate },
                2 => Course::Leak { rate, uneven: chance.between(0.2, 1.5) },
                _ => Course::leak(rate),
            };
            let quiet = if chance.percent(40) { chance.scale(1.0, 600.0) } else { 0.05 };
            case.with(program.leaks(Course::after(quiet, course))).with(beside)
        }
        Kind::Burst => {
            let rate = chance.scale(20.0, 3_000.0) * MB;
            let course = Course::to(
                at(chance.between(10.0, 60.0)),
                chance.scale(1.0, 60.0),
                Course::after(chance.scale(30.0, 900.0), Course::leak(rate)),
            );
            case.with(program.leaks(course)).with(beside)
        }
        Kind::Snapshot => {
            let held = chance.between(30.0, 72.0);
            let room = (88.0 - held).min(held);
            let lasts = chance.scale(2.0, 120.0);
            let every = lasts * chance.between(1.5, 6.0);
            let copied = if chance.percent(30) { 0.0 } else { at(chance.between(0.0, room - 8.0).max(0.0)) };
            let snapshots = Snapshots { every, lasts, writes: copied / (lasts * 1.2) };
            let size = at(held) - idle - unseen;
            let redis = Program {
                snapshots: Some(snapshots),
                grows_meanwhile: false,
                ..program.heap(Course::to(size, chance.scale(0.5, 30.0), Course::Still))
            };
            case.with(redis).with(beside)
        }
        Kind::Spikes => {
            let base = at(chance.between(10.0, 60.0));
            let peak = at(chance.between(76.0, 89.0)) - idle * 1.1 - unseen;
            let hold = chance.scale(0.2, 6.0);
            let every = chance.scale(10.0, 300.0) + hold;
            let course = Course::Spikes { base, peak: peak.max(base), ramp: chance.scale(0.02, 1.0), hold, every };
            case.with(program.heap(Course::to(base, chance.scale(0.1, 10.0), course))).with(beside)
        }
        Kind::Steady => {
            let level = at(chance.between(30.0, 73.0)) - idle * 1.1 - unseen;
            let by = level * chance.between(0.0, 0.02);
            let within = chance.scale(0.1, 600.0);
            let course = Course::to(level - by, within, Course::Wobble { at: level - by, by, every: chance.scale(0.1, 60.0) });
            case.with(program.heap(course)).with(beside)
        }
        Kind::Sawtooth => {
            let high = at(chance.between(76.0, 88.0)) - idle * 1.1 - unseen;
            let low = high * chance.between(0.2, 0.85);
            let period = chance.scale(5.0, 1_200.0);
            let course = Course::Saw { low, high, period, noise: chance.between(0.0, 0.1) };
            Case { secs: 3_600.0, ..case.with(program.heap(course)).with(beside) }
        }
        Kind::Plateau => {
            let level = at(chance.between(76.0, 90.0)) - idle - unseen;
            let noise = at(chance.between(0.0, 0.8));
            let course =
                Course::to(level, chance.scale(2.0, 1_200.0), Course::Wobble { at: level, by: noise, every: chance.scale(0.5, 60.0) });
            let java = Program { nature: Nature::Settles, grows_meanwhile: chance.percent(50), ..program.heap(course) };
            case.with(java).with(beside)
        }
        Kind::Several => scenarios::among_others(seed),
        Kind::Mixed => mixed(case, chance, unseen),
    }
}

const NAMES: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

/// Two to six services, each of its own kind.
fn mixed(case: Case, mut chance: Chance, unseen: f64) -> Case {
    let count = 2 + chance.below(5) as usize;
    let leakers = chance.below(4).min(count as u64) as usize;
    // What the harmless hold at their highest, all together, and what the leakers begin with.
    let weights: Vec<f64> = (0..count).map(|_| chance.between(0.3, 3.0)).collect();
    let all: f64 = weights.iter().sum();
    let budget = case.share(72.0) - unseen;
    let mut case = Case { secs: 2_400.0, clock: Clock::Idle, ..case };
    for (index, weight) in weights.iter().enumerate() {
        let peak = budget * weight / all;
        let program = Program::new(NAMES[index], peak * 0.1).obeys(Some(chance.scale(0.02, 2.0)));
        // The leakers come first in the file or last.
        let leaks = if chance.percent(50) { index < leakers } else { index + leakers >= count };
        let program = if leaks {
            let rate = chance.scale((case.limit / 1_500.0).max(0.1 * MB), 2_000.0 * MB);
            let course = match chance.below(4) {
                0 => Course::Steps { bytes: case.share(chance.scale(0.1, 1.0)), every: case.share(0.4) / rate },
                1 => Course::Leak { rate, uneven: chance.between(0.2, 1.2) },
                2 => Course::Accelerating { rate: rate / 20.0, doubles: chance.scale(5.0, 60.0) },
                _ => Course::leak(rate),
            };
            program.leaks(Course::to(peak * 0.5, chance.scale(0.5, 20.0), Course::after(chance.scale(1.0, 600.0), course)))
        } else {
            match chance.below(5) {
                0 => program.heap(Course::Saw {
                    low: peak * chance.between(0.2, 0.8),
                    high: peak,
                    period: chance.scale(3.0, 600.0),
                    noise: 0.1,
                }),
                1 => {
                    let spikes = Course::Spikes { base: peak * 0.4, peak, ramp: 0.2, hold: 3.0, every: chance.scale(10.0, 200.0) };
                    program.heap(Course::to(peak * 0.4, 1.0, spikes))
                }
                2 => {
                    let size = peak / 1.6;
                    let snapshots = Snapshots { every: chance.scale(30.0, 600.0), lasts: 15.0, writes: 0.5 * size / 18.0 };
                    Program { snapshots: Some(snapshots), grows_meanwhile: false, ..program.heap(Course::to(size, 5.0, Course::Still)) }
                }
                3 => {
                    let shared = peak * 0.3;
                    let own = peak * 0.5;
                    let worker = Course::to(own, chance.scale(1.0, 120.0), Course::Wobble { at: own, by: peak * 0.08, every: 4.0 });
                    Program { workers: 4 + chance.below(20) as u32, shared, worker, ..program }
                }
                _ => program.heap(Course::to(
                    peak * 0.95,
                    chance.scale(0.2, 300.0),
                    Course::Wobble { at: peak * 0.95, by: peak * 0.05, every: 5.0 },
                )),
            }
        };
        case = case.with(program);
    }
    case
}
