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

/// A size at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) bytes: u64,
}

/// The recent past of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct History {
    levels: [(Mark, Mark); AGES.len()],
}

impl History {
    /// It was `bytes` at `at`, and what was before is not known.
    pub(super) const fn new(at: Timestamp, bytes: u64) -> Self {
        let mark = Mark { at, bytes };
        Self { levels: [(mark, mark); AGES.len()] }
    }

    /// It is `bytes` now.
    pub(super) fn push(&mut self, now: Timestamp, bytes: u64) {
        for ((older, newer), age) in self.levels.iter_mut().zip(AGES) {
            if now.since(newer.at) >= age {
                *older = *newer;
                *newer = Mark { at: now, bytes };
            }
        }
    }

    /// What it was: the mark of that level, at least its age old unless the history is younger.
    pub(super) fn back(&self, level: usize) -> Mark {
        self.levels.get(level).or(self.levels.last()).map_or(Mark { at: Timestamp::ZERO, bytes: 0 }, |(older, _)| *older)
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
