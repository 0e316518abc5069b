//! What clients ask of the device itself: GETPARAM, QUERY, the aperture, the timestamp register
//! (rule table §17).

use gpu_broker_protocol::object::{
    Aperture, GetParam, MemoryRegion, ParamAnswer, QueriedEngine, Query, QueryAnswer, QueryItem,
    QueryReply, RegRead, RegValue, Topology,
};
use gpu_broker_protocol::param::{EngineId, class};
use gpu_broker_protocol::refusal::errno::{EINVAL, ENODEV};
use gpu_broker_protocol::{Reason, Refusal};

use crate::capabilities::Capabilities;
use crate::hands::Hands;
use crate::session::Session;

/// Numbers of GETPARAM (`I915_PARAM_*`).
mod number {
    pub(super) const IRQ_ACTIVE: i32 = 1;
    pub(super) const ALLOW_BATCHBUFFER: i32 = 2;
    pub(super) const LAST_DISPATCH: i32 = 3;
    pub(super) const CHIPSET_ID: i32 = 4;
    pub(super) const HAS_GEM: i32 = 5;
    pub(super) const NUM_FENCES_AVAIL: i32 = 6;
    pub(super) const HAS_OVERLAY: i32 = 7;
    pub(super) const HAS_PAGEFLIPPING: i32 = 8;
    pub(super) const HAS_EXECBUF2: i32 = 9;
    pub(super) const HAS_BSD: i32 = 10;
    pub(super) const HAS_BLT: i32 = 11;
    pub(super) const HAS_RELAXED_FENCING: i32 = 12;
    pub(super) const HAS_COHERENT_RINGS: i32 = 13;
    pub(super) const HAS_EXEC_CONSTANTS: i32 = 14;
    pub(super) const HAS_RELAXED_DELTA: i32 = 15;
    pub(super) const HAS_GEN7_SOL_RESET: i32 = 16;
    pub(super) const HAS_LLC: i32 = 17;
    pub(super) const HAS_ALIASING_PPGTT: i32 = 18;
    pub(super) const HAS_WAIT_TIMEOUT: i32 = 19;
    pub(super) const HAS_SEMAPHORES: i32 = 20;
    pub(super) const HAS_PRIME_VMAP_FLUSH: i32 = 21;
    pub(super) const HAS_VEBOX: i32 = 22;
    pub(super) const HAS_SECURE_BATCHES: i32 = 23;
    pub(super) const HAS_PINNED_BATCHES: i32 = 24;
    pub(super) const HAS_EXEC_NO_RELOC: i32 = 25;
    pub(super) const HAS_EXEC_HANDLE_LUT: i32 = 26;
    pub(super) const HAS_WT: i32 = 27;
    pub(super) const CMD_PARSER_VERSION: i32 = 28;
    pub(super) const HAS_COHERENT_PHYS_GTT: i32 = 29;
    pub(super) const MMAP_VERSION: i32 = 30;
    pub(super) const HAS_BSD2: i32 = 31;
    pub(super) const REVISION: i32 = 32;
    pub(super) const SUBSLICE_TOTAL: i32 = 33;
    pub(super) const EU_TOTAL: i32 = 34;
    pub(super) const HAS_GPU_RESET: i32 = 35;
    pub(super) const HAS_RESOURCE_STREAMER: i32 = 36;
    pub(super) const HAS_EXEC_SOFTPIN: i32 = 37;
    pub(super) const HAS_POOLED_EU: i32 = 38;
    pub(super) const MIN_EU_IN_POOL: i32 = 39;
    pub(super) const MMAP_GTT_VERSION: i32 = 40;
    pub(super) const HAS_SCHEDULER: i32 = 41;
    pub(super) const HUC_STATUS: i32 = 42;
    pub(super) const HAS_EXEC_ASYNC: i32 = 43;
    pub(super) const HAS_EXEC_FENCE: i32 = 44;
    pub(super) const HAS_EXEC_CAPTURE: i32 = 45;
    pub(super) const SLICE_MASK: i32 = 46;
    pub(super) const SUBSLICE_MASK: i32 = 47;
    pub(super) const HAS_EXEC_BATCH_FIRST: i32 = 48;
    pub(super) const HAS_EXEC_FENCE_ARRAY: i32 = 49;
    pub(super) const HAS_CONTEXT_ISOLATION: i32 = 50;
    pub(super) const CS_TIMESTAMP_FREQUENCY: i32 = 51;
    pub(super) const MMAP_GTT_COHERENT: i32 = 52;
    pub(super) const HAS_EXEC_SUBMIT_FENCE: i32 = 53;
    pub(super) const PERF_REVISION: i32 = 54;
    pub(super) const HAS_EXEC_TIMELINE_FENCES: i32 = 55;
    pub(super) const HAS_USERPTR_PROBE: i32 = 56;
    pub(super) const OA_TIMESTAMP_FREQUENCY: i32 = 57;
    pub(super) const PXP_STATUS: i32 = 58;
    pub(super) const HAS_CONTEXT_FREQ_HINT: i32 = 59;
}

