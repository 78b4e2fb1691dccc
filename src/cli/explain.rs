//! `firstmate check-config --explain`: what would be run, how, and where each value came from. Nothing is started, asked or written.
//!
//! [`Plan`] is made once from what the file came to; the text for people and the JSON are two ways to show it, so they cannot
//! disagree. Values are written as the file would have them. Those of environment variables are secrets and are no part of it.

mod order;
mod text;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::load::{self, FileArgs};
use super::output::{Failure, is_colored, out};
use super::start;
use super::terminal;
use crate::config::origin::{Origin, Origins, Place};
use crate::config::values::{show_amount, show_duration};
use crate::config::{Diagnostic, Format, Http, Inputs, Loaded, TerminationLog, time_to_stop};
use crate::engine::memory::Limit;
use crate::engine::size::size;
use crate::engine::spec::{Amount, Condition, Kind, Scope, Service};
use crate::engine::status::LimitSource;
use crate::linux::memory::limit::{Files, Watch};

/// The form of the JSON. It goes up when a field goes or changes its meaning, and stays when one is added.
const SCHEMA: u32 = 1;
/// Where probes are answered when nothing is said and firstmate is PID 1.
const DEFAULT_HTTP: &str = "0.0.0.0:9180";

/// What would be run.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    schema: u32,
    version: &'static str,
    file: FilePlan,
    firstmate: Vec<Setting>,
    memory: Vec<Setting>,
    start: Vec<StartStep>,
    stop: Vec<StopStep>,
    services: Vec<ServicePlan>,
    ignored: Vec<Ignored>,
    warnings: Vec<Warning>,
}

/// The main file.
#[derive(Debug, Serialize)]
struct FilePlan {
    path: String,
    format: &'static str,
    from: Origin,
}

/// One value.
#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    /// As the file would have it.
    value: String,
    from: Origin,
    /// What follows from it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// When a service is started.
#[derive(Debug, Serialize)]
struct StartStep {
    service: String,
    /// From 1; those of one step do not wait for one another.
    step: usize,
    /// With firstmate; otherwise only when somebody asks for it.
    autostart: bool,
    after: Vec<After>,
    #[serde(skip)]
    drawn: String,
    #[serde(skip)]
    instances: u16,
    #[serde(skip)]
    is_oneshot: bool,
}

/// What must hold before.
#[derive(Debug, Serialize)]
struct After {
    service: String,
    condition: &'static str,
    from: Origin,
    /// The other is started only when somebody asks for it, so this one waits until then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    waits_for_somebody: bool,
}

/// How a service is stopped.
#[derive(Debug, Serialize)]
struct StopStep {
    service: String,
    /// From 1; those of one step are stopped at once.
    step: usize,
    /// One after the other.
    signals: Vec<String>,
    /// `main` or `group`.
    to: &'static str,
    /// After so many milliseconds the whole tree gets SIGKILL.
    sigkill_after_ms: u64,
    /// In a shutdown of everything not later than this.
    at_most_ms: u64,
}

/// One service.
#[derive(Debug, Serialize)]
struct ServicePlan {
    name: String,
    instances: Vec<InstancePlan>,
    /// What is executed.
    argv: Vec<String>,
    /// Where the program was found; `None` where it was not.
    program: Option<String>,
    settings: Vec<Setting>,
    env: Vec<Variable>,
    /// How many variables it gets from firstmate's own environment besides.
    inherited: usize,
}

