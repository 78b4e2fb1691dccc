//! The memory guard: no service reaches the kernel's OOM killer, and none is restarted for nothing.
//!
//! One number, the container's hard memory, is read at every look, and the next look comes before the fastest possible growth could use
//! up what is left ([`pace`]). Processes are looked at only when that number says that one of them may matter, or once in a while.
//!
//! Four lines, as shares of the limit: from nine tenths of the first on it is known who holds what; above the first
//! (`restart_above`) for long enough, the service that grew is restarted; above `hard_above` at once; above `emergency_above`, or about to be
//! before the next look, SIGKILL. "Long enough" is `confirm`, and more for what may still turn: what climbs may climb to four fifths of
//! the way to `hard_above`, what has come back by itself from as high before may do so again. A garbage collector's sawtooth looks like a leak until it
//! turns, and until there nothing is lost by waiting.
//!
//! The victim is the one that holds more than it ever did before the window in which the container has grown, not the largest, and not
//! the one that is as high as in each of its cycles. A restart that would not bring the container back below the line is not made but
//! reported, and what settles where it was after a restart is left alone. Every rule waits for a number it can stand on: what is not known
//! is never a reason to act.
//!
//! The policy is tried on thousands of containers on virtual time: `docs/design/guard-simulation.md` has the figures.
//!
//! Nothing here knows how to end a run: a [`Decision`] is carried out by the stack, as an operator's wish would be.

mod history;
mod pace;
mod shares;
#[cfg(test)]
mod tests;
mod verdict;

use std::time::Duration;

use super::event::{Action, InstanceId, Notice, RunId};
use super::instance::{Instance, State};
use super::memory::{Accounts, Calm, Limit, Measurement, MemoryAction, MemoryEvent, MemoryNotice, Parts, Process, Reading, Rule, Usage};
use super::spec::{Memory, ServiceMemory};
use super::status::{GuardActs, InstanceMemory, LimitSource, MemoryMethod, MemoryStatus};
use super::{ServiceId, Timestamp};
use history::History;
use pace::Pace;
pub(super) use shares::Share;
use shares::{Measured, Rest, sum};

/// Without a limit to guard, or when nothing can be read: so often all the same, for what is shown.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Processes are looked at this often when nothing happens.
const SURVEY: Duration = Duration::from_secs(60);
/// And this often when the container's memory has changed.
const SURVEY_CHANGED: Duration = Duration::from_secs(10);
/// By this share of the limit.
const CHANGED: f64 = 0.01;
/// The first time so long after the start, and after each start of a run: what a run holds then is what it began with.
const SURVEY_FIRST: Duration = history::BEGUN_AFTER;
/// Near the line, and while a service with a line of its own may be above it.
const ACCOUNT_NEAR: Duration = Duration::from_secs(1);
/// Above the line.
const ACCOUNT_ABOVE: Duration = Duration::from_millis(250);
/// Until it has been there for so long; then as near the line.
const ABOVE_FOR_LONG: Duration = Duration::from_secs(30);
/// A decision is not taken on an older picture.
const FRESH: Duration = Duration::from_millis(20);
/// In a hurry, on no older one.
const FRESH_ENOUGH: Duration = Duration::from_millis(60);
/// Attention begins at this share of the line.
const NEAR: f64 = 0.9;
/// And ends at this.
const FAR: f64 = 0.85;
/// While all is calm, page cache may hide that less is held for so long.
const EXACT: Duration = Duration::from_secs(1);
/// The line counts as left once memory is below it by this share of the limit.
const REARM: f64 = 0.05;
/// Counters are gathered from all processors now and then: a change by less than this share of the limit may be none.
const NOISE: f64 = 0.005;
/// A measured size is worth something for so long.
const MEASURED_FOR: Duration = Duration::from_secs(60);
/// One run is not measured again before.
const MEASURE_AGAIN: Duration = Duration::from_secs(5);
/// A decision that has time waits for a measurement so long.
const MEASURE_WITHIN: Duration = Duration::from_secs(1);
/// A replacement waits for its memory so long.
const GATE: Duration = Duration::from_secs(5);
/// While one waits, whether it has come back is looked at this often.
const GATE_LOOK: Duration = Duration::from_millis(10);
/// Where the guard is off, it has come back once there is less than this share of the limit: a fork has room again.
const GATE_UNGUARDED: f64 = 0.9;
/// Who holds what near the line is told again after this: something that comes and goes is no news each time.
const NEAR_AGAIN: Duration = Duration::from_secs(6 * 3_600);
/// What could not be measured is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// The lines in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lines {
    limit: u64,
    /// The limit is the machine's: what others use counts too, so only single services are judged.
    machine: bool,
    growth_max: u64,
    restart: u64,
    rearm: u64,
    hard: u64,
    emergency: u64,
}

