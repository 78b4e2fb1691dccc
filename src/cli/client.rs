//! The client's side of the Unix socket: blocking HTTP/1.1 with a deadline and a bounded answer, and no runtime, so that it starts fast.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::load::FileArgs;
use super::output::Failure;
use crate::config::{self, GivenLimit, Inputs};
use crate::server::{SocketPath, printable, sockets_of, sockets_of_project};

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
    /// The file that may name another place, and cannot be used: which, and why.
    unread: Option<(String, String)>,
}

/// How the reason begins where somebody answers who runs another file.
const ANOTHERS: &str = "it runs ";

impl Unreachable {
    /// Nobody is at any of the places, as against somebody who cannot be reached.
    pub(super) fn nobody_is_there(&self) -> bool {
        let is_nobody = |why: &str| why == NOT_THERE || why == NOBODY_LISTENS || why.starts_with(ANOTHERS);
        self.tried.iter().all(|(_, why)| is_nobody(why))
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
        if let Some((file, why)) = &unreachable.unread {
            let _ = write!(message, "\n  where {file} says: it cannot be used now, so which socket it names is not known ({why})");
        }
        let any = |begins: &str| unreachable.tried.iter().any(|(_, why)| why.starts_with(begins));
        let help = if any(DENIED) {
            "ask as its owner, or as root (in a container: docker exec -u 0)"
        } else if unreachable.unread.is_some() {
            "mend the file, of which `firstmate check-config` shows every problem, or name the socket with --socket or $FIRSTMATE_SOCKET"
        } else if any(ANOTHERS) {
            "`firstmate start` runs the file of this directory; another's firstmate is asked from its directory, or with --socket PATH"
        } else {
            "`firstmate start` runs the file of this directory; one that runs elsewhere is named with --socket or $FIRSTMATE_SOCKET"
        };
        Self::new(UNREACHABLE, message).help(help)
    }
}

/// The project that would be run here.
struct Here {
    file: PathBuf,
    /// Absolute, without links.
    directory: PathBuf,
}

impl Here {
    fn find(args: &FileArgs, env: &BTreeMap<OsString, OsString>) -> Option<Self> {
        let current = std::env::current_dir().ok()?;
        Some(Self { file: args.find(env, &current).ok()?, directory: args.project(env, &current)? })
    }

    /// Whether this is its file, or another one in its directory.
    fn is(&self, file: &Path) -> bool {
        let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        file.parent() == Some(&*self.directory) || std::fs::canonicalize(&self.file).is_ok_and(|own| own == file)
    }
}

/// Where to look, and whether somebody there is the one of this project, whatever it says: `--socket`, else $FIRSTMATE_SOCKET, else the
/// place that the file names which would be run here, then those of its project, then the default places of this uid and of the uid PID 1 has.
#[derive(Default)]
struct Places {
    own: Vec<SocketPath>,
    everybodys: Vec<SocketPath>,
    here: Option<Here>,
    unread: Option<(String, String)>,
}

impl Places {
    fn find(file: &FileArgs, explicit: Option<&OsStr>, environment: Option<&OsStr>) -> Self {
        if let Some(named) = explicit.or(environment.filter(|value| !value.is_empty())) {
            return Self { own: vec![SocketPath::parse(named)], ..Self::default() };
        }
        let uid = nix::unistd::geteuid().as_raw();
        let xdg = std::env::var_os("XDG_RUNTIME_DIR");
        let env = std::env::vars_os().collect();
        let here = Here::find(file, &env);
        let mut places = Self { everybodys: sockets_of(uid, xdg.as_deref()), ..Self::default() };
        if let Some(here) = &here {
            // What `docker exec` finds where the image's file names a socket: the same file, by the same search.
            match config::load(&here.file, &Inputs { env, memory_limit: Some(GivenLimit::Auto), ..Inputs::default() }) {
                Ok(loaded) => places.own.extend(loaded.settings.socket.map(|socket| SocketPath::parse(socket.as_os_str()))),
                // It was right when firstmate read it, but what it said then cannot be told.
                Err(problems) => {
                    let first = problems.iter().find(|problem| problem.is_error());
                    let why = first.map(|problem| format!("{}: {}", problem.place(), problem.message));
                    let file = printable(&here.file.to_string_lossy()).into_owned();
                    places.unread = Some((file, printable(&why.unwrap_or_default()).into_owned()));
                }
            }
            places.own.extend(sockets_of_project(uid, xdg.as_deref(), &here.directory));
        }
        // In a container firstmate is PID 1 and may run as another user than whoever asks (`docker exec -u`, a service's own check).
        for place in pid_1_uid().into_iter().flat_map(|uid| sockets_of(uid, None)) {
            if !places.everybodys.contains(&place) {
                places.everybodys.push(place);
            }
        }
        Self { here, ..places }
    }
}

fn pid_1_uid() -> Option<u32> {
    std::fs::metadata("/proc/1").ok().map(|metadata| metadata.uid())
}

/// Connects to the first place where a supervisor accepts, which is this project's where there is a file here, or the container's.
///
/// # Errors
///
/// [`Unreachable`], with every place that was tried.
pub(super) fn connect(explicit: Option<&OsStr>, deadline: Option<Instant>) -> Result<Connection, Unreachable> {
    connect_for(&FileArgs::default(), explicit, deadline)
}

/// As [`connect`], with what says which file it is.
///
/// # Errors
///
/// As those of [`connect`].
pub(super) fn connect_for(file: &FileArgs, explicit: Option<&OsStr>, deadline: Option<Instant>) -> Result<Connection, Unreachable> {
    let environment: Option<OsString> = std::env::var_os("FIRSTMATE_SOCKET");
    first_of(Places::find(file, explicit, environment.as_deref()), deadline)
}

