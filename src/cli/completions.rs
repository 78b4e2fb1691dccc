//! `firstmate completions`: a script for the shell that completes commands and options, and the names of what runs.
//!
//! Commands and options are clap_complete's. It knows nothing of services, so each script is given a function that asks `firstmate status`,
//! and the places where names are expected call it: those of every command that takes NAMEs, whatever commands there are.

use std::fmt::Write as _;

use clap::{Arg, Command};
use clap_complete::{aot, generate};

use super::output::{Failure, out};

/// Print a script that completes commands, options and names of services
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Where they go:
  bash  firstmate completions bash >/usr/share/bash-completion/completions/firstmate, or ~/.local/share/bash-completion/completions/firstmate
  zsh   firstmate completions zsh >/usr/local/share/zsh/site-functions/_firstmate, or into any directory of $fpath
  fish  firstmate completions fish >~/.config/fish/completions/firstmate.fish

Exit codes:
  0  the script is printed
  2  the arguments are wrong")]
pub(super) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &CompletionsArgs, cli: &Command) -> Result<u8, Failure> {
    out(&script(args.shell, cli)?);
    Ok(0)
}

fn script(shell: Shell, cli: &Command) -> Result<String, Failure> {
    // Without `-- CMD`: the scripts would take the first word for it, and the second for the command.
    let options = cli.get_arguments().filter(|argument| !argument.is_positional()).cloned();
    let mut cli = Command::new("firstmate").version(env!("CARGO_PKG_VERSION")).args(options).subcommands(cli.get_subcommands().cloned());
    cli.build();
    let mut bytes = Vec::new();
    match shell {
        Shell::Bash => generate(aot::Bash, &mut cli, "firstmate", &mut bytes),
        Shell::Zsh => generate(aot::Zsh, &mut cli, "firstmate", &mut bytes),
        Shell::Fish => generate(aot::Fish, &mut cli, "firstmate", &mut bytes),
    }
    let script = String::from_utf8(bytes).map_err(|error| Failure::new(1, format!("cannot write the script: {error}")))?;
    Ok(match shell {
        Shell::Bash => bash(&script, &cli),
        Shell::Zsh => zsh(&script, &cli),
        Shell::Fish => fish(script, &cli),
    })
}

/// Whether it stands for services or instances.
fn is_name(argument: &Arg) -> bool {
    let is_called_so = argument.get_value_names().is_some_and(|names| names.iter().any(|name| name.starts_with("NAME")));
    argument.is_positional() && (is_called_so || argument.get_id() == "names" || argument.get_id() == "name")
}

/// Commands that take names, and these arguments.
fn with_names(cli: &Command) -> impl Iterator<Item = (&str, &str)> {
    cli.get_subcommands().filter_map(|command| {
        let argument = command.get_arguments().find(|argument| is_name(argument))?;
        Some((command.get_name(), argument.get_id().as_str()))
    })
}

/// Every option that is followed by a value, as a shell's `case` has alternatives.
fn options_with_values(cli: &Command) -> String {
    let mut options: Vec<String> = Vec::new();
    let commands = std::iter::once(cli).chain(cli.get_subcommands());
    for argument in commands.flat_map(Command::get_arguments).filter(|argument| argument.get_action().takes_values()) {
        let short = argument.get_short().map(|short| format!("-{short}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        for option in short.into_iter().chain(long) {
            if !options.contains(&option) {
                options.push(option);
            }
        }
    }
    options.join("|")
}

fn bash(script: &str, cli: &Command) -> String {
    let commands: Vec<&str> = with_names(cli).map(|(command, _)| command).collect();
    let ours = format!(
        r#"
# Services, instances and groups of the firstmate that runs. Only plain names: the list is expanded as a shell expands words.
_firstmate_names() {{
    local name
    "$1" status --names 2>/dev/null | while read -r name; do
        case "$name" in
            *[!A-Za-z0-9_.-]*) ;;
            *) printf '%s\n' "$name" ;;
        esac
    done
    echo all
}}

_firstmate_and_names() {{
    _firstmate "$@"
    local word command="" kept=()
    for word in "${{COMPREPLY[@]}}"; do
        case "$word" in
            '['* | '<'* | '') ;;
            *) kept+=("$word") ;;
        esac
    done
    COMPREPLY=("${{kept[@]}}")
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            {commands})
                command="$word"
                break
                ;;
        esac
    done
    case "$2" in -*) command="" ;; esac
    case "$3" in {options}) command="" ;; esac
    [ -z "$command" ] || COMPREPLY+=($(compgen -W "$(_firstmate_names "$1")" -- "$2"))
}}

