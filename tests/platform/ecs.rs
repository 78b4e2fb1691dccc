//! `examples/ecs/task-definition.json`: what ECS would register and would then not run as meant.
//!
//! Ranges and pairs: the Amazon ECS API reference, `HealthCheck`, `ContainerDefinition`, `RegisterTaskDefinition`.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::break_it::{Break, each_is_noticed, remove, said, set};
use super::promise::{BINARY, CONFIG, KEPT, Promise, WEB, WRITABLE, is_pinned};
use super::tools;

const FILE: &str = "examples/ecs/task-definition.json";
/// Field, what ECS takes, both in seconds except `retries`.
const HEALTH: [(&str, RangeInclusive<u64>); 4] =
    [("interval", 5..=300), ("timeout", 2..=60), ("retries", 1..=10), ("startPeriod", 0..=300)];
/// On Fargate; see `stopTimeout`.
const STOP: RangeInclusive<u64> = 2..=120;
/// `firstmate check` gives an answer by then, if only "no".
const CHECK_SECONDS: u64 = 2;

fn shipped() -> Value {
    serde_json::from_str(&tools::text(FILE)).unwrap()
}

/// Fargate's pairs: for so many CPU units so many MiB, in steps of so many.
fn fargate_takes(cpu: u64, memory: u64) -> bool {
    let (range, step) = match cpu {
        256 => return [512, 1024, 2048].contains(&memory),
        512 => (1024..=4096, 1024),
        1024 => (2048..=8192, 1024),
        2048 => (4096..=16384, 1024),
        4096 => (8192..=30720, 1024),
        8192 => (16384..=61440, 4096),
        16384 => (32768..=122_880, 8192),
        _ => return false,
    };
    range.contains(&memory) && memory.is_multiple_of(step)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn size(task: &Value, container: &Value, complain: &mut impl FnMut(String)) {
    let (Some(cpu), Some(memory)) = (number(&task["cpu"]), number(&task["memory"])) else {
        complain("Fargate needs cpu and memory of the task".to_owned());
        return;
    };
    if !fargate_takes(cpu, memory) {
        complain(format!("Fargate has no task of {cpu} CPU units and {memory} MiB"));
    }
    match number(&container["memory"]) {
        Some(own) if own >= memory => complain(format!("the container's {own} MiB must be below the task's {memory}")),
        Some(own) if own < 6 => complain("a container has at least 6 MiB".to_owned()),
        Some(_) => {}
        None => complain("without `memory` of the container the guard sees no limit in its cgroup".to_owned()),
    }
}

fn health(container: &Value, complain: &mut impl FnMut(String)) {
    let health = &container["healthCheck"];
    // Liveness is what `check` asks by itself; an unhealthy task is replaced.
    if health["command"] != json!(["CMD", BINARY, "check"]) {
        complain(format!("the health check is {} and not CMD {BINARY} check", health["command"]));
    }
    for (field, range) in HEALTH {
        match health[field].as_u64() {
            Some(value) if range.contains(&value) => {}
            other => complain(format!("healthCheck.{field} is {other:?} and must be in {range:?}")),
        }
    }
    let field = |field: &str| health[field].as_u64().unwrap_or_default();
    if field("timeout") <= CHECK_SECONDS {
        complain(format!("healthCheck.timeout must leave `firstmate check` its own {CHECK_SECONDS} s"));
    }
    if field("timeout") > field("interval") {
        complain("healthCheck.timeout is longer than the interval".to_owned());
    }
}

fn rights(container: &Value, complain: &mut impl FnMut(String)) {
    let user = container["user"].as_str().unwrap_or("root");
    let (uid, group) = user.split_once(':').unwrap_or((user, ""));
    if !uid.parse::<u64>().is_ok_and(|uid| uid > 0) {
        complain(format!("the user {user} is or may be root"));
    }
    // A number must be positive there, so that group 0 is written by its name. It may write into the volume made from the image.
    if group != "root" {
        complain(format!("the user {user} must be of the group root, which may write to {KEPT}"));
    }
    if container["readonlyRootFilesystem"] != true {
        complain("the root file system is writable".to_owned());
    }
    let capabilities = &container["linuxParameters"]["capabilities"];
    if capabilities["drop"] != json!(["ALL"]) {
        complain("capabilities are left".to_owned());
    }
    if capabilities["add"].as_array().into_iter().flatten().any(|one| one != "SYS_PTRACE") {
        complain("Fargate adds no capability but SYS_PTRACE".to_owned());
    }
    if container["linuxParameters"]["initProcessEnabled"] == true {
        complain("firstmate is the init process".to_owned());
    }
}

fn files(task: &Value, container: &Value, complain: &mut impl FnMut(String)) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tmpfs = list(&container["linuxParameters"]["tmpfs"]);
    let mounts = list(&container["mountPoints"]);
    let volumes = list(&task["volumes"]);
    for place in WRITABLE {
        let in_memory = tmpfs.iter().any(|one| one["containerPath"] == place && one["size"].as_u64() > Some(0));
        if !in_memory && !mounts.iter().any(|one| one["containerPath"] == place && one["readOnly"] != true) {
            complain(format!("nothing writable at {place}"));
        }
    }
    for mount in mounts {
        if !volumes.iter().any(|volume| volume["name"] == mount["sourceVolume"]) {
            complain(format!("there is no volume {}", mount["sourceVolume"]));
        }
    }
    if !list(&container["environment"]).contains(&json!({ "name": "FIRSTMATE_CONFIG", "value": CONFIG })) {
        complain(format!("FIRSTMATE_CONFIG is not {CONFIG}, and the other file needs root"));
    }
}

