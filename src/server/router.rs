//! Method, path and peer to an answer. Matched by hand: there are a dozen paths.

use std::rc::Rc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode, Uri};

use super::accept::metrics_format;
use super::page;
use super::probes::{self, Probed, Question};
use super::verbs::{Backend, MetricsFormat, Reply};
use super::wishes::{self, Path};
use crate::engine::status::Status;

/// Who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Over TCP, read-only.
    Tcp {
        /// From this machine, so reasons may be shown.
        loopback: bool,
        /// Reasons may be shown to everybody: `http_details` of the file.
        details: bool,
    },
    /// Over the Unix socket.
    Unix {
        /// The client's uid, as the kernel says; `None` when it could not be had.
        uid: Option<u32>,
        /// firstmate's own effective uid.
        own: u32,
        /// Whether the client may be told from a stranger by its uid: not on an abstract socket, for a process outside the PID namespace.
        near: bool,
    },
}

impl Peer {
    const fn may_know_reasons(self) -> bool {
        match self {
            Self::Tcp { loopback, details } => loopback || details,
            Self::Unix { .. } => true,
        }
    }

    /// On this machine: places may be named to it as well.
    const fn is_near(self) -> bool {
        match self {
            Self::Tcp { loopback, .. } => loopback,
            Self::Unix { .. } => true,
        }
    }

    /// `Err` says whose socket it is.
    pub(super) fn may_command(self) -> Result<(), String> {
        match self {
            Self::Tcp { .. } => Err("verbs work only over the Unix socket".to_owned()),
            Self::Unix { uid: Some(uid), own, near: true } if uid == 0 || uid == own => Ok(()),
            Self::Unix { uid, own, near } => {
                let owner = if own == 0 { "root".to_owned() } else { format!("uid {own}") };
                let allowed =
                    if own == 0 { "only root may use its verbs".to_owned() } else { format!("only root and uid {own} may use its verbs") };
                let you = match uid {
                    Some(_) if !near => "you are outside of this container".to_owned(),
                    Some(uid) => format!("you are uid {uid}"),
                    None => "the kernel does not say who you are".to_owned(),
                };
                Err(format!("this is the socket of a firstmate that runs as {owner}: {allowed}, and {you}"))
            }
        }
    }
}

