//! Every process of every run at one look, for those who count and do not signal.
//!
//! Who belongs to a run is decided as everywhere in [`super`]: by parentage, by what was seen before, by session, by marker; and what is
//! seen here is remembered, so that it is known later. What cannot be told apart for a moment (an environment that cannot be read)
//! belongs to nobody.
//!
//! There are two ways. Where firstmate is PID 1 nearly every process is a service's, and reading all of /proc once is cheapest and
//! costs the same however many threads they have. Elsewhere the trees are walked from the leaders, by the lists of children, so that
//! the machine's other processes cost nothing.
//!
//! A process that is there and of which nothing can be read (hidepid, or no descriptor left) makes the picture of its run incomplete,
//! or of every run where nobody can say whose it is, and that is said; one that has just died does not.

use std::collections::{BTreeSet, HashSet};

use nix::errno::Errno;

use super::{Mark, Member, Stat, Trees, numbers_in, parse_stat, read_children, read_stat};
use crate::engine::RunId;

/// How often a changing picture is taken again. Fewer times than before a signal is sent: who is missed is counted at the next look.
const ROUNDS: usize = 3;

/// A living process of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    /// Whose it is.
    pub run: RunId,
    /// Its pid.
    pub pid: u32,
    /// Clock ticks after boot: with the pid, its identity.
    pub started: u64,
    /// Its parent's pid.
    pub parent: u32,
    /// It was forked and has executed no program since.
    pub forked: bool,
    /// How long it was on a processor, with the children it has waited for, in clock ticks.
    pub cpu_ticks: u64,
    session: u32,
}

/// What [`Trees::census`] saw. It is meant to be used again for the next look, which then allocates nothing new.
#[derive(Debug, Default)]
pub struct Census {
    members: Vec<Sighting>,
    hidden: BTreeSet<RunId>,
    /// All living processes in /proc where it was listed, in ascending order.
    listed: Vec<u32>,
    /// Dead and not reaped, where /proc was listed.
    zombies: u32,
    queue: Vec<(u32, RunId)>,
    unclear: Vec<u32>,
    children: Vec<u32>,
    text: Vec<u8>,
    seen: HashSet<u32>,
    /// Seen dead at this look and at the one before: pid and start time, where there is one.
    dead: BTreeSet<(u32, u64)>,
    known_dead: BTreeSet<(u32, u64)>,
    scanned: Vec<Scanned>,
    sessions: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scanned {
    parent: u32,
    pid: u32,
    stat: Stat,
}

impl Census {
    /// All processes seen, by run and pid in ascending order.
    #[must_use]
    pub fn members(&self) -> &[Sighting] {
        &self.members
    }

    /// Those of this run.
    #[must_use]
    pub fn of(&self, run: RunId) -> &[Sighting] {
        let start = self.members.partition_point(|member| member.run < run);
        let rest = self.members.get(start..).unwrap_or_default();
        rest.get(..rest.partition_point(|member| member.run == run)).unwrap_or_default()
    }

    /// Runs of which not everything could be seen.
    #[must_use]
    pub const fn hidden(&self) -> &BTreeSet<RunId> {
        &self.hidden
    }

    /// How many are dead and not reaped, in the whole container. Known where all of /proc was read: where firstmate is PID 1.
    #[must_use]
    pub fn zombies(&self) -> Option<u32> {
        self.listed().map(|_| self.zombies)
    }

    /// All living processes in /proc, in ascending order, if it was listed.
    pub(in crate::linux) fn listed(&self) -> Option<&[u32]> {
        (!self.listed.is_empty()).then_some(&*self.listed)
    }

