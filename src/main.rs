//! The binary: the command line becomes an exit code, and nothing else happens here.

use std::process::ExitCode;

fn main() -> ExitCode {
    vibewarden::cli::run()
}
