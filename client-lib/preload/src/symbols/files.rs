//! Opening files, and what else takes a path.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use libc::AT_FDCWD;

use crate::errno::{Errno, Outcome};
use crate::node;
use crate::paths::{self, Place};
use crate::real::{self, Compare, Select};
use crate::tree;
use crate::verdict::{Verdict, decide};

/// Opens a path of any kind.
fn open_at(dirfd: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    decide(
        -1,
        || open_ours(dirfd, path, flags, mode),
        // SAFETY: the program's own arguments to the same function.
        || unsafe { real::openat(dirfd, path, flags, mode) },
    )
}

fn open_ours(dirfd: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> Verdict<c_int> {
    match paths::locate(dirfd, path) {
        // The real function fails the same way.
        Err(_) | Ok(Place::Elsewhere) => Verdict::NotOurs,
        Ok(Place::Fd(fd)) => match node::minor_of(fd) {
            Some(minor) => open_node(minor, flags).into(),
            None => Verdict::NotOurs,
        },
        Ok(Place::Node(minor, _)) if flags & libc::O_PATH == 0 => open_node(minor, flags).into(),
        Ok(Place::Node(_, real) | Place::Tree(real)) => open_file(&real, flags, mode).into(),
    }
}

fn open_node(minor: u32, flags: c_int) -> Outcome<c_int> {
    if flags & libc::O_DIRECTORY != 0 {
        return Err(Errno(libc::ENOTDIR));
    }
    if flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 {
        return Err(Errno(libc::EEXIST));
    }
    node::open(minor, flags & libc::O_CLOEXEC != 0)
}

fn open_file(path: &CString, flags: c_int, mode: c_uint) -> Outcome<c_int> {
    // An attribute is written as a whole: what was longer must not shine through.
    let attribute = flags & libc::O_ACCMODE == libc::O_WRONLY;
    let flags = if attribute { flags | libc::O_TRUNC } else { flags };
    // SAFETY: the path is a C string of ours.
    let fd = unsafe { real::openat(AT_FDCWD, path.as_ptr(), flags & !libc::O_CREAT, mode) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // A link may have led to a node.
    let minor = if flags & libc::O_PATH == 0 { super::stat::node_of(fd) } else { None };
    let Some(minor) = minor else { return Ok(fd) };
    // SAFETY: the fd was opened above and nobody else knows of it.
    unsafe { real::close(fd) };
    open_node(minor, flags)
}

/// The path to use instead, if it is one of ours.
fn instead(dirfd: c_int, path: *const c_char) -> Option<CString> {
    match paths::locate(dirfd, path) {
        Ok(Place::Node(_, real) | Place::Tree(real)) => Some(real),
        Ok(Place::Elsewhere | Place::Fd(_)) | Err(_) => None,
    }
}

/// A function of a path, with ours put in the place of the program's where it is ours.
fn redirected<T>(
    failed: T,
    dirfd: c_int,
    path: *const c_char,
    real: impl Fn(c_int, *const c_char) -> T,
) -> T {
    let ours = || match instead(dirfd, path) {
        Some(path) => Verdict::Ours(real(AT_FDCWD, path.as_ptr())),
        None => Verdict::NotOurs,
    };
    decide(failed, ours, || real(dirfd, path))
}

fn stream(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    redirected(std::ptr::null_mut(), AT_FDCWD, path, |_, path| {
        // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
        unsafe { real::fopen(path, mode) }
    })
}

fn list(path: *const c_char, into: *mut c_void, select: Select, compare: Compare) -> c_int {
    redirected(-1, AT_FDCWD, path, |_, path| {
        // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
        unsafe { real::scandir(path, into, select, compare) }
    })
}

fn accessible(dirfd: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
    redirected(-1, dirfd, path, |dirfd, path| {
        // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
        unsafe { real::faccessat(dirfd, path, mode, flags) }
    })
}

fn link(dirfd: c_int, path: *const c_char, into: *mut c_char, size: usize) -> isize {
    let real = |dirfd, path| {
        // SAFETY: the kernel checks the pointers.
        unsafe { real::readlinkat(dirfd, path, into, size) }
    };
    let ours = || {
        let Ok(place) = paths::locate(dirfd, path) else { return Verdict::NotOurs };
        let target = match place {
            Place::Elsewhere => return Verdict::NotOurs,
            Place::Node(_, path) | Place::Tree(path) => {
                return Verdict::Ours(real(AT_FDCWD, path.as_ptr()));
            }
            Place::Fd(fd) => match node::minor_of(fd) {
                Some(minor) => tree::path_of(minor).to_owned(),
                None => match (tree::known(), paths::link_of(fd)) {
                    (Some(tree), Some(target)) => paths::visible(tree, &target).to_owned(),
                    _ => return Verdict::NotOurs,
                },
            },
        };
        let length = target.len().min(size);
        let text = target.as_bytes().get(..length).unwrap_or_default();
        crate::user::write(into.addr() as u64, text).map(|()| length.cast_signed()).into()
    };
    decide(-1, ours, || real(dirfd, path))
}

fn canonical(path: *const c_char, resolved: *mut c_char) -> *mut c_char {
    let real = |path| {
        // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
        unsafe { real::realpath(path, resolved) }
    };
    let ours = || {
        let Some(path) = instead(AT_FDCWD, path) else { return Verdict::NotOurs };
        let found = real(path.as_ptr());
        if let Some(tree) = tree::known()
            && !found.is_null()
        {
            strip(found, tree.root());
        }
        Verdict::Ours(found)
    };
    decide(std::ptr::null_mut(), ours, || real(path))
}

/// Takes the tree's root off the front of a C string, in place.
fn strip(text: *mut c_char, root: &str) {
    let Ok(found) = crate::user::string(text) else { return };
    if let Some(rest) = found.strip_prefix(root.as_bytes()) {
        let rest: Vec<u8> = rest.iter().copied().chain([0]).collect();
        // Shorter than what is there, and what is there was just written; a failure leaves it.
        let _ = crate::user::write(text.addr() as u64, &rest);
    }
}

interpose! {
    /// Opens a file, or the device.
    fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        open_at(AT_FDCWD, path, flags, mode)
    }
    /// As `open`.
    fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        open_at(AT_FDCWD, path, flags, mode)
    }
    /// As `open`, from programs compiled with fortification.
    fn __open_2(path: *const c_char, flags: c_int) -> c_int {
        open_at(AT_FDCWD, path, flags, 0)
    }
    /// As `__open_2`.
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
        open_at(AT_FDCWD, path, flags, 0)
    }
    /// As `open`, relative to a directory.
    fn openat(dirfd: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        open_at(dirfd, path, flags, mode)
    }
    /// As `openat`.
    fn openat64(dirfd: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        open_at(dirfd, path, flags, mode)
    }
    /// As `openat`, from programs compiled with fortification.
    fn __openat_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int {
        open_at(dirfd, path, flags, 0)
    }
    /// As `__openat_2`.
    fn __openat64_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int {
        open_at(dirfd, path, flags, 0)
    }
    /// Opens a stream.
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
        stream(path, mode)
    }
    /// As `fopen`.
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
        stream(path, mode)
    }
    /// Opens a directory.
    fn opendir(path: *const c_char) -> *mut libc::DIR {
        redirected(std::ptr::null_mut(), AT_FDCWD, path, |_, path| {
            // SAFETY: the program's own argument, or a C string of ours.
            unsafe { real::opendir(path) }
        })
    }
    /// Lists a directory.
    fn scandir(path: *const c_char, into: *mut c_void, select: Select, compare: Compare) -> c_int {
        list(path, into, select, compare)
    }
    /// As `scandir`; on 64-bit machines they are the same.
    fn scandir64(path: *const c_char, into: *mut c_void, select: Select, compare: Compare) -> c_int {
        list(path, into, select, compare)
    }
    /// Whether a file may be used.
    fn access(path: *const c_char, mode: c_int) -> c_int {
        accessible(AT_FDCWD, path, mode, 0)
    }
    /// As `access`, with the effective user.
    fn eaccess(path: *const c_char, mode: c_int) -> c_int {
        accessible(AT_FDCWD, path, mode, libc::AT_EACCESS)
    }
    /// As `eaccess`.
    fn euidaccess(path: *const c_char, mode: c_int) -> c_int {
        accessible(AT_FDCWD, path, mode, libc::AT_EACCESS)
    }
    /// As `access`, relative to a directory.
    fn faccessat(dirfd: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        accessible(dirfd, path, mode, flags)
    }
    /// Reads a link.
    fn readlink(path: *const c_char, into: *mut c_char, size: usize) -> isize {
        link(AT_FDCWD, path, into, size)
    }
    /// As `readlink`, relative to a directory.
    fn readlinkat(dirfd: c_int, path: *const c_char, into: *mut c_char, size: usize) -> isize {
        link(dirfd, path, into, size)
    }
    /// As `readlink`, from programs compiled with fortification.
    fn __readlink_chk(
        path: *const c_char,
        into: *mut c_char,
        size: usize,
        room: usize,
    ) -> isize {
        link(AT_FDCWD, path, into, size.min(room))
    }
    /// As `readlinkat`, from programs compiled with fortification.
    fn __readlinkat_chk(
        dirfd: c_int,
        path: *const c_char,
        into: *mut c_char,
        size: usize,
        room: usize,
    ) -> isize {
        link(dirfd, path, into, size.min(room))
    }
    /// An attribute of a file, which `ls -l` asks for.
    fn getxattr(
        path: *const c_char,
        name: *const c_char,
        into: *mut c_void,
        size: usize,
    ) -> isize {
        redirected(-1, AT_FDCWD, path, |_, path| {
            // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
            unsafe { real::getxattr(path, name, into, size) }
        })
    }
    /// As `getxattr`, of a link itself.
    fn lgetxattr(
        path: *const c_char,
        name: *const c_char,
        into: *mut c_void,
        size: usize,
    ) -> isize {
        redirected(-1, AT_FDCWD, path, |_, path| {
            // SAFETY: the program's own arguments, or a C string of ours in the place of its path.
            unsafe { real::lgetxattr(path, name, into, size) }
        })
    }
    /// Resolves a path.
    fn realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char {
        canonical(path, resolved)
    }
    /// As `realpath`, from programs compiled with fortification, which gave it room enough.
    fn __realpath_chk(path: *const c_char, resolved: *mut c_char, _room: usize) -> *mut c_char {
        canonical(path, resolved)
    }
    /// As `realpath` with memory of its own.
    fn canonicalize_file_name(path: *const c_char) -> *mut c_char {
        canonical(path, std::ptr::null_mut())
    }
}
