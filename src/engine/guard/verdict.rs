//! When the guard acts, on whom, and how.

use std::cmp::Reverse;
use std::time::Duration;

use super::history::AGES;
use super::{
    Above, Acting, CHANGED, Decision, FRESH, FRESH_ENOUGH, Guard, Lines, MEASURE_AGAIN, MEASURE_WITHIN, May, NOISE, Returned, TRY_AGAIN,
    Track, bytes, float, is_up, part, told,
};
use crate::engine::Timestamp;
use crate::engine::event::{Action, RunId};
use crate::engine::instance::{Idle, Instance, State};
use crate::engine::memory::{Act, Acted, Helpless, MemoryAction, MemoryNotice, Rule};
use crate::engine::spec::{MemoryAction as Wanted, Victim};

/// What climbs may climb to this share of the way from the line to `hard_above`, at the pace it came with: a garbage collector that is
/// going to turn looks like a leak until it does. What has not come so far by then has settled, and is above the line to stay.
const PATIENCE_ROOM: f64 = 0.8;
/// One that has been restarted for having come so far may go farther the next time, by so much: it may be one that settles a little higher.
const PATIENCE_MORE_ROOM: f64 = 0.1;
/// What stays where it is may stay so many times `confirm`.
const PATIENCE_FLAT: u32 = 6;
/// Once it has been seen to come back from as high, so many times the longest it took.
const PATIENCE_RETURNED: u32 = 2;
/// Never longer than this.
const PATIENCE_END: Duration = Duration::from_secs(3_600);
/// As high as before, and a little.
const AS_HIGH: f64 = 1.02;
/// A forecast counts within this share of the limit below the hard line: bursts that turn before need no restart.
const FORECAST_ROOM: f64 = 0.03;
/// At the present rate the hard line is so near, in seconds. A service that has been restarted for a forecast gets so many times less
/// the next time, until it has really crossed the line: it may be one that would have settled just below.
const FORECAST: f64 = 3.0;
const FORECAST_LESS: f64 = 10.0;
/// That rate is taken over so long.
const TREND: Duration = Duration::from_secs(1);
/// Looks in a row at the hard line.
const HARD_LOOKS: u32 = 3;
/// In a grace period: SIGKILL when at the present rate the limit is so near, in seconds.
const GRACE_LEFT: f64 = 0.02;
/// A service that holds this share of the limit is worth ending in an emergency, though it was not seen to grow.
const WORTH: f64 = 0.10;
/// One that has grown by this share of it, too.
const WORTH_GROWN: f64 = 0.02;
/// Who grows at less than this part of the pace of the fastest does not grow now.
const GROWS_NOW: u64 = 4;
/// Many small ones that grow together are worth ending one after the other.
const WORTH_EACH: f64 = 0.01;
/// When nobody can be chosen, it is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The same, when memory is short.
const LOOK_AGAIN_SOON: Duration = Duration::from_millis(100);
/// After SIGKILL, when another may follow: the memory of the first takes a moment to come back.
const NEXT_KILL: Duration = Duration::from_millis(150);
/// It is flat when it grows at less than this share of the pace it came up with.
const FLAT: f64 = 0.25;
/// For so long at the least.
const FLAT_FOR: Duration = Duration::from_secs(1);
/// A restart within this time did not help if it is above the line again and no longer grows...
const CAME_BACK_WITHIN: Duration = Duration::from_secs(3_600);
/// ...and however long ago it was, if it holds the same to within this part.
const AS_BEFORE: u64 = 20;
/// A plateau is left when it grows by this much.
const PLATEAU_LEFT: f64 = 1.05;
/// One instance waits so long for another of its service to be ready again.
const SIBLING_WITHIN: Duration = Duration::from_secs(60);
/// The signal of an `action` gets so many times `confirm` to help.
const SIGNAL_HELPS_WITHIN: u32 = 3;
const SIGNAL_HELPS_LEAST: Duration = Duration::from_secs(2);

/// The window that begins with each run.
const LIFE: usize = AGES.len();
/// The window that has no beginning: all a run holds is new.
const WHOLE: usize = LIFE + 1;
/// The window since the account before the last.
const NOW: usize = WHOLE + 1;

/// One that may be chosen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    index: usize,
    run: RunId,
    estimate: u64,
    /// In the window in which the container has grown.
    grown: u64,
    last: bool,
}

