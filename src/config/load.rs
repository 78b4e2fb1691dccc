//! Which file, and everything it names: includes, the Procfile, `.env` files; joined into one `engine::Spec`.
//!
//! The only part of the room that touches the file system. Every relative path is taken from the directory of the main file, included
//! files' paths too, so that a definition means the same wherever it is kept; only a Procfile's own entries run in the Procfile's directory.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;

use super::choice::{Choice, Ending, Mode, StartedBy};
use super::dotenv::{self, Env};
use super::file::{self, Draft, Firstmate, MemoryTable, Parsed, SUN_PATH};
use super::origin::{self, Origin, Origins, Place};
use super::patience::{PLATFORM_PATIENCE, Patience};
use super::procfile::{self, Procfile};
use super::values::{nearest, show_amount, show_duration, show_size};
use super::{Diagnostic, GivenLimit, LogBuffers, Settings, Severity, Source, TerminationLog, command_line, watch};
use crate::engine::Signal;
use crate::engine::spec::{
    Amount, Condition, Dependency, Kind, Launch, Memory, Probe, Readiness, Restart, Scope, Service, ServiceId, ServiceMemory, Spec, Stop,
    Watch,
};

/// A file larger than this is no configuration. Reading stops there, so that a wrong path (a device, a log) cannot fill the memory.
const LARGEST_FILE: u64 = 1024 * 1024;
/// Files that `include` may name.
const MOST_INCLUDES: usize = 1_000;
/// Where the last place of the search order is.
const SYSTEM_FILE: &str = "/etc/firstmate/firstmate.toml";
/// The environment variable that gives the limit of memory, below `--memory-limit` and above the file.
pub const MEMORY_LIMIT: &str = "FIRSTMATE_MEMORY_LIMIT";
/// The environment variable that says where the last words go, above the file.
pub const TERMINATION_LOG: &str = "FIRSTMATE_TERMINATION_LOG";
/// Names the command line gives a meaning of its own.
const RESERVED: [&str; 1] = ["all"];
/// How long a run may take to become ready unless its file says otherwise; the product's contract.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a file came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What the engine needs.
    pub spec: Spec,
    /// What the rest needs.
    pub settings: Settings,
    /// None of them is an error.
    pub warnings: Vec<Diagnostic>,
    /// The main file, as it was given.
    pub path: PathBuf,
    /// How it was read.
    pub format: Format,
    /// How the stack is run.
    pub mode: Mode,
    /// For the log: what the command line made of the file.
    pub remarks: Vec<String>,
    /// What the `.env` files say, for a command that is no service's. PORT is not among it.
    pub common_env: Env,
    /// PORT of the first Procfile entry; `None` where there is no Procfile.
    pub base_port: Option<u16>,
}

/// How the main file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `*.toml`.
    Toml,
    /// Anything else.
    Procfile,
}

/// What the command line and the surroundings add to the file.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// firstmate's own environment.
    pub env: BTreeMap<OsString, OsString>,
    /// `-p`: PORT of the first Procfile entry.
    pub port: Option<u16>,
    /// `-e`: read instead of the Procfile's `.env`, for every service.
    pub env_files: Vec<PathBuf>,
    /// `--memory-limit`: wins over $FIRSTMATE_MEMORY_LIMIT and the file.
    pub memory_limit: Option<GivenLimit>,
    /// It runs in a container of Docker's, which says so by a file and by no variable.
    pub in_docker: bool,
    /// `-d`: where services run and a Procfile's `.env` is, in place of the file's directory.
    pub root: Option<PathBuf>,
    /// Which services are started.
    pub choice: Choice,
    /// `-t`: the whole shutdown, and the grace period of every service that does not say its own.
    pub stop_timeout: Option<Duration>,
    /// `--restart`, `--no-restart`.
    pub ending: Option<Ending>,
    /// Who started firstmate.
    pub started_by: StartedBy,
}

/// The file to use: `-f FILE`, `$FIRSTMATE_CONFIG`, `./firstmate.toml`, `./Procfile`, `/etc/firstmate/firstmate.toml`. Whether an explicit
/// one can be read is for `load` to say.
///
/// # Errors
/// There is none.
pub fn find(explicit: Option<&Path>, env: &BTreeMap<OsString, OsString>, cwd: &Path) -> Result<PathBuf, Diagnostic> {
    if let Some(path) = explicit {
        return Ok(cwd.join(path));
    }
    if let Some(path) = env.get(OsStr::new("FIRSTMATE_CONFIG")).filter(|path| !path.is_empty()) {
        return Ok(cwd.join(path));
    }
    let candidates = [cwd.join("firstmate.toml"), cwd.join("Procfile"), PathBuf::from(SYSTEM_FILE)];
    candidates
        .into_iter()
        .find(|path| !path.is_dir() && !matches!(path.metadata(), Err(error) if error.kind() == ErrorKind::NotFound))
        .ok_or_else(|| {
            Diagnostic::whole(Severity::Error, Path::new(""), format!("cannot find firstmate.toml or a Procfile in {}", cwd.display()))
                .help(format!("write one, or name one with -f FILE or $FIRSTMATE_CONFIG (also looked for: {SYSTEM_FILE})"))
        })
}

/// Reads the file and all it names.
///
/// # Errors
/// Every problem there is, warnings included, in the order of the files and their lines.
pub fn load(path: &Path, inputs: &Inputs) -> Result<Loaded, Vec<Diagnostic>> {
    load_noting(path, inputs, None).map(|(loaded, _)| loaded)
}

/// As [`load`], and where each value came from.
///
/// # Errors
/// Those of [`load`].
pub fn explain(path: &Path, inputs: &Inputs) -> Result<(Loaded, Origins), Vec<Diagnostic>> {
    load_noting(path, inputs, Some(Box::default())).map(|(loaded, origins)| (loaded, origins.map(|origins| *origins).unwrap_or_default()))
}

/// What `.env` files say where there is no file that defines services: those that are named, else the one in the directory. `None` where
/// there is none.
///
/// # Errors
/// Every problem of theirs.
pub fn env_alone(directory: &Path, inputs: &Inputs) -> Result<Option<Env>, Vec<Diagnostic>> {
    let own = directory.join(".env");
    let files = if inputs.env_files.is_empty() && own.is_file() { vec![own] } else { inputs.env_files.clone() };
    if files.is_empty() {
        return Ok(None);
    }
    let (mut variables, mut problems) = (Env::new(), Vec::new());
    for path in files {
        let shown = shown(&path);
        match read(&path) {
            Ok(bytes) => problems.extend(dotenv::parse(&shown, &bytes, &inputs.env, &mut variables)),
            Err(why) => problems.push(Diagnostic::whole(Severity::Error, &shown, format!("cannot read the file: {why}"))),
        }
    }
    if problems.iter().any(Diagnostic::is_error) { Err(problems) } else { Ok(Some(variables)) }
}

