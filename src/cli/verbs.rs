//! `firstmate stop`, `restart`, `reload`, `signal`, `scale` and `start NAME`: verbs for a running supervisor, and its answers in
//! supervisorctl's look.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::client::{self, Connection, UNREACHABLE, encoded};
use super::output::{Failure, did_you_mean, out};
use super::progress::{Goal, Progress};
use super::sign_of_life::SignOfLife;
use crate::config::values::parse_duration;
use crate::engine::Signal;
use crate::server::{Reply, Verdict, printable};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  every instance is now as asked; with --no-wait: it has begun
  1  at least one is not, or it was refused
  2  the arguments are wrong
  4  a name is unknown, or no firstmate answers
  130  interrupted; what was asked for may still be done";

const SIGNAL_EXIT_CODES: &str = "\
Exit codes:
  0  the signal was sent to every instance
  1  at least one does not run, or could not be signalled, or it was refused
  2  the arguments are wrong: there is no such signal
  4  a name is unknown, or no firstmate answers
  130  interrupted; what was asked for may still be done";

const RELOAD_EXIT_CODES: &str = "\
Exit codes:
  0  every instance got its reload_signal
  1  at least one has none, does not run, or could not be signalled, or it was refused
  2  the arguments are wrong
  4  a name is unknown, or no firstmate answers
  130  interrupted; what was asked for may still be done";

/// Stop services and wait until nothing is left of them
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct StopArgs {
    #[command(flatten)]
    pub(super) named: Named,
    #[command(flatten)]
    pub(super) waiting: Waiting,
}

/// Stop services and start them again
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    pub(super) named: Named,
    /// One instance of a service after the other, the next only once the one before is ready again; stops at the first that is not
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    pub(super) waiting: Waiting,
}

/// Make services read their configuration anew: send each its reload_signal
#[derive(Debug, clap::Args)]
#[command(after_help = RELOAD_EXIT_CODES)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    pub(super) named: Named,
}

/// Send a signal to services
#[derive(Debug, clap::Args)]
#[command(after_help = SIGNAL_EXIT_CODES)]
pub(super) struct SignalArgs {
    /// HUP, SIGHUP, 1, RTMIN+3...
    #[arg(value_name = "SIG")]
    signal: String,
    #[command(flatten)]
    named: Named,
    /// To every process of each instance, and not to its main process alone
    #[arg(long)]
    all_processes: bool,
}

/// Give services another number of instances than the file says, until firstmate is started anew
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct ScaleArgs {
    /// A service, or a group of them, and how many instances each is to have: web=3
    #[arg(required = true, value_name = "NAME=N")]
    services: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    socket: super::SocketArg,
}

/// For an answer to come that is due.
const FOR_THE_ANSWER: Duration = Duration::from_secs(5);

/// Whom a verb is about.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Services (web), instances (web.1), groups or all
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    socket: super::SocketArg,
}

