//! Starting a program.
//!
//! The parent makes the pipes, forks, and is done: everything that can block (a directory on a dead NFS server, a program on a slow
//! disk, /etc/passwd) happens in the child, which tells through a close-on-exec pipe at which [`Stage`] it failed, with which errno,
//! over what. End of file on that pipe means that the program is running; the caller watches it and never waits for it.
//!
//! What the child starts with: its own session (or, for a single program on a terminal, the terminal's foreground group), an empty
//! signal mask, the default action for every signal, no descriptors but 0, 1 and 2 (and the one it says on that it is ready), the environment it was given and nothing else.
//! HOME, USER and LOGNAME are not changed along with `user`; whoever prepares the environment may do so.
//!
//! Between fork and exec the child makes raw system calls only: no allocation, no locks, nothing that could panic.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::caps;
use super::pty::{self, WindowSize};
use super::users::{self, Groups, User};
use crate::engine::capability::Rights;
use crate::engine::signal::SIGRTMAX;
use crate::engine::spec::{Limit, Resource};
use crate::engine::{LaunchError, Stage};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the raw setresuid and setgroups of 32-bit architectures take 16-bit ids");

/// Where a program without `/` is looked for when its environment has no PATH: what docker sets in every container.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest message a child writes. Below PIPE_BUF, so that it is written whole or not at all; longer paths are cut.
const MESSAGE_MAX: usize = 2048;

/// Stage and errno come before the text of a message.
const HEADER: usize = 5;

/// Strings for the kernel, one after the other, each with its NUL.
#[derive(Debug, Default)]
struct CStrings {
    text: Vec<u8>,
    starts: Vec<usize>,
}

impl Clone for CStrings {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), starts: self.starts.clone() }
    }

    /// Keeps the memory there is; since after a fork every first write to a page copies it.
    fn clone_from(&mut self, source: &Self) {
        self.text.clone_from(&source.text);
        self.starts.clone_from(&source.starts);
    }
}

/// A NUL in a string that the kernel would end there.
struct HasNul;

impl CStrings {
    fn clear(&mut self) {
        self.text.clear();
        self.starts.clear();
    }

    /// Keeps the first `count` strings.
    fn truncate(&mut self, count: usize) {
        if let Some(&end) = self.starts.get(count) {
            self.text.truncate(end);
            self.starts.truncate(count);
        }
    }

    fn push(&mut self, parts: &[&[u8]]) -> Result<(), HasNul> {
        if parts.iter().any(|part| part.contains(&0)) {
            return Err(HasNul);
        }
        self.starts.push(self.text.len());
        for part in parts {
            self.text.extend_from_slice(part);
        }
        self.text.push(0);
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.starts.iter().map(|&start| {
            let rest = self.text.get(start..).unwrap_or_default();
            rest.split(|&byte| byte == 0).next().unwrap_or_default()
        })
    }

    /// Appends a pointer to each string, and the null pointer that ends argv and envp. They point into `self`.
    fn point(&self, pointers: &mut Vec<*const libc::c_char>) {
        pointers.extend(self.starts.iter().filter_map(|&start| self.text.get(start..)).map(|text| text.as_ptr().cast()));
        pointers.push(ptr::null());
    }
}

/// The whole environment of a program, as one piece of memory: cheap to clone, so that a service's can be prepared once and
/// completed for each run.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    strings: CStrings,
    /// How many of the first strings are as they were when it was last reset: what a reset need not copy again.
    kept: usize,
}

impl Environment {
    /// Sets `name`, in place of an earlier value.
    ///
    /// # Errors
    /// The name is empty or has a `=`, or there is a NUL: the kernel could not hand it on. Stage [`Stage::Exec`].
    pub fn set(&mut self, name: &OsStr, value: &OsStr) -> Result<(), LaunchError> {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        let refused = |what: &str| LaunchError {
            stage: Stage::Exec,
            errno: libc::EINVAL,
            detail: format!("environment variable `{}`: {what}", String::from_utf8_lossy(name).replace('\0', "\\0")),
        };
        if name.is_empty() || name.contains(&b'=') {
            return Err(refused("a name is not empty and has no `=`"));
        }
        let known = self.strings.iter().position(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'=')));
        if let Some(known) = known {
            let mut kept = CStrings::default();
            for (_, entry) in self.strings.iter().enumerate().filter(|&(index, _)| index != known) {
                // An entry that is in there has no NUL.
                let _ = kept.push(&[entry]);
            }
            self.strings = kept;
            self.kept = 0;
        }
        self.strings.push(&[name, b"=", value]).map_err(|HasNul| refused("it holds a NUL byte"))
    }

    /// Makes it equal to `base`, which is the same at every call; `None` is empty. Its memory is used again, and what is still as at the
    /// last reset is not written to: since after a fork every first write to a page copies it.
    pub fn reset(&mut self, base: Option<&Self>) {
        match base {
            Some(base) if self.kept == base.strings.starts.len() => self.strings.truncate(self.kept),
            Some(base) => {
                self.strings.clone_from(&base.strings);
                self.kept = base.strings.starts.len();
            }
            None => {
                self.strings.clear();
                self.kept = 0;
            }
        }
    }

    /// Every name with its value, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.strings.iter().filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            Some((entry.get(..at)?, entry.get(at.saturating_add(1)..)?))
        })
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let name = name.as_ref().as_bytes();
        self.strings.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"=")).map(OsStr::from_bytes)
    }
}

