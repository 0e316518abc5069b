//! A second implementation of the encoding, wincode, agrees with ours byte for byte.
//!
//! The structures are written again below, from WIRE.md's tables, for wincode's derive. That a
//! message decoded by wincode prints the same as ours proves that both see the same fields with
//! the same values; that wincode encodes it to the same bytes proves the rest.

use std::fmt::Debug;

use gpu_broker_protocol::message::ExecbufReply;
use gpu_broker_protocol::refusal::{Reason, Refusal};
use gpu_broker_protocol::{Header, Reply, Request, codec, execbuf};
use proptest::prelude::*;
use wincode::{SchemaRead, SchemaWrite};

use crate::submission::Submission;
use crate::{samples, strategies};

/// Declares structures and enums with what wincode and the comparison need.
macro_rules! mirror {
    ($($item:item)*) => {$(
        #[derive(Debug, SchemaRead, SchemaWrite)]
        $item
    )*};
}

mod administration;
mod hangs;
use administration::*;
use hangs::*;

mirror! {
    struct FdSlot;
    struct SessionId(u64);
    struct ContextId(u32);
    struct VmId(u32);
    struct BufferId(u32);
    struct SyncobjId(u32);
    struct EngineId { class: u16, instance: u16 }
    struct Hello { major: u16, minor_min: u16, minor_max: u16, features: u64, client_name: String }
    struct Ping { payload: u64, fd: Option<FdSlot> }
    struct StatusQuery { after: SessionId }
    struct UsageQuery { session: SessionId }
    struct IdentityQuery { session: SessionId }
    struct ContextCreate { flags: u32, extensions: Vec<create::Extension> }
    enum CreateExtension {
        Unknown,
        SetParam { context: ContextId, param: ContextParam },
        Clone(CloneFrom),
    }
    struct CloneFrom { source: ContextId, flags: u32, rsvd: u64 }
    struct ContextParam { param: u64, size: u32, value: ParamValue }
    enum ParamValue { Scalar(u64), Sseu(Sseu), Engines(EngineMap) }
    struct Sseu {
        engine: EngineId,
        flags: u32,
        slice_mask: u64,
        subslice_mask: u64,
        min_eus_per_subslice: u16,
        max_eus_per_subslice: u16,
        rsvd: u32,
    }
    struct EngineMap { slots: Vec<EngineId>, extensions: Vec<engines::Extension> }
    enum EngineExtension {
        Unknown,
        LoadBalance { engine_index: u16, flags: u32, mbz64: u64, engines: Vec<EngineId> },
        Bond {
            master: EngineId,
            virtual_index: u16,
            flags: u64,
            mbz64: [u64; 4],
            engines: Vec<EngineId>,
        },
        ParallelSubmit {
            engine_index: u16,
            width: u16,
            num_siblings: u16,
            mbz16: u16,
            flags: u64,
            mbz64: [u64; 3],
            engines: Vec<EngineId>,
        },
    }
    struct ContextDestroy { context: ContextId, pad: u32 }
    struct ContextParamRequest { context: ContextId, param: ContextParam }
    struct ContextResetStats { context: ContextId, flags: u32, pad: u32 }
    struct VmCreate { flags: u32, extensions: Vec<empty::Extension> }
    struct VmDestroy { vm: VmId, flags: u32, extensions: Vec<empty::Extension> }
    struct BufferCreate { size: u64, flags: u32, regions: Option<Vec<EngineId>> }
    struct BufferOf { buffer: BufferId }
    struct BufferWait { buffer: BufferId, flags: u32, timeout_ns: i64 }
    struct FenceStatusQuery { fd: FdSlot }
    struct FenceMerge { first: FdSlot, second: FdSlot }
    struct GetParam { param: i32 }
    struct Query { flags: u32, items: Vec<QueryItem> }
    struct QueryItem { id: u64, flags: u32 }
    struct RegRead { offset: u64 }
    struct BufferSetDomain { buffer: BufferId, read_domains: u32, write_domain: u32 }
    struct BufferAccess { buffer: BufferId, offset: u64, size: u64, write: bool }
    struct BufferCaching { buffer: BufferId, caching: u32 }
    struct BufferSetTiling { buffer: BufferId, mode: u32, stride: u32 }
    struct BufferMadvise { buffer: BufferId, advice: u32 }
    struct BufferExport { buffer: BufferId, flags: u32 }
    struct BufferImport { fd: FdSlot }
    struct BufferFenceExport { buffer: BufferId, flags: u32 }
    struct BufferFenceImport { buffer: BufferId, flags: u32, fd: FdSlot }
    struct UserptrCreate { memfd: FdSlot, offset: u64, length: u64, flags: u32 }
    struct UserptrInvalidate { buffer: BufferId, offset: u64, length: u64, timeout_ns: i64 }
    struct SyncobjCreate { flags: u32 }
    struct SyncobjDestroy { syncobj: SyncobjId, pad: u32 }
    struct SyncobjArray { syncobjs: Vec<SyncobjId>, pad: u32 }
    struct SyncobjWait {
        syncobjs: Vec<SyncobjId>,
        points: Option<Vec<u64>>,
        flags: u32,
        deadline_ns: i64,
    }
    struct SyncobjTimelineSignal { syncobjs: Vec<SyncobjId>, points: Vec<u64>, flags: u32 }
    struct SyncobjQuery { syncobjs: Vec<SyncobjId>, flags: u32 }
    struct SyncobjTransfer {
        source: SyncobjId,
        source_point: u64,
        target: SyncobjId,
        target_point: u64,
        flags: u32,
        pad: u32,
    }
    struct SyncobjExport { syncobj: SyncobjId, flags: u32, point: u64 }
    struct SyncobjImport { syncobj: SyncobjId, flags: u32, point: u64, fd: FdSlot }

    struct HelloReply {
        major: u16,
        minor: u16,
        features: u64,
        session: SessionId,
        limits: Limits,
        device: DeviceInfo,
    }
    struct Limits {
        message_bytes: u32,
        fds_per_message: u32,
        contexts: u32,
        vms: u32,
        buffers: u32,
        buffer_bytes: u64,
        buffer_memory_bytes: u64,
        objects_per_execbuf: u32,
        submissions_in_flight: u32,
        pending_waits: u32,
        fences: u32,
    }
    struct DeviceInfo {
        driver: String,
        name: String,
        vendor_id: u16,
        device_id: u16,
        revision: u16,
        graphics_version: u16,
        gtt_bytes: u64,
        timestamp_hz: u64,
        wedged: bool,
        engines: Vec<EngineInfo>,
    }
    struct EngineInfo { engine: EngineId, name: String, logical_instance: u16, capabilities: u64 }
    struct StatusPage {
        daemon: DaemonStatus,
        engines: Vec<EngineStatus>,
        sessions: Vec<SessionStatus>,
        more: bool,
    }
    struct DaemonStatus {
        version: String,
        driver: String,
        pid: u32,
        uptime_ns: u64,
        sessions: u32,
        sessions_total: u64,
        sessions_max: u32,
        refusals: u64,
        violations: u64,
    }
    struct EngineStatus {
        engine: EngineId,
        name: String,
        busy_ns: u64,
        queued: u32,
        completed: u64,
        faults: u64,
    }
    struct SessionStatus {
        session: SessionId,
        client_name: String,
        pid: u32,
        uid: u32,
        gid: u32,
        age_ns: u64,
        vms: u32,
        buffers: u32,
        buffer_bytes: u64,
        in_flight: u32,
        submissions: u64,
        contexts: Vec<ContextStatus>,
        contexts_total: u32,
    }
    struct ContextStatus {
        context: ContextId, state: ContextState, priority: i32, user_engines: bool, banned: bool,
    }
    struct SessionUsage {
        session: SessionId, client_name: String, engines: Vec<ClassUsage>, memory: MemoryUsage,
        contexts: Vec<ContextUsage>,
    }
    struct Confinement { system_calls: Wall, files: Wall }
    struct Wall { holds: bool, why: String }
    struct ClassUsage { class: u16, capacity: u16, busy_ns: u64 }
    struct MemoryUsage { total: u64, shared: u64, resident: u64, active: u64 }
    struct ContextUsage { context: ContextId, busy_ns: Vec<u64> }
    enum ContextState { Proto, Live { by: MaterialisedBy } }
    enum MaterialisedBy { Open, Execbuf, GetParam, ResetStats, Create }
    struct ContextCreated { context: ContextId }
    struct ParamSet { size: u32 }
    struct ResetStats { reset_count: u32, batch_active: u32, batch_pending: u32 }
    struct VmCreated { vm: VmId }
    struct BufferCreated { buffer: BufferId, size: u64 }
    struct BufferMapped { offset: u64, size: u64, fd: FdSlot }
    struct Busy { busy: u32 }
    struct Waited { remaining_ns: i64 }
    enum FenceState { Pending, Signalled, Failed(i32) }
    struct Fence { fd: FdSlot }
    struct ParamAnswer { value: i32 }
    struct QueryReply { answers: Vec<QueryAnswer> }
    enum QueryAnswer {
        Error(i32),
        Topology(Topology),
        Engines(Vec<QueriedEngine>),
        Regions(Vec<MemoryRegion>),
    }
    struct Topology {
        max_slices: u16,
        max_subslices: u16,
        max_eus_per_subslice: u16,
        slice_mask: u64,
        subslice_masks: Vec<u64>,
        eu_masks: Vec<u64>,
    }
    struct QueriedEngine { engine: EngineId, flags: u64, capabilities: u64, logical_instance: u16 }
    struct MemoryRegion { class: u16, instance: u16, probed_bytes: u64, unallocated_bytes: u64 }
    struct Aperture { size: u64, available: u64 }
    struct RegValue { value: u64 }
    struct Caching { caching: u32 }
    struct Tiling { mode: u32, stride: u32, swizzle: u32 }
    struct Retained { retained: u32 }
    struct BufferExported { fd: FdSlot }
    struct SharedStatus { fd: FdSlot }
    struct SyncobjOf { syncobj: SyncobjId }
    struct SyncobjWaited { first_signaled: u32 }
    struct SyncobjPoints { points: Vec<u64> }
    struct SyncobjExported { fd: FdSlot }

    struct RefusalBody { errno: i32, code: u16, name: String, sentence: String }
    struct Epitaph { code: EpitaphCode, text: String }
    enum EpitaphCode {
        Malformed,
        TooLong,
        UnknownOpcode,
        FdCount,
        Hello,
        Full,
        ShuttingDown,
        Revoked,
        DeviceLost,
        Internal,
        Denied,
    }
}

