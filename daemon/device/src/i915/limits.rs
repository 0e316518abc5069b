//! Numbers that bound what this back end keeps and how long it waits.

use std::time::Duration;

/// Ends of fences taken from the kernel at once.
pub(super) const EVENTS_PER_WAIT: usize = 64;

/// How often something is looked at that no fd tells of: buffers of the application's own memory,
/// and everything on kernels before 6.0, where a dma-buf does not give its fences.
pub(super) const LOOK_RHYTHM: Duration = Duration::from_millis(2);

/// Times a submission is repeated when the memory of the application moved meanwhile. Memory that
/// is moved in a loop must not keep its session's lane busy for ever.
pub(super) const MOVED_TRIES_MAX: u32 = 64;

/// Relocations reach so far from an object, in bytes: their distance is a signed 32-bit number.
pub(super) const RELOCATION_REACH: u64 = 1 << 31;
