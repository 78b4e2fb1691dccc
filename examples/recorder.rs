//! Stands for every program of a Procfile, for tests: writes down how it was called and does nothing else.
//!
//! Into the directory `$RECORD`, a file a call, whole or not there: the working directory, the arguments and the environment, each string ended
//! by NUL, the three parts by an empty one. Exits 0; with `$RECORD_STAYS` it stays. Called the third time in the same way by the same process
//! type it is in a loop, says so in a file `loop`, and stays as well.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Nobody may forget it: whoever started it is gone when the test is over.
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    let Some(directory) = std::env::var_os("RECORD") else {
        eprintln!("recorder: RECORD names no directory");
        return ExitCode::from(99);
    };
    match record(Path::new(&directory)) {
        Ok(calls) if calls > 2 || std::env::var_os("RECORD_STAYS").is_some() => loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        },
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recorder: {error}");
            ExitCode::from(99)
        }
    }
}

/// How often it has been called so by now.
fn record(directory: &Path) -> std::io::Result<usize> {
    let mut call = Vec::new();
    let mut push = |string: &[u8]| {
        call.extend_from_slice(string);
        call.push(0);
    };
    push(std::env::current_dir()?.as_os_str().as_bytes());
    push(b"");
    std::env::args_os().for_each(|word| push(word.as_bytes()));
    push(b"");
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    env.sort();
    for (name, value) in &env {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        push(&entry);
    }
    let before =
        std::fs::read_dir(directory)?.flatten().filter(|entry| std::fs::read(entry.path()).is_ok_and(|other| other == call)).count();
    let name = format!("{:05}.{}", before, std::process::id());
    let hidden = directory.join(format!(".{name}"));
    std::fs::File::create(&hidden)?.write_all(&call)?;
    std::fs::rename(&hidden, directory.join(name))?;
    let calls = before.saturating_add(1);
    if calls > 2 {
        std::fs::write(directory.join("loop"), "")?;
    }
    Ok(calls)
}