fn definition(task: &Value, promise: &Promise) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |complaint| complaints.push(complaint);
    let container = &task["containerDefinitions"][0];
    if task["requiresCompatibilities"] != json!(["FARGATE"]) || task["networkMode"] != "awsvpc" {
        complain("Fargate needs requiresCompatibilities and networkMode awsvpc".to_owned());
    }
    size(task, container, &mut complain);
    health(container, &mut complain);
    rights(container, &mut complain);
    files(task, container, &mut complain);
    if container["essential"] != true {
        complain("the container is not essential: the task would outlive it".to_owned());
    }
    match container["stopTimeout"].as_u64() {
        Some(stop) if !STOP.contains(&stop) => complain(format!("stopTimeout is {stop} and must be in {STOP:?}")),
        Some(stop) if stop > promise.spec.stop_timeout.as_secs() => {}
        other => complain(format!("stopTimeout {other:?} is not above firstmate's own {:?}", promise.spec.stop_timeout)),
    }
    let ports: Vec<_> = container["portMappings"].as_array().into_iter().flatten().collect();
    for wanted in [WEB, promise.port] {
        if !ports.iter().any(|port| port["containerPort"] == wanted) {
            complain(format!("port {wanted} is not mapped"));
        }
    }
    if ports.iter().any(|port| !port["hostPort"].is_null() && port["hostPort"] != port["containerPort"]) {
        complain("with awsvpc the host's port is the container's".to_owned());
    }
    let log = &container["logConfiguration"];
    let options = ["awslogs-group", "awslogs-region", "awslogs-stream-prefix"];
    if log["logDriver"] != "awslogs" || options.iter().any(|option| !log["options"][option].is_string()) {
        complain(format!("awslogs on Fargate needs {options:?}"));
    }
    if !task["executionRoleArn"].is_string() {
        complain("awslogs and ECR need an executionRoleArn".to_owned());
    }
    if !container["image"].as_str().is_some_and(is_pinned) {
        complain(format!("the image {} is not pinned", container["image"]));
    }
    if !container["entryPoint"].is_null() || !container["command"].is_null() {
        complain("`command` would take the stack's place".to_owned());
    }
    complaints
}

macro_rules! of_container {
    ($rest:literal) => {
        concat!("/containerDefinitions/0", $rest)
    };
}

#[test]
fn the_pairs_are_fargates() {
    for (cpu, memory) in [(256, 512), (512, 4096), (1024, 3072), (2048, 16384), (4096, 30720), (8192, 20480), (16384, 122_880)] {
        assert!(fargate_takes(cpu, memory), "{cpu} and {memory}");
    }
    for (cpu, memory) in [(256, 4096), (512, 512), (1024, 2500), (2048, 17408), (4096, 4096), (8192, 17408), (16384, 33792), (128, 512)] {
        assert!(!fargate_takes(cpu, memory), "{cpu} and {memory}");
    }
}

#[test]
fn the_schemas_take_the_file() {
    tools::botocore(&shipped()).unwrap();
    tools::cfn_lint(&shipped()).unwrap();
}

