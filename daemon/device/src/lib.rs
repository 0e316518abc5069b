//! The hands of gpu-broker: what a GPU can be asked to do, and the back ends that do it.
//!
//! [`Device`] is the whole device, [`DeviceFile`] what one session has of it: the counterpart of an
//! open DRM file, never shared between sessions. Objects are released by dropping them; a back end
//! keeps what work in flight still needs.
//!
//! This crate knows GPUs, not clients: it has no ids, no quotas and no policy (those are
//! `gpu-broker-core`'s), and never sees the wire. Addresses are chosen by the caller: every object
//! of a [`Submission`] comes with its GPU address.
//!
//! Start reading at [`DeviceFile::submit`]; `soft/` is the back end that runs everywhere.

mod capture;
pub mod conformance;
mod description;
mod error;
mod event;
pub mod faulty;
pub mod i915;
mod shared_page;
pub mod soft;
mod trace;
mod usage;
mod work;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use self::usage::{BufferMemory, CLASSES, ClassTimes, Share, Weight};
pub use capture::{Capture, Command, Region, RegionKind};

pub use description::{
    Description, EngineDescription, EngineUsage, Health, KernelFacts, MemoryFacts, TopologyFacts,
};
pub use error::DeviceError;
pub use event::{DeviceEvent, EventSink};
pub use shared_page::SharedPage;
pub use trace::{TraceEvent, TraceWhat};
pub use work::{Batch, Object, Patch, Placement, Submission, Submitted};

/// Class and instance of an engine, numbered as in the i915 interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EngineId {
    /// `I915_ENGINE_CLASS_*`: 0 render, 1 copy, 2 video, 3 video enhance, 4 compute.
    pub class: u16,
    /// Counted from 0 within the class.
    pub instance: u16,
}

const NO_BUFFER_FENCES: DeviceError =
    DeviceError::Os { errno: 95, doing: "using a buffer's fences, which its dma-buf has" };

/// A GPU. One per daemon; shared by all sessions.
pub trait Device: Send + Sync + 'static {
    /// Whether calls may wait in the kernel. If so, the daemon makes none on its reactor but those
    /// that look (`description`, `health`, `engine_usage`; `buffer_busy`, `fence_state`,
    /// `timestamp`) and those that begin, end or serve waits (`watch_…`, `unwatch_…`).
    const MAY_BLOCK: bool;

    /// Whether [`TraceWhat::Ran`] is traced. A device whose kernel schedules does not know.
    const TRACES_RUNS: bool;

    /// Whether buffers give and take fences ([`DeviceFile::buffer_fence`]). Those of a kernel are
    /// dma-bufs, which do that themselves.
    const BUFFER_FENCES: bool = false;

    /// What one session has of this device.
    type File: DeviceFile;

    /// What the device is, and whether it is wedged now.
    fn description(&self) -> Description;

    /// How the device was when it was last looked at.
    fn health(&self) -> Health;

    /// Looks at the device: how it is, what its engines have done. Called every second or so.
    fn probe(&self);

    /// Calls [`EventSink::trace`] for submissions made from now on, or for none any more.
    fn set_tracing(&self, on: bool);

    /// Opens the device for one session. `events` is called from any thread, must not block, and is
    /// called until every request of the file has completed, even after the file is dropped.
    /// `share` is what it has of an engine among files with work of equal priority; files that are
    /// opened with the same have it together.
    ///
    /// # Errors
    /// The device is gone, wedged, or out of memory or fds.
    fn open(&self, events: Arc<dyn EventSink>, share: Share) -> Result<Self::File, DeviceError>;

    /// What each engine has done since the device was opened, in the order of
    /// [`Description::engines`].
    fn engine_usage(&self) -> Vec<EngineUsage>;
}

