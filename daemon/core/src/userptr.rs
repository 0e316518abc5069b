//! The life of one userptr buffer's pages (rule table §14): submit_init, submit_done, submit_fini and
//! invalidation, as the kernel has them for its mmu notifier.
//!
//! * [`Pages::submit_init`] takes hold of the pages that are there now, unless it has them already,
//!   and counts the submission as their user until [`Held`] is dropped, which is submit_fini.
//! * [`Pages::invalidate`] says that they are others now. It may come at any time, from any thread.
//! * [`Held::is_current`] is submit_done's question. Whoever asks it, and submits if the answer is
//!   yes, does both under the lock under which invalidations come (`userptrs.rs`): so an invalidation
//!   comes either before the question, and the submission is refused, or after the device has the
//!   request, and waits for it.
//!
//! Nothing here knows what pages are: taking hold of them is the caller's.

use gpu_broker_protocol::{Reason, Refusal};

use crate::sync::Mutex;

/// The kernel's ULONG_MAX: no pages were taken hold of yet.
const NEVER: u64 = u64::MAX;

/// What is known of the pages of one buffer.
#[derive(Debug)]
pub(crate) struct Pages(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Counts invalidations: the notifier's sequence.
    sequence: u64,
    /// What `sequence` was when the pages were taken hold of that submissions use.
    pinned_at: u64,
    /// Submissions between init, or the beginning of it, and fini. They rely on the pages, so no other
    /// takes hold of new ones meanwhile.
    holders: u32,
}

impl State {
    const fn is_current(&self) -> bool {
        self.pinned_at == self.sequence
    }
}

/// A submission between init and fini.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Pages);

impl Pages {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { sequence: 0, pinned_at: NEVER, holders: 0 }))
    }

    /// submit_init: takes hold of the pages with `pin` if those that submissions use are not the ones
    /// that are there now.
    ///
    /// # Errors
    /// What `pin` says; EAGAIN if an invalidation came meanwhile, or another submission takes hold of
    /// the pages just now, or still relies on those of before an invalidation. (The kernel has EBUSY
    /// too, for objects that something else than a submission has pinned; here nothing else does.)
    pub(crate) fn submit_init(
        &self,
        pin: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Held<'_>, Refusal> {
        let (held, sequence) = {
            let mut state = self.0.lock();
            let current = state.is_current();
            if !current && state.holders > 0 {
                return Err(Reason::UserptrInvalidated.into());
            }
            state.holders = state.holders.saturating_add(1);
            if current {
                return Ok(Held(self));
            }
            // What was there is given up first: if pinning fails, nobody may take it for current.
            state.pinned_at = NEVER;
            (Held(self), state.sequence)
        };
        pin()?;
        let mut state = self.0.lock();
        let current = state.sequence == sequence;
        if current {
            state.pinned_at = sequence;
        }
        drop(state);
        if current { Ok(held) } else { Err(Reason::UserptrInvalidated.into()) }
    }

    /// Whether the pages that submissions use are those that are there now.
    fn is_current(&self) -> bool {
        self.0.lock().is_current()
    }

    /// The pages are others now, or soon.
    pub(crate) fn invalidate(&self) {
        let mut state = self.0.lock();
        // NEVER is no count, and takes longer to reach than there is time.
        state.sequence = state.sequence.wrapping_add(1) % NEVER;
    }
}

impl Held<'_> {
    /// submit_done: whether nothing invalidated the pages since they were taken hold of.
    pub(crate) fn is_current(&self) -> bool {
        self.0.is_current()
    }

    /// The pages were lost without an invalidation.
    pub(crate) fn invalidate(&self) {
        self.0.invalidate();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.holders = state.holders.saturating_sub(1);
    }
}

#[cfg(all(test, loom))]
mod model;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn refused(result: Result<Held<'_>, Refusal>) -> Reason {
        result.map(drop).expect_err("it must be refused").reason
    }

    #[test]
    fn pages_are_taken_hold_of_once_per_invalidation() {
        let (pages, pins) = (Pages::new(), Cell::new(0));
        let init = || {
            pages.submit_init(|| {
                pins.set(pins.get() + 1);
                Ok(())
            })
        };
        for invalidations in 1..4 {
            for _ in 0..3 {
                init().unwrap();
                assert!(pages.is_current());
            }
            assert_eq!(pins.get(), invalidations);
            pages.invalidate();
            pages.invalidate();
            assert!(!pages.is_current());
        }
    }

    #[test]
    fn an_invalidation_while_pages_are_taken_hold_of_is_noticed() {
        let pages = Pages::new();
        let init = pages.submit_init(|| {
            pages.invalidate();
            Ok(())
        });
        assert_eq!(refused(init), Reason::UserptrInvalidated);
        assert!(!pages.is_current(), "nothing was published");
    }

    #[test]
    fn an_invalidation_after_init_fails_done_and_the_next_init_until_fini() {
        let pages = Pages::new();
        let held = pages.submit_init(|| Ok(())).unwrap();
        pages.invalidate();
        assert!(!pages.is_current());
        let again = pages.submit_init(|| panic!("somebody relies on the old pages"));
        assert_eq!(refused(again), Reason::UserptrInvalidated);
        drop(held);
        pages.submit_init(|| Ok(())).unwrap();
        assert!(pages.is_current());
    }

    #[test]
    fn pages_that_cannot_be_had_are_not_current() {
        let pages = Pages::new();
        drop(pages.submit_init(|| Ok(())).unwrap());
        pages.invalidate();
        let failed = pages.submit_init(|| Err(Reason::UserptrPages.into()));
        assert_eq!(refused(failed), Reason::UserptrPages);
        assert!(!pages.is_current());
    }
}
