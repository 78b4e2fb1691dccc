//! What foreman's users expect of `firstmate start`: one process type a line, the first end is everybody's, only some of them, all in columns.

use firstmate::engine::status::StateName;

use crate::harness::{Container, Ended, Line, Place, Setup};

const FIRSTMATE: &str = env!("CARGO_BIN_EXE_firstmate");

/// Started by a shell that somebody else is the parent of, and not by the container's init.
fn by_a_person(procfile: &str, arguments: &[&str]) -> Setup {
    let shell = ["--", "sh", "-c", "\"$0\" start \"$@\"; exit $?", FIRSTMATE];
    let setup = Setup::empty().file("Procfile", 0o644, procfile);
    let socket = setup.dir().join("firstmate.sock");
    setup.env("FIRSTMATE_SOCKET", socket.to_str().unwrap()).arguments(&[&shell[..], arguments].concat())
}

/// As the container's own program, PID 1 or not.
fn by_the_container(procfile: &str, arguments: &[&str]) -> Setup {
    let setup = Setup::empty().file("Procfile", 0o644, procfile);
    let socket = setup.dir().join("firstmate.sock");
    setup.env("FIRSTMATE_SOCKET", socket.to_str().unwrap()).arguments(&[&["start"], arguments].concat())
}

/// The line number at which firstmate said something that contains this, in development.
#[track_caller]
fn system(container: &Container, text: &str) -> (usize, Line) {
    container.line_from(0, &format!("system: {text}"), |line| line.name == "system" && line.text.contains(text))
}

#[test]
fn the_first_end_is_everybodys_and_so_is_its_code() {
    for (manner, code) in [("exit 3", 3), ("exit 0", 0), ("kill-self KILL", 137), ("kill-self ABRT", 134)] {
        let procfile = format!("web: {{actor}} print up sleep\nworker: {{actor}} wait-file {{dir}}/go {manner}\n");
        let container = by_a_person(&procfile, &[]).start();
        let why = "development: the first service that ends, ends all, since this is a Procfile and no init started firstmate; --restart starts it again";
        system(&container, why);
        container.said("web.1", "up");
        container.touch("go");
        assert_eq!(container.code(), code, "{manner}");
        system(&container, "web.1 killed by SIGTERM");
        system(&container, &format!("ended with code {code}: essential worker.1 ended and is not to be restarted"));
    }
}

#[test]
fn an_operator_stops_one_in_development_and_the_rest_goes_on() {
    let container = by_a_person("web: {actor} print up sleep\nworker: {actor} print up sleep\n", &[]).start();
    container.said("web.1", "up");
    container.said("worker.1", "up");
    assert_eq!(container.cli(&["stop", "worker"]).1, "worker.1: stopped\n");
    container.until_ready("web.1");
    assert_eq!(container.cli(&["start", "worker"]), (0, "worker.1: started\n".to_owned(), String::new()));
    assert_eq!(container.cli(&["shutdown"]).0, 0);
    assert_eq!(container.code(), 0);
}

/// A laptop has no limit of memory, and nobody who develops there needs to be told; a container without one should get one.
#[test]
fn the_machines_memory_is_news_only_in_a_container() {
    const PROCFILE: &str = "web: {actor} print up sleep\n";
    const FOUND: &str = "no limit of memory is set, so the machine's ";
    let container = by_a_person(PROCFILE, &[]).start();
    container.until_ready("web.1");
    assert!(!container.lines().iter().any(|line| line.text.contains("memory")), "{:?}", container.lines());
    // Whoever asks is told, and the guard is at work.
    assert!(container.cli(&["events"]).1.contains(FOUND));
    assert!(container.status().memory.unwrap().restart_above_bytes.is_some());
    assert_eq!(container.cli(&["shutdown"]).0, 0);
    drop(container);
    // A limit that somebody has set is news anywhere.
    let container = by_a_person(PROCFILE, &[]).memory(512 << 20).start();
    system(&container, "the limit of memory is 512 MiB");
    drop(container);
    let container = by_the_container(PROCFILE, &[]).start();
    container.told(FOUND);
}

