//! A program that uses memory in exactly described ways, for tests and measurements of the memory guard. `--help` says which.
//!
//! What it says it has, it has: every page is written to. What it says of its pace holds finely: never more than 4 ms of it are owed, so that a
//! leaker which was not scheduled for a while goes on at its pace and does not jump.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const HELP: &str = "\
usage: leaker [WORD=VALUE...] WHAT [WORD=VALUE...]

WHAT, and the words that belong to it (default in brackets):
  leak       rate=MB/s (0.1 and more, or `max`) [max]  threads=K [1]  size=SIZE [for ever]
  plateau    size=SIZE  over=TIME [0s]                    gets there evenly, and stays
  spike      size=SIZE  ramp=TIME [100ms] hold=TIME [3s] period=TIME [60s] times=N [for ever]   given back by munmap
  sawtooth   low=SIZE high=SIZE period=TIME [20s]         grows evenly from low to high, falls back by munmap
  lazyfree   size=SIZE                                    touched, then MADV_FREE
  cache      file=FILE size=SIZE rounds=N [for ever]      writes the file, then reads it again and again
  mapped     file=FILE size=SIZE rounds=N [for ever]      writes the file, then reads it through a shared mapping again and again
  tmpfs      file=FILE size=SIZE rate=MB/s [max]          writes a file, which is to be on a tmpfs
  shared     size=SIZE rate=MB/s [max]                    anonymous shared memory
  prefork    size=SIZE children=N dirty=PERCENT [10]      a heap of that size, shared by children that each write to a part of it
  snapshot   size=SIZE dirty=PERCENT [0] over=TIME [3s] period=TIME [10s] times=N [for ever]
                                                          a child holds the heap for so long while the parent writes to a part of it
  exec       size=SIZE times=N [1000]                     forks and executes itself, doing nothing, from a parent of that size
  busy       threads=K [1]                                uses no memory but the processor

words for all of them:
  base=SIZE      has this much first, as fast as it can [0]
  after=TIME     is quiet for so long before WHAT [0s]
  when=FILE      is quiet until the file exists
  then=WAY       at the end: hold (what it has, for ever) | exit | code:N [hold]
  term=WAY       on SIGTERM: default | ignore | exit | keep:TIME (goes on for so long, then exits 0) [default]
  huge=WAY       huge pages: no | yes | unasked (as the system would have it) [no]
  in=WHO         who does it: self | child (forked) | daemon (a grandchild in a session of its own) [self]; self stays
  limit=SIZE     what percentages are of
  mark=SIZE      says so whenever it has so much more [10% of the limit, or 64MiB]
  only-run=N     does it in the Nth run of this only, and else just waits; counted in a file, count=FILE
  steady=SIZE    what it has when it just waits [base]
  to=FILE        its lines go to the end of this file, not to standard output

SIZE is 64KiB, 200MiB, 1GiB, bytes, or 75% of `limit`. TIME is 500ms, 10s or 5m. MB/s are MiB/s.

Each line it writes ends with `at=SECONDS` of CLOCK_MONOTONIC: one when it begins to be quiet, one when it begins, one at each mark, one at the end.
";

type Failure = Box<dyn std::error::Error>;

/// No more than this of the pace may be owed.
const DEBT: Duration = Duration::from_millis(4);
const PAGE: usize = 4096;
/// Room for those that grow for ever. Nothing is used of it that is not touched.
const ROOM: usize = 64 << 30;
/// How much is touched between two looks at the clock.
const BATCH: usize = 64 * PAGE;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--help" | "-h") | None => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        // What `exec` executes.
        Some("nothing") => return ExitCode::SUCCESS,
        Some(_) => {}
    }
    match Words::parse(&arguments).and_then(|words| begin(&words)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("leaker: {error}");
            ExitCode::from(99)
        }
    }
}

// --- the words

struct Words {
    what: String,
    given: Vec<(String, String)>,
    limit: Option<u64>,
}

