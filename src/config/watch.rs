//! `watch` of a service and `--watch`: from what is written to what is watched.

use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::engine::spec::WatchPath;

/// What makes a component of a path a pattern.
const SPECIAL: [char; 3] = ['*', '?', '['];

/// A file, a directory, or a pattern such as `src/**/*.py`; relative to `base`, which is absolute.
///
/// # Errors
/// A short phrase that says what is wrong with the pattern.
pub fn path(base: &Path, text: &str) -> Result<WatchPath, String> {
    let whole = normal(&base.join(text));
    let is_pattern = |component: &Component<'_>| component.as_os_str().to_string_lossy().contains(SPECIAL);
    // The directory of the file may have such a character in its name, and then means it.
    let below_base = whole.strip_prefix(normal(base)).ok().filter(|_| !Path::new(text).is_absolute());
    let written = below_base.unwrap_or(&whole);
    let fixed: PathBuf = written.components().take_while(|component| !is_pattern(component)).collect();
    if fixed == written {
        return Ok(WatchPath { root: whole, only: None });
    }
    let (root, only) = match below_base {
        Some(below) => {
            let base = normal(base);
            let root = if fixed.as_os_str().is_empty() { base.clone() } else { base.join(&fixed) };
            (root, format!("{}/{}", Pattern::escape(&base.to_string_lossy()).trim_end_matches('/'), below.display()))
        }
        None => (fixed, whole.display().to_string()),
    };
    check(&only)?;
    Ok(WatchPath { root, only: Some(only) })
}

/// A name such as `*.css`, or, with a `/` in it, a path relative to `base`; `!` before either.
///
/// # Errors
/// A short phrase that says what is wrong with the pattern.
pub fn ignore(base: &Path, text: &str) -> Result<String, String> {
    let (mark, pattern) = text.strip_prefix('!').map_or(("", text), |rest| ("!", rest));
    let pattern = pattern.strip_suffix('/').unwrap_or(pattern);
    check(pattern)?;
    if pattern.is_empty() {
        return Err("a pattern cannot be empty".to_owned());
    }
    if !pattern.contains('/') {
        return Ok(format!("{mark}{pattern}"));
    }
    if pattern.starts_with('/') {
        return Ok(format!("{mark}{}", normal(Path::new(pattern)).display()));
    }
    // The directory's name stands for itself, whatever is in it.
    let base = PathBuf::from(Pattern::escape(&normal(base).to_string_lossy()));
    Ok(format!("{mark}{}", normal(&base.join(pattern)).display()))
}

fn check(pattern: &str) -> Result<(), String> {
    Pattern::new(pattern).map(drop).map_err(|error| error.msg.to_owned())
}

/// Without `.` and, as far as names tell, without `..`: as the paths look that inotify tells of.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(base: &str, text: &str) -> (String, Option<String>) {
        let found = path(Path::new(base), text).unwrap();
        (found.root.display().to_string(), found.only)
    }

    #[test]
    fn paths_are_whole_and_patterns_know_where_to_begin() {
        assert_eq!(path_of("/srv", "src"), ("/srv/src".to_owned(), None));
        assert_eq!(path_of("/srv", "."), ("/srv".to_owned(), None));
        assert_eq!(path_of("/srv/app", "../lib/./x.py"), ("/srv/lib/x.py".to_owned(), None));
        assert_eq!(path_of("/srv", "/etc/app.conf"), ("/etc/app.conf".to_owned(), None));
        assert_eq!(path_of("/srv", "src/**/*.py"), ("/srv/src".to_owned(), Some("/srv/src/**/*.py".to_owned())));
        assert_eq!(path_of("/srv", "*.py"), ("/srv".to_owned(), Some("/srv/*.py".to_owned())));
        assert_eq!(path_of("/", "*.py"), ("/".to_owned(), Some("/*.py".to_owned())));
        assert_eq!(path_of("/srv", "/etc/*/a"), ("/etc".to_owned(), Some("/etc/*/a".to_owned())));
        // A directory whose name looks like a pattern.
        assert_eq!(path_of("/srv/[x]", "src"), ("/srv/[x]/src".to_owned(), None));
        assert_eq!(path_of("/srv/[x]", "*.py"), ("/srv/[x]".to_owned(), Some("/srv/[[]x[]]/*.py".to_owned())));
        assert!(path(Path::new("/srv"), "src/[a").is_err());
        assert!(path(Path::new("/srv"), "src/a**").is_err());
    }

    #[test]
    fn what_is_ignored_is_a_name_or_a_whole_path() {
        let of = |text: &str| ignore(Path::new("/srv/[x]"), text);
        assert_eq!(of("*.css"), Ok("*.css".to_owned()));
        assert_eq!(of("gen/"), Ok("gen".to_owned()));
        assert_eq!(of("!target"), Ok("!target".to_owned()));
        assert_eq!(of("./gen"), Ok("/srv/[[]x[]]/gen".to_owned()));
        assert_eq!(of("src/gen/*.py"), Ok("/srv/[[]x[]]/src/gen/*.py".to_owned()));
        assert_eq!(of("!/srv/a/"), Ok("!/srv/a".to_owned()));
        for wrong in ["", "!", "/", "[a", "a***"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
