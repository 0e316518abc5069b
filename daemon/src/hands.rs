//! The rules' [`Hands`] over a device file: two vocabularies of the same things, because neither
//! crate may know the other.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gpu_broker_core::Time;
use gpu_broker_core::hands::{
    BufferMemory, Caching, ClassTimes, ContextSpec, Hands, Object, Outcome, Placement, Slot,
    SlotSseu, Submission, Submitted, Update,
};
use gpu_broker_device as device;
use gpu_broker_device::{DeviceError, DeviceFile};
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::{Reason, Refusal, SessionId};
use smallvec::SmallVec;

use crate::classes::Class;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::limiter::Limiter;
use crate::shared_status::SharedStatus;
use crate::throttle::Queued;

/// What every line in the log about a session says, and how much was said.
#[derive(Debug)]
pub(crate) struct SessionLog {
    pub(crate) session: SessionId,
    pub(crate) class: Arc<Class>,
    pub(crate) identity: Arc<Identity>,
    peer: OnceLock<Box<str>>,
    pub(crate) limiter: Limiter,
}

impl SessionLog {
    pub(crate) fn new(session: SessionId, class: Arc<Class>, identity: Arc<Identity>) -> Self {
        let (peer, limiter) = (OnceLock::new(), Limiter::default());
        Self { session, class, identity, peer, limiter }
    }

    /// Who the peer is, in words. Most sessions never have a line in the log.
    pub(crate) fn peer(&self) -> &str {
        self.peer.get_or_init(|| self.identity.to_string().into())
    }
}

/// Who is told of batches that die: remembers them, and tells their owner and the log.
pub(crate) trait HangSink: Send + Sync + 'static {
    fn hung(&self, now: Time, report: device::FaultReport);
}

/// One session's device.
pub(crate) struct DeviceHands<F: DeviceFile> {
    pub(crate) file: F,
    hangs: Arc<dyn HangSink>,
    pub(crate) clock: Clock,
    /// What is not over.
    queued: Mutex<Queued<F>>,
    status: SharedStatus,
}

impl<F: DeviceFile> DeviceHands<F> {
    pub(crate) fn new(file: F, hangs: Arc<dyn HangSink>, clock: Clock) -> Self {
        Self { file, hangs, clock, queued: Mutex::default(), status: SharedStatus::default() }
    }

    /// See [`Queued::watch`].
    pub(crate) fn watch_queued(&self, until: Time, token: u64) -> Result<Option<Time>, Refusal> {
        self.queued().watch(&self.file, until, token).map_err(|error| refusal_of(&error))
    }

    /// The fence of a request that was queued has signalled.
    pub(crate) fn signalled(&self) {
        let mut queued = self.queued();
        queued.completed(&self.file);
        self.status.retire(queued.oldest(), queued.all_reported());
    }

    /// GET_RESET_STATS may have another answer now, for a context or for all.
    pub(crate) fn resets_changed(&self) {
        self.status.resets_changed();
    }

    /// Makes the session's shared status page. `sees_device`: whether GET_RESET_STATS tells of others' resets.
    ///
    /// # Errors
    /// As [`SharedStatus::share`].
    pub(crate) fn share_status(
        &self,
        sees_device: impl FnOnce() -> bool,
    ) -> Result<OwnedFd, Refusal> {
        // Held, so that nothing is missed that happens meanwhile.
        let queued = self.queued();
        let fd = self.status.share()?;
        self.status.retire(queued.oldest(), queued.all_reported());
        self.status.tell(F::REPORTS_FIRST, !sees_device());
        Ok(fd)
    }

    /// What the session may see has changed.
    pub(crate) fn tell_status(&self, sees_device: impl FnOnce() -> bool) {
        let _queued = self.queued();
        self.status.tell(F::REPORTS_FIRST, !sees_device());
    }

    /// The session ends.
    pub(crate) fn end_status(&self) {
        let _queued = self.queued();
        self.status.end();
    }

