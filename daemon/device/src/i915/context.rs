//! Contexts: one CONTEXT_CREATE_EXT each, with everything that was recorded.

use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_uapi::i915::*;
use rustix::io::Errno;

use super::sys::{self, CreateParam, ENGINES_MAX, EngineMap, MapExtension, WithEngines};
use super::{FileShared, Trouble, os};
use crate::{
    ContextSpec, ContextUpdate, DeviceError, EngineId, EngineSlot, FaultKind, FaultReport, Health,
    Outcome, SlotSseu,
};

/// An address space. Contexts of the kernel keep it beyond this handle.
#[derive(Clone, Debug)]
pub struct Vm(pub(super) Arc<VmShared>);

#[derive(Debug)]
pub(super) struct VmShared {
    file: Arc<FileShared>,
    id: u32,
}

/// A context. Dropping it closes it as the kernel does: persistent work goes on.
#[derive(Debug)]
pub struct Context(pub(super) Arc<ContextShared>);

#[derive(Debug)]
pub(super) struct ContextShared {
    pub(super) file: Arc<FileShared>,
    pub(super) tag: u64,
    pub(super) id: u32,
    /// It has no engine map of its own.
    pub(super) legacy: bool,
    state: Mutex<State>,
    /// After the id, which is closed first.
    _vm: Vm,
}

#[derive(Debug)]
struct State {
    closed: bool,
    persistent: bool,
    /// Batches found guilty, as far as they were reported.
    guilty: u32,
}

impl Vm {
    pub(super) fn create(file: &Arc<FileShared>) -> Result<Self, DeviceError> {
        let id = sys::vm_create(file.card.as_fd())
            .map_err(|errno| file.error(errno, "creating an address space"))?;
        Ok(Self(Arc::new(VmShared { file: Arc::clone(file), id })))
    }
}

impl Drop for VmShared {
    fn drop(&mut self) {
        // ENODEV after an unplug.
        let _ = sys::vm_destroy(self.file.card.as_fd(), self.id);
    }
}

