//! `firstmate run CMD ARG...`: one command in the stack's environment, as `foreman run`. firstmate itself is gone then.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::load::{self, FileArgs};
use super::output::Failure;
use crate::engine::{LaunchError, Stage, spec};
use crate::server::printable;
use crate::supervisor;

/// As shells number it: it is there and cannot be executed.
const CANNOT_EXECUTE: u8 = 126;
/// As shells number it: there is no such program.
const NOT_FOUND: u8 = 127;

/// Run one command in the stack's environment (.env, PORT, FIRSTMATE_WEB_PORT), here; or a service's own command by its name, where it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes:
  0   the command's own 0
  2   the file or the arguments are wrong
  126 the command cannot be executed
  127 there is no such command
  N   the command's own")]
pub(super) struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The command with its arguments, which is no shell's; or the name of a service, whose command it is then
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(args: &RunArgs) -> Result<u8, Failure> {
    // As foreman has it: the variables of `.env` need no Procfile.
    if let Some(variables) = load::env_alone(&args.file)? {
        return Err(execute(&args.command, None, supervisor::of_variables(variables), false));
    }
    let loaded = load::load(&args.file, None, |_| ())?;
    loaded.warnings.iter().for_each(load::show);
    // With arguments it is a program, whatever it is called.
    let name = match args.command.as_slice() {
        [name] => name.to_str(),
        _ => None,
    };
    let service = loaded.spec.services.iter().find(|service| Some(service.name.as_str()) == name);
    let (argv, directory): (Vec<OsString>, Option<PathBuf>) = match service {
        None => (args.command.clone(), None),
        Some(service) => {
            let argv = match &service.launch.command {
                spec::Command::Argv(words) => words.iter().map(OsString::from).collect(),
                spec::Command::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.into()],
            };
            (argv, Some(service.launch.working_dir.clone()))
        }
    };
    Err(execute(&argv, directory.as_deref(), supervisor::of_command(&loaded, service), service.is_some()))
}

/// Becomes the command. Comes back only when it failed.
fn execute(argv: &[OsString], directory: Option<&Path>, environment: BTreeMap<OsString, OsString>, is_service: bool) -> Failure {
    let Some((program, arguments)) = argv.split_first() else { return Failure::new(2, "no command is named") };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let error = command.exec();
    let shown = printable(&program.to_string_lossy()).into_owned();
    // In the words that a service's own launch would have.
    let failed = LaunchError { stage: Stage::Exec, errno: error.raw_os_error().unwrap_or_default(), detail: shown };
    let place = directory.map_or_else(String::new, |directory| format!(" in {}", printable(&directory.to_string_lossy())));
    let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
    let failure = Failure::new(code, format!("cannot start the command{place}: {failed}"));
    if !is_service && arguments.is_empty() && failed.detail.contains(char::is_whitespace) {
        failure.help("write the words apart, or let a shell do it: firstmate run sh -c '...'")
    } else {
        failure.help("name a program that is in PATH, or a service of the file")
    }
}
