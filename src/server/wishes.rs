//! From the path and the query of `POST /v1/VERB` to a wish, with a mend for whoever spelt it wrong.

use std::time::Duration;

use super::router::Query;
use super::update::Update;
use super::verbs::{Patience, Request, Scale, Wish};
use crate::engine::spec::MOST_INSTANCES;
use crate::engine::{Reach, Signal, Verb};

/// What comes after `/v1/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Start,
    Stop,
    Restart,
    Reload,
    Signal,
    Scale,
    Update,
    Shutdown,
}

impl Path {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "start" => Self::Start,
            "stop" => Self::Stop,
            "restart" => Self::Restart,
            "reload" => Self::Reload,
            "signal" => Self::Signal,
            "scale" => Self::Scale,
            "update" => Self::Update,
            "shutdown" => Self::Shutdown,
            _ => return None,
        })
    }
}

/// `Err` says in a line what is wrong with it.
pub(super) fn request(path: Path, query: &Query) -> Result<Request, String> {
    let verb = match path {
        Path::Start => Verb::Start,
        Path::Stop => Verb::Stop,
        Path::Restart if query.has("rolling") => Verb::Roll,
        Path::Restart => Verb::Restart,
        Path::Reload => Verb::Reload,
        Path::Signal => {
            let named = query.all("signal");
            let [name] = named.as_slice() else { return Err("name one signal: add ?signal=HUP".to_owned()) };
            let signal = Signal::parse(name).ok_or_else(|| format!("there is no signal `{name}`"))?;
            Verb::Signal { signal, to: if query.has("tree") { Reach::Tree } else { Reach::Main } }
        }
        Path::Scale => return scale(query),
        Path::Update => {
            let (dry_run, values, colour) = (query.has("dry-run"), query.has("values"), query.has("colour"));
            return Ok(Request::Update(Update { dry_run, values, colour, patience: patience(query)? }));
        }
        Path::Shutdown => return Ok(Request::Shutdown),
    };
    let names = query.all("name");
    if names.is_empty() {
        return Err("no service is named: add ?name=NAME, ?name=NAME.1, ?name=GROUP or ?name=all".to_owned());
    }
    Ok(Request::Wish(Wish { verb, names, patience: patience(query)? }))
}

fn scale(query: &Query) -> Result<Request, String> {
    let mut services = Vec::new();
    for text in query.all("name") {
        let number = text.split_once('=').and_then(|(name, number)| Some((name, number.parse::<u16>().ok()?)));
        match number {
            Some((name, number)) if (1..=MOST_INSTANCES).contains(&number) => services.push((name.to_owned(), number)),
            Some(_) | None => return Err(format!("`{text}` is not NAME=N with N from 1 to {MOST_INSTANCES}")),
        }
    }
    if services.is_empty() {
        return Err("no service is named: add ?name=NAME%3DN".to_owned());
    }
    Ok(Request::Scale(Scale { services, patience: patience(query)? }))
}

/// `wait=no`, or `wait=MILLISECONDS`.
fn patience(query: &Query) -> Result<Patience, String> {
    let said = query.all("wait");
    match said.first().map(String::as_str) {
        None => Ok(Patience::Own),
        Some("no") => Ok(Patience::None),
        Some(text) => {
            let most = text.parse().map_err(|_| format!("`wait={text}` is neither `no` nor a number of milliseconds"))?;
            Ok(Patience::AtMost(Duration::from_millis(most)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, query: &str) -> Result<Request, String> {
        request(Path::parse(path).unwrap(), &Query::parse(query))
    }

    fn wish(verb: Verb, names: &[&str], patience: Patience) -> Result<Request, String> {
        Ok(Request::Wish(Wish { verb, names: names.iter().map(|name| (*name).to_owned()).collect(), patience }))
    }

    #[test]
    fn verbs_are_read_with_their_names_and_how_long_to_wait() {
        assert_eq!(asked("start", "name=web&name=a%20b"), wish(Verb::Start, &["web", "a b"], Patience::Own));
        assert_eq!(asked("stop", "name=all&wait=no"), wish(Verb::Stop, &["all"], Patience::None));
        let most = Patience::AtMost(Duration::from_millis(2_500));
        assert_eq!(asked("restart", "name=web&wait=2500"), wish(Verb::Restart, &["web"], most));
        assert_eq!(asked("restart", "rolling&name=web"), wish(Verb::Roll, &["web"], Patience::Own));
        assert_eq!(asked("reload", "name=web"), wish(Verb::Reload, &["web"], Patience::Own));
        let signal = |signal, to| Verb::Signal { signal, to };
        assert_eq!(asked("signal", "signal=hup&name=web"), wish(signal(Signal::HUP, Reach::Main), &["web"], Patience::Own));
        assert_eq!(asked("signal", "signal=SIGKILL&tree&name=web"), wish(signal(Signal::KILL, Reach::Tree), &["web"], Patience::Own));
        let services = vec![("web".to_owned(), 3), ("worker".to_owned(), 1)];
        let scale = Request::Scale(Scale { services, patience: Patience::Own });
        assert_eq!(asked("scale", "name=web%3D3&name=worker=1"), Ok(scale));
        assert_eq!(asked("shutdown", "name=web"), Ok(Request::Shutdown));
        let update = |dry_run, values, colour, patience| Ok(Request::Update(Update { dry_run, values, colour, patience }));
        assert_eq!(asked("update", ""), update(false, false, false, Patience::Own));
        assert_eq!(asked("update", "dry-run&values&colour&wait=no"), update(true, true, true, Patience::None));
        assert_eq!(Path::parse("strat"), None);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (path, query, why) in [
            ("stop", "", "no service is named: add ?name=NAME, ?name=NAME.1, ?name=GROUP or ?name=all"),
            ("stop", "name=web&wait=soon", "`wait=soon` is neither `no` nor a number of milliseconds"),
            ("signal", "name=web", "name one signal: add ?signal=HUP"),
            ("signal", "name=web&signal=HUPP", "there is no signal `HUPP`"),
            ("scale", "", "no service is named: add ?name=NAME%3DN"),
            ("scale", "name=web", "`web` is not NAME=N with N from 1 to 1000"),
            ("scale", "name=web=0", "`web=0` is not NAME=N with N from 1 to 1000"),
            ("scale", "name=web=1001", "`web=1001` is not NAME=N with N from 1 to 1000"),
        ] {
            assert_eq!(asked(path, query), Err(why.to_owned()));
        }
    }
}
