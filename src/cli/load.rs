//! Finds and reads the file, and shows every complaint about it on stderr.

use std::path::PathBuf;

use super::output::{Failure, err, is_colored};
use crate::config::{self, Diagnostic, GivenLimit, Inputs, Loaded};

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

/// The file. Its warnings are the caller's to show: they belong in a running stack's log.
///
/// # Errors
///
/// Exit code 2 when there is none or it is wrong; every diagnostic, warnings too, is on stderr by then.
pub(super) fn load(args: &FileArgs, memory_limit: Option<GivenLimit>) -> Result<Loaded, Failure> {
    let env = std::env::vars_os().collect();
    let directory = std::env::current_dir().map_err(|error| {
        Failure::new(BAD_FILE, format!("cannot tell the working directory: {error}")).help("start firstmate in a directory that exists")
    })?;
    let path = match config::find(args.file.as_deref(), &env, &directory) {
        Ok(path) => path,
        Err(diagnostic) => {
            show(&diagnostic);
            return Err(Failure::shown(BAD_FILE));
        }
    };
    match config::load(&path, &Inputs { env, port: args.port, env_files: args.env_files.clone(), memory_limit }) {
        Ok(loaded) => Ok(loaded),
        Err(diagnostics) => {
            diagnostics.iter().for_each(show);
            Err(Failure::shown(BAD_FILE))
        }
    }
}

/// On stderr, in full.
pub(super) fn show(diagnostic: &Diagnostic) {
    let text = diagnostic.render(is_colored(&std::io::stderr()));
    err(text.trim_end_matches('\n'));
    err("\n");
}
