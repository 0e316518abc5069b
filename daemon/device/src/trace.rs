//! What batches do, for whoever looks on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{EngineId, Outcome};

/// A batch did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// [`crate::ContextSpec::tag`] of its context.
    pub tag: u64,
    /// The device's number of the submission.
    pub submission: u64,
    /// Where; of a submission that has not begun and could run on several, the first of them.
    pub engine: EngineId,
    /// When, or from when on.
    pub at: Instant,
    /// What.
    pub what: TraceWhat,
}

/// What it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceWhat {
    /// It was submitted.
    Queued,
    /// It had the engine for so long.
    Ran(Duration),
    /// It was done.
    Done,
    /// It was cancelled.
    Cancelled,
    /// It died, and its engine was reset.
    Died,
    /// A reset hit it that was not its fault, and it runs again.
    Replayed,
}

impl TraceWhat {
    /// The end of a submission.
    #[must_use]
    pub const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Done,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Guilty(_) => Self::Died,
        }
    }
}

/// Whether a device traces; while it does not, a relaxed load per submission.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    on: AtomicBool,
    submissions: AtomicU64,
}

impl Switch {
    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// A number for one more submission, if it is to be traced.
    pub(crate) fn number(&self) -> Option<u64> {
        let on = self.on.load(Ordering::Relaxed);
        on.then(|| self.submissions.fetch_add(1, Ordering::Relaxed))
    }
}
