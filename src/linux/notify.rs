//! NOTIFY_SOCKET: what programs tell their supervisor by sd_notify(3), and what firstmate tells its own.
//!
//! One datagram socket listens for all services. Its name is abstract (see unix(7)): it needs no directory, so a read-only root does no
//! harm, and no permission, so any user's service reaches it. Whoever shares the network namespace can send to it too, the other
//! containers of a pod for instance; so a sender is known by nothing but the pid the kernel attaches (SCM_CREDENTIALS), which is 0 for
//! a process outside of our PID namespace.
//!
//! Nothing here blocks. Descriptors that come along are closed: that is what `BARRIER=1` asks for, and a descriptor store firstmate has
//! not. Pipes and sockets are closed before the next datagram is read; whatever else it is, a thread closes, since closing a file of a
//! network or FUSE file system may wait for a server that somebody has stopped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

use super::thread;
use super::tree::random_token;
use crate::engine::Announcement;

/// A longer datagram is not looked at; what systemd takes (PIPE_BUF).
const LONGEST: usize = 4096;
/// A status is cut to so many characters.
const STATUS: usize = 200;
/// More announcements of one datagram are not taken.
const MOST: usize = 16;
/// The kernel passes no more descriptors with one datagram: SCM_MAX_FD of include/net/scm.h.
const MOST_DESCRIPTORS: usize = 253;
/// Room for the sender's credentials and that many descriptors, each with its header and padding.
const CONTROL: usize = 128 + 4 * MOST_DESCRIPTORS;

/// The socket that services send to.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    name: String,
    closer: Closer,
}

/// A datagram that was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The sender's pid in our PID namespace; 0 for one outside of it.
    pub pid: u32,
    /// Its real user, in our user namespace.
    pub uid: u32,
    /// What it said.
    pub text: Message,
}

/// What came of one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A datagram.
    Datagram(Datagram),
    /// One that is not looked at: too long, without credentials, or not text.
    Unreadable,
    /// Nothing more at present.
    Nothing,
}

/// A datagram's lines, as far as they mean something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// In the order of the lines.
    pub announcements: Vec<Announcement>,
    /// `MAINPID=`.
    pub main_pid: Option<u32>,
    /// `FDSTORE=1`: it wants its descriptors kept.
    pub wants_store: bool,
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl NotifySocket {
    /// Listens under a name of its own that begins with `firstmate/`. Anybody may read it in /proc/net/unix, so it is not the token that
    /// the markers of processes have.
    ///
    /// # Errors
    /// EADDRINUSE when somebody has it all the same; EMFILE, ENFILE, ENOMEM. See unix(7).
    pub fn bind() -> io::Result<Self> {
        let name = format!("firstmate/notify/{}", random_token());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self { socket, name, closer: Closer::default() })
    }

    /// The value of NOTIFY_SOCKET: `@` stands for the NUL an abstract name begins with.
    #[must_use]
    pub fn address(&self) -> String {
        format!("@{}", self.name)
    }

    /// Takes one datagram.
    #[must_use]
    pub fn receive(&self) -> Received {
        let mut text = [0_u8; LONGEST];
        let mut control = Control([0; CONTROL]);
        let mut piece = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        // SAFETY: all-zero is a msghdr without anything.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        // Without room for them the kernel discards the descriptors by itself.
        header.msg_controllen = if self.closer.has_room() { CONTROL } else { CREDENTIALS_ONLY } as _;
        let length = loop {
            // SAFETY: both buffers have the lengths the header says and outlive the call.
            let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
            match usize::try_from(got) {
                Ok(length) => break length,
                Err(_) if Errno::last() == Errno::EINTR => {}
                Err(_) => return Received::Nothing,
            }
        };
        // SAFETY: recvmsg has filled the header in.
        let sender = unsafe { take_control(&header, &self.closer) };
        let whole = header.msg_flags & libc::MSG_TRUNC == 0;
        match (sender, text.get(..length)) {
            (Some((pid, uid)), Some(text)) if whole => match Message::parse(text) {
                Some(text) => Received::Datagram(Datagram { pid, uid, text }),
                None => Received::Unreadable,
            },
            _ => Received::Unreadable,
        }
    }
}

