//! Submissions.

use std::ffi::c_int;
use std::os::fd::{IntoRawFd, OwnedFd};

use gpu_broker_client::Fence;
use gpu_broker_client::protocol::execbuf::{self, ExecObject, object_flag};
use gpu_broker_client::protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};

use crate::boundary::{Failure, borrow, borrow_array, call, store};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::fence::duplicate;
use crate::syncobj::Syncobj;

/// The batch writes the object: later users of the buffer wait for it.
pub const GPU_BROKER_OBJECT_WRITE: u64 = 1 << 2;
/// The object lies exactly at `address`, a multiple of 4096. Without it the daemon chooses.
pub const GPU_BROKER_OBJECT_PINNED: u64 = 1 << 4;
/// No implicit waiting for other users of the buffer.
pub const GPU_BROKER_OBJECT_ASYNC: u64 = 1 << 6;

/// The batch is the first object, not the last.
pub const GPU_BROKER_EXEC_BATCH_FIRST: u64 = 1 << 18;
/// The work starts when the work behind `in_fence` starts, not after it.
pub const GPU_BROKER_EXEC_FENCE_SUBMIT: u64 = 1 << 20;
/// The work waits for the syncobj.
pub const GPU_BROKER_SYNC_WAIT: u32 = 1 << 0;
/// The work signals the syncobj.
pub const GPU_BROKER_SYNC_SIGNAL: u32 = 1 << 1;

const _: () = assert!(GPU_BROKER_EXEC_BATCH_FIRST == execbuf::flag::BATCH_FIRST);
const _: () = assert!(GPU_BROKER_EXEC_FENCE_SUBMIT == execbuf::flag::FENCE_SUBMIT);
const _: () = assert!(GPU_BROKER_SYNC_WAIT == FENCE_WAIT);
const _: () = assert!(GPU_BROKER_SYNC_SIGNAL == FENCE_SIGNAL);
const _: () = assert!(GPU_BROKER_OBJECT_WRITE == object_flag::WRITE);
const _: () = assert!(GPU_BROKER_OBJECT_PINNED == object_flag::PINNED);
const _: () = assert!(GPU_BROKER_OBJECT_ASYNC == object_flag::ASYNC);

/// A buffer that a batch uses.
#[repr(C)]
pub struct Object {
    /// Which.
    pub buffer: *const Buffer,
    /// GPU address: demanded with GPU_BROKER_OBJECT_PINNED, otherwise where it was before, or 0.
    /// Set to where it is now when gpu_broker_submit() returns 0.
    pub address: u64,
    /// GPU_BROKER_OBJECT_*.
    pub flags: u64,
}

/// A GPU address to be written into a buffer before the batch starts.
#[repr(C)]
pub struct Relocation {
    /// Position of the object it is written into.
    pub object: u32,
    /// Position of the object whose address it is.
    pub target: u32,
    /// Where in the object, in bytes; a multiple of 4.
    pub offset: u64,
    /// Added to the address.
    pub delta: u32,
}

/// A syncobj that work waits for or signals.
#[repr(C)]
pub struct Sync {
    /// Which.
    pub syncobj: *const Syncobj,
    /// GPU_BROKER_SYNC_*.
    pub flags: u32,
    /// A point of its timeline; 0 for a binary object.
    pub point: u64,
}

/// Work for a context.
#[repr(C)]
pub struct Execbuf {
    /// The buffers the batch uses; the last one holds the batch itself, or with
    /// GPU_BROKER_EXEC_BATCH_FIRST the first one.
    pub objects: *mut Object,
    /// How many.
    pub object_count: usize,
    /// Slot of the context's engines. Without engines set: 0 or 1 render, 2 video, 3 copy,
    /// 4 video enhance.
    pub engine: u32,
    /// Where in its buffer the batch starts, in bytes; a multiple of 8.
    pub batch_start: u32,
    /// Bytes of the batch, a multiple of 8; 0 means up to the buffer's end.
    pub batch_length: u32,
    /// A fence to wait for before the work starts, or -1. It stays the caller's.
    pub in_fence: c_int,
    /// NULL, or where to store a new fence that signals when the work is done; close(2) it.
    pub out_fence: *mut c_int,
    /// GPU_BROKER_EXEC_*.
    pub flags: u64,
    /// Syncobjs to wait for and to signal.
    pub syncs: *const Sync,
    /// How many.
    pub sync_count: usize,
    /// Addresses to write before the batch starts.
    pub relocations: *const Relocation,
    /// How many.
    pub relocation_count: usize,
}

