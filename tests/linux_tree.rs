//! Real process trees: who is known to belong to a run, who is not, and who gets which signal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says no by panicking")]

#[path = "linux/stage.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the other process tests")]
mod stage;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use firstmate::engine::spec::Scope;
use firstmate::engine::{InstanceId, Outcome, RunId, ServiceId, Signal};
use firstmate::linux::spawn::{self, Request, Stdio};
use firstmate::linux::tree::{Died, MARKER, Sent, Trees};
use stage::{Stage, actor, launched, plain, until, words};

/// A stage with trees on it.
struct Forest {
    stage: Stage,
    trees: Trees,
    /// What `Trees::died` said, in order.
    died: Vec<Died>,
    scratch: PathBuf,
    /// Kept open, so that nobody dies of a closed pipe.
    outputs: Vec<OwnedFd>,
}

impl Drop for Forest {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

fn run(service: usize, number: u32) -> RunId {
    RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run: number }
}

fn name(run: RunId) -> String {
    format!("s{}.1", run.instance.service.0)
}

/// Every test with each way to find children.
fn in_both_ways(act: impl Fn(&mut Forest)) {
    for files in [true, false] {
        let trees = if files { Trees::new() } else { Trees::new().without_children_files() };
        let scratch = std::env::temp_dir().join(format!("firstmate-tree-{}-{files}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let mut forest = Forest { stage: Stage::new(), trees, died: Vec::new(), scratch, outputs: Vec::new() };
        act(&mut forest);
        forest.clear();
    }
}

impl Forest {
    fn start(&mut self, run: RunId, argv: &[OsString]) -> u32 {
        let mut env = self.stage.env.clone();
        env.set(MARKER.as_ref(), &self.trees.marker(&name(run), run)).unwrap();
        let spawned = spawn::spawn(&Request { working_dir: &self.scratch, stdio: Stdio::Capture, ..plain(argv, &env) }).unwrap();
        self.trees.started(run, &name(run), spawned.pid);
        launched(&spawned).unwrap();
        self.outputs.extend(spawned.stdout);
        spawned.pid
    }

    /// Not a run of ours: no marker, and nobody told the trees.
    fn stranger(&mut self, script: &str) -> u32 {
        let env = self.stage.env.clone();
        let argv = actor(script);
        let spawned = spawn::spawn(&Request { working_dir: &self.scratch, stdio: Stdio::Capture, ..plain(&argv, &env) }).unwrap();
        launched(&spawned).unwrap();
        self.outputs.extend(spawned.stdout);
        spawned.pid
    }

    fn drain(&mut self) {
        while let Some(dead) = self.stage.reaper.peek().unwrap() {
            self.died.push(self.trees.died(dead.pid()));
            let pid = dead.pid();
            self.stage.dead.push((pid, dead.outcome().clone()));
            dead.reap();
            self.trees.reaped(pid);
        }
    }

    /// The pid that the actor wrote to that file.
    fn pid_in(&mut self, file: &str) -> u32 {
        let path = self.scratch.join(file);
        until(file, || {
            self.drain();
            std::fs::read_to_string(&path).ok()?.parse().ok()
        })
    }

    fn until_dead(&mut self, pid: u32) -> Outcome {
        until("it is dead", || {
            self.drain();
            self.stage.dead.iter().find(|(dead, _)| *dead == pid).map(|(_, outcome)| outcome.clone())
        })
    }

    fn left_behind(&mut self, run: RunId) -> Vec<u32> {
        until("the leader is dead", || {
            self.drain();
            self.died.iter().find_map(|died| match died {
                Died::Leader { run: dead, survivors } if *dead == run => Some(survivors.clone()),
                Died::Leader { .. } | Died::Probe | Died::Member(_) | Died::Orphan => None,
            })
        })
    }

    fn until_gone(&mut self, run: RunId) {
        until("the tree is gone", || {
            self.drain();
            self.trees.survivors(run).is_empty().then_some(())
        });
    }

    /// Ends whoever is left, tree or stranger.
    fn clear(&mut self) {
        until("the stage is empty", || {
            self.drain();
            let children = children();
            for &pid in &children {
                kill(pid, libc::SIGKILL);
            }
            children.is_empty().then_some(())
        });
    }
}

fn children() -> Vec<u32> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{own}/task")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path().join("children")).unwrap();
        found.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: numbers only; children of this test's that are not reaped yet.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_run_without_children_leaves_nothing() {
    in_both_ways(|forest| {
        let other = forest.start(run(1, 1), &actor("child sleep end sleep"));
        forest.start(run(0, 1), &actor("exit 0"));
        assert!(forest.left_behind(run(0, 1)).is_empty());
        assert!(lives(other));
    });
}

#[test]
fn children_left_in_the_session_are_survivors() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("child write-pid a sleep end child write-pid b child write-pid c sleep end sleep end sleep"));
        let expected: BTreeSet<u32> = ["a", "b", "c"].map(|file| forest.pid_in(file)).into();
        let seen: BTreeSet<u32> = forest.trees.survivors(run(0, 1)).into_iter().collect();
        assert_eq!(seen, expected, "below a living leader");
        let sent = forest.trees.signal(run(0, 1), Signal::KILL, Scope::Main);
        assert_eq!(sent, Sent { reached: 1, refused: vec![] });
        assert_eq!(forest.left_behind(run(0, 1)).into_iter().collect::<BTreeSet<_>>(), expected);
        // The main process is gone: a stop signal goes to all that is left.
        assert_eq!(forest.trees.stop(run(0, 1), Signal::TERM, Scope::Main).reached, 3);
        forest.until_gone(run(0, 1));
        assert!(expected.iter().all(|&pid| !lives(pid)));
    });
}