/// What a path is.
enum Route {
    Whole(Question, &'static str),
    One(Question, String),
    Status,
    Metrics,
    Incidents,
    Page,
    Verb(Path),
    Unknown,
}

pub(super) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Prometheus 3 refuses a scrape whose type is not exactly one it knows.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Answers a request. Waits only for a verb's own end.
pub(super) async fn answer(method: Method, uri: Uri, headers: HeaderMap, peer: Peer, backend: Rc<dyn Backend>) -> Response<Full<Bytes>> {
    let route = route(uri.path(), peer);
    let allowed = match route {
        Route::Unknown => return plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        Route::Verb(_) => "POST",
        Route::Whole(..) | Route::One(..) | Route::Status | Route::Metrics | Route::Incidents | Route::Page => "GET, HEAD",
    };
    if !allowed.split(", ").any(|name| name == method.as_str()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, format!("405 method not allowed: use {allowed}\n"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    let query = Query::parse(uri.query().unwrap_or_default());
    let reasons = peer.may_know_reasons();
    match route {
        Route::Whole(question, name) => {
            let excluded = query.all("exclude");
            probed(probes::whole(question, name, &backend.status(), query.has("verbose"), &excluded, reasons))
        }
        Route::One(question, name) => probed(probes::one(question, &name, &backend.status(), reasons)),
        Route::Status => {
            let status = shown(backend.status(), peer);
            match serde_json::to_string(&status) {
                Ok(text) => reply(StatusCode::OK, JSON, text + "\n"),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the status: {error}\n")),
            }
        }
        Route::Metrics => {
            let format = metrics_format(&headers);
            let kind = match format {
                MetricsFormat::Prometheus => METRICS,
                MetricsFormat::OpenMetrics => OPEN_METRICS,
            };
            let mut response = reply(StatusCode::OK, kind, backend.metrics(format).await);
            response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            response
        }
        Route::Incidents => match serde_json::to_string(&backend.incidents()) {
            Ok(text) => reply(StatusCode::OK, JSON, text + "\n"),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the incidents: {error}\n")),
        },
        Route::Page => {
            let status = shown(backend.status(), peer);
            let mut response = if wants_html(&headers) {
                let mut response = reply(StatusCode::OK, HTML, page::hypertext(&status));
                let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
                response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
                response
            } else {
                plain(StatusCode::OK, page::plain(&status))
            };
            response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            response
        }
        Route::Verb(path) => command(path, &query, peer, &*backend).await,
        Route::Unknown => plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    }
}

fn route(path: &str, peer: Peer) -> Route {
    let (first, rest) = match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((first, rest)) => (first, Some(rest)),
        None => (path.strip_prefix('/').unwrap_or(path), None),
    };
    let (question, name) = match first {
        "livez" => (Question::Live, "livez"),
        "healthz" => (Question::Live, "healthz"),
        "readyz" => (Question::Ready, "readyz"),
        "startupz" => (Question::Started, "startupz"),
        "status" if rest.is_none() => return Route::Status,
        "metrics" if rest.is_none() => return Route::Metrics,
        // Reasons and names of processes are all there is in it, so there is nothing to show of it elsewhere.
        "incidents" if rest.is_none() && matches!(peer, Peer::Unix { .. }) => return Route::Incidents,
        "" if rest.is_none() => return Route::Page,
        "v1" if matches!(peer, Peer::Unix { .. }) => {
            return rest.and_then(Path::parse).map_or(Route::Unknown, Route::Verb);
        }
        _ => return Route::Unknown,
    };
    match rest {
        // As kube-apiserver does, where `/readyz/` is `/readyz`.
        None | Some("") => Route::Whole(question, name),
        Some(rest) => Route::One(question, decoded(rest, false)),
    }
}

async fn command(path: Path, query: &Query, peer: Peer, backend: &dyn Backend) -> Response<Full<Bytes>> {
    if let Err(why) = peer.may_command() {
        return verb_reply(StatusCode::FORBIDDEN, &Reply::Refused { why });
    }
    let request = match wishes::request(path, query) {
        Ok(request) => request,
        Err(why) => return verb_reply(StatusCode::BAD_REQUEST, &Reply::Failed { why }),
    };
    let Ok(outcome) = backend.request(request).await else {
        let why = "firstmate is going away and did not finish this".to_owned();
        return verb_reply(StatusCode::SERVICE_UNAVAILABLE, &Reply::Refused { why });
    };
    let code = match &outcome {
        Reply::Done { instances } if instances.iter().all(|answer| answer.verdict.is_good()) => StatusCode::OK,
        Reply::Update { instances, .. } if instances.iter().all(|answer| answer.verdict.is_good()) => StatusCode::OK,
        Reply::Done { .. } | Reply::Update { .. } | Reply::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        Reply::BadFile { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Reply::UnknownName { .. } => StatusCode::NOT_FOUND,
        Reply::Refused { .. } => StatusCode::CONFLICT,
    };
    verb_reply(code, &outcome)
}

pub(super) fn verb_reply(code: StatusCode, outcome: &Reply) -> Response<Full<Bytes>> {
    match serde_json::to_string(outcome) {
        Ok(text) => reply(code, JSON, text + "\n"),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the reply: {error}\n")),
    }
}

/// The status as this peer may see it. What is withheld keeps its place, so that "there is a reason" can still be seen.
fn shown(mut status: Status, peer: Peer) -> Status {
    if !peer.is_near() {
        status.file = None;
    }
    if let Some(memory) = status.memory.as_mut().filter(|_| !peer.is_near()) {
        // A path names the container, an address may hold its token.
        memory.limit_place.clear();
    }
    if peer.may_know_reasons() {
        return status;
    }
    let withhold = |text: &mut Option<String>| {
        if let Some(text) = text {
            "reason withheld".clone_into(text);
        }
    };
    withhold(&mut status.stopping_because);
    withhold(&mut status.log_blocked_because);
    if let Some(memory) = &mut status.memory {
        withhold(&mut memory.why);
    }
    for service in &mut status.services {
        withhold(&mut service.reason);
        for instance in &mut service.instances {
            withhold(&mut instance.why);
            withhold(&mut instance.last_outcome);
        }
    }
    status
}

fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html")))
}

fn probed(probed: Probed) -> Response<Full<Bytes>> {
    plain(StatusCode::from_u16(probed.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), probed.body)
}

pub(super) fn plain(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    reply(code, PLAIN, body)
}

pub(super) fn reply(code: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A query string's pairs, decoded as application/x-www-form-urlencoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(key, true), decoded(value, true))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    pub(super) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(known, value)| known == key && !value.is_empty()).map(|(_, value)| value.clone()).collect()
    }
}

/// Percent-decoding (RFC 3986, section 2.1). What is not an escape stays as it is; bytes that are not UTF-8 become U+FFFD.
fn decoded(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => break,
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'+', tail @ ..] if plus_is_space => {
                bytes.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::verbs::{Feed, Reading, Variables};
    use super::*;
    use crate::server::Request;

    #[test]
    fn queries_are_decoded_and_never_refused() {
        let query = Query::parse("verbose&exclude=a%20b&exclude=c+d&exclude=&x=%zz&%=&exclude=%ff");
        assert!(query.has("verbose") && query.has("x") && query.has("%"));
        assert_eq!(query.all("exclude"), ["a b", "c d", "\u{fffd}"]);
        assert_eq!(query.all("x"), ["%zz"]);
        assert_eq!(decoded("a+b%2", false), "a+b%2");
    }

    #[test]
    fn only_root_and_the_own_uid_may_command() {
        let peer = |uid, own, near| Peer::Unix { uid, own, near };
        assert!(peer(Some(0), 1000, true).may_command().is_ok());
        assert!(peer(Some(1000), 1000, true).may_command().is_ok());
        assert_eq!(
            peer(Some(33), 1000, true).may_command().unwrap_err(),
            "this is the socket of a firstmate that runs as uid 1000: only root and uid 1000 may use its verbs, and you are uid 33"
        );
        assert_eq!(
            peer(Some(33), 0, true).may_command().unwrap_err(),
            "this is the socket of a firstmate that runs as root: only root may use its verbs, and you are uid 33"
        );
        assert!(peer(Some(0), 0, false).may_command().unwrap_err().ends_with("you are outside of this container"));
        assert!(peer(None, 0, true).may_command().is_err());
        assert!(Peer::Tcp { loopback: true, details: true }.may_command().is_err());
    }

    struct Fixed(Status);

    impl Backend for Fixed {
        fn status(&self) -> Status {
            self.0.clone()
        }

        fn incidents(&self) -> crate::engine::Incidents {
            panic!("incidents over TCP");
        }

        fn metrics(&self, _: MetricsFormat) -> std::pin::Pin<Box<dyn Future<Output = String> + '_>> {
            Box::pin(async { String::new() })
        }

        fn request(&self, verb: Request) -> tokio::sync::oneshot::Receiver<Reply> {
            panic!("{verb:?} over TCP");
        }

        fn logs(&self, _: &Reading) -> Result<Box<dyn Feed>, Reply> {
            panic!("logs over TCP");
        }

        fn events(&self, _: &Reading) -> Result<Box<dyn Feed>, Reply> {
            panic!("events over TCP");
        }

        fn environment(&self, _: String, _: bool) -> tokio::sync::oneshot::Receiver<Result<Variables, Reply>> {
            panic!("an environment over TCP");
        }

        fn attach(&self, name: &str) -> Result<crate::server::attach::Attachment, Reply> {
            panic!("{name} over TCP");
        }
    }

