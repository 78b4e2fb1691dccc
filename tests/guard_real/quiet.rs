//! Item 3: what looks like a leak and is none. Nobody is restarted for it.

use std::time::Duration;

use super::ground::{Ground, MIB, Place, matrix, report};
use super::load::Load;
use super::native::sandbox::{PATIENCE, until};
use super::stack::{SERVICES, Wish, crew};

/// Beside what is tested: somebody who could be blamed.
const BYSTANDER: &str = "
[services.bystander]
command = \"./leaker plateau size=6MiB\"
";

/// `leaker WORDS` beside the bystander, until it says that it is done; then nobody was restarted. `at_least` is what its container must have
/// seen of `of`, so that there was something not to be deceived by.
fn undisturbed(case: &str, place: Place, limit: u64, confirm: &str, words: &str, patience: Duration, used: Used) {
    let text = format!(
        "
[memory]
confirm = \"{confirm}\"
{BYSTANDER}
[services.leaker]
command = \"./leaker {words} when=run/go\"
"
    );
    let ground = Ground::plain(place, case, limit, &text, false);
    ground.wait_until_well();
    let watch = ground.watch();
    ground.touch("run/go");
    match used {
        Used::Hard(_) | Used::Usage(_) => ground.wait_for_line(patience, "leaker.1 out | leaker done"),
        Used::HardFor(_, time) => ground.for_as_long_as(time, || {}),
    }
    let peak = ground.percent(watch.peak());
    let usage = ground.percent(ground.memory().usage_max);
    report(
        3,
        case,
        &ground,
        &format!("runs=1 restarts={} oom={} peak={peak:.1}% usage={usage:.1}%", ground.acts(), ground.memory().oom_kills),
    );
    ground.assert_quiet();
    ground.assert_not_restarted(&["leaker", "bystander"]);
    let (saw, least) = match used {
        Used::Hard(least) | Used::HardFor(least, _) => (peak, least),
        Used::Usage(least) => (usage, least),
    };
    assert!(saw >= least, "{saw:.1}% is no test of anything");
}

