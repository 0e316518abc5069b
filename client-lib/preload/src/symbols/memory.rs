//! Memory.

use std::ffi::{c_int, c_void};

use crate::errno::Errno;
use crate::mapping::{self, Wanted};
use crate::node;
use crate::real;
use crate::userptr::remap::Remap;
use crate::userptr::{self, watch};
use crate::verdict::{Verdict, decide};

/// MADV_DONTNEED_LOCKED.
const DONTNEED_LOCKED: c_int = 24;

fn map(wanted: Wanted, fd: c_int, offset: i64) -> *mut c_void {
    let mapped = map_unwatched(wanted, fd, offset);
    if mapped != libc::MAP_FAILED {
        watch::changed(mapped.addr(), wanted.length);
    }
    mapped
}

fn map_unwatched(wanted: Wanted, fd: c_int, offset: i64) -> *mut c_void {
    let Wanted { address, length, protection, flags } = wanted;
    let real = || {
        // SAFETY: the program's own arguments to the same function.
        unsafe { real::mmap(address, length, protection, flags, fd, offset) }
    };
    if fd < 0 || flags & libc::MAP_ANONYMOUS != 0 {
        // Allocators come this way, perhaps before this thread can have anything of its own.
        return real();
    }
    let ours = || {
        let Some(node) = node::of(fd) else { return Verdict::NotOurs };
        match u64::try_from(offset) {
            Ok(offset) => mapping::at_offset(&node, wanted, offset).into(),
            Err(_) => Verdict::Refused(Errno(libc::EINVAL)),
        }
    };
    decide(libc::MAP_FAILED, ours, real)
}

interpose! {
    /// Maps a file, or a buffer of the device.
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void {
        map(Wanted { address, length, protection, flags }, fd, offset)
    }
    /// As `mmap`; on 64-bit machines they are the same.
    fn mmap64(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void {
        map(Wanted { address, length, protection, flags }, fd, offset)
    }
    /// Unmaps memory, which the GPU may have.
    fn munmap(address: *mut c_void, length: usize) -> c_int {
        // SAFETY: the program's own arguments to the same function.
        let result = unsafe { real::munmap(address, length) };
        if result == 0 {
            watch::changed(address.addr(), length);
        }
        result
    }
    /// Changes what may be done with memory, which the GPU may have.
    fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int {
        // SAFETY: the program's own arguments to the same function.
        let result = unsafe { real::mprotect(address, length, protection) };
        if result == 0 {
            watch::changed(address.addr(), length);
        }
        result
    }
    /// Moves and resizes memory, which the GPU may have. The last argument counts with a flag only.
    fn mremap(
        old: *mut c_void,
        old_size: usize,
        size: usize,
        flags: c_int,
        new: *mut c_void,
    ) -> *mut c_void {
        let ours = || {
            let remap = Remap { old, old_size, size, flags, new };
            if remap.needs_help() { remap.run().into() } else { Verdict::NotOurs }
        };
        decide(libc::MAP_FAILED, ours, || {
            // SAFETY: the program's own arguments to the same function.
            let moved = unsafe { real::mremap(old, old_size, size, flags, new) };
            if moved != libc::MAP_FAILED {
                watch::changed(old.addr(), old_size);
                watch::changed(moved.addr(), size);
            }
            moved
        })
    }
    /// Gives contents of memory up, among other things; the GPU may have it.
    fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int {
        let range = address.addr()..address.addr().saturating_add(length);
        let discards = matches!(advice, libc::MADV_DONTNEED | libc::MADV_FREE | DONTNEED_LOCKED);
        if !discards || !watch::overlaps(&range) {
            // SAFETY: the program's own arguments to the same function.
            return unsafe { real::madvise(address, length, advice) };
        }
        // What is mapped there is a file to the kernel, which would keep its contents, or refuse.
        let advice = if advice == libc::MADV_FREE { libc::MADV_DONTNEED } else { advice };
        // SAFETY: as above; contents that may go at any time may go now.
        let result = unsafe { real::madvise(address, length, advice) };
        if result == 0 {
            let ours = || {
                userptr::discard(&range);
                Verdict::Ours(())
            };
            decide((), ours, || watch::discard(&range));
        }
        result
    }
}
