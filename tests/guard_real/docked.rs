//! What the tests of the images have to run firstmate in Docker.
#![allow(dead_code, reason = "not all of it has a use here")]

#[path = "../docker/client.rs"]
pub mod client;
#[path = "../docker/container.rs"]
pub mod container;
#[path = "../docker/processes.rs"]
pub mod processes;
