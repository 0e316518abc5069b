//! Fences, which are file descriptors.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use gpu_broker_client::protocol::refusal::errno::{EIO, EMFILE, ETIME};
use gpu_broker_client::{Fence, FenceState};

use crate::boundary::{Failure, borrow, call};
use crate::buffer::timeout;
use crate::connection::Connection;

/// The state of a fence: 0 while the work is not done, 1 when it is, and a negative errno when it
/// was lost, -EIO for a hang.
///
/// # Safety
/// `fence` is an open file descriptor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_fence_status(fence: c_int) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `duplicate`'s.
        let fence = unsafe { duplicate(fence) }?;
        match fence.status()? {
            FenceState::Pending => Ok(0),
            FenceState::Signalled => Ok(1),
            FenceState::Failed(errno) => Err(lost(errno)),
        }
    })
}

/// Waits until the fence signals, at most `timeout_ns` nanoseconds; negative waits for ever.
/// poll(2) for POLLIN waits as well. 0 when the work is done, -ETIME when the time was over first,
/// another negative errno when the work was lost.
///
/// # Safety
/// `fence` is an open file descriptor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_fence_wait(fence: c_int, timeout_ns: i64) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `duplicate`'s.
        let fence = unsafe { duplicate(fence) }?;
        match fence.wait(timeout(timeout_ns))? {
            FenceState::Signalled => Ok(0),
            FenceState::Failed(errno) => Err(lost(errno)),
            FenceState::Pending => {
                Err(Failure::Errno(ETIME, "the fence had not signalled when the time was over"))
            }
        }
    })
}

/// A new fence that signals when both have, with the first error of the two; close(2) it.
///
/// # Safety
/// `connection` is NULL or a live connection; both fences are open file descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpu_broker_fence_merge(
    connection: *const Connection,
    first: c_int,
    second: c_int,
) -> c_int {
    call(|| {
        // SAFETY: this function's contract is `borrow`'s.
        let connection = unsafe { borrow(connection, "connection") }?;
        // SAFETY: this function's contract is `duplicate`'s.
        let first = unsafe { duplicate(first) }?;
        // SAFETY: this function's contract is `duplicate`'s.
        let second = unsafe { duplicate(second) }?;
        Ok(OwnedFd::from(first.merge(&second, &connection.0)?).into_raw_fd())
    })
}

/// The fence behind a C program's fd, which stays the program's.
///
/// # Safety
/// `fd` is negative or open, and stays open during the call.
pub(crate) unsafe fn duplicate(fd: c_int) -> Result<Fence, Failure> {
    // SAFETY: this function's contract is `duplicate_fd`'s.
    unsafe { duplicate_fd(fd) }.map(Fence::from)
}

/// A C program's fd once more; its own stays the program's.
///
/// # Safety
/// `fd` is negative or open, and stays open during the call.
pub(crate) unsafe fn duplicate_fd(fd: c_int) -> Result<OwnedFd, Failure> {
    if fd < 0 {
        return Err(Failure::Argument("the file descriptor is negative"));
    }
    // SAFETY: not negative, and by this function's contract open until it returns.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.as_fd().try_clone_to_owned().map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(EMFILE);
        Failure::Errno(errno, "the file descriptor cannot be duplicated")
    })
}

fn lost(errno: i32) -> Failure {
    let errno = if errno > 0 { errno } else { EIO };
    let sentence = "the work behind the fence was lost: its context hung, was banned or ended, or the GPU is gone";
    Failure::Errno(errno, sentence)
}
