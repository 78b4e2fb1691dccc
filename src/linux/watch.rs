//! Tells when files have changed, by inotify(7): whole directories, single files, and what is not there yet.
//!
//! It all happens on a thread of its own, since walking through directories may wait for a disk, and the loop may not. The thread tells the loop once
//! for each time it has become quiet again, so nothing piles up there; it ends when its [`Watcher`] is dropped, and tells before what it has not told yet.
//!
//! A directory is watched with all below it, but for what is ignored; symbolic links are not followed, except where one is named itself. Above
//! each path that was named, the nearest directory that is there is watched as well: so it is noticed when the path goes, comes (again), is replaced by rename or is
//! a link that now leads elsewhere. What was written counts when its file is closed, so that nothing is taken half written, and a log that is kept
//! open changes nothing.

mod rules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glob::Pattern;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

pub use self::rules::DEFAULTS as IGNORED;
use self::rules::Rules;
use super::thread;
use crate::engine::Timestamp;
use crate::engine::spec::Watch;
use crate::engine::watch::Debounce;

/// It walks through directories and renders a line.
const STACK: usize = 128 << 10;
/// More directories than this are a slip: the root of a file system, or a cache that should be ignored. Each costs firstmate some hundred bytes and the
/// kernel a kilobyte.
const MOST_DIRECTORIES: usize = 10_000;
/// What editors and builders ask for that watch whole source trees.
const ENOUGH_WATCHES: u64 = 524_288;
/// So many names are kept to tell how many files changed.
const NAMED: usize = 100;
/// A service that begins anew so often within so short a time probably changes the files itself.
const OFTEN: usize = 5;
const SOON: Duration = Duration::from_secs(30);

/// What is of interest in a directory: files that were written or linked and are whole, and whatever comes and goes.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// What the thread tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is quiet again after something changed.
    Changed {
        /// For which service.
        service: String,
        /// The file that changed first, and how many others did.
        what: String,
    },
    /// Something cannot be watched, or is not as it was meant: a sentence.
    Trouble(String),
}

/// The thread, for as long as this is kept.
#[derive(Debug)]
pub struct Watcher {
    /// Its other end tells the thread that this one is closed.
    _stop: io::PipeWriter,
}

impl Watcher {
    /// Watches for these services, each by its name. `tell` is called on the thread. The `earlier` one is kept until this one has begun, so that
    /// nothing that changes in between is missed.
    ///
    /// # Errors
    /// EMFILE where the user's instances are used up (fs.inotify.max_user_instances) or no descriptor is left; EAGAIN for want of a thread.
    pub fn start(services: Vec<(String, Watch)>, earlier: Option<Self>, tell: impl FnMut(Told) + Send + 'static) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (stopped, stop) = io::pipe()?;
        thread::start("watch", STACK, move || {
            let mut worker = Worker::new(inotify, services, MOST_DIRECTORIES, tell);
            worker.begin();
            drop(earlier);
            worker.work(&OwnedFd::from(stopped));
        })?;
        Ok(Self { _stop: stop })
    }
}

/// One path that was named.
struct Root {
    /// Index of the service it is watched for.
    service: usize,
    path: PathBuf,
    /// Only files that fit.
    only: Option<Pattern>,
    seen: Seen,
    /// The directory above it that is watched.
    gate: PathBuf,
}

/// What a path was when it was looked at, through symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Absent,
    Directory { device: u64, inode: u64 },
    File { device: u64, inode: u64, bytes: u64, changed: (i64, i64) },
}

