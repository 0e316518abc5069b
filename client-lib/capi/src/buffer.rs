//! Buffers.

use std::ffi::{c_int, c_void};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use gpu_broker_client::protocol::object::{advice, caching, domain, tiling};
use gpu_broker_client::protocol::refusal::errno::ETIME;

use crate::boundary::{self, Failure, borrow, call, not_null, store};
use crate::connection::Connection;
use crate::fence::duplicate_fd;

/// The CPU, through its caches.
pub const GPU_BROKER_DOMAIN_CPU: u32 = 0x1;
/// The CPU, through the aperture.
pub const GPU_BROKER_DOMAIN_GTT: u32 = 0x40;
/// The CPU, write-combining.
pub const GPU_BROKER_DOMAIN_WC: u32 = 0x80;
/// The GPU does not snoop the CPU's caches.
pub const GPU_BROKER_CACHING_NONE: u32 = 0;
/// The GPU snoops the CPU's caches.
pub const GPU_BROKER_CACHING_CACHED: u32 = 1;
/// Linear.
pub const GPU_BROKER_TILING_NONE: u32 = 0;
/// X tiles: 512 bytes by 8 rows.
pub const GPU_BROKER_TILING_X: u32 = 1;
/// Y tiles: 128 bytes by 32 rows.
pub const GPU_BROKER_TILING_Y: u32 = 2;
/// The memory must stay, or come back.
pub const GPU_BROKER_ADVICE_WILL_NEED: u32 = 0;
/// The memory may be dropped.
pub const GPU_BROKER_ADVICE_DONT_NEED: u32 = 1;

const _: () = assert!(GPU_BROKER_DOMAIN_CPU == domain::CPU);
const _: () = assert!(GPU_BROKER_DOMAIN_GTT == domain::GTT);
const _: () = assert!(GPU_BROKER_DOMAIN_WC == domain::WC);
const _: () = assert!(GPU_BROKER_CACHING_NONE == caching::NONE);
const _: () = assert!(GPU_BROKER_CACHING_CACHED == caching::CACHED);
const _: () = assert!(GPU_BROKER_TILING_NONE == tiling::NONE);
const _: () = assert!(GPU_BROKER_TILING_X == tiling::X);
const _: () = assert!(GPU_BROKER_TILING_Y == tiling::Y);
const _: () = assert!(GPU_BROKER_ADVICE_WILL_NEED == advice::WILL_NEED);
const _: () = assert!(GPU_BROKER_ADVICE_DONT_NEED == advice::DONT_NEED);

/// Memory that the GPU and this process share.
pub struct Buffer(pub(crate) Arc<gpu_broker_client::Buffer>);

/// How a buffer's rows lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tiling {
    /// One of GPU_BROKER_TILING_*.
    pub mode: u32,
    /// Bytes of a row; 0 when linear.
    pub stride: u32,
    /// Bit-6 swizzling; 0 for none.
    pub swizzle: u32,
}

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
        let made = Buffer(Arc::new(connection.0.create_buffer(size)?));
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

/// Waits until the CPU may access the buffer in these domains, GPU_BROKER_DOMAIN_*;
/// `write_domain` is 0 or equal to `read_domains`.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_set_domain(
    buffer: *const Buffer,
    read_domains: u32,
    write_domain: u32,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        unsafe { borrow(buffer, "buffer") }?.0.set_domain(read_domains, write_domain)?;
        Ok(0)
    })
}

/// Sets the caching mode, one of GPU_BROKER_CACHING_*.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_set_caching(
    buffer: *const Buffer,
    caching: u32,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        unsafe { borrow(buffer, "buffer") }?.0.set_caching(caching)?;
        Ok(0)
    })
}

/// Sets how the buffer's rows lie, one of GPU_BROKER_TILING_* with the bytes of a row. Stores what
/// is in force then, unless `tiling` is NULL.
///
/// # Safety
/// `buffer` is NULL or a live buffer; `tiling` is NULL or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_set_tiling(
    buffer: *const Buffer,
    mode: u32,
    stride: u32,
    tiling: *mut Tiling,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let set = unsafe { borrow(buffer, "buffer") }?.0.set_tiling(mode, stride)?;
        if !tiling.is_null() {
            let set = Tiling { mode: set.mode, stride: set.stride, swizzle: set.swizzle };
            // SAFETY: not null, and writable by this function's contract.
            unsafe { store(tiling, set) };
        }
        Ok(0)
    })
}

/// Says whether the memory is needed, with one of GPU_BROKER_ADVICE_*. Returns 1 while it is still
/// there, 0 once it was dropped.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_madvise(buffer: *const Buffer, advice: u32) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let buffer = unsafe { borrow(buffer, "buffer") }?;
        Ok(buffer.0.madvise(advice)?.into())
    })
}

/// A new file descriptor that stands for the buffer: for gpu_broker_buffer_import() in any session,
/// or to be mapped by anybody; close(2) it.
///
/// # Safety
/// `buffer` is NULL or a live buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_export(buffer: *const Buffer) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let buffer = unsafe { borrow(buffer, "buffer") }?;
        Ok(buffer.0.export()?.into_raw_fd())
    })
}

/// The buffer behind a file descriptor of gpu_broker_buffer_export(), which stays the caller's.
/// Release the buffer with gpu_broker_buffer_close(), also when the session had it already.
///
/// # Safety
/// `connection` is NULL or a live connection; `fd` is negative or open; `buffer` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_buffer_import(
    connection: *const Connection,
    fd: c_int,
    buffer: *mut *mut Buffer,
) -> c_int {
    call(|| {
        not_null(buffer, "buffer")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        // SAFETY: this function's contract is `duplicate_fd`'s.
        let fd = unsafe { duplicate_fd(fd) }?;
        let made = Buffer(Arc::new(connection.0.import_buffer(&fd)?));
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(buffer, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// C's timeout, for which every negative number is for ever.
pub(crate) fn timeout(timeout_ns: i64) -> Option<Duration> {
    u64::try_from(timeout_ns).ok().map(Duration::from_nanos)
}