#[test]
fn the_schemas_are_really_asked() {
    let by_the_command_line = [
        set(of_container!("/healthcheck"), json!({}), "healthcheck"),
        set(of_container!("/essential"), json!("true"), "essential"),
        set(of_container!("/healthCheck/command"), json!("firstmate check"), "healthCheck.command"),
        remove("/family", "family"),
    ];
    each_is_noticed(&shipped(), &by_the_command_line, |value| said(tools::botocore(value)));
    let by_cloud_formation =
        [set("/memory", json!("900"), "E3047"), remove(of_container!("/image"), "E3003"), set("/networkMode", json!("bridge"), "E3048")];
    each_is_noticed(&shipped(), &by_cloud_formation, |value| said(tools::cfn_lint(value)));
    // What neither looks at is ours to look at.
    let blind = set(of_container!("/stopTimeout"), json!(500), "").of(&shipped());
    let blind = set(of_container!("/healthCheck/interval"), json!(1), "").of(&blind);
    assert_eq!((tools::botocore(&blind), tools::cfn_lint(&blind)), (Ok(()), Ok(())), "the tools have learned ranges: use them for those");
}

#[test]
fn the_numbers_are_in_range_and_true() {
    let promise = Promise::new();
    let breaks: Vec<Break> = vec![
        set(of_container!("/healthCheck/interval"), json!(4), "healthCheck.interval"),
        set(of_container!("/healthCheck/interval"), json!(301), "healthCheck.interval"),
        set(of_container!("/healthCheck/timeout"), json!(1), "healthCheck.timeout is Some(1)"),
        set(of_container!("/healthCheck/timeout"), json!(2), "must leave `firstmate check`"),
        set(of_container!("/healthCheck/timeout"), json!(11), "longer than the interval"),
        set(of_container!("/healthCheck/retries"), json!(0), "healthCheck.retries"),
        set(of_container!("/healthCheck/retries"), json!(11), "healthCheck.retries"),
        set(of_container!("/healthCheck/startPeriod"), json!(301), "healthCheck.startPeriod"),
        remove(of_container!("/healthCheck/startPeriod"), "healthCheck.startPeriod is None"),
        set(of_container!("/healthCheck/command"), json!(["/usr/local/bin/firstmate", "check"]), "the health check is"),
        set(of_container!("/healthCheck/command"), json!(["CMD-SHELL", "curl -f http://localhost/"]), "the health check is"),
        remove(of_container!("/healthCheck"), "the health check is null"),
        set(of_container!("/stopTimeout"), json!(121), "must be in 2..=120"),
        set(of_container!("/stopTimeout"), json!(25), "is not above firstmate's own 25s"),
        remove(of_container!("/stopTimeout"), "is not above firstmate's own"),
        set(of_container!("/essential"), json!(false), "not essential"),
        set("/cpu", json!("1024"), "no task of 1024 CPU units and 1024 MiB"),
        set("/cpu", json!("300"), "no task of 300 CPU units"),
        set("/memory", json!("1536"), "no task of 256 CPU units and 1536 MiB"),
        set(of_container!("/memory"), json!(1024), "must be below the task's"),
        set(of_container!("/memory"), json!(5), "at least 6 MiB"),
        remove(of_container!("/memory"), "the guard sees no limit"),
        set(of_container!("/user"), json!("0:0"), "is or may be root"),
        remove(of_container!("/user"), "is or may be root"),
        set(of_container!("/user"), json!("10001:10001"), "of the group root, which may write to /srv/stack/data"),
        set(of_container!("/readonlyRootFilesystem"), json!(false), "writable"),
        set(of_container!("/linuxParameters/capabilities/drop"), json!([]), "capabilities are left"),
        set(of_container!("/linuxParameters/capabilities/add"), json!(["SETUID"]), "SYS_PTRACE"),
        set(of_container!("/linuxParameters/initProcessEnabled"), json!(true), "firstmate is the init process"),
        remove(of_container!("/linuxParameters/tmpfs/0"), "nothing writable at /srv/stack/run"),
        remove(of_container!("/linuxParameters/tmpfs/1"), "nothing writable at /tmp"),
        remove(of_container!("/mountPoints/0"), "nothing writable at /srv/stack/data"),
        remove("/volumes/0", "there is no volume \"data\""),
        remove(of_container!("/environment/0"), "FIRSTMATE_CONFIG"),
        remove(of_container!("/portMappings/1"), "port 9180 is not mapped"),
        set(of_container!("/portMappings/0/hostPort"), json!(80), "the host's port"),
        remove(of_container!("/logConfiguration/options/awslogs-stream-prefix"), "awslogs on Fargate"),
        remove("/executionRoleArn", "executionRoleArn"),
        set(of_container!("/image"), json!("badges"), "not pinned"),
        set(of_container!("/command"), json!(["sh"]), "the stack's place"),
        set("/networkMode", json!("bridge"), "networkMode awsvpc"),
    ];
    each_is_noticed(&shipped(), &breaks, |value| definition(value, &promise));
}
