//! The parsers and the types they fill, compiled by themselves: what the whole program is linked with would only be built in vain.

#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/engine/mod.rs"]
pub mod engine;
