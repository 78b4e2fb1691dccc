//! When a run counts as ready, what waits for it, what happens when it never is; and the environment the real child sees.

use firstmate::engine::status::StateName;

use crate::harness::{Place, Setup, both_ways, until};

both_ways![
    probes_decide_about_readiness,
    a_failing_live_probe_restarts,
    a_hung_exec_probe_is_cut_off_and_leaves_nothing,
    a_probe_that_sigkill_does_not_end_is_not_joined_by_another,
    what_left_the_session_of_a_probe_ends_with_it,
];

fn probes_decide_about_readiness(place: Place) {
    let container = Setup::new(
        "
        [services.http]
        command = '{actor} wait-file {dir}/serve serve 8080 {dir}/well'
        ready = { http = 'http://127.0.0.1:8080/healthz', every = '50ms' }
        [services.tcp]
        command = '{actor} wait-file {dir}/listen listen 8081'
        ready = { tcp = 'localhost:8081', every = '50ms' }
        [services.exec]
        command = '{actor} sleep'
        ready = { exec = \"sh -c 'echo not yet >&2; test -e {dir}/ready'\", every = '50ms' }
        [services.none]
        command = '{actor} sleep'
        [services.after-http]
        command = '{actor} print up sleep'
        depends_on = { http = 'ready' }
        [services.after-all]
        command = '{actor} print up sleep'
        depends_on = { tcp = 'ready', exec = 'ready', none = 'ready', prepare = 'completed', exec2 = 'started' }
        [services.prepare]
        type = 'oneshot'
        command = '{actor} wait-file {dir}/prepared'
        [services.exec2]
        command = '{actor} sleep'
        ready = { exec = '{actor} exit 1' }
        essential = false
        ",
    )
    .place(place)
    .start();
    let why = |name: &'static str, text: &'static str| {
        container.until(name, &format!("says `{text}`"), move |instance| {
            instance.state == StateName::Starting && instance.why.as_deref().is_some_and(|why| why.contains(text))
        });
    };
    why("http.1", "refused");
    why("tcp.1", "refused");
    why("exec.1", "not yet");
    container.until_state("after-http.1", StateName::Waiting);
    container.told("after-http.1 waits for http");
    container.touch("serve");
    why("http.1", "503");
    container.touch("well");
    container.until_ready("http.1");
    container.said("after-http.1", "up");
    assert!(container.told("http.1 ready after") < container.told("after-http.1 started"));
    // Without a probe: by having run for a second.
    let (_, started) = container.told_from(0, "none.1 started");
    let (_, ready) = container.told_from(0, "none.1 ready after 1 s");
    assert!(ready.at_ms - started.at_ms >= 999);
    assert_eq!(container.count_told("after-all.1 started"), 0);
    for file in ["listen", "ready", "prepared"] {
        assert_eq!(container.instance("after-all.1").state, StateName::Waiting);
        container.touch(file);
    }
    container.said("after-all.1", "up");
    let last = container.told("after-all.1 started");
    for condition in ["tcp.1 ready", "exec.1 ready", "none.1 ready", "prepare.1 completed", "exec2.1 started"] {
        assert!(container.told(condition) < last, "{condition}");
    }
    assert_eq!(container.instance("exec2.1").state, StateName::Starting);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_run_that_never_gets_ready_is_ended_and_counted() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print up sleep'
        ready = { exec = \"sh -c 'echo no database; exit 1'\", every = '20ms' }
        start_timeout = '400ms'
        give_up_after = 2
        backoff = { initial = '20ms' }
        ",
    )
    .start();
    assert_eq!(container.code(), 128 + 15);
    let (_, started) = container.told_from(0, "web.1 started");
    let (at, late) = container.told_from(0, "web.1 not ready within 400 ms (`start_timeout`), ending it: ");
    assert!(late.text.contains("no database"), "{}", late.text);
    // On a busy machine the start is told a little after it happened.
    let waited = late.at_ms - started.at_ms;
    assert!(waited >= 350, "{waited} ms");
    container.told_from(at, "stopping web.1 with SIGTERM (start timeout)");
    let (_, restarts) = container.told_from(at, "web.1 restarts in ");
    let delay: u32 = restarts.text["web.1 restarts in ".len()..].split(" ms").next().unwrap().parse().unwrap();
    assert!((18..=22).contains(&delay), "{}: 20 ms, a tenth more or less", restarts.text);
    assert_eq!(container.count_told("web.1 started"), 2);
    container.told("web.1 given up after 2 consecutive failed runs");
}

fn a_failing_live_probe_restarts(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} serve 8080 {dir}/well'
        ready = { tcp = '127.0.0.1:8080', every = '50ms' }
        live = { http = 'http://127.0.0.1:8080/', every = '50ms', failures = 3 }
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
    let (at, line) = container.told_from(0, "web.1 not live, ending it: ");
    assert!(line.text.contains("503"), "{}", line.text);
    container.touch("well");
    container.told_from(at, "stopping web.1 with SIGTERM (not live)");
    container.told_from(at, "not live)");
    container.told_from(at, "web.1 started");
    let now = container.until("web.1", "is restarted and ready", |instance| instance.run > 1 && instance.ready);
    assert!(now.restarts.live >= 1 && now.restarts.crash == 0, "{now:?}");
    assert!(!container.lives(first));
    assert_eq!(container.stop(), 0);
}

