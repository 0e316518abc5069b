//! What the kernel says of the device: GETPARAM, QUERY, and the parameters of a file's own context.

use std::os::fd::{AsFd as _, BorrowedFd};

use gpu_broker_uapi::i915::*;
use rustix::io::Errno;

use super::card::{Card, Node};
use super::{os, platform, sys};
use crate::{
    Description, DeviceError, EngineDescription, EngineId, KernelFacts, MemoryFacts, TopologyFacts,
};

/// GETPARAM numbers go up to here; more are for kernels and daemons to come.
const PARAMS: std::ops::RangeInclusive<i32> = 1..=64;

/// Everything about the device that does not change while it is there.
pub(super) fn describe(card: &Card, node: &Node) -> Result<Description, DeviceError> {
    let fd = card.as_fd();
    let failed = |doing| move |errno: Errno| os(errno, doing);
    let param = |number| sys::getparam(fd, number);
    let wanted = |number, doing| param(number).map_err(failed(doing));
    let device_id = wanted(I915_PARAM_CHIPSET_ID, "asking for CHIPSET_ID")?;
    let device_id = u16::try_from(device_id).map_err(|_| os(Errno::NODEV, "CHIPSET_ID"))?;
    let platform = platform::of(device_id).ok_or_else(|| {
        os(Errno::NODEV, "this device is none that i915 runs with execution lists")
    })?;
    // Without these the rules cannot be kept on it.
    for (number, doing) in [
        (I915_PARAM_HAS_EXEC_SOFTPIN, "asking for HAS_EXEC_SOFTPIN"),
        (I915_PARAM_HAS_EXEC_FENCE, "asking for HAS_EXEC_FENCE"),
        (I915_PARAM_HAS_EXEC_TIMELINE_FENCES, "asking for HAS_EXEC_TIMELINE_FENCES"),
    ] {
        if wanted(number, doing)? == 0 {
            return Err(os(Errno::NODEV, doing));
        }
    }
    let engines = engines(&query(fd, DRM_I915_QUERY_ENGINE_INFO)?);
    let gtt_bytes = sys::context_getparam(fd, 0, I915_CONTEXT_PARAM_GTT_SIZE)
        .map_err(failed("asking for GTT_SIZE"))?;
    let persistence = sys::context_getparam(fd, 0, I915_CONTEXT_PARAM_PERSISTENCE).unwrap_or(0);
    let timestamp_hz = param(I915_PARAM_CS_TIMESTAMP_FREQUENCY).unwrap_or(0);
    let guc = sys::query(fd, DRM_I915_QUERY_GUC_SUBMISSION_VERSION, 0).is_ok();
    let facts = KernelFacts {
        graphics_release: platform.release,
        has_bonds: platform.has_bonds,
        has_relocations: platform.has_relocations,
        guc,
        hangcheck: persistence != 0,
        params: PARAMS.map(|number| (number, answer(param(number)))).collect(),
        topology: query(fd, DRM_I915_QUERY_TOPOLOGY_INFO).ok().and_then(|item| topology(&item)),
        memory: query(fd, DRM_I915_QUERY_MEMORY_REGIONS).map(|item| regions(&item)).ok(),
    };
    Ok(Description {
        driver: "i915",
        name: format!("{} ({})", platform.name, node.path.display()),
        vendor_id: node.vendor_id,
        device_id,
        revision: u16::try_from(param(I915_PARAM_REVISION).unwrap_or(0)).unwrap_or(0),
        graphics_version: platform.version,
        gtt_bytes,
        timestamp_hz: u64::try_from(timestamp_hz).unwrap_or(0),
        wedged: false,
        engines,
        kernel: Some(facts),
    })
}

fn answer(result: Result<i32, Errno>) -> Result<i32, i32> {
    result.map_err(Errno::raw_os_error)
}

fn query(fd: BorrowedFd<'_>, id: u64) -> Result<Vec<u8>, DeviceError> {
    sys::query(fd, id, 0).map_err(|errno| os(errno, "QUERY"))
}

/// Little-endian numbers out of an item; 0 behind its end.
struct Item<'a>(&'a [u8]);

impl Item<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().unwrap_or([0; N])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> usize {
        u32::from_ne_bytes(self.bytes(at)) as usize
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    /// The structures of `size` bytes behind a head of `head` bytes whose first word counts them.
    fn entries(&self, head: usize, size: usize) -> impl Iterator<Item = Item<'_>> {
        let all = self.0.get(head..).unwrap_or_default();
        all.chunks_exact(size).take(self.u32(0)).map(Item)
    }
}

