//! Redis writing its snapshot is told from a prefork server.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::ground::{Ground, MB, docker_capabilities, in_both_ways, kill, python, run};
use crate::stage::{until, words};

fn redis(ground: &mut Ground, user: Option<&str>) -> UnixStream {
    let argv: Vec<OsString> = words(
        "/usr/bin/redis-server --port 0 --unixsocket redis.sock --save --rdb-key-save-delay 2000 --daemonize no --enable-debug-command yes",
    );
    let pid = ground.start_as(0, &argv, true, user);
    ground.trees.started(run(0), "s0.1", pid);
    let socket = ground.scratch.join("redis.sock");
    until("redis listens", || UnixStream::connect(&socket).ok())
}

fn ask(redis: &mut UnixStream, command: &str) -> String {
    redis.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let length = redis.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn check_redis(ground: &mut Ground, user: Option<&str>) {
    let mut redis = redis(ground, user);
    assert!(ask(&mut redis, "DEBUG POPULATE 100000 key 1000").starts_with("+OK"));
    let before = ground.usage(0);
    assert!(before.rss.unwrap().anon > 100 * MB && !before.snapshot, "{before:?}");
    until("it has run for a second", || {
        (ask(&mut redis, "INFO server").contains("uptime_in_seconds:0").then_some(()).is_none()).then_some(())
    });
    until("a second more", || (!ask(&mut redis, "INFO server").contains("uptime_in_seconds:1\r")).then_some(()));
    assert!(ask(&mut redis, "BGSAVE").starts_with('+'));
    until("it is recognised", || ground.usage(0).snapshot.then_some(()));
    let during = ground.usage(0);
    assert_eq!(during.rss.unwrap().processes, 2);
    assert!(during.rss.unwrap().anon > 200 * MB, "both hold all of it");
    assert!(during.top.iter().all(|process| process.name == "redis-server"));
    // A parent that is not worth it has none.
    let accounts = ground.accountant.account(&mut ground.trees, 4096 * MB);
    assert!(accounts.runs[0].snapshot, "once recognised, it stays one");
    let mut other = firstmate::linux::memory::account::Accountant::new();
    assert!(!other.account(&mut ground.trees, 4096 * MB).runs[0].snapshot);
    let child = ground.usage(0).top.iter().map(|process| process.pid).max().unwrap();
    // As Redis itself ends it.
    kill(child, libc::SIGUSR1);
    until("it is over", || (!ground.usage(0).snapshot).then_some(()));
    assert_eq!(ground.rss(0).processes, 1);
}

#[test]
fn a_redis_that_saves_is_recognised() {
    in_both_ways(|ground| check_redis(ground, None));
}

#[test]
fn also_another_users_under_dockers_capabilities() {
    let mut ground = Ground::new(true);
    docker_capabilities();
    check_redis(&mut ground, Some("www-data"));
    ground.clear();
}

#[test]
fn php_fpm_with_twenty_workers_has_none() {
    let mut ground = Ground::new(true);
    let text = "[global]\nerror_log = /dev/null\ndaemonize = no\n[www]\nuser = www-data\ngroup = www-data\nlisten = php.sock\npm = static\npm.max_children = 20\n";
    std::fs::write(ground.scratch.join("fpm.conf"), text.replace("php.sock", ground.scratch.join("php.sock").to_str().unwrap())).unwrap();
    ground.start(0, &words("/usr/sbin/php-fpm8.2 -F -y fpm.conf"));
    until("all workers are there", || (ground.usage(0).rss.unwrap().processes == 21).then_some(()));
    let oldest = ticks() + 150;
    // Whatever is called large: also when the master is.
    until("nobody is too young", || {
        let usage = ground.accountant.account(&mut ground.trees, 1).runs.remove(0);
        assert!(!usage.snapshot, "{usage:?}");
        (ticks() > oldest).then_some(())
    });
    ground.clear();
}

/// As /proc/PID/stat has it.
fn ticks() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let (seconds, hundredths) = uptime.split(' ').next().unwrap().split_once('.').unwrap();
    seconds.parse::<u64>().unwrap() * 100 + hundredths.parse::<u64>().unwrap()
}

/// A master of 100 MB with workers as large, which come a while after it.
fn preloaded(workers: usize) -> String {
    format!(
        "data = b'x' * (100 << 20)\ntime.sleep(1.5)\nfor n in range({workers}):\n  if os.fork() == 0:\n    open(f'worker{{n}}', 'w').write(str(os.getpid()))\n    signal.pause()"
    )
}

#[test]
fn preloaded_workers_are_none() {
    let mut ground = Ground::new(true);
    ground.start(0, &python(&preloaded(3), "ready"));
    let pids: Vec<u32> = ["worker0", "worker1", "worker2", "ready"].map(|file| ground.pid_in(file)).into();
    let oldest = ticks() + 50;
    until("nobody is too young", || {
        let usage = ground.usage(0);
        assert!(!usage.snapshot, "{usage:?}");
        (ticks() > oldest).then_some(())
    });
    // One is left over for a moment, until the master replaces the others.
    kill(pids[0], libc::SIGKILL);
    kill(pids[1], libc::SIGKILL);
    until("two are dead", || (ground.census().of(run(0)).len() == 2).then_some(()));
    assert!(!ground.usage(0).snapshot);
    ground.clear();
}

#[test]
fn a_worker_that_leaks_is_none() {
    let mut ground = Ground::new(true);
    let leak = "[time.sleep(0.01) for _ in iter(lambda: os.path.exists('leak'), True)]; more = b'y' * (20 << 20); open('leaked', 'w').write('1'); signal.pause()";
    let code = preloaded(1).replace("signal.pause()", leak);
    ground.start(0, &python(&code, "ready"));
    ground.pid_in("worker0");
    until("one worker may be anything", || ground.usage(0).snapshot.then_some(()));
    std::fs::write(ground.scratch.join("leak"), "").unwrap();
    ground.pid_in("leaked");
    assert!(!ground.usage(0).snapshot, "a snapshot does not grow");
    ground.clear();
}

#[test]
fn a_program_that_is_executed_is_none() {
    let mut ground = Ground::new(true);
    let code = "data = b'x' * (100 << 20)\ntime.sleep(1.2)\nif os.fork() == 0:\n  os.execv('/usr/bin/python3', ['python3', '-c', 'import time; data = b\"x\" * (100 << 20); open(\"program\", \"w\").write(\"1\"); time.sleep(1000)'])";
    ground.start(0, &python(code, "ready"));
    ground.pid_in("program");
    let oldest = ticks() + 30;
    until("nobody is too young", || {
        assert!(!ground.usage(0).snapshot);
        (ticks() > oldest).then_some(())
    });
    ground.clear();
}
