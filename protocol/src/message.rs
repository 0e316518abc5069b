//! Requests and replies.
//!
//! A request's opcode is in the header, so a body is encoded as its structure alone. An fd is the
//! type parameter: [`FdSlot`] on the wire (zero bytes; the fd itself travels beside the body, in
//! the order of the fields), an owned fd once received, a plain number in model tests.

use serde::{Deserialize, Serialize};

use crate::admin::*;
pub use crate::fence::{Fence, FenceMerge, FenceState, FenceStatusQuery};
use crate::hang::{HangBytes, HangDump, HangEvent, HangOf, HangPage, HangQuery, HangRead};
use crate::identity::{IdentityQuery, SessionIdentity};
use crate::ids::{BufferId, ContextId, SessionId, VmId};
use crate::object::*;
use crate::param::{ContextParam, CreateExtension, EngineId, Extension};
use crate::status::{Confinement, StatusPage, StatusQuery};
use crate::syncobj::*;
use crate::usage::{SessionUsage, UsageQuery};
use crate::userptr::{UserptrCreate, UserptrInvalidate};
use crate::violation::Epitaph;

/// Stands for an fd in an encoded body. Takes no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdSlot;

/// A request other than EXECBUF, which has a fixed layout ([`crate::execbuf`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<Fd> {
    /// [`Hello`]
    Hello(Hello),
    /// [`Ping`]
    Ping(Ping<Fd>),
    /// The device description, as it is now.
    DeviceQuery,
    /// [`StatusQuery`]
    Status(StatusQuery),
    /// What the daemon has given up.
    Confinement,
    /// [`UsageQuery`]
    Usage(UsageQuery),
    /// [`IdentityQuery`]
    Identity(IdentityQuery),
    /// [`AdminDrain`]
    AdminDrain(AdminDrain),
    /// [`AdminRevoke`]
    AdminRevoke(AdminRevoke),
    /// [`AdminLimit`]
    AdminLimit(AdminLimit),
    /// Every class.
    AdminClasses,
    /// [`AdminListQuery`]
    AdminList(AdminListQuery),
    /// [`AdminInspect`]
    AdminInspect(AdminInspect),
    /// [`AdminEvents`]
    AdminEvents(AdminEvents),
    /// [`AdminListen`]
    AdminListen(AdminListen<Fd>),
    /// Every listener.
    AdminListeners,
    /// [`AdminTrace`]
    AdminTrace(AdminTrace),
    /// [`AdminTraceRead`]
    AdminTraceRead(AdminTraceRead),
    /// [`ContextCreate`]
    ContextCreate(ContextCreate),
    /// [`ContextDestroy`]
    ContextDestroy(ContextDestroy),
    /// [`ContextParamRequest`]
    ContextSetParam(ContextParamRequest),
    /// [`ContextParamRequest`]
    ContextGetParam(ContextParamRequest),
    /// [`ContextResetStats`]
    ContextResetStats(ContextResetStats),
    /// [`VmCreate`]
    VmCreate(VmCreate),
    /// [`VmDestroy`]
    VmDestroy(VmDestroy),
    /// [`BufferCreate`]
    BufferCreate(BufferCreate),
    /// An fd to map the buffer with.
    BufferMap(BufferOf),
    /// Gives the handle up.
    BufferClose(BufferOf),
    /// Which engines use the buffer.
    BufferBusy(BufferOf),
    /// [`BufferWait`]
    BufferWait(BufferWait),
    /// The page of [`crate::shared_status`].
    SharedStatus,
    /// [`FenceStatusQuery`]
    FenceStatus(FenceStatusQuery<Fd>),
    /// [`FenceMerge`]
    FenceMerge(FenceMerge<Fd>),
    /// [`BufferFenceExport`]
    BufferFenceExport(BufferFenceExport),
    /// [`BufferFenceImport`]
    BufferFenceImport(BufferFenceImport<Fd>),
    /// [`GetParam`]
    GetParam(GetParam),
    /// [`Query`]
    Query(Query),
    /// Bytes of the mappable aperture.
    GetAperture,
    /// Waits for the session's requests older than 20 ms; the reply comes then.
    Throttle,
    /// [`RegRead`]
    RegRead(RegRead),
    /// [`BufferSetDomain`]
    BufferSetDomain(BufferSetDomain),
    /// [`BufferAccess`]
    BufferAccess(BufferAccess),
    /// [`BufferCaching`]
    BufferSetCaching(BufferCaching),
    /// The caching mode.
    BufferGetCaching(BufferOf),
    /// [`BufferSetTiling`]
    BufferSetTiling(BufferSetTiling),
    /// The tiling mode.
    BufferGetTiling(BufferOf),
    /// [`BufferMadvise`]
    BufferMadvise(BufferMadvise),
    /// [`BufferExport`]
    BufferExport(BufferExport),
    /// [`BufferImport`]
    BufferImport(BufferImport<Fd>),
    /// [`UserptrCreate`]
    UserptrCreate(UserptrCreate<Fd>),
    /// [`UserptrInvalidate`]
    UserptrInvalidate(UserptrInvalidate),
    /// [`SyncobjCreate`]
    SyncobjCreate(SyncobjCreate),
    /// [`SyncobjDestroy`]
    SyncobjDestroy(SyncobjDestroy),
    /// [`SyncobjArray`]: takes the fences out.
    SyncobjReset(SyncobjArray),
    /// [`SyncobjArray`]: puts a signalled fence in.
    SyncobjSignal(SyncobjArray),
    /// [`SyncobjWait`]
    SyncobjWait(SyncobjWait),
    /// [`SyncobjTimelineSignal`]
    SyncobjTimelineSignal(SyncobjTimelineSignal),
    /// [`SyncobjQuery`]
    SyncobjQuery(SyncobjQuery),
    /// [`SyncobjTransfer`]
    SyncobjTransfer(SyncobjTransfer),
    /// [`SyncobjExport`]
    SyncobjExport(SyncobjExport),
    /// [`SyncobjImport`]
    SyncobjImport(SyncobjImport<Fd>),
    /// [`HangQuery`]
    HangList(HangQuery),
    /// [`HangOf`]
    HangShow(HangOf),
    /// [`HangRead`]
    HangRead(HangRead),
}

