//! Buffers in the program's address space: fake offsets, and the memory behind them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use gpu_broker_client::protocol::message::{BufferMapped, BufferOf};
use gpu_broker_client::protocol::{BufferId, Reply, Request};

use gpu_broker_uapi::sync::{
    DMA_BUF_IOCTL_SYNC, DMA_BUF_SYNC_END, DMA_BUF_SYNC_READ, DMA_BUF_SYNC_START,
    DMA_BUF_SYNC_WRITE, dma_buf_sync,
};

use crate::errno::{Errno, Outcome};
use crate::ioctl::reply;
use crate::node::{self, Node};
use crate::real;
use crate::user;

/// Where fake offsets begin. They say nothing but which buffer they are of.
const FIRST_OFFSET: u64 = 1 << 32;
const PAGE: u64 = 4096;

/// The buffers of an open file, as far as mapping them needs.
#[derive(Default)]
pub(crate) struct Buffers {
    sizes: HashMap<u32, u64>,
    offsets: HashMap<u32, u64>,
    handles: BTreeMap<u64, u32>,
    allocated: u64,
    /// Memory that was used lately, the latest last: many small writes to one buffer are common.
    recent: Vec<(u32, Arc<BufferMapped<OwnedFd>>)>,
    idle: Idle,
}

/// Which buffers the GPU is known not to use, so that small writes need not ask the broker.
///
/// Only what this process alone can give the GPU to use is ever here: not what was exported or
/// imported, and nothing once the session is shared.
#[derive(Default)]
struct Idle {
    known: HashSet<u32>,
    outside: HashSet<u32>,
    /// Counts submissions: a wait that one overtook proves nothing.
    submissions: u64,
}

/// How many buffers' memory is kept at hand; each costs an fd.
const RECENT_MAX: usize = 8;

impl Buffers {
    fn recent(&self, handle: u32) -> Option<Arc<BufferMapped<OwnedFd>>> {
        self.recent.iter().rev().find(|(known, _)| *known == handle).map(|(_, m)| Arc::clone(m))
    }

    fn keep(&mut self, handle: u32, memory: &Arc<BufferMapped<OwnedFd>>) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push((handle, Arc::clone(memory)));
    }

    /// A buffer was made here, so that nobody uses it yet.
    pub(crate) fn made(&mut self, handle: BufferId, size: u64) {
        self.insert(handle, size);
        self.idle.known.insert(handle.0);
    }

    /// A buffer came from outside or goes there.
    pub(crate) fn leaves(&mut self, handle: u32) {
        self.idle.outside.insert(handle);
        self.idle.known.remove(&handle);
    }

    /// These buffers are about to be used.
    pub(crate) fn submitted(&mut self, handles: impl Iterator<Item = u32>) {
        self.idle.submissions += 1;
        for handle in handles {
            self.idle.known.remove(&handle);
        }
    }

    /// Submissions so far, to be remembered before a wait.
    pub(crate) fn submissions(&self) -> u64 {
        self.idle.submissions
    }

    /// A wait for a buffer has ended that began after so many submissions.
    pub(crate) fn waited(&mut self, handle: u32, submissions: u64) {
        let ours = self.sizes.contains_key(&handle) && !self.idle.outside.contains(&handle);
        if ours && submissions == self.idle.submissions {
            self.idle.known.insert(handle);
        }
    }

    /// Whether nobody can be using the buffer.
    pub(crate) fn is_idle(&self, handle: u32) -> bool {
        self.idle.known.contains(&handle)
    }

    /// The fds that are kept.
    pub(crate) fn own_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.recent.iter().map(|(_, memory)| memory.fd.as_raw_fd())
    }

    /// A handle was made.
    pub(crate) fn insert(&mut self, handle: BufferId, size: u64) {
        if self.sizes.insert(handle.0, size).is_some_and(|before| before != size) {
            // Another process closed it and made it anew: the old offset is that of the old one.
            self.remove(handle.0);
            self.sizes.insert(handle.0, size);
        }
    }

    /// A handle was closed; its offset maps nothing any more.
    pub(crate) fn remove(&mut self, handle: u32) {
        self.sizes.remove(&handle);
        self.recent.retain(|(known, _)| *known != handle);
        self.idle.known.remove(&handle);
        self.idle.outside.remove(&handle);
        if let Some(offset) = self.offsets.remove(&handle) {
            self.handles.remove(&offset);
        }
    }

    /// Bytes of a buffer.
    pub(crate) fn size(&self, handle: u32) -> Option<u64> {
        self.sizes.get(&handle).copied()
    }

    /// How many handles there are.
    pub(crate) fn count(&self) -> usize {
        self.sizes.len()
    }

    /// The offset to map a buffer with, the same each time.
    pub(crate) fn offset(&mut self, handle: u32) -> Option<u64> {
        let size = self.size(handle)?;
        let offset = *self.offsets.entry(handle).or_insert_with(|| {
            let offset = FIRST_OFFSET + self.allocated;
            self.allocated += size.next_multiple_of(PAGE) + PAGE;
            offset
        });
        self.handles.insert(offset, handle);
        Some(offset)
    }

    /// The buffer at an offset, and where in it that is.
    fn at(&self, offset: u64, length: u64) -> Option<(u32, u64)> {
        let (start, handle) = self.handles.range(..=offset).next_back()?;
        let within = offset - start;
        let end = within.checked_add(length)?;
        let size = self.size(*handle)?.next_multiple_of(PAGE);
        (end <= size).then_some((*handle, within))
    }
}

