//! Finds and reads the file, and shows every complaint about it on stderr.

use std::path::{Path, PathBuf};

use super::output::{Failure, err, is_colored};
use crate::config::{self, Diagnostic, GivenLimit, Inputs, Loaded};
use crate::supervisor;

/// Exit code for a file that cannot be used.
const BAD_FILE: u8 = 2;

/// Which file, and what goes into it.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// The file: TOML when its name ends in .toml, else a Procfile [default: $FIRSTMATE_CONFIG, else ./firstmate.toml, ./Procfile,
    /// /etc/firstmate/firstmate.toml]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The first Procfile entry's PORT; each further entry gets 100 more [default: PORT of .env, else of the environment, else 5000]
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// .env files, comma separated, instead of ./.env
    #[arg(short, long = "env", value_name = "FILE", value_delimiter = ',')]
    env_files: Vec<PathBuf>,
}

/// The file. Its warnings are the caller's to show: they belong in a running stack's log. `is_bad` hears of every complaint when there is
/// an error among them.
///
/// # Errors
///
/// Exit code 2 when there is none or it is wrong; every diagnostic, warnings too, is on stderr by then.
pub(super) fn load(args: &FileArgs, memory_limit: Option<GivenLimit>, is_bad: impl FnOnce(&[Diagnostic])) -> Result<Loaded, Failure> {
    let env = std::env::vars_os().collect();
    let directory = std::env::current_dir().map_err(|error| {
        Failure::new(BAD_FILE, format!("cannot tell the working directory: {error}")).help("start firstmate in a directory that exists")
    })?;
    let path = match config::find(args.file.as_deref(), &env, &directory) {
        Ok(path) => path,
        Err(diagnostic) => {
            show(&diagnostic);
            is_bad(std::slice::from_ref(&diagnostic));
            return Err(Failure::shown(BAD_FILE));
        }
    };
    let in_docker = Path::new("/.dockerenv").exists();
    match config::load(&path, &Inputs { env, port: args.port, env_files: args.env_files.clone(), memory_limit, in_docker }) {
        Ok(loaded) => Ok(loaded),
        Err(diagnostics) => {
            diagnostics.iter().for_each(show);
            is_bad(&diagnostics);
            Err(Failure::shown(BAD_FILE))
        }
    }
}

/// Why nothing could be started, for the platform to show: the first complaint, and how many there are besides.
pub(super) fn leave_word(diagnostics: &[Diagnostic]) {
    let mut errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    let Some(first) = errors.next() else { return };
    let place = first.place();
    let place = if place.is_empty() { place } else { format!("{place}: ") };
    let help = first.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
    let more = match errors.count() {
        0 => String::new(),
        count => format!(" (and {count} more, see the log)"),
    };
    supervisor::leave_word(BAD_FILE, &format!("{place}{}{help}{more}", first.message));
}

/// On stderr, in full.
pub(super) fn show(diagnostic: &Diagnostic) {
    let text = diagnostic.render(is_colored(&std::io::stderr()));
    err(text.trim_end_matches('\n'));
    err("\n");
}
