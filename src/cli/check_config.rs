//! `firstmate check-config`: every complaint about the file, and nothing started.

use super::load::{self, FileArgs};
use super::output::{Failure, out};
use crate::server::printable;

/// Read the file, report every problem in it, and start nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes:\n  0  the file is good; there may be warnings\n  2  it is not, or the arguments are wrong")]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    file: FileArgs,
}

pub(super) fn run(args: &CheckConfigArgs) -> Result<u8, Failure> {
    let loaded = load::load(&args.file, None, |_| ())?;
    loaded.warnings.iter().for_each(load::show);
    let services = loaded.spec.services.len();
    let instances: usize = loaded.spec.services.iter().map(|service| usize::from(service.instances)).sum();
    let count = |number: usize, word: &str| if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") };
    let path = loaded.path.to_string_lossy();
    let warnings = match loaded.warnings.len() {
        0 => String::new(),
        number => format!(", {}", count(number, "warning")),
    };
    out(&format!("{}: ok, {}, {}{warnings}\n", printable(&path), count(services, "service"), count(instances, "instance")));
    Ok(0)
}
