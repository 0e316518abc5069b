//! Identities, and what administrators ask.

use gpu_broker_protocol::admin::*;
use gpu_broker_protocol::identity::*;
use gpu_broker_protocol::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::text;

pub(super) fn request() -> impl Strategy<Value = Request<FdSlot>> {
    let limit = (text(), text(), option::of(any::<u64>()));
    prop_oneof![
        any::<u64>().prop_map(|id| Request::Identity(IdentityQuery { session: SessionId(id) })),
        any::<bool>().prop_map(|on| Request::AdminDrain(AdminDrain { on })),
        any::<u64>().prop_map(|id| Request::AdminRevoke(AdminRevoke { session: SessionId(id) })),
        limit.prop_map(|(class, key, value)| Request::AdminLimit(AdminLimit { class, key, value })),
        Just(Request::AdminClasses),
        any::<u64>().prop_map(|id| Request::AdminList(AdminListQuery { after: SessionId(id) })),
        any::<u64>().prop_map(|id| Request::AdminInspect(AdminInspect { session: SessionId(id) })),
        any::<u64>().prop_map(|kinds| Request::AdminEvents(AdminEvents { kinds })),
        listen().prop_map(Request::AdminListen),
        Just(Request::AdminListeners),
        any::<bool>().prop_map(|on| Request::AdminTrace(AdminTrace { on })),
        any::<u64>().prop_map(|from| Request::AdminTraceRead(AdminTraceRead { from })),
    ]
}

fn listen() -> impl Strategy<Value = AdminListen<FdSlot>> {
    let said = proptest::array::uniform3(option::of(text()));
    (text(), said).prop_map(|(name, [class, app_id, instance_id])| AdminListen {
        socket: FdSlot,
        close: FdSlot,
        name,
        class,
        app_id,
        instance_id,
    })
}

pub(super) fn reply() -> impl Strategy<Value = Reply<FdSlot>> {
    let texts = proptest::array::uniform6(text());
    let identity = (any::<(u64, [u32; 3])>(), texts).prop_map(|((session, n), texts)| {
        let [class, listener, cgroup, unit, container, app_id] = texts;
        SessionIdentity {
            session: SessionId(session),
            uid: n[0],
            gid: n[1],
            pid: n[2],
            class,
            listener,
            cgroup,
            unit,
            container,
            app_id,
        }
    });
    let limit = (text(), any::<u64>(), option::of(any::<u64>()))
        .prop_map(|(key, held, most)| LimitStatus { key, held, most });
    let class = (text(), any::<u32>(), vec(limit, 0..4))
        .prop_map(|(name, weight, limits)| ClassStatus { name, weight, limits });
    prop_oneof![
        identity.prop_map(Reply::Identity),
        any::<u32>().prop_map(|connections| Reply::AdminDrain(AdminDrained { connections })),
        Just(Reply::AdminRevoke),
        option::of(any::<u64>()).prop_map(|before| Reply::AdminLimit(AdminLimited { before })),
        vec(class, 0..4).prop_map(|classes| Reply::AdminClasses(AdminClassList { classes })),
    ]
}
