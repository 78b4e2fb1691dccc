//! The walk of a new user: every command of README.md, `docs/*.md` and the example is run, on a machine with none of it installed, and what a page shows as its output is what comes.
//!
//! How a page says what is to be typed, what is printed, and what is put into which file is in `docs/design/walk.md`. `page.rs` reads it, `ground.rs` is where it is run,
//! `compare.rs` leaves out times, pids and sizes, `files.rs` has firstmate check the files that are shown, `words.rs` looks after what stands in sentences. What cannot be run is in [`NOT_RUN`], what cannot be compared in
//! [`NOT_COMPARED`], each with its reason; an entry that no page needs is a failure, like a command that is in neither.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test is not PID 1 and waits for its own commands")]
#![expect(unreachable_pub, reason = "what a test is about is its name")]

mod compare;
mod files;
mod ground;
mod page;
mod words;

use std::path::Path;

use ground::{Before, Ground};
use page::{Page, Step};

/// Commands of a page, by how they begin, and why they are treated otherwise.
struct Exception {
    page: &'static str,
    command: &'static str,
    /// What is run in its place, if anything is.
    instead: Option<&'static str>,
    #[expect(dead_code, reason = "for whoever reads the table")]
    why: &'static str,
}

const fn not(page: &'static str, command: &'static str, why: &'static str) -> Exception {
    Exception { page, command, instead: None, why }
}

/// The same image, with the binary that is there.
const PREBUILT: &str = "docker build -f Dockerfile.debian -t badges --target prebuilt --build-arg BINARY=target/$(uname -m)-unknown-linux-musl/release/firstmate .";

const NOT_RUN: &[Exception] = &[
    not("README.md", "make build", "compiles for minutes; the binary that is tested here is what it made"),
    Exception {
        page: "docs/docker.md",
        command: "docker build -f Dockerfile.debian",
        instead: Some(PREBUILT),
        why: "compiles in an image that is pulled from a registry",
    },
    not(
        "docs/docker.md",
        "docker compose",
        "needs a plug-in that Debian does not package; tests/docker/platform.rs runs what the file comes to",
    ),
    not(
        "docs/docker.md",
        "docker inspect --format '{{.State.Health",
        "needs a Redis that is down for five health checks; tests/docker/health.rs has it",
    ),
    Exception {
        page: "examples/all-in-one/README.md",
        command: "docker build -f Dockerfile.debian",
        instead: Some(PREBUILT),
        why: "compiles in an image that is pulled from a registry",
    },
    not("examples/all-in-one/README.md", "make run", "builds; tests/real/hands_on.rs does the rest of it"),
    not("docs/images.md", "docker build -f Dockerfile.debian -t badges .", "compiles in an image that is pulled from a registry"),
    not("docs/images.md", "cargo build", "compiles for minutes; the binary that is tested here is what it made"),
    not("docs/cli.md", "cd ~/", "is of two projects of somebody's; tests/blackbox/projects.rs has them"),
    not("docs/cli.md", "firstmate status -d ~/shop", "is of two projects of somebody's; tests/blackbox/projects.rs has them"),
    not("docs/kubernetes.md", "docker ", "needs a registry"),
    not(
        "docs/kubernetes.md",
        "kubectl ",
        "needs a cluster; tests/platform checks the files, tests/docker/platform.rs runs what they come to",
    ),
    not("docs/kubernetes.md", "curl ", "needs the address of a Pod; tests/blackbox asks from elsewhere than loopback"),
    not("docs/ecs.md", "aws ", "needs an account; tests/platform checks the file, tests/docker/platform.rs runs what it comes to"),
    not("docs/ecs.md", "docker ", "needs a registry"),
];

const NOT_COMPARED: &[Exception] = &[
    not("docs/cli.md", "firstmate status", "is of a stack that has lived through something; README's are compared"),
    not("docs/cli.md", "firstmate why worker", "needs an OOM kill; tests/blackbox/incidents.rs and README compare others"),
    not("docs/cli.md", "firstmate update", "is of a file that was changed; tests/docker/verbs.rs compares one whole"),
    not("docs/cli.md", "firstmate logs", "is of programs that say something"),
    not("docs/cli.md", "firstmate events", "is of a worker that fails"),
    not("docs/cli.md", "firstmate check-config --explain", "is of another file, and shortened; tests/cli.rs compares one whole"),
];

