//! What the leaker says is so: what is measured with it is worth no more than that.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::stage::{MIB, leaker, monotonic, until};

/// One of them, with its lines.
struct One(Child, BufReader<std::process::ChildStdout>);

impl One {
    fn start(words: &[&str]) -> Self {
        let mut child = Command::new(leaker()).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    /// The next line with this word: its bytes, and when it was.
    fn says(&mut self, word: &str) -> (u64, Duration) {
        loop {
            let mut line = String::new();
            assert!(self.1.read_line(&mut line).unwrap() > 0, "it ended without `{word}`");
            let field =
                |name: &str| line.trim_end().split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
            if line.split(' ').any(|one| one == word) {
                let at = Duration::from_secs_f64(field("at").unwrap().parse().unwrap());
                return (field("bytes").map_or(0, |bytes| bytes.parse().unwrap()), at);
            }
        }
    }

    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        value.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    fn ends_with(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }

    fn send(&self, signal: i32) {
        // SAFETY: numbers, of our own child.
        unsafe { libc::kill(i32::try_from(self.0.id()).unwrap(), signal) };
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_about(value: u64, expected: u64) {
    assert!(value.abs_diff(expected) < 2 * MIB, "{value} instead of {expected}");
}

#[test]
fn it_has_what_it_says_it_has() {
    let mut one = One::start(&["leak", "base=20MiB", "size=30MiB", "threads=2"]);
    assert_eq!(one.says("quiet").0, 20 * MIB);
    assert_eq!(one.says("done").0, 50 * MIB);
    is_about(one.status("RssAnon"), 50 * MIB);

    let mut shared = One::start(&["shared", "size=20MiB"]);
    shared.says("done");
    is_about(shared.status("RssShmem"), 20 * MIB);

    let mut lazy = One::start(&["lazyfree", "size=20MiB"]);
    lazy.says("done");
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", lazy.0.id())).unwrap();
    let free = smaps.lines().find_map(|line| line.strip_prefix("LazyFree:")).unwrap();
    is_about(free.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024, 20 * MIB);
}

/// Faster than it says it never is; a machine with other things to do may make it slower.
#[test]
fn it_grows_no_faster_than_it_says() {
    let mut one = One::start(&["leak", "rate=50", "size=25MiB", "mark=1MiB"]);
    let (_, begin) = one.says("begins");
    let mut last = (0, begin);
    for _ in 0..24 {
        let (bytes, at) = one.says("has");
        // Between any two marks no more than the time between them allows, and what may be owed.
        let allowed = 50.0 * 1_048_576.0 * ((at - last.1).as_secs_f64() + 0.004) + 256.0 * 1024.0;
        #[expect(clippy::cast_precision_loss, reason = "some MiB")]
        let grown = (bytes - last.0) as f64;
        assert!(grown <= allowed, "{grown} bytes from {last:?} to {at:?}");
        last = (bytes, at);
    }
    let took = one.says("done").1.saturating_sub(begin);
    assert!(took >= Duration::from_millis(490), "{took:?}");
}

#[test]
fn it_gives_back_what_it_says_it_gives_back() {
    let mut one = One::start(&["spike", "size=40MiB", "hold=300ms", "period=10s"]);
    one.says("peak");
    is_about(one.status("RssAnon"), 40 * MIB);
    one.says("back");
    is_about(one.status("RssAnon"), 0);

    let mut saw = One::start(&["sawtooth", "low=10MiB", "high=30MiB", "period=200ms"]);
    saw.says("fell");
    let (least, most) = (8 * MIB, 32 * MIB);
    for _ in 0..20 {
        let has = saw.status("RssAnon");
        assert!((least..most).contains(&has), "{has}");
    }
}

#[test]
fn it_minds_sigterm_as_it_was_told() {
    let mut deaf = One::start(&["plateau", "size=1MiB", "term=ignore"]);
    deaf.says("done");
    deaf.send(libc::SIGTERM);
    let ignored = std::fs::read_to_string(format!("/proc/{}/status", deaf.0.id())).unwrap();
    let ignored = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim().to_owned();
    assert_ne!(u64::from_str_radix(&ignored, 16).unwrap() & (1 << (libc::SIGTERM - 1)), 0);

    let mut slow = One::start(&["leak", "rate=10", "mark=1MiB", "term=keep:300ms"]);
    slow.says("has");
    slow.send(libc::SIGTERM);
    let (_, asked) = slow.says("asked");
    assert!(slow.says("has").0 > MIB, "it goes on growing");
    assert_eq!(slow.ends_with(), Some(0));
    assert!(monotonic() - asked >= Duration::from_millis(300));
}

#[test]
fn its_children_share_and_write_as_told() {
    let mut one = One::start(&["prefork", "size=20MiB", "children=3", "dirty=50"]);
    one.says("forked");
    let pid = one.0.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children: Vec<u32> = children.split_whitespace().map(|child| child.parse().unwrap()).collect();
    assert_eq!(children.len(), 3);
    for child in &children {
        until("a child has written to half of it", || {
            let text = std::fs::read_to_string(format!("/proc/{child}/smaps_rollup")).unwrap();
            let dirty = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")?.split_whitespace().next()).unwrap();
            let dirty = dirty.parse::<u64>().unwrap() * 1024;
            if dirty.abs_diff(10 * MIB) < MIB { Ok(()) } else { Err(format!("{dirty}")) }
        });
        // SAFETY: numbers; a child of our child, which is nobody else's.
        unsafe { libc::kill(i32::try_from(*child).unwrap(), libc::SIGKILL) };
    }
}

#[test]
fn what_it_does_not_know_it_says() {
    for words in [&["leek"][..], &["leak", "rat=3"], &["plateau"], &["plateau", "size=10%"], &["leak", "term=maybe"]] {
        let output = Command::new(leaker()).args(words).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(99), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("leaker: "), "{words:?}");
    }
}
