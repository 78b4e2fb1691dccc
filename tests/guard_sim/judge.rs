//! What happened, and whether it was right: by what is true in the model, never by what the engine believes.

use std::collections::{BTreeMap, BTreeSet};

use firstmate::engine::memory::{Act, Acted, Helpless, MemoryAction, MemoryNotice, Reading, Rule};
use firstmate::engine::spec::Victim;
use firstmate::engine::status::MemoryStatus;
use firstmate::engine::{Action, Cause, InstanceId, Notice, RunId, Timestamp};

use crate::case::{Case, Nature, Program, Sight};
use crate::course::{MIB, secs};

/// A number about a run is no number any more after so long.
const STALE: f64 = 15.0;

/// What is true of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Truth {
    pub holds: f64,
    pub alive: bool,
    /// When the engine was last told a number about it.
    pub number_at: Option<u64>,
}

/// One act of the guard.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: f64,
    pub run: RunId,
    pub nature: Nature,
    pub act: Act,
    pub rule: Rule,
    /// The container's memory at that moment, in percent of the limit.
    pub percent: f64,
    /// It was SIGKILL, at once or before its grace period was over, and a graceful end would have come in time. `None`: no SIGKILL.
    pub needless_kill: Option<bool>,
    /// The grace period ended by memory.
    pub cut_short: bool,
    /// The engine said it held so much more than it did, as a share.
    pub overstated: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub acts: Vec<Seen>,
    /// When, and on whom.
    pub ooms: Vec<(f64, Option<Nature>)>,
    /// memory.oom.group ended the container.
    pub lost: bool,
    /// In percent of the limit.
    pub peak: f64,
    pub near: u32,
    pub helpless: Vec<(f64, Helpless)>,
    /// At the end the status says that memory is above the hard line, and that nothing helps.
    pub beyond_help: bool,
    pub plateaus: u32,
    pub receded: u32,
    pub ticks: u64,
    pub reads: u64,
    pub stats: u64,
    pub accounts: u64,
    pub measures: u64,
    pub measured_secs: f64,
    /// Snapshot children that were killed.
    pub misconf: u32,
    pub steered: u32,
    pub secs: f64,
    /// The invariant that broke, and ended it.
    pub broken: Option<String>,
}

impl Report {
    /// Acts on services that were not the cause.
    pub fn false_acts(&self) -> usize {
        self.acts.iter().filter(|act| act.nature == Nature::Harmless).count()
    }

    pub fn acts_on(&self, nature: Nature) -> usize {
        self.acts.iter().filter(|act| act.nature == nature).count()
    }

    pub fn kills(&self) -> usize {
        self.acts.iter().filter(|act| act.needless_kill.is_some()).count()
    }

    pub fn needless_kills(&self) -> usize {
        self.acts.iter().filter(|act| act.needless_kill == Some(true)).count()
    }

    /// Lowest and highest percent of the limit at which it acted.
    pub fn decided(&self) -> Option<(f64, f64)> {
        let low = self.acts.iter().map(|act| act.percent).reduce(f64::min)?;
        let high = self.acts.iter().map(|act| act.percent).reduce(f64::max)?;
        Some((low, high))
    }
}

pub struct Judge {
    pub report: Report,
    programs: Vec<Program>,
    limit: f64,
    line: Option<f64>,
    sight: Sight,
    cpus: u32,
    guarded: bool,
    last_read: Option<u64>,
    /// Runs the guard is ending, with when it asked, and whether SIGKILL followed.
    ending: BTreeMap<RunId, Ending>,
    /// The container is above its line since it was last well below.
    episode: bool,
    told_helpless: BTreeSet<&'static str>,
    plateau_told: BTreeMap<InstanceId, u32>,
}

#[derive(Debug, Clone, Copy)]
struct Ending {
    act: usize,
    asked: u64,
    killed: bool,
}

impl Judge {
    pub fn new(case: &Case) -> Self {
        let line = case.memory.restart_above.map(|amount| amount.of(case.limit as u64) as f64);
        Self {
            report: Report::default(),
            programs: case.programs.clone(),
            limit: case.limit,
            line,
            sight: case.sight,
            cpus: case.cpus,
            guarded: line.is_some(),
            last_read: None,
            ending: BTreeMap::new(),
            episode: false,
            told_helpless: BTreeSet::new(),
            plateau_told: BTreeMap::new(),
        }
    }

    fn percent(&self, bytes: f64) -> f64 {
        100.0 * bytes / self.limit
    }

    pub fn level(&mut self, _now: u64, hard: f64) {
        self.report.peak = self.report.peak.max(self.percent(hard));
        if let Some(line) = self.line {
            // The noise of the counters is no news.
            if hard < line - 0.05 * self.limit - MIB {
                self.episode = false;
                self.told_helpless.clear();
            } else if hard > line {
                self.episode = true;
            }
        }
    }

