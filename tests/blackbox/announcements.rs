//! What services say of themselves: by NOTIFY_SOCKET, by a descriptor, by a line; and what firstmate says to whoever is above it.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use firstmate::engine::status::StateName;

use crate::harness::{Container, PATIENCE, Place, Setup, both_ways, until};

both_ways![
    a_line_a_newline_or_time_makes_ready,
    a_service_says_so_itself_whoever_of_it_and_as_whatever_user,
    who_belongs_to_nobody_is_not_listened_to,
    a_silent_watchdog_restarts,
    who_was_paused_with_everything_else_was_not_silent,
    who_asks_for_more_time_gets_it,
    a_service_sets_its_own_watchdog_and_asks_for_it,
    who_says_that_it_is_stopping_and_stays_is_ended,
    a_flood_of_words_keeps_nobody_from_being_heard,
];

fn says(container: &Container, name: &str, text: &str) {
    container.until(name, &format!("says `{text}`"), |instance| instance.says.as_deref() == Some(text));
}

fn a_line_a_newline_or_time_makes_ready(place: Place) {
    let container = Setup::new(
        r"
        [services.log]
        command = '{actor} print begun wait-file {dir}/line print-error listening-on-80 sleep'
        ready = { log = '^listening-on-\d+$' }
        [services.fd]
        command = '{actor} print-fds write-fd 3 almost wait-file {dir}/newline write-fd 3 \\n close-fd 3 print said sleep'
        ready = { notify_fd = 3 }
        [services.delay]
        command = '{actor} sleep'
        ready = { delay = '300ms' }
        [services.after]
        command = '{actor} print up sleep'
        depends_on = ['log', 'fd', 'delay']
        ",
    )
    .place(place)
    .start();
    container.said("log.1", "begun");
    container.until_ready("delay.1");
    let (_, started) = container.told_from(0, "delay.1 started");
    let (_, ready) = container.told_from(0, "delay.1 ready after");
    assert!(ready.at_ms - started.at_ms >= 299);
    assert_eq!(container.said_by("fd.1"), ["0=/dev/null 1=pipe 2=pipe 3=pipe"]);
    for (name, file) in [("log.1", "line"), ("fd.1", "newline")] {
        assert_eq!(container.instance(name).state, StateName::Starting);
        assert_eq!(container.count_told("after.1 started"), 0);
        container.touch(file);
        container.until_ready(name);
    }
    container.said("fd.1", "said");
    container.said("after.1", "up");
    assert_eq!(container.stop(), 0);
}

#[test]
fn who_closes_its_descriptor_without_a_newline_is_told_about() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} write-fd 7 nonsense close-fd 7 sleep'
        ready = { notify_fd = 7 }
        start_timeout = '500ms'
        give_up_after = 1
        ",
    )
    .start();
    assert_eq!(container.code(), 128 + 15);
    container.told("web.1 not ready within 500 ms (`start_timeout`), ending it: it closed its notification descriptor without a newline");
}

fn a_service_says_so_itself_whoever_of_it_and_as_whatever_user(place: Place) {
    let container = Setup::new(
        r"
        [services.web]
        user = 'nobody'
        command = ['{actor}', 'wait-file', '{dir}/go', 'child', 'setsid', 'notify', 'STATUS=two of three\nREADY=1', 'sleep', 'end', 'wait-file', '{dir}/reload',
            'notify', 'RELOADING=1', 'wait-file', '{dir}/reloaded', 'notify', 'STATUS=\nREADY=1', 'notify-barrier', 'wait-file', '{dir}/leave', 'notify', 'STOPPING=1', 'sleep']
        ready = { notify = true }
        [services.main]
        command = ['{actor}', 'ignore-term', 'child', 'default', 'TERM', 'notify', 'MAINPID=%p\nREADY=1', 'print-received', 'TERM', 'write-pid', '{dir}/over', 'end', 'wait-file', '{dir}/over']
        ready = { notify = true }
        stop_timeout = '25s'
        [services.daemon]
        command = ['{actor}', 'child', 'daemonise', 'wait-file', '{dir}/go', 'notify', 'READY=1\nMAINPID=1', 'sleep', 'end', 'sleep']
        ready = { notify = true }
        ",
    )
    .place(place)
    .start();
    container.until_ready("main.1");
    for name in ["web.1", "daemon.1"] {
        assert_eq!(container.instance(name).state, StateName::Starting);
    }
    container.touch("go");
    container.until_ready("web.1");
    container.until_ready("daemon.1");
    says(&container, "web.1", "two of three");
    let (_, table, _) = container.cli(&["status", "web"]);
    assert!(table.trim_end().ends_with("ready: two of three"), "{table}");
    container.touch("reload");
    says(&container, "web.1", "reloading: two of three");
    assert!(container.instance("web.1").ready, "who reloads serves");
    container.touch("reloaded");
    container.said("web.1", "passed the barrier");
    // All that was said before the barrier is known behind it.
    assert_eq!(container.instance("web.1").says, None);
    container.touch("leave");
    container.told("web.1 not ready: it says that it is stopping");
    // Only who said that it is the main process obeys, and the other one ends by itself.
    assert_eq!(container.cli(&["stop", "main"]).0, 0);
    container.told("main.1 exited with code 0");
    assert_eq!(container.count_told("SIGKILL to main.1"), 0);
    assert_eq!(container.stop(), 0);
}

