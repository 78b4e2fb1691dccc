//! The memory guard on a real cgroup v2: it acts before the kernel's OOM killer does, outlives memory.oom.group, knows a limit it is told and one that
//! changes, and calls an OOM kill what it is. An emulated machine is slow in everything alike, so what comes first is judged here, and
//! not how close to the line. The lines that begin with `GUARD` are for the table of `make guard-matrix`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::machine::{Machine, Output};

const SHELL: &str = include_str!("guard.sh");
const OFF: &str = "restart_above = \"off\"";
const AT_ONCE: &str = "confirm = \"0s\"";

/// One kind of race: how fast, in MiB a second, and what it makes of SIGTERM.
#[derive(Debug, Clone, Copy)]
struct Kind {
    rate: Option<u32>,
    deaf: bool,
    /// MiB.
    limit: u32,
}

impl Kind {
    fn rate(self) -> String {
        self.rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string())
    }

    fn name(self) -> String {
        format!("leak-{}-{}-{}", self.rate(), if self.deaf { "deaf" } else { "well" }, self.limit)
    }

    /// What the leaker does. It has so much first that it is some two seconds from the line.
    fn words(self) -> String {
        let base = self.rate.map_or(0, |rate| 72_u32.saturating_sub(rate * 2 * 100 / self.limit));
        let term = if self.deaf { "ignore" } else { "default" };
        format!("leak limit={}MiB rate={} base={base}% mark=10% term={term}", self.limit, self.rate())
    }

    fn script(self, runs: u32) -> String {
        format!("stack '{AT_ONCE}' '{}'\nraces {} {runs} {}M\n", self.words(), self.name(), self.limit)
    }
}

/// firstmate's line about its first act: on whom, and at how many percent of the limit.
fn act(section: &str) -> Option<(&str, f64)> {
    section.lines().find_map(|line| {
        let (head, rest) = line.split_once(" for its memory")?;
        let used = rest.split_once("%) in use")?.0;
        Some((head.rsplit(' ').next()?, used.rsplit('(').next()?.parse().ok()?))
    })
}

/// What went wrong in a race in which the guard was on.
fn faults(output: &Output, section: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{section}: {what}"));
        }
    };
    must(output.number(section, "oom") == 0, "the kernel's OOM killer struck");
    must(output.value(section, "lives") == "true", "firstmate is gone");
    must(output.number(section, "disturbed") == 0, "a bystander was disturbed");
    match act(output.section(section)) {
        None => must(false, "the guard did not act"),
        Some((victim, percent)) => {
            must(victim == "leaker.1", "somebody else was chosen");
            must(percent >= 74.9, &format!("decided at {percent} %, below the line"));
        }
    }
    faults
}

/// The line for all races of a kind, and what went wrong in them.
fn judge(output: &Output, item: u32, place: &str, kind: Kind, name: &str, runs: u32) -> Vec<String> {
    let sections: Vec<String> = (1..=runs).map(|run| format!("{name} {run}")).collect();
    let sum = |name: &str| sections.iter().map(|section| output.number(section, name)).sum::<u64>();
    let acts = || sections.iter().filter_map(|section| act(output.section(section))).map(|(_, percent)| percent);
    let shown = |percent: Option<f64>| percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}"));
    let (least, most) = (shown(acts().reduce(f64::min)), shown(acts().reduce(f64::max)));
    let peak = sections.iter().map(|section| output.number(section, "peak")).max().unwrap_or(0);
    let killed = sections.iter().filter(|section| output.section(section).contains("| killing leaker.1 for its memory")).count();
    println!(
        "GUARD item={item} rate={} threads=1 limit={} manner={} start=cold confirm=0s place={place} runs={runs} oom={} decided_min={least} \
         decided_max={most} peak_max={}.{} disturbed={} killed={killed}",
        kind.rate(),
        kind.limit,
        if kind.deaf { "deaf" } else { "well" },
        sum("oom"),
        peak / 10,
        peak % 10,
        sum("disturbed"),
    );
    sections.iter().flat_map(|section| faults(output, section)).collect()
}