/// An extension chain's node, once for each kind of body.
macro_rules! extension {
    ($module:ident: $body:ty) => {
        mod $module {
            use super::*;
            mirror! {
                pub(super) struct Extension {
                    name: u32,
                    flags: u32,
                    rsvd: [u32; 4],
                    body: $body,
                }
            }
        }
    };
}
extension!(create: CreateExtension);
extension!(engines: EngineExtension);
extension!(empty: ());

/// Through wincode and back: prints as ours and has our bytes.
macro_rules! agree {
    ($mirror:ty, $ours:expr) => {{
        let ours = $ours;
        let bytes = codec::encode_body(ours).expect("it fits");
        let theirs: $mirror = wincode::deserialize(&bytes).expect("wincode reads our bytes");
        assert_eq!(format!("{theirs:?}"), format!("{ours:?}"));
        assert_eq!(wincode::serialize(&theirs).expect("wincode writes"), bytes);
    }};
}

fn agree_on_request(request: &Request<gpu_broker_protocol::FdSlot>) {
    match request {
        Request::Hello(body) => agree!(Hello, body),
        Request::Ping(body) => agree!(Ping, body),
        Request::DeviceQuery | Request::GetAperture | Request::Throttle => {}
        Request::SharedStatus => {}
        Request::Status(body) => agree!(StatusQuery, body),
        Request::Confinement => {}
        Request::Usage(body) => agree!(UsageQuery, body),
        Request::Identity(body) => agree!(IdentityQuery, body),
        Request::AdminDrain(body) => agree!(AdminDrain, body),
        Request::AdminRevoke(body) => agree!(AdminRevoke, body),
        Request::AdminLimit(body) => agree!(AdminLimit, body),
        Request::AdminClasses | Request::AdminListeners => {}
        Request::AdminList(body) => agree!(AdminListQuery, body),
        Request::AdminInspect(body) => agree!(AdminInspect, body),
        Request::AdminEvents(body) => agree!(AdminEvents, body),
        Request::AdminListen(body) => agree!(AdminListen, body),
        Request::AdminTrace(body) => agree!(AdminTrace, body),
        Request::AdminTraceRead(body) => agree!(AdminTraceRead, body),
        Request::ContextCreate(body) => agree!(ContextCreate, body),
        Request::ContextDestroy(body) => agree!(ContextDestroy, body),
        Request::ContextSetParam(body) | Request::ContextGetParam(body) => {
            agree!(ContextParamRequest, body);
        }
        Request::ContextResetStats(body) => agree!(ContextResetStats, body),
        Request::VmCreate(body) => agree!(VmCreate, body),
        Request::VmDestroy(body) => agree!(VmDestroy, body),
        Request::BufferCreate(body) => agree!(BufferCreate, body),
        Request::BufferMap(body)
        | Request::BufferClose(body)
        | Request::BufferBusy(body)
        | Request::BufferGetCaching(body)
        | Request::BufferGetTiling(body) => agree!(BufferOf, body),
        Request::BufferWait(body) => agree!(BufferWait, body),
        Request::FenceStatus(body) => agree!(FenceStatusQuery, body),
        Request::FenceMerge(body) => agree!(FenceMerge, body),
        Request::GetParam(body) => agree!(GetParam, body),
        Request::Query(body) => agree!(Query, body),
        Request::RegRead(body) => agree!(RegRead, body),
        Request::BufferSetDomain(body) => agree!(BufferSetDomain, body),
        Request::BufferAccess(body) => agree!(BufferAccess, body),
        Request::BufferSetCaching(body) => agree!(BufferCaching, body),
        Request::BufferSetTiling(body) => agree!(BufferSetTiling, body),
        Request::BufferMadvise(body) => agree!(BufferMadvise, body),
        Request::BufferExport(body) => agree!(BufferExport, body),
        Request::BufferImport(body) => agree!(BufferImport, body),
        Request::BufferFenceExport(body) => agree!(BufferFenceExport, body),
        Request::BufferFenceImport(body) => agree!(BufferFenceImport, body),
        Request::UserptrCreate(body) => agree!(UserptrCreate, body),
        Request::UserptrInvalidate(body) => agree!(UserptrInvalidate, body),
        Request::SyncobjCreate(body) => agree!(SyncobjCreate, body),
        Request::SyncobjDestroy(body) => agree!(SyncobjDestroy, body),
        Request::SyncobjReset(body) | Request::SyncobjSignal(body) => agree!(SyncobjArray, body),
        Request::SyncobjWait(body) => agree!(SyncobjWait, body),
        Request::SyncobjTimelineSignal(body) => agree!(SyncobjTimelineSignal, body),
        Request::SyncobjQuery(body) => agree!(SyncobjQuery, body),
        Request::SyncobjTransfer(body) => agree!(SyncobjTransfer, body),
        Request::SyncobjExport(body) => agree!(SyncobjExport, body),
        Request::SyncobjImport(body) => agree!(SyncobjImport, body),
        Request::HangList(body) => agree!(HangQuery, body),
        Request::HangShow(body) => agree!(HangOf, body),
        Request::HangRead(body) => agree!(HangRead, body),
    }
}

