//! Requests that did not complete on the spot: from their dependencies to their completion.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use gpu_broker_soft_gpu::engine::{Ending, Job, Span, Unfinished, Work};
use gpu_broker_soft_gpu::memory::Memory;
use gpu_broker_soft_gpu::scheduler::{Claim, JobKey};
use gpu_broker_soft_gpu::{ENGINES, EngineSpec, Streamer};

use super::buffer::Part;
use super::capture::Flagged;
use super::context::ContextShared;
use super::fault::{Remains, outcome_of};
use super::limits::Permit;
use super::signal::{EAGAIN, EIO, Signal};
use super::space::{Space, View};
use super::trace::Traced;
use crate::{Batch, DeviceEvent, EngineId, Outcome};

/// Batches of one request: a bit each in [`Request::arrived`].
pub(super) const PARTS_MAX: usize = 64;

/// Where a request runs, as indices of engines.
#[derive(Clone, Debug)]
pub(super) enum Where {
    /// Its only batch on the least loaded of these.
    AnyOf(Vec<usize>),
    /// Batch i on engine i.
    Each(Vec<usize>),
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) context: Arc<ContextShared>,
    pub(super) serial: u64,
    pub(super) slot: u32,
    pub(super) signal: Arc<Signal>,
    /// The address space as it was when the request was submitted.
    space: Space,
    batches: Vec<Batch>,
    place: Where,
    /// Relocations to write before it starts.
    patches: Vec<Patched>,
    /// Objects that belong in an error dump.
    flagged: Vec<Flagged>,
    traced: Option<Traced>,
    /// Given back when it is over.
    _uses: Option<Permit>,
    /// A reset that was not its fault made it start again.
    replayed: AtomicBool,
    /// Parts whose turn has come, as bits.
    arrived: AtomicU64,
    /// The batches have started: all parts are on their engines.
    begun: AtomicBool,
    /// Dependencies not met, and one for whoever registers them.
    dependencies: AtomicUsize,
    /// The dependencies, for [`super::inherit`]; set once they are registered.
    sources: OnceLock<Vec<Weak<Signal>>>,
    flow: Mutex<Flow>,
}

/// How far a request is.
#[derive(Debug, Default)]
struct Flow {
    cancelled: bool,
    /// Engine and key of each part that was queued.
    jobs: Vec<(usize, JobKey)>,
    /// Parts not over.
    left: usize,
    outcome: Option<Outcome>,
}

/// What a request is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) slot: u32,
    pub(super) signal: Arc<Signal>,
    pub(super) space: Space,
    pub(super) batches: Vec<Batch>,
    pub(super) place: Where,
    pub(super) patches: Vec<Patched>,
    pub(super) flagged: Vec<Flagged>,
    pub(super) traced: Option<Traced>,
    pub(super) uses: Option<Permit>,
}

/// A relocation, and the memory it is in.
#[derive(Debug)]
pub(super) struct Patched {
    pub(super) part: Part,
    pub(super) offset: u64,
    pub(super) value: u64,
}

impl Patched {
    /// Writes it. Whoever submitted it has checked that it is inside. It is lost with the memory it is
    /// in, if an application takes that away: the batch will find the same.
    pub(super) fn write(&self) {
        let Part { backing, offset, .. } = &self.part;
        let at = offset.saturating_add(self.offset);
        let written =
            backing.mapping().and_then(|mapping| mapping.write(at, &self.value.to_le_bytes()));
        debug_assert!(
            written.is_ok() || backing.is_lost(),
            "a relocation is checked when it is submitted"
        );
    }
}

impl Request {
    pub(super) fn new(context: &Arc<ContextShared>, serial: u64, parts: Parts) -> Arc<Self> {
        let flow = Flow { left: parts.batches.len(), ..Flow::default() };
        Arc::new(Self {
            context: Arc::clone(context),
            serial,
            slot: parts.slot,
            signal: parts.signal,
            space: parts.space,
            batches: parts.batches,
            place: parts.place,
            patches: parts.patches,
            flagged: parts.flagged,
            traced: parts.traced,
            _uses: parts.uses,
            replayed: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            begun: AtomicBool::new(false),
            dependencies: AtomicUsize::new(1),
            sources: OnceLock::new(),
            flow: Mutex::new(flow),
        })
    }

    /// Its context's priority, or that of somebody who waits for it.
    pub(super) fn priority(&self) -> i32 {
        self.context.priority().max(self.signal.lent())
    }

    fn claim(&self) -> Claim {
        self.context.claim(self.priority())
    }

    /// Its signal was lent a priority. False if that makes no difference.
    pub(super) fn rise(&self, priority: i32) -> bool {
        let rises = self.context.priority() < priority;
        if rises {
            self.priority_changed();
        }
        rises
    }

    /// Remembers what it waits for.
    pub(super) fn waits_for(&self, sources: Vec<Weak<Signal>>) {
        // Set once only, by whoever enters the request.
        let _ = self.sources.set(sources);
    }

