//! `firstmate check-config`: every complaint about the file, and nothing started; with `--explain` what would be.

use super::develop::DevelopArgs;
use super::explain;
use super::load::{self, FileArgs};
use super::output::{Failure, out};
use crate::config::{Format, StartedBy};
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
    #[command(flatten)]
    develop: DevelopArgs,
    /// As though started so: as PID 1 (container), by an init (init), or by hand (person) [default: as `firstmate start` would be here]
    #[arg(long, value_name = "WHO", value_enum, hide_possible_values = true)]
    started_by: Option<Starter>,
}

/// Who starts firstmate.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Starter {
    Container,
    Init,
    Person,
}

pub(super) fn run(args: &CheckConfigArgs) -> Result<u8, Failure> {
    let mut inputs = args.develop.inputs(&[]);
    match args.started_by {
        None => {}
        Some(Starter::Container) => inputs.started_by = StartedBy::Container,
        Some(Starter::Init) => inputs.started_by = StartedBy::Init,
        Some(Starter::Person) => inputs.started_by = StartedBy::Person,
    }
    if args.explain {
        return explain::run(&args.file, inputs, args.json);
    }
    let loaded = load::load_with(&args.file, inputs, |_| ())?;
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
