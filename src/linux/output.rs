//! Log plumbing: from the services' pipes, cut into lines, to firstmate's own standard output.
//!
//! Neither end may ever hold up the loop or a service. A pipe is read a bounded piece at a time through one buffer that all share;
//! a stream keeps memory only while it has an unfinished line. Standard output gets whole lines from a queue bounded in bytes;
//! when nobody reads it, lines are dropped and counted, and the gap is told of once there is room again.
//!
//! Bytes pass through as they are: NUL, escape sequences and invalid UTF-8 included. Only the line feed is taken off, with one
//! carriage return right before it. What a line looks like is the business of whoever calls.
//!
//! A terminal's master ([`super::pty`]) is read like a pipe. There a carriage return means what it means on a screen: what a line said before it
//! is written over, so that of a progress bar the last state comes through, as one line.

use std::collections::VecDeque;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, send, sockopt};
use nix::sys::stat::{SFlag, fstat, major, minor};

use super::poll::{Interest, Poller};
use super::thread;

/// Bytes of a line that are kept together, line ending not counted; a longer one is cut into pieces of at most this size. It is where
/// Docker and the CRI runtimes cut as well.
pub const MAX_LINE: usize = 16 * 1024;

/// Size of the buffer that all pipes are read through, and so the most that is read from one pipe in one turn: what a pipe
/// holds unless it was enlarged; see pipe(7).
pub const READ_BUFFER: usize = 64 * 1024;

/// Default for the most that waits for a standard output nobody reads, in bytes.
pub const QUEUE: usize = 1024 * 1024;

/// The most written by one call, and the size of the pieces the queue is kept in.
const CHUNK: usize = 64 * 1024;
/// A write of this size to a pipe that poll(2) calls writable cannot block, since there is at least one free page; see pipe(7).
const PAGE: usize = 4096;
/// A piece of the queue no larger than this is kept for the next lines when it is empty.
const KEPT: usize = 4096;
/// Writes in one turn of the loop, so that a fast reader cannot keep it here.
const WRITES_A_TURN: usize = 16;
/// Stack of the writer thread: it calls write(2) and renders one line.
const WRITER_STACK: usize = 128 * 1024;
/// How long the writer thread waits before it tries a full disk again.
const FULL_DISK_RETRY: Duration = Duration::from_secs(1);

/// A line, or a piece of one that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Without its line ending.
    pub text: &'a [u8],
    /// It goes on where the stream's previous piece was cut.
    pub continued: bool,
}

/// Cuts one stream into lines. Holds memory only while a line is unfinished.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    continued: bool,
    /// A terminal's: the last byte was a carriage return.
    returned: bool,
}

impl Lines {
    /// Takes bytes in whatever portions they come and passes on every line they complete.
    ///
    /// A line longer than [`MAX_LINE`] is passed on in pieces, cut between UTF-8 characters where it is text; every piece but its first
    /// is `continued`.
    pub fn feed(&mut self, mut data: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        while !data.is_empty() {
            let (head, rest, ended) = match data.iter().position(|&byte| byte == b'\n') {
                Some(at) => (data.get(..at).unwrap_or_default(), data.get(at.saturating_add(1)..).unwrap_or_default(), true),
                None => (data, &[][..], false),
            };
            data = rest;
            let left = self.cut(head, emit);
            if ended {
                // The usual line lies whole in the read buffer and is passed on without being copied.
                if self.partial.is_empty() {
                    self.pass(left, true, emit);
                } else {
                    let mut line = std::mem::take(&mut self.partial);
                    line.extend_from_slice(left);
                    self.pass(&line, true, emit);
                }
                self.continued = false;
            } else {
                self.partial.extend_from_slice(left);
            }
        }
    }

    /// As [`Self::feed`], for what a terminal would show: text after a carriage return takes the place of what was there before it. The
    /// terminal itself ends every line with a carriage return and a line feed, and a program may put one more there.
    pub fn feed_screen(&mut self, mut data: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        while let Some(first) = data.first() {
            if self.returned {
                match first {
                    b'\r' => {
                        data = data.get(1..).unwrap_or_default();
                        continue;
                    }
                    b'\n' => {}
                    _ => {
                        self.partial.clear();
                        self.continued = false;
                    }
                }
                self.returned = false;
            }
            let Some(at) = data.iter().position(|&byte| byte == b'\r') else { return self.feed(data, emit) };
            self.feed(data.get(..at).unwrap_or_default(), emit);
            self.returned = true;
            data = data.get(at.saturating_add(1)..).unwrap_or_default();
        }
    }

