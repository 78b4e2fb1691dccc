//! The HTTP server, byte for byte, and what hostile clients make of it.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "the stand is shared between test files, each of which uses a part")]

mod stand;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use firstmate::engine::Verb;
use firstmate::engine::status::{Phase, Status};
use firstmate::server::{
    Answer, Limits, Problem, Reply, Request, SocketPath, UnixSocket, Verdict, bind_first, bind_tcp, sockets_of, sockets_of_project,
};
use stand::{Answering, Counted, Directory, INCIDENTS, Stand, exchange, expected, healthy, masked, measured, request, stack, wish};

const PLAIN: &str = "text/plain; charset=utf-8";
const OK: &str = "200 OK";
const UNAVAILABLE: &str = "503 Service Unavailable";

fn plain(status_line: &str, body: &str) -> String {
    expected(status_line, PLAIN, "", body)
}

#[test]
fn probes_answer_in_kube_apiservers_form() {
    let stand = Stand::new(stack());
    let not_ready = "\
[+]ping ok
[+]log ok
[+]nginx ok
[-]redis not ready: connect 127.0.0.1:6379: refused
[+]worker not ready, not required: ok
[+]migrate ok
[+]memory ok
[+]shutdown ok
readyz check failed
";
    let live = "[+]ping ok\n[+]nginx ok\n[+]redis ok\n[+]worker not live, not required: ok\n[+]migrate ok\nlivez check passed\n";
    let excluding = "\
[+]ping ok
[+]log ok
[+]nginx ok
[+]redis excluded: ok
[+]worker excluded: ok
[+]migrate ok
[+]memory ok
[+]shutdown ok
warn: some health checks cannot be excluded: no matches for \"a b\",\"nobody\"
readyz check passed
";
    for (target, status_line, body) in [
        ("/livez", OK, "ok"),
        ("/healthz", OK, "ok"),
        ("/startupz", OK, "ok"),
        ("/livez/", OK, "ok"),
        ("/livez?verbose", OK, live),
        ("/livez?verbose=false", OK, live),
        ("/healthz?verbose", OK, &live.replace("livez", "healthz")),
        ("/readyz", UNAVAILABLE, not_ready),
        ("/readyz?verbose", UNAVAILABLE, not_ready),
        ("/readyz?exclude=redis", OK, "ok"),
        ("/readyz?verbose&exclude=redis&exclude=worker&exclude=nobody&exclude=a%20b", OK, excluding),
        ("/readyz/nginx", OK, "ok"),
        ("/readyz/migrate", OK, "ok"),
        ("/readyz/migrate.1", OK, "ok"),
        ("/readyz/ping", OK, "ok"),
        ("/readyz/shutdown", OK, "ok"),
        ("/readyz/log", OK, "ok"),
        ("/readyz/memory", OK, "ok"),
        ("/livez/log", "404 Not Found", "no check, service or instance is called \"log\"\n"),
        ("/readyz/redis", UNAVAILABLE, "service unavailable: redis not ready: connect 127.0.0.1:6379: refused\n"),
        ("/readyz/worker.1", OK, "ok"),
        ("/readyz/worker.2", UNAVAILABLE, "service unavailable: worker.2 not ready: gave up after 10 failed runs\n"),
        ("/livez/redis", OK, "ok"),
        ("/livez/worker", UNAVAILABLE, "service unavailable: worker not live: gave up after 10 failed runs\n"),
        ("/startupz/redis", OK, "ok"),
        ("/readyz/rediss", "404 Not Found", "no check, service or instance is called \"rediss\"; did you mean \"redis\"\n"),
        ("/readyz/%0aoops", "404 Not Found", "no check, service or instance is called \"\\noops\"\n"),
        ("/readyz/a/b", "404 Not Found", "no check, service or instance is called \"a/b\"\n"),
        ("/nothing", "404 Not Found", "404 page not found\n"),
        ("/status/x", "404 Not Found", "404 page not found\n"),
        ("/livezz", "404 Not Found", "404 page not found\n"),
        ("//", "404 Not Found", "404 page not found\n"),
    ] {
        assert_eq!(stand.over_tcp("GET", target), plain(status_line, body), "{target}");
        assert_eq!(stand.over_unix("GET", target), plain(status_line, body), "{target} over the Unix socket");
        let whole = plain(status_line, body);
        let head = whole.split_inclusive("\r\n\r\n").next().unwrap();
        assert_eq!(stand.over_tcp("HEAD", target), head, "HEAD {target}");
    }
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let stand = Stand::new(stack());
    for (accept, kind, body) in [
        ("text/plain", PROMETHEUS, "Prometheus\n"),
        ("*/*", PROMETHEUS, "Prometheus\n"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPEN, "OpenMetrics\n"),
    ] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        let answer = expected(OK, kind, "Vary: accept\r\n", body);
        assert_eq!(exchange(stand.tcp(), &request), answer, "{accept}");
        assert_eq!(exchange(stand.unix(), &request), answer, "{accept}");
        let head = answer.split_inclusive("\r\n\r\n").next().unwrap();
        assert_eq!(exchange(stand.tcp(), &request.replace("GET", "HEAD")), head, "{accept}");
    }
    assert_eq!(stand.over_tcp("GET", "/metrics"), expected(OK, PROMETHEUS, "Vary: accept\r\n", "Prometheus\n"));
    assert_eq!(stand.over_tcp("GET", "/metrics/x"), plain("404 Not Found", "404 page not found\n"));
    let refused = expected("405 Method Not Allowed", PLAIN, "Allow: GET, HEAD\r\n", "405 method not allowed: use GET, HEAD\n");
    assert_eq!(stand.over_tcp("POST", "/metrics"), refused);
}

