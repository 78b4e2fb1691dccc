//! Holds the picture in ARCHITECTURE.md: imports run one way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms it may name.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("engine", &["engine"]),
    ("config", &["config", "engine"]),
    ("linux", &["linux", "engine"]),
    ("server", &["server", "engine"]),
    ("observe", &["observe", "engine"]),
    ("supervisor", &["supervisor", "linux", "server", "observe", "config", "engine"]),
    ("cli", &["cli", "supervisor", "linux", "server", "observe", "config", "engine"]),
];

/// What the engine may use from outside: it knows no kernel, clock, file, thread or logger.
const ENGINE_CRATES: [&str; 5] = ["std", "serde", "super", "crate", "self"];
const ENGINE_STD: [&str; 8] = ["collections", "ffi", "fmt", "io", "path", "sync", "time", "cmp"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Code without comments, up to the unit tests: those may look around.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn rooms() -> BTreeMap<PathBuf, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    files
        .into_iter()
        .filter_map(|path| {
            let within = path.strip_prefix(&src).unwrap();
            let room = within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
            // Unit tests that have a file of their own.
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let door = path.with_file_name("mod.rs");
            let tests = door.exists() && fs::read_to_string(door).unwrap().contains(&format!("#[cfg(test)]\nmod {stem};"));
            (room != "lib" && room != "main" && !tests).then_some((path, room))
        })
        .collect()
}

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let rooms = rooms();
    assert!(rooms.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for (path, room) in rooms {
        let allowed = ALLOWED.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} is a room nobody drew")).1;
        for named in code(&path).split("crate::").skip(1) {
            let named: String = named.chars().take_while(|character| character.is_ascii_alphanumeric() || *character == '_').collect();
            if !named.is_empty() && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} names crate::{named}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the door of the room declares this file for tests only: such a file may read and write its snapshot.
fn is_test_module(path: &Path) -> bool {
    // What is within such a file.
    if path.parent().is_some_and(|folder| folder.ends_with("tests")) {
        return path.parent().is_some_and(|folder| is_test_module(&folder.with_extension("rs")));
    }
    let door = std::fs::read_to_string(path.with_file_name("mod.rs")).unwrap_or_default();
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    door.contains(&format!("#[cfg(test)]\nmod {name};"))
}

#[test]
fn the_engine_is_pure() {
    let mut wrong = Vec::new();
    for (path, room) in rooms() {
        if room != "engine" || is_test_module(&path) {
            continue;
        }
        let code = code(&path);
        for line in code.lines().map(str::trim) {
            let Some(used) = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use ")) else { continue };
            let from = used.split("::").next().unwrap().trim_end_matches(';');
            let sibling = path.ends_with("engine/mod.rs");
            if !ENGINE_CRATES.contains(&from) && !sibling {
                wrong.push(format!("{}: {line}", path.display()));
            }
        }
        for named in code.split("std::").skip(1) {
            let named: String = named.chars().take_while(|character| character.is_ascii_alphanumeric() || *character == '_').collect();
            if !ENGINE_STD.contains(&named.as_str()) {
                wrong.push(format!("{} uses std::{named}", path.display()));
            }
        }
        for forbidden in ["Instant", "SystemTime", "std::io::stdout", "std::io::stderr", "println!", "eprintln!", "std::fs"] {
            if code.contains(forbidden) {
                wrong.push(format!("{} uses {forbidden}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
