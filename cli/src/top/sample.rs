//! What the daemon's accounts were at one moment: the same whichever socket told.

use gpu_broker_client::protocol::admin::AdminSession;
use gpu_broker_client::protocol::status::{DaemonStatus, EngineStatus, SessionStatus};
use gpu_broker_client::protocol::usage::ClassUsage;
use serde::Serialize;

use crate::output::harmless;

/// Everything asked in one round. What strangers chose is made harmless here.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// The daemon.
    pub(super) daemon: Daemon,
    /// Its engines, in the device's order.
    pub(super) engines: Vec<Engine>,
    /// The sessions we may see, by number.
    pub(super) sessions: Vec<Session>,
}

/// The daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Daemon {
    pub(super) version: String,
    pub(super) driver: String,
    pub(super) pid: u32,
    /// Its clock: nanoseconds since it started. What lies between two samples is measured by it.
    pub(super) uptime_ns: u64,
    pub(super) sessions: u32,
    pub(super) sessions_max: u32,
    /// Requests refused so far.
    pub(super) refusals: u64,
    /// Sessions ended by a violation so far.
    pub(super) violations: u64,
}

/// One engine.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) name: String,
    /// Since the daemon started.
    pub(super) busy_ns: u64,
    /// Batches waiting or running.
    pub(super) queued: u32,
}

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) session: u64,
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) client: String,
    /// `None` where it was not told: the session ended while we asked.
    pub(super) class: Option<String>,
    pub(super) age_ns: u64,
    pub(super) contexts: u32,
    pub(super) buffer_bytes: u64,
    pub(super) in_flight: u32,
    pub(super) submissions: u64,
    /// Engine time by class.
    pub(super) engines: Vec<ClassUsage>,
    /// Requests refused so far; `None`: only administrators are told.
    pub(super) refusals: Option<u64>,
    /// Batches that died.
    pub(super) hangs: Option<u64>,
}

impl Daemon {
    /// As STATUS has it.
    pub(super) fn new(told: &DaemonStatus) -> Self {
        Self {
            version: harmless(&told.version),
            driver: harmless(&told.driver),
            pid: told.pid,
            uptime_ns: told.uptime_ns,
            sessions: told.sessions,
            sessions_max: told.sessions_max,
            refusals: told.refusals,
            violations: told.violations,
        }
    }
}

impl Engine {
    /// As STATUS has it.
    pub(super) fn new(told: &EngineStatus) -> Self {
        Self { name: harmless(&told.name), busy_ns: told.busy_ns, queued: told.queued }
    }
}

impl Session {
    /// As administrators are told.
    pub(super) fn of_list(told: AdminSession) -> Self {
        Self {
            session: told.session.0,
            pid: told.pid,
            uid: told.uid,
            client: harmless(&told.client_name),
            class: Some(harmless(&told.class)),
            age_ns: told.age_ns,
            contexts: told.contexts,
            buffer_bytes: told.buffer_bytes,
            in_flight: told.in_flight,
            submissions: told.submissions,
            engines: told.engines,
            refusals: Some(told.refusals),
            hangs: Some(told.hangs.into()),
        }
    }

    /// As STATUS has it. The class, engine times and hangs are the answers to other requests.
    pub(super) fn new(told: &SessionStatus) -> Self {
        Self {
            session: told.session.0,
            pid: told.pid,
            uid: told.uid,
            client: harmless(&told.client_name),
            class: None,
            age_ns: told.age_ns,
            contexts: told.contexts_total,
            buffer_bytes: told.buffer_bytes,
            in_flight: told.in_flight,
            submissions: told.submissions,
            engines: Vec::new(),
            refusals: None,
            hangs: None,
        }
    }
}
