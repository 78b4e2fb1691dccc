//! Another file while everything runs: read aside by a thread, compared with what runs, and handed to the engine as a whole or not at all.
//!
//! [`Supervisor::define`] and [`Supervisor::forget`] are where the shell's tables, which go by the number of a service, follow the engine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::setup::needs_hosts;
use super::verbs::Watched;
use super::{Message, Supervisor, argv_of, siblings};
use crate::config::{Again, Change, Diagnostic, KeptPort, Loaded, LogBuffers, Settings, Shown, changes, keep_ports, settled_at_start};
use crate::engine::spec::Memory;
use crate::engine::update::Planned;
use crate::engine::{Event, Plan, ServiceId, Step};
use crate::linux::probe::Hosts;
use crate::linux::thread;
use crate::observe::{Happening, Level};
use crate::server::{Diff, Patience, Reply, ServiceChange, Update, ValueChange};

/// Of the thread that reads: a file is parsed by functions that call themselves for every table in a table.
const STACK: usize = 1 << 20;

/// What an update needs to know of the file that runs.
pub(super) struct Updates {
    again: Arc<Again>,
    pub(super) messages: UnboundedSender<Message>,
    /// What firstmate was started with; some of it holds until its end.
    settings: Settings,
    memory: Memory,
    base_port: Option<u16>,
    /// As the file says now.
    pub(super) log_buffers: LogBuffers,
    /// The file is being read just now.
    reading: bool,
    /// A SIGHUP has come since: what is being read may be what was there before.
    once_more: bool,
}

impl Updates {
    pub(super) fn new(
        again: Again,
        settings: Settings,
        memory: Memory,
        base_port: Option<u16>,
        messages: UnboundedSender<Message>,
    ) -> Self {
        let log_buffers = settings.log_buffers.clone();
        Self { again: Arc::new(again), messages, settings, memory, base_port, log_buffers, reading: false, once_more: false }
    }
}

/// Who wants the file to be read again.
pub(super) enum Asker {
    /// SIGHUP.
    Signal,
    /// `firstmate update`.
    Client { wish: Update, reply: oneshot::Sender<Reply> },
}

impl Asker {
    /// Whether nothing is to be changed whatever is read.
    const fn only_looks(&self) -> bool {
        match self {
            Self::Signal => false,
            Self::Client { wish, .. } => wish.dry_run,
        }
    }
}

/// What was read.
pub(super) struct Reread {
    asker: Asker,
    result: Result<(Box<Loaded>, Option<Hosts>), Vec<Diagnostic>>,
}

impl Supervisor {
    /// Begins to read the file again. A disk may take its time, so a thread does it.
    pub(super) fn reread(&mut self, asker: Asker) {
        if self.updates.reading && matches!(asker, Asker::Signal) {
            self.updates.once_more = true;
            return;
        }
        if self.updates.reading {
            return self.refuse(asker, "the file is being read for another update; wait for that to be done");
        }
        let (again, messages) = (Arc::clone(&self.updates.again), self.updates.messages.clone());
        // Should there be no thread, whoever asked is to be told all the same.
        let asker = Arc::new(std::sync::Mutex::new(Some(asker)));
        let theirs = Arc::clone(&asker);
        let started = thread::start("update", STACK, move || {
            let result = again.read().map(|loaded| {
                let hosts = needs_hosts(&loaded.spec).then(Hosts::read);
                (Box::new(loaded), hosts)
            });
            let asker = theirs.lock().ok().and_then(|mut asker| asker.take());
            if let Some(asker) = asker {
                // Nobody listens any more once the loop has ended.
                let _ = messages.send(Message::Reread(Box::new(Reread { asker, result })));
            }
        });
        match started {
            Ok(_) => self.updates.reading = true,
            Err(error) => {
                if let Some(asker) = asker.lock().ok().and_then(|mut asker| asker.take()) {
                    self.refuse(
                        asker,
                        &format!(
                            "no thread could be started to read the file: {error}; raise the container's limit of processes (pids.max)"
                        ),
                    );
                }
            }
        }
    }

