//! Arguments to exit code: one file a subcommand, rendering of tables and errors.
//!
//! Data goes to stdout, messages to stderr. Commands for a running supervisor are blocking clients of its Unix socket without a runtime of
//! their own.

mod check;
mod client;
mod output;
mod shutdown;
mod status;
mod table;
mod verbs;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use output::{Failure, err, is_colored};

/// PID 1 for containers that run more than one program
#[derive(Debug, clap::Parser)]
#[command(name = "firstmate", version, disable_help_subcommand = true, after_help = verbs::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Stop(verbs::StopArgs),
    Restart(verbs::RestartArgs),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
    Shutdown(shutdown::ShutdownArgs),
    Version(version::VersionArgs),
}

/// Which supervisor to talk to.
#[derive(Debug, clap::Args)]
struct SocketArg {
    /// firstmate's Unix socket, or @NAME for an abstract one [default: $FIRSTMATE_SOCKET, else the usual places]
    #[arg(long, value_name = "PATH")]
    socket: Option<OsString>,
}

/// The whole command line, the program's name first. Ends with the exit codes that `--help` lists.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when the stream is closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            err(&failure.render(is_colored(&std::io::stderr())));
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Stop(args) => verbs::run("stop", &args.named),
        Command::Restart(args) => verbs::run("restart", &args.named),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => Ok(check::run(&args)),
        Command::Shutdown(args) => shutdown::run(&args),
        Command::Version(args) => Ok(version::run(&args)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

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
        assert_eq!(seen, 7);
    }
}
