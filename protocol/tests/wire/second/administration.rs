//! Identities, and what administrators ask.

use super::*;

mirror! {
    pub(super) struct AdminDrain { on: bool }
    pub(super) struct AdminDrained { connections: u32 }
    pub(super) struct AdminRevoke { session: SessionId }
    pub(super) struct AdminLimit { class: String, key: String, value: Option<u64> }
    pub(super) struct AdminLimited { before: Option<u64> }
    pub(super) struct AdminClassList { classes: Vec<ClassStatus> }
    pub(super) struct ClassStatus { name: String, weight: u32, limits: Vec<LimitStatus> }
    pub(super) struct LimitStatus { key: String, held: u64, most: Option<u64> }
    pub(super) struct SessionIdentity {
        session: SessionId,
        uid: u32,
        gid: u32,
        pid: u32,
        class: String,
        listener: String,
        cgroup: String,
        unit: String,
        container: String,
        app_id: String,
    }
    pub(super) struct AdminListQuery { after: SessionId }
    pub(super) struct AdminList { sessions: Vec<AdminSession>, more: bool }
    pub(super) struct AdminSession {
        session: SessionId,
        client_name: String,
        class: String,
        listener: String,
        uid: u32,
        pid: u32,
        age_ns: u64,
        contexts: u32,
        vms: u32,
        buffers: u32,
        buffer_bytes: u64,
        in_flight: u32,
        submissions: u64,
        engines: Vec<ClassUsage>,
        refusals: u64,
        hangs: u32,
    }
    pub(super) struct AdminInspect { session: SessionId }
    pub(super) struct AdminInspection {
        session: AdminSession,
        identity: SessionIdentity,
        instance_id: String,
        memory: MemoryUsage,
        contexts: Vec<ContextStatus>,
        times: Vec<ContextUsage>,
        ban_score: u32,
        refusals: Vec<RefusalCount>,
    }
    pub(super) struct RefusalCount { reason: String, count: u64 }
    pub(super) struct AdminEvents { kinds: u64 }
    pub(super) struct AdminEvent { at_ns: u64, lost: u32, what: AdminNews }
    pub(super) enum AdminNews {
        SessionBegan {
            session: SessionId,
            class: String,
            listener: String,
            uid: u32,
            pid: u32,
            client_name: String,
        },
        SessionEnded { session: SessionId, why: String },
        TurnedAway { peer: String, why: String, count: u32 },
        Refused { session: SessionId, reason: String, sentence: String, count: u32 },
        Hang { session: SessionId, hang: HangEvent },
        Replayed { session: SessionId },
        Revoked { session: SessionId, by: String },
        Reloaded { error: Option<String> },
        Drained { on: bool, by: String },
        Limited { class: String, key: String, value: Option<u64>, by: String },
        ListenerMade { listener: String, by: String },
        ListenerGone { listener: String },
    }
    pub(super) struct AdminListen {
        socket: FdSlot,
        close: FdSlot,
        name: String,
        class: Option<String>,
        app_id: Option<String>,
        instance_id: Option<String>,
    }
    pub(super) struct AdminListenerList { listeners: Vec<ListenerStatus> }
    pub(super) struct ListenerStatus {
        name: String,
        made: bool,
        class: Option<String>,
        app_id: Option<String>,
        instance_id: Option<String>,
        accepted: u64,
    }
    pub(super) struct AdminTrace { on: bool }
    pub(super) struct AdminTracing { now_ns: u64, next: u64, runs: bool }
    pub(super) struct AdminTraceRead { from: u64 }
    pub(super) struct AdminTracePage { first: u64, records: Vec<TraceRecord>, more: bool }
    pub(super) struct TraceRecord {
        at_ns: u64,
        session: SessionId,
        context: ContextId,
        submission: u64,
        engine: EngineId,
        what: TraceWhat,
    }
    pub(super) enum TraceWhat { Queued, Ran { ns: u64 }, Done, Cancelled, Died, Replayed }
}
