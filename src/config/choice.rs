//! What the command line makes of a file: which services are started and how many of each, and what the end of one means for the rest.
//!
//! A service that is left out keeps its place in the file, and so everybody else's PORT, and can be started later by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use toml::Spanned;

use super::file::Draft;
use super::load::Format;
use super::values::nearest;
use super::{Diagnostic, Severity};

/// As many copies of a service as a file may ask for.
const MOST_INSTANCES: u16 = 1_000;
/// What stands for every service.
const ALL: &str = "all";

/// Which services are to be started, and how many of each. The default is what the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only these and what they depend on; none, or `all`, is all.
    pub only: Vec<String>,
    /// Not these.
    pub except: Vec<String>,
    /// How many of which.
    pub formation: Option<Formation>,
    /// The file is read again: a name that nobody has is of a service that has left it since.
    pub again: bool,
}

/// `web=2,worker=1,all=1`: how many instances of which service. One that it does not name gets the number of `all`, and none without that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formation {
    all: Option<u16>,
    named: BTreeMap<String, u16>,
}

impl Formation {
    /// Reads `web=2,worker=1,all=1`, with blanks anywhere.
    ///
    /// # Errors
    /// A short phrase that says what was expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut formation = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let expected = || format!("`{part}` is not NAME=NUMBER, as in web=2,worker=1 or all=1");
            let (name, number) = part.split_once('=').ok_or_else(expected)?;
            let (name, number) = (name.trim(), number.trim());
            let number = number.parse::<u16>().ok().filter(|number| *number <= MOST_INSTANCES);
            let number = number.ok_or_else(|| format!("of `{name}` there can be 0 to {MOST_INSTANCES} instances"))?;
            let twice = if name == ALL {
                formation.all.replace(number)
            } else if name.is_empty() {
                return Err(expected());
            } else {
                formation.named.insert(name.to_owned(), number)
            };
            if twice.is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        if formation == Self::default() { Err("no NAME=NUMBER is in it, as in web=2,worker=1".to_owned()) } else { Ok(formation) }
    }
}

/// What became of the choice.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Places in the file of services that are not started, whose dependents must not wait for them.
    pub(super) left_out: BTreeSet<usize>,
    /// For the log.
    pub(super) remark: Option<String>,
}

impl Choice {
    /// Writes the choice into the services.
    pub(super) fn apply(&self, drafts: &mut [Draft], incomplete: bool, problems: &mut Vec<Diagnostic>) -> Chosen {
        if *self == Self::default() || drafts.is_empty() {
            return Chosen::default();
        }
        let names: Vec<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
        let before = problems.len();
        // What seems to be missing may only be unread.
        if !incomplete {
            self.judge(&names, problems);
        }
        let everybody = self.only.is_empty() || self.only.iter().any(|name| name == ALL);
        let refused: BTreeSet<usize> = names
            .iter()
            .enumerate()
            .filter(|(_, name)| self.except.contains(name) || self.number(name) == Some(0))
            .map(|(id, _)| id)
            .collect();
        let chosen = |name: &String| everybody || self.only.contains(name);
        let mut open: VecDeque<usize> =
            names.iter().enumerate().filter(|(id, name)| !refused.contains(id) && chosen(name)).map(|(id, _)| id).collect();
        let mut wanted: BTreeSet<usize> = open.iter().copied().collect();
        while let Some(draft) = open.pop_front().and_then(|id| drafts.get(id)) {
            for dependency in &draft.depends_on {
                let on = names.iter().position(|name| *name == dependency.get_ref().0);
                if let Some(on) = on.filter(|on| !refused.contains(on))
                    && wanted.insert(on)
                {
                    open.push_back(on);
                }
            }
        }
        let mut left_out = BTreeSet::new();
        for (id, draft) in drafts.iter_mut().enumerate() {
            if !wanted.contains(&id) {
                draft.autostart = Some(false);
                left_out.insert(id);
                continue;
            }
            // Whoever is named is meant, whatever the file says of its start; with `all` the file is right.
            let is_named = !everybody || self.formation.as_ref().is_some_and(|formation| formation.named.contains_key(&draft.name));
            if is_named {
                draft.autostart = Some(true);
            }
            if let Some(number) = self.number(&draft.name).filter(|number| *number > 0) {
                draft.instances = Some(Spanned::new(draft.name_span.clone(), number));
            }
        }
        if wanted.is_empty() && problems.len() == before {
            problems.push(complaint("nothing is left to be started".to_owned(), "leave fewer services out".to_owned()));
        }
        let listed = |ids: &BTreeSet<usize>| ids.iter().filter_map(|id| names.get(*id)).map(String::as_str).collect::<Vec<_>>().join(", ");
        let remark = (!left_out.is_empty())
            .then(|| format!("starts only {}, as the command line asks; left out: {}", listed(&wanted), listed(&left_out)));
        Chosen { left_out, remark }
    }

