//! The questions that need a socket: connects, HTTP, Redis and FastCGI, each a future that never blocks the loop.
//!
//! Hosts are IP literals, `localhost` or names from /etc/hosts, which is read once at the start: getaddrinfo(3) would block the only
//! thread, and in a static glibc program crash it. Failures are one short line, as `/readyz` shows it. A future that is dropped closes its
//! socket, so a question that is cut off leaves nothing behind. What servers answer is bounded and not trusted.

mod fastcgi;
mod http;
mod redis;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::engine::spec::{Address, FastCgiCheck, HttpCheck};

pub use redis::Login;

/// Of a body, this much is looked at: kubelet stops reading there, too.
const MAX_BODY: usize = 10 * 1024;
/// Of an answer with everything that frames it, this much is read.
const MAX_ANSWER: usize = 64 * 1024;
/// A status line that is longer is none.
const MAX_STATUS_LINE: usize = 1024;
/// Of what a server says, this much is shown.
const QUOTED: usize = 200;
/// More of /etc/hosts is not read.
const MAX_HOSTS_FILE: u64 = 1024 * 1024;

/// Names and their addresses, as /etc/hosts has them.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    entries: Vec<(String, IpAddr)>,
}

impl Hosts {
    /// Reads /etc/hosts; empty when it cannot be read. Blocks on the disk: for the start only.
    #[must_use]
    pub fn read() -> Self {
        use std::io::Read as _;
        let mut text = Vec::new();
        let read = std::fs::File::open("/etc/hosts").and_then(|file| file.take(MAX_HOSTS_FILE).read_to_end(&mut text));
        match read {
            Ok(_) => Self::parse(&String::from_utf8_lossy(&text)),
            Err(_) => Self::default(),
        }
    }

    /// The format of hosts(5): an address, then its names; `#` begins a comment. Lines that are not so are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            entries.extend(words.map(|name| (name.to_ascii_lowercase(), address)));
        }
        Self { entries }
    }

    /// Where to connect for `host`, in the order to be tried.
    ///
    /// # Errors
    /// One line for people when it is no address and no known name.
    pub fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let wanted = bare.to_ascii_lowercase();
        let mut found: Vec<IpAddr> = self.entries.iter().filter(|(name, _)| *name == wanted).map(|&(_, address)| address).collect();
        if found.is_empty() && wanted == "localhost" {
            found = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        }
        // A program that listens on one family only should be found at the first try more often than not.
        found.sort_by_key(IpAddr::is_ipv6);
        if found.is_empty() { Err(format!("unknown host {bare}: use an IP address, localhost or a name in /etc/hosts")) } else { Ok(found) }
    }
}

/// Where a question goes, all of it known: hosts are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// To be tried one after the other.
    Tcp {
        /// At least one.
        addresses: Vec<IpAddr>,
        /// From 1.
        port: u16,
    },
    /// An absolute path, or `@name`.
    Unix(String),
}

