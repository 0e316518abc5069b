//! Memory of the program that the GPU uses without a copy.

use std::ffi::{c_int, c_void};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use gpu_broker_client::protocol::userptr::flag;
use gpu_broker_client::{AdoptedMemory, UserMemory, Writers};

use crate::boundary::{self, Failure, borrow, call, not_null, store};
use crate::buffer::{Buffer, timeout};
use crate::connection::Connection;

/// The GPU may not write to the memory: a batch that does faults.
pub const GPU_BROKER_MEMORY_READ_ONLY: u32 = 0x1;
/// Threads that write to the memory while its pages are moved are held up meanwhile.
pub const GPU_BROKER_MEMORY_HOLD_WRITERS: u32 = 0x1;

const _: () = assert!(GPU_BROKER_MEMORY_READ_ONLY == flag::READ_ONLY);

/// How long releasing memory waits for the GPU. A batch without an end is stopped before that.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// Memory of the program that can be registered as a buffer.
pub struct Memory {
    kind: Kind,
    /// What it is registered as and not closed yet.
    buffers: Mutex<Vec<Weak<gpu_broker_client::Buffer>>>,
}

enum Kind {
    Made(UserMemory),
    Adopted(AdoptedMemory),
}

impl Memory {
    fn boxed(kind: Kind) -> *mut Self {
        Box::into_raw(Box::new(Self { kind, buffers: Mutex::default() }))
    }

    fn address(&self) -> *mut c_void {
        match &self.kind {
            Kind::Made(memory) => memory.as_ptr().cast(),
            Kind::Adopted(memory) => memory.as_ptr(),
        }
    }

    fn size(&self) -> u64 {
        match &self.kind {
            Kind::Made(memory) => memory.size(),
            Kind::Adopted(memory) => memory.size(),
        }
    }

    fn register(&self, connection: &Connection, flags: u32) -> Result<Buffer, Failure> {
        let memfd = match &self.kind {
            // SAFETY: C has no slices of Rust; nobody in this library makes one of the memory.
            Kind::Made(memory) => unsafe { memory.memfd() },
            Kind::Adopted(memory) => memory.as_fd(),
        };
        let buffer = connection.0.share_memfd(memfd, 0, self.size(), flags)?;
        let buffer = Arc::new(buffer);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.retain(|buffer| buffer.strong_count() != 0);
        buffers.push(Arc::downgrade(&buffer));
        Ok(Buffer(buffer))
    }

    /// In every session; the first failure, after all were asked.
    fn invalidate(
        &self,
        offset: u64,
        length: u64,
        timeout: Option<Duration>,
    ) -> Result<(), Failure> {
        let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let live = buffers.iter().filter_map(Weak::upgrade);
        let results = live.map(|buffer| buffer.invalidate(offset, length, timeout));
        Ok(results.fold(Ok(()), Result::and)?)
    }
}

/// Makes zeroed memory of `bytes`, rounded up to pages of 4096, that the GPU can be given. Release
/// it with gpu_broker_memory_release().
///
/// # Safety
/// `memory` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_create(bytes: u64, memory: *mut *mut Memory) -> c_int {
    call(|| {
        not_null(memory, "memory")?;
        let made = Memory::boxed(Kind::Made(UserMemory::new(bytes)?));
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(memory, made) };
        Ok(0)
    })
}

