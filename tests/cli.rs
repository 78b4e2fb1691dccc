//! The command line against the real server: what an operator sees, and the exit codes.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "the stand is shared between test files, each of which uses a part")]

mod stand;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use firstmate::engine::status::{Phase, RollingStatus, Status};
use firstmate::engine::{Incidents, Reach, Signal, Verb};
use firstmate::server::{Answer, Limits, Patience, Reply, Request, Scale, Verdict, Wish};
use stand::{Answering, Directory, INCIDENTS, Stand, healthy, measured, stack, wish};

/// Exit code, stdout and stderr.
type Ended = (i32, String, String);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstmate"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn ended(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn on(stand: &Stand, arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    command.env("FIRSTMATE_SOCKET", stand.socket.to_os_string());
    ended(command)
}

fn say(code: i32, stdout: &str, stderr: &str) -> Ended {
    (code, stdout.to_owned(), stderr.to_owned())
}

const TABLE: &str = "\
nginx.1    RUNNING    pid 31, uptime 0:04:03, ready
redis.1    RUNNING    pid 31, uptime 0:04:03, not ready: connect 127.0.0.1:6379: refused
worker.1   RUNNING    pid 31, uptime 0:04:03, ready
worker.2   FAILED     exit 1: gave up after 10 failed runs
migrate.1  COMPLETED
";

#[test]
fn status_shows_the_table_and_its_exit_code_is_the_verdict() {
    let stand = Stand::new(stack());
    assert_eq!(on(&stand, &["status"]), say(3, TABLE, ""));
    assert_eq!(on(&stand, &["status", "all"]), say(3, TABLE, ""));
    assert_eq!(on(&stand, &["status", "nginx", "migrate"]).0, 0);
    assert_eq!(on(&stand, &["status", "worker.1"]), say(0, "worker.1  RUNNING    pid 31, uptime 0:04:03, ready\n", ""));
    assert_eq!(on(&stand, &["status", "worker"]).0, 3);
    let unknown = "error: no service, instance or group is called `ngnix`\n  = help: did you mean `nginx`?\n";
    assert_eq!(on(&stand, &["status", "ngnix"]), say(4, "", unknown));
    let (code, stdout, stderr) = on(&stand, &["status", "nginx", "zzz\n"]);
    assert_eq!((code, stdout.lines().count()), (4, 1));
    assert_eq!(stderr, "error: no service, instance or group is called `zzz\\n`\n  = help: there are: nginx, redis, worker, migrate\n");
    // --socket wins over the environment.
    let mut command = command(&["status", "nginx", "--socket", stand.path().to_str().unwrap()]);
    command.env("FIRSTMATE_SOCKET", "/nowhere");
    assert_eq!(ended(command).0, 0);
}

