//! What stands in a sentence or a table is not run. But its commands, options, targets, files and links exist.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, MissingRequiredArgument};
use regex_lite::Regex;

use super::pages;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn commands_are_well_formed() {
    let mut seen = 0;
    for page in pages() {
        for (line, code) in &page.inline {
            let Some(rest) = code.strip_prefix("firstmate ") else { continue };
            // `firstmate | ...` is of a log, `firstmate warn | ...` too.
            if rest.contains(" | ") || rest.starts_with("| ") || rest == "COMMAND --help" {
                continue;
            }
            seen += 1;
            let is_form = rest.contains(['[', '|']) || rest.contains("...");
            let words = shlex::split(if is_form { rest.split(' ').next().unwrap() } else { rest }).unwrap();
            let result = firstmate::cli::command().try_get_matches_from(std::iter::once("firstmate".to_owned()).chain(words));
            if let Err(error) = result {
                let is_form = matches!(error.kind(), DisplayHelp | DisplayVersion | MissingRequiredArgument);
                assert!(is_form, "{}:{line}: `{code}`: {error}", page.name);
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn targets_and_files_are_there() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let is_path = Regex::new(r"^(benches|docs|examples|fuzz|procfiles|src|tests)(/[A-Za-z0-9_.-]+)*/?( .*)?$").unwrap();
    let mut seen = 0;
    for page in pages() {
        for (line, code) in &page.inline {
            if let Some(target) = code.strip_prefix("make ") {
                let there =
                    makefile.lines().filter_map(|line| line.split_once(':')).any(|(names, _)| names.split(' ').any(|name| name == target));
                assert!(there, "{}:{line}: the Makefile has no `{target}`", page.name);
            } else if is_path.is_match(code) && code.contains('/') {
                let path = root().join(code.split(' ').next().unwrap());
                assert!(path.exists(), "{}:{line}: there is no {}", page.name, path.display());
            } else {
                continue;
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// As GitHub makes them of titles.
fn anchors(text: &str) -> Vec<String> {
    let mut within = false;
    let titles = text.lines().filter(|line| {
        within ^= line.trim_start().starts_with("```");
        !within && line.starts_with('#')
    });
    let kept = |sign: char| sign.is_alphanumeric() || "-_ ".contains(sign);
    titles
        .map(|title| {
            title.trim_start_matches('#').trim().to_lowercase().chars().filter(|sign| kept(*sign)).collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut seen = 0;
    for page in pages() {
        let path = root().join(&page.name);
        let text = std::fs::read_to_string(&path).unwrap();
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|target| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let there: PathBuf = if file.is_empty() { path.clone() } else { path.parent().unwrap_or(Path::new("")).join(file) };
            assert!(there.exists(), "{}: {target} is not there", page.name);
            if !anchor.is_empty() {
                let titles = anchors(&std::fs::read_to_string(&there).unwrap());
                assert!(titles.iter().any(|title| title == anchor), "{}: {target}: there are {titles:?}", page.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}
