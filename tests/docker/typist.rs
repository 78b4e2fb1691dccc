//! Somebody at a terminal: types into a command in a container, and sees what is shown.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::container::{Container, until};

pub struct Typist {
    line: String,
    child: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Typist {
    /// `docker exec -it` of firstmate with these words. The keys that are Docker's own are others than those of `firstmate attach`.
    pub fn at(on: &Container, line: &str) -> Self {
        let command = format!("docker exec --detach-keys ctrl-_ -it {} firstmate {line}", on.name);
        let mut child = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot execute script; it is in bsdutils, which every Debian has");
        let keys = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&seen);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut chunk) {
                shown.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self { line: line.to_owned(), child, keys, seen, reader }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.seen.lock().unwrap()).replace('\r', "");
        text.replace('\x1b', "ESC")
    }

    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until this is at the end of what is shown, or within it.
    pub fn until(&self, part: &str) {
        until(&format!("{part:?} is shown"), || {
            let text = self.text();
            if text.contains(part) { Ok(()) } else { Err(text) }
        });
    }

    /// What was called, what it ended with, and all that was shown.
    pub fn ended(mut self) -> (String, i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        let Self { line, seen, reader, .. } = self;
        reader.join().unwrap();
        let text = String::from_utf8_lossy(&seen.lock().unwrap()).replace('\r', "").replace('\x1b', "ESC");
        (line, code, text)
    }
}
