//! The image run as the files for Compose, ECS and Kubernetes say, as far as `docker run` has words for it. What a file says and this cannot
//! say after it makes the test fail, so that no new key goes unseen.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};

use serde_json::Value;

use super::client::Got;
use super::container::{Container, Directory, STACK, docker, docker_ok, unique, until};
use super::tools;

/// A named volume, as Compose and ECS make one.
struct Volume(String);

impl Volume {
    fn new() -> Self {
        Self(docker_ok(&["volume", "create", &unique("volume")]))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.0]);
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}

fn seconds(text: &Value) -> u64 {
    firstmate::config::values::parse_duration(text.as_str().unwrap()).unwrap().as_secs()
}

/// What the health check asks, without the word that says how.
fn command(check: &Value) -> Vec<&str> {
    let words = texts(check);
    assert_eq!(words.first(), Some(&"CMD"));
    words[1..].to_vec()
}

fn run(options: &[String]) -> Container {
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    Container::run(STACK, &options, &[])
}

/// Up, asked, one visit counted, and nothing that firstmate had to warn of.
fn is_well(container: &Container, check: &[&str], visits: u32) {
    container.wait_until_well();
    assert_eq!(container.exec(check), (0, "ok\n".to_owned()), "{}", container.log());
    let page = container.get(8080, "/?plain=1");
    assert!(matches!(&page, Got::Answer(200, text) if text.starts_with(&format!("visits {visits}\n"))), "{page:?}\n{}", container.log());
    let (_, line) = container.exec(&["grep", "-E", "^(CapBnd|NoNewPrivs|Uid)", "/proc/1/status"]);
    assert!(line.contains("Uid:\t10001\t") && line.contains("CapBnd:\t0000000000000000"), "{line}");
    assert_ne!(container.exec(&["touch", "/srv/stack/app/new"]).0, 0, "the root is writable");
}

/// `docker stop` by the container's own patience ends it well.
fn ends_well(container: &Container) {
    container.stop();
    assert_eq!(container.ended(), 0, "{}", container.log());
    let log = container.log();
    assert!(!log.contains("firstmate warn") && !log.contains("firstmate error"), "{log}");
    assert_eq!(container.said().last().unwrap(), "ended with code 0: SIGTERM received");
}

fn compose(volume: &Volume) -> (Vec<String>, Value) {
    let project = tools::document("examples/compose.yaml");
    let service = project["services"]["badges"].clone();
    let mut options = Vec::new();
    for (key, value) in service.as_object().unwrap() {
        let text = || value.as_str().unwrap();
        match key.as_str() {
            "user" => options.push(format!("--user={}", text())),
            "environment" => {
                options.extend(value.as_object().unwrap().iter().map(|(name, value)| format!("--env={name}={}", value.as_str().unwrap())))
            }
            "read_only" => options.push(format!("--read-only={value}")),
            "tmpfs" => options.extend(texts(value).iter().map(|place| format!("--tmpfs={place}"))),
            "volumes" => options.extend(texts(value).iter().map(|one| format!("--volume={}:{}", volume.0, one.split_once(':').unwrap().1))),
            "cap_drop" => options.extend(texts(value).iter().map(|one| format!("--cap-drop={one}"))),
            "security_opt" => options.extend(texts(value).iter().map(|one| format!("--security-opt={one}"))),
            "mem_limit" => options.push(format!("--memory={}", text())),
            "memswap_limit" => options.push(format!("--memory-swap={}", text())),
            "stop_grace_period" => options.push(format!("--stop-timeout={}", seconds(value))),
            // The command line knows no check without a shell; the image's own is the same, which is compared below. Asked more often.
            "healthcheck" => options.push("--health-interval=1s".to_owned()),
            // The tests have their own image, and ask the container at its own address; a restart is not what they wait for.
            "image" | "build" | "ports" | "restart" => {}
            other => panic!("say `{other}: {value}` as an option of docker run"),
        }
    }
    (options, service)
}

#[test]
fn as_compose_runs_it() {
    let volume = Volume::new();
    let (options, service) = compose(&volume);
    let check = command(&service["healthcheck"]["test"]);
    for visits in 1..=2 {
        let container = run(&options);
        let own: Vec<String> = serde_json::from_str(&container.inspect("{{json .Config.Healthcheck.Test}}")).unwrap();
        assert_eq!((own[0].as_str(), &own[2..]), ("CMD", &check[1..].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()[..]));
        // The second container finds what the first one kept.
        is_well(&container, &check, visits);
        until("docker finds it healthy", || match container.inspect("{{.State.Health.Status}}").as_str() {
            "healthy" => Ok(()),
            _ => Err(container.inspect("{{json .State.Health}}")),
        });
        ends_well(&container);
    }
}

