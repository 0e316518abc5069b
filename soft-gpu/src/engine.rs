//! One engine: a [`Scheduler`], a thread that carries out what it says, and a way around the
//! thread for batches short enough to run where they are submitted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::hardware::{Clock, EngineSpec, TIMESTAMP_HZ};
use crate::memory::Memory;
use crate::scheduler::{Claim, Ended, JobKey, Limits, Next, Progress, Scheduler, Turn, Usage};
use crate::streamer::{Stop, Streamer};

/// Cost units of one turn on the engine's thread: between 25 µs of simple commands and half a
/// millisecond of blits. Cancelling and priorities take effect at the end of a turn.
pub const TURN_BUDGET: u32 = 512;
/// Cost units a batch may use on the thread that submits it.
pub const INLINE_BUDGET: u32 = 32;

/// What a job belongs to. Called without any lock of the engine held.
pub trait Work: Send + Sync + 'static {
    /// Whether the job may run now; asked at each of its turns. A job that may not is asked again
    /// soon, and others have the engine meanwhile; the time does not count against it.
    fn may_run(&self, part: usize) -> bool;

    /// The job had that engine for a while more. Engines call it at the end of each turn, on their
    /// threads.
    fn ran(&self, engine: &EngineSpec, span: Span);

    /// Calls `run` once with the memory of the job.
    fn with_memory(&self, run: &mut dyn FnMut(&dyn Memory));

    /// The engine was reset while the job had it, innocently: its batch runs again from the
    /// beginning. Called without any lock of the engine held; must not block.
    fn reset(&self, part: usize);

    /// A job is over. Called once per job, on an engine's thread; must not block. `part` is
    /// [`Job::part`]; the streamer comes back for the next batch of its context.
    fn over(self: Arc<Self>, part: usize, streamer: Box<Streamer>, ending: Ending);
}

/// Time for which a job had an engine, on the clock of the GPU: see
/// [`Gpu::moment`](crate::gpu::Gpu::moment).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// When it began to execute, in nanoseconds.
    pub began: u64,
    /// When it ceased to, in nanoseconds.
    pub ended: u64,
    /// Nanoseconds it had the engine before without executing, and was not told of: it stalled or
    /// napped.
    pub owed_ns: u64,
}

impl Span {
    /// Nanoseconds in all.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.ended.saturating_sub(self.began).saturating_add(self.owed_ns)
    }
}

/// A batch to run.
pub struct Job {
    /// Whose.
    pub work: Arc<dyn Work>,
    /// Tells the jobs of one piece of work apart.
    pub part: usize,
    /// The context's state, with the batch started ([`Streamer::start`]).
    pub streamer: Box<Streamer>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("part", &self.part).finish_non_exhaustive()
    }
}

impl Job {
    /// Back to the beginning of its batch.
    fn restart(&mut self) -> Victim {
        self.streamer.restart();
        Victim { work: Arc::clone(&self.work), part: self.part }
    }
}

/// Whose job a reset has hit.
struct Victim {
    work: Arc<dyn Work>,
    part: usize,
}

impl Victim {
    /// Without locks. A callback that panics does not end the engine, as in [`finish`].
    fn tell(self) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.work.reset(self.part)));
    }
}

/// How a job ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The batch ran to its end.
    Done,
    /// It was cancelled.
    Cancelled,
    /// A command could not be executed.
    Fault(Fault),
    /// It did not get to an arbitration point in time when it was asked to.
    Hung {
        /// Nanoseconds since the last one.
        ran_ns: u64,
        /// The next command.
        address: u64,
    },
    /// It ran and waited for too long.
    TimedOut {
        /// Nanoseconds it took.
        active_ns: u64,
        /// The next command, or the one that waits.
        address: u64,
    },
    /// The software GPU panicked: a bug of ours, and the panic's message.
    Panicked(String),
}

impl Ending {
    /// Whether the batch is to blame, as far as anybody outside can tell.
    #[must_use]
    pub const fn is_guilty(&self) -> bool {
        match self {
            Self::Done | Self::Cancelled => false,
            Self::Fault(_) | Self::Hung { .. } | Self::TimedOut { .. } | Self::Panicked(_) => true,
        }
    }
}

/// What became of [`Engine::run_inline`].
#[derive(Debug)]
pub enum Inline<'a> {
    /// The engine is not idle; nothing was run.
    Busy,
    /// The batch is over, after so long. Never [`Ending::Cancelled`].
    Over(Ending, Span),
    /// The batch goes on: queue it.
    Unfinished(Unfinished<'a>),
}

/// A batch that was begun on the submitting thread and holds the engine until it is queued.
#[derive(Debug)]
pub struct Unfinished<'a> {
    engine: &'a Engine,
    progress: Progress,
    span: Span,
    queued: bool,
}

