//! The only clock: the rules are told the time.

use std::time::Instant;

use gpu_broker_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the daemon started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// What CLOCK_MONOTONIC said then, in nanoseconds.
    monotonic: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic =
            monotonic.tv_sec.saturating_mul(1_000_000_000).saturating_add(monotonic.tv_nsec);
        Self { start: Instant::now(), monotonic }
    }

    /// A moment of CLOCK_MONOTONIC, which clients give in nanoseconds. What was before the daemon
    /// started has no number here and becomes its start.
    pub(crate) fn moment(self, monotonic_ns: i64) -> Time {
        Time(u64::try_from(monotonic_ns.saturating_sub(self.monotonic)).unwrap_or(0))
    }

    /// A moment of std's clock. What was before the daemon started becomes its start.
    pub(crate) fn at(self, moment: Instant) -> Time {
        let since = moment.saturating_duration_since(self.start);
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Never goes back; saturates after 584 years.
    pub(crate) fn now(self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_the_monotonic_clock_is_the_same_moment_here() {
        let clock = Clock::start();
        let before = clock.now();
        let now = clock_gettime(ClockId::Monotonic);
        let moment = clock.moment(now.tv_sec * 1_000_000_000 + now.tv_nsec);
        // The two clocks are read one after the other when the daemon starts.
        let slack = 1_000_000_000;
        assert!(before.0 <= moment.0 + slack && moment.0 <= clock.now().0 + slack, "{moment:?}");
        assert_eq!(clock.moment(i64::MIN), Time(0));
        assert_eq!(clock.moment(0), Time(0));
        assert!(clock.moment(i64::MAX).0 > u64::MAX / 4);
    }
}
