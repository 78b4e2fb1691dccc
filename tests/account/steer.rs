//! oom_score_adj: raised, inherited, put back, and refused.

use std::collections::BTreeSet;

use firstmate::linux::memory::steer::{PREFERRED, Steering};

use crate::ground::{Ground, docker_capabilities, in_both_ways, run};
use crate::stage::{actor, until};

fn score(pid: u32) -> i32 {
    std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

fn set(pid: u32, value: i32) {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()).unwrap();
}

#[test]
fn a_tree_is_preferred_and_put_back_as_it_was() {
    in_both_ways(|ground| {
        docker_capabilities();
        let inherited = score(std::process::id());
        let script = "child write-pid own wait-file fork child write-pid late sleep end sleep end child write-pid high sleep end sleep";
        let leader = ground.start(0, &actor(script));
        let other = ground.start(1, &actor("sleep"));
        let (own, high) = (ground.pid_in("own"), ground.pid_in("high"));
        set(own, 300);
        set(high, 950);
        let mut steering = Steering::default();
        assert_eq!(steering.steer(&mut ground.trees, run(0), false), [], "nothing was changed");
        assert_eq!(steering.steer(&mut ground.trees, run(0), true), []);
        assert_eq!([score(leader), score(own), score(high), score(other)], [PREFERRED, PREFERRED, 950, inherited]);
        // A second time changes nothing.
        assert_eq!(steering.steer(&mut ground.trees, run(0), true), []);
        std::fs::write(ground.scratch.join("fork"), "").unwrap();
        let late = ground.pid_in("late");
        assert_eq!(score(late), PREFERRED, "it is inherited");
        assert_eq!(steering.steer(&mut ground.trees, run(0), false), []);
        assert_eq!([score(leader), score(own), score(late), score(high)], [inherited, 300, 300, 950]);
    });
}

#[test]
fn who_cannot_be_steered_is_named_once() {
    let mut ground = Ground::new(true);
    let pid = ground.start_as(0, &actor("write-pid root child write-pid other sleep end sleep"), true, None);
    ground.trees.started(run(0), "s0.1", pid);
    let pids = BTreeSet::from([ground.pid_in("root"), ground.pid_in("other")]);
    // A firstmate that is not root.
    // SAFETY: numbers only.
    unsafe { assert_eq!(libc::setresuid(u32::MAX, 33, 0), 0) };
    let mut steering = Steering::default();
    let refused = steering.steer(&mut ground.trees, run(0), true);
    assert_eq!(refused.iter().map(|&(pid, _)| pid).collect::<BTreeSet<_>>(), pids);
    assert!(refused.iter().all(|&(_, errno)| errno == libc::EACCES), "{refused:?}");
    assert_eq!(steering.steer(&mut ground.trees, run(0), true), []);
    // SAFETY: numbers only.
    unsafe { assert_eq!(libc::setresuid(u32::MAX, 0, 0), 0) };
    assert!(pids.iter().all(|&pid| score(pid) == score(std::process::id())));
    until("all are gone", || {
        ground.clear();
        Some(())
    });
}