/// One copy.
#[derive(Debug, Serialize)]
struct InstancePlan {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// A variable of the service's environment; never its value.
#[derive(Debug, Serialize)]
struct Variable {
    name: String,
    from: Origin,
}

/// Something that was written and has no effect.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Ignored {
    what: String,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

/// A warning of the file's.
#[derive(Debug, Serialize)]
struct Warning {
    at: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// What is around the file.
struct Surroundings {
    env: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    /// How the main file was chosen.
    chosen: Origin,
    /// The memory limit in force.
    limit: Option<Limit>,
    /// Where the control socket would be by default.
    sockets: Vec<String>,
    /// Of this process.
    uid: u32,
    passwd: String,
}

/// Prints the plan; exits as `check-config` does.
pub(super) fn run(args: &FileArgs, inputs: Inputs, json: bool) -> Result<u8, Failure> {
    let started_by = inputs.started_by;
    let (loaded, origins) = load::explain(args, inputs)?;
    let watch = Watch::new(Files::default(), loaded.spec.memory.limit);
    let around = Surroundings {
        env: std::env::vars_os().collect(),
        directory: std::env::current_dir().unwrap_or_default(),
        chosen: args.chosen_by(),
        limit: watch.limit().cloned(),
        sockets: start::sockets(args, started_by).iter().map(ToString::to_string).collect(),
        uid: nix::unistd::geteuid().as_raw(),
        passwd: std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
    };
    let plan = Plan::new(&loaded, &origins, &around);
    if json {
        out(&super::output::json("plan", &plan)?);
    } else {
        let text = text::render(&plan, is_colored(&std::io::stdout()));
        out(&terminal::fit(&text, terminal::window()));
    }
    Ok(0)
}

impl Plan {
    fn new(loaded: &Loaded, origins: &Origins, around: &Surroundings) -> Self {
        let services = &loaded.spec.services;
        let mut ignored = BTreeSet::new();
        ignored_by_choice(loaded, origins, around, &mut ignored);
        let services: Vec<ServicePlan> =
            services.iter().map(|service| ServicePlan::new(service, loaded, origins, around, &mut ignored)).collect();
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            file: FilePlan {
                path: text_of(loaded.path.as_os_str()),
                format: match loaded.format {
                    Format::Toml => "toml",
                    Format::Procfile => "procfile",
                },
                from: around.chosen.clone(),
            },
            firstmate: firstmate(loaded, origins, around),
            memory: memory(loaded, origins, around.limit.as_ref()),
            start: start(&loaded.spec.services, origins),
            stop: stop(loaded),
            services,
            ignored: ignored.into_iter().collect(),
            warnings: loaded.warnings.iter().map(warning).collect(),
        }
    }
}

fn text_of(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn warning(diagnostic: &Diagnostic) -> Warning {
    Warning { at: diagnostic.place(), message: diagnostic.message.clone(), help: diagnostic.help.clone() }
}

/// Settings of one table, in the order they are added; at the end those that were written and that nothing here knows more closely.
struct Settings<'a> {
    origin: Box<dyn Fn(&str) -> Origin + 'a>,
    listed: BTreeSet<String>,
    out: Vec<Setting>,
}

impl<'a> Settings<'a> {
    fn new(origin: impl Fn(&str) -> Origin + 'a) -> Self {
        Self { origin: Box::new(origin), listed: BTreeSet::new(), out: Vec::new() }
    }

    /// Adds one, with what follows from it here.
    fn noted(&mut self, key: &str, value: impl Into<String>, note: Option<String>) {
        let from = (self.origin)(key);
        self.add(key, value, from, note);
    }

    fn of(&mut self, key: &str, value: impl Into<String>) {
        self.noted(key, value, None);
    }

    /// Only where the file says it.
    fn written(&mut self, key: &str, value: impl Into<String>) {
        if (self.origin)(key) != Origin::Default {
            self.of(key, value);
        }
    }

    fn add(&mut self, key: &str, value: impl Into<String>, from: Origin, note: Option<String>) {
        self.listed.insert(key.to_owned());
        self.out.push(Setting { key: key.to_owned(), value: value.into(), from, note });
    }

    fn rest<'b>(mut self, keys: impl Iterator<Item = (&'b str, &'b crate::config::origin::Written)>) -> Vec<Setting> {
        for (key, written) in keys {
            if !self.listed.contains(key) {
                let text = written.text.trim_matches('"');
                self.add(key, if text.is_empty() { "(a table)" } else { text }, written.origin.clone(), None);
            }
        }
        self.out
    }
}

fn firstmate(loaded: &Loaded, origins: &Origins, around: &Surroundings) -> Vec<Setting> {
    let mut settings = Settings::new(|key| origins.stack(&format!("firstmate.{key}")));
    let default = &loaded.settings;
    if let Some(why) = loaded.mode.why {
        settings.add("mode", loaded.mode.what(), Origin::Follows(why.to_owned()), None);
    }
    match default.http {
        Http::Default => settings.of("http", format!("{DEFAULT_HTTP} as PID 1, else off")),
        Http::Off => settings.of("http", "off"),
        Http::On(address) => settings.of("http", address.to_string()),
    }
    settings.written("http_details", default.http_details.to_string());
    let variable = around.env.get(OsStr::new("FIRSTMATE_SOCKET")).filter(|value| !value.is_empty());
    match (variable, &default.socket) {
        (Some(path), _) => settings.add("socket", text_of(path), Origin::Environment("FIRSTMATE_SOCKET"), None),
        (None, Some(path)) => settings.of("socket", text_of(path.as_os_str())),
        (None, None) => settings.of("socket", around.sockets.join(", else ")),
    }
    settings.of("stop_timeout", show_duration(loaded.spec.stop_timeout));
    settings.of("drain", show_duration(loaded.spec.drain));
    match &default.termination_log {
        TerminationLog::Default => settings.of("termination_log", "/dev/termination-log, where it is"),
        TerminationLog::Off => settings.of("termination_log", "off"),
        TerminationLog::At(path) => settings.of("termination_log", text_of(path.as_os_str())),
    }
    settings.rest(origins.stack_keys("firstmate"))
}

