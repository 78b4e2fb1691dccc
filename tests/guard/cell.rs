//! Many trials of one kind, and the line that says how they went.

use std::sync::Mutex;
use std::time::Duration;

use super::stage::Place;
use super::trial::{Guard, Manner, Outcome, Rate, Start, Trial};

/// Runs them all, so many at a time, in their order.
pub fn run(trials: &[Trial], at_a_time: usize) -> Vec<Outcome> {
    let next = Mutex::new(0..trials.len());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time.min(trials.len()) {
            scope.spawn(|| {
                loop {
                    let Some(number) = next.lock().unwrap().next() else { return };
                    let outcome = trials[number].run();
                    done.lock().unwrap().push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|&(number, _)| number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What went wrong in a trial, if anything did.
pub fn faults(trial: &Trial, outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    if outcome.oom > 0 {
        faults.push(format!("the kernel's OOM killer killed {}", outcome.oom));
    }
    if !outcome.others_kept {
        faults.push("another service was disturbed".to_owned());
    }
    match &outcome.act {
        None if trial.guard != Guard::Off => faults.push(format!("the guard did not act; {}", outcome.ended)),
        Some(act) if act.victim != "leaker.1" => faults.push(format!("{} was chosen", act.victim)),
        Some(act) if act.percent > 96.0 => faults.push(format!("decided at {:.1} %", act.percent)),
        Some(act) if act.percent < 74.9 => faults.push(format!("decided at {:.1} %, below the line", act.percent)),
        Some(_) | None => {}
    }
    let measured = matches!(trial.rate, Rate::PerSecond(rate) if rate <= 400.0)
        && trial.guard == Guard::AtOnce
        && trial.quota.is_none()
        && trial.busy == 0;
    if let Some(act) = outcome.act.as_ref().filter(|act| measured && act.percent > 80.0) {
        faults.push(format!("decided at {:.1} %, past 80 %", act.percent));
    }
    // Where it grows slowly there is always time to ask; with little of a processor there may not be.
    let slow = matches!(trial.rate, Rate::PerSecond(rate) if rate <= 100.0) && trial.quota.is_none() && trial.busy == 0;
    if trial.guard != Guard::Off && slow && trial.manner == Manner::Well && outcome.ended.contains("SIGKILL") {
        faults.push("it was killed, and not asked to end".to_owned());
    }
    faults
}

/// Runs them, prints the line of each kind, and fails if anything went wrong in any of them.
#[track_caller]
pub fn judge(kinds: &[(Trial, Vec<Outcome>)]) {
    let mut wrong = String::new();
    for (trial, outcomes) in kinds {
        println!("{}", line(trial, outcomes));
        for outcome in outcomes {
            let faults = faults(trial, outcome);
            if !faults.is_empty() {
                wrong += &format!("{}\n{}\n", faults.join("; "), outcome.log);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Each kind once, one after the other.
#[track_caller]
pub fn run_and_judge(trials: &[Trial]) {
    let outcomes = run(trials, 1);
    judge(&trials.iter().cloned().zip(outcomes.into_iter().map(|outcome| vec![outcome])).collect::<Vec<_>>());
}

/// Least, and largest.
fn span(values: impl Iterator<Item = f64>) -> String {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (least, most) = (least.min(value), most.max(value));
    }
    if most.is_finite() { format!("{least:.1}..{most:.1}") } else { "-".to_owned() }
}

fn confirm(guard: Guard) -> &'static str {
    match guard {
        Guard::Off => "off",
        Guard::AtOnce => "0s",
        Guard::Default => "10s",
    }
}

/// `place` in the line.
fn place(trial: &Trial) -> String {
    let mut words = vec![
        match trial.place {
            Place::Below => "below",
            Place::Init => "pid1",
            Place::Docker => "docker",
        }
        .to_owned(),
    ];
    words.extend(trial.quota.map(|share| format!("{share}cpu")));
    words.extend((trial.busy > 0).then(|| format!("{}busy", trial.busy)));
    words.extend(trial.huge.then(|| "huge".to_owned()));
    words.join("+")
}

/// The line of a cell, whose trials differ in nothing the line names.
pub fn line(trial: &Trial, outcomes: &[Outcome]) -> String {
    let manner = match trial.manner {
        Manner::Well => "well",
        Manner::Deaf => "deaf",
    };
    let start = match trial.start {
        Start::Cold => "cold".to_owned(),
        Start::Quiet(time) => format!("{}s", time.as_secs()),
    };
    let acts = || outcomes.iter().filter_map(|outcome| outcome.act.as_ref());
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let slowest = outcomes.iter().filter_map(|outcome| outcome.reaction).max();
    let decided = span(acts().map(|act| act.percent));
    let (least, most) = decided.split_once("..").unwrap_or(("-", "-"));
    let rules = |of: fn(&Outcome) -> u32| outcomes.iter().map(of).sum::<u32>();
    format!(
        "GUARD item=1 rate={} threads={} limit={} manner={manner} start={start} confirm={} place={} runs={} oom={} decided_min={least} decided_max={most} \
         asked={} peak_max={} disturbed={} killed={} rules=held:{},forecast:{},hard:{},emergency:{} reaction_max_ms={}",
        trial.rate,
        trial.threads,
        trial.limit,
        confirm(trial.guard),
        place(trial),
        outcomes.len(),
        sum(|outcome| outcome.oom),
        span(outcomes.iter().filter_map(|outcome| outcome.asked_at)),
        span(outcomes.iter().map(|outcome| outcome.peak)).rsplit("..").next().unwrap_or("-"),
        sum(|outcome| u64::from(!outcome.others_kept)),
        outcomes.iter().filter(|outcome| outcome.ended.contains("SIGKILL")).count(),
        rules(|outcome| outcome.rules.held),
        rules(|outcome| outcome.rules.forecast),
        rules(|outcome| outcome.rules.hard),
        rules(|outcome| outcome.rules.emergency),
        slowest.map_or_else(|| "-".to_owned(), |time: Duration| format!("{:.0}", time.as_secs_f64() * 1000.0)),
    )
}
