//! The service definitions of `procfiles/`, as they are given, each over the program it is for.
//!
//! The programs have Debian's own configuration, with what the comments of the definition ask for and no more. Nothing is written to the
//! machine: a mount namespace hides the directories of state and the configuration.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::client::{Got, Upstream, fastcgi, get, redis};
use super::firstmate::{Firstmate, assert_order, binary};
use super::processes;
use super::programs::{hello, start};
use super::sandbox::{Sandbox, edit, until, until_true};

pub fn procfiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("procfiles")
}

/// The master is killed and leaves its workers; then the next run serves.
fn kill_the_master(firstmate: &Firstmate, name: &str, serves: impl Fn() -> Result<(), String>) {
    let master = until(name, || firstmate.leader(name));
    let workers: Vec<_> = processes::below(firstmate.pid).into_iter().filter(|process| process.parent == master.pid).collect();
    assert!(!workers.is_empty(), "{name} has no workers");
    firstmate.kill_and_see_it_replaced(name);
    firstmate.wait_until_well();
    assert_eq!(serves(), Ok(()), "{}", firstmate.log());
    firstmate.wait_until_tidy();
    let log = firstmate.log();
    assert_order(
        &firstmate.said(),
        &[
            &format!("{name} killed by SIGKILL"),
            &format!("stopping {name} with "),
            &format!("{name} restarts "),
            &format!("{name} started"),
        ],
    );
    assert!(firstmate.said().iter().any(|text| text.starts_with(name) && text.ends_with("left behind")), "{log}");
    for complaint in ["ddress already in use", "EADDRINUSE", "could not bind"] {
        assert!(!log.contains(complaint), "{log}");
    }
}

/// firstmate is asked to end while a request is in flight: the program gets its signal, the request is answered, all is over.
pub fn stop_with_a_request_in_flight<T: Send + 'static>(
    mut firstmate: Firstmate,
    (name, signal): (&str, &str),
    request: impl FnOnce() -> T + Send + 'static,
    wait_until_in_flight: impl FnOnce(),
    let_it_finish: impl FnOnce(&Firstmate),
) -> T {
    let client = std::thread::spawn(request);
    wait_until_in_flight();
    firstmate.signal(libc::SIGTERM);
    firstmate.wait_until_said(&format!("stopping {name} with {signal}"));
    assert!(!client.is_finished(), "the request did not last until the stop");
    let_it_finish(&firstmate);
    let got = client.join().unwrap();
    assert_eq!(firstmate.wait(Duration::from_secs(20)).code(), Some(0));
    assert_order(
        &firstmate.said(),
        &["stopping everything", &format!("{name} exited with code 0"), &format!("{name} stopped"), "ended with code 0"],
    );
    let killed =
        firstmate.said().iter().skip_while(|text| !text.starts_with("stopping everything")).any(|text| text.contains("SIGKILL to"));
    assert!(!killed, "{}", firstmate.log());
    got
}

/// Once nobody new gets in.
pub fn answer_late(upstream: &Upstream) {
    until_true("port 80 is closed", || TcpStream::connect(("127.0.0.1", 80)).is_err());
    upstream.answer();
}

#[test]
fn all_are_valid() {
    let mut files: Vec<_> = std::fs::read_dir(procfiles()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 15, "{files:?}");
    for file in files {
        // Some of them may take longer to stop than Docker waits by default, which is told where this runs in Docker.
        let patient = Command::new(binary()).args(["check-config", "-f"]).arg(&file).env("FIRSTMATE_PLATFORM_PATIENCE", "10m").output();
        let output = patient.unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains("warning"), "{said}");
    }
}

