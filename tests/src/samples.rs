//! One of everything, for tests that go through all of it.

use gpu_broker_protocol::message::{
    BufferCreate, BufferOf, BufferWait, ContextCreate, ContextDestroy, ContextParamRequest,
    ContextResetStats, Ping, VmCreate, VmDestroy,
};
use gpu_broker_protocol::param::{
    ContextParam, CreateExtension, EngineId, EngineMap, Extension, create_flag,
};
use gpu_broker_protocol::status::StatusQuery;
use gpu_broker_protocol::{BufferId, ContextId, Request, SessionId, VmId};

/// One of every control request that takes no fd, valid in form.
#[must_use]
pub fn requests<Fd>() -> Vec<Request<Fd>> {
    let context = ContextId(0);
    let priority = ContextParamRequest { context, param: ContextParam::priority(0) };
    let extensions = vec![Extension::new(
        CreateExtension::SET_PARAM,
        CreateExtension::SetParam {
            context,
            param: ContextParam::engines(EngineMap {
                slots: vec![EngineId { class: 0, instance: 0 }, EngineId::GAP],
                extensions: Vec::new(),
            }),
        },
    )];
    vec![
        Request::Ping(Ping { payload: 7, fd: None }),
        Request::DeviceQuery,
        Request::Status(StatusQuery { after: SessionId(0) }),
        Request::ContextCreate(ContextCreate { flags: create_flag::USE_EXTENSIONS, extensions }),
        Request::ContextDestroy(ContextDestroy { context: ContextId(99), pad: 0 }),
        Request::ContextSetParam(priority.clone()),
        Request::ContextGetParam(priority),
        Request::ContextResetStats(ContextResetStats { context, flags: 0, pad: 0 }),
        Request::VmCreate(VmCreate::default()),
        Request::VmDestroy(VmDestroy { vm: VmId(99), flags: 0, extensions: Vec::new() }),
        Request::BufferCreate(BufferCreate { size: 4096, flags: 0, regions: None }),
        Request::BufferMap(BufferOf { buffer: BufferId(99) }),
        Request::BufferClose(BufferOf { buffer: BufferId(99) }),
        Request::BufferBusy(BufferOf { buffer: BufferId(99) }),
        Request::BufferWait(BufferWait { buffer: BufferId(99), flags: 0, timeout_ns: 0 }),
    ]
}
