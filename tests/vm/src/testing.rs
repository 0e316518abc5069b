//! Guest memory for tests.

use std::fs::File;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::memory::{Blocks, Ggtt, Guest, PAGE};

/// Where the RAM of [`guest`] starts, and its bytes.
pub(crate) const RAM: u64 = 0x10_0000;
pub(crate) const RAM_BYTES: u64 = 4 << 20;

/// A file of that many bytes.
pub(crate) fn file(bytes: u64) -> File {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, bytes).unwrap();
    file.into()
}

/// A guest with one block of RAM.
pub(crate) fn guest() -> Guest {
    let guest = Guest::default();
    fill(&guest);
    guest
}

/// Gives a guest its RAM.
pub(crate) fn fill(guest: &Guest) {
    guest.map(RAM, RAM_BYTES, file(RAM_BYTES), 0).unwrap();
}

/// Makes `pages` pages of the global GTT from `address` on those of the guest from `to` on.
pub(crate) fn map_global(ggtt: &Ggtt, address: u64, to: u64, pages: u64) {
    for page in 0..pages {
        let entry = (to + page * PAGE) | 1;
        let at = (address / PAGE + page) * 8;
        ggtt.store(at, u32::try_from(entry & 0xffff_ffff).unwrap());
        ggtt.store(at + 4, u32::try_from(entry >> 32).unwrap());
    }
}

/// Writes a qword of RAM.
pub(crate) fn put_u64(blocks: &Blocks, address: u64, value: u64) {
    blocks.write(address, &value.to_le_bytes()).unwrap();
}

/// Writes dwords of RAM.
pub(crate) fn put(blocks: &Blocks, address: u64, dwords: &[u32]) {
    let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
    blocks.write(address, &bytes).unwrap();
}

/// A dword of RAM.
pub(crate) fn get(blocks: &Blocks, address: u64) -> u32 {
    let mut bytes = [0; 4];
    blocks.read(address, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}
