//! When a probe asks, and what its answers amount to.
//!
//! A prober is either waiting to ask or waiting for one answer, so two questions of the same probe can never be open at once. An
//! answer that never comes counts as a failure, a second after the shell should have cut the question off.

use std::time::Duration;

use super::spec::Probe;
use super::status::ProbeStatus;
use super::{Timestamp, event};

/// While an instance starts, its readiness is asked after sooner than `every`: after 20 ms, then twice that, up to this.
const EAGER_MAX: Duration = Duration::from_millis(500);
const EAGER_FIRST: Duration = Duration::from_millis(20);
/// How much longer than `timeout` an answer may take before it is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prober {
    turn: Turn,
    /// Of the last question; answers to earlier ones are ignored.
    number: u32,
    /// Consecutive answers of the same kind.
    good: u32,
    bad: u32,
    /// The next interval while starting; `None` once `every` applies.
    eager: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    Ask { at: Timestamp },
    Answer { asked_at: Timestamp, lost_at: Timestamp },
}

/// What the answers of one probe came to, over all runs of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally(Option<ProbeStatus>);

impl Tally {
    /// Before the first answer.
    pub(super) const NONE: Self = Self(None);

    /// Counts an answer that took so long.
    pub(super) fn count(&mut self, passed: bool, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let tally = self.0.get_or_insert(ProbeStatus { successes: 0, failures: 0, last_passed: passed, last_took_us: 0, total_took_us: 0 });
        let counter = if passed { &mut tally.successes } else { &mut tally.failures };
        *counter = counter.saturating_add(1);
        tally.last_passed = passed;
        tally.last_took_us = took_us;
        tally.total_took_us = tally.total_took_us.saturating_add(took_us);
    }

    /// `None` before the first answer.
    pub(super) const fn status(&self) -> Option<ProbeStatus> {
        self.0
    }
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not enough answers of one kind yet, or an answer nobody waits for.
    Undecided,
    Good,
    Bad,
}

impl Prober {
    /// Asks eagerly until it is told to settle: for an instance that is starting.
    pub(super) const fn eager(first: Timestamp) -> Self {
        Self { turn: Turn::Ask { at: first }, number: 0, good: 0, bad: 0, eager: Some(EAGER_FIRST) }
    }

    pub(super) const fn steady(first: Timestamp) -> Self {
        Self { turn: Turn::Ask { at: first }, number: 0, good: 0, bad: 0, eager: None }
    }

    /// From now on `every` applies.
    pub(super) fn settle(mut self, now: Timestamp, probe: &Probe) -> Self {
        self.eager = None;
        if matches!(self.turn, Turn::Ask { .. }) {
            self.turn = Turn::Ask { at: now.after(probe.every) };
        }
        self
    }

    pub(super) const fn deadline(&self) -> Timestamp {
        match self.turn {
            Turn::Ask { at } => at,
            Turn::Answer { lost_at, .. } => lost_at,
        }
    }

    /// The number of the question to ask now, if one is due.
    pub(super) fn ask(&mut self, now: Timestamp, probe: &Probe) -> Option<u32> {
        match self.turn {
            Turn::Ask { at } if at <= now => {
                self.number = self.number.wrapping_add(1);
                self.turn = Turn::Answer { asked_at: now, lost_at: now.after(probe.timeout.saturating_add(LOST_AFTER)) };
                Some(self.number)
            }
            Turn::Ask { .. } | Turn::Answer { .. } => None,
        }
    }

    /// Whether the open question's answer must be taken for lost.
    pub(super) fn lost(&self, now: Timestamp) -> Option<u32> {
        match self.turn {
            Turn::Answer { lost_at, .. } if lost_at <= now => Some(self.number),
            Turn::Ask { .. } | Turn::Answer { .. } => None,
        }
    }

    /// When the open question was asked, if it has this number.
    pub(super) fn asked_at(&self, number: u32) -> Option<Timestamp> {
        match self.turn {
            Turn::Answer { asked_at, .. } if number == self.number => Some(asked_at),
            Turn::Ask { .. } | Turn::Answer { .. } => None,
        }
    }