    /// Passes on the last line when it has no line ending: at end of file.
    pub fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.pass(&line, false, emit);
        }
        self.continued = false;
    }

    /// Passes on full pieces as long as `partial` and `head` together exceed one; gives back what is left of `head`.
    fn cut<'a>(&mut self, mut head: &'a [u8], emit: &mut impl FnMut(Piece<'_>)) -> &'a [u8] {
        while self.partial.len().saturating_add(head.len()) > MAX_LINE {
            if self.partial.is_empty() {
                let full = head.get(..MAX_LINE).unwrap_or(head);
                let (piece, _) = full.split_at(whole_characters(full));
                head = head.get(piece.len()..).unwrap_or_default();
                self.pass(piece, false, emit);
            } else {
                let mut line = std::mem::take(&mut self.partial);
                let (taken, rest) = head.split_at(MAX_LINE.saturating_sub(line.len()).min(head.len()));
                line.extend_from_slice(taken);
                head = rest;
                let (piece, carried) = line.split_at(whole_characters(&line));
                self.pass(piece, false, emit);
                self.partial = carried.to_vec();
            }
            self.continued = true;
        }
        head
    }

    fn pass(&self, text: &[u8], ended: bool, emit: &mut impl FnMut(Piece<'_>)) {
        let text = if ended { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
        // A line cut exactly before its `\r\n` has nothing left to tell.
        if !(self.continued && text.is_empty()) {
            emit(Piece { text, continued: self.continued });
        }
    }
}

/// How much of `bytes` can be passed on without cutting a UTF-8 character in two: all of it, or up to three bytes less.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=3_usize.min(bytes.len().saturating_sub(1)) {
        let at = bytes.len().saturating_sub(back);
        let length = match bytes.get(at) {
            Some(0x80..=0xbf) => continue,
            Some(0xc2..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf4) => 4,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

/// What a turn of reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// There may be more now or later.
    Open,
    /// Every writer is gone and everything was read; the last line was passed on.
    Ended,
}

/// The read end of one log pipe, or the master of a terminal.
#[derive(Debug)]
pub struct StreamReader {
    fd: OwnedFd,
    lines: Lines,
    is_terminal: bool,
}

impl AsFd for StreamReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl StreamReader {
    /// Takes the read end of a pipe that firstmate made, and makes it non-blocking.
    ///
    /// The write end is another open file, so the service's own writes stay blocking as it expects.
    ///
    /// # Errors
    /// None that fcntl(2) documents for an open pipe.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { fd, lines: Lines::default(), is_terminal: false })
    }

    /// As [`Self::new`], for the master of a terminal.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn terminal(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(Self { is_terminal: true, ..Self::new(fd)? })
    }

    fn take(&mut self, data: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        if self.is_terminal { self.lines.feed_screen(data, emit) } else { self.lines.feed(data, emit) }
    }

    /// Reads once, at most the capacity of `buffer`, and passes on the lines that completes. Call it again when the poller says so.
    pub fn read(&mut self, buffer: &mut Vec<u8>, emit: &mut impl FnMut(Piece<'_>)) -> Reading {
        match read_into(&self.fd, buffer) {
            Ok(0) => {
                self.lines.finish(emit);
                Reading::Ended
            }
            Ok(_) => {
                self.take(buffer, emit);
                Reading::Open
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Reading::Open,
            // EIO is how a terminal ends. A pipe gives no other error; whatever this is, it would come again for ever.
            Err(_) => {
                self.lines.finish(emit);
                Reading::Ended
            }
        }
    }

    /// Takes what is in the pipe now, at most `limit` bytes, and passes on the last line even if unfinished: before the pipe is
    /// closed although somebody may still hold its other end.
    pub fn drain(mut self, buffer: &mut Vec<u8>, limit: usize, emit: &mut impl FnMut(Piece<'_>)) {
        let mut taken = 0_usize;
        while taken < limit {
            match read_into(&self.fd, buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.take(buffer, emit);
                    taken = taken.saturating_add(count);
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.lines.finish(emit);
    }
}

/// Replaces `buffer` by what one read gives, at most its capacity.
///
/// A slice would have to be zeroed once, which makes all of its pages ours for good; like this a page is touched when a read fills it.
fn read_into(fd: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    buffer.clear();
    let room = buffer.spare_capacity_mut();
    // SAFETY: the pointer and length are those of memory that `buffer` owns and nobody else looks at.
    let count = unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
    let Ok(count) = usize::try_from(Errno::result(count)?) else { return Ok(0) };
    // SAFETY: read(2) has written the first `count` bytes of the spare capacity, which begins at 0 since the buffer is empty.
    unsafe { buffer.set_len(count) };
    Ok(count)
}

/// The log pipes of all services, each with a tag of the caller's (which run, which stream).
///
/// A stream costs a descriptor, its registration and some fifty bytes; it has more only while one of its lines is unfinished.
#[derive(Debug)]
pub struct Streams<T> {
    poller: Arc<Poller>,
    class: u8,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<usize>,
    generation: u32,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Slot<T> {
    reader: StreamReader,
    tag: T,
    token: u64,
}

const CLASS_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 24;
const INDEX_MASK: u64 = (1 << GENERATION_SHIFT) - 1;

impl<T: Copy> Streams<T> {
    /// No streams yet. Their tokens have `class` in the highest byte; see [`class_of`].
    #[must_use]
    pub fn new(poller: Arc<Poller>, class: u8) -> Self {
        Self { poller, class, slots: Vec::new(), free: Vec::new(), generation: 0, buffer: Vec::new() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the pipe `fd` from now on. The token it gives back belongs to this stream alone, also after its end.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC when the pipe cannot be registered (epoll_ctl(2)); it is closed then.
    pub fn add(&mut self, fd: OwnedFd, tag: T) -> Result<u64, Errno> {
        self.register(StreamReader::new(fd)?, tag)
    }

    /// The same for the master of a terminal.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_terminal(&mut self, fd: OwnedFd, tag: T) -> Result<u64, Errno> {
        self.register(StreamReader::terminal(fd)?, tag)
    }

    /// What the last [`Self::read`] read, as it came; empty when there was nothing.
    #[must_use]
    pub fn last_read(&self) -> &[u8] {
        &self.buffer
    }

    fn register(&mut self, reader: StreamReader, tag: T) -> Result<u64, Errno> {
        let index = self.free.last().copied().unwrap_or(self.slots.len());
        let number = u64::try_from(index).ok().filter(|&number| number <= INDEX_MASK).ok_or(Errno::ENFILE)?;
        self.generation = self.generation.wrapping_add(1);
        let token = u64::from(self.class) << CLASS_SHIFT | u64::from(self.generation) << GENERATION_SHIFT | number;
        self.poller.add(&reader, token, Interest::ReadOnce)?;
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(READ_BUFFER);
        }
        let slot = Some(Slot { reader, tag, token });
        match self.slots.get_mut(index) {
            Some(place) => {
                *place = slot;
                self.free.pop();
            }
            None => self.slots.push(slot),
        }
        Ok(token)
    }

    fn index_of(&self, token: u64) -> Option<usize> {
        let index = usize::try_from(token & INDEX_MASK).ok()?;
        self.slots.get(index)?.as_ref().is_some_and(|slot| slot.token == token).then_some(index)
    }

    fn take(&mut self, index: usize) -> Option<Slot<T>> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        // It was added, and its descriptor is still open: there is no error to come.
        let _removed = self.poller.remove(&slot.reader);
        Some(slot)
    }

    /// Reads once what the poller announced under `token`. `Some(tag)` when that was the stream's end; it is closed then. A
    /// token of a stream that is no more does nothing.
    pub fn read(&mut self, token: u64, emit: &mut impl FnMut(T, Piece<'_>)) -> Option<T> {
        // So that `last_read` cannot be another stream's.
        self.buffer.clear();
        let index = self.index_of(token)?;
        let slot = self.slots.get_mut(index)?.as_mut()?;
        let tag = slot.tag;
        match slot.reader.read(&mut self.buffer, &mut |piece| emit(tag, piece)) {
            Reading::Open => {
                // Always, also when the read seems to have emptied the pipe: that it did is only likely. The descriptor is open and was
                // added, so there is no error to come.
                let _rearmed = self.poller.modify(&slot.reader, token, Interest::ReadOnce);
                None
            }
            Reading::Ended => self.take(index).map(|slot| slot.tag),
        }
    }

    /// Closes a stream after taking what is in its pipe now, at most `limit` bytes, and its unfinished line.
    pub fn close(&mut self, token: u64, limit: usize, emit: &mut impl FnMut(T, Piece<'_>)) {
        let Some(index) = self.index_of(token) else { return };
        if let Some(Slot { reader, tag, .. }) = self.take(index) {
            reader.drain(&mut self.buffer, limit, &mut |piece| emit(tag, piece));
        }
    }
}

/// The highest byte of a token: what kind of descriptor it stands for.
#[must_use]
pub fn class_of(token: u64) -> u8 {
    u8::try_from(token >> CLASS_SHIFT).unwrap_or_default()
}

/// Lines that did not get through, as the line that tells of them needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many lines were dropped.
    pub lines: u64,
    /// The longest time in which standard output took nothing.
    pub unread_for: Duration,
    /// What it failed with, where it was not merely slow: ENOSPC of a full disk.
    pub errno: Option<Errno>,
}

/// Renders the line that tells of a gap, line feed included. Runs on the writer thread where there is one.
pub type TellGap = Box<dyn FnMut(&mut Vec<u8>, Gap) + Send>;

/// Whose line it is, where there is room for one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A service's: the last sixteenth of the queue is not for it.
    Service,
    /// firstmate's own: why a container ended must not drown in what the services had to say.
    Own,
}

/// Whole lines waiting to be written.
struct Queue {
    /// Each at most `CHUNK`, unless one line is longer.
    chunks: VecDeque<Vec<u8>>,
    /// Written bytes of the first.
    written: usize,
    /// Not yet written, those the writer thread is at included.
    bytes: usize,
    capacity: usize,
    /// Lines dropped of which nothing was said yet. While there is one, services' lines are dropped until half the queue is free:
    /// one gap, not every other line.
    gap: Option<Gap>,
    /// Since when standard output has taken nothing although there is something.
    stalled_since: Option<Instant>,
    dropped: u64,
    tell: TellGap,
}

impl Queue {
    fn new(capacity: usize, tell: TellGap) -> Self {
        Self { chunks: VecDeque::new(), written: 0, bytes: 0, capacity, gap: None, stalled_since: None, dropped: 0, tell }
    }

    fn push(&mut self, line: &[u8], origin: Origin) -> bool {
        self.settle();
        let limit = match origin {
            Origin::Own => self.capacity,
            Origin::Service if self.gap.is_some() => 0,
            Origin::Service => self.capacity.saturating_sub(self.capacity / 16),
        };
        if self.bytes.saturating_add(line.len()) > limit {
            self.dropped = self.dropped.saturating_add(1);
            let gap = self.gap.get_or_insert(Gap { lines: 0, unread_for: Duration::ZERO, errno: None });
            gap.lines = gap.lines.saturating_add(1);
            return false;
        }
        self.append(line);
        true
    }

    fn append(&mut self, line: &[u8]) {
        self.bytes = self.bytes.saturating_add(line.len());
        if let Some(last) = self.chunks.back_mut() {
            let needed = last.len().saturating_add(line.len());
            if needed <= CHUNK {
                if needed > last.capacity() {
                    // Doubled by hand, so that no chunk is ever larger than a write.
                    let target = last.capacity().saturating_mul(2).clamp(needed, CHUNK);
                    last.reserve_exact(target.saturating_sub(last.len()));
                }
                last.extend_from_slice(line);
                return;
            }
        }
        self.chunks.push_back(line.to_vec());
    }

    /// What is to be written next.
    fn next(&self) -> &[u8] {
        self.chunks.front().and_then(|chunk| chunk.get(self.written..)).unwrap_or_default()
    }

    /// `count` bytes of `next` were written.
    fn advance(&mut self, count: usize) {
        self.written = self.written.saturating_add(count);
        self.bytes = self.bytes.saturating_sub(count);
        if self.chunks.front().is_some_and(|chunk| self.written >= chunk.len()) {
            self.written = 0;
            let only = self.chunks.len() == 1;
            match self.chunks.front_mut() {
                Some(chunk) if only && chunk.capacity() <= KEPT => chunk.clear(),
                Some(_) | None => drop(self.chunks.pop_front()),
            }
            if self.chunks.is_empty() {
                self.chunks.shrink_to_fit();
            }
        }
        self.moved();
        self.settle();
    }

    /// Nothing can be written now.
    fn stall(&mut self) {
        self.stalled_since.get_or_insert_with(Instant::now);
    }

    fn moved(&mut self) {
        if let Some(since) = self.stalled_since.take()
            && let Some(gap) = &mut self.gap
        {
            gap.unread_for = gap.unread_for.max(since.elapsed());
        }
    }

    /// Tells of the gap once half the queue is free.
    fn settle(&mut self) {
        if self.bytes <= self.capacity / 2
            && let Some(gap) = self.gap.take()
        {
            let mut line = Vec::new();
            (self.tell)(&mut line, gap);
            self.append(&line);
        }
    }

    /// Gives up everything that waits: nobody will ever read it.
    fn abandon(&mut self) {
        let lines = self.chunks.iter().enumerate().map(|(index, chunk)| {
            let rest = if index == 0 { chunk.get(self.written..).unwrap_or_default() } else { chunk };
            rest.iter().filter(|&&byte| byte == b'\n').count()
        });
        let lost: usize = lines.sum();
        self.dropped = self.dropped.saturating_add(u64::try_from(lost).unwrap_or(u64::MAX));
        self.chunks = VecDeque::new();
        self.written = 0;
        self.bytes = 0;
        self.gap = None;
        self.stalled_since = None;
    }
}

/// What standard output turned out to be, and so how it is written without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    /// `/dev/null`, or closed: nothing is written.
    Discard,
    /// A pipe or terminal opened anew, so that O_NONBLOCK does not show at whoever shares the first one.
    Reopened,
    /// A pipe that could not be opened anew: poll(2), then no more than fits.
    Pipe,
    /// send(2) with MSG_DONTWAIT.
    Socket,
    /// A file, or anything else of which epoll cannot say when it takes more. Its own thread waits for it, so that a slow or full
    /// disk stops that thread alone. It never waits for children.
    Thread,
}

enum Way {
    Discard,
    Reopened(OwnedFd),
    Pipe(OwnedFd),
    Socket { fd: OwnedFd, stream: bool },
    Thread(Arc<Shared>),
}

/// firstmate's standard output. No call blocks, [`Sink::flush_until`] excepted, which is bounded.
pub struct Sink {
    way: Way,
    /// Unused in the way of the thread, which has its own.
    queue: Queue,
    poller: Arc<Poller>,
    token: u64,
    /// The poller will tell of room.
    waiting: bool,
    broken: Option<Errno>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("kind", &self.kind()).field("queued", &self.queued()).finish_non_exhaustive()
    }
}

impl Sink {
    /// Finds out what `fd` is and how to write to it. `token` is what the poller says when [`Sink::flush`] is to be called;
    /// `capacity` is in bytes; `tell` renders the line about a gap.
    ///
    /// # Errors
    /// EMFILE or ENFILE when it cannot be duplicated; EAGAIN or ENOMEM when the thread for a file cannot be started. A closed
    /// descriptor is none.
    pub fn open(fd: BorrowedFd<'_>, poller: Arc<Poller>, token: u64, capacity: usize, tell: TellGap) -> io::Result<Self> {
        let queue = Queue::new(capacity, tell);
        let (way, queue) = match classify(fd) {
            Target::Discard => (Way::Discard, queue),
            Target::Socket { stream } => (Way::Socket { fd: duplicate(fd)?, stream }, queue),
            Target::Pipe => match reopen(fd) {
                Ok(own) => (Way::Reopened(own), queue),
                // A pipe made by another uid, or no /proc. ENXIO, a FIFO nobody reads, shows at the first write.
                Err(_) => (Way::Pipe(duplicate(fd)?), queue),
            },
            Target::Terminal => match reopen(fd) {
                Ok(own) => (Way::Reopened(own), queue),
                // No size is safe here: a terminal that poll(2) calls writable may take a single byte.
                Err(_) => Self::threaded(fd, queue, capacity)?,
            },
            Target::Other => Self::threaded(fd, queue, capacity)?,
        };
        Ok(Self { way, queue, poller, token, waiting: false, broken: None })
    }

    fn threaded(fd: BorrowedFd<'_>, queue: Queue, capacity: usize) -> io::Result<(Way, Queue)> {
        let shared = Shared::start(duplicate(fd)?, queue)?;
        Ok((Way::Thread(shared), Queue::new(capacity, Box::new(|_, _| ()))))
    }

    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> SinkKind {
        match &self.way {
            Way::Discard => SinkKind::Discard,
            Way::Reopened(_) => SinkKind::Reopened,
            Way::Pipe(_) => SinkKind::Pipe,
            Way::Socket { .. } => SinkKind::Socket,
            Way::Thread(_) => SinkKind::Thread,
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        match &self.way {
            Way::Thread(shared) => shared.lock().queue.bytes,
            Way::Discard | Way::Reopened(_) | Way::Pipe(_) | Way::Socket { .. } => self.queue.bytes,
        }
    }

    /// Lines that never got through, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        match &self.way {
            Way::Thread(shared) => shared.lock().queue.dropped,
            Way::Discard | Way::Reopened(_) | Way::Pipe(_) | Way::Socket { .. } => self.queue.dropped,
        }
    }

    /// Why nothing is written any more: EPIPE when its reader is gone, EIO when its terminal is.
    #[must_use]
    pub fn broken(&self) -> Option<Errno> {
        match &self.way {
            Way::Thread(shared) => shared.lock().broken,
            Way::Discard | Way::Reopened(_) | Way::Pipe(_) | Way::Socket { .. } => self.broken,
        }
    }

    /// For how long standard output has taken nothing although lines wait for it; `None` while it takes what there is.
    #[must_use]
    pub fn stalled_for(&self) -> Option<Duration> {
        match &self.way {
            Way::Thread(shared) => shared.lock().queue.stalled_since,
            Way::Discard | Way::Reopened(_) | Way::Pipe(_) | Way::Socket { .. } => self.queue.stalled_since,
        }
        .map(|since| since.elapsed())
    }

    /// Queues one line, line feed included, or drops and counts it: then false. Nothing is written before [`Sink::flush`], so
    /// that many lines make one write.
    pub fn push(&mut self, line: &[u8], origin: Origin) -> bool {
        match &self.way {
            Way::Discard => true,
            Way::Thread(shared) => {
                let mut state = shared.lock();
                if state.broken.is_some() {
                    state.queue.dropped = state.queue.dropped.saturating_add(1);
                    return false;
                }
                state.queue.push(line, origin)
            }
            Way::Reopened(_) | Way::Pipe(_) | Way::Socket { .. } => {
                if self.broken.is_some() {
                    self.queue.dropped = self.queue.dropped.saturating_add(1);
                    return false;
                }
                self.queue.push(line, origin)
            }
        }
    }

    /// Writes what can be written without waiting; the poller tells of room for the rest. Call it once a turn, and when the
    /// poller says the token.
    pub fn flush(&mut self) {
        if let Way::Thread(shared) = &self.way {
            shared.lock().queue.settle();
            shared.changed.notify_one();
            return;
        }
        self.queue.settle();
        for _ in 0..WRITES_A_TURN {
            if self.queue.bytes == 0 || !self.write_once() {
                break;
            }
        }
        self.watch();
    }

    /// One write; false when there is no room or nobody to write for.
    fn write_once(&mut self) -> bool {
        let next = self.queue.next();
        let result = match &self.way {
            Way::Discard | Way::Thread(_) => return false,
            Way::Reopened(fd) => nix::unistd::write(fd, next),
            Way::Pipe(fd) => match has_room(fd, PollTimeout::ZERO) {
                Ok(true) => nix::unistd::write(fd, next.get(..PAGE).unwrap_or(next)),
                Ok(false) => Err(Errno::EAGAIN),
                Err(errno) => Err(errno),
            },
            Way::Socket { fd, stream } => {
                let message = if *stream { next } else { next.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default() };
                send(fd.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            }
        };
        match result {
            Ok(count) => {
                self.queue.advance(count);
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => {
                self.queue.stall();
                false
            }
            Err(errno) => {
                self.broken = Some(errno);
                self.queue.abandon();
                false
            }
        }
    }

    /// Has the poller tell of room exactly while something waits for it: a pipe whose reader is gone is always "ready".
    fn watch(&mut self) {
        let wanted = self.queue.bytes > 0;
        let fd = match &self.way {
            Way::Discard | Way::Thread(_) => return,
            Way::Reopened(fd) | Way::Pipe(fd) | Way::Socket { fd, .. } => fd,
        };
        if wanted == self.waiting {
            return;
        }
        let result = if wanted { self.poller.add(fd, self.token, Interest::Write) } else { self.poller.remove(fd) };
        match result {
            Ok(()) => self.waiting = wanted,
            // No memory for the registration. The next line's flush tries again.
            Err(_) => self.waiting = false,
        }
    }

    /// Writes everything that waits, or as much as is taken until `deadline`: for the very end. True when nothing is left.
    pub fn flush_until(&mut self, deadline: Instant) -> bool {
        if let Way::Thread(shared) = &self.way {
            return shared.wait_until_empty(deadline);
        }
        while self.queue.bytes > 0 {
            if self.write_once() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let (Way::Reopened(fd) | Way::Pipe(fd) | Way::Socket { fd, .. }) = &self.way else { break };
            if left.is_zero() || self.broken.is_some() {
                break;
            }
            // Rounded up, so that the last fraction of a millisecond is not spent spinning.
            let timeout = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
            // Whatever it answers, the next write finds out.
            let _answer = has_room(fd, PollTimeout::from(timeout));
        }
        self.watch();
        self.broken.is_none() && self.queue.bytes == 0
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.waiting
            && let Way::Reopened(fd) | Way::Pipe(fd) | Way::Socket { fd, .. } = &self.way
        {
            // Not there is as good as removed.
            let _gone = self.poller.remove(fd);
        }
        if let Way::Thread(shared) = &self.way {
            shared.lock().closed = true;
            shared.changed.notify_all();
        }
    }
}

/// True when a write to `fd` would not block, or would fail at once.
fn has_room(fd: &OwnedFd, timeout: PollTimeout) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

enum Target {
    Discard,
    Pipe,
    Terminal,
    Socket { stream: bool },
    Other,
}

fn classify(fd: BorrowedFd<'_>) -> Target {
    let Ok(stat) = fstat(fd) else { return Target::Discard };
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let device = (major(stat.st_rdev), minor(stat.st_rdev));
    match kind {
        SFlag::S_IFIFO => Target::Pipe,
        SFlag::S_IFSOCK => {
            let stream = getsockopt(&fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
            Target::Socket { stream }
        }
        SFlag::S_IFCHR if device == (1, 3) => Target::Discard,
        // Opening /dev/ptmx anew would make a new terminal.
        SFlag::S_IFCHR if device != (5, 2) && nix::unistd::isatty(fd).unwrap_or(false) => Target::Terminal,
        _ => Target::Other,
    }
}

/// An open file of our own for what `fd` refers to; see proc_pid_fd(5).
fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // std adds O_CLOEXEC.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)?.into())
}

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

/// What the loop and the writer thread share. The loop holds the lock to append to the queue, the thread to take a chunk off it; never
/// during a write.
struct Shared {
    state: Mutex<State>,
    /// To the thread: there are lines, or it is over. To `wait_until_empty`: a chunk is written.
    changed: Condvar,
    drained: Condvar,
}

struct State {
    queue: Queue,
    closed: bool,
    broken: Option<Errno>,
}

impl Shared {
    fn start(fd: OwnedFd, queue: Queue) -> io::Result<Arc<Self>> {
        let state = Mutex::new(State { queue, closed: false, broken: None });
        let shared = Arc::new(Self { state, changed: Condvar::new(), drained: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::start("log-writer", WRITER_STACK, move || theirs.write_all_of_it(&fd))?;
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life: ends when the sink is dropped and everything is written, or when nothing can be written any more.
    fn write_all_of_it(&self, fd: &OwnedFd) {
        let mut state = self.lock();
        loop {
            while state.queue.next().is_empty() {
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            // Taken out for the write and put back, so that the loop can append meanwhile; its bytes count as waiting until written.
            let written = state.queue.written;
            let chunk = state.queue.chunks.pop_front().unwrap_or_default();
            state.queue.chunks.push_front(Vec::new());
            state.queue.stall();
            drop(state);
            let result = nix::unistd::write(fd, chunk.get(written..).unwrap_or_default());
            state = self.lock();
            // Lines that came meanwhile may have gone into the placeholder; they stay behind the chunk.
            if let Some(placeholder) = state.queue.chunks.pop_front()
                && !placeholder.is_empty()
            {
                state.queue.chunks.push_front(placeholder);
            }
            state.queue.chunks.push_front(chunk);
            match result {
                Ok(count) => {
                    state.queue.advance(count);
                    self.drained.notify_all();
                }
                Err(Errno::EINTR) => {}
                // Not lost yet: somebody may make room. The queue fills meanwhile and drops as it would for a slow reader.
                Err(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EAGAIN)) => {
                    if let Some(gap) = &mut state.queue.gap {
                        gap.errno = Some(errno);
                    }
                    if state.closed {
                        return;
                    }
                    // Not at every new line, but at once when this is the end.
                    let waited = self.changed.wait_timeout_while(state, FULL_DISK_RETRY, |state| !state.closed);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(errno) => {
                    state.broken = Some(errno);
                    state.queue.abandon();
                    self.drained.notify_all();
                    return;
                }
            }
        }
    }

    fn wait_until_empty(&self, deadline: Instant) -> bool {
        self.changed.notify_all();
        let mut state = self.lock();
        loop {
            if state.broken.is_some() {
                return false;
            }
            if state.queue.bytes == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let (again, _) = self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = again;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(portions: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut pieces = Vec::new();
        let mut emit = |piece: Piece<'_>| pieces.push((piece.text.to_vec(), piece.continued));
        for portion in portions {
            lines.feed(portion, &mut emit);
        }
        lines.finish(&mut emit);
        assert_eq!(lines.partial.capacity(), 0, "nothing is kept after the end");
        pieces
    }

    fn whole(texts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        texts.iter().map(|text| (text.to_vec(), false)).collect()
    }

    #[test]
    fn lines_are_cut_whatever_the_portions() {
        for (portions, lines) in [
            (&[&b"a\nb\n"[..]][..], &[&b"a"[..], b"b"][..]),
            (&[b"a", b"b\nc", b"\n"], &[b"ab", b"c"]),
            (&[b"no end"], &[b"no end"]),
            (&[b"\n\n"], &[b"", b""]),
            (&[b""], &[]),
            (&[b"dos\r\nunix\n", b"two\r", b"\n"], &[b"dos", b"unix", b"two"]),
            (&[b"10%\r20%\r\r\n"], &[b"10%\r20%\r"]),
            (&[b"bare\r"], &[b"bare\r"]),
            (&[b"nul\0 \xff\xfe \x1b[31mred\n"], &[b"nul\0 \xff\xfe \x1b[31mred"]),
        ] {
            assert_eq!(cut(portions), whole(lines), "{portions:?}");
        }
    }

    /// Fed whole, byte by byte, and in every pair of portions.
    #[test]
    fn a_terminals_lines_are_what_its_screen_shows() {
        for (bytes, shown) in [
            (&b"a\r\nb\r\n"[..], &[&b"a"[..], b"b"][..]),
            (b"10%\r50%\r100%\r\n", &[b"100%"]),
            (b"10%\r50%\r", &[b"50%"]),
            (b"dos\r\r\nunix\n", &[b"dos", b"unix"]),
            (b"\r\r\n\r\n", &[b"", b""]),
            (b"spin |\rspin /\rdone\r\nprompt> ", &[b"done", b"prompt> "]),
            (b"old\r\x1b[Knew\n", &[b"\x1b[Knew"]),
        ] {
            let portions = (0..=bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]).chain([bytes.chunks(1).collect()]);
            for portions in portions {
                let mut lines = Lines::default();
                let mut pieces = Vec::new();
                let mut emit = |piece: Piece<'_>| pieces.push((piece.text.to_vec(), piece.continued));
                portions.iter().for_each(|portion| lines.feed_screen(portion, &mut emit));
                lines.finish(&mut emit);
                assert_eq!(pieces, whole(shown), "{portions:?}");
            }
        }
    }

    #[test]
    fn a_spinner_holds_no_memory_and_a_line_too_long_begins_anew() {
        let mut lines = Lines::default();
        let mut pieces = Vec::new();
        let mut emit = |piece: Piece<'_>| pieces.push((piece.text.len(), piece.continued));
        (0..100_000).for_each(|_| lines.feed_screen(b"working...\r", &mut emit));
        assert!(lines.partial.capacity() <= MAX_LINE);
        lines.feed_screen(&[b'x'; MAX_LINE + 10], &mut emit);
        lines.feed_screen(b"\rover\r\n", &mut emit);
        assert_eq!(pieces, [(MAX_LINE, false), (4, false)]);
    }

    #[test]
    fn memory_is_held_only_while_a_line_is_unfinished() {
        let mut lines = Lines::default();
        lines.feed(b"one\ntwo\n", &mut |_| ());
        assert_eq!(lines.partial.capacity(), 0);
        lines.feed(b"three", &mut |_| ());
        assert!(lines.partial.capacity() > 0);
        lines.feed(b"\n", &mut |_| ());
        assert_eq!(lines.partial.capacity(), 0);
    }

    #[test]
    fn a_line_is_split_only_above_the_limit() {
        let full = vec![b'x'; MAX_LINE];
        let mut text = full.clone();
        text.push(b'\n');
        assert_eq!(cut(&[&text]), [(full.clone(), false)]);
        assert_eq!(cut(&[&full, b"\n"]), [(full.clone(), false)]);
        assert_eq!(cut(&[&full, b"\r\n"]), [(full.clone(), false)], "nothing is left to continue with");
        assert_eq!(cut(&[&full, b"y\nz\n"]), [(full.clone(), false), (b"y".to_vec(), true), (b"z".to_vec(), false)]);
        let long = vec![b'x'; 2 * MAX_LINE + 5];
        assert_eq!(cut(&[&long]), [(full.clone(), false), (full, true), (vec![b'x'; 5], true)]);
    }

    #[test]
    fn a_split_leaves_characters_whole() {
        let text = format!("{}\u{1f6a2}\u{e4}\n", "x".repeat(MAX_LINE - 2));
        let (before, after) = (vec![b'x'; MAX_LINE - 2], "\u{1f6a2}\u{e4}".as_bytes().to_vec());
        assert_eq!(cut(&[text.as_bytes()]), [(before.clone(), false), (after.clone(), true)]);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(cut(&bytes), [(before, false), (after, true)]);
        let noise = vec![0xbf; MAX_LINE + 1];
        assert_eq!(cut(&[&noise]), [(vec![0xbf; MAX_LINE], false), (vec![0xbf], true)], "what is no text is cut anywhere");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_in_any_portions_come_out_whole(
            lines in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                (MAX_LINE - 3..3 * MAX_LINE).prop_map(|length| "a\u{e4}\u{1f6a2}".bytes().cycle().take(length).collect()),
            ], 1..6),
            portion in 1_usize..40_000,
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(|line| line.into_iter().filter(|b| !b"\r\n".contains(b)).collect()).collect();
            let mut text = lines.join(&b'\n');
            text.push(b'\n');
            let portions: Vec<&[u8]> = text.chunks(portion).collect();
            let mut joined: Vec<Vec<u8>> = Vec::new();
            for (piece, continued) in cut(&portions) {
                prop_assert!(piece.len() <= MAX_LINE);
                match joined.last_mut() {
                    Some(last) if continued => last.extend(piece),
                    _ => joined.push(piece),
                }
            }
            prop_assert_eq!(joined, lines);
        }
    }
}
