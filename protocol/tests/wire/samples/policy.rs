//! What came with policy: identities, and what administrators ask.

use gpu_broker_protocol::admin::*;
use gpu_broker_protocol::identity::*;
use gpu_broker_protocol::*;

use super::Round;

pub(super) fn round() -> Round {
    let query = IdentityQuery { session: SessionId(7) };
    Round {
        requests: vec![("IDENTITY", Request::Identity(query))],
        execbufs: vec![],
        lists: vec![],
        replies: vec![("IDENTITY", Reply::Identity(identity()))],
        refusals: vec![],
        epitaphs: vec![Epitaph { code: EpitaphCode::Denied, text: "Denied".to_owned() }],
        hangs: vec![],
        news: vec![],
    }
}

fn identity() -> SessionIdentity {
    SessionIdentity {
        session: SessionId(7),
        uid: 1000,
        gid: 100,
        pid: 4321,
        class: "games".into(),
        listener: "main".into(),
        cgroup: "/user.slice/app-cube.scope".into(),
        unit: "app-cube.scope".into(),
        container: String::new(),
        app_id: "org.example.Cube".into(),
    }
}

pub(super) fn admin_round() -> Round {
    let limit = AdminLimit { class: "games".into(), key: "contexts".into(), value: Some(7) };
    let limits = vec![
        LimitStatus { key: "contexts".into(), held: 3, most: Some(7) },
        LimitStatus { key: "vms".into(), held: 0, most: None },
    ];
    let classes = vec![ClassStatus { name: "games".into(), weight: 100, limits }];
    Round {
        requests: vec![
            ("ADMIN_DRAIN", Request::AdminDrain(AdminDrain { on: true })),
            ("ADMIN_REVOKE", Request::AdminRevoke(AdminRevoke { session: SessionId(7) })),
            ("ADMIN_LIMIT", Request::AdminLimit(limit)),
            ("ADMIN_CLASSES", Request::AdminClasses),
        ],
        execbufs: vec![],
        lists: vec![],
        replies: vec![
            ("ADMIN_DRAIN", Reply::AdminDrain(AdminDrained { connections: 3 })),
            ("ADMIN_REVOKE", Reply::AdminRevoke),
            ("ADMIN_LIMIT", Reply::AdminLimit(AdminLimited { before: Some(9) })),
            ("ADMIN_CLASSES", Reply::AdminClasses(AdminClassList { classes })),
        ],
        refusals: vec![],
        epitaphs: vec![],
        hangs: vec![],
        news: vec![],
    }
}
