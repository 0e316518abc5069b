//! Any message whatever, for property tests.

use gpu_broker_protocol::message::*;
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::status::*;
use gpu_broker_protocol::syncobj::*;
use gpu_broker_protocol::usage::*;
use gpu_broker_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

mod hangs;
mod objects;
mod policy;
mod submissions;

pub(crate) use submissions::execbuf;

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn engine() -> impl Strategy<Value = EngineId> {
    any::<(u16, u16)>().prop_map(|(class, instance)| EngineId { class, instance })
}

fn extension<B: std::fmt::Debug + Clone>(
    body: impl Strategy<Value = B>,
) -> impl Strategy<Value = Extension<B>> {
    (any::<(u32, u32, [u32; 4])>(), body).prop_map(|((name, flags, rsvd), body)| Extension {
        name,
        flags,
        rsvd,
        body,
    })
}

fn engine_extension() -> impl Strategy<Value = EngineExtension> {
    let engines = || vec(engine(), 0..4);
    prop_oneof![
        Just(EngineExtension::Unknown),
        (any::<(u16, u32, u64)>(), engines()).prop_map(
            |((engine_index, flags, mbz64), engines)| EngineExtension::LoadBalance {
                engine_index,
                flags,
                mbz64,
                engines,
            }
        ),
        (engine(), any::<(u16, u64, [u64; 4])>(), engines()).prop_map(
            |(master, (virtual_index, flags, mbz64), engines)| EngineExtension::Bond {
                master,
                virtual_index,
                flags,
                mbz64,
                engines,
            }
        ),
        (any::<(u16, u16, u16, u16, u64, [u64; 3])>(), engines()).prop_map(
            |((engine_index, width, num_siblings, mbz16, flags, mbz64), engines)| {
                EngineExtension::ParallelSubmit {
                    engine_index,
                    width,
                    num_siblings,
                    mbz16,
                    flags,
                    mbz64,
                    engines,
                }
            }
        ),
    ]
}

fn engine_map() -> impl Strategy<Value = EngineMap> {
    (vec(engine(), 0..5), vec(extension(engine_extension()), 0..4))
        .prop_map(|(slots, extensions)| EngineMap { slots, extensions })
}

fn sseu() -> impl Strategy<Value = Sseu> {
    (engine(), any::<(u32, u64, u64, u16, u16, u32)>()).prop_map(
        |(engine, (flags, slice_mask, subslice_mask, least, most, rsvd))| Sseu {
            engine,
            flags,
            slice_mask,
            subslice_mask,
            min_eus_per_subslice: least,
            max_eus_per_subslice: most,
            rsvd,
        },
    )
}

fn context_param() -> impl Strategy<Value = ContextParam> {
    let value = prop_oneof![
        any::<u64>().prop_map(ParamValue::Scalar),
        sseu().prop_map(ParamValue::Sseu),
        engine_map().prop_map(ParamValue::Engines),
    ];
    (any::<(u64, u32)>(), value).prop_map(|((param, size), value)| ContextParam {
        param,
        size,
        value,
    })
}

fn create_extension() -> impl Strategy<Value = CreateExtension> {
    prop_oneof![
        Just(CreateExtension::Unknown),
        (any::<u32>(), context_param()).prop_map(|(context, param)| CreateExtension::SetParam {
            context: ContextId(context),
            param,
        }),
        any::<(u32, u32, u64)>().prop_map(|(source, flags, rsvd)| CreateExtension::Clone(
            CloneFrom { source: ContextId(source), flags, rsvd }
        )),
    ]
}

fn ping() -> impl Strategy<Value = Ping<FdSlot>> {
    (any::<u64>(), option::of(Just(FdSlot))).prop_map(|(payload, fd)| Ping { payload, fd })
}

fn param_request() -> impl Strategy<Value = ContextParamRequest> {
    (any::<u32>(), context_param())
        .prop_map(|(context, param)| ContextParamRequest { context: ContextId(context), param })
}

/// Any request but EXECBUF. As often as there are messages of each kind.
pub(crate) fn request() -> impl Strategy<Value = Request<FdSlot>> {
    prop_oneof![
        11 => context_request(),
        5 => objects::device_request(),
        14 => objects::buffer_request(),
        12 => objects::sync_request(),
        3 => hangs::request(),
    ]
}

