//! What the memory guard has to tell, as sentences.
//!
//! Names of processes and places of file systems are what others chose: they are quoted unless they are plain words, so that none can
//! forge a part of a sentence.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::Level;
use super::notice::{InstanceName, Names, ServiceName, duration};
use crate::engine::event::RunId;
use crate::engine::memory::{Act, Acted, Helpless, Limit, MemoryNotice, Process, Rule};
use crate::engine::size::{percent, size};
use crate::engine::status::{LimitSource, MemoryMethod};

/// Shares that are named; the rest is added up.
const NAMED: usize = 5;
/// A name longer than this is cut. The kernel keeps 15 bytes of a process's; see prctl(2), PR_SET_NAME.
const NAME_CHARS: usize = 64;
/// An end that is further away than this is nothing to reckon with.
const FAR: Duration = Duration::from_secs(86_400);
/// Slower than this is not growing: a page a second.
const STILL: u64 = 4096;

pub(super) fn write(text: &mut String, notice: &MemoryNotice, names: &dyn Names) -> Result<Level, fmt::Error> {
    Ok(match notice {
        MemoryNotice::Limit { limit, restart_above } => limit_found(text, limit.as_ref(), *restart_above)?,
        MemoryNotice::Readable(true) => {
            write!(text, "the container's memory can be read again: the memory guard is back at work")?;
            Level::Info
        }
        MemoryNotice::Readable(false) => {
            write!(
                text,
                "cannot read how much memory the container uses, so the memory guard does nothing; \
                 it needs the memory files below /sys/fs/cgroup, or /proc/meminfo"
            )?;
            Level::Warn
        }
        MemoryNotice::Method { service, method } => {
            let (how, level) = match method {
                MemoryMethod::Cgroup => ("exactly, from a cgroup of its own", Level::Info),
                MemoryMethod::Pss => ("by PSS: shared pages are divided among those that share them", Level::Info),
                MemoryMethod::PssAsUser => {
                    ("by PSS, read as its own user: shared pages are divided among those that share them", Level::Info)
                }
                MemoryMethod::Interval => {
                    ("between two bounds: what its processes see, and what the container's count leaves for it", Level::Info)
                }
                MemoryMethod::Rss => ("by RSS only: pages that its processes share are counted more than once", Level::Warn),
            };
            write!(text, "the memory of {} is known {how}", ServiceName(*service, names))?;
            level
        }
        MemoryNotice::Near { hard, limit, line, shares } => {
            write!(text, "memory comes near {}, where the guard acts: {}", percent(*line, *limit), InUse(*hard, *limit))?;
            write_shares(text, shares, names)?;
            Level::Info
        }
        MemoryNotice::Acted(acted) => {
            write_act(text, acted, names)?;
            Level::Warn
        }
        MemoryNotice::Helpless { why, hard, limit, shares } => {
            write!(text, "memory is short, {}, and no restart would help: ", InUse(*hard, *limit))?;
            let mend = match why {
                Helpless::Tmpfs { bytes, places } => {
                    write!(text, "{} are files in tmpfs or shared memory that no process holds", size(*bytes))?;
                    for (at, (place, bytes)) in places.iter().take(NAMED).enumerate() {
                        write!(text, "{}{} {}", if at == 0 { " (" } else { ", " }, Foreign(place), size(*bytes))?;
                    }
                    if !places.is_empty() {
                        text.push(')');
                    }
                    "remove files there, or raise the limit"
                }
                Helpless::Others { bytes } => {
                    write!(text, "{} belong to no service", size(*bytes))?;
                    "look for what was started beside firstmate, as by `docker exec`"
                }
                Helpless::NobodyGrew => {
                    write!(text, "no service has grown by enough")?;
                    "all together need more than `restart_above` allows: raise it, or the limit"
                }
                Helpless::Forbidden => {
                    write!(text, "the services that hold enough have `victim = \"never\"`")?;
                    "raise the limit"
                }
                Helpless::Unknown => {
                    write!(text, "how much each service holds cannot be known here")?;
                    "check that /proc is mounted, and not with hidepid"
                }
            };
            write_shares(text, shares, names)?;
            write!(text, "; {mend}")?;
            Level::Warn
        }
        MemoryNotice::Plateau { instance, bytes, at, of, own } => {
            let instance = InstanceName(*instance, names);
            write!(text, "{instance} is back at {} after its restart and grows no further: it needs so much", size(*bytes))?;
            // Against a line of an instance's own `at` is what it holds, which is above it.
            if *own {
                write!(text, ", more than its own line of {}; raise `restart_above` of its `memory`", size(*of))?;
            } else if at >= of {
                write!(text, ", more than the line of {}; raise `restart_above` in [memory]", size(*of))?;
            } else {
                write!(text, ", and the container is at {}; raise the limit, or `restart_above` in [memory]", OfAll(*at, *of))?;
            }
            write!(text, "; left alone until it grows")?;
            Level::Warn
        }
        MemoryNotice::GraceOver { run, hard, limit } => {
            write!(text, "no time is left for the grace period of {}: {}", InstanceName(run.instance, names), InUse(*hard, *limit))?;
            Level::Warn
        }
        MemoryNotice::Receded { hard, limit, after } => {
            write!(text, "memory is back below the line after {}: {}", duration(*after), InUse(*hard, *limit))?;
            Level::Info
        }
        MemoryNotice::OomKills { kills, among, limit } => {
            let what = if *kills == 1 { "1 process".to_owned() } else { format!("{kills} processes") };
            write!(text, "the kernel's OOM killer killed {what} in this container, ")?;
            match among.as_slice() {
                [] if *kills == 1 => write!(text, "not a service's main process")?,
                [] => write!(text, "none of them a service's main process")?,
                runs => {
                    write!(text, "perhaps ")?;
                    for (at, run) in runs.iter().take(NAMED).enumerate() {
                        write!(text, "{}{}", if at == 0 { "" } else { ", " }, InstanceName(run.instance, names))?;
                    }
                    match runs.len().saturating_sub(NAMED) {
                        0 => {}
                        more => write!(text, " and {more} more")?,
                    }
                    write!(text, ", ended by SIGKILL in the same moment")?;
                }
            }
            match limit {
                Some(limit) => {
                    write!(text, "; raise the limit ({}), or let the guard act sooner (`restart_above` in [memory])", size(*limit))?
                }
                None => write!(text, "; give the container more memory")?,
            }
            Level::Warn
        }
    })
}