    /// Takes an answer. Returns `Undecided` for one that nobody waits for.
    pub(super) fn answer(&mut self, now: Timestamp, number: u32, good: bool, probe: &Probe) -> Verdict {
        if number != self.number || !matches!(self.turn, Turn::Answer { .. }) {
            return Verdict::Undecided;
        }
        let wait = match self.eager {
            Some(wait) => {
                self.eager = Some(wait.saturating_mul(2).min(EAGER_MAX));
                wait.min(probe.every)
            }
            None => probe.every,
        };
        self.turn = Turn::Ask { at: now.after(wait) };
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            if self.good >= probe.successes { Verdict::Good } else { Verdict::Undecided }
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            if self.bad >= probe.failures { Verdict::Bad } else { Verdict::Undecided }
        }
    }
}

pub(super) fn deadline_of(prober: Option<&Prober>) -> Option<Timestamp> {
    prober.map(Prober::deadline)
}

pub(super) fn earliest(deadlines: &[Option<Timestamp>]) -> Option<Timestamp> {
    deadlines.iter().copied().fold(None, event::earlier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::Check;

    fn probe() -> Probe {
        Probe {
            check: Check::Tcp { host: "127.0.0.1".into(), port: 1 },
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            failures: 3,
            successes: 2,
            initial_delay: Duration::ZERO,
        }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO.after(Duration::from_millis(ms))
    }

    #[test]
    fn two_questions_are_never_open_at_once_and_late_answers_are_ignored() {
        let probe = probe();
        let mut prober = Prober::steady(at(0));
        assert_eq!(prober.ask(at(0), &probe), Some(1));
        assert_eq!(prober.ask(at(50_000), &probe), None);
        assert_eq!(prober.answer(at(5), 7, true, &probe), Verdict::Undecided, "a question that was never asked");
        assert_eq!(prober.answer(at(5), 1, true, &probe), Verdict::Undecided);
        assert_eq!(prober.answer(at(6), 1, true, &probe), Verdict::Undecided, "the same answer twice");
        assert_eq!(prober.deadline(), at(10_005));
        assert_eq!(prober.ask(at(10_005), &probe), Some(2));
        assert_eq!(prober.answer(at(10_006), 2, true, &probe), Verdict::Good);
    }

    #[test]
    fn a_lost_answer_is_noticed_after_the_timeout_and_a_second() {
        let probe = probe();
        let mut prober = Prober::steady(at(0));
        assert_eq!(prober.ask(at(0), &probe), Some(1));
        assert_eq!(prober.lost(at(2_999)), None);
        assert_eq!(prober.lost(at(3_000)), Some(1));
    }

    #[test]
    fn a_tally_counts_and_adds_up() {
        let mut tally = Tally::NONE;
        assert_eq!(tally.status(), None);
        for (passed, took) in [(true, 2), (false, 30), (false, 5)] {
            tally.count(passed, Duration::from_millis(took));
        }
        let expected = ProbeStatus { successes: 1, failures: 2, last_passed: false, last_took_us: 5_000, total_took_us: 37_000 };
        assert_eq!(tally.status(), Some(expected));
        let probe = probe();
        let mut prober = Prober::steady(at(0));
        assert_eq!(prober.asked_at(0), None);
        assert_eq!(prober.ask(at(7), &probe), Some(1));
        assert_eq!((prober.asked_at(1), prober.asked_at(2)), (Some(at(7)), None));
        assert_eq!(prober.answer(at(9), 1, true, &probe), Verdict::Undecided);
        assert_eq!(prober.asked_at(1), None, "an answer is counted once");
    }

    #[test]
    fn failures_must_be_consecutive() {
        let probe = probe();
        let mut prober = Prober::steady(at(0));
        let mut now = 0;
        let mut verdicts = Vec::new();
        for good in [false, false, true, false, false, false] {
            let number = prober.ask(at(now), &probe).unwrap_or(0);
            verdicts.push(prober.answer(at(now), number, good, &probe));
            now += 10_000;
        }
        assert_eq!(
            verdicts,
            [Verdict::Undecided, Verdict::Undecided, Verdict::Undecided, Verdict::Undecided, Verdict::Undecided, Verdict::Bad]
        );
    }

    #[test]
    fn an_eager_prober_asks_soon_and_slows_down() {
        let probe = probe();
        let mut prober = Prober::eager(at(0));
        let mut asked = Vec::new();
        for _ in 0..7 {
            let now = prober.deadline();
            asked.push(now.since(at(0)).as_millis());
            let number = prober.ask(now, &probe).unwrap_or(0);
            prober.answer(now, number, false, &probe);
        }
        assert_eq!(asked, [0, 20, 60, 140, 300, 620, 1_120]);
    }
}
