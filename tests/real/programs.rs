//! More of `procfiles/`, with what all of them owe, those of `procfiles.rs` too: they are ready no earlier than they serve and within a second of it, end gracefully, and
//! when the main process is killed nothing of it is left and the next run serves.
//!
//! `tests/setup programs` installs them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::client::{Got, Upstream, get};
use super::firstmate::{Firstmate, assert_order};
use super::procfiles::{answer_late, procfiles, stop_with_a_request_in_flight};
use super::sandbox::{PATIENCE, Sandbox, edit, until, until_true};

/// Starts the definition, and compares when firstmate says that it is ready with when `serves` first succeeds.
pub fn start(sandbox: &Sandbox, name: &str, mounts: &str, serves: impl Fn() -> Result<(), String> + Clone + Send + 'static) -> Firstmate {
    let firstmate = Firstmate::start(sandbox, &procfiles().join(format!("{name}.toml")), mounts);
    let client = serves.clone();
    let first = std::thread::spawn(move || {
        until("it serves", client);
        Instant::now()
    });
    until("it is ready", || match firstmate.instance(&format!("{name}.1")) {
        Ok(instance) if instance.ready => Ok(()),
        other => Err(format!("{other:?}\n{}", firstmate.log())),
    });
    let ready = Instant::now();
    assert_eq!(serves(), Ok(()), "{name} is called ready and does not serve\n{}", firstmate.log());
    let late = ready.saturating_duration_since(first.join().unwrap());
    println!("{name} was called ready {late:?} after it first served");
    // Between the two there is also the command that asked.
    assert!(late < Duration::from_secs(1), "{name} served {late:?} before it was called ready\n{}", firstmate.log());
    firstmate
}

/// The main process is killed: nothing of it is left when the next run begins, and that one serves.
fn kill_and_come_back(firstmate: &Firstmate, name: &str, serves: impl Fn() -> Result<(), String>) {
    firstmate.kill_and_see_it_replaced(name);
    firstmate.wait_until_well();
    assert_eq!(serves(), Ok(()), "{}", firstmate.log());
    firstmate.wait_until_tidy();
    assert_order(&firstmate.said(), &[&format!("{name} killed by SIGKILL"), &format!("{name} restarts "), &format!("{name} started")]);
    let log = firstmate.log();
    for complaint in ["ddress already in use", "EADDRINUSE", "Can't start server", "could not bind", "Cannot bind"] {
        assert!(!log.contains(complaint), "{log}");
    }
}

pub fn hello(port: u16) -> Result<(), String> {
    match get(port, "/") {
        Got::Answer(200, body) if body == "hello\n" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// What a server says to these bytes, as far as it comes at once.
fn answer(port: u16, question: &[u8]) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    stream.write_all(question).map_err(told)?;
    let mut said = vec![0; 256];
    let length = stream.read(&mut said).map_err(told)?;
    said.truncate(length);
    Ok(said)
}

fn account(name: &str) -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("there is no user {name}"));
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// A directory in which a service's user may leave word.
fn open_directory(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.path().join(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    path
}

/// /srv/app is this directory.
fn srv_app(directory: &Path) -> String {
    format!("mount -t tmpfs none /srv; mkdir /srv/app; mount --bind {} /srv/app", directory.display())
}

fn arrived(file: &Path) {
    until_true("the request is in flight", || file.exists());
}

fn open(gate: &Path) {
    drop(std::fs::File::create(gate).unwrap());
}

#[test]
fn haproxy() {
    let sandbox = Sandbox::new("haproxy", &["haproxy"]);
    let conf = sandbox.copy_of("/etc/haproxy", "haproxy");
    edit(
        &conf.join("haproxy.cfg"),
        &[
            ("log /dev/log\tlocal0", "log stdout format raw local0\n\thard-stop-after 7s"),
            ("\tdaemon\n", ""),
            ("log /dev/log\tlocal1 notice", ""),
        ],
    );
    let mut text = std::fs::read_to_string(conf.join("haproxy.cfg")).unwrap();
    text += "\nfrontend front\n\tbind 127.0.0.1:80\n\tuse_backend slow if { path /slow }\n\
        \thttp-request return status 200 content-type text/plain string \"hello\\n\" if { path / }\nbackend slow\n\tserver one 127.0.0.1:9999\n";
    std::fs::write(conf.join("haproxy.cfg"), text).unwrap();
    let mounts = format!(
        "mount -t tmpfs none /run; install -d -o haproxy -g haproxy /run/haproxy; mount --bind {} /etc/haproxy; mount -t tmpfs none /var/lib/haproxy",
        conf.display()
    );
    let upstream = Upstream::new(9999);
    let serves = || hello(80);
    let firstmate = start(&sandbox, "haproxy", &mounts, serves);
    kill_and_come_back(&firstmate, "haproxy.1", serves);
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("haproxy.1", "SIGUSR1"),
        || get(80, "/slow"),
        || upstream.wait_for_a_request(),
        |_| answer_late(&upstream),
    );
    assert_eq!(got, Got::Answer(200, "late\n".to_owned()));
}

