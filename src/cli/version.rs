//! `firstmate version`.

use super::output::out;

/// Print the version
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes:\n  0  the version is printed\n  2  the arguments are wrong")]
pub(super) struct VersionArgs {}

pub(super) fn run(VersionArgs {}: &VersionArgs) -> u8 {
    out(concat!("firstmate ", env!("CARGO_PKG_VERSION"), "\n"));
    0
}