/// Items of QUERY.
mod item {
    pub(super) const TOPOLOGY: u64 = 1;
    pub(super) const ENGINES: u64 = 2;
    pub(super) const PERF_CONFIG: u64 = 3;
    pub(super) const MEMORY_REGIONS: u64 = 4;
    pub(super) const HWCONFIG: u64 = 5;
    pub(super) const GEOMETRY_SUBSLICES: u64 = 6;
    pub(super) const GUC_VERSION: u64 = 7;
}

/// Bits of HAS_SCHEDULER.
mod scheduler {
    pub(super) const ENABLED: i32 = 1 << 0;
    pub(super) const PRIORITY: i32 = 1 << 1;
    pub(super) const PREEMPTION: i32 = 1 << 2;
}

/// Fence registers of Gen9. Nothing is accessed through them; clients want to see some.
const FENCE_REGISTERS: i32 = 32;
/// 48-bit address spaces, one per context; 1 would be the kernel's own shared one.
const FULL_PPGTT_48B: i32 = 3;
/// What mappings can be asked for: write-combining, and MMAP_OFFSET with all its modes.
const MMAP_VERSION: i32 = 1;
const MMAP_GTT_VERSION: i32 = 4;
/// Single engines can be reset.
const RESETS_ENGINES: i32 = 2;
/// Revision of the performance interface as a whole; PERF_OPEN itself is not offered.
const PERF_REVISION: i32 = 7;

/// Offset of the render engine's timestamp register.
const RCS_TIMESTAMP: u64 = 0x2358;
/// Flag in the offset: read as two halves. Only clients of 32-bit kernels can tell.
const READ_IN_HALVES: u64 = 1;
/// The register has 36 bits.
const TIMESTAMP_MASK: u64 = (1 << 36) - 1;
/// Bytes of the global address space from version 8 on.
const APERTURE_BYTES: u64 = 1 << 32;
/// `I915_ENGINE_INFO_HAS_LOGICAL_INSTANCE`.
const HAS_LOGICAL_INSTANCE: u64 = 1;

impl Capabilities {
    fn has(&self, class: u16, instance: u16) -> i32 {
        self.has_engine(EngineId { class, instance }).into()
    }

    fn slices(&self) -> u32 {
        self.sseu.slice_mask.count_ones()
    }

    fn subslices(&self) -> u32 {
        self.slices() * self.sseu.subslice_mask.count_ones()
    }

    fn eus(&self) -> u32 {
        self.subslices() * u32::from(self.sseu.eus_per_subslice)
    }

    fn scheduler(&self) -> i32 {
        let bit = |has: bool, bit: i32| if has { bit } else { 0 };
        bit(self.has_execlists, scheduler::ENABLED)
            | bit(self.has_priority, scheduler::PRIORITY)
            | bit(self.has_preemption, scheduler::PREEMPTION)
    }

    /// A bit per engine class: every context has registers of its own there.
    fn isolated_classes(&self) -> i32 {
        let bit = |class: u16| 1_i32.checked_shl(class.into()).unwrap_or(0);
        self.engines.iter().fold(0, |classes, info| classes | bit(info.engine.class))
    }

    /// The kernel's answer, if there is a kernel and the broker does not decide itself.
    fn kernel_param(&self, param: i32) -> Option<Result<i32, Reason>> {
        use number::*;
        let ours = matches!(
            param,
            HAS_SECURE_BATCHES | HAS_USERPTR_PROBE | PXP_STATUS | HAS_CONTEXT_FREQ_HINT
        );
        if ours {
            return None;
        }
        let answer = self.kernel.as_ref()?.param(param).unwrap_or(Err(EINVAL));
        Some(answer.map_err(|errno| match errno {
            EINVAL => Reason::DeviceParamUnknown,
            _ => Reason::DeviceParamGone,
        }))
    }