impl Words {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        const KNOWN: [&str; 27] = [
            "rate", "threads", "size", "over", "ramp", "hold", "period", "times", "low", "high", "file", "rounds", "children", "dirty",
            "base", "after", "when", "then", "term", "huge", "in", "limit", "mark", "only-run", "count", "steady", "to",
        ];
        let mut words = Self { what: String::new(), given: Vec::new(), limit: None };
        for argument in arguments {
            match argument.split_once('=') {
                None if words.what.is_empty() => words.what.clone_from(argument),
                Some((name, value)) if KNOWN.contains(&name) => words.given.push((name.to_owned(), value.to_owned())),
                _ => return Err(format!("`{argument}` is not in my book: see --help").into()),
            }
        }
        words.limit = words.get("limit").map(|text| parse_size(text, None)).transpose()?;
        Ok(words)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn text(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| format!("`{}` needs {name}=", self.what).into())
    }

    fn size(&self, name: &str) -> Result<usize, Failure> {
        Ok(usize::try_from(parse_size(self.text(name)?, self.limit)?)?)
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, Failure> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    fn time_or(&self, name: &str, default: Duration) -> Result<Duration, Failure> {
        self.get(name).map_or(Ok(default), parse_time)
    }

    fn number_or(&self, name: &str, default: u64) -> Result<u64, Failure> {
        self.get(name).map_or(Ok(default), |text| text.parse().map_err(|error| format!("{name}={text}: {error}").into()))
    }

    fn percent_or(&self, name: &str, default: f64) -> Result<f64, Failure> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.trim_end_matches('%').parse().map_err(|error| format!("{name}={text}: {error}").into())
    }

    fn pace(&self) -> Result<Pace, Failure> {
        match self.get("rate") {
            None | Some("max") => Ok(Pace::Flat),
            Some(text) => Ok(Pace::PerSecond(text.parse::<f64>()? * 1048576.0)),
        }
    }
}

fn parse_size(text: &str, limit: Option<u64>) -> Result<u64, Failure> {
    if let Some(share) = text.strip_suffix('%') {
        let limit = limit.ok_or_else(|| format!("{text} of what? limit= must say"))?;
        return Ok(share_of(usize::try_from(limit)?, share.parse()?) as u64);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err(format!("`{text}` is no size").into()),
    };
    Ok(number.parse::<u64>()?.saturating_mul(1 << shift))
}

fn parse_time(text: &str) -> Result<Duration, Failure> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse()?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("`{text}` is no time").into()),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share, good to a page")]
fn share_of(whole: usize, percent: f64) -> usize {
    (whole as f64 * percent / 100.0) as usize
}

// --- what it says

/// CLOCK_MONOTONIC.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// `to`, opened to append.
static TO: OnceLock<File> = OnceLock::new();

/// One write a line, so that processes and threads sharing a pipe do not mix theirs. That nobody listens is no reason to stop.
fn say(text: &str) {
    let line = format!("leaker {text} at={:.6}\n", now().as_secs_f64());
    if let Some(mut file) = TO.get() {
        let _ = file.write_all(line.as_bytes());
    } else {
        let _ = io::stdout().write_all(line.as_bytes());
        let _ = io::stdout().flush();
    }
}

fn wait(time: Duration) {
    let time = libc::timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
    // SAFETY: a valid pointer; what is left after a signal is not asked for.
    unsafe { libc::nanosleep(&raw const time, null_mut()) };
}

fn for_ever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// How much all threads have, for the marks.
struct Marks {
    have: AtomicU64,
    every: u64,
}

impl Marks {
    fn new(words: &Words) -> Result<Self, Failure> {
        let usual = words.limit.map_or(64 << 20, |limit| limit / 10);
        let every = words.size_or("mark", usize::try_from(usual)?)?.max(PAGE);
        Ok(Self { have: AtomicU64::new(0), every: every as u64 })
    }

    fn add(&self, more: usize) {
        let before = self.have.fetch_add(more as u64, Ordering::Relaxed);
        let after = before.saturating_add(more as u64);
        if before / self.every != after / self.every {
            say(&format!("has bytes={after}"));
        }
    }

    fn less(&self, less: usize) {
        self.have.fetch_sub(less as u64, Ordering::Relaxed);
    }
}

// --- memory

