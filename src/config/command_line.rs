//! A command as one string: argv where no shell is needed, text for `sh -c` where one is.
//!
//! Most commands are plain words, and those need no shell in the image. Text with shell syntax is passed on unchanged, except that `exec`
//! goes in front of a single simple command, so that the program takes the shell's place and gets signals itself. Nothing is ever
//! expanded or pasted into the text here. The grammar is that of POSIX sh, chapter "Shell Command Language".

use std::ops::Range;

use crate::engine::spec::Command;

/// A command that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What is executed.
    pub command: Command,
    /// The shell stays, with the program as its child: signals must go to the whole group to reach it.
    pub shell_stays: bool,
}

/// Why a command cannot be read, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: &'static str,
    /// Bytes of the text.
    pub span: Range<usize>,
    /// How to mend it.
    pub help: &'static str,
}

/// Words that mean something to a shell and are, or may be, no program: neither to be executed directly nor after `exec`.
const SHELL_WORDS: [&str; 39] = [
    "!", ".", ":", "[[", "alias", "bg", "break", "case", "cd", "command", "continue", "declare", "do", "done", "elif", "else", "esac",
    "eval", "exit", "export", "fg", "for", "function", "if", "let", "local", "readonly", "return", "set", "shift", "source", "then",
    "time", "trap", "ulimit", "umask", "unset", "until", "while",
];

/// Reads a command.
///
/// # Errors
/// An empty text, a NUL, an unclosed quote, a backslash at the end.
pub fn parse(text: &str) -> Result<Line, Problem> {
    let start = text.len().saturating_sub(text.trim_start().len());
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Problem { message: "the command is empty", span: 0..text.len(), help: "name a program" });
    }
    if let Some(at) = text.find('\0') {
        return Err(Problem { message: "a command cannot hold a NUL character", span: at..at.saturating_add(1), help: "remove it" });
    }
    let scan = Scan::run(trimmed)
        .map_err(|problem| Problem { span: problem.span.start.saturating_add(start)..problem.span.end.saturating_add(start), ..problem })?;
    if !scan.needs_shell
        && let Some(words) = shlex::split(trimmed)
    {
        // `exec` is what happens without a shell anyway.
        let words: Vec<String> = if scan.has_exec { words.into_iter().skip(1).collect() } else { words };
        if !words.is_empty() {
            return Ok(Line { command: Command::Argv(words), shell_stays: false });
        }
    }
    if !scan.simple {
        return Ok(Line { command: Command::Shell(trimmed.to_owned()), shell_stays: true });
    }
    let text = match (scan.has_exec, trimmed.split_at_checked(scan.command_at)) {
        (false, Some((assignments, command))) => format!("{assignments}exec {command}"),
        (true, _) | (_, None) => trimmed.to_owned(),
    };
    Ok(Line { command: Command::Shell(text), shell_stays: false })
}