#[test]
fn why_shows_the_incidents_that_were_asked_for() {
    const REDIS: &str = "\
2027-01-01T00:00:00.007Z, 4 min 9 s ago: redis.1 (run 1) exited with code 1 after 900 ms
  done    started again after 500 ms
";
    const WORKER: &str = "\
2027-01-01T00:01:00.007Z, 3 min 9 s ago: worker.2 (run 1) was killed by the kernel's OOM killer after 1 min
  done    given up, after 10 failed runs in a row
  try     raise the container's limit, have the service use less, or lower `restart_above` in [memory]
";
    const CONTAINER: &str = "\
2027-01-01T00:03:19.007Z, 50 s ago: the kernel's OOM killer killed 1 process of the container
  who     the main process of no service
  try     raise the container's limit, have the service use less, or lower `restart_above` in [memory]
";
    let stand = Stand::new(stack());
    let dropped = "2 older incidents are not kept any more\n";
    let all = format!("{REDIS}\n{WORKER}\n{CONTAINER}");
    assert_eq!(on(&stand, &["why"]), say(0, &all, dropped));
    assert_eq!(on(&stand, &["why", "nginx", "all"]), say(0, &all, dropped));
    assert_eq!(on(&stand, &["why", "worker"]), say(0, &format!("{WORKER}\n{CONTAINER}"), dropped));
    assert_eq!(on(&stand, &["why", "worker.1"]), say(0, CONTAINER, dropped));
    assert_eq!(on(&stand, &["why", "redis.1", "-n", "1"]), say(0, CONTAINER, dropped));
    assert_eq!(on(&stand, &["why", "-n", "2"]), say(0, &format!("{WORKER}\n{CONTAINER}"), dropped));
    let unknown = "error: no service, instance or group is called `ngnix`\n  = help: did you mean `nginx`?\n";
    assert_eq!(on(&stand, &["why", "ngnix"]), say(4, "", unknown));

    // A group is its services; who is unknown is told beside `all` too.
    let mut grouped = stack();
    for service in grouped.services.iter_mut().filter(|service| service.name == "worker" || service.name == "nginx") {
        service.groups = vec!["front".to_owned()];
    }
    let front = Stand::new(grouped);
    assert_eq!(on(&front, &["why", "front"]), say(0, &format!("{WORKER}\n{CONTAINER}"), dropped));
    assert_eq!(on(&front, &["why", "front", "redis.1"]), say(0, &all, dropped));
    let near = unknown.replace("ngnix", "frnot").replace("nginx", "front");
    assert_eq!(on(&front, &["why", "all", "frnot"]), say(4, "", &near));

    let (code, stdout, stderr) = on(&stand, &["why", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (shown, given): (Incidents, Incidents) = (serde_json::from_str(&stdout).unwrap(), serde_json::from_str(INCIDENTS).unwrap());
    assert_eq!(shown, given);
    let shown: Incidents = serde_json::from_str(&on(&stand, &["why", "--json", "redis", "-n", "1"]).1).unwrap();
    assert_eq!(shown.incidents, given.incidents[2..]);
    let (code, _, stderr) = ended(command(&["why", "--socket", "/nowhere"]));
    assert!(code == 4 && stderr.contains("no firstmate answers"), "{stderr}");
}

#[test]
fn status_shows_memory_where_it_is_known() {
    let mut status = measured();
    status.memory.as_mut().unwrap().why = Some("above the line for 4 s\nnginx.1    RUNNING".to_owned());
    let stand = Stand::new(status);
    let table = "\
nginx.1    RUNNING    pid 31, uptime 0:04:03, ready
redis.1    RUNNING    pid 31, uptime 0:04:03, mem 201 MiB (39%), ready
worker.1   RUNNING    pid 31, uptime 0:04:03, mem 180 MiB of 200 MiB (90%), 3 restarts (2 memory, 1 oom), ready
worker.2   FAILED     exit 1: gave up after 10 failed runs
migrate.1  COMPLETED
memory     ABOVE      402 MiB of 512 MiB (78.5%), cgroup v2, acts above 75%, 2 acts (2 own line), 1 OOM kill: \
above the line for 4 s\\nnginx.1    RUNNING
";
    assert_eq!(on(&stand, &["status"]), say(3, table, ""));
    assert_eq!(on(&stand, &["status", "all"]), say(3, table, ""));
    // Whoever asks for services gets these and nothing else, and the container's memory is no service's failure.
    let redis = "redis.1  RUNNING    pid 31, uptime 0:04:03, mem 201 MiB (39%), ready\n";
    assert_eq!(on(&stand, &["status", "redis"]), say(0, redis, ""));
    let worker = "worker.1  RUNNING    pid 31, uptime 0:04:03, mem 180 MiB of 200 MiB (90%), 3 restarts (2 memory, 1 oom), ready\n";
    assert_eq!(on(&stand, &["status", "worker.1"]), say(0, worker, ""));
    let (code, stdout, _) = on(&stand, &["status", "--json", "redis"]);
    let json: Status = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, json.memory.unwrap().limit_bytes), (0, 512 << 20));
}

#[test]
fn the_status_of_an_older_firstmate_is_read() {
    let body = concat!(
        r#"{"version":"0.1.0","pid":1,"uptime_ms":1,"phase":"running","ready":true,"live":true,"started":true,"services":["#,
        r#"{"name":"a","kind":"service","essential":true,"ready":true,"instances":[{"name":"a.1","state":"running","ready":true,"#,
        r#""pid":31,"uptime_ms":243000,"run":2,"restarts":{"total":1,"crash":1,"live":0,"start_timeout":0}}]}]}"#
    );
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (code, stdout, stderr) = answered_with(answer.into_bytes().leak(), &["status"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "a.1  RUNNING    pid 31, uptime 0:04:03, 1 restart, ready\n");
}

#[test]
fn status_as_json_is_the_servers() {
    let stand = Stand::new(stack());
    let (code, stdout, stderr) = on(&stand, &["status", "--json"]);
    assert_eq!((code, stderr.as_str()), (3, ""));
    assert_eq!(serde_json::from_str::<Status>(&stdout).unwrap(), stack());
    let (code, stdout, _) = on(&stand, &["status", "--json", "worker.1"]);
    let status: Status = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, status.services.len(), status.services[0].instances.len()), (0, 1, 1));
}

#[test]
fn a_stopping_stack_says_why() {
    let stand = Stand::new(Status { phase: Phase::Stopping, stopping_because: Some("SIGTERM\nforged".to_owned()), ..healthy() });
    assert_eq!(on(&stand, &["status", "nginx"]).2, "firstmate is stopping: SIGTERM\\nforged\n");
}

#[test]
fn names_and_reasons_cannot_forge_a_line() {
    let mut status = stack();
    status.services[1].instances[0].why = Some("x\nnginx.1    RUNNING\x1b[0m".to_owned());
    let stand = Stand::new(status);
    let (_, stdout, _) = on(&stand, &["status"]);
    assert_eq!(stdout.lines().count(), 5);
    assert!(stdout.contains("not ready: x\\nnginx.1    RUNNING\\u{1b}[0m\n"), "{stdout}");
    let (_, stdout, _) = on(&stand, &["check", "ready"]);
    assert_eq!(stdout.lines().count(), 1);
}

