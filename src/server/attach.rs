//! Attaching: after an HTTP/1.1 upgrade a connection on the Unix socket carries a service's terminal.
//!
//! `POST /v1/attach?name=NAME` with `Upgrade: firstmate-attach` is answered by 101; from then on both sides send [`Frame`]s. What the service
//! writes is shown as it is, what is typed goes to it, and a connection that ends detaches: nothing else happens to the service.
//!
//! Bounded on every side: a client that does not read loses output, is told how much, and holds up nobody ([`Outlet`]); what is typed
//! faster than the service reads it is dropped beyond a bound.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Method, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::Notify;

use super::router::{Peer, Query, plain, verb_reply};
use super::verbs::{Backend, Reply};

/// The protocol's name in the fields `Upgrade`.
pub const PROTOCOL: &str = "firstmate-attach";
/// Where one asks to be attached.
pub(super) const PATH: &str = "/v1/attach";
/// The most that waits for a client that does not read, in bytes.
const UNREAD: usize = 256 * 1024;
/// The most that waits for a service that does not read what is typed, in bytes.
const TYPED: usize = 64 * 1024;
/// A kind and a length come before what a frame holds.
const HEADER: usize = 3;

/// What the two sides say: one byte for the kind, two for the length of what follows, the high one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// 0, to the service: typed. To the client: written by the service.
    Data(Vec<u8>),
    /// 1, to the service: the client's window has so many rows and columns.
    Resized {
        /// Two bytes.
        rows: u16,
        /// Two bytes.
        columns: u16,
    },
    /// 2, to the client, first of all: whom it is attached to.
    Attached(String),
    /// 3, to the client: so many bytes are missing here, since they were not read in time. Eight bytes.
    Dropped(u64),
    /// 4, to the client, last of all: why it is over.
    Ended(String),
}

impl Frame {
    /// Appends it. What is longer than a frame holds becomes several, or is cut where it is a sentence.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(bytes) => bytes.chunks(usize::from(u16::MAX)).for_each(|piece| append(out, 0, piece)),
            Self::Resized { rows, columns } => append(out, 1, &[rows.to_be_bytes(), columns.to_be_bytes()].concat()),
            Self::Attached(name) => append(out, 2, name.as_bytes()),
            Self::Dropped(bytes) => append(out, 3, &bytes.to_be_bytes()),
            Self::Ended(why) => append(out, 4, why.as_bytes()),
        }
    }

    /// `None`: of a kind that is not known here, or not as it should be.
    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        let text = || String::from_utf8_lossy(payload).into_owned();
        match (kind, payload) {
            (0, bytes) => Some(Self::Data(bytes.to_vec())),
            (1, &[a, b, c, d]) => Some(Self::Resized { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) }),
            (2, _) => Some(Self::Attached(text())),
            (3, bytes) => bytes.try_into().ok().map(|bytes| Self::Dropped(u64::from_be_bytes(bytes))),
            (4, _) => Some(Self::Ended(text())),
            _ => None,
        }
    }
}

fn append(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload.get(..usize::from(length)).unwrap_or(payload));
}

/// Puts frames together from bytes in whatever portions they come. Holds at most one frame.
#[derive(Debug, Default)]
pub struct Decoder(Vec<u8>);

impl Decoder {
    /// Passes on every frame that `bytes` complete. One of a kind that is not known is left out.
    pub fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(Frame)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wanted = match self.0.as_slice() {
                [_, high, low, ..] => HEADER.saturating_add(usize::from(u16::from_be_bytes([*high, *low]))),
                _ => HEADER,
            };
            let (taken, left) = rest.split_at(wanted.saturating_sub(self.0.len()).min(rest.len()));
            self.0.extend_from_slice(taken);
            rest = left;
            if let [kind, high, low, payload @ ..] = self.0.as_slice()
                && payload.len() == usize::from(u16::from_be_bytes([*high, *low]))
            {
                if let Some(frame) = Frame::decode(*kind, payload) {
                    emit(frame);
                }
                self.0.clear();
            }
        }
    }
}

/// What a service writes, on its way to the client that is attached to it.
///
/// Never waits: what a client has not read is kept up to a bound; then all that comes is dropped and counted until it has read what there is, so
/// that there is one gap and not many.
#[derive(Debug, Default)]
pub struct Outlet {
    kept: RefCell<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    first: Option<Frame>,
    bytes: VecDeque<u8>,
    dropped: u64,
    ended: Option<String>,
}