    /// Adds what it waits for and what is not over.
    pub(super) fn add_sources(&self, to: &mut Vec<Arc<Signal>>) {
        to.extend(self.sources.get().into_iter().flatten().filter_map(Weak::upgrade));
    }

    /// One dependency more; not after the request may have been launched.
    pub(super) fn add_dependency(&self) {
        self.dependencies.fetch_add(1, Ordering::Relaxed);
    }

    /// One dependency less; true if it was the last.
    pub(super) fn dependency_met(&self) -> bool {
        self.dependencies.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Queues the request to its engines, its dependencies being met.
    ///
    /// # Errors
    /// It was cancelled, or the device has stopped: the request is over, and nobody was told.
    pub(super) fn launch(self: &Arc<Self>) -> Result<(), Outcome> {
        let engines = self.engines();
        let mut streamers = Vec::with_capacity(engines.len());
        {
            let mut state = self.context.lock();
            for (part, engine) in engines.iter().enumerate() {
                streamers.push(state.take_streamer(self.slot, part, *engine));
            }
        }
        let mut flow = self.lock();
        // The context says so first: the end of the request before this one may be the cancelling's
        // doing, which then has not come to this one yet.
        let cancelled = flow.cancelled || self.context.is_cancelled();
        if !cancelled {
            self.patches.iter().for_each(Patched::write);
        }
        let gpu = &self.context.file.device.gpu;
        let mut parts = engines.into_iter().zip(streamers).zip(&self.batches).enumerate();
        while let Some((part, ((engine, mut streamer), batch))) = parts.next() {
            streamer.start(batch.address, batch.length);
            let work: Arc<dyn Work> = Arc::<Self>::clone(self);
            let job = Job { work, part, streamer };
            if cancelled {
                return Err(Outcome::Cancelled);
            }
            match gpu.engines()[engine].queue(job, self.claim()) {
                Ok(key) => flow.jobs.push((engine, key)),
                Err(_stopped) => {
                    // The engine stopped, and so have the others: the parts queued before this one
                    // end as cancelled, and the last of them completes the request.
                    flow.left -= 1 + parts.count();
                    flow.outcome = Some(Outcome::Cancelled);
                    return if flow.left == 0 { Err(Outcome::Cancelled) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Queues the rest of a batch that was begun where it was submitted.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub(super) fn go_on(
        self: &Arc<Self>,
        unfinished: Unfinished<'_>,
        engine: usize,
        streamer: Box<Streamer>,
    ) -> Result<(), Outcome> {
        // Nobody waits for its start yet.
        self.begun.store(true, Ordering::Relaxed);
        self.signal.begin(&mut Vec::new());
        let mut flow = self.lock();
        let job = Job { work: Arc::<Self>::clone(self), part: 0, streamer };
        match unfinished.queue(job, self.claim()) {
            Ok(key) => flow.jobs.push((engine, key)),
            Err(_stopped) => return Err(Outcome::Cancelled),
        }
        Ok(())
    }

    /// Ends the request: at once if it is queued, at the end of a turn if it runs, without running
    /// once its dependencies are met if it waits for them. The last is what the kernel does, and
    /// keeps the requests of a timeline in order.
    pub(super) fn cancel(&self) {
        let mut flow = self.lock();
        flow.cancelled = true;
        for (engine, key) in &flow.jobs {
            self.context.file.device.gpu.engines()[*engine].cancel(*key);
        }
    }

    /// Takes its place among the jobs of its engines anew. If it is just being queued, its lock
    /// sees to it that either this finds the jobs, or they are queued with the new priority.
    pub(super) fn priority_changed(&self) {
        let flow = self.lock();
        let priority = self.priority();
        for (engine, key) in &flow.jobs {
            self.context.file.device.gpu.engines()[*engine].set_priority(*key, priority);
        }
    }

    /// Completes the request and launches what waited for it. On an engine's thread, without locks.
    pub(super) fn complete(self: Arc<Self>, outcome: Outcome) {
        Self::complete_all(vec![(self, outcome)]);
    }

    /// Launches requests whose dependencies are met.
    fn launch_all(requests: Vec<Arc<Self>>) {
        let launch = |request: Arc<Self>| match request.launch() {
            Ok(()) => None,
            Err(outcome) => Some((request, outcome)),
        };
        Self::complete_all(requests.into_iter().filter_map(launch).collect());
    }

    fn complete_all(mut over: Vec<(Arc<Self>, Outcome)>) {
        let mut ready = Vec::new();
        // Requests that are cancelled before they run form chains of any length.
        while let Some((request, outcome)) = over.pop() {
            request.settle(outcome, &mut ready);
            for next in ready.drain(..) {
                if let Err(outcome) = next.launch() {
                    over.push((next, outcome));
                }
            }
        }
    }

    fn settle(&self, outcome: Outcome, ready: &mut Vec<Arc<Self>>) {
        let replayed = self.replayed.load(Ordering::Relaxed);
        let errno = if replayed { errno_of_replayed(&outcome) } else { errno_of(&outcome) };
        self.context.lock().leave(self.serial);
        if matches!(outcome, Outcome::Guilty(_)) {
            self.context.blame();
        }
        if let Some(traced) = self.traced {
            traced.over(&self.context, self.engine_of(0), &outcome);
        }
        // The rules hear of it before anybody who waits does, so that a ban is in force by then.
        let event = DeviceEvent::Completed { tag: self.context.tag, outcome };
        self.context.file.events.report(event);
        self.signal.fire(errno, ready);
        self.context.file.events.signalled();
    }

    /// The engine of each part.
    fn engines(&self) -> Vec<usize> {
        match &self.place {
            Where::Each(engines) => engines.clone(),
            Where::AnyOf(engines) => {
                let gpu = &self.context.file.device.gpu;
                let load = |engine: &usize| gpu.engines()[*engine].load();
                engines.iter().copied().min_by_key(load).into_iter().collect()
            }
        }
    }

    /// Where a part runs, or where it may.
    fn engine_of(&self, part: usize) -> EngineId {
        let queued = self.lock().jobs.get(part).map(|(engine, _)| *engine);
        let (Where::AnyOf(engines) | Where::Each(engines)) = &self.place;
        let engine = queued.or_else(|| engines.get(part).copied()).unwrap_or(0);
        let spec = ENGINES.get(engine).unwrap_or(&ENGINES[0]);
        EngineId { class: spec.class, instance: spec.instance }
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work for Request {
    /// The parts of a request start together: when the last of them has its turn.
    fn may_run(&self, part: usize) -> bool {
        if self.begun.load(Ordering::Acquire) {
            return true;
        }
        let bit = 1u64 << part;
        let arrived = self.arrived.fetch_or(bit, Ordering::AcqRel) | bit;
        if arrived.count_ones() as usize != self.batches.len() {
            return false;
        }
        if !self.begun.swap(true, Ordering::AcqRel) {
            let mut ready = Vec::new();
            self.signal.begin(&mut ready);
            Self::launch_all(ready);
            if self.batches.len() > 1 {
                self.context.file.device.gpu.memory_changed();
            }
        }
        true
    }

    fn ran(&self, engine: &EngineSpec, span: Span) {
        self.context.ran(engine, span, self.traced);
    }

    fn with_memory(&self, run: &mut dyn FnMut(&dyn Memory)) {
        run(&View::new(&self.space));
    }

    /// Counts once per request, however many of its parts are hit.
    fn reset(&self, part: usize) {
        if let Some(traced) = self.traced {
            traced.replayed(&self.context, self.engine_of(part));
        }
        if !self.replayed.swap(true, Ordering::Relaxed) {
            let event = DeviceEvent::Replayed { tag: self.context.tag };
            self.context.file.events.report(event);
        }
    }

    fn over(self: Arc<Self>, part: usize, streamer: Box<Streamer>, ending: Ending) {
        let gpu = &self.context.file.device.gpu;
        gpu.memory_changed();
        let outcome = outcome_of(
            ending,
            &Remains {
                context: &self.context,
                streamer: &streamer,
                memory: &View::new(&self.space),
                batch: self.batches.get(part).copied().unwrap_or(Batch { address: 0, length: 0 }),
                flagged: &self.flagged,
            },
        );
        match &outcome {
            Outcome::Completed => self.context.lock().put_streamer(self.slot, part, streamer),
            // What a batch that did not end left behind is of no use: the next one starts afresh,
            // as after a reset.
            Outcome::Cancelled => drop(streamer),
            Outcome::Guilty(_) => {
                let same = |spec: &EngineSpec| spec.name == streamer.engine().name;
                ENGINES.iter().position(same).into_iter().for_each(|engine| gpu.reset(engine));
            }
        }
        let outcome = {
            let mut flow = self.lock();
            if outcome != Outcome::Completed {
                for (engine, key) in &flow.jobs {
                    self.context.file.device.gpu.engines()[*engine].cancel(*key);
                }
            }
            flow.left -= 1;
            let worst = worse(flow.outcome.take(), outcome);
            if flow.left > 0 {
                flow.outcome = Some(worst);
                return;
            }
            worst
        };
        self.complete(outcome);
    }
}

/// The errno a fence reports.
pub(super) const fn errno_of(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Completed => 0,
        Outcome::Cancelled | Outcome::Guilty(_) => EIO,
    }
}

/// The same of a request that was hit by a reset of somebody else's: its work is done, and the error
/// says that it was done twice (rule table §12).
const fn errno_of_replayed(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Completed => EAGAIN,
        Outcome::Cancelled | Outcome::Guilty(_) => EIO,
    }
}

/// Of the parts of a request: a fault outweighs a cancellation, which it causes, and that success.
fn worse(first: Option<Outcome>, second: Outcome) -> Outcome {
    match (first, second) {
        (Some(Outcome::Guilty(report)), _) | (_, Outcome::Guilty(report)) => {
            Outcome::Guilty(report)
        }
        (Some(Outcome::Cancelled), _) | (_, Outcome::Cancelled) => Outcome::Cancelled,
        (Some(Outcome::Completed) | None, Outcome::Completed) => Outcome::Completed,
    }
}
