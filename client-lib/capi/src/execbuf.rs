//! Submissions.

use std::ffi::c_int;
use std::os::fd::{IntoRawFd, OwnedFd};

use gpu_broker_client::protocol::execbuf::{ExecObject, object_flag};

use crate::boundary::{Failure, borrow, borrow_array, call, store};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::fence::duplicate;

/// The batch writes the object: later users of the buffer wait for it.
pub const GPU_BROKER_OBJECT_WRITE: u64 = 1 << 2;
/// The object lies exactly at `address`, a multiple of 4096. Without it the daemon chooses.
pub const GPU_BROKER_OBJECT_PINNED: u64 = 1 << 4;
/// No implicit waiting for other users of the buffer.
pub const GPU_BROKER_OBJECT_ASYNC: u64 = 1 << 6;

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

/// Work for a context.
#[repr(C)]
pub struct Execbuf {
    /// The buffers the batch uses; the last one holds the batch itself.
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
}

/// Hands work to the daemon, which answers as soon as it is queued.
///
/// Errors: those of i915's EXECBUFFER2, for example -EIO for a banned context, -EINVAL for a batch
/// that does not end within its buffer, -ENOSPC for pinned objects that overlap.
///
/// # Safety
/// `context` is NULL or a live context; `execbuf` is NULL or points to a structure whose `objects`
/// points to `object_count` objects with live buffers, whose `in_fence` is negative or open, and
/// whose `out_fence` is NULL or can be written to.
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
        // SAFETY: this function's contract is `raw_objects`'s.
        let objects = unsafe { raw_objects(execbuf) }?;
        let in_fence = if execbuf.in_fence < 0 {
            None
        } else {
            // SAFETY: open during this call, by this function's contract.
            Some(unsafe { duplicate(execbuf.in_fence) }?)
        };
        let mut builder = context.0.execbuf().engine(execbuf.engine);
        for object in &objects {
            builder = builder.object_raw(*object);
        }
        builder = builder.batch_bytes(execbuf.batch_start, execbuf.batch_length);
        if let Some(fence) = &in_fence {
            builder = builder.fence_in(fence);
        }
        if !execbuf.out_fence.is_null() {
            builder = builder.fence_out();
        }
        let submission = builder.submit()?;
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
