//! Which job an engine runs next: a state machine without threads, clock or memory.
//!
//! The caller passes the time, in nanoseconds of any monotonic clock, and carries out what
//! [`Scheduler::next`] says; [`crate::engine`] does so with a thread, a simulation with a loop.
//!
//! * Jobs run by priority. Sessions of equal priority share the engine, by weight (`fair`); jobs
//!   of a session run in the order they came. A turn lasts [`Limits::timeslice_ns`].
//! * A running job is only set aside at an arbitration point. When somebody else should run, or the
//!   heartbeat finds that it has not passed one for [`Limits::heartbeat_ns`], it is run in *seek*
//!   mode: command by command until it does.
//! * A job that waits for a semaphore leaves the engine and is polled, at intervals that grow from
//!   [`POLL_MIN_NS`] to [`POLL_MAX_NS`] (and further when very many jobs wait, so that polling
//!   never occupies the engine).
//! * A job that goes round in a loop that changes nothing naps at the same intervals. It has the
//!   engine meanwhile, as on hardware, and is set aside as if it ran.
//! * A job is hung when it ran for [`Limits::preempt_ns`] after it was asked to yield, or when
//!   running and waiting took [`Limits::request_ns`] together. Time in which others had the engine
//!   is not counted.

mod fair;
mod types;

use std::collections::BTreeSet;

use slab::Slab;

use self::fair::Queue;
pub use self::fair::{Claim, WEIGHT_DEFAULT, WEIGHT_MAX};
pub use self::types::{Ended, JobKey, Limits, Next, Progress, Turn, Usage};

/// Shortest time between two polls of a waiting job.
pub const POLL_MIN_NS: u64 = 50_000;
/// Longest time between two polls of a waiting job, as long as at most [`POLLS_PER_PASS`] wait.
pub const POLL_MAX_NS: u64 = 1_000_000;
/// Waiting jobs that are taken up at once.
pub const POLLS_PER_PASS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In `ready`, or running as `current`.
    Ready,
    /// In `waiting`, to be polled at that time.
    Waiting { poll_at: u64 },
}

#[derive(Debug)]
struct Job<J> {
    serial: u64,
    /// `None` while a [`Turn`] has it.
    payload: Option<J>,
    claim: Claim,
    order: u64,
    place: Place,
    cancelled: bool,
    /// Running time since the last arbitration point.
    unyielded_ns: u64,
    /// The part of it since the job was asked to yield.
    pressed_ns: u64,
    /// Running and waiting time.
    active_ns: u64,
    /// When it began to wait, while it does.
    waiting_since: Option<u64>,
    /// When it goes on, if it waits without leaving the engine.
    stalled_until: Option<u64>,
    /// It may be set aside while it stalls.
    napping: bool,
    /// Until when the time it stalls is counted.
    counted_at: u64,
    /// See [`Turn::owed_ns`].
    owed_ns: u64,
    polled_at: u64,
    poll_interval: u64,
}

impl<J> Job<J> {
    /// A reset that was not its fault threw away what it had done.
    const fn begin_anew(&mut self) {
        self.unyielded_ns = 0;
        self.pressed_ns = 0;
        self.active_ns = 0;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Scheduler<J> {
    limits: Limits,
    jobs: Slab<Job<J>>,
    ready: Queue,
    waiting: BTreeSet<(u64, usize)>,
    /// Cancelled jobs nobody runs.
    reap: Vec<usize>,
    /// Who has the engine: not in `ready`.
    current: Option<usize>,
    slice_began: u64,
    /// A [`Turn`] or a reservation is out.
    executing: bool,
    /// Somebody asked while `executing`.
    asked: bool,
    serial: u64,
    busy_ns: u64,
    completed: u64,
    faults: u64,
}

impl<J> Scheduler<J> {
    /// An idle scheduler.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: Slab::new(),
            ready: Queue::default(),
            waiting: BTreeSet::new(),
            reap: Vec::new(),
            current: None,
            slice_began: 0,
            executing: false,
            asked: false,
            serial: 0,
            busy_ns: 0,
            completed: 0,
            faults: 0,
        }
    }

