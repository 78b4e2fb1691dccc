//! Any bytes as a TOML file: a sound `Spec`, or at least one error that can be shown.
#![no_main]

use std::path::Path;

use firstmate::config::{Diagnostic, check_toml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match check_toml(Path::new("/srv/firstmate.toml"), bytes) {
    Ok(spec) => {
        for service in &spec.services {
            assert!((1..=1_000).contains(&service.instances));
            assert!(!service.stop.signals.is_empty());
            assert!(service.backoff.factor >= 1.0 && (0.0..=1.0).contains(&service.backoff.jitter));
            assert!(service.backoff.initial <= service.backoff.max);
            assert!(service.launch.working_dir.is_absolute());
            assert!(service.depends_on.iter().all(|dependency| dependency.service.0 < spec.services.len()));
        }
    }
    Err(problems) => {
        assert!(problems.iter().any(Diagnostic::is_error));
        for problem in &problems {
            assert!(!problem.render(true).is_empty());
        }
    }
});