    /// How many of a service the command line asks for; `None` is as many as the file says.
    fn number(&self, name: &str) -> Option<u16> {
        let formation = self.formation.as_ref()?;
        let unnamed = || formation.all.or_else(|| self.only.is_empty().then_some(0));
        formation.named.get(name).copied().or_else(unnamed)
    }

    /// Names nobody has, and those that are asked for and refused at once.
    fn judge(&self, names: &[String], problems: &mut Vec<Diagnostic>) {
        let named = self.formation.iter().flat_map(|formation| formation.named.keys());
        let asked = self.only.iter().map(|name| (name, "")).chain(self.except.iter().map(|name| (name, ", which -x names")));
        for (name, by) in asked.chain(named.map(|name| (name, ", which -m names"))) {
            if self.again || names.contains(name) || (name == ALL && by.is_empty()) {
                continue;
            }
            let service = name.split_once('.').map(|(service, _)| service).filter(|service| names.iter().any(|name| name == service));
            let help = match (service, nearest(name, names.iter().map(String::as_str))) {
                (Some(service), _) => format!("services are chosen as a whole; how many of `{service}` run, -m {service}=NUMBER says"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("there are: {}", names.join(", ")),
            };
            problems.push(complaint(format!("no service is called `{name}`{by}"), help));
        }
        for name in self.only.iter().filter(|name| self.except.contains(name)) {
            problems.push(complaint(format!("`{name}` is named to be started, and -x leaves it out"), "name it only once".to_owned()));
        }
    }
}

/// About the command line, which has no file.
fn complaint(message: String, help: String) -> Diagnostic {
    Diagnostic::whole(Severity::Error, Path::new(""), message).help(help)
}

/// What `--restart` and `--no-restart` ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A service that ends is started again, as the file has it.
    Restart,
    /// The first service that ends, ends all.
    EndAll,
}

/// Who started firstmate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartedBy {
    /// The container: firstmate is PID 1.
    #[default]
    Container,
    /// PID 1, or somebody outside of the PID namespace, and there is no terminal: `docker run --init`, systemd.
    Init,
    /// Anybody else: a person at a terminal, or a script.
    Person,
}

/// How the stack is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mode {
    /// A person works on it: it looks, and by default ends, as foreman's users expect.
    pub development: bool,
    /// The first service that ends, ends all.
    pub first_ends_all: bool,
    /// Why it is so; `None` where nothing but the file decides.
    pub why: Option<&'static str>,
}

