//! Services that begin anew when files change.

use std::fs;

use firstmate::engine::status::StateName;

use crate::harness::{Container, Place, Setup, both_ways};

both_ways![a_change_restarts_the_service_and_is_told_as_such];

const CONFIG: &str = "
    [services.web]
    command = 'exec sleep 1000'
    watch = { paths = ['src', 'app.conf'], ignore = ['*.css', 'src/generated'], debounce = '50ms' }
    [services.db]
    command = 'exec sleep 1000'
    ";

fn started(setup: Setup) -> Container {
    fs::create_dir_all(setup.dir().join("src/deep")).unwrap();
    fs::write(setup.dir().join("src/app.py"), "1").unwrap();
    fs::write(setup.dir().join("app.conf"), "1").unwrap();
    let container = setup.start();
    container.until_ready("web.1");
    container
}

/// Changes something and waits for the new run it makes.
#[track_caller]
fn changes(container: &Container, what: &str, change: impl FnOnce(&std::path::Path)) {
    let before = container.until_ready("web.1").run;
    let from = container.lines().len();
    change(container.dir());
    container.told_from(from, &format!("{what} changed: web restarts"));
    container.until("web.1", "it runs anew", |now| now.run == before + 1 && now.ready);
}

fn a_change_restarts_the_service_and_is_told_as_such(place: Place) {
    let container = started(Setup::new(CONFIG).place(place));
    let db = container.pid_of("db.1");
    changes(&container, "src/app.py", |dir| fs::write(dir.join("src/app.py"), "2").unwrap());
    container.told("stopping web.1 with SIGTERM (watch)");
    container.told("web.1 restarts now (watch)");
    let now = container.instance("web.1");
    assert_eq!((now.restarts.total, now.restarts.watch, now.restarts.crash), (1, 1, 0));
    let (_, metrics) = container.ask("GET", "/metrics").unwrap();
    assert!(metrics.contains("firstmate_service_restarts_total{name=\"web\",number=\"1\",cause=\"watch\"} 1\n"), "{metrics}");
    let (_, table, _) = container.cli(&["status", "web"]);
    assert!(table.contains("1 restart (1 watch)"), "{table}");
    let (_, why, _) = container.cli(&["why"]);
    assert!(!why.contains("web.1"), "it is no incident: {why}");
    assert_eq!(container.pid_of("db.1"), db, "nobody else is restarted");
    assert_eq!(container.stop(), 0);
}

#[test]
fn whatever_way_a_file_changes_it_is_noticed() {
    let container = started(Setup::new(CONFIG));
    // A file of its own, written in place and replaced.
    changes(&container, "app.conf", |dir| fs::write(dir.join("app.conf"), "22").unwrap());
    changes(&container, "app.conf", |dir| {
        fs::write(dir.join("app.conf.new"), "333").unwrap();
        fs::rename(dir.join("app.conf.new"), dir.join("app.conf")).unwrap();
    });
    // As editors save: another file takes its place.
    changes(&container, "src/app.py", |dir| {
        fs::write(dir.join("src/.app.py.swp"), "x").unwrap();
        fs::write(dir.join("next"), "4").unwrap();
        fs::rename(dir.join("next"), dir.join("src/app.py")).unwrap();
        fs::remove_file(dir.join("src/.app.py.swp")).unwrap();
    });
    // A directory that was not there, and what is in it later on.
    changes(&container, "src/new/deeper/a.py", |dir| {
        fs::create_dir_all(dir.join("tmp/deeper")).unwrap();
        fs::write(dir.join("tmp/deeper/a.py"), "5").unwrap();
        fs::rename(dir.join("tmp"), dir.join("src/new")).unwrap();
    });
    changes(&container, "src/new/deeper/a.py", |dir| fs::write(dir.join("src/new/deeper/a.py"), "6").unwrap());
    // One that goes, and is of no interest where it has gone to.
    changes(&container, "src/new", |dir| fs::rename(dir.join("src/new"), dir.join("elsewhere")).unwrap());
    fs::write(container.dir().join("elsewhere/deeper/a.py"), "7").unwrap();
    // What is ignored is: the next change that counts is told alone.
    fs::write(container.dir().join("src/style.css"), "8").unwrap();
    fs::create_dir_all(container.dir().join("src/generated/node_modules")).unwrap();
    fs::write(container.dir().join("src/generated/x.py"), "9").unwrap();
    fs::create_dir_all(container.dir().join("src/node_modules/y")).unwrap();
    fs::write(container.dir().join("src/node_modules/y/y.js"), "9").unwrap();
    changes(&container, "src/deep/b.py", |dir| fs::write(dir.join("src/deep/b.py"), "10").unwrap());
    // The whole directory goes and comes back.
    changes(&container, "src", |dir| fs::rename(dir.join("src"), dir.join("gone")).unwrap());
    changes(&container, "src", |dir| fs::rename(dir.join("gone"), dir.join("src")).unwrap());
    changes(&container, "src/app.py", |dir| fs::write(dir.join("src/app.py"), "11").unwrap());
    assert_eq!(container.stop(), 0);
}