    /// Queues a job.
    pub fn submit(&mut self, now: u64, payload: J, claim: Claim) -> JobKey {
        let (index, serial) = self.insert(now, payload, claim);
        self.make_ready(index);
        JobKey { index, serial }
    }

    /// Changes the priority of a job; a job that is over is left alone.
    pub fn set_priority(&mut self, key: JobKey, priority: i32) {
        let Some(job) = self.jobs.get_mut(key.index).filter(|job| job.serial == key.serial) else {
            return;
        };
        let before = std::mem::replace(&mut job.claim.priority, priority);
        if self.current == Some(key.index) {
            self.ready.run(job.claim);
        } else if self.ready.remove(Claim { priority: before, ..job.claim }, job.order, key.index) {
            self.ready.insert(job.claim, job.order, key.index);
        }
    }

    /// Ends a job: at once if it is queued, at the end of its turn if it runs. True if
    /// [`Self::next`] should be asked.
    pub fn cancel(&mut self, key: JobKey) -> bool {
        let Some(job) = self.jobs.get_mut(key.index).filter(|job| job.serial == key.serial) else {
            return false;
        };
        if std::mem::replace(&mut job.cancelled, true) || job.payload.is_none() {
            return false;
        }
        self.unlist(key.index);
        self.reap.push(key.index);
        true
    }

    /// Cancels everything.
    pub fn cancel_all(&mut self) {
        let keys: Vec<_> =
            self.jobs.iter().map(|(index, job)| JobKey { index, serial: job.serial }).collect();
        for key in keys {
            self.cancel(key);
        }
    }

    /// Reserves an idle engine for a job that is not queued; give it back with [`Self::release`]
    /// or [`Self::adopt`].
    pub fn reserve(&mut self) -> bool {
        let idle = !self.executing
            && self.current.is_none()
            && self.ready.is_empty()
            && self.reap.is_empty();
        self.executing |= idle;
        idle
    }

    /// Ends a reservation whose job is over after `ran_ns`. True if [`Self::next`] should be asked.
    pub fn release(&mut self, ran_ns: u64, faulted: bool) -> bool {
        self.busy_ns += ran_ns;
        self.count_over(faulted);
        self.idle_again()
    }

    /// Ends a reservation by queueing its job, which ran for `ran_ns` and came so far.
    pub fn adopt(
        &mut self,
        now: u64,
        payload: J,
        claim: Claim,
        ran_ns: u64,
        progress: Progress,
    ) -> JobKey {
        let (index, serial) = self.insert(now, payload, claim);
        self.current = Some(index);
        self.ready.run(claim);
        self.ready.charge(ran_ns, claim.weight);
        self.slice_began = now.saturating_sub(ran_ns);
        self.busy_ns += ran_ns;
        self.account(index, ran_ns, progress, false);
        match progress {
            Progress::Waiting | Progress::Held => self.make_waiting(now, index, progress),
            Progress::Stalled | Progress::Spinning => self.stall(now, index, progress),
            Progress::Preemptible
            | Progress::Restarted
            | Progress::Running
            | Progress::Ended
            | Progress::Faulted => {}
        }
        self.idle_again();
        JobKey { index, serial }
    }

    /// Says what to do now.
    pub fn next(&mut self, now: u64) -> Next<J> {
        while let Some(index) = self.reap.pop() {
            if let Some(payload) = self.remove(index, false) {
                return Next::Over(payload, Ended::Cancelled);
            }
        }
        if self.executing {
            self.asked = true;
            return Next::Busy;
        }
        self.wake_due(now);
        self.disturb(now);
        if self.current.is_none() {
            self.current = self.ready.pop_first();
            self.slice_began = now;
        }
        let Some(index) = self.current else {
            return Next::Sleep(self.waiting.first().map(|(poll_at, _)| *poll_at));
        };
        if let Some(until) = self.still_stalled(now, index) {
            return Next::Sleep(Some(until));
        }
        let seek = self.is_pressed(now, index);
        let Some((payload, owed_ns)) = self.jobs.get_mut(index).and_then(|job| {
            job.payload.take().map(|payload| (payload, std::mem::take(&mut job.owed_ns)))
        }) else {
            // Unreachable: `current` is a live job and no turn is out.
            self.leave();
            return Next::Sleep(None);
        };
        self.executing = true;
        Next::Run(Turn { payload, seek, index, since: now, owed_ns })
    }

