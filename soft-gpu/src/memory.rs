//! GPU virtual memory, as the streamer sees it.

use std::fmt;

/// The memory of one context. The CPU and other engines share it: what they write shows up in later
/// reads, so nothing read here may be trusted to be the same when read again.
///
/// Addresses are 48 bits wide; the streamer clears bits 63:48 before it calls. A range may span any
/// number of pages and mappings. A call that fails may have transferred a part of the range.
pub trait Memory {
    /// Copies from memory.
    ///
    /// # Errors
    /// Part of the range is not mapped.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryFault>;

    /// Copies to memory.
    ///
    /// # Errors
    /// Part of the range is not mapped.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryFault>;

    /// Replaces the dword at `address`, a multiple of 4, by what `op` makes of it, atomically with
    /// regard to every other user of the memory. `op` may be called more than once. Answers the
    /// value replaced.
    ///
    /// # Errors
    /// The dword is not mapped.
    fn update_u32(&self, address: u64, op: &mut dyn FnMut(u32) -> u32) -> Result<u32, MemoryFault>;

    /// Replaces the qword at `address`, a multiple of 8, as [`Self::update_u32`] does.
    ///
    /// # Errors
    /// The qword is not mapped.
    fn update_u64(&self, address: u64, op: &mut dyn FnMut(u64) -> u64) -> Result<u64, MemoryFault>;
}

/// An access to memory that is not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryFault {
    /// The first byte that could not be accessed, or the start of the access.
    pub address: u64,
    /// It was a write.
    pub write: bool,
}

impl fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.write { "write to" } else { "read from" };
        write!(f, "{access} 0x{:x}, which is not mapped", self.address)
    }
}

impl std::error::Error for MemoryFault {}
