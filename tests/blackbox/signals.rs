//! Signals to firstmate, and of children: which mean what, and that none is misreported.

use crate::harness::{Ended, Place, Setup, both_ways, until};

both_ways![every_stop_signal_stops_in_order, signals_without_a_meaning_change_nothing, three_hundred_ends_are_all_told_right];

const WEB: &str = "[services.web]\ncommand = '{actor} print up sleep'\n";

fn every_stop_signal_stops_in_order(place: Place) {
    for (signal, name) in [("TERM", "SIGTERM"), ("QUIT", "SIGQUIT"), ("INT", "SIGINT"), ("RTMIN+3", "SIGRTMIN+3"), ("PWR", "SIGPWR")] {
        let container = Setup::new(WEB).place(place).start();
        container.said("web.1", "up");
        container.signal(signal);
        assert_eq!(container.code(), 0, "{signal}");
        container.told(&format!("{name} received"));
        container.told("web.1 killed by SIGTERM");
        container.told("web.1 stopped");
    }
}

fn signals_without_a_meaning_change_nothing(place: Place) {
    let container = Setup::new(WEB).place(place).start();
    container.said("web.1", "up");
    for signal in ["USR1", "USR2", "WINCH", "ALRM", "CONT", "PIPE", "IO", "RTMIN", "RTMIN+7", "RTMAX"] {
        container.signal(signal);
    }
    container.signal("HUP");
    container.told("the file was read again: no service has changed");
    container.until_ready("web.1");
    assert_eq!((container.instance("web.1").run, container.try_end()), (1, None));
    assert_eq!(container.stop(), 0);
}

/// Two SIGINTs from a process, as some platforms repeat a stop, are not a person's second Ctrl-C.
#[test]
fn a_repeated_int_that_no_terminal_sent_changes_nothing() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print-received TERM wait-file {dir}/go'\n").start();
    container.said("web.1", "listening for signals");
    container.signal("INT");
    container.said("web.1", "got SIGTERM");
    container.signal("INT");
    container.signal("TERM");
    assert_eq!(container.status().phase, firstmate::engine::status::Phase::Stopping);
    container.touch("go");
    assert_eq!(container.code(), 0);
    container.told("web.1 exited with code 0");
}

const STUBBORN: &str = "
    [firstmate]
    stop_timeout = '10m'
    [services.web]
    command = '{actor} ignore-term ignore INT print up sleep'
    stop_timeout = '10m'
";

#[test]
fn the_second_ctrl_c_kills_at_once() {
    for place in [Place::Init, Place::Subreaper] {
        let container = Setup::new(STUBBORN).place(place).terminal().env("NO_COLOR", "1").start();
        let says = |text: &str| container.line_from(0, text, |line| line.raw.contains(text));
        says("web.1     out   | up");
        container.type_in(b"\x03");
        says("stopping everything within 10 min: SIGINT received");
        assert_eq!(container.try_end(), None);
        container.type_in(b"\x03");
        // What is not read when a terminal's session leader ends, the kernel throws away; so its last line cannot be asked for.
        assert_eq!(container.end(), Ended::Code(130));
    }
}

#[test]
fn one_ctrl_c_is_an_ordinary_stop() {
    let container = Setup::new(WEB).terminal().env("TERM", "xterm").start();
    container.line_from(0, "up", |line| line.raw.contains("| \u{1b}[0mup") || line.raw.contains("|\u{1b}[0m up"));
    container.type_in(b"\x03");
    assert_eq!(container.code(), 0);
}

#[test]
fn a_closed_terminal_is_a_stop() {
    let container = Setup::new("[services.web]\ncommand = '{actor} print-received TERM write-pid {dir}/stopped'\n").terminal().start();
    container.line_from(0, "listening", |line| line.raw.contains("listening for signals"));
    container.hang_up();
    assert_eq!(container.code(), 0);
    assert!(container.dir().join("stopped").exists());
}

#[test]
fn services_start_with_clean_signals() {
    for place in [Place::Init, Place::Subreaper] {
        let container = Setup::new(
            "[services.web]\ncommand = '{actor} print-signals print-fds sleep'\n[services.probe]\ncommand = '{actor} sleep'\nready = { exec = '{actor} child write-pid {dir}/probed end print-signals exit 0' }",
        )
        .place(place)
        .rude_signals()
        .start();
        container.said("web.1", "SigBlk: 0000000000000000");
        // The actor is a Rust program, whose runtime itself ignores SIGPIPE: bit 12.
        container.said("web.1", "SigIgn: 0000000000001000");
        container.line_from(0, "three descriptors", |line| line.name == "web.1" && line.text == "0=/dev/null 1=pipe 2=pipe");
        container.until_ready("probe.1");
        // firstmate hears what its parent ignored and blocked.
        assert_eq!(container.stop(), 0);
    }
}

fn three_hundred_ends_are_all_told_right(place: Place) {
    // Different in every run; a failure shows the whole log.
    let mut state = u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let deadly: Vec<i32> = (1..=64)
        // Not those that stop, continue or do nothing, nor those the C library keeps for itself.
        .filter(|signal| ![libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH, 32, 33].contains(signal))
        .filter(|signal| ![libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(signal))
        .collect();
    let mut config = "[services.bystander]\ncommand = '{actor} sleep'\n".to_owned();
    let mut expected = Vec::new();
    for number in 0..300 {
        let (script, end) = if random(2) == 0 {
            let code = random(256);
            (format!("exit {code}"), format!("exited with code {code} after "))
        } else {
            let number = deadly[usize::try_from(random(deadly.len() as u64)).unwrap()];
            let signal = firstmate::engine::Signal::from_number(number).unwrap();
            // Rust's runtime has handlers for some.
            let default = if number == libc::SIGKILL || number >= 32 { String::new() } else { format!("default {number} ") };
            (format!("{default}kill-self {number} sleep"), format!("killed by {signal} after "))
        };
        config += &format!(
            "[services.s{number}]\ncommand = '{{actor}} wait-file {{dir}}/go {script}'\nrestart = 'never'\nessential = false\nlimits = {{ core = 0 }}\n"
        );
        expected.push(format!("s{number}.1 {end}"));
    }
    let container = Setup::new(&config).place(place).start();
    container.told("s299.1 started");
    container.touch("go");
    for end in &expected {
        container.told(end);
    }
    until("nothing dead is left", || (container.zombies() == 0).then_some(()));
    container.until_ready("bystander.1");
    assert_eq!(container.stop(), 0);
}
