//! Groups, reloads, signals, rolling restarts and other numbers of instances, by the command line, against the real supervisor.

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways, until};

both_ways![a_group_is_a_name_like_any_other, a_rolling_restart_goes_one_by_one_and_stops_at_the_first_that_fails, services_are_scaled];

const STACK: &str = "
    [services.web]
    groups = 'front'
    instances = 2
    command = '{actor} print up sleep'
    [services.mailer]
    groups = ['workers', 'front']
    reload_signal = 'HUP'
    command = '{actor} print-received TERM'
    [services.reporter]
    groups = 'workers'
    command = '{actor} print-received TERM'
";

fn up(setup: Setup, place: Place, names: &[&str]) -> Container {
    let container = setup.place(place).start();
    for name in names {
        container.until_ready(name);
    }
    container
}

fn said(code: i32, out: &str) -> (i32, String, String) {
    (code, out.to_owned(), String::new())
}

fn a_group_is_a_name_like_any_other(place: Place) {
    let container = up(Setup::new(STACK), place, &["web.1", "web.2", "mailer.1", "reporter.1"]);
    assert_eq!(container.cli(&["stop", "workers"]), said(0, "mailer.1: stopped\nreporter.1: stopped\n"));
    let (code, out, _) = container.cli(&["status", "workers"]);
    assert_eq!((code, out.as_str()), (3, "mailer.1    STOPPED    exit 0\nreporter.1  STOPPED    exit 0\n"));
    let (code, out, _) = container.cli(&["status", "front", "--json"]);
    assert!(code == 3 && out.contains("web.2") && out.contains("mailer.1") && !out.contains("reporter.1"), "{out}");
    assert_eq!(container.cli(&["start", "workers", "web.1"]), said(0, "web.1: already started\nmailer.1: started\nreporter.1: started\n"));
    let (code, _, error) = container.cli(&["restart", "wrokers"]);
    assert_eq!(
        (code, error.as_str()),
        (4, "error: no service, instance or group is called `wrokers`\n  = help: did you mean `workers`?\n")
    );
    let (code, _, error) = container.cli(&["status", "wrokers"]);
    assert!(code == 4 && error.ends_with("= help: did you mean `workers`?\n"), "{error}");
    assert_eq!(container.stop(), 0);
}

