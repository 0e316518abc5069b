//! Syncobjs: the kernel's, each under a handle of its own.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm::control::Device as _;
use drm::control::syncobj::Handle;
use rustix::io::Errno;

use super::card::errno;
use super::fence::Fence;
use super::{FileShared, fds, os, sys};
use crate::DeviceError;

/// A container of a fence or of a timeline of fences.
#[derive(Clone, Debug)]
pub struct Syncobj(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<FileShared>,
    handle: Handle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // ENODEV after an unplug.
        let _ = self.file.card.destroy_syncobj(self.handle);
    }
}

impl Syncobj {
    pub(super) fn create(file: &Arc<FileShared>, signalled: bool) -> Result<Self, DeviceError> {
        let made = file.card.create_syncobj(signalled);
        let handle = made.map_err(|error| file.error(errno(&error), "creating a syncobj"))?;
        Ok(Self(Arc::new(Shared { file: Arc::clone(file), handle })))
    }

    pub(super) fn handle(&self) -> u32 {
        self.0.handle.into()
    }

    pub(super) fn raw(&self) -> Handle {
        self.0.handle
    }

    pub(super) fn reset(&self) {
        // It cannot fail for a handle that is there, but for an unplug.
        let _ = self.0.file.card.syncobj_reset(&[self.0.handle]);
    }

    pub(super) fn signal(&self, point: u64) -> Result<(), DeviceError> {
        let Shared { file, handle } = &*self.0;
        let done = match point {
            0 => file.card.syncobj_signal(&[*handle]),
            point => file.card.syncobj_timeline_signal(&[*handle], &[point]),
        };
        done.map_err(|error| file.error(errno(&error), "signalling a syncobj"))
    }

    pub(super) fn put(&self, point: u64, fence: &Fence) -> Result<(), DeviceError> {
        let Shared { file, handle } = &*self.0;
        let failed = |errno| file.error(errno, "putting a fence into a syncobj");
        if point == 0 {
            return sys::syncobj_put(file.card.as_fd(), (*handle).into(), fence.file()?)
                .map_err(failed);
        }
        // Kernels before 6.16 take a sync_file for a binary syncobj only.
        let binary = Self::create(file, false)?;
        binary.put(0, fence)?;
        file.card
            .syncobj_timeline_transfer(binary.0.handle, *handle, 0, point)
            .map_err(|error| failed(errno(&error)))
    }

    /// The fence for a point; `None` if there is none yet.
    pub(super) fn fence(&self, point: u64) -> Option<Fence> {
        match self.try_fence(point) {
            Ok(fence) => fence,
            Err(error) => Some(Fence::broken(error)),
        }
    }

    fn try_fence(&self, point: u64) -> Result<Option<Fence>, DeviceError> {
        let Shared { file, handle } = &*self.0;
        let missing = |error: std::io::Error| match errno(&error) {
            Errno::INVAL | Errno::NOENT => Ok(None),
            errno => Err(file.error(errno, "taking a fence from a syncobj")),
        };
        let exported = match point {
            0 => file.card.syncobj_to_fd(*handle, true),
            point => {
                let binary = Self::create(file, false)?;
                let moved = file.card.syncobj_timeline_transfer(*handle, binary.0.handle, point, 0);
                moved.and_then(|()| file.card.syncobj_to_fd(binary.0.handle, true))
            }
        };
        exported.map(|fd| Some(Fence::new(fd))).or_else(missing)
    }

    /// The last point that has signalled, or that was put in.
    pub(super) fn point(&self, submitted: bool) -> u64 {
        let Shared { file, handle } = &*self.0;
        let mut points = [0];
        // The points stay 0 when the device is gone.
        let _ = file.card.syncobj_timeline_query(&[*handle], &mut points, submitted);
        let [point] = points;
        point
    }

    pub(super) fn export(&self) -> Result<OwnedFd, DeviceError> {
        let Shared { file, handle } = &*self.0;
        let made = file.card.syncobj_to_fd(*handle, false);
        made.map_err(|error| file.error(errno(&error), "exporting a syncobj"))
    }

    pub(super) fn import(file: &Arc<FileShared>, fd: BorrowedFd<'_>) -> Result<Self, DeviceError> {
        if !fds::is_syncobj(fd) {
            return Err(DeviceError::NotASyncobj);
        }
        let handle = file.card.fd_to_syncobj(fd, false).map_err(|error| match errno(&error) {
            Errno::NOMEM => DeviceError::OutOfMemory,
            Errno::NODEV => file.error(Errno::NODEV, "importing a syncobj"),
            _ => DeviceError::NotASyncobj,
        })?;
        Ok(Self(Arc::new(Shared { file: Arc::clone(file), handle })))
    }
}

/// Whether the condition holds now: which of them was first, `None` if it does not.
///
/// # Errors
/// [`DeviceError::NoFence`] without `wait.for_submit` and `wait.available` if one holds none.
pub(super) fn test(
    file: &FileShared,
    wait: &crate::SyncobjWait<'_, Syncobj>,
) -> Result<Option<u32>, DeviceError> {
    let handles: Vec<_> = wait.objects.iter().map(|(syncobj, _)| syncobj.raw()).collect();
    let points: Vec<_> = wait.objects.iter().map(|(_, point)| *point).collect();
    let tested = file.card.syncobj_timeline_wait(
        &handles,
        &points,
        0,
        wait.all,
        wait.for_submit,
        wait.available,
    );
    match tested {
        Ok(_) if wait.all => Ok(Some(0)),
        Ok(first) => Ok(Some(first)),
        Err(error) => match errno(&error) {
            Errno::TIME => Ok(None),
            Errno::INVAL => Err(DeviceError::NoFence),
            errno => Err(os(errno, "waiting for syncobjs")),
        },
    }
}
