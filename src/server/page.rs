//! `/`: what runs, to look at. HTML for browsers, plain text for everything else.

use std::fmt::Write as _;

use super::text::{html, printable};
use crate::engine::status::{InstanceStatus, StateName, Status};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}table{border-collapse:collapse}\
td,th{padding:.2rem 1.2rem .2rem 0;text-align:left}.good{color:#176f2c}.bad{color:#b3261e}.gone{color:#6b6b6b}";

/// An instance's state in one lower-case word, as in the JSON.
const fn word(state: StateName) -> &'static str {
    match state {
        StateName::Stopped => "stopped",
        StateName::Waiting => "waiting",
        StateName::Starting => "starting",
        StateName::Running => "running",
        StateName::Stopping => "stopping",
        StateName::Backoff => "backoff",
        StateName::Completed => "completed",
        StateName::Exited => "exited",
        StateName::Failed => "failed",
    }
}

fn readiness(instance: &InstanceStatus) -> &'static str {
    match instance.state {
        StateName::Completed | StateName::Stopped | StateName::Exited => "",
        StateName::Waiting | StateName::Starting | StateName::Running | StateName::Stopping | StateName::Backoff | StateName::Failed => {
            if instance.ready {
                "ready"
            } else {
                "not ready"
            }
        }
    }
}

/// Its memory, once it has been looked at.
fn memory_of(status: &Status, instance: &InstanceStatus) -> String {
    let line = status.memory.as_ref().and_then(|memory| memory.restart_above_bytes);
    instance.memory.as_ref().map(|memory| memory.summary(line)).unwrap_or_default()
}

/// One line an instance; its columns are parted by tabs. Where memory is known, it is the last column, and the container's the last line.
pub(super) fn plain(status: &Status) -> String {
    let mut out = format!("firstmate {}: {}\n", printable(&status.version), if status.ready { "ready" } else { "not ready" });
    for instance in status.services.iter().flat_map(|service| &service.instances) {
        let why = instance.why.as_deref().map(printable).unwrap_or_default();
        // Writing into a String cannot fail.
        let _ = write!(out, "{}\t{}\t{}\t{why}", printable(&instance.name), word(instance.state), readiness(instance));
        if status.memory.is_some() {
            let _ = write!(out, "\t{}", memory_of(status, instance));
        }
        out.push('\n');
    }
    if let Some(memory) = &status.memory {
        let _ = writeln!(out, "memory\t{}\t\t{}", memory.summary(), memory.why.as_deref().map(printable).unwrap_or_default());
    }
    out
}

/// A page without scripts or anything from elsewhere.
pub(super) fn hypertext(status: &Status) -> String {
    let verdict = if status.ready { "<b class=good>ready</b>" } else { "<b class=bad>not ready</b>" };
    let mut out = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>firstmate</title>\
         <style>{STYLE}</style>\n<h1>firstmate {}</h1>\n<p>The stack is {verdict}.",
        html(&status.version)
    );
    if let Some(why) = &status.stopping_because {
        let _ = write!(out, " It is stopping: {}.", html(why));
    }
    if let Some(memory) = &status.memory {
        let _ = write!(out, "</p>\n<p>Memory: {}.", html(&memory.summary()));
        if let Some(why) = &memory.why {
            let _ = write!(out, " The guard: {}.", html(why));
        }
    }
    out.push_str("</p>\n<table><tr><th>instance<th>state<th>readiness<th>pid<th>restarts<th>memory<th>why</tr>\n");
    for instance in status.services.iter().flat_map(|service| &service.instances) {
        let class = match instance.state {
            StateName::Running if instance.ready => "good",
            StateName::Completed => "good",
            StateName::Stopped | StateName::Exited => "gone",
            StateName::Waiting
            | StateName::Starting
            | StateName::Running
            | StateName::Stopping
            | StateName::Backoff
            | StateName::Failed => "bad",
        };
        let pid = instance.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let why = instance.why.as_deref().map(html).unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><td>{}<td class={class}>{}<td>{}<td>{pid}<td>{}<td>{}<td>{why}</tr>",
            html(&instance.name),
            word(instance.state),
            readiness(instance),
            format_args!("{}{}", instance.restarts.total, instance.restarts.in_words()),
            memory_of(status, instance)
        );
    }
    out.push_str(
        "</table>\n<p><a href=\"livez?verbose\">livez</a> <a href=\"readyz?verbose\">readyz</a> <a href=\"startupz?verbose\">startupz</a> ",
    );
    out.push_str("<a href=\"status\">status</a></p>\n</html>\n");
    out
}