#[test]
fn restarts_are_a_matter_of_who_started_it_and_of_what_was_asked() {
    const CRASHING: &str = "web: {actor} print up exit 3\n";
    let again = "a service that ends is started again";
    let container = by_a_person(CRASHING, &["--restart"]).start();
    system(&container, &format!("development: {again}, as --restart asks"));
    system(&container, "web.1 restarts in");
    drop(container);
    for (place, why) in [(Place::Init, "since firstmate is PID 1"), (Place::Subreaper, "since an init started firstmate")] {
        let container = by_the_container(CRASHING, &[]).place(place).start();
        container.told(&format!("{again}, {why}; --no-restart makes the first end everybody's"));
        container.told("web.1 restarts in");
        drop(container);
        let container = by_the_container(CRASHING, &["--no-restart"]).place(place).start();
        container.told("the first service that ends, ends all, as --no-restart asks");
        assert_eq!(container.code(), 3);
    }
    let toml = "[services.web]\ncommand = '{actor} print up exit 3'\nessential = false\n[services.store]\ncommand = '{actor} sleep'\n";
    let container = Setup::new(toml).arguments(&["start", "-f", "{dir}/firstmate.toml", "--no-restart"]).start();
    assert_eq!(container.code(), 3);
    // The file decides, and nobody needs to be told.
    let container = Setup::new(toml).start();
    container.told("web.1 restarts in");
    assert_eq!(container.count_told("started again"), 0);
}

const STUBBORN: &str = "web: {actor} ignore-term ignore INT print up sleep\nworker: {actor} print up sleep\n";

#[test]
fn a_terminal_shows_columns_and_ctrl_c_stops_once_and_kills_twice() {
    let on_a_terminal = |arguments: &[&str]| by_the_container(STUBBORN, arguments).place(Place::Subreaper).terminal();
    let container = on_a_terminal(&["-t", "10m"]).env("NO_COLOR", "1").start();
    // `12:34:56 web.1    | up`, in columns.
    let shows = |container: &Container, tail: &str| {
        let shape = |raw: &str| raw.get(8..).is_some_and(|rest| rest.trim_end().starts_with(tail)) && raw.get(2..3) == Some(":");
        // The terminal itself shows the key that was pressed.
        container.line_from(0, tail, |line| shape(line.raw.trim_start_matches("^C")));
    };
    shows(&container, " web.1    | up");
    shows(&container, " worker.1 | up");
    shows(&container, " system   | development: the first service that ends, ends all");
    container.type_in(b"\x03");
    shows(&container, " system   | stopping everything within 10 min: SIGINT received");
    shows(&container, " system   | worker.1 killed by SIGTERM");
    assert_eq!(container.try_end(), None);
    container.type_in(b"\x03");
    assert_eq!(container.end(), Ended::Code(130));

    let container = on_a_terminal(&["--no-timestamp"]).env("TERM", "xterm").start();
    for line in ["\x1b[36mweb.1    |\x1b[0m up", "\x1b[33mworker.1 |\x1b[0m up", "\x1b[1msystem   |\x1b[0m worker.1 started"] {
        container.line_from(0, line, |found| found.raw.starts_with(line));
    }
}

#[test]
fn the_time_to_stop_in_is_a_matter_of_taste() {
    let container = by_the_container(STUBBORN, &["-t", "1"]).start();
    container.said("web.1", "up");
    container.signal("TERM");
    container.told("stopping everything within 1 s");
    assert_eq!(container.code(), 0);
    container.told("sending SIGKILL to all of web.1");
}

const FOUR: &str = "\
release: {actor} print-env PORT exit 0
web: {actor} print-env PS print-env PORT sleep
worker: {actor} print-env PS print-env PORT sleep
clock: {actor} print-env PS print-env PORT sleep
";

