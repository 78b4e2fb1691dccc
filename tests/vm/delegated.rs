//! A cgroup for each run: what `tests/vm/inside/cgroups.rs` finds, judged.

use std::fmt::Write as _;

use crate::machine::{Machine, Output};

/// Each in a container of its own, with a limit and its cgroup writable.
const SCENARIOS: [&str; 9] = ["set-up", "again", "usage", "brake", "kill", "oom", "hidden", "limit", "pace"];

/// The same with something in the way.
const REFUSALS: &str = r"
section read-only
group read-only 100M
within read-only inside container ro inside cgroups set-up
ls $CG/read-only | grep firstmate

section busy
group busy 100M
within busy sleep 1000 &
until_true 10 grep -q . $CG/busy/cgroup.procs
within busy inside container inside cgroups set-up
echo inside=$(wc -l <$CG/busy/cgroup.procs)
[ -e $CG/busy/firstmate.0 ] && echo left
echo 1 >$CG/busy/cgroup.kill

section not-handed-down
group above 100M
mkdir $CG/above/below
within above/below inside container inside cgroups set-up
within above/below inside cgroups set-up

section denied
group denied 100M
within denied inside container inside nobody inside cgroups set-up

section nobody
group nobody 100M
for file in . cgroup.procs cgroup.subtree_control; do chown 65534:65534 $CG/nobody/$file; done
within nobody inside container inside nobody inside cgroups set-up
echo exit=$?

section unmounted
umount $CG
inside cgroups set-up
mount -t cgroup2 cgroup2 $CG
";

const MIB: u64 = 1 << 20;

fn play() -> Output {
    let mut script = String::new();
    for name in SCENARIOS {
        writeln!(script, "section {name}\ngroup {name} 256M\nwithin {name} inside container inside cgroups {name}\necho exit=$?").unwrap();
    }
    Machine::new().memory_mib(640).run(&format!("{script}{REFUSALS}"))
}

#[test]
fn each_run_has_a_cgroup_of_its_own() {
    let output = play();
    for name in SCENARIOS {
        assert_eq!(output.number(name, "exit"), 0, "scenario `{name}` failed\n{output}");
    }
    let yes = |section: &str, name: &str| assert_eq!(output.value(section, name), "true", "{section}: {name}\n{output}");
    let no = |section: &str, name: &str| assert_eq!(output.value(section, name), "false", "{section}: {name}\n{output}");
    let below = |section: &str, name: &str, most: u64| {
        let value = output.number(section, name);
        assert!(value < most, "{section}: {name}={value}, and less than {most} is right\n{output}");
    };

    for section in ["set-up", "nobody"] {
        let members = ["own", "beside", "run"].map(|name| output.value(section, name));
        assert_eq!(members, ["0::/firstmate.0", "0::/firstmate.0", "0::/web.1"], "{section}");
        assert_eq!(output.value(section, "handed-down"), "memory pids");
        assert_eq!(output.number(section, "descriptors"), 3, "the program has none but its own");
        yes(section, "removed");
        no(section, "joined-when-removed");
        no(section, "joined-without");
        no(section, "usage-without");
        no(section, "left-without");
    }
    assert_eq!(output.number("nobody", "exit"), 0, "{output}");

    // What an earlier firstmate left is removed, but not what holds processes, nor what is nobody's run.
    assert_eq!(output.value("again", "root"), "/sys/fs/cgroup");
    no("again", "empty.1");
    yes("again", "busy.1");
    yes("again", "other");
    assert_eq!((output.value("again", "run"), output.value("again", "stranger")), ("0::/busy.1-2", "0::/busy.1"));
    assert_eq!(output.number("again", "processes"), 1);

    // Exact to the size of the programs themselves; MADV_FREE gives back.
    below("usage", "small", MIB);
    for (name, mib) in [("anon", 60), ("shared", 30)] {
        let held = output.number("usage", name);
        assert!((mib * MIB..(mib + 1) * MIB).contains(&held), "{name}={held}\n{output}");
    }
    below("usage", "lazy", MIB);
    below("usage", "unmapped", MIB);

    // It does not get to 85 % of the limit, at full speed, for seconds; its handler runs, and the kernel kills nobody.
    for (way, status) in [("exit", 0), ("default", 143), ("ignore", 137)] {
        below("brake", &format!("{way}-peak-at-end"), 85);
        below("brake", &format!("{way}-wrote-ms"), 100);
        below("brake", &format!("{way}-took-ms"), 4000);
        assert_eq!(output.number("brake", &format!("{way}-status")), status, "{output}");
        assert_eq!(output.number("brake", &format!("{way}-oom")), 0, "{output}");
    }

    for name in ["done", "spared", "removed"] {
        yes("kill", name);
    }
    assert_eq!((output.number("kill", "status"), output.number("kill", "oom")), (137, 0), "SIGKILL, and not the OOM killer's");

    // Each kill is counted where it happened, and only the one process dies of it.
    yes("oom", "group-was");
    for run in 1..=3 {
        assert_eq!(output.number("oom", &format!("status{run}")), 137);
        assert_eq!(output.number("oom", &format!("leaking{run}")), 1, "{output}");
        assert_eq!(output.number("oom", &format!("others{run}")), 1, "{output}");
    }
    assert_eq!(output.number("oom", "innocent"), 0);
    yes("oom", "spared");

    assert_eq!((output.number("hidden", "left"), output.value("hidden", "run")), (1, "0::/web.1"));
    yes("hidden", "kill");
    yes("hidden", "nested-removed");

    assert_eq!(output.value("limit", "limit"), format!("Some(({}, \"/sys/fs/cgroup\"))", 256 * MIB));
    yes("limit", "same-limit");
    assert_eq!(output.value("limit", "usage"), "Cgroup(\"/sys/fs/cgroup\")");
    yes("limit", "same-usage");
    assert_eq!(output.number("limit", "kills"), 1, "a kill in a run's cgroup is one of the container\n{output}");

    // One line says what, why, and how to mend it; and nothing is changed.
    for (section, reason, mend) in [
        ("read-only", "/sys/fs/cgroup is read-only", "writable-cgroups=true"),
        ("busy", "processes from outside of the container are in /sys/fs/cgroup", "PID namespace"),
        ("not-handed-down", "not handed down to firstmate's own cgroup;", "Delegate=yes"),
        ("not-handed-down", "not handed down to firstmate's own cgroup, but only as far as /sys/fs/cgroup/above;", "Delegate=yes"),
        ("denied", "/sys/fs/cgroup belongs to another user", "run firstmate as root"),
        ("unmounted", "cgroup v2 with the memory controller is not mounted here", "boot the host with cgroup v2 alone"),
    ] {
        let told =
            output.section(section).lines().find(|line| line.contains(reason)).unwrap_or_else(|| panic!("{section}: {reason}\n{output}"));
        assert!(told.starts_with("inside: ") && told.contains(mend), "{told}");
    }
    assert!(!output.section("read-only").contains("firstmate.0"), "{output}");
    assert!(!output.section("busy").contains("left"), "{output}");
    assert_eq!(output.number("busy", "inside"), 1);
    println!("starts, in microseconds each:\n{}", output.section("pace"));
}
