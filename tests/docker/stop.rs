//! `docker stop`: in reverse order, in time, and with every accepted request answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::{Connection, Got};
use super::container::{Container, STACK, until};

/// Milliseconds of a day.
const MIDNIGHT: i64 = 86_400_000;
/// nginx takes a connection from its queue, and reads the request, in less.
const ACCEPTED_MS: i64 = 100;

/// Where in the log the first line with `part` is.
fn place(log: &str, part: &str) -> usize {
    log.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("nothing says {part:?}:\n{log}"))
}

/// Milliseconds since midnight of the first line with `part`.
fn time(log: &str, part: &str) -> i64 {
    let line = log.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("nothing says {part:?}:\n{log}"));
    let clock = line.split_once('T').unwrap().1.split_once('Z').unwrap().0;
    let (hours, rest) = clock.split_once(':').unwrap();
    let (minutes, seconds) = rest.split_once(':').unwrap();
    let (seconds, millis) = seconds.split_once('.').unwrap();
    let number = |text: &str| text.parse::<i64>().unwrap();
    ((number(hours) * 60 + number(minutes)) * 60 + number(seconds)) * 1000 + number(millis)
}

/// How long the stop took by firstmate's own log.
fn stop_took(log: &str) -> Duration {
    let took = (time(log, "| ended with code 0: SIGTERM received") - time(log, "| stopping everything within 8 s: SIGTERM received"))
        .rem_euclid(MIDNIGHT);
    Duration::from_millis(took.unsigned_abs())
}

fn check_order(log: &str) {
    let order = [
        ["stopping everything within 8 s: SIGTERM", "stopping nginx.1 with SIGQUIT"],
        ["stopping everything within 8 s: SIGTERM", "stopping worker.1 with SIGTERM"],
        ["stopping everything within 8 s: SIGTERM", "stopping worker.2 with SIGTERM"],
        ["nginx.1 stopped", "stopping php-fpm.1 with SIGQUIT"],
        ["php-fpm.1 stopped", "stopping redis.1 with SIGTERM"],
        ["worker.1 stopped", "stopping redis.1 with SIGTERM"],
        ["worker.2 stopped", "stopping redis.1 with SIGTERM"],
        ["redis.1 stopped", "ended with code 0: SIGTERM received"],
    ];
    for [earlier, later] in order {
        assert!(place(log, earlier) < place(log, later), "{earlier:?} before {later:?}:\n{log}");
    }
    assert!(!log.contains("sending SIGKILL"), "nobody has to be killed:\n{log}");
    assert!(log.trim_end().lines().next_back().unwrap().contains("firstmate | ended with code 0"), "{log}");
}

#[test]
fn an_idle_stack_stops_at_once() {
    let container = Container::run(STACK, &[], &[]);
    container.wait_until_well();
    let took = container.stop();
    assert_eq!(container.ended(), 0);
    let log = container.log();
    check_order(&log);
    println!("docker stop took {took:?}, of which firstmate {:?}", stop_took(&log));
    // A worker looks up from its queue every half second.
    assert!(stop_took(&log) < Duration::from_secs(3), "{log}");
}

/// One request of the load: what it asked, and what it got.
struct Asked {
    target: String,
    got: Got,
    /// On a connection that had carried a request before.
    reused: bool,
    /// When it was asked, in milliseconds since midnight (UTC), as the log has it.
    at: i64,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap() % MIDNIGHT
}

/// Asks until the container is gone. With `keep`, on one connection as long as it lasts.
fn ask_on(client: usize, address: SocketAddr, keep: bool, slow: u64, over: &AtomicBool) -> Vec<Asked> {
    let mut all = Vec::new();
    let mut connection: Option<Connection> = None;
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let target = if slow > 0 { format!("/slow?ms={slow}&id={client}.{number}.") } else { format!("/?plain=1&id={client}.{number}.") };
        let reused = connection.is_some();
        let at = now();
        let mut open = match connection.take().map_or_else(|| Connection::open(address), Ok) {
            Ok(open) => open,
            // Nobody listens any more, or has not yet taken the place of who did.
            Err(error) => {
                all.push(Asked { target, got: Got::Nothing(format!("cannot connect: {error}")), reused, at });
                break;
            }
        };
        let got = open.get(&target, keep);
        if keep && open.open && matches!(got, Got::Answer(..)) {
            connection = Some(open);
        }
        all.push(Asked { target, got, reused, at });
    }
    all
}

