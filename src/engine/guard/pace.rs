//! When to look again, and how fast memory grows.
//!
//! The wait is bounded by physics, not by what was seen last: memory cannot be filled faster than the machine can write it, so one
//! that begins to grow flat out the moment after a look is still seen before half of the headroom above the line is gone. What was
//! observed only makes the looks more frequent.

use std::time::Duration;

use super::{Lines, float};
use crate::engine::Timestamp;

/// Never sooner again than this.
const FLOOR: Duration = Duration::from_millis(2);
/// Nor than this, when nothing has grown for a while: a container parked near a line must not cost a processor.
const QUIET_FLOOR: Duration = Duration::from_millis(10);
/// The same above the line, where less room is left.
const QUIET_FLOOR_ABOVE: Duration = Duration::from_millis(4);
/// After so long without growth.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// Growth below this share of the limit is none.
const QUIET_SHARE: f64 = 0.005;
/// Never later again than this, so that a change is seen while it is young.
const CEILING: Duration = Duration::from_millis(250);
/// The same where the whole machine is the limit.
const CEILING_MACHINE: Duration = Duration::from_secs(1);
/// While a victim is being ended.
const ACTING: Duration = Duration::from_millis(5);
/// The peak rate halves in this time, in seconds.
const PEAK_HALVES_IN: f64 = 2.0;
/// So does the memory of having been woken late.
const LATE_HALVES_IN: f64 = 5.0;
/// From a look to the signal that follows from it, beside the look at processes that may lie between.
const REACTION: f64 = 0.000_5;

/// What the last looks showed.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// When the present look was due.
    due: Option<Timestamp>,
    last: Option<(Timestamp, u64)>,
    /// Bytes a second between the last two looks, and between the two before.
    slope: f64,
    earlier: f64,
    peak: f64,
    /// Seconds by which looks came too late, lately.
    late: f64,
    /// Seconds the last look at the processes took.
    accounting: f64,
    /// The level from which growth is counted, and since when there is none.
    quiet_level: u64,
    quiet_since: Timestamp,
}

