//! In what two definitions of a service differ, in the words of the file.
//!
//! Values of variables are shown only to whoever asks for them: they may be secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::values::{show_amount, show_duration, show_size};
use super::{Http, LogBuffer, Settings, TerminationLog};
use crate::engine::spec::{
    Address, Backoff, Check, Command, Condition, Dependency, Kind, Launch, Limit, Memory, MemoryAction, Probe, Readiness, Resource,
    Restart, Scope, Service, ServiceId, ServiceMemory, Statuses, Stop, Victim, Watch,
};

/// A key that has another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As in the file: `command`, `env.LEVEL`.
    pub key: String,
    /// Before.
    pub from: Shown,
    /// From now on.
    pub to: Shown,
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// There is none.
    Absent,
    /// It is nobody's business, or has no words that differ.
    Hidden,
    /// In the words of the file, or nearly so.
    Text(String),
}

/// What is different, most telling first. `names` tells what a service is called; `values`: with what variables are.
#[must_use]
pub fn changes(old: &Service, new: &Service, names: &dyn Fn(ServiceId) -> String, values: bool) -> Vec<Change> {
    let mut found = Found::default();
    // Whoever adds a field has to say here what becomes of it.
    let Service {
        name: _,
        kind,
        instances,
        groups,
        depends_on,
        autostart,
        essential,
        restart,
        success_exit_codes,
        backoff,
        give_up_after,
        start_timeout,
        stop: Stop { signals, timeout, scope },
        reload_signal,
        ready,
        live,
        memory: ServiceMemory { restart_above, action, victim },
        launch:
            Launch { command, working_dir, inherit_env, env_defaults, env, port, user, group, umask, nice, oom_score_adj, limits, rights, tty },
        watch: Watch { paths, ignore, debounce },
    } = old;
    let launch = &new.launch;
    found.compare("command", command, &launch.command, command_line);
    found.compare("type", kind, &new.kind, |kind| match kind {
        Kind::Service => "service".to_owned(),
        Kind::Oneshot => "oneshot".to_owned(),
    });
    found.compare("instances", instances, &new.instances, ToString::to_string);
    found.maybe("PORT", port.as_ref(), launch.port.as_ref(), ToString::to_string);
    found.compare("working_dir", working_dir, &launch.working_dir, |path| path.display().to_string());
    found.maybe("user", user.as_ref(), launch.user.as_ref(), Clone::clone);
    found.maybe("group", group.as_ref(), launch.group.as_ref(), Clone::clone);
    found.variables("env", env, &launch.env, values);
    found.variables(".env", env_defaults, &launch.env_defaults, values);
    found.compare("tty", tty, &launch.tty, ToString::to_string);
    found.compare("watch", paths, &new.watch.paths, |all| {
        listed(all, |path| path.only.clone().unwrap_or_else(|| path.root.display().to_string()))
    });
    found.compare("watch.ignore", ignore, &new.watch.ignore, |all| listed(all, Clone::clone));
    found.compare("watch.debounce", debounce, &new.watch.debounce, |time| show_duration(*time));
    found.compare("inherit_env", inherit_env, &launch.inherit_env, ToString::to_string);
    let dependency = |dependency: &Dependency| {
        let condition = match dependency.condition {
            Condition::Started => "started",
            Condition::Ready => "ready",
            Condition::Completed => "completed",
        };
        format!("{}:{condition}", names(dependency.service))
    };
    found.compare("depends_on", depends_on, &new.depends_on, |all| listed(all, dependency));
    found.compare("ready", ready, &new.ready, readiness);
    found.maybe("live", live.as_ref(), new.live.as_ref(), probe);
    found.compare("autostart", autostart, &new.autostart, ToString::to_string);
    found.compare("essential", essential, &new.essential, ToString::to_string);
    found.compare("groups", groups, &new.groups, |all| listed(all, Clone::clone));
    found.compare("restart", restart, &new.restart, |restart| match restart {
        Restart::Always => "always".to_owned(),
        Restart::OnFailure => "on-failure".to_owned(),
        Restart::Never => "never".to_owned(),
    });
    found.compare("success_exit_codes", success_exit_codes, &new.success_exit_codes, |all| listed(all, ToString::to_string));
    found.compare("backoff", backoff, &new.backoff, |Backoff { initial, factor, max, jitter, reset_after }| {
        let (initial, max, reset_after) = (show_duration(*initial), show_duration(*max), show_duration(*reset_after));
        format!("{initial} x {factor} up to {max}, jitter {jitter}, reset after {reset_after}")
    });
    found.maybe("give_up_after", give_up_after.as_ref(), new.give_up_after.as_ref(), ToString::to_string);
    found.compare("start_timeout", start_timeout, &new.start_timeout, |time| show_duration(*time));
    found.compare("stop_signal", signals, &new.stop.signals, |all| listed(all, ToString::to_string));
    found.compare("stop_timeout", timeout, &new.stop.timeout, |time| show_duration(*time));
    found.compare("signal_scope", scope, &new.stop.scope, |scope| match scope {
        Scope::Main => "main".to_owned(),
        Scope::Group => "group".to_owned(),
    });
    found.maybe("reload_signal", reload_signal.as_ref(), new.reload_signal.as_ref(), ToString::to_string);
    found.maybe("memory.restart_above", restart_above.as_ref(), new.memory.restart_above.as_ref(), |amount| show_amount(*amount));
    found.compare("memory.action", action, &new.memory.action, |action| match action {
        MemoryAction::Restart => "restart".to_owned(),
        MemoryAction::Signal(signal) => format!("signal:{signal}"),
    });
    found.compare("memory.victim", victim, &new.memory.victim, |victim| match victim {
        Victim::Auto => "auto".to_owned(),
        Victim::Last => "last".to_owned(),
        Victim::Never => "never".to_owned(),
    });
    found.maybe("umask", umask.as_ref(), launch.umask.as_ref(), |mask| format!("{mask:03o}"));
    found.maybe("nice", nice.as_ref(), launch.nice.as_ref(), ToString::to_string);
    found.maybe("oom_score_adj", oom_score_adj.as_ref(), launch.oom_score_adj.as_ref(), ToString::to_string);
    found.compare("limits", limits, &launch.limits, |all| listed(all, limit));
    found.maybe("capabilities", rights.capabilities.as_ref(), launch.rights.capabilities.as_ref(), |kept| {
        format!("{kept:?}").trim_matches(['{', '}']).replace('"', "")
    });
    found.compare("no_new_privs", &rights.no_new_privs, &launch.rights.no_new_privs, ToString::to_string);
    found.0
}

