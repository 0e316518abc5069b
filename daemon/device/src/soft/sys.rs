//! The only unsafe code of the soft back end: shared memory mapped into the daemon, and a setting of
//! the C library's memory.
//!
//! # Lost pages
//! A page of a memfd that cannot shrink can still be missing: it was never touched, or a client punched
//! a hole. The first access makes one. If the kernel has none to give (a limit on memory, strict
//! overcommit) or the memory is broken, it raises SIGBUS in the thread that accesses, which would end
//! the daemon. No check before an access can prevent that, as a hole can be punched at any moment, and
//! no flag asks for an error instead. So the signal is handled, as Wayland compositors do for their
//! clients' memory: [`on_sigbus`] puts an empty page in the place of the missing one, so that the access
//! ends, and marks the mapping as lost, so that the access is answered with [`OutOfRange`] and none
//! follows. The alternatives cost what they protect: a system call for every access is a hundred times
//! slower and has no atomics, and pinning pages in advance takes memory nobody asked for, and seconds of
//! the thread that serves everybody.
#![expect(unsafe_code, reason = "mmap, munmap, atomics over the mapped range, and SIGBUS of those")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, compiler_fence, fence,
};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Blocks of at least so many bytes go back to the system when they are freed. More than a submission takes
/// on its way: those would be fetched anew each time, which doubles what 8190 buffers cost.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: c_int = 1 << 20;

/// Has large blocks go back to the system when they are freed, for the whole process. The GNU C
/// library begins so, but the first large block that is freed raises the size from which it does
/// (mallopt(3), "dynamic mmap threshold"); from then on a daemon would keep most of what a client once
/// had it hold. Other C libraries have no such setting.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number under the allocator's own lock; no block is moved.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// An access outside a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfRange;

/// A whole file of fixed size, mapped shared, readable and writable.
///
/// Other processes, and other threads here, write to it at any time. So nothing ever makes a
/// `&[u8]` of it: every access goes through relaxed atomics, which may race, and copies to or from
/// private memory. The file should be unable to shrink (`F_SEAL_SHRINK`): an access to a page that is
/// not there loses the mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    /// An access found no page.
    lost: AtomicBool,
}

