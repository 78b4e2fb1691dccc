//! Real children: how they start, what they start with, at which stage they fail, and how their ends are collected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]

#[path = "linux/stage.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the other process tests")]
mod stage;

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use firstmate::engine::spec::{Limit, Resource};
use firstmate::engine::{LaunchError, Outcome, Signal, Stage as At};
use firstmate::linux::signals::Signals;
use firstmate::linux::spawn::{self, Environment, Placement, Request, Stdio};
use stage::{Stage, actor, actor_path, fields, launched, plain, read_all, until, words};

/// A directory of this test's own that everybody may enter, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("firstmate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        chmod(&path, 0o755);
        Self(path)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        chmod(&path, mode);
        path
    }

    /// The actor, where every user may execute it.
    fn actor(&self) -> PathBuf {
        let path = self.0.join("actor");
        std::fs::copy(actor_path(), &path).unwrap();
        chmod(&path, 0o755);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn set(env: &mut Environment, name: &str, value: &str) {
    env.set(name.as_ref(), value.as_ref()).unwrap();
}

fn failure(result: Result<(String, Outcome), LaunchError>) -> (At, i32, String) {
    let error = result.expect_err("it must not start");
    (error.stage, error.errno, error.detail)
}

#[test]
fn output_and_exit_code_come_back() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let spawned = spawn::spawn(&plain(&actor("print out print-error err exit 3"), &env)).unwrap();
    launched(&spawned).unwrap();
    assert_eq!(read_all(spawned.stdout.unwrap()), "out\n");
    assert_eq!(read_all(spawned.stderr.unwrap()), "err\n");
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(3));

    let argv = actor("print out print-error err");
    let both = stage.play(&Request { stdio: Stdio::Capture, ..plain(&argv, &env) }).unwrap();
    assert_eq!(both, ("out\nerr\n".to_owned(), Outcome::Exited(0)));
}

#[test]
fn a_child_starts_clean_whatever_its_parent_is_like() {
    let mut stage = Stage::new();
    // Ignored signals, the ones the C library keeps for itself too, and a mask full of blocked ones.
    let ignore = [1_u64, 0, 0, 0];
    for signal in [1, 13, 17, 23, 32, 33, 34, 64] {
        // SAFETY: a kernel sigaction whose first word is SIG_IGN.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, ignore.as_ptr(), std::ptr::null_mut::<u64>(), 8) };
    }
    let _signals = Signals::new().unwrap();
    let own = fields(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
    assert_ne!(own["SigBlk"], "0".repeat(16));
    assert_ne!(own["SigIgn"], "0".repeat(16));
    // Descriptors that would be inherited.
    // SAFETY: numbers and a string with its NUL.
    let leaks: Vec<i32> = (0..300).map(|_| unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY) }).collect();
    assert!(leaks.iter().all(|&fd| fd > 2));

    let env = stage.env.clone();
    let (text, _) = stage.play(&plain(&words("cat /proc/self/status"), &env)).unwrap();
    let child = fields(&text);
    for field in ["SigPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(child[field], "0".repeat(16), "{field}");
    }
    let (text, _) = stage.play(&plain(&actor("print-fds"), &env)).unwrap();
    assert_eq!(text, "0=/dev/null 1=pipe 2=pipe\n");
    // ps-like view: session, group and pid are one.
    let (text, _) = stage.play(&plain(&words("cat /proc/self/stat"), &env)).unwrap();
    let stat: Vec<&str> = text.split(' ').collect();
    assert_eq!([stat[4], stat[5]], [stat[0]; 2]);
}