    pub fn read(&mut self, _now: u64, reading: Option<Reading>) {
        if let Some(reading) = reading {
            self.last_read = Some(reading.hard);
        }
    }

    pub fn oom(&mut self, now: u64, victim: Option<(RunId, usize)>) {
        let nature = victim.map(|(_, program)| self.programs[program].nature);
        self.report.ooms.push((secs(now), nature));
    }

    fn acted_in(out: &[Action], run: RunId) -> Option<&Acted> {
        out.iter().find_map(|action| match action {
            Action::Notice(Notice::Memory(MemoryNotice::Acted(acted))) if acted.run == run => Some(&**acted),
            _ => None,
        })
    }

    /// A stop signal was sent.
    pub fn asked(&mut self, now: u64, run: RunId, out: &[Action], _index: usize) -> Result<(), String> {
        let by_memory =
            out.iter().any(|action| matches!(action, Action::Notice(Notice::Stopping { run: of, cause: Cause::Memory, .. }) if *of == run));
        if !by_memory {
            return Err(format!("{run:?} was asked to end at {:.3} s, and nobody but the guard could want that", secs(now)));
        }
        if Self::acted_in(out, run).is_none() && !self.ending.contains_key(&run) {
            return Err(format!("{run:?} is ended by the guard, which does not say why"));
        }
        Ok(())
    }

    /// SIGKILL was sent.
    pub fn killed(
        &mut self,
        now: u64,
        run: RunId,
        out: &[Action],
        _index: usize,
        _hard: f64,
        needless: Option<bool>,
    ) -> Result<(), String> {
        let acted = Self::acted_in(out, run).is_some();
        let Some(ending) = self.ending.get_mut(&run) else {
            return if acted { Ok(()) } else { Err(format!("{run:?} got SIGKILL, and nobody says why")) };
        };
        if ending.killed {
            return Ok(());
        }
        ending.killed = true;
        let grace = self.programs[run.instance.service.0].grace;
        let waited = secs(now - ending.asked);
        let seen = &mut self.report.acts[ending.act];
        let over = waited >= grace - 0.001;
        if !over {
            seen.cut_short = seen.act != Act::Kill;
            if let Some(needless) = needless {
                seen.needless_kill = Some(needless);
            }
        }
        Ok(())
    }

    /// The signal of its `action` was sent.
    pub fn signalled(&mut self, now: u64, run: RunId, out: &[Action], _index: usize) -> Result<(), String> {
        if Self::acted_in(out, run).is_none() {
            return Err(format!("{run:?} got a signal of the guard's at {:.3} s, which does not say why", secs(now)));
        }
        Ok(())
    }

