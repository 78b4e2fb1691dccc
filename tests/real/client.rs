//! Clients that know whether they were answered wholly, and an upstream that answers when it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::sandbox::PATIENCE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// The whole answer: its status and body.
    Answer(u16, String),
    /// The connection was refused, or ended before a single byte came.
    Nothing(String),
    /// The beginning of an answer.
    Cut(String),
}

/// One request on a connection of its own.
pub fn get(port: u16, target: &str) -> Got {
    request(port, "GET", target)
}

pub fn request(port: u16, method: &str, target: &str) -> Got {
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
        Ok(stream) => stream,
        Err(error) => return Got::Nothing(error.to_string()),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let written = stream.write_all(text.as_bytes());
    let mut bytes = Vec::new();
    let end = written.and_then(|()| stream.read_to_end(&mut bytes));
    if bytes.is_empty() {
        return Got::Nothing(end.map_or_else(|error| error.to_string(), |_| "closed".to_owned()));
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match whole(&text) {
        Some((status, body)) => Got::Answer(status, body),
        None => Got::Cut(text),
    }
}

/// Status and body of an answer (RFC 9112) whose body has a length or is chunked; `None` if its end is missing.
fn whole(text: &str) -> Option<(u16, String)> {
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    if let Some(length) = field("content-length") {
        return (rest.len() == length.parse::<usize>().ok()?).then(|| (status, rest.to_owned()));
    }
    let mut body = String::new();
    let mut rest = rest;
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

/// An upstream on the loopback that tells of each request and answers it only when it is told to.
pub struct Upstream {
    arrived: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl Upstream {
    pub fn new(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (arrive, arrived) = mpsc::channel();
        let (release, released) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).unwrap();
                if arrive.send(()).is_err() || released.recv().is_err() {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlate\n");
            }
        });
        Self { arrived, release }
    }

    pub fn wait_for_a_request(&self) {
        self.arrived.recv_timeout(PATIENCE).expect("the request has not reached the upstream");
    }

    pub fn answer(&self) {
        self.release.send(()).unwrap();
    }
}

/// One FastCGI request (FastCGI specification 1.0): what the script wrote, if its end was told.
pub fn fastcgi(port: u16, script: &Path) -> Result<String, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let script = script.to_str().unwrap();
    let mut parameters = Vec::new();
    for (name, value) in [("SCRIPT_FILENAME", script), ("SCRIPT_NAME", "/index.php"), ("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/")] {
        parameters.push(u8::try_from(name.len()).unwrap());
        parameters.push(u8::try_from(value.len()).unwrap());
        parameters.extend(name.bytes().chain(value.bytes()));
    }
    let record = |kind: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let (begin, params, stdin) = (1, 4, 5);
    let request = [record(begin, &[0, 1, 0, 0, 0, 0, 0, 0]), record(params, &parameters), record(params, &[]), record(stdin, &[])].concat();
    stream.write_all(&request).map_err(|error| error.to_string())?;
    let mut output = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => format!("cut after {:?}", String::from_utf8_lossy(&output)),
            _ => error.to_string(),
        })?;
        let mut content = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]])) + usize::from(head[6])];
        stream.read_exact(&mut content).map_err(|error| error.to_string())?;
        content.truncate(content.len() - usize::from(head[6]));
        match head[1] {
            3 => return String::from_utf8(output).map_err(|error| error.to_string()),
            6 => output.extend(content),
            _ => {}
        }
    }
}

/// One command in Redis's inline form; the first line of the answer, or the whole of a bulk string.
pub fn redis(mut stream: impl Read + Write, command: &str) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    stream.write_all(format!("{command}\r\n").as_bytes()).map_err(told)?;
    let mut byte = [0];
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        stream.read_exact(&mut byte).map_err(told)?;
        line.push(char::from(byte[0]));
    }
    let line = line.trim_end().to_owned();
    let Some(length) = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) else { return Ok(line) };
    let mut text = vec![0; length];
    stream.read_exact(&mut text).map_err(told)?;
    String::from_utf8(text).map_err(|error| error.to_string())
}
