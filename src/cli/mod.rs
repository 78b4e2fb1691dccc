//! Arguments to exit code: one file a subcommand, rendering of tables and errors.
//!
//! Data goes to stdout, messages to stderr. Commands for a running supervisor are blocking clients of its Unix socket without a runtime of
//! their own; only `start` and `-- CMD` become the supervisor.

mod attach;
mod check;
mod check_config;
mod client;
mod completions;
mod develop;
mod env;
mod events;
mod explain;
mod load;
mod logs;
mod output;
mod progress;
mod run;
mod run_single;
mod screen;
mod shutdown;
mod sign_of_life;
mod start;
mod status;
mod stream;
mod table;
mod terminal;
mod update;
mod usage;
mod verbs;
mod version;
mod wait;
mod watch;
mod why;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};

use crate::server::printable;
use output::{Failure, did_you_mean, err, is_colored};

/// PID 1 for containers that run more than one program
///
/// Without a command, runs the file in the foreground, as `firstmate start` does. The file is the one named by -f, else by
/// $FIRSTMATE_CONFIG, else ./firstmate.toml, ./Procfile or /etc/firstmate/firstmate.toml.
#[derive(Debug, clap::Parser)]
#[command(name = "firstmate", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true, after_help = start::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: start::RunArgs,
    /// Run one program instead of a file: forward signals, reap orphans, exit with its code or 128 + its signal
    #[arg(last = true, value_name = "CMD", conflicts_with_all = RUNNING)]
    single: Vec<OsString>,
}

/// What says how a file is run, of which one program alone has none.
const RUNNING: [&str; 15] = [
    "file",
    "root",
    "port",
    "env_files",
    "memory_limit",
    "tty",
    "watch",
    "http",
    "socket",
    "formation",
    "except",
    "timeout",
    "restart",
    "no_restart",
    "no_timestamp",
];

#[derive(Debug, clap::Subcommand)]
enum Command {
    Start(start::StartArgs),
    Run(run::RunArgs),
    Stop(verbs::StopArgs),
    Restart(verbs::RestartArgs),
    Reload(verbs::ReloadArgs),
    Signal(verbs::SignalArgs),
    Scale(verbs::ScaleArgs),
    Update(update::UpdateArgs),
    Status(status::StatusArgs),
    Attach(attach::AttachArgs),
    Why(why::WhyArgs),
    Logs(logs::LogsArgs),
    Events(events::EventsArgs),
    Wait(wait::WaitArgs),
    Env(env::EnvArgs),
    Check(check::CheckArgs),
    CheckConfig(check_config::CheckConfigArgs),
    Shutdown(shutdown::ShutdownArgs),
    Completions(completions::CompletionsArgs),
    Version(version::VersionArgs),
}

/// Which supervisor to talk to.
#[derive(Debug, clap::Args)]
struct SocketArg {
    /// firstmate's Unix socket, or @NAME for an abstract one [default: $FIRSTMATE_SOCKET, else the file's, else the project's own, else the usual places]
    #[arg(long, value_name = "PATH")]
    socket: Option<OsString>,
    /// The firstmate of the project in this directory [default: in the working directory]
    #[arg(short = 'd', long = "root", id = ANOTHER_PLACE, value_name = "DIR", conflicts_with = "socket")]
    place: Option<PathBuf>,
}

/// The option that says where a command is to look as though it were called there.
const ANOTHER_PLACE: &str = "place";

/// What the command line takes, for whoever documents it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole command line, the program's name first. Ends with the exit codes that `--help` lists.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let bare = matches!(arguments.as_slice(), [_, dashes] if dashes == "--");
    let name = arguments.get(1).map(|name| name.to_string_lossy().into_owned());
    let (cli, place) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            if let Some(failure) = unknown_command(name.as_deref()).or_else(|| unknown_behind_options(&error, &arguments)) {
                err(&failure.render(is_colored(&std::io::stderr())));
                return ExitCode::from(failure.code);
            }
            // What was typed is quoted, and may have come from anywhere. Nobody is left to tell when the stream is closed.
            let error = harmless(&arguments).unwrap_or(error);
            if usage::is_help(&error) {
                let _ = error.print();
                return ExitCode::from(if error.use_stderr() { usage_error(name.as_deref()) } else { 0 });
            }
            let command = name.as_deref().filter(|name| Cli::command().find_subcommand(name).is_some());
            let failure = usage::failure(&error, command, usage_error(name.as_deref()));
            err(&failure.render(is_colored(&std::io::stderr())));
            return ExitCode::from(failure.code);
        }
    };
    if let Some(failure) = place.and_then(|place| go_to(&place).err()) {
        err(&failure.render(is_colored(&std::io::stderr())));
        return ExitCode::from(usage_error(name.as_deref()));
    }
    let result = if bare { Err(Failure::new(2, "no program is named after `--`").help("firstmate -- CMD ARG...")) } else { run(cli) };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            err(&failure.render(is_colored(&std::io::stderr())));
            ExitCode::from(failure.code)
        }
    }
}

