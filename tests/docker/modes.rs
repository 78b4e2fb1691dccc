//! The ways a container can be restricted, and company in it that is not firstmate's.

use std::time::Duration;

use super::client::Got;
use super::container::{BUSYBOX, Container, Directory, SCRATCH, STACK, until};

#[test]
fn under_docker_init_it_is_a_subreaper() {
    let container = Container::run(STACK, &["--init"], &[]);
    container.wait_until_well();
    let status = container.status().unwrap();
    assert_ne!(status.pid, 1);
    let processes = container.processes();
    let own = processes.iter().find(|process| process.inner == status.pid).unwrap();
    assert_eq!(own.name, "firstmate");
    let pid_of = |name: &str| {
        let status = until("the status is told", || container.status());
        status.services.into_iter().flat_map(|service| service.instances).find(|one| one.name == name).unwrap().pid
    };
    let master = pid_of("nginx.1").unwrap();
    let workers = |parent: u32| {
        let processes = container.processes();
        let outer = processes.iter().find(|process| process.inner == parent).map_or(-1, |process| process.outer);
        processes.into_iter().filter(|process| process.parent == outer).map(|process| process.outer).collect::<Vec<_>>()
    };
    let old = workers(master);
    assert_eq!(old.len(), 2);
    container.exec_ok(&["sh", "-c", &format!("kill -9 {master}")]);
    // The orphaned workers came to firstmate, not to docker-init, and are gone before a new master asks for the port.
    until("nginx answers again", || match (pid_of("nginx.1"), container.get(8080, "/nginx-alive")) {
        (Some(pid), Got::Answer(200, _)) if pid != master => Ok(()),
        other => Err(format!("{other:?}\n{}", container.log())),
    });
    let now = container.processes();
    assert!(!now.iter().any(|process| old.contains(&process.outer) || process.zombie), "{now:#?}");
    assert!(!container.log().contains("ddress already in use"), "{}", container.log());
    container.stop();
    assert_eq!(container.ended(), 0);
}

#[test]
fn the_stack_runs_on_a_read_only_root() {
    let options = ["--read-only", "--tmpfs=/run", "--tmpfs=/tmp", "--tmpfs=/srv/stack/run:mode=1777"];
    let container = Container::run(STACK, &options, &[]);
    container.wait_until_well();
    assert!(matches!(container.get(8080, "/?plain=1"), Got::Answer(200, _)), "{}", container.log());
    assert_eq!(container.exec(&["firstmate", "check", "ready"]), (0, "ok\n".to_owned()));
    container.stop();
    assert_eq!(container.ended(), 0);
    let log = container.log();
    assert!(!log.contains("firstmate warn") && !log.contains("firstmate error"), "{log}");
}

#[test]
fn the_stack_needs_few_capabilities() {
    // To become somebody else, and to signal them.
    let caps = ["--cap-drop=ALL", "--cap-add=SETUID", "--cap-add=SETGID", "--cap-add=KILL"];
    let container = Container::run(STACK, &[&caps[..], &["--security-opt=no-new-privileges"]].concat(), &[]);
    container.wait_until_well();
    let pid =
        container.status().unwrap().services.iter().flat_map(|service| &service.instances).find(|one| one.name == "nginx.1").unwrap().pid;
    container.exec_ok(&["kill", "-9", &pid.unwrap().to_string()]);
    container.wait_until_said("nginx.1 restarts");
    container.wait_until_well();
    container.wait_until_tidy();
    assert!(matches!(container.get(8080, "/?plain=1"), Got::Answer(200, _)), "{}", container.log());
    container.stop();
    assert_eq!(container.ended(), 0);
    let log = container.log();
    assert!(!log.contains("ddress already in use"), "{log}");
    // Without CAP_CHOWN the pipes are not the services' own, and may be opened all the same.
    assert!(log.contains("nginx.1 out | ") && log.contains("php-fpm.1 err | "), "{log}");
}

