//! The process tree of a run: every process descended from its main process (the leader), also those that daemonised.
//!
//! firstmate is PID 1 or a subreaper, so whatever a run leaves behind stays below it, and the topmost survivors of a dead leader are
//! firstmate's own children. "Is anything left?" is therefore one look at the list of our children: unless somebody unknown is among
//! them, nothing is left. A child is known to belong to a run
//!
//! 1. by having been seen below its leader before (pid and start time are remembered),
//! 2. by a session that was seen in its tree, beginning with the leader's own,
//! 3. by the environment variable [`MARKER`] that every run is started with and whatever it starts inherits.
//!
//! What none of these tells is a stranger: a process that docker exec started and left behind. A stranger is never signalled. The
//! marker of a process that has both left the session and overwritten its own environment (as `setproctitle` does) cannot be read, so
//! a daemon that does so before it was ever looked at is taken for a stranger too: run such programs in the foreground.
//!
//! A process that is exiting, or executing a program, has no environment for a moment. Until it has one again, or is gone, or a
//! second has passed, it counts as left behind by whoever asks, but is not signalled; and its children are looked at, since what
//! an exiting process leaves is known by the marker even before it is handed to firstmate.
//!
//! What an exec probe starts has one word more in that variable, and ends with the probe: see `probe.rs` beside this.
//!
//! Zombies are not counted: ours are about to be reaped, and those of a living parent are for that parent.
//!
//! Before a remembered pid is signalled its start time is read again through a pidfd's pin, so that a pid's next owner is never hit.
//! The leader needs none of that: until it is reaped, its pid and group cannot be given to anyone.
//!
//! What is read is small and in memory (/proc), but /proc/PID/environ is a look into another process's memory: it may
//! wait where that memory is being swapped in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::engine::spec::Scope;
use crate::engine::{RunId, Signal};

mod census;
mod probe;

pub(super) use census::exists;
pub use census::{Census, Sighting};
pub use probe::ProbeTree;

/// The environment variable by which descendants of a run are known: `token:web.1:3`, the token being different for each firstmate. When
/// firstmate itself runs below another, the outer one's value comes first, with a blank between them.
pub const MARKER: &str = "FIRSTMATE_RUN";

/// More than the kernel lets the arguments and environment of a program be, with its default stack limit.
const ENVIRONMENT_MAX: usize = 4 << 20;

/// Most are smaller than this.
const ENVIRONMENT_FIRST: usize = 16 << 10;

/// A child whose environment cannot be read is taken for a possible member of any tree so long; for a stranger after that.
const UNCLEAR_FOR: Duration = Duration::from_secs(1);

/// Longer lines of ancestors are not followed.
const GENERATIONS: usize = 64;

/// How often a changing tree is looked at again before the present picture is taken.
const ROUNDS: usize = 16;

/// All trees of one firstmate.
#[derive(Debug)]
pub struct Trees {
    token: String,
    outer: Option<OsString>,
    runs: BTreeMap<RunId, Tree>,
    /// Leaders that are not reaped, by pid.
    leaders: BTreeMap<u32, RunId>,
    probes: BTreeSet<u32>,
    markers: BTreeMap<Vec<u8>, RunId>,
    /// Processes seen in a tree, by pid; only one whose start time is still the same is meant.
    members: BTreeMap<u32, Member>,
    /// Children of ours that belong to nobody, with their start time.
    strangers: BTreeMap<u32, u64>,
    /// Children of ours that were seen dead: they stay so until `reaped` is called for them.
    zombies: BTreeSet<u32>,
    /// Children of ours whose environment could not be read, with their start time and since when that is so.
    unclear: BTreeMap<u32, (u64, Instant)>,
    children_files: bool,
    /// Whether every process can be seen in /proc, once that was asked.
    open_proc: Option<bool>,
    /// /proc is there and shows the PID namespace we are in. Without it only leaders and their groups are known.
    proc: bool,
    /// The list of our own children, kept open since every death asks for it.
    own_children: Option<File>,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Tree {
    leader: u32,
    leader_lives: bool,
    /// Start time of the leader; nobody in its tree is older.
    since: Option<u64>,
    sessions: BTreeSet<u32>,
    marker: Vec<u8>,
    /// Who said that it is the main process, if it is not the leader: pid and start time.
    main: Option<(u32, u64)>,
    /// What the survivors of a dead leader were last sent, and who they were: pid and start time.
    sent: Option<(Signal, BTreeSet<(u32, u64)>)>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    run: RunId,
    started: u64,
}

/// Who a dead child was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Died {
    /// The main process of a run. When nobody survives it, the tree is gone.
    Leader {
        /// Which run.
        run: RunId,
        /// Pids of the living processes it leaves behind.
        survivors: Vec<u32>,
    },
    /// A probe's main process.
    Probe,
    /// An orphan that was seen in the tree of this run: ask for its survivors once all the dead are reaped.
    Member(RunId),
    /// Any other orphan.
    Orphan,
}

/// What became of a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Processes, or groups, that got it.
    pub reached: u32,
    /// Those that are there and could not be signalled, with the errno: EPERM where a service runs as another user and firstmate is not
    /// root. Worth a line in the log.
    pub refused: Vec<(u32, i32)>,
}

