//! Any bytes as a `.env` file: values the kernel can pass, and complaints that hold none of the file's text.
#![no_main]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use firstmate::config::dotenv;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let env = BTreeMap::from([("HOME".into(), "/root".into()), ("EMPTY".into(), "".into())]);
    let mut values = BTreeMap::new();
    let problems = dotenv::parse(Path::new(".env"), bytes, &env, &mut values);
    for (name, value) in &values {
        assert!(!name.is_empty() && !name.as_bytes().contains(&b'=') && !name.as_bytes().contains(&0));
        assert!(value.len() <= 131_072 && !value.as_bytes().contains(&0));
    }
    for problem in &problems {
        assert!(problem.mark.is_none());
        assert!(!problem.render(true).is_empty());
    }
});