/// Any request about sessions, contexts and VMs.
fn context_request() -> impl Strategy<Value = Request<FdSlot>> {
    let nodes = || vec(extension(Just(())), 0..3);
    prop_oneof![
        (any::<(u16, u16, u16, u64)>(), text()).prop_map(
            |((major, minor_min, minor_max, features), client_name)| Request::Hello(Hello {
                major,
                minor_min,
                minor_max,
                features,
                client_name,
            })
        ),
        ping().prop_map(Request::Ping),
        Just(Request::DeviceQuery),
        any::<u64>().prop_map(|id| Request::Status(StatusQuery { after: SessionId(id) })),
        Just(Request::Confinement),
        any::<u64>().prop_map(|id| Request::Usage(UsageQuery { session: SessionId(id) })),
        policy::request(),
        (any::<u32>(), vec(extension(create_extension()), 0..4)).prop_map(|(flags, extensions)| {
            Request::ContextCreate(ContextCreate { flags, extensions })
        }),
        any::<(u32, u32)>().prop_map(|(id, pad)| Request::ContextDestroy(ContextDestroy {
            context: ContextId(id),
            pad,
        })),
        param_request().prop_map(Request::ContextSetParam),
        param_request().prop_map(Request::ContextGetParam),
        any::<(u32, u32, u32)>().prop_map(|(id, flags, pad)| Request::ContextResetStats(
            ContextResetStats { context: ContextId(id), flags, pad }
        )),
        (any::<u32>(), nodes())
            .prop_map(|(flags, extensions)| Request::VmCreate(VmCreate { flags, extensions })),
        (any::<(u32, u32)>(), nodes()).prop_map(|((id, flags), extensions)| Request::VmDestroy(
            VmDestroy { vm: VmId(id), flags, extensions }
        )),
    ]
}

