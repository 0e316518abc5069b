//! The program's own memory on the GPU: DRM_IOCTL_I915_GEM_USERPTR for ordinary memory.
//!
//! The broker takes memory in memfds only. So, when a userptr buffer is first used, the private pages
//! of its range are moved behind a memfd, at the same address ([`arena`]), and when the last buffer
//! over a page is closed the page is made private again. In between, what changes mappings is
//! watched ([`watch`]): pages that are not the memfd's any more are moved again before the buffer is
//! next used, as the kernel would take hold of the new ones, and where nothing is mapped the use is
//! EFAULT. What is mapped is never assumed from records alone, but looked up ([`maps`]), because
//! programs unmap memory by system calls of their own, and the C library does.
//!
//! What differs from the kernel: shared mappings cannot be moved and are EFAULT; a write that another
//! thread makes in the microseconds in which its page is moved is lost; memory that the C library
//! itself unmaps (`free`) while a buffer is over it is only missed when that buffer, or a neighbour,
//! is made or used after another change there; a buffer whose memory was unmapped may be EFAULT where
//! a later one has what is mapped there now.

mod arena;
pub(crate) mod fork;
pub(crate) mod maps;
pub(crate) mod remap;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use gpu_broker_client::protocol::message::BufferCreated;
use gpu_broker_client::protocol::userptr::{UserptrCreate, UserptrInvalidate, flag};
use gpu_broker_client::protocol::{BufferId, Reply, Request};
use rustix::mm::ProtFlags;

use crate::errno::{Errno, Outcome};
use crate::ioctl::{self, ask, ask_patiently, is_idle, reply};
use crate::node::{self, FileId, Node};
use arena::{Arena, MOVES_OWN_STACK, overlap};
use maps::Area;

const FAULT: Errno = Errno(libc::EFAULT);
/// Memfds that are kept although no buffer is over them: making one takes longer than a buffer.
const IDLE_ARENAS_MAX: usize = 8;

/// A buffer's name: the open file it is of, and the handle there.
type Key = (FileId, u32);

/// A userptr buffer.
#[derive(Clone, Debug)]
struct Handle {
    range: Range<usize>,
    /// Which arena; the number of its slot.
    arena: usize,
    read_only: bool,
    /// Every page of the range is the memfd's, as far as is known.
    ready: bool,
    /// It was ready before, so that the GPU may have used it.
    used: bool,
    /// The program has closed it while the GPU used it.
    closing: bool,
    /// Made by the parent of this process, over the parent's memory.
    foreign: bool,
}

impl Handle {
    /// Whether the GPU may be told to use it as it is.
    fn is_settled(&self) -> bool {
        self.ready && !self.closing && !self.foreign
    }
}

struct State {
    handles: BTreeMap<Key, Handle>,
    arenas: BTreeMap<usize, Arena>,
}

/// Taken before the table of nodes when both are needed.
static STATE: Mutex<State> =
    Mutex::new(State { handles: BTreeMap::new(), arenas: BTreeMap::new() });
/// How many handles there are, for those who only need to know that there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn state() -> MutexGuard<'static, State> {
    // A panic leaves at worst a range that is looked at again, or memory in a memfd.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a buffer over a range of the program's memory, whole pages, which is first looked at when
/// the buffer is used; with PROBE now.
///
/// # Errors
/// EFAULT when PROBE finds memory that could not be used. ENOMEM when buffers over the range lie in
/// memfds that cannot be one, and at the limit of memfds. ENODEV without procfs. The broker's; EMFILE.
pub(crate) fn create(node: &Node, range: Range<usize>, flags: u32) -> Outcome<BufferCreated> {
    let mut state = state();
    state.close_idle();
    let made = state.create(node, range, flags);
    if made.is_err() {
        // One may have been made for this buffer.
        state.drop_idle_arenas();
    }
    made
}

/// Whether a handle is of a userptr buffer.
pub(crate) fn is_one(node: &Node, handle: u32) -> bool {
    COUNT.load(Ordering::Relaxed) != 0
        && state().handles.contains_key(&(node.id, handle))
        && is_still(node, handle)
}

/// Whether a handle of which there is a record is still that of a userptr buffer. Another process that
/// has the session may have closed it, and made another one of the same number.
fn is_still(node: &Node, handle: u32) -> bool {
    let (buffer, offset, length, timeout_ns) = (BufferId(handle), 0, 0, 0);
    let nothing = UserptrInvalidate { buffer, offset, length, timeout_ns };
    !node.connection.is_shared() || ask(node, Request::UserptrInvalidate(nothing)).is_ok()
}