    fn sees_dead(&mut self, pid: u32, stat: Option<Stat>) {
        self.dead.insert((pid, stat.map_or(u64::MAX, |stat| stat.started)));
    }
}

/// What a look at one process shows.
enum Glance {
    Alive(Stat),
    /// Dead, with what is left of it until it is reaped.
    Dead(Option<Stat>),
    /// There, and not to be read.
    Hidden,
}

fn glance(pid: u32) -> Glance {
    use std::io::Read as _;
    let mut buffer = [0_u8; 1024];
    let read = std::fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut buffer));
    match read.ok().and_then(|length| parse_stat(buffer.get(..length)?)) {
        Some(stat) if stat.lives => Glance::Alive(stat),
        Some(stat) => Glance::Dead(Some(stat)),
        None if exists(pid) => Glance::Hidden,
        None => Glance::Dead(None),
    }
}

/// Whether there is a process of that number, zombies included, also where /proc does not show it.
pub(in crate::linux) fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|&pid| pid > 0) else { return false };
    // SAFETY: signal 0 is none; numbers only.
    unsafe { libc::kill(pid, 0) == 0 || Errno::last() != Errno::ESRCH }
}

impl Trees {
    /// Looks at the processes of all runs at once, leaders included, and remembers who is in them.
    ///
    /// A probe and what it started is not seen while the probe runs.
    pub fn census(&mut self, census: &mut Census) {
        let scan = !self.children_files || (std::process::id() == 1 && self.shows_everybody());
        for _ in 0..ROUNDS {
            census.members.clear();
            census.hidden.clear();
            census.listed.clear();
            census.queue.clear();
            census.unclear.clear();
            census.seen.clear();
            if !self.proc {
                census.hidden.extend(self.runs.iter().filter(|(_, tree)| tree.leader_lives).map(|(&run, _)| run));
                return;
            }
            let whole = if scan { self.count_by_scan(census) } else { self.count_by_files(census) };
            if whole {
                break;
            }
        }
        self.remember(census);
        census.members.sort_unstable();
    }

    /// Whether /proc shows every process of its PID namespace to everybody: it is mounted without hidepid; see proc(5).
    pub(in crate::linux) fn shows_everybody(&mut self) -> bool {
        *self.open_proc.get_or_insert_with(|| self.proc && std::fs::read("/proc/self/mountinfo").is_ok_and(|text| hides_nobody(&text)))
    }

    fn hide_all(&self, census: &mut Census) {
        census.hidden.extend(self.runs.keys());
    }

    /// Gives each child of ours, or of somebody unclear, to the run it belongs to.
    fn assign(&mut self, pid: u32, stat: Stat, queue: &mut Vec<(u32, RunId)>, unclear: &mut Vec<u32>) {
        match self.owner_of(pid, stat) {
            Mark::Of(run) => queue.push((pid, run)),
            Mark::None => {}
            Mark::Unreadable => unclear.push(pid),
        }
    }

    fn count_by_files(&mut self, census: &mut Census) -> bool {
        let own = std::process::id();
        census.seen.insert(own);
        census.queue.extend(self.runs.iter().filter(|(_, tree)| tree.leader_lives).map(|(&run, tree)| (tree.leader, run)));
        let mut children = std::mem::take(&mut census.children);
        if !self.read_own_children(own, &mut children) {
            self.hide_all(census);
        }
        for &child in &children {
            if self.leaders.contains_key(&child) || self.probes.contains(&child) || self.zombies.contains(&child) {
                continue;
            }
            self.look_at_child(child, census);
        }
        while let Some(pid) = census.unclear.pop() {
            if !census.seen.insert(pid) {
                continue;
            }
            children.clear();
            if !read_children(pid, &mut census.text, &mut children) {
                self.hide_all(census);
            }
            if let Glance::Dead(stat) = glance(pid) {
                // Its children are ours now: look again.
                census.sees_dead(pid, stat);
                continue;
            }
            for &child in &children {
                self.look_at_child(child, census);
            }
        }
        while let Some((pid, run)) = census.queue.pop() {
            if !census.seen.insert(pid) {
                continue;
            }
            // Children first: if it still lives afterwards, the list was whole.
            children.clear();
            if !read_children(pid, &mut census.text, &mut children) {
                census.hidden.insert(run);
            }
            match glance(pid) {
                // Its parent is one we came by, or it was orphaned meanwhile and is ours now.
                Glance::Alive(stat) if census.seen.contains(&stat.ppid) => {
                    census.members.push(sighting(run, pid, stat));
                    census.queue.extend(children.iter().map(|&child| (child, run)));
                }
                Glance::Alive(stat) | Glance::Dead(Some(stat)) => census.sees_dead(pid, Some(stat)),
                Glance::Dead(None) => census.sees_dead(pid, None),
                Glance::Hidden => drop(census.hidden.insert(run)),
            }
        }
        census.children = children;
        // Zombies that nobody collects were there at the last look too.
        let whole = census.dead.is_subset(&census.known_dead);
        std::mem::swap(&mut census.dead, &mut census.known_dead);
        census.dead.clear();
        whole
    }

