//! Every way the command line says no, in one file: `errors.txt`. Each is a command, its exit code, and what is on stderr.
//!
//! With FIRSTMATE_BLESS set the file is written instead; read its diff. A section begins with `## ` and the surroundings its commands run in.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "the stand is shared between test files, each of which uses a part")]

mod stand;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use firstmate::server::Reply;
use stand::{Directory, Stand, stack};

/// Where the commands of a section run.
struct Surroundings {
    directory: Directory,
    socket: Option<std::ffi::OsString>,
    /// Of nobody, else of the test: root.
    as_nobody: bool,
    _stand: Option<Stand>,
}

impl Surroundings {
    fn new(name: &str) -> Self {
        let directory = Directory::new();
        let place = directory.path().join("firstmate.sock");
        let plain = |directory, socket: std::ffi::OsString| Self { directory, socket: Some(socket), as_nobody: false, _stand: None };
        let behind = |directory, stand: Stand, as_nobody| Self {
            directory,
            socket: Some(stand.socket.to_os_string()),
            as_nobody,
            _stand: Some(stand),
        };
        let done = Reply::Done { instances: vec![] };
        match name {
            "nobody there" => plain(directory, place.into()),
            "nobody listens any more" => {
                drop(UnixListener::bind(&place).unwrap());
                plain(directory, place.into())
            }
            "something else listens" => {
                let listener = UnixListener::bind(&place).unwrap();
                std::thread::spawn(move || {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let _ = stream.read(&mut [0; 4096]);
                        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
                    }
                });
                plain(directory, place.into())
            }
            "a stack runs" => behind(directory, Stand::answering(stack(), done), false),
            "a stack is stopping" => {
                let why = "firstmate is stopping".to_owned();
                behind(directory, Stand::answering(stack(), Reply::Refused { why }), false)
            }
            "another user's stack runs" => behind(directory, Stand::answering(stack(), done), true),
            "another user's directory" => {
                let closed = directory.path().join("closed");
                std::fs::create_dir(&closed).unwrap();
                std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
                Self { as_nobody: true, ..plain(directory, closed.join("firstmate.sock").into()) }
            }
            "another user's socket" => {
                // Kept by the backlog: the listener is closed when the test ends.
                let listener = UnixListener::bind(&place).unwrap();
                std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600)).unwrap();
                std::mem::forget(listener);
                Self { as_nobody: true, ..plain(directory, place.into()) }
            }
            "a bad file" => {
                let text = "[services.web]\ncommand = \"x\"\nstop_signal = \"TREM\"\ndepends_on = [\"db\"]\nrestrat = \"no\\u001b[2J\"\n[services.bd]\ncommand = \"\"\n";
                std::fs::write(directory.path().join("firstmate.toml"), text).unwrap();
                plain(directory, place.into())
            }
            "no file" => plain(directory, place.into()),
            other => panic!("no surroundings are called {other}"),
        }
    }

    /// The exit code and stderr of a command line; `\e` in it is an escape character, `\n` a line feed.
    fn run(&self, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(|word| word.replace("\\e", "\x1b").replace("\\n", "\n")).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstmate"));
        command.args(&words[1..]).env_clear().current_dir(self.directory.path()).stdin(Stdio::null());
        command.envs(self.socket.as_ref().map(|socket| ("FIRSTMATE_SOCKET", socket)));
        if self.as_nobody {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let socket = self.socket.as_ref().unwrap().to_str().unwrap();
        let text = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(socket, "SOCKET").replace(self.directory.path().to_str().unwrap(), "DIRECTORY")
        };
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!out.contains('\x1b') && !err.contains('\x1b'), "{line}: {out}{err}");
        let stdout = if out.is_empty() { String::new() } else { format!("(stdout) {out}") };
        format!("{}exit code {}\n{stdout}", err, output.status.code().unwrap())
    }
}

#[test]
fn every_error_is_told_exactly_so() {
    assert!(nix::unistd::geteuid().is_root(), "only root can become another user, as some of these commands do");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors.txt");
    let written = std::fs::read_to_string(&fixture).unwrap();
    let mut actual = String::new();
    let mut surroundings: Option<Surroundings> = None;
    let mut commands = 0;
    for line in written.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            surroundings = Some(Surroundings::new(name));
            let _ = write!(actual, "{}{line}\n\n", if actual.is_empty() { "" } else { "\n" });
        } else if let Some(command) = line.strip_prefix("$ ") {
            let first = if actual.ends_with("\n\n") { "" } else { "\n" };
            let _ = write!(actual, "{first}{line}\n{}", surroundings.as_ref().unwrap().run(command));
            commands += 1;
        }
    }
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(&fixture, &actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&fixture).unwrap());
    assert!(commands >= 30, "{commands}");
}
