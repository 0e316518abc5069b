//! Which addresses have a memfd, for the functions of libc that change mappings.
//!
//! Those are called by allocators, with their locks held. So nothing here allocates, and the only
//! lock is held by nobody who allocates. A program without userptr pays one relaxed load.

use std::ops::Range;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Memfds that a process may have for userptr; each costs an fd.
pub(crate) const ARENAS_MAX: usize = 256;

/// The addresses of one memfd.
struct Slot {
    start: AtomicUsize,
    /// 0: there is none.
    end: AtomicUsize,
    fd: AtomicI32,
    /// Mappings there may have changed.
    changed: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            fd: AtomicI32::new(-1),
            changed: AtomicBool::new(false),
        }
    }

    fn range(&self) -> Range<usize> {
        self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Acquire)
    }

    /// The part of a range that lies here.
    fn part(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let own = self.range();
        let part = own.start.max(range.start)..own.end.min(range.end);
        (!part.is_empty()).then_some(part)
    }
}

static SLOTS: [Slot; ARENAS_MAX] = [const { Slot::new() }; ARENAS_MAX];
/// Slots from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Held while a slot gets or loses its fd, and while that is used.
static FDS: Mutex<()> = Mutex::new(());

fn slots() -> impl Iterator<Item = &'static Slot> {
    SLOTS.iter().take(USED.load(Ordering::Relaxed))
}

/// Keeps the fds as they are.
pub(super) fn hold() -> MutexGuard<'static, ()> {
    FDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot that is not in use.
pub(super) fn free_slot() -> Option<usize> {
    SLOTS.iter().position(|slot| slot.end.load(Ordering::Relaxed) == 0)
}

/// From now on the range is watched.
pub(super) fn publish(index: usize, range: &Range<usize>, fd: RawFd) {
    let Some(slot) = SLOTS.get(index) else { return };
    let _fds = hold();
    slot.fd.store(fd, Ordering::Relaxed);
    slot.start.store(range.start, Ordering::Relaxed);
    slot.end.store(range.end, Ordering::Release);
    USED.fetch_max(index + 1, Ordering::Relaxed);
}

/// The range is not watched any more, and its fd may be closed.
pub(super) fn withdraw(index: usize) {
    let Some(slot) = SLOTS.get(index) else { return };
    let _fds = hold();
    slot.end.store(0, Ordering::Relaxed);
    slot.fd.store(-1, Ordering::Relaxed);
}

/// Whether mappings have changed since this was asked last.
pub(super) fn take_changed(index: usize) -> bool {
    SLOTS.get(index).is_some_and(|slot| slot.changed.swap(false, Ordering::AcqRel))
}

/// Whether there was any userptr in this process.
pub(crate) fn ever() -> bool {
    USED.load(Ordering::Relaxed) != 0
}

/// The mappings of a range were changed.
pub(crate) fn changed(start: usize, length: usize) {
    if ever() {
        let range = start..start.saturating_add(length);
        for slot in slots().filter(|slot| slot.part(&range).is_some()) {
            slot.changed.store(true, Ordering::Release);
        }
    }
}

/// Whether part of the range has a memfd.
pub(crate) fn overlaps(range: &Range<usize>) -> bool {
    slots().any(|slot| slot.part(range).is_some())
}

/// The contents of a range are given up: what of it lies in memfds is zero from now on. Where they
/// are not mapped they are empty anyway.
pub(crate) fn discard(range: &Range<usize>) {
    let _fds = hold();
    for slot in slots() {
        let fd = slot.fd.load(Ordering::Relaxed);
        let Some(part) = slot.part(range).filter(|_| fd >= 0) else { continue };
        let offset = (part.start - slot.start.load(Ordering::Relaxed)) as u64;
        // SAFETY: the fd is open as long as its slot has it, which the lock sees to.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        punch(fd, offset, (part.end - part.start) as u64);
    }
}

/// Gives pages of a memfd back.
pub(super) fn punch(fd: BorrowedFd<'_>, offset: u64, length: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    while rustix::fs::fallocate(fd, flags, offset, length) == Err(Errno::INTR) {}
}

/// The fds of all memfds.
pub(crate) fn own_fds() -> impl Iterator<Item = RawFd> {
    slots().map(|slot| slot.fd.load(Ordering::Relaxed)).filter(|fd| *fd >= 0)
}
