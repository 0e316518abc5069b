//! The requests of a session that were queued and may not have completed, for THROTTLE.
//!
//! A request that completes while it is submitted never comes here, so the fast path pays nothing.

use std::collections::VecDeque;

use gpu_broker_core::Time;
use gpu_broker_device::{DeviceError, DeviceFile, FenceState, SyncobjWait};

/// Requests that are cheap to look through each time.
const SWEEP_MIN: usize = 32;

/// Requests in the order they were queued, with when that was.
pub(crate) struct Queued<F: DeviceFile> {
    requests: VecDeque<(Time, F::Fence)>,
    /// Completed requests are swept out when there are this many, so that the cost is spread. As
    /// many can be pending as the session may have in flight, which limits all of it.
    sweep_at: usize,
    /// A device watches syncobjs, so the fence that is waited for is put into this one.
    gate: Option<F::Syncobj>,
}

impl<F: DeviceFile> Default for Queued<F> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), sweep_at: SWEEP_MIN, gate: None }
    }
}

impl<F: DeviceFile> Queued<F> {
    /// A request was queued.
    pub(crate) fn record(&mut self, file: &F, now: Time, fence: F::Fence) {
        if self.requests.len() >= self.sweep_at {
            self.requests.retain(|(_, fence)| is_pending(file, fence));
            self.sweep_at = self.requests.len().saturating_mul(2).max(SWEEP_MIN);
        }
        self.requests.push_back((now, fence));
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
        while let Some((queued, fence)) = self.requests.front() {
            if !is_pending(file, fence) {
                self.requests.pop_front();
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

fn is_pending<F: DeviceFile>(file: &F, fence: &F::Fence) -> bool {
    file.fence_state(fence) == FenceState::Pending
}
