//! `gpu-broker admin list` and `inspect`.

use gpu_broker_client::Connection;
use gpu_broker_client::protocol::SessionId;
use gpu_broker_client::protocol::admin::{AdminInspection, AdminSession};
use gpu_broker_client::protocol::status::ContextState;
use gpu_broker_client::protocol::usage::class_name;

use crate::output::{Failure, Out, Table, bytes, duration, harmless};

/// Every session, page by page.
///
/// # Errors
/// The connection may not administer, or ended.
pub(crate) fn all(connection: &Connection) -> Result<Vec<AdminSession>, gpu_broker_client::Error> {
    let mut sessions: Vec<AdminSession> = Vec::new();
    loop {
        let after = sessions.last().map_or(SessionId(0), |last| last.session);
        let page = connection.admin_sessions(after)?;
        let more = page.more && !page.sessions.is_empty();
        sessions.extend(page.sessions);
        if !more {
            return Ok(sessions);
        }
    }
}

pub(super) fn list(connection: &Connection, json: bool) -> Result<(), Failure> {
    let sessions = all(connection).map_err(|error| Failure::new(error.to_string()))?;
    if json { Out::new().json(&sessions) } else { Out::new().line(table(&sessions)) }
}

pub(super) fn inspect(
    connection: &Connection,
    session: SessionId,
    json: bool,
) -> Result<(), Failure> {
    let inspection = connection.admin_inspect(session);
    let inspection = inspection.map_err(|error| Failure::new(error.to_string()))?;
    if json { Out::new().json(&inspection) } else { Out::new().line(details(&inspection)) }
}

fn table(sessions: &[AdminSession]) -> String {
    let mut table = Table::new(&[
        ">session",
        "name",
        "class",
        "listener",
        ">uid",
        ">pid",
        ">age",
        ">contexts",
        ">buffers",
        ">memory",
        ">queued",
        ">done",
        ">engines",
        ">refused",
        ">hangs",
    ]);
    for session in sessions {
        let busy: u64 = session.engines.iter().map(|class| class.busy_ns).sum();
        let done = session.submissions.saturating_sub(session.in_flight.into());
        table.row([
            session.session.0.to_string(),
            harmless(&session.client_name),
            session.class.clone(),
            session.listener.clone(),
            session.uid.to_string(),
            session.pid.to_string(),
            duration(session.age_ns),
            session.contexts.to_string(),
            session.buffers.to_string(),
            bytes(session.buffer_bytes),
            session.in_flight.to_string(),
            done.to_string(),
            duration(busy),
            session.refusals.to_string(),
            session.hangs.to_string(),
        ]);
    }
    table.render(0)
}

fn details(inspection: &AdminInspection) -> String {
    let mut text = table(std::slice::from_ref(&inspection.session));
    text.push('\n');
    let identity = &inspection.identity;
    let memory = &inspection.memory;
    let facts = [
        ("group", identity.gid.to_string()),
        ("control group", harmless(&identity.cgroup)),
        ("unit", harmless(&identity.unit)),
        ("container", harmless(&identity.container)),
        ("application", harmless(&identity.app_id)),
        ("instance", harmless(&inspection.instance_id)),
        ("memory", bytes(memory.total)),
        ("  resident", bytes(memory.resident)),
        ("  shared", bytes(memory.shared)),
        ("  in use", bytes(memory.active)),
        ("ban score", inspection.ban_score.to_string()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("\n{name:<14} {value}"));
    }
    for class in &inspection.session.engines {
        let name = class_name(class.class);
        text.push_str(&format!("\n{name:<14} {} of engine time", duration(class.busy_ns)));
    }
    for refused in &inspection.refusals {
        text.push_str(&format!("\n{:<14} {} times {}", "refused", refused.count, refused.reason));
    }
    let mut contexts = Table::new(&[">context", "state", ">priority", "engines", ">engine time"]);
    for context in &inspection.contexts {
        let state = match context.state {
            ContextState::Proto => "proto",
            ContextState::Live { .. } if context.banned => "banned",
            ContextState::Live { .. } => "live",
        };
        let times = inspection.times.iter().find(|times| times.context == context.context);
        // An empty list: the device does not tell.
        let busy = match times.map(|times| &*times.busy_ns) {
            None => "-".to_owned(),
            Some([]) => "unknown".to_owned(),
            Some(times) => duration(times.iter().sum()),
        };
        contexts.row([
            context.context.0.to_string(),
            state.to_owned(),
            context.priority.to_string(),
            if context.user_engines { "its own map" } else { "legacy" }.to_owned(),
            busy,
        ]);
    }
    text.push_str("\n\n");
    text.push_str(&contexts.render(0));
    text
}
