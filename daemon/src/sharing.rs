//! What leaves and enters a session as an fd: memory, fences, syncobjs.
//!
//! An fd that came in stays in the packet's list until its request is over, so that it is closed
//! whatever happens ([`crate::fds::dispose`]); one that turned out to be ours is closed at once.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use gpu_broker_core::Exported;
use gpu_broker_device::{Device, DeviceFile, FenceState as DeviceFence};
use gpu_broker_protocol::message::{
    BufferCreated, BufferMapped, BufferOf, Fence, FenceMerge, FenceState, FenceStatusQuery,
};
use gpu_broker_protocol::object::{
    BufferExport, BufferExported, BufferFenceExport, BufferFenceImport, BufferImport,
};
use gpu_broker_protocol::syncobj::{
    SyncobjExport, SyncobjExported, SyncobjImport, SyncobjOf, SyncobjTimelineSignal,
};
use gpu_broker_protocol::{Refusal, Reply, Violation};

use crate::hands::refusal_of;
use crate::packet::Fds;
use crate::requests::{Fault, Open};

impl<D: Device> Open<D> {
    /// An fd to map the buffer with.
    pub(crate) fn buffer_map(&self, request: &BufferOf) -> Result<BufferMapped<OwnedFd>, Refusal> {
        let file = &self.session.hands().file;
        self.session.buffer_map(request.buffer, |buffer, size| {
            let (fd, offset) = file.share_buffer(buffer).map_err(|error| refusal_of(&error))?;
            Ok(BufferMapped { offset, size, fd })
        })?
    }

    /// PRIME_HANDLE_TO_FD.
    pub(crate) fn buffer_export(
        &self,
        request: &BufferExport,
    ) -> Result<BufferExported<OwnedFd>, Refusal> {
        self.session.buffer_export(request)?;
        let file = &self.session.hands().file;
        self.session.with_buffer(request.buffer, |buffer, _| {
            let (fd, _) = file.share_buffer(buffer).map_err(|error| refusal_of(&error))?;
            Ok(BufferExported { fd })
        })?
    }

    /// PRIME_FD_TO_HANDLE.
    pub(crate) fn buffer_import(
        &self,
        request: &BufferImport<usize>,
        fds: &Fds,
    ) -> Result<BufferCreated, Fault> {
        let fd = fd_at(fds, request.fd)?;
        let file = &self.session.hands().file;
        let (buffer, size) = file.import_buffer(fd).map_err(|error| refusal_of(&error))?;
        Ok(self.session.buffer_insert(buffer, size)?)
    }

    /// SYNCOBJ_HANDLE_TO_FD: the object itself, or a fence of it.
    pub(crate) fn syncobj_export(
        &mut self,
        request: &SyncobjExport,
    ) -> Result<SyncobjExported<OwnedFd>, Refusal> {
        let exported = self.session.syncobj_export(request)?;
        let file = &self.session.hands().file;
        let fd = match exported {
            Exported::Object(object) => file.export_syncobj(&object),
            Exported::Fence(fence) => {
                self.fences.reserve(file, self.fences_max)?;
                let fd = file.export_fence(&fence);
                if fd.is_ok() {
                    self.fences.record(file, fence);
                }
                fd
            }
        };
        fd.map(|fd| SyncobjExported { fd }).map_err(|error| refusal_of(&error))
    }

    /// SYNCOBJ_FD_TO_HANDLE: a handle for the object, or a fence into an object there is.
    pub(crate) fn syncobj_import(
        &self,
        request: &SyncobjImport<usize>,
        fds: &mut Fds,
    ) -> Result<SyncobjOf, Fault> {
        let session = &self.session;
        let &SyncobjImport { syncobj, flags, point, fd } = request;
        let is_fence = session.syncobj_import_is_fence(flags, point)?;
        if is_fence {
            let fence = self.fence(fds, fd)?;
            fds.clear();
            session.syncobj_import_fence(syncobj, flags, point, &fence)?;
            return Ok(SyncobjOf { syncobj });
        }
        let object = session.hands().file.import_syncobj(fd_at(fds, fd)?);
        let object = object.map_err(|error| refusal_of(&error))?;
        fds.clear();
        Ok(SyncobjOf { syncobj: session.syncobj_insert(object)? })
    }

    pub(crate) fn syncobj_timeline_signal(
        &self,
        request: &SyncobjTimelineSignal,
    ) -> Result<Reply<OwnedFd>, Refusal> {
        self.session.syncobj_timeline_signal(request).map(|()| Reply::SyncobjTimelineSignal)
    }

    pub(crate) fn fence_status(
        &self,
        query: &FenceStatusQuery<usize>,
        fds: &mut Fds,
    ) -> Result<FenceState, Fault> {
        let file = &self.session.hands().file;
        let fence = self.fence(fds, query.fd)?;
        fds.clear();
        Ok(match file.fence_state(&fence) {
            DeviceFence::Pending => FenceState::Pending,
            DeviceFence::Signalled => FenceState::Signalled,
            DeviceFence::Failed(errno) => FenceState::Failed(errno),
        })
    }

    pub(crate) fn fence_merge(
        &mut self,
        merge: &FenceMerge<usize>,
        fds: &mut Fds,
    ) -> Result<Fence<OwnedFd>, Fault> {
        let first = self.fence(fds, merge.first)?;
        let second = self.fence(fds, merge.second)?;
        fds.clear();
        let file = &self.session.hands().file;
        self.fences.reserve(file, self.fences_max)?;
        let merged = file.merge_fences(&first, &second);
        let fd = file.export_fence(&merged).map_err(|error| refusal_of(&error))?;
        self.fences.record(file, merged);
        Ok(Fence { fd })
    }

    /// DMA_BUF_IOCTL_EXPORT_SYNC_FILE.
    pub(crate) fn buffer_fence_export(
        &mut self,
        request: &BufferFenceExport,
    ) -> Result<Fence<OwnedFd>, Refusal> {
        let all = self.session.buffer_fences(request.buffer, request.flags)?;
        let file = &self.session.hands().file;
        let fence =
            self.session.with_buffer(request.buffer, |buffer, _| file.buffer_fence(buffer, all))?;
        let fence = fence.map_err(|error| refusal_of(&error))?;
        self.fences.reserve(file, self.fences_max)?;
        let fd = file.export_fence(&fence).map_err(|error| refusal_of(&error))?;
        self.fences.record(file, fence);
        Ok(Fence { fd })
    }

    /// DMA_BUF_IOCTL_IMPORT_SYNC_FILE.
    pub(crate) fn buffer_fence_import(
        &self,
        request: &BufferFenceImport<usize>,
        fds: &mut Fds,
    ) -> Result<Reply<OwnedFd>, Fault> {
        let all = self.session.buffer_fences(request.buffer, request.flags)?;
        let fence = self.fence(fds, request.fd)?;
        fds.clear();
        let file = &self.session.hands().file;
        let add = |buffer: &_, _| file.add_buffer_fence(buffer, all, &fence);
        let added = self.session.with_buffer(request.buffer, add)?;
        added.map_err(|error| refusal_of(&error))?;
        Ok(Reply::BufferFenceImport)
    }

    fn fence(&self, fds: &Fds, position: usize) -> Result<<D::File as DeviceFile>::Fence, Fault> {
        let fd = fd_at(fds, position)?;
        let file = &self.session.hands().file;
        file.import_fence(fd).map_err(|error| refusal_of(&error).into())
    }
}

fn fd_at(fds: &Fds, position: usize) -> Result<BorrowedFd<'_>, Violation> {
    fds.get(position).map(|fd| fd.as_fd()).ok_or(Violation::FdCount)
}
