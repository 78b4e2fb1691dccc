//! Data to stdout, messages to stderr, colour only for people.

use std::io::{IsTerminal, Write as _};

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
        let mut text = if color { format!("\x1b[1;31merror\x1b[0m: {}\n", self.message) } else { format!("error: {}\n", self.message) };
        if let Some(help) = &self.help {
            text.push_str("  = help: ");
            text.push_str(help);
            text.push('\n');
        }
        text
    }
}

/// Whether text for this stream may be coloured: a terminal that is not dumb, and no NO_COLOR (no-color.org: present and not empty).
pub(super) fn is_colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Writes to stdout. A reader that went away (`firstmate status | head -1`) is no error, and there is nobody to tell of another one.
pub(super) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
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
