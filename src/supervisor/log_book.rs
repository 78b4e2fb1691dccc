//! What was said last, and those who read along.
//!
//! Each instance has a ring of its own, so that a chatty one drives out nobody else's lines. While somebody reads along, the newest lines of
//! all are in one more ring, the tail, in the order in which they came; each reader has only a place in it. So any number of readers costs
//! one bounded ring, a line is written down once whoever reads, and who does not keep up loses the oldest lines and is told how many.
//! Nobody is ever waited for.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::log_ring::{Entry, Line, Place, Ring};
use super::names::Named;
use crate::config::LogBuffer;
use crate::engine::{InstanceId, ServiceId};
use crate::observe::Stream;
use crate::server::{Feed, Fill};

/// The newest lines while somebody reads along: a tenth of a second of 50,000 lines a second.
const TAIL: usize = 512 * 1024;
/// Last words are at most so many bytes.
const LAST_WORDS: usize = 4096;

/// Whose the lines are that are about no instance.
pub(super) const WHOLE: InstanceId = InstanceId { service: ServiceId(u32::MAX as usize), number: 0 };

/// A book that more than one has open, all on one thread.
pub(super) type Shared = Rc<RefCell<LogBook>>;

/// The book.
#[derive(Debug)]
pub(super) struct LogBook {
    /// How large each ring may be.
    room: Room,
    kept: BTreeMap<InstanceId, Kept>,
    tail: Ring,
    followers: BTreeMap<u64, Follower>,
    /// The number of the last line.
    last: u64,
    last_follower: u64,
    /// Nothing more will come.
    over: bool,
}

/// How many bytes lines may take.
#[derive(Debug)]
enum Room {
    /// Those of each instance, by service. One that is not there has the least there is.
    OfEach(BTreeMap<ServiceId, LogBuffer>),
    /// All share one ring: few lines, of which none matters more for being about somebody quiet.
    OfAll(usize),
}

impl Room {
    /// The ring that the owner's lines go to.
    fn ring(&self, owner: InstanceId) -> Ring {
        match self {
            Self::OfEach(buffers) => {
                let most = buffers.get(&owner.service).copied().unwrap_or_default();
                Ring::new(most.bytes(), Some(owner))
            }
            Self::OfAll(most) => Ring::new(*most, None),
        }
    }
}

#[derive(Debug)]
struct Kept {
    ring: Ring,
    /// Its present run began after this line.
    run_after: u64,
}

/// Somebody who reads along.
#[derive(Debug)]
struct Follower {
    whom: Whom,
    /// In the tail.
    at: Place,
    /// Lines of those it reads that made room before it came to them.
    lost: u64,
    waker: Option<Waker>,
}

/// Whose lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whom {
    /// Everybody's.
    All,
    /// Of these.
    Some(Named),
}

impl Whom {
    fn includes(&self, id: InstanceId) -> bool {
        match self {
            Self::All => true,
            // What is about the whole is about each of them.
            Self::Some(named) => id == WHOLE || named.includes(id),
        }
    }
}

/// What of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Whose.
    pub(super) whom: Whom,
    /// Only the last so many, all together.
    pub(super) last: Option<usize>,
    /// Only what came at or after this, in milliseconds since 1970.
    pub(super) since_ms: Option<u64>,
    /// And what comes.
    pub(super) follow: bool,
}

impl LogBook {
    /// So many bytes of each instance of a service, as far as [`LogBook::define`] tells of it.
    pub(super) const fn of_each() -> Self {
        Self::new(Room::OfEach(BTreeMap::new()))
    }

    /// What is kept of each instance of a service. Of those that have said something already as much is kept as before.
    pub(super) fn define(&mut self, service: ServiceId, buffer: LogBuffer) {
        if let Room::OfEach(buffers) = &mut self.room {
            buffers.insert(service, buffer);
        }
    }

    /// So many bytes of all of them together.
    pub(super) const fn of_all(most: usize) -> Self {
        Self::new(Room::OfAll(most))
    }