    pub fn notice(
        &mut self,
        now: u64,
        notice: &Notice,
        out: &[Action],
        index: usize,
        hard: f64,
        truth: impl Fn(&Acted) -> Option<Truth>,
    ) -> Result<(), String> {
        match notice {
            Notice::Memory(MemoryNotice::Acted(acted)) => self.acted(now, acted, out, index, hard, truth(acted)),
            Notice::Memory(MemoryNotice::Near { .. }) => {
                self.report.near += 1;
                Ok(())
            }
            Notice::Memory(MemoryNotice::Helpless { why, .. }) => {
                self.report.helpless.push((secs(now), why.clone()));
                let kind = match why {
                    Helpless::Tmpfs { .. } => "tmpfs",
                    Helpless::Others { .. } => "others",
                    Helpless::NobodyGrew => "nobody grew",
                    Helpless::Forbidden => "forbidden",
                    Helpless::Unknown => "unknown",
                };
                if !self.told_helpless.insert(kind) {
                    return Err(format!("said twice in one episode that nothing helps: {kind}"));
                }
                Ok(())
            }
            Notice::Memory(MemoryNotice::Plateau { instance, .. }) => {
                self.report.plateaus += 1;
                *self.plateau_told.entry(*instance).or_default() += 1;
                Ok(())
            }
            Notice::Memory(MemoryNotice::Receded { .. }) => {
                self.report.receded += 1;
                Ok(())
            }
            Notice::Ended { run, .. } => {
                self.ending.remove(run);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn acted(&mut self, now: u64, acted: &Acted, out: &[Action], _index: usize, hard: f64, truth: Option<Truth>) -> Result<(), String> {
        let run = acted.run;
        let at = secs(now);
        let Some(truth) = truth.filter(|truth| truth.alive || acted.act == Act::Kill) else {
            return Err(format!("acted on {run:?}, which is gone"));
        };
        match truth.number_at {
            None => return Err(format!("acted on {run:?} without a number about it")),
            Some(told) if secs(now - told) > STALE => {
                return Err(format!("acted on {run:?} by a number of {:.1} s ago", secs(now - told)));
            }
            Some(_) => {}
        }
        if acted.bytes == 0 {
            return Err(format!("acted on {run:?}, which it says holds nothing"));
        }
        if acted.limit != self.limit as u64 {
            return Err(format!("acted by a limit of {}", acted.limit));
        }
        if self.last_read.is_none() && acted.rule != Rule::Own {
            return Err("acted without knowing the container's memory".to_owned());
        }
        if matches!(acted.rule, Rule::Held | Rule::Hard) && acted.hard < acted.line {
            return Err(format!("acted by {:?} at {} below its line {}", acted.rule, acted.hard, acted.line));
        }
        // The counters say more than is true, by what each processor has in stock; it must not act below what they say.
        let in_stock = 64.0 * 4_096.0 * f64::from(self.cpus) + MIB;
        if acted.rule != Rule::Own && (acted.hard as f64) < self.line.unwrap_or_default() {
            return Err(format!("acted for the container's sake at {:.1} %", self.percent(acted.hard as f64)));
        }
        if (acted.hard as f64) > hard + in_stock + 0.02 * self.limit || acted.hard as f64 + 0.02 * self.limit < hard {
            return Err(format!("says the container holds {} when it holds {hard:.0}", acted.hard));
        }
        let program = &self.programs[run.instance.service.0];
        if program.memory.victim == Victim::Never && acted.rule != Rule::Own {
            return Err(format!("{run:?} must not be chosen"));
        }
        let does = out.iter().any(|action| match (action, acted.act) {
            (Action::Signal { run: of, .. }, Act::Restart) | (Action::KillTree { run: of }, Act::Kill) => *of == run,
            (Action::Memory(MemoryAction::Signal { run: of, signal }), Act::Signal(said)) => *of == run && *signal == said,
            _ => false,
        });
        if !does {
            return Err(format!("says it did {:?} to {run:?} and does not", acted.act));
        }
        if acted.act != Act::Kill
            && let Some(other) = self.ending.keys().find(|other| other.instance.service == run.instance.service && **other != run)
        {
            return Err(format!("{run:?} is to end while {other:?} of the same service ends"));
        }
        if let Some(ending) = self.ending.get(&run) {
            // SIGKILL before the grace period was over: a second notice about the same act.
            let seen = &mut self.report.acts[ending.act];
            seen.cut_short = true;
            return Ok(());
        }
        if !matches!(acted.act, Act::Signal(_)) {
            self.ending.insert(run, Ending { act: self.report.acts.len(), asked: now, killed: false });
        }
        self.report.acts.push(Seen {
            at,
            run,
            nature: program.nature,
            act: acted.act,
            rule: acted.rule,
            percent: self.percent(hard),
            needless_kill: None,
            cut_short: false,
            overstated: (acted.bytes as f64 - truth.holds) / truth.holds.max(MIB),
        });
        Ok(())
    }

    pub fn memory_action(&mut self, _now: u64, action: &MemoryAction) -> Result<(), String> {
        if let MemoryAction::Steer { prefer: true, .. } = action {
            self.report.steered += 1;
        }
        Ok(())
    }

    /// It must go on looking.
    pub fn stepped(&mut self, now: u64, timestamp: Timestamp, deadline: Option<Timestamp>) -> Result<(), String> {
        if !self.guarded || now == 0 {
            return Ok(());
        }
        let patience = if self.sight == Sight::Nothing { 60 } else { 1 };
        match deadline {
            Some(deadline) if deadline <= timestamp.after(std::time::Duration::from_secs(patience)) => Ok(()),
            _ => Err(format!("at {:.3} s it does not want to be woken before {deadline:?}", secs(now))),
        }
    }

    pub fn finish(&mut self, now: u64, _hard: f64, status: Option<&MemoryStatus>) -> Result<(), String> {
        self.report.secs = secs(now);
        if self.guarded {
            let Some(status) = status else { return Err("no memory in the status".to_owned()) };
            self.report.beyond_help = status.helpless;
            if status.limit_bytes != self.limit as u64 {
                return Err(format!("the status has a limit of {}", status.limit_bytes));
            }
            let count = |rule: Rule| u32::try_from(self.report.acts.iter().filter(|act| act.rule == rule).count()).unwrap_or(u32::MAX);
            let acts = status.acts;
            for (rule, told) in [(Rule::Held, acts.held), (Rule::Forecast, acts.forecast), (Rule::Hard, acts.hard), (Rule::Own, acts.own)] {
                if told < count(rule) {
                    return Err(format!("the status says {told} acts by {rule:?}, there were {}", count(rule)));
                }
            }
        }
        Ok(())
    }
}
