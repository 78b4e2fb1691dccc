//! The real server on a loopback port and a Unix socket, over a plain `Status`.

use std::cell::RefCell;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use firstmate::engine::status::{
    GuardActs, InstanceMemory, InstanceStatus, LimitSource, MemoryMethod, MemoryStatus, Phase, Restarts, ServiceStatus, StateName, Status,
};
use firstmate::engine::{Incidents, Verb};
use firstmate::server::attach::{Attachment, Outlet, Terminal};
use firstmate::server::{
    Backend, Context as ServerContext, Feed, Fill, Limits, MetricsFormat, Patience, Reading, Reply, Request, SocketPath, UnixSocket,
    Variable, Variables, Wish, bind_tcp, serve_tcp, serve_unix,
};
use tokio::sync::oneshot;

/// How the backend deals with a verb.
#[derive(Clone)]
pub enum Answering {
    Now(Reply),
    /// The sender is dropped.
    Dropped,
    /// The sender is kept until the stand ends.
    Held,
}

struct Supervisor {
    status: Status,
    answering: Answering,
    requests: mpsc::Sender<Request>,
    held: RefCell<Vec<oneshot::Sender<Reply>>>,
}

impl Backend for Supervisor {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn incidents(&self) -> Incidents {
        serde_json::from_str(INCIDENTS).unwrap()
    }

    fn metrics(&self, format: MetricsFormat) -> Pin<Box<dyn Future<Output = String> + '_>> {
        Box::pin(async move { format!("{format:?}\n") })
    }

    fn request(&self, verb: Request) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(verb).unwrap();
        match &self.answering {
            Answering::Now(reply) => sender.send(reply.clone()).unwrap(),
            Answering::Dropped => drop(sender),
            Answering::Held => self.held.borrow_mut().push(sender),
        }
        receiver
    }

    fn logs(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        Ok(Box::new(Echo::new(format!("{asked:?}\n"), asked.follow)))
    }

    fn events(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply> {
        if asked.names.iter().any(|name| name == "nobody") {
            return Err(Reply::UnknownName { name: "nobody".to_owned(), suggestion: None });
        }
        Ok(Box::new(Echo::new(format!("{{\"asked\":\"{asked:?}\"}}\n"), asked.follow)))
    }

    fn environment(&self, name: String, values: bool) -> oneshot::Receiver<Result<Variables, Reply>> {
        let (sender, receiver) = oneshot::channel();
        let variable = Variable { name: "KEY".to_owned(), value: values.then(|| "secret".to_owned()) };
        let answer = match name.as_str() {
            "web" => Ok(Variables { instance: "web.1".to_owned(), variables: vec![variable] }),
            _ => Err(Reply::UnknownName { name, suggestion: Some("web".to_owned()) }),
        };
        sender.send(answer).unwrap();
        receiver
    }

    fn attach(&self, name: &str) -> Result<Attachment, Reply> {
        match name {
            "web.1" => {
                let outlet = Rc::new(Outlet::new("web.1"));
                outlet.push(b"$ ");
                Ok(Attachment { terminal: Box::new(Parrot(Rc::clone(&outlet))), outlet })
            }
            "flood.1" => {
                let outlet = Rc::new(Outlet::new("flood.1"));
                (0..FLOOD / 1000).for_each(|_| outlet.push(&[b'x'; 1000]));
                outlet.end("exit code 7".to_owned());
                Ok(Attachment { terminal: Box::new(Parrot(Rc::clone(&outlet))), outlet })
            }
            "db.1" => Err(Reply::Failed { why: "db.1 has no terminal".to_owned() }),
            _ => Err(Reply::UnknownName { name: name.to_owned(), suggestion: None }),
        }
    }
}

/// Says one thing, and then nothing more, for ever where that is asked for.
struct Echo {
    text: Option<String>,
    follow: bool,
}

impl Echo {
    fn new(text: String, follow: bool) -> Self {
        Self { text: Some(text), follow }
    }
}

impl Feed for Echo {
    fn poll_fill(&mut self, _: &mut Context<'_>, out: &mut Vec<u8>, _: usize) -> Poll<Fill> {
        out.extend(self.text.take().unwrap_or_default().into_bytes());
        match (out.is_empty(), self.follow) {
            (_, false) => Poll::Ready(Fill::End),
            (false, true) => Poll::Ready(Fill::Now),
            (true, true) => Poll::Pending,
        }
    }
}