    const fn is_shared(&self) -> bool {
        matches!(self.room, Room::OfAll(_))
    }

    const fn new(room: Room) -> Self {
        Self {
            room,
            kept: BTreeMap::new(),
            tail: Ring::new(TAIL, None),
            followers: BTreeMap::new(),
            last: 0,
            last_follower: 0,
            over: false,
        }
    }

    /// The number that the next line gets.
    pub(super) const fn next_number(&self) -> u64 {
        self.last.saturating_add(1)
    }

    /// A line, or a piece of one that `continues` the last.
    pub(super) fn add(&mut self, owner: InstanceId, at_ms: u64, stream: Stream, text: &[u8], continued: bool) {
        self.last = self.last.saturating_add(1);
        let line = Line { number: self.last, at_ms, owner, stream, continued, text };
        let place = if self.is_shared() { WHOLE } else { owner };
        let room = &self.room;
        let kept = self.kept.entry(place).or_insert_with(|| Kept { ring: room.ring(owner), run_after: 0 });
        kept.ring.push(&line);
        if self.followers.is_empty() {
            return;
        }
        while !self.tail.has_room(text.len()) {
            let Some(gone) = self.tail.pop() else { break };
            for follower in self.followers.values_mut().filter(|follower| follower.at < gone.next) {
                follower.at = gone.next;
                follower.lost = follower.lost.saturating_add(u64::from(follower.whom.includes(gone.owner)));
            }
        }
        self.tail.push(&line);
        for follower in self.followers.values_mut().filter(|follower| follower.whom.includes(owner)) {
            // It is on its way already when there is none.
            if let Some(waker) = follower.waker.take() {
                waker.wake();
            }
        }
    }

