//! Contexts: the state they keep between batches, and their requests in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_soft_gpu::engine::Span;
use gpu_broker_soft_gpu::scheduler::Claim;
use gpu_broker_soft_gpu::{ENGINES, EngineSpec, Streamer};
use rustix::io::Errno;

use super::request::Request;
use super::signal::Signal;
use super::trace::Traced;
use super::{FileShared, Vm};
use crate::usage::Meter;
use crate::{ClassTimes, ContextSpec, ContextUpdate, DeviceError};

/// SSEU: this GPU is of version 9, where every context has all of the hardware.
pub(super) const NO_SSEU: DeviceError =
    DeviceError::Os { errno: Errno::NODEV.raw_os_error(), doing: "changing a context's SSEU" };

/// A context of a session: the handle. Requests in flight keep what they need of it.
#[derive(Debug)]
pub struct Context(pub(super) Arc<ContextShared>);

impl Drop for Context {
    /// However it goes, closed or dropped: there is no handle any more.
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

/// A context.
#[derive(Debug)]
pub(super) struct ContextShared {
    pub(super) file: Arc<FileShared>,
    pub(super) tag: u64,
    pub(super) vm: Vm,
    single_timeline: bool,
    priority: AtomicI32,
    recoverable: AtomicBool,
    bannable: AtomicBool,
    error_capture: AtomicBool,
    /// Everything it queues or has queued is cancelled.
    cancelled: AtomicBool,
    /// Its handle is gone.
    closed: AtomicBool,
    next_serial: AtomicU64,
    meter: Meter,
    state: Mutex<ContextState>,
}

/// What its lock protects.
#[derive(Debug, Default)]
pub(super) struct ContextState {
    /// Few: a B-tree of one node is faster than hashing.
    slots: BTreeMap<u32, Slot>,
    in_flight: HashMap<u64, Arc<Request>>,
}

/// One slot of the engine map: a timeline, and the state of the context on its engine. Two slots
/// that name the same engine are independent, as in the kernel.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) timeline: u64,
    /// The last request.
    pub(super) last: Option<Arc<Signal>>,
    /// One per batch of the slot; `None` while a request has it, or before the first.
    streamers: Vec<Option<Box<Streamer>>>,
}

impl ContextShared {
    pub(super) fn new(file: Arc<FileShared>, spec: &ContextSpec<'_, Vm>) -> Arc<Self> {
        Arc::new(Self {
            file,
            tag: spec.tag,
            vm: spec.vm.clone(),
            single_timeline: spec.single_timeline,
            priority: AtomicI32::new(spec.priority),
            recoverable: AtomicBool::new(spec.recoverable),
            bannable: AtomicBool::new(spec.bannable),
            error_capture: AtomicBool::new(spec.error_capture),
            cancelled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            next_serial: AtomicU64::new(0),
            meter: Meter::default(),
            state: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ContextState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn priority(&self) -> i32 {
        self.priority.load(Ordering::Relaxed)
    }

    /// On whose account its work runs.
    pub(super) fn claim(&self, priority: i32) -> Claim {
        let (group, weight) = (self.file.share.number(), self.file.share.weight().get());
        Claim { group, weight, session: self.file.number, priority }
    }

    /// It had an engine for so long; `traced` is the submission's number, if it has one.
    pub(super) fn ran(&self, engine: &EngineSpec, span: Span, traced: Option<Traced>) {
        self.meter.add(engine.class, span.ns());
        self.file.meter.add(engine.class, span.ns());
        self.file.share.meter().add(engine.class, span.ns());
        if let Some(traced) = traced {
            traced.ran(self, engine, span);
        }
    }

    pub(super) fn times(&self) -> ClassTimes {
        self.meter.read()
    }

    pub(super) fn captures_errors(&self) -> bool {
        self.error_capture.load(Ordering::Relaxed)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Persistence changes nothing here: whoever closes the context says whether to cancel.
    pub(super) fn update(&self, update: ContextUpdate) -> Result<(), DeviceError> {
        match update {
            ContextUpdate::Priority(priority) => {
                self.priority.store(priority, Ordering::Relaxed);
                for request in self.requests() {
                    request.priority_changed();
                }
            }
            ContextUpdate::Recoverable(value) => self.recoverable.store(value, Ordering::Relaxed),
            ContextUpdate::Bannable(value) => self.bannable.store(value, Ordering::Relaxed),
            ContextUpdate::ErrorCapture(value) => {
                self.error_capture.store(value, Ordering::Relaxed);
            }
            ContextUpdate::Persistent(_) => {}
            ContextUpdate::Sseu(_) => return Err(NO_SSEU),
        }
        Ok(())
    }

    /// What waits for its turn or is still to come ends without beginning.
    pub(super) fn start_nothing(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Ends what is queued or running, and whatever may still come.
    pub(super) fn cancel(&self) {
        self.start_nothing();
        for request in self.requests() {
            request.cancel();
        }
    }

    /// A request of this context was found guilty. A context that cannot recover is banned by that
    /// (rule table §12): what it has queued must not run before the rules get to say so. A closed
    /// one counts as banned, and the rules have forgotten it: a client that left a queue of endless
    /// batches would keep its engine and memory for the time limit of every single one.
    pub(super) fn blame(&self) {
        let for_good =
            self.bannable.load(Ordering::Relaxed) && !self.recoverable.load(Ordering::Relaxed);
        if for_good || self.closed.load(Ordering::Acquire) {
            self.cancel();
        }
    }

    fn requests(&self) -> Vec<Arc<Request>> {
        self.lock().in_flight.values().cloned().collect()
    }
}

impl ContextState {
    /// The slot, made if it is the first request on it.
    pub(super) fn slot(&mut self, context: &ContextShared, slot: u32, width: usize) -> &mut Slot {
        let slot = self.slots.entry(slot).or_insert_with(|| Slot {
            timeline: context.file.device.next_timeline(),
            last: None,
            streamers: Vec::new(),
        });
        if slot.streamers.len() < width {
            slot.streamers.resize_with(width, || None);
        }
        slot
    }

    /// The slot whose timeline orders the requests of `slot`.
    pub(super) fn timeline(&mut self, context: &ContextShared, slot: u32) -> &mut Slot {
        self.slot(context, if context.single_timeline { u32::MAX } else { slot }, 0)
    }

    pub(super) fn enter(&mut self, serial: u64, request: &Arc<Request>) {
        self.in_flight.insert(serial, Arc::clone(request));
    }

    pub(super) fn leave(&mut self, serial: u64) {
        self.in_flight.remove(&serial);
    }

    /// The state for part `part` of a request, on an engine: what the last request left, or new.
    pub(super) fn take_streamer(&mut self, slot: u32, part: usize, engine: usize) -> Box<Streamer> {
        let spec = &ENGINES[engine];
        let kept = self.slots.get_mut(&slot).and_then(|slot| slot.streamers.get_mut(part)?.take());
        match kept {
            Some(mut streamer) if streamer.engine().class == spec.class => {
                streamer.set_engine(spec);
                streamer
            }
            Some(_) | None => Box::new(Streamer::new(spec)),
        }
    }

    /// Keeps the state for the next request.
    pub(super) fn put_streamer(&mut self, slot: u32, part: usize, streamer: Box<Streamer>) {
        let place = self.slots.get_mut(&slot).and_then(|slot| slot.streamers.get_mut(part));
        if let Some(place) = place {
            *place = Some(streamer);
        }
    }
}