    /// The device has taken a submission.
    fn submitted(&self, number: u64, pending: Option<&F::Fence>) {
        if pending.is_none() && !self.status.is_shared() {
            return self.status.accepted(number);
        }
        let mut queued = self.queued();
        if let Some(fence) = pending {
            queued.record(&self.file, self.clock.now(), number, fence.clone());
        }
        self.status.accepted(number);
        self.status.retire(queued.oldest(), queued.all_reported());
    }

    fn queued(&self) -> MutexGuard<'_, Queued<F>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a device's error is told to a client.
pub(crate) fn refusal_of(error: &DeviceError) -> Refusal {
    match error {
        DeviceError::OutOfMemory => Reason::OutOfMemory.into(),
        DeviceError::OutOfFds => Reason::DaemonFds.into(),
        DeviceError::NotAFence => wrong_fd("a fence of this daemon"),
        DeviceError::NotABuffer => wrong_fd("a buffer of this daemon"),
        DeviceError::NotASyncobj => wrong_fd("a syncobj of this daemon"),
        DeviceError::NoFence => Reason::SyncobjEmpty.into(),
        DeviceError::Lost => Reason::DeviceGone.into(),
        DeviceError::PagesGone => Reason::UserptrInvalidated.into(),
        // Of a context, it is said of that: see `submit`.
        DeviceError::Banned => Reason::SessionBanned.into(),
        DeviceError::ManyUsers => Reason::BufferFenceLimit.into(),
        DeviceError::InFlight => {
            Refusal::new(Reason::InFlightLimit).with_detail("too many objects in flight")
        }
        DeviceError::Os { errno, doing } => {
            Refusal::new(Reason::DeviceError).with_errno(*errno).with_detail(*doing)
        }
    }
}

fn wrong_fd(wanted: &'static str) -> Refusal {
    Refusal::new(Reason::WrongFdKind).with_detail(wanted)
}

/// How the rules hear of an end.
pub(crate) fn outcome_of(hangs: &dyn HangSink, now: Time, outcome: device::Outcome) -> Outcome {
    match outcome {
        device::Outcome::Completed => Outcome::Completed,
        device::Outcome::Cancelled => Outcome::Cancelled,
        device::Outcome::Guilty(report) => {
            hangs.hung(now, report);
            Outcome::Guilty
        }
    }
}

fn engine(id: EngineId) -> device::EngineId {
    device::EngineId { class: id.class, instance: id.instance }
}

fn slot(slot: &Slot) -> device::EngineSlot {
    let all = |engines: &[EngineId]| engines.iter().copied().map(engine).collect();
    match slot {
        Slot::Gap => device::EngineSlot::Gap,
        Slot::Physical(id) => device::EngineSlot::Physical(engine(*id)),
        Slot::Balanced(engines) => device::EngineSlot::Balanced(all(engines)),
        Slot::Parallel { width, engines } => {
            device::EngineSlot::Parallel { width: *width, engines: all(engines) }
        }
    }
}

fn update(update: Update) -> device::ContextUpdate {
    match update {
        Update::Priority(value) => device::ContextUpdate::Priority(value),
        Update::Recoverable(value) => device::ContextUpdate::Recoverable(value),
        Update::Bannable(value) => device::ContextUpdate::Bannable(value),
        Update::Persistent(value) => device::ContextUpdate::Persistent(value),
        Update::ErrorCapture(value) => device::ContextUpdate::ErrorCapture(value),
        Update::Sseu(config) => device::ContextUpdate::Sseu(sseu(&config)),
    }
}

fn sseu(config: &SlotSseu) -> device::SlotSseu {
    let &SlotSseu { slot, slice_mask, subslice_mask, min_eus, max_eus } = config;
    device::SlotSseu { slot, slice_mask, subslice_mask, min_eus, max_eus }
}

fn object<'a, B>(object: &Object<'a, B>) -> device::Object<'a, B> {
    device::Object {
        buffer: object.buffer,
        address: object.address,
        size: object.size,
        fresh: object.fresh,
        write: object.write,
        asynchronous: object.asynchronous,
        capture: object.capture,
    }
}

