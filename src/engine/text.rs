//! Which characters of text that others wrote could disturb what is around it.

/// Whether it moves a cursor, ends a line, turns the direction of writing, or is there and cannot be seen: control characters (C0, DEL, C1),
/// Unicode's own line ends, and its bidirectional, zero-width, annotating and tag characters. Whoever shows text that is not firstmate's
/// own shows something else in place of these.
#[must_use]
pub const fn is_active(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}
