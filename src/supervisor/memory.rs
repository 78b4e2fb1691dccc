//! The shell of the memory guard: reads what the engine asks for, and says what the kernel has counted.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::output::Output;
use super::{Message, Owner, Supervisor};
use crate::engine::{Action, Event, MemoryAction, MemoryEvent, Outcome, RunId, Signal};
use crate::linux::memory::limit::{Files, Watch};
use crate::linux::memory::toll::{Toll, Unexplained};
use crate::linux::memory::{ecs, tmpfs};
use crate::linux::reap::Dead;
use crate::observe::Level;

/// The limit and the OOM killer's count are looked at this often: a container is resized, a worker is killed.
const CHECK: Duration = Duration::from_secs(5);
/// Sooner, while a kill waits for the death that explains it.
const CHECK_SOON: Duration = Duration::from_secs(1);
