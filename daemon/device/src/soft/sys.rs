//! The only unsafe code of the soft back end: shared memory mapped into the daemon.
#![expect(unsafe_code, reason = "mmap, munmap, and atomics over the mapped range")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// An access outside a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutOfRange;

/// A whole file of fixed size, mapped shared, readable and writable.
///
/// Other processes, and other threads here, write to it at any time. So nothing ever makes a
/// `&[u8]` of it: every access goes through relaxed atomics, which may race, and copies to or from
/// private memory. The file must be unable to shrink (`F_SEAL_SHRINK`), or accesses raise SIGBUS.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
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
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(Errno::NOMEM)
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
    /// The range is not inside the mapping; nothing was copied.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        let start = self.check(offset, into.len())?;
        if let (Ok(out), 0) = (<&mut [u8; 4]>::try_from(&mut *into), start % 4) {
            *out = self.dwords()[start / 4].load(Ordering::Acquire).to_ne_bytes();
            return Ok(());
        }
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
        Ok(())
    }

    /// Copies to the mapping.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfRange> {
        let start = self.check(offset, from.len())?;
        if let (Ok(value), 0) = (<[u8; 4]>::try_from(from), start % 4) {
            self.dwords()[start / 4].store(u32::from_ne_bytes(value), Ordering::Release);
            return Ok(());
        }
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
        Ok(())
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
        let start = self.check(offset, 4)?;
        let dword = &self.dwords()[aligned_index::<4>(start)?];
        let update = dword.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(op(old)));
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
        let start = self.check(offset, 8)?;
        let qword = &self.qwords()[aligned_index::<8>(start)?];
        let update = qword.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(op(old)));
        update.map_err(|_| OutOfRange)
    }

    /// `offset` as an index, if `len` bytes from there are inside.
    fn check(&self, offset: u64, len: usize) -> Result<usize, OutOfRange> {
        let start = usize::try_from(offset).map_err(|_| OutOfRange)?;
        let end = start.checked_add(len).ok_or(OutOfRange)?;
        if end <= self.len { Ok(start) } else { Err(OutOfRange) }
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
