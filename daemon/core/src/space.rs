//! Addresses in one address space: which buffer lies where, and where a new one can go.
//!
//! What the kernel leaves open is settled here:
//! * The kernel may place an object at address 0. We never choose the first 64 KiB, so that a batch
//!   which follows a null pointer faults instead of finding somebody's data; a PINNED object may
//!   lie there.
//! * An object that may lie above 4 GiB is placed above 4 GiB, so that the space below is left for
//!   those that cannot.

use std::collections::{BTreeMap, HashMap};

use gpu_broker_protocol::limits::PAGE_BYTES;

use crate::hash::BuildIdHasher;

/// First address we choose.
const LOWEST_CHOSEN: u64 = 64 * 1024;
/// Above this lie objects with SUPPORTS_48B that we place.
const LOW_ZONE_BYTES: u64 = 1 << 32;
/// End of the zone for objects without SUPPORTS_48B: the kernel keeps the page below 4 GiB free,
/// because hardware of old adds an offset to 32-bit addresses.
const LOW_ZONE_END: u64 = LOW_ZONE_BYTES - PAGE_BYTES;
/// Bindings a first search looks at before something is evicted instead: what a client can make
/// one search cost.
const SEARCH_STEPS_MAX: usize = 256;

/// Bindings that the searches for one submission look at together, some milliseconds' worth: many
/// searches that each look at everything would take seconds.
const SUBMISSION_STEPS_MAX: usize = 1 << 20;

/// Where a buffer lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) address: u64,
    /// Bytes of address space, padding included.
    pub(crate) size: u64,
    /// A submission has carried the binding to the device.
    pub(crate) on_device: bool,
}

/// What an object of a submission asks for. Checked as rule table §13.2 says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Want {
    /// The buffer's handle.
    pub(crate) buffer: u32,
    /// Bytes of address space, padding included; at least one page.
    pub(crate) size: u64,
    /// A power of two, at least a page; a mask tests it, since a division for each object is what a
    /// submission would then cost most.
    pub(crate) alignment: u64,
    /// Not canonical (bits 63:48 clear); demanded if `pinned`, else wished for.
    pub(crate) offset: u64,
    pub(crate) pinned: bool,
    pub(crate) above_4g: bool,
}

/// Why a place was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoPlace {
    /// No room (ENOSPC).
    Full,
    /// The demanded address is misaligned or outside what the object may use (EINVAL).
    Impossible,
}

/// How hard to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// Give up early; there may be something to evict.
    Quick,
    /// Look everywhere, as far as the submission's searches may.
    Thorough,
}

#[derive(Debug)]
pub(crate) struct Space {
    by_buffer: HashMap<u32, Place, BuildIdHasher>,
    /// Start → (end, buffer); the ranges do not overlap.
    by_address: BTreeMap<u64, (u64, u32)>,
    end: u64,
    next_low: u64,
    next_high: u64,
    /// Bindings that searches may still look at.
    steps_left: usize,
}

impl Space {
    /// An empty space of `end` bytes.
    pub(crate) fn new(end: u64) -> Self {
        Self {
            by_buffer: HashMap::default(),
            by_address: BTreeMap::new(),
            end,
            next_low: LOWEST_CHOSEN,
            next_high: LOW_ZONE_BYTES,
            steps_left: SUBMISSION_STEPS_MAX,
        }
    }

    /// The objects of another submission are about to be placed.
    pub(crate) const fn begin(&mut self) {
        self.steps_left = SUBMISSION_STEPS_MAX;
    }

    pub(crate) fn find(&self, buffer: u32) -> Option<Place> {
        self.by_buffer.get(&buffer).copied()
    }

    /// Where the buffer lies, if that is good enough for the object.
    pub(crate) fn in_place(&self, want: &Want) -> Option<Place> {
        let place = self.find(want.buffer)?;
        let end = place.address.checked_add(place.size)?;
        let good = place.size >= want.size
            && place.address & (want.alignment - 1) == 0
            && (!want.pinned || place.address == want.offset)
            && end <= self.end_for(want);
        good.then_some(place)
    }

    /// Records that the device knows the binding.
    pub(crate) fn set_on_device(&mut self, buffer: u32) {
        if let Some(place) = self.by_buffer.get_mut(&buffer) {
            place.on_device = true;
        }
    }

