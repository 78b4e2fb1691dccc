//! Every command of `firstmate --help`, said to one real supervisor that is PID 1 of a container: what it answers, what it refuses, and every
//! exit code its help lists.
//!
//! What was said and answered is in `verbs/COMMAND.txt`, as an operator sees it; FIRSTMATE_BLESS=1 writes these files. A command or an option
//! that is not played here fails the test, so whoever adds one plays it in [`play`]; documents are held against `docs/schema`.
//!
//! Where FIRSTMATE_BINARY names the static binary it is the one in the containers, whatever the images were made with.

use std::thread::{self, JoinHandle};

use firstmate::engine::status::{InstanceStatus, StateName};

use super::container::{BUSYBOX, Container, Directory, docker, docker_ok, until};
use super::processes::Process;
use super::tools;
use super::transcript::{BARE, Ended, Transcript, errors, masked};
use super::typist::Typist;

/// One of each kind: several instances, a group, one that is done, crashes, is given up, cannot be executed, is not ready, waits, is not
/// started, has a memory line of its own, does not end when it is asked to, asks at a terminal.
const STACK: &str = r#"
[firstmate]
stop_timeout = "2s"

[services.web]
command = "sh -c 'trap \"echo read anew\" HUP; echo web is up; while :; do sleep 1 & wait $!; done'"
instances = 3
groups = ["front"]
ready = { exec = "true", every = "500ms" }
reload_signal = "HUP"

[services.worker]
command = "sleep 1000000"
instances = 2
groups = ["workers"]
memory = { restart_above = "100MiB" }

[services.mailer]
command = "sleep 1000000"
groups = ["front", "workers"]
inherit_env = false
env = { MAIL_FROM = "shop@example.org", MAIL_PASSWORD = "two words" }

[services.talker]
command = "sh -c 'for word in one two three; do echo $word; done; echo a complaint >&2; exec sleep 1000000'"

[services.migrate]
command = "sh -c 'echo nothing to migrate'"
type = "oneshot"

[services.crash]
command = "sh -c 'echo cannot reach the database >&2; exit 3'"
essential = false
backoff = { initial = "1h", max = "1h", jitter = 0.0 }

[services.fail]
command = "sh -c 'exit 4'"
essential = false
give_up_after = 1

[services.broken]
command = ["/nowhere/program"]
essential = false
give_up_after = 1

[services.slow]
command = "sleep 1000000"
start_timeout = "1h"
ready = { exec = "test -e /tmp/open", every = "200ms" }

[services.late]
command = "sleep 1000000"
depends_on = { slow = "ready" }

[services.spare]
command = "sleep 1000000"
autostart = false

[services.stubborn]
command = "sh -c 'trap \"\" TERM; exec sleep 1000000'"
stop_timeout = "1h"

[services.asker]
command = "sh -c 'while printf \"name? \" && read name; do case $name in quit) exit 5;; esac; echo \"hello $name\"; done'"
tty = true
essential = false
"#;

/// A second firstmate beside the first, for what ends it.
const INNER: &str = r#"
[firstmate]
stop_timeout = "1m"

[services.web]
command = "sh -c 'echo inner is up; exec sleep 1000000'"

[services.stubborn]
command = "sh -c 'trap \"\" TERM; echo $$ >/tmp/stubborn; exec sleep 1000000'"
stop_timeout = "1m"
"#;

/// What is new of [`STACK`] by the first update, and what has failed by the second.
const EXTRA: &str = "[services.extra]\ncommand = 'sleep 1000000'\n";
const FAILING: &str = "[services.extra]\ncommand = \"sh -c 'exit 7'\"\nessential = false\ngive_up_after = 1\n";

/// One of each kind of change: a service goes, one comes, values change with and without a restart, at once and with the next start.
fn changed() -> String {
    let (before, spare) = STACK.split_once("[services.spare]").unwrap();
    let (_, after) = spare.split_once("\n\n").unwrap();
    let mut text = format!("{before}{after}{EXTRA}");
    for (old, new) in [
        ("stop_timeout = \"2s\"", "stop_timeout = \"3s\"\nlog_buffer = \"8KiB\""),
        ("instances = 2", "instances = 2\nstop_timeout = \"5s\""),
        ("two words", "three more words"),
        ("echo two", "echo second"),
        ("groups = [\"front\"]\nready", "groups = [\"front\"]\nenv = { LEVEL = \"debug\" }\nready"),
    ] {
        text = text.replacen(old, new, 1);
    }
    text
}

