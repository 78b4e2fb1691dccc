//! What an update of the file came to, as sentences.

use std::fmt::{self, Write};

use super::Level;
use super::notice::{Names, ServiceName};
use crate::engine::ServiceId;

/// `2 added, 1 removed, 3 restarted, 1 changed in place`.
fn counts(text: &mut String, counts: [(usize, &str); 4]) -> fmt::Result {
    for (index, (count, what)) in counts.into_iter().filter(|(count, _)| *count > 0).enumerate() {
        write!(text, "{}{count} {what}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

pub(super) fn updating(text: &mut String, added: usize, removed: usize, restarted: usize, amended: usize) -> Result<Level, fmt::Error> {
    text.push_str("updating: ");
    counts(text, [(added, "added"), (removed, "removed"), (restarted, "restarted"), (amended, "changed without a restart")])?;
    Ok(Level::Info)
}

pub(super) fn added(text: &mut String, service: ServiceId, names: &dyn Names) -> Result<Level, fmt::Error> {
    write!(text, "{} is new in the file", ServiceName(service, names))?;
    Ok(Level::Info)
}

pub(super) fn removed(text: &mut String, service: ServiceId, names: &dyn Names) -> Result<Level, fmt::Error> {
    write!(text, "{} is removed, as it is no longer in the file", ServiceName(service, names))?;
    Ok(Level::Info)
}

pub(super) fn changed(text: &mut String, service: ServiceId, restarts: bool, names: &dyn Names) -> Result<Level, fmt::Error> {
    let how = if restarts { "starts by its new definition" } else { "has its new definition without a restart" };
    write!(text, "{} {how}", ServiceName(service, names))?;
    Ok(Level::Info)
}

pub(super) fn updated(text: &mut String) -> Result<Level, fmt::Error> {
    text.push_str("the update is done: everything is as the file says, or on its way there");
    Ok(Level::Info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Notice;
    use crate::observe::notice::tell;

    #[test]
    fn an_update_is_told_in_sentences() {
        let names: &[&str] = &["web"];
        let service = ServiceId(0);
        let updating = |added, removed, restarted, amended| Notice::Updating { added, removed, restarted, amended };
        for (notice, text) in [
            (updating(1, 2, 3, 4), "updating: 1 added, 2 removed, 3 restarted, 4 changed without a restart"),
            (updating(0, 0, 1, 0), "updating: 1 restarted"),
            (Notice::Added { service }, "web is new in the file"),
            (Notice::Removed { service }, "web is removed, as it is no longer in the file"),
            (Notice::Redefined { service, restarts: true }, "web starts by its new definition"),
            (Notice::Redefined { service, restarts: false }, "web has its new definition without a restart"),
            (Notice::Updated, "the update is done: everything is as the file says, or on its way there"),
        ] {
            let mut said = String::new();
            assert_eq!((tell(&notice, &names, &mut said), said.as_str()), (Level::Info, text));
        }
    }
}