/// What a program's standard input, output and error are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// firstmate's own.
    Inherit,
    /// /dev/null, and a pipe each.
    Pipes,
    /// /dev/null, and one pipe for both, for exec probes.
    Capture,
    /// A pseudo-terminal of this size for all three, which is its session's controlling terminal. Only with [`Placement::Session`].
    Terminal(WindowSize),
}

/// Which session and process group a program belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Leader of its own: a service, a probe.
    Session,
    /// Leader of its own process group, which becomes the foreground group of the terminal on standard input if there is one, so that
    /// Ctrl-C reaches it once: the single program of `firstmate -- CMD`.
    Foreground,
}

/// A program's oom_score_adj, -1000 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomScoreAdj {
    /// firstmate's own.
    Inherited,
    /// This one, or firstmate's own where /proc is not there or not writable.
    Preferably(i32),
    /// This one; lowering it below firstmate's own needs CAP_SYS_RESOURCE.
    Exactly(i32),
}

/// What to start, and how.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Program and arguments. A program without `/` is looked for along the PATH of `env`.
    pub argv: &'a [OsString],
    /// All of it.
    pub env: &'a Environment,
    /// Entered as the user the program runs as.
    pub working_dir: &'a Path,
    /// Name or number; brings its supplementary groups. `None`: firstmate's own.
    pub user: Option<&'a str>,
    /// Name or number. `None`: the user's own.
    pub group: Option<&'a str>,
    /// File mode creation mask; `None`: firstmate's own.
    pub umask: Option<u32>,
    /// -20 to 19; `None`: firstmate's own.
    pub nice: Option<i32>,
    /// How ready the kernel is to kill it when memory runs out; see proc_pid_oom_score_adj(5).
    pub oom_score_adj: OomScoreAdj,
    /// Resource limits; those not named stay firstmate's own.
    pub limits: &'a [Limit],
    /// Capabilities to keep, and whether it may gain rights by executing.
    pub rights: Rights,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Session and process group.
    pub placement: Placement,
    /// The directory of the cgroup (v2) to be in. Where it cannot be entered the program runs all the same, in firstmate's own:
    /// [`super::memory::delegated::Cgroups::joined`] tells.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The number, 3 or higher, of a descriptor that is the write end of a pipe of its own: it says there that it is ready.
    pub notify_fd: Option<u16>,
}

/// A process that exists and is on its way to its program.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid; with [`Placement::Session`] soon that of its group and session too.
    pub pid: u32,
    /// Readable once the launch has succeeded or failed: see [`read_launch`].
    pub launch: OwnedFd,
    /// The end to read from, non-blocking; both outputs with [`Stdio::Capture`]. With [`Stdio::Terminal`] the terminal's master, to write to as well.
    pub stdout: Option<OwnedFd>,
    /// The end to read from, non-blocking.
    pub stderr: Option<OwnedFd>,
    /// The end to read from, non-blocking, where there is a `notify_fd`.
    pub notify: Option<OwnedFd>,
}

/// How far a launch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchProgress {
    /// On its way.
    Pending,
    /// The program is running, or the child was killed before it could: its death tells.
    Executed,
    /// It is not going to run. The child exits with code 127 at once and is to be reaped like any other.
    Failed(LaunchError),
}

/// Starts a program. Returns as soon as the process exists.
///
/// A program is looked for as execvp(3) does, except that a file without `#!` is not handed to a shell: there may be none, and it may
/// be a binary for another architecture. It fails with ENOEXEC.
///
/// # Errors
/// Only [`Stage::Pipes`] (EMFILE, ENFILE), [`Stage::Terminal`], [`Stage::Fork`] (EAGAIN when the process limit is reached, ENOMEM), and a NUL byte or an empty
/// `argv`, at the stage that it would have failed at. All else is told by [`read_launch`].
pub fn spawn(request: &Request<'_>) -> Result<Spawned, LaunchError> {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => spawn_with(&mut scratch, request),
        // Only from within itself, which it never is.
        Err(_) => spawn_with(&mut Scratch::default(), request),
    })
}