impl Place {
    /// Looks the host up.
    ///
    /// # Errors
    /// One line for people when it is no address and no known name.
    pub fn find(at: &Address, hosts: &Hosts) -> Result<Self, String> {
        match at {
            Address::Tcp { host, port } => Ok(Self::Tcp { addresses: hosts.resolve(host)?, port: *port }),
            Address::Unix(path) => Ok(Self::Unix(path.clone())),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match self {
            Self::Tcp { addresses, port } => Ok(Box::new(connect(addresses, *port).await?)),
            Self::Unix(path) => Ok(Box::new(connect_unix(path).await?)),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Whether a connection is accepted within `limit`.
///
/// # Errors
/// One line for people: `connect 127.0.0.1:6379: refused`.
pub async fn connects(place: &Place, limit: Duration) -> Result<(), String> {
    within(limit, place.connect()).await.map(drop)
}

/// Whether an HTTP server answers within `limit` as `check` wants it.
///
/// # Errors
/// One line for people: `GET /healthz: status 503`.
pub async fn http(place: &Place, check: &HttpCheck, limit: Duration) -> Result<(), String> {
    within(limit, http::ask(place, check)).await
}

/// Whether Redis answers PING within `limit`, and not that it is busy with something else.
///
/// # Errors
/// One line for people, mostly in Redis's own words: `PING: LOADING Redis is loading the dataset in memory`.
pub async fn redis(place: &Place, login: Option<&Login>, limit: Duration) -> Result<(), String> {
    within(limit, redis::ask(place, login)).await
}

/// Whether a FastCGI application answers within `limit` as `check` wants it.
///
/// # Errors
/// One line for people: `FastCGI /ping: status 404: Primary script unknown`.
pub async fn fastcgi(place: &Place, check: &FastCgiCheck, limit: Duration) -> Result<(), String> {
    within(limit, fastcgi::ask(place, check)).await
}

async fn within<T>(limit: Duration, question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

/// Sends `request` and reads until `judge` has seen enough, or the answer is over. `judge` is given all of the answer so far and whether
/// more will come.
async fn exchange<T>(
    place: &Place,
    request: &[u8],
    said: impl Fn(&str) -> String,
    mut judge: impl FnMut(&[u8], More) -> Result<Option<T>, String>,
) -> Result<T, String> {
    let mut stream = place.connect().await?;
    // A server that turns a visitor away may have hung up before it has read what was asked, and yet have said why.
    let written = stream.write_all(request).await.map_err(|error| said(&format!("write: {}", reason(&error))));
    let mut answer = Vec::with_capacity(512);
    loop {
        let more = match stream.read_buf(&mut answer).await {
            Ok(0) => More::Closed,
            Ok(_) if answer.len() >= MAX_ANSWER => More::Unread,
            Ok(_) => More::Maybe,
            // Whatever it said before is an answer all the same.
            Err(_) if !answer.is_empty() => More::Closed,
            Err(error) => return written.and_then(|()| Err(said(&format!("read: {}", reason(&error))))),
        };
        if let Some(verdict) = judge(&answer, more)? {
            return Ok(verdict);
        }
        match more {
            More::Maybe => {}
            More::Closed if answer.is_empty() => {
                return written.and_then(|()| Err(said("the connection was closed without an answer")));
            }
            More::Closed => return Err(said("the connection was closed before the answer was complete")),
            More::Unread => return Err(said(&format!("the answer is longer than {} KiB", MAX_ANSWER / 1024))),
        }
    }
}

/// What is behind an answer as far as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Maybe,
    /// Nothing: the connection is closed.
    Closed,
    /// As much as firstmate is willing to read is read.
    Unread,
}

/// Text of a stranger, as one short line.
fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect()
}

fn contains(body: &[u8], text: &str) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text.as_bytes())
}

async fn connect_unix(path: &str) -> Result<UnixStream, String> {
    let mut bytes = path.as_bytes().to_vec();
    if let Some(first) = bytes.first_mut().filter(|byte| **byte == b'@') {
        // How the kernel writes an abstract name; see unix(7).
        *first = 0;
    }
    UnixStream::connect(OsString::from_vec(bytes)).await.map_err(|error| {
        let known = [
            (io::ErrorKind::NotFound, "there is no such socket"),
            (io::ErrorKind::PermissionDenied, "permission denied"),
            // A full queue is told at once; see connect(2).
            (io::ErrorKind::WouldBlock, "too many connections wait to be accepted"),
        ];
        let why = match known.iter().find(|(kind, _)| *kind == error.kind()) {
            Some((_, words)) => (*words).to_owned(),
            None => reason(&error),
        };
        format!("connect {path}: {why}")
    })
}

pub(super) async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, String> {
    let mut first_failure = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                first_failure.get_or_insert_with(|| format!("connect {address}: {}", reason(&error)));
            }
        }
    }
    Err(first_failure.unwrap_or_else(|| "no address to connect to".to_owned()))
}

/// The status once its line is complete; see RFC 9112, section 4.
pub(super) fn status_of(answer: &[u8]) -> Result<Option<u16>, String> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
        return if answer.len() > MAX_STATUS_LINE { Err("what answers does not speak HTTP".to_owned()) } else { Ok(None) };
    };
    let line = String::from_utf8_lossy(answer.get(..end).unwrap_or_default());
    let mut words = line.split_ascii_whitespace();
    let version = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    match words.next().map(str::parse::<u16>) {
        Some(Ok(status @ 100..=999)) if version => Ok(Some(status)),
        Some(_) | None => Err("what answers does not speak HTTP".to_owned()),
    }
}

pub(super) fn reason(error: &io::Error) -> String {
    let known =
        [(io::ErrorKind::ConnectionRefused, "refused"), (io::ErrorKind::ConnectionReset, "reset"), (io::ErrorKind::TimedOut, "timed out")];
    match known.iter().find(|(kind, _)| *kind == error.kind()) {
        Some((_, word)) => (*word).to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_literals_localhost_or_in_the_file() {
        let hosts = Hosts::parse("127.0.0.1 localhost me # no\n::1 localhost\nnonsense x\n10.0.0.7\tdb DB2");
        assert_eq!(hosts.resolve("db2"), Ok(vec!["10.0.0.7".parse().unwrap()]));
        assert_eq!(hosts.resolve("localhost"), Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]));
        assert_eq!(hosts.resolve("[::1]"), Ok(vec!["::1".parse().unwrap()]));
        assert_eq!(Hosts::default().resolve("localhost").map(|found| found.len()), Ok(2));
        assert!(hosts.resolve("no").is_err_and(|why| why.contains("unknown host no")));
    }

    #[test]
    fn a_status_line_is_read_whole_or_not_at_all() {
        assert_eq!(status_of(b"HTTP/1.1 200 O"), Ok(None));
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n"), Ok(Some(204)));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Ok(Some(503)));
        assert!(status_of(b"-ERR unknown command\r\n").is_err());
        assert!(status_of(b"HTTP/1.1 99999\r\n").is_err());
        assert!(status_of(&[b'x'; 2000]).is_err());
    }
}