/// Room for the credentials alone, which come first: see cmsg(3).
// SAFETY: a calculation.
const CREDENTIALS_ONLY: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// As strictly aligned as a control message must be.
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// The sender's pid and user, and the end of every descriptor that came along.
///
/// # Safety
/// `header` is as recvmsg(2) left it, and its control buffer is alive.
unsafe fn take_control(header: &libc::msghdr, closer: &Closer) -> Option<(u32, u32)> {
    let mut from = None;
    // SAFETY: the buffer is the header's own; the macros of cmsg(3) stay within the length the kernel wrote there.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(one) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            #[cfg_attr(not(target_env = "musl"), expect(clippy::unnecessary_cast, reason = "a u32 with musl, a usize with glibc"))]
            let length = (one.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match (one.cmsg_level, one.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    let sender: libc::ucred = data.cast::<libc::ucred>().read_unaligned();
                    from = u32::try_from(sender.pid).ok().map(|pid| (pid, sender.uid));
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..length / size_of::<RawFd>() {
                        // The kernel has just made it for us, and nobody else knows it.
                        closer.close(OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned()));
                    }
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    from
}

/// Ends descriptors that somebody sent.
#[derive(Debug, Default)]
struct Closer(Arc<Mutex<ToClose>>);

#[derive(Debug, Default)]
struct ToClose {
    waiting: Vec<OwnedFd>,
    /// A thread is at it.
    in_hand: bool,
}

/// No more descriptors are taken while so many wait: with those of one more datagram they stay far below the least limit of open files
/// that is usual.
const MOST_WAITING: usize = 64;
/// For a thread that only closes.
const STACK: usize = 64 << 10;

impl Closer {
    fn has_room(&self) -> bool {
        lock(&self.0).waiting.len() < MOST_WAITING
    }

    fn close(&self, fd: OwnedFd) {
        if closes_at_once(&fd) {
            return;
        }
        let mut to_close = lock(&self.0);
        to_close.waiting.push(fd);
        if !to_close.in_hand {
            let shared = Arc::clone(&self.0);
            // Where there may be no more threads they wait for the next one.
            to_close.in_hand = thread::start("closes", STACK, move || close_all(&shared)).is_ok();
        }
    }
}

/// One after the other, until none is left. The lock is never held while one is closed.
fn close_all(shared: &Mutex<ToClose>) {
    loop {
        let mut to_close = lock(shared);
        let next = to_close.waiting.pop();
        to_close.in_hand = next.is_some();
        drop(to_close);
        match next {
            Some(fd) => drop(fd),
            None => return,
        }
    }
}

fn lock(shared: &Mutex<ToClose>) -> MutexGuard<'_, ToClose> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is a socket, which then no longer lingers, or a pipe. Neither question reaches a file system.
fn closes_at_once(fd: &OwnedFd) -> bool {
    let none = libc::linger { l_onoff: 0, l_linger: 0 };
    // Closing the last descriptor of a socket that lingers waits for its peer, and who sends it here may want just that; see SO_LINGER
    // in socket(7). What is no socket answers ENOTSOCK, what is no pipe EBADF.
    setsockopt(fd, sockopt::Linger, &none) != Err(Errno::ENOTSOCK) || fcntl(fd, FcntlArg::F_GETPIPE_SZ).is_ok()
}

impl Message {
    /// Reads the lines of a datagram. Lines that mean nothing to firstmate are passed over; `None` when it is no text.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        // As systemd has it: one NUL at the end is forgiven.
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        if bytes.contains(&0) {
            return None;
        }
        let text = String::from_utf8_lossy(bytes);
        let mut message = Self::default();
        for line in text.split('\n') {
            let Some((key, value)) = line.split_once('=') else { continue };
            let what = match (key, value) {
                ("READY", "1") => Announcement::Ready,
                ("RELOADING", "1") => Announcement::Reloading,
                ("STOPPING", "1") => Announcement::Stopping,
                ("STATUS", status) => Announcement::Status(printable(status)),
                ("WATCHDOG", "1") => Announcement::Alive,
                ("WATCHDOG", "trigger") => Announcement::Trigger,
                ("WATCHDOG_USEC", usec) => match usec.parse::<u64>() {
                    // 0 and infinity switch it off, as they do in systemd.
                    Ok(0 | u64::MAX) => Announcement::WatchdogEvery(None),
                    Ok(usec) => Announcement::WatchdogEvery(Some(Duration::from_micros(usec))),
                    Err(_) => continue,
                },
                ("EXTEND_TIMEOUT_USEC", usec) => match usec.parse::<u64>() {
                    Ok(usec) => Announcement::ExtendTimeout(Duration::from_micros(usec)),
                    Err(_) => continue,
                },
                ("MAINPID", pid) => {
                    message.main_pid = pid.parse().ok().filter(|&pid| pid > 1).or(message.main_pid);
                    continue;
                }
                ("FDSTORE", "1") => {
                    message.wants_store = true;
                    continue;
                }
                _ => continue,
            };
            if message.announcements.len() < MOST {
                message.announcements.push(what);
            }
        }
        Some(message)
    }
}

/// One short line without control characters: it is shown on terminals.
fn printable(text: &str) -> String {
    let shown: String = text.chars().filter(|character| !character.is_control()).take(STATUS).collect();
    shown.trim().to_owned()
}

/// The supervisor above firstmate, that has given it a NOTIFY_SOCKET of its own.
#[derive(Debug)]
pub struct Outer {
    socket: UnixDatagram,
}

