//! Rolling restarts under load: three web instances behind nginx, four workers on a queue. Nobody outside notices.
//!
//! Each test ends with its control: the same load, and a restart that does not roll. What would not notice that proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use firstmate::engine::status::{InstanceStatus, Status};
use firstmate::observe::happening::{Happening, What};

use super::client::{Got, get, redis};
use super::firstmate::{Firstmate, binary};
use super::sandbox::{Sandbox, until};
use super::stack;

const PORT: u16 = 8080;

/// How often everything is restarted.
const ROUNDS: u32 = 3;

/// Counts each answer by its status and, of a good one, by its first word; at the end tells those, and each kind of request that got none.
const TALLY: &str = r#"
local threads = {}
function setup(thread) table.insert(threads, thread) end
answers = {}
function response(status, headers, body)
    local key = status == 200 and body:match("^%S*") or tostring(status)
    answers[key] = (answers[key] or 0) + 1
end
function done(summary, latency, requests)
    print("outcome all " .. summary.requests)
    for kind, count in pairs(summary.errors) do
        if kind ~= "status" then print("outcome " .. kind .. " " .. count) end
    end
    for _, thread in ipairs(threads) do
        for key, count in pairs(thread:get("answers")) do print("outcome " .. key .. " " .. count) end
    end
end
"#;

/// A program of the test's own, ended with it.
struct Load(Child);

impl Load {
    fn on(url: &str, sandbox: &Sandbox) -> Self {
        let tally = sandbox.file("tally.lua", TALLY);
        let command = Command::new("wrk")
            .args(["-t", "1", "-c", "4", "-d", "1h", "--timeout", "20s", "-s"])
            .arg(tally)
            .arg(url)
            .stdout(Stdio::piped())
            .spawn();
        Self(command.expect("cannot execute wrk; run `tests/setup programs`"))
    }

    /// wrk tells what it has when it is interrupted.
    fn end(mut self) -> Outcomes {
        // SAFETY: the test's own child, not waited for yet.
        unsafe { libc::kill(i32::try_from(self.0.id()).unwrap(), libc::SIGINT) };
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for line in said.lines().filter_map(|line| line.strip_prefix("outcome ")) {
            let (what, count) = line.rsplit_once(' ').unwrap();
            counts.insert(what.to_owned(), count.parse().unwrap());
        }
        let all = counts.remove("all").unwrap_or_else(|| panic!("wrk says nothing of requests:\n{said}"));
        let (good, failed): (BTreeMap<_, _>, BTreeMap<_, _>) = counts.into_iter().partition(|(what, _)| what.starts_with("web."));
        let failed: BTreeMap<String, u64> = failed.into_iter().filter(|(_, count)| *count > 0).collect();
        Outcomes { all, good, failed }
    }
}