    /// A new run: what the last one said does not tell why this one ends.
    pub(super) fn new_run(&mut self, id: InstanceId) {
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.run_after = self.last;
        }
    }

    /// A service has gone, and what it said.
    pub(super) fn forget(&mut self, service: ServiceId) {
        self.kept.retain(|id, _| id.service != service);
    }

    /// What its present run said last, oldest first: whole lines as far as they are kept.
    pub(super) fn last_words(&self, id: InstanceId) -> Vec<u8> {
        let Some(Kept { ring, run_after }) = self.kept.get(&id) else { return Vec::new() };
        let mut entries = Vec::new();
        let mut text = Vec::new();
        let mut at = ring.end();
        let mut bytes = 0_usize;
        while let Some(place) = ring.before(at) {
            let Some(entry) = ring.entry(place).filter(|entry| entry.number > *run_after && bytes < LAST_WORDS) else { break };
            bytes = bytes.saturating_add(entry.length()).saturating_add(1);
            entries.push(entry);
            at = place;
        }
        for entry in entries.iter().rev() {
            if entry.continued && text.last() == Some(&b'\n') {
                text.pop();
            }
            ring.copy(entry, &mut text);
            text.push(b'\n');
        }
        text.drain(..text.len().saturating_sub(LAST_WORDS));
        text
    }

    /// Nothing more will come: who reads along gets what is left, and the end.
    pub(super) fn close(&mut self) {
        self.over = true;
        for follower in self.followers.values_mut() {
            if let Some(waker) = follower.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether anybody still reads.
    pub(super) fn is_followed(&self) -> bool {
        !self.followers.is_empty()
    }

    /// What everybody has read is given up.
    fn trim(&mut self) {
        let Some(slowest) = self.followers.values().map(|follower| follower.at).min() else {
            self.tail = Ring::new(TAIL, None);
            return;
        };
        while self.tail.first() < slowest && self.tail.pop().is_some() {}
    }
}

/// How lines look to a reader.
pub(super) trait Look {
    /// Appends a line.
    fn line(&mut self, entry: &Entry, text: &[u8], out: &mut Vec<u8>);

    /// Appends what tells that so many lines are not there.
    fn lost(&mut self, lines: u64, out: &mut Vec<u8>);
}

/// One reader.
pub(super) struct Reader<L> {
    book: Shared,
    /// What was there when it came, as far as it was not read yet.
    sources: Vec<Source>,
    whom: Whom,
    follower: Option<u64>,
    look: L,
    text: Vec<u8>,
}

/// An instance's lines up to the moment the reader came.
#[derive(Debug, Clone, Copy)]
struct Source {
    id: InstanceId,
    at: Place,
    end: Place,
}

impl<L: Look> Reader<L> {
    pub(super) fn new(book: &Shared, wanted: Wanted, look: L) -> Self {
        let mut open = book.borrow_mut();
        let mut sources: Vec<Source> = open
            .kept
            .iter()
            .filter(|(id, _)| open.is_shared() || wanted.whom.includes(**id))
            .map(|(id, kept)| Source { id: *id, at: kept.ring.first(), end: kept.ring.end() })
            .collect();
        if wanted.last.is_some() || wanted.since_ms.is_some() {
            go_back(&open, &mut sources, &wanted);
        }
        let whom = wanted.whom.clone();
        let follower = wanted.follow.then(|| {
            open.last_follower = open.last_follower.saturating_add(1);
            let number = open.last_follower;
            let at = open.tail.end();
            open.followers.insert(number, Follower { whom: wanted.whom, at, lost: 0, waker: None });
            number
        });
        drop(open);
        Self { book: Rc::clone(book), sources, whom, follower, look, text: Vec::new() }
    }

    /// The backlog, merged in the order in which the lines came. Whether there is more of it.
    fn fill_old(&mut self, book: &LogBook, out: &mut Vec<u8>, most: usize) -> bool {
        // What all share is small: taken at once, nothing of it can make room in the meantime.
        let most = if book.is_shared() { usize::MAX } else { most };
        let mut lost = 0_u64;
        let mut due = BinaryHeap::with_capacity(self.sources.len());
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(ring) = book.kept.get(&source.id).map(|kept| &kept.ring) else {
                // Its service has gone.
                source.at = source.end;
                continue;
            };
            let first = ring.first();
            if source.at < first {
                // Lines that came after this reader did are not of the backlog: it gets them from the tail.
                lost = lost.saturating_add(first.entries.min(source.end.entries).saturating_sub(source.at.entries));
                source.at = first;
            }
            if source.at < source.end
                && let Some(entry) = ring.entry(source.at)
            {
                due.push(Reverse((entry.number, index)));
            }
        }
        if lost > 0 {
            self.look.lost(lost, out);
        }
        while out.len() < most {
            let Some(Reverse((_, index))) = due.pop() else { break };
            let Some(source) = self.sources.get_mut(index) else { continue };
            let Some(ring) = book.kept.get(&source.id).map(|kept| &kept.ring) else { continue };
            let Some(entry) = ring.entry(source.at) else { continue };
            if self.whom.includes(entry.owner) {
                self.text.clear();
                ring.copy(&entry, &mut self.text);
                self.look.line(&entry, &self.text, out);
            }
            source.at = entry.next;
            if source.at < source.end
                && let Some(next) = ring.entry(source.at)
            {
                due.push(Reverse((next.number, index)));
            }
        }
        self.sources.retain(|source| source.at < source.end);
        !self.sources.is_empty()
    }

    /// What came since, as far as it is still there. Whether there is more.
    fn fill_new(&mut self, book: &mut LogBook, number: u64, out: &mut Vec<u8>, most: usize) -> bool {
        let LogBook { tail, followers, .. } = book;
        let Some(follower) = followers.get_mut(&number) else { return false };
        if follower.lost > 0 {
            self.look.lost(std::mem::take(&mut follower.lost), out);
        }
        let mut more = false;
        while let Some(entry) = tail.entry(follower.at) {
            if out.len() >= most {
                more = true;
                break;
            }
            if follower.whom.includes(entry.owner) {
                self.text.clear();
                tail.copy(&entry, &mut self.text);
                self.look.line(&entry, &self.text, out);
            }
            follower.at = entry.next;
        }
        book.trim();
        more
    }
}