/// The answer to a request that was not refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply<Fd> {
    /// To HELLO.
    Hello(HelloReply),
    /// To PING: the payload and the fd that came.
    Ping(Ping<Fd>),
    /// To DEVICE_QUERY.
    DeviceQuery(DeviceInfo),
    /// To STATUS.
    Status(StatusPage),
    /// To CONFINEMENT.
    Confinement(Confinement),
    /// To USAGE.
    Usage(SessionUsage),
    /// To IDENTITY.
    Identity(SessionIdentity),
    /// To ADMIN_DRAIN.
    AdminDrain(AdminDrained),
    /// To ADMIN_REVOKE.
    AdminRevoke,
    /// To ADMIN_LIMIT.
    AdminLimit(AdminLimited),
    /// To ADMIN_CLASSES.
    AdminClasses(AdminClassList),
    /// To ADMIN_LIST.
    AdminList(AdminList),
    /// To ADMIN_INSPECT.
    AdminInspect(Box<AdminInspection>),
    /// To ADMIN_EVENTS.
    AdminEvents,
    /// To ADMIN_LISTEN.
    AdminListen,
    /// To ADMIN_LISTENERS.
    AdminListeners(AdminListenerList),
    /// To ADMIN_TRACE.
    AdminTrace(AdminTracing),
    /// To ADMIN_TRACE_READ.
    AdminTraceRead(AdminTracePage),
    /// To CONTEXT_CREATE.
    ContextCreate(ContextCreated),
    /// To CONTEXT_DESTROY.
    ContextDestroy,
    /// To CONTEXT_SETPARAM: the size field as the kernel writes it back.
    ContextSetParam(ParamSet),
    /// To CONTEXT_GETPARAM.
    ContextGetParam(ContextParam),
    /// To GET_RESET_STATS.
    ContextResetStats(ResetStats),
    /// To VM_CREATE.
    VmCreate(VmCreated),
    /// To VM_DESTROY.
    VmDestroy,
    /// To BUFFER_CREATE.
    BufferCreate(BufferCreated),
    /// To BUFFER_MAP.
    BufferMap(BufferMapped<Fd>),
    /// To BUFFER_CLOSE.
    BufferClose,
    /// To BUFFER_BUSY.
    BufferBusy(Busy),
    /// To BUFFER_WAIT.
    BufferWait(Waited),
    /// To EXECBUF.
    Execbuf(ExecbufReply<Fd>),
    /// To EXECBUF_LIST.
    ExecbufList(ExecbufReply<Fd>),
    /// To SHARED_STATUS.
    SharedStatus(crate::shared_status::SharedStatus<Fd>),
    /// To FENCE_STATUS.
    FenceStatus(FenceState),
    /// To FENCE_MERGE.
    FenceMerge(Fence<Fd>),
    /// To BUFFER_FENCE_EXPORT.
    BufferFenceExport(Fence<Fd>),
    /// To BUFFER_FENCE_IMPORT.
    BufferFenceImport,
    /// To GETPARAM.
    GetParam(ParamAnswer),
    /// To QUERY.
    Query(QueryReply),
    /// To GET_APERTURE.
    GetAperture(Aperture),
    /// To THROTTLE.
    Throttle,
    /// To REG_READ.
    RegRead(RegValue),
    /// To SET_DOMAIN.
    BufferSetDomain,
    /// To BUFFER_ACCESS.
    BufferAccess,
    /// To SET_CACHING.
    BufferSetCaching,
    /// To GET_CACHING.
    BufferGetCaching(Caching),
    /// To SET_TILING.
    BufferSetTiling(Tiling),
    /// To GET_TILING.
    BufferGetTiling(Tiling),
    /// To MADVISE.
    BufferMadvise(Retained),
    /// To BUFFER_EXPORT.
    BufferExport(BufferExported<Fd>),
    /// To BUFFER_IMPORT.
    BufferImport(BufferCreated),
    /// To USERPTR_CREATE.
    UserptrCreate(BufferCreated),
    /// To USERPTR_INVALIDATE.
    UserptrInvalidate,
    /// To SYNCOBJ_CREATE.
    SyncobjCreate(SyncobjOf),
    /// To SYNCOBJ_DESTROY.
    SyncobjDestroy,
    /// To SYNCOBJ_RESET.
    SyncobjReset,
    /// To SYNCOBJ_SIGNAL.
    SyncobjSignal,
    /// To SYNCOBJ_WAIT.
    SyncobjWait(SyncobjWaited),
    /// To SYNCOBJ_TIMELINE_SIGNAL.
    SyncobjTimelineSignal,
    /// To SYNCOBJ_QUERY.
    SyncobjQuery(SyncobjPoints),
    /// To SYNCOBJ_TRANSFER.
    SyncobjTransfer,
    /// To SYNCOBJ_EXPORT.
    SyncobjExport(SyncobjExported<Fd>),
    /// To SYNCOBJ_IMPORT.
    SyncobjImport(SyncobjOf),
    /// To HANG_LIST.
    HangList(HangPage),
    /// To HANG_SHOW.
    HangShow(Box<HangDump>),
    /// To HANG_READ.
    HangRead(HangBytes),
}

