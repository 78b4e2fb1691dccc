//! Accepting and serving connections, within limits.
//!
//! A connection lives in its own task, so that nothing a client sends can reach anything but that connection. All tasks end when the
//! serve future is dropped.
//!
//! Over TCP the limit is no way to lock the platform's prober out: a new connection takes the place of the one that has been waiting for its
//! request longest, if that is long enough for any honest client to have sent it. Otherwise one over the limit is closed at once and counted.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::attach::{self, Attachment};
use super::inside::{self, Body, Line};
use super::router::{self, Peer};
use super::socket::{SocketPath, UnixSocket};
use super::verbs::Backend;

/// What clients may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections at a time.
    pub tcp_connections: usize,
    /// One that has sent no request for so long gives way to a new one when there are too many; a prober sends its own at once.
    pub yields_after: Duration,
    /// Unix connections at a time, a quarter of them kept for those who may use the verbs; more are closed at once.
    pub unix_connections: usize,
    /// From a connection's start, or from the previous answer, to the end of the next request's header; also the keep-alive idle time.
    pub header_timeout: Duration,
    /// A connection's whole life, except that a verb is waited for.
    pub lifetime: Duration,
    /// Bytes of a request's line and header fields.
    pub header_bytes: usize,
    /// A request's header fields.
    pub header_fields: usize,
    /// Clients that follow logs or events at a time, a quarter of them kept for those who may use the verbs.
    pub followers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_connections: 64,
            yields_after: Duration::from_millis(100),
            unix_connections: 32,
            header_timeout: Duration::from_secs(5),
            lifetime: Duration::from_secs(60),
            header_bytes: 8 * 1024,
            header_fields: 64,
            followers: 8,
        }
    }
}

/// What happened at the door since the start.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: Cell<u64>,
    displaced: Cell<u64>,
    turned_away: Cell<u64>,
    failed: Cell<u64>,
    /// Clients that follow now.
    pub(super) followers: Cell<usize>,
}

impl Counters {
    /// Connections served.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Connections that sent nothing and gave way to a new one, since there were too many.
    pub fn displaced(&self) -> u64 {
        self.displaced.get()
    }

    /// Connections closed at once, since there were too many.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.get()
    }

    /// Failed accept(2) calls, such as for want of descriptors.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    fn count(counter: &Cell<u64>) {
        counter.set(counter.get().saturating_add(1));
    }
}

/// What every connection needs.
#[derive(Clone)]
pub struct Context {
    /// Who knows.
    pub backend: Rc<dyn Backend>,
    /// What clients may use up.
    pub limits: Limits,
    /// Reasons are shown to everybody who reaches the TCP port, and not only on loopback.
    pub details: bool,
    /// What happened at the door.
    pub counters: Rc<Counters>,
}

impl Context {
    /// With the default limits.
    #[must_use]
    pub fn new(backend: Rc<dyn Backend>) -> Self {
        Self { backend, limits: Limits::default(), details: false, counters: Rc::default() }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("limits", &self.limits)
            .field("details", &self.details)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The HTTP port cannot be had.
#[derive(Debug)]
pub struct TcpError {
    /// The address.
    pub address: SocketAddr,
    why: io::Error,
}

impl fmt::Display for TcpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, why } = self;
        let why = why.raw_os_error().map_or_else(|| why.to_string(), |errno| Errno::from_raw(errno).desc().to_owned());
        write!(f, "cannot listen on {address}: {why}; choose another address with --http or `http` under [firstmate], or switch it off")
    }
}

impl std::error::Error for TcpError {}

/// Listens on a TCP address (with SO_REUSEADDR, so that a restart does not wait for old connections). Call it inside the runtime.
///
/// `[::]` means everywhere, over IPv4 too; where there is no IPv6, everywhere is `0.0.0.0`. The listener's own address tells.
///
/// # Errors
///
/// When the address is taken, is not this machine's, or is not permitted.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, TcpError> {
    let wrong = |why| TcpError { address, why };
    let listener = match std::net::TcpListener::bind(address) {
        // A kernel without IPv6 makes no such socket; one whose interfaces have none may refuse the address.
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
        {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    }
    .map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    TcpListener::from_std(listener).map_err(wrong)
}