fn agree_on_reply(reply: &Reply<gpu_broker_protocol::FdSlot>) {
    match reply {
        Reply::Hello(body) => agree!(HelloReply, body),
        Reply::Ping(body) => agree!(Ping, body),
        Reply::DeviceQuery(body) => agree!(DeviceInfo, body),
        Reply::Status(body) => agree!(StatusPage, body),
        Reply::Confinement(body) => agree!(Confinement, body),
        Reply::Usage(body) => agree!(SessionUsage, body),
        Reply::Identity(body) => agree!(SessionIdentity, body),
        Reply::AdminDrain(body) => agree!(AdminDrained, body),
        Reply::AdminRevoke | Reply::AdminEvents | Reply::AdminListen => {}
        Reply::AdminList(body) => agree!(AdminList, body),
        Reply::AdminInspect(body) => agree!(AdminInspection, &**body),
        Reply::AdminListeners(body) => agree!(AdminListenerList, body),
        Reply::AdminTrace(body) => agree!(AdminTracing, body),
        Reply::AdminTraceRead(body) => agree!(AdminTracePage, body),
        Reply::AdminLimit(body) => agree!(AdminLimited, body),
        Reply::AdminClasses(body) => agree!(AdminClassList, body),
        Reply::ContextCreate(body) => agree!(ContextCreated, body),
        Reply::ContextSetParam(body) => agree!(ParamSet, body),
        Reply::ContextGetParam(body) => agree!(ContextParam, body),
        Reply::ContextResetStats(body) => agree!(ResetStats, body),
        Reply::VmCreate(body) => agree!(VmCreated, body),
        Reply::BufferCreate(body) | Reply::BufferImport(body) | Reply::UserptrCreate(body) => {
            agree!(BufferCreated, body)
        }
        Reply::BufferMap(body) => agree!(BufferMapped, body),
        Reply::BufferBusy(body) => agree!(Busy, body),
        Reply::BufferWait(body) => agree!(Waited, body),
        Reply::FenceStatus(body) => agree!(FenceState, body),
        Reply::HangList(body) => agree!(HangPage, body),
        Reply::HangShow(body) => agree!(HangDump, &**body),
        Reply::HangRead(body) => agree!(HangBytes, body),
        Reply::FenceMerge(body) | Reply::BufferFenceExport(body) => agree!(Fence, body),
        Reply::GetParam(body) => agree!(ParamAnswer, body),
        Reply::Query(body) => agree!(QueryReply, body),
        Reply::GetAperture(body) => agree!(Aperture, body),
        Reply::RegRead(body) => agree!(RegValue, body),
        Reply::BufferGetCaching(body) => agree!(Caching, body),
        Reply::BufferMadvise(body) => agree!(Retained, body),
        Reply::BufferExport(body) => agree!(BufferExported, body),
        Reply::SharedStatus(body) => agree!(SharedStatus, body),
        Reply::SyncobjWait(body) => agree!(SyncobjWaited, body),
        Reply::SyncobjQuery(body) => agree!(SyncobjPoints, body),
        Reply::SyncobjExport(body) => agree!(SyncobjExported, body),
        Reply::BufferSetTiling(body) | Reply::BufferGetTiling(body) => agree!(Tiling, body),
        Reply::SyncobjCreate(body) | Reply::SyncobjImport(body) => agree!(SyncobjOf, body),
        Reply::Execbuf(reply) | Reply::ExecbufList(reply) => agree_on_execbuf_reply(reply),
        // No body.
        Reply::ContextDestroy
        | Reply::VmDestroy
        | Reply::BufferClose
        | Reply::Throttle
        | Reply::BufferSetDomain
        | Reply::BufferAccess
        | Reply::BufferSetCaching
        | Reply::BufferFenceImport
        | Reply::UserptrInvalidate
        | Reply::SyncobjDestroy
        | Reply::SyncobjReset
        | Reply::SyncobjSignal
        | Reply::SyncobjTimelineSignal
        | Reply::SyncobjTransfer => {}
    }
}