#[derive(Clone, Copy)]
enum Pace {
    Flat,
    /// Bytes.
    PerSecond(f64),
}

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn pace_over(bytes: usize, time: Duration) -> Pace {
    if time.is_zero() { Pace::Flat } else { Pace::PerSecond(bytes as f64 / time.as_secs_f64()) }
}

#[derive(Clone, Copy, PartialEq)]
enum Huge {
    No,
    Yes,
    Unasked,
}

/// Address space of which the first `touched` bytes are memory.
struct Region {
    at: *mut u8,
    room: usize,
    touched: usize,
    flags: libc::c_int,
    huge: Huge,
}

// SAFETY: the addresses are this one's own.
unsafe impl Send for Region {}

impl Region {
    fn new(room: usize, huge: Huge) -> Result<Self, Failure> {
        Self::with(room, huge, libc::MAP_PRIVATE)
    }

    fn with(room: usize, huge: Huge, sharing: libc::c_int) -> Result<Self, Failure> {
        let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let room = room.max(1).next_multiple_of(PAGE);
        // SAFETY: new addresses, nobody else's.
        let at = unsafe { libc::mmap(null_mut(), room, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(format!("mmap of {room} bytes: {}", io::Error::last_os_error()).into());
        }
        let region = Self { at: at.cast(), room, touched: 0, flags, huge };
        region.advise(0, room);
        Ok(region)
    }

    fn advise(&self, from: usize, length: usize) {
        let advice = match self.huge {
            Huge::No => libc::MADV_NOHUGEPAGE,
            Huge::Yes => libc::MADV_HUGEPAGE,
            Huge::Unasked => return,
        };
        // SAFETY: within the region. A kernel without huge pages refuses, and is right.
        unsafe { libc::madvise(self.at.add(from).cast(), length, advice) };
    }

    /// Writes to every page from `from` to `to`.
    fn write(&self, from: usize, to: usize) {
        for offset in (from..to).step_by(PAGE) {
            // SAFETY: within the region, and writable.
            unsafe { self.at.add(offset).write_volatile(1) };
        }
    }

    fn grow(&mut self, to: usize, pace: Pace, marks: &Marks) {
        let to = to.min(self.room).next_multiple_of(PAGE);
        let mut clock = Clock::new(pace);
        while self.touched < to {
            let next = self.touched.saturating_add(clock.due().min(BATCH)).min(to);
            self.write(self.touched, next);
            marks.add(next.saturating_sub(self.touched));
            self.touched = next;
        }
    }

    /// Gives everything beyond `to` back.
    fn shrink(&mut self, to: usize, marks: &Marks) -> Result<(), Failure> {
        let to = to.next_multiple_of(PAGE);
        if to >= self.touched {
            return Ok(());
        }
        let length = self.room.saturating_sub(to);
        // SAFETY: the tail of the region, of which nobody has a reference; the addresses are taken again for the next time.
        let again = unsafe {
            let tail = self.at.add(to).cast();
            libc::munmap(tail, length);
            libc::mmap(tail, length, libc::PROT_READ | libc::PROT_WRITE, self.flags | libc::MAP_FIXED, -1, 0)
        };
        if again == libc::MAP_FAILED {
            return Err(format!("mmap: {}", io::Error::last_os_error()).into());
        }
        marks.less(self.touched.saturating_sub(to));
        self.touched = to;
        self.advise(to, length);
        Ok(())
    }
}

/// Says how much is due, in whole pages.
struct Clock {
    pace: Pace,
    last: Duration,
    /// Bytes.
    owed: f64,
}

impl Clock {
    fn new(pace: Pace) -> Self {
        Self { pace, last: now(), owed: 0.0 }
    }

