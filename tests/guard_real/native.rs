//! What the tests of the real programs have to run firstmate natively.
#![allow(dead_code, reason = "not all of it has a use here")]

#[path = "../real/client.rs"]
pub mod client;
#[path = "../real/firstmate.rs"]
pub mod firstmate;
#[path = "../real/processes.rs"]
pub mod processes;
#[path = "../real/sandbox.rs"]
pub mod sandbox;
