//! What the guard costs while nothing is wrong: 30 services with 210 processes at 40 % of 1 GiB.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::stage::{MIB, Place, Stage, until};
use super::trial::percent;

/// 30 services of seven processes each.
fn many() -> Stage {
    let mut toml = String::new();
    for number in 1..=30 {
        toml += &format!("[services.s{number}]\ncommand = \"{{leaker}} prefork size=12MiB children=6 dirty=1 to={{dir}}/notes\"\n");
    }
    let stage = Stage::start(Cgroup::new(1024 * MIB, None), Place::Init, &toml, &[]);
    until("all have forked", || {
        let notes = std::fs::read_to_string(stage.directory.0.join("notes")).unwrap_or_default();
        let ready = stage.log.own().iter().filter(|text| text.contains(" ready after ")).count();
        if notes.matches(" forked ").count() == 30 && ready == 30 {
            Ok(())
        } else {
            Err(format!("{ready} are ready\n{}", stage.log.tail()))
        }
    });
    let used = percent(stage.cgroup.hard(), stage.cgroup.limit);
    assert!((38.0..42.0).contains(&used), "{used} % of the limit is used");
    assert!(stage.cgroup.pids_with("prefork").len() >= 210);
    // The first look at all processes takes memory that is used again at each later one.
    until("everybody has been looked at", || {
        let status = stage.try_status()?;
        let looked_at = status.services.iter().flat_map(|service| &service.instances).filter(|instance| instance.memory.is_some()).count();
        if looked_at == 30 { Ok(()) } else { Err(format!("{looked_at} have")) }
    });
    stage
}

/// Of all threads of firstmate: nanoseconds on a processor (sched-stats) and context switches it asked for (proc_pid_status(5)), that is how often it woke up.
fn spent(pid: u32) -> (u64, u64) {
    let (mut nanos, mut wakes) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        nanos += read("schedstat").split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        let switches = read("status").lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok());
        wakes += switches.unwrap_or(0);
    }
    (nanos, wakes)
}

/// Its own memory. Its code comes into memory as it is executed for the first time, which is no growth.
fn anon_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()).unwrap();
    field.parse().unwrap()
}

/// A page here and there, in the first seconds, is not yet growth: that there is none in minutes is for the matrix to show.
const STILL_KIB: u64 = 32;

#[derive(Debug)]
struct Cost {
    percent_of_a_core: f64,
    wakes_per_second: f64,
    grown_kib: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
fn measure(pid: u32, time: Duration) -> Cost {
    let (rss, (nanos, wakes), begin) = (anon_kib(pid), spent(pid), Instant::now());
    // Not a wait for something to happen: this is how long is measured.
    std::thread::sleep(time);
    let (after, seconds) = (spent(pid), begin.elapsed().as_secs_f64());
    Cost {
        percent_of_a_core: (after.0 - nanos) as f64 / 1e9 / seconds * 100.0,
        wakes_per_second: (after.1 - wakes) as f64 / seconds,
        grown_kib: anon_kib(pid).saturating_sub(rss),
    }
}

/// What firstmate reads and opens, as strace sees it.
#[derive(Debug)]
struct Calls {
    reads: usize,
    opens: Vec<String>,
}

fn watch(pid: u32, time: Duration) -> Calls {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-s", "64", "-e", "trace=open,openat,pread64,preadv,read", "-p", &pid.to_string()]);
    let mut child = strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot execute strace; run `tests/setup packages`");
    let mut output = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut output, &mut text).unwrap();
        text
    });
    std::thread::sleep(time);
    // SAFETY: our own child, which lets go of firstmate at this.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    child.wait().unwrap();
    let text = reader.join().unwrap();
    let calls = |name: &str| text.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>();
    Calls { reads: calls("read").len(), opens: calls("open") }
}

