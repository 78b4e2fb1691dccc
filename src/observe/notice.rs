//! The engine's notices as sentences: what happened, to whom, and how to mend what can be mended.
//!
//! One notice is one line. The last one, `Notice::Over`, says in a sentence why everything ended and with which code; the same text is
//! meant for `/dev/termination-log`.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use nix::errno::Errno;

use super::{Level, memory, operated, update};
use crate::engine::Signal;
use crate::engine::event::{Bite, Cause, EndCause, InstanceId, Notice, RunId, ShutdownCause};
use crate::engine::outcome::{LaunchError, Outcome, Stage};
use crate::engine::spec::ServiceId;

/// The names of services, which the engine knows by number only.
pub trait Names {
    /// The name of that service, if there is one.
    fn service(&self, id: ServiceId) -> Option<&str>;
}

impl<T: AsRef<str>> Names for &[T] {
    fn service(&self, id: ServiceId) -> Option<&str> {
        self.get(id.0).map(AsRef::as_ref)
    }
}

/// Replaces `text` by the sentence for `notice`.
pub fn tell(notice: &Notice, names: &dyn Names, text: &mut String) -> Level {
    text.clear();
    match write_notice(text, notice, names) {
        Ok(level) => level,
        // Writing to a String cannot fail.
        Err(fmt::Error) => Level::Info,
    }
}

