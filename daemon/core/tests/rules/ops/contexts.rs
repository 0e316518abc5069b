//! Contexts and VMs in the model (rule table §2, §4, §7, §8, §10, §12, §16).

use std::rc::Rc;

use gpu_broker_core::hands::Outcome;
use gpu_broker_protocol::message::*;
use gpu_broker_protocol::param::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::{ContextId, VmId};

use super::history::{Flag, Map, Op};
use super::*;

const DEFAULT_FLAGS: [bool; 4] = [false, true, true, true];

fn number_of(flag: Flag) -> u64 {
    match flag {
        Flag::NoErrorCapture => number::NO_ERROR_CAPTURE,
        Flag::Bannable => number::BANNABLE,
        Flag::Recoverable => number::RECOVERABLE,
        Flag::Persistence => number::PERSISTENCE,
    }
}

fn engines_of(kind: Map) -> ContextParam {
    let virtual_map = |node| map_with(&[EngineId::GAP], vec![node]);
    match kind {
        Map::Render => map(&[RCS]),
        Map::Empty => map(&[]),
        Map::Balanced => virtual_map(balance(0, &[VCS0, VCS1])),
        Map::Parallel => virtual_map(parallel(0, 2, 1, &[VCS0, VCS1])),
        Map::Doubled => virtual_map(balance(0, &[VCS0, VCS0])),
    }
}

impl ModelContext {
    fn flag(&self, flag: Flag) -> bool {
        self.flags[flag as usize]
    }

    /// A parallel slot and a single timeline exclude each other.
    fn conflict(&self) -> bool {
        self.map == Some(Map::Parallel) && self.timeline.is_some()
    }
}

impl World {
    pub(super) fn new_context(&mut self) -> ModelContext {
        self.births += 1;
        ModelContext {
            live: false,
            vm: None,
            map: None,
            map_cloned: false,
            priority: 0,
            flags: DEFAULT_FLAGS,
            timeline: None,
            guilty: 0,
            hangs: Vec::new(),
            banned: false,
            birth: self.births,
        }
    }

