//! Where values came from, for `firstmate check-config --explain`.
//!
//! `load` keeps none of this: what runs for years has no use for it. Only `explain` has the joining of the files note it, at the places
//! where precedence is decided, so that what is told is what was done. A TOML file is walked once more for it, by key, so that
//! a key that is new is noted without more ado.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::de::DeTable;

use super::Source;
use super::diagnostic::printable;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As it is shown.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
}

/// `firstmate.toml:12`, with no character that could forge more than that.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", printable(&self.file.to_string_lossy()), self.line)
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "at", rename_all = "kebab-case")]
pub enum Origin {
    /// Nobody said it.
    Default,
    /// A key of a TOML file, or an entry of a Procfile.
    File(Place),
    /// A variable of a `.env` file.
    DotEnv(Place),
    /// An option, as `-p`.
    CommandLine(&'static str),
    /// A variable of firstmate's own environment.
    Environment(&'static str),
    /// It follows from something else, in a few words.
    Follows(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) | Self::DotEnv(place) => place.fmt(f),
            Self::CommandLine(option) => f.write_str(option),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Follows(words) => f.write_str(words),
        }
    }
}

/// A value as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it came from.
    pub origin: Origin,
    /// Its text in the file; empty where there is none, and for what may be a secret.
    pub text: String,
}

/// What is known of one service.
#[derive(Debug, Default)]
struct OfService {
    /// By key, those of tables within as `backoff.max`.
    keys: BTreeMap<String, Written>,
    /// Variables from `.env` files, in force among these.
    dotenv: BTreeMap<OsString, Place>,
}

/// A variable of a `.env` file that another line of such files replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its name.
    pub name: OsString,
    /// Where it is.
    pub at: Place,
    /// What replaces it.
    pub by: Place,
}

/// Where each value came from.
#[derive(Debug, Default)]
pub struct Origins {
    /// By `memory.limit` or `firstmate.drain`.
    stack: BTreeMap<String, Written>,
    services: BTreeMap<String, OfService>,
    port: Option<Origin>,
    replaced: Vec<Replaced>,
}

impl Origins {
    /// Of a key of `[firstmate]` or `[memory]`, written as `memory.limit`.
    #[must_use]
    pub fn stack(&self, key: &str) -> Origin {
        self.stack.get(key).map_or(Origin::Default, |written| written.origin.clone())
    }

