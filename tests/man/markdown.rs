//! The little of Markdown that `docs/configuration.md` uses, as man(7). What is not known here is a failure, not left out.

use std::fmt::Write as _;

use crate::roff::{escaped, within};

pub(crate) fn to_roff(source: &str) -> String {
    let mut out = String::new();
    let mut lines = source.lines().peekable();
    let mut is_first_paragraph = true;
    while let Some(line) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        if line.starts_with("```") {
            out.push_str(if is_first_paragraph { ".RS 4\n.nf\n" } else { ".PP\n.RS 4\n.nf\n" });
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                // An empty line within is a line too.
                let _ = writeln!(out, "{}", if code.is_empty() { "\\&".to_owned() } else { escaped(code) });
            }
            out.push_str(".fi\n.RE\n");
            is_first_paragraph = false;
        } else if let Some(title) = line.strip_prefix("# ") {
            assert_eq!(title, "Configuration", "one title a page");
        } else if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(out, ".SH \"{}\"", plain(title).to_uppercase());
            is_first_paragraph = true;
        } else if line.starts_with("###") {
            let _ = writeln!(out, ".SS \"{}\"", plain(line.trim_start_matches('#').trim_start()));
            is_first_paragraph = true;
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            table(&mut out, &rows);
            is_first_paragraph = false;
        } else {
            let item = line.strip_prefix("- ").map(|text| ("\\(bu".to_owned(), text));
            let numbered = line.split_once(". ").filter(|_| is_numbered(line));
            let item = item.or_else(|| numbered.map(|(number, text)| (format!("{number}."), text)));
            let mut text = item.as_ref().map_or(line, |(_, text)| *text).to_owned();
            let ends = |next: &str| {
                next.trim().is_empty()
                    || next.starts_with(['#', '|'])
                    || next.starts_with("```")
                    || next.starts_with("- ")
                    || is_numbered(next)
            };
            while let Some(more) = lines.next_if(|next| !ends(next)) {
                text.push('\n');
                text.push_str(more.trim_start());
            }
            match item {
                Some((mark, _)) => {
                    let _ = writeln!(out, ".IP {mark} 4");
                }
                None if is_first_paragraph => {}
                None => out.push_str(".PP\n"),
            }
            paragraph(&mut out, &text);
            is_first_paragraph = false;
        }
    }
    out
}

fn is_numbered(line: &str) -> bool {
    line.split_once(". ").is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn paragraph(out: &mut String, text: &str) {
    lines_of(out, &inline(text));
}

/// Cells of a row; `\|` is no border.
fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{1}");
    inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// The first column is what is looked up. Of the others those that say what it means come last, and are text; the rest is in brackets.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let [header, ruler, rows @ ..] = rows else { panic!("a table without a header: {rows:?}") };
    assert!(ruler.iter().all(|cell| cell.starts_with("---")), "{ruler:?}");
    for row in rows {
        assert_eq!(row.len(), header.len(), "{row:?}");
        let first = row.first().unwrap();
        let mut brackets = Vec::new();
        let mut texts = Vec::new();
        for (name, cell) in header.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty()) {
            match name.as_str() {
                "type" => brackets.push(inline(cell)),
                "default" | "with" => brackets.push(format!("{name} {}", inline(cell))),
                "example" => texts.push(format!("Example: {}.", inline(cell))),
                "meaning" | "notes" | "firstmate" => texts.push(format!("{}.", inline(cell).trim_end_matches('.'))),
                other => texts.push(format!("{}: {}.", inline(other), inline(cell).trim_end_matches('.'))),
            }
        }
        let _ = writeln!(out, ".TP\n{}", inline(first));
        if !brackets.is_empty() {
            texts.insert(0, format!("({})", brackets.join("; ")));
        }
        // An entry without a text would take the next one for it.
        lines_of(out, &if texts.is_empty() { "\\&".to_owned() } else { texts.join("\n") });
    }
}

/// No line of text may be taken for a request.
fn lines_of(out: &mut String, text: &str) {
    for line in text.split('\n') {
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        let _ = writeln!(out, "{guard}{}", line.trim());
    }
}

/// A title without marks.
fn plain(text: &str) -> String {
    escaped(&text.replace('`', ""))
}

/// `code`, **strong** and links.
fn inline(text: &str) -> String {
    assert!(text.matches('`').count().is_multiple_of(2), "an odd number of backticks: {text}");
    let text = without_links(text);
    let mut out = String::new();
    for (at, piece) in text.split('`').enumerate() {
        if at % 2 == 1 {
            let _ = write!(out, "\\fB{}\\fR", within(piece));
        } else {
            out.push_str(&within(&piece.replace("**", "")));
        }
    }
    out
}

/// `[words](page)` as its words, and the page where they do not name it.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (words, linked) = before.rsplit_once('[').expect("a link begins with a bracket");
        let (target, more) = after.split_once(')').expect("a link ends with a bracket");
        out.push_str(words);
        out.push_str(linked);
        let page = target.split('#').next().unwrap();
        if !page.is_empty() && !linked.contains(page) {
            let _ = write!(out, " (see {page})");
        }
        rest = more;
    }
    out.push_str(rest);
    out
}

#[test]
fn a_page_of_everything() {
    let source = "\
# Configuration

One `file`.
`next` line, see [memory.md](memory.md#x), [below](#y).

## Values

| key | type | default | meaning |
|---|---|---|---|
| `a` | `\"x\"`, `\"y\\|z\"` | | what |

- one
  more
- two

1. first
2. second

```toml
.x = 1

y = '-'
```
";
    let expected = "\
One \\fBfile\\fR.
\\fBnext\\fR line, see memory.md, below.
.SH \"VALUES\"
.TP
\\fBa\\fR
(\\fB\"x\"\\fR, \\fB\"y|z\"\\fR)
what.
.IP \\(bu 4
one
more
.IP \\(bu 4
two
.IP 1. 4
first
.IP 2. 4
second
.PP
.RS 4
.nf
\\&.x = 1
\\&
y = \\(aq\\-\\(aq
.fi
.RE
";
    assert_eq!(to_roff(source), expected);
}
