//! `firstmate attach NAME`: this terminal becomes the service's, until the detach keys are typed.
//!
//! A blocking client without a runtime: one poll(2) on the keyboard, the connection and the signals. Its terminal is put back as it was in
//! every case: signals are read as data, so none but SIGKILL ends it in between, and the guard is dropped by a panic as well.

use std::fmt;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::client::{self, HttpAnswer, UNREACHABLE, encoded};
use super::output::{Failure, err};
use super::verbs;
use crate::engine::Signal;
use crate::linux::pty::WindowSize;
use crate::linux::signals::{Meaning, Signals};
use crate::server::attach::{Decoder, Frame, PROTOCOL};
use crate::server::printable;

/// Exit code for a service that ended meanwhile.
const ENDED: u8 = 3;
/// For the answer to the request; a firstmate that is alive gives it at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// The head of an answer is some hundred bytes.
const LONGEST_HEAD: usize = 64 * 1024;

const EXIT_CODES: &str = "\
Exit codes:
  0    detached, by the detach keys or at the end of standard input; the service runs on
  1    refused: it has no terminal, does not run, or somebody else is attached
  2    the arguments are wrong
  3    the service ended meanwhile
  4    the name is unknown, no firstmate answers, or the connection was lost
  128+N  ended by signal N";

/// Talk to the terminal of a service that has one (`tty = true`, or --tty), such as a debugger's prompt
///
/// What the service writes is shown as it is, what is typed goes there, Ctrl-C too. Ctrl-P Ctrl-Q leaves it and stops nothing. One client at a time.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct AttachArgs {
    /// An instance (web.1), or a service with one instance (web)
    name: String,
    /// Keys that detach, comma separated: letters, or ctrl- and a letter or one of @ [ \ ] ^ _
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
    #[command(flatten)]
    socket: super::SocketArg,
}

/// The keys that detach, one after the other. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DetachKeys(Vec<u8>);

impl DetachKeys {
    fn parse(text: &str) -> Result<Self, String> {
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| "keys are letters, or such as ctrl-p, comma separated: ctrl-p,ctrl-q".to_owned())
    }
}

/// As the terminal sends it.
fn key(name: &str) -> Option<u8> {
    let single = |text: &str| match text.as_bytes() {
        [byte] if byte.is_ascii_graphic() => Some(*byte),
        _ => None,
    };
    let control = name.get(..5).filter(|start| start.eq_ignore_ascii_case("ctrl-")).and_then(|_| name.get(5..));
    match control {
        // See ascii(7): a control character is its letter without the two highest bits.
        Some(letter) => {
            single(letter).map(|byte| byte.to_ascii_uppercase()).filter(|byte| (b'@'..=b'_').contains(byte)).map(|byte| byte & 0x1f)
        }
        None => single(name),
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            match byte {
                0..0x20 => write!(f, "Ctrl-{}", char::from(byte | 0x40))?,
                byte => write!(f, "{}", char::from(*byte))?,
            }
        }
        Ok(())
    }
}

/// Looks for the detach keys in what is typed.
#[derive(Debug)]
struct Watch<'a> {
    keys: &'a DetachKeys,
    matched: usize,
}

impl Watch<'_> {
    /// Appends to `out` what is for the service; true when the keys were typed. The beginning of them is held back until it is known whether
    /// the rest follows.
    fn typed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let Self { keys: DetachKeys(keys), matched } = self;
        for byte in bytes {
            if keys.get(*matched) == Some(byte) {
                *matched = matched.saturating_add(1);
            } else {
                out.extend_from_slice(keys.get(..*matched).unwrap_or_default());
                *matched = usize::from(keys.first() == Some(byte));
                if *matched == 0 {
                    out.push(*byte);
                }
            }
            if *matched == keys.len() {
                return true;
            }
        }
        false
    }
}

/// The terminal on standard input in raw mode; as it was when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    /// Nothing where standard input is no terminal.
    fn enter() -> Result<Self, Errno> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let Some(before) = &self.0 else { return };
        let mut stdout = io::stdout();
        if stdout.is_terminal() {
            // What the service may have left behind: a colour, a hidden cursor, pasted text in brackets, keys in application mode.
            let _ = stdout.write_all(b"\x1b[0m\x1b[?25h\x1b[?2004l\x1b[?1l").and_then(|()| stdout.flush());
        }
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
    }
}

/// How it came to an end.
enum End {
    Detached,
    Ended(String),
    Lost(io::Error),
    Signal(Signal),
}

