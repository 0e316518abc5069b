//! What the engines do, batch by batch, for `gpu-broker trace`.

use serde::{Deserialize, Serialize};

use crate::ids::{ContextId, SessionId};
use crate::param::EngineId;

/// Records what the engines do, or stops. The daemon records while any connection wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminTrace {
    /// Whether this connection wants it.
    pub on: bool,
}

/// How it is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminTracing {
    /// Nanoseconds since the daemon started.
    pub now_ns: u64,
    /// Number of the next record.
    pub next: u64,
    /// Whether the device says when batches run. If not, there is only when they were queued and
    /// when their fences signalled.
    pub runs: bool,
}

/// Asks for records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminTraceRead {
    /// Number of the first.
    pub from: u64,
}

/// Some records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminTracePage {
    /// Number of the first of them; those between `from` and this one are lost.
    pub first: u64,
    /// In the order in which they were made, which is nearly that of their times.
    pub records: Vec<TraceRecord>,
    /// There are more already.
    pub more: bool,
}

/// Something that a batch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When, or from when on, in nanoseconds since the daemon started.
    pub at_ns: u64,
    /// Whose batch.
    pub session: SessionId,
    /// Its context, as it was called when it was made live.
    pub context: ContextId,
    /// Tells the submissions of a session apart.
    pub submission: u64,
    /// The engine. While a submission waits that could run on several, the first of them.
    pub engine: EngineId,
    /// What it did.
    pub what: TraceWhat,
}

/// What a batch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TraceWhat {
    /// It was submitted.
    Queued,
    /// It had the engine.
    Ran {
        /// For so many nanoseconds.
        ns: u64,
    },
    /// Its fence signalled: it was done.
    Done,
    /// Its fence signalled: it was cancelled.
    Cancelled,
    /// Its fence signalled: it died, and the engine was reset.
    Died,
    /// A reset that was not its fault hit it, and it runs again.
    Replayed,
}
