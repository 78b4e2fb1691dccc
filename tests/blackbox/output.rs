//! What services write: in order, tagged, whole, to the last word, and never in anybody's way.

use firstmate::engine::status::StateName;

use crate::harness::{Place, Setup, both_ways, until};

both_ways![every_line_comes_in_order_and_tagged, a_stuck_reader_does_not_stop_supervision];

fn every_line_comes_in_order_and_tagged(place: Place) {
    let container = Setup::new(
        "
        [services.web]
        instances = 2
        command = '{actor} lines 5000 print-error trouble print-error more lines 3 sleep'
        ",
    )
    .place(place)
    .start();
    for name in ["web.1", "web.2"] {
        let first = container.said(name, "line 4999");
        container.said_from(first, name, "line 2");
        container.said(name, "more");
        let of = |kind: &str| -> Vec<String> {
            container.lines().into_iter().filter(|line| line.name == name && line.kind == kind).map(|line| line.text).collect()
        };
        let expected: Vec<String> = (0..5000).chain(0..3).map(|number| format!("line {number}")).collect();
        assert_eq!(of("out"), expected);
        assert_eq!(of("err"), ["trouble", "more"]);
    }
    // Times never go back, and each line has one.
    let times: Vec<u64> = container.lines().iter().map(|line| line.at_ms).collect();
    assert!(times.is_sorted() && times[0] > 0);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_long_line_comes_in_marked_pieces() {
    let container = Setup::new("[services.web]\ncommand = '{actor} long 100000 print after sleep'").start();
    container.said("web.1", "after");
    let pieces: Vec<_> = container.lines().into_iter().filter(|line| line.name == "web.1" && line.text != "after").collect();
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.text.len()).collect();
    assert_eq!(lengths, [16384, 16384, 16384, 16384, 16384, 16384, 1696]);
    assert!(pieces.iter().all(|piece| piece.text.bytes().all(|byte| byte == b'x')));
    let marks: Vec<bool> = pieces.iter().map(|piece| piece.continued).collect();
    assert_eq!(marks, [false, true, true, true, true, true, true]);
    assert_eq!(container.stop(), 0);
}

#[test]
fn last_words_come_before_the_news_of_the_end() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} lines 800 print-error dying print-raw unfinished kill-self KILL'
        restart = 'never'
        essential = false
        [services.web2]
        command = '{actor} sleep'
        ",
    )
    .start();
    let end = container.told("web.1 killed by SIGKILL");
    assert_eq!(container.said_by("web.1").len(), 802);
    assert!(container.said("web.1", "line 799") < end);
    assert!(container.said("web.1", "dying") < end);
    assert!(container.said("web.1", "unfinished") < end);
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_very_last_words_of_all_are_not_lost() {
    let container = Setup::new("[services.web]\ntype = 'oneshot'\ncommand = '{actor} lines 2000 exit 3'").start();
    assert_eq!(container.code(), 3);
    assert_eq!(container.said_by("web.1").len(), 2000);
    assert!(container.lines().pop().unwrap().text.starts_with("ended with code 3"));
}

fn a_stuck_reader_does_not_stop_supervision(place: Place) {
    let container = Setup::new(
        "
        [services.loud]
        command = '{actor} flood'
        [services.crashing]
        command = '{actor} exit 1'
        give_up_after = 'never'
        backoff = { initial = '100ms', max = '100ms', jitter = 0 }
        ",
    )
    .place(place)
    .unread()
    .start();
    // Far more than the pipe and the queue hold is written meanwhile, and nobody waits for the reader.
    let first = container.until("crashing.1", "is restarted", |instance| instance.run > 3).run;
    container.until("crashing.1", "is restarted again", |instance| instance.run > first + 5);
    assert_eq!(container.instance("loud.1").run, 1);
    assert_eq!(container.cli(&["restart", "loud"]).0, 0);
    assert_eq!(container.cli(&["check", "live"]).0, 0);
    assert_eq!(container.cli(&["stop", "loud"]).0, 0);
    // The reader is back: it is told what it has missed.
    container.read_on();
    let (_, gap) = container.told_from(0, " lines dropped: standard output was not read for ");
    let dropped: u64 = gap.text.split(' ').next().unwrap().parse().unwrap();
    assert!(dropped > 1000 && gap.kind == "warn", "{gap:?}");
    // And lines come again.
    let now = container.lines().len();
    container.told_from(now, "crashing.1 started");
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_reader_that_never_comes_back_does_not_hold_up_the_end() {
    let container = Setup::new("[services.loud]\ncommand = '{actor} flood'").unread().start();
    container.until_ready("loud.1");
    container.signal("TERM");
    let ended = until("it ends all the same", || container.try_end());
    assert_eq!(ended, crate::harness::Ended::Code(0));
}

#[test]
fn another_user_may_open_its_standard_output_anew() {
    for place in [Place::Init, Place::Subreaper] {
        let container = Setup::new("[services.web]\nuser = 'nobody'\ncommand = '{actor} print-status Uid reopen-stdout anew sleep'")
            .place(place)
            .start();
        container.said("web.1", "Uid: 65534 65534 65534 65534");
        container.said("web.1", "anew");
        assert_eq!(container.stop(), 0);
    }
}

#[test]
fn a_flood_does_not_delay_the_restarts_of_another() {
    let container = Setup::new(
        "
        [services.loud]
        instances = 2
        command = '{actor} flood'
        [services.crashing]
        command = '{actor} exit 1'
        give_up_after = 'never'
        backoff = { initial = '200ms', max = '200ms', jitter = 0 }
        ",
    )
    .start();
    // The best of ten shows what the flood itself does; the worst may be the machine's.
    let mut from = container.told("crashing.1 started");
    let mut delays = Vec::new();
    for _ in 0..10 {
        let (restarts, announced) = container.told_from(from, "crashing.1 restarts in 200 ms");
        let (started, line) = container.told_from(restarts, "crashing.1 started");
        delays.push(line.at_ms - announced.at_ms);
        from = started;
    }
    delays.sort_unstable();
    assert!(delays[0] >= 199 && delays[2] < 300, "{delays:?}");
    assert_eq!(container.instance("loud.1").state, StateName::Running);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_pipe_that_a_leftover_holds_does_not_outlive_its_run() {
    let container = Setup::new(
        "
        [services.web]
        command = \"sh -c '{actor} sleep & exec {actor} print-raw half-a-line kill-self KILL'\"
        give_up_after = 'never'
        backoff = { initial = '50ms', max = '50ms' }
        ",
    )
    .start();
    for _ in 0..2 {
        container.said("web.1", "half-a-line");
    }
    container.until("web.1", "is run again", |instance| instance.run > 2);
    assert_eq!(container.stop(), 0);
}
