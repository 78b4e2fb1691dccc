//! What ECS tells of a task's memory limits, for where the cgroup shows none: on Fargate memory.max of a container reads `max`, and
//! the machine is larger than the task.
//!
//! `ECS_CONTAINER_METADATA_URI_V4` is an address for this container; a GET of it, and of it with `/task` behind, is answered with JSON whose
//! `Limits.Memory` is in MiB and absent where there is none (Amazon ECS developer guide, "task metadata endpoint version 4"). The smaller
//! of the two counts; ECS refuses a container with more than its task.
//!
//! It is asked in HTTP/1.0, which has no chunks and ends with the connection. The answer is bounded in size and time and is not trusted.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::engine::status::LimitSource;
use crate::linux::probe::{Hosts, connect, reason, status_of};

use super::cgroup::NO_LIMIT;

/// The environment variable with the address.
pub const VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// How long to wait for both answers: the endpoint is on the same machine.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A task of ten containers with all their labels has a tenth of it.
const ANSWER_MAX: usize = 256 * 1024;

const MIB: u64 = 1 << 20;

/// The limit ECS told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcsLimit {
    /// The limit.
    pub bytes: u64,
    /// The container's or the task's.
    pub source: LimitSource,
    /// Host, and port where it is not 80: the path names the container, which is nobody's business.
    pub place: String,
}

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    addresses: Vec<IpAddr>,
    authority: String,
    port: u16,
    path: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Limits")]
    limits: Option<Limits>,
}

#[derive(Deserialize)]
struct Limits {
    #[serde(rename = "Memory")]
    memory: Option<serde_json::Number>,
}

impl Metadata {
    /// Takes the value of [`VARIABLE`] apart.
    ///
    /// # Errors
    /// One line for people when it is no address that could be asked.
    pub fn parse(uri: &str, hosts: &Hosts) -> Result<Self, String> {
        let wrong = |why: &str| format!("{VARIABLE} is not an address that can be asked: {why}");
        let rest = uri.strip_prefix("http://").ok_or_else(|| wrong("it does not begin with http://"))?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it has characters that no address has"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong("its port is no number"))?),
            Some(_) | None => (authority, 80),
        };
        let addresses = hosts.resolve(host).map_err(|why| wrong(&why))?;
        Ok(Self { addresses, authority: authority.to_owned(), port, path: path.trim_end_matches('/').to_owned() })
    }

    /// Asks for the container's and the task's limit, and takes no longer than `patience`. `None` when neither has one.
    ///
    /// # Errors
    /// One line for people when there is no answer, or none that makes sense. It may be asked again later: the endpoint may not
    /// be ready yet when the container starts.
    pub async fn ask(&self, patience: Duration) -> Result<Option<EcsLimit>, String> {
        let task = format!("{}/task", self.path);
        let both = async { tokio::join!(self.memory(&self.path), self.memory(&task)) };
        let Ok((container, task)) = timeout(patience, both).await else {
            return Err(format!("ECS task metadata at {}: no answer within {} ms", self.authority, patience.as_millis()));
        };
        let of = |source: LimitSource| move |bytes: u64| EcsLimit { bytes, source, place: self.authority.clone() };
        let container = container?.map(of(LimitSource::EcsContainer));
        let task = match task {
            Ok(bytes) => bytes.map(of(LimitSource::EcsTask)),
            Err(_) if container.is_some() => None,
            Err(why) => return Err(why),
        };
        Ok(container.into_iter().chain(task).min_by_key(|limit| limit.bytes))
    }

    /// `Limits.Memory` of what is told there, in bytes.
    async fn memory(&self, path: &str) -> Result<Option<u64>, String> {
        let said = |what: String| format!("ECS task metadata at {}: {what}", self.authority);
        let body = self.get(if path.is_empty() { "/" } else { path }).await.map_err(said)?;
        memory_of(&body).map_err(said)
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let mut stream = connect(&self.addresses, self.port).await?;
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\nUser-Agent: firstmate/{}\r\nAccept: application/json\r\n\r\n",
            self.authority,
            env!("CARGO_PKG_VERSION")
        );
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {}", reason(&error)))?;
        let mut answer = Vec::with_capacity(4096);
        loop {
            if let Some(body) = body_of(&answer, false)? {
                return Ok(body.to_vec());
            }
            if answer.len() > ANSWER_MAX {
                return Err(format!("the answer is longer than {} KiB", ANSWER_MAX / 1024));
            }
            match stream.read_buf(&mut answer).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(format!("read: {}", reason(&error))),
            }
        }
        let body = body_of(&answer, true)?.ok_or("the connection was closed before the answer was complete")?;
        Ok(body.to_vec())
    }
}