impl Unfinished<'_> {
    /// Queues the rest of the batch.
    ///
    /// # Errors
    /// The engine has stopped; the job comes back.
    pub fn queue(mut self, mut job: Job, claim: Claim) -> Result<JobKey, Job> {
        self.queued = true;
        let engine = self.engine;
        job.work.ran(&engine.spec, self.span);
        let ran_ns = self.span.ns();
        let now = engine.shared.time.now();
        let mut state = engine.lock();
        if state.stopping {
            engine.release(state, ran_ns, false);
            return Err(job);
        }
        let victim = std::mem::take(&mut state.was_reset).then(|| job.restart());
        let progress = if victim.is_some() { Progress::Restarted } else { self.progress };
        let key = state.scheduler.adopt(now, job, claim, ran_ns, progress);
        engine.wake(state);
        victim.into_iter().for_each(Victim::tell);
        Ok(key)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.queued {
            self.engine.release(self.engine.lock(), self.span.ns(), false);
        }
    }
}

/// What the engines of one GPU share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) time: Time,
    /// Bit i: jobs wait for memory on engine i.
    pub(crate) waiters: AtomicU32,
    /// [`crate::gpu::Gpu::stop`] was called.
    pub(crate) stopped: AtomicBool,
}

/// Nanoseconds since the GPU was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Instant);

impl Time {
    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Clock for Time {
    fn ticks(&self) -> u64 {
        let ticks = u128::from(self.now()) * u128::from(TIMESTAMP_HZ) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
struct State {
    scheduler: Scheduler<Job>,
    /// The thread waits on `Engine::changed`.
    asleep: bool,
    stopping: bool,
    /// The engine was reset while a job was out: it has to start again.
    was_reset: bool,
}

/// An engine of a running [`crate::gpu::Gpu`].
#[derive(Debug)]
pub struct Engine {
    spec: EngineSpec,
    bit: u32,
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Engine {
    pub(crate) fn new(spec: EngineSpec, bit: u32, shared: Arc<Shared>, limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits);
        let state =
            Mutex::new(State { scheduler, asleep: false, stopping: false, was_reset: false });
        Self { spec, bit, shared, state, changed: Condvar::new() }
    }

    /// What this engine is.
    #[must_use]
    pub const fn spec(&self) -> &EngineSpec {
        &self.spec
    }

    /// Queues a job.
    ///
    /// # Errors
    /// The engine has stopped; the job comes back.
    pub fn queue(&self, job: Job, claim: Claim) -> Result<JobKey, Job> {
        let now = self.shared.time.now();
        let mut state = self.lock();
        if state.stopping {
            return Err(job);
        }
        let key = state.scheduler.submit(now, job, claim);
        self.wake(state);
        Ok(key)
    }

    /// If the engine is idle, starts a batch (address and bytes) on `streamer` and runs it on this
    /// thread, at most [`INLINE_BUDGET`] of it.
    pub fn run_inline(
        &self,
        streamer: &mut Streamer,
        memory: &dyn Memory,
        batch: (u64, u64),
    ) -> Inline<'_> {
        {
            let mut state = self.lock();
            if state.stopping || !state.scheduler.reserve() {
                return Inline::Busy;
            }
        }
        let began = self.shared.time.now();
        let stop = guarded(|| {
            streamer.start(batch.0, batch.1);
            streamer.set_yielding(false);
            streamer.run(memory, &self.shared.time, INLINE_BUDGET)
        });
        let span = Span { began, ended: self.shared.time.now(), owed_ns: 0 };
        let (progress, ending) = judge(stop);
        match ending {
            Some(ending) => {
                self.release(self.lock(), span.ns(), ending.is_guilty());
                Inline::Over(ending, span)
            }
            None => Inline::Unfinished(Unfinished { engine: self, progress, span, queued: false }),
        }
    }

    /// Changes the priority of a job that is not over.
    pub fn set_priority(&self, key: JobKey, priority: i32) {
        self.lock().scheduler.set_priority(key, priority);
    }

    /// Ends a job that is not over, at the end of its turn if it runs.
    pub fn cancel(&self, key: JobKey) {
        let mut state = self.lock();
        if state.scheduler.cancel(key) {
            self.wake(state);
        }
    }

    /// Jobs queued or running.
    #[must_use]
    pub fn load(&self) -> usize {
        self.lock().scheduler.load()
    }

    /// Counters.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.lock().scheduler.usage()
    }

    /// Cancels everything and ends the thread once its jobs are over.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.scheduler.cancel_all();
        self.wake(state);
    }