/// How long the end of it is waited for.
#[derive(Debug, clap::Args)]
pub(super) struct Waiting {
    /// Come back as soon as it has begun
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Wait at most so long (10s, 2m); it goes on all the same [default: as long as the services' own timeouts let it take]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

impl Waiting {
    /// What the options of `start` say of it.
    pub(super) const fn new(no_wait: bool, timeout: Option<Duration>) -> Self {
        Self { no_wait, timeout }
    }

    /// As a part of a query, with its `&`.
    pub(super) fn query(&self) -> String {
        match self.timeout {
            _ if self.no_wait => "&wait=no".to_owned(),
            Some(timeout) => format!("&wait={}", timeout.as_millis()),
            None => String::new(),
        }
    }
}

pub(super) fn stop(args: &StopArgs) -> Result<u8, Failure> {
    let target = format!("/v1/stop?{}{}", names_query(&args.named.names), args.waiting.query());
    run("stop", Goal::Down, &target, &args.named.names, args.named.socket.socket.as_deref(), args.waiting.deadline())
}

pub(super) fn restart(args: &RestartArgs) -> Result<u8, Failure> {
    let rolling = if args.rolling { "rolling&" } else { "" };
    let target = format!("/v1/restart?{rolling}{}{}", names_query(&args.named.names), args.waiting.query());
    run("restart", Goal::NewRun, &target, &args.named.names, args.named.socket.socket.as_deref(), args.waiting.deadline())
}

/// `start NAME`, once it is known whom to ask.
pub(super) fn start(names: &[String], waiting: &Waiting, socket: Option<&OsStr>, connection: Connection) -> Result<u8, Failure> {
    let target = format!("/v1/start?{}{}", names_query(names), waiting.query());
    perform("start", Goal::Up, &target, names, socket, connection.by(waiting.deadline()))
}

pub(super) fn reload(args: &ReloadArgs) -> Result<u8, Failure> {
    let target = format!("/v1/reload?{}", names_query(&args.named.names));
    run("reload", Goal::None, &target, &args.named.names, args.named.socket.socket.as_deref(), None)
}

pub(super) fn signal(args: &SignalArgs) -> Result<u8, Failure> {
    let signal = read_signal(&args.signal)?;
    let tree = if args.all_processes { "tree&" } else { "" };
    let target = format!("/v1/signal?signal={}&{tree}{}", encoded(&signal.to_string()), names_query(&args.named.names));
    run("signal", Goal::None, &target, &args.named.names, args.named.socket.socket.as_deref(), None)
}

pub(super) fn scale(args: &ScaleArgs) -> Result<u8, Failure> {
    let mut names = Vec::new();
    for text in &args.services {
        let wrong =
            || Failure::new(2, format!("`{}` is not a service and a number of instances", printable(text))).help("write it as in web=3");
        let (name, number) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        let most = crate::engine::spec::MOST_INSTANCES;
        match number.parse::<u16>() {
            Ok(0) => {
                let failure = Failure::new(2, format!("`{}` would leave {} without an instance", printable(text), printable(name)));
                return Err(failure.help(format!("`firstmate stop {}` stops it, and it keeps its number of instances", printable(name))));
            }
            Ok(number) if number <= most => names.push(name.to_owned()),
            Ok(_) => return Err(Failure::new(2, format!("a service has at most {most} instances, not {}", printable(number)))),
            Err(_) => return Err(wrong()),
        }
    }
    let target = format!("/v1/scale?{}{}", names_query(&args.services), args.waiting.query());
    run("scale", Goal::Up, &target, &names, args.socket.socket.as_deref(), args.waiting.deadline())
}

/// A signal as people write it.
fn read_signal(text: &str) -> Result<Signal, Failure> {
    if let Some(signal) = Signal::parse(text) {
        return Ok(signal);
    }
    let failure = Failure::new(2, format!("there is no signal `{}`", printable(text)));
    let upper = text.to_ascii_uppercase();
    Err(match did_you_mean(upper.strip_prefix("SIG").unwrap_or(&upper), Signal::known_names()) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("a signal is a name such as HUP or SIGHUP, a number from 1 to 64, or RTMIN+3; `kill -l` lists them"),
    })
}

fn names_query(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("name={}", encoded(name))).collect();
    names.join("&")
}

fn run(verb: &str, goal: Goal, target: &str, names: &[String], socket: Option<&OsStr>, deadline: Option<Instant>) -> Result<u8, Failure> {
    let connection = client::connect(socket, None)?.by(deadline);
    perform(verb, goal, target, names, socket, connection)
}

impl Waiting {
    /// When even a firstmate that does not answer is waited for no longer: it has the time that was asked for, and a little more for its answer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = if self.no_wait { Some(Duration::ZERO) } else { self.timeout };
        Instant::now().checked_add(timeout?.saturating_add(FOR_THE_ANSWER))
    }
}

/// Waits as long as the supervisor needs: it has its own deadlines, and a supervisor that dies closes the connection.
fn perform(verb: &str, goal: Goal, target: &str, names: &[String], socket: Option<&OsStr>, connection: Connection) -> Result<u8, Failure> {
    show(verb, &ask_for_long(verb, goal, target, names, socket, connection)?)
}

/// Posts a verb whose answer may take long: how far it is, whether firstmate lives, and what Ctrl-C means are said meanwhile.
pub(super) fn ask_for_long(
    verb: &str,
    goal: Goal,
    target: &str,
    names: &[String],
    socket: Option<&OsStr>,
    connection: Connection,
) -> Result<Reply, Failure> {
    let mut progress = Progress::new(verb, goal, names, socket);
    let mut life = SignOfLife::new(verb, &connection);
    let reply = ask_with(connection, target, &mut || {
        // Who does not live cannot say how far it is.
        if life.look() {
            progress.show();
        } else {
            progress.clear();
        }
    });
    progress.clear();
    reply
}

/// Posts a verb.
pub(super) fn ask(connection: Connection, target: &str) -> Result<Reply, Failure> {
    ask_with(connection, target, &mut || {})
}

