//! An application's own memory on the GPU: i915's userptr over sealed memfds (rule table §14).

use serde::{Deserialize, Serialize};

use crate::ids::BufferId;

/// Flags of USERPTR_CREATE, numbered as `I915_USERPTR_*`.
pub mod flag {
    /// The GPU may not write the memory: a batch that does faults.
    pub const READ_ONLY: u32 = 0x1;
    /// The range is looked at now. It always is; the flag is accepted.
    pub const PROBE: u32 = 0x2;
    /// Without invalidation: ENODEV, always.
    pub const UNSYNCHRONIZED: u32 = 0x8000_0000;
    /// Everything else.
    pub const UNKNOWN: u32 = !(READ_ONLY | PROBE | UNSYNCHRONIZED);
}

/// i915 GEM_USERPTR: a buffer whose memory is a range of the application's memfd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserptrCreate<Fd> {
    /// From `memfd_create`, sealed against shrinking, not of huge pages. Open for writing unless
    /// READ_ONLY is set. The daemon does not need it to stay open.
    pub memfd: Fd,
    /// Where the range begins in the memfd, in bytes; a multiple of the page size.
    pub offset: u64,
    /// Bytes of the range; a positive multiple of the page size.
    pub length: u64,
    /// Bits of [`flag`].
    pub flags: u32,
}

/// Stands for the kernel's notifier: the pages of a range are about to become others (it will be
/// unmapped, punched, or used for something else). Concerns every buffer of the session over the
/// same memfd that overlaps the range, also those closed while work uses them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserptrInvalidate {
    /// Any buffer over the memfd.
    pub buffer: BufferId,
    /// Where the range begins in the memfd, in bytes; need not be aligned.
    pub offset: u64,
    /// Bytes of the range; it may reach beyond the memfd's end.
    pub length: u64,
    /// Nanoseconds to wait for work that uses the old pages; negative, or above
    /// [`crate::limits::USERPTR_INVALIDATE_MS_MAX`]: as long as that.
    pub timeout_ns: i64,
}
