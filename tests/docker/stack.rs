//! The image as it is shipped: who runs in it, and what `docker logs` shows.

use super::client::Got;
use super::container::{Container, STACK, docker_ok, until};

#[test]
fn no_process_but_firstmate_is_root_and_every_line_has_its_service() {
    let container = Container::run(STACK, &[], &[]);
    container.wait_until_well();
    let Got::Answer(200, page) = container.get(8080, "/?plain=1&mark=seen") else { panic!("{}", container.log()) };
    assert!(page.contains("pid1 firstmate\n") && page.contains("supervisor_pid 1\n"), "{page}");
    let Got::Answer(200, html) = container.get(8080, "/") else { panic!("{}", container.log()) };
    assert!(html.contains("Badges, all in one container"), "{html}");

    let processes = container.processes();
    let roots: Vec<_> = processes.iter().filter(|process| process.uid == 0).map(|process| (process.inner, process.name.as_str())).collect();
    assert_eq!(roots, [(1, "firstmate")], "{processes:#?}");
    // A master, two workers; a master, its pool; Redis; two workers of PHP.
    assert!(processes.len() >= 1 + 3 + 2 + 1 + 2, "{processes:#?}");

    // nginx opens /dev/stdout by its name, as www-data; php-fpm opens /proc/self/fd/2.
    let accessed = until("nginx wrote to its log", || {
        let log = container.log();
        log.lines().find(|line| line.contains("mark=seen")).map(str::to_owned).ok_or(log)
    });
    assert!(accessed.contains(" nginx.1 out | ") && accessed.contains("\" 200 "), "{accessed}");
    let log = container.log();
    for prefix in
        ["redis.1 out | ", "migrate.1 out | ", "php-fpm.1 err | ", "nginx.1 out | ", "worker.1 out | ", "worker.2 out | ", "firstmate | "]
    {
        assert!(log.lines().any(|line| line.split_once(' ').is_some_and(|(_, rest)| rest.starts_with(prefix))), "{prefix:?}:\n{log}");
    }
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && rest.contains(" | "), "{line:?}");
    }
    // The file that is shipped has nothing to complain about.
    assert_eq!(container.complaints(), "");
    assert!(!log.contains("firstmate warn") && !log.contains("firstmate error"), "{log}");
    println!("the image has {} bytes", docker_ok(&["image", "inspect", "--format", "{{.Size}}", STACK]));
}

#[test]
fn data_in_the_volume_outlives_the_container() {
    let volume = Volume::new();
    let mount = format!("--volume={}:/srv/stack/data", volume.0);
    let visits = |container: &Container| match container.get(8080, "/?plain=1") {
        Got::Answer(200, page) => page.lines().next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    let first = Container::run(STACK, &[&mount], &[]);
    first.wait_until_well();
    assert_eq!(visits(&first), "visits 1");
    first.stop();
    drop(first);
    let second = Container::run(STACK, &[&mount], &[]);
    second.wait_until_well();
    assert_eq!(visits(&second), "visits 2");
    assert!(second.log().contains("migrate.1 out | schema 1 is current"), "{}", second.log());
}

/// Goes with its test.
struct Volume(String);

impl Volume {
    fn new() -> Self {
        let name = super::container::unique("volume");
        docker_ok(&["volume", "create", "--label", super::container::LABEL, &name]);
        Self(name)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = super::container::docker(&["volume", "rm", &self.0]);
    }
}
