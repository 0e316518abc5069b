//! STATUS and DEVICE_QUERY: what the daemon shows of itself.

use std::sync::Arc;

use gpu_broker_core::{Capabilities, Time};
use gpu_broker_device::{Description, Device};
use gpu_broker_protocol::identity::{IdentityQuery, SessionIdentity};
use gpu_broker_protocol::limits::{BODY_BYTES_MAX, IDENTITY_CHARS_MAX};
use gpu_broker_protocol::message::DeviceInfo;
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::status::{
    DaemonStatus, EngineStatus, SessionStatus, StatusPage, StatusQuery,
};
use gpu_broker_protocol::usage::{SessionUsage, UsageQuery};
use gpu_broker_protocol::{Reason, Refusal, SessionId, codec};

use crate::device::engine_info;
use crate::directory::Entry;
use crate::identity::{Credentials, printable};
use crate::server::Server;

/// Contexts listed of one session.
pub(crate) const CONTEXTS_LISTED_MAX: usize = 64;
/// Sessions of one page; the rest comes with the next, and no request takes long.
pub(crate) const SESSIONS_PER_PAGE_MAX: usize = 128;

fn engine(id: gpu_broker_device::EngineId) -> EngineId {
    EngineId { class: id.class, instance: id.instance }
}

/// The device as a client is told of it: with the engines that its class may use.
pub(crate) fn device_info(device: &Description, visible: &Capabilities) -> DeviceInfo {
    let is_visible = |id| visible.engines.iter().any(|info| info.engine == engine(id));
    DeviceInfo {
        driver: device.driver.to_owned(),
        name: device.name.clone(),
        vendor_id: device.vendor_id,
        device_id: device.device_id,
        revision: device.revision,
        graphics_version: device.graphics_version,
        gtt_bytes: device.gtt_bytes,
        timestamp_hz: device.timestamp_hz,
        wedged: device.wedged,
        engines: device
            .engines
            .iter()
            .filter(|description| is_visible(description.engine))
            .map(engine_info)
            .collect(),
    }
}

/// The page that `peer` sees after the session it names: as many sessions as fit in a message.
pub(crate) fn page<D: Device>(
    server: &Server<D>,
    peer: &Entry<D>,
    now: Time,
    query: &StatusQuery,
) -> StatusPage {
    let description = server.device.description();
    let usage = server.device.engine_usage();
    let mut page = StatusPage {
        daemon: daemon_status(server, now, description.driver),
        engines: description
            .engines
            .iter()
            .zip(usage)
            .map(|(description, usage)| EngineStatus {
                engine: engine(description.engine),
                name: description.name.clone(),
                busy_ns: usage.busy_ns,
                queued: usage.queued,
                completed: usage.completed,
                faults: usage.faults,
            })
            .collect(),
        sessions: Vec::new(),
        more: false,
    };
    let mut room = BODY_BYTES_MAX.saturating_sub(bytes_of(&page));
    for entry in server.directory.after(query.after) {
        if !peer.identity.may_see(&entry.identity) {
            continue;
        }
        let Some(status) = session_status(&entry, now) else { continue };
        let bytes = bytes_of(&status);
        if bytes > room || page.sessions.len() >= SESSIONS_PER_PAGE_MAX {
            page.more = true;
            break;
        }
        room = room.saturating_sub(bytes);
        page.sessions.push(status);
    }
    page
}

/// The accounts of the session that asks, or of another that it may see.
///
/// # Errors
/// ENOENT if there is no such session, or none that the peer may see.
pub(crate) fn usage<D: Device>(
    server: &Server<D>,
    asking: &Entry<D>,
    query: &UsageQuery,
) -> Result<SessionUsage, Refusal> {
    let own = query.session == SessionId(0);
    let entry = server.directory.get(if own { asking.id() } else { query.session });
    let seen = entry.filter(|entry| asking.identity.may_see(&entry.identity));
    let usage = seen.and_then(|entry| {
        let named = entry.named()?;
        let accounts = named.session.upgrade()?.accounts(CONTEXTS_LISTED_MAX);
        Some(SessionUsage {
            session: entry.id(),
            client_name: named.client_name.to_string(),
            engines: accounts.engines,
            memory: accounts.memory,
            contexts: accounts.contexts,
        })
    });
    usage.ok_or_else(|| {
        Refusal::new(Reason::NoSuchSession).with_detail(format!("session {}", query.session.0))
    })
}

pub(crate) fn bytes_of<T: serde::Serialize>(value: &T) -> usize {
    codec::encode_body(value).map_or(usize::MAX, |bytes| bytes.len())
}

fn daemon_status<D: Device>(server: &Server<D>, now: Time, driver: &str) -> DaemonStatus {
    DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver: driver.to_owned(),
        pid: std::process::id(),
        uptime_ns: now.0,
        sessions: u32::try_from(server.directory.len()).unwrap_or(u32::MAX),
        sessions_total: server.directory.opened(),
        sessions_max: server.config().daemon.sessions,
        refusals: server.refusals(),
        violations: server.violations(),
    }
}

/// `None` for a connection that has not said HELLO, or is about to go.
pub(crate) fn session_status<D: Device>(entry: &Entry<D>, now: Time) -> Option<SessionStatus> {
    let named = entry.named()?;
    let counts = named.session.upgrade()?.status(CONTEXTS_LISTED_MAX);
    let Credentials { uid, gid, pid } = entry.identity.credentials;
    Some(SessionStatus {
        session: entry.id(),
        client_name: named.client_name.to_string(),
        pid,
        uid,
        gid,
        age_ns: now.0.saturating_sub(named.since.0),
        vms: counts.vms,
        buffers: counts.buffers,
        buffer_bytes: counts.buffer_bytes,
        in_flight: counts.in_flight,
        submissions: counts.submissions,
        contexts: counts.contexts,
        contexts_total: counts.contexts_total,
    })
}

/// Who the session belongs to.
pub(crate) fn session_identity<D: Device>(entry: &Entry<D>) -> SessionIdentity {
    let identity = &entry.identity;
    let Credentials { uid, gid, pid } = identity.credentials;
    let text = |text: &str| printable(text, IDENTITY_CHARS_MAX);
    SessionIdentity {
        session: entry.id(),
        uid,
        gid,
        pid,
        class: entry.log.class.name().to_owned(),
        listener: identity.origin.name.clone(),
        cgroup: text(identity.cgroup().known().unwrap_or_default()),
        unit: text(identity.unit()),
        container: text(identity.container()),
        app_id: text(identity.app_id().known().unwrap_or_default()),
    }
}

/// The same, if `peer` may see it.
pub(crate) fn identity_for<D: Device>(
    server: &Server<D>,
    peer: &Entry<D>,
    query: &IdentityQuery,
) -> Result<SessionIdentity, Refusal> {
    if query.session == SessionId(0) {
        return Ok(session_identity(peer));
    }
    let entry = server.directory.get(query.session);
    let seen = |entry: &Arc<Entry<D>>| peer.identity.may_see(&entry.identity);
    let entry = entry.filter(seen).ok_or(Reason::NoSuchSession)?;
    Ok(session_identity(&entry))
}
