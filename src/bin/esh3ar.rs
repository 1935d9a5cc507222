//! The `esh3ar` binary: everything is in the library.

use std::process::ExitCode;

/// Faster than the system's allocator where many tasks allocate and free at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    esh3ar::cli::run()
}