fn engines(item: &[u8]) -> Vec<EngineDescription> {
    let mut engines: Vec<_> = Item(item)
        .entries(size_of::<drm_i915_query_engine_info>(), size_of::<drm_i915_engine_info>())
        .map(|info| {
            let engine = EngineId { class: info.u16(0), instance: info.u16(2) };
            let class = match engine.class {
                I915_ENGINE_CLASS_RENDER => "rcs",
                I915_ENGINE_CLASS_COPY => "bcs",
                I915_ENGINE_CLASS_VIDEO => "vcs",
                I915_ENGINE_CLASS_VIDEO_ENHANCE => "vecs",
                I915_ENGINE_CLASS_COMPUTE => "ccs",
                _ => "engine",
            };
            EngineDescription {
                engine,
                name: format!("{class}{}", engine.instance),
                logical_instance: info.u16(24),
                capabilities: info.u64(16),
            }
        })
        .collect();
    engines.sort_by_key(|description| description.engine);
    engines
}

fn regions(item: &[u8]) -> Vec<MemoryFacts> {
    let head = size_of::<drm_i915_query_memory_regions>();
    let region = |info: Item<'_>| MemoryFacts {
        class: info.u16(0),
        instance: info.u16(2),
        probed_bytes: info.u64(8),
    };
    Item(item).entries(head, size_of::<drm_i915_memory_region_info>()).map(region).collect()
}

fn topology(bytes: &[u8]) -> Option<TopologyFacts> {
    let item = Item(bytes);
    let number = |at| usize::from(item.u16(at));
    let [slices, subslices, eus] = [2, 4, 6].map(number);
    let [subslice_offset, subslice_stride, eu_offset, eu_stride] = [8, 10, 12, 14].map(number);
    let data = bytes.get(size_of::<drm_i915_query_topology_info>()..)?;
    let mask = |at: usize, bytes: usize| -> Option<u64> {
        let mut mask = [0; 8];
        let bytes = bytes.min(mask.len());
        mask.get_mut(..bytes)?.copy_from_slice(data.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(mask))
    };
    let subslice_masks = (0..slices)
        .map(|slice| mask(subslice_offset + slice * subslice_stride, subslice_stride))
        .collect::<Option<Vec<_>>>()?;
    let eu_masks = (0..slices * subslices)
        .map(|at| mask(eu_offset + at * eu_stride, eu_stride))
        .collect::<Option<Vec<_>>>()?;
    Some(TopologyFacts {
        max_slices: item.u16(2),
        max_subslices: item.u16(4),
        max_eus_per_subslice: u16::try_from(eus).ok()?,
        slice_mask: mask(0, slices.div_ceil(8))?,
        subslice_masks,
        eu_masks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn engines_are_read_and_sorted() {
        let mut item = words(&[2, 0, 0, 0]);
        let info = |engine, capabilities, logical| {
            words(&[engine, 0, 1, 0, capabilities, 0, logical, 0, 0, 0, 0, 0, 0, 0])
        };
        item.extend(info(1 << 16 | 2, 3, 1));
        item.extend(info(0, 0, 0));
        let found = engines(&item);
        let names: Vec<_> = found.iter().map(|engine| &*engine.name).collect();
        assert_eq!(names, ["rcs0", "vcs1"]);
        assert_eq!((found[1].capabilities, found[1].logical_instance), (3, 1));
        assert_eq!(engines(&item[..40]), [], "cut off");
        assert_eq!(engines(&[]), []);
    }

    #[test]
    fn the_topology_is_read_as_masks() {
        // Two slices of up to four subslices with up to eight units each.
        let mut item: Vec<u8> =
            [0_u16, 2, 4, 8, 1, 1, 3, 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
        item.extend([0b11, 0b111, 0b101, 255, 255, 255, 0, 255, 0, 127, 0]);
        let found = topology(&item).unwrap();
        assert_eq!((found.slice_mask, &*found.subslice_masks), (3, &[7, 5][..]));
        assert_eq!(found.eu_masks, [255, 255, 255, 0, 255, 0, 127, 0]);
        assert_eq!(topology(&item[..20]), None, "cut off");
    }

    #[test]
    fn regions_are_read() {
        let mut item = words(&[1, 0, 0, 0, 1 << 16 | 1, 0, 0, 1]);
        item.resize(16 + 88, 0);
        let found = regions(&item);
        let region = MemoryFacts { class: 1, instance: 1, probed_bytes: 1 << 32 };
        assert_eq!(found, [region]);
    }
}
