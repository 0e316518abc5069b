//! Holding up threads that write to memory, with userfaultfd.
#![expect(unsafe_code, reason = "asks the kernel to stop threads at pages of the program")]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::ioctl::{Setter, Updater, opcode};
use rustix::mm::{Advice, UserfaultfdFlags};

/// Writers to a range wait while this lives. When it is dropped they try again, at whatever is
/// mapped there then.
#[derive(Debug)]
pub(super) struct WriteHold {
    /// Closing it unregisters the range and wakes everybody.
    _fault_fd: OwnedFd,
}

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pages {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Pages,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    range: Pages,
    mode: u64,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFDIO_API: u32 = opcode::read_write::<Api>(0xaa, 0x3f);
const UFFDIO_REGISTER: u32 = opcode::read_write::<Register>(0xaa, 0x00);
const UFFDIO_WRITEPROTECT: u32 = opcode::read_write::<WriteProtect>(0xaa, 0x06);

impl WriteHold {
    /// Holds up whoever writes to `size` bytes at `start` from now on.
    ///
    /// # Errors
    /// ENOSYS without userfaultfd in the kernel, EPERM where it is forbidden, EINVAL where it
    /// cannot protect this kind of memory (private file mappings, old kernels).
    ///
    /// # Safety
    /// The range is memory of the program, and no thread that must run for the hold to end writes
    /// to it.
    pub(super) unsafe fn begin(start: NonNull<u8>, size: usize) -> Result<Self, Errno> {
        // Faults in system calls cannot be held without a privilege; they fail with EFAULT.
        let user_mode_only = UserfaultfdFlags::from_bits_retain(1);
        let flags = UserfaultfdFlags::CLOEXEC | user_mode_only;
        // SAFETY: what is done with the fd is below, and keeps to the caller's range.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
        let range = Pages { start: start.addr().get() as u64, len: size as u64 };
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        // SAFETY: number and structure belong together.
        let call = unsafe { Updater::<UFFDIO_API, Api>::new(&mut api) };
        // SAFETY: UFFDIO_API reads and writes that structure, and nothing else.
        unsafe { rustix::ioctl::ioctl(&fd, call) }?;
        let mut register = Register { range, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: number and structure belong together.
        let call = unsafe { Updater::<UFFDIO_REGISTER, Register>::new(&mut register) };
        // SAFETY: the range is the caller's; being registered changes nothing in it.
        unsafe { rustix::ioctl::ioctl(&fd, call) }?;
        // Only pages that are there can be protected.
        // SAFETY: reading faults change no contents.
        unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, Advice::LinuxPopulateRead) }?;
        let protect = WriteProtect { range, mode: UFFDIO_WRITEPROTECT_MODE_WP };
        // SAFETY: number and structure belong together.
        let call = unsafe { Setter::<UFFDIO_WRITEPROTECT, WriteProtect>::new(protect) };
        // SAFETY: the range is the caller's; its writers wait until the fd is closed.
        unsafe { rustix::ioctl::ioctl(&fd, call) }?;
        Ok(Self { _fault_fd: fd })
    }
}
