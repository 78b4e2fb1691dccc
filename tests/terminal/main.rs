//! What a person sees: the real binary in a real terminal (tmux), typed at, and its whole screen compared with `screens/*.txt`.
//!
//! Needs tmux and python3 (`tests/setup packages`); fails where they are missing. `FIRSTMATE_BLESS=1` takes the screens over as they are.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]

mod screen;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

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

/// Colours what it says where a person sees it, once it may.
const SHOWS: &str = r"#!/bin/sh
cat $PS.may
[ -t 1 ] && printf '\033[32mgreen\033[0m and not\n' || echo plain
exec sleep 1000
";

/// A web server that stops in a debugger when it is asked something.
const DEBUGGED: &str = r#"import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = 'the answer is %d' % (6 * 7)
        breakpoint()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())
    def log_message(self, *words):
        print('answered', self.path)
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
with open('port.new', 'w') as file:
    file.write(str(server.server_port))
os.rename('port.new', 'port')
server.serve_forever()
"#;

const START: &str = "firstmate start --socket ./s --http off";

/// Two that say something, one after the other.
fn shows(command: &str, screen: &str) {
    let session = Session::new();
    session.file("say", SHOWS);
    session.file("Procfile", "web: ./say\nworker: ./say\n");
    session.pipe("web.1.may");
    session.pipe("worker.1.may");
    session.line(command);
    session.until("both run", |screen| screen.contains("worker.1 ready"));
    fs::write(session.directory().join("web.1.may"), "").unwrap();
    session.until("the first has said it", |screen| screen.contains("web.1    | "));
    fs::write(session.directory().join("worker.1.may"), "").unwrap();
    session.until("and the second", |screen| screen.contains("worker.1 | "));
    // One after the other: who of two ends first is nobody's to say.
    session.firstmate(&["stop", "worker"]);
    session.until("it is told", |screen| screen.contains("worker.1 stopped"));
    session.keys(&["C-c"]);
    session.ended(0);
    session.shows(screen);
}

#[test]
fn colours_stay_with_a_terminal() {
    shows(&format!("{START} --tty"), "colours");
}

#[test]
fn colours_go_without_a_terminal() {
    shows(START, "colours-without-a-terminal");
}

#[test]
fn who_wants_no_colours_has_none_of_firstmates_own() {
    shows(&format!("NO_COLOR=1 {START} --tty"), "colours-not-wanted");
}