impl Lines {
    fn new(policy: &Memory, limit: &Limit) -> Option<Self> {
        let restart = policy.restart_above?.of(limit.bytes).clamp(1, limit.bytes.max(1));
        let hard = policy.hard_above.of(limit.bytes).clamp(restart, limit.bytes.max(restart));
        let emergency = policy.emergency_above.of(limit.bytes).clamp(hard, limit.bytes.max(hard));
        Some(Self {
            limit: limit.bytes,
            machine: limit.source == LimitSource::Machine,
            growth_max: limit.growth_max,
            restart,
            rearm: restart.saturating_sub(part(limit.bytes, REARM)),
            hard,
            emergency,
        })
    }
}

/// What the stack is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Ask the run to end, and start it again.
    Restart(RunId),
    /// SIGKILL, and start it again.
    Kill(RunId),
}

/// When the next look is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing can be read, or there is no use.
    Never,
    At(Timestamp),
    /// Asked for; the answer is on its way.
    Asked,
}

/// Above a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Above {
    /// When it was below for the last time.
    since: Timestamp,
    /// When it was well below for the last time.
    entered: Timestamp,
    /// How long the last bit of the way up took.
    climb: Duration,
    /// The highest since.
    peak: u64,
}

/// What is known of one instance.
#[derive(Debug, Clone)]
struct Track {
    id: InstanceId,
    policy: ServiceMemory,
    /// The run all this is about.
    run: u32,
    share: Option<Share>,
    history: History,
    accounted_at: Timestamp,
    /// What its processes see, added up.
    sum: Option<u64>,
    /// The sum when a measurement was asked for, and when.
    asked: Option<(Timestamp, u64)>,
    measured: Option<(Timestamp, Measured)>,
    refused_at: Option<Timestamp>,
    /// It could not be measured just then.
    put_off_at: Option<Timestamp>,
    snapshot: bool,
    top: Vec<Process>,
    /// Above its own line; or, where the limit is the machine's, above that one.
    above: Option<Above>,
    own_returned: Returned,
    /// The signal of its `action` was sent.
    signalled: Option<(u32, Timestamp)>,
    /// Where it settles after a restart that did not help.
    plateau: Option<u64>,
    /// How often it has been restarted for staying above, without having been seen on its way to the hard line.
    patience: u32,
    /// How often in a row it has been restarted for a forecast.
    forecasts: u32,
    last_act: Option<Timestamp>,
    /// Without the signals of its `action`.
    restarted_at: Option<Timestamp>,
    /// What it held then.
    restarted_with: u64,
    steered: bool,
    gate: Option<Gate>,
    /// The run the kernel's OOM killer has ended, until nothing is left of it.
    oom_killed: Option<u32>,
    told: Option<MemoryMethod>,
}

/// A replacement that waits until memory is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gate {
    /// Its policy's own delay.
    not_before: Timestamp,
    until: Timestamp,
}

/// The highest from which it came back by itself, and the longest it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Returned {
    peak: u64,
    took: Duration,
}

/// A run that is being ended for its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acting {
    run: RunId,
    rule: Rule,
    killed_at: Option<Timestamp>,
}

/// The whole guard. It reads instances and never changes one.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    policy: Memory,
    limit: Option<Limit>,
    lines: Option<Lines>,
    /// The lowest line any instance has.
    lowest: u64,
    look: Look,
    readable: Option<bool>,
    pace: Pace,
    hard: u64,
    parts: Option<Parts>,
    /// The last look that read all, for what is shown.
    exact: Option<u64>,
    history: History,
    /// When hard was last below each hundredth of the limit.
    below: [Timestamp; 100],
    /// The last look was above the line.
    crossed: bool,
    above: Option<Above>,
    /// Looks in a row at or above the hard line.
    over_hard: u32,
    returned: Returned,
    accounted_at: Option<Timestamp>,
    /// The look after the last account, to see what changes from there.
    changed_from: Option<u64>,
    account_at: Timestamp,
    /// Since when an answer is awaited.
    account_asked: Option<Timestamp>,
    /// Near a line, where it is to be known who holds what.
    attentive: bool,
    rest: Rest,
    tmpfs: Vec<(String, u64)>,
    shares: Vec<Option<Share>>,
    tracks: Vec<Track>,
    acting: Option<Acting>,
    /// Looks are left to somebody else; see [`Calm`].
    watched: bool,
    /// A replacement may be waiting for memory.
    gated: bool,
    /// A decision waits for measurements until then.
    measuring_until: Option<Timestamp>,
    told_near: Option<Timestamp>,
    told_helpless: bool,
    /// Nobody could be chosen: it is tried again then, or when there is more than this.
    helpless_until: Option<(Timestamp, u64)>,
    acts: GuardActs,
    oom_kills: u64,
    /// When a run last ended, for whatever reason: what came back then did not come back by itself.
    ended_at: Option<Timestamp>,
}

