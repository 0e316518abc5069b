//! Memory that was there before: the pages of an ordinary mapping are moved behind a memfd.
#![expect(unsafe_code, reason = "replaces mappings of the program")]

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use super::fork::{self, Copied, Generation, replace_by_copy};
use super::hold::WriteHold;
use super::range::{PAGE_BYTES, copy_into, copy_out, failed, memfd, replace_by_memfd};
use crate::error::Error;
use crate::map::SharedBytes;

/// What becomes of threads that write to memory while its pages are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writers {
    /// There are none: the caller sees to it. A write between the copy and the replacement, which
    /// are microseconds to milliseconds per MiB apart, would be lost; nothing worse happens.
    #[default]
    None,
    /// They are held up by userfaultfd until the pages are moved, and no write is lost. A system
    /// call that writes to the memory meanwhile (`read(2)` into it) fails with EFAULT. Not every
    /// process may do this: kernels from 5.11 on with userfaultfd, and no seccomp filter against
    /// it (containers often have one).
    Held,
}

/// An ordinary mapping of the program, `malloc`ed for example, whose pages lie behind a memfd for
/// now, at the same address, so that the GPU can be given them.
///
/// The program goes on using the memory through its own pointers. Dropping this moves the pages
/// back into private memory, with their contents.
///
/// While the memory is adopted it is a shared mapping of a memfd, and:
///
/// * children of `fork` get a private copy, made at once and not on write; `fork` waits for it;
/// * `mlock`, memory policies and advice (huge pages, KSM) that were given to it are forgotten;
/// * it counts as shared memory (`RssShmem`), and toward a limit of tmpfs if there is one.
#[derive(Debug)]
pub struct AdoptedMemory {
    fd: OwnedFd,
    bytes: SharedBytes,
    protection: MprotectFlags,
    writers: Writers,
    generation: Generation,
    copied: Option<Copied>,
}

const HOLDING: &str = "holding up writers with userfaultfd";

impl Writers {
    /// Holds writers up if there are any, until the result is dropped.
    ///
    /// # Safety
    /// As [`WriteHold::begin`].
    unsafe fn hold(self, start: NonNull<u8>, size: usize) -> Result<Option<WriteHold>, Errno> {
        match self {
            Self::None => Ok(None),
            // SAFETY: this function's contract.
            Self::Held => unsafe { WriteHold::begin(start, size) }.map(Some),
        }
    }
}

impl AdoptedMemory {
    /// Moves `size` bytes at `start` behind a memfd: copies them, and replaces the mapping in one
    /// step, so that other threads that read find the contents at every moment.
    ///
    /// # Errors
    /// EINVAL unless both are multiples of 4096 and not 0. [`Error::NotAdoptable`] (EFAULT) when
    /// part of it is not mapped, is shared already, is a stack, device memory or code, or has not
    /// one protection throughout. With [`Writers::Held`] ENOSYS, EPERM or EINVAL where userfaultfd
    /// may not be used. ENOMEM. The memory is as it was then.
    ///
    /// # Safety
    /// * The range is memory that the program owns and may replace, and it stays mapped and is not
    ///   remapped or given back (`munmap`, `free`, `mremap`, `madvise(MADV_DONTNEED)` …) until the
    ///   value is dropped, which happens in the process that made it.
    /// * As with all shared memory, no Rust reference to it may be in use while the GPU writes to it.
    /// * Without [`Writers::Held`], no thread writes to the range during the call, or its writes
    ///   may get lost. The same holds for [`Self::restore`] and for dropping.
    pub unsafe fn adopt(start: *mut c_void, size: usize, writers: Writers) -> Result<Self, Error> {
        let doing = "moving memory behind a memfd";
        let start = NonNull::new(start.cast::<u8>());
        let aligned = |start: &NonNull<u8>| {
            start.addr().get().is_multiple_of(PAGE_BYTES)
                && size.is_multiple_of(PAGE_BYTES)
                && size != 0
                && start.addr().get().checked_add(size).is_some()
        };
        let start = start.filter(aligned).ok_or(Errno::INVAL).map_err(failed(doing))?;
        let protection = super::maps::adoptable(start.addr().get(), size)?;
        let generation = Generation::current();
        let fd = memfd(size).map_err(failed(doing))?;
        // Before the memory is shared, so that no child shares it; and before writers are held up,
        // one of whom may hold the allocator's lock.
        let copied = fork::record(start, size, protection);
        // SAFETY: the caller's contract: the range is the program's and stays mapped.
        let hold = unsafe { writers.hold(start, size) }.map_err(failed(HOLDING))?;
        copy_into(&fd, start.as_ptr(), size).map_err(failed(doing))?;
        // SAFETY: the caller's contract: the mapping may be replaced. The memfd has the contents.
        unsafe { replace_by_memfd(start.as_ptr(), size, &fd, protection) }
            .map_err(failed(doing))?;
        drop(hold);
        // SAFETY: the caller's contract: it stays mapped, and its references are not used while
        // others write.
        let bytes = unsafe { SharedBytes::new(start, size) };
        let copied = Some(copied);
        let mut adopted = Self { fd, bytes, protection, writers, generation, copied };
        // Old kernels can hold up writers to private memory only. Then there would be no way back.
        // SAFETY: the caller's contract.
        if let Err(errno) = unsafe { writers.hold(start, size) }.map(drop) {
            adopted.writers = Writers::None;
            return Err(failed(HOLDING)(errno));
        }
        Ok(adopted)
    }