/// The instances that have been started, in the order of the file.
fn started(container: &Container) -> Vec<String> {
    let status = container.status();
    let instances = status.services.into_iter().flat_map(|service| service.instances);
    instances.filter(|instance| instance.state != StateName::Stopped).map(|instance| instance.name).collect()
}

#[test]
fn a_formation_says_how_many_and_the_others_keep_their_ports_for_later() {
    let container = by_the_container(FOUR, &["-m", "web=2, worker=1"]).start();
    container.told("starts only web, worker, as the command line asks; left out: release, clock");
    for (name, port) in [("web.1", "5100"), ("web.2", "5101"), ("worker.1", "5200")] {
        container.said(name, port);
        assert_eq!(container.said_by(name), [name, port]);
    }
    assert_eq!(started(&container), ["web.1", "web.2", "worker.1"]);
    // From another terminal, later.
    assert_eq!(container.cli(&["start", "clock"]), (0, "clock.1: started\n".to_owned(), String::new()));
    container.said("clock.1", "5300");
    assert_eq!(container.stop(), 0);

    let container = by_the_container(FOUR, &["-c", "all=1,web=2,clock=0"]).start();
    container.told("worker.1 ready");
    container.until_ready("web.2");
    assert_eq!(started(&container), ["release.1", "web.1", "web.2", "worker.1"]);
}