impl<F: DeviceFile> Hands for DeviceHands<F> {
    type Vm = F::Vm;
    type Context = F::Context;
    type Buffer = F::Buffer;
    type Fence = F::Fence;
    type Syncobj = F::Syncobj;
    type UserMemory = F::UserMemory;

    fn create_vm(&self) -> Result<F::Vm, Refusal> {
        self.file.create_vm().map_err(|error| refusal_of(&error))
    }

    fn unbind(&self, vm: &F::Vm, address: u64, size: u64) {
        self.file.unbind(vm, address, size);
    }

    fn create_context(&self, spec: &ContextSpec<'_, F::Vm>) -> Result<F::Context, Refusal> {
        let engines: Option<Vec<_>> = spec.engines.map(|slots| slots.iter().map(slot).collect());
        let sseu: Vec<_> = spec.sseu.iter().map(sseu).collect();
        self.file
            .create_context(device::ContextSpec {
                tag: spec.tag,
                vm: spec.vm,
                engines: engines.as_deref(),
                priority: spec.priority,
                recoverable: spec.recoverable,
                bannable: spec.bannable,
                persistent: spec.persistent,
                error_capture: spec.error_capture,
                single_timeline: spec.single_timeline,
                low_latency: spec.low_latency,
                sseu: &sseu,
            })
            .map_err(|error| refusal_of(&error))
    }

    fn update_context(&self, context: &F::Context, change: Update) -> Result<(), Refusal> {
        self.file.update_context(context, update(change)).map_err(|error| refusal_of(&error))
    }

    fn close_context(&self, context: F::Context, cancel: bool) {
        self.file.close_context(context, cancel);
    }

    fn cancel_context(&self, context: &F::Context) {
        self.file.cancel_context(context);
    }

    fn engine_times(&self) -> ClassTimes {
        ClassTimes(self.file.engine_times().0)
    }

    fn context_times(&self, context: &F::Context) -> Option<ClassTimes> {
        self.file.context_times(context).map(|times| ClassTimes(times.0))
    }

    fn buffer_memory(&self, buffer: &F::Buffer) -> BufferMemory {
        let device::BufferMemory { resident, shared } = self.file.buffer_memory(buffer);
        let busy = self.file.buffer_busy(buffer);
        BufferMemory { resident, shared, active: busy.readers != 0 || busy.writer.is_some() }
    }

    fn create_buffer(&self, size: u64) -> Result<F::Buffer, Refusal> {
        self.file.create_buffer(size).map_err(|error| refusal_of(&error))
    }

    fn set_caching(&self, buffer: &F::Buffer, caching: Caching) -> Result<(), Refusal> {
        let caching = match caching {
            Caching::Uncached => device::Caching::Uncached,
            Caching::Cached => device::Caching::Cached,
            Caching::Display => device::Caching::Display,
        };
        self.file.set_caching(buffer, caching).map_err(|error| refusal_of(&error))
    }

