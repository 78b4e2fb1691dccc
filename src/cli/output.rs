//! Data to stdout, messages to stderr, colour only for people.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use serde::Serialize;

use crate::engine::text::is_active;
use crate::server::printable;

/// A command that could not do its work: what happened, how to mend it, and the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit code.
    pub(super) code: u8,
    /// What happened and where; further lines are indented by whoever wrote them.
    pub(super) message: String,
    /// How to mend it.
    pub(super) help: Option<String>,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// Everything has been said on stderr already.
    pub(super) const fn shown(code: u8) -> Self {
        Self { code, message: String::new(), help: None }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `error: ...` and `= help: ...`, as diagnostics of the file look.
    pub(super) fn render(&self, color: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let word = if color { "\x1b[1;31merror\x1b[0m" } else { "error" };
        // Whoever wrote it made what it quotes harmless, line feeds too; that it has lines is its own doing.
        let message: Vec<_> = self.message.split('\n').map(printable).collect();
        let mut text = format!("{word}: {}\n", message.join("\n"));
        if let Some(help) = &self.help {
            text.push_str("  = help: ");
            text.push_str(&printable(help));
            text.push('\n');
        }
        text
    }
}

/// Whether text for this stream may be coloured: a terminal that is not dumb, or whatever it is with CLICOLOR_FORCE
/// (bixense.com/clicolors: present and not 0); never with NO_COLOR (no-color.org: present and not empty).
pub(super) fn is_colored(stream: &impl IsTerminal) -> bool {
    let variable = |name| std::env::var_os(name);
    wants_color(stream.is_terminal(), variable("NO_COLOR").as_deref(), variable("CLICOLOR_FORCE").as_deref(), variable("TERM").as_deref())
}

fn wants_color(is_terminal: bool, no_color: Option<&OsStr>, force: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    if no_color.is_some_and(|value| !value.is_empty()) {
        return false;
    }
    let is_forced = force.is_some_and(|value| !value.is_empty() && value != "0");
    is_forced || (is_terminal && term.is_none_or(|value| value != "dumb"))
}

/// The value as JSON on several lines, in which nothing that others wrote can disturb a terminal: what JSON lets stand as it is is escaped as well.
///
/// # Errors
///
/// When it cannot be written so; exit code 1.
pub(super) fn json(what: &str, value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(1, format!("cannot write the {what}: {error}")))?;
    if text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)) {
        return Ok(text + "\n");
    }
    let mut safe = String::with_capacity(text.len().saturating_add(1));
    for character in text.chars() {
        if character != '\n' && is_active(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing into a String cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// Writes to stdout. A reader that went away (`firstmate status | head -1`) is no error, and there is nobody to tell of another one.
pub(super) fn out(text: &str) {
    let _ = is_read(text);
}

/// The same for whoever goes on writing; false when nobody reads any more.
#[must_use]
pub(super) fn is_read(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Writes to stderr.
pub(super) fn err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The name closest to a mistyped one, if any is close.
pub(super) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_what_it_is_and_disturbs_no_terminal() {
        let text = "a\n\x1b[2J\u{9b}31m\u{202e}\u{e0041}\u{7f} b \"ü\" 日本";
        let written = json("text", &[text]).unwrap();
        assert_eq!(serde_json::from_str::<[String; 1]>(&written).unwrap(), [text]);
        assert!(!written.chars().any(|character| character != '\n' && is_active(character)), "{written}");
        assert!(written.contains("日本") && written.ends_with("\n]\n"), "{written}");
    }

    #[test]
    fn an_error_has_only_the_lines_it_was_given() {
        let failure = Failure::new(1, "x\x1b[2J\n  y\u{9b}").help("a\nerror: forged");
        assert_eq!(failure.render(false), "error: x\\u{1b}[2J\n  y\\u{9b}\n  = help: a\\nerror: forged\n");
    }

    #[test]
    fn colour_is_for_terminals_unless_somebody_says_otherwise() {
        let wants = |terminal, no_color: Option<&str>, force: Option<&str>, term: Option<&str>| {
            wants_color(terminal, no_color.map(OsStr::new), force.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(wants(true, None, None, Some("xterm")) && wants(true, None, None, None));
        assert!(!wants(false, None, None, Some("xterm")));
        assert!(!wants(true, None, None, Some("dumb")));
        assert!(!wants(true, Some("1"), None, None) && wants(true, Some(""), None, None));
        assert!(wants(false, None, Some("1"), None) && wants(true, None, Some("1"), Some("dumb")));
        assert!(!wants(false, None, Some("0"), None) && !wants(false, None, Some(""), None));
        assert!(!wants(true, Some("1"), Some("1"), None), "who wants none gets none");
    }
}