impl Guard {
    pub(super) fn new(policy: Memory, instances: impl Iterator<Item = (InstanceId, ServiceMemory)>, now: Timestamp) -> Self {
        let tracks = instances.map(|(id, policy)| Track::new(id, policy, now)).collect();
        Self {
            policy,
            limit: None,
            lines: None,
            lowest: u64::MAX,
            look: Look::Never,
            readable: None,
            pace: Pace::new(now),
            hard: 0,
            parts: None,
            exact: None,
            history: History::new(now, 0),
            below: [now; 100],
            crossed: false,
            above: None,
            over_hard: 0,
            returned: Returned::default(),
            accounted_at: None,
            changed_from: None,
            account_at: now.after(SURVEY_FIRST),
            account_asked: None,
            attentive: false,
            rest: Rest::default(),
            tmpfs: Vec::new(),
            shares: Vec::new(),
            tracks,
            acting: None,
            watched: false,
            gated: false,
            measuring_until: None,
            told_near: None,
            told_helpless: false,
            helpless_until: None,
            acts: GuardActs::default(),
            oom_kills: 0,
            ended_at: None,
        }
    }

    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        match self.look {
            Look::At(at) => Some(at),
            Look::Never | Look::Asked => None,
        }
    }

    /// Whether looks may be left to somebody else until something grows, or the processes are to be looked at.
    pub(super) fn calm(&self, now: Timestamp) -> Option<Calm> {
        let lines = self.lines.filter(|lines| !lines.machine)?;
        let calm = !self.watched
            && matches!(self.look, Look::At(_))
            && self.readable == Some(true)
            && self.pace.is_quiet(now)
            && !(self.attentive || self.gated || self.above.is_some() || self.acting.is_some() || self.account_asked.is_some());
        let attention = part(lines.restart, NEAR).min(self.lowest);
        let above = self.pace.quiet_until(&lines).min(attention);
        let below = self.hard.saturating_sub(part(lines.limit, CHANGED));
        let every = self.pace.wait(now, self.hard, &lines);
        (calm && self.hard <= above).then_some(Calm { every, above, below, exact_every: EXACT })
    }

    /// They are: the next look of our own is the one before the next look at the processes.
    pub(super) fn watched(&mut self, now: Timestamp) {
        self.watched = true;
        self.pace.left_to_others();
        self.look = Look::At(self.account_at.max(now));
    }

    pub(super) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// The processes are to be looked at by then.
    fn account_by(&mut self, at: Timestamp) {
        self.account_at = self.account_at.min(at);
        if let (true, Look::At(look)) = (self.watched, self.look) {
            self.look = Look::At(look.min(at));
        }
    }

    /// Asks for a look when it is time for one.
    pub(super) fn tick(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Look::At(at) = self.look else { return };
        if at > now {
            return;
        }
        self.look = Look::Asked;
        // A survey is the time to know exactly; below half of the line plain usage is enough to know that nothing is to be done.
        let stat_above = match self.lines {
            Some(lines) if now < self.account_at => (lines.restart / 2).min(self.lowest),
            Some(_) | None => 0,
        };
        out.push(Action::Memory(MemoryAction::Read { stat_above }));
    }

    pub(super) fn take(
        &mut self,
        now: Timestamp,
        event: MemoryEvent,
        instances: &[Instance],
        may: May,
        out: &mut Vec<Action>,
    ) -> Option<Decision> {
        match event {
            MemoryEvent::Limit(limit) => {
                self.on_limit(now, limit, out);
                None
            }
            MemoryEvent::Read(None) => {
                self.watched = false;
                if self.readable != Some(false) {
                    self.readable = Some(false);
                    out.push(told(MemoryNotice::Readable(false)));
                }
                self.pace.forget();
                self.exact = None;
                // Whether it is above a line is to be seen anew.
                (self.above, self.crossed, self.over_hard) = (None, false, 0);
                self.look = Look::At(now.after(IDLE_LOOK));
                None
            }
            MemoryEvent::Read(Some(reading)) => {
                if self.readable == Some(false) {
                    out.push(told(MemoryNotice::Readable(true)));
                }
                self.readable = Some(true);
                self.on_read(now, reading, instances, may, out)
            }
            MemoryEvent::Grew { calm_until, reading } => {
                self.pace.stayed(calm_until.min(now));
                self.history.push(calm_until.min(now), self.hard);
                self.take(now, MemoryEvent::Read(reading), instances, may, out)
            }
            MemoryEvent::Accounted(accounts) => self.on_accounted(now, *accounts, instances, may, out),
            MemoryEvent::Measured { run, pss } => {
                self.on_measured(now, run, pss);
                None
            }
            MemoryEvent::OomKills { kills, among } => {
                self.oom_kills = self.oom_kills.saturating_add(kills);
                let limit = self.limit.as_ref().map(|limit| limit.bytes);
                out.push(told(MemoryNotice::OomKills { kills, among, limit }));
                None
            }
        }
    }

    /// A run's main process was killed by the kernel's OOM killer.
    pub(super) fn oom_killed(&mut self, run: RunId) {
        self.oom_kills = self.oom_kills.saturating_add(1);
        if let Some(track) = self.index_of(run).and_then(|index| self.tracks.get_mut(index)) {
            track.oom_killed = Some(run.run);
        }
    }

    fn on_limit(&mut self, now: Timestamp, limit: Option<Limit>, out: &mut Vec<Action>) {
        if self.limit == limit && self.look != Look::Never {
            return;
        }
        self.lines = limit.as_ref().and_then(|limit| Lines::new(&self.policy, limit));
        out.push(told(MemoryNotice::Limit { limit: limit.clone(), restart_above: self.lines.map(|lines| lines.restart) }));
        self.limit = limit;
        self.watched = false;
        self.find_lowest();
        self.look = if self.limit.is_some() { Look::At(now) } else { Look::Never };
        // What was learned at another limit holds no more, and that nobody could help least of all.
        (self.above, self.crossed, self.over_hard) = (None, false, 0);
        (self.told_helpless, self.helpless_until) = (false, None);
        self.below = [now; 100];
        self.returned = Returned::default();
        self.pace.forget();
        for track in &mut self.tracks {
            (track.above, track.plateau, track.patience, track.own_returned) = (None, None, 0, Returned::default());
        }
    }

    fn find_lowest(&mut self) {
        self.lowest = self.tracks.iter().filter_map(|track| self.line_of(track)).min().unwrap_or(u64::MAX);
        if let Some(lines) = self.lines {
            self.lowest = self.lowest.min(lines.restart);
        }
    }

    /// There is another instance from now on; the tracks stay in the order of the instances.
    pub(super) fn add(&mut self, now: Timestamp, id: InstanceId, policy: ServiceMemory) {
        if let Err(index) = self.tracks.binary_search_by_key(&id, |track| track.id) {
            self.tracks.insert(index, Track::new(id, policy, now));
            self.find_lowest();
        }
    }

    /// Its service has another `memory`.
    pub(super) fn set_policy(&mut self, id: InstanceId, policy: ServiceMemory) {
        for track in self.tracks.iter_mut().filter(|track| track.id == id) {
            track.policy = policy;
        }
        self.find_lowest();
    }

    /// An instance is there no longer, nor anything of its last run.
    pub(super) fn remove(&mut self, id: InstanceId) {
        self.tracks.retain(|track| track.id != id);
        self.gated = self.tracks.iter().any(|track| track.gate.is_some());
        self.find_lowest();
    }

    /// The line an instance alone must not cross.
    fn line_of(&self, track: &Track) -> Option<u64> {
        let lines = self.lines?;
        let own = track.policy.restart_above.map(|amount| amount.of(lines.limit));
        // Above the container's own line the container's rules hold.
        if lines.machine { Some(own.unwrap_or(u64::MAX).min(lines.restart)) } else { own.filter(|own| *own <= lines.restart) }
    }

    fn on_read(&mut self, now: Timestamp, reading: Reading, instances: &[Instance], may: May, out: &mut Vec<Action>) -> Option<Decision> {
        self.watched = false;
        self.history.push(now, reading.hard);
        self.hard = reading.hard;
        self.parts = reading.parts;
        let gated = self.release_gates(now);
        let Some(lines) = self.lines else {
            self.exact = Some(reading.hard);
            self.look = Look::At(now.after(if gated { GATE_LOOK } else { IDLE_LOOK }));
            return None;
        };
        if reading.parts.is_some() || lines.machine {
            self.exact = Some(reading.hard);
        }
        self.pace.observe(now, self.hard, &lines);
        self.follow(now, &lines, out);
        self.over_hard = if self.hard >= lines.hard { self.over_hard.saturating_add(1) } else { 0 };
        let decision = self.consider(now, instances, may, out);
        if decision.is_none() && self.account_asked.is_none() && self.account_at <= now {
            self.ask_account(now, out);
        }
        let wait = if self.acting.is_some() { self.pace.wait_acting(&lines) } else { self.pace.wait(now, self.hard, &lines) };
        let due = now.after(if gated { wait.min(GATE_LOOK) } else { wait });
        self.pace.expect(due);
        self.look = Look::At(due);
        decision
    }

    /// Whether it is above the line, since when, and what it has come back from.
    fn follow(&mut self, now: Timestamp, lines: &Lines, out: &mut Vec<Action>) {
        let step = (lines.limit / 100).max(1);
        for (index, at) in self.below.iter_mut().enumerate().rev() {
            if self.hard >= step.saturating_mul(u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1)) {
                break;
            }
            *at = now;
        }
        if self.hard < lines.restart {
            self.follow_below(now, lines, out);
        } else if !lines.machine {
            self.follow_above(now, lines);
        }
        let attention = float(self.hard) >= float(lines.restart) * NEAR || self.hard >= self.lowest;
        if attention && !self.attentive {
            // From now on it must be known who holds what.
            self.account_at = now;
        }
        self.attentive = attention || (self.attentive && float(self.hard) >= float(lines.restart) * FAR);
        let from = *self.changed_from.get_or_insert(self.hard);
        if self.hard.abs_diff(from) > part(lines.limit, CHANGED)
            && let Some(at) = self.accounted_at
        {
            self.account_at = self.account_at.min(at.after(SURVEY_CHANGED));
        }
    }

    /// Below the line, though perhaps not for long: what stays there is not above it.
    fn follow_below(&mut self, now: Timestamp, lines: &Lines, out: &mut Vec<Action>) {
        self.crossed = false;
        let Some(mut above) = self.above else { return };
        let noise = part(lines.limit, NOISE);
        let by_itself = self.acting.is_none() && !self.acted_since(above.since) && self.ended_at.is_none_or(|at| at < above.since);
        if by_itself && above.peak > lines.restart.saturating_add(noise) && self.hard < lines.restart.saturating_sub(noise) {
            self.returned.peak = self.returned.peak.max(above.peak);
            self.returned.took = self.returned.took.max(now.since(above.since));
        }
        above.since = now;
        above.peak = self.hard;
        self.above = Some(above);
        if self.hard < lines.rearm {
            if self.told_helpless || self.acted_since(above.entered) {
                out.push(told(MemoryNotice::Receded { hard: self.hard, limit: lines.limit, after: now.since(above.entered) }));
            }
            self.told_helpless = false;
            self.above = None;
        }
    }

    fn follow_above(&mut self, now: Timestamp, lines: &Lines) {
        if !self.crossed {
            self.crossed = true;
            // What the last bit of the way below the line took: so long was it worth `REARM` of the limit.
            let climb = self.not_below(now, lines.rearm);
            let entered = self.above.map_or(now, |above| above.entered);
            self.above = Some(Above { since: now, entered, climb, peak: self.hard });
            self.account_at = now;
        }
        if let Some(above) = &mut self.above {
            above.peak = above.peak.max(self.hard);
        }
    }

    /// For how long it has not been below that, to the nearest hundredth of the limit.
    fn not_below(&self, now: Timestamp, size: u64) -> Duration {
        let step = self.lines.map_or(1, |lines| (lines.limit / 100).max(1));
        let slot = usize::try_from(size / step).unwrap_or(usize::MAX).saturating_sub(1);
        self.below.get(slot).map_or(Duration::ZERO, |at| now.since(*at))
    }

    fn acted_since(&self, since: Timestamp) -> bool {
        self.tracks.iter().any(|track| track.last_act.is_some_and(|at| at >= since))
    }

    fn ask_account(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        self.account_asked = Some(now);
        out.push(Action::Memory(MemoryAction::Account));
    }

    fn on_accounted(
        &mut self,
        now: Timestamp,
        accounts: Accounts,
        instances: &[Instance],
        may: May,
        out: &mut Vec<Action>,
    ) -> Option<Decision> {
        if let Some(asked) = self.account_asked.take() {
            self.pace.accounted(now.since(asked));
        }
        let lines = self.lines?;
        let mut shares = std::mem::take(&mut self.shares);
        self.rest = shares::divide(&accounts, self.parts, |usage| self.measured_of(now, usage), &mut shares);
        let known: Vec<(usize, Option<Share>)> =
            accounts.runs.iter().zip(&shares).filter_map(|(usage, share)| Some((self.index_of(usage.run)?, *share))).collect();
        self.shares = shares;
        for track in &mut self.tracks {
            track.share = None;
        }
        for (usage, (index, share)) in accounts.runs.into_iter().zip(known) {
            let began = instances.get(index).and_then(Instance::life).map_or(now, |life| life.since);
            if let Some(track) = self.tracks.get_mut(index) {
                track.accounted(now, usage, share, began);
            }
        }
        self.tmpfs = accounts.tmpfs;
        self.accounted_at = Some(now);
        self.changed_from = None;
        self.follow_own(now);
        let near = float(self.hard) >= float(lines.restart) * NEAR;
        if near || self.hard >= self.lowest {
            self.tell_methods(out);
        }
        self.steer(&lines, instances, out);
        if near && !lines.machine && self.told_near.is_none_or(|at| now.since(at) >= NEAR_AGAIN) {
            self.told_near = Some(now);
            let shares = self.shares_by_size(instances);
            out.push(told(MemoryNotice::Near { hard: self.hard, limit: lines.limit, line: lines.restart, shares }));
        }
        let wait = if self.above.is_some_and(|above| now.since(above.entered) < ABOVE_FOR_LONG) {
            ACCOUNT_ABOVE
        } else if near || self.hard >= self.lowest {
            ACCOUNT_NEAR
        } else {
            SURVEY
        };
        let begins = self.tracks.iter().filter(|track| track.share.is_some()).filter_map(|track| track.history.begins_at());
        let begins = begins.filter(|at| *at > now).min();
        self.account_at = begins.map_or(now.after(wait), |at| at.min(now.after(wait)));
        self.consider(now, instances, may, out)
    }

    /// Earlier than the next survey when things have changed.
    pub(super) fn run_started(&mut self, now: Timestamp) {
        self.account_by(now.after(SURVEY_FIRST));
    }

    /// What loads its data before it is ready has grown, and is not to blame for that from now on.
    pub(super) fn run_ready(&mut self, now: Timestamp) {
        self.account_by(now);
    }

    fn measured_of(&self, now: Timestamp, usage: &Usage) -> Option<Measured> {
        let track = self.tracks.get(self.index_of(usage.run)?)?;
        if track.run != usage.run.run {
            return None;
        }
        let (at, measured) = track.measured?;
        (now.since(at) <= MEASURED_FOR).then_some(measured)
    }

    fn index_of(&self, run: RunId) -> Option<usize> {
        self.tracks.binary_search_by_key(&run.instance, |track| track.id).ok()
    }

    fn on_measured(&mut self, now: Timestamp, run: RunId, measurement: Measurement) {
        let Some(track) = self.index_of(run).and_then(|index| self.tracks.get_mut(index)) else { return };
        if track.run != run.run {
            return;
        }
        match (measurement, track.asked) {
            (Measurement::Pss(pss), Some((_, sum))) => {
                track.measured = Some((now, Measured { pss, sum }));
                track.refused_at = None;
                // Seen by the next decision.
                self.account_by(now);
            }
            (Measurement::Pss(_), None) | (Measurement::Refused, _) => track.refused_at = Some(now),
            // It is asked again in a while, as if it had been measured.
            (Measurement::NotNow, _) => track.put_off_at = Some(now),
        }
    }

    fn tell_methods(&mut self, out: &mut Vec<Action>) {
        let mut last: Option<(ServiceId, MemoryMethod)> = None;
        for track in &mut self.tracks {
            let Some(method) = track.share.map(|share| share.method) else { continue };
            if track.told == Some(method) || track.told.is_some_and(|told| told < method) {
                continue;
            }
            track.told = Some(method);
            if last != Some((track.id.service, method)) {
                last = Some((track.id.service, method));
                out.push(told(MemoryNotice::Method { service: track.id.service, method }));
            }
        }
    }

    fn shares_by_size(&self, instances: &[Instance]) -> Vec<(RunId, u64)> {
        let mut shares: Vec<(RunId, u64)> = self
            .tracks
            .iter()
            .zip(instances)
            .filter_map(|(track, instance)| Some((instance.run().filter(|run| run.run == track.run)?, track.share?.estimate)))
            .collect();
        shares.sort_by_key(|(run, bytes)| (std::cmp::Reverse(*bytes), *run));
        shares
    }

    /// Prefers the one that would be chosen, should the kernel be faster than we are.
    fn steer(&mut self, lines: &Lines, instances: &[Instance], out: &mut Vec<Action>) {
        let near = float(self.hard) >= float(lines.restart) * NEAR && !lines.machine;
        let far = float(self.hard) < float(lines.restart) * FAR;
        let wanted = if near { self.steered_one(lines, instances) } else { None };
        for (index, (track, instance)) in self.tracks.iter_mut().zip(instances).enumerate() {
            let Some(run) = instance.run() else {
                track.steered = false;
                continue;
            };
            if wanted == Some(index) && !track.steered {
                track.steered = true;
                out.push(Action::Memory(MemoryAction::Steer { run, prefer: true }));
            } else if track.steered && (far || wanted.is_some_and(|wanted| wanted != index)) {
                track.steered = false;
                out.push(Action::Memory(MemoryAction::Steer { run, prefer: false }));
            }
        }
    }

    /// A replacement whose memory is there need not wait any longer. Returns whether one still does.
    fn release_gates(&mut self, now: Timestamp) -> bool {
        if !self.gated {
            return false;
        }
        let line = self
            .lines
            .map_or_else(|| self.limit.as_ref().map_or(u64::MAX, |limit| part(limit.bytes, GATE_UNGUARDED)), |lines| lines.restart);
        let open = self.hard < line;
        let mut waits = false;
        for gate in self.tracks.iter_mut().filter_map(|track| track.gate.as_mut()) {
            if open {
                gate.until = gate.not_before.max(now);
            }
            waits |= gate.until > now;
        }
        self.gated = self.tracks.iter().any(|track| track.gate.is_some());
        waits
    }

    /// A run has ended, for whatever reason.
    pub(super) const fn run_gone(&mut self, now: Timestamp) {
        self.ended_at = Some(now);
    }

    /// The run is gone. If it was being ended for its memory, or the kernel ended it for that, its replacement waits until the memory is
    /// back: until then a fork may be what makes the kernel kill the next one, firstmate included.
    pub(super) fn run_ended(&mut self, now: Timestamp, run: RunId, due: Timestamp) -> Option<Timestamp> {
        let oom =
            self.index_of(run).and_then(|index| self.tracks.get_mut(index)).is_some_and(|track| track.oom_killed.take() == Some(run.run));
        let acted = self.act_ended(now, run.instance);
        // What the last look saw may be older than the death the kernel brought about.
        let full = self.lines.is_some_and(|lines| self.hard >= lines.restart);
        match self.look {
            Look::Never => return None,
            Look::At(_) if oom => self.look = Look::At(now),
            Look::At(_) | Look::Asked => {}
        }
        let waits = oom || (acted && full);
        if !waits {
            return None;
        }
        let until = due.max(now.after(GATE));
        let index = self.index_of(run)?;
        let track = self.tracks.get_mut(index)?;
        track.gate = Some(Gate { not_before: due, until });
        self.gated = true;
        Some(until)
    }

    /// The act on this instance, if there is one, is over, and the next one waits for a new picture.
    fn act_ended(&mut self, now: Timestamp, instance: InstanceId) -> bool {
        if self.acting.is_none_or(|acting| acting.run.instance != instance) {
            return false;
        }
        self.acting = None;
        self.account_at = now;
        // What is left is judged anew.
        if let Some(above) = &mut self.above {
            above.since = now;
            above.climb = Duration::ZERO;
        }
        self.over_hard = 0;
        if let Ok(index) = self.tracks.binary_search_by_key(&instance, |track| track.id)
            && let Some(track) = self.tracks.get_mut(index)
        {
            track.above = None;
        }
        true
    }

    /// Whether a look may let a replacement start.
    pub(super) const fn holds_back(&self) -> bool {
        self.gated
    }

    /// Until when this instance's replacement is held back; taken when it is over.
    pub(super) fn gate_of(&mut self, instance: InstanceId) -> Option<Timestamp> {
        let index = self.tracks.binary_search_by_key(&instance, |track| track.id).ok()?;
        self.tracks.get(index)?.gate.map(|gate| gate.until)
    }

    pub(super) fn gate_passed(&mut self, instance: InstanceId) {
        if let Ok(index) = self.tracks.binary_search_by_key(&instance, |track| track.id)
            && let Some(track) = self.tracks.get_mut(index)
        {
            track.gate = None;
        }
    }

    /// For what is shown of the container.
    pub(super) fn status(&self, now: Timestamp) -> Option<MemoryStatus> {
        let limit = self.limit.as_ref()?;
        Some(MemoryStatus {
            limit_bytes: limit.bytes,
            limit_source: limit.source,
            limit_place: limit.place.clone(),
            hard_bytes: self.exact.filter(|_| self.readable == Some(true)),
            restart_above_bytes: self.lines.map(|lines| lines.restart),
            above_for_ms: self.above.map(|above| u64::try_from(now.since(above.since).as_millis()).unwrap_or(u64::MAX)),
            oom_kills: self.oom_kills,
            acts: self.acts,
            helpless: self.told_helpless && self.lines.is_some_and(|lines| !lines.machine && self.hard >= lines.hard),
            why: self.why(now),
        })
    }

    fn why(&self, now: Timestamp) -> Option<String> {
        if self.readable == Some(false) {
            return Some("the container's memory cannot be read".to_owned());
        }
        if self.lines.is_none() {
            return Some("the guard is off".to_owned());
        }
        if self.acting.is_some() {
            return Some("a service is being ended for its memory".to_owned());
        }
        let above = self.above?;
        if self.told_helpless {
            return Some("above the line, and no restart would help".to_owned());
        }
        let held = now.since(above.since).as_secs_f64();
        let needed = self.required(now, &above).as_secs_f64();
        Some(format!("above the line for {held:.0} s; what grew is restarted after {needed:.0} s, or sooner if it goes on growing"))
    }

    /// For what is shown of an instance.
    pub(super) fn instance_status(&self, now: Timestamp, instance: &Instance) -> Option<InstanceMemory> {
        let limit = self.limit.as_ref()?;
        let index = self.tracks.binary_search_by_key(&instance.id, |track| track.id).ok()?;
        let track = self.tracks.get(index)?;
        let share = track.share.filter(|_| instance.life().is_some_and(|life| life.run == track.run))?;
        let own = self.line_of(track).filter(|_| track.policy.restart_above.is_some());
        Some(InstanceMemory {
            bytes: share.estimate,
            at_least_bytes: share.low,
            at_most_bytes: share.high,
            method: share.method,
            percent: (float(share.estimate) * 1_000.0 / float(limit.bytes.max(1))).round() / 10.0,
            restart_above_bytes: own.or_else(|| self.lines.map(|lines| lines.restart)),
            age_ms: u64::try_from(now.since(track.accounted_at).as_millis()).unwrap_or(u64::MAX),
        })
    }

    const fn count(&mut self, rule: Rule) {
        let counter = match rule {
            Rule::Held => &mut self.acts.held,
            Rule::Forecast => &mut self.acts.forecast,
            Rule::Hard => &mut self.acts.hard,
            Rule::Emergency => &mut self.acts.emergency,
            Rule::Own => &mut self.acts.own,
        };
        *counter = counter.saturating_add(1);
    }
}

