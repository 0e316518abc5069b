//! Waits for syncobjs that have not ended.
//!
//! A wait is for the fences that were there when it began, as in the kernel: each is taken out as a
//! sync_file, which the poller watches. For fences that are still to come, one thread of the file
//! waits in the kernel for all of them at once; it exists only while there are such.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drm::control::Device as _;
use drm::control::syncobj::Handle;
use rustix::io::Errno;

use super::FileShared;
use super::card::errno;
use super::fence::Fence;
use super::poller::Ticket;
use super::syncobj::{Syncobj, test};
use crate::{DeviceError, DeviceEvent, FenceState, SyncobjWait};

/// The waits of one file.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_token: HashMap<u64, Arc<Wait>>,
    /// What the thread waits for.
    missing: Vec<Missing>,
    /// Signalled to make the thread look at `missing` again; there while the thread is.
    bell: Option<Syncobj>,
}

/// A fence that a wait needs and that nobody has put in yet.
#[derive(Clone, Debug)]
struct Missing {
    wait: Arc<Wait>,
    position: u32,
    syncobj: Syncobj,
    point: u64,
}

#[derive(Debug)]
struct Wait {
    token: u64,
    all: bool,
    available: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Objects that have to be ready; 0 once the wait is over.
    left: usize,
    /// The call that begins the wait has returned: its end is an event.
    begun: bool,
    /// What was first.
    first: u32,
    tickets: Vec<Ticket>,
}

impl Wait {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.state().left == 0
    }

    /// So many objects are ready. Answers true if that ends a wait that has begun.
    fn ready(&self, position: u32, count: usize) -> bool {
        let mut state = self.state();
        if state.left == 0 {
            return false;
        }
        state.left = state.left.saturating_sub(count);
        // Who waits for all of them is not told an order.
        state.first = if self.all { 0 } else { position };
        state.left == 0 && state.begun
    }
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`crate::DeviceFile::watch_syncobjs`].
pub(super) fn watch(
    file: &Arc<FileShared>,
    wait: &SyncobjWait<'_, Syncobj>,
    token: u64,
) -> Result<Option<u32>, DeviceError> {
    if let Some(first) = test(file, wait)? {
        return Ok(Some(first));
    }
    let left = if wait.all { wait.objects.len() } else { 1 };
    let state = State { left, begun: false, first: 0, tickets: Vec::new() };
    let (all, available) = (wait.all, wait.available);
    let pending = Arc::new(Wait { token, all, available, state: Mutex::new(state) });
    let begun = begin(file, wait, &pending);
    if let Err(error) = begun {
        end(file, &pending);
        return Err(error);
    }
    let mut table = file.waits.lock();
    let mut state = pending.state();
    if state.left > 0 {
        state.begun = true;
        table.by_token.insert(token, Arc::clone(&pending));
        return Ok(None);
    }
    let first = state.first;
    drop((state, table));
    end(file, &pending);
    Ok(Some(first))
}

/// Watches every fence that is there, and has the thread wait for the others.
fn begin(
    file: &Arc<FileShared>,
    wait: &SyncobjWait<'_, Syncobj>,
    pending: &Arc<Wait>,
) -> Result<(), DeviceError> {
    let mut missing = Vec::new();
    let mut together = Vec::new();
    for (position, (syncobj, point)) in (0_u32..).zip(wait.objects) {
        match syncobj.fence(*point) {
            Some(_) if wait.available => {
                pending.ready(position, 1);
            }
            Some(fence) if wait.all => together.push(fence),
            Some(fence) => watch_fence(file, pending, fence, position, 1)?,
            None if wait.for_submit || wait.available => missing.push(Missing {
                wait: Arc::clone(pending),
                position,
                syncobj: syncobj.clone(),
                point: *point,
            }),
            None => return Err(DeviceError::NoFence),
        }
    }
    // All of them: one fd does.
    if let Some(fence) = Fence::merge_all(&together)? {
        watch_fence(file, pending, fence, 0, together.len())?;
    }
    if missing.is_empty() { Ok(()) } else { file.waits.add_missing(file, missing) }
}

/// Has the poller tell the wait of the fence's end, which stands for so many objects.
fn watch_fence(
    file: &Arc<FileShared>,
    wait: &Arc<Wait>,
    fence: Fence,
    position: u32,
    count: usize,
) -> Result<(), DeviceError> {
    fence.file()?;
    if fence.state() != FenceState::Pending {
        ready(file, wait, position, count);
        return Ok(());
    }
    let then = {
        let (file, wait) = (Arc::downgrade(file), Arc::clone(wait));
        Box::new(move |_| {
            if let Some(file) = file.upgrade() {
                ready(&file, &wait, position, count);
            }
        })
    };
    let ticket = file.watch(fence, then)?;
    wait.state().tickets.push(ticket);
    Ok(())
}

