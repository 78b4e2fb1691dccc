//! Text to `engine::Spec`: the Procfile, TOML and `.env` formats, and every complaint about them.
//!
//! Promises: a bad file never yields a `Spec`; every problem of a run is reported at once, each with file, line, column and a mend;
//! no parser panics, whatever the bytes. Parsers are pure functions over bytes and a file name; only `find` and `load` touch the file
//! system. Never prints a value that came from a `.env` file, since those are secrets.
//!
//! Reference for operators: `docs/configuration.md`.

pub mod command_line;
pub mod diagnostic;
pub mod dotenv;
pub mod file;
pub mod load;
pub mod procfile;
pub mod values;

#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Mark, Severity, Source};
pub use load::{Format, Inputs, Loaded, check_toml, find, load};

use std::net::SocketAddr;
use std::path::PathBuf;

/// What `[firstmate]` says that is no business of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where probes and status are served over TCP.
    pub http: Http,
    /// The control socket; `None` is the default place. A value that begins with `@` is an abstract socket; see unix(7).
    pub socket: Option<PathBuf>,
}

/// `http` of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Http {
    /// Not said: on as PID 1, off otherwise.
    #[default]
    Default,
    /// `"off"`.
    Off,
    /// An address.
    On(SocketAddr),
}
