//! `.env` files: the same names with the same values. No value is ever shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Difference;
use crate::procfiles::told;
use crate::sandbox::{Sandbox, Tool, Until};

/// One type, whose program is told what is in the file.
fn read(sandbox: &Sandbox, tool: Tool) -> Option<BTreeMap<String, String>> {
    let ran = sandbox.run(tool, &["start"], Until::End);
    let call = ran.calls.first()?;
    Some(told(&call.env).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

pub fn compare(path: &Path) -> Vec<Difference> {
    let bytes = std::fs::read(path).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    let sandbox = Sandbox::new(b"web: run\n", Some(&bytes));
    let ours = read(&sandbox, Tool::Firstmate);
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    let assignments = assignments(&text);
    let mut differences = Vec::new();
    for tool in [Tool::Foreman, Tool::Honcho] {
        let theirs = read(&sandbox, tool);
        let (Some(ours), Some(theirs)) = (&ours, &theirs) else {
            if ours.is_some() != theirs.is_some() {
                let reason = why_refused(&text, tool, ours.is_none()).ok_or_else(|| "one of them starts and the other does not".to_owned());
                differences.push(Difference { subject: file.to_owned(), tool, reason });
            }
            continue;
        };
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let (our, their) = (ours.get(name), theirs.get(name));
            if our == their {
                continue;
            }
            let reason = assignments.get(name.as_str()).and_then(|line| why_told_differently(line, tool, our, their));
            let what = match (our, their) {
                (Some(_), None) => "it does not have it",
                (None, Some(_)) => "firstmate does not have it",
                (Some(_), Some(_)) | (None, None) => "the values differ",
            };
            differences.push(Difference { subject: format!("{file}: {name}"), tool, reason: reason.ok_or_else(|| what.to_owned()) });
        }
    }
    differences
}

/// A line that gives something a value, and all that could belong to it.
struct Assignment<'t> {
    /// The name has more than letters, digits and `_`.
    has_other_signs: bool,
    /// Before the name.
    before: &'t str,
    /// Between the name and the value.
    sign: &'t str,
    /// To the end of the line, as it is.
    value: &'t str,
}

fn assignments(text: &str) -> BTreeMap<&str, Assignment<'_>> {
    let mut found = BTreeMap::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let start = line.len() - line.trim_start().len();
        let mut at = start;
        if let Some(rest) = line[at..].strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            at = line.len() - rest.trim_start().len();
        }
        let length = line[at..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-')).unwrap_or(line.len() - at);
        let (name, rest) = line[at..].split_at(length);
        let value = rest.trim_start_matches([' ', '\t']);
        let Some(value) = value.strip_prefix(['=', ':']).map(|value| value.trim_start_matches([' ', '\t'])) else { continue };
        if !name.is_empty() {
            // Whether the file begins with a byte order mark shows in what is before the first name.
            let before = if found.is_empty() && text.starts_with('\u{feff}') { "\u{feff}" } else { &line[..at] };
            let has_other_signs = name.contains(['.', '-']);
            found.insert(name, Assignment { has_other_signs, before, sign: &rest[..rest.len() - value.len()], value });
        }
    }
    found
}

fn why_refused(text: &str, tool: Tool, by_firstmate: bool) -> Option<&'static str> {
    let is_odd = |line: &str| line.matches('"').count() % 2 == 1 || line.matches('\'').count() % 2 == 1;
    match tool {
        _ if by_firstmate && text.lines().any(is_odd) => {
            Some("it takes a quote that is never closed for a part of the value; firstmate refuses the file")
        }
        _ if by_firstmate && text.contains('\0') => Some("it makes something of a file that is no text; firstmate refuses it"),
        Tool::Honcho if text.lines().any(is_odd) => Some("it ends with an error where a quote is not closed in its line, also in remarks"),
        Tool::Foreman | Tool::Honcho if text.contains(['\0', '\u{fffd}']) => Some("it ends with an error where the file is not UTF-8"),
        Tool::Firstmate | Tool::Foreman | Tool::Honcho => None,
    }
}

