//! The memory guard against real programs in real cgroups: does it act before the kernel's OOM killer, on the right one, and otherwise not at all?
//!
//! A trial is one firstmate over one leaker (`examples/leaker.rs`) and two bystanders, in a cgroup v1 of its own with a limit; it is over when the leaker's
//! run has ended, or the kernel has killed somebody. What is judged is what must always hold: no OOM kill, the right victim, nobody else
//! disturbed, decided before 96 %. How close to the line the decision comes depends on the machine as well; the whole matrix (`make guard-matrix`) reports
//! that in `docs/guard-matrix.md`.
//!
//! Root is needed, and the memory controller of cgroup v1; where these are missing the tests fail and say so. Measured is the static release
//! binary, `FIRSTMATE_BINARY`, else where `make build` puts it, and the static leaker beside it.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1, waits for its own children, and may wait between two looks")]
#![expect(unreachable_pub, reason = "what a test is about is its name")]

mod cell;
mod cgroup;
mod control;
mod cost;
mod degraded;
mod leaker;
mod matrix;
mod peers;
mod races;
mod stage;
mod ticks;
mod trial;
