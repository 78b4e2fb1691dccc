//! `examples/kubernetes`: what the API server would take and the kubelet would still do wrong.
//!
//! Fields, defaults and ranges: the Kubernetes API reference, `Probe`, `Container`, `PodSpec`. "restricted": the Pod Security Standards.

use serde_json::{Value, json};

use super::break_it::{Break, each_is_noticed, remove, said, set};
use super::promise::{CONFIG, Promise, WEB, WRITABLE, is_pinned};
use super::tools;

const DEPLOYMENT: &str = "examples/kubernetes/deployment.yaml";
const SERVICE: &str = "examples/kubernetes/service.yaml";
/// Which question each probe must ask.
pub const PROBES: [(&str, &str); 3] = [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")];
/// The kinds of volume "restricted" allows.
const VOLUMES: [&str; 7] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"];

/// `512Mi` in bytes.
fn quantity(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let shift = match unit {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? << shift)
}

/// The number of the container's port that a probe or a Service means, by number or by name.
fn port(container: &Value, named: &Value) -> Option<u64> {
    let ports = container["ports"].as_array()?;
    let own = ports.iter().find(|port| &port["name"] == named || &port["containerPort"] == named)?;
    own["containerPort"].as_u64()
}

fn probes(container: &Value, promise: &Promise, complain: &mut impl FnMut(String)) {
    for (name, path) in PROBES {
        let probe = &container[name];
        let get = &probe["httpGet"];
        if get["path"] != path {
            complain(format!("{name} asks {} and not {path}", get["path"]));
        }
        if port(container, &get["port"]) != Some(promise.port) {
            complain(format!("{name} asks port {}, and firstmate answers on {}", get["port"], promise.port));
        }
        if !get["host"].is_null() || !matches!(get["scheme"].as_str(), None | Some("HTTP")) {
            complain(format!("{name} must ask the Pod itself, without TLS"));
        }
        // Given, so that nobody has to know the defaults: 10 s, 1 s, 3.
        let number = |field: &str| probe[field].as_u64();
        let (Some(period), Some(timeout), Some(failures)) = (number("periodSeconds"), number("timeoutSeconds"), number("failureThreshold"))
        else {
            complain(format!("{name} must say periodSeconds, timeoutSeconds and failureThreshold"));
            continue;
        };
        for (field, value) in [("periodSeconds", period), ("timeoutSeconds", timeout), ("failureThreshold", failures)] {
            if value < 1 {
                complain(format!("{name}: {field} must be at least 1"));
            }
        }
        if timeout > period {
            complain(format!("{name}: timeoutSeconds {timeout} is longer than its period"));
        }
        if name != "readinessProbe" && number("successThreshold").is_some_and(|successes| successes != 1) {
            complain(format!("{name}: successThreshold must be 1"));
        }
        if name == "startupProbe" && period * failures < promise.slowest_start().as_secs() {
            complain(format!("startupProbe gives up after {} s, firstmate after {:?}", period * failures, promise.slowest_start()));
        }
        if name == "readinessProbe" && !probe["terminationGracePeriodSeconds"].is_null() {
            complain("readinessProbe cannot have a terminationGracePeriodSeconds".to_owned());
        }
    }
}

fn ending(pod: &Value, container: &Value, promise: &Promise, complain: &mut impl FnMut(String)) {
    // 30 where it is not said.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    if grace <= promise.spec.stop_timeout.as_secs() {
        complain(format!("terminationGracePeriodSeconds {grace} is not above firstmate's own {:?}", promise.spec.stop_timeout));
    }
    if promise.spec.drain.is_zero() {
        complain("without `drain` requests that arrive after SIGTERM are refused".to_owned());
    }
    if !container["lifecycle"].is_null() {
        complain("a preStop hook is spent out of the same grace period, and `drain` does its work".to_owned());
    }
    if container["terminationMessagePath"] != "/dev/termination-log" {
        complain("terminationMessagePath is not where firstmate writes".to_owned());
    }
}

fn restricted(pod: &Value, container: &Value, complain: &mut impl FnMut(String)) {
    let all = &pod["securityContext"];
    let own = &container["securityContext"];
    let mut must = |holds: bool, what: &str| {
        if !holds {
            complain(format!("not restricted: {what}"));
        }
    };
    must(all["runAsNonRoot"] == true, "runAsNonRoot");
    must(all["runAsUser"].as_u64().is_some_and(|uid| uid > 0), "runAsUser");
    must(all["fsGroup"].is_u64(), "fsGroup, without which a volume may be root's alone");
    must(all["seccompProfile"]["type"] == "RuntimeDefault", "seccompProfile");
    must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
    must(own["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem");
    must(own["capabilities"]["drop"] == json!(["ALL"]) && own["capabilities"]["add"].is_null(), "capabilities");
    must(own["privileged"].is_null(), "privileged");
    must(["hostNetwork", "hostPID", "hostIPC"].iter().all(|host| pod[*host].is_null()), "the node's namespaces");
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds: Vec<_> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        must(kinds.len() == 1 && VOLUMES.contains(&kinds[0].as_str()), &format!("a volume of kind {kinds:?}"));
    }
}

