//! `firstmate update` and SIGHUP against the real supervisor: what has changed moves, and nothing else does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways, until};

both_ways![of_fifty_services_exactly_those_move_that_have_changed];

/// So many services in chains of five: `s5` needs `s4`, and so on.
const SERVICES: usize = 50;

/// What one service's definition is beside the usual.
type Twist = fn(usize) -> Option<&'static str>;

fn stack(dir: &str, names: impl Iterator<Item = usize>, twist: Twist) -> String {
    let mut text = String::new();
    for number in names {
        let needs = if number.is_multiple_of(5) || number >= SERVICES { String::new() } else { format!("s{} = 'started'", number - 1) };
        write!(
            text,
            "[services.s{number}]\nessential = false\ncommand = '{dir}/actor print up sleep'\ndepends_on = {{ {needs} }}\nready = {{ delay = '100ms' }}\n{}\n",
            twist(number).unwrap_or_default()
        )
        .unwrap();
    }
    text
}

fn dir(container: &Container) -> String {
    container.dir().to_str().unwrap().to_owned()
}

fn write(container: &Container, text: &str) {
    std::fs::write(container.dir().join("firstmate.toml"), text).unwrap();
}

fn pids(container: &Container) -> BTreeMap<String, u32> {
    let services = container.status().services;
    let instances = services.into_iter().flat_map(|service| service.instances);
    instances.filter_map(|instance| Some((instance.name, instance.pid?))).collect()
}

fn all_up(container: &Container, count: usize) -> BTreeMap<String, u32> {
    until("all are ready", || container.status().ready.then_some(()));
    until("all are up", || {
        let status = container.status();
        let up = status.services.iter().flat_map(|service| &service.instances).filter(|one| one.ready).count();
        (up == count).then_some(())
    });
    pids(container)
}

