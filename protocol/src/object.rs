//! What clients ask of the device and of buffers beside creating and running: GETPARAM, QUERY,
//! domains, caching, tiling, advice, sharing (rule table §17).

use serde::{Deserialize, Serialize};

use crate::ids::BufferId;
use crate::param::EngineId;

/// Domains of SET_DOMAIN.
pub mod domain {
    /// The CPU, through its caches.
    pub const CPU: u32 = 0x1;
    /// The CPU, through the aperture.
    pub const GTT: u32 = 0x40;
    /// The CPU, write-combining.
    pub const WC: u32 = 0x80;
}

/// Modes of SET_CACHING.
pub mod caching {
    /// The GPU does not snoop the CPU's caches.
    pub const NONE: u32 = 0;
    /// It does.
    pub const CACHED: u32 = 1;
    /// As display engines want it.
    pub const DISPLAY: u32 = 2;
}

/// Modes of SET_TILING.
pub mod tiling {
    /// Linear.
    pub const NONE: u32 = 0;
    /// X tiles: 512 bytes by 8 rows.
    pub const X: u32 = 1;
    /// Y tiles: 128 bytes by 32 rows.
    pub const Y: u32 = 2;
}

/// Advice of MADVISE.
pub mod advice {
    /// The memory must stay, or come back.
    pub const WILL_NEED: u32 = 0;
    /// The memory may be dropped.
    pub const DONT_NEED: u32 = 1;
}

/// Flags of BUFFER_EXPORT.
pub mod export_flag {
    /// The fd is close-on-exec. It always is; the flag is accepted as `DRM_CLOEXEC` is.
    pub const CLOEXEC: u32 = 0o200_0000;
    /// The fd can be mapped for writing. It always can (`DRM_RDWR`).
    pub const RDWR: u32 = 2;
}

/// i915 GETPARAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetParam {
    /// `I915_PARAM_*`; unknown ones are EINVAL.
    pub param: i32,
}

/// The parameter's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParamAnswer {
    /// As the kernel would write it.
    pub value: i32,
}

/// i915 QUERY: several items, each answered for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Query {
    /// Must be 0.
    pub flags: u32,
    /// At most [`crate::limits::QUERY_ITEMS_MAX`].
    pub items: Vec<QueryItem>,
}

/// One thing to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueryItem {
    /// 1 topology, 2 engines, 3 perf config, 4 memory regions, 5 hwconfig, 6 geometry subslices,
    /// 7 GuC version; 0 and others are EINVAL.
    pub id: u64,
    /// As the item defines it; for geometry subslices the engine.
    pub flags: u32,
}

/// Answers in the order of the items.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueryReply {
    /// One per item.
    pub answers: Vec<QueryAnswer>,
}

/// The answer to one item, typed; whoever needs the kernel's bytes lays them out itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QueryAnswer {
    /// A positive errno for this item alone.
    Error(i32),
    /// Slices, subslices and execution units.
    Topology(Topology),
    /// The engines.
    Engines(Vec<QueriedEngine>),
    /// The memory regions.
    Regions(Vec<MemoryRegion>),
}

/// `struct drm_i915_query_topology_info` without offsets and strides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Topology {
    /// Most slices.
    pub max_slices: u16,
    /// Most subslices per slice.
    pub max_subslices: u16,
    /// Most execution units per subslice.
    pub max_eus_per_subslice: u16,
    /// A bit per slice that is there.
    pub slice_mask: u64,
    /// Per slice, a bit per subslice that is there.
    pub subslice_masks: Vec<u64>,
    /// Per slice and subslice, a bit per execution unit that is there.
    pub eu_masks: Vec<u64>,
}

/// `struct drm_i915_engine_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueriedEngine {
    /// Class and instance.
    pub engine: EngineId,
    /// Bit 0: `logical_instance` counts.
    pub flags: u64,
    /// Capability bits.
    pub capabilities: u64,
    /// Instance as the hardware numbers it.
    pub logical_instance: u16,
}

/// `struct drm_i915_memory_region_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// Class (0 system, 1 device) and instance.
    pub class: u16,
    /// Counted from 0 within the class.
    pub instance: u16,
    /// Bytes there are.
    pub probed_bytes: u64,
    /// Bytes free; all of them for clients without the privilege.
    pub unallocated_bytes: u64,
}