impl Context {
    pub(super) fn create(
        file: &Arc<FileShared>,
        spec: &ContextSpec<'_, Vm>,
    ) -> Result<Self, DeviceError> {
        let card = file.card.as_fd();
        let failed = |errno| match errno {
            // That is what SSEU is answered with where there is none; if the device is gone, the
            // next look at it tells.
            Errno::NODEV if !spec.sseu.is_empty() => os(errno, "creating a context with SSEU"),
            errno => file.error(errno, "creating a context"),
        };
        let mut params = params(spec)?;
        let mut again = false;
        let (id, closed) = loop {
            match sys::context_create(card, spec.single_timeline, &mut params) {
                Ok(id) => break (id, false),
                Err(Errno::IO) => match file.trouble() {
                    // In the middle of a reset it looks wedged.
                    Trouble::None if !again => again = true,
                    Trouble::None => return Err(DeviceError::Banned),
                    Trouble::Gone => return Err(DeviceError::Lost),
                    // A wedged device makes none. So that a session can be opened, and be told so,
                    // this is one that was closed: all work is refused with EIO.
                    Trouble::Wedged => {
                        file.device.set_health(Health::Wedged);
                        break (0, true);
                    }
                },
                Err(errno) => return Err(failed(errno)),
            }
        };
        let state = State { closed, persistent: spec.persistent, guilty: 0 };
        let context = Self(Arc::new(ContextShared {
            file: Arc::clone(file),
            tag: spec.tag,
            id,
            legacy: spec.engines.is_none(),
            state: Mutex::new(state),
            _vm: spec.vm.clone(),
        }));
        // The kernel keeps a proto-context itself; this makes it real, so that what is wrong with
        // it is found here and not by the first submission.
        if !closed {
            sys::reset_stats(card, id).map_err(failed)?;
            for config in later_sseu(spec) {
                sys::context_set_sseu(card, id, &raw_sseu(config, false)).map_err(failed)?;
            }
        }
        Ok(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

impl ContextShared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel has it no more.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    pub(super) fn update(&self, update: ContextUpdate) -> Result<(), DeviceError> {
        let mut state = self.state();
        if state.closed {
            return Ok(());
        }
        let (param, value) = match update {
            ContextUpdate::Priority(priority) => {
                (I915_CONTEXT_PARAM_PRIORITY, i64::from(priority).cast_unsigned())
            }
            ContextUpdate::Recoverable(on) => (I915_CONTEXT_PARAM_RECOVERABLE, on.into()),
            ContextUpdate::Bannable(on) => (I915_CONTEXT_PARAM_BANNABLE, on.into()),
            ContextUpdate::Persistent(on) => (I915_CONTEXT_PARAM_PERSISTENCE, on.into()),
            ContextUpdate::ErrorCapture(on) => (I915_CONTEXT_PARAM_NO_ERROR_CAPTURE, (!on).into()),
            ContextUpdate::Sseu(config) => {
                let sseu = raw_sseu(&config, self.legacy);
                let done = sys::context_set_sseu(self.file.card.as_fd(), self.id, &sseu);
                return done.map_err(|errno| os(errno, "changing a context's SSEU"));
            }
        };
        sys::context_setparam(self.file.card.as_fd(), self.id, param, value)
            .map_err(|errno| self.file.error(errno, "changing a context"))?;
        if let ContextUpdate::Persistent(on) = update {
            state.persistent = on;
        }
        Ok(())
    }

    /// Gives the kernel's context up; with `cancel`, its work ends.
    pub(super) fn close(&self, cancel: bool) {
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let card = self.file.card.as_fd();
        if cancel && state.persistent {
            // Closing is what cancels. It can only be refused by a device that cannot preempt,
            // where nothing can be cancelled.
            let _ = sys::context_setparam(card, self.id, I915_CONTEXT_PARAM_PERSISTENCE, 0);
        }
        // ENODEV after an unplug.
        let _ = sys::context_destroy(card, self.id);
    }

    /// What became of a request whose fence has an error: the context's, if the kernel has counted
    /// a guilty batch that was not reported yet; else it was taken along.
    pub(super) fn blame(&self, engine: EngineId, batch: u64, errno: i32) -> Outcome {
        let mut state = self.state();
        if state.closed {
            return Outcome::Cancelled;
        }
        match sys::reset_stats(self.file.card.as_fd(), self.id) {
            Ok(stats) if stats.batch_active != state.guilty => {
                state.guilty = state.guilty.wrapping_add(1);
                // The kernel says neither where nor in what; its own error state is root's to read.
                Outcome::Guilty(FaultReport {
                    tag: self.tag,
                    engine,
                    kind: FaultKind::Hung,
                    batch,
                    address: 0,
                    command: String::new(),
                    what: format!("the kernel found it hanging (errno {errno})"),
                    capture: None,
                })
            }
            Ok(_) | Err(_) => Outcome::Cancelled,
        }
    }
}

/// The parameters that differ from what a new context has. VM and engines first: what the others
/// mean can depend on them, never the other way round.
fn params(spec: &ContextSpec<'_, Vm>) -> Result<Vec<CreateParam>, DeviceError> {
    let mut params = vec![CreateParam::Scalar(I915_CONTEXT_PARAM_VM, spec.vm.0.id.into())];
    if let Some(slots) = spec.engines {
        params.push(CreateParam::Engines(engine_map(slots)?));
    }
    let mut unless = |usual: bool, param: u64, value: u64| {
        if !usual {
            params.push(CreateParam::Scalar(param, value));
        }
    };
    let priority = i64::from(spec.priority).cast_unsigned();
    unless(spec.priority == 0, I915_CONTEXT_PARAM_PRIORITY, priority);
    unless(spec.recoverable, I915_CONTEXT_PARAM_RECOVERABLE, 0);
    unless(spec.bannable, I915_CONTEXT_PARAM_BANNABLE, 0);
    unless(spec.persistent, I915_CONTEXT_PARAM_PERSISTENCE, 0);
    unless(spec.error_capture, I915_CONTEXT_PARAM_NO_ERROR_CAPTURE, 1);
    unless(!spec.low_latency, I915_CONTEXT_PARAM_LOW_LATENCY, 1);
    if spec.engines.is_none() {
        let nodes = spec.sseu.iter().map(|config| Box::new(raw_sseu(config, true)));
        params.extend(nodes.map(CreateParam::Sseu));
    }
    Ok(params)
}

/// What is set when the context is there, before anybody knows of it: with an engine map of its own the
/// kernel would give every slot what slot 0 was given (rule table §0.10), and warn in its log of each
/// slot whose engine has no SSEU.
fn later_sseu<'a>(spec: &ContextSpec<'a, Vm>) -> &'a [SlotSseu] {
    if spec.engines.is_some() { spec.sseu } else { &[] }
}

/// As the kernel reads it. The legacy map has one render engine, which is called by its class.
fn raw_sseu(config: &SlotSseu, legacy: bool) -> drm_i915_gem_context_param_sseu {
    let (engine_class, engine_instance, flags) = if legacy {
        (I915_ENGINE_CLASS_RENDER, 0, 0)
    } else {
        (0, config.slot, I915_CONTEXT_SSEU_FLAG_ENGINE_INDEX)
    };
    drm_i915_gem_context_param_sseu {
        engine: i915_engine_class_instance { engine_class, engine_instance },
        flags: u32::try_from(flags).unwrap_or(0),
        slice_mask: config.slice_mask.into(),
        subslice_mask: config.subslice_mask.into(),
        min_eus_per_subslice: config.min_eus.into(),
        max_eus_per_subslice: config.max_eus.into(),
        rsvd: 0,
    }
}

