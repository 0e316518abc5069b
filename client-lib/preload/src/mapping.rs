//! Buffers in the program's address space: fake offsets, and the memory behind them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};

use gpu_broker_client::protocol::message::{BufferMapped, BufferOf};
use gpu_broker_client::protocol::{BufferId, Reply, Request};

use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::real;

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
}

impl Buffers {
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

/// The memory of a buffer.
///
/// # Errors
/// ENOENT for an unknown handle.
pub(crate) fn memory(node: &Node, handle: u32) -> Outcome<BufferMapped<OwnedFd>> {
    let request = Request::<OwnedFd>::BufferMap(BufferOf { buffer: BufferId(handle) });
    if let Reply::BufferMap(mapped) = node.connection.request(request)? {
        Ok(mapped)
    } else {
        Err(Errno(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
