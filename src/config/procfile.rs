//! The Procfile: one `name: command` a line.
//!
//! Accepts what foreman, honcho, forego, overmind and goreman accept between them: blanks around the colon or none, CRLF, a byte order
//! mark, `#` comments, a missing final newline. What those skip without a word is a warning here, with its place.

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::{Diagnostic, Source};

/// A Procfile that was read.
#[derive(Debug)]
pub struct Procfile {
    /// Its text.
    pub source: Rc<Source>,
    /// In the order of the file; names are unique.
    pub entries: Vec<Entry>,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `[A-Za-z0-9_-]+`.
    pub name: String,
    /// Where the name is.
    pub name_span: Range<usize>,
    /// Not empty, no blanks around it, not judged yet.
    pub command: String,
    /// Where the command is.
    pub command_span: Range<usize>,
}

/// Reads a Procfile. `None` when it is no text at all.
#[must_use]
pub fn parse(file: &Path, bytes: &[u8]) -> (Option<Procfile>, Vec<Diagnostic>) {
    // A comment in Latin-1 harms nobody, so bytes that are not UTF-8 are judged line by line.
    let source = match Source::new(file, bytes, false) {
        Ok(source) => Rc::new(source),
        Err(error) => return (None, vec![error]),
    };
    let mut problems = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    let mut by_name = std::collections::BTreeMap::new();
    let mut next = 0usize;
    for line in source.text().split('\n') {
        let start = next;
        next = start.saturating_add(line.len()).saturating_add(1);
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let first = start.saturating_add(line.len().saturating_sub(line.trim_start().len()));
        let span = first..first.saturating_add(trimmed.len());
        if source.is_lossy() && trimmed.contains(char::REPLACEMENT_CHARACTER) {
            problems.push(source.error(span, "the line is not UTF-8 text").help("save the file as UTF-8"));
            continue;
        }
        let skipped = || source.warning(span.clone(), "this line is not `name: command` and is skipped");
        let Some((before, after)) = trimmed.split_once(':') else {
            let help = trimmed.split_whitespace().next().filter(|word| is_name(word)).filter(|word| word.len() < trimmed.len());
            let help =
                help.map_or("put `#` before it if it is a remark".to_owned(), |word| format!("write `{word}:` if `{word}` is the name"));
            problems.push(skipped().help(help));
            continue;
        };
        let name = before.trim_end();
        if !is_name(name) {
            problems.push(if trimmed.starts_with(['"', '\'']) {
                skipped().help("remove the quotes around the line")
            } else {
                skipped().help(format!("{}; put `#` before the line if it is a remark", made_of(name)))
            });
            continue;
        }
        let command = after.trim_start();
        if command.is_empty() {
            problems.push(skipped().label("no command"));
            continue;
        }
        let name_span = first..first.saturating_add(name.len());
        let command_at = span.end.saturating_sub(command.len());
        let command_span = command_at..span.end;
        if let Some(&earlier) = by_name.get(name) {
            problems.push(
                source
                    .error(name_span, format!("`{name}` is defined twice"))
                    .note(format!("first defined at {}", source.place(earlier)))
                    .help("rename one of them"),
            );
            continue;
        }
        if let Some(at) = command.find("%PORT%") {
            let from = command_at.saturating_add(at);
            problems.push(
                source
                    .warning(from..from.saturating_add("%PORT%".len()), "`%PORT%` is not replaced by anything")
                    .help("write $PORT, as sh has it"),
            );
        }
        by_name.insert(name.to_owned(), name_span.start);
        entries.push(Entry { name: name.to_owned(), name_span, command: command.to_owned(), command_span });
    }
    (Some(Procfile { source, entries }), problems)
}

/// What a name is made of, for whoever wrote another one. With letters that are not ASCII names could look alike and not be, and would be
/// no part of a variable's or a metric's name.
pub(super) fn made_of(name: &str) -> &'static str {
    if name.is_ascii() {
        "a name is made of letters, digits, `-` and `_`"
    } else {
        "a name is made of the letters A to Z and a to z, digits, `-` and `_`, since it is also part of variables and metrics"
    }
}

/// `[A-Za-z0-9_-]+`
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<(String, String)>, Vec<String>) {
        let (procfile, problems) = parse(Path::new("Procfile"), text);
        let entries = procfile.map(|procfile| procfile.entries.into_iter().map(|entry| (entry.name, entry.command)).collect());
        (
            entries.unwrap_or_default(),
            problems.iter().map(|problem| format!("{}:{} {}", problem.line, problem.column, problem.message)).collect(),
        )
    }

    #[test]
    fn what_the_procfile_family_accepts_is_accepted() {
        for text in [
            &b"web: run it\n"[..],
            b"web: run it",
            b"web:run it",
            b"web:\trun it  ",
            b"web : run it",
            b"  web:      run it\r\n",
            b"\xEF\xBB\xBFweb: run it\r\n\r\n# remark\r\n",
            b"# caf\xe9\nweb: run it",
        ] {
            assert_eq!(read(text), (vec![("web".to_owned(), "run it".to_owned())], vec![]), "{text:?}");
        }
        assert_eq!(read(b"a_B-1: x --url http://h:1/p\n").0, [("a_B-1".to_owned(), "x --url http://h:1/p".to_owned())]);
        assert_eq!(read(b"\n#x: y\n   \n"), (vec![], vec![]));
    }

    #[test]
    fn what_is_skipped_is_told_with_its_place() {
        let skipped = "this line is not `name: command` and is skipped";
        for (text, place) in [
            ("ticker ./ticker $PORT", "1:1"),
            ("\n  <<<<<<< HEAD", "2:3"),
            ("\"web: java\"", "1:1"),
            ("web:", "1:1"),
            ("web:   ", "1:1"),
            ("a b: c", "1:1"),
            ("caf\u{e9}: c", "1:1"),
            (": c", "1:1"),
        ] {
            assert_eq!(read(text.as_bytes()), (vec![], vec![format!("{place} {skipped}")]), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(read(b"web: a\nb: \xff").1, ["2:1 the line is not UTF-8 text"]);
        assert_eq!(read(b"\xff\xfew\0e\0").1, ["0:0 the file is UTF-16 text"]);
    }
}