/// Bytes of a buffer.
///
/// # Errors
/// ENOENT for an unknown handle.
pub(crate) fn size_of_buffer(node: &Node, handle: u32) -> Outcome<u64> {
    let known = node::with_buffers(node.id, |buffers| buffers.size(handle))?;
    match known {
        Some(size) if !node.connection.is_shared() => Ok(size),
        // What other processes make and close, only the broker knows.
        _ => {
            let size = memory(node, handle)?.size;
            node::with_buffers(node.id, |buffers| buffers.insert(BufferId(handle), size))?;
            Ok(size)
        }
    }
}

/// What mmap(2) is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) address: *mut c_void,
    pub(crate) length: usize,
    pub(crate) protection: c_int,
    pub(crate) flags: c_int,
}

/// mmap(2) of a node at a fake offset.
///
/// # Errors
/// EINVAL for an offset that MMAP_OFFSET never gave, or a length beyond its buffer; the kernel's.
pub(crate) fn at_offset(node: &Node, wanted: Wanted, offset: u64) -> Outcome<*mut c_void> {
    let length = wanted.length as u64;
    let found = node::with_buffers(node.id, |buffers| buffers.at(offset, length))?;
    let (handle, within) = found.ok_or(Errno(libc::EINVAL))?;
    map(node, handle, wanted, within)
}

