//! Values of a service as the file would have them, or nearly so.

use crate::config::values::{show_duration, show_size};
use crate::engine::capability::Capabilities;
use crate::engine::spec::{Address, Backoff, Check, Command, Limit, MemoryAction, Probe, Readiness, Resource, Restart, Statuses, Victim};

/// What is executed.
pub(super) fn argv(command: &Command) -> Vec<String> {
    match command {
        Command::Argv(words) => words.clone(),
        Command::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
    }
}

/// What is executed, as one would type it.
pub(super) fn command_line(command: &Command) -> String {
    let words = argv(command);
    // Only a NUL cannot be quoted, and there is none: the file refuses it.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

pub(super) const fn restart(restart: Restart) -> &'static str {
    match restart {
        Restart::Always => "always",
        Restart::OnFailure => "on-failure",
        Restart::Never => "never",
    }
}

pub(super) fn backoff(backoff: &Backoff) -> String {
    format!(
        "{} x {} up to {}, jitter {}, reset after {}",
        show_duration(backoff.initial),
        backoff.factor,
        show_duration(backoff.max),
        backoff.jitter,
        show_duration(backoff.reset_after)
    )
}

pub(super) fn numbers(numbers: &[i32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn ready(ready: &Readiness) -> String {
    match ready {
        Readiness::Delay(delay) => format!("when it has run for {}", show_duration(*delay)),
        Readiness::Probe(asked) => probe(asked),
        Readiness::Notify { .. } => "when it says READY=1 on NOTIFY_SOCKET".to_owned(),
        Readiness::NotifyFd(descriptor) => format!("when it writes a newline to descriptor {descriptor}"),
        Readiness::Log(expression) => format!("when a line matches {expression}"),
    }
}

pub(super) fn watchdog(ready: &Readiness) -> String {
    match ready {
        Readiness::Notify { watchdog: Some(every) } => show_duration(*every),
        Readiness::Notify { watchdog: None } | Readiness::Delay(_) | Readiness::Probe(_) | Readiness::NotifyFd(_) | Readiness::Log(_) => {
            String::new()
        }
    }
}

pub(super) fn probe(probe: &Probe) -> String {
    let times = |count: u32, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let first = if probe.initial_delay.is_zero() { String::new() } else { format!(", first after {}", show_duration(probe.initial_delay)) };
    format!(
        "{}, every {}, timeout {}{first}, bad after {}, good after {}",
        check(&probe.check),
        show_duration(probe.every),
        show_duration(probe.timeout),
        times(probe.failures, "failure", "failures"),
        times(probe.successes, "success", "successes")
    )
}

fn check(check: &Check) -> String {
    let contains = |text: &str| if text.is_empty() { String::new() } else { format!(" containing {text:?}") };
    match check {
        Check::Http(http) => {
            let at = match &http.at {
                Address::Tcp { .. } => format!("http://{}{}", http.at, http.path),
                Address::Unix(_) => format!("http://unix:{}:{}", http.at, http.path),
            };
            // What headers hold is often a secret.
            let headers = match http.headers.len() {
                0 => String::new(),
                _ => format!(" with {}", http.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")),
            };
            format!("{} {at}{headers}{}{}", http.method.name(), statuses(&http.status), contains(&http.contains))
        }
        Check::Tcp { host, port } => format!("tcp {}", Address::Tcp { host: host.clone(), port: *port }),
        Check::Unix(path) => format!("unix {path}"),
        Check::Redis(redis) => {
            let password = redis.password_env.as_ref().map(|name| format!(" with the password of ${name}")).unwrap_or_default();
            format!("redis {}{password}", redis.at)
        }
        Check::FastCgi(fastcgi) => {
            format!("fastcgi {} {}{}{}", fastcgi.at, fastcgi.path, statuses(&fastcgi.status), contains(&fastcgi.contains))
        }
        Check::Exec(command) => format!("exec {}", command_line(command)),
    }
}

fn statuses(statuses: &Statuses) -> String {
    if *statuses == Statuses::default() {
        return String::new();
    }
    let range = |(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    format!(" status {}", statuses.0.iter().map(range).collect::<Vec<_>>().join(", "))
}

pub(super) fn action(action: MemoryAction) -> String {
    match action {
        MemoryAction::Restart => "restart".to_owned(),
        MemoryAction::Signal(signal) => format!("signal:{signal}"),
    }
}

pub(super) const fn victim(victim: Victim) -> &'static str {
    match victim {
        Victim::Auto => "auto",
        Victim::Last => "last",
        Victim::Never => "never",
    }
}

pub(super) fn limits(limits: &[Limit]) -> String {
    let amount = |resource: Resource, amount: Option<u64>| match (resource, amount) {
        (_, None) => "unlimited".to_owned(),
        (
            Resource::As
            | Resource::Core
            | Resource::Data
            | Resource::Fsize
            | Resource::Memlock
            | Resource::Msgqueue
            | Resource::Rss
            | Resource::Stack,
            Some(bytes @ 1024..),
        ) => show_size(bytes),
        (_, Some(number)) => number.to_string(),
    };
    let one = |limit: &Limit| {
        let name = Resource::ALL.iter().find(|(_, resource)| *resource == limit.resource).map_or("", |(name, _)| name);
        let (soft, hard) = (amount(limit.resource, limit.soft), amount(limit.resource, limit.hard));
        if soft == hard { format!("{name} {soft}") } else { format!("{name} {soft} to {hard}") }
    };
    limits.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `none`, or their names.
pub(super) fn capabilities(kept: Capabilities) -> String {
    if kept == Capabilities::NONE {
        return "none".to_owned();
    }
    format!("{kept:?}").trim_matches(['{', '}']).replace('"', "")
}

/// The number of a user: by name in the text of /etc/passwd, or given as one; `own` where none is named.
pub(super) fn uid_of(user: Option<&str>, own: u32, passwd: &str) -> Option<u32> {
    let Some(user) = user else { return Some(own) };
    let by_name = accounts(passwd).find(|(name, _)| *name == user).map(|(_, uid)| uid);
    by_name.or_else(|| user.parse().ok())
}

/// `uid 33 (www-data)`, for who runs as firstmate does.
pub(super) fn user_name(uid: u32, passwd: &str) -> String {
    match accounts(passwd).find(|(_, known)| *known == uid) {
        Some((name, _)) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

/// Names and numbers; see passwd(5).
fn accounts(passwd: &str) -> impl Iterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}
