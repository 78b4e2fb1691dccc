//! `.env`: `KEY=value` a line, with the quotes, escapes and expansions that the common readers of such files share.
//!
//! Accepts `export`, blanks around `=`, `KEY: value`, CRLF, a byte order mark, unquoted values with blanks in them, values in quotes over
//! several lines, and remarks behind a blank and `#`. Expands `$VAR`, `${VAR}`, `${VAR:-x}`, `${VAR-x}`, `${VAR:+x}`, `${VAR+x}` outside single
//! quotes; never `$(command)`, which stays as it is written. Values are bytes; only NUL is impossible; see environ(7).
//!
//! Values are secrets. No complaint of this module holds a value or the text of a line: only names of keys and line numbers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::diagnostic::utf16;
use super::{Diagnostic, Severity};

/// The longest string the kernel passes to a program: MAX_ARG_STRLEN, 32 pages; see execve(2).
const LONGEST: usize = 131_072;
/// All values together. The kernel passes no more than a quarter of the stack limit, 2 MiB by default; see execve(2).
const LARGEST: usize = 2 * 1024 * 1024;
/// Defaults inside defaults; each level is a call of its own.
const DEEPEST: usize = 16;

/// Environment variables by name.
pub type Env = BTreeMap<OsString, OsString>;

/// Reads a file and adds its values to `values`, where a later line replaces an earlier one. Names in values are looked up in `env`
/// first, the environment that wins over these files anyway, and then among `values`.
pub fn parse(file: &Path, bytes: &[u8], env: &Env, values: &mut Env) -> Vec<Diagnostic> {
    parse_noting(file, bytes, env, values, &mut |_, _| ())
}

/// As [`parse`]; `note` hears of each variable that is added, with its line.
pub(super) fn parse_noting(file: &Path, bytes: &[u8], env: &Env, values: &mut Env, note: &mut dyn FnMut(&OsStr, usize)) -> Vec<Diagnostic> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return vec![utf16(file)];
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        let line = bytes.iter().take(at).filter(|&&byte| byte == b'\n').count().saturating_add(1);
        return vec![
            Diagnostic::secret(Severity::Error, file, line, "the file holds a NUL byte, which no environment variable can")
                .help("save it as UTF-8 text"),
        ];
    }
    let mut reader = Reader { file, bytes, at: 0, line: 1, env, problems: Vec::new() };
    let mut total = 0usize;
    while reader.at < bytes.len() {
        reader.blanks();
        match reader.peek() {
            None => break,
            Some(b'\n' | b'\r' | b'#') => reader.rest_of_line(),
            Some(_) => {
                let line = reader.line;
                let Some(key) = reader.key() else {
                    reader.complain(
                        Severity::Warning,
                        line,
                        "this line is not KEY=value and is skipped",
                        "put `#` before it if it is a remark",
                    );
                    reader.rest_of_line();
                    continue;
                };
                let name = String::from_utf8_lossy(key).into_owned();
                match reader.value(&name, values) {
                    Ok(value) => {
                        total = total.saturating_add(key.len()).saturating_add(value.len());
                        if total > LARGEST {
                            reader.complain(
                                Severity::Error,
                                line,
                                "the values of this file are longer than 2 MiB together, more than the kernel passes to a program",
                                "shorten them",
                            );
                            break;
                        }
                        note(OsStr::from_bytes(key), line);
                        values.insert(OsString::from_vec(key.to_vec()), OsString::from_vec(value));
                    }
                    Err((line, message, help)) => {
                        reader.complain(Severity::Error, line, message, help);
                        reader.rest_of_line();
                    }
                }
            }
        }
    }
    reader.problems
}

struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
    line: usize,
    env: &'a Env,
    problems: Vec<Diagnostic>,
}

/// Line, message, help.
type Wrong = (usize, String, String);

