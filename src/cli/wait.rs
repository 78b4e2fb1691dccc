//! `firstmate wait`: block until services are ready, or stopped.
//!
//! It reads the events along and looks at the status after each, so it is neither late nor polling, unless too many follow already.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::client::UNREACHABLE;
use super::output::{Failure, err};
use super::stream::{Arrived, Stream, duration_argument};
use super::{status, table};
use crate::engine::status::{InstanceStatus, Phase, ServiceStatus, StateName, Status};
use crate::server::printable;

const EXIT_CODES: &str = "\
Exit codes:
  0  it holds
  1  the time is over; what it still waited for is said
  2  the arguments are wrong
  3  it cannot hold any more: something was given up, or firstmate is stopping or has ended
  4  a name is unknown, or no firstmate answers in all that time";

/// What changes without an event, such as whether the log is written, is seen at the latest after this.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks where nothing tells of a change, such as a firstmate that is about to start.
const RETRY: Duration = Duration::from_millis(50);

/// Block until services are ready, or stopped
///
/// With no name, `ready` is what /readyz says of the whole, and `stopped` is that nothing runs. Who is not there yet is waited for as well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct WaitArgs {
    /// ready: up and ready, or completed; stopped: down, whatever the reason
    #[arg(value_enum)]
    what: What,
    /// Services (web), instances (web.1), groups or all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Give up after this; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration_argument)]
    timeout: Duration,
    #[command(flatten)]
    socket: super::SocketArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Ready,
    Stopped,
}

/// What the status says about it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    /// A line each.
    NotYet(Vec<String>),
    Never(String),
}

pub(super) fn run(args: &WaitArgs) -> Result<u8, Failure> {
    let socket = args.socket.socket.as_deref();
    let deadline = Instant::now() + args.timeout;
    let mut waits_for = Vec::new();
    let mut watch = Watch::begin(socket, deadline)?;
    let mut were_there = false;
    loop {
        match status::fetch(socket) {
            Ok(status) => {
                if !were_there {
                    status::look_up(&status, &args.names)?;
                    were_there = true;
                }
                let Some(names) = left(args.what, &args.names, &status)? else { return Ok(0) };
                match judge(args.what, &names, &status) {
                    Verdict::Holds => return Ok(0),
                    Verdict::Never(why) => return Err(Failure::new(3, why)),
                    Verdict::NotYet(lines) => waits_for = lines,
                }
            }
            // It was there a moment ago.
            Err(_) if matches!(watch, Watch::Clock) => return gone(args.what),
            // The events tell whether it is gone, or had too many visitors.
            Err(_) => {}
        }
        if deadline <= Instant::now() {
            break;
        }
        if !watch.wait(deadline)? {
            return gone(args.what);
        }
    }
    err(&waits_for.iter().map(|line| format!("{}\n", printable(line))).collect::<String>());
    let what = match args.what {
        What::Ready => "not ready",
        What::Stopped => "not stopped",
    };
    Err(Failure::new(1, format!("still {what} after {} s", args.timeout.as_secs_f64()))
        .help("`firstmate status` and `firstmate why` say more"))
}

/// Of those that were there, the names that still are: an update takes services away, and `scale` instances. `None` when that is nobody.
///
/// # Errors
/// Exit code 3: one that is to be ready is there no longer.
fn left(what: What, names: &[String], status: &Status) -> Result<Option<Vec<String>>, Failure> {
    let is_there = |name: &&String| status::look_up(status, std::slice::from_ref(*name)).is_ok();
    match (what, names.iter().find(|name| !is_there(name))) {
        (What::Ready, Some(gone)) => {
            Err(Failure::new(3, format!("{} is there no longer: it was taken out of the file, or scaled away", printable(gone))))
        }
        (What::Ready | What::Stopped, _) => {
            let left: Vec<String> = names.iter().filter(is_there).cloned().collect();
            // No name at all stands for the whole.
            Ok(Some(left).filter(|left| !left.is_empty() || names.is_empty()))
        }
    }
}

