//! The memory guard beside the real programs, in real cgroups: nginx, php-fpm with sixty workers, and Redis half as large as the limit.
//!
//! A [`ground::Ground`] is one container: a cgroup v1 of its own with firstmate as PID 1 of a PID namespace, or Docker with its default
//! capabilities. What happens is watched from outside it: requests through nginx, php-fpm and Redis, who dies, what the kernel counts.
//!
//! Without more, each case runs once and briefly; `FIRSTMATE_GUARD_MATRIX=1` makes the whole matrix of it. Each case prints a line
//! that begins with `GUARD item=`. What is asserted holds however busy the machine is: timings are printed, and not judged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else it is goes into the complaint")]
#![allow(unreachable_pub, missing_docs, reason = "modules of one test binary")]

mod beside;
mod choice;
mod diagnosis;
mod docked;
mod ground;
mod load;
mod native;
mod quiet;
mod stack;
