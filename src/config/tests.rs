//! The room as a whole: exact diagnostics, whole files to `Spec`, joined files in real directories, other people's files, random bytes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::Signal;
use crate::engine::capability::Rights;
use crate::engine::spec::*;

/// A directory of its own for one test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("firstmate-config-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let dir = Self(path.canonicalize().unwrap());
        for (name, text) in files {
            let path = dir.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn load(&self, name: &str, inputs: &Inputs) -> Result<Loaded, String> {
        load(&self.0.join(name), inputs).map_err(|problems| self.shown(&problems))
    }

    /// Rendered, with the directory's own name left out.
    fn shown(&self, problems: &[Diagnostic]) -> String {
        let text = problems.iter().map(|problem| problem.render(false)).collect::<Vec<_>>().join("\n");
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn inputs(env: &[(&str, &str)]) -> Inputs {
    Inputs { env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(), ..Inputs::default() }
}

fn service<'s>(spec: &'s Spec, name: &str) -> &'s Service {
    spec.services.iter().find(|service| service.name == name).unwrap()
}

fn shell(text: &str) -> Command {
    Command::Shell(text.to_owned())
}

fn argv(words: &[&str]) -> Command {
    Command::Argv(words.iter().map(|word| (*word).to_owned()).collect())
}

fn values(env: &BTreeMap<OsString, OsString>) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap())).collect()
}

/// Every mistake of `diagnostics.txt` is told as that file has it. With FIRSTMATE_BLESS set the file is written instead; read its diff.
#[test]
fn mistakes_are_told_exactly_so() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/diagnostics.txt");
    let written = std::fs::read_to_string(&fixture).unwrap();
    let mut actual = String::new();
    let mut mistakes = 0;
    for case in written.split_terminator("\n=====\n") {
        let (text, _) = case.split_once("\n-----\n").unwrap();
        let name = if text.contains("[services") || text.starts_with('[') || text.contains(" = ") { "firstmate.toml" } else { "Procfile" };
        let problems = if name == "Procfile" {
            procfile::parse(Path::new(name), text.as_bytes()).1
        } else {
            check_toml(Path::new(name), text.as_bytes()).err().unwrap_or_default()
        };
        mistakes += problems.len();
        assert!(!problems.is_empty(), "no complaint about:\n{text}");
        let shown = problems.iter().map(|problem| problem.render(false)).collect::<Vec<_>>().join("\n");
        actual.push_str(&format!("{text}\n-----\n{shown}\n=====\n"));
    }
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(&fixture, &actual).unwrap();
        return;
    }
    for (expected, actual) in written.split("\n=====\n").zip(actual.split("\n=====\n")) {
        assert_eq!(actual, expected);
    }
    assert!(mistakes >= 60, "{mistakes}");
}

