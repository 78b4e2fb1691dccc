//! The real binary, as PID 1 of a container and as a subreaper, with real children that misbehave: does Linux agree?
//!
//! One file a capability. They need root and PID, mount and network namespaces, and fail where these are missing.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![expect(unreachable_pub, reason = "what a test is about is its name")]

#[path = "../guard/cgroup.rs"]
#[allow(dead_code, reason = "shared with other tests, each of which uses a part")]
mod cgroup;
mod harness;

mod announcements;
mod develop;
mod ending;
mod incidents;
mod launch;
mod load;
mod operation;
mod output;
mod projects;
mod protocols;
mod readiness;
mod reading;
mod restart;
mod rights;
mod signals;
mod single;
mod stop;
mod terminals;
mod tree;
mod update;
mod verbs;
mod watch;
