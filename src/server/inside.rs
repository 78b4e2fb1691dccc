//! What the Unix socket alone has beside the verbs: the lines services wrote, what happened, and environments.
//!
//! Lines are pulled by the connection and never pushed: a client that does not read costs its place in what is kept and nothing else. What
//! comes while it is not looking is bounded by whoever keeps it.

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

use super::listen::{Counters, Limits};
use super::router::{JSON, PLAIN, Peer, Query, plain, reply, verb_reply};
use super::verbs::{Backend, Feed, Fill, Reading, Reply};

/// The most that is taken from a feed at once, in bytes, but for one line.
const PIECE: usize = 16 * 1024;
/// Between two looks at a feed that had nothing more to give: lines that come one by one, fast, are sent together.
const BREATH: Duration = Duration::from_millis(10);
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// What belongs to the connection a request came over.
pub(super) struct Line {
    /// Another descriptor for it, by which its end shows while nothing is written; not over TCP.
    pub(super) watch: Option<OwnedFd>,
    /// It may live on: an answer is being worked on, or goes on without end.
    pub(super) busy: Rc<Cell<bool>>,
}

/// An answer's body.
pub(super) enum Body {
    Whole(Full<Bytes>),
    Lines(Lines),
}

impl Body {
    /// Whether it goes on until somebody ends it.
    pub(super) fn is_endless(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Lines(lines) => lines.seat.is_some(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Lines(lines) => lines.poll_piece(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// Lines as they come.
pub(super) struct Lines {
    feed: Box<dyn Feed>,
    pause: Option<Pin<Box<Sleep>>>,
    watch: Option<AsyncFd<OwnedFd>>,
    ended: bool,
    /// Of one that follows.
    seat: Option<Seat>,
}

impl Lines {
    /// `None` is the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended || self.is_gone(context) {
            return Poll::Ready(None);
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let mut piece = Vec::new();
        let fill = match self.feed.poll_fill(context, &mut piece, PIECE) {
            Poll::Ready(fill) => fill,
            Poll::Pending => return Poll::Pending,
        };
        match fill {
            Fill::More => {}
            Fill::Now => self.pause = Some(Box::pin(sleep(BREATH))),
            Fill::End => self.ended = true,
        }
        if piece.is_empty() && !self.ended {
            // Nothing after all; an empty piece would be the end of the body.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready((!piece.is_empty()).then(|| Bytes::from(piece)))
    }

    /// Whether the client has closed the connection, not only its own side of it.
    fn is_gone(&self, context: &mut Context<'_>) -> bool {
        let Some(watch) = &self.watch else { return false };
        loop {
            match watch.poll_read_ready(context) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(mut guard)) => {
                    if is_hung_up(watch.get_ref()) {
                        return true;
                    }
                    guard.clear_ready();
                }
            }
        }
    }
}

/// A descriptor of its own, since each is registered once.
fn watch(connection: &OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    let descriptor = connection.try_clone().ok()?;
    // SAFETY: an OwnedFd is open and the same for as long as it lives, and nothing takes it out of there again.
    unsafe { AsyncFd::register(descriptor) }.ok()
}

/// See POLLHUP in poll(2); unix(7) sets it when both directions are shut.
fn is_hung_up(descriptor: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::empty())];
    let _ = poll(&mut watched, PollTimeout::ZERO);
    watched.iter().any(|one| one.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

/// One of the few places for those who follow.
struct Seat {
    counters: Rc<Counters>,
    busy: Rc<Cell<bool>>,
}

impl Seat {
    /// As with connections, a quarter is kept for those who may use the verbs.
    fn take(peer: Peer, limits: Limits, counters: &Rc<Counters>, busy: &Rc<Cell<bool>>) -> Result<Self, Reply> {
        let most = if peer.may_command().is_ok() { limits.followers } else { limits.followers - limits.followers / 4 };
        if counters.followers.get() >= most {
            let why = format!("{most} clients follow already, which is as many as there may be; end one of them");
            return Err(Reply::Refused { why });
        }
        counters.followers.set(counters.followers.get().saturating_add(1));
        Ok(Self { counters: Rc::clone(counters), busy: Rc::clone(busy) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counters.followers.set(self.counters.followers.get().saturating_sub(1));
        self.busy.set(false);
    }
}

enum Route {
    Logs,
    Events,
    Environment,
}

/// The answer to what is only here; `None`: it is something else.
pub(super) async fn answer(
    method: &Method,
    uri: &Uri,
    peer: Peer,
    backend: &dyn Backend,
    (limits, counters): (Limits, &Rc<Counters>),
    line: &Line,
) -> Option<Response<Body>> {
    let route = match (peer, uri.path()) {
        (Peer::Unix { .. }, "/logs") => Route::Logs,
        (Peer::Unix { .. }, "/events") => Route::Events,
        (Peer::Unix { .. }, "/environment") => Route::Environment,
        _ => return None,
    };
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed: use GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return Some(response.map(Body::Whole));
    }
    let query = Query::parse(uri.query().unwrap_or_default());
    let response = match route {
        Route::Environment => environment(&query, peer, backend).await.map(Body::Whole),
        Route::Logs | Route::Events => {
            let asked = match reading(&query) {
                Ok(asked) => asked,
                Err(why) => return Some(verb_reply(StatusCode::BAD_REQUEST, &Reply::Failed { why }).map(Body::Whole)),
            };
            let (kind, feed) = match route {
                Route::Logs => (PLAIN, backend.logs(&asked)),
                Route::Events | Route::Environment => (NDJSON, backend.events(&asked)),
            };
            let seat = if asked.follow { Seat::take(peer, limits, counters, &line.busy).map(Some) } else { Ok(None) };
            match (feed, seat) {
                (Ok(feed), Ok(seat)) => {
                    // Where its end cannot be watched it shows at the next line.
                    let watch = line.watch.as_ref().and_then(watch);
                    let lines = Lines { feed, pause: None, watch, ended: false, seat };
                    reply(StatusCode::OK, kind, String::new()).map(|_| Body::Lines(lines))
                }
                (Err(no), _) => verb_reply(StatusCode::NOT_FOUND, &no).map(Body::Whole),
                (_, Err(no)) => verb_reply(StatusCode::SERVICE_UNAVAILABLE, &no).map(Body::Whole),
            }
        }
    };
    Some(response)
}

fn reading(query: &Query) -> Result<Reading, String> {
    let number = |key: &str| -> Result<Option<u64>, String> {
        match query.all(key).first() {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("`{key}` is a whole number")),
        }
    };
    Ok(Reading {
        names: query.all("name"),
        last: number("last")?.map(|last| usize::try_from(last).unwrap_or(usize::MAX)),
        since: number("since_ms")?.map(Duration::from_millis),
        follow: query.has("follow"),
    })
}

async fn environment(query: &Query, peer: Peer, backend: &dyn Backend) -> Response<Full<Bytes>> {
    let values = query.has("values");
    if values && let Err(why) = peer.may_command() {
        return verb_reply(StatusCode::FORBIDDEN, &Reply::Refused { why });
    }
    let names = query.all("name");
    let [name] = names.as_slice() else {
        let why = "one service or instance is named: add ?name=NAME or ?name=NAME.1".to_owned();
        return verb_reply(StatusCode::BAD_REQUEST, &Reply::Failed { why });
    };
    match backend.environment(name.clone(), values).await {
        Ok(Ok(variables)) => match serde_json::to_string(&variables) {
            Ok(text) => reply(StatusCode::OK, JSON, text + "\n"),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the environment: {error}\n")),
        },
        Ok(Err(no @ Reply::UnknownName { .. })) => verb_reply(StatusCode::NOT_FOUND, &no),
        Ok(Err(no)) => verb_reply(StatusCode::INTERNAL_SERVER_ERROR, &no),
        Err(_) => {
            let why = "firstmate is going away and did not finish this".to_owned();
            verb_reply(StatusCode::SERVICE_UNAVAILABLE, &Reply::Refused { why })
        }
    }
}
