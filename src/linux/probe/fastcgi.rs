//! FastCGI 1.0 as a probe needs it: one request in the role of a responder, as nginx would send it, and the whole answer.
//!
//! php-fpm answers its `ping.path` itself, from a worker but without PHP; it goes by SCRIPT_NAME. A pool whose workers are all busy
//! does not answer in time, which is what readiness is about.

use crate::engine::spec::FastCgiCheck;

use super::http::split_head;
use super::{MAX_BODY, More, Place, contains, exchange, quoted};

const VERSION: u8 = 1;
/// The only request of its connection.
const REQUEST: u16 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
/// Role 1, responder; no flags: the application closes the connection afterwards.
const RESPONDER: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];
const HEADER: usize = 8;

pub(super) async fn ask(place: &Place, check: &FastCgiCheck) -> Result<(), String> {
    let said = |what: &str| format!("FastCGI {}: {what}", check.path);
    exchange(place, &request(&check.path), said, |answer, more| verdict(answer, more, check).map_err(|why| said(&why))).await
}

fn request(path: &str) -> Vec<u8> {
    let (script, query) = path.split_once('?').unwrap_or((path, ""));
    let mut params = Vec::new();
    for (name, value) in [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", concat!("firstmate/", env!("CARGO_PKG_VERSION"))),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "80"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", path),
        ("DOCUMENT_URI", script),
        ("SCRIPT_NAME", script),
        ("SCRIPT_FILENAME", script),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", ""),
        ("HTTP_HOST", "localhost"),
    ] {
        length(&mut params, name);
        length(&mut params, value);
        params.extend(name.bytes().chain(value.bytes()));
    }
    let mut request = Vec::new();
    record(&mut request, BEGIN_REQUEST, &RESPONDER);
    // A record holds less than 64 KiB; the path of a configuration file may be longer.
    for part in params.chunks(usize::from(u16::MAX)) {
        record(&mut request, PARAMS, part);
    }
    record(&mut request, PARAMS, &[]);
    record(&mut request, STDIN, &[]);
    request
}

/// One byte, or four with the highest bit set; section 3.4.
fn length(params: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(short @ 0..=127) => params.push(short),
        Ok(_) | Err(_) => params.extend((u32::try_from(text.len()).unwrap_or(u32::MAX) | 1 << 31).to_be_bytes()),
    }
}

fn record(request: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [high, low] = REQUEST.to_be_bytes();
    let [long, short] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    request.extend([VERSION, kind, high, low, long, short, 0, 0]);
    request.extend_from_slice(content);
}

/// `None` until the application has said that it is done.
fn verdict(answer: &[u8], more: More, check: &FastCgiCheck) -> Result<Option<()>, String> {
    let (mut out, mut complaint) = (Vec::new(), Vec::new());
    let mut ended = None;
    let mut rest = answer;
    while let Some((kind, content, behind)) = next_record(rest)? {
        rest = behind;
        match kind {
            STDOUT => out.extend_from_slice(content),
            STDERR => complaint.extend_from_slice(content),
            END_REQUEST => {
                ended = content.get(4).copied();
                break;
            }
            // Records that a responder does not send, or that belong to no request.
            _ => {}
        }
    }
    let complaint = quoted(&complaint);
    let told = |what: String| Err(if complaint.is_empty() { what } else { format!("{what}: {complaint}") });
    // Section 5.5.
    match ended {
        Some(0) => {}
        Some(1) => return told("the application answers one request at a time and is busy".to_owned()),
        Some(2) => return told("the application is overloaded".to_owned()),
        Some(3) => return told("the application is no responder".to_owned()),
        Some(other) => return told(format!("the application ended the request with status {other}")),
        None if more == More::Closed && !complaint.is_empty() => return told("the answer was cut off".to_owned()),
        None => return Ok(None),
    }
    let Some((head, body)) = split_head(&out) else { return told("the answer has no head".to_owned()) };
    let head = String::from_utf8_lossy(head);
    let field = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("status"));
    // RFC 3875, section 6.3.3: 200 where it is not told.
    let status = match field.map(|(_, value)| value.trim().get(..3).unwrap_or_default().parse::<u16>()) {
        None => 200,
        Some(Ok(status)) => status,
        Some(Err(_)) => return told("the answer has a Status that is no number".to_owned()),
    };
    if !check.status.contain(status) {
        let hint = if matches!(status, 403 | 404) { " (php-fpm answers this where `ping.path` is another)" } else { "" };
        return told(format!("status {status}{hint}"));
    }
    if !contains(body.get(..MAX_BODY).unwrap_or(body), &check.contains) {
        return told(format!("status {status}, but the body does not contain `{}`", check.contains));
    }
    Ok(Some(()))
}

