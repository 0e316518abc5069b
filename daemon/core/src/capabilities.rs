//! What the rules need to know of the device (rule table §1).

use gpu_broker_protocol::limits;
use gpu_broker_protocol::message::EngineInfo;
use gpu_broker_protocol::object::{MemoryRegion, Topology};
use gpu_broker_protocol::param::{EngineId, class};

/// What a device can do, as far as a rule depends on it. Fixed while the daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Major graphics version: 9 for Gen9.
    pub graphics_version: u16,
    /// Release within the major version: 70 in 12.70.
    pub graphics_release: u16,
    /// PCI device id.
    pub device_id: u16,
    /// PCI revision.
    pub revision: u16,
    /// Ticks per second of the command streamers' timestamp.
    pub timestamp_hz: u64,
    /// Bytes of memory that buffers can live in, as clients are told.
    pub memory_bytes: u64,
    /// Bytes of a context's address space; at most 2^48.
    pub gtt_bytes: u64,
    /// The engines, by class then instance.
    pub engines: Vec<EngineInfo>,
    /// Contexts have an image of their own in memory. Without, CREATE answers ENODEV.
    pub has_logical_contexts: bool,
    /// Submission by execution lists or GuC (version 8 and later).
    pub has_execlists: bool,
    /// Submission by the GuC.
    pub guc: bool,
    /// LOW_LATENCY is accepted: the GuC submits, and the kernel knows the parameter.
    pub low_latency: bool,
    /// Every context has an address space of its own.
    pub full_ppgtt: bool,
    /// The scheduler knows priorities.
    pub has_priority: bool,
    /// The scheduler preempts.
    pub has_preemption: bool,
    /// One engine can be reset without the others.
    pub has_engine_reset: bool,
    /// Hangs are looked for.
    pub hangcheck: bool,
    /// Protected content is enabled.
    pub pxp: bool,
    /// BOND is accepted (checked, then ignored): false on version 12 and later except Tiger Lake,
    /// Rocket Lake and Alder Lake-S.
    pub has_bonds: bool,
    /// Objects may carry relocations: false on version 12 and later except Tiger Lake.
    pub has_relocations: bool,
    /// The GPU shares the last level of cache with the CPU, or can snoop the CPU's caches. Without,
    /// userptr is ENODEV.
    pub has_llc_or_snoop: bool,
    /// Address spaces have read-only pages: userptr's READ_ONLY.
    pub has_read_only_pages: bool,
    /// A discrete device.
    pub discrete: bool,
    /// Slices, subslices and execution units.
    pub sseu: SseuTopology,
    /// A kernel drives the device.
    pub kernel: Option<KernelAnswers>,
}

/// What the kernel answers about the device. Clients hear that, except where the broker's own rules
/// decide; and what the kernel asks a capability for is refused, because the daemon has none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelAnswers {
    /// GETPARAM by number: the value, or a positive errno.
    pub params: Vec<(i32, Result<i32, i32>)>,
    /// QUERY of the topology.
    pub topology: Option<Topology>,
    /// QUERY of the memory regions; `None` if the kernel does not know them.
    pub regions: Option<Vec<MemoryRegion>>,
}

impl KernelAnswers {
    /// The answer to GETPARAM; `None` for a parameter that was not asked for.
    pub(crate) fn param(&self, number: i32) -> Option<Result<i32, i32>> {
        self.params.iter().find(|(known, _)| *known == number).map(|(_, answer)| *answer)
    }
}

/// Slices, subslices and execution units of the device (rule table §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SseuTopology {
    /// A bit for each slice.
    pub slice_mask: u8,
    /// A bit for each subslice of a slice.
    pub subslice_mask: u8,
    /// Execution units of a subslice.
    pub eus_per_subslice: u8,
}

impl Capabilities {
    /// Kaby Lake GT3, the device that the software GPU is: Gen9 with five engines.
    #[must_use]
    pub fn kaby_lake_gt3() -> Self {
        let engine = |class, instance, name: &str| EngineInfo {
            engine: EngineId { class, instance },
            name: name.to_owned(),
            logical_instance: instance,
            capabilities: 0,
        };
        Self {
            graphics_version: 9,
            graphics_release: 0,
            device_id: 0x5926,
            revision: 6,
            timestamp_hz: 12_000_000,
            memory_bytes: limits::BUFFER_MEMORY_PER_SESSION_BYTES_MAX,
            gtt_bytes: 1 << 48,
            engines: vec![
                engine(class::RENDER, 0, "rcs0"),
                engine(class::COPY, 0, "bcs0"),
                engine(class::VIDEO, 0, "vcs0"),
                engine(class::VIDEO, 1, "vcs1"),
                engine(class::VIDEO_ENHANCE, 0, "vecs0"),
            ],
            has_logical_contexts: true,
            has_execlists: true,
            guc: false,
            low_latency: false,
            full_ppgtt: true,
            has_priority: true,
            has_preemption: true,
            has_engine_reset: true,
            hangcheck: true,
            pxp: false,
            has_bonds: true,
            has_relocations: true,
            has_llc_or_snoop: true,
            has_read_only_pages: true,
            discrete: false,
            sseu: SseuTopology { slice_mask: 0b11, subslice_mask: 0b111, eus_per_subslice: 8 },
            kernel: None,
        }
    }

    /// The engine of that class and instance.
    ///
    /// The kernel keeps eight of the sixteen bits of each number, so it takes class 0x100 for class
    /// 0 (rule table §0.9). We compare all sixteen: no client relies on the accident, and one that
    /// sends such a number has a bug that it should hear of.
    pub(crate) fn engine(&self, id: EngineId) -> Option<&EngineInfo> {
        self.engines.iter().find(|info| info.engine == id)
    }

    pub(crate) fn has_engine(&self, id: EngineId) -> bool {
        self.engine(id).is_some()
    }

    pub(crate) fn engines_of_class(&self, class: u16) -> usize {
        self.engines.iter().filter(|info| info.engine.class == class).count()
    }

    /// Whether the device is newer than 12.0 or discrete, which decides about error capture.
    pub(crate) fn is_modern(&self) -> bool {
        self.discrete || (self.graphics_version, self.graphics_release) > (12, 0)
    }
}
