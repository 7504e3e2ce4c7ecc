//! The command line. Settings first, then one command.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

mod commands;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run(commands::Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // One line: the whole chain of causes.
            let _ = writeln!(std::io::stderr(), "polysystems: {error:#}");
            ExitCode::FAILURE
        }
    }
}
