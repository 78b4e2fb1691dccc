//! Several projects on one machine: each has a firstmate of its own, and nobody reaches another's by mistake.

use std::process::Stdio;

use firstmate::engine::status::StateName;

use crate::harness::{Container, Setup, send, until};

const FIRSTMATE: &str = env!("CARGO_BIN_EXE_firstmate");

/// In `a` and `b` there is a Procfile with `web`, and with `worker` as well in `b`; in `c` there is none. `script` is run by a shell, which is no
/// init's child, and has the places of sockets for itself.
fn machine(script: &str) -> Container {
    let setup = Setup::empty();
    for directory in ["a", "b", "c"] {
        std::fs::create_dir(setup.dir().join(directory)).unwrap();
    }
    let web = "web: {actor} print up sleep\n";
    let script = format!("mount -t tmpfs none /run && cd {{dir}} && {script}\nwait").replace("FIRSTMATE", FIRSTMATE);
    setup
        .file("a/Procfile", 0o644, web)
        .file("b/Procfile", 0o644, &format!("{web}worker: {{actor}} print up sleep\n"))
        .arguments(&["--", "sh", "-c", &script])
        .start()
}

/// `firstmate ...` as somebody else calls it in this directory: exit code, stdout, stderr.
fn called(container: &Container, directory: &str, arguments: &str) -> (i32, String, String) {
    let line = format!("cd {}/{directory} && {FIRSTMATE} {arguments}; exit $?", container.dir().display());
    let output = container.foreign(&["sh", "-c", &line]).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The names of what runs, as seen from there.
fn names(container: &Container, directory: &str, arguments: &str) -> Vec<String> {
    let (_, stdout, _) = called(container, directory, &format!("status {arguments}"));
    stdout.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != "memory").map(ToOwned::to_owned).collect()
}

#[test]
fn every_project_has_a_firstmate_of_its_own() {
    let container = machine("{ (cd a && FIRSTMATE start) & (cd b && FIRSTMATE start) & }");
    until("both are ready", || (called(&container, "a", "status").0 == 0 && called(&container, "b", "status").0 == 0).then_some(()));
    assert_eq!(names(&container, "a", ""), ["web.1"]);
    assert_eq!(names(&container, "b", ""), ["web.1", "worker.1"]);
    // From elsewhere, and where nobody is.
    assert_eq!(names(&container, "c", "-d ../b"), ["web.1", "worker.1"]);
    let (code, _, stderr) = called(&container, "c", "status");
    assert!(code == 4 && stderr.contains("/run/firstmate.sock: is not there"), "{stderr}");
    let (code, _, stderr) = called(&container, "c", "status -d nowhere");
    assert!(code == 2 && stderr.contains("cannot look for a firstmate in nowhere: "), "{stderr}");
    // A verb reaches the one of its own project alone.
    assert_eq!(called(&container, "a", "stop web").1, "web.1: stopped\n");
    assert_eq!(called(&container, "b", "status").0, 0);
    // The second one of a project must be wanted.
    let (code, stdout, _) = called(&container, "b", "start");
    assert!(code == 69 && stdout.contains("already listens on /run/firstmate-b-"), "{stdout}");
    assert_eq!(called(&container, "b", "shutdown").0, 0);
    let left = || called(&container, "c", "status -d ../b").0;
    until("nobody is there any more", || (left() == 4).then_some(()));
}

#[test]
fn who_runs_another_file_is_not_taken_for_the_projects_own() {
    let container = machine("{ (cd a && FIRSTMATE start --socket /run/firstmate.sock) & }");
    until("it is ready", || (called(&container, "a", "status").0 == 0).then_some(()));
    let runs = format!("/run/firstmate.sock: it runs {0}/a/Procfile, and not {0}/b/Procfile", container.dir().display());
    for arguments in ["stop web", "status", "logs", "scale web=2", "shutdown"] {
        let (code, stdout, stderr) = called(&container, "b", arguments);
        assert!(code == 4 && stdout.is_empty() && stderr.contains(&runs), "{arguments}: {stdout}{stderr}");
        assert!(
            stderr.contains("= help: `firstmate start` runs the file of this directory; another's firstmate is asked from its directory"),
            "{stderr}"
        );
    }
    // Names of `start` are then the file's that is here.
    let (code, _, stderr) = called(&container, "b", "start wrker");
    assert!(code == 2 && stderr.contains("did you mean `worker`?"), "{stderr}");
    assert_eq!(called(&container, "a", "status").0, 0);
    // Nor does a second one of its own project start beside it.
    let (code, stdout, _) = called(&container, "a", "start");
    assert!(code == 69 && stdout.contains("already listens on /run/firstmate.sock"), "{stdout}");
    // Without a file there is nothing it could be mistaken for, and a health check knows whom it means.
    assert_eq!(called(&container, "c", "status").0, 0);
    assert_eq!(called(&container, "b", "check live").0, 0);
    assert_eq!(called(&container, "b", "stop web --socket /run/firstmate.sock").1, "web.1: stopped\n");
}

