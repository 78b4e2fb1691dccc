//! A page of Markdown as what its reader types, and is told to put into files.

use std::path::Path;

/// A command, with what the page says about it.
#[derive(Debug, Clone)]
pub struct Command {
    /// The line of the page, from 1.
    pub line: usize,
    pub text: String,
    /// The lines the page shows as its output; `None` where it shows none.
    pub expected: Option<Vec<String>>,
    /// It ends with this code.
    pub exit: i32,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// Commands of one block, in the order of the page. On the host, with the real Docker, if one of them is `docker`'s.
    Commands { on_host: bool, commands: Vec<Command> },
    /// A command in a terminal of its own, which may go on while others are run.
    Begin { line: usize, terminal: String, command: String, expected: Vec<String> },
    /// Ctrl-C in that terminal, after which the command ends.
    Interrupt { line: usize, terminal: String, expected: Vec<String> },
    /// The reader puts this into a file.
    File { name: String, text: String },
}

/// A block of code that is nobody's command.
#[derive(Debug, Clone)]
pub struct Block {
    pub line: usize,
    pub language: String,
    pub words: Vec<String>,
    pub lines: Vec<String>,
}

impl Block {
    fn word(&self, name: &str) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

#[derive(Debug)]
pub struct Page {
    pub name: String,
    pub steps: Vec<Step>,
    /// All of them, those with commands too.
    pub blocks: Vec<Block>,
    /// `code` in the text, with its line.
    pub inline: Vec<(usize, String)>,
}

/// What a line that is typed begins with. A block of another kind that has such a line is a command nobody would run.
const PROGRAMS: [&str; 16] = [
    "apt", "apt-get", "aws", "cargo", "cd", "cp", "curl", "docker", "export", "install", "kubectl", "make", "mkdir", "promtool", "rm",
    "sudo",
];

/// As `firstmate status`, and not as `firstmate | web.1 started` or `firstmate logs [-f] [NAME...]`.
fn is_firstmates(line: &str) -> bool {
    line.strip_prefix("firstmate ").is_some_and(|rest| {
        let word = rest.split(' ').next().unwrap_or_default();
        let is_form = rest.contains(" [") || rest.contains("...");
        !is_form && (rest.starts_with("-- ") || firstmate::cli::command().get_subcommands().any(|command| command.get_name() == word))
    })
}

fn is_typed(line: &str) -> bool {
    line.starts_with("$ ")
        || is_firstmates(line)
        || PROGRAMS.iter().any(|program| line.strip_prefix(program).is_some_and(|rest| rest.starts_with(' ')))
}

impl Page {
    /// Reads `name`, a path below the repository.
    ///
    /// # Panics
    /// On a block that keeps to none of the conventions in `main.rs`.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        Self::parse(name, &std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    pub fn parse(name: &str, text: &str) -> Self {
        let (blocks, inline) = blocks(name, text);
        let steps = blocks.iter().filter_map(|block| step(name, block)).collect();
        Self { name: name.to_owned(), steps, blocks, inline }
    }

    pub fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        self.steps.iter().flat_map(|step| match step {
            Step::Commands { commands, .. } => commands.iter().map(|one| (one.line, one.text.as_str())).collect(),
            Step::Begin { line, command, .. } => vec![(*line, command.as_str())],
            Step::Interrupt { .. } | Step::File { .. } => Vec::new(),
        })
    }
}

/// Fenced blocks, blocks that are indented by four blanks, and what is between backticks elsewhere.
fn blocks(name: &str, text: &str) -> (Vec<Block>, Vec<(usize, String)>) {
    let mut blocks = Vec::new();
    let mut inline = Vec::new();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line)).peekable();
    // An indented block stands behind an empty line; else it is the rest of a paragraph or of an item.
    let mut after_empty = true;
    let mut in_item = false;
    while let Some((line, content)) = lines.next() {
        let trimmed = content.trim_start();
        let indent = content.len() - trimmed.len();
        if let Some(info) = trimmed.strip_prefix("```") {
            let mut words = info.split_whitespace().map(str::to_owned);
            let language = words.next().unwrap_or_default();
            let mut inner = Vec::new();
            loop {
                let Some((_, next)) = lines.next() else { panic!("{name}:{line}: the block is not closed") };
                if next.trim() == "```" {
                    break;
                }
                inner.push(next.get(indent.min(next.len() - next.trim_start().len())..).unwrap_or_default().to_owned());
            }
            blocks.push(Block { line, language, words: words.collect(), lines: inner });
            after_empty = false;
            continue;
        }
        let least = if in_item { 7 } else { 4 };
        if after_empty && indent >= least && !trimmed.is_empty() {
            let mut inner = vec![content[least..].to_owned()];
            while let Some((_, next)) = lines.next_if(|(_, next)| next.trim().is_empty() || next.len() - next.trim_start().len() >= least) {
                inner.push(next.get(least..).unwrap_or_default().to_owned());
            }
            while inner.last().is_some_and(|last| last.trim().is_empty()) {
                inner.pop();
            }
            // It cannot say what it is: a prompt says it, or that every line of it is a command.
            let has_prompt = inner.iter().any(|line| line.starts_with("$ "));
            let all_typed = inner.iter().all(|line| is_typed(line));
            let language = if has_prompt {
                "console"
            } else if all_typed {
                "sh"
            } else {
                "text"
            };
            blocks.push(Block { line: line - 1, language: language.to_owned(), words: Vec::new(), lines: inner });
            after_empty = true;
            continue;
        }
        after_empty = trimmed.is_empty();
        if indent == 0 && !trimmed.is_empty() {
            in_item = trimmed.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        }
        inline.extend(content.split('`').skip(1).step_by(2).map(|code| (line, code.replace("\\|", "|"))));
    }
    (blocks, inline)
}

