//! Engine maps (rule table §6).

use gpu_broker_protocol::limits::ENGINE_SLOTS_MAX;
use gpu_broker_protocol::param::{EngineExtension, EngineId, EngineMap, class};
use gpu_broker_protocol::{Reason, Refusal};

use crate::capabilities::Capabilities;
use crate::chain;
use crate::hands::Slot;

/// Bytes of the map's header and of one slot, as the kernel lays them out.
const HEADER_BYTES: u32 = 8;
const SLOT_BYTES: u32 = 4;

/// The class of whatever is in the slot; `None` for a gap.
pub(crate) fn slot_class(slot: &Slot) -> Option<u16> {
    match slot {
        Slot::Gap => None,
        Slot::Physical(engine) => Some(engine.class),
        Slot::Balanced(engines) | Slot::Parallel { engines, .. } => {
            engines.first().map(|engine| engine.class)
        }
    }
}

pub(crate) fn has_parallel(slots: &[Slot]) -> bool {
    slots.iter().any(|slot| matches!(slot, Slot::Parallel { .. }))
}

/// Builds a map. Size 8 makes an empty one, which runs nothing: the interface's comment says that
/// it brings the default map back, the code never did (rule table §0.6).
///
/// # Errors
/// EINVAL for an impossible size or more than 64 slots; EFAULT when the payload is shorter than the
/// size says; ENOENT for an engine the device lacks; then what the extensions say.
pub(crate) fn build(
    caps: &Capabilities,
    map: &EngineMap,
    size: u32,
    single_timeline: bool,
) -> Result<Vec<Slot>, Refusal> {
    let bytes = size.checked_sub(HEADER_BYTES).filter(|bytes| bytes.is_multiple_of(SLOT_BYTES));
    let Some(bytes) = bytes else {
        return Err(Refusal::new(Reason::ParamSize).with_detail(format!("{size} bytes")));
    };
    let count = (bytes / SLOT_BYTES) as usize;
    if count > ENGINE_SLOTS_MAX {
        return Err(Refusal::new(Reason::TooManyEngines).with_detail(format!("{count} slots")));
    }
    let named = map.slots.get(..count).ok_or(Reason::ParamPayload)?;
    let mut slots = Vec::with_capacity(count);
    for engine in named {
        slots.push(match *engine {
            EngineId::GAP => Slot::Gap,
            engine if caps.has_engine(engine) => Slot::Physical(engine),
            engine => {
                let detail = format!("class {} instance {}", engine.class, engine.instance);
                return Err(Refusal::new(Reason::NoSuchEngine).with_detail(detail));
            }
        });
    }
    let mut builder = Builder { caps, slots, single_timeline };
    chain::walk(&map.extensions, |name, body| builder.extend(name, body))?;
    Ok(builder.slots)
}

/// What is found out only when the context is materialised (rule table §6.0, §7).
///
/// # Errors
/// EINVAL if the siblings of a virtual engine are not different engines of one class.
pub(crate) fn check_siblings(slots: &[Slot]) -> Result<(), Refusal> {
    for slot in slots {
        let Slot::Balanced(siblings) = slot else { continue };
        let duplicate = siblings
            .iter()
            .enumerate()
            .any(|(at, engine)| siblings.iter().take(at).any(|earlier| earlier == engine));
        let mixed = siblings.windows(2).any(|pair| matches!(pair, [a, b] if a.class != b.class));
        if duplicate || mixed {
            return Err(Reason::SiblingsInvalid.into());
        }
    }
    Ok(())
}

struct Builder<'a> {
    caps: &'a Capabilities,
    slots: Vec<Slot>,
    single_timeline: bool,
}

