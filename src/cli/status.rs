//! `firstmate status`: the table, or the JSON, of what runs.

use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use super::client::{self, UNREACHABLE};
use super::output::{Failure, did_you_mean, err, is_colored, out};
use super::table;
use crate::engine::status::{InstanceStatus, Status};
use crate::server::printable;

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  everything shown is up and ready, or completed
  2  the arguments are wrong
  3  something shown is not
  4  a name is unknown, or no firstmate answers";

/// Show what runs
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct StatusArgs {
    /// Services (web), instances (web.1) or all; everything when none is named
    names: Vec<String>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &StatusArgs) -> Result<u8, Failure> {
    let mut status = fetch(args.socket.socket.as_deref())?;
    let unknown = args.names.iter().find(|name| !is_known(&status, name)).map(|name| unknown_name(&status, name));
    if !args.names.is_empty() {
        keep_named(&mut status, &args.names);
    }
    let instances: Vec<&InstanceStatus> = status.services.iter().flat_map(|service| &service.instances).collect();
    if args.json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| Failure::new(1, format!("cannot write the status: {error}")))?;
        out(&(text + "\n"));
    } else {
        if let Some(why) = &status.stopping_because {
            err(&format!("firstmate is stopping: {}\n", printable(why)));
        }
        // What is the whole container's is no part of an answer about some services.
        let whole = args.names.is_empty() || args.names.iter().any(|name| name == "all");
        out(&table::render(&instances, status.memory.as_ref(), whole, is_colored(&std::io::stdout())));
    }
    if let Some(unknown) = unknown {
        return Err(unknown);
    }
    Ok(if instances.iter().all(|instance| table::is_well(instance)) { 0 } else { 3 })
}

/// Asks for the status.
pub(super) fn fetch(socket: Option<&OsStr>) -> Result<Status, Failure> {
    let connection = client::connect(socket, Some(Instant::now() + Duration::from_secs(5)))?;
    let place: OsString = connection.socket.to_os_string();
    let answer = connection.request("GET", "/status")?;
    let broken =
        |why: String| Failure::new(UNREACHABLE, format!("cannot read the status from {}: {why}", printable(&place.to_string_lossy())));
    if answer.code != 200 {
        return Err(broken(format!("it answered {}", answer.code)));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| broken(error.to_string()).help("is that socket firstmate's, and of the same version as this one?"))
}

fn is_known(status: &Status, name: &str) -> bool {
    name == "all"
        || status.services.iter().any(|service| service.name == name || service.instances.iter().any(|instance| instance.name == name))
}

fn keep_named(status: &mut Status, names: &[String]) {
    let named = |name: &str| names.iter().any(|wanted| wanted == "all" || wanted == name);
    for service in &mut status.services {
        if !named(&service.name) {
            service.instances.retain(|instance| named(&instance.name));
        }
    }
    status.services.retain(|service| !service.instances.is_empty());
}

fn unknown_name(status: &Status, name: &str) -> Failure {
    let services = status.services.iter().map(|service| service.name.as_str());
    let instances = status.services.iter().flat_map(|service| &service.instances).map(|instance| instance.name.as_str());
    let failure = Failure::new(UNREACHABLE, format!("no service or instance is called `{}`", printable(name)));
    match did_you_mean(name, services.clone().chain(instances)) {
        Some(near) => failure.help(format!("did you mean `{}`?", printable(near))),
        None => failure.help(format!("there are: {}", printable(&services.collect::<Vec<_>>().join(", ")))),
    }
}
