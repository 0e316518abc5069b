//! ioctls on fds that the broker made and the program holds: fences and buffers.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use gpu_broker_client::FenceState;
use gpu_broker_client::protocol::message::{FenceMerge, FenceStatusQuery};
use gpu_broker_client::protocol::object::{
    BufferFenceExport, BufferFenceImport, BufferSetDomain, domain,
};
use gpu_broker_client::protocol::version::feature;
use gpu_broker_client::protocol::{BufferId, Reply, Request};
use gpu_broker_uapi::sync::{
    DMA_BUF_SYNC_END, DMA_BUF_SYNC_RW, DMA_BUF_SYNC_WRITE, dma_buf_export_sync_file,
    dma_buf_import_sync_file, dma_buf_sync, sync_fence_info, sync_file_info, sync_merge_data,
};

use super::{ask, ask_for_access, reply, share};
use crate::arg::{Arg, at, put};
use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::user;
use crate::verdict::Verdict;

/// Type byte of the ioctls on a fence.
pub(crate) const SYNC_FILE: u32 = b'>' as u32;
/// Type byte of the ioctls on a buffer.
pub(crate) const DMA_BUF: u32 = b'b' as u32;
/// Bytes of the names in the structures of fences.
const NAME_BYTES: usize = 32;

/// Decides an ioctl on what may be a fence or a buffer of the broker's.
pub(super) fn handle(fd: RawFd, request: u32, argument: u64) -> Verdict<c_int> {
    if node::minor_of(fd).is_some() {
        return Verdict::Refused(Errno(libc::ENOTTY));
    }
    // A real fence or buffer, in a program that has no session, is the kernel's to answer for.
    let Some(session) = node::any() else { return Verdict::NotOurs };
    let Ok(fd) = node::borrow(fd) else { return Verdict::NotOurs };
    match (request >> 8 & 0xff, request & 0xff) {
        (SYNC_FILE, 3) if is_socket(fd) => merge(&session, fd, argument).into(),
        (SYNC_FILE, 4) if is_socket(fd) => info(&session, fd, argument).into(),
        (DMA_BUF, 0) if is_memory(fd) => sync(&session, fd, argument).into(),
        (DMA_BUF, 1) if is_memory(fd) => Verdict::Ours(0),
        // As of a kernel that does not have them, which programs know how to live with.
        (DMA_BUF, 2 | 3) if is_memory(fd) && !has_fences(&session) => {
            Verdict::Refused(Errno(libc::ENOTTY))
        }
        (DMA_BUF, 2) if is_memory(fd) => export_fence(&session, fd, argument).into(),
        (DMA_BUF, 3) if is_memory(fd) => import_fence(&session, fd, argument).into(),
        _ => Verdict::NotOurs,
    }
}

fn has_fences(session: &Node) -> bool {
    session.connection.hello().features & feature::BUFFER_FENCES != 0
}

fn kind(fd: BorrowedFd<'_>) -> u32 {
    rustix::fs::fstat(fd).map_or(0, |stat| stat.st_mode & libc::S_IFMT)
}

fn is_socket(fd: BorrowedFd<'_>) -> bool {
    kind(fd) == libc::S_IFSOCK
}

fn is_memory(fd: BorrowedFd<'_>) -> bool {
    kind(fd) == libc::S_IFREG && rustix::fs::fcntl_get_seals(fd).is_ok()
}

