//! Text as man(7) wants it.

use std::fmt::Write as _;

/// A line of text that stands for itself.
pub(crate) fn escaped(text: &str) -> String {
    // What begins with a dot would be taken for a request.
    let guard = if text.starts_with('.') { "\\&" } else { "" };
    format!("{guard}{}", within(text))
}

/// Text within a line; see groff_char(7).
pub(crate) fn within(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '`' => out.push_str("\\(ga"),
            '\'' => out.push_str("\\(aq"),
            other => out.push(other),
        }
    }
    out
}

/// The text below the options of a `--help`: titles, and below them two columns, the first of which has no two blanks in a row.
pub(crate) fn help_sections(help: &str) -> String {
    let mut out = String::new();
    let mut in_entry = false;
    for line in help.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.is_empty() {
            in_entry = false;
            continue;
        }
        if indent == 0 {
            let title = text.trim_end_matches(':');
            let title = if title == "Exit codes" { "EXIT STATUS".to_owned() } else { title.to_uppercase() };
            let _ = writeln!(out, ".SH \"{}\"", escaped(&title));
            in_entry = false;
        } else if indent == 2 {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(word), escaped(rest.trim_start()));
            in_entry = true;
        } else {
            assert!(in_entry, "a line of nothing: {line}");
            let _ = writeln!(out, "{}", escaped(text));
        }
    }
    out
}

#[test]
fn nothing_is_taken_for_a_request() {
    assert_eq!(escaped(".env"), "\\&.env");
    assert_eq!(escaped("'x' --long \\n"), "\\(aqx\\(aq \\-\\-long \\en");
    assert_eq!(
        help_sections("Exit codes:\n  0  fine\n     and well\n  N  else"),
        ".SH \"EXIT STATUS\"\n.TP\n\\fB0\\fR\nfine\nand well\n.TP\n\\fBN\\fR\nelse\n"
    );
}
