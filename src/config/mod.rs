//! Text to `engine::Spec`: the Procfile, TOML and `.env` formats, and every complaint about them.
//!
//! Promises: a bad file never yields a `Spec`; every problem of a run is reported at once, each with file, line, column and a mend;
//! no parser panics, whatever the bytes. Parsers are pure functions over bytes and a file name; only `find` and `load` touch the file
//! system. Never prints a value that came from a `.env` file, since those are secrets.
//!
//! Reference for operators: `docs/configuration.md`.

pub mod again;
pub mod changes;
pub mod choice;
pub mod command_line;
pub mod diagnostic;
pub mod dotenv;
pub mod file;
pub mod load;
pub mod origin;
mod patience;
pub mod procfile;
pub mod values;
pub mod watch;

#[cfg(test)]
mod tests;

pub use again::{Additions, Again, KeptPort, keep_ports};
pub use changes::{Change, Shown, changes, settled_at_start};
pub use choice::{Choice, Ending, Formation, Mode, StartedBy};
pub use diagnostic::{Diagnostic, Mark, Severity, Source};
pub use file::log_pattern;
pub use load::{Format, Inputs, Loaded, MEMORY_LIMIT, TERMINATION_LOG, check_toml, env_alone, explain, find, load};
pub use origin::{Origin, Origins};
pub use patience::{PLATFORM_PATIENCE, time_to_stop};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What `[firstmate]` says that is no business of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where probes and status are served over TCP.
    pub http: Http,
    /// Reasons are shown to everybody who reaches `http`, and not only on loopback.
    pub http_details: bool,
    /// The control socket; `None` is the default place. A value that begins with `@` is an abstract socket; see unix(7).
    pub socket: Option<PathBuf>,
    /// Where the platform looks for the last words.
    pub termination_log: TerminationLog,
    /// What is kept of each instance's lines.
    pub log_buffers: LogBuffers,
}

/// `log_buffer` of the whole file and of its services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogBuffers {
    /// Of `[firstmate]`.
    pub each: LogBuffer,
    /// Of services that have one of their own, by name.
    pub own: BTreeMap<String, LogBuffer>,
}

impl LogBuffers {
    /// For each instance of a service.
    #[must_use]
    pub fn of(&self, service: &str) -> LogBuffer {
        self.own.get(service).copied().unwrap_or(self.each)
    }
}

/// One `log_buffer`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBuffer(u32);

impl LogBuffer {
    /// The last words of a container have to fit.
    pub const LEAST: u64 = 4 << 10;
    /// Of each instance, in memory that the services cannot have.
    pub const MOST: u64 = 64 << 20;

    /// `None` when it is not within its bounds.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        (Self::LEAST..=Self::MOST).contains(&bytes).then(|| u32::try_from(bytes).ok().map(Self))?
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Default for LogBuffer {
    /// Some hundred and fifty lines.
    fn default() -> Self {
        Self(16 << 10)
    }
}

/// `termination_log` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TerminationLog {
    /// Not said: `/dev/termination-log`, where that exists.
    #[default]
    Default,
    /// `"off"`.
    Off,
    /// A path.
    At(PathBuf),
}

/// A limit of memory that was given outside of the file, which it wins over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenLimit {
    /// What the container has, whatever the file says.
    Auto,
    /// Bytes.
    Bytes(u64),
}

impl GivenLimit {
    /// Reads `512MiB` or `auto`.
    ///
    /// # Errors
    /// A short phrase that says what was expected instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "a limit of memory is a size such as 512MiB, or auto";
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = values::parse_size(text).map_err(|_| EXPECTED)?;
        if bytes < values::LEAST_MEMORY {
            return Err("a limit of memory is at least 1MiB; is its unit missing? write it as in 512MiB");
        }
        if bytes > values::MOST_MEMORY { Err("a limit of memory is at most 1EiB") } else { Ok(Self::Bytes(bytes)) }
    }
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
