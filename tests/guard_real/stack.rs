//! nginx, php-fpm and Redis, as one would write them into a firstmate.toml; with Debian's programs.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::ground::{Crew, Files, Ground, MIB, Place};
use super::native::sandbox::{until, within};

pub const PROGRAMS: [&str; 5] = ["nginx", "php", "php-fpm8.2", "redis-server", "redis-cli"];
pub const HTTP: u16 = 8080;
pub const WORKERS: usize = 60;
/// Those who are to keep their pids.
pub const SERVICES: [&str; 3] = ["nginx", "php-fpm", "redis"];

const NGINX: &str = "
pid run/nginx.pid;
error_log stderr warn;
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path run/nginx-body;
    fastcgi_temp_path run/nginx-fastcgi;
    proxy_temp_path run/nginx-proxy;
    scgi_temp_path run/nginx-scgi;
    uwsgi_temp_path run/nginx-uwsgi;
    default_type text/plain;
    server {
        listen 8080;
        root app;
        location / {
            fastcgi_pass 127.0.0.1:9000;
            fastcgi_read_timeout 60s;
            fastcgi_param SCRIPT_FILENAME $document_root/index.php;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param QUERY_STRING $query_string;
        }
    }
}
";

const POOL: &str = "
[global]
daemonize = no
error_log = /proc/self/fd/2
process_control_timeout = 2s
[www]
listen = 127.0.0.1:9000
listen.backlog = 511
pm = static
pm.max_children = 60
clear_env = no
catch_workers_output = yes
decorate_workers_output = no
php_admin_value[memory_limit] = -1
";

const REDIS: &str = "
port 6379
bind 0.0.0.0
protected-mode no
daemonize no
logfile \"\"
dir data
save \"\"
appendonly no
enable-debug-command yes
";

/// Counts a visit; with `mb`, the worker grows to that first.
const PAGE: &str = r#"<?php
declare(strict_types=1);
$mb = (int) ($_GET['mb'] ?? 0);
for ($held = []; $mb > 0; $mb--) {
    $held[] = str_repeat('x', 1 << 20);
}
$redis = new Redis();
$redis->connect('127.0.0.1', 6379, 30.0);
echo $redis->incr('visits'), "\n";
"#;

/// What every file begins with.
pub const HEAD: &str = r#"
[firstmate]
http = "0.0.0.0:9180"
"#;

const REDIS_SERVICE: &str = r#"
[services.redis]
command = "redis-server redis.conf"
user = "redis"
ready = { exec = "redis-cli -e ping", every = "500ms", timeout = "5s", failures = 20 }
start_timeout = "2m"
"#;

const SERVICES_OF_PHP: &str = r#"
[services.php-fpm]
command = "php-fpm8.2 --nodaemonize --fpm-config php-fpm.conf"
FPM_USER
depends_on = { redis = "ready" }
ready = { tcp = "127.0.0.1:9000", every = "500ms", timeout = "5s", failures = 20 }
stop_signal = "QUIT"
[services.nginx]
command = ["nginx", "-p", ".", "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off;"]
user = "www-data"
depends_on = { php-fpm = "ready" }
ready = { tcp = "127.0.0.1:8080", every = "500ms", timeout = "5s", failures = 20 }
stop_signal = "QUIT"
"#;

/// What a test wants to be different.
pub struct Wish<'a> {
    pub name: &'a str,
    pub place: Place,
    pub limit: u64,
    /// The section `[memory]` and more services.
    pub more: &'a str,
    /// What Redis holds from the start, in MiB.
    pub redis: u64,
    /// More for redis.conf.
    pub redis_conf: &'a str,
    /// Without nginx and php-fpm.
    pub redis_alone: bool,
    /// The main process of php-fpm is root and its workers become www-data, so that nobody may look into them; else all of it is www-data.
    pub root_master: bool,
}

impl<'a> Wish<'a> {
    /// 512 MiB, of which Redis holds half.
    pub fn new(name: &'a str, place: Place, more: &'a str) -> Self {
        Self { name, place, limit: 512 * MIB, more, redis: 256, redis_conf: "", redis_alone: false, root_master: place == Place::Docker }
    }

    /// Everything up, and every worker has answered a request or could have.
    pub fn start(self) -> Ground {
        let files = Files::new(self.place, self.name);
        files.write("nginx.conf", NGINX);
        let pool_user = if self.root_master { "user = www-data\ngroup = www-data\n" } else { "" };
        files.write("php-fpm.conf", &format!("{POOL}{pool_user}"));
        files.write("redis.conf", &format!("{REDIS}{}", self.redis_conf));
        files.write("app/index.php", PAGE);
        let user = if self.root_master { "" } else { "user = \"www-data\"" };
        let services = if self.redis_alone {
            REDIS_SERVICE.to_owned()
        } else {
            format!("{REDIS_SERVICE}{}", SERVICES_OF_PHP.replace("FPM_USER", user))
        };
        files.write("firstmate.toml", &format!("{HEAD}{services}{}", self.more));
        if self.redis > 0 {
            dump(&files, self.redis);
        }
        let ground = Ground::start(self.place, self.name, files, self.limit, false);
        ground.wait_until_well();
        ground
    }
}

/// The crew of the three, complete.
pub fn crew(ground: &Ground) -> Crew {
    let crew = until("all workers are there", || {
        let crew = ground.crew(&SERVICES);
        // Main process, 60 workers; main process, two workers.
        let counts = (crew.count("php-fpm"), crew.count("nginx"), crew.count("redis-server"));
        if counts == (WORKERS + 1, 3, 1) { Ok(crew) } else { Err(format!("{counts:?}")) }
    });
    assert_eq!(crew.len(), WORKERS + 1 + 3 + 1 + 1, "and firstmate");
    crew
}

/// Lets Redis itself write data/dump.rdb with so much in it: values of 256 KiB, of which the file needs little.
fn dump(files: &Files, mib: u64) {
    let socket = files.path().join("data/dump.sock");
    let mut server = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--enable-debug-command", "yes", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(files.path().join("data"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ask = |command: &str| {
        let stream = std::os::unix::net::UnixStream::connect(&socket).map_err(|error| error.to_string())?;
        super::native::client::redis(stream, command)
    };
    let ok = |command: String| {
        within(Duration::from_secs(60), &command, || ask(&command).and_then(|got| if got == "+OK" { Ok(()) } else { Err(got) }))
    };
    ok(format!("DEBUG POPULATE {} key {}", mib * 4, 256 * 1024));
    ok("SAVE".to_owned());
    server.kill().unwrap();
    server.wait().unwrap();
    let _ = std::fs::remove_file(&socket);
    let dump = files.path().join("data/dump.rdb");
    std::fs::set_permissions(dump, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
}