impl Builder<'_> {
    fn extend(&mut self, name: u32, body: &EngineExtension) -> Result<(), Refusal> {
        match (name, body) {
            (
                EngineExtension::LOAD_BALANCE,
                EngineExtension::LoadBalance { engine_index, flags, mbz64, engines },
            ) => self.load_balance(*engine_index, *flags == 0 && *mbz64 == 0, engines),
            (
                EngineExtension::BOND,
                EngineExtension::Bond { master, virtual_index, flags, mbz64, engines },
            ) => self.bond(*virtual_index, *flags == 0 && *mbz64 == [0; 4], *master, engines),
            (EngineExtension::PARALLEL_SUBMIT, EngineExtension::ParallelSubmit { .. }) => {
                self.parallel_submit(body)
            }
            (_, _) => Err(chain::unknown(name)),
        }
    }

    fn slot_mut(&mut self, index: u16) -> Result<&mut Slot, Refusal> {
        let detail = || Refusal::new(Reason::EngineSlotRange).with_detail(format!("slot {index}"));
        self.slots.get_mut(usize::from(index)).ok_or_else(detail)
    }

    fn known(&self, engines: &[EngineId]) -> Result<(), Refusal> {
        let unknown = engines.iter().any(|engine| !self.caps.has_engine(*engine));
        if unknown { Err(Reason::SiblingUnknown.into()) } else { Ok(()) }
    }

    /// §6.0. Duplicates and mixed classes are accepted here and found at materialisation.
    fn load_balance(
        &mut self,
        index: u16,
        reserved_zero: bool,
        engines: &[EngineId],
    ) -> Result<(), Refusal> {
        if !self.caps.has_execlists {
            return Err(Reason::BalancingUnsupported.into());
        }
        if *self.slot_mut(index)? != Slot::Gap {
            return Err(Reason::EngineSlotOccupied.into());
        }
        if !reserved_zero {
            return Err(Reason::ReservedNotZero.into());
        }
        self.known(engines)?;
        *self.slot_mut(index)? = match engines {
            [] => Slot::Gap,
            [only] => Slot::Physical(*only),
            several => Slot::Balanced(several.to_vec()),
        };
        Ok(())
    }

    /// §6.1: checked, then without effect, as in the kernel.
    fn bond(
        &mut self,
        index: u16,
        reserved_zero: bool,
        master: EngineId,
        engines: &[EngineId],
    ) -> Result<(), Refusal> {
        if !self.caps.has_bonds {
            return Err(Reason::BondUnsupported.into());
        }
        match self.slot_mut(index)? {
            Slot::Physical(_) => {}
            Slot::Gap | Slot::Balanced(_) | Slot::Parallel { .. } => {
                return Err(Reason::BondSlot.into());
            }
        }
        if !reserved_zero {
            return Err(Reason::ReservedNotZero.into());
        }
        self.known(&[master])?;
        if self.caps.guc {
            return Err(Reason::BondUnsupported.into());
        }
        self.known(engines)
    }

    /// §6.2. The kernel lets a SINGLE_TIMELINE context have a parallel slot, whose batches would
    /// then wait for each other; we refuse the pair, as the media driver's authors say one should.
    fn parallel_submit(&mut self, body: &EngineExtension) -> Result<(), Refusal> {
        let EngineExtension::ParallelSubmit {
            engine_index,
            width,
            num_siblings,
            mbz16,
            flags,
            mbz64,
            engines,
        } = body
        else {
            return Err(chain::unknown(EngineExtension::PARALLEL_SUBMIT));
        };
        if !self.caps.guc && *num_siblings != 1 {
            return Err(Reason::ParallelShape.into());
        }
        if *self.slot_mut(*engine_index)? != Slot::Gap {
            return Err(Reason::ParallelSlotOccupied.into());
        }
        if *flags != 0 || *mbz64 != [0; 3] || *mbz16 != 0 {
            return Err(Reason::ReservedNotZero.into());
        }
        if *width < 2 || *num_siblings < 1 {
            return Err(Reason::ParallelShape.into());
        }
        let rows = self.parallel_rows(usize::from(*width), usize::from(*num_siblings), engines)?;
        if self.single_timeline {
            return Err(Reason::ParallelSingleTimeline.into());
        }
        *self.slot_mut(*engine_index)? = Slot::Parallel { width: *width, engines: rows };
        Ok(())
    }

    /// Each batch's siblings must be the neighbours, by logical instance, of the batch before.
    fn parallel_rows(
        &self,
        width: usize,
        siblings: usize,
        engines: &[EngineId],
    ) -> Result<Vec<EngineId>, Refusal> {
        let mut class_so_far = None;
        let mut mask_before: Option<u64> = None;
        for row in 0..width {
            let mut mask = 0_u64;
            for column in 0..siblings {
                let engine = engines.get(row * siblings + column).ok_or(Reason::ParamPayload)?;
                let info = self.caps.engine(*engine).ok_or(Reason::SiblingUnknown)?;
                let forbidden = matches!(engine.class, class::RENDER | class::COMPUTE);
                if forbidden || class_so_far.is_some_and(|class| class != engine.class) {
                    return Err(Reason::ParallelEngine.into());
                }
                class_so_far = Some(engine.class);
                mask |= 1_u64.checked_shl(info.logical_instance.into()).unwrap_or(0);
            }
            if mask_before.is_some_and(|before| before << 1 != mask) {
                return Err(Reason::ParallelEngine.into());
            }
            mask_before = Some(mask);
        }
        Ok(engines.iter().take(width * siblings).copied().collect())
    }
}