#[test]
fn memcached() {
    let sandbox = Sandbox::new("memcached", &["memcached"]);
    let serves = || match answer(11_211, b"set a 0 0 1\r\nx\r\n")? {
        said if said == b"STORED\r\n" => Ok(()),
        other => Err(String::from_utf8_lossy(&other).into_owned()),
    };
    let mut firstmate = start(&sandbox, "memcached", "mount -t tmpfs none /run", serves);
    kill_and_come_back(&firstmate, "memcached.1", serves);
    firstmate.stop();
    assert_order(&firstmate.said(), &["stopping memcached.1 with SIGTERM", "memcached.1 exited with code 0", "ended with code 0"]);
}

#[test]
fn postgresql() {
    let sandbox = Sandbox::new("postgresql", &["pg_ctlcluster"]);
    let data = sandbox.copy_of("/var/lib/postgresql", "data");
    let mounts = format!(
        "mount -t tmpfs none /run; install -d -o postgres -g postgres /run/postgresql; mount -t tmpfs none /var/log
        install -d -o postgres /var/log/postgresql; mount --bind {} /var/lib/postgresql",
        data.display()
    );
    // A start-up message (PostgreSQL documentation, protocol, message formats): `R` asks who we are, `E` says that it starts up still.
    let serves = || {
        let words = b"user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len()).unwrap() + 8;
        let question = [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), words].concat();
        let said = answer(5432, &question)?;
        if said.first() == Some(&b'R') { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
    };
    let mut firstmate = start(&sandbox, "postgresql", &mounts, serves);
    kill_and_come_back(&firstmate, "postgresql.1", serves);
    assert!(firstmate.log().contains("database system was not properly shut down"), "{}", firstmate.log());
    firstmate.stop();
    assert_order(&firstmate.said(), &["stopping postgresql.1 with SIGINT", "postgresql.1 exited with code 0", "ended with code 0"]);
    assert!(firstmate.log().contains("database system is shut down"), "{}", firstmate.log());
    // What was shut down in peace needs no recovery.
    let mut firstmate = start(&sandbox, "postgresql", &mounts, serves);
    assert!(!firstmate.log().contains("not properly shut down"), "{}", firstmate.log());
    firstmate.stop();
}

#[test]
fn mariadb() {
    let sandbox = Sandbox::new("mariadb", &["mariadbd", "mariadb-admin"]);
    let data = sandbox.copy_of("/var/lib/mysql", "data");
    let mounts = format!(
        "mount -t tmpfs none /run; install -d -o mysql -g mysql /run/mysqld; mount -t tmpfs none /var/log; install -d -o mysql /var/log/mysql
        mount --bind {} /var/lib/mysql",
        data.display()
    );
    // Its first packet is the handshake, version 10, or an error such as too many connections.
    let serves = || match answer(3306, b"")?.get(4) {
        Some(10) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let mut firstmate = start(&sandbox, "mariadb", &mounts, serves);
    kill_and_come_back(&firstmate, "mariadb.1", serves);
    firstmate.stop();
    assert_order(&firstmate.said(), &["stopping mariadb.1 with SIGTERM", "mariadb.1 exited with code 0", "ended with code 0"]);
    assert!(firstmate.log().contains("Shutdown complete"), "{}", firstmate.log());
}

#[test]
fn gunicorn() {
    let sandbox = Sandbox::new("gunicorn", &["gunicorn"]);
    let state = open_directory(&sandbox, "state");
    let (came, gate) = (state.join("arrived"), state.join("gate"));
    let app = sandbox.file(
        "app/app.py",
        &format!(
            "import os, time\n\ndef app(environ, start_response):\n    body = b'hello\\n'\n    if environ['PATH_INFO'] == '/slow':\n        \
             open('{}', 'w').close()\n        while not os.path.exists('{}'):\n            time.sleep(0.005)\n        body = b'late\\n'\n    \
             start_response('200 OK', [('Content-Length', str(len(body)))])\n    return [body]\n",
            came.display(),
            gate.display()
        ),
    );
    let serves = || hello(8000);
    let firstmate = start(&sandbox, "gunicorn", &srv_app(app.parent().unwrap()), serves);
    kill_and_come_back(&firstmate, "gunicorn.1", serves);
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("gunicorn.1", "SIGTERM"),
        || get(8000, "/slow"),
        || arrived(&came),
        |firstmate| {
            until_true("gunicorn knows", || firstmate.log().contains("Handling signal: term"));
            open(&gate);
        },
    );
    assert_eq!(got, Got::Answer(200, "late\n".to_owned()));
}

