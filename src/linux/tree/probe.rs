//! What an exec probe started: it ends with the probe.
//!
//! A probe gets a second word in [`super::MARKER`], after that of its run: by it is known what has left the probe's group and session and
//! has lost its parent. What is still below the probe's main process is known by parentage, and what is in its session by that, until
//! the main process is reaped. Nobody who is older than the probe is its child, so that of firstmate's own children only the few younger
//! ones are asked for their environment.
//!
//! Whoever is executing a program has no environment for a moment; it is told that somebody could not be asked, so that the caller
//! looks again.

use std::collections::BTreeSet;
use std::io::Write as _;

use super::{Kin, Process, ROUNDS, Signal, Trees, descend, open_environment, read_at_once, read_stat, signal_exactly, signal_leader};
use crate::engine::spec::Scope;

/// The processes of one exec probe.
#[derive(Debug)]
pub struct ProbeTree {
    /// Until it is reaped: then its number may be anybody's.
    leader: Option<u32>,
    /// Start time of the main process, once that was asked.
    since: Option<u64>,
    word: Vec<u8>,
}

impl ProbeTree {
    /// The main process is about to be reaped, and its pid is its own no longer.
    pub const fn leader_reaped(&mut self) {
        self.leader = None;
    }
}

/// Whether a process was started by a probe.
enum Belongs {
    Yes,
    No,
    /// It has no environment at present, or nobody may read it.
    Unclear,
}

impl Trees {
    /// Appends to a value of [`super::MARKER`] the word of the probe of that number, which must be given to no other one.
    pub fn add_probe_word(&self, value: &mut Vec<u8>, number: u64) {
        value.push(b' ');
        value.extend_from_slice(&self.probe_word(number));
    }

    fn probe_word(&self, number: u64) -> Vec<u8> {
        let mut word = Vec::new();
        // Writing to memory does not fail. No instance is called just `probe`: its name ends with its number.
        let _ = write!(word, "{}:probe:{number}", self.token);
        word
    }

    /// The probe of that number was spawned, as the leader of a session, with its word in its environment. Until it has died, neither
    /// it nor what it started is counted to a run.
    pub fn probe_tree(&mut self, pid: u32, number: u64) -> ProbeTree {
        self.probe_started(pid);
        ProbeTree { leader: Some(pid), since: None, word: self.probe_word(number) }
    }

    /// SIGKILL to everything the probe has started, and to itself, until no new one is seen. Returns false where somebody could not be
    /// asked whose it is: then look again in a moment.
    pub fn kill_probe(&mut self, probe: &mut ProbeTree) -> bool {
        if let Some(leader) = probe.leader
            && probe.since.is_none()
        {
            probe.since = read_stat(leader).map(|stat| stat.started);
        }
        let mut done = BTreeSet::new();
        let mut dead = BTreeSet::new();
        let mut clear = true;
        for round in 0..ROUNDS {
            let known = (done.len(), dead.len());
            // While parentage still shows who belongs here.
            let (found, all_clear) = if self.proc { self.look_at_probe(probe, &mut dead) } else { (Vec::new(), true) };
            clear = all_clear;
            if round == 0
                && let Some(leader) = probe.leader
            {
                // The whole group at one blow, so that it cannot fork faster than we look.
                let _ = signal_leader(leader, Signal::KILL, Scope::Group);
            }
            for process in found {
                if done.insert((process.pid, process.started)) {
                    // Gone in the meantime, or of a user that firstmate may not signal: there is nobody who could do more.
                    let _ = signal_exactly(process.pid, process.started, Signal::KILL);
                }
            }
            if known == (done.len(), dead.len()) {
                break;
            }
        }
        clear
    }

    /// Who lives of it, but for its main process; and whether everybody could be asked. Who was seen dead has handed its children on.
    fn look_at_probe(&mut self, probe: &ProbeTree, dead: &mut BTreeSet<u32>) -> (Vec<Process>, bool) {
        let own = std::process::id();
        let mut kin = if self.children_files { Kin::Files } else { Kin::scan() };
        let children = match &kin {
            Kin::Files => self.own_children(own),
            Kin::Scanned(_) => kin.children(own),
        };
        let mut clear = true;
        let mut queue = Vec::new();
        for child in children {
            if self.leaders.contains_key(&child) || self.probes.contains(&child) || self.zombies.contains(&child) {
                continue;
            }
            match belongs(child, probe) {
                Belongs::Yes => queue.push(child),
                Belongs::No => {}
                Belongs::Unclear => clear = false,
            }
        }
        queue.extend(probe.leader);
        (descend(&mut kin, queue, BTreeSet::from([own]), probe.leader, dead), clear)
    }
}

/// Asked of a child of ours that is neither a run's main process nor a probe's.
fn belongs(pid: u32, probe: &ProbeTree) -> Belongs {
    let Some(stat) = read_stat(pid).filter(|stat| stat.lives) else { return Belongs::No };
    if probe.since.is_some_and(|since| stat.started < since) {
        return Belongs::No;
    }
    if probe.leader == Some(stat.session) {
        return Belongs::Yes;
    }
    let Ok(environment) = open_environment(pid).and_then(|file| read_at_once(&file)) else { return Belongs::Unclear };
    if environment.iter().all(|&byte| byte == 0) {
        return Belongs::Unclear;
    }
    let marked = environment
        .split(|&byte| byte == 0)
        .filter_map(|entry| entry.strip_prefix(super::MARKER.as_bytes())?.strip_prefix(b"="))
        .flat_map(|value| value.split(|&byte| byte == b' '))
        .any(|word| word == probe.word);
    if marked { Belongs::Yes } else { Belongs::No }
}
