//! One race between a leaker and the guard.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use firstmate::engine::status::GuardActs;

use super::cgroup::Cgroup;
use super::stage::{MIB, Missing, Place, Stage, leaker, until};

/// How fast it grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// MiB a second.
    PerSecond(f64),
    Flat,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate}"),
            Self::Flat => write!(f, "max"),
        }
    }
}

/// What it makes of SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Ends at once.
    Well,
    /// Goes on growing. It takes the signal and notes how much it had, which comes to the same as ignoring it.
    Deaf,
}

/// What happened before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing: it leaks from its first moment.
    Cold,
    /// It was quiet for so long.
    Quiet(Duration),
}

/// The guard's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// None: the control experiment.
    Off,
    /// `confirm = "0s"`.
    AtOnce,
    /// Everything as it is by default.
    Default,
}

#[derive(Debug, Clone)]
pub struct Trial {
    pub rate: Rate,
    pub threads: u32,
    /// MiB.
    pub limit: u64,
    pub manner: Manner,
    pub start: Start,
    pub guard: Guard,
    pub place: Place,
    /// Share of one processor that firstmate and the leaker have together.
    pub quota: Option<f64>,
    /// Loops beside it, outside the cgroup.
    pub busy: u32,
    pub huge: bool,
    /// Has so much of the limit, in percent, before it begins to leak; `None`: as much as leaves it about a second to the line.
    pub base: Option<f64>,
    /// Words in front of firstmate's command; not in Docker.
    pub before: &'static [&'static str],
    /// What else each service's table says.
    pub service: &'static str,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            rate: Rate::Flat,
            threads: 1,
            limit: 256,
            manner: Manner::Well,
            start: Start::Cold,
            guard: Guard::AtOnce,
            place: Place::Init,
            quota: None,
            busy: 0,
            huge: false,
            base: None,
            before: &[],
            service: "",
        }
    }
}

/// How a trial ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Processes the kernel's OOM killer killed.
    pub oom: u64,
    /// firstmate's line about its first act.
    pub act: Option<Act>,
    pub rules: GuardActs,
    /// The highest usage without page cache, in percent of the limit.
    pub peak: f64,
    /// What the leaker had when SIGTERM came, with what was in the cgroup before, in percent of the limit; only a deaf one can tell.
    pub asked_at: Option<f64>,
    /// From the moment the leaker brought the container to 75 % to the line that tells of the act, as far as the leaker's own notes tell.
    pub reaction: Option<Duration>,
    /// Every other process is still the same.
    pub others_kept: bool,
    /// How the leaker's first run ended, as firstmate says it; empty if it did not get to say so.
    pub ended: String,
    /// For a failure's message.
    pub log: String,
}

/// What firstmate says about an act.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    pub victim: String,
    /// Hard memory at the decision, in percent of the limit.
    pub percent: f64,
    pub text: String,
}

/// Loops that end with this.
#[derive(Debug)]
pub struct Busy(Vec<Child>);

