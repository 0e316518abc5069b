//! Pages behind a memfd: made, grown, and mapped at an address of our own or of somebody's choice.
#![expect(unsafe_code, reason = "maps memory that others share, and lends it out")]

use std::ffi::c_void;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::fork::Generation;
use crate::error::Error;
use crate::map::SharedBytes;

/// Bytes of a page on every machine with the GPUs in question.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Bytes of a huge page; memory at least as large is aligned to it.
const HUGE_BYTES: usize = 2 << 20;

/// `bytes` rounded up to whole pages.
///
/// # Errors
/// EINVAL for none, ENOMEM for more than an address space has.
pub(super) fn whole_pages(bytes: u64) -> Result<usize, Errno> {
    let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
    if bytes == 0 {
        return Err(Errno::INVAL);
    }
    let pages = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::NOMEM)?;
    if isize::try_from(pages).is_ok() { Ok(pages) } else { Err(Errno::NOMEM) }
}

/// A memfd of `size` zeroed bytes that nobody can shrink: what the broker accepts as memory.
///
/// # Errors
/// The kernel's errno.
pub(super) fn memfd(size: usize) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(c"gpu-broker-user-memory", flags)?;
    rustix::fs::ftruncate(&fd, size as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
    Ok(fd)
}

/// Memory of our own behind a memfd. Nobody but its owner can reach it until the fd is lent out.
#[derive(Debug)]
pub(super) struct Range {
    fd: OwnedFd,
    bytes: SharedBytes,
    generation: Generation,
}

impl Range {
    /// Zeroed memory of `size` bytes, whole pages.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn allocate(size: usize) -> Result<Self, Errno> {
        let generation = Generation::current();
        let fd = memfd(size)?;
        let start = reserve(size)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the range was just reserved by a mapping that nobody knows of.
        let mapped = unsafe { rustix::mm::mmap(start.as_ptr().cast(), size, both, flags, &fd, 0) };
        if let Err(errno) = mapped {
            // SAFETY: the reservation is ours, and nothing lies in it.
            let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), size) };
            return Err(errno);
        }
        let bytes = bytes_at(start.as_ptr().cast(), size)?;
        let range = Self { fd, bytes, generation };
        range.advise()?;
        Ok(range)
    }

    fn advise(&self) -> Result<(), Errno> {
        let (start, size) = (self.bytes.as_ptr().cast(), self.bytes.length());
        if size >= HUGE_BYTES {
            // A kernel without huge pages refuses, and nothing is lost.
            // SAFETY: advice changes no contents.
            let _ = unsafe { rustix::mm::madvise(start, size, Advice::LinuxHugepage) };
        }
        // A child would share the memory, and could change it under its parent.
        // SAFETY: the mapping stays as it is in this process.
        unsafe { rustix::mm::madvise(start, size, Advice::LinuxDontFork) }
    }

    /// Makes the memory larger; what is new is zero. It may lie elsewhere then.
    ///
    /// # Errors
    /// The kernel's errno; the memory is as it was then.
    pub(super) fn grow(&mut self, size: usize) -> Result<(), Errno> {
        self.assert_ours();
        let old = self.bytes.length();
        if size <= old {
            return Ok(());
        }
        rustix::fs::ftruncate(&self.fd, size as u64)?;
        let place = self.bytes.as_ptr().cast();
        let stay = if size < HUGE_BYTES { MremapFlags::MAYMOVE } else { MremapFlags::empty() };
        // SAFETY: the mapping is ours, and `&mut self` says that no reference into it is left.
        let start = unsafe { rustix::mm::mremap(place, old, size, stay) };
        let start = match start {
            // Where it is, nothing fits behind it, or huge pages would not fit.
            Err(_) => self.move_to_huge_pages(size)?,
            Ok(start) if size >= HUGE_BYTES && !start.addr().is_multiple_of(HUGE_BYTES) => {
                self.bytes = bytes_at(start, size)?;
                self.move_to_huge_pages(size)?
            }
            Ok(start) => start,
        };
        self.bytes = bytes_at(start, size)?;
        self.advise()
    }

    /// Moves the mapping to a place that is aligned to huge pages, `size` bytes long.
    fn move_to_huge_pages(&mut self, size: usize) -> Result<*mut c_void, Errno> {
        let place = reserve(size)?.as_ptr().cast();
        let (start, old) = (self.bytes.as_ptr().cast(), self.bytes.length());
        // SAFETY: the source is ours, and `&mut self` says that no reference into it is left; the
        // target was just reserved.
        unsafe { rustix::mm::mremap_fixed(start, old, size, MremapFlags::MAYMOVE, place) }
            .inspect_err(|_| {
                // SAFETY: the reservation is ours, and nothing lies in it.
                let _ = unsafe { rustix::mm::munmap(place, size) };
            })
    }

    /// Takes the contents away from everybody who has the fd: they keep the old pages, this
    /// process goes on with a copy at the same address.
    ///
    /// # Errors
    /// The kernel's errno; nothing has changed then.
    pub(super) fn detach(&mut self) -> Result<(), Errno> {
        self.assert_ours();
        let (start, size) = (self.bytes.as_ptr(), self.bytes.length());
        let fd = memfd(size)?;
        copy_into(&fd, start, size)?;
        // SAFETY: the mapping is ours and stays as large; `&mut self` says that no reference into
        // it is left.
        unsafe { replace_by_memfd(start, size, &fd, MprotectFlags::READ | MprotectFlags::WRITE) }?;
        self.fd = fd;
        self.advise()
    }

    /// The memory, for those who change it through atomics alone.
    pub(super) fn shared(&self) -> &SharedBytes {
        self.assert_ours();
        &self.bytes
    }

    /// The memfd, which holds the memory from its beginning on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) const fn size(&self) -> usize {
        self.bytes.length()
    }

    /// The memory as a slice.
    ///
    /// # Safety
    /// While the slice lives nobody writes to the memory: neither another process nor the GPU, nor
    /// anyone through [`Self::shared`].
    pub(super) unsafe fn slice(&self) -> &[u8] {
        self.assert_ours();
        // SAFETY: the mapping lives as long as `self` and is readable; every byte is initialised,
        // since a memfd begins as zeroes; that nobody writes is this function's contract.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.bytes.length()) }
    }

    /// The memory as a slice that can be written to.
    ///
    /// # Safety
    /// As [`Self::slice`], and nobody reads either.
    pub(super) unsafe fn slice_mut(&mut self) -> &mut [u8] {
        self.assert_ours();
        // SAFETY: as in `slice`; the mapping is writable, and `&mut self` keeps others of this
        // process away.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.bytes.length()) }
    }

    /// The child of a fork has not got the memory. A sentence is better than a fault.
    fn assert_ours(&self) {
        assert!(
            self.generation.is_current(),
            "memory shared with the GPU is not inherited by children of fork"
        );
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // In the child of a fork something else may lie there by now.
        if self.generation.is_current() {
            // SAFETY: the mapping is ours, and no reference into it outlives `self`.
            let result =
                unsafe { rustix::mm::munmap(self.bytes.as_ptr().cast(), self.bytes.length()) };
            debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail: {result:?}");
        }
    }
}