#[test]
fn a_daemon_is_found_by_its_marker() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("daemonise write-pid daemon child write-pid below sleep end sleep"));
        forest.left_behind(run(0, 1));
        let expected: BTreeSet<u32> = ["daemon", "below"].map(|file| forest.pid_in(file)).into();
        // The one between leader and daemon may still be about to end when the leader is seen dead.
        until("only daemon and child are left", || {
            forest.drain();
            (forest.trees.survivors(run(0, 1)).into_iter().collect::<BTreeSet<_>>() == expected).then_some(())
        });
        assert_eq!(forest.trees.kill_tree(run(0, 1)).reached, 2);
        forest.until_gone(run(0, 1));
        assert!(expected.iter().all(|&pid| !lives(pid)));
    });
}

#[test]
fn who_was_seen_below_its_leader_stays_known() {
    in_both_ways(|forest| {
        // In another session, and with no marker to be read: only having been seen there tells.
        forest.start(run(0, 1), &actor("child setsid wipe-env write-pid hidden sleep end sleep"));
        let hidden = forest.pid_in("hidden");
        assert_eq!(forest.trees.survivors(run(0, 1)), [hidden]);
        forest.trees.signal(run(0, 1), Signal::KILL, Scope::Group);
        assert_eq!(forest.left_behind(run(0, 1)), [hidden]);
        forest.trees.kill_tree(run(0, 1));
        assert_eq!(forest.until_dead(hidden), Outcome::Signaled(Signal::KILL));
        assert!(forest.died.contains(&Died::Member(run(0, 1))));
        assert!(forest.trees.survivors(run(0, 1)).is_empty());
    });
}

#[test]
fn a_session_seen_in_the_tree_tells_for_its_later_members() {
    in_both_ways(|forest| {
        // The session of the daemon is learned; then a member of it forks somebody without a readable marker and ends.
        forest.start(
            run(0, 1),
            &actor("child setsid write-pid first wipe-env child sleep-ms 300 child write-pid second sleep end end sleep end sleep"),
        );
        let first = forest.pid_in("first");
        assert!(forest.trees.survivors(run(0, 1)).contains(&first));
        let second = forest.pid_in("second");
        until("it is ours", || {
            forest.drain();
            children().contains(&second).then_some(())
        });
        assert!(forest.trees.survivors(run(0, 1)).contains(&second));
    });
}

#[test]
fn strangers_are_never_signalled() {
    in_both_ways(|forest| {
        let leader = forest.start(run(0, 1), &actor("child write-pid own sleep end sleep"));
        let own = forest.pid_in("own");
        // An orphan that is our child now, as docker exec may leave one.
        let parent = forest.stranger("daemonise write-pid orphan child write-pid below sleep end sleep");
        let (orphan, below) = (forest.pid_in("orphan"), forest.pid_in("below"));
        forest.until_dead(parent);
        // One of another firstmate: a marker, but with another token.
        let mut env = forest.stage.env.clone();
        env.set(MARKER.as_ref(), &Trees::new().marker("s0.1", run(0, 1))).unwrap();
        let foreign = spawn::spawn(&plain(&actor("sleep"), &env)).unwrap();
        launched(&foreign).unwrap();

        let sent = forest.trees.kill_tree(run(0, 1));
        assert!(sent.reached >= 1 && sent.refused.is_empty(), "{sent:?}");
        forest.until_dead(leader);
        forest.until_gone(run(0, 1));
        assert!(!lives(own));
        for stranger in [orphan, below, foreign.pid] {
            assert!(lives(stranger), "{stranger}");
        }
        assert!(children().contains(&orphan));
    });
}

