//! What administrators ask, on the administrators' socket alone. On any other, these are refused.

mod event;
mod trace;

use serde::{Deserialize, Serialize};

use crate::identity::SessionIdentity;
use crate::ids::SessionId;
use crate::status::ContextStatus;
use crate::usage::{ClassUsage, ContextUsage, MemoryUsage};

pub use event::{AdminEvent, AdminEvents, AdminNews, kind};
pub use trace::{AdminTrace, AdminTracePage, AdminTraceRead, AdminTracing, TraceRecord, TraceWhat};

/// Lets nobody new in, or lets them in again. Sessions that are open go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminDrain {
    /// Whether nobody new is let in.
    pub on: bool,
}

/// How many are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminDrained {
    /// Connections open now.
    pub connections: u32,
}

/// Takes a session away: its client gets an epitaph, its work ends at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminRevoke {
    /// Which.
    pub session: SessionId,
}

/// Changes a limit of a class until the configuration is read again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminLimit {
    /// The class.
    pub class: String,
    /// The key below `limits`.
    pub key: String,
    /// The new limit; `None` is no limit.
    pub value: Option<u64>,
}

/// What it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminLimited {
    /// The limit before.
    pub before: Option<u64>,
}

/// Every class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminClassList {
    /// By name.
    pub classes: Vec<ClassStatus>,
}

/// One class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Share of engine time, against the other classes.
    pub weight: u32,
    /// What its sessions hold and may hold.
    pub limits: Vec<LimitStatus>,
}

/// One limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Its key.
    pub key: String,
    /// What all sessions of the class hold.
    pub held: u64,
    /// What they may; `None` is no limit.
    pub most: Option<u64>,
}

/// Asks for the sessions after a given one: all of them, whoever they belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminListQuery {
    /// Sessions with a greater number are listed; 0 for the first page.
    pub after: SessionId,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminList {
    /// Sessions by number.
    pub sessions: Vec<AdminSession>,
    /// Ask again with `after` = the last session listed.
    pub more: bool,
}

/// One session, in a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminSession {
    /// Its number.
    pub session: SessionId,
    /// The name the client gave itself.
    pub client_name: String,
    /// Its class.
    pub class: String,
    /// The listener it came in by.
    pub listener: String,
    /// Peer's user.
    pub uid: u32,
    /// Peer's process, at the time it connected.
    pub pid: u32,
    /// Nanoseconds since HELLO.
    pub age_ns: u64,
    /// Contexts.
    pub contexts: u32,
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
    /// Engine time by class.
    pub engines: Vec<ClassUsage>,
    /// Requests refused so far.
    pub refusals: u64,
    /// Batches that died so far.
    pub hangs: u32,
}

/// Asks for everything about a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminInspect {
    /// Which.
    pub session: SessionId,
}

/// Everything about a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminInspection {
    /// As it is listed.
    pub session: AdminSession,
    /// Who it belongs to.
    pub identity: SessionIdentity,
    /// What a sandbox engine said of the listener it came in by; empty if it said nothing.
    pub instance_id: String,
    /// Its memory.
    pub memory: MemoryUsage,
    /// Contexts by id; long lists are cut.
    pub contexts: Vec<ContextStatus>,
    /// Engine time of those that are live, in the order of `session.engines`.
    pub times: Vec<ContextUsage>,
    /// Ban score; from 9 on the session can make no contexts.
    pub ban_score: u32,
    /// Refused requests by reason.
    pub refusals: Vec<RefusalCount>,
}

/// How often a reason refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusalCount {
    /// Its name.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// Serves a socket that a sandbox engine has made for one sandbox. Who connects to it is what the
/// engine says: that counts more than what is found out about the process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminListen<Fd> {
    /// A Unix socket of type SOCK_SEQPACKET that listens. The daemon makes it non-blocking.
    pub socket: Fd,
    /// The listener ends when this hangs up: the daemon's end of a pipe or of a socket pair whose
    /// other end the engine keeps. Sessions that came in by it go on.
    pub close: Fd,
    /// The listener's name, for policy and status.
    pub name: String,
    /// The class of everybody who connects; `None`: policy decides, by name, `app_id` and the rest.
    pub class: Option<String>,
    /// The application.
    pub app_id: Option<String>,
    /// Tells two instances of it apart.
    pub instance_id: Option<String>,
}

/// Every listener.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdminListenerList {
    /// By name.
    pub listeners: Vec<ListenerStatus>,
}

/// One listener.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// It was made at run time.
    pub made: bool,
    /// As [`AdminListen`] said.
    pub class: Option<String>,
    /// As [`AdminListen`] said.
    pub app_id: Option<String>,
    /// As [`AdminListen`] said.
    pub instance_id: Option<String>,
    /// Connections it brought so far.
    pub accepted: u64,
}
