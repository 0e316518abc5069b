//! Who wants to know: waits for buffers and for syncobjs, which end in an event.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fence::Fence;
use super::signal::{Signal, Waiter};
use super::syncobj::{Syncobj, Ticket};
use crate::{DeviceError, DeviceEvent, EventSink, SyncobjWait};

/// What a watch of buffers reports: its token, and whether a request ended with an error.
pub(super) type Report = fn(token: u64, lost: bool) -> DeviceEvent;

/// Who wants to know that buffers are idle.
pub(super) struct Watch {
    left: AtomicUsize,
    /// A request ended with an error.
    lost: AtomicBool,
    token: u64,
    report: Report,
    events: Arc<dyn EventSink>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches signals; false if all have fired already, and then nothing is reported.
    pub(super) fn start(
        signals: &[Arc<Signal>],
        (token, report): (u64, Report),
        events: Arc<dyn EventSink>,
    ) -> bool {
        // One more than there are signals: it must not report before all are registered.
        let left = AtomicUsize::new(signals.len() + 1);
        let lost = AtomicBool::new(false);
        let watch = Arc::new(Self { left, lost, token, report, events });
        for signal in signals {
            if signal.wait(Waiter::Watch(Arc::clone(&watch))).is_err() {
                watch.met();
            }
        }
        !watch.met()
    }

    /// One of the signals fired.
    pub(super) fn signalled(&self, errno: i32) {
        // Before this one is counted: whoever counts the last sees what all said.
        if errno != 0 {
            self.lost.store(true, Ordering::Relaxed);
        }
        if self.met() {
            self.events.report((self.report)(self.token, self.lost.load(Ordering::Relaxed)));
        }
    }

