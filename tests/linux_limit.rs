//! The memory limit in force and the usage that is compared with it: told by the texts that container runtimes make the kernel show, and by real
//! cgroups of this machine.
//!
//! What is real needs root and a writable v1 hierarchy of the memory controller; v2 is looked at in the small machine of `tests/vm`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test is not PID 1, and waits for its own children")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use firstmate::engine::memory::{Parts, Reading};
use firstmate::engine::status::LimitSource;
use firstmate::linux::memory::ecs::EcsLimit;
use firstmate::linux::memory::limit::{Files, UsageOf, Watch};
use firstmate::linux::memory::tmpfs;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const NONE_V1: u64 = 9_223_372_036_854_771_712;
/// Nothing here takes long; what does not hold by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what a thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes on to the system's allocator; the counter is a number that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as of our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as of our caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as of our caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The number of our process in the texts.
const PID: u32 = 4242;

/// A root directory with a /proc and a /sys of texts.
struct Fake(PathBuf);

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Fake {
    /// A machine with 8 GiB. `mounts` are lines of mountinfo, without the first four fields.
    fn new(cgroup: &str, mounts: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let fake = Self(std::env::temp_dir().join(format!("firstmate-limit-{}-{number}", std::process::id())));
        let mut text = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 27 0:21 / /proc rw - proc proc rw\n".to_owned();
        for (number, line) in mounts.lines().enumerate() {
            text += &format!("{} 27 0:{} {}\n", number + 30, number + 40, line.trim());
        }
        fake.file("proc/self/mountinfo", &text);
        fake.file("proc/self/cgroup", cgroup);
        fake.file("proc/meminfo", "MemTotal:        8388608 kB\nMemFree:          100000 kB\nMemAvailable:    6291456 kB\n");
        fake
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// A cgroup of v1 below /sys/fs/cgroup: its own limit, and the one that holds.
    fn v1(&self, path: &str, limit: u64, hierarchical: u64, usage: u64) -> &Self {
        let path = format!("sys/fs/cgroup/{path}");
        self.file(&format!("{path}/memory.limit_in_bytes"), &format!("{limit}\n"));
        self.file(&format!("{path}/memory.usage_in_bytes"), &format!("{usage}\n"));
        self.file(&format!("{path}/memory.use_hierarchy"), "1\n");
        self.file(&format!("{path}/memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        self.file(
            &format!("{path}/memory.stat"),
            &format!(
                "cache 5\nrss 6\ninactive_file 7\nhierarchical_memory_limit {hierarchical}\nhierarchical_memsw_limit {NONE_V1}\n\
                 total_cache {0}\ntotal_rss {1}\ntotal_shmem 2000\ntotal_swap 0\ntotal_inactive_anon 300\ntotal_active_anon {1}\n\
                 total_inactive_file {0}\ntotal_active_file 40\ntotal_unevictable 5\n",
                usage / 4,
                usage / 2
            ),
        )
    }

    /// A cgroup of v2 below /sys/fs/cgroup, with the files of one that is not the root of its hierarchy.
    fn v2(&self, path: &str, max: &str, usage: u64) -> &Self {
        let path = format!("sys/fs/cgroup/{path}");
        self.file(&format!("{path}/cgroup.procs"), "1\n");
        self.file(&format!("{path}/cgroup.events"), "populated 1\nfrozen 0\n");
        self.file(&format!("{path}/memory.max"), &format!("{max}\n"));
        self.file(&format!("{path}/memory.current"), &format!("{usage}\n"));
        self.file(&format!("{path}/memory.swap.current"), "0\n");
        self.file(&format!("{path}/memory.oom.group"), "0\n");
        self.file(&format!("{path}/memory.events"), "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n");
        self.file(
            &format!("{path}/memory.stat"),
            &format!(
                "anon {1}\nfile {0}\nkernel 9\nshmem 2000\ninactive_anon 300\nactive_anon {1}\ninactive_file {0}\nactive_file 40\n\
                 unevictable 5\nslab_reclaimable 60\nslab_unreclaimable 7\n",
                usage / 4,
                usage / 2
            ),
        )
    }

    /// Changes a file in place, as the kernel's do.
    fn change(&self, path: &str, text: &str) {
        assert!(self.0.join(path).exists(), "{path}");
        std::fs::write(self.0.join(path), text).unwrap();
    }

    fn files(&self) -> Files {
        Files::new(&self.0, "self", PID)
    }

    fn watch(&self) -> Watch {
        Watch::new(self.files(), None)
    }

    /// What is found: bytes, source, where the limit is, and whose usage is read.
    #[track_caller]
    fn finds(&self, bytes: u64, source: LimitSource, place: &str, usage_of: &str) {
        let watch = self.watch();
        let limit = watch.limit().expect("there is a limit");
        assert_eq!((limit.bytes, limit.source, limit.place.as_str()), (bytes, source, place));
        let expected = if usage_of.is_empty() { UsageOf::Machine } else { UsageOf::Cgroup(usage_of.to_owned()) };
        assert_eq!(watch.usage_of(), expected);
    }

    #[track_caller]
    fn finds_none(&self) {
        self.finds(8 << 30, LimitSource::Machine, "", "");
    }
}

const TMPFS: &str = "/ /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755\n";
const V2: &str = "/ /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n";

/// The mount of the v1 memory controller with this root.
fn v1_mount(root: &str) -> String {
    format!(
        "{TMPFS}/{0} /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,xattr,name=systemd\n\
         /{0} /sys/fs/cgroup/cpu,cpuacct ro,nosuid,nodev,noexec,relatime master:17 - cgroup cgroup rw,cpu,cpuacct\n\
         /{0} /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:14 - cgroup cgroup rw,memory\n",
        root.trim_start_matches('/')
    )
}

fn v1_lines(path: &str) -> String {
    format!("11:cpu,cpuacct:{path}\n9:memory:{path}\n5:pids:{path}\n1:name=systemd:{path}\n0::/system.slice/containerd.service\n")
}

const DOCKER: &str = "/docker/3f0cdd10c4dd3be0a1a9ae1b7b9f7e6b38a0a1b4f5a79c9f3a1b5b5b2c7a9c51";

#[test]
fn docker_on_v1() {
    let fake = Fake::new(&v1_lines(DOCKER), &v1_mount(DOCKER));
    fake.v1("memory", 256 * MIB, 256 * MIB, 1_000_000);
    fake.finds(256 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
    assert_eq!(fake.watch().oom_group(), Some(false));
}

/// `--cgroup-parent`: the cgroup that has the limit cannot be seen, but its limit can.
#[test]
fn docker_on_v1_with_the_limit_on_an_invisible_parent() {
    let path = format!("/batch{DOCKER}");
    let fake = Fake::new(&v1_lines(&path), &v1_mount(&path));
    fake.v1("memory", NONE_V1, 300 * MIB, 1_000_000);
    fake.finds(300 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
    // A wider one of its own changes nothing.
    fake.v1("memory", 400 * MIB, 300 * MIB, 1_000_000);
    fake.finds(300 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
}

#[test]
fn docker_on_v1_without_a_limit() {
    let fake = Fake::new(&v1_lines(DOCKER), &v1_mount(DOCKER));
    fake.v1("memory", NONE_V1, NONE_V1, 1_000_000);
    fake.finds_none();
    // What firstmate's own cgroup holds is known all the same.
    assert_eq!(fake.watch().counters().read(0).unwrap().parts.map(|parts| parts.anon), Some(500_000));
}

#[test]
fn docker_on_v2_with_a_namespace_of_its_own() {
    let fake = Fake::new("0::/\n", V2);
    fake.v2("", "268435456", 1_000_000);
    fake.finds(256 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
    assert_eq!(fake.watch().oom_group(), Some(false));
}

/// Without a namespace the whole hierarchy is mounted, and the tightest on the way up counts.
#[test]
fn docker_on_v2_with_the_namespace_of_the_host() {
    let fake = Fake::new("0::/system.slice/docker-3f0c.scope\n", V2);
    fake.v2("system.slice/docker-3f0c.scope", "max", 1_000_000).v2("system.slice", "max", 5_000_000);
    // The root of the hierarchy has no such files.
    fake.file("sys/fs/cgroup/cgroup.procs", "1\n").file("sys/fs/cgroup/memory.stat", "anon 5\n");
    fake.finds_none();
    let own = "/sys/fs/cgroup/system.slice/docker-3f0c.scope";
    fake.v2("system.slice/docker-3f0c.scope", "268435456", 1_000_000);
    fake.finds(256 * MIB, LimitSource::CgroupV2, own, own);
    fake.v2("system.slice", "134217728", 5_000_000);
    fake.finds(128 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/system.slice");
    // Of two that are equal the outer one holds more.
    fake.v2("system.slice", "268435456", 5_000_000);
    fake.finds(256 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/system.slice");
}

const POD: &str = "/kubepods/burstable/pod6e1b5a30-5b0e-4b5b-9c36-0c1e2f3a4b5c/8d7c0f";

#[test]
fn kubernetes_on_v1() {
    let fake = Fake::new(&v1_lines(POD), &v1_mount(POD));
    fake.v1("memory", 512 * MIB, 512 * MIB, 1_000_000);
    fake.finds(512 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
}

#[test]
fn kubernetes_on_v2() {
    let fake = Fake::new("0::/\n", V2);
    fake.v2("", "536870912", 1_000_000).file("sys/fs/cgroup/memory.oom.group", "1\n");
    fake.finds(512 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
    assert_eq!(fake.watch().oom_group(), Some(true), "since Kubernetes 1.28");
}

/// A privileged container with the cgroups of the node: the pod's limit counts for all its containers.
#[test]
fn kubernetes_on_v2_seen_from_the_node() {
    let pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6e1b.slice";
    let fake = Fake::new(&format!("0::/{pod}/cri-containerd-8d7c.scope\n"), V2);
    fake.v2(&format!("{pod}/cri-containerd-8d7c.scope"), "629145600", 1_000_000).v2(pod, "536870912", 3_000_000);
    fake.v2("kubepods.slice/kubepods-burstable.slice", "max", 9_000_000).v2("kubepods.slice", "8000000000", 9_000_000);
    fake.finds(512 * MIB, LimitSource::CgroupV2, &format!("/sys/fs/cgroup/{pod}"), &format!("/sys/fs/cgroup/{pod}"));
}

#[test]
fn fargate_shows_no_limit_and_tells_one() {
    let path = "/ecs/0c3b5e0d1f2a4b6c8d9e0f1a2b3c4d5e/0c3b5e0d1f2a4b6c8d9e0f1a2b3c4d5e-1234567890";
    let fake = Fake::new(&v1_lines(path), &v1_mount(path));
    fake.v1("memory", NONE_V1, NONE_V1, 1_000_000);
    let mut watch = fake.watch();
    assert_eq!(watch.limit().map(|limit| limit.source), Some(LimitSource::Machine));
    assert!(watch.wants_ecs());
    assert!(!watch.tell_ecs(None), "ECS knows of none either");
    assert!(!watch.wants_ecs());
    let told = |mib: u64| Some(EcsLimit { bytes: mib * MIB, source: LimitSource::EcsTask, place: "169.254.170.2".to_owned() });
    assert!(watch.tell_ecs(told(4096)));
    let limit = watch.limit().unwrap();
    assert_eq!((limit.bytes, limit.source, limit.place.as_str()), (4096 * MIB, LimitSource::EcsTask, "169.254.170.2"));
    assert_eq!(watch.usage_of(), UsageOf::Cgroup("/sys/fs/cgroup/memory".to_owned()));
    // One that does not bind on this machine is none, and a cgroup's comes first.
    assert!(watch.tell_ecs(told(9000)));
    assert_eq!(watch.limit().map(|limit| limit.source), Some(LimitSource::Machine));
    fake.v1("memory", 512 * MIB, 512 * MIB, 1_000_000);
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| (limit.source, limit.bytes)), Some((LimitSource::CgroupV1, 512 * MIB)));
}

/// podman keeps the payload below the container's own cgroup when systemd may run inside.
#[test]
fn podman_on_v2_with_a_cgroup_inside() {
    let fake = Fake::new("0::/container\n", V2);
    fake.v2("", "314572800", 2_000_000).v2("container", "max", 1_000_000);
    fake.finds(300 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
}

/// Where the controller is not handed down, the memory is accounted for above.
#[test]
fn v2_without_the_controller_in_our_own_cgroup() {
    let fake = Fake::new("0::/user.slice/app.scope\n", V2);
    fake.file("sys/fs/cgroup/user.slice/app.scope/cgroup.procs", "4242\n").v2("user.slice", "314572800", 2_000_000);
    fake.finds(300 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup/user.slice");
    let reading = fake.watch().counters().read(0).unwrap();
    assert_eq!(reading.parts.map(|parts| parts.anon), Some(1_000_000));
}

#[test]
fn systemd_nspawn() {
    let v2 = Fake::new("0::/payload\n", V2);
    v2.v2("", "1073741824", 2_000_000).v2("payload", "max", 1_000_000);
    v2.finds(1024 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
    // v1: the hierarchy of systemd is its own, and the controllers are read-only mounts of the host's.
    let path = "/machine.slice/machine-tree.scope";
    let v1 = Fake::new(&v1_lines(path), &v1_mount("/"));
    v1.v1(&format!("memory{path}"), 1024 * MIB, 1024 * MIB, 1_000_000);
    v1.v1("memory/machine.slice", NONE_V1, NONE_V1, 3_000_000).v1("memory", NONE_V1, NONE_V1, 9_000_000);
    let own = format!("/sys/fs/cgroup/memory{path}");
    v1.finds(1024 * MIB, LimitSource::CgroupV1, &own, &own);
    // With the limit on the slice, it is the slice's usage that the kernel compares.
    v1.v1(&format!("memory{path}"), NONE_V1, 512 * MIB, 1_000_000).v1("memory/machine.slice", 512 * MIB, 512 * MIB, 3_000_000);
    v1.finds(512 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory/machine.slice", "/sys/fs/cgroup/memory/machine.slice");
}

#[test]
fn lxc() {
    // v1 with lxcfs: paths of the host, the hierarchy mounted from the container's cgroup on.
    let v1 = Fake::new(&v1_lines("/lxc/c1/init.scope"), &v1_mount("/lxc/c1"));
    v1.v1("memory", 768 * MIB, 768 * MIB, 2_000_000).v1("memory/init.scope", NONE_V1, 768 * MIB, 1_000_000);
    v1.finds(768 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
    // v2 with a namespace.
    let v2 = Fake::new("0::/.lxc\n", V2);
    v2.v2("", "805306368", 2_000_000).v2(".lxc", "max", 1_000_000);
    v2.finds(768 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
}

#[test]
fn hybrid() {
    // The controller is on v1; the unified hierarchy has none.
    let unified = "/ /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    let fake = Fake::new(&v1_lines("/app"), &(v1_mount("/") + unified));
    fake.v1("memory/app", 64 * MIB, 64 * MIB, 1_000_000).v1("memory", NONE_V1, NONE_V1, 9_000_000);
    fake.file("sys/fs/cgroup/unified/cgroup.procs", "1\n")
        .file("sys/fs/cgroup/unified/system.slice/containerd.service/cgroup.procs", "9\n");
    fake.finds(64 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory/app", "/sys/fs/cgroup/memory/app");
    // The controller is on v2, and v1 has others.
    let mounts = format!("{TMPFS}{unified}/ /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n");
    let fake = Fake::new("2:net_cls:/\n1:name=systemd:/app\n0::/app\n", &mounts);
    fake.v2("unified/app", "67108864", 1_000_000).file("sys/fs/cgroup/unified/cgroup.procs", "1\n");
    fake.finds(64 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/unified/app", "/sys/fs/cgroup/unified/app");
}

/// `-v /sys/fs/cgroup:/sys/fs/cgroup` in a cgroup namespace: the way down from there is told nowhere.
#[test]
fn a_mount_from_outside_of_the_namespace() {
    let mount = V2.replacen('/', "/../..", 1);
    let fake = Fake::new("0::/\n", &mount);
    fake.v2("docker/other", "max", 1).v2("docker/ours", "268435456", 1_000_000).v2("docker", "1073741824", 2_000_000);
    fake.file("sys/fs/cgroup/cgroup.procs", "1\n").file("sys/fs/cgroup/docker/ours/cgroup.procs", "17\n4242\n");
    fake.v2("system.slice/deep/er", "max", 1).file("sys/fs/cgroup/system.slice/deep/er/cgroup.procs", "4242\n");
    fake.finds(256 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/docker/ours", "/sys/fs/cgroup/docker/ours");
    // In a cgroup below the namespace's root.
    fake.v2("docker/ours/web", "134217728", 1_000_000);
    fake.file("proc/self/cgroup", "0::/web\n").file("sys/fs/cgroup/docker/ours/cgroup.procs", "17\n");
    fake.file("sys/fs/cgroup/docker/ours/web/cgroup.procs", "4242\n");
    fake.finds(128 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup/docker/ours/web", "/sys/fs/cgroup/docker/ours/web");
    // Nobody lists us: then nothing is known.
    fake.file("sys/fs/cgroup/docker/ours/web/cgroup.procs", "5\n");
    fake.finds_none();
}

#[test]
fn of_several_mounts_the_one_that_shows_the_most() {
    let host = "/ /host/cgroup ro - cgroup cgroup rw,memory\n";
    let fake = Fake::new(&v1_lines(DOCKER), &(v1_mount(DOCKER) + host));
    fake.v1("memory", 256 * MIB, 128 * MIB, 1_000_000);
    fake.finds(128 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory");
    // There the parent can be seen, and it is the one that has it.
    fake.v1(&format!("../../../host/cgroup{DOCKER}"), 256 * MIB, 128 * MIB, 1_000_000);
    fake.v1("../../../host/cgroup/docker", 128 * MIB, 128 * MIB, 2_000_000).v1("../../../host/cgroup", NONE_V1, NONE_V1, 9_000_000);
    fake.finds(128 * MIB, LimitSource::CgroupV1, "/host/cgroup/docker", "/host/cgroup/docker");
}

#[test]
fn a_mount_that_another_covers_is_not_looked_at() {
    let fake = Fake::new(&v1_lines(DOCKER), &(v1_mount(DOCKER) + "/ /sys/fs/cgroup/memory ro - tmpfs tmpfs ro\n"));
    fake.v1("memory", 256 * MIB, 256 * MIB, 1_000_000);
    fake.finds_none();
    // Twice the same kind: the last is seen.
    let fake = Fake::new("0::/a\n", &format!("{V2}{}", V2.replacen('/', "/a", 1)));
    fake.v2("", "268435456", 1_000_000).v2("a", "1048576", 1);
    fake.finds(256 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
}

#[test]
fn odd_places_and_company() {
    let mounts = "/with\\040blank /mnt/c\\011g rw - cgroup none rw,cpu,memory\n";
    let fake = Fake::new("4:cpu,memory:/with blank/in:side\n", mounts);
    fake.v1("../../../mnt/c\tg/in:side", 64 * MIB, 64 * MIB, 1).v1("../../../mnt/c\tg", NONE_V1, NONE_V1, 2);
    fake.finds(64 * MIB, LimitSource::CgroupV1, "/mnt/c\u{fffd}g/in:side", "/mnt/c\u{fffd}g/in:side");
}

/// Moved out of what is mounted, as `docker exec` of some runtimes does; unless the kernel lists us there all the same.
#[test]
fn paths_that_do_not_meet() {
    for (cgroup, mount) in
        [("0::/../other\n", V2.to_owned()), ("0::/b\n", V2.replacen('/', "/a", 1)), ("0::/b\n", V2.replacen('/', "/../a", 1))]
    {
        let fake = Fake::new(cgroup, &mount);
        fake.v2("", "268435456", 1_000_000);
        fake.finds_none();
        fake.file("sys/fs/cgroup/cgroup.procs", "1\n4242\n");
        fake.finds(256 * MIB, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
    }
}

#[test]
fn numbers_that_are_no_limit() {
    let fake = Fake::new("0::/\n", V2);
    for none in ["max", "0", "4611686018427387904", "8589934593", "18446744073709551616", "-1", "", "much"] {
        fake.v2("", none, 1_000_000);
        fake.finds_none();
    }
    fake.v2("", "8589934592", 1_000_000);
    fake.finds(8 << 30, LimitSource::CgroupV2, "/sys/fs/cgroup", "/sys/fs/cgroup");
}

/// Before Linux 5.11 a cgroup of v1 could be without its ancestors' limits.
#[test]
fn v1_without_hierarchy() {
    let fake = Fake::new(&v1_lines("/a/b"), &v1_mount("/"));
    fake.v1("memory/a/b", 256 * MIB, 256 * MIB, 1_000_000).v1("memory/a", 64 * MIB, 64 * MIB, 1_000_000);
    fake.v1("memory", NONE_V1, NONE_V1, 1).file("sys/fs/cgroup/memory/a/memory.use_hierarchy", "0\n");
    fake.finds(256 * MIB, LimitSource::CgroupV1, "/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a/b");
}

#[test]
fn nothing_is_mounted_or_readable() {
    for cgroup in ["0::/\n", "", &v1_lines(DOCKER)] {
        Fake::new(cgroup, "").finds_none();
        // Mounted, and empty.
        Fake::new(cgroup, V2).finds_none();
        Fake::new(cgroup, &v1_mount(DOCKER)).finds_none();
    }
    let fake = Fake::new("", "");
    std::fs::remove_dir_all(fake.0.join("proc")).unwrap();
    let mut watch = fake.watch();
    assert_eq!(watch.limit(), None);
    assert!(watch.counters().read(0).is_err());
    assert_eq!((watch.counters().oom_kills(), watch.oom_group(), watch.visible()), (None, None, None));
    assert_eq!(tmpfs::used(&fake.files()), []);
}

#[test]
fn a_configured_limit_comes_first() {
    let fake = Fake::new("0::/\n", V2);
    fake.v2("", "268435456", 1_000_000);
    let mut watch = Watch::new(fake.files(), Some(100 * MIB));
    assert_eq!(
        watch.limit().map(|limit| (limit.bytes, limit.source, limit.place.as_str())),
        Some((100 * MIB, LimitSource::Configured, ""))
    );
    assert_eq!(watch.usage_of(), UsageOf::Cgroup("/sys/fs/cgroup".to_owned()));
    assert_eq!(watch.visible(), Some((256 * MIB, "/sys/fs/cgroup".to_owned())));
    assert!(!watch.wants_ecs());
    assert_eq!(watch.counters().read(u64::MAX).unwrap().hard, 1_000_000);
    // Without a cgroup there is but the machine to read.
    let fake = Fake::new("", "");
    let mut watch = Watch::new(fake.files(), Some(100 * MIB));
    assert_eq!((watch.limit().unwrap().source, watch.usage_of()), (LimitSource::Configured, UsageOf::Machine));
    assert_eq!(watch.counters().read(0).unwrap(), Reading { hard: 2 << 30, parts: None });
}

#[test]
fn what_is_read() {
    let v1 = Fake::new(&v1_lines(DOCKER), &v1_mount(DOCKER));
    v1.v1("memory", 256 * MIB, 256 * MIB, 1_000_000);
    let mut watch = v1.watch();
    let parts = Parts { anon: 500_000, shmem: 2000, unreclaimable: 500_305, swap: 0 };
    // Plain usage until it is above.
    assert_eq!(watch.counters().read(1_000_000).unwrap(), Reading { hard: 1_000_000, parts: None });
    assert_eq!(watch.counters().read(999_999).unwrap(), Reading { hard: 1_000_000 - 250_000 - 40, parts: Some(parts) });

    // Where swap is accounted for, v1 has both in one number.
    v1.file("sys/fs/cgroup/memory/memory.memsw.usage_in_bytes", "1300000\n");
    let stat = std::fs::read_to_string(v1.0.join("sys/fs/cgroup/memory/memory.stat")).unwrap();
    v1.change("sys/fs/cgroup/memory/memory.stat", &stat.replace("total_swap 0", "total_swap 300000"));
    let mut watch = v1.watch();
    assert_eq!(watch.counters().read(1_300_000).unwrap(), Reading { hard: 1_300_000, parts: None });
    let expected = Reading { hard: 1_300_000 - 250_040, parts: Some(Parts { swap: 300_000, ..parts }) };
    assert_eq!(watch.counters().read(1_200_000).unwrap(), expected);

    // On v2 reclaimable slab is known, and what is in swap and in memory is counted once.
    let v2 = Fake::new("0::/\n", V2);
    v2.v2("", "268435456", 1_000_000).file("sys/fs/cgroup/memory.swap.current", "300000\n");
    let stat = std::fs::read_to_string(v2.0.join("sys/fs/cgroup/memory.stat")).unwrap();
    v2.file("sys/fs/cgroup/memory.stat", &(stat + "swapcached 1000\n"));
    let expected = Reading { hard: 1_300_000 - 250_040 - 60 - 1000, parts: Some(Parts { swap: 299_000, ..parts }) };
    assert_eq!(v2.watch().counters().read(1_299_999).unwrap(), expected);
    assert_eq!(v2.watch().counters().read(1_300_000).unwrap(), Reading { hard: 1_300_000, parts: None });
}

/// Usage of the one with the limit, parts of our own.
#[test]
fn usage_and_parts_of_two_cgroups() {
    let fake = Fake::new("0::/pod/web\n", V2);
    fake.v2("pod", "268435456", 8_000_000).v2("pod/web", "max", 1_000_000);
    let mut watch = fake.watch();
    let reading = watch.counters().read(0).unwrap();
    assert_eq!(reading.hard, 8_000_000 - 2_000_000 - 40 - 60);
    assert_eq!(reading.parts.map(|parts| parts.anon), Some(500_000));
    // Parts that cannot be read are absent; the rest is not lost with them.
    fake.change("sys/fs/cgroup/pod/web/memory.stat", "");
    assert_eq!(watch.counters().read(0).unwrap(), Reading { hard: reading.hard, parts: None });
}

#[test]
fn a_file_that_fails_is_an_error_until_it_can_be_opened_again() {
    for (path, text) in [("memory.current", ""), ("memory.current", "12x"), ("memory.stat", ""), ("memory.stat", "anon 5\n")] {
        let fake = Fake::new("0::/\n", V2);
        fake.v2("", "268435456", 1_000_000);
        let mut watch = fake.watch();
        assert!(watch.counters().read(0).is_ok());
        fake.change(&format!("sys/fs/cgroup/{path}"), text);
        assert!(watch.counters().read(0).is_err(), "{path} {text:?}");
        // Opened again, and no better.
        watch.check();
        assert!(watch.counters().read(0).is_err(), "{path}");
        fake.v2("", "268435456", 2_000_000);
        watch.check();
        assert_eq!(watch.counters().read(2_000_000).unwrap().hard, 2_000_000);
    }
}

#[test]
fn a_changed_limit_is_noticed() {
    let fake = Fake::new("0::/a/b\n", V2);
    fake.v2("a/b", "268435456", 1_000_000).v2("a", "max", 3_000_000).file("sys/fs/cgroup/cgroup.procs", "1\n");
    let mut watch = fake.watch();
    assert!(!watch.check(), "nothing has happened");
    let bytes = |watch: &Watch| watch.limit().map(|limit| limit.bytes / MIB);
    fake.change("sys/fs/cgroup/a/b/memory.max", "536870912\n");
    assert!(watch.check());
    assert_eq!(bytes(&watch), Some(512));
    // One appears on an ancestor, and its usage is read from then on.
    fake.change("sys/fs/cgroup/a/memory.max", "134217728\n");
    assert!(watch.check());
    assert_eq!((bytes(&watch), watch.usage_of()), (Some(128), UsageOf::Cgroup("/sys/fs/cgroup/a".to_owned())));
    assert_eq!(watch.counters().read(u64::MAX).unwrap().hard, 3_000_000);
    // And goes.
    fake.change("sys/fs/cgroup/a/memory.max", "max\n");
    fake.change("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert!(watch.check());
    assert_eq!((watch.limit().map(|limit| limit.source), watch.usage_of()), (Some(LimitSource::Machine), UsageOf::Machine));
    assert_eq!(watch.counters().read(u64::MAX).unwrap().hard, 2 << 30);
    assert!(!watch.check());
}

#[test]
fn a_move_to_another_cgroup_is_noticed() {
    let fake = Fake::new("0::/a\n", V2);
    fake.v2("a", "268435456", 1_000_000).v2("b", "134217728", 2_000_000);
    let mut watch = fake.watch();
    fake.change("sys/fs/cgroup/a/memory.events", "oom_kill 2\n");
    fake.change("sys/fs/cgroup/b/memory.events", "oom_kill 7\n");
    assert_eq!(watch.counters().oom_kills(), Some(2));
    fake.change("sys/fs/cgroup/a/memory.events", "oom_kill 3\n");
    fake.change("proc/self/cgroup", "0::/b\n");
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| (limit.bytes, limit.place.as_str())), Some((128 * MIB, "/sys/fs/cgroup/b")));
    assert_eq!(watch.counters().read(u64::MAX).unwrap().hard, 2_000_000);
    // The one it has left is counted to the end, and the new one from then on.
    assert_eq!(watch.counters().oom_kills(), Some(3));
    fake.change("sys/fs/cgroup/b/memory.events", "oom_kill 9\n");
    assert_eq!(watch.counters().oom_kills(), Some(5));
}

#[test]
fn a_hierarchy_that_is_mounted_later_is_noticed() {
    let fake = Fake::new("0::/\n", "");
    let mut watch = fake.watch();
    assert!(!watch.check());
    fake.v2("", "268435456", 1_000_000);
    let mounts = std::fs::read_to_string(fake.0.join("proc/self/mountinfo")).unwrap();
    fake.change("proc/self/mountinfo", &format!("{mounts}30 27 0:40 {V2}"));
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| limit.bytes), Some(256 * MIB));
}

/// With a cgroup for each service firstmate lives in one of its own, and the container is above.
#[test]
fn a_move_of_its_own_leaves_the_container_where_it_is() {
    let fake = Fake::new("0::/\n", V2);
    fake.v2("", "268435456", 3_000_000);
    let mut watch = fake.watch();
    fake.change("sys/fs/cgroup/memory.events", "oom_kill 1\n");
    fake.v2("firstmate", "max", 1_000_000).file("proc/self/cgroup", "0::/firstmate\n");
    assert!(!watch.moved_down(1));
    assert_eq!(watch.counters().read(0).unwrap().parts.map(|parts| parts.anon), Some(1_500_000));
    fake.change("sys/fs/cgroup/memory.events", "oom_kill 3\n");
    assert_eq!(watch.counters().oom_kills(), Some(3));
    assert!(!watch.check());
    assert_eq!(watch.counters().read(0).unwrap().parts.map(|parts| parts.anon), Some(1_500_000));
}

/// The root of the whole hierarchy has no counters of its own: it is the machine.
#[test]
fn the_root_of_v2_is_the_machine() {
    let fake = Fake::new("0::/\n", V2);
    fake.file("sys/fs/cgroup/cgroup.procs", "1\n").file("sys/fs/cgroup/memory.stat", "anon 5\n");
    fake.file("proc/vmstat", "nr_free_pages 5\noom_kill 4\nunevictable_pgs_culled 6\n");
    fake.finds_none();
    let mut watch = fake.watch();
    fake.change("proc/vmstat", "nr_free_pages 5\noom_kill 6\n");
    assert_eq!((watch.counters().oom_kills(), watch.oom_group()), (Some(2), Some(false)));
    assert_eq!(watch.counters().read(0).unwrap(), Reading { hard: 2 << 30, parts: None });
    // That of a namespace is not.
    fake.file("sys/fs/cgroup/cgroup.events", "populated 1\n");
    assert_eq!(fake.watch().counters().oom_kills(), None);
}

#[test]
fn an_oom_group_above_counts_too() {
    let fake = Fake::new("0::/a/b\n", V2);
    fake.v2("a/b", "268435456", 1).v2("a", "max", 1);
    assert_eq!(fake.watch().oom_group(), Some(false));
    fake.file("sys/fs/cgroup/a/memory.oom.group", "1\n");
    assert_eq!(fake.watch().oom_group(), Some(true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the files say, there is an answer.
    #[test]
    fn no_texts_panic(
        cgroup in r"([0-9]{1,2}:(|memory|cpu,memory):(/(\.\.|a|b|\\040)){0,4}/?\n){0,3}",
        roots in proptest::collection::vec(r"(/(\.\.|a|b|\\04)){1,3}|/", 0..4),
        numbers in "-?[0-9]{0,20}|max",
        noise: Vec<u8>,
    ) {
        let mut mounts = String::new();
        for (number, root) in roots.iter().enumerate() {
            let kind = if number % 2 == 0 { "cgroup2 c rw" } else { "cgroup c rw,memory" };
            mounts += &format!("{root} /sys/fs/cgroup{} rw - {kind}\n", ["", "/a", "/m"][number % 3]);
        }
        let fake = Fake::new(&cgroup, &mounts);
        for path in ["", "a", "a/b", "m", "m/a"] {
            fake.v2(path, &numbers, 5).v1(path, 5, 6, 7);
            fake.file(&format!("sys/fs/cgroup/{path}/memory.limit_in_bytes"), &numbers);
        }
        let mut watch = fake.watch();
        let _ = watch.counters().read(0);
        for path in ["sys/fs/cgroup/memory.stat", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.max", "proc/meminfo", "proc/self/mountinfo"] {
            std::fs::write(fake.0.join(path), &noise).unwrap();
            let _ = watch.counters().read(0);
            let _ = watch.counters().oom_kills();
            watch.check();
            let _ = Watch::new(fake.files(), None);
        }
        let _ = (watch.oom_group(), tmpfs::used(&fake.files()));
    }
}

// --- the real thing

/// A cgroup of this machine, and what was put there.
struct Group {
    path: PathBuf,
    children: Vec<Child>,
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The kernel needs a moment to let go of the dead.
        until(&format!("{} can be removed", self.path.display()), || {
            let removed = std::fs::remove_dir(&self.path);
            (removed.is_ok() || !self.path.exists()).then_some(())
        });
    }
}

impl Group {
    fn new(name: &str) -> Self {
        let hierarchy = Path::new("/sys/fs/cgroup/memory");
        assert!(hierarchy.join("memory.stat").exists(), "this needs a v1 hierarchy of the memory controller at {}", hierarchy.display());
        Self::at(hierarchy.join(format!("fm-limit-{}-{name}", std::process::id())))
    }

    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("this needs root: {}: {error}", path.display()));
        Self { path, children: Vec::new() }
    }

    fn below(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    fn set(&self, bytes: u64) {
        std::fs::write(self.path.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
    }

    /// Runs a command of the shell in it, and returns its pid once it is there.
    fn run(&mut self, command: &str) -> u32 {
        self.run_by(Command::new("sh").arg("-c"), command)
    }

    fn run_by(&mut self, shell: &mut Command, command: &str) -> u32 {
        let procs = self.path.join("cgroup.procs");
        let child = shell.arg(format!("echo $$ >{} && exec {command}", procs.display())).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let name = self.path.strip_prefix("/sys/fs/cgroup/memory").unwrap().to_str().unwrap().to_owned();
        until("the child is in its cgroup", || std::fs::read_to_string(&path).ok()?.contains(&format!("memory:/{name}\n")).then_some(()));
        pid
    }

    /// What the process `pid`, which is in it, would find.
    fn watch(pid: u32) -> Watch {
        Watch::new(Files::new("/", pid.to_string(), pid), None)
    }

    fn place(&self) -> String {
        self.path.to_str().unwrap().to_owned()
    }
}

fn leaker(words: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join("examples/leaker");
    assert!(path.exists(), "{} is missing: run `cargo build --examples`", path.display());
    format!("{} {words}", path.display())
}

#[test]
fn a_real_limit_of_its_own() {
    let mut group = Group::new("own");
    group.set(64 * MIB);
    let pid = group.run("sleep 1000");
    let mut watch = Group::watch(pid);
    let limit = watch.limit().cloned().unwrap();
    assert_eq!((limit.bytes, limit.source, limit.place), (64 * MIB, LimitSource::CgroupV1, group.place()));
    let reading = watch.counters().read(0).unwrap();
    assert!(reading.hard > 0 && reading.hard < 8 * MIB && reading.parts.is_some(), "{reading:?}");
    // docker update
    assert!(!watch.check());
    group.set(48 * MIB);
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| limit.bytes), Some(48 * MIB));
    group.set(1 << 63);
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| limit.source), Some(LimitSource::Machine));
}

#[test]
fn a_real_limit_on_the_parent_only() {
    let mut parent = Group::new("parent");
    let mut group = parent.below("child");
    let pid = group.run("sleep 1000");
    parent.run(&leaker("plateau size=24MiB"));
    let mut watch = Group::watch(pid);
    assert_eq!(watch.limit().map(|limit| limit.source), Some(LimitSource::Machine));
    parent.set(96 * MIB);
    assert!(watch.check(), "a limit has appeared on an ancestor");
    let limit = watch.limit().cloned().unwrap();
    assert_eq!((limit.bytes, limit.source, limit.place), (96 * MIB, LimitSource::CgroupV1, parent.place()));
    // The neighbour's memory counts, and is none of ours.
    let reading =
        until("the neighbour has its memory", || Some(watch.counters().read(0).unwrap()).filter(|reading| reading.hard > 24 * MIB));
    assert!(reading.hard < 40 * MIB && reading.parts.unwrap().anon < 8 * MIB, "{reading:?}");
}

#[test]
fn a_real_move() {
    let mut one = Group::new("move-from");
    let two = Group::new("move-to");
    one.set(64 * MIB);
    two.set(96 * MIB);
    let pid = one.run("sleep 1000");
    let mut watch = Group::watch(pid);
    std::fs::write(two.path.join("cgroup.procs"), pid.to_string()).unwrap();
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| (limit.bytes, limit.place.clone())), Some((96 * MIB, two.place())));
    // Before the group, so that it can be removed.
    drop(one);
    assert!(watch.counters().read(0).is_ok());
}

/// Tells memory from what only looks like it.
#[test]
fn real_memory_is_hard_and_page_cache_is_not() {
    let mut group = Group::new("hard");
    group.set(256 * MIB);
    let directory = std::env::temp_dir().join(format!("firstmate-limit-cache-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    group.run(&format!("dd if=/dev/zero of={}/file bs=1M count=400 status=none", directory.display()));
    until("the file is written", || group.children[0].try_wait().unwrap());
    let holder = group.run(&leaker("plateau size=40MiB"));
    let mut watch = Group::watch(holder);
    let all = |reading: &Reading| reading.parts.is_some_and(|parts| parts.anon > 40 * MIB);
    let reading = until("it has its memory", || watch.counters().read(0).ok().filter(all));
    let usage = std::fs::read_to_string(group.path.join("memory.usage_in_bytes")).unwrap().trim().parse::<u64>().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(usage > 128 * MIB, "the cache is there: {usage}");
    assert!(reading.hard < 56 * MIB, "{reading:?}");
    let parts = reading.parts.unwrap();
    assert!(parts.anon < 48 * MIB && parts.unreclaimable > 38 * MIB && parts.shmem < MIB, "{parts:?}");
}

#[test]
fn memory_given_back_lazily_is_no_longer_unreclaimable() {
    let mut group = Group::new("lazy");
    group.set(256 * MIB);
    let pid = group.run(&leaker("lazyfree size=64MiB"));
    let mut watch = Group::watch(pid);
    let lazy = |parts: Parts| parts.anon > 64 * MIB && parts.unreclaimable < 16 * MIB;
    let reading = until("it is given back", || watch.counters().read(0).ok().filter(|reading| reading.parts.is_some_and(lazy)));
    assert!(reading.hard < 16 * MIB, "{reading:?}");
}

#[test]
fn memory_in_a_tmpfs_is_told_of_though_its_writer_is_dead() {
    let mut group = Group::new("tmpfs");
    group.set(256 * MIB);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c"]);
    let directory = std::env::temp_dir().join(format!("firstmate-limit-tmpfs-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let place = directory.to_str().unwrap();
    let script = format!(
        "sh -c 'mount -t tmpfs -o size=100m t {place} && mkdir {place}/in && mount -t tmpfs -o size=1m t {place}/in \
         && dd if=/dev/zero of={place}/file bs=1M count=30 status=none && exec sleep 1000'"
    );
    let pid = group.run_by(&mut shell, &script);
    // In its mount namespace, as it would see it.
    let files = Files::new(format!("/proc/{pid}/root"), pid.to_string(), pid);
    let found = until("the file is written", || {
        let found = tmpfs::used(&files);
        found.iter().any(|(point, bytes)| point == place && *bytes == 30 * MIB).then_some(found)
    });
    assert!(!found.iter().any(|(point, _)| point.ends_with("/in")), "an empty one is not told of: {found:?}");
    let mut watch = Watch::new(files, None);
    let reading = watch.counters().read(0).unwrap();
    let parts = reading.parts.unwrap();
    assert!(parts.shmem >= 30 * MIB && reading.hard >= 30 * MIB, "{reading:?}");
    // A few pages of each processor are not on any list yet.
    assert!(parts.unreclaimable > 28 * MIB, "{parts:?}");
    drop(group);
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn a_real_oom_kill_is_counted_and_another_kill_is_not() {
    let mut group = Group::new("oom");
    group.set(32 * MIB);
    let pid = group.run("sleep 1000");
    let mut watch = Group::watch(pid);
    assert_eq!(watch.counters().oom_kills(), Some(0));
    for kills in 1..=3 {
        group.run(&leaker("leak"));
        let status = until("it is killed", || group.children.last_mut().unwrap().try_wait().unwrap());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        // It has been counted when the death can be seen.
        assert_eq!(watch.counters().oom_kills(), Some(kills));
        group.children.pop();
    }
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(group.path.join("cgroup.procs"), other.id().to_string()).unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(watch.counters().oom_kills(), Some(3));
}

#[test]
fn a_cgroup_that_is_removed_is_an_error_and_no_number() {
    let mut group = Group::new("removed");
    group.set(64 * MIB);
    let pid = group.run("sleep 1000");
    let mut watch = Group::watch(pid);
    assert!(watch.counters().read(0).is_ok());
    // The process goes elsewhere, and its old cgroup goes.
    std::fs::write("/sys/fs/cgroup/memory/cgroup.procs", pid.to_string()).unwrap();
    let mut child = group.children.pop().unwrap();
    drop(group);
    let error = watch.counters().read(0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    // The next look finds where it is now: in the root, which has no limit.
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| limit.source), Some(LimitSource::Machine));
    assert!(watch.counters().read(0).unwrap().parts.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// As in a container: only the own cgroup is mounted, read-only, at the place of the hierarchy.
#[test]
fn a_real_bind_mount_that_is_read_only() {
    let parent = Group::new("bound");
    let mut group = parent.below("inner");
    parent.set(64 * MIB);
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c"]);
    let script = format!(
        "sh -c 'mount --bind {} /sys/fs/cgroup/memory && mount -o remount,bind,ro /sys/fs/cgroup/memory && exec sleep 1000'",
        group.place()
    );
    let pid = group.run_by(&mut shell, &script);
    let files = Files::new(format!("/proc/{pid}/root"), pid.to_string(), pid);
    let comm = format!("/proc/{pid}/comm");
    until("it is mounted", || (std::fs::read_to_string(&comm).ok()? == "sleep\n").then_some(()));
    let mut watch = Watch::new(files, None);
    assert_eq!(watch.usage_of(), UsageOf::Cgroup("/sys/fs/cgroup/memory".to_owned()));
    assert_eq!(watch.limit().map(|limit| (limit.bytes, limit.source)), Some((64 * MIB, LimitSource::CgroupV1)));
    let write = std::fs::write(format!("/proc/{pid}/root/sys/fs/cgroup/memory/memory.limit_in_bytes"), "1");
    assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert!(watch.counters().read(0).unwrap().parts.is_some());
    assert_eq!(watch.counters().oom_kills(), Some(0));
    parent.set(72 * MIB);
    assert!(watch.check());
    assert_eq!(watch.limit().map(|limit| limit.bytes), Some(72 * MIB));
}

/// The path of every tick: what is read in the end has been read 100,000 times.
#[test]
fn reading_allocates_nothing() {
    let parent = Group::new("allocations");
    let mut group = parent.below("inner");
    let pid = group.run("sleep 1000");
    let counted = |watch: &mut Watch, what: &str, stat_above: u64| {
        let before = ALLOCATIONS.get();
        let start = Instant::now();
        for _ in 0..100_000 {
            assert!(watch.counters().read(stat_above).is_ok());
        }
        eprintln!("{what}: {:?} a read", start.elapsed() / 100_000);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{what}");
    };
    // The counter counts.
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(ALLOCATIONS.get() - before, 1);

    let mut watch = Group::watch(pid);
    counted(&mut watch, "the machine", u64::MAX);
    counted(&mut watch, "the machine, and parts", 0);
    group.set(64 * MIB);
    watch.check();
    counted(&mut watch, "usage", u64::MAX);
    counted(&mut watch, "usage and memory.stat", 0);
    parent.set(48 * MIB);
    watch.check();
    counted(&mut watch, "usage and memory.stat of two cgroups", 0);
    let before = ALLOCATIONS.get();
    for _ in 0..100_000 {
        assert_eq!(watch.counters().oom_kills(), Some(0));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    // Nor does failing.
    std::fs::write("/sys/fs/cgroup/memory/cgroup.procs", pid.to_string()).unwrap();
    let mut child = group.children.pop().unwrap();
    drop(group);
    drop(parent);
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        assert!(watch.counters().read(0).is_err());
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    child.kill().unwrap();
    child.wait().unwrap();
}
