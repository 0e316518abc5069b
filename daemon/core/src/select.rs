//! Which engine an EXECBUF runs on (rule table §13.1).

use gpu_broker_protocol::execbuf::flag;
use gpu_broker_protocol::param::{EngineId, class};
use gpu_broker_protocol::{Reason, Refusal};

use crate::capabilities::Capabilities;
use crate::hands::{Placement, Slot};

/// Rings of the legacy interface (`I915_EXEC_*`).
mod ring {
    pub(super) const DEFAULT: u64 = 0;
    pub(super) const RENDER: u64 = 1;
    pub(super) const BSD: u64 = 2;
    pub(super) const BLT: u64 = 3;
    pub(super) const VEBOX: u64 = 4;
}

/// Values of the BSD field, in place.
mod bsd {
    pub(super) const DEFAULT: u64 = 0;
    pub(super) const RING1: u64 = 1 << 13;
    pub(super) const RING2: u64 = 2 << 13;
}

/// The legacy map, in the kernel's order.
const LEGACY: [EngineId; 5] = [
    EngineId { class: class::RENDER, instance: 0 },
    EngineId { class: class::COPY, instance: 0 },
    EngineId { class: class::VIDEO, instance: 0 },
    EngineId { class: class::VIDEO, instance: 1 },
    EngineId { class: class::VIDEO_ENHANCE, instance: 0 },
];

/// Position in the legacy map.
pub(crate) fn legacy_slot(engine: EngineId) -> Option<u16> {
    (0..).zip(LEGACY).find(|(_, legacy)| *legacy == engine).map(|(slot, _)| slot)
}

/// Where a submission goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selected<'a> {
    /// Slot of the user map, or position in the legacy map.
    pub(crate) slot: u32,
    pub(crate) placement: Placement<'a>,
    /// Batches; more than one for a parallel slot only.
    pub(crate) width: usize,
}

/// Selects from the context's map, or from the legacy map if it has none. `video` is the video
/// engine of a client that leaves the choice to us: the kernel takes one at random for each open
/// file and stays with it; the daemon deals them out by session number.
///
/// # Errors
/// EINVAL if nothing is selected.
pub(crate) fn select<'a>(
    caps: &Capabilities,
    slots: Option<&'a [Slot]>,
    flags: u64,
    video: u16,
) -> Result<Selected<'a>, Refusal> {
    match slots {
        Some(slots) => user(slots, flags),
        None => legacy(caps, flags, video),
    }
}

fn user(slots: &[Slot], flags: u64) -> Result<Selected<'_>, Refusal> {
    let slot = (flags & flag::RING_MASK) as u32;
    let one = |placement| Ok(Selected { slot, placement, width: 1 });
    match slots.get(slot as usize) {
        Some(Slot::Physical(engine)) => one(Placement::One(*engine)),
        Some(Slot::Balanced(engines)) => one(Placement::AnyOf(engines)),
        Some(Slot::Parallel { width, engines }) => {
            let placement = Placement::Parallel(engines);
            Ok(Selected { slot, placement, width: usize::from(*width) })
        }
        Some(Slot::Gap) | None => {
            Err(Refusal::new(Reason::ExecEngine).with_detail(format!("slot {slot}")))
        }
    }
}

fn legacy(caps: &Capabilities, flags: u64, video: u16) -> Result<Selected<'static>, Refusal> {
    let ring = flags & flag::RING_MASK;
    let bsd = flags & flag::BSD_MASK;
    let refuse = || Refusal::new(Reason::ExecEngine).with_detail(format!("ring {ring}"));
    if ring != ring::BSD && bsd != bsd::DEFAULT {
        return Err(refuse());
    }
    let engine = match ring {
        ring::DEFAULT | ring::RENDER => EngineId { class: class::RENDER, instance: 0 },
        ring::BLT => EngineId { class: class::COPY, instance: 0 },
        ring::VEBOX => EngineId { class: class::VIDEO_ENHANCE, instance: 0 },
        ring::BSD => {
            // With one video engine the kernel does not look at the BSD field.
            let several = caps.engines_of_class(class::VIDEO) > 1;
            let instance = match bsd {
                _ if !several => 0,
                bsd::DEFAULT => video,
                bsd::RING1 => 0,
                bsd::RING2 => 1,
                _ => return Err(refuse()),
            };
            EngineId { class: class::VIDEO, instance }
        }
        _ => return Err(refuse()),
    };
    match legacy_slot(engine).filter(|_| caps.has_engine(engine)) {
        Some(slot) => {
            Ok(Selected { slot: slot.into(), placement: Placement::One(engine), width: 1 })
        }
        None => Err(refuse()),
    }
}
