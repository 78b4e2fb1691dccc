//! `firstmate` and `firstmate start`: run the file in the foreground; with names, ask a running supervisor to start them.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::develop::{DevelopArgs, started_by};
use super::load::{self, FileArgs};
use super::output::{Failure, err};
use super::{client, verbs};
use crate::config::again::watches;
use crate::config::{self, Additions, GivenLimit, Http, Inputs, Loaded, StartedBy};
use crate::engine::spec::WatchPath;
use crate::server::{SocketPath, default_sockets, printable, sockets_of_project};
use crate::supervisor::{self, Options};

/// Exit code for arguments that make no sense.
const BAD_ARGUMENTS: u8 = 2;

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0   the stop was asked for, or everything ended well by itself
  2   the file or the arguments are wrong
  69  the socket or the HTTP address is taken, or cannot be had
  71  the system refuses what firstmate cannot be without
  130 a second Ctrl-C
  N   the code of the essential service, or of the one program after `--`, that ended it; 1 when that was 0 and a failure all the same,
      126 or 127 when it could not be executed, 128 + N when signal N killed it";

const START_EXIT_CODES: &str = "\
Exit codes:
  0   the stop was asked for, or everything ended well by itself; in the firstmate that runs already: all are up
  1   in the firstmate that runs already: at least one is not up
  2   the file or the arguments are wrong
  4   in the firstmate that runs already: a name is unknown, or it does not answer
  69  the socket or the HTTP address is taken, or cannot be had
  71  the system refuses what firstmate cannot be without
  130 a second Ctrl-C; in the firstmate that runs already: Ctrl-C, and what was asked for may still be done
  N   the code of the essential service that ended it; 1 when that was 0 and a failure all the same, 126 or 127 when it could not be
      executed, 128 + N when signal N killed it";

/// How to run the file.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    develop: DevelopArgs,
    /// The container's memory, for the memory guard, where the platform hides it [default: $FIRSTMATE_MEMORY_LIMIT, else the file's, else
    /// what is found]
    #[arg(long, value_name = "SIZE|auto", value_parser = GivenLimit::parse)]
    memory_limit: Option<GivenLimit>,
    /// Give every process a pseudo-terminal of its own, as `tty = true` does for one service: colours and line buffering stay, and
    /// `firstmate attach NAME` talks to it
    #[arg(long)]
    tty: bool,
    /// Restart services when files change: files, directories or patterns, comma separated; NAME=PATH for one service alone. Counts once nothing
    /// has changed for 200 ms; .git, node_modules, target, swap files and the like are ignored
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    watch: Vec<String>,
    /// Answer probes over HTTP on this address, or not at all [default: the file's; else 0.0.0.0:9180 as PID 1]
    #[arg(long, value_name = "ADDR:PORT|off", value_parser = parse_http)]
    http: Option<Http>,
    /// The Unix socket for verbs, or @NAME for an abstract one [default: $FIRSTMATE_SOCKET, else the file's, else the project's own where a person starts it, else /run/firstmate.sock or where it can be]
    #[arg(long, value_name = "PATH")]
    socket: Option<OsString>,
}

/// Run the file in the foreground; with names, start these in the firstmate that runs already, or only these where none does
#[derive(Debug, clap::Args)]
#[command(after_help = START_EXIT_CODES)]
pub(super) struct StartArgs {
    /// Services (web), instances (web.1), groups or all, of the firstmate that runs already; where none does, the services of the file
    /// that are started, with what they depend on
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// With names that are started in a running firstmate: come back as soon as it has begun
    #[arg(long, conflicts_with = "timeout", requires = "names")]
    no_wait: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl RunArgs {
    /// The first option that is here, which a firstmate that runs already cannot be given.
    fn given(&self) -> Option<&'static str> {
        let own = [
            (self.memory_limit.is_some(), "--memory-limit"),
            (self.tty, "--tty"),
            (!self.watch.is_empty(), "--watch"),
            (self.http.is_some(), "--http"),
        ];
        let own = own.into_iter().find_map(|(given, name)| given.then_some(name));
        self.file.given().or_else(|| self.develop.given()).or(own)
    }
}

/// With names: who answers on the socket decides. Where a firstmate does, they are its services; where nobody is there, the file is run
/// with these alone. Anything in between (it does not answer in time, it is another user's) is no reason to start a second one.
pub(super) fn run(args: &StartArgs) -> Result<u8, Failure> {
    if args.names.is_empty() {
        return run_file(&args.run);
    }
    match client::connect_for(&args.run.file, args.run.socket.as_deref(), None) {
        Ok(connection) => {
            let whose = connection.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let whose = format!("the firstmate that runs already{whose}, on {}", connection.socket);
            if let Some(option) = args.run.given() {
                let failure = Failure::new(BAD_ARGUMENTS, format!("names go to {whose}, which cannot be given {option} by the way"));
                return Err(
                    failure.help(format!("leave out {option}, or run a second firstmate on a socket of its own with --socket PATH"))
                );
            }
            if std::io::stderr().is_terminal() {
                err(&format!("asking {whose}\n"));
            }
            let waiting = verbs::Waiting::new(args.no_wait, args.run.develop.timeout);
            verbs::start(&args.names, &waiting, args.run.socket.as_deref(), connection)
        }
        Err(unreachable) => {
            let looked = unreachable.short();
            if !unreachable.nobody_is_there() || is_beside_a_firstmate() {
                let help = "names are started in a firstmate that runs already, and there is one that does not answer; name its socket with --socket or $FIRSTMATE_SOCKET";
                return Err(Failure::from(unreachable).help(help));
            }
            let env = std::env::vars_os().collect();
            let directory = std::env::current_dir().unwrap_or_default();
            if args.run.file.find(&env, &directory).is_err() {
                let help = "names are started in a firstmate that runs already, or are services of a file, of which there is none here: name one with -f FILE";
                return Err(Failure::from(unreachable).help(help));
            }
            run_these(&args.run, &args.names, Some(looked))
        }
    }
}

