//! What services find in their environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::siblings;
use crate::config::Loaded;
use crate::engine::spec::Service;
use crate::engine::{LaunchError, RunId};
use crate::linux::spawn::Environment;
use crate::linux::tree::{MARKER, Trees};

/// What a supervisor above firstmate said to firstmate, not to its services; see sd_notify(3) and sd_listen_fds(3).
const NOT_FOR_SERVICES: [&str; 6] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The environment of one run after the other, in the same memory.
pub(super) struct Environments {
    inherited: Environment,
    present: Environment,
    /// How services find one another.
    siblings: Vec<(OsString, OsString)>,
    marker: Vec<u8>,
}

impl Environments {
    pub(super) fn new(siblings: Vec<(OsString, OsString)>) -> Self {
        Self { inherited: inherited(), present: Environment::default(), siblings, marker: Vec::new() }
    }

    /// How services find one another from now on.
    pub(super) fn set_siblings(&mut self, siblings: Vec<(OsString, OsString)>) {
        self.siblings = siblings;
    }

    /// How services that are started now find one another.
    pub(super) fn siblings(&self) -> &[(OsString, OsString)] {
        &self.siblings
    }

    /// The one that was prepared last.
    pub(super) const fn prepared(&self) -> &Environment {
        &self.present
    }

    /// As `prepared`, to be completed.
    pub(super) const fn present_mut(&mut self) -> &mut Environment {
        &mut self.present
    }

    /// Prepares the whole environment of a run of the instance called `name`.
    pub(super) fn prepare(&mut self, run: RunId, name: &str, service: &Service, trees: &Trees) -> Result<(), LaunchError> {
        let launch = &service.launch;
        self.present.reset(launch.inherit_env.then_some(&self.inherited));
        for (name, value) in &launch.env_defaults {
            // The container's environment wins over `.env`.
            if !launch.inherit_env || self.inherited.get(name).is_none() {
                self.present.set(name, value)?;
            }
        }
        for (name, value) in &self.siblings {
            self.present.set(name, value)?;
        }
        if let Some(port) = launch.port {
            let port = port.saturating_add(run.instance.number.saturating_sub(1));
            self.present.set(OsStr::new("PORT"), OsStr::new(&port.to_string()))?;
        }
        // By this a program, or its log, tells its instances apart: foreman's name for it.
        self.present.set(OsStr::new("PS"), OsStr::new(name))?;
        // What the file says itself wins over everything but the marker.
        for (name, value) in &launch.env {
            self.present.set(name, value)?;
        }
        // Without one a program takes a terminal for one that can do nothing. As `docker run -t` has it where firstmate has none itself.
        if launch.tty && self.present.get("TERM").is_none() {
            let own = self.inherited.get("TERM").unwrap_or(OsStr::new("xterm"));
            self.present.set(OsStr::new("TERM"), own)?;
        }
        trees.write_marker(&mut self.marker, name, run);
        self.present.set(OsStr::new(MARKER), OsStr::from_bytes(&self.marker))
    }

    /// Prepares the environment of an exec probe of that run; `number` is no other probe's.
    pub(super) fn prepare_probe(
        &mut self,
        run: RunId,
        name: &str,
        service: &Service,
        trees: &Trees,
        number: u64,
    ) -> Result<(), LaunchError> {
        self.prepare(run, name, service, trees)?;
        trees.add_probe_word(&mut self.marker, number);
        self.present.set(OsStr::new(MARKER), OsStr::from_bytes(&self.marker))
    }
}

/// The environment of a command that is run beside the stack: that of the service, if it is one's command, and otherwise what the `.env` files
/// give to all, with the PORT that the first Procfile entry has.
#[must_use]
pub fn of_command(loaded: &Loaded, service: Option<&Service>) -> BTreeMap<OsString, OsString> {
    let launch = service.map(|service| &service.launch);
    let mut environment = BTreeMap::new();
    if launch.is_none_or(|launch| launch.inherit_env) {
        environment.extend(std::env::vars_os().filter(|(name, _)| name != MARKER));
    }
    for (name, value) in launch.map_or(&loaded.common_env, |launch| &launch.env_defaults) {
        environment.entry(name.clone()).or_insert_with(|| value.clone());
    }
    environment.extend(siblings::ports(&loaded.spec.services));
    if let Some(port) = launch.map_or(loaded.base_port, |launch| launch.port) {
        environment.insert("PORT".into(), port.to_string().into());
    }
    if let Some(launch) = launch {
        environment.extend(launch.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    environment
}

/// The environment of a command where there is no stack, and these variables are all that `.env` files say.
#[must_use]
pub fn of_variables(variables: BTreeMap<OsString, OsString>) -> BTreeMap<OsString, OsString> {
    let mut environment = variables;
    // The environment wins over `.env`.
    environment.extend(std::env::vars_os().filter(|(name, _)| name != MARKER));
    environment
}

/// firstmate's own environment, as services get it.
fn inherited() -> Environment {
    own(&NOT_FOR_SERVICES)
}

/// firstmate's own environment, as the one program of `firstmate -- COMMAND` gets it: what was said to firstmate was meant for that.
pub(super) fn handed_on() -> Environment {
    own(&[])
}

fn own(without: &[&str]) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.is_empty() || without.contains(&name_text.as_ref()) || name_text == MARKER {
            continue;
        }
        // The kernel handed it to us, so it can hand it on; a name with `=` in it cannot have come out of vars_os.
        let _ = environment.set(&name, &value);
    }
    environment
}
