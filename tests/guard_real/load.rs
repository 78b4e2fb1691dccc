//! Requests through the whole stack while things happen, each of which must be answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::docked::client::{Got, get};
use super::ground::{Ground, breathe};
use super::native::sandbox::until;

/// Between two requests of one client: a load, and time for the others on a machine of two cores.
const PAUSE_MS: i32 = 5;

pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Debug)]
pub struct Counted {
    pub answered: u64,
    /// How many were not.
    pub lost: u64,
    /// The first things that came instead of an answer.
    pub instead: Vec<String>,
}

impl Load {
    /// So many clients ask for the target again and again.
    pub fn start(ground: &Ground, clients: u32, target: &'static str) -> Self {
        Self::at(ground.address(super::stack::HTTP), clients, target)
    }

    fn at(address: SocketAddr, clients: u32, target: &'static str) -> Self {
        let (stop, answered, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (stop, answered, lost) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&lost));
            std::thread::spawn(move || {
                let mut instead = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get(address, target) {
                        Got::Answer(200, body) if body.trim().parse::<u64>().is_ok() => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        other => {
                            lost.fetch_add(1, Ordering::Relaxed);
                            if instead.len() < 3 {
                                instead.push(format!("{other:?}"));
                            }
                        }
                    }
                    breathe(PAUSE_MS);
                }
                instead
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop, answered, lost }
    }

    /// Waits until so many more are answered.
    pub fn wait_for(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        until("requests are answered", || {
            let now = self.answered.load(Ordering::Relaxed);
            if now >= before + more { Ok(()) } else { Err(format!("{} of {more}", now - before)) }
        });
    }

    pub fn finish(self) -> Counted {
        self.stop.store(true, Ordering::Relaxed);
        let instead = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        Counted { answered: self.answered.load(Ordering::Relaxed), lost: self.lost.load(Ordering::Relaxed), instead }
    }
}