/// As [`connect`], whatever it runs: a health check knows which it means, changes nothing, and has no time to ask.
///
/// # Errors
///
/// As those of [`connect`].
pub(super) fn connect_to_any(explicit: Option<&OsStr>, deadline: Option<Instant>) -> Result<Connection, Unreachable> {
    let environment: Option<OsString> = std::env::var_os("FIRSTMATE_SOCKET");
    first_of(Places { here: None, ..Places::find(&FileArgs::default(), explicit, environment.as_deref()) }, deadline)
}

/// Whether a firstmate in one of the places that are everybody's runs this project already: an init started it, or its socket was named.
pub(super) fn is_run_already(file: &FileArgs) -> bool {
    let soon = Instant::now() + Duration::from_secs(2);
    first_of(Places { own: Vec::new(), ..Places::find(file, None, None) }, Some(soon)).is_ok()
}

fn first_of(places: Places, deadline: Option<Instant>) -> Result<Connection, Unreachable> {
    let Places { own, everybodys, here, unread } = places;
    let named = everybodys.is_empty();
    let mut tried = Vec::new();
    let own = own.into_iter().map(|socket| (socket, None));
    for (socket, here) in own.chain(everybodys.into_iter().map(|socket| (socket, here.as_ref()))) {
        let connection = match connect_to(&socket, deadline, named) {
            Ok(connection) => connection,
            Err(why) => {
                tried.push((socket, why));
                continue;
            }
        };
        // PID 1 is the container's own firstmate, whatever lies in the directory of whoever asks.
        if let Some(why) = here.filter(|_| connection.pid != Some(1)).and_then(|here| not_of(here, &socket, deadline)) {
            tried.push((socket, why));
            continue;
        }
        return Ok(connection);
    }
    Err(Unreachable { tried, unread })
}

/// `Err`: why not, in a few words.
fn connect_to(socket: &SocketPath, deadline: Option<Instant>, named: bool) -> Result<Connection, String> {
    let patience = deadline.map_or(Duration::from_secs(5), |deadline| deadline.saturating_duration_since(Instant::now()));
    let stream = socket.connect(Some(patience)).map_err(|errno| reason(socket, errno))?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok();
    // Anybody may make a socket in /tmp or an abstract one, so a default place counts only with somebody behind it who may be trusted.
    if let Some(peer) = peer.filter(|peer| !named && !is_trusted(peer.uid())) {
        return Err(format!("is of uid {}, not of root, your own or PID 1's uid; use --socket to trust it", peer.uid()));
    }
    let pid = peer.map(|peer| peer.pid()).filter(|pid| *pid > 0);
    Ok(Connection { stream, socket: socket.clone(), pid, deadline })
}

/// Whether firstmate answers at all. Whoever listens at the place has been judged by then.
pub(super) fn is_alive(socket: &SocketPath) -> bool {
    let deadline = Some(Instant::now() + Duration::from_secs(2));
    connect_to(socket, deadline, true).is_ok_and(|connection| connection.request("GET", "/livez").is_ok())
}

/// Why the firstmate at a place that is everybody's is not the one of this project. One that does not tell what it runs is taken for it.
fn not_of(here: &Here, socket: &SocketPath, deadline: Option<Instant>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told {
        file: Option<PathBuf>,
    }
    let soon = Instant::now() + Duration::from_secs(5);
    let deadline = deadline.map_or(soon, |deadline| deadline.min(soon));
    let answer = connect_to(socket, Some(deadline), false).ok()?.request("GET", "/status");
    let Ok(answer) = answer else {
        return Some("does not answer, so what it runs is not known (firstmate is stuck or overrun)".to_owned());
    };
    let file = serde_json::from_slice::<Told>(&answer.body).ok()?.file?;
    let (theirs, ours) = (file.to_string_lossy(), here.file.to_string_lossy());
    (!here.is(&file)).then(|| format!("{ANOTHERS}{}, and not {}", printable(&theirs), printable(&ours)))
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
    /// The same, whose answer is waited for no longer.
    #[must_use]
    pub(super) fn by(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

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
        fits(target)?;
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

/// What a request can say; the server reads 8 KiB, its other lines included.
const TARGET_BYTES: usize = 8000;

/// Whether the server will read so much.
///
/// # Errors
///
/// Exit code 2 when it will not: nothing is sent then.
pub(super) fn fits(target: &str) -> Result<(), Failure> {
    let length = target.len();
    if length <= TARGET_BYTES {
        return Ok(());
    }
    let failure = Failure::new(2, format!("too many names at once: they take {length} bytes, and a request has room for {TARGET_BYTES}"));
    Err(failure.help("name a group or `all`, or call it several times with some of the names each"))
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
    fn a_named_socket_is_the_only_place() {
        let of = |explicit: Option<&str>, environment: Option<&str>| {
            let places = Places::find(&FileArgs::default(), explicit.map(OsStr::new), environment.map(OsStr::new));
            (places.own, places.everybodys.first().cloned())
        };
        assert_eq!(of(Some("/a"), Some("/b")), (vec![SocketPath::File("/a".into())], None));
        assert_eq!(of(None, Some("@b")), (vec![SocketPath::Abstract(b"b".to_vec())], None));
        assert_eq!(of(None, Some("")).1, Some(SocketPath::File("/run/firstmate.sock".into())));
    }
}