// EXECBUF's fixed layout, again from WIRE.md: records without padding, whose bytes are those of
// structures of fixed-width integers.
mirror! {
    struct Fixed {
        context: u32,
        buffer_count: u32,
        flags: u64,
        batch_start_offset: u32,
        batch_len: u32,
        dr1: u32,
        dr4: u32,
        num_cliprects: u32,
        fence_count: u32,
        extension_count: u32,
        relocation_count: u32,
    }
    struct Object {
        handle: u32,
        relocation_count: u32,
        alignment: u64,
        offset: u64,
        flags: u64,
        pad_to_size: u64,
        rsvd: u64,
    }
    struct ArrayFence { handle: u32, flags: u32 }
    struct Node {
        name: u32,
        flags: u32,
        rsvd: [u32; 4],
        fence_flags: u64,
        entry_count: u32,
        rsvd2: u32,
    }
    struct Point { handle: u32, flags: u32, point: u64 }
    struct Relocation {
        target: u32,
        delta: u32,
        offset: u64,
        presumed_offset: u64,
        read_domains: u32,
        write_domain: u32,
    }
}

/// A list's records one after the other, without a count.
fn records<O, M>(list: &[O], mirror: impl Fn(&O) -> M) -> Vec<u8>
where
    M: wincode::SchemaWrite<wincode::config::DefaultConfig, Src = M>,
{
    list.iter().flat_map(|one| wincode::serialize(&mirror(one)).expect("wincode writes")).collect()
}

