//! `examples/monitoring`: every metric that the dashboard and the alert rules name is one that the real binary shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::firstmate::{Firstmate, until};
use crate::readers::PROMTOOL;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// Whatever in this text looks like a name of ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let words = words.filter(|word| word.starts_with("firstmate_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

/// The values that the label `cause` has in this text, in a series or in an expression.
fn causes(text: &str) -> BTreeSet<String> {
    let after = |sign: &str| text.split(sign).skip(1).filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>();
    let values = [after("cause=\""), after("cause=~\"")].concat();
    values.iter().flat_map(|value| value.split('|')).map(str::to_owned).collect()
}

/// A cgroup of its own in one hierarchy of v1, removed at the end, when nobody is in it any more.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(controller: &str, files: &[(&str, &str)]) -> Self {
        let directory = PathBuf::from(format!("/sys/fs/cgroup/{controller}/firstmate-monitoring-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap_or_else(|error| {
            panic!("cannot make {}: {error}; this test needs root and the {controller} controller of cgroup v1", directory.display())
        });
        for (file, text) in files {
            std::fs::write(directory.join(file), text).unwrap();
        }
        Self(directory)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        until("the cgroup is empty", || std::fs::remove_dir(&self.0).map_err(|error| error.to_string()));
    }
}

#[test]
fn every_metric_of_the_examples_is_a_real_one() {
    // With everything there can be: a limit of processor time and of processes, a probe, and a service that has ended.
    let cpu = Cgroup::new("cpu", &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]);
    let pids = Cgroup::new("pids", &[("pids.max", "100")]);
    let services = r#"
[services.busy]
command = "while :; do :; done"
ready = { exec = "true" }
[services.ended]
command = "false"
restart = "never"
essential = false
"#;
    let doors = [cpu.0.join("cgroup.procs"), pids.0.join("cgroup.procs")];
    let firstmate = Firstmate::start_within(services, &doors);
    let page = until("every value is there", || {
        let page = firstmate.body("/metrics", "");
        let throttled = page.contains("\nfirstmate_container_cpu_cfs_throttled_periods_total ")
            && !page.contains("\nfirstmate_container_cpu_cfs_throttled_periods_total 0\n");
        let memory = page.contains("\nfirstmate_service_memory_bytes{") && page.contains("\nfirstmate_container_memory_hard_bytes ");
        let probed = page.contains("\nfirstmate_service_probe_passed{");
        if throttled && memory && probed && page.contains("\nfirstmate_service_last_exit_code{") { Ok(page) } else { Err(page) }
    });
    assert!(page.contains("\nfirstmate_container_pids_limit 100\n"), "{page}");
    let real: BTreeSet<String> = page.lines().filter(|line| !line.starts_with('#')).flat_map(names).collect();
    for file in ["dashboard.json", "firstmate.rules.yml", "firstmate.rules.test.yml"] {
        let named = names(&read(file));
        let unknown: Vec<_> = named.difference(&real).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which is not in\n{page}");
    }
    // A cause that is misspelt, or one that nobody thought of, is an alert that never comes.
    let told = causes(&page);
    assert!(told.len() > 4, "{page}");
    for file in ["firstmate.rules.yml", "firstmate.rules.test.yml", "dashboard.json"] {
        let named = causes(&read(file).replace("\\\"", "\""));
        assert!(named.is_subset(&told), "{file} names {named:?}, and there are {told:?}");
    }
    let rules = causes(&read("firstmate.rules.yml"));
    assert_eq!(
        told.difference(&rules).collect::<Vec<_>>(),
        ["oom", "watch"],
        "the one has a counter and an alert of its own, the other is a developer's wish"
    );
    // And the manual names all of them.
    let manual = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http.md")).unwrap();
    let missing: Vec<_> = real.difference(&names(&manual)).cloned().collect();
    assert!(missing.is_empty(), "docs/http.md does not tell of {missing:?}");
    let untold: Vec<_> = names(&manual).difference(&real).filter(|name| *name != "firstmate_").cloned().collect();
    assert!(untold.is_empty(), "docs/http.md tells of {untold:?}, which are not there");
    let row = manual.lines().find(|line| line.starts_with("| `firstmate_service_restarts_total`")).unwrap();
    let words = row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned);
    assert_eq!(words.collect::<BTreeSet<_>>(), told, "{row}");
    drop(firstmate);
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    // Grafana takes a new id for one that has none, and asks for the data source by its variable.
    assert!(dashboard["id"].is_null() && dashboard["title"] == "firstmate" && dashboard["schemaVersion"].as_u64() >= Some(36));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["type"], "datasource");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty() && !panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for column in side("x")..side("x") + side("w") {
            for line in side("y")..side("y") + side("h") {
                assert!(column < 24 && taken.insert((column, line)), "panels lie upon one another at {column}, {line}");
            }
        }
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{target}");
            // As Grafana asks, with its variables filled in: promtool reads it as the expression of a rule.
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$name", ".*");
            assert!(!expression.contains('$'), "{expression}");
            let rules = serde_json::json!({"groups": [{"name": "x", "rules": [{"record": "x", "expr": expression}]}]});
            let file = std::env::temp_dir().join(format!("firstmate-dashboard-{}.yml", std::process::id()));
            std::fs::write(&file, rules.to_string()).unwrap();
            let output = Command::new(PROMTOOL).args(["check", "rules"]).arg(&file).output().expect("run `tests/setup metrics`");
            std::fs::remove_file(&file).unwrap();
            assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_as_they_say() {
    for words in
        [["check", "rules", "firstmate.rules.yml"], ["test", "rules", "firstmate.rules.test.yml"], ["check", "config", "prometheus.yml"]]
    {
        let output = Command::new(PROMTOOL).args(words).current_dir(example("")).output().expect("run `tests/setup metrics`");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {}: {text}", words.join(" "));
    }
    // Every alert says what happened and what to do, and how bad it is.
    let rules = read("firstmate.rules.yml");
    let count = |what: &str| rules.matches(what).count();
    assert!(count("- alert: ") > 10);
    for part in ["\n        expr: ", "\n        labels: {severity: ", "\n          summary: ", "\n          description: "] {
        assert_eq!(count(part), count("- alert: "), "{part}");
    }
}