fn limit_found(text: &mut String, limit: Option<&Limit>, restart_above: Option<u64>) -> Result<Level, fmt::Error> {
    let Some(limit) = limit else {
        write!(text, "no limit of memory is known, not even the machine's, so the memory guard does nothing; mount /proc")?;
        return Ok(Level::Warn);
    };
    let bytes = size(limit.bytes);
    let source = match limit.source {
        LimitSource::Configured => "as configured",
        LimitSource::CgroupV1 => "cgroup v1",
        LimitSource::CgroupV2 => "cgroup v2",
        LimitSource::EcsContainer => "the container's, from the ECS task metadata",
        LimitSource::EcsTask => "the task's, from the ECS task metadata",
        LimitSource::Machine => {
            write!(text, "no limit of memory is set, so the machine's {bytes} count: ")?;
            match restart_above {
                Some(line) => write!(text, "a service is restarted above {} ({})", size(line), percent(line, limit.bytes))?,
                None => write!(text, "the memory guard is off")?,
            }
            write!(
                text,
                "; set one for the container (docker run --memory, resources.limits.memory), \
                 or name the one that is hidden: --memory-limit, FIRSTMATE_MEMORY_LIMIT, `limit` in [memory]"
            )?;
            return Ok(Level::Info);
        }
    };
    write!(text, "the limit of memory is {bytes} ({source}")?;
    if !limit.place.is_empty() {
        write!(text, ", {}", Foreign(&limit.place))?;
    }
    match restart_above {
        Some(line) => write!(text, "); the memory guard acts above {} ({})", size(line), percent(line, limit.bytes))?,
        None => write!(text, "); the memory guard is off")?,
    }
    Ok(Level::Info)
}