fn memory(loaded: &Loaded, origins: &Origins, limit: Option<&Limit>) -> Vec<Setting> {
    let memory = &loaded.spec.memory;
    let mut settings = Settings::new(|key| origins.stack(&format!("memory.{key}")));
    match limit {
        Some(limit) => {
            let found = match (limit.source, limit.place.as_str()) {
                (LimitSource::Configured, _) => None,
                (LimitSource::Machine, _) => Some("no limit: the machine's memory".to_owned()),
                (source, "") => Some(format!("found: {source}")),
                (source, place) => Some(format!("found: {source}, {place}")),
            };
            settings.noted("limit", size(limit.bytes).to_string(), found);
        }
        None => settings.noted("limit", "auto", Some("it cannot be found here".to_owned())),
    }
    let line = |amount: Amount| match (amount, limit) {
        (Amount::Percent(_), Some(limit)) => Some(size(amount.of(limit.bytes)).to_string()),
        (Amount::Percent(_), None) | (Amount::Bytes(_), _) => None,
    };
    match memory.restart_above {
        None => settings.noted("restart_above", "off", Some("the memory guard is off, services' own lines included".to_owned())),
        Some(amount) => {
            settings.noted("restart_above", show_amount(amount), line(amount));
            settings.of("confirm", show_duration(memory.confirm));
            settings.noted("hard_above", show_amount(memory.hard_above), line(memory.hard_above));
            settings.noted("emergency_above", show_amount(memory.emergency_above), line(memory.emergency_above));
        }
    }
    settings.written("cgroups", memory.cgroups.to_string());
    settings.rest(origins.stack_keys("memory"))
}

const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Ready => "ready",
        Condition::Completed => "completed",
    }
}

fn start(services: &[Service], origins: &Origins) -> Vec<StartStep> {
    let levels = order::start_levels(services);
    let branches = order::tree(services);
    let step = |branch: order::Branch| {
        let service = services.get(branch.service)?;
        let after = service.depends_on.iter().filter_map(|dependency| {
            let target = services.get(dependency.service.0)?;
            Some(After {
                service: target.name.clone(),
                condition: condition(dependency.condition),
                from: origins.service(&service.name, &format!("depends_on.{}", target.name)),
                waits_for_somebody: service.autostart && !target.autostart,
            })
        });
        Some(StartStep {
            service: service.name.clone(),
            step: levels.get(branch.service).copied().unwrap_or_default().saturating_add(1),
            autostart: service.autostart,
            after: after.collect(),
            drawn: branch.drawn,
            instances: service.instances,
            is_oneshot: service.kind == Kind::Oneshot,
        })
    };
    branches.into_iter().filter_map(step).collect()
}

fn stop(loaded: &Loaded) -> Vec<StopStep> {
    let services = &loaded.spec.services;
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let whole = time_to_stop(loaded.spec.stop_timeout, loaded.spec.drain);
    let mut steps: Vec<(usize, &Service)> = order::stop_levels(services).into_iter().zip(services).collect();
    steps.sort_by_key(|(level, _)| *level);
    let step = |(level, service): (usize, &Service)| StopStep {
        service: service.name.clone(),
        step: level.saturating_add(1),
        signals: service.stop.signals.iter().map(ToString::to_string).collect(),
        to: match service.stop.scope {
            Scope::Main => "main",
            Scope::Group => "group",
        },
        sigkill_after_ms: ms(service.stop.timeout),
        at_most_ms: ms(whole),
    };
    steps.into_iter().map(step).collect()
}

impl ServicePlan {
    fn new(service: &Service, loaded: &Loaded, origins: &Origins, around: &Surroundings, ignored: &mut BTreeSet<Ignored>) -> Self {
        let (env, inherited) = environment(service, origins, around, ignored);
        if loaded.spec.memory.restart_above.is_none() {
            for key in ["memory.victim", "memory.action", "memory.restart_above"] {
                if let Some(written) = origins.written(&service.name, key) {
                    let what = format!("{key} = {} of {}", written.text, service.name);
                    let why = "the memory guard is off".to_owned();
                    ignored.insert(Ignored { what, why, at: Some(written.origin.to_string()) });
                }
            }
        }
        let argv = values::argv(&service.launch.command);
        let instance = |number: u16| InstancePlan {
            name: format!("{}.{number}", service.name),
            port: service.launch.port.map(|port| port.saturating_add(number.saturating_sub(1))),
        };
        Self {
            name: service.name.clone(),
            instances: (1..=service.instances).map(instance).collect(),
            program: argv.first().and_then(|program| find_program(program, service, &around.env)),
            argv,
            settings: settings(service, origins, around),
            env,
            inherited,
        }
    }
}

