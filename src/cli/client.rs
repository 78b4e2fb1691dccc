//! The client's side of the Unix socket: blocking HTTP/1.1 with a deadline and a bounded answer, and no runtime, so that it starts fast.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::output::Failure;
use crate::config::{self, GivenLimit, Inputs};
use crate::server::{SocketPath, printable, sockets_of};

/// Exit code for a supervisor that does not answer, or a name nobody has.
pub(super) const UNREACHABLE: u8 = 4;

/// There is no such socket.
const NOT_THERE: &str = "is not there";
/// There is one, from somebody who is gone.
const NOBODY_LISTENS: &str = "nobody listens";

/// A status of some thousands of instances is far below this.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// A connection to a supervisor; good for one request.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// Where it was found.
    pub(super) socket: SocketPath,
    /// The supervisor's pid as this process sees it; `None` outside of its PID namespace.
    pub(super) pid: Option<i32>,
    deadline: Option<Instant>,
}

/// What is done now and then while there is no answer.
pub(super) type Meanwhile<'a> = Option<&'a mut dyn FnMut()>;

/// So often.
const MEANWHILE: Duration = Duration::from_millis(200);

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HttpAnswer {
    pub(super) code: u16,
    pub(super) body: Vec<u8>,
}

/// Nobody answered; what was tried, with what was wrong.
#[derive(Debug)]
pub(super) struct Unreachable {
    tried: Vec<(SocketPath, String)>,
}

impl Unreachable {
    /// Nobody is at any of the places, as against somebody who cannot be reached.
    pub(super) fn nobody_is_there(&self) -> bool {
        self.tried.iter().all(|(_, why)| why == NOT_THERE || why == NOBODY_LISTENS)
    }

    /// One line.
    pub(super) fn short(&self) -> String {
        let tried: Vec<String> = self.tried.iter().map(|(socket, why)| format!("{socket}: {why}")).collect();
        format!("no firstmate answers ({})", tried.join("; "))
    }
}

impl From<Unreachable> for Failure {
    fn from(unreachable: Unreachable) -> Self {
        let mut message = "no firstmate answers; looked at".to_owned();
        for (socket, why) in &unreachable.tried {
            // Writing into a String cannot fail.
            let _ = write!(message, "\n  {socket}: {why}");
        }
        let is_closed = unreachable.tried.iter().any(|(_, why)| why.starts_with(DENIED));
        let help = if is_closed {
            "ask as its owner, or as root (in a container: docker exec -u 0)"
        } else {
            "`firstmate start` runs the file of this directory; one that runs elsewhere is named with --socket or $FIRSTMATE_SOCKET"
        };
        Self::new(UNREACHABLE, message).help(help)
    }
}