pub(super) fn run(args: &AttachArgs) -> Result<u8, Failure> {
    let connection = client::connect(args.socket.socket.as_deref(), None)?;
    let socket = connection.socket.clone();
    let mut stream = connection.into_stream();
    let early = match ask(&mut stream, &args.name) {
        Ok(Asked::Attached { early }) => early,
        Ok(Asked::Answered(answer)) => {
            let reply = serde_json::from_slice(&answer.body).map_err(|_| {
                Failure::new(UNREACHABLE, format!("the firstmate on {socket} answered {}: is it older than this program?", answer.code))
            })?;
            return verbs::show("attach", &reply);
        }
        Err(error) => return Err(Failure::new(UNREACHABLE, format!("cannot talk to the firstmate on {socket}: {error}"))),
    };
    let broken = |what: &str, error: &dyn fmt::Display| Failure::new(1, format!("cannot {what}: {error}"));
    // From here on a signal is something to be read, and ends this only after the terminal is as it was.
    let mut signals = Signals::new().map_err(|error| broken("receive signals", &error))?;
    let raw = Raw::enter().map_err(|errno| broken("put this terminal into raw mode", &errno.desc()))?;
    let mut session =
        Session { stream, name: printable(&args.name).into_owned(), is_attached: false, is_raw: raw.0.is_some(), keys: &args.detach_keys };
    let end = session.hold(&early, &mut signals);
    drop(raw);
    let name = &session.name;
    match end {
        End::Detached => {
            err(&format!("\ndetached from {name}, which runs on\n"));
            Ok(0)
        }
        End::Ended(why) => {
            err(&format!("\n{name} ended: {}\n", printable(&why)));
            Ok(ENDED)
        }
        End::Lost(error) => {
            err("\n");
            Err(Failure::new(UNREACHABLE, format!("the connection to the firstmate on {socket} was lost: {error}")))
        }
        End::Signal(signal) => {
            err(&format!("\ndetached from {name}, which runs on: {signal} received\n"));
            Ok(u8::try_from(signal.number().saturating_add(128)).unwrap_or(u8::MAX))
        }
    }
}

enum Asked {
    /// With what came right after the answer.
    Attached { early: Vec<u8> },
    /// Something else.
    Answered(HttpAnswer),
}

fn ask(stream: &mut UnixStream, name: &str) -> io::Result<Asked> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let name = encoded(name);
    let request = format!(
        "POST /v1/attach?name={name} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end.saturating_add(4);
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 || bytes.len() > LONGEST_HEAD {
            return client::parse(&bytes).map(Asked::Answered);
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
    };
    if bytes.starts_with(b"HTTP/1.1 101 ") {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        return Ok(Asked::Attached { early: bytes.split_off(end) });
    }
    // It closes its side once it has answered and nothing more can come.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut bytes)?;
    client::parse(&bytes).map(Asked::Answered)
}

struct Session<'a> {
    stream: UnixStream,
    /// As given, until the other side says it in full.
    name: String,
    /// It has said it. What is typed before would be for nobody yet.
    is_attached: bool,
    is_raw: bool,
    keys: &'a DetachKeys,
}