impl Guard {
    /// Judges the present picture. Asks for a newer one first, where a decision would stand on an old one.
    pub(super) fn consider(&mut self, now: Timestamp, instances: &[Instance], may: May, out: &mut Vec<Action>) -> Option<Decision> {
        let lines = self.lines?;
        let foreseen = self.pace.foreseen(now, &lines);
        // What is foreseen may come nearer to the limit than what is there: it stops if what grows so fast is a burst that turns.
        let too_near = lines.emergency.midpoint(lines.limit);
        let urgent = self.hard >= lines.emergency || foreseen >= float(too_near);
        if let Some(acting) = self.acting {
            // Who leaves for a line of its own may take its time, but the container's memory cannot wait for it when another one grows.
            if may == May::All && self.another_grows(&lines, acting, instances) {
                let decision = if urgent && self.hard >= lines.restart {
                    self.emergency(now, &lines, instances, out)
                } else {
                    let rule = self.rule(now, &lines).filter(|rule| *rule != Rule::Held);
                    rule.and_then(|rule| self.act_for_container(now, &lines, rule, instances, out))
                };
                if decision.is_some() || !urgent || self.account_asked.is_some() {
                    return decision;
                }
            }
            return self.end_of_grace(now, &lines, acting, urgent, instances, out);
        }
        if urgent && self.hard >= lines.restart {
            let decision = self.emergency(now, &lines, instances, out);
            // Of a machine that others fill, its own lines are all that is left to judge by.
            if decision.is_some() || !lines.machine {
                return decision;
            }
        }
        if may == May::Emergency {
            return None;
        }
        if let Some(rule) = self.rule(now, &lines) {
            let decision = self.act_for_container(now, &lines, rule, instances, out);
            // A container that stays above the line, with nobody to blame, still has services with lines of their own.
            if decision.is_some() || rule != Rule::Held {
                return decision;
            }
        }
        self.own_lines(now, &lines, instances, out)
    }

    /// Whether the run that is being ended for a line of its own is not the one because of which memory grows short.
    fn another_grows(&self, lines: &Lines, acting: Acting, instances: &[Instance]) -> bool {
        if acting.rule != Rule::Own || acting.killed_at.is_some() || lines.machine {
            return false;
        }
        let level = self.window(true);
        let leaving = self.index_of(acting.run).and_then(|index| self.tracks.get(index)).map_or(0, |track| grown(track, level));
        self.grows_now(lines, true, instances, |_| true).is_some_and(|other| other.grown > leaving)
    }

    /// Which rule of the container's holds, if one does.
    fn rule(&self, now: Timestamp, lines: &Lines) -> Option<Rule> {
        let above = self.above.as_ref()?;
        if self.over_hard >= HARD_LOOKS {
            return Some(Rule::Hard);
        }
        let culprit = self.culprit();
        let forecasts = i32::try_from(culprit.map_or(0, |track| track.forecasts).min(2)).unwrap_or(2);
        let slope = self.trend(now, lines);
        if slope > 0.0
            && !culprit.is_some_and(has_been_there)
            && self.hard >= lines.hard.saturating_sub(part(lines.limit, FORECAST_ROOM))
            && float(lines.hard.saturating_sub(self.hard)) / slope < FORECAST / FORECAST_LESS.powi(forecasts)
        {
            return Some(Rule::Forecast);
        }
        (self.hard >= lines.restart && now.since(above.since) >= self.required(now, above)).then_some(Rule::Held)
    }

    /// Bytes a second over the last second or so, 0 when that is no more than the counters' noise; what the last looks say while there
    /// is nothing older.
    fn trend(&self, now: Timestamp, lines: &Lines) -> f64 {
        let mark = self.history.before(now, TREND);
        let passed = now.since(mark.at).as_secs_f64();
        if self.accounted_at.is_none() || passed <= 0.0 || passed > 4.0 {
            return self.pace.slope();
        }
        let grown = float(self.hard) - float(mark.bytes);
        if grown < float(lines.limit) * NOISE { 0.0 } else { grown / passed }
    }

    /// How long it must have been above the line.
    pub(super) fn required(&self, now: Timestamp, above: &Above) -> Duration {
        let culprit = self.culprit();
        let patience = culprit.map_or(0, |track| track.patience);
        let flat = culprit.is_some_and(|track| is_flat(now, track));
        let signalled = self.tracks.iter().filter_map(|track| track.signalled.filter(|(run, _)| *run == track.run)).map(|(_, at)| at).max();
        let climb = self.lines.map_or(Duration::ZERO, |lines| {
            let share = f64::from(patience).mul_add(PATIENCE_MORE_ROOM, PATIENCE_ROOM).min(1.0);
            let room = float(lines.hard.saturating_sub(lines.restart)) * share;
            if float(self.hard) >= float(lines.restart) + room {
                // From there on it has `confirm` to settle.
                let high_for = self.not_below(now, bytes(float(lines.restart) + room));
                return now.since(above.since).saturating_sub(high_for).saturating_add(self.policy.confirm);
            }
            let pieces = room / float(lines.restart.saturating_sub(lines.rearm)).max(1.0);
            Duration::try_from_secs_f64(above.climb.as_secs_f64() * pieces).unwrap_or(PATIENCE_END)
        });
        let required = patient(self.policy.confirm, climb, self.hard, self.returned, flat);
        match signalled {
            // What the signal was for gets time to help.
            Some(at) if at >= above.since => {
                let helps = self.policy.confirm.saturating_mul(SIGNAL_HELPS_WITHIN).max(SIGNAL_HELPS_LEAST);
                required.max(at.after(helps).since(above.since))
            }
            Some(_) | None => required,
        }
    }