/// Hands work to the daemon, which answers as soon as it is queued.
///
/// Errors: those of i915's EXECBUFFER2, for example -EIO for a banned context, -EINVAL for a batch
/// that does not end within its buffer, -ENOSPC for pinned objects that overlap.
///
/// # Safety
/// `context` is NULL or a live context; `execbuf` is NULL or points to a structure whose `objects`
/// points to `object_count` objects with live buffers, `syncs` to `sync_count` entries with live
/// syncobjs, and `relocations` to `relocation_count` relocations, whose `in_fence` is negative or
/// open, and whose `out_fence` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_submit(
    context: *const Context,
    execbuf: *const Execbuf,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let context = unsafe { borrow(context, "context") }?;
        // SAFETY: this function's contract is `borrow`'s.
        let execbuf = unsafe { borrow(execbuf, "execbuf") }?;
        let in_fence = if execbuf.in_fence < 0 {
            None
        } else {
            // SAFETY: open during this call, by this function's contract.
            Some(unsafe { duplicate(execbuf.in_fence) }?)
        };
        // SAFETY: this function's contract is `with_objects`'s.
        let builder = unsafe { with_objects(context.0.execbuf(), execbuf) }?;
        // SAFETY: this function's contract is `with_syncs`'s.
        let builder = unsafe { with_syncs(builder, execbuf) }?;
        let submission = with_fences(builder, execbuf, in_fence.as_ref())?.submit()?;
        // SAFETY: `raw_objects` found `objects` to be a valid array; the daemon's answer cannot
        // make `zip` go beyond it.
        unsafe { store_addresses(execbuf, &submission.offsets) };
        if let Some(fence) = submission.fence
            && !execbuf.out_fence.is_null()
        {
            // SAFETY: not null, and writable by this function's contract.
            unsafe { store(execbuf.out_fence, OwnedFd::from(fence).into_raw_fd()) };
        }
        Ok(0)
    })
}

type Builder<'a> = gpu_broker_client::Execbuf<'a>;

/// Objects, each with its relocations, and where the batch is.
///
/// # Safety
/// As [`raw_objects`]; `execbuf.relocations` points to `relocation_count` relocations.
unsafe fn with_objects<'a>(
    mut builder: Builder<'a>,
    execbuf: &Execbuf,
) -> Result<Builder<'a>, Failure> {
    // SAFETY: this function's contract is `raw_objects`'s.
    let objects = unsafe { raw_objects(execbuf) }?;
    let (relocations, count) = (execbuf.relocations, execbuf.relocation_count);
    // SAFETY: this function's contract is `borrow_array`'s.
    let relocations = unsafe { borrow_array(relocations, count, "relocations") }?;
    let mut ordered: Vec<&Relocation> = relocations.iter().collect();
    ordered.sort_by_key(|relocation| relocation.object);
    let mut rest = ordered.into_iter().peekable();
    for (index, object) in objects.iter().enumerate() {
        builder = builder.object_raw(*object);
        while let Some(own) = rest.next_if(|relocation| relocation.object as usize == index) {
            builder = builder.relocation(execbuf::Relocation {
                target: own.target,
                delta: own.delta,
                offset: own.offset,
                // No address that was presumed right can be taken for granted.
                presumed_offset: u64::MAX,
                ..execbuf::Relocation::default()
            });
        }
    }
    match rest.next() {
        Some(_) => Err(Failure::Argument("a relocation is in an object that is not there")),
        None => Ok(builder
            .engine(execbuf.engine)
            .batch_bytes(execbuf.batch_start, execbuf.batch_length)),
    }
}