#[expect(clippy::too_many_lines, reason = "one arm a notice, to be read side by side")]
fn write_notice(text: &mut String, notice: &Notice, names: &dyn Names) -> Result<Level, fmt::Error> {
    let instance = |instance: InstanceId| InstanceName(instance, names);
    let of = |run: RunId| InstanceName(run.instance, names);
    let service = |id| ServiceName(id, names);
    Ok(match notice {
        Notice::Memory(notice) => memory::write(text, notice, names)?,
        Notice::Started { run, pid } => {
            write!(text, "{} started, pid {pid}", of(*run))?;
            Level::Info
        }
        Notice::Waiting { instance: who, on } => {
            write!(text, "{} waits for {}", instance(*who), service(*on))?;
            Level::Info
        }
        Notice::Ready { run, after } => {
            write!(text, "{} ready after {}", of(*run), duration(*after))?;
            Level::Info
        }
        Notice::NotReady { run, why } => {
            write!(text, "{} not ready: {why}", of(*run))?;
            Level::Warn
        }
        Notice::NotLive { run, why } => {
            write!(text, "{} not live, ending it: {why}", of(*run))?;
            Level::Warn
        }
        Notice::WatchdogBit { run, why } => {
            match why {
                Bite::Silent(silent_for) => write!(text, "{} said no WATCHDOG=1 within {}, ending it", of(*run), duration(*silent_for))?,
                Bite::Asked => write!(text, "{} asked to be ended (WATCHDOG=trigger)", of(*run))?,
                Bite::Stayed(stayed_for) => {
                    write!(text, "{} said STOPPING=1 {} ago and is still there, ending it", of(*run), duration(*stayed_for))?;
                }
            }
            Level::Warn
        }
        Notice::StartTimedOut { run, after, why } => {
            write!(text, "{} not ready within {} (`start_timeout`), ending it", of(*run), duration(*after))?;
            if let Some(why) = why {
                write!(text, ": {why}")?;
            }
            Level::Warn
        }
        Notice::Ended { run, outcome, uptime, clean, left_behind, asked } => {
            match outcome {
                Outcome::OomKilled => {
                    write!(text, "{} killed by the kernel's OOM killer (SIGKILL) after {}", of(*run), duration(*uptime))?;
                }
                Outcome::Exited(code) => write!(text, "{} exited with code {code} after {}", of(*run), duration(*uptime))?,
                Outcome::Signaled(signal) => {
                    write!(text, "{} killed by {signal} after {}", of(*run), duration(*uptime))?;
                    if !asked && is_sent(*signal) {
                        write!(text, " (not by firstmate)")?;
                    }
                }
                Outcome::SpawnFailed(error) => {
                    write!(text, "cannot start {}: {error}", of(*run))?;
                    if let Some(hint) = hint(error) {
                        write!(text, "; {hint}")?;
                    }
                }
            }
            match left_behind {
                0 => {}
                1 => write!(text, "; 1 process left behind")?,
                count => write!(text, "; {count} processes left behind")?,
            }
            if *outcome == Outcome::OomKilled {
                // Not "of the container": a pod's limit, or the machine's memory, ends a process in the same way.
                write!(text, "; no memory was left: raise the limit, or let the guard act sooner (`restart_above` in [memory])")?;
            }
            if *clean { Level::Info } else { Level::Warn }
        }
        Notice::Changed { service: id, what } => {
            write!(text, "{what} changed: {} restarts", service(*id))?;
            Level::Info
        }
        Notice::Restarting { instance: who, delay, failures, cause } => {
            write!(text, "{} restarts ", instance(*who))?;
            if delay.is_zero() {
                write!(text, "now")?;
            } else {
                write!(text, "in {}", duration(*delay))?;
            }
            let cause = match cause {
                Cause::Crash => "",
                Cause::Live => "not live",
                Cause::Watchdog => "watchdog",
                Cause::StartTimeout => "start timeout",
                Cause::Memory => "memory",
                Cause::Watch => "watch",
                // An operator's restart needs no words.
                Cause::Operator => "an operator's signal",
                Cause::Update => "update",
                Cause::Shutdown => "shutdown",
            };
            match (*failures, cause) {
                (0, "") => {}
                (0, cause) => write!(text, " ({cause})")?,
                (failures, "") => write!(text, " (failure {failures})")?,
                (failures, cause) => write!(text, " (failure {failures}, {cause})")?,
            }
            Level::Info
        }
        Notice::Completed { run, took } => {
            write!(text, "{} completed in {}", of(*run), duration(*took))?;
            Level::Info
        }
        Notice::NotRestarted { run, awaits_change } => {
            let why = if *awaits_change { " until files it watches change" } else { ": its `restart` policy asks for no further run" };
            write!(text, "{} stays down{why}", of(*run))?;
            Level::Info
        }
        Notice::GaveUp { instance: who, failures } => {
            write!(text, "{} given up after {}", instance(*who), FailedRuns(*failures))?;
            Level::Error
        }
        Notice::Blocked { instance: who, on } => {
            write!(text, "cannot start {}: it depends on {}, which has failed", instance(*who), service(*on))?;
            Level::Error
        }
        Notice::Stopping { run, signal, grace, cause } => {
            let cause = match cause {
                Cause::Crash => " (its main process is gone)",
                Cause::Live => " (not live)",
                Cause::Watchdog => " (watchdog)",
                Cause::StartTimeout => " (start timeout)",
                Cause::Memory => " (memory)",
                Cause::Watch => " (watch)",
                Cause::Operator => " (as asked)",
                Cause::Update => " (update)",
                Cause::Shutdown => "",
            };
            write!(text, "stopping {} with {signal}{cause}, SIGKILL after {}", of(*run), duration(*grace))?;
            Level::Info
        }
        Notice::Killing { run, after } => {
            write!(text, "sending SIGKILL to all of {}", of(*run))?;
            if !after.is_zero() {
                write!(text, ", which did not end within {}", duration(*after))?;
            }
            Level::Warn
        }
        Notice::Stopped { instance: who } => {
            write!(text, "{} stopped", instance(*who))?;
            Level::Info
        }
        Notice::RollBegun { service, instances } => operated::roll_begun(text, *service, *instances, names)?,
        Notice::RollTurn { at, left } => operated::roll_turn(text, *at, *left, names)?,
        Notice::Rolled { service } => operated::rolled(text, *service, names)?,
        Notice::RollStopped { at, why, left } => operated::roll_stopped(text, *at, *why, *left, names)?,
        Notice::Scaled { service, from, to } => operated::scaled(text, *service, *from, *to, names)?,
        Notice::Updating { added, removed, restarted, amended } => update::updating(text, *added, *removed, *restarted, *amended)?,
        Notice::Added { service } => update::added(text, *service, names)?,
        Notice::Removed { service } => update::removed(text, *service, names)?,
        Notice::Redefined { service, restarts } => update::changed(text, *service, *restarts, names)?,
        Notice::Updated => update::updated(text)?,
        Notice::ShuttingDown { why, within, drain } => {
            write!(text, "stopping everything within {}", duration(*within))?;
            if !drain.is_zero() {
                write!(text, ", serving on for {} first", duration(*drain))?;
            }
            write!(text, ": {}", Why(why, names))?;
            if is_asked(why) { Level::Info } else { Level::Error }
        }
        Notice::StillWaiting { run, pid, waited, of: grace } => {
            match pid {
                Some(pid) => write!(text, "waiting for {}, pid {pid}", of(*run))?,
                None => write!(text, "waiting for what is left of {}", of(*run))?,
            }
            write!(text, ", {} of {}", duration(*waited), duration(*grace))?;
            Level::Info
        }
        Notice::Over { why, code, abandoned } => {
            write!(text, "ended with code {code}: {}", Why(why, names))?;
            match abandoned {
                0 => {}
                1 => write!(text, "; 1 run has processes that even SIGKILL did not end")?,
                count => write!(text, "; {count} runs have processes that even SIGKILL did not end")?,
            }
            if *code == 0 && *abandoned == 0 { Level::Info } else { Level::Error }
        }
    })
}