impl Seen {
    fn look(path: &Path) -> Self {
        let Ok(found) = std::fs::metadata(path) else { return Self::Absent };
        let (device, inode) = (found.dev(), found.ino());
        if found.is_dir() {
            return Self::Directory { device, inode };
        }
        Self::File { device, inode, bytes: found.len(), changed: (found.mtime(), found.mtime_nsec()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A directory that is watched for what is in it.
    Tree,
    /// One above a root.
    Gate,
}

/// Why a directory is watched.
#[derive(Debug, Clone)]
struct Interest {
    root: usize,
    path: PathBuf,
    role: Role,
}

struct Service {
    name: String,
    rules: Rules,
    debounce: Debounce,
    /// What has changed since it was told last.
    changed: BTreeSet<PathBuf>,
    first: Option<PathBuf>,
    /// When it was told, the last times.
    told: VecDeque<Timestamp>,
}

struct Worker<F> {
    inotify: Inotify,
    services: Vec<Service>,
    roots: Vec<Root>,
    places: BTreeMap<WatchDescriptor, Vec<Interest>>,
    most: usize,
    /// Told once: that there are too many, and each directory that cannot be watched.
    full: bool,
    forbidden: BTreeSet<PathBuf>,
    /// Paths are shown relative to it.
    directory: PathBuf,
    origin: Instant,
    tell: F,
}

impl<F: FnMut(Told)> Worker<F> {
    fn new(inotify: Inotify, services: Vec<(String, Watch)>, most: usize, tell: F) -> Self {
        let mut roots = Vec::new();
        let services = services
            .into_iter()
            .enumerate()
            .map(|(index, (name, watch))| {
                roots.extend(watch.paths.into_iter().map(|path| Root {
                    service: index,
                    only: path.only.and_then(|text| Pattern::new(&text).ok()),
                    path: path.root,
                    seen: Seen::Absent,
                    gate: PathBuf::new(),
                }));
                let (rules, debounce) = (Rules::new(&watch.ignore), Debounce::new(watch.debounce));
                Service { name, rules, debounce, changed: BTreeSet::new(), first: None, told: VecDeque::new() }
            })
            .collect();
        let directory = std::env::current_dir().unwrap_or_default();
        let (places, forbidden) = (BTreeMap::new(), BTreeSet::new());
        Self { inotify, services, roots, places, most, full: false, forbidden, directory, origin: Instant::now(), tell }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn begin(&mut self) {
        for root in 0..self.roots.len() {
            let _file = self.set_up(root);
            if let Some(Root { path, seen: Seen::Absent, only: None, .. }) = self.roots.get(root) {
                let text = format!("{} is not there yet: it is watched for all the same", self.shown(path));
                (self.tell)(Told::Trouble(text));
            }
        }
    }

    /// Until the other end of `stopped` is closed. What has changed by then is told: another one takes over, and knows nothing of it.
    fn work(&mut self, stopped: &OwnedFd) {
        loop {
            let due = self.services.iter().filter_map(|service| service.debounce.due()).min();
            let timeout = match due {
                None => PollTimeout::NONE,
                // Rounded up, so that the last fraction of a millisecond is not spent spinning.
                Some(due) => {
                    let millis = due.since(self.now()).as_millis().saturating_add(1);
                    PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
                }
            };
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            // All signals are blocked here, so EINTR cannot come; whatever else is wrong would come again for ever.
            if poll(&mut fds, timeout).is_err() {
                return;
            }
            let is_over = fds.get(1).and_then(PollFd::any).unwrap_or_default();
            self.take_all();
            if is_over {
                return self.tell_what_is_due(Timestamp::from_nanos(u64::MAX));
            }
            self.tell_what_is_due(self.now());
        }
    }

    /// What is there is one batch: a gate is looked at once for all of it.
    fn take_all(&mut self) {
        let mut checks = BTreeSet::new();
        while let Ok(events) = self.inotify.read_events() {
            events.iter().for_each(|event| self.take(event, &mut checks));
        }
        for root in checks {
            self.check(root);
        }
    }

    /// What is due by then.
    fn tell_what_is_due(&mut self, now: Timestamp) {
        for index in 0..self.services.len() {
            let directory = self.directory.clone();
            let Some(service) = self.services.get_mut(index) else { continue };
            if service.debounce.take(now).is_none() {
                continue;
            }
            let first = service.first.take().unwrap_or_default();
            let others = std::mem::take(&mut service.changed).len().saturating_sub(1);
            let first = shown(&first, &directory);
            let what = match others {
                0 => first.clone(),
                1 => format!("{first} and 1 other"),
                others if others >= NAMED.saturating_sub(1) => format!("{first} and many others"),
                others => format!("{first} and {others} others"),
            };
            let name = service.name.clone();
            service.told.push_back(now);
            let soon = service.told.front().is_some_and(|at| now.since(*at) <= SOON);
            let often = service.told.len() >= OFTEN && soon;
            if service.told.len() >= OFTEN {
                service.told.pop_front();
            }
            if often {
                service.told.clear();
                let text = format!(
                    "{name} has begun anew {OFTEN} times within {} s because of changed files, the last of them {first}: does it write there itself? add that to `ignore`",
                    SOON.as_secs()
                );
                (self.tell)(Told::Trouble(text));
            }
            (self.tell)(Told::Changed { service: name, what });
        }
    }

    fn take(&mut self, event: &InotifyEvent, checks: &mut BTreeSet<usize>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            // More happened than the kernel keeps (fs.inotify.max_queued_events): nothing is known any more.
            for root in 0..self.roots.len() {
                let _file = self.set_up(root);
                let path = self.roots.get(root).map(|root| root.path.clone()).unwrap_or_default();
                self.changed(root, &path);
            }
            return;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // The directory is gone, or its file system.
            checks.extend(self.places.remove(&event.wd).unwrap_or_default().into_iter().map(|interest| interest.root));
            return;
        }
        let interests = self.places.get(&event.wd).cloned().unwrap_or_default();
        for Interest { root, path, role } in interests {
            let Some(name) = &event.name else {
                // It was itself moved or removed.
                checks.insert(root);
                continue;
            };
            match role {
                Role::Gate => drop(checks.insert(root)),
                Role::Tree => self.take_within(event.mask, root, &path.join(name)),
            }
        }
    }

    fn take_within(&mut self, mask: AddWatchFlags, root: usize, path: &Path) {
        if self.ignores(root, path) {
            return;
        }
        if !mask.contains(AddWatchFlags::IN_ISDIR) {
            if self.fits(root, path) {
                self.changed(root, path);
            }
            return;
        }
        if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            // What came into it before it was watched tells nothing any more.
            if let Some(file) = self.walk(root, path) {
                self.changed(root, &file);
            }
        } else if mask.contains(AddWatchFlags::IN_MOVED_FROM) {
            self.forget(root, path);
            self.changed(root, path);
        }
    }

    fn ignores(&self, root: usize, path: &Path) -> bool {
        let service = self.roots.get(root).and_then(|root| self.services.get(root.service));
        service.is_none_or(|service| service.rules.ignore(path))
    }

    fn fits(&self, root: usize, path: &Path) -> bool {
        let only = self.roots.get(root).and_then(|root| root.only.as_ref());
        only.is_none_or(|only| rules::fits(only, &path.to_string_lossy()))
    }

    fn changed(&mut self, root: usize, path: &Path) {
        let now = self.now();
        let Some(service) = self.roots.get(root).and_then(|root| self.services.get_mut(root.service)) else { return };
        if service.debounce.changed(now) {
            service.first = Some(path.to_owned());
        }
        if service.changed.len() < NAMED {
            service.changed.insert(path.to_owned());
        }
    }

    /// Something happened above a root: is it still what it was?
    fn check(&mut self, index: usize) {
        let Some(root) = self.roots.get_mut(index) else { return };
        let (before, now) = (root.seen, Seen::look(&root.path));
        root.seen = now;
        let at_its_gate = root.path.parent() == Some(root.gate.as_path()) && root.gate.is_dir();
        let is_file = |seen| matches!(seen, Seen::File { .. });
        let (path, only) = (root.path.clone(), root.only.is_some());
        let file = if at_its_gate && (before == now || is_file(before) && is_file(now)) { None } else { self.set_up(index) };
        if before != now {
            // Where only some files are of interest, it is for one of them to be there.
            let what = if only { file } else { Some(path) };
            what.iter().for_each(|what| self.changed(index, what));
        }
    }

    /// Watches a root anew, as it is now; gives back a file in it that is of interest, if there is one.
    fn set_up(&mut self, index: usize) -> Option<PathBuf> {
        self.forget_all(index);
        let path = self.roots.get(index)?.path.clone();
        // The nearest directory above it that is there; the root of the file system always is.
        for above in path.ancestors().skip(1) {
            match self.add(index, above, Role::Gate) {
                Added::Watched => {
                    if let Some(root) = self.roots.get_mut(index) {
                        root.gate = above.to_owned();
                    }
                    break;
                }
                Added::Full => break,
                Added::Absent => {}
            }
        }
        // After the gate, so that what comes in between shows there.
        let seen = Seen::look(&path);
        if let Some(root) = self.roots.get_mut(index) {
            root.seen = seen;
        }
        if matches!(seen, Seen::Directory { .. }) { self.walk(index, &path) } else { None }
    }

    /// Watches a directory and all below it; gives back a file that is of interest, if there is one.
    fn walk(&mut self, root: usize, top: &Path) -> Option<PathBuf> {
        let mut file = None;
        let mut open = vec![top.to_owned()];
        while let Some(directory) = open.pop() {
            match self.add(root, &directory, Role::Tree) {
                Added::Watched => {}
                Added::Absent => continue,
                Added::Full => return file,
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if self.ignores(root, &path) {
                    continue;
                }
                // Of the entry itself: a link is none, so that there is no going in circles.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(path);
                } else if file.is_none() && self.fits(root, &path) {
                    file = Some(path);
                }
            }
        }
        file
    }

    fn add(&mut self, root: usize, path: &Path, role: Role) -> Added {
        if self.places.len() >= self.most {
            self.tell_full(&format!("at most {} directories are watched", self.most), path);
            return Added::Full;
        }
        let descriptor = match self.inotify.add_watch(path, EVENTS) {
            Ok(descriptor) => descriptor,
            Err(Errno::ENOSPC) => {
                self.tell_full(&no_watches_left(), path);
                return Added::Full;
            }
            Err(Errno::EACCES) => {
                if self.forbidden.len() < NAMED && self.forbidden.insert(path.to_owned()) {
                    let text = format!("cannot watch {}: permission denied; let firstmate's user read it, or ignore it", self.shown(path));
                    (self.tell)(Told::Trouble(text));
                }
                return Added::Absent;
            }
            // Not there, not there any more, or no directory.
            Err(_) => return Added::Absent,
        };
        let interests = self.places.entry(descriptor).or_default();
        if !interests.iter().any(|known| known.root == root && known.role == role) {
            interests.push(Interest { root, path: path.to_owned(), role });
        }
        Added::Watched
    }

    fn tell_full(&mut self, why: &str, path: &Path) {
        if !std::mem::replace(&mut self.full, true) {
            let text = format!(
                "changes in {} and others are not noticed: {why}; or watch less: name what is to be watched more closely, or add to `ignore`",
                self.shown(path)
            );
            (self.tell)(Told::Trouble(text));
        }
    }

    fn forget_all(&mut self, root: usize) {
        self.retain(|interest| interest.root != root);
    }

    /// A directory was moved away with all that is below it; the kernel would go on to tell of it.
    fn forget(&mut self, root: usize, top: &Path) {
        self.retain(|interest| interest.root != root || interest.role == Role::Gate || !interest.path.starts_with(top));
    }

    fn retain(&mut self, wanted: impl Fn(&Interest) -> bool) {
        let inotify = &self.inotify;
        self.places.retain(|descriptor, interests| {
            interests.retain(&wanted);
            if interests.is_empty() {
                // It may be gone already.
                let _removed = inotify.rm_watch(*descriptor);
            }
            !interests.is_empty()
        });
    }

    fn shown(&self, path: &Path) -> String {
        shown(path, &self.directory)
    }
}

/// ENOSPC of inotify_add_watch(2): which limit it is, how high, and how to raise it. There is one for the machine, and, since Linux 4.9, one for
/// each user namespace on the way to it (namespaces(7)); the lower one is named, since it is the one that can have been met.
fn no_watches_left() -> String {
    const LIMITS: [(&str, &str); 2] = [
        ("fs.inotify.max_user_watches", "/proc/sys/fs/inotify/max_user_watches"),
        ("user.max_inotify_watches", "/proc/sys/user/max_inotify_watches"),
    ];
    let read = |path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let lowest = LIMITS.iter().filter_map(|(name, path)| Some((*name, read(path)?))).min_by_key(|(_, limit)| *limit);
    match lowest {
        Some((name, limit)) => {
            let more = limit.saturating_mul(2).max(ENOUGH_WATCHES);
            format!(
                "the kernel allows this user no more than {limit} watches; raise that with `sysctl -w {name}={more}`, in a container on its host"
            )
        }
        None => {
            "the kernel allows this user no more watches; raise fs.inotify.max_user_watches (sysctl), in a container on its host".to_owned()
        }
    }
}

enum Added {
    Watched,
    Absent,
    Full,
}

fn shown(path: &Path, directory: &Path) -> String {
    let short = path.strip_prefix(directory).ok().filter(|short| directory.parent().is_some() && !short.as_os_str().is_empty());
    short.unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::engine::spec::WatchPath;

    /// A directory of its own that goes at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("firstmate-watch-{}-{name}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn watch(root: &Path) -> Vec<(String, Watch)> {
        let paths = vec![WatchPath { root: root.to_owned(), only: None }];
        vec![("web".to_owned(), Watch { paths, debounce: Duration::ZERO, ..Watch::default() })]
    }

