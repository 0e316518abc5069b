//! The functions that ours stand in front of.
//!
//! Memory mapping goes straight to the kernel: an allocator may ask for memory while the dynamic
//! linker looks a function up, and would get into its own way.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Finds the next definition of a function and remembers it.
fn next(cache: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the name is a C string; the linker looks in the libraries that come after ours.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    cache.store(found, Ordering::Relaxed);
    found
}

/// Declares functions that call the next definition of themselves. They fail with ENOSYS when
/// there is none.
macro_rules! real {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $failed:expr;)*) => {$(
        /// # Safety
        /// As for the libc function of that name.
        pub(crate) unsafe fn $name($($arg: $ty),*) -> $ret {
            static CACHE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let name = concat!(stringify!($name), "\0");
            let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or(c"");
            let function = next(&CACHE, name);
            if function.is_null() {
                crate::errno::set(crate::errno::Errno(libc::ENOSYS));
                return $failed;
            }
            // SAFETY: the symbol is libc's function of that name, which has this signature.
            let function = unsafe {
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) -> $ret>(function)
            };
            // SAFETY: the caller keeps the function's own contract.
            unsafe { function($($arg),*) }
        }
    )*};
}

type Mode = c_uint;
pub(crate) type Select = Option<unsafe extern "C" fn(*const libc::dirent) -> c_int>;
pub(crate) type Compare =
    Option<unsafe extern "C" fn(*mut *const libc::dirent, *mut *const libc::dirent) -> c_int>;

real! {
    openat(dirfd: c_int, path: *const c_char, flags: c_int, mode: Mode) -> c_int = -1;
    fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE = std::ptr::null_mut();
    opendir(path: *const c_char) -> *mut libc::DIR = std::ptr::null_mut();
    scandir(path: *const c_char, list: *mut c_void, select: Select, compare: Compare) -> c_int = -1;
    realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char = std::ptr::null_mut();
    faccessat(dirfd: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int = -1;
    getxattr(path: *const c_char, name: *const c_char, into: *mut c_void, size: usize) -> isize = -1;
    lgetxattr(path: *const c_char, name: *const c_char, into: *mut c_void, size: usize) -> isize = -1;
    ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int = -1;
    close(fd: c_int) -> c_int = -1;
    sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> isize = -1;
    dup(fd: c_int) -> c_int = -1;
    dup2(fd: c_int, to: c_int) -> c_int = -1;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = -1;
    fcntl(fd: c_int, command: c_int, argument: c_ulong) -> c_int = -1;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = -1;
}

/// newfstatat, whose structure is libc's own on every 64-bit machine.
///
/// # Safety
/// `path` and `into` are the program's; the kernel checks both.
pub(crate) unsafe fn fstatat(
    dirfd: c_int,
    path: *const c_char,
    into: *mut libc::stat,
    flags: c_int,
) -> c_int {
    // SAFETY: the kernel checks both pointers and answers EFAULT.
    int(unsafe { libc::syscall(libc::SYS_newfstatat, dirfd, path, into, flags) })
}

/// # Safety
/// As [`fstatat`].
pub(crate) unsafe fn statx(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut libc::statx,
) -> c_int {
    // SAFETY: the kernel checks both pointers and answers EFAULT.
    int(unsafe { libc::syscall(libc::SYS_statx, dirfd, path, flags, mask, into) })
}

/// # Safety
/// As [`fstatat`].
pub(crate) unsafe fn statfs(path: *const c_char, into: *mut libc::statfs) -> c_int {
    // SAFETY: the kernel checks both pointers and answers EFAULT.
    int(unsafe { libc::syscall(libc::SYS_statfs, path, into) })
}

/// # Safety
/// As [`fstatat`].
pub(crate) unsafe fn fstatfs(fd: c_int, into: *mut libc::statfs) -> c_int {
    // SAFETY: the kernel checks the pointer and answers EFAULT.
    int(unsafe { libc::syscall(libc::SYS_fstatfs, fd, into) })
}

/// # Safety
/// As [`fstatat`], for `size` bytes at `into`.
pub(crate) unsafe fn readlinkat(
    dirfd: c_int,
    path: *const c_char,
    into: *mut c_char,
    size: usize,
) -> isize {
    // SAFETY: the kernel checks both pointers and answers EFAULT.
    let result = unsafe { libc::syscall(libc::SYS_readlinkat, dirfd, path, into, size) };
    isize::try_from(result).unwrap_or(-1)
}

/// # Safety
/// As mmap(2): with MAP_FIXED it replaces what is there.
pub(crate) unsafe fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller answers for what is replaced; the kernel checks the rest.
    let result =
        unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, fd, offset) };
    pointer(result)
}

/// # Safety
/// As munmap(2).
pub(crate) unsafe fn munmap(address: *mut c_void, length: usize) -> c_int {
    // SAFETY: the caller answers for what is unmapped.
    int(unsafe { libc::syscall(libc::SYS_munmap, address, length) })
}

/// # Safety
/// As mprotect(2).
pub(crate) unsafe fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int {
    // SAFETY: the caller answers for what may be done with the memory then.
    int(unsafe { libc::syscall(libc::SYS_mprotect, address, length, protection) })
}

/// # Safety
/// As madvise(2).
pub(crate) unsafe fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int {
    // SAFETY: the caller answers for what the advice does to contents.
    int(unsafe { libc::syscall(libc::SYS_madvise, address, length, advice) })
}

/// # Safety
/// As mremap(2).
pub(crate) unsafe fn mremap(
    old: *mut c_void,
    old_size: usize,
    size: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller answers for what is moved and replaced.
    pointer(unsafe { libc::syscall(libc::SYS_mremap, old, old_size, size, flags, new) })
}

fn int(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

fn pointer(result: c_long) -> *mut c_void {
    // -1 for a failure, so MAP_FAILED.
    std::ptr::with_exposed_provenance_mut(isize::try_from(result).unwrap_or(-1).cast_unsigned())
}
