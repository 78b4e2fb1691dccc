//! Log plumbing against the real kernel: pipes, terminals, sockets and files, read and unread.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where its condition fails")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use firstmate::linux::output::{Gap, Origin, Piece, QUEUE, Sink, SinkKind, Streams, TellGap, class_of};
use firstmate::linux::poll::{Poller, Ready};
use firstmate::observe::{Format, Stream};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);
const STDOUT: u64 = 1 << 56;
const PIPES: u8 = 2;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async { timeout(DEADLINE, work).await.unwrap() })
}

fn tell() -> TellGap {
    Box::new(|out: &mut Vec<u8>, gap: Gap| {
        let errno = gap.errno.map_or(0, |errno| errno as i32);
        writeln!(out, "gap {} {errno}", gap.lines).unwrap();
    })
}

fn sink(fd: impl AsFd, poller: &Arc<Poller>, capacity: usize) -> Sink {
    Sink::open(fd.as_fd(), Arc::clone(poller), STDOUT, capacity, tell()).unwrap()
}

fn line(number: usize) -> Vec<u8> {
    format!("line {number:08} {}\n", "x".repeat(80)).into_bytes()
}

fn number_of(text: &str) -> usize {
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Flushes whenever the poller tells of room, until nothing is left.
async fn pump(sink: &mut Sink, poller: &Poller) {
    let mut batch = Vec::new();
    sink.flush();
    while sink.queued() > 0 {
        poller.ready(&mut batch).await.unwrap();
        assert_eq!(batch, [Ready { token: STDOUT, readable: false, writable: true, hangup: false }]);
        sink.flush();
    }
}

/// Reads on another thread to the end, or until a line begins with `last`.
fn read_on_the_side(from: impl Read + Send + 'static, last: &'static str) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            let ends = line.starts_with(last);
            lines.push(line);
            if ends {
                break;
            }
        }
        lines
    })
}

/// Every line that was not dropped arrives whole, in order and once; gaps are told where they are, with the right count.
fn assert_complete(lines: &[String], pushed: usize) {
    let mut next = 0;
    for line in lines {
        if let Some(gap) = line.strip_prefix("gap ") {
            next += gap.split(' ').next().unwrap().parse::<usize>().unwrap();
        } else if line.starts_with("line ") {
            assert_eq!(number_of(line), next);
            assert_eq!(line.len(), "line 00000000 ".len() + 80, "torn: {line}");
            next += 1;
        }
    }
    assert_eq!(next, pushed, "every line arrived or was counted");
}

/// Fills a sink whose other end nobody reads, then reads it, and says something more.
async fn goes_unread_and_recovers(sink: &mut Sink, poller: &Poller, capacity: usize, reader: impl Read + Send + 'static) {
    let pushed = 40_000;
    let mut accepted = 0;
    let began = Instant::now();
    for number in 0..pushed {
        accepted += usize::from(sink.push(&line(number), Origin::Service));
        if number % 64 == 0 {
            sink.flush();
            assert!(sink.queued() <= capacity, "{} bytes wait", sink.queued());
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "the loop was held up for {:?}", began.elapsed());
    assert!(accepted < pushed);
    assert_eq!(sink.dropped(), (pushed - accepted) as u64);
    for _ in 0..30 {
        assert!(sink.push(b"own words\n", Origin::Own), "there is a reserve for firstmate's own lines");
    }
    let reader = read_on_the_side(reader, "last");
    pump(sink, poller).await;
    assert!(sink.push(&line(pushed), Origin::Service), "there is room again");
    assert!(sink.push(b"last\n", Origin::Own));
    pump(sink, poller).await;
    let lines = reader.join().unwrap();
    assert_eq!(lines.iter().filter(|line| *line == "own words").count(), 30);
    assert_eq!(lines.iter().filter(|line| line.starts_with("gap")).count(), 1, "one gap, told of once");
    assert_complete(&lines, pushed + 1);
    assert_eq!(sink.queued(), 0);
}

#[test]
fn an_unread_pipe_stops_nobody_and_tells_what_was_dropped() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = sink(&writer, &poller, 256 * 1024);
        assert_eq!(sink.kind(), SinkKind::Reopened);
        let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK), "whoever shares standard output still has it blocking");
        goes_unread_and_recovers(&mut sink, &poller, 256 * 1024, reader).await;
    });
}

#[test]
fn a_pipe_that_cannot_be_opened_anew_is_written_a_page_at_a_time() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let directory = Scratch::new("fifo");
        let path = directory.0.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let both = File::options().read(true).write(true).open(&path).unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        drop(both);
        // With no reader there, the kernel refuses to open it anew.
        let mut sink = sink(&writer, &poller, 256 * 1024);
        assert_eq!(sink.kind(), SinkKind::Pipe);
        let reader = File::open(&path).unwrap();
        goes_unread_and_recovers(&mut sink, &poller, 256 * 1024, reader).await;
    });
}

