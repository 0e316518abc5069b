//! Hangs, and who is banned for them (rule table §12).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::sync::Mutex;
use crate::time::Time;

/// A context that hangs for the third time within this is banned, in nanoseconds.
const CONTEXT_FAST_HANG_NS: u64 = 120_000_000_000;
/// A session that hangs again within this gets a worse score, in nanoseconds.
const SESSION_FAST_HANG_NS: u64 = 60_000_000_000;
/// Score for a hang that banned its context.
const SCORE_CONTEXT_BAN: u32 = 3;
/// Score for a hang soon after the one before.
const SCORE_FAST_HANG: u32 = 1;
/// From this score on CONTEXT_CREATE answers EIO.
const SCORE_BANNED: u32 = 9;

/// What a context has done so far.
#[derive(Debug)]
pub(crate) struct HangHistory {
    guilty: AtomicU32,
    innocent: AtomicU32,
    banned: AtomicBool,
    /// The two hangs before the next, oldest first.
    last: Mutex<[Option<Time>; 2]>,
}

/// What a hang means for the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The context is not bannable: nothing happens to it or its session.
    Spared,
    /// It counts against the session, the context goes on.
    Counted,
    /// The context is banned.
    Banned,
}

impl HangHistory {
    pub(crate) fn new() -> Self {
        Self {
            guilty: AtomicU32::new(0),
            innocent: AtomicU32::new(0),
            banned: AtomicBool::new(false),
            last: Mutex::new([None; 2]),
        }
    }

    /// Times a batch of the context was found guilty.
    pub(crate) fn guilty(&self) -> u32 {
        self.guilty.load(Ordering::Relaxed)
    }

    /// Times a reset hit a batch of the context that was running, innocently.
    pub(crate) fn innocent(&self) -> u32 {
        self.innocent.load(Ordering::Relaxed)
    }

    pub(crate) fn record_innocent(&self) {
        self.innocent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn is_banned(&self) -> bool {
        self.banned.load(Ordering::Acquire)
    }

    /// Takes note of a hang.
    pub(crate) fn record(&self, now: Time, bannable: bool, recoverable: bool) -> Verdict {
        self.guilty.fetch_add(1, Ordering::Relaxed);
        if !bannable {
            return Verdict::Spared;
        }
        let oldest = {
            let mut last = self.last.lock();
            let [oldest, newer] = *last;
            *last = [newer, Some(now)];
            oldest
        };
        let fast = oldest.is_some_and(|oldest| now.since(oldest) < CONTEXT_FAST_HANG_NS);
        if recoverable && !fast {
            return Verdict::Counted;
        }
        self.banned.store(true, Ordering::Release);
        Verdict::Banned
    }
}

/// The session's score. It never falls: a client that wants a clean one connects again.
#[derive(Debug)]
pub(crate) struct BanScore {
    score: AtomicU32,
    /// Starts at the time the session was opened, so a hang in the first minute counts as fast.
    last_hang_ns: AtomicU64,
}

impl BanScore {
    pub(crate) fn new(opened: Time) -> Self {
        Self { score: AtomicU32::new(0), last_hang_ns: AtomicU64::new(opened.0) }
    }

    pub(crate) fn is_banned(&self) -> bool {
        self.score.load(Ordering::Relaxed) >= SCORE_BANNED
    }

    pub(crate) fn record(&self, now: Time, verdict: Verdict) {
        let for_ban = match verdict {
            Verdict::Spared => return,
            Verdict::Counted => 0,
            Verdict::Banned => SCORE_CONTEXT_BAN,
        };
        let before = Time(self.last_hang_ns.swap(now.0, Ordering::Relaxed));
        let fast = now.since(before) < SESSION_FAST_HANG_NS;
        let more = for_ban + if fast { SCORE_FAST_HANG } else { 0 };
        let add = |score: u32| Some(score.saturating_add(more));
        // The closure always answers `Some`, so there is no error to look at.
        let _ = self.score.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(crate) fn score(&self) -> u32 {
        self.score.load(Ordering::Relaxed)
    }
}
