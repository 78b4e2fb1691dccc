//! `firstmate update`: the running firstmate reads its file again; what is different is shown, and only that moves.

use std::fmt::Write as _;

use super::client;
use super::output::{Failure, err, is_colored, json, out};
use super::progress::Goal;
use super::verbs::{self, Waiting};
use crate::server::{Answer, ChangeKind, Diff, Reply, ServiceChange, ValueChange, printable};

const EXIT_CODES: &str = "\
Exit codes:
  0  everything is as the file says; with --no-wait: on its way there; with --dry-run: the file is good
  1  at least one service is not up, or the update was refused
  2  the file or the arguments are wrong; nothing has changed
  3  with --dry-run --exit-code: something would change
  4  no firstmate answers
  130  interrupted; what was asked for may still be done";

/// With --exit-code: something would change.
const DIFFERENT: u8 = 3;

/// Read the file again, show what is different, and restart only what has changed
///
/// The firstmate that runs reads the file it was started with, by the same options. Services that are new are started, those that are no longer in
/// it are stopped, and of those with another definition only the ones whose process would be another are restarted. A file that is wrong
/// changes nothing. SIGHUP does the same.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct UpdateArgs {
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with_all = ["no_wait", "timeout"])]
    dry_run: bool,
    /// With --dry-run: end with 3 where something would change
    #[arg(long, requires = "dry_run")]
    exit_code: bool,
    /// Show the values of environment variables too
    #[arg(long)]
    show_values: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &UpdateArgs) -> Result<u8, Failure> {
    let socket = args.socket.socket.as_deref();
    let connection = client::connect(socket, None)?.by(args.waiting.deadline());
    let coloured = is_colored(&std::io::stderr()) && !args.json;
    let flags: String = [(args.dry_run, "dry-run&"), (args.show_values, "values&"), (coloured, "colour&")]
        .into_iter()
        .filter_map(|(given, flag)| given.then_some(flag))
        .collect();
    let target = format!("/v1/update?{flags}{}", args.waiting.query().trim_start_matches('&'));
    let goal = if args.dry_run { Goal::None } else { Goal::Up };
    let reply = verbs::ask_for_long("update", goal, &target, &["all".to_owned()], socket, connection)?;
    if args.json {
        out(&json("answer", &reply)?);
    }
    match &reply {
        Reply::Update { diff, instances } => {
            if !args.json {
                for warning in &diff.warnings {
                    err(&format!("{warning}\n"));
                }
                out(&render(diff, instances, is_colored(&std::io::stdout())));
            }
            let well = instances.iter().all(|answer| answer.verdict.is_good());
            Ok(match (well, args.exit_code && !diff.is_nothing()) {
                (false, _) => 1,
                (true, true) => DIFFERENT,
                (true, false) => 0,
            })
        }
        Reply::BadFile { problems } => {
            if !args.json {
                for problem in problems {
                    err(&format!("{problem}\n"));
                }
            }
            let failure = Failure::new(2, "the file is wrong, and nothing has changed");
            Err(if args.dry_run {
                failure.help("mend it and try again")
            } else {
                failure.help("mend it and try again; `firstmate update --dry-run` only shows what would change")
            })
        }
        Reply::Failed { why } | Reply::Refused { why } => Err(Failure::new(1, format!("cannot update: {}", printable(why)))),
        Reply::Done { .. } | Reply::UnknownName { .. } => Err(verbs::strange()),
    }
}

/// `+` is new, `-` goes, `~` has changed.
fn render(diff: &Diff, instances: &[Answer], colour: bool) -> String {
    let mut text = String::new();
    for name in &diff.added {
        line(&mut text, '+', printable(name).as_ref(), colour);
    }
    for name in &diff.removed {
        line(&mut text, '-', printable(name).as_ref(), colour);
    }
    for ServiceChange { name, restarted, changes } in &diff.changed {
        let how = if *restarted { "restart" } else { "without a restart" };
        line(&mut text, '~', &format!("{} ({how})", printable(name)), colour);
        values(&mut text, changes);
    }
    for (changes, when) in [(&diff.firstmate, "at once"), (&diff.at_next_start, "takes effect at the next start of firstmate")] {
        if !changes.is_empty() {
            line(&mut text, '~', &format!("firstmate itself ({when})"), colour);
            values(&mut text, changes);
        }
    }
    for note in &diff.notes {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "note: {}", printable(note));
    }
    text.push_str(&sum(diff));
    for answer in instances {
        let _ = writeln!(text, "{}: {}", printable(&answer.instance), verbs::words("update", &answer.verdict));
    }
    text
}

fn line(text: &mut String, sign: char, rest: &str, colour: bool) {
    let tint = match sign {
        _ if !colour => "",
        '+' => "\x1b[32m",
        '-' => "\x1b[31m",
        _ => "\x1b[33m",
    };
    let reset = if colour { "\x1b[0m" } else { "" };
    let _ = writeln!(text, "{tint}{sign} {rest}{reset}");
}