    fn met(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// The waits for syncobjs of one file that have not ended.
pub(super) struct Waits {
    events: Arc<dyn EventSink>,
    table: Mutex<HashMap<u64, Entry>>,
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    wait: Arc<Wait>,
    /// Where it waits for a fence to be put in.
    parked: Vec<(Syncobj, Ticket)>,
}

/// A wait for syncobjs. Those who can end it hold it, and it holds none of them.
#[derive(Debug)]
pub(super) struct Wait {
    /// Objects that have to be ready; 0 or less once the wait is over.
    left: AtomicIsize,
    all: bool,
    available: bool,
    token: u64,
    waits: Arc<Waits>,
}

/// The part of a [`Wait`] that is about one object.
#[derive(Clone, Debug)]
pub(super) struct SyncWaiter {
    wait: Arc<Wait>,
    index: u32,
}

impl Waits {
    pub(super) fn new(events: Arc<dyn EventSink>) -> Arc<Self> {
        Arc::new(Self { events, table: Mutex::default() })
    }

    /// See [`crate::DeviceFile::watch_syncobjs`].
    pub(super) fn watch(
        self: &Arc<Self>,
        request: &SyncobjWait<'_, Syncobj>,
        token: u64,
    ) -> Result<Option<u32>, DeviceError> {
        let fences: Vec<_> =
            request.objects.iter().map(|(syncobj, point)| syncobj.fence(*point)).collect();
        if !(request.for_submit || request.available) && fences.iter().any(Option::is_none) {
            return Err(DeviceError::NoFence);
        }
        let is_ready = |fence: &Option<Fence>| {
            fence.as_ref().is_some_and(|fence| request.available || fence.result().is_some())
        };
        let first = fences.iter().position(is_ready);
        if if request.all { fences.iter().all(is_ready) } else { first.is_some() } {
            return Ok(Some(index_of(first.unwrap_or(0))));
        }
        let needed = if request.all { request.objects.len() } else { 1 };
        let wait = Arc::new(Wait {
            left: AtomicIsize::new(isize::try_from(needed).unwrap_or(isize::MAX)),
            all: request.all,
            available: request.available,
            token,
            waits: Arc::clone(self),
        });
        Ok(self.register(request, &wait, fences))
    }

    /// Has a wait told of everything it waits for. `Some` if that ended it.
    fn register(
        &self,
        request: &SyncobjWait<'_, Syncobj>,
        wait: &Arc<Wait>,
        fences: Vec<Option<Fence>>,
    ) -> Option<u32> {
        let entry = Entry { wait: Arc::clone(wait), parked: Vec::new() };
        self.lock().insert(wait.token, entry);
        for (index, ((syncobj, point), fence)) in request.objects.iter().zip(fences).enumerate() {
            let waiter = SyncWaiter { wait: Arc::clone(wait), index: index_of(index) };
            let fence = match fence {
                Some(fence) => fence,
                None => match syncobj.park(*point, &waiter) {
                    Ok(fence) => fence,
                    Err(ticket) => {
                        self.note_parked(wait, syncobj, ticket);
                        continue;
                    }
                },
            };
            if waiter.follow(&fence) {
                self.forget(wait);
                return Some(wait.first(waiter.index));
            }
        }
        None
    }

    /// Remembers where a wait is parked, to take it away from there when it is over; if it is over
    /// already, that is now.
    fn note_parked(&self, wait: &Arc<Wait>, syncobj: &Syncobj, ticket: Ticket) {
        let mut table = self.lock();
        match table.get_mut(&wait.token).filter(|entry| Arc::ptr_eq(&entry.wait, wait)) {
            Some(entry) => entry.parked.push((syncobj.clone(), ticket)),
            None => {
                drop(table);
                syncobj.unpark(ticket);
            }
        }
    }

    /// Ends a wait without an event.
    pub(super) fn unwatch(&self, token: u64) {
        let entry = self.lock().remove(&token);
        if let Some(entry) = entry {
            entry.cancel();
        }
    }

    /// Ends all waits without an event.
    pub(super) fn unwatch_all(&self) {
        let entries = std::mem::take(&mut *self.lock());
        entries.into_values().for_each(Entry::cancel);
    }

    /// Takes a wait that is over out of the table and the objects.
    fn forget(&self, wait: &Arc<Wait>) {
        let mut table = self.lock();
        let is_same = table.get(&wait.token).is_some_and(|entry| Arc::ptr_eq(&entry.wait, wait));
        let entry = if is_same { table.remove(&wait.token) } else { None };
        drop(table);
        if let Some(entry) = entry {
            entry.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn cancel(self) {
        // So far below that nothing counts it down to 0.
        self.wait.left.store(isize::MIN / 2, Ordering::Release);
        self.unpark();
    }

    fn unpark(self) {
        for (syncobj, ticket) in self.parked {
            syncobj.unpark(ticket);
        }
    }
}

impl Wait {
    /// What a wait reports: who waits for all is told of the first.
    const fn first(&self, index: u32) -> u32 {
        if self.all { 0 } else { index }
    }
}

impl SyncWaiter {
    /// The fence of the object is known now. True if that ends the wait, and then the caller is the
    /// only one to know.
    pub(super) fn follow(&self, fence: &Fence) -> bool {
        let waits = !self.wait.available
            && fence
                .pending()
                .is_some_and(|signal| signal.wait(Waiter::Syncobj(self.clone())).is_ok());
        !waits && self.met()
    }

    /// The fence of the object signalled.
    pub(super) fn signalled(&self) {
        if self.met() {
            self.finish();
        }
    }

    /// Reports the end of the wait.
    pub(super) fn finish(&self) {
        let Wait { token, waits, .. } = &*self.wait;
        waits.forget(&self.wait);
        let first = self.wait.first(self.index);
        waits.events.report(DeviceEvent::SyncobjsReady { token: *token, first });
    }

    pub(super) fn is_over(&self) -> bool {
        self.wait.left.load(Ordering::Acquire) <= 0
    }

    fn met(&self) -> bool {
        self.wait.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Positions are counted in `u32`, as the interface does.
fn index_of(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