/// What the daemon says unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The last message of a connection.
    Epitaph(Epitaph),
    /// A batch of the session died.
    Hang(HangEvent),
    /// Something happened that an administrator asked to be told of.
    Admin(AdminEvent),
}

/// First message of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::version::MAJOR`].
    pub major: u16,
    /// Oldest minor the client can speak.
    pub minor_min: u16,
    /// Newest minor the client can speak.
    pub minor_max: u16,
    /// Bits of [`crate::version::feature`] the client would like.
    pub features: u64,
    /// A name for logs and status; at most [`crate::limits::CLIENT_NAME_BYTES_MAX`] bytes.
    pub client_name: String,
}

/// What was settled, and what the session has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HelloReply {
    /// [`crate::version::MAJOR`].
    pub major: u16,
    /// The minor both speak.
    pub minor: u16,
    /// Bits both have.
    pub features: u64,
    /// The session's number in status output and logs.
    pub session: SessionId,
    /// Limits in force for this session.
    pub limits: Limits,
    /// The device behind the daemon.
    pub device: DeviceInfo,
}

/// Limits in force for a session (see [`crate::limits`] for what each means).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of one message.
    pub message_bytes: u32,
    /// Fds of one message.
    pub fds_per_message: u32,
    /// Contexts, the default one not counted.
    pub contexts: u32,
    /// VM handles.
    pub vms: u32,
    /// Buffers.
    pub buffers: u32,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Bytes of all buffers together.
    pub buffer_memory_bytes: u64,
    /// Objects of one EXECBUF.
    pub objects_per_execbuf: u32,
    /// Submissions not completed.
    pub submissions_in_flight: u32,
    /// Waits not ended.
    pub pending_waits: u32,
    /// Out-fences not signalled.
    pub fences: u32,
}

/// The device behind the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Back end: `soft` or `i915`.
    pub driver: String,
    /// Marketing or model name.
    pub name: String,
    /// PCI vendor id.
    pub vendor_id: u16,
    /// PCI device id (i915 CHIPSET_ID).
    pub device_id: u16,
    /// PCI revision.
    pub revision: u16,
    /// Major graphics version, 9 for Gen9.
    pub graphics_version: u16,
    /// Bytes of a context's address space.
    pub gtt_bytes: u64,
    /// Ticks per second of the command streamers' timestamp.
    pub timestamp_hz: u64,
    /// Whether the device is terminally wedged.
    pub wedged: bool,
    /// The engines, by class then instance.
    pub engines: Vec<EngineInfo>,
}

