//! Who reads `/metrics` strictly: promtool, and the parsers of Python's client. `tests/setup metrics` installs them.
#![allow(unreachable_pub, reason = "shared between test binaries")]

use std::io::Write as _;
use std::process::{Command, Stdio};

pub const PROMTOOL: &str = "/var/cache/firstmate/promtool";
/// Reads a page and prints its series.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as prometheus
parse = {'OpenMetrics': openmetrics, 'Prometheus': prometheus}[sys.argv[1]].text_string_to_metric_families
for family in parse(sys.stdin.read()):
    for sample in family.samples:
        print(sample.name, sorted(sample.labels.items()), float(sample.value))
";

/// Exit code, standard output and error of a program that is given this text.
fn read_by(program: &mut Command, text: &str) -> (Option<i32>, String, String) {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
        panic!("cannot run {}: {error}; `tests/setup metrics` installs it", program.get_program().display());
    });
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What promtool says to this text on its standard input.
pub fn promtool(words: &[&str], text: &str) -> (Option<i32>, String, String) {
    read_by(Command::new(PROMTOOL).args(words), text)
}

/// What Python's client reads: `OpenMetrics` strictly, or the older format.
pub fn parsed(format: &str, text: &str) -> (Option<i32>, String, String) {
    read_by(Command::new("/usr/bin/python3").args(["-c", PARSER, format]), text)
}