impl<'a> Reader<'a> {
    fn complain(&mut self, severity: Severity, line: usize, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Diagnostic::secret(severity, self.file, line, message).help(help));
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line = self.line.saturating_add(1);
        }
        self.at = self.at.saturating_add(1);
    }

    /// Blanks within a line.
    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | 0x0b | 0x0c)) {
            self.skip();
        }
    }

    /// The line with its newline.
    fn rest_of_line(&mut self) {
        while let Some(byte) = self.peek() {
            self.skip();
            if byte == b'\n' {
                return;
            }
        }
    }

    fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
            self.skip();
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// `export KEY =`, up to where the value begins.
    fn key(&mut self) -> Option<&'a [u8]> {
        let mut key = self.word();
        let blank_follows = matches!(self.peek(), Some(b' ' | b'\t'));
        self.blanks();
        if key == b"export" && blank_follows && !matches!(self.peek(), Some(b'=' | b':')) {
            key = self.word();
            self.blanks();
        }
        if !key.first().is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'_') {
            return None;
        }
        match self.peek() {
            Some(b'=') => self.skip(),
            // `KEY: value`; without a blank it is more likely something else, such as an address.
            Some(b':') if matches!(self.bytes.get(self.at.saturating_add(1)), None | Some(b' ' | b'\t' | b'\r' | b'\n')) => self.skip(),
            Some(_) | None => return None,
        }
        self.blanks();
        Some(key)
    }

    /// The value and the rest of its line.
    fn value(&mut self, name: &str, values: &Env) -> Result<Vec<u8>, Wrong> {
        let mut out = Vec::new();
        // Behind the blanks that were skipped after `=`, as the shell would take it.
        let after_blank = self.at.checked_sub(1).and_then(|before| self.bytes.get(before)).is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        if matches!(self.peek(), Some(b'"' | b'\'')) {
            loop {
                match self.peek() {
                    Some(quote @ (b'"' | b'\'')) => self.quoted(quote, name, &mut out, values)?,
                    None | Some(b'\n') => break,
                    Some(b' ' | b'\t' | b'\r') => {
                        self.blanks();
                        if !matches!(self.peek(), None | Some(b'\n' | b'\r' | b'#')) {
                            return Err((
                                self.line,
                                format!("there is text behind the closing quote of `{name}`"),
                                "put the whole value into one pair of quotes, with a backslash before quotes within it".to_owned(),
                            ));
                        }
                        break;
                    }
                    // `"a"b` and `"a"'b'` are one value, as in a shell.
                    Some(_) => {
                        let start = self.at;
                        while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'\'')) {
                            self.skip();
                        }
                        self.unquoted(self.bytes.get(start..self.at).unwrap_or_default(), name, &mut out, values)?;
                    }
                }
            }
        } else {
            let start = self.at;
            let rest = self.bytes.get(start..).unwrap_or_default();
            let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            let text = rest.get(..length).unwrap_or_default();
            let mut before_blank = after_blank;
            let mut end = text.len();
            for (at, &byte) in text.iter().enumerate() {
                if byte == b'#' && before_blank {
                    end = at;
                    break;
                }
                before_blank = matches!(byte, b' ' | b'\t');
            }
            let text = text.get(..end).unwrap_or_default().trim_ascii_end();
            self.unquoted(text, name, &mut out, values)?;
        }
        self.rest_of_line();
        Ok(out)
    }

    fn unquoted(&mut self, text: &[u8], name: &str, out: &mut Vec<u8>, values: &Env) -> Result<(), Wrong> {
        // Looked at before it is expanded too: that keeps the search for closing braces short.
        self.bounded(name, text)?;
        let mut at = 0usize;
        while let Some(&byte) = text.get(at) {
            match byte {
                b'$' => at = self.expand(text, at, name, out, values, 0)?,
                // A backslash is itself here (`C:\new`), except where it keeps a `$` from being expanded.
                b'\\' if text.get(at.saturating_add(1)) == Some(&b'$') => {
                    out.push(b'$');
                    at = at.saturating_add(2);
                }
                byte => {
                    out.push(byte);
                    at = at.saturating_add(1);
                }
            }
        }
        self.bounded(name, out)
    }

    /// From one quote to the next, over lines.
    fn quoted(&mut self, quote: u8, name: &str, out: &mut Vec<u8>, values: &Env) -> Result<(), Wrong> {
        let first_line = self.line;
        self.skip();
        let start = self.at;
        loop {
            match self.peek() {
                None => {
                    self.at = self.bytes.len();
                    return Err((
                        first_line,
                        format!("the quote that opens the value of `{name}` is never closed"),
                        "close it; a value that begins with a quote sign needs the other kind of quotes around it".to_owned(),
                    ));
                }
                Some(byte) if byte == quote => break,
                Some(b'\\') if quote == b'"' => {
                    self.skip();
                    self.skip();
                }
                Some(_) => self.skip(),
            }
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        self.skip();
        if quote == b'\'' {
            push_lines(text, out);
        } else {
            self.double_quoted(text, name, out, values)?;
        }
        self.bounded(name, out)
    }

    fn double_quoted(&mut self, text: &[u8], name: &str, out: &mut Vec<u8>, values: &Env) -> Result<(), Wrong> {
        self.bounded(name, text)?;
        let mut at = 0usize;
        while let Some(&byte) = text.get(at) {
            let next = text.get(at.saturating_add(1)).copied();
            match (byte, next) {
                (b'$', _) => {
                    at = self.expand(text, at, name, out, values, 0)?;
                    continue;
                }
                (b'\r', Some(b'\n')) => {}
                (b'\\', Some(escaped)) => {
                    at = at.saturating_add(1);
                    match escaped {
                        b'n' => out.push(b'\n'),
                        b'r' => out.push(b'\r'),
                        b't' => out.push(b'\t'),
                        b'a' => out.push(0x07),
                        b'b' => out.push(0x08),
                        b'f' => out.push(0x0c),
                        b'v' => out.push(0x0b),
                        b'"' | b'\'' | b'\\' | b'$' | b'`' => out.push(escaped),
                        // Joins the lines, as in a shell.
                        b'\n' => {}
                        b'\r' if text.get(at.saturating_add(1)) == Some(&b'\n') => at = at.saturating_add(1),
                        other => out.extend([b'\\', other]),
                    }
                }
                (byte, _) => out.push(byte),
            }
            at = at.saturating_add(1);
        }
        Ok(())
    }

    /// From a `$` to behind what it stands for; everything that is no variable stays as written.
    fn expand(&mut self, text: &[u8], at: usize, name: &str, out: &mut Vec<u8>, values: &Env, depth: usize) -> Result<usize, Wrong> {
        let inside = at.saturating_add(1);
        let name_end = |from: usize| {
            let rest = text.get(from..).unwrap_or_default();
            let starts = rest.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
            let length = rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(rest.len());
            if starts { from.saturating_add(length) } else { from }
        };
        let literal = |out: &mut Vec<u8>| {
            out.push(b'$');
            Ok(inside)
        };
        if text.get(inside) != Some(&b'{') {
            let end = name_end(inside);
            if end == inside {
                return literal(out);
            }
            if let Some(value) = self.look_up(text.get(inside..end).unwrap_or_default(), values) {
                out.extend_from_slice(value.as_bytes());
            }
            self.bounded(name, out)?;
            return Ok(end);
        }
        let start = inside.saturating_add(1);
        let end = name_end(start);
        let after = text.get(end..).unwrap_or_default();
        let (alternative_at, wants_set, empty_is_unset) = match after {
            [b'}', ..] if end > start => {
                if let Some(value) = self.look_up(text.get(start..end).unwrap_or_default(), values) {
                    out.extend_from_slice(value.as_bytes());
                }
                self.bounded(name, out)?;
                return Ok(end.saturating_add(1));
            }
            [b':', b'-', ..] => (end.saturating_add(2), false, true),
            [b'-', ..] => (end.saturating_add(1), false, false),
            [b':', b'+', ..] => (end.saturating_add(2), true, true),
            [b'+', ..] => (end.saturating_add(1), true, false),
            _ => return literal(out),
        };
        if end == start || depth >= DEEPEST {
            return literal(out);
        }
        let Some(close) = closing_brace(text, alternative_at) else { return literal(out) };
        let value = self.look_up(text.get(start..end).unwrap_or_default(), values);
        let is_set = value.is_some_and(|value| !(empty_is_unset && value.is_empty()));
        if is_set && !wants_set {
            out.extend_from_slice(value.unwrap_or_default().as_bytes());
        } else if is_set == wants_set {
            let mut at = alternative_at;
            let alternative = text.get(..close).unwrap_or_default();
            while let Some(&byte) = alternative.get(at) {
                if byte == b'$' {
                    at = self.expand(alternative, at, name, out, values, depth.saturating_add(1))?;
                } else {
                    out.push(byte);
                    at = at.saturating_add(1);
                }
            }
        }
        self.bounded(name, out)?;
        Ok(close.saturating_add(1))
    }

    fn look_up<'v>(&self, name: &[u8], values: &'v Env) -> Option<&'v OsStr>
    where
        'a: 'v,
    {
        let name = OsStr::from_bytes(name);
        self.env.get(name).or_else(|| values.get(name)).map(OsString::as_os_str)
    }

    /// Checked after every piece, so that values which name one another cannot grow without bound.
    fn bounded(&self, name: &str, out: &[u8]) -> Result<(), Wrong> {
        if out.len() > LONGEST {
            return Err((
                self.line,
                format!("the value of `{name}` is longer than 128 KiB, more than the kernel passes to a program"),
                "keep it in a file and pass the path".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The brace that closes `${`, past nested ones.
fn closing_brace(text: &[u8], from: usize) -> Option<usize> {
    let mut open = 0usize;
    let mut before = 0u8;
    for (at, &byte) in text.iter().enumerate().skip(from) {
        match byte {
            b'{' if before == b'$' => open = open.saturating_add(1),
            b'}' if open == 0 => return Some(at),
            b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        before = byte;
    }
    None
}

/// A file with CRLF has no carriage returns in its values.
fn push_lines(text: &[u8], out: &mut Vec<u8>) {
    let mut bytes = text.iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte != b'\r' || bytes.peek() != Some(&&b'\n') {
            out.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<(String, String)>, Vec<String>) {
        let env: Env = [("OUTER", "outer"), ("EMPTY", "")].map(|(k, v)| (k.into(), v.into())).into();
        let mut values = Env::new();
        let problems = parse(Path::new(".env"), text, &env, &mut values);
        (
            values.into_iter().map(|(k, v)| (k.into_string().unwrap(), v.to_string_lossy().into_owned())).collect(),
            problems.iter().map(|problem| problem.render(false)).collect(),
        )
    }

    #[test]
    fn values_are_read_as_the_common_readers_do() {
        for (text, value) in [
            ("K=v", "v"),
            ("K=v\r\n", "v"),
            ("\u{feff}K=v", "v"),
            ("export K=v", "v"),
            ("export\tK = v ", "v"),
            ("  K  =  v  ", "v"),
            ("K: v", "v"),
            ("K:\n", ""),
            ("K=", ""),
            ("K=   ", ""),
            ("K=Foo Bar", "Foo Bar"),
            ("K=a#b", "a#b"),
            ("K=#b", "#b"),
            ("K= # remark", ""),
            ("K=a # remark", "a"),
            ("K=a\t# remark", "a"),
            ("K=a=b", "a=b"),
            ("K=it's", "it's"),
            ("K=C:\\new", "C:\\new"),
            ("K=a\\$b", "a$b"),
            ("K='a $OUTER \\n # b'", "a $OUTER \\n # b"),
            ("K='a' # remark", "a"),
            ("K=\"a # b\"#", "a # b#"),
            ("K=\"a # b\" # remark", "a # b"),
            ("K=\"a\\nb\\t\\\"c\\\" \\\\ \\$x \\q\"", "a\nb\t\"c\" \\ $x \\q"),
            ("K=\"a\nb\"\n", "a\nb"),
            ("K=\"a\r\nb\"\r\n", "a\nb"),
            ("K='a\r\nb'\r\n", "a\nb"),
            ("K=\"a\\\nb\"", "ab"),
            ("K=\"a\"b'c'", "abc"),
            ("K=$OUTER", "outer"),
            ("K=\"<${OUTER}>\"", "<outer>"),
            ("K=${NONE}x$NONE", "x"),
            ("K=${NONE:-de fault}", "de fault"),
            ("K=${NONE:-${OUTER}}", "outer"),
            ("K=${NONE:-${NONE:-$OUTER}}!", "outer!"),
            ("K=${EMPTY:-x}", "x"),
            ("K=${EMPTY-x}", ""),
            ("K=${OUTER:-x}", "outer"),
            ("K=${OUTER:+x}", "x"),
            ("K=${EMPTY:+x}", ""),
            ("K=${EMPTY+x}", "x"),
            ("K=$(hostname)", "$(hostname)"),
            ("K=\"$(hostname)\"", "$(hostname)"),
            ("K=`hostname`", "`hostname`"),
            ("K=5$", "5$"),
            ("K=$1$$", "$1$$"),
            ("K=${", "${"),
            ("K=${}", "${}"),
            ("K=${NONE:-x", "${NONE:-x"),
            ("K=${NONE/a/b}", "${NONE/a/b}"),
            ("K=a\nK=b", "b"),
            ("# remark\n\n   \nK=v", "v"),
        ] {
            assert_eq!(read(text.as_bytes()), (vec![("K".to_owned(), value.to_owned())], vec![]), "{text:?}");
        }
    }

    #[test]
    fn names_are_looked_up_outside_first_and_then_above() {
        assert_eq!(
            read(b"OUTER=inner\nA=$OUTER\nB=x\nC=$B\nD=$E\nE=y\n").0,
            [("A", "outer"), ("B", "x"), ("C", "x"), ("D", ""), ("E", "y"), ("OUTER", "inner")].map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
        assert_eq!(
            read(b"export=1\nexport export=2\na.b-c=3\n_x=4").0,
            [("_x", "4"), ("a.b-c", "3"), ("export", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn values_are_bytes() {
        let mut values = Env::new();
        assert_eq!(parse(Path::new(".env"), b"K=caf\xe9", &Env::new(), &mut values), []);
        assert_eq!(values.get(OsStr::new("K")).map(|value| value.as_bytes()), Some(&b"caf\xe9"[..]));
    }

    #[test]
    fn complaints_name_the_key_and_the_line_and_nothing_else() {
        for (text, message) in [
            (
                &b"A=1\nK='hunter2\n\nB=2"[..],
                "error: the quote that opens the value of `K` is never closed\n --> .env:2\n  = help: close it; a value that begins with a quote sign needs the other kind of quotes around it",
            ),
            (
                b"K=\"hunter2\" hunter3",
                "error: there is text behind the closing quote of `K`\n --> .env:1\n  = help: put the whole value into one pair of quotes, with a backslash before quotes within it",
            ),
            (
                b"\nhunter2\n",
                "warning: this line is not KEY=value and is skipped\n --> .env:2\n  = help: put `#` before it if it is a remark",
            ),
            (
                b"http://hunter2\n",
                "warning: this line is not KEY=value and is skipped\n --> .env:1\n  = help: put `#` before it if it is a remark",
            ),
            (
                b"A=1\nhunter2\0",
                "error: the file holds a NUL byte, which no environment variable can\n --> .env:2\n  = help: save it as UTF-8 text",
            ),
            (b"\xff\xfeK\0", "error: the file is UTF-16 text\n --> .env\n  = help: save it as UTF-8 (PowerShell: Out-File -Encoding utf8)"),
        ] {
            let problems = read(text).1;
            assert_eq!(problems, [message]);
            assert!(!problems.iter().any(|problem| problem.contains("hunter")));
        }
    }

    #[test]
    fn values_that_name_one_another_cannot_grow_without_bound() {
        let mut text = "K0=xxxxxxxxxxxxxxxx\n".to_owned();
        for n in 1..64 {
            text.push_str(&format!("K{n}=$K{p}$K{p}$K{p}$K{p}\n", p = n - 1));
        }
        let (values, problems) = read(text.as_bytes());
        assert!(values.iter().all(|(_, value)| value.len() <= LONGEST));
        assert!(
            problems.first().is_some_and(|problem| problem.starts_with("error: the value of `K7` is longer than 128 KiB")),
            "{problems:?}"
        );
        let many = format!("A={}\n{}", "x".repeat(100_000), (0..1_000).map(|n| format!("B{n}=$A\n")).collect::<String>());
        assert!(read(many.as_bytes()).1.iter().any(|problem| problem.contains("longer than 2 MiB together")));
    }

    #[test]
    fn deep_defaults_end_as_written() {
        let text = format!("K={}x{}", "${N:-".repeat(5_000), "}".repeat(5_000));
        let _ = read(text.as_bytes());
    }
}