/// # Safety
/// `execbuf.syncs` points to `sync_count` entries with live syncobjs or NULLs.
unsafe fn with_syncs<'a>(
    mut builder: Builder<'a>,
    execbuf: &Execbuf,
) -> Result<Builder<'a>, Failure> {
    // SAFETY: this function's contract is `borrow_array`'s.
    let syncs = unsafe { borrow_array(execbuf.syncs, execbuf.sync_count, "syncs") }?;
    for sync in syncs {
        // SAFETY: a live syncobj or null, by this function's contract.
        let syncobj = &unsafe { borrow(sync.syncobj, "syncs[].syncobj") }?.0;
        builder = match (sync.flags, sync.point) {
            (GPU_BROKER_SYNC_WAIT, 0) => builder.wait_for(syncobj),
            (GPU_BROKER_SYNC_WAIT, point) => builder.wait_for_point(syncobj, point),
            (GPU_BROKER_SYNC_SIGNAL, 0) => builder.signal(syncobj),
            (GPU_BROKER_SYNC_SIGNAL, point) => builder.signal_point(syncobj, point),
            _ => return Err(Failure::Argument("syncs[].flags is one of GPU_BROKER_SYNC_*")),
        };
    }
    Ok(builder)
}

fn with_fences<'a>(
    mut builder: Builder<'a>,
    execbuf: &Execbuf,
    in_fence: Option<&'a Fence>,
) -> Result<Builder<'a>, Failure> {
    if execbuf.flags & !(GPU_BROKER_EXEC_BATCH_FIRST | GPU_BROKER_EXEC_FENCE_SUBMIT) != 0 {
        return Err(Failure::Argument("flags are GPU_BROKER_EXEC_*"));
    }
    if execbuf.flags & GPU_BROKER_EXEC_BATCH_FIRST != 0 {
        builder = builder.batch_first();
    }
    let beside = execbuf.flags & GPU_BROKER_EXEC_FENCE_SUBMIT != 0;
    builder = match in_fence {
        Some(fence) if beside => builder.fence_submit(fence),
        Some(fence) => builder.fence_in(fence),
        None if beside => {
            return Err(Failure::Argument("GPU_BROKER_EXEC_FENCE_SUBMIT needs in_fence"));
        }
        None => builder,
    };
    Ok(if execbuf.out_fence.is_null() { builder } else { builder.fence_out() })
}

/// # Safety
/// `execbuf.objects` points to `object_count` objects with live buffers.
unsafe fn raw_objects(execbuf: &Execbuf) -> Result<Vec<ExecObject>, Failure> {
    // SAFETY: this function's contract is `borrow_array`'s.
    let objects = unsafe { borrow_array(execbuf.objects, execbuf.object_count, "objects") }?;
    objects
        .iter()
        .map(|object| {
            // SAFETY: a live buffer or null, by this function's contract.
            let buffer = unsafe { borrow(object.buffer, "objects[].buffer") }?;
            Ok(ExecObject {
                handle: buffer.0.handle().0,
                offset: object.address,
                flags: object.flags | object_flag::SUPPORTS_48B,
                ..ExecObject::default()
            })
        })
        .collect()
}

/// # Safety
/// `execbuf.objects` points to `object_count` objects that can be written to.
unsafe fn store_addresses(execbuf: &Execbuf, addresses: &[u64]) {
    for (index, address) in addresses.iter().take(execbuf.object_count).enumerate() {
        // SAFETY: `index` is below `object_count`, so the object lies within the array.
        let object = unsafe { execbuf.objects.add(index) };
        // SAFETY: within the array, writable by this function's contract, and nobody holds a
        // reference: those of `raw_objects` are gone.
        unsafe { (*object).address = *address };
    }
}