/// By what it is noticed that something may have changed.
#[derive(Debug)]
enum Watch {
    Events(Stream),
    /// As many follow the events as may.
    Clock,
}

impl Watch {
    /// Of a firstmate that may still have to come.
    fn begin(socket: Option<&OsStr>, deadline: Instant) -> Result<Self, Failure> {
        loop {
            match Stream::open(socket, "/events?follow&last=0") {
                Ok(stream) => return Ok(Self::Events(stream)),
                Err(failure) if failure.code != UNREACHABLE => return Ok(Self::Clock),
                Err(failure) if deadline <= Instant::now() => return Err(failure),
                Err(_) => rest(deadline),
            }
        }
    }

    /// Until something may have changed, or it is time; false when firstmate has ended.
    fn wait(&mut self, deadline: Instant) -> Result<bool, Failure> {
        match self {
            Self::Clock => {
                rest(deadline);
                Ok(true)
            }
            Self::Events(events) => match events.next(Some(deadline.min(Instant::now() + LOOK)))? {
                Arrived::Lines(_) | Arrived::Late => Ok(true),
                Arrived::End | Arrived::CutOff => Ok(false),
            },
        }
    }
}

/// For a moment, and not beyond the deadline.
fn rest(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now()).min(RETRY);
    // Interrupted, it looks again a little earlier.
    let _ = poll(&mut [], PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
}

fn gone(what: What) -> Result<u8, Failure> {
    match what {
        What::Stopped => Ok(0),
        What::Ready => Err(Failure::new(3, "firstmate has ended, so nothing becomes ready any more")),
    }
}

fn judge(what: What, names: &[String], status: &Status) -> Verdict {
    let all = names.is_empty() || names.iter().any(|name| name == "all");
    let is_named = |service: &ServiceStatus, instance: &InstanceStatus| {
        all || names.iter().any(|name| status::is_called(service, name) || *name == instance.name)
    };
    let instances = || {
        status
            .services
            .iter()
            .flat_map(|service| service.instances.iter().map(move |instance| (service, instance)))
            .filter(|(service, instance)| is_named(service, instance))
    };
    let shown = |instance: &InstanceStatus| match &instance.why {
        Some(why) => format!("{} is {}: {why}", instance.name, instance.state),
        None => format!("{} is {}", instance.name, instance.state),
    };
    match what {
        What::Stopped => {
            let up: Vec<String> =
                instances().filter(|(_, instance)| !is_down(instance.state)).map(|(_, instance)| shown(instance)).collect();
            if up.is_empty() { Verdict::Holds } else { Verdict::NotYet(up) }
        }
        What::Ready => {
            if status.phase != Phase::Running {
                let why = status.stopping_because.as_deref().map_or_else(String::new, |why| format!(": {}", printable(why)));
                return Verdict::Never(format!("firstmate is stopping{why}"));
            }
            if names.is_empty() && status.ready {
                return Verdict::Holds;
            }
            // Of the whole only what is essential counts, as for /readyz.
            let counts = |service: &ServiceStatus| !names.is_empty() || service.essential;
            let missing: Vec<&InstanceStatus> = instances()
                .filter(|(service, instance)| counts(service) && !table::is_well(instance))
                .filter(|(_, instance)| !names.is_empty() || instance.run > 0 || instance.state != StateName::Stopped)
                .map(|(_, instance)| instance)
                .collect();
            if let Some(failed) = missing.iter().find(|instance| instance.state == StateName::Failed) {
                return Verdict::Never(format!("{}; `firstmate why` says more", printable(&shown(failed))));
            }
            if missing.is_empty() && !names.is_empty() {
                return Verdict::Holds;
            }
            let mut lines: Vec<String> = missing.into_iter().map(shown).collect();
            lines.extend(status.log_blocked_because.iter().filter(|_| names.is_empty()).map(|why| format!("the log: {why}")));
            let helpless = status.memory.as_ref().filter(|memory| memory.helpless && names.is_empty());
            lines.extend(helpless.map(|memory| format!("memory: {}", memory.why.as_deref().unwrap_or("no restart would help"))));
            Verdict::NotYet(lines)
        }
    }
}