fn load_noting(path: &Path, inputs: &Inputs, origins: Option<Box<Origins>>) -> Result<(Loaded, Option<Box<Origins>>), Vec<Diagnostic>> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = shown(&absolute);
    let base = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let name = absolute.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    if name.starts_with("supervisord") && name.ends_with(".conf") {
        return Err(vec![
            Diagnostic::whole(Severity::Error, &shown, "cannot read supervisord's format")
                .help("write its programs as services of a firstmate.toml; docs/configuration.md has every key"),
        ]);
    }
    let bytes = read(&absolute).map_err(|why| vec![Diagnostic::whole(Severity::Error, &shown, format!("cannot read the file: {why}"))])?;
    let mut join = Join::new(base, inputs, origins);
    let (format, firstmate, memory, main) = if absolute.extension() == Some(OsStr::new("toml")) {
        let (parsed, problems) = file::parse(&shown, &bytes);
        join.take(problems);
        let Some(parsed) = parsed else { return Err(join.finish()) };
        let main = Rc::clone(&parsed.source);
        let (firstmate, memory) = join.toml(parsed, &absolute);
        (Format::Toml, firstmate, memory, main)
    } else {
        let (parsed, problems) = procfile::parse(&shown, &bytes);
        join.take(problems);
        let Some(parsed) = parsed else { return Err(join.finish()) };
        let main = Rc::clone(&parsed.source);
        join.procfile(&parsed, &absolute);
        (Format::Procfile, Firstmate::default(), MemoryTable::default(), main)
    };
    join.env_files();
    join.mode = Mode::find(format, inputs.started_by, inputs.ending);
    let (spec, settings) = join.assemble(&main, firstmate, memory);
    let (mode, base_port) = (std::mem::take(&mut join.mode), join.base_port);
    let (mut common_env, mut remarks) = (std::mem::take(&mut join.common_env), std::mem::take(&mut join.remarks));
    // It is the base of every entry's port.
    if base_port.is_some() {
        common_env.remove(OsStr::new("PORT"));
    }
    remarks.extend(mode.remark());
    let origins = join.origins.take();
    let problems = join.finish();
    match spec {
        Some(spec) if !problems.iter().any(Diagnostic::is_error) => Ok((
            Loaded { spec, settings, warnings: problems, path: path.to_owned(), format, mode, remarks, common_env, base_port },
            origins,
        )),
        Some(_) | None => Err(problems),
    }
}

/// Judges the text of a TOML file as far as that can be done without reading other files.
///
/// # Errors
/// Every problem there is.
pub fn check_toml(file: &Path, bytes: &[u8]) -> Result<Spec, Vec<Diagnostic>> {
    let inputs = Inputs::default();
    let base = file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut join = Join::new(base, &inputs, None);
    let (parsed, problems) = file::parse(file, bytes);
    join.take(problems);
    let Some(parsed) = parsed else { return Err(join.finish()) };
    join.incomplete |= parsed.broken || !parsed.include.is_empty() || parsed.procfile.is_some();
    join.drafts = parsed.services;
    let (spec, _) = join.assemble(&parsed.source, parsed.firstmate, parsed.memory);
    let problems = join.finish();
    match spec {
        Some(spec) if !problems.iter().any(Diagnostic::is_error) => Ok(spec),
        Some(_) | None => Err(problems),
    }
}

/// A path as it is shown: short where it lies below the current directory.
fn shown(path: &Path) -> PathBuf {
    // Everything lies below `/`, and an absolute path is clearer there.
    let directory = std::env::current_dir().ok().filter(|directory| directory.parent().is_some());
    let below = directory.and_then(|directory| path.strip_prefix(directory).ok().map(Path::to_owned));
    below.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| path.to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let plain = |error: std::io::Error| {
        let known = [
            (ErrorKind::NotFound, "no such file"),
            (ErrorKind::PermissionDenied, "permission denied"),
            (ErrorKind::IsADirectory, "it is a directory"),
        ];
        known.iter().find(|(kind, _)| *kind == error.kind()).map_or_else(|| error.to_string(), |(_, text)| (*text).to_owned())
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(plain)?;
    file.take(LARGEST_FILE.saturating_add(1)).read_to_end(&mut bytes).map_err(plain)?;
    if bytes.len() as u64 > LARGEST_FILE { Err("it is larger than 1 MiB".to_owned()) } else { Ok(bytes) }
}

/// The joining of files; problems are collected on the way.
struct Join<'a> {
    /// Directory of the main file.
    base: PathBuf,
    inputs: &'a Inputs,
    problems: Vec<Diagnostic>,
    drafts: Vec<Draft>,
    /// Some file or part of one could not be read, so that what seems to be missing may only be unread.
    incomplete: bool,
    /// PORT in the `.env` files.
    procfile_port: Option<(PathBuf, OsString)>,
    /// What the Procfile's `.env`, or the files of `-e`, say.
    common_env: Env,
    /// PORT of the first Procfile entry.
    base_port: Option<u16>,
    mode: Mode,
    remarks: Vec<String>,
    /// Where values came from, if somebody wants to know.
    origins: Option<Box<Origins>>,
}

impl<'a> Join<'a> {
    fn new(base: PathBuf, inputs: &'a Inputs, origins: Option<Box<Origins>>) -> Self {
        Self {
            base,
            inputs,
            problems: Vec::new(),
            drafts: Vec::new(),
            incomplete: false,
            procfile_port: None,
            common_env: Env::new(),
            base_port: None,
            mode: Mode::default(),
            remarks: Vec::new(),
            origins,
        }
    }

    /// Does nothing unless somebody wants to know.
    fn note(&mut self, note: impl FnOnce(&mut Origins)) {
        if let Some(origins) = &mut self.origins {
            note(origins);
        }
    }

    fn take(&mut self, problems: Vec<Diagnostic>) {
        self.problems.extend(problems);
    }

    /// In the order of the files as they were met, and of their lines.
    fn finish(self) -> Vec<Diagnostic> {
        let mut order: Vec<Box<Path>> = Vec::new();
        for problem in &self.problems {
            if !order.contains(&problem.file) {
                order.push(problem.file.clone());
            }
        }
        let mut problems = self.problems;
        problems.sort_by_key(|problem| (order.iter().position(|file| *file == problem.file), problem.line, problem.column));
        problems
    }