/// Sees to it that the pages of those handles that are userptr buffers are the program's of now.
/// Called before the GPU is told to use them.
///
/// # Errors
/// EFAULT where nothing, or nothing usable, is mapped, and for the memory of another process. ENOMEM.
/// ENOENT for a handle that the program has closed.
pub(crate) fn make_ready(node: &Node, handles: impl Iterator<Item = u32>) -> Outcome<()> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let mut state = state();
    state.notice_changes();
    let of_file = state.handles.range((node.id, 0)..=(node.id, u32::MAX));
    if of_file.map(|(_, handle)| handle).all(Handle::is_settled) {
        return Ok(());
    }
    for number in handles {
        let key = (node.id, number);
        let unsettled = state.handles.get(&key).filter(|handle| !handle.is_settled());
        let Some((foreign, closing)) = unsettled.map(|handle| (handle.foreign, handle.closing))
        else {
            continue;
        };
        if foreign || node.connection.is_shared() {
            if !is_still(node, number) {
                state.release(key);
                continue;
            }
            if foreign {
                return Err(FAULT);
            }
        }
        if closing {
            return Err(Errno(libc::ENOENT));
        }
        state.adopt(key)?;
    }
    Ok(())
}

/// The program closes a handle; `None` when it is not of a userptr buffer. The buffer lives on while
/// the GPU uses it, so that what is written still reaches the program.
///
/// # Errors
/// EINVAL when it was closed before; the broker's.
pub(crate) fn close(node: &Node, handle: u32) -> Option<Outcome<()>> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return None;
    }
    // Held until the broker has closed it, too: another thread may get the same number then.
    let mut state = state();
    state.close_idle();
    let one = state.handles.get_mut(&(node.id, handle))?;
    if one.closing {
        return Some(Err(Errno(libc::EINVAL)));
    }
    if one.used && !one.foreign && is_busy(node, handle) {
        one.closing = true;
        return Some(Ok(()));
    }
    Some(state.close(node, handle))
}

/// An open file has gone with all its buffers.
pub(crate) fn file_closed(file: FileId) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        let mut state = state();
        let of_file = (file, 0)..=(file, u32::MAX);
        let keys: Vec<Key> = state.handles.range(of_file).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| state.release(key));
    }
}

/// The program gives up the contents of a range. Waits for the GPU where it has them. An allocator may
/// call this with its locks held, so nothing is allocated where no buffer is, and another thread is
/// not waited for, which may be waiting for the allocator.
pub(crate) fn discard(range: &Range<usize>) {
    if COUNT.load(Ordering::Relaxed) != 0
        && let Some(state) = state_soon()
    {
        for slot in state.arenas.keys() {
            // Whether or not the wait succeeds, the contents go.
            let _ = state.invalidate(*slot, range);
        }
    }
    watch::discard(range);
}