#[test]
fn incidents_are_for_the_unix_socket_alone() {
    let stand = Stand::new(stack());
    assert_eq!(stand.over_tcp("GET", "/incidents"), plain("404 Not Found", "404 page not found\n"));
    assert_eq!(stand.over_unix("GET", "/incidents"), expected(OK, "application/json", "", &format!("{INCIDENTS}\n")));
    assert_eq!(stand.over_unix("GET", "/incidents/1"), plain("404 Not Found", "404 page not found\n"));
}

#[test]
fn lines_events_and_environments_are_for_the_unix_socket_alone() {
    let chunked = |kind: &str, line: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache, private\r\n\
             Connection: close\r\nTransfer-Encoding: chunked\r\nDate: DATE\r\n\r\n{:X}\r\n{line}\r\n0\r\n\r\n",
            line.len()
        )
    };
    let stand = Stand::new(stack());
    let everything = "Reading { names: [], last: None, since: None, follow: false }\n";
    assert_eq!(stand.over_unix("GET", "/logs"), chunked(PLAIN, everything));
    let asked = r#"Reading { names: ["web", "a b"], last: Some(7), since: Some(1.5s), follow: false }"#.to_owned() + "\n";
    assert_eq!(stand.over_unix("GET", "/logs?name=web&last=7&name=a%20b&since_ms=1500"), chunked(PLAIN, &asked));
    let event = "{\"asked\":\"Reading { names: [], last: Some(0), since: None, follow: false }\"}\n";
    assert_eq!(stand.over_unix("GET", "/events?last=0"), chunked("application/x-ndjson", event));
    let json = |status_line: &str, body: &str| expected(status_line, "application/json", "", body);
    let wrong = "{\"result\":\"failed\",\"why\":\"`last` is a whole number\"}\n";
    assert_eq!(stand.over_unix("GET", "/logs?last=-1"), json("400 Bad Request", wrong));
    let unknown = "{\"result\":\"unknown-name\",\"name\":\"nobody\"}\n";
    assert_eq!(stand.over_unix("GET", "/events?name=nobody&follow"), json("404 Not Found", unknown));
    let (masked, shown) = ("{\"name\":\"KEY\"}", "{\"name\":\"KEY\",\"value\":\"secret\"}");
    let of = |variable: &str| format!("{{\"instance\":\"web.1\",\"variables\":[{variable}]}}\n");
    assert_eq!(stand.over_unix("GET", "/environment?name=web"), json(OK, &of(masked)));
    assert_eq!(stand.over_unix("GET", "/environment?name=web&values"), json(OK, &of(shown)));
    let unknown = "{\"result\":\"unknown-name\",\"name\":\"wbe\",\"suggestion\":\"web\"}\n";
    assert_eq!(stand.over_unix("GET", "/environment?name=wbe&values"), json("404 Not Found", unknown));
    for target in ["/environment", "/environment?name=web&name=store"] {
        assert!(stand.over_unix("GET", target).starts_with("HTTP/1.1 400 Bad Request\r\n"), "{target}");
    }
    for target in ["/logs", "/events", "/environment?name=web", "/environment?name=web&values"] {
        assert_eq!(stand.over_tcp("GET", target), plain("404 Not Found", "404 page not found\n"), "{target}");
        let refused = expected("405 Method Not Allowed", PLAIN, "Allow: GET\r\n", "405 method not allowed: use GET\n");
        assert_eq!(stand.over_unix("POST", target), refused, "{target}");
        assert_eq!(stand.over_unix("GET", &format!("{target}/x").replacen('?', "/?", 1)), plain("404 Not Found", "404 page not found\n"));
    }
}