impl Sent {
    fn add(&mut self, pid: u32, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.reached = self.reached.saturating_add(1),
            // Gone in the meantime: as wished.
            Err(Errno::ESRCH) => {}
            Err(errno) => self.refused.push((pid, errno as i32)),
        }
    }
}

impl Trees {
    /// No runs yet, and a token of its own.
    #[must_use]
    pub fn new() -> Self {
        let proc = std::fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str());
        Self {
            proc,
            token: random_token(),
            outer: std::env::var_os(MARKER),
            runs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            probes: BTreeSet::new(),
            markers: BTreeMap::new(),
            members: BTreeMap::new(),
            strangers: BTreeMap::new(),
            zombies: BTreeSet::new(),
            own_children: None,
            text: Vec::new(),
            unclear: BTreeMap::new(),
            open_proc: None,
            // Present where the kernel was built with CONFIG_PROC_CHILDREN.
            children_files: std::fs::exists("/proc/thread-self/children").unwrap_or(false),
        }
    }

    /// What tells this firstmate from any other: random, 16 hexadecimal digits.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether /proc shows our own PID namespace, so that whole trees can be seen. Where it does not, a run is its main process and
    /// that one's group.
    #[must_use]
    pub const fn sees_processes(&self) -> bool {
        self.proc
    }

    /// As if the kernel were built without CONFIG_PROC_CHILDREN: children are found by reading every process of /proc.
    #[must_use]
    pub fn without_children_files(mut self) -> Self {
        self.children_files = false;
        self
    }

    /// The value of [`MARKER`] for a run of `instance` (`web.1`), and for its probes.
    #[must_use]
    pub fn marker(&self, instance: &str, run: RunId) -> OsString {
        let mut value = Vec::new();
        self.write_marker(&mut value, instance, run);
        OsString::from_vec(value)
    }

    /// Replaces `value` by what [`Self::marker`] returns.
    pub fn write_marker(&self, value: &mut Vec<u8>, instance: &str, run: RunId) {
        value.clear();
        if let Some(outer) = &self.outer {
            value.extend_from_slice(outer.as_bytes());
            value.push(b' ');
        }
        self.append_own_marker(value, instance, run);
    }

    fn own_marker(&self, instance: &str, run: RunId) -> Vec<u8> {
        let mut value = Vec::new();
        self.append_own_marker(&mut value, instance, run);
        value
    }

    fn append_own_marker(&self, value: &mut Vec<u8>, instance: &str, run: RunId) {
        // Writing to memory does not fail.
        let _ = write!(value, "{}:{instance}:{}", self.token, run.run);
    }

    /// The run's main process was spawned, as the leader of a session, with the marker in its environment.
    pub fn started(&mut self, run: RunId, instance: &str, leader: u32) {
        self.forget(run);
        // The kernel has just given this number to a child of ours, so it is no longer anything else.
        self.disown(leader);
        for tree in self.runs.values_mut() {
            tree.sessions.remove(&leader);
        }
        let marker = self.own_marker(instance, run);
        self.markers.insert(marker.clone(), run);
        self.leaders.insert(leader, run);
        self.runs.insert(
            run,
            Tree { leader, leader_lives: true, since: None, sessions: BTreeSet::from([leader]), marker, main: None, sent: None },
        );
    }

    /// A probe was spawned. Until it has died, neither it nor what it started is counted; what it leaves behind is, by its marker.
    pub fn probe_started(&mut self, pid: u32) {
        self.disown(pid);
        self.probes.insert(pid);
    }

    /// To be called for every dead child, before it is reaped: the leader's survivors are looked for while it still pins its session.
    pub fn died(&mut self, pid: u32) -> Died {
        let died = if let Some(&run) = self.leaders.get(&pid) {
            if let Some(tree) = self.runs.get_mut(&run) {
                tree.leader_lives = false;
            }
            if !self.proc {
                // Nobody else will be found, and until it is reaped the group is its own.
                let _ = signal_leader(pid, Signal::KILL, Scope::Group);
            }
            let survivors = self.survivors(run);
            self.leaders.remove(&pid);
            Died::Leader { run, survivors }
        } else if self.probes.remove(&pid) {
            Died::Probe
        } else {
            self.members.get(&pid).map_or(Died::Orphan, |member| Died::Member(member.run))
        };
        self.disown(pid);
        died
    }

    /// To be called for every child once it is reaped: from now on its number may be anybody's. Whoever looked at a tree between
    /// `died` and this has seen it dead among our children.
    pub fn reaped(&mut self, pid: u32) {
        self.disown(pid);
    }

    fn disown(&mut self, pid: u32) {
        self.members.remove(&pid);
        self.strangers.remove(&pid);
        self.zombies.remove(&pid);
        self.unclear.remove(&pid);
    }

    /// The run for which a process that runs as the user `uid` may speak, if it is not gone. A probe speaks for none.
    ///
    /// Who descends from a living main process, or is in its session, does: nobody else can get there. What else tells whose process it
    /// is (that it was seen in the tree, another session, its marker) rests on its environment in the end, which anybody may write, and
    /// which every service can read: that is enough to end a process, and to speak only for root, firstmate's own user and those that
    /// the main process runs as. One whose whole ancestry has died between its message and this look is among these; one that
    /// is reaped is not known any more.
    #[must_use]
    pub fn run_of(&mut self, pid: u32, uid: u32) -> Option<RunId> {
        let (run, proven) = self.claim(pid)?;
        let is_trusted = || {
            let leader = self.runs.get(&run).filter(|tree| tree.leader_lives).map(|tree| tree.leader);
            uid == 0 || uid == nix::unistd::geteuid().as_raw() || leader.is_some_and(|leader| user_ids(leader).contains(&uid))
        };
        (proven || is_trusted()).then_some(run)
    }

    /// Which run a process seems to belong to, and whether its own environment has nothing to do with that.
    fn claim(&mut self, pid: u32) -> Option<(RunId, bool)> {
        let own = std::process::id();
        let mut at = pid;
        let mut seen = None;
        let mut claimed = None;
        for _ in 0..GENERATIONS {
            if let Some(&run) = self.leaders.get(&at) {
                return Some((run, true));
            }
            if at <= 1 || at == own || self.probes.contains(&at) || !self.proc {
                break;
            }
            let Some(stat) = read_stat(at) else { break };
            seen.get_or_insert(stat);
            if stat.session != at
                && let Some(&run) = self.leaders.get(&stat.session)
            {
                // The main process is not reaped, so its session is nobody else's.
                return Some((run, true));
            }
            if claimed.is_none() {
                claimed = self.members.get(&at).filter(|member| member.started == stat.started).map(|member| member.run);
            }
            if claimed.is_none() && stat.session != at {
                claimed = self.run_of_session(stat.session, stat.started);
            }
            at = stat.ppid;
        }
        if self.probes.contains(&at) || seen.is_none() {
            return None;
        }
        if let Some(run) = claimed {
            return Some((run, false));
        }
        // Orphaned, and never seen before. Nothing of it is remembered: it need not be a child of ours.
        match self.read_marker(pid) {
            Mark::Of(run) => Some((run, false)),
            Mark::None | Mark::Unreadable => None,
        }
    }

    /// Signals for the main process go to this member of the run's tree from now on, as long as it is there; see `MAINPID=` in
    /// sd_notify(3). Returns false where it is no living member, or one that may not speak for the run.
    pub fn set_main(&mut self, run: RunId, pid: u32) -> bool {
        let real = user_ids(pid).first().copied();
        if real.and_then(|uid| self.run_of(pid, uid)) != Some(run) {
            return false;
        }
        let Some(stat) = read_stat(pid).filter(|stat| stat.lives) else { return false };
        let Some(tree) = self.runs.get_mut(&run) else { return false };
        tree.main = (pid != tree.leader).then_some((pid, stat.started));
        true
    }

    /// The living processes of the run's tree, without its leader, and those of which that cannot be said yet. With nothing left
    /// behind this costs one look at our children.
    ///
    /// After a drain ask once for each run that waits for its survivors, not after each dead orphan.
    pub fn survivors(&mut self, run: RunId) -> Vec<u32> {
        let mut pids: Vec<u32> = self.look(run).into_iter().map(|process| process.pid).collect();
        let since = self.runs.get(&run).and_then(|tree| tree.since).unwrap_or_default();
        let suspects = self.unclear.iter().filter(|&(_, &(started, first_seen))| since <= started && first_seen.elapsed() < UNCLEAR_FOR);
        pids.extend(suspects.map(|(&pid, _)| pid));
        pids
    }

    /// Sends a signal to the run: to its main process or that one's group, or to every survivor once the main process is dead.
    pub fn signal(&mut self, run: RunId, signal: Signal, scope: Scope) -> Sent {
        self.send(run, &[signal], scope)
    }

    fn send(&mut self, run: RunId, signals: &[Signal], scope: Scope) -> Sent {
        // While parentage still shows who belongs here, remember who does.
        let members = self.look(run);
        let mut sent = Sent::default();
        let Some(tree) = self.runs.get(&run) else { return sent };
        for &signal in signals {
            sent = Sent::default();
            if tree.leader_lives {
                let told = tree.main.filter(|_| scope == Scope::Main).map(|(pid, started)| (pid, signal_exactly(pid, started, signal)));
                match told {
                    None | Some((_, Err(Errno::ESRCH))) => sent.add(tree.leader, signal_leader(tree.leader, signal, scope)),
                    Some((pid, result)) => sent.add(pid, result),
                }
                continue;
            }
            for process in &members {
                sent.add(process.pid, signal_exactly(process.pid, process.started, signal));
            }
        }
        sent
    }

    /// Sends a signal to every process of the run's tree, its main process first.
    pub fn signal_all(&mut self, run: RunId, signal: Signal) -> Sent {
        let members = self.look(run);
        let mut sent = Sent::default();
        if let Some(tree) = self.runs.get(&run).filter(|tree| tree.leader_lives) {
            sent.add(tree.leader, signal_leader(tree.leader, signal, Scope::Main));
        }
        for process in members {
            sent.add(process.pid, signal_exactly(process.pid, process.started, signal));
        }
        sent
    }

    /// As `signal`, and then SIGCONT, without which a stopped process would not get to see it.
    pub fn stop(&mut self, run: RunId, signal: Signal, scope: Scope) -> Sent {
        if let Some(tree) = self.runs.get_mut(&run).filter(|tree| !tree.leader_lives) {
            tree.sent = Some((signal, BTreeSet::new()));
            return self.pass_on(run);
        }
        self.send(run, &[signal, Signal::CONT], scope)
    }

    /// Sends what the survivors of a dead leader were last asked with to those that were not there, or not known, then.
    pub fn pass_on(&mut self, run: RunId) -> Sent {
        let mut sent = Sent::default();
        if self.runs.get(&run).is_none_or(|tree| tree.sent.is_none()) {
            return sent;
        }
        let members = self.look(run);
        let Some(Some((signal, told))) = self.runs.get_mut(&run).map(|tree| tree.sent.as_mut()) else { return sent };
        for process in members {
            if told.insert((process.pid, process.started)) {
                sent.add(process.pid, signal_exactly(process.pid, process.started, *signal));
                // Gone, or refused as the first one was: there is nothing more to say.
                let _ = signal_exactly(process.pid, process.started, Signal::CONT);
            }
        }
        sent
    }

    /// SIGKILL to every process of the run's tree, until no new one is seen.
    pub fn kill_tree(&mut self, run: RunId) -> Sent {
        let mut sent = Sent::default();
        let mut done = BTreeSet::new();
        for _ in 0..ROUNDS {
            let members = self.look(run);
            if done.is_empty()
                && let Some(tree) = self.runs.get(&run)
                && tree.leader_lives
            {
                // The whole group at one blow, so that it cannot fork faster than we look.
                sent.add(tree.leader, signal_leader(tree.leader, Signal::KILL, Scope::Group));
            }
            let mut news = done.is_empty();
            for process in members {
                if done.insert((process.pid, process.started)) {
                    news = true;
                    sent.add(process.pid, signal_exactly(process.pid, process.started, Signal::KILL));
                }
            }
            done.insert((0, 0));
            if !news {
                break;
            }
        }
        sent
    }

    /// The run is over: nothing of it is left, or it is given up.
    pub fn forget(&mut self, run: RunId) {
        if let Some(tree) = self.runs.remove(&run) {
            self.markers.remove(&tree.marker);
            self.leaders.remove(&tree.leader);
            self.members.retain(|_, member| member.run != run);
        }
    }

    /// Looks at the run's tree, remembers who is in it, and returns the living but for the leader.
    ///
    /// Who dies while we look hands its children to firstmate, behind our back: then the picture is taken again.
    fn look(&mut self, run: RunId) -> Vec<Process> {
        let mut found = Vec::new();
        let mut dead = BTreeSet::new();
        for _ in 0..ROUNDS {
            let known_dead = dead.len();
            found = self.look_once(run, &mut dead);
            if dead.len() == known_dead {
                break;
            }
        }
        let seen: BTreeSet<u32> = found.iter().map(|process| process.pid).collect();
        self.members.retain(|pid, member| {
            if member.run != run || seen.contains(pid) {
                return true;
            }
            match read_stat(*pid) {
                Some(stat) if stat.started == member.started => {
                    if stat.lives {
                        found.push(Process { pid: *pid, started: stat.started, session: stat.session });
                    }
                    // The dead stay known too, until `died` asks who they were.
                    true
                }
                _ => false,
            }
        });
        self.members.extend(found.iter().map(|process| (process.pid, Member { run, started: process.started })));
        if let Some(tree) = self.runs.get_mut(&run) {
            // A session number that nobody in the tree has any more may be given to anyone.
            tree.sessions = found.iter().map(|process| process.session).collect();
            if tree.leader_lives {
                tree.sessions.insert(tree.leader);
            }
        }
        found
    }

    /// The children of this thread, which are all of ours: nobody else here forks, and orphans are given to the first thread.
    fn own_children(&mut self, own: u32) -> Vec<u32> {
        let mut children = Vec::new();
        self.read_own_children(own, &mut children);
        children
    }

    /// Replaces `children` by them. Returns false when they cannot be read: there is no descriptor left.
    fn read_own_children(&mut self, own: u32, children: &mut Vec<u32>) -> bool {
        children.clear();
        if self.own_children.is_none() {
            self.own_children = File::open(format!("/proc/{own}/task/{own}/children")).ok();
        }
        let Some(file) = &mut self.own_children else { return false };
        self.text.clear();
        if file.seek(SeekFrom::Start(0)).and_then(|_| read_all(file, &mut self.text)).is_err() {
            // As good as not there; opened anew next time.
            self.own_children = None;
        }
        children.extend(self.text.split(|&byte| byte == b' ').filter_map(parse_number::<u32>));
        self.own_children.is_some()
    }

    /// Only where there is somebody to compare with: most runs end without.
    fn learn_since(&mut self, run: RunId) {
        let Some(tree) = self.runs.get_mut(&run) else { return };
        // Once the leader is reaped its pid tells nothing any more.
        if tree.since.is_none() && self.leaders.get(&tree.leader) == Some(&run) {
            tree.since = read_stat(tree.leader).map(|stat| stat.started);
        }
    }

    fn look_once(&mut self, run: RunId, dead: &mut BTreeSet<u32>) -> Vec<Process> {
        if !self.proc {
            return Vec::new();
        }
        let Some(tree) = self.runs.get(&run) else { return Vec::new() };
        let (leader, leader_lives) = (tree.leader, tree.leader_lives);
        let mut kin = if self.children_files { Kin::Files } else { Kin::scan() };
        let own = std::process::id();
        let mut queue = Vec::new();
        let mut unclear = Vec::new();
        let children = match &kin {
            Kin::Files => self.own_children(own),
            Kin::Scanned(_) => kin.children(own),
        };
        for child in children {
            if self.leaders.contains_key(&child) || self.probes.contains(&child) || self.zombies.contains(&child) {
                continue;
            }
            self.learn_since(run);
            match self.owner(child, dead) {
                Mark::Of(owner) if owner == run => queue.push(child),
                Mark::Of(_) | Mark::None => {}
                Mark::Unreadable => unclear.push(child),
            }
        }
        if leader_lives {
            queue.push(leader);
        }
        let mut seen = BTreeSet::from([own]);
        while let Some(pid) = unclear.pop() {
            if !seen.insert(pid) {
                continue;
            }
            let children = kin.children(pid);
            if read_stat(pid).is_none_or(|stat| !stat.lives) {
                // Its children are ours now: look again.
                dead.insert(pid);
                continue;
            }
            for child in children {
                match self.owner(child, dead) {
                    Mark::Of(owner) if owner == run => queue.push(child),
                    Mark::Of(_) | Mark::None => {}
                    Mark::Unreadable => unclear.push(child),
                }
            }
        }
        descend(&mut kin, queue, seen, leader_lives.then_some(leader), dead)
    }

    /// Which run a process belongs to that is neither leader nor probe: a child of ours, or of one whose owner is not clear.
    fn owner(&mut self, pid: u32, dead: &mut BTreeSet<u32>) -> Mark {
        let stat = read_stat(pid);
        let Some(living) = stat.filter(|stat| stat.lives) else {
            self.seen_dead(pid, stat);
            dead.insert(pid);
            return Mark::None;
        };
        self.owner_of(pid, living)
    }

    fn seen_dead(&mut self, pid: u32, stat: Option<Stat>) {
        if stat.is_some_and(|stat| stat.ppid == std::process::id()) {
            self.zombies.insert(pid);
        }
        self.unclear.remove(&pid);
    }

    fn owner_of(&mut self, pid: u32, stat: Stat) -> Mark {
        if let Some(member) = self.members.get(&pid)
            && member.started == stat.started
        {
            return Mark::Of(member.run);
        }
        if self.strangers.get(&pid) == Some(&stat.started) {
            return Mark::None;
        }
        // A session leader that was not seen before has the number of a session that is no more.
        if stat.session != pid
            && let Some(run) = self.run_of_session(stat.session, stat.started)
        {
            return Mark::Of(run);
        }
        let mark = self.read_marker(pid);
        match mark {
            Mark::Of(_) => drop(self.unclear.remove(&pid)),
            Mark::Unreadable => {
                let entry = self.unclear.entry(pid).or_insert_with(|| (stat.started, Instant::now()));
                if entry.0 != stat.started {
                    *entry = (stat.started, Instant::now());
                }
            }
            Mark::None => {
                self.unclear.remove(&pid);
                self.strangers.insert(pid, stat.started);
            }
        }
        mark
    }

    fn run_of_session(&mut self, session: u32, started: u64) -> Option<RunId> {
        let run = self.runs.iter().find(|(_, tree)| tree.sessions.contains(&session)).map(|(&run, _)| run)?;
        self.learn_since(run);
        let tree = self.runs.get(&run)?;
        tree.since.is_none_or(|since| since <= started).then_some(run)
    }

    fn read_marker(&self, pid: u32) -> Mark {
        let Ok(environment) = open_environment(pid).and_then(|file| read_at_once(&file)) else { return Mark::Unreadable };
        if environment.iter().all(|&byte| byte == 0) {
            return Mark::Unreadable;
        }
        environment
            .split(|&byte| byte == 0)
            .filter_map(|entry| entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))
            .flat_map(|value| value.split(|&byte| byte == b' '))
            .find_map(|marker| self.markers.get(marker))
            .map_or(Mark::None, |&run| Mark::Of(run))
    }
}