    type Heard = Rc<RefCell<Vec<Told>>>;

    fn worker(root: &Path, most: usize) -> (Worker<impl FnMut(Told)>, Heard) {
        let heard = Heard::default();
        let to = Rc::clone(&heard);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        let mut worker = Worker::new(inotify, watch(root), most, move |told| to.borrow_mut().push(told));
        worker.begin();
        (worker, heard)
    }

    #[test]
    fn too_many_directories_are_told_once() {
        let directory = Directory::new("many");
        (0..6).for_each(|number| std::fs::create_dir(directory.0.join(number.to_string())).unwrap());
        let (mut worker, heard) = worker(&directory.0, 4);
        assert_eq!(worker.places.len(), 4);
        let _file = worker.set_up(0);
        let heard = heard.borrow();
        let [Told::Trouble(text)] = heard.as_slice() else { panic!("{heard:?}") };
        assert!(text.contains(" and others are not noticed: at most 4 directories are watched; or watch less"), "{text}");
    }

    #[test]
    fn who_restarts_itself_again_and_again_is_suspected() {
        let directory = Directory::new("often");
        let (mut worker, heard) = worker(&directory.0, 100);
        let path = directory.0.join("cache.db");
        for _ in 0..OFTEN + 1 {
            worker.changed(0, &path);
            worker.tell_what_is_due(worker.now());
        }
        let heard = heard.borrow();
        assert_eq!(heard.iter().filter(|told| matches!(told, Told::Changed { .. })).count(), OFTEN + 1);
        let troubles: Vec<usize> =
            heard.iter().enumerate().filter(|(_, told)| matches!(told, Told::Trouble(_))).map(|(at, _)| at).collect();
        assert_eq!(troubles, [OFTEN - 1], "once, before the fifth restart: {heard:?}");
    }

