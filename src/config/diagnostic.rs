//! A complaint about a file: what is wrong, where, and how to mend it; and the text it points into.
//!
//! Columns count characters from 1, as editors do. What is printed of a source line is made harmless for terminals: tabs become
//! blanks, control characters and direction marks become visible signs, and a long line is cut around the marked part.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::engine::text::is_active;

/// Whether the file can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is started.
    Error,
    /// Told, and taken as written.
    Warning,
}

/// One complaint. Rendered in the form that compilers have taught people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Empty when it is about no file.
    pub file: Box<Path>,
    /// From 1; 0 when it is about the whole file.
    pub line: usize,
    /// From 1, in characters; 0 when it is about the whole line, or the line may not be shown.
    pub column: usize,
    /// The source line; `None` when there is nothing to show, or it may not be shown.
    pub mark: Option<Box<Mark>>,
    /// Other places that matter, such as the first definition of a name.
    pub notes: Vec<String>,
    /// How to mend it.
    pub help: Option<String>,
}

/// A source line with the part of it that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The line or the part of it around the mark, safe to print.
    pub text: String,
    /// Terminal columns of `text` before the first marked one.
    pub indent: usize,
    /// Terminal columns that are marked; at least 1.
    pub width: usize,
    /// A few words beside the mark.
    pub label: Option<String>,
}

impl Diagnostic {
    /// A complaint about a file as a whole (or about none, when `file` is empty).
    #[must_use]
    pub fn whole(severity: Severity, file: &Path, message: impl Into<String>) -> Self {
        Self { severity, message: message.into(), file: file.into(), line: 0, column: 0, mark: None, notes: Vec::new(), help: None }
    }

    /// A complaint about a line whose text must not be shown.
    #[must_use]
    pub fn secret(severity: Severity, file: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { line, ..Self::whole(severity, file, message) }
    }

    /// With a mend.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With a few words beside the mark.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        if let Some(mark) = &mut self.mark {
            mark.label = Some(label.into());
        }
        self
    }

    /// With another place that matters.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Without the source line, which may hold a secret.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.mark = None;
        self
    }

    /// `file:line:column`, as far as known.
    #[must_use]
    pub fn place(&self) -> String {
        place(&self.file, self.line, self.column)
    }

    /// Nothing is started because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Several lines without a final newline.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let (reset, bold, blue) = if color { ("\x1b[0m", "\x1b[1m", "\x1b[1;34m") } else { ("", "", "") };
        let (word, tint) = match (self.severity, color) {
            (Severity::Error, true) => ("error", "\x1b[1;31m"),
            (Severity::Warning, true) => ("warning", "\x1b[1;33m"),
            (Severity::Error, false) => ("error", ""),
            (Severity::Warning, false) => ("warning", ""),
        };
        let number = self.line.to_string();
        let gutter = " ".repeat(if self.mark.is_none() { 1 } else { number.len() });
        let mut out = format!("{tint}{word}{reset}{bold}: {}{reset}", printable(&self.message));
        if !self.file.as_os_str().is_empty() {
            out.push_str(&format!("\n{gutter}{blue}-->{reset} {}", self.place()));
        }
        if let Some(mark) = &self.mark {
            let label = mark.label.as_deref().map(|label| format!(" {}", printable(label))).unwrap_or_default();
            let (text, indent, carets) = (&mark.text, " ".repeat(mark.indent), "^".repeat(mark.width.max(1)));
            out.push_str(&format!("\n{gutter} {blue}|{reset}\n{blue}{number} |{reset} {text}"));
            out.push_str(&format!("\n{gutter} {blue}|{reset} {indent}{tint}{carets}{label}{reset}"));
        }
        for note in &self.notes {
            out.push_str(&format!("\n{gutter} {blue}={reset} {bold}note{reset}: {}", printable(note)));
        }
        if let Some(help) = &self.help {
            out.push_str(&format!("\n{gutter} {blue}={reset} {bold}help{reset}: {}", printable(help)));
        }
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

fn place(file: &Path, line: usize, column: usize) -> String {
    let file = printable(&file.to_string_lossy());
    match (line, column) {
        (0, _) => file,
        (line, 0) => format!("{file}:{line}"),
        (line, column) => format!("{file}:{line}:{column}"),
    }
}

/// A text file with its name, able to say where in it a byte is.
#[derive(Debug)]
pub struct Source {
    file: PathBuf,
    text: String,
    /// Byte offset of each line's first byte; filled in at the first complaint, since a good file needs none.
    starts: OnceCell<Vec<usize>>,
    /// Bytes that could not be read as UTF-8 were replaced.
    lossy: bool,
}

/// Characters of a source line that are shown at most.
const SHOWN: usize = 120;
/// Of these, how many before the mark.
const BEFORE: usize = 40;

