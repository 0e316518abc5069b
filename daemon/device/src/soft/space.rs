//! Address spaces: which buffer is where, and what a batch sees of it.

use std::cell::Cell;
use std::ops::Bound;
use std::sync::Arc;

use gpu_broker_soft_gpu::memory::{Memory, MemoryFault};
use immutable_chunkmap::map::MapS;

use super::buffer::{Backing, Part};

/// A part of a buffer at a range of addresses.
#[derive(Clone, Debug)]
struct Binding {
    /// First address.
    start: u64,
    /// First address after it.
    end: u64,
    /// Where in the buffer it starts.
    offset: u64,
    backing: Arc<Backing>,
    /// Writes fault.
    read_only: bool,
}

/// An address space as it is at some moment. A clone is a snapshot: it costs one reference count,
/// shares all nodes with the original, and later changes of the original do not show in it. That
/// is how unbinding or replacing a range leaves requests in flight alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    by_start: MapS<u64, Binding>,
}

impl Space {
    /// Binds `size` bytes of memory at `address`; replaces what is there.
    pub(super) fn bind(&mut self, address: u64, size: u64, part: Part) {
        let end = address.saturating_add(size);
        self.unbind(address, size);
        let Part { backing, offset, read_only } = part;
        let binding = Binding { start: address, end, offset, backing, read_only };
        self.by_start.insert_cow(address, binding);
    }

    /// Takes `size` bytes at `address` out; what overlaps them keeps the rest.
    pub(super) fn unbind(&mut self, address: u64, size: u64) {
        let end = address.saturating_add(size);
        while let Some(old) = self.last_before(end).filter(|old| old.end > address).cloned() {
            self.by_start.remove_cow(&old.start);
            if old.end > end {
                let offset = old.offset + (end - old.start);
                let after = Binding { start: end, offset, ..old.clone() };
                self.by_start.insert_cow(end, after);
            }
            if old.start < address {
                let before = Binding { end: address, ..old };
                self.by_start.insert_cow(before.start, before);
            }
        }
    }

    /// The binding with the highest start below `end`.
    fn last_before(&self, end: u64) -> Option<&Binding> {
        let range = (Bound::Unbounded, Bound::Excluded(end));
        self.by_start.range::<u64, _>(range).next_back().map(|(_, binding)| binding)
    }

    fn find(&self, address: u64) -> Option<&Binding> {
        self.last_before(address.checked_add(1)?).filter(|binding| address < binding.end)
    }
}

/// A space as one batch reads and writes it, for one turn on one thread.
#[derive(Debug)]
pub(super) struct View<'a> {
    space: &'a Space,
    /// Where the last two accesses went, as a blit goes back and forth between two surfaces.
    recent: [Cell<Option<&'a Binding>>; 2],
}

impl<'a> View<'a> {
    pub(super) fn new(space: &'a Space) -> Self {
        Self { space, recent: [Cell::new(None), Cell::new(None)] }
    }

    fn find(&self, address: u64) -> Option<&'a Binding> {
        let covers = |binding: &&Binding| (binding.start..binding.end).contains(&address);
        if let Some(hit) = self.recent[0].get().filter(covers) {
            return Some(hit);
        }
        let found = self.recent[1].get().filter(covers).or_else(|| self.space.find(address))?;
        self.recent[1].set(self.recent[0].replace(Some(found)));
        Some(found)
    }

    /// The binding at `address`, the offset in its buffer and the bytes up to its end.
    fn at(&self, address: u64, write: bool) -> Result<(&'a Binding, u64, u64), MemoryFault> {
        let binding = self
            .find(address)
            .filter(|binding| !(write && binding.read_only))
            .ok_or(MemoryFault { address, write })?;
        Ok((binding, binding.offset + (address - binding.start), binding.end - address))
    }
}

