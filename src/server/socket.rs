//! The Unix socket: where it may be, taking over a stale one, and removing our own at the end.
//!
//! Invariant: only a socket that refuses connections is ever unlinked, and at the end only the one we made. Its mode is 0666, since
//! reading is for everyone in the container, as over TCP; verbs are held by peer credentials (unix(7), SO_PEERCRED).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPath {
    /// In the file system.
    File(PathBuf),
    /// In the network namespace, without a file: written with a leading `@`. For read-only root file systems.
    Abstract(Vec<u8>),
}

impl SocketPath {
    /// `@name` is abstract, everything else a path.
    #[must_use]
    pub fn parse(text: &OsStr) -> Self {
        match text.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => Self::Abstract(name.to_vec()),
            _ => Self::File(PathBuf::from(text)),
        }
    }

    /// As in the file, on the command line and in the environment.
    #[must_use]
    pub fn to_os_string(&self) -> OsString {
        match self {
            Self::File(path) => path.clone().into_os_string(),
            Self::Abstract(name) => OsString::from_vec([b"@", name.as_slice()].concat()),
        }
    }

    fn std_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::File(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        }
    }

    fn nix_address(&self) -> nix::Result<UnixAddr> {
        match self {
            Self::File(path) => UnixAddr::new(path),
            Self::Abstract(name) => UnixAddr::new_abstract(name),
        }
    }

    /// Connects. `None` does not wait at all; otherwise a full backlog is waited for so long (socket(7), SO_SNDTIMEO).
    ///
    /// # Errors
    ///
    /// Those of connect(2); EAGAIN when the other side's backlog stayed full.
    pub fn connect(&self, patience: Option<Duration>) -> Result<UnixStream, Errno> {
        let flags = if patience.is_none() { SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK } else { SockFlag::SOCK_CLOEXEC };
        let descriptor: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        if let Some(patience) = patience {
            // A zero timeout would mean to wait for ever.
            let micros = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX).max(1);
            setsockopt(&descriptor, sockopt::SendTimeout, &TimeVal::new(micros / 1_000_000, micros % 1_000_000))?;
        }
        connect(descriptor.as_raw_fd(), &self.nix_address()?)?;
        Ok(UnixStream::from(descriptor))
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::printable(&self.to_os_string().to_string_lossy()))
    }
}

/// Where a firstmate of this uid puts its socket when none is configured, best first. The environment's $XDG_RUNTIME_DIR is used.
#[must_use]
pub fn default_sockets() -> Vec<SocketPath> {
    sockets_of(nix::unistd::geteuid().as_raw(), std::env::var_os("XDG_RUNTIME_DIR").as_deref())
}

/// As [`default_sockets`], for another uid: a client asks with the uid it believes firstmate to have.
#[must_use]
pub fn sockets_of(uid: u32, xdg_runtime_dir: Option<&OsStr>) -> Vec<SocketPath> {
    places(uid, xdg_runtime_dir, "")
}

/// Where a firstmate that a person of this uid has started for the project in `directory` puts its socket, best first, so that each project
/// of a machine has its own. `directory` is absolute, without links.
#[must_use]
pub fn sockets_of_project(uid: u32, xdg_runtime_dir: Option<&OsStr>, directory: &Path) -> Vec<SocketPath> {
    let name = directory.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '-' };
    // A socket's name has at most 107 bytes, the runtime directory's included.
    let name: String = name.chars().take(24).map(plain).collect();
    places(uid, xdg_runtime_dir, &format!("-{name}-{:016x}", hash(directory.as_os_str().as_bytes())))
}

/// FNV-1a, 64 bits (RFC 9923): the same in every version of firstmate, which need not be the one that asks.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The places, with what tells this firstmate's from another's.
fn places(uid: u32, xdg_runtime_dir: Option<&OsStr>, which: &str) -> Vec<SocketPath> {
    // The inode number names the PID namespace (namespaces(7)); containers that share a network would share abstract names without it.
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    let mut sockets = vec![SocketPath::File(PathBuf::from(format!("/run/firstmate{which}.sock")))];
    if let Some(directory) = xdg_runtime_dir.map(PathBuf::from).filter(|directory| directory.is_absolute()) {
        sockets.push(SocketPath::File(directory.join(format!("firstmate{which}.sock"))));
    }
    sockets.push(SocketPath::File(PathBuf::from(format!("/tmp/firstmate-{uid}{which}.sock"))));
    sockets.push(SocketPath::Abstract(format!("firstmate-{namespace}-{uid}{which}").into_bytes()));
    sockets
}