fn who_belongs_to_nobody_is_not_listened_to(place: Place) {
    let container = Setup::new(
        r"
        [services.web]
        command = ['{actor}', 'print-env', 'NOTIFY_SOCKET', 'print-env', 'WATCHDOG_USEC', 'print-env', 'FIRSTMATE_RUN', 'wait-file', '{dir}/go', 'notify', 'STATUS=so far nothing', 'wait-file', '{dir}/ready', 'notify', 'READY=1', 'sleep']
        ready = { notify = true }
        watchdog = '1h'
        [services.other]
        command = ['{actor}', 'wait-file', '{dir}/address', 'sleep']
        [services.liar]
        command = ['{actor}', 'print-env', 'NOTIFY_SOCKET', 'wait-file', '{dir}/go', 'notify', 'MAINPID=1\nREADY=1', 'sleep']
        ready = { notify = true }
        ",
    )
    .place(place)
    .env("WATCHDOG_USEC", "17")
    .start();
    until("the address is known", || (container.said_by("web.1").len() == 3).then_some(()));
    let said = container.said_by("web.1");
    assert!(said[0].starts_with("@firstmate/"), "{said:?}");
    assert_eq!(said[1], "3600000000");
    let actor = container.dir().join("actor");
    for text in ["READY=1", "STATUS=lies", "WATCHDOG=trigger", "STOPPING=1"] {
        let words = [actor.to_str().unwrap(), "notify-to", &said[0], text];
        assert!(container.foreign(&words).status().unwrap().success());
        // Who knows the marker and is another user is no less a stranger.
        let forged: Vec<&str> = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].into_iter().chain(words).collect();
        assert!(container.foreign(&forged).env("FIRSTMATE_RUN", &said[2]).status().unwrap().success());
    }
    container.touch("go");
    // One socket, one order: what the stranger sent has been read before this.
    says(&container, "web.1", "so far nothing");
    // That is told, and once, however often it happens.
    container.told("a notification of pid ");
    assert_eq!(container.count_told("was ignored: it belongs to no service"), 1);
    assert_eq!(container.instance("web.1").state, StateName::Starting);
    container.until_ready("liar.1");
    container.touch("ready");
    container.until_ready("web.1");
    assert_eq!(container.instance("web.1").restarts.total, 0);
    assert_eq!(container.stop(), 0);
}

fn a_silent_watchdog_restarts(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} notify READY=1 ping 50 {dir}/well print silent sleep'
        ready = { notify = true }
        watchdog = '2s'
        backoff = { initial = '20ms', max = '20ms' }
        give_up_after = 'never'
        ",
    )
    .place(place)
    .file("well", 0o644, "")
    .start();
    container.until_ready("web.1");
    let first = container.pid_of("web.1");
    container.remove("well");
    let (at, _) = container.said_from(0, "web.1", "silent");
    let (at, _) = container.told_from(at, "web.1 said no WATCHDOG=1 within 2 s, ending it");
    container.touch("well");
    container.told_from(at, "stopping web.1 with SIGTERM (watchdog)");
    container.told_from(at, "watchdog)");
    let now = container.until("web.1", "is restarted and ready", |instance| instance.run > 1 && instance.ready);
    assert!(now.restarts.watchdog >= 1 && now.restarts.live == 0, "{now:?}");
    assert!(!container.lives(first));
    let (_, why, _) = container.cli(&["why", "web"]);
    assert!(why.contains("its watchdog ended it: no WATCHDOG=1 within 2000 ms"), "{why}");
    assert_eq!(container.stop(), 0);
}

