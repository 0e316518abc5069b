//! Buffers that other processes can map, and so can bring back through another file.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::fstat;

use super::buffer::{Body, refusal};
use crate::DeviceError;

/// What the kernel calls a file: device and inode number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// Of an open file.
    ///
    /// # Errors
    /// What fstat says.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, DeviceError> {
        let stat = fstat(fd).map_err(|errno| refusal(errno, "looking at a file"))?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

/// The buffers of a device whose memfd was handed out, by that file. An entry goes with its buffer,
/// before the memfd does: the number of a file that is there was not used again.
#[derive(Debug, Default)]
pub(super) struct SharedBuffers(Mutex<HashMap<FileId, Weak<Body>>>);

impl SharedBuffers {
    pub(super) fn insert(&self, file: FileId, buffer: &Arc<Body>) {
        self.lock().insert(file, Arc::downgrade(buffer));
    }

    pub(super) fn remove(&self, file: FileId) {
        self.lock().remove(&file);
    }

    /// The buffer behind an fd.
    ///
    /// # Errors
    /// [`DeviceError::NotABuffer`] if it is none of these.
    pub(super) fn find(&self, fd: impl AsFd) -> Result<Arc<Body>, DeviceError> {
        let file = FileId::of(fd.as_fd()).map_err(|_| DeviceError::NotABuffer)?;
        // The lock is open again before anybody can drop what is found.
        let found = self.lock().get(&file).and_then(Weak::upgrade);
        found.ok_or(DeviceError::NotABuffer)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Weak<Body>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