#[test]
fn every_key_reaches_the_spec() {
    let text = r#"
        [firstmate]
        http = "127.0.0.1:9180"
        http_details = true
        log_buffer = "256KiB"
        socket = "@firstmate"
        stop_timeout = "20s"
        drain = 3

        [memory]
        limit = "1GiB"
        restart_above = "70.5%"
        confirm = 0
        hard_above = "900M"
        emergency_above = "100%"
        cgroups = true

        [services.web]
        command = "gunicorn -b :$PORT app"
        type = "service"
        instances = 2
        groups = ["front", "app"]
        reload_signal = 1
        depends_on = { redis = "started", migrate = "completed" }
        autostart = false
        essential = false
        restart = "on-failure"
        success_exit_codes = [0, 12]
        backoff = { initial = "100ms", factor = 3, max = "1m", jitter = 0.5, reset_after = "10s" }
        give_up_after = "never"
        start_timeout = "1h30m"
        stop_signal = ["QUIT", "SIGINT", 15]
        stop_timeout = 2.5
        signal_scope = "group"
        ready = { http = "http://[::1]:8080/healthz?x=1", every = "1s", timeout = "500ms", failures = 5, successes = 2, initial_delay = "3s" }
        live = { exec = "curl -f http://localhost/", timeout = 1 }
        memory = { restart_above = "200MiB", action = "signal:USR2", victim = "last" }
        oom_score_adj = 500
        user = "www-data"
        group = 33
        working_dir = "app"
        env = { RAILS_ENV = "production", WORKERS = 4, DEBUG = false }
        inherit_env = false
        umask = "027"
        nice = -5
        limits = { nofile = { soft = 1024, hard = "unlimited" }, core = "unlimited", memlock = "64KiB" }
        tty = true
        watch = { paths = ["src", "conf/*.ini"], ignore = ["*.css", "!target", "src/gen"], debounce = "1s" }

        [services.redis]
        command = ["redis-server", "--save", ""]
        watch = "redis.conf"
        ready = { tcp = "localhost:6379" }
        umask = 0o077
        give_up_after = 3
        stop_signal = "KILL"
        signal_scope = "main"
        reload_signal = "HUP"
        log_buffer = "1MiB"
        memory = { restart_above = "30%", action = "reload", victim = "never" }

        [services.migrate]
        command = "cd /srv && ./migrate"
        type = "oneshot"
    "#;
    let dir = Dir::new(&[("firstmate.toml", text)]);
    let loaded = dir.load("firstmate.toml", &inputs(&[])).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.format, Format::Toml);
    assert_eq!(
        loaded.settings,
        Settings {
            http: Http::On("127.0.0.1:9180".parse().unwrap()),
            http_details: true,
            log_buffers: LogBuffers {
                each: LogBuffer::new(256 << 10).unwrap(),
                own: [("redis".to_owned(), LogBuffer::new(1 << 20).unwrap())].into(),
            },
            socket: Some("@firstmate".into()),
            ..Settings::default()
        }
    );
    let spec = loaded.spec;
    assert_eq!((spec.stop_timeout, spec.drain), (Duration::from_secs(20), Duration::from_secs(3)));
    let seconds = Duration::from_secs;
    assert_eq!(
        service(&spec, "web"),
        &Service {
            name: "web".to_owned(),
            kind: Kind::Service,
            instances: 2,
            groups: vec!["front".to_owned(), "app".to_owned()],
            depends_on: vec![
                Dependency { service: ServiceId(1), condition: Condition::Started },
                Dependency { service: ServiceId(2), condition: Condition::Completed },
            ],
            autostart: false,
            essential: false,
            restart: Restart::OnFailure,
            success_exit_codes: vec![0, 12],
            backoff: Backoff { initial: Duration::from_millis(100), factor: 3.0, max: seconds(60), jitter: 0.5, reset_after: seconds(10) },
            give_up_after: None,
            start_timeout: seconds(5_400),
            stop: Stop {
                signals: vec![Signal::QUIT, Signal::INT, Signal::TERM],
                timeout: Duration::from_millis(2_500),
                scope: Scope::Group
            },
            reload_signal: Some(Signal::HUP),
            ready: Readiness::Probe(Probe {
                check: Check::Http(HttpCheck {
                    at: Address::Tcp { host: "::1".to_owned(), port: 8080 },
                    path: "/healthz?x=1".to_owned(),
                    method: Method::Get,
                    status: Statuses(vec![(200, 399)]),
                    contains: String::new(),
                    headers: Vec::new(),
                }),
                every: seconds(1),
                timeout: Duration::from_millis(500),
                failures: 5,
                successes: 2,
                initial_delay: seconds(3),
            }),
            live: Some(Probe {
                check: Check::Exec(argv(&["curl", "-f", "http://localhost/"])),
                every: seconds(10),
                timeout: seconds(1),
                failures: 3,
                successes: 1,
                initial_delay: Duration::ZERO,
            }),
            memory: ServiceMemory {
                restart_above: Some(Amount::Bytes(200 << 20)),
                action: MemoryAction::Signal(Signal::parse("USR2").unwrap()),
                victim: Victim::Last,
            },
            watch: Watch {
                paths: vec![
                    WatchPath { root: dir.0.join("src"), only: None },
                    WatchPath { root: dir.0.join("conf"), only: Some(format!("{}/conf/*.ini", dir.0.display())) },
                ],
                ignore: vec!["*.css".to_owned(), "!target".to_owned(), format!("{}/src/gen", dir.0.display())],
                debounce: seconds(1),
            },
            launch: Launch {
                command: shell("exec gunicorn -b :$PORT app"),
                working_dir: dir.0.join("app"),
                inherit_env: false,
                env_defaults: BTreeMap::new(),
                env: [("RAILS_ENV", "production"), ("WORKERS", "4"), ("DEBUG", "false")].map(|(k, v)| (k.into(), v.into())).into(),
                port: None,
                user: Some("www-data".to_owned()),
                group: Some("33".to_owned()),
                umask: Some(0o027),
                nice: Some(-5),
                oom_score_adj: Some(500),
                rights: Rights::default(),
                tty: true,
                limits: vec![
                    Limit { resource: Resource::Nofile, soft: Some(1024), hard: None },
                    Limit { resource: Resource::Core, soft: None, hard: None },
                    Limit { resource: Resource::Memlock, soft: Some(65_536), hard: Some(65_536) },
                ],
            },
        }
    );
    assert_eq!(
        spec.memory,
        Memory {
            limit: Some(1 << 30),
            restart_above: Some(Amount::Percent(70.5)),
            confirm: Duration::ZERO,
            hard_above: Amount::Bytes(900 << 20),
            emergency_above: Amount::Percent(100.0),
            cgroups: true,
        }
    );
    let redis = service(&spec, "redis");
    let (restart_above, action) = (Some(Amount::Percent(30.0)), MemoryAction::Signal(Signal::HUP));
    assert_eq!(redis.memory, ServiceMemory { restart_above, action, victim: Victim::Never });
    assert_eq!(redis.launch.command, argv(&["redis-server", "--save", ""]));
    let conf = WatchPath { root: dir.0.join("redis.conf"), only: None };
    assert_eq!(redis.watch, Watch { paths: vec![conf], ..Watch::default() });
    assert_eq!((redis.launch.umask, redis.give_up_after), (Some(0o077), Some(3)));
    assert_eq!(redis.stop.signals, [Signal::KILL]);
    let migrate = service(&spec, "migrate");
    assert_eq!((migrate.kind, migrate.restart, migrate.stop.scope), (Kind::Oneshot, Restart::Never, Scope::Group));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let spec = check_toml(Path::new("/srv/firstmate.toml"), b"[services.a]\ncommand = 'run it'").unwrap();
    assert_eq!((spec.stop_timeout, spec.drain), (Duration::from_secs(8), Duration::ZERO));
    assert_eq!(
        spec.memory,
        Memory {
            limit: None,
            restart_above: Some(Amount::Percent(75.0)),
            confirm: Duration::from_secs(10),
            hard_above: Amount::Percent(92.0),
            emergency_above: Amount::Percent(95.0),
            cgroups: false,
        }
    );
    assert_eq!(
        spec.services,
        [Service {
            name: "a".to_owned(),
            kind: Kind::Service,
            instances: 1,
            groups: vec![],
            depends_on: vec![],
            autostart: true,
            essential: true,
            restart: Restart::Always,
            success_exit_codes: vec![0],
            backoff: Backoff::default(),
            give_up_after: Some(10),
            start_timeout: Duration::from_secs(60),
            stop: Stop { signals: vec![Signal::TERM], timeout: Duration::from_secs(10), scope: Scope::Main },
            reload_signal: None,
            ready: Readiness::default(),
            live: None,
            memory: ServiceMemory::default(),
            watch: Watch::default(),
            launch: Launch {
                command: argv(&["run", "it"]),
                working_dir: "/srv".into(),
                inherit_env: true,
                env_defaults: BTreeMap::new(),
                env: BTreeMap::new(),
                port: None,
                user: None,
                group: None,
                umask: None,
                nice: None,
                oom_score_adj: None,
                rights: Rights::default(),
                tty: false,
                limits: vec![],
            },
        }]
    );
}

