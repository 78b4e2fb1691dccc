//! A stack that has something of everything, explained: `plan.txt` is what people see, `plan.json` what programs do.
//!
//! With FIRSTMATE_BLESS set both are written instead; read their diff.

use std::path::Path;

use super::*;
use crate::config::{self, Inputs};

/// In place of the directory of the run, and as long, so that columns stay.
const SHOWN: &str = "/srv/www/my-app1";

struct Directory(PathBuf);

impl Directory {
    fn new(kind: u8) -> Self {
        let path = PathBuf::from(format!("/tmp/f-{kind}{:08}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(path.to_str().unwrap().len(), SHOWN.len());
        Self(path)
    }

    fn write(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            std::fs::write(self.0.join(name), text).unwrap();
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TOML: &str = r#"
include = ["more.toml"]
procfile = "Procfile"

[firstmate]
drain = "1s"
platform_patience = "40s"

[memory]
restart_above = "70%"

[services.web]
depends_on = ["redis"]
ready = { http = "http://127.0.0.1:8080/healthz", headers = { Authorization = "hush" }, status = 200 }
stop_signal = ["QUIT", "TERM"]
env = { TOKEN = "hush", MODE = "x" }
limits = { nofile = 65536, core = { soft = 0, hard = "unlimited" } }
memory = { restart_above = "200MiB", victim = "last" }
reload_signal = "USR2"

[services.redis]
command = ["./redis", "--save", ""]
user = "nobody"
live = { redis = "127.0.0.1:6379" }
stop_timeout = "2m"
capabilities = ["NET_BIND_SERVICE"]
umask = "027"
nice = 5
"#;

const MORE: &str = r#"
[services.tool]
command = "./tool; echo done"
autostart = false
restart = "on-failure"
inherit_env = false

[services.after]
command = "./redis"
depends_on = { tool = "ready", web = "started" }
ready = { notify = true }
watchdog = "20s"
"#;

const PROCFILE: &str = "release: ./migrate\nweb: gunicorn -b :$PORT app\nworker: ./redis\nno entry here\n";
const DOTENV: &str = "MODE=hush\nPORT=7000\nLANG=hush\nTWICE=hush\nTWICE=hush\nTHIRD=hush\n";

fn inputs(env: &[(&str, &str)]) -> Inputs {
    Inputs { env: env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(), ..Inputs::default() }
}

fn around(inputs: &Inputs, directory: &Path, chosen: Origin) -> Surroundings {
    let limit = Limit { bytes: 512 << 20, source: LimitSource::CgroupV2, place: "/sys/fs/cgroup".to_owned(), growth_max: 0 };
    Surroundings {
        env: inputs.env.clone(),
        directory: directory.to_owned(),
        chosen,
        limit: Some(limit),
        sockets: vec!["/run/firstmate.sock".to_owned(), "@firstmate-0".to_owned()],
        uid: 0,
        passwd: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".to_owned(),
    }
}

fn plan(directory: &Path, file: &str, inputs: &Inputs, chosen: Origin) -> Plan {
    let (loaded, origins) = config::explain(&directory.join(file), inputs).unwrap();
    Plan::new(&loaded, &origins, &around(inputs, directory, chosen))
}

fn compare(name: &str, actual: &str) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/explain").join(name);
    if std::env::var_os("FIRSTMATE_BLESS").is_some() {
        std::fs::write(&fixture, actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&fixture).unwrap());
}

#[test]
fn a_plan_is_told_exactly_so() {
    let directory = Directory::new(1);
    directory.write(&[("firstmate.toml", TOML), ("more.toml", MORE), ("Procfile", PROCFILE), (".env", DOTENV), ("redis", "#!/bin/sh\n")]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.0.join("redis"), mode).unwrap();
    let inputs = inputs(&[("LANG", "C"), ("PATH", "/nowhere"), ("PORT", "80"), ("FIRSTMATE_MEMORY_LIMIT", "auto")]);
    let plan = plan(&directory.0, "firstmate.toml", &inputs, Origin::Default);
    let shown = |text: String| text.replace(directory.0.to_str().unwrap(), SHOWN).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let text = shown(text::render(&plan, false));
    assert!(!text.contains("hush"), "{text}");
    compare("plan.txt", &text);
    let json = shown(serde_json::to_string_pretty(&plan).unwrap() + "\n");
    assert!(!json.contains("hush"), "{json}");
    compare("plan.json", &json);
    // Whoever starts it needs none of this.
    let loaded = config::load(&directory.0.join("firstmate.toml"), &inputs).unwrap();
    assert_eq!(loaded, config::explain(&directory.0.join("firstmate.toml"), &inputs).unwrap().0);
}

fn port_of(plan: &Plan) -> (Option<u16>, String) {
    let setting = plan.services.iter().flat_map(|service| &service.settings).find(|setting| setting.key == "PORT").unwrap();
    (plan.services.last().unwrap().instances[0].port, setting.from.to_string())
}

#[test]
fn precedence_is_told_as_it_was_decided() {
    let directory = Directory::new(2);
    directory.write(&[("Procfile", "web: x\nworker: y\n"), (".env", "\nPORT=7000\n"), ("other.env", "PORT=7500\n")]);
    let whats = |plan: &Plan| plan.ignored.iter().map(|ignored| format!("{}: {}", ignored.what, ignored.why)).collect::<Vec<_>>();
    let told = |inputs: &Inputs, chosen| plan(&directory.0, "Procfile", inputs, chosen);

    let env = inputs(&[("PORT", "80"), ("FIRSTMATE_CONFIG", "x")]);
    let dotenv = directory.0.join(".env");
    let by_file = told(&env, Origin::CommandLine("-f"));
    assert_eq!(port_of(&by_file), (Some(7100), format!("{}:2", dotenv.display())));
    assert_eq!(
        whats(&by_file),
        ["$FIRSTMATE_CONFIG: -f comes before it".to_owned(), format!("$PORT: PORT of {}:2 comes before it", dotenv.display())]
    );

    let by_option = told(&Inputs { port: Some(9000), ..env.clone() }, Origin::Default);
    assert_eq!(port_of(&by_option), (Some(9100), "-p".to_owned()));
    assert!(whats(&by_option).contains(&"PORT: -p comes before it".to_owned()), "{:?}", whats(&by_option));

    let by_other = told(&Inputs { env_files: vec![directory.0.join("other.env")], ..env.clone() }, Origin::Default);
    assert_eq!(port_of(&by_other).0, Some(7600));

    std::fs::remove_file(&dotenv).unwrap();
    assert_eq!(port_of(&told(&env, Origin::Default)), (Some(180), "$PORT".to_owned()));
    let bare = told(&inputs(&[]), Origin::Default);
    assert_eq!(port_of(&bare), (Some(5100), "default".to_owned()));
    assert!(bare.ignored.is_empty() && bare.warnings.is_empty());

    let limited =
        inputs(&[("FIRSTMATE_MEMORY_LIMIT", "1GiB"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("FIRSTMATE_TERMINATION_LOG", "off")]);
    let plan = told(&limited, Origin::Default);
    let from = |settings: &[Setting], key: &str| settings.iter().find(|setting| setting.key == key).unwrap().from.to_string();
    assert_eq!(from(&plan.memory, "limit"), "$FIRSTMATE_MEMORY_LIMIT");
    assert_eq!(from(&plan.firstmate, "termination_log"), "$FIRSTMATE_TERMINATION_LOG");
    assert_eq!(from(&plan.firstmate, "stop_timeout"), "Kubernetes waits 30s by default (KUBERNETES_SERVICE_HOST is set)");
}

#[test]
fn files_that_come_later_are_named() {
    let directory = Directory::new(3);
    directory.write(&[("firstmate.toml", "[services.a]\ncommand = \"x\"\n"), ("Procfile", "web: x\n")]);
    let later = directory.0.join("Procfile").display().to_string();
    let named = |plan: &Plan| plan.ignored.iter().any(|ignored| ignored.what == later);
    assert!(named(&plan(&directory.0, "firstmate.toml", &inputs(&[]), Origin::Default)));
    assert!(!named(&plan(&directory.0, "firstmate.toml", &inputs(&[]), Origin::CommandLine("-f"))));
    directory.write(&[("firstmate.toml", "procfile = \"Procfile\"\n")]);
    assert!(!named(&plan(&directory.0, "firstmate.toml", &inputs(&[]), Origin::Default)), "it is read");
}

#[test]
fn nothing_in_a_file_can_forge_a_line() {
    let directory = Directory::new(4);
    let evil = "[services.a]\ncommand = [\"x\\u001b[2J\", \"\\nservice forged\\n  user  root\"]\nuser = \"\\u202eroot\"\nworking_dir = \"/\\r/x\"\n\
                env = { \"A\\nB\" = \"1\" }\nready = { tcp = \"127.0.0.1:80\" }\nnew = \"x\"\n";
    directory.write(&[("firstmate.toml", &evil.replace("new = \"x\"\n", ""))]);
    let plan = plan(&directory.0, "firstmate.toml", &inputs(&[("C\nD", "x")]), Origin::Default);
    for color in [false, true] {
        let text = text::render(&plan, color).replace(super::text::OFF, "").replace(super::text::DIM, "").replace(super::text::BOLD, "");
        assert!(!text.chars().any(|c| c != '\n' && crate::engine::text::is_active(c)), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("service forged") || line.starts_with("  user  root")), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("service ")).count(), 1);
    }
}

#[test]
fn two_hundred_services_fit_a_narrow_window() {
    let directory = Directory::new(5);
    let text: String =
        (0..200).map(|number| format!("[services.service-number-{number}]\ncommand = \"sleep {}\"\n", "9".repeat(90))).collect();
    directory.write(&[("firstmate.toml", &text)]);
    let text = text::render(&plan(&directory.0, "firstmate.toml", &inputs(&[]), Origin::Default), true);
    assert!(text.lines().count() > 2_000);
    let fitted = terminal::fit(&text, Some(40));
    assert_eq!(fitted.lines().count(), text.lines().count());
    let plain = fitted.replace(super::text::OFF, "").replace(super::text::DIM, "").replace(super::text::BOLD, "");
    assert!(plain.lines().all(|line| line.chars().count() <= 40));
}
