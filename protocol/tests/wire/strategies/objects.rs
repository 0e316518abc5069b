//! Any message about the device, buffers, fences and syncobjs.

use gpu_broker_protocol::shared_status::SharedStatus;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate};

use super::*;

fn buffer_id() -> impl Strategy<Value = BufferId> {
    any::<u32>().prop_map(BufferId)
}

fn buffer() -> impl Strategy<Value = BufferOf> {
    buffer_id().prop_map(|buffer| BufferOf { buffer })
}

fn syncobj() -> impl Strategy<Value = SyncobjId> {
    any::<u32>().prop_map(SyncobjId)
}

fn syncobjs() -> impl Strategy<Value = Vec<SyncobjId>> {
    vec(syncobj(), 0..6)
}

fn points() -> impl Strategy<Value = Vec<u64>> {
    vec(any::<u64>(), 0..6)
}

/// Any request about the device as a whole.
pub(super) fn device_request() -> impl Strategy<Value = Request<FdSlot>> {
    let item = any::<(u64, u32)>().prop_map(|(id, flags)| QueryItem { id, flags });
    prop_oneof![
        any::<i32>().prop_map(|param| Request::GetParam(GetParam { param })),
        (any::<u32>(), vec(item, 0..6))
            .prop_map(|(flags, items)| Request::Query(Query { flags, items })),
        Just(Request::GetAperture),
        Just(Request::Throttle),
        Just(Request::SharedStatus),
        any::<u64>().prop_map(|offset| Request::RegRead(RegRead { offset })),
    ]
}

/// Any request about buffers.
pub(super) fn buffer_request() -> impl Strategy<Value = Request<FdSlot>> {
    prop_oneof![
        (any::<(u64, u32)>(), option::of(vec(engine(), 0..4))).prop_map(
            |((size, flags), regions)| Request::BufferCreate(BufferCreate { size, flags, regions })
        ),
        buffer().prop_map(Request::BufferMap),
        buffer().prop_map(Request::BufferClose),
        buffer().prop_map(Request::BufferBusy),
        (buffer_id(), any::<(u32, i64)>()).prop_map(|(buffer, (flags, timeout_ns))| {
            Request::BufferWait(BufferWait { buffer, flags, timeout_ns })
        }),
        (buffer_id(), any::<(u32, u32)>()).prop_map(|(buffer, (read_domains, write_domain))| {
            Request::BufferSetDomain(BufferSetDomain { buffer, read_domains, write_domain })
        }),
        (buffer_id(), any::<(u64, u64, bool)>()).prop_map(|(buffer, (offset, size, write))| {
            Request::BufferAccess(BufferAccess { buffer, offset, size, write })
        }),
        (buffer_id(), any::<u32>()).prop_map(|(buffer, caching)| Request::BufferSetCaching(
            BufferCaching { buffer, caching }
        )),
        buffer().prop_map(Request::BufferGetCaching),
        (buffer_id(), any::<(u32, u32)>()).prop_map(|(buffer, (mode, stride))| {
            Request::BufferSetTiling(BufferSetTiling { buffer, mode, stride })
        }),
        buffer().prop_map(Request::BufferGetTiling),
        (buffer_id(), any::<u32>())
            .prop_map(|(buffer, advice)| Request::BufferMadvise(BufferMadvise { buffer, advice })),
        (buffer_id(), any::<u32>())
            .prop_map(|(buffer, flags)| Request::BufferExport(BufferExport { buffer, flags })),
        Just(Request::BufferImport(BufferImport { fd: FdSlot })),
        (buffer_id(), any::<u32>()).prop_map(|(buffer, flags)| Request::BufferFenceExport(
            BufferFenceExport { buffer, flags }
        )),
        (buffer_id(), any::<u32>()).prop_map(|(buffer, flags)| Request::BufferFenceImport(
            BufferFenceImport { buffer, flags, fd: FdSlot }
        )),
        any::<(u64, u64, u32)>().prop_map(|(offset, length, flags)| Request::UserptrCreate(
            UserptrCreate { memfd: FdSlot, offset, length, flags }
        )),
        (buffer_id(), any::<(u64, u64, i64)>()).prop_map(
            |(buffer, (offset, length, timeout_ns))| Request::UserptrInvalidate(
                UserptrInvalidate { buffer, offset, length, timeout_ns }
            )
        ),
    ]
}

