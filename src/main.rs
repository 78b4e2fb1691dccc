//! argv to exit code; nothing else.

fn main() -> std::process::ExitCode {
    firstmate::cli::main(std::env::args_os())
}
