//! What supervision is like under load: floods of lines, rings that are full, two hundred services.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use firstmate::engine::status::StateName;
use firstmate::observe::happening::{Happening, What};

use crate::harness::{Container, Setup, until};

/// What a follower of `noisy` has read so far.
#[derive(Debug, Default, Clone)]
struct Tally {
    /// Lines of services.
    read: usize,
    /// Lines it was told it had lost.
    lost: usize,
    /// The number of each instance's last line.
    last: BTreeMap<String, usize>,
    /// The first line that came too early, or twice.
    wrong: Option<String>,
}

impl Tally {
    fn count(&mut self, line: &str) {
        let (head, text) = line.split_once(" | ").unwrap_or((line, ""));
        let name = head.split(' ').nth(1).unwrap_or_default();
        if name == "firstmate" {
            self.lost += text.split_once(" line").map_or(0, |(number, _)| number.parse::<usize>().unwrap());
            return;
        }
        self.read += 1;
        let number = text.strip_prefix("line ").and_then(|text| text.split(' ').next()?.parse::<usize>().ok());
        if let Some(number) = number {
            let last = self.last.insert(name.to_owned(), number);
            if last.is_some_and(|last| last >= number) {
                self.wrong.get_or_insert_with(|| format!("{line} after line {last:?}"));
            }
        }
    }

    fn all(&self) -> usize {
        self.read + self.lost
    }
}

/// `logs -f noisy`, counted as it comes, or not read until it is told to.
struct Follower {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    tally: Arc<Mutex<Tally>>,
}

impl Follower {
    /// Returns once it has got so many lines, which are there.
    fn after(container: &Container, lines: usize) -> Self {
        let mut child = container.command(&["logs", "-f", "noisy"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut tally = Tally::default();
        for _ in 0..lines {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended early");
            tally.count(&line);
        }
        Self { child, output: Some(output), tally: Arc::new(Mutex::new(tally)) }
    }

    fn read_on(&mut self) {
        let (output, tally) = (self.output.take().unwrap(), Arc::clone(&self.tally));
        std::thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| tally.lock().unwrap().count(&line)));
    }

    fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Once it has read, or was told to be without, so many.
    #[track_caller]
    fn until(&self, all: usize) -> Tally {
        until(&format!("a follower knows of {all} lines"), || Some(self.tally()).filter(|tally| tally.all() >= all))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pss_kib(container: &Container) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", container.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// How much later than it was to be each next run of an instance began, in ms, by firstmate's own word.
fn delays(events: &str) -> Vec<u64> {
    let events: Vec<Happening> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut delays = Vec::new();
    let mut due = None;
    for event in events {
        if let What::Restarting { delay_ms, .. } = event.what {
            due = Some(event.at_unix_ms + delay_ms);
        } else if let What::Started { .. } = event.what {
            delays.extend(due.take().map(|due| event.at_unix_ms.saturating_sub(due)));
        }
    }
    delays
}

/// Four times 50,000 lines a second, one who reads and one who does not, and beside them a service that crashes again and again.
#[test]
fn four_floods_do_not_slow_the_restarts_of_another() {
    const INSTANCES: usize = 4;
    const EACH: usize = 50_000;
    let container = Setup::new(
        "
        [services.noisy]
        instances = 4
        command = '{actor} print begin wait-file {dir}/go pace 50000 1000'
        essential = false
        restart = 'never'
        [services.crashing]
        command = '{actor} kill-self KILL'
        autostart = false
        backoff = { initial = '10ms', max = '10ms', jitter = 0.0 }
        give_up_after = 'never'
        ",
    )
    .start();
    for number in 1..=INSTANCES {
        container.said(&format!("noisy.{number}"), "begin");
    }
    let mut reader = Follower::after(&container, INSTANCES);
    let mut stuck = Follower::after(&container, INSTANCES);
    reader.read_on();
    let before = pss_kib(&container);
    assert_eq!(container.cli(&["start", "crashing", "--no-wait"]).0, 0);
    container.until("crashing.1", "has crashed", |crashing| crashing.run > 1);
    container.touch("go");
    reader.until(INSTANCES + EACH / 10);
    let at_first = container.instance("crashing.1").run;
    let (mut most, mut asked) = (0, 0);
    let at_last = until("the floods are over", || {
        most = most.max(pss_kib(&container));
        asked += 1;
        let status = container.status();
        let mut instances = status.services.iter().flat_map(|service| &service.instances);
        let over = instances.clone().filter(|one| one.state == StateName::Exited).count() == INSTANCES;
        over.then(|| instances.find(|one| one.name == "crashing.1").unwrap().run)
    });
    let events = container.cli(&["events", "--json", "crashing"]).1;
    // Every line reaches both, or they are told that it does not, in order, and none twice.
    let all = INSTANCES * (EACH + 1);
    let read = reader.until(all);
    stuck.read_on();
    let unread = stuck.until(all);
    for tally in [&read, &unread] {
        assert_eq!((tally.all(), tally.wrong.as_deref()), (all, None));
    }
    assert!(unread.lost > all / 2, "it did not read, and half a megabyte is kept for it: {unread:?}");
    let delays = delays(&events);
    println!(
        "{all} lines: one follower read {} and lost {}, one read {} and lost {}; PSS {before} KiB before, at most {most}, {asked} questions; \
         {} restarts, of which the last {} were late by {:?} ms at most",
        read.read,
        read.lost,
        unread.read,
        unread.lost,
        at_last - at_first,
        delays.len(),
        delays.iter().max()
    );
    assert!(at_last >= at_first + 5, "it was started again all the time: {at_first}, then {at_last}");
    assert!(delays.len() > 5 && delays.iter().all(|delay| *delay < 2_000), "{delays:?}");
    // The log's own queue may hold 1 MiB, the tail of those who follow half of one; and what is asked for meanwhile maps its code, of which a build
    // for debugging has much.
    assert!(most < before + 4096, "{most} KiB, {before} before");
    assert_eq!(container.stop(), 0);
}

/// Two hundred services have said more than is kept: what is kept, and the memory it takes, is what the file allows, and stays it.
#[test]
fn two_hundred_rings_are_bounded_each_by_its_own_size() {
    const SERVICES: usize = 200;
    let script = "wait-file {dir}/first lines 700 print half wait-file {dir}/second lines 1500 print last sleep";
    let mut config = "[firstmate]\nlog_buffer = '8KiB'\n".to_owned();
    for number in 0..SERVICES {
        config += &format!("[services.s{number}]\ncommand = '{{actor}} {script}'\n");
    }
    // The last one has room of its own.
    config += "log_buffer = '32KiB'\n";
    let container = Setup::new(&config).start();
    container.until_ready("s199.1");
    let all_have_said = |word: &str| {
        until(&format!("all have said `{word}`"), || {
            let (code, out, _) = container.cli(&["logs"]);
            assert_eq!(code, 0);
            (out.lines().filter(|line| line.ends_with(&format!(" | {word}"))).count() == SERVICES).then_some(out)
        })
    };
    let empty = pss_kib(&container);
    container.touch("first");
    all_have_said("half");
    let full = until("what waits for the log's reader is gone", || Some(pss_kib(&container)).filter(|full| *full < empty + 200 * 8 + 1536));
    container.touch("second");
    let out = all_have_said("last");
    until("as much as before is kept", || Some(pss_kib(&container)).filter(|later| *later < full + 512));
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for line in out.lines() {
        let (name, text) = line.split_once(" out | ").unwrap();
        // And 17 bytes with each line that tell its number, time and length.
        *kept.entry(name.split_once(' ').unwrap().1).or_default() += text.len() + 17;
    }
    assert_eq!(kept.len(), SERVICES);
    for (name, bytes) in kept {
        let most = if name == "s199.1" { 32 << 10 } else { 8 << 10 };
        assert!(bytes <= most && bytes > most - 64, "{name} has {bytes} bytes");
    }
    assert_eq!(container.stop(), 0);
}

/// A command's calls into the kernel as strace names them, less those by which an allocator gets its memory.
fn calls(container: &Container, arguments: &[&str]) -> Vec<String> {
    let asked = container.command(arguments);
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=!mmap,munmap,mremap,madvise,brk", "-o", "/dev/stderr"])
        .arg(asked.get_program())
        .args(asked.get_args());
    strace.env_clear().env("PATH", "/usr/bin:/bin").env("FIRSTMATE_SOCKET", container.socket()).stdin(Stdio::null());
    let output = strace.output().expect("cannot execute strace; run `tests/setup packages`");
    assert!(!output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).lines().map(ToOwned::to_owned).collect()
}

/// Processor time of `status`, in microseconds, at its quickest of so many; see RUSAGE_CHILDREN in getrusage(2).
fn command_us(container: &Container, rounds: usize) -> u64 {
    let used = || {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the place is writable, and zeros are a valid rusage.
        let usage = unsafe {
            assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()), 0);
            usage.assume_init()
        };
        let micros = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap();
        micros(usage.ru_utime) + micros(usage.ru_stime)
    };
    let once = || {
        let before = used();
        assert_eq!(container.cli(&["status"]).0, 0);
        used() - before
    };
    (0..rounds).map(|_| once()).min().unwrap()
}

