//! Buffers.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use gpu_broker_client::protocol::message::{BufferCreate, BufferOf, BufferWait};
use gpu_broker_client::protocol::object::{
    BufferAccess, BufferCaching, BufferMadvise, BufferSetDomain, BufferSetTiling, Tiling,
};
use gpu_broker_client::protocol::param::EngineId;
use gpu_broker_client::protocol::{BufferId, Reply, Request};
use gpu_broker_uapi::i915::{
    drm_i915_gem_busy, drm_i915_gem_caching, drm_i915_gem_create, drm_i915_gem_create_ext,
    drm_i915_gem_create_ext_memory_regions, drm_i915_gem_get_tiling, drm_i915_gem_madvise,
    drm_i915_gem_mmap, drm_i915_gem_mmap_offset, drm_i915_gem_pread, drm_i915_gem_set_domain,
    drm_i915_gem_set_tiling, drm_i915_gem_sw_finish, drm_i915_gem_wait,
};

use super::{ask, ask_for_access, ask_interruptibly, done, reply};
use crate::arg::{Arg, at, u16_at, u32_at, u64_at};
use crate::chain;
use crate::errno::{Errno, Outcome};
use crate::mapping::{self, Wanted};
use crate::node::{self, Node};
use crate::user;
use crate::userptr;

/// Extensions of GEM_CREATE_EXT.
const MEMORY_REGIONS: u32 = 0;
const PROTECTED_CONTENT: u32 = 1;
const SET_PAT: u32 = 2;
/// More regions than any device has.
const REGIONS_MAX: u32 = 8;
/// `I915_MMAP_WC`.
const MMAP_WC: u64 = 1;
/// Modes of MMAP_OFFSET: through the aperture, write-combining, write-back, uncached, fixed.
const MODE_UNCACHED: u64 = 3;
const MODE_FIXED: u64 = 4;

fn make(node: &Node, request: BufferCreate) -> Outcome<(u32, u64)> {
    let answer = ask(node, Request::BufferCreate(request))?;
    let made = reply!(answer, Reply::BufferCreate(made) => made)?;
    node::with_buffers(node.id, |buffers| buffers.made(made.buffer, made.size))?;
    Ok((made.buffer.0, made.size))
}

pub(super) fn create(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_i915_gem_create;
    let size = arg.u64(at!(C, size));
    let (handle, size) = make(node, BufferCreate { size, flags: 0, regions: None })?;
    arg.set_u32(at!(C, handle), handle);
    arg.set_u64(at!(C, size), size);
    Ok(0)
}

pub(super) fn create_ext(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_i915_gem_create_ext;
    let (size, flags) = (arg.u64(at!(C, size)), arg.u32(at!(C, flags)));
    let mut regions = None;
    chain::walk(arg.u64(at!(C, extensions)), |address, name| match name {
        // Twice is EINVAL.
        MEMORY_REGIONS if regions.is_some() => Err(Errno(libc::EINVAL)),
        MEMORY_REGIONS => {
            regions = Some(memory_regions(address)?);
            Ok(())
        }
        PROTECTED_CONTENT | SET_PAT => Err(Errno(libc::ENODEV)),
        _ => Err(Errno(libc::EINVAL)),
    })?;
    let (handle, size) = make(node, BufferCreate { size, flags, regions })?;
    arg.set_u32(at!(C, handle), handle);
    arg.set_u64(at!(C, size), size);
    Ok(0)
}

fn memory_regions(address: u64) -> Outcome<Vec<EngineId>> {
    type M = drm_i915_gem_create_ext_memory_regions;
    let node = user::records(address, 1, size_of::<M>())?;
    let count = u32_at(&node, at!(M, num_regions));
    if u32_at(&node, at!(M, pad)) != 0 || count > REGIONS_MAX {
        return Err(Errno(libc::EINVAL));
    }
    let bytes = user::records(u64_at(&node, at!(M, regions)), count as usize, 4)?;
    let region = |one: &[u8]| EngineId { class: u16_at(one, 0), instance: u16_at(one, 2) };
    Ok(bytes.chunks_exact(4).map(region).collect())
}

pub(super) fn pread(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    copy(node, arg, false)
}

pub(super) fn pwrite(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    copy(node, arg, true)
}

