//! Probes that are under way: futures for those that need a socket, children for exec.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::{Message, Owner, PROBE_LAUNCH, PROBE_STREAM, argv_of, start, token};
use crate::engine::spec::{Address, Check, RedisCheck, Service};
use crate::engine::{Event, LaunchError, Outcome, ProbeKind, RunId};
use crate::linux::output::Streams;
use crate::linux::poll::{Interest, Poller};
use crate::linux::probe::{self, Hosts, Login, Place};
use crate::linux::spawn::{self, Environment, LaunchProgress, Stdio};
use crate::linux::tree::{ProbeTree, Trees};

/// Of what an exec probe says, this much of its last line is shown.
const COMPLAINT: usize = 200;
/// At its end its pipe is emptied up to this.
const LAST_WORDS: usize = 16 * 1024;
/// Who cannot be asked whose it is, is asked again after this,
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// and for so long: as with a run's survivors.
const UNCLEAR_FOR: Duration = Duration::from_secs(1);

pub(super) struct Probes {
    messages: UnboundedSender<Message>,
    hosts: Hosts,
    /// Those that are futures.
    tasks: BTreeMap<(RunId, ProbeKind), (u32, AbortHandle)>,
    /// Those that are children, by pid, until they are reaped.
    children: HashMap<u32, Child>,
    /// What those that are reaped may have left, and since when that is not clear.
    left: Vec<(ProbeTree, Instant)>,
    /// What the next child is known by.
    mark: u64,
    streams: Streams<u32>,
    own_oom_score_adj: i32,
    /// The last line of each child's output.
    said: HashMap<u32, String>,
}

struct Child {
    tree: ProbeTree,
    run: RunId,
    kind: ProbeKind,
    number: u32,
    launch: Option<OwnedFd>,
    failed: Option<LaunchError>,
    stream: Option<u64>,
    /// Nobody waits for its answer any more.
    settled: bool,
    timer: AbortHandle,
}

impl Probes {
    pub(super) fn new(messages: UnboundedSender<Message>, poller: Arc<Poller>, hosts: Hosts, own_oom_score_adj: i32) -> Self {
        Self {
            messages,
            hosts,
            tasks: BTreeMap::new(),
            children: HashMap::new(),
            left: Vec::new(),
            mark: 0,
            streams: Streams::new(poller, PROBE_STREAM),
            own_oom_score_adj,
            said: HashMap::new(),
        }
    }

    /// Names of hosts, as they are now.
    pub(super) fn set_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// The number of the next exec probe, for its environment; no other one has it.
    pub(super) const fn next_mark(&mut self) -> u64 {
        self.mark = self.mark.saturating_add(1);
        self.mark
    }

