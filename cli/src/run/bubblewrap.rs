//! The sandbox as bubblewrap makes it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::{INSIDE, Plan, environment};
use crate::output::Failure;

/// Signals for the program that only we get. Those of the terminal reach it by themselves.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
const FROM_TERMINAL: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];

/// bubblewrap, if it is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("bwrap"))
        .find(|file| file.is_file())
}

/// Runs the program under bubblewrap and answers with its exit code.
///
/// # Errors
/// bubblewrap cannot be started.
pub(super) fn run(bwrap: &Path, plan: &Plan<'_>) -> Result<ExitCode, Failure> {
    let failed = |what: &str, error: std::io::Error| Failure::new(format!("{what}: {error}"));
    let (reader, writer) =
        rustix::pipe::pipe().map_err(|error| failed("no pipe to bubblewrap", error.into()))?;
    let mut command = Command::new(bwrap);
    arguments(&mut command, plan);
    command.arg("--info-fd").arg(writer.as_raw_fd().to_string());
    command.arg("--").args(plan.command);
    let mut child = command.spawn().map_err(|error| failed("bwrap cannot be started", error))?;
    // Not before: the child would inherit it. A signal in between ends us, and bubblewrap with us.
    let mut signals: SigSet = FORWARDED.into_iter().collect();
    signals.extend(FROM_TERMINAL);
    signals.thread_block().map_err(|error| failed("signals cannot be held back", error.into()))?;
    drop(writer);
    std::thread::spawn(move || forward(&signals, reader));
    let status = child.wait().map_err(|error| failed("waiting for bwrap", error))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn arguments(command: &mut Command, plan: &Plan<'_>) {
    command.args(["--die-with-parent", "--unshare-user", "--unshare-ipc", "--unshare-uts"]);
    command.arg("--unshare-cgroup-try");
    if !plan.network {
        command.arg("--unshare-net");
    }
    command.args(["--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp"]);
    // What a process may write about itself, such as how soon it is killed for want of memory.
    command.args(["--bind", "/proc", "/proc"]);
    if let Ok(here) = std::env::current_dir()
        && here != Path::new("/")
    {
        command.arg("--bind").arg(&here).arg(&here).arg("--chdir").arg(&here);
    }
    let (library, socket) = (format!("{INSIDE}/preload.so"), format!("{INSIDE}/broker.sock"));
    command.arg("--ro-bind").arg(&plan.library).arg(&library);
    command.arg("--ro-bind").arg(&plan.socket).arg(&socket);
    for (name, value) in environment(Path::new(&library), Path::new(&socket)) {
        command.arg("--setenv").arg(name).arg(value);
    }
}

/// Passes signals on to the program, whose number bubblewrap tells.
fn forward(signals: &SigSet, info: OwnedFd) {
    let program = child_pid(info);
    loop {
        let Ok(signal) = signals.wait() else { return };
        if let (true, Some(program)) = (FORWARDED.contains(&signal), program) {
            // A program that has ended needs no signal.
            let _ = kill(program, signal);
        }
    }
}

fn child_pid(info: OwnedFd) -> Option<Pid> {
    let mut text = Vec::new();
    BufReader::new(File::from(info)).read_until(b'}', &mut text).ok()?;
    let told: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let number = told.get("child-pid")?.as_i64()?;
    i32::try_from(number).ok().map(Pid::from_raw)
}