/// So many bytes are written to whoever is attached to `flood.1`.
pub const FLOOD: usize = 1_000_000;

/// A terminal that says what it is told, and what size it has.
struct Parrot(Rc<Outlet>);

impl Terminal for Parrot {
    fn poll_write(&self, _: &mut std::task::Context<'_>, bytes: &[u8]) -> std::task::Poll<std::io::Result<usize>> {
        // A few at a time, as a service that reads slowly.
        let taken = bytes.len().min(3);
        self.0.push(&bytes[..taken]);
        std::task::Poll::Ready(Ok(taken))
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.0.push(format!("[{rows}x{columns}]").as_bytes());
    }
}

/// What every stand has behind it: as the engine writes it.
pub const INCIDENTS: &str = r#"{"uptime_ms":250000,"started_unix_ms":1798761599007,"dropped":2,"incidents":[{"number":3,"at_ms":1000,"at_unix_ms":1798761600007,"kind":"run-ended","instance":"redis.1","run":1,"outcome":{"how":"exited","code":1},"asked":false,"cause":"crash","left_behind":0,"uptime_ms":900,"failures":1,"then":{"did":"restarted","delay_ms":500}},{"number":4,"at_ms":61000,"at_unix_ms":1798761660007,"kind":"run-ended","instance":"worker.2","run":1,"outcome":{"how":"oom-killed"},"asked":false,"cause":"crash","left_behind":0,"uptime_ms":60900,"failures":10,"then":{"did":"gave-up"}},{"number":5,"at_ms":200000,"at_unix_ms":1798761799007,"kind":"oom-kills","kills":1,"among":[]}]}"#;

/// What the door counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted {
    pub accepted: u64,
    pub turned_away: u64,
    pub displaced: u64,
}

pub struct Stand {
    pub tcp: SocketAddr,
    pub socket: SocketPath,
    pub requests: mpsc::Receiver<Request>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Counted>>,
    _directory: Directory,
}

impl Stand {
    pub fn new(status: Status) -> Self {
        Self::with(status, Limits::default(), Answering::Dropped, None)
    }

    pub fn answering(status: Status, reply: Reply) -> Self {
        Self::with(status, Limits::default(), Answering::Now(reply), None)
    }