/// Whether theirs still has a `$` where ours has something else, or a backslash before it that ours has not, and they are the same up to there.
fn is_unexpanded(our: &str, their: &str) -> bool {
    if their.contains("\\$") && their.replace("\\$", "$") == our {
        return true;
    }
    let bare = |text: &str| text.replace([' ', '\t', '"', '\\'], "");
    let (our, their) = (bare(our), bare(their));
    their.split_once('$').is_some_and(|(before, after)| our.starts_with(before) && our.get(before.len()..) != Some(&format!("${after}")))
}

/// Rules by which the others read a line otherwise. Each looks at what must be in the line, and the first that holds is the reason.
fn why_told_differently(line: &Assignment<'_>, tool: Tool, our: Option<&String>, their: Option<&String>) -> Option<&'static str> {
    let value = line.value.trim_end();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let whole = quote.is_some_and(|quote| value.len() > 1 && value.ends_with(quote));
    let has_blank = value.contains([' ', '\t']);
    let cut = |text: &str| text.split_once('#').map(|(before, _)| before.trim_end().to_owned());
    match (tool, our, their) {
        (_, Some(_), None) if line.before == "\u{feff}" => Some("it takes a byte order mark for part of the first line, and skips that"),
        (_, Some(_), None) if line.has_other_signs => Some("it takes only letters, digits and _ for a name"),
        (Tool::Foreman, Some(_), None) if !line.before.is_empty() || line.sign != "=" => {
            Some("it skips a line with `export`, a blank before the name or the `=`, or a colon")
        }
        // As a regular expression has it, the value begins behind `=`.
        (Tool::Foreman, Some(our), Some(their)) if line.sign.starts_with('=') && line.sign != "=" && their.trim_start() == our.as_str() => {
            Some("it keeps blanks behind the `=` or at the end of the line")
        }
        (Tool::Foreman, Some(our), Some(their)) if their.trim() == our.as_str() => {
            Some("it keeps blanks behind the `=` or at the end of the line")
        }
        (Tool::Foreman, Some(our), Some(their)) if cut(their.trim_start()).as_deref() == Some(our.as_str()) => {
            Some("it keeps a remark as part of the value")
        }
        (Tool::Foreman, Some(_), Some(_)) if value.contains('#') && quote.is_some() && !whole => {
            Some("it keeps a remark as part of the value, and so the quotes")
        }
        (Tool::Honcho, Some(our), Some(their)) if has_blank && our.replace([' ', '\t'], "") == their.replace([' ', '\t'], "") => {
            Some("it drops blanks outside of quotes")
        }
        (_, Some(our), Some(their)) if quote != Some('\'') && is_unexpanded(our, their) => Some("it does not expand $NAME"),
        (_, None, Some(_)) => Some("it takes names that begin with a digit or hold other signs"),
        (Tool::Foreman, Some(_), Some(_)) if value.contains('\\') && quote == Some('"') => {
            Some("of escapes in double quotes it knows \\n, and drops every other backslash")
        }
        (_, Some(_), Some(_)) if quote.is_some() && !whole && !value.trim_start_matches(['"', '\'']).contains(['"', '\'']) => {
            Some("it reads a value in quotes to the end of its line only")
        }
        (Tool::Foreman, Some(_), Some(_)) if quote.is_some() && !whole => {
            Some("it takes quotes for such only where they are around the whole value")
        }
        (Tool::Honcho, Some(_), None) if !line.before.trim().is_empty() || !line.sign.contains('=') => {
            Some("it skips a line with `export` or a colon")
        }
        (Tool::Honcho, Some(_), None) if value.starts_with('#') => {
            Some("it takes # for the beginning of a remark wherever it is outside of quotes")
        }
        (Tool::Honcho, Some(our), None) if our.is_empty() => Some("it skips a line without a value"),
        (Tool::Honcho, Some(_), Some(_)) if value.contains('#') => {
            Some("it takes # for the beginning of a remark wherever it is outside of quotes")
        }
        (Tool::Honcho, Some(_), Some(_)) if value.contains('\\') => Some("it has its own rules for the backslash"),
        (Tool::Honcho, Some(_), Some(_)) if value.contains(['"', '\'']) => Some("it takes quotes for such wherever they are"),
        (Tool::Foreman | Tool::Honcho | Tool::Firstmate, _, _) => None,
    }
}