    /// Waits until it is at least a page.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB, never negative")]
    fn due(&mut self) -> usize {
        let Pace::PerSecond(rate) = self.pace else { return BATCH };
        loop {
            let now = now();
            // A page at least, or the slowest would never have one.
            let most = (rate * DEBT.as_secs_f64()).max(PAGE as f64);
            self.owed = (self.owed + rate * now.saturating_sub(self.last).as_secs_f64()).min(most);
            self.last = now;
            if self.owed >= PAGE as f64 {
                let pages = (self.owed / PAGE as f64) as usize;
                let bytes = pages.min(BATCH / PAGE).saturating_mul(PAGE);
                self.owed -= bytes as f64;
                return bytes;
            }
            let missing = Duration::from_secs_f64((PAGE as f64 - self.owed) / rate);
            wait(missing.max(Duration::from_micros(500)));
        }
    }
}

// --- what it does

fn begin(words: &Words) -> Result<u8, Failure> {
    if let Some(path) = words.get("to") {
        let file = File::options().append(true).create(true).open(path).map_err(|error| format!("{path}: {error}"))?;
        TO.get_or_init(|| file);
    }
    let keep = words.get("term").unwrap_or("default");
    let who = words.get("in").unwrap_or("self");
    match who {
        "self" => {}
        "child" | "daemon" => {
            if fork()? {
                for_ever();
            }
            if who == "daemon" {
                // SAFETY: no arguments.
                if unsafe { libc::setsid() } == -1 {
                    return Err(io::Error::last_os_error().into());
                }
                if fork()? {
                    return Ok(0);
                }
            }
        }
        _ => return Err(format!("in={who}: self, child or daemon").into()),
    }
    mind_term(keep)?;
    let huge = match words.get("huge").unwrap_or("no") {
        "no" => Huge::No,
        "yes" => Huge::Yes,
        "unasked" => Huge::Unasked,
        other => return Err(format!("huge={other}: no, yes or unasked").into()),
    };
    let idle = words.get("only-run").is_some() && count_run(words)? != words.number_or("only-run", 1)?;
    let marks = Marks::new(words)?;
    let base = words.size_or("base", 0)?;
    let first = if idle { words.size_or("steady", base)? } else { base };
    let mut region = Region::new(first.max(1), huge)?;
    region.grow(first, Pace::Flat, &marks);
    say(&format!("quiet pid={} bytes={}", std::process::id(), region.touched));
    if idle {
        for_ever();
    }
    quiet(words)?;
    say(&format!("begins {} pid={}", words.what, std::process::id()));
    let kept = perform(words, huge, &marks)?;
    say(&format!("done bytes={}", marks.have.load(Ordering::Relaxed)));
    let code = match words.get("then").unwrap_or("hold") {
        "hold" => for_ever(),
        "exit" => 0,
        other => other.strip_prefix("code:").ok_or_else(|| format!("then={other}: hold, exit or code:N"))?.parse()?,
    };
    drop((kept, region));
    Ok(code)
}

fn count_run(words: &Words) -> Result<u64, Failure> {
    let file = words.text("count")?;
    let before = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64);
    let run = before.saturating_add(1);
    std::fs::write(file, run.to_string())?;
    Ok(run)
}

