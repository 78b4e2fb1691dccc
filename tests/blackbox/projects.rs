//! Several projects on one machine: each has a firstmate of its own, and nobody reaches another's by mistake.

use std::process::Stdio;

use crate::harness::{Container, Setup, until};

const FIRSTMATE: &str = env!("CARGO_BIN_EXE_firstmate");

/// In `a` and `b` there is a Procfile with `web`, and with `worker` as well in `b`; in `c` there is none. `script` is run by a shell, which is no
/// init's child, and has the places of sockets for itself.
fn machine(script: &str) -> Container {
    let setup = Setup::empty();
    for directory in ["a", "b", "c"] {
        std::fs::create_dir(setup.dir().join(directory)).unwrap();
    }
    let web = "web: {actor} print up sleep\n";
    let script = format!("mount -t tmpfs none /run && cd {{dir}} && {script} wait").replace("FIRSTMATE", FIRSTMATE);
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