#[test]
fn a_file_that_cannot_be_read_is_said_to_hide_the_socket() {
    let container = machine("{ (cd a && FIRSTMATE start --socket /run/firstmate.sock) & }");
    until("it is ready", || (called(&container, "a", "status").0 == 0).then_some(()));
    let file = container.dir().join("c/firstmate.toml");
    std::fs::write(&file, "[firstmate]\nsocket = '/run/c.sock'\n[services.web\n").unwrap();
    let (code, stdout, stderr) = called(&container, "c", "stop all");
    let hidden = format!("  where {} says: it cannot be used now, so which socket it names is not known (", file.display());
    assert!(code == 4 && stdout.is_empty() && stderr.contains(&hidden), "{stdout}{stderr}");
    assert!(stderr.contains("firstmate.toml:3:"), "{stderr}");
    assert!(stderr.contains("= help: mend the file, of which `firstmate check-config` shows every problem"), "{stderr}");
    assert_eq!(called(&container, "a", "status").0, 0);
}

#[test]
fn a_firstmate_that_does_not_answer_is_told_of_and_left_on_demand() {
    let config = "[services.web]\ncommand = '{actor} print up sleep'\n";
    let container = Setup::new(config).start();
    container.until_ready("web.1");
    container.signal("STOP");
    // With a timeout it ends, although nobody answers.
    let (code, _, stderr) = container.cli(&["stop", "web", "--timeout", "1s"]);
    assert!(code == 4 && stderr.contains(": no answer in time\n"), "{stderr}");
    assert!(stderr.contains("warning: the firstmate on ") && stderr.contains("it may still do what was asked"), "{stderr}");
    // Without one it waits, says so, and Ctrl-C ends the wait.
    let mut child = container.command(&["stop", "web"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.contains("has not answered for ") && line.contains("which is T (stopped)"), "{line}");
    send(i32::try_from(child.id()).unwrap(), "INT");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    assert!(rest.contains("= help: `kill -CONT ") && rest.contains("what firstmate has not read yet may still be done (stop)"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    container.signal("CONT");
    container.until_state("web.1", StateName::Stopped);
}

#[test]
fn a_group_is_scaled_as_each_of_its_services_and_an_instance_not_at_all() {
    let config = "
        [services.web]
        command = '{actor} print up sleep'
        groups = ['front']
        [services.api]
        command = '{actor} print up sleep'
        groups = ['front']
        [services.store]
        command = '{actor} print up sleep'
    ";
    let container = Setup::new(config).start();
    container.until_ready("store.1");
    let (code, stdout, stderr) = container.cli(&["scale", "front=2"]);
    assert!(code == 0 && stdout.contains("web.2: started\n") && stdout.contains("api.2: started\n"), "{stdout}{stderr}");
    assert!(!stdout.contains("store"), "{stdout}");
    let (code, _, stderr) = container.cli(&["scale", "web.1=3"]);
    let why = "error: cannot scale: web.1 is one instance of web; a service has a number of them: `firstmate scale web=3`\n";
    assert_eq!((code, stderr.as_str()), (1, why));
    let (code, _, stderr) = container.cli(&["scale", "front=3", "web=1"]);
    assert_eq!((code, stderr.as_str()), (1, "error: cannot scale: web is named twice\n"));
    let (code, _, stderr) = container.cli(&["scale", "frnt=3"]);
    assert!(code == 4 && stderr.contains("did you mean `front`?"), "{stderr}");
}