fn spawn_with(scratch: &mut Scratch, request: &Request<'_>) -> Result<Spawned, LaunchError> {
    scratch.prepare(request)?;
    let Scratch { argv, programs, working_dir, pointers } = scratch;
    pointers.clear();
    argv.point(pointers);
    let env_at = pointers.len();
    request.env.strings.point(pointers);
    let programs_at = pointers.len();
    programs.point(pointers);
    let (rest, programs) = pointers.split_at(programs_at);
    let (argv, env) = rest.split_at(env_at);
    let launch = pipe(libc::O_CLOEXEC | libc::O_NONBLOCK)?;
    let (stdout, stderr) = match request.stdio {
        Stdio::Inherit => (None, None),
        Stdio::Pipes => (Some(output_pipe()?), Some(output_pipe()?)),
        Stdio::Capture => (Some(output_pipe()?), None),
        Stdio::Terminal(size) => (Some(terminal(size)?), None),
    };
    let notify = match request.notify_fd {
        Some(_) => Some(output_pipe()?),
        None => None,
    };
    let oom_score_adj = match request.oom_score_adj {
        OomScoreAdj::Inherited => None,
        OomScoreAdj::Preferably(value) => Some((value.to_string(), false)),
        OomScoreAdj::Exactly(value) => Some((value.to_string(), true)),
    };
    let plan = Plan {
        argv,
        env,
        programs,
        program: request.argv.first().map(|program| program.as_bytes()).unwrap_or_default(),
        working_dir: CStr::from_bytes_with_nul(&working_dir.text).unwrap_or(c"/"),
        user: request.user.map(str::as_bytes),
        group: request.group.map(str::as_bytes),
        umask: request.umask,
        nice: request.nice,
        oom_score_adj: oom_score_adj.as_ref().map(|(text, must)| (text.as_bytes(), *must)),
        limits: request.limits,
        rights: request.rights,
        ignored: ignored(),
        stdio: request.stdio,
        placement: request.placement,
        cgroup: request.cgroup.map(|directory| directory.as_raw_fd()),
        launch: launch.write.as_raw_fd(),
        stdout: stdout.as_ref().map(|pipe| pipe.write.as_raw_fd()),
        stderr: stderr.as_ref().map(|pipe| pipe.write.as_raw_fd()),
        notify: notify.as_ref().zip(request.notify_fd).map(|(pipe, number)| (pipe.write.as_raw_fd(), RawFd::from(number))),
    };
    // SAFETY: the child only runs `Plan::perform`, which makes nothing but async-signal-safe calls and never returns here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        plan.perform();
    }
    match u32::try_from(pid) {
        Ok(pid) => Ok(Spawned {
            pid,
            launch: launch.read,
            stdout: stdout.map(|pipe| pipe.read),
            stderr: stderr.map(|pipe| pipe.read),
            notify: notify.map(|pipe| pipe.read),
        }),
        Err(_) => Err(LaunchError { stage: Stage::Fork, errno: Errno::last_raw(), detail: String::new() }),
    }
}

/// What the launch pipe of a [`Spawned`] tells. Once it is not `Pending`, close it.
///
/// A child killed between fork and exec closes the pipe like an exec does; its death follows.
#[must_use]
pub fn read_launch(launch: BorrowedFd<'_>) -> LaunchProgress {
    let mut message = [0_u8; MESSAGE_MAX];
    loop {
        return match nix::unistd::read(launch, &mut message) {
            Ok(0) => LaunchProgress::Executed,
            Ok(length) => LaunchProgress::Failed(decode(message.get(..length).unwrap_or_default())),
            Err(Errno::EAGAIN) => LaunchProgress::Pending,
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                LaunchProgress::Failed(LaunchError { stage: Stage::Pipes, errno: errno as i32, detail: "launch pipe".to_owned() })
            }
        };
    }
}

fn decode(message: &[u8]) -> LaunchError {
    let unreadable = || LaunchError { stage: Stage::Pipes, errno: libc::EPROTO, detail: "launch pipe".to_owned() };
    let Some((&[stage, a, b, c, d], text)) = message.split_first_chunk::<HEADER>() else { return unreadable() };
    let Some(&stage) = Stage::ALL.get(usize::from(stage)) else { return unreadable() };
    LaunchError { stage, errno: i32::from_le_bytes([a, b, c, d]), detail: String::from_utf8_lossy(text).into_owned() }
}

/// What the child needs in memory, prepared before the fork and used again for the next start.
///
/// After each fork the first write to a page copies it, and allocating or freeing writes to a page for each size of block:
/// with fresh buffers every start took 28 such faults in the parent, more than the fork itself cost.
#[derive(Default)]
struct Scratch {
    argv: CStrings,
    programs: CStrings,
    working_dir: CStrings,
    pointers: Vec<*const libc::c_char>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    fn prepare(&mut self, request: &Request<'_>) -> Result<(), LaunchError> {
        let refused = |stage, detail: &str| LaunchError { stage, errno: libc::EINVAL, detail: detail.to_owned() };
        for strings in [&mut self.argv, &mut self.programs, &mut self.working_dir] {
            strings.clear();
        }
        for (index, argument) in request.argv.iter().enumerate() {
            self.argv
                .push(&[argument.as_bytes()])
                .map_err(|HasNul| refused(Stage::Exec, &format!("argument {index} of the command: it holds a NUL byte")))?;
        }
        let program = request.argv.first().map(|program| program.as_bytes()).unwrap_or_default();
        if program.is_empty() {
            return Err(refused(Stage::Exec, "an empty command"));
        }
        // None of these can hold a NUL: the program was pushed as an argument, and the environment refuses one.
        if program.contains(&b'/') {
            let _ = self.programs.push(&[program]);
        } else {
            let path = request.env.get("PATH").map_or(DEFAULT_PATH, OsStr::as_bytes);
            for directory in path.split(|&byte| byte == b':') {
                // An empty entry is the working directory, see "PATH" in environ(7) and POSIX.
                let directory = if directory.is_empty() { b".".as_slice() } else { directory };
                let _ = self.programs.push(&[directory, b"/", program]);
            }
        }
        self.working_dir
            .push(&[request.working_dir.as_os_str().as_bytes()])
            .map_err(|HasNul| refused(Stage::WorkingDir, "a path that holds a NUL byte"))?;
        Ok(())
    }
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

fn pipe(flags: libc::c_int) -> Result<Pipe, LaunchError> {
    let mut fds = [-1; 2];
    // SAFETY: room for the two descriptors pipe2 returns.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), flags) } == -1 {
        return Err(LaunchError { stage: Stage::Pipes, errno: Errno::last_raw(), detail: String::new() });
    }
    let [read, write] = fds;
    // SAFETY: both were made just now and have no other owner.
    Ok(unsafe { Pipe { read: OwnedFd::from_raw_fd(read), write: OwnedFd::from_raw_fd(write) } })
}

