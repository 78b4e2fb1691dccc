//! `ready` of a service: a probe, a delay, or the means by which it says so itself; and the watchdog that goes with the last.

use std::ops::Range;

use regex_lite::{Regex, RegexBuilder};

use super::{PROBE_KEYS, Value, Walk, nearest};
use crate::engine::spec::Readiness;

/// What a `ready` that is no probe consists of: exactly one of these.
const READY_KEYS: [&str; 4] = ["delay", "log", "notify", "notify_fd"];
/// A compiled expression is no larger, in bytes. A line takes time in proportion to this, and nothing else runs meanwhile.
const PATTERN_SIZE: usize = 32 << 10;
/// Groups within groups.
const PATTERN_DEPTH: u32 = 32;

/// Compiles the expression of `ready = { log = "..." }`, with the bounds that all of them have.
///
/// # Errors
/// What is wrong with it, as a short phrase.
pub fn log_pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(PATTERN_SIZE).nest_limit(PATTERN_DEPTH).build().map_err(|error| error.to_string())
}

impl Walk<'_> {
    pub(super) fn readiness(&mut self, value: &Value<'_>) -> Option<Readiness> {
        let table = self.table(value, "a table such as { http = \"http://127.0.0.1:8080/healthz\" } or { notify = true }")?;
        let is_own = |key: &str| READY_KEYS.contains(&key);
        if !table.keys().any(|key| is_own(key.get_ref())) {
            // A slip in the only key there is can be one of ours as well as one of a probe's.
            if let (Some(key), 1) = (table.keys().next(), table.len())
                && !PROBE_KEYS.contains(&key.get_ref().as_ref())
                && let Some(near) = nearest(key.get_ref(), READY_KEYS)
            {
                self.error_help(key.span(), format!("unknown key `{}` in `ready`", key.get_ref()), format!("did you mean `{near}`?"));
                return None;
            }
            return self.probe(value).map(Readiness::Probe);
        }
        let mut ways: Vec<(Range<usize>, Option<Readiness>)> = Vec::new();
        for (key, value) in table.iter() {
            let way = match key.get_ref().as_ref() {
                "delay" => self.duration(value).map(Readiness::Delay),
                "log" => self.log_line(value),
                "notify" => self.notify(value),
                "notify_fd" => self.number(value, "notify_fd", 3, 1023).map(Readiness::NotifyFd),
                other if PROBE_KEYS.contains(&other) => {
                    let message = format!("`{other}` belongs to a probe, and this `ready` is none");
                    self.error_help(key.span(), message, "a service becomes ready in one way: keep that, or the probe");
                    continue;
                }
                other => {
                    self.unknown_key(other, key.span(), "in `ready`", &READY_KEYS);
                    continue;
                }
            };
            ways.push((key.span(), way));
        }
        if ways.len() > 1
            && let Some((span, _)) = ways.last()
        {
            self.error_help(
                span.clone(),
                "a service becomes ready in one way, and this names more",
                "keep one of delay, log, notify and notify_fd",
            );
        }
        ways.into_iter().next()?.1
    }

    fn notify(&mut self, value: &Value<'_>) -> Option<Readiness> {
        if self.boolean(value)? {
            return Some(Readiness::Notify { watchdog: None });
        }
        self.error_help(
            value.span(),
            "`notify = false` says nothing about when the service is ready",
            "remove `ready`, or name another way",
        );
        None
    }

    fn log_line(&mut self, value: &Value<'_>) -> Option<Readiness> {
        let text = self.filled(value, "a regular expression such as \"ready to accept connections\"")?;
        match log_pattern(text) {
            Ok(_) => Some(Readiness::Log(text.to_owned())),
            Err(why) => {
                let help = "a backslash keeps a character from having a meaning; write it in '...' so that TOML leaves it alone";
                self.error_help(value.span(), format!("the regular expression cannot be used: {why}"), help);
                None
            }
        }
    }
}
