//! What the kernel tells about memory: the limit, what the container uses, what each run's processes hold.
//!
//! Decisions are the engine's, and all but [`delegated`] and [`steer`] reads only. What is read on the loop waits for nobody: cgroup
//! counters, /proc/PID/status; but for one look into the environment of each process that firstmate has inherited and nobody knows yet (see
//! [`tree`](super::tree)), which is as long as a page fault there. What may wait for
//! another process (smaps_rollup takes its mmap lock) is read on a thread of its own, which is started when it is first needed; so are the
//! many looks at a container where nothing happens ([`sentinel`]).
//! A number that cannot be read is absent; it is never replaced by a guess.

pub mod account;
pub(in crate::linux) mod cgroup;
mod counters;
pub mod delegated;
pub mod ecs;
pub mod limit;
mod mountinfo;
pub mod pss;
pub mod sentinel;
pub mod steer;
pub mod tmpfs;
pub mod toll;
