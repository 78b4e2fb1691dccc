//! Runs that cannot begin: a named stage and errno in log and status, retried by policy, and started once the obstacle is gone.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways, until};

both_ways![
    a_failed_launch_is_named_and_retried,
    a_disk_that_hangs_holds_up_nobody_else,
    without_descriptors_launches_fail_and_recover,
    a_full_pid_cgroup_fails_launches,
];

const RETRY: &str = "essential = false\ngive_up_after = 'never'\nbackoff = { initial = '50ms', max = '50ms', jitter = 0 }\n";

/// The log and the status name the same failure, it was tried again, and nobody died of it.
#[track_caller]
fn fails(container: &Container, name: &str, why: &str) {
    let instance = format!("{name}.1");
    let at = container.told(&format!("cannot start {instance}: {why}"));
    container.told_from(at, &format!("{instance} restarts in 50 ms"));
    // Between two tries it is in backoff; the outcome stays for all of them.
    let failed = container.until(&instance, "was tried three times", |instance| instance.run > 2 && instance.last_outcome.is_some());
    let outcome = failed.last_outcome.unwrap();
    let stage_and_errno = why.split([';', '(']).next().unwrap().trim_end();
    assert!(outcome.contains(stage_and_errno), "the log says `{why}`, the status `{outcome}`");
}

