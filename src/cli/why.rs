//! `firstmate why`: the incidents, one paragraph each: what ended, how, its memory, what firstmate did about it, and what to try.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::client::{self, UNREACHABLE};
use super::output::{Failure, err, json, out};
use super::{status, terminal};
use crate::engine::incident::{ActName, Because, ContainerMemory, GuardAct, Held, How, Incident, RunEnded, Then, What};
use crate::engine::memory::{Process, Rule};
use crate::engine::size::{percent, size};
use crate::engine::status::{InstanceMemory, MemoryMethod};
use crate::engine::{Cause, Incidents, LaunchError, Signal};
use crate::observe::notice::{hint, is_sent};
use crate::observe::{duration, utc};
use crate::server::printable;

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  the incidents are shown, or there were none
  2  the arguments are wrong
  4  a name is unknown, or no firstmate answers";

/// Show the incidents: what ended, how, its memory, what firstmate did about it, what to try
///
/// The newest is the last. The last 100 since firstmate started are kept. Those of the container as a whole are shown whatever is named.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct WhyArgs {
    /// Services (web), instances (web.1), groups or all; everything when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON instead of sentences
    #[arg(long)]
    json: bool,
    /// Only the last N of them
    #[arg(short = 'n', value_name = "N")]
    last: Option<usize>,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &WhyArgs) -> Result<u8, Failure> {
    let socket = args.socket.socket.as_deref();
    let all = status::is_whole(&args.names);
    let mut names: Vec<String> = args.names.clone();
    let mut incidents = fetch(socket)?;
    if names.iter().any(|name| name != "all") {
        // The incidents name only whom something has befallen, and know of no group; and who was scaled away, or went by an update, is not in the status.
        let status = status::fetch(socket)?;
        let is_so_called = |instance: &str, name: &str| instance == name || service_of(instance) == name;
        let instances = incidents.incidents.iter().filter_map(|incident| incident.what.instance());
        let told = |name: &str| instances.clone().any(|instance| is_so_called(instance, name));
        let others: Vec<String> = names.iter().filter(|name| !told(name)).cloned().collect();
        status::look_up(&status, &others)?;
        let named = status.services.iter().filter(|service| args.names.iter().any(|name| status::is_called(service, name)));
        names.extend(named.map(|service| service.name.clone()));
    }
    if !all {
        incidents.incidents.retain(|incident| incident.what.instance().is_none_or(|instance| is_named(instance, &names)));
    }
    let surplus = args.last.map_or(0, |last| incidents.incidents.len().saturating_sub(last));
    incidents.incidents.drain(..surplus);
    if args.json {
        out(&json("incidents", &incidents)?);
        return Ok(0);
    }
    match incidents.dropped {
        0 => {}
        1 => err("1 older incident is not kept any more\n"),
        more => err(&format!("{more} older incidents are not kept any more\n")),
    }
    let whose = if all { &[] } else { args.names.as_slice() };
    out(&terminal::wrap(&render(&incidents, whose), terminal::window()));
    Ok(0)
}

fn fetch(socket: Option<&std::ffi::OsStr>) -> Result<Incidents, Failure> {
    let connection = client::connect(socket, Some(Instant::now() + Duration::from_secs(5)))?;
    let place = connection.socket.to_string();
    let answer = connection.request("GET", "/incidents")?;
    let broken = |why: String| {
        Failure::new(UNREACHABLE, format!("cannot read the incidents from {place}: {why}"))
            .help("is that socket firstmate's, and of the same version as this one?")
    };
    if answer.code != 200 {
        return Err(broken(format!("it answered {}", answer.code)));
    }
    serde_json::from_slice(&answer.body).map_err(|error| broken(printable(&error.to_string()).into_owned()))
}

fn service_of(instance: &str) -> &str {
    instance.rsplit_once('.').map_or(instance, |(service, _)| service)
}