// SAFETY: the mapping is not bound to a thread; it is unmapped once, by the owner's drop.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` the memory is only reached as atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, a positive multiple of the page size, of a file that has them.
    ///
    /// # Errors
    /// What mmap says.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)
        }?;
        Self::of(base, len, true)
    }

    /// As [`Self::new`], of a client's memfd; for reading only unless `writable`.
    ///
    /// # Errors
    /// What mmap says.
    pub(crate) fn of_client(
        file: BorrowedFd<'_>,
        len: usize,
        writable: bool,
    ) -> Result<Self, Errno> {
        if writable {
            return Self::new(file, len);
        }
        let map = |flags| {
            // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, flags, file, 0) }
        };
        let base = match map(MapFlags::SHARED) {
            // Kernels before 6.7 take a shared mapping of a file that is sealed against writing for a
            // writable one. A private one that nobody writes to has the same pages.
            Err(Errno::PERM) => map(MapFlags::PRIVATE),
            other => other,
        }?;
        Self::of(base, len, false)
    }

    fn of(base: *mut c_void, len: usize, writable: bool) -> Result<Self, Errno> {
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len, writable, lost: AtomicBool::new(false) })
    }

    /// Whether an access found no page. Every later one is refused.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Runs accesses to the mapping so that a page that is not there ends them and nothing else.
    fn access<T>(&self, f: impl FnOnce() -> T) -> Result<T, OutOfRange> {
        if self.is_lost() {
            return Err(OutOfRange);
        }
        let guard = Guard::set(self);
        let out = f();
        drop(guard);
        // Whoever read the empty page, or wrote to it, sees this: it is set before the page is there.
        if self.is_lost() { Err(OutOfRange) } else { Ok(out) }
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `base` starts `len` mapped bytes that stay mapped as long as `self`; AtomicU8 has
        // the layout of u8, accepts every value, and shared references to it allow writes by others.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len) }
    }

    fn dwords(&self) -> &[AtomicU32] {
        // SAFETY: as in `bytes`; the base is page aligned. Accesses of different sizes to the same
        // bytes may race here; on the machines Linux runs on each is one plain move of the
        // processor, and LLVM defines relaxed atomics byte by byte.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len / 4) }
    }

    fn qwords(&self) -> &[AtomicU64] {
        // SAFETY: as in `dwords`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len / 8) }
    }

    /// Copies from the mapping.
    ///
    /// # Errors
    /// The range is not inside the mapping, and nothing was copied; or the mapping is lost.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        let start = self.check(offset, into.len())?;
        if let (Ok(out), 0) = (<&mut [u8; 4]>::try_from(&mut *into), start % 4) {
            let dword = &self.dwords()[start / 4];
            *out = self.access(|| dword.load(Ordering::Acquire))?.to_ne_bytes();
            return Ok(());
        }
        self.access(|| self.copy_out(start, into))
    }

    fn copy_out(&self, start: usize, into: &mut [u8]) {
        let (head, words) = split(start, into.len());
        let (first, rest) = into.split_at_mut(head);
        load_bytes(&self.bytes()[start..start + head], first);
        let aligned = start + head;
        let (middle, last) = rest.split_at_mut(words * 8);
        let source = &self.qwords()[aligned / 8..aligned / 8 + words];
        for (out, word) in middle.as_chunks_mut::<8>().0.iter_mut().zip(source) {
            *out = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        let tail = aligned + words * 8;
        load_bytes(&self.bytes()[tail..tail + last.len()], last);
        fence(Ordering::Acquire);
    }

    /// Copies to the mapping.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfRange> {
        let start = self.check_write(offset, from.len())?;
        if let (Ok(value), 0) = (<[u8; 4]>::try_from(from), start % 4) {
            let dword = &self.dwords()[start / 4];
            return self.access(|| dword.store(u32::from_ne_bytes(value), Ordering::Release));
        }
        self.access(|| self.copy_in(start, from))
    }

    fn copy_in(&self, start: usize, from: &[u8]) {
        fence(Ordering::Release);
        let (head, words) = split(start, from.len());
        let (first, rest) = from.split_at(head);
        store_bytes(&self.bytes()[start..start + head], first);
        let aligned = start + head;
        let (middle, last) = rest.split_at(words * 8);
        let target = &self.qwords()[aligned / 8..aligned / 8 + words];
        for (word, value) in target.iter().zip(middle.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*value), Ordering::Relaxed);
        }
        let tail = aligned + words * 8;
        store_bytes(&self.bytes()[tail..tail + last.len()], last);
    }

    /// Replaces a dword atomically; answers the old value.
    ///
    /// # Errors
    /// The range is not inside the mapping, or `offset` is not a multiple of 4.
    pub(crate) fn update_u32(
        &self,
        offset: u64,
        op: &mut dyn FnMut(u32) -> u32,
    ) -> Result<u32, OutOfRange> {
        let start = self.check_write(offset, 4)?;
        let dword = &self.dwords()[aligned_index::<4>(start)?];
        let mut op = |old| Some(op(old));
        let update =
            self.access(|| dword.fetch_update(Ordering::AcqRel, Ordering::Acquire, &mut op))?;
        update.map_err(|_| OutOfRange)
    }

    /// Replaces a qword atomically; answers the old value.
    ///
    /// # Errors
    /// The range is not inside the mapping, or `offset` is not a multiple of 8.
    pub(crate) fn update_u64(
        &self,
        offset: u64,
        op: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, OutOfRange> {
        let start = self.check_write(offset, 8)?;
        let qword = &self.qwords()[aligned_index::<8>(start)?];
        let mut op = |old| Some(op(old));
        let update =
            self.access(|| qword.fetch_update(Ordering::AcqRel, Ordering::Acquire, &mut op))?;
        update.map_err(|_| OutOfRange)
    }

    /// As [`Self::check`], of a mapping that may be written.
    fn check_write(&self, offset: u64, len: usize) -> Result<usize, OutOfRange> {
        if self.writable { self.check(offset, len) } else { Err(OutOfRange) }
    }

    /// `offset` as an index, if `len` bytes from there are inside.
    fn check(&self, offset: u64, len: usize) -> Result<usize, OutOfRange> {
        let start = usize::try_from(offset).map_err(|_| OutOfRange)?;
        let end = start.checked_add(len).ok_or(OutOfRange)?;
        if end <= self.len { Ok(start) } else { Err(OutOfRange) }
    }
}

thread_local! {
    /// The mapping that this thread accesses just now. Made without code and dropped without, so that
    /// a signal handler may read it.
    static ACCESSED: Cell<*const Mapping> = const { Cell::new(std::ptr::null()) };
}

/// While it lives, SIGBUS at an address of a mapping is not the end of the process.
struct Guard {
    /// An access inside another's operation has the outer one's back.
    outer: *const Mapping,
}

impl Guard {
    fn set(mapping: &Mapping) -> Self {
        let outer = ACCESSED.replace(&raw const *mapping);
        // The accesses stay between the two fences, as the handler sees this thread's program.
        compiler_fence(Ordering::SeqCst);
        Self { outer }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        ACCESSED.set(self.outer);
    }
}

/// What SIGBUS did before: the standard library tells stack overflows by it.
static BEFORE: OnceLock<SigAction> = OnceLock::new();

