//! Which changes are of no interest: what tools and editors leave about, and what the file says.

use std::path::Path;

use glob::{MatchOptions, Pattern};

/// Ignored unless a later pattern says otherwise: what version control, package managers and compilers keep, what editors write beside the file that is being
/// edited, and what services themselves write while they run.
pub const DEFAULTS: [&str; 25] = [
    ".git",
    ".hg",
    ".svn",
    ".jj",
    "node_modules",
    "target",
    "__pycache__",
    "*.pyc",
    ".venv",
    ".idea",
    ".vscode",
    ".DS_Store",
    // vim, and the file with which it finds out whether it may write to a directory.
    "*.sw[a-p]",
    "*.swx",
    "4913",
    // Backups; emacs; KDE; JetBrains.
    "*~",
    ".#*",
    "#*#",
    ".*.kate-swp",
    "*___jb_*___",
    "*.tmp",
    // What a service writes must not restart it.
    "*.log",
    "*.pid",
    "*.sock",
    "nohup.out",
];

#[derive(Debug)]
struct Rule {
    pattern: Pattern,
    /// It is about the whole path and not about the last name in it.
    whole: bool,
    /// `!`: of interest all the same.
    keeps: bool,
}

/// In order: the last one that fits decides.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// The defaults and then these: names such as `*.css`, or whole paths, which begin with `/`; `!` before one keeps what an earlier one ignores.
    /// Those that are no patterns are left out; whoever reads the file has complained about them.
    pub(super) fn new(own: &[String]) -> Self {
        let all = DEFAULTS.iter().copied().chain(own.iter().map(String::as_str));
        Self(all.filter_map(rule).collect())
    }

    /// Whether a file, or a directory with all there is in it, is of no interest. The directories above it are not looked at.
    pub(super) fn ignore(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let whole = path.to_string_lossy();
        let fits = |rule: &&Rule| fits(&rule.pattern, if rule.whole { &whole } else { &name });
        self.0.iter().rev().find(fits).is_some_and(|rule| !rule.keeps)
    }
}

fn rule(text: &str) -> Option<Rule> {
    let (keeps, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    let text = text.strip_suffix('/').unwrap_or(text);
    Some(Rule { pattern: Pattern::new(text).ok()?, whole: text.starts_with('/'), keeps })
}

/// As a shell does it: `*` does not reach into the next directory, `**` does.
pub(super) fn fits(pattern: &Pattern, text: &str) -> bool {
    pattern.matches_with(text, MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(own: &[&str], path: &str) -> bool {
        let own: Vec<String> = own.iter().map(|&text| text.to_owned()).collect();
        Rules::new(&own).ignore(Path::new(path))
    }

    #[test]
    fn every_default_is_a_pattern() {
        assert_eq!(Rules::new(&[]).0.len(), DEFAULTS.len());
    }

    #[test]
    fn what_tools_and_editors_leave_about_is_of_no_interest() {
        for name in
            [".git", "node_modules", "target", ".app.py.swp", ".app.py.swx", "4913", "app.py~", ".#app.py", "#app.py#", "x.pyc", "a.log"]
        {
            assert!(ignored(&[], &format!("/srv/{name}")), "{name}");
        }
        for name in ["app.py", ".env", ".gitignore", "targets", "swp", "app.swift", "a.sock.c", ".htaccess"] {
            assert!(!ignored(&[], &format!("/srv/{name}")), "{name}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        assert!(ignored(&["*.css"], "/srv/a/b.css"));
        assert!(!ignored(&["*.css"], "/srv/a.css/b"), "what is above was judged on the way there");
        assert!(ignored(&["/srv/gen/*.rs"], "/srv/gen/a.rs"));
        assert!(!ignored(&["/srv/gen/*.rs"], "/srv/gen/sub/a.rs"));
        assert!(ignored(&["/srv/gen/**/*.rs"], "/srv/gen/sub/a.rs"));
        assert!(ignored(&["/srv/gen/"], "/srv/gen"));
        assert!(!ignored(&["!target"], "/srv/target"));
        assert!(ignored(&["*.css", "!a.css"], "/srv/b.css"));
        assert!(!ignored(&["*.css", "!a.css"], "/srv/a.css"));
        assert!(ignored(&["!a.css", "*.css"], "/srv/a.css"));
    }
}