#[test]
fn as_ecs_runs_it() {
    let volume = Volume::new();
    let task: Value = serde_json::from_str(&tools::text("examples/ecs/task-definition.json")).unwrap();
    let own = task["containerDefinitions"][0].clone();
    let mut options = Vec::new();
    for (key, value) in own.as_object().unwrap() {
        match key.as_str() {
            "user" => options.push(format!("--user={}", value.as_str().unwrap())),
            "memory" => options.push(format!("--memory={value}m")),
            "readonlyRootFilesystem" => options.push(format!("--read-only={value}")),
            "stopTimeout" => options.push(format!("--stop-timeout={value}")),
            "environment" => options.extend(
                value
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| format!("--env={}={}", one["name"].as_str().unwrap(), one["value"].as_str().unwrap())),
            ),
            "mountPoints" => options.extend(
                value.as_array().unwrap().iter().map(|one| format!("--volume={}:{}", volume.0, one["containerPath"].as_str().unwrap())),
            ),
            "linuxParameters" => {
                options.extend(texts(&value["capabilities"]["drop"]).iter().map(|one| format!("--cap-drop={one}")));
                let tmpfs = value["tmpfs"].as_array().unwrap();
                options.extend(tmpfs.iter().map(|one| format!("--tmpfs={}:size={}m", one["containerPath"].as_str().unwrap(), one["size"])));
                assert!(value["capabilities"]["add"].is_null() && value["initProcessEnabled"] == false, "{value}");
            }
            // Asked below. The rest is ECS's own, or the tests'.
            "healthCheck" | "name" | "image" | "essential" | "portMappings" | "logConfiguration" => {}
            other => panic!("say `{other}: {value}` as an option of docker run"),
        }
    }
    let container = run(&options);
    is_well(&container, &command(&own["healthCheck"]["command"]), 1);
    ends_well(&container);
}

#[test]
fn as_kubernetes_runs_it() {
    let deployment = tools::document("examples/kubernetes/deployment.yaml");
    let pod = &deployment["spec"]["template"]["spec"];
    let own = &pod["containers"][0];
    let number = |key: &str| u32::try_from(pod["securityContext"][key].as_u64().unwrap()).unwrap();
    // The kubelet makes an emptyDir for everybody, and with fsGroup of that group; the termination log is a file everybody may write.
    let files = Directory::new(&[("words", "")]);
    std::fs::set_permissions(files.path().join("words"), Permissions::from_mode(0o666)).unwrap();
    let mut options = vec![
        format!("--user={}:{}", number("runAsUser"), number("runAsGroup")),
        format!("--group-add={}", number("fsGroup")),
        format!("--read-only={}", own["securityContext"]["readOnlyRootFilesystem"]),
        format!("--security-opt=no-new-privileges:{}", own["securityContext"]["allowPrivilegeEscalation"] == false),
        format!("--memory={}", own["resources"]["limits"]["memory"].as_str().unwrap().trim_end_matches('i')),
        format!("--stop-timeout={}", pod["terminationGracePeriodSeconds"]),
        files.mount("words", own["terminationMessagePath"].as_str().unwrap()),
    ];
    options.extend(texts(&own["securityContext"]["capabilities"]["drop"]).iter().map(|one| format!("--cap-drop={one}")));
    for one in own["env"].as_array().unwrap() {
        options.push(format!("--env={}={}", one["name"].as_str().unwrap(), one["value"].as_str().unwrap()));
    }
    for mount in own["volumeMounts"].as_array().unwrap() {
        let name = mount["name"].as_str().unwrap();
        let directory = files.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        chown(&directory, Some(0), Some(number("fsGroup"))).unwrap();
        std::fs::set_permissions(&directory, Permissions::from_mode(0o2777)).unwrap();
        options.push(files.mount(name, mount["mountPath"].as_str().unwrap()));
    }
    let container = run(&options);
    is_well(&container, &["firstmate", "check", "ready"], 1);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = own[probe]["httpGet"]["path"].as_str().unwrap();
        assert_eq!(container.get(9180, path), Got::Answer(200, "ok".to_owned()), "{probe}");
    }
    ends_well(&container);
    assert_eq!(std::fs::read_to_string(files.path().join("words")).unwrap().trim_end(), "ended with code 0: SIGTERM received");
}