#[test]
fn who_is_watched_is_not_given_up_unless_its_file_says_so() {
    let give_up = |text: &str| {
        let text = format!("[services.a]\ncommand = 'x'\nwatch = 'src'\n{text}");
        check_toml(Path::new("/srv/firstmate.toml"), text.as_bytes()).unwrap().services[0].give_up_after
    };
    assert_eq!((give_up(""), give_up("give_up_after = 3")), (None, Some(3)));
}

#[test]
fn who_knows_better_says_how_long_the_platform_waits() {
    let stop = |text: &str, env: &[(&str, &str)]| {
        let dir = Dir::new(&[("a.toml", &format!("[firstmate]\n{text}\n[services.a]\ncommand = 'x'"))]);
        dir.load("a.toml", &inputs(env)).map(|loaded| loaded.spec.stop_timeout)
    };
    let kubernetes = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let seconds = |seconds| Ok(Duration::from_secs(seconds));
    assert_eq!(stop("platform_patience = '2m'", &[kubernetes]), seconds(115));
    assert_eq!(stop("platform_patience = '2m'", &[kubernetes, (PLATFORM_PATIENCE, "60s")]), seconds(55), "the environment wins");
    assert_eq!(stop("platform_patience = '10s'", &[]), seconds(8));
    assert_eq!(stop("", &[(PLATFORM_PATIENCE, "")]), seconds(8));
    assert_eq!(stop("", &[("container", "podman")]), seconds(8));
    assert!(
        stop("", &[(PLATFORM_PATIENCE, "soon")])
            .unwrap_err()
            .contains("the environment variable FIRSTMATE_PLATFORM_PATIENCE cannot be used")
    );
    assert!(stop("platform_patience = '10ms'", &[]).is_err());
}

#[test]
fn what_does_not_fit_below_the_platforms_patience_is_a_warning() {
    let warnings = |text: &str, env: &[(&str, &str)], in_docker| {
        let dir = Dir::new(&[("a.toml", text)]);
        let loaded = dir.load("a.toml", &Inputs { in_docker, ..inputs(env) }).unwrap();
        let told = |warning: &Diagnostic| format!("{} ({})", warning.message, warning.help.as_deref().unwrap_or("-"));
        loaded.warnings.iter().map(told).collect::<Vec<_>>()
    };
    let kubernetes = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    let whole = "[firstmate]\nstop_timeout = '30s'\n[services.a]\ncommand = 'x'";
    assert_eq!(
        warnings(whole, &kubernetes, true),
        [
            "stop_timeout is 30s, but Kubernetes waits 30s by default (KUBERNETES_SERVICE_HOST is set): then it kills firstmate and whatever is \
          still stopping (lower stop_timeout below 30s, or raise the pod's terminationGracePeriodSeconds above 30s and say so with \
          platform_patience or $FIRSTMATE_PLATFORM_PATIENCE)"
        ]
    );
    assert_eq!(
        warnings(whole, &[("DYNO", "web.1")], false),
        ["stop_timeout is 30s, but Heroku waits 30s by default (DYNO is set): then it kills firstmate and whatever is still stopping \
          (lower stop_timeout below 30s, Heroku cannot be made to wait longer)"]
    );
    let docker = warnings(whole, &[], true);
    assert!(docker[0].contains("Docker waits 10s by default (/.dockerenv is there)") && docker[0].contains("--stop-timeout"), "{docker:?}");
    assert_eq!(warnings(whole, &[], false), Vec::<String>::new(), "nobody knows better");
    assert_eq!(warnings(whole, &[kubernetes[0], (PLATFORM_PATIENCE, "40s")], true), Vec::<String>::new());
    assert_eq!(warnings(&whole.replace("30s", "29s"), &kubernetes, true), Vec::<String>::new());

    // A service's own, where the whole is auto: 25 s, of which half a second is for SIGKILL. As long as the whole is no fault.
    let own = "[services.a]\ncommand = 'x'\nstop_timeout = '26s'\n[services.b]\ncommand = 'x'\nstop_timeout = '25s'";
    assert_eq!(
        warnings(own, &kubernetes, false),
        [
            "`a` may take 26s to stop, but in a shutdown of 25s it gets SIGKILL after 24s500ms at the latest; Kubernetes waits 30s by default \
          (KUBERNETES_SERVICE_HOST is set) (lower it, or raise stop_timeout in [firstmate] to 27s)"
        ]
    );
    let drained = format!("[firstmate]\ndrain = '10s'\n{own}");
    let both = warnings(&drained, &kubernetes, false);
    assert!(both.len() == 2 && both.iter().all(|one| one.contains(", after a drain of 10s it gets SIGKILL after 14s500ms")), "{both:?}");
    assert!(both[0].contains("or raise the pod's terminationGracePeriodSeconds above 37s"), "{both:?}");
    assert!(warnings(own, &[], false).is_empty());
    // A service that says nothing is not complained about: its 10 s are the default everywhere.
    assert!(warnings("[services.a]\ncommand = 'x'", &[], true).is_empty());
}

#[test]
fn a_list_of_dependencies_means_ready_or_completed() {
    let text = b"[services.a]\ncommand='x'\ndepends_on=['b','c','b']\n[services.b]\ncommand='x'\n[services.c]\ncommand='x'\ntype='oneshot'";
    let spec = check_toml(Path::new("f.toml"), text).unwrap();
    assert_eq!(
        service(&spec, "a").depends_on,
        [
            Dependency { service: ServiceId(1), condition: Condition::Ready },
            Dependency { service: ServiceId(2), condition: Condition::Completed }
        ]
    );
}

