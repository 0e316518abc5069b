//! Id tables: the lowest free number is given out first, and given again as soon as it is free
//! (rule table §0.3). Clients rely on neither, but tests of theirs see it.

/// Numbers in use, starting at 1.
#[derive(Debug, Default)]
pub(crate) struct IdPool {
    /// Bit `i % 64` of word `i / 64` says that number `i + 1` is in use.
    words: Vec<u64>,
    /// Every word before this one is full.
    first_open: usize,
    used: u32,
}

impl IdPool {
    pub(crate) fn len(&self) -> u32 {
        self.used
    }

    /// The lowest free number, now in use; `None` if `limit` numbers are.
    pub(crate) fn take(&mut self, limit: u32) -> Option<u32> {
        if self.used >= limit {
            return None;
        }
        while self.words.get(self.first_open).is_some_and(|word| *word == u64::MAX) {
            self.first_open += 1;
        }
        if self.first_open == self.words.len() {
            self.words.push(0);
        }
        let word = self.words.get_mut(self.first_open)?;
        let bit = word.trailing_ones();
        let base = u32::try_from(self.first_open).ok()?.checked_mul(64)?;
        let id = base.checked_add(bit)?.checked_add(1)?;
        *word |= 1 << bit;
        self.used += 1;
        Some(id)
    }

    /// Gives a number back. Says whether it was in use.
    pub(crate) fn give(&mut self, id: u32) -> bool {
        let Some(index) = id.checked_sub(1) else { return false };
        let at = index as usize / 64;
        let bit = 1 << (index % 64);
        match self.words.get_mut(at) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.first_open = self.first_open.min(at);
                self.used -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The numbers in use, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (1u32..)
            .zip(self.words.iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1)))
            .filter_map(|(id, used)| used.then_some(id))
    }
}

/// Things by number. A look-up is an index into an array: handles are looked up for every object of
/// every submission.
#[derive(Debug)]
pub(crate) struct Table<T> {
    ids: IdPool,
    slots: Vec<Option<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { ids: IdPool::default(), slots: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn len(&self) -> u32 {
        self.ids.len()
    }

    /// Puts a thing in under the lowest free number. `None`, and the thing is dropped, if there are
    /// `limit` already.
    pub(crate) fn insert(&mut self, limit: u32, thing: T) -> Option<u32> {
        let id = self.ids.take(limit)?;
        let at = id as usize - 1;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(thing);
        }
        Some(id)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get((id as usize).checked_sub(1)?)?.as_ref()
    }

    /// All things with their numbers, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (1..).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let thing = self.slots.get_mut((id as usize).checked_sub(1)?)?.take()?;
        self.ids.give(id);
        Some(thing)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_next() {
        let mut pool = IdPool::default();
        let ids: Vec<_> = (0..130).map(|_| pool.take(1000).unwrap()).collect();
        assert_eq!(ids, (1..=130).collect::<Vec<_>>());
        for id in [128, 3, 65] {
            assert!(pool.give(id));
            assert!(!pool.give(id), "{id} was given back twice");
        }
        assert_eq!(pool.iter().count(), 127);
        assert_eq!([3, 65, 128, 131].map(|_| pool.take(1000).unwrap()), [3, 65, 128, 131]);
        assert!(!pool.give(0) && !pool.give(9999));
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut table = Table::default();
        assert_eq!(table.insert(2, "a"), Some(1));
        assert_eq!(table.insert(2, "b"), Some(2));
        assert_eq!(table.insert(2, "c"), None);
        assert_eq!(table.remove(1), Some("a"));
        assert_eq!(
            (table.remove(1), table.get(1), table.get(0), table.len()),
            (None, None, None, 1)
        );
        assert_eq!(table.insert(2, "d"), Some(1));
        assert_eq!((table.get(1), table.get(2)), (Some(&"d"), Some(&"b")));
    }
}