    /// The one that holds most of what has grown.
    fn culprit(&self) -> Option<&Track> {
        let level = self.window(false);
        self.tracks.iter().filter(|track| track.share.is_some()).max_by_key(|track| grown(track, level))
    }

    /// The shortest window in which all together hold so much more than ever before as a restart must bring back; where time is short, as is
    /// worth anything, since then it matters who grows now.
    fn window(&self, short: bool) -> usize {
        let Some(lines) = self.lines else { return WHOLE };
        let worth = part(lines.limit, WORTH_GROWN);
        let need = if short { worth } else { self.hard.saturating_sub(lines.rearm).max(worth) };
        let all = |level: usize| self.tracks.iter().map(|track| grown(track, level)).fold(0, u64::saturating_add);
        (0..WHOLE).find(|level| all(*level) >= need).unwrap_or(WHOLE)
    }

    /// Those that may be chosen, the best first: what has grown most, then what is largest; `victim = "last"` after all others.
    ///
    /// Where time is short, and somebody grows by what is worth anything from one account to the next, those that do not are not to blame,
    /// whatever they have taken for their own beginning a moment ago.
    fn candidates(&self, instances: &[Instance], snapshots_too: bool, short: bool) -> Vec<Candidate> {
        let level = self.window(short);
        let most_now = if short { self.tracks.iter().map(|track| grown(track, NOW)).max().unwrap_or_default() } else { 0 };
        let hurried = self.lines.is_some_and(|lines| most_now >= part(lines.limit, WORTH_GROWN));
        let to_blame_for = |track: &Track| {
            let (long, now) = (grown(track, level), grown(track, NOW));
            if hurried && now < most_now / GROWS_NOW { long.min(now) } else { long }
        };
        let mut found: Vec<Candidate> = self
            .tracks
            .iter()
            .zip(instances)
            .enumerate()
            .filter_map(|(index, (track, instance))| {
                let run = instance.run().filter(|run| run.run == track.run)?;
                let share = track.share?;
                let allowed = track.policy.victim != Victim::Never && is_up(instance) && (snapshots_too || !track.snapshot);
                allowed.then(|| Candidate {
                    index,
                    run,
                    estimate: share.estimate,
                    grown: to_blame_for(track),
                    last: track.policy.victim == Victim::Last,
                })
            })
            .collect();
        found.sort_by_key(|one| (one.last, Reverse(one.grown), Reverse(one.estimate), one.run));
        found
    }

    /// The one whose restart brings the container back below the line; or one of several that have grown alike and together do.
    fn would_help(&self, lines: &Lines, need: u64, instances: &[Instance]) -> Option<Candidate> {
        // With time to spare, nobody is ended for being large: that is how much they need.
        if self.window(false) == WHOLE && !self.policy.confirm.is_zero() {
            return None;
        }
        let candidates = self.candidates(instances, false, false);
        // Where it settles anyway is not gained by a restart.
        let gain =
            |one: &Candidate| one.estimate.saturating_sub(self.tracks.get(one.index).and_then(|track| track.plateau).unwrap_or_default());
        let all: u64 = candidates.iter().map(|one| one.grown.min(gain(one))).fold(0, u64::saturating_add);
        let most = candidates.iter().map(|one| one.grown).max().unwrap_or_default();
        candidates.iter().copied().find(|one| {
            let enough = gain(one) >= need && one.grown.saturating_mul(2) >= need;
            let alike = one.grown >= part(lines.limit, WORTH_EACH) && one.grown.saturating_mul(2) >= most;
            enough || (all >= need && alike && gain(one) >= one.grown / 2)
        })
    }

    /// The one that grows now, if that is worth anything. Nobody does where all that can be said is that they are there.
    fn grows_now(&self, lines: &Lines, snapshots_too: bool, instances: &[Instance], may_be: impl Fn(&Track) -> bool) -> Option<Candidate> {
        if self.window(true) == WHOLE {
            return None;
        }
        let worth = part(lines.limit, WORTH_GROWN);
        let mut candidates = self.candidates(instances, snapshots_too, true).into_iter();
        candidates.find(|one| one.grown >= worth && self.tracks.get(one.index).is_some_and(&may_be))
    }