macro_rules! walks {
    ($($test:ident: $page:literal, $before:ident;)*) => {
        /// The pages that are walked.
        const WALKED: &[&str] = &[$($page),*];
        $(#[test] fn $test() { walk($page, Before::$before); })*
    };
}

walks! {
    readme: "README.md", Nothing;
    cli: "docs/cli.md", Stack;
    docker: "docs/docker.md", Nothing;
    images: "docs/images.md", Nothing;
    all_in_one: "examples/all-in-one/README.md", Nothing;
    ecs: "docs/ecs.md", Nothing;
    http: "docs/http.md", Stack;
    monitoring: "docs/monitoring.md", Stack;
    procfiles: "docs/procfiles.md", Stack;
}

/// README, the pages of `docs`, and the example's.
fn pages() -> Vec<Page> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    names.extend(["README.md", "examples/all-in-one/README.md"].map(str::to_owned));
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

fn exception<'a>(table: &'a [Exception], page: &str, command: &str) -> Option<&'a Exception> {
    table.iter().find(|one| one.page == page && command.starts_with(one.command))
}

/// What README has its reader install before anything else: the machine of every page has it.
fn installs() -> Vec<String> {
    let readme = Page::read("README.md");
    let installs: Vec<_> = readme.commands().filter(|(_, text)| text.starts_with("apt-get ")).map(|(_, text)| text.to_owned()).collect();
    assert!(!installs.is_empty(), "README has its reader install something with `apt-get`");
    installs
}

fn walk(name: &str, before: Before) {
    let page = Page::read(name);
    let installs = installs();
    let mut ground = Ground::new(before, &installs);
    let mut wrong = Vec::new();
    for step in &page.steps {
        match step {
            Step::File { name, text, .. } => {
                if name == "Dockerfile" {
                    ground::keep_base(text);
                }
                ground.write(name, text);
            }
            Step::Begin { line, terminal, command, expected } => {
                if let Err(error) = ground.open(terminal, command, expected) {
                    wrong.push(format!("{name}:{line}: {error}"));
                }
            }
            Step::Interrupt { line, terminal, expected } => {
                if let Err(error) = ground.interrupt(terminal, expected) {
                    wrong.push(format!("{name}:{line}: {error}"));
                }
            }
            Step::Commands { on_host, commands } => {
                ground.settle();
                for command in commands {
                    let except = exception(NOT_RUN, name, &command.text);
                    let text = except.map_or(Some(command.text.as_str()), |one| one.instead);
                    // The image has been made with it.
                    let Some(text) = text.filter(|text| !installs.iter().any(|one| one == text)) else { continue };
                    let (output, code) = ground.run(*on_host, text);
                    let place = format!("{name}:{}: `{}`", command.line, command.text);
                    if code != command.exit {
                        wrong.push(format!("{place} ends with {code}, not {}:\n{}", command.exit, output.join("\n")));
                    } else if let Some(expected) = &command.expected
                        && except.is_none()
                        && exception(NOT_COMPARED, name, &command.text).is_none()
                        && !compare::same(expected, &output)
                    {
                        wrong.push(format!(
                            "{place} prints otherwise:\n{}\n  than the page says:\n{}",
                            output.join("\n"),
                            expected.join("\n")
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_page_with_a_command_is_walked() {
    for page in pages() {
        let runs = page.commands().find(|(_, command)| exception(NOT_RUN, &page.name, command).is_none_or(|one| one.instead.is_some()));
        let is_walked = WALKED.contains(&page.name.as_str());
        match runs {
            Some((line, command)) => {
                assert!(is_walked, "{}:{line}: `{command}`: name the page in `walks!`, or the command in `NOT_RUN`", page.name)
            }
            None => assert!(!is_walked, "{} has no command to run: take it out of `walks!`", page.name),
        }
    }
}

#[test]
fn every_exception_is_needed() {
    let pages = pages();
    for table in [NOT_RUN, NOT_COMPARED] {
        for (at, one) in table.iter().enumerate() {
            let page = pages.iter().find(|page| page.name == one.page);
            // The first that fits is the one that counts.
            let fits = |command: &str| exception(table, one.page, command).is_some_and(|found| std::ptr::eq(found, &raw const table[at]));
            assert!(
                page.is_some_and(|page| page.commands().any(|(_, command)| fits(command))),
                "no command `{}...` in {}",
                one.command,
                one.page
            );
        }
    }
}
