//! What real processes hold: whose they are, how much it is, and what cannot be known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]

#[path = "../linux/stage.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the other process tests")]
mod stage;

mod census;
mod ground;
mod pss;
mod snapshot;
mod steady;
mod steer;