/// What one session has of a device.
pub trait DeviceFile: Send + Sync + 'static {
    /// An address space. Contexts and requests in flight keep it alive.
    type Vm: Send + Sync + 'static;
    /// A context. Dropping it closes it: see [`Self::close_context`] for the other way.
    type Context: Send + Sync + 'static;
    /// Memory. Requests in flight keep it alive.
    type Buffer: Send + Sync + 'static;
    /// Completion of a request.
    type Fence: Clone + Send + Sync + 'static;
    /// A container of a fence or of a timeline of fences. Clones are the same object.
    type Syncobj: Clone + Send + Sync + 'static;
    /// A memfd of a client, mapped here. Clones are the same mapping; buffers over it keep it.
    type UserMemory: Clone + Send + Sync + 'static;

    /// A fence that was exported costs this process something until it signals, beside what its
    /// request costs.
    const EXPORTS_COST: bool;

    /// A request is reported before its fence signals, so that nobody who looks at the fence of one that
    /// hung can know of it before the report. Otherwise [`Self::settle`] is needed.
    const REPORTS_FIRST: bool;

    /// [`Self::prepare_access`] has something to do.
    const PREPARES_ACCESS: bool;

    /// Reports every request of this file that has completed and is not reported yet, before it
    /// returns: what the caller decides next must not overlook a hang that a client knows of.
    fn settle(&self);

    /// Makes an empty address space.
    ///
    /// # Errors
    /// Out of memory.
    fn create_vm(&self) -> Result<Self::Vm, DeviceError>;

    /// Takes the range out of the address space. Requests submitted before still see it.
    fn unbind(&self, vm: &Self::Vm, address: u64, size: u64);

    /// Makes a context with all its parameters, or none.
    ///
    /// # Errors
    /// Out of memory, or the device cannot run with these parameters: ENODEV for SSEU where all slots
    /// have all of the hardware, which is everywhere but on version 11.
    fn create_context(&self, spec: ContextSpec<'_, Self::Vm>)
    -> Result<Self::Context, DeviceError>;

    /// Changes a parameter of a context that exists. Takes effect for work that has not started.
    ///
    /// # Errors
    /// The device refused; SSEU as in [`Self::create_context`].
    fn update_context(
        &self,
        context: &Self::Context,
        update: ContextUpdate,
    ) -> Result<(), DeviceError>;

    /// Closes a context. With `cancel`, what it has queued or running ends with EIO; without, it
    /// runs to completion.
    fn close_context(&self, context: Self::Context, cancel: bool);

    /// Ends what the context has queued or running with EIO (it was banned).
    fn cancel_context(&self, context: &Self::Context);

    /// Engine time of all contexts of the file, those that are closed included. Never falls; may be
    /// some milliseconds behind for what runs now.
    fn engine_times(&self) -> ClassTimes;

    /// Engine time of a context, as [`Self::engine_times`]; `None` where the device does not tell.
    fn context_times(&self, context: &Self::Context) -> Option<ClassTimes>;

    /// Makes a zeroed buffer; `size` is a positive multiple of 4096. Memory may be allocated later.
    ///
    /// # Errors
    /// Out of memory or fds.
    fn create_buffer(&self, size: u64) -> Result<Self::Buffer, DeviceError>;

    /// Has the GPU reach the memory through the CPU's caches or past them. A wish: memory that others
    /// may map or have ([`Self::share_buffer`], [`Self::import_buffer`]) is always cached, because that
    /// is how they map it. May wait for who uses the buffer.
    ///
    /// # Errors
    /// ENODEV if the GPU cannot look into the CPU's caches; out of memory.
    fn set_caching(&self, buffer: &Self::Buffer, caching: Caching) -> Result<(), DeviceError>;

    /// Allocates what memory is missing, and makes it the CPU's: until work uses it again, the CPU
    /// reads what the GPU has written, and with `write`, the GPU will read what the CPU writes.
    /// Whoever must be waited for has been; who came since is waited for here.
    ///
    /// Only called if [`Self::PREPARES_ACCESS`].
    ///
    /// # Errors
    /// Out of memory; EFAULT if pages of a userptr buffer cannot be had.
    fn prepare_access(&self, buffer: &Self::Buffer, write: bool) -> Result<(), DeviceError>;

    /// An fd through which another process can map the buffer, and the offset in it.
    ///
    /// # Errors
    /// Out of memory or fds.
    fn share_buffer(&self, buffer: &Self::Buffer) -> Result<(OwnedFd, u64), DeviceError>;

    /// What became of the buffer's memory.
    fn buffer_memory(&self, buffer: &Self::Buffer) -> BufferMemory;

    /// Engines that use the buffer in requests not completed.
    fn buffer_busy(&self, buffer: &Self::Buffer) -> BufferBusy;

    /// Reports [`DeviceEvent::BufferIdle`] with `token` once every request that uses the buffer now
    /// has completed; answers true, and reports nothing, if the buffer is idle already.
    fn watch_buffer(&self, buffer: &Self::Buffer, token: u64) -> bool;

    /// Queues work and returns without waiting for it. Requests that share a buffer are ordered:
    /// a writer after all users before it, a reader after the last writer, unless the object is
    /// asynchronous. Requests of one slot of a context run in order; slots are independent even if
    /// they name the same engine, unless the context has a single timeline.
    ///
    /// # Errors
    /// Out of memory; the device is wedged; [`DeviceError::PagesGone`] if the pages of a userptr buffer
    /// were lost since [`Self::pin_userptr`]. Nothing is queued then.
    fn submit(
        &self,
        context: &Self::Context,
        submission: Submission<'_, Self>,
    ) -> Result<Submitted<Self::Fence>, DeviceError>;

    /// An fd that becomes readable when the fence signals.
    ///
    /// # Errors
    /// Out of fds.
    fn export_fence(&self, fence: &Self::Fence) -> Result<OwnedFd, DeviceError>;

    /// A place for an fd, for [`Self::export_fence_to`]: work whose fence is wanted is not submitted
    /// when there is none. `None` where that is not worth its price, or not possible.
    ///
    /// # Errors
    /// Out of fds.
    fn reserve_fence(&self) -> Result<Option<OwnedFd>, DeviceError> {
        Ok(None)
    }

    /// As [`Self::export_fence`], in the place if there is one, and then it does not fail.
    ///
    /// # Errors
    /// Out of fds.
    fn export_fence_to(
        &self,
        _place: Option<OwnedFd>,
        fence: &Self::Fence,
    ) -> Result<OwnedFd, DeviceError> {
        self.export_fence(fence)
    }

    /// The fence behind an fd that [`Self::export_fence`] of any file of this device gave.
    ///
    /// # Errors
    /// [`DeviceError::NotAFence`] for any other fd.
    fn import_fence(&self, fd: BorrowedFd<'_>) -> Result<Self::Fence, DeviceError>;

    /// State of a fence.
    fn fence_state(&self, fence: &Self::Fence) -> FenceState;

    /// A fence that signals when both have, with the first error of the two.
    fn merge_fences(&self, first: &Self::Fence, second: &Self::Fence) -> Self::Fence;

    /// The fences that the CPU must wait for before it touches the buffer: the last writer's, or to
    /// write, everybody's. Reports [`DeviceEvent::BufferIdle`] with `token` when they have signalled;
    /// answers true, and reports nothing, if they have already.
    fn watch_buffer_access(&self, buffer: &Self::Buffer, write: bool, token: u64) -> bool;

    /// A fence that signals when the last writer of the buffer, or with `all` everybody who uses it now,
    /// has completed.
    ///
    /// # Errors
    /// EOPNOTSUPP without [`Device::BUFFER_FENCES`].
    fn buffer_fence(&self, _: &Self::Buffer, _all: bool) -> Result<Self::Fence, DeviceError> {
        Err(NO_BUFFER_FENCES)
    }

    /// From now on, what writes the buffer, or with `all` what uses it, waits for a fence, unless the
    /// object is asynchronous.
    ///
    /// # Errors
    /// [`DeviceError::ManyUsers`]; EOPNOTSUPP without [`Device::BUFFER_FENCES`].
    fn add_buffer_fence(
        &self,
        _: &Self::Buffer,
        _all: bool,
        _: &Self::Fence,
    ) -> Result<(), DeviceError> {
        Err(NO_BUFFER_FENCES)
    }

    /// The buffer behind an fd that [`Self::share_buffer`] of any file of this device gave, and its
    /// size in bytes. The buffer is the same object: work of both sessions is ordered on it.
    ///
    /// # Errors
    /// [`DeviceError::NotABuffer`] for any other fd.
    fn import_buffer(&self, fd: BorrowedFd<'_>) -> Result<(Self::Buffer, u64), DeviceError>;

    /// Maps the first `size` bytes of a client's memfd; `size` is a positive multiple of 4096. The
    /// caller has made sure that it is shmem that cannot shrink and has that size, and that the fd
    /// may be mapped: for writing if `writable`. Its pages are not touched: they may be missing, and
    /// the client may take them away and put others in their place at any time. Must not block.
    ///
    /// # Errors
    /// Out of memory, mappings or fds.
    fn map_user_memory(
        &self,
        memfd: OwnedFd,
        size: u64,
        writable: bool,
    ) -> Result<Self::UserMemory, DeviceError>;

    /// Makes a buffer that is `size` bytes of a client's memory, `offset` bytes from its start, both
    /// multiples of 4096 and inside of it (i915 GEM_USERPTR). With `read_only`, a batch that writes it
    /// faults; memory that was not mapped writable has read-only buffers alone. It is never given to
    /// [`Self::share_buffer`].
    ///
    /// # Errors
    /// Out of memory; ENODEV if the device has no read-only pages.
    fn create_userptr(
        &self,
        memory: &Self::UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<Self::Buffer, DeviceError>;

    /// Takes hold of the pages that are behind a userptr buffer now: those are what requests submitted
    /// from now on use (rule table §14, submit_init). Requests in flight keep what they have. Called
    /// before the first submission that uses the buffer and before the first after each invalidation;
    /// its bindings are fresh then. A back end whose kernel does this by itself has nothing to do.
    /// Must not block.
    ///
    /// # Errors
    /// EFAULT or out of memory: the pages cannot be had.
    fn pin_userptr(&self, buffer: &Self::Buffer) -> Result<(), DeviceError>;

    /// As [`Self::watch_buffer`], of several buffers together: one [`DeviceEvent::BuffersIdle`] for all
    /// of them.
    fn watch_buffers(&self, buffers: &[&Self::Buffer], token: u64) -> bool;

    /// Whether two handles are the same memory.
    fn same_buffer(&self, first: &Self::Buffer, second: &Self::Buffer) -> bool;

    /// The render engine's timestamp, in ticks of [`Description::timestamp_hz`].
    fn timestamp(&self) -> u64;

    /// Makes a syncobj, empty or holding a signalled fence.
    ///
    /// # Errors
    /// Out of memory.
    fn create_syncobj(&self, signalled: bool) -> Result<Self::Syncobj, DeviceError>;

    /// Takes the fences out. Work that waits for them goes on waiting for them.
    fn reset_syncobj(&self, syncobj: &Self::Syncobj);

    /// Puts a signalled fence in: in place of what was there for point 0, else as a point of the
    /// timeline.
    ///
    /// # Errors
    /// Too many pending points.
    fn signal_syncobj(&self, syncobj: &Self::Syncobj, point: u64) -> Result<(), DeviceError>;

    /// Puts a fence in, as [`Self::signal_syncobj`] does.
    ///
    /// # Errors
    /// Too many pending points.
    fn put_fence(
        &self,
        syncobj: &Self::Syncobj,
        point: u64,
        fence: &Self::Fence,
    ) -> Result<(), DeviceError>;

    /// The fence in the syncobj, for a point above 0 the one that signals when the point is reached;
    /// `None` if nothing was put in for that yet.
    fn syncobj_fence(&self, syncobj: &Self::Syncobj, point: u64) -> Option<Self::Fence>;

    /// The last point of the timeline that has signalled, or with `submitted` that was put in; 0 for
    /// a binary object.
    fn syncobj_point(&self, syncobj: &Self::Syncobj, submitted: bool) -> u64;

    /// Waits for syncobjs: `Ok(Some(first))` at once if the condition holds, otherwise `Ok(None)`
    /// and [`DeviceEvent::SyncobjsReady`] with `token` when it does. The caller keeps the time.
    ///
    /// # Errors
    /// [`DeviceError::NoFence`] when an object holds no fence and `wait.for_submit` is not set.
    fn watch_syncobjs(
        &self,
        wait: &SyncobjWait<'_, Self::Syncobj>,
        token: u64,
    ) -> Result<Option<u32>, DeviceError>;

    /// Forgets a wait that has not ended; no event follows.
    fn unwatch_syncobjs(&self, token: u64);

    /// An fd that stands for the syncobj, for [`Self::import_syncobj`] of any file of this device.
    ///
    /// # Errors
    /// Out of fds.
    fn export_syncobj(&self, syncobj: &Self::Syncobj) -> Result<OwnedFd, DeviceError>;

    /// The syncobj behind an fd.
    ///
    /// # Errors
    /// [`DeviceError::NotASyncobj`] for any other fd.
    fn import_syncobj(&self, fd: BorrowedFd<'_>) -> Result<Self::Syncobj, DeviceError>;
}

/// What [`DeviceFile::watch_syncobjs`] waits for.
#[derive(Clone, Copy, Debug)]
pub struct SyncobjWait<'a, Syncobj> {
    /// Objects and points; point 0 is whatever fence is in it.
    pub objects: &'a [(Syncobj, u64)],
    /// All of them, not any.
    pub all: bool,
    /// Also for fences that were not put in yet.
    pub for_submit: bool,
    /// For fences to be put in, not for them to signal.
    pub available: bool,
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ran to its end.
    Completed,
    /// It was cancelled before or while it ran (context closed or banned); EIO.
    Cancelled,
    /// It faulted or ran over the time limit: its context is guilty; EIO.
    Guilty(FaultReport),
}

/// Why and where a batch died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultReport {
    /// [`ContextSpec::tag`] of its context.
    pub tag: u64,
    /// The engine it ran on.
    pub engine: EngineId,
    /// What kind of death it was.
    pub kind: FaultKind,
    /// GPU address of the batch, as it was submitted.
    pub batch: u64,
    /// Address of the command; 0 if the device does not tell.
    pub address: u64,
    /// The command's name, `MI_STORE_DATA_IMM`, or what was found instead; empty if the device does
    /// not tell.
    pub command: String,
    /// What was wrong, in words.
    pub what: String,
    /// The state it left, unless its context wants none kept.
    pub capture: Option<Box<Capture>>,
}

/// How a batch came to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// A command could not be executed.
    Fault,
    /// It did not yield the engine when the heartbeat or another batch asked for it.
    Hung,
    /// It ran and waited for too long.
    TimedOut,
    /// The device failed; the batch may be innocent.
    Device,
}

/// A context as it is made on the device.
#[derive(Clone, Debug)]
pub struct ContextSpec<'a, Vm> {
    /// Comes back in events.
    pub tag: u64,
    /// The address space.
    pub vm: &'a Vm,
    /// The engine map; `None` is the legacy map.
    pub engines: Option<&'a [EngineSlot]>,
    /// -1023 to 1023.
    pub priority: i32,
    /// The context may run on after a hang.
    pub recoverable: bool,
    /// Hangs may ban the context.
    pub bannable: bool,
    /// Work goes on after close.
    pub persistent: bool,
    /// A hang is recorded.
    pub error_capture: bool,
    /// All engines share one timeline.
    pub single_timeline: bool,
    /// It asks for high frequencies. Only where the GuC submits.
    pub low_latency: bool,
    /// Slots that do not have all of the hardware.
    pub sseu: &'a [SlotSseu],
}

