//! Buffers.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use gpu_broker_client::protocol::refusal::errno::ETIME;

use crate::boundary::{self, Failure, borrow, call, not_null, store};
use crate::connection::Connection;

/// Memory that the GPU and this process share.
pub struct Buffer(pub(crate) gpu_broker_client::Buffer);

/// Makes a buffer of zeroed memory; `size` in bytes, rounded up to pages of 4096. Release it with
/// gpu_broker_buffer_close().
///
/// # Safety
/// `connection` is NULL or a live connection; `buffer` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_create(
    connection: *const Connection,
    size: u64,
    buffer: *mut *mut Buffer,
) -> c_int {
    call(|| {
        not_null(buffer, "buffer")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        let made = Buffer(connection.0.create_buffer(size)?);
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(buffer, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// Closes the buffer and unmaps its memory from this process; NULL does nothing. Work in flight
/// keeps the memory.
///
/// # Safety
/// `buffer` is NULL or came from this library; neither it nor its mapping is used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_close(buffer: *mut Buffer) {
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(buffer) }
}

/// The buffer's bytes, a multiple of 4096; 0 for NULL.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_size(buffer: *const Buffer) -> u64 {
    // SAFETY: this function's contract is `borrow`'s.
    let buffer = unsafe { borrow(buffer, "buffer") };
    buffer.map_or(0, |buffer| buffer.0.size())
}

/// The buffer's handle in its session; 0 for NULL.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_handle(buffer: *const Buffer) -> u32 {
    // SAFETY: this function's contract is `borrow`'s.
    let buffer = unsafe { borrow(buffer, "buffer") };
    buffer.map_or(0, |buffer| buffer.0.handle().0)
}

/// The buffer's memory in this process, readable and writable until gpu_broker_buffer_close().
/// Mapped the first time; later calls give the same address.
///
/// # Safety
/// `buffer` is NULL or a live buffer; `memory` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_map(
    buffer: *const Buffer,
    memory: *mut *mut c_void,
) -> c_int {
    call(|| {
        not_null(memory, "memory")?;
        // SAFETY: this function's contract is `borrow`'s.
        let buffer = unsafe { borrow(buffer, "buffer") }?;
        // The buffer caches the mapping, so the memory outlives this handle to it.
        let mapping = buffer.0.map()?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(memory, mapping.as_ptr().cast()) };
        Ok(0)
    })
}

/// Which engines use the buffer now, encoded as i915's GEM_BUSY does; 0 when it is idle.
///
/// # Safety
/// `buffer` is NULL or a live buffer; `busy` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_busy(buffer: *const Buffer, busy: *mut u32) -> c_int {
    call(|| {
        not_null(busy, "busy")?;
        // SAFETY: this function's contract is `borrow`'s.
        let buffer = unsafe { borrow(buffer, "buffer") }?;
        let found = buffer.0.busy()?.busy;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(busy, found) };
        Ok(0)
    })
}

/// Waits until no submitted work uses the buffer, at most `timeout_ns` nanoseconds; negative waits
/// for ever. -ETIME when the time was over first.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_wait(buffer: *const Buffer, timeout_ns: i64) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let buffer = unsafe { borrow(buffer, "buffer") }?;
        if buffer.0.wait(timeout(timeout_ns))? {
            Ok(0)
        } else {
            Err(Failure::Errno(ETIME, "the buffer was still busy when the time was over"))
        }
    })
}

/// C's timeout, for which every negative number is for ever.
pub(crate) fn timeout(timeout_ns: i64) -> Option<Duration> {
    u64::try_from(timeout_ns).ok().map(Duration::from_nanos)
}