    /// Moves the pages back into private memory at the same address, with their contents. What the
    /// GPU writes later does not arrive: invalidate first. Dropping does the same.
    ///
    /// # Errors
    /// ENOMEM, or what holding writers up answers. The memory stays where it is then: shared, and
    /// usable, but no longer looked after.
    pub fn restore(mut self) -> Result<(), Error> {
        self.give_back().map_err(failed("moving memory back from behind a memfd"))
    }

    fn give_back(&mut self) -> Result<(), Errno> {
        let Some(copied) = self.copied.take() else { return Ok(()) };
        // In the child of a fork it is private already.
        if !self.generation.is_current() {
            return Ok(());
        }
        let result = self.move_back();
        if result.is_err() {
            // It stays shared, and children go on getting copies.
            std::mem::forget(copied);
        }
        result
    }

    fn move_back(&self) -> Result<(), Errno> {
        let (start, size) = (self.bytes.as_ptr(), self.bytes.length());
        let place = NonNull::new(start).ok_or(Errno::FAULT)?;
        // SAFETY: by the contract of `adopt` the mapping is still the one that was made there.
        let hold = unsafe { self.writers.hold(place, size) }?;
        let read = |into: &mut [u8]| copy_out(&self.fd, into);
        // SAFETY: as above, and nothing that a thread writes now is lost, as the contract says.
        let result = unsafe { replace_by_copy(start, size, self.protection, read) };
        drop(hold);
        result
    }

    /// Moves the contents behind another memfd, so that whoever has the old one writes to memory
    /// that nobody looks at any more.
    ///
    /// # Errors
    /// The kernel's errno; nothing has changed then.
    pub(super) fn detach(&mut self) -> Result<(), Errno> {
        let (start, size) = (self.bytes.as_ptr(), self.bytes.length());
        let fd = memfd(size)?;
        copy_into(&fd, start, size)?;
        // SAFETY: by the contract of `adopt` the mapping is still the one that was made there.
        unsafe { replace_by_memfd(start, size, &fd, self.protection) }?;
        self.fd = fd;
        Ok(())
    }

    /// Where it lies.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut c_void {
        self.bytes.as_ptr().cast()
    }

    /// Bytes, a multiple of 4096.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.bytes.size()
    }

    /// Whether the program may write to it, and so the GPU.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.protection.contains(MprotectFlags::WRITE)
    }

    pub(super) const fn shared(&self) -> &SharedBytes {
        &self.bytes
    }
}

impl AsFd for AdoptedMemory {
    /// The memfd, which holds the memory from its beginning on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for AdoptedMemory {
    fn drop(&mut self) {
        // Whoever wants to know calls `restore`. The memory stays usable either way.
        let _ = self.give_back();
    }
}
