//! What the GPU sees of the guest: its RAM, and the page tables that lie between.
//!
//! RAM is mapped here and in the emulator at once. It is only touched by atomics and copies, which
//! `vm-memory` provides without unsafe code of ours; guest, emulator and other engines write to it
//! at any time.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gpu_broker_soft_gpu::{Memory, MemoryFault};
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory};

use crate::lock;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of the global GTT's table: 8 per page of 4 GiB.
pub const GGTT_BYTES: u64 = 8 << 20;

/// A page table entry means something.
const PRESENT: u64 = 1;
/// In an entry of a context's tables for a page: what is written to the page arrives. Elsewhere it is
/// lost, without a fault: the page of an application's memory that the GPU may only read, or the
/// driver's scratch page.
const WRITABLE: u64 = 1 << 1;
/// Bits of an entry that are the address.
const ADDRESS: u64 = 0x7f_ffff_f000;
/// In a page directory: the entry is a page of 2 MiB.
const LARGE: u64 = 1 << 7;
/// In a page directory: every sixteenth entry of the page table is a page of 64 KiB.
const MEDIUM: u64 = 1 << 11;

/// A part of the guest's RAM.
#[derive(Debug)]
struct Block {
    start: u64,
    region: MmapRegion<()>,
}

/// The guest's RAM at one moment.
#[derive(Clone, Debug, Default)]
pub struct Blocks(Vec<Arc<Block>>);

/// The guest's RAM. Who works with it takes a snapshot: what is unmapped meanwhile stays mapped
/// here until the last snapshot is gone.
#[derive(Debug, Default)]
pub struct Guest(Mutex<Arc<Blocks>>);

impl Guest {
    /// RAM at `start`: `size` bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// What mmap says.
    pub fn map(&self, start: u64, size: u64, file: File, offset: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let region = MmapRegion::from_file(FileOffset::new(file, offset), size);
        let block = Block { start, region: region.map_err(io::Error::other)? };
        let mut current = lock(&self.0);
        Arc::make_mut(&mut current).0.push(Arc::new(block));
        Ok(())
    }

    /// Removes the RAM inside a range.
    pub fn unmap(&self, start: u64, size: u64) {
        let end = start.saturating_add(size);
        let mut current = lock(&self.0);
        Arc::make_mut(&mut current).0.retain(|block| block.start < start || block.end() > end);
    }

    /// The RAM as it is now.
    pub fn snapshot(&self) -> Arc<Blocks> {
        Arc::clone(&lock(&self.0))
    }
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.region.size() as u64
    }
}

impl Blocks {
    /// The block that has `len` bytes at a guest-physical address, and where.
    fn find(&self, address: u64, len: usize) -> Option<(&MmapRegion<()>, usize)> {
        let block = self.0.iter().find(|block| {
            block.start <= address && address.saturating_add(len as u64) <= block.end()
        })?;
        Some((&block.region, usize::try_from(address - block.start).ok()?))
    }

    /// Copies from RAM; `None` if there is none.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let (region, at) = self.find(address, into.len())?;
        if let Ok(dword) = <&mut [u8; 4]>::try_from(&mut *into)
            && let Ok(atomic) = region.get_atomic_ref::<AtomicU32>(at)
        {
            *dword = atomic.load(Ordering::Acquire).to_le_bytes();
            return Some(());
        }
        region.get_slice(at, into.len()).ok()?.copy_to(into);
        Some(())
    }

    /// Copies to RAM; `None` if there is none.
    pub fn write(&self, address: u64, from: &[u8]) -> Option<()> {
        let (region, at) = self.find(address, from.len())?;
        if let Ok(dword) = <[u8; 4]>::try_from(from)
            && let Ok(atomic) = region.get_atomic_ref::<AtomicU32>(at)
        {
            atomic.store(u32::from_le_bytes(dword), Ordering::Release);
            return Some(());
        }
        region.get_slice(at, from.len()).ok()?.copy_from(from);
        Some(())
    }

    fn read_u64(&self, address: u64) -> Option<u64> {
        let (region, at) = self.find(address, 8)?;
        Some(region.get_atomic_ref::<AtomicU64>(at).ok()?.load(Ordering::Acquire))
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Option<u32> {
        let (region, at) = self.find(address, 4)?;
        let atomic = region.get_atomic_ref::<AtomicU32>(at).ok()?;
        atomic.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(op(old))).ok()
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Option<u64> {
        let (region, at) = self.find(address, 8)?;
        let atomic = region.get_atomic_ref::<AtomicU64>(at).ok()?;
        atomic.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(op(old))).ok()
    }
}