impl Source {
    /// Takes UTF-8, with or without a byte order mark.
    ///
    /// # Errors
    /// UTF-16, and where `strict` bytes that are not UTF-8; otherwise those are replaced and `is_lossy` says so.
    pub fn new(file: &Path, bytes: &[u8], strict: bool) -> Result<Self, Diagnostic> {
        if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
            return Err(utf16(file));
        }
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { file: file.to_owned(), text: text.to_owned(), starts: OnceCell::new(), lossy: false }),
            Err(error) => {
                let source =
                    Self { file: file.to_owned(), text: String::from_utf8_lossy(bytes).into_owned(), starts: OnceCell::new(), lossy: true };
                if !strict {
                    return Ok(source);
                }
                // What precedes the first bad byte is valid, so the offset means the same in the replaced text.
                let at = error.valid_up_to();
                let end = at.saturating_add(char::REPLACEMENT_CHARACTER.len_utf8());
                Err(source.error(at..end, "the file is not UTF-8 text").help("save it as UTF-8"))
            }
        }
    }

    /// The text, without a byte order mark.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its name as it is shown.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Some bytes were not UTF-8; each is U+FFFD in the text.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// An error about the bytes of `span`.
    #[must_use]
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, span, message)
    }

    /// A warning about the bytes of `span`.
    #[must_use]
    pub fn warning(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, span, message)
    }

    /// `file:line:column` of a byte.
    #[must_use]
    pub fn place(&self, offset: usize) -> String {
        let (line, start) = self.line_of(offset);
        place(&self.file, line, self.column(start, offset))
    }

    /// The number of the line a byte is in, from 1.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.line_of(offset).0
    }

    fn column(&self, start: usize, offset: usize) -> usize {
        let before = self.text.as_bytes().get(start..offset.min(self.text.len())).unwrap_or_default();
        // A character has exactly one byte that is not a continuation byte.
        before.iter().filter(|&&byte| byte & 0xC0 != 0x80).count().saturating_add(1)
    }

    fn line_of(&self, offset: usize) -> (usize, usize) {
        let starts = self.starts.get_or_init(|| {
            let after_newlines = self.text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at.saturating_add(1));
            std::iter::once(0).chain(after_newlines).collect()
        });
        let number = starts.partition_point(|&start| start <= offset).max(1);
        let start = starts.get(number.saturating_sub(1)).copied().unwrap_or(0);
        // An empty last line has nothing to show: point to the end of the one before it instead.
        if start >= self.text.len() && number > 1 && offset >= self.text.len() {
            let number = number.saturating_sub(1);
            return (number, starts.get(number.saturating_sub(1)).copied().unwrap_or(0));
        }
        (number, start)
    }

    fn diagnostic(&self, severity: Severity, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let (line, start) = self.line_of(span.start);
        let whole = self.text.get(start..).unwrap_or_default();
        let text = whole.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let end = start.saturating_add(text.len());
        let from = self.column(start, span.start.min(end)).saturating_sub(1);
        let to = self.column(start, span.end.min(end)).saturating_sub(1).max(from.saturating_add(1));
        let skipped = if from.saturating_add(BEFORE) > SHOWN { from.saturating_sub(BEFORE) } else { 0 };
        let mut shown = String::new();
        if skipped > 0 {
            shown.push_str("...");
        }
        let mut indent = columns(&shown);
        let mut width = 0usize;
        let mut chars = text.chars().skip(skipped);
        for (at, c) in (skipped..).zip(chars.by_ref().take(SHOWN)) {
            let before = shown.len();
            push_printable(&mut shown, c);
            let wide = columns(shown.get(before..).unwrap_or_default());
            if at < from {
                indent = indent.saturating_add(wide);
            } else if at < to {
                width = width.saturating_add(wide);
            }
        }
        if chars.next().is_some() {
            shown.push_str("...");
        }
        // An empty line still shows its mark.
        let text = if shown.is_empty() { " ".to_owned() } else { shown };
        Diagnostic {
            line,
            column: from.saturating_add(1),
            mark: Some(Box::new(Mark { text, indent, width: width.max(1), label: None })),
            ..Diagnostic::whole(severity, &self.file, message)
        }
    }
}

/// The one complaint about UTF-16, which PowerShell's `>` writes.
pub(crate) fn utf16(file: &Path) -> Diagnostic {
    Diagnostic::whole(Severity::Error, file, "the file is UTF-16 text").help("save it as UTF-8 (PowerShell: Out-File -Encoding utf8)")
}

/// Text in which no character can move the cursor, change colours or reverse the direction of writing.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_printable(&mut out, c));
    out
}

fn push_printable(out: &mut String, c: char) {
    match c {
        '\t' => out.push_str("    "),
        '\u{7f}' => out.push('\u{2421}'),
        // Unicode has a picture for each control character, in the same order.
        c if (c as u32) < 0x20 => out.push(char::from_u32((c as u32).saturating_add(0x2400)).unwrap_or('?')),
        // Some scripts and emoji are joined by these two; they neither move nor turn anything.
        '\u{200c}' | '\u{200d}' => out.push(c),
        c if is_active(c) => out.push(char::REPLACEMENT_CHARACTER),
        c => out.push(c),
    }
}