impl Memory for View<'_> {
    fn read(&self, mut address: u64, mut into: &mut [u8]) -> Result<(), MemoryFault> {
        while !into.is_empty() {
            let (binding, offset, room) = self.at(address, false)?;
            let len = into.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (part, rest) = into.split_at_mut(len);
            let fault = MemoryFault { address, write: false };
            binding
                .backing
                .mapping()
                .and_then(|mapping| mapping.read(offset, part))
                .map_err(|_| fault)?;
            address += len as u64;
            into = rest;
        }
        Ok(())
    }

    fn write(&self, mut address: u64, mut from: &[u8]) -> Result<(), MemoryFault> {
        while !from.is_empty() {
            let (binding, offset, room) = self.at(address, true)?;
            let len = from.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (part, rest) = from.split_at(len);
            let fault = MemoryFault { address, write: true };
            binding
                .backing
                .mapping()
                .and_then(|mapping| mapping.write(offset, part))
                .map_err(|_| fault)?;
            address += len as u64;
            from = rest;
        }
        Ok(())
    }

    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault> {
        let (binding, offset, _) = self.at(address, true)?;
        let fault = MemoryFault { address, write: true };
        binding
            .backing
            .mapping()
            .and_then(|mapping| mapping.update_u32(offset, op))
            .map_err(|_| fault)
    }

    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault> {
        let (binding, offset, _) = self.at(address, true)?;
        let fault = MemoryFault { address, write: true };
        binding
            .backing
            .mapping()
            .and_then(|mapping| mapping.update_u64(offset, op))
            .map_err(|_| fault)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::buffer::{Buffer, Quotas};
    use super::*;

    const PAGE: u64 = 4096;
    const PAGES: u64 = 12;

    fn quotas() -> Arc<Quotas> {
        Quotas::new().unwrap()
    }

    /// A buffer whose pages start with its number and theirs.
    fn buffer(number: u8, pages: u64) -> Arc<Backing> {
        let buffer = Buffer::new(pages * PAGE, &quotas(), &Arc::default(), &Arc::default());
        let backing = Arc::clone(buffer.0.backing().unwrap());
        for page in 0..pages {
            let page_number = u8::try_from(page).unwrap();
            backing.mapping().unwrap().write(page * PAGE, &[number, page_number]).unwrap();
        }
        backing
    }

    #[derive(Clone, Debug)]
    enum Op {
        Bind { page: u64, pages: u64 },
        Unbind { page: u64, pages: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = || (0..PAGES, 1..5u64);
        prop_oneof![
            3 => range().prop_map(|(page, pages)| Op::Bind { page, pages }),
            1 => range().prop_map(|(page, pages)| Op::Unbind { page, pages }),
        ]
    }

    /// What is at each page: number of the buffer and page in it.
    type Model = BTreeMap<u64, [u8; 2]>;

    fn assert_same(space: &Space, model: &Model) {
        let view = View::new(space);
        for page in 0..PAGES + 4 {
            let mut found = [0; 2];
            let read = view.read(page * PAGE, &mut found);
            assert_eq!(read.ok().map(|()| found), model.get(&page).copied(), "page {page}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Binding and unbinding page by page gives the same, and snapshots stay what they were.
        #[test]
        fn a_space_is_what_a_table_of_pages_is(ops in prop::collection::vec(op(), 1..20)) {
            let mut space = Space::default();
            let mut model = Model::new();
            let mut snapshots = Vec::new();
            for (number, op) in (0u8..).zip(ops) {
                snapshots.push((space.clone(), model.clone()));
                match op {
                    Op::Bind { page, pages } => {
                        space.bind(page * PAGE, pages * PAGE, Part::whole(buffer(number, pages)));
                        for index in 0..pages {
                            model.insert(page + index, [number, u8::try_from(index).unwrap()]);
                        }
                    }
                    Op::Unbind { page, pages } => {
                        space.unbind(page * PAGE, pages * PAGE);
                        model.retain(|at, _| !(page..page + pages).contains(at));
                    }
                }
                assert_same(&space, &model);
            }
            for (space, model) in &snapshots {
                assert_same(space, model);
            }
        }
    }

    #[test]
    fn accesses_cross_from_binding_to_binding_and_stop_at_holes() {
        let mut space = Space::default();
        space.bind(0, PAGE, Part::whole(buffer(1, 1)));
        space.bind(PAGE, PAGE, Part::whole(buffer(2, 1)));
        let view = View::new(&space);
        let data: Vec<u8> = (0..16).collect();
        view.write(PAGE - 8, &data).unwrap();
        let mut back = [0; 16];
        view.read(PAGE - 8, &mut back).unwrap();
        assert_eq!(back[..], data[..]);
        let fault = |address, write| Err(MemoryFault { address, write });
        assert_eq!(view.read(2 * PAGE - 8, &mut back), fault(2 * PAGE, false));
        assert_eq!(view.write(2 * PAGE - 8, &back), fault(2 * PAGE, true));
        assert_eq!(view.read(u64::MAX, &mut back), fault(u64::MAX, false));
        assert_eq!(
            view.update_u32(3 * PAGE, &mut |value| value),
            fault(3 * PAGE, true).map(|()| 0)
        );
        assert_eq!(view.update_u64(PAGE - 8, &mut |value| value + 1), Ok(0x0706_0504_0302_0100));
    }

    #[test]
    fn memory_is_mapped_at_the_first_need_and_given_back_with_the_last_user() {
        let quotas = quotas();
        let taken = || Arc::strong_count(&quotas.mappings);
        let first = Buffer::new(PAGE, &quotas, &Arc::default(), &Arc::default());
        assert_eq!(taken(), 1, "ours");
        let mut space = Space::default();
        space.bind(0, PAGE, first.0.part().unwrap());
        assert_eq!(taken(), 2, "a permit");
        let snapshot = space.clone();
        drop(first);
        space.unbind(0, PAGE);
        assert_eq!(taken(), 2, "the snapshot keeps the memory");
        drop(space);
        let mut byte = [0];
        View::new(&snapshot).read(0, &mut byte).unwrap();
        drop(snapshot);
        assert_eq!(taken(), 1);
    }
}
