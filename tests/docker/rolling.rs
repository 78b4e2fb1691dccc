//! A rolling stop: one container after the other is replaced behind a proxy that honours readiness, under load, and nobody notices.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::client::{self, Got};
use super::container::{Container, Directory, LABEL, docker, docker_ok, unique, until};

/// A Docker network whose addresses can be given by name, since a proxy has to know them beforehand.
struct Network {
    name: String,
    subnet: [u8; 3],
}

impl Network {
    fn new() -> Self {
        let name = unique("network");
        let own = (0..200)
            .map(|number| [10, 213, number])
            .find(|[a, b, c]| docker(&["network", "create", "--label", LABEL, "--subnet", &format!("{a}.{b}.{c}.0/24"), &name]).0 == 0);
        Self { name, subnet: own.expect("no subnet of 10.213.0.0/16 is free") }
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = docker(&["network", "rm", &self.name]);
    }
}

/// A program of the test's own, ended with it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SLOTS: [u8; 2] = [11, 12];

/// HAProxy asks each container ten times a second whether it is ready, and does not try again what has failed.
fn proxy(files: &Directory, network: &Network, port: u16, statistics: u16) -> Program {
    let mut text = format!(
        "global\n\tlog stdout format raw local0\ndefaults\n\tmode http\n\tretries 0\n\ttimeout connect 2s\n\ttimeout client 20s\n\
         \ttimeout server 20s\nlisten statistics\n\tbind 127.0.0.1:{statistics}\n\tstats enable\n\tstats uri /\nfrontend front\n\tbind 127.0.0.1:{port}\n\tdefault_backend stack\nbackend stack\n\toption httpchk GET /readyz\n\
         \thttp-check expect status 200\n"
    );
    for host in SLOTS {
        text += &format!("\tserver s{host} {}:8080 check port 9180 inter 100ms fall 1 rise 1\n", network.address(host));
    }
    std::fs::write(files.path().join("haproxy.cfg"), text).unwrap();
    let child = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(files.path().join("haproxy.cfg"))
        .stdout(Stdio::null())
        .spawn()
        .expect("cannot execute haproxy; run `tests/setup programs`");
    let proxy = Program(child);
    until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string()));
    proxy
}

fn replica(network: &Network, host: u8) -> Container {
    let address = network.address(host).to_string();
    Container::stack_with(&["--network", &network.name, "--ip", &address], |text| {
        let drained = text.replace("stop_timeout = \"8s\"\n", "stop_timeout = \"9500ms\"\ndrain = \"2s\"\n");
        assert!(drained != text, "the shipped file has other values now");
        drained
    })
}

/// Waits until the proxy takes these for ready, and nobody else.
fn wait_until_in_turn(statistics: u16, hosts: &[u8]) {
    until(&format!("the proxy chooses among {hosts:?}"), || {
        // HAProxy management guide, section 9.1: the status is the 18th column.
        let got = client::get((Ipv4Addr::LOCALHOST, statistics).into(), "/;csv");
        let Got::Answer(200, table) = &got else { return Err(format!("{got:?}")) };
        let states: Vec<(&str, &str)> = table
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>())
            .filter(|row| row.len() > 17)
            .map(|row| (row[1], row[17]))
            .collect();
        let right = SLOTS.iter().all(|host| {
            let up = states.iter().any(|(name, state)| *name == format!("s{host}") && *state == "UP");
            up == hosts.contains(host)
        });
        if right { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn rolling(rounds: usize) {
    let network = Network::new();
    let files = Directory::new(&[]);
    let (port, statistics) = (free_port(), free_port());
    let mut running: Vec<Container> = vec![replica(&network, SLOTS[0])];
    running[0].wait_until_well();
    let _proxy = proxy(&files, &network, port, statistics);
    wait_until_in_turn(statistics, &SLOTS[..1]);

    // PHP and Redis behind each answer. wrk prints what it has when it is interrupted.
    let url = format!("http://127.0.0.1:{port}/?plain=1");
    let mut load = Program(
        Command::new("wrk")
            .args(["-t", "1", "-c", "8", "-d", "1h", "--timeout", "10s", &url])
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot execute wrk; run `tests/setup programs`"),
    );
    for round in 0..rounds {
        let next = replica(&network, SLOTS[(round + 1) % 2]);
        next.wait_until_well();
        wait_until_in_turn(statistics, &SLOTS);
        let old = running.pop().unwrap();
        running.push(next);
        let stopping = std::thread::spawn({
            let name = old.name.clone();
            move || docker_ok(&["stop", "--time", "20", &name])
        });
        // While it drains it is alive, not ready, and serves.
        until("it drains", || match (old.get(9180, "/readyz"), old.get(9180, "/livez"), old.get(8080, "/?plain=1")) {
            (Got::Answer(503, _), Got::Answer(200, _), Got::Answer(200, _)) => Ok(()),
            other => Err(format!("{other:?}\n{}", old.log())),
        });
        stopping.join().unwrap();
        assert_eq!(old.ended(), 0, "{}", old.log());
        assert!(!old.log().contains("sending SIGKILL"), "{}", old.log());
    }
    // SAFETY: the test's own child, not waited for yet.
    unsafe { libc::kill(i32::try_from(load.0.id()).unwrap(), libc::SIGINT) };
    let mut said = String::new();
    load.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    println!("{rounds} rounds:\n{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    let requests: u64 = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("wrk says nothing of requests:\n{said}"));
    assert!(requests > 100 * u64::try_from(rounds).unwrap(), "{said}");
}

#[test]
fn a_rolling_stop_under_load_loses_no_request() {
    rolling(2);
}

#[test]
#[ignore = "a minute; make platform-matrix"]
fn ten_rolling_stops_under_load_lose_no_request() {
    rolling(10);
}
