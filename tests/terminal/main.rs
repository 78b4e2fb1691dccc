//! What a person sees: the real binary in a real terminal (tmux), typed at, and its screen compared.
//!
//! Needs tmux (`tests/setup packages`); fails where it is missing.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

mod screen;

use std::fs;

use screen::Session;

/// Says what it is asked, and the size of its window whenever that changes.
const PROMPT: &str = r#"#!/bin/sh
trap 'echo "size $(stty size)"' WINCH
echo "size $(stty size)"
printf 'debug> '
while :; do
    read -r line || continue
    [ "$line" = quit ] && exit 7
    echo "you said $line"
    printf 'debug> '
done
"#;

/// Colours what it says where a person sees it.
const SHOWS: &str = r"#!/bin/sh
[ -t 1 ] && printf '\033[32mgreen\033[0m and not\n' || echo plain
exec sleep 1000
";

const START: &str = "firstmate start --socket ./s --http off";

#[test]
fn colours_stay_with_a_terminal_and_go_without() {
    let session = Session::new();
    session.file("web", SHOWS);
    session.file("Procfile", "web: ./web\nworker: ./web\n");
    session.line(&format!("{START} --tty"));
    session.until("both have said it", |screen| screen.matches("green").count() == 2);
    let coloured = session.coloured();
    let of = |name: &str| coloured.iter().find(|line| line.contains(name) && line.contains("green")).unwrap().clone();
    assert_eq!(of("web.1"), "\x1b[36mTIME web.1    |\x1b[39m \x1b[32mgreen\x1b[39m and not");
    assert_eq!(of("worker.1"), "\x1b[33mTIME worker.1 |\x1b[39m \x1b[32mgreen\x1b[39m and not");
    session.keys(&["C-c"]);
    session.ended(0);

    let session = Session::new();
    session.file("web", SHOWS);
    session.file("Procfile", "web: ./web\nworker: ./web\n");
    session.line(START);
    session.until("both have said it", |screen| screen.matches("plain").count() == 2);
    let coloured = session.coloured();
    let plain = coloured.iter().find(|line| line.contains("web.1") && line.contains("plain")).unwrap();
    assert_eq!(plain, "\x1b[36mTIME web.1    |\x1b[39m plain");
    session.keys(&["C-c"]);
    session.ended(0);
}

