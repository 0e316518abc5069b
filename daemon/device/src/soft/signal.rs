//! Completion: signals, and who waits for them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::fence_fd::Export;
use super::request::Request;
use super::watch::{SyncWaiter, Watch};

/// The kernel's errno for work that was lost.
pub(super) const EIO: i32 = 5;
/// The work was done again after a reset that was not its fault.
pub(super) const EAGAIN: i32 = 11;

const PENDING: i32 = -1;

/// Waiters of a signal before the first look for some that nobody needs any more.
const PRUNE_MIN: usize = 64;

/// Completion of one request, or of a merge. Everybody who waits for a request holds this, not the
/// request, whose memory is free as soon as it completed.
#[derive(Debug)]
pub(super) struct Signal {
    /// [`PENDING`], 0, or a positive errno.
    state: AtomicI32,
    /// Requests of one timeline complete in the order of their serials. 0 belongs to none.
    timeline: u64,
    serial: u64,
    /// Engine classes, as bits.
    classes: u16,
    /// What a merge is of. Weak: what has fired is not kept for the sake of later points of a
    /// timeline.
    sources: Option<[Weak<Self>; 2]>,
    /// Highest priority of those who wait: see [`super::inherit`].
    lent: AtomicI32,
    waiters: Mutex<Waiters>,
}

/// What the lock of a signal protects.
#[derive(Debug, Default)]
struct Waiters {
    /// The request, unless this is of a merge. Given up when it completes: a signal may be kept for
    /// long, and must not keep a request's memory.
    request: Weak<Request>,
    list: Vec<Waiter>,
    /// Length of the list at which it is next looked through.
    prune_at: usize,
    /// The work has started.
    begun: bool,
}

/// What happens when a signal fires.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A request has one dependency less.
    Request(Arc<Request>),
    /// The same, but already when the work starts.
    Start(Arc<Request>),
    /// A merged fence has. `quiet`: this one's error is not the fence's.
    Merge {
        /// The fence.
        merge: Arc<Merge>,
        /// See above.
        quiet: bool,
    },
    /// The owner of a buffer wants to know.
    Watch(Arc<Watch>),
    /// Somebody waits for syncobjs.
    Syncobj(SyncWaiter),
    /// An fd becomes readable.
    Export(Export),
}

impl Waiter {
    /// The signal fires. Answers what fires with it, and with what.
    fn signalled(self, errno: i32, ready: &mut Vec<Arc<Request>>) -> Option<(Arc<Signal>, i32)> {
        match self {
            Self::Request(request) | Self::Start(request) => {
                if request.dependency_met() {
                    ready.push(request);
                }
            }
            Self::Merge { merge, quiet } => return merge.met(if quiet { 0 } else { errno }),
            Self::Watch(watch) => watch.signalled(errno),
            Self::Syncobj(waiter) => waiter.signalled(),
            Self::Export(export) => export.fire(errno),
        }
        None
    }

    /// Whether it was found that nobody would notice if this was never told.
    fn is_dead(&self) -> bool {
        match self {
            Self::Merge { merge, .. } => merge.dead.load(Ordering::Relaxed),
            Self::Syncobj(waiter) => waiter.is_over(),
            Self::Request(_) | Self::Start(_) | Self::Watch(_) | Self::Export(_) => false,
        }
    }
}

impl Signal {
    /// Of a request.
    pub(super) fn new(timeline: u64, serial: u64, classes: u16) -> Arc<Self> {
        Arc::new(Self::with(timeline, serial, classes, None))
    }

    fn with(timeline: u64, serial: u64, classes: u16, sources: Option<[Weak<Self>; 2]>) -> Self {
        let state = AtomicI32::new(PENDING);
        let lent = AtomicI32::new(i32::MIN);
        Self { state, timeline, serial, classes, sources, lent, waiters: Mutex::default() }
    }

    /// `None` while pending, then 0 or a positive errno.
    pub(super) fn state(&self) -> Option<i32> {
        Some(self.state.load(Ordering::Acquire)).filter(|state| *state != PENDING)
    }