fn quiet(words: &Words) -> Result<(), Failure> {
    wait(words.time_or("after", Duration::ZERO)?);
    if let Some(file) = words.get("when") {
        while !std::fs::exists(file)? {
            wait(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Returns what is to be kept.
fn perform(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    match words.what.as_str() {
        "leak" => leak(words, huge, marks),
        "plateau" => {
            let size = words.size("size")?;
            let mut region = Region::new(size, huge)?;
            region.grow(size, pace_over(size, words.time_or("over", Duration::ZERO)?), marks);
            Ok(vec![region])
        }
        "spike" => spike(words, huge, marks),
        "sawtooth" => {
            let (low, high) = (words.size("low")?, words.size("high")?);
            let period = words.time_or("period", Duration::from_secs(20))?;
            let mut region = Region::new(high, huge)?;
            region.grow(low, Pace::Flat, marks);
            loop {
                region.grow(high, pace_over(high.saturating_sub(low), period), marks);
                region.shrink(low, marks)?;
                say("fell back");
            }
        }
        "lazyfree" => {
            let size = words.size("size")?;
            let mut region = Region::new(size, huge)?;
            region.grow(size, Pace::Flat, marks);
            // SAFETY: the whole region; what is in it does not matter.
            if unsafe { libc::madvise(region.at.cast(), region.touched, libc::MADV_FREE) } == -1 {
                return Err(format!("MADV_FREE: {}", io::Error::last_os_error()).into());
            }
            Ok(vec![region])
        }
        "cache" => cache(words),
        "mapped" => mapped(words),
        "tmpfs" => {
            write_file(words.text("file")?, words.size("size")?, words.pace()?, marks)?;
            Ok(Vec::new())
        }
        "shared" => {
            let size = words.size("size")?;
            let mut region = Region::with(size, huge, libc::MAP_SHARED)?;
            region.grow(size, words.pace()?, marks);
            Ok(vec![region])
        }
        "prefork" => prefork(words, huge, marks),
        "snapshot" => snapshot(words, huge, marks),
        "exec" => execute(words, huge, marks),
        "busy" => {
            for _ in 1..words.number_or("threads", 1)? {
                std::thread::spawn(|| {
                    loop {
                        std::hint::spin_loop()
                    }
                });
            }
            loop {
                std::hint::spin_loop();
            }
        }
        "" => Err("there is no WHAT: see --help".into()),
        other => Err(format!("`{other}` is not in my book: see --help").into()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few threads")]
fn leak(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    let threads = usize::try_from(words.number_or("threads", 1)?.max(1))?;
    let size = words.size_or("size", ROOM)?.div_ceil(threads);
    let pace = match words.pace()? {
        Pace::PerSecond(rate) => Pace::PerSecond(rate / threads as f64),
        Pace::Flat => Pace::Flat,
    };
    let mut regions = (0..threads).map(|_| Region::new(size, huge)).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        for region in &mut regions {
            scope.spawn(move || region.grow(size, pace, marks));
        }
    });
    Ok(regions)
}

fn spike(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    let size = words.size("size")?;
    let ramp = words.time_or("ramp", Duration::from_millis(100))?;
    let hold = words.time_or("hold", Duration::from_secs(3))?;
    let period = words.time_or("period", Duration::from_secs(60))?;
    for _ in 0..words.number_or("times", u64::MAX)? {
        let start = now();
        let mut region = Region::new(size, huge)?;
        region.grow(size, pace_over(size, ramp), marks);
        say("at the peak");
        wait(hold);
        region.shrink(0, marks)?;
        say("back from the peak");
        wait(period.saturating_sub(now().saturating_sub(start)));
    }
    Ok(Vec::new())
}

fn write_file(path: &str, size: usize, pace: Pace, marks: &Marks) -> Result<(), Failure> {
    let mut file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
    let block = vec![1_u8; BATCH];
    let mut clock = Clock::new(pace);
    let mut left = size;
    while left > 0 {
        let next = left.min(clock.due());
        file.write_all(block.get(..next).unwrap_or(&block)).map_err(|error| format!("{path}: {error}"))?;
        marks.add(next);
        left = left.saturating_sub(next);
    }
    Ok(())
}

/// A file's pages can only be dropped once they are on disk.
fn write_and_sync(words: &Words) -> Result<(String, usize), Failure> {
    let (path, size) = (words.text("file")?.to_owned(), words.size("size")?);
    let marks = Marks { have: AtomicU64::new(0), every: u64::MAX };
    write_file(&path, size, Pace::Flat, &marks)?;
    File::open(&path)?.sync_all()?;
    say("file written");
    Ok((path, size))
}

fn cache(words: &Words) -> Result<Vec<Region>, Failure> {
    let (path, _) = write_and_sync(words)?;
    let mut block = vec![0_u8; BATCH];
    for round in 0..words.number_or("rounds", u64::MAX)? {
        let mut file = File::open(&path)?;
        while file.read(&mut block)? > 0 {}
        if round < 3 {
            say("file read");
        }
    }
    Ok(Vec::new())
}

fn mapped(words: &Words) -> Result<Vec<Region>, Failure> {
    use std::os::fd::AsRawFd as _;
    let (path, size) = write_and_sync(words)?;
    let file = File::open(&path)?;
    // SAFETY: new addresses; nobody shortens the file.
    let at = unsafe { libc::mmap(null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(format!("mmap of {path}: {}", io::Error::last_os_error()).into());
    }
    for round in 0..words.number_or("rounds", u64::MAX)? {
        for offset in (0..size).step_by(PAGE) {
            // SAFETY: within the mapping.
            unsafe { at.cast::<u8>().add(offset).read_volatile() };
        }
        if round < 3 {
            say("mapping read");
        }
        wait(Duration::from_millis(20));
    }
    Ok(Vec::new())
}

fn prefork(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    let size = words.size("size")?;
    let dirty = share_of(size, words.percent_or("dirty", 10.0)?);
    let mut region = Region::new(size, huge)?;
    region.grow(size, Pace::Flat, marks);
    for _ in 0..words.number_or("children", 10)? {
        if !fork()? {
            region.write(0, dirty);
            for_ever();
        }
    }
    say("forked");
    Ok(vec![region])
}

fn snapshot(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    let size = words.size("size")?;
    let dirty = share_of(size, words.percent_or("dirty", 0.0)?);
    let over = words.time_or("over", Duration::from_secs(3))?;
    let period = words.time_or("period", Duration::from_secs(10))?;
    let mut region = Region::new(size, huge)?;
    region.grow(size, Pace::Flat, marks);
    for _ in 0..words.number_or("times", u64::MAX)? {
        let start = now();
        let child = fork_pid()?;
        if child == 0 {
            wait(over);
            // SAFETY: a number.
            unsafe { libc::_exit(0) };
        }
        say(&format!("snapshot pid={child}"));
        let mut clock = Clock::new(pace_over(dirty.max(1), over / 2));
        let mut written = 0;
        while written < dirty {
            let next = written.saturating_add(clock.due()).min(dirty);
            region.write(written, next);
            written = next;
        }
        wait_for(child);
        say("snapshot over");
        wait(period.saturating_sub(now().saturating_sub(start)));
    }
    Ok(vec![region])
}

fn execute(words: &Words, huge: Huge, marks: &Marks) -> Result<Vec<Region>, Failure> {
    let size = words.size("size")?;
    let mut region = Region::new(size, huge)?;
    region.grow(size, Pace::Flat, marks);
    let (path, nothing) = (CString::new("/proc/self/exe")?, CString::new("nothing")?);
    let argv = [path.as_ptr(), nothing.as_ptr(), std::ptr::null()];
    let times = words.number_or("times", 1000)?;
    for _ in 0..times {
        let child = fork_pid()?;
        if child == 0 {
            // SAFETY: strings with their NULs, and a list with its end; only if it fails does it come back.
            unsafe {
                libc::execv(path.as_ptr(), argv.as_ptr());
                libc::_exit(127);
            }
        }
        if wait_for(child) != 0 {
            return Err("what was executed did not exit with 0".into());
        }
    }
    say(&format!("executed times={times}"));
    Ok(vec![region])
}

// --- processes and signals

fn fork_pid() -> Result<libc::pid_t, Failure> {
    // SAFETY: the children that are forked beside threads make system calls only.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", io::Error::last_os_error()).into()),
        pid => Ok(pid),
    }
}

/// True in the parent.
fn fork() -> Result<bool, Failure> {
    fork_pid().map(|pid| pid != 0)
}

/// The wait status.
fn wait_for(child: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: a valid pointer. Our own child, and not firstmate's: this is not firstmate.
    unsafe { libc::syscall(libc::SYS_wait4, child, &raw mut status, 0, 0) };
    status
}

fn mind_term(way: &str) -> Result<(), Failure> {
    let keep = match way {
        "default" => return Ok(()),
        "ignore" => {
            // SAFETY: no handler of ours runs.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            return Ok(());
        }
        "exit" => Duration::ZERO,
        other => parse_time(other.strip_prefix("keep:").ok_or_else(|| format!("term={other}: default, ignore, exit or keep:TIME"))?)?,
    };
    // Blocked here, and so in every thread; taken by one that does nothing else.
    // SAFETY: a whole signal set, and pointers to it.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, null_mut());
        set
    };
    std::thread::spawn(move || {
        let mut got = 0;
        // SAFETY: valid pointers.
        unsafe { libc::sigwait(&raw const set, &raw mut got) };
        say("asked to end");
        wait(keep);
        say("ends");
        // SAFETY: a number; nothing is left to be run or flushed.
        unsafe { libc::_exit(0) };
    });
    Ok(())
}
