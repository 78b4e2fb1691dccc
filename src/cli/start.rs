//! `firstmate` and `firstmate start`: run the file in the foreground; with names, ask a running supervisor to start them.

use std::ffi::OsString;
use std::net::SocketAddr;

use super::load::{self, FileArgs};
use super::output::Failure;
use super::{client, verbs};
use crate::config::{GivenLimit, Http};
use crate::server::SocketPath;
use crate::supervisor::{self, Options};

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
  0   the stop was asked for, or everything ended well by itself; with names: all are up
  1   with names: at least one is not up
  2   the file or the arguments are wrong
  4   with names: one is unknown, or no firstmate answers
  69  the socket or the HTTP address is taken, or cannot be had
  71  the system refuses what firstmate cannot be without
  130 a second Ctrl-C
  N   the code of the essential service that ended it; 1 when that was 0 and a failure all the same, 126 or 127 when it could not be
      executed, 128 + N when signal N killed it";

/// How to run the file.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The container's memory, for the memory guard, where the platform hides it [default: $FIRSTMATE_MEMORY_LIMIT, else the file's, else
    /// what is found]
    #[arg(long, value_name = "SIZE|auto", value_parser = GivenLimit::parse)]
    memory_limit: Option<GivenLimit>,
    /// Answer probes over HTTP on this address, or not at all [default: the file's; else 0.0.0.0:9180 as PID 1]
    #[arg(long, value_name = "ADDR:PORT|off", value_parser = parse_http)]
    http: Option<Http>,
    /// The Unix socket for verbs, or @NAME for an abstract one [default: $FIRSTMATE_SOCKET, else the file's, else /run/firstmate.sock or where it can be]
    #[arg(long, value_name = "PATH")]
    socket: Option<OsString>,
}

/// Run the file in the foreground; with names, start these in the firstmate that runs already
#[derive(Debug, clap::Args)]
#[command(after_help = START_EXIT_CODES)]
pub(super) struct StartArgs {
    /// Services (web), instances (web.1) or all, of the firstmate that runs already
    #[arg(value_name = "NAME", conflicts_with_all = ["file", "port", "env_files", "memory_limit", "http"])]
    names: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &StartArgs) -> Result<u8, Failure> {
    if args.names.is_empty() {
        return run_file(&args.run);
    }
    let connection = client::connect(args.run.socket.as_deref(), None).map_err(|unreachable| {
        let failure = Failure::from(unreachable);
        failure.help("names are started in a firstmate that runs already; `firstmate start` without names runs the file")
    })?;
    verbs::perform("start", &args.names, connection)
}

pub(super) fn run_file(args: &RunArgs) -> Result<u8, Failure> {
    let loaded = load::load(&args.file, args.memory_limit, load::leave_word)?;
    let named = args.socket.clone().or_else(|| std::env::var_os("FIRSTMATE_SOCKET").filter(|value| !value.is_empty()));
    let options = Options { http: args.http, socket: named.as_deref().map(SocketPath::parse) };
    Ok(supervisor::run(loaded, options))
}

fn parse_http(text: &str) -> Result<Http, String> {
    if text == "off" {
        return Ok(Http::Off);
    }
    text.parse::<SocketAddr>().map(Http::On).map_err(|_| "an address is like 0.0.0.0:9180 or [::]:9180; or off".to_owned())
}
