//! Wrong arguments, told as everything else that is wrong: what, and how to mend it.

use clap::error::ErrorKind;

use super::output::Failure;

/// Whether it is no complaint, but help or the version that was asked for, or help for whoever gave nothing.
pub(super) fn is_help(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
}

/// clap's complaint in our form. `command`: the one that was called, whose help says more.
pub(super) fn failure(error: &clap::Error, command: Option<&str>, code: u8) -> Failure {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut message: Vec<String> = Vec::new();
    let mut tips: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information")) {
        match line.trim_start().strip_prefix("tip: ") {
            Some(tip) => tips.push(quoted(&mended(tip))),
            None if line.is_empty() => {}
            None if tips.is_empty() => message.push(quoted(line)),
            None => {}
        }
    }
    let command = command.map_or_else(String::new, |command| format!("{command} "));
    if tips.is_empty() {
        tips.push(format!("`firstmate {command}--help` says which arguments there are"));
    }
    Failure::new(code, message.join("\n")).help(tips.join("; "))
}

/// `a similar argument exists: '--json'` as a question.
fn mended(tip: &str) -> String {
    let near = ["a similar argument exists: ", "a similar value exists: ", "a similar subcommand exists: "];
    match near.iter().find_map(|near| tip.strip_prefix(near)) {
        Some(name) => format!("did you mean {name}?"),
        None => tip.to_owned(),
    }
}

/// With what clap puts between single quotes between backticks, where they are in pairs.
fn quoted(line: &str) -> String {
    if line.matches('\'').count().is_multiple_of(2) { line.replace('\'', "`") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn said(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from([&["firstmate"], arguments].concat()).unwrap_err();
        assert!(!is_help(&error));
        failure(&error, arguments.first().copied(), 2).render(false)
    }

    #[test]
    fn wrong_arguments_are_told_as_everything_that_is_wrong() {
        assert_eq!(said(&["events", "--jsn"]), "error: unexpected argument `--jsn` found\n  = help: did you mean `--json`?\n");
        assert_eq!(
            said(&["wait", "redy"]),
            "error: invalid value `redy` for `<WHAT>`\n  [possible values: ready, stopped]\n  = help: did you mean `ready`?\n"
        );
        assert_eq!(
            said(&["start", "-t", "0"]),
            "error: invalid value `0` for `--timeout <TIME>`: it is at least 10ms; Ctrl-C twice kills at once\n  \
             = help: `firstmate start --help` says which arguments there are\n"
        );
        let missing = said(&["stop"]);
        assert!(missing.starts_with("error: the following required arguments were not provided:\n  <NAME>...\n  = help: "), "{missing}");
        assert!(is_help(&Cli::try_parse_from(["firstmate", "--help"]).unwrap_err()));
    }
}