impl Outlet {
    /// For a client of this instance.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        let kept = Kept { first: Some(Frame::Attached(instance.to_owned())), ..Kept::default() };
        Self { kept: RefCell::new(kept), changed: Notify::new() }
    }

    /// The service has written this.
    pub fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.borrow_mut();
        if kept.dropped > 0 || kept.bytes.len().saturating_add(bytes.len()) > UNREAD {
            kept.dropped = kept.dropped.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        } else {
            kept.bytes.extend(bytes);
        }
        drop(kept);
        self.changed.notify_one();
    }

    /// It is over, for this reason.
    pub fn end(&self, why: String) {
        self.kept.borrow_mut().ended.get_or_insert(why);
        self.changed.notify_one();
    }

    /// What is next for the client, in the order it happened; `None` when there is nothing now.
    fn take(&self) -> Option<Frame> {
        let mut kept = self.kept.borrow_mut();
        if let Some(first) = kept.first.take() {
            return Some(first);
        }
        if !kept.bytes.is_empty() {
            let count = kept.bytes.len().min(usize::from(u16::MAX));
            return Some(Frame::Data(kept.bytes.drain(..count).collect()));
        }
        if kept.dropped > 0 {
            return Some(Frame::Dropped(std::mem::take(&mut kept.dropped)));
        }
        kept.bytes.shrink_to_fit();
        kept.ended.take().map(Frame::Ended)
    }

    /// As [`Self::take`], and waits for it. Safe to cancel.
    async fn next(&self) -> Frame {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            self.changed.notified().await;
        }
    }
}

/// A service's terminal, for who types there. Dropping it detaches.
pub trait Terminal {
    /// Writes as much as it takes now. An error when it is no more.
    ///
    /// # Errors
    /// Those of write(2) on a terminal's master.
    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Gives its window this size.
    fn resize(&self, rows: u16, columns: u16);
}

/// A client's place at a service's terminal. There is one at a time.
pub struct Attachment {
    /// What the service writes.
    pub outlet: Rc<Outlet>,
    /// Where what is typed goes.
    pub terminal: Box<dyn Terminal>,
}

