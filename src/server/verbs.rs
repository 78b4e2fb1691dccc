//! What the server asks of the supervisor, and the answers it carries back.

use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::Incidents;
use crate::engine::status::Status;

/// The supervisor as the server sees it.
pub trait Backend {
    /// What is true now. Called for every request, so it must be cheap and must not block.
    fn status(&self) -> Status;

    /// The incidents that are kept. Bounded, so as cheap.
    fn incidents(&self) -> Incidents;

    /// The whole text of `/metrics`, with the next turn of the supervisor.
    fn metrics(&self, format: MetricsFormat) -> Pin<Box<dyn Future<Output = String> + '_>>;

    /// Carries out a verb. The receiver gets the reply once the verb is done with; a dropped sender is told to the client as a supervisor
    /// that is going away.
    fn request(&self, verb: Request) -> oneshot::Receiver<Reply>;
}

/// The two formats of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// A verb. Names are `NAME`, `NAME.1` or `all`, not resolved yet and never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Be up.
    Start(Vec<String>),
    /// Be down.
    Stop(Vec<String>),
    /// Be up with a new run.
    Restart(Vec<String>),
    /// Stop everything, in order, and leave.
    Shutdown,
}

/// What came of a verb. As JSON, `result` says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Reply {
    /// Every instance has its own answer; empty for a shutdown that has begun.
    Done {
        /// In the order of the file.
        instances: Vec<Answer>,
    },
    /// Nothing was done, since one of the names is nobody's.
    UnknownName {
        /// The name.
        name: String,
        /// One that looks like it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suggestion: Option<String>,
    },
    /// Nothing was done, since the verb itself failed.
    Failed {
        /// One short line.
        why: String,
    },
    /// Nothing was done, since the verb is not possible now or not for this client.
    Refused {
        /// One short line.
        why: String,
    },
}

/// What came of a verb for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// `web.1`.
    pub instance: String,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// As JSON: `{"instance":"web.1","outcome":"stopped"}`, `{"instance":"web.1","outcome":"failed","why":"..."}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Verdict {
    /// It is up; for a oneshot: it has completed.
    Started,
    /// It was up already.
    AlreadyStarted,
    /// Nothing is left of it.
    Stopped,
    /// It was down already.
    AlreadyStopped,
    /// The old run is gone and the new one is up.
    Restarted,
    /// It was not done.
    Failed {
        /// One short line.
        why: String,
    },
}

impl Verdict {
    /// Whether the instance is now as was asked for.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }
}