/// Any request about syncobjs and fence fds.
pub(super) fn sync_request() -> impl Strategy<Value = Request<FdSlot>> {
    let array =
        || (syncobjs(), any::<u32>()).prop_map(|(syncobjs, pad)| SyncobjArray { syncobjs, pad });
    let wait = (syncobjs(), option::of(points()), any::<(u32, i64)>()).prop_map(
        |(syncobjs, points, (flags, deadline_ns))| SyncobjWait {
            syncobjs,
            points,
            flags,
            deadline_ns,
        },
    );
    let transfer = any::<(u32, u64, u32, u64, u32, u32)>().prop_map(|n| SyncobjTransfer {
        source: SyncobjId(n.0),
        source_point: n.1,
        target: SyncobjId(n.2),
        target_point: n.3,
        flags: n.4,
        pad: n.5,
    });
    prop_oneof![
        Just(Request::FenceStatus(FenceStatusQuery { fd: FdSlot })),
        Just(Request::FenceMerge(FenceMerge { first: FdSlot, second: FdSlot })),
        any::<u32>().prop_map(|flags| Request::SyncobjCreate(SyncobjCreate { flags })),
        (syncobj(), any::<u32>())
            .prop_map(|(syncobj, pad)| Request::SyncobjDestroy(SyncobjDestroy { syncobj, pad })),
        array().prop_map(Request::SyncobjReset),
        array().prop_map(Request::SyncobjSignal),
        wait.prop_map(Request::SyncobjWait),
        (syncobjs(), points(), any::<u32>()).prop_map(|(syncobjs, points, flags)| {
            Request::SyncobjTimelineSignal(SyncobjTimelineSignal { syncobjs, points, flags })
        }),
        (syncobjs(), any::<u32>())
            .prop_map(|(syncobjs, flags)| Request::SyncobjQuery(SyncobjQuery { syncobjs, flags })),
        transfer.prop_map(Request::SyncobjTransfer),
        (syncobj(), any::<(u32, u64)>()).prop_map(|(syncobj, (flags, point))| {
            Request::SyncobjExport(SyncobjExport { syncobj, flags, point })
        }),
        (syncobj(), any::<(u32, u64)>()).prop_map(|(syncobj, (flags, point))| {
            Request::SyncobjImport(SyncobjImport { syncobj, flags, point, fd: FdSlot })
        }),
    ]
}

fn query_answer() -> impl Strategy<Value = QueryAnswer> {
    let topology = (any::<(u16, u16, u16, u64)>(), points(), points()).prop_map(
        |(n, subslice_masks, eu_masks)| Topology {
            max_slices: n.0,
            max_subslices: n.1,
            max_eus_per_subslice: n.2,
            slice_mask: n.3,
            subslice_masks,
            eu_masks,
        },
    );
    let engine = (engine(), any::<(u64, u64, u16)>()).prop_map(
        |(engine, (flags, capabilities, logical_instance))| QueriedEngine {
            engine,
            flags,
            capabilities,
            logical_instance,
        },
    );
    let region = any::<(u16, u16, u64, u64)>().prop_map(
        |(class, instance, probed_bytes, unallocated_bytes)| MemoryRegion {
            class,
            instance,
            probed_bytes,
            unallocated_bytes,
        },
    );
    prop_oneof![
        any::<i32>().prop_map(QueryAnswer::Error),
        topology.prop_map(QueryAnswer::Topology),
        vec(engine, 0..4).prop_map(QueryAnswer::Engines),
        vec(region, 0..3).prop_map(QueryAnswer::Regions),
    ]
}