/// Why there can be no socket at a place.
#[derive(Debug)]
pub struct BindError {
    /// The place.
    pub socket: SocketPath,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a socket's place.
#[derive(Debug)]
pub enum Problem {
    /// A process accepts connections there.
    Live {
        /// Its effective uid when it began to listen.
        uid: Option<u32>,
    },
    /// There is something else, which is left alone.
    NotASocket,
    /// The directory is missing, read-only or not ours to write; another place may do.
    Unusable(Errno),
    /// Longer than a socket's name can be (unix(7): 107 bytes).
    TooLong,
    /// A system call failed in another way.
    Failed {
        /// What was being done.
        stage: &'static str,
        /// Its errno.
        source: Errno,
    },
}

impl BindError {
    /// Whether the next place in a list of candidates should be tried. A firstmate of our own kind that is alive is no reason to: two
    /// of them side by side must be wanted.
    #[must_use]
    pub fn may_try_elsewhere(&self) -> bool {
        match self.problem {
            Problem::Live { uid } => uid.is_some_and(|uid| uid != 0 && uid != nix::unistd::geteuid().as_raw()),
            Problem::NotASocket | Problem::Unusable(_) | Problem::TooLong | Problem::Failed { .. } => true,
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = &self.socket;
        match &self.problem {
            Problem::Live { uid } => {
                write!(f, "a firstmate ")?;
                if let Some(uid) = uid {
                    write!(f, "of uid {uid} ")?;
                }
                write!(f, "already listens on {socket}; choose another with --socket, $FIRSTMATE_SOCKET or `socket` under [firstmate]")
            }
            Problem::NotASocket => {
                write!(f, "cannot listen on {socket}: it exists and is no stream socket; remove it or choose another with --socket")
            }
            Problem::Unusable(errno) => write!(f, "cannot listen on {socket}: {}; choose another with --socket", errno.desc()),
            Problem::TooLong => write!(f, "cannot listen on {socket}: a socket's name has at most 107 bytes"),
            Problem::Failed { stage, source: _ } => write!(f, "cannot listen on {socket}: {stage}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Failed { source, .. } => Some(source),
            Problem::Live { .. } | Problem::NotASocket | Problem::Unusable(_) | Problem::TooLong => None,
        }
    }
}

/// A listening socket that is ours. Dropping it removes the file if it is still the one we made.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    /// Where it is.
    pub path: SocketPath,
    /// Device and inode of the file we made.
    file: Option<(u64, u64)>,
}

impl UnixSocket {
    /// Listens, taking over a stale socket.
    ///
    /// # Errors
    ///
    /// When a live process listens there, when something that is no socket is in the way, or when the place cannot be used.
    pub fn bind(path: &SocketPath) -> Result<Self, BindError> {
        let wrong = |problem| BindError { socket: path.clone(), problem };
        let address = path.std_address().map_err(|_| wrong(Problem::TooLong))?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).map_err(wrong)?;
                UnixListener::bind_addr(&address).map_err(|error| wrong(problem_of(&error, "bind")))?
            }
            Err(error) => return Err(wrong(problem_of(&error, "bind"))),
        };
        let mut bound = Self { listener, path: path.clone(), file: None };
        if let SocketPath::File(file) = path {
            let metadata = std::fs::symlink_metadata(file).map_err(|error| wrong(problem_of(&error, "stat")))?;
            bound.file = Some((metadata.dev(), metadata.ino()));
            // bind(2) makes it 0777 minus the umask; connecting needs write permission.
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o666)).map_err(|error| wrong(problem_of(&error, "chmod")))?;
        }
        bound.listener.set_nonblocking(true).map_err(|error| wrong(problem_of(&error, "fcntl")))?;
        Ok(bound)
    }

    /// Another handle to the listener, for the runtime.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let (SocketPath::File(path), Some(made)) = (&self.path, self.file) else { return };
        if std::fs::symlink_metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == made) {
            // A directory that became read-only leaves a stale socket behind, which the next start takes over.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens at the first candidate that can be used.
///
/// # Errors
///
/// What was wrong with each candidate tried, in order; a live firstmate ends the search.
pub fn bind_first(candidates: &[SocketPath]) -> Result<UnixSocket, Vec<BindError>> {
    let mut errors = Vec::new();
    for candidate in candidates {
        match UnixSocket::bind(candidate) {
            Ok(bound) => return Ok(bound),
            Err(error) => {
                let go_on = error.may_try_elsewhere();
                errors.push(error);
                if !go_on {
                    break;
                }
            }
        }
    }
    Err(errors)
}

/// Unlinks a socket nobody listens on.
fn remove_stale(path: &SocketPath) -> Result<(), Problem> {
    let failed = |error: &io::Error| problem_of(error, "stat");
    let before = match path {
        SocketPath::File(file) => match std::fs::symlink_metadata(file) {
            Ok(metadata) if metadata.file_type().is_socket() => Some((file, metadata.dev(), metadata.ino())),
            Ok(_) => return Err(Problem::NotASocket),
            // Its owner removed it just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        },
        SocketPath::Abstract(_) => None,
    };
    match path.connect(None) {
        Ok(stream) => Err(Problem::Live { uid: getsockopt(&stream, sockopt::PeerCredentials).ok().map(|peer| peer.uid()) }),
        // The backlog is full, so there is a listener.
        Err(Errno::EAGAIN) => Err(Problem::Live { uid: None }),
        Err(Errno::ECONNREFUSED) => {
            let Some((file, device, inode)) = before else { return Ok(()) };
            // Another firstmate may have taken it over in the meantime.
            let now = std::fs::symlink_metadata(file).map_err(|error| failed(&error))?;
            if (now.dev(), now.ino()) != (device, inode) {
                return Err(Problem::Live { uid: None });
            }
            std::fs::remove_file(file).map_err(|error| problem_of(&error, "unlink of the stale socket"))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EPROTOTYPE) => Err(Problem::NotASocket),
        Err(errno @ (Errno::EACCES | Errno::EPERM)) => Err(Problem::Unusable(errno)),
        Err(source) => Err(Problem::Failed { stage: "connect to see whether it is stale", source }),
    }
}

fn problem_of(error: &io::Error, stage: &'static str) -> Problem {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    if matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ELOOP) {
        return Problem::Unusable(errno);
    }
    Problem::Failed { stage, source: errno }
}
