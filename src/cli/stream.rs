//! Answers that come bit by bit, line after line: the client's side of a chunked body (RFC 9112, section 7.1), with a deadline where one is
//! wanted.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::client::{self, UNREACHABLE};
use super::output::Failure;
use crate::config::values::parse_duration;
use crate::server::{Reply, SocketPath, printable};

/// For the head of an answer, which comes at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Head and errors are far below it.
const HEAD_BYTES: usize = 64 * 1024;

/// Lines on their way.
#[derive(Debug)]
pub(super) struct Stream {
    stream: UnixStream,
    socket: SocketPath,
    /// Bytes that were read and not yet understood.
    raw: Vec<u8>,
    chunk: Chunk,
    /// Text that is no whole line yet.
    text: Vec<u8>,
}

/// Where in the body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// Before a chunk's size.
    Size,
    /// Within a chunk: so many bytes are to come, the line end after it included.
    Data(usize),
    /// After the last one.
    End,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// One or more whole lines, line feeds included.
    Lines(Vec<u8>),
    /// That was all.
    End,
    /// The other side is gone before it said that that was all.
    CutOff,
    /// It is time.
    Late,
}

impl Stream {
    /// Asks for `target` and reads the head of the answer.
    ///
    /// # Errors
    ///
    /// When nobody answers, or the answer is a refusal.
    pub(super) fn open(socket: Option<&OsStr>, target: &str) -> Result<Self, Failure> {
        client::fits(target)?;
        let deadline = Instant::now() + PATIENCE;
        let connection = client::connect(socket, Some(deadline))?;
        let socket = connection.socket.clone();
        let broken = |why: &str| Failure::new(UNREACHABLE, format!("cannot talk to the firstmate on {socket}: {why}"));
        let mut stream = connection.into_stream();
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let asked = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(request.as_bytes()));
        // The server may have answered before it read everything.
        if let Err(error) = asked.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }) {
            return Err(broken(&printable(&error.to_string())));
        }
        let mut raw = Vec::new();
        let (head, end) = loop {
            if let Some(at) = raw.windows(4).position(|window| window == b"\r\n\r\n") {
                break (raw.get(..at).unwrap_or_default().to_vec(), at.saturating_add(4));
            }
            match receive(&mut stream, &mut raw, Some(deadline)) {
                Ok(Received::Some) if raw.len() <= HEAD_BYTES => {}
                Ok(Received::Some) => return Err(broken("the answer is not HTTP")),
                Ok(Received::Nothing) => return Err(broken("it closed the connection without an answer")),
                Ok(Received::Late) => return Err(broken("no answer in time")),
                Err(error) => return Err(broken(&printable(&error.to_string()))),
            }
        };
        raw.drain(..end);
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let code: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken("the answer is not HTTP"))?;
        if code == 200 && head.contains("\r\ntransfer-encoding: chunked") {
            return Ok(Self { stream, socket, raw, chunk: Chunk::Size, text: Vec::new() });
        }
        while raw.len() <= HEAD_BYTES && matches!(receive(&mut stream, &mut raw, Some(deadline)), Ok(Received::Some)) {}
        Err(match serde_json::from_slice::<Reply>(&raw) {
            Ok(reply) => refusal(&reply),
            Err(_) => broken(&format!("it answered {code}")).help("is that socket firstmate's, and of the same version as this one?"),
        })
    }

    /// The next lines. Waits for them, up to the deadline where there is one.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no body.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Result<Arrived, Failure> {
        loop {
            if !self.understand() {
                return Err(Failure::new(UNREACHABLE, format!("cannot read what the firstmate on {} sends: it is not HTTP", self.socket)));
            }
            if let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.text.split_off(end.saturating_add(1));
                return Ok(Arrived::Lines(std::mem::replace(&mut self.text, rest)));
            }
            if self.chunk == Chunk::End {
                return Ok(Arrived::End);
            }
            match receive(&mut self.stream, &mut self.raw, deadline) {
                Ok(Received::Some) => {}
                Ok(Received::Nothing) => return Ok(Arrived::CutOff),
                Ok(Received::Late) => return Ok(Arrived::Late),
                // A firstmate that is killed leaves a reset behind.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Arrived::CutOff),
                Err(error) => {
                    let why = printable(&error.to_string()).into_owned();
                    return Err(Failure::new(UNREACHABLE, format!("cannot talk to the firstmate on {}: {why}", self.socket)));
                }
            }
        }
    }

    /// Takes chunks apart as far as they are there; false when they are none.
    fn understand(&mut self) -> bool {
        loop {
            match self.chunk {
                Chunk::End => return true,
                Chunk::Size => {
                    let Some(end) = self.raw.windows(2).position(|window| window == b"\r\n") else {
                        // 16 digits are more than any size has.
                        return self.raw.len() <= 18;
                    };
                    let line: Vec<u8> = self.raw.drain(..end.saturating_add(2)).collect();
                    let digits = line.split(|byte| *byte == b';' || *byte == b'\r').next().unwrap_or_default();
                    let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
                    match size {
                        Some(0) => self.chunk = Chunk::End,
                        Some(size) => self.chunk = Chunk::Data(size.saturating_add(2)),
                        None => return false,
                    }
                }
                Chunk::Data(left) => {
                    if self.raw.is_empty() {
                        return true;
                    }
                    // The last two are the line end after the chunk.
                    let data = left.saturating_sub(2).min(self.raw.len());
                    self.text.extend(self.raw.drain(..data));
                    let after = left.saturating_sub(data);
                    let ends = if after <= 2 { after.min(self.raw.len()) } else { 0 };
                    self.raw.drain(..ends);
                    let after = after.saturating_sub(ends);
                    self.chunk = if after == 0 { Chunk::Size } else { Chunk::Data(after) };
                    if after > 0 {
                        return true;
                    }
                }
            }
        }
    }
}

