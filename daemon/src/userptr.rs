//! Application memory: what a client's fd is, and USERPTR_CREATE and USERPTR_INVALIDATE.
//!
//! The fd is looked at with system calls that ask nobody but the kernel: F_GET_SEALS answers for files in
//! memory alone, and only of those is more asked. A file of a FUSE file system could let everything else
//! wait.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use gpu_broker_core::{FileKey, Memfd, Time};
use gpu_broker_device::{Device, DeviceFile};
use gpu_broker_protocol::limits::USERPTR_INVALIDATE_MS_MAX;
use gpu_broker_protocol::message::BufferCreated;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate};
use gpu_broker_protocol::{Reason, Refusal, Violation};
use rustix::fs::{OFlags, SealFlags};

use crate::deferred;
use crate::hands::refusal_of;
use crate::packet::Fds;
use crate::requests::{Answer, Fault, Open};

/// `HUGETLBFS_MAGIC`.
const HUGETLBFS: u64 = 0x9584_58f6;
/// `TMPFS_MAGIC`, which shmem has too.
const TMPFS: u64 = 0x0102_1994;

/// What the fd is.
///
/// # Errors
/// Why no buffer can be over it.
pub(crate) fn inspect(fd: BorrowedFd<'_>) -> Result<Memfd, Refusal> {
    let Ok(seals) = rustix::fs::fcntl_get_seals(fd) else {
        let secret = is_secret(fd);
        return Err(if secret { Reason::UserptrSecret } else { Reason::UserptrNotMemfd }.into());
    };
    // It is shmem or hugetlb memory: from here on nothing waits for anybody.
    let not_memfd = |_| Refusal::new(Reason::UserptrNotMemfd);
    let kind = rustix::fs::fstatfs(fd).map_err(not_memfd)?.f_type;
    match u64::try_from(kind) {
        Ok(TMPFS) => {}
        Ok(HUGETLBFS) => return Err(Reason::UserptrHugetlb.into()),
        Ok(_) | Err(_) => return Err(Reason::UserptrNotMemfd.into()),
    }
    if !seals.contains(SealFlags::SHRINK) {
        return Err(Refusal::new(Reason::UserptrSeals).with_detail("no F_SEAL_SHRINK"));
    }
    // After the seals: from now on it only grows.
    let stat = rustix::fs::fstat(fd).map_err(not_memfd)?;
    let bytes = u64::try_from(stat.st_size).map_err(|_| Reason::UserptrNotMemfd)?;
    let mode = rustix::fs::fcntl_getfl(fd).map_err(not_memfd)? & OFlags::RWMODE;
    let write = if mode != OFlags::RDWR {
        Err(Reason::UserptrAccess)
    } else if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        Err(Reason::UserptrSeals)
    } else {
        Ok(())
    };
    if mode == OFlags::WRONLY {
        return Err(Reason::UserptrAccess.into());
    }
    Ok(Memfd { file: FileKey(stat.st_dev, stat.st_ino), bytes, write })
}

/// Whether the fd is of `memfd_secret`. Nothing but its name says so without asking its file system;
/// whoever forges that hears the wrong reason.
fn is_secret(fd: BorrowedFd<'_>) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|name| name.to_string_lossy().contains("secretmem"))
}

impl<D: Device> Open<D> {
    /// GEM_USERPTR.
    pub(crate) fn userptr_create(
        &self,
        request: &UserptrCreate<usize>,
        fds: &Fds,
    ) -> Result<BufferCreated, Fault> {
        let fd = fds.get(request.memfd).ok_or(Violation::FdCount)?.as_fd();
        let file = &self.session.hands().file;
        let map = |bytes, writable| {
            // The mapping keeps the file; what came in is closed with the message.
            let memfd = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|_| Reason::DaemonFds)?;
            file.map_user_memory(memfd, bytes, writable).map_err(|error| refusal_of(&error))
        };
        Ok(self.session.userptr_create(request, inspect(fd), map)?)
    }

    /// Stands for the mmu notifier; the answer comes when the old pages are not used any more.
    pub(crate) fn userptr_invalidate(
        &mut self,
        now: Time,
        seq: u32,
        request: &UserptrInvalidate,
    ) -> Result<Answer, Refusal> {
        const MOST_NS: u64 = USERPTR_INVALIDATE_MS_MAX * 1_000_000;
        let session = &self.session;
        let timeout_ns = u64::try_from(request.timeout_ns).unwrap_or(MOST_NS).min(MOST_NS);
        let file = &session.hands().file;
        let waits = deferred::waits(&mut self.waits, self.waits_max);
        deferred::answer(waits.begin_invalidate(now, seq, timeout_ns, |watch| {
            session.userptr_invalidate(request, |buffers| match watch {
                Some(token) => file.watch_buffers(buffers, token),
                None => !buffers.iter().any(|buffer| {
                    let busy = file.buffer_busy(buffer);
                    busy.writer.is_some() || busy.readers != 0
                }),
            })
        }))
    }
}
