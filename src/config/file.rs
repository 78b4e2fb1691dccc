//! The TOML file: one pass over the parsed tree that collects every problem with its place.
//!
//! The tree is walked by hand instead of through serde, because serde stops at the first problem. What comes out are drafts: every value
//! is read and judged by itself, but names of other services, the Procfile and other files have not been looked at yet.

mod check;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::{LEAST_MEMORY, LONGEST, MOST_MEMORY, nearest, parse_duration, parse_percent, parse_size, show_duration, show_size};
use super::{Diagnostic, Http, LogBuffer, Source, command_line, procfile};
use crate::engine::Signal;
use crate::engine::capability::{self, Capabilities, Rights};
use crate::engine::spec::{
    Amount, Backoff, Check, Command, Condition, Kind, Limit, MOST_INSTANCES, MemoryAction, Probe, Readiness, Resource, Restart, Scope,
    Victim,
};

mod readiness;
mod watch;

pub use readiness::log_pattern;
pub(super) use watch::WatchDraft;

/// Keys of the whole file.
const TOP_KEYS: [&str; 5] = ["firstmate", "include", "memory", "procfile", "services"];
/// Keys of `[firstmate]`.
const FIRSTMATE_KEYS: [&str; 8] =
    ["http", "http_details", "socket", "stop_timeout", "drain", "platform_patience", "termination_log", "log_buffer"];
/// Keys of `[memory]`.
const MEMORY_KEYS: [&str; 6] = ["limit", "restart_above", "confirm", "hard_above", "emergency_above", "cgroups"];
/// Keys of a service.
const SERVICE_KEYS: [&str; 35] = [
    "command",
    "type",
    "instances",
    "groups",
    "depends_on",
    "autostart",
    "essential",
    "restart",
    "success_exit_codes",
    "backoff",
    "give_up_after",
    "start_timeout",
    "stop_signal",
    "stop_timeout",
    "signal_scope",
    "reload_signal",
    "ready",
    "live",
    "watchdog",
    "memory",
    "user",
    "group",
    "working_dir",
    "env",
    "env_file",
    "inherit_env",
    "umask",
    "nice",
    "oom_score_adj",
    "limits",
    "capabilities",
    "no_new_privs",
    "log_buffer",
    "tty",
    "watch",
];
const BACKOFF_KEYS: [&str; 5] = ["initial", "factor", "max", "jitter", "reset_after"];
const SERVICE_MEMORY_KEYS: [&str; 3] = ["restart_above", "action", "victim"];
const PROBE_KEYS: [&str; 18] = [
    "http",
    "tcp",
    "unix",
    "redis",
    "fastcgi",
    "exec",
    "method",
    "status",
    "contains",
    "headers",
    "path",
    "password_env",
    "username",
    "every",
    "timeout",
    "failures",
    "successes",
    "initial_delay",
];

/// Timers shorter than this would only burn the processor.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longest path of a Unix socket, without its final NUL; see unix(7).
pub(super) const SUN_PATH: usize = 107;

/// A file that was read, not yet joined with others.
#[derive(Debug)]
pub struct Parsed {
    /// Its text.
    pub source: Rc<Source>,
    /// `[firstmate]`.
    pub firstmate: Firstmate,
    /// `[memory]`.
    pub memory: MemoryTable,
    /// Globs.
    pub include: Vec<Spanned<String>>,
    /// A Procfile whose entries belong to this file.
    pub procfile: Option<Spanned<String>>,
    /// In the order of the file.
    pub services: Vec<Draft>,
    /// Where keys are that only the main file may have.
    pub main_only: Vec<Spanned<&'static str>>,
    /// The text is not TOML, so that what was read of it may be incomplete.
    pub broken: bool,
}

/// `[firstmate]`.
#[derive(Debug, Clone, Default)]
pub struct Firstmate {
    /// Where probes and status are served.
    pub http: Http,
    /// Reasons are shown to everybody who reaches `http`.
    pub http_details: bool,
    /// The control socket.
    pub socket: Option<String>,
    /// `None` is "auto".
    pub stop_timeout: Option<Spanned<Duration>>,
    /// After the stop was asked for.
    pub drain: Option<Spanned<Duration>>,
    /// From the platform's stop signal to its SIGKILL.
    pub platform_patience: Option<Duration>,
    /// As written.
    pub termination_log: Option<String>,
    /// What is kept of each instance's lines.
    pub log_buffer: LogBuffer,
}

/// `[memory]`, each key as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct MemoryTable {
    /// In bytes; `None` is "auto".
    pub limit: Option<Spanned<u64>>,
    /// `Some(None)` is "off".
    pub restart_above: Option<Spanned<Option<Amount>>>,
    /// How long it must have been above that.
    pub confirm: Option<Duration>,
    /// Restart without waiting.
    pub hard_above: Option<Spanned<Amount>>,
    /// SIGKILL.
    pub emergency_above: Option<Spanned<Amount>>,
    /// A cgroup for each service.
    pub cgroups: Option<bool>,
    /// A line could not be read, so that nothing can be said about their order.
    pub lines_are_bad: bool,
}

/// `memory` of a service.
#[derive(Debug, Clone, Default)]
pub struct MemoryDraft {
    /// A line of each instance's own.
    pub restart_above: Option<Spanned<Amount>>,
    /// What is done with it.
    pub action: MemoryAction,
    /// Whether it may be chosen.
    pub victim: Victim,
    /// `action = "reload"`, which needs a `reload_signal`: its place.
    reload: Option<Range<usize>>,
}

