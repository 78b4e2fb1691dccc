//! Whose death was the kernel's OOM killer's.
//!
//! The cgroup's count of OOM kills goes up before the signal is sent, so a child that died by SIGKILL and is looked at now is in the count.
//! The count says how many, not who: a death is the OOM killer's when there are at least as many new kills as there are deaths by
//! SIGKILL that firstmate did not cause and has not explained. When there are fewer, it cannot be said which of them it was, and none is claimed.
//!
//! Between the count and the death lies the time the kernel takes to free a process's memory, some 100 ms for a gigabyte: who is being killed in
//! that moment may be the one that was counted, and stands beside the dead.
//!
//! Where a run has a cgroup of its own, the count of that cgroup says whose death it was ([`Toll::judge_by_own_count`]).
//!
//! What the count says and no death explains within a while was a process that is not firstmate's own child: a worker of a service, or
//! something that docker exec started.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::{Outcome, RunId, Signal};

/// The dying takes a moment (freeing a gigabyte some 100 ms, more on a busy machine); only then is a kill unexplained.
const UNEXPLAINED_AFTER: Duration = Duration::from_secs(2);
/// A kill that was counted so long ago explains no death of now.
const EXPLAINS_FOR: Duration = Duration::from_secs(1);
/// Whom firstmate killed may be among the unexplained for so long: until the count is looked at again, and a kill unexplained.
const MAY_BE_AMONG: Duration = Duration::from_secs(8);

/// What the count has said, and which deaths it explained.
#[derive(Debug, Default)]
pub struct Toll {
    /// The count so far that is explained, or told.
    explained: Option<u64>,
    /// Children that are dead and not reaped yet, of which the verdict is known.
    verdicts: BTreeMap<u32, bool>,
    /// Since when the count is higher than what is explained, and what it was then.
    pending: Option<(Instant, u64)>,
    /// Runs that firstmate sent SIGKILL to: the kernel may have been faster.
    own: Vec<OwnKill>,
}

/// A run that firstmate sent SIGKILL to, and when for the last time.
#[derive(Debug)]
struct OwnKill {
    run: RunId,
    at: Instant,
    /// Nothing is left of it.
    over: bool,
}

/// Kills that no death explains, or of which it cannot be said which death they explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexplained {
    /// So many.
    pub kills: u64,
    /// Runs whose main process died by SIGKILL in the same moment; some of them may be among the killed.
    pub among: Vec<RunId>,
}

impl Toll {
    /// The count at the start: kills before that are none of ours.
    #[must_use]
    pub fn new(count: Option<u64>) -> Self {
        Self { explained: count, ..Self::default() }
    }

    /// firstmate sent SIGKILL to this run.
    pub fn sent_kill(&mut self, run: RunId, now: Instant) {
        self.own.retain(|kill| kill.run != run && kill.may_matter(now));
        self.own.push(OwnKill { run, at: now, over: false });
    }

    /// Nothing is left of this run. Until then every death in it by SIGKILL may be firstmate's own doing, however long it takes.
    pub fn run_over(&mut self, run: RunId) {
        if let Some(kill) = self.own.iter_mut().find(|kill| kill.run == run) {
            kill.over = true;
        }
    }

    fn is_own(&self, run: RunId) -> bool {
        self.own.iter().any(|kill| kill.run == run)
    }

    /// Whether this run's main process, dead and not reaped, was killed by the OOM killer.
    ///
    /// `count` reads the count; `others` gives the other runs that are alive as far as is known, with their main processes, and `also` how such a one
    /// ended, if it has, or is about to; see [`is_being_killed`]. What cannot be decided goes into `unexplained`.
    pub fn judge(
        &mut self,
        now: Instant,
        pid: u32,
        run: RunId,
        mut count: impl FnMut() -> Option<u64>,
        others: impl Fn() -> Vec<(u32, RunId)>,
        mut also: impl FnMut(u32) -> Option<Outcome>,
    ) -> (bool, Option<Unexplained>) {
        if let Some(verdict) = self.verdicts.remove(&pid) {
            return (verdict, None);
        }
        if self.is_own(run) {
            return (false, None);
        }
        // Deaths and count belong to the same moment only if the count does not move while the deaths are looked at.
        for _ in 0..8 {
            let (Some(before), Some(explained)) = (count(), self.explained) else { return (false, None) };
            // What was counted a while ago was another process, though nobody has been told of it yet.
            let earlier = match self.pending {
                Some((since, seen)) if now.duration_since(since) >= EXPLAINS_FOR => seen.saturating_sub(explained),
                Some(_) | None => 0,
            };
            let new = before.saturating_sub(explained).saturating_sub(earlier);
            if new == 0 {
                return (false, None);
            }
            let mut dead = vec![(pid, run)];
            for (other, its_run) in others() {
                if other != pid
                    && !self.is_own(its_run)
                    && !self.verdicts.contains_key(&other)
                    && also(other) == Some(Outcome::Signaled(Signal::KILL))
                {
                    dead.push((other, its_run));
                }
            }
            if count() != Some(before) {
                continue;
            }
            let deaths = u64::try_from(dead.len()).unwrap_or(u64::MAX);
            let verdict = new >= deaths;
            for (other, _) in dead.iter().skip(1) {
                self.verdicts.insert(*other, verdict);
            }
            if verdict {
                self.explained = Some(explained.saturating_add(deaths));
                return (true, None);
            }
            self.explained = Some(before);
            let kills = before.saturating_sub(explained);
            return (false, Some(Unexplained { kills, among: dead.into_iter().map(|(_, run)| run).collect() }));
        }
        // The kernel kills faster than we can look: nobody can say who was whose.
        (false, None)
    }