/// Non-blocking for us and blocking for the program, which is what programs expect of their output.
fn output_pipe() -> Result<Pipe, LaunchError> {
    let pipe = pipe(libc::O_CLOEXEC)?;
    // SAFETY: a plain fcntl on a descriptor we own; the ends of a pipe have flags of their own.
    if unsafe { libc::fcntl(pipe.read.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } == -1 {
        return Err(LaunchError { stage: Stage::Pipes, errno: Errno::last_raw(), detail: String::new() });
    }
    Ok(pipe)
}

/// Its master is read as a pipe is, its slave is what the program gets.
fn terminal(size: WindowSize) -> Result<Pipe, LaunchError> {
    match pty::open(size) {
        Ok(pair) => Ok(Pipe { read: pair.master, write: pair.slave }),
        Err(errno) => Err(LaunchError { stage: Stage::Terminal, errno: errno as i32, detail: String::new() }),
    }
}

/// Everything the child needs, in the memory it shares with its parent's past.
struct Plan<'a> {
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    programs: &'a [*const libc::c_char],
    program: &'a [u8],
    working_dir: &'a CStr,
    user: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
    umask: Option<u32>,
    nice: Option<i32>,
    oom_score_adj: Option<(&'a [u8], bool)>,
    limits: &'a [Limit],
    rights: Rights,
    ignored: u64,
    stdio: Stdio,
    placement: Placement,
    cgroup: Option<RawFd>,
    launch: RawFd,
    stdout: Option<RawFd>,
    stderr: Option<RawFd>,
    /// A descriptor, and the number it must have.
    notify: Option<(RawFd, RawFd)>,
}

/// A step that failed: what it was about, and a remark where the errno alone would mislead.
pub(super) struct Failure<'a> {
    pub(super) stage: Stage,
    pub(super) errno: i32,
    pub(super) what: &'a [u8],
    pub(super) remark: &'a str,
}

impl<'a> Failure<'a> {
    fn last(stage: Stage, what: &'a [u8]) -> Self {
        Self { stage, errno: Errno::last_raw(), what, remark: "" }
    }
}

/// Children inherit it. The file is the process's own only until it becomes another user.
fn set_oom_score_adj(wanted: Option<(&[u8], bool)>) -> Result<(), Failure<'_>> {
    let Some((text, must)) = wanted else { return Ok(()) };
    // SAFETY: the path ends in NUL.
    let fd = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    let result = match check(fd, Stage::OomScoreAdj, text) {
        // SAFETY: `text` has that many bytes.
        Ok(fd) => check(unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) }, Stage::OomScoreAdj, text).map(drop),
        Err(failure) => Err(failure),
    };
    if fd != -1 {
        // SAFETY: opened above.
        unsafe { libc::close(fd) };
    }
    if must { result } else { Ok(()) }
}

