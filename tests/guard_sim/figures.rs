//! The tables of `docs/design/guard-simulation.md`.

use std::time::Instant;

use firstmate::engine::memory::Act;

use crate::case::{Case, Nature};
use crate::judge::Report;
use crate::random::{self, Kind};
use crate::scenarios::{self, Manners};
use crate::{RATES, play_all};

fn count() -> u64 {
    std::env::var("FIRSTMATE_GUARD_TRACES").map_or(250, |number| number.parse().expect("FIRSTMATE_GUARD_TRACES is a number"))
}

pub fn print() {
    let began = Instant::now();
    println!("### Leakers\n");
    leakers(10.0);
    leakers(0.0);
    println!("### The scenarios of the first policy\n");
    published();
    println!("### Nothing to be done\n");
    harmless();
    println!("### Random traces\n");
    random_traces();
    println!("{:.0} s", began.elapsed().as_secs_f64());
}

/// Acts, SIGKILLs and OOM kills over all runs.
struct Sums {
    runs: usize,
    acts: usize,
    kills: usize,
    needless: usize,
    ooms: usize,
    broken: usize,
    low: f64,
    high: f64,
    peak: f64,
    looks: f64,
    accounts: f64,
}

fn sums(runs: &[(Case, Report)]) -> Sums {
    let secs: f64 = runs.iter().map(|(_, report)| report.secs).sum::<f64>().max(1.0);
    let decided = || runs.iter().filter_map(|(_, report)| report.decided());
    Sums {
        runs: runs.len(),
        acts: runs.iter().map(|(_, report)| report.acts.len()).sum(),
        kills: runs.iter().map(|(_, report)| report.kills()).sum(),
        needless: runs.iter().map(|(_, report)| report.needless_kills()).sum(),
        ooms: runs.iter().map(|(_, report)| report.ooms.len() + usize::from(report.lost)).sum(),
        broken: runs.iter().filter(|(_, report)| report.broken.is_some()).count(),
        low: decided().map(|(low, _)| low).fold(f64::INFINITY, f64::min),
        high: decided().map(|(_, high)| high).fold(0.0, f64::max),
        peak: runs.iter().map(|(_, report)| report.peak).fold(0.0, f64::max),
        looks: runs.iter().map(|(_, report)| report.reads as f64).sum::<f64>() / secs,
        accounts: runs.iter().map(|(_, report)| report.accounts as f64).sum::<f64>() / secs,
    }
}

fn leakers(confirm: f64) {
    println!(
        "`confirm = {confirm}s`, {} runs a cell: from cold and after two quiet minutes; decided at, in % of the limit (highest level reached); OOM kills.\n",
        2 * count() / 5
    );
    println!("| rate | 128 MiB | 256 MiB | 512 MiB | 1 GiB |");
    println!("|---|---|---|---|---|");
    for rate in RATES {
        for manners in [Manners::Quick, Manners::Deaf] {
            let cells: Vec<String> = [128.0, 256.0, 512.0, 1_024.0]
                .iter()
                .map(|limit| {
                    let seeds = 0..count() / 5;
                    let cases =
                        seeds.flat_map(|seed| [0.0, 120.0].map(|quiet| scenarios::leak(rate, *limit, manners, quiet, confirm, seed)));
                    let sums = sums(&play_all(cases.collect()));
                    let broken = if sums.broken > 0 { format!(" {} BROKEN", sums.broken) } else { String::new() };
                    format!("{:.1}-{:.1} ({:.1}); {}{broken}", sums.low, sums.high, sums.peak, sums.ooms)
                })
                .collect();
            let how = if manners == Manners::Quick { "obeys" } else { "deaf" };
            println!("| {rate} MB/s, {how} | {} |", cells.join(" | "));
        }
    }
    println!();
}