#[test]
fn pipes_on_the_standard_numbers_are_moved_out_of_the_way() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let argv = actor("print out print-error err print-fds");
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        // SAFETY: the saved copies are put back below.
        let saved: Vec<i32> = closed.iter().map(|&fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) }).collect();
        // SAFETY: as above.
        closed.iter().for_each(|&fd| assert_eq!(unsafe { libc::close(fd) }, 0));
        let result = stage.play(&plain(&argv, &env));
        for (&fd, &copy) in closed.iter().zip(&saved) {
            // SAFETY: as above.
            unsafe { libc::dup2(copy, fd) };
            // SAFETY: as above.
            unsafe { libc::close(copy) };
        }
        let (text, outcome) = result.unwrap();
        assert_eq!((text.as_str(), outcome), ("out\n0=/dev/null 1=pipe 2=pipe\nerr\n", Outcome::Exited(0)), "without {closed:?}");
    }
}

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("exec");
    let env = stage.env.clone();
    let mut fails = |argv: Vec<OsString>| failure(stage.play(&plain(&argv, &env)));

    assert_eq!(fails(words("no-such-program")), (At::Exec, libc::ENOENT, "no-such-program".into()));
    assert_eq!(fails(words("/no/such/program")), (At::Exec, libc::ENOENT, "/no/such/program".into()));
    assert_eq!(fails(words("/etc/passwd/x")), (At::Exec, libc::ENOTDIR, "/etc/passwd/x".into()));
    let plain_file = scratch.file("data", "x", 0o644).into_os_string();
    assert_eq!(fails(vec![plain_file.clone()]), (At::Exec, libc::EACCES, plain_file.into_string().unwrap()));
    let headless = scratch.file("headless", "echo hi\n", 0o755).into_os_string();
    assert_eq!(fails(vec![headless.clone()]), (At::Exec, libc::ENOEXEC, headless.into_string().unwrap()));
    let orphaned = scratch.file("orphaned", "#!/no/interpreter\n", 0o755).into_os_string();
    let detail = format!("{}, whose interpreter or dynamic loader", orphaned.to_string_lossy());
    assert_eq!(fails(vec![orphaned]), (At::Exec, libc::ENOENT, detail));
    assert_eq!(fails(vec!["a\0b".into()]).0, At::Exec);
    assert_eq!(fails(vec![]), (At::Exec, libc::EINVAL, "an empty command".into()));
    // Longer than a message: cut, and told all the same.
    let long = format!("/{}", "x/".repeat(2000));
    let (at, _, detail) = fails(vec![long.clone().into()]);
    assert!(at == At::Exec && long.starts_with(&detail) && detail.len() > 1000, "{at:?} {detail}");
}

#[test]
fn the_path_of_the_service_is_searched() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("path");
    let mut env = stage.env.clone();
    scratch.file("refused/tool", "#!/bin/sh\n", 0o644);
    scratch.file("first/tool", "#!/bin/sh\necho first\n", 0o755);
    scratch.file("second/tool", "#!/bin/sh\necho second\n", 0o755);
    let at = |name: &str| format!("{}/{name}", scratch.0.display());
    let mut search = |path: String, working_dir: &Path| {
        set(&mut env, "PATH", &path);
        stage.play(&Request { working_dir, ..plain(&words("tool"), &env) })
    };
    let root = Path::new("/");
    let (absent, refused, first, second) = (at("absent"), at("refused"), at("first"), at("second"));
    assert_eq!(search(format!("{absent}:{refused}:{first}:{second}"), root).unwrap().0, "first\n");
    assert_eq!(search(format!("{second}:{first}"), root).unwrap().0, "second\n");
    assert_eq!(search(format!("{absent}::{second}"), Path::new(&first)).unwrap().0, "first\n", "an empty entry is the working directory");
    assert_eq!(failure(search(format!("{refused}:{absent}"), root)), (At::Exec, libc::EACCES, format!("{refused}/tool")));
    assert_eq!(failure(search(absent.clone(), root)), (At::Exec, libc::ENOENT, "tool".into()));
    // Without PATH the usual places.
    let bare = Environment::default();
    assert_eq!(stage.play(&plain(&words("echo hi"), &bare)).unwrap().0, "hi\n");
}

