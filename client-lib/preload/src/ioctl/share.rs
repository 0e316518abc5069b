//! Buffers that leave the session and come in: PRIME, names, and closing a handle.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use gpu_broker_client::protocol::message::{BufferCreated, BufferOf};
use gpu_broker_client::protocol::object::{BufferExport, BufferImport, export_flag};
use gpu_broker_client::protocol::{BufferId, Reply, Request};
use gpu_broker_uapi::drm::{drm_gem_close, drm_gem_flink, drm_gem_open, drm_prime_handle};

use super::{ask, reply};
use crate::arg::{Arg, at};
use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::userptr;

/// Names of buffers that a process may have given at once.
const NAMES_MAX: usize = 4096;

/// Buffers with a global name. The broker has none, on purpose; within a process, and what it
/// forks, they work.
static NAMES: Mutex<BTreeMap<u32, OwnedFd>> = Mutex::new(BTreeMap::new());

pub(super) fn gem_close(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let handle = arg.u32(at!(drm_gem_close, handle));
    let closed = userptr::close(node, handle).unwrap_or_else(|| close(node, handle));
    match closed {
        // The one object whose unknown handle the kernel calls invalid.
        Err(Errno(libc::ENOENT)) => Err(Errno(libc::EINVAL)),
        closed => closed.map(|()| 0),
    }
}

/// Closes a handle. It is forgotten first: as soon as the broker has closed it, another thread may
/// get the same number.
pub(crate) fn close(node: &Node, handle: u32) -> Outcome<()> {
    node::with_buffers(node.id, |buffers| buffers.remove(handle))?;
    ask(node, Request::BufferClose(BufferOf { buffer: BufferId(handle) })).map(drop)
}

pub(super) fn export(node: &Node, handle: u32, flags: u32) -> Outcome<OwnedFd> {
    node::with_buffers(node.id, |buffers| buffers.leaves(handle))?;
    let request = BufferExport { buffer: BufferId(handle), flags };
    reply!(ask(node, Request::BufferExport(request))?, Reply::BufferExport(exported) => exported.fd)
}

/// Takes a buffer in; what is no buffer of the broker is EINVAL.
pub(super) fn import(node: &Node, fd: impl AsFd) -> Outcome<BufferCreated> {
    let request = Request::BufferImport(BufferImport { fd: fd.as_fd() });
    let made = reply!(node.connection.request(request)?, Reply::BufferImport(made) => made)?;
    node::with_buffers(node.id, |buffers| {
        buffers.insert(made.buffer, made.size);
        buffers.leaves(made.buffer.0);
    })?;
    Ok(made)
}

pub(super) fn handle_to_fd(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type P = drm_prime_handle;
    let flags = arg.u32(at!(P, flags));
    let fd = export(node, arg.u32(at!(P, handle)), flags)?;
    if flags & export_flag::CLOEXEC == 0 {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    }
    arg.set_i32(at!(P, fd), fd.into_raw_fd());
    Ok(0)
}

pub(super) fn fd_to_handle(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type P = drm_prime_handle;
    let made = import(node, node::borrow(arg.i32(at!(P, fd)))?)?;
    arg.set_u32(at!(P, handle), made.buffer.0);
    Ok(0)
}

pub(super) fn flink(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type F = drm_gem_flink;
    let flags = export_flag::CLOEXEC | export_flag::RDWR;
    let fd = export(node, arg.u32(at!(F, handle)), flags)?;
    let this = inode(&fd)?;
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    // A buffer has one name however often it is asked for.
    let known = names.iter().find(|(_, other)| inode(other) == Ok(this)).map(|(name, _)| *name);
    let name = match known {
        Some(name) => name,
        None => {
            if names.len() >= NAMES_MAX {
                return Err(Errno(libc::ENOSPC));
            }
            let name = names.last_key_value().map_or(1, |(last, _)| last + 1);
            names.insert(name, fd);
            name
        }
    };
    arg.set_u32(at!(F, name), name);
    Ok(0)
}

fn inode(fd: impl AsFd) -> Outcome<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

pub(super) fn open(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type O = drm_gem_open;
    let fd = {
        let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&arg.u32(at!(O, name))).ok_or(Errno(libc::ENOENT))?.try_clone()
    };
    let made = import(node, fd.map_err(|_| Errno(libc::EMFILE))?)?;
    arg.set_u32(at!(O, handle), made.buffer.0);
    arg.set_u64(at!(O, size), made.size);
    Ok(0)
}