fn who_was_paused_with_everything_else_was_not_silent(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} notify READY=1 ping 50 {dir}/well print silent sleep'
        ready = { notify = true }
        watchdog = '1s'
        ",
    )
    .place(place)
    .file("well", 0o644, "")
    .start();
    container.until_ready("web.1");
    let web = container.pid_of("web.1");
    container.signal("STOP");
    container.kill(web, "STOP");
    // The watchdog's time, and far more.
    pass(Duration::from_secs(4));
    container.signal("CONT");
    // It has done what was due before the service could say a word.
    assert_eq!(container.instance("web.1").run, 1);
    container.kill(web, "CONT");
    // Its time again.
    pass(Duration::from_millis(1_500));
    let now = container.instance("web.1");
    assert_eq!((now.run, now.ready, now.restarts.total), (1, true, 0));
    assert!(container.lives(web));
    // And it is still watched.
    container.remove("well");
    container.told("web.1 said no WATCHDOG=1 within 1 s, ending it");
    assert_eq!(container.stop(), 0);
}

fn pass(time: Duration) {
    let began = Instant::now();
    until("time has passed", || (began.elapsed() > time).then_some(()));
}

fn who_asks_for_more_time_gets_it(place: Place) {
    let container = Setup::new(
        r"
        [firstmate]
        stop_timeout = '20s'
        [services.web]
        command = ['{actor}', 'notify', 'EXTEND_TIMEOUT_USEC=25000000', 'wait-file', '{dir}/up', 'notify', 'READY=1', 'print-received', 'TERM',
            'notify', 'EXTEND_TIMEOUT_USEC=15000000', 'wait-file', '{dir}/down', 'exit', '0']
        ready = { notify = true }
        start_timeout = '500ms'
        stop_timeout = '500ms'
        ",
    )
    .place(place)
    .start();
    container.told("web.1 started");
    pass(Duration::from_millis(1_500));
    assert_eq!(container.instance("web.1").state, StateName::Starting);
    container.touch("up");
    container.until_ready("web.1");
    container.said("web.1", "listening for signals");
    // A stop of everything, in which its own grace period is half a second.
    container.signal("TERM");
    container.said("web.1", "got SIGTERM");
    pass(Duration::from_millis(1_500));
    container.touch("down");
    container.told("web.1 exited with code 0");
    assert_eq!(container.code(), 0);
    assert_eq!(container.count_told("SIGKILL to web.1"), 0);
    assert_eq!(container.count_told("web.1 not ready within"), 0);
}

fn a_service_sets_its_own_watchdog_and_asks_for_it(place: Place) {
    let container = Setup::new(
        r"
        [services.silent]
        command = ['{actor}', 'notify', 'WATCHDOG_USEC=300000\nREADY=1', 'sleep']
        ready = { notify = true }
        [services.asks]
        command = ['{actor}', 'notify', 'READY=1', 'wait-file', '{dir}/go', 'notify', 'WATCHDOG=trigger', 'sleep']
        ready = { notify = true }
        ",
    )
    .place(place)
    .start();
    container.told("silent.1 said no WATCHDOG=1 within 300 ms, ending it");
    container.until_ready("asks.1");
    container.touch("go");
    container.told("asks.1 asked to be ended (WATCHDOG=trigger)");
    for name in ["silent.1", "asks.1"] {
        container.until(name, "was restarted by its watchdog", |instance| instance.restarts.watchdog >= 1);
    }
    assert_eq!(container.stop(), 0);
}