    /// Forgets that the device knows the binding; answers it if it did. The buffer stays where it is.
    pub(crate) fn set_off_device(&mut self, buffer: u32) -> Option<Place> {
        let place = self.by_buffer.get_mut(&buffer).filter(|place| place.on_device)?;
        place.on_device = false;
        Some(*place)
    }

    /// Takes a buffer out.
    pub(crate) fn remove(&mut self, buffer: u32) -> Option<Place> {
        let place = self.by_buffer.remove(&buffer)?;
        self.by_address.remove(&place.address);
        Some(place)
    }

    /// All buffers that lie here.
    pub(crate) fn buffers(&self) -> Vec<u32> {
        self.by_address.values().map(|(_, buffer)| *buffer).collect()
    }

    /// Buffers in the way of a pinned object; none if its address is impossible anyway.
    pub(crate) fn in_the_way(&self, want: &Want) -> Vec<u32> {
        match want.offset.checked_add(want.size) {
            Some(end) => self.overlapping(want.offset, end).collect(),
            None => Vec::new(),
        }
    }

    /// Puts a buffer that lies nowhere yet where the object demands it.
    pub(crate) fn place_pinned(&mut self, want: &Want) -> Result<u64, NoPlace> {
        self.possible(want)?;
        let end = want.offset + want.size;
        if self.overlapping(want.offset, end).next().is_some() {
            return Err(NoPlace::Full);
        }
        Ok(self.insert(want.offset, want))
    }

    /// Whether the object could lie where it demands to in an empty space.
    pub(crate) fn possible(&self, want: &Want) -> Result<(), NoPlace> {
        let zone_end = self.end_for(want);
        if want.size > zone_end {
            return Err(NoPlace::Full);
        }
        let fits = want.offset.checked_add(want.size).is_some_and(|end| end <= zone_end);
        if want.pinned && !(fits && want.offset.is_multiple_of(want.alignment)) {
            return Err(NoPlace::Impossible);
        }
        Ok(())
    }

    /// Puts a buffer that lies nowhere yet where the object wishes, if that is free, or else where
    /// there is room. A wish for address 0 is no wish: it is what a field nobody filled in says.
    pub(crate) fn place(&mut self, want: &Want, effort: Effort) -> Result<u64, NoPlace> {
        self.possible(want)?;
        let zone_end = self.end_for(want);
        let wish = want.offset & !(PAGE_BYTES - 1);
        let wish_end = wish.checked_add(want.size).filter(|end| *end <= zone_end);
        if let Some(end) = wish_end
            && wish != 0
            && wish.is_multiple_of(want.alignment)
            && self.overlapping(wish, end).next().is_none()
        {
            return Ok(self.insert(wish, want));
        }
        let high = want.above_4g && zone_end > LOW_ZONE_BYTES;
        let (next, bottom) =
            if high { (self.next_high, LOW_ZONE_BYTES) } else { (self.next_low, LOWEST_CHOSEN) };
        // Going on where the last search ended keeps searches short; what was freed behind is
        // found when the end of the zone is reached. An object that may lie high but finds no room
        // there is left to the low zone as a last resort.
        let address = self
            .search(next, zone_end, want, effort)
            .or_else(|| self.search(bottom, zone_end, want, effort))
            .or_else(|| self.search(LOWEST_CHOSEN, zone_end, want, effort))
            .ok_or(NoPlace::Full)?;
        let after = address.saturating_add(want.size);
        if address >= LOW_ZONE_BYTES {
            self.next_high = after
        } else {
            self.next_low = after
        }
        Ok(self.insert(address, want))
    }

    fn end_for(&self, want: &Want) -> u64 {
        if want.above_4g { self.end } else { self.end.min(LOW_ZONE_END) }
    }

    fn insert(&mut self, address: u64, want: &Want) -> u64 {
        let place = Place { address, size: want.size, on_device: false };
        self.by_buffer.insert(want.buffer, place);
        self.by_address.insert(address, (address + want.size, want.buffer));
        address
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = u32> + '_ {
        let before = self.by_address.range(..start).next_back();
        let before = before.filter(move |(_, (before_end, _))| *before_end > start);
        before.into_iter().chain(self.by_address.range(start..end)).map(|(_, (_, buffer))| *buffer)
    }

