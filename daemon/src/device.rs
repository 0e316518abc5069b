//! Which GPU the daemon serves, and what the rules are told of it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use gpu_broker_core::{Capabilities, KernelAnswers, SseuTopology};
use gpu_broker_device::i915::{I915Device, nodes};
use gpu_broker_device::{Description, EngineDescription, KernelFacts, TopologyFacts};
use gpu_broker_protocol::message::EngineInfo;
use gpu_broker_protocol::object::{MemoryRegion, Topology};
use gpu_broker_protocol::param::EngineId;

use crate::policy::Policy;

/// What the administrator asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// The best there is.
    Auto,
    /// The software GPU.
    Soft,
    /// A render node.
    Node(PathBuf),
}

impl FromStr for DeviceChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "soft" => Ok(Self::Soft),
            path if path.starts_with("/dev/dri/") => Ok(Self::Node(path.into())),
            _ => Err(()),
        }
    }
}

/// A render node that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {path}: {source}; it must be a render node of the i915 driver that this user may \
     open (group render), or start with --device soft"
)]
pub(crate) struct Unusable {
    path: PathBuf,
    source: std::io::Error,
}

impl DeviceChoice {
    /// Opens the GPU; `None` is the software GPU.
    pub(crate) fn open(&self) -> Result<Option<I915Device>, Unusable> {
        match self {
            Self::Soft => Ok(None),
            Self::Node(path) => open_node(path).map(Some),
            Self::Auto => Ok(Self::first_that_opens()),
        }
    }

    fn first_that_opens() -> Option<I915Device> {
        let found = nodes();
        let mut others = found.iter();
        while let Some(node) = others.next() {
            match open_node(&node.path) {
                Ok(device) => {
                    let (path, slot) = (node.path.display(), &node.pci_slot);
                    tracing::info!("device auto: using {path} ({slot})");
                    for other in others {
                        let (path, slot) = (other.path.display(), &other.pci_slot);
                        tracing::info!(
                            "device auto: not using {path} ({slot}); device = {path} does"
                        );
                    }
                    return Some(device);
                }
                Err(error) => tracing::warn!("device auto: {error}"),
            }
        }
        tracing::info!("device auto: no GPU that i915 drives can be used; using the software GPU");
        None
    }
}

fn open_node(path: &Path) -> Result<I915Device, Unusable> {
    I915Device::open(path).map_err(|source| Unusable { path: path.to_owned(), source })
}

/// What the rules need to know of the device.
pub(crate) fn capabilities(description: &Description) -> Capabilities {
    let model = Capabilities::kaby_lake_gt3();
    let Some(kernel) = &description.kernel else { return model };
    let param = |number| answer(kernel, number).unwrap_or(0);
    let scheduler = param(number::HAS_SCHEDULER);
    let regions = kernel.memory.as_ref().map(|regions| {
        regions
            .iter()
            .map(|region| MemoryRegion {
                class: region.class,
                instance: region.instance,
                probed_bytes: region.probed_bytes,
                unallocated_bytes: region.probed_bytes,
            })
            .collect::<Vec<_>>()
    });
    let system = regions.iter().flatten().find(|region| region.class == 0);
    Capabilities {
        graphics_version: description.graphics_version,
        graphics_release: kernel.graphics_release,
        device_id: description.device_id,
        revision: description.revision,
        timestamp_hz: description.timestamp_hz,
        memory_bytes: system.map_or(model.memory_bytes, |region| region.probed_bytes),
        gtt_bytes: description.gtt_bytes,
        engines: description.engines.iter().map(engine_info).collect(),
        has_logical_contexts: true,
        has_execlists: true,
        guc: kernel.guc,
        low_latency: kernel.guc && param(number::HAS_CONTEXT_FREQ_HINT) != 0,
        full_ppgtt: param(number::HAS_ALIASING_PPGTT) >= 2,
        has_priority: scheduler & scheduler_bit::PRIORITY != 0,
        has_preemption: scheduler & scheduler_bit::PREEMPTION != 0,
        has_engine_reset: param(number::HAS_GPU_RESET) >= 2,
        hangcheck: kernel.hangcheck,
        // Never asked for on behalf of a client: what it protects, the daemon would hold.
        pxp: false,
        has_llc_or_snoop: true,
        // The kernel's page tables of versions 11 and 12 have none.
        has_read_only_pages: !(11..=12).contains(&description.graphics_version),
        has_bonds: kernel.has_bonds,
        has_relocations: kernel.has_relocations,
        discrete: regions.iter().flatten().any(|region| region.class == DEVICE_MEMORY),
        sseu: kernel.topology.as_ref().map_or(model.sseu, sseu),
        kernel: Some(KernelAnswers {
            params: kernel.params.clone(),
            topology: kernel.topology.as_ref().map(topology),
            regions,
        }),
    }
}

/// GETPARAM numbers that rules depend on.
mod number {
    pub(super) const HAS_ALIASING_PPGTT: i32 = 18;
    pub(super) const HAS_GPU_RESET: i32 = 35;
    pub(super) const HAS_SCHEDULER: i32 = 41;
    pub(super) const HAS_CONTEXT_FREQ_HINT: i32 = 59;
}