/// Answers who asks to be attached: 101 and the place, or why not.
pub(super) fn answer(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    peer: Peer,
    backend: &dyn Backend,
) -> (Response<Full<Bytes>>, Option<Attachment>) {
    let refused = |code, reply: &Reply| (verb_reply(code, reply), None);
    if *method != Method::POST {
        return (plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed: use POST\n".to_owned()), None);
    }
    if let Err(why) = peer.may_command() {
        return refused(StatusCode::FORBIDDEN, &Reply::Refused { why });
    }
    let upgrades = headers.get_all(UPGRADE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    if !upgrades {
        let why = format!("a terminal needs more than a request: ask with `Connection: Upgrade` and `Upgrade: {PROTOCOL}`");
        return refused(StatusCode::UPGRADE_REQUIRED, &Reply::Failed { why });
    }
    let names = Query::parse(uri.query().unwrap_or_default()).all("name");
    let [name] = names.as_slice() else {
        let why = "one is attached to one instance: add ?name=NAME or ?name=NAME.1".to_owned();
        return refused(StatusCode::BAD_REQUEST, &Reply::Failed { why });
    };
    match backend.attach(name) {
        Ok(attachment) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
            (response, Some(attachment))
        }
        Err(reply @ Reply::UnknownName { .. }) => refused(StatusCode::NOT_FOUND, &reply),
        Err(reply @ (Reply::Failed { .. } | Reply::Refused { .. } | Reply::Done { .. } | Reply::Update { .. } | Reply::BadFile { .. })) => {
            refused(StatusCode::CONFLICT, &reply)
        }
    }
}

/// Carries between the two until one of them is gone.
pub(super) async fn carry(connection: impl AsyncRead + AsyncWrite + Unpin, attachment: Attachment) {
    let Attachment { outlet, terminal } = attachment;
    let (mut reader, mut writer) = split(connection);
    let mut decoder = Decoder::default();
    let mut typed = Vec::new();
    let mut read = vec![0; 4096];
    let mut out = Vec::new();
    loop {
        tokio::select! {
            frame = outlet.next() => {
                out.clear();
                frame.encode(&mut out);
                // Waits for the client; meanwhile the outlet is bounded. Nobody types who does not read.
                if writer.write_all(&out).await.is_err() {
                    return type_now(&*terminal, typed).await;
                }
                if matches!(frame, Frame::Ended(_)) {
                    let _ = writer.shutdown().await;
                    return;
                }
            }
            count = reader.read(&mut read) => {
                let Ok(count @ 1..) = count else {
                    return type_now(&*terminal, typed).await;
                };
                decoder.feed(read.get(..count).unwrap_or_default(), |frame| match frame {
                    Frame::Data(bytes) if typed.len().saturating_add(bytes.len()) <= TYPED => typed.extend_from_slice(&bytes),
                    Frame::Resized { rows, columns } => terminal.resize(rows, columns),
                    Frame::Data(_) | Frame::Attached(_) | Frame::Dropped(_) | Frame::Ended(_) => {}
                });
            }
            written = std::future::poll_fn(|context| terminal.poll_write(context, &typed)), if !typed.is_empty() => match written {
                Ok(count) => drop(typed.drain(..count.min(typed.len()))),
                // It is going; why is on its way.
                Err(_) => typed.clear(),
            },
        }
    }
}

/// The client is gone: types what it has typed last, as far as the service takes it without waiting.
async fn type_now(terminal: &dyn Terminal, mut typed: Vec<u8>) {
    while !typed.is_empty() {
        let written = std::future::poll_fn(|context| Poll::Ready(terminal.poll_write(context, &typed))).await;
        match written {
            Poll::Ready(Ok(count @ 1..)) => drop(typed.drain(..count.min(typed.len()))),
            Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Attached("web.1".to_owned()),
            Frame::Data(b"\x1b[31mred\r\n".to_vec()),
            Frame::Resized { rows: 24, columns: 300 },
            Frame::Dropped(1 << 40),
            Frame::Data(Vec::from([7; 65_535])),
            Frame::Ended("exit code 0".to_owned()),
        ]
    }

    #[test]
    fn frames_come_through_whatever_the_portions() {
        let mut bytes = Vec::new();
        frames().iter().for_each(|frame| frame.encode(&mut bytes));
        for portion in [1, 2, 3, 7, 4096, usize::MAX] {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            bytes.chunks(portion.min(bytes.len())).for_each(|piece| decoder.feed(piece, |frame| seen.push(frame)));
            assert_eq!(seen, frames(), "{portion}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_is_too_long_is_split() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        // An unknown kind, a size of three bytes, an empty one.
        decoder.feed(&[9, 0, 2, 1, 2, 1, 0, 3, 1, 2, 3, 0, 0, 0], |frame| seen.push(frame));
        assert_eq!(seen, [Frame::Data(Vec::new())]);
        let mut bytes = Vec::new();
        Frame::Data(vec![1; 100_000]).encode(&mut bytes);
        assert_eq!(bytes.len(), 100_000 + 2 * HEADER);
        let mut data = Vec::new();
        decoder.feed(&bytes, |frame| {
            let Frame::Data(bytes) = frame else { panic!("{frame:?}") };
            data.extend(bytes);
        });
        assert_eq!(data, vec![1; 100_000]);
    }

    #[test]
    fn who_does_not_read_loses_what_comes_last_and_is_told_where() {
        let outlet = Outlet::new("web.1");
        outlet.push(&vec![1; UNREAD]);
        outlet.push(b"lost");
        outlet.push(b"!");
        assert_eq!(outlet.take(), Some(Frame::Attached("web.1".to_owned())));
        let mut read = 0;
        let gap = loop {
            match outlet.take() {
                Some(Frame::Data(bytes)) => read += bytes.len(),
                other => break other,
            }
            // One gap: nothing comes through before it is told of.
            outlet.push(b"");
        };
        assert_eq!((read, gap), (UNREAD, Some(Frame::Dropped(5))));
        outlet.push(b"again");
        outlet.end("over".to_owned());
        outlet.end("not the first reason".to_owned());
        assert_eq!(outlet.take(), Some(Frame::Data(b"again".to_vec())));
        assert_eq!(outlet.take(), Some(Frame::Ended("over".to_owned())));
        assert_eq!(outlet.take(), None);
    }
}
