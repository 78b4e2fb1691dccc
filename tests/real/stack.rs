//! `examples/all-in-one` whole: its own file, its own configuration, its own users.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use firstmate::engine::status::StateName;

use super::client::{Got, get, redis};
use super::firstmate::{Firstmate, assert_order};
use super::processes;
use super::sandbox::{Sandbox, until};

pub const PROGRAMS: [&str; 6] = ["nginx", "php", "php-fpm8.2", "redis-server", "redis-cli", "unshare"];
pub const PORT: u16 = 8080;
/// The stack's own promise; see its firstmate.toml.
const BUDGET: Duration = Duration::from_secs(8);
const LEADERS: [&str; 5] = ["nginx.1", "php-fpm.1", "redis.1", "worker.1", "worker.2"];

pub fn run_script() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/all-in-one/run"))
}

pub struct Stack {
    pub firstmate: Firstmate,
    directory: PathBuf,
}

impl Stack {
    /// Comes up in the directory the example's own script prepares.
    pub fn start(sandbox: &Sandbox) -> Self {
        let directory = sandbox.path().join("stack");
        let mut script = Command::new(run_script());
        let prepared = script.arg("--prepare").env("STACK_DIR", &directory).env("STACK_INSTALL", "0").output().unwrap();
        assert!(prepared.status.success(), "{prepared:?}");
        let socket = directory.join("run/firstmate.sock");
        let firstmate = Firstmate::start_with_socket(sandbox, &directory.join("firstmate.toml"), "", socket);
        firstmate.wait_until_well();
        Self { firstmate, directory }
    }

    /// What the page says in its plain form.
    pub fn page(&self) -> Result<BTreeMap<String, u64>, String> {
        match get(PORT, "/?plain=1") {
            Got::Answer(200, text) => {
                let fields = text.lines().filter_map(|line| line.rsplit_once(' '));
                Ok(fields.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
            }
            other => Err(format!("{other:?}")),
        }
    }

    pub fn enqueue(&self, count: u32, ms: u32) {
        assert_eq!(get(PORT, &format!("/enqueue?n={count}&ms={ms}")), Got::Answer(202, format!("queued {count}\n")));
    }

    fn wait_for_the_page(&self) -> BTreeMap<String, u64> {
        until("the page answers", || self.page().map_err(|why| format!("{why}\n{}", self.firstmate.log())))
    }

    pub fn wait_until_all_jobs_are_done(&self, queued: u64) {
        until("all jobs are done", || {
            let page = self.page()?;
            assert_eq!(page["jobs_queued"], queued, "{page:?}");
            let rest = page["jobs_waiting"] + page["jobs_in_hand"];
            if page["jobs_done"] == queued && rest == 0 { Ok(()) } else { Err(format!("{page:?}")) }
        });
    }

    /// Waits until the kernel has everything Redis was told: while a slow disk keeps an fsync waiting, `appendfsync everysec` may hold
    /// writes back for up to 2 s (redis.conf).
    fn wait_until_redis_has_written(&self) {
        until("redis has written", || {
            let socket = UnixStream::connect(self.directory.join("run/redis.sock")).map_err(|error| error.to_string())?;
            let info = redis(socket, "INFO persistence")?;
            let written = ["aof_buffer_length:0", "aof_pending_bio_fsync:0"].iter().all(|field| info.lines().any(|line| line == *field));
            if written { Ok(()) } else { Err(info) }
        });
    }

    /// After something was killed: the page answers, all is well, nothing of a dead run is left.
    fn wait_until_healed(&self) {
        self.wait_for_the_page();
        self.firstmate.wait_until_well();
        self.firstmate.wait_until_tidy();
        let log = self.firstmate.log();
        for complaint in ["ddress already in use", "Address in use", "EADDRINUSE"] {
            assert!(!log.contains(complaint), "{log}");
        }
    }
}

#[test]
fn comes_up_in_order_and_does_its_work() {
    let sandbox = Sandbox::new("up", &PROGRAMS);
    let mut stack = Stack::start(&sandbox);
    let said = stack.firstmate.said();
    for dependent in ["php-fpm.1", "worker.1", "worker.2"] {
        assert_order(
            &said,
            &["redis.1 started", "redis.1 ready", "migrate.1 started", "migrate.1 completed", &format!("{dependent} started")],
        );
    }
    assert_order(&said, &["php-fpm.1 ready", "nginx.1 started", "nginx.1 ready"]);
    assert!(!said.iter().any(|text| text.contains("warn")), "{said:#?}");

    let first = stack.wait_for_the_page();
    let second = stack.wait_for_the_page();
    assert_eq!((first["visits"], second["visits"]), (1, 2));
    assert_eq!(second["supervisor_pid"], 1);
    stack.enqueue(6, 50);
    stack.wait_until_all_jobs_are_done(6);
    let page = stack.wait_for_the_page();
    let done_by: u64 = page.iter().filter(|(name, _)| name.starts_with("done_by{worker=\"worker.")).map(|(_, count)| count).sum();
    assert_eq!(done_by, 6, "{page:?}");
    assert!(matches!(get(PORT, "/badge.svg"), Got::Answer(200, svg) if svg.starts_with("<svg ")));
    let Got::Answer(200, html) = get(PORT, "/") else { panic!("no page") };
    assert!(html.contains("Badges, all in one container") && html.trim_end().ends_with("</html>"), "{html}");

    let (code, table) = stack.firstmate.ask(&["status"]);
    assert_eq!(code, Some(0), "{table}");
    // The last line may be the container's memory, whose name has no dot.
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().take(2).collect()).filter(|row: &Vec<&str>| row[0].contains('.')).collect();
    let expected = [
        ["redis.1", "RUNNING"],
        ["migrate.1", "COMPLETED"],
        ["php-fpm.1", "RUNNING"],
        ["nginx.1", "RUNNING"],
        ["worker.1", "RUNNING"],
        ["worker.2", "RUNNING"],
    ];
    assert_eq!(rows, expected, "{table}");
    assert!(matches!(get(9180, "/readyz"), Got::Answer(200, text) if text == "ok"));

