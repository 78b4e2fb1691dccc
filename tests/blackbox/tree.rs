//! Process trees: who belongs to a run, what is left of it, and who is left alone.

use std::process::Child;

use crate::harness::{Container, Place, Setup, both_ways, until};

both_ways![
    a_daemonising_service_is_found_and_ended,
    no_daemon_escapes_while_its_parent_is_exiting,
    ten_thousand_orphans_are_reaped,
    a_foreign_process_is_never_signalled,
    a_new_run_gets_the_port_its_predecessors_children_held,
];

fn a_daemonising_service_is_found_and_ended(place: Place) {
    let container = Setup::new(
        "
        [services.daemon]
        command = '{actor} block TERM daemonise write-pid {dir}/daemon print-received TERM sleep'
        give_up_after = 'never'
        backoff = { initial = '50ms', max = '50ms' }
        ",
    )
    .place(place)
    .start();
    // Its main process ends at once and leaves the daemon behind, which is asked to end, and then made to, before there is a next run.
    let (ended, line) = container.told_from(0, "daemon.1 exited with code 0");
    // One, or two while the middle one of the double fork is on its way out.
    assert!(line.text.ends_with(" left behind"), "{}", line.text);
    let daemon = container.pid_in("daemon");
    container.said("daemon.1", "got SIGTERM");
    let asked = container.told_from(ended, "stopping daemon.1 with SIGTERM (its main process is gone)").0;
    let killed = container.told_from(asked, "sending SIGKILL to all of daemon.1").0;
    let again = container.told_from(ended, "daemon.1 started").0;
    assert!(again > killed && !container.lives(daemon));
    assert_eq!(container.stop(), 0);
    // With a PID 1 everything goes; below another init nothing of firstmate's is left either.
    assert!(container.processes().iter().all(|process| process.pid == 1), "{:?}", container.processes());
}

/// At the moment the main process dies, the middle one of the double fork may be anywhere on its way out: without memory (and so without
/// a marker) and not a zombie yet, with the daemon still its child.
fn no_daemon_escapes_while_its_parent_is_exiting(place: Place) {
    let container = Setup::new(
        "
        [services.daemon]
        instances = 4
        command = '{actor} daemonise rename escapee sleep'
        give_up_after = 'never'
        backoff = { initial = '10ms', max = '10ms' }
        ",
    )
    .place(place)
    .start();
    for runs in [15, 30, 45, 60] {
        for number in 1..=4 {
            container.until(&format!("daemon.{number}"), "has had many runs", |instance| instance.run > runs);
        }
        // Pids come again: whoever has one now must not be taken for whoever had it. See ns_last_pid in pid_namespaces(7).
        assert!(container.foreign(&["sh", "-c", "echo 1 > /proc/sys/kernel/ns_last_pid"]).status().unwrap().success());
    }
    assert_eq!(container.cli(&["stop", "all"]).0, 0);
    let left: Vec<_> = container.processes().into_iter().filter(|process| process.name != "firstmate" && process.pid != 1).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(container.stop(), 0);
}

fn ten_thousand_orphans_are_reaped(place: Place) {
    let container = Setup::new(
        "
        [services.mother]
        command = '{actor} wait-file {dir}/go orphans-at-once 10000 print delivered sleep'
        [services.bystander]
        command = '{actor} print up sleep'
        [services.crashing]
        command = '{actor} wait-file {dir}/crash exit 3'
        backoff = { initial = '10ms', max = '10ms' }
        give_up_after = 'never'
        ",
    )
    .place(place)
    .start();
    container.said("bystander.1", "up");
    let bystander = container.pid_of("bystander.1");
    // While firstmate sleeps they all come to wait for it, and one SIGCHLD stands for them all.
    container.signal("STOP");
    container.touch("go");
    until("ten thousand dead wait", || (container.zombies() >= 10_000).then_some(()));
    container.touch("crash");
    container.signal("CONT");
    until("none is left", || (container.zombies() == 0).then_some(()));
    container.said("mother.1", "delivered");
    // Among the strangers is one of its own, whose end it knows.
    container.told("crashing.1 exited with code 3");
    container.told("crashing.1 restarts in");
    container.until_ready("mother.1");
    assert_eq!((container.pid_of("bystander.1"), container.instance("bystander.1").run), (bystander, 1));
    assert_eq!(container.stop(), 0);
}

/// Ends when its test does.
struct Foreign(Child);