#[track_caller]
fn none(faults: &[String], output: &Output) {
    assert!(faults.is_empty(), "{}\n{output}", faults.join("\n"));
}

/// A machine with the stand's functions, which takes so long at most.
fn run(patience: Duration, script: &str) -> Output {
    Machine::new().patience(patience).text("/guard", SHELL).run(&format!(". /guard\n{script}"))
}

fn races(kinds: &[Kind], runs: u32, patience: Duration) {
    let script: String = kinds.iter().map(|kind| kind.script(runs)).collect();
    let output = run(patience, &script);
    let faults: Vec<String> = kinds.iter().flat_map(|kind| judge(&output, 1, "vm", *kind, &kind.name(), runs)).collect();
    none(&faults, &output);
}

const FLAT: Kind = Kind { rate: None, deaf: false, limit: 256 };

/// Containers in which there is more to it than a limit.
fn special(runs: u32) -> String {
    let mut script = String::new();
    let leak = FLAT.words();
    for (name, memory) in [("group-on", AT_ONCE), ("group-off", OFF)] {
        writeln!(script, "stack '{memory}' '{leak}'").unwrap();
        for run in 1..=runs {
            writeln!(
                script,
                "section {name} {run}\ngroup {name} 256M\necho 1 >$CG/{name}/memory.oom.group\nrace {name} ro\nuntil_true 10 rmdir $CG/{name}"
            )
            .unwrap();
        }
    }
    writeln!(script, "stack '{AT_ONCE}\nlimit = \"256MiB\"' '{leak}'\ngroup outer 256M\nparent outer").unwrap();
    for run in 1..=runs {
        writeln!(script, "section hidden {run}\ngroup outer/hidden max\nrace outer/hidden ro\nuntil_true 10 rmdir $CG/outer/hidden")
            .unwrap();
    }
    writeln!(script, "stack '{AT_ONCE}' '{leak}'\nraces nobody {runs} 256M nobody").unwrap();
    // A handler that takes its time while the leak goes on: with a cgroup for each service it can, and without it cannot.
    for (name, memory, word) in [("brake", "cgroups = true\n", ""), ("no-brake", "", " ro")] {
        writeln!(script, "stack '{memory}{AT_ONCE}' 'leak limit=256MiB rate=max mark=10% term=keep:3s'").unwrap();
        for run in 1..=runs {
            writeln!(script, "section {name} {run}\ngroup {name} 256M\nrace {name}{word}\nuntil_true 10 clear {name}").unwrap();
        }
    }
    // The kernel's answer where the guard is off and each service has a cgroup: one dies, and not all.
    writeln!(script, "stack '{OFF}\ncgroups = true' '{leak}'").unwrap();
    for run in 1..=runs {
        writeln!(
            script,
            "section group-apart {run}\ngroup apart 256M\necho 1 >$CG/apart/memory.oom.group\nrace apart\nuntil_true 10 clear apart"
        )
        .unwrap();
    }
    script
}

