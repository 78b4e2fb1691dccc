//! HTTP/1.1 as a probe needs it (RFC 9112): one request on a connection of its own, the status, and the beginning of the body.
//!
//! Redirects are not followed and compression is not asked for. Interim answers (1xx) are passed over.

use crate::engine::spec::{Address, HttpCheck, Method};

use super::{MAX_BODY, MAX_STATUS_LINE, More, Place, contains, exchange, status_of};

pub(super) async fn ask(place: &Place, check: &HttpCheck) -> Result<(), String> {
    let asked = format!("{} {}", check.method.name(), check.path);
    let judge = |answer: &[u8], more: More| Ok(verdict(answer, more, check)?.map(|result| result.map_err(|why| format!("{asked}: {why}"))));
    exchange(place, request(check).as_bytes(), |what| format!("{asked}: {what}"), judge).await?
}

fn request(check: &HttpCheck) -> String {
    let host = match &check.at {
        at @ Address::Tcp { .. } => at.to_string(),
        // As nginx and curl name it.
        Address::Unix(_) => "localhost".to_owned(),
    };
    let mut request = format!("{} {} HTTP/1.1\r\n", check.method.name(), check.path);
    let own = [("Host", host.as_str()), ("User-Agent", concat!("firstmate/", env!("CARGO_PKG_VERSION"))), ("Accept", "*/*")];
    for (name, value) in own {
        let given = check.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        field(&mut request, name, given.map_or(value, |(_, value)| value));
    }
    for (name, value) in &check.headers {
        if !own.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            field(&mut request, name, value);
        }
    }
    request.push_str("Connection: close\r\n\r\n");
    request
}

fn field(request: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        request.push_str(part);
    }
}

/// `None` until enough is known.
fn verdict(answer: &[u8], more: More, check: &HttpCheck) -> Result<Option<Result<(), String>>, String> {
    let Some(seen) = seen(answer, check.method)? else { return Ok(None) };
    // A small answer is read to its end, so that the server does not see a reset and log one with every probe.
    let over = seen.whole || more != More::Maybe || seen.body.len() >= MAX_BODY;
    if !check.status.contain(seen.status) {
        return Ok((over || answer.len() > MAX_STATUS_LINE).then(|| Err(format!("status {}", seen.status))));
    }
    if check.contains.is_empty() {
        return Ok((over || answer.len() > MAX_STATUS_LINE).then_some(Ok(())));
    }
    let body = seen.body.get(..MAX_BODY).unwrap_or(&seen.body);
    if contains(body, &check.contains) {
        return Ok(Some(Ok(())));
    }
    let wanted = &check.contains;
    Ok(over.then(|| {
        let where_to = if seen.body.len() >= MAX_BODY { "the first 10 KiB of its body do" } else { "its body does" };
        Err(format!("status {}, but {where_to} not contain `{wanted}`", seen.status))
    }))
}

/// An answer as far as it is read.
struct Seen {
    status: u16,
    body: Vec<u8>,
    /// Nothing belongs to it that is not read.
    whole: bool,
}

/// `None` before the status is known.
fn seen(mut answer: &[u8], method: Method) -> Result<Option<Seen>, String> {
    loop {
        let Some(status) = status_of(answer)? else { return Ok(None) };
        let Some((head, rest)) = split_head(answer) else {
            return Ok((status >= 200).then_some(Seen { status, body: Vec::new(), whole: false }));
        };
        if status < 200 {
            answer = rest;
            continue;
        }
        if method == Method::Head || matches!(status, 204 | 304) {
            return Ok(Some(Seen { status, body: Vec::new(), whole: true }));
        }
        let head = String::from_utf8_lossy(head);
        let value = |name: &str| {
            let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_ascii_lowercase())
        };
        // RFC 9112, section 6.3: chunks win over a length.
        let (body, whole) = if value("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
            unchunked(rest)?
        } else if let Some(length) = value("content-length").and_then(|length| length.parse::<usize>().ok()) {
            (rest.get(..length).unwrap_or(rest).to_vec(), rest.len() >= length)
        } else {
            (rest.to_vec(), false)
        };
        return Ok(Some(Seen { status, body, whole }));
    }
}

/// The head without its empty line, and what is behind it.
pub(super) fn split_head(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    // A line feed alone is an end of line, too; RFC 9112, section 2.2, and CGI scripts that print theirs.
    let mut from = 0usize;
    loop {
        let line = answer.get(from..)?;
        let end = line.iter().position(|byte| *byte == b'\n')?;
        let next = from.saturating_add(end).saturating_add(1);
        if matches!(line.get(..end), Some(b"" | b"\r")) {
            return Some((answer.get(..from)?, answer.get(next..)?));
        }
        from = next;
    }
}