#[test]
fn ctrl_c_once_stops_in_order() {
    let session = Session::new();
    session.file("Procfile", "web: exec sleep 1000\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    session.keys(&["C-c"]);
    session.ended(0);
    let screen = session.masked();
    let from = screen.iter().position(|line| line.contains("^C")).unwrap();
    assert_eq!(
        screen[from..from + 6],
        [
            "^CTIME system | stopping everything within N s: SIGINT received",
            "TIME system | stopping web.1 with SIGTERM, SIGKILL after N s",
            "TIME system | web.1 killed by SIGTERM after N s",
            "TIME system | web.1 stopped",
            "TIME system | ended with code 0: SIGINT received",
            "code 0",
        ],
        "{screen:#?}"
    );
}

#[test]
fn ctrl_c_twice_ends_at_once() {
    let session = Session::new();
    session.file("web", "#!/bin/sh\ntrap '' TERM INT HUP\necho deaf\nwhile :; do sleep 0.2; done\n");
    session.file("Procfile", "web: ./web\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("deaf"));
    session.keys(&["C-c"]);
    session.until("it is asked", |screen| screen.contains("stopping web.1 with SIGTERM"));
    session.keys(&["C-c"]);
    session.ended(130);
    let screen = session.masked();
    assert!(
        screen.iter().any(|line| line.ends_with("sending SIGKILL to all of web.1, which did not end within N s")
            || line.ends_with("sending SIGKILL to all of web.1")),
        "{screen:#?}"
    );
    assert!(screen.iter().any(|line| line.ends_with("ended with code 130: killed at once, as a second Ctrl-C asks")), "{screen:#?}");
}

#[test]
fn one_attaches_talks_and_detaches() {
    let session = Session::new();
    session.file("web", PROMPT);
    session.file("Procfile", "web: ./web\ndb: exec sleep 1000\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    let second = session.window();
    second.line("stty -g > before; firstmate attach --socket ./s web");
    second.until("the prompt", |screen| screen.contains("debug> "));
    let screen = second.masked();
    let from = screen.iter().position(|line| line.starts_with("attached to")).unwrap();
    assert_eq!(screen[from], "attached to web.1; Ctrl-P Ctrl-Q detaches and stops nothing", "{screen:#?}");
    second.line("hello");
    second.until("the answer", |screen| screen.contains("you said hello"));
    session.until("the log has it", |screen| screen.contains("web.1  | you said hello"));
    second.keys(&["C-p", "C-q"]);
    second.ended(0);
    let screen = second.masked();
    let from = screen.iter().position(|line| line.starts_with("attached to")).unwrap();
    // The size of this window is not that of the first, so the service was told twice.
    let talk: Vec<&str> =
        screen[from..].iter().map(String::as_str).filter(|line| !line.starts_with("size ") && !line.contains("size N N")).collect();
    let talk: Vec<&str> = talk.into_iter().take_while(|line| !line.is_empty()).collect();
    assert!(talk.contains(&"you said hello") && talk.contains(&"detached from web.1, which runs on"), "{screen:#?}");
    // The terminal is as it was, and so is the service.
    second.line("stty -g > after; cmp before after && echo same");
    second.until("it is compared", |screen| screen.contains("same"));
    second.line("firstmate status --socket ./s web");
    second.until("it runs on", |screen| screen.contains("RUNNING") && !screen.contains("restart"));
    second.line("firstmate attach --socket ./s db --detach-keys ctrl-x");
    second.until("it is attached", |screen| screen.contains("attached to db.1; Ctrl-X detaches and stops nothing"));
    second.keys(&["C-x"]);
    second.until("it is left", |screen| screen.contains("detached from db.1"));
}

/// However it ends, the terminal is as it was.
#[test]
fn whatever_ends_it_the_terminal_is_put_back() {
    let session = Session::new();
    session.file("web", PROMPT);
    session.file("Procfile", "web: ./web\n");
    session.line(&format!("{START} --tty --restart"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    let second = session.window();
    second.line("stty -g > before");
    let attach = |marker: &str| {
        second.line("clear; sh -c 'echo $$ > pid; exec firstmate attach --socket ./s web'");
        second.until("the prompt", |screen| screen.contains("debug> "));
        second.line(marker);
        second.until("the answer", |screen| screen.contains(&format!("you said {marker}")));
    };
    let put_back = |code: u8| {
        second.ended(code);
        second.line("clear; stty -g > after; cmp before after && echo same");
        second.until("it is compared", |screen| screen.contains("same\n"));
    };
    // A signal.
    attach("one");
    session.signal("pid", "TERM");
    second.until("it says so", |screen| screen.contains("detached from web.1, which runs on: SIGTERM received"));
    put_back(143);
    // The service ends.
    attach("two");
    second.line("quit");
    second.until("it says so", |screen| screen.contains("web.1 ended: exit code 7"));
    put_back(3);
    // firstmate is gone from one moment to the next.
    session.until("it runs again", |screen| screen.matches("web.1 ready").count() > 1);
    attach("three");
    session.kill_firstmate();
    second.until("it says so", |screen| screen.contains("was lost: it went away"));
    put_back(4);
}

#[test]
fn a_window_that_changes_its_size_reaches_the_service() {
    let session = Session::new();
    session.file("web", PROMPT);
    session.file("Procfile", "web: ./web\n");
    session.line(&format!("{START} --tty"));
    session.until("it has the size of this terminal", |screen| screen.contains("| size 30 110"));
    session.resize(90, 25);
    session.until("and the next", |screen| screen.contains("size 25 90"));
    let second = session.window();
    second.line("firstmate attach --socket ./s web");
    second.until("the prompt", |screen| screen.contains("debug> "));
    second.resize(77, 20);
    second.until("and that of who is attached", |screen| screen.contains("size 20 77"));
    session.resize(100, 28);
    second.keys(&["C-p", "C-q"]);
    second.until("it is left", |screen| screen.contains("detached from web.1"));
    session.until("and then its own again", |screen| screen.contains("size 28 100"));
}

#[test]
fn a_saved_file_restarts_what_is_watched() {
    let session = Session::new();
    session.file("Procfile", "web: exec sleep 1000\n");
    fs::create_dir(session.directory().join("src")).unwrap();
    session.file("src/app.py", "1");
    session.line(&format!("{START} --watch src"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    fs::write(session.directory().join("src/.app.py.swp"), "x").unwrap();
    fs::write(session.directory().join("src/app.py"), "2").unwrap();
    session.until("it runs again", |screen| screen.matches("web.1 ready").count() == 2);
    let screen = session.masked();
    let from = screen.iter().position(|line| line.contains("changed")).unwrap();
    assert_eq!(
        screen[from..from + 6],
        [
            "TIME system | src/app.py changed: web restarts",
            "TIME system | stopping web.1 with SIGTERM (watch), SIGKILL after N s",
            "TIME system | web.1 killed by SIGTERM after N s",
            "TIME system | web.1 restarts now (watch)",
            "TIME system | web.1 started, pid N",
            "TIME system | web.1 ready after N s",
        ],
        "{screen:#?}"
    );
    session.keys(&["C-c"]);
    session.ended(0);
}