/// Moves this process there; see "Processes" in the kernel's Documentation/admin-guide/cgroup-v2.rst: 0 is whoever writes.
fn enter_cgroup(directory: RawFd) {
    // SAFETY: strings of the lengths said; what is opened is closed.
    unsafe {
        let fd = libc::openat(directory, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd != -1 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// The result of a raw call: -1 is a failure with the present errno.
pub(super) fn check<'a, T: PartialEq + From<i8>>(result: T, stage: Stage, what: &'a [u8]) -> Result<T, Failure<'a>> {
    if result == T::from(-1) { Err(Failure::last(stage, what)) } else { Ok(result) }
}

/// From here on: the child. No allocation, no lock, no panic.
impl Plan<'_> {
    fn perform(mut self) -> ! {
        let mut launch = self.launch;
        let failure = match self.steps(&mut launch) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        let mut message = [0_u8; MESSAGE_MAX];
        let [a, b, c, d] = failure.errno.to_le_bytes();
        let head = [failure.stage as u8, a, b, c, d];
        let bytes = head.iter().chain(failure.what).chain(failure.remark.as_bytes());
        let mut length = 0_usize;
        for (slot, byte) in message.iter_mut().zip(bytes) {
            *slot = *byte;
            length = length.saturating_add(1);
        }
        // SAFETY: `length` bytes of `message` are initialised; `_exit` runs no handlers of the parent's.
        unsafe {
            libc::write(launch, message.as_ptr().cast(), length);
            libc::_exit(127)
        }
    }

    fn steps(&mut self, launch: &mut RawFd) -> Result<Infallible, Failure<'_>> {
        // As whoever firstmate is, and before anything is taken that should be counted there.
        if let Some(directory) = self.cgroup {
            enter_cgroup(directory);
        }
        match self.placement {
            // SAFETY: setsid has no arguments.
            Placement::Session => drop(check(unsafe { libc::setsid() }, Stage::Session, b"")?),
            Placement::Foreground => to_foreground()?,
        }
        reset_signals(self.ignored)?;
        let mut notify = self.notify.map(|(pipe, _)| pipe);
        connect_stdio(self.stdio, launch, &mut self.stdout, &mut self.stderr, &mut notify)?;
        // Before the user changes: /proc/self/fd is root's from then on.
        close_others_on_exec()?;
        // Before the limits: a low `nofile` would not allow its number.
        if let (Some(pipe), Some((_, number))) = (notify, self.notify) {
            connect_notify(pipe, number, launch)?;
        }
        // Before the limits: a low `nofile` would leave no descriptor to read the files with, a low `stack` no room for their buffers.
        let identity = self.find_identity()?;
        self.hand_over_pipes(identity.uid)?;
        self.set_limits()?;
        if let Some(nice) = self.nice {
            // SAFETY: setpriority takes numbers only; 0 is this process.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }, Stage::Nice, b"")?;
        }
        set_oom_score_adj(self.oom_score_adj)?;
        if let Some(mask) = self.umask {
            // SAFETY: umask takes a number and cannot fail.
            unsafe { libc::umask(mask) };
        }
        if let Some(kept) = self.rights.capabilities {
            caps::require(kept)?;
            // While the rights for it are still there.
            caps::reduce_bounding_set(kept, self.rights.no_new_privs)?;
            caps::outlive_the_change_of_user()?;
        }
        self.become_user(&identity)?;
        if let Some(kept) = self.rights.capabilities {
            caps::keep_only(kept)?;
        }
        if self.rights.no_new_privs {
            caps::set_no_new_privs()?;
        }
        // SAFETY: `working_dir` ends with its NUL.
        check(unsafe { libc::chdir(self.working_dir.as_ptr()) }, Stage::WorkingDir, self.working_dir.to_bytes())?;
        Err(self.execute())
    }

    /// Tries every place the program may be in; returns what to report when none would do.
    fn execute(&self) -> Failure<'_> {
        let mut verdict = Failure { stage: Stage::Exec, errno: libc::ENOENT, what: self.program, remark: "" };
        for &program in self.programs.iter().filter(|program| !program.is_null()) {
            // SAFETY: all three were built from NUL-terminated strings that outlive this call, and the arrays end with a null pointer.
            unsafe { libc::execve(program, self.argv.as_ptr(), self.env.as_ptr()) };
            let errno = Errno::last_raw();
            // SAFETY: as above.
            let path = unsafe { CStr::from_ptr(program) }.to_bytes();
            match errno {
                // As glibc's execvp: not there, or on a file system that is not there.
                libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT => {
                    // SAFETY: as above.
                    let exists = errno == libc::ENOENT && unsafe { libc::access(program, libc::F_OK) } == 0;
                    if exists && verdict.errno == libc::ENOENT {
                        verdict = Failure { stage: Stage::Exec, errno, what: path, remark: ", whose interpreter or dynamic loader" };
                    } else if verdict.errno == libc::ENOENT && verdict.remark.is_empty() {
                        verdict.errno = errno;
                    }
                }
                libc::EACCES => verdict = Failure { stage: Stage::Exec, errno, what: path, remark: "" },
                _ => return Failure { stage: Stage::Exec, errno, what: path, remark: "" },
            }
        }
        verdict
    }

    fn set_limits(&self) -> Result<(), Failure<'_>> {
        for limit in self.limits {
            let (number, name) = resource(limit.resource);
            let value = libc::rlimit64 { rlim_cur: limit.soft.unwrap_or(u64::MAX), rlim_max: limit.hard.unwrap_or(u64::MAX) };
            // The system call, since the C libraries disagree on the type of its arguments; u64::MAX is its infinity.
            // SAFETY: `value` is a whole rlimit64 and no old value is asked for; 0 is this process.
            let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, &raw const value, ptr::null_mut::<libc::rlimit64>()) };
            check(result, Stage::Limits, name.as_bytes())?;
        }
        Ok(())
    }

    /// The service may re-open /dev/stdout only if the pipe behind it is its own, or open to everybody. A terminal, which has a name in
    /// /dev/pts, is opened to nobody else; whoever has it as its controlling terminal may open /dev/tty.
    fn hand_over_pipes(&self, uid: Option<u32>) -> Result<(), Failure<'_>> {
        // SAFETY: geteuid has no arguments and cannot fail.
        let Some(uid) = uid.filter(|&uid| uid != unsafe { libc::geteuid() }) else { return Ok(()) };
        for fd in [self.stdout.map(|_| 1), self.stderr.map(|_| 2)].into_iter().flatten() {
            // SAFETY: fchown takes numbers only; u32::MAX leaves the group as it is.
            if unsafe { libc::fchown(fd, uid, u32::MAX) } == -1 && !matches!(self.stdio, Stdio::Terminal(_)) {
                // Without CAP_CHOWN. A pipe has no name: nobody else comes to it but through the /proc/PID/fd of the service's own
                // processes, which only their user and root may enter.
                // SAFETY: numbers only.
                check(unsafe { libc::fchmod(fd, 0o622) }, Stage::Stdio, b"opening the pipes to the user")?;
            }
        }
        Ok(())
    }

    fn find_identity(&self) -> Result<Identity, Failure<'_>> {
        let mut identity = Identity { uid: None, gid: None, groups: None };
        let mut account: Option<User> = None;
        if let Some(wanted) = self.user {
            let file = open_accounts(c"/etc/passwd", Stage::User)?;
            let fail = |errno| Failure { stage: Stage::User, errno, what: b"/etc/passwd", remark: "" };
            account = users::find_user(wanted, |buffer| read_accounts(file, buffer)).map_err(fail)?;
            close_accounts(file);
            identity.uid = account.map(|account| account.uid).or_else(|| users::parse_id(wanted));
            identity.gid = account.map(|account| account.gid);
            if identity.uid.is_none() {
                let remark = if file.is_some() { ": not in /etc/passwd" } else { ": there is no /etc/passwd" };
                return Err(Failure { stage: Stage::User, errno: 0, what: wanted, remark });
            }
        }
        if let Some(wanted) = self.group {
            let file = open_accounts(c"/etc/group", Stage::Group)?;
            let fail = |errno| Failure { stage: Stage::Group, errno, what: b"/etc/group", remark: "" };
            let found = users::find_group(wanted, |buffer| read_accounts(file, buffer)).map_err(fail)?;
            close_accounts(file);
            identity.gid = found.or_else(|| users::parse_id(wanted));
            if identity.gid.is_none() {
                let remark = if file.is_some() { ": not in /etc/group" } else { ": there is no /etc/group" };
                return Err(Failure { stage: Stage::Group, errno: 0, what: wanted, remark });
            }
        }
        let (Some(wanted), Some(uid)) = (self.user, identity.uid) else { return Ok(identity) };
        if identity.gid.is_none() {
            // SAFETY: these have no arguments and cannot fail.
            let (own_uid, own_gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            if uid != own_uid {
                // docker takes group 0 here; more rights than were asked for are no default.
                return Err(Failure {
                    stage: Stage::Group,
                    errno: 0,
                    what: wanted,
                    remark: ": a user /etc/passwd does not list needs `group` too",
                });
            }
            identity.gid = Some(own_gid);
        }
        let mut groups = Groups::with(identity.gid.unwrap_or_default());
        if let Some(name) = account.as_ref().and_then(|account| account.name.as_bytes()) {
            let file = open_accounts(c"/etc/group", Stage::SupplementaryGroups)?;
            let fail = |errno| Failure { stage: Stage::SupplementaryGroups, errno, what: b"/etc/group", remark: "" };
            let all = users::add_groups_of(name, &mut groups, |buffer| read_accounts(file, buffer)).map_err(fail)?;
            close_accounts(file);
            if !all {
                return Err(Failure { stage: Stage::SupplementaryGroups, errno: 0, what: wanted, remark: " is in more than 256 groups" });
            }
        }
        identity.groups = Some(groups);
        Ok(identity)
    }

    /// Groups, then gid, then uid: each needs rights the next one gives up. The system calls, since the C libraries' wrappers stop
    /// all threads of a process to change them too, and there are none here.
    fn become_user(&self, identity: &Identity) -> Result<(), Failure<'_>> {
        let (mut real, mut effective, mut saved) = (0, 0, 0);
        // SAFETY: three valid pointers each.
        unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
        let uid_holds = identity.uid.is_none_or(|uid| [real, effective, saved] == [uid; 3]);
        let is_root = effective == 0;
        // SAFETY: as above.
        unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) };
        let gid_holds = identity.gid.is_none_or(|gid| [real, effective, saved] == [gid; 3]);
        if uid_holds && gid_holds && !is_root {
            return Ok(());
        }
        let user = self.user.unwrap_or_default();
        if let Some(groups) = &identity.groups {
            let list = groups.as_slice();
            // SAFETY: `list` holds as many ids as said.
            let result = unsafe { libc::syscall(libc::SYS_setgroups, list.len(), list.as_ptr()) };
            // Root without CAP_SETGID that stays root needs nothing from this call.
            if !(result == -1 && uid_holds && gid_holds && Errno::last_raw() == libc::EPERM) {
                check(result, Stage::SupplementaryGroups, user)?;
            }
        }
        if let Some(gid) = identity.gid.filter(|_| !gid_holds) {
            // SAFETY: numbers only.
            check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }, Stage::SetGroup, self.group.unwrap_or(user))?;
        }
        if let Some(uid) = identity.uid.filter(|_| !uid_holds) {
            // SAFETY: numbers only.
            check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, Stage::SetUser, user)?;
        }
        Ok(())
    }
}

