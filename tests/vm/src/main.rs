//! Serves a software GPU as a PCI device to one QEMU, over a vfio-user socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gpu_broker_vm_tests::faults::{Fault, Faults};
use gpu_broker_vm_tests::gpu::Gpu;
use gpu_broker_vm_tests::server;

/// A Kaby Lake GT3 as a PCI device, for one virtual machine.
#[derive(Debug, Parser)]
struct Options {
    /// Where QEMU connects; must not exist.
    socket: PathBuf,
    /// Faults that are on from the start.
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
}

fn main() -> ExitCode {
    let Options { socket, fault } = Options::parse();
    let gpu = match Gpu::start(Faults::new(&fault)) {
        Ok(gpu) => gpu,
        Err(problem) => {
            eprintln!("the engines cannot be started: {problem}");
            return ExitCode::FAILURE;
        }
    };
    match server::serve(gpu, &socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{}: {problem}", socket.display());
            ExitCode::FAILURE
        }
    }
}