    fn look_at_child(&mut self, child: u32, census: &mut Census) {
        match glance(child) {
            Glance::Alive(stat) => self.assign(child, stat, &mut census.queue, &mut census.unclear),
            Glance::Dead(stat) => {
                self.seen_dead(child, stat);
                census.sees_dead(child, stat);
            }
            // Nobody can say whose it is.
            Glance::Hidden => self.hide_all(census),
        }
    }

    fn count_by_scan(&mut self, census: &mut Census) -> bool {
        let own = std::process::id();
        census.scanned.clear();
        census.zombies = 0;
        for pid in numbers_in("/proc") {
            match glance(pid) {
                Glance::Alive(stat) => {
                    census.scanned.push(Scanned { parent: stat.ppid, pid, stat });
                    census.listed.push(pid);
                }
                Glance::Dead(Some(_)) => census.zombies = census.zombies.saturating_add(1),
                Glance::Dead(None) => {}
                Glance::Hidden => self.hide_all(census),
            }
        }
        census.scanned.sort_unstable();
        census.listed.sort_unstable();
        // Without a descriptor for it the list is empty.
        if !self.shows_everybody() || census.listed.binary_search(&own).is_err() {
            self.hide_all(census);
        }
        census.seen.insert(own);
        let scanned = std::mem::take(&mut census.scanned);
        for child in children_in(&scanned, own) {
            if let Some(&run) = self.leaders.get(&child.pid) {
                if self.runs.get(&run).is_some_and(|tree| tree.leader_lives) {
                    census.queue.push((child.pid, run));
                }
            } else if !self.probes.contains(&child.pid) {
                self.assign(child.pid, child.stat, &mut census.queue, &mut census.unclear);
            }
            // The queue is worked off at once: then it need not hold what is known of the process.
            while let Some(pid) = census.unclear.pop() {
                if census.seen.insert(pid) {
                    for child in children_in(&scanned, pid) {
                        self.assign(child.pid, child.stat, &mut census.queue, &mut census.unclear);
                    }
                }
            }
        }
        let mut whole = true;
        let mut stats = std::mem::take(&mut census.queue);
        // Roots first; whoever is found below them is added at the end.
        let mut next = 0;
        while let Some(&(pid, run)) = stats.get(next) {
            next = next.saturating_add(1);
            if census.seen.insert(pid) {
                stats.extend(children_in(&scanned, pid).iter().map(|child| (child.pid, run)));
            }
        }
        stats.sort_unstable();
        for process in &scanned {
            if let Ok(index) = stats.binary_search_by_key(&process.pid, |&(pid, _)| pid)
                && let Some(&(pid, run)) = stats.get(index)
            {
                census.members.push(sighting(run, pid, process.stat));
            } else if process.parent != 0 && !census.seen.contains(&process.parent) && census.listed.binary_search(&process.parent).is_err()
            {
                // Its parent died after it was looked at: by now it belongs to somebody else, perhaps to us.
                whole = false;
            }
        }
        census.queue = stats;
        census.scanned = scanned;
        whole
    }

