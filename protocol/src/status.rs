//! What `gpu-broker status` shows, page by page.

use serde::{Deserialize, Serialize};

use crate::ids::{ContextId, SessionId};
use crate::param::EngineId;

/// Asks for the sessions after a given one. A peer sees its own user's sessions; root and the
/// daemon's own user see all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusQuery {
    /// Sessions with a greater number are listed; 0 for the first page.
    pub after: SessionId,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusPage {
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Engines, in the order of the device description.
    pub engines: Vec<EngineStatus>,
    /// Sessions by number.
    pub sessions: Vec<SessionStatus>,
    /// Ask again with `after` = the last session listed.
    pub more: bool,
}

/// The daemon itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of the package.
    pub version: String,
    /// Back end: `soft` or `i915`.
    pub driver: String,
    /// Process id.
    pub pid: u32,
    /// Nanoseconds since it started.
    pub uptime_ns: u64,
    /// Sessions open now.
    pub sessions: u32,
    /// Sessions ever opened.
    pub sessions_total: u64,
    /// Most sessions at once.
    pub sessions_max: u32,
    /// Requests refused so far.
    pub refusals: u64,
    /// Sessions ended by a violation so far.
    pub violations: u64,
}

/// One engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Class and instance.
    pub engine: EngineId,
    /// Name, `rcs0`.
    pub name: String,
    /// Nanoseconds spent executing since the daemon started.
    pub busy_ns: u64,
    /// Batches waiting or running.
    pub queued: u32,
    /// Batches completed, successfully or not.
    pub completed: u64,
    /// Batches ended by a fault or the time limit.
    pub faults: u64,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its number.
    pub session: SessionId,
    /// The name the client gave itself.
    pub client_name: String,
    /// Peer's process id, at the time it connected.
    pub pid: u32,
    /// Peer's user.
    pub uid: u32,
    /// Peer's group.
    pub gid: u32,
    /// Nanoseconds since HELLO.
    pub age_ns: u64,
    /// VM handles.
    pub vms: u32,
    /// Buffers.
    pub buffers: u32,
    /// Bytes of those buffers.
    pub buffer_bytes: u64,
    /// Submissions not completed.
    pub in_flight: u32,
    /// Submissions so far.
    pub submissions: u64,
    /// Contexts by id; long lists are cut, see `contexts_total`.
    pub contexts: Vec<ContextStatus>,
    /// How many contexts there are.
    pub contexts_total: u32,
}

/// One context.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextStatus {
    /// Its id.
    pub context: ContextId,
    /// Proto or live.
    pub state: ContextState,
    /// Priority.
    pub priority: i32,
    /// Whether it has an engine map of its own.
    pub user_engines: bool,
    /// Whether it was banned.
    pub banned: bool,
}

/// Where a context is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ContextState {
    /// Parameters held in the daemon; nothing on the device.
    Proto,
    /// On the device; made by the named request.
    Live {
        /// The request that materialised it.
        by: MaterialisedBy,
    },
}

/// The request that materialised a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MaterialisedBy {
    /// HELLO: the default context.
    Open,
    /// EXECBUF.
    Execbuf,
    /// CONTEXT_GETPARAM.
    GetParam,
    /// GET_RESET_STATS.
    ResetStats,
    /// CREATE, on devices with graphics version above 12.
    Create,
}

/// What the daemon has given up since it serves: the walls around it, should somebody take it over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confinement {
    /// System calls (seccomp).
    pub system_calls: Wall,
    /// Files (Landlock).
    pub files: Wall,
}

/// One of the walls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wall {
    /// It is in force.
    pub holds: bool,
    /// Why it is not, in words; empty if it is. At most
    /// [`crate::limits::IDENTITY_CHARS_MAX`] characters.
    pub why: String,
}