/// The body of a submission, laid out by wincode.
fn laid_out(submission: &Submission) -> Vec<u8> {
    let Submission { head, objects, fences, extensions, points, relocations } = submission;
    let count = |length: usize| u32::try_from(length).expect("a handful");
    let fixed = Fixed {
        context: head.context,
        buffer_count: count(objects.len()),
        flags: head.flags,
        batch_start_offset: head.batch_start_offset,
        batch_len: head.batch_len,
        dr1: head.dr1,
        dr4: head.dr4,
        num_cliprects: head.num_cliprects,
        fence_count: count(fences.len()),
        extension_count: count(extensions.len()),
        relocation_count: count(relocations.len()),
    };
    let objects = records(objects, |o| Object {
        handle: o.handle,
        relocation_count: o.relocation_count,
        alignment: o.alignment,
        offset: o.offset,
        flags: o.flags,
        pad_to_size: o.pad_to_size,
        rsvd: 0,
    });
    let fences = records(fences, |f| ArrayFence { handle: f.handle, flags: f.flags });
    let extensions = records(extensions, |e| Node {
        name: e.name,
        flags: e.flags,
        rsvd: e.rsvd,
        fence_flags: e.fence_flags,
        entry_count: e.entry_count,
        rsvd2: 0,
    });
    let points = records(points, |p| Point { handle: p.handle, flags: p.flags, point: p.point });
    let relocations = records(relocations, |r| Relocation {
        target: r.target,
        delta: r.delta,
        offset: r.offset,
        presumed_offset: r.presumed_offset,
        read_domains: r.read_domains,
        write_domain: r.write_domain,
    });
    let fixed = records(&[fixed], |fixed| Fixed { ..*fixed });
    [fixed, objects, fences, extensions, points, relocations].concat()
}

