//! How long the platform waits between its stop signal and its SIGKILL, and whether what the file asks for fits below that.
//!
//! Railway alone tells it to the container (Kubernetes' own grace period is not visible inside), so what is known is each platform's
//! default, and which platform it is by what it leaves in the environment. Who has changed the default says so with `platform_patience`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::time::Duration;

use super::values::{parse_duration, show_duration};
use super::{Diagnostic, Source};

/// The environment variable that tells how long the platform waits; it wins over the file.
pub const PLATFORM_PATIENCE: &str = "FIRSTMATE_PLATFORM_PATIENCE";

/// Where nothing tells, as `docker stop` waits 10 s.
const UNKNOWN: Duration = Duration::from_secs(8);
/// What the last SIGKILLs, the reaping and the last lines take; the engine keeps as much free.
const RESERVE: Duration = Duration::from_millis(500);

/// Where Railway tells its patience, in seconds. It is a variable of the service's that is set to change the default.
const RAILWAY: &str = "RAILWAY_DEPLOYMENT_DRAINING_SECONDS";

/// By which variable a platform is known, its name, the seconds it waits by default, and how to make it wait longer; empty where that
/// cannot be. Sources: docs of Fly.io (`kill_timeout`), Railway (deployment
/// teardown), Kubernetes (`terminationGracePeriodSeconds`), ECS (`stopTimeout`), Heroku, Cloud Run (container contract). Knative sets
/// `K_SERVICE` too, on Kubernetes, which is therefore asked for before it.
const PLATFORMS: [(&str, &str, u64, &str); 7] = [
    ("FLY_APP_NAME", "Fly.io", 5, "kill_timeout in fly.toml"),
    ("RAILWAY_ENVIRONMENT_ID", "Railway", 3, RAILWAY),
    ("KUBERNETES_SERVICE_HOST", "Kubernetes", 30, "the pod's terminationGracePeriodSeconds"),
    ("ECS_CONTAINER_METADATA_URI_V4", "ECS", 30, "the container's stopTimeout"),
    ("ECS_CONTAINER_METADATA_URI", "ECS", 30, "the container's stopTimeout"),
    ("DYNO", "Heroku", 30, ""),
    ("K_SERVICE", "Cloud Run", 10, ""),
];

/// How long the platform waits, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patience {
    /// `Kubernetes`; `the platform` where it was told by who wrote the file.
    platform: &'static str,
    /// What told it.
    evidence: String,
    /// From its stop signal to its SIGKILL.
    waits: Duration,
    /// Nobody told so: it is what the platform does where nothing else was asked of it.
    by_default: bool,
    /// What makes it wait longer; empty where nothing does.
    knob: &'static str,
}

impl Patience {
    /// What the environment and the file's own `platform_patience` tell. `Err` is what is wrong with the environment's.
    pub(super) fn find(env: &BTreeMap<OsString, OsString>, in_docker: bool, file: Option<Duration>) -> Result<Option<Self>, String> {
        let told = |evidence: String, waits| Self {
            platform: "the platform",
            evidence,
            waits,
            by_default: false,
            knob: "the platform's own grace period",
        };
        if let Some(text) = env.get(OsStr::new(PLATFORM_PATIENCE)).filter(|text| !text.is_empty()) {
            let waits = parse_duration(&text.to_string_lossy()).map_err(str::to_owned)?;
            if waits.is_zero() {
                return Err("a platform that does not wait at all leaves nothing to stop in".to_owned());
            }
            return Ok(Some(told(format!("{PLATFORM_PATIENCE} says so"), waits)));
        }
        if let Some(waits) = file {
            return Ok(Some(told("`platform_patience` says so".to_owned(), waits)));
        }
        // Anything but seconds Railway does not take either.
        if let Some(seconds) =
            env.get(OsStr::new(RAILWAY)).and_then(|text| text.to_str()?.parse::<u32>().ok()).filter(|&seconds| seconds > 0)
        {
            let (evidence, waits) = (format!("{RAILWAY} says so"), Duration::from_secs(seconds.into()));
            return Ok(Some(Self { platform: "Railway", evidence, waits, by_default: false, knob: RAILWAY }));
        }
        for (variable, platform, seconds, knob) in PLATFORMS {
            if env.contains_key(OsStr::new(variable)) {
                let (evidence, waits) = (format!("{variable} is set"), Duration::from_secs(seconds));
                return Ok(Some(Self { platform, evidence, waits, by_default: true, knob }));
            }
        }
        // Docker leaves no variable at all.
        let knob = "--stop-timeout, or stop_grace_period of compose";
        if env.get(OsStr::new("container")).is_some_and(|value| value == "podman") {
            return Ok(Some(Self {
                platform: "podman",
                evidence: "container=podman is set".to_owned(),
                waits: Duration::from_secs(10),
                by_default: true,
                knob,
            }));
        }
        let (evidence, waits) = ("/.dockerenv is there".to_owned(), Duration::from_secs(10));
        let docker = Self { platform: "Docker", evidence, waits, by_default: true, knob };
        Ok(in_docker.then_some(docker))
    }

