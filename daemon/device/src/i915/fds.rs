//! What a client's fd is, found out without asking the file itself: an ioctl, or even fstat, of a
//! file in user space waits for as long as its server likes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{AtFlags, StatxFlags, statx};

/// Device numbers of the file systems that the kernel's own files live on.
type Place = (u32, u32);

/// Where the file lives, as far as its inode knows without asking anybody.
fn place(fd: BorrowedFd<'_>) -> Option<Place> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(fd, "", flags, StatxFlags::TYPE).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor))
}

/// Number of the inode: what two dma-bufs of the same memory have in common.
pub(super) fn inode(fd: BorrowedFd<'_>) -> Option<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(fd, "", flags, StatxFlags::INO).ok().map(|found| found.stx_ino)
}

/// The name that the kernel gives files without a path.
fn name(fd: BorrowedFd<'_>) -> Option<String> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).ok()?.into_os_string().into_string().ok()
}

/// Where anonymous files live; learnt from one of our own.
fn anonymous() -> Option<Place> {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    *PLACE.get_or_init(|| place(eventfd(0, EventfdFlags::CLOEXEC).ok()?.as_fd()))
}

fn is_anonymous(fd: BorrowedFd<'_>, kind: &str) -> bool {
    // The name alone could be that of a file somewhere; the place makes it the kernel's.
    let place = place(fd);
    place.is_some() && place == anonymous() && name(fd).is_some_and(|name| name == kind)
}

/// A fence of the kernel's.
pub(super) fn is_sync_file(fd: BorrowedFd<'_>) -> bool {
    is_anonymous(fd, "anon_inode:sync_file")
}

/// An exported syncobj.
pub(super) fn is_syncobj(fd: BorrowedFd<'_>) -> bool {
    is_anonymous(fd, "anon_inode:syncobj_file")
}

/// Exported memory. The file system's own name for it, which files elsewhere can have too; what the
/// kernel makes of one of those is an error, without asking it.
pub(super) fn is_dma_buf(fd: BorrowedFd<'_>) -> bool {
    name(fd).is_some_and(|name| name.starts_with("/dmabuf:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_none_of_these() {
        let directory = std::env::temp_dir().join(format!("gpu-broker-fds-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let named = std::fs::File::create(directory.join("anon_inode:sync_file")).unwrap();
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in [named.as_fd(), event.as_fd(), null.as_fd()] {
            assert!(!is_sync_file(fd) && !is_syncobj(fd) && !is_dma_buf(fd));
        }
        assert!(is_anonymous(event.as_fd(), "anon_inode:[eventfd]"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
