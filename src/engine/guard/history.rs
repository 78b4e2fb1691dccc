//! How much something has grown, over windows from a quarter of a second to hours.
//!
//! Each level keeps two marks that are `AGES[level]` apart or more, so that the older one is between one and about two such ages old: a
//! few numbers instead of a recording, and nothing is ever allocated.

use std::time::Duration;

use crate::engine::Timestamp;

/// Ages of the levels.
pub(super) const AGES: [Duration; 8] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(16),
    Duration::from_secs(64),
    Duration::from_secs(256),
    Duration::from_secs(1_024),
    Duration::from_secs(4_096),
];

/// What begins grows, whatever it is: what it held at this age is not counted as grown...
pub(super) const BEGUN_AFTER: Duration = Duration::from_secs(1);
/// ...and once it has this age, nor is what it held then.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// One that has grown by more than this part of it since then has not settled.
const USUAL_WITHIN: u64 = 5;

/// A size at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) bytes: u64,
    /// The largest until then.
    pub(super) record: u64,
}

/// The recent past of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct History {
    levels: [(Mark, Mark); AGES.len()],
    born: Timestamp,
    last: Timestamp,
    record: u64,
    /// The record before the last size came.
    before_last: u64,
    /// The record when it had begun.
    begun: Option<u64>,
    /// The record when it had settled.
    settled: Option<u64>,
    /// What its predecessor had settled at, or what was accepted since: up to there nothing is new.
    usual: u64,
}

impl History {
    /// It was `bytes` at `at`, and what was before is not known.
    pub(super) const fn new(at: Timestamp, bytes: u64) -> Self {
        let mark = Mark { at, bytes, record: bytes };
        Self { levels: [(mark, mark); AGES.len()], born: at, last: at, record: bytes, before_last: 0, begun: None, settled: None, usual: 0 }
    }

    /// Of a new run of the same program, which began with nothing. What this one held is usual if it had held no more for a while.
    pub(super) fn next(&self, at: Timestamp) -> Self {
        let age = self.last.since(self.born);
        let usual = match self.settled {
            Some(settled) if age >= SETTLED_AFTER * 2 && self.record <= settled.saturating_add(settled / USUAL_WITHIN) => self.record,
            Some(_) | None => self.usual,
        };
        Self { usual, ..Self::new(at, 0) }
    }

    /// What it has held until now is as it should be.
    pub(super) fn accept(&mut self) {
        self.usual = self.usual.max(self.record);
    }

    /// It is `bytes` now.
    pub(super) fn push(&mut self, now: Timestamp, bytes: u64) {
        self.before_last = self.record;
        self.record = self.record.max(bytes);
        self.last = now;
        let mark = Mark { at: now, bytes, record: self.record };
        for ((older, newer), age) in self.levels.iter_mut().zip(AGES) {
            if now.since(newer.at) >= age {
                *older = *newer;
                *newer = mark;
            }
        }
        let age = now.since(self.born);
        if self.begun.is_none() && age >= BEGUN_AFTER {
            self.begun = Some(self.record);
        }
        if self.settled.is_none() && age >= SETTLED_AFTER {
            self.settled = Some(self.record);
        }
    }

    /// The largest it had ever been by the mark of that level. What it holds beyond that is new: a garbage collector's sawtooth is as
    /// high as it has been before, a leak never is.
    pub(super) fn record(&self, level: usize) -> u64 {
        let mark = self.back(level);
        let record = if mark.at == self.born { self.settled.or(self.begun).unwrap_or(mark.record) } else { mark.record };
        record.max(self.usual)
    }

    /// The largest it had been before the last size came, or usually is.
    pub(super) fn before_last(&self) -> u64 {
        self.before_last.max(self.usual)
    }

    /// When it is to be looked at, so that it is known what it held when it had begun; `None` once that is known. Whoever is looked at later
    /// may have begun to leak by then, and would be thought to have begun with that.
    pub(super) fn begins_at(&self) -> Option<Timestamp> {
        self.begun.is_none().then(|| self.born.after(BEGUN_AFTER))
    }

    /// Whether it is known what it held when it had begun.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// The largest it had been when it had begun, or usually is.
    pub(super) fn begun(&self) -> u64 {
        self.begun.unwrap_or_default().max(self.usual)
    }

    /// What it was: the mark of that level, at least its age old unless the history is younger.
    pub(super) fn back(&self, level: usize) -> Mark {
        self.levels.get(level).or(self.levels.last()).map_or(Mark { at: Timestamp::ZERO, bytes: 0, record: 0 }, |(older, _)| *older)
    }

    /// The mark nearest to `age` ago that is at least so old, or the oldest there is.
    pub(super) fn before(&self, now: Timestamp, age: Duration) -> Mark {
        let mut found = self.back(AGES.len());
        for (older, newer) in self.levels.iter().rev() {
            for mark in [older, newer] {
                if now.since(mark.at) >= age && mark.at >= found.at {
                    found = *mark;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_since_the_look_before_is_told_by_both() {
        let mut history = History::new(at(0), 0);
        for (ms, bytes, before) in [(100, 5, 0), (120, 9, 5), (140, 4, 9), (160, 8, 9), (180, 12, 9)] {
            history.push(at(ms), bytes);
            assert_eq!(history.before_last(), before, "at {ms}");
        }
    }

    #[test]
    fn what_begins_is_to_be_looked_at_once_when_it_has_begun() {
        let mut history = History::new(at(500), 0);
        assert_eq!(history.begins_at(), Some(at(1_500)));
        history.push(at(1_200), 7);
        assert_eq!(history.begins_at(), Some(at(1_500)));
        history.push(at(1_500), 8);
        assert_eq!((history.begins_at(), history.begun()), (None, 8));
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn each_level_looks_back_between_one_and_two_of_its_ages() {
        let mut history = History::new(at(0), 0);
        for ms in (0..600_000).step_by(10) {
            history.push(at(ms), ms);
            for (level, age) in AGES.iter().enumerate().take(5) {
                let back = at(ms).since(history.back(level).at);
                assert!(back <= *age * 2 + Duration::from_millis(20), "{level} at {ms}: {back:?}");
                if at(ms).since(at(0)) > *age * 2 {
                    assert!(back >= *age, "{level} at {ms}: {back:?}");
                }
            }
        }
    }

    #[test]
    fn what_has_been_as_high_before_is_not_new() {
        let mut history = History::new(at(0), 0);
        for second in 0..600 {
            history.push(at(second * 1_000), 100 + second % 20);
        }
        for (level, age) in AGES.iter().enumerate().take(5) {
            assert_eq!(history.record(level), 119, "{age:?}");
        }
        // Of what was there when it had settled nothing is new, however far back one looks.
        let mut young = History::new(at(0), 0);
        for second in 0..100 {
            young.push(at(second * 1_000), 500 + second);
        }
        assert_eq!(young.record(AGES.len()), 560);
    }

    #[test]
    fn before_never_answers_with_something_younger_than_asked_for_if_there_is_something_older() {
        let mut history = History::new(at(0), 0);
        for ms in (0..100_000).step_by(100) {
            history.push(at(ms), ms);
        }
        for seconds in [1, 3, 10, 40, 90] {
            let mark = history.before(at(99_900), Duration::from_secs(seconds));
            assert!(at(99_900).since(mark.at) >= Duration::from_secs(seconds), "{seconds}: {mark:?}");
        }
        assert_eq!(history.before(at(99_900), Duration::from_secs(1_000)).at, at(0));
    }
}