/// What became of the requests.
#[derive(Debug)]
struct Outcomes {
    /// Answered in some way.
    all: u64,
    /// Answered with 200, by who did it.
    good: BTreeMap<String, u64>,
    /// By their status, or as what wrk has for those without an answer: `connect`, `read`, `write`, `timeout`.
    failed: BTreeMap<String, u64>,
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at a service's readiness all the time, beside whatever else happens.
struct Watch {
    over: Arc<AtomicBool>,
    fewest: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn new(firstmate: &Firstmate, service: &'static str) -> Self {
        let (over, fewest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (is_over, least, socket) = (Arc::clone(&over), Arc::clone(&fewest), firstmate.socket.clone());
        let look = move || {
            let output = Command::new(binary()).args(["status", "--json", service, "--socket"]).arg(&socket).env_clear().output().unwrap();
            let status: Status = serde_json::from_slice(&output.stdout).unwrap();
            least.fetch_min(status.services[0].instances.iter().filter(|instance| instance.ready).count(), Ordering::Relaxed);
        };
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                look();
            }
        });
        Self { over, fewest, thread: Some(thread) }
    }

    /// The fewest ready instances there ever were.
    fn end(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.fewest.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Everything that happens, as `events -f` tells it.
struct Story {
    child: Child,
    told: Arc<Mutex<Vec<Happening>>>,
}

impl Story {
    fn of(firstmate: &Firstmate) -> Self {
        let mut command = Command::new(binary());
        command.args(["events", "-f", "--json", "--socket"]).arg(&firstmate.socket).env_clear().stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let story = Self { child, told };
        story.now(firstmate);
        story
    }

    /// The number of what happened last; everything until then is heard.
    fn now(&self, firstmate: &Firstmate) -> u64 {
        let (code, text) = firstmate.ask(&["events", "-n", "1", "--json"]);
        assert_eq!(code, Some(0), "{text}");
        let last = serde_json::from_str::<Happening>(&text).unwrap().number.unwrap();
        until("the story is heard so far", || {
            let heard = self.told.lock().unwrap().len();
            if heard as u64 >= last { Ok(last) } else { Err(format!("{heard} of {last}")) }
        })
    }

    /// The fewest instances of a service that were ready at once, from one event to another; no moment is between two events.
    fn fewest(&self, service: &str, from: u64, to: u64) -> usize {
        let told = self.told.lock().unwrap();
        let mut ready: BTreeSet<&str> = BTreeSet::new();
        let mut fewest = usize::MAX;
        for (happening, number) in told.iter().zip(1..=to) {
            assert_eq!(happening.number, Some(number), "none is lost: {happening:?}");
            if let Some(instance) = happening.instance.as_deref().filter(|name| name.split('.').next() == Some(service)) {
                match happening.what {
                    What::Ready { .. } => {
                        ready.insert(instance);
                    }
                    What::NotReady { .. } | What::Stopping { .. } | What::Ended { .. } => {
                        ready.remove(instance);
                    }
                    _ => {}
                }
            }
            if number >= from {
                fewest = fewest.min(ready.len());
            }
        }
        fewest
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn runs(firstmate: &Firstmate, service: &str) -> Vec<u32> {
    let status = until("the status", || firstmate.status());
    let instances = |service: firstmate::engine::status::ServiceStatus| service.instances;
    let found = status.services.into_iter().find(|known| known.name == service).map(instances).unwrap();
    found.iter().map(|instance: &InstanceStatus| instance.run).collect()
}

/// Gunicorn finishes what it has in hand and closes its port; nginx then asks another one. `max_fails=0`: else nginx leaves a server
/// out for 10 s that has just come back, and the next one is restarted meanwhile.
#[test]
fn three_web_instances_behind_nginx_lose_no_request() {
    let sandbox = Sandbox::new("rolling", &["nginx", "gunicorn", "wrk", "bash", "unshare"]);
    let dir = sandbox.path().display().to_string();
    sandbox.file("app.py", "import os\ndef app(environ, start):\n    body = (os.environ['PS'] + '\\n').encode()\n    start('200 OK', [('Content-Length', str(len(body)))])\n    return [body]\n");
    sandbox.file(
        "Procfile",
        "web: gunicorn --bind 127.0.0.1:$PORT --workers 1 --graceful-timeout 6 --worker-tmp-dir /dev/shm app:app\n\
         nginx: nginx -e stderr -c $CONF\n",
    );
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {dir}/{name};")).join(" ");
    sandbox.file(
        "nginx.conf",
        &format!(
            "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off; {temp}\n\
             upstream web {{ server 127.0.0.1:5000 max_fails=0; server 127.0.0.1:5001 max_fails=0; server 127.0.0.1:5002 max_fails=0; }}\n\
             server {{ listen 127.0.0.1:{PORT}; location / {{ proxy_pass http://web; proxy_next_upstream error timeout; }} }} }}\n"
        ),
    );
    let file = sandbox.file(
        "firstmate.toml",
        &format!(
            "procfile = 'Procfile'\n[services.web]\ninstances = 3\nstop_timeout = '8s'\n\
             ready = {{ exec = ['bash', '-c', ': </dev/tcp/127.0.0.1/$PORT'], every = '200ms', timeout = '5s' }}\n\
             [services.nginx]\nstop_signal = 'QUIT'\nenv = {{ CONF = '{dir}/nginx.conf' }}\nready = {{ tcp = '127.0.0.1:{PORT}' }}\n"
        ),
    );
    let mut firstmate = Firstmate::start(&sandbox, &file, "");
    firstmate.wait_until_well();
    until("nginx answers", || match get(PORT, "/") {
        Got::Answer(200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let story = Story::of(&firstmate);
    let url = format!("http://127.0.0.1:{PORT}/");
    let restarted = "web.1: restarted\nweb.2: restarted\nweb.3: restarted\n";

    let load = Load::on(&url, &sandbox);
    let watch = Watch::new(&firstmate, "web");
    let begin = story.now(&firstmate);
    for round in 1..=ROUNDS {
        let (code, said) = firstmate.ask(&["restart", "--rolling", "web"]);
        assert_eq!((code, said.as_str()), (Some(0), restarted), "{}", firstmate.log());
        assert_eq!(runs(&firstmate, "web"), [round + 1; 3]);
    }
    assert_eq!(watch.end(), 2, "one at a time was away, and never two");
    assert_eq!(story.fewest("web", begin, story.now(&firstmate)), 2, "nor between two looks");
    let outcomes = load.end();
    println!("{ROUNDS} rolling restarts of 3: {outcomes:?}");
    assert!(outcomes.failed.is_empty(), "{outcomes:?}");
    assert_eq!(outcomes.good.values().sum::<u64>(), outcomes.all, "each has an outcome");
    assert!(outcomes.all > 100 && outcomes.good.len() == 3, "that is hardly a load: {outcomes:?}");
    assert!(!firstmate.log().contains("sending SIGKILL"), "{}", firstmate.log());

    // The control: without --rolling the same load does notice.
    let load = Load::on(&url, &sandbox);
    let begin = story.now(&firstmate);
    let (code, said) = firstmate.ask(&["restart", "web"]);
    assert_eq!((code, said.as_str()), (Some(0), restarted), "{}", firstmate.log());
    assert_eq!(story.fewest("web", begin, story.now(&firstmate)), 0);
    let outcomes = load.end();
    println!("a plain restart: {outcomes:?}");
    assert!(outcomes.failed.values().sum::<u64>() > 0, "{outcomes:?}");
    firstmate.stop();
}

/// Takes a job from the queue onto a list of its own, notes that it begins, works, and notes the end together with taking it off that list. Nobody
/// takes back what is left there, so a job that is cut off stays unfinished, and shows.
const WORKER: &str = r#"<?php
$redis = new Redis();
$redis->connect($argv[1]);
$redis->setOption(Redis::OPT_READ_TIMEOUT, '5');
$running = true;
pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$running) { $running = false; });
$hand = 'hand:' . getenv('PS') . ':' . getmypid() . ':' . hrtime(true);
echo "waits for jobs\n";
while ($running) {
    $job = $redis->rawCommand('BLMOVE', 'queue', $hand, 'RIGHT', 'LEFT', '0.5');
    if (!is_string($job)) continue;
    $redis->hIncrBy('begun', $job, 1);
    $end = hrtime(true) + 20_000_000;
    while (($left = $end - hrtime(true)) > 0) usleep(max(1, intdiv($left, 1000)));
    $redis->multi();
    $redis->hIncrBy('ended', $job, 1);
    $redis->lRem($hand, $job, 1);
    $redis->exec();
}
"#;

/// The jobs, as Redis has them.
#[derive(Debug, Clone)]
struct Queue(PathBuf);

impl Queue {
    fn ask(&self, command: &str) -> Result<u64, String> {
        let socket = UnixStream::connect(&self.0).map_err(|error| error.to_string())?;
        let answer = redis(socket, command)?;
        answer.strip_prefix(':').and_then(|number| number.parse().ok()).ok_or(answer)
    }

    fn tell(&self, command: &str) -> u64 {
        self.ask(command).unwrap()
    }

    /// How many jobs were begun, or ended, some other number of times than once.
    fn not_once(&self, which: &str) -> u64 {
        self.tell(&format!(
            "EVAL \"local n = 0 for _, times in ipairs(redis.call('HVALS', KEYS[1])) do if times ~= '1' then n = n + 1 end end return n\" 1 {which}"
        ))
    }

    fn wait_until_empty(&self) {
        until("the queue is empty", || match self.ask("LLEN queue")? {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        });
    }
}

/// Pushes jobs all the time, some more than the workers have in hand, until it is dropped or ended.
struct Pusher {
    over: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Pusher {
    /// The first job has the number after this one.
    fn new(queue: &Queue, after: u64) -> Self {
        let (over, is_over) = channel();
        let queue = queue.clone();
        let thread = std::thread::spawn(move || {
            let mut last = after;
            while is_over.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
                while queue.tell("LLEN queue") < 20 {
                    last += 1;
                    queue.tell(&format!("LPUSH queue job-{last}"));
                }
            }
            last
        });
        Self { over, thread }
    }

    /// The number of the last job.
    fn end(self) -> u64 {
        drop(self.over);
        self.thread.join().unwrap()
    }
}

fn queue_of(directory: &Path) -> String {
    let dir = directory.display();
    format!(
        "[services.redis]\n\
         command = ['redis-server', '--port', '0', '--unixsocket', '{dir}/redis.sock', '--save', '', '--appendonly', 'no', '--dir', '{dir}']\n\
         ready = {{ exec = 'redis-cli -e -s {dir}/redis.sock ping', every = '200ms', timeout = '5s' }}\n\
         [services.worker]\ncommand = 'php {dir}/worker.php {dir}/redis.sock'\ninstances = 4\ndepends_on = {{ redis = 'ready' }}\n\
         ready = {{ log = 'waits for jobs' }}\nbackoff = {{ initial = '50ms' }}\n"
    )
}

/// Jobs come all the time; none is lost, none is done twice, and three of four workers are there at every moment.
#[test]
fn four_workers_on_a_queue_do_each_job_once() {
    let sandbox = Sandbox::new("rolling-queue", &["redis-server", "redis-cli", "php", "unshare"]);
    sandbox.file("worker.php", WORKER);
    let file = sandbox.file("firstmate.toml", &queue_of(sandbox.path()));
    let mut firstmate = Firstmate::start(&sandbox, &file, "");
    firstmate.wait_until_well();
    let story = Story::of(&firstmate);
    let queue = Queue(sandbox.path().join("redis.sock"));
    let restarted: String = (1..=4).map(|number| format!("worker.{number}: restarted\n")).collect();

    let pusher = Pusher::new(&queue, 0);
    let watch = Watch::new(&firstmate, "worker");
    let begin = story.now(&firstmate);
    for round in 1..=ROUNDS {
        let done = until("jobs are done", || queue.ask("HLEN ended"));
        let (code, said) = firstmate.ask(&["restart", "--rolling", "worker"]);
        assert_eq!((code, &said), (Some(0), &restarted), "{}", firstmate.log());
        assert_eq!(runs(&firstmate, "worker"), [round + 1; 4]);
        assert!(queue.tell("HLEN ended") >= done + 4, "work went on meanwhile");
    }
    assert_eq!(watch.end(), 3, "one at a time was away, and never two");
    assert_eq!(story.fewest("worker", begin, story.now(&firstmate)), 3, "nor between two looks");
    let pushed = pusher.end();
    queue.wait_until_empty();
    until("all are done", || {
        if queue.ask("HLEN ended")? == pushed { Ok(()) } else { Err(format!("{:?} of {pushed}", queue.ask("HLEN ended"))) }
    });
    println!("{pushed} jobs, {ROUNDS} rolling restarts of 4");
    assert_eq!((queue.tell("HLEN begun"), queue.not_once("begun"), queue.not_once("ended")), (pushed, 0, 0), "each once");
    assert!(!firstmate.log().contains("sending SIGKILL"), "{}", firstmate.log());

    // The controls: a plain restart leaves nobody ready, and the queue shows who is cut off.
    let pusher = Pusher::new(&queue, pushed);
    let begin = story.now(&firstmate);
    let (code, said) = firstmate.ask(&["restart", "worker"]);
    assert_eq!((code, &said), (Some(0), &restarted), "{}", firstmate.log());
    assert_eq!(story.fewest("worker", begin, story.now(&firstmate)), 0);
    until("jobs are in hand", || {
        let (begun, ended) = (queue.ask("HLEN begun")?, queue.ask("HLEN ended")?);
        if ended > pushed && begun >= ended + 4 { Ok(()) } else { Err(format!("{ended} of {begun}")) }
    });
    assert_eq!(firstmate.ask(&["signal", "KILL", "worker"]).0, Some(0));
    until("they are back", || {
        let (runs, ended) = (runs(&firstmate, "worker"), queue.ask("HLEN ended")?);
        if runs == [ROUNDS + 3; 4] { Ok(ended) } else { Err(format!("{runs:?}")) }
    });
    let all = pusher.end();
    queue.wait_until_empty();
    let lost = until("the rest is done", || {
        let (begun, ended) = (queue.ask("HLEN begun")?, queue.ask("HLEN ended")?);
        if begun == all && begun <= ended + 4 { Ok(begun - ended) } else { Err(format!("{ended} of {begun} of {all}")) }
    });
    assert!((1..=4).contains(&lost), "{lost} jobs were cut off by SIGKILL");
    firstmate.stop();
}

/// The stack's own workers, scaled to four: each finishes the job it has in hand.
#[test]
fn four_workers_lose_no_job() {
    let sandbox = Sandbox::new("rolling-workers", &stack::PROGRAMS);
    let mut stack = stack::Stack::start(&sandbox);
    let (code, said) = stack.firstmate.ask(&["scale", "worker=4"]);
    let scaled = "worker: 4 instances, 2 before; it was started with 2, which holds again when firstmate is started anew\nworker.3: started\nworker.4: started\n";
    assert_eq!((code, said.as_str()), (Some(0), scaled));
    stack.enqueue(60, 200);
    until("each has a job in hand", || {
        let page = stack.page()?;
        if page["jobs_in_hand"] == 4 { Ok(()) } else { Err(format!("{page:?}")) }
    });
    let watch = Watch::new(&stack.firstmate, "worker");
    let (code, said) = stack.firstmate.ask(&["restart", "--rolling", "worker"]);
    let restarted: String = (1..=4).map(|number| format!("worker.{number}: restarted\n")).collect();
    assert_eq!((code, said), (Some(0), restarted), "{}", stack.firstmate.log());
    assert_eq!(runs(&stack.firstmate, "worker"), [2; 4]);
    assert_eq!(watch.end(), 3, "one at a time was away, and never two");
    stack.wait_until_all_jobs_are_done(60);
    let log = stack.firstmate.log();
    assert!(!log.contains("took back") && !log.contains("sending SIGKILL"), "{log}");
    stack.firstmate.stop();
}
