//! What fits on a terminal.

use std::os::fd::{AsFd, AsRawFd as _};

/// Columns and rows; `None` for what is no terminal, or has no size.
pub(super) fn size(stream: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills in a winsize, for which there is room; see ioctl_tty(2).
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// At most so many columns of a line without control characters but for colours, which take none; ends without colour when it was cut.
/// A character counts as one column.
pub(super) fn cut(line: &str, columns: usize) -> String {
    let mut text = String::with_capacity(line.len());
    let mut left = columns;
    let mut in_colour = false;
    let mut is_coloured = false;
    for character in line.chars() {
        if in_colour || character == '\x1b' {
            in_colour = character != 'm';
            is_coloured = true;
        } else if left == 0 {
            if is_coloured {
                text.push_str("\x1b[0m");
            }
            return text;
        } else {
            left = left.saturating_sub(1);
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_what_is_seen_of_it() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello", 3), "hel");
        assert_eq!(cut("héllo", 3), "hél");
        assert_eq!(cut("", 0), "");
        assert_eq!(cut("\x1b[32mRUNNING\x1b[0m  pid", 9), "\x1b[32mRUNNING\x1b[0m  \x1b[0m");
        assert_eq!(cut("\x1b[32mRUNNING\x1b[0m", 3), "\x1b[32mRUN\x1b[0m");
        assert_eq!(cut("\x1b[32mRUNNING\x1b[0m", 7), "\x1b[32mRUNNING\x1b[0m");
    }

    #[test]
    fn a_file_has_no_size() {
        assert_eq!(size(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
