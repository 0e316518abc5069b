//! Fences: sync_files of the kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, Errno};

use super::{fds, os, sys};
use crate::{DeviceError, FenceState};

/// EIO: what a fence that cannot be asked any more is taken to have ended with.
const EIO: i32 = 5;

/// Completion of a request, or of several.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Result<OwnedFd, DeviceError>>);

impl Fence {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self(Arc::new(Ok(file)))
    }

    /// Stands for a fence that there was no fd for. Whoever wants to use it is told why.
    pub(super) fn broken(error: DeviceError) -> Self {
        Self(Arc::new(Err(error)))
    }

    /// The sync_file.
    ///
    /// # Errors
    /// There was no fd for it.
    pub(super) fn file(&self) -> Result<BorrowedFd<'_>, DeviceError> {
        match &*self.0 {
            Ok(file) => Ok(file.as_fd()),
            Err(error) => Err(error.clone()),
        }
    }

    pub(super) fn state(&self) -> FenceState {
        match self.file().map(sys::fence_status) {
            Ok(Ok(0)) => FenceState::Pending,
            Ok(Ok(1..)) => FenceState::Signalled,
            Ok(Ok(error)) => FenceState::Failed(error.saturating_neg()),
            Ok(Err(_)) | Err(_) => FenceState::Failed(EIO),
        }
    }

    /// Whether it is a copy of the other: not only the same work, but the same fd.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Another fd of it.
    pub(super) fn export(&self) -> Result<OwnedFd, DeviceError> {
        let file = self.file()?;
        rustix::io::fcntl_dupfd_cloexec(file, 3).map_err(|errno| os(errno, "exporting a fence"))
    }

    /// As [`Self::export`], in the place of another fd.
    pub(super) fn export_to(&self, mut place: OwnedFd) -> Result<OwnedFd, DeviceError> {
        rustix::io::dup3(self.file()?, &mut place, DupFlags::CLOEXEC)
            .map_err(|errno| os(errno, "exporting a fence"))?;
        Ok(place)
    }

    /// The fence behind an fd.
    pub(super) fn import(fd: BorrowedFd<'_>) -> Result<Self, DeviceError> {
        if !fds::is_sync_file(fd) {
            return Err(DeviceError::NotAFence);
        }
        let file = rustix::io::fcntl_dupfd_cloexec(fd, 3);
        file.map(Self::new).map_err(|errno| os(errno, "importing a fence"))
    }

    pub(super) fn merge(first: &Self, second: &Self) -> Self {
        match merge(first, second) {
            Ok(file) => Self::new(file),
            Err(error) => Self::broken(error),
        }
    }

    /// One fence for all; `None` for none.
    pub(super) fn merge_all(fences: &[Self]) -> Result<Option<Self>, DeviceError> {
        let Some((first, others)) = fences.split_first() else { return Ok(None) };
        let mut merged = first.clone();
        for other in others {
            merged = Self::new(merge(&merged, other)?);
        }
        merged.file()?;
        Ok(Some(merged))
    }
}

/// An fd of nothing, which holds a place.
pub(super) fn reserve() -> Result<OwnedFd, DeviceError> {
    eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| os(errno, "exporting a fence"))
}

fn merge(first: &Fence, second: &Fence) -> Result<OwnedFd, DeviceError> {
    let merged = sys::fence_merge(first.file()?, second.file()?);
    merged.map_err(|errno: Errno| os(errno, "merging fences"))
}
