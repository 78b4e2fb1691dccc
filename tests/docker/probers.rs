//! What those who ask are told from a container's first moment to its last: a kubelet's three probes, a load balancer's health check, Docker's
//! own HEALTHCHECK and a visitor, all at the same time, only more often than they would. The container starts, has a service that crashes
//! again and again, one that is restarted for its memory, drains and stops.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::container::{Container, Directory, docker_ok, until};

const EVERY: Duration = Duration::from_millis(100);
/// timeoutSeconds of Kubernetes; a load balancer waits longer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A kubelet reads no more of a body.
const BODY: u64 = 10 * 1024;

/// The status and body of one answer, or why there is none.
type Answer = Result<(u16, String), String>;

/// One request on a connection of its own, as both a kubelet and a load balancer send it.
fn ask(address: SocketAddr, path: &str, agent: &str) -> Answer {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.take(BODY).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = ask().map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("cut short: {text:?}"))?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    Ok((status.ok_or_else(|| format!("no status: {head:?}"))?, body.to_owned()))
}

/// When it was asked, and what was answered.
type Asked = (Instant, Answer);

/// What somebody has made of the answers so far.
#[derive(Debug, Default)]
struct View {
    /// The container's first moment is over; a load balancer knows no such thing.
    started: bool,
    /// It gets requests.
    ready: bool,
    /// Every question in order.
    asked: Vec<Asked>,
    /// Liveness probes in order.
    live: Vec<Asked>,
    /// When it went from ready to not ready.
    taken_out: Vec<Instant>,
}

/// Counts answers of the same kind in a row.
#[derive(Default)]
struct InARow(u32);

impl InARow {
    fn reaches(&mut self, same: bool, wanted: u32) -> bool {
        self.0 = if same { self.0 + 1 } else { 0 };
        self.0 >= wanted
    }
}

/// Somebody who asks all the time, until it is dropped.
struct Prober {
    view: Arc<Mutex<View>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    fn new(mut look: impl FnMut(&Mutex<View>) + Send + 'static) -> Self {
        let (view, stop) = (Arc::<Mutex<View>>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (view, stop) = (Arc::clone(&view), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    look(&view);
                    std::thread::sleep(EVERY);
                }
            }
        });
        Self { view, stop, thread: Some(thread) }
    }

    /// Kubernetes, "Configure Liveness, Readiness and Startup Probes": until the startup probe has passed the others are not asked; 200 to
    /// 399 passes; failureThreshold 3, successThreshold 1.
    fn kubelet(address: SocketAddr) -> Self {
        let mut failed = InARow::default();
        let passes = |answer: &Answer| matches!(answer, Ok((200..=399, _)));
        Self::new(move |view| {
            let probe = |path| (Instant::now(), ask(address, path, "kube-probe/1.33"));
            if !view.lock().unwrap().started {
                let asked = probe("/startupz");
                let mut view = view.lock().unwrap();
                view.started = passes(&asked.1);
                view.asked.push(asked);
                return;
            }
            let live = probe("/livez");
            let ready = probe("/readyz");
            let mut view = view.lock().unwrap();
            let out = failed.reaches(!passes(&ready.1), 3);
            view.turn(if passes(&ready.1) { Some(true) } else { out.then_some(false) });
            view.live.push(live);
            view.asked.push(ready);
        })
    }

    /// Application Load Balancer, "Health checks for target groups": exactly 200 passes; here in and out after two of a kind.
    fn load_balancer(address: SocketAddr) -> Self {
        let (mut passed, mut failed) = (InARow::default(), InARow::default());
        Self::new(move |view| {
            let asked = (Instant::now(), ask(address, "/readyz", "ELB-HealthChecker/2.0"));
            let passes = matches!(asked.1, Ok((200, _)));
            let (r#in, out) = (passed.reaches(passes, 2), failed.reaches(!passes, 2));
            let mut view = view.lock().unwrap();
            view.turn(if r#in { Some(true) } else { out.then_some(false) });
            view.asked.push(asked);
        })
    }

    /// Whose requests are to be answered.
    fn visitor(address: SocketAddr) -> Self {
        Self::new(move |view| {
            let asked = (Instant::now(), ask(address, "/index.html", "visitor"));
            view.lock().unwrap().asked.push(asked);
        })
    }

    fn view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.lock().unwrap())
    }
}