    /// Says whose completion it is.
    pub(super) fn belong_to(&self, request: &Arc<Request>) {
        self.lock().request = Arc::downgrade(request);
    }

    /// The request, while it is not over; never of a merge.
    pub(super) fn request(&self) -> Option<Arc<Request>> {
        self.lock().request.upgrade()
    }

    /// What a merge is of, as far as it is pending.
    pub(super) fn sources(&self) -> impl Iterator<Item = Arc<Self>> {
        self.sources.iter().flatten().filter_map(Weak::upgrade)
    }

    /// The highest priority of those who wait for it.
    pub(super) fn lent(&self) -> i32 {
        self.lent.load(Ordering::Acquire)
    }

    /// Somebody of this priority waits. False if somebody of it did already.
    pub(super) fn lend(&self, priority: i32) -> bool {
        self.lent.fetch_max(priority, Ordering::AcqRel) < priority
    }

    pub(super) const fn classes(&self) -> u16 {
        self.classes
    }

    /// Whether this completes after `other` for sure, being later on the same timeline.
    pub(super) const fn is_after(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.timeline != 0 && self.serial >= other.serial
    }

    /// Registers a waiter.
    ///
    /// # Errors
    /// The signal has fired; the waiter comes back.
    pub(super) fn wait(&self, waiter: Waiter) -> Result<(), Waiter> {
        let mut waiters = self.lock();
        let too_late =
            self.state().is_some() || (waiters.begun && matches!(waiter, Waiter::Start(_)));
        if too_late {
            return Err(waiter);
        }
        if waiters.list.len() >= waiters.prune_at.max(PRUNE_MIN) {
            waiters.prune();
            waiters.prune_at = 2 * waiters.list.len();
        }
        waiters.list.push(waiter);
        Ok(())
    }

    /// The work has started. Requests that waited for that alone go to `ready`. Called without any
    /// lock held.
    pub(super) fn begin(&self, ready: &mut Vec<Arc<Request>>) {
        let mut waiters = self.lock();
        waiters.begun = true;
        let starts = waiters.list.extract_if(.., |waiter| matches!(waiter, Waiter::Start(_)));
        let starts: Vec<_> = starts.collect();
        drop(waiters);
        for waiter in starts {
            if let Waiter::Start(request) = waiter
                && request.dependency_met()
            {
                ready.push(request);
            }
        }
    }

    /// The signals of requests among what this is of that have not started: who starts along with
    /// this waits for them.
    pub(super) fn not_begun(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let (mut found, mut seen, mut left) = (Vec::new(), HashSet::new(), vec![Arc::clone(self)]);
        while let Some(signal) = left.pop() {
            if signal.state().is_some() || !seen.insert(Arc::as_ptr(&signal)) {
                continue;
            }
            match &signal.sources {
                Some(sources) => left.extend(sources.iter().filter_map(Weak::upgrade)),
                None if signal.lock().begun => {}
                None => found.push(signal),
            }
        }
        found
    }

    /// Fires with 0 or a positive errno. Requests that have no dependency left go to `ready`.
    /// Called without any lock held.
    ///
    /// What was merged of it changes state first, and nobody is told before all have: whoever sees
    /// or hears that this has fired sees the same of every point of a timeline reached with it.
    pub(super) fn fire(self: &Arc<Self>, errno: i32, ready: &mut Vec<Arc<Request>>) {
        let mut firing = vec![(Arc::clone(self), errno)];
        while let Some(first) = firing.pop() {
            // Merges of merges can be nested without limit, so not by recursion.
            let mut order = vec![first];
            let mut next = 0;
            while let Some((signal, errno)) = order.get(next).cloned() {
                order.extend(signal.merged(errno));
                next += 1;
            }
            let mut told = Vec::new();
            for (signal, errno) in order.into_iter().rev() {
                let mut waiters = signal.lock();
                signal.state.store(errno, Ordering::Release);
                waiters.request = Weak::new();
                told.extend(waiters.list.drain(..).map(|waiter| (waiter, errno)));
            }
            // Merges that were made in this moment may be among the waiters.
            let late =
                told.into_iter().filter_map(|(waiter, errno)| waiter.signalled(errno, ready));
            firing.extend(late);
        }
    }

