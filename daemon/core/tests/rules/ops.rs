//! Random histories of two sessions on one device, against a model written from the rule table.
//!
//! After every step: each id is a proto or live exactly as the model says, a VM exists as long as
//! something refers to it, nothing else exists on the device, and what was created less what was
//! released is what is there. proptest prints the shortest history that fails and its seed.
#![expect(clippy::wildcard_enum_match_arm, reason = "each function is handed its operations only")]

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use gpu_broker_core::hands::Outcome;
use gpu_broker_core::{Session, SessionLimits, Time};
use gpu_broker_protocol::execbuf::{self, Execbuf, ExecbufHead, ExecbufLists};
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::status::ContextState;
use gpu_broker_protocol::{BufferId, ContextId, SessionId, VmId};
use proptest::prelude::*;

use crate::fake::{Device, Fake, out_of_memory};
use crate::history::{Map, Op, op};
use crate::rig::*;

const CONTEXTS_MAX: u32 = 6;
const VMS_MAX: u32 = 4;
const BUFFERS_MAX: u32 = 5;

/// An address space of the model: exists as long as something holds it.
type ModelVm = Rc<()>;

#[derive(Clone)]
struct ModelContext {
    live: bool,
    vm: Option<ModelVm>,
    map: Option<Map>,
    map_cloned: bool,
    priority: i32,
    recoverable: bool,
    guilty: u32,
    hangs: Vec<u64>,
    banned: bool,
    /// Tells contexts apart that had the same id.
    birth: u64,
}

struct ModelSession {
    contexts: BTreeMap<u32, ModelContext>,
    vms: BTreeMap<u32, ModelVm>,
    /// Handle → pages.
    buffers: BTreeMap<u32, u64>,
    score: u32,
    last_hang: u64,
    /// Tag, context's id and birth of what is in flight.
    in_flight: Vec<(u64, u32, u64)>,
}

struct World {
    device: Arc<Device>,
    registry: Arc<gpu_broker_core::Registry<Fake>>,
    sessions: Vec<Session<Fake>>,
    models: Vec<ModelSession>,
    vms_ever: Vec<Weak<()>>,
    births: u64,
    now: u64,
    fail_next: bool,
}

fn lowest_free<T>(taken: &BTreeMap<u32, T>) -> u32 {
    (1..).find(|id| !taken.contains_key(id)).unwrap()
}

impl World {
    fn new() -> Self {
        let hands = Fake::default();
        let device = Arc::clone(&hands.0);
        let registry = Arc::default();
        let limits = SessionLimits {
            contexts: CONTEXTS_MAX,
            vms: VMS_MAX,
            buffers: BUFFERS_MAX,
            ..SessionLimits::default()
        };
        let mut world = Self {
            device,
            registry: Arc::clone(&registry),
            sessions: Vec::new(),
            models: Vec::new(),
            vms_ever: Vec::new(),
            births: 0,
            now: 1000,
            fail_next: false,
        };
        for id in 0..2 {
            let (hands, registry) = (hands.clone(), Arc::clone(&registry));
            let session =
                Session::open(NOW, SessionId(id), hands, registry, Arc::new(kbl()), NOBODY, limits);
            world.sessions.push(session.unwrap());
            let mut default = world.new_context();
            default.live = true;
            default.vm = Some(world.new_vm());
            world.models.push(ModelSession {
                contexts: BTreeMap::from([(0, default)]),
                vms: BTreeMap::new(),
                buffers: BTreeMap::new(),
                score: 0,
                last_hang: 1000,
                in_flight: Vec::new(),
            });
        }
        world
    }

    fn new_vm(&mut self) -> ModelVm {
        let vm = Rc::new(());
        self.vms_ever.push(Rc::downgrade(&vm));
        vm
    }

