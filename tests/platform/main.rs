//! The files a user copies to Kubernetes, ECS and Docker Compose: `examples/kubernetes`, `examples/ecs`, `examples/compose.yaml`.
//!
//! Three questions to each: does the platform's own schema accept it; are its numbers in the platform's ranges and true to what the stack's
//! configuration promises (the schemas look at neither); does the stack run that way, as nobody in particular on a read-only root. Every check
//! is shown to fail: the shipped file is broken in memory, one place at a time, and somebody must complain about just that.
//!
//! The schema tools are Python's, in a place of their own that `tests/setup platform` makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else it is goes into the complaint")]
#![allow(unreachable_pub, missing_docs, reason = "modules of one test binary")]

mod break_it;
mod compose;
mod ecs;
mod hardened;
mod kubernetes;
mod plan;
mod promise;
mod schemas;
mod tools;
mod update_schema;

#[allow(dead_code, reason = "shared with the tests of real programs, which use more of it")]
#[path = "../real/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of real programs, which use more of it")]
#[path = "../real/firstmate.rs"]
mod firstmate_process;
#[allow(dead_code, reason = "shared with the tests of real programs, which use more of it")]
#[path = "../real/processes.rs"]
mod processes;
#[allow(dead_code, reason = "shared with the tests of real programs, which use more of it")]
#[path = "../real/sandbox.rs"]
mod sandbox;