/// The same; `meanwhile` is called now and then while there is no answer.
fn ask_with(connection: Connection, target: &str, meanwhile: &mut dyn FnMut()) -> Result<Reply, Failure> {
    let socket = connection.socket.clone();
    let answer = connection.request_with("POST", target, Some(meanwhile))?;
    serde_json::from_slice(&answer.body).map_err(|_| {
        Failure::new(UNREACHABLE, format!("cannot read the reply from {socket}: it answered {} in an unknown form", answer.code))
    })
}

pub(super) fn show(verb: &str, reply: &Reply) -> Result<u8, Failure> {
    match reply {
        Reply::Done { instances } => {
            let mut text = String::new();
            for answer in instances {
                // Writing into a String cannot fail.
                let _ = writeln!(text, "{}: {}", printable(&answer.instance), words(verb, &answer.verdict));
            }
            out(&text);
            Ok(u8::from(!instances.iter().all(|answer| answer.verdict.is_good())))
        }
        Reply::UnknownName { name, suggestion } => {
            let failure = Failure::new(UNREACHABLE, format!("no service, instance or group is called `{}`", printable(name)));
            Err(match suggestion {
                Some(near) => failure.help(format!("did you mean `{}`?", printable(near))),
                None => failure.help("`firstmate status` lists them"),
            })
        }
        Reply::Update { .. } | Reply::BadFile { .. } => Err(strange()),
        Reply::Failed { why } | Reply::Refused { why } => Err(Failure::new(1, format!("cannot {verb}: {}", printable(why)))),
    }
}

/// An answer to another question.
pub(super) fn strange() -> Failure {
    Failure::new(UNREACHABLE, "firstmate answered something else than was asked")
}

pub(super) fn words(verb: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Started => "started".to_owned(),
        Verdict::AlreadyStarted => "already started".to_owned(),
        Verdict::Stopped => "stopped".to_owned(),
        Verdict::AlreadyStopped => "already stopped".to_owned(),
        Verdict::Restarted => "restarted".to_owned(),
        Verdict::Removed => "removed".to_owned(),
        Verdict::Begun if verb == "scale" || verb == "update" => "on its way".to_owned(),
        Verdict::Begun => format!("told to {verb}"),
        Verdict::Signalled { signal, processes: 1 } => format!("signalled ({})", printable(signal)),
        Verdict::Signalled { signal, processes } => format!("signalled ({}, {processes} processes)", printable(signal)),
        Verdict::Scaled { from, to, in_file } => {
            let before = if from == to { "as before".to_owned() } else { format!("{from} before") };
            let plural = if *to == 1 { "" } else { "s" };
            let file = if to == in_file {
                String::new()
            } else {
                format!("; it was started with {in_file}, which holds again when firstmate is started anew")
            };
            format!("{to} instance{plural}, {before}{file}")
        }
        Verdict::Failed { why } => format!("ERROR ({})", printable(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_people_write_them() {
        for (text, number) in [("hup", 1), ("SIGUSR1", 10), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)] {
            assert_eq!(read_signal(text).unwrap().number(), number, "{text}");
        }
        let wrong = |text: &str| read_signal(text).unwrap_err().render(false);
        assert_eq!(wrong("HPU"), "error: there is no signal `HPU`\n  = help: did you mean `HUP`?\n");
        assert_eq!(wrong("sigtrem"), "error: there is no signal `sigtrem`\n  = help: did you mean `TERM`?\n");
        assert!(wrong("65").contains("a number from 1 to 64"), "{}", wrong("65"));
        assert!(wrong("x\x1b[31m").starts_with("error: there is no signal `x\\u{1b}[31m`\n"));
    }

    #[test]
    fn every_verdict_has_its_words() {
        let signalled = |processes| Verdict::Signalled { signal: "SIGHUP".to_owned(), processes };
        let scaled = |from, to, in_file| Verdict::Scaled { from, to, in_file };
        for (verb, verdict, text) in [
            ("stop", Verdict::Begun, "told to stop"),
            ("restart", Verdict::Begun, "told to restart"),
            ("scale", Verdict::Begun, "on its way"),
            ("scale", Verdict::Removed, "removed"),
            ("reload", signalled(1), "signalled (SIGHUP)"),
            ("signal", signalled(3), "signalled (SIGHUP, 3 processes)"),
            ("scale", scaled(2, 4, 2), "4 instances, 2 before; it was started with 2, which holds again when firstmate is started anew"),
            ("scale", scaled(3, 1, 1), "1 instance, 3 before"),
            ("scale", scaled(3, 3, 3), "3 instances, as before"),
        ] {
            assert_eq!(words(verb, &verdict), text);
        }
    }
}
