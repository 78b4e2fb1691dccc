//! The completion scripts in the shells they are for: what a person gets who presses TAB.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own children")]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::indexing_slicing,
    reason = "the stand is shared between test files, each of which uses a part"
)]

mod stand;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use stand::{Directory, Stand, stack};

/// firstmate's own directory in front of the others.
fn path() -> OsString {
    let own = Path::new(env!("CARGO_BIN_EXE_firstmate")).parent().unwrap();
    let others = std::env::var_os("PATH").unwrap();
    std::env::join_paths(std::iter::once(own.to_owned()).chain(std::env::split_paths(&others))).unwrap()
}

fn run(stand: Option<&Stand>, home: &Directory, argv: &[&str]) -> String {
    let (program, arguments) = argv.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", path()).env("HOME", home.path()).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
    command.current_dir(home.path()).stdin(Stdio::null());
    command.env("FIRSTMATE_SOCKET", stand.map_or(OsString::from("/nowhere"), |stand| stand.socket.to_os_string()));
    let output = command.output().unwrap_or_else(|error| panic!("cannot execute {program}: {error}; tests/setup shells installs it"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success() && err.is_empty(), "{program}: {out}{err}");
    out
}

/// Writes the script, and says where it is.
fn script(home: &Directory, shell: &str) -> String {
    let text = run(None, home, &["firstmate", "completions", shell]);
    let place = home.path().join(if shell == "zsh" { "_firstmate" } else { "script" });
    std::fs::write(&place, text).unwrap();
    place.to_str().unwrap().to_owned()
}

/// What bash offers when TAB is pressed behind the last of these words.
fn bash(stand: Option<&Stand>, words: &[&str]) -> Vec<String> {
    let home = Directory::new();
    let place = script(&home, "bash");
    let program = r#"
        set -u
        . "$0" || exit
        function=$(complete -p firstmate | sed -n 's/.* -F \([^ ]*\) .*/\1/p')
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMPREPLY=()
        set +u
        "$function" firstmate "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let offered = run(stand, &home, &[&["bash", "--norc", "-c", program, &place], words].concat());
    offered.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn fish(stand: Option<&Stand>, words: &[&str]) -> Vec<String> {
    let home = Directory::new();
    let place = script(&home, "fish");
    let program = format!("source {place}; complete -C '{}'", words.join(" "));
    let offered = run(stand, &home, &["fish", "--no-config", "-c", &program]);
    // Behind a tabulator is what it means.
    offered.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
}

/// In a terminal of its own, since zsh completes nowhere else.
fn zsh(stand: Option<&Stand>, words: &[&str]) -> Vec<String> {
    let home = Directory::new();
    let place = script(&home, "zsh");
    let directory = Path::new(&place).parent().unwrap().to_str().unwrap();
    // Each candidate is written down as it is added: what is drawn on the screen depends on its size.
    let inner = r#"
        PROMPT=; LISTMAX=10000; stty rows 1000 cols 200; bindkey -e
        fpath=(DIRECTORY $fpath); autoload -Uz compinit; compinit -u -D
        compadd() {
            local -a hits
            # Others only ask what would be added.
            if [[ -z ${(M)@:#-[ODA]*} ]]; then
                builtin compadd -O hits "$@"
                (( $#hits )) && print -rl -- $hits >>! DIRECTORY/offered
            fi
            builtin compadd "$@"
        }
        # Before the line is edited the terminal itself would take what is typed, and C-u for its own.
        zle-line-init() { : >DIRECTORY/ready }
        zle -N zle-line-init
    "#;
    std::fs::write(home.path().join("inner"), inner.replace("DIRECTORY", directory)).unwrap();
    std::fs::write(home.path().join("offered"), "").unwrap();
    let program = r#"
        zmodload zsh/zpty zsh/zselect || exit
        until_there() {
            # What is drawn must be taken away, or the inner one waits. Half a minute at most.
            repeat 3000; do
                while zpty -r -t inner seen; do :; done
                [[ -e $1 ]] && return
                zselect -t 1
            done
            print -ru2 -- "there is no $1"
            exit 1
        }
        zpty -b inner zsh -f -i
        zpty -w inner "source $1/inner"
        until_there $1/ready
        zpty -n -w inner "$2"$'\t'
        # What follows is typed behind it, and so is done when all has been offered.
        zpty -n -w inner $'\C-u'
        zpty -w inner ": >$1/done"
        until_there $1/done
        zpty -d inner
        cat $1/offered
    "#;
    let offered = run(stand, &home, &["zsh", "-f", "-c", program, "zsh", directory, &words.join(" ")]);
    let mut offered: Vec<String> = offered.lines().map(str::to_owned).collect();
    offered.sort();
    offered.dedup();
    offered
}

type Shell = fn(Option<&Stand>, &[&str]) -> Vec<String>;
const SHELLS: [(&str, Shell); 3] = [("bash", bash), ("zsh", zsh), ("fish", fish)];

fn has(offered: &[String], words: &[&str]) -> bool {
    words.iter().all(|word| offered.iter().any(|offered| offered == word))
}

#[test]
fn commands_and_options_are_completed() {
    for (shell, offers) in SHELLS {
        let commands = offers(None, &["firstmate", "st"]);
        assert!(has(&commands, &["start", "stop", "status"]) && !has(&commands, &["restart"]), "{shell}: {commands:?}");
        let options = offers(None, &["firstmate", "status", "--"]);
        assert!(has(&options, &["--json", "--socket"]) && !has(&options, &["--timeout"]), "{shell}: {options:?}");
        let questions = offers(None, &["firstmate", "check", "re"]);
        assert!(has(&questions, &["ready"]), "{shell}: {questions:?}");
    }
}

#[test]
fn names_of_what_runs_are_completed() {
    let stand = Stand::new(stack());
    for (shell, offers) in SHELLS {
        for command in ["stop", "start", "restart", "status", "why"] {
            let names = offers(Some(&stand), &["firstmate", command, ""]);
            assert!(has(&names, &["nginx", "redis", "worker", "worker.1", "worker.2", "migrate", "all"]), "{shell} {command}: {names:?}");
        }
        let names = offers(Some(&stand), &["firstmate", "stop", "nginx", "wor"]);
        assert!(has(&names, &["worker", "worker.1", "worker.2"]) && !has(&names, &["redis"]), "{shell}: {names:?}");
        let none = offers(Some(&stand), &["firstmate", "check-config", ""]);
        assert!(!has(&none, &["nginx"]), "{shell}: {none:?}");
    }
    // So are groups.
    let mut status = stack();
    status.services[0].groups = vec!["front".to_owned()];
    let grouped = Stand::new(status);
    for (shell, offers) in SHELLS {
        let names = offers(Some(&grouped), &["firstmate", "restart", ""]);
        assert!(has(&names, &["nginx", "front", "nginx.1", "all"]), "{shell}: {names:?}");
    }
    // The value of an option is no name, and a placeholder is none either.
    assert!(!has(&bash(Some(&stand), &["firstmate", "status", "--socket", ""]), &["nginx"]));
    let offered = bash(Some(&stand), &["firstmate", "stop", ""]);
    assert!(!offered.iter().any(|word| word.starts_with(['[', '<'])), "{offered:?}");
}

#[test]
fn without_a_firstmate_there_are_no_names_and_no_noise() {
    for (shell, offers) in SHELLS {
        let names = offers(None, &["firstmate", "stop", ""]);
        assert!(!has(&names, &["nginx"]) && names.iter().all(|name| !name.contains("error")), "{shell}: {names:?}");
    }
}

#[test]
fn a_hostile_name_is_no_command() {
    let mut status = stack();
    let place = Directory::new();
    let forged = place.path().join("forged");
    let evil = format!("x$(touch\t{0})`touch {0}`.1", forged.display());
    status.services[0].instances[0].name = evil;
    let stand = Stand::new(status);
    for (shell, offers) in SHELLS {
        let names = offers(Some(&stand), &["firstmate", "stop", ""]);
        assert!(has(&names, &["redis", "redis.1"]), "{shell}: {names:?}");
        assert!(!forged.exists(), "{shell} executed a name");
    }
}
