//! The questions that need a socket: TCP connects and HTTP GETs, each a future that never blocks the loop.
//!
//! Hosts are IP literals, `localhost` or names from /etc/hosts, which is read once at the start: getaddrinfo(3) would block the only
//! thread, and in a static glibc program crash it. Failures are one short line, as `/readyz` shows it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// kubelet stops reading an answer there, too.
const MAX_ANSWER: usize = 10 * 1024;
/// A status line that is longer is none.
const MAX_STATUS_LINE: usize = 1024;
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

/// Whether a connection is accepted within `limit`.
///
/// # Errors
/// One line for people: `connect 127.0.0.1:6379: refused`.
pub async fn tcp(addresses: &[IpAddr], port: u16, limit: Duration) -> Result<(), String> {
    within(limit, connect(addresses, port)).await.map(drop)
}

/// Whether a GET is answered with a status from 200 to 399 within `limit`, as kubelet judges.
///
/// # Errors
/// One line for people: `GET /healthz: status 503`.
pub async fn http(addresses: &[IpAddr], host: &str, port: u16, path: &str, limit: Duration) -> Result<(), String> {
    within(limit, get(addresses, host, port, path)).await
}

async fn within<T>(limit: Duration, question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
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

async fn get(addresses: &[IpAddr], host: &str, port: u16, path: &str) -> Result<(), String> {
    let mut stream = connect(addresses, port).await?;
    let said = |what: &str, error: &io::Error| format!("GET {path}: {what}: {}", reason(error));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: firstmate/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| said("write", &error))?;
    let mut answer = Vec::with_capacity(512);
    let mut verdict = None;
    // The rest is read as well, so that the server does not see a reset and log one with every probe.
    while answer.len() < MAX_ANSWER {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) if verdict.is_some() => break,
            Err(error) => return Err(said("read", &error)),
        }
        if verdict.is_none() {
            verdict = status_of(&answer)?;
        }
        if verdict.is_some() && answer.len() > MAX_STATUS_LINE {
            break;
        }
    }
    match verdict {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path}: status {status}")),
        None => Err(format!("GET {path}: the connection was closed without an answer")),
    }
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