    /// Asks. `environment` has the number that `next_mark` gave last. An answer that is known at once is returned.
    #[expect(clippy::too_many_arguments, reason = "a probe touches what a spawn touches")]
    pub(super) fn start(
        &mut self,
        run: RunId,
        kind: ProbeKind,
        number: u32,
        service: &Service,
        environment: Result<&Environment, LaunchError>,
        trees: &mut Trees,
        owners: &mut HashMap<u32, Owner>,
        poller: &Poller,
    ) -> Option<Event> {
        let asked = match kind {
            ProbeKind::Ready => service.ready.probe()?,
            ProbeKind::Live => service.live.as_ref()?,
        };
        let limit = asked.timeout;
        let failed = |why: String| Some(Event::Probed { run, kind, number, result: Err(why) });
        match &asked.check {
            Check::Tcp { host, port } => {
                let at = Address::Tcp { host: host.clone(), port: *port };
                match Place::find(&at, &self.hosts) {
                    Ok(place) => self.task(run, kind, number, async move { probe::connects(&place, limit).await }),
                    Err(why) => return failed(why),
                }
                None
            }
            Check::Unix(path) => {
                let place = Place::Unix(path.clone());
                self.task(run, kind, number, async move { probe::connects(&place, limit).await });
                None
            }
            Check::Http(check) => {
                match Place::find(&check.at, &self.hosts) {
                    Ok(place) => {
                        let check = check.clone();
                        self.task(run, kind, number, async move { probe::http(&place, &check, limit).await });
                    }
                    Err(why) => return failed(why),
                }
                None
            }
            Check::Redis(check) => {
                match Place::find(&check.at, &self.hosts).and_then(|place| Ok((place, login(check, environment)?))) {
                    Ok((place, login)) => self.task(run, kind, number, async move { probe::redis(&place, login.as_ref(), limit).await }),
                    Err(why) => return failed(why),
                }
                None
            }
            Check::FastCgi(check) => {
                match Place::find(&check.at, &self.hosts) {
                    Ok(place) => {
                        let check = check.clone();
                        self.task(run, kind, number, async move { probe::fastcgi(&place, &check, limit).await });
                    }
                    Err(why) => return failed(why),
                }
                None
            }
            Check::Exec(command) => {
                // What SIGKILL does not end at once waits for something, a disk perhaps; another one would only wait beside it.
                if let Some(pid) = self.under_way(run, kind) {
                    return failed(format!("the probe before has not ended yet (pid {pid})"));
                }
                let spawned = match environment
                    .and_then(|environment| start(service, &argv_of(command), environment, Stdio::Capture, self.own_oom_score_adj, None))
                {
                    Ok(spawned) => spawned,
                    Err(error) => return failed(format!("cannot start the probe: {error}")),
                };
                let pid = spawned.pid;
                let tree = trees.probe_tree(pid, self.mark);
                owners.insert(pid, Owner::Probe);
                let stream = spawned.stdout.and_then(|fd| self.streams.add(fd, pid).ok());
                let launch = poller.add(&spawned.launch, token(PROBE_LAUNCH, pid), Interest::Read).is_ok().then_some(spawned.launch);
                let timer = self.timer(pid, number, limit);
                self.children.insert(pid, Child { tree, run, kind, number, launch, failed: None, stream, settled: false, timer });
                None
            }
        }
    }

    /// The child that asks this of the run's instance, of an earlier run perhaps.
    fn under_way(&self, run: RunId, kind: ProbeKind) -> Option<u32> {
        self.children.iter().find(|(_, child)| child.run.instance == run.instance && child.kind == kind).map(|(&pid, _)| pid)
    }

    fn task(&mut self, run: RunId, kind: ProbeKind, number: u32, question: impl Future<Output = Result<(), String>> + 'static) {
        let messages = self.messages.clone();
        let task = tokio::task::spawn_local(async move {
            let result = question.await;
            // The loop is gone only when everything is over.
            let _ = messages.send(Message::Probed { run, kind, number, result });
        });
        if let Some((_, earlier)) = self.tasks.insert((run, kind), (number, task.abort_handle())) {
            earlier.abort();
        }
    }