#[test]
fn without_any_privilege_on_a_read_only_root() {
    let options = ["--cap-drop=ALL", "--user=4321:4321", "--read-only", "--security-opt=no-new-privileges"];
    let container = Container::busybox(
        &options,
        r#"
        [services.a]
        command = "sh -c 'echo who: $(id -u):$(id -g); exec sleep 1000'"
        [services.b]
        # Leaves somebody behind, in a session of its own.
        command = "sh -c 'setsid sleep 1001 & exec sleep 1000'"
        depends_on = { a = "ready" }
        "#,
    );
    container.wait_until_well();
    assert!(container.log().contains("a.1 out | who: 4321:4321"), "{}", container.log());
    assert_eq!(container.exec(&["firstmate", "check", "ready"]), (0, "ok\n".to_owned()), "{}", container.log());
    assert_eq!(container.exec(&["firstmate", "restart", "b"]), (0, "b.1: restarted\n".to_owned()), "{}", container.log());
    container.wait_until_tidy();
    let took = container.stop();
    assert_eq!(container.ended(), 0);
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_service_that_wants_another_user_says_what_is_missing() {
    let container = Container::busybox(&["--user=4321:4321"], "[services.a]\ncommand = 'sleep 1000'\nuser = 'www-data'\ngive_up_after = 1");
    assert_eq!(container.ended(), 126);
    let said = container.said();
    let named = said.iter().find(|line| line.starts_with("cannot start a.1: ")).unwrap_or_else(|| panic!("{said:#?}"));
    assert!(named.contains("EPERM") && named.contains("only root may become somebody else"), "{named}");
}

#[test]
fn a_full_pid_cgroup_is_named_and_survived() {
    let files = Directory::new(&[("fill", "")]);
    let container = Container::busybox(
        &["--pids-limit=24", &files.mount("", "/sign")],
        r#"
        [services.hog]
        # As long as the sign is there: takes every process there is, and keeps them. The shell that could not fork any more ends, which
        # leaves one place, or two when a probe ends as well.
        command = "sh -c 'if [ -e /sign/fill ]; then (while :; do sleep 1000 & done) 2>/dev/null; fi; echo >/tmp/full; exec sleep 1000'"
        ready = { exec = "test -e /tmp/full", every = "100ms" }
        [services.late]
        command = "sleep 1000"
        instances = 5
        depends_on = { hog = "ready" }
        backoff = { initial = "50ms", max = "100ms" }
        give_up_after = "never"
        "#,
    );
    let named = container.wait_until_said("cannot start late.");
    assert!(
        named.contains(": creating its process: EAGAIN (")
            && named.ends_with("raise the container's limit of processes (`--pids-limit`, `ulimit -u`)"),
        "{named}"
    );
    // docker exec would have no room; HTTP needs none.
    let status = container.status().unwrap();
    let hog = status.services[0].instances[0].pid.unwrap();
    assert!(status.services[1].instances.iter().any(|one| one.pid.is_none() && one.restarts.total > 0), "{status:#?}");
    std::fs::remove_file(files.path().join("fill")).unwrap();
    let outer = container.processes().into_iter().find(|process| process.inner == hog).unwrap().outer;
    // SAFETY: numbers only. The process is of this test's own container, and firstmate reaps it only once it has been killed.
    assert_eq!(unsafe { libc::kill(outer, libc::SIGKILL) }, 0);
    // With its main process goes all that the hog kept.
    container.wait_until_well();
    container.wait_until_tidy();
    assert_eq!(container.exec(&["firstmate", "status"]).0, 0);
    container.stop();
    assert_eq!(container.ended(), 0);
}

/// Nothing but firstmate and one program: no shell, no /etc, no /tmp, nobody's name, no place to write, no capability.
#[test]
fn from_scratch_it_needs_nothing_of_the_image() {
    let files = Directory::new(&[(
        "firstmate.toml",
        r#"
        [services.web]
        command = ["/busybox", "httpd", "-f", "-p", "8000", "-h", "/"]
        ready = { http = "http://127.0.0.1:8000/firstmate.toml", every = "200ms" }
        "#,
    )]);
    let options = [
        "--read-only",
        "--ipc=none",
        "--user=65532:65532",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--health-interval=500ms",
        &files.mount("firstmate.toml", "/firstmate.toml:ro"),
    ];
    let container = Container::run(SCRATCH, &options, &[]);
    container.wait_until_well();
    assert_eq!(container.exec(&["/firstmate", "check", "ready"]), (0, "ok\n".to_owned()), "{}", container.log());
    until("docker finds it healthy", || match container.inspect("{{.State.Health.Status}}") {
        health if health == "healthy" => Ok(()),
        health => Err(format!("{health}: {}", container.inspect("{{json .State.Health.Log}}"))),
    });
    assert_eq!(container.exec(&["/firstmate", "status"]).0, 0, "{}", container.log());
    let pid = container.status().unwrap().services[0].instances[0].pid.unwrap();
    let outer = container.processes().into_iter().find(|process| process.inner == pid).unwrap().outer;
    // SAFETY: numbers only. The process is of this test's own container, and firstmate reaps it only once it has been killed.
    assert_eq!(unsafe { libc::kill(outer, libc::SIGKILL) }, 0);
    container.wait_until_said("web.1 killed by SIGKILL");
    container.wait_until_well();
    container.wait_until_tidy();
    container.stop();
    assert_eq!(container.ended(), 0);
}

/// `shareProcessNamespace` of Kubernetes, `pidMode: task` of ECS: PID 1 is somebody else, and so are others.
#[test]
fn in_a_shared_pid_namespace_foreign_processes_are_left_alone() {
    let pause = Container::run(BUSYBOX, &["--entrypoint=sh"], &["-c", "sleep 3000 & setsid sleep 3001 & exec sleep 3002"]);
    let foreign = until("three of the other container sleep", || {
        let strangers = strangers(&pause);
        if strangers.len() == 3 { Ok(strangers) } else { Err(format!("{:#?}", pause.processes())) }
    });
    let container = Container::busybox(
        &[&format!("--pid=container:{}", pause.name)],
        r#"
        [firstmate]
        # Where it is not PID 1 it does not listen unless it is told to.
        http = "0.0.0.0:9180"
        [services.a]
        # Leaves one behind at each death, and one in a session of its own.
        command = "sh -c 'sleep 1000 & setsid sleep 1001 & exec sleep 1002'"
        signal_scope = "group"
        backoff = { initial = "10ms", max = "10ms" }
        "#,
    );
    let status = container.wait_until_well();
    assert_ne!(status.pid, 1);
    let own = |what: &str| {
        until(what, || {
            let all = container.processes();
            let own: Vec<_> =
                all.iter().filter(|one| one.run.is_some() && one.name == "sleep" && !one.zombie).map(|one| one.outer).collect();
            if own.len() == 3 { Ok(own) } else { Err(format!("{all:#?}\n{}", container.log())) }
        })
    };
    let first = own("three of ours sleep");
    assert_eq!(container.exec(&["firstmate", "restart", "a"]).0, 0, "{}", container.log());
    let second = own("three others of ours sleep");
    assert!(first.iter().all(|pid| !second.contains(pid)), "{first:?} {second:?}");
    let main = container.status().unwrap().services[0].instances[0].pid.unwrap();
    container.exec_ok(&["kill", "-9", &main.to_string()]);
    // One of ours that is just being executed has no environment yet, and looks like a stranger for that moment.
    let all_there = || {
        let now = strangers(&pause);
        assert!(foreign.iter().all(|one| now.contains(one)), "{foreign:?} {now:?}");
    };
    container.wait_until_said("2 processes left behind");
    container.wait_until_well();
    all_there();
    container.stop();
    assert_eq!(container.ended(), 0);
    // Nothing of ours is left with whoever is PID 1, and all of theirs is.
    all_there();
    until("nothing of ours is left", || {
        let all = pause.processes();
        if all.iter().any(|process| process.run.is_some()) { Err(format!("{all:#?}")) } else { Ok(()) }
    });
}

/// One that firstmate did not start: its pid on the host, and when it began.
fn strangers(container: &Container) -> Vec<(i32, u64)> {
    let mut all: Vec<_> = container
        .processes()
        .into_iter()
        .filter(|process| process.name == "sleep" && process.run.is_none())
        .map(|process| (process.outer, process.started))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn who_came_by_docker_exec_is_never_signalled() {
    let container = Container::busybox(
        &[],
        r#"
        [services.a]
        command = "sh -c 'sleep 1000 & exec sleep 1000'"
        backoff = { initial = "10ms", max = "10ms" }
        [services.b]
        command = "sleep 1000"
        signal_scope = "group"
        depends_on = { a = "ready" }
        "#,
    );
    container.wait_until_well();
    // One attached to its docker exec, one left behind, one left behind in a session of its own, one whose shell lives.
    container.exec_with(&["--detach"], &["sleep", "2000"]);
    container.exec_ok(&["sh", "-c", "sleep 2001 >/dev/null 2>&1 &"]);
    container.exec_ok(&["sh", "-c", "setsid sleep 2002 >/dev/null 2>&1 &"]);
    container.exec_with(&["--detach"], &["sh", "-c", "sleep 2003; true"]);
    let before = until("four strangers sleep", || {
        let strangers = strangers(&container);
        if strangers.len() == 4 { Ok(strangers) } else { Err(format!("{:#?}", container.processes())) }
    });
    assert_eq!(container.exec(&["firstmate", "restart", "all"]).0, 0, "{}", container.log());
    assert_eq!(strangers(&container), before);
    let pid = container.status().unwrap().services[0].instances[0].pid.unwrap();
    container.exec_ok(&["kill", "-9", &pid.to_string()]);
    container.wait_until_said("1 process left behind");
    container.wait_until_well();
    assert_eq!(strangers(&container), before);
    assert_eq!(container.exec(&["firstmate", "stop", "all"]).0, 0, "{}", container.log());
    assert_eq!(strangers(&container), before);
    // They do not hold up the end either.
    let took = container.stop();
    assert_eq!(container.ended(), 0);
    assert!(took < Duration::from_secs(5), "{took:?}\n{}", container.log());
}

#[test]
fn without_a_place_for_its_socket_it_runs_on() {
    let files = Directory::new(&[(
        "firstmate.toml",
        "[services.a]\ncommand = \"sh -c 'echo to stdout >/dev/stdout; echo to stderr >/dev/stderr; exec sleep 1000'\"\nuser = 'www-data'\n",
    )]);
    let container = Container::run(BUSYBOX, &["--read-only", &files.mount("firstmate.toml", "/etc/firstmate/firstmate.toml:ro")], &[]);
    container.wait_until_well();
    // A service that is somebody else may open its own output by name.
    let log = container.log();
    assert!(log.contains("a.1 out | to stdout") && log.contains("a.1 err | to stderr"), "{log}");
    assert_eq!(container.exec(&["firstmate", "check", "ready"]), (0, "ok\n".to_owned()), "{log}");
    container.stop();
    assert_eq!(container.ended(), 0);
}