/// Makes an access to a [`Mapping`] whose page is missing an error in place of the process's end. To be
/// called before there are mappings; further calls do nothing.
///
/// # Errors
/// The signal cannot be handled.
pub(crate) fn survive_lost_pages() -> std::io::Result<()> {
    static INSTALL: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = INSTALL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*installed {
        // On the alternative stack that the standard library gives its threads, as a thread that
        // overflowed its own has no other.
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(on_sigbus), flags, SigSet::empty());
        // SAFETY: `on_sigbus` calls nothing but what may be called in a signal handler, see there.
        let before = unsafe { sigaction(Signal::SIGBUS, &action) }?;
        // The lock is held and this is done once: it is empty.
        let _ = BEFORE.set(before);
        *installed = true;
    }
    Ok(())
}

/// SIGBUS: an access to a page that is not there. Calls `mmap` and `sigaction` alone, both system calls
/// that POSIX or Linux allow here; takes no lock and allocates nothing.
extern "C" fn on_sigbus(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo of this call's, or of nobody's.
    let info = unsafe { info.as_ref() };
    // Codes above 0 are the kernel's own: no process can send them.
    let address = info.filter(|info| info.si_code > 0).map(|info| {
        // SAFETY: the kernel's SIGBUS has an address.
        unsafe { info.si_addr() }.addr()
    });
    let mapping = ACCESSED.get();
    // SAFETY: null, or a mapping that a frame below on this thread borrows: it set the cell, and sets it
    // back before the borrow ends.
    let mapping = unsafe { mapping.as_ref() };
    if let (Some(address), Some(mapping)) = (address, mapping)
        && mapping.replace_page(address)
    {
        return;
    }
    // Not ours. The access is repeated when this returns, and finds what was there before us.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let before = BEFORE.get().unwrap_or(&default);
    // SAFETY: puts back what was installed in this process.
    let _ = unsafe { sigaction(Signal::SIGBUS, before) };
}

impl Mapping {
    /// Puts an empty page where there is none. False if the address is none of the mapping's, or the
    /// kernel refuses. Called in a signal handler.
    fn replace_page(&self, address: usize) -> bool {
        let base = self.base.addr().get();
        let Some(offset) = address.checked_sub(base).filter(|offset| *offset < self.len) else {
            return false;
        };
        // Before the page is there: see `access`.
        self.lost.store(true, Ordering::SeqCst);
        let page_bytes = rustix::param::page_size();
        let start = offset - offset % page_bytes;
        // One page splits the mapping in three; where that makes too many, all of it is replaced.
        self.replace(start, page_bytes) || self.replace(0, self.len)
    }

    fn replace(&self, offset: usize, len: usize) -> bool {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let at = self.base.as_ptr().wrapping_add(offset).cast();
        // SAFETY: the range is whole pages inside of what `self` maps and nobody else has. It stays
        // mapped, readable and writable, and is reached through atomics alone: to those who access it,
        // it is memory that somebody else changed.
        unsafe { rustix::mm::mmap_anonymous(at, len, protection, flags) }.is_ok()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is what mmap gave, unmapped nowhere else, and nothing borrowed from it
        // outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok(), "a range that mmap gave can be unmapped: {unmapped:?}");
    }
}

/// Bytes before the first aligned qword, and whole qwords after them, of `len` bytes at `start`.
fn split(start: usize, len: usize) -> (usize, usize) {
    let head = (start.next_multiple_of(8) - start).min(len);
    (head, (len - head) / 8)
}

fn aligned_index<const SIZE: usize>(start: usize) -> Result<usize, OutOfRange> {
    if start.is_multiple_of(SIZE) { Ok(start / SIZE) } else { Err(OutOfRange) }
}

fn load_bytes(from: &[AtomicU8], into: &mut [u8]) {
    for (out, byte) in into.iter_mut().zip(from) {
        *out = byte.load(Ordering::Relaxed);
    }
}