#[test]
fn each_stage_has_a_name_and_an_errno() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("stages");
    let env = stage.env.clone();
    let argv = words("true");
    let secret = scratch.0.join("secret");
    std::fs::create_dir(&secret).unwrap();
    chmod(&secret, 0o700);
    let base = plain(&argv, &env);
    let mut fails = |request: Request<'_>| failure(stage.play(&request));

    assert_eq!(fails(Request { user: Some("nosuchuser"), ..base }), (At::User, 0, "nosuchuser: not in /etc/passwd".into()));
    assert_eq!(fails(Request { group: Some("nosuchgroup"), ..base }), (At::Group, 0, "nosuchgroup: not in /etc/group".into()));
    let (at, _, detail) = fails(Request { user: Some("54321"), ..base });
    assert_eq!((at, detail.as_str()), (At::Group, "54321: a user /etc/passwd does not list needs `group` too"));
    assert_eq!(fails(Request { working_dir: Path::new("/no/such"), ..base }), (At::WorkingDir, libc::ENOENT, "/no/such".into()));
    let forbidden = Request { working_dir: &secret, user: Some("nobody"), ..base };
    assert_eq!(fails(forbidden), (At::WorkingDir, libc::EACCES, secret.to_str().unwrap().into()));
    let limits = [Limit { resource: Resource::Nofile, soft: Some(20), hard: Some(10) }];
    assert_eq!(fails(Request { limits: &limits, ..base }), (At::Limits, libc::EINVAL, "nofile".into()));

    // Without root's rights, as another user.
    // SAFETY: numbers only; this thread alone, and this process ends with the test.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
    assert_eq!(fails(Request { nice: Some(-5), ..base }), (At::Nice, libc::EACCES, String::new()));
    let (at, errno, detail) = fails(Request { user: Some("root"), ..base });
    assert_eq!((at, errno, detail.as_str()), (At::SupplementaryGroups, libc::EPERM, "root"));
    let raise = [Limit { resource: Resource::Nofile, soft: None, hard: None }];
    assert_eq!(fails(Request { limits: &raise, ..base }), (At::Limits, libc::EPERM, "nofile".into()));
    // Whoever one is already, one may stay, also without /etc/passwd's group.
    // SAFETY: as above.
    assert_eq!(unsafe { libc::getegid() }, 0);
    assert_eq!(stage.play(&Request { user: Some("65534"), group: Some("0"), ..base }).unwrap().1, Outcome::Exited(0));
}

#[test]
fn no_process_or_no_descriptor_left_is_a_named_failure() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let argv = words("true");
    let mut few = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a whole rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut few) };
    let before = few.rlim_cur;
    // SAFETY: numbers only; the lowest free number, and the ones after it, are what the pipes would get.
    let next = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 0) };
    // SAFETY: opened just now.
    unsafe { libc::close(next) };
    for spare in 0..6 {
        few.rlim_cur = u64::try_from(next).unwrap() + spare;
        // SAFETY: a whole rlimit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few) }, 0);
        let error = spawn::spawn(&plain(&argv, &env)).expect_err("three pipes need six numbers");
        assert_eq!((error.stage, error.errno), (At::Pipes, libc::EMFILE), "{spare} to spare");
    }
    few.rlim_cur = before;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few) }, 0);
    assert_eq!(stage.play(&plain(&argv, &env)).unwrap().1, Outcome::Exited(0), "nothing was leaked");

    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: numbers and a whole rlimit; this process ends with the test.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const none), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
    }
    let error = spawn::spawn(&plain(&argv, &env)).expect_err("no processes are allowed");
    assert_eq!((error.stage, error.errno), (At::Fork, libc::EAGAIN));
}

#[test]
fn limits_nice_umask_and_directory_are_set() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let limits = [
        Limit { resource: Resource::Nofile, soft: Some(3), hard: Some(77) },
        Limit { resource: Resource::Core, soft: Some(0), hard: None },
        Limit { resource: Resource::Stack, soft: Some(256 * 1024), hard: Some(256 * 1024) },
    ];
    let argv = words("sh -c");
    let script = "ulimit -Hn; ulimit -Sc; ulimit -Hc; ulimit -Ss; umask; pwd; cut -d' ' -f19 </proc/self/stat";
    let argv: Vec<OsString> = argv.into_iter().chain([script.into()]).collect();
    // Three descriptors are too few for a shell to open files: only the hard limit is kept low.
    let limits_for_shell = [Limit { soft: Some(77), ..limits[0] }, limits[1], limits[2]];
    let request = Request {
        limits: &limits_for_shell,
        nice: Some(7),
        umask: Some(0o027),
        working_dir: Path::new("/tmp"),
        user: Some("nobody"),
        ..plain(&argv, &env)
    };
    assert_eq!(stage.play(&request).unwrap().0, "77\n0\nunlimited\n256\n0027\n/tmp\n7\n");
    // A limit of no spare descriptor does not get in the way of reading the user files, nor of a failure's message.
    let missing = words("/no/such");
    let request = Request { limits: &limits, user: Some("nobody"), ..plain(&missing, &env) };
    assert_eq!(failure(stage.play(&request)), (At::Exec, libc::ENOENT, "/no/such".into()));
}