fn a_failed_launch_is_named_and_retried(place: Place) {
    let services = [
        ("missing", "command = '{dir}/missing --flag'"),
        ("unfound", "command = 'no-such-program-anywhere'"),
        ("plain", "command = '{dir}/plain'"),
        ("script", "command = '{dir}/script'"),
        ("nouser", "command = '{actor} sleep'\nuser = 'nosuchuser'"),
        ("nogroup", "command = '{actor} sleep'\ngroup = 'nosuchgroup'"),
        ("shut", "command = '{actor} print in sleep'\nuser = 65534\ngroup = 65534\nworking_dir = '{dir}/shut'"),
        ("nodir", "command = '{actor} print in sleep'\nworking_dir = '{dir}/nodir'"),
        ("limit", "command = '{actor} sleep'\nlimits = { nofile = 2000000000 }"),
        ("garbage", "command = '{dir}/garbage'"),
    ];
    let mut config = "[services.bystander]\ncommand = '{actor} sleep'\n".to_owned();
    for (name, more) in services {
        config += &format!("[services.{name}]\n{more}\n{RETRY}");
    }
    let setup = Setup::new(&config)
        .place(place)
        .file("plain", 0o644, "#!/bin/sh\necho it runs; exec sleep 1000\n")
        .file("script", 0o755, "#!{dir}/no-interpreter\n")
        .file("garbage", 0o755, "this is no program\n");
    let dir = setup.dir().to_str().unwrap().to_owned();
    std::fs::create_dir(setup.dir().join("shut")).unwrap();
    std::fs::set_permissions(setup.dir().join("shut"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let container = setup.start();
    fails(&container, "missing", &format!("executing {dir}/missing: ENOENT (no such file or directory)"));
    fails(&container, "unfound", "executing no-such-program-anywhere: ENOENT (no such file or directory)");
    fails(&container, "plain", &format!("executing {dir}/plain: EACCES (permission denied)"));
    fails(
        &container,
        "script",
        &format!("executing {dir}/script, whose interpreter or dynamic loader: ENOENT (no such file or directory)"),
    );
    fails(&container, "nouser", "looking up user nosuchuser: not in /etc/passwd; check `user`");
    fails(&container, "nogroup", "looking up group nosuchgroup: not in /etc/group; check `group`");
    fails(&container, "shut", &format!("changing directory to {dir}/shut: EACCES (permission denied)"));
    fails(&container, "nodir", &format!("changing directory to {dir}/nodir: ENOENT (no such file or directory)"));
    fails(&container, "limit", "setting its limit nofile: EPERM (operation not permitted)");
    fails(&container, "garbage", &format!("executing {dir}/garbage: ENOEXEC (exec format error)"));
    // None of this is the others' matter.
    container.until_ready("bystander.1");
    // The next failure may be dead already; at some moment nobody is.
    until("nothing dead is left", || (container.zombies() == 0).then_some(()));

    // Once the obstacle is gone, the next try succeeds.
    std::fs::set_permissions(container.dir().join("plain"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(container.dir().join("shut"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(container.dir().join("nodir")).unwrap();
    std::os::unix::fs::symlink("/bin/sleep", container.dir().join("missing")).unwrap();
    container.said("plain.1", "it runs");
    container.said("shut.1", "in");
    container.said("nodir.1", "in");
    for name in ["plain.1", "shut.1", "nodir.1"] {
        container.until_ready(name);
    }
    // sleep(1) does not know `--flag`: this one fails for a reason of its own now.
    container.told("missing.1 exited with code 1");
    assert_eq!(container.stop(), 0);
}

#[test]
fn an_essential_service_that_cannot_start_ends_the_container_with_127_or_126() {
    for (command, code) in [("{dir}/missing", 127), ("{dir}/plain", 126)] {
        let config = format!("[services.web]\ncommand = '{command}'\ngive_up_after = 2\nbackoff = {{ initial = '20ms' }}");
        let container = Setup::new(&config).file("plain", 0o644, "").start();
        assert_eq!(container.code(), code);
        let last = container.lines().pop().unwrap().text;
        assert!(last.contains("essential web.1 was given up after 2 consecutive failed runs, the last: executing "), "{last}");
    }
}

fn without_descriptors_launches_fail_and_recover(place: Place) {
    let mut config = String::new();
    for number in 0..20 {
        config += &format!("[services.s{number}]\ncommand = '{{actor}} print up sleep'\n{RETRY}");
    }
    let container = Setup::new(&config).place(place).nofile(24).start();
    let failure = "cannot start s19.1: creating its pipes: EMFILE (too many open files); raise the limit of open files";
    let at = container.told(failure);
    // It goes on trying, and those that were first do not suffer.
    container.told_from(at, "s19.1 restarts in 50 ms");
    container.told_from(at + 1, failure);
    container.said("s0.1", "up");
    let limit = libc::rlimit { rlim_cur: 512, rlim_max: 1024 };
    // SAFETY: a whole rlimit; the old one is not asked for.
    assert_eq!(unsafe { libc::prlimit(container.pid(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }, 0);
    for number in 0..20 {
        container.said(&format!("s{number}.1"), "up");
        container.until_ready(&format!("s{number}.1"));
    }
    assert_eq!(container.stop(), 0);
}

/// A cgroup of the v1 pids controller that goes at the end.
struct PidsCgroup(PathBuf);

impl PidsCgroup {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounted = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, place, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup" && options.split(',').any(|option| option == "pids")).then(|| place.to_owned())
        });
        let root = mounted.expect("this test needs the pids controller of cgroup v1 mounted, as at /sys/fs/cgroup/pids");
        let path = PathBuf::from(root).join(format!("firstmate-box-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::OpenOptions::new().write(true).open(self.0.join(file)).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for PidsCgroup {
    fn drop(&mut self) {
        // The container's processes may take a moment to be gone.
        until("the cgroup is empty", || std::fs::remove_dir(&self.0).ok());
    }
}

fn a_full_pid_cgroup_fails_launches(place: Place) {
    let cgroup = PidsCgroup::new();
    let config = format!(
        "[services.early]\ncommand = '{{actor}} print up sleep'\n[services.late]\nautostart = false\ncommand = '{{actor}} print up sleep'\n{RETRY}"
    );
    let container = Setup::new(&config).place(place).start();
    container.said("early.1", "up");
    cgroup.write("cgroup.procs", &container.pid().to_string());
    // firstmate itself; its first service is elsewhere.
    cgroup.write("pids.max", "1");
    let (code, out, _) = container.cli(&["start", "late"]);
    assert_eq!(code, 1);
    assert!(out.contains("cannot start: creating its process: EAGAIN (try again)"), "{out}");
    fails(&container, "late", "creating its process: EAGAIN (try again); raise the container's limit of processes");
    container.until_ready("early.1");
    cgroup.write("pids.max", "max");
    container.said("late.1", "up");
    container.until_state("late.1", StateName::Running);
    assert_eq!(container.stop(), 0);
    drop(container);
}

/// Looking up a user, entering a directory and executing a file may each wait for a disk that does not answer. Here it is /etc/passwd: a
/// FIFO in its place lets whoever opens it wait for ever.
fn a_disk_that_hangs_holds_up_nobody_else(place: Place) {
    let container = Setup::new(
        "
        [services.slow]
        command = '{actor} sleep'
        user = 'nobody'
        autostart = false
        start_timeout = '1s'
        give_up_after = 'never'
        backoff = { initial = '50ms', max = '50ms' }
        [services.crashing]
        command = '{actor} exit 3'
        give_up_after = 'never'
        backoff = { initial = '20ms', max = '20ms' }
        ",
    )
    .place(place)
    .start();
    let run = |script: &str| assert!(container.foreign(&["sh", "-c", script]).status().unwrap().success(), "{script}");
    let fifo = container.dir().join("passwd").to_str().unwrap().to_owned();
    run(&format!("mkfifo {fifo} && mount --bind {fifo} /etc/passwd"));
    let before = container.instance("crashing.1").run;
    let (code, _, _) = container.cli(&["start", "slow"]);
    assert_eq!(code, 1, "it cannot have started");
    container.told("slow.1 not ready within 1 s (`start_timeout`), ending it: its program was not executed");
    // A second of a loop that turns: some forty runs of 20 ms and the time a run takes.
    let during = container.instance("crashing.1").run - before;
    assert!(during >= 8, "while one launch hung, another service had only {during} runs");
    run("umount /etc/passwd");
    container.until_ready("slow.1");
}
