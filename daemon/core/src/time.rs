//! Time, as the daemon tells it. Core has no clock, so that a test can replay any history.

/// Nanoseconds since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// A point `seconds` after the start.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since `earlier`; 0 if that is later, which happens when two threads report what
    /// they saw out of order.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
