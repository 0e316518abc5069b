//! ADMIN_LIST and ADMIN_INSPECT: every session, whoever it belongs to.

use gpu_broker_core::Time;
use gpu_broker_device::Device;
use gpu_broker_protocol::admin::{
    AdminInspect, AdminInspection, AdminList, AdminListQuery, AdminSession, RefusalCount,
};
use gpu_broker_protocol::limits::{BODY_BYTES_MAX, IDENTITY_CHARS_MAX};
use gpu_broker_protocol::{Reason, Refusal};

use super::check;
use crate::directory::Entry;
use crate::identity::printable;
use crate::server::Server;
use crate::status::{
    CONTEXTS_LISTED_MAX, SESSIONS_PER_PAGE_MAX, bytes_of, session_identity, session_status,
};

/// As many as fit in a message, by number.
///
/// # Errors
/// EACCES where the peer may not administer.
pub(crate) fn list<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    now: Time,
    query: AdminListQuery,
) -> Result<AdminList, Refusal> {
    check(entry)?;
    let mut list = AdminList { sessions: Vec::new(), more: false };
    let mut room = BODY_BYTES_MAX.saturating_sub(bytes_of(&list));
    for entry in server.directory.after(query.after) {
        let Some(session) = line(&entry, now) else { continue };
        let bytes = bytes_of(&session);
        if bytes > room || list.sessions.len() >= SESSIONS_PER_PAGE_MAX {
            list.more = true;
            break;
        }
        room = room.saturating_sub(bytes);
        list.sessions.push(session);
    }
    Ok(list)
}

/// # Errors
/// EACCES where the peer may not administer; ENOENT if there is no such session.
pub(crate) fn inspect<D: Device>(
    server: &Server<D>,
    entry: &Entry<D>,
    now: Time,
    request: AdminInspect,
) -> Result<Box<AdminInspection>, Refusal> {
    check(entry)?;
    let entry = server.directory.get(request.session).ok_or(Reason::NoSuchSession)?;
    let inspection = inspection(&entry, now).ok_or(Reason::NoSuchSession)?;
    Ok(Box::new(inspection))
}

/// `None` for a connection that has not said HELLO, or is about to go.
fn line<D: Device>(entry: &Entry<D>, now: Time) -> Option<AdminSession> {
    let status = session_status(entry, now)?;
    let accounts = entry.named()?.session.upgrade()?.accounts(0);
    let tally = entry.tally();
    Some(AdminSession {
        session: status.session,
        client_name: status.client_name,
        class: entry.log.class.name().to_owned(),
        listener: entry.identity.origin.name.clone(),
        uid: status.uid,
        pid: status.pid,
        age_ns: status.age_ns,
        contexts: status.contexts_total,
        vms: status.vms,
        buffers: status.buffers,
        buffer_bytes: status.buffer_bytes,
        in_flight: status.in_flight,
        submissions: status.submissions,
        engines: accounts.engines,
        refusals: tally.refusals.values().sum(),
        hangs: tally.hangs,
    })
}

fn inspection<D: Device>(entry: &Entry<D>, now: Time) -> Option<AdminInspection> {
    let session = line(entry, now)?;
    let rules = entry.named()?.session.upgrade()?;
    let counts = rules.status(CONTEXTS_LISTED_MAX);
    let accounts = rules.accounts(CONTEXTS_LISTED_MAX);
    let instance = entry.identity.origin.instance_id.as_deref().unwrap_or_default();
    let refusals = entry.tally().refusals.into_iter();
    Some(AdminInspection {
        session,
        identity: session_identity(entry),
        instance_id: printable(instance, IDENTITY_CHARS_MAX),
        memory: accounts.memory,
        contexts: counts.contexts,
        times: accounts.contexts,
        ban_score: counts.ban_score,
        refusals: refusals
            .map(|(reason, count)| RefusalCount { reason: reason.to_owned(), count })
            .collect(),
    })
}
