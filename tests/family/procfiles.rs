//! Procfiles: the same process types, commands, ports, working directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Difference;
use crate::sandbox::{Call, Ran, Sandbox, Tool, Until};

/// Of the environment, what the tools and shells set each in their own way.
pub const NOT_COMPARED: [&str; 14] = [
    "PATH",
    "HOME",
    "LANG",
    "RECORD",
    "RECORD_STAYS",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "PS",
    "HONCHO_PROCESS_NAME",
    "PYTHONUNBUFFERED",
    "LINES",
    "COLUMNS",
];

/// What a program is told, but for what is each tool's own.
pub fn told(env: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !NOT_COMPARED.contains(name) && !name.starts_with("FIRSTMATE_"))
        .collect()
}

/// Places in the file are kept: a type that is there twice is in the list twice.
fn checked(sandbox: &Sandbox, tool: Tool) -> Option<Vec<String>> {
    let arguments = match tool {
        Tool::Firstmate => ["check-config"],
        Tool::Foreman | Tool::Honcho => ["check"],
    };
    let ran = sandbox.run(tool, &arguments, Until::End);
    if ran.code != Some(0) {
        return None;
    }
    let said = ran.said.to_lowercase();
    let at = said.find("valid procfile detected (").unwrap_or_else(|| panic!("{tool} says nothing of process types: {}", ran.said));
    let list = ran.said[at..].split_once('(').unwrap().1.split_once(')').unwrap().0;
    Some(list.split(", ").map(ToOwned::to_owned).collect())
}

pub fn compare(path: &Path) -> Vec<Difference> {
    let bytes = std::fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let file = path.file_name().unwrap().to_str().unwrap().to_owned();
    let sandbox = Sandbox::new(&bytes, None);
    let mut differences = Vec::new();
    let mut differs = |subject: &str, tool, reason: Result<&'static str, String>| {
        let subject = if subject.is_empty() { file.clone() } else { format!("{file}: {subject}") };
        differences.push(Difference { subject, tool, reason });
    };
    let own = checked(&sandbox, Tool::Firstmate);
    let mut common: BTreeMap<Tool, Vec<String>> = BTreeMap::new();
    for tool in [Tool::Foreman, Tool::Honcho] {
        let theirs = checked(&sandbox, tool);
        let (Some(own), Some(theirs)) = (&own, &theirs) else {
            if theirs.as_deref() == Some(&[String::new()]) {
                differs("", tool, Ok("it finds a file without any process type good"));
            } else if own != theirs {
                differs("", tool, why_refused(&text, own.is_none()).ok_or_else(|| format!("firstmate has {own:?}, it has {theirs:?}")));
            }
            continue;
        };
        for name in own.iter().filter(|name| !theirs.contains(name)) {
            differs(name, tool, why_skipped(&text, name).ok_or_else(|| "it does not see it".to_owned()));
        }
        for name in theirs.iter().filter(|name| !own.contains(name)) {
            differs(name, tool, Err("firstmate does not see it".to_owned()));
        }
        common.insert(tool, own.iter().filter(|name| theirs.contains(name)).cloned().collect());
    }
    let Some(own) = own else { return differences };
    all_at_once(&sandbox, &own, &common, &mut differs);
    for (index, name) in own.iter().enumerate() {
        let base = (5000 + 100 * index).to_string();
        let ours = alone(&sandbox, Tool::Firstmate, name, &[]);
        for (tool, common) in &common {
            if !common.contains(name) {
                continue;
            }
            // foreman counts the types it does not start but not the lines it skips, and honcho only what it starts.
            let skipped = index - common.iter().position(|other| other == name).unwrap();
            let first = match tool {
                Tool::Foreman => (5000 + 100 * skipped).to_string(),
                Tool::Honcho | Tool::Firstmate => base.clone(),
            };
            let theirs = alone(&sandbox, *tool, name, &["-p", &first]);
            if ours.0 != theirs.0 {
                let command = command_of(&text, name);
                let why = why_called_differently(&command, *tool, &ours.0, &theirs.0);
                differs(
                    name,
                    *tool,
                    why.ok_or_else(|| format!("is called as {:?}, with firstmate {:?}\n{}", theirs.0, ours.0, theirs.1.said)),
                );
            }
        }
    }
    differences
}

/// What a program was called by, and where, and what it was told.
type Calls = Vec<(Vec<String>, String, Vec<(String, String)>)>;

fn calls_of(calls: &[Call]) -> Calls {
    calls.iter().map(|call| (call.argv.clone(), call.cwd.clone(), owned(&call.env))).collect()
}

