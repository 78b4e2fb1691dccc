//! How an amount of memory changes: straight lines, one after the other, so that the moment a limit is met can be computed, not searched for.

use crate::chance::Chance;

pub const MIB: f64 = 1_048_576.0;
/// Bytes in the "MB/s" of rates.
pub const MB: f64 = 1e6;
pub const SECOND: u64 = 1_000_000_000;

/// A thread faults in no more (1.9 to 3.1 GB/s of small pages were measured), and gives back no faster.
const FASTEST: f64 = 3e9;
const FASTEST_BACK: f64 = 15e9;

pub fn nanos(secs: f64) -> u64 {
    (secs * 1e9) as u64
}

pub fn secs(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// What an amount of memory does. Amounts are bytes, times seconds.
#[derive(Debug, Clone)]
pub enum Course {
    /// Nothing any more.
    Still,
    /// Nothing for a while.
    After { secs: f64, then: Box<Course> },
    /// Goes there in so long.
    To { to: f64, secs: f64, then: Box<Course> },
    /// Grows for ever, each second by up to this share more or less.
    Leak { rate: f64, uneven: f64 },
    /// Grows for ever, and twice as fast after each `doubles`.
    Accelerating { rate: f64, doubles: f64 },
    /// Grows by so much at once, on average every so often.
    Steps { bytes: f64, every: f64 },
    /// Goes to `peak` within `ramp`, stays for `hold`, comes back to `base`, about every `every`.
    Spikes { base: f64, peak: f64, ramp: f64, hold: f64, every: f64 },
    /// A garbage collector: grows from `low` to `high` and falls back; both ends vary by the share `noise`.
    Saw { low: f64, high: f64, period: f64, noise: f64 },
    /// Stays within `by` of `at`.
    Wobble { at: f64, by: f64, every: f64 },
}

impl Course {
    pub fn after(secs: f64, then: Self) -> Self {
        Self::After { secs, then: Box::new(then) }
    }

    pub fn to(to: f64, secs: f64, then: Self) -> Self {
        Self::To { to, secs, then: Box::new(then) }
    }

    pub fn leak(rate: f64) -> Self {
        Self::Leak { rate, uneven: 0.0 }
    }
}

/// One amount of memory on its course.
#[derive(Debug, Clone)]
pub struct Line {
    course: Course,
    phase: u8,
    since: u64,
    value: f64,
    pub rate: f64,
    /// Where the present piece ends, to the byte.
    target: Option<f64>,
    pub until: u64,
}

impl Line {
    pub fn new(now: u64, value: f64, course: Course) -> Self {
        Self { course, phase: 0, since: now, value, rate: 0.0, target: None, until: now }
    }

    pub fn at(&self, now: u64) -> f64 {
        let end = now.min(self.until);
        if end == self.until
            && let Some(target) = self.target
        {
            return target;
        }
        (self.value + self.rate * secs(end.saturating_sub(self.since))).max(0.0)
    }

    /// The present rate; none once the piece is over.
    pub fn rate_at(&self, now: u64) -> f64 {
        if now < self.until { self.rate } else { 0.0 }
    }

    /// Stays as it is for ever.
    pub fn stop(&mut self, now: u64) {
        *self = Self { until: u64::MAX, ..Self::new(now, self.at(now), Course::Still) };
    }

    /// Is given back within so long.
    pub fn drain(&mut self, now: u64, within: u64) {
        let value = self.at(now);
        *self = Self {
            rate: -value / secs(within.max(1)),
            target: Some(0.0),
            until: now.saturating_add(within),
            ..Self::new(now, value, Course::Still)
        };
    }

    /// Grows no faster than this from now on.
    pub fn brake(&mut self, now: u64, rate: f64) {
        if self.rate_at(now) > rate {
            let value = self.at(now);
            *self = Self::new(now, value, Course::leak(rate));
        }
    }

    /// Jumps.
    pub fn set(&mut self, now: u64, value: f64) {
        let course = std::mem::replace(&mut self.course, Course::Still);
        *self = Self::new(now, value, course);
    }

    fn go(&mut self, now: u64, to: f64, within: f64) {
        let from = self.value;
        let fastest = if to > from { (to - from) / FASTEST } else { (from - to) / FASTEST_BACK };
        let within = within.max(fastest).max(1e-6);
        self.rate = (to - from) / within;
        self.target = Some(to.max(0.0));
        self.until = now.saturating_add(nanos(within).max(1));
    }

    fn grow(&mut self, now: u64, rate: f64, within: f64) {
        self.rate = rate.clamp(-FASTEST_BACK, FASTEST);
        self.target = None;
        self.until = now.saturating_add(nanos(within).max(1));
    }

    /// The present piece is over: the next one.
    pub fn turn(&mut self, now: u64, chance: &mut Chance) {
        self.value = self.at(now);
        self.since = now;
        self.phase = self.phase.wrapping_add(1);
        match self.course.clone() {
            Course::Still => {
                self.grow(now, 0.0, 0.0);
                self.until = u64::MAX;
            }
            Course::After { secs, then } => {
                self.grow(now, 0.0, secs);
                self.course = *then;
                self.phase = 0;
            }
            Course::To { to, secs, then } => {
                self.go(now, to, secs);
                self.course = *then;
                self.phase = 0;
            }
            Course::Leak { rate, uneven } => {
                let within = if uneven > 0.0 { chance.between(0.05, 2.0) } else { 3_600.0 };
                self.grow(now, rate * (1.0 + uneven * chance.between(-1.0, 1.0)), within);
            }
            Course::Accelerating { rate, doubles } => {
                self.grow(now, rate, doubles / 8.0);
                self.course = Course::Accelerating { rate: (rate * 2_f64.powf(1.0 / 8.0)).min(FASTEST), doubles };
            }
            Course::Steps { bytes, every } => {
                if self.phase % 2 == 1 {
                    self.grow(now, 0.0, every * chance.between(0.1, 1.9));
                } else {
                    self.go(now, self.value + bytes * chance.between(0.5, 1.5), 0.0);
                }
            }
            Course::Spikes { base, peak, ramp, hold, every } => match self.phase % 4 {
                1 => self.grow(now, 0.0, (every - hold - 2.0 * ramp).max(0.1) * chance.between(0.8, 1.2)),
                2 => self.go(now, peak, ramp),
                3 => self.grow(now, 0.0, hold),
                _ => self.go(now, base, ramp),
            },
            Course::Saw { low, high, period, noise } => {
                let noise = 1.0 - noise * chance.unit();
                if self.phase % 2 == 1 {
                    self.go(now, high * noise, period * chance.between(0.9, 1.1) * 0.95);
                } else {
                    self.go(now, low * noise, period * 0.05_f64.min(0.2 / period));
                }
            }
            Course::Wobble { at, by, every } => {
                let to = at + by * chance.between(-1.0, 1.0);
                self.go(now, to, every * chance.between(0.5, 1.5));
            }
        }
    }
}
