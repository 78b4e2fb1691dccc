//! A bounded ring of lines in one piece of memory: what a service said last, on its way to whoever asks.
//!
//! Invariants: it never holds more than it was made for, it holds no memory before the first line, and a line is in it whole or not at all,
//! except one that alone is longer than the ring, of which the end is kept. Lines can be walked from either end.
//!
//! An entry is `length, number, time, [owner], flags, text, length`, all numbers little-endian; the length, which is that of the text, stands
//! at both ends so that one can walk back.

use std::collections::VecDeque;

use crate::engine::{InstanceId, ServiceId};
use crate::observe::Stream;

/// Length (2), number (6), milliseconds since 1970 (6), flags (1).
const HEAD: usize = 15;
/// Service (4), number of the instance (2).
const OWNER: usize = 6;
/// The length again.
const TAIL: usize = 2;
/// What is asked for first.
const FIRST: usize = 256;

const ERR: u8 = 1;
const CONTINUED: u8 = 2;

/// A place between two entries: counted from the first one there ever was, so that it stays right when older ones make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    bytes: u64,
    /// Entries before it.
    pub(super) entries: u64,
}

/// A line, or a piece of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// In the order in which all lines of all instances came.
    pub(super) number: u64,
    /// In milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Whose.
    pub(super) owner: InstanceId,
    pub(super) stream: Stream,
    /// It goes on where the stream's last piece was cut.
    pub(super) continued: bool,
    pub(super) text: &'a [u8],
}

/// An entry without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) at_ms: u64,
    pub(super) owner: InstanceId,
    pub(super) stream: Stream,
    pub(super) continued: bool,
    /// Within the ring.
    text_at: usize,
    text_length: usize,
    /// Where the next one is.
    pub(super) next: Place,
}

impl Entry {
    /// Of its text, in bytes.
    pub(super) const fn length(&self) -> usize {
        self.text_length
    }
}

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    /// In bytes, what is kept about each line included.
    most: usize,
    /// Whose all lines are; `None`: each tells its own.
    owner: Option<InstanceId>,
    /// Where the oldest entry is.
    first: Place,
    /// Where the next one will be.
    end: Place,
}

impl Ring {
    /// Of at most so many bytes.
    pub(super) const fn new(most: usize, owner: Option<InstanceId>) -> Self {
        let zero = Place { bytes: 0, entries: 0 };
        Self { bytes: VecDeque::new(), most, owner, first: zero, end: zero }
    }

    pub(super) const fn first(&self) -> Place {
        self.first
    }

    pub(super) const fn end(&self) -> Place {
        self.end
    }

    const fn overhead(&self) -> usize {
        if self.owner.is_some() { HEAD + TAIL } else { HEAD + OWNER + TAIL }
    }

    /// Whether a text of this length has room as things are.
    pub(super) fn has_room(&self, length: usize) -> bool {
        let size = length.saturating_add(self.overhead()).min(self.most);
        self.bytes.len().saturating_add(size) <= self.most
    }

    /// Appends a line; older ones make room.
    pub(super) fn push(&mut self, line: &Line<'_>) {
        let longest = self.most.saturating_sub(self.overhead()).min(usize::from(u16::MAX));
        let cut = line.text.len().saturating_sub(longest);
        let text = line.text.get(cut..).unwrap_or_default();
        while !self.has_room(text.len()) && self.pop().is_some() {}
        let size = text.len().saturating_add(self.overhead());
        self.reserve(size);
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(six(line.number));
        self.bytes.extend(six(line.at_ms));
        if self.owner.is_none() {
            self.bytes.extend(u32::try_from(line.owner.service.0).unwrap_or(u32::MAX).to_le_bytes());
            self.bytes.extend(line.owner.number.to_le_bytes());
        }
        let err = if line.stream == Stream::Err { ERR } else { 0 };
        // A line of which the beginning is missing goes on where nobody saw it begin.
        let continued = if line.continued || cut > 0 { CONTINUED } else { 0 };
        self.bytes.push_back(err | continued);
        self.bytes.extend(text);
        self.bytes.extend(length);
        self.end = after(self.end, size);
    }

