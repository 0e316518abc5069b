//! What is kept of a batch that died: registers, the last commands, and memory, within limits.

use gpu_broker_soft_gpu::decode::{self, Listed};
use gpu_broker_soft_gpu::{Memory, Streamer};

use super::limits::{
    CAPTURE_BATCH_BYTES_MAX, CAPTURE_BYTES_MAX, CAPTURE_OBJECT_BYTES_MAX, CAPTURE_OBJECTS_MAX,
    LISTED_AFTER, LISTED_BEFORE,
};
use crate::{Batch, Capture, Command, Object, Region, RegionKind};

/// Memory is read page by page, because the next page may not be mapped.
const PAGE_BYTES: u64 = 4096;

/// An object whose contents belong in a capture: address and bytes.
pub(super) type Flagged = (u64, u64);

/// The objects of a submission that are flagged, as many as a capture takes.
pub(super) fn flagged<B>(objects: &[Object<'_, B>]) -> Vec<Flagged> {
    let flagged = objects.iter().filter(|object| object.capture);
    flagged.take(CAPTURE_OBJECTS_MAX).map(|object| (object.address, object.size)).collect()
}

/// Looks at what a batch left. The memory is as it is now: a CPU or another engine may have changed
/// it since.
pub(super) fn capture(
    streamer: &Streamer,
    memory: &dyn Memory,
    batch: Batch,
    objects: &[Flagged],
) -> Capture {
    let at = streamer.position();
    let mut regions = Vec::new();
    let mut left = CAPTURE_BYTES_MAX;
    let inside = at.wrapping_sub(batch.address) < batch.length;
    let offset = if inside { window(at - batch.address, batch.length) } else { 0 };
    let whole = (batch.address, batch.length);
    keep(&mut regions, &mut left, memory, (RegionKind::Batch, whole, offset));
    if !inside {
        // Somewhere it jumped to: the page, which is all that is known to be one piece.
        let page = (at / PAGE_BYTES * PAGE_BYTES, PAGE_BYTES);
        keep(&mut regions, &mut left, memory, (RegionKind::Commands, page, 0));
    }
    for object in objects {
        keep(&mut regions, &mut left, memory, (RegionKind::Object, *object, 0));
    }
    let mut registers = vec![
        ("ACTHD".to_owned(), at),
        ("BB_START".to_owned(), batch.address),
        ("IPEHR".to_owned(), dword(memory, at).into()),
    ];
    registers.extend(streamer.registers().named());
    let executed = |executed: gpu_broker_soft_gpu::Executed| Command {
        address: executed.address,
        dwords: vec![executed.header],
        name: decode::name_or_kind(executed.header),
        fields: Vec::new(),
        failed: false,
    };
    let commands = streamer.trace().map(executed).collect();
    let listing = list(&regions, at);
    Capture { registers, commands, listing, regions }
}

/// The commands around the one at `at`, from the memory that was kept. Those before it are what a
/// straight reading gives; a batch that jumped there may have come another way.
fn list(regions: &[Region], at: u64) -> Vec<Command> {
    let place = |region: &Region| at.wrapping_sub(region.address.wrapping_add(region.offset));
    let is_code = |region: &&Region| region.kind != RegionKind::Object;
    let inside = |region: &&Region| place(region) < region.bytes.len() as u64;
    let Some(region) = regions.iter().filter(is_code).find(inside) else { return Vec::new() };
    let split = usize::try_from(place(region)).unwrap_or(0);
    let Some((before, after)) = region.bytes.split_at_checked(split) else { return Vec::new() };
    let start = region.address.wrapping_add(region.offset);
    let mut kept = std::collections::VecDeque::with_capacity(LISTED_BEFORE);
    for listed in decode::listing(before, start) {
        if kept.len() == LISTED_BEFORE {
            kept.pop_front();
        }
        kept.push_back(listed);
    }
    let following = decode::listing(after, at).take(1 + LISTED_AFTER);
    let command = |Listed { address, dwords, name, fields }: Listed| Command {
        address,
        dwords,
        name,
        fields,
        failed: address == at,
    };
    kept.into_iter().chain(following).map(command).collect()
}

/// Where to begin so that the failing command is inside, with more before it than after.
fn window(at: u64, length: u64) -> u64 {
    let before = CAPTURE_BATCH_BYTES_MAX / 4 * 3;
    let latest = length.saturating_sub(CAPTURE_BATCH_BYTES_MAX);
    // Whole dwords, so that what is kept can be decoded.
    at.saturating_sub(before).min(latest) / 4 * 4
}

fn keep(
    regions: &mut Vec<Region>,
    left: &mut u64,
    memory: &dyn Memory,
    (kind, (address, size), offset): (RegionKind, (u64, u64), u64),
) {
    let most = match kind {
        RegionKind::Batch | RegionKind::Commands => CAPTURE_BATCH_BYTES_MAX,
        RegionKind::Object => CAPTURE_OBJECT_BYTES_MAX,
    };
    let wanted = size.saturating_sub(offset).min(most).min(*left);
    let bytes = read(memory, address.wrapping_add(offset), wanted);
    *left -= bytes.len() as u64;
    regions.push(Region { kind, address, size, offset, bytes });
}

/// As much of the range as is mapped.
fn read(memory: &dyn Memory, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut done = 0;
    while done < bytes.len() {
        let here = address.wrapping_add(done as u64);
        let rest = usize::try_from(PAGE_BYTES - here % PAGE_BYTES).unwrap_or(bytes.len());
        let end = bytes.len().min(done + rest);
        let Some(piece) = bytes.get_mut(done..end) else { break };
        if memory.read(here, piece).is_err() {
            break;
        }
        done = end;
    }
    bytes.truncate(done);
    bytes
}

/// 0 where nothing is mapped.
pub(super) fn dword(memory: &dyn Memory, address: u64) -> u32 {
    let mut bytes = [0; 4];
    match memory.read(address, &mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_holds_the_command_and_stays_inside() {
        const MAX: u64 = CAPTURE_BATCH_BYTES_MAX;
        assert_eq!(window(0, 16), 0);
        assert_eq!(window(MAX - 4, MAX), 0);
        for length in [MAX + 4, 3 * MAX + 8, 100 * MAX] {
            for at in [0, 4, MAX / 2, MAX, length / 2, length - 4] {
                let at = at.min(length - 4) / 4 * 4;
                let offset = window(at, length);
                assert!(offset <= at && at < offset + MAX, "{at} of {length}: {offset}");
                assert!(offset + MAX <= length && offset.is_multiple_of(4));
            }
        }
    }
}