    /// The one that has grown most, over the time in which the container has grown by what a restart must bring back; nobody where no
    /// time is long enough.
    fn has_grown(&self, worth: u64, snapshots_too: bool, instances: &[Instance], may_be: impl Fn(&Track) -> bool) -> Option<Candidate> {
        if self.window(false) == WHOLE {
            return None;
        }
        let mut candidates = self.candidates(instances, snapshots_too, false).into_iter();
        candidates.find(|one| one.grown >= worth && self.tracks.get(one.index).is_some_and(&may_be))
    }

    /// With a moment left: the one that has grown most and goes on growing, since that gives back most, whoever makes the last step.
    ///
    /// One that has only just begun holds what it will hold after a restart, too, as far as anybody knows: it must be enough by itself.
    fn grown_most(&self, now: Timestamp, lines: &Lines, need: u64, instances: &[Instance]) -> Option<Candidate> {
        let worth = part(lines.limit, WORTH_GROWN);
        let helps = |track: &Track| track.history.has_begun() || track.share.is_some_and(|share| share.estimate >= need);
        self.has_grown(worth, false, instances, |track| helps(track) && !is_flat(now, track))
            .or_else(|| self.grows_now(lines, false, instances, helps))
            .or_else(|| self.has_grown(worth.min(need.max(1)), false, instances, helps))
    }

    /// The largest of those that grow, though it has held as much before: what was taken for a plateau may have been a leak all the same.
    fn large_and_growing(&self, now: Timestamp, lines: &Lines, instances: &[Instance]) -> Option<Candidate> {
        let worth = part(lines.limit, WORTH);
        let grows = |track: &Track| now.since(track.history.back(AGES.len()).at) >= FLAT_FOR * 2 && !is_flat(now, track);
        let candidates = self.candidates(instances, true, false).into_iter();
        candidates
            .filter(|one| one.estimate >= worth && self.tracks.get(one.index).is_some_and(grows))
            .max_by_key(|one| (!one.last, one.estimate))
            // What a snapshot makes grow passes, and is nobody else's fault.
            .filter(|one| self.tracks.get(one.index).is_some_and(|track| !track.snapshot))
    }

    /// The largest, if it is large enough for a restart to help whether or not it has grown.
    fn largest(&self, lines: &Lines, need: u64, snapshots_too: bool, instances: &[Instance]) -> Option<Candidate> {
        let enough = part(lines.limit, WORTH).max(need);
        self.candidates(instances, snapshots_too, false).into_iter().find(|one| one.estimate >= enough)
    }

    pub(super) fn steered_one(&self, lines: &Lines, instances: &[Instance]) -> Option<usize> {
        let candidates = self.candidates(instances, false, false);
        let best = candidates.first()?;
        let worth = part(lines.limit, CHANGED);
        // Not to and fro between two that hold about the same.
        let present = candidates.iter().find(|one| self.tracks.get(one.index).is_some_and(|track| track.steered));
        match present {
            Some(present) if present.grown.saturating_add(worth) >= best.grown => Some(present.index),
            Some(_) | None => (best.grown >= worth).then_some(best.index),
        }
    }

    /// Whether the picture is new enough; if not, it is asked for, and this is asked again when it has come.
    fn is_fresh(&mut self, now: Timestamp, within: Duration, out: &mut Vec<Action>) -> bool {
        let fresh = self.accounted_at.is_some_and(|at| now.since(at) <= within);
        if !fresh && self.account_asked.is_none() {
            self.ask_account(now, out);
        }
        fresh
    }

    fn act_for_container(
        &mut self,
        now: Timestamp,
        lines: &Lines,
        rule: Rule,
        instances: &[Instance],
        out: &mut Vec<Action>,
    ) -> Option<Decision> {
        if self.helpless_until.is_some_and(|(again, more)| now < again && self.hard < more) {
            return None;
        }
        if !self.is_fresh(now, FRESH, out) {
            return None;
        }
        let need = self.hard.saturating_sub(lines.rearm);
        let chosen = match rule {
            Rule::Forecast => self.grown_most(now, lines, need, instances),
            Rule::Hard => self
                .grown_most(now, lines, need, instances)
                .or_else(|| self.large_and_growing(now, lines, instances))
                .or_else(|| self.largest(lines, need, false, instances)),
            Rule::Held | Rule::Emergency | Rule::Own => self.would_help(lines, need, instances),
        };
        let Some(best) = chosen else {
            self.tell_helpless(now, lines, need, instances, out);
            if rule != Rule::Held {
                self.look_for_more_until(now.after(LOOK_AGAIN_SOON), lines);
            }
            return None;
        };
        if rule == Rule::Held {
            let waits = self.above.is_some_and(|above| now.since(above.since) < self.required(now, &above).saturating_add(SIBLING_WITHIN));
            if waits && self.tracks.get(best.index).is_some_and(|track| a_sibling_is_away(track, instances)) {
                return None;
            }
            let candidates = self.candidates(instances, false, false);
            if self.measures_first(now, &best, &candidates, out) {
                return None;
            }
            if self.is_plateau(now, &best, lines, out) {
                return None;
            }
        }
        let line = match rule {
            Rule::Hard | Rule::Forecast => lines.hard,
            Rule::Held | Rule::Emergency | Rule::Own => lines.restart,
        };
        self.act(now, lines, best, rule, line, instances, out)
    }