fn is_named(instance: &str, names: &[String]) -> bool {
    names.iter().any(|name| *name == instance || *name == service_of(instance))
}

/// All of them. `whose` is who was named; empty when it is everybody.
fn render(incidents: &Incidents, whose: &[String]) -> String {
    if incidents.incidents.is_empty() {
        let of = if whose.is_empty() { String::new() } else { format!(" of {}", printable(&whose.join(", "))) };
        return format!("no incidents{of} since firstmate started, {} ago\n", ms(incidents.uptime_ms));
    }
    let paragraphs: Vec<String> = incidents.incidents.iter().map(|incident| paragraph(incident, incidents.uptime_ms)).collect();
    paragraphs.join("\n")
}

/// A headline, and below it what there is to say, each beginning with a word of its own.
struct Paragraph(String);

// Writing into a String cannot fail, here and below.
impl Paragraph {
    fn line(&mut self, word: &str, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(self.0, "  {word:8}{text}");
        }
    }
}

fn paragraph(incident: &Incident, uptime_ms: u64) -> String {
    let ago = ms(uptime_ms.saturating_sub(incident.at_ms));
    let when = match incident.at_unix_ms {
        Some(at) => format!("{}, {ago} ago", utc(at)),
        None => format!("{ago} ago"),
    };
    let mut text = Paragraph(String::new());
    let container = incident.container.as_ref();
    let _ = writeln!(text.0, "{when}: {}", headline(&incident.what));
    match &incident.what {
        What::RunEnded(ended) => {
            text.line("why", &why(ended));
            text.line("memory", &memory(ended.memory.as_ref(), container));
            // An hour's wait is not over because it was decided on.
            text.line("done", &done(ended, uptime_ms.saturating_sub(incident.at_ms)));
            text.line("try", &advice(ended, container));
        }
        What::Signalled(signalled) => {
            text.line("why", &seen(&signalled.guard));
            text.line("memory", &memory(None, container));
            text.line("try", "if the signal does not help, the next act is a restart: see what the program does on it");
        }
        What::OomKills { kills: _, among } => {
            let names = if among.is_empty() { "the main process of no service".to_owned() } else { format!("perhaps {}", listed(among)) };
            text.line("who", &names);
            text.line("memory", &memory(None, container));
            text.line("try", no_memory(container));
        }
        What::Plateau { own, .. } => {
            text.line("memory", &memory(None, container));
            text.line("done", "left alone until it grows");
            let advice = if *own {
                "raise `restart_above` of its `memory`: it needs so much, and a restart does not change that"
            } else {
                "raise the container's limit, or `restart_above` in [memory]: it needs so much, and a restart does not change that"
            };
            text.line("try", advice);
        }
        What::Helpless { because, shares } => {
            text.line("why", &helpless(because));
            text.line("memory", &memory(None, container));
            text.line("who", &held(shares));
            text.line("done", "nothing, since nothing would help");
            let advice = match because {
                Because::Tmpfs { .. } => "remove files there, or raise the container's limit",
                Because::Others { .. } => "look for what was started beside firstmate, as by `docker exec`, or raise the container's limit",
                Because::NobodyGrew => "raise the container's limit, or `restart_above` in [memory]: all together need more than it allows",
                Because::Forbidden => "raise the container's limit, or take `victim = \"never\"` from a service that may be restarted",
                Because::Unknown => "check that /proc is mounted, and not with hidepid",
            };
            text.line("try", advice);
        }
    }
    text.0
}

