//! What stands in `/dev/termination-log`: why the container ended, and the last lines of the service that ended it.

use std::fmt::Write as _;

/// A sentence, and where a service is to blame its last lines, oldest first, all in at most `room` bytes. What does not fit is left out from
/// the oldest line on; nothing is cut within a character.
#[must_use]
pub fn last_words(sentence: &str, blamed: Option<(&str, &[u8])>, room: usize) -> String {
    let mut text = String::new();
    // One line: what a probe or a file name says may have more.
    text.push_str(sentence.lines().next().unwrap_or_default());
    text.truncate(text.floor_char_boundary(room.saturating_sub(1)));
    text.push('\n');
    let Some((name, said)) = blamed else { return text };
    let said = String::from_utf8_lossy(said);
    let said = said.trim_end_matches(['\n', '\r']);
    let mut heading = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(heading, "last output of {name}:");
    let left = room.saturating_sub(text.len()).saturating_sub(heading.len()).saturating_sub(1);
    if said.is_empty() || left == 0 {
        return text;
    }
    let mut from = said.ceil_char_boundary(said.len().saturating_sub(left));
    if from > 0
        && said.as_bytes().get(from.saturating_sub(1)) != Some(&b'\n')
        && let Some(whole) = said.get(from..).and_then(|rest| rest.find('\n'))
    {
        // Half a line at the beginning says nothing; half of the only one is better than none.
        from = from.saturating_add(whole).saturating_add(1);
    }
    text.push_str(&heading);
    text.push_str(said.get(from..).unwrap_or_default());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_alone() {
        assert_eq!(last_words("ended with code 0: SIGTERM received", None, 4096), "ended with code 0: SIGTERM received\n");
        assert_eq!(last_words("ended with code 1: web", Some(("web.1", b"\n")), 4096), "ended with code 1: web\n");
    }

    #[test]
    fn the_newest_lines_are_kept_whole() {
        let words = last_words("why", Some(("web.1", b"one\ntwo\nthree\n")), 4096);
        assert_eq!(words, "why\nlast output of web.1:\none\ntwo\nthree\n");
        // Room for "wo\nthree" would be there.
        let room = "why\nlast output of web.1:\nwo\nthree\n".len();
        assert_eq!(last_words("why", Some(("web.1", b"one\ntwo\nthree\n")), room), "why\nlast output of web.1:\nthree\n");
        let room = "why\nlast output of web.1:\ntwo\nthree\n".len();
        assert_eq!(last_words("why", Some(("web.1", b"one\ntwo\nthree\n")), room), "why\nlast output of web.1:\ntwo\nthree\n");
        // The only line is cut at its beginning.
        let room = "why\nlast output of web.1:\nree\n".len();
        assert_eq!(last_words("why", Some(("web.1", b"three\n")), room), "why\nlast output of web.1:\nree\n");
    }

    #[test]
    fn never_more_than_the_room_and_never_half_a_character() {
        let said = "gr\u{fc}\u{df}e \u{1f980}\n".repeat(40);
        for room in 1..700 {
            for sentence in ["why", "warum \u{1f980} \u{1f980} \u{1f980}"] {
                let words = last_words(sentence, Some(("web.1", said.as_bytes())), room);
                assert!(words.len() <= room && words.ends_with('\n'), "{room}: {words:?}");
                assert!(!words.contains('\u{fffd}'));
            }
        }
        let broken = last_words("why", Some(("web.1", b"\xff\xfe broken\n")), 4096);
        assert!(broken.ends_with(" broken\n") && broken.is_char_boundary(broken.len()), "{broken:?}");
    }
}
