//! Buffer memory mapped into this process.
//!
//! The GPU and other processes may change the memory at any time, so it is never lent out as a
//! slice: every access copies, word by word, through atomics.
#![expect(unsafe_code, reason = "maps memory and accesses what other processes share")]

use std::fmt;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use gpu_broker_protocol::limits::PAGE_BYTES;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::Error;

/// A buffer's memory, readable and writable, shared with the GPU.
///
/// Cloning is cheap and gives the same memory. It stays mapped until the last clone is dropped,
/// also when the buffer was closed before.
///
/// Bulk copies ([`SharedBytes::read_at`], [`SharedBytes::write_at`]) are not atomic as a whole: what
/// the GPU writes meanwhile may be seen in part. Single words ([`SharedBytes::load_u32`] and its
/// like) are atomic, acquire and release, which is what waiting for a value that a batch stores
/// needs.
#[derive(Clone)]
pub struct Mapping {
    region: Arc<Region>,
}

/// Memory of this process that the GPU or other processes may change at any time: every access
/// copies, through atomics. [`Mapping`] and [`UserBuffer::shared`](crate::UserBuffer::shared) lend
/// it out.
pub struct SharedBytes {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: whoever has the bytes keeps them mapped, and all access to them goes through atomics, so
// it does not matter which thread does it.
unsafe impl Send for SharedBytes {}
// SAFETY: as for `Send`: `&SharedBytes` gives atomic access only.
unsafe impl Sync for SharedBytes {}

/// Bytes that are unmapped with their last owner.
struct Region(SharedBytes);

impl Region {
    fn map(fd: &OwnedFd, offset: u64, size: usize) -> Result<Self, Errno> {
        Self::map_for(ProtFlags::READ | ProtFlags::WRITE, fd, offset, size)
    }

    fn map_for(
        protection: ProtFlags,
        fd: &OwnedFd,
        offset: u64,
        size: usize,
    ) -> Result<Self, Errno> {
        // SAFETY: a null hint without MAP_FIXED lets the kernel choose a range that nothing in
        // this process uses, so no memory that Rust knows of is touched.
        let start = unsafe {
            rustix::mm::mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, fd, offset)
        }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self(SharedBytes { start, size }))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let SharedBytes { start, size } = self.0;
        // SAFETY: `start` and `size` are what `mmap` gave, nobody else unmaps them, and no
        // reference into the region outlives the borrow of `self` it was made from.
        let result = unsafe { rustix::mm::munmap(start.as_ptr().cast(), size) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail: {result:?}");
    }
}

/// A page that another process writes and this one only reads, in words of 64 bits.
pub(crate) struct Words(Region);

impl Words {
    /// Maps the page.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub(crate) fn map(fd: &OwnedFd) -> Result<Self, Error> {
        let failed = |errno| Error::io("mapping a page of the broker", errno);
        if length(fd).map_err(failed)? < PAGE_BYTES {
            return Err(failed(Errno::PROTO));
        }
        let size = usize::try_from(PAGE_BYTES).map_err(|_| failed(Errno::NOMEM))?;
        Region::map_for(ProtFlags::READ, fd, 0, size).map(Self).map_err(failed)
    }

    /// The word at an offset in bytes, with what was written before it; 0 if there is none.
    pub(crate) fn load(&self, offset: u64) -> u64 {
        // Of memory that cannot be written, Rust defines relaxed loads alone.
        let word =
            self.0.0.word::<AtomicU64>(offset).map_or(0, |word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        word
    }
}

/// Atomic integers: valid for every bit pattern, of which [`SharedBytes::word`] makes use.
trait AtomicWord {}
impl AtomicWord for AtomicU8 {}
impl AtomicWord for AtomicU32 {}
impl AtomicWord for AtomicU64 {}

impl Mapping {
    /// Maps `size` bytes of `fd` from `offset` on.
    ///
    /// # Errors
    /// EPROTO when the fd is shorter than that: an access beyond its end would be a SIGBUS. The
    /// kernel's errno when it cannot be mapped.
    pub(crate) fn new(fd: &OwnedFd, offset: u64, size: u64) -> Result<Self, Error> {
        let failed = |errno| Error::io("mapping a buffer", errno);
        let length = length(fd).map_err(failed)?;
        if offset.checked_add(size).is_none_or(|end| end > length) {
            let doing = "mapping a buffer, whose memory is shorter than the broker said";
            return Err(Error::io(doing, Errno::PROTO));
        }
        let size = usize::try_from(size).map_err(|_| failed(Errno::NOMEM))?;
        let region = Region::map(fd, offset, size).map_err(failed)?;
        Ok(Self { region: Arc::new(region) })
    }
}

impl Deref for Mapping {
    type Target = SharedBytes;

    fn deref(&self) -> &SharedBytes {
        &self.region.0
    }
}

