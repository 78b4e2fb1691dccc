//! Any text as a command: argv that is not empty, or text for a shell that is the given one but for `exec`.
#![no_main]

use firstmate::config::command_line;
use firstmate::engine::spec::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match command_line::parse(text) {
        Ok(line) => {
            let _ = command_line::daemonises(&line.command);
            match &line.command {
                Command::Argv(words) => assert!(!words.is_empty() && !line.shell_stays),
                Command::Shell(shell) => {
                    let without = |at: usize| shell.get(..at).into_iter().chain(shell.get(at + "exec ".len()..)).collect::<String>();
                    let with_exec = shell.match_indices("exec ").any(|(at, _)| without(at) == text.trim());
                    assert!(shell == text.trim() || (!line.shell_stays && with_exec));
                }
            }
        }
        Err(problem) => assert!(text.get(problem.span).is_some()),
    }
});