/// `struct drm_i915_gem_get_aperture`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Aperture {
    /// Bytes of the global address space.
    pub size: u64,
    /// Bytes of it that are free.
    pub available: u64,
}

/// i915 REG_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegRead {
    /// The render engine's timestamp, 0x2358, with bit 0 for the 8-byte workaround; others EINVAL.
    pub offset: u64,
}

/// The register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegValue {
    /// Its value.
    pub value: u64,
}

/// i915 GEM_SET_DOMAIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferSetDomain {
    /// Which.
    pub buffer: BufferId,
    /// CPU 1, GTT 0x40, WC 0x80; GPU domains are EINVAL.
    pub read_domains: u32,
    /// 0 or equal to `read_domains`.
    pub write_domain: u32,
}

/// Announces that the CPU is about to read or write a range, as GEM_PREAD and GEM_PWRITE do: the
/// reply comes when the GPU has written it, or for writing, no longer uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferAccess {
    /// Which.
    pub buffer: BufferId,
    /// First byte.
    pub offset: u64,
    /// Bytes; a range outside the buffer is EINVAL.
    pub size: u64,
    /// The CPU will write.
    pub write: bool,
}

/// i915 GEM_SET_CACHING.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferCaching {
    /// Which.
    pub buffer: BufferId,
    /// 0 none, 1 cached, 2 display.
    pub caching: u32,
}

/// The caching mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caching {
    /// 0 none, 1 cached, 2 display.
    pub caching: u32,
}

/// i915 GEM_SET_TILING.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferSetTiling {
    /// Which.
    pub buffer: BufferId,
    /// 0 none, 1 X, 2 Y.
    pub mode: u32,
    /// Bytes of a row.
    pub stride: u32,
}

/// A buffer's tiling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tiling {
    /// 0 none, 1 X, 2 Y.
    pub mode: u32,
    /// Bytes of a row; 0 when linear.
    pub stride: u32,
    /// Bit-6 swizzling; 0 none.
    pub swizzle: u32,
}

/// i915 GEM_MADVISE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferMadvise {
    /// Which.
    pub buffer: BufferId,
    /// 0 will need, 1 don't need.
    pub advice: u32,
}

/// What became of the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retained {
    /// 1 while the memory is there.
    pub retained: u32,
}

/// PRIME_HANDLE_TO_FD.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferExport {
    /// Which.
    pub buffer: BufferId,
    /// `DRM_CLOEXEC` (0o2000000) and `DRM_RDWR` (2); others EINVAL.
    pub flags: u32,
}

/// A buffer any session of the same daemon can import, and anybody can map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferExported<Fd> {
    /// A memfd sealed against shrinking and growing, or a dma-buf.
    pub fd: Fd,
}

/// Whose fences, and for whom: see [`BufferFenceExport`] and [`BufferFenceImport`].
pub mod fence_flag {
    /// Exports the writers' fences; imports a fence that who writes waits for.
    pub const READ: u32 = 1;
    /// Exports everybody's fences; imports a fence that everybody waits for.
    pub const WRITE: u32 = 2;
}

/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE: a fence that signals when work that uses the buffer now is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferFenceExport {
    /// Which.
    pub buffer: BufferId,
    /// [`fence_flag::READ`]: work that writes it; [`fence_flag::WRITE`], or both: all work. Others, and
    /// none, EINVAL.
    pub flags: u32,
}

/// DMA_BUF_IOCTL_IMPORT_SYNC_FILE: work that uses the buffer from now on waits for a fence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferFenceImport<Fd> {
    /// Which.
    pub buffer: BufferId,
    /// [`fence_flag::READ`]: work that writes it waits; [`fence_flag::WRITE`], or both: all work. Others,
    /// and none, EINVAL.
    pub flags: u32,
    /// The fence.
    pub fd: Fd,
}

/// PRIME_FD_TO_HANDLE: the same buffer gives the same handle again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BufferImport<Fd> {
    /// From BUFFER_EXPORT of any session.
    pub fd: Fd,
}
