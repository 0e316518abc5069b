//! Buffers over the program's own memory.

use std::ffi::c_int;

use gpu_broker_client::protocol::limits::BUFFER_BYTES_MAX;
use gpu_broker_client::protocol::userptr::flag;
use gpu_broker_uapi::i915::drm_i915_gem_userptr;

use crate::arg::{Arg, at};
use crate::errno::{Errno, Outcome};
use crate::node::Node;
use crate::userptr;

/// Where a program's addresses end.
const ADDRESSES_END: u64 = (1 << 47) - 4096;

pub(super) fn create(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type U = drm_i915_gem_userptr;
    let (start, size) = (arg.u64(at!(U, user_ptr)), arg.u64(at!(U, user_size)));
    let flags = arg.u32(at!(U, flags));
    check(start, size, flags)?;
    let address = |address: u64| usize::try_from(address).map_err(|_| Errno(libc::EFAULT));
    let made = userptr::create(node, address(start)?..address(start + size)?, flags)?;
    arg.set_u32(at!(U, handle), made.buffer.0);
    Ok(0)
}

/// What can be wrong with the numbers, in the kernel's order (rule table §14).
fn check(start: u64, size: u64, flags: u32) -> Outcome<()> {
    let errno = if flags & flag::UNKNOWN != 0 {
        libc::EINVAL
    } else if size > BUFFER_BYTES_MAX {
        libc::E2BIG
    } else if size == 0 || !(start | size).is_multiple_of(4096) {
        libc::EINVAL
    } else if start.checked_add(size).is_none_or(|end| end > ADDRESSES_END) {
        libc::EFAULT
    } else if flags & flag::UNSYNCHRONIZED != 0 {
        libc::ENODEV
    } else {
        return Ok(());
    };
    Err(Errno(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_refused_in_the_kernels_order() {
        let unsynchronized = flag::UNSYNCHRONIZED;
        for (start, size, flags, errno) in [
            (1, u64::MAX, 4, libc::EINVAL),
            (1, u64::MAX, unsynchronized, libc::E2BIG),
            (1, 0, unsynchronized, libc::EINVAL),
            (4096, 0, 0, libc::EINVAL),
            (4095, 4096, 0, libc::EINVAL),
            (4096, 4095, 0, libc::EINVAL),
            (u64::MAX - 4095, 4096, unsynchronized, libc::EFAULT),
            (ADDRESSES_END, 4096, 0, libc::EFAULT),
            (4096, 4096, unsynchronized, libc::ENODEV),
        ] {
            assert_eq!(
                check(start, size, flags),
                Err(Errno(errno)),
                "{start:#x} {size} {flags:#x}"
            );
        }
        assert_eq!(check(ADDRESSES_END - 4096, 4096, flag::READ_ONLY | flag::PROBE), Ok(()));
    }
}