#[test]
fn the_whole_stop_stays_below_the_patience_of_the_platform() {
    for (env, seconds) in [
        (&[][..], 8),
        (&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], 25),
        (&[("ECS_CONTAINER_METADATA_URI_V4", "http://x")], 25),
        (&[("ECS_CONTAINER_METADATA_URI", "http://x")], 25),
        (&[("DYNO", "web.1")], 25),
        (&[("FLY_APP_NAME", "x")], 4),
        (&[("FLY_APP_NAME", "x"), ("KUBERNETES_SERVICE_HOST", "x")], 4),
        (&[("K_SERVICE", "web")], 8),
        // Knative, whose pods Kubernetes stops.
        (&[("K_SERVICE", "web"), ("KUBERNETES_SERVICE_HOST", "x")], 25),
        (&[("RAILWAY_ENVIRONMENT_ID", "x"), ("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "20")], 16),
        (&[("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "30"), (PLATFORM_PATIENCE, "10s")], 8),
    ] {
        let dir = Dir::new(&[("a.toml", "[firstmate]\nstop_timeout = 'auto'\n[services.a]\ncommand = 'x'")]);
        assert_eq!(dir.load("a.toml", &inputs(env)).unwrap().spec.stop_timeout, Duration::from_secs(seconds), "{env:?}");
    }
}

#[test]
fn railway_tells_its_patience_itself() {
    let text = "[firstmate]\nstop_timeout = '20s'\n[services.a]\ncommand = 'x'";
    let dir = Dir::new(&[("a.toml", text), ("auto.toml", &text.replace("20s", "auto"))]);
    let (here, draining) = (("RAILWAY_ENVIRONMENT_ID", "x"), "RAILWAY_DEPLOYMENT_DRAINING_SECONDS");
    let said = |env: &[(&str, &str)]| {
        let warnings = dir.load("a.toml", &inputs(env)).unwrap().warnings;
        warnings.into_iter().map(|warning| format!("{} ({})", warning.message, warning.help.unwrap_or_default())).collect::<Vec<_>>()
    };
    assert_eq!(
        said(&[here]),
        [
            "stop_timeout is 20s, but Railway waits 3s by default (RAILWAY_ENVIRONMENT_ID is set): then it kills firstmate and whatever is still \
          stopping (lower stop_timeout below 3s, or raise RAILWAY_DEPLOYMENT_DRAINING_SECONDS above 20s)"
        ]
    );
    let told = said(&[here, (draining, "15")]);
    assert!(told.len() == 1 && told[0].contains("but Railway waits 15s (RAILWAY_DEPLOYMENT_DRAINING_SECONDS says so):"), "{told:?}");
    assert_eq!(said(&[here, (draining, "21")]), Vec::<String>::new());
    // What Railway would not take counts for nothing.
    for nonsense in ["", "0", "-1", "soon", "10s"] {
        let loaded = dir.load("auto.toml", &inputs(&[here, (draining, nonsense)])).unwrap();
        assert_eq!(loaded.spec.stop_timeout, Duration::from_millis(2_400), "{nonsense:?}");
    }
}

#[test]
fn the_limit_of_memory_is_the_flags_then_the_variables_then_the_files() {
    let dir = Dir::new(&[
        ("a.toml", "[memory]\nlimit = '512MiB'\n[services.a]\ncommand = 'x'"),
        ("auto.toml", "[memory]\nlimit = 'auto'\n[services.a]\ncommand = 'x'"),
        ("Procfile", "a: x"),
    ]);
    let limit = |file: &str, variable: Option<&str>, flag: Option<GivenLimit>| {
        let mut given = inputs(&variable.map(|text| [(MEMORY_LIMIT, text)]).unwrap_or_default()[..usize::from(variable.is_some())]);
        given.memory_limit = flag;
        dir.load(file, &given).map(|loaded| loaded.spec.memory)
    };
    let with = |limit: Option<u64>| Ok(Memory { limit, ..Memory::default() });
    let (flag, auto) = (Some(GivenLimit::Bytes(128 << 20)), Some(GivenLimit::Auto));
    for (file, variable, flag, expected) in [
        ("a.toml", None, None, Some(512 << 20)),
        ("auto.toml", None, None, None),
        ("Procfile", None, None, None),
        ("a.toml", Some(""), None, Some(512 << 20)),
        ("a.toml", Some("256M"), None, Some(256 << 20)),
        ("a.toml", Some("auto"), None, None),
        ("auto.toml", Some("256Mi"), None, Some(256 << 20)),
        ("Procfile", Some("256M"), None, Some(256 << 20)),
        ("a.toml", Some("256M"), flag, Some(128 << 20)),
        ("a.toml", Some("256M"), auto, None),
        ("a.toml", Some("nonsense"), flag, Some(128 << 20)),
        ("Procfile", None, flag, Some(128 << 20)),
    ] {
        assert_eq!(limit(file, variable, flag), with(expected), "{file} {variable:?} {flag:?}");
    }
    for (variable, why) in [
        ("half", "a limit of memory is a size such as 512MiB, or auto"),
        ("75%", "a limit of memory is a size such as 512MiB, or auto"),
        ("512", "a limit of memory is at least 1MiB; is its unit missing? write it as in 512MiB"),
        ("0", "a limit of memory is at least 1MiB; is its unit missing? write it as in 512MiB"),
        ("16777216T", "a limit of memory is a size such as 512MiB, or auto"),
        ("16777215T", "a limit of memory is at most 1EiB"),
    ] {
        assert_eq!(
            limit("a.toml", Some(variable), None).unwrap_err(),
            format!(
                "error: the environment variable FIRSTMATE_MEMORY_LIMIT cannot be used: {why}\n  \
                 = help: mend it, or unset it to go by the file or the container"
            )
        );
    }
}

/// With a limit from outside the file, shares and sizes can be compared; without one they cannot.
#[test]
fn lines_are_judged_by_the_limit_that_is_given() {
    let text = "[memory]\nrestart_above = '300MiB'\n[services.a]\ncommand = 'x'\nmemory = { restart_above = '50%' }";
    let dir = Dir::new(&[("a.toml", text)]);
    let told = |bytes: Option<u64>| {
        let given = Inputs { memory_limit: bytes.map(GivenLimit::Bytes), ..Inputs::default() };
        dir.load("a.toml", &given).map(|loaded| dir.shown(&loaded.warnings))
    };
    assert_eq!(told(None), Ok(String::new()));
    assert_eq!(told(Some(512 << 20)), Ok(String::new()));
    let too_high = told(Some(1 << 30)).unwrap();
    assert!(
        too_high.starts_with("warning: the line of `a` (50%) never applies: the container's own (300MiB) is reached before\n"),
        "{too_high}"
    );
    let above = told(Some(256 << 20)).unwrap_err();
    assert!(above.contains("error: restart_above (300MiB) must be below hard_above (92%, its default)\n --> a.toml:2:17\n"), "{above}");
    assert!(above.contains("error: restart_above (300MiB) is above the limit (256MiB), so it is never crossed\n"), "{above}");
}

#[test]
fn only_the_main_file_has_the_guard() {
    let dir = Dir::new(&[
        ("firstmate.toml", "include = 'a.toml'\n[memory]\nrestart_above = 'off'\n"),
        ("a.toml", "[memory]\nlimit = '1G'\n[services.a]\ncommand = 'x'\nmemory = { restart_above = '200M' }\n"),
    ]);
    assert_eq!(
        dir.load("firstmate.toml", &inputs(&[])).unwrap_err(),
        "error: [memory] belongs into the main file\n --> a.toml:1:2\n  |\n1 | [memory]\n  |  ^^^^^^\n  = help: move it to firstmate.toml; an included file has only services\n\
         warning: the line of `a` never applies: the memory guard is off\n --> a.toml:5:28\n  |\n5 | memory = { restart_above = '200M' }\n  |                            ^^^^^^\n  = note: restart_above = \"off\" in [memory] is for services' own lines too\n  = help: remove it, or switch the guard on"
    );
}

#[test]
fn a_procfile_with_its_env_file() {
    let dir = Dir::new(&[
        ("Procfile", "web: gunicorn -b :$PORT app\nworker: cd w && ./run\nrelease : ./migrate\n# remark\nclock: ./clock\n"),
        (".env", "PORT=7000\nSECRET=hunter2\nURL=http://$HOST/\n"),
    ]);
    let loaded = dir.load("Procfile", &inputs(&[("PORT", "9"), ("HOST", "h")])).unwrap();
    assert_eq!((loaded.format, loaded.warnings.len()), (Format::Procfile, 0));
    let spec = loaded.spec;
    let ports: Vec<_> = spec.services.iter().map(|service| (service.name.as_str(), service.launch.port)).collect();
    assert_eq!(ports, [("web", Some(7000)), ("worker", Some(7100)), ("release", Some(7200)), ("clock", Some(7300))]);
    let release = service(&spec, "release");
    assert_eq!((release.kind, release.restart, release.essential, release.depends_on.len()), (Kind::Oneshot, Restart::Never, true, 0));
    for name in ["web", "worker", "clock"] {
        assert_eq!(service(&spec, name).depends_on, [Dependency { service: ServiceId(2), condition: Condition::Completed }]);
    }
    let web = service(&spec, "web");
    assert_eq!(web.launch.command, shell("exec gunicorn -b :$PORT app"));
    assert_eq!(values(&web.launch.env_defaults), [("SECRET", "hunter2"), ("URL", "http://h/")]);
    assert_eq!(web.launch.working_dir, dir.0);
    assert_eq!((web.stop.scope, service(&spec, "worker").stop.scope), (Scope::Main, Scope::Group));

    let other = Dir::new(&[("x.env", "A=1\nPORT=6000"), ("y.env", "A=2\nB=$A")]);
    let mut given = inputs(&[]);
    given.env_files = vec![other.0.join("x.env"), other.0.join("y.env")];
    let spec = dir.load("Procfile", &given).unwrap().spec;
    assert_eq!(values(&service(&spec, "web").launch.env_defaults), [("A", "2"), ("B", "2")]);
    assert_eq!(service(&spec, "worker").launch.port, Some(6100));
    given.port = Some(8000);
    assert_eq!(service(&dir.load("Procfile", &given).unwrap().spec, "worker").launch.port, Some(8100));
}

#[test]
fn the_base_of_ports_without_an_env_file() {
    let dir = Dir::new(&[("Procfile", "a: x\nb: x")]);
    let second = |env: &[(&str, &str)]| dir.load("Procfile", &inputs(env)).map(|loaded| loaded.spec.services[1].launch.port);
    assert_eq!(second(&[]), Ok(Some(5100)));
    assert_eq!(second(&[("PORT", "3000")]), Ok(Some(3100)));
    assert_eq!(second(&[("PORT", "")]), Ok(Some(5100)));
    assert_eq!(
        second(&[("PORT", "http")]).unwrap_err(),
        "error: the environment variable PORT is not a port\n  = help: set it to a number from 1 to 65535, or use -p"
    );
    assert_eq!(
        second(&[("PORT", "65500")]).unwrap_err(),
        "error: no PORT is left for `b`: 65500 + 100 x 1 is beyond 65535\n --> Procfile:2:1\n  |\n2 | b: x\n  | ^\n  = help: begin lower: -p PORT, or PORT in .env"
    );
}

#[test]
fn a_toml_file_refines_a_procfile() {
    let dir = Dir::new(&[
        ("app/Procfile", "web: ./web\nrelease: ./migrate\n"),
        ("app/.env", "A=1\nPORT=7000"),
        ("w.env", "B=2\nA=3"),
        (
            "firstmate.toml",
            "procfile = 'app/Procfile'\n[services.redis]\ncommand='redis-server'\n[services.release]\ndepends_on=['redis']\n[services.web]\ninstances=2\nenv_file='w.env'\nready={tcp='localhost:7000'}\n[services.extra]\ncommand='x'\nworking_dir='sub'\n",
        ),
    ]);
    let loaded = dir.load("firstmate.toml", &inputs(&[])).unwrap();
    assert_eq!(loaded.warnings, []);
    let spec = loaded.spec;
    let names: Vec<_> = spec.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["web", "release", "redis", "extra"]);
    let web = service(&spec, "web");
    assert_eq!((web.instances, web.launch.port, web.ready.probe().is_some()), (2, Some(7000), true));
    assert_eq!(web.launch.command, argv(&["./web"]));
    assert_eq!(web.launch.working_dir, dir.0.join("app"));
    assert_eq!(values(&web.launch.env_defaults), [("A", "3"), ("B", "2")]);
    assert_eq!(web.depends_on, [Dependency { service: ServiceId(1), condition: Condition::Completed }]);
    let release = service(&spec, "release");
    assert_eq!(release.kind, Kind::Oneshot);
    assert_eq!(release.depends_on, [Dependency { service: ServiceId(2), condition: Condition::Ready }]);
    assert_eq!(service(&spec, "redis").depends_on, [], "what release waits for does not wait for release");
    let extra = service(&spec, "extra");
    assert_eq!((extra.launch.port, extra.launch.working_dir.clone()), (None, dir.0.join("sub")));
    assert_eq!(extra.depends_on, [Dependency { service: ServiceId(1), condition: Condition::Completed }]);
    assert_eq!(values(&extra.launch.env_defaults), []);
}

#[test]
fn a_refinement_cannot_change_the_command() {
    let dir = Dir::new(&[
        ("Procfile", "web: ./web\n"),
        ("firstmate.toml", "procfile = 'Procfile'\n[services.web]\ncommand = './other'\n[services.wbe]\ninstances = 2\n"),
    ]);
    assert_eq!(
        dir.load("firstmate.toml", &inputs(&[])).unwrap_err(),
        "error: `web` already has a command\n --> firstmate.toml:3:11\n  |\n3 | command = './other'\n  |           ^^^^^^^^^\n  = note: it is an entry of the Procfile, at Procfile:1:1\n  = help: remove the command here, or the entry there\n\
         error: service `wbe` has no command\n --> firstmate.toml:4:11\n  |\n4 | [services.wbe]\n  |           ^^^\n  = help: did you mean `web`, which the Procfile defines?"
    );
}

#[test]
fn included_files_add_services() {
    let dir = Dir::new(&[
        ("firstmate.toml", "include = ['conf.d/*.toml', 'conf.d/a.toml', 'none/*.toml']\n[services.main]\ncommand='x'\ndepends_on=['a']"),
        ("conf.d/a.toml", "[services.a]\ncommand='x'\nenv_file='a.env'"),
        ("conf.d/b.toml", "[services.b]\ncommand='x'\nworking_dir='w'"),
        ("a.env", "A=1"),
    ]);
    let spec = dir.load("firstmate.toml", &inputs(&[])).unwrap().spec;
    let names: Vec<_> = spec.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["main", "a", "b"]);
    assert_eq!(service(&spec, "a").launch.working_dir, dir.0);
    assert_eq!(service(&spec, "b").launch.working_dir, dir.0.join("w"));
    assert_eq!(values(&service(&spec, "a").launch.env_defaults), [("A", "1")]);
}

#[test]
fn problems_of_all_files_are_told_at_once() {
    let dir = Dir::new(&[
        ("firstmate.toml", "include = ['a.toml', 'b.toml', 'c.toml']\n[services.web]\ncommand='x'\nenv_file='no.env'\nnope=1\n"),
        ("a.toml", "[services.web]\ncommand='x'\n"),
        ("b.toml", "include=['x']\n[services.b]\ncommand='x'\nenv_file='b.env'\n[services.b2]\ncommand='x'\nenv_file='b.env'\n"),
        ("b.env", "K='hunter2"),
    ]);
    let told = dir.load("firstmate.toml", &inputs(&[])).unwrap_err();
    assert_eq!(
        told,
        "error: cannot read c.toml: no such file\n --> firstmate.toml:1:32\n  |\n1 | include = ['a.toml', 'b.toml', 'c.toml']\n  |                                ^^^^^^^^\n\
         error: cannot read no.env: no such file\n --> firstmate.toml:4:10\n  |\n4 | env_file='no.env'\n  |          ^^^^^^^^\n\
         error: unknown key `nope` in service `web`\n --> firstmate.toml:5:1\n  |\n5 | nope=1\n  | ^^^^\n  = help: remove it; docs/configuration.md has every key that works here\n\
         error: service `web` is defined twice\n --> a.toml:1:11\n  |\n1 | [services.web]\n  |           ^^^\n  = note: first defined at firstmate.toml:2:11\n  = help: rename one of them\n\
         error: include belongs into the main file\n --> b.toml:1:1\n  |\n1 | include=['x']\n  | ^^^^^^^\n  = help: move it to firstmate.toml; an included file has only services\n\
         error: the quote that opens the value of `K` is never closed\n --> b.env:1\n  = help: close it; a value that begins with a quote sign needs the other kind of quotes around it"
    );
}

#[test]
fn the_search_order() {
    let dir = Dir::new(&[("Procfile", "a: x")]);
    let none = BTreeMap::new();
    assert_eq!(find(None, &none, &dir.0), Ok(dir.0.join("Procfile")));
    std::fs::write(dir.0.join("firstmate.toml"), "").unwrap();
    assert_eq!(find(None, &none, &dir.0), Ok(dir.0.join("firstmate.toml")));
    let env = inputs(&[("FIRSTMATE_CONFIG", "/etc/x.toml")]).env;
    assert_eq!(find(None, &env, &dir.0), Ok("/etc/x.toml".into()));
    assert_eq!(find(Some(Path::new("y/Procfile")), &env, &dir.0), Ok(dir.0.join("y/Procfile")));
    let empty = Dir::new(&[("Procfile/x", "a directory of that name is none")]);
    if !Path::new("/etc/firstmate/firstmate.toml").exists() {
        let error = find(None, &none, &empty.0).unwrap_err();
        assert_eq!(error.message, format!("cannot find firstmate.toml or a Procfile in {}", empty.0.display()));
    }
}

#[test]
fn a_file_that_cannot_be_used_is_told() {
    let dir = Dir::new(&[
        ("supervisord.conf", "[program:a]\ncommand=a"),
        ("d.toml/x", ""),
        ("Procfile", "# nothing"),
        ("big/Procfile", &"#\n".repeat(600_000)),
    ]);
    for (name, message) in [
        (
            "supervisord.conf",
            "error: cannot read supervisord's format\n --> supervisord.conf\n  = help: write its programs as services of a firstmate.toml; docs/configuration.md has every key",
        ),
        ("none.toml", "error: cannot read the file: no such file\n --> none.toml"),
        ("d.toml", "error: cannot read the file: it is a directory\n --> d.toml"),
        (
            "Procfile",
            "error: the file defines no service\n --> Procfile\n  = help: a TOML file needs a table such as [services.web] with a command, a Procfile a line such as `web: ./run`",
        ),
        ("big/Procfile", "error: cannot read the file: it is larger than 1 MiB\n --> big/Procfile"),
    ] {
        assert_eq!(dir.load(name, &inputs(&[])).unwrap_err(), message);
    }
}

#[test]
fn warnings_do_not_stop_a_start() {
    let dir = Dir::new(&[
        ("Procfile", "web: nginx\nticker ./ticker\nwin: java -Dport=%PORT%\n"),
        ("firstmate.toml", "[services.a]\ncommand = 'php-fpm8.2'"),
    ]);
    let loaded = dir.load("Procfile", &inputs(&[])).unwrap();
    assert_eq!(
        dir.shown(&loaded.warnings),
        "warning: nginx goes into the background unless told not to, where nobody supervises it\n --> Procfile:1:6\n  |\n1 | web: nginx\n  |      ^^^^^\n  = help: add -g \"daemon off;\"\n\
         warning: this line is not `name: command` and is skipped\n --> Procfile:2:1\n  |\n2 | ticker ./ticker\n  | ^^^^^^^^^^^^^^^\n  = help: write `ticker:` if `ticker` is the name\n\
         warning: `%PORT%` is not replaced by anything\n --> Procfile:3:18\n  |\n3 | win: java -Dport=%PORT%\n  |                  ^^^^^^\n  = help: write $PORT, as sh has it"
    );
    let given = Inputs { port: Some(1), ..Inputs::default() };
    let messages: Vec<_> = dir.load("firstmate.toml", &given).unwrap().warnings.into_iter().map(|warning| warning.message).collect();
    assert_eq!(
        messages,
        [
            "-p has no effect: only entries of a Procfile get a PORT",
            "php-fpm8.2 goes into the background unless told not to, where nobody supervises it"
        ]
    );
}

#[test]
fn a_long_chain_of_dependencies_is_no_cycle_and_a_long_cycle_is_one() {
    let mut text = String::new();
    for n in 0..5_000 {
        text.push_str(&format!("[services.s{n}]\ncommand='x'\ndepends_on=['s{}']\n", n + 1));
    }
    let chain = format!("{text}[services.s5000]\ncommand='x'\n");
    assert_eq!(check_toml(Path::new("f.toml"), chain.as_bytes()).map(|spec| spec.services.len()), Ok(5_001));
    let circle = format!("{text}[services.s5000]\ncommand='x'\ndepends_on=['s0']\n");
    let problems = check_toml(Path::new("f.toml"), circle.as_bytes()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.ends_with("s4999 -> s5000 -> s0"));
}

/// Other people's files, where FIRSTMATE_CORPUS names a directory with `procfile/` and `env/`, and our own peculiar ones elsewhere.
#[test]
fn real_files_are_read_or_explained() {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let corpus = std::env::var_os("FIRSTMATE_CORPUS").map_or_else(own, PathBuf::from);
    let files = |kind: &str| {
        let mut paths: Vec<_> = std::fs::read_dir(corpus.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let (mut entries, mut plain, mut skipped, mut refused) = (0, 0, 0, 0);
    for path in files("procfile") {
        let dir = Dir::new(&[]);
        std::fs::copy(&path, dir.0.join("Procfile")).unwrap();
        match load(&dir.0.join("Procfile"), &inputs(&[])) {
            Ok(loaded) => {
                entries += loaded.spec.services.len();
                plain += loaded.spec.services.iter().filter(|service| matches!(service.launch.command, Command::Argv(_))).count();
                skipped += loaded.warnings.len();
                assert!(loaded.warnings.iter().all(|warning| warning.line > 0));
            }
            Err(problems) => {
                refused += 1;
                eprintln!("{}: {}", path.display(), dir.shown(&problems));
                assert!(problems.iter().any(Diagnostic::is_error));
            }
        }
    }
    eprintln!("Procfiles: {entries} entries, {plain} without a shell, {skipped} warnings, {refused} files refused");
    assert!(entries > 0 && plain * 3 > entries);
    let (mut values, mut secrets_checked) = (0, 0);
    for path in files("env") {
        let mut env = BTreeMap::new();
        let bytes = std::fs::read(&path).unwrap();
        let problems = dotenv::parse(&path, &bytes, &BTreeMap::new(), &mut env);
        values += env.len();
        for problem in problems {
            let shown = problem.render(false);
            eprintln!("{shown}");
            for value in env.values().filter(|value| value.len() >= 12) {
                secrets_checked += 1;
                assert!(!shown.contains(&*value.to_string_lossy()), "a value is shown");
            }
        }
    }
    eprintln!("env files: {values} values; {secrets_checked} times a complaint was searched for a value");
    assert!(values > 0);
}

const VALID_TOML: &str = r#"
procfile = "Procfile"
include = ["conf.d/*.toml"]
[firstmate]
http = "0.0.0.0:9180"
stop_timeout = "auto"
[memory]
limit = "auto"
restart_above = "75%"
hard_above = "480MiB"
emergency_above = 95.5
[services.web]
memory = { restart_above = "200MiB", action = "signal:USR2", victim = "last" }
oom_score_adj = -5
command = "gunicorn -b \":$PORT\" app && x"
depends_on = { redis = "ready", migrate = "completed" }
backoff = { initial = "500ms", factor = 2.0 }
stop_signal = ["QUIT", 15]
ready = { http = "http://127.0.0.1:8080/healthz", every = "10s" }
limits = { nofile = { soft = 1, hard = "unlimited" } }
env = { A = "b" }
[services.redis]
command = ["redis-server"]
umask = "022"
"#;
const VALID_PROCFILE: &str = "web: gunicorn -b :$PORT app # x\nworker : cd w && ./run 'a b'\r\n# remark\nrelease:X=1 ./m \"$(a)\"\n";
const VALID_ENV: &str = "export A=\"x ${B:-$C} \\n\"\nB='multi\nline' # r\nC: d\nD = e f #g\r\n";

/// Bytes that mean something to one of the formats.
const SIGNS: &[u8] = b"\"'$`{}()[]\\\n\r\t #=:;&|<>~*";

/// A valid text with a few of its bytes replaced, removed or doubled.
fn mutated(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((0..text.len(), any::<u8>(), 0..3u8), 0..8).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, what) in changes {
            let at = at.min(bytes.len() - 1);
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, SIGNS[usize::from(byte) % SIGNS.len()]),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

fn swallow(bytes: &[u8]) {
    let file = Path::new("f");
    let mut shown = procfile::parse(file, bytes).1;
    shown.extend(check_toml(file, bytes).err().unwrap_or_default());
    shown.extend(dotenv::parse(file, bytes, &BTreeMap::new(), &mut BTreeMap::new()));
    for problem in shown {
        assert!(!problem.render(true).is_empty());
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(line) = command_line::parse(&text) {
        let _ = command_line::daemonises(&line.command);
        assert!(!matches!(&line.command, Command::Argv(words) if words.is_empty()));
    }
    let _ = values::parse_duration(&text);
    let _ = values::parse_size(&text);
    let _ = values::parse_percent(&text);
    let _ = GivenLimit::parse(&text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_parser_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        swallow(&bytes);
    }

    #[test]
    fn no_parser_panics_on_any_text(text in "[ -~\n\t\u{e9}\u{65e5}]{0,200}") {
        swallow(text.as_bytes());
    }

    #[test]
    fn no_parser_panics_on_a_damaged_file(toml in mutated(VALID_TOML), procfile in mutated(VALID_PROCFILE), env in mutated(VALID_ENV)) {
        swallow(&toml);
        swallow(&procfile);
        swallow(&env);
    }

    #[test]
    fn plain_commands_are_split_as_shlex_has_it(words in proptest::collection::vec("[a-z./=:@%+,-]{1,8}", 1..6)) {
        let text = words.join(" ");
        let needs_shell = words[0].split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()));
        let is_plain = !needs_shell && !["set", "cd", "if", "do", "let", "bg", "fg", "exec"].contains(&words[0].as_str()) && !["." , ":"].contains(&words[0].as_str());
        if is_plain && let Ok(line) = command_line::parse(&text) && let Command::Argv(argv) = line.command {
            prop_assert_eq!(argv, words);
        }
    }
}

#[test]
fn names_of_values_are_found_in_the_environment_by_their_bytes() {
    let env: BTreeMap<OsString, OsString> = BTreeMap::from([("A".into(), "outside".into())]);
    let mut values = BTreeMap::new();
    assert_eq!(dotenv::parse(Path::new(".env"), b"B=$A", &env, &mut values), []);
    assert_eq!(values.get(OsStr::new("B")).map(OsString::as_os_str), Some(OsStr::new("outside")));
}

#[test]
fn every_way_to_be_ready_reaches_the_spec() {
    let ready = |line: &str| {
        let text = format!("[services.web]\ncommand = 'run'\n{line}\n");
        let dir = Dir::new(&[("firstmate.toml", &text)]);
        service(&dir.load("firstmate.toml", &inputs(&[])).unwrap().spec, "web").ready.clone()
    };
    assert_eq!(ready(""), Readiness::Delay(Duration::from_secs(1)));
    assert_eq!(ready("ready = { delay = '2s' }"), Readiness::Delay(Duration::from_secs(2)));
    assert_eq!(ready("ready = { notify = true }"), Readiness::Notify { watchdog: None });
    assert_eq!(ready("watchdog = '30s'\nready = { notify = true }"), Readiness::Notify { watchdog: Some(Duration::from_secs(30)) });
    assert_eq!(ready("ready = { notify_fd = 3 }"), Readiness::NotifyFd(3));
    assert_eq!(ready(r"ready = { log = '^up \d+$' }"), Readiness::Log(r"^up \d+$".to_owned()));
}