impl View {
    fn turn(&mut self, ready: Option<bool>) {
        let Some(ready) = ready else { return };
        if self.ready && !ready {
            self.taken_out.push(Instant::now());
        }
        self.ready = ready;
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Static, so that it runs in an image that has nothing.
fn leaker() -> PathBuf {
    let firstmate = std::env::var_os("FIRSTMATE_BINARY").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/{}-unknown-linux-musl/release/firstmate", std::env::consts::ARCH)),
        PathBuf::from,
    );
    let path = firstmate.parent().unwrap().join("examples/leaker");
    assert!(path.is_file(), "there is no {}; make it with `make helpers`", path.display());
    path
}

/// Everybody who asks.
struct Probers {
    kubelet: Prober,
    load_balancer: Prober,
    visitor: Prober,
}

impl Probers {
    /// Waits until all of them have this opinion, Docker too.
    fn agree(&self, container: &Container, ready: bool) {
        let health = if ready { "healthy" } else { "unhealthy" };
        until(&format!("everybody takes it for {health}"), || {
            let seen = [self.kubelet.view(|view| view.ready), self.load_balancer.view(|view| view.ready)];
            let docker = container.inspect("{{.State.Health.Status}}");
            if seen == [ready; 2] && docker == health { Ok(()) } else { Err(format!("{seen:?} {docker}\n{}", container.log())) }
        });
    }

    /// The last answer to `/readyz`, which must be a whole one.
    fn reasons(&self) -> String {
        match self.kubelet.view(|view| view.asked.last().unwrap().1.clone()) {
            Ok((503, body)) => body,
            other => panic!("{other:?}"),
        }
    }

