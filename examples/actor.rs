//! A child with scripted manners, for tests: it does what its arguments say, one after the other, and exits 0 at their end.
//!
//! `print TEXT` `print-error TEXT` `lines N` `print-env NAME` `print-fds` `print-signals` `print-ids` `print-cwd` `print-pid`
//! `print-status FIELD` · `reopen-stdout TEXT` · `ignore SIGNAL` `default SIGNAL` `ignore-term` `block SIGNAL` · `exit N`
//! `kill-self SIGNAL` `sleep` `sleep-ms N` · `daemonise` (the rest is done by a grandchild in a session of its own) · `orphans N` (N
//! grandchildren that end at once) · `child ACTIONS... end` (a child does these; wait for none) · `setsid` · `rename NAME` ·
//! `wipe-env` (as setproctitle does) · `hide` (nobody may look into it) · `write-pid FILE` · `listen PORT` (accepts and says `ok`) ·
//! `bind PORT` (holds it, children too) · `serve PORT FILE` (HTTP: 200 while the file exists, otherwise 503) · `wait-file FILE` (until
//! it exists) · `print-raw TEXT` (no line end) `long N` (a line of so many bytes) `flood` (lines for ever, as fast as can be) ·
//! `orphans-at-once N` (dead ones, all handed over in one moment) · `print-received SIGNAL` (each signal that comes, up to that one) ·
//! `print-tty` · `answer ADDRESS FILE` (to every question with what is in the file, and hangs up; says nothing while there is none; prints
//! how many visitors are there at once; ADDRESS is a port, the path of a socket, or `@NAME`) · `full ADDRESS` (a queue that takes nobody) ·
//! `pace N MS` (N lines a second for so long, each of 100 bytes, numbered) · `notify TEXT` (to $NOTIFY_SOCKET; `\n` is a newline, `%p` its pid) `notify-to ADDRESS TEXT` `notify-barrier` (and says so once it is
//! passed) `ping MS FILE` (WATCHDOG=1 every so often while the file exists) · `write-fd N TEXT` `close-fd N`

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

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

/// Lines at a steady rate, a millisecond's worth at a time.
fn pace(per_second: u64, time: Duration) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    let all = per_second.saturating_mul(u64::try_from(time.as_millis())?) / 1000;
    let mut written = 0;
    while written < all {
        let due = per_second.saturating_mul(u64::try_from(began.elapsed().as_micros())?) / 1_000_000;
        let mut text = String::new();
        while written < due.min(all) {
            text += &format!("{:.<99}\n", format!("line {written} "));
            written += 1;
        }
        io::stdout().write_all(text.as_bytes())?;
        // SAFETY: no descriptors.
        unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
    }
    Ok(())
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
            "pace" => pace(word()?.parse()?, Duration::from_millis(word()?.parse()?))?,
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
            "bind" => {
                // Held until the last process that has it is gone; nobody accepts.
                std::mem::forget(TcpListener::bind((Ipv4Addr::LOCALHOST, word()?.parse()?))?);
                say("bound")?;
            }
            "serve" => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, word()?.parse()?))?;
                let file = word()?;
                say("serving")?;
                for stream in listener.incoming() {
                    // A visitor who has gone again is no reason to stop.
                    let _ = answer(stream?, std::fs::exists(&file)?);
                }
            }
            "answer" => {
                let listener = listener(&word()?, 128)?;
                answer_visitors(listener, &word()?)?;
            }
            "full" => std::mem::forget(full(&word()?)?),
            "wait-file" => {
                let file = word()?;
                while !std::fs::exists(&file)? {
                    // SAFETY: no descriptors, so none are looked at.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, 5) };
                }
            }
            "print-raw" => {
                io::stdout().write_all(word()?.as_bytes())?;
                io::stdout().flush()?;
            }
            "long" => say(&"x".repeat(word()?.parse()?))?,
            "flood" => {
                let mut out = io::BufWriter::with_capacity(16 * 1024, io::stdout());
                for n in 0_u64.. {
                    writeln!(out, "flood {n}")?;
                }
            }
            "orphans-at-once" => orphans_at_once(word()?.parse()?)?,
            "print-received" => print_received(signal(&word()?)?)?,
            "print-tty" => {
                // SAFETY: numbers only.
                let (tty, foreground) = unsafe { (libc::isatty(0) == 1, libc::tcgetpgrp(0) == libc::getpgrp()) };
                say(&format!("tty {tty}, foreground {foreground}"))?;
            }
            "notify" => notify(&std::env::var("NOTIFY_SOCKET")?, &word()?)?,
            "notify-to" => notify(&word()?, &word()?)?,
            "notify-barrier" => {
                notify_barrier(&std::env::var("NOTIFY_SOCKET")?)?;
                say("passed the barrier")?;
            }
            "ping" => {
                let wait = word()?.parse()?;
                let file = word()?;
                while std::fs::exists(&file)? {
                    notify(&std::env::var("NOTIFY_SOCKET")?, "WATCHDOG=1")?;
                    // SAFETY: no descriptors, so none are looked at.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, wait) };
                }
            }
            "write-fd" => {
                let fd = word()?.parse()?;
                let text = word()?.replace("\\n", "\n");
                // SAFETY: `text` has that many bytes.
                if unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) } == -1 {
                    return Err(io::Error::last_os_error().into());
                }
            }
            "close-fd" => {
                let fd = word()?.parse()?;
                // SAFETY: numbers only; this program has no other use for it.
                unsafe { libc::close(fd) };
            }
            _ => return Err(format!("`{verb}` is not in my script").into()),
        }
    }
    Ok(0)
}

