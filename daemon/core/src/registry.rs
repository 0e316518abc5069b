//! What sessions share: the table of live contexts, and what happened to the device as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use gpu_broker_protocol::{Reason, Refusal};

use crate::context::Live;
use crate::hands::Hands;
use crate::sync::LiveTable;

/// One per device; every [`Session`](crate::Session) of the device holds it.
pub struct Registry<H: Hands> {
    pub(crate) live: Arc<LiveTable<Live<H>>>,
    resets: AtomicU32,
    wedged: AtomicBool,
    gone: AtomicBool,
}

impl<H: Hands> Default for Registry<H> {
    fn default() -> Self {
        Self {
            live: Arc::new(LiveTable::new()),
            resets: AtomicU32::new(0),
            wedged: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }
}

impl<H: Hands> Registry<H> {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Live contexts of all sessions, default contexts included.
    #[must_use]
    pub fn live_contexts(&self) -> usize {
        self.live.len()
    }

    /// Times the device, or one engine of it, was reset because of a hang (rule table §11).
    #[must_use]
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Says whether the device is terminally wedged: CREATE and EXECBUF answer EIO while it is
    /// (rule table §2, §12).
    pub fn set_wedged(&self, wedged: bool) {
        self.wedged.store(wedged, Ordering::Relaxed);
    }

    /// Says whether the device is not there any more: what would answer EIO for a wedged one answers
    /// ENODEV then, as the kernel's files do after an unplug.
    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Relaxed);
    }

    /// Whether the device takes work.
    ///
    /// # Errors
    /// [`Reason::DeviceGone`] or [`Reason::DeviceWedged`], as was said last.
    pub fn check_device(&self) -> Result<(), Refusal> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Reason::DeviceGone.into());
        }
        if self.wedged.load(Ordering::Relaxed) {
            return Err(Reason::DeviceWedged.into());
        }
        Ok(())
    }

    pub(crate) fn count_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}
