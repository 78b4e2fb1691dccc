//! The thin shell around the kernel: spawning, reaping, signals, process trees, pipes.

pub mod output;
pub mod poll;