    /// The visitor's and the liveness probe's failures up to a moment.
    fn failures(&self, before: Instant) -> Vec<String> {
        let visits = self.visitor.view(|view| view.asked.clone()).into_iter().filter(|(_, answer)| !matches!(answer, Ok((200, _))));
        let live = self.kubelet.view(|view| view.live.clone()).into_iter().filter(|(_, answer)| answer != &Ok((200, "ok".to_owned())));
        visits.chain(live).filter(|(at, _)| *at < before).map(|(_, answer)| format!("{answer:?}")).collect()
    }
}

#[test]
fn whoever_asks_is_told_the_truth_from_the_first_moment_to_the_last() {
    let files = Directory::new(&[("index.html", "hello\n")]);
    let page = files.mount("index.html", "/srv/index.html:ro");
    let leaker = format!("--volume={}:/bin/leaker:ro", leaker().display());
    let check = "--health-cmd=firstmate check ready";
    let health = [check, "--health-interval=300ms", "--health-timeout=5s", "--health-retries=2", "--health-start-period=60s"];
    let container = Container::busybox(
        &[&[page.as_str(), leaker.as_str(), "--memory=192m", "--memory-swap=192m"], health.as_slice()].concat(),
        r#"
        [firstmate]
        drain = "3s"
        stop_timeout = "9s"
        [memory]
        confirm = "0s"
        [services.web]
        command = "until [ -e /tmp/go ]; do sleep 0.05; done; exec httpd -f -p 8080 -h /srv"
        ready = { http = "http://127.0.0.1:8080/index.html", every = "100ms" }
        [services.worker]
        command = "test ! -e /tmp/broken && exec sleep 1000"
        backoff = { initial = "50ms", factor = 2.0, max = "200ms" }
        give_up_after = "never"
        [services.thumbnails]
        command = "leaker base=8MiB leak rate=60 when=/tmp/leak only-run=1 count=/tmp/runs"
        "#,
    );
    let address = container.address(9180);

    // It starts: alive, not started, not ready, and no visitor is sent.
    let asked = until("it answers", || ask(address, "/startupz", "test"));
    assert_eq!(asked.0, 503, "{}", asked.1);
    assert_eq!(ask(address, "/livez", "test"), Ok((200, "ok".to_owned())));
    let (kubelet, load_balancer) = (Prober::kubelet(address), Prober::load_balancer(address));
    container.wait_until_said("thumbnails.1 ready");
    let (status, body) = ask(address, "/readyz", "test").unwrap();
    assert!(status == 503 && body.contains("[-]web failed") && body.contains("[+]worker ok") && body.contains("[+]shutdown ok"), "{body}");
    until("all have asked", || if load_balancer.view(|view| view.asked.len()) >= 5 { Ok(()) } else { Err("not yet".to_owned()) });
    assert!(!kubelet.view(|view| view.started) && !load_balancer.view(|view| view.ready));
    assert_eq!(container.inspect("{{.State.Health.Status}}"), "starting");
    container.exec_ok(&["touch", "/tmp/go"]);
    until("web serves", || match ask(container.address(8080), "/index.html", "test") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let probers = Probers { kubelet, load_balancer, visitor: Prober::visitor(container.address(8080)) };
    probers.agree(&container, true);

    // A service crashes again and again: not ready, alive all the time, and the others serve.
    container.exec_ok(&["touch", "/tmp/broken"]);
    let pid = container.status().unwrap().services[1].instances[0].pid.unwrap();
    container.exec_ok(&["kill", "-9", &pid.to_string()]);
    probers.agree(&container, false);
    let body = probers.reasons();
    assert!(
        body.contains("[-]worker failed: reason withheld") && body.contains("[+]web ok") && body.ends_with("readyz check failed\n"),
        "{body}"
    );
    until("it has crashed five times", || {
        let restarts = container.status()?.services[1].instances[0].restarts.total;
        if restarts >= 5 { Ok(()) } else { Err(restarts.to_string()) }
    });
    assert_eq!(container.exec(&["firstmate", "check", "live"]), (0, "ok\n".to_owned()));
    container.exec_ok(&["rm", "/tmp/broken"]);
    probers.agree(&container, true);

    // One leaks, and is restarted for it: not ready while it is away, and nobody else is touched.
    let before = probers.kubelet.view(|view| view.asked.len());
    container.exec_ok(&["touch", "/tmp/leak"]);
    until("it was restarted", || {
        let status = container.status()?;
        if status.services[2].instances[0].run == 2 && status.ready { Ok(()) } else { Err(container.log()) }
    });
    probers.agree(&container, true);
    let status = container.status().unwrap();
    assert_eq!(status.services[2].instances[0].restarts.memory, 1, "{}", container.log());
    assert_eq!(status.memory.unwrap().oom_kills, 0);
    let away = probers.kubelet.view(|view| view.asked[before..].iter().filter(|(_, answer)| !matches!(answer, Ok((200, _)))).count());
    let told: Vec<String> =
        probers.kubelet.view(|view| view.asked[before..].iter().filter_map(|(_, answer)| Some(answer.clone().ok()?.1)).collect());
    assert!(away > 0 && told.iter().any(|body| body.contains("[-]thumbnails failed")), "it was away, and nobody was told: {told:?}");
    assert_eq!(probers.failures(Instant::now()), Vec::<String>::new(), "alive, and serving, through all of that");

    // It drains: not ready at once, and still serving until nobody sends any more.
    let stop = std::thread::spawn({
        let name = container.name.clone();
        move || docker_ok(&["stop", "--time", "20", &name])
    });
    let outs = probers.load_balancer.view(|view| view.taken_out.len());
    until("it is taken out", || {
        let out = probers.load_balancer.view(|view| view.taken_out.len()) > outs && !probers.kubelet.view(|view| view.ready);
        if out { Ok(()) } else { Err(container.log()) }
    });
    let body = probers.reasons();
    assert!(body.contains("[-]shutdown failed") && body.contains("[+]web ok") && body.contains("[+]worker ok"), "{body}");
    assert_eq!(ask(address, "/startupz", "test").map(|(status, _)| status), Ok(200));
    assert_eq!(ask(container.address(8080), "/index.html", "test").map(|(status, _)| status), Ok(200));
    let out = Instant::now();
    stop.join().unwrap();
    assert_eq!(probers.failures(out), Vec::<String>::new(), "it served for as long as somebody could be sent");

    // It is gone. As long as there was an answer, it was that it is alive.
    assert_eq!(container.ended(), 0, "{}", container.log());
    let wrong = |(_, answer): &&Asked| matches!(answer, Ok((status, _)) if *status != 200);
    assert_eq!(probers.kubelet.view(|view| view.live.iter().filter(wrong).count()), 0);
    assert!(container.said().iter().all(|line| !line.contains("sending SIGKILL")), "{}", container.log());
}