    stack.firstmate.wait_until_tidy();
    // Each program is who it is meant to be.
    let ids = |name: &str| {
        let leader = until(name, || stack.firstmate.leader(name));
        let status = std::fs::read_to_string(format!("/proc/{}/status", leader.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().split('\t').next().unwrap().to_owned()
    };
    assert!(ids("redis.1") != "0" && ids("nginx.1") != "0" && ids("redis.1") != ids("nginx.1"));
    assert_eq!(ids("nginx.1"), ids("php-fpm.1"));
    assert_eq!(ids("nginx.1"), ids("worker.1"));
    stack.firstmate.stop();
}

#[test]
fn a_killed_worker_loses_no_job() {
    let sandbox = Sandbox::new("worker", &PROGRAMS);
    let mut stack = Stack::start(&sandbox);
    stack.enqueue(4, 1500);
    until("both workers have a job in hand", || {
        let page = stack.page()?;
        if page["jobs_in_hand"] == 2 { Ok(()) } else { Err(format!("{page:?}")) }
    });
    stack.firstmate.kill_and_see_it_replaced("worker.1");
    stack.wait_until_all_jobs_are_done(4);
    assert!(stack.firstmate.log().contains("took back 1 job(s)"), "{}", stack.firstmate.log());
    stack.wait_until_healed();
    stack.firstmate.stop();
}

#[test]
fn the_counter_survives_redis_and_the_stack() {
    let sandbox = Sandbox::new("counter", &PROGRAMS);
    let mut stack = Stack::start(&sandbox);
    let mut before = 0;
    for _ in 0..20 {
        before = stack.wait_for_the_page()["visits"];
    }
    assert_eq!(before, 20);
    stack.wait_until_redis_has_written();
    stack.firstmate.kill_and_see_it_replaced("redis.1");
    stack.wait_until_healed();
    let after = stack.wait_for_the_page()["visits"];
    // Pages that were asked for in the meantime, the last of them among these, may have counted too.
    assert!(after > before, "{before} visits, then {after}");
    let killed = stack.firstmate.said();
    assert_order(&killed, &["redis.1 ready", "redis.1 killed by SIGKILL", "redis.1 restarts", "redis.1 started", "redis.1 ready"]);

    stack.firstmate.stop();
    let mut stack = Stack::start(&sandbox);
    assert_eq!(stack.wait_for_the_page()["visits"], after + 1);
    assert!(stack.firstmate.log().contains("migrate.1 out | schema 1 is current"), "{}", stack.firstmate.log());
    stack.firstmate.stop();
}

#[test]
fn stops_under_load_in_order_and_cuts_nothing() {
    let sandbox = Sandbox::new("load", &PROGRAMS);
    let mut stack = Stack::start(&sandbox);
    stack.enqueue(20, 300);
    // Each client asks again and again, until nobody answers any more.
    let next = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let next = Arc::clone(&next);
            std::thread::spawn(move || {
                let mut asked = Vec::new();
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    let since = Instant::now();
                    let got = get(PORT, &format!("/slow?ms=150&id={id}"));
                    let over = matches!(got, Got::Nothing(_));
                    asked.push((id, since, Instant::now(), got));
                    if over {
                        return asked;
                    }
                }
            })
        })
        .collect();
    until("there is load", || if next.load(Ordering::Relaxed) > 60 { Ok(()) } else { Err(stack.firstmate.log()) });

    let signalled = Instant::now();
    let took = stack.firstmate.stop();
    assert!(took < BUDGET, "{took:?}");
    let asked: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let log = stack.firstmate.log();
    let logged = |id: u32| {
        let request = format!("\"GET /slow?ms=150&id={id} HTTP/1.1\" ");
        log.lines().find_map(|line| line.split_once(&request)).map(|(_, rest)| rest.get(..3).unwrap().to_owned())
    };
    let mut in_flight = 0;
    for (id, since, at, got) in &asked {
        match got {
            Got::Answer(200, _) => {
                assert_eq!(logged(*id).as_deref(), Some("200"), "request {id} is not in the log");
                in_flight += u32::from(*since < signalled && *at > signalled);
            }
            // Still in the kernel's queue when nginx closed the port: nginx knows nothing of it.
            Got::Nothing(why) => assert_eq!(logged(*id), None, "request {id} was accepted and not answered ({why})"),
            Got::Answer(..) | Got::Cut(_) => panic!("request {id}: {got:?}\n{log}"),
        }
    }
    assert!(in_flight >= 4, "only {in_flight} requests were in flight:\n{log}");
    let said = stack.firstmate.said();
    assert!(!said.iter().any(|text| text.contains("SIGKILL to")), "{said:#?}");
    assert_order(
        &said,
        &["stopping everything within 8 s", "stopping nginx.1 with SIGQUIT", "nginx.1 stopped", "stopping php-fpm.1 with SIGQUIT"],
    );
    for earlier in ["nginx.1", "php-fpm.1", "worker.1", "worker.2"] {
        assert_order(&said, &[&format!("{earlier} stopped"), "stopping redis.1 with SIGTERM", "redis.1 stopped", "ended with code 0"]);
    }
    assert!(said.last().is_some_and(|text| text.starts_with("ended with code 0")), "{said:#?}");
}