fn headline(what: &What) -> String {
    match what {
        What::RunEnded(ended) => {
            let who = format!("{} (run {})", printable(&ended.instance), ended.run);
            let after = ms(ended.uptime_ms);
            match &ended.outcome {
                How::Exited { code } => format!("{who} exited with code {code} after {after}"),
                How::OomKilled => format!("{who} was killed by the kernel's OOM killer after {after}"),
                How::Signaled { signal, .. } => {
                    let sent = Signal::parse(signal).is_some_and(is_sent);
                    let by = if ended.asked {
                        ", sent by firstmate,"
                    } else if sent {
                        ", not sent by firstmate,"
                    } else {
                        ""
                    };
                    format!("{who} was killed by {}{by} after {after}", printable(signal))
                }
                How::SpawnFailed { error, .. } => format!("{who} could not be started: {}", printable(error)),
            }
        }
        What::Signalled(signalled) => format!(
            "{} (run {}) was sent {} by the memory guard after {}",
            printable(&signalled.instance),
            signalled.run,
            signalled.guard.signal.as_deref().map_or(Cow::Borrowed("a signal"), printable),
            ms(signalled.uptime_ms)
        ),
        What::OomKills { kills: 1, .. } => "the kernel's OOM killer killed 1 process of the container".to_owned(),
        What::OomKills { kills, .. } => format!("the kernel's OOM killer killed {kills} processes of the container"),
        What::Plateau { instance, bytes, at_bytes, of_bytes, own } => {
            let what = format!("{} is back at {} after its restart and grows no further", printable(instance), size(*bytes));
            if *own {
                format!("{what}; its own line is {}", size(*of_bytes))
            } else {
                format!("{what}; the container is at {} of {}", size(*at_bytes), size(*of_bytes))
            }
        }
        What::Helpless { .. } => "memory is short, and no restart would help".to_owned(),
    }
}

/// Why firstmate ended it, and how that went.
fn why(ended: &RunEnded) -> String {
    let because = |what: &str| match &ended.reason {
        Some(reason) => format!("{what}: {}", printable(reason)),
        None => what.to_owned(),
    };
    let mut text = match ended.cause {
        Cause::Crash => String::new(),
        Cause::Live => because("its liveness probe failed"),
        Cause::Watchdog => because("its watchdog ended it"),
        Cause::StartTimeout => because("it was not ready within `start_timeout`"),
        Cause::Memory => match &ended.guard {
            Some(act) if act.act == ActName::Kill => format!("the memory guard killed it: {}", seen(act)),
            Some(act) => format!("the memory guard restarted it: {}", seen(act)),
            None => "the memory guard chose it".to_owned(),
        },
        Cause::Watch => "files it watches had changed".to_owned(),
        Cause::Operator => match &ended.reason {
            Some(signal) => printable(signal).into_owned(),
            None => "an operator asked for its stop or restart".to_owned(),
        },
        Cause::Update => "the file has another definition of it, or none".to_owned(),
        Cause::Shutdown => "everything was being stopped".to_owned(),
    };
    let mut add = |more: &str| {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(more);
    };
    if let Some(after) = ended.sigkill_after_ms.filter(|after| *after > 0) {
        add(&format!("it did not end within {}, so SIGKILL was sent", ms(after)));
    }
    match ended.left_behind {
        0 => {}
        1 => add("it left 1 process behind, which is ended as well"),
        more => add(&format!("it left {more} processes behind, which are ended as well")),
    }
    text
}

/// What the guard saw.
fn seen(act: &GuardAct) -> String {
    let line = size(act.line_bytes);
    let mut text = match act.rule {
        Rule::Held => format!("the container had been above {line} for {}", ms(act.above_for_ms)),
        Rule::Forecast => format!("the container would soon have been above {line}"),
        Rule::Hard => format!("the container was above {line}"),
        Rule::Emergency => format!("the container was above {line}, or about to be"),
        Rule::Own => format!("it had been above its own line of {line} for {}", ms(act.above_for_ms)),
    };
    let _ = write!(
        text,
        " (at {} of {}), and it held {}, {}",
        size(act.hard_bytes),
        size(act.limit_bytes),
        size(act.bytes),
        how_known(act.method)
    );
    if let Ok(growth @ 4096..) = u64::try_from(act.growth_bytes_per_second) {
        let _ = write!(text, ", growing by {} a second", size(growth));
    }
    if let Some(left) = act.oom_in_ms {
        let _ = write!(text, "; the kernel's OOM killer was about {} away", ms(left));
    }
    if !act.top.is_empty() {
        let process = |process: &Process| format!("{} (pid {}) {}", foreign(&process.name), process.pid, size(process.bytes));
        let _ = write!(text, "; its largest: {}", act.top.iter().map(process).collect::<Vec<_>>().join(", "));
    }
    text
}