fn store_bytes(into: &[AtomicU8], from: &[u8]) {
    for (byte, value) in into.iter().zip(from) {
        byte.store(*value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    fn mapping() -> Mapping {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        Mapping::new(file.as_fd(), 4096).unwrap()
    }

    #[test]
    fn copies_of_every_alignment_and_length_round_trip_and_touch_nothing_else() {
        let mapping = mapping();
        for start in 0..17 {
            for len in 0..40 {
                mapping.write(0, &[0xee; 64]).unwrap();
                let data: Vec<u8> = (1..).take(len).collect();
                mapping.write(start, &data).unwrap();
                let mut all = [0; 64];
                mapping.read(0, &mut all).unwrap();
                let mut expected = [0xee; 64];
                let first = usize::try_from(start).unwrap();
                expected[first..first + len].copy_from_slice(&data);
                assert_eq!(all, expected, "written: {start} {len}");
                let mut back = vec![0; len];
                mapping.read(start, &mut back).unwrap();
                assert_eq!(back, data, "read: {start} {len}");
            }
        }
    }

    #[test]
    fn accesses_outside_are_refused() {
        let mapping = mapping();
        assert_eq!(mapping.read(4095, &mut [0; 2]), Err(OutOfRange));
        assert_eq!(mapping.write(4096, &[0]), Err(OutOfRange));
        assert_eq!(mapping.write(u64::MAX, &[0]), Err(OutOfRange));
        assert_eq!(mapping.update_u32(4096, &mut |v| v), Err(OutOfRange));
        assert_eq!(mapping.update_u32(2, &mut |v| v), Err(OutOfRange));
        assert_eq!(mapping.update_u64(4092, &mut |v| v), Err(OutOfRange));
        assert_eq!(mapping.update_u64(4, &mut |v| v), Err(OutOfRange));
        assert_eq!(mapping.read(4096, &mut []), Ok(()));
    }

    /// A mapping of two pages of a file that has the first alone.
    fn cut_off(writable: bool) -> (Mapping, std::os::fd::OwnedFd) {
        survive_lost_pages().unwrap();
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let mapping = Mapping::of_client(file.as_fd(), 8192, writable).unwrap();
        ftruncate(&file, 4096).unwrap();
        (mapping, file)
    }

    #[test]
    fn a_page_that_is_not_there_loses_the_mapping_and_nothing_else() {
        type Access = fn(&Mapping, u64) -> Result<(), OutOfRange>;
        let accesses: [Access; 6] = [
            |mapping, at| mapping.read(at, &mut [0; 4]),
            |mapping, at| mapping.read(at + 1, &mut [0; 100]),
            |mapping, at| mapping.write(at, &[1; 4]),
            |mapping, at| mapping.write(at + 1, &[1; 100]),
            |mapping, at| mapping.update_u32(at, &mut |old| old + 1).map(|_| ()),
            |mapping, at| mapping.update_u64(at, &mut |old| old + 1).map(|_| ()),
        ];
        for access in accesses {
            let (mapping, file) = cut_off(true);
            access(&mapping, 0).expect("the first page is there");
            assert!(!mapping.is_lost());
            assert_eq!(access(&mapping, 4096), Err(OutOfRange));
            assert!(mapping.is_lost());
            assert_eq!(access(&mapping, 0), Err(OutOfRange), "lost is lost");
            // Half of an access may be in the one page and half in the other.
            let (mapping, _again) = cut_off(true);
            assert_eq!(mapping.read(4000, &mut [0; 200]), Err(OutOfRange));
            ftruncate(&file, 8192).unwrap();
            let again = Mapping::of_client(file.as_fd(), 8192, true).unwrap();
            access(&again, 4096).expect("mapped again");
        }
    }

    #[test]
    fn threads_that_meet_the_same_missing_pages_all_hear_of_it() {
        let (mapping, _file) = cut_off(true);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(mapping.write(4096, &[1; 16]), Err(OutOfRange)));
            }
        });
    }

    #[test]
    fn memory_for_reading_cannot_be_written() {
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        rustix::io::pwrite(&file, &[7], 5).unwrap();
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).unwrap();
        assert!(Mapping::new(file.as_fd(), 4096).is_err(), "sealed against that");
        let mapping = Mapping::of_client(file.as_fd(), 4096, false).unwrap();
        let mut byte = [0];
        mapping.read(5, &mut byte).unwrap();
        assert_eq!(byte, [7]);
        assert_eq!(mapping.write(5, &[8]), Err(OutOfRange));
        assert_eq!(mapping.update_u32(4, &mut |old| old), Err(OutOfRange));
    }

    /// SIGBUS that is not ours ends the process, as it always did.
    #[test]
    fn other_peoples_sigbus_is_not_swallowed() {
        const INNER: &str = "GPU_BROKER_TEST_SIGBUS";
        if std::env::var_os(INNER).is_some() {
            survive_lost_pages().unwrap();
            // Ours puts the standard library's back, and that the default.
            for _ in 0..3 {
                nix::sys::signal::raise(Signal::SIGBUS).unwrap();
            }
            return;
        }
        let name = "soft::sys::tests::other_peoples_sigbus_is_not_swallowed";
        let inner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(INNER, "1")
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&inner.status);
        assert_eq!(signal, Some(Signal::SIGBUS as i32), "{inner:?}");
    }

    #[test]
    fn updates_are_atomic() {
        let mapping = mapping();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        mapping.update_u32(8, &mut |v| v + 1).unwrap();
                        mapping.update_u64(16, &mut |v| v + 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(mapping.update_u32(8, &mut |v| v), Ok(4000));
        assert_eq!(mapping.update_u64(16, &mut |v| v), Ok(4000));
    }
}
