//! The man pages of `docs/man` are what the command line and `docs/configuration.md` say, and man and mandoc have nothing to say against them.
//!
//! With FIRSTMATE_BLESS set they are written; read their diff.
#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

mod markdown;
mod roff;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap_mangen::Man;

use roff::{escaped, help_sections};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man")
}

/// Every page by the name of its file.
fn pages() -> BTreeMap<String, String> {
    let mut cli = firstmate::cli::command();
    cli.build();
    let mut pages = BTreeMap::new();
    let commands: Vec<String> = cli.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for command in cli.get_subcommands() {
        let name = format!("firstmate-{}", command.get_name());
        let others = "\\fBfirstmate\\fR(1), \\fBfirstmate.toml\\fR(5)";
        pages.insert(format!("{name}.1"), page(command.clone().name(leaked(&name)), &name, others));
    }
    let others: Vec<String> = commands.iter().map(|name| format!("\\fBfirstmate\\-{}\\fR(1)", escaped(name))).collect();
    let see = format!("{}, \\fBfirstmate.toml\\fR(5)", others.join(", "));
    pages.insert("firstmate.1".to_owned(), page(cli, "firstmate", &see));
    pages.insert("firstmate.toml.5".to_owned(), file_page());
    pages
}

/// clap wants names that live as long as the program.
fn leaked(name: &str) -> &'static str {
    Box::leak(name.to_owned().into_boxed_str())
}

fn page(command: clap::Command, name: &str, see_also: &str) -> String {
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let is_root = name == "firstmate";
    // Their text is laid out below as sections of their own.
    let command = command.after_help("").version(env!("CARGO_PKG_VERSION"));
    let man = Man::new(command);
    let mut bytes = Vec::new();
    man.render_name_section(&mut bytes).unwrap();
    man.render_synopsis_section(&mut bytes).unwrap();
    man.render_description_section(&mut bytes).unwrap();
    man.render_options_section(&mut bytes).unwrap();
    if is_root {
        man.render_subcommands_section(&mut bytes).unwrap();
    }
    let mut text = format!(".TH {} 1 \"\" firstmate firstmate\n{APOSTROPHE}", escaped(&name.to_uppercase()));
    text.push_str(&tidied(&String::from_utf8(bytes).unwrap()));
    text.push_str(&help_sections(&more));
    text.push_str(&format!(".SH \"SEE ALSO\"\n{see_also}\n"));
    text
}

/// Each section begins with it; once is enough.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Without what mandoc warns of: breaks beside paragraphs, blanks at the end of lines.
fn tidied(text: &str) -> String {
    let text = text.replace(APOSTROPHE, "").replace("\n.br\n\n.br\n", "\n.br\n").replace("\n\n.br\n", "\n.br\n");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn file_page() -> String {
    let source = std::fs::read_to_string(directory().join("../configuration.md")).unwrap();
    let mut text =
        ".TH FIRSTMATE.TOML 5 \"\" firstmate firstmate\n.SH NAME\nfirstmate.toml \\- what firstmate runs\n.SH DESCRIPTION\n".to_owned();
    text.push_str(&markdown::to_roff(&source));
    text.push_str(".SH \"SEE ALSO\"\n\\fBfirstmate\\fR(1), \\fBfirstmate\\-check\\-config\\fR(1)\n");
    text
}

#[test]
fn the_pages_are_what_is_documented() {
    let pages = pages();
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::create_dir_all(directory()).unwrap();
        for (name, text) in &pages {
            std::fs::write(directory().join(name), text).unwrap();
        }
    }
    for (name, text) in &pages {
        let written = std::fs::read_to_string(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(&written == text, "{name} is not current: run this test with FIRSTMATE_BLESS=1 and read the diff");
    }
    let mut there: Vec<String> =
        std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    assert_eq!(there, pages.into_keys().collect::<Vec<_>>(), "a page of a command that is no more");
}

/// Everything that was said, by a tool that must be there.
fn said(program: &str, arguments: &[&str], page: &Path) -> (String, String) {
    let output =
        Command::new(program).args(arguments).arg(page).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot execute {program}: {error}; tests/setup shells installs it"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn man_and_mandoc_find_nothing_wrong() {
    for name in pages().keys() {
        let path = directory().join(name);
        let (_, complaints) = said("man", &["--warnings=w", "--encoding=utf8", "--local-file"], &path);
        assert_eq!(complaints, "", "man: {name}");
        // A page that is made from the code has no date, and the source is that of the program.
        let (complaints, _) = said("mandoc", &["-Tlint", "-Wwarning"], &path);
        let complaints: Vec<&str> = complaints.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(complaints.is_empty(), "mandoc: {complaints:#?}");
    }
}

#[test]
fn a_reader_finds_what_is_looked_for() {
    let shown = |name: &str| said("mandoc", &["-Tutf8", "-Owidth=100"], &directory().join(name)).0;
    // mandoc shows bold by overstriking: a letter, a step back, and the same letter.
    let plain = |text: String| {
        let mut plain = String::new();
        for letter in text.chars() {
            if letter == '\u{8}' {
                plain.pop();
            } else {
                plain.push(letter);
            }
        }
        plain
    };
    let text = plain(shown("firstmate.toml.5"));
    for word in ["depends_on", "restart_above", "initial_delay", "THE PROCFILE", "never run: they stay as they are"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let text = plain(shown("firstmate-status.1"));
    assert!(text.contains("EXIT STATUS"), "{text}");
}
