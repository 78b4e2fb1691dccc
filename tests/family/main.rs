//! firstmate, foreman and honcho on the same Procfiles and `.env` files: do they start the same programs, with the same words, ports and
//! environment?
//!
//! Not only read: everything is started, with a program in place of the real ones that writes down how it was called. The files are those of
//! `tests/corpus`, and of the directory that FIRSTMATE_CORPUS names, with `procfile/` and `env/`. Every difference needs a reason of
//! `docs/procfiles-and-env.md`; those of our own files are listed in `tests/corpus/differences.txt`, written anew with FIRSTMATE_BLESS=1.
//!
//! Needs what `tests/setup foreman` installs. Values of `.env` files are never shown.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![expect(unreachable_pub, reason = "what a test is about is its name")]

mod envs;
mod procfiles;
mod sandbox;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sandbox::Tool;

/// What one of the others makes of a file differently, and why that is meant so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// `blanks.env: C`
    subject: String,
    /// From whom.
    tool: Tool,
    /// A reason of the documentation, or what nobody can explain.
    reason: Result<&'static str, String>,
}

impl Difference {
    fn line(&self) -> String {
        let reason = match &self.reason {
            Ok(reason) => (*reason).to_owned(),
            Err(what) => format!("UNEXPLAINED {what}"),
        };
        format!("{}: {}: {reason}", self.subject, self.tool)
    }
}

fn own_corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The files of a kind, by name, of our own corpus or of the other one.
fn files(corpus: &Path, kind: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(corpus.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// Four at a time, since a start of the others takes a good part of a second, of which they wait a part.
fn compared(paths: &[PathBuf], compare: fn(&Path) -> Vec<Difference>) -> Vec<Difference> {
    let quarter = paths.len().div_ceil(4).max(1);
    let mut differences: Vec<Difference> = std::thread::scope(|scope| {
        let threads: Vec<_> = paths
            .chunks(quarter)
            .map(|paths| scope.spawn(move || paths.iter().flat_map(|path| compare(path)).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    differences.sort();
    let documented = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/procfiles-and-env.md")).unwrap();
    for reason in differences.iter().filter_map(|one| one.reason.as_ref().ok()) {
        assert!(documented.contains(&format!("\n| {reason} |")), "docs/procfiles-and-env.md does not say: {reason}");
    }
    let unexplained: Vec<String> = differences.iter().filter(|one| one.reason.is_err()).map(Difference::line).collect();
    assert!(unexplained.is_empty(), "{} differences have no reason:\n{}", unexplained.len(), unexplained.join("\n"));
    differences
}

/// Compares with the list of what is known, in which a part has the lines of one kind of file.
fn as_listed(kind: &str, differences: &[Difference]) {
    let path = own_corpus().join(format!("differences-{kind}.txt"));
    let text: String = differences.iter().map(|difference| difference.line() + "\n").collect();
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{}; FIRSTMATE_BLESS=1 writes it anew", path.display());
}

fn counted(differences: &[Difference]) -> String {
    let mut counts: BTreeMap<(Tool, &str), usize> = BTreeMap::new();
    for difference in differences {
        *counts.entry((difference.tool, difference.reason.as_deref().unwrap())).or_default() += 1;
    }
    counts.into_iter().map(|((tool, reason), count)| format!("{count:4} {tool}: {reason}\n")).collect()
}

/// Files of other people, where there are some; how many is said.
fn of_others(kind: &str, compare: fn(&Path) -> Vec<Difference>) {
    let Some(corpus) = std::env::var_os("FIRSTMATE_CORPUS").map(PathBuf::from) else { return };
    let paths = files(&corpus, kind);
    let differences = compared(&paths, compare);
    eprintln!("{} files of {}: {} differences, each with its reason\n{}", paths.len(), kind, differences.len(), counted(&differences));
}

#[test]
fn procfiles_start_the_same() {
    as_listed("procfile", &compared(&files(&own_corpus(), "procfile"), procfiles::compare));
    of_others("procfile", procfiles::compare);
}

#[test]
fn env_files_say_the_same() {
    as_listed("env", &compared(&files(&own_corpus(), "env"), envs::compare));
    of_others("env", envs::compare);
}
