//! What the memory guard relies on, shown on a real kernel: where a limit can be seen and where it cannot, what the counters say when the OOM
//! killer strikes, and whom it strikes.

use crate::machine::Machine;

/// One boot; each part below is a section of it.
const SCRIPT: &str = r#"
section own-limit
group own 100M
within own sh /limits

section ancestor
group outer 200M
parent outer
group outer/inner max
within outer/inner sh /limits

section private
within own inside container ro sh /limits

section hidden
within outer/inner inside container ro sh /limits

section read-only
within own inside container ro sh -c 'echo 50M >/sys/fs/cgroup/memory.max && echo written; exec 3<>/sys/fs/cgroup/memory.pressure && echo opened'
section writable
within own inside container sh -c 'mkdir /sys/fs/cgroup/x && echo made && rmdir /sys/fs/cgroup/x'

section kills
group kills 40M
for n in 1 2 3; do
    before=$(counter kills memory.events oom_kill)
    within kills inside hog 100
    echo "status$n=$?"
    echo "delta$n=$(($(counter kills memory.events oom_kill) - before))"
done
within kills sh -c 'kill -KILL $$'
echo "plain=$?"
echo "kills=$(counter kills memory.events oom_kill)"

section kills-above
group above 40M
parent above
group above/below max
within above/below inside hog 100
echo "status=$?"
for name in max oom oom_kill; do echo "below-$name=$(counter above/below memory.events $name)"; done
echo "above-oom_kill=$(counter above memory.events oom_kill)"
echo "above-local=$(counter above memory.events.local oom_kill)"

section group-0
group single 60M
within single sh -c 'sleep 1000 & inside hog 10 & inside hog 100; echo "hog=$?"; echo "left=$(wc -l <'$CG'/single/cgroup.procs)"; kill %1 %2'
echo "status=$?"

section group-1
group all 60M
echo 1 >$CG/all/memory.oom.group
within all sh -c 'sleep 1000 & inside hog 10 & inside hog 100; echo survived'
echo "status=$?"
for name in oom_kill oom_group_kill; do echo "$name=$(counter all memory.events $name)"; done

section score
group score 100M
within score inside container ro firstmate start -f /score.toml --http off --socket /run/score.sock
echo "status=$?"

section change
group change 80M
within change inside container ro sh -c 'cat /sys/fs/cgroup/memory.max; touch /tmp/read; while [ -e /tmp/read ]; do usleep 1000; done; cat /sys/fs/cgroup/memory.max' &
until_true 10 test -e /tmp/read
echo 90M >$CG/change/memory.max
rm /tmp/read
wait
"#;

/// What a process finds out about the limit above it.
const LIMITS: &str = r#"
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
echo "path=$own"
echo "root=$(sed -n 's|^[0-9]* [0-9]* [0-9:]* \([^ ]*\) /sys/fs/cgroup .* - cgroup2 .*|\1|p' /proc/self/mountinfo | tail -n 1)"
echo "max=$(cat "/sys/fs/cgroup$own/memory.max")"
echo "above=$(cat "/sys/fs/cgroup$own/../memory.max" 2>/dev/null || echo none)"
"#;

const SCORE: &str = r#"
[services.web]
type = "oneshot"
command = ["sh", "-c", "echo service=$(cat /proc/self/oom_score_adj); echo firstmate=$(cat /proc/1/oom_score_adj)"]
"#;

#[test]
fn what_the_guard_relies_on_holds() {
    let output = Machine::new().text("/limits", LIMITS).text("/score.toml", SCORE).run(SCRIPT);
    // Where the cgroup itself has the limit, and where a visible one above it has.
    assert_eq!((output.value("own-limit", "path"), output.value("own-limit", "root")), ("/own", "/"));
    assert_eq!(output.number("own-limit", "max"), 100 << 20);
    assert_eq!(output.value("ancestor", "max"), "max");
    assert_eq!(output.number("ancestor", "above"), 200 << 20);

    // In a cgroup namespace of its own a container sees itself as the root, and nothing above it.
    assert_eq!((output.value("private", "path"), output.value("private", "root")), ("/", "/"));
    assert_eq!(output.number("private", "max"), 100 << 20);
    assert_eq!((output.value("hidden", "max"), output.value("hidden", "above")), ("max", "none"));

    // What a default container may not do, and what one with a writable cgroup may.
    assert!(!output.section("read-only").contains("written") && !output.section("read-only").contains("opened"));
    assert_eq!(output.section("read-only").matches("Read-only file system").count(), 2, "{output}");
    assert_eq!(output.section("writable"), "made\n");

    // The counter has moved by one when the victim's death can be seen, and does not move for a SIGKILL by anybody else.
    for n in 1..=3 {
        assert_eq!(output.number("kills", &format!("status{n}")), 137);
        assert_eq!(output.number("kills", &format!("delta{n}")), 1);
    }
    assert_eq!((output.number("kills", "plain"), output.number("kills", "kills")), (137, 3));

    // A limit above counts in the victim's own `oom_kill`, and in no other counter of its own.
    assert_eq!(output.number("kills-above", "status"), 137);
    let below = ["below-max", "below-oom", "below-oom_kill"].map(|name| output.number("kills-above", name));
    assert_eq!(below, [0, 0, 1]);
    assert_eq!(output.number("kills-above", "above-oom_kill"), 1);

    // One is killed, or all are, PID 1 of a container among them.
    assert_eq!((output.number("group-0", "hog"), output.number("group-0", "status")), (137, 0));
    assert!(!output.section("group-1").contains("survived"));
    assert_eq!(output.number("group-1", "status"), 137);
    assert_eq!(output.number("group-1", "oom_group_kill"), 1);
    assert!(output.number("group-1", "oom_kill") >= 4, "{output}");

    // The kernel prefers services to firstmate.
    let score = |name: &str| {
        let line = output.section("score").lines().find_map(|line| line.split_once(&format!("{name}="))).map(|(_, value)| value);
        line.and_then(|value| value.trim().parse::<i32>().ok()).unwrap_or_else(|| panic!("no score of {name}\n{output}"))
    };
    assert_eq!(score("service") - score("firstmate"), 100);

    // A limit that is changed is seen at the next look.
    let change: Vec<&str> = output.section("change").lines().collect();
    assert_eq!(change, [(80 << 20).to_string(), (90 << 20).to_string()]);
}