fn files(pod: &Value, container: &Value, complain: &mut impl FnMut(String)) {
    let mounts: Vec<_> = container["volumeMounts"].as_array().into_iter().flatten().collect();
    for place in WRITABLE {
        if !mounts.iter().any(|mount| mount["mountPath"] == place && mount["readOnly"] != true) {
            complain(format!("nothing writable at {place}"));
        }
    }
    let volumes: Vec<_> = pod["volumes"].as_array().into_iter().flatten().map(|volume| &volume["name"]).collect();
    for mount in &mounts {
        if !volumes.contains(&&mount["name"]) {
            complain(format!("there is no volume {}", mount["name"]));
        }
    }
    for volume in volumes {
        if !mounts.iter().any(|mount| &mount["name"] == volume) {
            complain(format!("nothing mounts the volume {volume}"));
        }
    }
    let environment = container["env"].as_array().into_iter().flatten();
    if !environment.into_iter().any(|one| one["name"] == "FIRSTMATE_CONFIG" && one["value"] == CONFIG) {
        complain(format!("FIRSTMATE_CONFIG is not {CONFIG}, and the other file needs root"));
    }
}

fn deployment(value: &Value, promise: &Promise) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |complaint| complaints.push(complaint);
    let pod = &value["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    if pod["containers"].as_array().map(Vec::len) != Some(1) {
        complain("the stack is one container".to_owned());
    }
    probes(container, promise, &mut complain);
    ending(pod, container, promise, &mut complain);
    restricted(pod, container, &mut complain);
    files(pod, container, &mut complain);
    let memory = |kind: &str| quantity(&container["resources"][kind]["memory"]);
    match (memory("requests"), memory("limits")) {
        (Some(request), Some(limit)) if request > limit => complain("resources: more memory is requested than allowed".to_owned()),
        (Some(_), Some(_)) => {}
        _ => complain("resources: without a memory limit the guard goes by the node's memory".to_owned()),
    }
    if !container["image"].as_str().is_some_and(is_pinned) {
        complain(format!("the image {} is not pinned", container["image"]));
    }
    if !container["command"].is_null() {
        complain("`command` would take firstmate's place".to_owned());
    }
    let labels = &value["spec"]["template"]["metadata"]["labels"];
    if !has_all(labels, &value["spec"]["selector"]["matchLabels"]) {
        complain("the selector does not find the Pods".to_owned());
    }
    // Two Pods at a time must not share Redis's file.
    let claims = pod["volumes"].as_array().into_iter().flatten().any(|volume| !volume["persistentVolumeClaim"].is_null());
    if claims && value["spec"]["strategy"]["type"] != "Recreate" {
        complain("a PersistentVolumeClaim needs the strategy Recreate".to_owned());
    }
    complaints
}

fn has_all(labels: &Value, wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| &labels[key] == value))
}

