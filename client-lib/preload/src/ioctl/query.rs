//! QUERY: typed answers laid out as the kernel's structures.

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use gpu_broker_client::protocol::object::{
    MemoryRegion, QueriedEngine, Query, QueryAnswer, QueryItem, Topology,
};
use gpu_broker_client::protocol::{Reply, Request};
use gpu_broker_uapi::i915::{
    drm_i915_engine_info, drm_i915_memory_region_info, drm_i915_query, drm_i915_query_engine_info,
    drm_i915_query_item, drm_i915_query_memory_regions, drm_i915_query_topology_info,
};

use super::{ask, reply};
use crate::arg::{Arg, at, put, u32_at, u64_at};
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::user;

/// What the device is does not change; the broker tells nobody what others use.
static ANSWERS: Mutex<Option<HashMap<(u64, u32), QueryAnswer>>> = Mutex::new(None);

pub(super) fn query(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    if arg.u32(at!(drm_i915_query, flags)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let count = arg.u32(at!(drm_i915_query, num_items));
    let items = arg.u64(at!(drm_i915_query, items_ptr));
    let size = size_of::<drm_i915_query_item>() as u64;
    for index in 0..u64::from(count) {
        let place = items.wrapping_add(index * size);
        let item = user::records(place, 1, size_of::<drm_i915_query_item>())?;
        let id = u64_at(&item, at!(drm_i915_query_item, query_id));
        if id == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let length = answer(node, id, &item).unwrap_or_else(|Errno(errno)| -errno);
        let at = place.wrapping_add(at!(drm_i915_query_item, length) as u64);
        user::write(at, &length.to_ne_bytes())?;
    }
    Ok(0)
}

/// One item: the bytes it takes, or as many written.
fn answer(node: &Node, id: u64, item: &[u8]) -> Outcome<i32> {
    let flags = u32_at(item, at!(drm_i915_query_item, flags));
    let data = match typed(node, id, flags)? {
        QueryAnswer::Error(errno) => return Err(Errno(errno)),
        QueryAnswer::Topology(topology) => topology_bytes(&topology),
        QueryAnswer::Engines(engines) => engine_bytes(&engines),
        QueryAnswer::Regions(regions) => region_bytes(&regions),
    };
    let length = i32::try_from(data.bytes.len()).map_err(|_| Errno(libc::EINVAL))?;
    let room = u32_at(item, at!(drm_i915_query_item, length)).cast_signed();
    if room == 0 {
        return Ok(length);
    }
    if room < length {
        return Err(Errno(libc::EINVAL));
    }
    let place = u64_at(item, at!(drm_i915_query_item, data_ptr));
    let given = user::records(place, 1, data.must_be_zero)?;
    if given.iter().any(|byte| *byte != 0) {
        return Err(Errno(libc::EINVAL));
    }
    user::write(place, &data.bytes)?;
    Ok(length)
}

fn typed(node: &Node, id: u64, flags: u32) -> Outcome<QueryAnswer> {
    let cache = || ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache().get_or_insert_default().get(&(id, flags)) {
        return Ok(known.clone());
    }
    let request = Query { flags: 0, items: vec![QueryItem { id, flags }] };
    let answers = reply!(ask(node, Request::Query(request))?, Reply::Query(r) => r.answers)?;
    let answer = answers.into_iter().next().ok_or(Errno(libc::EIO))?;
    // Numbers that mean nothing are not worth remembering; there are too many of them.
    if !matches!(answer, QueryAnswer::Error(_)) {
        cache().get_or_insert_default().insert((id, flags), answer.clone());
    }
    Ok(answer)
}

struct Data {
    bytes: Vec<u8>,
    /// So many bytes at the start must be 0 in what the program gives.
    must_be_zero: usize,
}

fn topology_bytes(topology: &Topology) -> Data {
    type T = drm_i915_query_topology_info;
    let bytes_for = |bits: u16| bits.div_ceil(8);
    let slice_bytes = bytes_for(topology.max_slices);
    let subslice_stride = bytes_for(topology.max_subslices);
    let eu_stride = bytes_for(topology.max_eus_per_subslice);
    let eu_offset = slice_bytes + topology.max_slices * subslice_stride;
    let mut bytes = vec![0; size_of::<T>()];
    for (offset, value) in [
        (at!(T, max_slices), topology.max_slices),
        (at!(T, max_subslices), topology.max_subslices),
        (at!(T, max_eus_per_subslice), topology.max_eus_per_subslice),
        (at!(T, subslice_offset), slice_bytes),
        (at!(T, subslice_stride), subslice_stride),
        (at!(T, eu_offset), eu_offset),
        (at!(T, eu_stride), eu_stride),
    ] {
        put(&mut bytes, offset, &value.to_ne_bytes());
    }
    let mut mask = |value: u64, length: u16| {
        let little = value.to_le_bytes();
        bytes.extend(little.iter().copied().chain(std::iter::repeat(0)).take(length.into()));
    };
    mask(topology.slice_mask, slice_bytes);
    for subslices in &topology.subslice_masks {
        mask(*subslices, subslice_stride);
    }
    for eus in &topology.eu_masks {
        mask(*eus, eu_stride);
    }
    Data { bytes, must_be_zero: 2 }
}

fn engine_bytes(engines: &[QueriedEngine]) -> Data {
    type E = drm_i915_engine_info;
    let header = size_of::<drm_i915_query_engine_info>();
    let mut bytes = vec![0; header];
    put(&mut bytes, 0, &u32::try_from(engines.len()).unwrap_or(0).to_ne_bytes());
    for engine in engines {
        let mut info = [0; size_of::<E>()];
        put(&mut info, at!(E, engine), &engine.engine.class.to_ne_bytes());
        put(&mut info, at!(E, engine) + 2, &engine.engine.instance.to_ne_bytes());
        put(&mut info, at!(E, flags), &engine.flags.to_ne_bytes());
        put(&mut info, at!(E, capabilities), &engine.capabilities.to_ne_bytes());
        put(&mut info, at!(E, logical_instance), &engine.logical_instance.to_ne_bytes());
        bytes.extend_from_slice(&info);
    }
    Data { bytes, must_be_zero: header }
}

fn region_bytes(regions: &[MemoryRegion]) -> Data {
    type R = drm_i915_memory_region_info;
    let header = size_of::<drm_i915_query_memory_regions>();
    let mut bytes = vec![0; header];
    put(&mut bytes, 0, &u32::try_from(regions.len()).unwrap_or(0).to_ne_bytes());
    for region in regions {
        let mut info = [0; size_of::<R>()];
        put(&mut info, at!(R, region), &region.class.to_ne_bytes());
        put(&mut info, at!(R, region) + 2, &region.instance.to_ne_bytes());
        put(&mut info, at!(R, probed_size), &region.probed_bytes.to_ne_bytes());
        put(&mut info, at!(R, unallocated_size), &region.unallocated_bytes.to_ne_bytes());
        bytes.extend_from_slice(&info);
    }
    Data { bytes, must_be_zero: header }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_is_laid_out_with_its_masks_behind_it() {
        let topology = Topology {
            max_slices: 2,
            max_subslices: 3,
            max_eus_per_subslice: 9,
            slice_mask: 0b11,
            subslice_masks: vec![0b111, 0b101],
            eu_masks: vec![0x1ff, 0xff, 0xfe, 1, 2, 3],
        };
        let data = topology_bytes(&topology);
        let [header @ .., _, _] = [0_u8; 18];
        assert_eq!(data.bytes.len(), header.len() + 1 + 2 + 6 * 2);
        assert_eq!(data.bytes[16..], [3, 7, 5, 0xff, 1, 0xff, 0, 0xfe, 0, 1, 0, 2, 0, 3, 0]);
        assert_eq!(data.bytes[8..16], [1, 0, 1, 0, 3, 0, 2, 0], "offsets and strides");
    }
}