impl<L: Look> Feed for Reader<L> {
    fn poll_fill(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>, most: usize) -> Poll<Fill> {
        let book = Rc::clone(&self.book);
        let mut book = book.borrow_mut();
        if !self.sources.is_empty() && self.fill_old(&book, out, most) {
            return Poll::Ready(Fill::More);
        }
        let Some(number) = self.follower else { return Poll::Ready(Fill::End) };
        if self.fill_new(&mut book, number, out, most) {
            return Poll::Ready(Fill::More);
        }
        if book.over {
            return Poll::Ready(Fill::End);
        }
        if !out.is_empty() {
            return Poll::Ready(Fill::Now);
        }
        if let Some(follower) = book.followers.get_mut(&number) {
            follower.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl<L> Drop for Reader<L> {
    fn drop(&mut self) {
        if let Some(number) = self.follower {
            let mut book = self.book.borrow_mut();
            book.followers.remove(&number);
            book.trim();
        }
    }
}

/// Moves each source on to the first of the lines that are wanted: of the last so many of all of them, as far as they are not too old.
fn go_back(book: &LogBook, sources: &mut [Source], wanted: &Wanted) {
    let (last, since_ms) = (wanted.last.unwrap_or(usize::MAX), wanted.since_ms.unwrap_or_default());
    let before = |source: &Source| -> Option<(Place, Entry)> {
        let ring = &book.kept.get(&source.id)?.ring;
        let place = ring.before(source.at)?;
        Some((place, ring.entry(place).filter(|entry| entry.at_ms >= since_ms)?))
    };
    let mut due = BinaryHeap::with_capacity(sources.len());
    for (index, source) in sources.iter_mut().enumerate() {
        source.at = source.end;
        due.extend(before(source).map(|(_, entry)| (entry.number, index)));
    }
    let mut lines = 0_usize;
    while lines < last {
        let Some((_, index)) = due.pop() else { break };
        let Some(source) = sources.get_mut(index) else { continue };
        let Some((place, entry)) = before(source) else { continue };
        source.at = place;
        // The pieces of a long line are one line.
        lines = lines.saturating_add(usize::from(!entry.continued && wanted.whom.includes(entry.owner)));
        due.extend(before(source).map(|(_, entry)| (entry.number, index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogBuffer;

    const WEB: InstanceId = InstanceId { service: ServiceId(0), number: 1 };
    const STORE: InstanceId = InstanceId { service: ServiceId(1), number: 1 };
    const PIECE: usize = 1000;

    /// `web one`, `web+ piece`, `lost 3`.
    struct Words;

    impl Look for Words {
        fn line(&mut self, entry: &Entry, text: &[u8], out: &mut Vec<u8>) {
            let name = if entry.owner == WEB { "web" } else { "store" };
            let mark = if entry.continued { "+" } else { "" };
            out.extend(format!("{name}{mark} {}\n", String::from_utf8_lossy(text)).into_bytes());
        }

        fn lost(&mut self, lines: u64, out: &mut Vec<u8>) {
            out.extend(format!("lost {lines}\n").into_bytes());
        }
    }

    fn each(bytes: u64) -> LogBook {
        let mut book = LogBook::of_each();
        for id in [WEB, STORE] {
            book.define(id.service, LogBuffer::new(bytes).unwrap());
        }
        book
    }

    /// Of this very instance.
    fn only(id: InstanceId) -> Whom {
        Whom::Some(Named { services: Vec::new(), instances: vec![id] })
    }

    fn add(book: &Shared, id: InstanceId, text: &str) {
        let at = book.borrow().next_number();
        book.borrow_mut().add(id, at, Stream::Out, text.as_bytes(), false);
    }

    fn reader(book: &Shared, whom: Whom, last: Option<usize>, since_ms: Option<u64>, follow: bool) -> Reader<Words> {
        Reader::new(book, Wanted { whom, last, since_ms, follow }, Words)
    }

    /// All that is there now, and how it ended: `None` is that more may come.
    fn read(reader: &mut Reader<Words>) -> (Vec<String>, Option<Fill>) {
        let mut text = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let end = loop {
            let mut piece = Vec::new();
            let fill = reader.poll_fill(&mut context, &mut piece, PIECE);
            text.extend(piece);
            match fill {
                Poll::Ready(Fill::More | Fill::Now) => {}
                Poll::Ready(Fill::End) => break Some(Fill::End),
                Poll::Pending => break None,
            }
        };
        (String::from_utf8(text).unwrap().lines().map(ToOwned::to_owned).collect(), end)
    }

    fn shared(book: LogBook) -> Shared {
        Rc::new(RefCell::new(book))
    }

    #[test]
    fn each_instance_has_the_room_of_its_service() {
        let mut book = each(4 << 10);
        book.define(STORE.service, LogBuffer::new(64 << 10).unwrap());
        let second = InstanceId { number: 2, ..WEB };
        for number in 0..2000 {
            for id in [WEB, second, STORE] {
                book.add(id, number, Stream::Out, &[b'x'; 83], false);
            }
        }
        let kept = |id: InstanceId| book.kept[&id].ring.end().entries - book.kept[&id].ring.first().entries;
        // Lines of 100 bytes with what is noted about each.
        assert_eq!((kept(WEB), kept(second), kept(STORE)), (40, 40, 655));
    }

    #[test]
    fn lines_are_merged_in_the_order_in_which_they_came() {
        let book = shared(each(16 << 10));
        for number in 0..200 {
            add(&book, if number % 3 == 0 { STORE } else { WEB }, &number.to_string());
        }
        let all: Vec<String> = (0..200).map(|number| format!("{} {number}", if number % 3 == 0 { "store" } else { "web" })).collect();
        assert_eq!(read(&mut reader(&book, Whom::All, None, None, false)), (all.clone(), Some(Fill::End)));
        let web: Vec<String> = all.iter().filter(|line| line.starts_with("web")).cloned().collect();
        assert_eq!(read(&mut reader(&book, only(WEB), None, None, false)).0, web);
        assert_eq!(read(&mut reader(&book, Whom::All, Some(4), None, false)).0, all[196..]);
        assert_eq!(read(&mut reader(&book, only(WEB), Some(2), None, false)).0, web[web.len() - 2..]);
        assert_eq!(read(&mut reader(&book, Whom::All, Some(0), None, false)).0, Vec::<String>::new());
        // A line's time is its number here, the first being 1.
        assert_eq!(read(&mut reader(&book, Whom::All, None, Some(199), false)).0, all[198..]);
        assert_eq!(read(&mut reader(&book, Whom::All, Some(1), Some(199), false)).0, all[199..]);
    }

    #[test]
    fn the_pieces_of_a_long_line_are_one_line() {
        let book = shared(each(16 << 10));
        add(&book, WEB, "before");
        add(&book, WEB, "long");
        book.borrow_mut().add(WEB, 3, Stream::Out, b"er", true);
        assert_eq!(read(&mut reader(&book, Whom::All, Some(1), None, false)).0, ["web long", "web+ er"]);
    }

    #[test]
    fn who_follows_gets_what_was_and_then_what_comes() {
        let book = shared(each(16 << 10));
        add(&book, WEB, "was");
        let mut follower = reader(&book, Whom::All, None, None, true);
        add(&book, STORE, "came meanwhile");
        assert_eq!(read(&mut follower), (vec!["web was".to_owned(), "store came meanwhile".to_owned()], None));
        let mut of_web = reader(&book, only(WEB), Some(0), None, true);
        add(&book, STORE, "s");
        add(&book, WEB, "w");
        assert_eq!(read(&mut follower).0, ["store s", "web w"]);
        assert_eq!(read(&mut of_web).0, ["web w"]);
        add(&book, WEB, "last");
        book.borrow_mut().close();
        assert_eq!(read(&mut follower), (vec!["web last".to_owned()], Some(Fill::End)));
        drop((follower, of_web));
        assert!(!book.borrow().is_followed());
    }

    #[test]
    fn who_is_too_slow_is_told_how_many_of_its_lines_are_missing() {
        let book = shared(each(4 << 10));
        let mut slow = reader(&book, only(WEB), None, None, true);
        let mut fast = reader(&book, Whom::All, None, None, true);
        let text = "x".repeat(100);
        let mut got = 0;
        let lines = 30_000;
        for number in 0..lines {
            add(&book, if number % 2 == 0 { WEB } else { STORE }, &text);
            if number % 100 == 0 {
                got += read(&mut fast).0.len();
            }
        }
        got += read(&mut fast).0.len();
        assert_eq!(got, lines, "who keeps up gets all, whoever else does not");
        let (said, _) = read(&mut slow);
        let lost: usize = said[0].strip_prefix("lost ").unwrap().parse().unwrap();
        assert_eq!(lost + said.len() - 1, lines / 2);
        assert!(said[1..].iter().all(|line| line.starts_with("web ")));
        let held = (said.len() - 1) * 2 * (text.len() + 23);
        assert!(held <= TAIL && held > TAIL - 1000, "{held}");
    }

    #[test]
    fn lines_that_make_room_while_the_old_ones_are_read_are_counted_once() {
        let book = shared(each(4 << 10));
        for number in 0..30 {
            add(&book, WEB, &format!("{number:0100}"));
        }
        let mut follower = reader(&book, Whom::All, None, None, true);
        let mut context = Context::from_waker(Waker::noop());
        let mut piece = Vec::new();
        assert_eq!(follower.poll_fill(&mut context, &mut piece, 300), Poll::Ready(Fill::More));
        let first = String::from_utf8(piece).unwrap().lines().count();
        // All of the old ones make room, and some of the new.
        for number in 30..100 {
            add(&book, WEB, &format!("{number:0100}"));
        }
        let (said, _) = read(&mut follower);
        assert_eq!(said[0], format!("lost {}", 30 - first));
        assert_eq!(said[1..], (30..100).map(|number| format!("web {number:0100}")).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_who_follows_costs_nothing() {
        let book = shared(each(4 << 10));
        let follower = reader(&book, Whom::All, None, None, true);
        add(&book, WEB, "one");
        assert!(book.borrow().tail.end() > book.borrow().tail.first());
        drop(follower);
        add(&book, WEB, "two");
        assert_eq!(book.borrow().tail.end(), Place::default());
    }

    #[test]
    fn one_ring_for_all_keeps_the_newest_of_all() {
        let book = shared(LogBook::of_all(4 << 10));
        for number in 0..100 {
            add(&book, if number == 98 { STORE } else { WEB }, &format!("{number:0100}"));
        }
        let (said, _) = read(&mut reader(&book, Whom::All, None, None, false));
        assert_eq!((said.len(), said.last()), (33, Some(&format!("web {:0100}", 99))));
        let of_store = [format!("store {:0100}", 98)];
        assert_eq!(read(&mut reader(&book, only(STORE), Some(1), None, false)).0, of_store);
    }

    #[test]
    fn last_words_are_those_of_the_present_run() {
        let book = shared(each(16 << 10));
        let words = |id| book.borrow().last_words(id);
        assert_eq!(words(WEB), b"");
        add(&book, WEB, "one");
        add(&book, WEB, "tw");
        book.borrow_mut().add(WEB, 3, Stream::Out, b"o", true);
        assert_eq!(words(WEB), b"one\ntwo\n");
        for number in 0..2000 {
            add(&book, WEB, &format!("line {number}"));
            assert!(words(WEB).len() <= LAST_WORDS);
        }
        assert!(words(WEB).ends_with(b"\nline 1998\nline 1999\n"));
        assert!(words(WEB).len() > LAST_WORDS - 20);
        book.borrow_mut().new_run(WEB);
        assert_eq!(words(WEB), b"");
        assert_eq!(read(&mut reader(&book, Whom::All, Some(1), None, false)).0, ["web line 1999"], "for those who ask it is still there");
        let long = "x".repeat(12_000);
        add(&book, WEB, &long);
        assert_eq!(words(WEB), [vec![b'x'; LAST_WORDS - 1], vec![b'\n']].concat());
    }
}
