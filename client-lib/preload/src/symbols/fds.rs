//! What is done with fds.

use std::ffi::{c_int, c_uint, c_ulong, c_void};

use crate::errno::Errno;
use crate::ioctl as device;
use crate::node;
use crate::real;
use crate::verdict::{Inside, Verdict, decide};

/// A duplicate was made, unless that failed.
fn duplicated(old: c_int, new: c_int) -> c_int {
    if new >= 0
        && new != old
        && let Some(_inside) = Inside::enter()
    {
        node::duplicated(old, new);
    }
    new
}

/// Makes a duplicate in the place of another fd, which that closes.
fn over(to: c_int, duplicate: impl Fn() -> c_int) -> c_int {
    let ours = || {
        if !node::may_be_shared(to) {
            return Verdict::NotOurs;
        }
        Verdict::Ours(node::quietly(&duplicate))
    };
    decide(-1, ours, &duplicate)
}

fn control(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
    // SAFETY: the program's own arguments to the same function.
    let result = unsafe { real::fcntl(fd, command, argument) };
    if command == libc::F_DUPFD || command == libc::F_DUPFD_CLOEXEC {
        return duplicated(fd, result);
    }
    result
}

/// CLOSE_RANGE_CLOEXEC.
const ONLY_MARK: c_int = 4;

/// Closes what is between, in pieces around our own fds.
fn close_between(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags & ONLY_MARK == 0 {
        let bound = |number: c_uint| c_int::try_from(number).unwrap_or(c_int::MAX);
        node::closed_range(bound(first), bound(last));
    }
    let mut from = first;
    for own in node::own().into_iter().filter_map(|fd| c_uint::try_from(fd).ok()) {
        if (from..=last).contains(&own) {
            if own > from {
                // SAFETY: a part of the range that the program named.
                unsafe { real::close_range(from, own - 1, flags) };
            }
            from = own.saturating_add(1);
        }
    }
    // SAFETY: as above.
    if from <= last { unsafe { real::close_range(from, last, flags) } } else { 0 }
}

/// Looks for nodes among the fds that a message carries.
fn sending(message: *const libc::msghdr) {
    let Some(_inside) = Inside::enter() else { return };
    // A bad pointer, or a list of fds that ends early, is the kernel's to refuse.
    for fd in crate::user::passed_fds(message.addr() as u64).unwrap_or_default() {
        node::sent(fd);
    }
}

interpose! {
    /// Sends a message, perhaps with fds of the device in it.
    fn sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> isize {
        sending(message);
        // SAFETY: the program's own arguments to the same function.
        unsafe { real::sendmsg(fd, message, flags) }
    }
    /// Device control.
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        let real = || {
            // SAFETY: the program's own arguments to the same function.
            unsafe { real::ioctl(fd, request, argument) }
        };
        // The kernel looks at 32 bits.
        let number = u32::try_from(request & 0xffff_ffff).unwrap_or(0);
        if !device::may_be_ours(number) {
            return real();
        }
        decide(-1, || device::handle(fd, number, argument.expose_provenance() as u64), real)
    }
    /// Closes an fd; with the last one of an open device its session goes.
    fn close(fd: c_int) -> c_int {
        let ours = || {
            if node::is_own(fd) {
                return Verdict::Refused(Errno(libc::EBADF));
            }
            // Before the number can be given to somebody else.
            node::closed(fd);
            if node::may_be_shared(fd) {
                // SAFETY: the program's own argument to the same function.
                return Verdict::Ours(node::quietly(|| unsafe { real::close(fd) }));
            }
            Verdict::NotOurs
        };
        // SAFETY: the program's own argument to the same function.
        decide(-1, ours, || unsafe { real::close(fd) })
    }
    /// Closes fds from a number on, but not ours.
    fn closefrom(from: c_int) {
        let ours = || {
            let from = c_uint::try_from(from.max(0)).unwrap_or(0);
            node::quietly(|| close_between(from, c_uint::MAX, 0));
            Verdict::Ours(())
        };
        decide((), ours, || {
            // SAFETY: the program's own range, by the system call that glibc makes too.
            unsafe { real::close_range(c_uint::try_from(from.max(0)).unwrap_or(0), c_uint::MAX, 0) };
        });
    }
    /// Closes a range of fds, but not ours.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        let ours = || {
            if first > last {
                return Verdict::Refused(Errno(libc::EINVAL));
            }
            Verdict::Ours(node::quietly(|| close_between(first, last, flags)))
        };
        // SAFETY: the program's own arguments to the same function.
        decide(-1, ours, || unsafe { real::close_range(first, last, flags) })
    }
    /// Duplicates an fd.
    fn dup(fd: c_int) -> c_int {
        // SAFETY: the program's own argument to the same function.
        duplicated(fd, unsafe { real::dup(fd) })
    }
    /// Duplicates an fd to a number.
    fn dup2(fd: c_int, to: c_int) -> c_int {
        // SAFETY: the program's own arguments to the same function.
        duplicated(fd, over(to, || unsafe { real::dup2(fd, to) }))
    }
    /// As `dup2`, with flags.
    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
        // SAFETY: the program's own arguments to the same function.
        duplicated(fd, over(to, || unsafe { real::dup3(fd, to, flags) }))
    }
    /// Duplicates fds too, among other things.
    fn fcntl(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
        control(fd, command, argument)
    }
    /// As `fcntl`.
    fn fcntl64(fd: c_int, command: c_int, argument: c_ulong) -> c_int {
        control(fd, command, argument)
    }
}