impl Mode {
    /// Development is a Procfile that a person starts. There the first end is everybody's unless the command line says otherwise.
    pub(super) fn find(format: Format, started_by: StartedBy, asked: Option<Ending>) -> Self {
        let development = format == Format::Procfile && started_by == StartedBy::Person;
        let first_ends_all = match asked {
            Some(Ending::EndAll) => true,
            Some(Ending::Restart) => false,
            None => development,
        };
        let why = match (asked, format, started_by) {
            (Some(Ending::EndAll), _, _) => Some("as --no-restart asks"),
            (Some(Ending::Restart), _, _) => Some("as --restart asks and unless its `restart` says otherwise"),
            (None, Format::Toml, _) => None,
            (None, Format::Procfile, StartedBy::Person) => {
                Some("since this is a Procfile and no init started firstmate; --restart starts it again")
            }
            (None, Format::Procfile, StartedBy::Container) => {
                Some("since firstmate is PID 1; --no-restart makes the first end everybody's")
            }
            (None, Format::Procfile, StartedBy::Init) => {
                Some("since an init started firstmate; --no-restart makes the first end everybody's")
            }
        };
        Self { development, first_ends_all, why }
    }

    /// What it is, in words.
    #[must_use]
    pub fn what(&self) -> String {
        let name = if self.development { "development: " } else { "" };
        let what = if self.first_ends_all { "the first service that ends, ends all" } else { "a service that ends is started again" };
        format!("{name}{what}")
    }

    /// One sentence for the log; `None` where nothing but the file decides.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        self.why.map(|why| format!("{}, {why}", self.what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = (Option<u16>, Vec<(String, u16)>);

    fn formation(text: &str) -> Result<Numbers, String> {
        Formation::parse(text).map(|formation| (formation.all, formation.named.into_iter().collect()))
    }

    #[test]
    fn a_formation_is_read_as_foreman_reads_it_and_refused_where_it_would_guess() {
        let named = |pairs: &[(&str, u16)]| pairs.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect::<Vec<_>>();
        assert_eq!(formation("web=2,worker=1"), Ok((None, named(&[("web", 2), ("worker", 1)]))));
        assert_eq!(formation(" all = 1 , web = 0,"), Ok((Some(1), named(&[("web", 0)]))));
        for (text, why) in [
            ("", "no NAME=NUMBER is in it, as in web=2,worker=1"),
            ("web", "`web` is not NAME=NUMBER, as in web=2,worker=1 or all=1"),
            ("=2", "`=2` is not NAME=NUMBER, as in web=2,worker=1 or all=1"),
            ("web=x", "of `web` there can be 0 to 1000 instances"),
            ("web=1001", "of `web` there can be 0 to 1000 instances"),
            ("web=-1", "of `web` there can be 0 to 1000 instances"),
            ("web=1,web=2", "`web` is there twice"),
        ] {
            assert_eq!(formation(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn development_is_a_procfile_that_no_init_started() {
        let mode = |format, by, asked| {
            let mode = Mode::find(format, by, asked);
            (mode.development, mode.first_ends_all, mode.remark().unwrap_or_default())
        };
        let (toml, procfile) = (Format::Toml, Format::Procfile);
        let again = "a service that ends is started again";
        let all = "the first service that ends, ends all";
        assert_eq!(
            mode(procfile, StartedBy::Person, None),
            (true, true, format!("development: {all}, since this is a Procfile and no init started firstmate; --restart starts it again"))
        );
        let asked = "as --restart asks and unless its `restart` says otherwise";
        assert_eq!(mode(procfile, StartedBy::Person, Some(Ending::Restart)), (true, false, format!("development: {again}, {asked}")));
        let container = format!("{again}, since firstmate is PID 1; --no-restart makes the first end everybody's");
        assert_eq!(mode(procfile, StartedBy::Container, None), (false, false, container));
        let init = format!("{again}, since an init started firstmate; --no-restart makes the first end everybody's");
        assert_eq!(mode(procfile, StartedBy::Init, None), (false, false, init));
        assert_eq!(mode(procfile, StartedBy::Init, Some(Ending::EndAll)), (false, true, format!("{all}, as --no-restart asks")));
        assert_eq!(mode(toml, StartedBy::Person, None), (false, false, String::new()));
        assert_eq!(mode(toml, StartedBy::Person, Some(Ending::EndAll)), (false, true, format!("{all}, as --no-restart asks")));
        assert_eq!(mode(toml, StartedBy::Container, Some(Ending::Restart)), (false, false, format!("{again}, {asked}")));
    }
}
