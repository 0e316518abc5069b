//! Short ways to say what tests say often.

use std::sync::Arc;

use gpu_broker_core::{
    Capabilities, Executed, Hands as _, Privileges, Registry, Session, SessionLimits, Time,
};
use gpu_broker_protocol::execbuf::{
    self, ExecObject, Execbuf, ExecbufHead, ExecbufLists, object_flag,
};
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::status::{ContextState, ContextStatus};
use gpu_broker_protocol::syncobj::{self, SyncobjCreate, SyncobjTimelineSignal};
use gpu_broker_protocol::{BufferId, ContextId, Refusal, SessionId, SyncobjId, VmId};

use crate::fake::{Device, Fake};

pub(crate) const NOBODY: Privileges = Privileges::NONE;
pub(crate) const ADMIN: Privileges = Privileges { priority_max: 0, ..Privileges::ALL };
pub(crate) const NICE: Privileges = Privileges { priority_max: 1023, ..Privileges::NONE };
pub(crate) const ROOT: Privileges = Privileges::ALL;

pub(crate) const NOW: Time = Time::from_secs(1000);

/// One session on a fake device.
pub(crate) struct Rig {
    pub(crate) device: Arc<Device>,
    pub(crate) registry: Arc<Registry<Fake>>,
    pub(crate) session: Session<Fake>,
}

pub(crate) fn kbl() -> Capabilities {
    Capabilities::kaby_lake_gt3()
}

pub(crate) fn rig() -> Rig {
    rig_with(kbl(), NOBODY)
}

pub(crate) fn rig_with(caps: Capabilities, privileges: Privileges) -> Rig {
    limited(caps, privileges, SessionLimits::default())
}

pub(crate) fn limited(caps: Capabilities, privileges: Privileges, limits: SessionLimits) -> Rig {
    let hands = Fake::default();
    let device = Arc::clone(&hands.0);
    let registry = Arc::new(Registry::new());
    let session = Session::open(
        NOW,
        SessionId(2),
        hands,
        Arc::clone(&registry),
        Arc::new(caps),
        privileges,
        limits,
    )
    .unwrap();
    Rig { device, registry, session }
}

pub(crate) fn set_node(param: ContextParam) -> Extension<CreateExtension> {
    let body = CreateExtension::SetParam { context: ContextId(0), param };
    Extension::new(CreateExtension::SET_PARAM, body)
}

pub(crate) fn clone_node(source: u32, flags: u32) -> Extension<CreateExtension> {
    let body = CreateExtension::Clone(CloneFrom { source: ContextId(source), flags, rsvd: 0 });
    Extension::new(CreateExtension::CLONE, body)
}

pub(crate) fn engine(class: u16, instance: u16) -> EngineId {
    EngineId { class, instance }
}

pub(crate) const RCS: EngineId = EngineId { class: 0, instance: 0 };
pub(crate) const BCS: EngineId = EngineId { class: 1, instance: 0 };
pub(crate) const VCS0: EngineId = EngineId { class: 2, instance: 0 };
pub(crate) const VCS1: EngineId = EngineId { class: 2, instance: 1 };

pub(crate) fn map(slots: &[EngineId]) -> ContextParam {
    ContextParam::engines(EngineMap { slots: slots.to_vec(), extensions: Vec::new() })
}

pub(crate) fn map_with(
    slots: &[EngineId],
    extensions: Vec<Extension<EngineExtension>>,
) -> ContextParam {
    ContextParam::engines(EngineMap { slots: slots.to_vec(), extensions })
}

pub(crate) fn balance(index: u16, engines: &[EngineId]) -> Extension<EngineExtension> {
    let body = EngineExtension::LoadBalance {
        engine_index: index,
        flags: 0,
        mbz64: 0,
        engines: engines.to_vec(),
    };
    Extension::new(EngineExtension::LOAD_BALANCE, body)
}

pub(crate) fn parallel(
    index: u16,
    width: u16,
    siblings: u16,
    engines: &[EngineId],
) -> Extension<EngineExtension> {
    let body = EngineExtension::ParallelSubmit {
        engine_index: index,
        width,
        num_siblings: siblings,
        mbz16: 0,
        flags: 0,
        mbz64: [0; 3],
        engines: engines.to_vec(),
    };
    Extension::new(EngineExtension::PARALLEL_SUBMIT, body)
}

/// Bit 47 repeated in the bits above.
pub(crate) fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

/// An object that may lie anywhere.
pub(crate) fn object(handle: u32) -> ExecObject {
    ExecObject { handle, flags: object_flag::SUPPORTS_48B, ..ExecObject::default() }
}

pub(crate) fn pinned(handle: u32, offset: u64) -> ExecObject {
    let flags = object_flag::PINNED | object_flag::SUPPORTS_48B;
    ExecObject { handle, flags, offset, ..ExecObject::default() }
}

impl Rig {
    pub(crate) fn create_with(
        &self,
        flags: u32,
        extensions: Vec<Extension<CreateExtension>>,
    ) -> Result<u32, Refusal> {
        let request = ContextCreate { flags, extensions };
        self.session.context_create(NOW, &request).map(|created| created.context.0)
    }

    pub(crate) fn create_ext(
        &self,
        extensions: Vec<Extension<CreateExtension>>,
    ) -> Result<u32, Refusal> {
        self.create_with(create_flag::USE_EXTENSIONS, extensions)
    }

    pub(crate) fn create(&self) -> u32 {
        self.create_with(0, Vec::new()).unwrap()
    }

