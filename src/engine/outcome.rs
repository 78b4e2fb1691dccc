//! How a run ended, and at which stage one could not be started.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Signal;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its main process called exit.
    Exited(i32),
    /// Its main process was ended by a signal, real-time ones included.
    Signaled(Signal),
    /// Its program was never executed.
    SpawnFailed(LaunchError),
}

impl Outcome {
    /// The code a shell would report: the exit code, or 128 + signal; 126 or 127 for a program that could not be executed.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        const ENOENT: i32 = 2;
        match self {
            Self::Exited(code) => *code,
            Self::Signaled(signal) => signal.number().saturating_add(128),
            Self::SpawnFailed(error) if error.stage == Stage::Exec && error.errno == ENOENT => 127,
            Self::SpawnFailed(_) => 126,
        }
    }
}

/// A start that failed: at which stage, with which errno, over what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchError {
    /// What was being done.
    pub stage: Stage,
    /// Of the call that failed; see errno(3). 0 where no call did (an unknown user).
    pub errno: i32,
    /// The path, user, group or limit it was about; may be empty.
    pub detail: String,
}

/// The steps between deciding to start a program and its first instruction, in the order they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Creating the pipes for its output.
    Pipes,
    /// fork: no memory, or the process limit of the container is reached.
    Fork,
    /// setsid.
    Session,
    /// Connecting standard input, output and error.
    Stdio,
    /// Setting signal mask and dispositions.
    Signals,
    /// setrlimit.
    Limits,
    /// setpriority.
    Nice,
    /// Finding the user in /etc/passwd.
    User,
    /// Finding the group in /etc/group.
    Group,
    /// setgroups.
    SupplementaryGroups,
    /// setgid.
    SetGroup,
    /// setuid.
    SetUser,
    /// chdir.
    WorkingDir,
    /// execve.
    Exec,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 14] = [
        Self::Pipes,
        Self::Fork,
        Self::Session,
        Self::Stdio,
        Self::Signals,
        Self::Limits,
        Self::Nice,
        Self::User,
        Self::Group,
        Self::SupplementaryGroups,
        Self::SetGroup,
        Self::SetUser,
        Self::WorkingDir,
        Self::Exec,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipes => "creating its pipes",
            Self::Fork => "creating its process",
            Self::Session => "creating its session",
            Self::Stdio => "connecting its output",
            Self::Signals => "resetting its signals",
            Self::Limits => "setting its limit",
            Self::Nice => "setting its nice value",
            Self::User => "looking up user",
            Self::Group => "looking up group",
            Self::SupplementaryGroups => "setting its supplementary groups",
            Self::SetGroup => "changing to group",
            Self::SetUser => "changing to user",
            Self::WorkingDir => "changing directory to",
            Self::Exec => "executing",
        })
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        if self.errno == 0 {
            return f.write_str(": not found");
        }
        write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit {code}"),
            Self::Signaled(signal) => write!(f, "killed by {signal}"),
            Self::SpawnFailed(error) => write!(f, "cannot start: {error}"),
        }
    }
}
