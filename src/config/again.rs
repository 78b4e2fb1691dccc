//! The same file once more, while what it said before is running.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Diagnostic, Inputs, Loaded, load};
use crate::engine::spec::{Kind, Service, Spec, WatchPath};

/// Entries of a Procfile get their ports in such steps, as foreman has it.
const STEP: u16 = 100;

/// What a file was read with, so that it can be read again.
#[derive(Debug, Clone)]
pub struct Again {
    /// The main file.
    pub path: PathBuf,
    /// What the command line and the surroundings added to it.
    pub inputs: Inputs,
    /// What the command line adds to whatever the file says.
    pub additions: Additions,
}

/// What options of the command line say of services beside the file: as long as this firstmate runs, of those that come later as well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Additions {
    /// `--tty`: every process has a terminal.
    pub tty: bool,
    /// `--watch`: what is watched for the service of this name, or for all.
    pub watch: Vec<(Option<String>, WatchPath)>,
}

impl Additions {
    /// Adds it to what was read. Who is not in the file has nothing added.
    pub fn apply(&self, spec: &mut Spec) {
        for service in &mut spec.services {
            service.launch.tty |= self.tty;
            for (name, path) in &self.watch {
                if watches(service, name.as_deref()) {
                    service.watch.paths.push(path.clone());
                    // Whoever is at work on it mends it by changing a file.
                    service.give_up_after = None;
                }
            }
        }
    }
}

/// Whether `--watch` for this name, or for all, is for the service. What a job has done stays done.
#[must_use]
pub fn watches(service: &Service, name: Option<&str>) -> bool {
    service.kind == Kind::Service && name.is_none_or(|name| service.name == name)
}

impl Again {
    /// Reads the file and all it names, as at the start. Touches disks, so it is not for a thread that others wait for.
    ///
    /// # Errors
    /// Every problem there is, as with [`load()`].
    pub fn read(&self) -> Result<Loaded, Vec<Diagnostic>> {
        let mut inputs = self.inputs.clone();
        inputs.choice.again = true;
        let mut loaded = load(&self.path, &inputs)?;
        self.additions.apply(&mut loaded.spec);
        Ok(loaded)
    }
}

/// A PORT that is another than the file would give a firstmate that is started anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPort {
    /// Whose.
    pub service: String,
    /// As it is.
    pub port: u16,
    /// As the file has it.
    pub in_file: u16,
}

/// Leaves each service the PORT it has, by its name, although an entry before it has come or gone; a new one gets the first hundred that
/// nobody has. `present` are those that run.
pub fn keep_ports(spec: &mut Spec, present: &BTreeMap<String, u16>) -> Vec<KeptPort> {
    let mut kept = Vec::new();
    let mut taken: Vec<(u16, u16)> = Vec::new();
    let mut note = |service: &str, port: u16, in_file: u16| {
        if port != in_file {
            kept.push(KeptPort { service: service.to_owned(), port, in_file });
        }
    };
    for service in &mut spec.services {
        let (Some(in_file), Some(port)) = (service.launch.port, present.get(&service.name).copied()) else { continue };
        note(&service.name, port, in_file);
        service.launch.port = Some(port);
        taken.push((port, STEP.max(service.instances)));
    }
    for service in spec.services.iter_mut().filter(|service| !present.contains_key(&service.name)) {
        let Some(in_file) = service.launch.port else { continue };
        let width = STEP.max(service.instances);
        let is_free = |port: &u16| taken.iter().all(|(other, theirs)| other.abs_diff(*port) >= if other < port { *theirs } else { width });
        let candidates = std::iter::successors(Some(in_file), |port| port.checked_add(STEP));
        // Beyond the last one nothing is free: then it is the file's own, and the service says what it thinks of that.
        let port = candidates.filter(|port| port.checked_add(service.instances).is_some()).find(is_free).unwrap_or(in_file);
        note(&service.name, port, in_file);
        service.launch.port = Some(port);
        taken.push((port, width));
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Choice;
    use super::*;

    fn spec(names: &[&str]) -> Spec {
        let text: String = names.iter().map(|name| format!("[services.{name}]\ncommand = \"true\"\n")).collect();
        let mut spec = crate::config::check_toml(Path::new("f.toml"), text.as_bytes()).unwrap();
        for (service, port) in spec.services.iter_mut().zip((5000..).step_by(100)) {
            service.launch.port = Some(port);
        }
        spec
    }

    fn present(ports: &[(&str, u16)]) -> BTreeMap<String, u16> {
        ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
    }

    fn ports(spec: &Spec) -> Vec<u16> {
        spec.services.iter().filter_map(|service| service.launch.port).collect()
    }

    #[test]
    fn what_the_command_line_adds_holds_for_whatever_is_read() {
        let path = |root: &str| WatchPath { root: root.into(), only: None };
        let watch = vec![(None, path("/all")), (Some("web".to_owned()), path("/web")), (Some("gone".to_owned()), path("/gone"))];
        let mut spec = spec(&["web", "job"]);
        spec.services[1].kind = Kind::Oneshot;
        Additions { tty: true, watch }.apply(&mut spec);
        let [web, job] = spec.services.as_slice() else { panic!("{spec:?}") };
        assert!(web.launch.tty && job.launch.tty);
        assert_eq!((web.watch.paths.as_slice(), job.watch.paths.as_slice()), ([path("/all"), path("/web")].as_slice(), [].as_slice()));
        assert_eq!(web.give_up_after, None);
    }

    #[test]
    fn options_may_name_whom_the_file_has_lost_since() {
        let directory = std::env::temp_dir().join(format!("firstmate-again-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("firstmate.toml");
        let write = |names: &[&str]| {
            let text: String = names.iter().map(|name| format!("[services.{name}]\ncommand = \"true\"\n")).collect();
            std::fs::write(&path, text).unwrap();
        };
        let choice = Choice { except: vec!["web".to_owned()], ..Choice::default() };
        let again = Again { path: path.clone(), inputs: Inputs { choice, ..Inputs::default() }, additions: Additions::default() };
        write(&["db"]);
        let at_first = load(&path, &again.inputs).map(drop).unwrap_err();
        assert!(at_first.iter().any(|problem| problem.message.contains("which -x names")), "{at_first:?}");
        assert_eq!(again.read().unwrap().spec.services.len(), 1);
        write(&["db", "web"]);
        let autostart: Vec<bool> = again.read().unwrap().spec.services.iter().map(|service| service.autostart).collect();
        assert_eq!(autostart, [true, false]);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn who_runs_keeps_its_port_and_who_is_new_gets_a_free_one() {
        let mut gone = spec(&["web", "clock"]);
        let kept = keep_ports(&mut gone, &present(&[("web", 5000), ("worker", 5100), ("clock", 5200)]));
        assert_eq!(ports(&gone), [5000, 5200]);
        assert_eq!(kept, [KeptPort { service: "clock".to_owned(), port: 5200, in_file: 5100 }]);
        let mut come = spec(&["web", "new", "clock"]);
        let kept = keep_ports(&mut come, &present(&[("web", 5000), ("clock", 5100)]));
        assert_eq!(ports(&come), [5000, 5200, 5100]);
        assert_eq!(kept.len(), 2);
        let mut same = spec(&["web", "clock"]);
        assert_eq!(keep_ports(&mut same, &present(&[("web", 5000), ("clock", 5100)])), []);
    }
}
