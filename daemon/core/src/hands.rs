//! What the rules ask of a device.

use gpu_broker_protocol::Refusal;
use gpu_broker_protocol::param::EngineId;

/// A device as the rules see it: everything one session has of it. Objects are released by
/// dropping them; the device keeps what work in flight still needs.
///
/// Implemented by the daemon over a device back end and by tests over a fake. None of the methods
/// blocks.
pub trait Hands: Send + Sync + 'static {
    /// An address space.
    type Vm: Send + Sync + 'static;
    /// A context that exists on the device.
    type Context: Send + Sync + 'static;
    /// Memory.
    type Buffer: Send + Sync + 'static;
    /// Completion of a submission.
    type Fence: Clone + Send + Sync + 'static;
    /// A container of a fence or of a timeline of fences. Clones are the same object.
    type Syncobj: Clone + Send + Sync + 'static;
    /// A memfd of the client, mapped. Clones are the same mapping; buffers over it keep it.
    type UserMemory: Clone + Send + Sync + 'static;

    /// Makes an empty address space.
    ///
    /// # Errors
    /// The device's refusal, ENOMEM as a rule.
    fn create_vm(&self) -> Result<Self::Vm, Refusal>;

    /// Takes a range out of the address space for submissions to come.
    fn unbind(&self, vm: &Self::Vm, address: u64, size: u64);

    /// Makes a context in one step, with all its parameters.
    ///
    /// # Errors
    /// The device's refusal; the proto-context stays then.
    fn create_context(&self, spec: &ContextSpec<'_, Self::Vm>) -> Result<Self::Context, Refusal>;

    /// Changes a parameter of a live context.
    ///
    /// # Errors
    /// The device's refusal.
    fn update_context(&self, context: &Self::Context, update: Update) -> Result<(), Refusal>;

    /// Closes a context; `cancel` ends its work with EIO, otherwise it runs to completion.
    fn close_context(&self, context: Self::Context, cancel: bool);

    /// Ends the work of a context that was banned.
    fn cancel_context(&self, context: &Self::Context);

    /// Engine time of the session, contexts that are gone included.
    fn engine_times(&self) -> ClassTimes;

    /// Engine time of a context; `None` where the device does not tell.
    fn context_times(&self, context: &Self::Context) -> Option<ClassTimes>;

    /// What became of a buffer's memory.
    fn buffer_memory(&self, buffer: &Self::Buffer) -> BufferMemory;

    /// Makes a zeroed buffer of a positive multiple of 4096 bytes.
    ///
    /// # Errors
    /// The device's refusal.
    fn create_buffer(&self, size: u64) -> Result<Self::Buffer, Refusal>;

    /// Has the GPU reach the memory through the CPU's caches, or past them, as far as nobody's mapping
    /// of it would be wrong then.
    ///
    /// # Errors
    /// The device's refusal.
    fn set_caching(&self, buffer: &Self::Buffer, caching: Caching) -> Result<(), Refusal>;

    /// Makes a buffer of a range of the client's memory (GEM_USERPTR). With `read_only` the GPU faults
    /// when it writes.
    ///
    /// # Errors
    /// The device's refusal.
    fn create_userptr(
        &self,
        memory: &Self::UserMemory,
        offset: u64,
        size: u64,
        read_only: bool,
    ) -> Result<Self::Buffer, Refusal>;

    /// Takes hold of the pages that are behind a userptr buffer now, for submissions to come.
    ///
    /// # Errors
    /// EFAULT or ENOMEM: they cannot be had.
    fn pin_userptr(&self, buffer: &Self::Buffer) -> Result<(), Refusal>;

    /// Whether work in flight uses the buffer.
    fn is_busy(&self, buffer: &Self::Buffer) -> bool;

    /// Queues work and returns without waiting for it.
    ///
    /// # Errors
    /// The device's refusal; nothing is queued then. [`Reason::UserptrInvalidated`] says that pages of
    /// a userptr buffer were lost and must be pinned again.
    ///
    /// [`Reason::UserptrInvalidated`]: gpu_broker_protocol::Reason::UserptrInvalidated
    fn submit(
        &self,
        context: &Self::Context,
        submission: &Submission<'_, Self>,
    ) -> Result<Submitted<Self::Fence>, Refusal>;

    /// Whether two buffers are the same memory (one of them was imported).
    fn same_buffer(&self, first: &Self::Buffer, second: &Self::Buffer) -> bool;

    /// Whether the work has not ended yet. Does not block, and may be asked while a completion is reported.
    fn is_pending(&self, fence: &Self::Fence) -> bool;

    /// Makes a syncobj, empty or holding a signalled fence.
    ///
    /// # Errors
    /// The device's refusal.
    fn create_syncobj(&self, signalled: bool) -> Result<Self::Syncobj, Refusal>;

    /// Takes the fences out.
    fn reset_syncobj(&self, syncobj: &Self::Syncobj);

    /// Puts a signalled fence in, for point 0 in place of what was there.
    ///
    /// # Errors
    /// The device's refusal.
    fn signal_syncobj(&self, syncobj: &Self::Syncobj, point: u64) -> Result<(), Refusal>;

    /// Puts a fence in, for point 0 in place of what was there.
    ///
    /// # Errors
    /// The device's refusal.
    fn put_fence(
        &self,
        syncobj: &Self::Syncobj,
        point: u64,
        fence: &Self::Fence,
    ) -> Result<(), Refusal>;

    /// The fence of a point; `None` if nothing was put in for it yet.
    fn syncobj_fence(&self, syncobj: &Self::Syncobj, point: u64) -> Option<Self::Fence>;

    /// The last point that has signalled, or with `submitted` that was put in.
    fn syncobj_point(&self, syncobj: &Self::Syncobj, submitted: bool) -> u64;
}