    /// What was merged of this and fires with it.
    fn merged(&self, errno: i32) -> Vec<(Arc<Self>, i32)> {
        let is_merge = |waiter: &mut Waiter| matches!(waiter, Waiter::Merge { .. });
        let merges: Vec<_> = self.lock().list.extract_if(.., is_merge).collect();
        merges.into_iter().filter_map(|merge| merge.signalled(errno, &mut Vec::new())).collect()
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.lock().list.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    /// Drops waiters that nobody needs any more: those of waits that were given up, and of merges
    /// whose fence is gone. Without it a client could make a pending signal's list grow for ever.
    fn prune(&mut self) {
        let mut alive = HashSet::new();
        // The latest first: what was merged of a merge came later, and is looked at only once.
        for waiter in self.list.iter().rev() {
            if let Waiter::Merge { merge, .. } = waiter {
                merge.examine(&mut alive);
            }
        }
        self.list.retain(|waiter| !waiter.is_dead());
    }
}

/// A fence of two signals.
#[derive(Debug)]
pub(super) struct Merge {
    left: AtomicUsize,
    /// 0, or the first errno.
    error: AtomicI32,
    signal: Arc<Signal>,
    /// No fence is left of it and nothing waits for it: nothing ever will.
    dead: AtomicBool,
}

impl Merge {
    /// Of what is pending of two; three times [`Self::met`] will fire it.
    pub(super) fn of(sources: [Option<&Arc<Signal>>; 2]) -> Arc<Self> {
        let classes = sources.iter().flatten().fold(0, |bits, signal| bits | signal.classes());
        let sources = sources.map(|signal| signal.map_or_else(Weak::new, Arc::downgrade));
        Arc::new(Self {
            left: AtomicUsize::new(3),
            error: AtomicI32::new(0),
            signal: Arc::new(Signal::with(0, 0, classes, Some(sources))),
            dead: AtomicBool::new(false),
        })
    }

    /// One of its signals fired; if it was the last, what fires now.
    pub(super) fn met(&self, errno: i32) -> Option<(Arc<Signal>, i32)> {
        if errno != 0 {
            // An error that is there already came first.
            let _ = self.error.compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
        }
        (self.left.fetch_sub(1, Ordering::AcqRel) == 1)
            .then(|| (Arc::clone(&self.signal), self.error.load(Ordering::Relaxed)))
    }

    /// What fires.
    pub(super) fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.signal)
    }

    /// Finds out whether it is dead, and which of what was merged of it are; `alive` are those that
    /// were found not to be. Not by recursion: chains of merges are as long as timelines.
    ///
    /// Locks go from a signal to what was merged of it, which came later, so never in a circle.
    fn examine(self: &Arc<Self>, alive: &mut HashSet<*const Self>) {
        let mut path = vec![Arc::clone(self)];
        while let Some(merge) = path.last() {
            // Only the merge itself holds its signal: nobody is left who could begin to wait.
            let next =
                if Arc::strong_count(&merge.signal) == 1 { merge.last_waiter() } else { Err(()) };
            match next {
                Ok(None) => {
                    merge.dead.store(true, Ordering::Relaxed);
                    path.pop();
                }
                Ok(Some(next)) if !alive.contains(&Arc::as_ptr(&next)) => path.push(next),
                Ok(Some(_)) | Err(()) => {
                    alive.extend(path.iter().map(Arc::as_ptr));
                    return;
                }
            }
        }
    }

    /// The last merge that waits for this one, the dead ones dropped.
    ///
    /// # Errors
    /// Something else waits.
    fn last_waiter(&self) -> Result<Option<Arc<Self>>, ()> {
        let mut waiters = self.signal.lock();
        waiters.list.retain(|waiter| !waiter.is_dead());
        match waiters.list.last() {
            None => Ok(None),
            Some(Waiter::Merge { merge, .. }) => Ok(Some(Arc::clone(merge))),
            Some(_) => Err(()),
        }
    }
}
