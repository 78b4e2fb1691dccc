//! Finds and reads the file, and shows every complaint about it on stderr.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::output::{Failure, err, is_colored};
use crate::config::{self, Additions, Again, Diagnostic, GivenLimit, Inputs, Loaded, Origin, Origins};
use crate::server::printable;
use crate::supervisor;

/// Exit code for a file that cannot be used.
const BAD_FILE: u8 = 2;

/// Which file, and what goes into it.
#[derive(Debug, Default, clap::Args)]
pub(super) struct FileArgs {
    /// The file: TOML when its name ends in .toml, else a Procfile [default: $FIRSTMATE_CONFIG, else ./firstmate.toml, ./Procfile,
    /// /etc/firstmate/firstmate.toml]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where services run, and where a Procfile and its .env are looked for, in place of the file's directory
    #[arg(short = 'd', long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The first Procfile entry's PORT; each further entry gets 100 more [default: PORT of .env, else of the environment, else 5000]
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// .env files, comma separated, instead of ./.env
    #[arg(short, long = "env", value_name = "FILE", value_delimiter = ',')]
    env_files: Vec<PathBuf>,
}

impl FileArgs {
    /// What says which file it is, in the order of `config::find`.
    pub(super) fn chosen_by(&self) -> Origin {
        let variable = std::env::var_os("FIRSTMATE_CONFIG").filter(|path| !path.is_empty());
        match (&self.file, variable) {
            (Some(_), _) => Origin::CommandLine("-f"),
            (None, Some(_)) => Origin::Environment("FIRSTMATE_CONFIG"),
            (None, None) => Origin::Default,
        }
    }

    /// The first option that is here, which a firstmate that runs already cannot be given.
    pub(super) fn given(&self) -> Option<&'static str> {
        [(self.file.is_some(), "-f"), (self.root.is_some(), "-d"), (self.port.is_some(), "-p"), (!self.env_files.is_empty(), "-e")]
            .into_iter()
            .find_map(|(given, name)| given.then_some(name))
    }

    /// The file to use, whether or not it can be read.
    pub(super) fn find(&self, env: &BTreeMap<OsString, OsString>, directory: &Path) -> Result<PathBuf, Diagnostic> {
        // As foreman has it: a file that is named is named from here, and one that is not lies in the root.
        match (&self.file, &self.root) {
            (None, Some(root)) => config::find(None, env, &directory.join(root)),
            (file, _) => config::find(file.as_deref(), env, directory),
        }
    }

    /// The directory of the project: the root, else where the file is; absolute, without links. `None` where there is no file.
    pub(super) fn project(&self, env: &BTreeMap<OsString, OsString>, directory: &Path) -> Option<PathBuf> {
        let file = self.find(env, directory).ok()?;
        let place = self.root.as_ref().map_or_else(|| file.parent().map(Path::to_path_buf), |root| Some(directory.join(root)));
        std::fs::canonicalize(place?).ok()
    }
}

/// The file. Its warnings are the caller's to show: they belong in a running stack's log. `is_bad` hears of every complaint when there is
/// an error among them.
///
/// # Errors
///
/// Exit code 2 when there is none or it is wrong; every diagnostic, warnings too, is on stderr by then.
pub(super) fn load(args: &FileArgs, memory_limit: Option<GivenLimit>, is_bad: impl FnOnce(&[Diagnostic])) -> Result<Loaded, Failure> {
    load_with(args, Inputs { memory_limit, ..Inputs::default() }, is_bad)
}

/// As [`load`], with what a command decides beside the file.
pub(super) fn load_with(args: &FileArgs, inputs: Inputs, is_bad: impl FnOnce(&[Diagnostic])) -> Result<Loaded, Failure> {
    load_by(config::load, args, inputs, is_bad)
}

/// The same to be run, and how it is read again while it runs.
pub(super) fn load_to_run(args: &FileArgs, inputs: Inputs, is_bad: impl FnOnce(&[Diagnostic])) -> Result<(Loaded, Again), Failure> {
    let read = |path: &Path, inputs: &Inputs| {
        let again = Again { path: path.to_owned(), inputs: inputs.clone(), additions: Additions::default() };
        config::load(path, inputs).map(|loaded| (loaded, again))
    };
    load_by(read, args, inputs, is_bad)
}

/// The file, and where each of its values came from.
///
/// # Errors
///
/// As [`load`].
pub(super) fn explain(args: &FileArgs, inputs: Inputs) -> Result<(Loaded, Origins), Failure> {
    load_by(config::explain, args, inputs, |_| ())
}

/// The variables of `.env` files where there is nothing else: no file is named, and none is found.
///
/// # Errors
///
/// Exit code 2 when one of them is wrong; every complaint is on stderr by then.
pub(super) fn env_alone(args: &FileArgs) -> Result<Option<BTreeMap<OsString, OsString>>, Failure> {
    let env = std::env::vars_os().collect();
    let Ok(directory) = std::env::current_dir() else { return Ok(None) };
    if args.find(&env, &directory).is_ok() {
        return Ok(None);
    }
    let directory = args.root.as_ref().map_or_else(|| directory.clone(), |root| directory.join(root));
    let inputs = Inputs { env, env_files: args.env_files.clone(), ..Inputs::default() };
    config::env_alone(&directory, &inputs).map_err(|diagnostics| {
        diagnostics.iter().for_each(show);
        Failure::shown(BAD_FILE)
    })
}

fn load_by<T>(
    read: impl Fn(&Path, &Inputs) -> Result<T, Vec<Diagnostic>>,
    args: &FileArgs,
    inputs: Inputs,
    is_bad: impl FnOnce(&[Diagnostic]),
) -> Result<T, Failure> {
    let env = std::env::vars_os().collect();
    let directory = std::env::current_dir().map_err(|error| {
        Failure::new(BAD_FILE, format!("cannot tell the working directory: {error}")).help("start firstmate in a directory that exists")
    })?;
    let root = args.root.as_ref().map(|root| directory.join(root));
    if let Some(root) = root.as_ref().filter(|root| !root.is_dir()) {
        let failure = Failure::new(BAD_FILE, format!("cannot run services in {}: it is no directory", printable(&root.to_string_lossy())));
        return Err(failure.help("-d names the directory the services run in"));
    }
    let path = match args.find(&env, &directory) {
        Ok(path) => path,
        Err(diagnostic) => {
            show(&diagnostic);
            is_bad(std::slice::from_ref(&diagnostic));
            return Err(Failure::shown(BAD_FILE));
        }
    };
    let in_docker = Path::new("/.dockerenv").exists();
    let inputs = Inputs { env, port: args.port, env_files: args.env_files.clone(), in_docker, root, ..inputs };
    match read(&path, &inputs) {
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
