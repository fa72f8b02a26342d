//! The program: takes the command line, runs the one command that it names, tells at most one failure.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use ringroom::cli::Cli;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringroom: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
