//! Memory.

use std::ffi::{c_int, c_void};

use crate::errno::Errno;
use crate::mapping::{self, Wanted};
use crate::node;
use crate::real;
use crate::verdict::{Verdict, decide};

fn map(wanted: Wanted, fd: c_int, offset: i64) -> *mut c_void {
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
}
