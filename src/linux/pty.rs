//! Pseudo-terminals: what a program needs that behaves as it would before a person, with colours and line by line; see pty(7).
//!
//! The master is firstmate's and non-blocking; the slave is the program's, and closed here as soon as that exists. Both are
//! close-on-exec. When the last process that has the slave is gone, reading the master fails with EIO: the end of its output.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};

/// How many characters fit into a terminal's window; see ioctl_tty(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What a terminal has had since there were any.
impl Default for WindowSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

impl WindowSize {
    /// That of firstmate's own terminal, be it standard output, input or error; `None` without one, or where it does not know.
    #[must_use]
    pub fn own() -> Option<Self> {
        [1, 0, 2].into_iter().find_map(|fd: RawFd| {
            let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
            // SAFETY: room for a winsize; a descriptor that is closed or no terminal is an error.
            let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
            // A serial line knows none.
            (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(Self { rows: size.ws_row, columns: size.ws_col })
        })
    }

    /// Makes it that of the terminal `fd`, master or slave. Its foreground processes get SIGWINCH if it was another.
    ///
    /// # Errors
    /// ENOTTY: it is no terminal.
    pub fn set(self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let size = libc::winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: a whole winsize.
        Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
    }
}

/// The two ends of one.
#[derive(Debug)]
pub(super) struct Pair {
    /// firstmate's, non-blocking.
    pub(super) master: OwnedFd,
    /// The program's.
    pub(super) slave: OwnedFd,
}

/// Makes one of this size.
///
/// # Errors
/// ENOENT without devpts, EACCES where it may not be opened, ENOSPC when all are in use (kernel.pty.max), EMFILE, ENFILE.
pub(super) fn open(size: WindowSize) -> Result<Pair, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = open_path(c"/dev/ptmx".as_ptr(), flags | libc::O_NONBLOCK)
        // Where a container's /dev was put together by hand.
        .or_else(|errno| open_path(c"/dev/pts/ptmx".as_ptr(), flags | libc::O_NONBLOCK).map_err(|_| errno))?;
    let locked: libc::c_int = 0;
    // SAFETY: the call takes a pointer to an int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) })?;
    // By itself and not by its name: that may lie in another mount namespace, or be covered. Since Linux 4.13; see ioctl_tty(2).
    // SAFETY: numbers only.
    let slave = match Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }) {
        // SAFETY: the kernel has just made it, and nobody else knows it.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(Errno::EINVAL | Errno::ENOTTY | Errno::ENOSYS) => open_by_name(&master, flags)?,
        Err(errno) => return Err(errno),
    };
    size.set(master.as_fd())?;
    // So that a line that is typed can be corrected character by character and not byte by byte. Nothing depends on it.
    if let Ok(mut modes) = tcgetattr(&slave) {
        modes.input_flags.insert(InputFlags::IUTF8);
        let _ = tcsetattr(&slave, SetArg::TCSANOW, &modes);
    }
    Ok(Pair { master, slave })
}

fn open_by_name(master: &OwnedFd, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let mut number: libc::c_uint = 0;
    // SAFETY: room for an unsigned int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    let name = CString::new(format!("/dev/pts/{number}")).map_err(|_| Errno::EINVAL)?;
    open_path(name.as_ptr(), flags)
}

fn open_path(path: *const libc::c_char, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: every caller gives a string with its NUL.
    let fd = Errno::result(unsafe { libc::open(path, flags) })?;
    // SAFETY: opened just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of(fd: BorrowedFd<'_>) -> WindowSize {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: room for a winsize.
        assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }, 0);
        WindowSize { rows: size.ws_row, columns: size.ws_col }
    }

    #[test]
    fn both_ends_know_the_size_and_no_program_inherits_them() {
        let pair = open(WindowSize { rows: 33, columns: 111 }).unwrap();
        assert_eq!(size_of(pair.slave.as_fd()), WindowSize { rows: 33, columns: 111 });
        WindowSize { rows: 1, columns: 2 }.set(pair.master.as_fd()).unwrap();
        assert_eq!(size_of(pair.slave.as_fd()), WindowSize { rows: 1, columns: 2 });
        for fd in [&pair.master, &pair.slave] {
            // SAFETY: numbers only.
            assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn what_is_written_arrives_and_the_end_is_eio() {
        let pair = open(WindowSize::default()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(nix::unistd::read(&pair.master, &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(nix::unistd::write(&pair.slave, b"x\n"), Ok(2));
        assert_eq!(nix::unistd::read(&pair.master, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"x\r\n");
        drop(pair.slave);
        assert_eq!(nix::unistd::read(&pair.master, &mut buffer), Err(Errno::EIO));
    }

    #[test]
    fn a_terminal_may_be_found_by_its_name() {
        let pair = open(WindowSize::default()).unwrap();
        let again = open_by_name(&pair.master, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC).unwrap();
        assert_eq!(nix::unistd::write(&again, b"y"), Ok(1));
        assert_eq!(nix::unistd::read(&pair.master, &mut [0; 4]), Ok(1));
    }
}
