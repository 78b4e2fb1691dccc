//! What services say of themselves, on its way to the engine; and what firstmate says to the supervisor above it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use regex_lite::Regex;

use super::output::Output;
use super::{NOTIFY, NOTIFY_FD, OUTER, Supervisor, token};
use crate::config::log_pattern;
use crate::engine::spec::{Readiness, Service};
use crate::engine::{Announcement, Event, LaunchError, RunId, ServiceId};
use crate::linux::notify::{Datagram, Line, NotifySocket, Outer, Received, read_line};
use crate::linux::poll::{Interest, Poller};
use crate::linux::spawn::Environment;
use crate::observe::Level;

/// Datagrams that are taken in one turn of the loop, so that a flood of them leaves the others their turn.
pub(super) const A_TURN: usize = 64;
/// Before it is judged who was silent all that waits is taken: the kernel keeps net.unix.max_dgram_qlen (10 to 512) at a time.
pub(super) const EVERYTHING: usize = 1_024;
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

pub(super) struct Announcements {
    socket: Option<NotifySocket>,
    /// By the number of the service.
    patterns: BTreeMap<usize, Regex>,
    /// Runs whose line has not come yet.
    listening: BTreeSet<RunId>,
    matched: Vec<RunId>,
    /// Runs about whose `MAINPID=` or `FDSTORE=1` something was said.
    complained: BTreeSet<RunId>,
    told_of_refused: bool,
    above: Option<Above>,
}

/// The supervisor above firstmate, and what it knows already.
struct Above {
    outer: Outer,
    ready: bool,
    stopping: bool,
    status: String,
    /// There was no room, and the poller says when there is.
    waiting: bool,
}

impl Announcements {
    /// Listens where any service asks for it.
    pub(super) fn new(services: &[Arc<Service>], poller: &Poller, output: &mut Output) -> Self {
        let mut patterns = BTreeMap::new();
        for (index, service) in services.iter().enumerate() {
            patterns.extend(pattern_of(service, output).map(|pattern| (index, pattern)));
        }
        let socket = if services.iter().any(|service| service.ready.is_notify()) { listen(poller, output) } else { None };
        let above = std::env::var_os(NOTIFY_SOCKET).and_then(|address| reach(&address, output));
        Self {
            socket,
            patterns,
            listening: BTreeSet::new(),
            matched: Vec::new(),
            complained: BTreeSet::new(),
            told_of_refused: false,
            above,
        }
    }

    /// A service has come, or has another definition.
    pub(super) fn define(&mut self, id: ServiceId, service: &Service, poller: &Poller, output: &mut Output) {
        self.forget(id);
        self.patterns.extend(pattern_of(service, output).map(|pattern| (id.0, pattern)));
        if service.ready.is_notify() && self.socket.is_none() {
            self.socket = listen(poller, output);
        }
    }

    /// A service has gone.
    pub(super) fn forget(&mut self, id: ServiceId) {
        self.patterns.remove(&id.0);
    }

    /// Completes the environment of a service's main process.
    pub(super) fn prepare(&self, service: &Service, environment: &mut Environment) -> Result<(), LaunchError> {
        let (Readiness::Notify { watchdog }, Some(socket)) = (&service.ready, &self.socket) else { return Ok(()) };
        environment.set(OsStr::new(NOTIFY_SOCKET), OsStr::new(&socket.address()))?;
        match watchdog {
            // Without WATCHDOG_PID it is meant for whoever reads it; see sd_watchdog_enabled(3).
            Some(every) => environment.set(OsStr::new(WATCHDOG_USEC), OsStr::new(&every.as_micros().to_string())),
            None => Ok(()),
        }
    }

    pub(super) fn started(&mut self, run: RunId) {
        if self.patterns.contains_key(&run.instance.service.0) {
            self.listening.insert(run);
        }
    }

    /// A line, or a piece of a long one, of the run's output.
    pub(super) fn line(&mut self, run: RunId, text: &[u8]) {
        if self.listening.is_empty() || !self.listening.contains(&run) {
            return;
        }
        let matches = self.patterns.get(&run.instance.service.0).is_some_and(|pattern| pattern.is_match(&String::from_utf8_lossy(text)));
        if matches {
            self.listening.remove(&run);
            self.matched.push(run);
        }
    }

    pub(super) fn over(&mut self, run: RunId) {
        self.listening.remove(&run);
        self.complained.remove(&run);
    }
}

fn pattern_of(service: &Service, output: &mut Output) -> Option<Regex> {
    let Readiness::Log(text) = &service.ready else { return None };
    match log_pattern(text) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            // The file was refused for it, had it been read from one.
            output.say(Level::Error, &format!("{} can never be ready: its `log` cannot be used: {why}", service.name));
            None
        }
    }
}

fn listen(poller: &Poller, output: &mut Output) -> Option<NotifySocket> {
    let listening = NotifySocket::bind().and_then(|socket| {
        poller.add(&socket, token(NOTIFY, 0), Interest::Read)?;
        Ok(socket)
    });
    match listening {
        Ok(socket) => Some(socket),
        Err(error) => {
            let text =
                format!("cannot listen for notifications: {error}; services with `ready = {{ notify = true }}` will not become ready");
            output.say(Level::Error, &text);
            None
        }
    }
}

fn reach(address: &OsStr, output: &mut Output) -> Option<Above> {
    match Outer::connect(address) {
        Ok(outer) => Some(Above { outer, ready: false, stopping: false, status: String::new(), waiting: false }),
        Err(error) => {
            let text = format!("cannot reach {NOTIFY_SOCKET} ({}): {error}; whoever gave it is told nothing", address.to_string_lossy());
            output.say(Level::Warn, &text);
            None
        }
    }
}

