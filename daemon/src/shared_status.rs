//! What a session's shared status page says: WIRE.md tells what clients conclude from it.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gpu_broker_device::SharedPage;
use gpu_broker_protocol::shared_status::{VERSION, flag, word};
use gpu_broker_protocol::{Reason, Refusal};

use crate::hands::refusal_of;

/// Counts a session's submissions, and writes that down for a client that asked for the page. While
/// nobody has, a submission costs a store.
#[derive(Default)]
pub(crate) struct SharedStatus {
    /// Submissions that the device accepted. The rules submit one at a time, so only that one writes it.
    accepted: AtomicU64,
    page: OnceLock<SharedPage>,
    over: AtomicBool,
}

impl SharedStatus {
    pub(crate) fn is_shared(&self) -> bool {
        self.page.get().is_some()
    }

    /// A submission goes to the device: answers its number. Said before anybody can see that it is
    /// there, and until then, as everything it may do is to be seen later, nobody takes the session for idle.
    pub(crate) fn begin(&self) -> u64 {
        let number = self.accepted.load(Ordering::Relaxed).wrapping_add(1);
        self.store(word::SUBMITTED, number);
        number
    }

    /// The device refused it.
    pub(crate) fn refused(&self) {
        self.store(word::SUBMITTED, self.accepted.load(Ordering::Relaxed));
    }

    /// The device took it. If it was not done at once it is among those that `retire` is told of.
    pub(crate) fn accepted(&self, number: u64) {
        self.accepted.store(number, Ordering::Release);
    }

    /// The fences of all submissions have signalled but of those from `oldest` on. Not all are said to be
    /// over before all were reported: a client that has seen a fence of the kernel's must not take the
    /// session for settled while the hang it tells of is not written down. Calls do not overtake each
    /// other: whoever knows of the oldest holds a lock.
    pub(crate) fn retire(&self, oldest: Option<u64>, all_reported: bool) {
        let accepted = self.accepted.load(Ordering::Acquire);
        let most = if all_reported { accepted } else { accepted.saturating_sub(1) };
        let retired = oldest.map_or(most, |oldest| oldest.saturating_sub(1).min(most));
        self.store(word::RETIRED, retired);
    }

    /// GET_RESET_STATS may have another answer. Called once it has.
    pub(crate) fn resets_changed(&self) {
        if let Some(page) = self.page.get() {
            page.increment(word::RESETS);
        }
    }

    /// The session ends: nothing can be concluded from now on.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.store(word::FLAGS, 0);
    }

    /// Says what the page tells. `first`: hangs are reported before fences signal. `alone`: resets are
    /// the session's own, not those of the whole device. Calls do not overtake each other.
    pub(crate) fn tell(&self, first: bool, alone: bool) {
        let resets = if alone { flag::RESETS } else { 0 };
        let first = if first { flag::RESETS_FIRST } else { 0 };
        if !self.over.load(Ordering::Relaxed) {
            self.store(word::FLAGS, flag::BUFFERS | resets | first);
        }
    }

    /// Makes the page; it says nothing before [`Self::retire`] and [`Self::tell`].
    ///
    /// # Errors
    /// EBUSY if there is one; ENOMEM, EMFILE, or what an old kernel says, if it cannot be made.
    pub(crate) fn share(&self) -> Result<OwnedFd, Refusal> {
        if self.is_shared() {
            return Err(Reason::SharedStatusGiven.into());
        }
        let (page, fd) = SharedPage::new().map_err(|error| refusal_of(&error))?;
        page.store(word::VERSION, VERSION);
        page.store(word::RESETS, 1);
        page.store(word::SUBMITTED, self.accepted.load(Ordering::Relaxed));
        self.page.set(page).map_err(|_| Refusal::new(Reason::SharedStatusGiven))?;
        Ok(fd)
    }

    fn store(&self, offset: u64, value: u64) {
        if let Some(page) = self.page.get() {
            page.store(offset, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(page: &OwnedFd) -> [u64; 5] {
        [word::VERSION, word::FLAGS, word::RESETS, word::SUBMITTED, word::RETIRED].map(|at| {
            let mut bytes = [0; 8];
            assert_eq!(rustix::io::pread(page, &mut bytes, at), Ok(8));
            u64::from_ne_bytes(bytes)
        })
    }

    fn counts(page: &OwnedFd) -> [u64; 2] {
        let [.., submitted, retired] = words(page);
        [submitted, retired]
    }

    #[test]
    fn submissions_count_before_they_begin_and_until_all_before_them_are_over() {
        let status = SharedStatus::default();
        // Before there is a page, too.
        status.accepted(status.begin());
        let page = status.share().unwrap();
        status.retire(None, true);
        assert_eq!(counts(&page), [1, 1]);
        let second = status.begin();
        // What ends meanwhile does not make the session idle.
        status.retire(None, true);
        assert_eq!(counts(&page), [2, 1]);
        status.refused();
        assert_eq!(counts(&page), [1, 1]);
        assert_eq!(status.begin(), second, "a refused one does not count");
        status.accepted(second);
        status.accepted(status.begin());
        status.retire(Some(second), false);
        assert_eq!(counts(&page), [3, 1]);
        status.retire(Some(3), false);
        assert_eq!(counts(&page), [3, 2], "the later ones do not matter");
        status.retire(None, false);
        assert_eq!(counts(&page), [3, 2], "its end was not reported");
        status.retire(None, true);
        assert_eq!(counts(&page), [3, 3]);
    }

    #[test]
    fn what_the_page_tells_changes_and_ends_for_good() {
        let status = SharedStatus::default();
        status.resets_changed();
        let page = status.share().unwrap();
        assert_eq!(
            status.share().map_err(|refusal| refusal.reason).err(),
            Some(Reason::SharedStatusGiven)
        );
        assert_eq!(words(&page), [VERSION, 0, 1, 0, 0]);
        status.tell(false, true);
        status.resets_changed();
        assert_eq!(words(&page), [VERSION, flag::BUFFERS | flag::RESETS, 2, 0, 0]);
        status.tell(true, false);
        assert_eq!(words(&page)[1], flag::BUFFERS | flag::RESETS_FIRST);
        status.end();
        status.tell(true, true);
        assert_eq!(words(&page)[1], 0);
    }
}
