//! The daemon's own binary; everything is in the library, which `gpu-broker daemon` uses too.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    gpu_brokerd::main_with(gpu_brokerd::args::Args::parse())
}