    /// The engine's thread.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = self.shared.time.now();
            let next = state.scheduler.next(now);
            self.note_waiters(&state);
            state = match next {
                Next::Run(turn) => {
                    drop(state);
                    self.take_turn(turn)
                }
                Next::Over(job, ended) => {
                    drop(state);
                    finish(job, &ended, None);
                    self.lock()
                }
                Next::Busy => self.sleep(state, None),
                Next::Sleep(_) if state.stopping => return,
                Next::Sleep(until) => {
                    let timeout =
                        until.map(|until| Duration::from_nanos(until.saturating_sub(now)));
                    self.sleep(state, timeout)
                }
            };
        }
    }

    fn take_turn(&self, mut turn: Turn<Job>) -> MutexGuard<'_, State> {
        let (work, part) = (Arc::clone(&turn.payload.work), turn.payload.part);
        // As in `finish`: a callback that panics does not end the engine.
        let may_run = catch_unwind(AssertUnwindSafe(|| work.may_run(part))).unwrap_or(true);
        let (progress, ending) =
            if may_run { judge(self.execute(&mut turn)) } else { (Progress::Held, None) };
        let now = self.shared.time.now();
        // A callback that panics has told the panic hook; see `finish`.
        let _ = catch_unwind(AssertUnwindSafe(|| work.ran(&self.spec, turn.span(now))));
        let mut state = self.lock();
        // What came to its end, or did not run, was not there any more to be hit.
        let hit = std::mem::take(&mut state.was_reset) && may_run && ending.is_none();
        let victim = hit.then(|| turn.payload.restart());
        let progress = if hit { Progress::Restarted } else { progress };
        let over = state.scheduler.put_back(now, turn, progress);
        self.note_waiters(&state);
        if over.is_none() && victim.is_none() {
            return state;
        }
        drop(state);
        victim.into_iter().for_each(Victim::tell);
        if let Some((job, ended)) = over {
            finish(job, &ended, ending);
        }
        self.lock()
    }

    /// Resets the engine under whoever has it: see [`crate::gpu::Gpu::reset`].
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        let victim = if state.scheduler.is_executing() {
            state.was_reset = true;
            None
        } else {
            state.scheduler.active_mut().map(Job::restart)
        };
        drop(state);
        victim.into_iter().for_each(Victim::tell);
    }

    fn execute(&self, turn: &mut Turn<Job>) -> Result<Stop, String> {
        let seek = turn.seek;
        let Job { work, streamer, .. } = &mut turn.payload;
        guarded(|| {
            let mut stop = Stop::Budget { arbitration: false };
            streamer.set_yielding(seek);
            work.with_memory(&mut |memory| {
                stop = streamer.run(memory, &self.shared.time, TURN_BUDGET);
            });
            stop
        })
    }

    /// Polls the waiting jobs of this engine soon.
    pub(crate) fn hasten(&self) {
        let mut state = self.lock();
        if state.scheduler.hasten().is_some() {
            self.wake(state);
        }
    }

    fn note_waiters(&self, state: &State) {
        let bit = 1 << self.bit;
        let noted = self.shared.waiters.load(Ordering::Relaxed) & bit != 0;
        if noted != (state.scheduler.is_waiting()) {
            self.shared.waiters.fetch_xor(bit, Ordering::Relaxed);
        }
    }

    fn release(&self, mut state: MutexGuard<'_, State>, ran_ns: u64, faulted: bool) {
        state.was_reset = false;
        if state.scheduler.release(ran_ns, faulted) {
            self.wake(state);
        }
    }

    /// Wakes the thread if it sleeps: a futex call that is made at most once per sleep.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.changed.notify_one();
        }
    }

    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.asleep = true;
        let mut state = match timeout {
            Some(timeout) => {
                self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.asleep = false;
        state
    }

    /// Nothing panics while the lock is held (batches run without it), so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a batch so that a panic of ours ends the batch and not the engine.
fn guarded(run: impl FnOnce() -> Stop) -> Result<Stop, String> {
    // A streamer that panicked is never run again: its owner drops it (see `Work::over`).
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(ToString::to_string);
        message
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic without a message".to_owned())
    })
}

fn judge(stop: Result<Stop, String>) -> (Progress, Option<Ending>) {
    match stop {
        Ok(Stop::Budget { arbitration: true }) => (Progress::Preemptible, None),
        Ok(Stop::Budget { arbitration: false }) => (Progress::Running, None),
        Ok(Stop::Waiting(wait)) if wait.preemptible => (Progress::Waiting, None),
        Ok(Stop::Waiting(_) | Stop::Spinning { arbitration: false }) => (Progress::Stalled, None),
        Ok(Stop::Spinning { arbitration: true }) => (Progress::Spinning, None),
        Ok(Stop::Done) => (Progress::Ended, Some(Ending::Done)),
        Ok(Stop::Fault(fault)) => (Progress::Faulted, Some(Ending::Fault(fault))),
        Err(message) => (Progress::Faulted, Some(Ending::Panicked(message))),
    }
}

fn finish(job: Job, ended: &Ended, ending: Option<Ending>) {
    let address = job.streamer.position();
    let ending = match ended {
        // A job that ended itself said how.
        Ended::Itself => ending.unwrap_or(Ending::Done),
        Ended::Cancelled => Ending::Cancelled,
        Ended::Hung(ran_ns) => Ending::Hung { ran_ns: *ran_ns, address },
        Ended::TimedOut(active_ns) => Ending::TimedOut { active_ns: *active_ns, address },
    };
    let Job { work, part, streamer } = job;
    // A callback that panics has told the panic hook; the engine goes on with the next job.
    let _ = catch_unwind(AssertUnwindSafe(|| work.over(part, streamer, ending)));
}
