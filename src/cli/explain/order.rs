//! The order of start and of stop, as the engine will keep to it: a service starts when its dependencies allow it, and stops when nobody
//! who depends on it is left.

use crate::engine::spec::Service;

/// How far each service is from the first to start: 0 where it waits for nobody, else one more than the farthest of those it waits for.
/// Dependencies have no circle; a service in one would be given some number all the same.
pub(super) fn start_levels(services: &[Service]) -> Vec<usize> {
    let waits_for: Vec<Vec<usize>> =
        services.iter().map(|service| service.depends_on.iter().map(|dependency| dependency.service.0).collect()).collect();
    levels(&waits_for)
}

/// How far each service is from the first to stop: 0 where nobody depends on it.
pub(super) fn stop_levels(services: &[Service]) -> Vec<usize> {
    let mut waits_for: Vec<Vec<usize>> = vec![Vec::new(); services.len()];
    for (id, service) in services.iter().enumerate() {
        for dependency in &service.depends_on {
            if let Some(dependents) = waits_for.get_mut(dependency.service.0) {
                dependents.push(id);
            }
        }
    }
    levels(&waits_for)
}

/// The longest path to each node; by rounds, since a chain of services may be longer than a thread's stack is deep.
fn levels(waits_for: &[Vec<usize>]) -> Vec<usize> {
    let mut levels = vec![0usize; waits_for.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); waits_for.len()];
    let mut open: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    for (id, on) in waits_for.iter().enumerate() {
        for before in on {
            if let Some(followers) = followers.get_mut(*before) {
                followers.push(id);
            }
        }
    }
    let mut ready: Vec<usize> = open.iter().enumerate().filter(|(_, open)| **open == 0).map(|(id, _)| id).collect();
    while let Some(id) = ready.pop() {
        let next = levels.get(id).copied().unwrap_or_default().saturating_add(1);
        for follower in followers.get(id).into_iter().flatten() {
            if let (Some(level), Some(open)) = (levels.get_mut(*follower), open.get_mut(*follower)) {
                *level = next.max(*level);
                *open = open.saturating_sub(1);
                if *open == 0 {
                    ready.push(*follower);
                }
            }
        }
    }
    levels
}

/// A line of the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// The service's place in the file.
    pub(super) service: usize,
    /// What is drawn before its name: `|  ` and "`- ".
    pub(super) drawn: String,
}

/// Each service once, below the one of its dependencies that is the last to start; in the order of the file.
pub(super) fn tree(services: &[Service]) -> Vec<Branch> {
    let levels = start_levels(services);
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); services.len()];
    let mut roots = Vec::new();
    for (id, service) in services.iter().enumerate() {
        let on = service.depends_on.iter().map(|dependency| dependency.service.0);
        // The first in the file of those that are equally late.
        match on.min_by_key(|on| (std::cmp::Reverse(levels.get(*on).copied().unwrap_or_default()), *on)) {
            Some(parent) => below.get_mut(parent).into_iter().for_each(|below| below.push(id)),
            None => roots.push(id),
        }
    }
    let mut branches = Vec::with_capacity(services.len());
    // With what is drawn before their lines, and before the lines below them.
    let mut open: Vec<(usize, String, String)> = roots.into_iter().rev().map(|id| (id, String::new(), String::new())).collect();
    while let Some((id, drawn, indent)) = open.pop() {
        branches.push(Branch { service: id, drawn });
        let own = below.get(id).map(Vec::as_slice).unwrap_or_default();
        for (at, child) in own.iter().enumerate().rev() {
            let is_last = at.saturating_add(1) == own.len();
            let (mark, more) = if is_last { ("`- ", "   ") } else { ("|- ", "|  ") };
            open.push((*child, format!("{indent}{mark}"), format!("{indent}{more}")));
        }
    }
    branches
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::check_toml;

    fn services(dependencies: &[(&str, &[&str])]) -> Vec<Service> {
        let text: String =
            dependencies.iter().map(|(name, on)| format!("[services.{name}]\ncommand = \"run\"\ndepends_on = {on:?}\n")).collect();
        check_toml(Path::new("f.toml"), text.as_bytes()).unwrap().services
    }

    #[test]
    fn the_tree_shows_each_service_once_below_the_last_it_waits_for() {
        let services =
            services(&[("nginx", &["app", "redis"]), ("redis", &[]), ("app", &["redis"]), ("worker", &["redis"]), ("cron", &[])]);
        let drawn: Vec<String> =
            tree(&services).iter().map(|branch| format!("{}{}", branch.drawn, services[branch.service].name)).collect();
        assert_eq!(drawn, ["redis", "|- app", "|  `- nginx", "`- worker", "cron"]);
        assert_eq!(start_levels(&services), [2, 0, 1, 1, 0]);
        assert_eq!(stop_levels(&services), [0, 2, 1, 0, 0]);
    }

    #[test]
    fn a_long_chain_is_no_deep_call() {
        let names: Vec<String> = (0..5_000).map(|number| format!("s{number}")).collect();
        let text: String = names
            .iter()
            .enumerate()
            .map(|(at, name)| match at.checked_sub(1).and_then(|before| names.get(before)) {
                Some(before) => format!("[services.{name}]\ncommand = \"run\"\ndepends_on = [\"{before}\"]\n"),
                None => format!("[services.{name}]\ncommand = \"run\"\n"),
            })
            .collect();
        let services = check_toml(Path::new("f.toml"), text.as_bytes()).unwrap().services;
        assert_eq!(start_levels(&services).last(), Some(&4_999));
        assert_eq!(stop_levels(&services).first(), Some(&4_999));
        assert_eq!(tree(&services).len(), 5_000);
    }
}
