//! The window: how wide it is, and text that fits into it.
//!
//! Only a terminal's lines are cut. What goes into a pipe or a file is whole, so that programs read the same columns everywhere.

use std::borrow::Cow;
use std::os::fd::AsRawFd as _;

use crate::config::diagnostic::columns;

/// What stands for the rest of a line.
const MORE: &str = "...";
/// A window that says it is narrower than this does not know its size, or shows nothing of use anyway.
const NARROWEST: usize = 20;

/// Columns of the terminal on standard output; `None` where it is none, or does not say.
pub(super) fn window() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize (ioctl_tty(2)) into the one it is given, which outlives the call.
    let result = unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(usize::from(size.ws_col)).filter(|columns| *columns >= NARROWEST)
}

/// The text, and blanks up to so many columns of a terminal.
pub(super) fn padded(text: &str, width: usize) -> String {
    let mut padded = text.to_owned();
    padded.extend(std::iter::repeat_n(' ', width.saturating_sub(columns(text))));
    padded
}

/// Every line cut at the end so that the window need not break it. The only escape sequences in `text` are colours of our own, which take
/// no room and are kept.
pub(super) fn fit(text: &str, window: Option<usize>) -> Cow<'_, str> {
    let Some(window) = window.filter(|window| text.lines().any(|line| shown_columns(line) > *window)) else { return Cow::Borrowed(text) };
    let mut fitted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if shown_columns(line) > window {
            cut(&mut fitted, line, window.saturating_sub(MORE.len()));
        } else {
            fitted.push_str(line);
        }
        fitted.push_str(end);
    }
    Cow::Owned(fitted)
}

/// Sentences broken between words where the window ends. What goes on is indented below its text: behind the first word of a line that is
/// indented itself, which says what the line is about.
pub(super) fn wrap(text: &str, window: Option<usize>) -> Cow<'_, str> {
    let Some(window) = window.filter(|window| text.lines().any(|line| columns(line) > *window)) else { return Cow::Borrowed(text) };
    let mut wrapped = String::with_capacity(text.len());
    for line in text.lines() {
        let indent = if line.starts_with(' ') { 10 } else { 4 };
        let mut taken = 0usize;
        for word in line.split_inclusive(' ') {
            let wide = columns(word.trim_end());
            if taken > indent && taken.saturating_add(wide) > window {
                wrapped.truncate(wrapped.trim_end_matches(' ').len());
                wrapped.push('\n');
                wrapped.extend(std::iter::repeat_n(' ', indent));
                taken = indent;
            }
            wrapped.push_str(word);
            taken = taken.saturating_add(columns(word));
        }
        wrapped.push('\n');
    }
    Cow::Owned(wrapped)
}

/// Appends as much as has room, the mark of the rest, and every colour, so that none runs on into the next line.
fn cut(out: &mut String, line: &str, room: usize) {
    let mut taken = 0usize;
    let mut is_over = false;
    for piece in pieces(line) {
        if piece.starts_with('\x1b') {
            out.push_str(piece);
            continue;
        }
        for (at, character) in piece.char_indices() {
            let wide = columns(piece.get(at..at.saturating_add(character.len_utf8())).unwrap_or_default());
            is_over |= taken.saturating_add(wide) > room;
            if is_over {
                break;
            }
            taken = taken.saturating_add(wide);
            out.push(character);
        }
        if is_over && taken != usize::MAX {
            out.push_str(MORE);
            // Once: nothing has room from here on.
            taken = usize::MAX;
        }
    }
}

fn shown_columns(line: &str) -> usize {
    pieces(line).filter(|piece| !piece.starts_with('\x1b')).map(columns).sum()
}

/// Colours, each beginning with an escape character, and the text between them.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let end = match rest.strip_prefix('\x1b') {
            Some(after) => after.find('m').map_or(rest.len(), |at| at.saturating_add(2)),
            None => rest.find('\x1b').unwrap_or(rest.len()),
        };
        let (piece, after) = rest.split_at_checked(end)?;
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_the_end_and_nothing_else_is_changed() {
        let text = "web.1  RUNNING  pid 31, ready\nshort\n\nworker.1  BACKOFF\n";
        assert_eq!(fit(text, None), text);
        assert_eq!(fit(text, Some(29)), text);
        assert!(matches!(fit(text, Some(29)), Cow::Borrowed(_)));
        assert_eq!(fit(text, Some(20)), "web.1  RUNNING  p...\nshort\n\nworker.1  BACKOFF\n");
        assert_eq!(fit("x".repeat(40).as_str(), Some(20)), format!("{}...", "x".repeat(17)), "without a line feed");
    }

    #[test]
    fn colours_take_no_room_and_end_in_their_line() {
        let text = "web.1  \x1b[32mRUNNING\x1b[0m  pid 31, ready\n";
        assert_eq!(fit(text, Some(29)), text);
        assert_eq!(fit(text, Some(20)), "web.1  \x1b[32mRUNNING\x1b[0m  p...\n");
        assert_eq!(fit(text, Some(14)), "web.1  \x1b[32mRUNN...\x1b[0m\n");
        assert_eq!(fit(text, Some(9)), "web.1 ...\x1b[32m\x1b[0m\n");
    }

    #[test]
    fn wide_characters_are_never_halved() {
        assert_eq!(fit("日本語日本語", Some(12)), "日本語日本語");
        assert_eq!(fit("日本語日本語", Some(11)), "日本語日...");
        assert_eq!(fit("日本語日本語", Some(10)), "日本語...");
        assert_eq!(fit("e\u{301}e\u{301}e\u{301}e\u{301}e", Some(4)), "e\u{301}...");
        assert_eq!(padded("日本", 6), "日本  ");
        assert_eq!(padded("e\u{301}", 3), "e\u{301}  ");
        assert_eq!(padded("long", 2), "long");
    }

    #[test]
    fn sentences_go_on_below_their_beginning() {
        let text = "web.1 exited with code 1 after 5 s\n  why     it was not ready within its time\n  done    started\n";
        assert_eq!(wrap(text, None), text);
        let wrapped = "\
web.1 exited with code 1
    after 5 s
  why     it was not ready
          within its time
  done    started
";
        assert_eq!(wrap(text, Some(27)), wrapped);
        assert!(wrap("a-word-that-is-longer-than-all\n", Some(20)).starts_with("a-word-that-is-longer"), "it cannot be broken");
    }

    #[test]
    fn nothing_is_cut_where_no_room_is_known() {
        // Tests do not run on a terminal, or on one that says how wide it is.
        assert!(window().is_none_or(|columns| columns >= NARROWEST));
        assert_eq!(fit("", Some(20)), "");
        assert_eq!(fit("\x1b", Some(20)), "\x1b");
    }
}