fn memory(own: Option<&InstanceMemory>, container: Option<&ContainerMemory>) -> String {
    let mut parts = Vec::new();
    if let Some(own) = own {
        parts.push(format!(
            "{} ({:.1}% of the limit), {}, when last looked at {} before",
            size(own.bytes),
            own.percent,
            how_known(own.method),
            ms(own.age_ms)
        ));
    }
    if let Some(container) = container {
        let limit = size(container.limit_bytes);
        parts.push(match container.hard_bytes {
            Some(hard) => format!("the container at {} of {limit} ({})", size(hard), percent(hard, container.limit_bytes)),
            None => format!("the container has {limit}"),
        });
    }
    parts.join("; ")
}

const fn how_known(method: MemoryMethod) -> &'static str {
    match method {
        MemoryMethod::Cgroup => "by its cgroup",
        MemoryMethod::Pss | MemoryMethod::PssAsUser => "by PSS",
        MemoryMethod::Interval => "within bounds",
        MemoryMethod::Rss => "by RSS",
    }
}

/// `ago_ms`: since its end.
fn done(ended: &RunEnded, ago_ms: u64) -> String {
    let failures = match ended.failures {
        0 | 1 => String::new(),
        failures => format!(", after {failures} failed runs in a row"),
    };
    match ended.then {
        Then::Pending => "what it left behind is being ended".to_owned(),
        Then::Restarted { delay_ms: 0 } => format!("started again at once{failures}"),
        Then::Restarted { delay_ms } if ago_ms < delay_ms => format!("to be started again after {}{failures}", ms(delay_ms)),
        Then::Restarted { delay_ms } => format!("started again after {}{failures}", ms(delay_ms)),
        Then::GaveUp => format!("given up{failures}"),
        Then::NotRestarted => "left down, as its `restart` policy says".to_owned(),
        Then::Stopped => "left down, as asked".to_owned(),
    }
}

/// What to try, where something is known.
fn advice(ended: &RunEnded, container: Option<&ContainerMemory>) -> String {
    let service = printable(service_of(&ended.instance));
    let text = match (ended.cause, &ended.outcome) {
        (_, How::OomKilled) => no_memory(container),
        (Cause::Memory, _) => return grown(ended, &service),
        (Cause::Watchdog, _) => "see what keeps it from saying WATCHDOG=1 in time, and whether `watchdog` leaves it enough time under load",
        (Cause::Live, _) => "see what its `live` probe asks, and whether `timeout` and `failures` leave it enough time under load",
        (Cause::StartTimeout, _) => "see what its `ready` probe asks; a service that takes longer needs a longer `start_timeout`",
        (Cause::Crash | Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown, How::SpawnFailed { stage, errno, .. }) => {
            hint(&LaunchError { stage: *stage, errno: *errno, detail: String::new() }).unwrap_or_default()
        }
        (Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown, How::Signaled { number: 9, .. })
            if ended.sigkill_after_ms.is_some_and(|after| after > 0) =>
        {
            "see whether its program heeds the `stop_signal`, or needs a longer `stop_timeout`"
        }
        (Cause::Crash, How::Signaled { number: 9, .. }) => {
            "somebody sent it SIGKILL, and it was not the OOM killer of this container: look for a `kill`, or at the machine's own log"
        }
        (Cause::Crash, How::Exited { code: 126 }) => {
            "126 is what a shell says of a program that cannot be executed: check its mode and format"
        }
        (Cause::Crash, How::Exited { code: 127 }) => "127 is what a shell says of a program that is not there: check `command` and PATH",
        (Cause::Crash, How::Exited { code: 137 }) => {
            "137 is what a shell says of a child that was killed by SIGKILL; with `exec` in front of the command firstmate sees which"
        }
        (Cause::Crash | Cause::Watch | Cause::Operator | Cause::Update | Cause::Shutdown, How::Exited { .. } | How::Signaled { .. }) => "",
    };
    text.to_owned()
}