/// Signals somebody sends, unlike those that tell a process of its own fault.
#[must_use]
pub fn is_sent(signal: Signal) -> bool {
    const FAULTS: [&str; 9] = ["ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "PIPE", "XFSZ", "SYS"];
    !FAULTS.iter().any(|name| Signal::parse(name) == Some(signal))
}

fn is_asked(why: &EndCause) -> bool {
    match why {
        EndCause::Asked(_) | EndCause::Killed => true,
        EndCause::NothingLeft { code } => *code == 0,
        EndCause::GaveUp { .. } | EndCause::EssentialEnded { .. } | EndCause::Blocked { .. } => false,
    }
}

pub(super) struct ServiceName<'a>(pub(super) ServiceId, pub(super) &'a dyn Names);

impl Display for ServiceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.service(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "service-{}", self.0.0),
        }
    }
}

pub(super) struct InstanceName<'a>(pub(super) InstanceId, pub(super) &'a dyn Names);

impl Display for InstanceName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ServiceName(self.0.service, self.1), self.0.number)
    }
}

struct FailedRuns(u32);

impl Display for FailedRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 failed run"),
            count => write!(f, "{count} consecutive failed runs"),
        }
    }
}

/// How a run ended, in a few words: `exit code 1`, `killed by SIGKILL`, `executing nginx: ENOENT (no such file or directory)`.
#[must_use]
pub fn outcome(outcome: &Outcome) -> impl Display + '_ {
    OutcomeText(outcome)
}

struct OutcomeText<'a>(&'a Outcome);

impl Display for OutcomeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Exited(code) => write!(f, "exit code {code}"),
            Outcome::Signaled(signal) => write!(f, "killed by {signal}"),
            Outcome::OomKilled => f.write_str("killed by the kernel's OOM killer"),
            Outcome::SpawnFailed(error) => error.fmt(f),
        }
    }
}

/// Why the whole stack is ending, as it stands in the last line and in `status`.
#[must_use]
pub fn why<'a>(cause: &'a EndCause, names: &'a dyn Names) -> impl Display + 'a {
    Why(cause, names)
}

struct Why<'a>(&'a EndCause, &'a dyn Names);

impl Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = |instance: &InstanceId| InstanceName(*instance, self.1);
        match self.0 {
            EndCause::Asked(ShutdownCause::Signal { signal, sender: None }) => write!(f, "{signal} received"),
            EndCause::Asked(ShutdownCause::Signal { signal, sender: Some(pid) }) => write!(f, "{signal} received from pid {pid}"),
            EndCause::Asked(ShutdownCause::Command) => f.write_str("asked to by `firstmate shutdown`"),
            EndCause::GaveUp { instance: who, outcome, failures } => {
                let runs = FailedRuns(*failures);
                write!(f, "essential {} was given up after {runs}, the last: {}", instance(who), OutcomeText(outcome))
            }
            EndCause::EssentialEnded { instance: who, outcome } => {
                write!(f, "essential {} ended and is not to be restarted: {}", instance(who), OutcomeText(outcome))
            }
            EndCause::Blocked { instance: who, on, outcome } => {
                let on = ServiceName(*on, self.1);
                write!(f, "essential {} cannot start, since {on} has failed: {}", instance(who), OutcomeText(outcome))
            }
            EndCause::NothingLeft { code: 0 } => f.write_str("every service has ended and none is to be restarted"),
            EndCause::NothingLeft { .. } => f.write_str("every service has ended, not all of them well, and none is to be restarted"),
            EndCause::Killed => f.write_str("killed at once, as a second Ctrl-C asks"),
        }
    }
}

/// An errno as people know it: `ENOENT (no such file or directory)`. See errno(3).
#[must_use]
pub fn errno_text(number: i32) -> impl Display {
    ErrnoText(number)
}

struct ErrnoText(i32);

impl Display for ErrnoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = Errno::from_raw(self.0);
        if errno == Errno::UnknownErrno {
            return write!(f, "errno {}", self.0);
        }
        write!(f, "{errno:?} (")?;
        let mut words = errno.desc().split(' ');
        // Small at the beginning as every message here, unless the word is a name: `I/O error`, `RFS specific error`.
        if let Some(first) = words.next() {
            let is_name = first.chars().skip(1).any(char::is_uppercase);
            if is_name {
                f.write_str(first)?;
            } else {
                f.write_str(&first.to_ascii_lowercase())?;
            }
        }
        for word in words {
            write!(f, " {word}")?;
        }
        f.write_char(')')
    }
}