#[test]
fn many_changes_are_one_restart() {
    let container = started(Setup::new(CONFIG));
    changes(&container, "src/file0.py and 19 others", |dir| {
        for number in 0..20 {
            fs::write(dir.join(format!("src/file{number}.py")), "x").unwrap();
        }
    });
    assert_eq!(container.instance("web.1").run, 2);
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_change_mends_who_has_failed_and_wakes_nobody_who_was_stopped() {
    let setup = Setup::new(
        "
        [services.web]
        command = 'test -e {dir}/src/fixed && exec sleep 1000; exit 3'
        watch = 'src'
        backoff = { initial = '1h', max = '1h' }
        [services.stopped]
        command = 'exec sleep 1000'
        watch = 'src'
        ",
    );
    fs::create_dir(setup.dir().join("src")).unwrap();
    let container = setup.start();
    container.until_state("web.1", StateName::Backoff);
    container.until_ready("stopped.1");
    assert_eq!(container.cli(&["stop", "stopped"]).0, 0);
    container.touch("src/fixed");
    container.told("src/fixed changed: web restarts");
    container.until_ready("web.1");
    let stopped = container.instance("stopped.1");
    assert_eq!((stopped.run, stopped.state, container.count_told("changed: stopped restarts")), (1, StateName::Stopped, 0));
    assert_eq!(container.stop(), 0);
}

#[test]
fn the_switch_watches_for_all_services_or_for_one() {
    let words = ["start", "-f", "{dir}/firstmate.toml", "--socket", "{dir}/firstmate.sock", "--http", "off", "--watch", "web=src,both"];
    let setup = Setup::new(
        "
        [services.web]
        command = 'exec sleep 1000'
        [services.db]
        command = 'exec sleep 1000'
        [services.job]
        command = 'true'
        type = 'oneshot'
        ",
    )
    .arguments(&words);
    let container = started(setup);
    container.told("both is not there yet: it is watched for all the same");
    changes(&container, "src/app.py", |dir| fs::write(dir.join("src/app.py"), "2").unwrap());
    assert_eq!((container.instance("db.1").run, container.instance("job.1").run), (1, 1));
    changes(&container, "both", |dir| fs::write(dir.join("both"), "2").unwrap());
    container.until("db.1", "it runs anew", |now| now.run == 2);
    container.until_state("job.1", StateName::Completed);
    assert_eq!(container.instance("job.1").run, 1);
    assert_eq!(container.stop(), 0);
}

#[test]
fn what_changes_right_before_an_update_watches_other_files_is_not_missed() {
    // Far from quiet yet when the update comes, and not known to whoever watches after it.
    let config = CONFIG.replace("'50ms'", "'1h'").replace("'app.conf'", "'app.conf', 'missing'");
    let container = started(Setup::new(&config));
    let before = container.until_ready("web.1").run;
    // By then the others are watched.
    container.told("missing is not there yet");
    fs::write(container.dir().join("src/app.py"), "3").unwrap();
    fs::write(container.dir().join("firstmate.toml"), config.replace("'missing'", "'missing', 'more'")).unwrap();
    let (code, _, error) = container.cli(&["update"]);
    assert_eq!(code, 0, "{error}");
    container.told("src/app.py changed: web restarts");
    container.until("web.1", "it runs anew", |now| now.run == before + 1 && now.ready);
}