fn owned(env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    told(env).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// One process type alone, every program of which ends at once.
fn alone(sandbox: &Sandbox, tool: Tool, name: &str, more: &[&str]) -> (Calls, Ran) {
    let ran = sandbox.run(tool, &[&["start"], more, &[name]].concat(), Until::End);
    (calls_of(&ran.calls), ran)
}

/// All of them, each of which stays at the first program it calls: this shows the ports as they are side by side.
fn all_at_once(
    sandbox: &Sandbox,
    own: &[String],
    common: &BTreeMap<Tool, Vec<String>>,
    differs: &mut impl FnMut(&str, Tool, Result<&'static str, String>),
) {
    let first_calls = |tool: Tool, names: usize| -> BTreeMap<String, Call> {
        // `release` would be waited for.
        let arguments: &[&str] = if tool == Tool::Firstmate { &["start", "-m", "all=1,release=0"] } else { &["start"] };
        let has_release = own.iter().any(|name| name == "release");
        let arguments = if tool == Tool::Firstmate && !has_release { &["start"][..] } else { arguments };
        let only_release = tool == Tool::Firstmate && has_release && own.len() == 1;
        if only_release {
            return BTreeMap::new();
        }
        let wanted = if tool == Tool::Firstmate && has_release { names - 1 } else { names };
        let ran = sandbox.run(tool, arguments, Until::Instances(wanted));
        ran.calls.into_iter().filter_map(|call| Some((call.instance()?.to_owned(), call))).collect()
    };
    let ours = first_calls(Tool::Firstmate, own.len());
    for (tool, names) in common {
        let theirs = first_calls(*tool, names.len());
        // One that calls no program ends, and so all end, some before they called theirs. Each alone tells the rest.
        let both: BTreeSet<&String> = ours.keys().filter(|name| theirs.contains_key(*name)).collect();
        for name in both {
            let (our, their) = (&ours[name], &theirs[name]);
            if *tool == Tool::Foreman && our.env.get("PS") != their.env.get("PS") {
                differs(name, *tool, Err(format!("PS is {:?}, with firstmate {:?}", their.env.get("PS"), our.env.get("PS"))));
            }
            if owned(&our.env) != owned(&their.env) {
                let service = name.rsplit_once('.').unwrap().0;
                let place = |list: &[String]| list.iter().position(|other| other == service).unwrap();
                let mut shifted = our.env.clone();
                let port: usize = shifted["PORT"].parse().unwrap();
                shifted.insert("PORT".to_owned(), (port - 100 * (place(own) - place(names))).to_string());
                let reason = if owned(&shifted) == owned(&their.env) {
                    Ok(SKIPPED_SHIFTS)
                } else {
                    Err(format!("is told {:?}, with firstmate {:?}", owned(&their.env), owned(&our.env)))
                };
                differs(&format!("{name} beside the others"), *tool, reason);
            }
        }
    }
}

/// What a shell has of its own, and what is a program as well.
const BUILTINS: [&str; 7] = ["echo", "true", "false", "test", "[", "printf", "pwd"];
const SKIPPED_SHIFTS: &str = "a line it skips has no place, so the ports of the later ones differ";

fn line_of<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split('\n')
        .find(|line| line.trim_start_matches('\u{feff}').trim().split_once(':').is_some_and(|(before, _)| before.trim_end() == name))
}

fn command_of(text: &str, name: &str) -> String {
    line_of(text, name).and_then(|line| line.split_once(':')).map(|(_, command)| command.trim().to_owned()).unwrap_or_default()
}

/// Why the others do not see a process type that firstmate sees.
fn why_skipped(text: &str, name: &str) -> Option<&'static str> {
    let line = line_of(text, name)?;
    if line.starts_with('\u{feff}') {
        Some("it takes a byte order mark for part of the first line, and skips that")
    } else if line.starts_with([' ', '\t']) || line.split_once(':')?.0.ends_with([' ', '\t']) {
        Some("it skips a line with a blank before the name or the colon")
    } else {
        None
    }
}

/// Why a file as a whole is good for the one and not for the other.
fn why_refused(text: &str, by_firstmate: bool) -> Option<&'static str> {
    let mut names = BTreeSet::new();
    let is_twice =
        text.lines().filter_map(|line| line.split_once(':')).any(|(name, _)| !name.trim().starts_with('#') && !names.insert(name.trim()));
    if by_firstmate && is_twice {
        Some("it starts a type that is there twice in both forms; firstmate refuses the file")
    } else if by_firstmate && text.lines().any(|line| line.matches('\'').count() % 2 == 1 || line.matches('"').count() % 2 == 1) {
        Some("it leaves it to the shell to find a quote that is never closed; firstmate refuses the file")
    } else if !by_firstmate && text.starts_with('\u{feff}') {
        Some("it takes a byte order mark for part of the first line, and skips that")
    } else if !by_firstmate
        && text.lines().any(|line| line.starts_with([' ', '\t']) || line.split_once(':').is_some_and(|(name, _)| name.ends_with(' ')))
    {
        Some("it skips a line with a blank before the name or the colon")
    } else {
        None
    }
}

/// Why a program is called with other words.
fn why_called_differently(command: &str, tool: Tool, ours: &Calls, theirs: &Calls) -> Option<&'static str> {
    let pasted = ["$PORT", "$PS"].iter().any(|name| command.contains(name));
    if tool == Tool::Foreman && pasted && command.contains(['\'', '\\']) && ours.len() == theirs.len() {
        return Some("it pastes $PORT and $PS into the text, also where the shell would leave them alone");
    }
    let first = command.split_whitespace().next().unwrap_or_default();
    if tool == Tool::Honcho && BUILTINS.contains(&first) && theirs.len() < ours.len() {
        return Some("it runs `echo`, `false`, `test` and the like as the shell's own");
    }
    if tool == Tool::Honcho && command.contains("$PS") && ours.len() == theirs.len() {
        return Some("it sets no PS");
    }
    None
}