/// How to mend a failed start, where that is known.
#[must_use]
pub fn hint(error: &LaunchError) -> Option<&'static str> {
    let errno = Errno::from_raw(error.errno);
    Some(match (error.stage, errno) {
        (_, Errno::EMFILE) => "raise the limit of open files firstmate is started with (`ulimit -n`)",
        (_, Errno::ENFILE) => "the machine has no more open files to give (fs.file-max)",
        (Stage::Terminal, Errno::ENOSPC) => "all terminals are in use (kernel.pty.max), or take out `tty`",
        (Stage::Terminal, _) => "mount devpts on /dev/pts with ptmxmode=0666, or take out `tty`",
        (Stage::Fork, Errno::EAGAIN) => "raise the container's limit of processes (`--pids-limit`, `ulimit -u`)",
        (Stage::Fork, Errno::ENOMEM) => "give the container more memory",
        (Stage::Limits, Errno::EPERM) => "a hard limit above firstmate's own needs CAP_SYS_RESOURCE; check `limits`",
        (Stage::Limits, _) => "check `limits`",
        (Stage::Nice, _) => "a lower value needs CAP_SYS_NICE; check `nice`",
        (Stage::OomScoreAdj, Errno::EACCES | Errno::EPERM) => "below firstmate's own it needs CAP_SYS_RESOURCE; check `oom_score_adj`",
        (Stage::OomScoreAdj, _) => "check `oom_score_adj`, and that /proc is mounted",
        (Stage::User, _) => "check `user`",
        (Stage::Group, _) => "check `group`, which is the Unix group; a name for several services goes into `groups`",
        (Stage::SetUser | Stage::SetGroup | Stage::SupplementaryGroups, Errno::EPERM) => {
            "only root may become somebody else: start firstmate as root, or take out `user` and `group`"
        }
        (Stage::BoundingSet, _) => {
            "firstmate needs CAP_SETPCAP for it; add that to the container, or set no_new_privs = true, with which nothing can be gained"
        }
        (Stage::Capabilities, _) => {
            "firstmate itself does not have it: start it as root and the container with `--cap-add`, or take it out of `capabilities`"
        }
        (Stage::NoNewPrivs, _) => "this needs Linux 3.5 or later",
        (Stage::WorkingDir, _) => "check `working_dir`",
        (Stage::Exec, Errno::ENOENT) => "check `command` and PATH, and that its interpreter is installed",
        (Stage::Exec, Errno::EACCES) => "check that the user may execute it (`chmod +x`)",
        (Stage::Exec, Errno::ENOEXEC) => "it is no program for this machine, or a script without `#!`",
        (Stage::Exec, _) => "check `command`",
        (
            Stage::Pipes
            | Stage::Fork
            | Stage::Session
            | Stage::Stdio
            | Stage::Signals
            | Stage::SetUser
            | Stage::SetGroup
            | Stage::SupplementaryGroups,
            _,
        ) => return None,
    })
}

/// The line that tells of lines that did not get through. `errno` is 0 when standard output was merely not read.
#[must_use]
pub fn dropped(lines: u64, unread_for: Duration, errno: i32) -> impl Display {
    Dropped { lines, unread_for, errno }
}

struct Dropped {
    lines: u64,
    unread_for: Duration,
    errno: i32,
}

impl Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines {
            1 => f.write_str("1 line dropped: ")?,
            lines => write!(f, "{lines} lines dropped: ")?,
        }
        if self.errno != 0 {
            write!(f, "cannot write standard output: {}", errno_text(self.errno))
        } else if self.unread_for >= Duration::from_secs(1) {
            write!(f, "standard output was not read for {}", duration(self.unread_for))
        } else {
            f.write_str("standard output is not read as fast as the services write")
        }
    }
}

/// A duration for people, cut off rather than rounded: `120 ms`, `1.5 s`, `43 s`, `4 min 3 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(duration: Duration) -> impl Display {
    DurationText(duration)
}

struct DurationText(Duration);