impl Busy {
    pub fn start(count: u32) -> Self {
        let one = || Command::new(leaker()).args(["busy"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self((0..count).map(|_| one()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A trial whose leaker waits for its word, or already leaks when it starts cold.
#[derive(Debug)]
pub struct Running {
    trial: Trial,
    stage: Stage,
    others: Vec<u32>,
    /// Bytes in the cgroup that are not the leaker's; `None` when it was not possible to look before it began.
    overhead: Option<u64>,
    _busy: Busy,
}

/// The words with which a service of a firstmate.toml is a bystander: it has a little, and waits.
const BYSTANDER: &str = "plateau size=1% then=hold";

impl Trial {
    /// The share of the limit the leaker has before it leaks.
    fn base(&self) -> f64 {
        if let Some(base) = self.base {
            return base;
        }
        match self.rate {
            Rate::Flat => 0.0,
            // Two bystanders have 1 % each, and firstmate has something too.
            #[expect(clippy::cast_precision_loss, reason = "a few thousand MiB")]
            Rate::PerSecond(rate) => (72.0 - (3.0 + rate) / self.limit as f64 * 100.0).max(0.0),
        }
    }

    fn memory_section(&self) -> &'static str {
        match self.guard {
            Guard::Off => "[memory]\nrestart_above = \"off\"\n",
            Guard::AtOnce => "[memory]\nconfirm = \"0s\"\n",
            Guard::Default => "",
        }
    }

    fn toml(&self) -> String {
        let (leaker, dir) = ("{leaker}", "{dir}");
        let limit = self.limit;
        let mut text = self.memory_section().to_owned();
        let term = match self.manner {
            Manner::Well => "default",
            Manner::Deaf => "keep:10m",
        };
        // The bystanders run first, so that they are there to be disturbed.
        write!(
            text,
            "[services.bystander]\ninstances = 2\ncommand = \"{leaker} limit={limit}MiB to={dir}/bystanders {BYSTANDER}\"\n{service}\n\
             [services.leaker]\ndepends_on = {{ bystander = \"started\" }}\nstop_timeout = \"30s\"\n{service}\n\
             command = \"{leaker} leak limit={limit}MiB to={dir}/notes rate={rate} threads={threads} mark=0.25% base={base}% term={term} huge={huge}",
            service = self.service,
            rate = self.rate,
            threads = self.threads,
            base = self.base(),
            huge = if self.huge { "yes" } else { "no" },
        )
        .unwrap();
        if self.start != Start::Cold {
            write!(text, " when={dir}/go").unwrap();
        }
        text + "\"\n"
    }

    /// What it has while it waits, in MiB.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand MiB")]
    pub fn waits_with(&self) -> f64 {
        (self.base() + 2.0) / 100.0 * self.limit as f64 + 8.0
    }

    /// Starts firstmate, and returns when the leaker waits, or leaks.
    pub fn begin(&self) -> Running {
        let busy = Busy::start(self.busy);
        let (limit, toml) = (self.limit * MIB, self.toml());
        let stage = match self.place {
            Place::Below | Place::Init => Stage::start(Cgroup::new(limit, self.quota), self.place, &toml, self.before),
            Place::Docker => {
                let share = self.quota.map(|share| format!("--cpus={share}"));
                Stage::in_docker(limit, &toml, &share.iter().map(String::as_str).collect::<Vec<_>>())
            }
        };
        let mut running = Running { trial: self.clone(), stage, others: Vec::new(), overhead: None, _busy: busy };
        if self.start != Start::Cold {
            let stage = &running.stage;
            let settled = || {
                let notes = Notes::read(stage);
                let others = stage.cgroup.pids_with("plateau");
                let text = std::fs::read_to_string(stage.directory.0.join("bystanders")).unwrap_or_default();
                let whole = others.len() == 2 && text.matches(" done ").count() == 2;
                notes.quiet.filter(|_| whole).map(|(bytes, _)| (bytes, others)).ok_or_else(|| stage.log.tail())
            };
            let (bytes, others) = until("the leaker and its bystanders have what they should", settled);
            running.overhead = Some(stage.cgroup.hard().saturating_sub(bytes));
            running.others = others;
        }
        running
    }

    pub fn run(&self) -> Outcome {
        let running = self.begin();
        if let Start::Quiet(time) = self.start {
            std::thread::sleep(time);
        }
        running.race()
    }
}

impl Running {
    /// Lets the leaker go, and returns when its run has ended.
    pub fn race(self) -> Outcome {
        self.stage.touch("go");
        let stage = &self.stage;
        // The slowest has two seconds to the line, and a quarter of the limit beyond it.
        #[expect(clippy::cast_precision_loss, reason = "a few thousand MiB")]
        let patience = match self.trial.rate {
            Rate::Flat => Duration::from_secs(60),
            Rate::PerSecond(rate) => Duration::from_secs_f64(60.0 + self.trial.limit as f64 / rate),
        };
        let ended = stage.log.line(patience, |line| {
            let text = line.text.strip_prefix("leaker.1 ").unwrap_or_default();
            line.name == "firstmate" && (text.starts_with("killed by ") || text.starts_with("exited with "))
        });
        if ended == Err(Missing::Late) {
            panic!("the leaker has not ended within {patience:?}: {:?}\n{}\n{:?}", self.trial, stage.log.tail(), Notes::read(stage));
        }
        let kept = {
            // Before anything of ours is killed. In a cold start the first look at them is the log's.
            let now = stage.cgroup.pids_with("plateau");
            let restarted = stage.log.own().iter().any(|text| {
                text.starts_with("bystander")
                    && ["killed by", "exited with", "restarts", "left behind"].iter().any(|what| text.contains(what))
            });
            now.len() == 2 && !restarted && (self.others.is_empty() || self.others == now)
        };
        let rules = stage.try_status().ok().and_then(|status| status.memory).map_or_else(GuardActs::default, |memory| memory.acts);
        let notes = Notes::read(stage);
        let act =
            stage.log.lines().into_iter().filter(|line| line.name == "firstmate").find_map(|line| Some((Act::parse(&line.text)?, line.at)));
        let limit = stage.cgroup.limit;
        let crossed = self.overhead.and_then(|overhead| notes.reached((limit / 100 * 75).saturating_sub(overhead)));
        Outcome {
            oom: stage.oom_kills(),
            reaction: act.as_ref().zip(crossed).map(|((_, at), crossed)| at.saturating_sub(crossed)),
            act: act.map(|(act, _)| act),
            rules,
            peak: percent(stage.cgroup.peak(), limit),
            asked_at: notes.asked.map(|at| percent(notes.bytes_at(at) + self.overhead.unwrap_or(0), limit)),
            others_kept: kept,
            ended: ended.map(|line| line.text).unwrap_or_default(),
            log: format!("{:?}\n{}", self.trial, stage.log.tail()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
pub fn percent(bytes: u64, limit: u64) -> f64 {
    bytes as f64 * 100.0 / limit as f64
}

/// What the leaker wrote down.
#[derive(Debug, Default)]
struct Notes {
    /// How much it has, and since when.
    marks: Vec<(u64, Duration)>,
    quiet: Option<(u64, Duration)>,
    asked: Option<Duration>,
}

impl Notes {
    fn read(stage: &Stage) -> Self {
        let text = std::fs::read_to_string(stage.directory.0.join("notes")).unwrap_or_default();
        let mut notes = Self::default();
        for line in text.lines() {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let Some(at) = field("at").and_then(|at| at.parse().ok()).map(Duration::from_secs_f64) else { continue };
            let bytes = field("bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
            if line.contains(" quiet ") {
                notes.quiet = Some((bytes, at));
            } else if line.contains(" has ") {
                notes.marks.push((bytes, at));
            } else if line.contains(" asked ") {
                notes.asked = Some(at);
            }
        }
        notes
    }

    /// When it had that much, by the straight line between the marks before and after.
    fn reached(&self, bytes: u64) -> Option<Duration> {
        let after = self.marks.iter().position(|&(has, _)| has >= bytes)?;
        let ((more, late), (less, early)) = (self.marks[after], self.marks[after.checked_sub(1)?]);
        let share = percent(bytes - less, more - less) / 100.0;
        Some(early + late.saturating_sub(early).mul_f64(share))
    }

    fn bytes_at(&self, at: Duration) -> u64 {
        self.marks.iter().rfind(|&&(_, mark)| mark <= at).map_or(0, |&(bytes, _)| bytes)
    }
}

impl Act {
    /// Of a line in which firstmate tells of an act of the guard, such as `restarting web.1 for its memory, above 75%: it holds ...; 385.2 MiB of
    /// 512 MiB (75.2%) in use, ...`.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_once(" for its memory")?;
        let (verb, victim) = head.split_once(' ')?;
        if !["restarting", "killing", "sending"].contains(&verb) {
            return None;
        }
        let used = rest.split_once("%) in use")?.0;
        Some(Self { victim: victim.rsplit(' ').next()?.to_owned(), percent: used.rsplit('(').next()?.parse().ok()?, text: text.to_owned() })
    }
}

#[test]
fn a_line_about_an_act_is_understood() {
    let act = Act::parse(
        "restarting leaker.1 for its memory, above 75%: it holds 185.7 MiB (72.6% of the limit, by bounds), growing by 96.1 MiB/s, after 1.9 s; \
         192 MiB of 256 MiB (75.3%) in use, the kernel's OOM killer was about 391 ms away",
    );
    assert_eq!(act.map(|act| (act.victim, act.percent)), Some(("leaker.1".to_owned(), 75.3)));
    assert_eq!(Act::parse("stopping leaker.1 with SIGTERM (memory), SIGKILL after 30 s"), None);
}