/// Keys of `[firstmate]` and `[memory]` that have another value and hold only for a firstmate that is started anew.
#[must_use]
pub fn settled_at_start(old: (&Settings, &Memory), new: (&Settings, &Memory), runs: &dyn Fn(&str) -> bool) -> Vec<Change> {
    let mut found = Found::default();
    let Settings { http, http_details, socket, termination_log, log_buffers } = old.0;
    let settings = new.0;
    found.compare("http", http, &settings.http, |http| match http {
        Http::Default => "default".to_owned(),
        Http::Off => "off".to_owned(),
        Http::On(address) => address.to_string(),
    });
    found.compare("http_details", http_details, &settings.http_details, ToString::to_string);
    found.maybe("socket", socket.as_ref(), settings.socket.as_ref(), |path| path.display().to_string());
    found.compare("termination_log", termination_log, &settings.termination_log, |log| match log {
        TerminationLog::Default => "default".to_owned(),
        TerminationLog::Off => "off".to_owned(),
        TerminationLog::At(path) => path.display().to_string(),
    });
    let bytes = |buffer: &LogBuffer| show_size(u64::try_from(buffer.bytes()).unwrap_or(u64::MAX));
    found.compare("log_buffer", &log_buffers.each, &settings.log_buffers.each, bytes);
    // That of a service that is new holds from its start.
    for name in log_buffers.own.keys().chain(settings.log_buffers.own.keys()).collect::<BTreeSet<_>>().into_iter().filter(|name| runs(name))
    {
        let (from, to) = (log_buffers.own.get(name), settings.log_buffers.own.get(name));
        found.maybe(&format!("services.{name}.log_buffer"), from, to, bytes);
    }
    let Memory { limit, restart_above, confirm, hard_above, emergency_above, cgroups } = old.1;
    let memory = new.1;
    found.maybe("memory.limit", limit.as_ref(), memory.limit.as_ref(), |bytes| show_size(*bytes));
    found.maybe("memory.restart_above", restart_above.as_ref(), memory.restart_above.as_ref(), |amount| show_amount(*amount));
    found.compare("memory.confirm", confirm, &memory.confirm, |time| show_duration(*time));
    found.compare("memory.hard_above", hard_above, &memory.hard_above, |amount| show_amount(*amount));
    found.compare("memory.emergency_above", emergency_above, &memory.emergency_above, |amount| show_amount(*amount));
    found.compare("memory.cgroups", cgroups, &memory.cgroups, ToString::to_string);
    found.0
}

