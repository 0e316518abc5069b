//! Syncobjs: containers of a fence, or of a timeline of fences.
//!
//! A timeline is the kernel's chain of fences, with the kernel's ways (`drm_syncobj.c` and
//! `dma-fence-chain.c` are the source of every rule here):
//!
//! * A point is reached when its fence has signalled and those of all points before it have.
//! * Waiting for a value waits for the first point that is at least that.
//! * A point whose value is not above the last one's starts a new chain on top of the old one: it
//!   takes the last value, and from then on all values up to it wait for everything below.
//! * What has signalled is dropped from the chain, except for the last point.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fence::Fence;
use super::watch::SyncWaiter;
use crate::DeviceError;

/// Points of one timeline that have not signalled. The protocol promises as many
/// (`TIMELINE_POINTS_PENDING_MAX` there).
pub(super) const TIMELINE_POINTS_PENDING_MAX: usize = 4096;

/// The chain of a fence that is no point of a timeline.
const NO_CHAIN: u64 = 0;

/// A container of a fence or of a timeline of fences. Clones are the same object.
#[derive(Clone, Debug, Default)]
pub struct Syncobj(Arc<Mutex<State>>);

/// Who waits at a syncobj for a fence: the point, and a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ticket(u64, u64);

#[derive(Debug, Default)]
struct State {
    /// Oldest first; the last is what the object holds.
    points: VecDeque<Point>,
    chains: u64,
    parked: BTreeMap<Ticket, SyncWaiter>,
    tickets: u64,
}

#[derive(Debug)]
struct Point {
    /// [`NO_CHAIN`], or a number that the points share which were put in in order.
    chain: u64,
    value: u64,
    /// The value of the point before, signalled or not; 0 for the first of a chain.
    previous: u64,
    /// The fence that was put in.
    own: Fence,
    /// Signals when the point is reached.
    reached: Fence,
}

impl Syncobj {
    /// An empty one, or one that holds a signalled fence.
    pub(super) fn new(signalled: bool) -> Self {
        let syncobj = Self::default();
        if signalled {
            syncobj.put(0, &Fence::done(0));
        }
        syncobj
    }

    pub(super) fn reset(&self) {
        // The fences go when the lock is open again.
        let _points = std::mem::take(&mut self.lock().points);
    }

    /// Puts a fence in, in place of what is there for point 0, else as a point. Tells who waited
    /// for that: called without any lock held.
    pub(super) fn put(&self, point: u64, fence: &Fence) {
        let available = {
            let mut state = self.lock();
            state.put(point, fence);
            state.take_parked()
        };
        for (waiter, fence) in available {
            if waiter.follow(&fence) {
                waiter.finish();
            }
        }
    }

    /// # Errors
    /// The timeline has as many pending points as it may.
    pub(super) fn check_room(&self, point: u64) -> Result<(), DeviceError> {
        if point == 0 || self.lock().has_room() { Ok(()) } else { Err(DeviceError::OutOfMemory) }
    }

    /// See [`crate::DeviceFile::syncobj_fence`].
    pub(super) fn fence(&self, point: u64) -> Option<Fence> {
        self.lock().find(point)
    }

    /// See [`crate::DeviceFile::syncobj_point`].
    pub(super) fn value(&self, submitted: bool) -> u64 {
        self.lock().value(submitted)
    }

    /// Has `waiter` told when there is a fence for the point.
    ///
    /// # Errors
    /// There is none yet; the ticket takes the waiter away again.
    pub(super) fn park(&self, point: u64, waiter: &SyncWaiter) -> Result<Fence, Ticket> {
        let mut state = self.lock();
        if let Some(fence) = state.find(point) {
            return Ok(fence);
        }
        state.tickets += 1;
        let ticket = Ticket(point, state.tickets);
        state.parked.insert(ticket, waiter.clone());
        Err(ticket)
    }

    pub(super) fn unpark(&self, ticket: Ticket) {
        // Dropped when the lock is open again.
        let _waiter = self.lock().parked.remove(&ticket);
    }

    /// How many wait for a fence.
    #[cfg(test)]
    pub(super) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, value: u64, fence: &Fence) {
        let own = fence.clone();
        if value == 0 {
            self.points.clear();
            let reached = own.clone();
            self.points.push_back(Point { chain: NO_CHAIN, value, previous: 0, own, reached });
            return;
        }
        self.drop_reached();
        let reached = match self.points.back() {
            Some(last) => own.behind(&last.reached),
            None => own.clone(),
        };
        let point = match self.points.back().filter(|last| last.chain != NO_CHAIN) {
            Some(last) if value > last.value => {
                Point { chain: last.chain, value, previous: last.value, own, reached }
            }
            last => {
                let value = last.map_or(value, |last| last.value);
                self.chains += 1;
                Point { chain: self.chains, value, previous: 0, own, reached }
            }
        };
        self.points.push_back(point);
    }

    /// Those who wait for a point for which there is a fence now, with the fence.
    fn take_parked(&mut self) -> Vec<(SyncWaiter, Fence)> {
        if self.parked.is_empty() {
            return Vec::new();
        }
        let Some(last) = self.points.back() else { return Vec::new() };
        // Points up to the last value are there, and "whatever it holds", point 0, in any case.
        let beyond =
            last.value.checked_add(1).map(|value| self.parked.split_off(&Ticket(value, 0)));
        let available = std::mem::replace(&mut self.parked, beyond.unwrap_or_default());
        let with_fence = |(Ticket(point, _), waiter)| Some((waiter, self.find(point)?));
        available.into_iter().filter_map(with_fence).collect()
    }

    fn has_room(&mut self) -> bool {
        self.drop_reached();
        if self.points.len() >= TIMELINE_POINTS_PENDING_MAX {
            // Points that signalled out of order stand for nothing that others do not.
            let last = self.points.pop_back();
            self.points.retain(|point| point.own.result().is_none());
            self.points.extend(last);
        }
        self.points.len() < TIMELINE_POINTS_PENDING_MAX
    }

    /// Drops the oldest points as far as they have signalled, never the last.
    fn drop_reached(&mut self) {
        while self.points.len() > 1
            && self.points.front().is_some_and(|point| point.reached.result().is_some())
        {
            self.points.pop_front();
        }
    }

    /// The last point, and those before it that have not signalled, latest first: what the kernel
    /// still has in its chain after it walked along it.
    fn walk(&self) -> impl Iterator<Item = &Point> {
        let mut points = self.points.iter().rev();
        let last = points.next();
        last.into_iter().chain(points.filter(|point| point.own.result().is_none()))
    }

    fn find(&self, value: u64) -> Option<Fence> {
        let last = self.points.back()?;
        if value == 0 {
            return Some(last.reached.clone());
        }
        if last.chain == NO_CHAIN || last.value < value {
            return None;
        }
        let is_it = |point: &&Point| point.chain != last.chain || point.previous < value;
        // If nothing that is left comes before, the point was reached long ago.
        Some(self.walk().find(is_it).map_or(Fence::done(0), |point| point.reached.clone()))
    }

    fn value(&self, submitted: bool) -> u64 {
        let Some(last) = self.points.back().filter(|last| last.chain != NO_CHAIN) else { return 0 };
        if submitted {
            return last.value;
        }
        let oldest = self.walk().take_while(|point| point.chain == last.chain).last();
        match oldest {
            Some(point) if point.reached.result().is_none() => point.previous,
            Some(point) => point.value,
            None => 0,
        }
    }
}

#[cfg(test)]
#[path = "syncobj_tests.rs"]
mod tests;