/// Whatever is killed, in turn and all at once, the stack heals; `FIRSTMATE_ROUNDS` times.
#[test]
fn heals_whatever_is_killed() {
    let rounds: u32 = std::env::var("FIRSTMATE_ROUNDS").map_or(3, |rounds| rounds.parse().expect("FIRSTMATE_ROUNDS is a number"));
    let sandbox = Sandbox::new("rounds", &PROGRAMS);
    let mut stack = Stack::start(&sandbox);
    let mut visits = 0;
    let mut counts = |stack: &Stack| {
        stack.wait_until_redis_has_written();
        let now = stack.wait_for_the_page()["visits"];
        assert!(now > visits, "{visits} visits, then {now}");
        visits = now;
        stack.wait_until_redis_has_written();
    };
    for round in 0..rounds {
        for victim in ["nginx.1", "php-fpm.1", "redis.1", if round % 2 == 0 { "worker.1" } else { "worker.2" }] {
            counts(&stack);
            stack.firstmate.kill_and_see_it_replaced(victim);
            stack.wait_until_healed();
        }
        counts(&stack);
        let pids = LEADERS.map(|name| until(name, || stack.firstmate.leader(name)).pid);
        for pid in pids {
            // A worker whose Redis is gone may end before its turn comes.
            processes::kill_if_there(pid, libc::SIGKILL);
        }
        until("all are replaced", || {
            let status = stack.firstmate.status()?;
            let below = processes::below(stack.firstmate.pid);
            let left: Vec<_> = below.iter().filter(|process| pids.contains(&process.pid) || pids.contains(&process.session)).collect();
            let up = status.services.iter().flat_map(|service| &service.instances).filter(|one| one.state == StateName::Running).count();
            if left.is_empty() && up == LEADERS.len() { Ok(()) } else { Err(format!("{left:?}, {up} are up")) }
        });
        stack.wait_until_healed();
    }
    counts(&stack);
    stack.enqueue(2, 10);
    stack.wait_until_all_jobs_are_done(2);
    stack.firstmate.stop();
}
