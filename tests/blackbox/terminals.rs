//! Services with a terminal: what they find there, what comes of it in the log, and who may talk to them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use firstmate::engine::status::StateName;
use firstmate::server::attach::{Decoder, Frame, PROTOCOL};

use crate::harness::{Container, PATIENCE, Place, Setup, both_ways, until};

both_ways![a_service_finds_a_terminal_and_its_lines_are_lines, nothing_is_left_of_a_terminal, who_is_attached_talks_to_the_service];

fn a_service_finds_a_terminal_and_its_lines_are_lines(place: Place) {
    let script = r#"#!/bin/sh
        test -t 0 && test -t 1 && test -t 2 && echo "all three are a terminal"
        test "$(ps -o tty= -p $$)" != '?' && echo "it is the controlling one" > /dev/tty
        stty size
        echo "TERM is $TERM"
        printf '10%%\r50%%\r100%%\n'
        printf '\033[31mred\033[0m\n'
        echo "to standard error" >&2
        trap 'echo "the size is now $(stty size)"' WINCH
        while :; do sleep 0.1; done
        "#;
    let container = Setup::new("[services.web]\ncommand = '{dir}/script'\ntty = true\nstop_timeout = '1s'")
        .file("script", 0o755, script)
        .place(place)
        .start();
    container.said("web.1", "to standard error");
    let said = container.said_by("web.1");
    assert_eq!(
        said,
        [
            "all three are a terminal",
            "it is the controlling one",
            "24 80",
            "TERM is xterm",
            "100%",
            "\u{1b}[31mred\u{1b}[0m",
            "to standard error"
        ]
    );
    assert!(container.lines().iter().filter(|line| line.name == "web.1").all(|line| line.kind == "out"), "both outputs are one");
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_switch_gives_everybody_a_terminal_and_a_user_of_its_own_may_use_it() {
    let words = ["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock", "--http", "off", "--tty"];
    let container = Setup::new(
        "
        [services.web]
        command = 'tty; echo again > /dev/stdout; exec sleep 1000'
        user = '33'
        group = '33'
        [services.db]
        command = 'test -t 1 && echo yes; exec sleep 1000'
        env = { TERM = 'vt100' }
        ",
    )
    .arguments(&words)
    .start();
    container.said("web.1", "again");
    container.said("db.1", "yes");
    assert!(container.said_by("web.1")[0].starts_with("/dev/pts/"), "{:?}", container.said_by("web.1"));
    assert_eq!(container.stop(), 0);
}

fn descriptors(container: &Container) -> usize {
    let listed = container.foreign(&["/bin/ls", &format!("/proc/{}/fd", container.own_pid())]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().count()
}

/// A main process that ends, one that leaves a child behind, and one that cannot be executed: each time all of it is closed.
fn nothing_is_left_of_a_terminal(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        command = 'exec sleep 1000'
        tty = true
        [services.leaves]
        command = 'sleep 1000 & sleep 1000 & wait'
        tty = true
        signal_scope = 'main'
        [services.broken]
        command = '/nowhere'
        tty = true
        essential = false
        give_up_after = 1
        ",
    )
    .place(place)
    .start();
    container.until_ready("web.1");
    container.until_ready("leaves.1");
    container.until_state("broken.1", StateName::Failed);
    let before = descriptors(&container);
    for _ in 0..5 {
        let (code, out, err) = container.cli(&["restart", "web", "leaves"]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert_eq!(container.cli(&["start", "broken"]).0, 1);
    }
    container.until_state("broken.1", StateName::Failed);
    until("as many descriptors are open as before", || (descriptors(&container) == before).then_some(()));
    assert_eq!(container.zombies(), 0);
    assert_eq!(container.stop(), 0);
}

/// A client of the terminal of an instance.
struct Client {
    stream: UnixStream,
    decoder: Decoder,
    frames: Vec<Frame>,
}

impl Client {
    fn of(container: &Container, name: &str) -> Self {
        let mut stream = UnixStream::connect(container.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("POST /v1/attach?name={name} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        Self { stream, decoder: Decoder::default(), frames: Vec::new() }
    }

    fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn types(&mut self, keys: &str) {
        self.say(&Frame::Data(keys.as_bytes().to_vec()));
    }

    /// Everything that was shown so far.
    fn shown(&self) -> String {
        let data = |frame: &Frame| if let Frame::Data(bytes) = frame { bytes.clone() } else { Vec::new() };
        String::from_utf8(self.frames.iter().flat_map(data).collect()).unwrap()
    }

    #[track_caller]
    fn reads_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "the connection ended before {what}: {:?}", self.frames);
            let frames = &mut self.frames;
            self.decoder.feed(&chunk[..count], |frame| frames.push(frame));
        }
    }

    #[track_caller]
    fn sees(&mut self, text: &str) {
        self.reads_until(text, |client| client.shown().contains(text));
    }
}

const PROMPT: &str = r#"#!/bin/sh
    trap 'echo "size $(stty size)"' WINCH
    printf 'debug> '
    while :; do
        read -r line || continue
        case $line in
            quit) exit 7 ;;
            flood) i=0; while [ $i -lt 20000 ]; do echo "line $i of a flood that nobody reads, and which is long"; i=$((i+1)); done; echo done ;;
            *) echo "you said $line" ;;
        esac
        printf 'debug> '
    done
    "#;