    fn new_context(&mut self) -> ModelContext {
        self.births += 1;
        ModelContext {
            live: false,
            vm: None,
            map: None,
            map_cloned: false,
            priority: 0,
            recoverable: true,
            guilty: 0,
            hangs: Vec::new(),
            banned: false,
            birth: self.births,
        }
    }

    /// Rule table §7 in the model: errno, or the context is live now.
    fn materialise(&mut self, who: usize, id: u32) -> i32 {
        let Some(context) = self.models[who].contexts.get(&id) else { return ENOENT };
        if context.live {
            return 0;
        }
        if matches!(context.map, Some(Map::Doubled)) {
            return EINVAL;
        }
        if std::mem::take(&mut self.fail_next) {
            return ENOMEM;
        }
        let vm = if context.vm.is_none() { Some(self.new_vm()) } else { None };
        let context = self.models[who].contexts.get_mut(&id).unwrap();
        context.live = true;
        context.vm = context.vm.take().or(vm);
        0
    }

    fn insert_context(&mut self, who: usize, context: ModelContext) -> (i32, Option<u32>) {
        let model = &mut self.models[who];
        if model.contexts.len() > CONTEXTS_MAX as usize {
            return (ENOMEM, None);
        }
        let id = lowest_free(&model.contexts);
        model.contexts.insert(id, context);
        (0, Some(id))
    }

    fn create(
        &mut self,
        who: usize,
        flags: u32,
        chain: Vec<Extension<CreateExtension>>,
    ) -> (i32, Option<u32>) {
        let request = ContextCreate { flags, extensions: chain };
        let result = self.sessions[who].context_create(NOW, &request);
        (errno(&result), result.ok().map(|created| created.context.0))
    }

    fn set(&mut self, who: usize, context: u32, param: ContextParam) -> i32 {
        let request = ContextParamRequest { context: ContextId(context), param };
        errno(&self.sessions[who].context_set_param(&request))
    }