const WELL: &str = "[memory]\nlimit = '64MiB'\n[services.job]\ncommand = 'echo done'\ntype = 'oneshot'\n";
const ESSENTIAL: &str = "[memory]\nlimit = '64MiB'\n[services.job]\ncommand = \"sh -c 'exit 9'\"\ngive_up_after = 1\n";
const BAD: &str = "[services.web]\ncommand = 'sleep 1'\nrestrat = 'always'\ndepends_on = ['db']\n";
/// Looks whether it has a terminal, and is watched.
const WATCHED: &str =
    "[memory]\nlimit = '64MiB'\n[services.app]\ncommand = \"sh -c 'test -t 1 && echo at a terminal; exec sleep 1000000'\"\n";
const PROCFILE: &str = "web: echo the port is $PORT\nworker: sleep 1000000\n";

/// How a file is run: the tests of Procfiles and of development play these, side by side with foreman.
const OF_THE_FILE: [&str; 3] = ["root", "port", "env"];
const OF_A_START: [&str; 8] = ["root", "port", "env", "formation", "except", "timeout", "restart", "no-restart"];

struct Stage {
    /// firstmate is PID 1, over [`STACK`].
    stack: Container,
    /// There is none, and no file.
    empty: Container,
    said: Transcript,
    files: Directory,
}

impl Stage {
    fn new() -> Self {
        let files = Directory::new(&[
            ("firstmate.toml", STACK),
            ("inner.toml", INNER),
            ("well.toml", WELL),
            ("essential.toml", ESSENTIAL),
            ("bad.toml", BAD),
            ("watched.toml", WATCHED),
            ("Procfile", PROCFILE),
        ]);
        let shown = files.mount("", "/srv:ro");
        let file = files.mount("firstmate.toml", "/etc/firstmate/firstmate.toml:ro");
        let binary = std::env::var("FIRSTMATE_BINARY").ok().map(|path| format!("--volume={path}:/bin/firstmate:ro"));
        let options: Vec<&str> = ["--memory=256m", shown.as_str()].into_iter().chain(binary.as_deref()).collect();
        let stack = Container::run(BUSYBOX, &[&options[..], &[file.as_str()]].concat(), &[]);
        let empty = Container::run(BUSYBOX, &[&options[..], &["--entrypoint=sleep"]].concat(), &["1000000"]);
        Self { stack, empty, said: Transcript::default(), files }
    }

    fn say(&mut self, line: &str) {
        self.said.say(&self.stack, line);
    }

    fn refuse(&mut self, line: &str) {
        let uid = 65534;
        let (code, _, _) = self.said.say_as(&self.stack, uid, line);
        assert_ne!(code, 0, "{line}");
    }

    fn document(&mut self, schema: &str, line: &str) {
        self.said.document(&self.stack, schema, line);
    }

    /// Another text of the file the stack was started with, in place: a container is shown one file, and not its name.
    fn write(&self, text: &str) {
        std::fs::write(self.files.path().join("firstmate.toml"), text).unwrap();
    }

    fn note(&mut self, command: &str, text: &str) {
        self.said.note(command, text);
    }

    /// Waits until it is so of these services, and whatever runs has been measured.
    fn until(&self, names: &[&str], what: &str, is_so: impl Fn(&InstanceStatus) -> bool) {
        until(what, || {
            let status = self.stack.status()?;
            let all = || status.services.iter().flat_map(|service| service.instances.iter().map(move |one| (&service.name, one)));
            let so = all().filter(|(name, _)| names.contains(&name.as_str())).all(|(_, one)| is_so(one));
            let measured = all().all(|(_, one)| one.pid.is_none() || one.memory.is_some());
            if so && measured { Ok(()) } else { Err(format!("{status:#?}")) }
        });
    }

    fn until_up(&self, names: &[&str]) {
        self.until(names, "they are up and ready", |one| one.state == StateName::Running && one.ready);
    }

    fn until_state(&self, name: &str, state: StateName) {
        self.until(&[name], &format!("{name} is {state}"), |one| one.state == state);
    }

    fn begun(&self) {
        self.until_up(&["web", "worker", "mailer", "talker", "stubborn", "asker"]);
        self.until_state("migrate", StateName::Completed);
        self.until_state("crash", StateName::Backoff);
        self.until_state("fail", StateName::Failed);
        self.until_state("broken", StateName::Failed);
        self.until_state("late", StateName::Waiting);
        self.until(&["slow"], "slow is not ready", |one| one.state == StateName::Starting && one.why.is_some());
    }