fn prompt(place: Place) -> Container {
    let config = "
        [services.web]
        command = '{dir}/prompt'
        tty = true
        stop_signal = 'HUP'
        backoff = { initial = '1h', max = '1h' }
        [services.many]
        command = 'exec sleep 1000'
        tty = true
        instances = 2
        [services.plain]
        command = 'exec sleep 1000'
        [services.down]
        command = 'exec sleep 1000'
        autostart = false
        ";
    let container = Setup::new(config).file("prompt", 0o755, PROMPT).place(place).start();
    for name in ["web.1", "many.1", "plain.1"] {
        container.until_ready(name);
    }
    container
}

fn who_is_attached_talks_to_the_service(place: Place) {
    let container = prompt(place);
    let mut client = Client::of(&container, "web");
    // What was written before is shown: the prompt has no line ending, so no log has it yet.
    client.sees("debug> ");
    assert_eq!(client.frames[0], Frame::Attached("web.1".to_owned()));
    container.told("somebody is attached to the terminal of web.1");
    client.types("hello\n");
    client.sees("you said hello\r\n");
    container.said("web.1", "you said hello");

    let (code, _, err) = container.cli(&["attach", "web"]);
    assert_eq!((code, err.contains("somebody is attached to web.1 already")), (1, true), "{err}");

    // A window of another size is what the service sees, until the client leaves.
    client.say(&Frame::Resized { rows: 50, columns: 132 });
    client.sees("size 50 132");
    drop(client);
    let left = container.told("nobody is attached to the terminal of web.1 any more");
    container.line_from(left.saturating_sub(5), "size 24 80", |line| line.name == "web.1" && line.text.ends_with("size 24 80"));
    assert_eq!(container.instance("web.1").restarts.total, 0, "leaving it stops nothing");

    // Another one finds it as it was left, and sees its end.
    let mut client = Client::of(&container, "web.1");
    client.sees("debug> ");
    client.types("quit\n");
    client.reads_until("its end", |client| matches!(client.frames.last(), Some(Frame::Ended(_))));
    assert_eq!(client.frames.last(), Some(&Frame::Ended("exit code 7".to_owned())));
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    let (code, _, err) = container.cli(&["attach", "web"]);
    assert_eq!((code, err.contains("web.1 does not run, it is backoff")), (1, true), "{err}");
    assert_eq!(container.stop(), 0);
}

#[test]
fn who_cannot_be_attached_is_told_how_to_mend_it() {
    let container = prompt(Place::Init);
    for (name, expected, says) in [
        (
            "plain",
            1,
            "cannot attach: plain.1 has no terminal: give it one with tty = true under [services.plain], or start firstmate with --tty, and restart it",
        ),
        ("many", 1, "`many` stands for 2 instances, and one is attached to one: name it, as in many.1, many.2"),
        ("down", 1, "down.1 does not run, it is stopped"),
        ("wbe", 4, "did you mean `web`?"),
    ] {
        let (code, out, err) = container.cli(&["attach", name]);
        assert_eq!((code, out.as_str(), err.contains(says)), (expected, "", true), "{name}: {err}");
    }
    let (code, _, err) = container.cli_as(33, &["attach", "web"]);
    assert_eq!((code, err.contains("only root may use its verbs")), (1, true), "{err}");
    let (code, _, err) = container.cli(&["attach", "web", "--detach-keys", "ctrl-"]);
    assert_eq!((code, err.contains("keys are letters, or such as ctrl-p")), (2, true), "{err}");
    // Standard input is at its end at once, and so is this: nothing is stopped by it.
    let (code, out, err) = container.cli(&["attach", "web"]);
    assert_eq!((code, err.contains("detached from web.1, which runs on")), (0, true), "{out}{err}");
    assert_eq!(container.instance("web.1").run, 1);
    assert_eq!(container.stop(), 0);
}

#[test]
fn what_is_piped_in_is_typed() {
    let container = prompt(Place::Init);
    let mut client = Client::of(&container, "web");
    client.sees("debug> ");
    client.types("the last words\n");
    drop(client);
    container.said("web.1", "you said the last words");
    assert_eq!(container.stop(), 0);
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let container = prompt(Place::Init);
    let mut client = Client::of(&container, "web");
    client.types("flood\n");
    // All of it is read from the terminal although the client reads nothing, and everything else goes on.
    container.said("web.1", "done");
    let (code, _, _) = container.cli(&["restart", "plain"]);
    assert_eq!(code, 0);
    client.reads_until("the gap", |client| client.frames.iter().any(|frame| matches!(frame, Frame::Dropped(_))));
    let dropped = client.frames.iter().filter(|frame| matches!(frame, Frame::Dropped(count) if *count > 100_000)).count();
    assert_eq!(dropped, 1);
    client.types("again\n");
    client.sees("you said again");
    assert_eq!(container.stop(), 0);
}