/// Processor time of firstmate's loop for an answer, in microseconds, of so many; see sched-stats.rst of the kernel.
fn answer_us(container: &Container, rounds: u64) -> u64 {
    let on_cpu = || {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", container.pid())).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1000
    };
    let before = on_cpu();
    for _ in 0..rounds {
        assert_eq!(container.ask("GET", "/status").unwrap().0, 200);
    }
    (on_cpu() - before) / rounds
}

/// What `status` costs with two hundred services, in things that no other machine changes: the answer's size, the calls into the kernel, and the
/// processor's time as a multiple of what twenty services take. Ten times as many are ten times the work; what grows with the square is a
/// hundred times. How long it takes is measured by `make bench-reading`.
#[test]
fn status_of_two_hundred_services_costs_what_there_is_to_tell() {
    let figures = |services: usize| {
        let text: String = (0..services).map(|number| format!("[services.s{number}]\ncommand = '{{actor}} sleep'\n")).collect();
        let container = Setup::new(&text).start();
        assert_eq!(container.cli(&["wait", "ready"]).0, 0);
        let bytes = container.ask("GET", "/status").unwrap().1.len();
        let calls = calls(&container, &["status"]);
        let costs = (command_us(&container, 10), answer_us(&container, 30));
        assert_eq!(container.stop(), 0);
        (bytes, calls, costs)
    };
    let (_, few_calls, few) = figures(20);
    let (bytes, calls, many) = figures(200);
    println!(
        "status of 20 and 200 services: {} and {} calls, {few:?} and {many:?} us of processor time (command, answer); {bytes} bytes",
        few_calls.len(),
        calls.len()
    );
    assert!(bytes < 200 * 600, "{bytes} bytes");
    let opens: Vec<&String> = calls.iter().filter(|call| call.contains("open")).collect();
    let unexpected =
        |call: &&&String| !["/proc/self", "/sys/fs/cgroup", ".so", "/etc/ld.so", "/dev/null"].iter().any(|known| call.contains(known));
    assert_eq!(opens.iter().filter(unexpected).count(), 0, "{opens:?}");
    // The answer is read in pieces, of 16 KiB at most.
    assert!(calls.len() <= few_calls.len() + 40, "{calls:#?}");
    assert!(many.0 < few.0 * 25 && many.1 < few.1 * 25, "{few:?}, {many:?}");
}