#[test]
fn verbs_print_what_came_of_them() {
    let answer = |instance: &str, verdict| Answer { instance: instance.to_owned(), verdict };
    let failed = Verdict::Failed { why: "cannot start: executing /srv/app: ENOENT\n".to_owned() };
    let all = Reply::Done {
        instances: vec![
            answer("a.1", Verdict::Started),
            answer("a.2", Verdict::AlreadyStarted),
            answer("b.1", Verdict::Stopped),
            answer("b.2", Verdict::AlreadyStopped),
            answer("c.1", Verdict::Restarted),
            answer("d.1", failed),
        ],
    };
    let lines = "\
a.1: started
a.2: already started
b.1: stopped
b.2: already stopped
c.1: restarted
d.1: ERROR (cannot start: executing /srv/app: ENOENT\\n)
";
    let stand = Stand::answering(stack(), all);
    assert_eq!(on(&stand, &["stop", "a b", "c&d=1"]), say(1, lines, ""));
    assert_eq!(stand.requests.try_recv().unwrap(), wish(Verb::Stop, &["a b", "c&d=1"]));
    assert_eq!(on(&stand, &["restart", "all"]), say(1, lines, ""));
    assert_eq!(stand.requests.try_recv().unwrap(), wish(Verb::Restart, &["all"]));

    let stand = Stand::answering(stack(), Reply::Done { instances: vec![answer("web.1", Verdict::Stopped)] });
    assert_eq!(on(&stand, &["stop", "web"]), say(0, "web.1: stopped\n", ""));

    let stand = Stand::answering(stack(), Reply::UnknownName { name: "wbe".to_owned(), suggestion: Some("web".to_owned()) });
    assert_eq!(
        on(&stand, &["stop", "wbe"]),
        say(4, "", "error: no service, instance or group is called `wbe`\n  = help: did you mean `web`?\n")
    );

    let stand = Stand::answering(stack(), Reply::Refused { why: "firstmate is stopping".to_owned() });
    assert_eq!(on(&stand, &["restart", "web"]), say(1, "", "error: cannot restart: firstmate is stopping\n"));

    let stand = Stand::with(stack(), Limits::default(), Answering::Dropped, None);
    let gone = "error: cannot stop: firstmate is going away and did not finish this\n";
    assert_eq!(on(&stand, &["stop", "web"]), say(1, "", gone));
}

#[test]
fn every_verb_asks_for_what_its_arguments_say() {
    let scaled = Verdict::Scaled { from: 2, to: 4, in_file: 2 };
    let signalled = |processes| Verdict::Signalled { signal: "SIGHUP".to_owned(), processes };
    let answer = |instance: &str, verdict| Answer { instance: instance.to_owned(), verdict };
    let all = [
        answer("web", scaled),
        answer("web.3", Verdict::Begun),
        answer("web.4", Verdict::Removed),
        answer("a.1", signalled(1)),
        answer("a.2", signalled(3)),
    ];
    let stand = Stand::answering(stack(), Reply::Done { instances: all.to_vec() });
    let lines = "\
web: 4 instances, 2 before; it was started with 2, which holds again when firstmate is started anew
web.3: on its way
web.4: removed
a.1: signalled (SIGHUP)
a.2: signalled (SIGHUP, 3 processes)
";
    assert_eq!(on(&stand, &["scale", "web=4", "a=2", "--no-wait"]), say(0, lines, ""));
    let services = vec![("web".to_owned(), 4), ("a".to_owned(), 2)];
    assert_eq!(stand.requests.try_recv().unwrap(), Request::Scale(Scale { services, patience: Patience::None }));
    let asked = |arguments: &[&str]| {
        let (code, _, stderr) = on(&stand, arguments);
        assert_eq!((code, stderr.as_str()), (0, ""));
        stand.requests.try_recv().unwrap()
    };
    let with = |verb, patience| Request::Wish(Wish { verb, names: vec!["a".to_owned()], patience });
    assert_eq!(asked(&["restart", "--rolling", "a"]), wish(Verb::Roll, &["a"]));
    assert_eq!(asked(&["stop", "a", "--no-wait"]), with(Verb::Stop, Patience::None));
    assert_eq!(asked(&["start", "a", "--timeout", "1m"]), with(Verb::Start, Patience::AtMost(Duration::from_secs(60))));
    assert_eq!(asked(&["restart", "a", "--timeout", "1.5"]), with(Verb::Restart, Patience::AtMost(Duration::from_millis(1_500))));
    assert_eq!(asked(&["reload", "a"]), wish(Verb::Reload, &["a"]));
    let signal = |signal, to| wish(Verb::Signal { signal, to }, &["a"]);
    assert_eq!(asked(&["signal", "sighup", "a"]), signal(Signal::HUP, Reach::Main));
    assert_eq!(asked(&["signal", "RTMIN+3", "a", "--all-processes"]), signal(Signal::from_number(37).unwrap(), Reach::Tree));
    // Nothing of it is shown to a pipe but the end.
    for wrong in [&["reload"][..], &["signal", "HUP"], &["scale"], &["scale", "web=two"], &["stop", "a", "--timeout", "soon"]] {
        let (code, stdout, stderr) = on(&stand, wrong);
        assert!((code, stdout.as_str()) == (2, "") && stderr.starts_with("error: "), "{wrong:?}: {stderr}");
    }
    assert!(stand.requests.try_recv().is_err());
}