enum Received {
    Some,
    Nothing,
    Late,
}

/// Reads once and appends it.
fn receive(stream: &mut UnixStream, into: &mut Vec<u8>, deadline: Option<Instant>) -> io::Result<Received> {
    let mut buffer = [0_u8; 64 * 1024];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Received::Late);
        }
        stream.set_read_timeout(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Received::Nothing),
            Ok(count) => {
                into.extend_from_slice(buffer.get(..count).unwrap_or_default());
                return Ok(Received::Some);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(Received::Late),
            Err(error) => return Err(error),
        }
    }
}

/// A reply that is no success, as a message.
pub(super) fn refusal(reply: &Reply) -> Failure {
    match reply {
        Reply::UnknownName { name, suggestion } => {
            let failure = Failure::new(UNREACHABLE, format!("no service, instance or group is called `{}`", printable(name)));
            match suggestion {
                Some(near) => failure.help(format!("did you mean `{}`?", printable(near))),
                None => failure.help("`firstmate status` lists them"),
            }
        }
        Reply::Failed { why } | Reply::Refused { why } => Failure::new(1, format!("firstmate refuses: {}", printable(why))),
        Reply::Done { .. } | Reply::Update { .. } | Reply::BadFile { .. } => {
            Failure::new(UNREACHABLE, "firstmate answered something else than was asked")
        }
    }
}

/// For clap: `500ms`, `60s`, `5m`; a bare number is seconds.
pub(super) fn duration_argument(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(ToOwned::to_owned)
}

/// Services, instances, groups and `all` as a part of a target.
pub(super) fn name_query(names: &[String]) -> String {
    names.iter().map(|name| format!("&name={}", client::encoded(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands the pieces over one by one, then ends; what arrives, joined, and how it ended.
    fn read(pieces: &[&[u8]]) -> (String, Result<Arrived, Failure>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = SocketPath::File("/x".into());
        let mut stream = Stream { stream: ours, socket, raw: Vec::new(), chunk: Chunk::Size, text: Vec::new() };
        let mut text = Vec::new();
        for piece in pieces {
            theirs.write_all(piece).unwrap();
            loop {
                // What was sent is there already.
                match stream.next(Some(Instant::now() + Duration::from_millis(20))) {
                    Ok(Arrived::Lines(lines)) => {
                        assert_eq!(lines.last(), Some(&b'\n'));
                        text.extend(lines);
                    }
                    Ok(Arrived::Late) => break,
                    other => return (String::from_utf8(text).unwrap(), other),
                }
            }
        }
        drop(theirs);
        loop {
            match stream.next(None) {
                Ok(Arrived::Lines(lines)) => text.extend(lines),
                other => return (String::from_utf8(text).unwrap(), other),
            }
        }
    }

    #[test]
    fn chunks_are_put_together_wherever_they_are_cut() {
        let whole = b"4\r\na\nb\n\r\nA;x=y\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n";
        assert_eq!(read(&[whole]).0, "a\nb\n0123456789\n");
        for at in 1..whole.len() {
            let (head, tail) = whole.split_at(at);
            let (text, end) = read(&[head, tail]);
            assert_eq!((text.as_str(), end.unwrap()), ("a\nb\n0123456789\n", Arrived::End), "cut at {at}");
        }
    }

    #[test]
    fn an_end_that_was_not_announced_is_told() {
        let (text, end) = read(&[b"4\r\na\nb"]);
        assert_eq!((text.as_str(), end.unwrap()), ("a\n", Arrived::CutOff));
        assert!(read(&[b"zz\r\n"]).1.is_err());
        assert!(read(&[b"11111111111111111111"]).1.is_err());
    }
}