fn write_act(text: &mut String, acted: &Acted, names: &dyn Names) -> fmt::Result {
    let instance = InstanceName(acted.run.instance, names);
    match acted.act {
        Act::Restart => write!(text, "restarting {instance} for its memory, ")?,
        Act::Kill => write!(text, "killing {instance} for its memory with SIGKILL, ")?,
        Act::Signal(signal) => write!(text, "sending {signal} to {instance} for its memory, ")?,
    }
    let line = percent(acted.line, acted.limit);
    match acted.rule {
        Rule::Held => write!(text, "above {line}")?,
        Rule::Own => write!(text, "above its own line of {}", size(acted.line))?,
        Rule::Hard => write!(text, "above the hard line of {line}")?,
        Rule::Forecast => {
            write!(text, "at this rate at the hard line of {line}")?;
            match until_line(acted) {
                Some(left) => write!(text, " in {}", duration(left))?,
                None => write!(text, " soon")?,
            }
        }
        Rule::Emergency if acted.hard >= acted.line => write!(text, "above the emergency line of {line}")?,
        Rule::Emergency => write!(text, "about to be above the emergency line of {line}")?,
    }
    if matches!(acted.rule, Rule::Held | Rule::Own) && !acted.above_for.is_zero() {
        write!(text, " for {}", duration(acted.above_for))?;
    }
    let how = match acted.method {
        MemoryMethod::Cgroup => "by its cgroup",
        MemoryMethod::Pss => "by PSS",
        MemoryMethod::PssAsUser => "by PSS as its user",
        MemoryMethod::Interval => "by bounds",
        MemoryMethod::Rss => "by RSS",
    };
    write!(text, ": it holds {} ({} of the limit, {how}), ", size(acted.bytes), percent(acted.bytes, acted.limit))?;
    match u64::try_from(acted.slope) {
        Ok(slope) if slope >= STILL => write!(text, "growing by {}/s", size(slope))?,
        Ok(_) | Err(_) => write!(text, "not growing at present")?,
    }
    write!(text, ", after {}; {}", duration(acted.uptime), InUse(acted.hard, acted.limit))?;
    if let Some(left) = acted.oom_in.filter(|left| *left < FAR) {
        write!(text, ", the kernel's OOM killer was about {} away", duration(left))?;
    }
    for (at, Process { pid, name, bytes }) in acted.top.iter().enumerate() {
        write!(text, "{} {} (pid {pid}) {}", if at == 0 { "; largest:" } else { "," }, Foreign(name), size(*bytes))?;
    }
    Ok(())
}

/// The line's share of the way to the end, at the rate that leads there.
fn until_line(acted: &Acted) -> Option<Duration> {
    let (whole, part) = (acted.limit.checked_sub(acted.hard)?, acted.line.saturating_sub(acted.hard));
    let nanos = acted.oom_in?.as_nanos().checked_mul(u128::from(part))?.checked_div(u128::from(whole))?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// `; web.1 201.3 MiB, redis.1 80 MiB, and 3 more with 12.4 MiB`.
fn write_shares(text: &mut String, shares: &[(RunId, u64)], names: &dyn Names) -> fmt::Result {
    for (at, (run, bytes)) in shares.iter().take(NAMED).enumerate() {
        write!(text, "{} {} {}", if at == 0 { ";" } else { "," }, InstanceName(run.instance, names), size(*bytes))?;
    }
    match shares.get(NAMED..) {
        None | Some([]) => Ok(()),
        Some(rest) => {
            let bytes = rest.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
            write!(text, ", and {} more with {}", rest.len(), size(bytes))
        }
    }
}

/// `385.2 MiB of 512 MiB (75.2%)`.
struct OfAll(u64, u64);

impl Display for OfAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({})", size(self.0), size(self.1), percent(self.0, self.1))
    }
}