impl Default for Trees {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of a process's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Of(RunId),
    None,
    /// Nothing at present.
    Unreadable,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    started: u64,
    session: u32,
}

/// The real, effective, saved and file-system user id of a process; see `Uid` in proc_pid_status(5). Nothing where it is gone.
fn user_ids(pid: u32) -> Vec<u32> {
    let mut buffer = [0_u8; 1024];
    let Ok(length) = File::open(format!("/proc/{pid}/status")).and_then(|mut file| file.read(&mut buffer)) else { return Vec::new() };
    let text = buffer.get(..length).unwrap_or_default();
    let ids = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:")).unwrap_or_default();
    ids.split(|&byte| byte == b'\t').filter_map(parse_number).collect()
}

/// 16 hexadecimal digits that nobody else has.
pub(super) fn random_token() -> String {
    let mut bytes = [0_u8; 8];
    // SAFETY: `bytes` has room for its own length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    if usize::try_from(got) != Ok(bytes.len()) {
        // A machine that has just booted has no randomness yet. It need not be secret, only different from another firstmate's.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let [.., a, b, c, d, e, f, g, h] = (now ^ u128::from(std::process::id()).wrapping_shl(40)).to_be_bytes();
        bytes = [a, b, c, d, e, f, g, h];
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who lives of these and of all below them, but for the leader. `seen` is whom the way has come by; who was seen dead has handed its
/// children on, and is added to `dead`.
fn descend(kin: &mut Kin, mut queue: Vec<u32>, mut seen: BTreeSet<u32>, leader: Option<u32>, dead: &mut BTreeSet<u32>) -> Vec<Process> {
    let mut found = Vec::new();
    while let Some(pid) = queue.pop() {
        if !seen.insert(pid) {
            continue;
        }
        // Children first: if it still lives afterwards, the list was whole.
        let children = kin.children(pid);
        match read_stat(pid) {
            // Its parent is one we came by, or it was orphaned meanwhile and is ours now.
            Some(stat) if stat.lives && seen.contains(&stat.ppid) => {
                if leader != Some(pid) {
                    found.push(Process { pid, started: stat.started, session: stat.session });
                }
                queue.extend(children);
            }
            _ => drop(dead.insert(pid)),
        }
    }
    found
}

/// Who is whose child.
enum Kin {
    /// Asked of the kernel, process by process.
    Files,
    /// All of /proc, read once.
    Scanned(BTreeMap<u32, Vec<u32>>),
}

impl Kin {
    fn scan() -> Self {
        let mut by_parent: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for pid in numbers_in("/proc") {
            if let Some(stat) = read_stat(pid) {
                by_parent.entry(stat.ppid).or_default().push(pid);
            }
        }
        Self::Scanned(by_parent)
    }

    fn children(&mut self, pid: u32) -> Vec<u32> {
        match self {
            Self::Scanned(by_parent) => by_parent.get(&pid).cloned().unwrap_or_default(),
            Self::Files => {
                let mut children = Vec::new();
                read_children(pid, &mut Vec::new(), &mut children);
                children
            }
        }
    }
}

/// Appends the children of a process. Each thread has those it forked; see proc_tid_children(5).
///
/// Returns false when it was not the process's end that cut the list short: there is no descriptor left.
fn read_children(pid: u32, text: &mut Vec<u8>, children: &mut Vec<u32>) -> bool {
    let mut whole = true;
    let mut of_thread = |thread: u32| {
        text.clear();
        match File::open(format!("/proc/{pid}/task/{thread}/children")).and_then(|mut file| read_all(&mut file, text)) {
            Ok(()) => children.extend(text.split(|&byte| byte == b' ').filter_map(parse_number::<u32>)),
            Err(error) => whole &= matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
        }
    };
    // With one thread, which the link count of the directory tells (2 and the threads), there is no need to list them.
    let tasks = format!("/proc/{pid}/task");
    let links = std::fs::metadata(&tasks).map(|tasks| tasks.nlink());
    if links.as_ref().is_ok_and(|&links| links == 3) {
        of_thread(pid);
        return whole;
    }
    let threads = numbers_in(&tasks);
    threads.iter().copied().for_each(of_thread);
    whole && (links.is_err() || !threads.is_empty())
}

/// As `read_to_end`, which asks for the size first: a file in /proc has none.
fn read_all(file: &mut File, text: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0_u8; 2048];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
}