    /// Ends a turn. `Some` when the job is over.
    pub fn put_back(&mut self, now: u64, turn: Turn<J>, progress: Progress) -> Option<(J, Ended)> {
        self.busy_ns += turn.ran_ns(now);
        let Turn { payload, seek, index, since, .. } = turn;
        let ran_ns = now.saturating_sub(since);
        self.idle_again();
        self.account(index, ran_ns, progress, seek);
        let job = self.jobs.get_mut(index)?;
        self.ready.charge(ran_ns, job.claim.weight);
        job.payload = Some(payload);
        let ended = match progress {
            Progress::Ended | Progress::Faulted => Some(Ended::Itself),
            Progress::Preemptible
            | Progress::Restarted
            | Progress::Running
            | Progress::Waiting
            | Progress::Stalled
            | Progress::Spinning
            | Progress::Held => {
                if job.cancelled {
                    Some(Ended::Cancelled)
                } else {
                    overrun(&self.limits, job)
                }
            }
        };
        if let Some(ended) = ended {
            self.leave();
            let faulted = progress == Progress::Faulted
                || matches!(ended, Ended::Hung(_) | Ended::TimedOut(_));
            return self.remove(index, faulted).map(|payload| (payload, ended));
        }
        match progress {
            Progress::Waiting | Progress::Held => self.make_waiting(now, index, progress),
            Progress::Stalled => self.stall(now, index, progress),
            Progress::Preemptible | Progress::Restarted | Progress::Spinning if self.rival(now) => {
                self.requeue(now, index);
            }
            Progress::Preemptible | Progress::Restarted | Progress::Spinning => {
                if self.slice_over(now) {
                    self.slice_began = now;
                    self.ready.renew();
                }
                if progress == Progress::Spinning {
                    self.stall(now, index, progress);
                }
            }
            Progress::Running | Progress::Ended | Progress::Faulted => {}
        }
        None
    }

    /// Memory may have changed: polls waiting jobs soon, though never more often than
    /// [`POLL_MIN_NS`]. Returns the time of the next poll.
    pub fn hasten(&mut self) -> Option<u64> {
        if self.waiting.len() <= POLLS_PER_PASS {
            for (_, index) in std::mem::take(&mut self.waiting) {
                let Some(job) = self.jobs.get_mut(index) else { continue };
                job.poll_interval = POLL_MIN_NS;
                let poll_at = job.polled_at.saturating_add(POLL_MIN_NS);
                job.place = Place::Waiting { poll_at };
                self.waiting.insert((poll_at, index));
            }
        }
        let stalled = self.current.and_then(|index| self.jobs.get_mut(index)).and_then(|job| {
            let until = job.stalled_until.as_mut().filter(|_| !job.napping)?;
            job.poll_interval = POLL_MIN_NS;
            *until = job.polled_at.saturating_add(POLL_MIN_NS);
            Some(*until)
        });
        stalled.or_else(|| self.waiting.first().map(|(poll_at, _)| *poll_at))
    }

    /// The job that has the engine, unless it was handed out: what a reset of the engine hits.
    pub fn active_mut(&mut self) -> Option<&mut J> {
        let job = self.jobs.get_mut(self.current?)?;
        job.begin_anew();
        job.payload.as_mut()
    }

    /// Whether a job was handed out, or the engine is reserved for one.
    #[must_use]
    pub const fn is_executing(&self) -> bool {
        self.executing
    }

