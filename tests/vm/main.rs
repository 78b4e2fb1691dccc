//! The static binary where cgroup v2 is the real thing: in a small machine of its own, see [`machine`].
//!
//! Needs qemu and a kernel, which `tests/setup vm` brings, and the static helpers of `make helpers`. `VM_VERBOSE=1` shows what a machine prints as
//! it prints it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test is not PID 1, and waits for its own commands")]
#![allow(missing_docs, unreachable_pub, reason = "what a test is about is its name")]

mod delegated;
mod facts;
mod guard;
mod init;
mod limit;
mod machine;