fn line(cost: &Cost, calls: &Calls, seconds: u64) -> String {
    let pss = calls.opens.iter().filter(|line| line.contains("smaps")).count();
    format!(
        "GUARD item=6 services=30 processes=210 limit=1024 used=40% seconds={seconds} core_percent={:.3} wakes_per_s={:.1} grown_kib={} smaps_opens={pss}",
        cost.percent_of_a_core, cost.wakes_per_second, cost.grown_kib
    )
}

/// How often it wakes up and what it opens; how long that takes on this machine is in the matrix.
#[test]
fn while_little_is_used_one_small_read_answers_for_all() {
    let stage = many();
    let pid = stage.pid();
    let cost = measure(pid, Duration::from_secs(4));
    let calls = watch(pid, Duration::from_secs(3));
    println!("{}", line(&cost, &calls, 4));
    assert!(calls.reads > 5, "the guard reads the counter: {calls:?}");
    assert!(!calls.opens.iter().any(|line| line.contains("smaps")), "{calls:?}");
    // Some thirty a second is what the time to the limit asks for at 16 GB/s; whatever else happens is a few a second.
    assert!(cost.wakes_per_second < 60.0, "{cost:?}");
    assert!(cost.grown_kib <= STILL_KIB, "{cost:?}");
}

#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_cost() {
    let stage = many();
    let pid = stage.pid();
    // Whatever settles does so in the first minutes: then comes one in which nothing grows.
    let mut grown = Vec::new();
    let cost = loop {
        let cost = measure(pid, Duration::from_secs(60));
        grown.push(cost.grown_kib);
        if cost.grown_kib == 0 || grown.len() == 4 {
            break cost;
        }
    };
    let calls = watch(pid, Duration::from_secs(20));
    println!("{}", line(&cost, &calls, 60));
    assert!(cost.percent_of_a_core < 0.3, "{cost:?}");
    assert!(cost.grown_kib == 0 && grown.iter().sum::<u64>() <= STILL_KIB, "{grown:?}, {cost:?}");
    assert!(!calls.opens.iter().any(|line| line.contains("smaps")), "{calls:?}");
}

/// Where it looks most often: just under the line of a small container.
fn closest() -> (Stage, u32) {
    let toml = "[memory]\nconfirm = \"0s\"\n[services.near]\ncommand = \"{leaker} limit=64MiB to={dir}/notes sawtooth low=55% high=66% period=500ms\"\n";
    let stage = Stage::start(Cgroup::new(64 * MIB, None), Place::Init, toml, &[]);
    until("it goes up and down", || {
        let notes = std::fs::read_to_string(stage.directory.0.join("notes")).unwrap_or_default();
        if notes.matches("fell back").count() > 3 { Ok(()) } else { Err(stage.log.tail()) }
    });
    stage.told("memory comes near");
    let pid = stage.pid();
    (stage, pid)
}

fn report_closest(cost: &Cost, minute: &str) {
    println!(
        "GUARD item=6 case=closest limit=64 time={minute} core_percent={:.2} wakes_per_s={:.0} grown_kib={}",
        cost.percent_of_a_core, cost.wakes_per_second, cost.grown_kib
    );
    assert!(cost.wakes_per_second > 20.0, "it looks often here: {cost:?}");
}

#[test]
fn close_to_the_line_it_looks_often_and_does_not_grow() {
    let (stage, pid) = closest();
    let cost = measure(pid, Duration::from_secs(3));
    report_closest(&cost, "3s");
    assert!(cost.grown_kib <= STILL_KIB, "{cost:?}\n{}", stage.log.tail());
}

/// 13,000 looks a minute. Whatever settles does so within a few of them: in the end there is a minute in which nothing grows.
#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_closest_to_the_line() {
    let (stage, pid) = closest();
    let mut grown = Vec::new();
    for minute in ["1st-minute", "2nd-minute", "3rd-minute", "4th-minute", "5th-minute", "6th-minute"] {
        let cost = measure(pid, Duration::from_secs(60));
        report_closest(&cost, minute);
        grown.push(cost.grown_kib);
    }
    assert!(grown[3..].contains(&0) && grown.iter().sum::<u64>() <= STILL_KIB, "{grown:?}\n{}", stage.log.tail());
}