/// A remark about a command that puts itself into the background, where nothing supervises it: what, and how to mend it.
#[must_use]
pub fn daemonises(command: &Command) -> Option<(String, &'static str)> {
    let words: Vec<String> = match command {
        Command::Argv(words) => words.clone(),
        Command::Shell(text) => shlex::split(text)?,
    };
    let mut at_command = true;
    for (at, word) in words.iter().enumerate() {
        let starts_here = at_command;
        let ends_command = |word: &str| {
            (word.ends_with(';') && !word.contains(' ')) || matches!(word, "&&" | "||" | "|" | "&" | "then" | "do" | "else" | "{" | "(")
        };
        at_command = ends_command(word) || (starts_here && (matches!(word.as_str(), "exec" | "env") || is_assignment(word)));
        if !starts_here {
            continue;
        }
        // A word that ends in `;` is the last of its command.
        let mut ended = word.ends_with(';');
        let rest: Vec<&str> = words
            .iter()
            .skip(at.saturating_add(1))
            .map(String::as_str)
            .take_while(|word| {
                let belongs = !ended && !matches!(*word, "&&" | "||" | "|" | "&" | ";");
                // `-g "daemon off;"` is one word with a blank in it.
                ended |= word.ends_with(';') && !word.contains(' ');
                belongs
            })
            .collect();
        let has = |short: char, long: &str| {
            rest.iter().any(|arg| *arg == long || (arg.starts_with('-') && !arg.starts_with("--") && arg.contains(short)))
        };
        let word = word.trim_end_matches(';');
        let program = word.rsplit('/').next().unwrap_or(word);
        if program == "nginx" || program == "nginx-debug" {
            let only_asks = rest.iter().any(|arg| matches!(*arg, "-t" | "-T" | "-v" | "-V" | "-h" | "-?" | "-s"));
            // A configuration that is named may say it, and nginx refuses to be told twice.
            let configured = rest.iter().any(|arg| arg.starts_with("-c"));
            if !only_asks && !configured && !rest.iter().any(|arg| arg.contains("daemon off")) {
                return Some(("nginx goes into the background unless told not to".to_owned(), "add -g \"daemon off;\""));
            }
        } else if program.strip_prefix("php-fpm").is_some_and(|version| version.bytes().all(|b| b.is_ascii_digit() || b == b'.')) {
            if !has('F', "--nodaemonize") && !has('t', "--test") && !has('v', "--version") && !has('i', "--info") {
                return Some((format!("{program} goes into the background unless told not to"), "add -F"));
            }
        } else if matches!(program, "httpd" | "apache2" | "apache2ctl" | "apachectl") {
            let foreground = rest.iter().any(|arg| matches!(*arg, "-DFOREGROUND" | "FOREGROUND" | "-DNO_DETACH" | "NO_DETACH" | "-X"));
            let only_asks = rest.iter().any(|arg| matches!(*arg, "-t" | "-v" | "-V" | "-S" | "-M" | "-l" | "-L" | "-h"));
            if !foreground && !only_asks {
                return Some((format!("{program} goes into the background unless told not to"), "add -DFOREGROUND"));
            }
        }
    }
    None
}

/// `NAME=` at the beginning of a word, as the shell takes it.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// What one pass over the text found.
#[derive(Debug)]
struct Scan {
    /// Some of it means something to a shell only.
    needs_shell: bool,
    /// One simple command, whose program may take the shell's place.
    simple: bool,
    /// It says `exec` itself.
    has_exec: bool,
    /// Where the command's first word begins, after assignments.
    command_at: usize,
}

impl Scan {
    /// The rest cannot be judged without being a shell.
    fn left_to_the_shell(self) -> Self {
        Self { needs_shell: true, simple: false, ..self }
    }