const fn is_down(state: StateName) -> bool {
    match state {
        StateName::Stopped | StateName::Completed | StateName::Exited | StateName::Failed => true,
        StateName::Waiting | StateName::Starting | StateName::Running | StateName::Stopping | StateName::Backoff => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_and_is_gone_is_stopped_and_never_ready() {
        let now = status("running", true, &[("web", true, "running", true)]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        assert_eq!(left(What::Stopped, &names(&["web", "gone.2"]), &now).unwrap(), Some(names(&["web"])));
        assert_eq!(left(What::Stopped, &names(&["gone"]), &now).unwrap(), None);
        assert_eq!(left(What::Stopped, &[], &now).unwrap(), Some(Vec::new()), "the whole");
        assert_eq!(left(What::Ready, &names(&["web", "gone"]), &now).unwrap_err().code, 3);
        assert_eq!(left(What::Ready, &names(&["web.1"]), &now).unwrap(), Some(names(&["web.1"])));
    }

    fn status(phase: &str, ready: bool, states: &[(&str, bool, &str, bool)]) -> Status {
        let services: Vec<String> = states
            .iter()
            .map(|(name, essential, state, ready)| {
                format!(
                    r#"{{"name":"{name}","kind":"service","groups":["those-of-{name}"],"essential":{essential},"ready":{ready},"instances":[{{"name":"{name}.1",
                    "state":"{state}","ready":{ready},"run":1,"restarts":{{"total":0,"crash":0,"live":0,"start_timeout":0}},"why":"so"}}]}}"#
                )
            })
            .collect();
        serde_json::from_str(&format!(
            r#"{{"version":"1","pid":1,"uptime_ms":1,"phase":"{phase}","ready":{ready},"live":true,"started":true,"services":[{}]}}"#,
            services.join(",")
        ))
        .unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ready_is_what_readyz_says_or_what_is_named() {
        let up = ("web", true, "running", true);
        let slow = ("db", true, "starting", false);
        let spare = ("spare", false, "failed", false);
        let now = status("running", false, &[up, slow, spare]);
        let missing = || Verdict::NotYet(vec!["db.1 is starting: so".to_owned()]);
        assert_eq!(judge(What::Ready, &[], &now), missing());
        assert_eq!(judge(What::Ready, &names(&["web"]), &now), Verdict::Holds);
        assert_eq!(judge(What::Ready, &names(&["web", "db.1"]), &now), missing());
        assert_eq!(judge(What::Ready, &names(&["those-of-web"]), &now), Verdict::Holds);
        assert_eq!(judge(What::Ready, &names(&["those-of-web", "those-of-db"]), &now), missing());
        let given_up = Verdict::Never("spare.1 is failed: so; `firstmate why` says more".to_owned());
        assert_eq!(judge(What::Ready, &names(&["all"]), &now), given_up);
        assert_eq!(judge(What::Ready, &[], &status("running", true, &[up, spare])), Verdict::Holds);
        assert_eq!(
            judge(What::Ready, &names(&["web"]), &status("stopping", false, &[up])),
            Verdict::Never("firstmate is stopping".to_owned())
        );
    }

    #[test]
    fn stopped_is_down_whatever_the_reason() {
        let now = status(
            "stopping",
            false,
            &[("web", true, "stopping", false), ("job", true, "completed", false), ("x", false, "failed", false)],
        );
        assert_eq!(judge(What::Stopped, &[], &now), Verdict::NotYet(vec!["web.1 is stopping: so".to_owned()]));
        assert_eq!(judge(What::Stopped, &names(&["job", "x.1"]), &now), Verdict::Holds);
        assert_eq!(judge(What::Stopped, &names(&["those-of-job"]), &now), Verdict::Holds);
    }
}