/// Whom to become; `None` is to stay.
struct Identity {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Groups>,
}

/// `None` where there is no such file: then names are unknown and numbers still work.
fn open_accounts(path: &'static CStr, stage: Stage) -> Result<Option<RawFd>, Failure<'static>> {
    // SAFETY: `path` ends with its NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    match fd {
        -1 if Errno::last_raw() == libc::ENOENT => Ok(None),
        fd => check(fd, stage, path.to_bytes()).map(Some),
    }
}

fn read_accounts(file: Option<RawFd>, buffer: &mut [u8]) -> Result<usize, i32> {
    let Some(fd) = file else { return Ok(0) };
    loop {
        // SAFETY: `buffer` has room for its own length.
        let got = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        match (usize::try_from(got), Errno::last_raw()) {
            (Ok(got), _) => return Ok(got),
            (Err(_), libc::EINTR) => {}
            (Err(_), errno) => return Err(errno),
        }
    }
}

fn close_accounts(file: Option<RawFd>) {
    if let Some(fd) = file {
        // SAFETY: it was opened by `open_accounts` and is not used again.
        unsafe { libc::close(fd) };
    }
}

fn to_foreground() -> Result<(), Failure<'static>> {
    // SAFETY: numbers only, but for the signal set, which has the size said. SIGTTOU is blocked because a background process that
    // changes the foreground group is stopped by it otherwise (see tcsetpgrp(3)); `reset_signals` unblocks it.
    unsafe {
        check(libc::setpgid(0, 0), Stage::Session, b"")?;
        let ttou = 1_u64.wrapping_shl(libc::SIGTTOU.unsigned_abs().wrapping_sub(1));
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const ttou, ptr::null::<u64>(), size_of::<u64>());
        // Fails where standard input is no terminal of ours, and then there is no foreground to be in.
        libc::tcsetpgrp(0, libc::getpgrp());
    }
    Ok(())
}

