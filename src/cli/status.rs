//! `firstmate status`: the table, or the JSON, of what runs.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::client::{self, UNREACHABLE};
use super::output::{Failure, did_you_mean, err, is_colored, json, out};
use super::{table, terminal, watch};
use crate::engine::status::{InstanceStatus, ServiceStatus, Status};
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
    /// Services (web), instances (web.1), groups or all; everything when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Show it again every second, until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print the names that may be given to commands, a line each: for shells that complete them
    #[arg(long = "names", hide = true, conflicts_with_all = ["json", "watch"])]
    list_names: bool,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &StatusArgs) -> Result<u8, Failure> {
    if args.watch {
        return watch::run(&args.names, args.socket.socket.as_deref());
    }
    let mut status = fetch(args.socket.socket.as_deref())?;
    if args.list_names {
        out(&all_names(&status));
        return Ok(0);
    }
    let unknown = args.names.iter().find(|name| !is_known(&status, name)).map(|name| unknown_name(&status, name));
    keep_named(&mut status, &args.names);
    let instances: Vec<&InstanceStatus> = status.services.iter().flat_map(|service| &service.instances).collect();
    if args.json {
        out(&json("status", &status)?);
    } else {
        if let Some(why) = &status.stopping_because {
            err(&format!("firstmate is stopping: {}\n", printable(why)));
        }
        let table = table::render(&instances, status.memory.as_ref(), is_whole(&args.names), is_colored(&std::io::stdout()));
        out(&terminal::fit(&table, terminal::window()));
        err(&notes(&status));
    }
    if let Some(unknown) = unknown {
        return Err(unknown);
    }
    Ok(if instances.iter().all(|instance| table::is_well(instance)) { 0 } else { 3 })
}

/// Services, their instances and groups, each once.
fn all_names(status: &Status) -> String {
    let mut names: Vec<&str> = Vec::new();
    for service in &status.services {
        let instances = service.instances.iter().map(|instance| instance.name.as_str());
        for name in std::iter::once(service.name.as_str()).chain(instances).chain(service.groups.iter().map(String::as_str)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.iter().map(|name| format!("{}\n", printable(name))).collect()
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
    serde_json::from_slice(&answer.body).map_err(|error| {
        broken(printable(&error.to_string()).into_owned()).help("is that socket firstmate's, and of the same version as this one?")
    })
}

/// What is the whole container's is no part of an answer about some services.
pub(super) fn is_whole(names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| name == "all")
}

/// What there is to say about whole services, a line each.
pub(super) fn notes(status: &Status) -> String {
    let mut text = String::new();
    for service in &status.services {
        let name = printable(&service.name);
        if let Some(in_file) = service.instances_in_file {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name}: scaled at run time; it was started with {in_file}");
        }
        if let Some(rolling) = &service.rolling {
            let now = rolling
                .now
                .as_deref()
                .map_or_else(|| "waits for the others to be ready".to_owned(), |now| format!("{} now", printable(now)));
            let left = if rolling.left.is_empty() { String::new() } else { format!(", then {}", printable(&rolling.left.join(", "))) };
            let _ = writeln!(text, "{name}: rolling restart: {now}{left}");
        }
    }
    text
}

pub(super) fn is_known(status: &Status, name: &str) -> bool {
    name == "all"
        || status.services.iter().any(|service| is_called(service, name) || service.instances.iter().any(|instance| instance.name == name))
}

/// Looks every name up.
///
/// # Errors
///
/// One is nobody's.
pub(super) fn look_up(status: &Status, names: &[String]) -> Result<(), Failure> {
    names.iter().find(|name| !is_known(status, name)).map_or(Ok(()), |name| Err(unknown_name(status, name)))
}

/// By its own name or by that of one of its groups.
pub(super) fn is_called(service: &ServiceStatus, name: &str) -> bool {
    service.name == name || service.groups.iter().any(|group| group == name)
}

/// Everything where nothing is named.
pub(super) fn keep_named(status: &mut Status, names: &[String]) {
    if names.is_empty() {
        return;
    }

    let named = |name: &str| names.iter().any(|wanted| wanted == "all" || wanted == name);
    for service in &mut status.services {
        if !named(&service.name) && !service.groups.iter().any(|group| named(group)) {
            service.instances.retain(|instance| named(&instance.name));
        }
    }
    status.services.retain(|service| !service.instances.is_empty());
}

pub(super) fn unknown_name(status: &Status, name: &str) -> Failure {
    let services = status.services.iter().map(|service| service.name.as_str());
    let instances = status.services.iter().flat_map(|service| &service.instances).map(|instance| instance.name.as_str());
    let groups = status.services.iter().flat_map(|service| &service.groups).map(String::as_str);
    let failure = Failure::new(UNREACHABLE, format!("no service, instance or group is called `{}`", printable(name)));
    match did_you_mean(name, services.clone().chain(groups).chain(instances)) {
        Some(near) => failure.help(format!("did you mean `{}`?", printable(near))),
        None => failure.help(format!("there are: {}", printable(&services.collect::<Vec<_>>().join(", ")))),
    }
}
