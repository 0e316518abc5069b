//! What `fork` does to memory that is shared with the GPU, and to sessions.
//!
//! A child has its parent's sockets and memfds, and would have its shared mappings: it could speak
//! in its parent's session and write into its parent's memory. So handlers of `pthread_atfork`
//!
//! * count generations: an object of the library belongs to the process that made it, and does
//!   nothing in another one ([`Generation`]);
//! * give the child private copies of adopted memory, as `fork` promises for memory that was
//!   private when the program got it. The parent's `fork` returns when they are made, so that they
//!   are what the memory was at that moment.
//!
//! Memory that the library allocated is not inherited at all (MADV_DONTFORK). `vfork` and
//! `posix_spawn` run no handlers, and need none: their child does nothing but exec.
#![expect(unsafe_code, reason = "replaces mappings in the child of a fork")]

use std::cell::Cell;
use std::os::fd::{IntoRawFd as _, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::map::SharedBytes;

/// How long a parent waits for its child's copies. A child that is stopped in the middle must not
/// stop its parent for good; the copies may then show what the parent writes later.
const COPYING_MAX: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// A process in a line of forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

static GENERATION: AtomicU32 = AtomicU32::new(0);

impl Generation {
    /// This process. Forks are noticed from the first call on.
    pub(crate) fn current() -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            // SAFETY: the handlers are functions of this library, which glibc forgets when the
            // library is unloaded; they allocate nothing and take no lock, as a child of a process
            // with threads must not.
            let result = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
            // ENOMEM at the first connection: what a fork does then, nobody will notice.
            debug_assert_eq!(result, 0, "pthread_atfork");
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is still the process it was.
    pub(crate) fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// Adopted memory, where the child of a fork finds it. Slots are used again, never freed: a child
/// walks the list without a lock.
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    protection: AtomicU32,
    /// Bytes; 0 while the slot means nothing.
    size: AtomicUsize,
    next: AtomicPtr<Slot>,
}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

fn slots() -> impl Iterator<Item = &'static Slot> {
    let at = |place: &AtomicPtr<Slot>| {
        // SAFETY: null, or a slot that `record` leaked, which is never freed or moved.
        unsafe { place.load(Ordering::Acquire).as_ref() }
    };
    std::iter::successors(at(&SLOTS), move |slot| at(&slot.next))
}

/// Children of forks get a private copy of some memory while this lives.
#[derive(Debug)]
pub(super) struct Copied(&'static AtomicUsize, &'static AtomicBool);

/// Records memory of which children shall get a private copy with this protection. It is readable,
/// and may be recorded before it is shared: a copy of private memory does no harm.
pub(super) fn record(start: NonNull<u8>, size: usize, protection: MprotectFlags) -> Copied {
    let take = |slot: &&Slot| {
        slot.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    let slot = slots().find(take).unwrap_or_else(add_slot);
    slot.start.store(start.as_ptr().expose_provenance(), Ordering::Relaxed);
    slot.protection.store(protection.bits(), Ordering::Relaxed);
    slot.size.store(size, Ordering::Release);
    Copied(&slot.size, &slot.taken)
}

fn add_slot() -> &'static Slot {
    let slot = Box::leak(Box::new(Slot {
        taken: AtomicBool::new(true),
        start: AtomicUsize::new(0),
        protection: AtomicU32::new(0),
        size: AtomicUsize::new(0),
        next: AtomicPtr::new(SLOTS.load(Ordering::Acquire)),
    }));
    let mut head = slot.next.load(Ordering::Relaxed);
    while let Err(other) =
        SLOTS.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Acquire)
    {
        head = other;
        slot.next.store(head, Ordering::Relaxed);
    }
    slot
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
        self.1.store(false, Ordering::Release);
    }
}

thread_local! {
    /// The pipe on which the child says that it has its copies, from `prepare` on.
    static DONE: Cell<Option<(RawFd, RawFd)>> = const { Cell::new(None) };
}

extern "C" fn prepare() {
    if slots().all(|slot| slot.size.load(Ordering::Acquire) == 0) {
        return;
    }
    // Without a pipe the parent does not wait; the copies are made nevertheless.
    if let Ok((reader, writer)) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        DONE.set(Some((reader.into_raw_fd(), writer.into_raw_fd())));
    }
}

