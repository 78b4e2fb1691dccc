//! An HTTP client that knows whether it was answered wholly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The whole answer: its status and body.
    Answer(u16, String),
    /// The connection was refused, or ended before a single byte came.
    Nothing(String),
    /// The beginning of an answer.
    Cut(String),
}

/// A connection for one request after the other.
pub struct Connection {
    stream: TcpStream,
    /// The server did not say that it would close it: nginx does after 1000 requests, for one.
    pub open: bool,
}

impl Connection {
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        // An address that is gone answers nothing at all.
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { stream, open: true })
    }

    /// Sends a request and reads its answer, and not a byte more.
    pub fn get(&mut self, target: &str, keep: bool) -> Got {
        let close = if keep { "" } else { "Connection: close\r\n" };
        let text = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n");
        let mut end = self.stream.write_all(text.as_bytes()).err();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        // What came before a failure may be a whole answer all the same.
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((status, body)) = whole(&text) {
                self.open = !text.to_ascii_lowercase().contains("\r\nconnection: close\r\n");
                return Got::Answer(status, body);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error) => {
                    end.get_or_insert(error);
                    break;
                }
            }
        }
        let why = end.map_or_else(|| "closed".to_owned(), |error| error.to_string());
        if bytes.is_empty() { Got::Nothing(why) } else { Got::Cut(format!("{why} after {}", String::from_utf8_lossy(&bytes))) }
    }
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> Got {
    match Connection::open(address) {
        Ok(mut connection) => connection.get(target, false),
        Err(error) => Got::Nothing(error.to_string()),
    }
}

/// Status and body of an answer whose body has a length or is chunked (RFC 9112); `None` while its end is missing.
fn whole(text: &str) -> Option<(u16, String)> {
    let (head, mut rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    if let Some(length) = field("content-length") {
        return (rest.len() == length.parse::<usize>().ok()?).then(|| (status, rest.to_owned()));
    }
    assert_eq!(field("transfer-encoding"), Some("chunked"), "{text:?}");
    let mut body = String::new();
    loop {
        let (size, chunk) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return (chunk == "\r\n").then_some((status, body));
        }
        body.push_str(chunk.get(..size)?);
        rest = chunk.get(size..)?.strip_prefix("\r\n")?;
    }
}
