//! firstmate over the real programs of Debian: eleven of them by their `procfiles/`, and `examples/all-in-one` whole.
//!
//! Each test has a network namespace of its own, so that ports never clash, and most let firstmate be PID 1 of a PID namespace. All
//! state is in directories that go at the end. What these tests need and do not find makes them fail, with the line that installs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else it is goes into the complaint")]
#![allow(unreachable_pub, missing_docs, reason = "modules of one test binary")]

mod client;
mod firstmate;
mod hands_on;
mod processes;
mod procfiles;
mod programs;
mod rolling;
mod sandbox;
mod stack;