#[test]
fn all_go_into_one_stack() {
    let directory = std::env::temp_dir().join(format!("firstmate-real-include-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("firstmate.toml");
    std::fs::write(&file, format!("include = [\"{}/*.toml\"]\n", procfiles().display())).unwrap();
    let output = Command::new(binary()).args(["check-config", "-f"]).arg(&file).output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ok, 15 services"), "{said}");
}

#[test]
fn nginx() {
    let sandbox = Sandbox::new("nginx", &["nginx"]);
    let conf = sandbox.copy_of("/etc/nginx", "nginx");
    edit(
        &conf.join("nginx.conf"),
        &[
            ("error_log /var/log/nginx/error.log;", "error_log stderr;\nworker_shutdown_timeout 7s;"),
            ("access_log /var/log/nginx/access.log;", "access_log /dev/stdout;"),
        ],
    );
    std::fs::remove_file(conf.join("sites-enabled/default")).unwrap();
    let site = "server { listen 80; location = / { return 200 \"hello\\n\"; } location /slow { proxy_pass http://127.0.0.1:9999; } }\n";
    std::fs::write(conf.join("conf.d/site.conf"), site).unwrap();
    let mounts = format!(
        "mount -t tmpfs none /run; mount -t tmpfs none /var/log; mkdir /var/log/nginx; mount -t tmpfs none /var/lib/nginx
        mount --bind {} /etc/nginx",
        conf.display()
    );
    let upstream = Upstream::new(9999);
    let serves = || hello(80);

    let firstmate = start(&sandbox, "nginx", &mounts, serves);
    kill_the_master(&firstmate, "nginx.1", serves);
    until_true("the access log is shown", || firstmate.log().contains("nginx.1 out | 127.0.0.1 - - "));
    let slow = || get(80, "/slow");
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("nginx.1", "SIGQUIT"),
        slow,
        || upstream.wait_for_a_request(),
        |_| answer_late(&upstream),
    );
    assert_eq!(got, Got::Answer(200, "late\n".to_owned()));
}

#[test]
fn apache() {
    let sandbox = Sandbox::new("apache", &["apache2"]);
    let conf = sandbox.copy_of("/etc/apache2", "apache2");
    edit(&conf.join("apache2.conf"), &[("ErrorLog ${APACHE_LOG_DIR}/error.log", "ErrorLog /dev/stderr\nServerName localhost")]);
    for module in ["proxy.load", "proxy_http.load"] {
        std::os::unix::fs::symlink(format!("../mods-available/{module}"), conf.join("mods-enabled").join(module)).unwrap();
    }
    let root = sandbox.file("www/index.html", "hello\n");
    let root = root.parent().unwrap().display();
    let site = conf.join("sites-enabled/000-default.conf");
    std::fs::remove_file(&site).unwrap();
    let text = format!(
        "<VirtualHost *:80>\nCustomLog /dev/stdout combined\nDocumentRoot {root}\n<Directory {root}>\nRequire all granted\n</Directory>\n\
         ProxyPass \"/slow\" \"http://127.0.0.1:9999/\"\n</VirtualHost>\n"
    );
    std::fs::write(&site, text).unwrap();
    let mounts = format!(
        "mount -t tmpfs none /run; mount -t tmpfs none /var/log; mkdir /var/log/apache2; mount --bind {} /etc/apache2",
        conf.display()
    );
    let upstream = Upstream::new(9999);
    let serves = || hello(80);

    let firstmate = start(&sandbox, "apache", &mounts, serves);
    kill_the_master(&firstmate, "apache.1", serves);
    until_true("the access log is shown", || firstmate.log().contains("apache.1 out | 127.0.0.1 - - "));
    let slow = || get(80, "/slow");
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("apache.1", "SIGWINCH"),
        slow,
        || upstream.wait_for_a_request(),
        |_| answer_late(&upstream),
    );
    assert_eq!(got, Got::Answer(200, "late\n".to_owned()));
}

#[test]
fn php_fpm() {
    let sandbox = Sandbox::new("php-fpm", &["php-fpm8.2"]);
    let conf = sandbox.copy_of("/etc/php/8.2/fpm", "fpm");
    // The files of the pool directory are read in order of their names, and the last word on a key holds.
    let pool = "[global]\nprocess_control_timeout = 7s\nerror_log = /proc/self/fd/2\n[www]\naccess.log = /proc/self/fd/2\n\
        catch_workers_output = yes\ndecorate_workers_output = no\nclear_env = no\nlisten = 127.0.0.1:9000\nping.path = /ping\n";
    std::fs::write(conf.join("pool.d/zz-supervised.conf"), pool).unwrap();
    let mounts =
        format!("mount -t tmpfs none /run; mkdir /run/php; mount -t tmpfs none /var/log; mount --bind {} /etc/php/8.2/fpm", conf.display());
    let hello = sandbox.file("www/hello.php", "<?php fwrite(fopen('php://stderr', 'w'), \"said by PHP\\n\"); echo 'hello';");
    let state = sandbox.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (arrived, gate) = (state.join("arrived"), state.join("gate"));
    let slow = sandbox.file(
        "www/slow.php",
        &format!(
            "<?php touch('{}'); while (!file_exists('{}')) {{ usleep(5000); clearstatcache(); }} echo 'late';",
            arrived.display(),
            gate.display()
        ),
    );
    let serves = move || match fastcgi(9000, &hello)? {
        answer if answer.ends_with("\r\n\r\nhello") => Ok(()),
        other => Err(other),
    };

    let firstmate = start(&sandbox, "php-fpm", &mounts, serves.clone());
    until_true("what PHP says is shown", || firstmate.log().contains("php-fpm.1 err | said by PHP\n"));
    kill_the_master(&firstmate, "php-fpm.1", serves);
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("php-fpm.1", "SIGQUIT"),
        move || fastcgi(9000, &slow),
        || until_true("the request is in flight", || arrived.exists()),
        |firstmate| {
            until_true("php-fpm knows", || firstmate.log().contains("NOTICE: Finishing ..."));
            drop(std::fs::File::create(&gate).unwrap());
        },
    );
    assert!(got.as_ref().is_ok_and(|text| text.ends_with("\r\n\r\nlate")), "{got:?}");
}