fn agree_on_execbuf_reply(reply: &ExecbufReply<gpu_broker_protocol::FdSlot>) {
    let mut ours = Vec::new();
    execbuf::encode_reply(reply, &mut ours);
    let head = [reply.offsets.len() as u64 | u64::from(reply.fence.is_some()) << 32];
    let theirs = records(&[&head[..], &reply.offsets].concat(), |word| *word);
    assert_eq!(ours, theirs);
}

proptest! {
    #[test]
    fn on_any_execbuf(submission in strategies::execbuf()) {
        let mut packet = Vec::new();
        submission.encode(1, &mut packet).expect("it fits");
        let (_, body) = Header::split(&packet).expect("a header");
        prop_assert_eq!(body, laid_out(&submission));
    }

    #[test]
    fn on_any_request(request in strategies::request()) {
        agree_on_request(&request);
    }

    #[test]
    fn on_any_reply(reply in strategies::reply()) {
        agree_on_reply(&reply);
    }
}

#[test]
fn on_refusals_and_events() {
    for reason in Reason::ALL {
        agree!(RefusalBody, &Refusal::new(*reason).with_detail("7").to_body());
    }
    for epitaph in &samples::epitaphs() {
        agree!(Epitaph, epitaph);
    }
    for hang in &samples::hang_events() {
        agree!(HangEvent, hang);
    }
    for event in &samples::news() {
        agree!(AdminEvent, event);
    }
}

/// What `codec` sends is header and body, and the body is what was compared above.
#[test]
fn on_whole_messages() {
    for (name, request) in samples::requests() {
        let mut packet = Vec::new();
        codec::encode_request(1, &request, &mut packet).expect("it fits");
        let (_, body) = Header::split(&packet).expect("a header");
        if let Request::ContextSetParam(param) = &request {
            assert_eq!(codec::encode_body(param).expect("it fits"), body, "{name}");
        }
        agree_on_request(&request);
    }
    for (_, reply) in samples::replies() {
        agree_on_reply(&reply);
    }
}