/// The broker checks the range and waits; then the kernel copies between the buffer's memory and
/// the program's, and finds bad pointers.
fn copy(node: &Node, arg: &Arg, write: bool) -> Outcome<c_int> {
    // PREAD and PWRITE have the same structure.
    type P = drm_i915_gem_pread;
    let handle = arg.u32(at!(P, handle));
    let (offset, size) = (arg.u64(at!(P, offset)), arg.u64(at!(P, size)));
    let address = arg.u64(at!(P, data_ptr));
    if size == 0 {
        return Ok(0);
    }
    may_copy(node, BufferAccess { buffer: BufferId(handle), offset, size, write })?;
    let memory = mapping::memory(node, handle)?;
    let length = usize::try_from(size).map_err(|_| Errno(libc::EINVAL))?;
    let place = i64::try_from(memory.offset + offset).map_err(|_| Errno(libc::EINVAL))?;
    let fd = memory.fd.as_raw_fd();
    let mut copied: usize = 0;
    while copied < length {
        let (at, rest) = (address.wrapping_add(copied as u64), length - copied);
        let number = if write { libc::SYS_pwrite64 } else { libc::SYS_pread64 };
        // SAFETY: the kernel checks the program's memory and answers EFAULT; reading into it is
        // what the program asked for.
        let result = unsafe { libc::syscall(number, fd, at, rest, place + copied as i64) };
        match usize::try_from(result) {
            Ok(0) => return Err(Errno(libc::EFAULT)),
            Ok(count) => copied += count,
            Err(_) => match Errno::last() {
                Errno(libc::EINTR) => {}
                // A dma-buf, which cannot be written and read like a file.
                Errno(libc::ESPIPE | libc::EINVAL) if copied == 0 => {
                    return mapping::copy(&memory, offset, length, address, write).map(|()| 0);
                }
                errno => return Err(errno),
            },
        }
    }
    Ok(0)
}

/// Checks the range and waits for the GPU: by the broker, unless the answer is known.
fn may_copy(node: &Node, access: BufferAccess) -> Outcome<()> {
    let handle = access.buffer.0;
    let alone = !node.connection.is_shared();
    let (idle, whole) =
        node::with_buffers(node.id, |buffers| (buffers.is_idle(handle), buffers.size(handle)))?;
    if alone && idle {
        let end = access.offset.checked_add(access.size);
        let inside = end.zip(whole).is_some_and(|(end, whole)| end <= whole);
        return if inside { Ok(()) } else { Err(Errno(libc::EINVAL)) };
    }
    wait_for_access(node, access.buffer, access.write, Request::BufferAccess(access))
}

/// [`ask_for_access`], and remembers that a buffer is idle when everybody was waited for.
fn wait_for_access(
    node: &Node,
    buffer: BufferId,
    write: bool,
    last: Request<OwnedFd>,
) -> Outcome<()> {
    let alone = !node.connection.is_shared();
    let submissions = node::with_buffers(node.id, |buffers| buffers.submissions())?;
    ask_for_access(node, buffer, write, last)?;
    if alone && write {
        node::with_buffers(node.id, |buffers| buffers.waited(buffer.0, submissions))?;
    }
    Ok(())
}

/// Asks whether a buffer is used by nobody: ETIME while it is.
pub(crate) fn is_idle(buffer: BufferId) -> Request<OwnedFd> {
    Request::BufferWait(BufferWait { buffer, flags: 0, timeout_ns: 0 })
}

pub(super) fn mmap(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type M = drm_i915_gem_mmap;
    let handle = arg.u32(at!(M, handle));
    let (offset, size) = (arg.u64(at!(M, offset)), arg.u64(at!(M, size)));
    if arg.u64(at!(M, flags)) & !MMAP_WC != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let whole = mapping::size_of_buffer(node, handle)?;
    if userptr::is_one(node, handle) {
        return Err(Errno(libc::ENXIO));
    }
    if offset.checked_add(size).is_none_or(|end| end > whole) {
        return Err(Errno(libc::EINVAL));
    }
    let wanted = Wanted {
        address: std::ptr::null_mut::<c_void>(),
        length: usize::try_from(size).map_err(|_| Errno(libc::EINVAL))?,
        protection: libc::PROT_READ | libc::PROT_WRITE,
        flags: libc::MAP_SHARED,
    };
    let mapped = mapping::map(node, handle, wanted, offset)?;
    arg.set_u64(at!(M, addr_ptr), mapped.expose_provenance() as u64);
    Ok(0)
}

/// MMAP_OFFSET, and with the shorter structure MMAP_GTT.
pub(super) fn mmap_offset(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type M = drm_i915_gem_mmap_offset;
    // There are none.
    chain::walk(arg.u64(at!(M, extensions)), |_, _| Err::<(), _>(Errno(libc::EINVAL)))?;
    match arg.u64(at!(M, flags)) {
        // One kind of memory behind all of them.
        0..=MODE_UNCACHED => {}
        // For devices with memory of their own.
        MODE_FIXED => return Err(Errno(libc::ENODEV)),
        _ => return Err(Errno(libc::EINVAL)),
    }
    let handle = arg.u32(at!(M, handle));
    mapping::size_of_buffer(node, handle)?;
    if userptr::is_one(node, handle) {
        return Err(Errno(libc::ENODEV));
    }
    let offset = node::with_buffers(node.id, |buffers| buffers.offset(handle))?;
    arg.set_u64(at!(M, offset), offset.ok_or(Errno(libc::ENOENT))?);
    Ok(0)
}