impl Session<'_> {
    fn hold(&mut self, early: &[u8], signals: &mut Signals) -> End {
        match self.exchange(early, signals) {
            Ok(end) => end,
            Err(error) => End::Lost(error),
        }
    }

    fn exchange(&mut self, early: &[u8], signals: &mut Signals) -> io::Result<End> {
        let mut decoder = Decoder::default();
        let mut watch = Watch { keys: self.keys, matched: 0 };
        let mut buffer = [0; 16 * 1024];
        self.tell_size()?;
        if let Some(end) = self.take(&mut decoder, early)? {
            return Ok(end);
        }
        loop {
            let (typed, heard, signalled) = ready(&self.stream, signals, self.is_attached)?;
            if signalled {
                while let Some(received) = signals.read()? {
                    match Meaning::of(received.signal) {
                        Meaning::Stop | Meaning::Update => return Ok(End::Signal(received.signal)),
                        Meaning::Forward if received.signal == Signal::WINCH => self.tell_size()?,
                        Meaning::ChildEnded | Meaning::Forward | Meaning::Ignore | Meaning::Untouched => {}
                    }
                }
            }
            if heard {
                let count = self.stream.read(&mut buffer)?;
                if count == 0 {
                    return Err(io::Error::other("it went away"));
                }
                if let Some(end) = self.take(&mut decoder, buffer.get(..count).unwrap_or_default())? {
                    return Ok(end);
                }
            }
            if typed {
                let count = match nix::unistd::read(io::stdin(), &mut buffer) {
                    Ok(count) => count,
                    Err(Errno::EINTR | Errno::EAGAIN) => continue,
                    // The terminal is gone: whoever sat there has closed the window.
                    Err(Errno::EIO) => 0,
                    Err(errno) => return Err(errno.into()),
                };
                let mut out = Vec::new();
                let detached = watch.typed(buffer.get(..count).unwrap_or_default(), &mut out);
                if !out.is_empty() {
                    self.send(&Frame::Data(out))?;
                }
                if detached || count == 0 {
                    return Ok(End::Detached);
                }
            }
        }
    }

    fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes)
    }

    fn tell_size(&mut self) -> io::Result<()> {
        match WindowSize::own() {
            Some(WindowSize { rows, columns }) => self.send(&Frame::Resized { rows, columns }),
            None => Ok(()),
        }
    }

    /// Shows what came.
    fn take(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> io::Result<Option<End>> {
        let mut frames = Vec::new();
        decoder.feed(bytes, |frame| frames.push(frame));
        let mut stdout = io::stdout().lock();
        let line_end = if self.is_raw { "\r\n" } else { "\n" };
        for frame in frames {
            match frame {
                Frame::Data(bytes) => stdout.write_all(&bytes)?,
                Frame::Attached(name) => {
                    self.name = printable(&name).into_owned();
                    self.is_attached = true;
                    let keys = self.keys;
                    err(&format!("attached to {}; {keys} detaches and stops nothing{line_end}", self.name));
                }
                Frame::Dropped(count) => {
                    stdout.flush()?;
                    err(&format!("{line_end}[firstmate: {count} bytes are missing here, since they were not read in time]{line_end}"));
                }
                Frame::Ended(why) => {
                    stdout.flush()?;
                    return Ok(Some(End::Ended(why)));
                }
                Frame::Resized { .. } => {}
            }
        }
        stdout.flush()?;
        Ok(None)
    }
}

/// Waits until something has come, was signalled, or, where `keys` are wanted, is typed: this in the order typed, heard, signalled.
fn ready(stream: &UnixStream, signals: &Signals, keys: bool) -> io::Result<(bool, bool, bool)> {
    let stdin = io::stdin();
    let mut fds = [
        PollFd::new(stream.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
    ];
    let [others @ .., _] = &mut fds;
    let polled = if keys { poll(&mut fds, PollTimeout::NONE) } else { poll(others, PollTimeout::NONE) };
    match polled {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let [heard, signalled, typed] = fds.map(|fd| fd.any().unwrap_or_default());
    Ok((typed && keys, heard, signalled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        let shown = |text: &str| DetachKeys::parse(text).map(|keys| (keys.to_string(), keys.0));
        assert_eq!(shown("ctrl-p,ctrl-q"), Ok(("Ctrl-P Ctrl-Q".to_owned(), vec![0x10, 0x11])));
        assert_eq!(shown("Ctrl-],q"), Ok(("Ctrl-] q".to_owned(), vec![0x1d, b'q'])));
        assert_eq!(shown("ctrl-@"), Ok(("Ctrl-@".to_owned(), vec![0])));
        for wrong in ["", ",", "ctrl-", "ctrl-p,", "ctrl-1", "ab", "ctrl-pq", "\u{e9}", "ctrl-\u{e9}"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_keys_in_a_row_detach_and_nothing_else_is_lost() {
        let keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        // Typed in these portions; what the service gets, and whether it is left.
        for (portions, got, detached) in [
            (&["ab"][..], "ab", false),
            (&["a\x10\x11b"], "a", true),
            (&["a", "\x10", "\x11"], "a", true),
            (&["\x10", "x"], "\x10x", false),
            (&["\x10\x10\x11"], "\x10", true),
            (&["\x11\x10"], "\x11", false),
            (&["\x10", "\x10", "z"], "\x10\x10z", false),
        ] {
            let mut watch = Watch { keys: &keys, matched: 0 };
            let mut out = Vec::new();
            let left = portions.iter().any(|portion| watch.typed(portion.as_bytes(), &mut out));
            assert_eq!((out.as_slice(), left), (got.as_bytes(), detached), "{portions:?}");
        }
    }
}