    /// Ends what does not end by itself, and waits for its next run.
    fn kill_stubborn(&self) {
        docker_ok(&["exec", &self.stack.name, "firstmate", "signal", "KILL", "stubborn"]);
        until("the update is done", || match self.stack.exec(&["firstmate", "update", "--dry-run"]) {
            (0, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.until_up(&["stubborn"]);
    }

    /// The process in the container whose command line is this.
    fn process(&self, line: &str) -> Option<Process> {
        let is_it = |process: &Process| {
            let words = std::fs::read(format!("/proc/{}/cmdline", process.outer)).unwrap_or_default();
            String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ") == line
        };
        self.stack.processes().into_iter().find(is_it)
    }

    fn send(&self, signal: &str, to: &Process) {
        docker_ok(&["exec", &self.stack.name, "kill", &format!("-{signal}"), &to.inner.to_string()]);
    }

    /// Waits for the end of a command that was typed at.
    fn leaves(&mut self, typist: Typist) {
        let (line, code, seen) = typist.ended();
        self.said.keep(0, &line, code, &masked(&seen));
    }

    /// A second firstmate in the container; its socket is /tmp/inner.
    fn begin_inner(&self) {
        docker_ok(&["exec", "--detach", &self.stack.name, "firstmate", "-f", "/srv/inner.toml", "--socket", "/tmp/inner"]);
        self.stack.exec_ok(&["firstmate", "wait", "ready", "--socket", "/tmp/inner"]);
    }

    /// Takes away what the inner one still waits for.
    fn end_inner(&self) {
        self.stack.exec_ok(&["sh", "-c", "kill -9 $(cat /tmp/stubborn)"]);
        until("the inner firstmate is gone", || match self.stack.exec(&["firstmate", "check", "--socket", "/tmp/inner"]) {
            (1, text) if text.starts_with("no firstmate answers") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn every_command_answers_refuses_and_ends_as_its_help_says() {
    let mut stage = Stage::new();
    stage.begun();
    play(&mut stage);
    stage.said.compare();
    let elsewhere: [(&str, &[&str]); 4] =
        [(BARE, &OF_A_START), ("start", &OF_A_START), ("run", &OF_THE_FILE), ("check-config", &OF_THE_FILE)];
    stage.said.is_whole(&stage.empty, &elsewhere);
    let documents = stage.said.documents();
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["check-config", "env", "events", "status", "update", "why"]);
    for (schema, documents) in documents {
        tools::all_against(&format!("docs/schema/{schema}.json"), documents).unwrap();
    }
}

/// In the order of the acts: what reads first, then what changes, then what ends.
fn play(stage: &mut Stage) {
    reads(stage);
    asks_about_what_is_not_well(stage);
    docker_ok(&["exec", &stage.stack.name, "touch", "/tmp/open"]);
    stage.until_up(&["slow", "late"]);
    asks_about_what_is_well(stage);
    stops_and_starts(stage);
    signals(stage);
    scales(stage);
    restarts(stage);
    updates(stage);
    attaches(stage);
    files(stage);
    runs_files(stage);
    nobody_is_there(stage);
    of_a_project(stage);
    somebody_else(stage);
    interrupted(stage);
    follows(stage);
    ends(stage);
}

/// A command that is waited for later. Its container ends it, whatever becomes of the test.
fn say_later(on: &Container, line: &str) -> JoinHandle<Ended> {
    let words: Vec<String> = ["exec", &on.name, "firstmate"].into_iter().chain(line.split(' ')).map(ToOwned::to_owned).collect();
    thread::spawn(move || docker(&words.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn reads(stage: &mut Stage) {
    stage.say("status");
    stage.say("status web migrate");
    stage.say("status front");
    stage.say("status web.2 crash");
    stage.document("status", "status --json");
    stage.document("status", "status --json front");
    stage.say("status wbe web.1");
    stage.say("status nothing.like.it");
    stage.say("status --jsno");
    stage.say("status --names");
    stage.said.shell(&stage.stack, "status", "firstmate status --watch web.1 | head -n 1");

    stage.say("why crash");
    stage.say("why broken.1 workers -n 1");
    stage.say("why workers");
    stage.document("why", "why --json");
    stage.document("why", "why --json workers");
    stage.say("why crsh");
    stage.say("why -n few");

    stage.say("logs talker");
    stage.say("logs -n 2 talker mailer");
    stage.say("logs --since 1h --lines 1 crash");
    stage.say("logs workers");
    // The look of a terminal asks for the status first, and looks names up by itself.
    for (name, code, part) in [("front", 0, "web is up"), ("talkr", 4, "did you mean `talker`?")] {
        let (ended, out, err) = docker(&["exec", "--tty", &stage.stack.name, "firstmate", "logs", name]);
        assert!(ended == code && out.contains(part), "{ended} {out}{err}");
    }
    stage.say("logs talkr");
    stage.say("logs --since yesterday");

    stage.say("events crash");
    stage.say("events -n 2 migrate");
    stage.say("events --since 1h -n 1 fail");
    stage.document("events", "events --json");
    stage.document("events", "events --json -n 3 front");
    stage.say("events wrkers");
    stage.say("events --since 5parsecs");

    stage.say("env mailer");
    stage.say("env mailer.1 --show-values");
    stage.document("env", "env --json web");
    stage.document("env", "env --json --show-values mailer");
    stage.say("env mailr");
    stage.say("env");
    stage.say("version");
    stage.say("version --all");
    stage.said.brief(&stage.stack, "a script", "completions bash");
    stage.said.brief(&stage.stack, "a script", "completions zsh");
    stage.said.brief(&stage.stack, "a script", "completions fish");
    stage.say("completions tcsh");
}

fn asks_about_what_is_not_well(stage: &mut Stage) {
    for command in ["check", "wait"] {
        stage.note(command, "slow is not ready, and late waits for it");
    }
    stage.say("check");
    stage.say("check live");
    stage.say("check ready");
    stage.say("check startup");
    stage.say("check ready web");
    stage.say("check ready slow.1");
    stage.say("check ready wbe");
    stage.say("check redy");
    stage.say("wait ready front");
    stage.say("wait ready --timeout 200ms");
    stage.say("wait ready slow web --timeout 0.2");
    stage.say("wait ready fail");
    stage.say("wait stopped spare fail migrate");
    stage.say("wait stopped workers --timeout 200ms");
    stage.say("wait ready wbe");
    stage.say("wait redy");
    stage.say("wait ready --timeout soon");
}

fn asks_about_what_is_well(stage: &mut Stage) {
    for command in ["check", "wait", "status"] {
        stage.note(command, "slow is ready, and so is late");
    }
    stage.say("check ready");
    stage.say("check startup");
    stage.say("wait ready");
    stage.say("wait ready all --timeout 1");
    stage.say("status slow late");
}

fn stops_and_starts(stage: &mut Stage) {
    stage.say("stop web.3");
    stage.say("stop web.3");
    stage.note("status", "web.3 is stopped");
    stage.say("status web");
    stage.document("status", "status --json");
    stage.say("start web.3");
    stage.say("start web.3");
    stage.say("stop workers --no-wait");
    stage.say("wait stopped workers");
    stage.say("start workers --no-wait");
    stage.until_up(&["worker", "mailer"]);
    stage.say("start spare fail");
    stage.say("stop spare");
    stage.say("stop stubborn --timeout 300ms");
    stage.note("status", "stubborn does not end");
    stage.say("status stubborn");
    stage.say("signal KILL stubborn");
    stage.until_state("stubborn", StateName::Stopped);
    stage.note("why", "it was killed by hand");
    stage.say("why stubborn");
    stage.say("start stubborn");
    stage.say("stop wbe");
    stage.say("stop web.4");
    stage.say("stop");
    stage.say("stop web --no-wait --timeout 1s");
    stage.say("start wbe");
    stage.say("start web -f /srv/well.toml");
    stage.say("start --no-wait");
}

fn signals(stage: &mut Stage) {
    stage.say("reload web");
    until("each has read anew", || {
        let log = stage.stack.log();
        if log.matches("| read anew").count() == 3 { Ok(()) } else { Err(log) }
    });
    stage.say("reload front");
    stage.say("reload spare wbe");
    stage.say("reload");
    stage.say("signal WINCH workers");
    stage.say("signal sigwinch mailer --all-processes");
    stage.say("signal 28 mailer.1 spare");
    stage.say("signal HPU web");
    stage.say("signal 65 web");
    stage.say("signal HUP wbe");
    stage.say("signal HUP");
}

fn scales(stage: &mut Stage) {
    stage.say("scale worker=3");
    stage.until_up(&["worker"]);
    stage.note("status", "worker is scaled");
    stage.say("status worker");
    stage.document("status", "status --json worker");
    stage.say("scale worker=2");
    stage.say("scale worker=2");
    stage.say("scale worker=3 mailer=2 --no-wait");
    stage.until_up(&["worker", "mailer"]);
    stage.say("scale worker=2 mailer=1 --timeout 10s");
    stage.say("scale migrate=2");
    stage.say("scale worker=0");
    stage.say("scale worker=1001");
    stage.say("scale worker");
    stage.say("scale wroker=2");
    stage.say("scale workers=3");
    stage.until_up(&["worker", "mailer"]);
    stage.say("scale worker=2 mailer=1");
    stage.say("scale worker.1=2");
}

fn restarts(stage: &mut Stage) {
    stage.say("restart web.1 mailer");
    stage.say("restart --rolling web");
    stage.say("restart --rolling mailer migrate");
    stage.say("restart crash");
    stage.say("restart stubborn --timeout 300ms");
    docker_ok(&["exec", &stage.stack.name, "firstmate", "signal", "KILL", "stubborn"]);
    stage.until_up(&["stubborn"]);
    stage.say("restart workers --no-wait");
    stage.until(&["worker", "mailer"], "each has another run", |one| one.run > 2 && one.ready);
    stage.say("restart wbe");
    stage.say("restart --rollin web");
    stage.note("events", "after a rolling restart, and others");
    stage.document("events", "events --json");
    stage.document("why", "why --json -n 5");
}

fn updates(stage: &mut Stage) {
    stage.note("update", "another file: spare is gone, extra is new, others have changed");
    stage.write(&changed());
    stage.say("update --dry-run");
    stage.say("update --dry-run --exit-code");
    stage.say("update --dry-run --show-values");
    stage.document("update", "update --dry-run --json");
    stage.document("update", "update --dry-run --json --show-values");
    stage.say("update");
    stage.until_up(&["web", "mailer", "extra"]);
    stage.say("update");
    stage.say("update --dry-run --exit-code");
    stage.note("update", "a file whose service fails");
    stage.write(&changed().replace(EXTRA, FAILING));
    stage.say("update --timeout 30s");
    stage.note("update", "a broken file");
    stage.write(&STACK.replacen("autostart", "autostrat", 1));
    stage.say("update");
    stage.say("update --dry-run --exit-code");
    stage.document("update", "update --json");
    stage.note("update", "a service that does not end, while it has to");
    stage.write(&changed().replacen("trap \\\"\\\" TERM; exec", "trap \\\"\\\" TERM INT; exec", 1));
    stage.say("update --timeout 300ms");
    stage.say("update");
    stage.document("update", "update --json");
    stage.kill_stubborn();
    stage.note("update", "the file as it was");
    stage.write(STACK);
    stage.say("update --no-wait");
    stage.kill_stubborn();
    stage.document("update", "update --json");
    stage.say("update --dry-run --no-wait");
    stage.say("update --exit-code");
    stage.say("update web");
}

/// Through a terminal, which is this test's.
fn attaches(stage: &mut Stage) {
    stage.note("attach", "asker asks for a name at its terminal");
    let mut first = Typist::at(&stage.stack, "attach asker");
    first.until("name? ");
    first.types("Ada\r");
    first.until("hello Ada\nname? ");
    stage.note("attach", "meanwhile, from elsewhere");
    stage.say("attach asker");
    first.types("\x10\x11");
    stage.leaves(first);

    let mut second = Typist::at(&stage.stack, "attach --detach-keys ctrl-x asker.1");
    second.until("attached to");
    second.types("Grace\r");
    second.until("hello Grace\nname? ");
    second.types("\x18");
    stage.leaves(second);

    let third = Typist::at(&stage.stack, "attach asker");
    third.until("attached to");
    stage.note("attach", "ended by SIGTERM");
    stage.send("TERM", &stage.process("firstmate attach asker").unwrap());
    stage.leaves(third);

    let mut last = Typist::at(&stage.stack, "attach asker");
    last.until("attached to");
    last.types("quit\r");
    stage.leaves(last);
    stage.until(&["asker"], "it runs again", |one| one.run == 2 && one.ready);

    stage.say("attach talker");
    stage.say("attach workers");
    stage.say("attach web");
    stage.say("attach spare");
    stage.say("attach askr");
    stage.say("attach --detach-keys ctrl- asker");
    stage.say("attach");
}

fn files(stage: &mut Stage) {
    stage.say("check-config -f /srv/well.toml");
    stage.say("check-config --file /srv/Procfile");
    stage.say("check-config -f /srv/bad.toml");
    stage.say("check-config -f /srv/nowhere.toml");
    stage.say("check-config --explain -f /srv/well.toml");
    stage.say("check-config --json");
    stage.say("check-config --explain -f /srv/bad.toml");
    stage.document("check-config", "check-config --explain --json");
    stage.document("check-config", "check-config --explain --json -f /srv/Procfile");
    // The guard's own limit is the host's to say.
    for options in
        ["--started-by person", "--started-by init --no-restart", "--started-by container --formation all=2,worker=3 --timeout 9"]
    {
        let line = format!("FIRSTMATE_MEMORY_LIMIT=256MiB firstmate check-config --explain {options} -f /srv/Procfile");
        assert_eq!(stage.said.shell(&stage.stack, "check-config", &line).0, 0);
    }
    stage.document(
        "check-config",
        "check-config --explain --json --started-by person --restart --no-timestamp --except worker -f /srv/Procfile",
    );
    stage.say("check-config --started-by person -f /srv/Procfile");
    stage.say("check-config --explain --started-by chance");

    stage.say("run -f /srv/Procfile echo hello");
    stage.say("run --file /srv/Procfile web");
    stage.say("run -f /srv/Procfile sh /srv/nowhere");
    stage.say("run -f /srv/Procfile false");
    stage.say("run -f /srv/Procfile /srv/Procfile");
    stage.say("run -f /srv/Procfile nosuch");
    stage.say("run -f /srv/bad.toml true");
    stage.say("run");
}

fn runs_files(stage: &mut Stage) {
    for (command, begin) in [(BARE, ""), ("start", "start ")] {
        let mut say = |line: &str| stage.said.say(&stage.empty, &format!("{begin}{line}"));
        let options = "--no-timestamp --http off --memory-limit 96MiB --socket /tmp/well";
        say(&format!("{options} --file /srv/well.toml"));
        say("-f /srv/essential.toml");
        say("-f /srv/bad.toml");
        say("--http 300.1.2.3:80");
        say("-f /srv/well.toml --http 192.0.2.1:80");
        stage.said.shell(&stage.empty, command, &format!("ulimit -n 5; firstmate {begin}-f /srv/well.toml"));
        interrupted_twice(stage, begin);
        watches(stage, begin);
    }
    stage.said.say(&stage.empty, "start job -f /srv/well.toml");
    stage.note(BARE, "where a firstmate runs already");
    stage.say("-f /srv/well.toml --socket /run/firstmate.sock");
    stage.say("--version");
    stage.say("stauts");
    stage.say("frobnicate");
    stage.say("--frobnicate");
    stage.say("-- echo one program");
    stage.say("-- false");
    stage.say("-- /srv/Procfile");
    stage.say("-- nosuch");
    stage.say("--");
}

/// Ctrl-C is the terminal's own signal, so there has to be one.
fn interrupted_twice(stage: &mut Stage, begin: &str) {
    let words = format!("{begin}-f /srv/inner.toml --socket /tmp/inner");
    let mut terminal = Typist::at(&stage.empty, &words);
    stage.empty.exec_ok(&["firstmate", "wait", "ready", "--socket", "/tmp/inner"]);
    terminal.types("\x03");
    until("it is stopping", || {
        let (_, text) = stage.empty.exec(&["firstmate", "status", "--json", "--socket", "/tmp/inner"]);
        if text.contains("\"phase\": \"stopping\"") { Ok(()) } else { Err(text) }
    });
    terminal.types("\x03");
    let (line, code, _) = terminal.ended();
    stage.said.keep(0, &line, code, "(interrupted by Ctrl-C twice)\n");
}

/// Each process has a terminal, and another one follows when a file changes.
fn watches(stage: &mut Stage, begin: &str) {
    let line = format!("{begin}--tty --watch app=/tmp/watched --http off --no-timestamp --socket /tmp/app -f /srv/watched.toml");
    docker_ok(&["exec", &stage.empty.name, "mkdir", "-p", "/tmp/watched"]);
    let running = say_later(&stage.empty, &line);
    stage.empty.exec_ok(&["firstmate", "wait", "ready", "--socket", "/tmp/app"]);
    docker_ok(&["exec", &stage.empty.name, "touch", "/tmp/watched/page.html"]);
    until("it runs anew", || {
        let (_, text) = stage.empty.exec(&["firstmate", "events", "--json", "--socket", "/tmp/app"]);
        if text.matches("\"kind\":\"ready\"").count() == 2 { Ok(()) } else { Err(text) }
    });
    stage.empty.exec_ok(&["firstmate", "shutdown", "--socket", "/tmp/app"]);
    let ended = running.join().unwrap();
    docker_ok(&["exec", &stage.empty.name, "rm", "/tmp/watched/page.html"]);
    stage.said.keep(0, &line, ended.0, &format!("{}{}", masked(&ended.1), errors(&masked(&ended.2))));
}

fn nobody_is_there(stage: &mut Stage) {
    for line in [
        "status",
        "why",
        "logs",
        "events",
        "wait ready --timeout 100ms",
        "env web",
        "check",
        "start web",
        "stop web",
        "restart web",
        "reload web",
        "signal HUP web",
        "scale web=2",
        "update",
        "attach web",
        "shutdown",
    ] {
        let command = line.split(' ').next().unwrap();
        stage.note(command, "there is no firstmate");
        stage.said.say(&stage.empty, line);
        stage.said.say(&stage.empty, &format!("{line} --socket /tmp/not-there"));
        // Of `start` it says where services run.
        if command != "start" {
            stage.said.say(&stage.empty, &format!("{line} --root /srv"));
        }
    }
}

/// A person's, which is found by its directory.
fn of_a_project(stage: &mut Stage) {
    for command in ["status", "stop", "update", "shutdown"] {
        stage.note(command, "of a project in /tmp/shop");
    }
    let shell = |script: &str| docker_ok(&["exec", &stage.empty.name, "sh", "-c", script]);
    shell("mkdir /tmp/shop && echo 'web: exec sleep 1000000' >/tmp/shop/Procfile");
    // By a shell, which is no init.
    docker_ok(&["exec", "--detach", &stage.empty.name, "sh", "-c", "cd /tmp/shop && firstmate start; true"]);
    stage.empty.exec_ok(&["firstmate", "wait", "ready", "--root", "/tmp/shop"]);
    shell("echo 'worker: exec sleep 1000000' >>/tmp/shop/Procfile");
    for line in ["status --json", "update", "stop worker", "shutdown"] {
        let line = format!("{line} --root /tmp/shop");
        if line.contains("--json") {
            stage.said.document(&stage.empty, "status", &line);
        } else {
            stage.said.say(&stage.empty, &line);
        }
    }
    stage.said.say(&stage.empty, "status --root /tmp/nowhere");
    stage.said.say(&stage.empty, "status --root /tmp/shop --socket /tmp/inner");
}

/// Ctrl-C while a firstmate does not answer: it stands still.
fn interrupted(stage: &mut Stage) {
    stage.begin_inner();
    let inner = stage.process("firstmate -f /srv/inner.toml --socket /tmp/inner").unwrap();
    stage.send("STOP", &inner);
    let mut came = Vec::new();
    for line in ["start web", "stop web", "restart web", "scale web=2", "reload web", "signal HUP web", "update"] {
        let line = format!("{line} --socket /tmp/inner");
        let running = say_later(&stage.stack, &line);
        let waiting = until("it waits for its answer", || {
            let process = stage.process(&format!("firstmate {line}")).ok_or("it is not there")?;
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.outer)).map_err(|error| error.to_string())?;
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).map(str::trim).unwrap_or_default();
            // SIGINT is the second bit; one thread is left to read it.
            let is_blocked = u64::from_str_radix(blocked, 16).is_ok_and(|mask| mask & 2 != 0);
            if is_blocked { Ok(process) } else { Err(status) }
        });
        stage.send("INT", &waiting);
        let ended = running.join().unwrap();
        came.push((line, ended));
    }
    for (line, (code, out, err)) in came {
        stage.note(line.split(' ').next().unwrap(), "interrupted by Ctrl-C, while firstmate stands still");
        stage.said.keep(0, &line, code, &format!("{}{}", masked(&out), errors(&masked(&err))));
    }
    // What they asked for may still be done, so this one goes.
    stage.send("KILL", &inner);
    stage.end_inner();
}

fn somebody_else(stage: &mut Stage) {
    for command in
        ["stop", "start", "restart", "reload", "signal", "scale", "shutdown", "env", "status", "check", "wait", "logs", "update", "attach"]
    {
        stage.note(command, "as another user");
    }
    for line in [
        "stop web",
        "start web",
        "restart web",
        "reload web",
        "signal HUP web",
        "scale web=2",
        "shutdown",
        "env mailer --show-values",
        "update",
        "update --dry-run",
        "attach asker",
    ] {
        stage.refuse(line);
    }
    for line in ["status mailer", "check live", "wait ready front", "logs -n 1 talker", "env mailer"] {
        assert_eq!(stage.said.say_as(&stage.stack, 65534, line).0, 0, "{line}");
    }
    docker_ok(&["exec", &stage.stack.name, "sh", "-c", "mkdir -m 700 /tmp/closed"]);
    for line in ["status", "stop web", "logs", "check", "shutdown"] {
        stage.refuse(&format!("{line} --socket /tmp/closed/firstmate.sock"));
    }
}

/// Who follows is there until the end.
fn follows(stage: &mut Stage) {
    for command in ["logs", "events", "wait"] {
        stage.note(command, "of another firstmate, which ends in the meantime");
    }
    stage.begin_inner();
    let lines = [
        "logs --follow --socket /tmp/inner web",
        "events --follow --socket /tmp/inner stubborn",
        "events -f --json --socket /tmp/inner",
        "wait stopped web --timeout 1m --socket /tmp/inner",
    ];
    let followers = lines.map(|line| (line, say_later(&stage.stack, line)));
    until("all are connected", || {
        let (_, connected) = stage.stack.exec(&["grep", "-c", " 03 .* /tmp/inner$", "/proc/net/unix"]);
        if connected.trim() == lines.len().to_string() { Ok(()) } else { Err(connected) }
    });

    stage.note("shutdown", "of a firstmate whose service does not end");
    stage.say("shutdown --timeout 0 --socket /tmp/inner");
    for command in ["stop", "wait", "status"] {
        stage.note(command, "of a firstmate that is stopping");
    }
    until("only stubborn is left", || {
        let (_, text) = stage.stack.exec(&["firstmate", "status", "web", "--socket", "/tmp/inner"]);
        if text.contains("STOPPED") { Ok(()) } else { Err(text) }
    });
    stage.say("stop stubborn --socket /tmp/inner");
    stage.say("wait ready --socket /tmp/inner");
    stage.say("status web --socket /tmp/inner");
    stage.document("status", "status --json --socket /tmp/inner");
    stage.end_inner();
    for (line, follower) in followers {
        let (code, out, err) = follower.join().unwrap();
        let shown = if line.contains("--json") {
            assert!(!out.is_empty() && out.lines().all(|line| line.starts_with('{')), "{out}");
            "(events.json)\n".to_owned()
        } else {
            masked(&out)
        };
        stage.said.keep(0, line, code, &format!("{shown}{}", errors(&masked(&err))));
    }
}

fn ends(stage: &mut Stage) {
    stage.begin_inner();
    for command in ["logs", "events"] {
        stage.note(command, "as many follow already as may");
    }
    let crowd = "for n in 1 2 3 4 5 6 7 8; do firstmate logs -f --socket /tmp/inner >/dev/null 2>&1 & done; wait";
    docker_ok(&["exec", "--detach", &stage.stack.name, "sh", "-c", crowd]);
    until("no place is left", || {
        match stage.stack.exec(&["timeout", "1", "firstmate", "events", "-f", "-n", "0", "--socket", "/tmp/inner"]) {
            (1, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    stage.say("logs -f --socket /tmp/inner");
    stage.say("events -f --socket /tmp/inner");
    // It ends only when its service does, which is seen to while the command waits.
    stage.note("shutdown", "of a firstmate beside PID 1");
    let said = thread::scope(|scope| {
        let said = scope.spawn(|| docker(&["exec", &stage.stack.name, "firstmate", "shutdown", "--socket", "/tmp/inner"]));
        stage.stack.exec_ok(&["firstmate", "wait", "stopped", "web", "--socket", "/tmp/inner"]);
        stage.end_inner();
        said.join().unwrap()
    });
    assert_eq!(said.0, 0, "{said:?}");
    stage.said.keep(0, "shutdown --socket /tmp/inner", said.0, &said.1);

    stage.say("stop all --no-wait");
    stage.until_state("web", StateName::Stopped);
    stage.say("wait stopped --timeout 100ms");
    stage.note("status", "all but stubborn are stopped");
    stage.say("status all");
    stage.document("status", "status --json all");
    stage.say("shutdown --timeout never");
    stage.note("shutdown", "of PID 1, with which all of its container ends");
    stage.say("shutdown");
    assert_eq!(stage.stack.ended(), 0);
}

#[test]
fn the_stack_that_is_asked_has_one_of_each_kind() {
    let services: Vec<&str> = STACK.lines().filter_map(|line| line.strip_prefix("[services.")).collect();
    assert_eq!(services.len(), 13, "{services:?}");
}