const GAP: i915_engine_class_instance = i915_engine_class_instance {
    engine_class: I915_ENGINE_CLASS_INVALID,
    engine_instance: I915_ENGINE_CLASS_INVALID_NONE,
};

fn raw(engine: EngineId) -> i915_engine_class_instance {
    let EngineId { class: engine_class, instance: engine_instance } = engine;
    i915_engine_class_instance { engine_class, engine_instance }
}

/// Engines behind the head of an extension.
fn with_engines<T>(head: T, engines: &[EngineId]) -> Result<Box<WithEngines<T>>, DeviceError> {
    let mut list = [i915_engine_class_instance::default(); ENGINES_MAX];
    let room = list.get_mut(..engines.len());
    let room = room.ok_or_else(|| os(rustix::io::Errno::INVAL, "more engines than a map holds"))?;
    for (place, engine) in room.iter_mut().zip(engines) {
        *place = raw(*engine);
    }
    Ok(Box::new(WithEngines { head, engines: list }))
}

fn engine_map(slots: &[EngineSlot]) -> Result<EngineMap, DeviceError> {
    let mut map = EngineMap { slots: Vec::with_capacity(slots.len()), extensions: Vec::new() };
    for (index, slot) in (0_u16..).zip(slots) {
        match slot {
            EngineSlot::Gap => map.slots.push(GAP),
            EngineSlot::Physical(engine) => map.slots.push(raw(*engine)),
            EngineSlot::Balanced(engines) => {
                map.slots.push(GAP);
                let mut head = i915_context_engines_load_balance::default();
                head.base.name = I915_CONTEXT_ENGINES_EXT_LOAD_BALANCE;
                head.engine_index = index;
                head.num_siblings = u16::try_from(engines.len()).unwrap_or(u16::MAX);
                map.extensions.push(MapExtension::LoadBalance(with_engines(head, engines)?));
            }
            EngineSlot::Parallel { width, engines } => {
                map.slots.push(GAP);
                let mut head = i915_context_engines_parallel_submit::default();
                head.base.name = I915_CONTEXT_ENGINES_EXT_PARALLEL_SUBMIT;
                (head.engine_index, head.width) = (index, *width);
                let siblings = engines.len() / usize::from(*width).max(1);
                head.num_siblings = u16::try_from(siblings).unwrap_or(u16::MAX);
                map.extensions.push(MapExtension::Parallel(with_engines(head, engines)?));
            }
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VCS0: EngineId = EngineId { class: 2, instance: 0 };
    const VCS1: EngineId = EngineId { class: 2, instance: 1 };

    #[test]
    fn a_map_becomes_slots_and_extensions() {
        let slots = [
            EngineSlot::Physical(EngineId { class: 1, instance: 0 }),
            EngineSlot::Gap,
            EngineSlot::Balanced(vec![VCS0, VCS1]),
            EngineSlot::Parallel { width: 2, engines: vec![VCS0, VCS1] },
        ];
        let map = engine_map(&slots).unwrap();
        let classes: Vec<_> = map.slots.iter().map(|slot| slot.engine_class).collect();
        assert_eq!(classes, [1, 0xffff, 0xffff, 0xffff], "virtual slots are gaps at first");
        let [MapExtension::LoadBalance(balance), MapExtension::Parallel(parallel)] =
            &map.extensions[..]
        else {
            panic!("two extensions");
        };
        assert_eq!((balance.head.engine_index, balance.head.num_siblings), (2, 2));
        assert_eq!((balance.head.flags, balance.head.mbz64), (0, 0));
        assert_eq!(balance.engines[1].engine_instance, 1);
        assert_eq!(balance.engines[2].engine_class, 0, "zero behind the end");
        let head = &parallel.head;
        assert_eq!((head.engine_index, head.width, head.num_siblings), (3, 2, 1));
        assert_eq!((head.mbz16, head.flags, head.mbz64), (0, 0, [0; 3]));
    }

    #[test]
    fn sseu_names_the_engine_as_the_map_does() {
        let config =
            SlotSseu { slot: 3, slice_mask: 1, subslice_mask: 0xf, min_eus: 7, max_eus: 8 };
        let indexed = raw_sseu(&config, false);
        assert_eq!((indexed.engine.engine_instance, indexed.flags), (3, 1));
        assert_eq!((indexed.slice_mask, indexed.subslice_mask), (1, 0xf));
        assert_eq!((indexed.min_eus_per_subslice, indexed.max_eus_per_subslice), (7, 8));
        let legacy = raw_sseu(&config, true);
        assert_eq!((legacy.engine.engine_class, legacy.engine.engine_instance), (0, 0));
        assert_eq!((legacy.flags, legacy.rsvd), (0, 0));
    }

    #[test]
    fn more_engines_than_a_map_holds_are_refused() {
        let slots = [EngineSlot::Balanced(vec![VCS0; ENGINES_MAX + 1])];
        assert!(engine_map(&slots).is_err());
    }
}
