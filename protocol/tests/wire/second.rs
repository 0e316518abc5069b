//! A second implementation of the encoding, wincode, agrees with ours byte for byte.
//!
//! The structures are written again below, from WIRE.md's tables, for wincode's derive. That a
//! message decoded by wincode prints the same as ours proves that both see the same fields with
//! the same values; that wincode encodes it to the same bytes proves the rest.

use std::fmt::Debug;

use gpu_broker_protocol::refusal::{Reason, Refusal};
use gpu_broker_protocol::{Header, Reply, Request, codec};
use proptest::prelude::*;
use wincode::{SchemaRead, SchemaWrite};

use crate::{samples, strategies};

/// Declares structures and enums with what wincode and the comparison need.
macro_rules! mirror {
    ($($item:item)*) => {$(
        #[derive(Debug, SchemaRead, SchemaWrite)]
        $item
    )*};
}

mirror! {
    struct FdSlot;
    struct SessionId(u64);
    struct ContextId(u32);
    struct VmId(u32);
    struct BufferId(u32);
    struct EngineId { class: u16, instance: u16 }
    struct Hello { major: u16, minor_min: u16, minor_max: u16, features: u64, client_name: String }
    struct Ping { payload: u64, fd: Option<FdSlot> }
    struct StatusQuery { after: SessionId }
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
    struct BufferCreate { size: u64, flags: u32 }
    struct BufferOf { buffer: BufferId }
    struct BufferWait { buffer: BufferId, flags: u32, timeout_ns: i64 }
    struct FenceStatusQuery { fd: FdSlot }
    struct FenceMerge { first: FdSlot, second: FdSlot }

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
        context: ContextId,
        state: ContextState,
        priority: i32,
        user_engines: bool,
        banned: bool,
    }
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
        Request::DeviceQuery => {}
        Request::Status(body) => agree!(StatusQuery, body),
        Request::ContextCreate(body) => agree!(ContextCreate, body),
        Request::ContextDestroy(body) => agree!(ContextDestroy, body),
        Request::ContextSetParam(body) | Request::ContextGetParam(body) => {
            agree!(ContextParamRequest, body);
        }
        Request::ContextResetStats(body) => agree!(ContextResetStats, body),
        Request::VmCreate(body) => agree!(VmCreate, body),
        Request::VmDestroy(body) => agree!(VmDestroy, body),
        Request::BufferCreate(body) => agree!(BufferCreate, body),
        Request::BufferMap(body) | Request::BufferClose(body) | Request::BufferBusy(body) => {
            agree!(BufferOf, body);
        }
        Request::BufferWait(body) => agree!(BufferWait, body),
        Request::FenceStatus(body) => agree!(FenceStatusQuery, body),
        Request::FenceMerge(body) => agree!(FenceMerge, body),
    }
}

fn agree_on_reply(reply: &Reply<gpu_broker_protocol::FdSlot>) {
    match reply {
        Reply::Hello(body) => agree!(HelloReply, body),
        Reply::Ping(body) => agree!(Ping, body),
        Reply::DeviceQuery(body) => agree!(DeviceInfo, body),
        Reply::Status(body) => agree!(StatusPage, body),
        Reply::ContextCreate(body) => agree!(ContextCreated, body),
        Reply::ContextSetParam(body) => agree!(ParamSet, body),
        Reply::ContextGetParam(body) => agree!(ContextParam, body),
        Reply::ContextResetStats(body) => agree!(ResetStats, body),
        Reply::VmCreate(body) => agree!(VmCreated, body),
        Reply::BufferCreate(body) => agree!(BufferCreated, body),
        Reply::BufferMap(body) => agree!(BufferMapped, body),
        Reply::BufferBusy(body) => agree!(Busy, body),
        Reply::BufferWait(body) => agree!(Waited, body),
        Reply::FenceStatus(body) => agree!(FenceState, body),
        Reply::FenceMerge(body) => agree!(Fence, body),
        // No body, or EXECBUF's fixed layout, which is not this encoding.
        Reply::ContextDestroy | Reply::VmDestroy | Reply::BufferClose | Reply::Execbuf(_) => {}
    }
}

proptest! {
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
fn on_refusals_and_epitaphs() {
    for reason in Reason::ALL {
        agree!(RefusalBody, &Refusal::new(*reason).with_detail("7").to_body());
    }
    for epitaph in &samples::epitaphs() {
        agree!(Epitaph, epitaph);
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
