//! Numbers that bound what this back end keeps and how long it waits.

use std::time::Duration;

/// How long, and how many times in a row, a device must answer as if it were wedged until that is
/// believed: in the middle of a reset it does for less than a second.
pub(super) const WEDGED_AFTER: Duration = Duration::from_secs(2);
pub(super) const WEDGED_ANSWERS: u32 = 4;

/// How often one that answers so is asked again by who wants a context of it.
pub(super) const WEDGED_RHYTHM: Duration = Duration::from_millis(50);

/// How long the kernel may take to let go of a device: until then it cannot be told whether the device
/// or its driver is gone.
pub(super) const GOING: Duration = Duration::from_secs(2);

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
