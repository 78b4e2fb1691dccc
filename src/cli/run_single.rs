//! `firstmate -- CMD ARG...`: tini's job.

use std::ffi::OsString;

/// The program's own exit code, or 128 + the signal that killed it.
pub(super) fn run(argv: Vec<OsString>) -> u8 {
    crate::supervisor::run_single(argv)
}
