//! `/metrics` before those that read it strictly: promtool, and the OpenMetrics parser of Python's client.
//!
//! `tests/setup metrics` installs both. Each is shown to say no as well, so that its yes is worth something.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

#[path = "monitoring/readers.rs"]
mod readers;

use std::collections::BTreeMap;
use std::time::Duration;

use firstmate::engine::status::Status;
use firstmate::observe::metrics::{Exposition, Lines, Measured, OfContainer, OfInstance, OfLog, OfProcess, render};
use readers::{parsed, promtool};

/// Everything there can be; nothing but what there must be; and what nobody would call a service.
fn statuses() -> [Status; 3] {
    let text = r#"{"version":"0.1.0","pid":1,"uptime_ms":250000,"started_unix_ms":1798761599007,"phase":"running","ready":true,"live":true,
        "started":true,"memory":{"limit_bytes":268435456,"limit_source":"cgroup-v2","hard_bytes":134217728,"restart_above_bytes":201326592,
        "oom_kills":4,"acts":{"held":1,"forecast":2,"hard":3,"emergency":4,"own":5}},"services":[
        {"name":"web","kind":"service","essential":true,"ready":true,"instances":[
            {"name":"web.1","state":"running","ready":true,"pid":31,"uptime_ms":243005,"run":16,
             "restarts":{"total":15,"crash":5,"live":1,"start_timeout":2,"memory":7,"oom":3},
             "memory":{"bytes":104857600,"at_least_bytes":1,"at_most_bytes":2,"method":"pss","percent":39.1,"age_ms":5},
             "ready_probe":{"successes":40,"failures":2,"last_passed":true,"last_took_us":900,"total_took_us":1040900},
             "live_probe":{"successes":0,"failures":3,"last_passed":false,"last_took_us":2000000,"total_took_us":6000000}},
            {"name":"web.2","state":"backoff","ready":false,"run":1,"restarts":{"total":0,"crash":0,"live":0,"start_timeout":0}}]}]}"#;
    let full: Status = serde_json::from_str(text).unwrap();
    let bare = Status { memory: None, started_unix_ms: None, services: Vec::new(), ..full.clone() };
    let mut hostile = full.clone();
    for service in &mut hostile.services {
        "a\"} 1\nb\\{\u{e4}".clone_into(&mut service.name);
    }
    [full, bare, hostile]
}

/// Everything that can be measured.
fn measured() -> Measured {
    let web = OfInstance {
        cpu: Some(Duration::from_millis(61_230)),
        stdout: Lines { read: 12, dropped: 3 },
        stderr: Lines { read: 4, dropped: 0 },
    };
    Measured {
        instances: BTreeMap::from([("web.1".to_owned(), web)]),
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

#[test]
fn promtool_has_nothing_to_say() {
    let check = |text: &str| promtool(&["check", "metrics"], text);
    for status in statuses() {
        let text = render(&status, &measured(), Exposition::Prometheus);
        assert_eq!(check(&text), (Some(0), String::new(), String::new()), "{text}");
    }
    let (code, _, complaint) = check(&render(&statuses()[0], &measured(), Exposition::Prometheus).replace("oom_kills_total", "oom_kills"));
    assert_eq!(code, Some(3), "{complaint}");
}

#[test]
fn both_formats_are_parsed_to_the_same_series() {
    for status in statuses() {
        let [open, old] = [Exposition::OpenMetrics, Exposition::Prometheus].map(|exposition| render(&status, &measured(), exposition));
        let (code, series, complaint) = parsed("OpenMetrics", &open);
        assert_eq!(code, Some(0), "{complaint}\n{open}");
        let samples = open.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(series.lines().count(), samples, "{series}");
        assert_eq!(parsed("Prometheus", &old), (Some(0), series, String::new()), "{old}");
    }
    let open = render(&statuses()[0], &measured(), Exposition::OpenMetrics);
    for broken in [
        open.replace("# EOF\n", ""),
        open.replace("firstmate_oom_kills_total", "firstmate_oom_kills"),
        open.replace(" seconds\n", " bytes\n"),
    ] {
        assert_ne!(broken, open);
        assert_eq!(parsed("OpenMetrics", &broken).0, Some(1), "{broken}");
    }
}
