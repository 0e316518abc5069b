//! What a scheduler is told, and what it says.

use crate::engine::Span;

/// Time limits of an engine, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Turn of a job among equals.
    pub timeslice_ns: u64,
    /// Running time without an arbitration point after which a job is asked for one, also if
    /// nobody else wants the engine.
    pub heartbeat_ns: u64,
    /// Running time that a job has to get to an arbitration point once it is asked.
    pub preempt_ns: u64,
    /// Running and waiting time of one job.
    pub request_ns: u64,
}

impl Default for Limits {
    /// The kernel's defaults (rule table §12): 1 ms, 2.5 s, 640 ms, 20 s.
    fn default() -> Self {
        Self {
            timeslice_ns: 1_000_000,
            heartbeat_ns: 2_500_000_000,
            preempt_ns: 640_000_000,
            request_ns: 20_000_000_000,
        }
    }
}

/// A job of one scheduler; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JobKey {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// How far a job came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on, and may be set aside here.
    Preemptible,
    /// It starts again, because of a reset that was not its fault: may be set aside, and what it ran
    /// before does not count against it.
    Restarted,
    /// It goes on, and must not be set aside here.
    Running,
    /// It waits for memory to change, and may be set aside meanwhile.
    Waiting,
    /// It waits for memory to change, and must not be set aside: as if it ran.
    Stalled,
    /// It goes round in a loop that changes nothing, and may be set aside: as if it ran.
    Spinning,
    /// It may not run yet, for reasons of its owner: as if it waited, but the time is not its own.
    Held,
    /// It came to its end, whatever that is.
    Ended,
    /// It ended because of what it did.
    Faulted,
}

/// Why the scheduler ended a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The job itself ended; the caller knows how.
    Itself,
    /// [`super::Scheduler::cancel`].
    Cancelled,
    /// It ran for that many nanoseconds without an arbitration point.
    Hung(u64),
    /// It ran and waited for that many nanoseconds.
    TimedOut(u64),
}

/// What to do next.
#[derive(Debug)]
pub enum Next<J> {
    /// Run this for a while, then call [`super::Scheduler::put_back`].
    Run(Turn<J>),
    /// This job is over; tell its owner.
    Over(J, Ended),
    /// Nothing until that time, or until something is submitted or cancelled.
    Sleep(Option<u64>),
    /// Somebody else is running a job; [`super::Scheduler::put_back`] and
    /// [`super::Scheduler::release`] say when to ask again.
    Busy,
}

/// A job that was handed out to be run.
#[derive(Debug)]
pub struct Turn<J> {
    /// What runs.
    pub payload: J,
    /// Run command by command until an arbitration point.
    pub seek: bool,
    pub(super) index: usize,
    pub(super) since: u64,
    /// Time it had the engine before, and was not told of: it stalled or napped.
    pub(super) owed_ns: u64,
}

impl<J> Turn<J> {
    /// How long the job had the engine, if the turn ends now, since its last turn ended.
    #[must_use]
    pub const fn ran_ns(&self, now: u64) -> u64 {
        self.span(now).ns()
    }

    /// The same, with when that was.
    #[must_use]
    pub const fn span(&self, now: u64) -> Span {
        Span { began: self.since, ended: now, owed_ns: self.owed_ns }
    }
}

/// Counters of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Nanoseconds spent running jobs.
    pub busy_ns: u64,
    /// Jobs waiting or running.
    pub queued: u32,
    /// Jobs over, however they ended.
    pub completed: u64,
    /// Jobs that faulted, hung or took too long.
    pub faults: u64,
}