/// The global GTT's table, which the driver writes through BAR 0.
#[derive(Debug)]
pub struct Ggtt(Box<[AtomicU32]>);

impl Default for Ggtt {
    fn default() -> Self {
        Self((0..GGTT_BYTES / 4).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Ggtt {
    /// The dword at a byte offset into the table; 0 outside.
    pub fn load(&self, offset: u64) -> u32 {
        self.dword(offset).map_or(0, |dword| dword.load(Ordering::Acquire))
    }

    /// Writes the dword at a byte offset into the table.
    pub fn store(&self, offset: u64, value: u32) {
        if let Some(dword) = self.dword(offset) {
            dword.store(value, Ordering::Release);
        }
    }

    /// No entry is present any more.
    pub fn clear(&self) {
        for dword in &self.0 {
            dword.store(0, Ordering::Relaxed);
        }
    }

    fn dword(&self, offset: u64) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(offset / 4).ok()?)
    }

    fn page(&self, address: u64) -> Option<u64> {
        let at = (address / PAGE).checked_mul(8)?;
        let entry = u64::from(self.load(at)) | u64::from(self.load(at + 4)) << 32;
        (at < GGTT_BYTES && entry & PRESENT != 0).then_some(entry & ADDRESS)
    }
}

/// The page of guest RAM behind the page of a context's address space at `address`, through four
/// levels of tables in guest RAM, and whether it may be written to.
fn walk(blocks: &Blocks, root: u64, address: u64) -> Option<(u64, bool)> {
    let index = |level: u32| address >> (12 + 9 * level) & 0x1ff;
    let entry = |table: u64, index: u64| {
        blocks.read_u64(table + 8 * index).filter(|entry| entry & PRESENT != 0)
    };
    let third = entry(root, index(3))? & ADDRESS;
    let second = entry(third, index(2))? & ADDRESS;
    let directory = entry(second, index(1))?;
    if directory & LARGE != 0 {
        let base = directory & ADDRESS & !0x1f_ffff;
        return Some((base + (address & 0x1f_f000), directory & WRITABLE != 0));
    }
    let table = directory & ADDRESS;
    if directory & MEDIUM != 0 {
        let page = entry(table, index(0) & !0xf)?;
        let base = page & ADDRESS & !0xffff;
        return Some((base + (address & 0xf000), page & WRITABLE != 0));
    }
    let page = entry(table, index(0))?;
    Some((page & ADDRESS, page & WRITABLE != 0))
}

/// Which tables translate.
#[derive(Clone, Copy, Debug)]
enum Tables<'a> {
    Global(&'a Ggtt),
    Context(u64),
}

/// Translations remembered for the life of a [`View`].
const REMEMBERED: usize = 64;

/// An address space of the GPU, for the length of one turn of an engine: translations are looked
/// up once per page and view, as a GPU has a TLB between its invalidations.
#[derive(Debug)]
pub struct View<'a> {
    blocks: &'a Blocks,
    tables: Tables<'a>,
    /// (page of the GPU, page of the guest, whether it may be written to).
    remembered: [Cell<(u64, u64, bool)>; REMEMBERED],
}

impl<'a> View<'a> {
    /// The global GTT.
    #[must_use]
    pub fn global(blocks: &'a Blocks, ggtt: &'a Ggtt) -> Self {
        Self::new(blocks, Tables::Global(ggtt))
    }

    /// A context's PPGTT, whose topmost table is at guest-physical address `root`.
    #[must_use]
    pub fn context(blocks: &'a Blocks, root: u64) -> Self {
        Self::new(blocks, Tables::Context(root & ADDRESS))
    }