    /// The same where the run has a cgroup of its own, in which so many kills were counted since it was last looked at: no other run's death
    /// is among them.
    pub fn judge_by_own_count(&mut self, pid: u32, run: RunId, kills: u64) -> bool {
        self.verdicts.remove(&pid);
        let killed = kills > 0 && !self.is_own(run);
        if killed {
            self.explained = self.explained.map(|explained| explained.saturating_add(1));
        }
        killed
    }

    /// This process ended in another way than by SIGKILL, whatever was expected of it.
    pub fn forget(&mut self, pid: u32) {
        self.verdicts.remove(&pid);
    }

    /// To be called now and then: kills that nobody's death has explained for a while.
    pub fn unexplained(&mut self, count: Option<u64>, now: Instant) -> Option<Unexplained> {
        let count = count?;
        let Some(explained) = self.explained else {
            // The first count there is.
            self.explained = Some(count);
            return None;
        };
        if count <= explained {
            // Moved into another cgroup, whose count is another one.
            if count < explained {
                self.explained = Some(count);
            }
            self.pending = None;
            return None;
        }
        let (since, _) = *self.pending.get_or_insert((now, count));
        if now.duration_since(since) < UNEXPLAINED_AFTER {
            return None;
        }
        self.pending = None;
        self.explained = Some(count);
        let among = self.own.iter().filter(|kill| now.duration_since(kill.at) < MAY_BE_AMONG).map(|kill| kill.run).collect();
        Some(Unexplained { kills: count.saturating_sub(explained), among })
    }

    /// Whether a kill waits for its explanation, so that it should be asked again soon.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }
}

impl OwnKill {
    fn may_matter(&self, now: Instant) -> bool {
        !self.over || now.duration_since(self.at) < MAY_BE_AMONG
    }
}

/// The flag of a process that is on its way out; see PF_EXITING in Linux's include/linux/sched.h.
const EXITING: u64 = 0x4;
/// SIGKILL in a set of signals.
const KILL: u64 = 1 << 8;

/// Whether a child that cannot be waited for yet is on its way out, or will be once it runs again: SIGKILL has been sent to it. A main thread that has
/// ended is dead to see, and can be waited for only when the last of the others has freed the memory.
#[must_use]
pub fn is_being_killed(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|text| parse_is_being_killed(&text) == Some(true))
}