#[test]
fn an_unread_socket_stops_nobody() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut sink = sink(&writer, &poller, 256 * 1024);
        assert_eq!(sink.kind(), SinkKind::Socket);
        goes_unread_and_recovers(&mut sink, &poller, 256 * 1024, reader).await;
    });
}

#[test]
fn an_unread_terminal_stops_nobody() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut sink = sink(&terminal.slave, &poller, 64 * 1024);
        assert_eq!(sink.kind(), SinkKind::Reopened);
        // A terminal turns "\n" into "\r\n"; `lines` takes both off.
        goes_unread_and_recovers(&mut sink, &poller, 64 * 1024, File::from(terminal.master)).await;
        drop(terminal.slave);
    });
}

#[test]
fn a_terminal_that_is_gone_is_no_reason_to_die() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut sink = sink(&terminal.slave, &poller, QUEUE);
        drop(terminal.master);
        sink.push(b"into the void\n", Origin::Own);
        sink.flush();
        assert_eq!(sink.broken(), Some(Errno::EIO));
    });
}

#[test]
fn a_closed_reader_ends_writing_and_nothing_else() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = sink(&writer, &poller, QUEUE);
        for number in 0..1000 {
            assert!(sink.push(&line(number), Origin::Service));
        }
        sink.flush();
        assert!(sink.queued() > 0, "the pipe holds less than that");
        drop(reader);
        let mut batch = Vec::new();
        poller.ready(&mut batch).await.unwrap();
        assert!(batch[0].hangup);
        let left = sink.queued() / line(0).len();
        sink.flush();
        assert_eq!(sink.broken(), Some(Errno::EPIPE));
        assert_eq!(sink.queued(), 0);
        assert!((left..=left + 1).contains(&usize::try_from(sink.dropped()).unwrap()), "{} of {left}", sink.dropped());
        let dropped = sink.dropped();
        assert!(!sink.push(b"nobody there\n", Origin::Own));
        sink.flush();
        assert_eq!(sink.dropped(), dropped + 1);
        assert!(!sink.flush_until(Instant::now() + DEADLINE));
        poller.try_ready(&mut batch).unwrap();
        assert_eq!(batch, [], "a dead pipe does not keep the loop awake");
    });
}

#[test]
fn the_last_flush_waits_for_a_slow_reader_but_not_for_ever() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = sink(&writer, &poller, QUEUE);
        for number in 0..5000 {
            assert!(sink.push(&line(number), Origin::Service));
        }
        let began = Instant::now();
        assert_eq!(sink.stalled_for(), None, "nothing was tried");
        assert!(!sink.flush_until(began + Duration::from_millis(50)));
        assert!(sink.stalled_for().is_some());
        assert!((Duration::from_millis(50)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
        let reader = read_on_the_side(reader, "line 00004999");
        assert!(sink.flush_until(Instant::now() + DEADLINE));
        assert_eq!(sink.stalled_for(), None);
        assert_complete(&reader.join().unwrap(), 5000);
    });
}

/// A directory of the test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("firstmate-output-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed has more to say than this.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_regular_file_is_written_by_its_own_thread() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let directory = Scratch::new("file");
        let path = directory.0.join("log");
        let file = File::create(&path).unwrap();
        let mut sink = sink(&file, &poller, 64 * 1024 * 1024);
        assert_eq!(sink.kind(), SinkKind::Thread);
        for number in 0..50_000 {
            assert!(sink.push(&line(number), Origin::Service));
            if number % 100 == 0 {
                sink.flush();
            }
        }
        assert!(sink.flush_until(Instant::now() + DEADLINE));
        assert_eq!((sink.queued(), sink.dropped()), (0, 0));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_complete(&text.lines().map(str::to_owned).collect::<Vec<_>>(), 50_000);
    });
}

#[test]
fn a_full_disk_stops_its_thread_alone() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = sink(&full, &poller, 64 * 1024);
        assert_eq!(sink.kind(), SinkKind::Thread);
        let began = Instant::now();
        for number in 0..10_000 {
            sink.push(&line(number), Origin::Service);
            sink.flush();
        }
        assert!(sink.dropped() > 9000);
        assert!(!sink.flush_until(Instant::now() + Duration::from_millis(20)));
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(sink.broken(), None, "there may be room later");
        assert!(sink.stalled_for().is_some());
        assert!(sink.queued() > 0 && sink.queued() <= 64 * 1024);
    });
}