fn device() -> impl Strategy<Value = DeviceInfo> {
    let info = (engine(), text(), any::<(u16, u64)>()).prop_map(
        |(engine, name, (logical_instance, capabilities))| EngineInfo {
            engine,
            name,
            logical_instance,
            capabilities,
        },
    );
    let numbers = any::<(u16, u16, u16, u16, u64, u64, bool)>();
    (text(), text(), numbers, vec(info, 0..4)).prop_map(|(driver, name, n, engines)| DeviceInfo {
        driver,
        name,
        vendor_id: n.0,
        device_id: n.1,
        revision: n.2,
        graphics_version: n.3,
        gtt_bytes: n.4,
        timestamp_hz: n.5,
        wedged: n.6,
        engines,
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    any::<([u32; 9], u64, u64)>().prop_map(|(n, buffer_bytes, buffer_memory_bytes)| Limits {
        message_bytes: n[0],
        fds_per_message: n[1],
        contexts: n[2],
        vms: n[3],
        buffers: n[4],
        buffer_bytes,
        buffer_memory_bytes,
        objects_per_execbuf: n[5],
        submissions_in_flight: n[6],
        pending_waits: n[7],
        fences: n[8],
    })
}

fn hello_reply() -> impl Strategy<Value = HelloReply> {
    (any::<(u16, u16, u64, u64)>(), limits(), device()).prop_map(
        |((major, minor, features, session), limits, device)| HelloReply {
            major,
            minor,
            features,
            session: SessionId(session),
            limits,
            device,
        },
    )
}

fn context_status() -> impl Strategy<Value = ContextStatus> {
    use MaterialisedBy::*;
    let by = prop::sample::select([Open, Execbuf, GetParam, ResetStats, Create].as_slice());
    let state = option::of(by)
        .prop_map(|by| by.map_or(ContextState::Proto, |by| ContextState::Live { by }));
    (any::<(u32, i32, bool, bool)>(), state).prop_map(
        |((id, priority, user_engines, banned), state)| ContextStatus {
            context: ContextId(id),
            state,
            priority,
            user_engines,
            banned,
        },
    )
}

fn session_status() -> impl Strategy<Value = SessionStatus> {
    (text(), any::<([u32; 7], [u64; 4])>(), vec(context_status(), 0..4)).prop_map(
        |(client_name, (n, wide), contexts)| SessionStatus {
            session: SessionId(wide[0]),
            client_name,
            pid: n[0],
            uid: n[1],
            gid: n[2],
            age_ns: wide[1],
            vms: n[3],
            buffers: n[4],
            buffer_bytes: wide[2],
            in_flight: n[5],
            submissions: wide[3],
            contexts,
            contexts_total: n[6],
        },
    )
}

fn status() -> impl Strategy<Value = StatusPage> {
    let daemon =
        (text(), text(), any::<([u32; 3], [u64; 4])>()).prop_map(|(version, driver, (n, wide))| {
            DaemonStatus {
                version,
                driver,
                pid: n[0],
                uptime_ns: wide[0],
                sessions: n[1],
                sessions_total: wide[1],
                sessions_max: n[2],
                refusals: wide[2],
                violations: wide[3],
            }
        });
    let engine = (engine(), text(), any::<(u64, u32, u64, u64)>()).prop_map(
        |(engine, name, (busy_ns, queued, completed, faults))| EngineStatus {
            engine,
            name,
            busy_ns,
            queued,
            completed,
            faults,
        },
    );
    (daemon, vec(engine, 0..3), vec(session_status(), 0..3), any::<bool>()).prop_map(
        |(daemon, engines, sessions, more)| StatusPage { daemon, engines, sessions, more },
    )
}

fn wall() -> impl Strategy<Value = Wall> {
    (any::<bool>(), ".{0,9}").prop_map(|(holds, why)| Wall { holds, why })
}

fn usage() -> impl Strategy<Value = SessionUsage> {
    let class = any::<(u16, u16, u64)>().prop_map(|(class, capacity, busy_ns)| ClassUsage {
        class,
        capacity,
        busy_ns,
    });
    let memory = any::<[u64; 4]>().prop_map(|[total, shared, resident, active]| MemoryUsage {
        total,
        shared,
        resident,
        active,
    });
    let context = (any::<u32>(), vec(any::<u64>(), 0..5))
        .prop_map(|(id, busy_ns)| ContextUsage { context: ContextId(id), busy_ns });
    (any::<u64>(), text(), vec(class, 0..5), memory, vec(context, 0..4)).prop_map(
        |(session, client_name, engines, memory, contexts)| SessionUsage {
            session: SessionId(session),
            client_name,
            engines,
            memory,
            contexts,
        },
    )
}

/// Any reply. As often as there are messages of each kind.
pub(crate) fn reply() -> impl Strategy<Value = Reply<FdSlot>> {
    prop_oneof![
        12 => context_reply(),
        5 => objects::device_reply(),
        14 => objects::buffer_reply(),
        12 => objects::sync_reply(),
        3 => hangs::reply(),
    ]
}

/// Any reply about sessions, contexts and VMs, and EXECBUF's.
fn context_reply() -> impl Strategy<Value = Reply<FdSlot>> {
    prop_oneof![
        hello_reply().prop_map(Reply::Hello),
        ping().prop_map(Reply::Ping),
        device().prop_map(Reply::DeviceQuery),
        status().prop_map(Reply::Status),
        usage().prop_map(Reply::Usage),
        (wall(), wall()).prop_map(|(system_calls, files)| {
            Reply::Confinement(Confinement { system_calls, files })
        }),
        policy::reply(),
        any::<u32>().prop_map(|id| Reply::ContextCreate(ContextCreated { context: ContextId(id) })),
        Just(Reply::ContextDestroy),
        any::<u32>().prop_map(|size| Reply::ContextSetParam(ParamSet { size })),
        context_param().prop_map(Reply::ContextGetParam),
        any::<(u32, u32, u32)>().prop_map(|(reset_count, batch_active, batch_pending)| {
            Reply::ContextResetStats(ResetStats { reset_count, batch_active, batch_pending })
        }),
        any::<u32>().prop_map(|id| Reply::VmCreate(VmCreated { vm: VmId(id) })),
        Just(Reply::VmDestroy),
        (vec(any::<u64>(), 0..9), option::of(Just(FdSlot)))
            .prop_map(|(offsets, fence)| Reply::Execbuf(ExecbufReply { offsets, fence })),
        (vec(any::<u64>(), 0..9), option::of(Just(FdSlot)))
            .prop_map(|(offsets, fence)| Reply::ExecbufList(ExecbufReply { offsets, fence })),
    ]
}
