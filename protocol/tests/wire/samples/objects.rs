//! One of every message about the device, buffers, fences and syncobjs.

use gpu_broker_protocol::object::*;
use gpu_broker_protocol::syncobj::{flag as sync_flag, *};
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate, flag as userptr_flag};

use super::*;

type Requests = Vec<(&'static str, Request<FdSlot>)>;
type Replies = Vec<(&'static str, Reply<FdSlot>)>;

const BUFFER: BufferId = BufferId(5);
const SYNCOBJ: SyncobjId = SyncobjId(8);
const OTHER: SyncobjId = SyncobjId(9);

/// Requests of the first round.
pub(super) fn first_requests() -> Requests {
    let mut all = buffer_requests();
    all.extend(fence_requests());
    all
}

/// Requests of the second round.
pub(super) fn second_requests() -> Requests {
    let mut all = buffer_state_requests();
    all.extend(device_requests());
    all.extend(syncobj_requests());
    all
}

fn buffer_requests() -> Requests {
    let wait = BufferWait { buffer: BUFFER, flags: 0, timeout_ns: -1 };
    let of = BufferOf { buffer: BUFFER };
    let create = BufferCreate { size: 10_000, flags: 0, regions: None };
    vec![
        ("BUFFER_CREATE", Request::BufferCreate(create)),
        ("BUFFER_MAP", Request::BufferMap(of.clone())),
        ("BUFFER_CLOSE", Request::BufferClose(of.clone())),
        ("BUFFER_BUSY", Request::BufferBusy(of)),
        ("BUFFER_WAIT", Request::BufferWait(wait)),
    ]
}

fn buffer_state_requests() -> Requests {
    let of = BufferOf { buffer: BUFFER };
    let domain = BufferSetDomain { buffer: BUFFER, read_domains: 0x41, write_domain: 0x40 };
    let access = BufferAccess { buffer: BUFFER, offset: 4096, size: 100, write: true };
    let export = BufferExport { buffer: BUFFER, flags: 0x8_0002 };
    let system = Some(vec![EngineId { class: 0, instance: 0 }]);
    let create = BufferCreate { size: 10_000, flags: 0, regions: system };
    vec![
        ("BUFFER_CREATE with regions", Request::BufferCreate(create)),
        ("BUFFER_SET_DOMAIN", Request::BufferSetDomain(domain)),
        ("BUFFER_ACCESS", Request::BufferAccess(access)),
        (
            "BUFFER_SET_CACHING",
            Request::BufferSetCaching(BufferCaching { buffer: BUFFER, caching: 1 }),
        ),
        ("BUFFER_GET_CACHING", Request::BufferGetCaching(of.clone())),
        (
            "BUFFER_SET_TILING",
            Request::BufferSetTiling(BufferSetTiling { buffer: BUFFER, mode: 1, stride: 512 }),
        ),
        ("BUFFER_GET_TILING", Request::BufferGetTiling(of)),
        ("BUFFER_MADVISE", Request::BufferMadvise(BufferMadvise { buffer: BUFFER, advice: 1 })),
        ("BUFFER_EXPORT", Request::BufferExport(export)),
        ("BUFFER_IMPORT", Request::BufferImport(BufferImport { fd: FdSlot })),
    ]
}

/// Requests of the userptr round.
pub(super) fn userptr_requests() -> Requests {
    let flags = userptr_flag::READ_ONLY | userptr_flag::PROBE;
    let create = UserptrCreate { memfd: FdSlot, offset: 4096, length: 8192, flags };
    let invalidate =
        UserptrInvalidate { buffer: BUFFER, offset: 4096, length: 100, timeout_ns: -1 };
    vec![
        ("USERPTR_CREATE", Request::UserptrCreate(create)),
        ("USERPTR_INVALIDATE", Request::UserptrInvalidate(invalidate)),
    ]
}

fn device_requests() -> Requests {
    let items = vec![QueryItem { id: 2, flags: 0 }, QueryItem { id: 6, flags: 0x1_0000 }];
    vec![
        ("GET_PARAM", Request::GetParam(GetParam { param: 4 })),
        ("QUERY", Request::Query(Query { flags: 0, items })),
        ("GET_APERTURE", Request::GetAperture),
        ("THROTTLE", Request::Throttle),
        ("REG_READ", Request::RegRead(RegRead { offset: 0x2359 })),
    ]
}

fn fence_requests() -> Requests {
    vec![
        ("FENCE_STATUS", Request::FenceStatus(FenceStatusQuery { fd: FdSlot })),
        ("FENCE_MERGE", Request::FenceMerge(FenceMerge { first: FdSlot, second: FdSlot })),
    ]
}

fn syncobj_requests() -> Requests {
    let array = |syncobjs| SyncobjArray { syncobjs, pad: 0 };
    let wait = |points, flags| SyncobjWait {
        syncobjs: vec![SYNCOBJ, OTHER],
        points,
        flags,
        deadline_ns: 5_000_000_000,
    };
    let signal =
        SyncobjTimelineSignal { syncobjs: vec![SYNCOBJ, OTHER], points: vec![3, 4], flags: 0 };
    let query =
        SyncobjQuery { syncobjs: vec![SYNCOBJ, OTHER], flags: sync_flag::QUERY_LAST_SUBMITTED };
    let transfer = SyncobjTransfer {
        source: SYNCOBJ,
        source_point: 3,
        target: OTHER,
        target_point: 4,
        flags: sync_flag::WAIT_FOR_SUBMIT,
        pad: 0,
    };
    let fence_flags = sync_flag::SYNC_FILE | sync_flag::TIMELINE;
    vec![
        (
            "SYNCOBJ_CREATE",
            Request::SyncobjCreate(SyncobjCreate { flags: sync_flag::CREATE_SIGNALED }),
        ),
        ("SYNCOBJ_DESTROY", Request::SyncobjDestroy(SyncobjDestroy { syncobj: SYNCOBJ, pad: 0 })),
        ("SYNCOBJ_RESET", Request::SyncobjReset(array(vec![SYNCOBJ, OTHER]))),
        ("SYNCOBJ_SIGNAL", Request::SyncobjSignal(array(vec![SYNCOBJ]))),
        ("SYNCOBJ_WAIT", Request::SyncobjWait(wait(None, sync_flag::WAIT_ALL))),
        (
            "SYNCOBJ_WAIT for points",
            Request::SyncobjWait(wait(Some(vec![3, 4]), sync_flag::WAIT_AVAILABLE)),
        ),
        ("SYNCOBJ_TIMELINE_SIGNAL", Request::SyncobjTimelineSignal(signal)),
        ("SYNCOBJ_QUERY", Request::SyncobjQuery(query)),
        ("SYNCOBJ_TRANSFER", Request::SyncobjTransfer(transfer)),
        (
            "SYNCOBJ_EXPORT",
            Request::SyncobjExport(SyncobjExport {
                syncobj: SYNCOBJ,
                flags: fence_flags,
                point: 3,
            }),
        ),
        (
            "SYNCOBJ_IMPORT",
            Request::SyncobjImport(SyncobjImport {
                syncobj: OTHER,
                flags: fence_flags,
                point: 4,
                fd: FdSlot,
            }),
        ),
    ]
}

/// Replies of the first round.
pub(super) fn first_replies() -> Replies {
    let mut all = buffer_replies();
    all.extend(execbuf_and_fence_replies());
    all
}

/// Replies of the second round.
pub(super) fn second_replies() -> Replies {
    let mut all = buffer_state_replies();
    all.extend(device_replies());
    all.extend(syncobj_replies());
    all
}

const CREATED: BufferCreated = BufferCreated { buffer: BUFFER, size: 12_288 };

fn buffer_replies() -> Replies {
    vec![
        ("BUFFER_CREATE", Reply::BufferCreate(CREATED)),
        ("BUFFER_MAP", Reply::BufferMap(BufferMapped { offset: 0, size: 12_288, fd: FdSlot })),
        ("BUFFER_CLOSE", Reply::BufferClose),
        ("BUFFER_BUSY", Reply::BufferBusy(Busy { busy: 0x1_0001 })),
        ("BUFFER_WAIT", Reply::BufferWait(Waited { remaining_ns: -1 })),
    ]
}

fn buffer_state_replies() -> Replies {
    let tiling = Tiling { mode: 1, stride: 512, swizzle: 0 };
    vec![
        ("BUFFER_SET_DOMAIN", Reply::BufferSetDomain),
        ("BUFFER_ACCESS", Reply::BufferAccess),
        ("BUFFER_SET_CACHING", Reply::BufferSetCaching),
        ("BUFFER_GET_CACHING", Reply::BufferGetCaching(Caching { caching: 1 })),
        ("BUFFER_SET_TILING", Reply::BufferSetTiling(tiling)),
        ("BUFFER_GET_TILING", Reply::BufferGetTiling(Tiling { mode: 2, ..tiling })),
        ("BUFFER_MADVISE", Reply::BufferMadvise(Retained { retained: 1 })),
        ("BUFFER_EXPORT", Reply::BufferExport(BufferExported { fd: FdSlot })),
        ("BUFFER_IMPORT", Reply::BufferImport(CREATED)),
    ]
}

/// Replies of the userptr round.
pub(super) fn userptr_replies() -> Replies {
    vec![
        ("USERPTR_CREATE", Reply::UserptrCreate(CREATED)),
        ("USERPTR_INVALIDATE", Reply::UserptrInvalidate),
    ]
}

fn device_replies() -> Replies {
    let topology = Topology {
        max_slices: 2,
        max_subslices: 3,
        max_eus_per_subslice: 8,
        slice_mask: 3,
        subslice_masks: vec![7, 7],
        eu_masks: vec![0xff; 6],
    };
    let engine = QueriedEngine { engine: RCS0, flags: 1, capabilities: 2, logical_instance: 3 };
    let region =
        MemoryRegion { class: 0, instance: 0, probed_bytes: 1 << 36, unallocated_bytes: 1 << 35 };
    let answers = vec![
        QueryAnswer::Error(19),
        QueryAnswer::Topology(topology),
        QueryAnswer::Engines(vec![engine]),
        QueryAnswer::Regions(vec![region]),
    ];
    vec![
        ("GET_PARAM", Reply::GetParam(ParamAnswer { value: 0x5926 })),
        ("QUERY", Reply::Query(QueryReply { answers })),
        ("GET_APERTURE", Reply::GetAperture(Aperture { size: 1 << 32, available: 1 << 31 })),
        ("THROTTLE", Reply::Throttle),
        ("REG_READ", Reply::RegRead(RegValue { value: 0x0102_0304_0506_0708 })),
    ]
}

fn execbuf_and_fence_replies() -> Replies {
    let fence_state = Reply::FenceStatus;
    vec![
        (
            "EXECBUF",
            Reply::Execbuf(ExecbufReply { offsets: vec![0x10_0000, 0x20_0000], fence: None }),
        ),
        (
            "EXECBUF with a fence",
            Reply::Execbuf(ExecbufReply { offsets: vec![], fence: Some(FdSlot) }),
        ),
        ("FENCE_STATUS pending", fence_state(FenceState::Pending)),
        ("FENCE_STATUS signalled", fence_state(FenceState::Signalled)),
        ("FENCE_STATUS failed", fence_state(FenceState::Failed(5))),
        ("FENCE_MERGE", Reply::FenceMerge(Fence { fd: FdSlot })),
    ]
}

fn syncobj_replies() -> Replies {
    vec![
        ("SYNCOBJ_CREATE", Reply::SyncobjCreate(SyncobjOf { syncobj: SYNCOBJ })),
        ("SYNCOBJ_DESTROY", Reply::SyncobjDestroy),
        ("SYNCOBJ_RESET", Reply::SyncobjReset),
        ("SYNCOBJ_SIGNAL", Reply::SyncobjSignal),
        ("SYNCOBJ_WAIT", Reply::SyncobjWait(SyncobjWaited { first_signaled: 1 })),
        ("SYNCOBJ_TIMELINE_SIGNAL", Reply::SyncobjTimelineSignal),
        ("SYNCOBJ_QUERY", Reply::SyncobjQuery(SyncobjPoints { points: vec![3, 4] })),
        ("SYNCOBJ_TRANSFER", Reply::SyncobjTransfer),
        ("SYNCOBJ_EXPORT", Reply::SyncobjExport(SyncobjExported { fd: FdSlot })),
        ("SYNCOBJ_IMPORT", Reply::SyncobjImport(SyncobjOf { syncobj: OTHER })),
    ]
}

/// A buffer's fences, out and in.
pub(super) fn buffer_fences() -> Round {
    let export = BufferFenceExport { buffer: BUFFER, flags: 1 };
    let import = BufferFenceImport { buffer: BUFFER, flags: 2, fd: FdSlot };
    Round {
        requests: vec![
            ("BUFFER_FENCE_EXPORT", Request::BufferFenceExport(export)),
            ("BUFFER_FENCE_IMPORT", Request::BufferFenceImport(import)),
        ],
        execbufs: vec![],
        lists: vec![],
        replies: vec![
            ("BUFFER_FENCE_EXPORT", Reply::BufferFenceExport(Fence { fd: FdSlot })),
            ("BUFFER_FENCE_IMPORT", Reply::BufferFenceImport),
        ],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    }
}
