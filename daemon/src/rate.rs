//! Requests per second of a class.
//!
//! A session of a class that is over its rate is *delayed*, not refused: its next request is read
//! later. To a driver that is a slow GPU, which every driver copes with; an errno at a place where
//! the kernel has none would be taken for a lost device. Nothing queues up in the daemon, because
//! the requests stay in the client's socket. Sessions of other classes notice nothing.
//!
//! The account is one number, the moment at which the requests so far would have been due at the
//! configured rate (the generic cell rate algorithm). Sessions that run into it take turns.

use std::sync::atomic::{AtomicU64, Ordering};

use gpu_broker_core::Time;

/// How far a class may run ahead of its rate.
const BURST_NS: u64 = 100_000_000;
/// At least so many requests, however slow the rate is.
const BURST_REQUESTS: u64 = 8;

#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// Nanoseconds between two requests; 0 is no limit.
    interval: AtomicU64,
    /// When the last request so far is due.
    due: AtomicU64,
}

impl Rate {
    /// Changes the rate; 0 is no limit.
    pub(crate) fn set(&self, per_second: u32) {
        let interval = 1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0);
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// One request came. `Some`: that session's next must not be read before then.
    pub(crate) fn charge(&self, now: Time) -> Option<Time> {
        let interval = self.interval.load(Ordering::Relaxed);
        if interval == 0 {
            return None;
        }
        let after = |due: u64| due.max(now.0).saturating_add(interval);
        let before =
            self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| Some(after(due)));
        let due = after(before.unwrap_or(now.0));
        let burst = BURST_NS.max(interval.saturating_mul(BURST_REQUESTS));
        let until = due.saturating_sub(burst);
        (until > now.0).then_some(Time(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_requests_are_spaced() {
        let rate = Rate::default();
        assert_eq!(rate.charge(Time(5)), None, "no limit");
        rate.set(4);
        let start = Time(1_000_000_000);
        for request in 0..BURST_REQUESTS {
            assert_eq!(rate.charge(start), None, "request {request}");
        }
        let quarter = 250_000_000;
        assert_eq!(rate.charge(start), Some(Time(start.0 + quarter)));
        assert_eq!(rate.charge(start), Some(Time(start.0 + 2 * quarter)), "the next in turn");
        let later = Time(start.0 + 10 * quarter);
        assert_eq!(rate.charge(later), None, "what was not used comes back");
        rate.set(0);
        assert_eq!(rate.charge(later), None);
    }
}
