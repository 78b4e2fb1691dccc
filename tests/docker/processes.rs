//! The processes of a container as the host sees them; see proc(5) and pid_namespaces(7).

use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Process {
    /// On the host.
    pub outer: i32,
    /// In the container.
    pub inner: u32,
    /// On the host; 0 for whoever came in from outside, as docker exec does.
    pub parent: i32,
    pub name: String,
    pub uid: u32,
    pub zombie: bool,
    /// Clock ticks after boot: with the pid, its identity.
    pub started: u64,
    /// The value of FIRSTMATE_RUN, where it is there and readable.
    pub run: Option<String>,
}

/// Everybody in the PID namespace of `init`, itself included.
pub fn of_namespace(init: i32) -> Vec<Process> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(init) else { return Vec::new() };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let mut all: Vec<Process> = pids.filter(|&pid| namespace(pid).as_ref() == Some(&own)).filter_map(read).collect();
    let outers: Vec<i32> = all.iter().map(|process| process.outer).collect();
    for process in &mut all {
        if !outers.contains(&process.parent) {
            process.parent = 0;
        }
    }
    all
}

fn read(pid: i32) -> Option<Process> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    let first = |name: &str| field(name)?.split_whitespace().next();
    let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
    let environment = std::fs::read(directory.join("environ")).unwrap_or_default();
    let marker = environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"FIRSTMATE_RUN="));
    Some(Process {
        outer: pid,
        inner: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
        parent: first("PPid")?.parse().ok()?,
        name: field("Name")?.to_owned(),
        uid: first("Uid")?.parse().ok()?,
        zombie: first("State")? == "Z",
        // The name may hold blanks and parentheses: count from the last one.
        started: stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?,
        run: marker.map(|value| String::from_utf8_lossy(value).into_owned()),
    })
}

/// The forefather of `process` that is a child of `init`, or of nobody in the container.
pub fn topmost<'a>(process: &'a Process, all: &'a [Process], init: i32) -> &'a Process {
    let mut top = process;
    while top.parent != init {
        match all.iter().find(|other| other.outer == top.parent) {
            Some(parent) => top = parent,
            None => break,
        }
    }
    top
}