/// Maps a part of a buffer.
///
/// # Errors
/// ENOENT for an unknown handle; the kernel's.
pub(crate) fn map(node: &Node, handle: u32, wanted: Wanted, within: u64) -> Outcome<*mut c_void> {
    let memory = memory(node, handle)?;
    let offset = memory.offset.checked_add(within).and_then(|at| i64::try_from(at).ok());
    let offset = offset.ok_or(Errno(libc::EINVAL))?;
    let Wanted { address, length, protection, flags } = wanted;
    if within.checked_add(length as u64).is_none_or(|end| end > memory.size.next_multiple_of(PAGE))
    {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: the program asked for this mapping with these flags; what MAP_FIXED replaces is its
    // own decision.
    let mapped =
        unsafe { real::mmap(address, length, protection, flags, memory.fd.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(mapped) }
}

/// Copies between a part of a buffer and the program's memory, through a mapping for the moment.
///
/// # Errors
/// EFAULT for a bad pointer of the program; the kernel's.
pub(crate) fn copy(
    memory: &BufferMapped<OwnedFd>,
    within: u64,
    length: usize,
    address: u64,
    write: bool,
) -> Outcome<()> {
    let place = memory.offset.checked_add(within).ok_or(Errno(libc::EINVAL))?;
    let (start, skipped) = (place - place % PAGE, place % PAGE);
    let mapped_length =
        usize::try_from(skipped).ok().and_then(|skipped| skipped.checked_add(length));
    let mapped_length = mapped_length.ok_or(Errno(libc::EINVAL))?;
    let start = i64::try_from(start).map_err(|_| Errno(libc::EINVAL))?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (fd, nowhere) = (memory.fd.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: a mapping where the kernel likes replaces nothing.
    let mapped =
        unsafe { real::mmap(nowhere, mapped_length, protection, libc::MAP_SHARED, fd, start) };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // Caches that the GPU does not see into; elsewhere it costs a look. A buffer that is no
    // dma-buf has none, and the copy itself says what else is wrong.
    let access = if write { DMA_BUF_SYNC_WRITE } else { DMA_BUF_SYNC_READ };
    let sync = |edge: u32| {
        let sync = dma_buf_sync { flags: u64::from(access | edge) };
        // SAFETY: the structure is read and no more; the fd is the buffer's.
        unsafe {
            libc::syscall(libc::SYS_ioctl, fd, u64::from(DMA_BUF_IOCTL_SYNC), &raw const sync)
        }
    };
    sync(DMA_BUF_SYNC_START);
    let inside = (mapped.expose_provenance() as u64).wrapping_add(skipped);
    let copied = if write {
        user::between(inside, address, length)
    } else {
        user::between(address, inside, length)
    };
    sync(DMA_BUF_SYNC_END);
    // SAFETY: the mapping was made here, and nothing points into it any more.
    unsafe { libc::syscall(libc::SYS_munmap, mapped, mapped_length) };
    copied
}

/// The memory of a buffer.
///
/// # Errors
/// ENOENT for an unknown handle.
pub(crate) fn memory(node: &Node, handle: u32) -> Outcome<Arc<BufferMapped<OwnedFd>>> {
    // Another process may have closed the handle and made it anew.
    let alone = !node.connection.is_shared();
    if alone && let Some(memory) = node::with_buffers(node.id, |buffers| buffers.recent(handle))? {
        return Ok(memory);
    }
    let request = Request::<OwnedFd>::BufferMap(BufferOf { buffer: BufferId(handle) });
    let mut mapped = reply!(node.connection.request(request)?, Reply::BufferMap(mapped) => mapped)?;
    if alone {
        mapped.fd = node::out_of_the_way(mapped.fd);
    }
    let memory = Arc::new(mapped);
    if alone {
        node::with_buffers(node.id, |buffers| buffers.keep(handle, &memory))?;
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_idle_only_when_that_is_certain() {
        let mut buffers = Buffers::default();
        buffers.made(BufferId(1), 4096);
        buffers.made(BufferId(2), 4096);
        buffers.insert(BufferId(3), 4096);
        assert!(buffers.is_idle(1) && !buffers.is_idle(3));
        let before = buffers.submissions();
        buffers.submitted([1].into_iter());
        buffers.waited(1, before);
        assert!(!buffers.is_idle(1) && buffers.is_idle(2), "the wait was overtaken");
        buffers.waited(1, buffers.submissions());
        assert!(buffers.is_idle(1));
        buffers.leaves(1);
        buffers.waited(1, buffers.submissions());
        assert!(!buffers.is_idle(1), "others may use it");
        buffers.remove(2);
        buffers.waited(2, buffers.submissions());
        assert!(!buffers.is_idle(2), "the handle is gone");
    }

    #[test]
    fn an_offset_finds_its_buffer_and_nothing_beyond_it() {
        let mut buffers = Buffers::default();
        buffers.insert(BufferId(1), 4096);
        buffers.insert(BufferId(2), 16384);
        let (one, two) = (buffers.offset(1).expect("known"), buffers.offset(2).expect("known"));
        assert_eq!(buffers.offset(1), Some(one), "the same each time");
        assert_eq!(buffers.at(two + 4096, 8192), Some((2, 4096)));
        assert_eq!(buffers.at(two + 4096, 16384), None);
        assert_eq!(buffers.at(one, 4096), Some((1, 0)));
        assert_eq!(buffers.at(one, 4097), None);
        assert_eq!(buffers.at(one - 1, 1), None);
        assert_eq!(buffers.at(two, u64::MAX), None);
        buffers.remove(1);
        assert_eq!(buffers.at(one, 4096), None);
        assert_eq!(buffers.offset(1), None);
    }
}
