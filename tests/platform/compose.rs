//! `examples/compose.yaml`: what the Compose specification takes and Docker would still do wrong.
//!
//! Meanings and defaults: the Compose specification, the Dockerfile reference's HEALTHCHECK, `docker run --help`.

use std::time::Duration;

use firstmate::config::values::{parse_duration, parse_size};
use serde_json::{Value, json};

use super::break_it::{Break, each_is_noticed, remove, said, set};
use super::promise::{BINARY, CONFIG, KEPT, Promise, WEB, WRITABLE};
use super::tools;

const FILE: &str = "examples/compose.yaml";
/// `firstmate check` gives an answer by then, if only "no".
const CHECK: Duration = Duration::from_secs(2);

fn duration(value: &Value) -> Option<Duration> {
    parse_duration(value.as_str()?).ok()
}

fn health(service: &Value, complain: &mut impl FnMut(String)) {
    let health = &service["healthcheck"];
    if health["test"] != json!(["CMD", BINARY, "check", "ready"]) {
        complain(format!("the health check is {} and not CMD {BINARY} check ready", health["test"]));
    }
    let field = |field: &str| duration(&health[field]);
    let (Some(interval), Some(timeout), Some(start)) = (field("interval"), field("timeout"), field("start_period")) else {
        complain("healthcheck must say interval, timeout and start_period".to_owned());
        return;
    };
    if timeout <= CHECK {
        complain(format!("healthcheck.timeout must leave `firstmate check` its own {CHECK:?}"));
    }
    if interval < timeout {
        complain("healthcheck.timeout is longer than the interval".to_owned());
    }
    if start.is_zero() {
        complain("healthcheck.start_period must leave time to start".to_owned());
    }
    if health["retries"].as_u64().is_none_or(|retries| retries < 1) {
        complain("healthcheck.retries must be at least 1".to_owned());
    }
}

/// What a list of `PLACE:OPTIONS` or `VOLUME:PLACE` has writable.
fn places(list: &Value, place: usize) -> Vec<String> {
    let lines = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    let writable = lines.filter(|line| !line.ends_with(":ro"));
    writable.filter_map(|line| line.split(':').nth(place).map(str::to_owned)).collect()
}

fn project(value: &Value, promise: &Promise) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |complaint| complaints.push(complaint);
    let service = &value["services"]["badges"];
    health(service, &mut complain);
    // Docker's own patience is 10 s.
    let grace = duration(&service["stop_grace_period"]).unwrap_or(Duration::from_secs(10));
    if grace <= promise.spec.stop_timeout {
        complain(format!("stop_grace_period {grace:?} is not above firstmate's own {:?}", promise.spec.stop_timeout));
    }
    let memory = service["mem_limit"].as_str().and_then(|size| parse_size(size).ok());
    if memory.is_none() {
        complain("without mem_limit the guard goes by the machine's memory".to_owned());
    }
    if service["memswap_limit"] != service["mem_limit"] {
        complain("memswap_limit must be mem_limit, or as much again may be swapped out".to_owned());
    }
    let user = service["user"].as_str().unwrap_or("root");
    // Group 0 owns the image's data directory, of which the volume is a copy.
    if !user.strip_suffix(":0").is_some_and(|uid| uid.parse::<u64>().is_ok_and(|uid| uid > 0)) {
        complain(format!("the user {user} must be a number above 0, and of group 0, which may write to {KEPT}"));
    }
    if service["read_only"] != true {
        complain("the root file system is writable".to_owned());
    }
    if service["cap_drop"] != json!(["ALL"]) || !service["cap_add"].is_null() || !service["privileged"].is_null() {
        complain("capabilities are left".to_owned());
    }
    if service["security_opt"] != json!(["no-new-privileges:true"]) {
        complain("new privileges can be had".to_owned());
    }
    let in_memory = places(&service["tmpfs"], 0);
    let volumes = places(&service["volumes"], 1);
    for place in WRITABLE {
        if !in_memory.iter().chain(&volumes).any(|own| own == place) {
            complain(format!("nothing writable at {place}"));
        }
    }
    if in_memory.iter().any(|place| place == KEPT) {
        complain(format!("{KEPT} is lost with the container"));
    }
    for volume in places(&service["volumes"], 0) {
        if value["volumes"].get(&volume).is_none() {
            complain(format!("there is no volume {volume}"));
        }
    }
    if service["environment"]["FIRSTMATE_CONFIG"] != CONFIG {
        complain(format!("FIRSTMATE_CONFIG is not {CONFIG}, and the other file needs root"));
    }
    let ports: Vec<_> = service["ports"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for wanted in [WEB, promise.port] {
        if !ports.iter().any(|port| port.ends_with(&format!(":{wanted}"))) {
            complain(format!("port {wanted} is not published"));
        }
    }
    if ports.iter().any(|port| port.ends_with(&format!(":{}", promise.port)) && !port.starts_with("127.0.0.1:")) {
        complain("firstmate's port is published to everybody".to_owned());
    }
    let dockerfile = service["build"]["dockerfile"].as_str().unwrap_or("Dockerfile");
    let context = service["build"]["context"].as_str().unwrap_or(".");
    if !tools::file("examples").join(context).join(dockerfile).exists() {
        complain(format!("there is no {dockerfile} in {context}"));
    }
    if !service["command"].is_null() || !service["entrypoint"].is_null() {
        complain("`command` would take the stack's place".to_owned());
    }
    complaints
}

