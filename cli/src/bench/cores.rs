//! Which processor runs what.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two of the processors this process may use; the same one twice where there is only one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cores {
    /// Where the daemon and the reference run, and the client of a round trip.
    pub(super) server: usize,
    /// Where the clients of throughput and neighbour measurements run.
    pub(super) clients: usize,
}

impl Cores {
    /// The first and the last processor this process may use.
    ///
    /// # Errors
    /// What `sched_getaffinity` answers.
    pub(super) fn find() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let server = usable.next().unwrap_or(0);
        Ok(Self { server, clients: usable.next_back().unwrap_or(server) })
    }

    /// Keeps the calling thread, and what it starts from now on, on one processor.
    ///
    /// # Errors
    /// What `sched_setaffinity` answers.
    pub(super) fn pin(cpu: usize) -> io::Result<()> {
        let mut only = CpuSet::new();
        only.set(cpu);
        Ok(sched_setaffinity(None, &only)?)
    }
}