    fn run(text: &str) -> Result<Self, Problem> {
        let bytes = text.as_bytes();
        let mut scan = Self { needs_shell: false, simple: true, has_exec: false, command_at: 0 };
        let mut at = 0usize;
        // `None` between words.
        let mut word_at: Option<usize> = None;
        let mut seen_command = false;
        let mut first_argument = false;
        loop {
            let byte = bytes.get(at).copied();
            let next = bytes.get(at.saturating_add(1)).copied();
            let ends_word = matches!(byte, None | Some(b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>'));
            if ends_word && let Some(start) = word_at.take() {
                let word = text.get(start..at).unwrap_or_default();
                if !seen_command {
                    if is_assignment(word) {
                        scan.needs_shell = true;
                    } else {
                        seen_command = true;
                        scan.command_at = start;
                        scan.has_exec = word == "exec";
                        if SHELL_WORDS.contains(&word) || matches!(word, "{" | "}") {
                            scan.needs_shell = true;
                            scan.simple = false;
                        }
                    }
                } else if scan.has_exec && first_argument && word.starts_with('-') {
                    // `exec -a name program`: an option of the shell's own `exec`.
                    scan.needs_shell = true;
                }
                first_argument = seen_command && start == scan.command_at;
            }
            let Some(byte) = byte else { break };
            match byte {
                b' ' | b'\t' => at = at.saturating_add(1),
                b'#' if word_at.is_none() => {
                    scan.needs_shell = true;
                    at = text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| at.saturating_add(length));
                }
                b'>' | b'<' => {
                    scan.needs_shell = true;
                    if byte == b'<' && next == Some(b'<') {
                        // The text below is a document, not a command: quotes in it are only quotes.
                        return Ok(scan.left_to_the_shell());
                    }
                    if !seen_command {
                        scan.simple = false;
                    }
                    // `>&2`, `>|file`, `<>file`: the second character belongs to the operator.
                    at = at.saturating_add(if matches!(next, Some(b'&' | b'|' | b'>')) { 2 } else { 1 });
                }
                b'\n' | b';' | b'&' | b'|' | b'(' | b')' => {
                    scan.needs_shell = true;
                    scan.simple = false;
                    at = at.saturating_add(1);
                }
                b'\\' => {
                    if next.is_none() {
                        return Err(Problem {
                            message: "the command ends in a backslash that escapes nothing",
                            span: at..at.saturating_add(1),
                            help: "remove it, or write two for a backslash",
                        });
                    }
                    word_at = word_at.or(Some(at));
                    at = at.saturating_add(2);
                }
                b'\'' => {
                    word_at = word_at.or(Some(at));
                    let close = text.get(at.saturating_add(1)..).and_then(|rest| rest.find('\''));
                    let Some(length) = close else { return Err(unclosed(at, "the single quote is not closed")) };
                    at = at.saturating_add(length).saturating_add(2);
                }
                b'"' => {
                    word_at = word_at.or(Some(at));
                    match double_quoted(bytes, at.saturating_add(1), 0) {
                        Ok((end, expands)) => {
                            scan.needs_shell |= expands;
                            at = end;
                        }
                        Err(Unclosed::Quote) => return Err(unclosed(at, "the double quote is not closed")),
                        Err(Unclosed::Inner) => return Ok(scan.left_to_the_shell()),
                    }
                }
                b'$' | b'`' => {
                    word_at = word_at.or(Some(at));
                    let alone = byte == b'$' && matches!(next, None | Some(b' ' | b'\t' | b'\n'));
                    if alone {
                        at = at.saturating_add(1);
                        continue;
                    }
                    scan.needs_shell = true;
                    match expansion(bytes, at, 0) {
                        Some(end) => at = end,
                        None => return Ok(scan.left_to_the_shell()),
                    }
                }
                b'*' | b'?' | b'[' => {
                    // `[` alone is the program test(1).
                    let is_test = byte == b'[' && word_at.is_none() && matches!(next, Some(b' '));
                    scan.needs_shell |= !is_test;
                    word_at = word_at.or(Some(at));
                    at = at.saturating_add(1);
                }
                b'~' => {
                    scan.needs_shell |= word_at.is_none();
                    word_at = word_at.or(Some(at));
                    at = at.saturating_add(1);
                }
                _ => {
                    word_at = word_at.or(Some(at));
                    at = at.saturating_add(1);
                }
            }
        }
        if !seen_command {
            scan.simple = false;
            scan.needs_shell = true;
        }
        Ok(scan)
    }
}

fn unclosed(at: usize, message: &'static str) -> Problem {
    Problem { message, span: at..at.saturating_add(1), help: "close it, or put a backslash before it" }
}

/// Quotes and substitutions inside one another deeper than this are left to the shell.
const DEEPEST: usize = 32;

/// What was opened and is never closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unclosed {
    /// The quote that was asked about.
    Quote,
    /// Something within it, as far as can be told without being a shell. Never tried again from elsewhere: that would take exponential time.
    Inner,
}