    /// The value of a parameter; 0 for what an interface of this kind can lack, and everything that
    /// is said to be missing is missing.
    fn param(&self, param: i32) -> Result<i32, Reason> {
        use number::*;
        if let Some(answer) = self.kernel_param(param) {
            return answer;
        }
        let int = |value: u64| i32::try_from(value).map_err(|_| Reason::DeviceParamGone);
        Ok(match param {
            // What user-mode setting drivers of old asked for.
            IRQ_ACTIVE | ALLOW_BATCHBUFFER | LAST_DISPATCH | HAS_EXEC_CONSTANTS => {
                return Err(Reason::DeviceParamGone);
            }
            // No HuC in the device, and no protected content.
            HUC_STATUS => return Err(Reason::DeviceParamGone),
            PXP_STATUS if self.pxp => 1,
            PXP_STATUS => return Err(Reason::DeviceParamGone),
            CHIPSET_ID => self.device_id.into(),
            REVISION => self.revision.into(),
            NUM_FENCES_AVAIL => FENCE_REGISTERS,
            HAS_BSD => self.has(class::VIDEO, 0),
            HAS_BSD2 => self.has(class::VIDEO, 1),
            HAS_BLT => self.has(class::COPY, 0),
            HAS_VEBOX => self.has(class::VIDEO_ENHANCE, 0),
            HAS_LLC => (!self.discrete).into(),
            HAS_ALIASING_PPGTT if self.full_ppgtt => FULL_PPGTT_48B,
            HAS_ALIASING_PPGTT => 1,
            HAS_GPU_RESET if self.hangcheck && self.has_engine_reset => RESETS_ENGINES,
            HAS_GPU_RESET => self.hangcheck.into(),
            HAS_SCHEDULER => self.scheduler(),
            HAS_CONTEXT_ISOLATION => self.isolated_classes(),
            HAS_USERPTR_PROBE => self.has_llc_or_snoop.into(),
            HAS_CONTEXT_FREQ_HINT => self.guc.into(),
            SUBSLICE_TOTAL => int(self.subslices().into())?,
            EU_TOTAL => int(self.eus().into())?,
            SLICE_MASK => self.sseu.slice_mask.into(),
            SUBSLICE_MASK => self.sseu.subslice_mask.into(),
            CS_TIMESTAMP_FREQUENCY | OA_TIMESTAMP_FREQUENCY => int(self.timestamp_hz)?,
            other => Self::constant_param(other).ok_or(Reason::DeviceParamUnknown)?,
        })
    }

    /// Parameters that depend on this daemon alone.
    fn constant_param(param: i32) -> Option<i32> {
        use number::*;
        Some(match param {
            MMAP_VERSION => self::MMAP_VERSION,
            MMAP_GTT_VERSION => self::MMAP_GTT_VERSION,
            PERF_REVISION => self::PERF_REVISION,
            HAS_GEM
            | HAS_PAGEFLIPPING
            | HAS_EXECBUF2
            | HAS_RELAXED_FENCING
            | HAS_COHERENT_RINGS
            | HAS_RELAXED_DELTA
            | HAS_GEN7_SOL_RESET
            | HAS_WAIT_TIMEOUT
            | HAS_PRIME_VMAP_FLUSH
            | HAS_PINNED_BATCHES
            | HAS_EXEC_NO_RELOC
            | HAS_EXEC_HANDLE_LUT
            | HAS_COHERENT_PHYS_GTT
            | HAS_EXEC_SOFTPIN
            | HAS_EXEC_ASYNC
            | HAS_EXEC_FENCE
            | HAS_EXEC_CAPTURE
            | HAS_EXEC_BATCH_FIRST
            | HAS_EXEC_FENCE_ARRAY
            | HAS_EXEC_SUBMIT_FENCE
            | HAS_EXEC_TIMELINE_FENCES
            | MMAP_GTT_COHERENT => 1,
            // No semaphores between engines, no command parser; privileged batches are not for clients
            // (rule table §15).
            HAS_OVERLAY
            | HAS_SEMAPHORES
            | HAS_SECURE_BATCHES
            | HAS_WT
            | CMD_PARSER_VERSION
            | HAS_RESOURCE_STREAMER
            | HAS_POOLED_EU
            | MIN_EU_IN_POOL => 0,
            _ => return None,
        })
    }