    pub(crate) fn destroy(&self, context: u32) -> Result<(), Refusal> {
        self.session.context_destroy(&ContextDestroy { context: ContextId(context), pad: 0 })
    }

    pub(crate) fn set(&self, context: u32, param: ContextParam) -> Result<ParamSet, Refusal> {
        let context = ContextId(context);
        self.session.context_set_param(&ContextParamRequest { context, param })
    }

    pub(crate) fn get(&self, context: u32, param: u64) -> Result<u64, Refusal> {
        match self.get_param(context, ContextParam::scalar(param, 0))?.value {
            ParamValue::Scalar(value) => Ok(value),
            other @ (ParamValue::Sseu(_) | ParamValue::Engines(_)) => {
                panic!("not a scalar: {other:?}")
            }
        }
    }

    pub(crate) fn get_param(
        &self,
        context: u32,
        param: ContextParam,
    ) -> Result<ContextParam, Refusal> {
        let context = ContextId(context);
        self.session.context_get_param(&ContextParamRequest { context, param })
    }

    pub(crate) fn stats(&self, context: u32) -> Result<ResetStats, Refusal> {
        let context = ContextId(context);
        self.session.context_reset_stats(&ContextResetStats { context, flags: 0, pad: 0 })
    }

    /// Makes it live, and the request must succeed.
    pub(crate) fn materialise(&self, context: u32) {
        self.stats(context).unwrap();
    }

    pub(crate) fn vm(&self) -> u32 {
        self.session.vm_create(&VmCreate::default()).unwrap().vm.0
    }

    pub(crate) fn vm_destroy(&self, vm: u32) -> Result<(), Refusal> {
        let request = VmDestroy { vm: VmId(vm), flags: 0, extensions: Vec::new() };
        self.session.vm_destroy(&request)
    }

    pub(crate) fn buffer(&self, size: u64) -> u32 {
        self.session
            .buffer_create(&BufferCreate { size, flags: 0, regions: None })
            .unwrap()
            .buffer
            .0
    }

    pub(crate) fn close_buffer(&self, buffer: u32) -> Result<(), Refusal> {
        self.session.buffer_close(BufferId(buffer))
    }

    pub(crate) fn submit(
        &self,
        head: ExecbufHead,
        objects: &[ExecObject],
    ) -> Result<Executed<u64>, Refusal> {
        self.submit_after(head, objects, None)
    }

    pub(crate) fn submit_after(
        &self,
        head: ExecbufHead,
        objects: &[ExecObject],
        fence: Option<u64>,
    ) -> Result<Executed<u64>, Refusal> {
        self.submit_lists(head, ExecbufLists { objects, ..ExecbufLists::default() }, fence)
    }

    pub(crate) fn submit_lists(
        &self,
        head: ExecbufHead,
        lists: ExecbufLists<'_>,
        fence: Option<u64>,
    ) -> Result<Executed<u64>, Refusal> {
        let mut body = Vec::new();
        execbuf::encode(&head, &lists, &mut body);
        self.session.execbuf(NOW, &Execbuf::decode(&body).unwrap(), fence)
    }

    pub(crate) fn syncobj(&self, signalled: bool) -> u32 {
        let flags = if signalled { syncobj::flag::CREATE_SIGNALED } else { 0 };
        self.session.syncobj_create(&SyncobjCreate { flags }).unwrap().syncobj.0
    }

    /// A signalled point of a timeline.
    pub(crate) fn signal(&self, syncobj: u32, point: u64) {
        let syncobjs = vec![SyncobjId(syncobj)];
        let request = SyncobjTimelineSignal { syncobjs, points: vec![point], flags: 0 };
        self.session.syncobj_timeline_signal(&request).unwrap();
    }

    pub(crate) fn fence_in(&self, syncobj: u32, point: u64) -> Option<u64> {
        let syncobj = self.session.syncobj(SyncobjId(syncobj)).unwrap();
        self.session.hands().syncobj_fence(&syncobj, point)
    }

    /// What the device calls the syncobj.
    pub(crate) fn serial_of(&self, syncobj: u32) -> u64 {
        self.session.syncobj(SyncobjId(syncobj)).unwrap().object.serial
    }

    /// Runs a batch of one page on slot or ring 0.
    pub(crate) fn run(&self, context: u32, objects: &[ExecObject]) -> Result<Vec<u64>, Refusal> {
        let head = ExecbufHead { context, ..ExecbufHead::default() };
        self.submit(head, objects).map(|executed| executed.offsets)
    }

    pub(crate) fn context(&self, context: u32) -> Option<ContextStatus> {
        let status = self.session.status(usize::MAX);
        status.contexts.into_iter().find(|found| found.context.0 == context)
    }

    pub(crate) fn is_live(&self, context: u32) -> bool {
        match self.context(context).expect("no such context").state {
            ContextState::Live { .. } => true,
            ContextState::Proto => false,
        }
    }
}

/// The errno of a refusal, 0 for success.
pub(crate) fn errno<T>(result: &Result<T, Refusal>) -> i32 {
    result.as_ref().err().map_or(0, Refusal::errno)
}

/// Asserts the reason of a refusal.
#[macro_export]
macro_rules! refused {
    ($reason:ident, $result:expr) => {
        match $result {
            Err(refusal) => {
                assert_eq!(refusal.reason, gpu_broker_protocol::Reason::$reason, "{refusal}")
            }
            Ok(_) => panic!("{} was not refused", stringify!($result)),
        }
    };
}