    /// The body a TCP client gets.
    fn body(target: &'static str, loopback: bool, details: bool) -> String {
        use http_body_util::BodyExt as _;
        let text = r#"{"version":"1","pid":1,"uptime_ms":1,"file":"/srv/token/Procfile","phase":"stopping","ready":false,"live":true,"started":true,
            "stopping_because":"secret","log_blocked_because":"secret",
            "memory":{"limit_bytes":1,"limit_source":"ecs-task","limit_place":"http://token","oom_kills":0,"helpless":true,
            "acts":{"held":0,"forecast":0,"hard":0,"emergency":0,"own":0},"why":"secret"},"services":[{"name":"redis","kind":"service","essential":true,"ready":false,"reason":"secret",
            "instances":[{"name":"redis.1","state":"running","ready":false,"run":1,
            "restarts":{"total":0,"crash":0,"live":0,"start_timeout":0},"why":"secret","last_outcome":"secret"}]}]}"#;
        let backend = Rc::new(Fixed(serde_json::from_str(text).unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let response = answer(Method::GET, Uri::from_static(target), HeaderMap::new(), Peer::Tcp { loopback, details }, backend).await;
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        })
    }

    #[test]
    fn strangers_get_no_reasons() {
        let withheld = "[+]ping ok\n[-]log failed: reason withheld\n[-]redis failed: reason withheld\n[-]memory failed: reason withheld\n\
                        [-]shutdown failed: reason withheld\nreadyz check failed\n";
        assert_eq!(body("/readyz", false, false), withheld);
        for name in ["redis", "redis.1", "log", "memory", "shutdown"] {
            let target = Box::leak(format!("/readyz/{name}").into_boxed_str());
            assert_eq!(body(target, false, false), format!("service unavailable: {name} failed: reason withheld\n"));
        }
        for target in ["/", "/status", "/readyz", "/readyz/redis", "/readyz/redis.1", "/readyz/log", "/readyz/memory"] {
            assert!(!body(target, false, false).contains("secret"), "{target}");
            assert!(body(target, true, false).contains("secret"), "{target}");
            // `http_details`
            assert!(body(target, false, true).contains("secret"), "{target}");
        }
        assert!(body("/status", true, false).contains("token"));
        assert!(!body("/status", false, true).contains("token"), "an address is no reason");
    }
}