/// One service as far as its own table tells.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub name: String,
    /// Where `name_span` and every other span of the draft is.
    pub source: Rc<Source>,
    /// Where it is defined.
    pub name_span: Range<usize>,
    /// Where its command is, and whether a shell stays above it.
    pub command: Option<Spanned<command_line::Line>>,
    /// `command` is there but is no command; nothing more need be said about it.
    pub command_is_bad: bool,
    /// `type`.
    pub kind: Option<Kind>,
    /// Numbered copies.
    pub instances: Option<Spanned<u16>>,
    /// Names that stand for it and others on the command line; none twice.
    pub groups: Vec<Spanned<String>>,
    /// Names, with a condition unless they were only listed.
    pub depends_on: Vec<Spanned<(String, Option<Condition>)>>,
    /// Started with firstmate.
    pub autostart: Option<bool>,
    /// Its giving up ends the container.
    pub essential: Option<bool>,
    /// When it is started again.
    pub restart: Option<Spanned<Restart>>,
    /// Exit codes that are no failure.
    pub success_exit_codes: Option<Vec<i32>>,
    /// How long to wait before the next run.
    pub backoff: Backoff,
    /// `Some(None)` is "never".
    pub give_up_after: Option<Option<u32>>,
    /// A run that is not ready by then counts as failed.
    pub start_timeout: Option<Spanned<Duration>>,
    /// Never empty when there.
    pub stop_signals: Option<Vec<Signal>>,
    /// The grace period.
    pub stop_timeout: Option<Spanned<Duration>>,
    /// Who gets signals.
    pub scope: Option<Scope>,
    /// Makes it read its configuration anew.
    pub reload_signal: Option<Signal>,
    /// May it take work.
    pub ready: Option<Spanned<Readiness>>,
    /// `ready` is there but tells nothing; nothing more need be said about it.
    pub ready_is_bad: bool,
    /// Must it be restarted.
    pub live: Option<Spanned<Probe>>,
    /// How often it must say that it is alive.
    pub watchdog: Option<Spanned<Duration>>,
    /// What the memory guard may do with it.
    pub memory: MemoryDraft,
    /// Name or number.
    pub user: Option<String>,
    /// Name or number.
    pub group: Option<String>,
    /// As written.
    pub working_dir: Option<PathBuf>,
    /// These win over everything.
    pub env: BTreeMap<OsString, OsString>,
    /// As written; a later one replaces values of an earlier one.
    pub env_files: Vec<Spanned<String>>,
    /// Begin with firstmate's own environment.
    pub inherit_env: Option<bool>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// What it may do beyond its user's rights.
    pub rights: Rights,
    /// What is kept of each instance's lines; else what `[firstmate]` says.
    pub log_buffer: Option<LogBuffer>,
    /// A pseudo-terminal in place of pipes.
    pub tty: bool,
    /// Files whose change restarts it.
    pub(super) watch: Option<WatchDraft>,
    /// It is an entry of a Procfile: it gets a PORT. Its place in that file, counted from 0.
    pub procfile_index: Option<usize>,
    /// It is a Procfile's entry with a table of its own in a TOML file.
    pub refined: bool,
    /// Read from its `env_file`s, or from the `.env` of its Procfile.
    pub env_defaults: BTreeMap<OsString, OsString>,
}

impl Draft {
    /// A service of which only the name is known.
    #[must_use]
    pub fn new(name: &str, source: &Rc<Source>, name_span: Range<usize>) -> Self {
        Self {
            name: name.to_owned(),
            source: Rc::clone(source),
            name_span,
            command: None,
            command_is_bad: false,
            kind: None,
            instances: None,
            groups: Vec::new(),
            depends_on: Vec::new(),
            autostart: None,
            essential: None,
            restart: None,
            success_exit_codes: None,
            backoff: Backoff::default(),
            give_up_after: None,
            start_timeout: None,
            stop_signals: None,
            stop_timeout: None,
            scope: None,
            reload_signal: None,
            ready: None,
            ready_is_bad: false,
            live: None,
            watchdog: None,
            memory: MemoryDraft::default(),
            user: None,
            group: None,
            working_dir: None,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            inherit_env: None,
            umask: None,
            nice: None,
            oom_score_adj: None,
            limits: Vec::new(),
            rights: Rights::default(),
            log_buffer: None,
            tty: false,
            watch: None,
            procfile_index: None,
            refined: false,
            env_defaults: BTreeMap::new(),
        }
    }

    /// `file:line:column` of its definition.
    #[must_use]
    pub fn place(&self) -> String {
        self.source.place(self.name_span.start)
    }

    /// Reads a command given as one string, with a remark when it would put itself into the background.
    pub(crate) fn set_command(&mut self, line: command_line::Line, span: Range<usize>, problems: &mut Vec<Diagnostic>) {
        if let Some((message, help)) = command_line::daemonises(&line.command) {
            problems.push(self.source.warning(span.clone(), format!("{message}, where nobody supervises it")).help(help));
        }
        self.command = Some(Spanned::new(span, line));
    }
}

/// Reads a TOML file. `None` when it is no text at all.
#[must_use]
pub fn parse(file: &Path, bytes: &[u8]) -> (Option<Parsed>, Vec<Diagnostic>) {
    let source = match Source::new(file, bytes, true) {
        Ok(source) => Rc::new(source),
        Err(error) => return (None, vec![error]),
    };
    let (root, errors) = DeTable::parse_recoverable(source.text());
    let mut walk = Walk { source: &source, problems: Vec::new() };
    let mut parsed = Parsed {
        source: Rc::clone(&source),
        firstmate: Firstmate::default(),
        memory: MemoryTable::default(),
        include: Vec::new(),
        procfile: None,
        services: Vec::new(),
        main_only: Vec::new(),
        broken: !errors.is_empty(),
    };
    walk.top(root.get_ref(), &mut parsed);
    let mut problems = walk.problems;
    if !errors.is_empty() {
        let text: Vec<&str> = source.text().lines().collect();
        let is_header = |line: usize| text.get(line.saturating_sub(1)).is_some_and(|line| line.trim_start().starts_with('['));
        let broken: Vec<usize> = errors.iter().map(|error| source.line(error.span().unwrap_or(0..0).start)).collect();
        // Below a broken header every key lands in the wrong table.
        let first_header = broken.iter().copied().filter(|line| is_header(*line)).min().unwrap_or(usize::MAX);
        // What the parser made of a broken line is a guess: only its own complaint about that line is worth reading.
        problems.retain(|problem| !broken.contains(&problem.line) && problem.line < first_header);
        let mut last = 0usize;
        let mut last_is_repeated_header = false;
        for (error, &line) in errors.iter().zip(&broken) {
            let is_duplicate = error.message().starts_with("duplicate key");
            // The keys below a header that is there twice are there twice too, which goes without saying.
            let follows = is_duplicate && last_is_repeated_header && !(last.saturating_add(1)..=line).any(is_header);
            // One slip often makes the parser stumble several times on its line.
            if line != last && !follows {
                last = line;
                last_is_repeated_header = is_duplicate && is_header(line);
                problems.push(syntax_error(&source, error));
            }
        }
    }
    (Some(parsed), problems)
}

fn syntax_error(source: &Source, error: &toml::de::Error) -> Diagnostic {
    let message = error.message();
    let mut lower = String::with_capacity(message.len());
    let mut chars = message.chars();
    lower.extend(chars.next().map(|c| c.to_ascii_lowercase()));
    lower.push_str(chars.as_str().trim_end_matches('.'));
    let diagnostic = source.error(error.span().unwrap_or(0..0), lower.clone());
    if lower.starts_with("string values must be quoted") {
        diagnostic.help("put it in double quotes")
    } else if lower.starts_with("duplicate key") {
        diagnostic.help("a key, or a table in [brackets], may be there only once")
    } else {
        diagnostic
    }
}

