//! The last output of every instance's present run, for the last words of the container.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::InstanceId;

/// Of each instance. A newer byte drives an older one out.
const KEPT: usize = 4096;

/// What each instance said last; nothing is kept of one that says nothing.
#[derive(Default)]
pub(super) struct LastLines(BTreeMap<InstanceId, VecDeque<u8>>);

impl LastLines {
    /// A new run: what the last one said does not tell why this one ends.
    pub(super) fn forget(&mut self, id: InstanceId) {
        if let Some(kept) = self.0.get_mut(&id) {
            kept.clear();
        }
    }

    /// A line, or a piece of one that `continues` the last.
    pub(super) fn add(&mut self, id: InstanceId, text: &[u8], continues: bool) {
        let kept = self.0.entry(id).or_default();
        if continues && kept.back() == Some(&b'\n') {
            kept.pop_back();
        }
        let text = text.get(text.len().saturating_sub(KEPT.saturating_sub(1))..).unwrap_or_default();
        let over = kept.len().saturating_add(text.len()).saturating_add(1).saturating_sub(KEPT);
        kept.drain(..over.min(kept.len()));
        kept.extend(text);
        kept.push_back(b'\n');
    }

    /// What it said last, oldest first.
    pub(super) fn of(&self, id: InstanceId) -> Vec<u8> {
        self.0.get(&id).map(|kept| kept.iter().copied().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ServiceId;

    const WEB: InstanceId = InstanceId { service: ServiceId(0), number: 1 };

    #[test]
    fn the_newest_stay_and_a_new_run_begins_anew() {
        let mut lines = LastLines::default();
        lines.add(WEB, b"one", false);
        lines.add(WEB, b"tw", false);
        lines.add(WEB, b"o", true);
        assert_eq!(lines.of(WEB), b"one\ntwo\n");
        for number in 0..2000 {
            lines.add(WEB, format!("line {number}").as_bytes(), false);
            assert!(lines.of(WEB).len() <= KEPT);
        }
        assert!(lines.of(WEB).ends_with(b"\nline 1998\nline 1999\n"));
        lines.add(WEB, &[b'x'; 3 * KEPT], false);
        assert_eq!(lines.of(WEB), [vec![b'x'; KEPT - 1], vec![b'\n']].concat());
        assert!(lines.0[&WEB].capacity() <= 2 * KEPT);
        lines.forget(WEB);
        assert_eq!(lines.of(WEB), b"");
    }
}