fn values(text: &mut String, changes: &[ValueChange]) {
    for ValueChange { key, kind, from, to } in changes {
        let shown = |value: &Option<String>| value.as_ref().map(|value| printable(value).into_owned());
        let what = match (kind, shown(from), shown(to)) {
            (ChangeKind::Added, _, Some(to)) => format!("new: {to}"),
            (ChangeKind::Added, _, None) => "new".to_owned(),
            (ChangeKind::Removed, Some(from), _) => format!("{from} -> none"),
            (ChangeKind::Removed, None, _) => "gone".to_owned(),
            (ChangeKind::Changed, Some(from), Some(to)) => format!("{from} -> {to}"),
            (ChangeKind::Changed, None, _) | (ChangeKind::Changed, _, None) => "another value".to_owned(),
        };
        let _ = writeln!(text, "    {}: {what}", printable(key));
    }
}

/// `1 added, 1 removed, 3 changed (2 restart), 45 unchanged`.
fn sum(diff: &Diff) -> String {
    if diff.is_nothing() {
        let services = if diff.unchanged == 1 { "service is" } else { "services are" };
        return format!("nothing has changed: {} {services} as the file says\n", diff.unchanged);
    }
    let restarted = diff.changed.iter().filter(|change| change.restarted).count();
    let mut parts = Vec::new();
    for (count, what) in [(diff.added.len(), "added"), (diff.removed.len(), "removed"), (diff.changed.len(), "changed")] {
        match count {
            0 => {}
            count if what == "changed" => parts.push(format!("{count} changed ({restarted} with a restart)")),
            count => parts.push(format!("{count} {what}")),
        }
    }
    parts.push(format!("{} unchanged", diff.unchanged));
    let dry = if diff.applied { "" } else { "; this is only what would be: nothing was changed" };
    format!("{}{dry}\n", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Verdict;

    fn change(key: &str, kind: ChangeKind, from: Option<&str>, to: Option<&str>) -> ValueChange {
        ValueChange { key: key.to_owned(), kind, from: from.map(str::to_owned), to: to.map(str::to_owned) }
    }

    fn nothing(applied: bool) -> Diff {
        Diff {
            applied,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            unchanged: 7,
            firstmate: Vec::new(),
            at_next_start: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn the_difference_is_shown_with_signs() {
        let web = ServiceChange {
            name: "web".to_owned(),
            restarted: true,
            changes: vec![
                change("command", ChangeKind::Changed, Some("a"), Some("b\x1b[2J")),
                change("user", ChangeKind::Added, None, Some("www")),
                change("group", ChangeKind::Removed, Some("www"), None),
                change("env.A", ChangeKind::Changed, None, None),
                change("env.B", ChangeKind::Added, None, None),
                change("env.C", ChangeKind::Removed, None, None),
            ],
        };
        let db = ServiceChange {
            name: "db".to_owned(),
            restarted: false,
            changes: vec![change("stop_timeout", ChangeKind::Changed, Some("10s"), Some("3s"))],
        };
        let diff = Diff {
            added: vec!["cache".to_owned()],
            removed: vec!["old".to_owned()],
            changed: vec![web, db],
            at_next_start: vec![change("http", ChangeKind::Changed, Some("off"), Some("127.0.0.1:80"))],
            notes: vec!["clock keeps its PORT".to_owned()],
            ..nothing(true)
        };
        let answers = [Answer { instance: "web.1".to_owned(), verdict: Verdict::Restarted }];
        let expected = "\
+ cache
- old
~ web (restart)
    command: a -> b\\u{1b}[2J
    user: new: www
    group: www -> none
    env.A: another value
    env.B: new
    env.C: gone
~ db (without a restart)
    stop_timeout: 10s -> 3s
~ firstmate itself (takes effect at the next start of firstmate)
    http: off -> 127.0.0.1:80
note: clock keeps its PORT
1 added, 1 removed, 2 changed (1 with a restart), 7 unchanged
web.1: restarted
";
        assert_eq!(render(&diff, &answers, false), expected);
        let coloured = render(&diff, &answers, true);
        assert!(coloured.starts_with("\x1b[32m+ cache\x1b[0m\n\x1b[31m- old\x1b[0m\n\x1b[33m~ web"), "{coloured}");
    }

    #[test]
    fn nothing_is_told_as_such() {
        assert_eq!(render(&nothing(true), &[], false), "nothing has changed: 7 services are as the file says\n");
        let diff = Diff { added: vec!["a".to_owned()], ..nothing(false) };
        assert_eq!(render(&diff, &[], false), "+ a\n1 added, 7 unchanged; this is only what would be: nothing was changed\n");
    }
}
