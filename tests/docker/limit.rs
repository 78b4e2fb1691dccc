//! The memory limit of a container as firstmate finds it there: by the texts and files that the container's PID 1 has before it.

use firstmate::engine::status::LimitSource;
use firstmate::linux::memory::limit::{Files, Watch};

use super::container::{Container, docker_ok, unique};

const IDLE: &str = "[services.idle]\ncommand = \"sleep 1000\"\n";
const MIB: u64 = 1 << 20;

/// What PID 1 of the container sees, looked at from outside.
fn watch(container: &Container) -> Watch {
    let pid = container.inspect("{{.State.Pid}}").parse().unwrap();
    Watch::new(Files::new(format!("/proc/{pid}/root"), "1", pid), None)
}

fn found(watch: &Watch) -> (u64, LimitSource) {
    let limit = watch.limit().unwrap();
    (limit.bytes / MIB, limit.source)
}

#[test]
fn a_container_has_the_limit_it_was_given() {
    let container = Container::busybox(&["--memory=64m"], IDLE);
    let mut watch = watch(&container);
    assert!(matches!(found(&watch), (64, LimitSource::CgroupV1 | LimitSource::CgroupV2)), "{watch:?}");
    assert!(watch.visible().is_some_and(|(_, place)| place.starts_with("/sys/fs/cgroup")), "{watch:?}");
    let reading = watch.counters().read(0).unwrap();
    assert!(reading.hard > 0 && reading.hard < 32 * MIB && reading.parts.is_some(), "{reading:?}");
    assert!(!watch.check());
    docker_ok(&["update", "--memory=80m", "--memory-swap=160m", &container.name]);
    assert!(watch.check());
    assert_eq!(found(&watch).0, 80);
}

#[test]
fn a_container_without_a_limit_has_the_machine() {
    let container = Container::busybox(&[], IDLE);
    let mut watch = watch(&container);
    assert_eq!(found(&watch).1, LimitSource::Machine, "{watch:?}");
    // What is in the container is known all the same.
    assert!(watch.counters().read(0).unwrap().parts.is_some_and(|parts| parts.anon < 64 * MIB));
}

/// The cgroup that has the limit is not mounted in the container. Only v1 tells of it all the same.
#[test]
fn a_limit_on_an_invisible_parent_is_found_on_v1() {
    let hierarchy = std::path::Path::new("/sys/fs/cgroup/memory");
    assert!(hierarchy.join("memory.stat").exists(), "this needs a v1 hierarchy of the memory controller at {}", hierarchy.display());
    let parent = unique("parent");
    // Docker makes the parent, in every hierarchy, and leaves it behind.
    let container = Container::busybox(&[&format!("--cgroup-parent=/{parent}")], IDLE);
    let mut watch = watch(&container);
    assert_eq!(found(&watch).1, LimitSource::Machine);
    std::fs::write(hierarchy.join(&parent).join("memory.limit_in_bytes"), "104857600").unwrap();
    let changed = watch.check();
    let seen = found(&watch);
    drop(container);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(&parent));
    }
    assert!(changed);
    assert_eq!(seen, (100, LimitSource::CgroupV1));
}