#[test]
fn user_group_and_supplementary_groups_are_the_users_own() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("users");
    // Files of our own in a mount namespace of our own.
    let passwd = scratch.file("passwd", "root:x:0:0::/:/bin/sh\nweb:x:1234:1235::/:/bin/sh\nwebby:x:1236:1237::/:\n", 0o644);
    let group = scratch.file("group", "root:x:0:\nweb:x:1235:\nlog:x:2001:web\nvideo:x:2002:webby\ntty:x:2003:webby,web", 0o644);
    in_own_mounts();
    for (from, to) in [(&passwd, c"/etc/passwd"), (&group, c"/etc/group")] {
        let from = std::ffi::CString::new(from.to_str().unwrap()).unwrap();
        // SAFETY: strings with their NUL.
        let bound = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()) };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    }
    let env = stage.env.clone();
    let argv = words("grep -E ^(Uid|Gid|Groups|CapEff): /proc/self/status");
    let mut ids = |user: Option<&str>, group: Option<&str>| {
        let (text, _) = stage.play(&Request { user, group, ..plain(&argv, &env) }).unwrap();
        let ids = fields(&text);
        if user.is_some() {
            assert_eq!(ids["CapEff"], "0".repeat(16), "{user:?}");
        }
        format!("{} | {} | {}", ids["Uid"], ids["Gid"], ids["Groups"])
    };
    let (web, gid) = ("1234 1234 1234 1234", "1235 1235 1235 1235");
    assert_eq!(ids(Some("web"), None), format!("{web} | {gid} | 1235 2001 2003"));
    assert_eq!(ids(Some("1234"), None), format!("{web} | {gid} | 1235 2001 2003"), "a number is the same user");
    assert_eq!(ids(Some("web"), Some("video")), format!("{web} | 2002 2002 2002 2002 | 2001 2002 2003"));
    assert_eq!(ids(Some("4000"), Some("4001")), "4000 4000 4000 4000 | 4001 4001 4001 4001 | 4001", "unlisted numbers");
    assert_eq!(ids(None, Some("log")).split(" | ").take(2).collect::<Vec<_>>(), ["0 0 0 0", "2001 2001 2001 2001"]);

    let many: String = (0..300).map(|n| format!("g{n}:x:{}:web\n", 5000 + n)).collect();
    std::fs::write(&group, many).unwrap();
    let error = failure(stage.play(&Request { user: Some("web"), ..plain(&argv, &env) }));
    assert_eq!(error, (At::SupplementaryGroups, 0, "web is in more than 256 groups".into()));
}

fn in_own_mounts() {
    // SAFETY: numbers and strings with their NUL. unshare(CLONE_NEWNS) gives this thread a file system view of its own.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "root is needed: {}", std::io::Error::last_os_error());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        assert_eq!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()), 0);
    }
}