fn judge_special(output: &Output, runs: u32) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, place) in [("group-on", "vm+oom.group"), ("hidden", "vm+hidden-limit"), ("nobody", "vm+nobody")] {
        faults.extend(judge(output, 1, place, FLAT, name, runs));
    }
    faults.extend(judge(output, 1, "vm+cgroups+keeps-3s", FLAT, "brake", runs));
    judge(output, 1, "vm+keeps-3s", FLAT, "no-brake", runs);
    for run in 1..=runs {
        let (braked, unbraked, apart) = (format!("brake {run}"), format!("no-brake {run}"), format!("group-apart {run}"));
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(what.to_owned());
            }
        };
        must(output.section(&braked).contains("the memory of leaker is known exactly"), "the leaker's cgroup was not read");
        // Who is above the line only a moment before the end gets SIGKILL at once, brake or not.
        let asked = output.section(&braked).contains("restarting leaker.1 for its memory");
        must(!asked || output.section(&braked).contains("leaker.1 exited with code 0"), "a braked leaker could not end by itself");
        must(output.number(&braked, "peak") < 850, "a braked leaker came to 85 %");
        must(output.number(&unbraked, "oom") == 0, "a leaker without a brake came to the OOM killer");
        must(output.section(&unbraked).contains("leaker.1 killed by SIGKILL"), "a leaker without a brake was given three seconds");
        let lived = output.value(&apart, "lives") == "true" && output.number(&apart, "disturbed") == 0;
        must(lived && output.number(&apart, "oom") == 1, "memory.oom.group killed more than the leaker's own cgroup");
        must(
            output.section(&apart).contains("leaker.1 killed by the kernel's OOM killer"),
            "the leaker's death was not called what it was",
        );
    }
    // The control: without the guard, the kernel kills them all.
    let (mut died, mut oom) = (0, 0);
    for run in 1..=runs {
        let section = format!("group-off {run}");
        oom += output.number(&section, "oom");
        if output.value(&section, "lives") == "false" && output.number(&section, "status") == 137 {
            died += 1;
        }
    }
    println!(
        "GUARD item=1 rate=max threads=1 limit=256 manner=well start=cold confirm=off place=vm+oom.group runs={runs} oom={oom} stack_died={died}"
    );
    if died != runs {
        faults.push(format!("without the guard the stack died in {died} of {runs} runs"));
    }
    faults
}

/// The limit of a running container is changed.
const CHANGE: &str = r#"
section change
group change 256M
stack 'confirm = "0s"' 'plateau size=100MiB then=hold'
contain change ro
until_true 60 at_least 'leaker\.1 ready' 1
for limit in 128; do
    echo ${limit}M >$CG/change/memory.max
    began=$(cut -d' ' -f1 /proc/uptime | tr -d .)
    until_true 20 at_least "the limit of memory is $limit MiB" 1
    echo "after-$limit=$(($(cut -d' ' -f1 /proc/uptime | tr -d .) - began))"
    until_true 20 at_least 'leaker\.1 for its memory' 1
done
report change
end change
"#;

/// Nothing that could tell about memory: no cgroup file system, or nothing in it that is ours.
const BLIND: &str = r#"
section blind
group blind 256M
stack 'confirm = "0s"' 'plateau size=225MiB then=hold'
contain blind no-cgroup
until_true 60 at_least 'leaker\.1 ready' 1
report blind
end blind
"#;

/// Deaths by the kernel's OOM killer and from outside, alone and mixed.
fn diagnosis(deaths: u32) -> String {
    format!(
        r"
section died-of-oom
group dying 32M
mortals leaker
contain dying ro
until_true 200 at_least 'leaker\.1 killed by' {deaths}
deaths dying
end dying

section died-of-oom-above
group above 32M
parent above
group above/dying max
contain above/dying ro
until_true 200 at_least 'leaker\.1 killed by' {deaths}
deaths above/dying
end above/dying

section died-of-both-apart
group apart 32M
mortals leaker victim ballast 'cgroups = true'
contain apart
slay {deaths}
until_true 200 at_least 'leaker\.1 killed by' {deaths}
deaths apart
end apart

section died-of-others
group slain 32M
mortals victim
contain slain ro
slay {deaths}
deaths slain
end slain

section died-of-both
group both 32M
mortals leaker victim ballast
contain both ro
slay {deaths}
until_true 200 at_least 'leaker\.1 killed by' {deaths}
deaths both
end both
"
    )
}

