//! The requests of a session that were queued and may not have completed, for THROTTLE
//! and for the shared status page.
//!
//! A request that completes while it is submitted never comes here, so the fast path pays nothing.
//! A fence may be an fd, so those of completed requests are let go of as completions are reported.

use std::collections::VecDeque;

use gpu_broker_core::Time;
use gpu_broker_device::{DeviceError, DeviceFile, FenceState, SyncobjWait};

/// Requests that are cheap to look through each time.
const SWEEP_MIN: usize = 32;

/// Requests in the order they were queued, with when that was.
pub(crate) struct Queued<F: DeviceFile> {
    requests: Requests<F::Fence>,
    /// Requests whose end was not reported: less than none while one has ended that is not recorded yet.
    unreported: i64,
    /// A device watches syncobjs, so the fence that is waited for is put into this one.
    gate: Option<F::Syncobj>,
}

/// When it was queued, its number, and its fence.
type Request<T> = (Time, u64, T);

/// As many can be pending as the session may have in flight. Beside them it keeps at most as many that
/// have completed behind one that has not, or [`SWEEP_MIN`].
struct Requests<T> {
    queued: VecDeque<Request<T>>,
    /// Completions since all were looked at, but for those of the oldest.
    overtook: usize,
}

impl<F: DeviceFile> Default for Queued<F> {
    fn default() -> Self {
        let requests = Requests { queued: VecDeque::new(), overtook: 0 };
        Self { requests, unreported: 0, gate: None }
    }
}

impl<F: DeviceFile> Queued<F> {
    /// A request was queued; each with a greater number than the one before.
    pub(crate) fn record(&mut self, file: &F, now: Time, number: u64, fence: F::Fence) {
        self.unreported = self.unreported.saturating_add(1);
        // Its completion may have been reported already: nothing else would let go of it.
        if is_pending(file, &fence) {
            self.requests.queued.push_back((now, number, fence));
        }
    }

    /// The number of the oldest that is kept: all before it have signalled.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.requests.queued.front().map(|(_, number, _)| *number)
    }

    /// Whether the end of every request was reported. Where the kernel signals fences, that comes later.
    pub(crate) fn all_reported(&self) -> bool {
        self.unreported <= 0
    }

    /// A request's fence has signalled, and its end was reported.
    pub(crate) fn completed(&mut self, file: &F) {
        self.unreported = self.unreported.saturating_sub(1);
        self.requests.completed(|fence| is_pending(file, fence));
    }

    /// Watches the oldest request that was queued at `until` or before and has not completed:
    /// [`gpu_broker_device::DeviceEvent::SyncobjsReady`] with `token` tells when it has. Answers
    /// when it was queued; `None`, and no event follows, if there is no such request.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn watch(
        &mut self,
        file: &F,
        until: Time,
        token: u64,
    ) -> Result<Option<Time>, DeviceError> {
        while let Some((queued, _, fence)) = self.requests.queued.front() {
            if !is_pending(file, fence) {
                self.requests.queued.pop_front();
                continue;
            }
            if *queued > until {
                return Ok(None);
            }
            let gate = match &self.gate {
                Some(gate) => gate.clone(),
                None => self.gate.insert(file.create_syncobj(false)?).clone(),
            };
            file.put_fence(&gate, 0, fence)?;
            let wait = SyncobjWait {
                objects: &[(gate, 0)],
                all: true,
                for_submit: false,
                available: false,
            };
            if file.watch_syncobjs(&wait, token)?.is_none() {
                return Ok(Some(*queued));
            }
        }
        Ok(None)
    }
}

impl<T> Requests<T> {
    /// One has completed. Looks at all of them rarely enough that it costs each a constant.
    fn completed(&mut self, is_pending: impl Fn(&T) -> bool) {
        let before = self.queued.len();
        while self.queued.front().is_some_and(|(_, _, fence)| !is_pending(fence)) {
            self.queued.pop_front();
        }
        if self.queued.len() < before {
            return;
        }
        self.overtook = self.overtook.saturating_add(1);
        if self.overtook >= SWEEP_MIN.max(self.queued.len() / 2) {
            self.queued.retain(|(_, _, fence)| is_pending(fence));
            self.overtook = 0;
        }
    }
}

fn is_pending<F: DeviceFile>(file: &F, fence: &F::Fence) -> bool {
    file.fence_state(fence) == FenceState::Pending
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn requests(count: usize) -> Requests<usize> {
        Requests { queued: (0..count).map(|fence| (Time(0), 0, fence)).collect(), overtook: 0 }
    }

    #[test]
    fn what_has_completed_in_order_is_let_go_of_at_once() {
        let mut requests = requests(100);
        for ended in 0..100 {
            requests.completed(|fence| *fence > ended);
            assert_eq!(requests.queued.len(), 99 - ended);
        }
    }

    #[test]
    fn behind_one_that_hangs_few_that_have_completed_are_kept() {
        let mut requests = requests(1000);
        let mut ended = HashSet::new();
        for last in 1..1000 {
            ended.insert(last);
            requests.completed(|fence| !ended.contains(fence));
            let pending = 1000 - ended.len();
            assert!(requests.queued.len() - pending <= SWEEP_MIN.max(pending), "after {last}");
        }
        ended.insert(0);
        requests.completed(|fence| !ended.contains(fence));
        assert_eq!(requests.queued.len(), 0);
    }
}
