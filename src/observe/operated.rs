//! What operators' wishes that take their time came to, as sentences.

use std::fmt::{self, Write};

use super::Level;
use super::notice::{InstanceName, Names, ServiceName};
use crate::engine::event::InstanceId;
use crate::engine::{RollStop, ServiceId};

pub(super) fn roll_begun(text: &mut String, service: ServiceId, instances: u16, names: &dyn Names) -> Result<Level, fmt::Error> {
    let service = ServiceName(service, names);
    match instances {
        1 => write!(text, "restarting 1 instance of {service} once the others are ready")?,
        instances => write!(text, "restarting {instances} instances of {service}, one after the other")?,
    }
    Ok(Level::Info)
}

pub(super) fn roll_turn(text: &mut String, at: InstanceId, left: u16, names: &dyn Names) -> Result<Level, fmt::Error> {
    write!(text, "it is the turn of {}", InstanceName(at, names))?;
    if left > 0 {
        write!(text, ", {left} more after it")?;
    }
    Ok(Level::Info)
}

pub(super) fn rolled(text: &mut String, service: ServiceId, names: &dyn Names) -> Result<Level, fmt::Error> {
    write!(text, "the rolling restart of {} is done", ServiceName(service, names))?;
    Ok(Level::Info)
}

pub(super) fn roll_stopped(text: &mut String, at: InstanceId, why: RollStop, left: u16, names: &dyn Names) -> Result<Level, fmt::Error> {
    let why = roll_stop(why, |number| InstanceName(InstanceId { number, ..at }, names).to_string());
    write!(text, "the rolling restart of {} stops at {}: {why}", ServiceName(at.service, names), InstanceName(at, names))?;
    match left {
        0 => {}
        1 => write!(text, "; 1 instance keeps its run")?,
        left => write!(text, "; {left} instances keep their runs")?,
    }
    Ok(Level::Warn)
}

pub(super) fn scaled(text: &mut String, service: ServiceId, from: u16, to: u16, names: &dyn Names) -> Result<Level, fmt::Error> {
    let plural = if to == 1 { "" } else { "s" };
    write!(text, "{} has {to} instance{plural} from now on, {from} before", ServiceName(service, names))?;
    Ok(Level::Info)
}

/// Why a rolling restart stopped at an instance. `name` is that of another one of its service, by number.
pub fn roll_stop(why: RollStop, name: impl Fn(u16) -> String) -> String {
    match why {
        RollStop::NotBack => "its new run did not become ready".to_owned(),
        RollStop::NotStarted => "its new run could not begin".to_owned(),
        RollStop::StoppedByOperator => "it was stopped meanwhile".to_owned(),
        RollStop::RestartedByOperator => "it was restarted by name meanwhile".to_owned(),
        RollStop::RemovedByOperator => "its service has fewer instances now".to_owned(),
        RollStop::OtherNotReady(number) => format!("{} is not ready, so it must stay", name(number)),
        RollStop::NoOther => "no other instance is up, so it must stay".to_owned(),
        RollStop::Updated => "its service is updated meanwhile".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Notice;
    use crate::observe::notice::tell;

    #[test]
    fn rolls_and_scales_are_told_in_a_sentence() {
        let names: &[&str] = &["web"];
        let at = InstanceId { service: ServiceId(0), number: 2 };
        let stopped = |why, left| Notice::RollStopped { at, why, left };
        let service = ServiceId(0);
        for (notice, level, text) in [
            (Notice::RollBegun { service, instances: 1 }, Level::Info, "restarting 1 instance of web once the others are ready"),
            (Notice::RollBegun { service, instances: 4 }, Level::Info, "restarting 4 instances of web, one after the other"),
            (Notice::RollTurn { at, left: 0 }, Level::Info, "it is the turn of web.2"),
            (Notice::RollTurn { at, left: 3 }, Level::Info, "it is the turn of web.2, 3 more after it"),
            (Notice::Rolled { service }, Level::Info, "the rolling restart of web is done"),
            (
                stopped(RollStop::NotBack, 2),
                Level::Warn,
                "the rolling restart of web stops at web.2: its new run did not become ready; 2 instances keep their runs",
            ),
            (stopped(RollStop::NotStarted, 0), Level::Warn, "the rolling restart of web stops at web.2: its new run could not begin"),
            (
                stopped(RollStop::StoppedByOperator, 1),
                Level::Warn,
                "the rolling restart of web stops at web.2: it was stopped meanwhile; 1 instance keeps its run",
            ),
            (
                stopped(RollStop::RestartedByOperator, 0),
                Level::Warn,
                "the rolling restart of web stops at web.2: it was restarted by name meanwhile",
            ),
            (
                stopped(RollStop::RemovedByOperator, 0),
                Level::Warn,
                "the rolling restart of web stops at web.2: its service has fewer instances now",
            ),
            (
                stopped(RollStop::OtherNotReady(3), 0),
                Level::Warn,
                "the rolling restart of web stops at web.2: web.3 is not ready, so it must stay",
            ),
            (
                stopped(RollStop::NoOther, 0),
                Level::Warn,
                "the rolling restart of web stops at web.2: no other instance is up, so it must stay",
            ),
            (Notice::Scaled { service, from: 2, to: 1 }, Level::Info, "web has 1 instance from now on, 2 before"),
            (Notice::Scaled { service, from: 1, to: 4 }, Level::Info, "web has 4 instances from now on, 1 before"),
        ] {
            let mut said = String::new();
            assert_eq!((tell(&notice, &names, &mut said), said.as_str()), (level, text));
        }
    }
}