fn judge_diagnosis(output: &Output, deaths: u64) -> Vec<String> {
    let mut faults = Vec::new();
    for (section, oom, others) in [
        ("died-of-oom", true, false),
        ("died-of-oom-above", true, false),
        ("died-of-others", false, true),
        ("died-of-both", true, true),
        ("died-of-both-apart", true, true),
    ] {
        let number = |name: &str| output.number(section, name);
        let [claimed, unclaimed] = ["leaker-oom", "leaker-killed"].map(number);
        let [over_claimed, right] = ["victim-oom", "victim-killed"].map(number);
        println!(
            "GUARD item=5 place=vm case={section} runs={deaths} kernel={} oom_called_oom={claimed} oom_called_killed={unclaimed} \
             others_called_oom={over_claimed} others_called_killed={right}",
            number("kernel")
        );
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{section}: {what}"));
            }
        };
        must(output.value(section, "lives") == "true", "firstmate is gone");
        must(over_claimed == 0, "a SIGKILL from outside was called the OOM killer's");
        must(!others || right >= deaths, "not all that were killed from outside are told of");
        must(!oom || claimed + unclaimed >= deaths, "not all that the OOM killer killed are told of");
        // What cannot be told apart is said to be so: both died in one moment.
        must(
            if section == "died-of-both" { unclaimed <= number("perhaps") } else { unclaimed == 0 },
            "an OOM kill was called a SIGKILL from outside",
        );
        must(oom || number("kernel") == 0, "the kernel killed somebody");
    }
    faults
}

/// A limit that is changed is known within the five seconds it is looked at, told, and acted upon.
fn judge_change(output: &Output) -> Vec<String> {
    // In hundredths of a second; a second more for the machine.
    let late = [128].into_iter().filter(|limit| output.number("change", &format!("after-{limit}")) > 600);
    let mut faults: Vec<String> = late.map(|limit| format!("the limit of {limit} MiB was not known within 5 s")).collect();
    if act(output.section("change")).is_none_or(|(victim, _)| victim != "leaker.1") {
        faults.push("above the new line, nothing was done".to_owned());
    }
    if output.number("change", "oom") != 0 {
        faults.push("the OOM killer struck while the limit was changed".to_owned());
    }
    faults
}

#[test]
fn the_guard_is_faster_than_the_oom_killer_of_cgroup_v2() {
    let kinds =
        [Kind { rate: Some(20), deaf: false, limit: 256 }, Kind { rate: Some(400), deaf: true, limit: 256 }, Kind { deaf: true, ..FLAT }];
    races(&kinds, 1, Duration::from_secs(200));
}

#[test]
fn the_guard_knows_its_container() {
    let output = run(Duration::from_secs(200), &format!("{}{CHANGE}{BLIND}", special(1)));
    let mut faults = judge_special(&output, 1);
    faults.extend(judge_change(&output));
    // At 88 % of a limit that is not known; what is known instead is said.
    assert_eq!(act(output.section("blind")), None, "{output}");
    assert_eq!(output.section("blind").matches("no limit of memory is set").count(), 1, "{output}");
    none(&faults, &output);
}

#[test]
fn a_death_is_called_what_it_is() {
    let output = run(Duration::from_secs(200), &diagnosis(4));
    none(&judge_diagnosis(&output, 4), &output);
}

mod matrix {
    use super::*;

    /// Fifty runs of each rate, ten of the slowest, half of them by a leaker that ignores SIGTERM.
    fn leaks(rate: Option<u32>) {
        let runs = if rate == Some(1) { 5 } else { 25 };
        let kinds = [false, true].map(|deaf| Kind { rate, deaf, limit: 256 });
        races(&kinds, runs, Duration::from_secs(1500));
    }

    macro_rules! each {
        ($($name:ident => $rate:expr),+ $(,)?) => {
            $(#[test] #[ignore = "minutes; make guard-matrix"] fn $name() { leaks($rate); })+
        };
    }

    each! {
        matrix_vm_leaks_at_1 => Some(1),
        matrix_vm_leaks_at_20 => Some(20),
        matrix_vm_leaks_at_100 => Some(100),
        matrix_vm_leaks_at_400 => Some(400),
        matrix_vm_leaks_flat_out => None,
    }

    #[test]
    #[ignore = "minutes; make guard-matrix"]
    fn matrix_vm_containers() {
        let output = run(Duration::from_secs(1500), &special(10));
        none(&judge_special(&output, 10), &output);
    }

    #[test]
    #[ignore = "minutes; make guard-matrix"]
    fn matrix_vm_diagnosis() {
        let output = run(Duration::from_secs(1500), &diagnosis(50));
        none(&judge_diagnosis(&output, 50), &output);
    }
}