impl Outer {
    /// Connects to the socket that `address`, the value of NOTIFY_SOCKET, names: an absolute path, or an abstract name after `@`.
    ///
    /// # Errors
    /// EAFNOSUPPORT for an address of another form (`vsock:` of a virtual machine); what connect(2) says of one where nobody listens.
    pub fn connect(address: &std::ffi::OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(Errno::EAFNOSUPPORT.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket })
    }

    /// Sends one message. `Ok(false)`: there is no room at present.
    ///
    /// # Errors
    /// ECONNREFUSED or ENOTCONN when nobody listens any more; see send(2).
    pub fn send(&self, text: &str) -> io::Result<bool> {
        loop {
            match self.socket.send(text.as_bytes()) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Outer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a look at a service's notification descriptor found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// No newline yet.
    Pending,
    /// A newline.
    Come,
    /// Every writer is gone, and there was none.
    Never,
}

/// Reads from the read end of a notification descriptor, non-blocking, once: what is before the newline means nothing.
#[must_use]
pub fn read_line(fd: BorrowedFd<'_>) -> Line {
    let mut buffer = [0_u8; 512];
    match nix::unistd::read(fd, &mut buffer) {
        Ok(0) => Line::Never,
        Ok(length) if buffer.get(..length).unwrap_or_default().contains(&b'\n') => Line::Come,
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Line::Pending,
        // A pipe gives no other error.
        Err(_) => Line::Never,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn parsed(text: &str) -> Vec<Announcement> {
        Message::parse(text.as_bytes()).map(|message| message.announcements).unwrap_or_default()
    }

    #[test]
    fn the_words_of_sd_notify() {
        assert_eq!(
            parsed(
                "READY=1\nSTATUS= 3 of 4 \x1b[2J up\nRELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger\nX_MINE=1\nREADY=0\nnonsense"
            ),
            [
                Announcement::Ready,
                Announcement::Status("3 of 4 [2J up".to_owned()),
                Announcement::Reloading,
                Announcement::Stopping,
                Announcement::Alive,
                Announcement::Trigger,
            ]
        );
        assert_eq!(
            parsed(
                "WATCHDOG_USEC=1500000\nWATCHDOG_USEC=0\nWATCHDOG_USEC=18446744073709551615\nWATCHDOG_USEC=-1\nEXTEND_TIMEOUT_USEC=7\nEXTEND_TIMEOUT_USEC=x"
            ),
            [
                Announcement::WatchdogEvery(Some(Duration::from_millis(1_500))),
                Announcement::WatchdogEvery(None),
                Announcement::WatchdogEvery(None),
                Announcement::ExtendTimeout(Duration::from_micros(7)),
            ]
        );
        let message = Message::parse(b"MAINPID=42\nMAINPID=1\nMAINPID=-4\nFDSTORE=1\n\0").unwrap();
        assert_eq!((message.main_pid, message.wants_store), (Some(42), true));
    }

    #[test]
    fn what_is_no_text_or_too_much_is_bounded() {
        assert_eq!(Message::parse(b"READY=1\0\0"), None);
        assert_eq!(Message::parse(b"\0READY=1"), None);
        assert_eq!(parsed(""), []);
        assert_eq!(parsed(&"WATCHDOG=1\n".repeat(300)).len(), MOST);
        assert_eq!(parsed(&format!("STATUS={}", "ü".repeat(1_000))), [Announcement::Status("ü".repeat(STATUS))]);
        // Whatever the bytes are, it is no panic.
        assert_eq!(Message::parse(b"STATUS=\xff\xfe\nREADY=1").unwrap().announcements.len(), 2);
    }

    fn socket() -> (NotifySocket, UnixDatagram) {
        let socket = NotifySocket::bind().unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect_addr(&SocketAddr::from_abstract_name(socket.address().trim_start_matches('@')).unwrap()).unwrap();
        (socket, sender)
    }

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn a_sender_is_known_and_what_is_too_long_is_not_looked_at() {
        let (socket, sender) = socket();
        assert_eq!(socket.receive(), Received::Nothing);
        sender.send(b"READY=1").unwrap();
        sender.send(&[b'x'; LONGEST + 1]).unwrap();
        sender.send(b"\0\0\0").unwrap();
        sender.send(b"").unwrap();
        let text = Message { announcements: vec![Announcement::Ready], ..Message::default() };
        assert_eq!(socket.receive(), Received::Datagram(Datagram { pid: std::process::id(), uid: nix::unistd::getuid().as_raw(), text }));
        assert_eq!(socket.receive(), Received::Unreadable);
        assert_eq!(socket.receive(), Received::Unreadable);
        assert!(matches!(socket.receive(), Received::Datagram(_)));
        assert_eq!(socket.receive(), Received::Nothing);
    }

    /// Sends `text` with `count` copies of `fd`.
    fn send_with(sender: &UnixDatagram, text: &[u8], fd: BorrowedFd<'_>, count: usize) {
        use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
        let fds = vec![fd.as_raw_fd(); count];
        let piece = [io::IoSlice::new(text)];
        sendmsg::<UnixAddr>(sender.as_raw_fd(), &piece, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn descriptors_that_come_along_are_closed() {
        let (socket, sender) = socket();
        let (barrier, theirs) = std::io::pipe().unwrap();
        send_with(&sender, b"BARRIER=1", theirs.as_fd(), 1);
        send_with(&sender, b"FDSTORE=1", theirs.as_fd(), MOST_DESCRIPTORS);
        send_with(&sender, &[b'x'; LONGEST + 1], theirs.as_fd(), MOST_DESCRIPTORS);
        let mut other = theirs.try_clone().unwrap();
        drop(theirs);
        other.write_all(b"\n").unwrap();
        assert_eq!(read_line(barrier.as_fd()), Line::Come);
        drop(other);
        for _ in 0..3 {
            assert_ne!(socket.receive(), Received::Nothing);
        }
        // Nobody holds the other end any more, firstmate neither.
        assert_eq!(read_line(barrier.as_fd()), Line::Never);
    }

    #[test]
    fn a_socket_that_lingers_does_not_hold_us_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let lingers = libc::linger { l_onoff: 1, l_linger: 60 };
        setsockopt(&stream, sockopt::Linger, &lingers).unwrap();
        stream.set_nonblocking(true).unwrap();
        // As much as the peer, who reads nothing, leaves unacknowledged.
        while (&stream).write(&[0; 65_536]).is_ok() {}
        let (socket, sender) = socket();
        send_with(&sender, b"FDSTORE=1", stream.as_fd(), 1);
        drop(listener);
        let before = open_descriptors();
        // The other descriptor of the same socket goes without waiting: it is not the last.
        drop(stream);
        let began = std::time::Instant::now();
        assert_ne!(socket.receive(), Received::Nothing);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(open_descriptors() <= before);
        drop(accepted);
    }

    #[test]
    fn files_are_closed_aside() {
        let (socket, sender) = socket();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        for _ in 0..3 {
            send_with(&sender, b"FDSTORE=1", file.as_fd(), 5);
        }
        for _ in 0..3 {
            assert!(matches!(socket.receive(), Received::Datagram(_)));
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !lock(&socket.closer.0).waiting.is_empty() || lock(&socket.closer.0).in_hand {
            assert!(std::time::Instant::now() < deadline, "they are not closed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn while_a_file_cannot_be_closed_few_others_are_held() {
        let (socket, sender) = socket();
        // The thread that closes is stuck.
        lock(&socket.closer.0).in_hand = true;
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let (barrier, theirs) = std::io::pipe().unwrap();
        for _ in 0..5 {
            send_with(&sender, b"READY=1", file.as_fd(), MOST_DESCRIPTORS);
            assert!(matches!(socket.receive(), Received::Datagram(_)), "what is said is heard all the same");
        }
        assert_eq!(lock(&socket.closer.0).waiting.len(), MOST_DESCRIPTORS, "those of one datagram");
        send_with(&sender, b"BARRIER=1", theirs.as_fd(), 1);
        drop(theirs);
        assert!(matches!(socket.receive(), Received::Datagram(_)));
        assert_eq!(read_line(barrier.as_fd()), Line::Never, "and a barrier is passed");
    }

    #[test]
    fn a_newline_on_a_descriptor() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        assert_eq!(read_line(reader.as_fd()), Line::Pending);
        writer.write_all(b"up").unwrap();
        assert_eq!(read_line(reader.as_fd()), Line::Pending);
        writer.write_all(b"\nmore").unwrap();
        assert_eq!(read_line(reader.as_fd()), Line::Come);
        drop(writer);
        assert_eq!(read_line(reader.as_fd()), Line::Never);
    }

    #[test]
    fn an_outer_supervisor_is_told_and_never_waited_for() {
        let (above, _) = socket();
        let outer = Outer::connect(std::ffi::OsStr::new(&above.address())).unwrap();
        let mut sent = 0;
        while outer.send("READY=1").unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        assert!(matches!(above.receive(), Received::Datagram(_)));
        assert!(outer.send("READY=1").unwrap());
        drop(above);
        assert!(outer.send("READY=1").is_err());
        let refused = |address: &str| Outer::connect(std::ffi::OsStr::new(address)).unwrap_err().raw_os_error();
        assert_eq!(refused("vsock:2:1234"), Some(libc::EAFNOSUPPORT));
        assert_eq!(refused("relative"), Some(libc::EAFNOSUPPORT));
        assert_eq!(refused("/nowhere/at/all"), Some(libc::ENOENT));
    }
}