    /// Takes the oldest one out.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entry(self.first)?;
        let size = entry.text_length.saturating_add(self.overhead()).min(self.bytes.len());
        self.bytes.drain(..size);
        self.first = entry.next;
        Some(entry)
    }

    /// Doubles, and never asks for more than it may hold.
    fn reserve(&mut self, size: usize) {
        let needed = self.bytes.len().saturating_add(size);
        if needed > self.bytes.capacity() {
            let target = self.bytes.capacity().saturating_mul(2).max(FIRST).min(self.most).max(needed);
            self.bytes.reserve_exact(target.saturating_sub(self.bytes.len()));
        }
    }

    /// The entry at a place; `None` at the end, and where it has made room already.
    pub(super) fn entry(&self, at: Place) -> Option<Entry> {
        let begin = usize::try_from(at.bytes.checked_sub(self.first.bytes)?).ok()?;
        if begin >= self.bytes.len() {
            return None;
        }
        let text_length = self.little(begin, 2);
        let number = self.little(begin.saturating_add(2), 6);
        let at_ms = self.little(begin.saturating_add(8), 6);
        let mut flags_at = begin.saturating_add(14);
        let owner = match self.owner {
            Some(owner) => owner,
            None => {
                let service = ServiceId(usize::try_from(self.little(flags_at, 4)).unwrap_or(usize::MAX));
                let number = u16::try_from(self.little(flags_at.saturating_add(4), 2)).unwrap_or(u16::MAX);
                flags_at = flags_at.saturating_add(OWNER);
                InstanceId { service, number }
            }
        };
        let flags = self.bytes.get(flags_at).copied().unwrap_or_default();
        let text_length = usize::try_from(text_length).unwrap_or_default();
        Some(Entry {
            number,
            at_ms,
            owner,
            stream: if flags & ERR == 0 { Stream::Out } else { Stream::Err },
            continued: flags & CONTINUED != 0,
            text_at: flags_at.saturating_add(1),
            text_length,
            next: after(at, text_length.saturating_add(self.overhead())),
        })
    }

    /// The place of the entry before `at`, if that is still there.
    pub(super) fn before(&self, at: Place) -> Option<Place> {
        let end = usize::try_from(at.bytes.checked_sub(self.first.bytes)?).ok()?;
        let length = self.little(end.checked_sub(TAIL)?, TAIL);
        let size = length.saturating_add(u64::try_from(self.overhead()).unwrap_or(u64::MAX));
        Some(Place { bytes: at.bytes.checked_sub(size)?, entries: at.entries.checked_sub(1)? })
    }

    /// Appends its text to `out`.
    pub(super) fn copy(&self, entry: &Entry, out: &mut Vec<u8>) {
        let (begin, end) = (entry.text_at, entry.text_at.saturating_add(entry.text_length));
        let (front, back) = self.bytes.as_slices();
        let middle = front.len();
        out.extend_from_slice(front.get(begin.min(middle)..end.min(middle)).unwrap_or_default());
        out.extend_from_slice(back.get(begin.saturating_sub(middle)..end.saturating_sub(middle)).unwrap_or_default());
    }

    fn little(&self, at: usize, count: usize) -> u64 {
        let digit = |index: usize| self.bytes.get(at.saturating_add(index)).copied().map_or(0, u64::from);
        (0..count).rev().fold(0, |sum, index| sum << 8 | digit(index))
    }
}

fn after(place: Place, size: usize) -> Place {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    Place { bytes: place.bytes.saturating_add(size), entries: place.entries.saturating_add(1) }
}

/// Six bytes last for 178 years of 50,000 lines a second, and as milliseconds longer.
const fn six(number: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = number.to_le_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEB: InstanceId = InstanceId { service: ServiceId(3), number: 2 };

    fn line(number: u64, owner: InstanceId, text: &[u8]) -> Line<'_> {
        Line { number, at_ms: 1_798_761_599_007 + number, owner, stream: Stream::Err, continued: false, text }
    }

    fn texts(ring: &Ring) -> Vec<(Entry, Vec<u8>)> {
        let mut all = Vec::new();
        let mut at = ring.first();
        while let Some(entry) = ring.entry(at) {
            let mut text = Vec::new();
            ring.copy(&entry, &mut text);
            at = entry.next;
            all.push((entry, text));
        }
        assert_eq!(at, ring.end());
        all
    }

    #[test]
    fn a_line_comes_out_as_it_went_in() {
        for owner in [Some(WEB), None] {
            let mut ring = Ring::new(4096, owner);
            assert_eq!(ring.bytes.capacity(), 0, "nothing is held before the first line");
            ring.push(&Line { stream: Stream::Out, continued: true, ..line(7, WEB, b"\xff\0hello") });
            ring.push(&line((1 << 48) - 1, WEB, b""));
            let all = texts(&ring);
            let said: Vec<_> = all
                .iter()
                .map(|(entry, text)| (entry.number, entry.at_ms, entry.owner, entry.stream, entry.continued, text.as_slice()))
                .collect();
            let at = 1_798_761_599_007;
            assert_eq!(
                said,
                [
                    (7, at + 7, WEB, Stream::Out, true, &b"\xff\0hello"[..]),
                    ((1 << 48) - 1, (at + (1 << 48) - 1) & ((1 << 48) - 1), WEB, Stream::Err, false, b"")
                ]
            );
        }
    }

    #[test]
    fn of_a_line_longer_than_the_ring_the_end_is_kept() {
        let mut ring = Ring::new(100, Some(WEB));
        ring.push(&line(1, WEB, b"before"));
        let long: Vec<u8> = (0..250).collect();
        ring.push(&line(2, WEB, &long));
        let all = texts(&ring);
        assert_eq!((all.len(), all[0].0.continued), (1, true));
        assert_eq!(all[0].1, &long[250 - (100 - HEAD - TAIL)..]);
    }

    proptest! {
        /// Against a plain list: the newest are there, in order, from both ends, and never more than there may be.
        #[test]
        fn it_is_the_newest_lines_and_bounded(
            lines in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..200),
            most in 100..600_usize,
            owned in any::<bool>(),
        ) {
            let mut ring = Ring::new(most, owned.then_some(WEB));
            for (number, (text, pop)) in (0..).zip(&lines) {
                ring.push(&line(number, WEB, text));
                prop_assert!(ring.bytes.len() <= most && ring.bytes.capacity() <= most.max(FIRST));
                if *pop && number % 7 == 0 {
                    ring.pop();
                }
            }
            let all = texts(&ring);
            let kept: Vec<u64> = all.iter().map(|(entry, _)| entry.number).collect();
            let newest = lines.len() as u64;
            prop_assert_eq!(&kept, &(newest - kept.len() as u64..newest).collect::<Vec<_>>());
            for (entry, text) in &all {
                prop_assert_eq!(text, &lines[usize::try_from(entry.number).unwrap()].0);
            }
            let mut back = Vec::new();
            let mut at = ring.end();
            while let Some(place) = ring.before(at) {
                back.push(ring.entry(place).unwrap().number);
                at = place;
            }
            prop_assert_eq!(at, ring.first());
            back.reverse();
            prop_assert_eq!(back, kept);
            prop_assert_eq!(ring.end().entries, newest);
        }
    }
}