    /// With time to spare and the choice not clear, what is not known well is measured first.
    fn measures_first(&mut self, now: Timestamp, best: &Candidate, candidates: &[Candidate], out: &mut Vec<Action>) -> bool {
        if self.policy.confirm < MEASURE_WITHIN {
            return false;
        }
        if let Some(until) = self.measuring_until {
            if now < until && self.tracks.iter().any(|track| track.asked.is_some_and(|(at, _)| is_open(track, at))) {
                return true;
            }
            if now < until.after(MEASURE_AGAIN) {
                return false;
            }
        }
        let unclear: Vec<RunId> = candidates
            .iter()
            .filter(|one| one.index == best.index || one.grown.saturating_mul(2) >= best.grown)
            .filter(|one| self.wants_measure(now, one.index))
            .map(|one| one.run)
            .collect();
        if unclear.is_empty() {
            return false;
        }
        self.measuring_until = Some(now.after(MEASURE_WITHIN));
        self.measure(now, unclear, out);
        true
    }

    pub(super) fn wants_measure(&self, now: Timestamp, index: usize) -> bool {
        let Some(track) = self.tracks.get(index) else { return false };
        let recently = |at: Option<Timestamp>| at.is_some_and(|at| now.since(at) < MEASURE_AGAIN);
        track.share.is_some_and(|share| !share.is_exact())
            && track.sum.is_some()
            && !recently(track.asked.map(|(at, _)| at))
            && track.refused_at.is_none_or(|at| now.since(at) >= TRY_AGAIN)
    }

    fn measure(&mut self, now: Timestamp, runs: Vec<RunId>, out: &mut Vec<Action>) {
        for run in &runs {
            if let Some(track) = self.index_of(*run).and_then(|index| self.tracks.get_mut(index)) {
                track.asked = track.sum.map(|sum| (now, sum));
            }
        }
        out.push(Action::Memory(MemoryAction::Measure { runs }));
    }

    /// It was restarted for this lately, and is where it was without growing: told once, and left alone until it grows.
    fn is_plateau(&mut self, now: Timestamp, best: &Candidate, lines: &Lines, out: &mut Vec<Action>) -> bool {
        let hard = self.hard;
        let Some(track) = self.tracks.get_mut(best.index) else { return false };
        if track.plateau.is_some_and(|plateau| float(best.estimate) <= float(plateau) * PLATEAU_LEFT) {
            return true;
        }
        if !settles_again(now, track) {
            // It may still do so a little higher.
            let signalled = track.signalled.is_some_and(|(run, _)| run == track.run);
            return has_been_there(track) && !signalled && !self.policy.confirm.is_zero();
        }
        let known = track.plateau.replace(best.estimate).is_some();
        if !known {
            out.push(told(MemoryNotice::Plateau { instance: track.id, bytes: best.estimate, at: hard, of: lines.limit, own: false }));
        }
        // This is how much they all need: the others are not to be tried in turn.
        for track in &mut self.tracks {
            track.history.accept();
        }
        true
    }

    fn tell_helpless(&mut self, now: Timestamp, lines: &Lines, need: u64, instances: &[Instance], out: &mut Vec<Action>) {
        // Asked again in a while: somebody may have grown by then.
        self.look_for_more_until(now.after(LOOK_AGAIN), lines);
        if self.told_helpless {
            return;
        }
        self.told_helpless = true;
        let others = self.rest.others;
        let forbidden = self
            .tracks
            .iter()
            .any(|track| track.policy.victim == Victim::Never && track.share.is_some_and(|share| share.estimate >= need.max(1)));
        let known = self.tracks.iter().zip(instances).any(|(track, instance)| is_up(instance) && track.share.is_some());
        let why = if self.rest.unmapped.saturating_mul(2) >= need.max(1) {
            let mut places = self.tmpfs.clone();
            places.sort_by_key(|(_, bytes)| Reverse(*bytes));
            Helpless::Tmpfs { bytes: self.rest.unmapped, places }
        } else if !known {
            Helpless::Unknown
        } else if others.saturating_mul(2) >= need.max(1) && others >= part(lines.limit, WORTH) {
            Helpless::Others { bytes: others }
        } else if forbidden {
            Helpless::Forbidden
        } else {
            Helpless::NobodyGrew
        };
        let shares = self.shares_by_size(instances);
        out.push(told(MemoryNotice::Helpless { why, hard: self.hard, limit: lines.limit, shares }));
    }

