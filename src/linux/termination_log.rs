//! The file in which a platform looks for a container's last words: `/dev/termination-log` of Kubernetes, a bind mount of mode 0666, so that
//! it can be written by any user and under a read-only root.
//!
//! It is never created: where the platform made none, nobody reads it. What a service has written there since firstmate's start stays,
//! since programs are told to use it too; what was there before is of an earlier container. A disk that hangs must not hold up the end,
//! so a thread of its own writes, and whoever waits for it waits for a bounded time.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::thread;

/// Kubernetes reads the last so many bytes; see terminationMessagePath in its documentation.
pub const MOST: usize = 4096;
/// What firstmate may always have, however much a service has written before it.
const LEAST: usize = MOST / 2;
/// The writer only opens, copies and writes.
const STACK: usize = 64 * 1024;

/// Where the last words will go.
#[derive(Debug, Clone)]
pub struct TerminationLog {
    path: PathBuf,
    /// Its bytes when it was found, and which file that was.
    was: (u64, u64, u64),
}

/// The writing, under way.
#[derive(Debug)]
pub struct Writing(Receiver<io::Result<()>>);

impl TerminationLog {
    /// Looks whether the file is there and can be written.
    ///
    /// # Errors
    /// ENOENT where there is none, EACCES, EROFS, ELOOP for a symbolic link, and EINVAL for what is no regular file.
    pub fn find(path: &Path) -> io::Result<Self> {
        let (_, was) = open(path)?;
        Ok(Self { path: path.to_owned(), was })
    }

    /// Begins to write what `words` makes of the room there is in bytes; once.
    pub fn write(self, words: impl FnOnce(usize) -> String + Send + 'static) -> Writing {
        let (tell, told) = channel();
        // No room for a thread (EAGAIN at the limit of processes) means no last words; writing them here could hold up the end.
        let _ = thread::start("last-words", STACK, move || {
            let _ = tell.send(self.perform(words));
        });
        Writing(told)
    }

    fn perform(self, words: impl FnOnce(usize) -> String) -> io::Result<()> {
        let (mut file, (length, device, inode)) = open(&self.path)?;
        let (before, ..) = self.was;
        let is_grown = (device, inode) == (self.was.1, self.was.2) && length > before;
        let room = if is_grown {
            MOST.saturating_sub(usize::try_from(length).unwrap_or(usize::MAX)).max(LEAST)
        } else {
            file.set_len(0)?;
            MOST
        };
        file.write_all(words(room).as_bytes())
    }
}

impl Writing {
    /// Waits for it until then. Nobody is told what became of it: nothing could be done about it any more.
    pub fn wait_until(self, deadline: Instant) {
        let _ = self.0.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The open file, its length, device and inode.
fn open(path: &Path) -> io::Result<(File, (u64, u64, u64))> {
    // Not through a symbolic link, which somebody who may write to the directory could lead to a file of root's. O_NONBLOCK is for a FIFO
    // without a reader, and so that nothing else is waited for before it is known what it is.
    let flags = libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = File::options().write(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok((file, (found.len(), found.dev(), found.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("firstmate-words-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write(log: TerminationLog, text: &'static str) {
        log.write(move |room| text.chars().take(room).collect()).wait_until(Instant::now() + Duration::from_secs(20));
    }

    #[test]
    fn an_earlier_containers_words_are_replaced_and_a_services_are_kept() {
        let directory = Directory::new("kept");
        let path = directory.0.join("log");
        std::fs::write(&path, "of an earlier container\n").unwrap();
        write(TerminationLog::find(&path).unwrap(), "first\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
        let log = TerminationLog::find(&path).unwrap();
        std::fs::write(&path, "a service: no database\n").unwrap();
        write(log, "second\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a service: no database\nsecond\n");
    }

    #[test]
    fn there_is_always_room() {
        let directory = Directory::new("room");
        let path = directory.0.join("log");
        for (before, room) in [(0, MOST), (1000, MOST - 1000), (4000, LEAST), (100_000, LEAST)] {
            std::fs::write(&path, "").unwrap();
            let log = TerminationLog::find(&path).unwrap();
            std::fs::write(&path, vec![b'x'; before]).unwrap();
            log.write(move |had| had.to_string()).wait_until(Instant::now() + Duration::from_secs(20));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.trim_start_matches('x'), room.to_string());
        }
    }

    #[test]
    fn only_a_regular_file_that_is_there_is_written() {
        let directory = Directory::new("kinds");
        let errno = |path: &Path| TerminationLog::find(path).unwrap_err().raw_os_error();
        assert_eq!(errno(&directory.0.join("none")), Some(libc::ENOENT));
        let fifo = directory.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        assert_eq!(errno(&fifo), Some(libc::ENXIO), "nobody reads it, and nobody waits for that");
        assert_eq!(errno(Path::new("/dev/null")), Some(libc::EINVAL));
        let file = directory.0.join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let link = directory.0.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(errno(&link), Some(libc::ELOOP));
    }
}
