//! What /proc says about processes, with the pids of the test's own PID namespace.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    pub name: String,
    pub zombie: bool,
    /// Its pid in its own namespace.
    pub inner: u32,
    /// `token:web.1:3`, the value of `FIRSTMATE_RUN`; `None` when there is none or the program wrote its title over it.
    pub run: Option<String>,
}

/// Every process of the machine.
pub fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

/// Every process below that one, without it.
pub fn below(root: i32) -> Vec<Process> {
    let mut by_parent: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all() {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = by_parent.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let children = by_parent.remove(&process.pid).unwrap_or_default();
        found.extend(children);
        next += 1;
    }
    found
}

/// `None` once it is gone.
pub fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold any character.
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()?;
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let run = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"FIRSTMATE_RUN="));
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        name: head.split_once(" (")?.1.to_owned(),
        zombie: matches!(*fields.first()?, "Z" | "X"),
        inner,
        run: run.and_then(|value| std::str::from_utf8(value).ok()?.rsplit(' ').next().map(str::to_owned)),
    })
}

/// As `kill`; one that has gone by itself meanwhile is as good.
pub fn kill_if_there(pid: i32, signal: i32) {
    if read(pid).is_some_and(|process| !process.zombie) {
        // SAFETY: a process of the test's own.
        let sent = unsafe { libc::kill(pid, signal) };
        let error = std::io::Error::last_os_error();
        assert!(sent == 0 || error.raw_os_error() == Some(libc::ESRCH), "cannot signal {pid}: {error}");
    }
}

pub fn kill(pid: i32, signal: i32) {
    assert!(pid > 1, "{pid} is nobody to be signalled");
    // SAFETY: a process of the test's own.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "cannot signal {pid}: {}", std::io::Error::last_os_error());
}