    /// Every key of the table (`firstmate`, `memory`) that was written, without those of tables within.
    pub fn stack_keys<'a>(&'a self, table: &'a str) -> impl Iterator<Item = (&'a str, &'a Written)> {
        self.stack.iter().filter_map(move |(key, written)| {
            let key = key.strip_prefix(table)?.strip_prefix('.')?;
            (!key.contains('.')).then_some((key, written))
        })
    }

    /// Of a key of a service, those of tables within written as `backoff.max`.
    #[must_use]
    pub fn service(&self, name: &str, key: &str) -> Origin {
        self.written(name, key).map_or(Origin::Default, |written| written.origin.clone())
    }

    /// As [`Self::service`], where it was written at all.
    #[must_use]
    pub fn written(&self, name: &str, key: &str) -> Option<&Written> {
        self.services.get(name)?.keys.get(key)
    }

    /// Every key of a service that was written, without those of tables within.
    pub fn service_keys(&self, name: &str) -> impl Iterator<Item = (&str, &Written)> {
        let keys = self.services.get(name).into_iter().flat_map(|service| &service.keys);
        keys.filter(|(key, _)| !key.contains('.')).map(|(key, written)| (key.as_str(), written))
    }

    /// Every variable that `.env` files have for a service, whether or not something wins over it.
    pub fn dotenv(&self, name: &str) -> impl Iterator<Item = (&OsStr, &Place)> {
        let variables = self.services.get(name).into_iter().flat_map(|service| &service.dotenv);
        variables.map(|(variable, place)| (variable.as_os_str(), place))
    }

    /// Of the first Procfile entry's PORT; `None` where no entry needs one.
    #[must_use]
    pub const fn port(&self) -> Option<&Origin> {
        self.port.as_ref()
    }

    /// Variables that a later line of a `.env` file replaces, each once.
    #[must_use]
    pub fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// Notes what decided about a key of `[firstmate]` or `[memory]`.
    pub(super) fn note(&mut self, key: &str, origin: Origin) {
        self.stack.insert(key.to_owned(), Written { origin, text: String::new() });
    }

    pub(super) fn note_port(&mut self, origin: Origin) {
        self.port = Some(origin);
    }

    /// It is PORT of this `.env` file.
    pub(super) fn note_port_in(&mut self, file: &Path) {
        let mut places = self.services.values().filter_map(|service| service.dotenv.get(OsStr::new("PORT")));
        let place = places.find(|place| place.file == file).cloned();
        self.port = Some(place.map_or_else(|| Origin::Follows(format!("PORT in {}", printable(&file.to_string_lossy()))), Origin::DotEnv));
    }

    pub(super) fn note_service(&mut self, name: &str, key: &str, origin: Origin) {
        let written = Written { origin, text: String::new() };
        self.services.entry(name.to_owned()).or_default().keys.insert(key.to_owned(), written);
    }

    /// A later one replaces an earlier one.
    pub(super) fn note_dotenv(&mut self, service: &str, variable: &OsStr, place: &Place) {
        let variables = &mut self.services.entry(service.to_owned()).or_default().dotenv;
        if let Some(at) = variables.insert(variable.to_owned(), place.clone()) {
            let replaced = Replaced { name: variable.to_owned(), at, by: place.clone() };
            // Services share files.
            if replaced.at != replaced.by && !self.replaced.contains(&replaced) {
                self.replaced.push(replaced);
            }
        }
    }

    /// Notes every key of a TOML file; `main` is whether it may have more than services.
    pub(super) fn note_file(&mut self, source: &Source, main: bool) {
        let Ok(root) = DeTable::parse(source.text()) else { return };
        for (key, value) in root.get_ref().iter() {
            let Some(table) = value.get_ref().as_table() else { continue };
            match key.get_ref().as_ref() {
                name @ ("firstmate" | "memory") if main => note_keys(&mut self.stack, source, name, table),
                "services" => {
                    for (name, value) in table.iter() {
                        if let Some(table) = value.get_ref().as_table() {
                            let service = self.services.entry(name.get_ref().to_string()).or_default();
                            note_keys(&mut service.keys, source, "", table);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Tables within tables that the files know of: a probe's `headers`, a limit's `soft`.
const DEEPEST: usize = 4;

fn note_keys(keys: &mut BTreeMap<String, Written>, source: &Source, prefix: &str, table: &DeTable<'_>) {
    let mut open: Vec<(String, &DeTable<'_>, usize)> = vec![(prefix.to_owned(), table, 0)];
    while let Some((prefix, table, depth)) = open.pop() {
        for (key, value) in table.iter() {
            let name = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            let origin = Origin::File(place(source, key.span().start));
            let within = value.get_ref().as_table();
            // What tables hold is told key by key, and values of variables and of headers are secrets.
            let is_hidden = within.is_some() || prefix == "env" || prefix.ends_with("headers");
            let text = if is_hidden { "" } else { source.text().get(value.span()).unwrap_or_default() };
            if let Some(within) = within.filter(|_| depth < DEEPEST) {
                open.push((name.clone(), within, depth.saturating_add(1)));
            }
            keys.insert(name, Written { origin, text: text.to_owned() });
        }
    }
}

/// Of a byte of a file.
pub(super) fn place(source: &Source, offset: usize) -> Place {
    Place { file: source.file().to_owned(), line: source.line(offset) }
}

/// Of a line of a file that is shown as `file`.
pub(super) fn place_in(file: &Path, line: usize) -> Place {
    Place { file: file.to_owned(), line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line_and_no_secret_is_kept() {
        let text = "\
[firstmate]
drain = \"1s\"
[services.web]
command = \"run\"
env = { TOKEN = \"hush\" }
new_key = [1, 2]
[services.web.ready]
http = \"http://127.0.0.1/\"
headers = { Authorization = \"hush\" }
";
        let source = Source::new(Path::new("f.toml"), text.as_bytes(), true).unwrap();
        let mut origins = Origins::default();
        origins.note_file(&source, true);
        let at = |line| Origin::File(Place { file: "f.toml".into(), line });
        assert_eq!(origins.stack("firstmate.drain"), at(2));
        assert_eq!(origins.stack("firstmate.http"), Origin::Default);
        for (key, line) in
            [("command", 4), ("env.TOKEN", 5), ("new_key", 6), ("ready", 7), ("ready.http", 8), ("ready.headers.Authorization", 9)]
        {
            assert_eq!(origins.service("web", key), at(line), "{key}");
        }
        assert_eq!(origins.written("web", "new_key").unwrap().text, "[1, 2]");
        assert!(!format!("{origins:?}").contains("hush"), "{origins:?}");
        assert_eq!(origins.service_keys("web").map(|(key, _)| key).collect::<Vec<_>>(), ["command", "env", "new_key", "ready"]);

        let mut included = Origins::default();
        included.note_file(&source, false);
        assert_eq!(included.stack("firstmate.drain"), Origin::Default, "it belongs into the main file");
    }

    #[test]
    fn a_file_name_cannot_forge_a_line() {
        let place = Place { file: "a\nb\x1b[31m".into(), line: 3 };
        assert_eq!(place.to_string(), "a\u{240a}b\u{241b}[31m:3");
    }

    #[test]
    fn a_later_line_replaces_an_earlier_one_and_is_told_once() {
        let mut origins = Origins::default();
        for service in ["web", "worker"] {
            for line in [2, 5] {
                origins.note_dotenv(service, OsStr::new("A"), &place_in(Path::new(".env"), line));
            }
        }
        assert_eq!(origins.replaced().len(), 1);
        assert_eq!(origins.dotenv("web").map(|(_, place)| place.line).collect::<Vec<_>>(), [5]);
    }
}