/// The state, unless another thread keeps it for a tenth of a second.
fn state_soon() -> Option<MutexGuard<'static, State>> {
    for _ in 0..100 {
        match STATE.try_lock() {
            Ok(state) => return Some(state),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

fn is_busy(node: &Node, handle: u32) -> bool {
    ask(node, is_idle(BufferId(handle))).is_err_and(|errno| errno == Errno(libc::ETIME))
}

/// What a piece of a range needs: nothing when the memfd's pages are there, or to be moved, with the
/// protection it has.
///
/// # Errors
/// EFAULT when the GPU cannot have it.
fn judge(
    arena: &Arena,
    read_only: bool,
    piece: &Range<usize>,
    area: Option<&Area>,
) -> Outcome<Option<ProtFlags>> {
    let area = area.ok_or(FAULT)?;
    let needed = if read_only { ProtFlags::READ } else { ProtFlags::READ | ProtFlags::WRITE };
    if !area.protection.contains(needed) {
        return Err(FAULT);
    }
    if area.shared {
        return if arena.is_at(piece.start, area) { Ok(None) } else { Err(FAULT) };
    }
    let here = std::ptr::from_ref(&needed).addr();
    let own_stack = !MOVES_OWN_STACK && piece.contains(&(here - here % 4096));
    if area.special || own_stack || (area.stack && piece.start == area.start) {
        return Err(FAULT);
    }
    Ok(Some(area.protection))
}

impl State {
    fn create(&mut self, node: &Node, range: Range<usize>, flags: u32) -> Outcome<BufferCreated> {
        let read_only = flags & flag::READ_ONLY != 0;
        let slot = self.arena_for(&range)?;
        let arena = self.arenas.get_mut(&slot).ok_or(Errno(libc::EIO))?;
        if flags & flag::PROBE != 0 {
            maps::pieces(range.clone(), |piece, area| {
                judge(arena, read_only, &piece, area).map(drop)
            })?;
        }
        let request = Request::UserptrCreate(UserptrCreate {
            memfd: arena.fd(),
            offset: arena.offset(range.start),
            length: (range.end - range.start) as u64,
            flags,
        });
        let answer = node.connection.request::<BorrowedFd<'_>>(request)?;
        let made = reply!(answer, Reply::UserptrCreate(made) => made)?;
        node::with_buffers(node.id, |buffers| buffers.insert(made.buffer, made.size))?;
        arena.handles += 1;
        let (ready, used, closing, foreign) = (false, false, false, false);
        let handle = Handle { range, arena: slot, read_only, ready, used, closing, foreign };
        self.handles.insert((node.id, made.buffer.0), handle);
        COUNT.store(self.handles.len(), Ordering::Relaxed);
        Ok(made)
    }

    /// The arena for a range; all buffers over a page must be in one. A buffer that has lost its memory
    /// is over no page: where its arena cannot have the range it is left alone, and to use it is EFAULT
    /// from when the new one has the memory.
    ///
    /// # Errors
    /// ENOMEM when the buffers there are in arenas that cannot be one, and at the limit of arenas.
    fn arena_for(&mut self, range: &Range<usize>) -> Outcome<usize> {
        let mut over = self.slots_over(range);
        if over.len() > 1 || over.iter().any(|slot| !self.could_have(*slot, range)) {
            over = self.slots_with_pages(range)?;
        }
        if let Some(slot) = over.pop_first() {
            let arena = self.arenas.get_mut(&slot).ok_or(Errno(libc::EIO))?;
            if !over.is_empty() || !arena.could_have(range) {
                return Err(Errno(libc::ENOMEM));
            }
            arena.reach(range.end, slot)?;
            return Ok(slot);
        }
        if let Some((slot, _)) = self.arenas.iter().find(|(_, arena)| arena.has(range)) {
            return Ok(*slot);
        }
        let slot = watch::free_slot().ok_or(Errno(libc::ENOMEM))?;
        let made = Arena::new(range, slot);
        let no_maps =
            |errno| if errno == Errno(libc::ENOENT) { Errno(libc::ENODEV) } else { errno };
        self.arenas.insert(slot, made.map_err(no_maps)?);
        Ok(slot)
    }

    fn could_have(&self, slot: usize, range: &Range<usize>) -> bool {
        self.arenas.get(&slot).is_some_and(|arena| arena.could_have(range))
    }

    /// The arenas of the buffers over a range.
    fn slots_over(&self, range: &Range<usize>) -> BTreeSet<usize> {
        let own = self.handles.values().filter(|handle| !handle.foreign);
        own.filter(|handle| overlap(&handle.range, range)).map(|handle| handle.arena).collect()
    }

    /// Those of them whose pages are there, or will be: of a buffer that was not used yet.
    fn slots_with_pages(&self, range: &Range<usize>) -> Outcome<BTreeSet<usize>> {
        let mut slots = BTreeSet::new();
        let own = self.handles.values().filter(|handle| !handle.foreign);
        for handle in own.filter(|handle| overlap(&handle.range, range)) {
            let arena = self.arenas.get(&handle.arena).ok_or(Errno(libc::EIO))?;
            let mut there = !handle.used;
            // All of the buffer: no page of it may be in two arenas.
            maps::pieces(handle.range.clone(), |piece, area| {
                there |= area.is_some_and(|area| arena.is_at(piece.start, area));
                Ok(())
            })?;
            if there {
                slots.insert(handle.arena);
            }
        }
        Ok(slots)
    }

    /// Handles in arenas where mappings have changed are to be looked at again.
    fn notice_changes(&mut self) {
        for slot in self.arenas.keys() {
            if watch::take_changed(*slot) {
                let there = self.handles.values_mut().filter(|handle| handle.arena == *slot);
                there.for_each(|handle| handle.ready = false);
            }
        }
    }

    /// Moves the pages of a handle's range behind the memfd that are not there.
    fn adopt(&mut self, key: Key) -> Outcome<()> {
        let Some(handle) = self.handles.get(&key).cloned() else { return Ok(()) };
        let arena = self.arenas.get(&handle.arena).ok_or(Errno(libc::EIO))?;
        deepen_stack();
        let mut moving = Vec::new();
        maps::pieces(handle.range.clone(), |piece, area| {
            if let Some(protection) = judge(arena, handle.read_only, &piece, area)? {
                moving.push((piece, protection));
            }
            Ok(())
        })?;
        for (piece, protection) in moving {
            // The GPU may still work on what was there before.
            self.invalidate(handle.arena, &piece)?;
            arena.take(&piece, protection)?;
        }
        if let Some(handle) = self.handles.get_mut(&key) {
            (handle.ready, handle.used) = (true, true);
        }
        Ok(())
    }

    /// Waits until the GPU no longer uses the pages that a range had until now.
    fn invalidate(&self, slot: usize, range: &Range<usize>) -> Outcome<()> {
        let Some(arena) = self.arenas.get(&slot) else { return Ok(()) };
        let mut last = None;
        for ((file, handle), one) in &self.handles {
            let there = one.arena == slot && !one.foreign && overlap(&one.range, range);
            // One buffer of a session speaks for all.
            if !one.used || !there || last == Some(*file) {
                continue;
            }
            last = Some(*file);
            let Some(node) = node::by_id(*file) else { continue };
            let start = range.start.max(one.range.start);
            let request = |timeout_ns| {
                Request::UserptrInvalidate(UserptrInvalidate {
                    buffer: BufferId(*handle),
                    offset: arena.offset(start),
                    length: (range.end - start) as u64,
                    timeout_ns,
                })
            };
            match ask_patiently(&node, || request(0), request(-1)) {
                // Work that hung does not use them either.
                Ok(_) | Err(Errno(libc::EIO)) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Closes what the program closed while the GPU used it, if it no longer does.
    fn close_idle(&mut self) {
        let closing = self.handles.iter().filter(|(_, handle)| handle.closing);
        let keys: Vec<Key> = closing.map(|(key, _)| *key).collect();
        for (file, handle) in keys {
            let Some(node) = node::by_id(file) else { continue };
            if !is_busy(&node, handle) {
                // A file that was closed meanwhile has no buffers left.
                let _ = self.close(&node, handle);
            }
        }
    }

    fn close(&mut self, node: &Node, handle: u32) -> Outcome<()> {
        let closed = ioctl::close(node, handle);
        self.release((node.id, handle));
        closed
    }

    /// Forgets a handle. Pages that no other is over become private again.
    fn release(&mut self, key: Key) {
        let Some(handle) = self.handles.remove(&key) else { return };
        COUNT.store(self.handles.len(), Ordering::Relaxed);
        if handle.foreign {
            return;
        }
        if handle.used {
            let mut left = vec![handle.range.clone()];
            let others = self.handles.values_mut().filter(|other| !other.foreign);
            let others = others.filter(|other| other.arena == handle.arena);
            for other in others.filter(|other| overlap(&other.range, &handle.range)) {
                left = left.into_iter().flat_map(|part| without(part, &other.range)).collect();
                // The last one over a page gives it back, whether or not the GPU used that one.
                other.used = true;
            }
            if let Some(arena) = self.arenas.get_mut(&handle.arena) {
                let given = left.iter().try_for_each(|part| give_back(arena, part));
                arena.stuck |= given.is_err();
            }
        }
        if let Some(arena) = self.arenas.get_mut(&handle.arena) {
            arena.handles -= 1;
        }
        self.drop_idle_arenas();
    }

    fn drop_idle_arenas(&mut self) {
        let idle = |arena: &Arena| arena.handles == 0 && !arena.stuck;
        let slots: Vec<usize> =
            self.arenas.iter().filter(|(_, arena)| idle(arena)).map(|(slot, _)| *slot).collect();
        for slot in slots.into_iter().skip(IDLE_ARENAS_MAX) {
            watch::withdraw(slot);
            self.arenas.remove(&slot);
        }
    }
}

/// Makes the stack reach far below what the program has on it, so that its lowest page, from which it
/// grows, is not the program's.
#[inline(never)]
fn deepen_stack() {
    std::hint::black_box([0_u8; 64 << 10]);
}

/// What of a range lies outside of another.
fn without(range: Range<usize>, other: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let parts = [range.start..range.end.min(other.start), range.start.max(other.end)..range.end];
    parts.into_iter().filter(|part| !part.is_empty())
}

/// Makes what lies in the memfd private again, and gives up the memfd's pages for the rest.
fn give_back(arena: &Arena, range: &Range<usize>) -> Outcome<()> {
    maps::pieces(range.clone(), |piece, area| {
        match area.filter(|area| arena.is_at(piece.start, area)) {
            Some(area) if area.shared => arena.give_back(&piece, area.protection),
            // A private mapping of the memfd, which may not have all its pages yet.
            Some(_) => Ok(()),
            None => {
                arena.punch(&piece);
                Ok(())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_another_is_what_is_outside() {
        for (range, other, left) in [
            (2..8, 4..6, vec![2..4, 6..8]),
            (2..8, 0..4, vec![4..8, 8..8]),
            (2..8, 6..9, vec![2..6, 8..8]),
            (2..8, 8..9, vec![2..8, 8..8]),
            (2..8, 0..2, vec![2..8, 8..8]),
            (2..8, 1..8, vec![8..8, 8..8]),
        ] {
            let left: Vec<_> = left.into_iter().filter(|part| !part.is_empty()).collect();
            assert_eq!(without(range, &other).collect::<Vec<_>>(), left, "without {other:?}");
        }
    }
}