#[test]
fn reloads_and_signals_reach_whom_they_are_for() {
    let container = up(Setup::new(STACK), Place::Init, &["web.1", "web.2", "mailer.1", "reporter.1"]);
    container.said("mailer.1", "listening for signals");
    container.said("reporter.1", "listening for signals");
    let pid = container.pid_of("mailer.1");
    assert_eq!(container.cli(&["reload", "mailer"]), said(0, "mailer.1: signalled (SIGHUP)\n"));
    container.said("mailer.1", "got SIGHUP");
    // Without a reload_signal it says how to have one.
    let (code, out, _) = container.cli(&["reload", "workers"]);
    assert_eq!(code, 1);
    let (first, second) = out.split_once('\n').unwrap();
    assert_eq!(first, "mailer.1: signalled (SIGHUP)");
    assert_eq!(
        second,
        "reporter.1: ERROR (reporter has no reload_signal; add reload_signal = \"HUP\", or whichever signal makes it read its \
         configuration anew, to [services.reporter], or use `firstmate restart reporter`)\n"
    );
    for (name, line) in [("usr1", "got SIGUSR1"), ("SIGUSR2", "got SIGUSR2"), ("28", "got SIGWINCH")] {
        let (code, out, error) = container.cli(&["signal", name, "reporter"]);
        assert_eq!((code, error.as_str()), (0, ""), "{out}");
        assert!(out.starts_with("reporter.1: signalled (SIG"), "{out}");
        container.said("reporter.1", line);
    }
    let (code, out, _) = container.cli(&["signal", "RTMIN+3", "reporter"]);
    assert_eq!((code, out.as_str()), (0, "reporter.1: signalled (SIGRTMIN+3)\n"));
    assert_eq!(container.pid_of("mailer.1"), pid, "nobody was restarted");

    let (code, out, error) = container.cli(&["signal", "HPU", "web"]);
    assert_eq!((code, out.as_str(), error.as_str()), (2, "", "error: there is no signal `HPU`\n  = help: did you mean `HUP`?\n"));
    container.cli(&["stop", "web.2"]);
    let (code, out, _) = container.cli(&["signal", "CONT", "web"]);
    assert_eq!((code, out.as_str()), (1, "web.1: signalled (SIGCONT)\nweb.2: ERROR (it is stopped, so there is nothing to send it to)\n"));
    // A signal is no stop: the policy has the last word, and the log knows who it was.
    assert_eq!(container.cli(&["signal", "KILL", "web.1"]).0, 0);
    let at = container.told("SIGKILL was sent to 1 process of web.1, as an operator asked");
    let (_, line) = container.told_from(at, "web.1 killed by SIGKILL");
    assert!(!line.text.contains("not by firstmate"), "{}", line.text);
    container.until("web.1", "runs again", |instance| instance.run == 2 && instance.state == StateName::Running);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_signal_may_go_to_the_whole_tree() {
    let container = Setup::new("[services.web]\ncommand = '{actor} child print-received TERM end print-received TERM'").start();
    until("both listen", || (container.said_by("web.1").iter().filter(|line| *line == "listening for signals").count() == 2).then_some(()));
    assert_eq!(container.cli(&["signal", "USR1", "web", "--all-processes"]), said(0, "web.1: signalled (SIGUSR1, 2 processes)\n"));
    until("both got it", || (container.said_by("web.1").iter().filter(|line| *line == "got SIGUSR1").count() == 2).then_some(()));
    assert_eq!(container.stop(), 0);
}

#[test]
fn whoever_does_not_wait_is_back_at_once_and_it_goes_on() {
    let setup = Setup::new("[services.web]\nstop_timeout = '20s'\ncommand = '{actor} ignore-term print up sleep'");
    let container = up(setup, Place::Init, &["web.1"]);
    assert_eq!(container.cli(&["stop", "web", "--no-wait"]), said(0, "web.1: told to stop\n"));
    container.until_state("web.1", StateName::Stopping);
    let (code, out, _) = container.cli(&["stop", "web", "--timeout", "100ms"]);
    assert_eq!((code, out.as_str()), (1, "web.1: ERROR (still stopping)\n"));
    assert_eq!(container.instance("web.1").state, StateName::Stopping);
    assert_eq!(container.cli(&["start", "web", "--no-wait"]), said(0, "web.1: told to start\n"));
    assert_eq!(container.cli(&["signal", "KILL", "web"]).0, 0);
    container.until("web.1", "is up with a new run", |instance| instance.run == 2 && instance.ready);
    let (code, _, error) = container.cli(&["stop", "web", "--no-wait", "--timeout", "1s"]);
    assert!(code == 2 && error.contains("--no-wait"), "{error}");
    let (code, _, error) = container.cli(&["start", "--no-wait"]);
    assert!(code == 2 && error.contains("were not provided:\n  <NAME>...\n"), "{error}");
}

fn a_rolling_restart_goes_one_by_one_and_stops_at_the_first_that_fails(place: Place) {
    let setup = Setup::new(
        "
        [services.web]
        instances = 3
        essential = false
        command = './serve'
        ready = { delay = '100ms' }
        backoff = { initial = '1s' }
        [services.single]
        command = '{actor} print up sleep'
        ",
    )
    .file("serve", 0o755, "#!/bin/sh\ntest -e {dir}/good || exit 7\nexec {actor} print up sleep\n")
    .file("good", 0o644, "");
    let container = up(setup, place, &["web.1", "web.2", "web.3", "single.1"]);
    assert_eq!(container.cli(&["restart", "--rolling", "web"]), said(0, "web.1: restarted\nweb.2: restarted\nweb.3: restarted\n"));
    // By the log: each is ready before the next is asked to end.
    let own: Vec<String> = container.lines().into_iter().filter(crate::harness::Line::is_own).map(|line| line.text).collect();
    let at = |start: &str, last: bool| {
        let mut found = own.iter().enumerate().filter(|(_, text)| text.starts_with(start)).map(|(at, _)| at);
        if last { found.next_back() } else { found.next() }.unwrap_or_else(|| panic!("{start}: {own:#?}"))
    };
    for number in 1..3 {
        assert!(at(&format!("web.{number} ready"), true) < at(&format!("stopping web.{}", number + 1), false), "{own:#?}");
    }
    container.told("the rolling restart of web is done");

    // One instance cannot be done without: said so, and nothing was done to it; the others are.
    let single = container.pid_of("single.1");
    let (code, out, _) = container.cli(&["restart", "--rolling", "all"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("web.1: restarted\nweb.2: restarted\nweb.3: restarted\nsingle.1: ERROR (single has one instance"), "{out}");
    assert_eq!(container.pid_of("single.1"), single);

    // From now on no new run comes up.
    container.remove("good");
    let before = container.pid_of("web.3");
    let (code, out, _) = container.cli(&["restart", "--rolling", "web.2", "web.3"]);
    assert_eq!(code, 1);
    let (first, second) = out.split_once('\n').unwrap();
    assert!(first.starts_with("web.2: ERROR (its new run did not become ready ("), "{out}");
    assert_eq!(second, "web.3: ERROR (it keeps its run, since the rolling restart stopped at web.2)\n");
    container.told("the rolling restart of web stops at web.2: its new run did not become ready; 1 instance keeps its run");
    assert_eq!(container.pid_of("web.3"), before);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_rolling_restart_goes_on_when_whoever_asked_has_left() {
    let setup = Setup::new("[services.web]\ninstances = 3\ncommand = '{actor} print up sleep'");
    let container = up(setup, Place::Init, &["web.1", "web.2", "web.3"]);
    let told = "web.1: told to restart\nweb.2: told to restart\nweb.3: told to restart\n";
    assert_eq!(container.cli(&["restart", "--rolling", "--no-wait", "web"]), said(0, told));
    let (_, _, notes) = container.cli(&["status"]);
    assert!(notes.starts_with("web: rolling restart: web."), "{notes}");
    // Who asks again, and has little time, is told what is so.
    let (code, out, _) = container.cli(&["restart", "--rolling", "--timeout", "50ms", "web"]);
    assert!(code == 1 && out.contains("web.2: ERROR (its turn has not come; the rolling restart goes on)\n"), "{out}");
    let at = container.told("the rolling restart of web is done");
    assert_eq!(container.count_told("the rolling restart of web is done"), 1, "line {at}: it was added to the one that went on");
    for name in ["web.1", "web.2", "web.3"] {
        assert!(matches!(container.instance(name).run, 2 | 3));
    }
    assert_eq!(container.stop(), 0);
}

fn services_are_scaled(place: Place) {
    let setup = Setup::new(
        "
        procfile = 'Procfile'
        [services.web]
        instances = 2
        [services.job]
        type = 'oneshot'
        command = '{actor} exit 0'
        ",
    )
    .file("Procfile", 0o644, "web: {actor} print-env PORT sleep\nother: {actor} print-env PORT sleep\n");
    let container = up(setup, place, &["web.1", "web.2", "other.1"]);
    let scaled =
        "web: 4 instances, 2 before; the file says 2, which holds again when firstmate is started anew\nweb.3: started\nweb.4: started\n";
    assert_eq!(container.cli(&["scale", "web=4"]), said(0, scaled));
    container.said("web.4", "5003");
    let (code, out, notes) = container.cli(&["status", "web"]);
    assert_eq!((code, out.lines().count(), notes.as_str()), (0, 4, "web: scaled at run time; the file says 2\n"));
    let first = container.pid_of("web.1");
    assert_eq!(
        container.cli(&["scale", "web=1"]),
        said(
            0,
            "web: 1 instance, 4 before; the file says 2, which holds again when firstmate is started anew\nweb.4: removed\nweb.3: removed\nweb.2: removed\n"
        )
    );
    assert_eq!(container.pid_of("web.1"), first);
    assert_eq!(container.cli(&["scale", "web=2", "other=2"]).0, 0);
    let web_2 = container.instance("web.2");
    assert_eq!((web_2.run, web_2.ready), (2, true), "its runs go on being counted");
    assert_eq!(container.cli(&["status", "web"]).2, "");

    for (words, code, why) in [
        (&["scale", "web=101"][..], 1, "error: cannot scale: web.101 would get PORT 5100, which is that of other.1\n"),
        (&["scale", "job=2"], 1, "error: cannot scale: job is a oneshot, which runs as often as the file says\n"),
        (&["scale", "wbe=2"], 4, "error: no service, instance or group is called `wbe`\n  = help: did you mean `web`?\n"),
        (
            &["scale", "web=0"],
            2,
            "error: `web=0` would leave web without an instance\n  = help: `firstmate stop web` stops it, and it keeps its number of instances\n",
        ),
        (&["scale", "web"], 2, "error: `web` is not a service and a number of instances\n  = help: write it as in web=3\n"),
        (&["scale", "web=1001"], 2, "error: a service has at most 1000 instances, not 1001\n"),
    ] {
        assert_eq!(container.cli(words), (code, String::new(), why.to_owned()), "{words:?}");
    }
    assert_eq!(container.stop(), 0);
}
