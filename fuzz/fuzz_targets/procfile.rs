//! Any bytes as a Procfile: read or explained, and every complaint can be shown.
#![no_main]

use std::path::Path;

use firstmate::config::{command_line, procfile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (read, problems) = procfile::parse(Path::new("Procfile"), bytes);
    for problem in &problems {
        assert!(!problem.render(true).is_empty());
    }
    for entry in read.into_iter().flat_map(|procfile| procfile.entries) {
        assert!(procfile::is_name(&entry.name));
        assert!(!entry.command.trim().is_empty());
        let _ = command_line::parse(&entry.command);
    }
});
