//! The static binary and busybox, nothing else: exit codes, last words, orphans, Procfiles, `firstmate -- CMD`.

use std::time::Duration;

use super::container::{BUSYBOX, Container, Directory, docker, unique, until};

#[test]
fn giving_up_ends_the_container_with_the_services_own_code() {
    let container = Container::busybox(
        &[],
        r#"
        [services.steady]
        command = "sleep 1000"
        [services.crash]
        command = "sh -c 'echo about to fail >&2; exit 42'"
        backoff = { initial = "50ms", factor = 2.0, max = "400ms", jitter = 0.0 }
        give_up_after = 4
        "#,
    );
    assert_eq!(container.ended(), 42);
    let said = container.said();
    let has = |text: &str| said.iter().any(|line| line == text);
    for (delay, failure) in [("50 ms", 1), ("100 ms", 2), ("200 ms", 3)] {
        assert!(has(&format!("crash.1 restarts in {delay} (failure {failure})")), "{said:#?}");
    }
    assert!(has("crash.1 given up after 4 consecutive failed runs"), "{said:#?}");
    assert!(has("steady.1 stopped"), "{said:#?}");
    let last = "ended with code 42: essential crash.1 was given up after 4 consecutive failed runs, the last: exit code 42";
    assert_eq!(said.last().unwrap(), last);
    assert_eq!(container.log().matches("crash.1 err | about to fail").count(), 4);
}

#[test]
fn a_service_that_is_not_essential_leaves_the_rest_running() {
    let container = Container::busybox(
        &[],
        r#"
        [services.steady]
        command = "sleep 1000"
        [services.crash]
        command = "sh -c 'exit 42'"
        essential = false
        backoff = { initial = "10ms", factor = 1.0, max = "10ms" }
        give_up_after = 3
        "#,
    );
    container.wait_until_said("crash.1 given up after 3 consecutive failed runs");
    assert_eq!(container.exec(&["firstmate", "status"]).0, 3);
    assert_eq!(container.exec(&["firstmate", "check", "live"]), (0, "ok\n".to_owned()));
    container.stop();
    assert_eq!(container.ended(), 0);
}

#[test]
fn an_essential_service_that_is_killed_and_not_restarted_is_137() {
    let container = Container::busybox(&[], "[services.once]\ncommand = 'sleep 1000'\nrestart = 'never'");
    let pid = until("it runs", || {
        let status = container.status()?;
        status.services[0].instances[0].pid.ok_or(format!("{status:?}"))
    });
    container.exec_ok(&["kill", "-9", &pid.to_string()]);
    assert_eq!(container.ended(), 137);
    assert_eq!(
        container.said().last().unwrap(),
        "ended with code 137: essential once.1 ended and is not to be restarted: killed by SIGKILL"
    );
}

#[test]
fn docker_stop_is_quick_and_0_also_for_who_ignores_the_signal() {
    let container = Container::busybox(
        &[],
        r#"
        [services.polite]
        command = "sleep 1000"
        depends_on = { deaf = "started" }
        [services.deaf]
        command = "sh -c 'trap : TERM; echo deaf; while :; do sleep 1; done'"
        stop_timeout = "1s"
        "#,
    );
    until("the trap is set", || if container.log().contains("deaf.1 out | deaf") { Ok(()) } else { Err(container.log()) });
    container.wait_until_said("polite.1 started");
    let took = container.stop();
    assert_eq!(container.ended(), 0);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let said = container.said();
    assert!(said.iter().any(|line| line.starts_with("sending SIGKILL to all of deaf.1, which did not end within 1 s")), "{said:#?}");
    assert_eq!(said.last().unwrap(), "ended with code 0: SIGTERM received");
}

#[test]
fn last_words_are_in_the_termination_log() {
    let files = Directory::new(&[("words", "")]);
    let words = files.mount("words", "/dev/termination-log");
    let container = Container::busybox(&[&words], "[services.once]\ncommand = \"sh -c 'exit 7'\"\nrestart = 'never'");
    assert_eq!(container.ended(), 7);
    let written = std::fs::read_to_string(files.path().join("words")).unwrap();
    assert_eq!(written.trim_end(), "ended with code 7: essential once.1 ended and is not to be restarted: exit code 7");
    assert_eq!(written.trim_end(), container.said().last().unwrap());
}

#[test]
fn a_bad_file_ends_with_2_and_a_place() {
    let container = Container::busybox(&[], "[services.web]\ncomand = 'sleep 1'\n");
    assert_eq!(container.ended(), 2);
    let complaints = container.complaints();
    assert!(complaints.contains("--> /etc/firstmate/firstmate.toml:2:1") && complaints.contains("did you mean `command`?"), "{complaints}");
}