/// The kernel's own `struct sigaction`; no 64-bit architecture has a larger one. All zero is the default action.
type Action = [u64; 4];

/// The signals firstmate itself ignores, bit n - 1 for signal n. An impossible set, for KILL cannot be ignored: not asked yet.
static IGNORED: AtomicU64 = AtomicU64::new(u64::MAX);

/// An exec resets every action but "ignore" (see execve(2)), so only these need a call in the child; 64 calls would be a tenth of what a
/// start costs. Asked once: nothing in firstmate changes an action after `Signals::new`, which comes before the first start.
fn ignored() -> u64 {
    let known = IGNORED.load(Ordering::Relaxed);
    if known != u64::MAX {
        return known;
    }
    let mut ignored = 0_u64;
    // Raw, because the C libraries refuse 32 and 33 (musl 34 too), which a posix_spawn above us may have left ignored.
    for signal in 1..=SIGRTMAX {
        let mut action: Action = [0; 4];
        // SAFETY: no new action is given, and the present one has room.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, ptr::null::<u64>(), action.as_mut_ptr(), size_of::<u64>()) };
        let [handler, ..] = action;
        // SIG_IGN is 1, and the handler is the first word.
        if result == 0 && handler == 1 {
            ignored |= 1_u64.wrapping_shl(signal.unsigned_abs().wrapping_sub(1));
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    ignored
}

fn reset_signals(ignored: u64) -> Result<(), Failure<'static>> {
    let default: Action = [0; 4];
    for signal in (1..=SIGRTMAX).filter(|signal| ignored.wrapping_shr(signal.unsigned_abs().wrapping_sub(1)) & 1 == 1) {
        // SAFETY: the action is as large as the kernel's and no old one is asked for.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), size_of::<u64>()) };
        check(result, Stage::Signals, b"")?;
    }
    let none = 0_u64;
    // SAFETY: a set of the size said; no old one is asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null::<u64>(), size_of::<u64>()) };
    check(result, Stage::Signals, b"").map(drop)
}

/// Puts the pipes at 1 and 2 and /dev/null at 0, whatever numbers they have now.
fn connect_stdio(
    stdio: Stdio,
    launch: &mut RawFd,
    stdout: &mut Option<RawFd>,
    stderr: &mut Option<RawFd>,
    notify: &mut Option<RawFd>,
) -> Result<(), Failure<'static>> {
    // firstmate may have been started with 0, 1 or 2 closed, and then our own pipes are there.
    for fd in [Some(launch), stdout.as_mut(), stderr.as_mut(), notify.as_mut()].into_iter().flatten() {
        if *fd < 3 {
            // SAFETY: numbers only.
            *fd = check(unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 3) }, Stage::Stdio, b"")?;
        }
    }
    let Some(output) = *stdout else { return Ok(()) };
    let error = match stdio {
        Stdio::Inherit => return Ok(()),
        Stdio::Pipes => stderr.unwrap_or(output),
        Stdio::Capture => output,
        Stdio::Terminal(_) => return connect_terminal(output),
    };
    // SAFETY: the path ends with its NUL; the rest are numbers. 0 comes last, so that opening /dev/null cannot meet a free 1 or 2.
    unsafe {
        check(libc::dup2(output, 1), Stage::Stdio, b"")?;
        check(libc::dup2(error, 2), Stage::Stdio, b"")?;
        let null = check(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY), Stage::Stdio, b"/dev/null")?;
        if null != 0 {
            check(libc::dup2(null, 0), Stage::Stdio, b"/dev/null")?;
            libc::close(null);
        }
    }
    Ok(())
}