#[test]
fn an_unreadable_orphan_is_a_stranger() {
    in_both_ways(|forest| {
        let parent = forest.stranger("daemonise wipe-env write-pid orphan sleep");
        let orphan = forest.pid_in("orphan");
        forest.until_dead(parent);
        // Who is older than a run is none of its. Start times are told in hundredths of a second.
        let started = Instant::now();
        until("the next tick", || (started.elapsed() > Duration::from_millis(20)).then_some(()));
        forest.start(run(0, 1), &actor("exit 0"));
        assert!(forest.left_behind(run(0, 1)).is_empty());
        forest.trees.kill_tree(run(0, 1));
        assert!(lives(orphan));
    });
}

#[test]
fn a_younger_unreadable_orphan_is_waited_for_a_moment_and_never_signalled() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("wait-file go exit 0"));
        let parent = forest.stranger("daemonise wipe-env write-pid orphan sleep");
        let orphan = forest.pid_in("orphan");
        forest.until_dead(parent);
        std::fs::write(forest.scratch.join("go"), "").unwrap();
        assert_eq!(forest.left_behind(run(0, 1)), [orphan]);
        forest.trees.stop(run(0, 1), Signal::TERM, Scope::Main);
        forest.trees.kill_tree(run(0, 1));
        forest.until_gone(run(0, 1));
        assert!(lives(orphan));
    });
}

#[test]
fn a_survivor_that_comes_to_be_known_later_gets_the_stop_signal_too() {
    in_both_ways(|forest| {
        forest.start(
            run(0, 1),
            &actor("child wait-file fork daemonise write-pid late sleep end child write-pid early sleep end wait-file go"),
        );
        let early = forest.pid_in("early");
        std::fs::write(forest.scratch.join("go"), "").unwrap();
        assert_eq!(forest.left_behind(run(0, 1)).len(), 2);
        // Not the one that would end them, so that the first can fork after it.
        forest.trees.stop(run(0, 1), Signal::parse("STOP").unwrap(), Scope::Main);
        forest.trees.stop(run(0, 1), Signal::parse("WINCH").unwrap(), Scope::Main);
        std::fs::write(forest.scratch.join("fork"), "").unwrap();
        let late = forest.pid_in("late");
        assert_eq!(forest.trees.pass_on(run(0, 1)), Sent { reached: 1, refused: Vec::new() }, "{late} is new, {early} is not");
        assert_eq!(forest.trees.pass_on(run(0, 1)), Sent::default());
        forest.trees.kill_tree(run(0, 1));
        forest.until_gone(run(0, 1));
    });
}

#[test]
fn the_next_owner_of_a_pid_is_not_the_old_one() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("child setsid write-pid member sleep end sleep"));
        let member = forest.pid_in("member");
        assert_eq!(forest.trees.survivors(run(0, 1)), [member]);
        kill(member, libc::SIGKILL);
        let started = Instant::now();
        forest.trees.signal(run(0, 1), Signal::KILL, Scope::Main);
        // Reaped without a word to the trees about the member, as if the kernel were faster than we are.
        until("both are reaped", || {
            while let Some(dead) = forest.stage.reaper.peek().unwrap() {
                if dead.pid() != member {
                    forest.trees.died(dead.pid());
                }
                forest.stage.dead.push((dead.pid(), dead.outcome().clone()));
            }
            (forest.stage.dead.iter().filter(|(pid, _)| *pid == member).count() == 1).then_some(())
        });
        // Start times are told in hundredths of a second, and no real counter comes round within one.
        until("the next tick", || (started.elapsed() > Duration::from_millis(20)).then_some(()));
        // A stranger gets the same number, and makes it its session as the member had.
        let stranger = until("the number is to be had again", || {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (member - 1).to_string()).unwrap();
            let stranger = forest.stranger("sleep");
            if stranger == member {
                return Some(stranger);
            }
            // Somebody else on this machine has forked in between.
            kill(stranger, libc::SIGKILL);
            None
        });
        assert!(forest.trees.survivors(run(0, 1)).is_empty());
        forest.trees.signal(run(0, 1), Signal::TERM, Scope::Main);
        forest.trees.kill_tree(run(0, 1));
        assert!(lives(stranger));
    });
}

