//! Files that are watched: from the thread that watches them to the engine.

use tokio::sync::mpsc::UnboundedSender;

use super::{Message, Supervisor};
use crate::engine::Event;
use crate::engine::spec::{Restart, Service, Watch, WatchPath};
use crate::linux::watch::{Told, Watcher};
use crate::observe::Level;
use crate::observe::notice::duration;

impl Supervisor {
    /// Watches what the services say, if any says something. In place of what was watched before.
    pub(super) fn begin_watch(&mut self, messages: &UnboundedSender<Message>) {
        let services: Vec<_> = {
            let engine = self.engine.borrow();
            let watching = engine.service_ids().filter_map(|id| engine.service(id)).filter(|service| !service.watch.paths.is_empty());
            watching.map(|service| (service.name.clone(), service.watch.clone(), service.restart)).collect()
        };
        if services == self.watched {
            return;
        }
        let earlier = self.watcher.take();
        self.watched.clone_from(&services);
        if services.is_empty() {
            return;
        }
        for (name, watch, restart) in &services {
            let text = told_at_first(name, watch, *restart);
            self.output.say(Level::Info, &text);
        }
        let services = services.into_iter().map(|(name, watch, _)| (name, watch)).collect();
        let messages = messages.clone();
        // The loop is gone only when everything is over.
        match Watcher::start(services, earlier, move |told| drop(messages.send(Message::Files(told)))) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                // The next update tries again.
                self.watched.clear();
                let text = format!(
                    "cannot watch files, so that changes restart nothing: {error}; raise fs.inotify.max_user_instances (sysctl) or the limit of open files"
                );
                self.output.say(Level::Warn, &text);
            }
        }
    }

    pub(super) fn take_told(&mut self, told: Told) {
        match told {
            Told::Changed { service, what } => {
                let engine = self.engine.borrow();
                // What is watched no longer may have been told a moment ago.
                let watches = |known: &Service| known.name == service && !known.watch.paths.is_empty();
                let found = engine.service_ids().find(|id| engine.service(*id).is_some_and(|known| watches(known)));
                self.events.extend(found.map(|service| Event::Changed { service, what }));
            }
            Told::Trouble(text) => self.output.say(Level::Warn, &text),
        }
    }
}

/// So many paths are named.
const NAMED: usize = 3;

/// What is watched, when it counts, and what an end means meanwhile.
fn told_at_first(name: &str, watch: &Watch, restart: Restart) -> String {
    let shown = |path: &WatchPath| path.only.clone().unwrap_or_else(|| path.root.display().to_string());
    let mut paths: Vec<String> = watch.paths.iter().take(NAMED).map(shown).collect();
    let more = watch.paths.len().saturating_sub(NAMED);
    if more > 0 {
        paths.push(format!("{more} more"));
    }
    let ends = match restart {
        Restart::Always => "",
        Restart::OnFailure => "; when it ends well, it waits for a change",
        Restart::Never => "; when it ends, it waits for a change",
    };
    format!("{name} restarts {} after the last change in {}{ends}", duration(watch.debounce), paths.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_told_in_a_line() {
        let path = |root: &str, only: Option<&str>| WatchPath { root: root.into(), only: only.map(str::to_owned) };
        let mut watch = Watch { paths: vec![path("/srv/src", None), path("/srv", Some("/srv/*.py"))], ..Watch::default() };
        assert_eq!(told_at_first("web", &watch, Restart::Always), "web restarts 200 ms after the last change in /srv/src, /srv/*.py");
        watch.paths.extend([path("/a", None), path("/b", None), path("/c", None)]);
        let four = "web restarts 200 ms after the last change in /srv/src, /srv/*.py, /a, 2 more";
        assert_eq!(told_at_first("web", &watch, Restart::Never), format!("{four}; when it ends, it waits for a change"));
        assert_eq!(told_at_first("web", &watch, Restart::OnFailure), format!("{four}; when it ends well, it waits for a change"));
    }
}