impl Pace {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { due: None, last: None, slope: 0.0, earlier: 0.0, peak: 0.0, late: 0.0, accounting: 0.001, quiet_level: 0, quiet_since: now }
    }

    /// A look at `now` showed `hard`.
    pub(super) fn observe(&mut self, now: Timestamp, hard: u64, lines: &Lines) {
        let passed = self.last.map_or(0.0, |(at, _)| now.since(at).as_secs_f64());
        self.late *= 0.5_f64.powf(passed / LATE_HALVES_IN);
        if let Some(due) = self.due.take() {
            self.late = self.late.max(now.since(due).as_secs_f64());
        }
        self.peak *= 0.5_f64.powf(passed / PEAK_HALVES_IN);
        if let Some((_, before)) = self.last
            && passed > 0.0
        {
            self.earlier = self.slope;
            self.slope = (float(hard) - float(before)) / passed;
            self.peak = self.peak.max(self.slope);
        }
        if hard < self.quiet_level {
            self.quiet_level = hard;
        } else if float(hard.saturating_sub(self.quiet_level)) > float(lines.limit) * QUIET_SHARE {
            self.quiet_level = hard;
            self.quiet_since = now;
        }
        self.last = Some((now, hard));
    }

    /// Bytes a second between the last two looks.
    pub(super) const fn slope(&self) -> f64 {
        self.slope
    }

    /// The lower of the last two slopes, so that neither a step nor the counters' noise is taken for one; 0 when it does not grow.
    pub(super) const fn steady(&self) -> f64 {
        self.slope.min(self.earlier).max(0.0)
    }

    /// What there will be by the time a signal could follow from the next look, at the present rate.
    pub(super) fn foreseen(&self, now: Timestamp, lines: &Lines) -> f64 {
        let Some((_, hard)) = self.last else { return 0.0 };
        let rate = self.steady();
        if rate <= 0.0 {
            return float(hard);
        }
        let wait = self.wait(now, hard, lines).as_secs_f64();
        rate.mul_add(2.0_f64.mul_add(self.late, wait) + self.accounting + REACTION, float(hard))
    }

    /// How long until the next look.
    pub(super) fn wait(&self, now: Timestamp, hard: u64, lines: &Lines) -> Duration {
        let (limit, line, emergency, used) = (float(lines.limit), float(lines.restart), float(lines.emergency), float(hard));
        let above = used >= line;
        let room = if above { 0.5 * (emergency - used) } else { 0.5_f64.mul_add(limit - line, line - used) };
        let mut wait = room.max(0.0) / float(lines.growth_max).max(1.0);
        if !above && self.peak > 0.0 {
            wait = wait.min(0.5 * (line - used) / self.peak);
        }
        let floor = match (self.is_quiet(now), above) {
            (true, false) => QUIET_FLOOR,
            (true, true) => QUIET_FLOOR_ABOVE,
            (false, _) => FLOOR,
        };
        let ceiling = if lines.machine { CEILING_MACHINE } else { CEILING };
        Duration::try_from_secs_f64(wait).unwrap_or(ceiling).clamp(floor, ceiling)
    }

    /// As `wait`, while a victim is being ended: a quarter of the time that is left, 5 ms at most.
    pub(super) fn wait_acting(&self, lines: &Lines) -> Duration {
        let Some((_, hard)) = self.last else { return ACTING };
        if self.slope <= 0.0 {
            return ACTING;
        }
        let left = (float(lines.limit) - float(hard)).max(0.0) / self.slope;
        Duration::try_from_secs_f64(left / 4.0).unwrap_or(ACTING).clamp(FLOOR, ACTING)
    }

    /// Nothing has grown for a while.
    pub(super) fn is_quiet(&self, now: Timestamp) -> bool {
        now.since(self.quiet_since) >= QUIET_AFTER
    }

    /// More than this is growth.
    pub(super) fn quiet_until(&self, lines: &Lines) -> u64 {
        self.quiet_level.saturating_add(super::part(lines.limit, QUIET_SHARE))
    }

    /// Somebody else looks from now on, and nobody is to be late.
    pub(super) const fn left_to_others(&mut self) {
        self.due = None;
    }

    /// They saw no growth until then.
    pub(super) fn stayed(&mut self, until: Timestamp) {
        if let Some((at, _)) = &mut self.last {
            *at = until.max(*at);
        }
    }

    /// The next look is due then.
    pub(super) const fn expect(&mut self, due: Timestamp) {
        self.due = Some(due);
    }

    /// The processes have been looked at, which took so long.
    pub(super) const fn accounted(&mut self, took: Duration) {
        self.accounting = took.as_secs_f64();
    }

    /// After a while without looks nothing of the past tells about the present.
    pub(super) const fn forget(&mut self) {
        self.last = None;
        self.due = None;
        self.slope = 0.0;
        self.earlier = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lines;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// Whatever grows flat out from any level, from the moment after a look, is seen before the limit.
    #[test]
    fn flat_out_growth_from_any_level_is_seen_in_time() {
        for limit in [128, 256, 512, 1_024, 4_096] {
            let lines = lines(limit * MIB);
            for percent in 0..94 {
                let used = lines.limit / 100 * percent;
                let mut pace = Pace::new(at(0));
                pace.observe(at(0), used, &lines);
                // A leaker of two threads writes about 3 GB/s.
                let wait = pace.wait(at(0), used, &lines).as_secs_f64();
                let seen = 3e9_f64.mul_add(wait, float(used));
                assert!(seen < float(lines.limit), "{limit} MiB at {percent}%: {seen:.0} after {wait} s");
            }
        }
    }

    #[test]
    fn a_quiet_container_is_looked_at_seldom_even_near_the_line() {
        let lines = lines(128 * MIB);
        let mut pace = Pace::new(at(0));
        let used = lines.restart - MIB;
        let mut now = 0;
        let mut looks = 0;
        while now < 10_000 {
            pace.observe(at(now), used, &lines);
            now += u64::try_from(pace.wait(at(now), used, &lines).as_millis()).unwrap();
            looks += 1;
        }
        assert!(looks < 1_500, "{looks}");
    }

    #[test]
    fn a_step_across_the_line_is_no_slope() {
        let lines = lines(512 * MIB);
        let mut pace = Pace::new(at(0));
        pace.observe(at(0), 200 * MIB, &lines);
        pace.observe(at(2), 420 * MIB, &lines);
        assert!((pace.foreseen(at(2), &lines) - float(420 * MIB)).abs() < 1.0);
        pace.observe(at(4), 428 * MIB, &lines);
        assert!(pace.foreseen(at(4), &lines) < float(lines.emergency), "only what it has grown by since counts");
        pace.observe(at(6), 436 * MIB, &lines);
        assert!(pace.foreseen(at(6), &lines) > float(440 * MIB));
    }
}