macro_rules! of_service {
    ($rest:literal) => {
        concat!("/services/badges", $rest)
    };
}

#[test]
fn the_schema_takes_the_file() {
    tools::compose(&tools::document(FILE)).unwrap();
}

#[test]
fn the_schema_is_really_asked() {
    let breaks = [
        set(of_service!("/healthCheck"), json!({}), "healthCheck"),
        set(of_service!("/read_only"), json!(["yes"]), "read_only"),
        set(of_service!("/healthcheck/test"), json!(5), "healthcheck.test"),
        set(of_service!("/ports/0"), json!({ "hostPort": 8080 }), "hostPort"),
    ];
    each_is_noticed(&tools::document(FILE), &breaks, |value| said(tools::compose(value)));
    // What it does not look at is ours to look at.
    let blind = set(of_service!("/stop_grace_period"), json!("1s"), "").of(&tools::document(FILE));
    assert_eq!(tools::compose(&blind), Ok(()));
}

#[test]
fn a_key_that_is_there_twice_is_no_yaml() {
    let twice = tools::Scratch::new("twice.yaml", "services:\n  a: { image: x, user: '1', user: '2' }\n");
    assert!(tools::try_documents(twice.path()).unwrap_err().contains("'user' is there twice"));
}

#[test]
fn the_numbers_are_in_range_and_true() {
    let promise = Promise::new();
    let breaks: Vec<Break> = vec![
        set(of_service!("/healthcheck/test"), json!("firstmate check ready"), "the health check is"),
        set(of_service!("/healthcheck/test/3"), json!("live"), "the health check is"),
        remove(of_service!("/healthcheck"), "the health check is null"),
        set(of_service!("/healthcheck/timeout"), json!("2s"), "must leave `firstmate check`"),
        set(of_service!("/healthcheck/timeout"), json!("11s"), "longer than the interval"),
        set(of_service!("/healthcheck/start_period"), json!("0s"), "start_period must leave time"),
        set(of_service!("/healthcheck/interval"), json!("soon"), "must say interval"),
        set(of_service!("/healthcheck/retries"), json!(0), "retries"),
        set(of_service!("/stop_grace_period"), json!("25s"), "is not above firstmate's own 25s"),
        remove(of_service!("/stop_grace_period"), "stop_grace_period 10s is not above"),
        remove(of_service!("/mem_limit"), "without mem_limit"),
        set(of_service!("/memswap_limit"), json!("1g"), "memswap_limit"),
        set(of_service!("/user"), json!("0:0"), "the user 0:0 must be"),
        set(of_service!("/user"), json!("10001:10001"), "of group 0, which may write to /srv/stack/data"),
        remove(of_service!("/user"), "the user root"),
        set(of_service!("/read_only"), json!(false), "writable"),
        set(of_service!("/cap_add"), json!(["SETUID"]), "capabilities"),
        remove(of_service!("/cap_drop"), "capabilities"),
        remove(of_service!("/security_opt"), "new privileges"),
        remove(of_service!("/tmpfs/0"), "nothing writable at /srv/stack/run"),
        remove(of_service!("/tmpfs/1"), "nothing writable at /tmp"),
        set(of_service!("/volumes/0"), json!("data:/srv/stack/data:ro"), "nothing writable at /srv/stack/data"),
        set(of_service!("/tmpfs/-"), json!("/srv/stack/data"), "is lost with the container"),
        set(of_service!("/volumes/0"), json!("other:/srv/stack/data"), "there is no volume other"),
        remove(of_service!("/environment/FIRSTMATE_CONFIG"), "FIRSTMATE_CONFIG"),
        remove(of_service!("/ports/0"), "port 8080 is not published"),
        set(of_service!("/ports/1"), json!("9180:9180"), "published to everybody"),
        set(of_service!("/build/dockerfile"), json!("Dockerfile"), "there is no Dockerfile in"),
        set(of_service!("/command"), json!("sh"), "the stack's place"),
    ];
    each_is_noticed(&tools::document(FILE), &breaks, |value| project(value, &promise));
}
