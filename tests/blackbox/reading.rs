//! Those who read along: `logs`, `events`, `wait` and `env` against the real supervisor.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use firstmate::engine::Cause;
use firstmate::engine::incident::How;
use firstmate::engine::status::StateName;
use firstmate::observe::Level;
use firstmate::observe::happening::{Happening, What};
use firstmate::server::Variables;

use crate::harness::{Container, Place, Setup, both_ways, until};

both_ways![logs_are_merged_in_order_and_followed, events_tell_the_story];

/// A command that goes on, and what it has written so far.
struct Following {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Following {
    fn new(container: &Container, arguments: &[&str]) -> Self {
        let mut child = container.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line)));
        Self { child, lines }
    }

    /// With nobody reading what it writes.
    fn unread(container: &Container, arguments: &[&str]) -> (Child, ChildStdout) {
        let mut child = container.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        (child, output)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&str) -> bool) {
        until(what, || self.lines().iter().any(|line| is(line)).then_some(()));
    }

    /// Its exit code, once it ends by itself.
    #[track_caller]
    fn end(&mut self) -> i32 {
        until("the command ends", || self.child.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without their times.
fn texts(output: &str) -> Vec<&str> {
    output.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

fn logs_are_merged_in_order_and_followed(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        instances = 2
        command = '{actor} print one wait-file {dir}/second print two print-error three wait-file {dir}/third print four sleep'
        [services.store]
        command = '{actor} wait-file {dir}/first print stored wait-file {dir}/fourth print later sleep'
        ",
    )
    .place(place)
    .start();
    for name in ["web.1", "web.2"] {
        container.said(name, "one");
    }
    container.touch("first");
    container.said("store.1", "stored");
    container.touch("second");
    for name in ["web.1", "web.2"] {
        container.said(name, "two");
        container.said(name, "three");
    }
    // What the log has, in its order.
    let logged: Vec<String> = container.lines().into_iter().filter(|line| !line.is_own()).map(|line| line.raw).collect();
    let (code, all, error) = container.cli(&["logs"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(all.lines().map(ToOwned::to_owned).collect::<Vec<_>>(), logged);
    assert_eq!(container.cli(&["logs", "all"]).1, all);
    let (_, of_one, _) = container.cli(&["logs", "web.2"]);
    assert_eq!(texts(&of_one), ["web.2 out | one", "web.2 out | two", "web.2 err | three"]);
    let (_, of_both, _) = container.cli(&["logs", "web", "-n", "2"]);
    let web: Vec<&String> = logged.iter().filter(|line| line.contains(" web.")).collect();
    assert_eq!(of_both.lines().collect::<Vec<_>>(), web[web.len() - 2..]);
    assert_eq!(container.cli(&["logs", "--since", "1h"]).1, all);
    assert_eq!(container.cli(&["logs", "-n", "0"]).1, "");

    let mut follower = Following::new(&container, &["logs", "-f", "-n", "1", "store", "web.1"]);
    follower.until("it has caught up", |line| !line.is_empty());
    container.touch("third");
    container.said("web.2", "four");
    follower.until("it follows", |line| line.ends_with("web.1 out | four"));
    container.touch("fourth");
    follower.until("it follows", |line| line.ends_with("store.1 out | later"));
    let lines = follower.lines().join("\n");
    assert!(!lines.contains("web.2"), "{lines}");
    assert_eq!(texts(&lines)[1..], ["web.1 out | four", "store.1 out | later"]);
    // Anybody in the container may read, as over the port; who asks for nobody is told.
    assert_eq!(container.cli_as(65534, &["logs", "web.2", "-n", "1"]).0, 0);
    let (code, out, error) = container.cli(&["logs", "wbe"]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert_eq!(error, "error: no service, instance or group is called `wbe`\n  = help: did you mean `web`?\n");
    // A restart does not take away what the run before said.
    assert_eq!(container.cli(&["restart", "store"]).0, 0);
    assert!(container.cli(&["logs", "store"]).1.contains("stored"));
    assert_eq!(container.stop(), 0);
    assert_eq!(follower.end(), 0);
}

#[test]
fn the_buffer_is_as_large_as_the_file_says() {
    let container = Setup::new("[firstmate]\nlog_buffer = '8KiB'\n[services.web]\ncommand = '{actor} lines 5000 print last sleep'").start();
    container.said("web.1", "last");
    let (_, out, _) = container.cli(&["logs"]);
    let kept = texts(&out);
    assert_eq!(*kept.last().unwrap(), "web.1 out | last");
    let first: usize = kept[0].rsplit(' ').next().unwrap().parse().unwrap();
    let expected: Vec<String> = (first..5000).map(|number| format!("web.1 out | line {number}")).collect();
    assert_eq!(kept[..kept.len() - 1], expected);
    let bytes: usize = kept.iter().map(|line| line.len() - "web.1 out | ".len() + 17).sum();
    assert!(bytes <= 8192 && bytes > 8192 - 64, "{bytes}");
    assert_eq!(container.stop(), 0);
}

#[test]
fn who_follows_a_service_follows_the_instances_it_gets_later() {
    let container = Setup::new(
        "
        [services.web]
        groups = 'front'
        command = '{actor} print up sleep'
        [services.store]
        command = '{actor} print up sleep'
        ",
    )
    .start();
    container.until_ready("web.1");
    let follow = |arguments: &[&str]| Following::new(&container, arguments);
    let (lines, group, one) = (follow(&["logs", "-f", "web"]), follow(&["logs", "-f", "front"]), follow(&["logs", "-f", "web.1", "store"]));
    let events = follow(&["events", "-f", "web"]);
    for follower in [&lines, &group, &one] {
        follower.until("it reads", |line| line.ends_with("web.1 out | up"));
    }
    events.until("it reads", |line| line.contains(" web.1 ready"));
    assert_eq!(container.cli(&["scale", "web=2", "store=2"]).0, 0);
    for follower in [&lines, &group] {
        follower.until("it follows the new one", |line| line.ends_with("web.2 out | up"));
    }
    events.until("it follows the new one", |line| line.contains(" web.2 started"));
    // Who named one instance gets no other, and what was not named is not shown.
    one.until("it follows the store", |line| line.ends_with("store.2 out | up"));
    assert!(!one.lines().iter().any(|line| line.contains("web.2")), "{:?}", one.lines());
    assert!(!lines.lines().iter().any(|line| line.contains("store.")), "{:?}", lines.lines());
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_end_of_a_follower_that_hears_nothing_is_seen() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'").start();
    container.said("web.1", "up");
    // There are eight places: were one not given back, there would be none for the ninth.
    for _ in 0..20 {
        let follower = Following::new(&container, &["logs", "-f"]);
        follower.until("it reads", |line| line.ends_with("up"));
        drop(follower);
    }
    let followers: Vec<Following> = (0..8).map(|_| Following::new(&container, &["logs", "-f"])).collect();
    for follower in &followers {
        follower.until("it reads", |line| line.ends_with("up"));
    }
    let (code, _, error) = container.cli(&["logs", "-f"]);
    assert_eq!(code, 1);
    assert!(error.contains("8 clients follow already"), "{error}");
    // Who does not follow takes no place, and everything else goes on.
    assert_eq!(container.cli(&["logs"]).0, 0);
    assert_eq!(container.cli(&["check", "live"]).0, 0);
    assert_eq!(container.cli(&["wait", "ready", "web"]).0, 0);
    drop(followers);
    until("there is a place again", || {
        let mut follower = Following::new(&container, &["logs", "-f"]);
        until("it reads or is refused", || {
            let reads = follower.lines().iter().any(|line| line.ends_with("up"));
            (reads || follower.child.try_wait().unwrap().is_some()).then_some(reads)
        })
        .then_some(())
    });
    assert_eq!(container.stop(), 0);
}

/// 50,000 lines a second, one who reads all of them and one who reads nothing: nobody else notices, and memory stays where it was.
#[test]
fn followers_of_a_flood_are_in_nobodys_way() {
    let container = Setup::new(
        "
        [services.noisy]
        command = '{actor} print begin wait-file {dir}/go pace 50000 1000 print quiet sleep'
        stop_timeout = '1s'
        [services.web]
        command = '{actor} serve 8080 {dir}/well'
        ready = { http = 'http://127.0.0.1:8080/', every = '50ms', failures = 1 }
        ",
    )
    .start();
    // Once it is there, somebody answers.
    container.said("noisy.1", "begin");
    let reader = Following::new(&container, &["logs", "-f", "noisy"]);
    let (mut stuck, output) = Following::unread(&container, &["logs", "-f", "noisy"]);
    let mut unread = BufReader::new(output);
    let mut text = String::new();
    // Both are there before it begins.
    while !text.ends_with("| begin\n") {
        assert!(unread.read_line(&mut text).unwrap() > 0, "it ended early");
    }
    reader.until("it follows", |line| line.ends_with("| begin"));
    let before = pss_kib(&container);
    container.touch("go");
    reader.until("the flood has begun", |line| line.contains("line 1000 "));
    // Supervision goes on: readiness changes are noticed, a dead service is restarted, verbs and probes answer.
    container.touch("well");
    container.until_ready("web.1");
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    let mut most = 0;
    let pid = container.pid_of("web.1");
    container.kill(pid, "KILL");
    container.until("web.1", "runs again", |web| web.ready && web.run == 2);
    while !reader.lines.lock().unwrap().last().is_some_and(|line| line.ends_with("| quiet")) {
        let began = Instant::now();
        assert_eq!(container.ask("GET", "/livez").unwrap().0, 200);
        slowest = slowest.max(began.elapsed());
        asked += 1;
        most = most.max(pss_kib(&container));
        assert!(asked < 1_000_000, "the flood does not end");
    }
    let lines = reader.lines();
    let numbers: Vec<usize> = lines.iter().filter_map(|line| line.split_once("| line ")?.1.split(' ').next()?.parse().ok()).collect();
    let lost: usize =
        lines.iter().filter_map(|line| line.split_once("firstmate warn | ")?.1.split_once(" lines lost")?.0.parse::<usize>().ok()).sum();
    println!(
        "{} lines in 1 s at 50,000 a second: {} read along, {lost} lost and told; {asked} questions meanwhile, the slowest took {slowest:?}; PSS {before} KiB before, at most {most} KiB",
        numbers.len() + lost,
        numbers.len()
    );
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, and none twice");
    assert_eq!(numbers.len() + lost, 50_000, "every line was read or is told to be lost");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // The log's own queue may hold 1 MiB, the tail of those who follow half of one; and what is asked for meanwhile maps its code.
    assert!(most < before + 3072, "{most} KiB, {before} before");
    // Who read nothing gets the newest, and is told how many came before them.
    while !text.ends_with("| quiet\n") {
        assert!(unread.read_line(&mut text).unwrap() > 0, "it ended early");
    }
    let seen = text.lines().filter(|line| line.contains(" noisy.1 out | line ")).count();
    let told: Vec<usize> =
        text.lines().filter_map(|line| line.split_once("firstmate warn | ")?.1.split_once(" lines lost")?.0.parse().ok()).collect();
    assert!(!told.is_empty());
    assert_eq!(told.iter().sum::<usize>() + seen, 50_000, "{told:?} and {seen}");
    let _ = stuck.kill();
    let _ = stuck.wait();
    assert_eq!(container.stop(), 0);
}

/// What 50,000 lines in a second cost firstmate, with nobody who follows and with one.
#[test]
fn a_follower_costs_little_beside_the_log_itself() {
    let cost = |followed: bool| {
        let container =
            Setup::new("[services.noisy]\ncommand = '{actor} print begin wait-file {dir}/go pace 50000 1000 print quiet sleep'").start();
        container.said("noisy.1", "begin");
        let follower = followed.then(|| Following::new(&container, &["logs", "-f"]));
        if let Some(follower) = &follower {
            follower.until("it follows", |line| line.ends_with("| begin"));
        }
        container.until_ready("noisy.1");
        let before = cpu_ticks(&container);
        container.touch("go");
        container.said("noisy.1", "quiet");
        if let Some(follower) = &follower {
            until("it has read all", || (follower.lines.lock().unwrap().len() > 50_000).then_some(()));
        }
        let ticks = cpu_ticks(&container) - before;
        assert_eq!(container.stop(), 0);
        ticks
    };
    let (alone, followed) = (cost(false), cost(true));
    println!("50,000 lines in 1 s: {alone} hundredths of a second of CPU time with nobody who follows, {followed} with one");
    assert!(followed <= alone * 3 + 20, "{followed} against {alone}");
}

/// CPU time of firstmate itself, in the kernel's hundredths of a second; see proc_pid_stat(5).
fn cpu_ticks(container: &Container) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn pss_kib(container: &Container) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", container.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn happenings(text: &str) -> Vec<Happening> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

fn events_tell_the_story(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print up wait-file {dir}/end exit 3'
        backoff = { initial = '10ms' }
        [services.store]
        command = '{actor} print up sleep'
        ",
    )
    .place(place)
    .start();
    for name in ["web.1", "store.1"] {
        container.until_ready(name);
    }
    let mut follower = Following::new(&container, &["events", "-f", "--json", "-n", "0"]);
    // It is there once what happens reaches it.
    until("it follows", || {
        container.cli(&["restart", "store"]);
        follower.lines().iter().any(|line| line.contains("store.1")).then_some(())
    });
    container.touch("end");
    until("the incident is told", || follower.lines().iter().any(|line| line.contains("\"kind\":\"incident\"")).then_some(()));
    container.remove("end");
    container.until("web.1", "is up again", |web| web.state == StateName::Running);
    let (code, out, error) = container.cli(&["events", "--json"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let all = happenings(&out);
    // Numbered from 1, and what was followed is the same.
    assert_eq!(all.iter().map(|one| one.number.unwrap()).collect::<Vec<_>>(), (1..=all.len() as u64).collect::<Vec<_>>());
    let followed = happenings(&follower.lines().join("\n"));
    for one in followed.iter().filter(|one| one.number <= all.last().unwrap().number) {
        assert!(all.contains(one), "{one:?}");
    }
    let about_web =
        |is: &dyn Fn(&What) -> bool| all.iter().position(|one| one.instance.as_deref() == Some("web.1") && is(&one.what)).unwrap();
    let started = about_web(&|what| matches!(what, What::Started { .. }));
    let ready = about_web(&|what| matches!(what, What::Ready { .. }));
    let ended =
        about_web(&|what| matches!(what, What::Ended { outcome: How::Exited { code: 3 }, clean: false, asked: false, left_behind: 0, .. }));
    let restarting = about_web(&|what| matches!(what, What::Restarting { cause: Cause::Crash, .. }));
    let incident = about_web(&|what| matches!(what, What::Incident { incident: 1 }));
    assert!(started < ready && ready < ended && ended < restarting && restarting < incident, "{all:?}");
    assert_eq!((all[ended].level, all[ended].run), (Level::Warn, Some(1)));
    assert!(all[ended].text.starts_with("web.1 exited with code 3 after "));
    // For people a sentence each, of those that are named.
    let (_, out, _) = container.cli(&["events", "web", "-n", "3"]);
    let lines = texts(&out);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.contains("web.1")), "{lines:?}");
    assert_eq!(container.cli(&["events", "stoer"]).0, 4);
    // To the very end.
    assert_eq!(container.stop(), 0);
    assert_eq!(follower.end(), 0);
    let followed = happenings(&follower.lines().join("\n"));
    assert!(followed.iter().any(|one| matches!(one.what, What::ShuttingDown { .. })));
    assert_eq!(followed.last().unwrap().what, What::Over { code: 0 });
}

#[test]
fn wait_returns_when_it_holds_and_says_what_it_waits_for_when_it_does_not() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} serve 8080 {dir}/well'
        ready = { http = 'http://127.0.0.1:8080/', every = '50ms', failures = 1 }
        [services.store]
        command = '{actor} print up sleep'
        [services.broken]
        autostart = false
        essential = false
        command = '{actor} exit 3'
        give_up_after = 1
        ",
    )
    .start();
    assert_eq!(container.cli(&["wait", "ready", "store"]), (0, String::new(), String::new()));
    until("the reason is known", || container.instance("web.1").why.filter(|why| why.contains("503")));
    let (code, out, error) = container.cli(&["wait", "ready", "--timeout", "100ms"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("web.1 is starting: ") && error.contains("503"), "{error}");
    assert!(error.contains("\nerror: still not ready after 0.1 s\n"), "{error}");
    let mut waiting = Following::new(&container, &["wait", "ready", "--timeout", "30s"]);
    let mut for_web = Following::new(&container, &["wait", "ready", "web.1", "--timeout", "30s"]);
    assert!(waiting.child.try_wait().unwrap().is_none());
    container.touch("well");
    assert_eq!((waiting.end(), for_web.end()), (0, 0));
    // What can never be is not waited for.
    assert_eq!(container.cli(&["start", "broken"]).0, 1);
    let (code, _, error) = container.cli(&["wait", "ready", "broken"]);
    assert_eq!(code, 3);
    assert!(error.starts_with("error: broken.1 is failed: "), "{error}");
    assert_eq!(container.cli(&["wait", "ready", "nobody"]).0, 4);

    assert_eq!(container.cli(&["wait", "stopped", "store", "--timeout", "50ms"]).0, 1);
    let mut stopped = Following::new(&container, &["wait", "stopped", "store"]);
    assert_eq!(container.cli(&["stop", "store"]).0, 0);
    assert_eq!(stopped.end(), 0);
    // firstmate's own end is everybody's, and nobody's readiness.
    let mut stopped = Following::new(&container, &["wait", "stopped"]);
    let mut ready = Following::new(&container, &["wait", "ready", "store"]);
    let mut following = Following::new(&container, &["events", "-f"]);
    following.until("it reads", |line| line.contains("store.1 stopped"));
    assert_eq!(container.stop(), 0);
    assert_eq!((stopped.end(), ready.end(), following.end()), (0, 3, 0));
    assert_eq!(container.cli(&["wait", "ready", "--timeout", "100ms"]).0, 4);
}

#[test]
fn an_environment_is_masked_unless_its_values_are_asked_for() {
    let container = Setup::new(
        "
        [services.web]
        instances = 2
        command = '{actor} print-env PASSWORD sleep'
        env = { PASSWORD = 'two words', PLAIN = 'x' }
        ",
    )
    .env("FROM_OUTSIDE", "here")
    .start();
    container.said("web.2", "two words");
    let (code, out, error) = container.cli(&["env", "web.2"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.lines().all(|line| line.ends_with("=********")), "{out}");
    for name in ["PASSWORD", "PLAIN", "FROM_OUTSIDE", "PS", "PATH", "FIRSTMATE_RUN"] {
        assert!(out.lines().any(|line| line.starts_with(&format!("{name}="))), "{name} in {out}");
    }
    assert!(out.lines().is_sorted());
    let (_, out, _) = container.cli(&["env", "web.2", "--show-values"]);
    for line in ["PASSWORD='two words'", "PLAIN=x", "FROM_OUTSIDE=here", "PS=web.2"] {
        assert!(out.lines().any(|shown| shown == line), "{line} in {out}");
    }
    // Exactly what the process has.
    let pid = container.pid_of("web.2");
    let (_, out, _) = container.cli(&["env", "web.2", "--show-values", "--json"]);
    let shown: Variables = serde_json::from_str(&out).unwrap();
    let mut shown: Vec<String> =
        shown.variables.iter().map(|variable| format!("{}={}", variable.name, variable.value.as_ref().unwrap())).collect();
    let mut output = Vec::new();
    let mut cat = container.foreign(&["cat", &format!("/proc/{pid}/environ")]).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    cat.wait().unwrap();
    let mut has: Vec<String> =
        output.split(|byte| *byte == 0).filter(|one| !one.is_empty()).map(|one| String::from_utf8_lossy(one).into_owned()).collect();
    shown.sort();
    has.sort();
    assert_eq!(shown, has);
    // Others see the names alone.
    let (code, out, _) = container.cli_as(65534, &["env", "web"]);
    assert!(code == 0 && out.contains("PASSWORD=********"), "{out}");
    let (code, out, error) = container.cli_as(65534, &["env", "web", "--show-values"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("only root may use its verbs, and you are uid 65534"), "{error}");
    let (code, _, error) = container.cli(&["env", "wbe"]);
    assert!(code == 4 && error.contains("did you mean `web`?"), "{error}");
    assert_eq!(container.stop(), 0);
}

/// The time of `status` over 200 services, from the start of the command to its end. On a machine that is busy with other tests it is the
/// quickest of many that tells what it takes.
#[test]
fn status_of_two_hundred_services_is_quick() {
    // The figure that is promised is 20 ms with the binary that ships; this one may be built for debugging.
    let most = if cfg!(debug_assertions) { Duration::from_millis(100) } else { Duration::from_millis(20) };
    let services: String = (0..200).map(|number| format!("[services.s{number}]\ncommand = '{{actor}} sleep'\n")).collect();
    let container = Setup::new(&services).start();
    container.until_ready("s199.1");
    let mut times = Vec::new();
    until("`status` was quick ten times", || {
        let began = Instant::now();
        let (code, out, _) = container.cli(&["status"]);
        times.push(began.elapsed());
        assert!((code == 0 || code == 3) && out.lines().count() >= 200, "{out}");
        (times.iter().filter(|time| **time < most).count() >= 10).then_some(())
    });
    times.sort();
    println!("`status` of 200 services: {:?} in the middle, {:?} at the quickest of {}", times[times.len() / 2], times[0], times.len());
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_follower_that_never_reads_does_not_hold_up_the_end() {
    let container = Setup::new("[services.web]\ncommand = '{actor} flood'").start();
    let mut stream = until("the socket is there", || UnixStream::connect(container.socket()).ok());
    stream.write_all(b"GET /logs?follow HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    container.line_from(20_000, "a lot", |line| !line.is_own());
    assert_eq!(container.stop(), 0);
}