/// Any reply about the device as a whole.
pub(super) fn device_reply() -> impl Strategy<Value = Reply<FdSlot>> {
    prop_oneof![
        any::<i32>().prop_map(|value| Reply::GetParam(ParamAnswer { value })),
        vec(query_answer(), 0..4).prop_map(|answers| Reply::Query(QueryReply { answers })),
        any::<(u64, u64)>()
            .prop_map(|(size, available)| Reply::GetAperture(Aperture { size, available })),
        Just(Reply::Throttle),
        Just(Reply::SharedStatus(SharedStatus { fd: FdSlot })),
        any::<u64>().prop_map(|value| Reply::RegRead(RegValue { value })),
    ]
}

/// Any reply about buffers.
pub(super) fn buffer_reply() -> impl Strategy<Value = Reply<FdSlot>> {
    let created =
        || (buffer_id(), any::<u64>()).prop_map(|(buffer, size)| BufferCreated { buffer, size });
    let tiling = || {
        any::<(u32, u32, u32)>().prop_map(|(mode, stride, swizzle)| Tiling {
            mode,
            stride,
            swizzle,
        })
    };
    prop_oneof![
        created().prop_map(Reply::BufferCreate),
        any::<(u64, u64)>().prop_map(|(offset, size)| Reply::BufferMap(BufferMapped {
            offset,
            size,
            fd: FdSlot,
        })),
        Just(Reply::BufferClose),
        any::<u32>().prop_map(|busy| Reply::BufferBusy(Busy { busy })),
        any::<i64>().prop_map(|remaining_ns| Reply::BufferWait(Waited { remaining_ns })),
        Just(Reply::BufferSetDomain),
        Just(Reply::BufferAccess),
        Just(Reply::BufferSetCaching),
        any::<u32>().prop_map(|caching| Reply::BufferGetCaching(Caching { caching })),
        tiling().prop_map(Reply::BufferSetTiling),
        tiling().prop_map(Reply::BufferGetTiling),
        any::<u32>().prop_map(|retained| Reply::BufferMadvise(Retained { retained })),
        Just(Reply::BufferExport(BufferExported { fd: FdSlot })),
        Just(Reply::BufferFenceExport(Fence { fd: FdSlot })),
        Just(Reply::BufferFenceImport),
        created().prop_map(Reply::BufferImport),
        created().prop_map(Reply::UserptrCreate),
        Just(Reply::UserptrInvalidate),
    ]
}

/// Any reply about syncobjs and fence fds.
pub(super) fn sync_reply() -> impl Strategy<Value = Reply<FdSlot>> {
    let of = || syncobj().prop_map(|syncobj| SyncobjOf { syncobj });
    prop_oneof![
        fence_state().prop_map(Reply::FenceStatus),
        Just(Reply::FenceMerge(Fence { fd: FdSlot })),
        of().prop_map(Reply::SyncobjCreate),
        Just(Reply::SyncobjDestroy),
        Just(Reply::SyncobjReset),
        Just(Reply::SyncobjSignal),
        any::<u32>()
            .prop_map(|first_signaled| Reply::SyncobjWait(SyncobjWaited { first_signaled })),
        Just(Reply::SyncobjTimelineSignal),
        points().prop_map(|points| Reply::SyncobjQuery(SyncobjPoints { points })),
        Just(Reply::SyncobjTransfer),
        Just(Reply::SyncobjExport(SyncobjExported { fd: FdSlot })),
        of().prop_map(Reply::SyncobjImport),
    ]
}

fn fence_state() -> impl Strategy<Value = FenceState> {
    prop_oneof![
        Just(FenceState::Pending),
        Just(FenceState::Signalled),
        any::<i32>().prop_map(FenceState::Failed),
    ]
}
