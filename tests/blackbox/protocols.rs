//! The questions firstmate asks over sockets: what passes, what is told of what does not, and what is left of those that hang.

use std::path::Path;

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways};

both_ways![every_protocol_decides_about_readiness, what_hangs_is_cut_off_and_leaves_nothing];

/// `answer` takes whole files only.
fn put(container: &Container, name: &str, bytes: &[u8]) {
    let path = container.dir().join(name);
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, bytes).unwrap();
    std::fs::rename(unfinished, path).unwrap();
}

fn fastcgi(records: &[(u8, &[u8])]) -> Vec<u8> {
    let all = records.iter().flat_map(|(kind, content)| {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[1, *kind, 0, 1, high, low, 0, 0], *content].concat()
    });
    all.chain([1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).collect()
}

fn every_protocol_decides_about_readiness(place: Place) {
    let container = Setup::new(
        "
        [services.unix]
        command = '{actor} wait-file {dir}/go answer {dir}/unix.sock none'
        ready = { unix = 'unix.sock', every = '50ms' }
        [services.abstract]
        command = '{actor} wait-file {dir}/go answer @probed none'
        ready = { unix = '@probed', every = '50ms' }
        [services.http]
        command = '{actor} answer {dir}/http.sock http'
        ready = { http = 'http://unix:http.sock:/healthz', every = '50ms', status = [200, '420-429'], contains = 'all is well', headers = { Host = 'a' } }
        [services.head]
        command = '{actor} answer 8082 head'
        ready = { http = 'http://localhost:8082/', every = '50ms', method = 'HEAD' }
        [services.redis]
        command = '{actor} answer 8083 redis'
        ready = { redis = 'localhost:8083', every = '50ms' }
        [services.login]
        command = '{actor} answer @login login'
        env = { REDIS_PASSWORD = 'hunter2' }
        ready = { redis = '@login', every = '50ms', password_env = 'REDIS_PASSWORD' }
        [services.nologin]
        command = '{actor} sleep'
        ready = { redis = '@login', every = '50ms', password_env = 'MISSING' }
        essential = false
        [services.fpm]
        command = '{actor} answer {dir}/fpm.sock fpm'
        ready = { fastcgi = 'unix:fpm.sock', every = '50ms' }
        ",
    )
    .place(place)
    .start();
    let why = |name: &'static str, text: &'static str| {
        container.until(name, &format!("says `{text}`"), move |instance| {
            instance.state == StateName::Starting && instance.why.as_deref().is_some_and(|why| why.contains(text))
        });
    };
    why("unix.1", "unix.sock: there is no such socket");
    why("abstract.1", "connect @probed: refused");
    container.touch("go");
    container.until_ready("unix.1");
    container.until_ready("abstract.1");

    put(&container, "http", b"HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\nall is well");
    why("http.1", "GET /healthz: status 201");
    put(&container, "http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n7\r\nis lost\r\n0\r\n\r\n");
    why("http.1", "GET /healthz: status 200, but its body does not contain `all is well`");
    put(&container, "http", b"HTTP/1.1 429 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n7\r\nis well\r\n0\r\n\r\n");
    container.until_ready("http.1");

    put(&container, "head", b"+PONG\r\n");
    why("head.1", "does not speak HTTP");
    // What follows the head of an answer to HEAD never comes.
    put(&container, "head", b"HTTP/1.1 204 Fine\r\nContent-Length: 1000\r\n\r\n");
    container.until_ready("head.1");

    put(&container, "redis", b"-LOADING Redis is loading the dataset in memory\r\n");
    why("redis.1", "PING: LOADING Redis is loading the dataset in memory");
    put(&container, "redis", b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n");
    why("redis.1", "PING: MASTERDOWN Link with MASTER is down");
    put(&container, "redis", b"-NOAUTH Authentication required.\r\n");
    container.until_ready("redis.1");

    why("nologin.1", "MISSING is not set for this service");
    put(&container, "login", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n");
    why("login.1", "AUTH: WRONGPASS");
    put(&container, "login", b"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n");
    why("login.1", "PING: LOADING");
    put(&container, "login", b"+OK\r\n+PONG\r\n");
    let login = container.until_ready("login.1");
    assert!(!container.lines().iter().any(|line| line.raw.contains("hunter2")));

    put(&container, "fpm", &fastcgi(&[(7, b"Primary script unknown\n"), (6, b"Status: 404 Not Found\r\n\r\nFile not found.\n")]));
    why("fpm.1", "FastCGI /ping: status 404");
    why("fpm.1", "Primary script unknown");
    put(&container, "fpm", &fastcgi(&[(6, b"Content-Type: text/plain\r\n\r\npong")]));
    container.until_ready("fpm.1");

    // Answers are counted and timed.
    let counted = login.ready_probe.unwrap();
    assert!(counted.successes >= 1 && counted.failures >= 2 && counted.last_passed, "{counted:?}");
    assert!(counted.last_took_us >= 1 && counted.total_took_us >= counted.last_took_us, "{counted:?}");
    assert_eq!((login.live_probe, container.instance("nologin.1").ready_probe.map(|probe| probe.successes)), (None, Some(0)));
    assert_eq!(container.stop(), 0);
}

fn open_files(container: &Container) -> usize {
    std::fs::read_dir(Path::new("/proc").join(container.pid().to_string()).join("fd")).unwrap().count()
}

fn what_hangs_is_cut_off_and_leaves_nothing(place: Place) {
    let container = Setup::new(
        "
        [services.http]
        command = '{actor} answer 8081 none'
        ready = { http = 'http://127.0.0.1:8081/', every = '50ms', timeout = '200ms' }
        [services.http-socket]
        command = '{actor} answer {dir}/http.sock none'
        ready = { http = 'http://unix:http.sock:/', every = '50ms', timeout = '200ms', contains = 'ok' }
        [services.redis]
        command = '{actor} answer 8082 none'
        ready = { redis = '127.0.0.1:8082', every = '50ms', timeout = '200ms' }
        [services.fpm]
        command = '{actor} answer {dir}/fpm.sock none'
        ready = { fastcgi = '{dir}/fpm.sock', every = '50ms', timeout = '200ms' }
        [services.tcp]
        command = '{actor} full 8083 sleep'
        ready = { tcp = '127.0.0.1:8083', every = '50ms', timeout = '200ms', failures = 1 }
        [services.unix]
        command = '{actor} full {dir}/unix.sock sleep'
        ready = { unix = 'unix.sock', every = '50ms', timeout = '200ms', failures = 1 }
        [services.idle]
        command = '{actor} sleep'
        ",
    )
    .place(place)
    .start();
    let hung = ["http.1", "http-socket.1", "redis.1", "fpm.1", "tcp.1"];
    container.until_ready("idle.1");
    for name in hung {
        let now = container.until(name, "is asked five times", |instance| instance.ready_probe.is_some_and(|probe| probe.failures >= 5));
        assert_eq!(now.why.as_deref(), Some("no answer within 200 ms"), "{name}");
        let probe = now.ready_probe.unwrap();
        // Asked again and again, and never answered before the time is up; only the first may be refused at once, where nobody listens yet.
        let least = 200_000 * (probe.failures - 1);
        // The first may come before the queue is full, and takes the last place in it.
        assert!(
            probe.successes <= u64::from(name == "tcp.1") && probe.last_took_us >= 200_000 && probe.total_took_us >= least,
            "{name}: {probe:?}"
        );
    }
    container.until("unix.1", "is turned away", |instance| {
        instance.why.as_deref().is_some_and(|why| why.ends_with("unix.sock: too many connections wait to be accepted"))
    });
    for name in ["http.1", "http-socket.1", "redis.1", "fpm.1"] {
        let said = container.said_by(name);
        assert!(said.len() > 5 && said.iter().skip(1).all(|line| line == "1 at once"), "{name}: {said:?}");
    }
    // Each has one connection at most; whatever was left of twenty more questions would be more than that.
    let before = open_files(&container);
    for name in hung {
        container.until(name, "is asked on", |instance| instance.ready_probe.is_some_and(|probe| probe.failures >= 25));
    }
    let now = open_files(&container);
    assert!(now <= before + hung.len(), "{now} open files after {before}");
    assert_eq!(container.stop(), 0);
}