/// PID 1 is a firstmate with services, and not this one. A second one would start them twice.
fn is_beside_a_firstmate() -> bool {
    if std::process::id() == 1 {
        return false;
    }
    let line = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let is_firstmate = words.next().is_some_and(|program| program.rsplit(|byte| *byte == b'/').next() == Some(b"firstmate"));
    // `firstmate -- CMD` is an init for one program.
    is_firstmate && words.next() != Some(b"--")
}

pub(super) fn run_file(args: &RunArgs) -> Result<u8, Failure> {
    run_these(args, &[], None)
}

/// Runs the file with the services of these names, or all. `looked` says why they are not started elsewhere.
fn run_these(args: &RunArgs, names: &[String], looked: Option<String>) -> Result<u8, Failure> {
    let inputs = Inputs { memory_limit: args.memory_limit, ..args.develop.inputs(names) };
    let (mut loaded, mut again) = load::load_to_run(&args.file, inputs, load::leave_word)?;
    if let Some(looked) = looked {
        loaded.remarks.insert(0, format!("the file is run here, with the services that were named: {looked}"));
    }
    again.additions = Additions { tty: args.tty, watch: watch(&args.watch, &loaded)? };
    again.additions.apply(&mut loaded.spec);
    let named = args.socket.clone().or_else(|| std::env::var_os("FIRSTMATE_SOCKET").filter(|value| !value.is_empty()));
    let options = Options {
        http: args.http,
        socket: named.as_deref().map(SocketPath::parse),
        // A second one of the same project must be wanted.
        project: project(&args.file, started_by()).filter(|_| named.is_some() || !client::is_run_already(&args.file)),
        no_timestamp: args.develop.no_timestamp,
    };
    Ok(supervisor::run(loaded, again, options))
}

/// `--watch`: beside what the file says.
fn watch(arguments: &[String], loaded: &Loaded) -> Result<Vec<(Option<String>, WatchPath)>, Failure> {
    if arguments.is_empty() {
        return Ok(Vec::new());
    }
    let directory = std::env::current_dir().map_err(|error| {
        Failure::new(2, format!("cannot tell the working directory: {error}")).help("start firstmate in a directory that exists")
    })?;
    let services = &loaded.spec.services;
    let mut watched = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let named = argument.split_once('=').filter(|(name, _)| services.iter().any(|service| service.name == *name));
        let (name, text) = named.map_or((None, argument.as_str()), |(name, text)| (Some(name), text));
        let path = if text.is_empty() { Err("it is empty".to_owned()) } else { config::watch::path(&directory, text) };
        let path = path
            .map_err(|why| Failure::new(2, format!("cannot watch `{}`: {why}", printable(text))).help("--watch src, or --watch web=src"))?;
        if !services.iter().any(|service| watches(service, name)) {
            let message = match name {
                Some(name) => format!("`{name}` is a oneshot: what it has done stays done when files change"),
                None => "the file has nothing but oneshots: what they have done stays done when files change".to_owned(),
            };
            return Err(Failure::new(2, message).help("--watch is for services"));
        }
        watched.push((name.map(str::to_owned), path));
    }
    Ok(watched)
}

/// Whose socket it is to be: any number of projects may run on a machine, but a container, or an init, has one firstmate, which is where
/// everybody looks; and beside a firstmate that is PID 1 a second one must be wanted.
fn project(file: &FileArgs, started_by: StartedBy) -> Option<PathBuf> {
    if started_by != StartedBy::Person || is_beside_a_firstmate() {
        return None;
    }
    file.project(&std::env::vars_os().collect(), &std::env::current_dir().ok()?)
}

/// Where the socket of a firstmate that is so started would be, if nobody names one.
pub(super) fn sockets(file: &FileArgs, started_by: StartedBy) -> Vec<SocketPath> {
    let uid = nix::unistd::geteuid().as_raw();
    match project(file, started_by) {
        Some(directory) => sockets_of_project(uid, std::env::var_os("XDG_RUNTIME_DIR").as_deref(), &directory),
        None => default_sockets(),
    }
}

fn parse_http(text: &str) -> Result<Http, String> {
    if text == "off" {
        return Ok(Http::Off);
    }
    text.parse::<SocketAddr>().map(Http::On).map_err(|_| "an address is like 0.0.0.0:9180 or [::]:9180; or off".to_owned())
}