/// Puts the slave at 0, 1 and 2, and makes it the controlling terminal of the session that this process leads; see ioctl_tty(2).
fn connect_terminal(slave: RawFd) -> Result<(), Failure<'static>> {
    // SAFETY: numbers only.
    unsafe {
        check(libc::ioctl(slave, libc::TIOCSCTTY, 0), Stage::Terminal, b"")?;
        for fd in 0..=2 {
            check(libc::dup2(slave, fd), Stage::Terminal, b"")?;
        }
    }
    Ok(())
}

/// Puts the notification pipe at the number the program knows it by, where it lives through the exec. Whatever has that number is not
/// needed there any more, but for the launch pipe, which makes room.
fn connect_notify(pipe: RawFd, number: RawFd, launch: &mut RawFd) -> Result<(), Failure<'static>> {
    const WHAT: &[u8] = b"and its `notify_fd`";
    // SAFETY: numbers only.
    unsafe {
        if *launch == number {
            *launch = check(libc::fcntl(*launch, libc::F_DUPFD_CLOEXEC, number.saturating_add(1)), Stage::Stdio, WHAT)?;
        }
        if pipe == number {
            check(libc::fcntl(pipe, libc::F_SETFD, 0), Stage::Stdio, WHAT)?;
        } else {
            check(libc::dup2(pipe, number), Stage::Stdio, WHAT)?;
        }
    }
    Ok(())
}

/// Every descriptor from 3 up is closed by the exec; the launch pipe must live until then.
fn close_others_on_exec() -> Result<(), Failure<'static>> {
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Before Linux 5.11 there is no such call or flag, and an old seccomp profile answers EPERM.
    if result == 0 { Ok(()) } else { close_listed_on_exec() }
}

/// For kernels without close_range: as /proc/self/fd lists them, or else every number there may be.
fn close_listed_on_exec() -> Result<(), Failure<'static>> {
    // SAFETY: the path ends with its NUL.
    let directory = unsafe { libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if directory == -1 {
        return close_numbers_on_exec();
    }
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: `buffer` has room for its own length.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, directory, buffer.as_mut_ptr(), buffer.len()) };
        let got = usize::try_from(check(got, Stage::Stdio, b"/proc/self/fd")?).unwrap_or_default();
        let mut rest = buffer.get(..got).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        // See getdents(2), struct linux_dirent64: inode 8 bytes, offset 8, record length 2, type 1, then the name.
        while let Some(&[low, high]) = rest.get(16..18) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let name = rest.get(19..length).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
            if let Some(fd) = users::parse_id(name).and_then(|fd| i32::try_from(fd).ok()).filter(|&fd| fd > 2) {
                // SAFETY: numbers only.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
            rest = match rest.get(length..) {
                Some(rest) if length > 0 => rest,
                _ => break,
            };
        }
    }
    // SAFETY: opened above and not used again.
    unsafe { libc::close(directory) };
    Ok(())
}

fn close_numbers_on_exec() -> Result<(), Failure<'static>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a whole rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, Stage::Stdio, b"")?;
    // Without a limit, the kernel's own default for fs.nr_open.
    for fd in 3..i32::try_from(limit.rlim_max.min(1_048_576)).unwrap_or(i32::MAX) {
        // SAFETY: numbers only; EBADF for those that are not open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// The kernel's number and our name. The C libraries give the numbers different types.
fn resource(resource: Resource) -> (u32, &'static str) {
    let number = match resource {
        Resource::As => libc::RLIMIT_AS,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Locks => libc::RLIMIT_LOCKS,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Nice => libc::RLIMIT_NICE,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Rttime => libc::RLIMIT_RTTIME,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Stack => libc::RLIMIT_STACK,
    };
    let name = Resource::ALL.iter().find(|&&(_, known)| known == resource).map_or("", |&(name, _)| name);
    #[cfg_attr(not(target_env = "musl"), expect(clippy::useless_conversion, reason = "an i32 with musl, a u32 with glibc"))]
    (u32::try_from(number).unwrap_or(u32::MAX), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way sets the same flag, on a descriptor far from the others and on the highest of a full page of directory entries.
    #[test]
    fn every_way_to_close_the_others_reaches_all_of_them() {
        for close in [close_others_on_exec, close_listed_on_exec, close_numbers_on_exec] {
            // SAFETY: numbers and a string with its NUL; the descriptors are closed below.
            let open: Vec<RawFd> = (0..400).map(|_| unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) }).collect();
            assert!(close().is_ok());
            for &fd in &open {
                // SAFETY: numbers only.
                assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC, "{fd}");
                // SAFETY: opened above.
                unsafe { libc::close(fd) };
            }
        }
    }

    #[test]
    fn a_cut_message_is_an_error_all_the_same() {
        for message in [&b""[..], &[1, 2, 3, 4], &[200, 2, 0, 0, 0]] {
            assert_eq!(decode(message).errno, libc::EPROTO);
        }
        let expected = LaunchError { stage: Stage::Exec, errno: 2, detail: "x".to_owned() };
        assert_eq!(decode(&[Stage::Exec as u8, 2, 0, 0, 0, b'x']), expected);
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(stage as u8), index, "{stage:?} is sent as its place in the list");
        }
    }
}