impl Foreign {
    fn start(container: &Container, script: &str) -> Self {
        let actor = container.dir().join("actor");
        let words: Vec<&str> = std::iter::once(actor.to_str().unwrap()).chain(script.split(' ')).collect();
        Self(container.foreign(&words).spawn().unwrap())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_foreign_process_is_never_signalled(place: Place) {
    let container = Setup::new(
        "
        [firstmate]
        stop_timeout = '20s'
        [services.web]
        command = '{actor} ignore-term child ignore-term sleep end print up print-received TERM wait-file {dir}/gone sleep'
        stop_timeout = '300ms'
        [services.store]
        command = '{actor} print-received TERM wait-file {dir}/go'
        ",
    )
    .place(place)
    .start();
    let dir = container.dir().to_str().unwrap().to_owned();
    container.said("web.1", "listening for signals");
    container.said("store.1", "listening for signals");
    // One whose parent is outside of the container, and one that it left behind, so that firstmate is its parent now. What they hear
    // they write into files, having no other way to tell.
    let shell = format!(
        "trap 'echo heard >> {dir}/heard' TERM INT HUP CONT QUIT; echo $$ > {dir}/exec.new; mv {dir}/exec.new {dir}/exec; while :; do sleep 1000 & wait $!; done"
    );
    let _exec = Foreign(container.foreign(&["sh", "-c", &shell]).spawn().unwrap());
    let _left = Foreign::start(&container, &format!("daemonise write-pid {dir}/orphan sleep"));
    let exec: i32 = until("it runs", || std::fs::read_to_string(format!("{dir}/exec")).ok()).trim().parse().unwrap();
    let orphan = container.pid_in("orphan");
    let parent = |pid: i32| container.processes().into_iter().find(|process| process.pid == pid).map(|process| process.parent);
    until("firstmate has adopted it", || {
        // Below another init whoever comes from outside is that one's.
        let adopter = if place == Place::Init { 1 } else { parent(orphan)? };
        (parent(orphan) == Some(adopter)).then_some(())
    });

    // Neither a restart nor a stop nor a kill of services is about them.
    assert_eq!(container.cli(&["restart", "web"]).0, 0);
    container.told("sending SIGKILL to all of web.1");
    assert_eq!(container.cli(&["stop", "web"]).0, 0);
    container.signal("TERM");
    container.said("store.1", "got SIGTERM");
    assert!(container.lives(exec) && container.lives(orphan));
    container.touch("go");
    assert_eq!(container.code(), 0);
    if place == Place::Subreaper {
        // The container goes on, and they with it.
        assert!(container.lives(exec) && container.lives(orphan));
    }
    assert!(!container.dir().join("heard").exists(), "a process that is not firstmate's was signalled");
}

fn a_new_run_gets_the_port_its_predecessors_children_held(place: Place) {
    let container = Setup::new(
        "
        [services.master]
        command = '{actor} bind 8080 child write-pid {dir}/worker1 sleep end child setsid ignore-term write-pid {dir}/worker2 sleep end print up sleep'
        stop_timeout = '500ms'
        backoff = { initial = '50ms', max = '50ms' }
        ",
    )
    .place(place)
    .start();
    let mut from = 0;
    for _ in 0..3 {
        let (up, _) = container.said_from(from, "master.1", "up");
        let workers = [container.pid_in("worker1"), container.pid_in("worker2")];
        until("both workers are there", || workers.iter().all(|worker| container.lives(*worker)).then_some(()));
        container.remove("worker1");
        container.remove("worker2");
        container.kill(container.pid_of("master.1"), "KILL");
        let (killed, line) = container.told_from(up, "master.1 killed by SIGKILL after");
        assert!(line.text.ends_with("(not by firstmate); 2 processes left behind"), "{}", line.text);
        // One of them does not listen and is killed.
        container.told_from(killed, "sending SIGKILL to all of master.1");
        let (started, _) = container.told_from(killed, "master.1 started");
        assert!(workers.iter().all(|worker| !container.lives(*worker)), "a new run while the old one's workers live");
        // The port was free: there is no EADDRINUSE.
        container.said_from(started, "master.1", "bound");
        from = started;
    }
    assert_eq!(container.lines().iter().filter(|line| line.kind == "err").count(), 0);
    container.said_from(from, "master.1", "up");
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_tree_of_many_generations_dies_as_a_whole() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} child child child setsid daemonise ignore-term sleep end ignore-term sleep end daemonise ignore-term sleep end child setsid wipe-env ignore-term sleep end ignore-term print up sleep'
        stop_timeout = '200ms'
        [services.bystander]
        command = '{actor} child sleep end sleep'
        ",
    )
    .start();
    container.said("web.1", "up");
    container.until_ready("web.1");
    let before = container.processes().len();
    assert!(before >= 8, "{:?}", container.processes());
    let (code, out, _) = container.cli(&["stop", "web"]);
    assert_eq!((code, out.as_str()), (0, "web.1: stopped\n"));
    // firstmate, the bystander and its child.
    assert_eq!(container.processes().len(), 3, "{:?}", container.processes());
    assert_eq!(container.stop(), 0);
}