#[test]
fn a_stop_under_load_cuts_no_request_that_was_accepted() {
    let container = Container::run(STACK, &[], &[]);
    container.wait_until_well();
    let address = container.address(8080);
    let over = AtomicBool::new(false);
    let (asked, took) = std::thread::scope(|scope| {
        let clients: Vec<_> =
            [(true, 0), (true, 0), (false, 0), (false, 0), (true, 300), (true, 700), (false, 300), (false, 700), (false, 1200)]
                .into_iter()
                .enumerate()
                .map(|(client, (keep, slow))| {
                    let over = &over;
                    scope.spawn(move || ask_on(client, address, keep, slow, over))
                })
                .collect();
        // Every kind is under way, the slowest too.
        until(
            "the slowest client was answered",
            || if container.log().contains("ms=1200&id=8.0.") { Ok(()) } else { Err(container.log()) },
        );
        let took = container.stop();
        over.store(true, Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>(), took)
    });
    assert_eq!(container.ended(), 0);
    let log = container.log();
    check_order(&log);
    assert!(took < Duration::from_secs(8), "docker stop took {took:?}");
    let (mut answered, mut refused, mut raced, mut queued) = (0, 0, 0, 0);
    let begin = time(&log, "| stopping everything");
    // nginx's own account, by what was asked.
    let of_nginx = |line: &'_ str| line.split_once("\"GET ").and_then(|(_, rest)| Some(rest.split_once(" HTTP/1.1\"")?.0.to_owned()));
    let accounts: HashMap<String, &str> = log.lines().filter_map(|line| Some((of_nginx(line)?, line))).collect();
    for one in &asked {
        let account = accounts.get(&one.target);
        match &one.got {
            Got::Answer(200, _) => {
                answered += 1;
                assert!(account.is_some_and(|line| line.contains("HTTP/1.1\" 200 ")), "{}: {account:?}", one.target);
            }
            // Nobody listened any more; or the request crossed with the end of an idle connection, as it always may (RFC 9112, 9.3.1),
            // or of the queue of connections that nginx never accepted. Then nginx knows nothing of it.
            Got::Nothing(why) => {
                assert_eq!(account, None, "{} was accepted, and got nothing: {why}\n{log}", one.target);
                let before = (begin - one.at + MIDNIGHT / 2).rem_euclid(MIDNIGHT) - MIDNIGHT / 2;
                assert!(before < ACCEPTED_MS, "{} was asked {before} ms before the stop, and got nothing: {why}\n{log}", one.target);
                match (why.starts_with("cannot connect"), one.reused) {
                    (true, _) => refused += 1,
                    (false, true) => raced += 1,
                    (false, false) => queued += 1,
                }
            }
            other => panic!("{} got {other:?}; nginx says {account:?}\n{log}", one.target),
        }
    }
    println!(
        "{answered} answered, {refused} refused, {raced} crossed with the end of their connection, {queued} were never accepted; docker stop \
         took {took:?}, of which firstmate {:?}",
        stop_took(&log)
    );
    assert!(answered > 20, "this was no load: {answered}");
    // Every client met the end, so every kind of request was under way when it came.
    assert_eq!(refused, 9, "{log}");
    // Slow requests that had begun before the stop were finished during it.
    let finished = log
        .lines()
        .filter(|line| line.contains("nginx.1 out") && line.contains("/slow?"))
        .filter(|line| time(line, "nginx") > begin)
        .count();
    assert!(finished >= 3, "{finished}\n{log}");
}
