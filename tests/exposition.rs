//! `/metrics` before those that read it strictly: promtool, and the OpenMetrics parser of Python's client.
//!
//! `tests/setup metrics` installs both. Each is shown to say no as well, so that its yes is worth something.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use firstmate::engine::status::Status;
use firstmate::observe::metrics::{Exposition, render};

const PROMTOOL: &str = "/var/cache/firstmate/promtool";
/// Reads a page and prints its series, sorted.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as prometheus
parse = {'OpenMetrics': openmetrics, 'Prometheus': prometheus}[sys.argv[1]].text_string_to_metric_families
for family in parse(sys.stdin.read()):
    for sample in family.samples:
        print(sample.name, sorted(sample.labels.items()), float(sample.value))
";

/// Everything there can be; nothing but what there must be; and what nobody would call a service.
fn statuses() -> [Status; 3] {
    let text = r#"{"version":"0.1.0","pid":1,"uptime_ms":250000,"started_unix_ms":1798761599007,"phase":"running","ready":true,"live":true,
        "started":true,"memory":{"limit_bytes":268435456,"limit_source":"cgroup-v2","hard_bytes":134217728,"restart_above_bytes":201326592,
        "oom_kills":4,"acts":{"held":1,"forecast":2,"hard":3,"emergency":4,"own":5}},"services":[
        {"name":"web","kind":"service","essential":true,"ready":true,"instances":[
            {"name":"web.1","state":"running","ready":true,"pid":31,"uptime_ms":243005,"run":16,
             "restarts":{"total":15,"crash":5,"live":1,"start_timeout":2,"memory":7,"oom":3},
             "memory":{"bytes":104857600,"at_least_bytes":1,"at_most_bytes":2,"method":"pss","percent":39.1,"age_ms":5}},
            {"name":"web.2","state":"backoff","ready":false,"run":1,"restarts":{"total":0,"crash":0,"live":0,"start_timeout":0}}]}]}"#;
    let full: Status = serde_json::from_str(text).unwrap();
    let bare = Status { memory: None, started_unix_ms: None, services: Vec::new(), ..full.clone() };
    let mut hostile = full.clone();
    for service in &mut hostile.services {
        "a\"} 1\nb\\{\u{e4}".clone_into(&mut service.name);
    }
    [full, bare, hostile]
}

/// Exit code, standard output and error of a program that is given this text.
fn read_by(program: &mut Command, text: &str) -> (Option<i32>, String, String) {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!("cannot run {}: {error}; `tests/setup metrics` installs it", program.get_program().display());
    });
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn promtool_has_nothing_to_say() {
    let check = |text: &str| read_by(Command::new(PROMTOOL).args(["check", "metrics"]), text);
    for status in statuses() {
        let text = render(&status, Exposition::Prometheus);
        assert_eq!(check(&text), (Some(0), String::new(), String::new()), "{text}");
    }
    let (code, _, complaint) = check(&render(&statuses()[0], Exposition::Prometheus).replace("oom_kills_total", "oom_kills"));
    assert_eq!(code, Some(3), "{complaint}");
}

#[test]
fn both_formats_are_parsed_to_the_same_series() {
    let parse = |format: &str, text: &str| read_by(Command::new("/usr/bin/python3").args(["-c", PARSER, format]), text);
    for status in statuses() {
        let [open, old] = [Exposition::OpenMetrics, Exposition::Prometheus].map(|exposition| render(&status, exposition));
        let (code, series, complaint) = parse("OpenMetrics", &open);
        assert_eq!(code, Some(0), "{complaint}\n{open}");
        let samples = open.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(series.lines().count(), samples, "{series}");
        assert_eq!(parse("Prometheus", &old), (Some(0), series, String::new()), "{old}");
    }
    let open = render(&statuses()[0], Exposition::OpenMetrics);
    for broken in [
        open.replace("# EOF\n", ""),
        open.replace("firstmate_oom_kills_total", "firstmate_oom_kills"),
        open.replace(" seconds\n", " bytes\n"),
    ] {
        assert_ne!(broken, open);
        assert_eq!(parse("OpenMetrics", &broken).0, Some(1), "{broken}");
    }
}