#[test]
fn probes_are_nobodys_survivors_until_they_are_dead() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("sleep"));
        let mut env = forest.stage.env.clone();
        env.set(MARKER.as_ref(), &forest.trees.marker("s0.1", run(0, 1))).unwrap();
        let argv = actor("child setsid write-pid rest sleep end sleep");
        let probe = spawn::spawn(&Request { working_dir: &forest.scratch, ..plain(&argv, &env) }).unwrap();
        forest.trees.probe_started(probe.pid);
        let rest = forest.pid_in("rest");
        forest.trees.signal(run(0, 1), Signal::KILL, Scope::Main);
        assert!(forest.left_behind(run(0, 1)).is_empty());
        kill(probe.pid, libc::SIGKILL);
        forest.until_dead(probe.pid);
        assert!(forest.died.contains(&Died::Probe));
        assert_eq!(forest.trees.survivors(run(0, 1)), [rest]);
    });
}

#[test]
fn what_a_probe_has_started_ends_with_it() {
    in_both_ways(|forest| {
        forest.start(run(0, 1), &actor("child daemonise write-pid own sleep end sleep"));
        let own = forest.pid_in("own");
        let mut probe = |number: u64, script: &str| {
            let mut marker = forest.trees.marker("s0.1", run(0, 1)).into_vec();
            forest.trees.add_probe_word(&mut marker, number);
            let mut env = forest.stage.env.clone();
            env.set(MARKER.as_ref(), &OsString::from_vec(marker)).unwrap();
            let argv = actor(script);
            let probe = spawn::spawn(&Request { working_dir: &forest.scratch, ..plain(&argv, &env) }).unwrap();
            forest.outputs.extend(probe.stdout);
            (probe.pid, forest.trees.probe_tree(probe.pid, number))
        };
        // What has no marker to be read is below it; what is not below it has its marker.
        let (hung, mut of_hung) =
            probe(7, "child setsid wipe-env write-pid below sleep end child daemonise write-pid away sleep end sleep");
        let (ended, mut of_ended) = probe(77, "child daemonise write-pid rest sleep end wait-file go exit 0");
        let [below, away, rest] = ["below", "away", "rest"].map(|file| forest.pid_in(file));
        until("everybody could be asked", || forest.trees.kill_probe(&mut of_hung).then_some(()));
        for pid in [hung, below, away] {
            assert_eq!(forest.until_dead(pid), Outcome::Signaled(Signal::KILL));
        }
        for pid in [own, ended, rest] {
            assert!(lives(pid), "{pid}");
        }
        // Its main process has ended, and is reaped: the marker alone tells.
        std::fs::write(forest.scratch.join("go"), "").unwrap();
        assert_eq!(forest.until_dead(ended), Outcome::Exited(0));
        of_ended.leader_reaped();
        until("everybody could be asked", || forest.trees.kill_probe(&mut of_ended).then_some(()));
        assert_eq!(forest.until_dead(rest), Outcome::Signaled(Signal::KILL));
        assert!(lives(own));
    });
}

#[test]
fn runs_are_told_apart() {
    in_both_ways(|forest| {
        for service in 0..3 {
            forest.start(run(service, 1), &actor(&format!("child setsid rename a)_R_(b write-pid {service} sleep end sleep")));
        }
        let pids: Vec<u32> = (0..3).map(|service| forest.pid_in(&service.to_string())).collect();
        for service in 0..3 {
            forest.trees.signal(run(service, 1), Signal::KILL, Scope::Group);
        }
        for (service, &pid) in pids.iter().enumerate() {
            assert_eq!(forest.left_behind(run(service, 1)), [pid]);
        }
        forest.trees.kill_tree(run(1, 1));
        forest.until_gone(run(1, 1));
        assert_eq!([lives(pids[0]), lives(pids[1]), lives(pids[2])], [true, false, true]);
        // A second run of the same instance knows nothing of what the first left.
        forest.start(run(0, 2), &actor("exit 0"));
        assert!(forest.left_behind(run(0, 2)).is_empty());
        assert_eq!(forest.trees.survivors(run(0, 1)), [pids[0]]);
    });
}

