//! The command line and the control socket against the real supervisor.

use std::os::unix::net::UnixListener;

use firstmate::engine::status::{StateName, Status};

use crate::harness::{Ended, Place, Setup, both_ways, until};

both_ways![services_are_stopped_started_and_restarted, a_shutdown_waits_for_the_end, the_port_answers_like_the_socket];

const STACK: &str = "
    [services.web]
    instances = 2
    command = '{actor} print up sleep'
    [services.store]
    command = '{actor} print up sleep'
    [services.migrate]
    type = 'oneshot'
    command = '{actor} exit 0'
    [services.debug]
    autostart = false
    command = '{actor} print up sleep'
    [services.broken]
    autostart = false
    essential = false
    command = '{actor} exit 3'
    give_up_after = 1
";

fn services_are_stopped_started_and_restarted(place: Place) {
    let container = Setup::new(STACK).place(place).start();
    for name in ["web.1", "web.2", "store.1"] {
        container.until_ready(name);
    }
    container.until_state("migrate.1", StateName::Completed);
    let said = |code, out: &str| (code, out.to_owned(), String::new());
    let web = [container.pid_of("web.1"), container.pid_of("web.2")];

    // One instance.
    assert_eq!(container.cli(&["stop", "web.2"]), said(0, "web.2: stopped\n"));
    assert!(container.lives(web[0]) && !container.lives(web[1]));
    assert_eq!(container.instance("web.2").state, StateName::Stopped);
    assert_eq!(container.cli(&["stop", "web"]), said(0, "web.1: stopped\nweb.2: already stopped\n"));
    assert!(!container.lives(web[0]));
    // A service: both of its instances, and ready when the verb returns.
    assert_eq!(container.cli(&["start", "web"]), said(0, "web.1: started\nweb.2: started\n"));
    assert!(container.instance("web.1").ready && container.instance("web.2").ready);
    assert_eq!(container.cli(&["start", "web.1"]), said(0, "web.1: already started\n"));
    let before = container.pid_of("web.1");
    let store = container.pid_of("store.1");
    assert_eq!(container.cli(&["restart", "web.1", "debug"]), said(0, "web.1: restarted\ndebug.1: restarted\n"));
    assert!(container.pid_of("web.1") != before && container.instance("debug.1").ready);
    assert_eq!(container.pid_of("store.1"), store);
    // An operator's restarts are not the supervisor's own.
    assert_eq!(container.instance("web.1").restarts.total, 0);
    let (code, out, _) = container.cli(&["start", "broken"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("broken.1: ERROR ("), "{out}");
    // Everything.
    let (code, out, _) = container.cli(&["stop", "all"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("web.2: stopped\n") && out.contains("store.1: stopped\n") && out.contains("migrate.1: already stopped\n"),
        "{out}"
    );
    // It stays although nothing runs any more: who stopped it may start it.
    assert_eq!(container.try_end(), None);
    assert_eq!(container.cli(&["start", "store"]), said(0, "store.1: started\n"));

    let (code, out, error) = container.cli(&["restart", "stoer"]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert_eq!(error, "error: no service, instance or group is called `stoer`\n  = help: did you mean `store`?\n");
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_status_is_shown_for_people_and_for_programs() {
    let container = Setup::new(STACK).start();
    for name in ["web.1", "web.2", "store.1"] {
        container.until_ready(name);
    }
    container.until_state("migrate.1", StateName::Completed);
    let (code, out, error) = container.cli(&["status", "web", "store", "migrate"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let mut lines = out.lines();
    let pid = container.pid_of("web.1");
    assert!(lines.next().unwrap().starts_with(&format!("web.1      RUNNING    pid {pid}, uptime 0:0")), "{out}");
    assert!(out.lines().take(3).all(|line| line.ends_with(", ready")), "{out}");
    assert_eq!(out.lines().nth(3), Some("migrate.1  COMPLETED  exit 0"));
    // Something is not well: a service that is down.
    let (code, out, _) = container.cli(&["status"]);
    assert_eq!(code, 3, "{out}");
    assert!(out.lines().any(|line| line == "debug.1    STOPPED"), "{out}");
    let (code, out, _) = container.cli(&["status", "--json", "web.2"]);
    let status: Status = serde_json::from_str(&out).unwrap();
    assert_eq!((code, status.pid, status.services.len()), (0, 1, 1));
    assert_eq!(status.services[0].instances[0].name, "web.2");
    assert_eq!(container.cli(&["status", "nobody"]).0, 4);
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_checks_tell_the_truth() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} serve 8080 {dir}/well'
        ready = { http = 'http://127.0.0.1:8080/', every = '50ms', failures = 1 }
        ",
    )
    .start();
    let check = |words: &[&str]| {
        let (code, out, _) = container.cli(&[&["check"], words].concat());
        (code, out.trim_end().to_owned())
    };
    until("the reason is known", || check(&["ready"]).1.contains("503").then_some(()));
    assert_eq!(check(&["live"]), (0, "ok".to_owned()));
    let (code, why) = check(&["ready"]);
    assert!(code == 1 && why.starts_with("web not ready: "), "{why}");
    assert_eq!(check(&["startup"]).0, 1);
    container.touch("well");
    container.until_ready("web.1");
    for question in [&[][..], &["live"], &["ready"], &["startup"], &["ready", "web"], &["ready", "web.1"]] {
        assert_eq!(check(question), (0, "ok".to_owned()), "{question:?}");
    }
    // Not ready any more; started it has all the same.
    container.remove("well");
    container.until("web.1", "is not ready", |instance| !instance.ready);
    assert_eq!((check(&["ready"]).0, check(&["startup"]).0, check(&["live"]).0), (1, 0, 0));
    container.told("web.1 not ready: ");
    assert_eq!(container.stop(), 0);
}

fn a_shutdown_waits_for_the_end(place: Place) {
    let container = Setup::new("[services.web]\ncommand = '{actor} print-received TERM sleep-ms 300'").place(place).start();
    container.said("web.1", "listening for signals");
    assert_eq!(container.cli(&["shutdown"]), (0, "firstmate: stopped\n".to_owned(), String::new()));
    // When the command is back, it has been gone.
    let over = container.end();
    assert_eq!(over, Ended::Code(0));
    assert_eq!(container.lines().pop().unwrap().text, "ended with code 0: asked to by `firstmate shutdown`");
    // Nothing is left to talk to, neither the socket.
    assert!(!container.socket().exists());
    assert_eq!(container.cli(&["status"]).0, 4);
    assert_eq!(container.cli(&["check"]).0, 1);
}

#[test]
fn another_uid_may_look_and_not_touch() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'").start();
    container.until_ready("web.1");
    let run = container.instance("web.1").run;
    assert_eq!(container.cli_as(65534, &["status"]).0, 0);
    assert_eq!(container.cli_as(65534, &["check", "ready"]).0, 0);
    for verb in [&["stop", "web"][..], &["start", "web"], &["restart", "web"], &["shutdown"]] {
        let (code, out, error) = container.cli_as(65534, verb);
        assert_eq!((code, out.as_str()), (1, ""), "{verb:?}");
        assert!(error.contains("only root may use its verbs, and you are uid 65534"), "{error}");
    }
    let now = container.instance("web.1");
    assert_eq!((now.run, now.state, container.try_end()), (run, StateName::Running, None));
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_stale_socket_is_taken_over() {
    let setup = Setup::new("[services.web]\ncommand = '{actor} print up sleep'");
    let path = setup.dir().join("firstmate.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let container = setup.start();
    container.until_ready("web.1");
    assert_eq!(container.cli(&["check"]).0, 0);
    assert_eq!(container.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn a_second_firstmate_on_a_live_socket_refuses() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'").start();
    container.until_ready("web.1");
    let socket = container.socket();
    let socket = socket.to_str().unwrap();
    let second = Setup::new("[services.web]\ncommand = '{actor} print up sleep'")
        .arguments(&["start", "-f", "{dir}/firstmate.toml", "--socket", socket, "--http", "off"])
        .start();
    assert_eq!(second.code(), 69);
    let last = second.lines().pop().unwrap();
    assert!(last.kind == "error" && last.text.contains(socket), "{last:?}");
    assert_eq!(second.count_told("web.1 started"), 0);
    // The first one has lost nothing.
    assert_eq!(container.cli(&["check", "ready"]).0, 0);
    // Something else at that place is not taken away.
    let third = Setup::new("[services.web]\ncommand = '{actor} print up sleep'").file("firstmate.sock", 0o644, "mine").start();
    assert_eq!(third.code(), 69);
    assert_eq!(std::fs::read_to_string(third.socket()).unwrap(), "mine");
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_taken_port_that_was_asked_for_is_refused() {
    let container =
        Setup::new("[firstmate]\nhttp = '127.0.0.1:9999'\n[services.web]\ncommand = '{actor} sleep'\n[services.x]\ncommand = 'nope'")
            .arguments(&["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock", "--http", "192.0.2.1:9999"])
            .start();
    assert_eq!(container.code(), 69);
    assert!(container.lines().pop().unwrap().text.contains("192.0.2.1:9999"));
}

fn the_port_answers_like_the_socket(place: Place) {
    let config = "
        [services.web]
        command = '{actor} serve 8080 {dir}/well'
        ready = { http = 'http://127.0.0.1:8080/', every = '50ms', failures = 1 }
        [services.store]
        command = '{actor} print up sleep'
        ready = { exec = '{actor} exit 0' }
    ";
    let container = Setup::new(config).place(place).http("127.0.0.1:9180").start();
    container.told("probes and status are served on http://127.0.0.1:9180");
    let tcp = |method: &str, target: &str| container.ask_tcp(9180, method, target).unwrap();
    let unix = |method: &str, target: &str| container.ask(method, target).unwrap();
    container.until_ready("store.1");
    until("the reason is known", || tcp("GET", "/readyz?verbose").1.contains("503").then_some(()));
    assert_eq!(tcp("GET", "/livez"), (200, "ok".to_owned()));
    assert_eq!(tcp("GET", "/healthz").0, 200);
    let (code, body) = tcp("GET", "/readyz?verbose");
    assert_eq!(code, 503);
    assert!(body.contains("[+]store ok\n") && body.contains("[-]web not ready: "), "{body}");
    assert_eq!((tcp("GET", "/readyz?exclude=web").0, tcp("GET", "/readyz/store").0, tcp("GET", "/readyz/web").0), (200, 200, 503));
    assert_eq!(tcp("GET", "/startupz").0, 503);
    container.touch("well");
    container.until_ready("web.1");
    for ask in [&tcp as &dyn Fn(&str, &str) -> (u16, String), &unix] {
        for target in ["/livez", "/readyz", "/startupz", "/readyz/web", "/readyz/web.1"] {
            assert_eq!(ask("GET", target), (200, "ok".to_owned()), "{target}");
            assert_eq!(ask("HEAD", target), (200, String::new()), "{target}");
        }
        let (code, body) = ask("GET", "/status");
        let status: Status = serde_json::from_str(&body).unwrap();
        assert!(code == 200 && status.ready && status.live && status.started, "{body}");
        assert_eq!(status.pid, u32::try_from(container.own_pid()).unwrap());
    }
    // Verbs are for the socket alone.
    assert_eq!(tcp("POST", "/v1/stop?name=web").0, 404);
    assert_eq!(container.instance("web.1").state, StateName::Running);
    let (code, body) = unix("POST", "/v1/stop?name=web");
    assert!(code == 200 && body.contains("stopped"), "{body}");
    assert_eq!(tcp("GET", "/readyz").0, 503);
    assert_eq!(container.stop(), 0);
    assert!(container.connect(9180).is_err());
}

#[test]
fn where_nothing_is_named_both_are_at_their_usual_place() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print up sleep'").arguments(&["start"]).start();
    container.told("probes and status are served on http://0.0.0.0:9180");
    container.said("web.1", "up");
    assert_eq!(container.ask_tcp(9180, "GET", "/livez").unwrap(), (200, "ok".to_owned()));
    // As docker exec and a HEALTHCHECK call it: within the container and without any setting.
    let program = env!("CARGO_BIN_EXE_firstmate");
    let check = || container.foreign(&[program, "check", "ready"]).status().unwrap().code();
    until("the check within the container is content", || (check() == Some(0)).then_some(()));
    // The end of a container's PID 1 takes whoever asked for it along.
    let _ = container.foreign(&[program, "shutdown"]).status().unwrap();
    assert_eq!(container.code(), 0);
}

#[test]
fn everywhere_is_served_where_there_is_no_ipv6() {
    let config = "
        [services.web]
        command = '{actor} sleep'
    ";
    let container = Setup::new(config).without_ipv6().http("[::]:9180").start();
    container.told("there is no IPv6 here: instead of [::]:9180 probes and status get 0.0.0.0:9180");
    container.told("probes and status are served on http://0.0.0.0:9180");
    container.until_ready("web.1");
    assert_eq!(container.ask_tcp(9180, "GET", "/readyz").unwrap().0, 200);
    assert_eq!(container.stop(), 0);
    // An address that is not everywhere is not replaced by another one.
    let container = Setup::new(config).without_ipv6().http("[::1]:9180").start();
    assert_eq!(container.code(), 69);
    assert!(container.count_told("cannot listen on [::1]:9180") > 0, "{:?}", container.lines());
}
