//! What `start` takes from foreman and its family: how many of which, who is left out, what the first end means, how lines look.

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::config::values::parse_duration;
use crate::config::{Choice, Ending, Formation, Inputs, StartedBy};

/// The shortest time to stop in: below it nothing could even be signalled.
const SHORTEST: Duration = Duration::from_millis(10);

/// Which services, and how.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DevelopArgs {
    /// How many instances of which service, as in web=2,worker=1 or all=1; a service that is not in it gets the number of `all`, and does
    /// not start without that
    #[arg(short = 'm', long, value_name = "NAME=N,...", value_parser = Formation::parse, visible_short_alias = 'c', visible_alias = "concurrency")]
    formation: Option<Formation>,
    /// Services that are not started, comma separated
    #[arg(short = 'x', long, value_name = "NAME,...", value_delimiter = ',')]
    except: Vec<String>,
    /// How long stopping everything may take, SIGKILL included, in seconds or as in 500ms [default: the file's stop_timeout]; with names
    /// that are started in a running firstmate: how long that is waited for
    #[arg(short, long, value_name = "TIME", value_parser = parse_timeout)]
    pub(super) timeout: Option<Duration>,
    /// Start services again when they end, also in development (a Procfile that no init started), where the first that ends would end all
    #[arg(short, long, conflicts_with = "no_restart")]
    restart: bool,
    /// The first service that ends, ends all, also outside of development
    #[arg(long)]
    no_restart: bool,
    /// Lines without the time
    #[arg(long)]
    pub(super) no_timestamp: bool,
}

impl DevelopArgs {
    /// What it means for the file. `names` are the services to start; none is all.
    pub(super) fn inputs(&self, names: &[String]) -> Inputs {
        Inputs {
            choice: Choice { only: names.to_vec(), except: self.except.clone(), formation: self.formation.clone(), again: false },
            stop_timeout: self.timeout,
            ending: match (self.restart, self.no_restart) {
                (true, _) => Some(Ending::Restart),
                (false, true) => Some(Ending::EndAll),
                (false, false) => None,
            },
            started_by: started_by(),
            ..Inputs::default()
        }
    }

    /// The first option that is here, which a firstmate that runs already cannot be given.
    pub(super) fn given(&self) -> Option<&'static str> {
        [
            (self.formation.is_some(), "-m"),
            (!self.except.is_empty(), "-x"),
            (self.restart, "--restart"),
            (self.no_restart, "--no-restart"),
            (self.no_timestamp, "--no-timestamp"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// Who started this process. A parent outside of the PID namespace has the number 0.
pub(super) fn started_by() -> StartedBy {
    if std::process::id() == 1 {
        StartedBy::Container
    } else if std::os::unix::process::parent_id() <= 1 && !std::io::stdin().is_terminal() {
        StartedBy::Init
    } else {
        StartedBy::Person
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text).map_err(|_| "a time is like 5, 500ms or 1m".to_owned())?;
    if timeout < SHORTEST { Err("it is at least 10ms; Ctrl-C twice kills at once".to_owned()) } else { Ok(timeout) }
}
