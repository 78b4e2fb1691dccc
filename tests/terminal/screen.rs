//! A tmux server of its own, its windows and what is on their screens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Far more than anything here takes on a busy machine; what is not on the screen by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory, and a tmux server that goes with it.
#[derive(Debug)]
pub(crate) struct Session {
    name: String,
    directory: PathBuf,
    first: Window,
}

/// A window with a shell in it, which says the exit code of every command.
#[derive(Debug)]
pub(crate) struct Window {
    server: String,
    target: String,
}

impl Session {
    /// With one window of 110 by 30 characters.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("firstmate-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from(format!("/tmp/{name}"));
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_firstmate"), directory.join("firstmate")).unwrap();
        let shell = shell(&directory);
        let there = directory.to_str().unwrap();
        tmux(&name, &["new-session", "-d", "-s", "s", "-x", "110", "-y", "30", "-c", there, &shell]);
        let first = Window { server: name.clone(), target: "s:0".to_owned() };
        first.until("the shell is there", |screen| screen.starts_with("$ "));
        Self { name, directory, first }
    }

    /// Another window.
    pub(crate) fn window(&self) -> Window {
        tmux(&self.name, &["new-window", "-d", "-t", "s:1", "-c", self.directory.to_str().unwrap(), &shell(&self.directory)]);
        let window = Window { server: self.name.clone(), target: "s:1".to_owned() };
        window.until("the shell is there", |screen| screen.starts_with("$ "));
        window
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file that may be executed.
    pub(crate) fn file(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Sends a signal to the process whose number is in the file.
    pub(crate) fn signal(&self, file: &str, signal: &str) {
        let pid = std::fs::read_to_string(self.directory.join(file)).unwrap();
        assert!(Command::new("kill").args(["-s", signal, pid.trim()]).status().unwrap().success());
    }

    /// SIGKILL to firstmate itself, and to what it leaves behind.
    pub(crate) fn kill_firstmate(&self) {
        let status =
            Command::new(env!("CARGO_BIN_EXE_firstmate")).args(["status", "--json", "--socket"]).arg(self.directory.join("s")).output();
        let status: serde_json::Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
        let own = status["pid"].as_u64().unwrap();
        let services = status["services"].as_array().unwrap().iter().flat_map(|service| service["instances"].as_array().unwrap());
        let pids: Vec<u64> = services.filter_map(|instance| instance["pid"].as_u64()).collect();
        for pid in std::iter::once(own).chain(pids) {
            // A service may have ended with its terminal.
            let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).output().unwrap();
        }
    }
}

/// What a window runs: a shell with nothing of the tester's own in it.
fn shell(directory: &Path) -> String {
    format!("env -i PATH={}:/usr/local/bin:/usr/bin:/bin TERM=$TERM HOME=/nonexistent LANG=C.UTF-8 PS1='$ ' sh -i", directory.display())
}

impl std::ops::Deref for Session {
    type Target = Window;

    fn deref(&self) -> &Window {
        &self.first
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the first screen:\n{}\n---", self.first.screen());
        }
        // Whatever still runs goes with its terminal; firstmate is asked first, so that it takes its services along.
        let mut shutdown = Command::new(env!("CARGO_BIN_EXE_firstmate"));
        let _ = shutdown.args(["shutdown", "--timeout", "5", "--socket"]).arg(self.directory.join("s")).output();
        let _ = Command::new("tmux").args(["-L", &self.name, "kill-server"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Window {
    /// Types a line and Enter. A shell says the exit code of a firstmate after it.
    pub(crate) fn line(&self, text: &str) {
        let text = if text.contains("firstmate ") { format!("{text}; echo code $?") } else { text.to_owned() };
        if !text.is_empty() {
            tmux(&self.server, &["send-keys", "-t", &self.target, "-l", &text]);
        }
        self.keys(&["Enter"]);
    }

    /// Presses keys, by tmux's names for them.
    pub(crate) fn keys(&self, keys: &[&str]) {
        let mut words = vec!["send-keys", "-t", &self.target];
        words.extend(keys);
        tmux(&self.server, &words);
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        tmux(&self.server, &["resize-window", "-t", &self.target, "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What a person sees, lines that the window has broken put together.
    pub(crate) fn screen(&self) -> String {
        tmux(&self.server, &["capture-pane", "-p", "-J", "-S", "-200", "-t", &self.target])
    }

    /// The same by line, times and numbers masked.
    pub(crate) fn masked(&self) -> Vec<String> {
        self.screen().lines().map(|line| masked(line.trim_end())).collect()
    }

    /// The same with colours, as escape sequences.
    pub(crate) fn coloured(&self) -> Vec<String> {
        tmux(&self.server, &["capture-pane", "-p", "-e", "-J", "-t", &self.target]).lines().map(|line| masked(line.trim_end())).collect()
    }

    /// Waits until the shell has said that firstmate ended with this code.
    #[track_caller]
    pub(crate) fn ended(&self, code: u8) {
        self.until("it ends", |screen| screen.contains(&format!("\ncode {code}\n")));
    }

    /// Waits until the screen is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is(&screen) {
                return;
            }
            assert!(Instant::now() < deadline, "in vain: until {what}; the screen:\n{screen}");
            // SAFETY: no descriptors; a moment between two looks.
            unsafe { libc::poll(std::ptr::null_mut(), 0, 20) };
        }
    }
}

/// `TIME` for a time of day, `N s` for a duration, `pid N`.
fn masked(line: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let bare = word.trim_end_matches([',', ':']);
        match out.last().map(String::as_str) {
            Some("N") if word.trim_end_matches([',', ':']) == "ms" => out.push(word.replace("ms", "s")),
            // A code, a number of a thing, is what it is.
            Some("code") => out.push(word.to_owned()),
            _ if is_number(bare) => out.push(word.replace(bare, "N")),
            _ => out.push(word.to_owned()),
        }
    }
    let text = out.join(" ");
    // hh:mm:ss, wherever it stands: a colour, or `^C`, may come before it.
    let bytes = text.as_bytes();
    let is_time = |at: usize| {
        bytes.get(at..at + 8).is_some_and(|part| {
            part.iter().enumerate().all(|(index, byte)| if index == 2 || index == 5 { *byte == b':' } else { byte.is_ascii_digit() })
        })
    };
    match (0..bytes.len()).find(|at| is_time(*at)) {
        Some(at) => format!("{}TIME{}", &text[..at], &text[at + 8..]),
        None => text,
    }
}

fn tmux(server: &str, words: &[&str]) -> String {
    let output = Command::new("tmux").args(["-L", server, "-f", "/dev/null"]).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need tmux (tests/setup packages): {error}"));
    assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