    /// Whether jobs wait for memory to change.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let current = self.current.and_then(|index| self.jobs.get(index));
        !self.waiting.is_empty()
            || current.is_some_and(|job| job.stalled_until.is_some() && !job.napping)
    }

    /// Jobs waiting or running, reservations included.
    #[must_use]
    pub fn load(&self) -> usize {
        let reserved = self.executing && self.current.is_none();
        self.jobs.len() + usize::from(reserved)
    }

    /// Counters.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            busy_ns: self.busy_ns,
            queued: u32::try_from(self.load()).unwrap_or(u32::MAX),
            completed: self.completed,
            faults: self.faults,
        }
    }

    fn insert(&mut self, now: u64, payload: J, claim: Claim) -> (usize, u64) {
        self.serial += 1;
        let serial = self.serial;
        let index = self.jobs.insert(Job {
            serial,
            payload: Some(payload),
            claim,
            order: serial,
            place: Place::Ready,
            cancelled: false,
            unyielded_ns: 0,
            pressed_ns: 0,
            active_ns: 0,
            waiting_since: None,
            stalled_until: None,
            napping: false,
            counted_at: now,
            owed_ns: 0,
            polled_at: now,
            poll_interval: POLL_MIN_NS,
        });
        (index, serial)
    }

    fn make_ready(&mut self, index: usize) {
        if let Some(job) = self.jobs.get_mut(index) {
            job.place = Place::Ready;
            self.ready.insert(job.claim, job.order, index);
        }
    }

    fn make_waiting(&mut self, now: u64, index: usize, progress: Progress) {
        self.leave();
        let crowd = self.waiting.len() / POLLS_PER_PASS;
        let longest = POLL_MAX_NS.saturating_mul(crowd as u64 + 1);
        if let Some(job) = self.jobs.get_mut(index) {
            let poll_at = now.saturating_add(job.poll_interval);
            job.poll_interval = (job.poll_interval * 2).min(longest);
            job.waiting_since = (progress != Progress::Held).then_some(now);
            job.polled_at = now;
            job.place = Place::Waiting { poll_at };
            self.waiting.insert((poll_at, index));
        }
    }

    /// Lets a job wait without leaving the engine.
    fn stall(&mut self, now: u64, index: usize, progress: Progress) {
        if let Some(job) = self.jobs.get_mut(index) {
            job.napping = progress == Progress::Spinning;
            job.counted_at = now;
            job.stalled_until = Some(now.saturating_add(job.poll_interval));
            job.poll_interval = (job.poll_interval * 2).min(POLL_MAX_NS);
            job.polled_at = now;
        }
    }

    /// When the current job goes on, if not now.
    fn still_stalled(&mut self, now: u64, index: usize) -> Option<u64> {
        let job = self.jobs.get(index)?;
        let until = job.stalled_until?;
        if until <= now {
            self.count_stall(now, index);
            if let Some(job) = self.jobs.get_mut(index) {
                job.stalled_until = None;
            }
            return None;
        }
        // Whoever has the next slice does not wait for the end of a nap.
        let slice_end = self.slice_began.saturating_add(self.limits.timeslice_ns);
        let earlier = job.napping && !self.ready.is_empty() && slice_end > now;
        Some(if earlier { until.min(slice_end) } else { until })
    }

    /// What a job stalled until now counts as running.
    fn count_stall(&mut self, now: u64, index: usize) {
        let pressed = self.is_pressed(now, index);
        let Some(job) = self.jobs.get_mut(index) else { return };
        let stalled_ns = now.saturating_sub(job.counted_at);
        job.counted_at = now;
        if !job.napping {
            job.unyielded_ns += stalled_ns;
            job.pressed_ns = if pressed { job.pressed_ns + stalled_ns } else { 0 };
        }
        job.active_ns += stalled_ns;
        job.owed_ns += stalled_ns;
        self.ready.charge(stalled_ns, job.claim.weight);
    }

    /// Sets a job that naps aside if somebody else should have the engine.
    fn disturb(&mut self, now: u64) {
        let Some(index) = self.current else { return };
        let naps = |job: &Job<J>| job.napping && job.stalled_until.is_some();
        if !self.jobs.get(index).is_some_and(naps) {
            return;
        }
        self.count_stall(now, index);
        if self.rival(now) {
            if let Some(job) = self.jobs.get_mut(index) {
                job.stalled_until = None;
            }
            self.requeue(now, index);
        }
    }

    /// Nobody has the engine now.
    fn leave(&mut self) {
        self.current = None;
        self.ready.leave();
    }

    /// Sets a running job aside: behind its session's others if its slice is over, in its place
    /// otherwise.
    fn requeue(&mut self, now: u64, index: usize) {
        let slice_over = self.slice_over(now);
        self.serial += 1;
        if let Some(job) = self.jobs.get_mut(index) {
            if slice_over {
                job.order = self.serial;
            }
            self.make_ready(index);
        }
        self.leave();
    }

    fn wake_due(&mut self, now: u64) {
        for _ in 0..POLLS_PER_PASS {
            let Some(&(poll_at, index)) = self.waiting.first() else { return };
            if poll_at > now {
                return;
            }
            self.waiting.pop_first();
            if let Some(job) = self.jobs.get_mut(index) {
                let since = job.waiting_since.take().unwrap_or(now);
                job.active_ns += now.saturating_sub(since);
            }
            self.make_ready(index);
        }
    }

    fn slice_over(&self, now: u64) -> bool {
        now.saturating_sub(self.slice_began) >= self.limits.timeslice_ns
    }

    /// Whether somebody else should have the engine instead of the current job.
    fn rival(&self, now: u64) -> bool {
        self.ready.rival(self.slice_over(now))
    }

    /// Whether the current job should yield: to somebody else, or to the heartbeat.
    fn is_pressed(&self, now: u64, index: usize) -> bool {
        let unyielded_ns = self.jobs.get(index).map_or(0, |job| job.unyielded_ns);
        self.rival(now) || unyielded_ns >= self.limits.heartbeat_ns
    }

    fn account(&mut self, index: usize, ran_ns: u64, progress: Progress, pressed: bool) {
        let Some(job) = self.jobs.get_mut(index) else { return };
        job.active_ns += ran_ns;
        match progress {
            Progress::Restarted => job.begin_anew(),
            Progress::Preemptible | Progress::Spinning | Progress::Waiting | Progress::Held => {
                job.unyielded_ns = 0;
                job.pressed_ns = 0;
            }
            Progress::Running | Progress::Stalled | Progress::Ended | Progress::Faulted => {
                job.unyielded_ns += ran_ns;
                job.pressed_ns = if pressed { job.pressed_ns + ran_ns } else { 0 };
            }
        }
        match progress {
            Progress::Waiting | Progress::Stalled | Progress::Spinning | Progress::Held => {}
            Progress::Preemptible
            | Progress::Restarted
            | Progress::Running
            | Progress::Ended
            | Progress::Faulted => {
                job.poll_interval = POLL_MIN_NS;
            }
        }
    }

    fn unlist(&mut self, index: usize) {
        let Some(job) = self.jobs.get(index) else { return };
        match job.place {
            Place::Ready => self.ready.remove(job.claim, job.order, index),
            Place::Waiting { poll_at } => self.waiting.remove(&(poll_at, index)),
        };
        if self.current == Some(index) {
            self.leave();
        }
    }

    fn remove(&mut self, index: usize, faulted: bool) -> Option<J> {
        let job = self.jobs.try_remove(index)?;
        self.count_over(faulted);
        job.payload
    }

    fn count_over(&mut self, faulted: bool) {
        self.completed += 1;
        self.faults += u64::from(faulted);
    }

    /// Nothing executes any more; whether somebody should be told.
    fn idle_again(&mut self) -> bool {
        self.executing = false;
        let asked = std::mem::take(&mut self.asked);
        asked || !self.ready.is_empty() || !self.reap.is_empty()
    }
}

/// Whether the job used up its time.
fn overrun<J>(limits: &Limits, job: &Job<J>) -> Option<Ended> {
    if job.pressed_ns >= limits.preempt_ns {
        Some(Ended::Hung(job.unyielded_ns))
    } else if job.active_ns >= limits.request_ns {
        Some(Ended::TimedOut(job.active_ns))
    } else {
        None
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