"#,
        commands = commands.join(" | "),
        options = options_with_values(cli).replace('|', " | "),
    );
    let script = script.replace("complete -F _firstmate ", "complete -F _firstmate_and_names ");
    // In front of what makes the shell use it.
    match script.find("\nif [[ \"${BASH_VERSINFO[0]}\" -eq 4") {
        Some(at) => {
            let (functions, registration) = script.split_at_checked(at).unwrap_or((&script, ""));
            format!("{functions}{ours}{}", registration.trim_start_matches('\n'))
        }
        None => format!("{script}{ours}"),
    }
}

fn zsh(script: &str, cli: &Command) -> String {
    const OURS: &str = r#"
# Services, instances and groups of the firstmate that runs.
_firstmate_names() {
    local -a known
    local name
    firstmate status --names 2>/dev/null | while read -r name; do
        [[ $name != *[^A-Za-z0-9_.-]* ]] && known+=("$name")
    done
    known+=(all)
    compadd -a known
}
"#;
    let ids: Vec<&str> = with_names(cli).map(|(_, id)| id).collect();
    let mut text = String::with_capacity(script.len().saturating_add(OURS.len()));
    for line in script.split_inclusive('\n') {
        // `'*::names -- Services (web)...:_default' \`
        let after_colons = line.trim_start_matches(['\'', '"', '*']).strip_prefix(':').map(|rest| rest.trim_start_matches(':'));
        let is_names =
            after_colons.is_some_and(|rest| ids.iter().any(|id| rest.strip_prefix(id).is_some_and(|rest| rest.starts_with([' ', ':']))));
        if is_names {
            text.push_str(&line.replace(":_default'", ":_firstmate_names'"));
        } else {
            if line.starts_with("_firstmate() {") {
                text.push_str(OURS.trim_start_matches('\n'));
                text.push('\n');
            }
            text.push_str(line);
        }
    }
    text
}

fn fish(mut script: String, cli: &Command) -> String {
    script.push_str(
        r#"
# Services, instances and groups of the firstmate that runs.
function __fish_firstmate_names
    firstmate status --names 2>/dev/null | string match -r '^[A-Za-z0-9_.-]+$'
    echo all
end
"#,
    );
    // clap_complete knows the words that may follow options in fish, but not those that stand by themselves.
    for command in cli.get_subcommands() {
        let words = command.get_positionals().flat_map(|argument| argument.get_possible_values());
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        if !words.is_empty() {
            let (command, words) = (command.get_name(), words.join(" "));
            // Writing into a String cannot fail.
            let _ = writeln!(script, "complete -c firstmate -n \"__fish_firstmate_using_subcommand {command}\" -f -a \"{words}\"");
        }
    }
    for (command, _) in with_names(cli) {
        // Writing into a String cannot fail.
        let _ =
            writeln!(script, "complete -c firstmate -n \"__fish_firstmate_using_subcommand {command}\" -f -a \"(__fish_firstmate_names)\"");
    }
    script
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_that_takes_names_completes_them() {
        let mut cli = Cli::command();
        cli.build();
        let commands: Vec<&str> = with_names(&cli).map(|(command, _)| command).collect();
        for command in ["start", "stop", "restart", "status", "why", "check"] {
            assert!(commands.contains(&command), "{command}: {commands:?}");
        }
        assert!(!commands.contains(&"check-config") && !commands.contains(&"shutdown"), "{commands:?}");
        let count = commands.len();
        let of = |shell| script(shell, &Cli::command()).unwrap();
        assert_eq!(of(Shell::Zsh).matches(":_firstmate_names'").count(), count);
        assert_eq!(of(Shell::Fish).matches("-a \"(__fish_firstmate_names)\"").count(), count);
        let bash = of(Shell::Bash);
        assert_eq!(bash.matches("complete -F _firstmate_and_names ").count(), 2, "{bash}");
        assert!(!bash.contains("complete -F _firstmate "));
    }
}
