//! What commands said, written down as `tests/docker/verbs/COMMAND.txt`, and which exit codes they came to.
//!
//! Only what differs from one container to the next is masked, each by a rule that takes numbers at one place of one sentence and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde_json::Value;

use super::container::{Container, docker};

/// The program without a command is among the commands under this name.
pub const BARE: &str = "firstmate";

/// What is written in place of what was masked, by a pattern for it.
const MASKS: [(&str, &str); 16] = [
    (r"\b20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z", "TIME"),
    (r"\bpid [1-9]\d{0,6}\b", "pid PID"),
    // Nobody runs for an hour here.
    (r"\buptime 0:[0-5]\d:[0-5]\d\b", "uptime 0:MM:SS"),
    (r"\bmem ~?\d+(\.\d)? [KM]iB( of 100 MiB)? \(\d{1,2}(\.\d)?%\)", "mem SIZE$2 (SHARE)"),
    // Of the container: which cgroups a host has is the host's.
    (r"\b\d+(\.\d)? [KM]iB of 256 MiB \(\d{1,2}(\.\d)?%\), cgroup v[12], acts", "SIZE of 256 MiB (SHARE), cgroup VERSION, acts"),
    (r"\bthe limit of memory is 256 MiB \(cgroup v[12], /sys/fs/cgroup(/memory)?\)", "the limit of memory is 256 MiB (CGROUP)"),
    // What an instance that ended at once had lived, how long ago that was, how much is left of an hour.
    (
        r"(\bwith code \d+|\bby SIG[A-Z]+|\bby SIG[A-Z]+, sent by firstmate,|\.\d ready) after (\d+(\.\d+)? (ms|s)|[1-9] min( \d+ s)?)\b",
        "$1 after MOMENT",
    ),
    (r"\bcompleted in \d+(\.\d+)? (ms|s)\b", "completed in MOMENT"),
    (r"\b\d+(\.\d+)? (ms|s) ago\b", "MOMENT ago"),
    (r"\b[1-9] min( \d+ s)? ago\b", "MOMENT ago"),
    (r"\bnext run in (1 h 0 min|5\d min \d+ s) after", "next run in NEARLY AN HOUR after"),
    (r"\bincident \d+, about", "incident NUMBER, about"),
    // Whether somebody had looked by then is chance.
    (
        r"\n  memory  (\d+(\.\d)? KiB \(0\.\d% of the limit\), (by PSS|within bounds|by RSS), when last looked at \d+(\.\d+)? (ms|s) before; )?the container (has 256 MiB|at \d+(\.\d)? [KM]iB of 256 MiB \(\d{1,2}(\.\d)?%\))\n",
        "\n  memory  AS FAR AS KNOWN\n",
    ),
    (r"\bFIRSTMATE_RUN=[0-9a-f]{16}:", "FIRSTMATE_RUN=KEY:"),
    (r"@firstmate-\d{10}-0\b", "@firstmate-NUMBER-0"),
    (r"\bfirstmate \d+\.\d+\.\d+\b", "firstmate VERSION"),
];

/// Masks what no two containers have in common.
pub fn masked(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, mask) in MASKS {
        text = Regex::new(pattern).unwrap().replace_all(&text, mask).into_owned();
    }
    text
}

/// Everything that was asked of a firstmate, and what came of it.
#[derive(Default)]
pub struct Transcript {
    /// By command, in the order in which it was said.
    texts: BTreeMap<String, String>,
    codes: BTreeMap<String, BTreeSet<i32>>,
    /// The words each command was given.
    words: BTreeMap<String, BTreeSet<String>>,
    /// By the name of their schema.
    documents: BTreeMap<String, Vec<Value>>,
}

/// Exit code, standard output and standard error.
pub type Ended = (i32, String, String);

impl Transcript {
    /// A line between the cases of a command: what is so now.
    pub fn note(&mut self, command: &str, text: &str) {
        let _ = writeln!(self.texts.entry(command.to_owned()).or_default(), "## {text}\n");
    }

    /// `docker exec` of a command and its words, written down as it is.
    pub fn say(&mut self, on: &Container, line: &str) -> Ended {
        self.say_as(on, 0, line)
    }

    /// The same as another user.
    pub fn say_as(&mut self, on: &Container, uid: u32, line: &str) -> Ended {
        let ended = exec(on, uid, &["firstmate"], line);
        let shown = format!("{}{}", masked(&ended.1), errors(&masked(&ended.2)));
        self.keep(uid, line, ended.0, &shown);
        ended
    }