/// What must have been seen, in percent of the limit.
#[derive(Clone, Copy)]
enum Used {
    Hard(f64),
    /// By a program that never says that it is done.
    HardFor(f64, Duration),
    Usage(f64),
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn page_cache_up_to_the_limit() {
    let words = if matrix() { "cache file=data/file size=700MiB rounds=30" } else { "cache file=data/file size=300MiB rounds=2" };
    undisturbed("page-cache", Place::Native, 256 * MIB, "1s", words, 20 * MINUTE, Used::Usage(95.0));
    if matrix() {
        undisturbed("page-cache", Place::Docker, 256 * MIB, "1s", words, 20 * MINUTE, Used::Usage(95.0));
    }
}

#[test]
fn a_mapped_file() {
    let rounds = if matrix() { 300 } else { 10 };
    let words = format!("mapped file=data/file size=220MiB rounds={rounds}");
    undisturbed("mapped-file", Place::Native, 256 * MIB, "1s", &words, 20 * MINUTE, Used::Usage(85.0));
}

/// Given back by MADV_FREE, it is still in every process's own view, and in the cgroup's count of anonymous memory.
#[test]
fn memory_given_back_lazily() {
    let text = format!(
        "
[memory]
confirm = \"1s\"
{BYSTANDER}
[services.lazy]
command = \"./leaker lazyfree size=65% limit=256MiB\"
[services.filler]
command = \"./leaker plateau size=64% limit=256MiB over=2s when=run/go\"
"
    );
    let ground = Ground::plain(Place::Native, "lazyfree", 256 * MIB, &text, false);
    ground.wait_for_line(PATIENCE, "lazy.1 out | leaker done");
    let watch = ground.watch();
    ground.touch("run/go");
    ground.wait_for_line(PATIENCE, "filler.1 out | leaker done");
    // Near the line, for longer than `confirm`.
    ground.for_as_long_as(Duration::from_secs(if matrix() { 60 } else { 4 }), || {});
    let peak = ground.percent(watch.peak());
    let usage = ground.percent(ground.memory().usage_max);
    report(3, "madv-free", &ground, &format!("runs=1 restarts={} oom=0 peak={peak:.1}% usage={usage:.1}%", ground.acts()));
    ground.assert_quiet();
    ground.assert_not_restarted(&["lazy", "filler", "bystander"]);
    assert!(usage > 95.0, "{usage:.1}%: what was given back was not needed");
}

/// Files in a tmpfs outlive the process that wrote them: they are nobody's memory, and no restart brings them back.
fn tmpfs(place: Place) {
    let text = format!(
        "
[memory]
confirm = \"500ms\"
{BYSTANDER}
[services.writer]
type = \"oneshot\"
command = \"./leaker tmpfs file=shm/file size=80% limit=256MiB rate=100 then=exit\"
"
    );
    let ground = Ground::plain(place, "tmpfs", 256 * MIB, &text, true);
    let place_of_it = ground.inside().join("shm").display().to_string();
    let message = ground.wait_until_said("no restart would help");
    // What it says once it does not say again at each look.
    ground.for_as_long_as(Duration::from_secs(if matrix() { 60 } else { 3 }), || {});
    let said = ground.said().iter().filter(|line| line.contains("no restart would help")).count();
    report(
        3,
        "tmpfs-of-a-dead-process",
        &ground,
        &format!(
            "runs=1 restarts={} oom={} hard={:.1}% told={said}",
            ground.acts(),
            ground.memory().oom_kills,
            ground.percent(ground.memory().hard)
        ),
    );
    ground.assert_quiet();
    ground.assert_not_restarted(&["bystander"]);
    // Where it is, and how much: 80 % of 256 MiB are 204.8.
    assert!(message.contains(&place_of_it) && message.contains("204.8 MiB"), "{message}");
    assert_eq!(said, 1, "{}", ground.log());
}

#[test]
fn a_tmpfs_filled_by_a_dead_process() {
    tmpfs(Place::Native);
}

#[test]
fn a_tmpfs_filled_by_a_dead_process_in_docker() {
    tmpfs(Place::Docker);
}

/// 85.5 % and what the bystander and firstmate have: about 88 %. At 100 MB/s, so that what is left above is no emergency, not even when firstmate is
/// woken a tenth of a second late.
#[test]
fn spikes_of_three_seconds() {
    let (period, times) = if matrix() { ("20s", 12) } else { ("8s", 2) };
    let words = format!("spike size=85.5% limit=512MiB ramp=4s hold=3s period={period} times={times}");
    undisturbed("spikes-88", Place::Native, 512 * MIB, "10s", &words, 20 * MINUTE, Used::Hard(86.0));
}

/// 40 to 80 %, each tooth above the line for an eighth of its period.
#[test]
fn a_quick_sawtooth() {
    let time = Duration::from_secs(if matrix() { 240 } else { 11 });
    let period = if matrix() { "20s" } else { "5s" };
    let words = format!("sawtooth low=38% high=78% limit=512MiB period={period}");
    undisturbed("sawtooth-quick", Place::Native, 512 * MIB, "10s", &words, MINUTE, Used::HardFor(79.0, time));
}

/// Above the line for longer than `confirm`: a tooth of three minutes with the default of 10 s, or one of 9 s with half a second.
#[test]
fn a_slow_sawtooth() {
    let (confirm, period, time) = if matrix() { ("10s", "3m", 780) } else { ("500ms", "9s", 19) };
    let words = format!("sawtooth low=38% high=78% limit=512MiB period={period}");
    undisturbed("sawtooth-slow", Place::Native, 512 * MIB, confirm, &words, MINUTE, Used::HardFor(79.0, Duration::from_secs(time)));
}

/// Where it settles is above the line, with or without a restart: at most one of them, and then one warning.
#[test]
fn a_plateau() {
    let (confirm, over, after) = if matrix() { ("10s", "20s", 300) } else { ("500ms", "2s", 5) };
    let text = format!(
        "
[memory]
confirm = \"{confirm}\"
{BYSTANDER}
[services.leaker]
command = \"./leaker plateau size=76% limit=512MiB over={over}\"
"
    );
    let ground = Ground::plain(Place::Native, "plateau", 512 * MIB, &text, false);
    let told = |line: &str| line.starts_with("leaker.1 is back at ") && line.contains("after its restart");
    super::native::sandbox::within(10 * MINUTE, "the warning is given", || {
        if ground.said().iter().any(|line| told(line)) { Ok(()) } else { Err(ground.tail()) }
    });
    ground.for_as_long_as(Duration::from_secs(after), || {});
    let warnings = ground.said().iter().filter(|line| told(line)).count();
    let restarts = until("the status is told", || ground.instance("leaker.1")).restarts;
    let percent = ground.percent(ground.memory().hard);
    report(3, "plateau-78", &ground, &format!("runs=1 restarts={} warnings={warnings} oom=0 hard={percent:.1}%", restarts.memory));
    assert!((76.0..82.0).contains(&percent), "{percent}");
    assert!(restarts.memory <= 1 && restarts.total == restarts.memory, "{restarts:?}\n{}", ground.log());
    assert_eq!(warnings, 1, "{}", ground.log());
    assert_eq!(ground.memory().oom_kills, 0);
    ground.assert_not_restarted(&["bystander"]);
}

/// Each child holds as much as its parent, for as long as it takes to execute something else.
#[test]
fn forks_and_executions_from_a_large_parent() {
    let times = if matrix() { 1000 } else { 100 };
    let words = format!("exec size=500MiB times={times}");
    undisturbed("fork-exec", Place::Native, 700 * MIB, "1s", &words, 10 * MINUTE, Used::Hard(70.0));
}

/// Redis at 70 % of the limit saves `times` times for about `seconds` each, at rest or while a share of what it has is written anew.
fn snapshots(place: Place, times: u32, seconds: u64, confirm: &str, writes: bool) {
    const HOLDS: u64 = 354;
    let case = if writes { "bgsave-writes" } else { "bgsave-idle" };
    let mut wish = Wish::new(case, place, "");
    let more = format!("[memory]\nconfirm = \"{confirm}\"\n");
    (wish.redis, wish.redis_alone, wish.more) = (HOLDS, true, &more);
    let ground = wish.start();
    let pid = ground.leader("redis.1");
    ground.redis_ok(&format!("CONFIG SET rdb-key-save-delay {}", seconds * 1_000_000 / (HOLDS * 4)), "+OK");
    let before = ground.percent(ground.memory().hard);
    let watch = ground.watch();
    for _ in 0..times {
        let last = ground.redis("LASTSAVE").unwrap();
        // A second is the unit of LASTSAVE.
        until("a second has passed", || match ground.redis("TIME") {
            Ok(_) if format!(":{}", unix_seconds()) != last => Ok(()),
            other => Err(format!("{other:?}")),
        });
        ground.redis_ok("BGSAVE", "+Background saving started");
        let mut key = 0;
        until("it has saved", || {
            if writes {
                // 4 MiB of the same 72, which the child still has as they were.
                let script = "for i=ARGV[1],ARGV[1]+15 do redis.call('SETRANGE','key:'..i,0,string.rep('x',262144)) end return 1";
                ground.redis_ok(&format!("EVAL \"{script}\" 0 {key}"), ":1");
                key = (key + 16) % 288;
                super::ground::breathe(50);
            }
            match ground.redis_info("persistence", "rdb_bgsave_in_progress")?.as_str() {
                "0" => Ok(()),
                other => Err(format!("in progress: {other}\n{}", ground.tail())),
            }
        });
        assert_eq!(ground.redis_info("persistence", "rdb_last_bgsave_status").as_deref(), Ok("ok"), "{}", ground.log());
        assert_ne!(ground.redis("LASTSAVE").unwrap(), last, "{}", ground.log());
        ground.redis_ok("SET canary 1", "+OK");
    }
    let peak = ground.percent(watch.peak());
    report(
        3,
        case,
        &ground,
        &format!("runs={times} restarts={} oom={} at={before:.1}% peak={peak:.1}%", ground.acts(), ground.memory().oom_kills),
    );
    assert_eq!(ground.leader("redis.1"), pid, "{}", ground.log());
    ground.assert_quiet();
    ground.assert_not_restarted(&["redis"]);
    assert!(before >= 68.0, "{before}");
    assert!(!writes || peak > 78.0, "{peak}: the writes are no test");
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn redis_saves_at_rest() {
    if matrix() {
        // Before this thread is in a network namespace without a way to Docker's.
        snapshots(Place::Docker, 20, 3, "1s", false);
        snapshots(Place::Native, 20, 3, "1s", false);
    } else {
        snapshots(Place::Native, 2, 2, "1s", false);
    }
}

#[test]
fn redis_saves_and_is_written_to() {
    if matrix() {
        snapshots(Place::Docker, 20, 14, "10s", true);
        snapshots(Place::Native, 20, 14, "10s", true);
    } else {
        snapshots(Place::Native, 2, 3, "1s", true);
    }
}

/// Each worker maps what all have: their RSS add up to more than there is. What they hold is far below their line.
fn prefork(place: Place, time: Duration) {
    let more = "
[memory]
confirm = \"1s\"
[services.php-fpm.memory]
restart_above = \"150MiB\"
";
    let ground = Wish::new("php-fpm", place, more).start();
    let crew = crew(&ground);
    let load = Load::start(&ground, 4, "/");
    load.wait_for(600);
    let rss: u64 = crew.pids().map(resident).sum();
    let mut known = Vec::new();
    ground.for_as_long_as(time, || {
        if let Ok(memory) = ground.instance("php-fpm.1").map(|one| one.memory) {
            known.extend(memory);
        }
    });
    let counted = load.finish();
    let missing = ground.missing(&crew);
    let last = known.last().map_or_else(
        || "unknown".to_owned(),
        |memory| {
            let mib = |bytes: u64| bytes / MIB;
            let (method, bytes) = (memory.method, mib(memory.bytes));
            format!("{method:?}:{bytes}MiB({}..{})", mib(memory.at_least_bytes), mib(memory.at_most_bytes)).to_lowercase()
        },
    );
    report(
        3,
        "php-fpm-rss",
        &ground,
        &format!(
            "runs=1 restarts={} oom={} rss={}MiB known={last} answered={} lost={} kept={}/{}",
            ground.acts(),
            ground.memory().oom_kills,
            rss / MIB,
            counted.answered,
            counted.lost,
            crew.len() - missing.len(),
            crew.len()
        ),
    );
    assert!(rss > ground.limit, "{} MiB is no test", rss / MIB);
    assert!(missing.is_empty(), "{missing:?}\n{}", ground.log());
    assert_eq!(counted.lost, 0, "{:?}\n{}", counted.instead, ground.log());
    ground.assert_quiet();
    ground.assert_not_restarted(&SERVICES);
}

/// VmRSS in bytes, 0 for who is gone.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[test]
fn the_workers_of_php_fpm() {
    prefork(Place::Native, Duration::from_secs(if matrix() { 300 } else { 5 }));
}

#[test]
fn the_workers_of_php_fpm_in_docker() {
    prefork(Place::Docker, Duration::from_secs(if matrix() { 300 } else { 5 }));
}
