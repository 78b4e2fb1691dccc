//! The limit in force and what is used of it, as firstmate finds them where cgroup v2 is the real thing.

use crate::machine::{Machine, Output};

const SCRIPT: &str = r#"
section own
group own 100M
within own inside limit inside hog 200

section private
within own inside container ro inside limit inside hog 200

section ancestor
group outer 200M
parent outer
group outer/inner max
group outer/beside max
within outer/beside inside hog 60 >/tmp/beside &
until_true 20 grep -q holding /tmp/beside
within outer/inner inside limit true

section hidden
within outer/inner inside container ro inside limit inside hog 300
kill %1

section without-controller
mkdir -p $CG/own2/below
echo 90M >$CG/own2/memory.max
within own2/below inside limit true

section from-outside
group out 80M
parent out
group out/ns max
group out/other max
within out/ns inside namespace inside limit true

section all-at-once
group all 70M
echo 1 >$CG/all/memory.oom.group
within all inside limit true

section root
group elsewhere 40M
inside limit sh -c 'echo 0 >/sys/fs/cgroup/elsewhere/cgroup.procs && exec inside hog 100'

section change
group change 80M
within change inside limit sh -c 'echo 90M >/sys/fs/cgroup/change/memory.max'
"#;

#[track_caller]
fn found(output: &Output, section: &str, source: &str, mib: u64, place: &str) {
    let told = ["source", "place"].map(|name| output.value(section, name));
    assert_eq!(told, [source, place], "{section}\n{output}");
    assert_eq!(output.number(section, "bytes"), mib << 20, "{section}\n{output}");
}

#[test]
fn the_limit_is_found_and_kills_are_counted() {
    let output = Machine::new().run(SCRIPT);

    // Its own, with and without a namespace; a process that is killed there is counted, though the hierarchy is read-only.
    found(&output, "own", "CgroupV2", 100, "/sys/fs/cgroup/own");
    found(&output, "private", "CgroupV2", 100, "/sys/fs/cgroup");
    for section in ["own", "private"] {
        assert_eq!((output.number(section, "oom_kills"), output.number(section, "after-oom_kills")), (0, 1), "{output}");
        assert_eq!(output.value(section, "oom_group"), "Some(false)");
        assert!((1..20 << 20).contains(&output.number(section, "hard")), "{output}");
    }

    // An ancestor's, and then it is the ancestor's usage; the parts are our own.
    found(&output, "ancestor", "CgroupV2", 200, "/sys/fs/cgroup/outer");
    assert!((60 << 20..90 << 20).contains(&output.number("ancestor", "hard")), "{output}");
    assert!((1..20 << 20).contains(&output.number("ancestor", "anon")), "{output}");

    // One that cannot be seen: the machine's is all there is, but the kill is counted.
    assert_eq!(output.value("hidden", "source"), "Machine", "{output}");
    assert_eq!((output.number("hidden", "oom_kills"), output.number("hidden", "after-oom_kills")), (0, 1), "{output}");

    // Where the controller is not handed down.
    found(&output, "without-controller", "CgroupV2", 90, "/sys/fs/cgroup/own2");

    // Mounted from outside of the namespace: above is visible, and our directory has to be looked for.
    found(&output, "from-outside", "CgroupV2", 80, "/sys/fs/cgroup/out");
    assert_eq!(output.value("from-outside", "path"), "0::/", "{output}");

    assert_eq!(output.value("all-at-once", "oom_group"), "Some(true)");

    // In the root of the hierarchy all kills of the machine are below.
    assert_eq!(output.value("root", "source"), "Machine", "{output}");
    assert_eq!((output.number("root", "oom_kills"), output.number("root", "after-oom_kills")), (0, 1), "{output}");
    assert!(output.number("root", "hard") < 300 << 20, "{output}");

    found(&output, "change", "CgroupV2", 80, "/sys/fs/cgroup/change");
    assert_eq!((output.value("change", "changed"), output.number("change", "after-bytes")), ("true", 90 << 20), "{output}");
}