    fn timer(&self, pid: u32, number: u32, limit: Duration) -> AbortHandle {
        let messages = self.messages.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(limit).await;
            let _ = messages.send(Message::ProbeExpired { pid, number });
        })
        .abort_handle()
    }

    pub(super) fn answered(&mut self, run: RunId, kind: ProbeKind, number: u32) {
        if self.tasks.get(&(run, kind)).is_some_and(|(asked, _)| *asked == number) {
            self.tasks.remove(&(run, kind));
        }
    }

    /// A child's time is up: it is killed with all it started, and its answer is no.
    pub(super) fn expired(&mut self, pid: u32, number: u32, trees: &mut Trees) -> Option<Event> {
        let child = self.children.get_mut(&pid).filter(|child| child.number == number && !child.settled)?;
        child.settled = true;
        // Whoever could not be asked is looked for again when the child is dead.
        trees.kill_probe(&mut child.tree);
        Some(Event::Probed { run: child.run, kind: child.kind, number, result: Err("the probe's command did not end in time".to_owned()) })
    }

    /// Cuts off every question about this run.
    pub(super) fn cancel(&mut self, run: RunId, trees: &mut Trees) {
        for kind in [ProbeKind::Ready, ProbeKind::Live] {
            if let Some((_, task)) = self.tasks.remove(&(run, kind)) {
                task.abort();
            }
        }
        for child in self.children.values_mut() {
            if child.run == run {
                child.settled = true;
                child.timer.abort();
                trees.kill_probe(&mut child.tree);
            }
        }
    }

    pub(super) fn launch_progressed(&mut self, pid: u32, poller: &Poller) {
        let Some(child) = self.children.get_mut(&pid) else { return };
        let Some(launch) = &child.launch else { return };
        match spawn::read_launch(launch.as_fd()) {
            LaunchProgress::Pending => return,
            LaunchProgress::Executed => {}
            LaunchProgress::Failed(error) => child.failed = Some(error),
        }
        if let Some(launch) = child.launch.take() {
            let _ = poller.remove(&launch);
        }
    }

    pub(super) fn read_stream(&mut self, token: u64) {
        let said = &mut self.said;
        if let Some(pid) = self.streams.read(token, &mut |pid, piece| remember(said, pid, piece.text))
            && let Some(child) = self.children.get_mut(&pid)
        {
            child.stream = None;
        }
    }

    /// The child is dead, and not reaped yet.
    pub(super) fn died(&mut self, pid: u32, outcome: &Outcome, poller: &Poller, trees: &mut Trees) -> Option<Event> {
        self.launch_progressed(pid, poller);
        let mut child = self.children.remove(&pid)?;
        child.timer.abort();
        // Whatever it started goes with it; the zombie still pins group and session.
        let clear = trees.kill_probe(&mut child.tree);
        child.tree.leader_reaped();
        if !clear {
            if self.left.is_empty() {
                self.remind();
            }
            self.left.push((child.tree, Instant::now()));
        }
        if let Some(launch) = &child.launch {
            let _ = poller.remove(launch);
        }
        if let Some(token) = child.stream {
            let said = &mut self.said;
            self.streams.close(token, LAST_WORDS, &mut |pid, piece| remember(said, pid, piece.text));
        }
        let said = self.said.remove(&pid);
        if child.settled {
            return None;
        }
        let result = match (child.failed, outcome) {
            (Some(error), _) => Err(format!("cannot start the probe: {error}")),
            (None, Outcome::Exited(0)) => Ok(()),
            (None, outcome) => Err(match said {
                Some(said) => format!("{outcome}: {said}"),
                None => outcome.to_string(),
            }),
        };
        Some(Event::Probed { run: child.run, kind: child.kind, number: child.number, result })
    }

    /// At those who could not be asked whose they are.
    pub(super) fn look_again(&mut self, trees: &mut Trees) {
        self.left.retain_mut(|(tree, since)| !trees.kill_probe(tree) && since.elapsed() < UNCLEAR_FOR);
        if !self.left.is_empty() {
            self.remind();
        }
    }

    fn remind(&self) {
        let messages = self.messages.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(AGAIN_AFTER).await;
            let _ = messages.send(Message::ProbeLeft);
        });
    }
}

/// The password as the service itself is given it.
fn login(check: &RedisCheck, environment: Result<&Environment, LaunchError>) -> Result<Option<Login>, String> {
    let Some(variable) = &check.password_env else { return Ok(None) };
    let environment = environment.map_err(|error| format!("cannot look up {variable}: {error}"))?;
    match environment.get(variable) {
        Some(password) => Ok(Some(Login { username: check.username.clone(), password: password.as_bytes().to_vec() })),
        None => Err(format!("{variable} is not set for this service: its probe has no password to log in with")),
    }
}

fn remember(said: &mut HashMap<u32, String>, pid: u32, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    if !text.is_empty() {
        said.insert(pid, text.chars().filter(|character| !character.is_control()).take(COMPLAINT).collect());
    }
}
