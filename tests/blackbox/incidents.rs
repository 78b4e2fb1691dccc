//! A death by the kernel's OOM killer is called one in the incident, the metrics and `why`, and a SIGKILL from outside is not.

use firstmate::engine::incident::{How, RunEnded, Then, What};
use firstmate::engine::status::LimitSource;
use firstmate::engine::{Cause, Incidents};

use crate::harness::{Container, Setup, until};

const LIMIT: u64 = 64 << 20;

/// The ends of this instance's runs, the oldest first.
fn ends(container: &Container, name: &str) -> Vec<RunEnded> {
    let of = |what| match what {
        What::RunEnded(ended) if ended.instance == name => Some(*ended),
        What::RunEnded(_) | What::Signalled(_) | What::OomKills { .. } | What::Plateau { .. } | What::Helpless { .. } => None,
    };
    incidents(container).incidents.into_iter().filter_map(|incident| of(incident.what)).collect()
}

fn incidents(container: &Container) -> Incidents {
    let (code, body) = container.ask("GET", "/incidents").unwrap();
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The value of a series on the metrics page.
#[track_caller]
fn metric(container: &Container, series: &str) -> u64 {
    let (code, body) = container.ask("GET", "/metrics").unwrap();
    assert_eq!(code, 200, "{body}");
    let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no `{series}` in {body}")).parse().unwrap()
}

fn restarts(container: &Container, cause: &str) -> u64 {
    metric(container, &format!("firstmate_service_restarts_total{{name=\"leaker\",number=\"1\",cause=\"{cause}\"}}"))
}

#[test]
fn an_oom_kill_is_told_from_a_sigkill_in_incidents_and_metrics() {
    let config = "
        [memory]
        restart_above = 'off'
        [services.leaker]
        command = '{leaker} leak rate=max when={dir}/leak mark=1GiB'
        backoff = { initial = '10ms', factor = 1.0, max = '10ms', jitter = 0 }
        give_up_after = 'never'
    ";
    let container = Setup::new(config).memory(LIMIT).http("127.0.0.1:9180").start();
    container.until_ready("leaker.1");
    container.touch("leak");
    let first = container.until("leaker.1", "was killed for want of memory", |leaker| leaker.restarts.oom > 0);
    container.remove("leak");
    // One that began before the file was gone is killed as well.
    container.until("leaker.1", "is quiet again", |leaker| leaker.ready && leaker.uptime_ms.is_some_and(|uptime| uptime > 1_000));
    let kills = container.oom_kills();
    assert!(first.restarts.oom > 0 && kills > 0);

    let all = ends(&container, "leaker.1");
    assert_eq!(all.len() as u64, kills, "{all:?}");
    for ended in &all {
        assert_eq!((&ended.outcome, ended.cause, ended.asked), (&How::OomKilled, Cause::Crash, false), "{ended:?}");
        assert!(matches!(ended.then, Then::Restarted { .. }), "{ended:?}");
    }
    let told = incidents(&container);
    let of_container = told.incidents[0].container.expect("the container's memory");
    assert_eq!(
        (of_container.limit_bytes, of_container.limit_source, of_container.restart_above_bytes),
        (LIMIT, LimitSource::CgroupV1, None)
    );
    let (began, at) = (told.started_unix_ms.unwrap(), told.incidents[0].at_unix_ms.unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(began < at && u128::from(at) < now, "{began} {at} {now}");

    assert_eq!(metric(&container, "firstmate_oom_kills_total"), kills);
    assert_eq!((restarts(&container, "oom"), restarts(&container, "crash")), (kills, 0));
    assert_eq!(metric(&container, "firstmate_container_memory_limit_bytes{source=\"cgroup-v1\"}"), LIMIT);
    let (code, stdout, stderr) = container.cli(&["why", "leaker"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains(": leaker.1 (run 1) was killed by the kernel's OOM killer after "), "{stdout}");
    assert!(stdout.contains("of 64 MiB") && stdout.contains("switch the memory guard on"), "{stdout}");

    let killed = container.pid_of("leaker.1");
    container.kill(killed, "KILL");
    let last = until("it is told of", || ends(&container, "leaker.1").into_iter().nth(all.len()));
    assert_eq!((last.outcome, last.asked), (How::Signaled { signal: "SIGKILL".to_owned(), number: 9 }, false));
    container.until("leaker.1", "is back", |leaker| leaker.ready && leaker.pid.is_some_and(|pid| i64::from(pid) != i64::from(killed)));
    assert_eq!((restarts(&container, "oom"), restarts(&container, "crash")), (kills, 1));
    assert_eq!((metric(&container, "firstmate_oom_kills_total"), container.oom_kills()), (kills, kills));
    let (_, stdout, _) = container.cli(&["why", "-n", "1"]);
    assert!(stdout.contains(" was killed by SIGKILL, not sent by firstmate, after ") && !stdout.contains("kernel's"), "{stdout}");

    // The port shows the numbers, and not what was said and who it was.
    assert_eq!(container.ask_tcp(9180, "GET", "/metrics").unwrap().0, 200);
    assert_eq!(container.ask_tcp(9180, "GET", "/incidents").unwrap().0, 404);
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_start_of_a_run_is_the_same_in_every_scrape() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'\n").start();
    container.until_ready("web.1");
    let start = || {
        let (_, body) = container.ask("GET", "/metrics").unwrap();
        body.lines().find(|line| line.starts_with("firstmate_service_start_time_seconds{")).map(ToOwned::to_owned).unwrap()
    };
    let first = start();
    for _ in 0..200 {
        assert_eq!(start(), first);
    }
}

#[test]
fn why_tells_whom_nobody_knows_and_that_nothing_was() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'\n").start();
    container.until_ready("web.1");
    let (code, stdout, stderr) = container.cli(&["why", "web.1"]);
    assert!(
        code == 0 && stdout.starts_with("no incidents of web.1 since firstmate started, ") && stderr.is_empty(),
        "{code} {stdout} {stderr}"
    );
    let (code, stdout, stderr) = container.cli(&["why", "wbe"]);
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert_eq!(stderr, "error: no service, instance or group is called `wbe`\n  = help: did you mean `web`?\n");
}
