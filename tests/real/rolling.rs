//! Rolling restarts under load: three web instances behind nginx, four workers on a queue. Nobody outside notices.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use firstmate::engine::status::{InstanceStatus, Status};

use super::client::{Got, get};
use super::firstmate::{Firstmate, binary};
use super::sandbox::{Sandbox, until};
use super::stack;

const PORT: u16 = 8080;

/// A program of the test's own, ended with it.
struct Load(Child);

impl Load {
    fn on(url: &str) -> Self {
        let command = Command::new("wrk").args(["-t", "1", "-c", "4", "-d", "1h", "--timeout", "20s", url]).stdout(Stdio::piped()).spawn();
        Self(command.expect("cannot execute wrk; run `tests/setup programs`"))
    }

    /// wrk prints what it has when it is interrupted. How many requests; none may have failed.
    fn end(mut self) -> u64 {
        // SAFETY: the test's own child, not waited for yet.
        unsafe { libc::kill(i32::try_from(self.0.id()).unwrap(), libc::SIGINT) };
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let requests = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        requests.unwrap_or_else(|| panic!("wrk says nothing of requests:\n{said}"))
    }
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
    let load = Load::on(&format!("http://127.0.0.1:{PORT}/"));
    let watch = Watch::new(&firstmate, "web");
    for round in 2..=3 {
        let (code, said) = firstmate.ask(&["restart", "--rolling", "web"]);
        assert_eq!((code, said.as_str()), (Some(0), "web.1: restarted\nweb.2: restarted\nweb.3: restarted\n"), "{}", firstmate.log());
        assert_eq!(runs(&firstmate, "web"), [round; 3]);
    }
    assert_eq!(watch.end(), 2, "one at a time was away, and never two");
    let requests = load.end();
    println!("{requests} requests, none failed");
    assert!(requests > 100, "{requests} requests are hardly a load");
    assert!(!firstmate.log().contains("sending SIGKILL"), "{}", firstmate.log());
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
