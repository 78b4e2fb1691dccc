//! Text from services and clients made safe to show: no byte of it can forge a line, a colour or an element.

use std::borrow::Cow;

use crate::engine::text::is_active;

/// The text with everything that moves a cursor, ends a line or turns the writing direction escaped as Rust escapes it.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_active) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len().saturating_add(8));
    for character in text.chars() {
        if is_active(character) { safe.extend(character.escape_default()) } else { safe.push(character) }
    }
    Cow::Owned(safe)
}

/// Printable text for an HTML element or a quoted attribute.
pub(super) fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// The text in double quotes, its control characters escaped once: for plain names as Go's `%q` writes it.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_left_alone() {
        assert_eq!(printable("connect 127.0.0.1:6379: refused, für web"), "connect 127.0.0.1:6379: refused, für web");
    }

    #[test]
    fn nothing_can_forge_a_line_or_a_colour() {
        assert_eq!(printable("a\nweb.1 RUNNING"), "a\\nweb.1 RUNNING");
        assert_eq!(printable("\x1b[2Jx\r\u{9b}31m\u{202e}"), "\\u{1b}[2Jx\\r\\u{9b}31m\\u{202e}");
        assert_eq!(printable("\u{2028}\u{7f}"), "\\u{2028}\\u{7f}");
    }

    #[test]
    fn quoted_text_is_printable() {
        assert_eq!(quoted("redis"), "\"redis\"");
        let active = "\n\x1b\u{7f}\u{9b}\u{200b}\u{2028}\u{202e}\u{2066}\u{feff}";
        let text = quoted(active);
        assert_eq!(printable(&text), text, "nothing was left for printable to escape");
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(html("<script>'&\"\n"), "&lt;script&gt;&#39;&amp;&quot;\\n");
    }
}
