//! The same leak, 50 MB/s in 512 MiB, under what people use today: does it come in time, or does the kernel?
//!
//! Each peer restarts its program above 75 % of the limit, and looks as often as it does when nobody tells it otherwise, and then as often as
//! it can be told to. `tests/guard/peers` installs them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cell;
use super::cgroup::Cgroup;
use super::stage::{Directory, MIB, Place, Stage};
use super::trial::{Guard, Rate, Start, Trial, percent};

const LIMIT: u64 = 512;
/// 75 % of it.
const LINE: u64 = 384;

/// A supervisor and how often it looks.
struct Peer {
    name: &'static str,
    looks: &'static str,
    files: Vec<(&'static str, String)>,
    words: Vec<String>,
    env: Vec<(&'static str, &'static str)>,
}

fn installed(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(path);
    path.is_file().then_some(path)
}

/// Debian's own file says 120 s.
fn monit(looks: &'static str) -> Option<Peer> {
    let program = Some(PathBuf::from("/usr/bin/monit")).filter(|path| path.is_file()).or_else(|| installed("monit/usr/bin/monit"))?;
    let seconds = looks.trim_end_matches('s');
    let rc = format!(
        "set daemon {seconds}\nset log {{dir}}/monit.log\nset pidfile {{dir}}/monit.pid\nset idfile {{dir}}/monit.id\nset statefile {{dir}}/monit.state\n\
         check process leaker with pidfile {{dir}}/leaker.pid\n  start program = \"{{dir}}/begin\"\n  stop program = \"{{dir}}/end\"\n  \
         if totalmem > {LINE} MB then restart\n"
    )
    .replace("\\\n", "\n");
    Some(Peer {
        name: "monit",
        looks,
        files: vec![
            ("monitrc", rc),
            ("begin", "#!/bin/sh\nsetsid {leak} >/dev/null 2>&1 &\necho $! >{dir}/leaker.pid\n".to_owned()),
            ("end", "#!/bin/sh\nkill $(cat {dir}/leaker.pid)\n".to_owned()),
        ],
        words: [program.to_str()?, "-I", "-c", "{dir}/monitrc"].map(str::to_owned).to_vec(),
        env: Vec::new(),
    })
}

/// superlance's documentation recommends TICK_60.
fn memmon(looks: &'static str, event: &str) -> Option<Peer> {
    let (supervisord, memmon) = (installed("venv/bin/supervisord")?, installed("venv/bin/memmon")?);
    let conf = format!(
        "[supervisord]\nnodaemon=true\nuser=root\nlogfile={{dir}}/supervisord.log\npidfile={{dir}}/supervisord.pid\n[unix_http_server]\nfile={{dir}}/sock\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n[supervisorctl]\n\
         serverurl=unix://{{dir}}/sock\n[program:leaker]\ncommand={{leak}}\n[eventlistener:memmon]\ncommand={} -p leaker={LINE}MB\nevents={event}\n",
        memmon.display()
    );
    let words = [supervisord.to_str()?, "-c", "{dir}/supervisord.conf"].map(str::to_owned).to_vec();
    Some(Peer { name: "supervisor+memmon", looks, files: vec![("supervisord.conf", conf)], words, env: Vec::new() })
}

fn pm2(looks: &'static str, interval: &'static str) -> Option<Peer> {
    let program = installed("pm2/node_modules/pm2/bin/pm2")?;
    let command = "#!/bin/sh\nexec {leak}\n".to_owned();
    let line = format!("{LINE}M");
    let words = ["node", program.to_str()?, "start", "{dir}/command", "--name", "leaker", "--interpreter", "none"];
    let rest = ["--max-memory-restart", &line, "--no-daemon"];
    let words = words.iter().chain(&rest).map(|word| (*word).to_owned()).collect();
    let env = vec![("PM2_HOME", "{dir}/pm2"), ("HOME", "{dir}"), ("PM2_WORKER_INTERVAL", interval)];
    Some(Peer { name: "pm2", looks, files: vec![("command", command)], words, env })
}

/// How it went: OOM kills, and the highest share of the limit there was.
fn race(peer: &Peer, after: &str, base: &str) -> (u64, f64) {
    let directory = Directory::new();
    let leak = format!("{{leaker}} leak limit={LIMIT}MiB rate=50 mark=5MiB base={base} after={after} to={{dir}}/notes");
    for (name, text) in &peer.files {
        let path = directory.0.join(name);
        std::fs::write(&path, directory.filled(&text.replace("{leak}", &leak))).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let words: Vec<&str> = peer.words.iter().map(String::as_str).collect();
    let stage = Stage::run(Cgroup::new(LIMIT * MIB, None), directory, &words, &peer.env);
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut first = None;
    loop {
        let now = stage
            .cgroup
            .pids_with("leak")
            .into_iter()
            .find(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("leaker")));
        first = first.or(now);
        let over = stage.oom_kills() > 0 || (first.is_some() && now != first);
        if over {
            return (stage.oom_kills(), percent(stage.cgroup.peak(), stage.cgroup.limit));
        }
        let notes = std::fs::read_to_string(stage.directory.0.join("notes")).unwrap_or_default();
        assert!(
            Instant::now() < deadline,
            "{} has not brought it to an end; the leaker's notes:\n{notes}\n{}",
            peer.name,
            stage.log.tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Its line; the OOM kills.
fn report(peer: &Peer, runs: &[(&str, &str)]) -> u64 {
    let outcomes: Vec<(u64, f64)> = runs.iter().map(|(after, base)| race(peer, after, base)).collect();
    let oom = outcomes.iter().filter(|(oom, _)| *oom > 0).count();
    let acted: Vec<String> = outcomes.iter().filter(|(oom, _)| *oom == 0).map(|(_, peak)| format!("{peak:.1}")).collect();
    println!(
        "GUARD item=8 peer={} looks={} rate=50 limit={LIMIT} runs={} oom={oom} acted_at={}",
        peer.name,
        peer.looks,
        runs.len(),
        if acted.is_empty() { "-".to_owned() } else { acted.join(",") }
    );
    oom as u64
}

fn firstmate(guard: Guard, base: Option<f64>) -> Trial {
    let start = Start::Quiet(Duration::from_millis(500));
    Trial { rate: Rate::PerSecond(50.0), limit: LIMIT, start, guard, place: Place::Init, base, ..Trial::default() }
}

#[test]
fn under_monit_the_kernel_kills_what_the_guard_restarts() {
    let peer = monit("120s").expect("there is no monit; run `tests/setup packages` or `tests/guard/peers monit`");
    assert_eq!(report(&peer, &[("1s", "70%")]), 1);
    cell::run_and_judge(&[firstmate(Guard::Default, Some(70.0))]);
}

/// Where a peer cannot be installed its line says so, in the table as well.
#[test]
#[ignore = "minutes; make guard-matrix"]
fn matrix_peers() {
    let peers = [
        ("monit", "120s", monit("120s")),
        ("monit", "1s", monit("1s")),
        ("supervisor+memmon", "60s", memmon("60s", "TICK_60")),
        ("supervisor+memmon", "5s", memmon("5s", "TICK_5")),
        ("pm2", "30s", pm2("30s", "30000")),
        ("pm2", "1s", pm2("1s", "1000")),
    ];
    for (name, looks, peer) in &peers {
        match peer {
            // At different moments of their cycles.
            Some(peer) => drop(report(peer, &[("5s", "0"), ("14s", "0"), ("22s", "0")])),
            None => println!("GUARD item=8 peer={name} looks={looks} skipped=could-not-be-installed"),
        }
    }
    for guard in [Guard::Default, Guard::AtOnce] {
        let trial = firstmate(guard, Some(0.0));
        let outcomes = cell::run(&vec![trial.clone(); 3], 1);
        let acted: Vec<String> = outcomes.iter().filter_map(|one| one.act.as_ref()).map(|act| format!("{:.1}", act.percent)).collect();
        let oom: u64 = outcomes.iter().map(|one| one.oom).sum();
        let looks = if guard == Guard::AtOnce { "confirm=0s" } else { "by-default" };
        println!("GUARD item=8 peer=firstmate looks={looks} rate=50 limit={LIMIT} runs=3 oom={oom} acted_at={}", acted.join(","));
        cell::judge(&[(trial, outcomes)]);
    }
}