    fn look_for_more_until(&mut self, again: Timestamp, lines: &Lines) {
        self.helpless_until = Some((again, self.hard.saturating_add(part(lines.limit, CHANGED))));
    }

    /// SIGKILL to the one that would help most.
    fn emergency(&mut self, now: Timestamp, lines: &Lines, instances: &[Instance], out: &mut Vec<Action>) -> Option<Decision> {
        if !self.is_fresh(now, FRESH_ENOUGH, out) {
            return None;
        }
        let need = self.hard.saturating_sub(lines.restart);
        // Who grows now, then who has grown, then who is large.
        let chosen = if lines.machine {
            // The machine's memory is not ours alone: only one that is beyond its own line is to blame.
            self.candidates(instances, true, true).into_iter().find(|one| {
                self.tracks
                    .get(one.index)
                    .is_some_and(|track| track.share.is_some_and(|share| self.line_of(track).is_some_and(|line| share.low >= line)))
            })
        } else {
            let worth = part(lines.limit, WORTH_GROWN).min(need.max(1));
            self.grows_now(lines, true, instances, |_| true)
                .or_else(|| self.has_grown(worth, true, instances, |_| true))
                .or_else(|| self.largest(lines, need, true, instances))
        };
        let Some(best) = chosen else {
            // Who grew all of it may not be in that picture.
            let came_since = self.changed_from.is_some_and(|from| self.hard.saturating_sub(from) >= part(lines.limit, CHANGED));
            if came_since && self.account_asked.is_none() {
                self.ask_account(now, out);
            }
            self.tell_helpless(now, lines, need, instances, out);
            return None;
        };
        self.act(now, lines, best, Rule::Emergency, lines.emergency, instances, out)
    }