    fn answer(&self, query: &QueryItem) -> QueryAnswer {
        match query.id {
            item::TOPOLOGY if query.flags == 0 => match &self.kernel {
                None => QueryAnswer::Topology(self.topology()),
                Some(kernel) => {
                    let known = kernel.topology.clone().map(QueryAnswer::Topology);
                    known.unwrap_or(QueryAnswer::Error(ENODEV))
                }
            },
            item::ENGINES if query.flags == 0 => QueryAnswer::Engines(self.queried_engines()),
            item::MEMORY_REGIONS if query.flags == 0 => match &self.kernel {
                None => QueryAnswer::Regions(vec![self.system_memory()]),
                Some(kernel) => {
                    let known = kernel.regions.clone().map(QueryAnswer::Regions);
                    known.unwrap_or(QueryAnswer::Error(EINVAL))
                }
            },
            // No performance counters, no hardware description blob before version 12.5, no GuC.
            item::PERF_CONFIG | item::HWCONFIG | item::GEOMETRY_SUBSLICES | item::GUC_VERSION => {
                QueryAnswer::Error(ENODEV)
            }
            _ => QueryAnswer::Error(EINVAL),
        }
    }

    fn topology(&self) -> Topology {
        let sseu = self.sseu;
        let bits = |mask: u8| u16::try_from(u8::BITS - mask.leading_zeros()).unwrap_or(0);
        let max_slices = bits(sseu.slice_mask);
        let max_subslices = bits(sseu.subslice_mask);
        let there = |slice: u16| sseu.slice_mask >> slice & 1 == 1;
        let eus = (1_u64 << sseu.eus_per_subslice.min(63)) - 1;
        let mut subslice_masks = Vec::new();
        let mut eu_masks = Vec::new();
        for slice in 0..max_slices {
            let mask = if there(slice) { sseu.subslice_mask } else { 0 };
            subslice_masks.push(mask.into());
            eu_masks.extend((0..max_subslices).map(|at| if mask >> at & 1 == 1 { eus } else { 0 }));
        }
        Topology {
            max_slices,
            max_subslices,
            max_eus_per_subslice: sseu.eus_per_subslice.into(),
            slice_mask: sseu.slice_mask.into(),
            subslice_masks,
            eu_masks,
        }
    }

    fn queried_engines(&self) -> Vec<QueriedEngine> {
        let engines = self.engines.iter().map(|info| QueriedEngine {
            engine: info.engine,
            flags: HAS_LOGICAL_INSTANCE,
            capabilities: info.capabilities,
            logical_instance: info.logical_instance,
        });
        engines.collect()
    }

    /// Everything is reported free: how much others use is for the privileged, who ask the daemon
    /// for its status (rule table §15).
    fn system_memory(&self) -> MemoryRegion {
        let bytes = self.memory_bytes;
        MemoryRegion { class: 0, instance: 0, probed_bytes: bytes, unallocated_bytes: bytes }
    }
}

impl<H: Hands> Session<H> {
    /// i915 GETPARAM.
    ///
    /// # Errors
    /// EINVAL for an unknown parameter; ENODEV for an obsolete one, or when the device has nothing
    /// of the kind.
    pub fn get_param(&self, request: &GetParam) -> Result<ParamAnswer, Refusal> {
        let value = self.caps.param(request.param).map_err(|reason| {
            Refusal::new(reason).with_detail(format!("parameter {}", request.param))
        })?;
        Ok(ParamAnswer { value })
    }

    /// i915 QUERY: each item is answered or refused for itself.
    ///
    /// # Errors
    /// EINVAL for flags, and for an item with number 0.
    pub fn query(&self, request: &Query) -> Result<QueryReply, Refusal> {
        if request.flags != 0 || request.items.iter().any(|item| item.id == 0) {
            return Err(Reason::QueryFlags.into());
        }
        Ok(QueryReply {
            answers: request.items.iter().map(|item| self.caps.answer(item)).collect(),
        })
    }

    /// i915 GEM_GET_APERTURE.
    #[must_use]
    pub fn aperture(&self) -> Aperture {
        Aperture { size: APERTURE_BYTES, available: APERTURE_BYTES }
    }

    /// i915 REG_READ; `timestamp` is the render engine's, in ticks.
    ///
    /// # Errors
    /// EINVAL for any other register.
    pub fn reg_read(&self, request: &RegRead, timestamp: u64) -> Result<RegValue, Refusal> {
        if request.offset & !READ_IN_HALVES != RCS_TIMESTAMP {
            let detail = format!("register {:#x}", request.offset);
            return Err(Refusal::new(Reason::RegisterUnknown).with_detail(detail));
        }
        Ok(RegValue { value: timestamp & TIMESTAMP_MASK })
    }
}
