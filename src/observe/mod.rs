//! What people see of it: log lines, what firstmate itself has to say, and how both are written.
//!
//! Everything here turns values into text. Where the text goes is the caller's business: nothing here opens, reads or writes.

mod format;
mod last_words;
mod memory;
pub mod metrics;
pub mod notice;
mod own;

pub use format::{Format, Level, Stream, no_colour_wanted, utc};
pub use last_words::last_words;
pub use notice::{Names, duration};
pub use own::{OwnLines, install};