#[test]
fn status_knows_groups_and_says_what_is_not_as_in_the_file() {
    let mut status = healthy();
    status.services[0].groups = vec!["front".to_owned()];
    status.services[2].groups = vec!["back".to_owned(), "front".to_owned()];
    status.services[2].instances_in_file = Some(1);
    status.services[2].rolling = Some(RollingStatus { now: Some("worker.1".to_owned()), left: vec!["worker.2".to_owned()] });
    let stand = Stand::new(status.clone());
    let (code, stdout, stderr) = on(&stand, &["status", "front"]);
    let names: Vec<&str> = stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!((code, names), (3, vec!["nginx.1", "worker.1", "worker.2"]));
    assert_eq!(stderr, "worker: scaled at run time; it was started with 1\nworker: rolling restart: worker.1 now, then worker.2\n");
    assert_eq!(on(&stand, &["status", "nginx"]).2, "");
    let (code, _, stderr) = on(&stand, &["status", "frnot"]);
    assert_eq!((code, stderr.as_str()), (4, "error: no service, instance or group is called `frnot`\n  = help: did you mean `front`?\n"));
    let (_, json, _) = on(&stand, &["status", "--json"]);
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
}

#[test]
fn a_watched_status_is_shown_again_and_again_until_the_reader_has_enough() {
    let stand = Stand::new(stack());
    let mut command = command(&["status", "--watch", "nginx"]);
    command.env("FIRSTMATE_SOCKET", stand.socket.to_os_string()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let line = "nginx.1  RUNNING    pid 31, uptime 0:04:03, ready\n";
    let expected = format!("{line}\n{line}");
    let mut shown = vec![0; expected.len()];
    child.stdout.take().unwrap().read_exact(&mut shown).unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
    assert_eq!(child.wait().unwrap().code(), Some(0), "nobody reads it any more");
    assert_eq!(on(&stand, &["status", "--watch", "ngnix"]).0, 4);
    assert_eq!(on(&stand, &["status", "--watch", "--json"]).0, 2);
}

/// What a terminal of 40 columns and 5 rows shows, up to a text that must come.
fn on_a_terminal(stand: &Stand, arguments: &[&str], awaited: &str) -> String {
    let size = nix::pty::Winsize { ws_row: 5, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).unwrap();
    let mut command = command(arguments);
    command.env("FIRSTMATE_SOCKET", stand.socket.to_os_string()).env("TERM", "xterm").env("NO_COLOR", "1");
    command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut master = std::fs::File::from(pty.master);
    let (sender, pieces) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The end of a terminal is an error: EIO.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut shown = String::new();
    while !shown.contains(awaited) {
        let piece = pieces.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{awaited:?} is not shown: {shown:?}"));
        shown.push_str(&String::from_utf8(piece).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    shown
}

#[test]
fn a_terminal_shows_how_far_a_verb_is() {
    let stand = Stand::with(stack(), Limits::default(), Answering::Held, None);
    let shown = on_a_terminal(&stand, &["stop", "nginx"], "nginx.1 run");
    assert!(shown.starts_with("\r\x1b[Kstop: 0 of 1 done, ") && shown.contains(" s; nginx.1 run"), "{shown:?}");
    // Cut to what fits, so that it stays one line.
    let shown = on_a_terminal(&stand, &["start", "redis"], "redis.1 run");
    let lines: Vec<&str> = shown.split("\r\x1b[K").skip(1).collect();
    assert!(lines.iter().all(|line| line.starts_with("start: 0 of 1 done, ") && line.chars().count() == 39), "{shown:?}");
}

#[test]
fn a_watched_status_stays_on_its_screen() {
    let stand = Stand::new(stack());
    let shown = on_a_terminal(&stand, &["status", "--watch"], "\x1b[J");
    let screen = "\x1b[2J\x1b[Hnginx.1    RUNNING    pid 31, uptime 0:\x1b[K\r\nredis.1    RUNNING    pid 31, uptime 0:\x1b[K\r\n\
                  worker.1   RUNNING    pid 31, uptime 0:\x1b[K\r\n... and 2 more\x1b[K\r\n\x1b[J";
    assert_eq!(shown, screen);
}

#[test]
fn another_uid_is_told_whose_socket_it_is() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another uid");
        return;
    }
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let as_nobody = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.uid(65534).gid(65534).env("FIRSTMATE_SOCKET", stand.socket.to_os_string());
        ended(command)
    };
    let refused =
        "error: cannot stop: this is the socket of a firstmate that runs as root: only root may use its verbs, and you are uid 65534\n";
    assert_eq!(as_nobody(&["stop", "web"]), say(1, "", refused));
    assert_eq!(as_nobody(&["check"]), say(0, "ok\n", ""));
    assert!(stand.requests.try_recv().is_err());
}