/// Takes memory that is there already, `malloc`ed for example, so that the GPU can be given it: its
/// pages are moved behind a memfd, at the same address and with their contents. `start` and `size`
/// are multiples of 4096. It must stay mapped until gpu_broker_memory_release(), which makes it
/// private memory again: release it before free(3).
///
/// A thread that writes to the memory during this call or the release may lose what it writes,
/// unless `flags` has GPU_BROKER_MEMORY_HOLD_WRITERS, which not every process may use (-EPERM,
/// -ENOSYS, -EINVAL). Children of fork(2) get a private copy. -EFAULT for memory that is not mapped,
/// shared already, or a stack.
///
/// # Safety
/// As for `AdoptedMemory::adopt`; `memory` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_adopt(
    start: *mut c_void,
    size: usize,
    flags: u32,
    memory: *mut *mut Memory,
) -> c_int {
    call(|| {
        not_null(memory, "memory")?;
        let writers = match flags {
            0 => Writers::None,
            GPU_BROKER_MEMORY_HOLD_WRITERS => Writers::Held,
            _ => return Err(Failure::Argument("GPU_BROKER_MEMORY_HOLD_WRITERS is the only flag")),
        };
        // SAFETY: this function's contract is `adopt`'s.
        let adopted = unsafe { AdoptedMemory::adopt(start, size, writers) }?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(memory, Memory::boxed(Kind::Adopted(adopted))) };
        Ok(0)
    })
}

/// Where the memory lies; NULL for NULL.
///
/// # Safety
/// `memory` is NULL or live memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_address(memory: *const Memory) -> *mut c_void {
    // SAFETY: this function's contract is `borrow`'s.
    let memory = unsafe { borrow(memory, "memory") };
    memory.map_or(std::ptr::null_mut(), Memory::address)
}

/// The memory's bytes, a multiple of 4096; 0 for NULL.
///
/// # Safety
/// `memory` is NULL or live memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_size(memory: *const Memory) -> u64 {
    // SAFETY: this function's contract is `borrow`'s.
    unsafe { borrow(memory, "memory") }.map_or(0, Memory::size)
}

/// Gives the memory to the GPU as a buffer of the session, for gpu_broker_submit(); close it with
/// gpu_broker_buffer_close(). `flags` is 0 or GPU_BROKER_MEMORY_READ_ONLY. The program goes on using
/// the memory at its address; gpu_broker_buffer_map() does not work on it (-ENODEV).
///
/// # Safety
/// `connection` is NULL or a live connection, `memory` NULL or live memory; `buffer` can be written
/// to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_register(
    connection: *const Connection,
    memory: *const Memory,
    flags: u32,
    buffer: *mut *mut Buffer,
) -> c_int {
    call(|| {
        not_null(buffer, "buffer")?;
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        // SAFETY: this function's contract is `borrow`'s.
        let memory = unsafe { borrow(memory, "memory") }?;
        let made = memory.register(connection, flags)?;
        // SAFETY: checked for null above, and writable by this function's contract.
        unsafe { store(buffer, Box::into_raw(Box::new(made))) };
        Ok(0)
    })
}

/// Waits until no submitted work uses `length` bytes of the memory from `offset` on, at most
/// `timeout_ns` nanoseconds; negative is as long as the daemon allows, a minute. To be called before
/// the bytes are unmapped, punched out (MADV_REMOVE), or used for something else; work submitted
/// later uses what is there then. -ETIME when the time was over first: keep the bytes. -EIO when the
/// GPU hung: the bytes are free, what it wrote is not whole.
///
/// # Safety
/// `memory` is NULL or live memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_invalidate(
    memory: *const Memory,
    offset: u64,
    length: u64,
    timeout_ns: i64,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        unsafe { borrow(memory, "memory") }?.invalidate(offset, length, timeout(timeout_ns))?;
        Ok(0)
    })
}

/// Waits until no work uses the memory, at most thirty seconds per buffer, and lets go of it:
/// memory of gpu_broker_memory_create() is unmapped, that of gpu_broker_memory_adopt() becomes
/// private memory again and keeps its contents. NULL does nothing. Its buffers may be closed before
/// or afterwards.
///
/// # Safety
/// `memory` is NULL or came from this library, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_memory_release(memory: *mut Memory) {
    // SAFETY: this function's contract is `borrow`'s.
    if let Ok(memory) = unsafe { borrow(memory, "memory") } {
        boundary::call_quietly((), || {
            // Whoever wants to know calls invalidate. The daemon keeps the pages that it needs.
            let _ = memory.invalidate(0, u64::MAX, Some(RELEASE_PATIENCE));
        });
    }
    // SAFETY: this function's contract is `release`'s.
    unsafe { boundary::release(memory) }
}
