//! A child with scripted manners, for tests: it does what its arguments say, one after the other, and exits 0 at their end.
//!
//! `print TEXT` `print-error TEXT` `lines N` `print-env NAME` `print-fds` `print-signals` `print-ids` `print-cwd` `print-pid`
//! `print-status FIELD` · `reopen-stdout TEXT` · `ignore SIGNAL` `default SIGNAL` `ignore-term` `block SIGNAL` · `exit N`
//! `kill-self SIGNAL` `sleep` `sleep-ms N` · `daemonise` (the rest is done by a grandchild in a session of its own) · `orphans N` (N
//! grandchildren that end at once) · `child ACTIONS... end` (a child does these; wait for none) · `setsid` · `rename NAME` ·
//! `wipe-env` (as setproctitle does) · `hide` (nobody may look into it) · `write-pid FILE` · `listen PORT` (accepts and says `ok`)

use std::ffi::CString;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use firstmate::engine::Signal;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    words.reverse();
    match act(words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("actor: {error}");
            ExitCode::from(99)
        }
    }
}

/// `script` is last word first.
fn act(mut script: Vec<String>) -> Result<u8, Failure> {
    while let Some(verb) = script.pop() {
        let mut word = || script.pop().ok_or_else(|| format!("`{verb}` needs a word after it"));
        match verb.as_str() {
            "print" => say(&word()?)?,
            "print-error" => writeln!(io::stderr(), "{}", word()?)?,
            "lines" => {
                for n in 0..word()?.parse::<u64>()? {
                    say(&format!("line {n}"))?;
                }
            }
            "print-env" => say(&std::env::var(word()?).unwrap_or_else(|_| "(unset)".to_owned()))?,
            "print-fds" => say(&descriptors()?)?,
            "print-signals" => {
                for field in ["SigBlk", "SigIgn", "SigCgt"] {
                    say(&status(field)?)?;
                }
            }
            "print-ids" => {
                for field in ["Uid", "Gid", "Groups"] {
                    say(&status(field)?)?;
                }
            }
            "print-status" => say(&status(&word()?)?)?,
            "print-cwd" => say(&std::env::current_dir()?.to_string_lossy())?,
            "print-pid" => say(&std::process::id().to_string())?,
            "reopen-stdout" => {
                let mut file = std::fs::OpenOptions::new().write(true).open("/dev/stdout")?;
                writeln!(file, "{}", word()?)?;
            }
            "ignore-term" => set_action(libc::SIGTERM, libc::SIG_IGN),
            "ignore" => set_action(signal(&word()?)?, libc::SIG_IGN),
            "default" => set_action(signal(&word()?)?, libc::SIG_DFL),
            "block" => {
                let set = 1_u64.wrapping_shl(signal(&word()?)?.unsigned_abs().saturating_sub(1));
                // SAFETY: a kernel signal set of the size said.
                unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const set, std::ptr::null::<u64>(), 8) };
            }
            "exit" => return Ok(word()?.parse()?),
            "kill-self" => {
                let number = signal(&word()?)?;
                // SAFETY: numbers only.
                unsafe { libc::kill(libc::getpid(), number) };
            }
            "sleep" => loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            },
            "sleep-ms" => {
                let wait = word()?.parse()?;
                // SAFETY: no descriptors, so none are looked at.
                unsafe { libc::poll(std::ptr::null_mut(), 0, wait) };
            }
            "daemonise" => {
                if fork()? {
                    return Ok(0);
                }
                new_session()?;
                if fork()? {
                    return Ok(0);
                }
            }
            "setsid" => new_session()?,
            "orphans" => {
                let count: u32 = word()?.parse()?;
                for _ in 0..count {
                    if !fork()? {
                        fork()?;
                        return Ok(0);
                    }
                    // SAFETY: no status is asked for. Our own child, and not firstmate's: this is not firstmate.
                    unsafe { libc::syscall(libc::SYS_wait4, -1, std::ptr::null::<i32>(), 0, 0) };
                }
            }
            "child" => {
                let mut depth = 1_u32;
                let mut actions = Vec::new();
                while depth > 0 {
                    let next = script.pop().ok_or("`child` needs an `end`")?;
                    match next.as_str() {
                        "child" => depth = depth.saturating_add(1),
                        "end" => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    actions.push(next);
                }
                actions.pop();
                if !fork()? {
                    actions.reverse();
                    script = actions;
                }
            }
            // An `end` that was not taken away by its `child` ends nothing.
            "end" => return Err("`end` without `child`".into()),
            "rename" => {
                let name = CString::new(word()?)?;
                // SAFETY: a string with its NUL; the kernel takes 15 bytes of it.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
            }
            "wipe-env" => wipe_environment()?,
            // SAFETY: numbers only.
            "hide" => drop(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }),
            "write-pid" => {
                let path = word()?;
                let unfinished = format!("{path}.new");
                std::fs::write(&unfinished, std::process::id().to_string())?;
                std::fs::rename(unfinished, path)?;
            }
            "listen" => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, word()?.parse()?))?;
                say("listening")?;
                for stream in listener.incoming() {
                    // A visitor who has gone again is no reason to stop.
                    let _ = stream?.write_all(b"ok\n");
                }
            }
            _ => return Err(format!("`{verb}` is not in my script").into()),
        }
    }
    Ok(0)
}

/// One write a line, so that processes sharing a pipe do not mix theirs.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(format!("{text}\n").as_bytes())?;
    out.flush()
}

fn signal(name: &str) -> Result<i32, Failure> {
    Ok(Signal::parse(name).ok_or_else(|| format!("`{name}` is no signal"))?.number())
}

fn set_action(signal: i32, action: libc::sighandler_t) {
    // SAFETY: no handler of ours runs, only the kernel's own actions.
    unsafe { libc::signal(signal, action) };
}

/// True in the parent.
fn fork() -> io::Result<bool> {
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid != 0),
    }
}

fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    if unsafe { libc::setsid() } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn status(field: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).ok_or("no such field")?;
    Ok(format!("{field}: {}", value.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn descriptors() -> Result<String, Failure> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The one that reads the directory is among them and gone when looked at.
        if let (Ok(target), Some(name)) = (std::fs::read_link(&path), path.file_name())
            && !target.starts_with("/proc")
        {
            let target = target.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
            open.push(format!("{}={target}", name.to_string_lossy()));
        }
    }
    open.sort();
    Ok(open.join(" "))
}

/// Overwrites the memory that /proc/self/environ shows, fields 50 and 51 of /proc/self/stat.
fn wipe_environment() -> Result<(), Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = rest.split_whitespace().skip(47).map(str::parse::<usize>);
    let (start, end) = (fields.next().ok_or("field 50")??, fields.next().ok_or("field 51")??);
    // SAFETY: the kernel says that these bytes are our environment; nobody reads it after this.
    unsafe { std::ptr::write_bytes(start as *mut u8, 0, end.saturating_sub(start)) };
    Ok(())
}