    /// `stop_timeout = "auto"`: a fifth of the platform's patience is left to it, at most 5 s.
    pub(super) fn stop_timeout(known: Option<&Self>) -> Duration {
        known.map_or(UNKNOWN, |known| {
            let margin = known.waits.checked_div(5).unwrap_or_default().min(Duration::from_secs(5));
            known.waits.saturating_sub(margin)
        })
    }

    /// `Kubernetes waits 30s by default (KUBERNETES_SERVICE_HOST is set)`.
    pub(super) fn said(&self) -> String {
        let default = if self.by_default { " by default" } else { "" };
        format!("{} waits {}{default} ({})", self.platform, show_duration(self.waits), self.evidence)
    }

    /// How to make room for so much.
    fn raise(&self, least: Duration) -> String {
        if self.knob.is_empty() {
            return format!("{} cannot be made to wait longer", self.platform);
        }
        let least = show_duration(whole_seconds(least));
        if self.knob == RAILWAY {
            return format!("or raise {RAILWAY} above {least}");
        }
        format!("or raise {} above {least} and say so with platform_patience or ${PLATFORM_PATIENCE}", self.knob)
    }

    /// The file's own `stop_timeout` is not below the platform's patience.
    pub(super) fn judge_whole(&self, main: &Source, span: Range<usize>, stop_timeout: Duration) -> Option<Diagnostic> {
        (stop_timeout >= self.waits).then(|| {
            let message = format!(
                "stop_timeout is {}, but {}: then it kills firstmate and whatever is still stopping",
                show_duration(stop_timeout),
                self.said()
            );
            main.warning(span, message).help(format!(
                "lower stop_timeout below {}, {}",
                show_duration(self.waits),
                self.raise(stop_timeout)
            ))
        })
    }

    /// A service's own `stop_timeout` does not fit into what the shutdown has, after the drain.
    pub(super) fn judge_service(
        &self,
        source: &Source,
        name: &str,
        span: Range<usize>,
        wanted: Duration,
        (stop_timeout, drain): (Duration, Duration),
    ) -> Option<Diagnostic> {
        let all = stop_timeout.saturating_sub(drain);
        let left = time_to_stop(stop_timeout, drain);
        // One that is as long as the whole loses the last half second of it, of which nobody needs to be warned.
        (wanted > all).then(|| {
            let after = if drain.is_zero() { String::new() } else { format!(", after a drain of {}", show_duration(drain)) };
            let message = format!(
                "`{name}` may take {} to stop, but in a shutdown of {}{after} it gets SIGKILL after {} at the latest; {}",
                show_duration(wanted),
                show_duration(stop_timeout),
                show_duration(left),
                self.said()
            );
            let whole = wanted.saturating_add(drain).saturating_add(RESERVE);
            let help = if stop_timeout < self.waits && whole < self.waits {
                format!("lower it, or raise stop_timeout in [firstmate] to {}", show_duration(whole_seconds(whole)))
            } else {
                format!("lower it, {}", self.raise(whole))
            };
            source.warning(span, message).help(help)
        })
    }

    /// What to add to the complaint about a drain that leaves nothing.
    pub(super) fn note(&self) -> String {
        self.said()
    }
}

/// How long a service has at most to stop in such a shutdown, before everything that is left gets SIGKILL.
#[must_use]
pub fn time_to_stop(stop_timeout: Duration, drain: Duration) -> Duration {
    let all = stop_timeout.saturating_sub(drain);
    all.saturating_sub(RESERVE.min(all.checked_div(8).unwrap_or_default()))
}

/// Rounded up: nobody sets a grace period of 30.5 s.
fn whole_seconds(duration: Duration) -> Duration {
    let up = u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(duration.as_secs().saturating_add(up))
}
