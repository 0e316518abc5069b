//! What administrators see, hear and make: the last round.

use gpu_broker_protocol::admin::*;
use gpu_broker_protocol::identity::SessionIdentity;
use gpu_broker_protocol::status::{ContextState, ContextStatus};
use gpu_broker_protocol::usage::{ClassUsage, ContextUsage, MemoryUsage};

use super::*;

const SESSION: SessionId = SessionId(7);

pub(super) fn round() -> Round {
    Round {
        requests: requests(),
        execbufs: vec![],
        lists: vec![],
        replies: replies(),
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: news(),
    }
}

fn requests() -> Vec<(&'static str, Request<FdSlot>)> {
    let listen = AdminListen {
        socket: FdSlot,
        close: FdSlot,
        name: "cube-1".into(),
        class: Some("games".into()),
        app_id: Some("org.example.Cube".into()),
        instance_id: None,
    };
    vec![
        ("ADMIN_LIST", Request::AdminList(AdminListQuery { after: SESSION })),
        ("ADMIN_INSPECT", Request::AdminInspect(AdminInspect { session: SESSION })),
        ("ADMIN_EVENTS", Request::AdminEvents(AdminEvents { kinds: kind::ALL })),
        ("ADMIN_LISTEN", Request::AdminListen(listen)),
        ("ADMIN_LISTENERS", Request::AdminListeners),
        ("ADMIN_TRACE", Request::AdminTrace(AdminTrace { on: true })),
        ("ADMIN_TRACE_READ", Request::AdminTraceRead(AdminTraceRead { from: 5 })),
    ]
}

fn replies() -> Vec<(&'static str, Reply<FdSlot>)> {
    let listener = ListenerStatus {
        name: "cube-1".into(),
        made: true,
        class: Some("games".into()),
        app_id: Some("org.example.Cube".into()),
        instance_id: None,
        accepted: 2,
    };
    let tracing = AdminTracing { now_ns: 9_000, next: 5, runs: true };
    let page = AdminTracePage { first: 5, records: records(), more: false };
    vec![
        ("ADMIN_LIST", Reply::AdminList(AdminList { sessions: vec![session()], more: true })),
        ("ADMIN_INSPECT", Reply::AdminInspect(Box::new(inspection()))),
        ("ADMIN_EVENTS", Reply::AdminEvents),
        ("ADMIN_LISTEN", Reply::AdminListen),
        ("ADMIN_LISTENERS", Reply::AdminListeners(AdminListenerList { listeners: vec![listener] })),
        ("ADMIN_TRACE", Reply::AdminTrace(tracing)),
        ("ADMIN_TRACE_READ", Reply::AdminTraceRead(page)),
    ]
}

fn session() -> AdminSession {
    AdminSession {
        session: SESSION,
        client_name: "cube".into(),
        class: "games".into(),
        listener: "cube-1".into(),
        uid: 1000,
        pid: 4321,
        age_ns: 5_000_000_000,
        contexts: 2,
        vms: 1,
        buffers: 3,
        buffer_bytes: 12_288,
        in_flight: 4,
        submissions: 99,
        engines: vec![ClassUsage { class: 2, capacity: 2, busy_ns: 1234 }],
        refusals: 6,
        hangs: 1,
    }
}

fn inspection() -> AdminInspection {
    AdminInspection {
        session: session(),
        identity: SessionIdentity {
            session: SESSION,
            uid: 1000,
            gid: 100,
            pid: 4321,
            class: "games".into(),
            listener: "cube-1".into(),
            cgroup: String::new(),
            unit: String::new(),
            container: String::new(),
            app_id: "org.example.Cube".into(),
        },
        instance_id: "i-1".into(),
        memory: MemoryUsage { total: 12_288, shared: 4096, resident: 8192, active: 0 },
        contexts: vec![ContextStatus {
            context: ContextId(1),
            state: ContextState::Proto,
            priority: -5,
            user_engines: true,
            banned: false,
        }],
        times: vec![ContextUsage { context: ContextId(0), busy_ns: vec![1234] }],
        ban_score: 3,
        refusals: vec![RefusalCount { reason: "priority-range".into(), count: 6 }],
    }
}

fn records() -> Vec<TraceRecord> {
    use TraceWhat::*;
    let record = |what| TraceRecord {
        at_ns: 8_000,
        session: SESSION,
        context: ContextId(3),
        submission: 11,
        engine: VCS1,
        what,
    };
    [Queued, Ran { ns: 500 }, Done, Cancelled, Died, Replayed].map(record).into()
}

/// One of each.
pub(crate) fn news() -> Vec<AdminEvent> {
    use AdminNews::*;
    let [hang, ..] = &hang_events()[..] else { unreachable!("there are some") };
    let by = || "uid=0".to_owned();
    let session = SESSION;
    let all = [
        SessionBegan {
            session,
            class: "games".into(),
            listener: "main".into(),
            uid: 1000,
            pid: 4321,
            client_name: "cube".into(),
        },
        SessionEnded { session, why: "the client hung up".into() },
        TurnedAway { peer: "uid=1000".into(), why: "full".into(), count: 3 },
        Refused { session, reason: "denied".into(), sentence: "no".into(), count: 2 },
        Hang { session, hang: hang.clone() },
        Replayed { session },
        Revoked { session, by: by() },
        Reloaded { error: Some("line 3".into()) },
        Drained { on: true, by: by() },
        Limited { class: "games".into(), key: "contexts".into(), value: None, by: by() },
        ListenerMade { listener: "cube-1".into(), by: by() },
        ListenerGone { listener: "cube-1".into() },
    ];
    all.map(|what| AdminEvent { at_ns: 42, lost: 1, what }).into()
}

/// What an event's sample is called.
pub(crate) fn news_name(event: &AdminEvent) -> String {
    let what = format!("{:?}", event.what);
    format!("ADMIN_EVENT event {}", what.split(' ').next().unwrap_or_default())
}
