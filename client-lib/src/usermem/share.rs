//! What the blocking and the asynchronous client have in common: memory that can be registered,
//! and the right to use it while the GPU does not.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd};

use bytemuck::Pod;
use gpu_broker_protocol::userptr::flag;
use rustix::io::Errno;

use super::adopt::AdoptedMemory;
use super::held::Hold;
use super::memory::UserMemory;
use super::range::failed;
use crate::error::Error;
use crate::map::SharedBytes;
use sealed::{INSIDE, Inside};

/// Memory that can be given to the GPU: [`UserMemory`] and [`AdoptedMemory`].
pub trait Shareable: sealed::Sealed {}

impl Shareable for UserMemory {}
impl Shareable for AdoptedMemory {}

pub(crate) mod sealed {
    use super::{BorrowedFd, Errno, SharedBytes};

    /// Whoever has a bound on the trait could call its methods; without one of these they cannot.
    #[derive(Clone, Copy, Debug)]
    pub struct Inside(());

    /// For the modules that register memory, which keep slices and other access apart.
    pub(crate) const INSIDE: Inside = Inside(());

    /// What registering needs to know.
    pub trait Sealed: std::fmt::Debug {
        /// The memfd, which holds the memory from its beginning on.
        fn fd(&self, inside: Inside) -> BorrowedFd<'_>;
        /// The memory, for access through atomics.
        fn shared(&self, inside: Inside) -> &SharedBytes;
        /// Moves the contents behind another memfd.
        fn detach(&mut self, inside: Inside) -> Result<(), Errno>;
        /// Whether the GPU may be allowed to write to it.
        fn is_writable(&self, inside: Inside) -> bool;
    }
}

impl sealed::Sealed for UserMemory {
    fn fd(&self, _: Inside) -> BorrowedFd<'_> {
        self.range().fd()
    }

    fn shared(&self, _: Inside) -> &SharedBytes {
        self.range().shared()
    }

    fn detach(&mut self, _: Inside) -> Result<(), Errno> {
        self.range_mut().detach()
    }

    fn is_writable(&self, _: Inside) -> bool {
        true
    }
}

impl sealed::Sealed for AdoptedMemory {
    fn fd(&self, _: Inside) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn shared(&self, _: Inside) -> &SharedBytes {
        Self::shared(self)
    }

    fn detach(&mut self, _: Inside) -> Result<(), Errno> {
        Self::detach(self)
    }

    fn is_writable(&self, _: Inside) -> bool {
        Self::is_writable(self)
    }
}

/// What the GPU may do with registered memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuAccess {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read. A batch that writes to it faults, and its context pays for it.
    ReadOnly,
}

impl GpuAccess {
    pub(crate) const fn flags(self) -> u32 {
        match self {
            Self::ReadWrite => 0,
            Self::ReadOnly => flag::READ_ONLY,
        }
    }

    /// The flags with which memory can be registered like this.
    ///
    /// # Errors
    /// EFAULT for write access to what the program itself may not write, as the kernel says.
    pub(crate) fn check<M: Shareable>(self, memory: &M) -> Result<u32, Error> {
        if self == Self::ReadWrite && !memory.is_writable(INSIDE) {
            return Err(failed("letting the GPU write to read-only memory")(Errno::FAULT));
        }
        Ok(self.flags())
    }
}

/// The daemon's word that no work uses the memory it was asked about.
#[derive(Debug)]
pub(crate) struct Acknowledged(());

impl Acknowledged {
    /// For the reply to an INVALIDATE of the memory, sent while it was held, and for nothing else.
    pub(crate) const fn by_reply() -> Self {
        Self(())
    }
}

/// Memory that is registered but that the GPU does not use: this process has it for itself.
///
/// While this lives, submissions of this process that name the buffer are refused with
/// [`Error::HeldByCpu`]. Afterwards the GPU finds what was written.
///
/// This rests on i915's rule that a submission names every buffer that its batch touches. A batch
/// that breaks it, with an address left over from an earlier submission, writes under the slices as
/// a write to `/proc/self/mem` would; no library can see what is in a batch.
#[derive(Debug)]
pub struct CpuAccess<'a, M: Shareable = UserMemory> {
    memory: &'a mut M,
    _hold: Hold<'a>,
}

impl<'a, M: Shareable> CpuAccess<'a, M> {
    /// The acknowledgement must be of this memory's one registration, and have been asked for
    /// after the hold was taken.
    pub(crate) fn new(memory: &'a mut M, hold: Hold<'a>, _acknowledged: Acknowledged) -> Self {
        Self { memory, _hold: hold }
    }
}

impl CpuAccess<'_> {
    /// The memory as values of a type that any bits are a value of.
    #[must_use]
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        // The argument of `UserMemory::as_slice` holds for as long as `self` lives: the GPU had
        // finished, and no submission can name the buffer again. `SharedBytes` are lent out by the
        // buffer, which is borrowed exclusively.
        self.memory.as_slice()
    }

    /// The memory as values that can be changed.
    #[must_use]
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        self.memory.as_mut_slice()
    }
}

/// A call failed, and what it would have used up is here.
pub struct Kept<T> {
    /// Why it failed.
    pub error: Error,
    /// What was given to the call.
    pub kept: T,
}

impl<T> Kept<T> {
    pub(crate) fn new(error: Error, kept: T) -> Box<Self> {
        Box::new(Self { error, kept })
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> std::error::Error for Kept<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<Box<Kept<T>>> for Error {
    /// Lets go of what was kept.
    fn from(kept: Box<Kept<T>>) -> Self {
        kept.error
    }
}