#[test]
fn a_service_may_open_its_standard_output_again() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("reopen");
    let env = stage.env.clone();
    let argv: Vec<OsString> = std::iter::once(scratch.actor().into_os_string()).chain(words("reopen-stdout again")).collect();
    let request = Request { user: Some("nobody"), ..plain(&argv, &env) };
    let spawned = spawn::spawn(&request).unwrap();
    launched(&spawned).unwrap();
    let owner = std::fs::metadata(format!("/proc/self/fd/{}", spawned.stderr.as_ref().unwrap().as_raw_fd())).unwrap().uid();
    assert_eq!(owner, 65534);
    assert_eq!(read_all(spawned.stdout.unwrap()), "again\n");
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(0));

    // Root without CAP_CHOWN, as in a container with few capabilities.
    drop_chown();
    let spawned = spawn::spawn(&request).unwrap();
    launched(&spawned).unwrap();
    let owner = std::fs::metadata(format!("/proc/self/fd/{}", spawned.stderr.as_ref().unwrap().as_raw_fd())).unwrap().uid();
    assert_eq!(owner, 0);
    assert_eq!(read_all(spawned.stdout.unwrap()), "again\n");
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(0));
}

/// Takes CAP_CHOWN from this thread; see capset(2).
fn drop_chown() {
    let header = [0x2008_0522_u32, 0];
    // Effective, permitted and inheritable, of capabilities 0 to 31 and then of the others.
    let mut sets = [0_u32; 6];
    // SAFETY: both arrays have the layout that version 3 of the interface asks for. This thread alone is changed.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !1;
        sets[1] &= !1;
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0, "root is needed");
    }
}

#[test]
fn the_environment_is_exactly_what_was_given() {
    let mut stage = Stage::new();
    let mut env = Environment::default();
    set(&mut env, "B", "2");
    set(&mut env, "A", "with = and blank");
    set(&mut env, "B", "3");
    set(&mut env, "BB", "");
    assert_eq!(stage.play(&plain(&words("env"), &env)).unwrap().0, "A=with = and blank\nB=3\nBB=\n");
    assert_eq!(env.get("B").unwrap(), "3");
    assert!(env.get("C").is_none());
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        assert_eq!(env.set(name.as_ref(), value.as_ref()).map_err(|error| error.errno), Err(libc::EINVAL), "{name:?}={value:?}");
    }
}

#[test]
fn a_launch_does_not_hold_up_its_parent() {
    let mut stage = Stage::new();
    let scratch = Scratch::new("slow");
    // Opening a pipe that nobody writes to blocks, as a dead file server does; here in place of /etc/passwd.
    let fifo = std::ffi::CString::new(scratch.0.join("fifo").to_str().unwrap()).unwrap();
    in_own_mounts();
    // SAFETY: strings with their NUL.
    unsafe {
        assert_eq!(libc::mkfifo(fifo.as_ptr(), 0o644), 0);
        let bound = libc::mount(fifo.as_ptr(), c"/etc/passwd".as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null());
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    }
    let env = stage.env.clone();
    let argv = words("true");
    let spawned = spawn::spawn(&Request { user: Some("nobody"), ..plain(&argv, &env) }).unwrap();
    let state = until("the child is stuck", || {
        let wchan = std::fs::read_to_string(format!("/proc/{}/stat", spawned.pid)).unwrap();
        wchan.contains(") S ").then_some(wchan)
    });
    assert_eq!(spawn::read_launch(spawned.launch.as_fd()), spawn::LaunchProgress::Pending, "{state}");
    // SAFETY: our own child, not reaped yet.
    unsafe { libc::kill(i32::try_from(spawned.pid).unwrap(), libc::SIGKILL) };
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Signaled(Signal::KILL));
}

#[test]
fn four_hundred_at_once_keep_their_statuses() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let mut expected = Vec::new();
    for n in 0..400_i32 {
        let (script, outcome) = match n % 4 {
            0 => (format!("exit {}", n % 200), Outcome::Exited(n % 200)),
            1 => ("kill-self SIGRTMIN+5".to_owned(), Outcome::Signaled(Signal::parse("SIGRTMIN+5").unwrap())),
            2 => ("kill-self KILL".to_owned(), Outcome::Signaled(Signal::KILL)),
            _ => ("kill-self 64".to_owned(), Outcome::Signaled(Signal::parse("64").unwrap())),
        };
        let argv = actor(&script);
        let spawned = spawn::spawn(&Request { stdio: Stdio::Inherit, ..plain(&argv, &env) }).unwrap();
        expected.push((spawned.pid, outcome));
    }
    for (pid, outcome) in expected {
        assert_eq!(stage.outcome_of(pid), outcome, "{pid}");
    }
    assert_eq!(stage.dead.len(), 400);
    assert!(stage.reaper.peek().unwrap().is_none(), "no children at all is no error");
}