impl Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |f: &mut fmt::Formatter<'_>, large: u64, large_unit, small: u64, small_unit| match small {
            0 => write!(f, "{large} {large_unit}"),
            _ => write!(f, "{large} {large_unit} {small} {small_unit}"),
        };
        let seconds = self.0.as_secs();
        let tenth = self.0.subsec_millis() / 100;
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..10 if tenth > 0 => write!(f, "{seconds}.{tenth} s"),
            1..60 => write!(f, "{seconds} s"),
            60..3600 => two(f, seconds / 60, "min", seconds % 60, "s"),
            3600..86_400 => two(f, seconds / 3600, "h", seconds / 60 % 60, "min"),
            _ => two(f, seconds / 86_400, "d", seconds / 3600 % 24, "h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["web", "redis", "migrate"];
    const WEB: InstanceId = InstanceId { service: ServiceId(0), number: 1 };
    const REDIS: InstanceId = InstanceId { service: ServiceId(1), number: 1 };
    const MIGRATE: InstanceId = InstanceId { service: ServiceId(2), number: 1 };

    fn run(instance: InstanceId) -> RunId {
        RunId { instance, run: 3 }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn told(notices: &[Notice]) -> Vec<(Level, String)> {
        let mut text = String::from("what was there before");
        notices.iter().map(|notice| (tell(notice, &NAMES.as_slice(), &mut text), text.clone())).collect()
    }

    #[track_caller]
    fn says(notice: Notice, level: Level, text: &str) {
        assert_eq!(told(&[notice]), [(level, text.to_owned())]);
    }

    fn ended(instance: InstanceId, outcome: Outcome, clean: bool, left_behind: u32) -> Notice {
        Notice::Ended { run: run(instance), outcome, uptime: secs(243), clean, left_behind, asked: false }
    }

    #[test]
    fn starting() {
        says(Notice::Started { run: run(WEB), pid: 31 }, Level::Info, "web.1 started, pid 31");
        says(Notice::Waiting { instance: WEB, on: ServiceId(1) }, Level::Info, "web.1 waits for redis");
        says(Notice::Ready { run: run(WEB), after: millis(120) }, Level::Info, "web.1 ready after 120 ms");
        says(Notice::Completed { run: run(MIGRATE), took: millis(1250) }, Level::Info, "migrate.1 completed in 1.2 s");
        says(
            Notice::Blocked { instance: WEB, on: ServiceId(2) },
            Level::Error,
            "cannot start web.1: it depends on migrate, which has failed",
        );
        let stranger = InstanceId { service: ServiceId(9), number: 2 };
        says(Notice::Started { run: run(stranger), pid: 31 }, Level::Info, "service-9.2 started, pid 31");
    }

    #[test]
    fn probes() {
        let why = || "connect 127.0.0.1:80: refused".to_owned();
        says(Notice::NotReady { run: run(WEB), why: why() }, Level::Warn, "web.1 not ready: connect 127.0.0.1:80: refused");
        let bitten = |why| Notice::WatchdogBit { run: run(WEB), why };
        says(bitten(Bite::Silent(secs(30))), Level::Warn, "web.1 said no WATCHDOG=1 within 30 s, ending it");
        says(bitten(Bite::Asked), Level::Warn, "web.1 asked to be ended (WATCHDOG=trigger)");
        says(bitten(Bite::Stayed(secs(10))), Level::Warn, "web.1 said STOPPING=1 10 s ago and is still there, ending it");
        says(Notice::NotLive { run: run(WEB), why: why() }, Level::Warn, "web.1 not live, ending it: connect 127.0.0.1:80: refused");
        says(
            Notice::StartTimedOut { run: run(WEB), after: secs(60), why: Some(why()) },
            Level::Warn,
            "web.1 not ready within 1 min (`start_timeout`), ending it: connect 127.0.0.1:80: refused",
        );
        says(
            Notice::StartTimedOut { run: run(WEB), after: secs(5), why: None },
            Level::Warn,
            "web.1 not ready within 5 s (`start_timeout`), ending it",
        );
    }

    #[test]
    fn ends() {
        says(ended(WEB, Outcome::Exited(0), true, 0), Level::Info, "web.1 exited with code 0 after 4 min 3 s");
        says(ended(WEB, Outcome::Exited(1), false, 1), Level::Warn, "web.1 exited with code 1 after 4 min 3 s; 1 process left behind");
        says(
            ended(REDIS, Outcome::Signaled(Signal::KILL), false, 3),
            Level::Warn,
            "redis.1 killed by SIGKILL after 4 min 3 s (not by firstmate); 3 processes left behind",
        );
        let no_memory = "no memory was left: raise the limit, or let the guard act sooner (`restart_above` in [memory])";
        for (left_behind, more) in [(0, ""), (3, "; 3 processes left behind")] {
            let text = format!("redis.1 killed by the kernel's OOM killer (SIGKILL) after 4 min 3 s{more}; {no_memory}");
            says(ended(REDIS, Outcome::OomKilled, false, left_behind), Level::Warn, &text);
        }
        let segv = Signal::parse("SEGV").unwrap();
        says(ended(WEB, Outcome::Signaled(segv), false, 0), Level::Warn, "web.1 killed by SIGSEGV after 4 min 3 s");
        let rt = Signal::from_number(37).unwrap();
        says(ended(WEB, Outcome::Signaled(rt), false, 0), Level::Warn, "web.1 killed by SIGRTMIN+3 after 4 min 3 s (not by firstmate)");
    }

    #[test]
    fn a_signal_is_blamed_on_others_only_when_it_was_not_ours() {
        let killed = |asked| Notice::Ended {
            run: run(WEB),
            outcome: Outcome::Signaled(Signal::KILL),
            uptime: secs(243),
            clean: false,
            left_behind: 0,
            asked,
        };
        says(killed(true), Level::Warn, "web.1 killed by SIGKILL after 4 min 3 s");
        says(killed(false), Level::Warn, "web.1 killed by SIGKILL after 4 min 3 s (not by firstmate)");
    }

    #[test]
    fn failed_starts_name_stage_errno_and_mend() {
        for (stage, errno, detail, text) in [
            (
                Stage::WorkingDir,
                Errno::ENOENT as i32,
                "/srv/app",
                "changing directory to /srv/app: ENOENT (no such file or directory); check `working_dir`",
            ),
            (
                Stage::Exec,
                Errno::ENOENT as i32,
                "nginx",
                "executing nginx: ENOENT (no such file or directory); check `command` and PATH, and that its interpreter is installed",
            ),
            (
                Stage::Exec,
                Errno::EACCES as i32,
                "/srv/run.sh",
                "executing /srv/run.sh: EACCES (permission denied); check that the user may execute it (`chmod +x`)",
            ),
            (
                Stage::Exec,
                Errno::ENOEXEC as i32,
                "/srv/run.sh",
                "executing /srv/run.sh: ENOEXEC (exec format error); it is no program for this machine, or a script without `#!`",
            ),
            (Stage::Exec, Errno::EIO as i32, "/srv/run.sh", "executing /srv/run.sh: EIO (I/O error); check `command`"),
            (Stage::User, 0, "ww-data: not in /etc/passwd", "looking up user ww-data: not in /etc/passwd; check `user`"),
            (
                Stage::Group,
                0,
                "ww-data: not in /etc/group",
                "looking up group ww-data: not in /etc/group; check `group`, which is the Unix group; a name for several services goes into `groups`",
            ),
            (
                Stage::SetUser,
                Errno::EPERM as i32,
                "www-data",
                "changing to user www-data: EPERM (operation not permitted); \
                 only root may become somebody else: start firstmate as root, or take out `user` and `group`",
            ),
            (
                Stage::Fork,
                Errno::EAGAIN as i32,
                "",
                "creating its process: EAGAIN (try again); raise the container's limit of processes (`--pids-limit`, `ulimit -u`)",
            ),
            (Stage::Fork, Errno::ENOMEM as i32, "", "creating its process: ENOMEM (out of memory); give the container more memory"),
            (
                Stage::Pipes,
                Errno::EMFILE as i32,
                "",
                "creating its pipes: EMFILE (too many open files); \
                 raise the limit of open files firstmate is started with (`ulimit -n`)",
            ),
            (
                Stage::Pipes,
                Errno::ENFILE as i32,
                "",
                "creating its pipes: ENFILE (file table overflow); the machine has no more open files to give (fs.file-max)",
            ),
            (
                Stage::Limits,
                Errno::EPERM as i32,
                "nofile",
                "setting its limit nofile: EPERM (operation not permitted); \
                 a hard limit above firstmate's own needs CAP_SYS_RESOURCE; check `limits`",
            ),
            (Stage::Limits, Errno::EINVAL as i32, "nofile", "setting its limit nofile: EINVAL (invalid argument); check `limits`"),
            (
                Stage::Nice,
                Errno::EACCES as i32,
                "",
                "setting its nice value: EACCES (permission denied); a lower value needs CAP_SYS_NICE; check `nice`",
            ),
            (
                Stage::Capabilities,
                Errno::EPERM as i32,
                "NET_ADMIN",
                "keeping capability NET_ADMIN: EPERM (operation not permitted); firstmate itself does not have it: start it as root and the \
                 container with `--cap-add`, or take it out of `capabilities`",
            ),
            (Stage::Session, Errno::EPERM as i32, "", "creating its session: EPERM (operation not permitted)"),
            (Stage::Stdio, 99_999, "", "connecting its output: errno 99999"),
            (Stage::Signals, 0, "", "resetting its signals"),
        ] {
            let outcome = Outcome::SpawnFailed(LaunchError { stage, errno, detail: detail.to_owned() });
            says(ended(WEB, outcome, false, 0), Level::Warn, &format!("cannot start web.1: {text}"));
        }
    }

    #[test]
    fn an_errno_has_one_name() {
        let mut named = 0;
        for errno in 1..134 {
            let error = LaunchError { stage: Stage::Fork, errno, detail: String::new() }.to_string();
            // What the engine does not expect it shows as a number.
            if !error.ends_with(&format!(": errno {errno}")) {
                assert_eq!(error, format!("creating its process: {}", errno_text(errno)));
                named += 1;
            }
        }
        assert_eq!(named, 37);
    }

    #[test]
    fn restarts() {
        for (delay, failures, cause, text) in [
            (millis(500), 2, Cause::Crash, "web.1 restarts in 500 ms (failure 2)"),
            (Duration::ZERO, 1, Cause::Crash, "web.1 restarts now (failure 1)"),
            (Duration::ZERO, 0, Cause::Crash, "web.1 restarts now"),
            (secs(2), 3, Cause::Live, "web.1 restarts in 2 s (failure 3, not live)"),
            (secs(2), 3, Cause::Watchdog, "web.1 restarts in 2 s (failure 3, watchdog)"),
            (secs(2), 3, Cause::StartTimeout, "web.1 restarts in 2 s (failure 3, start timeout)"),
            (Duration::ZERO, 0, Cause::Memory, "web.1 restarts now (memory)"),
            (secs(2), 3, Cause::Memory, "web.1 restarts in 2 s (failure 3, memory)"),
            (Duration::ZERO, 0, Cause::Watch, "web.1 restarts now (watch)"),
            (millis(500), 1, Cause::Operator, "web.1 restarts in 500 ms (failure 1, an operator's signal)"),
            (Duration::ZERO, 0, Cause::Shutdown, "web.1 restarts now (shutdown)"),
        ] {
            says(Notice::Restarting { instance: WEB, delay, failures, cause }, Level::Info, text);
        }
        for (awaits_change, text) in [
            (false, "web.1 stays down: its `restart` policy asks for no further run"),
            (true, "web.1 stays down until files it watches change"),
        ] {
            says(Notice::NotRestarted { run: run(WEB), awaits_change }, Level::Info, text);
        }
        says(Notice::GaveUp { instance: WEB, failures: 10 }, Level::Error, "web.1 given up after 10 consecutive failed runs");
        says(Notice::GaveUp { instance: WEB, failures: 1 }, Level::Error, "web.1 given up after 1 failed run");
    }

    #[test]
    fn stops() {
        for (cause, text) in [
            (Cause::Shutdown, "stopping web.1 with SIGTERM, SIGKILL after 10 s"),
            (Cause::Operator, "stopping web.1 with SIGTERM (as asked), SIGKILL after 10 s"),
            (Cause::Live, "stopping web.1 with SIGTERM (not live), SIGKILL after 10 s"),
            (Cause::StartTimeout, "stopping web.1 with SIGTERM (start timeout), SIGKILL after 10 s"),
            (Cause::Memory, "stopping web.1 with SIGTERM (memory), SIGKILL after 10 s"),
            (Cause::Crash, "stopping web.1 with SIGTERM (its main process is gone), SIGKILL after 10 s"),
        ] {
            says(Notice::Stopping { run: run(WEB), signal: Signal::TERM, grace: secs(10), cause }, Level::Info, text);
        }
        says(
            Notice::Killing { run: run(WEB), after: secs(10) },
            Level::Warn,
            "sending SIGKILL to all of web.1, which did not end within 10 s",
        );
        says(Notice::Killing { run: run(WEB), after: Duration::ZERO }, Level::Warn, "sending SIGKILL to all of web.1");
        says(Notice::Stopped { instance: WEB }, Level::Info, "web.1 stopped");
        says(
            Notice::StillWaiting { run: run(WEB), pid: Some(31), waited: millis(7004), of: secs(10) },
            Level::Info,
            "waiting for web.1, pid 31, 7 s of 10 s",
        );
        says(
            Notice::StillWaiting { run: run(WEB), pid: None, waited: secs(1), of: secs(10) },
            Level::Info,
            "waiting for what is left of web.1, 1 s of 10 s",
        );
    }

    #[test]
    fn the_beginning_of_the_end() {
        let asked = |signal, sender| EndCause::Asked(ShutdownCause::Signal { signal, sender });
        says(
            Notice::ShuttingDown { why: asked(Signal::TERM, None), within: secs(8), drain: Duration::ZERO },
            Level::Info,
            "stopping everything within 8 s: SIGTERM received",
        );
        says(
            Notice::ShuttingDown { why: asked(Signal::INT, Some(7)), within: secs(25), drain: secs(5) },
            Level::Info,
            "stopping everything within 25 s, serving on for 5 s first: SIGINT received from pid 7",
        );
        says(
            Notice::ShuttingDown {
                why: EndCause::EssentialEnded { instance: WEB, outcome: Outcome::Exited(3) },
                within: secs(8),
                drain: Duration::ZERO,
            },
            Level::Error,
            "stopping everything within 8 s: essential web.1 ended and is not to be restarted: exit code 3",
        );
    }

    #[test]
    fn the_last_line_says_why_and_with_which_code() {
        let failed = LaunchError { stage: Stage::Exec, errno: Errno::ENOENT as i32, detail: "nginx".to_owned() };
        for (why, code, level, text) in [
            (
                EndCause::Asked(ShutdownCause::Signal { signal: Signal::TERM, sender: None }),
                0,
                Level::Info,
                "ended with code 0: SIGTERM received",
            ),
            (EndCause::Asked(ShutdownCause::Command), 0, Level::Info, "ended with code 0: asked to by `firstmate shutdown`"),
            (
                EndCause::GaveUp { instance: REDIS, outcome: Outcome::Signaled(Signal::KILL), failures: 10 },
                137,
                Level::Error,
                "ended with code 137: essential redis.1 was given up after 10 consecutive failed runs, the last: killed by SIGKILL",
            ),
            (
                EndCause::EssentialEnded { instance: REDIS, outcome: Outcome::OomKilled },
                137,
                Level::Error,
                "ended with code 137: essential redis.1 ended and is not to be restarted: killed by the kernel's OOM killer",
            ),
            (
                EndCause::EssentialEnded { instance: WEB, outcome: Outcome::Exited(0) },
                0,
                Level::Info,
                "ended with code 0: essential web.1 ended and is not to be restarted: exit code 0",
            ),
            (
                EndCause::Blocked { instance: WEB, on: ServiceId(2), outcome: Outcome::SpawnFailed(failed) },
                127,
                Level::Error,
                "ended with code 127: essential web.1 cannot start, since migrate has failed: \
                 executing nginx: ENOENT (no such file or directory)",
            ),
            (EndCause::NothingLeft { code: 0 }, 0, Level::Info, "ended with code 0: every service has ended and none is to be restarted"),
            (
                EndCause::NothingLeft { code: 4 },
                4,
                Level::Error,
                "ended with code 4: every service has ended, not all of them well, and none is to be restarted",
            ),
            (EndCause::Killed, 130, Level::Error, "ended with code 130: killed at once, as a second Ctrl-C asks"),
        ] {
            says(Notice::Over { why, code, abandoned: 0 }, level, text);
        }
        let stuck = |abandoned| Notice::Over { why: EndCause::Killed, code: 0, abandoned };
        let text = "ended with code 0: killed at once, as a second Ctrl-C asks";
        says(stuck(1), Level::Error, &format!("{text}; 1 run has processes that even SIGKILL did not end"));
        says(stuck(2), Level::Error, &format!("{text}; 2 runs have processes that even SIGKILL did not end"));
    }

    #[test]
    fn dropped_lines_name_the_reason() {
        assert_eq!(dropped(12, millis(3200), 0).to_string(), "12 lines dropped: standard output was not read for 3.2 s");
        assert_eq!(dropped(1, secs(90), 0).to_string(), "1 line dropped: standard output was not read for 1 min 30 s");
        assert_eq!(dropped(5, millis(10), 0).to_string(), "5 lines dropped: standard output is not read as fast as the services write");
        assert_eq!(
            dropped(5, secs(10), Errno::ENOSPC as i32).to_string(),
            "5 lines dropped: cannot write standard output: ENOSPC (no space left on device)"
        );
    }

    #[test]
    fn durations_are_short() {
        for (given, text) in [
            (Duration::ZERO, "0 ms"),
            (Duration::from_micros(999), "0 ms"),
            (millis(999), "999 ms"),
            (millis(1000), "1 s"),
            (millis(1999), "1.9 s"),
            (millis(9999), "9.9 s"),
            (millis(10_900), "10 s"),
            (secs(59), "59 s"),
            (secs(60), "1 min"),
            (secs(3599), "59 min 59 s"),
            (secs(3600), "1 h"),
            (secs(7500), "2 h 5 min"),
            (secs(86_400), "1 d"),
            (secs(100 * 3600), "4 d 4 h"),
        ] {
            assert_eq!(duration(given).to_string(), text);
        }
    }
}