#[test]
fn names_start_only_some_where_no_firstmate_runs() {
    // Nobody is at the socket: these are the file's.
    let container = by_the_container(FOUR, &["worker"]).place(Place::Subreaper).start();
    container.told("the file is run here, with the services that were named: no firstmate answers (");
    container.told("starts only worker, as the command line asks; left out: release, web, clock");
    container.said("worker.1", "5200");
    assert_eq!(started(&container), ["worker.1"]);
    // Somebody is: they are his.
    assert_eq!(container.cli(&["start", "web"]), (0, "web.1: started\n".to_owned(), String::new()));
    container.said("web.1", "5100");
    let (code, _, stderr) = container.cli(&["start", "web", "-p", "6000"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("which cannot be given -p by the way\n  = help: leave out -p, or run a second firstmate"), "{stderr}");
    assert_eq!(container.stop(), 0);

    let container = by_the_container(FOUR, &["-x", "clock,worker"]).start();
    container.said("web.1", "5100");
    container.said("release.1", "5000");
    assert_eq!(started(&container), ["release.1", "web.1"]);
}

#[test]
fn what_a_service_depends_on_comes_along_unless_it_is_left_out() {
    const STACK: &str = "
        [services.web]
        command = '{actor} print up sleep'
        depends_on = ['store']
        [services.store]
        command = '{actor} print up sleep'
        autostart = false
        [services.other]
        command = '{actor} print up sleep'
    ";
    let on = |arguments: &[&str]| {
        let all = [&["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock"], arguments].concat();
        Setup::new(STACK).arguments(&all).start()
    };
    let container = on(&["web"]);
    container.until_ready("web.1");
    assert_eq!(started(&container), ["web.1", "store.1"]);
    drop(container);
    let container = on(&["-x", "store,other"]);
    container.told("`web` does not wait for `store`, which the command line leaves out");
    container.until_ready("web.1");
    assert_eq!(started(&container), ["web.1"]);
}

#[test]
fn names_nobody_has_start_nothing() {
    for (arguments, message) in [
        (&["wrker"][..], "error: no service is called `wrker`\n  = help: did you mean `worker`?\n"),
        (
            &["web.1"],
            "error: no service is called `web.1`\n  = help: services are chosen as a whole; how many of `web` run, -m web=NUMBER says\n",
        ),
        (&["-x", "zzzzzz"], "error: no service is called `zzzzzz`, which -x names\n  = help: there are: release, web, worker, clock\n"),
        (&["-m", "wrker=2"], "error: no service is called `wrker`, which -m names\n  = help: did you mean `worker`?\n"),
        (&["web", "-x", "web"], "error: `web` is named to be started, and -x leaves it out\n  = help: name it only once\n"),
        (&["-m", "all=0"], "error: nothing is left to be started\n  = help: leave fewer services out\n"),
    ] {
        let container = by_the_container(FOUR, arguments).start();
        assert_eq!(container.code(), 2, "{arguments:?}");
        let said: Vec<String> = container.lines().into_iter().map(|line| line.raw).collect();
        assert_eq!(said.join("\n").trim_end(), message.trim_end(), "{arguments:?}");
    }
}

#[test]
fn siblings_find_each_others_port() {
    let container = by_the_container(
        "web: {actor} print-env FIRSTMATE_WEB_PORT print-env FIRSTMATE_API_V2_PORT sleep\napi-v2: {actor} print-env FIRSTMATE_WEB_PORT sleep\n",
        &["-p", "7000", "-m", "all=2"],
    )
    .start();
    for name in ["web.1", "web.2"] {
        container.said(name, "7100");
        assert_eq!(container.said_by(name), ["7000", "7100"]);
    }
    container.said("api-v2.2", "7000");
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_root_and_the_env_files_are_those_that_are_named() {
    let procfile = "web: {actor} print-cwd print-env A print-env B sleep\n";
    let with_app = |arguments: &[&str]| {
        let setup = by_the_container(procfile, arguments);
        std::fs::create_dir(setup.dir().join("app")).unwrap();
        setup.file(".env", 0o644, "A=here\nB=here\n").file("app/.env", 0o644, "A=app\n").file("app/Procfile", 0o644, procfile).start()
    };
    let said = |container: &Container, expected: &[&str]| {
        container.said("web.1", expected[2]);
        let cwd = container.said_by("web.1");
        let dir = container.dir().to_str().unwrap();
        assert_eq!(cwd.iter().map(|text| text.replace(dir, "DIR")).collect::<Vec<_>>(), expected);
    };
    said(&with_app(&[]), &["DIR", "here", "here"]);
    said(&with_app(&["-d", "app"]), &["DIR/app", "app", "(unset)"]);
    said(&with_app(&["-f", "Procfile", "-d", "app"]), &["DIR/app", "app", "(unset)"]);
    said(&with_app(&["-f", "app/Procfile"]), &["DIR/app", "app", "(unset)"]);
    said(&with_app(&["-e", ".env,app/.env"]), &["DIR", "app", "here"]);
}

#[test]
fn a_command_runs_in_the_stacks_environment() {
    let run = |arguments: &[&str]| {
        let setup =
            Setup::empty().file("Procfile", 0o644, "web: {actor} print-env PORT\nworker: {actor} print-env A print-env PORT exit 5\n");
        let setup = setup.file(".env", 0o644, "A='from .env'\nPORT=6000\n");
        let container = setup.arguments(&[&["run"], arguments].concat()).start();
        let code = container.code();
        (code, container.lines().into_iter().map(|line| line.raw).collect::<Vec<_>>())
    };
    // The pid is firstmate's own: nothing stands between.
    let (code, said) = run(&["sh", "-c", "echo $PORT $FIRSTMATE_WORKER_PORT $A $$; exit 7"]);
    assert_eq!((code, said.as_slice()), (7, &["6000 6100 from .env 1".to_owned()][..]));
    let (code, said) = run(&["-p", "8000", "worker"]);
    assert_eq!((code, said.as_slice()), (5, &["from .env".to_owned(), "8100".to_owned()][..]));
    let (code, said) = run(&["echo hello"]);
    assert_eq!(code, 127);
    assert_eq!(said[1], "  = help: write the words apart, or let a shell do it: firstmate run sh -c '...'");
    assert_eq!(run(&["/etc"]).0, 126);
    assert_eq!(run(&["-f", "missing", "true"]).0, 2);
}