/// Takes the pipe back that `prepare` left.
fn pipe() -> Option<(OwnedFd, OwnedFd)> {
    use std::os::fd::FromRawFd as _;
    let (reader, writer) = DONE.take()?;
    // SAFETY: `prepare` gave this fd up for us; `take` makes sure that it happens once.
    let reader = unsafe { OwnedFd::from_raw_fd(reader) };
    // SAFETY: as for the other end.
    let writer = unsafe { OwnedFd::from_raw_fd(writer) };
    Some((reader, writer))
}

extern "C" fn parent() {
    let Some((reader, writer)) = pipe() else { return };
    // The child's death is an answer too, if nobody else forked meanwhile.
    drop(writer);
    let mut set = [PollFd::new(&reader, PollFlags::IN)];
    while rustix::event::poll(&mut set, Some(&COPYING_MAX)) == Err(Errno::INTR) {}
}

extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for slot in slots() {
        let size = slot.size.load(Ordering::Acquire);
        if size != 0 {
            let start = ptr::with_exposed_provenance_mut(slot.start.load(Ordering::Relaxed));
            let protection = slot.protection.load(Ordering::Relaxed);
            copy(start, size, MprotectFlags::from_bits_retain(protection));
            // The slot is the parent's; here the memory is like any other from now on.
            slot.size.store(0, Ordering::Relaxed);
        }
    }
    if let Some((_reader, writer)) = pipe() {
        let _ = rustix::io::write(&writer, &[1]);
    }
}

/// Puts a private copy where the shared mapping is. Allocates nothing: other threads of the parent
/// may have held the allocator's locks.
fn copy(start: *mut u8, size: usize, protection: MprotectFlags) {
    // A program that unmapped the memory although it was adopted must not fault here.
    // SAFETY: reading faults change no contents.
    let there = unsafe { rustix::mm::madvise(start.cast(), size, Advice::LinuxPopulateRead) };
    if there == Err(Errno::NOMEM) {
        return;
    }
    let read = |into: &mut [u8]| {
        let start = NonNull::new(start).ok_or(Errno::FAULT)?;
        // SAFETY: the mapping is there until it is replaced below. It may be read-only, but is only
        // read. The parent and the GPU may write to it, so it is read through atomics.
        let shared = unsafe { SharedBytes::new(start, size) };
        shared.read_at(0, into).map_err(|_| Errno::FAULT)
    };
    // SAFETY: by the contract of adoption nothing but the program's own data lies in that range,
    // and no other thread runs in this process; the data stays as it is.
    let copied = unsafe { replace_by_copy(start, size, protection, read) };
    if copied.is_err() {
        let (nothing, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: as above. No memory for a copy: a child that faults harms nobody, one that goes
        // on writing into its parent's memory does.
        let _ = unsafe { rustix::mm::mmap_anonymous(start.cast(), size, nothing, flags) };
    }
}

/// Replaces the mapping at `start` by private memory, filled by `read`, in one step: at every
/// moment there is one of the two mappings.
///
/// # Errors
/// The kernel's errno or that of `read`; nothing has changed then.
///
/// # Safety
/// `size` bytes at `start` are whole pages whose mapping may be replaced. A write of another thread
/// between the copy and the replacement is lost.
pub(super) unsafe fn replace_by_copy(
    start: *mut u8,
    size: usize,
    protection: MprotectFlags,
    read: impl FnOnce(&mut [u8]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (both, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a null hint without MAP_FIXED: nothing that is in use is touched.
    let fresh = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), size, both, flags) }?;
    let finish = || {
        // SAFETY: the fresh mapping, zeroed by the kernel and nobody else's.
        read(unsafe { std::slice::from_raw_parts_mut(fresh.cast(), size) })?;
        if protection != MprotectFlags::READ | MprotectFlags::WRITE {
            // SAFETY: the fresh mapping is ours, and no reference into it is left.
            unsafe { rustix::mm::mprotect(fresh, size, protection) }?;
        }
        let flags = rustix::mm::MremapFlags::MAYMOVE;
        // SAFETY: the source is ours, and the target may be replaced by this function's contract.
        unsafe { rustix::mm::mremap_fixed(fresh, size, size, flags, start.cast()) }.map(drop)
    };
    finish().inspect_err(|_| {
        // SAFETY: the fresh mapping is still where it was made, and nobody else's.
        let _ = unsafe { rustix::mm::munmap(fresh, size) };
    })
}