/// A duration of the whole that has another value.
#[must_use]
pub fn whole(key: &str, from: std::time::Duration, to: std::time::Duration) -> Option<Change> {
    let mut found = Found::default();
    found.compare(key, &from, &to, |time| show_duration(*time));
    found.0.pop()
}

#[derive(Default)]
struct Found(Vec<Change>);

impl Found {
    fn compare<T: PartialEq>(&mut self, key: &str, from: &T, to: &T, show: impl Fn(&T) -> String) {
        self.maybe(key, Some(from), Some(to), show);
    }

    fn maybe<T: PartialEq>(&mut self, key: &str, from: Option<&T>, to: Option<&T>, show: impl Fn(&T) -> String) {
        if from == to {
            return;
        }
        let text = |value: Option<&T>| value.map_or(Shown::Absent, |value| Shown::Text(show(value)));
        let (from, to) = (text(from), text(to));
        // Two that read alike are told apart by what is not shown, such as the headers of a probe.
        let (from, to) = if from == to { (Shown::Hidden, Shown::Hidden) } else { (from, to) };
        self.0.push(Change { key: key.to_owned(), from, to });
    }

    fn variables(&mut self, of: &str, from: &BTreeMap<OsString, OsString>, to: &BTreeMap<OsString, OsString>, values: bool) {
        let names: BTreeSet<&OsString> = from.keys().chain(to.keys()).collect();
        for name in names {
            let (from, to) = (from.get(name), to.get(name));
            if from != to {
                let shown = |value: Option<&OsString>| match value {
                    None => Shown::Absent,
                    Some(value) if values => Shown::Text(value.to_string_lossy().into_owned()),
                    Some(_) => Shown::Hidden,
                };
                self.0.push(Change { key: format!("{of}.{}", name.to_string_lossy()), from: shown(from), to: shown(to) });
            }
        }
    }
}

fn listed<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    format!("[{}]", all.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn command_line(command: &Command) -> String {
    match command {
        Command::Argv(words) => shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" ")),
        Command::Shell(text) => text.clone(),
    }
}

fn readiness(ready: &Readiness) -> String {
    match ready {
        Readiness::Delay(delay) => format!("after {}", show_duration(*delay)),
        Readiness::Probe(asked) => probe(asked),
        Readiness::Notify { watchdog: None } => "notify".to_owned(),
        Readiness::Notify { watchdog: Some(every) } => format!("notify, watchdog {}", show_duration(*every)),
        Readiness::NotifyFd(descriptor) => format!("notify_fd {descriptor}"),
        Readiness::Log(expression) => format!("log {expression}"),
    }
}

fn probe(probe: &Probe) -> String {
    let Probe { check: asked, every, timeout, failures, successes, initial_delay } = probe;
    let times = [(every, "every"), (timeout, "timeout"), (initial_delay, "initial_delay")];
    let times: Vec<String> = times.into_iter().map(|(time, name)| format!("{name} {}", show_duration(*time))).collect();
    format!("{}, {}, failures {failures}, successes {successes}", check(asked), times.join(", "))
}