#[test]
fn check_is_one_short_line_and_one_bit() {
    let stand = Stand::new(stack());
    assert_eq!(on(&stand, &["check"]), say(0, "ok\n", ""));
    assert_eq!(on(&stand, &["check", "live"]), say(0, "ok\n", ""));
    assert_eq!(on(&stand, &["check", "startup"]), say(0, "ok\n", ""));
    assert_eq!(on(&stand, &["check", "ready"]), say(1, "redis not ready: connect 127.0.0.1:6379: refused\n", ""));
    assert_eq!(on(&stand, &["check", "ready", "nginx"]), say(0, "ok\n", ""));
    assert_eq!(on(&stand, &["check", "ready", "redis"]), say(1, "redis not ready: connect 127.0.0.1:6379: refused\n", ""));
    let unknown = "no check, service or instance is called \"rdis\"; did you mean \"redis\"\n";
    assert_eq!(on(&stand, &["check", "ready", "rdis"]), say(1, unknown, ""));
    // Whoever asks as a health check knows 0 and 1 only, also of a mistake in the asking.
    for wrong in [&["check", "alive"][..], &["check", "--scket", "x"], &["check", "live", "web", "more"], &["check", "--socket"]] {
        let (code, stdout, stderr) = on(&stand, wrong);
        assert_eq!((code, stdout.as_str()), (1, ""), "{wrong:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    assert_eq!(on(&stand, &["check-config", "--file"]).0, 2);
    assert_eq!(on(&stand, &["check", "--help"]).0, 0);

    let mut status = stack();
    status.services[1].reason = Some("é".repeat(5000));
    let stand = Stand::new(status);
    let (code, stdout, _) = on(&stand, &["check", "ready"]);
    assert_eq!((code, stdout.lines().count()), (1, 1));
    assert!(stdout.len() < 4096 && stdout.ends_with("é...\n"), "{} bytes", stdout.len());
}

#[test]
fn check_is_quick() {
    let stand = Stand::new(healthy());
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(on(&stand, &["check"]).0, 0);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    // The machine may be busy with other tests; the best run shows what the command itself costs.
    assert!(times[0] < Duration::from_millis(20), "{times:?}");
}

#[test]
fn a_stuck_supervisor_fails_the_check_in_time() {
    let directory = Directory::new();
    let path = directory.path().join("stuck.sock");
    // Accepts into its backlog and never answers.
    let _listener = UnixListener::bind(&path).unwrap();
    let began = Instant::now();
    let mut command = command(&["check"]);
    command.env("FIRSTMATE_SOCKET", &path);
    let place = path.display();
    assert_eq!(ended(command), say(1, &format!("cannot talk to the firstmate on {place}: no answer in time\n"), ""));
    assert!((Duration::from_millis(1900)..Duration::from_millis(3500)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn nobody_there_lists_where_it_looked() {
    let mut absent = command(&["status"]);
    absent.env("FIRSTMATE_SOCKET", "/nowhere/x.sock");
    let message = "\
error: no firstmate answers; looked at
  /nowhere/x.sock: is not there
  = help: `firstmate start` runs the file of this directory; one that runs elsewhere is named with --socket or $FIRSTMATE_SOCKET
";
    assert_eq!(ended(absent), say(4, "", message));

    let directory = Directory::new();
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let mut dead = command(&["check", "ready"]);
    dead.env("FIRSTMATE_SOCKET", &stale);
    assert_eq!(ended(dead), say(1, &format!("no firstmate answers ({}: nobody listens)\n", stale.display()), ""));

    for verb in [&["stop", "web"][..], &["restart", "web"], &["shutdown"]] {
        let mut absent = command(verb);
        absent.env("FIRSTMATE_SOCKET", "@firstmate-test-nobody");
        let (code, _, stderr) = ended(absent);
        assert_eq!(code, 4);
        assert!(stderr.contains("\n  @firstmate-test-nobody: nobody listens\n"), "{stderr}");
    }
}

/// What a peer that is no firstmate answers.
fn answered_with(bytes: &'static [u8], arguments: &[&str]) -> Ended {
    let directory = Directory::new();
    let path = directory.path().join("odd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(bytes);
    });
    let mut command = command(arguments);
    command.env("FIRSTMATE_SOCKET", &path);
    let (code, stdout, stderr) = ended(command);
    peer.join().unwrap();
    let place = path.display().to_string();
    (code, stdout.replace(&place, "PLACE"), stderr.replace(&place, "PLACE"))
}

#[test]
fn odd_peers_are_reported() {
    let broken =
        |why: &str| say(4, "", &format!("error: cannot talk to the firstmate on PLACE: {why}\n  = help: is that socket firstmate's?\n"));
    assert_eq!(answered_with(b"", &["status"]), broken("it closed the connection without an answer"));
    assert_eq!(answered_with(b"+PONG\r\n", &["status"]), broken("the answer is not HTTP"));
    assert_eq!(answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", &["status"]), broken("the answer was cut off"));
    let (code, _, stderr) = answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", &["status"]);
    assert!(code == 4 && stderr.starts_with("error: cannot read the status from PLACE: missing field `version`"), "{stderr}");
    let (code, _, stderr) = answered_with(b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno", &["stop", "web"]);
    assert_eq!((code, stderr.as_str()), (4, "error: cannot read the reply from PLACE: it answered 502 in an unknown form\n"));
}

#[test]
fn the_environment_as_json_disturbs_no_terminal() {
    let body = "{\"instance\":\"web.1\",\"variables\":[{\"name\":\"A\",\"value\":\"\u{9b}31m\u{202e}\"}]}";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (code, stdout, _) = answered_with(answer.into_bytes().leak(), &["env", "web", "--show-values", "--json"]);
    assert!(code == 0 && stdout.contains(r#""\u009b31m\u202e""#), "{stdout}");
}

#[test]
fn shutdown_waits_for_the_end() {
    // The supervisor of this test is this process, which does not end.
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let late = "error: firstmate is still stopping after 0 s\n  = help: `firstmate status` says what it waits for\n";
    // Who does not wait at all has asked for it all the same.
    assert_eq!(on(&stand, &["shutdown", "--timeout", "0"]), say(1, "", late));
    assert_eq!(stand.requests.try_recv().unwrap(), Request::Shutdown);
    let (code, stdout, stderr) = on(&stand, &["shutdown", "--timeout", "1s"]);
    assert_eq!((code, stdout.as_str(), stderr), (1, "", late.replace("0 s", "1 s")));
    assert_eq!(stand.requests.try_recv().unwrap(), Request::Shutdown);

    let stand = Stand::answering(stack(), Reply::Refused { why: "no".to_owned() });
    assert_eq!(on(&stand, &["shutdown"]), say(1, "", "error: cannot shut down: no\n"));
}

#[test]
fn the_version_and_usage_errors() {
    let version = format!("firstmate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(ended(command(&["version"])), say(0, &version, ""));
    assert_eq!(ended(command(&["--version"])), say(0, &version, ""));
    for wrong in [&["stauts"][..], &["stop"], &["restart"], &["status", "--jsno"], &["shutdown", "--timeout", "soon"]] {
        let (code, stdout, stderr) = ended(command(wrong));
        assert_eq!((code, stdout.as_str()), (2, ""), "{wrong:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    let (_, _, stderr) = ended(command(&["stauts"]));
    assert!(stderr.contains("status"), "{stderr}");
}

#[test]
fn a_reader_that_went_away_is_no_panic() {
    let stand = Stand::new(stack());
    let mut command = command(&["status"]);
    command.env("FIRSTMATE_SOCKET", stand.socket.to_os_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(3), ""));
}

#[test]
fn start_with_names_asks_the_one_that_runs() {
    let started = Reply::Done { instances: vec![Answer { instance: "web.1".to_owned(), verdict: Verdict::Started }] };
    let stand = Stand::answering(stack(), started);
    assert_eq!(on(&stand, &["start", "web"]), say(0, "web.1: started\n", ""));
    assert_eq!(stand.requests.try_recv().unwrap(), wish(Verb::Start, &["web"]));
    // What a running one was started with cannot be changed by the way.
    for option in ["-p=5000", "--memory-limit=1G", "-m=web=2", "-x=web", "--restart", "--no-timestamp", "-d=/", "--http=off"] {
        let (code, _, stderr) = on(&stand, &["start", "web", option]);
        let message = format!(", which cannot be given {} by the way\n", option.split('=').next().unwrap());
        assert!(code == 2 && stderr.contains("names go to the firstmate that runs already") && stderr.contains(&message), "{stderr}");
    }
    assert!(stand.requests.try_recv().is_err());

    let mut absent = command(&["start", "web"]);
    absent.env("FIRSTMATE_SOCKET", "/nowhere/x.sock");
    let message = "\
error: no firstmate answers; looked at
  /nowhere/x.sock: is not there
  = help: names are started in a firstmate that runs already, or are services of a file, of which there is none here: name one with -f FILE
";
    let empty = Directory::new();
    absent.current_dir(empty.path());
    assert_eq!(ended(absent), say(4, "", message));

    // It cannot be told that nobody is there: no reason to start the same services a second time.
    let directory = Directory::new();
    std::fs::write(directory.path().join("Procfile"), "web: true\n").unwrap();
    let mut unsure = command(&["start", "web"]);
    unsure.current_dir(directory.path()).env("FIRSTMATE_SOCKET", format!("/{}", "x".repeat(200)));
    let (code, stdout, stderr) = ended(unsure);
    assert!((code, stdout.as_str()) == (4, "") && stderr.contains("there is one that does not answer; name its socket"), "{stderr}");
}

#[test]
fn a_mistyped_command_is_not_taken_for_a_program() {
    let help = "`firstmate --help` lists the commands";
    let message = format!("error: there is no command `stauts`\n  = help: did you mean `status`? {help}\n");
    assert_eq!(ended(command(&["stauts"])), say(2, "", &message));
    let message = format!("error: there is no command `nginx`\n  = help: {help}; one program is run by `firstmate -- CMD ARG...`\n");
    assert_eq!(ended(command(&["nginx", "-g"])), say(2, "", &message));
    let message = "error: no program is named after `--`\n  = help: firstmate -- CMD ARG...\n";
    assert_eq!(ended(command(&["--"])), say(2, "", message));
    let (code, _, stderr) = ended(command(&["--http", "9180"]));
    assert!(code == 2 && stderr.contains("an address is like 0.0.0.0:9180 or [::]:9180; or off"), "{stderr}");
}

#[test]
fn check_config_on_a_procfile_says_what_foreman_check_says() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("Procfile"), "web: ./web\n# remark\nworker: ./worker\nticker ./ticker\n").unwrap();
    let mut check = command(&["check-config"]);
    check.current_dir(directory.path());
    let (code, stdout, stderr) = ended(check);
    assert!(code == 0 && stdout.starts_with("valid procfile detected (web, worker)\n"), "{stdout}");
    assert!(stdout.ends_with("/Procfile: ok, 2 services, 2 instances, 1 warning\n") && stdout.lines().count() == 2, "{stdout}");
    // What foreman skips without a word.
    assert!(stderr.starts_with("warning: this line is not `name: command` and is skipped\n --> Procfile:4:1\n"), "{stderr}");
}

#[test]
fn check_config_says_yes_in_one_line_or_lists_every_problem() {
    let directory = Directory::new();
    let check = |text: &str, arguments: &[&str]| {
        std::fs::write(directory.path().join("firstmate.toml"), text).unwrap();
        let mut command = command(&[&["check-config"], arguments].concat());
        command.current_dir(directory.path());
        ended(command)
    };
    let good = "[services.web]\ncommand = \"sleep 1\"\ninstances = 2\n\n[services.db]\ncommand = \"sleep 1\"\n";
    let (code, stdout, stderr) = check(good, &[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.ends_with("firstmate.toml: ok, 2 services, 3 instances\n") && stdout.lines().count() == 1, "{stdout}");
    assert_eq!(check(good, &["-f", "firstmate.toml"]).0, 0);

    let bad = "[services.web]\ncommand = \"sleep 1\"\nrestrat = \"always\"\n\n[services.db]\ncommand = \"\"\n";
    let (code, stdout, stderr) = check(bad, &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("firstmate.toml:3:1") && stderr.contains("firstmate.toml:6:"), "{stderr}");
    assert!(!stderr.contains('\x1b'), "colour is for terminals: {stderr}");

    let (code, stdout, stderr) = check(good, &["-f", "nope.toml"]);
    assert!(code == 2 && stdout.is_empty() && stderr.starts_with("error: ") && stderr.contains("nope.toml"), "{stderr}");
}

#[test]
fn a_limit_of_memory_that_is_none_starts_nothing() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("firstmate.toml"), "[services.web]\ncommand = \"sleep 1\"\n").unwrap();
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = command(arguments);
        command.current_dir(directory.path()).envs(variable.map(|text| ("FIRSTMATE_MEMORY_LIMIT", text)));
        ended(command)
    };
    let variable = "\
error: the environment variable FIRSTMATE_MEMORY_LIMIT cannot be used: a limit of memory is a size such as 512MiB, or auto
  = help: mend it, or unset it to go by the file or the container
";
    assert_eq!(run(&["start"], Some("75%")), say(2, "", variable));
    assert_eq!(run(&[], Some("75%")), say(2, "", variable));
    assert_eq!(run(&["check-config"], Some("75%")), say(2, "", variable));
    assert_eq!(run(&["check-config"], Some("512MiB")).0, 0);
    for arguments in [&["start", "--memory-limit", "75%"][..], &["--memory-limit", "75%"]] {
        let (code, stdout, stderr) = run(arguments, None);
        assert_eq!((code, stdout.as_str()), (2, ""));
        let why = "error: invalid value `75%` for `--memory-limit <SIZE|auto>`: a limit of memory is a size such as 512MiB, or auto\n";
        assert!(stderr.starts_with(why), "{stderr}");
    }
    // It belongs to a file, and to the firstmate that runs it.
    assert_eq!(run(&["--memory-limit", "1G", "--", "true"], None).0, 2);
}

#[test]
fn a_plan_is_printed_and_nothing_is_started() {
    let directory = Directory::new();
    let started = directory.path().join("started");
    let text = format!("[services.web]\ncommand = \"touch {}\"\nenv = {{ TOKEN = \"hush\" }}\n", started.display());
    std::fs::write(directory.path().join("firstmate.toml"), text).unwrap();
    let explain = |arguments: &[&str]| {
        let mut command = command(&[&["check-config", "--explain"], arguments].concat());
        command.current_dir(directory.path()).env("FIRSTMATE_SOCKET", "@elsewhere");
        ended(command)
    };
    let (code, stdout, stderr) = explain(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("\norder of start\n  web  at once\n"), "{stdout}");
    assert!(stdout.contains("@elsewhere") && stdout.contains("$FIRSTMATE_SOCKET") && stdout.contains("firstmate.toml:2\n"), "{stdout}");
    let (code, json, stderr) = explain(&["--json", "-f", "firstmate.toml"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["schema"], 1);
    assert_eq!(plan["file"]["from"], serde_json::json!({ "kind": "command-line", "at": "-f" }));
    assert!(!stdout.contains("hush") && !json.contains("hush") && !started.exists());
}

#[test]
fn the_plan_is_the_one_that_would_be_run_here_or_as_it_is_asked_for() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("Procfile"), "web: true\nworker: true\n").unwrap();
    let explain = |arguments: &[&str]| {
        let mut command = command(&[&["check-config", "--explain"], arguments].concat());
        ended({
            command.current_dir(directory.path()).env("FIRSTMATE_SOCKET", "@elsewhere");
            command
        })
    };
    let row = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let (code, by_hand, _) = explain(&["--started-by", "person"]);
    assert_eq!(code, 0);
    let mode = "development: the first service that ends, ends all since this is a Procfile and no init started firstmate; --restart starts it again";
    assert_eq!(row(&by_hand, "mode"), mode);
    assert_eq!(row(&by_hand, "restart"), "never the first end ends all");
    // This test is no init.
    assert_eq!(explain(&[]).1, by_hand);
    let (_, container, _) = explain(&["--started-by", "container"]);
    assert!(row(&container, "mode").starts_with("a service that ends is started again since firstmate is PID 1;"), "{container}");
    assert_eq!(row(&container, "restart"), "always default");
    // The options are those of `start`.
    let (_, chosen, _) = explain(&["-m", "web=3", "-t", "7", "--restart"]);
    assert!(row(&chosen, "mode").starts_with("development: a service that ends is started again as --restart asks"), "{chosen}");
    assert_eq!((row(&chosen, "instances").as_str(), row(&chosen, "autostart").as_str()), ("3 -m", "false -m"));
    assert_eq!(row(&chosen, "stop_timeout"), "7s -t");
    assert!(explain(&["-x", "worker"]).1.contains("when asked for, by `firstmate start worker`"));
    let (code, _, stderr) = explain(&["-m", "wbe=1"]);
    assert!(code == 2 && stderr.contains("no service is called `wbe`, which -m names"), "{stderr}");
}

#[test]
fn a_command_needs_no_more_than_a_dotenv() {
    let directory = Directory::new();
    let run = |arguments: &[&str]| {
        let mut command = command(&[&["run"], arguments].concat());
        command.current_dir(directory.path()).env("PATH", "/usr/bin:/bin").env("B", "mine");
        ended(command)
    };
    let print = ["sh", "-c", "echo $A $B"];
    let (code, _, stderr) = run(&print);
    assert!(code == 2 && stderr.contains("cannot find firstmate.toml or a Procfile"), "{stderr}");
    std::fs::write(directory.path().join(".env"), "A=given\nB=given\n").unwrap();
    std::fs::write(directory.path().join("other.env"), "A=other\n").unwrap();
    assert_eq!(run(&print), say(0, "given mine\n", ""));
    assert_eq!(run(&[&["-e", "other.env"], &print[..]].concat()), say(0, "other mine\n", ""));
    std::fs::write(directory.path().join(".env"), "A='open\n").unwrap();
    let (code, stdout, stderr) = run(&print);
    assert!((code, stdout.as_str()) == (2, "") && stderr.contains(".env:1\n"), "{stderr}");
}

#[test]
fn a_sibling_is_found_by_the_port_that_it_has() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("Procfile"), "web: true\napi: true\n").unwrap();
    std::fs::write(directory.path().join("firstmate.toml"), "procfile = 'Procfile'\n[services.web]\nenv = { PORT = '8080' }\n").unwrap();
    let mut command = command(&["run", "sh", "-c", "echo $FIRSTMATE_WEB_PORT $FIRSTMATE_API_PORT"]);
    command.current_dir(directory.path()).env("PATH", "/usr/bin:/bin");
    assert_eq!(ended(command), say(0, "8080 5100\n", ""));
}

#[test]
fn more_names_than_a_request_has_room_for_are_refused_clearly() {
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let names: Vec<String> = (1..=700).map(|number| format!("web.{number}")).collect();
    for verb in ["stop", "logs", "events"] {
        let arguments: Vec<&str> = std::iter::once(verb).chain(names.iter().map(String::as_str)).collect();
        let (code, stdout, stderr) = on(&stand, &arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{verb}: {stderr}");
        assert!(stderr.starts_with("error: too many names at once: they take ") && stderr.contains("room for 8000"), "{verb}: {stderr}");
        assert!(stderr.contains("= help: name a group or `all`, or call it several times"), "{verb}: {stderr}");
    }
    assert!(stand.requests.try_recv().is_err());
    let arguments: Vec<&str> = std::iter::once("stop").chain(names.iter().take(550).map(String::as_str)).collect();
    assert_eq!(on(&stand, &arguments).0, 0);
}

#[test]
fn two_services_that_get_one_port_are_warned_of() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("Procfile"), "a: true\nb: true\nc: true\n").unwrap();
    let check = |formation: &str| {
        let mut command = command(&["check-config", "-m", formation]);
        command.current_dir(directory.path());
        ended(command)
    };
    let (code, _, stderr) = check("a=101,b=1");
    assert!(code == 0 && stderr.contains("warning: `a.101` and `b.1` get the same PORT, 5100\n"), "{stderr}");
    assert!(stderr.contains("= help: an entry has 100 ports for its instances"), "{stderr}");
    assert_eq!(check("a=100,b=1").2, "");
    // Who is not started takes nothing.
    assert_eq!(check("a=101,c=1").2, "");
    assert!(check("a=201,c=1").2.contains("`a.201` and `c.1` get the same PORT, 5200\n"));
}
