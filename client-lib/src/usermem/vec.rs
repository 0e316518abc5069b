//! A vector whose elements can be given to the GPU.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use rustix::io::Errno;

use super::memory::UserMemory;
use super::range::failed;
use crate::error::Error;

/// A vector in [`UserMemory`]: filled like a `Vec`, then given to the GPU where it lies.
///
/// Unlike a `Vec` it says so when there is no memory, instead of ending the program.
///
/// ```
/// # fn main() -> Result<(), gpu_broker_client::Error> {
/// use gpu_broker_client::UserVec;
///
/// let mut pixels: UserVec<u32> = UserVec::with_capacity(1024)?;
/// pixels.extend_from_slice(&[1, 2, 3])?;
/// pixels.push(4)?;
/// pixels[0] = 7;
/// assert_eq!(*pixels, [7, 2, 3, 4]);
/// assert_eq!(pixels.iter().sum::<u32>(), 16);
/// # Ok(())
/// # }
/// ```
pub struct UserVec<T: Pod> {
    memory: Option<UserMemory>,
    length: usize,
    values: PhantomData<T>,
}

impl<T: Pod> UserVec<T> {
    /// An empty vector, which has no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: None, length: 0, values: PhantomData }
    }

    /// An empty vector with memory for `capacity` values and more, up to the end of a page.
    ///
    /// # Errors
    /// As [`UserMemory::new`].
    pub fn with_capacity(capacity: usize) -> Result<Self, Error> {
        let mut vector = Self::new();
        vector.reserve(capacity)?;
        Ok(vector)
    }

    /// The first `length` values of memory, which is at least as large.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn from_memory(memory: UserMemory, length: usize) -> Result<Self, Error> {
        if length > memory.as_slice::<T>().len() {
            let bytes = (length as u64).saturating_mul(size_of::<T>() as u64);
            return Err(Error::OutOfRange { offset: 0, length: bytes, size: memory.size() });
        }
        Ok(Self { memory: Some(memory), length, values: PhantomData })
    }

    /// The memory, to be registered; `None` if there never was any. [`Self::from_memory`] with the
    /// vector's length makes a vector of it again.
    #[must_use]
    pub fn into_memory(self) -> Option<UserMemory> {
        self.memory
    }

    /// How many values fit without more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.as_slice::<T>().len())
    }

    /// Sees to it that `more` values fit.
    ///
    /// # Errors
    /// ENOMEM; as [`UserMemory::grow`].
    pub fn reserve(&mut self, more: usize) -> Result<(), Error> {
        let none = || failed("growing a vector to share with the GPU")(Errno::NOMEM);
        let wanted = self.length.checked_add(more).ok_or_else(none)?;
        let capacity = self.capacity();
        if wanted <= capacity {
            return Ok(());
        }
        // Twice as large, so that pushing one by one moves little.
        let wanted = wanted.max(capacity.saturating_mul(2));
        let bytes = (wanted as u64).checked_mul(size_of::<T>() as u64).ok_or_else(none)?;
        match &mut self.memory {
            Some(memory) => memory.grow(bytes)?,
            memory @ None => *memory = Some(UserMemory::new(bytes)?),
        }
        Ok(())
    }

    /// Adds a value at the end.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn push(&mut self, value: T) -> Result<(), Error> {
        self.extend_from_slice(&[value])
    }

    /// Adds values at the end.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn extend_from_slice(&mut self, values: &[T]) -> Result<(), Error> {
        self.reserve(values.len())?;
        let (old, end) = (self.length, self.length + values.len());
        if let Some(place) = self.all_mut().get_mut(old..end) {
            place.copy_from_slice(values);
            self.length = end;
        }
        Ok(())
    }

    /// Makes it `length` long, with copies of `value` where it was shorter.
    ///
    /// # Errors
    /// As [`Self::reserve`].
    pub fn resize(&mut self, length: usize, value: T) -> Result<(), Error> {
        self.reserve(length.saturating_sub(self.length))?;
        let old = self.length;
        if let Some(place) = self.all_mut().get_mut(old..length) {
            place.fill(value);
        }
        self.length = length;
        Ok(())
    }

    /// Forgets values from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// All values there is memory for.
    fn all_mut(&mut self) -> &mut [T] {
        self.memory.as_mut().map_or(&mut [], UserMemory::as_mut_slice)
    }
}

impl<T: Pod> Default for UserVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Pod> Deref for UserVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let all = self.memory.as_ref().map_or(&[][..], UserMemory::as_slice);
        all.get(..self.length).unwrap_or_default()
    }
}

impl<T: Pod> DerefMut for UserVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let length = self.length;
        self.all_mut().get_mut(..length).unwrap_or_default()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for UserVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