pub(super) fn numbers_in(directory: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| parse_number(entry.ok()?.file_name().as_bytes())).collect()
}

fn parse_number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What matters of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stat {
    ppid: u32,
    session: u32,
    /// Clock ticks after boot: with the pid, the identity of a process.
    started: u64,
    lives: bool,
    /// Forked, and no program executed since.
    forked: bool,
    /// On a processor, in user and in kernel mode, with that of children it has waited for; in clock ticks.
    cpu: u64,
}

/// The flag of a process that was forked and has executed nothing since; see PF_FORKNOEXEC in Linux's include/linux/sched.h. It has had
/// this value since Linux 2.0, and unlike /proc/PID/exe it is shown to everybody.
const FORKED: u32 = 0x40;

fn read_stat(pid: u32) -> Option<Stat> {
    let mut buffer = [0_u8; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer)).ok()?;
    parse_stat(buffer.get(..length)?)
}

/// How long a process was on a processor, with the children it has waited for, in clock ticks. It may be a zombie.
pub(super) fn cpu_ticks(pid: u32) -> Option<u64> {
    read_stat(pid).map(|stat| stat.cpu)
}

/// When a process started, in clock ticks after boot; `None` when there is none of that number.
pub(super) fn start_time(proc: &Path, pid: u32) -> Option<u64> {
    let mut buffer = [0_u8; 1024];
    let length = File::open(proc.join(format!("{pid}/stat"))).and_then(|mut file| file.read(&mut buffer)).ok()?;
    parse_stat(buffer.get(..length)?).map(|stat| stat.started)
}

