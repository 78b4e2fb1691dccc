//! `firstmate stop`, `restart` and `start NAME`: verbs for a running supervisor, and its answers in supervisorctl's look.

use super::client::{self, Connection, UNREACHABLE, encoded};
use super::output::{Failure, out};
use crate::server::{Reply, Verdict, printable};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  every instance is now as asked
  1  at least one is not, or it was refused
  2  the arguments are wrong
  4  a name is unknown, or no firstmate answers";

/// Stop services and wait until nothing is left of them
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct StopArgs {
    #[command(flatten)]
    pub(super) named: Named,
}

/// Stop services and start them again
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    pub(super) named: Named,
}

/// Whom a verb is about.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Services (web), instances (web.1) or all
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(verb: &str, named: &Named) -> Result<u8, Failure> {
    perform(verb, &named.names, client::connect(named.socket.socket.as_deref(), None)?)
}

/// Waits as long as the supervisor needs: it has its own deadlines, and a supervisor that dies closes the connection.
pub(super) fn perform(verb: &str, names: &[String], connection: Connection) -> Result<u8, Failure> {
    let query: Vec<String> = names.iter().map(|name| format!("name={}", encoded(name))).collect();
    let reply = ask(connection, &format!("/v1/{verb}?{}", query.join("&")))?;
    show(verb, &reply)
}

/// Posts a verb.
pub(super) fn ask(connection: Connection, target: &str) -> Result<Reply, Failure> {
    let socket = connection.socket.clone();
    let answer = connection.request("POST", target)?;
    serde_json::from_slice(&answer.body).map_err(|_| {
        Failure::new(UNREACHABLE, format!("cannot read the reply from {socket}: it answered {} in an unknown form", answer.code))
    })
}

fn show(verb: &str, reply: &Reply) -> Result<u8, Failure> {
    match reply {
        Reply::Done { instances } => {
            let mut text = String::new();
            for answer in instances {
                text.push_str(&printable(&answer.instance));
                text.push_str(": ");
                match &answer.verdict {
                    Verdict::Started => text.push_str("started"),
                    Verdict::AlreadyStarted => text.push_str("already started"),
                    Verdict::Stopped => text.push_str("stopped"),
                    Verdict::AlreadyStopped => text.push_str("already stopped"),
                    Verdict::Restarted => text.push_str("restarted"),
                    Verdict::Failed { why } => {
                        text.push_str("ERROR (");
                        text.push_str(&printable(why));
                        text.push(')');
                    }
                }
                text.push('\n');
            }
            out(&text);
            Ok(u8::from(!instances.iter().all(|answer| answer.verdict.is_good())))
        }
        Reply::UnknownName { name, suggestion } => {
            let failure = Failure::new(UNREACHABLE, format!("no service or instance is called `{}`", printable(name)));
            Err(match suggestion {
                Some(near) => failure.help(format!("did you mean `{}`?", printable(near))),
                None => failure.help("`firstmate status` lists them"),
            })
        }
        Reply::Failed { why } | Reply::Refused { why } => Err(Failure::new(1, format!("cannot {verb}: {}", printable(why)))),
    }
}