fn a_hung_exec_probe_is_cut_off_and_leaves_nothing(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print up sleep'
        ready = { exec = '{actor} rename probe ignore-term child rename probe ignore-term sleep end sleep', every = '30s', timeout = '300ms' }
        ",
    )
    .place(place)
    .start();
    let probes = || container.processes().iter().filter(|process| process.name == "probe" && process.state != 'Z').count();
    until("the probe hangs", || (probes() == 2).then_some(()));
    container.until("web.1", "is told why", |instance| {
        instance.why.as_deref().is_some_and(|why| why.contains("the probe's command did not end in time"))
    });
    // The next one comes, and is cut off; each takes its child with it, so there are never more than those of one.
    for _ in 0..3 {
        until("it is gone", || (probes() == 0).then_some(()));
        until("there is the next one", || {
            let now = probes();
            assert!(now <= 2, "{now} processes of probes");
            (now == 2).then_some(())
        });
    }
    assert_eq!(container.cli(&["stop", "web"]).0, 0);
    until("nothing is left of them", || container.processes().iter().all(|process| process.pid <= container.own_pid()).then_some(()));
    assert_eq!(container.stop(), 0);
}

/// What is traced is dead only when its tracer has seen it: until then nobody else can reap it, as one that waits for a dead disk.
struct Tracer(i32);

impl Tracer {
    fn of(pid: i32) -> Self {
        // SAFETY: numbers only.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
        assert_eq!(seized, 0, "{}", std::io::Error::last_os_error());
        Self(pid)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SAFETY: numbers, and no status is asked for. What this process traces is shown to it as its children are, and its pid is its own
        // until then.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::syscall(libc::SYS_wait4, self.0, std::ptr::null::<i32>(), libc::__WALL, 0);
        }
    }
}

fn a_probe_that_sigkill_does_not_end_is_not_joined_by_another(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print up sleep'
        ready = { exec = '{actor} rename probe write-pid {dir}/probe sleep', every = '50ms', timeout = '2s' }
        backoff = { initial = '50ms', max = '50ms' }
        ",
    )
    .place(place)
    .start();
    let pid = container.pid_in("probe");
    let tracer = Tracer::of(container.outside(pid));
    let before = "the probe before has not ended yet";
    let asked = container.until("web.1", "is told why", |instance| instance.why.as_deref().is_some_and(|why| why.contains(before)));
    let failures = asked.ready_probe.unwrap().failures;
    container.until("web.1", "is asked again and again", |instance| instance.ready_probe.unwrap().failures > failures + 5);
    // Neither in a next run.
    container.kill(container.pid_of("web.1"), "KILL");
    container.until("web.1", "is told so again", |instance| {
        instance.run == 2 && instance.why.as_deref().is_some_and(|why| why.contains(before))
    });
    let probes: Vec<i32> = container.processes().iter().filter(|process| process.name == "probe").map(|process| process.pid).collect();
    assert_eq!(probes, [pid]);
    drop(tracer);
    until("there is another one", || (container.pid_in("probe") != pid).then_some(()));
    assert_eq!(container.stop(), 0);
}