impl SharedBytes {
    /// # Safety
    /// `size` bytes at `start`, whole pages, stay mapped, readable and writable, while the value is
    /// used, and nobody has a reference to them that says they do not change.
    pub(crate) const unsafe fn new(start: NonNull<u8>, size: usize) -> Self {
        Self { start, size }
    }

    /// The `T` at `offset`.
    fn word<T>(&self, offset: u64) -> Result<&T, Error>
    where
        T: AtomicWord,
    {
        let (length, alignment) = (size_of::<T>(), align_of::<T>());
        let at = self.range(offset, length)?;
        if !at.is_multiple_of(alignment) {
            return Err(Error::Misaligned { offset, alignment: alignment as u64 });
        }
        // SAFETY: `range` proved that `at + length` lies within the mapping.
        let place = unsafe { self.start.as_ptr().add(at) }.cast::<T>();
        // SAFETY: the memory stays mapped while `self` is borrowed; the mapping is page aligned
        // and `at` a multiple of `T`'s alignment; `T` is an atomic integer, valid for every bit
        // pattern and made for memory that others change.
        Ok(unsafe { &*place })
    }

    fn range(&self, offset: u64, length: usize) -> Result<usize, Error> {
        let out_of_range =
            || Error::OutOfRange { offset, length: length as u64, size: self.size as u64 };
        let at = usize::try_from(offset).map_err(|_| out_of_range())?;
        match at.checked_add(length) {
            Some(end) if end <= self.size => Ok(at),
            _ => Err(out_of_range()),
        }
    }

