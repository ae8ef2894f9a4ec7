//! The binary: the command line becomes an exit code, and nothing else happens here.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Size classes keep the long-lived tunnels apart from the short-lived handshakes. With the allocator of the C library every
// handshake left a hole between two tunnels that the next one did not fit into.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    vibewarden::cli::run()
}