    fn new(blocks: &'a Blocks, tables: Tables<'a>) -> Self {
        let remembered = std::array::from_fn(|_| Cell::new((u64::MAX, 0, false)));
        Self { blocks, tables, remembered }
    }

    /// Where it is in the guest's RAM, and whether it may be written to.
    fn translate(&self, address: u64, write: bool) -> Result<(u64, bool), MemoryFault> {
        let page = address / PAGE;
        let slot =
            usize::try_from(page).ok().and_then(|page| self.remembered.get(page % REMEMBERED));
        if let Some((known, guest, writable)) = slot.map(Cell::get)
            && known == page
        {
            return Ok((guest + address % PAGE, writable));
        }
        let found = match self.tables {
            Tables::Global(ggtt) => ggtt.page(address).map(|guest| (guest, true)),
            Tables::Context(root) => walk(self.blocks, root, address),
        };
        let (guest, writable) = found.ok_or(MemoryFault { address, write })?;
        if let Some(slot) = slot {
            slot.set((page, guest, writable));
        }
        Ok((guest + address % PAGE, writable))
    }

    /// Calls `each` with the parts of a range that lie in one page: guest-physical address and
    /// bytes of the range.
    fn pages(
        &self,
        address: u64,
        len: usize,
        write: bool,
        mut each: impl FnMut(u64, std::ops::Range<usize>) -> Option<()>,
    ) -> Result<(), MemoryFault> {
        let mut done = 0;
        while done < len {
            let here = address.wrapping_add(done as u64);
            let rest = usize::try_from(PAGE - here % PAGE).unwrap_or(len);
            let end = len.min(done + rest);
            let (guest, writable) = self.translate(here, write)?;
            if write && !writable {
                done = end;
                continue;
            }
            each(guest, done..end).ok_or(MemoryFault { address: here, write })?;
            done = end;
        }
        Ok(())
    }
}

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault> {
        self.pages(address, into.len(), false, |guest, part| {
            self.blocks.read(guest, into.get_mut(part)?)
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault> {
        self.pages(address, from.len(), true, |guest, part| {
            self.blocks.write(guest, from.get(part)?)
        })
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        let (guest, writable) = self.translate(address, true)?;
        if !writable {
            let mut bytes = [0; size_of::<u32>()];
            self.read(address, &mut bytes)?;
            return Ok(u32::from_le_bytes(bytes));
        }
        self.blocks.update_u32(guest, op).ok_or(MemoryFault { address, write: true })
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        let (guest, writable) = self.translate(address, true)?;
        if !writable {
            let mut bytes = [0; size_of::<u64>()];
            self.read(address, &mut bytes)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        self.blocks.update_u64(guest, op).ok_or(MemoryFault { address, write: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{RAM, RAM_BYTES, file, guest, map_global, put_u64};

    #[test]
    fn the_global_gtt_leads_to_ram_page_by_page() {
        let guest = guest();
        let blocks = guest.snapshot();
        let ggtt = Ggtt::default();
        // Two neighbours that are not neighbours in RAM.
        map_global(&ggtt, 0x5000, RAM + 0x8000, 1);
        map_global(&ggtt, 0x6000, RAM + 0x2000, 1);
        let view = View::global(&blocks, &ggtt);
        view.write(0x5ffe, &[1, 2, 3, 4]).unwrap();
        let mut bytes = [0; 2];
        blocks.read(RAM + 0x8ffe, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2]);
        blocks.read(RAM + 0x2000, &mut bytes).unwrap();
        assert_eq!(bytes, [3, 4]);
        let fault = MemoryFault { address: 0x7000, write: false };
        assert_eq!(view.read(0x6ffe, &mut [0; 4]), Err(fault));
        assert!(view.write(1 << 40, &[0]).is_err(), "behind the end of the table");
    }

    #[test]
    fn a_view_looks_up_a_page_once_and_the_next_view_anew() {
        let guest = guest();
        let blocks = guest.snapshot();
        let ggtt = Ggtt::default();
        map_global(&ggtt, 0x5000, RAM, 1);
        let view = View::global(&blocks, &ggtt);
        view.write(0x5000, &[1]).unwrap();
        map_global(&ggtt, 0x5000, RAM + 0x1000, 1);
        view.write(0x5001, &[2]).unwrap();
        View::global(&blocks, &ggtt).write(0x5002, &[3]).unwrap();
        let mut bytes = [0; 3];
        blocks.read(RAM, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 0]);
        blocks.read(RAM + 0x1000, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 3]);
    }

    #[test]
    fn contexts_have_pages_of_three_sizes() {
        let guest = guest();
        let blocks = guest.snapshot();
        let table = |level: u64| RAM + level * PAGE;
        // Index 1 at the topmost level, 2, then three entries of the directory.
        put_u64(&blocks, table(0) + 8, table(1) | 1);
        put_u64(&blocks, table(1) + 2 * 8, table(2) | 1);
        put_u64(&blocks, table(2) + 3 * 8, table(3) | 1);
        put_u64(&blocks, table(2) + 4 * 8, table(4) | 1 | MEDIUM);
        put_u64(&blocks, table(2) + 5 * 8, 0x20_0000 | 1 | LARGE);
        put_u64(&blocks, table(3) + 7 * 8, (RAM + 0x9000) | 1);
        put_u64(&blocks, table(4) + 16 * 8, (RAM + 0x1_0000) | 1);
        let base = 1 << 39 | 2 << 30;
        let view = View::context(&blocks, table(0));
        let expect = |address: u64, ram: u64| {
            let translated = view.translate(address, false).map(|(guest, _)| guest);
            assert_eq!(translated, Ok(ram), "{address:#x}");
        };
        expect(base + (3 << 21) + 7 * PAGE + 5, RAM + 0x9005);
        expect(base + (4 << 21) + 19 * PAGE + 6, RAM + 0x1_3006);
        expect(base + (5 << 21) + 33 * PAGE + 7, 0x20_0000 + 33 * PAGE + 7);
        for unmapped in [0, base, base + (3 << 21), base + (4 << 21), base + (6 << 21)] {
            assert!(view.read(unmapped, &mut [0]).is_err(), "{unmapped:#x}");
        }
    }

    #[test]
    fn what_is_written_to_a_page_for_reading_is_lost() {
        let guest = guest();
        let blocks = guest.snapshot();
        let table = |level: u64| RAM + level * PAGE;
        for level in 0..3 {
            put_u64(&blocks, table(level), table(level + 1) | 3);
        }
        put_u64(&blocks, table(3), (RAM + 0x8000) | 3);
        put_u64(&blocks, table(3) + 8, (RAM + 0x9000) | 1);
        let view = View::context(&blocks, table(0));
        view.write(PAGE - 2, &[1, 2, 3, 4]).unwrap();
        assert_eq!(view.update_u32(PAGE, &mut |old| old + 1), Ok(0));
        assert_eq!(view.update_u64(PAGE, &mut |old| old + 1), Ok(0));
        let mut bytes = [9; 4];
        view.read(PAGE - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 0, 0]);
    }

    #[test]
    fn atomics_reach_ram() {
        let guest = guest();
        let blocks = guest.snapshot();
        let ggtt = Ggtt::default();
        map_global(&ggtt, 0, RAM, 1);
        let view = View::global(&blocks, &ggtt);
        assert_eq!(view.update_u32(4, &mut |old| old + 3), Ok(0));
        assert_eq!(view.update_u32(4, &mut |old| old + 3), Ok(3));
        assert_eq!(view.update_u64(0, &mut |old| old), Ok(6 << 32));
    }

    #[test]
    fn ram_goes_when_all_of_it_is_unmapped_and_snapshots_keep_it() {
        let guest = guest();
        guest.map(RAM + RAM_BYTES, PAGE, file(2 * PAGE), PAGE).unwrap();
        let before = guest.snapshot();
        guest.unmap(RAM, PAGE);
        assert!(guest.snapshot().read(RAM, &mut [0]).is_some(), "a part of a block stays");
        guest.unmap(RAM, RAM_BYTES);
        let after = guest.snapshot();
        assert!(after.read(RAM, &mut [0]).is_none());
        assert!(after.read(RAM + RAM_BYTES, &mut [0]).is_some());
        assert!(before.write(RAM, &[1]).is_some());
    }
}
