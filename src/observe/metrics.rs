//! `/metrics`: the status as Prometheus reads it, in its own text format 0.0.4 and in OpenMetrics 1.0.0.
//!
//! The series are the same in both; only the lines about them differ. An instance is `name="web",number="1"` and not `instance="web.1"`: Prometheus gives
//! every series an `instance` of its own, and in Kubernetes often a `service`, and would rename ours. Base units; what is not known is left out, not 0.
//! Nothing a process may choose, such as its name, is in here.

mod measured;

use std::fmt::{Display, Write as _};

pub use measured::{Lines, Measured, OfContainer, OfInstance, OfLog, OfProcess};

use crate::engine::status::{InstanceMemory, InstanceStatus, LimitSource, MemoryMethod, ProbeStatus, Restarts, StateName, Status};

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Info,
}

/// The whole page.
#[must_use]
pub fn render(status: &Status, measured: &Measured, exposition: Exposition) -> String {
    let mut page = Page { text: String::with_capacity(4096), exposition };
    page.family("firstmate_build", Kind::Info, "", "What runs here.");
    page.sample("firstmate_build_info", &[("version", &status.version)], 1);
    for (name, help, value) in [
        ("firstmate_ready", "Whether the stack may take work, as /readyz says.", status.ready),
        ("firstmate_live", "Whether the stack need not be replaced, as /livez says.", status.live),
        ("firstmate_started", "Whether the stack has come up once, as /startupz says.", status.started),
    ] {
        page.alone(name, Kind::Gauge, "", help, u8::from(value));
    }
    services(&mut page, status, measured);
    memory(&mut page, status);
    measured::container(&mut page, &measured.container);
    measured::log(&mut page, &measured.log, status.log_blocked_because.is_some());
    measured::own(&mut page, &measured.own, status.started_unix_ms);
    if exposition == Exposition::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

fn services(page: &mut Page, status: &Status, measured: &Measured) {
    let instances: Vec<([Label<'_>; 2], &InstanceStatus)> = status
        .services
        .iter()
        .flat_map(|service| {
            service.instances.iter().map(|instance| {
                let number = instance.name.rsplit_once('.').map_or("", |(_, number)| number);
                ([("name", service.name.as_str()), ("number", number)], instance)
            })
        })
        .collect();

    page.family("firstmate_service_up", Kind::Gauge, "", "Whether the instance has a process.");
    for (who, instance) in &instances {
        page.sample("firstmate_service_up", who, u8::from(instance.pid.is_some()));
    }
    page.family("firstmate_service_ready", Kind::Gauge, "", "Whether the instance may take work.");
    for (who, instance) in &instances {
        page.sample("firstmate_service_ready", who, u8::from(instance.ready));
    }
    probes(page, &instances);
    page.family("firstmate_service_state", Kind::Gauge, "", "1 for the state the instance is in, 0 for the others.");
    for ([name, number], instance) in &instances {
        for (state, word) in STATES {
            page.sample("firstmate_service_state", &[*name, *number, ("state", word)], u8::from(instance.state == state));
        }
    }
    page.family("firstmate_service_restarts", Kind::Counter, "", "How often firstmate has started the instance again by itself, by cause.");
    for ([name, number], instance) in &instances {
        for (cause, count) in by_cause(&instance.restarts) {
            page.sample("firstmate_service_restarts_total", &[*name, *number, ("cause", cause)], count);
        }
    }
    if instances.iter().any(|(_, instance)| instance.last_exit_code.is_some()) {
        let name = "firstmate_service_last_exit_code";
        page.family(
            name,
            Kind::Gauge,
            "",
            "How the last run ended, as a shell says it: 128 and the signal, 126 or 127 if it could not be started.",
        );
        for (who, instance) in &instances {
            if let Some(code) = instance.last_exit_code {
                page.sample(name, who, code);
            }
        }
    }
    let began = |instance: &InstanceStatus| {
        let since_start = status.uptime_ms.saturating_sub(instance.uptime_ms?);
        Some(status.started_unix_ms?.saturating_add(since_start))
    };
    if instances.iter().any(|(_, instance)| began(instance).is_some()) {
        let name = "firstmate_service_start_time_seconds";
        page.family(name, Kind::Gauge, "seconds", "When the present run began, since 1970.");
        for (who, instance) in &instances {
            if let Some(at_ms) = began(instance) {
                page.sample(name, who, Seconds(at_ms));
            }
        }
    }
    if instances.iter().any(|(_, instance)| instance.memory.is_some()) {
        let name = "firstmate_service_memory_bytes";
        page.family(name, Kind::Gauge, "bytes", "What the instance and all its processes hold, as last looked at, by how it is known.");
        for ([service, number], instance) in &instances {
            if let Some(InstanceMemory { bytes, method, .. }) = instance.memory {
                page.sample(name, &[*service, *number, ("method", method_word(method))], bytes);
            }
        }
    }
    let measured = |instance: &InstanceStatus| measured.instances.get(&instance.name);
    let cpu = |instance: &InstanceStatus| measured(instance)?.cpu;
    if instances.iter().any(|(_, instance)| cpu(instance).is_some()) {
        let help = "CPU time of all runs of the instance, with all its processes, those that have ended included.";
        page.family("firstmate_service_cpu_seconds", Kind::Counter, "seconds", help);
        for (who, instance) in &instances {
            if let Some(cpu) = cpu(instance) {
                page.sample("firstmate_service_cpu_seconds_total", who, Seconds::from(cpu));
            }
        }
    }
    if instances.iter().any(|(_, instance)| measured(instance).is_some()) {
        let help = "Lines the instance has written, by stream.";
        lines(page, "firstmate_service_log_lines", help, &instances, measured, |lines| lines.read);
        let help = "Those of its lines that were dropped, since nobody read firstmate's own output.";
        lines(page, "firstmate_service_log_dropped_lines", help, &instances, measured, |lines| lines.dropped);
    }
}

/// Of the instances that have been asked.
fn probes(page: &mut Page, instances: &[([Label<'_>; 2], &InstanceStatus)]) {
    let asked: Vec<([Label<'_>; 3], ProbeStatus)> = instances
        .iter()
        .flat_map(|([name, number], instance)| {
            let probes = [("ready", instance.ready_probe), ("live", instance.live_probe)];
            probes.into_iter().filter_map(|(which, probe)| Some(([*name, *number, ("probe", which)], probe?)))
        })
        .collect();
    if asked.is_empty() {
        return;
    }
    page.family("firstmate_service_probe_passed", Kind::Gauge, "", "Whether the last answer to the probe passed.");
    for (who, probe) in &asked {
        page.sample("firstmate_service_probe_passed", who, u8::from(probe.last_passed));
    }
    page.family(
        "firstmate_service_probe_answers",
        Kind::Counter,
        "",
        "Answers to the probe over all runs, a question without one included.",
    );
    for ([name, number, which], probe) in &asked {
        for (result, count) in [("passed", probe.successes), ("failed", probe.failures)] {
            page.sample("firstmate_service_probe_answers_total", &[*name, *number, *which, ("result", result)], count);
        }
    }
    let help = "How long the answers to the probe took, added up.";
    page.family("firstmate_service_probe_seconds", Kind::Counter, "seconds", help);
    for (who, probe) in &asked {
        page.sample("firstmate_service_probe_seconds_total", who, Micros(probe.total_took_us));
    }
}

fn lines<'a>(
    page: &mut Page,
    name: &str,
    help: &str,
    instances: &[([Label<'_>; 2], &InstanceStatus)],
    measured: impl Fn(&InstanceStatus) -> Option<&'a OfInstance>,
    count: fn(&Lines) -> u64,
) {
    page.family(name, Kind::Counter, "", help);
    let sample = format!("{name}_total");
    for ([service, number], instance) in instances {
        let Some(OfInstance { stdout, stderr, .. }) = measured(instance) else { continue };
        for (stream, lines) in [("stdout", stdout), ("stderr", stderr)] {
            page.sample(&sample, &[*service, *number, ("stream", stream)], count(lines));
        }
    }
}

fn memory(page: &mut Page, status: &Status) {
    let Some(memory) = &status.memory else { return };
    if let Some(hard) = memory.hard_bytes {
        let name = "firstmate_container_memory_hard_bytes";
        page.family(name, Kind::Gauge, "bytes", "Memory of the container that cannot be taken back without swapping or killing.");
        page.sample(name, &[], hard);
    }
    let name = "firstmate_container_memory_limit_bytes";
    page.family(name, Kind::Gauge, "bytes", "The limit in force, by where it came from.");
    page.sample(name, &[("source", source_word(memory.limit_source))], memory.limit_bytes);
    if let Some(line) = memory.restart_above_bytes {
        let name = "firstmate_container_memory_restart_above_bytes";
        page.family(name, Kind::Gauge, "bytes", "The memory guard acts above it; absent when the guard is off.");
        page.sample(name, &[], line);
    }
    page.family("firstmate_guard_acts", Kind::Counter, "", "What the memory guard has done, by the rule it followed.");
    let acts = memory.acts;
    for (rule, count) in
        [("held", acts.held), ("forecast", acts.forecast), ("hard", acts.hard), ("emergency", acts.emergency), ("own", acts.own)]
    {
        page.sample("firstmate_guard_acts_total", &[("rule", rule)], count);
    }
    let help = "Whether memory is above the guard's hard line and no restart would help, as the check memory of /readyz says.";
    page.alone("firstmate_guard_helpless", Kind::Gauge, "", help, u8::from(memory.helpless));
    page.family("firstmate_oom_kills", Kind::Counter, "", "Processes of the container that the OOM killer of the kernel has killed.");
    page.sample("firstmate_oom_kills_total", &[], memory.oom_kills);
}

const STATES: [(StateName, &str); 9] = [
    (StateName::Stopped, "stopped"),
    (StateName::Waiting, "waiting"),
    (StateName::Starting, "starting"),
    (StateName::Running, "running"),
    (StateName::Stopping, "stopping"),
    (StateName::Backoff, "backoff"),
    (StateName::Completed, "completed"),
    (StateName::Exited, "exited"),
    (StateName::Failed, "failed"),
];

/// Every restart once, so that their sum is the total.
fn by_cause(restarts: &Restarts) -> [(&'static str, u32); 7] {
    [
        ("crash", restarts.crash.saturating_sub(restarts.oom)),
        ("oom", restarts.oom),
        ("live", restarts.live),
        ("watchdog", restarts.watchdog),
        ("start-timeout", restarts.start_timeout),
        ("memory", restarts.memory),
        ("watch", restarts.watch),
    ]
}

const fn method_word(method: MemoryMethod) -> &'static str {
    match method {
        MemoryMethod::Cgroup => "cgroup",
        MemoryMethod::Pss => "pss",
        MemoryMethod::PssAsUser => "pss-as-user",
        MemoryMethod::Interval => "interval",
        MemoryMethod::Rss => "rss",
    }
}

const fn source_word(source: LimitSource) -> &'static str {
    match source {
        LimitSource::Configured => "configured",
        LimitSource::CgroupV1 => "cgroup-v1",
        LimitSource::CgroupV2 => "cgroup-v2",
        LimitSource::EcsContainer => "ecs-container",
        LimitSource::EcsTask => "ecs-task",
        LimitSource::Machine => "machine",
    }
}

type Label<'a> = (&'static str, &'a str);

struct Page {
    text: String,
    exposition: Exposition,
}

// Writing into a String cannot fail.
impl Page {
    /// The lines before a family's samples. `help` has no backslash and no line feed.
    fn family(&mut self, name: &str, kind: Kind, unit: &str, help: &str) {
        let (suffix, word) = match (self.exposition, kind) {
            (_, Kind::Gauge) => ("", "gauge"),
            (Exposition::Prometheus, Kind::Counter) => ("_total", "counter"),
            (Exposition::Prometheus, Kind::Info) => ("_info", "gauge"),
            (Exposition::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Exposition::OpenMetrics, Kind::Info) => ("", "info"),
        };
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}");
        let _ = writeln!(self.text, "# TYPE {name}{suffix} {word}");
        if self.exposition == Exposition::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    /// A family of one sample without labels.
    fn alone(&mut self, name: &str, kind: Kind, unit: &str, help: &str, value: impl Display) {
        self.family(name, kind, unit, help);
        let suffix = match kind {
            Kind::Gauge => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        self.text.push_str(name);
        self.sample(suffix, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Milliseconds as seconds.
struct Seconds(u64);

/// Microseconds, shown in seconds.
#[derive(Clone, Copy)]
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::engine::status::{GuardActs, MemoryStatus, Phase, ServiceStatus};

    fn instance(name: &str, state: StateName) -> InstanceStatus {
        InstanceStatus {
            name: name.to_owned(),
            state,
            ready: state == StateName::Running,
            pid: (state == StateName::Running).then_some(31),
            uptime_ms: (state == StateName::Running).then_some(243_005),
            run: 1,
            restarts: Restarts::default(),
            why: Some("php\n-fpm\"".to_owned()),
            last_outcome: Some("exit 1".to_owned()),
            last_exit_code: (state == StateName::Backoff).then_some(137),
            says: None,
            memory: None,
            ready_probe: (state == StateName::Running).then_some(ProbeStatus {
                successes: 40,
                failures: 2,
                last_passed: true,
                last_took_us: 900,
                total_took_us: 1_040_900,
            }),
            live_probe: None,
        }
    }

    fn service(name: &str, instances: Vec<InstanceStatus>) -> ServiceStatus {
        ServiceStatus {
            name: name.to_owned(),
            kind: "service".to_owned(),
            essential: true,
            ready: true,
            reason: None,
            groups: Vec::new(),
            instances_in_file: None,
            rolling: None,
            instances,
        }
    }

    fn status() -> Status {
        let mut web = instance("web.1", StateName::Running);
        web.restarts = Restarts { total: 19, crash: 5, live: 1, watchdog: 0, start_timeout: 2, memory: 7, oom: 3, watch: 4 };
        web.memory = Some(InstanceMemory {
            bytes: 104_857_600,
            at_least_bytes: 1,
            at_most_bytes: 2,
            method: MemoryMethod::PssAsUser,
            percent: 39.1,
            restart_above_bytes: None,
            age_ms: 5,
        });
        Status {
            version: "0.1.0".to_owned(),
            pid: 1,
            uptime_ms: 250_000,
            started_unix_ms: Some(1_798_761_599_007),
            file: None,
            phase: Phase::Running,
            ready: true,
            live: true,
            started: false,
            stopping_because: None,
            log_blocked_because: None,
            memory: Some(MemoryStatus {
                limit_bytes: 268_435_456,
                limit_source: LimitSource::CgroupV1,
                limit_place: "/sys/fs/cgroup/memory".to_owned(),
                hard_bytes: Some(134_217_728),
                restart_above_bytes: Some(201_326_592),
                above_for_ms: None,
                oom_kills: 4,
                acts: GuardActs { held: 1, forecast: 2, hard: 3, emergency: 4, own: 5 },
                helpless: false,
                why: None,
            }),
            services: vec![service("web", vec![web, instance("web.2", StateName::Backoff)])],
        }
    }

    fn measured() -> Measured {
        let web = OfInstance {
            cpu: Some(Duration::from_millis(61_230)),
            stdout: Lines { read: 12, dropped: 3 },
            stderr: Lines { read: 4, dropped: 0 },
        };
        Measured {
            instances: BTreeMap::from([("web.1".to_owned(), web), ("web.2".to_owned(), OfInstance::default())]),
            container: OfContainer {
                throttling: Some((200, 50, Duration::from_millis(2_500))),
                pids: Some(17),
                pids_limit: Some(512),
                zombies: Some(1),
                stolen: Some(Duration::from_millis(8_900)),
            },
            log: OfLog { dropped: Some(5), queued_bytes: Some(0) },
            own: OfProcess {
                cpu: Some(Duration::from_millis(1_090)),
                open_fds: Some(12),
                max_fds: Some(1024),
                virtual_bytes: Some(12_345_344),
                resident_bytes: Some(2_345_984),
            },
        }
    }

    fn golden(name: &str, text: &str) {
        let path = format!("{}/src/observe/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("FIRSTMATE_BLESS").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}: FIRSTMATE_BLESS=1 writes it anew");
    }

    #[test]
    fn the_text_format_to_the_byte() {
        golden("metrics.prometheus.txt", &render(&status(), &measured(), Exposition::Prometheus));
    }

    #[test]
    fn openmetrics_to_the_byte() {
        golden("metrics.openmetrics.txt", &render(&status(), &measured(), Exposition::OpenMetrics));
    }

    /// What identifies a series, with its value.
    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn both_formats_have_the_same_series_and_each_once() {
        let (old, open) = (render(&status(), &measured(), Exposition::Prometheus), render(&status(), &measured(), Exposition::OpenMetrics));
        assert_eq!(samples(&old), samples(&open));
        let mut names: Vec<&str> = samples(&old).iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(open.ends_with("# EOF\n") && !old.contains("# EOF"));
    }

    #[test]
    fn restarts_add_up_to_the_total() {
        let text = render(&status(), &measured(), Exposition::Prometheus);
        let sum = samples(&text)
            .iter()
            .filter_map(|line| line.strip_prefix("firstmate_service_restarts_total{name=\"web\",number=\"1\"")?.rsplit_once(' '))
            .map(|(_, count)| count.parse::<u32>().unwrap())
            .sum::<u32>();
        assert_eq!(sum, 19);
        assert!(text.contains("cause=\"crash\"} 2\n") && text.contains("cause=\"oom\"} 3\n"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut status = status();
        status.memory = None;
        status.started_unix_ms = None;
        status.services[0].instances[0].memory = None;
        for instance in &mut status.services[0].instances {
            instance.last_exit_code = None;
        }
        let text = render(&status, &Measured::default(), Exposition::OpenMetrics);
        for absent in ["process_", "_cpu_", "_pids", "_zombies", "_lines", "_queued", "_exit_code"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        for absent in ["memory", "oom", "guard", "start_time"] {
            assert!(!text.contains(&format!("firstmate_{absent}")) && !text.contains(&format!("service_{absent}")), "{absent}: {text}");
        }
        let mut status = self::status();
        let memory = status.memory.as_mut().unwrap();
        (memory.hard_bytes, memory.restart_above_bytes) = (None, None);
        let text = render(&status, &measured(), Exposition::Prometheus);
        assert!(!text.contains("hard_bytes") && !text.contains("restart_above"), "{text}");
        assert!(text.contains("\nfirstmate_oom_kills_total 4\n"));
    }

    #[test]
    fn a_hostile_name_stays_within_its_label() {
        let mut status = status();
        status.services = vec![service("a\"} 1\nb\\{", vec![instance("a\"} 1\nb\\{.1", StateName::Failed)])];
        let text = render(&status, &measured(), Exposition::Prometheus);
        assert!(text.contains("\nfirstmate_service_up{name=\"a\\\"} 1\\nb\\\\{\",number=\"1\"} 0\n"), "{text}");
        assert!(text.lines().all(|line| ["firstmate_", "process_", "# "].iter().any(|start| line.starts_with(start))), "{text}");
    }

    #[test]
    fn no_reason_and_no_place_is_shown() {
        for exposition in [Exposition::Prometheus, Exposition::OpenMetrics] {
            let text = render(&status(), &measured(), exposition);
            assert!(!text.contains("fpm") && !text.contains("exit 1") && !text.contains("/sys"), "{text}");
        }
    }
}