fn step(name: &str, block: &Block) -> Option<Step> {
    let Block { line, language, lines, .. } = block;
    if let Some(file) = block.word("file") {
        return Some(Step::File { name: file.to_owned(), text: lines.join("\n") + "\n" });
    }
    let commands = match language.as_str() {
        "sh" => typed(name, block),
        "console" => session(name, block),
        "toml" | "procfile" | "dotenv" => return None,
        _ => {
            if let Some((at, typed)) = lines.iter().enumerate().find(|(_, line)| is_typed(line)) {
                panic!(
                    "{name}:{}: `{typed}` is a command in a block of `{language}`: make it `sh` or `console`, so that it is run",
                    line + at + 1
                );
            }
            return None;
        }
    };
    if let Some(terminal) = block.word("terminal") {
        let terminal = terminal.to_owned();
        let [one] = commands.as_slice() else { panic!("{name}:{line}: a block with `terminal=` has one command, or `^C`") };
        let expected = one.expected.clone().unwrap_or_default();
        return Some(match one.text.as_str() {
            "^C" => Step::Interrupt { line: *line, terminal, expected },
            command => Step::Begin { line: one.line, terminal, command: command.to_owned(), expected },
        });
    }
    let mut commands = commands;
    if let (Some(exit), Some(last)) = (block.word("exit"), commands.last_mut()) {
        last.exit = exit.parse().unwrap_or_else(|_| panic!("{name}:{line}: `exit=` takes a number"));
    }
    let on_host = commands.iter().any(|command| command.text.split([' ', '\n']).any(|word| word == "docker"));
    Some(Step::Commands { on_host, commands })
}

/// A command a line, unless the line ends with a backslash; remarks and empty lines are none.
fn typed(name: &str, block: &Block) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for (at, content) in block.lines.iter().enumerate() {
        if goes_on {
            let last = commands.last_mut().unwrap();
            last.text = format!("{}\n{content}", last.text);
        } else if content.trim().is_empty() || content.starts_with('#') {
            continue;
        } else {
            commands.push(Command { line: block.line + at + 1, text: content.clone(), expected: None, exit: 0 });
        }
        goes_on = content.ends_with('\\');
    }
    assert!(!goes_on && !commands.is_empty(), "{name}:{}: the block has no command, or its last does not end", block.line);
    commands
}

/// `$ command`, and below it what it prints.
fn session(name: &str, block: &Block) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    for (at, content) in block.lines.iter().enumerate() {
        let text = if content == "^C" { Some("^C") } else { content.strip_prefix("$ ") };
        match (text, commands.last_mut()) {
            (Some(text), _) => {
                commands.push(Command { line: block.line + at + 1, text: text.to_owned(), expected: Some(Vec::new()), exit: 0 })
            }
            (None, Some(last)) if last.text.ends_with('\\') => last.text = format!("{}\n{content}", last.text),
            (None, Some(last)) => last.expected.as_mut().unwrap().push(content.clone()),
            (None, None) => panic!("{name}:{}: a `console` block begins with `$ `", block.line),
        }
    }
    for command in &mut commands {
        let expected = command.expected.as_mut().unwrap();
        while expected.last().is_some_and(|last| last.is_empty()) {
            expected.pop();
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::{Page, Step};

    #[test]
    fn a_page_of_everything() {
        let text = "\
# Title

1. First:

   ```sh
   # a remark
   cd here
   curl a \\
       b   # what for
   ```

       firstmate status

Text with `firstmate stop web`.

    $ firstmate why
    no incidents

```console exit=3
$ firstmate status
web.1  FAILED

$ docker ps
```

```console terminal=one
$ firstmate start
...
```

```console terminal=one
^C
ended
```

```toml file=a/b.toml
x = 1
```

```text
firstmate | web.1 started
firstmate logs [-f] [NAME...]
```
";
        let page = Page::parse("page", text);
        let commands: Vec<_> = page.commands().collect();
        let expected = [
            (7, "cd here"),
            (8, "curl a \\\n    b   # what for"),
            (12, "firstmate status"),
            (16, "firstmate why"),
            (20, "firstmate status"),
            (23, "docker ps"),
            (27, "firstmate start"),
        ];
        assert_eq!(commands, expected);
        assert_eq!(page.inline, [(14, "firstmate stop web".to_owned())]);
        let hosts: Vec<_> =
            page.steps.iter().filter_map(|step| if let Step::Commands { on_host, .. } = step { Some(*on_host) } else { None }).collect();
        assert_eq!(hosts, [false, false, false, true]);
        let Step::Commands { commands, .. } = &page.steps[3] else { panic!("{:?}", page.steps) };
        assert_eq!((commands[0].exit, commands[1].exit), (0, 3));
        assert_eq!(commands[0].expected.as_deref(), Some(["web.1  FAILED".to_owned()].as_slice()));
        assert!(matches!(&page.steps[4], Step::Begin { terminal, expected, .. } if terminal == "one" && expected == &["..."]));
        assert!(matches!(&page.steps[5], Step::Interrupt { expected, .. } if expected == &["ended"]));
        assert!(matches!(&page.steps[6], Step::File { name, text } if name == "a/b.toml" && text == "x = 1\n"));
        assert_eq!(page.steps.len(), 7);
    }

    #[test]
    fn what_nobody_would_run_is_a_failure() {
        for block in
            ["```text\nfirstmate status\n```\n", "```\ndocker ps\n```\n", "```json\n$ ls\n```\n", "    firstmate status\n    and this\n"]
        {
            let text = format!("Text:\n\n{block}");
            assert!(std::panic::catch_unwind(|| Page::parse("page", &text)).is_err(), "{block}");
        }
    }
}
