//! What a device says of itself.

use crate::EngineId;

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Back end, `soft` or `i915`.
    pub driver: &'static str,
    /// Model.
    pub name: String,
    /// PCI vendor.
    pub vendor_id: u16,
    /// PCI device.
    pub device_id: u16,
    /// PCI revision.
    pub revision: u16,
    /// Major graphics version.
    pub graphics_version: u16,
    /// Bytes of an address space.
    pub gtt_bytes: u64,
    /// Ticks per second of the timestamps.
    pub timestamp_hz: u64,
    /// Nothing runs any more.
    pub wedged: bool,
    /// The engines, by class then instance.
    pub engines: Vec<EngineDescription>,
    /// What a kernel says of it beyond that; `None` if no kernel drives it.
    pub kernel: Option<KernelFacts>,
}

/// What the kernel says of a device, which clients are told in its words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelFacts {
    /// Release within the major version: 70 in 12.70.
    pub graphics_release: u16,
    /// BOND is accepted.
    pub has_bonds: bool,
    /// Objects may carry relocations.
    pub has_relocations: bool,
    /// Work is submitted by the GuC.
    pub guc: bool,
    /// Hangs are looked for.
    pub hangcheck: bool,
    /// Answers to GETPARAM by number: the value, or a positive errno.
    pub params: Vec<(i32, Result<i32, i32>)>,
    /// Slices, subslices and execution units.
    pub topology: Option<TopologyFacts>,
    /// Memory regions; `None` if the kernel does not tell.
    pub memory: Option<Vec<MemoryFacts>>,
}

/// Slices, subslices and execution units.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopologyFacts {
    /// Slices there can be.
    pub max_slices: u16,
    /// Subslices a slice can have.
    pub max_subslices: u16,
    /// Execution units a subslice can have.
    pub max_eus_per_subslice: u16,
    /// Slices there are.
    pub slice_mask: u64,
    /// Subslices of each slice there can be.
    pub subslice_masks: Vec<u64>,
    /// Execution units of each subslice there can be, slice by slice.
    pub eu_masks: Vec<u64>,
}

/// A memory region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFacts {
    /// `I915_MEMORY_CLASS_*`.
    pub class: u16,
    /// Counted from 0 within the class.
    pub instance: u16,
    /// Bytes.
    pub probed_bytes: u64,
}

/// How a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Health {
    /// It works.
    Good,
    /// The kernel has given it up; it may come back.
    Wedged,
    /// It was taken out, or another program told the kernel to forget it: what was made on it is lost,
    /// files opened later may work.
    Unplugged,
    /// It is there, but has no driver any more: unloaded, or unbound. What was made on it is lost, files
    /// opened later may work.
    Unbound,
}

impl Health {
    /// Whether what was made on it is lost.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Unplugged | Self::Unbound)
    }
}

/// What an engine is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineDescription {
    /// Class and instance.
    pub engine: EngineId,
    /// `rcs0`.
    pub name: String,
    /// Instance as the hardware numbers it.
    pub logical_instance: u16,
    /// Capability bits of `struct drm_i915_engine_info`.
    pub capabilities: u64,
}

/// What an engine has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineUsage {
    /// Nanoseconds spent executing.
    pub busy_ns: u64,
    /// Requests waiting or running.
    pub queued: u32,
    /// Requests completed, however they ended.
    pub completed: u64,
    /// Requests found guilty.
    pub faults: u64,
}
