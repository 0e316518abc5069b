//! Fences given out that have not signalled, where each costs the daemon an fd
//! ([`DeviceFile::EXPORTS_COST`]). Where it does not none is kept: that would cost one.

use gpu_broker_device::{DeviceFile, FenceState};
use gpu_broker_protocol::{Reason, Refusal};

/// Fences that are cheap to look through each time.
const SWEEP_MIN: usize = 32;

/// The fences one session was given, as far as they may be unsignalled.
pub(crate) struct FenceBook<F: DeviceFile> {
    fences: Vec<F::Fence>,
    /// Signalled fences are swept out when there are this many, so that the cost is spread.
    sweep_at: usize,
}

impl<F: DeviceFile> Default for FenceBook<F> {
    fn default() -> Self {
        Self { fences: Vec::new(), sweep_at: SWEEP_MIN }
    }
}

impl<F: DeviceFile> FenceBook<F> {
    /// Makes sure that one more may be given out.
    ///
    /// # Errors
    /// [`Reason::FenceLimit`].
    pub(crate) fn reserve(&mut self, file: &F, limit: u32) -> Result<(), Refusal> {
        let limit = limit as usize;
        if self.fences.len() >= self.sweep_at.min(limit) {
            self.fences.retain(|fence| file.fence_state(fence) == FenceState::Pending);
            self.sweep_at = self.fences.len().saturating_mul(2).max(SWEEP_MIN);
        }
        if self.fences.len() >= limit { Err(Reason::FenceLimit.into()) } else { Ok(()) }
    }

    /// Records one that was given out.
    pub(crate) fn record(&mut self, file: &F, fence: F::Fence) {
        if F::EXPORTS_COST && file.fence_state(&fence) == FenceState::Pending {
            self.fences.push(fence);
        }
    }
}
