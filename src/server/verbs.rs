//! What the server asks of the supervisor, and the answers it carries back.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::attach::Attachment;
use super::update::{Diff, Update};
use crate::engine::status::Status;
use crate::engine::{Incidents, Verb};

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

    /// The lines services wrote, in the order in which they came, as the log looks where it is no terminal.
    ///
    /// # Errors
    ///
    /// A name is nobody's.
    fn logs(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply>;

    /// What happened, a JSON object a line.
    ///
    /// # Errors
    ///
    /// A name is nobody's.
    fn events(&self, asked: &Reading) -> Result<Box<dyn Feed>, Reply>;

    /// The environment an instance gets; `values`: with what they are. The receiver is told as with [`Backend::request`].
    fn environment(&self, name: String, values: bool) -> oneshot::Receiver<Result<Variables, Reply>>;

    /// The place at the terminal of an instance: `NAME.1`, or `NAME` where there is only one.
    ///
    /// # Errors
    /// Nobody has that name, it has no terminal, it does not run, or somebody else is there.
    fn attach(&self, name: &str) -> Result<Attachment, Reply>;
}

/// What of the lines is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `NAME`, `NAME.1` or `all`, not resolved yet; none is everybody.
    pub names: Vec<String>,
    /// Only the last so many of all of them together.
    pub last: Option<usize>,
    /// Only those that are no older.
    pub since: Option<Duration>,
    /// And those that come.
    pub follow: bool,
}

/// Where lines come from.
pub trait Feed {
    /// Appends whole lines, at most `most` bytes of them but for the last. Pending: nothing is there, and the waker is told when something is.
    fn poll_fill(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>, most: usize) -> Poll<Fill>;
}

/// What a feed says after giving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// There is more.
    More,
    /// That is all there is now.
    Now,
    /// That is all there will be.
    End,
}

/// The environment an instance gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    /// `web.1`.
    pub instance: String,
    /// By name.
    pub variables: Vec<Variable>,
}

/// One of them. Bytes that are not UTF-8 are U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Absent where it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The two formats of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// What may be wished of a running supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Something of instances.
    Wish(Wish),
    /// Other numbers of instances.
    Scale(Scale),
    /// Read the file again, and be as it says.
    Update(Update),
    /// Stop everything, in order, and leave.
    Shutdown,
}

/// A verb with whom it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What is wished.
    pub verb: Verb,
    /// `NAME`, `NAME.1`, names of groups or `all`; not resolved yet and never empty.
    pub names: Vec<String>,
    /// How long its end is waited for.
    pub patience: Patience,
}

/// Another number of instances for some services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Service and number; not judged yet and never empty.
    pub services: Vec<(String, u16)>,
    /// How long its end is waited for.
    pub patience: Patience,
}

/// How long the end of a verb is waited for. The verb itself goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as the services' own timeouts let it take.
    Own,
    /// No longer than that.
    AtMost(Duration),
    /// Not at all: the answer says what was begun.
    None,
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
    /// The file was read again.
    Update {
        /// What is different in it.
        #[serde(flatten)]
        diff: Box<Diff>,
        /// What came of those that it moves; none where it was only looked at.
        instances: Vec<Answer>,
    },
    /// Nothing was done, since the file is wrong.
    BadFile {
        /// Every complaint about it, each of several lines.
        problems: Vec<String>,
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
    /// It was begun, and nobody waits for its end.
    Begun,
    /// The signal was sent to it.
    Signalled {
        /// `SIGHUP`.
        signal: String,
        /// To how many processes.
        processes: u32,
    },
    /// The service has another number of instances now; the answers for these follow.
    Scaled {
        /// Before.
        from: u16,
        /// From now on.
        to: u16,
        /// What the file or `-m` says, which holds again when firstmate is started anew in the same way.
        in_file: u16,
    },
    /// Nothing is left of it, and it is there no longer.
    Removed,
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