    /// Bytes mapped.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size as u64
    }

    /// Bytes mapped, as Rust counts them.
    pub(crate) const fn length(&self) -> usize {
        self.size
    }

    /// Copies `into.len()` bytes from `offset` on out of the buffer.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing is copied then.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let at = self.range(offset, into.len())?;
        let (head, body) = into.split_at_mut(bytes_to_alignment(at, into.len()));
        let mut place = offset;
        for byte in head {
            *byte = self.word::<AtomicU8>(place)?.load(Ordering::Relaxed);
            place += 1;
        }
        let (words, tail) = body.as_chunks_mut::<8>();
        for word in words {
            *word = self.word::<AtomicU64>(place)?.load(Ordering::Relaxed).to_ne_bytes();
            place += 8;
        }
        for byte in tail {
            *byte = self.word::<AtomicU8>(place)?.load(Ordering::Relaxed);
            place += 1;
        }
        Ok(())
    }

    /// Copies `from` into the buffer from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing is copied then.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let at = self.range(offset, from.len())?;
        let (head, body) = from.split_at(bytes_to_alignment(at, from.len()));
        let mut place = offset;
        for byte in head {
            self.word::<AtomicU8>(place)?.store(*byte, Ordering::Relaxed);
            place += 1;
        }
        let (words, tail) = body.as_chunks::<8>();
        for word in words {
            let word_at = self.word::<AtomicU64>(place)?;
            word_at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            place += 8;
        }
        for byte in tail {
            self.word::<AtomicU8>(place)?.store(*byte, Ordering::Relaxed);
            place += 1;
        }
        Ok(())
    }

    /// Copies `length` bytes from `offset` on into a new vector.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn read_vec(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.range(offset, length)?;
        let mut bytes = vec![0; length];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies dwords, a batch for example, into the buffer from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing is copied then. [`Error::Misaligned`] unless `offset` is a
    /// multiple of 4.
    pub fn write_dwords(&self, offset: u64, dwords: &[u32]) -> Result<(), Error> {
        self.range(offset, size_of_val(dwords))?;
        let mut place = offset;
        for dword in dwords {
            self.word::<AtomicU32>(place)?.store(dword.to_le(), Ordering::Relaxed);
            place += 4;
        }
        Ok(())
    }

    /// Sets every byte to `value`.
    pub fn fill(&self, value: u8) {
        let word = u64::from_ne_bytes([value; 8]);
        let mut place = 0;
        // A mapping is whole pages, so words reach to its end.
        while let Ok(at) = self.word::<AtomicU64>(place) {
            at.store(word, Ordering::Relaxed);
            place += 8;
        }
    }

    /// The little-endian dword at `offset`, with acquire ordering.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Misaligned`] unless `offset` is a multiple of 4.
    pub fn load_u32(&self, offset: u64) -> Result<u32, Error> {
        Ok(u32::from_le(self.word::<AtomicU32>(offset)?.load(Ordering::Acquire)))
    }

    /// Stores a little-endian dword at `offset`, with release ordering.
    ///
    /// # Errors
    /// As [`Self::load_u32`].
    pub fn store_u32(&self, offset: u64, value: u32) -> Result<(), Error> {
        self.word::<AtomicU32>(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// The little-endian qword at `offset`, with acquire ordering.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Misaligned`] unless `offset` is a multiple of 8.
    pub fn load_u64(&self, offset: u64) -> Result<u64, Error> {
        Ok(u64::from_le(self.word::<AtomicU64>(offset)?.load(Ordering::Acquire)))
    }

    /// Stores a little-endian qword at `offset`, with release ordering.
    ///
    /// # Errors
    /// As [`Self::load_u64`].
    pub fn store_u64(&self, offset: u64, value: u64) -> Result<(), Error> {
        self.word::<AtomicU64>(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    /// Where the memory lies in this process, for C callers and for code that does its own
    /// volatile access. Using it is as unsafe as any pointer to memory that others change.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("size", &self.size()).finish_non_exhaustive()
    }
}

/// Bytes behind an fd that may be a memfd or a dma-buf.
fn length(fd: &OwnedFd) -> Result<u64, Errno> {
    match u64::try_from(rustix::fs::fstat(fd)?.st_size) {
        // Old kernels tell a dma-buf's size only to those who seek its end.
        Ok(0) => rustix::fs::seek(fd, SeekFrom::End(0)),
        Ok(length) => Ok(length),
        Err(_) => Ok(0),
    }
}

/// How many of `length` bytes from `at` on lie before the next multiple of 8.
fn bytes_to_alignment(at: usize, length: usize) -> usize {
    (at.wrapping_neg() % 8).min(length)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn mapping(offset: u64, size: u64) -> Mapping {
        let fd = memfd_create("map-test", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&fd, offset + size).expect("size");
        Mapping::new(&fd, offset, size).expect("map")
    }

    #[test]
    fn memory_that_is_not_there_is_not_mapped() {
        let fd = memfd_create("map-test", MemfdFlags::CLOEXEC).expect("memfd");
        let short = |offset, size| {
            let error = Mapping::new(&fd, offset, size).expect_err("it is too short");
            assert_eq!(error.errno(), Errno::PROTO.raw_os_error(), "{error}");
        };
        short(0, 4096);
        ftruncate(&fd, 8192).expect("size");
        short(0, 8193);
        short(4096, 8192);
        short(u64::MAX - 4095, 4096);
        short(4096, u64::MAX);
        let all = Mapping::new(&fd, 4096, 4096).expect("it is as long as that");
        assert_eq!(all.size(), 4096);
        // What has no length at all is no memory either.
        let (reader, _writer) = rustix::pipe::pipe().expect("pipe");
        Mapping::new(&reader, 0, 4096).expect_err("a pipe");
    }

    #[test]
    fn copies_of_every_alignment_and_length_come_back() {
        let map = mapping(4096, 4096);
        for offset in 0..17_u8 {
            for length in 0..40_u8 {
                map.fill(0xee);
                let bytes: Vec<u8> = (1..=length).collect();
                map.write_at(offset.into(), &bytes).expect("inside");
                let mut around = [0; 64];
                map.read_at(0, &mut around).expect("inside");
                let (start, end) = (usize::from(offset), usize::from(offset + length));
                assert_eq!(&around[start..end], &bytes);
                assert!(around[..start].iter().chain(&around[end..]).all(|b| *b == 0xee));
                assert_eq!(map.read_vec(offset.into(), bytes.len()).expect("inside"), bytes);
            }
        }
    }

    #[test]
    fn nothing_beyond_the_end_is_touched() {
        let map = mapping(0, 4096);
        let outside = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::OutOfRange { .. })), "{result:?}");
        };
        outside(map.write_at(4095, &[1, 2]));
        outside(map.write_at(u64::MAX, &[1]));
        outside(map.read_at(4097, &mut []));
        outside(map.read_at(1, &mut [0; 4096]));
        outside(map.load_u32(4096).map(drop));
        outside(map.store_u64(u64::MAX - 3, 1));
        outside(map.write_dwords(4092, &[1, 2]));
        outside(map.read_vec(0, usize::MAX).map(drop));
        assert_eq!(map.load_u32(4092).expect("inside"), 0, "a refused write wrote nothing");
        map.write_at(4096, &[]).expect("nothing at the end is inside");
    }

    #[test]
    fn words_are_little_endian_and_aligned() {
        let map = mapping(0, 4096);
        map.write_dwords(8, &[0x0403_0201, 0x0807_0605]).expect("inside");
        assert_eq!(map.read_vec(8, 8).expect("inside"), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(map.load_u64(8).expect("aligned"), 0x0807_0605_0403_0201);
        map.store_u32(12, 0xaabb_ccdd).expect("aligned");
        assert_eq!(map.load_u32(12).expect("aligned"), 0xaabb_ccdd);
        assert!(matches!(map.load_u32(2), Err(Error::Misaligned { offset: 2, alignment: 4 })));
        assert!(matches!(map.store_u64(4, 0), Err(Error::Misaligned { offset: 4, alignment: 8 })));
    }
}