/// Serves the read-only endpoints; never ends. Dropping the future closes the connections.
pub async fn serve_tcp(listener: TcpListener, context: Context) {
    let mut connections = JoinSet::new();
    let mut seats = Seats::default();
    loop {
        let accepted = next(&mut connections, listener.accept()).await;
        match accepted {
            Ok((stream, address)) if seats.admit(&context) => {
                let peer = Peer::Tcp { loopback: address.ip().to_canonical().is_loopback(), details: context.details };
                // Small answers go out at once; where the option is refused they only go out later.
                let _ = stream.set_nodelay(true);
                let waiting_since = Rc::new(Cell::new(Instant::now()));
                let task = connections.spawn_local(serve(stream, peer, context.clone(), Rc::clone(&waiting_since), None));
                seats.0.push(Seat { task, waiting_since });
            }
            Ok(_) => {}
            Err(error) => pause(&error, &context).await,
        }
    }
}

/// Serves the same and the verbs; never ends unless the listener cannot join the runtime. Dropping the future closes the connections and
/// removes the socket.
///
/// # Errors
///
/// Those of registering the descriptor with the runtime (epoll_ctl(2)).
pub async fn serve_unix(socket: UnixSocket, context: Context) -> io::Result<Infallible> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let mut connections = JoinSet::new();
    loop {
        let accepted = next(&mut connections, listener.accept()).await;
        match accepted {
            Ok((stream, _)) => {
                let peer = unix_peer(&stream, &socket.path);
                // A quarter is kept for those who may use the verbs, so that no service can lock the operator out.
                let most = context.limits.unix_connections;
                let most = if peer.may_command().is_ok() { most } else { most - most / 4 };
                if admit(&connections, most, &context) {
                    let watch = stream.as_fd().try_clone_to_owned().ok();
                    connections.spawn_local(serve(stream, peer, context.clone(), Rc::new(Cell::new(Instant::now())), watch));
                }
            }
            Err(error) => pause(&error, &context).await,
        }
    }
}

/// The next connection; meanwhile forgets those that ended, also by a panic.
async fn next<T>(connections: &mut JoinSet<()>, accept: impl Future<Output = T>) -> T {
    let mut accept = pin!(accept);
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = &mut accept => return accepted,
        }
    }
}

/// Who has a TCP connection.
#[derive(Default)]
struct Seats(Vec<Seat>);

struct Seat {
    task: AbortHandle,
    /// Its start, or its last answer.
    waiting_since: Rc<Cell<Instant>>,
}

impl Seats {
    /// Whether there is a place for one more, be it that of somebody who does not use it.
    fn admit(&mut self, context: &Context) -> bool {
        let Limits { tcp_connections, yields_after, .. } = context.limits;
        if self.0.len() >= tcp_connections {
            self.0.retain(|seat| !seat.task.is_finished());
        }
        if self.0.len() >= tcp_connections {
            let longest = self.0.iter().enumerate().min_by_key(|(_, seat)| seat.waiting_since.get());
            let Some(at) = longest.filter(|(_, seat)| seat.waiting_since.get().elapsed() >= yields_after).map(|(at, _)| at) else {
                Counters::count(&context.counters.turned_away);
                return false;
            };
            self.0.swap_remove(at).task.abort();
            Counters::count(&context.counters.displaced);
        }
        Counters::count(&context.counters.accepted);
        true
    }
}

fn admit(connections: &JoinSet<()>, most: usize, context: &Context) -> bool {
    let admitted = connections.len() < most;
    Counters::count(if admitted { &context.counters.accepted } else { &context.counters.turned_away });
    admitted
}