/// See proc_pid_stat(5): the name in parentheses may hold anything; then come field 3, the state, number 9, the flags, and number 31, the pending signals.
fn parse_is_being_killed(text: &[u8]) -> Option<bool> {
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(end_of_name.checked_add(2)?..)?).ok()?.split(' ');
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let pending: u64 = fields.nth(21)?.parse().ok()?;
    Some(matches!(state, "Z" | "X" | "x") || flags & EXITING != 0 || pending & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{InstanceId, ServiceId};

    #[test]
    fn who_is_being_killed_is_told_from_who_lives() {
        let stat = |state: char, flags: u32, pending: u32| {
            let text = format!(
                "17 (a) Z (b) {state} 1 17 17 0 -1 {flags} 9 0 0 0 1 2 0 0 20 0 1 0 500 3000 200 18446744073709551615 1 1 0 0 0 {pending} 0 0"
            );
            parse_is_being_killed(text.as_bytes())
        };
        // PF_FORKNOEXEC and others, SIGTERM.
        assert_eq!(stat('S', 0x40_0040, 1 << 14), Some(false));
        assert_eq!(stat('R', 0x40_0004, 0), Some(true));
        assert_eq!(stat('R', 0x40_0000, 1 << 8), Some(true));
        assert_eq!(stat('Z', 0x40_0000, 0), Some(true));
        assert_eq!(parse_is_being_killed(b"17 (a) S 1"), None);
        assert!(!is_being_killed(std::process::id()));
    }

    const KILLED: Option<Outcome> = Some(Outcome::Signaled(Signal::KILL));

    fn run(service: usize) -> RunId {
        RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run: 1 }
    }

    fn both() -> Vec<(u32, RunId)> {
        vec![(10, run(0)), (11, run(1))]
    }

    #[test]
    fn a_kill_and_a_new_count_are_the_oom_killers() {
        let mut toll = Toll::new(Some(3));
        assert_eq!(toll.judge(Instant::now(), 10, run(0), || Some(4), both, |_| None), (true, None));
        assert_eq!(toll.judge(Instant::now(), 11, run(1), || Some(4), both, |_| None), (false, None), "the count is used up");
    }

    #[test]
    fn a_kill_without_a_new_count_is_somebody_elses() {
        let mut toll = Toll::new(Some(3));
        assert_eq!(toll.judge(Instant::now(), 10, run(0), || Some(3), both, |_| None), (false, None));
        assert_eq!(Toll::new(None).judge(Instant::now(), 10, run(0), || None, both, |_| None), (false, None), "no count, no claim");
    }

    #[test]
    fn of_two_deaths_and_one_kill_neither_is_claimed() {
        let mut toll = Toll::new(Some(0));
        let (verdict, unexplained) = toll.judge(Instant::now(), 10, run(0), || Some(1), both, |_| KILLED);
        assert!(!verdict);
        assert_eq!(unexplained, Some(Unexplained { kills: 1, among: vec![run(0), run(1)] }));
        assert_eq!(toll.judge(Instant::now(), 11, run(1), || Some(1), both, |_| None), (false, None));
    }

    #[test]
    fn the_count_of_the_runs_own_cgroup_decides_alone() {
        let mut toll = Toll::new(Some(0));
        assert!(!toll.judge_by_own_count(10, run(0), 0));
        assert!(toll.judge_by_own_count(11, run(1), 1));
        assert_eq!(toll.unexplained(Some(1), Instant::now()), None);
        assert!(!toll.is_pending(), "the kill is explained");
        toll.sent_kill(run(0), Instant::now());
        assert!(!toll.judge_by_own_count(10, run(0), 1));
    }

    #[test]
    fn of_two_deaths_and_two_kills_both_are() {
        let mut toll = Toll::new(Some(0));
        assert_eq!(toll.judge(Instant::now(), 10, run(0), || Some(2), both, |_| KILLED), (true, None));
        assert_eq!(toll.judge(Instant::now(), 11, run(1), || Some(2), both, |_| None), (true, None));
    }

    #[test]
    fn the_count_is_read_again_when_it_moves_while_the_deaths_are_looked_at() {
        let mut toll = Toll::new(Some(0));
        let mut counts = [1, 2, 2, 2].into_iter();
        assert_eq!(toll.judge(Instant::now(), 10, run(0), || counts.next(), both, |_| KILLED), (true, None));
        assert_eq!(toll.judge(Instant::now(), 11, run(1), || Some(2), both, |_| None), (true, None));
    }

    #[test]
    fn firstmates_own_kill_is_never_the_oom_killers() {
        let mut toll = Toll::new(Some(0));
        toll.sent_kill(run(0), Instant::now());
        assert_eq!(toll.judge(Instant::now(), 10, run(0), || Some(1), both, |_| None), (false, None));
    }

    #[test]
    fn a_kill_that_nothing_explains_is_told_after_a_while_and_once() {
        let now = Instant::now();
        let mut toll = Toll::new(Some(0));
        assert_eq!(toll.unexplained(Some(1), now), None);
        assert!(toll.is_pending());
        assert_eq!(toll.unexplained(Some(1), now + UNEXPLAINED_AFTER), Some(Unexplained { kills: 1, among: vec![] }));
        assert_eq!(toll.unexplained(Some(1), now + UNEXPLAINED_AFTER * 3), None);
    }

    #[test]
    fn what_was_counted_a_while_ago_explains_no_death_of_now() {
        let now = Instant::now();
        let mut toll = Toll::new(Some(0));
        // A worker, whom nobody here waits for.
        assert_eq!(toll.unexplained(Some(1), now), None);
        let later = now + EXPLAINS_FOR;
        assert_eq!(toll.judge(later, 10, run(0), || Some(1), both, |_| None), (false, None), "somebody else's kill");
        assert_eq!(toll.judge(later, 11, run(1), || Some(2), both, |_| None), (true, None), "a kill of its own");
        assert_eq!(toll.unexplained(Some(2), now + UNEXPLAINED_AFTER), Some(Unexplained { kills: 1, among: vec![] }));
    }

    #[test]
    fn firstmates_own_kills_of_long_ago_are_not_among_the_unexplained() {
        let now = Instant::now();
        let mut toll = Toll::new(Some(0));
        toll.sent_kill(run(0), now);
        toll.run_over(run(0));
        let later = now + MAY_BE_AMONG * 2;
        assert_eq!(toll.unexplained(Some(1), later), None);
        let found = toll.unexplained(Some(1), later + UNEXPLAINED_AFTER);
        assert_eq!(found, Some(Unexplained { kills: 1, among: vec![] }));
    }

    #[test]
    fn a_kill_of_another_run_does_not_make_the_first_ones_death_the_kernels() {
        let now = Instant::now();
        let mut toll = Toll::new(Some(0));
        toll.sent_kill(run(0), now);
        // It takes its time to die, and another one is killed meanwhile.
        let later = now + MAY_BE_AMONG * 2;
        toll.sent_kill(run(1), later);
        assert_eq!(toll.judge(later, 10, run(0), || Some(1), both, |_| None), (false, None));
        toll.run_over(run(0));
        toll.run_over(run(1));
        toll.sent_kill(run(2), later + MAY_BE_AMONG);
        assert_eq!(toll.own.len(), 1, "who is over is forgotten");
    }
}