fn service(value: &Value, deployment: &Value, promise: &Promise) -> Vec<String> {
    let mut complaints = Vec::new();
    let template = &deployment["spec"]["template"];
    if !has_all(&template["metadata"]["labels"], &value["spec"]["selector"]) {
        complaints.push("the Service does not find the Pods".to_owned());
    }
    let ports = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let reached: Vec<_> = ports.iter().map(|one| port(&template["spec"]["containers"][0], &one["targetPort"])).collect();
    if !reached.contains(&Some(WEB)) {
        complaints.push(format!("the Service does not reach nginx on {WEB}"));
    }
    if reached.contains(&Some(promise.port)) {
        complaints.push("the Service shows firstmate's port to everybody".to_owned());
    }
    complaints
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

/// Pointers are static, so that a place is one word in the tables below.
macro_rules! of_container {
    ($rest:literal) => {
        concat!("/spec/template/spec/containers/0", $rest)
    };
}

#[test]
fn the_schemas_take_the_files() {
    for path in [DEPLOYMENT, SERVICE] {
        for value in tools::documents(path) {
            tools::kubernetes(&value).unwrap_or_else(|said| panic!("{path}: {said}"));
        }
    }
}

#[test]
fn the_schemas_are_really_asked() {
    let breaks = [
        set(of_container!("/livenesProbe"), json!({}), "livenesProbe"),
        set(of_container!("/livenessProbe/periodSeconds"), json!("10"), "periodSeconds"),
        set(of_container!("/securityContext/readOnlyRootFileSystem"), json!(true), "readOnlyRootFileSystem"),
        remove("/spec/selector", "selector"),
    ];
    each_is_noticed(&tools::document(DEPLOYMENT), &breaks, |value| said(tools::kubernetes(value)));
    // What no schema looks at is ours to look at.
    let zero = set(of_container!("/livenessProbe/periodSeconds"), json!(0), "");
    assert_eq!(tools::kubernetes(&zero.of(&tools::document(DEPLOYMENT))), Ok(()), "the tool has learned ranges: use it for them");
}

#[test]
fn the_numbers_are_in_range_and_true() {
    let promise = Promise::new();
    let breaks: Vec<Break> = vec![
        set(of_container!("/livenessProbe/periodSeconds"), json!(0), "livenessProbe: periodSeconds must be at least 1"),
        set(of_container!("/readinessProbe/timeoutSeconds"), json!(0), "readinessProbe: timeoutSeconds must be at least 1"),
        set(of_container!("/readinessProbe/timeoutSeconds"), json!(3), "is longer than its period"),
        set(of_container!("/startupProbe/failureThreshold"), json!(0), "startupProbe: failureThreshold must be at least 1"),
        set(of_container!("/startupProbe/failureThreshold"), json!(20), "startupProbe gives up after 40 s"),
        remove(of_container!("/livenessProbe/timeoutSeconds"), "must say periodSeconds"),
        set(of_container!("/livenessProbe/successThreshold"), json!(2), "successThreshold must be 1"),
        set(of_container!("/readinessProbe/terminationGracePeriodSeconds"), json!(5), "readinessProbe cannot have"),
        set(of_container!("/livenessProbe/httpGet/path"), json!("/readyz"), "livenessProbe asks \"/readyz\""),
        set(of_container!("/livenessProbe/httpGet/port"), json!("http"), "firstmate answers on 9180"),
        set(of_container!("/livenessProbe/httpGet/port"), json!(8080), "firstmate answers on 9180"),
        set(of_container!("/ports/1/containerPort"), json!(9181), "firstmate answers on 9180"),
        set(of_container!("/readinessProbe/httpGet/host"), json!("127.0.0.1"), "the Pod itself"),
        remove(of_container!("/startupProbe"), "startupProbe asks null"),
        set("/spec/template/spec/terminationGracePeriodSeconds", json!(25), "is not above firstmate's own 25s"),
        set(of_container!("/lifecycle"), json!({ "preStop": { "sleep": { "seconds": 5 } } }), "a preStop hook"),
        set(of_container!("/terminationMessagePath"), json!("/tmp/why"), "terminationMessagePath"),
        remove("/spec/template/spec/securityContext/runAsNonRoot", "runAsNonRoot"),
        set("/spec/template/spec/securityContext/runAsUser", json!(0), "runAsUser"),
        remove("/spec/template/spec/securityContext/fsGroup", "fsGroup"),
        set("/spec/template/spec/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        remove(of_container!("/securityContext/allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
        set(of_container!("/securityContext/readOnlyRootFilesystem"), json!(false), "readOnlyRootFilesystem"),
        set(of_container!("/securityContext/capabilities/drop"), json!(["NET_RAW"]), "capabilities"),
        set(of_container!("/securityContext/capabilities/add"), json!(["SETUID"]), "capabilities"),
        set(of_container!("/securityContext/privileged"), json!(true), "privileged"),
        set("/spec/template/spec/hostPID", json!(true), "the node's namespaces"),
        set("/spec/template/spec/volumes/0", json!({ "name": "run", "hostPath": { "path": "/" } }), "a volume of kind [\"hostPath\"]"),
        remove(of_container!("/volumeMounts/0"), "nothing writable at /srv/stack/run"),
        set(of_container!("/volumeMounts/2/readOnly"), json!(true), "nothing writable at /srv/stack/data"),
        set(of_container!("/volumeMounts/1/mountPath"), json!("/var/tmp"), "nothing writable at /tmp"),
        remove("/spec/template/spec/volumes/1", "there is no volume \"tmp\""),
        set("/spec/template/spec/volumes/-", json!({ "name": "spare", "emptyDir": {} }), "nothing mounts the volume \"spare\""),
        remove(of_container!("/env/0"), "FIRSTMATE_CONFIG"),
        remove(of_container!("/resources/limits"), "without a memory limit"),
        set(of_container!("/resources/requests/memory"), json!("1Gi"), "more memory is requested"),
        set(of_container!("/image"), json!("badges:latest"), "not pinned"),
        set(of_container!("/command"), json!(["sh"]), "firstmate's place"),
        set("/spec/selector/matchLabels", json!({ "app": "badges" }), "the selector"),
        set("/spec/template/spec/containers/-", json!({ "name": "second", "image": "a:1.0" }), "one container"),
        set(
            "/spec/template/spec/volumes/2",
            json!({ "name": "data", "persistentVolumeClaim": { "claimName": "badges" } }),
            "needs the strategy Recreate",
        ),
    ];
    let shipped = tools::document(DEPLOYMENT);
    assert_eq!(shipped.pointer(CONTAINER).unwrap()["name"], "badges");
    each_is_noticed(&shipped, &breaks, |value| deployment(value, &promise));
}

#[test]
fn the_service_finds_nginx_and_hides_firstmate() {
    let promise = Promise::new();
    let pods = tools::document(DEPLOYMENT);
    let breaks = [
        set("/spec/selector", json!({ "app": "badges" }), "does not find the Pods"),
        set("/spec/ports/0/targetPort", json!(80), "does not reach nginx"),
        set("/spec/ports/-", json!({ "name": "firstmate", "port": 9180, "targetPort": "firstmate" }), "firstmate's port"),
    ];
    each_is_noticed(&tools::document(SERVICE), &breaks, |value| service(value, &pods, &promise));
}
