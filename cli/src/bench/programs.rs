//! Programs that know nothing of the broker: benchmarks of intel-gpu-tools, through the preload
//! library. Each measures for two seconds and prints what it found; the reference is measured right
//! before and after, on the same processor.
//!
//! Both programs measure in a child that they fork, so they have the session in common with their
//! parent, and each request takes its turn under the lock that says whose it is.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::echo::Echo;
use super::failure::Failure;
use super::round_trips::RoundTrips;
use super::stats::{Figure, Slices};
use crate::run::find;

/// Where Debian and others install them.
const DIRECTORIES: [&str; 2] =
    ["/usr/libexec/igt-gpu-tools/benchmarks", "/usr/local/libexec/igt-gpu-tools/benchmarks"];
/// About what one run takes.
const RUN: Duration = Duration::from_secs(3);
const RUNS_MAX: u32 = 9;
/// Slices of the reference on each side of a run.
const REFERENCE_SLICES: u32 = 64;
const TRIPS_PER_SLICE: u32 = 128;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    /// Prints microseconds per EXECBUFFER2.
    ExecNop,
    /// Prints rounds of GEM_CREATE, SET_DOMAIN and GEM_CLOSE per second.
    Create,
}

impl Program {
    const fn words(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::ExecNop => ("gem_exec_nop", &["-r", "1"]),
            Self::Create => ("gem_create", &["-s", "4096", "-r", "1"]),
        }
    }

    /// What one call took, if the program printed it.
    fn per_call(self, output: &str) -> Option<Duration> {
        let number: f64 = output.split_whitespace().next()?.parse().ok()?;
        let seconds = match self {
            Self::ExecNop => number / 1e6,
            Self::Create => 1.0 / number / 3.0,
        };
        Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero())
    }
}

/// Runs a program as often as the time allows, once at least.
///
/// # Errors
/// [`Failure::Missing`] without the program or the library; it ended badly, or printed no figure.
pub(super) fn measure(trips: RoundTrips<'_>, program: Program) -> Result<Figure, Failure> {
    let RoundTrips { rig, echo, time } = trips;
    let (name, arguments) = program.words();
    let path = DIRECTORIES.map(|directory| Path::new(directory).join(name));
    let path = path.iter().find(|path| path.is_file());
    let path = path.ok_or(Failure::Missing("intel-gpu-tools is not installed"))?;
    let library =
        find::library().ok_or(Failure::Missing("libgpu_broker_preload.so was not found"))?;
    let mut command = Command::new(path);
    command.args(arguments).env("LD_PRELOAD", library);
    command.env("GPU_BROKER_SOCKET", rig.socket());
    if let Some(directory) = rig.socket().parent() {
        command.env("XDG_RUNTIME_DIR", directory);
    }
    let runs = u32::try_from(time.as_secs() / RUN.as_secs()).unwrap_or(RUNS_MAX);
    let mut slices = Slices::default();
    for _ in 0..runs.clamp(1, RUNS_MAX) {
        let before = reference(echo)?;
        let output = command.output().map_err(Failure::io("starting a benchmark program"))?;
        let after = reference(echo)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let own = program.per_call(&printed).filter(|_| output.status.success());
        let own = own.ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            Failure::Start(format!("{name}: {}\n{complaint}", output.status))
        })?;
        slices.push(own, (before + after) / 2);
    }
    slices.figure().ok_or(Failure::Unexpected("there was no run to take the median of"))
}

/// A round trip of the reference, by the median of many slices.
fn reference(echo: &mut Echo) -> Result<Duration, Failure> {
    let mut slices = (0..REFERENCE_SLICES)
        .map(|_| echo.slice(TRIPS_PER_SLICE))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::io("measuring the reference"))?;
    slices.sort();
    slices.get(slices.len() / 2).copied().ok_or(Failure::Unexpected("no slices"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_print_is_read_as_time_per_call() {
        assert_eq!(Program::ExecNop.per_call(" 12.500\n"), Some(Duration::from_nanos(12_500)));
        // 20 000 rounds of three calls in a second.
        assert_eq!(Program::Create.per_call("20000.000\n"), Some(Duration::from_nanos(16_667)));
        for nonsense in ["", "SKIP", "0.000\n", "-1"] {
            assert_eq!(Program::ExecNop.per_call(nonsense), None, "{nonsense}");
            assert_eq!(Program::Create.per_call(nonsense), None, "{nonsense}");
        }
    }
}