    /// Rule table §7 in the model: errno, or the context is live now.
    pub(super) fn materialise(&mut self, who: usize, id: u32) -> i32 {
        let Some(context) = self.models[who].contexts.get(&id) else { return ENOENT };
        if context.live {
            return 0;
        }
        if context.map == Some(Map::Doubled) {
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

    pub(super) fn apply_life(&mut self, who: usize, op: Op) {
        match op {
            Op::Create { single_timeline } => {
                let flags = if single_timeline { create_flag::SINGLE_TIMELINE } else { 0 };
                let timeline = single_timeline.then(ModelTimeline::default);
                let context = ModelContext { timeline, ..self.new_context() };
                self.create(who, flags, Vec::new(), Ok(context));
            }
            Op::Clone { source, flags } => {
                let chain = vec![clone_node(source, flags)];
                let context = self.cloned(who, source, flags);
                self.create(who, create_flag::USE_EXTENSIONS, chain, context);
            }
            Op::VmCreate => {
                let result = self.sessions[who].vm_create(&VmCreate::default());
                let expected = self.give_vm(who, None);
                assert_eq!(result.map(|vm| vm.vm.0).map_err(|refusal| refusal.errno()), expected);
            }
            Op::VmDestroy { vm } => {
                let request = VmDestroy { vm: VmId(vm), flags: 0, extensions: Vec::new() };
                let got = errno(&self.sessions[who].vm_destroy(&request));
                let known = self.models[who].vms.remove(&vm).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            Op::Destroy { context } => {
                let request = ContextDestroy { context: ContextId(context), pad: 0 };
                let got = errno(&self.sessions[who].context_destroy(&request));
                let known = context != 0 && self.models[who].contexts.remove(&context).is_some();
                assert_eq!(got, if known { 0 } else { ENOENT });
            }
            other => panic!("{other:?} is no matter of life and death"),
        }
    }

    fn create(
        &mut self,
        who: usize,
        flags: u32,
        extensions: Vec<Extension<CreateExtension>>,
        context: Result<ModelContext, i32>,
    ) {
        let request = ContextCreate { flags, extensions };
        let result = self.sessions[who].context_create(NOW, &request);
        let got = result.map(|created| created.context.0).map_err(|refusal| refusal.errno());
        let model = &mut self.models[who];
        let expected = match context {
            _ if self.wedged || model.score >= 9 => Err(EIO),
            Err(errno) => Err(errno),
            Ok(_) if model.contexts.len() > CONTEXTS_MAX as usize => Err(ENOMEM),
            Ok(context) => {
                let id = lowest_free(&model.contexts);
                model.contexts.insert(id, context);
                Ok(id)
            }
        };
        assert_eq!(got, expected);
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
            context.flags = source.flags;
        }
        if flags & clone_flag::SCHEDATTR != 0 {
            context.priority = source.priority;
        }
        if flags & clone_flag::SSEU != 0 && context.map != source.map {
            return Err(EINVAL);
        }
        if flags & clone_flag::TIMELINE != 0 {
            context.timeline.clone_from(&source.timeline);
        }
        if context.conflict() {
            return Err(EINVAL);
        }
        if flags & clone_flag::VM != 0 {
            context.vm.clone_from(&source.vm);
        }
        Ok(context)
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

    pub(super) fn apply_set(&mut self, who: usize, op: Op) {
        let (id, param) = match op {
            Op::SetPriority { context, value } => (context, ContextParam::priority(value.into())),
            Op::SetFlag { context, flag, on } => {
                (context, ContextParam::scalar(number_of(flag), on.into()))
            }
            Op::SetVm { context, vm } => (context, ContextParam::scalar(number::VM, vm.into())),
            Op::SetEngines { context, map } => (context, engines_of(map)),
            other => panic!("{other:?} sets nothing"),
        };
        let got = self.set(who, id, param);
        let ModelSession { contexts, vms, privileged, .. } = &mut self.models[who];
        let Some(context) = contexts.get_mut(&id) else { return assert_eq!(got, ENOENT) };
        let expected = match op {
            Op::SetPriority { value, .. } if value.abs() > 1023 => EINVAL,
            Op::SetPriority { value, .. } if value > 0 && !*privileged => EPERM,
            Op::SetPriority { value, .. } => {
                context.priority = value;
                0
            }
            Op::SetFlag { flag: Flag::Bannable, on: false, .. } if !*privileged => EPERM,
            Op::SetFlag { flag, on, .. } => {
                context.flags[flag as usize] = on;
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
            Op::SetEngines { map: Map::Parallel, .. } if context.timeline.is_some() => EINVAL,
            Op::SetEngines { map, .. } => {
                (context.map, context.map_cloned) = (Some(map), false);
                0
            }
            other => panic!("{other:?} sets nothing"),
        };
        assert_eq!(got, expected);
    }

    pub(super) fn apply_get(&mut self, who: usize, op: Op) {
        let (id, got) = match op {
            Op::GetPriority { context } => (context, self.get(who, context, number::PRIORITY)),
            Op::GetFlag { context, flag } => (context, self.get(who, context, number_of(flag))),
            Op::GetVm { context } => (context, self.get(who, context, number::VM)),
            Op::Stats { context } => {
                let request = ContextResetStats { context: ContextId(context), flags: 0, pad: 0 };
                let stats = self.sessions[who].context_reset_stats(&request);
                let both = |stats: ResetStats| {
                    u64::from(stats.reset_count) << 32 | u64::from(stats.batch_active)
                };
                (context, stats.map(both).map_err(|refusal| refusal.errno()))
            }
            other => panic!("{other:?} gets nothing"),
        };
        let expected = match self.materialise(who, id) {
            0 => {
                let context = self.models[who].contexts[&id].clone();
                match op {
                    Op::GetVm { .. } => self.give_vm(who, context.vm).map(u64::from),
                    Op::GetFlag { flag, .. } => Ok(context.flag(flag).into()),
                    Op::Stats { .. } => {
                        let resets = if self.models[who].privileged { self.resets } else { 0 };
                        Ok(u64::from(resets) << 32 | u64::from(context.guilty))
                    }
                    _ => Ok(i64::from(context.priority).cast_unsigned()),
                }
            }
            refused => Err(refused),
        };
        assert_eq!(got, expected);
    }

    /// A handle for a VM, a new one unless given.
    fn give_vm(&mut self, who: usize, vm: Option<ModelVm>) -> Result<u32, i32> {
        if self.models[who].vms.len() == VMS_MAX as usize {
            return Err(ENOMEM);
        }
        let vm = vm.unwrap_or_else(|| self.new_vm());
        let id = lowest_free(&self.models[who].vms);
        self.models[who].vms.insert(id, vm);
        Ok(id)
    }

    /// Rule table §12 in the model.
    pub(super) fn end(&mut self, who: usize, which: usize, guilty: bool) {
        let model = &mut self.models[who];
        if model.in_flight.is_empty() {
            return;
        }
        let which = which % model.in_flight.len();
        let InFlight { tag, context: id, birth, fence } = model.in_flight.swap_remove(which);
        self.device.signal(fence);
        self.signalled.push(fence);
        let outcome = if guilty { Outcome::Guilty } else { Outcome::Completed };
        self.sessions[who].handle_completion(at(self.now), tag, outcome);
        self.resets += u32::from(guilty);
        let context = model.contexts.get_mut(&id).filter(|context| context.birth == birth);
        let Some(context) = context else { return };
        // Nobody has to wait for what has ended.
        if let Some(last) = &context.timeline {
            last.borrow_mut().take_if(|last| self.device.has_signalled(*last));
        }
        if !guilty {
            return;
        }
        context.guilty += 1;
        if !context.flag(Flag::Bannable) {
            return;
        }
        context.hangs.push(self.now);
        let third = context.hangs.iter().rev().nth(2).is_some_and(|hang| self.now - hang < 120);
        let banned = !context.flag(Flag::Recoverable) || third;
        context.banned |= banned;
        let fast = self.now - model.last_hang < 60;
        model.score += if banned { 3 } else { 0 } + u32::from(fast);
        model.last_hang = self.now;
    }
}