/// See proc_pid_stat(5). The name in parentheses may hold anything, parentheses too; after it there are only letters and numbers.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = text.get(end_of_name.checked_add(2)?..)?.split(|&byte| byte == b' ');
    let state = fields.next()?;
    let ppid = parse_number(fields.next()?)?;
    let session = parse_number(fields.nth(1)?)?;
    // From field 6 on to number 9, the flags, numbers 14 to 17, the times, number 20, the threads, and number 22, the start.
    let flags: u32 = parse_number(fields.nth(2)?)?;
    let mut cpu: u64 = parse_number(fields.nth(4)?)?;
    for _ in 0..3 {
        cpu = cpu.saturating_add(parse_number(fields.next()?)?);
    }
    let threads: u32 = parse_number(fields.nth(2)?)?;
    let started = parse_number(fields.nth(1)?)?;
    // A main thread that has ended looks like a zombie while other threads of the process go on.
    let lives = !matches!(state, b"Z" | b"X" | b"x") || threads > 1;
    Some(Stat { ppid, session, started, lives, forked: flags & FORKED != 0, cpu })
}

fn open_environment(pid: u32) -> io::Result<File> {
    open_private(Path::new("/proc"), pid, "environ").map(|(file, _)| file)
}

/// Opens a file of /proc/PID that tells of the process's memory, if need be as the process's own user: the second says whether.
///
/// Under docker's default capabilities root may not look into the memory of other users' processes (there is no CAP_SYS_PTRACE), but
/// those users may; see "Ptrace access mode checking" in ptrace(2).
///
/// The file-system ids and the parent-death signal belong to the calling thread alone, and both are set back. Changing the ids also
/// clears the dumpable flag, see prctl(2), and that one is the whole process's: whichever thread is here sets it to what it was when
/// firstmate began, not to what it finds, which may be another thread's interlude. A child that is forked meanwhile has the
/// ids of the thread that forked it, and gets a new flag from execve; until then it is as if it had changed its user already.
pub(super) fn open_private(proc: &Path, pid: u32, name: &str) -> io::Result<(File, bool)> {
    let directory = proc.join(pid.to_string());
    let path = directory.join(name);
    let refused = match File::open(&path) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
        result => return result.map(|file| (file, false)),
    };
    // The directory belongs to the process's user; to root where the process let nobody look, and then there is no way.
    let owner = std::fs::metadata(&directory)?;
    if owner.uid() == nix::unistd::geteuid().as_raw() {
        return Err(refused);
    }
    let dumpable = own_dumpable();
    // SAFETY: numbers and one pointer to an int. The ids are set back to what they were before anything else is done.
    let result = unsafe {
        let mut death_signal: libc::c_int = 0;
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death_signal, 0, 0, 0);
        let group = libc::syscall(libc::SYS_setfsgid, owner.gid());
        let user = libc::syscall(libc::SYS_setfsuid, owner.uid());
        let result = File::open(&path);
        libc::syscall(libc::SYS_setfsuid, user);
        libc::syscall(libc::SYS_setfsgid, group);
        libc::prctl(libc::PR_SET_DUMPABLE, libc::c_long::from(dumpable), 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_long::from(death_signal), 0, 0, 0);
        result
    };
    result.map(|file| (file, true))
}