#[test]
fn nothing_is_written_to_dev_null() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let null = File::options().write(true).open("/dev/null").unwrap();
        let mut sink = sink(&null, &poller, QUEUE);
        assert_eq!(sink.kind(), SinkKind::Discard);
        assert!(sink.push(b"x\n", Origin::Service));
        assert!(sink.flush_until(Instant::now()));
        assert_eq!((sink.queued(), sink.dropped()), (0, 0));
    });
}

#[test]
fn one_line_too_large_for_the_queue_is_one_gap() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = sink(&writer, &poller, 4096);
        assert!(!sink.push(&[b'x'; 5000], Origin::Service));
        assert!(sink.push(b"next\n", Origin::Service));
        assert!(!sink.push(&[b'x'; 5000], Origin::Service));
        pump(&mut sink, &poller).await;
        drop(sink);
        drop(writer);
        assert_eq!(read_on_the_side(reader, "never").join().unwrap(), ["gap 1 0", "next", "gap 1 0"]);
    });
}

/// One turn of the loop: reads what is ready and passes it on as the supervisor does.
fn turn(batch: &[Ready], streams: &mut Streams<(usize, Stream)>, sink: &mut Sink, format: &mut Format, rendered: &mut Vec<u8>) -> usize {
    let now = SystemTime::now();
    let mut ended = 0;
    for ready in batch {
        if class_of(ready.token) == PIPES {
            let mut emit = |(service, stream), piece: Piece<'_>| {
                rendered.clear();
                format.service_line(rendered, now, ["web.1", "redis.1"][service], service, stream, piece.text, piece.continued);
                sink.push(rendered, Origin::Service);
            };
            ended += usize::from(streams.read(ready.token, &mut emit).is_some());
        }
    }
    sink.flush();
    ended
}

fn write_numbers(mut to: PipeWriter, count: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffered = io::BufWriter::new(&mut to);
        for number in 0..count {
            writeln!(buffered, "line {number:08} {}", "x".repeat(80)).unwrap();
        }
        buffered.flush().unwrap();
    })
}

#[test]
fn two_writers_of_100_000_lines_each_keep_their_order() {
    const COUNT: usize = 100_000;
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = sink(&writer, &poller, 64 * 1024 * 1024);
        drop(writer);
        let mut streams = Streams::new(Arc::clone(&poller), PIPES);
        let (mut format, mut rendered, mut batch) = (Format::detect(false, false), Vec::new(), Vec::new());
        let began = Instant::now();
        let mut writers = Vec::new();
        for tag in [(0, Stream::Out), (1, Stream::Err)] {
            let (pipe, writer) = io::pipe().unwrap();
            streams.add(OwnedFd::from(pipe), tag).unwrap();
            writers.push(write_numbers(writer, COUNT));
        }
        let lines = read_on_the_side(reader, "never");
        while !streams.is_empty() {
            poller.ready(&mut batch).await.unwrap();
            turn(&batch, &mut streams, &mut sink, &mut format, &mut rendered);
        }
        pump(&mut sink, &poller).await;
        assert_eq!(sink.dropped(), 0);
        drop(sink);
        let lines = lines.join().unwrap();
        let took = began.elapsed();
        println!("{} lines in {took:?}: {:.0} lines/s", lines.len(), lines.len() as f64 / took.as_secs_f64());
        assert_eq!(lines.len(), 2 * COUNT);
        for mark in [" web.1 out | ", " redis.1 err | "] {
            let texts: Vec<String> = lines.iter().filter_map(|line| line.split_once(mark)).map(|(_, text)| text.to_owned()).collect();
            assert_eq!(texts.len(), COUNT);
            assert_complete(&texts, COUNT);
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_flood_does_not_keep_the_others_waiting() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let mut streams = Streams::new(Arc::clone(&poller), PIPES);
        let (flood, mut flooding) = io::pipe().unwrap();
        let (quiet, mut speaking) = io::pipe().unwrap();
        streams.add(OwnedFd::from(flood), 0).unwrap();
        streams.add(OwnedFd::from(quiet), 1).unwrap();
        let flooder = std::thread::spawn(move || while flooding.write_all(&[b'\n'; 4096]).is_ok() {});
        let (mut batch, mut floods) = (Vec::new(), 0_u64);
        while floods < 100_000 {
            poller.ready(&mut batch).await.unwrap();
            for ready in &batch {
                streams.read(ready.token, &mut |_, _| floods += 1);
            }
        }
        speaking.write_all(b"me too\n").unwrap();
        let mut reads = 0;
        let mut heard = false;
        while !heard {
            poller.ready(&mut batch).await.unwrap();
            for ready in &batch {
                reads += 1;
                streams.read(ready.token, &mut |tag, _| heard |= tag == 1);
            }
        }
        assert!(reads <= 3, "the quiet one was heard after {reads} reads");
        drop(streams);
        flooder.join().unwrap();
    });
}