    /// The grace period ends when memory does.
    fn end_of_grace(
        &mut self,
        now: Timestamp,
        lines: &Lines,
        acting: Acting,
        urgent: bool,
        instances: &[Instance],
        out: &mut Vec<Action>,
    ) -> Option<Decision> {
        let slope = self.pace.slope();
        let soon = slope > 0.0 && self.hard >= lines.restart && float(lines.limit.saturating_sub(self.hard)) / slope < GRACE_LEFT;
        if !(urgent || soon) || lines.machine {
            return None;
        }
        match acting.killed_at {
            None => {
                self.acting = Some(Acting { killed_at: Some(now), ..acting });
                if acting.rule != Rule::Emergency {
                    self.count(Rule::Emergency);
                }
                out.push(told(MemoryNotice::GraceOver { run: acting.run, hard: self.hard, limit: lines.limit }));
                Some(Decision::Kill(acting.run))
            }
            // It is on its way out, and another one grows.
            Some(at) if urgent && now.since(at) >= NEXT_KILL && slope > 0.0 => self.emergency(now, lines, instances, out),
            Some(_) => None,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an act says everything there is to say")]
    fn act(
        &mut self,
        now: Timestamp,
        lines: &Lines,
        chosen: Candidate,
        rule: Rule,
        line: u64,
        instances: &[Instance],
        out: &mut Vec<Action>,
    ) -> Option<Decision> {
        let own = rule == Rule::Own;
        let hard = self.hard;
        let since = instances.get(chosen.index).and_then(Instance::life).map_or(now, |life| life.since);
        // The last two looks tell more only where there is no time for a third: a burst between them is no pace.
        let container = if rule == Rule::Emergency { self.trend(now, lines).max(self.pace.slope()) } else { self.trend(now, lines) };
        let container_above = self.above;
        let track = self.tracks.get_mut(chosen.index)?;
        let share = track.share?;
        let signal = match track.policy.action {
            Wanted::Signal(signal) if matches!(rule, Rule::Held | Rule::Own) && track.signalled.is_none_or(|(run, _)| run != track.run) => {
                Some(signal)
            }
            Wanted::Restart | Wanted::Signal(_) => None,
        };
        let slope = slope_of(now, track);
        let oom_in = (container > 0.0 && !lines.machine)
            .then(|| Duration::try_from_secs_f64(float(lines.limit.saturating_sub(hard)) / container).ok())
            .flatten();
        let act = match (signal, rule) {
            (Some(signal), _) => Act::Signal(signal),
            (None, Rule::Emergency) => Act::Kill,
            (None, Rule::Held | Rule::Forecast | Rule::Hard | Rule::Own) => Act::Restart,
        };
        out.push(told(MemoryNotice::Acted(Box::new(Acted {
            run: chosen.run,
            act,
            rule,
            bytes: share.estimate,
            method: share.method,
            slope,
            hard,
            limit: lines.limit,
            line,
            above_for: track
                .above
                .filter(|_| own || lines.machine)
                .or(container_above)
                .map_or(Duration::ZERO, |above| now.since(above.since)),
            oom_in,
            top: track.top.clone(),
            uptime: now.since(since),
        }))));
        track.last_act = Some(now);
        match rule {
            // It stayed: next time it may be longer, in case it would have come back.
            Rule::Held | Rule::Own => track.patience = track.patience.saturating_add(1),
            Rule::Forecast => {
                track.patience = 0;
                track.forecasts = track.forecasts.saturating_add(1);
            }
            // It did not come back: a leak beyond doubt.
            Rule::Hard | Rule::Emergency => (track.patience, track.forecasts) = (0, 0),
        }
        track.measured = None;
        if let Some(signal) = signal {
            track.signalled = Some((track.run, now));
            if own && let Some(above) = &mut track.above {
                above.since = now;
            }
            self.count(rule);
            out.push(Action::Memory(MemoryAction::Signal { run: chosen.run, signal }));
            return None;
        }
        track.restarted_at = Some(now);
        // One that went on growing has shown nothing but that.
        track.restarted_with = if matches!(rule, Rule::Held | Rule::Own) { share.estimate } else { 0 };
        self.count(rule);
        let kill = rule == Rule::Emergency;
        self.acting = Some(Acting { run: chosen.run, rule, killed_at: kill.then_some(now) });
        out.push(Action::Memory(MemoryAction::Brake { run: chosen.run }));
        Some(if kill { Decision::Kill(chosen.run) } else { Decision::Restart(chosen.run) })
    }

    /// Follows each instance that has a line of its own.
    pub(super) fn follow_own(&mut self, now: Timestamp) {
        for index in 0..self.tracks.len() {
            let Some(line) = self.tracks.get(index).and_then(|track| self.line_of(track)) else { continue };
            let Some(track) = self.tracks.get_mut(index) else { continue };
            let Some(share) = track.share else {
                track.above = None;
                continue;
            };
            let rearm = line.saturating_sub(part(line, super::REARM)).min(line.saturating_sub(1));
            match &mut track.above {
                Some(above) => {
                    above.peak = above.peak.max(share.estimate);
                    if share.high < rearm.max(1) || share.estimate < rearm {
                        if track.last_act.is_none_or(|at| at < above.since) {
                            track.own_returned.peak = track.own_returned.peak.max(above.peak);
                            track.own_returned.took = track.own_returned.took.max(now.since(above.since));
                        }
                        track.above = None;
                    }
                }
                None => {
                    if share.estimate >= line || share.low >= line {
                        let mark = track.history.back(AGES.len());
                        let half =
                            (0..AGES.len()).map(|level| track.history.back(level)).find(|mark| mark.bytes <= line / 2).unwrap_or(mark);
                        let climb = now.since(half.at).saturating_mul(2);
                        track.above = Some(Above { since: now, entered: now, climb, peak: share.estimate });
                    }
                }
            }
        }
    }

    /// Services with a line of their own; every service where the limit is the machine's.
    fn own_lines(&mut self, now: Timestamp, lines: &Lines, instances: &[Instance], out: &mut Vec<Action>) -> Option<Decision> {
        let (mut unclear, mut settled) = (Vec::new(), Vec::new());
        let mut due = None;
        for (index, (track, instance)) in self.tracks.iter().zip(instances).enumerate() {
            let (Some(above), Some(share), Some(line)) = (track.above, track.share, self.line_of(track)) else { continue };
            let Some(run) = instance.run().filter(|run| run.run == track.run) else { continue };
            if !is_up(instance) || track.snapshot {
                continue;
            }
            let flat = is_flat(now, track);
            // A line of its own was drawn for it by somebody who knows it: how slowly it climbed says nothing against that.
            let mut required = patient(self.policy.confirm, Duration::ZERO, share.estimate, track.own_returned, flat);
            if let Some((run, at)) = track.signalled
                && run == track.run
            {
                let helps = self.policy.confirm.saturating_mul(SIGNAL_HELPS_WITHIN).max(SIGNAL_HELPS_LEAST);
                required = required.max(at.after(helps).since(above.since));
            }
            if now.since(above.since) < required {
                continue;
            }
            if share.low < line {
                // Perhaps: that is never a reason to act, but one to look closer.
                if self.wants_measure(now, index) {
                    unclear.push(run);
                }
                continue;
            }
            // That one has settled, or waits for another of its kind, says nothing about the rest.
            if track.plateau.is_some_and(|plateau| float(share.estimate) <= float(plateau) * PLATEAU_LEFT) {
                continue;
            }
            if settles_again(now, track) {
                settled.push((index, line));
                continue;
            }
            let waits = now.since(above.since) < required.saturating_add(SIBLING_WITHIN);
            if waits && a_sibling_is_away(track, instances) {
                continue;
            }
            due = due.or(Some((index, run, share, line)));
        }
        for (index, line) in settled {
            let Some(track) = self.tracks.get_mut(index) else { continue };
            let Some(size) = track.share.map(|share| share.estimate) else { continue };
            let own = track.policy.restart_above.is_some();
            if track.plateau.replace(size).is_none() {
                out.push(told(MemoryNotice::Plateau { instance: track.id, bytes: size, at: size, of: line, own }));
            }
        }
        if !unclear.is_empty() {
            self.measure(now, unclear, out);
        }
        let (index, run, share, line) = due?;
        let is_own = self.tracks.get(index)?.policy.restart_above.is_some();
        // Judged on this very picture: it was taken above.
        if !self.is_fresh(now, FRESH, out) {
            return None;
        }
        let chosen = Candidate { index, run, estimate: share.estimate, grown: 0, last: false };
        self.act(now, lines, chosen, if is_own { Rule::Own } else { Rule::Held }, line, instances, out)
    }
}

/// Whether another instance of the same service is not there to take over: instances are restarted one at a time.
fn a_sibling_is_away(track: &Track, instances: &[Instance]) -> bool {
    let siblings = instances.iter().filter(|instance| instance.id.service == track.id.service && instance.id != track.id);
    siblings.into_iter().any(|sibling| match &sibling.state {
        State::Idle(Idle::Due { .. } | Idle::Backoff { .. }) | State::Launching { .. } | State::Starting { .. } | State::Ending(_) => true,
        // Who is ready, and who is not coming.
        State::Idle(Idle::Stopped | Idle::Completed | Idle::Exited | Idle::Failed | Idle::Blocked { .. }) | State::Running { .. } => false,
    })
}

/// How long something must be above its line before it is restarted. `climb` is what its slow way up is worth.
fn patient(confirm: Duration, climb: Duration, size: u64, returned: Returned, flat: bool) -> Duration {
    if confirm.is_zero() {
        return Duration::ZERO;
    }
    let mut required = confirm.max(climb);
    if flat {
        required = required.max(confirm.saturating_mul(PATIENCE_FLAT));
    }
    if float(size) <= float(returned.peak) * AS_HIGH {
        required = required.max(returned.took.saturating_mul(PATIENCE_RETURNED));
    }
    required.min(PATIENCE_END)
}

/// How much more it holds than ever before that window.
fn grown(track: &Track, level: usize) -> u64 {
    let Some(share) = track.share else { return 0 };
    let before = match level {
        WHOLE => 0,
        LIFE => track.history.begun(),
        NOW => track.history.before_last(),
        _ => track.history.record(level),
    };
    share.estimate.saturating_sub(before)
}

/// Whether it has stopped growing: by the pace it would have if it had grown evenly all its life.
fn is_flat(now: Timestamp, track: &Track) -> bool {
    let Some(share) = track.share else { return false };
    let born = track.history.back(AGES.len());
    let age = now.since(born.at);
    let mark = track.history.before(now, (age / 16).max(FLAT_FOR));
    let window = now.since(mark.at);
    if window < FLAT_FOR || age < window.saturating_mul(2) {
        return false;
    }
    let even = float(share.estimate) * window.as_secs_f64() / age.as_secs_f64();
    float(share.estimate.saturating_sub(mark.bytes)) < even * FLAT
}

/// It held as much when it was restarted for staying above the line.
fn has_been_there(track: &Track) -> bool {
    track.share.is_some_and(|share| float(share.estimate) <= float(track.restarted_with) * AS_HIGH)
}

/// It was restarted for this lately, and is back without growing any more.
fn settles_again(now: Timestamp, track: &Track) -> bool {
    let signalled = track.signalled.is_some_and(|(run, _)| run == track.run);
    let Some(restarted_at) = track.restarted_at else { return false };
    let as_before = track.share.is_some_and(|share| share.estimate.abs_diff(track.restarted_with) <= track.restarted_with / AS_BEFORE);
    !signalled && (now.since(restarted_at) < CAME_BACK_WITHIN || as_before) && is_flat(now, track)
}

/// Bytes a second over the last few seconds.
fn slope_of(now: Timestamp, track: &Track) -> i64 {
    let Some(share) = track.share else { return 0 };
    let mark = track.history.before(now, AGES.first().copied().unwrap_or_default());
    let passed = now.since(mark.at).as_secs_f64();
    if passed <= 0.0 {
        return 0;
    }
    let grown = (float(share.estimate) - float(mark.bytes)) / passed;
    let size = i64::try_from(bytes(grown.abs())).unwrap_or(i64::MAX);
    if grown < 0.0 { size.saturating_neg() } else { size }
}

/// A measurement that was asked for then has not come yet.
fn is_open(track: &Track, asked: Timestamp) -> bool {
    let none_since = |at: Option<Timestamp>| at.is_none_or(|at| at < asked);
    none_since(track.measured.map(|(at, _)| at)) && none_since(track.refused_at) && none_since(track.put_off_at)
}
