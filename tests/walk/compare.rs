//! What a page shows against what came.

use regex_lite::Regex;

/// What differs from run to run: times, pids, sizes, ids. Columns are then as wide as what is in them, so runs of blanks count as two.
const MASKS: [(&str, &str); 11] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIMESTAMP"),
    (r"\d\d:\d\d:\d\d ", "TIME "),
    (r"\b[0-9a-f]{64}\b", "ID"),
    (r"\bpid \d+", "pid N"),
    (r"uptime \d+:\d\d:\d\d", "uptime T"),
    // Not there before the memory of an instance was looked at for the first time.
    (r"mem ~?[\d.]+ [KMG]?i?B( of [\d.]+ [KMG]iB)? \([\d.]+%\), ", ""),
    (r"~?\b[\d.]+ ([KMG]iB|B)\b", "SIZE"),
    (r"\b[\d.]+%", "N%"),
    (r"\bcgroup v[12]\b", "cgroup"),
    (r"\b\d+(\.\d+)? (ms|s|min|h)( \d+ (ms|s|min))?\b", "SPAN"),
    (r"  +", "  "),
];

fn masked(line: &str) -> String {
    MASKS.iter().fold(line.trim_end().to_owned(), |line, (pattern, instead)| {
        Regex::new(pattern).expect(pattern).replace_all(&line, *instead).into_owned()
    })
}

/// All of the output is as expected. A line `...` stands for any number of lines, at the end of a line for the rest of it.
pub fn same(expected: &[String], output: &[String]) -> bool {
    match expected.split_first() {
        None => output.is_empty(),
        Some((first, rest)) if first == "..." => (0..=output.len()).any(|skip| same(rest, &output[skip..])),
        Some((first, rest)) => output.split_first().is_some_and(|(line, others)| same_line(first, line) && same(rest, others)),
    }
}

/// The lines come in this order, others in between.
pub fn missing<'a>(expected: &'a [String], output: &[String]) -> Option<&'a String> {
    let mut output = output.iter();
    expected.iter().filter(|line| *line != "...").find(|line| !output.any(|other| same_line(line, other)))
}

fn same_line(expected: &str, line: &str) -> bool {
    let (expected, line) = (masked(expected), masked(line));
    match expected.strip_suffix("...") {
        Some(beginning) => line.starts_with(beginning),
        None => expected == line,
    }
}

#[test]
fn times_and_pids_differ_and_nothing_else() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let page = lines("web.1    RUNNING    pid 7, uptime 0:04:03, mem 80.2 MiB (16%), ready\n...\nmemory   OK  3 MiB of 512 MiB (3.2%)");
    let came = lines("web.1  RUNNING  pid 4711, uptime 0:00:01, ready\nredis.1  FAILED\nmemory  OK  17.1 MiB of 512 MiB (3%)");
    assert!(same(&page, &came));
    assert!(missing(&page, &came).is_none());
    for other in [
        "web.1  BACKOFF  pid 7, uptime 0:04:03, ready",
        "web.2  RUNNING  pid 7, uptime 0:04:03, ready",
        "web.1  RUNNING  pid 7, uptime 0:04:03, not ready",
    ] {
        assert!(!same_line(&page[0], other), "{other}");
    }
    assert!(!same(&page, &came[..2]) && !same(&page[..1], &came));
    assert_eq!(missing(&page, &came[1..]), Some(&page[0]));
    assert!(same_line("web.1 killed by ...", "web.1 killed by SIGTERM after 3.2 s"));
    assert!(same_line("php-fpm.1 ready after 170 ms", "php-fpm.1 ready after 1.2 s"));
}