fn what_left_the_session_of_a_probe_ends_with_it(place: Place) {
    let container = Setup::new(
        "
        [services.passes]
        command = '{actor} child daemonise write-pid {dir}/daemon sleep end sleep'
        ready = { exec = '{actor} daemonise rename escapee sleep', every = '50ms' }
        [services.hangs]
        command = '{actor} sleep'
        ready = { exec = '{actor} child daemonise rename escapee sleep end sleep', every = '50ms', timeout = '200ms' }
        ",
    )
    .place(place)
    .start();
    let daemon = container.pid_in("daemon");
    container.until("passes.1", "has passed often", |instance| instance.ready_probe.is_some_and(|probe| probe.successes >= 30));
    container.until("hangs.1", "has failed often", |instance| instance.ready_probe.is_some_and(|probe| probe.failures >= 10));
    until("there is a moment with none left", || {
        let escapees = container.processes().iter().filter(|process| process.name == "escapee" && process.state != 'Z').count();
        (escapees == 0).then_some(())
    });
    // What a run's main process leaves behind is another matter.
    assert!(container.lives(daemon));
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_environment_is_what_the_files_say() {
    let container = Setup::new(
        "
        [services.web]
        instances = 2
        command = '{actor} print-env FROM_FILE print-env BOTH print-env OUTER print-env OWN print-env PORT print-env PS print-env NOTIFY_SOCKET sleep'
        env_file = 'app.env'
        env = { OWN = 'own value', BOTH = 'env wins' }
        [services.bare]
        command = '{actor} print-env OUTER print-env OWN print-env PS print-cwd print-status Umask sleep'
        inherit_env = false
        env = { OWN = 'alone', PS = 'my own' }
        working_dir = '/'
        umask = '027'
        ",
    )
    .file("app.env", 0o644, "FROM_FILE=\"from the file\"\nBOTH=file\nOUTER=file\n")
    .env("OUTER", "container")
    .env("NOTIFY_SOCKET", "/not/for/you")
    .start();
    for name in ["web.1", "web.2"] {
        until("all is said", || (container.said_by(name).len() == 7).then_some(()));
        // The container's environment wins over the file's.
        assert_eq!(container.said_by(name), ["from the file", "env wins", "container", "own value", "(unset)", name, "(unset)"]);
    }
    until("all is said", || (container.said_by("bare.1").len() == 5).then_some(()));
    assert_eq!(container.said_by("bare.1"), ["(unset)", "alone", "my own", "/", "Umask: 0027"]);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_procfile_gives_ports_and_names() {
    let container = Setup::empty()
        .file(
            "Procfile",
            0o644,
            "# comment\nrelease: {actor} print-env GREETING\nweb: {actor} print-env PORT print-env PS print-env GREETING print-cwd sleep\nworker: echo \"$PS on $PORT, $GREETING\"; exec {actor} sleep\n",
        )
        .file(".env", 0o644, "export GREETING='hello there' # not this\nPORT=7000\n")
        .arguments(&["start", "-f", "{dir}/Procfile", "--socket", "{dir}/firstmate.sock", "--http", "off"])
        .start();
    let dir = container.dir().to_str().unwrap().to_owned();
    let release = container.said("release.1", "hello there");
    let done = container.told("release.1 completed");
    let started = container.told("web.1 started");
    assert!(release < started && done < started);
    until("all is said", || (container.said_by("web.1").len() == 4).then_some(()));
    assert_eq!(container.said_by("web.1"), ["7100", "web.1", "hello there", dir.as_str()]);
    container.said("worker.1", "worker.1 on 7200, hello there");
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_bad_file_starts_nothing() {
    let container = Setup::new("[services.web]\ncommand = '{actor} sleep'\nrestrat = 'always'\nstop_signal = 'TREM'\n").start();
    assert_eq!(container.code(), 2);
    let text = container.lines().into_iter().map(|line| line.raw).collect::<Vec<_>>().join("\n");
    for part in ["unknown key `restrat`", "did you mean `restart`?", "firstmate.toml:3:1", "unknown signal `TREM`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(container.count_told("started"), 0);
}