#[test]
fn ctrl_c_once_stops_in_order() {
    let session = Session::new();
    session.file("Procfile", "web: exec sleep 1000\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    session.keys(&["C-c"]);
    session.ended(0);
    session.shows("ctrl-c-once");
}

#[test]
fn ctrl_c_twice_ends_at_once() {
    let session = Session::new();
    session.file("web", "#!/bin/sh\ntrap '' TERM INT HUP\necho deaf\nread -r nothing\n");
    session.file("Procfile", "web: ./web\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    session.keys(&["C-c"]);
    session.until("it is asked", |screen| screen.contains("stopping web.1 with SIGTERM"));
    session.keys(&["C-c"]);
    session.ended(130);
    session.shows("ctrl-c-twice");
}

#[test]
fn one_attaches_talks_and_detaches() {
    let session = Session::new();
    session.file("web", PROMPT);
    session.file("Procfile", "web: ./web\ndb: exec sleep 1000\n");
    session.line(&format!("{START} --tty"));
    session.until("it runs", |screen| screen.contains("db.1 ready"));
    let second = session.window();
    second.line("stty -g > before; firstmate attach --socket ./s web");
    second.until("the prompt", |screen| screen.contains("debug> "));
    second.line("hello");
    second.until("the answer", |screen| screen.contains("you said hello"));
    session.until("the log has it", |screen| screen.contains("web.1  | you said hello"));
    second.keys(&["C-p", "C-q"]);
    second.ended(0);
    // The terminal is as it was, and so is the service.
    second.line("stty -g > after; cmp before after && echo same");
    second.until("it is compared", |screen| screen.contains("same\n"));
    second.line("firstmate status --socket ./s web | cut -d, -f1");
    second.until("it runs on", |screen| screen.contains("RUNNING"));
    second.line("firstmate attach --socket ./s db --detach-keys ctrl-x");
    second.until("it is attached", |screen| screen.contains("attached to db.1; Ctrl-X detaches and stops nothing"));
    second.keys(&["C-x"]);
    second.until("it is left", |screen| screen.contains("detached from db.1"));
    second.shows("attach");
    session.shows("attach-in-the-log");
}

/// A request that ended in a debugger is looked into, changed and let go; the web server is the same one all the time.
#[test]
fn a_debugger_in_a_web_process_is_talked_to() {
    let session = Session::new();
    session.file("web.py", DEBUGGED);
    session.file("Procfile", "web: exec python3 web.py\n");
    session.line(&format!("{START} --tty"));
    session.until("it listens", |_| session.directory().join("port").exists());
    session.until("it runs", |screen| screen.contains("web.1 ready"));
    let port: u16 = fs::read_to_string(session.directory().join("port")).unwrap().parse().unwrap();
    let request = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(screen::PATIENCE)).unwrap();
        stream.write_all(b"GET /question HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let waits = |screen: &str| screen.trim_end().ends_with("\n(Pdb)");
    session.until("it is in the debugger", |screen| screen.contains("do_GET()"));
    let second = session.window();
    second.line("firstmate attach --socket ./s web");
    second.until("the prompt that waits", |screen| waits(screen));
    second.line("p answer");
    second.until("the answer", |screen| screen.contains("'the answer is 42'\n") && waits(screen));
    // An interrupted line is the debugger's to deal with, and nobody's end.
    second.typed("while True: pass");
    second.keys(&["C-c"]);
    second.until("another prompt", |screen| screen.matches("\n(Pdb)").count() == 3 && waits(screen));
    second.line("answer = 'I thought so'");
    second.until("it is changed", |screen| screen.contains("I thought so'") && waits(screen));
    second.line("c");
    assert!(request.join().unwrap().ends_with("\r\n\r\nI thought so"));
    second.until("it is answered", |screen| screen.contains("answered /question"));
    second.keys(&["C-p", "C-q"]);
    second.ended(0);
    second.line("firstmate status --socket ./s --json web | grep -o '\"run\": *[0-9]*'");
    second.until("it is the first run still", |screen| screen.contains("\"run\":1") || screen.contains("\"run\": 1"));
    second.shows("debugger");
    session.shows("debugger-in-the-log");
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
    session
        .until("it runs, and has the size of this terminal", |screen| screen.contains("| size 30 110") && screen.contains("web.1 ready"));
    session.resize(90, 25);
    session.until("and the next", |screen| screen.contains("size 25 90"));
    let second = session.window();
    second.line("firstmate attach --socket ./s web");
    // What it said at first, and what it says now.
    second.until("the prompt, and its size", |screen| screen.contains("debug> ") && screen.matches("size 30 110").count() == 2);
    second.resize(77, 20);
    second.until("and that of who is attached", |screen| screen.contains("size 20 77"));
    // As long as somebody is attached, it is theirs that counts.
    session.resized(100, 28);
    // By now it was told of it: the second question is read after what was there before the first.
    session.firstmate(&["status"]);
    session.firstmate(&["status"]);
    second.line("size?");
    second.until("it is what it was", |screen| screen.contains("you said size?"));
    second.keys(&["C-p", "C-q"]);
    second.ended(0);
    session.until("and then its own again", |screen| screen.contains("size 28 100"));
    second.shows("resize-attached");
    session.shows("resize");
}

/// Says which version it is, as its file has it.
const VERSIONED: &str = "#!/bin/sh\n. ./src/app.sh\nexec sleep 1000\n";

fn watched(options: &str) -> Session {
    let session = Session::new();
    session.file("web", VERSIONED);
    session.file("Procfile", "web: ./web\n");
    fs::create_dir_all(session.directory().join("src/.git")).unwrap();
    session.file("src/app.sh", "echo version 1");
    session.line(&format!("{START} --watch src{options}"));
    session.ready(1);
    session
}

impl Session {
    /// Waits until a run is ready, for the time that is given, counted from 1.
    #[track_caller]
    fn ready(&self, times: usize) {
        self.until("it is ready again", |screen| screen.matches("web.1 ready").count() == times);
    }
}

#[test]
fn a_saved_file_restarts_what_is_watched() {
    let session = watched("");
    let src = session.directory().join("src");
    // As an editor saves it.
    fs::write(src.join(".app.sh.swp"), "x").unwrap();
    fs::write(src.join("4913"), "").unwrap();
    fs::remove_file(src.join("4913")).unwrap();
    fs::write(src.join("app.sh"), "echo version 2").unwrap();
    fs::remove_file(src.join(".app.sh.swp")).unwrap();
    session.ready(2);
    // Many at a time, as after a checkout of another branch, are one restart.
    for name in ["a.sh", "b.sh", "c.sh"] {
        fs::write(src.join(name), "x").unwrap();
    }
    session.ready(3);
    // What is ignored is; what counts comes after it, so that nothing can be on its way still.
    for name in [".git/index", "app.pyc", "app.log", "app.sh~", "nohup.out"] {
        fs::write(src.join(name), "x").unwrap();
    }
    fs::create_dir(src.join("node_modules")).unwrap();
    fs::write(src.join("node_modules/left-pad.js"), "x").unwrap();
    fs::rename(src.join("a.sh"), src.join(".git/a.sh")).unwrap();
    session.ready(4);
    session.keys(&["C-c"]);
    session.ended(0);
    session.shows("watch");
}

/// As with nodemon: what was wrong is mended by changing a file, so nothing ends because of it.
#[test]
fn whatever_is_watched_and_crashes_waits_for_the_next_change() {
    let session = Session::new();
    session.file("web", VERSIONED);
    session.file("Procfile", "web: ./web\nworker: exec sleep 1000\n");
    fs::create_dir(session.directory().join("src")).unwrap();
    session.file("src/app.sh", "echo version 1");
    session.line(&format!("{START} --watch web=src"));
    session.until("both run", |screen| screen.contains("worker.1 ready"));
    fs::write(session.directory().join("src/app.sh"), "echo version 2 is broken; exit 3").unwrap();
    session.until("it waits", |screen| screen.contains("web.1 stays down"));
    let second = session.window();
    second.line("firstmate status --socket ./s web");
    second.until("it says so", |screen| screen.contains("code 3"));
    second.shows("watch-crash-status");
    fs::write(session.directory().join("src/app.sh"), "echo version 3").unwrap();
    session.ready(2);
    // Who watches nothing still ends all, with its code.
    session.firstmate(&["signal", "KILL", "worker"]);
    session.ended(137);
    session.shows("watch-crash");
}

/// The kernel's own words would be "no space left on device".
#[test]
fn who_may_watch_no_more_is_told_how_to_raise_that() {
    let session = Session::new();
    session.file("web", VERSIONED);
    session.file("Procfile", "web: ./web\n");
    fs::create_dir_all(session.directory().join("src/a/b/c/d")).unwrap();
    session.file("src/app.sh", "cat may; echo version 1");
    session.pipe("may");
    let goes_on = || fs::write(session.directory().join("may"), "").unwrap();
    // In a user namespace of its own, so that it is its own limit.
    session.file("few", "#!/bin/sh\necho 4 > /proc/sys/user/max_inotify_watches && exec \"$@\"\n");
    session.line(&format!("unshare --user --map-root-user ./few {START} --watch src"));
    session.until("it is told", |screen| screen.contains("are not noticed"));
    goes_on();
    session.ready(1);
    // What is watched is.
    fs::write(session.directory().join("src/a/b/new.sh"), "x").unwrap();
    session.until("it runs again", |screen| screen.contains("restarts now"));
    goes_on();
    session.ready(2);
    session.keys(&["C-c"]);
    session.ended(0);
    session.shows("watch-limit");
}

/// The table in place: it follows what happens and the size of its window, and is left by Ctrl-C.
#[test]
fn a_table_that_is_watched_follows_what_happens() {
    let session = Session::new();
    session.file(
        "firstmate.toml",
        "[memory]\nrestart_above = 'off'\n[services.web]\ncommand = 'exec sleep 1000'\n[services.db]\ncommand = 'exec sleep 1000'\n\
         [services.mail]\ncommand = 'exec sleep 1000'\nready = { exec = 'echo no route to the relay; exit 1', every = '100ms' }\nstart_timeout = '1h'\n",
    );
    session.line(START);
    session.until("they run", |screen| screen.contains("web.1") && screen.contains("db.1 ready"));
    let second = session.window();
    second.line("firstmate status --watch --socket ./s web db mail");
    second.until_drawn("all are there", |screen| screen.matches(", ready").count() == 2 && screen.contains("no route"));
    second.draws("status-watch");
    session.firstmate(&["stop", "db"]);
    second.until_drawn("one is down", |screen| screen.contains("STOPPED"));
    second.draws("status-watch-stopped");
    second.resize(20, 20);
    second.until_drawn("it is cut", |screen| screen.contains("RUNNING") && !screen.contains("pid "));
    second.draws("status-watch-narrow");
    second.resize(110, 3);
    second.until_drawn("the rest is counted", |screen| screen.contains("more"));
    second.draws("status-watch-low");
    second.resize(110, 20);
    session.firstmate(&["start", "db"]);
    second.until_drawn("it is up again", |screen| screen.matches(", ready").count() == 2 && !screen.contains("more"));
    second.keys(&["C-c"]);
    // Interrupted, it takes the rest of the line along.
    second.until_drawn("the shell is back", |screen| screen.trim_end().ends_with("^C\n$"));
    second.line("echo code $?");
    second.ended(130);
    second.draws("status-watch-left");
}
