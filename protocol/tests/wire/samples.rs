//! One of every message, with every variant somewhere. The bytes of each are in `golden.hex`.

use gpu_broker_protocol::admin::AdminEvent;
use gpu_broker_protocol::hang::HangEvent;
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::{Reason, Refusal};
use gpu_broker_protocol::shared_status::SharedStatus;
use gpu_broker_protocol::status::*;
use gpu_broker_protocol::usage::*;
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::violation::{Epitaph, EpitaphCode};
use gpu_broker_protocol::*;

mod administration;
mod hangs;
mod objects;
mod policy;
mod submissions;

pub(crate) use administration::{news, news_name};
pub(crate) use hangs::hang_events;

use crate::lists::Change;
use crate::submission::Submission;

/// A message and what it is called in `golden.hex`.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Messages that were added together. A round that is finished is not added to, and the rounds
/// stay in order: then no message's bytes change, not even its number.
struct Round {
    requests: Vec<(&'static str, Request<FdSlot>)>,
    execbufs: Vec<(&'static str, Submission)>,
    lists: Vec<(&'static str, Change)>,
    replies: Vec<(&'static str, Reply<FdSlot>)>,
    refusals: Vec<(&'static str, Opcode, Refusal)>,
    epitaphs: Vec<Epitaph>,
    hangs: Vec<HangEvent>,
    news: Vec<AdminEvent>,
}

fn accounting() -> Round {
    Round {
        requests: vec![("USAGE", Request::Usage(UsageQuery { session: SessionId(7) }))],
        execbufs: vec![],
        lists: vec![],
        replies: vec![("USAGE", Reply::Usage(usage()))],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    }
}

fn rounds() -> [Round; 12] {
    let refusal = Refusal::new(Reason::PriorityRange).with_detail("2000");
    let first = Round {
        requests: [
            session_requests(),
            context_requests(),
            vm_requests(),
            objects::first_requests(),
        ]
        .concat(),
        execbufs: vec![("EXECBUF", submissions::plain())],
        lists: vec![],
        replies: [session_replies(), context_replies(), objects::first_replies()].concat(),
        refusals: vec![("refusal of CONTEXT_SETPARAM", Opcode::ContextSetParam, refusal)],
        epitaphs: first_epitaphs(),
        hangs: vec![],
        news: vec![],
    };
    let second = Round {
        requests: objects::second_requests(),
        execbufs: vec![("EXECBUF with every list", submissions::with_every_list())],
        lists: vec![],
        replies: objects::second_replies(),
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    };
    let userptr = Round {
        requests: objects::userptr_requests(),
        execbufs: vec![],
        lists: vec![],
        replies: objects::userptr_replies(),
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    };
    let confinement = Round {
        requests: vec![("CONFINEMENT", Request::Confinement)],
        execbufs: vec![],
        lists: vec![],
        replies: vec![("CONFINEMENT", Reply::Confinement(confinement()))],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    };
    [
        first,
        second,
        userptr,
        accounting(),
        policy::round(),
        policy::admin_round(),
        hangs::round(),
        confinement,
        administration::round(),
        submissions::lists(),
        shared_status(),
        objects::buffer_fences(),
    ]
}

fn shared_status() -> Round {
    let page = SharedStatus { fd: FdSlot };
    Round {
        requests: vec![("SHARED_STATUS", Request::SharedStatus)],
        execbufs: vec![],
        lists: vec![],
        replies: vec![("SHARED_STATUS", Reply::SharedStatus(page))],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    }
}

/// Every request but EXECBUF; more than one of those with variants.
pub(crate) fn requests() -> Vec<(&'static str, Request<FdSlot>)> {
    rounds().map(|round| round.requests).concat()
}

/// Every EXECBUF.
pub(crate) fn execbufs() -> Vec<(&'static str, Submission)> {
    rounds().map(|round| round.execbufs).concat()
}

/// EXECBUF_LISTs.
pub(crate) fn lists() -> Vec<(&'static str, Change)> {
    rounds().map(|round| round.lists).concat()
}

/// Every reply; more than one of those with variants.
pub(crate) fn replies() -> Vec<(&'static str, Reply<FdSlot>)> {
    rounds().map(|round| round.replies).concat()
}

fn session_requests() -> Vec<(&'static str, Request<FdSlot>)> {
    let hello = Hello {
        major: 1,
        minor_min: 0,
        minor_max: 0,
        features: feature::FENCE_FDS | feature::CONTEXT_CLONE,
        client_name: "cube".into(),
    };
    vec![
        ("HELLO", Request::Hello(hello)),
        ("PING", Request::Ping(Ping { payload: 0x1122_3344_5566_7788, fd: None })),
        ("PING with an fd", Request::Ping(Ping { payload: 1, fd: Some(FdSlot) })),
        ("DEVICE_QUERY", Request::DeviceQuery),
        ("STATUS", Request::Status(StatusQuery { after: SessionId(7) })),
    ]
}

const RCS0: EngineId = EngineId { class: class::RENDER, instance: 0 };
const VCS1: EngineId = EngineId { class: class::VIDEO, instance: 1 };

fn context_requests() -> Vec<(&'static str, Request<FdSlot>)> {
    let set_priority =
        CreateExtension::SetParam { context: ContextId(0), param: ContextParam::priority(-10) };
    let create = ContextCreate {
        flags: create_flag::USE_EXTENSIONS,
        extensions: vec![Extension::new(CreateExtension::SET_PARAM, set_priority)],
    };
    let clone = CloneFrom { source: ContextId(3), flags: clone_flag::ALL, rsvd: 0 };
    let create_clone = ContextCreate {
        flags: create_flag::USE_EXTENSIONS | create_flag::SINGLE_TIMELINE,
        extensions: vec![
            Extension::new(CreateExtension::CLONE, CreateExtension::Clone(clone)),
            Extension::new(0x1234, CreateExtension::Unknown),
        ],
    };
    let param = |param| ContextParamRequest { context: ContextId(3), param };
    let stats = ContextResetStats { context: ContextId(3), flags: 0, pad: 0 };
    vec![
        ("CONTEXT_CREATE with SETPARAM", Request::ContextCreate(create)),
        ("CONTEXT_CREATE with CLONE", Request::ContextCreate(create_clone)),
        (
            "CONTEXT_DESTROY",
            Request::ContextDestroy(ContextDestroy { context: ContextId(3), pad: 0 }),
        ),
        (
            "CONTEXT_SETPARAM of a scalar",
            Request::ContextSetParam(param(ContextParam::scalar(number::RECOVERABLE, 1))),
        ),
        ("CONTEXT_SETPARAM of SSEU", Request::ContextSetParam(param(ContextParam::sseu(sseu())))),
        (
            "CONTEXT_SETPARAM of ENGINES",
            Request::ContextSetParam(param(ContextParam::engines(engine_map()))),
        ),
        (
            "CONTEXT_GETPARAM",
            Request::ContextGetParam(param(ContextParam::scalar(number::GTT_SIZE, 0))),
        ),
        ("CONTEXT_RESET_STATS", Request::ContextResetStats(stats)),
    ]
}

fn sseu() -> Sseu {
    Sseu {
        engine: RCS0,
        flags: Sseu::ENGINE_INDEX,
        slice_mask: 1,
        subslice_mask: 7,
        min_eus_per_subslice: 4,
        max_eus_per_subslice: 8,
        rsvd: 0,
    }
}

fn engine_map() -> EngineMap {
    let balance =
        EngineExtension::LoadBalance { engine_index: 1, flags: 0, mbz64: 0, engines: vec![VCS1] };
    let bond = EngineExtension::Bond {
        master: RCS0,
        virtual_index: 1,
        flags: 0,
        mbz64: [0; 4],
        engines: vec![VCS1],
    };
    let parallel = EngineExtension::ParallelSubmit {
        engine_index: 2,
        width: 2,
        num_siblings: 1,
        mbz16: 0,
        flags: 0,
        mbz64: [0; 3],
        engines: vec![RCS0, VCS1],
    };
    EngineMap {
        slots: vec![RCS0, EngineId::GAP, EngineId::GAP],
        extensions: vec![
            Extension::new(EngineExtension::LOAD_BALANCE, balance),
            Extension::new(EngineExtension::BOND, bond),
            Extension::new(EngineExtension::PARALLEL_SUBMIT, parallel),
            Extension::new(9, EngineExtension::Unknown),
        ],
    }
}

fn vm_requests() -> Vec<(&'static str, Request<FdSlot>)> {
    let vm_create = VmCreate { flags: 0, extensions: vec![Extension::new(1, ())] };
    let vm_destroy = VmDestroy { vm: VmId(2), flags: 0, extensions: vec![] };
    vec![
        ("VM_CREATE", Request::VmCreate(vm_create)),
        ("VM_DESTROY", Request::VmDestroy(vm_destroy)),
    ]
}

fn device() -> DeviceInfo {
    let rcs0 =
        EngineInfo { engine: RCS0, name: "rcs0".into(), logical_instance: 0, capabilities: 0 };
    DeviceInfo {
        driver: "soft".into(),
        name: "Kaby Lake GT3".into(),
        vendor_id: 0x8086,
        device_id: 0x5926,
        revision: 6,
        graphics_version: 9,
        gtt_bytes: 1 << 48,
        timestamp_hz: 12_000_000,
        wedged: false,
        engines: vec![rcs0],
    }
}

fn session_replies() -> Vec<(&'static str, Reply<FdSlot>)> {
    let limits = Limits {
        message_bytes: 65_536,
        fds_per_message: 4,
        contexts: 4096,
        vms: 1024,
        buffers: 16_384,
        buffer_bytes: 1 << 34,
        buffer_memory_bytes: 1 << 36,
        objects_per_execbuf: 1024,
        submissions_in_flight: 4096,
        pending_waits: 256,
        fences: 1024,
    };
    let hello = HelloReply {
        major: 1,
        minor: 0,
        features: feature::FENCE_FDS | feature::CONTEXT_CLONE,
        session: SessionId(1),
        limits,
        device: device(),
    };
    vec![
        ("HELLO", Reply::Hello(hello)),
        ("PING", Reply::Ping(Ping { payload: 0x1122_3344_5566_7788, fd: None })),
        ("PING with an fd", Reply::Ping(Ping { payload: 1, fd: Some(FdSlot) })),
        ("DEVICE_QUERY", Reply::DeviceQuery(DeviceInfo { wedged: true, ..device() })),
        ("STATUS", Reply::Status(status())),
    ]
}

fn confinement() -> Confinement {
    Confinement {
        system_calls: Wall { holds: true, why: String::new() },
        files: Wall { holds: false, why: "no Landlock".into() },
    }
}

fn usage() -> SessionUsage {
    let class = |class, capacity, busy_ns| ClassUsage { class, capacity, busy_ns };
    SessionUsage {
        session: SessionId(7),
        client_name: "cube".into(),
        engines: vec![class(class::RENDER, 1, 1_000_000), class(class::VIDEO, 2, 5)],
        memory: MemoryUsage { total: 12_288, shared: 4096, resident: 8192, active: 4096 },
        contexts: vec![ContextUsage { context: ContextId(1), busy_ns: vec![1000, 5] }],
    }
}

fn status() -> StatusPage {
    let made_by = |(id, by): (u32, Option<MaterialisedBy>)| ContextStatus {
        context: ContextId(id),
        state: by.map_or(ContextState::Proto, |by| ContextState::Live { by }),
        priority: -10,
        user_engines: id == 1,
        banned: id == 2,
    };
    let contexts = [
        Some(MaterialisedBy::Open),
        Some(MaterialisedBy::Execbuf),
        Some(MaterialisedBy::GetParam),
        Some(MaterialisedBy::ResetStats),
        Some(MaterialisedBy::Create),
        None,
    ];
    let session = SessionStatus {
        session: SessionId(1),
        client_name: "cube".into(),
        pid: 4321,
        uid: 1000,
        gid: 100,
        age_ns: 5_000_000_000,
        vms: 1,
        buffers: 3,
        buffer_bytes: 12_288,
        in_flight: 2,
        submissions: 99,
        contexts: (0..).zip(contexts).map(made_by).collect(),
        contexts_total: 6,
    };
    let daemon = DaemonStatus {
        version: "0.1.0".into(),
        driver: "soft".into(),
        pid: 4000,
        uptime_ns: 60_000_000_000,
        sessions: 1,
        sessions_total: 12,
        sessions_max: 4,
        refusals: 3,
        violations: 2,
    };
    let engine = EngineStatus {
        engine: RCS0,
        name: "rcs0".into(),
        busy_ns: 1_000_000,
        queued: 1,
        completed: 98,
        faults: 1,
    };
    StatusPage { daemon, engines: vec![engine], sessions: vec![session], more: true }
}

fn context_replies() -> Vec<(&'static str, Reply<FdSlot>)> {
    let stats = ResetStats { reset_count: 0, batch_active: 1, batch_pending: 2 };
    let map = EngineMap { slots: vec![RCS0, VCS1], extensions: vec![] };
    vec![
        ("CONTEXT_CREATE", Reply::ContextCreate(ContextCreated { context: ContextId(3) })),
        ("CONTEXT_DESTROY", Reply::ContextDestroy),
        ("CONTEXT_SETPARAM", Reply::ContextSetParam(ParamSet { size: 0 })),
        (
            "CONTEXT_GETPARAM of a scalar",
            Reply::ContextGetParam(ContextParam::scalar(number::GTT_SIZE, 1 << 48)),
        ),
        ("CONTEXT_GETPARAM of SSEU", Reply::ContextGetParam(ContextParam::sseu(sseu()))),
        ("CONTEXT_GETPARAM of ENGINES", Reply::ContextGetParam(ContextParam::engines(map))),
        ("CONTEXT_RESET_STATS", Reply::ContextResetStats(stats)),
        ("VM_CREATE", Reply::VmCreate(VmCreated { vm: VmId(2) })),
        ("VM_DESTROY", Reply::VmDestroy),
    ]
}

/// One epitaph of each code.
pub(crate) fn epitaphs() -> Vec<Epitaph> {
    rounds().map(|round| round.epitaphs).concat()
}

fn first_epitaphs() -> Vec<Epitaph> {
    use EpitaphCode::*;
    let codes = [
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
    ];
    codes.map(|code| Epitaph { code, text: format!("{code:?}") }).into()
}

/// Everything, encoded. Numbers count up, so that a mixed-up header shows.
pub(crate) fn all() -> Vec<Sample> {
    let mut out = Vec::new();
    let mut seq = 0;
    type Encode<'a> = &'a dyn Fn(u32, &mut Vec<u8>) -> Result<(), Violation>;
    let mut add = |name: String, encode: Encode<'_>| {
        seq += 1;
        let mut bytes = Vec::new();
        encode(seq, &mut bytes).expect("samples fit in a message");
        out.push(Sample { name: name.leak(), bytes });
    };
    for round in rounds() {
        for (name, request) in round.requests {
            add(format!("{name} request"), &|seq, out| codec::encode_request(seq, &request, out));
        }
        for (name, submission) in round.execbufs {
            add(format!("{name} request"), &|seq, out| submission.encode(seq, out));
        }
        for (name, change) in round.lists {
            add(format!("{name} request"), &|seq, out| change.encode(seq, out));
        }
        for (name, reply) in round.replies {
            add(format!("{name} reply"), &|seq, out| codec::encode_reply(seq, &reply, out));
        }
        for (name, opcode, refusal) in round.refusals {
            add(name.to_owned(), &|seq, out| {
                codec::encode_refusal(opcode as u16, seq, &refusal, out)
            });
        }
        for epitaph in round.epitaphs {
            let name = format!("EPITAPH event {:?}", epitaph.code);
            add(name, &|_, out| codec::encode_event(&Event::Epitaph(epitaph.clone()), out));
        }
        for hang in round.hangs {
            let name = format!("HANG event {:?}", hang.cause);
            add(name, &|_, out| codec::encode_event(&Event::Hang(hang.clone()), out));
        }
        for event in round.news {
            add(news_name(&event), &|_, out| {
                codec::encode_event(&Event::Admin(event.clone()), out)
            });
        }
    }
    out
}