/// Graceful restarts, SIGKILLs and OOM kills a run; what MEMORY published for its own policy.
const PUBLISHED: [&str; 11] = [
    "3/0/0 @75 %",
    "7/0/0 @92 %",
    "0/10.6/0 @88 %",
    "0/7.2/0 @76-89 %",
    "2/2/0 @76 %",
    "0/0/0",
    "0/0/0",
    "0/33/0 @95 %",
    "0/0/0",
    "1/0/0",
    "0/0/0",
];

fn published() {
    let seeds = (count() / 25).max(2);
    println!("Graceful acts / SIGKILLs / OOM kills a run of 1 GiB, mean of {seeds}.\n");
    println!("| scenario | first policy | this guard | decided at |");
    println!("|---|---|---|---|");
    for (index, before) in PUBLISHED.iter().enumerate() {
        let runs = play_all((0..seeds).map(|seed| scenarios::published(seed).remove(index)).collect());
        let sums = sums(&runs);
        let each = |number: usize| {
            let mean = number as f64 / sums.runs as f64;
            if mean.fract() == 0.0 { format!("{mean:.0}") } else { format!("{mean:.1}") }
        };
        let at = if sums.acts == 0 { "-".to_owned() } else { format!("{:.1}-{:.1} %", sums.low, sums.high) };
        let mark = if sums.broken > 0 { " BROKEN" } else { "" };
        println!(
            "| {} | {before} | {}/{}/{}{mark} | {at} |",
            runs[0].0.name,
            each(sums.acts - sums.kills),
            each(sums.kills),
            each(sums.ooms)
        );
    }
    println!();
}

fn harmless() {
    let seeds = (count() / 50).max(1);
    println!("| scenario | hours | acts | OOM kills | warnings | highest | looks/s | accounts/s |");
    println!("|---|---|---|---|---|---|---|---|");
    let names = scenarios::harmless(0).len();
    let row = |cases: Vec<Case>| {
        let runs = play_all(cases);
        let sums = sums(&runs);
        let hours: f64 = runs.iter().map(|(_, report)| report.secs).sum::<f64>() / 3_600.0;
        let warnings: u32 = runs.iter().map(|(_, report)| report.near + report.plateaus + report.helpless.len() as u32).sum();
        println!(
            "| {} | {hours:.1} | {} | {} | {warnings} | {:.1} % | {:.0} | {:.2} |",
            runs[0].0.name, sums.acts, sums.ooms, sums.peak, sums.looks, sums.accounts
        );
    };
    for index in 0..names {
        row((0..seeds).map(|seed| scenarios::harmless(seed).remove(index)).collect());
    }
    row((0..seeds).map(scenarios::dead_tmpfs).collect());
    row((0..seeds).map(|seed| scenarios::plateau(seed, 78.0, 60.0, 1_024.0, 14_400.0)).collect());
    println!();
}

fn random_traces() {
    println!(
        "| kind | traces | with an act | acts | on the innocent | plateaus with more than one | SIGKILLs (needless) | OOM kills | decided at | looks/s | accounts/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for kind in Kind::ALL {
        let runs = play_all((0..count()).map(|seed| random::case(kind, seed)).collect());
        let sums = sums(&runs);
        let with = runs.iter().filter(|(_, report)| !report.acts.is_empty()).count();
        let innocent: usize = runs.iter().map(|(_, report)| report.false_acts()).sum();
        let more = runs.iter().filter(|(_, report)| report.acts_on(Nature::Settles) > 1).count();
        let signals = runs.iter().flat_map(|(_, report)| &report.acts).filter(|act| matches!(act.act, Act::Signal(_))).count();
        let at = if sums.acts == 0 { "-".to_owned() } else { format!("{:.1}-{:.1} %", sums.low, sums.high) };
        let mark = if sums.broken > 0 { format!(" {} BROKEN", sums.broken) } else { String::new() };
        println!(
            "| {kind:?} | {}{mark} | {with} | {} | {innocent} | {more} | {} ({}) | {} | {at} | {:.0} | {:.2} |",
            sums.runs,
            sums.acts - signals,
            sums.kills,
            sums.needless,
            sums.ooms,
            sums.looks,
            sums.accounts
        );
    }
}