/// Bits of HAS_SCHEDULER.
mod scheduler_bit {
    pub(super) const PRIORITY: i32 = 1 << 1;
    pub(super) const PREEMPTION: i32 = 1 << 2;
}

/// `I915_MEMORY_CLASS_DEVICE`.
const DEVICE_MEMORY: u16 = 1;

fn answer(kernel: &KernelFacts, number: i32) -> Option<i32> {
    let found = kernel.params.iter().find(|(known, _)| *known == number);
    found.and_then(|(_, answer)| answer.ok())
}

pub(crate) fn engine_info(description: &EngineDescription) -> EngineInfo {
    let engine = description.engine;
    EngineInfo {
        engine: EngineId { class: engine.class, instance: engine.instance },
        name: description.name.clone(),
        logical_instance: description.logical_instance,
        capabilities: description.capabilities,
    }
}

fn topology(facts: &TopologyFacts) -> Topology {
    Topology {
        max_slices: facts.max_slices,
        max_subslices: facts.max_subslices,
        max_eus_per_subslice: facts.max_eus_per_subslice,
        slice_mask: facts.slice_mask,
        subslice_masks: facts.subslice_masks.clone(),
        eu_masks: facts.eu_masks.clone(),
    }
}

fn sseu(facts: &TopologyFacts) -> SseuTopology {
    // Wider devices than Gen11's have no SSEU parameter.
    let narrow = |mask: u64| u8::try_from(mask & 0xff).unwrap_or(u8::MAX);
    SseuTopology {
        slice_mask: narrow(facts.slice_mask),
        subslice_mask: narrow(facts.subslice_masks.iter().fold(0, |all, mask| all | mask)),
        eus_per_subslice: narrow(facts.max_eus_per_subslice.into()),
    }
}

/// Says so where the policy promises what the kernel will not let the daemon do.
pub(crate) fn warn_of_privileges(description: &Description, policy: &Policy) {
    if description.kernel.is_none() {
        return;
    }
    for class in policy.classes() {
        let (name, may) = (&class.name, class.privileges);
        if may.priority_max > 0 {
            tracing::warn!(
                "class \"{name}\" may have priorities up to {}, but above 0 this device asks for \
                 CAP_SYS_NICE, which the daemon runs without: they are refused (EPERM)",
                may.priority_max
            );
        }
        if may.clear_bannable {
            tracing::warn!(
                "class \"{name}\" may clear BANNABLE, but for that this device asks for \
                 CAP_SYS_ADMIN, which the daemon runs without: it is refused (EPERM)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use gpu_broker_device::{EngineId, MemoryFacts};

    use super::*;

    #[test]
    fn a_render_node_that_is_not_there_is_refused_with_a_sentence() {
        let choice: DeviceChoice = "/dev/dri/renderD999".parse().expect("a path");
        let Err(error) = choice.open() else { panic!("it is not there") };
        let sentence = error.to_string();
        assert!(sentence.contains("/dev/dri/renderD999") && sentence.contains("--device soft"));
        assert!("renderD128".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn the_kernel_says_what_the_device_can_do() {
        let topology = TopologyFacts {
            max_slices: 3,
            max_subslices: 4,
            max_eus_per_subslice: 8,
            slice_mask: 0b11,
            subslice_masks: vec![0b111, 0b101, 0],
            eu_masks: vec![255; 12],
        };
        let region = |class, probed_bytes| MemoryFacts { class, instance: 0, probed_bytes };
        let facts = KernelFacts {
            graphics_release: 55,
            has_bonds: false,
            has_relocations: false,
            guc: true,
            hangcheck: true,
            params: vec![(18, Ok(3)), (35, Ok(2)), (41, Ok(1 | 2 | 32)), (42, Err(19))],
            topology: Some(topology),
            memory: Some(vec![region(0, 8 << 30), region(1, 16 << 30)]),
        };
        let engine = EngineDescription {
            engine: EngineId { class: 0, instance: 0 },
            name: "rcs0".to_owned(),
            logical_instance: 0,
            capabilities: 0,
        };
        let description = Description {
            driver: "i915",
            name: String::new(),
            vendor_id: 0x8086,
            device_id: 0x56a0,
            revision: 8,
            graphics_version: 12,
            gtt_bytes: 1 << 48,
            timestamp_hz: 19_200_000,
            wedged: false,
            engines: vec![engine],
            kernel: Some(facts),
        };
        let caps = capabilities(&description);
        assert!(caps.full_ppgtt && caps.has_engine_reset && caps.has_priority && caps.guc);
        assert!(!caps.has_preemption && !caps.has_relocations && caps.discrete);
        assert_eq!((caps.sseu.slice_mask, caps.sseu.subslice_mask), (0b11, 0b111));
        assert_eq!((caps.memory_bytes, caps.engines.len()), (8 << 30, 1));
        let soft = Description { kernel: None, ..description };
        assert_eq!(capabilities(&soft), Capabilities::kaby_lake_gt3());
    }
}
