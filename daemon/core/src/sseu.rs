//! Slices, subslices and execution units (rule table §5).

use gpu_broker_protocol::param::{ContextParam, EngineId, ParamValue, Sseu, class};
use gpu_broker_protocol::{Reason, Refusal};

use crate::capabilities::{Capabilities, SseuTopology};
use crate::engines::slot_class;
use crate::hands::{Slot, SlotSseu};

/// What was set, by slot of the engine map, or by position in the legacy map; a slot that is not
/// here has all of the hardware.
///
/// The kernel gives every slot of a user map what was set for slot 0 when it materialises the
/// context (rule table §0.10). That is a slip, not an interface: we keep each slot's own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SseuConfigs(Vec<SlotSseu>);

impl SseuConfigs {
    pub(crate) fn get(&self, slot: u16) -> Option<SlotSseu> {
        self.0.iter().find(|config| config.slot == slot).copied()
    }

    pub(crate) fn set(&mut self, config: SlotSseu) {
        self.0.retain(|known| known.slot != config.slot);
        self.0.push(config);
    }

    pub(crate) fn all(&self) -> &[SlotSseu] {
        &self.0
    }
}

/// The payload, checked as far as it does not depend on the context.
///
/// # Errors
/// In this order: EINVAL for a size below 32, ENODEV unless Gen11, EFAULT without a payload, EINVAL
/// for reserved bits, EINVAL for unknown flags.
pub(crate) fn payload<'a>(
    caps: &Capabilities,
    param: &'a ContextParam,
) -> Result<&'a Sseu, Refusal> {
    if param.size < Sseu::BYTES {
        return Err(Reason::ParamSize.into());
    }
    if caps.graphics_version != 11 {
        return Err(Reason::SseuUnsupported.into());
    }
    fields(param)
}

/// As [`payload`], for GETPARAM, which works on any device.
pub(crate) fn fields(param: &ContextParam) -> Result<&Sseu, Refusal> {
    let ParamValue::Sseu(sseu) = &param.value else {
        return Err(Reason::ParamPayload.into());
    };
    if sseu.rsvd != 0 {
        return Err(Reason::ReservedNotZero.into());
    }
    if sseu.flags & !Sseu::ENGINE_INDEX != 0 {
        return Err(Reason::SseuFlags.into());
    }
    Ok(sseu)
}

/// The slot of a proto's map that the selector names.
///
/// # Errors
/// EINVAL unless it is a physical render engine, named by index exactly if the context has a map.
pub(crate) fn proto_slot(slots: Option<&[Slot]>, sseu: &Sseu) -> Result<u16, Refusal> {
    let by_index = sseu.flags & Sseu::ENGINE_INDEX != 0;
    let render = match (slots, by_index) {
        (Some(slots), true) => match slots.get(usize::from(sseu.engine.instance)) {
            Some(Slot::Physical(engine)) => engine.class == class::RENDER,
            Some(Slot::Gap | Slot::Balanced(_) | Slot::Parallel { .. }) | None => false,
        },
        (None, false) => sseu.engine == EngineId { class: class::RENDER, instance: 0 },
        (Some(_), false) | (None, true) => false,
    };
    if render { Ok(sseu.engine.instance) } else { Err(Reason::SseuEngine.into()) }
}

/// The slot of a live context that the selector names, and its class.
///
/// # Errors
/// EINVAL if it names none.
pub(crate) fn live_slot(
    caps: &Capabilities,
    slots: Option<&[Slot]>,
    sseu: &Sseu,
) -> Result<(u16, u16), Refusal> {
    let by_index = sseu.flags & Sseu::ENGINE_INDEX != 0;
    let found = match (slots, by_index) {
        (Some(slots), true) => slots
            .get(usize::from(sseu.engine.instance))
            .and_then(slot_class)
            .map(|class| (sseu.engine.instance, class)),
        (None, false) => caps
            .engine(sseu.engine)
            .and_then(|info| crate::select::legacy_slot(info.engine))
            .map(|slot| (slot, sseu.engine.class)),
        (Some(_), false) | (None, true) => None,
    };
    found.ok_or_else(|| Reason::SseuEngine.into())
}

/// The values for a slot, checked against the hardware.
///
/// # Errors
/// EINVAL.
pub(crate) fn config(caps: &Capabilities, slot: u16, sseu: &Sseu) -> Result<SlotSseu, Refusal> {
    checked(caps.sseu, slot, sseu).ok_or_else(|| Reason::SseuValue.into())
}

fn checked(hardware: SseuTopology, slot: u16, sseu: &Sseu) -> Option<SlotSseu> {
    let config = SlotSseu {
        slot,
        slice_mask: u8::try_from(sseu.slice_mask).ok()?,
        subslice_mask: u8::try_from(sseu.subslice_mask).ok()?,
        min_eus: u8::try_from(sseu.min_eus_per_subslice).ok()?,
        max_eus: u8::try_from(sseu.max_eus_per_subslice).ok()?,
    };
    let nothing_missing = config.slice_mask != 0
        && config.subslice_mask != 0
        && config.min_eus != 0
        && config.max_eus != 0;
    let within = config.slice_mask & !hardware.slice_mask == 0
        && config.subslice_mask & !hardware.subslice_mask == 0
        && config.min_eus <= config.max_eus
        && config.max_eus <= hardware.eus_per_subslice;
    (nothing_missing && within && gen11_can(hardware, config)).then_some(config)
}

/// Gen11 can run with all of it, or with one slice that has all of its subslices or exactly half.
/// Above four, the count of subslices is even. Execution units are not configurable.
fn gen11_can(hardware: SseuTopology, config: SlotSseu) -> bool {
    let slices = config.slice_mask.count_ones();
    let subslices = config.subslice_mask.count_ones();
    let all_slices = hardware.slice_mask.count_ones();
    let all_subslices = hardware.subslice_mask.count_ones();
    let shape = if slices == 1 {
        subslices == all_subslices || subslices == all_subslices / 2
    } else {
        slices == all_slices && subslices == all_subslices
    };
    let countable = subslices <= 4 || subslices.is_multiple_of(2);
    let all_eus = hardware.eus_per_subslice;
    shape && countable && config.min_eus == all_eus && config.max_eus == all_eus
}

/// What GETPARAM shows of a slot: what was set, or else all of the hardware for a render engine and
/// nothing for the others.
pub(crate) fn describe(
    caps: &Capabilities,
    class_of_slot: u16,
    set: Option<SlotSseu>,
    selector: &Sseu,
) -> Sseu {
    let SseuTopology { slice_mask, subslice_mask, eus_per_subslice } = caps.sseu;
    let (slices, subslices, min_eus, max_eus) = match set {
        Some(set) => (set.slice_mask, set.subslice_mask, set.min_eus, set.max_eus),
        None if class_of_slot == class::RENDER => {
            (slice_mask, subslice_mask, eus_per_subslice, eus_per_subslice)
        }
        None => (0, 0, 0, 0),
    };
    Sseu {
        slice_mask: slices.into(),
        subslice_mask: subslices.into(),
        min_eus_per_subslice: min_eus.into(),
        max_eus_per_subslice: max_eus.into(),
        ..*selector
    }
}
