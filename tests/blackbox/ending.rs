//! The last words: what the platform finds in the termination log, whatever ended the container.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Container, Place, Setup, both_ways};

both_ways![what_ended_it_and_its_last_lines, a_stop_that_was_asked_for_is_one_sentence];

fn with_log(services: &str) -> Setup {
    Setup::new(&format!("[firstmate]\ntermination_log = '{{dir}}/words'\n{services}")).file("words", 0o666, "")
}

fn words(container: &Container) -> String {
    std::fs::read_to_string(container.dir().join("words")).unwrap()
}

fn what_ended_it_and_its_last_lines(place: Place) {
    let container = with_log(
        "
        [services.steady]
        command = '{actor} print steady sleep'
        [services.web]
        command = '{actor} print listening print-error database-is-gone exit 3'
        depends_on = { steady = 'started' }
        backoff = { initial = '10ms', factor = 1.0, jitter = 0.0 }
        give_up_after = 2
        ",
    )
    .place(place)
    .start();
    assert_eq!(container.code(), 3);
    let words = words(&container);
    let sentence = "ended with code 3: essential web.1 was given up after 2 consecutive failed runs, the last: exit code 3";
    let mut lines: Vec<&str> = words.lines().collect();
    // Of the last run alone; its two streams are two pipes, and either may be read first.
    lines[2..].sort_unstable();
    assert_eq!(lines, [sentence, "last output of web.1:", "database-is-gone", "listening"], "{words}");
    assert_eq!(container.lines().last().unwrap().text, sentence, "the log says the same");
}

fn a_stop_that_was_asked_for_is_one_sentence(place: Place) {
    let container = with_log("[services.web]\ncommand = '{actor} print up sleep'").place(place).start();
    container.said("web.1", "up");
    assert_eq!(container.stop(), 0);
    let words = words(&container);
    assert!(words.starts_with("ended with code 0: SIGTERM received") && words.lines().count() == 1, "{words}");
}

#[test]
fn at_most_4096_bytes_and_the_newest_of_it() {
    let container = with_log("[services.web]\ncommand = '{actor} lines 5000 exit 1'\nrestart = 'never'").start();
    assert_eq!(container.code(), 1);
    let words = words(&container);
    assert!((3900..=4096).contains(&words.len()), "{}", words.len());
    let said = container.said_by("web.1");
    let shown: Vec<&str> = words.lines().skip(2).collect();
    assert_eq!(shown, said[said.len() - shown.len()..], "the last lines, whole");
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let container = with_log("[services.web]\ncommand = '/nowhere/web'\nrestart = 'never'").start();
    assert_eq!(container.code(), 127);
    let words = words(&container);
    assert!(
        words.starts_with("ended with code 127: essential web.1 ended and is not to be restarted: ")
            && words.contains("/nowhere/web: ENOENT"),
        "{words}"
    );
    assert_eq!(words.lines().count(), 1, "{words}");
}

#[test]
fn when_nothing_is_left_the_one_that_failed_is_named() {
    let container = with_log(
        "
        [services.good]
        command = '{actor} print fine exit 0'
        type = 'oneshot'
        [services.bad]
        command = '{actor} print broken exit 9'
        type = 'oneshot'
        essential = false
        ",
    )
    .start();
    assert_eq!(container.code(), 9);
    let words = words(&container);
    assert!(words.ends_with("; bad.1 failed\nlast output of bad.1:\nbroken\n"), "{words}");
}

#[test]
fn a_file_that_is_wrong_is_told_before_anything_runs() {
    let setup = Setup::new("[services.web]\ncommand = 'x'\nrestrat = 'always'\n").file("words", 0o666, "");
    let path = setup.dir().join("words").to_str().unwrap().to_owned();
    let container = setup.env("FIRSTMATE_TERMINATION_LOG", &path).start();
    assert_eq!(container.code(), 2);
    let text = words(&container);
    assert!(
        text.starts_with("ended with code 2, nothing was started: ") && text.contains("firstmate.toml:3:1: unknown key `restrat`"),
        "{text}"
    );
    assert!(text.contains("did you mean `restart`?") && text.lines().count() == 1, "{text}");
}

#[test]
fn the_variable_wins_and_off_is_off() {
    let setup = with_log("[services.web]\ncommand = '{actor} exit 1'\nrestart = 'never'").env("FIRSTMATE_TERMINATION_LOG", "off");
    let container = setup.start();
    assert_eq!(container.code(), 1);
    assert_eq!(words(&container), "");
}

#[test]
fn a_log_that_cannot_be_written_is_said_once_and_costs_nothing() {
    // A FIFO nobody reads, and no file at all.
    for name in ["fifo", "none"] {
        let setup = Setup::new(&format!(
            "[firstmate]\ntermination_log = '{{dir}}/{name}'\n[services.web]\ncommand = '{{actor}} exit 4'\nrestart = 'never'"
        ));
        if name == "fifo" {
            nix::unistd::mkfifo(&setup.dir().join(name), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        }
        let container = setup.start();
        assert_eq!(container.code(), 4);
        assert_eq!(container.count_told("why this container ends cannot be written to "), 1);
        assert!(name == "fifo" || !container.dir().join(name).exists(), "it is never created");
    }
}

#[test]
fn what_a_service_wrote_there_stays() {
    let container = with_log("[services.web]\ncommand = 'echo own-reason >> {dir}/words; exit 5'\nrestart = 'never'").start();
    assert_eq!(container.code(), 5);
    let words = words(&container);
    assert!(words.starts_with("own-reason") && words.contains("ended with code 5"), "{words}");
    assert_eq!(std::fs::metadata(container.dir().join("words")).unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn what_does_not_fit_below_the_platforms_patience_is_told_with_its_mend() {
    let container = Setup::new(
        "
        [firstmate]
        stop_timeout = '40s'
        drain = '5s'
        [services.web]
        command = '{actor} print up sleep'
        stop_timeout = '36s'
        ",
    )
    .env("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    .start();
    let (_, whole) = container.told_from(0, "stop_timeout is 40s, but Kubernetes waits 30s by default (KUBERNETES_SERVICE_HOST is set)");
    assert!(whole.text.contains("terminationGracePeriodSeconds above 40s") && whole.text.contains("platform_patience"), "{}", whole.text);
    let (_, own) =
        container.told_from(0, "`web` may take 36s to stop, but in a shutdown of 40s, after a drain of 5s it gets SIGKILL after 34s500ms");
    assert!(own.text.contains("; lower it, or raise the pod's terminationGracePeriodSeconds above 42s"), "{}", own.text);
    assert_eq!(whole.kind, "warn");
    container.said("web.1", "up");
}