impl Track {
    fn new(id: InstanceId, policy: ServiceMemory, now: Timestamp) -> Self {
        Self {
            id,
            policy,
            run: 0,
            share: None,
            history: History::new(now, 0),
            accounted_at: now,
            sum: None,
            asked: None,
            measured: None,
            refused_at: None,
            put_off_at: None,
            snapshot: false,
            top: Vec::new(),
            above: None,
            own_returned: Returned::default(),
            signalled: None,
            plateau: None,
            patience: 0,
            forecasts: 0,
            last_act: None,
            restarted_at: None,
            restarted_with: 0,
            steered: false,
            gate: None,
            oom_killed: None,
            told: None,
        }
    }

    fn accounted(&mut self, now: Timestamp, usage: Usage, share: Option<Share>, began: Timestamp) {
        if self.run != usage.run.run {
            self.run = usage.run.run;
            self.history = self.history.next(began);
            (self.asked, self.measured, self.refused_at, self.put_off_at) = (None, None, None, None);
            (self.above, self.steered) = (None, false);
        }
        self.accounted_at = now;
        self.snapshot = usage.snapshot;
        self.top = usage.top;
        self.share = share;
        self.sum = usage.rss.as_ref().map(sum);
        if let Some(share) = share {
            self.history.push(now, share.estimate);
        }
    }
}

/// What the phase of the stack allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Everything.
    All,
    /// The stack is being stopped: only what prevents the worst.
    Emergency,
}

fn told(notice: MemoryNotice) -> Action {
    Action::Notice(Notice::Memory(notice))
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 8 PiB are exact")]
const fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is too large becomes the largest number, a negative one 0"
)]
const fn bytes(float: f64) -> u64 {
    float as u64
}

const fn part(of: u64, share: f64) -> u64 {
    bytes(float(of) * share)
}

const fn is_up(instance: &Instance) -> bool {
    match instance.state {
        State::Launching { .. } | State::Starting { .. } | State::Running { .. } => true,
        State::Idle(_) | State::Ending(_) => false,
    }
}