/// `385.2 MiB of 512 MiB (75.2%) in use`.
struct InUse(u64, u64);

impl Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in use", OfAll(self.0, self.1))
    }
}

/// A name somebody else chose: as it is when it is one plain word, else in quotes, with everything escaped that is not to be seen.
struct Foreign<'a>(&'a str);

impl Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(NAME_CHARS).map_or(self.0.len(), |(end, _)| end);
        let name = self.0.get(..end).unwrap_or_default();
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:+@~%=\\".contains(c));
        if plain {
            f.write_str(name)?
        } else {
            write!(f, "{name:?}")?
        }
        if end < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Signal;
    use crate::engine::event::{InstanceId, Notice};
    use crate::engine::spec::ServiceId;
    use crate::observe::notice::tell;

    const NAMES: [&str; 2] = ["web", "redis"];
    const MIB: u64 = 1 << 20;

    fn id(service: usize, number: u16) -> InstanceId {
        InstanceId { service: ServiceId(service), number }
    }

    fn run(service: usize, number: u16) -> RunId {
        RunId { instance: id(service, number), run: 3 }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[track_caller]
    fn says(notice: MemoryNotice, level: Level, expected: &str) {
        let mut text = "what was there before".to_owned();
        assert_eq!((tell(&Notice::Memory(notice), &NAMES.as_slice(), &mut text), text.as_str()), (level, expected));
    }

    fn process(pid: u32, name: &str, bytes: u64) -> Process {
        Process { pid, name: name.to_owned(), bytes }
    }

    fn acted() -> Acted {
        Acted {
            run: run(0, 1),
            act: Act::Restart,
            rule: Rule::Held,
            bytes: 301 * MIB + 300_000,
            method: MemoryMethod::Pss,
            slope: 20_761_804,
            hard: 385 * MIB + 250_000,
            limit: 512 * MIB,
            line: 384 * MIB,
            above_for: secs(10),
            oom_in: Some(Duration::from_millis(6_400)),
            top: vec![process(31, "php", 280 * MIB + 200_000), process(40, "php-fpm: pool", 20 * MIB)],
            uptime: secs(243),
        }
    }

    fn acts(acted: Acted, text: &str) {
        says(MemoryNotice::Acted(Box::new(acted)), Level::Warn, text);
    }

    #[test]
    fn an_act_says_all_there_is() {
        acts(
            acted(),
            "restarting web.1 for its memory, above 75% for 10 s: it holds 301.2 MiB (58.8% of the limit, by PSS), growing by 19.7 MiB/s, \
             after 4 min 3 s; 385.2 MiB of 512 MiB (75.2%) in use, the kernel's OOM killer was about 6.4 s away; \
             largest: php (pid 31) 280.1 MiB, \"php-fpm: pool\" (pid 40) 20 MiB",
        );
        acts(
            Acted {
                act: Act::Kill,
                rule: Rule::Emergency,
                method: MemoryMethod::Interval,
                hard: 490 * MIB,
                line: 486 * MIB + 400_000,
                oom_in: Some(Duration::from_millis(12)),
                top: Vec::new(),
                ..acted()
            },
            "killing web.1 for its memory with SIGKILL, above the emergency line of 95%: it holds 301.2 MiB (58.8% of the limit, by bounds), \
             growing by 19.7 MiB/s, after 4 min 3 s; 490 MiB of 512 MiB (95.7%) in use, the kernel's OOM killer was about 12 ms away",
        );
        acts(
            Acted { act: Act::Signal(Signal::HUP), slope: -5, oom_in: None, top: Vec::new(), ..acted() },
            "sending SIGHUP to web.1 for its memory, above 75% for 10 s: it holds 301.2 MiB (58.8% of the limit, by PSS), \
             not growing at present, after 4 min 3 s; 385.2 MiB of 512 MiB (75.2%) in use",
        );
    }

    #[test]
    fn each_rule_has_its_words() {
        let told = |acted: Acted| {
            let mut text = String::new();
            write_act(&mut text, &acted, &NAMES.as_slice()).unwrap();
            text.split(": ").next().unwrap().trim_start_matches("restarting web.1 for its memory, ").to_owned()
        };
        assert_eq!(told(Acted { above_for: Duration::ZERO, ..acted() }), "above 75%");
        assert_eq!(told(Acted { above_for: secs(150), ..acted() }), "above 75% for 2 min 30 s");
        assert_eq!(told(Acted { rule: Rule::Own, line: 200 * MIB, ..acted() }), "above its own line of 200 MiB for 10 s");
        let hard_line = 471 * MIB + 41_943;
        assert_eq!(told(Acted { rule: Rule::Hard, line: hard_line, ..acted() }), "above the hard line of 92%");
        assert_eq!(told(Acted { rule: Rule::Emergency, line: hard_line, ..acted() }), "about to be above the emergency line of 92%");
        // 41 of the 82 MiB to the limit lie before the line.
        let forecast = Acted { rule: Rule::Forecast, hard: 430 * MIB, line: 471 * MIB, oom_in: Some(secs(4)), ..acted() };
        assert_eq!(told(forecast.clone()), "at this rate at the hard line of 92% in 2 s");
        assert_eq!(told(Acted { oom_in: None, ..forecast.clone() }), "at this rate at the hard line of 92% soon");
        assert_eq!(told(Acted { hard: 512 * MIB, ..forecast.clone() }), "at this rate at the hard line of 92% soon");
        assert_eq!(told(Acted { hard: 600 * MIB, oom_in: Some(Duration::MAX), ..forecast }), "at this rate at the hard line of 92% soon");
    }

    #[test]
    fn a_process_cannot_forge_a_part_of_the_sentence() {
        let named = |name: &str| Foreign(name).to_string();
        assert_eq!(named("php-fpm8.2"), "php-fpm8.2");
        assert_eq!(named("kworker/0:1"), "kworker/0:1");
        assert_eq!(named(""), "\"\"");
        assert_eq!(named("a (pid 1) 9 GiB"), "\"a (pid 1) 9 GiB\"");
        assert_eq!(named("\x1b[31mred\n"), "\"\\u{1b}[31mred\\n\"");
        assert_eq!(named("\u{9b}2J\u{202e}\u{200b}\u{2028}"), "\"\\u{9b}2J\\u{202e}\\u{200b}\\u{2028}\"");
        assert_eq!(named("\"quoted\""), "\"\\\"quoted\\\"\"");
        assert_eq!(named(&"x".repeat(65)), format!("{}...", "x".repeat(64)));
        assert_eq!(named(&"é".repeat(64)), format!("\"{}\"", "é".repeat(64)));
    }

    #[test]
    fn limits_say_where_they_came_from() {
        let limit = |source, place: &str| Some(Limit { bytes: 512 * MIB, source, place: place.to_owned(), growth_max: 4 << 30 });
        let line = Some(384 * MIB);
        let acts = "the memory guard acts above 384 MiB (75%)";
        for (source, place, text) in [
            (LimitSource::Configured, "", "as configured"),
            (LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "cgroup v1, /sys/fs/cgroup/memory"),
            (LimitSource::CgroupV2, "/sys/fs/cgroup/a b\n", "cgroup v2, \"/sys/fs/cgroup/a b\\n\""),
            (
                LimitSource::EcsContainer,
                "http://169.254.170.2/v4/x",
                "the container's, from the ECS task metadata, http://169.254.170.2/v4/x",
            ),
            (LimitSource::EcsTask, "", "the task's, from the ECS task metadata"),
        ] {
            let text = format!("the limit of memory is 512 MiB ({text}); {acts}");
            says(MemoryNotice::Limit { limit: limit(source, place), restart_above: line }, Level::Info, &text);
        }
        says(
            MemoryNotice::Limit { limit: limit(LimitSource::CgroupV2, ""), restart_above: None },
            Level::Info,
            "the limit of memory is 512 MiB (cgroup v2); the memory guard is off",
        );
        let how = "; set one for the container (docker run --memory, resources.limits.memory), or name the one that is hidden: \
                   --memory-limit, FIRSTMATE_MEMORY_LIMIT, `limit` in [memory]";
        says(
            MemoryNotice::Limit { limit: limit(LimitSource::Machine, ""), restart_above: line },
            Level::Info,
            &format!("no limit of memory is set, so the machine's 512 MiB count: a service is restarted above 384 MiB (75%){how}"),
        );
        says(
            MemoryNotice::Limit { limit: limit(LimitSource::Machine, ""), restart_above: None },
            Level::Info,
            &format!("no limit of memory is set, so the machine's 512 MiB count: the memory guard is off{how}"),
        );
        says(
            MemoryNotice::Limit { limit: None, restart_above: None },
            Level::Warn,
            "no limit of memory is known, not even the machine's, so the memory guard does nothing; mount /proc",
        );
    }

    #[test]
    fn what_can_be_known() {
        says(
            MemoryNotice::Readable(false),
            Level::Warn,
            "cannot read how much memory the container uses, so the memory guard does nothing; \
             it needs the memory files below /sys/fs/cgroup, or /proc/meminfo",
        );
        says(MemoryNotice::Readable(true), Level::Info, "the container's memory can be read again: the memory guard is back at work");
        for (method, level, how) in [
            (MemoryMethod::Cgroup, Level::Info, "exactly, from a cgroup of its own"),
            (MemoryMethod::Pss, Level::Info, "by PSS: shared pages are divided among those that share them"),
            (MemoryMethod::PssAsUser, Level::Info, "by PSS, read as its own user: shared pages are divided among those that share them"),
            (
                MemoryMethod::Interval,
                Level::Info,
                "between two bounds: what its processes see, and what the container's count leaves for it",
            ),
            (MemoryMethod::Rss, Level::Warn, "by RSS only: pages that its processes share are counted more than once"),
        ] {
            says(MemoryNotice::Method { service: ServiceId(1), method }, level, &format!("the memory of redis is known {how}"));
        }
    }

    #[test]
    fn near_the_line_everybody_is_named() {
        let near = |shares| MemoryNotice::Near { hard: 352 * MIB, limit: 512 * MIB, line: 384 * MIB, shares };
        let text = "memory comes near 75%, where the guard acts: 352 MiB of 512 MiB (68.8%) in use";
        says(near(Vec::new()), Level::Info, text);
        says(near(vec![(run(0, 1), 200 * MIB), (run(1, 1), 80 * MIB)]), Level::Info, &format!("{text}; web.1 200 MiB, redis.1 80 MiB"));
        let many = (1..=7).map(|number| (run(0, number), 10 * MIB)).collect();
        let first = "web.1 10 MiB, web.2 10 MiB, web.3 10 MiB, web.4 10 MiB, web.5 10 MiB";
        says(near(many), Level::Info, &format!("{text}; {first}, and 2 more with 20 MiB"));
    }

    #[test]
    fn no_restart_would_help() {
        let helpless = |why| MemoryNotice::Helpless { why, hard: 400 * MIB, limit: 512 * MIB, shares: vec![(run(0, 1), 20 * MIB)] };
        let places = vec![("/dev/shm".to_owned(), 300 * MIB), ("/tmp x".to_owned(), 5 * MIB)];
        for (why, cause, mend) in [
            (
                Helpless::Tmpfs { bytes: 310 * MIB, places },
                "310 MiB are files in tmpfs or shared memory that no process holds (/dev/shm 300 MiB, \"/tmp x\" 5 MiB)",
                "remove files there, or raise the limit",
            ),
            (
                Helpless::Tmpfs { bytes: 310 * MIB, places: Vec::new() },
                "310 MiB are files in tmpfs or shared memory that no process holds",
                "remove files there, or raise the limit",
            ),
            (
                Helpless::Others { bytes: 310 * MIB },
                "310 MiB belong to no service",
                "look for what was started beside firstmate, as by `docker exec`",
            ),
            (
                Helpless::NobodyGrew,
                "no service has grown by enough",
                "all together need more than `restart_above` allows: raise it, or the limit",
            ),
            (Helpless::Forbidden, "the services that hold enough have `victim = \"never\"`", "raise the limit"),
            (Helpless::Unknown, "how much each service holds cannot be known here", "check that /proc is mounted, and not with hidepid"),
        ] {
            let text =
                format!("memory is short, 400 MiB of 512 MiB (78.1%) in use, and no restart would help: {cause}; web.1 20 MiB; {mend}");
            says(helpless(why), Level::Warn, &text);
        }
    }

    #[test]
    fn a_plateau_says_what_to_raise() {
        let plateau = |at, of, own| MemoryNotice::Plateau { instance: id(0, 2), bytes: 310 * MIB, at, of, own };
        let back = "web.2 is back at 310 MiB after its restart and grows no further: it needs so much";
        for (notice, text) in [
            (
                plateau(400 * MIB, 512 * MIB, false),
                "and the container is at 400 MiB of 512 MiB (78.1%); raise the limit, or `restart_above` in [memory]",
            ),
            (plateau(310 * MIB, 300 * MIB, true), "more than its own line of 300 MiB; raise `restart_above` of its `memory`"),
            (plateau(310 * MIB, 300 * MIB, false), "more than the line of 300 MiB; raise `restart_above` in [memory]"),
        ] {
            says(notice, Level::Warn, &format!("{back}, {text}; left alone until it grows"));
        }
    }

    #[test]
    fn back_below_the_line() {
        says(
            MemoryNotice::Receded { hard: 201 * MIB, limit: 512 * MIB, after: secs(14) },
            Level::Info,
            "memory is back below the line after 14 s: 201 MiB of 512 MiB (39.3%) in use",
        );
    }

    #[test]
    fn a_grace_period_that_memory_ends() {
        says(
            MemoryNotice::GraceOver { run: run(0, 1), hard: 487 * MIB, limit: 512 * MIB },
            Level::Warn,
            "no time is left for the grace period of web.1: 487 MiB of 512 MiB (95.1%) in use",
        );
    }

    #[test]
    fn what_the_kernel_killed_is_not_over_claimed() {
        let killed = |kills, among, limit| MemoryNotice::OomKills { kills, among, limit };
        let raise = "raise the limit (512 MiB), or let the guard act sooner (`restart_above` in [memory])";
        for (kills, among, limit, text) in [
            (1, Vec::new(), Some(512 * MIB), format!("1 process in this container, not a service's main process; {raise}")),
            (3, Vec::new(), None, "3 processes in this container, none of them a service's main process; give the container more memory".to_owned()),
            (
                2,
                vec![run(0, 1), run(1, 1)],
                Some(512 * MIB),
                format!("2 processes in this container, perhaps web.1, redis.1, ended by SIGKILL in the same moment; {raise}"),
            ),
            (1, vec![run(0, 1)], None, "1 process in this container, perhaps web.1, ended by SIGKILL in the same moment; give the container more memory".to_owned()),
            (
                7,
                (1..=7).map(|number| run(0, number)).collect(),
                None,
                "7 processes in this container, perhaps web.1, web.2, web.3, web.4, web.5 and 2 more, ended by SIGKILL in the same moment; \
                 give the container more memory"
                    .to_owned(),
            ),
        ] {
            says(killed(kills, among, limit), Level::Warn, &format!("the kernel's OOM killer killed {text}"));
        }
    }
}