    fn create_userptr(
        &self,
        memory: &F::UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<F::Buffer, Refusal> {
        let made = self.file.create_userptr(memory, offset, size, read_only);
        made.map_err(|error| refusal_of(&error))
    }

    fn pin_userptr(&self, buffer: &F::Buffer) -> Result<(), Refusal> {
        self.file.pin_userptr(buffer).map_err(|error| match &error {
            DeviceError::Os { errno, doing } => {
                Refusal::new(Reason::UserptrPages).with_errno(*errno).with_detail(*doing)
            }
            DeviceError::OutOfMemory
            | DeviceError::OutOfFds
            | DeviceError::NotAFence
            | DeviceError::NotABuffer
            | DeviceError::NotASyncobj
            | DeviceError::NoFence
            | DeviceError::Lost
            | DeviceError::PagesGone
            | DeviceError::Banned
            | DeviceError::InFlight
            | DeviceError::ManyUsers => refusal_of(&error),
        })
    }

    fn is_busy(&self, buffer: &F::Buffer) -> bool {
        let busy = self.file.buffer_busy(buffer);
        busy.writer.is_some() || busy.readers != 0
    }

    fn submit(
        &self,
        context: &F::Context,
        work: &Submission<'_, Self>,
    ) -> Result<Submitted<F::Fence>, Refusal> {
        // Sized so that a driver's usual submission needs no allocation.
        let batches: SmallVec<[device::Batch; 2]> = work
            .batches
            .iter()
            .map(|(address, length)| device::Batch { address: *address, length: *length })
            .collect();
        let objects: SmallVec<[device::Object<'_, F::Buffer>; 16]> =
            work.objects.iter().map(object).collect();
        let mut engines: SmallVec<[device::EngineId; 4]> = SmallVec::new();
        let placement = match work.placement {
            Placement::One(id) => device::Placement::One(engine(id)),
            Placement::AnyOf(ids) => {
                engines.extend(ids.iter().copied().map(engine));
                device::Placement::AnyOf(&engines)
            }
            Placement::Parallel(ids) => {
                engines.extend(ids.iter().copied().map(engine));
                device::Placement::Parallel(&engines)
            }
        };
        let patches: SmallVec<[device::Patch; 8]> = work
            .patches
            .iter()
            .map(|(object, offset, value)| device::Patch {
                object: *object,
                offset: *offset,
                value: *value,
            })
            .collect();
        let number = self.status.begin();
        let submitted = self
            .file
            .submit(
                context,
                device::Submission {
                    slot: work.slot,
                    placement,
                    batches: &batches,
                    objects: &objects,
                    after: work.after,
                    along: work.along,
                    signals: work.signals,
                    patches: &patches,
                    want_fence: true,
                },
            )
            .map_err(|error| {
                self.status.refused();
                // The rules hear of it when the fence of what hung has been looked at.
                let banned = error == DeviceError::Banned;
                if banned { Reason::ContextBanned.into() } else { refusal_of(&error) }
            })?;
        let done = submitted.done.map(|done| outcome_of(&*self.hangs, self.clock.now(), done));
        if done == Some(Outcome::Guilty) {
            // Before it counts as over. Who asks now is answered after this submission.
            self.resets_changed();
        }
        let mut fence = submitted.fence;
        self.submitted(number, fence.as_ref().filter(|_| done.is_none()));
        Ok(Submitted { fence: fence.take_if(|_| work.want_fence), done })
    }

    fn is_pending(&self, fence: &F::Fence) -> bool {
        self.file.fence_state(fence) == device::FenceState::Pending
    }

    fn same_buffer(&self, first: &F::Buffer, second: &F::Buffer) -> bool {
        self.file.same_buffer(first, second)
    }

    fn create_syncobj(&self, signalled: bool) -> Result<F::Syncobj, Refusal> {
        self.file.create_syncobj(signalled).map_err(|error| refusal_of(&error))
    }

    fn reset_syncobj(&self, syncobj: &F::Syncobj) {
        self.file.reset_syncobj(syncobj);
    }

    fn signal_syncobj(&self, syncobj: &F::Syncobj, point: u64) -> Result<(), Refusal> {
        self.file.signal_syncobj(syncobj, point).map_err(|error| refusal_of(&error))
    }

    fn put_fence(&self, syncobj: &F::Syncobj, point: u64, fence: &F::Fence) -> Result<(), Refusal> {
        self.file.put_fence(syncobj, point, fence).map_err(|error| refusal_of(&error))
    }

    fn syncobj_fence(&self, syncobj: &F::Syncobj, point: u64) -> Option<F::Fence> {
        self.file.syncobj_fence(syncobj, point)
    }

    fn syncobj_point(&self, syncobj: &F::Syncobj, submitted: bool) -> u64 {
        self.file.syncobj_point(syncobj, submitted)
    }
}