/// The names whose pids are others now, or that are new.
fn moved(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> Vec<String> {
    after.iter().filter(|(name, pid)| before.get(*name) != Some(pid)).map(|(name, _)| name.clone()).collect()
}

fn of_fifty_services_exactly_those_move_that_have_changed(place: Place) {
    let setup = Setup::empty();
    let text = stack(setup.dir().to_str().unwrap(), 0..SERVICES, |_| None);
    let container = setup.file("firstmate.toml", 0o644, &text).place(place).start();
    let before = all_up(&container, SERVICES);
    assert_eq!(before.len(), SERVICES);

    let untouched = container.cli(&["update"]);
    assert_eq!(untouched, (0, "nothing has changed: 50 services are as the file says\n".to_owned(), String::new()));

    // Three have changed, one is new, one is gone: nobody depends on s9, and s13 is needed by s14.
    let twist: Twist = |number| match number {
        3 => Some("env = { LEVEL = 'secret' }"),
        13 => Some("umask = '027'"),
        21 => Some("nice = 1"),
        _ => None,
    };
    let new = stack(&dir(&container), (0..=SERVICES).filter(|number| *number != 9), twist);
    write(&container, &new);
    let shown =
        "+ s50\n- s9\n~ s3 (restart)\n    env.LEVEL: new\n~ s13 (restart)\n    umask: new: 027\n~ s21 (restart)\n    nice: new: 1\n";
    let sum = "1 added, 1 removed, 3 changed (3 with a restart), 46 unchanged";
    let (code, out, error) = container.cli(&["update", "--dry-run"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(out, format!("{shown}{sum}; this is only what would be: nothing was changed\n"));
    assert_eq!(container.cli(&["update", "--dry-run", "--exit-code"]).0, 3);
    let (_, out, _) = container.cli(&["update", "--dry-run", "--show-values"]);
    assert!(out.contains("env.LEVEL: new: secret"), "{out}");
    assert_eq!(pids(&container), before, "it was only looked at");

    let (code, out, error) = container.cli(&["update"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let came = "s9.1: removed\ns3.1: restarted\ns13.1: restarted\ns21.1: restarted\ns50.1: started\n";
    assert_eq!(out, format!("{shown}{sum}\n{came}"));
    let after = all_up(&container, SERVICES);
    assert_eq!(moved(&before, &after), ["s13.1", "s21.1", "s3.1", "s50.1"]);
    assert!(!after.contains_key("s9.1"));
    let gone = i32::try_from(before["s9.1"]).unwrap();
    until("nothing is left of it", || (!container.lives(gone)).then_some(()));
    assert_eq!(container.cli(&["status", "s9"]).0, 4, "it is nobody's name any more");
    container.told("the update is done");

    // By a signal, back to where it was.
    write(&container, &text);
    container.signal("HUP");
    until("it is as it was", || {
        let names = pids(&container);
        (names.contains_key("s9.1") && !names.contains_key("s50.1")).then_some(())
    });
    let again = all_up(&container, SERVICES);
    assert_eq!(moved(&after, &again), ["s13.1", "s21.1", "s3.1", "s9.1"]);
    assert_eq!(container.instance("s9.1").run, 2, "a name that comes again goes on counting");

    // As JSON.
    write(&container, &new);
    let (code, out, _) = container.cli(&["update", "--json"]);
    assert_eq!(code, 0, "{out}");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["result"], "update");
    assert_eq!((&told["applied"], &told["added"][0], &told["removed"][0]), (&true.into(), &"s50".into(), &"s9".into()));
    assert_eq!((&told["unchanged"], &told["changed"][0]["name"]), (&46.into(), &"s3".into()));
    assert_eq!(told["changed"][0]["restarted"], true);
    assert_eq!(told["changed"][0]["changes"][0], serde_json::json!({ "key": "env.LEVEL", "kind": "added" }));
    assert_eq!(told["instances"][0], serde_json::json!({ "instance": "s9.1", "outcome": "removed" }));
    all_up(&container, SERVICES);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_file_that_is_wrong_moves_nothing_and_is_told_as_check_config_tells_it() {
    let setup = Setup::empty();
    let main = "include = ['more.toml']\n[services.web]\ncommand = '{actor} print up sleep'\ndepends_on = { db = 'started' }\n";
    let more = "[services.db]\ncommand = '{actor} print up sleep'\nenv_file = 'db.env'\n";
    let container = setup.file("firstmate.toml", 0o644, main).file("more.toml", 0o644, more).file("db.env", 0o644, "A=1\n").start();
    let before = all_up(&container, 2);
    let here = |name: &str| container.dir().join(name);
    let good = std::fs::read_to_string(here("firstmate.toml")).unwrap();
    let good_more = std::fs::read_to_string(here("more.toml")).unwrap();
    let refused = |what: &str| {
        let (code, out, error) = container.cli(&["update"]);
        assert_eq!((code, out.as_str()), (2, ""), "{error}");
        assert!(error.contains(what), "{error}");
        assert!(error.ends_with("error: the file is wrong, and nothing has changed\n  = help: mend it and try again; `firstmate update --dry-run` only shows what would change\n"));
        let file = here("firstmate.toml");
        let (checked, _, complaints) = container.cli(&["check-config", "-f", file.to_str().unwrap()]);
        assert_eq!(checked, 2);
        // firstmate itself runs in that directory, and names files from there.
        let complaints = complaints.replace(&format!(" {}/", dir(&container)), " ");
        assert!(error.starts_with(&complaints), "as check-config has it:\n{complaints}\n{error}");
        assert_eq!(container.cli(&["update", "--dry-run"]).0, 2);
        let told = container.count_told("cannot update, and nothing has changed");
        container.signal("HUP");
        until("the log says so", || (container.count_told("cannot update, and nothing has changed") > told).then_some(()));
        assert_eq!(pids(&container), before, "{what}");
    };
    // A key that is none, a circle, an include that is gone, an environment file that is gone, no file at all.
    write(&container, &good.replace("command", "comand"));
    refused("did you mean `command`?");
    write(&container, &good);
    std::fs::write(here("more.toml"), format!("{good_more}depends_on = ['web']\n")).unwrap();
    refused("depend");
    std::fs::remove_file(here("more.toml")).unwrap();
    refused("more.toml");
    std::fs::write(here("more.toml"), &good_more).unwrap();
    container.remove("db.env");
    refused("db.env");
    std::fs::write(here("db.env"), "A=1\n").unwrap();
    container.remove("firstmate.toml");
    refused("no such file");
    write(&container, &good);
    assert_eq!(container.cli(&["update"]).0, 0);
    assert_eq!(pids(&container), before);
    let (_, events, _) = container.cli(&["events", "--json"]);
    assert!(events.contains("\"kind\":\"update-refused\""), "{events}");
    assert_eq!(container.stop(), 0);
}

#[test]
fn what_no_process_can_notice_is_changed_under_it_and_told_so() {
    let setup = Setup::new("[services.web]\ncommand = '{actor} ignore-term print up sleep'\nstop_timeout = '20s'\n");
    let container = setup.start();
    let before = all_up(&container, 1);
    let text = |more: &str| {
        format!("{more}[services.web]\ncommand = '{}/actor ignore-term print up sleep'\nstop_timeout = '200ms'\n", dir(&container))
    };
    write(&container, &text("[firstmate]\nlog_buffer = '8KiB'\ndrain = '10ms'\n"));
    let (code, out, error) = container.cli(&["update"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let expected = "~ web (without a restart)\n    stop_timeout: 20s -> 200ms\n~ firstmate itself (at once)\n    drain: 0s -> 10ms\n";
    assert!(out.starts_with(expected), "{out}");
    assert!(out.contains("~ firstmate itself (takes effect at the next start of firstmate)\n    log_buffer: 16KiB -> 8KiB\n"), "{out}");
    assert_eq!(pids(&container), before);
    // And it holds.
    assert_eq!(container.cli(&["stop", "web"]).0, 0);
    container.told("web.1 stopped");
    // Who was stopped by hand stays so, and comes back by the new definition.
    write(&container, &text("").replace("print up", "print again"));
    let (code, out, _) = container.cli(&["update"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("web.1: already stopped\n"), "{out}");
    assert_eq!(container.instance("web.1").state, StateName::Stopped);
    assert_eq!(container.cli(&["start", "web"]).0, 0);
    container.said("web.1", "again");
    assert_eq!(container.stop(), 0);
}

#[test]
fn an_update_meets_another_one_and_a_stop() {
    let stack = "[firstmate]\nstop_timeout = '2s'\n[services.web]\nstop_timeout = '25s'\ncommand = '{actor} ignore-term print up sleep'\n";
    let container = Setup::new(stack).start();
    all_up(&container, 1);
    container.said("web.1", "up");
    let changed = stack.replace("{actor}", &format!("{}/actor", dir(&container))).replace("print up", "print other");
    write(&container, &changed);
    let (code, out, _) = container.cli(&["update", "--no-wait"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("web.1: on its way\n"), "{out}");
    container.until_state("web.1", StateName::Stopping);
    let (code, _, error) = container.cli(&["update"]);
    assert_eq!(
        (code, error.as_str()),
        (1, "error: cannot update: an update is under way; wait for it to be done, as `firstmate events` tells\n")
    );
    assert_eq!(container.cli(&["signal", "KILL", "web"]).0, 0);
    container.said("web.1", "other");
    container.until_ready("web.1");
    let (code, out, _) = container.cli(&["update", "--timeout", "100ms"]);
    assert_eq!((code, out.as_str()), (0, "nothing has changed: 1 service is as the file says\n"));
    // Everything stops in the middle of an update.
    write(&container, &changed.replace("print other", "print third").replace("25s", "1s"));
    assert_eq!(container.cli(&["update", "--no-wait"]).0, 0);
    container.until_state("web.1", StateName::Stopping);
    assert_eq!(container.stop(), 0);
    assert!(!container.said_by("web.1").contains(&"third".to_owned()));
}

#[test]
fn entries_of_a_procfile_keep_their_ports() {
    let entry = |name: &str| format!("{name}: {{actor}} print-env PORT print-env FIRSTMATE_CLOCK_PORT sleep\n");
    let setup = Setup::empty().file("Procfile", 0o644, &["web", "worker", "clock"].map(entry).concat());
    let arguments = ["start", "-f", "{dir}/Procfile", "--socket", "{dir}/firstmate.sock", "--http", "off", "--restart"];
    let container = setup.arguments(&arguments).start();
    let before = all_up(&container, 3);
    container.said("clock.1", "5200");
    let there = |name: &str| entry(name).replace("{actor}", &format!("{}/actor", dir(&container)));
    std::fs::write(container.dir().join("Procfile"), ["web", "mailer", "clock"].map(there).concat()).unwrap();
    let (code, out, _) = container.cli(&["update"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("+ mailer\n- worker\n"), "{out}");
    assert!(out.contains("note: FIRSTMATE_MAILER_PORT is 5100 for services that start from now on"), "{out}");
    assert_eq!(moved(&before, &pids(&container)), ["mailer.1"]);
    container.said("mailer.1", "5100");
    container.said("mailer.1", "5200");
    // One that goes leaves the others their ports, although their places are others now.
    std::fs::write(container.dir().join("Procfile"), ["web", "clock"].map(there).concat()).unwrap();
    let (code, out, _) = container.cli(&["update"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("note: clock has PORT 5200 while this firstmate runs"), "{out}");
    assert_eq!(container.pid_of("clock.1"), i32::try_from(before["clock.1"]).unwrap());
    assert_eq!(container.stop(), 0);
}

/// The removal is over when everything is, and that is an answer as well.
#[test]
fn who_waits_for_an_update_is_answered_when_everything_ends_with_it() {
    let stays = "[firstmate]\nstop_timeout = '2s'\n[services.stays]\ncommand = '{actor} print up sleep'\n";
    let gone = "[services.gone]\ncommand = 'trap \"\" TERM; echo deaf; while :; do sleep 0.1; done'\n";
    let container = Setup::new(&format!("{stays}{gone}")).start();
    container.said("gone.1", "deaf");
    write(&container, &stays.replace("{actor}", &format!("{}/actor", dir(&container))));
    std::thread::scope(|scope| {
        let update = scope.spawn(|| container.cli(&["update"]));
        container.told("stopping gone.1 with SIGTERM (update)");
        assert_eq!(container.stop(), 0);
        let (code, shown, error) = update.join().unwrap();
        assert_eq!((code, error.as_str()), (0, ""), "{shown}");
        assert!(shown.ends_with("gone.1: removed\n"), "{shown}");
    });
}

#[test]
fn who_waits_for_an_update_is_told_at_once_what_somebody_else_has_stopped_meanwhile() {
    let file = |level: u8| {
        format!(
            "[services.web]\nenv = {{ LEVEL = '{level}' }}\ncommand = 'trap \"\" TERM; echo deaf; while :; do sleep 0.1; done'\nstop_timeout = '2s'\nstart_timeout = '1h'\n"
        )
    };
    let container = Setup::new(&file(1)).start();
    container.said("web.1", "deaf");
    write(&container, &file(2));
    std::thread::scope(|scope| {
        let update = scope.spawn(|| container.cli(&["update"]));
        container.told("stopping web.1 with SIGTERM (update)");
        assert_eq!(container.cli(&["stop", "web"]).0, 0);
        let (code, shown, error) = update.join().unwrap();
        assert_eq!(code, 1, "{shown}{error}");
        assert!(shown.ends_with("web.1: ERROR (it was stopped meanwhile)\n"), "{shown}{error}");
    });
}

#[test]
fn what_options_add_to_all_services_an_update_adds_as_well() {
    let web = "[services.web]\ncommand = 'tty; exec sleep 1000'\n";
    let words =
        ["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock", "--http", "off", "--tty", "--watch", "{dir}/src"];
    let setup = Setup::new(web).arguments(&words);
    std::fs::create_dir(setup.dir().join("src")).unwrap();
    let container = setup.start();
    let before = container.until_ready("web.1").pid;
    assert_eq!(container.cli(&["update"]), (0, "nothing has changed: 1 service is as the file says\n".to_owned(), String::new()));
    write(&container, &format!("{web}{}", web.replace("web", "new")));
    let (code, shown, error) = container.cli(&["update"]);
    assert_eq!((code, shown.as_str()), (0, "+ new\n1 added, 1 unchanged\nnew.1: started\n"), "{error}");
    assert_eq!(container.instance("web.1").pid, before);
    let terminals = container.said_by("new.1");
    assert!(terminals.iter().all(|line| line.starts_with("/dev/pts/")) && !terminals.is_empty(), "{terminals:?}");
    container.told("new restarts 200 ms after the last change in");
}

/// Who goes because of an update goes only once its old run is over, or that of another one whom a rolling restart brings back.
#[test]
fn who_is_to_go_by_an_update_is_waited_for() {
    let file = |instances: u8, level: u8, more: &str| {
        format!(
            "[services.web]\nenv = {{ LEVEL = '{level}' }}\ncommand = 'trap \"sleep 0.5; exit\" TERM; echo up; while :; do sleep 0.1; done'\ninstances = {instances}\nready = {{ delay = '100ms' }}\n{more}"
        )
    };
    let container = Setup::new(&file(3, 1, "")).start();
    all_up(&container, 3);
    write(&container, &file(2, 2, ""));
    let (code, shown, error) = container.cli(&["update"]);
    assert_eq!(code, 0, "{shown}{error}");
    assert!(shown.contains("web.3: removed\n") && shown.contains("web.2: restarted\n"), "{shown}");

    all_up(&container, 2);
    std::thread::scope(|scope| {
        let from = container.lines().len();
        let roll = scope.spawn(|| container.cli(&["restart", "--rolling", "web"]));
        container.told_from(from, "stopping web.1 with SIGTERM (as asked)");
        write(&container, &file(1, 2, "groups = ['g']"));
        let (code, shown, error) = container.cli(&["update"]);
        assert_eq!(code, 0, "{shown}{error}");
        assert!(shown.ends_with("web.2: removed\n"), "{shown}");
        roll.join().unwrap();
    });
}

#[test]
fn an_update_that_changes_nothing_is_answered_although_nothing_happens() {
    let container = Setup::new("[services.web]\ncommand = 'exec sleep 1000'\n").start();
    container.until_ready("web.1");
    let began = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(container.cli(&["update"]).0, 0);
    }
    let took = began.elapsed();
    // It takes some milliseconds; the next time that anything is due is up to a second away.
    assert!(took < std::time::Duration::from_secs(8), "{took:?}");
}

#[test]
fn why_knows_of_a_service_that_is_no_longer_in_the_file() {
    let stays = "[services.stays]\ncommand = 'exec sleep 1000'\n";
    let gone = "[services.gone]\ncommand = 'exit 3'\nrestart = 'never'\nessential = false\n";
    let container = Setup::new(&format!("{stays}{gone}")).start();
    container.told("gone.1 exited with code 3");
    container.until_ready("stays.1");
    write(&container, stays);
    assert_eq!(container.cli(&["update"]).0, 0);
    for name in ["gone", "gone.1"] {
        let (code, shown, error) = container.cli(&["why", name]);
        assert!(code == 0 && shown.contains("gone.1 (run 1) exited with code 3"), "{shown}{error}");
    }
    assert_eq!(container.cli(&["why", "never"]).0, 4);
}
