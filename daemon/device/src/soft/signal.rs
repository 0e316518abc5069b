//! Completion: signals, who waits for them, and fences made of them.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fence_fd::Export;
use super::request::Request;
use crate::{DeviceEvent, EventSink, FenceState};

/// The kernel's errno for work that was lost.
pub(super) const EIO: i32 = 5;

const PENDING: i32 = -1;

/// Completion of one request, or of a merge. Everybody who waits for a request holds this, not the
/// request, whose memory is free as soon as it completed.
#[derive(Debug)]
pub(super) struct Signal {
    /// [`PENDING`], 0, or a positive errno.
    state: AtomicI32,
    /// Requests of one timeline complete in order. 0 belongs to none.
    timeline: u64,
    /// Engine classes, as bits.
    classes: u16,
    waiters: Mutex<Vec<Waiter>>,
}

/// What happens when a signal fires.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A request has one dependency less.
    Request(Arc<Request>),
    /// A merged fence does.
    Merge(Arc<Merge>),
    /// The owner of a buffer wants to know.
    Watch(Arc<Watch>),
    /// An fd becomes readable.
    Export(Export),
}

/// A fence of several signals.
#[derive(Debug)]
pub(super) struct Merge {
    left: AtomicUsize,
    /// 0, or the first errno.
    error: AtomicI32,
    signal: Arc<Signal>,
}

/// Who wants to know that a buffer is idle.
pub(super) struct Watch {
    left: AtomicUsize,
    token: u64,
    events: Arc<dyn EventSink>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Signal {
    pub(super) fn new(timeline: u64, classes: u16) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicI32::new(PENDING),
            timeline,
            classes,
            waiters: Mutex::default(),
        })
    }

    /// `None` while pending, then 0 or a positive errno.
    pub(super) fn state(&self) -> Option<i32> {
        Some(self.state.load(Ordering::Acquire)).filter(|state| *state != PENDING)
    }

    pub(super) const fn classes(&self) -> u16 {
        self.classes
    }

    /// Whether this completes after `other` for sure, being later on the same timeline.
    pub(super) const fn is_after(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.timeline != 0
    }

    /// Registers a waiter.
    ///
    /// # Errors
    /// The signal has fired; the waiter comes back.
    pub(super) fn wait(&self, waiter: Waiter) -> Result<(), Waiter> {
        let mut waiters = self.lock();
        if self.state().is_some() {
            return Err(waiter);
        }
        waiters.push(waiter);
        Ok(())
    }

    /// Fires with 0 or a positive errno. Requests that have no dependency left go to `ready`.
    /// Called without any lock held.
    pub(super) fn fire(self: &Arc<Self>, errno: i32, ready: &mut Vec<Arc<Request>>) {
        // Merges of merges can be nested without limit, so not by recursion.
        let mut firing = vec![(Arc::clone(self), errno)];
        while let Some((signal, errno)) = firing.pop() {
            let waiters = {
                let mut waiters = signal.lock();
                signal.state.store(errno, Ordering::Release);
                std::mem::take(&mut *waiters)
            };
            for waiter in waiters {
                match waiter {
                    Waiter::Request(request) => {
                        if request.dependency_met() {
                            ready.push(request);
                        }
                    }
                    Waiter::Merge(merge) => firing.extend(merge.met(errno)),
                    Waiter::Watch(watch) => {
                        if watch.met() {
                            watch.events.report(DeviceEvent::BufferIdle { token: watch.token });
                        }
                    }
                    Waiter::Export(export) => export.fire(errno),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Merge {
    /// One of its signals fired; if it was the last, what fires now.
    fn met(&self, errno: i32) -> Option<(Arc<Signal>, i32)> {
        if errno != 0 {
            // An error that is there already came first.
            let _ = self.error.compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        (self.left.fetch_sub(1, Ordering::AcqRel) == 1)
            .then(|| (Arc::clone(&self.signal), self.error.load(Ordering::Relaxed)))
    }
}

impl Watch {
    /// Watches signals; false if all have fired already, and then nothing is reported.
    pub(super) fn start(signals: &[Arc<Signal>], token: u64, events: Arc<dyn EventSink>) -> bool {
        // One more than there are signals: it must not report before all are registered.
        let watch = Arc::new(Self { left: AtomicUsize::new(signals.len() + 1), token, events });
        for signal in signals {
            if signal.wait(Waiter::Watch(Arc::clone(&watch))).is_err() {
                watch.met();
            }
        }
        !watch.met()
    }

    fn met(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Completion of a request, as a file of the device hands it out.
#[derive(Clone, Debug)]
pub struct Fence(pub(super) FenceKind);

#[derive(Clone, Debug)]
pub(super) enum FenceKind {
    /// Signalled: 0 or a positive errno.
    Done(i32),
    /// Of something that was pending when the fence was made.
    Of(Arc<Signal>),
}

impl Fence {
    pub(super) const fn done(errno: i32) -> Self {
        Self(FenceKind::Done(errno))
    }

    pub(super) const fn of(signal: Arc<Signal>) -> Self {
        Self(FenceKind::Of(signal))
    }

    /// `None` while pending, then 0 or a positive errno.
    pub(super) fn result(&self) -> Option<i32> {
        match &self.0 {
            FenceKind::Done(errno) => Some(*errno),
            FenceKind::Of(signal) => signal.state(),
        }
    }

    /// The signal, while it has not fired.
    pub(super) fn pending(&self) -> Option<&Arc<Signal>> {
        match &self.0 {
            FenceKind::Done(_) => None,
            FenceKind::Of(signal) => Some(signal).filter(|signal| signal.state().is_none()),
        }
    }

    pub(super) fn state(&self) -> FenceState {
        match self.result() {
            None => FenceState::Pending,
            Some(0) => FenceState::Signalled,
            Some(errno) => FenceState::Failed(errno),
        }
    }

    pub(super) fn merge(first: &Self, second: &Self) -> Self {
        let classes = [first, second].into_iter().filter_map(|fence| fence.pending());
        let signal = Signal::new(0, classes.fold(0, |bits, signal| bits | signal.classes()));
        let merge = Arc::new(Merge {
            left: AtomicUsize::new(3),
            error: AtomicI32::new(0),
            signal: Arc::clone(&signal),
        });
        for fence in [first, second] {
            let waiting = match fence.pending() {
                Some(signal) => signal.wait(Waiter::Merge(Arc::clone(&merge))).is_ok(),
                None => false,
            };
            if !waiting {
                merge.met(fence.result().unwrap_or(0));
            }
        }
        // The third keeps it from firing before both are registered, here where nobody waits yet.
        match merge.met(0) {
            Some((_, errno)) => Self::done(errno),
            None => Self::of(signal),
        }
    }
}