    /// The same of a command whose answer is a document, or one a line: which schema says what it is, and not what it is.
    pub fn document(&mut self, on: &Container, schema: &str, line: &str) -> Value {
        let (code, out, err) = exec(on, 0, &["firstmate"], line);
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&out).into_iter().map(|value| value.unwrap()).collect();
        assert!(!documents.is_empty(), "{line}: {out}{err}");
        let shown = format!("({schema}.json)\n{}", errors(&masked(&err)));
        self.keep(0, line, code, &shown);
        let last = documents.last().unwrap().clone();
        self.documents.entry(schema.to_owned()).or_default().extend(documents);
        last
    }

    /// The same of a command whose answer is too long, or too much the machine's: a word in its place.
    pub fn brief(&mut self, on: &Container, word: &str, line: &str) -> Ended {
        let ended = exec(on, 0, &["firstmate"], line);
        self.keep(0, line, ended.0, &format!("({word})\n"));
        ended
    }

    /// What a command came to that was not waited for there and then.
    pub fn keep(&mut self, uid: u32, line: &str, code: i32, shown: &str) {
        let command = self.command_of(line);
        self.codes.entry(command.clone()).or_default().insert(code);
        let words = line.split(' ').map(|word| word.split('=').next().unwrap().to_owned());
        self.words.entry(command.clone()).or_default().extend(words);
        let who = if uid == 0 { "$".to_owned() } else { format!("(uid {uid}) $") };
        let exit = if code == 0 { String::new() } else { format!("exit code {code}\n") };
        let blank = if line.is_empty() { "" } else { " " };
        let _ = writeln!(self.texts.entry(command).or_default(), "{who} firstmate{blank}{line}\n{shown}{exit}");
    }

    /// A line of a shell, in which the command is said; its exit code is the shell's.
    pub fn shell(&mut self, on: &Container, command: &str, line: &str) -> Ended {
        let (code, out, err) = docker(&["exec", &on.name, "sh", "-c", line]);
        self.codes.entry(command.to_owned()).or_default().insert(code);
        self.words.entry(command.to_owned()).or_default().extend(line.split(' ').map(ToOwned::to_owned));
        let exit = if code == 0 { String::new() } else { format!("exit code {code}\n") };
        let _ = writeln!(self.texts.entry(command.to_owned()).or_default(), "$ {line}\n{}{}{exit}", masked(&out), errors(&masked(&err)));
        (code, out, err)
    }

    fn command_of(&self, line: &str) -> String {
        let first = line.split(' ').next().unwrap();
        let cli = firstmate::cli::command();
        let known = cli.get_subcommands().any(|command| command.get_name() == first);
        if known { first.to_owned() } else { BARE.to_owned() }
    }

    /// Every document of that schema.
    pub fn documents(&self) -> &BTreeMap<String, Vec<Value>> {
        &self.documents
    }

    /// Compares with the files, or writes them where FIRSTMATE_BLESS is set. A file of a command that nobody said is a mistake as well.
    pub fn compare(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker/verbs");
        let file = |command: &str| -> PathBuf { directory.join(format!("{command}.txt")) };
        if std::env::var_os("FIRSTMATE_BLESS").is_some() {
            for (command, text) in &self.texts {
                std::fs::write(file(command), text).unwrap();
            }
        }
        let mut wrong = Vec::new();
        for (command, text) in &self.texts {
            let golden = std::fs::read_to_string(file(command)).unwrap_or_default();
            if golden != *text {
                wrong.push(format!("{command}:\n{}", difference(&golden, text)));
            }
        }
        assert!(wrong.is_empty(), "not as in tests/docker/verbs (FIRSTMATE_BLESS=1 writes it anew):\n{}", wrong.join("\n"));
        for entry in std::fs::read_dir(&directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(self.texts.keys().any(|command| format!("{command}.txt") == name), "{name} is about no command that is tried here");
        }
    }

    /// Every command that the program has is tried, with every option it has, and comes to every exit code its `--help` lists and to no other.
    pub fn is_whole(&self, on: &Container, elsewhere: &[(&str, &[&str])]) {
        let mut cli = firstmate::cli::command();
        cli.build();
        let mut wrong = Vec::new();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let name = command.get_name();
            let Some(codes) = self.codes.get(name) else {
                wrong.push(format!("`{name}` is not tried: play it in tests/docker/verbs.rs"));
                continue;
            };
            let words = &self.words[name];
            for option in command.get_arguments().filter_map(|argument| argument.get_long()).filter(|option| *option != "help") {
                let is_tried = words.contains(&format!("--{option}"));
                let is_known = elsewhere.iter().any(|(of, options)| *of == name && options.contains(&option));
                match (is_tried, is_known) {
                    (false, false) => wrong.push(format!("`{name} --{option}` is not tried")),
                    (true, true) => wrong.push(format!("`{name} --{option}` is tried, and is said not to be")),
                    (true, false) | (false, true) => {}
                }
            }
            let help: &[&str] = if name == BARE { &["firstmate", "--help"] } else { &["firstmate", name, "--help"] };
            let (listed, own) = documented(&on.exec_ok(help));
            let surprising: Vec<&i32> = codes.difference(&listed).collect();
            if let Some(missed) = listed.difference(codes).next() {
                wrong.push(format!("`{name}` is never seen to end with {missed}, which its help lists; it came to {codes:?}"));
            }
            if own && surprising.is_empty() {
                wrong.push(format!("`{name}` is never seen to end with the code of what it runs"));
            }
            if !own && !surprising.is_empty() {
                wrong.push(format!("`{name}` ended with {surprising:?}, which its help does not list"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// The exit codes a help lists, and whether a program's own are among them.
fn documented(help: &str) -> (BTreeSet<i32>, bool) {
    let (_, list) = help.split_once("Exit codes:\n").unwrap_or_else(|| panic!("no exit codes: {help}"));
    let mut codes = BTreeSet::new();
    let mut own = false;
    for line in list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        match line.trim_start().split(' ').next().unwrap() {
            "N" | "128+N" => own = true,
            code => assert!(codes.insert(code.parse().unwrap_or_else(|_| panic!("no exit code: {line:?}"))), "{code} is listed twice"),
        }
    }
    assert!(codes.contains(&0), "{help}");
    (codes, own)
}

fn exec(on: &Container, uid: u32, program: &[&str], line: &str) -> Ended {
    let user = uid.to_string();
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    docker(&[&["exec", "-u", &user, on.name.as_str()], program, &words].concat())
}

/// Standard error is told from standard output.
pub fn errors(text: &str) -> String {
    text.lines().map(|line| format!("! {line}\n")).collect()
}

/// The lines from the first that differs to the last.
fn difference(golden: &str, text: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), text.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let both = old.len().min(new.len()) - same;
    let end = old.iter().rev().zip(new.iter().rev()).take(both).take_while(|(old, new)| old == new).count();
    let shown = |sign: &str, lines: &[&str]| lines.iter().map(|line| format!("{sign} {line}\n")).collect::<String>();
    format!("line {}\n{}{}", same + 1, shown("-", &old[same..old.len() - end]), shown("+", &new[same..new.len() - end]))
}

#[test]
fn masks_take_what_differs_and_nothing_else() {
    for (text, shown) in [
        ("web.1  RUNNING    pid 31, uptime 0:04:03, ready", "web.1  RUNNING    pid PID, uptime 0:MM:SS, ready"),
        ("web.1  RUNNING    pid 0, uptime 1:04:03, ready", "web.1  RUNNING    pid 0, uptime 1:04:03, ready"),
        ("mem 1.2 MiB of 100 MiB (1.2%), 2 restarts", "mem SIZE of 100 MiB (SHARE), 2 restarts"),
        ("mem 1.2 MiB of 200 MiB (0.6%), 2 restarts", "mem 1.2 MiB of 200 MiB (0.6%), 2 restarts"),
        ("error: still not ready after 0.2 s", "error: still not ready after 0.2 s"),
        ("web.1 ready after 17 ms", "web.1 ready after MOMENT"),
        ("web.1 was killed by SIGKILL, sent by firstmate, after 1 min", "web.1 was killed by SIGKILL, sent by firstmate, after MOMENT"),
        ("1 restart: next run in 59 min 58 s after exit 3", "1 restart: next run in NEARLY AN HOUR after exit 3"),
        ("1 restart: next run in 9 min 58 s after exit 3", "1 restart: next run in 9 min 58 s after exit 3"),
        ("2026-11-21T09:15:02.031Z web.1 out | up", "TIME web.1 out | up"),
        ("2026-11-21T09:15:02Z web.1 out | up", "2026-11-21T09:15:02Z web.1 out | up"),
        ("started again after 1 h", "started again after 1 h"),
        ("x\n  memory  the container has 256 MiB\n", "x\n  memory  AS FAR AS KNOWN\n"),
        ("x\n  memory  the container has 512 MiB\n", "x\n  memory  the container has 512 MiB\n"),
    ] {
        assert_eq!(masked(text), shown);
    }
}

#[test]
fn exit_codes_are_read_as_help_lists_them() {
    let help = "x\n\nExit codes:\n  0   good\n  130 a second Ctrl-C\n  N   its own; 1 when\n      126 or 127\n";
    assert_eq!(documented(help), (BTreeSet::from([0, 130]), true));
    assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "line 2\n- b\n+ x\n+ y\n");
}
