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
    /// Its main process was killed by the kernel's OOM killer: SIGKILL, and the cgroup's count of such kills went up.
    OomKilled,
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
            Self::OomKilled => Signal::KILL.number().saturating_add(128),
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
    /// Opening a pseudo-terminal, where it has one.
    Terminal,
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
    /// Writing /proc/self/oom_score_adj.
    OomScoreAdj,
    /// Finding the user in /etc/passwd.
    User,
    /// Finding the group in /etc/group.
    Group,
    /// PR_CAPBSET_DROP.
    BoundingSet,
    /// setgroups.
    SupplementaryGroups,
    /// setgid.
    SetGroup,
    /// setuid.
    SetUser,
    /// capset, and the ambient set.
    Capabilities,
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivs,
    /// chdir.
    WorkingDir,
    /// execve.
    Exec,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 19] = [
        Self::Pipes,
        Self::Terminal,
        Self::Fork,
        Self::Session,
        Self::Stdio,
        Self::Signals,
        Self::Limits,
        Self::Nice,
        Self::OomScoreAdj,
        Self::User,
        Self::Group,
        Self::BoundingSet,
        Self::SupplementaryGroups,
        Self::SetGroup,
        Self::SetUser,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::WorkingDir,
        Self::Exec,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipes => "creating its pipes",
            Self::Terminal => "opening its terminal",
            Self::Fork => "creating its process",
            Self::Session => "creating its session",
            Self::Stdio => "connecting its output",
            Self::Signals => "resetting its signals",
            Self::Limits => "setting its limit",
            Self::Nice => "setting its nice value",
            Self::OomScoreAdj => "setting its oom_score_adj to",
            Self::User => "looking up user",
            Self::Group => "looking up group",
            Self::BoundingSet => "taking from its bounding set",
            Self::SupplementaryGroups => "setting its supplementary groups",
            Self::SetGroup => "changing to group",
            Self::SetUser => "changing to user",
            Self::Capabilities => "keeping capability",
            Self::NoNewPrivs => "setting no_new_privs",
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
            return Ok(());
        }
        match ERRNOS.iter().find(|(number, _, _)| *number == self.errno) {
            Some((_, name, meaning)) => write!(f, ": {name} ({meaning})"),
            None => write!(f, ": errno {}", self.errno),
        }
    }
}

/// What a launch can meet, with its name and meaning: see errno(3), numbered as on x86-64 and AArch64. Here and not from the
/// C library, whose words differ between glibc and musl and lack the name.
const ERRNOS: [(i32, &str, &str); 37] = [
    (1, "EPERM", "operation not permitted"),
    (2, "ENOENT", "no such file or directory"),
    (3, "ESRCH", "no such process"),
    (4, "EINTR", "interrupted system call"),
    (5, "EIO", "I/O error"),
    (6, "ENXIO", "no such device or address"),
    (7, "E2BIG", "argument list too long"),
    (8, "ENOEXEC", "exec format error"),
    (9, "EBADF", "bad file number"),
    (11, "EAGAIN", "try again"),
    (12, "ENOMEM", "out of memory"),
    (13, "EACCES", "permission denied"),
    (14, "EFAULT", "bad address"),
    (16, "EBUSY", "device or resource busy"),
    (17, "EEXIST", "file exists"),
    (19, "ENODEV", "no such device"),
    (20, "ENOTDIR", "not a directory"),
    (21, "EISDIR", "is a directory"),
    (22, "EINVAL", "invalid argument"),
    (23, "ENFILE", "file table overflow"),
    (24, "EMFILE", "too many open files"),
    (25, "ENOTTY", "not a typewriter"),
    (26, "ETXTBSY", "text file busy"),
    (27, "EFBIG", "file too large"),
    (28, "ENOSPC", "no space left on device"),
    (30, "EROFS", "read-only file system"),
    (34, "ERANGE", "math result not representable"),
    (36, "ENAMETOOLONG", "file name too long"),
    (38, "ENOSYS", "function not implemented"),
    (40, "ELOOP", "too many symbolic links encountered"),
    (71, "EPROTO", "protocol error"),
    (80, "ELIBBAD", "accessing a corrupted shared library"),
    (87, "EUSERS", "too many users"),
    (107, "ENOTCONN", "transport endpoint is not connected"),
    (110, "ETIMEDOUT", "connection timed out"),
    (116, "ESTALE", "stale file handle"),
    (122, "EDQUOT", "quota exceeded"),
];

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit {code}"),
            Self::Signaled(signal) => write!(f, "killed by {signal}"),
            Self::OomKilled => write!(f, "killed by the kernel's OOM killer"),
            Self::SpawnFailed(error) => write!(f, "cannot start: {error}"),
        }
    }
}