/// Kind, content, and what is behind it.
type Record<'a> = (u8, &'a [u8], &'a [u8]);

/// Kind and content of the first record and what is behind it; `None` until it is complete. Section 3.3.
fn next_record(answer: &[u8]) -> Result<Option<Record<'_>>, String> {
    let Some((version, _)) = answer.split_first() else { return Ok(None) };
    if *version != VERSION {
        return Err("what answers does not speak FastCGI".to_owned());
    }
    let Some(&[_, kind, _, _, long, short, padding, _]) = answer.get(..HEADER) else { return Ok(None) };
    let end = HEADER.saturating_add(usize::from(u16::from_be_bytes([long, short])));
    let (Some(content), Some(behind)) = (answer.get(HEADER..end), answer.get(end.saturating_add(usize::from(padding))..)) else {
        return Ok(None);
    };
    Ok(Some((kind, content, behind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::{Address, Statuses};

    fn check() -> FastCgiCheck {
        FastCgiCheck {
            at: Address::Unix("/x".to_owned()),
            path: "/ping".to_owned(),
            status: Statuses::default(),
            contains: "pong".to_owned(),
        }
    }

    fn answer(records: &[(u8, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, content) in records {
            record(&mut all, *kind, content);
        }
        all
    }

    const DONE: (u8, &[u8]) = (END_REQUEST, &[0; 8]);

    #[test]
    fn a_request_is_what_the_specification_shows() {
        let request = request("/ping?a");
        assert_eq!(request[..16], [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let (mut kinds, mut rest) = (Vec::new(), &request[..]);
        let mut params = Vec::new();
        while let Some((kind, content, behind)) = next_record(rest).unwrap() {
            kinds.push((kind, content.is_empty()));
            params.extend_from_slice(if kind == PARAMS { content } else { &[] });
            rest = behind;
        }
        assert_eq!(kinds, [(BEGIN_REQUEST, false), (PARAMS, false), (PARAMS, true), (STDIN, true)]);
        let holds = |text: &[u8]| params.windows(text.len()).any(|part| part == text);
        assert!(holds(b"\x0b\x05SCRIPT_NAME/ping") && holds(b"\x0c\x01QUERY_STRINGa") && holds(b"\x0b\x07REQUEST_URI/ping?a"));
        let mut long = Vec::new();
        length(&mut long, &"x".repeat(300));
        assert_eq!(long, [0x80, 0, 1, 44]);
    }

    #[test]
    fn answers_are_judged_by_status_body_and_end() {
        let ok = b"Content-type: text/plain\r\n\r\npong";
        let whole = answer(&[(STDOUT, ok), (STDOUT, &[]), DONE]);
        for read in 0..whole.len() {
            assert_eq!(verdict(&whole[..read], More::Maybe, &check()), Ok(None), "{read}");
        }
        assert_eq!(verdict(&whole, More::Maybe, &check()), Ok(Some(())));
        let why = |records: &[(u8, &[u8])]| verdict(&answer(records), More::Closed, &check()).unwrap_err();
        let missing = why(&[(STDERR, b"Primary script unknown\n"), (STDOUT, b"Status: 404 Not Found\r\n\r\nFile not found.\n"), DONE]);
        assert_eq!(missing, "status 404 (php-fpm answers this where `ping.path` is another): Primary script unknown");
        assert_eq!(why(&[(STDOUT, b"Status: 500\n\n"), DONE]), "status 500");
        assert_eq!(why(&[(STDOUT, b"\r\nhello"), DONE]), "status 200, but the body does not contain `pong`");
        assert_eq!(why(&[(STDOUT, b"Status: x\r\n\r\npong"), DONE]), "the answer has a Status that is no number");
        assert_eq!(why(&[(STDOUT, b"pong"), DONE]), "the answer has no head");
        assert_eq!(why(&[(END_REQUEST, &[0, 0, 0, 0, 2, 0, 0, 0])]), "the application is overloaded");
        assert_eq!(why(&[(STDERR, b"oh\nno"), (STDOUT, ok)]), "the answer was cut off: oh no");
        assert_eq!(verdict(b"HTTP/1.1 400", More::Maybe, &check()), Err("what answers does not speak FastCGI".to_owned()));
        // Padding is no content.
        let padded = [&[1, STDOUT, 0, 1, 0, 6, 2, 0][..], b"\r\npong..", &answer(&[DONE])].concat();
        assert_eq!(verdict(&padded, More::Maybe, &check()), Ok(Some(())));
    }
}