/// As sd_notify(3) does.
fn notify(address: &str, text: &str) -> Result<(), Failure> {
    let pid = std::process::id().to_string();
    connect(address)?.send(text.replace("\\n", "\n").replace("%p", &pid).as_bytes())?;
    Ok(())
}

fn connect(address: &str) -> Result<UnixDatagram, Failure> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// As sd_notify_barrier(3) does: returns once the supervisor has closed the descriptor that comes along.
fn notify_barrier(address: &str) -> Result<(), Failure> {
    let (mut ours, theirs) = io::pipe()?;
    let socket = connect(address)?;
    let piece = [io::IoSlice::new(b"BARRIER=1")];
    let fds = [theirs.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &piece, &rights, MsgFlags::empty(), None)?;
    drop(theirs);
    ours.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// One write a line, so that processes sharing a pipe do not mix theirs.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(format!("{text}\n").as_bytes())?;
    out.flush()
}

fn answer(mut stream: TcpStream, well: bool) -> io::Result<()> {
    // One read is the whole request: it is short and comes over loopback.
    let _ = stream.read(&mut [0; 4096])?;
    let status = if well { "200 OK" } else { "503 Service Unavailable" };
    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Listens on a port of the loopback, a path, or `@NAME`.
fn listener(address: &str, backlog: i32) -> Result<OwnedFd, Failure> {
    let listener = if let Ok(port) = address.parse::<u16>() {
        OwnedFd::from(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)
    } else {
        OwnedFd::from(UnixListener::bind_addr(&unix_address(address)?)?)
    };
    // SAFETY: a socket of ours, and a number.
    match unsafe { libc::listen(listener.as_raw_fd(), backlog) } {
        -1 => Err(io::Error::last_os_error().into()),
        _ => Ok(listener),
    }
}

fn unix_address(address: &str) -> io::Result<SocketAddr> {
    match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(address),
    }
}