fn check(check: &Check) -> String {
    let statuses = |Statuses(ranges): &Statuses| {
        ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") }).collect::<Vec<_>>().join(" ")
    };
    let containing = |text: &str| if text.is_empty() { String::new() } else { format!(" containing {text:?}") };
    match check {
        Check::Http(http) => {
            format!("http {} {} {} status {}{}", http.method.name(), http.at, http.path, statuses(&http.status), containing(&http.contains))
        }
        Check::Tcp { host, port } => format!("tcp {}", Address::Tcp { host: host.clone(), port: *port }),
        Check::Unix(path) => format!("unix {path}"),
        Check::Redis(redis) => {
            let login = |name: &Option<String>, what: &str| name.as_ref().map_or_else(String::new, |name| format!(" {what} {name}"));
            format!("redis {}{}{}", redis.at, login(&redis.username, "as"), login(&redis.password_env, "password_env"))
        }
        Check::FastCgi(asked) => {
            format!("fastcgi {} {} status {}{}", asked.at, asked.path, statuses(&asked.status), containing(&asked.contains))
        }
        Check::Exec(command) => format!("exec {}", command_line(command)),
    }
}

fn limit(limit: &Limit) -> String {
    let name = Resource::ALL.iter().find(|(_, resource)| *resource == limit.resource).map_or("", |(name, _)| name);
    let amount = |amount: Option<u64>| amount.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
    match (limit.soft, limit.hard) {
        (soft, hard) if soft == hard => format!("{name} {}", amount(soft)),
        (soft, hard) => format!("{name} {} to {}", amount(soft), amount(hard)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::Spec;

    fn spec(text: &str) -> Spec {
        crate::config::check_toml(Path::new("f.toml"), text.as_bytes()).unwrap()
    }

    fn found(old: &str, new: &str, values: bool) -> Vec<String> {
        let (old, new) = (spec(old), spec(new));
        let names = |id: ServiceId| new.services[id.0].name.clone();
        let shown = |shown: Shown| match shown {
            Shown::Absent => "-".to_owned(),
            Shown::Hidden => "*".to_owned(),
            Shown::Text(text) => text,
        };
        let all = changes(&old.services[0], &new.services[0], &names, values);
        all.into_iter().map(|change| format!("{}: {} > {}", change.key, shown(change.from), shown(change.to))).collect()
    }

    const WEB: &str = "[services.web]\ncommand = \"web --fast\"\n";

    #[test]
    fn what_differs_is_told_in_the_words_of_the_file() {
        let with = |more: &str| format!("{WEB}{more}\n[services.db]\ncommand = \"db\"\n");
        for (more, told) in [
            ("", ""),
            ("stop_timeout = \"3s\"", "stop_timeout: 10s > 3s"),
            ("instances = 3", "instances: 1 > 3"),
            ("user = \"www\"", "user: - > www"),
            ("depends_on = [\"db\"]", "depends_on: [] > [db:ready]"),
            ("restart = \"never\"", "restart: always > never"),
            ("umask = \"027\"", "umask: - > 027"),
            ("limits = { nofile = 100 }", "limits: [] > [nofile 100]"),
            ("memory = { restart_above = \"50%\" }", "memory.restart_above: - > 50%"),
            (
                "live = { tcp = \"127.0.0.1:80\" }",
                "live: - > tcp 127.0.0.1:80, every 10s, timeout 2s, initial_delay 0s, failures 3, successes 1",
            ),
        ] {
            let all = found(&with(""), &with(more), false);
            let expected: Vec<&str> = if told.is_empty() { vec![] } else { vec![told] };
            assert_eq!(all, expected, "{more}");
        }
        assert_eq!(found(WEB, "[services.web]\ncommand = \"web --slow\"\n", false), ["command: web --fast > web --slow"]);
    }

    #[test]
    fn variables_are_shown_only_to_whom_they_are_meant_for() {
        let (old, new) = (format!("{WEB}env = {{ A = \"1\", B = \"2\" }}\n"), format!("{WEB}env = {{ A = \"3\", C = \"4\" }}\n"));
        assert_eq!(found(&old, &new, false), ["env.A: * > *", "env.B: * > -", "env.C: - > *"]);
        assert_eq!(found(&old, &new, true), ["env.A: 1 > 3", "env.B: 2 > -", "env.C: - > 4"]);
    }

    #[test]
    fn values_that_read_alike_are_told_to_differ() {
        let with = |value: &str| format!("{WEB}ready = {{ http = \"http://localhost:80/\", headers = {{ Token = \"{value}\" }} }}\n");
        assert_eq!(found(&with("a"), &with("b"), false), ["ready: * > *"]);
    }
}