/// What `mremap` answered, as the place of a range.
fn bytes_at(start: *mut c_void, size: usize) -> Result<SharedBytes, Errno> {
    let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
    // SAFETY: the mapping lies there until it is moved again or its range is dropped, which lends
    // it out as one thing or as the other.
    Ok(unsafe { SharedBytes::new(start, size) })
}

/// A range of addresses for `size` bytes, aligned to huge pages if it is that large. It is mapped
/// without access, so that nobody else is given it.
fn reserve(size: usize) -> Result<NonNull<u8>, Errno> {
    let slack = if size >= HUGE_BYTES { HUGE_BYTES } else { 0 };
    let whole = size.checked_add(slack).ok_or(Errno::NOMEM)?;
    let (nothing, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a null hint without MAP_FIXED: nothing that is in use is touched.
    let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), whole, nothing, flags) }?;
    let start = start.cast::<u8>();
    if slack == 0 {
        return NonNull::new(start).ok_or(Errno::NOMEM);
    }
    let before = start.align_offset(HUGE_BYTES);
    let after = slack - before;
    // SAFETY: less than `slack`, so inside of what was reserved.
    let aligned = unsafe { start.add(before) };
    if before != 0 {
        // SAFETY: the part of our reservation before the aligned range.
        unsafe { rustix::mm::munmap(start.cast(), before) }?;
    }
    if after != 0 {
        // SAFETY: inside of what was reserved.
        let end = unsafe { aligned.add(size) };
        // SAFETY: the part of our reservation behind the aligned range.
        unsafe { rustix::mm::munmap(end.cast(), after) }?;
    }
    NonNull::new(aligned).ok_or(Errno::NOMEM)
}

/// Copies memory of this process into a memfd. The kernel reads it, so that a thread that writes
/// meanwhile makes the copy a mixture and nothing worse.
///
/// # Errors
/// EFAULT when the memory is not readable, ENOMEM.
pub(super) fn copy_into(fd: &OwnedFd, start: *const u8, size: usize) -> Result<(), Errno> {
    let mut done = 0;
    while done < size {
        let address = start.wrapping_add(done).cast::<libc::c_void>();
        let offset = libc::off_t::try_from(done).map_err(|_| Errno::OVERFLOW)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
        // SAFETY: the kernel checks the address and answers EFAULT; it only reads there. A slice
        // for rustix would promise that no thread writes meanwhile, which nobody can.
        let copied = unsafe { libc::pwrite(raw, address, size - done, offset) };
        match usize::try_from(copied) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => done += bytes,
            Err(_) => match std::io::Error::last_os_error() {
                error if error.kind() == std::io::ErrorKind::Interrupted => {}
                error => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        }
    }
    Ok(())
}

/// Replaces the mapping at `start` by the memfd's pages, in one step: at every moment there is one
/// of the two mappings, for other threads too.
///
/// # Safety
/// `size` bytes at `start` are whole pages whose mapping may be replaced, and `fd` holds what shall
/// be there.
pub(super) unsafe fn replace_by_memfd(
    start: *mut u8,
    size: usize,
    fd: &OwnedFd,
    protection: MprotectFlags,
) -> Result<(), Errno> {
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    let protection = ProtFlags::from_bits_retain(protection.bits());
    // SAFETY: this function's contract.
    unsafe { rustix::mm::mmap(start.cast(), size, protection, flags, fd, 0) }.map(drop)
}

/// Gives the errno of a step in making memory a sentence.
pub(super) fn failed(doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::io(doing, errno)
}

/// Fills memory from the beginning of a memfd.
///
/// # Errors
/// The kernel's errno; EIO when the memfd is shorter.
pub(super) fn copy_out(fd: &OwnedFd, mut into: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while !into.is_empty() {
        match rustix::io::pread(fd, &mut *into, done) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => {
                done += bytes as u64;
                into = into.get_mut(bytes..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