/// One engine of the device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Class and instance.
    pub engine: EngineId,
    /// Name as in i915's sysfs, `rcs0`.
    pub name: String,
    /// Instance within the class as the hardware numbers it.
    pub logical_instance: u16,
    /// Capability bits of `struct drm_i915_engine_info`.
    pub capabilities: u64,
}

/// Round trip for measuring and for keeping alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ping<Fd> {
    /// Comes back as it was.
    pub payload: u64,
    /// Comes back as it was.
    pub fd: Option<Fd>,
}

/// i915 CONTEXT_CREATE_EXT.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ContextCreate {
    /// Bits of [`crate::param::create_flag`].
    pub flags: u32,
    /// Ignored unless USE_EXTENSIONS is set; applied in order, all or nothing.
    pub extensions: Vec<Extension<CreateExtension>>,
}

/// The new context.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextCreated {
    /// Its id.
    pub context: ContextId,
}

/// i915 CONTEXT_DESTROY.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextDestroy {
    /// Which.
    pub context: ContextId,
    /// Must be 0.
    pub pad: u32,
}

/// i915 CONTEXT_SETPARAM and CONTEXT_GETPARAM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextParamRequest {
    /// Which context.
    pub context: ContextId,
    /// Which parameter, and for SETPARAM its value.
    pub param: ContextParam,
}

/// What SETPARAM writes back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParamSet {
    /// The size field after the call.
    pub size: u32,
}

/// i915 GET_RESET_STATS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextResetStats {
    /// Which context.
    pub context: ContextId,
    /// Must be 0.
    pub flags: u32,
    /// Must be 0.
    pub pad: u32,
}

/// Rule table §11.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResetStats {
    /// Resets of the device; 0 for clients without the privilege.
    pub reset_count: u32,
    /// Times a batch of this context was found guilty.
    pub batch_active: u32,
    /// Times a batch of this context was running, innocently, at a reset.
    pub batch_pending: u32,
}

/// i915 VM_CREATE.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VmCreate {
    /// Must be 0.
    pub flags: u32,
    /// No names are defined: any node is refused.
    pub extensions: Vec<Extension<()>>,
}

/// The new VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmCreated {
    /// Its id.
    pub vm: VmId,
}

/// i915 VM_DESTROY.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmDestroy {
    /// Which.
    pub vm: VmId,
    /// Must be 0.
    pub flags: u32,
    /// Must be empty.
    pub extensions: Vec<Extension<()>>,
}

/// i915 GEM_CREATE. The memory is zero and is allocated when it is first needed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferCreate {
    /// Bytes; rounded up to pages. 0 is EINVAL.
    pub size: u64,
    /// Must be 0.
    pub flags: u32,
    /// GEM_CREATE_EXT's placement list; `None` is plain GEM_CREATE. The one region is system
    /// memory, class 0 instance 0; anything else, or an empty list, is EINVAL.
    pub regions: Option<Vec<EngineId>>,
}

/// The new buffer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferCreated {
    /// Its handle.
    pub buffer: BufferId,
    /// Bytes, after rounding.
    pub size: u64,
}

/// Names one buffer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferOf {
    /// Which.
    pub buffer: BufferId,
}

/// Memory to map, `MAP_SHARED`, readable and writable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferMapped<Fd> {
    /// Where in the fd the buffer begins, in bytes.
    pub offset: u64,
    /// Bytes of the buffer.
    pub size: u64,
    /// A memfd sealed against shrinking and growing, or a dma-buf.
    pub fd: Fd,
}

/// i915 GEM_BUSY's word: bit `16 + class` for engines that read, and the writing engine's
/// `class + 1` in the low half; 0 when idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Busy {
    /// The word.
    pub busy: u32,
}

/// i915 GEM_WAIT.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferWait {
    /// Which buffer must become idle.
    pub buffer: BufferId,
    /// Must be 0.
    pub flags: u32,
    /// Nanoseconds to wait; negative waits for ever.
    pub timeout_ns: i64,
}

/// The wait ended in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waited {
    /// Nanoseconds that were left; what came in, when it was negative.
    pub remaining_ns: i64,
}

/// What EXECBUF gives back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecbufReply<Fd> {
    /// GPU address of each object, in the order of the request; empty if none moved.
    pub offsets: Vec<u64>,
    /// With FENCE_OUT.
    pub fence: Option<Fd>,
}

/// A refusal on the wire. Name and sentence are sent as text, so that a client knows what a newer
/// daemon means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusalBody {
    /// Positive errno.
    pub errno: i32,
    /// Code of the [`crate::Reason`]; a client may not know it.
    pub code: u16,
    /// Name of the reason.
    pub name: String,
    /// What to do about it.
    pub sentence: String,
}
