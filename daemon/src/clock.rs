//! The only clock: the rules are told the time.

use std::time::Instant;

use gpu_broker_core::Time;

/// Nanoseconds since the daemon started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Never goes back; saturates after 584 years.
    pub(crate) fn now(self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