    fn get(&mut self, who: usize, context: u32, number: u64) -> Result<u64, i32> {
        let param = ContextParam::scalar(number, 0);
        let request = ContextParamRequest { context: ContextId(context), param };
        match self.sessions[who].context_get_param(&request) {
            Ok(ContextParam { value: ParamValue::Scalar(value), .. }) => Ok(value),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.errno()),
        }
    }

    fn apply(&mut self, who: usize, op: Op) {
        match op {
            Op::Create { single_timeline } => {
                let flags = if single_timeline { create_flag::SINGLE_TIMELINE } else { 0 };
                let got = self.create(who, flags, Vec::new());
                let context = self.new_context();
                let expected = self.expect_create(who, Ok(context));
                assert_eq!(got, expected);
            }
            Op::Clone { source, flags } => {
                let chain = vec![clone_node(source, flags)];
                let got = self.create(who, create_flag::USE_EXTENSIONS, chain);
                let context = self.cloned(who, source, flags);
                let expected = self.expect_create(who, context);
                assert_eq!(got, expected);
            }
            Op::VmCreate => {
                let result = self.sessions[who].vm_create(&VmCreate::default());
                let full = self.models[who].vms.len() == VMS_MAX as usize;
                let expected = if full { Err(ENOMEM) } else { Ok(self.give_vm(who, None)) };
                assert_eq!(result.map(|vm| vm.vm.0).map_err(|refusal| refusal.errno()), expected);
            }
            Op::VmDestroy { vm } => {
                let request = VmDestroy { vm: VmId(vm), flags: 0, extensions: Vec::new() };
                let got = errno(&self.sessions[who].vm_destroy(&request));
                let known = self.models[who].vms.remove(&vm).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            Op::BufferCreate { pages } => {
                let request = BufferCreate { size: pages * 4096 - 1, flags: 0, regions: None };
                let result = self.sessions[who].buffer_create(&request);
                let buffers = &mut self.models[who].buffers;
                if buffers.len() == BUFFERS_MAX as usize {
                    assert_eq!(errno(&result), ENOMEM);
                } else {
                    let id = lowest_free(buffers);
                    buffers.insert(id, pages);
                    assert_eq!(result.unwrap().buffer, BufferId(id));
                }
            }
            Op::BufferClose { buffer } => {
                let got = errno(&self.sessions[who].buffer_close(BufferId(buffer)));
                let known = self.models[who].buffers.remove(&buffer).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            Op::Exec { context, first, second } => self.exec(who, context, first, second),
            Op::End { which, guilty } => self.end(who, which, guilty),
            Op::FailNextContext => {
                *self.device.fail_context.lock().unwrap() = Some(out_of_memory());
                self.fail_next = true;
            }
            Op::Pass { seconds } => self.now += seconds,
            Op::Destroy { context } => {
                let request = ContextDestroy { context: ContextId(context), pad: 0 };
                let got = errno(&self.sessions[who].context_destroy(&request));
                let known = context != 0 && self.models[who].contexts.remove(&context).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            Op::SetPriority { .. }
            | Op::SetRecoverable { .. }
            | Op::SetVm { .. }
            | Op::SetEngines { .. } => self.apply_set(who, op),
            Op::GetPriority { .. } | Op::GetVm { .. } | Op::Stats { .. } => self.apply_get(who, op),
        }
    }

    fn apply_set(&mut self, who: usize, op: Op) {
        let (id, param) = match &op {
            Op::SetPriority { context, value } => {
                (*context, ContextParam::priority((*value).into()))
            }
            Op::SetRecoverable { context, on } => {
                (*context, ContextParam::scalar(number::RECOVERABLE, (*on).into()))
            }
            Op::SetVm { context, vm } => (*context, ContextParam::scalar(number::VM, (*vm).into())),
            Op::SetEngines { context, map } => (*context, engines_of(*map)),
            other => panic!("{other:?} sets nothing"),
        };
        let got = self.set(who, id, param);
        let ModelSession { contexts, vms, .. } = &mut self.models[who];
        let Some(context) = contexts.get_mut(&id) else { return assert_eq!(got, ENOENT) };
        let expected = match op {
            Op::SetPriority { value, .. } if value.abs() > 1023 => EINVAL,
            Op::SetPriority { value, .. } if value > 0 => EPERM,
            Op::SetPriority { value, .. } => {
                context.priority = value;
                0
            }
            Op::SetRecoverable { on, .. } => {
                context.recoverable = on;
                0
            }
            Op::SetVm { .. } | Op::SetEngines { .. } if context.live => EINVAL,
            Op::SetVm { vm, .. } => match vms.get(&vm) {
                Some(vm) => {
                    context.vm = Some(Rc::clone(vm));
                    0
                }
                None => ENOENT,
            },
            Op::SetEngines { .. } if context.map.is_some() && !context.map_cloned => EINVAL,
            Op::SetEngines { map, .. } => {
                (context.map, context.map_cloned) = (Some(map), false);
                0
            }
            other => panic!("{other:?} sets nothing"),
        };
        assert_eq!(got, expected);
    }

    fn apply_get(&mut self, who: usize, op: Op) {
        let id = match op {
            Op::GetPriority { context } | Op::GetVm { context } | Op::Stats { context } => context,
            other => panic!("{other:?} gets nothing"),
        };
        let got = match op {
            Op::GetVm { .. } => self.get(who, id, number::VM),
            Op::Stats { .. } => {
                let request = ContextResetStats { context: ContextId(id), flags: 0, pad: 0 };
                let stats = self.sessions[who].context_reset_stats(&request);
                stats.map(|stats| stats.batch_active.into()).map_err(|refusal| refusal.errno())
            }
            _ => self.get(who, id, number::PRIORITY),
        };
        let expected = match self.materialise(who, id) {
            0 => {
                let context = self.models[who].contexts[&id].clone();
                match op {
                    Op::GetVm { .. } if self.models[who].vms.len() == VMS_MAX as usize => {
                        Err(ENOMEM)
                    }
                    Op::GetVm { .. } => Ok(self.give_vm(who, context.vm).into()),
                    Op::Stats { .. } => Ok(context.guilty.into()),
                    _ => Ok(i64::from(context.priority).cast_unsigned()),
                }
            }
            refused => Err(refused),
        };
        assert_eq!(got, expected);
    }

    /// A handle for a VM, a new one unless given.
    fn give_vm(&mut self, who: usize, vm: Option<ModelVm>) -> u32 {
        let vm = vm.unwrap_or_else(|| self.new_vm());
        let id = lowest_free(&self.models[who].vms);
        self.models[who].vms.insert(id, vm);
        id
    }

    fn expect_create(
        &mut self,
        who: usize,
        context: Result<ModelContext, i32>,
    ) -> (i32, Option<u32>) {
        if self.models[who].score >= 9 {
            return (EIO, None);
        }
        match context {
            Ok(context) => self.insert_context(who, context),
            Err(errno) => (errno, None),
        }
    }

    /// Rule table §16 in the model.
    fn cloned(&mut self, who: usize, source: u32, flags: u32) -> Result<ModelContext, i32> {
        let mut context = self.new_context();
        if flags & !0x3f != 0 {
            return Err(EINVAL);
        }
        let source = self.models[who].contexts.get(&source).ok_or(ENOENT)?;
        if flags & clone_flag::ENGINES != 0 {
            (context.map, context.map_cloned) = (source.map, true);
        }
        if flags & clone_flag::FLAGS != 0 {
            context.recoverable = source.recoverable;
        }
        if flags & clone_flag::SCHEDATTR != 0 {
            context.priority = source.priority;
        }
        let same = match (context.map, source.map) {
            (None, None) | (Some(_), Some(_)) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if flags & clone_flag::SSEU != 0 && !same {
            return Err(EINVAL);
        }
        if flags & clone_flag::VM != 0 {
            context.vm = source.vm.clone();
        }
        Ok(context)
    }

    fn exec(
        &mut self,
        who: usize,
        context: u32,
        first: (u32, Option<u64>),
        second: Option<(u32, Option<u64>)>,
    ) {
        let named: Vec<_> = std::iter::once(first).chain(second).collect();
        let objects: Vec<_> = named
            .iter()
            .map(|(handle, pin)| match pin {
                Some(page) => pinned(*handle, page * 4096),
                None => object(*handle),
            })
            .collect();
        let mut body = Vec::new();
        let head = ExecbufHead { context, ..ExecbufHead::default() };
        let lists = ExecbufLists { objects: &objects, ..ExecbufLists::default() };
        execbuf::encode(&head, &lists, &mut body);
        let submissions = self.device.submissions.lock().unwrap().len();
        let result = self.sessions[who].execbuf(NOW, &Execbuf::decode(&body).unwrap(), None);
        let expected = self.expect_exec(who, context, &named);
        assert_eq!(errno(&result), expected, "{result:?}");
        let submitted = self.device.submissions.lock().unwrap().len() - submissions;
        assert_eq!(submitted, usize::from(expected == 0));
        if expected == 0 {
            let seen = self.device.last_submission();
            for ((_, pin), address) in named.iter().zip(&seen.addresses) {
                assert!(pin.is_none_or(|page| page * 4096 == *address), "a pin was not honoured");
            }
            let birth = self.models[who].contexts[&context].birth;
            self.models[who].in_flight.push((seen.tag, context, birth));
        }
    }

    fn expect_exec(&mut self, who: usize, context: u32, named: &[(u32, Option<u64>)]) -> i32 {
        let materialised = self.materialise(who, context);
        if materialised != 0 {
            return materialised;
        }
        let model = &self.models[who];
        if matches!(model.contexts[&context].map, Some(Map::Empty)) {
            return EINVAL;
        }
        for (index, (handle, _)) in named.iter().enumerate() {
            if !model.buffers.contains_key(handle) {
                return ENOENT;
            }
            if named[..index].iter().any(|(earlier, _)| earlier == handle) {
                return EINVAL;
            }
        }
        if model.contexts[&context].banned {
            return EIO;
        }
        match named {
            [(first, Some(a)), (second, Some(b))]
                if *a < b + model.buffers[second] && *b < a + model.buffers[first] =>
            {
                ENOSPC
            }
            _ => 0,
        }
    }

    /// Rule table §12 in the model.
    fn end(&mut self, who: usize, which: usize, guilty: bool) {
        let model = &mut self.models[who];
        if model.in_flight.is_empty() {
            return;
        }
        let which = which % model.in_flight.len();
        let (tag, id, birth) = model.in_flight.swap_remove(which);
        let outcome = if guilty { Outcome::Guilty } else { Outcome::Completed };
        self.sessions[who].handle_completion(Time::from_secs(self.now), tag, outcome);
        let context = model.contexts.get_mut(&id).filter(|context| context.birth == birth);
        let Some(context) = context.filter(|_| guilty) else { return };
        context.guilty += 1;
        context.hangs.push(self.now);
        let third = context.hangs.iter().rev().nth(2).is_some_and(|hang| self.now - hang < 120);
        let banned = !context.recoverable || third;
        context.banned |= banned;
        let fast = self.now - model.last_hang < 60;
        model.score += if banned { 3 } else { 0 } + u32::from(fast);
        model.last_hang = self.now;
    }

    fn check(&self) {
        let mut live = 0;
        for (session, model) in self.sessions.iter().zip(&self.models) {
            let status = session.status(usize::MAX);
            let seen: Vec<_> = status
                .contexts
                .iter()
                .map(|context| {
                    let proto = context.state == ContextState::Proto;
                    (
                        context.context.0,
                        !proto,
                        context.priority,
                        context.user_engines,
                        context.banned,
                    )
                })
                .collect();
            let expected: Vec<_> = model
                .contexts
                .iter()
                .map(|(id, it)| (*id, it.live, it.priority, it.map.is_some(), it.banned))
                .collect();
            assert_eq!(seen, expected);
            assert_eq!(status.contexts_total as usize, expected.len());
            assert_eq!(status.vms as usize, model.vms.len());
            assert_eq!(status.buffers as usize, model.buffers.len());
            assert_eq!(status.buffer_bytes, model.buffers.values().sum::<u64>() * 4096);
            assert_eq!(status.in_flight as usize, model.in_flight.len());
            assert_eq!(status.ban_score, model.score);
            live += model.contexts.values().filter(|context| context.live).count();
        }
        let vms = self.vms_ever.iter().filter(|vm| vm.strong_count() > 0).count();
        let buffers: usize = self.models.iter().map(|model| model.buffers.len()).sum();
        let expected = [vms, live, buffers].map(|count| i64::try_from(count).unwrap());
        assert_eq!(<[i64; 3]>::from(self.device.counts()), expected, "VMs, contexts, buffers");
        assert_eq!(self.registry.live_contexts(), live);
    }
}

fn engines_of(map_kind: Map) -> ContextParam {
    let balanced = |engines: &[EngineId]| map_with(&[EngineId::GAP], vec![balance(0, engines)]);
    match map_kind {
        Map::Render => map(&[RCS]),
        Map::Empty => map(&[]),
        Map::Balanced => balanced(&[VCS0, VCS1]),
        Map::Doubled => balanced(&[VCS0, VCS0]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_history_goes_as_the_table_says_and_nothing_outlives_its_session(
        ops in proptest::collection::vec(op(), 1..120)
    ) {
        let mut world = World::new();
        for (who, op) in ops {
            world.apply(who, op);
            world.check();
        }
        world.sessions.clear();
        assert_eq!(world.device.counts(), (0, 0, 0), "something outlived its session");
        assert_eq!(world.registry.live_contexts(), 0);
    }
}
