//! What those who watch a container get from the real binary: probes and metrics, also while hostile clients and crashing services keep it busy.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "a test has no API")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

mod examples;
mod firstmate;
mod hostile;
mod log;
mod metrics;
mod readers;
mod swift;
