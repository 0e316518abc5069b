//! What all files of the device may take from the process together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DeviceError;

/// Bytes of the batch, and of commands outside of it, in one capture.
pub(super) const CAPTURE_BATCH_BYTES_MAX: u64 = 32 << 10;
/// Commands listed before the one that failed, and after it.
pub(super) const LISTED_BEFORE: usize = 16;
pub(super) const LISTED_AFTER: usize = 8;
/// Bytes of one flagged object in a capture.
pub(super) const CAPTURE_OBJECT_BYTES_MAX: u64 = 64 << 10;
/// Flagged objects in a capture.
pub(super) const CAPTURE_OBJECTS_MAX: usize = 32;
/// Bytes of all memory in a capture.
pub(super) const CAPTURE_BYTES_MAX: u64 = 256 << 10;

/// Objects of a submission that is not counted in [`Quota::uses_of_file`].
pub(super) const FEW_OBJECTS: usize = 64;

/// A number of things of which the process can have only so many.
#[derive(Debug)]
pub(crate) struct Quota {
    left: AtomicU64,
    refusal: DeviceError,
}

/// Things taken from a [`Quota`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Quota>, u64);

impl Quota {
    /// Mappings: seven eighths of `vm.max_map_count`, the rest being the program's, its stacks'
    /// and its heap's. Beyond it mmap fails, and so would the allocator.
    pub(crate) fn mappings() -> Arc<Self> {
        let count = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(65_530);
        Self::of(count / 8 * 7, DeviceError::OutOfMemory)
    }

    /// Bytes of addresses that mappings may take: half of what a process has on the machines with the
    /// fewest, 2^47. Beyond all of them mmap fails, and so would the allocator.
    pub(crate) fn addresses() -> Arc<Self> {
        Self::of(1 << 46, DeviceError::OutOfMemory)
    }

    /// Fds of buffers and of fences not signalled: three quarters of `RLIMIT_NOFILE` as it is now,
    /// the rest being for connections.
    pub(crate) fn fds() -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::of(limit.map_or(u64::MAX, |limit| limit / 4 * 3), DeviceError::OutOfFds)
    }

    /// Fds of syncobjs of one file; the protocol promises as many
    /// (`SYNCOBJ_EXPORTS_PER_SESSION_MAX` there).
    pub(crate) fn syncobj_fds_of_file() -> Arc<Self> {
        Self::of(256, DeviceError::OutOfFds)
    }

    /// Fds of syncobjs of all files, of those above: an eighth of `RLIMIT_NOFILE`. Unlike the
    /// others they can outlive the session that made them, in the hands of other processes.
    pub(crate) fn syncobj_fds() -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::of(limit.map_or(u64::MAX, |limit| limit / 8), DeviceError::OutOfFds)
    }

    /// Objects of all submissions of a file in flight, those of few objects not counted. Each may be an
    /// entry in its buffer's list of users, which later submissions look through.
    pub(crate) fn uses_of_file() -> Arc<Self> {
        Self::of(4 << 20, DeviceError::InFlight)
    }

    pub(crate) fn of(left: u64, refusal: DeviceError) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(left), refusal })
    }

    /// How many are left.
    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes one.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Permit, DeviceError> {
        self.take_some(1)
    }

    /// Takes so many.
    ///
    /// # Errors
    /// There are not as many left.
    pub(crate) fn take_some(self: &Arc<Self>, count: u64) -> Result<Permit, DeviceError> {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
        match taken {
            Ok(_) => Ok(Permit(Arc::clone(self), count)),
            Err(_) => Err(self.refusal.clone()),
        }
    }
}

impl Permit {
    pub(crate) fn is_of(&self, quota: &Arc<Quota>) -> bool {
        Arc::ptr_eq(&self.0, quota)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.left.fetch_add(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_refuses_beyond_its_limit_and_takes_back() {
        let quota = Quota::of(2, DeviceError::OutOfMemory);
        let first = quota.take().unwrap();
        let _second = quota.take().unwrap();
        assert_eq!(quota.take().unwrap_err(), DeviceError::OutOfMemory);
        drop(first);
        quota.take().unwrap();
    }
}
