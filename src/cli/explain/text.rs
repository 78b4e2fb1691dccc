//! The plan as people read it: sections of aligned columns, the last of which says where a value came from.

use std::time::Duration;

use super::super::terminal::padded;
use super::{After, Plan, ServicePlan, Setting, StartStep, StopStep};
use crate::config::Origin;
use crate::config::diagnostic::columns;
use crate::config::values::show_duration;
use crate::server::printable;

/// A value that is wider than this does not push the last column of all others to the right.
const WIDEST: usize = 48;

pub(super) const BOLD: &str = "\x1b[1m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const OFF: &str = "\x1b[0m";

/// All of it. Whatever comes from a file or the environment is made harmless in [`Text::rows`] and nowhere else, since all goes through there.
pub(super) fn render(plan: &Plan, color: bool) -> String {
    let mut text = Text { out: String::new(), color };
    let instances: usize = plan.services.iter().map(|service| service.instances.len()).sum();
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let counts = format!("{}, {}", count(plan.services.len(), "service"), count(instances, "instance"));
    let chosen = if plan.file.from == Origin::Default { "the first that was found".to_owned() } else { plan.file.from.to_string() };
    text.rows(&[vec![format!("{}: ok, {counts}", plan.file.path), chosen]], "");
    text.section("firstmate", plan.firstmate.iter().map(setting));
    text.section("memory guard", plan.memory.iter().map(setting));
    text.section("order of start", plan.start.iter().map(start));
    text.section("order of stop", whole(plan).into_iter().chain(plan.stop.iter().map(stop)));
    for service in &plan.services {
        text.service(service);
    }
    let ignored =
        plan.ignored.iter().map(|ignored| vec![ignored.what.clone(), ignored.why.clone(), ignored.at.clone().unwrap_or_default()]);
    text.section("ignored", ignored);
    text.section(
        "warnings",
        plan.warnings.iter().map(|warning| {
            let help = warning.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
            vec![warning.at.clone(), format!("{}{help}", warning.message)]
        }),
    );
    text.out
}

fn setting(setting: &Setting) -> Vec<String> {
    let value = match &setting.note {
        Some(note) => format!("{} ({note})", setting.value),
        None => setting.value.clone(),
    };
    vec![setting.key.clone(), value, setting.from.to_string()]
}

fn start(step: &StartStep) -> Vec<String> {
    let many = if step.instances > 1 { format!(" x {}", step.instances) } else { String::new() };
    let kind = if step.is_oneshot { ", to its end" } else { "" };
    let after = |after: &After| {
        let somebody = if after.waits_for_somebody { " (which somebody must start)" } else { "" };
        format!("{} is {}{somebody}", after.service, after.condition)
    };
    let when = match (step.autostart, step.after.is_empty()) {
        (false, _) => format!("when asked for, by `firstmate start {}`", step.service),
        (true, true) => "at once".to_owned(),
        (true, false) => format!("when {}", step.after.iter().map(after).collect::<Vec<_>>().join(", ")),
    };
    vec![format!("{}{}{many}", step.drawn, step.service), format!("{when}{kind}")]
}

/// What holds for the whole stop.
fn whole(plan: &Plan) -> Option<Vec<String>> {
    let of = |key: &str| plan.firstmate.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str());
    let drain =
        of("drain").filter(|drain| *drain != "0s").map_or_else(String::new, |drain| format!("; for {drain} not ready, but still serving"));
    Some(vec![String::new(), "all".to_owned(), format!("within {}{drain}", of("stop_timeout")?)])
}

fn stop(step: &StopStep) -> Vec<String> {
    let shown = |ms| show_duration(Duration::from_millis(ms));
    let to = if step.to == "group" { "its process group" } else { "its main process" };
    let how = match (step.sigkill_after_ms, step.at_most_ms) {
        (0, _) => "SIGKILL to all of it at once".to_owned(),
        (own, whole) if own > whole => {
            let signals = step.signals.join(", then ");
            format!("{signals} to {to}, SIGKILL to all of it after {}, since {} is more than the whole has", shown(whole), shown(own))
        }
        (own, _) => format!("{} to {to}, SIGKILL to all of it after {}", step.signals.join(", then "), shown(own)),
    };
    vec![step.step.to_string(), step.service.clone(), how]
}

struct Text {
    out: String,
    color: bool,
}

impl Text {
    fn title(&mut self, title: &str) {
        let (on, off) = if self.color { (BOLD, OFF) } else { ("", "") };
        self.out.push_str(&format!("\n{on}{}{off}\n", printable(title)));
    }

    /// Nothing where there is nothing to tell.
    fn section(&mut self, title: &str, rows: impl Iterator<Item = Vec<String>>) {
        let rows: Vec<Vec<String>> = rows.collect();
        if !rows.is_empty() {
            self.title(title);
            self.rows(&rows, "  ");
        }
    }

    fn service(&mut self, service: &ServicePlan) {
        self.title(&format!("service {}", service.name));
        let mut rows: Vec<Vec<String>> = service.settings.iter().map(setting).collect();
        let program = match &service.program {
            Some(path) => path.clone(),
            None => format!("{} is not found, or cannot be executed, here", service.argv.first().map_or("", String::as_str)),
        };
        rows.insert(1.min(rows.len()), vec!["program".to_owned(), program]);
        // PORT is among the settings, with its number.
        let named = service.env.iter().filter(|variable| variable.name != "PORT");
        rows.extend(named.map(|variable| vec![format!("env.{}", variable.name), "(not shown)".to_owned(), variable.from.to_string()]));
        if service.inherited > 0 {
            let value = match service.inherited {
                1 => "and 1 variable of firstmate's own environment".to_owned(),
                more => format!("and {more} variables of firstmate's own environment"),
            };
            rows.push(vec!["env".to_owned(), value]);
        }
        self.rows(&rows, "  ");
    }

    /// Columns as wide as their widest cell, but for the last.
    fn rows(&mut self, rows: &[Vec<String>], indent: &str) {
        let safe: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let most = safe.iter().map(Vec::len).fold(0, usize::max);
        let width = |at: usize| {
            let cells = safe.iter().filter(|row| row.len() > at.saturating_add(1)).filter_map(|row| row.get(at));
            cells.map(|cell| columns(cell)).filter(|columns| *columns <= WIDEST).fold(0, usize::max)
        };
        let widths: Vec<usize> = (0..most).map(width).collect();
        for row in &safe {
            let mut line = indent.to_owned();
            let last = row.len().saturating_sub(1);
            for (at, cell) in row.iter().enumerate() {
                // The third says where the value came from.
                let is_origin = at == 2 && at == last;
                if self.color && is_origin {
                    line.push_str(&format!("{DIM}{cell}{OFF}"));
                } else if at == last {
                    line.push_str(cell);
                } else {
                    line.push_str(&padded(cell, widths.get(at).copied().unwrap_or_default()));
                    line.push_str("  ");
                }
            }
            self.out.push_str(line.trim_end());
            self.out.push('\n');
        }
    }
}