fn merge(session: &Node, first: BorrowedFd<'_>, argument: u64) -> Outcome<c_int> {
    type M = sync_merge_data;
    let mut arg = Arg::copy(argument, size_of::<M>())?;
    if arg.u32(at!(M, flags)) != 0 || arg.u32(at!(M, pad)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let second = node::borrow(arg.i32(at!(M, fd2))).map_err(|_| Errno(libc::ENOENT))?;
    let request = Request::FenceMerge(FenceMerge { first, second });
    let merged = reply!(session.connection.request(request)?, Reply::FenceMerge(m) => m.fd)?;
    arg.set_i32(at!(M, fence), merged.into_raw_fd());
    arg.write_back(argument, size_of::<M>())?;
    Ok(0)
}

fn info(session: &Node, fd: BorrowedFd<'_>, argument: u64) -> Outcome<c_int> {
    type I = sync_file_info;
    type F = sync_fence_info;
    let mut arg = Arg::copy(argument, size_of::<I>())?;
    if arg.u32(at!(I, flags)) != 0 || arg.u32(at!(I, pad)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let request = Request::FenceStatus(FenceStatusQuery { fd });
    let state = reply!(session.connection.request(request)?, Reply::FenceStatus(state) => state)?;
    let status = match state {
        FenceState::Pending => 0,
        FenceState::Signalled => 1,
        FenceState::Failed(errno) => -errno,
    };
    let room = arg.u32(at!(I, num_fences));
    if room > 0 {
        let mut fence = [0; size_of::<F>()];
        put(&mut fence, at!(F, obj_name), b"i915");
        put(&mut fence, at!(F, driver_name), b"i915");
        put(&mut fence, at!(F, status), &i32::to_ne_bytes(status));
        user::write(arg.u64(at!(I, sync_fence_info)), &fence)?;
    }
    arg.set_i32(at!(I, status), status);
    arg.set_u32(at!(I, num_fences), 1);
    arg.write_back(argument, size_of::<I>())?;
    // The name, which the structure's first bytes are.
    let mut name = [0; NAME_BYTES];
    put(&mut name, 0, b"i915");
    user::write(argument, &name)?;
    Ok(0)
}

/// DMA_BUF_IOCTL_SYNC: the CPU begins or ends looking at a buffer.
fn sync(session: &Node, fd: BorrowedFd<'_>, argument: u64) -> Outcome<c_int> {
    let flags = Arg::copy(argument, size_of::<dma_buf_sync>())?.u64(0);
    let (end, write) = (u64::from(DMA_BUF_SYNC_END), u64::from(DMA_BUF_SYNC_WRITE));
    if flags & !(end | u64::from(DMA_BUF_SYNC_RW)) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    if flags & end == 0 {
        wait_for(session, fd, flags & write != 0)?;
    }
    Ok(0)
}

/// Waits until the GPU has written a buffer, or no longer uses it.
fn wait_for(session: &Node, fd: BorrowedFd<'_>, write: bool) -> Outcome<()> {
    let domain = domain::CPU;
    about(session, fd, |buffer| {
        let write_domain = if write { domain } else { 0 };
        let request = BufferSetDomain { buffer, read_domains: domain, write_domain };
        ask_for_access(session, buffer, write, Request::BufferSetDomain(request)).map(drop)
    })
}

/// The buffer behind an fd, and whether the handle was made for this.
fn borrowed(session: &Node, fd: BorrowedFd<'_>) -> Outcome<(BufferId, bool)> {
    let before = node::with_buffers(session.id, |buffers| buffers.count())?;
    let made = share::import(session, fd)?;
    let after = node::with_buffers(session.id, |buffers| buffers.count())?;
    Ok((made.buffer, after > before))
}

/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE: the work on a buffer as a fence.
fn export_fence(session: &Node, fd: BorrowedFd<'_>, argument: u64) -> Outcome<c_int> {
    type S = dma_buf_export_sync_file;
    let mut arg = Arg::copy(argument, size_of::<S>())?;
    let flags = arg.u32(at!(S, flags));
    if flags == 0 || flags & !DMA_BUF_SYNC_RW != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let export = |buffer| Request::BufferFenceExport(BufferFenceExport { buffer, flags });
    let exported = about(session, fd, |buffer| ask(session, export(buffer)))?;
    let fence = reply!(exported, Reply::BufferFenceExport(fence) => fence.fd)?;
    arg.set_i32(at!(S, fd), fence.into_raw_fd());
    arg.write_back(argument, size_of::<S>())?;
    Ok(0)
}

/// DMA_BUF_IOCTL_IMPORT_SYNC_FILE: a fence that others are to wait for before they use a buffer.
fn import_fence(session: &Node, fd: BorrowedFd<'_>, argument: u64) -> Outcome<c_int> {
    type S = dma_buf_import_sync_file;
    let arg = Arg::copy(argument, size_of::<S>())?;
    let flags = arg.u32(at!(S, flags));
    if flags == 0 || flags & !DMA_BUF_SYNC_RW != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let fence = node::borrow(arg.i32(at!(S, fd))).map_err(|_| Errno(libc::EINVAL))?;
    about(session, fd, |buffer| {
        let import = BufferFenceImport { buffer, flags, fd: fence };
        Ok(session.connection.request(Request::BufferFenceImport(import))?)
    })?;
    Ok(0)
}

/// Makes a request about the buffer behind an fd.
fn about<T>(
    session: &Node,
    fd: BorrowedFd<'_>,
    request: impl FnOnce(BufferId) -> Outcome<T>,
) -> Outcome<T> {
    let (handle, ours) = borrowed(session, fd)?;
    let answer = request(handle);
    if ours {
        // A handle that was made for a moment; a file that was closed meanwhile has none left.
        let _ = share::close(session, handle.0);
    }
    answer
}