/// Slices, subslices and execution units that a slot of the engine map has (rule table §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSseu {
    /// Slot of the engine map, or position in the legacy map.
    pub slot: u16,
    /// A bit for each slice.
    pub slice_mask: u8,
    /// A bit for each subslice of a slice.
    pub subslice_mask: u8,
    /// Least execution units of a subslice.
    pub min_eus: u8,
    /// Most execution units of a subslice.
    pub max_eus: u8,
}

/// One slot of an engine map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineSlot {
    /// Nothing.
    Gap,
    /// One engine.
    Physical(EngineId),
    /// Any of these.
    Balanced(Vec<EngineId>),
    /// `width` batches at once, each on any of its siblings.
    Parallel {
        /// Batches.
        width: u16,
        /// `width` groups of siblings, together.
        engines: Vec<EngineId>,
    },
}

/// A parameter of a live context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextUpdate {
    /// -1023 to 1023.
    Priority(i32),
    /// The context may run on after a hang.
    Recoverable(bool),
    /// Hangs may ban the context.
    Bannable(bool),
    /// Work goes on after close.
    Persistent(bool),
    /// A hang is recorded.
    ErrorCapture(bool),
    /// What a slot has of the hardware.
    Sseu(SlotSseu),
}

/// How the GPU reaches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Past the CPU's caches.
    Uncached,
    /// Through them.
    Cached,
    /// As a display may show it.
    Display,
}

/// State of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceState {
    /// Not signalled.
    Pending,
    /// The work completed.
    Signalled,
    /// The work was lost; a positive errno.
    Failed(i32),
}

/// Who uses a buffer: engine classes as bits `1 << class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BufferBusy {
    /// Classes that read or write.
    pub readers: u16,
    /// The class that writes last.
    pub writer: Option<u16>,
}