/// A server that accepts nobody and whose queue is full: what connects to its port waits, what connects to its socket is turned away.
fn full(address: &str) -> Result<Vec<OwnedFd>, Failure> {
    let mut held = vec![listener(address, 0)?];
    if let Ok(port) = address.parse::<u16>() {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            held.push(stream.into());
        }
    } else {
        let address = unix_address(address)?;
        loop {
            // SAFETY: numbers only; the descriptor is ours alone.
            let stream = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
            if stream == -1 {
                return Err(io::Error::last_os_error().into());
            }
            // SAFETY: as above.
            let stream = unsafe { OwnedFd::from_raw_fd(stream) };
            let Some(path) = address.as_pathname() else { return Err("only a path can be full".into()) };
            let mut name = libc::sockaddr_un { sun_family: u16::try_from(libc::AF_UNIX)?, sun_path: [0; 108] };
            for (to, from) in name.sun_path.iter_mut().zip(path.as_os_str().as_encoded_bytes()) {
                *to = libc::c_char::from_ne_bytes([*from]);
            }
            let size = libc::socklen_t::try_from(size_of_val(&name))?;
            // SAFETY: an address of the size said.
            if unsafe { libc::connect(stream.as_raw_fd(), (&raw const name).cast(), size) } == -1 {
                break;
            }
            held.push(stream);
        }
    }
    say("full")?;
    Ok(held)
}

/// One thread for all visitors; whoever has gone is noticed before whoever has come is counted.
fn answer_visitors(listener: OwnedFd, file: &str) -> Result<(), Failure> {
    let mut visitors: Vec<File> = Vec::new();
    say("answering")?;
    loop {
        let mut polled: Vec<libc::pollfd> = std::iter::once(listener.as_raw_fd())
            .chain(visitors.iter().map(AsRawFd::as_raw_fd))
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: as many as said, all of them open.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len().try_into()?, -1) };
        let come = polled.first().is_some_and(|first| first.revents != 0);
        let newcomer = if come {
            let none = std::ptr::null_mut();
            // SAFETY: nobody's address is asked for; the descriptor is ours alone.
            let fd = unsafe { libc::accept4(listener.as_raw_fd(), none, none.cast(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
            // SAFETY: as above.
            (fd != -1).then(|| File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
        } else {
            None
        };
        let answer = std::fs::read(file).ok();
        visitors.retain_mut(|visitor| match visitor.read(&mut [0; 4096]) {
            Ok(0) => false,
            Ok(_) => match &answer {
                // A visitor who does not wait for the answer is no reason to stop.
                Some(answer) => {
                    let _ = visitor.write_all(answer);
                    false
                }
                None => true,
            },
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
        if let Some(newcomer) = newcomer {
            visitors.push(newcomer);
            say(&format!("{} at once", visitors.len()))?;
        }
    }
}

/// A child collects the dead and leaves them all behind when it ends itself.
fn orphans_at_once(count: u32) -> Result<(), Failure> {
    if fork()? {
        // SAFETY: no status is asked for. Our own child, and not firstmate's: this is not firstmate.
        unsafe { libc::syscall(libc::SYS_wait4, -1, std::ptr::null::<i32>(), 0, 0) };
        return Ok(());
    }
    for _ in 0..count {
        if !fork()? {
            // SAFETY: a number; nothing of the parent's is to be run or flushed twice.
            unsafe { libc::_exit(0) };
        }
    }
    // SAFETY: as above.
    unsafe { libc::_exit(0) }
}

/// The raw calls, since the C libraries keep some signals for themselves.
fn print_received(last: i32) -> Result<(), Failure> {
    let all = u64::MAX;
    // SAFETY: a kernel signal set of the size said.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &raw const all, std::ptr::null::<u64>(), 8) };
    say("listening for signals")?;
    loop {
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: as above; neither siginfo nor a time limit is given.
        let got = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const all, none, none, 8) };
        let Some(signal) = i32::try_from(got).ok().and_then(Signal::from_number) else { continue };
        say(&format!("got {signal}"))?;
        if signal.number() == last {
            return Ok(());
        }
    }
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
