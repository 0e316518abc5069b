//! What files look like: the tree's nodes are character devices.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::mem::MaybeUninit;

use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};

use crate::node;
use crate::paths::{self, Place};
use crate::real;
use crate::tree;
use crate::verdict::{Verdict, decide};

/// Names an fd itself, with AT_EMPTY_PATH.
fn itself() -> *const c_char {
    c"".as_ptr()
}

/// Major number of DRM devices.
const DRM_MAJOR: u32 = 226;
/// Readable and writable for all: who may use the device is who may connect to the broker.
const NODE_MODE: u16 = 0o020_666;
const _: () = assert!(NODE_MODE as u32 == libc::S_IFCHR | 0o666);

/// The node that an open file of the tree is.
pub(crate) fn node_of(fd: c_int) -> Option<u32> {
    let tree = tree::known()?;
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: an empty path asks for the fd itself; `stat` has room for the answer.
    let result = unsafe { real::fstatat(fd, itself(), stat.as_mut_ptr(), AT_EMPTY_PATH) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    tree.node(stat.st_dev, stat.st_ino)
}

/// What to look at instead of what the program named.
enum Instead {
    Path(CString),
    /// The same, but it may turn out to be a node.
    Same,
}

fn instead(dirfd: c_int, path: *const c_char, flags: c_int) -> Option<Instead> {
    let of_fd = |fd| {
        let minor = node::minor_of(fd)?;
        let path = format!("{}{}", tree::get()?.root(), tree::path_of(minor));
        CString::new(path).ok().map(Instead::Path)
    };
    let of_itself = flags & AT_EMPTY_PATH != 0
        && (path.is_null()
            || path == itself()
            || crate::user::string(path).is_ok_and(|path| path.is_empty()));
    if of_itself {
        return of_fd(dirfd).or_else(|| tree::known().map(|_| Instead::Same));
    }
    match paths::locate(dirfd, path).ok()? {
        Place::Elsewhere => None,
        Place::Fd(_) if flags & AT_SYMLINK_NOFOLLOW != 0 => None,
        Place::Fd(fd) => of_fd(fd),
        Place::Node(_, path) | Place::Tree(path) => Some(Instead::Path(path)),
    }
}

fn look(dirfd: c_int, path: *const c_char, into: *mut libc::stat, flags: c_int) -> c_int {
    let real = |dirfd, path| {
        // SAFETY: the kernel checks both pointers.
        unsafe { real::fstatat(dirfd, path, into, flags) }
    };
    let ours = || {
        let result = match instead(dirfd, path, flags) {
            None => return Verdict::NotOurs,
            Some(Instead::Path(path)) => real(AT_FDCWD, path.as_ptr()),
            Some(Instead::Same) => real(dirfd, path),
        };
        if result == 0 {
            // SAFETY: the kernel has just filled it in for this thread.
            disguise(unsafe { &mut *into });
        }
        Verdict::Ours(result)
    };
    decide(-1, ours, || real(dirfd, path))
}

fn disguise(stat: &mut libc::stat) {
    let node = tree::known().and_then(|tree| tree.node(stat.st_dev, stat.st_ino));
    if let Some(minor) = node {
        stat.st_mode = NODE_MODE.into();
        stat.st_rdev = libc::makedev(DRM_MAJOR, minor);
        stat.st_size = 0;
    }
}

fn look_x(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut libc::statx,
) -> c_int {
    let real = |dirfd, path, mask| {
        // SAFETY: the kernel checks both pointers.
        unsafe { real::statx(dirfd, path, flags, mask, into) }
    };
    let ours = || {
        let mask = mask | libc::STATX_INO | libc::STATX_TYPE | libc::STATX_MODE;
        let result = match instead(dirfd, path, flags) {
            None => return Verdict::NotOurs,
            Some(Instead::Path(path)) => real(AT_FDCWD, path.as_ptr(), mask),
            Some(Instead::Same) => real(dirfd, path, mask),
        };
        if result == 0 {
            // SAFETY: the kernel has just filled it in for this thread.
            disguise_x(unsafe { &mut *into });
        }
        Verdict::Ours(result)
    };
    decide(-1, ours, || real(dirfd, path, mask))
}

fn disguise_x(stat: &mut libc::statx) {
    let device = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    if let Some(minor) = tree::known().and_then(|tree| tree.node(device, stat.stx_ino)) {
        stat.stx_mode = NODE_MODE;
        stat.stx_rdev_major = DRM_MAJOR;
        stat.stx_rdev_minor = minor;
        stat.stx_size = 0;
    }
}

/// What udev asks of a file to believe that it is sysfs.
const SYSFS_MAGIC: i64 = 0x6265_6572;
const DEBUGFS_MAGIC: i64 = 0x6462_6720;

/// The file system that a path of the tree seems to be on.
fn magic(path: &str) -> Option<i64> {
    if path.starts_with("/sys/kernel/debug") {
        return Some(DEBUGFS_MAGIC);
    }
    path.starts_with("/sys").then_some(SYSFS_MAGIC)
}

/// Answers `statfs` for a file of the tree, whose path in it is known.
fn file_system(path: Option<CString>, into: *mut libc::statfs) -> Verdict<c_int> {
    let Some((path, tree)) = path.zip(tree::known()) else { return Verdict::NotOurs };
    // SAFETY: the kernel checks `into`; the path is ours.
    let result = unsafe { real::statfs(path.as_ptr(), into) };
    let inside = path.to_str().map(|path| paths::visible(tree, path));
    if let (0, Some(magic)) = (result, inside.ok().and_then(magic)) {
        // SAFETY: the kernel has just filled it in for this thread.
        unsafe { (*into).f_type = magic };
    }
    Verdict::Ours(result)
}

fn file_system_of(fd: c_int, into: *mut libc::statfs) -> c_int {
    let ours = || {
        let Some(tree) = tree::known() else { return Verdict::NotOurs };
        let inside = paths::link_of(fd).filter(|path| path.starts_with(tree.root()));
        file_system(inside.and_then(|path| CString::new(path).ok()), into)
    };
    // SAFETY: the kernel checks the pointer.
    decide(-1, ours, || unsafe { real::fstatfs(fd, into) })
}

fn file_system_at(path: *const c_char, into: *mut libc::statfs) -> c_int {
    let ours = || match paths::locate(AT_FDCWD, path) {
        Ok(Place::Node(_, path) | Place::Tree(path)) => file_system(Some(path), into),
        Ok(Place::Elsewhere | Place::Fd(_)) | Err(_) => Verdict::NotOurs,
    };
    // SAFETY: the kernel checks both pointers.
    decide(-1, ours, || unsafe { real::statfs(path, into) })
}

interpose! {
    /// The file system of what is open.
    fn fstatfs(fd: c_int, into: *mut libc::statfs) -> c_int {
        file_system_of(fd, into)
    }
    /// As `fstatfs`; on 64-bit machines they are the same.
    fn fstatfs64(fd: c_int, into: *mut libc::statfs) -> c_int {
        file_system_of(fd, into)
    }
    /// The file system of a path.
    fn statfs(path: *const c_char, into: *mut libc::statfs) -> c_int {
        file_system_at(path, into)
    }
    /// As `statfs`.
    fn statfs64(path: *const c_char, into: *mut libc::statfs) -> c_int {
        file_system_at(path, into)
    }
    /// Looks at a path.
    fn stat(path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, 0)
    }
    /// As `stat`; on 64-bit machines they are the same.
    fn stat64(path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, 0)
    }
    /// As `stat`, of a link itself.
    fn lstat(path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW)
    }
    /// As `lstat`.
    fn lstat64(path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW)
    }
    /// As `stat`, of what is open.
    fn fstat(fd: c_int, into: *mut libc::stat) -> c_int {
        look(fd, itself(), into, AT_EMPTY_PATH)
    }
    /// As `fstat`.
    fn fstat64(fd: c_int, into: *mut libc::stat) -> c_int {
        look(fd, itself(), into, AT_EMPTY_PATH)
    }
    /// As `stat`, relative to a directory.
    fn fstatat(dirfd: c_int, path: *const c_char, into: *mut libc::stat, flags: c_int) -> c_int {
        look(dirfd, path, into, flags)
    }
    /// As `fstatat`.
    fn fstatat64(dirfd: c_int, path: *const c_char, into: *mut libc::stat, flags: c_int) -> c_int {
        look(dirfd, path, into, flags)
    }
    /// As `stat`, from programs of older C libraries.
    fn __xstat(_version: c_int, path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, 0)
    }
    /// As `__xstat`.
    fn __xstat64(_version: c_int, path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, 0)
    }
    /// As `lstat`, from programs of older C libraries.
    fn __lxstat(_version: c_int, path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW)
    }
    /// As `__lxstat`.
    fn __lxstat64(_version: c_int, path: *const c_char, into: *mut libc::stat) -> c_int {
        look(AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW)
    }
    /// As `fstat`, from programs of older C libraries.
    fn __fxstat(_version: c_int, fd: c_int, into: *mut libc::stat) -> c_int {
        look(fd, itself(), into, AT_EMPTY_PATH)
    }
    /// As `__fxstat`.
    fn __fxstat64(_version: c_int, fd: c_int, into: *mut libc::stat) -> c_int {
        look(fd, itself(), into, AT_EMPTY_PATH)
    }
    /// As `fstatat`, from programs of older C libraries.
    fn __fxstatat(
        _version: c_int,
        dirfd: c_int,
        path: *const c_char,
        into: *mut libc::stat,
        flags: c_int,
    ) -> c_int {
        look(dirfd, path, into, flags)
    }
    /// As `__fxstatat`.
    fn __fxstatat64(
        _version: c_int,
        dirfd: c_int,
        path: *const c_char,
        into: *mut libc::stat,
        flags: c_int,
    ) -> c_int {
        look(dirfd, path, into, flags)
    }
    /// As `fstatat`, with more to see.
    fn statx(
        dirfd: c_int,
        path: *const c_char,
        flags: c_int,
        mask: c_uint,
        into: *mut libc::statx,
    ) -> c_int {
        look_x(dirfd, path, flags, mask, into)
    }
}