/// Whether firstmate's own memory may be looked into, as it was when that was first asked: before there was a second thread that changes
/// its ids.
pub(super) fn own_dumpable() -> libc::c_int {
    static DUMPABLE: OnceLock<libc::c_int> = OnceLock::new();
    // SAFETY: numbers only.
    *DUMPABLE.get_or_init(|| unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) })
}

/// The whole content by one read, during which a process keeps its memory. Several would show the beginning only of one that exits
/// between them, and it would look as if it had no marker.
fn read_at_once(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; ENVIRONMENT_FIRST];
    loop {
        let length = file.read_at(&mut bytes, 0)?;
        if length < bytes.len() || length >= ENVIRONMENT_MAX {
            bytes.truncate(length);
            return Ok(bytes);
        }
        bytes.resize(length.saturating_mul(4), 0);
    }
}

fn errno_of(result: impl Into<i64>) -> Result<(), Errno> {
    if result.into() == -1 { Err(Errno::last()) } else { Ok(()) }
}

fn kill(pid: i32, signal: Signal) -> Result<(), Errno> {
    // SAFETY: numbers only.
    errno_of(unsafe { libc::kill(pid, signal.number()) })
}

/// The leader is a child of ours that is not reaped, so its pid and group are its own.
fn signal_leader(leader: u32, signal: Signal, scope: Scope) -> Result<(), Errno> {
    // 0 and 1 would be our own group, and everybody.
    let Some(pid) = i32::try_from(leader).ok().filter(|&pid| pid > 1) else { return Err(Errno::ESRCH) };
    if scope == Scope::Main {
        return kill(pid, signal);
    }
    match kill(pid.saturating_neg(), signal) {
        // Just forked: it has not made its group yet.
        Err(Errno::ESRCH) => kill(pid, signal),
        result => result,
    }
}