    pub fn with(status: Status, limits: Limits, answering: Answering, socket: Option<SocketPath>) -> Self {
        let directory = Directory::new();
        let socket = socket.unwrap_or_else(|| SocketPath::File(directory.path().join("firstmate.sock")));
        let bound = UnixSocket::bind(&socket).unwrap();
        let (sender, requests) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let backend = Rc::new(Supervisor { status, answering, requests: sender, held: RefCell::default() });
            let mut context = ServerContext::new(backend);
            context.limits = limits;
            let counters = Rc::clone(&context.counters);
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve_tcp(listener, context.clone()) => {}
                    error = serve_unix(bound, context) => panic!("{error:?}"),
                    _ = stopped => {}
                }
            });
            Counted { accepted: counters.accepted(), turned_away: counters.turned_away(), displaced: counters.displaced() }
        });
        Self { tcp: told.recv().unwrap(), socket, requests, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    pub fn path(&self) -> &Path {
        match &self.socket {
            SocketPath::File(path) => path,
            SocketPath::Abstract(name) => panic!("{name:?} has no path"),
        }
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn unix(&self) -> UnixStream {
        let stream = self.socket.connect(Some(Duration::from_secs(20))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The whole answer to a request over TCP, its date masked.
    pub fn over_tcp(&self, method: &str, target: &str) -> String {
        exchange(self.tcp(), &request(method, target))
    }

    /// The same over the Unix socket.
    pub fn over_unix(&self, method: &str, target: &str) -> String {
        exchange(self.unix(), &request(method, target))
    }

    pub fn end(mut self) -> Counted {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// Writes and reads to the end.
pub fn exchange(mut stream: impl std::io::Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    masked(&String::from_utf8(bytes).unwrap())
}

/// The text with its Date fields' values replaced.
pub fn masked(text: &str) -> String {
    let mask = |line: &str| if line.starts_with("Date: ") { "Date: DATE\r\n".to_owned() } else { line.to_owned() };
    text.split_inclusive('\n').map(mask).collect()
}

/// The head every answer has, and the body.
pub fn expected(status_line: &str, kind: &str, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status_line}\r\nContent-Type: {kind}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache, private\r\n{more}\
         Connection: close\r\nContent-Length: {}\r\nDate: DATE\r\n\r\n{body}",
        body.len()
    )
}

/// A verb that is waited for as long as it takes.
pub fn wish(verb: Verb, names: &[&str]) -> Request {
    Request::Wish(Wish { verb, names: names.iter().map(|name| (*name).to_owned()).collect(), patience: Patience::Own })
}

/// A directory of its own that goes at the end, traversable by everybody.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = PathBuf::from(format!("/tmp/firstmate-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn instance(name: &str, state: StateName, ready: bool) -> InstanceStatus {
    let up = state == StateName::Running;
    InstanceStatus {
        name: name.to_owned(),
        state,
        ready,
        pid: up.then_some(31),
        uptime_ms: up.then_some(243_000),
        run: 1,
        restarts: Restarts::default(),
        why: None,
        last_outcome: None,
        last_exit_code: None,
        says: None,
        memory: None,
        ready_probe: None,
        live_probe: None,
    }
}

pub fn service(name: &str, essential: bool, instances: Vec<InstanceStatus>) -> ServiceStatus {
    let ready = instances.iter().all(|instance| instance.ready || instance.state == StateName::Completed);
    ServiceStatus {
        name: name.to_owned(),
        kind: "service".to_owned(),
        essential,
        ready,
        reason: None,
        groups: Vec::new(),
        instances_in_file: None,
        rolling: None,
        instances,
    }
}

/// nginx is ready, redis is not, worker is not essential and failed, migrate has completed.
pub fn stack() -> Status {
    let mut redis = service("redis", true, vec![instance("redis.1", StateName::Running, false)]);
    redis.reason = Some("connect 127.0.0.1:6379: refused".to_owned());
    redis.instances[0].why.clone_from(&redis.reason);
    let mut worker =
        service("worker", false, vec![instance("worker.1", StateName::Running, true), instance("worker.2", StateName::Failed, false)]);
    worker.instances[1].why = Some("gave up after 10 failed runs".to_owned());
    worker.instances[1].last_outcome = Some("exit 1".to_owned());
    let mut migrate = service("migrate", true, vec![instance("migrate.1", StateName::Completed, false)]);
    migrate.kind = "oneshot".to_owned();
    Status {
        version: "0.1.0".to_owned(),
        pid: 1,
        uptime_ms: 250_000,
        started_unix_ms: None,
        file: None,
        phase: Phase::Running,
        ready: false,
        live: true,
        started: true,
        stopping_because: None,
        log_blocked_because: None,
        memory: None,
        services: vec![service("nginx", true, vec![instance("nginx.1", StateName::Running, true)]), redis, worker, migrate],
    }
}

/// The same with redis up.
pub fn healthy() -> Status {
    let mut status = stack();
    let redis = &mut status.services[1];
    redis.ready = true;
    redis.reason = None;
    redis.instances[0].ready = true;
    redis.instances[0].why = None;
    status.ready = true;
    status
}

/// The healthy stack in 512 MiB, as the memory guard sees it: worker.1 has a line of its own and a past.
pub fn measured() -> Status {
    const MIB: u64 = 1 << 20;
    let mut status = healthy();
    status.memory = Some(MemoryStatus {
        limit_bytes: 512 * MIB,
        limit_source: LimitSource::CgroupV2,
        limit_place: "/sys/fs/cgroup".to_owned(),
        hard_bytes: Some(402 * MIB),
        restart_above_bytes: Some(384 * MIB),
        above_for_ms: Some(4_000),
        oom_kills: 1,
        acts: GuardActs { own: 2, ..GuardActs::default() },
        helpless: false,
        why: Some("above the line for 4 s".to_owned()),
    });
    let memory = |bytes: u64, line: u64, percent: f64| InstanceMemory {
        bytes,
        at_least_bytes: bytes,
        at_most_bytes: bytes,
        method: MemoryMethod::Pss,
        percent,
        restart_above_bytes: Some(line),
        age_ms: 900,
    };
    status.services[1].instances[0].memory = Some(memory(201 * MIB, 384 * MIB, 39.3));
    let worker = &mut status.services[2].instances[0];
    worker.memory = Some(memory(180 * MIB, 200 * MIB, 35.2));
    worker.restarts = Restarts { total: 3, crash: 1, memory: 2, oom: 1, ..Restarts::default() };
    status
}