/// A TOML type as people call it.
fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    let text =
        value.as_float().map(toml::de::DeFloat::as_str).or_else(|| value.as_integer().filter(|i| i.radix() == 10).map(|i| i.as_str()))?;
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

type Value<'i> = Spanned<DeValue<'i>>;

/// The pass over the tree.
struct Walk<'s> {
    source: &'s Rc<Source>,
    problems: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problems.push(self.source.error(span, message));
    }

    fn error_help(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.source.error(span, message).help(help));
    }

    fn mismatch(&mut self, value: &Value<'_>, expected: &str) {
        self.error(value.span(), format!("expected {expected}, found {}", describe(value.get_ref())));
    }

    /// A key nobody knows, with what was likely meant.
    fn unknown_key(&mut self, key: &str, span: Range<usize>, of: &str, known: &[&'static str]) {
        let diagnostic = self.source.error(span, format!("unknown key `{key}` {of}"));
        self.problems.push(match nearest(key, known.iter().copied()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None if known.len() > 16 => diagnostic.help("remove it; docs/configuration.md has every key that works here"),
            None => diagnostic.help(format!("keys that work here: {}", known.join(", "))),
        });
    }

    fn table<'v, 'i>(&mut self, value: &'v Value<'i>, expected: &str) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.mismatch(value, expected);
        }
        table
    }

    fn string<'v>(&mut self, value: &'v Value<'_>, expected: &str) -> Option<&'v str> {
        let Some(text) = value.get_ref().as_str() else {
            self.mismatch(value, expected);
            return None;
        };
        if text.contains('\0') {
            self.error_help(value.span(), "the text holds a NUL character", "remove it");
            return None;
        }
        Some(text)
    }

    fn filled<'v>(&mut self, value: &'v Value<'_>, expected: &str) -> Option<&'v str> {
        let text = self.string(value, expected)?;
        if text.is_empty() {
            self.error(value.span(), format!("expected {expected}, found an empty string"));
            return None;
        }
        Some(text)
    }

    fn boolean(&mut self, value: &Value<'_>) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.mismatch(value, "true or false");
        }
        boolean
    }

    /// A whole number within bounds.
    fn number<T: TryFrom<i64>>(&mut self, value: &Value<'_>, what: &str, from: i64, to: i64) -> Option<T> {
        let Some(number) = value.get_ref().as_integer() else {
            self.mismatch(value, &format!("{what} (a number from {from} to {to})"));
            return None;
        };
        let number = i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| (from..=to).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.error(value.span(), format!("{what} must be from {from} to {to}"));
        }
        number
    }

    fn duration(&mut self, value: &Value<'_>) -> Option<Duration> {
        const EXPECTED: &str = "a duration such as \"10s\"";
        let read = match value.get_ref() {
            DeValue::String(text) => parse_duration(text).map_err(str::to_owned),
            DeValue::Integer(_) | DeValue::Float(_) => match float(value.get_ref()) {
                Some(seconds) if seconds < 0.0 => Err("a duration cannot be negative".to_owned()),
                Some(seconds) => Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|duration| *duration <= LONGEST)
                    .ok_or_else(|| "a duration must not be longer than ten years".to_owned()),
                None => Err(format!("expected {EXPECTED}")),
            },
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(format!("expected {EXPECTED}, found {}", describe(value.get_ref())))
            }
        };
        match read {
            Ok(duration) => Some(duration),
            Err(message) => {
                self.error(value.span(), message);
                None
            }
        }
    }

    fn duration_at_least(&mut self, value: &Value<'_>, what: &str, least: Duration) -> Option<Duration> {
        let duration = self.duration(value)?;
        if duration < least {
            self.error(value.span(), format!("{what} must be at least {}", show_duration(least)));
            return None;
        }
        Some(duration)
    }

    /// One of a few words.
    fn choice<T: Copy>(&mut self, value: &Value<'_>, what: &str, choices: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let list = match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        };
        let word = self.string(value, &list)?;
        if let Some(&(_, choice)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(choice);
        }
        let help = match nearest(word, choices.iter().map(|(name, _)| *name)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("expected {list}"),
        };
        self.error_help(value.span(), format!("unknown {what} `{word}`"), help);
        None
    }

    fn top(&mut self, root: &DeTable<'_>, parsed: &mut Parsed) {
        for (key, value) in root.iter() {
            match key.get_ref().as_ref() {
                "firstmate" => {
                    parsed.main_only.push(Spanned::new(key.span(), "[firstmate]"));
                    if let Some(table) = self.table(value, "a table such as [firstmate]") {
                        self.firstmate(table, &mut parsed.firstmate);
                    }
                }
                "include" => {
                    parsed.main_only.push(Spanned::new(key.span(), "include"));
                    parsed.include = self.strings(value, "a path or a glob such as \"conf.d/*.toml\"");
                }
                "memory" => {
                    parsed.main_only.push(Spanned::new(key.span(), "[memory]"));
                    if let Some(table) = self.table(value, "a table such as [memory]") {
                        self.memory(table, &mut parsed.memory);
                    }
                }
                "procfile" => {
                    parsed.main_only.push(Spanned::new(key.span(), "procfile"));
                    parsed.procfile = self.filled(value, "the path of a Procfile").map(|path| Spanned::new(value.span(), path.to_owned()));
                }
                "services" => {
                    if let Some(table) = self.table(value, "tables such as [services.web]") {
                        for (name, value) in table.iter() {
                            parsed.services.extend(self.service(name.get_ref(), name.span(), value));
                        }
                    }
                }
                other => {
                    let is_service =
                        value.get_ref().as_table().is_some_and(|table| table.contains_key("command")) && procfile::is_name(other);
                    if is_service {
                        self.error_help(key.span(), format!("unknown key `{other}`"), format!("write [services.{other}]"));
                    } else {
                        self.unknown_key(other, key.span(), "at the top of the file", &TOP_KEYS);
                    }
                }
            }
        }
    }

    fn firstmate(&mut self, table: &DeTable<'_>, out: &mut Firstmate) {
        for (key, value) in table.iter() {
            match key.get_ref().as_ref() {
                "http" => out.http = self.http(value).unwrap_or_default(),
                "http_details" => out.http_details = self.boolean(value).unwrap_or_default(),
                "socket" => {
                    let path = self.filled(value, "a path such as \"/run/firstmate.sock\"");
                    if let Some(path) = path {
                        if path == "@" {
                            self.error_help(value.span(), "an abstract socket needs a name", "write \"@firstmate\"");
                        } else if path.len() > SUN_PATH {
                            self.error(value.span(), format!("the path of a socket cannot be longer than {SUN_PATH} bytes"));
                        } else {
                            out.socket = Some(path.to_owned());
                        }
                    }
                }
                "stop_timeout" => {
                    if value.get_ref().as_str() != Some("auto") {
                        let timeout = self.duration_at_least(value, "stop_timeout", SHORTEST);
                        out.stop_timeout = timeout.map(|timeout| Spanned::new(value.span(), timeout));
                    }
                }
                "drain" => out.drain = self.duration(value).map(|drain| Spanned::new(value.span(), drain)),
                "platform_patience" => {
                    out.platform_patience = self.duration_at_least(value, "platform_patience", Duration::from_secs(1));
                }
                "termination_log" => {
                    let path = self.filled(value, "a path such as \"/dev/termination-log\", or \"off\"");
                    out.termination_log = path.map(str::to_owned);
                }
                "log_buffer" => out.log_buffer = self.log_buffer(value).unwrap_or_default(),
                other => self.unknown_key(other, key.span(), "in [firstmate]", &FIRSTMATE_KEYS),
            }
        }
    }

    fn log_buffer(&mut self, value: &Value<'_>) -> Option<LogBuffer> {
        const EXPECTED: &str = "a size such as \"64KiB\"";
        let bytes = match value.get_ref() {
            DeValue::String(text) => parse_size(text).map_err(str::to_owned),
            // Out of bounds is all that a negative one is.
            DeValue::Integer(_) => Ok(integer(value.get_ref()).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default()),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(format!("expected {EXPECTED}, found {}", describe(value.get_ref())))
            }
        };
        match bytes.map(LogBuffer::new) {
            Ok(Some(buffer)) => Some(buffer),
            Ok(None) => {
                self.error_help(
                    value.span(),
                    "log_buffer must be from 4KiB to 64MiB",
                    "it is kept of each instance: 16KiB are some 150 lines",
                );
                None
            }
            Err(message) => {
                self.error(value.span(), message);
                None
            }
        }
    }

    fn memory(&mut self, table: &DeTable<'_>, out: &mut MemoryTable) {
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            match name {
                "limit" => out.limit = self.memory_limit(value),
                "restart_above" if value.get_ref().as_str() == Some("off") => out.restart_above = Some(Spanned::new(value.span(), None)),
                "restart_above" => {
                    let line = self.amount(value, name, "a share of the limit such as \"75%\", a size such as \"400MiB\", or \"off\"");
                    out.lines_are_bad |= line.is_none();
                    out.restart_above = line.map(|line| Spanned::new(value.span(), Some(line)));
                }
                "confirm" => out.confirm = self.duration(value),
                "hard_above" | "emergency_above" => {
                    let line = self.amount(value, name, "a share of the limit such as \"92%\", or a size such as \"480MiB\"");
                    out.lines_are_bad |= line.is_none();
                    let line = line.map(|line| Spanned::new(value.span(), line));
                    *(if name == "hard_above" { &mut out.hard_above } else { &mut out.emergency_above }) = line;
                }
                "cgroups" => out.cgroups = self.boolean(value),
                other => self.unknown_key(other, key.span(), "in [memory]", &MEMORY_KEYS),
            }
        }
    }

    fn memory_limit(&mut self, value: &Value<'_>) -> Option<Spanned<u64>> {
        const EXPECTED: &str = "a size such as \"512MiB\", or \"auto\"";
        match value.get_ref() {
            DeValue::String(text) if text == "auto" => None,
            DeValue::String(text) if text.contains('%') => {
                self.error_help(value.span(), "limit is what every percentage is of, so it cannot be one", format!("write {EXPECTED}"));
                None
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => self.memory_size(value, "limit", EXPECTED).map(|bytes| Spanned::new(value.span(), bytes)),
        }
    }

    /// A share of the limit in force, or a size.
    fn amount(&mut self, value: &Value<'_>, what: &str, expected: &str) -> Option<Amount> {
        match value.get_ref() {
            DeValue::String(text) if text.contains('%') => match parse_percent(text) {
                Ok(percent) => Some(Amount::Percent(percent)),
                Err(message) => {
                    self.error(value.span(), format!("{what}: {message}"));
                    None
                }
            },
            // 0.75 is no number of bytes: a share is meant.
            DeValue::Float(_) => {
                self.mismatch(value, expected);
                if let Some(share) = float(value.get_ref()).filter(|share| *share > 0.0 && *share <= 1.0)
                    && let Some(problem) = self.problems.last_mut()
                {
                    // At most a hundredth of a percent, so that 0.29 does not read 28.999999999999996.
                    problem.help = Some(format!("write \"{}%\"", (share * 10_000.0).round() / 100.0));
                }
                None
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => self.memory_size(value, what, expected).map(Amount::Bytes),
        }
    }

    /// So much memory: neither so little that a unit was forgotten, nor more than there can be.
    fn memory_size(&mut self, value: &Value<'_>, what: &str, expected: &str) -> Option<u64> {
        let size = match value.get_ref() {
            DeValue::String(text) => parse_size(text).ok(),
            DeValue::Integer(_) => integer(value.get_ref()).and_then(|bytes| u64::try_from(bytes).ok()),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(value, expected);
                return None;
            }
        };
        let Some(size) = size else {
            self.error(value.span(), format!("{what}: expected {expected}"));
            return None;
        };
        if size < LEAST_MEMORY {
            let help = match size {
                // `limit` cannot be a share.
                1..=100 if what != "limit" => format!("write \"{size}%\" for a share of the limit, or \"{size}MiB\""),
                _ => format!("write its unit: {expected}"),
            };
            self.error_help(value.span(), format!("{what} is {}, less than any program needs", show_size(size)), help);
            return None;
        }
        if size > MOST_MEMORY {
            self.error(value.span(), format!("{what} is more than {}", show_size(MOST_MEMORY)));
            return None;
        }
        Some(size)
    }

    fn service_memory(&mut self, value: &Value<'_>, out: &mut MemoryDraft) {
        let Some(table) = self.table(value, "a table such as { restart_above = \"200MiB\" }") else { return };
        for (key, value) in table.iter() {
            match key.get_ref().as_ref() {
                "restart_above" if value.get_ref().as_str() == Some("off") => self.error_help(
                    value.span(),
                    "a service has no line of its own unless one is given",
                    "remove it; victim = \"never\" keeps the service from being chosen for the container's sake",
                ),
                "restart_above" => {
                    let line = self.amount(value, "restart_above", "a size such as \"200MiB\", or a share of the limit such as \"30%\"");
                    out.restart_above = line.map(|line| Spanned::new(value.span(), line));
                }
                "action" => self.memory_action(value, out),
                "victim" => {
                    let choices = [("auto", Victim::Auto), ("last", Victim::Last), ("never", Victim::Never)];
                    out.victim = self.choice(value, "victim", &choices).unwrap_or_default();
                }
                other => self.unknown_key(other, key.span(), "in memory", &SERVICE_MEMORY_KEYS),
            }
        }
    }

    fn memory_action(&mut self, value: &Value<'_>, out: &mut MemoryDraft) {
        const EXPECTED: &str = "\"restart\", \"reload\" or a signal such as \"signal:USR2\"";
        let Some(word) = self.string(value, EXPECTED) else { return };
        match word.split_once(':') {
            None if word == "restart" => {}
            None if word == "reload" => out.reload = Some(value.span()),
            Some(("signal", name)) => match Signal::parse(name) {
                Some(signal) => {
                    if self.is_handled(signal, value.span(), "action") {
                        out.action = MemoryAction::Signal(signal);
                    }
                }
                None => self.unknown_signal(name, value.span(), "signal:", EXPECTED),
            },
            None | Some(_) => {
                let help = match (Signal::parse(word), nearest(word, ["restart", "reload"])) {
                    (Some(signal), _) => format!("write \"signal:{}\"", signal.to_string().trim_start_matches("SIG")),
                    (None, Some(near)) => format!("did you mean \"{near}\"?"),
                    (None, None) => format!("expected {EXPECTED}"),
                };
                self.error_help(value.span(), format!("unknown action `{word}`"), help);
            }
        }
    }

    fn http(&mut self, value: &Value<'_>) -> Option<Http> {
        let text = self.string(value, "an address such as \"0.0.0.0:9180\", or \"off\"")?;
        if text == "off" {
            return Some(Http::Off);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                self.error_help(value.span(), "port 0 is no port", "name a port from 1 to 65535");
                return None;
            }
            return Some(Http::On(address));
        }
        let port = text.rsplit(':').next().unwrap_or_default();
        let port = if port.parse::<u16>().is_ok_and(|port| port > 0) { port } else { "9180" };
        self.error_help(
            value.span(),
            format!("`{text}` is not an address and a port"),
            format!("write \"0.0.0.0:{port}\" for all addresses, \"127.0.0.1:{port}\" for this container only, or \"off\""),
        );
        None
    }

    /// A string or an array of them, none empty.
    fn strings(&mut self, value: &Value<'_>, expected: &str) -> Vec<Spanned<String>> {
        let Some(array) = value.get_ref().as_array() else {
            let text = self.filled(value, &format!("{expected}, or an array of them"));
            return text.map(|text| Spanned::new(value.span(), text.to_owned())).into_iter().collect();
        };
        let mut out = Vec::new();
        for item in array.iter() {
            out.extend(self.filled(item, expected).map(|text| Spanned::new(item.span(), text.to_owned())));
        }
        out
    }

    fn service(&mut self, name: &str, name_span: Range<usize>, value: &Value<'_>) -> Option<Draft> {
        if !procfile::is_name(name) {
            self.error_help(name_span, format!("`{name}` is no name for a service"), procfile::made_of(name));
            return None;
        }
        let table = self.table(value, &format!("a table such as [services.{name}]"))?;
        let mut draft = Draft::new(name, self.source, name_span);
        for (key, value) in table.iter() {
            self.service_key(key.get_ref(), key.span(), value, &mut draft);
        }
        if let Some(span) = draft.memory.reload.clone() {
            match draft.reload_signal {
                Some(signal) => draft.memory.action = MemoryAction::Signal(signal),
                // One that is there but bad has been complained about.
                None if table.contains_key("reload_signal") => {}
                None => self.error_help(
                    span,
                    format!("firstmate does not know how `{name}` is reloaded"),
                    "add reload_signal = \"HUP\", or whichever signal makes it start afresh",
                ),
            }
        }
        Some(draft)
    }

    fn service_key(&mut self, key: &str, key_span: Range<usize>, value: &Value<'_>, draft: &mut Draft) {
        match key {
            "command" => match self.command(value) {
                Some(line) => draft.set_command(line, value.span(), &mut self.problems),
                None => draft.command_is_bad = true,
            },
            "type" => draft.kind = self.choice(value, "type", &[("service", Kind::Service), ("oneshot", Kind::Oneshot)]),
            "instances" => {
                draft.instances =
                    self.number(value, "instances", 1, i64::from(MOST_INSTANCES)).map(|number| Spanned::new(value.span(), number));
            }
            "groups" => draft.groups = self.groups(value),
            "depends_on" => draft.depends_on = self.depends_on(value),
            "autostart" => draft.autostart = self.boolean(value),
            "essential" => draft.essential = self.boolean(value),
            "restart" => {
                let choices = [("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)];
                draft.restart = self.choice(value, "restart policy", &choices).map(|restart| Spanned::new(value.span(), restart));
            }
            "success_exit_codes" => draft.success_exit_codes = Some(self.exit_codes(value)),
            "backoff" => self.backoff(value, &mut draft.backoff),
            "give_up_after" => {
                draft.give_up_after = match value.get_ref().as_str() {
                    Some("never") => Some(None),
                    Some(_) => {
                        self.error(value.span(), "expected a number of failed runs, or \"never\"");
                        None
                    }
                    None => self.number(value, "give_up_after", 1, i64::from(u32::MAX)).map(Some),
                }
            }
            "start_timeout" => {
                let timeout = self.duration_at_least(value, "start_timeout", SHORTEST);
                draft.start_timeout = timeout.map(|timeout| Spanned::new(value.span(), timeout));
            }
            "stop_signal" => draft.stop_signals = self.stop_signals(value),
            "stop_timeout" => draft.stop_timeout = self.duration(value).map(|timeout| Spanned::new(value.span(), timeout)),
            "signal_scope" => draft.scope = self.choice(value, "signal scope", &[("main", Scope::Main), ("group", Scope::Group)]),
            "reload_signal" => {
                draft.reload_signal = self.signal(value).filter(|signal| self.is_handled(*signal, value.span(), "reload_signal"))
            }
            "ready" => {
                draft.ready = self.readiness(value).map(|ready| Spanned::new(key_span, ready));
                draft.ready_is_bad = draft.ready.is_none();
            }
            "live" => draft.live = self.probe(value).map(|probe| Spanned::new(key_span, probe)),
            "watchdog" => {
                draft.watchdog = self.duration_at_least(value, "watchdog", SHORTEST).map(|every| Spanned::new(key_span, every));
            }
            "memory" => self.service_memory(value, &mut draft.memory),
            "user" => draft.user = self.account(value, "user"),
            "group" => draft.group = self.account(value, "group"),
            "working_dir" => draft.working_dir = self.filled(value, "a path such as \"/srv/app\"").map(PathBuf::from),
            "env" => self.env(value, &mut draft.env),
            "env_file" => draft.env_files = self.strings(value, "a path such as \".env\""),
            "inherit_env" => draft.inherit_env = self.boolean(value),
            "umask" => draft.umask = self.umask(value),
            "nice" => draft.nice = self.number(value, "nice", -20, 19),
            "oom_score_adj" => draft.oom_score_adj = self.number(value, "oom_score_adj", -1000, 1000),
            "limits" => draft.limits = self.limits(value),
            "capabilities" => draft.rights.capabilities = self.capabilities(value),
            "no_new_privs" => draft.rights.no_new_privs = self.boolean(value).unwrap_or_default(),
            "log_buffer" => draft.log_buffer = self.log_buffer(value),
            "watch" => draft.watch = Some(self.watch(key_span, value)),
            "tty" => draft.tty = self.boolean(value).unwrap_or_default(),
            other => self.unknown_key(other, key_span, &format!("in service `{}`", draft.name), &SERVICE_KEYS),
        }
    }

    fn command(&mut self, value: &Value<'_>) -> Option<command_line::Line> {
        const EXPECTED: &str = "a command: a string, or an array of a program and its arguments";
        if let Some(array) = value.get_ref().as_array() {
            let mut words = Vec::new();
            let mut complete = true;
            for item in array.iter() {
                match self.string(item, "a string") {
                    Some(word) => words.push(word.to_owned()),
                    None => complete = false,
                }
            }
            if !complete {
                return None;
            }
            if words.first().is_none_or(String::is_empty) {
                self.error_help(value.span(), "the command is empty", "name a program");
                return None;
            }
            return Some(command_line::Line { command: Command::Argv(words), shell_stays: false });
        }
        let Some(text) = value.get_ref().as_str() else {
            self.mismatch(value, EXPECTED);
            return None;
        };
        match command_line::parse(text) {
            Ok(line) => Some(line),
            Err(problem) => {
                // Where escapes made the text differ from its source, the whole value is marked instead.
                let span = value.span();
                let inside = span.start.saturating_add(1)..span.end.saturating_sub(1);
                let exact = self.source.text().get(inside.clone()) == Some(text) && !text.is_empty();
                let at = |offset: usize| inside.start.saturating_add(offset);
                let span = if exact { at(problem.span.start)..at(problem.span.end) } else { span };
                self.error_help(span, problem.message, problem.help);
                None
            }
        }
    }

    /// `"workers"`, `["workers", "php"]`.
    fn groups(&mut self, value: &Value<'_>) -> Vec<Spanned<String>> {
        let mut groups: Vec<Spanned<String>> = Vec::new();
        for group in self.strings(value, "the name of a group such as \"workers\"") {
            let name = group.get_ref();
            if !procfile::is_name(name) {
                let message = format!("`{name}` is no name for a group");
                self.error_help(group.span(), message, procfile::made_of(name));
            } else if !groups.iter().any(|other| other.get_ref() == name) {
                groups.push(group);
            }
        }
        groups
    }

    fn depends_on(&mut self, value: &Value<'_>) -> Vec<Spanned<(String, Option<Condition>)>> {
        const EXPECTED: &str = "a table such as { redis = \"ready\" }, or an array of names";
        let mut out = Vec::new();
        if let Some(array) = value.get_ref().as_array() {
            for item in array.iter() {
                out.extend(self.string(item, "the name of a service").map(|name| Spanned::new(item.span(), (name.to_owned(), None))));
            }
        } else if let Some(table) = self.table(value, EXPECTED) {
            let choices = [("started", Condition::Started), ("ready", Condition::Ready), ("completed", Condition::Completed)];
            for (name, value) in table.iter() {
                let condition = self.choice(value, "condition", &choices);
                // A bad condition does not hide that the name may be bad as well.
                out.push(Spanned::new(name.span(), (name.get_ref().to_string(), condition)));
            }
        }
        out
    }

    fn exit_codes(&mut self, value: &Value<'_>) -> Vec<i32> {
        let single = std::slice::from_ref(value);
        let items: Box<dyn Iterator<Item = &Value<'_>>> = match value.get_ref().as_array() {
            Some(array) => Box::new(array.iter()),
            None => Box::new(single.iter()),
        };
        let mut codes: Vec<i32> = Vec::new();
        for item in items {
            if let Some(code) = self.number(item, "an exit code", 0, 255)
                && !codes.contains(&code)
            {
                codes.push(code);
            }
        }
        codes
    }

    fn backoff(&mut self, value: &Value<'_>, out: &mut Backoff) {
        let Some(table) = self.table(value, "a table such as { initial = \"500ms\", max = \"30s\" }") else { return };
        let mut initial_span = value.span();
        let mut complete = true;
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let read = match name {
                "initial" => {
                    initial_span = value.span();
                    // A program that cannot be started would otherwise be tried as fast as the machine can.
                    self.duration_at_least(value, "initial", SHORTEST).map(|duration| out.initial = duration)
                }
                "max" => self.duration(value).map(|duration| out.max = duration),
                "reset_after" => self.duration_at_least(value, "reset_after", SHORTEST).map(|duration| out.reset_after = duration),
                "factor" => self.real(value, "factor", 1.0, 1_000.0).map(|factor| out.factor = factor),
                "jitter" => self.real(value, "jitter", 0.0, 1.0).map(|jitter| out.jitter = jitter),
                other => {
                    self.unknown_key(other, key.span(), "in backoff", &BACKOFF_KEYS);
                    Some(())
                }
            };
            complete &= read.is_some();
        }
        if complete && out.initial > out.max {
            self.error_help(
                initial_span,
                format!("backoff begins with {}, which is longer than its max of {}", show_duration(out.initial), show_duration(out.max)),
                "raise max, or lower initial",
            );
        }
    }

    fn real(&mut self, value: &Value<'_>, what: &str, from: f64, to: f64) -> Option<f64> {
        match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => {
                let number = float(value.get_ref()).filter(|number| (from..=to).contains(number));
                if number.is_none() {
                    self.error(value.span(), format!("{what} must be from {from} to {to}"));
                }
                number
            }
            DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(value, &format!("{what} (a number from {from} to {to})"));
                None
            }
        }
    }

    fn signal(&mut self, value: &Value<'_>) -> Option<Signal> {
        const EXPECTED: &str = "a signal such as \"TERM\", \"SIGTERM\" or 15";
        let signal = match value.get_ref() {
            DeValue::String(text) => Signal::parse(text),
            DeValue::Integer(_) => integer(value.get_ref()).and_then(|number| i32::try_from(number).ok()).and_then(Signal::from_number),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(value, EXPECTED);
                return None;
            }
        };
        if signal.is_some() {
            return signal;
        }
        match value.get_ref().as_str() {
            Some(text) => self.unknown_signal(text, value.span(), "", EXPECTED),
            None => self.error(value.span(), "a signal's number must be from 1 to 64"),
        }
        None
    }

    /// `prefix` is what stands before the signal's name in the value.
    fn unknown_signal(&mut self, text: &str, span: Range<usize>, prefix: &str, expected: &str) {
        let upper = text.trim().to_ascii_uppercase();
        let help = match nearest(upper.strip_prefix("SIG").unwrap_or(&upper), Signal::known_names()) {
            Some(near) => format!("did you mean \"{prefix}{near}\"?"),
            None => format!("expected {expected}; see `kill -l`"),
        };
        self.error_help(span, format!("unknown signal `{text}`"), help);
    }

    /// Whether a program can do anything about that signal; KILL and STOP it never sees.
    fn is_handled(&mut self, signal: Signal, span: Range<usize>, key: &str) -> bool {
        let help = match signal {
            Signal::KILL => "write action = \"restart\": after stop_timeout it sends SIGKILL too",
            Signal::STOP => "name a signal that the program answers by giving memory back",
            _ => return true,
        };
        let help = if key == "reload_signal" { "name the signal that the program answers by reading its configuration anew" } else { help };
        self.error_help(span, format!("no program can answer {signal}"), help);
        false
    }

    fn stop_signals(&mut self, value: &Value<'_>) -> Option<Vec<Signal>> {
        let Some(array) = value.get_ref().as_array() else {
            return self.signal(value).map(|signal| vec![signal]);
        };
        if array.is_empty() {
            self.error_help(value.span(), "a ladder of signals needs at least one", "write \"TERM\"");
            return None;
        }
        let mut signals = Vec::new();
        let last = array.iter().count().saturating_sub(1);
        for (at, item) in array.iter().enumerate() {
            let Some(signal) = self.signal(item) else { continue };
            if signal == Signal::KILL && at < last {
                self.error_help(
                    item.span(),
                    "nothing can follow KILL",
                    "put it last, or leave it out: it is sent anyway after stop_timeout",
                );
            }
            signals.push(signal);
        }
        if signals.is_empty() { None } else { Some(signals) }
    }

    fn probe(&mut self, value: &Value<'_>) -> Option<Probe> {
        const EXPECTED: &str = "a probe such as { http = \"http://127.0.0.1:8080/healthz\" }";
        let table = self.table(value, EXPECTED)?;
        let mut checks: Vec<(Range<usize>, Option<Check>)> = Vec::new();
        let mut details = check::Details::default();
        let problems = self.problems.len();
        let mut every = Duration::from_secs(10);
        let mut timeout = Duration::from_secs(2);
        let (mut failures, mut successes) = (3u32, 1u32);
        let mut initial_delay = Duration::ZERO;
        let most = i64::from(u32::MAX);
        for (key, value) in table.iter() {
            match key.get_ref().as_ref() {
                "http" => checks.push((key.span(), self.http_check(value))),
                "tcp" => checks.push((key.span(), self.tcp_check(value))),
                "unix" => checks.push((key.span(), self.unix_check(value))),
                "redis" => checks.push((key.span(), self.redis_check(value))),
                "fastcgi" => checks.push((key.span(), self.fastcgi_check(value))),
                "exec" => checks.push((key.span(), self.command(value).map(|line| Check::Exec(line.command)))),
                name @ ("method" | "status" | "contains" | "headers" | "path" | "password_env" | "username") => {
                    self.probe_detail(name, key.span(), value, &mut details);
                }
                "every" => every = self.duration_at_least(value, "every", SHORTEST).unwrap_or(every),
                "timeout" => timeout = self.duration_at_least(value, "timeout", Duration::from_millis(1)).unwrap_or(timeout),
                "failures" => failures = self.number(value, "failures", 1, most).unwrap_or(failures),
                "successes" => successes = self.number(value, "successes", 1, most).unwrap_or(successes),
                "initial_delay" => initial_delay = self.duration(value).unwrap_or(initial_delay),
                other => self.unknown_key(other, key.span(), "in a probe", &PROBE_KEYS),
            }
        }
        if checks.len() > 1
            && let Some((span, _)) = checks.last()
        {
            self.error_help(
                span.clone(),
                "a probe asks one question, and this one asks more",
                "keep one of http, tcp, unix, redis, fastcgi and exec",
            );
        }
        if checks.is_empty() {
            self.error_help(value.span(), "the probe does not say what to ask", "add one of http, tcp, unix, redis, fastcgi and exec");
        }
        let mut check = checks.into_iter().next().and_then(|(_, check)| check);
        if let Some(check) = &mut check {
            self.apply_details(check, details);
        }
        if table.contains_key("headers") {
            // Their values are often secrets, and a probe is mostly written on one line: none of it is shown.
            self.problems.iter_mut().skip(problems).for_each(|problem| problem.mark = None);
        }
        let check = check?;
        Some(Probe { check, every, timeout, failures, successes, initial_delay })
    }

    fn host_and_port(&mut self, value: &Value<'_>, text: &str, default: Option<u16>) -> Option<(String, u16)> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, after)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                    (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or(after)) })
                }
                Some(_) | None => {
                    self.error(value.span(), format!("`{text}` is not an IPv6 address in brackets"));
                    return None;
                }
            }
        } else {
            match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    self.error_help(value.span(), format!("`{text}` is not a host and a port"), "put an IPv6 address into brackets: [::1]");
                    return None;
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let is_host = host.parse::<std::net::IpAddr>().is_ok()
            || (!host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')));
        if !is_host {
            let message = if host.is_empty() { "the address has no host".to_owned() } else { format!("`{host}` is no host") };
            self.error_help(value.span(), message, "use an IP address, localhost, or a name in /etc/hosts");
            return None;
        }
        let port = match port {
            None => default,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse::<u16>().ok().filter(|port| *port > 0),
            Some(_) => None,
        };
        let Some(port) = port else {
            self.error(value.span(), format!("`{text}` needs a port from 1 to 65535"));
            return None;
        };
        Some((host.to_owned(), port))
    }

    /// A user or group: name or number.
    fn account(&mut self, value: &Value<'_>, what: &str) -> Option<String> {
        if value.get_ref().is_integer() {
            // The kernel keeps the largest number for "no change"; see setresuid(2).
            return self.number::<u32>(value, what, 0, i64::from(u32::MAX) - 1).map(|id| id.to_string());
        }
        let name = self.filled(value, &format!("the name or the number of a {what}"))?;
        if name.contains([':', '/', '\n']) {
            let help = if name.contains(':') { "name the group with the key group" } else { "see /etc/passwd and /etc/group" };
            self.error_help(value.span(), format!("`{name}` is no name of a {what}"), help);
            return None;
        }
        Some(name.to_owned())
    }

    fn env(&mut self, value: &Value<'_>, out: &mut BTreeMap<OsString, OsString>) {
        let Some(table) = self.table(value, "a table such as { RAILS_ENV = \"production\" }") else { return };
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            if name.is_empty() || name.contains(['=', '\0']) {
                self.problems.push(self.source.error(key.span(), format!("`{name}` is no name for an environment variable")).hidden());
                continue;
            }
            let text = match value.get_ref() {
                DeValue::String(text) if !text.contains('\0') => text.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                DeValue::Boolean(flag) => flag.to_string(),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_) => {
                    // Environment values are often secrets, so the line is not shown.
                    let found = if value.get_ref().is_str() { "a NUL character" } else { describe(value.get_ref()) };
                    let message = format!("expected text for the environment variable `{name}`, found {found}");
                    self.problems.push(self.source.error(value.span(), message).hidden().help("put it in double quotes"));
                    continue;
                }
            };
            out.insert(OsString::from(name), OsString::from(text));
        }
    }

    fn umask(&mut self, value: &Value<'_>) -> Option<u32> {
        const EXPECTED: &str = "an octal mask such as \"022\"";
        let mask = match value.get_ref() {
            DeValue::String(text) => {
                let digits = text.strip_prefix("0o").unwrap_or(text);
                let is_octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
                if is_octal { u32::from_str_radix(digits, 8).ok() } else { None }
            }
            DeValue::Integer(number) if number.radix() == 8 || number.as_str() == "0" => u32::from_str_radix(number.as_str(), 8).ok(),
            DeValue::Integer(number) => {
                // 22 is 026: whoever writes it means 022.
                self.error_help(
                    value.span(),
                    "a mask is octal, and this number is not",
                    format!("write \"{:0>3}\"", if number.radix() == 10 { number.as_str() } else { "022" }),
                );
                return None;
            }
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(value, EXPECTED);
                return None;
            }
        };
        let mask = mask.filter(|mask| *mask <= 0o777);
        if mask.is_none() {
            self.error(value.span(), format!("expected {EXPECTED}, from \"000\" to \"777\""));
        }
        mask
    }

    fn limits(&mut self, value: &Value<'_>) -> Vec<Limit> {
        let Some(table) = self.table(value, "a table such as { nofile = 65536 }") else { return Vec::new() };
        let names: Vec<&'static str> = Resource::ALL.iter().map(|(name, _)| *name).collect();
        let mut out = Vec::new();
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let Some(&(_, resource)) = Resource::ALL.iter().find(|(known, _)| *known == name) else {
                self.unknown_key(name, key.span(), "in limits", &names);
                continue;
            };
            let Some(pair) = value.get_ref().as_table() else {
                out.extend(self.limit(value, resource).map(|amount| Limit { resource, soft: amount, hard: amount }));
                continue;
            };
            let (mut soft, mut hard) = (None, None);
            let mut complete = true;
            for (key, value) in pair.iter() {
                let amount = match key.get_ref().as_ref() {
                    "soft" => &mut soft,
                    "hard" => &mut hard,
                    other => {
                        self.unknown_key(other, key.span(), "in a limit", &["soft", "hard"]);
                        complete = false;
                        continue;
                    }
                };
                *amount = self.limit(value, resource);
                complete &= amount.is_some();
            }
            match (soft, hard) {
                (Some(soft), Some(hard)) => {
                    // Unlimited is more than every number.
                    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) || (soft.is_none() && hard.is_some()) {
                        self.error(value.span(), format!("the soft limit of `{name}` is above its hard limit"));
                    } else {
                        out.push(Limit { resource, soft, hard });
                    }
                }
                (_, _) if complete => {
                    self.error_help(
                        value.span(),
                        format!("the limit `{name}` needs both soft and hard"),
                        "write { soft = 1024, hard = 65536 }",
                    );
                }
                (_, _) => {}
            }
        }
        out
    }

    /// Those to keep. `None` where one of them is unknown.
    fn capabilities(&mut self, value: &Value<'_>) -> Option<Capabilities> {
        const EXPECTED: &str = "an array of capabilities such as [\"NET_BIND_SERVICE\"]";
        let Some(array) = value.get_ref().as_array() else {
            self.mismatch(value, &format!("{EXPECTED}, empty to keep none"));
            return None;
        };
        let mut kept = Some(Capabilities::NONE);
        for item in array.iter() {
            let named = self.string(item, "a capability such as \"NET_BIND_SERVICE\"");
            let one = named.and_then(Capabilities::parse);
            if let (Some(name), None) = (named, one) {
                let upper = name.trim().to_ascii_uppercase();
                let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
                let help = match nearest(bare, capability::NAMES) {
                    _ if bare == "ALL" => "leave `capabilities` out to keep all that firstmate has".to_owned(),
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "see capabilities(7) for their names".to_owned(),
                };
                self.error_help(item.span(), format!("unknown capability `{name}`"), help);
            }
            kept = kept.and_then(|kept| one.map(|one| kept.with(one)));
        }
        kept
    }

    /// `Some(None)` is unlimited.
    fn limit(&mut self, value: &Value<'_>, resource: Resource) -> Option<Option<u64>> {
        const EXPECTED: &str = "a number, a size such as \"64MiB\", or \"unlimited\"";
        let counts_bytes = match resource {
            Resource::As
            | Resource::Core
            | Resource::Data
            | Resource::Fsize
            | Resource::Memlock
            | Resource::Msgqueue
            | Resource::Rss
            | Resource::Stack => true,
            Resource::Cpu
            | Resource::Locks
            | Resource::Nice
            | Resource::Nofile
            | Resource::Nproc
            | Resource::Rtprio
            | Resource::Rttime
            | Resource::Sigpending => false,
        };
        let expected = if counts_bytes { EXPECTED } else { "a number, or \"unlimited\"" };
        match value.get_ref() {
            DeValue::Integer(_) => match integer(value.get_ref()).map(u64::try_from) {
                Some(Ok(amount)) => return Some(Some(amount)),
                Some(Err(_)) | None => {
                    self.error_help(value.span(), "a limit is a number from 0 to 9223372036854775807", "write \"unlimited\" for none");
                }
            },
            DeValue::String(text) if text == "unlimited" => return Some(None),
            DeValue::String(text) if counts_bytes || text.bytes().all(|b| b.is_ascii_digit()) => match parse_size(text) {
                Ok(amount) => return Some(Some(amount)),
                Err(_) => self.error(value.span(), format!("expected {expected}")),
            },
            DeValue::String(_) => self.error(value.span(), format!("expected {expected}")),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(value, expected);
            }
        }
        None
    }
}
