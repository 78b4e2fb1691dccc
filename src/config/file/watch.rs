//! `watch` of a service.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::{SHORTEST, Value, Walk};
use crate::engine::spec::Watch;

const WATCH_KEYS: [&str; 3] = ["paths", "ignore", "debounce"];

/// As written.
#[derive(Debug)]
pub(in crate::config) struct WatchDraft {
    /// Where the key is.
    pub(in crate::config) key: Range<usize>,
    pub(in crate::config) paths: Vec<Spanned<String>>,
    pub(in crate::config) ignore: Vec<Spanned<String>>,
    pub(in crate::config) debounce: Duration,
}

impl Walk<'_> {
    /// A path, an array of them, or a table that says more.
    pub(super) fn watch(&mut self, key: Range<usize>, value: &Value<'_>) -> WatchDraft {
        const EXPECTED: &str = "a path such as \"src\"";
        let mut out = WatchDraft { key, paths: Vec::new(), ignore: Vec::new(), debounce: Watch::DEBOUNCE };
        let Some(table) = value.get_ref().as_table() else {
            out.paths = self.strings(value, EXPECTED);
            return out;
        };
        for (key, value) in table.iter() {
            match key.get_ref().as_ref() {
                "paths" => out.paths = self.strings(value, EXPECTED),
                "ignore" => out.ignore = self.strings(value, "a name or a pattern such as \"*.css\""),
                "debounce" => out.debounce = self.duration_at_least(value, "debounce", SHORTEST).unwrap_or(out.debounce),
                other => self.unknown_key(other, key.span(), "in watch", &WATCH_KEYS),
            }
        }
        if !table.contains_key("paths") {
            self.error_help(value.span(), "`watch` does not say what to watch", "add paths = [\"src\"]");
        }
        out
    }
}
