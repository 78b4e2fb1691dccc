//! `firstmate check-config`: every complaint about the file, and nothing started; with `--explain` what would be.

use super::explain;
use super::load::{self, FileArgs};
use super::output::{Failure, out};
use crate::config::Format;
use crate::server::printable;

/// Read the file, report every problem in it, and start nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes:\n  0  the file is good; there may be warnings\n  2  it is not, or the arguments are wrong")]
pub(super) struct CheckConfigArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Print what would be run: order of start and stop, command lines, limits, and where each value came from
    #[arg(long)]
    explain: bool,
    /// With --explain: print JSON
    #[arg(long, requires = "explain")]
    json: bool,
}

pub(super) fn run(args: &CheckConfigArgs) -> Result<u8, Failure> {
    if args.explain {
        return explain::run(&args.file, args.json);
    }
    let loaded = load::load(&args.file, None, |_| ())?;
    loaded.warnings.iter().for_each(load::show);
    let services = loaded.spec.services.len();
    let instances: usize = loaded.spec.services.iter().map(|service| usize::from(service.instances)).sum();
    let count = |number: usize, word: &str| if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") };
    if loaded.format == Format::Procfile {
        // As `foreman check` has it, for whoever looks for that.
        let names: Vec<&str> = loaded.spec.services.iter().map(|service| service.name.as_str()).collect();
        out(&format!("valid procfile detected ({})\n", names.join(", ")));
    }
    let path = loaded.path.to_string_lossy();
    let warnings = match loaded.warnings.len() {
        0 => String::new(),
        number => format!(", {}", count(number, "warning")),
    };
    out(&format!("{}: ok, {}, {}{warnings}\n", printable(&path), count(services, "service"), count(instances, "instance")));
    Ok(0)
}