    /// The first address from `from` on with room for the object before `end`.
    fn search(&mut self, from: u64, end: u64, want: &Want, effort: Effort) -> Option<u64> {
        let align = |address: u64| address.checked_next_multiple_of(want.alignment);
        let mut candidate = align(from)?;
        let before = self.by_address.range(..candidate).next_back();
        if let Some((_, (before_end, _))) = before
            && *before_end > candidate
        {
            candidate = align(*before_end)?;
        }
        let steps = match effort {
            Effort::Quick => SEARCH_STEPS_MAX,
            Effort::Thorough => usize::MAX,
        };
        let mut taken = self.by_address.range(candidate..);
        for _ in 0..steps {
            self.steps_left = self.steps_left.checked_sub(1)?;
            let candidate_end = candidate.checked_add(want.size).filter(|stop| *stop <= end)?;
            match taken.next() {
                Some((start, (taken_end, _))) if *start < candidate_end => {
                    candidate = align(candidate.max(*taken_end))?;
                }
                Some(_) | None => return Some(candidate),
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn want(buffer: u32, pages: u64) -> Want {
        Want {
            buffer,
            size: pages * PAGE_BYTES,
            alignment: PAGE_BYTES,
            offset: 0,
            pinned: false,
            above_4g: false,
        }
    }

    fn pin(space: &mut Space, buffer: u32, page: u64, pages: u64) -> Result<u64, NoPlace> {
        let offset = page * PAGE_BYTES;
        space.place_pinned(&Want { offset, pinned: true, ..want(buffer, pages) })
    }

    #[test]
    fn a_gap_behind_the_cursor_is_found_at_the_end_of_the_zone() {
        let mut space = Space::new(LOWEST_CHOSEN + 4 * PAGE_BYTES);
        for buffer in 1..=4 {
            let expected = LOWEST_CHOSEN + u64::from(buffer - 1) * PAGE_BYTES;
            assert_eq!(space.place(&want(buffer, 1), Effort::Quick), Ok(expected));
        }
        assert_eq!(space.place(&want(5, 1), Effort::Thorough), Err(NoPlace::Full));
        space.remove(2);
        space.remove(3);
        assert_eq!(space.place(&want(6, 2), Effort::Quick), Ok(LOWEST_CHOSEN + PAGE_BYTES));
    }

    #[test]
    fn a_quick_search_is_bounded_and_a_thorough_one_finds() {
        let mut space = Space::new(1 << 32);
        let first = LOWEST_CHOSEN / PAGE_BYTES;
        let many = u32::try_from(3 * SEARCH_STEPS_MAX).unwrap();
        for index in 0..many {
            pin(&mut space, 1 + index, first + 2 * u64::from(index), 1).unwrap();
        }
        let two_pages = want(many + 1, 2);
        assert_eq!(space.place(&two_pages, Effort::Quick), Err(NoPlace::Full));
        let after = (first + 2 * u64::from(many) - 1) * PAGE_BYTES;
        assert_eq!(space.place(&two_pages, Effort::Thorough), Ok(after));
    }

    #[test]
    fn the_searches_of_one_submission_look_at_so_much_and_no_more() {
        let mut space = Space::new(1 << 32);
        let first = LOWEST_CHOSEN / PAGE_BYTES;
        for index in 0..2000 {
            pin(&mut space, 1 + index, first + 2 * u64::from(index), 1).unwrap();
        }
        // Found behind everything, each time from the beginning on.
        let searches = |space: &mut Space| {
            let found = (0..).take_while(|index| {
                space.next_low = LOWEST_CHOSEN;
                space.place(&want(10_000 + index, 2), Effort::Thorough).is_ok()
            });
            found.take(2000).count()
        };
        let done = searches(&mut space);
        assert!((400..=SUBMISSION_STEPS_MAX / 2000).contains(&done), "{done} searches");
        assert_eq!(searches(&mut space), 0, "used up");
        space.begin();
        assert!(searches(&mut space) > 0);
    }

    #[test]
    fn what_overlaps_in_any_way_is_in_the_way() {
        let mut space = Space::new(1 << 48);
        pin(&mut space, 1, 10, 4).unwrap();
        for (page, pages) in [(10, 4), (9, 2), (13, 2), (11, 1), (9, 6)] {
            assert_eq!(pin(&mut space, 2, page, pages), Err(NoPlace::Full), "{page} + {pages}");
        }
        for (buffer, page) in [(2, 9), (3, 14)] {
            pin(&mut space, buffer, page, 1).unwrap();
        }
        let all = Want { offset: 9 * PAGE_BYTES, pinned: true, ..want(9, 6) };
        assert_eq!(space.in_the_way(&all), [2, 1, 3]);
    }
}