/// Where to look: `--socket`, else $FIRSTMATE_SOCKET, else the place that the file names which would be run here, then the default
/// places of this uid and of the uid PID 1 has.
fn candidates(explicit: Option<&OsStr>, environment: Option<&OsStr>) -> Vec<SocketPath> {
    if let Some(named) = explicit.or(environment.filter(|value| !value.is_empty())) {
        return vec![SocketPath::parse(named)];
    }
    let xdg = std::env::var_os("XDG_RUNTIME_DIR");
    let mut places: Vec<SocketPath> = socket_of_the_file().into_iter().collect();
    places.extend(sockets_of(nix::unistd::geteuid().as_raw(), xdg.as_deref()));
    // In a container firstmate is PID 1 and may run as another user than whoever asks (`docker exec -u`, a service's own check).
    for place in pid_1_uid().into_iter().flat_map(|uid| sockets_of(uid, None)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// What `docker exec` finds where the image's file names a socket: the same file, by the same search.
fn socket_of_the_file() -> Option<SocketPath> {
    let env = std::env::vars_os().collect();
    let path = config::find(None, &env, &std::env::current_dir().ok()?).ok()?;
    // A file that is wrong now was right when firstmate read it, but what it says now cannot be told.
    let loaded = config::load(&path, &Inputs { env, memory_limit: Some(GivenLimit::Auto), ..Inputs::default() }).ok()?;
    loaded.settings.socket.map(|socket| SocketPath::parse(socket.as_os_str()))
}

fn pid_1_uid() -> Option<u32> {
    std::fs::metadata("/proc/1").ok().map(|metadata| metadata.uid())
}

/// Connects to the first place where a supervisor accepts.
///
/// # Errors
///
/// [`Unreachable`], with every place that was tried.
pub(super) fn connect(explicit: Option<&OsStr>, deadline: Option<Instant>) -> Result<Connection, Unreachable> {
    let environment: Option<OsString> = std::env::var_os("FIRSTMATE_SOCKET");
    let named = explicit.is_some() || environment.as_ref().is_some_and(|value| !value.is_empty());
    let mut tried = Vec::new();
    for socket in candidates(explicit, environment.as_deref()) {
        let patience = deadline.map_or(Duration::from_secs(5), |deadline| deadline.saturating_duration_since(Instant::now()));
        let stream = match socket.connect(Some(patience)) {
            Ok(stream) => stream,
            Err(errno) => {
                let why = reason(&socket, errno);
                tried.push((socket, why));
                continue;
            }
        };
        let peer = getsockopt(&stream, sockopt::PeerCredentials).ok();
        // Anybody may make a socket in /tmp or an abstract one, so a default place counts only with somebody behind it who may be trusted.
        if let Some(peer) = peer.filter(|peer| !named && !is_trusted(peer.uid())) {
            tried.push((socket, format!("is of uid {}, not of root, your own or PID 1's uid; use --socket to trust it", peer.uid())));
            continue;
        }
        let pid = peer.map(|peer| peer.pid()).filter(|pid| *pid > 0);
        return Ok(Connection { stream, socket, pid, deadline });
    }
    Err(Unreachable { tried })
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw() || pid_1_uid() == Some(uid)
}

fn reason(socket: &SocketPath, errno: Errno) -> String {
    if let (Errno::EACCES | Errno::EPERM, SocketPath::File(path)) = (errno, socket) {
        return denied(path);
    }
    if errno == Errno::ENOENT || errno == Errno::ENOTDIR {
        NOT_THERE.to_owned()
    } else if errno == Errno::ECONNREFUSED {
        NOBODY_LISTENS.to_owned()
    } else if errno == Errno::EAGAIN {
        "does not accept connections (firstmate is stuck or overrun)".to_owned()
    } else {
        errno.desc().to_owned()
    }
}

/// How the reason begins where asking as somebody else would help.
const DENIED: &str = "permission denied";

/// Who has to be asked: the owner of the socket, or of the directory that may not be looked into.
fn denied(path: &std::path::Path) -> String {
    let closed = path.ancestors().find_map(|place| std::fs::metadata(place).ok().map(|metadata| (place, metadata.uid())));
    let owner = |uid| if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
    let own = nix::unistd::geteuid().as_raw();
    match closed {
        Some((place, uid)) if place == path => format!("{DENIED}: it belongs to {}, and you are {}", owner(uid), owner(own)),
        Some((place, uid)) => {
            let place = place.to_string_lossy();
            format!("{DENIED}: {} belongs to {}, and you are {}", printable(&place), owner(uid), owner(own))
        }
        None => DENIED.to_owned(),
    }
}

impl Connection {
    /// Sends a request without a body and reads the whole answer.
    ///
    /// # Errors
    ///
    /// When the deadline passes, the connection breaks, or the answer is not HTTP or too long.
    pub(super) fn request(self, method: &str, target: &str) -> Result<HttpAnswer, Failure> {
        self.request_with(method, target, None)
    }

    /// The same; `meanwhile` is called now and then while there is no answer.
    ///
    /// # Errors
    ///
    /// As those of [`Self::request`].
    pub(super) fn request_with(mut self, method: &str, target: &str, meanwhile: Meanwhile<'_>) -> Result<HttpAnswer, Failure> {
        let answer = self.exchange(method, target, meanwhile);
        answer.map_err(|error| {
            let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            let why = if late { "no answer in time".to_owned() } else { printable(&error.to_string()).into_owned() };
            let failure = Failure::new(UNREACHABLE, format!("cannot talk to the firstmate on {}: {why}", self.socket));
            failure.help(if late { "it may be stuck, or have no time: see its log" } else { "is that socket firstmate's?" })
        })
    }

    fn exchange(&mut self, method: &str, target: &str, mut meanwhile: Meanwhile<'_>) -> io::Result<HttpAnswer> {
        self.stream.set_write_timeout(self.left()?)?;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        if let Err(error) = self.stream.write_all(request.as_bytes()) {
            // The server may have answered (with too many connections it just closes) before it read everything.
            if error.kind() != io::ErrorKind::BrokenPipe {
                return Err(error);
            }
        }
        let mut bytes = Vec::new();
        let mut chunk = [0_u8; 16 * 1024];
        loop {
            let left = self.left()?;
            let tick = meanwhile.is_some().then_some(MEANWHILE);
            self.stream.set_read_timeout(left.map_or(tick, |left| Some(tick.map_or(left, |tick| left.min(tick)))))?;
            let count = match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => match &mut meanwhile {
                    // Whether the deadline has passed is seen above.
                    Some(meanwhile) => {
                        meanwhile();
                        continue;
                    }
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
            bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
            if bytes.len() as u64 > ANSWER_BYTES {
                return Err(io::Error::other("the answer is too long"));
            }
        }
        parse(&bytes)
    }

    /// The connection itself, for an answer that comes bit by bit, and for what is more than a request and an answer.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Time left; `None` is for ever.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

/// A whole response (RFC 9112) with Content-Length, as firstmate sends it.
pub(super) fn parse(bytes: &[u8]) -> io::Result<HttpAnswer> {
    if bytes.is_empty() {
        return Err(io::Error::other("it closed the connection without an answer"));
    }
    let broken = || io::Error::other("the answer is not HTTP");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let (head, body) = bytes.split_at_checked(end).ok_or_else(broken)?;
    let body = body.get(4..).ok_or_else(broken)?;
    let head = std::str::from_utf8(head).map_err(|_| broken())?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let version = first.next().unwrap_or_default();
    let code = first.next().and_then(|code| code.parse().ok()).filter(|_| version.starts_with("HTTP/1.")).ok_or_else(broken)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(broken)?;
    let body = body.get(..length).ok_or_else(|| io::Error::other("the answer was cut off"))?;
    Ok(HttpAnswer { code, body: body.to_vec() })
}

/// A name made safe for a request target.
pub(super) fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed_or_refused() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\ncontent-LENGTH: 2\r\nX: y\r\n\r\nokrest").unwrap();
        assert_eq!(answer, HttpAnswer { code: 503, body: b"ok".to_vec() });
        for (bytes, why) in [
            (&b""[..], "it closed the connection without an answer"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "the answer was cut off"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\nok", "the answer is not HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "the answer is not HTTP"),
            (b"\xff\xfe\r\n\r\n", "the answer is not HTTP"),
        ] {
            assert_eq!(parse(bytes).unwrap_err().to_string(), why, "{bytes:?}");
        }
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("web.1"), "web.1");
        assert_eq!(encoded("a b&c=\n/ü"), "a%20b%26c%3D%0A%2F%C3%BC");
    }

    #[test]
    fn a_named_socket_is_the_only_candidate() {
        let of = |explicit: Option<&str>, environment: Option<&str>| candidates(explicit.map(OsStr::new), environment.map(OsStr::new));
        assert_eq!(of(Some("/a"), Some("/b")), [SocketPath::File("/a".into())]);
        assert_eq!(of(None, Some("@b")), [SocketPath::Abstract(b"b".to_vec())]);
        assert_eq!(of(None, Some("")).first(), Some(&SocketPath::File("/run/firstmate.sock".into())));
    }
}
