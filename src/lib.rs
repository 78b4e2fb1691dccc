//! firstmate: PID 1 for containers that run more than one program.
//!
//! The rooms and the direction in which they may import one another are drawn in `ARCHITECTURE.md`; a test holds that picture true.

pub mod cli;
pub mod config;
pub mod engine;
pub mod linux;
pub mod observe;
pub mod server;
pub mod supervisor;
