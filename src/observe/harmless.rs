//! A service's line as a terminal may have it: its text and its colours, and nothing that reaches beyond the line.
//!
//! A line may say what it likes about itself. What moves the cursor, clears, sets a title or another character set could erase or forge
//! what others said, so it is left out where lines are shown on a terminal. Elsewhere they stay as they were written, byte for byte.
//!
//! What a sequence looks like is ECMA-48, section 5.4 (control sequences) and 5.6 (control strings), and ECMA-35 for the others.

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;
const DELETE: u8 = 0x7f;
const RESET: &[u8] = b"\x1b[0m";

/// Appends `text`. Colours and the like (SGR, `ESC [ … m`) stay and are switched off at the end; a tab stays; a carriage return and the other
/// controls that move become a blank; other controls and all other sequences are left out, and so is one that has no end.
pub(super) fn append(out: &mut Vec<u8>, text: &[u8]) {
    // C1 controls are two bytes in UTF-8, of which the first is this one.
    if !text.iter().any(|byte| byte.is_ascii_control() || *byte == 0xc2) {
        out.extend_from_slice(text);
        return;
    }
    let mut coloured = false;
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (&ESCAPE, [b'[', parameters @ ..]) => {
                let (length, is_colour) = control_sequence(parameters);
                let (parameters, after) = parameters.split_at(length);
                if is_colour {
                    out.extend_from_slice(b"\x1b[");
                    out.extend_from_slice(parameters);
                    coloured = true;
                }
                after
            }
            (&ESCAPE, [b']' | b'P' | b'X' | b'^' | b'_', string @ ..]) => after_string(string),
            (&ESCAPE, other) => after_short(other),
            (b'\t', after) => {
                out.push(b'\t');
                after
            }
            (b'\r' | b'\n' | 0x0b | 0x0c, after) => {
                out.push(b' ');
                after
            }
            (0xc2, [0x80..=0x9f, after @ ..]) => after,
            // Left there, it would make a control of what follows what is left out.
            (0xc2, after) if !matches!(after, [0xa0..=0xbf, ..]) => {
                out.push(b'?');
                after
            }
            (byte, after) => {
                if !byte.is_ascii_control() {
                    out.push(*byte);
                }
                after
            }
        };
    }
    if coloured {
        out.extend_from_slice(RESET);
    }
}

/// How long a control sequence is after its `ESC [`, and whether it is one of colour: parameters, intermediates, one final byte. One that is broken off ends
/// before the byte that cannot be of it.
fn control_sequence(bytes: &[u8]) -> (usize, bool) {
    let parameters = bytes.iter().take_while(|byte| matches!(byte, 0x30..=0x3f)).count();
    let rest = bytes.get(parameters..).unwrap_or_default();
    let intermediates = rest.iter().take_while(|byte| matches!(byte, 0x20..=0x2f)).count();
    let length = parameters.saturating_add(intermediates);
    match bytes.get(length) {
        Some(last @ 0x40..=0x7e) => {
            // `ESC [ > … m` and the like are private, and not of colour.
            let plain = bytes.get(..parameters).unwrap_or_default().iter().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'));
            (length.saturating_add(1), *last == b'm' && intermediates == 0 && plain)
        }
        Some(_) | None => (length, false),
    }
}

/// What comes after a control string: it ends with BEL, or ESC and a backslash, or never.
fn after_string(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| matches!(*byte, BELL | ESCAPE)).unwrap_or(bytes.len());
    match bytes.get(end..) {
        Some([BELL, after @ ..] | [ESCAPE, b'\\', after @ ..]) => after,
        // Another sequence begins, which ends this one.
        Some(after) => after,
        None => &[],
    }
}

/// What comes after any other sequence: intermediates and one final byte.
fn after_short(bytes: &[u8]) -> &[u8] {
    let intermediates = bytes.iter().take_while(|byte| matches!(byte, 0x20..=0x2f)).count();
    let rest = bytes.get(intermediates..).unwrap_or_default();
    match rest {
        [0x30..=0x7e, after @ ..] => after,
        [DELETE, after @ ..] => after,
        rest => rest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, text);
        out
    }

    #[test]
    fn text_and_colours_stay() {
        for text in ["", "plain", "\tcolumns", "grüße 🚢 \u{200d}", "\u{a0}"] {
            assert_eq!(shown(text.as_bytes()), text.as_bytes());
        }
        assert_eq!(shown(b"\xff\xfe is no UTF-8"), b"\xff\xfe is no UTF-8");
        for colour in ["\x1b[31m", "\x1b[m", "\x1b[1;38;5;9m", "\x1b[38:2::1:2:3m"] {
            assert_eq!(shown(format!("{colour}red").as_bytes()), format!("{colour}red\x1b[0m").as_bytes());
        }
    }

    #[test]
    fn what_reaches_beyond_the_line_is_left_out() {
        for (text, right) in [
            (&b"\x1b[2J\x1b[Hcleared"[..], &b"cleared"[..]),
            (b"\x1b[1A\x1b[2Kforged", b"forged"),
            (b"\x1b[?1049h\x1b[?25lalternate", b"alternate"),
            (b"\x1b[>4;2mkeys", b"keys"),
            (b"\x1b[1 qcursor", b"cursor"),
            (b"\x1b]0;title\x07after", b"after"),
            (b"\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", b"link"),
            (b"\x1bPq#0\x1b\\picture", b"picture"),
            (b"\x1b(0lqqk\x1b(B", b"lqqk"),
            (b"\x1bc\x1b7\x1b8\x1bMreset", b"reset"),
            (b"\x0e\x0fboxes\x07\x08", b"boxes"),
            (b"10%\r20%\r30%", b"10% 20% 30%"),
            ("\u{9b}2J\u{85}".as_bytes(), b"2J"),
            (b"\0\x7f", b""),
            (b"\xc2\x07\x9b2J", b"?\x9b2J"),
            (b"\x1b]0;no end", b""),
            (b"cut off \x1b[", b"cut off "),
            (b"cut off \x1b[3", b"cut off "),
            (b"cut off \x1b", b"cut off "),
            (b"\x1b[3\x1b[31mred", b"\x1b[31mred\x1b[0m"),
            (b"\x1b]0;x\x1b[31mred", b"\x1b[31mred\x1b[0m"),
        ] {
            assert_eq!(shown(text), right, "{}", text.escape_ascii());
        }
    }

    proptest! {
        /// Whatever the bytes are: what is left are the colours, tabs, and what is no control character.
        #[test]
        fn nothing_else_gets_through(text in prop::collection::vec(prop_oneof![Just(ESCAPE), Just(b'['), Just(b']'), Just(b'm'), Just(0xc2), 0x80..=0x9f_u8, any::<u8>()], 0..80)) {
            let mut rest = shown(&text);
            while let Some(at) = rest.windows(2).position(|two| two == b"\x1b[") {
                let end = rest[at + 2..].iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':')).unwrap() + at + 2;
                prop_assert_eq!(rest[end], b'm');
                rest.drain(at..=end);
            }
            prop_assert!(rest.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'), "{}", rest.escape_ascii());
            prop_assert!(!rest.windows(2).any(|two| matches!(two, [0xc2, 0x80..=0x9f])), "{}", rest.escape_ascii());
        }
    }
}