    /// As [`Trees::look`] does for one run.
    fn remember(&mut self, census: &mut Census) {
        let Census { members, seen, sessions, .. } = census;
        self.members.retain(|&pid, member| {
            if seen.contains(&pid) {
                return true;
            }
            // Below somebody of another tree, who adopts orphans as firstmate does.
            match read_stat(pid) {
                Some(stat) if stat.started == member.started => {
                    if stat.lives {
                        members.push(sighting(member.run, pid, stat));
                    }
                    true
                }
                _ => false,
            }
        });
        members.sort_unstable();
        for member in &*members {
            if let Some(tree) = self.runs.get_mut(&member.run) {
                if tree.leader == member.pid && tree.leader_lives {
                    tree.since.get_or_insert(member.started);
                    continue;
                }
                self.members.insert(member.pid, Member { run: member.run, started: member.started });
            }
        }
        for (&run, tree) in &mut self.runs {
            let start = members.partition_point(|member| member.run < run);
            let own = members.get(start..).unwrap_or_default().iter().take_while(|member| member.run == run);
            sessions.clear();
            sessions.extend(own.map(|member| member.session));
            if tree.leader_lives {
                sessions.push(tree.leader);
            }
            sessions.sort_unstable();
            sessions.dedup();
            if !tree.sessions.iter().eq(&*sessions) {
                tree.sessions = sessions.iter().copied().collect();
            }
        }
    }
}

const fn sighting(run: RunId, pid: u32, stat: Stat) -> Sighting {
    Sighting { run, pid, started: stat.started, parent: stat.ppid, forked: stat.forked, cpu_ticks: stat.cpu, session: stat.session }
}

fn children_in(scanned: &[Scanned], parent: u32) -> &[Scanned] {
    let start = scanned.partition_point(|process| process.parent < parent);
    let rest = scanned.get(start..).unwrap_or_default();
    rest.get(..rest.partition_point(|process| process.parent == parent)).unwrap_or_default()
}

/// Of the last file system mounted at /proc: a procfs, and without hidepid. See proc_pid_mountinfo(5).
fn hides_nobody(mountinfo: &[u8]) -> bool {
    let mut open = false;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        if fields.nth(4) != Some(b"/proc") {
            continue;
        }
        // After the optional fields and a dash: type, source, options of the file system.
        let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
        let procfs = fields.next() == Some(b"proc");
        let shows = |option: &[u8]| option.strip_prefix(b"hidepid=").is_none_or(|how| how == b"0" || how == b"off");
        open = procfs && fields.nth(1).is_some_and(|options| options.split(|&byte| byte == b',').all(shows));
    }
    open
}

#[cfg(test)]
mod tests {
    use super::hides_nobody;

    #[test]
    fn hidepid_is_found_in_the_mount_that_is_seen() {
        let line =
            |point: &str, kind: &str, options: &str| format!("22 1 0:21 / {point} rw,nosuid shared:5 master:1 - {kind} proc {options}\n");
        let open = line("/proc", "proc", "rw");
        assert!(hides_nobody(open.as_bytes()));
        for options in ["rw,hidepid=0", "rw,hidepid=off", "rw,gid=5"] {
            assert!(hides_nobody(line("/proc", "proc", options).as_bytes()), "{options}");
        }
        for options in ["rw,hidepid=2", "hidepid=invisible,gid=3", "rw,hidepid=1", "rw,hidepid=4", "rw,hidepid=ptraceable"] {
            let hidden = line("/proc", "proc", options);
            assert!(!hides_nobody(hidden.as_bytes()), "{options}");
            assert!(!hides_nobody((open.clone() + &hidden).as_bytes()), "mounted over it");
            assert!(hides_nobody((hidden + &open).as_bytes()), "mounted over it");
        }
        for other in ["", "x", "/proc", &line("/proc/self", "proc", "rw"), &line("/proc", "tmpfs", "rw"), "22 1 0:21 / /proc rw - proc"] {
            assert!(!hides_nobody(other.as_bytes()), "{other}");
        }
    }
}
