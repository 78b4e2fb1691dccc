//! A tmux server of its own, its windows and what is on their screens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Far more than anything here takes on a busy machine; what is not on the screen by then never will be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

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
    directory: PathBuf,
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
        let first = Window { server: name.clone(), target: "s:0".to_owned(), directory: directory.clone() };
        first.until("the shell is there", |screen| screen.starts_with("$ "));
        Self { name, directory, first }
    }

    /// Another window.
    pub(crate) fn window(&self) -> Window {
        tmux(&self.name, &["new-window", "-d", "-t", "s:1", "-c", self.directory.to_str().unwrap(), &shell(&self.directory)]);
        let window = Window { server: self.name.clone(), target: "s:1".to_owned(), directory: self.directory.clone() };
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

    /// A named pipe: who reads it waits for somebody to write.
    pub(crate) fn pipe(&self, name: &str) {
        assert!(Command::new("mkfifo").arg(self.directory.join(name)).status().unwrap().success());
    }

    /// What another terminal would ask the firstmate here.
    #[track_caller]
    pub(crate) fn firstmate(&self, words: &[&str]) {
        let output =
            Command::new(env!("CARGO_BIN_EXE_firstmate")).args(words).arg("--socket").arg(self.directory.join("s")).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
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
        let code = if text.contains("firstmate ") { "; echo code $?" } else { "" };
        self.typed(&format!("{text}{code}"));
        self.keys(&["Enter"]);
    }

    /// Types this and no more.
    pub(crate) fn typed(&self, text: &str) {
        if !text.is_empty() {
            tmux(&self.server, &["send-keys", "-t", &self.target, "-l", text]);
        }
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

    /// The whole screen with its colours is as `tests/terminal/screens/NAME.txt` has it; with `FIRSTMATE_BLESS=1` that is written anew.
    ///
    /// What is on its way there is waited for. Times, process numbers, durations, amounts of memory and the directory are masked.
    #[track_caller]
    pub(crate) fn shows(&self, name: &str) {
        // Lines that the window has broken are put together.
        self.compare(name, &["-J", "-S", "-200"]);
    }

    /// The same of a program that draws: what is in the window, as it is cut there.
    #[track_caller]
    pub(crate) fn draws(&self, name: &str) {
        self.compare(name, &[]);
    }

    #[track_caller]
    fn compare(&self, name: &str, how: &[&str]) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal/screens").join(format!("{name}.txt"));
        let look = || self.looks_like(how);
        if std::env::var_os("FIRSTMATE_BLESS").is_some() {
            // Whatever follows at once is there by then: it is so for ten looks in a row.
            let (mut before, mut same) = (look(), 0);
            while same < 10 {
                pause();
                let now = look();
                same = if now == before { same + 1 } else { 0 };
                before = now;
            }
            std::fs::write(path, before).unwrap();
            return;
        }
        let wanted =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; FIRSTMATE_BLESS=1 writes it", path.display()));
        let deadline = Instant::now() + PATIENCE;
        while look() != wanted {
            let late = Instant::now() >= deadline;
            assert!(!late, "{} says\n{wanted}\nand the screen shows\n{}\n(FIRSTMATE_BLESS=1 takes it over)", path.display(), look());
            pause();
        }
    }

    fn looks_like(&self, how: &[&str]) -> String {
        let screen = tmux(&self.server, &[&["capture-pane", "-p", "-e", "-t", &self.target], how].concat());
        let screen = screen.replace(self.directory.to_str().unwrap(), "DIR");
        let mut lines: Vec<String> = coloured(&screen).lines().map(|line| masked(line.trim_end())).collect();
        // How much memory there is, and where that is said, is another on each machine.
        lines.retain(|line| !line.contains("limit of memory"));
        // Nothing says which of two that are ready after the same delay is so first.
        for run in lines.chunk_by_mut(|one, next| [one, next].iter().all(|line| line.contains(" ready after "))) {
            run.sort();
        }
        lines.join("\n").trim_end().to_owned() + "\n"
    }

    /// Waits until the shell has said that firstmate ended with this code.
    #[track_caller]
    pub(crate) fn ended(&self, code: u8) {
        self.until("it ends", |screen| screen.contains(&format!("\ncode {code}\n")));
    }

    /// Waits until the screen is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is: impl Fn(&str) -> bool) {
        self.wait(what, || self.screen(), is);
    }

    /// Waits until what is in the window is so, as it is cut there.
    #[track_caller]
    pub(crate) fn until_drawn(&self, what: &str, is: impl Fn(&str) -> bool) {
        self.wait(what, || tmux(&self.server, &["capture-pane", "-p", "-t", &self.target]), is);
    }

    /// Waits until the kernel knows of the window's size: tmux takes its time.
    #[track_caller]
    pub(crate) fn resized(&self, columns: u16, rows: u16) {
        self.resize(columns, rows);
        let terminal = tmux(&self.server, &["display-message", "-p", "-t", &self.target, "#{pane_tty}"]);
        let size = || {
            let output = Command::new("stty").args(["-F", terminal.trim(), "size"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        self.wait("the window has its size", size, |size| size.trim() == format!("{rows} {columns}"));
    }

    #[track_caller]
    fn wait(&self, what: &str, look: impl Fn() -> String, is: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = look();
            if is(&seen) {
                return;
            }
            assert!(Instant::now() < deadline, "in vain: until {what}; there is:\n{seen}");
            pause();
        }
    }
}

/// A moment between two looks.
fn pause() {
    // SAFETY: no descriptors.
    unsafe { libc::poll(std::ptr::null_mut(), 0, 20) };
}

/// Select Graphic Rendition (ECMA-48) in a way that does not depend on tmux's version: `{32}` before what is shown so, `{}` before what is plain.
fn coloured(screen: &str) -> String {
    let (mut out, mut now, mut shown) = (String::new(), Vec::<String>::new(), String::new());
    let mut rest = screen;
    while let Some(first) = rest.chars().next() {
        if let Some(end) = rest.strip_prefix("\x1b[").and_then(|codes| codes.find(|letter: char| letter.is_ascii_alphabetic())) {
            assert_eq!(rest.as_bytes()[2 + end], b'm', "{rest:?}");
            for code in rest[2..2 + end].split(';') {
                match code {
                    "" | "0" => now.clear(),
                    // The background, which nothing here changes.
                    "49" => {}
                    "39" => now.retain(|one| !one.starts_with('3')),
                    "22" => now.retain(|one| one != "1" && one != "2"),
                    code => now.push(code.to_owned()),
                }
            }
            rest = &rest[2 + end + 1..];
            continue;
        }
        let wanted = now.join(";");
        // A blank has no colour of its own.
        if wanted != shown && !first.is_whitespace() {
            out.push_str(&format!("{{{wanted}}}"));
            shown = wanted;
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// `TIME` for times of day and `h:mm:ss`, `N` for the number of a process or a line of a program, for seconds and for bytes.
fn masked(line: &str) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = |text: &str| text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    // Where in a line a debugger stops is another place in each version of it.
    let line = line.find("-> ").map_or_else(|| line.to_owned(), |at| format!("{}-> LINE", &line[..at]));
    let (mut out, mut rest) = (String::new(), line.as_str());
    while let Some(first) = rest.chars().next() {
        let is_start = out.ends_with("^C") || !out.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '.' || last == ':');
        let length = rest.find(|letter: char| !letter.is_ascii_digit() && letter != ':').unwrap_or(rest.len());
        let parts: Vec<&str> = rest[..length].split(':').collect();
        if is_start && parts.len() >= 3 && parts.iter().take(3).all(|part| is_number(part)) {
            out.push_str("TIME");
            rest = &rest[parts.iter().take(3).map(|part| part.len()).sum::<usize>() + 2..];
            continue;
        }
        let count = if is_start { number(rest) } else { 0 };
        let after = &rest[count..];
        let unit = [" s", " ms", " min", " KiB", " MiB", " GiB", "%)"]
            .into_iter()
            .find(|unit| after.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_alphanumeric())));
        let is_named = out.ends_with("pid ") || (out.ends_with(".py(") && after.starts_with(')'));
        if count > 0 && (unit.is_some() || is_named) {
            out.push('N');
            rest = after;
            if unit == Some(" ms") {
                out.push_str(" s");
                rest = &after[3..];
            }
            continue;
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

fn tmux(server: &str, words: &[&str]) -> String {
    let output = Command::new("tmux").args(["-L", server, "-f", "/dev/null"]).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need tmux (tests/setup packages): {error}"));
    assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
