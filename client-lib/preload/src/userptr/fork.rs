//! What `fork` does to memory that lies behind a memfd: the child gets a private copy, as of the
//! private memory that the program thinks it has, and the buffers over it are the parent's.
//!
//! The parent's `fork` returns when the copies are made, so that they are what the memory was at that
//! moment. What the C library itself writes in the child before its handlers run is an exception: the
//! parent sees that. `vfork` and `posix_spawn` need nothing: their child does nothing but exec.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::MutexGuard;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno as Kernel;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::arena::Arena;
use super::{COUNT, State, maps, state, watch};
use crate::errno::{Errno, Outcome};

/// How long a parent waits for its child's copies: one that is stopped in the middle must not stop
/// its parent for good.
const COPYING_MAX: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// What a thread may need of its stack, below and above where it is, while it forks.
const STACK: (usize, usize) = (256 << 10, 64 << 10);

/// Everything about userptr, held from before a fork to after it.
pub(crate) struct Held {
    state: MutexGuard<'static, State>,
    fds: MutexGuard<'static, ()>,
    runs: Vec<Run>,
    /// On which the child says that it has its copies.
    pipe: Option<(OwnedFd, OwnedFd)>,
}

/// Memory that is a memfd's.
struct Run {
    arena: usize,
    range: Range<usize>,
    protection: ProtFlags,
}

/// Before a fork. `None` in a program that never had userptr.
pub(crate) fn prepare() -> Option<Held> {
    if !watch::ever() {
        return None;
    }
    let state = state();
    // A thread that forks does so on a stack of which both processes must have their own.
    let here = std::ptr::from_ref(&state).addr();
    for run in runs(&state, here.saturating_sub(STACK.0)..here.saturating_add(STACK.1)) {
        if let Some(arena) = state.arenas.get(&run.arena) {
            // Whether or not the wait succeeds, the child must not share the stack.
            let _ = state.invalidate(run.arena, &run.range);
            let _ = arena.give_back(&run.range, run.protection);
            watch::changed(run.range.start, run.range.end - run.range.start);
        }
    }
    let runs = if state.arenas.is_empty() { Vec::new() } else { runs(&state, 0..usize::MAX) };
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok();
    let pipe = if runs.is_empty() { None } else { pipe() };
    Some(Held { state, fds: watch::hold(), runs, pipe })
}

/// The memory in a range that is a memfd's now.
fn runs(state: &State, range: Range<usize>) -> Vec<Run> {
    let mut runs = Vec::new();
    // Without procfs nothing was moved.
    let _ = maps::each(|area| {
        let piece = area.start.max(range.start)..area.end.min(range.end);
        if area.shared && area.ours && !piece.is_empty() {
            let own = |(_, arena): &(&usize, &Arena)| arena.is_at(piece.start, area);
            if let Some((arena, _)) = state.arenas.iter().find(own) {
                let (arena, protection) = (*arena, area.protection);
                runs.push(Run { arena, range: piece, protection });
            }
        }
        Ok(())
    });
    runs
}

impl Held {
    /// After a fork, in the parent.
    pub(crate) fn parent(self) {
        let Some((reader, writer)) = self.pipe else { return };
        // The child's death is an answer too, if nobody else forked meanwhile.
        drop(writer);
        let mut set = [PollFd::new(&reader, PollFlags::IN)];
        while rustix::event::poll(&mut set, Some(&COPYING_MAX)) == Err(Kernel::INTR) {}
    }

    /// After a fork, in the child, before it writes to any memory that it might share.
    pub(crate) fn child(mut self) {
        for run in &self.runs {
            let copied = self.state.arenas.get(&run.arena).map_or(Ok(()), |arena| copy(arena, run));
            if copied.is_err() {
                let (nothing, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::FIXED);
                let place = std::ptr::with_exposed_provenance_mut(run.range.start);
                let length = run.range.end - run.range.start;
                // SAFETY: no memory for a copy: a child that faults harms nobody, one that goes on
                // writing into its parent's memory does.
                let _ = unsafe { rustix::mm::mmap_anonymous(place, length, nothing, flags) };
            }
        }
        if let Some((_reader, writer)) = self.pipe.take() {
            let _ = rustix::io::write(&writer, &[1]);
        }
        drop(self.fds);
        self.state.arenas.keys().copied().for_each(watch::withdraw);
        self.state.arenas.clear();
        // What the GPU does with the parent's buffers is none of this process's memory.
        let closing = |handle: &super::Handle| handle.closing;
        self.state.handles.retain(|_, handle| !closing(handle));
        self.state.handles.values_mut().for_each(|handle| handle.foreign = true);
        COUNT.store(self.state.handles.len(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Puts a private copy where the memfd's pages are mapped.
fn copy(arena: &Arena, run: &Run) -> Outcome<()> {
    let length = run.range.end - run.range.start;
    let (both, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: new memory at a place of the kernel's choice.
    let fresh = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, both, flags) }?;
    // SAFETY: the new memory, zeroed by the kernel and nobody else's.
    let mut into = unsafe { std::slice::from_raw_parts_mut(fresh.cast::<u8>(), length) };
    let mut offset = arena.offset(run.range.start);
    while !into.is_empty() {
        match rustix::io::pread(arena.fd(), &mut *into, offset) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(bytes) => {
                offset += bytes as u64;
                into = into.get_mut(bytes..).unwrap_or_default();
            }
            Err(Kernel::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let protection = MprotectFlags::from_bits_retain(run.protection.bits());
    // SAFETY: the new memory, to which no reference is left.
    unsafe { rustix::mm::mprotect(fresh, length, protection) }?;
    let place = std::ptr::with_exposed_provenance_mut(run.range.start);
    // SAFETY: the program's memory is replaced by its copy; no other thread runs in this process.
    unsafe { rustix::mm::mremap_fixed(fresh, length, length, MremapFlags::MAYMOVE, place) }?;
    Ok(())
}