    fn refuse(&mut self, asker: Asker, why: &str) {
        self.tell_of_no_update(&asker, why);
        if let Asker::Client { reply, .. } = asker {
            // Who asked may be gone by now.
            let _ = reply.send(Reply::Refused { why: why.to_owned() });
        }
    }

    fn tell_of_no_update(&mut self, asker: &Asker, why: &str) {
        if !asker.only_looks() {
            let text = format!("cannot update, and nothing has changed: {why}");
            self.output.say(Level::Error, &text);
            self.output.books.happened(None, Happening::update_refused(&text));
        }
    }

    /// Takes what was read, and begins anew where that is wanted by now.
    pub(super) fn reread_done(&mut self, reread: Reread) {
        self.updates.reading = false;
        self.compare(reread);
        if std::mem::take(&mut self.updates.once_more) {
            self.reread(Asker::Signal);
        }
    }

    fn compare(&mut self, reread: Reread) {
        let Reread { asker, result } = reread;
        let (loaded, hosts) = match result {
            Ok(read) => read,
            Err(problems) => return self.refuse_file(asker, &problems),
        };
        let Loaded { mut spec, settings, warnings, base_port, .. } = *loaded;
        let kept = if base_port == self.updates.base_port { keep_ports(&mut spec, &self.ports()) } else { Vec::new() };
        let plan = self.engine.borrow().plan(&spec);
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => {
                let why = refusal.to_string();
                return self.refuse(asker, &why);
            }
        };
        let (values, colour) = match &asker {
            Asker::Signal => (false, false),
            Asker::Client { wish, .. } => (wish.values, wish.colour),
        };
        let mut diff = self.diff(&plan, &settings, &spec.memory, values);
        diff.notes = notes(&kept);
        diff.warnings = warnings.iter().map(|warning| warning.render(colour)).collect();
        let ports = siblings::ports(&spec.services);
        diff.notes.extend(self.stale_ports(&ports));
        let (wish, reply) = match asker {
            Asker::Signal => (None, None),
            Asker::Client { wish, reply } => (Some(wish), Some(reply)),
        };
        if wish.as_ref().is_some_and(|wish| wish.dry_run) {
            if let Some(reply) = reply {
                // Who asked may be gone by now.
                let _ = reply.send(Reply::Update { diff: Box::new(diff), instances: Vec::new() });
            }
            return;
        }
        diff.applied = true;
        self.say_of_update(&diff, &plan, &warnings);
        let patience = wish.map_or(Patience::Own, |wish| wish.patience);
        let watched = self.watch(&plan);
        if let Some(reply) = reply {
            let now = self.now();
            self.desk.open_update(watched, diff, patience, reply, now);
        }
        if let Some(hosts) = hosts {
            self.probes.set_hosts(hosts);
        }
        self.environments.set_siblings(ports);
        self.updates.base_port = base_port;
        self.updates.log_buffers = settings.log_buffers;
        if plan.is_nothing() {
            // Nothing happens that would have the desk look.
            self.desk.settle(&self.engine.borrow(), self.now());
        } else {
            self.events.push_back(Event::Update(Box::new(spec)));
        }
    }

    fn refuse_file(&mut self, asker: Asker, problems: &[Diagnostic]) {
        let mut errors = problems.iter().filter(|problem| problem.is_error());
        if let Some(first) = errors.next() {
            let place = first.place();
            let place = if place.is_empty() { place } else { format!("{place}: ") };
            let help = first.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
            let more = match errors.count() {
                0 => String::new(),
                count => format!(" (and {count} more; `firstmate check-config` shows all)"),
            };
            self.tell_of_no_update(&asker, &format!("{place}{}{help}{more}", first.message));
        }
        if let Asker::Client { wish, reply } = asker {
            let problems = problems.iter().map(|problem| problem.render(wish.colour)).collect();
            // Who asked may be gone by now.
            let _ = reply.send(Reply::BadFile { problems });
        }
    }

    /// In the log, where the engine's notices do not say it.
    fn say_of_update(&mut self, diff: &Diff, plan: &Plan, warnings: &[Diagnostic]) {
        for warning in warnings {
            let help = warning.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
            self.output.say(Level::Warn, &format!("{}: {}{help}", warning.place(), warning.message));
        }
        if plan.is_nothing() {
            self.output.say(Level::Info, "the file was read again: no service has changed");
        }
        for change in &diff.at_next_start {
            let text = format!("`{}` has changed, which takes effect at the next start of firstmate", change.key);
            self.output.say(Level::Warn, &text);
        }
        for note in &diff.notes {
            self.output.say(Level::Info, note);
        }
    }

    /// PORT of each service that has one.
    fn ports(&self) -> BTreeMap<String, u16> {
        let engine = self.engine.borrow();
        let services = engine.service_ids().filter_map(|id| engine.service(id));
        services.filter_map(|service| Some((service.name.clone(), service.launch.port?))).collect()
    }

    /// Variables that running services have with another value, or do not have, by which services find one another.
    fn stale_ports(&self, ports: &[(std::ffi::OsString, std::ffi::OsString)]) -> Vec<String> {
        let changed = ports.iter().filter(|port| !self.environments.siblings().contains(port));
        let gone = self.environments.siblings().iter().filter(|(name, _)| !ports.iter().any(|(other, _)| other == name));
        let told = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
            format!(
                "{} is {} for services that start from now on; those that run have it as it was when they started",
                name.to_string_lossy(),
                value.to_string_lossy()
            )
        };
        let told_gone = |(name, _): &(std::ffi::OsString, std::ffi::OsString)| {
            format!("services that start from now on have no {}; those that run keep it", name.to_string_lossy())
        };
        changed.map(told).chain(gone.map(told_gone)).collect()
    }

    fn diff(&self, plan: &Plan, settings: &Settings, memory: &Memory, values: bool) -> Diff {
        let engine = self.engine.borrow();
        let name_of = |id: ServiceId| {
            let new = plan.services.iter().find(|planned| planned.id == id).map(|planned| planned.service.name.clone());
            new.or_else(|| engine.service(id).map(|service| service.name.clone())).unwrap_or_default()
        };
        let named = |step: Step| plan.services.iter().filter(move |planned| planned.step == step);
        let changed = plan.services.iter().filter_map(|Planned { id, service, step }| {
            let restarted = match step {
                Step::Keep | Step::Add => return None,
                Step::Amend => false,
                Step::Restart => true,
            };
            let old = engine.service(*id)?;
            let changes = changes(old, service, &name_of, values).into_iter().map(value_change).collect();
            Some(ServiceChange { name: service.name.clone(), restarted, changes })
        });
        let (before, after) = (engine.patience(), plan.patience());
        let whole =
            [crate::config::changes::whole("stop_timeout", before.0, after.0), crate::config::changes::whole("drain", before.1, after.1)];
        Diff {
            applied: false,
            added: named(Step::Add).map(|planned| planned.service.name.clone()).collect(),
            removed: plan.removed.iter().map(|id| name_of(*id)).collect(),
            changed: changed.collect(),
            unchanged: named(Step::Keep).count(),
            firstmate: whole.into_iter().flatten().map(value_change).collect(),
            at_next_start: settled_at_start((&self.updates.settings, &self.updates.memory), (settings, memory), &|name| {
                engine.names().any(|known| known == name)
            })
            .into_iter()
            .map(value_change)
            .collect(),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Whom the one who asked waits for, and how long that may take.
    fn watch(&self, plan: &Plan) -> Vec<Watched> {
        let engine = self.engine.borrow();
        let mut watched = Vec::new();
        for id in &plan.removed {
            let stop = engine.service(*id).map_or(Duration::ZERO, |service| service.stop.timeout);
            watched.extend((1..=engine.instances_wanted(*id)).map(|number| Watched::leaves(*id, number, stop)));
        }
        for Planned { id, service, step } in &plan.services {
            let file_before = engine.service(*id).map_or(0, |service| service.instances);
            let before = if *step == Step::Add { 0 } else { engine.instances_wanted(*id) };
            // Who was scaled by hand stays so, unless the file's number is another one.
            let after = if *step != Step::Add && file_before == service.instances { before } else { service.instances };
            let stop = engine.service(*id).map_or(Duration::ZERO, |service| service.stop.timeout);
            let leaves = (after.saturating_add(1)..=before).map(|number| Watched::leaves(*id, number, stop));
            match step {
                Step::Keep => {}
                Step::Add if service.autostart => {
                    watched.extend((1..=after).map(|number| Watched::comes(*id, number, service.start_timeout)));
                }
                Step::Add => {}
                Step::Amend => {
                    watched.extend(leaves);
                    watched.extend((before.saturating_add(1)..=after).map(|number| Watched::comes(*id, number, service.start_timeout)));
                }
                Step::Restart => {
                    watched.extend(leaves);
                    let longest = stop.saturating_add(service.start_timeout);
                    watched.extend((1..=after).map(|number| Watched::comes_back(*id, number, longest)));
                }
            }
        }
        for one in &mut watched {
            let service = plan.services.iter().find(|planned| planned.id == one.id.service).map(|planned| planned.service.name.as_str());
            let old = engine.service(one.id.service).map(|service| service.name.as_str());
            one.name = format!("{}.{}", service.or(old).unwrap_or("?"), one.id.number);
            one.look(&engine, self.now());
        }
        watched
    }

    /// A service has come, or has another definition.
    pub(super) fn define(&mut self, id: ServiceId) {
        let engine = std::rc::Rc::clone(&self.engine);
        let engine = engine.borrow();
        let Some(service) = engine.service(id).cloned() else { return };
        let command = argv_of(&service.launch.command);
        self.output.define(id, &service.name, engine.instances_wanted(id), &self.updates.log_buffers);
        self.announcements.define(id, &service, &self.poller, &mut self.output);
        match (self.services.get_mut(id.0), self.commands.get_mut(id.0)) {
            (Some(known), Some(argv)) => (*known, *argv) = (service, command),
            // The engine numbers them without a gap.
            (None, _) | (_, None) => {
                self.services.push(service);
                self.commands.push(command);
            }
        }
    }

    /// A service has gone.
    pub(super) fn forget(&mut self, id: ServiceId) {
        if let (Some(known), Some(service)) = (self.services.get_mut(id.0), self.engine.borrow().service(id)) {
            *known = Arc::clone(service);
        }
        if let Some(argv) = self.commands.get_mut(id.0) {
            *argv = Vec::new();
        }
        self.announcements.forget(id);
        self.output.forget(id);
    }
}

fn value_change(change: Change) -> ValueChange {
    let Change { key, from, to } = change;
    let text = |shown: Shown| match shown {
        Shown::Absent | Shown::Hidden => None,
        Shown::Text(text) => Some(text),
    };
    let kind = match (&from, &to) {
        (Shown::Absent, _) => crate::server::ChangeKind::Added,
        (_, Shown::Absent) => crate::server::ChangeKind::Removed,
        (Shown::Hidden | Shown::Text(_), Shown::Hidden | Shown::Text(_)) => crate::server::ChangeKind::Changed,
    };
    ValueChange { key, kind, from: text(from), to: text(to) }
}

fn notes(kept: &[KeptPort]) -> Vec<String> {
    let told = |KeptPort { service, port, in_file }: &KeptPort| {
        format!(
            "{service} has PORT {port} while this firstmate runs; by its place in the Procfile one that is started anew gives it {in_file}"
        )
    };
    kept.iter().map(told).collect()
}