/// To this process and to no later owner of its pid.
fn signal_exactly(pid: u32, started: u64, signal: Signal) -> Result<(), Errno> {
    let Some(number) = i32::try_from(pid).ok().filter(|&pid| pid > 1) else { return Err(Errno::ESRCH) };
    // SAFETY: numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    let pin = match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(fd) if fd >= 0 => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ if Errno::last() == Errno::ESRCH => return Err(Errno::ESRCH),
        // Before Linux 5.3, or refused by a seccomp profile, or out of descriptors.
        _ => None,
    };
    if read_stat(pid).is_none_or(|stat| stat.started != started) {
        return Err(Errno::ESRCH);
    }
    if let Some(pin) = pin {
        // SAFETY: no siginfo is given, the rest are numbers.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pin.as_raw_fd(), signal.number(), std::ptr::null::<libc::siginfo_t>(), 0) };
        match errno_of(result) {
            Err(Errno::ENOSYS) => {}
            result => return result,
        }
    }
    kill(number, signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{InstanceId, ServiceId};

    const REST: &str = "4 0 -1 4194560 107 0 0 0 0 0 0 0 20 0 1 0 4242 2940928 219 18446744073709551615";

    #[test]
    fn a_name_of_parentheses_and_blanks_does_not_mislead() {
        for name in ["sh", "a) R (b", ")", "((", "a) Z 1 1 1 1", "x\n) S 1", ""] {
            let stat = parse_stat(format!("12 ({name}) S 7 5 {REST}\n").as_bytes());
            assert_eq!(stat, Some(Stat { ppid: 7, session: 4, started: 4242, lives: true, forked: false, cpu: 0 }), "{name}");
        }
    }

    #[test]
    fn the_time_on_a_processor_is_ones_own_and_that_of_ended_children() {
        let rest = REST.replace("107 0 0 0 0 0 0 0 20", "107 1 2 3 10 200 3000 40000 20");
        assert_eq!(parse_stat(format!("12 (x) S 7 5 {rest}").as_bytes()).map(|stat| stat.cpu), Some(43_210));
    }

    #[test]
    fn a_zombie_lives_only_through_its_other_threads() {
        let lives = |state: &str, threads: &str| {
            let rest = REST.replace(" 20 0 1 0 ", &format!(" 20 0 {threads} 0 "));
            parse_stat(format!("12 (x) {state} 7 5 {rest}").as_bytes()).map(|stat| stat.lives)
        };
        assert_eq!(lives("Z", "0"), Some(false));
        assert_eq!(lives("Z", "1"), Some(false));
        assert_eq!(lives("Z", "3"), Some(true));
        assert_eq!(lives("T", "1"), Some(true));
    }

    #[test]
    fn a_fork_is_told_from_a_program() {
        let forked = |flags: &str| {
            let rest = REST.replace(" 4194560 ", &format!(" {flags} "));
            parse_stat(format!("12 (x) S 7 5 {rest}").as_bytes()).map(|stat| stat.forked)
        };
        assert_eq!(forked("4194368"), Some(true));
        assert_eq!(forked("4194304"), Some(false));
        assert_eq!(forked("x"), None);
    }

    #[test]
    fn a_cut_or_foreign_text_is_no_process() {
        let whole = format!("12 (x) S 7 5 {REST}");
        assert!(parse_stat(whole.as_bytes()).is_some());
        let start = whole.find("4242").unwrap();
        for length in 0..=start {
            assert_eq!(parse_stat(&whole.as_bytes()[..length]), None, "{length}");
        }
        assert_eq!(parse_stat(b"12 (x) S -7 5 4 3"), None);
    }

    #[test]
    fn a_remembered_pid_with_another_start_is_somebody_else() {
        let own = std::process::id();
        let started = read_stat(own).unwrap().started;
        let nothing = Signal::from_number(libc::SIGCONT).unwrap();
        assert_eq!(signal_exactly(own, started, nothing), Ok(()));
        assert_eq!(signal_exactly(own, started + 1, nothing), Err(Errno::ESRCH));
        assert_eq!(signal_exactly(0, 0, nothing), Err(Errno::ESRCH));
        assert_eq!(signal_exactly(u32::MAX, 0, nothing), Err(Errno::ESRCH));
    }

    #[test]
    fn a_marker_names_token_instance_and_run() {
        let trees = Trees { outer: None, ..Trees::new() };
        let run = RunId { instance: InstanceId { service: ServiceId(0), number: 1 }, run: 3 };
        let marker = trees.marker("web.1", run).into_string().unwrap();
        assert_eq!(marker, format!("{}:web.1:3", trees.token));
        assert_ne!(Trees::new().token, trees.token);
        let nested = Trees { outer: Some("abc:x.1:1".into()), ..trees };
        assert_eq!(nested.marker("web.1", run).into_string().unwrap(), format!("abc:x.1:1 {marker}"));
    }
}
