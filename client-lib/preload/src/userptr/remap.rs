//! mremap(2) of memory that lies behind a memfd.
//!
//! The kernel would move the mapping of the memfd along, and enlarge it by what is behind it there.
//! The program believes that it has private memory, so it gets new private memory with the contents.

use std::ffi::{c_int, c_void};

use rustix::mm::ProtFlags;

use super::{maps, watch};
use crate::errno::{Errno, Outcome};
use crate::{real, user};

/// The arguments of mremap(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remap {
    pub(crate) old: *mut c_void,
    pub(crate) old_size: usize,
    pub(crate) size: usize,
    pub(crate) flags: c_int,
    /// Counts with MREMAP_FIXED only.
    pub(crate) new: *mut c_void,
}

impl Remap {
    /// Whether the kernel would do something else than with private memory.
    pub(crate) fn needs_help(&self) -> bool {
        let moves = libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        if !watch::ever() || (self.size <= self.old_size && self.flags & moves == 0) {
            return false;
        }
        let start = self.old.addr();
        let mut found = false;
        let range = start..start.saturating_add(self.old_size.max(1));
        let looked = maps::pieces(range, |_, area| {
            found |= area.is_some_and(|area| area.ours);
            Ok(())
        });
        looked.is_ok() && found
    }

    /// Moves the contents.
    ///
    /// # Errors
    /// As mremap(2): EINVAL, EFAULT, ENOMEM, which is also what memory that must stay where it is
    /// gets.
    pub(crate) fn run(self) -> Outcome<*mut c_void> {
        let Self { old, old_size, size, flags, new } = self;
        let moves = libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let known = libc::MREMAP_MAYMOVE | moves;
        let page = |number: usize| number.is_multiple_of(4096);
        let fixed = flags & libc::MREMAP_FIXED != 0;
        if flags & !known != 0
            || size == 0
            || old_size == 0
            || !page(old.addr())
            || (fixed && !page(new.addr()))
        {
            return Err(Errno(libc::EINVAL));
        }
        if flags & libc::MREMAP_MAYMOVE == 0 {
            return Err(Errno(if flags & moves != 0 { libc::EINVAL } else { libc::ENOMEM }));
        }
        let (old_size, size) = (old_size.next_multiple_of(4096), size.next_multiple_of(4096));
        let (from, to) = (old.addr(), new.addr());
        if fixed && from < to.saturating_add(size) && to < from.saturating_add(old_size) {
            return Err(Errno(libc::EINVAL));
        }
        let protection = protection(from)?;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let place = if fixed { new } else { std::ptr::null_mut() };
        let how = how | if fixed { libc::MAP_FIXED } else { 0 };
        // SAFETY: new memory, at a place that the program chose or that is free.
        let fresh = unsafe { real::mmap(place, size, both, how, -1, 0) };
        if fresh == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let copied = fill(fresh, from, old_size.min(size));
        // SAFETY: the new memory, to which no reference is left.
        unsafe { real::mprotect(fresh, size, protection) };
        if let Err(errno) = copied {
            // SAFETY: as above; nobody knows of it yet.
            unsafe { real::munmap(fresh, size) };
            return Err(errno);
        }
        if flags & libc::MREMAP_DONTUNMAP != 0 {
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the program leaves this memory empty.
            unsafe { real::mmap(old, old_size, protection, how, -1, 0) };
        } else {
            // SAFETY: the program moves its memory away from here.
            unsafe { real::munmap(old, old_size) };
        }
        watch::changed(from, old_size);
        watch::changed(fresh.addr(), size);
        Ok(fresh)
    }
}

/// Copies `bytes` from an address into new memory.
fn fill(fresh: *mut c_void, from: usize, bytes: usize) -> Outcome<()> {
    // SAFETY: new memory of at least that size, zeroed by the kernel and nobody else's.
    let into = unsafe { std::slice::from_raw_parts_mut(fresh.cast::<u8>(), bytes) };
    // The kernel copies no more than 2 GiB at once.
    let mut chunks = into.chunks_mut(1 << 30).enumerate();
    chunks.try_for_each(|(index, chunk)| user::read((from + (index << 30)) as u64, chunk))
}

/// The protection of what is mapped at an address.
fn protection(address: usize) -> Outcome<c_int> {
    let mut found = Err(Errno(libc::EFAULT));
    maps::pieces(address..address + 1, |_, area| {
        let flags = area.ok_or(Errno(libc::EFAULT))?.protection;
        let pairs = [
            (ProtFlags::READ, libc::PROT_READ),
            (ProtFlags::WRITE, libc::PROT_WRITE),
            (ProtFlags::EXEC, libc::PROT_EXEC),
        ];
        let of = |(flag, number)| if flags.contains(flag) { number } else { 0 };
        found = Ok(pairs.into_iter().map(of).sum());
        Ok(())
    })?;
    found
}