/// After a failed accept: an aborted connection is nothing, but a listener without descriptors stays readable, so it is left alone a while.
async fn pause(error: &io::Error, context: &Context) {
    Counters::count(&context.counters.failed);
    let transient = error.raw_os_error().is_some_and(|errno| errno == Errno::ECONNABORTED as i32 || errno == Errno::EINTR as i32);
    if !transient {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Who is at the other end (unix(7), SO_PEERCRED: as of connect(2)).
fn unix_peer(stream: &UnixStream, path: &SocketPath) -> Peer {
    let credentials = stream.peer_cred().ok();
    let near = match path {
        SocketPath::File(_) => true,
        // Abstract names are the network namespace's: in a pod, another container's root could come. The kernel shows its pid as 0.
        SocketPath::Abstract(_) => credentials.and_then(|peer| peer.pid()).is_some_and(|pid| pid != 0),
    };
    Peer::Unix { uid: credentials.map(|peer| peer.uid()), own: nix::unistd::geteuid().as_raw(), near }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    context: Context,
    waiting_since: Rc<Cell<Instant>>,
    watch: Option<OwnedFd>,
) {
    let attached = Rc::new(RefCell::new(None));
    converse(stream, peer, context, (waiting_since, watch), &attached).await;
    let attached = attached.borrow_mut().take();
    if let Some((upgrade, attachment)) = attached
        && let Ok(connection) = upgrade.await
    {
        attach::carry(TokioIo::new(connection), attachment).await;
    }
}

/// A place at a terminal, once the connection has become it.
type Attached = Rc<RefCell<Option<(OnUpgrade, Attachment)>>>;

/// Requests and answers, until the client has enough or is attached.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    context: Context,
    (waiting_since, watch): (Rc<Cell<Instant>>, Option<OwnedFd>),
    attached: &Attached,
) {
    let limits = context.limits;
    // Whether an answer is being worked on: only a verb takes longer than one turn, and who follows reads on for ever.
    let busy = Rc::new(Cell::new(false));
    let line = Rc::new(Line { watch, busy: Rc::clone(&busy) });
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let upgrade = (matches!(peer, Peer::Unix { .. }) && request.uri().path() == attach::PATH).then(|| hyper::upgrade::on(&mut request));
        // The body is dropped unread; hyper then closes the connection instead of reading on.
        let (parts, _) = request.into_parts();
        let (backend, busy, line) = (Rc::clone(&context.backend), Rc::clone(&busy), Rc::clone(&line));
        let (counters, attached) = (Rc::clone(&context.counters), Rc::clone(attached));
        waiting_since.set(Instant::now());
        async move {
            if let Some(upgrade) = upgrade {
                let (response, attachment) = attach::answer(&parts.method, &parts.uri, &parts.headers, peer, &*backend);
                *attached.borrow_mut() = attachment.map(|attachment| (upgrade, attachment));
                return Ok(response.map(Body::Whole));
            }
            busy.set(true);
            let response = match inside::answer(&parts.method, &parts.uri, peer, &*backend, (limits, &counters), &line).await {
                Some(response) => response,
                None => router::answer(parts.method, parts.uri, parts.headers, peer, backend).await.map(Body::Whole),
            };
            busy.set(response.body().is_endless());
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // hyper asserts at least 8 KiB.
        .max_buf_size(limits.header_bytes.max(8 * 1024))
        .max_headers(limits.header_fields)
        .title_case_headers(true)
        // A client may end its side after the request, as `nc -N` does, and still wait for the answer.
        .half_close(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut deadline = Instant::now() + limits.lifetime;
    let mut closing = false;
    loop {
        tokio::select! {
            // An error is the client's: it went away, was too slow or did not speak HTTP, and hyper has answered what can be answered.
            _ = &mut connection => return,
            () = sleep_until(deadline) => {
                deadline = Instant::now() + limits.header_timeout;
                if busy.get() {
                    continue;
                }
                if closing {
                    return;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
