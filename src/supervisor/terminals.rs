//! The terminals of services that have one: their size, and who is attached.
//!
//! What a service writes is read once, by the log's plumbing; here a little of it is kept, so that whoever attaches sees the prompt that was
//! written before, and all of it goes to who is attached, which never waits for that client.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

use super::Message;
use crate::engine::{Outcome, RunId};
use crate::linux::pty::WindowSize;
use crate::observe::notice;
use crate::server::attach::{Attachment, Outlet, Terminal};

/// So much of what was written last is shown to who attaches, in bytes: some lines and a prompt.
const RECENT: usize = 4096;

/// The terminals of all runs that have one, by the token of the stream they are read as.
pub(super) struct Terminals {
    messages: UnboundedSender<Message>,
    /// firstmate's own, or the default.
    size: WindowSize,
    open: BTreeMap<u64, Screen>,
    /// Counts clients, so that news of an earlier one is not taken for news of the present one.
    clients: u64,
}

struct Screen {
    run: RunId,
    master: OwnedFd,
    recent: VecDeque<u8>,
    client: Option<Client>,
    /// How it ended, while the last words are still being read.
    ended: Option<String>,
}

struct Client {
    number: u64,
    outlet: Rc<Outlet>,
    keyboard: Rc<Keyboard>,
}

/// Why somebody cannot be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was started with pipes.
    NoTerminal,
    /// There is somebody.
    Taken,
    /// No descriptor is left.
    Failed,
}

impl Terminals {
    pub(super) fn new(messages: UnboundedSender<Message>) -> Self {
        Self { messages, size: WindowSize::own().unwrap_or_default(), open: BTreeMap::new(), clients: 0 }
    }

    /// For a new terminal.
    pub(super) const fn size(&self) -> WindowSize {
        self.size
    }

    /// A run has a terminal, which is read as the stream `token`.
    pub(super) fn opened(&mut self, token: u64, run: RunId, master: OwnedFd) {
        self.open.insert(token, Screen { run, master, recent: VecDeque::new(), client: None, ended: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A stream was read; it may be a terminal's.
    pub(super) fn heard(&mut self, token: u64, bytes: &[u8]) {
        let Some(screen) = self.open.get_mut(&token).filter(|_| !bytes.is_empty()) else { return };
        let kept = bytes.get(bytes.len().saturating_sub(RECENT)..).unwrap_or(bytes);
        let surplus = screen.recent.len().saturating_add(kept.len()).saturating_sub(RECENT);
        screen.recent.drain(..surplus.min(screen.recent.len()));
        screen.recent.extend(kept);
        if let Some(client) = &screen.client {
            client.outlet.push(bytes);
        }
    }

    /// firstmate's own terminal has another size. Where somebody is attached, theirs holds.
    pub(super) fn resized(&mut self) {
        let Some(size) = WindowSize::own() else { return };
        self.size = size;
        for screen in self.open.values().filter(|screen| screen.client.is_none()) {
            resize(&screen.master, size);
        }
    }

    /// The place at the terminal of a run, which is of the instance called `name`.
    pub(super) fn attach(&mut self, run: RunId, name: &str) -> Result<Attachment, Refusal> {
        let screen = self.open.values_mut().find(|screen| screen.run == run).ok_or(Refusal::NoTerminal)?;
        if screen.client.is_some() {
            return Err(Refusal::Taken);
        }
        let descriptor = screen.master.try_clone().map_err(|_| Refusal::Failed)?;
        // SAFETY: it owns its descriptor, gives out the same one each time, and closes it only when dropped.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::WRITABLE) }.map_err(|_| Refusal::Failed)?;
        let keyboard = Rc::new(Keyboard(RefCell::new(Some(descriptor))));
        let outlet = Rc::new(Outlet::new(name));
        // From the beginning of a line, if there is one: what is cut may be half a character, or half a colour.
        let recent = screen.recent.make_contiguous();
        let from =
            if recent.len() < RECENT { 0 } else { recent.iter().position(|&byte| byte == b'\n').map_or(0, |at| at.saturating_add(1)) };
        outlet.push(recent.get(from..).unwrap_or_default());
        self.clients = self.clients.wrapping_add(1);
        let number = self.clients;
        screen.client = Some(Client { number, outlet: Rc::clone(&outlet), keyboard: Rc::clone(&keyboard) });
        // The loop is gone only when everything is over.
        let _ = self.messages.send(Message::Attached { run });
        Ok(Attachment { outlet, terminal: Box::new(Seat { keyboard, run, number, messages: self.messages.clone() }) })
    }

    /// A client is gone. Whether it was the one that is attached.
    pub(super) fn detached(&mut self, run: RunId, number: u64) -> bool {
        let size = self.size;
        let Some(screen) = self.open.values_mut().find(|screen| screen.run == run) else { return false };
        let was = screen.client.take_if(|client| client.number == number).is_some();
        if was {
            resize(&screen.master, size);
        }
        was
    }

    /// Its main process has ended; last words may follow.
    pub(super) fn ended(&mut self, run: RunId, outcome: &Outcome) {
        if let Some(screen) = self.open.values_mut().find(|screen| screen.run == run) {
            screen.ended = Some(notice::outcome(outcome).to_string());
        }
    }

    /// Nothing is left of the run, and everything it wrote was heard.
    pub(super) fn over(&mut self, run: RunId) {
        let Some(token) = self.open.iter().find(|(_, screen)| screen.run == run).map(|(token, _)| *token) else { return };
        let Some(screen) = self.open.remove(&token) else { return };
        if let Some(client) = screen.client {
            // Whoever does not read must not keep the terminal open.
            client.keyboard.0.borrow_mut().take();
            client.outlet.end(screen.ended.unwrap_or_else(|| "it has ended".to_owned()));
        }
    }
}

fn resize(terminal: &OwnedFd, size: WindowSize) {
    // It is a terminal, so there is no error to come.
    let _resized = size.set(terminal.as_fd());
}

/// What is typed goes here. `None` when the run is over.
struct Keyboard(RefCell<Option<AsyncFd<OwnedFd>>>);

/// A client's own handle; when it goes, the client is detached.
struct Seat {
    keyboard: Rc<Keyboard>,
    run: RunId,
    number: u64,
    messages: UnboundedSender<Message>,
}

impl Terminal for Seat {
    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let keyboard = self.keyboard.0.borrow();
        let Some(descriptor) = keyboard.as_ref() else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            let mut guard = std::task::ready!(descriptor.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|descriptor| Ok(nix::unistd::write(descriptor.get_ref(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        if rows > 0
            && columns > 0
            && let Some(descriptor) = self.keyboard.0.borrow().as_ref()
        {
            let terminal: BorrowedFd<'_> = descriptor.get_ref().as_fd();
            let _resized = WindowSize { rows, columns }.set(terminal);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The loop is gone only when everything is over.
        let _ = self.messages.send(Message::Detached { run: self.run, number: self.number });
    }
}