#[test]
fn node() {
    let sandbox = Sandbox::new("node", &["node"]);
    let state = open_directory(&sandbox, "state");
    let (came, gate) = (state.join("arrived"), state.join("gate"));
    let app = sandbox.file(
        "app/server.js",
        &format!(
            "const http = require('http'), fs = require('fs');\nconst server = http.createServer((request, response) => {{\n  \
             if (request.url !== '/slow') return response.end('hello\\n');\n  fs.writeFileSync('{}', '');\n  const wait = setInterval(() => {{\n    \
             if (!fs.existsSync('{}')) return;\n    clearInterval(wait);\n    response.end('late\\n');\n  }}, 5);\n}});\n\
             server.listen(process.env.PORT, '127.0.0.1');\nprocess.on('SIGTERM', () => {{\n  console.log('finishing');\n  \
             server.close(() => process.exit(0));\n  server.closeIdleConnections();\n}});\n",
            came.display(),
            gate.display()
        ),
    );
    let serves = || hello(3000);
    let firstmate = start(&sandbox, "node", &srv_app(app.parent().unwrap()), serves);
    kill_and_come_back(&firstmate, "node.1", serves);
    let got = stop_with_a_request_in_flight(
        firstmate,
        ("node.1", "SIGTERM"),
        || get(3000, "/slow"),
        || arrived(&came),
        |firstmate| {
            until_true("node knows", || firstmate.log().contains("node.1 out | finishing"));
            open(&gate);
        },
    );
    assert_eq!(got, Got::Answer(200, "late\n".to_owned()));
}

/// Its tasks come through a directory, so that nothing else need run.
#[test]
fn celery() {
    let sandbox = Sandbox::new("celery", &["celery"]);
    let (uid, gid) = account("www-data");
    for name in ["queue", "done", "state"] {
        let path = open_directory(&sandbox, name);
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    let root = sandbox.path().to_owned();
    let app = sandbox.file(
        "app/app.py",
        &format!(
            "import os, time\nfrom celery import Celery\n\napp = Celery('app', broker='filesystem://')\napp.conf.broker_transport_options = \
             {{'data_folder_in': '{0}/queue', 'data_folder_out': '{0}/queue', 'control_folder': '{0}/done'}}\n\n@app.task(ignore_result=True)\n\
             def leave(name):\n    open('{0}/state/' + name, 'w').close()\n\n@app.task(ignore_result=True)\ndef slow():\n    leave('arrived')\n    \
             while not os.path.exists('{0}/state/gate'):\n        time.sleep(0.005)\n    leave('late')\n",
            root.display()
        ),
    );
    let directory = app.parent().unwrap().to_owned();
    let send = move |text: &str| {
        // As the worker's user: the broker is a directory of files.
        let python = format!("import app; {text}");
        let output = Command::new("setpriv")
            .args(["--reuid=www-data", "--regid=www-data", "--clear-groups", "/usr/bin/python3", "-c", &python])
            .current_dir(&directory)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let state = root.join("state");
    // What was asked for before the worker was there is the first thing it does.
    send("app.leave.delay('first')");
    let first = state.join("first");
    let serves = {
        let first = first.clone();
        move || if first.exists() { Ok(()) } else { Err("the first task is not done".to_owned()) }
    };
    let firstmate = Firstmate::start(&sandbox, &procfiles().join("celery.toml"), &srv_app(app.parent().unwrap()));
    let client = std::thread::spawn(move || {
        until("it serves", serves);
        Instant::now()
    });
    firstmate.wait_until_well();
    let ready = Instant::now();
    let served = client.join().unwrap();
    let apart = ready.max(served) - ready.min(served);
    println!("celery was called ready {apart:?} beside its first task");
    assert!(apart < Duration::from_secs(1), "{}", firstmate.log());

    firstmate.kill_and_see_it_replaced("celery.1");
    firstmate.wait_until_well();
    send("app.leave.delay('second')");
    until_true("the next run works", || state.join("second").exists());
    firstmate.wait_until_tidy();

    send("app.slow.delay()");
    let (came, gate, late) = (state.join("arrived"), state.join("gate"), state.join("late"));
    stop_with_a_request_in_flight(
        firstmate,
        ("celery.1", "SIGTERM"),
        {
            let late = late.clone();
            move || until_true("the task is done", || late.exists())
        },
        || arrived(&came),
        |firstmate| {
            until_true("celery knows", || firstmate.log().contains("Warm shutdown"));
            open(&gate);
        },
    );
    assert!(late.exists());
}