fn ask_redis(command: &str) -> Result<String, String> {
    redis(TcpStream::connect(("127.0.0.1", 6379)).map_err(|error| error.to_string())?, command)
}

fn pong(answer: &str) -> Result<(), String> {
    if answer == "+PONG" { Ok(()) } else { Err(answer.to_owned()) }
}

#[test]
fn redis_keeps_its_data() {
    let sandbox = Sandbox::new("redis", &["redis-server", "redis-cli"]);
    let conf = sandbox.copy_of("/etc/redis", "redis");
    edit(&conf.join("redis.conf"), &[("\nappendonly no\n", "\nappendonly yes\nappendfsync always\n")]);
    // In the namespace, yet kept from one firstmate to the next.
    let data = sandbox.copy_of("/var/lib/redis", "data");
    let mounts = format!(
        "mount -t tmpfs none /run; mount -t tmpfs none /var/log; mount --bind {} /etc/redis; mount --bind {} /var/lib/redis",
        conf.display(),
        data.display()
    );
    let ask = ask_redis;
    let serves = || pong(&ask_redis("PING")?);
    let port_is_free = || TcpListener::bind(("127.0.0.1", 6379)).is_ok();

    let mut firstmate = start(&sandbox, "redis", &mounts, serves);
    assert_eq!(ask("INCR visits"), Ok(":1".to_owned()));
    // A child that writes a snapshot, ten seconds for each key, outlives its killed master.
    assert_eq!(ask("CONFIG SET rdb-key-save-delay 10000000"), Ok("+OK".to_owned()));
    assert_eq!(ask("BGSAVE"), Ok("+Background saving started".to_owned()));
    kill_the_master(&firstmate, "redis.1", || if ask("INCR visits")? == ":2" { Ok(()) } else { Err("it has lost its data".to_owned()) });
    firstmate.stop();
    assert!(firstmate.log().contains("Redis is now ready to exit"), "{}", firstmate.log());
    assert!(port_is_free());

    let mut firstmate = start(&sandbox, "redis", &mounts, serves);
    assert_eq!(ask("INCR visits"), Ok(":3".to_owned()));
    firstmate.stop();
    assert_order(&firstmate.said(), &["redis.1 ready", "stopping redis.1 with SIGTERM", "redis.1 exited with code 0", "ended with code 0"]);
}

/// While it reads its data it takes connections, and answers every command but a few with LOADING: a port that is open says nothing.
#[test]
fn redis_is_not_ready_while_it_loads() {
    let sandbox = Sandbox::new("redis-loads", &["redis-server"]);
    let conf = sandbox.copy_of("/etc/redis", "redis");
    let data = sandbox.copy_of("/var/lib/redis", "data");
    let mounts = format!(
        "mount -t tmpfs none /run; mount -t tmpfs none /var/log; mount --bind {} /etc/redis; mount --bind {} /var/lib/redis",
        conf.display(),
        data.display()
    );
    let mut firstmate = start(&sandbox, "redis", &mounts, || pong(&ask_redis("PING")?));
    let fill = "EVAL \"for key = 1, 3000 do redis.call('set', key, string.rep('x', 20)) end return redis.call('dbsize')\" 0";
    assert_eq!(ask_redis(fill), Ok(":3000".to_owned()));
    assert_eq!(ask_redis("SAVE"), Ok("+OK".to_owned()));
    firstmate.stop();

    // A millisecond for each key, and a look at the connections for every few of them.
    let file = conf.join("redis.conf");
    let text = std::fs::read_to_string(&file).unwrap() + "\nkey-load-delay 1000\nloading-process-events-interval-bytes 1024\n";
    std::fs::write(&file, text).unwrap();
    let mut firstmate = Firstmate::start(&sandbox, &procfiles().join("redis.toml"), &mounts);
    let mut told = String::new();
    let mut while_loading = 0;
    until("it is ready", || {
        let before = ask_redis("PING");
        let instance = firstmate.instance("redis.1")?;
        let loading = ask_redis("PING").is_ok_and(|answer| answer.starts_with("-LOADING"));
        assert!(!(loading && instance.ready), "it was called ready while it loads\n{}", firstmate.log());
        // Both before and after the look, so also in between.
        if loading && before.is_ok_and(|answer| answer.starts_with("-LOADING")) {
            while_loading += 1;
            told = instance.why.clone().unwrap_or(told.clone());
        }
        if instance.ready { Ok(()) } else { Err(format!("{instance:?}")) }
    });
    assert!(while_loading > 3, "it loaded too fast to be seen: {while_loading}\n{}", firstmate.log());
    assert!(told.contains("PING: LOADING Redis is loading the dataset in memory"), "{told}");
    assert_eq!(ask_redis("DBSIZE"), Ok(":3000".to_owned()));
    // Much later than the port was open: the data alone takes three seconds.
    let loaded = firstmate.instance("redis.1").unwrap().ready_probe.unwrap();
    assert!(loaded.failures > 3 && loaded.last_passed, "{loaded:?}");
    firstmate.stop();
}