#[test]
fn a_stopped_process_still_gets_its_stop_signal() {
    in_both_ways(|forest| {
        let pid = forest.start(run(0, 1), &actor("kill-self STOP sleep"));
        until("it is stopped", || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ").then_some(()));
        forest.trees.stop(run(0, 1), Signal::TERM, Scope::Main);
        assert_eq!(forest.until_dead(pid), Outcome::Signaled(Signal::TERM));
    });
}

#[test]
fn the_group_gets_what_is_for_the_group() {
    in_both_ways(|forest| {
        let leader =
            forest.start(run(0, 1), &actor("child write-pid same sleep end child setsid write-pid apart sleep end ignore-term sleep"));
        let (same, apart) = (forest.pid_in("same"), forest.pid_in("apart"));
        // It ignores the signal from the moment it sleeps.
        until("it ignores", || (!ignored(leader).is_multiple_of(2)).then_some(()));
        forest.trees.stop(run(0, 1), Signal::TERM, Scope::Group);
        until("its child is dead", || (!lives(same)).then_some(()));
        assert!(lives(leader) && lives(apart));
        forest.trees.kill_tree(run(0, 1));
        assert_eq!(forest.until_dead(leader), Outcome::Signaled(Signal::KILL));
        forest.until_gone(run(0, 1));
        assert!(!lives(apart));
    });
}

/// 1 when SIGTERM is ignored.
fn ignored(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    (u64::from_str_radix(mask, 16).unwrap() >> (libc::SIGTERM - 1)) & 1
}

#[test]
fn a_fork_storm_is_ended() {
    in_both_ways(|forest| {
        // Children that fork on while they are killed.
        let script = ": >ready; storm() { while :; do setsid sh -c 'sleep 100 & sleep 100' & sleep 0.01; done; }; storm & storm & wait";
        let argv: Vec<OsString> = words("sh -c").into_iter().chain([script.into()]).collect();
        let leader = forest.start(run(0, 1), &argv);
        until("the storm is on", || (forest.trees.survivors(run(0, 1)).len() > 20).then_some(()));
        forest.trees.kill_tree(run(0, 1));
        forest.until_dead(leader);
        until("nothing is left", || {
            forest.drain();
            forest.trees.kill_tree(run(0, 1));
            forest.trees.survivors(run(0, 1)).is_empty().then_some(())
        });
        // Some may have died after the last drain; all have.
        until("all are reaped", || {
            forest.drain();
            children().is_empty().then_some(())
        });
    });
}

#[test]
fn without_the_right_to_trace_a_marker_is_read_as_its_user() {
    // What docker's default set lacks; it is taken from this thread alone.
    drop_right_to_look();
    in_both_ways(|forest| {
        let probe = std::fs::read(format!("/proc/{}/environ", nobody(forest)));
        assert_eq!(probe.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "else this test shows nothing");
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0) };
        let mut env = forest.stage.env.clone();
        env.set(MARKER.as_ref(), &forest.trees.marker("s0.1", run(0, 1))).unwrap();
        let argv: Vec<OsString> = words("sh -c").into_iter().chain(["setsid sleep 1000 & exit 0".into()]).collect();
        let spawned = spawn::spawn(&Request { user: Some("nobody"), ..plain(&argv, &env) }).unwrap();
        forest.trees.started(run(0, 1), "s0.1", spawned.pid);
        let before = (ids(), dumpable());
        forest.left_behind(run(0, 1));
        let left = until("the daemon is known", || {
            let left = forest.trees.survivors(run(0, 1));
            (left.len() == 1).then_some(left)
        });
        assert!(std::fs::read_to_string(format!("/proc/{}/status", left[0])).unwrap().contains("Uid:\t65534"));
        assert_eq!((ids(), dumpable()), before, "our own ids are as they were");
        let mut death_signal = 0;
        // SAFETY: a valid pointer.
        unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death_signal, 0, 0, 0) };
        assert_eq!(death_signal, libc::SIGUSR1);
        assert_eq!(forest.trees.kill_tree(run(0, 1)).reached, 1);
        forest.until_gone(run(0, 1));
    });
}

const NOBODY: u32 = 65_534;

/// Not a run of ours, but it says so.
fn forger(forest: &mut Forest, user: Option<&str>, of: RunId, command: &[OsString]) -> u32 {
    let mut env = forest.stage.env.clone();
    env.set(MARKER.as_ref(), &forest.trees.marker(&name(of), of)).unwrap();
    let spawned = spawn::spawn(&Request { user, ..plain(command, &env) }).unwrap();
    launched(&spawned).unwrap();
    spawned.pid
}

