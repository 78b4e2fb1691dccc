//! Whose death was the kernel's OOM killer's.
//!
//! The cgroup's count of OOM kills goes up before the signal is sent, so a child that died by SIGKILL and is looked at now is in the count.
//! The count says how many, not who: a death is the OOM killer's when there are at least as many new kills as there are deaths by
//! SIGKILL that firstmate did not cause and has not explained. When there are fewer, it cannot be said which of them it was, and none is claimed.
//!
//! Who was killed is counted at once, but dies a moment later: it has its memory to give back first. So a process that is on its way out counts
//! like a death ([`dying`]); otherwise whoever is killed by somebody else in that moment would be taken for it.
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

/// What the count has said, and which deaths it explained.
#[derive(Debug, Default)]
pub struct Toll {
    /// The count so far that is explained, or told.
    explained: Option<u64>,
    /// Children that are dead and not reaped yet, of which the verdict is known.
    verdicts: BTreeMap<u32, bool>,
    /// Since when the count is higher than what is explained.
    pending: Option<Instant>,
    /// Runs that died by a SIGKILL of firstmate's own lately: the kernel may have been faster.
    own: Vec<(RunId, Instant)>,
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
        self.own.retain(|(known, at)| *known != run && now.duration_since(*at) < UNEXPLAINED_AFTER);
        self.own.push((run, now));
    }

    fn is_own(&self, run: RunId) -> bool {
        self.own.iter().any(|(known, _)| *known == run)
    }

    /// Whether this run's main process, dead and not reaped, was killed by the OOM killer.
    ///
    /// `count` reads the count; `dying` gives the processes that are about to die ([`dying`]); `others` gives the other runs that are alive as far as is known, with their main processes, and `also` how such a one
    /// ended, if it has. What cannot be decided goes into `unexplained`.
    pub fn judge(
        &mut self,
        pid: u32,
        run: RunId,
        mut count: impl FnMut() -> Option<u64>,
        mut dying: impl FnMut() -> Vec<u32>,
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
            let new = before.saturating_sub(explained);
            if new == 0 {
                return (false, None);
            }
            // Before the dead: who dies in between is found there.
            let mut on_their_way = dying();
            let mut dead = vec![(pid, run)];
            let mut among_them = Vec::new();
            for (other, its_run) in others() {
                if self.is_own(its_run) || self.verdicts.contains_key(&other) {
                    on_their_way.retain(|dying| *dying != other);
                }
                if other != pid
                    && !self.is_own(its_run)
                    && !self.verdicts.contains_key(&other)
                    && also(other) == Some(Outcome::Signaled(Signal::KILL))
                {
                    dead.push((other, its_run));
                } else if on_their_way.contains(&other) {
                    among_them.push((other, its_run));
                }
            }
            on_their_way.retain(|dying| !dead.iter().any(|(pid, _)| pid == dying));
            if count() != Some(before) {
                continue;
            }
            let deaths = u64::try_from(dead.len()).unwrap_or(u64::MAX);
            let verdict = new >= deaths.saturating_add(u64::try_from(on_their_way.len()).unwrap_or(u64::MAX));
            for (other, _) in dead.iter().skip(1) {
                self.verdicts.insert(*other, verdict);
            }
            if !verdict {
                // It is told of once, with all who may have been meant.
                self.verdicts.extend(among_them.iter().map(|(other, _)| (*other, false)));
                dead.append(&mut among_them);
            }
            if verdict {
                self.explained = Some(explained.saturating_add(deaths));
                return (true, None);
            }
            self.explained = Some(before);
            return (false, Some(Unexplained { kills: new, among: dead.into_iter().map(|(_, run)| run).collect() }));
        }
        // The kernel kills faster than we can look: nobody can say who was whose.
        (false, None)
    }

    /// The same where the run has a cgroup of its own, in which so many kills were counted since it was last looked at: no other run's death is among them.
    pub fn judge_by_own_count(&mut self, pid: u32, run: RunId, kills: u64) -> bool {
        self.verdicts.remove(&pid);
        let killed = kills > 0 && !self.is_own(run);
        if killed {
            self.explained = self.explained.map(|explained| explained.saturating_add(1));
        }
        killed
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
        let since = *self.pending.get_or_insert(now);
        if now.duration_since(since) < UNEXPLAINED_AFTER {
            return None;
        }
        self.pending = None;
        self.explained = Some(count);
        let among = self.own.iter().map(|(run, _)| *run).collect();
        Some(Unexplained { kills: count.saturating_sub(explained), among })
    }

    /// Whether a kill waits for its explanation, so that it should be asked again soon.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }
}

/// Processes that have got a signal that ends them, and are not dead yet.
///
/// SIGKILL is pending for every thread from the moment it is sent; then the process has the flag PF_SIGNALED; and when its first thread is
/// a zombie and others are not, it is not dead either. See proc_pid_stat(5), and PF_SIGNALED in the kernel's include/linux/sched.h.
#[must_use]
pub fn dying() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_dying = |pid: &u32| std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_dying(&stat));
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_dying).collect()
}

