//! The stack as the three files run it: real programs, one user who is nobody in particular, no capability, nothing writable but three
//! directories. Without a container: namespaces, `setpriv`, and the image's layout laid out.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::client::{Got, get};
use super::firstmate_process::{Firstmate, binary};
use super::promise::{BINARY, CONFIG, Promise, WEB, WRITABLE};
use super::sandbox::{Sandbox, until};
use super::{kubernetes, tools};

const PROGRAMS: [&str; 8] = ["nginx", "php", "php-fpm8.2", "redis-server", "redis-cli", "unshare", "setpriv", "findmnt"];
const WEB_PORT: u16 = 8080;

/// A user the system has never heard of, with no capability and no way to any.
const NOBODY: &str = "setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs";

/// The image's layout in memory, then everything read-only but what the files make writable.
fn mounts() -> String {
    let examples = tools::file("examples/all-in-one");
    let examples = examples.display();
    let binary = binary();
    let binary = binary.display();
    format!(
        "mount --make-rprivate /
        for place in $(findmnt -rno TARGET | grep -vE '^/(proc|sys|dev)(/|$)'); do mount -o remount,bind,ro \"$place\"; done
        mount -t tmpfs -o mode=0755 image /srv
        mkdir -p /srv/stack/run /srv/stack/data /srv/bin
        cp -R {examples}/conf {examples}/app {examples}/nonroot.toml {examples}/firstmate.toml /srv/stack
        chmod -R u=rwX,go=rX /srv/stack
        cp {binary} /srv/bin/firstmate
        chmod 0755 /srv/bin/firstmate
        mount --bind /srv/bin {bin}
        mount -o remount,bind,ro {bin}
        mount -t tmpfs -o mode=1777 run {run}
        mount -t tmpfs -o mode=2770,gid=10001 data {data}
        mount -t tmpfs -o mode=1777 tmp {tmp}
        mount -o remount,bind,ro /srv
        cd /srv/stack",
        bin = PathBuf::from(BINARY).parent().unwrap().display(),
        run = WRITABLE[0],
        data = WRITABLE[1],
        tmp = WRITABLE[2],
    )
}

/// firstmate by nonroot.toml, as that user.
fn start(sandbox: &Sandbox, config: &str) -> Firstmate {
    let become_nobody = format!("{}\nset -- {NOBODY} env FIRSTMATE_CONFIG={config} {BINARY}", mounts());
    let mut firstmate = Firstmate::start(sandbox, &PathBuf::from(CONFIG), &become_nobody);
    // The socket is where only its own mounts have it.
    firstmate.socket = PathBuf::from(format!("/proc/{}/root/srv/stack/run/firstmate.sock", firstmate.pid));
    firstmate
}

/// Inside, as that user: exit code and what was said.
fn inside(firstmate: &Firstmate, command: &str) -> (Option<i32>, String) {
    let text = format!("cd / && exec {NOBODY} env -i PATH=/usr/bin:/bin FIRSTMATE_CONFIG={CONFIG} {command}");
    let pid = firstmate.pid.to_string();
    let output = Command::new("nsenter").args(["--target", &pid, "--mount", "--pid", "--", "sh", "-c", &text]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// The three probes' addresses as the Deployment has them, in the order of `kubernetes::PROBES`.
fn asked() -> Vec<String> {
    let deployment = tools::document("examples/kubernetes/deployment.yaml");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    kubernetes::PROBES.map(|(probe, _)| container[probe]["httpGet"]["path"].as_str().unwrap().to_owned()).to_vec()
}

fn code(port: u16, path: &str) -> u16 {
    match get(port, path) {
        Got::Answer(code, _) => code,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn the_stack_is_healthy_and_ends_as_the_platforms_expect() {
    let promise = Promise::new();
    let port = u16::try_from(promise.port).unwrap();
    assert_eq!(u64::from(WEB_PORT), WEB);
    let sandbox = Sandbox::new("platform", &PROGRAMS);
    let mut firstmate = start(&sandbox, CONFIG);
    firstmate.wait_until_well();

    // As little as the files allow.
    let status = std::fs::read_to_string(format!("/proc/{}/status", firstmate.pid)).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "CapBnd:", "NoNewPrivs:"].map(field),
        ["10001 10001 10001 10001", "10001 10001 10001 10001", "", "0000000000000000", "0000000000000000", "0000000000000000", "1"]
    );
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", firstmate.pid)).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        let kernels = ["/proc", "/sys", "/dev"].iter().any(|own| place == *own || place.starts_with(&format!("{own}/")));
        assert!(kernels || WRITABLE.contains(&place) || options.split(',').any(|option| option == "ro"), "{mount}");
    }

    // What the three files ask is answered well, and only that is: another path is not.
    let probes = asked();
    for path in &probes {
        assert_eq!(get(port, path), Got::Answer(200, "ok".to_owned()), "{path}");
    }
    assert_eq!(code(port, "/readiness"), 404);
    assert_eq!(code(WEB_PORT, "/?plain=1"), 200);
    let task: Value = serde_json::from_str(&tools::text("examples/ecs/task-definition.json")).unwrap();
    let compose = tools::document("examples/compose.yaml");
    for command in [&task["containerDefinitions"][0]["healthCheck"]["command"], &compose["services"]["badges"]["healthcheck"]["test"]] {
        let words: Vec<_> = command.as_array().unwrap().iter().skip(1).map(|word| word.as_str().unwrap()).collect();
        assert_eq!(inside(&firstmate, &words.join(" ")), (Some(0), "ok\n".to_owned()));
    }
    // Work is done: through nginx, PHP, Redis and the workers, into Redis's file.
    assert_eq!(code(WEB_PORT, "/enqueue?n=3&ms=10"), 202);
    until("the jobs are done", || match get(WEB_PORT, "/?plain=1") {
        Got::Answer(200, text) if text.contains("jobs_done 3\n") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A crash is not a liveness matter.
    firstmate.kill_and_see_it_replaced("nginx.1");
    assert_eq!(code(port, &probes[1]), 200);
    firstmate.wait_until_well();
    assert!(!firstmate.said().iter().any(|line| line.starts_with("warn") || line.starts_with("error")), "{}", firstmate.log());

    // The end: not ready at once, alive and serving while it drains, gone within its own time.
    let begin = std::time::Instant::now();
    firstmate.signal(libc::SIGTERM);
    until("it is not ready", || match get(port, &probes[2]) {
        Got::Answer(503, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(begin.elapsed() < promise.spec.drain, "too late to look");
    assert_eq!((code(port, &probes[1]), code(WEB_PORT, "/?plain=1")), (200, 200));
    assert_eq!(inside(&firstmate, &format!("{BINARY} check ready")).0, Some(1));
    let ended = firstmate.wait(promise.spec.stop_timeout);
    assert_eq!(ended.code(), Some(0), "{}", firstmate.log());
    assert!(begin.elapsed() >= promise.spec.drain.saturating_sub(Duration::from_millis(50)), "{:?}", begin.elapsed());
    assert!(firstmate.log().ends_with("ended with code 0: SIGTERM received\n"), "{}", firstmate.log());
}