/// From just behind the opening quote to just behind the closing one, and whether something in between is expanded.
fn double_quoted(bytes: &[u8], mut at: usize, depth: usize) -> Result<(usize, bool), Unclosed> {
    let mut expands = false;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return Ok((at.saturating_add(1), expands)),
            b'\\' => at = at.saturating_add(2),
            b'$' if matches!(bytes.get(at.saturating_add(1)), None | Some(b' ' | b'"')) => at = at.saturating_add(1),
            b'$' | b'`' => {
                expands = true;
                at = expansion(bytes, at, depth.saturating_add(1)).ok_or(Unclosed::Inner)?;
            }
            _ => at = at.saturating_add(1),
        }
    }
    Err(Unclosed::Quote)
}

/// From a `$` or backtick to just behind what it introduces; `None` when it is not closed.
fn expansion(bytes: &[u8], at: usize, depth: usize) -> Option<usize> {
    let inside = at.saturating_add(1);
    if bytes.get(at) == Some(&b'`') {
        let mut at = inside;
        loop {
            match bytes.get(at)? {
                b'`' => return Some(at.saturating_add(1)),
                b'\\' => at = at.saturating_add(2),
                _ => at = at.saturating_add(1),
            }
        }
    }
    match bytes.get(inside) {
        Some(b'{') => closed(bytes, inside.saturating_add(1), b'}', depth),
        Some(b'(') => closed(bytes, inside.saturating_add(1), b')', depth),
        // A name or a special parameter: what follows is ordinary text as far as this scan is concerned.
        Some(_) | None => Some(inside),
    }
}