pub(super) fn set_domain(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type S = drm_i915_gem_set_domain;
    let buffer = BufferId(arg.u32(at!(S, handle)));
    userptr::make_ready(node, [buffer.0].into_iter())?;
    let read_domains = arg.u32(at!(S, read_domains));
    let write_domain = arg.u32(at!(S, write_domain));
    let request = Request::BufferSetDomain(BufferSetDomain { buffer, read_domains, write_domain });
    let alone = !node.connection.is_shared();
    let idle = node::with_buffers(node.id, |buffers| buffers.is_idle(buffer.0))?;
    // What moves it to no domain, or is refused, does not wait.
    let (write, moves) = (write_domain != 0, read_domains != 0);
    if !moves || (write && write_domain != read_domains) || (alone && idle) {
        return done(node, request);
    }
    wait_for_access(node, buffer, write, request).map(|()| 0)
}

/// Nothing is scanned out, so there is nothing to flush.
pub(super) fn sw_finish(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    let handle = arg.u32(at!(drm_i915_gem_sw_finish, handle));
    mapping::size_of_buffer(node, handle).map(|_| 0)
}

pub(super) fn busy(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type B = drm_i915_gem_busy;
    let buffer = BufferId(arg.u32(at!(B, handle)));
    let answer = ask(node, Request::BufferBusy(BufferOf { buffer }))?;
    let busy = reply!(answer, Reply::BufferBusy(busy) => busy.busy)?;
    arg.set_u32(at!(B, busy), busy);
    Ok(0)
}

pub(super) fn wait(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type W = drm_i915_gem_wait;
    let timeout_ns = arg.i64(at!(W, timeout_ns));
    let buffer = BufferId(arg.u32(at!(W, bo_handle)));
    let flags = arg.u32(at!(W, flags));
    // A negative time is for ever.
    let patience = u64::try_from(timeout_ns).ok();
    let begun = Instant::now();
    let part = |ns: u64| {
        let timeout_ns = i64::try_from(ns).unwrap_or(i64::MAX);
        Request::BufferWait(BufferWait { buffer, flags, timeout_ns })
    };
    let result = ask_interruptibly(node, patience, part);
    if let Some(patience) = patience.filter(|ns| *ns > 0) {
        let spent = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let over = matches!(result, Err(Errno(libc::ETIME)));
        arg.set_u64(at!(W, timeout_ns), if over { 0 } else { patience.saturating_sub(spent) });
    }
    reply!(result?, Reply::BufferWait(_) => 0)
}

pub(super) fn set_caching(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_i915_gem_caching;
    let buffer = BufferId(arg.u32(at!(C, handle)));
    let caching = arg.u32(at!(C, caching));
    done(node, Request::BufferSetCaching(BufferCaching { buffer, caching }))
}

pub(super) fn get_caching(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type C = drm_i915_gem_caching;
    let buffer = BufferId(arg.u32(at!(C, handle)));
    let answer = ask(node, Request::BufferGetCaching(BufferOf { buffer }))?;
    let caching = reply!(answer, Reply::BufferGetCaching(caching) => caching.caching)?;
    arg.set_u32(at!(C, caching), caching);
    Ok(0)
}

pub(super) fn set_tiling(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type S = drm_i915_gem_set_tiling;
    let request = BufferSetTiling {
        buffer: BufferId(arg.u32(at!(S, handle))),
        mode: arg.u32(at!(S, tiling_mode)),
        stride: arg.u32(at!(S, stride)),
    };
    let answer = ask(node, Request::BufferSetTiling(request))?;
    let Tiling { mode, stride, swizzle } = reply!(answer, Reply::BufferSetTiling(t) => t)?;
    arg.set_u32(at!(S, tiling_mode), mode);
    arg.set_u32(at!(S, stride), stride);
    arg.set_u32(at!(S, swizzle_mode), swizzle);
    Ok(0)
}

pub(super) fn get_tiling(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type G = drm_i915_gem_get_tiling;
    let buffer = BufferId(arg.u32(at!(G, handle)));
    let answer = ask(node, Request::BufferGetTiling(BufferOf { buffer }))?;
    let tiling = reply!(answer, Reply::BufferGetTiling(tiling) => tiling)?;
    arg.set_u32(at!(G, tiling_mode), tiling.mode);
    arg.set_u32(at!(G, swizzle_mode), tiling.swizzle);
    arg.set_u32(at!(G, phys_swizzle_mode), tiling.swizzle);
    Ok(0)
}

pub(super) fn madvise(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type M = drm_i915_gem_madvise;
    let buffer = BufferId(arg.u32(at!(M, handle)));
    let advice = arg.u32(at!(M, madv));
    let answer = ask(node, Request::BufferMadvise(BufferMadvise { buffer, advice }))?;
    let retained = reply!(answer, Reply::BufferMadvise(answer) => answer.retained)?;
    arg.set_u32(at!(M, retained), retained);
    Ok(0)
}
