//! The daemon that is measured: a process of its own, on a socket nobody else knows.

use std::path::PathBuf;

use gpu_broker_client::Connection;

use super::failure::Failure;
use crate::demo::daemon::Daemon;

/// A running daemon under test. Ends when dropped.
pub(super) struct Rig {
    daemon: Daemon,
}

impl Rig {
    /// Starts the daemon with the software device, on the processor of the calling thread; confined as it is by
    /// default, or not.
    ///
    /// # Errors
    /// It could not be started or does not answer.
    pub(super) fn start(sandbox: bool) -> Result<Self, Failure> {
        let options: &[&str] =
            if sandbox { &["--device=soft"] } else { &["--device=soft", "--no-sandbox"] };
        let (daemon, _first) = Daemon::start(options).map_err(Failure::Start)?;
        Ok(Self { daemon })
    }

    /// A new session.
    ///
    /// # Errors
    /// The daemon refused or is gone.
    pub(super) fn connect(&self) -> Result<Connection, Failure> {
        Connection::connect(self.daemon.socket(), "gpu-broker bench")
            .map_err(Failure::broker("connecting"))
    }

    /// Where clients connect.
    pub(super) fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Bytes of memory the daemon has resident.
    ///
    /// # Errors
    /// The process is gone, or procfs is not mounted.
    pub(super) fn resident_bytes(&self) -> Result<f64, Failure> {
        // statm lags behind by what each processor has not added up yet; smaps_rollup is exact.
        let path = format!("/proc/{}/smaps_rollup", self.daemon.pid());
        let text =
            std::fs::read_to_string(path).map_err(Failure::io("reading the daemon's memory"))?;
        parse_resident_bytes(&text).ok_or(Failure::Unexpected("smaps_rollup has no Rss line"))
    }
}

fn parse_resident_bytes(smaps_rollup: &str) -> Option<f64> {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kib: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kib) * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_kernels_text() {
        let text = "55d0-7ffe ---p 00000000 00:00 0   [rollup]\n\
                    Rss:                4816 kB\nPss:                 961 kB\n";
        assert_eq!(parse_resident_bytes(text), Some(4816.0 * 1024.0));
        assert_eq!(parse_resident_bytes("Pss: 1 kB\n"), None);
    }
}