/// What the chunks hold, and whether the last one is there; RFC 9112, section 7.1. Trailers are not looked at.
fn unchunked(mut rest: &[u8]) -> Result<(Vec<u8>, bool), String> {
    const BAD: &str = "its chunks make no sense";
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() > MAX_STATUS_LINE { Err(BAD.to_owned()) } else { Ok((body, false)) };
        };
        let (line, behind) = rest.split_at_checked(end.saturating_add(1)).ok_or(BAD)?;
        let line = String::from_utf8_lossy(line);
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| BAD)?;
        if size == 0 {
            return Ok((body, true));
        }
        let Some((chunk, after)) = behind.split_at_checked(size) else {
            body.extend_from_slice(behind);
            return Ok((body, false));
        };
        body.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok((body, false)),
            _ => return Err(BAD.to_owned()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::Statuses;

    fn check() -> HttpCheck {
        HttpCheck {
            at: Address::Tcp { host: "::1".to_owned(), port: 8080 },
            path: "/healthz?x".to_owned(),
            method: Method::Get,
            status: Statuses::default(),
            contains: String::new(),
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_request_has_the_headers_once() {
        let version = env!("CARGO_PKG_VERSION");
        let own = format!("User-Agent: firstmate/{version}\r\nAccept: */*\r\n");
        assert_eq!(request(&check()), format!("GET /healthz?x HTTP/1.1\r\nHost: [::1]:8080\r\n{own}Connection: close\r\n\r\n"));
        let headers = [("HOST", "example.com"), ("X-Probe", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let other = HttpCheck { at: Address::Unix("/x".to_owned()), method: Method::Head, headers: headers.to_vec(), ..check() };
        let expected = format!("HEAD /healthz?x HTTP/1.1\r\nHost: example.com\r\n{own}X-Probe: 1\r\nConnection: close\r\n\r\n");
        assert_eq!(request(&other), expected);
        assert!(request(&HttpCheck { headers: Vec::new(), ..other }).contains("\r\nHost: localhost\r\n"));
    }

    /// The verdict after every byte of the answer, and after its end: the first that is one.
    fn told(answer: &[u8], check: &HttpCheck) -> (usize, Result<(), String>) {
        let read = (1..=answer.len()).find_map(|read| match verdict(&answer[..read], More::Maybe, check) {
            Ok(None) => None,
            Ok(Some(result)) => Some((read, result)),
            Err(why) => Some((read, Err(why))),
        });
        read.unwrap_or_else(|| {
            (answer.len() + 1, verdict(answer, More::Closed, check).unwrap().unwrap_or_else(|| Err("nothing".to_owned())))
        })
    }

    #[test]
    fn an_answer_ends_where_it_says() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
            ("HTTP/1.1 200 OK\ncontent-length:3\n\nabc", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", true),
            ("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", false),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 1\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\n",
                true,
            ),
        ] {
            assert_eq!(
                told(answer.as_bytes(), &check()),
                (answer.len(), if good { Ok(()) } else { Err("status 503".to_owned()) }),
                "{answer}"
            );
        }
        // Without an end of its own: the connection's.
        let answer = "HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(told(answer.as_bytes(), &check()), (answer.len() + 1, Ok(())));
        // A long one is not waited for.
        let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(20_000));
        assert_eq!(told(answer.as_bytes(), &check()), (MAX_STATUS_LINE + 1, Ok(())));
        assert!(told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", &check()).1.is_err());
        assert!(told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", &check()).1.is_err());
    }

    #[test]
    fn the_status_must_be_one_of_them() {
        let status = |status| HttpCheck { status: Statuses(status), ..check() };
        let answer = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
        assert!(told(answer, &check()).1.is_err());
        assert!(told(answer, &status(vec![(200, 299), (401, 401)])).1.is_ok());
        assert!(told(b"HTTP/1.1 302 There\r\nContent-Length: 0\r\n\r\n", &status(vec![(200, 299)])).1.is_err());
    }

    #[test]
    fn the_body_must_contain_the_text() {
        let check = HttpCheck { contains: "\"db\":\"up\"".to_owned(), ..check() };
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"db\":\"up\",\"x\":\"y\"}\n";
        assert!(told(whole, &check).1.is_ok());
        // Over the border of two chunks.
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"db\"\r\n6\r\n:\"up\"}\r\n0\r\n\r\n";
        assert!(told(chunked, &check).1.is_ok());
        let other = told(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", &check).1;
        assert_eq!(other, Err("status 200, but its body does not contain `\"db\":\"up\"`".to_owned()));
        // A bad status is what is told.
        assert_eq!(told(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n\"db\":\"up\"", &check).1, Err("status 500".to_owned()));
        let filled = |before: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}\"db\":\"up\"", "x".repeat(before));
        assert!(told(filled(MAX_BODY - 9).as_bytes(), &check).1.is_ok());
        let far = told(filled(MAX_BODY - 8).as_bytes(), &check).1;
        assert!(far.as_ref().is_err_and(|why| why.contains("the first 10 KiB")), "{far:?}");
        // The head is none of it.
        assert!(told(b"HTTP/1.1 200 OK\r\nX: \"db\":\"up\"\r\nContent-Length: 0\r\n\r\n", &check).1.is_err());
    }
}