fn grown(ended: &RunEnded, service: &str) -> String {
    let act = ended.guard.as_ref();
    if act.is_some_and(|act| act.rule == Rule::Own) {
        return format!("look for a leak in {service}; if it needs so much, raise `restart_above` of its `memory`");
    }
    let quick = act.is_some_and(|act| act.act == ActName::Kill);
    let more = if quick { ": it grew too fast to be asked" } else { "" };
    format!("look for a leak in {service}{more}; if it needs so much, raise the container's limit")
}

const fn no_memory(container: Option<&ContainerMemory>) -> &'static str {
    match container {
        Some(ContainerMemory { restart_above_bytes: None, .. }) => {
            "raise the container's limit, have the service use less, or switch the memory guard on (`restart_above` in [memory])"
        }
        Some(_) | None => "raise the container's limit, have the service use less, or lower `restart_above` in [memory]",
    }
}

fn helpless(because: &Because) -> String {
    match because {
        Because::Tmpfs { bytes, places } => {
            let mut text = format!("{} are files in tmpfs, or shared memory, that no process holds", size(*bytes));
            if !places.is_empty() {
                let _ = write!(text, " ({})", held(places));
            }
            text
        }
        Because::Others { bytes } => format!("{} belong to no service", size(*bytes)),
        Because::NobodyGrew => "no service has grown by enough".to_owned(),
        Because::Forbidden => "the services that hold enough have `victim = \"never\"`".to_owned(),
        Because::Unknown => "how much each service holds cannot be known here".to_owned(),
    }
}

fn held(all: &[Held]) -> String {
    all.iter().map(|one| format!("{} {}", foreign(&one.name), size(one.bytes))).collect::<Vec<_>>().join(", ")
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}

/// A name somebody else chose: quoted where it could be taken for a part of the sentence.
fn foreign(name: &str) -> Cow<'_, str> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:+@".contains(character);
    if !name.is_empty() && name.chars().all(plain) { Cow::Borrowed(name) } else { Cow::Owned(format!("{name:?}")) }
}