/// What is set for one service, most telling first. What is left to the system or firstmate, and not written, is not listed.
fn settings(service: &Service, origins: &Origins, around: &Surroundings) -> Vec<Setting> {
    let name = service.name.as_str();
    let launch = &service.launch;
    let is_oneshot = service.kind == Kind::Oneshot;
    let mut settings = Settings::new(move |key| origins.service(name, key));
    settings.of("command", values::command_line(&launch.command));
    settings.written("type", if is_oneshot { "oneshot" } else { "service" });
    settings.of("instances", service.instances.to_string());
    if let (Some(port), Some(origin)) = (launch.port, origins.port()) {
        let more = (service.instances > 1).then(|| "one more for each further instance".to_owned());
        settings.add("PORT", port.to_string(), origin.clone(), more);
    }
    // Each of them is told with the order of start, and here with its place.
    settings.listed.insert("depends_on".to_owned());
    settings.of("working_dir", text_of(launch.working_dir.as_os_str()));
    let user = launch.user.as_deref();
    match (user, values::uid_of(user, around.uid, &around.passwd)) {
        (None, _) => settings.of("user", values::user_name(around.uid, &around.passwd)),
        (Some(user), Some(uid)) => settings.noted("user", user, (user.parse() != Ok(uid)).then(|| format!("uid {uid}"))),
        (Some(user), None) => settings.noted("user", user, Some("nobody has this name in /etc/passwd here".to_owned())),
    }
    settings.written("group", launch.group.as_deref().unwrap_or_default());
    settings.written("autostart", service.autostart.to_string());
    settings.of("essential", service.essential.to_string());
    settings.of("restart", values::restart(service.restart));
    settings.of("backoff", values::backoff(&service.backoff));
    settings.of("give_up_after", service.give_up_after.map_or_else(|| "never".to_owned(), |runs| runs.to_string()));
    settings.written("success_exit_codes", values::numbers(&service.success_exit_codes));
    if !is_oneshot {
        settings.of("start_timeout", show_duration(service.start_timeout));
        settings.of("ready", values::ready(&service.ready));
        if let Some(live) = &service.live {
            settings.of("live", values::probe(live));
        }
        settings.written("watchdog", values::watchdog(&service.ready));
    }
    settings.of("stop_signal", service.stop.signals.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then "));
    settings.of(
        "signal_scope",
        match service.stop.scope {
            Scope::Main => "main",
            Scope::Group => "group",
        },
    );
    settings.of("stop_timeout", show_duration(service.stop.timeout));
    if let Some(line) = service.memory.restart_above {
        let bytes = match (line, &around.limit) {
            (Amount::Percent(_), Some(limit)) => Some(size(line.of(limit.bytes)).to_string()),
            (Amount::Percent(_), None) | (Amount::Bytes(_), _) => None,
        };
        settings.noted("memory.restart_above", show_amount(line), bytes);
    }
    settings.written("memory.action", values::action(service.memory.action));
    settings.written("memory.victim", values::victim(service.memory.victim));
    settings.listed.insert("memory".to_owned());
    // Names of variables are listed by themselves.
    settings.listed.extend(["env", "env_file"].map(str::to_owned));
    settings.written("inherit_env", launch.inherit_env.to_string());
    if let Some(mask) = launch.umask {
        settings.of("umask", format!("{mask:03o}"));
    }
    settings.written("oom_score_adj", launch.oom_score_adj.unwrap_or_default().to_string());
    if !launch.limits.is_empty() {
        settings.of("limits", values::limits(&launch.limits));
    }
    if let Some(capabilities) = launch.rights.capabilities {
        settings.of("capabilities", values::capabilities(capabilities));
    }
    settings.rest(origins.service_keys(name))
}

/// The names of the variables that are the service's own, and how many it inherits; what does not come through is `ignored`.
fn environment(service: &Service, origins: &Origins, around: &Surroundings, ignored: &mut BTreeSet<Ignored>) -> (Vec<Variable>, usize) {
    let launch = &service.launch;
    let inherits = |name: &OsStr| launch.inherit_env && around.env.contains_key(name);
    let mut variables = Vec::new();
    for name in launch.env.keys() {
        let from = origins.service(&service.name, &format!("env.{}", name.to_string_lossy()));
        variables.push(Variable { name: text_of(name), from });
    }
    let mut lost = |name: &OsStr, place: &Place, why: &str| {
        ignored.insert(Ignored { what: text_of(name), why: why.to_owned(), at: Some(place.to_string()) });
    };
    for (name, place) in origins.dotenv(&service.name) {
        if launch.env.contains_key(name) {
            lost(name, place, &format!("env of {} wins over it", service.name));
        } else if name == "PORT" && launch.port.is_some() {
            if origins.port() != Some(&Origin::DotEnv(place.clone())) {
                lost(name, place, "-p comes before it");
            }
        } else if inherits(name) {
            lost(name, place, "the environment has it, which wins");
        } else if launch.env_defaults.contains_key(name) {
            variables.push(Variable { name: text_of(name), from: Origin::DotEnv(place.clone()) });
        }
    }
    if let Some(origin) = origins.port().filter(|_| launch.port.is_some() && !launch.env.contains_key(OsStr::new("PORT"))) {
        variables.push(Variable { name: "PORT".to_owned(), from: origin.clone() });
    }
    variables.sort_by(|one, other| one.name.cmp(&other.name));
    let own: BTreeSet<&str> = variables.iter().map(|variable| variable.name.as_str()).collect();
    let inherited = around.env.keys().filter(|name| inherits(name) && !own.contains(name.to_string_lossy().as_ref())).count();
    (variables, inherited)
}

/// What other files and variables would have said.
fn ignored_by_choice(loaded: &Loaded, origins: &Origins, around: &Surroundings, ignored: &mut BTreeSet<Ignored>) {
    let mut add = |what: String, why: String, at: Option<String>| ignored.insert(Ignored { what, why, at });
    let variable = around.env.get(OsStr::new("FIRSTMATE_CONFIG")).filter(|value| !value.is_empty());
    if let (Origin::CommandLine(option), Some(_)) = (&around.chosen, variable) {
        add("$FIRSTMATE_CONFIG".to_owned(), format!("{option} comes before it"), None);
    }
    if around.chosen == Origin::Default {
        let is_read = |path: &Path| {
            path == loaded.path
                || loaded.spec.services.iter().any(|service| {
                    let read = |place: &Place| around.directory.join(&place.file) == path;
                    matches!(origins.service(&service.name, "command"), Origin::File(place) if read(&place))
                })
        };
        let places = [around.directory.join("firstmate.toml"), around.directory.join("Procfile"), "/etc/firstmate/firstmate.toml".into()];
        let later = places.iter().skip_while(|path| **path != loaded.path).skip(1);
        for path in later.filter(|path| path.is_file() && !is_read(path)) {
            add(text_of(path.as_os_str()), format!("{} comes before it", loaded.path.display()), None);
        }
    }
    for replaced in origins.replaced() {
        add(text_of(&replaced.name), format!("{} sets it again", replaced.by), Some(replaced.at.to_string()));
    }
    let own_port = around.env.get(OsStr::new("PORT")).filter(|value| !value.is_empty());
    if let (Some(origin), Some(_)) = (origins.port().filter(|origin| **origin != Origin::Environment("PORT")), own_port) {
        add("$PORT".to_owned(), format!("PORT of {origin} comes before it"), None);
    }
}

/// Without `.` in its middle.
fn whole(path: &Path) -> String {
    text_of(path.components().collect::<PathBuf>().as_os_str())
}

/// As the start will look for it; for another user the answer may be another one.
fn find_program(program: &str, service: &Service, env: &BTreeMap<OsString, OsString>) -> Option<String> {
    const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    use nix::unistd::{AccessFlags, access};
    let launch = &service.launch;
    let is_program = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.contains('/') {
        return Some(launch.working_dir.join(program)).filter(is_program).map(|path| whole(&path));
    }
    let name = OsStr::new("PATH");
    let inherited = env.get(name).filter(|_| launch.inherit_env);
    let path = launch.env.get(name).or(inherited).or_else(|| launch.env_defaults.get(name));
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    let candidate = |directory: &[u8]| launch.working_dir.join(OsStr::from_bytes(directory)).join(program);
    let found = path.as_bytes().split(|byte| *byte == b':').map(candidate).find(is_program)?;
    Some(whole(&found))
}

#[cfg(test)]
mod tests;
