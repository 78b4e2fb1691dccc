//! Restarts because files have changed: when many changes are one, and what a change means to an instance.
//!
//! What has changed is for the shell to find out. An editor's save, a build or a checkout of another branch changes many files in a row: that is one
//! restart, once it has been quiet for a while.

use std::time::Duration;

use super::Timestamp;
use super::event::{Action, Cause, Notice};
use super::instance::{Desired, Idle, Instance, State};
use super::spec::{Kind, Service, ServiceId};
use super::stack::Engine;

/// Who never rests does not keep a restart waiting for longer than this many times the quiet that is waited for.
const AT_MOST: u32 = 10;

/// Makes one of many changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debounce {
    quiet: Duration,
    pending: Option<Pending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    first: Timestamp,
    last: Timestamp,
    count: u32,
}

impl Debounce {
    /// Waits until nothing has changed for `quiet`.
    #[must_use]
    pub const fn new(quiet: Duration) -> Self {
        Self { quiet, pending: None }
    }

    /// Something has changed. True when it is the first since [`Self::take`].
    pub const fn changed(&mut self, now: Timestamp) -> bool {
        match &mut self.pending {
            Some(pending) => {
                pending.last = now;
                pending.count = pending.count.saturating_add(1);
                false
            }
            None => {
                self.pending = Some(Pending { first: now, last: now, count: 1 });
                true
            }
        }
    }

    /// When to call [`Self::take`]; `None` while nothing has changed.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let pending = self.pending?;
        Some(pending.last.after(self.quiet).min(pending.first.after(self.quiet.saturating_mul(AT_MOST))))
    }

    /// How many changes there were, once it is time; it is quiet again after that.
    pub fn take(&mut self, now: Timestamp) -> Option<u32> {
        if self.due()? > now {
            return None;
        }
        self.pending.take().map(|pending| pending.count)
    }
}

impl Engine {
    /// Watched files of a service have changed: whoever of it is wanted up begins anew.
    pub(super) fn changed(&mut self, now: Timestamp, id: ServiceId, what: String, out: &mut Vec<Action>) {
        // Whoever goes, or gets another definition, is on his way already.
        let Some(service) = self.service(id).cloned().filter(|_| !self.is_halting(id)) else { return };
        let told = out.len();
        let mut anybody = false;
        for instance in self.instances.iter_mut().filter(|instance| instance.id.service == id) {
            anybody |= instance.files_changed(now, &service, out);
        }
        if anybody {
            // The reason comes before what follows from it.
            out.insert(told, Action::Notice(Notice::Changed { service: id, what }));
        }
    }
}

impl Instance {
    /// Whether it begins anew because of it.
    fn files_changed(&mut self, now: Timestamp, service: &Service, out: &mut Vec<Action>) -> bool {
        // What a job has done stays done.
        if self.desired != Desired::Up || service.kind == Kind::Oneshot {
            return false;
        }
        match &mut self.state {
            // It will start with what is there by then.
            State::Idle(Idle::Stopped | Idle::Due { .. } | Idle::Completed | Idle::Blocked { .. }) => false,
            // What was wrong with it may be mended.
            State::Idle(Idle::Backoff { .. } | Idle::Exited | Idle::Failed) => {
                (self.failures, self.attempts) = (0, 0);
                self.state = State::Idle(Idle::Due { waits_for: None });
                true
            }
            State::Launching { .. } | State::Starting { .. } | State::Running { .. } => {
                self.begin_end(now, service, Cause::Watch, service.stop.timeout, out);
                true
            }
            State::Ending(ending) => match ending.cause {
                Cause::Crash | Cause::Live | Cause::Watchdog | Cause::StartTimeout => {
                    ending.cause = Cause::Watch;
                    true
                }
                // The next run is on its way already, or there is none to be.
                Cause::Memory | Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn many_changes_are_one_once_it_is_quiet() {
        let mut debounce = Debounce::new(Duration::from_millis(200));
        assert_eq!((debounce.due(), debounce.take(at(5_000))), (None, None));
        assert!(debounce.changed(at(1_000)));
        assert_eq!(debounce.due(), Some(at(1_200)));
        assert!(!debounce.changed(at(1_150)));
        assert_eq!((debounce.due(), debounce.take(at(1_200))), (Some(at(1_350)), None));
        assert_eq!(debounce.take(at(1_350)), Some(2));
        assert_eq!((debounce.due(), debounce.take(at(9_000))), (None, None));
        assert!(debounce.changed(at(9_000)));
    }

    #[test]
    fn a_restlessness_that_never_ends_is_acted_on_all_the_same() {
        let mut debounce = Debounce::new(Duration::from_millis(200));
        let mut taken = Vec::new();
        for ms in (0..10_000).step_by(50) {
            debounce.changed(at(ms));
            taken.extend(debounce.take(at(ms)).map(|count| (ms, count)));
        }
        assert_eq!(taken, [(2_000, 41), (4_050, 41), (6_100, 41), (8_150, 41)]);
    }
}