/// So many objects of the wait are ready; reports it if that was what it waited for.
fn ready(file: &FileShared, wait: &Arc<Wait>, position: u32, count: usize) {
    if wait.ready(position, count) {
        // Whoever takes it back at the same moment is faster or not.
        let reported = file.waits.lock().by_token.remove(&wait.token).is_some();
        let first = wait.state().first;
        end(file, wait);
        if reported {
            file.events.report(DeviceEvent::SyncobjsReady { token: wait.token, first });
        }
    }
}

/// Nothing is watched for the wait any more.
fn end(file: &FileShared, wait: &Arc<Wait>) {
    let tickets = {
        let mut state = wait.state();
        state.left = 0;
        std::mem::take(&mut state.tickets)
    };
    for ticket in tickets {
        file.device.poller.forget(ticket);
    }
    file.waits.forget_missing();
}

/// See [`crate::DeviceFile::unwatch_syncobjs`].
pub(super) fn unwatch(file: &FileShared, token: u64) {
    let wait = file.waits.lock().by_token.remove(&token);
    if let Some(wait) = wait {
        end(file, &wait);
    }
}

/// The file is closed: nobody waits any more.
pub(super) fn unwatch_all(file: &FileShared) {
    let waits = std::mem::take(&mut file.waits.lock().by_token);
    for wait in waits.values() {
        end(file, wait);
    }
}

impl Waits {
    fn add_missing(&self, file: &Arc<FileShared>, more: Vec<Missing>) -> Result<(), DeviceError> {
        let mut table = self.lock();
        if let Some(bell) = table.bell.clone() {
            table.missing.extend(more);
            drop(table);
            return bell.signal(0);
        }
        let bell = Syncobj::create(file, false)?;
        let thread = {
            let (file, bell) = (Arc::clone(file), bell.clone());
            move || wait_for_fences(&file, &bell)
        };
        let name = "i915-syncobjs".to_owned();
        std::thread::Builder::new()
            .name(name)
            .spawn(thread)
            .map_err(|error| super::os(errno(&error), "starting a thread"))?;
        table.missing.extend(more);
        table.bell = Some(bell);
        Ok(())
    }

    /// Takes out what belonged to waits that are over.
    fn forget_missing(&self) {
        let mut table = self.lock();
        let before = table.missing.len();
        let gone: Vec<_> = table.missing.extract_if(.., |missing| missing.wait.is_over()).collect();
        let bell = table.bell.clone().filter(|_| table.missing.len() != before);
        drop(table);
        // They may hold the last handles of their syncobjs.
        drop(gone);
        if let Some(bell) = bell {
            // Should it fail, the thread looks up when the next fence comes.
            let _ = bell.signal(0);
        }
    }

    /// What to wait for; `None`, and no thread is there any more, if that is nothing.
    fn next_missing(&self, bell: &Syncobj) -> Option<Vec<Missing>> {
        let mut table = self.lock();
        // Before the list is read: what is added later rings again.
        bell.reset();
        if table.missing.is_empty() {
            table.bell = None;
            return None;
        }
        Some(table.missing.clone())
    }
}

/// Waits for fences to be put in, until there are none to wait for.
fn wait_for_fences(file: &Arc<FileShared>, bell: &Syncobj) {
    while let Some(missing) = file.waits.next_missing(bell) {
        let mut handles: Vec<Handle> =
            missing.iter().map(|missing| missing.syncobj.raw()).collect();
        let mut points: Vec<u64> = missing.iter().map(|missing| missing.point).collect();
        handles.push(bell.raw());
        points.push(0);
        let waited =
            file.card.syncobj_timeline_wait(&handles, &points, i64::MAX, false, true, true);
        match waited.map_err(|error| errno(&error)) {
            Ok(_) | Err(Errno::INTR | Errno::TIME) => {}
            Err(error) => {
                // The device is gone; nobody will put anything in.
                tracing::warn!(%error, "waiting for fences to come failed");
                let table = std::mem::take(&mut *file.waits.lock());
                drop(table);
                return;
            }
        }
        for Missing { wait, position, syncobj, point } in missing {
            let Some(fence) = syncobj.fence(point) else { continue };
            let found = |missing: &mut Missing| {
                Arc::ptr_eq(&missing.wait, &wait) && missing.position == position
            };
            let taken: Vec<_> = file.waits.lock().missing.extract_if(.., found).collect();
            if taken.is_empty() {
                continue;
            }
            drop(taken);
            let watched = if wait.available {
                ready(file, &wait, position, 1);
                Ok(())
            } else {
                watch_fence(file, &wait, fence, position, 1)
            };
            if let Err(error) = watched {
                // Nothing can watch it for us; the client's own time-out is what is left.
                tracing::warn!(%error, "a fence cannot be watched");
            }
        }
    }
}