/// The body of an answer, once it is complete; `closed`: nothing more will come. See RFC 9112, section 6.3.
fn body_of(answer: &[u8], closed: bool) -> Result<Option<&[u8]>, String> {
    match status_of(answer)? {
        None => return Ok(None),
        Some(200) => {}
        Some(status) => return Err(format!("status {status}")),
    }
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = answer.split_at_checked(end.saturating_add(4)).unwrap_or((answer, &[]));
    let mut length = None;
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| "its Content-Length is no number".to_owned())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("it answers HTTP/1.0 with chunks".to_owned());
        }
    }
    Ok(match length {
        Some(length) => body.get(..length),
        None => closed.then_some(body),
    })
}

/// `Limits.Memory`, from MiB to bytes.
fn memory_of(body: &[u8]) -> Result<Option<u64>, String> {
    // serde_json's own words may quote any amount of the text.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| format!("the answer makes no sense from line {}, column {} on", error.line(), error.column()))?;
    let Some(number) = answer.limits.and_then(|limits| limits.memory) else { return Ok(None) };
    match number.as_u64() {
        Some(0) => Ok(None),
        Some(mib) => match mib.checked_mul(MIB) {
            Some(bytes) if bytes < NO_LIMIT => Ok(Some(bytes)),
            Some(_) | None => Err(format!("a limit of {mib} MiB makes no sense")),
        },
        None => Err(format!("a limit of {number} MiB makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    fn answer(body: &str) -> Vec<u8> {
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").into_bytes()
    }

    fn limits(memory: &str) -> Vec<u8> {
        answer(&format!(r#"{{"DockerId":"x","Limits":{{"CPU":2,"Memory":{memory}}},"Name":"c"}}"#))
    }

    /// An endpoint that answers these bytes for the container and the task; `None` is no answer at all.
    async fn endpoint(container: Option<Vec<u8>>, task: Option<Vec<u8>>) -> Metadata {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/v4/abc", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let request = String::from_utf8(request).unwrap();
                let told = if request.starts_with("GET /v4/abc HTTP/1.0\r\n") { &container } else { &task };
                assert!(
                    request.starts_with("GET /v4/abc HTTP/1.0\r\n") || request.starts_with("GET /v4/abc/task HTTP/1.0\r\n"),
                    "{request}"
                );
                match told {
                    // It may be hung up on in the middle.
                    Some(bytes) => drop(stream.write_all(bytes).await),
                    None => open.push(stream),
                }
            }
        });
        Metadata::parse(&uri, &Hosts::default()).unwrap()
    }

    async fn told(container: Vec<u8>, task: Vec<u8>) -> Result<Option<(u64, LimitSource)>, String> {
        let told = endpoint(Some(container), Some(task)).await.ask(LONG).await?;
        Ok(told.map(|limit| (limit.bytes / MIB, limit.source)))
    }

    #[tokio::test]
    async fn the_smaller_of_the_limits_there_are() {
        let none = || answer(r#"{"Limits":{"CPU":2}}"#);
        assert_eq!(told(limits("512"), limits("4096")).await, Ok(Some((512, LimitSource::EcsContainer))));
        assert_eq!(told(limits("8192"), limits("4096")).await, Ok(Some((4096, LimitSource::EcsTask))));
        assert_eq!(told(limits("512"), limits("512")).await, Ok(Some((512, LimitSource::EcsContainer))));
        assert_eq!(told(none(), limits("4096")).await, Ok(Some((4096, LimitSource::EcsTask))));
        assert_eq!(told(limits("0"), limits("4096")).await, Ok(Some((4096, LimitSource::EcsTask))));
        assert_eq!(told(limits("512"), none()).await, Ok(Some((512, LimitSource::EcsContainer))));
        assert_eq!(told(none(), answer("{}")).await, Ok(None));
        assert_eq!(told(answer(r#"{"Limits":null}"#), limits("null")).await, Ok(None));
    }

    #[tokio::test]
    async fn a_missing_task_matters_only_when_the_container_has_no_limit() {
        let gone = || b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec();
        assert_eq!(told(limits("512"), gone()).await, Ok(Some((512, LimitSource::EcsContainer))));
        assert!(told(answer("{}"), gone()).await.is_err_and(|why| why.contains("status 404")));
        assert!(told(gone(), limits("512")).await.is_err_and(|why| why.contains("status 404")));
    }

    #[tokio::test]
    async fn hostile_answers_are_one_short_line() {
        let long = format!(r#"{{"Limits":{{"Memory":"{}"}}}}"#, "x".repeat(100_000));
        let deep = "[".repeat(100_000);
        let endless = [answer(""), vec![b' '; ANSWER_MAX * 2]].concat();
        for (hostile, why) in [
            (limits("-5"), "a limit of -5 MiB"),
            (limits("1.5"), "a limit of 1.5 MiB"),
            (limits("1e30"), "MiB makes no sense"),
            (limits("18446744073709551615"), "MiB makes no sense"),
            (limits("4398046511104"), "MiB makes no sense"),
            (limits("\"512\""), "makes no sense from line 1"),
            (answer(&long), "makes no sense from line 1"),
            (answer(&deep), "makes no sense from line 1"),
            (answer("{\"Limits\":{\"Memory\":512}"), "makes no sense"),
            (answer(""), "makes no sense"),
            (endless, "longer than 256 KiB"),
            (vec![b'x'; 5000], "does not speak HTTP"),
            (b"".to_vec(), "closed before the answer was complete"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}".to_vec(), "closed before the answer was complete"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}".to_vec(), "Content-Length"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "chunks"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n".to_vec(), "status 302"),
        ] {
            let said = told(hostile.clone(), limits("512")).await.unwrap_err();
            assert!(said.contains(why) && said.contains("ECS task metadata at 127.0.0.1:"), "{said}");
            assert!(said.len() < 200 && !said.contains(char::is_control), "{said}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_complete_by_its_length_though_the_connection_stays_open() {
        let body = r#"{"Limits":{"Memory":64}}"#;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // In two pieces, cut in the middle of the head.
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(&text.as_bytes()[..20]).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(&text.as_bytes()[20..]).await.unwrap();
                open.push(stream);
            }
        });
        let limit = Metadata::parse(&uri, &Hosts::default()).unwrap().ask(LONG).await.unwrap().unwrap();
        assert_eq!(limit.bytes, 64 * MIB);
        assert!(uri.contains(&limit.place) && !limit.place.contains('/'), "{}", limit.place);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_than_the_patience() {
        for (container, task) in [(None, Some(limits("5"))), (Some(limits("5")), None)] {
            let metadata = endpoint(container, task).await;
            let began = Instant::now();
            let said = metadata.ask(Duration::from_millis(50)).await.unwrap_err();
            assert!(said.contains("no answer within 50 ms"), "{said}");
            assert!(began.elapsed() < LONG);
        }
    }

    #[test]
    fn an_address_is_taken_apart() {
        let parsed =
            |uri: &str| Metadata::parse(uri, &Hosts::default()).map(|it| (it.addresses[0].to_string(), it.authority, it.port, it.path));
        let ok = |address: &str, authority: &str, port, path: &str| Ok((address.to_owned(), authority.to_owned(), port, path.to_owned()));
        assert_eq!(parsed("http://169.254.170.2/v4/a-1"), ok("169.254.170.2", "169.254.170.2", 80, "/v4/a-1"));
        assert_eq!(parsed("http://[fd00:ec2::23]/v4/a/"), ok("fd00:ec2::23", "[fd00:ec2::23]", 80, "/v4/a"));
        assert_eq!(parsed("http://[::1]:8080"), ok("::1", "[::1]:8080", 8080, ""));
        for (uri, why) in [
            ("", "http://"),
            ("https://169.254.170.2/", "http://"),
            ("http://169.254.170.2/a b", "characters"),
            ("http://169.254.170.2/\r\nX: y", "characters"),
            ("http://169.254.170.2:99999/", "port"),
            ("http://metadata.example/", "unknown host"),
            ("http:///v4", "unknown host"),
        ] {
            assert!(parsed(uri).is_err_and(|said| said.contains(why) && said.contains(VARIABLE)), "{uri}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in "HTTP/1.[01] 200 (OK)?\r\n([a-zA-Z-]{0,20}: ?[a-z0-9-]{0,25}\r\n){0,3}(\r\n)?.{0,20}", uri in "http://.{0,30}") {
            for answer in [bytes.as_slice(), text.as_bytes()] {
                for closed in [false, true] {
                    let _ = body_of(answer, closed);
                }
                let _ = memory_of(answer);
            }
            let _ = Metadata::parse(&uri, &Hosts::default());
        }
    }
}
