//! As a person at a terminal has it: `examples/all-in-one/run` (what `make run` runs), the page, Ctrl-C. firstmate is not PID 1 here, but
//! the adopter of what its services leave behind.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use super::client::{Got, get};
use super::firstmate::{assert_order, binary, said};
use super::processes;
use super::sandbox::{Sandbox, until, until_true};
use super::stack::{PORT, PROGRAMS, run_script};

/// A terminal with the script in its foreground.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// `prefix` are the words in front of the script's path.
    fn run(prefix: &[&str], script: &Path, binary: &Path, directory: &Path) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut words = prefix.iter().map(Path::new).chain([script, binary]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env_clear()
            // As a normal user of Debian has it.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("TERM", "xterm")
            .env("STACK_DIR", directory)
            .env("STACK_INSTALL", "0")
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(pty.slave.try_clone().unwrap())
            .stderr(pty.slave);
        // SAFETY: setsid, ioctl and prctl are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                // What Ctrl-C on it says, it says to us.
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                // firstmate stops its services when the test dies.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        // With the command go the test's own ends of the terminal's side.
        drop(command);
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut output, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal is an error: EIO.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keyboard, screen }
    }

    /// What it shows, colours removed.
    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.screen.lock().unwrap()).replace('\r', "");
        let mut parts = text.split("\x1b[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |plain, part| plain + part.split_once('m').map_or("", |(_, rest)| rest))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.shown());
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            processes::kill(self.pid(), libc::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Up, the page, a killed master, Ctrl-C.
fn comes_up_and_goes(prefix: &[&str], script: &Path, binary: &Path, directory: &Path) {
    let mut terminal = Terminal::run(prefix, script, binary, directory);
    let pid = terminal.pid();
    let ready = |name: &str| {
        until_true(&format!("{name} is ready"), || terminal.shown().contains(&format!("{name} ready after")));
    };
    ["nginx.1", "worker.1", "worker.2"].into_iter().for_each(ready);
    assert!(terminal.shown().contains("run: the page will be at http://127.0.0.1:8080/"));
    let Got::Answer(200, page) = get(PORT, "/?plain=1") else { panic!("no page") };
    assert!(page.contains("visits 1\n") && page.contains(&format!("supervisor_pid {pid}\n")), "{page}");

    // Who belongs to this stack is known by the token of this firstmate, and by the sessions of its runs.
    let services = processes::below(pid);
    let token = services.iter().find_map(|process| process.run.as_ref()?.split(':').next().map(str::to_owned)).unwrap();
    let master = services.iter().find(|process| process.parent == pid && process.name == "nginx").unwrap();
    processes::kill(master.pid, libc::SIGKILL);
    until_true("nginx is replaced", || terminal.shown().matches("nginx.1 ready after").count() == 2);
    until("the page answers", || match get(PORT, "/?plain=1") {
        Got::Answer(200, _) => Ok(()),
        other => Err(format!("{other:?}\n{}", terminal.shown())),
    });
    let sessions: Vec<i32> = processes::below(pid).iter().chain(&services).map(|process| process.session).collect();

    // A second start must not touch what runs.
    let again = Command::new(script).arg(binary).env("STACK_DIR", directory).env("STACK_INSTALL", "0").output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("a stack runs from"));

    terminal.keyboard.write_all(b"\x03").unwrap();
    let status = until("firstmate is gone", || terminal.child.try_wait().unwrap().ok_or_else(|| terminal.shown()));
    assert_eq!(status.code(), Some(0), "{}", terminal.shown());
    until_true("the last line is shown", || terminal.shown().contains("ended with code 0: SIGINT received\n"));
    let said: Vec<String> = said(&terminal.shown().replace("^C", ""));
    assert_order(&said, &["stopping everything within 8 s: SIGINT received", "nginx.1 stopped", "stopping php-fpm.1", "php-fpm.1 stopped"]);
    for earlier in ["php-fpm.1", "worker.1", "worker.2"] {
        assert_order(&said, &[&format!("{earlier} stopped"), "stopping redis.1", "redis.1 stopped", "ended with code 0"]);
    }
    let left: Vec<_> = processes::all()
        .into_iter()
        .filter(|process| sessions.contains(&process.session) || process.run.as_ref().is_some_and(|run| run.starts_with(&token)))
        .collect();
    assert_eq!(left, []);
}

#[test]
fn root_presses_ctrl_c() {
    let sandbox = Sandbox::new("terminal", &PROGRAMS);
    comes_up_and_goes(&[], &run_script(), &binary(), &sandbox.path().join("stack"));
}

#[test]
fn a_normal_user_presses_ctrl_c() {
    let sandbox = Sandbox::new("user", &PROGRAMS);
    // Where the checkout is, another user need not be able to go.
    let example = sandbox.copy_of(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/all-in-one"), "example");
    let copy = sandbox.path().join("firstmate");
    std::fs::copy(binary(), &copy).unwrap();
    let directory = sandbox.path().join("stack");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).unwrap();
    let user = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    comes_up_and_goes(&user, &example.join("run"), &copy, &directory);
    let others = Command::new("find").arg(&directory).args(["-not", "-user", "65534"]).output().unwrap();
    assert_eq!(String::from_utf8(others.stdout).unwrap(), "", "everything belongs to that user");
}
