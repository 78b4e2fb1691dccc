//! What people see of it: log lines, what firstmate itself has to say, and how both are written.
//!
//! Everything here turns values into text. Where the text goes is the caller's business: nothing here opens, reads or writes.

mod format;
pub mod happening;
mod harmless;
mod last_words;
mod memory;
pub mod metrics;
pub mod notice;
mod operated;
mod own;
mod update;

pub use format::{Format, Level, Look, Stream, no_colour_wanted, parse_utc, utc};
pub use happening::Happening;
pub use last_words::last_words;
pub use notice::{Names, duration};
pub use operated::roll_stop;
pub use own::{OwnLines, install};