#[test]
fn streams_of_one_service_are_read_in_the_order_they_were_written() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let mut streams = Streams::new(Arc::clone(&poller), PIPES);
        let (out, mut to_out) = io::pipe().unwrap();
        let (err, mut to_err) = io::pipe().unwrap();
        streams.add(OwnedFd::from(out), "out").unwrap();
        streams.add(OwnedFd::from(err), "err").unwrap();
        let mut batch = Vec::new();
        for round in 0..200 {
            let order = if round % 3 == 0 { ["err", "out"] } else { ["out", "err"] };
            for name in order {
                let writer = if name == "out" { &mut to_out } else { &mut to_err };
                writer.write_all(b"said\n").unwrap();
            }
            let mut heard = Vec::new();
            while heard.len() < 2 {
                poller.ready(&mut batch).await.unwrap();
                for ready in &batch {
                    streams.read(ready.token, &mut |tag, _| heard.push(tag));
                }
            }
            assert_eq!(heard, order);
        }
    });
}

#[test]
fn the_last_words_are_heard_at_end_of_file_and_when_survivors_hold_the_pipe() {
    block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let mut streams = Streams::new(Arc::clone(&poller), PIPES);
        let mut heard: Vec<(u32, String)> = Vec::new();
        let mut batch = Vec::new();
        let (pipe, mut writer) = io::pipe().unwrap();
        let first = streams.add(OwnedFd::from(pipe), 1).unwrap();
        writer.write_all(b"whole\nunfinished").unwrap();
        drop(writer);
        let mut ended = None;
        while ended.is_none() {
            poller.ready(&mut batch).await.unwrap();
            for ready in &batch {
                ended = streams.read(ready.token, &mut |tag, piece| heard.push((tag, String::from_utf8_lossy(piece.text).into())));
            }
        }
        assert_eq!(ended, Some(1));
        assert!(streams.is_empty());

        let (pipe, mut survivor) = io::pipe().unwrap();
        let second = streams.add(OwnedFd::from(pipe), 2).unwrap();
        assert_ne!(first, second, "a token is never used twice, though the place is");
        survivor.write_all(b"still\nhere").unwrap();
        assert_eq!(streams.read(first, &mut |_, _| panic!("a late token reads nothing")), None);
        streams.close(second, 1 << 20, &mut |tag, piece| heard.push((tag, String::from_utf8_lossy(piece.text).into())));
        assert!(streams.is_empty());
        assert_eq!(survivor.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let expected = [(1, "whole"), (1, "unfinished"), (2, "still"), (2, "here")];
        assert_eq!(heard, expected.map(|(tag, text)| (tag, text.to_owned())));
    });
}

/// Private memory of this process in bytes; see proc_pid_smaps(5).
fn private_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let kib = text.lines().filter(|line| line.starts_with("Private_")).map(|line| {
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    });
    kib.sum::<u64>() * 1024
}

#[test]
fn two_hundred_idle_pipes_cost_next_to_nothing_and_wake_nobody() {
    const COUNT: usize = 200;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let poller = Arc::new(Poller::new().unwrap());
        let mut streams = Streams::new(Arc::clone(&poller), PIPES);
        let mut writers = Vec::with_capacity(COUNT + 1);
        let mut batch = Vec::new();
        let mut lines = 0;
        // What the first one costs is paid once: buffer, batch, code pages.
        for wanted in [1, COUNT] {
            let before = private_bytes();
            for number in 0..wanted {
                let (pipe, writer) = io::pipe().unwrap();
                streams.add(OwnedFd::from(pipe), number).unwrap();
                writers.push(writer);
            }
            for writer in &mut writers {
                writer.write_all(&[b'x'; 3000]).unwrap();
                writer.write_all(b"\n").unwrap();
            }
            let expected = lines + writers.len();
            while lines < expected {
                timeout(DEADLINE, poller.ready(&mut batch)).await.unwrap().unwrap();
                for ready in &batch {
                    streams.read(ready.token, &mut |_, _| lines += 1);
                }
            }
            let grown = private_bytes().saturating_sub(before);
            println!("{wanted} more pipes that have spoken and fallen silent: {grown} bytes");
            if wanted == COUNT {
                assert!(grown < 100 * 1024, "{grown} bytes for {COUNT} idle pipes");
            }
        }
        assert!(timeout(Duration::from_secs(1), poller.ready(&mut batch)).await.is_err());
        let before = poller.waits();
        assert!(timeout(Duration::from_secs(86_400), poller.ready(&mut batch)).await.is_err());
        assert_eq!(poller.waits(), before, "it woke up although nothing had happened");
        assert_eq!(lines, 1 + COUNT + 1);
    });
}