#[test]
fn a_dead_child_keeps_its_pid_until_it_is_let_go() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let spawned = spawn::spawn(&plain(&actor("exit 5"), &env)).unwrap();
    let stat = format!("/proc/{}/stat", spawned.pid);
    until("it is dead", || {
        let dead = stage.reaper.peek().unwrap()?;
        assert_eq!((dead.pid(), dead.outcome()), (spawned.pid, &Outcome::Exited(5)));
        assert!(std::fs::read_to_string(&stat).unwrap().contains(") Z "), "it is a zombie while we look");
        Some(())
    });
    assert!(!Path::new(&stat).exists(), "letting go reaps");
    assert!(stage.reaper.peek().unwrap().is_none());
}

#[test]
fn orphans_are_adopted_and_reaped() {
    let mut stage = Stage::new();
    let env = stage.env.clone();
    let spawned = spawn::spawn(&plain(&actor("orphans 300 exit 1"), &env)).unwrap();
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(1));
    until("all are reaped", || {
        stage.drain();
        (stage.dead.len() == 301).then_some(())
    });
}

#[test]
fn signals_arrive_with_their_sender() {
    stage::alone(signals_arrive);
}

fn signals_arrive() {
    let mut stage = Stage::new();
    let mut signals = Signals::new().unwrap();
    assert!(signals.read().unwrap().is_none());
    let env = stage.env.clone();
    let own = std::process::id();
    for name in ["TERM", "HUP", "RTMIN", "RTMAX", "TSTP"] {
        let signal = Signal::parse(name).unwrap();
        let argv: Vec<OsString> = words("sh -c").into_iter().chain([format!("kill -{} {own}", signal.number()).into()]).collect();
        let spawned = spawn::spawn(&plain(&argv, &env)).unwrap();
        let received = until(name, || signals.read().unwrap().filter(|received| received.signal.number() != libc::SIGCHLD));
        assert_eq!(
            (received.signal, received.sender_pid, received.sender_uid, received.from_kernel),
            (signal, Some(spawned.pid), 0, false)
        );
        assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(0));
    }
    while signals.read().unwrap().is_some() {}
    let spawned = spawn::spawn(&plain(&words("true"), &env)).unwrap();
    let child_died = until("SIGCHLD", || signals.read().unwrap());
    assert_eq!((child_died.signal.number(), child_died.sender_pid, child_died.from_kernel), (libc::SIGCHLD, None, true));
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Exited(0));
}

#[test]
fn a_single_program_gets_the_terminal() {
    stage::alone(terminal);
}

fn terminal() {
    let mut stage = Stage::new();
    // SAFETY: numbers and valid pointers; this process ends with the test.
    let (master, slave) = unsafe {
        let (mut master, mut slave) = (-1, -1);
        assert_eq!(libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()), 0);
        libc::setsid();
        assert_eq!(libc::ioctl(slave, libc::TIOCSCTTY, 1), 0, "a session of our own is needed");
        assert_eq!(libc::dup2(slave, 0), 0);
        (OwnedFd::from_raw_fd(master), slave)
    };
    let _signals = Signals::new().unwrap();
    let env = stage.env.clone();
    let argv = actor("sleep");
    let request = Request { stdio: Stdio::Inherit, placement: Placement::Foreground, ..plain(&argv, &env) };
    let spawned = spawn::spawn(&request).unwrap();
    launched(&spawned).unwrap();
    // SAFETY: numbers only.
    assert_eq!(u32::try_from(unsafe { libc::tcgetpgrp(slave) }).unwrap(), spawned.pid);
    // Ctrl-C.
    std::io::Write::write_all(&mut std::fs::File::from(master.try_clone().unwrap()), &[3]).unwrap();
    assert_eq!(stage.outcome_of(spawned.pid), Outcome::Signaled(Signal::INT));
}