fn ms(ms: u64) -> impl std::fmt::Display {
    duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::incident::Signalled;
    use crate::engine::outcome::Stage;
    use crate::engine::status::LimitSource;

    const MIB: u64 = 1 << 20;

    fn container() -> ContainerMemory {
        ContainerMemory {
            hard_bytes: Some(120 * MIB),
            limit_bytes: 128 * MIB,
            limit_source: LimitSource::CgroupV1,
            restart_above_bytes: Some(96 * MIB),
        }
    }

    fn ended() -> RunEnded {
        RunEnded {
            instance: "worker.1".to_owned(),
            run: 3,
            outcome: How::Exited { code: 1 },
            asked: false,
            cause: Cause::Crash,
            reason: None,
            guard: None,
            sigkill_after_ms: None,
            left_behind: 0,
            uptime_ms: 125_000,
            memory: None,
            failures: 1,
            then: Then::Restarted { delay_ms: 500 },
        }
    }

    fn guard() -> GuardAct {
        GuardAct {
            act: ActName::Restart,
            signal: None,
            rule: Rule::Held,
            bytes: 90 * MIB,
            percent: 70.3,
            method: MemoryMethod::Pss,
            growth_bytes_per_second: 3 << 20,
            hard_bytes: 100 * MIB,
            limit_bytes: 128 * MIB,
            line_bytes: 96 * MIB,
            above_for_ms: 10_000,
            oom_in_ms: Some(9_000),
            top: vec![
                Process { pid: 31, name: "php-fpm".to_owned(), bytes: 60 * MIB },
                Process { pid: 32, name: "x) 1\n".to_owned(), bytes: 20 * MIB },
            ],
        }
    }

    fn own(age_ms: u64) -> InstanceMemory {
        InstanceMemory {
            bytes: 101 * MIB,
            at_least_bytes: 100 * MIB,
            at_most_bytes: 102 * MIB,
            method: MemoryMethod::Interval,
            percent: 78.9,
            restart_above_bytes: None,
            age_ms,
        }
    }

    /// As it is shown a minute later, by a firstmate that began at the end of 2026.
    fn shown(what: What, container: Option<ContainerMemory>) -> String {
        let incident = Incident { number: 7, at_ms: 600_000, at_unix_ms: Some(1_798_761_599_007), what, container };
        paragraph(&incident, 660_000)
    }

    fn end(ended: RunEnded) -> String {
        shown(What::RunEnded(Box::new(ended)), None)
    }

    #[test]
    fn an_oom_kill_in_full() {
        let killed = RunEnded { outcome: How::OomKilled, memory: Some(own(4_200)), failures: 2, ..ended() };
        assert_eq!(
            shown(What::RunEnded(Box::new(killed.clone())), Some(container())),
            "\
2026-12-31T23:59:59.007Z, 1 min ago: worker.1 (run 3) was killed by the kernel's OOM killer after 2 min 5 s
  memory  101 MiB (78.9% of the limit), within bounds, when last looked at 4.2 s before; the container at 120 MiB of 128 MiB (93.8%)
  done    started again after 500 ms, after 2 failed runs in a row
  try     raise the container's limit, have the service use less, or lower `restart_above` in [memory]
"
        );
        let off = ContainerMemory { restart_above_bytes: None, hard_bytes: None, ..container() };
        let text = shown(What::RunEnded(Box::new(killed)), Some(off));
        assert!(text.contains("; the container has 128 MiB\n"), "{text}");
        assert!(text.ends_with("or switch the memory guard on (`restart_above` in [memory])\n"), "{text}");
    }

    #[test]
    fn a_restart_by_the_guard_in_full() {
        let restarted = RunEnded {
            outcome: How::Signaled { signal: "SIGKILL".to_owned(), number: 9 },
            asked: true,
            cause: Cause::Memory,
            guard: Some(guard()),
            sigkill_after_ms: Some(10_000),
            memory: Some(own(0)),
            then: Then::Restarted { delay_ms: 0 },
            ..ended()
        };
        assert_eq!(
            shown(What::RunEnded(Box::new(restarted)), Some(container())),
            "\
2026-12-31T23:59:59.007Z, 1 min ago: worker.1 (run 3) was killed by SIGKILL, sent by firstmate, after 2 min 5 s
  why     the memory guard restarted it: the container had been above 96 MiB for 10 s (at 100 MiB of 128 MiB), and it held 90 MiB, by PSS, \
growing by 3 MiB a second; \
the kernel's OOM killer was about 9 s away; its largest: php-fpm (pid 31) 60 MiB, \"x) 1\\n\" (pid 32) 20 MiB; \
it did not end within 10 s, so SIGKILL was sent
  memory  101 MiB (78.9% of the limit), within bounds, when last looked at 0 ms before; the container at 120 MiB of 128 MiB (93.8%)
  done    started again at once
  try     look for a leak in worker; if it needs so much, raise the container's limit
"
        );
    }

    #[test]
    fn ends_and_what_to_try() {
        let kill = || How::Signaled { signal: "SIGKILL".to_owned(), number: 9 };
        let segv = || How::Signaled { signal: "SIGSEGV".to_owned(), number: 11 };
        let no_program =
            How::SpawnFailed { stage: Stage::Exec, errno: 2, error: "executing x\n: ENOENT (no such file or directory)".to_owned() };
        for (ended, first, rest) in [
            (ended(), "exited with code 1 after 2 min 5 s", "  done    started again after 500 ms\n"),
            (
                RunEnded { outcome: kill(), left_behind: 2, then: Then::Pending, ..ended() },
                "was killed by SIGKILL, not sent by firstmate, after 2 min 5 s",
                "  why     it left 2 processes behind, which are ended as well\n  done    what it left behind is being ended\n  try     somebody sent it \
                 SIGKILL, and it was not the OOM killer of this container: look for a `kill`, or at the machine's own log\n",
            ),
            (
                RunEnded { outcome: segv(), failures: 10, then: Then::GaveUp, ..ended() },
                "was killed by SIGSEGV after 2 min 5 s",
                "  done    given up, after 10 failed runs in a row\n",
            ),
            (
                RunEnded { outcome: no_program, then: Then::NotRestarted, ..ended() },
                "could not be started: executing x\\n: ENOENT (no such file or directory)",
                "  done    left down, as its `restart` policy says\n  try     check `command` and PATH, and that its interpreter is installed\n",
            ),
            (
                RunEnded { cause: Cause::Live, reason: Some("500\x1b[2J".to_owned()), outcome: How::Exited { code: 0 }, ..ended() },
                "exited with code 0 after 2 min 5 s",
                "  why     its liveness probe failed: 500\\u{1b}[2J\n  done    started again after 500 ms\n  try     see what its `live` probe asks, \
                 and whether `timeout` and `failures` leave it enough time under load\n",
            ),
            (
                RunEnded { cause: Cause::StartTimeout, ..ended() },
                "exited with code 1 after 2 min 5 s",
                "  why     it was not ready within `start_timeout`\n  done    started again after 500 ms\n  try     see what its `ready` probe asks; \
                 a service that takes longer needs a longer `start_timeout`\n",
            ),
            (
                RunEnded {
                    cause: Cause::Operator,
                    outcome: kill(),
                    asked: true,
                    sigkill_after_ms: Some(10_000),
                    then: Then::Stopped,
                    ..ended()
                },
                "was killed by SIGKILL, sent by firstmate, after 2 min 5 s",
                "  why     an operator asked for its stop or restart; it did not end within 10 s, so SIGKILL was sent\n  done    left down, as asked\n  \
                 try     see whether its program heeds the `stop_signal`, or needs a longer `stop_timeout`\n",
            ),
            (
                RunEnded {
                    cause: Cause::Operator,
                    reason: Some("an operator sent it SIGKILL".to_owned()),
                    outcome: kill(),
                    asked: true,
                    ..ended()
                },
                "was killed by SIGKILL, sent by firstmate, after 2 min 5 s",
                "  why     an operator sent it SIGKILL\n  done    started again after 500 ms\n",
            ),
            (
                RunEnded { outcome: How::Exited { code: 127 }, ..ended() },
                "exited with code 127 after 2 min 5 s",
                "  done    started again after 500 ms\n  try     127 is what a shell says of a program that is not there: check `command` and PATH\n",
            ),
        ] {
            assert_eq!(end(ended), format!("2026-12-31T23:59:59.007Z, 1 min ago: worker.1 (run 3) {first}\n{rest}"));
        }
    }

    #[test]
    fn what_is_no_end_of_a_run() {
        let guard = GuardAct {
            act: ActName::Signal,
            signal: Some("SIGUSR2".to_owned()),
            rule: Rule::Own,
            oom_in_ms: None,
            top: Vec::new(),
            ..guard()
        };
        let signalled = Signalled { instance: "worker.1".to_owned(), run: 3, uptime_ms: 60_000, guard };
        let held = |name: &str, bytes| Held { name: name.to_owned(), bytes };
        let shares = vec![held("web.1", 60 * MIB), held("redis.1", 30 * MIB)];
        let plateau =
            |own| What::Plateau { instance: "worker.1".to_owned(), bytes: 80 * MIB, at_bytes: 100 * MIB, of_bytes: 128 * MIB, own };
        for (what, lines) in [
            (
                What::Signalled(Box::new(signalled)),
                "\
worker.1 (run 3) was sent SIGUSR2 by the memory guard after 1 min
  why     it had been above its own line of 96 MiB for 10 s (at 100 MiB of 128 MiB), and it held 90 MiB, by PSS, growing by 3 MiB a second
  memory  the container at 120 MiB of 128 MiB (93.8%)
  try     if the signal does not help, the next act is a restart: see what the program does on it
",
            ),
            (
                What::OomKills { kills: 1, among: Vec::new() },
                "\
the kernel's OOM killer killed 1 process of the container
  who     the main process of no service
  memory  the container at 120 MiB of 128 MiB (93.8%)
  try     raise the container's limit, have the service use less, or lower `restart_above` in [memory]
",
            ),
            (
                What::OomKills { kills: 2, among: vec!["a.1".to_owned(), "b.1".to_owned()] },
                "\
the kernel's OOM killer killed 2 processes of the container
  who     perhaps a.1, b.1
  memory  the container at 120 MiB of 128 MiB (93.8%)
  try     raise the container's limit, have the service use less, or lower `restart_above` in [memory]
",
            ),
            (
                plateau(false),
                "\
worker.1 is back at 80 MiB after its restart and grows no further; the container is at 100 MiB of 128 MiB
  memory  the container at 120 MiB of 128 MiB (93.8%)
  done    left alone until it grows
  try     raise the container's limit, or `restart_above` in [memory]: it needs so much, and a restart does not change that
",
            ),
            (
                plateau(true),
                "\
worker.1 is back at 80 MiB after its restart and grows no further; its own line is 128 MiB
  memory  the container at 120 MiB of 128 MiB (93.8%)
  done    left alone until it grows
  try     raise `restart_above` of its `memory`: it needs so much, and a restart does not change that
",
            ),
            (
                What::Helpless { because: Because::Tmpfs { bytes: 70 * MIB, places: vec![held("/dev/shm x", 70 * MIB)] }, shares },
                "\
memory is short, and no restart would help
  why     70 MiB are files in tmpfs, or shared memory, that no process holds (\"/dev/shm x\" 70 MiB)
  memory  the container at 120 MiB of 128 MiB (93.8%)
  who     web.1 60 MiB, redis.1 30 MiB
  done    nothing, since nothing would help
  try     remove files there, or raise the container's limit
",
            ),
        ] {
            assert_eq!(shown(what, Some(container())), format!("2026-12-31T23:59:59.007Z, 1 min ago: {lines}"));
        }
    }

    #[test]
    fn the_newest_is_the_last_and_none_is_said() {
        let at = |at_ms| Incident { number: at_ms, at_ms, at_unix_ms: None, what: What::RunEnded(Box::new(ended())), container: None };
        let incidents = Incidents { uptime_ms: 20_000, incidents: vec![at(1_000), at(2_000)], ..Incidents::default() };
        let paragraph =
            |ago| format!("{ago} s ago: worker.1 (run 3) exited with code 1 after 2 min 5 s\n  done    started again after 500 ms\n");
        assert_eq!(render(&incidents, &[]), format!("{}\n{}", paragraph(19), paragraph(18)));
        let none = Incidents { uptime_ms: 65_000, ..Incidents::default() };
        assert_eq!(render(&none, &[]), "no incidents since firstmate started, 1 min 5 s ago\n");
        let named = ["web".to_owned(), "worker.2".to_owned()];
        assert_eq!(render(&none, &named), "no incidents of web, worker.2 since firstmate started, 1 min 5 s ago\n");
    }
}