/// From just behind an opening brace or parenthesis to just behind the one that closes it.
fn closed(bytes: &[u8], mut at: usize, close: u8, depth: usize) -> Option<usize> {
    if depth > DEEPEST {
        return None;
    }
    let deeper = depth.saturating_add(1);
    loop {
        match bytes.get(at)? {
            byte if *byte == close => return Some(at.saturating_add(1)),
            b'\\' => at = at.saturating_add(2),
            b'\'' if close == b')' => {
                let inside = at.saturating_add(1);
                at = bytes.iter().skip(inside).position(|byte| *byte == b'\'')?.saturating_add(inside).saturating_add(1);
            }
            b'"' => at = double_quoted(bytes, at.saturating_add(1), deeper).ok()?.0,
            b'$' | b'`' => at = expansion(bytes, at, deeper)?,
            b'(' if close == b')' => at = closed(bytes, at.saturating_add(1), b')', deeper)?,
            _ => at = at.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Line {
        Line { command: Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()), shell_stays: false }
    }

    fn text(text: &str, shell_stays: bool) -> Line {
        Line { command: Command::Shell(text.to_owned()), shell_stays }
    }

    #[test]
    fn plain_words_need_no_shell() {
        for (command, words) in [
            ("nginx -g 'daemon off;'", &["nginx", "-g", "daemon off;"][..]),
            ("  redis-server   /etc/redis.conf ", &["redis-server", "/etc/redis.conf"]),
            ("exec bundle exec puma -C config/puma.rb", &["bundle", "exec", "puma", "-C", "config/puma.rb"]),
            ("a \"b c\" d\\ e", &["a", "b c", "d e"]),
            ("php -r 'echo $x; # `not` *expanded*'", &["php", "-r", "echo $x; # `not` *expanded*"]),
            ("printf \"5 $\" 5 $", &["printf", "5 $", "5", "$"]),
            ("java -jar x.jar --url=http://a:1/b#c a=b {x,y} c~", &["java", "-jar", "x.jar", "--url=http://a:1/b#c", "a=b", "{x,y}", "c~"]),
            ("[ -f x ]", &["[", "-f", "x", "]"]),
            ("a ''", &["a", ""]),
        ] {
            assert_eq!(parse(command), Ok(argv(words)), "{command}");
        }
    }

    #[test]
    fn one_simple_command_takes_the_place_of_its_shell() {
        for (command, expected) in [
            ("gunicorn -b :$PORT app", "exec gunicorn -b :$PORT app"),
            ("gunicorn -b \":$PORT\" app", "exec gunicorn -b \":$PORT\" app"),
            ("exec gunicorn -b :$PORT app", "exec gunicorn -b :$PORT app"),
            ("exec -a web gunicorn", "exec -a web gunicorn"),
            ("RAILS_ENV=x B=\"1 2\" bin/rails s", "RAILS_ENV=x B=\"1 2\" exec bin/rails s"),
            ("app > log 2>&1", "exec app > log 2>&1"),
            ("app --threads ${T:-4;5} $(nproc; echo \")\")", "exec app --threads ${T:-4;5} $(nproc; echo \")\")"),
            ("ls *.rb", "exec ls *.rb"),
            ("app ~/x", "exec app ~/x"),
            ("app # it's a remark; really", "exec app # it's a remark; really"),
            ("app `hostname`", "exec app `hostname`"),
            ("$RUNNER app", "exec $RUNNER app"),
        ] {
            assert_eq!(parse(command), Ok(text(expected, false)), "{command}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_shell_as_it_is() {
        for command in [
            "cd x && ./run",
            "a; b",
            "a | b",
            "a & wait",
            "a &",
            "(a)",
            "{ a; }",
            "! a",
            "eval \"$X\"",
            "eval x",
            "cd x",
            "if true; then a; fi",
            "while :; do a; done",
            "a\nb",
            "X=1",
            ">log",
            ">log a",
            "cat <<EOF\nit's\nEOF",
            "a $(case x in x) echo it\\'s;; esac)",
            "a $(b",
            "a ${b",
            "a `b",
            "# only a remark",
            "a &> log",
            "source x",
            ". x",
        ] {
            assert_eq!(parse(command), Ok(text(command, true)), "{command}");
        }
    }

    #[test]
    fn what_cannot_be_a_command_is_refused_at_its_place() {
        for (command, span) in [("", 0..0), ("   ", 0..3), (" a 'b", 3..4), ("a \"b", 2..3), ("a\\", 1..2), ("a\0b", 1..2)] {
            assert_eq!(parse(command).map_err(|problem| problem.span), Err(span), "{command:?}");
        }
    }

    #[test]
    fn deep_nesting_is_quick_and_left_to_the_shell() {
        for unit in ["\"$(", "${", "$(", "$((", "`\"", "\"${"] {
            let command = format!("a {}", unit.repeat(20_000));
            let _ = parse(&command);
        }
        assert_eq!(parse(&format!("a {}{}", "$(".repeat(40), ")".repeat(40))).map(|line| line.shell_stays), Ok(true));
    }

    #[test]
    fn programs_that_go_into_the_background_are_noticed() {
        for (command, mend) in [
            ("nginx", Some("add -g \"daemon off;\"")),
            ("/usr/sbin/nginx -p /srv", Some("add -g \"daemon off;\"")),
            ("nginx -p . -e stderr -c conf/nginx.conf", None),
            ("nginx -g 'daemon off;'", None),
            ("nginx -g \"pid /tmp/x; daemon off;\"", None),
            ("nginx -t", None),
            ("envsubst <a >b && nginx", Some("add -g \"daemon off;\"")),
            ("envsubst <a >b && exec nginx -g 'daemon off;'", None),
            ("nginx; tail -f 'daemon off'", Some("add -g \"daemon off;\"")),
            ("X=1 env Y=$Z nginx", Some("add -g \"daemon off;\"")),
            ("php-fpm", Some("add -F")),
            ("php-fpm8.2 -y x.conf", Some("add -F")),
            ("php-fpm82 --nodaemonize", None),
            ("php-fpm8.2 -F", None),
            ("php-fpm8.2 -nF -y FOO", None),
            ("cat php-fpm.conf", None),
            ("httpd", Some("add -DFOREGROUND")),
            ("apache2 -D FOREGROUND", None),
            ("apache2 -DFOREGROUND", None),
            ("httpd -X", None),
            ("tail -f /var/log/nginx", None),
            ("watch nginx", None),
        ] {
            let line = parse(command).unwrap();
            assert_eq!(daemonises(&line.command).map(|(_, mend)| mend), mend, "{command}");
        }
    }
}
