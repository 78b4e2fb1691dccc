//! The thin shell around the kernel: spawning, reaping, signals, process trees, pipes.
//!
//! One thread does all of it, but for writing the log to a file ([`output`]), the last words ([`termination_log`]), for measuring a
//! process that may be stuck ([`memory::pss`]), for looking at a calm container ([`memory::sentinel`]), and for watching files ([`watch`]). It promises that nothing in
//! here blocks that thread, that [`reap`] is the only owner of every wait, that a child starts clean ([`spawn`]), and that no process
//! firstmate did not start is ever signalled ([`tree`]). It decides nothing.

pub mod alarm;
mod caps;
pub mod container;
pub mod cpu;
pub mod footprint;
pub mod memory;
pub mod notify;
pub mod output;
pub mod own;
pub mod poll;
pub mod probe;
pub mod pty;
pub mod reap;
pub mod signals;
pub mod spawn;
pub mod termination_log;
pub mod thread;
pub mod tree;
mod users;
pub mod watch;
