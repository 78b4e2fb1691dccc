//! The three probe questions in kube-apiserver's form (its `pkg/server/healthz`), except that a failure is 503.
//!
//! In the whole, only what the engine counts decides: `Status::{live, ready, started}`. Asked for by name, a service answers for itself.

use std::fmt::Write as _;

use super::text::{printable, quoted};
use crate::engine::status::{InstanceStatus, Phase, ServiceStatus, StateName, Status};

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// `/livez` and `/healthz`.
    Live,
    /// `/readyz`.
    Ready,
    /// `/startupz`.
    Started,
}

/// Status code and body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probed {
    /// 200, 404 or 503.
    pub(super) code: u16,
    /// Plain text.
    pub(super) body: String,
}

/// One line of a verbose answer.
struct Check<'a> {
    name: &'a str,
    /// Why it fails; the reason may be unknown.
    failure: Option<Option<&'a str>>,
    /// Whether its failing fails the whole.
    required: bool,
}

impl Question {
    const fn adjective(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Started => "started",
        }
    }

    fn holds_for_all(self, status: &Status) -> bool {
        match self {
            Self::Live => status.live,
            Self::Ready => status.ready,
            Self::Started => status.started,
        }
    }

    fn holds_for(self, status: &Status, service: &ServiceStatus) -> bool {
        match self {
            Self::Live => service.instances.iter().all(|instance| instance.state != StateName::Failed),
            Self::Ready => service.ready,
            // Startup happens once: what has been ready need not be ready now.
            Self::Started => status.started || service.ready,
        }
    }

    fn holds_for_instance(self, status: &Status, instance: &InstanceStatus) -> bool {
        match self {
            Self::Live => instance.state != StateName::Failed,
            Self::Ready => instance.ready || instance.state == StateName::Completed,
            Self::Started => status.started || instance.ready || instance.state == StateName::Completed,
        }
    }
}

/// Every check of a question: `ping`, the services in the order of the file, and for readiness `log`, `memory` and `shutdown`.
fn checks(question: Question, status: &Status) -> Vec<Check<'_>> {
    let whole = question.holds_for_all(status);
    let mut checks = vec![Check { name: "ping", failure: None, required: true }];
    if question == Question::Ready {
        checks.push(Check { name: "log", failure: status.log_blocked_because.as_deref().map(Some), required: true });
    }
    for service in &status.services {
        let reason = service.reason.as_deref().or_else(|| service.instances.iter().find_map(|instance| instance.why.as_deref()));
        // Neither does one that nobody has asked for yet (`autostart = false`): it is no reason while something else is missing.
        let unasked = service.instances.iter().all(|instance| instance.run == 0 && instance.state == StateName::Stopped);
        checks.push(Check {
            name: &service.name,
            failure: (!question.holds_for(status, service)).then_some(reason),
            // The engine knows what counts (an essential service nobody wants up does not), so its verdict is not second-guessed.
            required: service.essential && !whole && !unasked,
        });
    }
    if question == Question::Ready {
        let beyond_help = status.memory.as_ref().filter(|memory| memory.helpless).map(|memory| memory.why.as_deref());
        checks.push(Check { name: "memory", failure: beyond_help, required: true });
        let ending = status.phase != Phase::Running;
        let reason = status.stopping_because.as_deref().or(Some("firstmate is stopping"));
        checks.push(Check { name: "shutdown", failure: ending.then_some(reason), required: true });
    }
    if !whole && !checks.iter().any(|check| check.required && check.failure.is_some()) {
        // Without this line an answer could contradict the verdict it is about.
        checks.push(Check { name: "firstmate", failure: Some(None), required: true });
    }
    checks
}

/// The whole question. `path_name` is `livez`, `healthz`, `readyz` or `startupz`.
pub(super) fn whole(question: Question, path_name: &str, status: &Status, verbose: bool, excluded: &[String], reasons: bool) -> Probed {
    let mut lines = String::new();
    let mut failed = false;
    let mut unmatched: Vec<&str> = excluded.iter().map(String::as_str).collect();
    // Writing into a String cannot fail, here and below.
    for check in checks(question, status) {
        if excluded.iter().any(|name| name == check.name) {
            unmatched.retain(|name| *name != check.name);
            let _ = writeln!(lines, "[+]{} excluded: ok", check.name);
            continue;
        }
        match check.failure {
            None => {
                let _ = writeln!(lines, "[+]{} ok", check.name);
            }
            Some(_) if !check.required => {
                let _ = writeln!(lines, "[+]{} not {}, not required: ok", check.name, question.adjective());
            }
            Some(reason) => {
                failed = true;
                let _ = writeln!(lines, "[-]{}", failure(question, check.name, reason, reasons));
            }
        }
    }
    unmatched.sort_unstable();
    unmatched.dedup();
    if !unmatched.is_empty() {
        let names: Vec<String> = unmatched.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {}", names.join(","));
    }
    if failed {
        let _ = writeln!(lines, "{path_name} check failed");
        return Probed { code: 503, body: lines };
    }
    if !verbose {
        return Probed { code: 200, body: "ok".to_owned() };
    }
    let _ = writeln!(lines, "{path_name} check passed");
    Probed { code: 200, body: lines }
}

/// The question asked of one check, service or instance. 404 when nobody has the name.
pub(super) fn one(question: Question, name: &str, status: &Status, reasons: bool) -> Probed {
    let mut known = false;
    // A service may be called like a built-in check; then both must pass.
    for check in checks(question, status).iter().filter(|check| check.name == name) {
        known = true;
        if let Some(reason) = check.failure {
            return unavailable(question, check.name, reason, reasons);
        }
    }
    if known {
        return Probed { code: 200, body: "ok".to_owned() };
    }
    match status.services.iter().flat_map(|service| &service.instances).find(|instance| instance.name == name) {
        Some(instance) if question.holds_for_instance(status, instance) => Probed { code: 200, body: "ok".to_owned() },
        Some(instance) => unavailable(question, &instance.name, instance.why.as_deref(), reasons),
        None => {
            let mut body = format!("no check, service or instance is called {}", quoted(name));
            let names = status.services.iter().map(|service| service.name.as_str());
            if let Some(near) = names
                .filter(|known| strsim::damerau_levenshtein(known, name) <= 2)
                .min_by_key(|known| strsim::damerau_levenshtein(known, name))
            {
                let _ = write!(body, "; did you mean {}", quoted(near));
            }
            body.push('\n');
            Probed { code: 404, body }
        }
    }
}

fn unavailable(question: Question, name: &str, reason: Option<&str>, reasons: bool) -> Probed {
    Probed { code: 503, body: format!("service unavailable: {}\n", failure(question, name, reason, reasons)) }
}

/// `redis not ready: connect 127.0.0.1:6379: refused`, or for strangers `redis failed: reason withheld`.
fn failure(question: Question, name: &str, reason: Option<&str>, reasons: bool) -> String {
    match reason {
        _ if !reasons => format!("{} failed: reason withheld", printable(name)),
        Some(reason) => format!("{} not {}: {}", printable(name), question.adjective(), printable(reason)),
        None => format!("{} not {}", printable(name), question.adjective()),
    }
}