/// By the text of /proc/PID/stat.
fn is_dying(stat: &[u8]) -> bool {
    const PF_SIGNALED: u64 = 0x400;
    const KILL: u64 = 1 << 8;
    // A name may hold anything, a `)` too; none of the fields after it does.
    let Some(end) = stat.iter().rposition(|&byte| byte == b')') else { return false };
    let fields: Vec<&[u8]> = stat.get(end..).unwrap_or_default().split(|&byte| byte == b' ').skip(1).collect();
    // Counted from the state, which is the third in the manual page.
    let number = |at: usize| fields.get(at).and_then(|field| super::cgroup::number(field.trim_ascii())).unwrap_or(0);
    match fields.first() {
        Some(&(b"Z" | b"X")) => number(17) > 1,
        Some(_) => number(6) & PF_SIGNALED != 0 || number(28) & KILL != 0,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{InstanceId, ServiceId};

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
        assert_eq!(toll.judge(10, run(0), || Some(4), Vec::new, both, |_| None), (true, None));
        assert_eq!(toll.judge(11, run(1), || Some(4), Vec::new, both, |_| None), (false, None), "the count is used up");
    }

    #[test]
    fn a_kill_without_a_new_count_is_somebody_elses() {
        let mut toll = Toll::new(Some(3));
        assert_eq!(toll.judge(10, run(0), || Some(3), Vec::new, both, |_| None), (false, None));
        assert_eq!(Toll::new(None).judge(10, run(0), || None, Vec::new, both, |_| None), (false, None), "no count, no claim");
    }

    #[test]
    fn of_two_deaths_and_one_kill_neither_is_claimed() {
        let mut toll = Toll::new(Some(0));
        let (verdict, unexplained) = toll.judge(10, run(0), || Some(1), Vec::new, both, |_| KILLED);
        assert!(!verdict);
        assert_eq!(unexplained, Some(Unexplained { kills: 1, among: vec![run(0), run(1)] }));
        assert_eq!(toll.judge(11, run(1), || Some(1), Vec::new, both, |_| None), (false, None));
    }

    #[test]
    fn of_a_death_and_one_who_is_dying_neither_is_claimed_for_one_kill() {
        let mut toll = Toll::new(Some(0));
        let (verdict, unexplained) = toll.judge(10, run(0), || Some(1), || vec![11], both, |_| None);
        assert!(!verdict);
        assert_eq!(unexplained, Some(Unexplained { kills: 1, among: vec![run(0), run(1)] }));
        assert_eq!(toll.judge(11, run(1), || Some(1), Vec::new, both, |_| None), (false, None));
        // One who is nobody's main process.
        let mut toll = Toll::new(Some(0));
        let (verdict, unexplained) = toll.judge(10, run(0), || Some(1), || vec![99], both, |_| None);
        assert_eq!((verdict, unexplained.map(|told| told.among)), (false, Some(vec![run(0)])));
    }

    #[test]
    fn enough_kills_for_those_who_are_dying_too_are_claimed() {
        let mut toll = Toll::new(Some(0));
        assert_eq!(toll.judge(10, run(0), || Some(2), || vec![11], both, |_| None), (true, None));
        assert_eq!(toll.judge(11, run(1), || Some(2), Vec::new, both, |_| None), (true, None));
        // Who died between the two looks is counted once.
        let mut toll = Toll::new(Some(0));
        assert_eq!(toll.judge(10, run(0), || Some(2), || vec![11], both, |_| KILLED), (true, None));
    }

    #[test]
    fn one_who_dies_of_firstmates_own_kill_explains_no_count() {
        let mut toll = Toll::new(Some(0));
        toll.sent_kill(run(1), Instant::now());
        assert_eq!(toll.judge(10, run(0), || Some(1), || vec![11], both, |_| None), (true, None));
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
    fn who_is_dying_can_be_told_from_who_is_dead_and_who_lives() {
        let stat = |state: &str, flags: u32, threads: u32, pending: u32| {
            format!(
                "31 (a) R (b) {state} 1 31 31 0 -1 {flags} 9 0 0 0 1 2 0 0 20 0 {threads} 0 77 99 5 184 1 1 1 1 1 {pending} 0 0 0 0 0 0 17\n"
            )
        };
        let dying = |state, flags, threads, pending| is_dying(stat(state, flags, threads, pending).as_bytes());
        assert!(!dying("S", 0x40_0000, 1, 0));
        assert!(!dying("R", 0x40_0000, 4, 1 << 14), "a pending SIGTERM may be handled");
        assert!(dying("S", 0x40_0000, 1, 1 << 8), "SIGKILL has been sent");
        assert!(dying("R", 0x40_0404, 1, 0), "it gives back its memory");
        assert!(!dying("Z", 0x40_040c, 1, 0), "it is dead");
        assert!(dying("Z", 0x40_040c, 2, 0), "another thread of it is not");
        assert!(!is_dying(b"") && !is_dying(b"31 (x)") && !is_dying(b"31 (x) "));
    }

    #[test]
    fn of_two_deaths_and_two_kills_both_are() {
        let mut toll = Toll::new(Some(0));
        assert_eq!(toll.judge(10, run(0), || Some(2), Vec::new, both, |_| KILLED), (true, None));
        assert_eq!(toll.judge(11, run(1), || Some(2), Vec::new, both, |_| None), (true, None));
    }

    #[test]
    fn the_count_is_read_again_when_it_moves_while_the_deaths_are_looked_at() {
        let mut toll = Toll::new(Some(0));
        let mut counts = [1, 2, 2, 2].into_iter();
        assert_eq!(toll.judge(10, run(0), || counts.next(), Vec::new, both, |_| KILLED), (true, None));
        assert_eq!(toll.judge(11, run(1), || Some(2), Vec::new, both, |_| None), (true, None));
    }

    #[test]
    fn firstmates_own_kill_is_never_the_oom_killers() {
        let mut toll = Toll::new(Some(0));
        toll.sent_kill(run(0), Instant::now());
        assert_eq!(toll.judge(10, run(0), || Some(1), Vec::new, both, |_| None), (false, None));
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
}
