//! Every decision, and nothing else: restart, backoff, readiness, order of start and stop.
//!
//! Pure: `step(now, event, out)` in, actions out, `next_deadline()` for the sleeper. It knows no kernel, no clock, no file and no
//! logger; it never fails and never panics. Times are monotonic, randomness comes from the seed given to `new`.

pub mod announcement;
mod backoff;
pub mod capability;
pub mod event;
mod guard;
pub mod incident;
mod instance;
pub mod memory;
pub mod outcome;
mod probe;
pub mod roll;
mod scale;
pub mod signal;
pub mod size;
pub mod spec;
mod stack;
pub mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod time;
#[cfg(test)]
mod transitions;
pub mod update;
mod view;
pub mod watch;

pub use announcement::Announcement;
pub use event::{Action, Bite, Cause, Command, EndCause, Event, InstanceId, Notice, ProbeKind, Reach, RunId, ShutdownCause, Verb};
pub use incident::Incidents;
pub use memory::{MemoryAction, MemoryEvent, MemoryNotice};
pub use outcome::{LaunchError, Outcome, Stage};
pub use roll::{Roll, RollState, RollStop};
pub use signal::Signal;
pub use spec::{ServiceId, Spec};
pub use stack::Engine;
pub use status::Status;
pub use time::Timestamp;
pub use update::{Plan, Step, UpdateRefusal};
pub use view::Tally;
