//! `/metrics` of the real binary over real processes.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::firstmate::{Firstmate, until};
use crate::readers::{parsed, promtool};

const OPEN: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

/// Every sample of the page by name and labels.
fn samples(firstmate: &Firstmate) -> BTreeMap<String, f64> {
    let text = firstmate.body("/metrics", "");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// Until this is true of the page; the values are measured anew once a second.
fn until_page(firstmate: &Firstmate, what: &str, holds: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
    until(what, || {
        let page = samples(firstmate);
        if holds(&page) { Ok(page) } else { Err(format!("{page:#?}")) }
    })
}

#[test]
fn a_real_page_is_read_by_everybody() {
    let firstmate = Firstmate::start("[services.web]\ncommand = \"sleep infinity\"\ninstances = 2\n");
    firstmate.wait_until_ready();
    let text = firstmate.body("/metrics", "");
    assert_eq!(promtool(&["check", "metrics"], &text), (Some(0), String::new(), String::new()), "{text}");
    let open = firstmate.body("/metrics", OPEN);
    let (code, series, complaint) = parsed("OpenMetrics", &open);
    assert_eq!(code, Some(0), "{complaint}\n{open}");
    let (code, old, complaint) = parsed("Prometheus", &text);
    assert_eq!(code, Some(0), "{complaint}\n{text}");
    let names = |series: &str| series.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&series), names(&old));
}

#[test]
fn what_instances_use_and_write_is_counted() {
    // Each run leaves a little behind: a child that was waited for, an orphan that firstmate waits for, its own time; and writes a line
    // on each stream. The second service does nothing at all.
    let script = "burn() { i=0; while [ $i -lt 150000 ]; do i=$((i + 1)); done; }\n(burn)\nburn\necho out\necho err >&2\nexit 3\n";
    let services = r#"
[services.busy]
command = "/bin/sh busy.sh"
essential = false
backoff = { initial = "50ms", factor = 1.0, max = "50ms", jitter = 0.0 }
give_up_after = "never"
[services.idle]
command = "sleep infinity"
"#;
    let firstmate = Firstmate::start_beside(services, &[("busy.sh", script)]);
    let page = until_page(&firstmate, "it has burned for a while, over several runs", |page| {
        page.get(r#"firstmate_service_cpu_seconds_total{name="busy",number="1"}"#).is_some_and(|cpu| *cpu > 0.5)
            && page[r#"firstmate_service_restarts_total{name="busy",number="1",cause="crash"}"#] >= 2.0
    });
    assert_eq!(page[r#"firstmate_service_last_exit_code{name="busy",number="1"}"#], 3.0);
    assert!(page[r#"firstmate_service_cpu_seconds_total{name="idle",number="1"}"#] < 0.2, "{page:#?}");
    for stream in ["stdout", "stderr"] {
        let lines = page[&format!(r#"firstmate_service_log_lines_total{{name="busy",number="1",stream="{stream}"}}"#)];
        let dropped = page[&format!(r#"firstmate_service_log_dropped_lines_total{{name="busy",number="1",stream="{stream}"}}"#)];
        let runs = page[r#"firstmate_service_restarts_total{name="busy",number="1",cause="crash"}"#];
        assert!((runs..=runs + 1.0).contains(&lines), "{lines} lines on {stream} in {runs} runs");
        assert_eq!(dropped, 0.0);
        assert_eq!(page[&format!(r#"firstmate_service_log_lines_total{{name="idle",number="1",stream="{stream}"}}"#)], 0.0);
    }
    // It never goes down, whoever dies in between.
    let cpu = |page: &BTreeMap<String, f64>| page[r#"firstmate_service_cpu_seconds_total{name="busy",number="1"}"#];
    let began = cpu(&page);
    let last = Cell::new(began);
    until_page(&firstmate, "it burns on", |page| {
        let now = cpu(page);
        assert!(now >= last.replace(now), "{now} after more");
        now > began + 0.5
    });
}

#[test]
fn firstmate_and_its_container_are_measured() {
    // A parent that does not wait for its child.
    let firstmate = Firstmate::start("[services.careless]\ncommand = \"sh -c 'sleep 0 & exec sleep infinity'\"\n");
    firstmate.wait_until_ready();
    let page = until_page(&firstmate, "the zombie is seen", |page| page["firstmate_container_zombies"] == 1.0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", firstmate.pid)).unwrap();
    let kilobytes = |key: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let resident = page["process_resident_memory_bytes"] / 1024.0 / kilobytes("VmRSS:");
    assert!((0.5..2.0).contains(&resident), "{resident}");
    assert!((0.5..2.0).contains(&(page["process_virtual_memory_bytes"] / 1024.0 / kilobytes("VmSize:"))));
    let fds = std::fs::read_dir(format!("/proc/{}/fd", firstmate.pid)).unwrap().count();
    let fds = u32::try_from(fds).unwrap();
    assert!((f64::from(fds) - page["process_open_fds"]).abs() < 4.0, "{fds}: {page:#?}");
    assert!(page["process_max_fds"] >= page["process_open_fds"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 120.0..now).contains(&page["process_start_time_seconds"]));
    assert!((0.0..60.0).contains(&page["process_cpu_seconds_total"]));
    for (series, value) in [("firstmate_log_blocked", 0.0), ("firstmate_log_dropped_lines_total", 0.0), ("firstmate_ready", 1.0)] {
        assert_eq!(page[series], value, "{series}");
    }
    assert!(page["firstmate_machine_cpu_steal_seconds_total"] >= 0.0);
}
