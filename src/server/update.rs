//! `POST /v1/update`: what is asked for, and what is told of the difference between the file and what runs.

use serde::{Deserialize, Serialize};

use super::verbs::Patience;

/// A wish to be as the file says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Only to be told what would change.
    pub dry_run: bool,
    /// With the values of variables.
    pub values: bool,
    /// Complaints about the file are for a terminal.
    pub colour: bool,
    /// How long its end is waited for.
    pub patience: Patience,
}

/// The difference between the file and what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// It was carried out; false where it was only looked at.
    pub applied: bool,
    /// Services that are new.
    pub added: Vec<String>,
    /// That are no longer there.
    pub removed: Vec<String>,
    /// That have another definition.
    pub changed: Vec<ServiceChange>,
    /// How many others there are.
    pub unchanged: usize,
    /// Values of the whole that hold at once.
    pub firstmate: Vec<ValueChange>,
    /// Values of the whole that hold when firstmate is started anew.
    pub at_next_start: Vec<ValueChange>,
    /// What is not as one might think.
    pub notes: Vec<String>,
    /// What the file is warned of, each of several lines.
    pub warnings: Vec<String>,
}

impl Diff {
    /// Whether the file says of everything what is.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.firstmate.is_empty()
            && self.at_next_start.is_empty()
    }
}

/// A service with another definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// Its name.
    pub name: String,
    /// Its runs end for it; otherwise they go on.
    pub restarted: bool,
    /// In what it differs.
    pub changes: Vec<ValueChange>,
}

/// A key with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// As in the file: `command`, `env.LEVEL`.
    pub key: String,
    /// Whether it was there before, and is there now.
    pub kind: ChangeKind,
    /// The value before; absent where there was none, or where it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The value from now on; absent where there is none, or where it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another value.
    Changed,
}
