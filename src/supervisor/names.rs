//! From the names operators use to instances: services, `name.1`, groups and `all`.

use crate::engine::{Engine, InstanceId, ServiceId};
use crate::server::Reply;

/// Each instance once, in the order of the file.
///
/// # Errors
///
/// The reply for the first name that is nobody's.
pub(super) fn resolve(engine: &Engine, names: &[String]) -> Result<Vec<InstanceId>, Reply> {
    let all: Vec<(InstanceId, String)> = engine.instance_ids().map(|id| (id, engine.instance_name(id))).collect();
    // By its instances every service is known: each has at least one.
    let known = |name: &str| is_all(name) || all.iter().any(|(id, instance)| instance == name || is_called(engine, id.service, name));
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(unknown_name(engine, unknown, all.iter().map(|(_, name)| name.as_str())));
    }
    let wanted =
        |id: InstanceId, instance: &str| names.iter().any(|name| is_all(name) || name == instance || is_called(engine, id.service, name));
    Ok(all.iter().filter(|(id, instance)| wanted(*id, instance)).map(|(id, _)| *id).collect())
}

/// The services that are meant where instances cannot be: the service of this name, those of the group, or all.
///
/// # Errors
///
/// The reply for a name that is no service's and no group's. `to` is how many instances were wished.
pub(super) fn services(engine: &Engine, name: &str, to: u16) -> Result<Vec<ServiceId>, Reply> {
    let ids = (0..engine.names().count()).map(ServiceId);
    let meant: Vec<ServiceId> = ids.filter(|id| is_all(name) || is_called(engine, *id, name)).collect();
    if !meant.is_empty() {
        return Ok(meant);
    }
    let instance = engine.instance_ids().find(|id| engine.instance_name(*id) == name);
    Err(match instance.and_then(|id| engine.service(id.service)) {
        Some(service) => {
            let service = &service.name;
            Reply::Failed {
                why: format!("{name} is one instance of {service}; a service has a number of them: `firstmate scale {service}={to}`"),
            }
        }
        None => unknown_name(engine, name, std::iter::empty()),
    })
}

fn is_all(name: &str) -> bool {
    name == "all"
}

/// By its own name or by that of one of its groups.
fn is_called(engine: &Engine, id: ServiceId, name: &str) -> bool {
    engine.service(id).is_some_and(|service| service.name == name || service.groups.iter().any(|group| group == name))
}

fn unknown_name<'a>(engine: &'a Engine, name: &str, instances: impl Iterator<Item = &'a str>) -> Reply {
    let services = (0..engine.names().count()).filter_map(|index| engine.service(ServiceId(index)));
    let groups = services.flat_map(|service| service.groups.iter().map(String::as_str));
    let mut nearest: Option<(usize, &str)> = None;
    for candidate in engine.names().chain(groups).chain(instances) {
        let distance = strsim::damerau_levenshtein(name, candidate);
        if distance <= 1 + candidate.len() / 4 && nearest.is_none_or(|(best, _)| distance < best) {
            nearest = Some((distance, candidate));
        }
    }
    Reply::UnknownName { name: name.to_owned(), suggestion: nearest.map(|(_, found)| found.to_owned()) }
}
