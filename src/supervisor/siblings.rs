//! How services find one another: `FIRSTMATE_WEB_PORT` is the PORT of the Procfile entry `web`, or of its first instance.

use std::ffi::{OsStr, OsString};

use crate::engine::spec::Service;

/// Name and value for every service that has a port, in the order of the file. Of two services whose names differ only by case, or by
/// `-` and `_`, the first has the variable.
pub(super) fn ports<'a>(services: impl IntoIterator<Item = &'a Service>) -> Vec<(OsString, OsString)> {
    let mut ports: Vec<(OsString, OsString)> = Vec::new();
    for service in services {
        let Some(port) = service.launch.port else { continue };
        // What the file gives it as PORT is what it has.
        let own = service.launch.env.get(OsStr::new("PORT")).cloned();
        let name = OsString::from(format!("FIRSTMATE_{}_PORT", service.name.to_ascii_uppercase().replace('-', "_")));
        if !ports.iter().any(|(other, _)| *other == name) {
            ports.push((name, own.unwrap_or_else(|| port.to_string().into())));
        }
    }
    ports
}