/// What is to be done, and where a running firstmate is looked for, if elsewhere.
fn parse(arguments: &[OsString]) -> Result<(Cli, Option<PathBuf>), clap::Error> {
    let matches = Cli::command().try_get_matches_from(arguments)?;
    // Only commands for a running firstmate have it.
    let place = matches.subcommand().and_then(|(_, of)| of.try_get_one::<PathBuf>(ANOTHER_PLACE).ok()?.cloned());
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))?;
    Ok((cli, place))
}

/// Makes it the working directory: what is looked for is found from there.
fn go_to(place: &Path) -> Result<(), Failure> {
    std::env::set_current_dir(place).map_err(|error| {
        let failure = Failure::new(2, format!("cannot look for a firstmate in {}: {error}", printable(&place.to_string_lossy())));
        failure.help("-d names the directory of a project")
    })
}

/// What wrong arguments end with. Of a health check Docker reserves 2, and takes anything but 0 and 1 for a mistake of its own.
fn usage_error(command: Option<&str>) -> u8 {
    if command == Some("check") { 1 } else { 2 }
}

/// The same behind options, as in `firstmate -f FILE stauts`.
fn unknown_behind_options(error: &clap::Error, arguments: &[OsString]) -> Option<Failure> {
    let Some(clap::error::ContextValue::String(found)) = error.get(clap::error::ContextKind::InvalidArg) else { return None };
    let cli = Cli::command();
    let is_command = |argument: &OsString| cli.get_subcommands().any(|command| argument == command.get_name());
    if error.kind() != clap::error::ErrorKind::UnknownArgument || arguments.iter().any(is_command) {
        None
    } else {
        unknown_command(Some(found))
    }
}

/// The complaint about the same arguments, with all that could disturb a terminal escaped; `None` where nothing could.
fn harmless(arguments: &[OsString]) -> Option<clap::Error> {
    let shown: Vec<OsString> =
        arguments.iter().map(|argument| OsString::from(printable(&argument.to_string_lossy()).into_owned())).collect();
    if shown == arguments { None } else { Cli::try_parse_from(shown).err() }
}

/// A first argument that is neither a command nor an option. clap takes it for a surplus value, since the command may be left out.
fn unknown_command(name: Option<&str>) -> Option<Failure> {
    let name = name.filter(|name| !name.starts_with('-'))?;
    let cli = Cli::command();
    let commands: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    if commands.contains(&name) {
        return None;
    }
    let failure = Failure::new(2, format!("there is no command `{}`", printable(name)));
    Some(match did_you_mean(name, commands.iter().copied()) {
        Some(near) => failure.help(format!("did you mean `{near}`? `firstmate --help` lists the commands")),
        None => failure.help("`firstmate --help` lists the commands; one program is run by `firstmate -- CMD ARG...`"),
    })
}

fn run(cli: Cli) -> Result<u8, Failure> {
    if !cli.single.is_empty() {
        return Ok(run_single::run(&cli.single));
    }
    match cli.command {
        None => start::run_file(&cli.run),
        Some(Command::Start(args)) => start::run(&args),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Stop(args)) => verbs::stop(&args),
        Some(Command::Restart(args)) => verbs::restart(&args),
        Some(Command::Reload(args)) => verbs::reload(&args),
        Some(Command::Signal(args)) => verbs::signal(&args),
        Some(Command::Scale(args)) => verbs::scale(&args),
        Some(Command::Update(args)) => update::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Attach(args)) => attach::run(&args),
        Some(Command::Why(args)) => why::run(&args),
        Some(Command::Logs(args)) => logs::run(&args),
        Some(Command::Events(args)) => events::run(&args),
        Some(Command::Wait(args)) => wait::run(&args),
        Some(Command::Env(args)) => env::run(&args),
        Some(Command::Check(args)) => Ok(check::run(&args)),
        Some(Command::CheckConfig(args)) => check_config::run(&args),
        Some(Command::Shutdown(args)) => shutdown::run(&args),
        Some(Command::Completions(args)) => completions::run(&args, &Cli::command()),
        Some(Command::Version(args)) => Ok(version::run(&args)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_lists_its_exit_codes() {
        let mut cli = Cli::command();
        cli.build();
        let mut seen = 0;
        for command in std::iter::once(&mut cli.clone()).chain(cli.get_subcommands_mut()) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes:\n  0  "), "{help}");
            seen += 1;
        }
        assert_eq!(seen, 21);
    }

    #[test]
    fn dashes_make_everything_a_program() {
        for line in [&["firstmate", "--", "status", "-f", "x"][..], &["firstmate", "--", "status", "--", "--help"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(cli.command.is_none());
            assert_eq!(cli.single, line[2..]);
        }
        assert!(Cli::try_parse_from(["firstmate", "-f", "x", "--", "true"]).is_err());
    }
}
