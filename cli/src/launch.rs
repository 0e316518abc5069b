//! `gpu-broker daemon`: the daemon itself, under the tool's name.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The daemon's own options.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// As in `gpu-brokerd`.
    #[command(flatten)]
    pub(crate) daemon: gpu_brokerd::args::Args,

    /// End when the process with this id, our parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<i32>,
}

/// Runs the daemon until SIGTERM.
pub(crate) fn run(mut args: Args, socket: Option<PathBuf>) -> ExitCode {
    if let Some(parent) = args.exit_with_parent {
        let signal = set_parent_process_death_signal(Some(Signal::TERM));
        // The parent may have ended before the signal was asked for.
        if signal.is_err() || getppid().map(Pid::as_raw_pid) != Some(parent) {
            eprintln!("gpu-broker: process {parent}, which started this daemon, has ended");
            return ExitCode::FAILURE;
        }
    }
    args.daemon.socket = args.daemon.socket.or(socket);
    gpu_brokerd::main_with(args.daemon)
}
