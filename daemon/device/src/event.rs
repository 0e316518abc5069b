//! What a device reports.

use crate::{Outcome, TraceEvent};

/// Where a device reports what happened. Called from any thread; must not block.
pub trait EventSink: Send + Sync + 'static {
    /// Something happened.
    fn report(&self, event: DeviceEvent);

    /// The fence of a request that was reported as completed has signalled, for all who look. Called once
    /// for each, from any thread, without locks of the device; must not block.
    fn signalled(&self) {}

    /// What a batch does, while [`crate::Device::set_tracing`] is on. Called from any thread with locks of
    /// the device held; must not block or call the device.
    fn trace(&self, event: TraceEvent) {
        let _ = event;
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceEvent {
    /// A request completed that [`crate::DeviceFile::submit`] had not answered as done.
    Completed {
        /// [`crate::ContextSpec::tag`] of its context.
        tag: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// A reset that somebody else caused hit an engine while a request had it. It runs again from
    /// its beginning, and its fence will say EAGAIN (rule table §12).
    Replayed {
        /// [`crate::ContextSpec::tag`] of its context.
        tag: u64,
    },
    /// The wait of [`crate::DeviceFile::watch_buffer`] or [`crate::DeviceFile::watch_buffer_access`] is over.
    BufferIdle {
        /// As given there.
        token: u64,
    },
    /// The wait of [`crate::DeviceFile::watch_buffers`] is over.
    BuffersIdle {
        /// As given there.
        token: u64,
        /// One of the requests ended with an error.
        lost: bool,
    },
    /// The wait of [`crate::DeviceFile::watch_syncobjs`] is over. Also reported from inside the call, of any
    /// file, that puts a fence in: who reports may hold locks of its own.
    SyncobjsReady {
        /// As given there.
        token: u64,
        /// Position of the first that signalled.
        first: u32,
    },
}
