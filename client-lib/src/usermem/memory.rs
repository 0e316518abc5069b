//! Memory of this process that can be given to the GPU, and is ordinary memory while it is not.
#![expect(unsafe_code, reason = "lends memory out as slices while it is shared with nobody")]

use std::os::fd::BorrowedFd;

use bytemuck::Pod;

use super::range::{Range, failed, whole_pages};
use crate::error::Error;

/// Zeroed memory of this process that [`Self::register`](Self::register) gives to the GPU without a
/// copy.
///
/// While it is not registered it is like any other memory: [`Self::as_slice`] and
/// [`Self::as_mut_slice`] lend it out. It is made of a memfd sealed against shrinking; from 2 MiB
/// on it is aligned to huge pages and asks for them.
///
/// Children of `fork` do not inherit it; using it there panics.
///
/// ```
/// # fn main() -> Result<(), gpu_broker_client::Error> {
/// let mut memory = gpu_broker_client::UserMemory::new(10_000)?;
/// assert_eq!(memory.size(), 12_288, "whole pages");
/// memory.as_mut_slice::<f32>()[7] = 0.5;
/// assert_eq!(memory.as_slice::<f32>()[..8], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UserMemory {
    range: Range,
}

impl UserMemory {
    /// Makes memory of `bytes`, rounded up to pages of 4096.
    ///
    /// # Errors
    /// [`Error::Io`]: EINVAL for none, ENOMEM, EMFILE.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        let doing = "making memory to share with the GPU";
        let size = whole_pages(bytes).map_err(failed(doing))?;
        Ok(Self { range: Range::allocate(size).map_err(failed(doing))? })
    }

    /// Makes it `bytes` large, rounded up to pages, unless it is larger already. What is new is
    /// zero. The memory may lie elsewhere then.
    ///
    /// # Errors
    /// [`Error::Io`]: ENOMEM, and the memory is as it was.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let doing = "growing memory to share with the GPU";
        let size = whole_pages(bytes).map_err(failed(doing))?;
        self.range.grow(size).map_err(failed(doing))
    }

    /// Bytes, a multiple of 4096.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.range.size() as u64
    }

    /// The memory as values of a type that any bits are a value of; a rest that is too short for
    /// one is left out.
    ///
    /// # Panics
    /// In the child of a fork, and for types aligned to more than a page.
    #[must_use]
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        // SAFETY: a `UserMemory` that can be had is not registered, so no other process has its
        // fd; the handle to it as `SharedBytes` is lent out by those who own one.
        typed(unsafe { self.range.slice() })
    }

    /// The memory as values that can be changed.
    ///
    /// # Panics
    /// As [`Self::as_slice`].
    #[must_use]
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`.
        let bytes = unsafe { self.range.slice_mut() };
        let length = whole_values::<T>(bytes.len());
        let (whole, _rest) = bytes.split_at_mut(length);
        if whole.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(whole) }
    }

    /// Where it lies, for C callers. Using the pointer is up to the rules of [`Self::as_slice`].
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.range.shared().as_ptr()
    }

    /// The memfd, which holds the memory from its beginning on, for those who register it
    /// themselves.
    ///
    /// # Safety
    /// From the first registration to the acknowledged invalidation after the last one is closed,
    /// the memory is not used as a slice.
    pub unsafe fn memfd(&self) -> BorrowedFd<'_> {
        self.range.fd()
    }

    pub(super) const fn range(&self) -> &Range {
        &self.range
    }

    pub(super) const fn range_mut(&mut self) -> &mut Range {
        &mut self.range
    }
}

fn typed<T: Pod>(bytes: &[u8]) -> &[T] {
    let (whole, _rest) = bytes.split_at(whole_values::<T>(bytes.len()));
    if whole.is_empty() { &[] } else { bytemuck::cast_slice(whole) }
}

/// How many of `bytes` make whole values; none of a type without a size.
const fn whole_values<T>(bytes: usize) -> usize {
    match bytes.checked_rem(size_of::<T>()) {
        Some(rest) => bytes - rest,
        None => 0,
    }
}