    fn read_named(&mut self, path: &Path, source: &Source, span: Range<usize>) -> Option<Vec<u8>> {
        match read(path) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.problems.push(source.error(span, format!("cannot read {}: {why}", shown(path).display())));
                self.incomplete = true;
                None
            }
        }
    }

    fn toml(&mut self, main: Parsed, path: &Path) -> (Firstmate, MemoryTable) {
        self.incomplete |= main.broken;
        self.note(|origins| origins.note_file(&main.source, true));
        let mut procfile_source = None;
        if let Some(name) = &main.procfile {
            let path = self.base.join(name.get_ref());
            if let Some(bytes) = self.read_named(&path, &main.source, name.span()) {
                let (procfile, problems) = procfile::parse(&shown(&path), &bytes);
                self.take(problems);
                match procfile {
                    Some(procfile) => {
                        self.procfile(&procfile, &path);
                        procfile_source = Some(procfile.source);
                    }
                    None => self.incomplete = true,
                }
            }
        }
        if procfile_source.is_none() && self.inputs.port.is_some() {
            let message = "-p has no effect: only entries of a Procfile get a PORT";
            self.problems.push(Diagnostic::whole(Severity::Warning, &shown(path), message).help("set PORT in the service's env"));
        }
        for draft in main.services {
            self.merge(draft);
        }
        self.includes(&main.source, &main.include, path);
        (main.firstmate, main.memory)
    }

    fn includes(&mut self, source: &Source, globs: &[Spanned<String>], main: &Path) {
        let mut seen: BTreeSet<PathBuf> = [main.to_owned()].into();
        for glob in globs {
            let text = glob.get_ref();
            let pattern = if Path::new(text).is_absolute() {
                text.clone()
            } else {
                format!("{}/{text}", glob::Pattern::escape(&self.base.to_string_lossy()))
            };
            let paths = match glob::glob(&pattern) {
                Ok(paths) => paths,
                Err(error) => {
                    self.problems.push(source.error(glob.span(), format!("`{text}` is not a glob: {}", error.msg)));
                    self.incomplete = true;
                    continue;
                }
            };
            let mut found = false;
            for path in paths {
                if seen.len() > MOST_INCLUDES {
                    self.problems.push(source.error(glob.span(), format!("`{text}` names more than {MOST_INCLUDES} files")));
                    return;
                }
                match path {
                    Ok(path) => {
                        found = true;
                        if seen.insert(path.clone()) {
                            self.include(&path, source, glob.span());
                        }
                    }
                    Err(error) => {
                        let message = format!("cannot read {}: {}", error.path().display(), error.error());
                        self.problems.push(source.error(glob.span(), message));
                        self.incomplete = true;
                    }
                }
            }
            if !found && !text.contains(['*', '?', '[']) {
                self.problems.push(source.error(glob.span(), format!("cannot read {text}: no such file")));
                self.incomplete = true;
            }
        }
    }

    fn include(&mut self, path: &Path, by: &Source, span: Range<usize>) {
        let Some(bytes) = self.read_named(path, by, span) else { return };
        let (parsed, problems) = file::parse(&shown(path), &bytes);
        self.take(problems);
        let Some(parsed) = parsed else {
            self.incomplete = true;
            return;
        };
        self.incomplete |= parsed.broken;
        self.note(|origins| origins.note_file(&parsed.source, false));
        for key in &parsed.main_only {
            let message = format!("{} belongs into the main file", key.get_ref());
            self.problems.push(
                parsed
                    .source
                    .error(key.span(), message)
                    .help(format!("move it to {}; an included file has only services", by.file().display())),
            );
        }
        for draft in parsed.services {
            self.merge(draft);
        }
    }

    /// Adds a service, or refines the Procfile entry of its name.
    fn merge(&mut self, mut draft: Draft) {
        let Some(at) = self.drafts.iter().position(|other| other.name == draft.name) else {
            self.drafts.push(draft);
            return;
        };
        let Some(other) = self.drafts.get_mut(at) else { return };
        // A Procfile entry can be refined once; after that it is a definition like any other.
        if other.procfile_index.is_none() || other.refined {
            self.problems.push(
                draft
                    .source
                    .error(draft.name_span.clone(), format!("service `{}` is defined twice", draft.name))
                    .note(format!("first defined at {}", other.place()))
                    .help("rename one of them"),
            );
            return;
        }
        if draft.command.is_some() || draft.command_is_bad {
            let span = draft.command.as_ref().map_or(draft.name_span.clone(), Spanned::span);
            self.problems.push(
                draft
                    .source
                    .error(span, format!("`{}` already has a command", draft.name))
                    .note(format!("it is an entry of the Procfile, at {}", other.place()))
                    .help("remove the command here, or the entry there"),
            );
            return;
        }
        draft.command = other.command.take();
        draft.command_is_bad = other.command_is_bad;
        draft.procfile_index = other.procfile_index;
        draft.env_defaults = std::mem::take(&mut other.env_defaults);
        draft.kind = draft.kind.or(other.kind);
        draft.working_dir = draft.working_dir.take().or_else(|| other.working_dir.take());
        draft.refined = true;
        *other = draft;
    }

    fn procfile(&mut self, procfile: &Procfile, path: &Path) {
        let directory = self.inputs.root.clone().unwrap_or_else(|| path.parent().unwrap_or(&self.base).to_owned());
        let mut defaults = Env::new();
        let mut places: Vec<(OsString, Place)> = Vec::new();
        if self.inputs.env_files.is_empty() {
            let dotenv = directory.join(".env");
            match std::fs::metadata(&dotenv) {
                Ok(found) if found.is_dir() => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(_) | Err(_) => match read(&dotenv) {
                    Ok(bytes) => {
                        let shown = shown(&dotenv);
                        let mut note = |name: &OsStr, line| places.push((name.to_owned(), origin::place_in(&shown, line)));
                        let wanted = self.origins.is_some();
                        self.take(match wanted {
                            true => dotenv::parse_noting(&shown, &bytes, &self.inputs.env, &mut defaults, &mut note),
                            false => dotenv::parse(&shown, &bytes, &self.inputs.env, &mut defaults),
                        });
                        self.procfile_port = defaults.get(OsStr::new("PORT")).map(|port| (shown, port.clone()));
                    }
                    Err(why) => {
                        let message = format!("cannot read the file: {why}");
                        self.problems.push(Diagnostic::whole(Severity::Error, &shown(&dotenv), message));
                    }
                },
            }
        }
        self.common_env.clone_from(&defaults);
        for (index, entry) in procfile.entries.iter().enumerate() {
            let mut draft = Draft::new(&entry.name, &procfile.source, entry.name_span.clone());
            match command_line::parse(&entry.command) {
                Ok(line) => draft.set_command(line, entry.command_span.clone(), &mut self.problems),
                Err(problem) => {
                    let at = |offset: usize| entry.command_span.start.saturating_add(offset);
                    let span = at(problem.span.start)..at(problem.span.end);
                    self.problems.push(procfile.source.error(span, problem.message).help(problem.help));
                    draft.command_is_bad = true;
                }
            }
            self.note(|origins| {
                let place = origin::place(&procfile.source, entry.name_span.start);
                origins.note_service(&entry.name, "command", Origin::File(place.clone()));
                origins.note_service(&entry.name, "working_dir", Origin::Follows("the Procfile's directory".to_owned()));
                if entry.name == "release" {
                    origins.note_service(&entry.name, "type", Origin::Follows("it is called release".to_owned()));
                }
                places.iter().for_each(|(variable, place)| origins.note_dotenv(&entry.name, variable, place));
            });
            draft.kind = (entry.name == "release").then_some(Kind::Oneshot);
            draft.procfile_index = Some(index);
            draft.working_dir = Some(directory.clone());
            draft.env_defaults = defaults.clone();
            self.drafts.push(draft);
        }
    }

    /// `-e` for every service, then each one's own `env_file`.
    fn env_files(&mut self) {
        let mut common = Env::new();
        let mut places: Vec<(OsString, Place)> = Vec::new();
        for path in &self.inputs.env_files {
            match read(path) {
                Ok(bytes) => {
                    let mut note = |name: &OsStr, line| places.push((name.to_owned(), origin::place_in(path, line)));
                    let problems = match self.origins {
                        Some(_) => dotenv::parse_noting(path, &bytes, &self.inputs.env, &mut common, &mut note),
                        None => dotenv::parse(path, &bytes, &self.inputs.env, &mut common),
                    };
                    self.problems.extend(problems);
                    if let Some(port) = common.get(OsStr::new("PORT")) {
                        self.procfile_port = Some((path.clone(), port.clone()));
                    }
                }
                Err(why) => self.problems.push(Diagnostic::whole(Severity::Error, path, format!("cannot read the file: {why}"))),
            }
        }
        self.common_env.extend(common.iter().map(|(name, value)| (name.clone(), value.clone())));
        for draft in &mut self.drafts {
            for (name, value) in &common {
                draft.env_defaults.insert(name.clone(), value.clone());
            }
            if let Some(origins) = &mut self.origins {
                places.iter().for_each(|(variable, place)| origins.note_dotenv(&draft.name, variable, place));
            }
            for file in &draft.env_files {
                let path = self.base.join(file.get_ref());
                match read(&path) {
                    Ok(bytes) => {
                        let shown = shown(&path);
                        let problems = match &mut self.origins {
                            Some(origins) => {
                                let mut note = |name: &OsStr, line| origins.note_dotenv(&draft.name, name, &origin::place_in(&shown, line));
                                dotenv::parse_noting(&shown, &bytes, &self.inputs.env, &mut draft.env_defaults, &mut note)
                            }
                            None => dotenv::parse(&shown, &bytes, &self.inputs.env, &mut draft.env_defaults),
                        };
                        // Services may share a file: its problems are told once.
                        for problem in problems {
                            if !self.problems.contains(&problem) {
                                self.problems.push(problem);
                            }
                        }
                    }
                    Err(why) => {
                        self.problems.push(draft.source.error(file.span(), format!("cannot read {}: {why}", shown(&path).display())));
                    }
                }
            }
        }
    }

    /// PORT of the first Procfile entry: `-p`, else PORT in .env, else $PORT, else 5000.
    fn find_base_port(&mut self) -> u16 {
        let valid = |text: &OsStr| text.to_str().and_then(|text| text.trim().parse::<u16>().ok()).filter(|port| *port > 0);
        if let Some(port) = self.inputs.port {
            self.note(|origins| origins.note_port(Origin::CommandLine("-p")));
            return port;
        }
        if let Some((file, text)) = &self.procfile_port {
            if let Some(origins) = &mut self.origins {
                origins.note_port_in(file);
            }
            return valid(text).unwrap_or_else(|| {
                let message = "PORT in this file is not a port";
                self.problems.push(Diagnostic::whole(Severity::Error, file, message).help("write a number from 1 to 65535"));
                5000
            });
        }
        match self.inputs.env.get(OsStr::new("PORT")) {
            Some(text) if !text.is_empty() => {
                self.note(|origins| origins.note_port(Origin::Environment("PORT")));
                valid(text).unwrap_or_else(|| {
                    let message = "the environment variable PORT is not a port";
                    let help = "set it to a number from 1 to 65535, or use -p";
                    self.problems.push(Diagnostic::whole(Severity::Error, Path::new(""), message).help(help));
                    5000
                })
            }
            Some(_) | None => {
                self.note(|origins| origins.note_port(Origin::Default));
                5000
            }
        }
    }

    fn assemble(&mut self, main: &Source, firstmate: Firstmate, memory: MemoryTable) -> (Option<Spec>, Settings) {
        let mut drafts = std::mem::take(&mut self.drafts);
        let chosen = self.inputs.choice.apply(&mut drafts, self.incomplete, &mut self.problems);
        self.remarks.extend(chosen.remark);
        let memory = self.memory(main, &drafts, &memory);
        if drafts.is_empty() && !self.incomplete && !self.problems.iter().any(Diagnostic::is_error) {
            self.problems.push(
                Diagnostic::whole(Severity::Error, main.file(), "the file defines no service")
                    .help("a TOML file needs a table such as [services.web] with a command, a Procfile a line such as `web: ./run`"),
            );
        }
        self.base_port = drafts.iter().any(|draft| draft.procfile_index.is_some()).then(|| self.find_base_port());
        let base_port = self.base_port.unwrap_or_default();
        let ids: BTreeMap<&str, usize> = drafts.iter().enumerate().map(|(id, draft)| (draft.name.as_str(), id)).collect();
        let kind = |draft: &Draft| draft.kind.unwrap_or(Kind::Service);

        let mut edges: Vec<Vec<Edge>> = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            let mut own: Vec<Edge> = Vec::new();
            for dependency in &draft.depends_on {
                let (name, condition) = dependency.get_ref();
                let Some((id, target)) = ids.get(name.as_str()).and_then(|id| drafts.get(*id).map(|target| (*id, target))) else {
                    // In a broken file the service may be in the part that could not be read.
                    if !self.incomplete {
                        let message = format!("service `{}` depends on `{name}`, which does not exist", draft.name);
                        let diagnostic = draft.source.error(dependency.span(), message);
                        let help = match nearest(name, ids.keys().copied().filter(|other| *other != draft.name)) {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => "define it, or remove the dependency".to_owned(),
                        };
                        self.problems.push(diagnostic.help(help));
                    }
                    continue;
                };
                let is_oneshot = kind(target) == Kind::Oneshot;
                let implied = if is_oneshot { Condition::Completed } else { Condition::Ready };
                let condition = condition.unwrap_or(implied);
                let wrong = match condition {
                    Condition::Completed if !is_oneshot => Some((format!("`{name}` never completes: it is not a oneshot"), "\"ready\"")),
                    Condition::Ready if is_oneshot => Some((format!("`{name}` never becomes ready: it is a oneshot"), "\"completed\"")),
                    Condition::Completed | Condition::Ready | Condition::Started => None,
                };
                if let Some((message, instead)) = wrong {
                    self.problems.push(draft.source.error(dependency.span(), message).help(format!("wait until it is {instead}")));
                }
                if chosen.left_out.contains(&id) {
                    let message = format!("`{}` does not wait for `{name}`, which the command line leaves out", draft.name);
                    let help = format!("let it run outside of this stack, or start `{name}` too");
                    self.problems.push(draft.source.warning(dependency.span(), message).help(help));
                } else if !own.iter().any(|edge| edge.dependency.service == ServiceId(id)) {
                    own.push(Edge { dependency: Dependency { service: ServiceId(id), condition }, span: Some(dependency.span()) });
                }
            }
            edges.push(own);
        }
        self.cycles(&drafts, &edges);
        self.groups(&drafts);
        self.ports(&drafts, base_port, &chosen.left_out);
        self.note_choice(&drafts, &chosen.left_out);
        wait_for_release(&drafts, &mut edges);
        if let Some(origins) = &mut self.origins {
            for (draft, own) in drafts.iter().zip(&edges) {
                for edge in own {
                    let Some(target) = drafts.get(edge.dependency.service.0) else { continue };
                    let origin = match &edge.span {
                        Some(span) => Origin::File(origin::place(&draft.source, span.start)),
                        None => Origin::Follows("everything waits for the Procfile's release".to_owned()),
                    };
                    origins.note_service(&draft.name, &format!("depends_on.{}", target.name), origin);
                }
            }
        }

        let entries: Vec<String> = drafts.iter().filter(|draft| draft.procfile_index.is_some()).map(|draft| draft.name.clone()).collect();
        let (stop_timeout, drain) = self.patience(main, &firstmate, &drafts);
        let own_buffers = drafts.iter().filter_map(|draft| Some((draft.name.clone(), draft.log_buffer?))).collect();
        let mut services = Vec::with_capacity(drafts.len());
        for (draft, edges) in drafts.into_iter().zip(edges) {
            services.extend(self.service(draft, edges, base_port, &entries));
        }
        let termination_log = self.termination_log(&firstmate);
        let socket = firstmate.socket.map(|path| if path.starts_with('@') { PathBuf::from(path) } else { self.base.join(path) });
        (
            Some(Spec { services, stop_timeout, drain, memory }),
            Settings {
                http: firstmate.http,
                http_details: firstmate.http_details,
                socket,
                termination_log,
                log_buffers: LogBuffers { each: firstmate.log_buffer, own: own_buffers },
            },
        )
    }

    /// Commands take names of services and of groups alike, so none may be both.
    fn groups(&mut self, drafts: &[Draft]) {
        for draft in drafts {
            for group in &draft.groups {
                let name = group.get_ref();
                let message = if RESERVED.contains(&name.as_str()) {
                    format!("`{name}` cannot be the name of a group: commands use it for every service")
                } else if let Some(other) = drafts.iter().find(|other| other.name == *name) {
                    let message = format!("`{name}` cannot be the name of a group: a service is called so");
                    let diagnostic = draft.source.error(group.span(), message).note(format!("it is defined at {}", other.place()));
                    self.problems.push(diagnostic.help("rename one of them, so that commands can tell them apart"));
                    continue;
                } else {
                    continue;
                };
                self.problems.push(draft.source.error(group.span(), message).help("rename it"));
            }
        }
    }

    /// The whole shutdown and its drain, and every complaint about what does not fit below the platform's patience.
    fn patience(&mut self, main: &Source, firstmate: &Firstmate, drafts: &[Draft]) -> (Duration, Duration) {
        let known = match Patience::find(&self.inputs.env, self.inputs.in_docker, firstmate.platform_patience) {
            Ok(known) => known,
            Err(why) => {
                let message = format!("the environment variable {PLATFORM_PATIENCE} cannot be used: {why}");
                let help = "set it to a duration such as 120s, or unset it";
                self.problems.push(Diagnostic::whole(Severity::Error, Path::new(""), message).help(help));
                None
            }
        };
        let stop_timeout = match (self.inputs.stop_timeout, &firstmate.stop_timeout) {
            (Some(asked), _) => {
                self.note(|origins| origins.note("firstmate.stop_timeout", Origin::CommandLine("-t")));
                asked
            }
            (None, Some(timeout)) => *timeout.get_ref(),
            (None, None) => {
                let origin = known.as_ref().map_or(Origin::Default, |known| Origin::Follows(known.said()));
                self.note(|origins| origins.note("firstmate.stop_timeout", origin));
                Patience::stop_timeout(known.as_ref())
            }
        };
        let drain = firstmate.drain.as_ref().map_or(Duration::ZERO, |drain| *drain.get_ref());
        if let Some(span) = firstmate.drain.as_ref().map(Spanned::span).filter(|_| drain >= stop_timeout) {
            let (takes, whole) = (show_duration(drain), show_duration(stop_timeout));
            let message = format!("drain takes {takes}, which leaves nothing of stop_timeout ({whole}) to stop in");
            let mut problem = main.warning(span, message).help("raise stop_timeout above it, and the platform's own patience too");
            problem.notes.extend(known.as_ref().map(Patience::note));
            self.problems.push(problem);
        }
        if let Some(known) = known {
            if let Some(own) = firstmate.stop_timeout.as_ref().filter(|_| self.inputs.stop_timeout.is_none()) {
                self.problems.extend(known.judge_whole(main, own.span(), stop_timeout));
            }
            for draft in drafts {
                if let Some(own) = draft.stop_timeout.as_ref().filter(|_| drain < stop_timeout) {
                    let whole = (stop_timeout, drain);
                    self.problems.extend(known.judge_service(&draft.source, &draft.name, own.span(), *own.get_ref(), whole));
                }
            }
        }
        (stop_timeout, drain)
    }

    /// Where the last words go: $FIRSTMATE_TERMINATION_LOG, else the file's, else where Kubernetes looks for them.
    fn termination_log(&mut self, firstmate: &Firstmate) -> TerminationLog {
        let variable = self.inputs.env.get(OsStr::new(TERMINATION_LOG)).filter(|path| !path.is_empty());
        if variable.is_some() {
            self.note(|origins| origins.note("firstmate.termination_log", Origin::Environment(TERMINATION_LOG)));
        }
        match variable.map(Path::new).or_else(|| firstmate.termination_log.as_deref().map(Path::new)) {
            None => TerminationLog::Default,
            Some(path) if path == Path::new("off") => TerminationLog::Off,
            Some(path) => TerminationLog::At(self.base.join(path)),
        }
    }

    /// The limit that was given: `--memory-limit`, else $FIRSTMATE_MEMORY_LIMIT, else the file's; `None` is what the container has.
    fn memory_limit(&mut self, table: &MemoryTable) -> Option<u64> {
        let variable = self.inputs.env.get(OsStr::new(MEMORY_LIMIT)).filter(|text| !text.is_empty());
        if self.inputs.memory_limit.is_some() {
            self.note(|origins| origins.note("memory.limit", Origin::CommandLine("--memory-limit")));
        } else if variable.is_some() {
            self.note(|origins| origins.note("memory.limit", Origin::Environment(MEMORY_LIMIT)));
        }
        let given = self.inputs.memory_limit.or_else(|| match GivenLimit::parse(&variable?.to_string_lossy()) {
            Ok(limit) => Some(limit),
            Err(why) => {
                let message = format!("the environment variable {MEMORY_LIMIT} cannot be used: {why}");
                self.problems.push(
                    Diagnostic::whole(Severity::Error, Path::new(""), message)
                        .help("mend it, or unset it to go by the file or the container"),
                );
                None
            }
        });
        match given {
            Some(GivenLimit::Bytes(bytes)) => Some(bytes),
            Some(GivenLimit::Auto) => None,
            None => table.limit.as_ref().map(|limit| *limit.get_ref()),
        }
    }

    /// `[memory]`, with the order of its lines and what services' own lines make of it.
    fn memory(&mut self, main: &Source, drafts: &[Draft], table: &MemoryTable) -> Memory {
        let default = Memory::default();
        let memory = Memory {
            limit: self.memory_limit(table),
            restart_above: table.restart_above.as_ref().map_or(default.restart_above, |line| *line.get_ref()),
            confirm: table.confirm.unwrap_or(default.confirm),
            hard_above: table.hard_above.as_ref().map_or(default.hard_above, |line| *line.get_ref()),
            emergency_above: table.emergency_above.as_ref().map_or(default.emergency_above, |line| *line.get_ref()),
            cgroups: table.cgroups.unwrap_or(default.cgroups),
        };
        if table.lines_are_bad {
            return memory;
        }
        let hard = Line { key: "hard_above", amount: memory.hard_above, span: table.hard_above.as_ref().map(Spanned::span) };
        let emergency =
            Line { key: "emergency_above", amount: memory.emergency_above, span: table.emergency_above.as_ref().map(Spanned::span) };
        let restart =
            memory.restart_above.map(|amount| Line { key: "restart_above", amount, span: table.restart_above.as_ref().map(Spanned::span) });
        let mut order: Vec<&Line> = restart.iter().collect();
        order.extend([&hard, &emergency]);
        for (lower, upper) in order.iter().zip(order.iter().skip(1)) {
            // The later one is marked where both were written: whoever reads on from there meets the contradiction.
            let Some(span) = upper.span.as_ref().or(lower.span.as_ref()) else { continue };
            if compare(lower.amount, upper.amount, memory.limit).is_some_and(|order| order != Ordering::Less) {
                let message = format!("{} ({lower}) must be below {} ({upper})", lower.key, upper.key);
                let help = format!("lower {}, or raise {}", lower.key, upper.key);
                self.problems.push(main.error(span.clone(), message).help(help));
            }
        }
        for line in order {
            let Some(span) = &line.span else { continue };
            if let (Amount::Bytes(bytes), Some(limit)) = (line.amount, memory.limit)
                && bytes > limit
            {
                let message = format!("{} ({line}) is above the limit ({}), so it is never crossed", line.key, show_size(limit));
                self.problems.push(main.error(span.clone(), message).help("lower it, or raise the limit"));
            }
        }
        self.own_lines(main, drafts, &memory, restart.as_ref());
        memory
    }

    /// Lines of services that can never apply.
    fn own_lines(&mut self, main: &Source, drafts: &[Draft], memory: &Memory, restart: Option<&Line>) {
        for draft in drafts {
            let Some(own) = &draft.memory.restart_above else { continue };
            let place = |span: Option<&Range<usize>>| span.map(|span| main.place(span.start));
            let (message, note, help) = match restart {
                None => (
                    format!("the line of `{}` never applies: the memory guard is off", draft.name),
                    Some("restart_above = \"off\" in [memory] is for services' own lines too".to_owned()),
                    "remove it, or switch the guard on",
                ),
                Some(line) if compare(*own.get_ref(), line.amount, memory.limit) == Some(Ordering::Greater) => (
                    format!(
                        "the line of `{}` ({}) never applies: the container's own ({line}) is reached before",
                        draft.name,
                        show_amount(*own.get_ref())
                    ),
                    place(line.span.as_ref()).map(|place| format!("the container's is at {place}")),
                    "lower it, or raise restart_above in [memory]",
                ),
                Some(_) => continue,
            };
            let mut problem = draft.source.warning(own.span(), message).help(help);
            problem.notes.extend(note);
            self.problems.push(problem);
        }
    }

    /// A probe's Unix socket gets its whole path, which must not be too long for one.
    fn whole_socket_path(&mut self, source: &Source, span: Range<usize>, probe: &mut Probe) {
        let Some(path) = probe.check.socket_mut().filter(|path| !path.starts_with('@')) else { return };
        // Both parts are text: the file's own was read as such, and a directory that is not would be shown so.
        *path = self.base.join(&*path).to_string_lossy().into_owned();
        if path.len() > SUN_PATH {
            let message = format!("the path of a socket cannot be longer than {SUN_PATH} bytes, and {path} is {}", path.len());
            self.problems.push(source.error(span, message).help("put the socket into a directory with a shorter name, such as /run"));
        }
    }

    fn service(&mut self, mut draft: Draft, edges: Vec<Edge>, base_port: u16, entries: &[String]) -> Option<Service> {
        let kind = draft.kind.unwrap_or(Kind::Service);
        if let Some(ready) = &mut draft.ready
            && let (span, Readiness::Probe(probe)) = (ready.span(), ready.get_mut())
        {
            self.whole_socket_path(&draft.source, span, probe);
        }
        if let Some(live) = &mut draft.live {
            self.whole_socket_path(&draft.source, live.span(), live.get_mut());
        }
        let mut wrong = |span: Range<usize>, message: String, help: &str| self.problems.push(draft.source.error(span, message).help(help));
        if RESERVED.contains(&draft.name.as_str()) {
            let message = format!("`{}` cannot be the name of a service: commands use it for every service", draft.name);
            wrong(draft.name_span.clone(), message, "rename it");
        }
        if let (Kind::Service, Some(ready)) = (kind, &draft.ready) {
            let within = draft.start_timeout.as_ref().map_or(START_TIMEOUT, |timeout| *timeout.get_ref());
            let (what, delay, key) = match ready.get_ref() {
                Readiness::Probe(probe) => ("its probe is first asked", probe.initial_delay, "initial_delay"),
                Readiness::Delay(delay) => ("it is so", *delay, "delay"),
                Readiness::Notify { .. } | Readiness::NotifyFd(_) | Readiness::Log(_) => ("", Duration::ZERO, ""),
            };
            if delay >= within {
                let message = format!(
                    "`{}` can never be ready: {what} after {}, and its start_timeout is {}",
                    draft.name,
                    show_duration(delay),
                    show_duration(within)
                );
                wrong(ready.span(), message, &format!("raise start_timeout, or lower {key}"));
            }
        }
        let mut ready = draft.ready.as_ref().map(|ready| ready.get_ref().clone()).unwrap_or_default();
        // What was meant by a `ready` that cannot be read has been asked already.
        if let Some(every) = draft.watchdog.as_ref().filter(|_| !draft.ready_is_bad) {
            match &mut ready {
                Readiness::Notify { watchdog } => *watchdog = Some(*every.get_ref()),
                Readiness::Delay(_) | Readiness::Probe(_) | Readiness::NotifyFd(_) | Readiness::Log(_) => wrong(
                    every.span(),
                    format!("`{}` cannot say that it is alive: a watchdog listens on NOTIFY_SOCKET", draft.name),
                    "add ready = { notify = true } where the program speaks sd_notify, or use a `live` probe",
                ),
            }
        }
        if kind == Kind::Oneshot {
            for (key, span) in [("ready", draft.ready.as_ref().map(Spanned::span)), ("live", draft.live.as_ref().map(Spanned::span))] {
                if let Some(span) = span {
                    let message = format!("a oneshot cannot have `{key}`: it is done when it exits");
                    wrong(span, message, "remove it, or make the service a type = \"service\"");
                }
            }
            if let Some(timeout) = &draft.start_timeout {
                let message = "a oneshot has no start_timeout: it is done when it exits".to_owned();
                wrong(timeout.span(), message, "remove it, or put timeout(1) in front of its command");
            }
            if let Some(restart) = draft.restart.as_ref().filter(|restart| *restart.get_ref() == Restart::Always) {
                let message = "a oneshot that is always restarted never completes".to_owned();
                wrong(restart.span(), message, "write \"on-failure\" or \"never\"");
            }
        }
        let watch = self.watch(&draft);
        let Some(command) = draft.command else {
            if !draft.command_is_bad && !self.incomplete {
                let help = match nearest(&draft.name, entries.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`, which the Procfile defines?"),
                    None => "add command = \"...\"".to_owned(),
                };
                let message = format!("service `{}` has no command", draft.name);
                self.problems.push(draft.source.error(draft.name_span, message).help(help));
            }
            return None;
        };
        let instances = draft.instances.as_ref().map_or(1, |instances| *instances.get_ref());
        let port = match draft.procfile_index {
            None => None,
            Some(index) => {
                let first = index.checked_mul(100).and_then(|offset| offset.checked_add(usize::from(base_port)));
                let last = first.and_then(|first| first.checked_add(usize::from(instances).saturating_sub(1)));
                if last.is_none_or(|last| last > usize::from(u16::MAX)) {
                    let message = format!("no PORT is left for `{}`: {base_port} + 100 x {index} is beyond 65535", draft.name);
                    let span = draft.instances.as_ref().map_or(draft.name_span.clone(), Spanned::span);
                    self.problems.push(draft.source.error(span, message).help("begin lower: -p PORT, or PORT in .env"));
                }
                first.and_then(|first| u16::try_from(first).ok())
            }
        };
        let mut env_defaults = draft.env_defaults;
        if port.is_some() {
            // It was the base of every entry's port; each has its own now.
            env_defaults.remove(OsStr::new("PORT"));
        }
        let line = command.into_inner();
        let first_ends_all = self.mode.first_ends_all && kind == Kind::Service;
        let scope = draft.scope.unwrap_or(if line.shell_stays { Scope::Group } else { Scope::Main });
        Some(Service {
            name: draft.name,
            kind,
            instances,
            groups: draft.groups.into_iter().map(Spanned::into_inner).collect(),
            depends_on: edges.into_iter().map(|edge| edge.dependency).collect(),
            autostart: draft.autostart.unwrap_or(true),
            essential: first_ends_all || draft.essential.unwrap_or(true),
            restart: if first_ends_all {
                Restart::Never
            } else {
                draft.restart.map_or(
                    match kind {
                        Kind::Service => Restart::Always,
                        Kind::Oneshot => Restart::Never,
                    },
                    Spanned::into_inner,
                )
            },
            success_exit_codes: draft.success_exit_codes.unwrap_or_else(|| vec![0]),
            backoff: draft.backoff,
            // Whoever is at work on it mends it by changing a file.
            give_up_after: draft.give_up_after.unwrap_or(if watch.paths.is_empty() { Some(10) } else { None }),
            start_timeout: draft.start_timeout.map_or(START_TIMEOUT, Spanned::into_inner),
            stop: Stop {
                signals: draft.stop_signals.unwrap_or_else(|| vec![Signal::TERM]),
                timeout: draft.stop_timeout.map_or(self.inputs.stop_timeout.unwrap_or(Duration::from_secs(10)), Spanned::into_inner),
                scope,
            },
            reload_signal: draft.reload_signal,
            ready,
            live: draft.live.map(Spanned::into_inner),
            memory: ServiceMemory {
                restart_above: draft.memory.restart_above.map(Spanned::into_inner),
                action: draft.memory.action,
                victim: draft.memory.victim,
            },
            launch: Launch {
                command: line.command,
                working_dir: {
                    let root = self.inputs.root.as_ref().unwrap_or(&self.base);
                    draft.working_dir.map_or_else(|| root.clone(), |path| root.join(path))
                },
                inherit_env: draft.inherit_env.unwrap_or(true),
                env_defaults,
                env: draft.env,
                port,
                user: draft.user,
                group: draft.group,
                umask: draft.umask,
                nice: draft.nice,
                oom_score_adj: draft.oom_score_adj,
                limits: draft.limits,
                rights: draft.rights,
                tty: draft.tty,
            },
            watch,
        })
    }

    /// What is watched for a service, and every complaint about it.
    fn watch(&mut self, draft: &Draft) -> Watch {
        let Some(written) = &draft.watch else { return Watch::default() };
        if draft.kind == Some(Kind::Oneshot) {
            let message = "a oneshot cannot have `watch`: what it has done stays done";
            let help = "remove it, or make the service a type = \"service\"";
            self.problems.push(draft.source.error(written.key.clone(), message).help(help));
        }
        let mut paths = Vec::new();
        for text in &written.paths {
            match watch::path(&self.base, text.get_ref()) {
                Ok(path) => paths.push(path),
                Err(why) => self.problems.push(draft.source.error(text.span(), format!("`{}` is not a glob: {why}", text.get_ref()))),
            }
        }
        let mut ignore = Vec::new();
        for text in &written.ignore {
            match watch::ignore(&self.base, text.get_ref()) {
                Ok(pattern) => ignore.push(pattern),
                Err(why) => self.problems.push(draft.source.error(text.span(), format!("`{}` is not a glob: {why}", text.get_ref()))),
            }
        }
        Watch { paths, ignore, debounce: written.debounce }
    }

    /// Of a Procfile's entries each has a hundred ports for its instances; more of them get those of the next one.
    fn ports(&mut self, drafts: &[Draft], base_port: u16, left_out: &BTreeSet<usize>) {
        let started = || drafts.iter().enumerate().filter(|(id, _)| !left_out.contains(id)).map(|(_, draft)| draft);
        let range = |draft: &Draft| {
            let first = draft.procfile_index?.checked_mul(100)?.checked_add(usize::from(base_port))?;
            Some((first, first.saturating_add(usize::from(draft.instances.as_ref().map_or(1, |instances| *instances.get_ref())))))
        };
        for draft in started() {
            let Some((first, end)) = range(draft) else { continue };
            let of_next = |other: &&Draft| range(other).is_some_and(|(port, _)| first < port && port < end);
            let Some((next, (port, _))) = started().find(of_next).and_then(|next| Some((next, range(next)?))) else { continue };
            let number = port.saturating_sub(first).saturating_add(1);
            let message = format!("`{}.{number}` and `{}.1` get the same PORT, {port}", draft.name, next.name);
            let span = draft.instances.as_ref().map_or(draft.name_span.clone(), Spanned::span);
            self.problems.push(
                draft
                    .source
                    .warning(span, message)
                    .help("an entry has 100 ports for its instances: have fewer, or let them find a port themselves"),
            );
        }
    }

    /// Notes what the command line, and how firstmate is run, decide of the services.
    fn note_choice(&mut self, drafts: &[Draft], left_out: &BTreeSet<usize>) {
        let Some(origins) = &mut self.origins else { return };
        let choice = &self.inputs.choice;
        for (id, draft) in drafts.iter().enumerate() {
            if left_out.contains(&id) {
                let by = if choice.except.contains(&draft.name) { "-x" } else { "-m" };
                origins.note_service(&draft.name, "autostart", Origin::CommandLine(by));
            } else if choice.formation.is_some() {
                origins.note_service(&draft.name, "instances", Origin::CommandLine("-m"));
            }
            if self.mode.first_ends_all && draft.kind.unwrap_or(Kind::Service) == Kind::Service {
                for key in ["restart", "essential"] {
                    origins.note_service(&draft.name, key, Origin::Follows("the first end ends all".to_owned()));
                }
            }
            if draft.stop_timeout.is_none() && self.inputs.stop_timeout.is_some() {
                origins.note_service(&draft.name, "stop_timeout", Origin::CommandLine("-t"));
            }
        }
    }

    /// Reports every cycle as a path. Depth first with a stack of its own: a chain of services may be longer than the thread's.
    fn cycles(&mut self, drafts: &[Draft], edges: &[Vec<Edge>]) {
        let mut finished = vec![false; drafts.len()];
        for root in 0..drafts.len() {
            // Each with the number of its edges that were followed already.
            let mut path: Vec<(usize, usize)> = vec![(root, 0)];
            let mut on_path = BTreeSet::from([root]);
            while let Some((id, followed)) = path.last_mut() {
                let id = *id;
                let edge = if finished.get(id) == Some(&true) { None } else { edges.get(id).and_then(|own| own.get(*followed)) };
                let Some(edge) = edge else {
                    if let Some(finished) = finished.get_mut(id) {
                        *finished = true;
                    }
                    on_path.remove(&id);
                    path.pop();
                    continue;
                };
                *followed = followed.saturating_add(1);
                let next = edge.dependency.service.0;
                if !on_path.contains(&next) {
                    if finished.get(next) != Some(&true) {
                        on_path.insert(next);
                        path.push((next, 0));
                    }
                    continue;
                }
                let members = path.iter().map(|(id, _)| *id).skip_while(|id| *id != next).chain([next]);
                let names: Vec<&str> = members.filter_map(|id| drafts.get(id).map(|draft| draft.name.as_str())).collect();
                if let (Some(draft), Some(span)) = (drafts.get(id), &edge.span) {
                    self.problems.push(
                        draft
                            .source
                            .error(span.clone(), format!("services depend on one another in a circle: {}", names.join(" -> ")))
                            .help("remove one of these dependencies"),
                    );
                }
            }
        }
    }
}

/// One of the guard's lines, and where it was written; nowhere when it is the default.
struct Line {
    key: &'static str,
    amount: Amount,
    span: Option<Range<usize>>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show_amount(self.amount))?;
        if self.span.is_none() { f.write_str(", its default") } else { Ok(()) }
    }
}

/// Which of two amounts is more; `None` where that depends on a limit that only the container knows.
fn compare(one: Amount, other: Amount, limit: Option<u64>) -> Option<Ordering> {
    match (one, other) {
        (Amount::Percent(one), Amount::Percent(other)) => one.partial_cmp(&other),
        (Amount::Bytes(one), Amount::Bytes(other)) => Some(one.cmp(&other)),
        (Amount::Percent(_), Amount::Bytes(_)) | (Amount::Bytes(_), Amount::Percent(_)) => {
            limit.map(|limit| one.of(limit).cmp(&other.of(limit)))
        }
    }
}

/// A dependency and where it was written; nowhere when it follows from a Procfile's `release:`.
struct Edge {
    dependency: Dependency,
    span: Option<Range<usize>>,
}

/// Everything waits for a Procfile's `release:`, except what `release` itself waits for.
fn wait_for_release(drafts: &[Draft], edges: &mut [Vec<Edge>]) {
    let release = drafts.iter().position(|draft| {
        draft.name == "release" && draft.procfile_index.is_some() && draft.kind == Some(Kind::Oneshot) && draft.autostart != Some(false)
    });
    let Some(release) = release else { return };
    let mut needed = BTreeSet::from([release]);
    let mut open = vec![release];
    while let Some(id) = open.pop() {
        for edge in edges.get(id).into_iter().flatten() {
            let next = edge.dependency.service.0;
            if needed.insert(next) {
                open.push(next);
            }
        }
    }
    let dependency = Dependency { service: ServiceId(release), condition: Condition::Completed };
    for (id, own) in edges.iter_mut().enumerate() {
        if !needed.contains(&id) && !own.iter().any(|edge| edge.dependency.service == dependency.service) {
            own.push(Edge { dependency, span: None });
        }
    }
}