fn who_says_that_it_is_stopping_and_stays_is_ended(place: Place) {
    let container = Setup::new(
        r"
        [services.web]
        command = ['{actor}', 'notify', 'READY=1', 'wait-file', '{dir}/leave', 'notify', 'STOPPING=1', 'sleep']
        ready = { notify = true }
        stop_timeout = '400ms'
        ",
    )
    .place(place)
    .start();
    let first = container.until_ready("web.1").run;
    container.touch("leave");
    container.told("web.1 not ready: it says that it is stopping");
    container.told("web.1 said STOPPING=1 400 ms ago and is still there, ending it");
    container.until("web.1", "is another run", |instance| instance.run > first && instance.restarts.watchdog >= 1);
    let (_, why, _) = container.cli(&["why", "web"]);
    assert!(why.contains("still there 400 ms after its STOPPING=1"), "{why}");
    assert_eq!(container.stop(), 0);
}

fn a_flood_of_words_keeps_nobody_from_being_heard(place: Place) {
    let container = Setup::new(
        r"
        [services.web]
        command = ['{actor}', 'print-env', 'NOTIFY_SOCKET', 'notify', 'READY=1', 'ping', '100', '{dir}/well', 'sleep']
        ready = { notify = true }
        watchdog = '3s'
        [services.loud]
        command = ['{actor}', 'notify', 'READY=1', 'ping', '0', '{dir}/flood', 'print', 'done', 'sleep']
        ready = { notify = true }
        ",
    )
    .place(place)
    .file("well", 0o644, "")
    .file("flood", 0o644, "")
    .start();
    container.until_ready("web.1");
    container.until_ready("loud.1");
    let socket = container.said_by("web.1").remove(0);
    let actor = container.dir().join("actor");
    let flood = container.dir().join("flood");
    let mut stranger =
        container.foreign(&[actor.to_str().unwrap(), "ping", "0", flood.to_str().unwrap()]).env("NOTIFY_SOCKET", &socket).spawn().unwrap();
    pass(Duration::from_secs(5));
    // It is still there for everybody else.
    let now = container.instance("web.1");
    assert_eq!((now.ready, now.run, now.restarts.total), (true, 1, 0));
    assert_eq!(stranger.try_wait().unwrap(), None, "the flood lasts");
    assert_eq!(container.cli(&["restart", "web"]).0, 0);
    container.until("web.1", "is ready again", |instance| instance.run == 2 && instance.ready);
    container.remove("flood");
    assert!(stranger.wait().unwrap().success());
    container.said("loud.1", "done");
    assert_eq!(container.count_told("was ignored"), 1);
    assert_eq!(container.stop(), 0);
}

/// The next message that is not about how many are ready.
fn next_message(above: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = above.recv(&mut buffer).expect("a message within the test's patience");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !text.starts_with("STATUS=") {
            return text;
        }
    }
}

#[test]
fn whoever_is_above_is_told() {
    let setup = Setup::new(
        "
        [services.web]
        command = '{actor} wait-file {dir}/go print-env NOTIFY_SOCKET sleep'
        ready = { delay = '10ms' }
        [services.late]
        command = '{actor} wait-file {dir}/go notify READY=1 sleep'
        ready = { notify = true }
        ",
    );
    let path = setup.dir().join("above.sock");
    let above = UnixDatagram::bind(&path).unwrap();
    above.set_read_timeout(Some(PATIENCE)).unwrap();
    let container = setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let mut buffer = [0; 4096];
    let length = above.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), "STATUS=0 of 2 services are ready");
    container.until_ready("web.1");
    above.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while let Ok(length) = above.recv(&mut buffer) {
        assert!(buffer[..length].starts_with(b"STATUS="), "not before everything is ready");
    }
    above.set_read_timeout(Some(PATIENCE)).unwrap();
    container.touch("go");
    assert_eq!(next_message(&above), "READY=1");
    container.said("web.1", "(unset)");
    assert_eq!(container.stop(), 0);
    assert_eq!(next_message(&above), "STOPPING=1");
    let length = above.recv(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer[..length]), "STATUS=stopping: SIGTERM was received");
}

#[test]
fn who_is_above_and_never_listens_changes_nothing() {
    let setup = Setup::new("[services.web]\ncommand = '{actor} sleep'\nready = { delay = '10ms' }\n");
    let path = setup.dir().join("above.sock");
    let above = UnixDatagram::bind(&path).unwrap();
    let container = setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    container.until_ready("web.1");
    drop(above);
    assert_eq!(container.cli(&["restart", "web"]).0, 0);
    container.told("cannot tell the supervisor above");
    container.until("web.1", "runs again", |instance| instance.run == 2 && instance.ready);
    assert_eq!(container.stop(), 0);
}
