//! What a daemon holds, before and after.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;

/// How long a daemon may take to give everything back: a batch without an end that lets others run
/// is found after twenty seconds.
const SETTLING: Duration = Duration::from_secs(60);

/// Memory that an allocator may keep after everything was freed. A leak that matters is made large
/// by the test that looks for it.
const RESIDENT_SLACK_KIB: u64 = 12 * 1024;

/// Threads that close clients' fds, at most; the daemon keeps the ones it has started.
const CLOSING_THREADS: usize = 16;

/// What a daemon holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// Open fds.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of buffers' memory.
    pub buffer_mappings: usize,
    /// Resident memory, in KiB.
    pub resident_kib: u64,
    /// Sessions, the monitor's included.
    pub sessions: u32,
    /// Contexts of all sessions.
    pub contexts: u32,
    /// Batches waiting or running.
    pub queued: u32,
}

impl Footprint {
    fn is_at_most(&self, before: &Self) -> bool {
        self.fds <= before.fds
            && self.threads <= before.threads + CLOSING_THREADS
            && self.buffer_mappings <= before.buffer_mappings
            && self.resident_kib <= before.resident_kib + RESIDENT_SLACK_KIB
            && self.sessions <= before.sessions
            && self.contexts <= before.contexts
            && self.queued <= before.queued
    }
}

impl Daemon {
    /// What it holds now.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let status = self.status();
        Footprint {
            fds: self.entries("fd"),
            threads: self.entries("task"),
            buffer_mappings: self.buffer_mappings(),
            resident_kib: self.resident_kib(),
            sessions: status.daemon.sessions,
            contexts: status.sessions.iter().map(|session| session.contexts_total).sum(),
            queued: status.engines.iter().map(|engine| engine.queued).sum(),
        }
    }

    /// Waits until the daemon holds no more than before.
    ///
    /// # Panics
    /// When it still does after a minute, with both footprints and the fds.
    pub fn settles_to(&self, before: &Footprint) {
        let deadline = Instant::now() + SETTLING;
        loop {
            let now = self.footprint();
            if now.is_at_most(before) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon keeps something:\nbefore {before:?}\nafter  {now:?}\nfds {:#?}",
                self.fd_targets()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid().as_raw_nonzero()))
    }

    fn entries(&self, name: &str) -> usize {
        fs::read_dir(self.proc(name)).expect("the daemon is still there").count()
    }

    fn fd_targets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.proc("fd")).expect("the daemon is still there");
        entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    }

    fn buffer_mappings(&self) -> usize {
        let maps = fs::read_to_string(self.proc("maps")).expect("the daemon is still there");
        maps.lines().filter(|line| line.contains("/memfd:")).count()
    }

    fn resident_kib(&self) -> u64 {
        self.status_file().kib("VmRSS:")
    }

    /// `/proc/PID/status`, to be looked at while others use the daemon.
    #[must_use]
    pub fn status_file(&self) -> StatusFile {
        StatusFile(self.proc("status"))
    }

    /// Bytes that its system calls have read and written so far: rchar and wchar of `/proc/PID/io`.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn system_call_bytes(&self) -> u64 {
        let io = fs::read_to_string(self.proc("io")).expect("the daemon is still there");
        ["rchar:", "wchar:"].map(|key| number_after(key, &io)).iter().sum()
    }
}

/// `/proc/PID/status` of a daemon.
#[derive(Clone, Debug)]
pub struct StatusFile(PathBuf);

impl StatusFile {
    /// The number of a line such as `VmRSS:`, in KiB.
    ///
    /// # Panics
    /// When the process is gone or there is no such line.
    #[must_use]
    pub fn kib(&self, key: &str) -> u64 {
        number_after(key, &fs::read_to_string(&self.0).expect("the daemon is still there"))
    }
}

fn number_after(key: &str, text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).expect("Linux says so in numbers")
}