/// Terminal columns of a text: East Asian wide characters and emoji take two, combining marks none.
/// Ranges are the large blocks of Unicode's EastAsianWidth.txt; a rare stray character only shifts a caret.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x0300..=0x036F
            | 0x0483..=0x0489
            | 0x0591..=0x05BD
            | 0x0610..=0x061A
            | 0x064B..=0x065F
            | 0x0E31
            | 0x0E34..=0x0E3A
            | 0x0E47..=0x0E4E
            | 0x1AB0..=0x1AFF
            | 0x1DC0..=0x1DFF
            | 0x200B..=0x200D
            | 0x20D0..=0x20FF
            | 0xFE00..=0xFE0F
            | 0xFE20..=0xFE2F
            | 0xFEFF => 0,
            0x1100..=0x115F
            | 0x2E80..=0x303E
            | 0x3041..=0xA4CF
            | 0xA960..=0xA97F
            | 0xAC00..=0xD7A3
            | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F
            | 0xFF00..=0xFF60
            | 0xFFE0..=0xFFE6
            | 0x1F300..=0x1F64F
            | 0x1F680..=0x1F6FF
            | 0x1F900..=0x1FAFF
            | 0x20000..=0x3FFFD => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, marked: &str) -> String {
        let source = Source::new(Path::new("f.toml"), text.as_bytes(), true).unwrap();
        let start = text.find(marked).unwrap();
        source.error(start..start + marked.len(), "bad").render(false)
    }

    #[test]
    fn tabs_wide_and_combining_characters_keep_the_mark_below_its_text() {
        assert_eq!(at("\tx = 1", "x"), "error: bad\n --> f.toml:1:2\n  |\n1 |     x = 1\n  |     ^");
        assert_eq!(at("日本 = ok", "ok"), "error: bad\n --> f.toml:1:6\n  |\n1 | 日本 = ok\n  |        ^^");
        assert_eq!(at("e\u{301} = ok", "ok"), "error: bad\n --> f.toml:1:6\n  |\n1 | e\u{301} = ok\n  |     ^^");
        assert_eq!(at("a = \"日本\"", "\"日本\""), "error: bad\n --> f.toml:1:5\n  |\n1 | a = \"日本\"\n  |     ^^^^^^");
    }

    #[test]
    fn control_characters_and_direction_marks_are_made_visible() {
        assert_eq!(at("a\x1b[31m = x", "x"), "error: bad\n --> f.toml:1:10\n  |\n1 | a\u{241b}[31m = x\n  |          ^");
        assert_eq!(at("a\u{202e} = x", "x"), "error: bad\n --> f.toml:1:6\n  |\n1 | a\u{fffd} = x\n  |      ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let shown = format!("...{}HERE{}...", "a".repeat(40), "b".repeat(76));
        let mark = format!("{}^^^^", " ".repeat(43));
        assert_eq!(at(&text, "HERE"), format!("error: bad\n --> f.toml:1:501\n  |\n1 | {shown}\n  | {mark}"));
    }

    #[test]
    fn crlf_and_the_end_of_the_file_have_a_place() {
        assert_eq!(at("a = 1\r\nb = 22\r\n", "22\r\n"), "error: bad\n --> f.toml:2:5\n  |\n2 | b = 22\n  |     ^^");
        let source = Source::new(Path::new("f"), b"ab\n", true).unwrap();
        assert_eq!(source.place(3), "f:1:4");
        let empty = Source::new(Path::new("f"), b"", true).unwrap();
        assert_eq!(empty.error(0..0, "bad").render(false), "error: bad\n --> f:1:1\n  |\n1 |  \n  | ^");
    }

    #[test]
    fn a_line_number_of_two_digits_widens_the_gutter() {
        let text = format!("{}restrat = 1", "\n".repeat(11));
        let source = Source::new(Path::new("firstmate.toml"), text.as_bytes(), true).unwrap();
        let rendered = source.error(11..18, "unknown key `restrat` in service `web`").help("did you mean `restart`?").render(false);
        assert_eq!(
            rendered,
            "error: unknown key `restrat` in service `web`\n  --> firstmate.toml:12:1\n   |\n12 | restrat = 1\n   | ^^^^^^^\n   = help: did you mean `restart`?"
        );
    }

    #[test]
    fn colour_adds_only_colour() {
        let source = Source::new(Path::new("f"), b"a = 1", true).unwrap();
        let diagnostic = source.warning(0..1, "odd").label("here").note("there").help("mend");
        let mut plain = String::new();
        let mut rest = diagnostic.render(true);
        assert!(rest.contains("\x1b[1;33m"));
        while let Some(start) = rest.find('\x1b') {
            plain.push_str(&rest[..start]);
            let end = rest[start..].find('m').unwrap();
            rest = rest[start + end + 1..].to_owned();
        }
        plain.push_str(&rest);
        assert_eq!(plain, diagnostic.render(false));
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_at_its_place() {
        let error = Source::new(Path::new("f"), b"ok\na\xff\xfe", true).unwrap_err();
        assert_eq!((error.line, error.column), (2, 2));
        assert!(Source::new(Path::new("f"), b"\xff\xfea\0", false).is_err());
        assert!(Source::new(Path::new("f"), b"# caf\xe9\n", false).is_ok_and(|source| source.is_lossy()));
        assert_eq!(Source::new(Path::new("f"), b"\xEF\xBB\xBFa", true).unwrap().text(), "a");
    }
}
