//! Files for firstmate that the pages show: firstmate takes each of them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{ground, pages};
use crate::page::Block;

/// A part of a file becomes one: keys alone are a service's, a service without a command gets one.
fn whole(text: &str) -> String {
    let mut out = String::new();
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    let top = ["include", "procfile", "["].iter().any(|top| first.starts_with(top));
    if !top {
        out.push_str("[services.part]\n");
    }
    out.push_str(text);
    let from_procfile = text.lines().any(|line| line.starts_with("procfile ="));
    let mut with_commands = String::new();
    for part in out.split_inclusive('\n').collect::<Vec<_>>().chunk_by(|_, next| !next.starts_with('[')) {
        with_commands.push_str(&part.concat());
        let is_service = part[0].starts_with("[services.");
        if is_service && !from_procfile && !part.iter().any(|line| line.starts_with("command =")) {
            with_commands.push_str("command = \"true\"\n");
        }
    }
    with_commands
}

fn check(place: &str, block: &Block) {
    let directory = std::env::temp_dir().join(format!("firstmate-walk-{}-files", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    let text = block.lines.join("\n") + "\n";
    // What files refer to.
    write("Procfile", "web: gunicorn app\n");
    write("redis.env", "REDIS_PASSWORD=x\n");
    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("procfiles"), directory.join("procfiles")).unwrap();
    let file = match block.language.as_str() {
        "toml" => {
            write("firstmate.toml", &whole(&text));
            "firstmate.toml"
        }
        "procfile" => {
            write("Procfile", &text);
            "Procfile"
        }
        _ => {
            write(".env", &text);
            "Procfile"
        }
    };
    let output = Command::new(ground::binary()).args(["check-config", "-f", file]).current_dir(&directory).output().unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_file_shown_is_a_good_one() {
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| ["toml", "procfile", "dotenv"].contains(&block.language.as_str())) {
            check(&format!("{}:{}", page.name, block.line), block);
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn a_part_of_a_file_becomes_one() {
    assert_eq!(whole("umask = 1\n"), "[services.part]\numask = 1\ncommand = \"true\"\n");
    let text = "[services.a]\ncommand = \"a\"\n[memory]\nlimit = 1\n";
    assert_eq!(whole(text), text);
    assert_eq!(whole("[services.a]\nnice = 1\n[services.b]\ncommand = \"b\"\n").matches("command").count(), 2);
}

#[test]
fn json_is_json() {
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "json") {
            let text = block.lines.join("\n");
            // A key alone is a part of an object.
            let text = if text.starts_with('"') { format!("{{{text}}}") } else { text };
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&text) {
                panic!("{}:{}: {error}", page.name, block.line);
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen}");
}