    #[test]
    fn what_has_changed_when_it_ends_is_told_before() {
        let directory = Directory::new("last");
        let (mut worker, heard) = worker(&directory.0, 100);
        worker.services[0].debounce = Debounce::new(Duration::from_secs(3_600));
        std::fs::write(directory.0.join("app.py"), "1").unwrap();
        let (stopped, stop) = io::pipe().unwrap();
        drop(stop);
        worker.work(&OwnedFd::from(stopped));
        let what = directory.0.join("app.py").display().to_string();
        assert_eq!(*heard.borrow(), [Told::Changed { service: "web".to_owned(), what }]);
    }

    /// Nothing is watched twice, and nothing is left of what was given up.
    #[test]
    fn setting_up_again_leaves_nothing_behind() {
        let directory = Directory::new("again");
        std::fs::create_dir_all(directory.0.join("a/b/c")).unwrap();
        let (mut worker, _) = worker(&directory.0, 100);
        let count = worker.places.len();
        for _ in 0..10 {
            let _file = worker.set_up(0);
            assert_eq!(worker.places.len(), count);
        }
        worker.forget(0, &directory.0.join("a"));
        assert_eq!(worker.places.len(), count - 3);
        worker.forget_all(0);
        assert_eq!(worker.places.len(), 0);
    }

    #[test]
    fn the_thread_ends_with_its_watcher() {
        let threads = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "watch\n")).count()
        };
        let directory = Directory::new("thread");
        let watcher = Watcher::start(watch(&directory.0), None, drop).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let until = |count: usize| {
            while threads() != count {
                assert!(Instant::now() < deadline, "in vain: until there are {count}");
                std::thread::yield_now();
            }
        };
        until(1);
        drop(watcher);
        until(0);
    }
}