#[test]
fn a_procfile_runs_with_its_ports_and_its_release() {
    let files = Directory::new(&[(
        "Procfile",
        "release: echo released && touch /tmp/released\nweb: test -e /tmp/released && echo web on $PORT as $PS && exec sleep 1000\nworker: echo worker on $PORT; sleep 1000\n",
    )]);
    let container = Container::run(BUSYBOX, &[&files.mount("Procfile", "/Procfile:ro")], &[]);
    container.wait_until_well();
    let log = container.log();
    for line in ["release.1 out | released", "web.1 out | web on 5100 as web.1", "worker.1 out | worker on 5200"] {
        assert!(log.contains(line), "{line:?}:\n{log}");
    }
    container.stop();
    assert_eq!(container.ended(), 0);
}

#[test]
fn one_program_alone_decides_the_code() {
    let name = unique("single");
    let run =
        |words: &[&str]| docker(&[&["run", "--rm", "--label", super::container::LABEL, "--name", &name, BUSYBOX, "--"], words].concat());
    let (code, out, err) = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code, out.as_str(), err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(run(&["true"]).0, 0);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).0, 137);
    assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).0, 143);
    let (code, _, err) = run(&["no-such-program"]);
    assert_eq!(code, 127);
    assert!(err.starts_with("error: cannot start the program: ") && err.contains("no-such-program"), "{err:?}");
    assert_eq!(run(&["/etc/passwd"]).0, 126);
}

#[test]
fn one_program_alone_gets_the_signals_and_its_orphans_are_reaped() {
    // The program itself handles TERM; docker's SIGHUP is handed on as well.
    let script = "trap 'echo hup' HUP; trap 'echo term; exit 5' TERM; for i in 1 2 3 4 5 6 7 8; do (sleep 0 &); done; echo set; while :; do sleep 1 & wait $!; done";
    let container = Container::run(BUSYBOX, &[], &["--", "sh", "-c", script]);
    let wait_for =
        |text: &str| until(text, || if container.log().lines().any(|line| line == text) { Ok(()) } else { Err(container.log()) });
    wait_for("set");
    super::container::docker_ok(&["kill", "--signal=HUP", &container.name]);
    wait_for("hup");
    until("no zombie is left", || {
        let processes = container.processes();
        if processes.iter().any(|process| process.zombie) { Err(format!("{processes:#?}")) } else { Ok(()) }
    });
    container.stop();
    assert_eq!(container.ended(), 5);
    // A program without a handler dies by the signal.
    let container = Container::run(BUSYBOX, &[], &["--", "sleep", "1000"]);
    until("it runs", || {
        let processes = container.processes();
        if processes.iter().any(|process| process.name == "sleep") { Ok(()) } else { Err(format!("{processes:#?}")) }
    });
    let took = container.stop();
    assert_eq!(container.ended(), 143);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn orphans_are_reaped_and_those_of_a_dead_run_are_ended() {
    let container = Container::busybox(
        &[],
        r#"
        [services.parent]
        # A hundred that end at once, and three that would stay, one of them in a session of its own.
        command = "sh -c 'i=0; while [ $i -lt 100 ]; do (sleep 0 &); i=$((i+1)); done; (sleep 1001 &); (setsid sleep 1002 &); (sleep 1003 &); echo set; exec sleep 1000'"
        backoff = { initial = "10ms", max = "10ms" }
        "#,
    );
    let sleepers = |container: &Container| {
        container
            .processes()
            .into_iter()
            .filter(|process| process.name == "sleep" && !process.zombie)
            .map(|process| process.outer)
            .collect::<Vec<_>>()
    };
    let settled = || {
        until("four sleep and nobody is a zombie", || {
            let processes = container.processes();
            let tidy = processes.len() == 5
                && processes.iter().all(|process| !process.zombie && matches!(process.name.as_str(), "sleep" | "firstmate"));
            if tidy { Ok(sleepers(&container)) } else { Err(format!("{processes:#?}")) }
        })
    };
    let first = settled();
    let pid = container.status().unwrap().services[0].instances[0].pid.unwrap();
    container.exec_ok(&["kill", "-9", &pid.to_string()]);
    container.wait_until_said("parent.1 killed by SIGKILL");
    let said = container.wait_until_said("left behind");
    assert!(said.contains("3 processes left behind"), "{said}");
    until("a new run has begun", || if container.log().matches("parent.1 out | set").count() == 2 { Ok(()) } else { Err(container.log()) });
    let second = settled();
    assert!(first.iter().all(|pid| !second.contains(pid)), "{first:?} {second:?}");
    container.stop();
    assert_eq!(container.ended(), 0);
}
