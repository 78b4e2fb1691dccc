//! `firstmate -- CMD`: tini's job.

use crate::harness::{Container, Ended, Place, Setup, both_ways, until};

both_ways![
    the_programs_end_is_firstmates,
    signals_are_forwarded,
    orphans_are_reaped_and_outlive_nobody,
    a_program_that_cannot_be_run_is_127_or_126,
];

fn run(place: Place, script: &str) -> Container {
    let words: Vec<&str> = ["--", "{actor}"].into_iter().chain(script.split(' ')).collect();
    Setup::empty().place(place).arguments(&words).start()
}

fn heard(container: &Container, text: &str) -> usize {
    container.line_from(0, text, |line| line.raw == text).0
}

fn the_programs_end_is_firstmates(place: Place) {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill-self TERM sleep", 143),
        ("kill-self KILL sleep", 137),
        ("kill-self RTMIN+3 sleep", 165),
        ("kill-self RTMAX sleep", 192),
        ("default SEGV kill-self SEGV sleep", 139),
    ] {
        assert_eq!(run(place, script).end(), Ended::Code(code), "{script}");
    }
    // Its output is its own: nothing is added to it.
    let container = run(place, "print hello print-error trouble");
    assert_eq!(container.code(), 0);
    let said: Vec<String> = container.lines().into_iter().map(|line| line.raw).collect();
    assert_eq!(said, ["hello", "trouble"]);
}

fn signals_are_forwarded(place: Place) {
    let container = run(place, "print-received RTMIN+3 exit 9");
    heard(&container, "listening for signals");
    let signals = ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TERM", "CONT", "ALRM", "PWR", "RTMIN", "RTMIN+3"];
    for signal in signals {
        container.signal(signal);
        let name = firstmate::engine::Signal::parse(signal).unwrap();
        heard(&container, &format!("got {name}"));
    }
    assert_eq!(container.code(), 9);
}

fn orphans_are_reaped_and_outlive_nobody(place: Place) {
    let container = run(place, "orphans 200 orphans-at-once 500 print delivered wait-file {dir}/go child daemonise sleep end exit 4");
    heard(&container, "delivered");
    until("nothing dead is left", || (container.zombies() == 0).then_some(()));
    assert_eq!(container.try_end(), None);
    container.touch("go");
    // A daemon that is left does not keep firstmate, whose program is over. It has the output still.
    assert_eq!(until("firstmate ends", || container.try_end()), Ended::Code(4));
}

fn a_program_that_cannot_be_run_is_127_or_126(place: Place) {
    for (program, code, why) in [
        ("{dir}/missing", 127, "missing: ENOENT (no such file or directory)"),
        ("no-such-program-anywhere", 127, "executing no-such-program-anywhere: ENOENT (no such file or directory)"),
        ("{dir}/plain", 126, "plain: EACCES (permission denied)"),
        ("{dir}/garbage", 126, "garbage: ENOEXEC (exec format error)"),
    ] {
        let container = Setup::empty()
            .place(place)
            .file("plain", 0o644, "#!/bin/sh\n")
            .file("garbage", 0o755, "this is no program\n")
            .arguments(&["--", program])
            .start();
        assert_eq!(container.code(), code, "{program}");
        let said: Vec<String> = container.lines().into_iter().map(|line| line.raw).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("error: cannot start the program: executing ") && said[0].ends_with(why), "{said:?}");
    }
}

#[test]
fn the_program_starts_with_clean_signals() {
    let container = Setup::empty().rude_signals().arguments(&["--", "{actor}", "print-signals"]).start();
    assert_eq!(container.code(), 0);
    let said: Vec<String> = container.lines().into_iter().map(|line| line.raw).collect();
    // The actor's own runtime ignores SIGPIPE: bit 12.
    assert_eq!(said[..2], ["SigBlk: 0000000000000000", "SigIgn: 0000000000001000"]);
}

#[test]
fn on_a_terminal_the_program_has_the_foreground_and_ctrl_c() {
    for place in [Place::Init, Place::Subreaper] {
        let container = Setup::empty()
            .place(place)
            .terminal()
            .arguments(&["--", "{actor}", "print-tty", "print-received", "QUIT", "wait-file", "{dir}/go"])
            .start();
        container.line_from(0, "foreground", |line| line.raw.trim_end() == "tty true, foreground true");
        container.line_from(0, "listening", |line| line.raw.contains("listening for signals"));
        container.type_in(b"\x03");
        let (at, _) = container.line_from(0, "its Ctrl-C", |line| line.raw.contains("got SIGINT"));
        container.type_in(b"\x1c");
        container.line_from(at, "its Ctrl-\\", |line| line.raw.contains("got SIGQUIT"));
        // What is not read when a terminal's session leader ends, the kernel throws away.
        container.touch("go");
        assert_eq!(container.code(), 0);
        // Each key once: the terminal sends to the foreground group, and firstmate does not send it again.
        assert_eq!(container.lines().iter().filter(|line| line.raw.contains("got SIGINT")).count(), 1);
    }
}

#[test]
fn a_shell_on_a_terminal_reads_what_is_typed() {
    let container = Setup::empty().terminal().arguments(&["--", "sh"]).start();
    container.type_in(b"echo $((6 * 7))\n");
    container.line_from(0, "the answer", |line| line.raw.trim_end().ends_with("42"));
    container.type_in(b"exit 5\n");
    assert_eq!(container.code(), 5);
}

#[test]
fn what_was_said_to_firstmate_is_for_the_one_program() {
    let container = Setup::empty()
        .env("NOTIFY_SOCKET", "@whoever-waits")
        .env("LISTEN_FDS", "0")
        .arguments(&["--", "{actor}", "print-env", "NOTIFY_SOCKET", "print-env", "LISTEN_FDS"])
        .start();
    assert_eq!(container.code(), 0);
    let said: Vec<String> = container.lines().into_iter().map(|line| line.raw).collect();
    assert_eq!(said, ["@whoever-waits", "0"]);
}
