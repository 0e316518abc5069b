//! Fences: completion, as a file of the device hands it out.

use std::sync::Arc;

use super::signal::{Merge, Signal, Waiter};
use crate::FenceState;

/// Completion of a request, of several, or of nothing at all.
#[derive(Clone, Debug)]
pub struct Fence(FenceKind);

#[derive(Clone, Debug)]
enum FenceKind {
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

    /// A fence that signals when both have, with the first error of the two.
    pub(super) fn merge(first: &Self, second: &Self) -> Self {
        Self::join(first, second, false)
    }

    /// A fence that signals when both this and `before` have, with this one's error: the point of a
    /// timeline that is put in behind another.
    pub(super) fn behind(&self, before: &Self) -> Self {
        match (before.pending(), self.pending()) {
            (None, _) => self.clone(),
            (Some(before), Some(own)) if own.is_after(before) => self.clone(),
            (Some(_), _) => Self::join(before, self, true),
        }
    }

    fn join(first: &Self, second: &Self, first_is_quiet: bool) -> Self {
        let fences = [first, second];
        let merge = Merge::of(fences.map(|fence| fence.pending()));
        for (fence, quiet) in fences.into_iter().zip([first_is_quiet, false]) {
            let waiting = fence.pending().is_some_and(|signal| {
                let merge = Arc::clone(&merge);
                signal.wait(Waiter::Merge { merge, quiet }).is_ok()
            });
            if !waiting {
                let errno = fence.result().unwrap_or(0);
                merge.met(if quiet { 0 } else { errno });
            }
        }
        // The third keeps it from firing before both are registered, here where nobody waits yet.
        match merge.met(0) {
            Some((_, errno)) => Self::done(errno),
            None => Self::of(merge.signal()),
        }
    }
}