/// Nanoseconds on engines, by class; work on several engines at once counts on each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassTimes(pub [u64; 5]);

impl ClassTimes {
    /// Of a class, 0 for one there is not.
    #[must_use]
    pub fn of(&self, class: u16) -> u64 {
        self.0.get(usize::from(class)).copied().unwrap_or(0)
    }
}

/// How the GPU reaches memory (GEM_SET_CACHING).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Past the CPU's caches.
    Uncached,
    /// Through them.
    Cached,
    /// As a display may show it.
    Display,
}

/// What became of a buffer's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BufferMemory {
    /// It is allocated.
    pub resident: bool,
    /// Another session has the buffer too.
    pub shared: bool,
    /// Work that is not done uses it.
    pub active: bool,
}

/// A context as it is made on the device: recorded parameters, immutable from then on except for
/// what [`Update`] names.
#[derive(Clone, Debug)]
pub struct ContextSpec<'a, Vm> {
    /// Comes back when work completes; unique in the session for as long as it lives, also when
    /// the context's id is used again.
    pub tag: u64,
    /// Its address space.
    pub vm: &'a Vm,
    /// Engine map; `None` is the legacy map.
    pub engines: Option<&'a [Slot]>,
    /// -1023 to 1023.
    pub priority: i32,
    /// See the rule table §12.
    pub recoverable: bool,
    /// See the rule table §12.
    pub bannable: bool,
    /// See the rule table §9.
    pub persistent: bool,
    /// A hang is recorded.
    pub error_capture: bool,
    /// All engines share one timeline.
    pub single_timeline: bool,
    /// It asks for high frequencies. Only where the GuC submits.
    pub low_latency: bool,
    /// What was set with SSEU; slots that are not here have all of the hardware.
    pub sseu: &'a [SlotSseu],
}

/// Slices, subslices and execution units of one slot, checked (rule table §5).
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

/// One slot of an engine map, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing: EXECBUF answers EINVAL.
    Gap,
    /// One engine.
    Physical(EngineId),
    /// A virtual engine.
    Balanced(Vec<EngineId>),
    /// `width` batches at once.
    Parallel {
        /// Batches.
        width: u16,
        /// `width` groups of siblings, together.
        engines: Vec<EngineId>,
    },
}

/// What may change on a live context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    /// -1023 to 1023.
    Priority(i32),
    /// See the rule table §12.
    Recoverable(bool),
    /// See the rule table §12.
    Bannable(bool),
    /// See the rule table §9.
    Persistent(bool),
    /// A hang is recorded.
    ErrorCapture(bool),
    /// One slot's slices, subslices and execution units.
    Sseu(SlotSseu),
}

/// Checked work for a context.
#[derive(Debug)]
pub struct Submission<'a, H: Hands + ?Sized> {
    /// Slot of the engine map, or position in the legacy map.
    pub slot: u32,
    /// Engines it may run on.
    pub placement: Placement<'a>,
    /// GPU address and bytes of each batch.
    pub batches: &'a [(u64, u64)],
    /// Everything the batches use.
    pub objects: &'a [Object<'a, H::Buffer>],
    /// Start after these.
    pub after: &'a [H::Fence],
    /// Start together with these (FENCE_SUBMIT).
    pub along: &'a [H::Fence],
    /// Put the submission's fence into these, at these points, also when it is lost.
    pub signals: &'a [(H::Syncobj, u64)],
    /// Relocations: object, offset in it, canonical address to write there before the batch starts.
    pub patches: &'a [(usize, u64, u64)],
    /// FENCE_OUT.
    pub want_fence: bool,
}

/// Where a submission may run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement<'a> {
    /// One engine.
    One(EngineId),
    /// Any of these.
    AnyOf(&'a [EngineId]),
    /// Batch i on engine i, started together.
    Parallel(&'a [EngineId]),
}

/// A buffer at a GPU address.
#[derive(Debug)]
pub struct Object<'a, B> {
    /// The memory.
    pub buffer: &'a B,
    /// Page aligned, bits 63:48 clear.
    pub address: u64,
    /// Bytes of the buffer.
    pub size: u64,
    /// New in the address space; replaces whatever it overlaps.
    pub fresh: bool,
    /// The GPU writes it.
    pub write: bool,
    /// No implicit ordering.
    pub asynchronous: bool,
    /// Part of error dumps.
    pub capture: bool,
}

/// What became of a submission.
#[derive(Debug)]
pub struct Submitted<Fence> {
    /// Its completion, if wanted.
    pub fence: Option<Fence>,
    /// `Some` if it completed at once; no completion is reported later then.
    pub done: Option<Outcome>,
}

/// How a submission ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ran to its end.
    Completed,
    /// It was cancelled: its context was closed or banned.
    Cancelled,
    /// It hung or faulted: its context is guilty.
    Guilty,
}