#[test]
fn a_follower_outlives_every_deadline_and_its_place_is_given_back() {
    let limits = Limits { header_timeout: Duration::from_millis(50), lifetime: Duration::from_millis(100), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    let follow = || {
        let mut stream = stand.unix();
        stream.write_all(request("GET", "/logs?follow").as_bytes()).unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"follow: true }\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            text.push(byte[0]);
        }
        (stream, String::from_utf8(text).unwrap())
    };
    let mut followers: Vec<UnixStream> = (0..limits.followers)
        .map(|_| {
            let (stream, text) = follow();
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
            stream
        })
        .collect();
    assert!(follow().1.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    // Half closed, as `nc -N` leaves it, it reads on; and the lifetime of other connections is long over.
    let mut waited = followers.pop().unwrap();
    waited.shutdown(Shutdown::Write).unwrap();
    waited.set_read_timeout(Some(limits.lifetime * 5)).unwrap();
    assert_eq!(waited.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing came, neither an end");
    drop(waited);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !follow().1.starts_with("HTTP/1.1 200 OK\r\n") {
        assert!(Instant::now() < deadline, "the place of one that is gone is not given back");
    }
}

#[test]
fn a_ready_stack_is_ready_until_it_is_told_to_stop() {
    let stand = Stand::new(healthy());
    assert_eq!(stand.over_tcp("GET", "/readyz"), plain(OK, "ok"));
    let stand =
        Stand::new(Status { phase: Phase::Draining, ready: false, stopping_because: Some("SIGTERM from pid 0".to_owned()), ..healthy() });
    let body = "\
[+]ping ok
[+]log ok
[+]nginx ok
[+]redis ok
[+]worker not ready, not required: ok
[+]migrate ok
[+]memory ok
[-]shutdown not ready: SIGTERM from pid 0
readyz check failed
";
    assert_eq!(stand.over_tcp("GET", "/readyz"), plain(UNAVAILABLE, body));
    assert_eq!(stand.over_tcp("GET", "/livez"), plain(OK, "ok"));
}

#[test]
fn a_log_that_gets_nowhere_and_memory_beyond_help_are_not_ready() {
    let log = "standard output cannot be written: Broken pipe";
    let stand = Stand::new(Status { ready: false, log_blocked_because: Some(log.to_owned()), ..healthy() });
    let body = "\
[+]ping ok
[-]log not ready: standard output cannot be written: Broken pipe
[+]nginx ok
[+]redis ok
[+]worker not ready, not required: ok
[+]migrate ok
[+]memory ok
[+]shutdown ok
readyz check failed
";
    assert_eq!(stand.over_tcp("GET", "/readyz"), plain(UNAVAILABLE, body));
    assert_eq!(stand.over_tcp("GET", "/readyz/log"), plain(UNAVAILABLE, &format!("service unavailable: log not ready: {log}\n")));
    assert_eq!(stand.over_tcp("GET", "/readyz?exclude=log"), plain(OK, "ok"));
    assert_eq!(stand.over_tcp("GET", "/livez"), plain(OK, "ok"));
    assert!(stand.over_tcp("GET", "/status").contains(&format!(r#""log_blocked_because":"{log}""#)));

    let mut status = Status { ready: false, ..measured() };
    let memory = status.memory.as_mut().unwrap();
    (memory.helpless, memory.why) = (true, Some("above the line, and no restart would help".to_owned()));
    let stand = Stand::new(status);
    let refused = "service unavailable: memory not ready: above the line, and no restart would help\n";
    assert_eq!(stand.over_tcp("GET", "/readyz/memory"), plain(UNAVAILABLE, refused));
    assert!(stand.over_tcp("GET", "/readyz").contains("\n[-]memory not ready: above the line"));
    assert_eq!(stand.over_tcp("GET", "/readyz?exclude=memory"), plain(OK, "ok"));
    assert_eq!(stand.over_tcp("GET", "/startupz"), plain(OK, "ok"));
}

#[test]
fn liveness_and_startup_follow_the_engine() {
    let mut dead = stack();
    dead.live = false;
    dead.services[2].essential = true;
    let stand = Stand::new(dead);
    let body =
        "[+]ping ok\n[+]nginx ok\n[+]redis ok\n[-]worker not live: gave up after 10 failed runs\n[+]migrate ok\nlivez check failed\n";
    assert_eq!(stand.over_tcp("GET", "/livez"), plain(UNAVAILABLE, body));

    let stand = Stand::new(Status { started: false, ..stack() });
    let body = "\
[+]ping ok
[+]nginx ok
[-]redis not started: connect 127.0.0.1:6379: refused
[+]worker not started, not required: ok
[+]migrate ok
startupz check failed
";
    assert_eq!(stand.over_tcp("GET", "/startupz"), plain(UNAVAILABLE, body));

    // The engine's verdict stands even where no service explains it.
    let stand = Stand::new(Status { live: false, ..healthy() });
    assert!(stand.over_tcp("GET", "/livez").ends_with("\n[-]firstmate not live\nlivez check failed\n"));
}

#[test]
fn status_is_the_engines_json() {
    let stand = Stand::new(stack());
    let body = concat!(
        r#"{"version":"0.1.0","pid":1,"uptime_ms":250000,"phase":"running","ready":false,"live":true,"started":true,"services":["#,
        r#"{"name":"nginx","kind":"service","essential":true,"ready":true,"instances":[{"name":"nginx.1","state":"running","ready":true,"#,
        r#""pid":31,"uptime_ms":243000,"run":1,"restarts":{"total":0,"crash":0,"live":0,"watchdog":0,"start_timeout":0,"memory":0,"oom":0}}]},"#,
        r#"{"name":"redis","kind":"service","essential":true,"ready":false,"reason":"connect 127.0.0.1:6379: refused","#,
        r#""instances":[{"name":"redis.1","state":"running","ready":false,"pid":31,"uptime_ms":243000,"run":1,"#,
        r#""restarts":{"total":0,"crash":0,"live":0,"watchdog":0,"start_timeout":0,"memory":0,"oom":0},"why":"connect 127.0.0.1:6379: refused"}]},"#,
        r#"{"name":"worker","kind":"service","essential":false,"ready":false,"instances":[{"name":"worker.1","state":"running","ready":true,"#,
        r#""pid":31,"uptime_ms":243000,"run":1,"restarts":{"total":0,"crash":0,"live":0,"watchdog":0,"start_timeout":0,"memory":0,"oom":0}},"#,
        r#"{"name":"worker.2","state":"failed","ready":false,"run":1,"restarts":{"total":0,"crash":0,"live":0,"watchdog":0,"start_timeout":0,"memory":0,"oom":0},"#,
        r#""why":"gave up after 10 failed runs","last_outcome":"exit 1"}]},"#,
        r#"{"name":"migrate","kind":"oneshot","essential":true,"ready":true,"instances":[{"name":"migrate.1","state":"completed","#,
        r#""ready":false,"run":1,"restarts":{"total":0,"crash":0,"live":0,"watchdog":0,"start_timeout":0,"memory":0,"oom":0}}]}]}"#,
        "\n"
    );
    let whole = expected(OK, "application/json", "", body);
    assert_eq!(stand.over_tcp("GET", "/status"), whole);
    assert_eq!(stand.over_unix("GET", "/status"), whole);
    assert_eq!(stand.over_unix("HEAD", "/status"), whole.split_inclusive("\r\n\r\n").next().unwrap());

    let body = Stand::new(measured()).over_tcp("GET", "/status");
    for part in [
        r#","memory":{"limit_bytes":536870912,"limit_source":"cgroup-v2","limit_place":"/sys/fs/cgroup","hard_bytes":421527552,"#,
        r#""restart_above_bytes":402653184,"above_for_ms":4000,"oom_kills":1,"#,
        r#""acts":{"held":0,"forecast":0,"hard":0,"emergency":0,"own":2},"why":"above the line for 4 s"},"services":["#,
        r#""restarts":{"total":3,"crash":1,"live":0,"watchdog":0,"start_timeout":0,"memory":2,"oom":1},"#,
        r#""memory":{"bytes":188743680,"at_least_bytes":188743680,"at_most_bytes":188743680,"method":"pss","percent":35.2,"#,
        r#""restart_above_bytes":209715200,"age_ms":900}"#,
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[test]
fn the_page_is_text_or_hypertext() {
    let mut status = stack();
    status.services[1].instances[0].why = Some("<script>alert(1)</script>\nnginx.1".to_owned());
    let stand = Stand::new(status);
    let body = "\
firstmate 0.1.0: not ready
nginx.1\trunning\tready\t
redis.1\trunning\tnot ready\t<script>alert(1)</script>\\nnginx.1
worker.1\trunning\tready\t
worker.2\tfailed\tnot ready\tgave up after 10 failed runs
migrate.1\tcompleted\t\t
";
    assert_eq!(stand.over_tcp("GET", "/"), expected(OK, PLAIN, "Vary: accept\r\n", body));
    let browser = "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html,application/xhtml+xml\r\nConnection: close\r\n\r\n";
    let page = exchange(stand.tcp(), browser);
    let policy = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nVary: accept\r\n";
    assert!(page.contains("Content-Type: text/html; charset=utf-8\r\n") && page.contains(policy), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\nnginx.1"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("<tr><td>nginx.1<td class=good>running<td>ready<td>31<td>0<td><td></tr>\n"), "{page}");
    assert!(!page.contains("Memory"), "{page}");
}

#[test]
fn the_page_shows_memory_where_it_is_known() {
    let mut status = measured();
    status.memory.as_mut().unwrap().why = Some("<b>\nforged".to_owned());
    let stand = Stand::new(status);
    let summary = "402 MiB of 512 MiB (78.5%), cgroup v2, acts above 75%, 2 acts (2 own line), 1 OOM kill";
    let body = format!(
        "\
firstmate 0.1.0: ready
nginx.1\trunning\tready\t\t
redis.1\trunning\tready\t\t201 MiB (39%)
worker.1\trunning\tready\t\t180 MiB of 200 MiB (90%)
worker.2\tfailed\tnot ready\tgave up after 10 failed runs\t
migrate.1\tcompleted\t\t\t
memory\t{summary}\t\t<b>\\nforged
"
    );
    assert_eq!(stand.over_tcp("GET", "/"), expected(OK, PLAIN, "Vary: accept\r\n", &body));
    let page = exchange(stand.tcp(), "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nConnection: close\r\n\r\n");
    assert!(page.contains(&format!("<p>Memory: {summary}. The guard: &lt;b&gt;\\nforged.</p>\n<table>")), "{page}");
    let worker = "<tr><td>worker.1<td class=good>running<td>ready<td>31<td>3 (2 memory, 1 oom)<td>180 MiB of 200 MiB (90%)<td></tr>\n";
    assert!(page.contains(worker), "{page}");
}

#[test]
fn tcp_is_read_only() {
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let refused = expected("405 Method Not Allowed", PLAIN, "Allow: GET, HEAD\r\n", "405 method not allowed: use GET, HEAD\n");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        assert_eq!(stand.over_tcp(method, "/livez"), refused, "{method}");
    }
    for target in ["/v1/stop?name=all", "/v1/shutdown", "/v1/start?name=nginx", "/v1/restart?name=all"] {
        assert_eq!(stand.over_tcp("POST", target), plain("404 Not Found", "404 page not found\n"), "{target}");
    }
    assert!(stand.requests.try_recv().is_err());
}

#[test]
fn verbs_reach_the_supervisor_and_its_reply_comes_back() {
    let answer = |instance: &str, verdict| Answer { instance: instance.to_owned(), verdict };
    let stopped = Reply::Done { instances: vec![answer("web.1", Verdict::Stopped), answer("worker.1", Verdict::AlreadyStopped)] };
    let body = "{\"result\":\"done\",\"instances\":[{\"instance\":\"web.1\",\"outcome\":\"stopped\"},{\"instance\":\"worker.1\",\"outcome\":\"already-stopped\"}]}\n";
    let stand = Stand::answering(stack(), stopped);
    let named = |verb| wish(verb, &["web", "worker.1"]);
    let wishes = [
        ("stop?", Verb::Stop),
        ("start?", Verb::Start),
        ("restart?", Verb::Restart),
        ("restart?rolling&", Verb::Roll),
        ("reload?", Verb::Reload),
    ];
    for (verb, request) in wishes.map(|(verb, wished)| (verb, named(wished))) {
        let answer = stand.over_unix("POST", &format!("/v1/{verb}name=web&name=worker.1"));
        assert_eq!(answer, expected(OK, "application/json", "", body), "{verb}");
        assert_eq!(stand.requests.try_recv().unwrap(), request);
    }
    let refused = expected("405 Method Not Allowed", PLAIN, "Allow: POST\r\n", "405 method not allowed: use POST\n");
    assert_eq!(stand.over_unix("GET", "/v1/stop?name=web"), refused);
    let nameless = "{\"result\":\"failed\",\"why\":\"no service is named: add ?name=NAME, ?name=NAME.1, ?name=GROUP or ?name=all\"}\n";
    for target in ["/v1/stop", "/v1/stop?name=", "/v1/stop?names=web"] {
        assert_eq!(stand.over_unix("POST", target), expected("400 Bad Request", "application/json", "", nameless), "{target}");
    }
    for target in ["/v1/", "/v1", "/v1/stop/web", "/v2/stop"] {
        assert_eq!(stand.over_unix("POST", target), plain("404 Not Found", "404 page not found\n"), "{target}");
    }
    assert!(stand.requests.try_recv().is_err());
}

#[test]
fn every_kind_of_reply_has_its_code() {
    let failed = Verdict::Failed { why: "gone".to_owned() };
    for (reply, status_line, body) in [
        (Reply::Done { instances: vec![] }, OK, r#"{"result":"done","instances":[]}"#),
        (
            Reply::Done { instances: vec![Answer { instance: "web.1".to_owned(), verdict: failed }] },
            "500 Internal Server Error",
            r#"{"result":"done","instances":[{"instance":"web.1","outcome":"failed","why":"gone"}]}"#,
        ),
        (
            Reply::UnknownName { name: "wbe".to_owned(), suggestion: Some("web".to_owned()) },
            "404 Not Found",
            r#"{"result":"unknown-name","name":"wbe","suggestion":"web"}"#,
        ),
        (Reply::Failed { why: "x".to_owned() }, "500 Internal Server Error", r#"{"result":"failed","why":"x"}"#),
        (Reply::Refused { why: "it is stopping".to_owned() }, "409 Conflict", r#"{"result":"refused","why":"it is stopping"}"#),
    ] {
        let stand = Stand::answering(stack(), reply.clone());
        assert_eq!(stand.over_unix("POST", "/v1/shutdown"), expected(status_line, "application/json", "", &format!("{body}\n")));
        assert_eq!(stand.requests.try_recv().unwrap(), Request::Shutdown);
        assert_eq!(serde_json::from_str::<Reply>(body).unwrap(), reply);
    }
    let stand = Stand::with(stack(), Limits::default(), Answering::Dropped, None);
    let body = "{\"result\":\"refused\",\"why\":\"firstmate is going away and did not finish this\"}\n";
    assert_eq!(stand.over_unix("POST", "/v1/shutdown"), expected(UNAVAILABLE, "application/json", "", body));
}

/// Runs in a thread with another uid. The raw call changes this thread alone, where the wrapper of libc would change the process.
fn as_uid<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: setresuid takes numbers and touches no memory.
                let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                work()
            })
            .join()
            .unwrap()
    })
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn another_uid_may_read_but_not_command() {
    if !is_root() {
        eprintln!("skipped: only root can become another uid");
        return;
    }
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let body = concat!(
        r#"{"result":"refused","why":"this is the socket of a firstmate that runs as root: "#,
        r#"only root may use its verbs, and you are uid 65534"}"#,
        "\n"
    );
    let socket = stand.socket.clone();
    let ask = |method: &str, target: &str| {
        as_uid(65534, || exchange(socket.connect(Some(Duration::from_secs(20))).unwrap(), &request(method, target)))
    };
    for target in ["/v1/stop?name=nginx", "/v1/shutdown", "/v1/start"] {
        assert_eq!(ask("POST", target), expected("403 Forbidden", "application/json", "", body), "{target}");
    }
    assert_eq!(ask("GET", "/livez"), plain(OK, "ok"));
    assert!(stand.requests.try_recv().is_err());
    assert!(stand.over_unix("POST", "/v1/shutdown").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn strangers_cannot_lock_the_operator_out() {
    if !is_root() {
        eprintln!("skipped: only root can become another uid");
        return;
    }
    let stand = Stand::answering(stack(), Reply::Done { instances: vec![] });
    let socket = stand.socket.clone();
    let held: Vec<UnixStream> = as_uid(65534, || (0..32).map(|_| socket.connect(Some(Duration::from_secs(20))).unwrap()).collect());
    // The 32nd was turned away, so the server has seen them all.
    let last = &mut &held[31];
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    assert!(stand.over_unix("POST", "/v1/shutdown").starts_with("HTTP/1.1 200 OK"));
    drop(held);
    assert_eq!(stand.end(), Counted { accepted: 25, turned_away: 8, displaced: 0 });
}

#[test]
fn abstract_sockets_serve_alike() {
    let name = format!("firstmate-test-{}", std::process::id());
    let path = SocketPath::parse(format!("@{name}").as_ref());
    assert_eq!(path, SocketPath::Abstract(name.clone().into_bytes()));
    let stand = Stand::with(stack(), Limits::default(), Answering::Now(Reply::Done { instances: vec![] }), Some(path.clone()));
    assert_eq!(stand.over_unix("GET", "/livez"), plain(OK, "ok"));
    assert!(stand.over_unix("POST", "/v1/shutdown").starts_with("HTTP/1.1 200 OK"));
    let error = UnixSocket::bind(&path).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("a firstmate of uid {} already listens on @{name}; choose another", nix::unistd::geteuid()))
    );
}

#[test]
fn a_slow_header_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    for sent in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nHost: x\r\nX-A: "] {
        let mut stream = stand.tcp();
        stream.write_all(sent.as_bytes()).unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(began.elapsed() < Duration::from_secs(5), "{sent:?} was left alone");
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    // Keep-alive: the second request does not come.
    let mut stream = stand.tcp();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\n\r\nok"), "{text}");
}

#[test]
fn a_connection_that_is_never_done_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(200), lifetime: Duration::from_millis(400), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    let mut stream = stand.tcp();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let began = Instant::now();
    // Asks on and on and never reads an answer.
    let ended = (0..).find_map(|_| stream.write_all("GET /status HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).as_bytes()).err()).unwrap();
    assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_verb_outlives_the_limits() {
    let limits = Limits { header_timeout: Duration::from_millis(50), lifetime: Duration::from_millis(100), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Held, None);
    let mut stream = stand.unix();
    stream.write_all(request("POST", "/v1/stop?name=web").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stand.requests.recv_timeout(Duration::from_secs(20)).unwrap(), wish(Verb::Stop, &["web"]));
    // Ten lifetimes later it is still waited for.
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(matches!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock));
}

#[test]
fn headers_are_bounded() {
    let stand = Stand::new(stack());
    let answer_to = |bytes: &[u8]| {
        let mut stream = stand.tcp();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        masked(&String::from_utf8_lossy(&answer))
    };
    let begins = |bytes: &[u8], line: &str| {
        let answer = answer_to(bytes);
        // A reset can overtake the answer when more was sent than was read.
        assert!(answer.starts_with(line) || (bytes.len() > 8192 && answer.is_empty()), "{answer}");
    };
    let large = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "a".repeat(1_000_000));
    begins(large.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
    begins(many.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    let enough = format!("GET /livez HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(64));
    begins(enough.as_bytes(), "HTTP/1.1 200 OK\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    begins(long.as_bytes(), "HTTP/1.1 4");
    assert_eq!(stand.over_tcp("GET", "/livez"), plain(OK, "ok"));
}

#[test]
fn any_bytes_are_survived() {
    let stand = Stand::new(stack());
    let tls_hello = [&[0x16, 3, 1, 2, 0, 1][..], &[0; 300]].concat();
    let mut inputs: Vec<Vec<u8>> = vec![
        b"\0".repeat(5000),
        tls_hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET  HTTP/1.1\r\n\r\n".to_vec(),
        b"GET livez HTTP/1.1\r\n\r\n".to_vec(),
        b"GET http:// HTTP/1.1\r\n\r\n".to_vec(),
        b"CONNECT a:1 HTTP/1.1\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /%ff%00?%=&&&=%zz HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /readyz/\xff\xfe HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /livez HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"GET /livez HTTP/9.9\r\n\r\n".to_vec(),
    ];
    // A small generator with a fixed seed (Marsaglia's xorshift).
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200 {
        let mut noise = b"GET /readyz?exclude= HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let place = usize::try_from(state >> 8).unwrap() % noise.len();
            noise[place] = state.to_le_bytes()[0];
        }
        inputs.push(noise);
    }
    for input in &inputs {
        let mut stream = stand.tcp();
        let _ = stream.write_all(input);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(stand.over_tcp("GET", "/livez"), plain(OK, "ok"));
    assert_eq!(stand.end(), Counted { accepted: inputs.len() as u64 + 1, turned_away: 0, displaced: 0 });
}

#[test]
fn half_closed_and_pipelined_requests_are_answered() {
    let stand = Stand::new(stack());
    let mut stream = stand.tcp();
    stream
        .write_all(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nHEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz/nginx HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let codes: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(codes, ["200", "503", "200"], "{text}");
    assert_eq!(text.matches("\r\n\r\nok").count(), 2, "{text}");
    // HTTP/1.0, as old load balancers speak it.
    let answer = exchange(stand.tcp(), "GET /livez HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[test]
fn a_request_body_is_not_read() {
    let stand = Stand::new(stack());
    let mut stream = stand.tcp();
    stream.write_all(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let began = Instant::now();
    let error = (0..).find_map(|_| stream.write_all(&[b'x'; 65536]).err()).unwrap();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn connections_are_bounded() {
    let limits = Limits { yields_after: Duration::from_secs(3600), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    let connections: Vec<TcpStream> = (0..200).map(|_| stand.tcp()).collect();
    let mut served = 0;
    for mut stream in &connections {
        let mut text = Vec::new();
        let _ = stream.write_all(request("GET", "/livez").as_bytes()).and_then(|()| stream.read_to_end(&mut text).map(drop));
        served += usize::from(text.ends_with(b"ok"));
    }
    assert!((64..200).contains(&served), "{served} were served");
    drop(connections);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut text = Vec::new();
        let mut stream = stand.tcp();
        let _ = stream.write_all(request("GET", "/livez").as_bytes()).and_then(|()| stream.read_to_end(&mut text).map(drop));
        if text.ends_with(b"ok") {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is served after the flood");
    }
    let counted = stand.end();
    assert!(counted.turned_away > 0 && counted.accepted + counted.turned_away >= 201, "{counted:?}");
}

#[test]
fn exactly_the_limit_is_served_at_a_time() {
    let limits = Limits { yields_after: Duration::from_secs(3600), ..Limits::default() };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    let mut held: Vec<TcpStream> = (0..64).map(|_| stand.tcp()).collect();
    for stream in &mut held {
        // Answered and kept open.
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nok") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
    }
    for _ in 0..136 {
        let mut one_more = stand.tcp();
        assert_eq!(one_more.read(&mut [0]).unwrap_or(0), 0);
    }
    drop(held);
    assert_eq!(stand.end(), Counted { accepted: 64, turned_away: 136, displaced: 0 });
}

#[test]
fn who_sends_nothing_gives_way_to_who_asks() {
    // Neither timeout comes to the rescue.
    let limits = Limits {
        header_timeout: Duration::from_secs(3600),
        lifetime: Duration::from_secs(3600),
        yields_after: Duration::from_millis(50),
        ..Limits::default()
    };
    let stand = Stand::with(stack(), limits, Answering::Dropped, None);
    let mut silent: Vec<TcpStream> = (0..64).map(|_| stand.tcp()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /livez HTTP/1.1\r\nX-Slow: ").unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut text = Vec::new();
        let mut prober = stand.tcp();
        let _ = prober.write_all(request("GET", "/livez").as_bytes()).and_then(|()| prober.read_to_end(&mut text).map(drop));
        if text.ends_with(b"ok") {
            break;
        }
        assert!(Instant::now() < deadline, "64 silent connections lock everybody else out");
    }
    // The oldest went, and nobody else.
    assert_eq!(silent[0].read(&mut [0]).unwrap_or(0), 0);
    let counted = stand.end();
    assert_eq!((counted.accepted, counted.displaced), (65, 1), "{counted:?}");
}

#[test]
fn a_stale_socket_is_taken_over_and_ours_is_removed() {
    let directory = Directory::new();
    let file = directory.path().join("x.sock");
    let path = SocketPath::File(file.clone());
    drop(UnixListener::bind(&file).unwrap());
    assert!(file.exists(), "a stale socket stays behind");
    let bound = UnixSocket::bind(&path).unwrap();
    let metadata = std::fs::symlink_metadata(&file).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);

    // A second one finds the first alive and leaves it alone.
    let error = UnixSocket::bind(&path).unwrap_err();
    assert!(matches!(error.problem, Problem::Live { uid: Some(uid) } if uid == nix::unistd::geteuid().as_raw()));
    assert!(!error.may_try_elsewhere());
    let message = format!(
        "a firstmate of uid {} already listens on {}; choose another with --socket, $FIRSTMATE_SOCKET or `socket` under [firstmate]",
        nix::unistd::geteuid(),
        file.display()
    );
    assert_eq!(error.to_string(), message);
    path.connect(None).unwrap();

    drop(bound);
    assert!(!file.exists());

    // One that is not ours any more stays.
    let bound = UnixSocket::bind(&path).unwrap();
    std::fs::remove_file(&file).unwrap();
    let other = UnixListener::bind(&file).unwrap();
    drop(bound);
    assert!(file.exists());
    drop(other);
}

#[test]
fn what_is_no_stream_socket_is_left_alone() {
    let directory = Directory::new();
    let file = directory.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    let error = UnixSocket::bind(&SocketPath::File(file.clone())).unwrap_err();
    assert!(matches!(error.problem, Problem::NotASocket), "{error:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"data");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let error = UnixSocket::bind(&SocketPath::File(link.clone())).unwrap_err();
    assert!(matches!(error.problem, Problem::NotASocket), "{error:?}");
    assert!(link.is_symlink());

    let datagram = directory.path().join("datagram");
    let _kept = UnixDatagram::bind(&datagram).unwrap();
    let error = UnixSocket::bind(&SocketPath::File(datagram.clone())).unwrap_err();
    assert!(matches!(error.problem, Problem::NotASocket), "{error:?}");
    assert!(datagram.exists());
}

#[test]
fn a_live_socket_with_a_full_backlog_is_live() {
    let directory = Directory::new();
    let file = directory.path().join("busy.sock");
    let listener = UnixListener::bind(&file).unwrap();
    let path = SocketPath::File(file);
    let mut waiting = Vec::new();
    let full = loop {
        match path.connect(None) {
            Ok(stream) => waiting.push(stream),
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, nix::errno::Errno::EAGAIN);
    assert!(matches!(UnixSocket::bind(&path).unwrap_err().problem, Problem::Live { uid: None }));
    drop(listener);
}

#[test]
fn places_that_cannot_be_used_are_passed_over() {
    let directory = Directory::new();
    let missing = SocketPath::File(directory.path().join("missing/x.sock"));
    let blocked = SocketPath::File("/proc/x.sock".into());
    let long = SocketPath::File(directory.path().join("x".repeat(120)));
    let good = SocketPath::File(directory.path().join("x.sock"));
    for (place, why) in [(&missing, "No such file or directory"), (&blocked, "No such file or directory")] {
        let error = UnixSocket::bind(place).unwrap_err();
        assert!(matches!(error.problem, Problem::Unusable(_)), "{error:?}");
        assert_eq!(error.to_string(), format!("cannot listen on {place}: {why}; choose another with --socket"));
    }
    assert!(matches!(UnixSocket::bind(&long).unwrap_err().problem, Problem::TooLong));
    let bound = bind_first(&[missing.clone(), blocked.clone(), long, good.clone()]).unwrap();
    assert_eq!(bound.path, good);
    // A live one of our own ends the search.
    let errors = bind_first(&[missing, good, blocked]).unwrap_err();
    assert_eq!(errors.len(), 2);
    if is_root() {
        // In a directory that is not ours to write.
        let mine = directory.path().join("mine");
        std::fs::create_dir(&mine).unwrap();
        let place = SocketPath::File(mine.join("x.sock"));
        let error = as_uid(65534, || UnixSocket::bind(&place).unwrap_err());
        assert_eq!(error.to_string(), format!("cannot listen on {place}: Permission denied; choose another with --socket"));
    }
}

#[test]
fn the_default_places() {
    let shown = |xdg: Option<&str>| sockets_of(1000, xdg.map(std::ffi::OsStr::new)).iter().map(ToString::to_string).collect::<Vec<_>>();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let inode = namespace.to_str().unwrap().trim_start_matches("pid:[").trim_end_matches(']').to_owned();
    let last = format!("@firstmate-{inode}-1000");
    assert_eq!(shown(None), ["/run/firstmate.sock", "/tmp/firstmate-1000.sock", &last]);
    assert_eq!(shown(Some("/run/user/1000")), ["/run/firstmate.sock", "/run/user/1000/firstmate.sock", "/tmp/firstmate-1000.sock", &last]);
    assert_eq!(shown(Some("relative")), shown(None));
    // A project's are the same in every version, since the firstmate that asks may be another one than the one that listens.
    let own = sockets_of_project(1000, Some("/run/user/1000".as_ref()), std::path::Path::new("/srv/my shop"));
    let name = "my-shop-fc33f4cd89571b36";
    let last = format!("@firstmate-{inode}-1000-{name}");
    let files = [
        format!("/run/firstmate-{name}.sock"),
        format!("/run/user/1000/firstmate-{name}.sock"),
        format!("/tmp/firstmate-1000-{name}.sock"),
    ];
    assert_eq!(own.iter().map(ToString::to_string).collect::<Vec<_>>(), [&files[..], &[last]].concat());
}

#[test]
fn a_taken_port_is_a_typed_error() {
    let stand = Stand::new(stack());
    let error = bind_tcp(stand.tcp).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {}: Address already in use; choose another address with --http or `http` under [firstmate], or switch it off",
            stand.tcp
        )
    );
}