#[test]
fn a_marker_of_another_user_is_enough_to_be_ended_and_not_to_speak() {
    in_both_ways(|forest| {
        let web = run(0, 1);
        let leader = forest.start(web, &actor("child setsid write-pid own sleep end sleep"));
        let own = forest.pid_in("own");
        let never_seen = forger(forest, Some("nobody"), web, &words("sleep 1000"));
        assert_eq!(forest.trees.run_of(never_seen, NOBODY), None);
        assert!(!forest.trees.set_main(web, never_seen));
        // Root may do more than that.
        let root = forger(forest, None, web, &words("sleep 1000"));
        assert_eq!(forest.trees.run_of(root, 0), Some(web));
        // One that firstmate has adopted, and has counted among the survivors.
        let daemonises: Vec<OsString> = words("sh -c").into_iter().chain(["setsid sleep 1000 & exit 0".into()]).collect();
        forger(forest, Some("nobody"), web, &daemonises);
        let is_nobodys = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains("Uid:\t65534"));
        let seen = until("it is counted", || {
            forest.drain();
            forest.trees.survivors(web).into_iter().find(|pid| *pid != never_seen && is_nobodys(pid))
        });
        assert_eq!(forest.trees.run_of(seen, NOBODY), None);
        assert!(!forest.trees.set_main(web, seen));
        // Who descends from the main process speaks for it as whatever user.
        assert_eq!(forest.trees.run_of(own, NOBODY), Some(web));
        assert_eq!(forest.trees.run_of(leader, NOBODY), Some(web));
        assert!(forest.trees.set_main(web, own));
        forest.trees.kill_tree(web);
        until("it is ended", || {
            forest.drain();
            (!lives(seen)).then_some(())
        });
    });
}

#[test]
fn a_marker_of_the_services_own_user_speaks_for_it() {
    in_both_ways(|forest| {
        let web = run(0, 1);
        let mut env = forest.stage.env.clone();
        env.set(MARKER.as_ref(), &forest.trees.marker(&name(web), web)).unwrap();
        let argv = words("sleep 1000");
        let spawned = spawn::spawn(&Request { user: Some("nobody"), ..plain(&argv, &env) }).unwrap();
        launched(&spawned).unwrap();
        forest.trees.started(web, &name(web), spawned.pid);
        let daemon = forger(forest, Some("nobody"), web, &words("sleep 1000"));
        assert_eq!(forest.trees.run_of(daemon, NOBODY), Some(web));
        assert_eq!(forest.trees.run_of(daemon, 1), None);
    });
}

fn nobody(forest: &mut Forest) -> u32 {
    let env = forest.stage.env.clone();
    let argv = words("sleep 1000");
    let spawned = spawn::spawn(&Request { user: Some("nobody"), ..plain(&argv, &env) }).unwrap();
    launched(&spawned).unwrap();
    spawned.pid
}

fn ids() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().filter(|line| ["Uid:", "Gid:", "CapEff:"].iter().any(|name| line.starts_with(name))).collect()
}

fn dumpable() -> i32 {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }
}

fn drop_right_to_look() {
    const SYS_PTRACE: u32 = 19;
    // Since Linux 6.16 these open it too.
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    let header = [0x2008_0522_u32, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: version 3 of the header and its two sets; see capget(2).
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0][0] &= !(1 << SYS_PTRACE | 1 << SYS_ADMIN);
        sets[1][0] &= !(1 << (PERFMON - 32));
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

#[test]
fn who_may_not_be_signalled_is_named() {
    in_both_ways(|forest| {
        let leader = forest.start(run(0, 1), &actor("child setsid write-pid member sleep end sleep"));
        let member = forest.pid_in("member");
        // SAFETY: numbers only. All but the saved id of this thread alone, and back again.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 0) }, 0);
        let sent = forest.trees.kill_tree(run(0, 1));
        // SAFETY: as above.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }, 0);
        assert_eq!(sent, Sent { reached: 0, refused: vec![(leader, libc::EPERM), (member, libc::EPERM)] });
        assert!(lives(leader) && lives(member));
    });
}

#[test]
fn two_hundred_others_are_nobodys_survivors() {
    in_both_ways(|forest| {
        for service in 0..200 {
            forest.start(run(service, 1), &words("sleep 1000"));
        }
        let start = Instant::now();
        for service in 0..20 {
            assert!(forest.trees.survivors(run(service, 1)).is_empty());
        }
        println!("200 living leaders: {:?} a look", start.elapsed() / 20);
        forest.trees.kill_tree(run(7, 1));
        assert!(forest.left_behind(run(7, 1)).is_empty());
        assert_eq!(children().len(), 199);
    });
}
