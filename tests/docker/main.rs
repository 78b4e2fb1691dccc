//! The static binary as PID 1 of real Docker containers: the all-in-one stack, and a bare busybox.
//!
//! The images are made by `tests/docker/images BINARY`. A container has a name of its own and the label [`container::LABEL`], and goes
//! with its test; containers are reached by their address on Docker's bridge, so that no proxy stands between a client and a server,
//! and no two tests want the same port. Their processes are looked at from the host, through /proc, for which root is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test is not PID 1, waits for its own commands, and may sleep between two looks")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else a client got is wrong alike")]
#![allow(missing_docs, unreachable_pub, reason = "what a test is about is its name")]

mod busybox;
mod client;
mod container;
mod dockerfiles;
mod health;
mod limit;
mod modes;
mod platform;
mod probers;
mod processes;
mod rolling;
mod rounds;
mod stack;
mod stop;
mod transcript;
mod typist;
mod verbs;

#[allow(dead_code, reason = "shared with the tests of the platform files, which use more of it")]
#[path = "../platform/tools.rs"]
mod tools;