impl Above {
    /// Tells what it does not know yet. `Ok(false)`: there is no room for all of it at present.
    fn tell(&mut self, ready: bool, stopping: bool, status: &str) -> std::io::Result<bool> {
        if ready && !self.ready {
            // Alone in its datagram: not everybody who waits for it reads lines.
            if !self.outer.send("READY=1")? {
                return Ok(false);
            }
            self.ready = true;
        }
        if stopping && !self.stopping {
            if !self.outer.send("STOPPING=1")? {
                return Ok(false);
            }
            self.stopping = true;
        }
        if status != self.status {
            if !self.outer.send(&format!("STATUS={status}"))? {
                return Ok(false);
            }
            status.clone_into(&mut self.status);
        }
        Ok(true)
    }
}

impl Supervisor {
    /// Takes what has come to NOTIFY_SOCKET, so many datagrams at most.
    pub(super) fn take_notifications(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let Some(socket) = &self.announcements.socket else { return };
            match socket.receive() {
                Received::Datagram(datagram) => self.notified(datagram),
                Received::Unreadable => self.tell_of_refused("a notification was ignored: it is too long, or is no text"),
                Received::Nothing => return,
            }
        }
    }

    fn notified(&mut self, datagram: Datagram) {
        let Datagram { pid, uid, text } = datagram;
        let listens = |run: &RunId| self.services.get(run.instance.service.0).is_some_and(|service| service.ready.is_notify());
        let Some(run) = self.trees.run_of(pid, uid).filter(listens) else {
            let who = if pid == 0 { "a process outside of this PID namespace".to_owned() } else { format!("pid {pid} (user {uid})") };
            return self.tell_of_refused(&format!(
                "a notification of {who} was ignored: it belongs to no service with `ready = {{ notify = true }}`, or may not speak for \
                 it, or has ended already"
            ));
        };
        // Its launch has succeeded, and that comes first.
        self.read_launch(run);
        self.events.extend(text.announcements.into_iter().map(|what| Event::Announced { run, what }));
        if let Some(main) = text.main_pid
            && !self.trees.set_main(run, main)
        {
            self.complain(run, &format!("says that its main process is pid {main}, which is no process of its own; that is ignored"));
        }
        if text.wants_store {
            self.complain(run, "wants descriptors to be kept for it (FDSTORE=1), which firstmate does not do; they are closed");
        }
    }

    fn complain(&mut self, run: RunId, what: &str) {
        if self.announcements.complained.insert(run) {
            let text = format!("{} {what}", self.output.instance_name(run.instance));
            self.output.say(Level::Warn, &text);
        }
    }

    /// Once: whoever does so on purpose would fill the log.
    fn tell_of_refused(&mut self, what: &str) {
        if !std::mem::replace(&mut self.announcements.told_of_refused, true) {
            self.output.say(Level::Warn, &format!("{what}; others like it are not told"));
        }
    }

    /// Runs whose line has come are ready.
    pub(super) fn take_matches(&mut self) {
        while let Some(run) = self.announcements.matched.pop() {
            self.read_launch(run);
            self.events.push_back(Event::Announced { run, what: Announcement::Ready });
        }
    }

    pub(super) fn watch_notify_fd(&mut self, run: RunId, pid: u32, fd: OwnedFd) -> Option<OwnedFd> {
        match self.poller.add(&fd, token(NOTIFY_FD, pid), Interest::Read) {
            Ok(()) => Some(fd),
            Err(errno) => {
                let text = format!("cannot watch the notification descriptor of {}: {errno}", self.output.instance_name(run.instance));
                self.output.say(Level::Error, &text);
                None
            }
        }
    }

    pub(super) fn read_notify_fd(&mut self, pid: u32) {
        let Some(run) = self.runs.iter().find(|(_, known)| known.pid == pid && known.notify_fd.is_some()).map(|(run, _)| *run) else {
            return;
        };
        let line = self.runs.get(&run).and_then(|known| known.notify_fd.as_ref()).map_or(Line::Pending, |fd| read_line(fd.as_fd()));
        let what = match line {
            Line::Pending => return,
            Line::Come => Announcement::Ready,
            Line::Never => Announcement::Mute("it closed its notification descriptor without a newline".to_owned()),
        };
        self.read_launch(run);
        if let Some(fd) = self.runs.get_mut(&run).and_then(|known| known.notify_fd.take()) {
            let _ = self.poller.remove(&fd);
        }
        self.events.push_back(Event::Announced { run, what });
    }

    /// Passes on what is true of the whole stack to the supervisor above, if there is one.
    pub(super) fn tell_outer(&mut self) {
        let Some(above) = &mut self.announcements.above else { return };
        let (ready, stopping, status) = {
            let engine = self.engine.borrow();
            let tally = engine.tally();
            (tally.is_ready(), tally.stopping, engine.tally_words(&tally))
        };
        let result = above.tell(ready, stopping, &status);
        match result {
            Ok(true) if above.waiting => {
                let _ = self.poller.remove(&above.outer);
                above.waiting = false;
            }
            Ok(false) if !above.waiting => {
                above.waiting = self.poller.add(&above.outer, token(OUTER, 0), Interest::Write).is_ok();
            }
            Ok(_) => {}
            Err(error) => {
                if above.waiting {
                    let _ = self.poller.remove(&above.outer);
                }
                self.announcements.above = None;
                let text = format!("cannot tell the supervisor above ({NOTIFY_SOCKET}) how things are: {error}; it is told nothing more");
                self.output.say(Level::Warn, &text);
            }
        }
    }
}
