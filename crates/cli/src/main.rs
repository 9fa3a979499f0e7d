//! The `steer3d` program.

use std::process::ExitCode;

use steer3d_cli::OrExit;

#[global_allocator]
static MEMORY: OrExit = OrExit;

fn main() -> ExitCode {
    ExitCode::from(steer3d_cli::run(std::env::args_os()))
}
