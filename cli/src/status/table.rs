//! The status as text.

use super::view::{
    BusyOver, Confinement, Context, Daemon, Engine, Identity, Session, State, Status,
};
use crate::output::{BAD, GOOD, HEADING, Table, bytes, count, duration, per_cent, styled};

/// The whole status, without a final newline.
pub(crate) fn render(status: &Status) -> String {
    let mut parts = vec![daemon_line(&status.daemon), engine_table(status)];
    parts.extend(crate::hang::last_hangs(&status.last_hangs));
    parts.extend(status.sessions.iter().map(|session| session_block(session, &status.busy_over)));
    let shown = status.sessions.len();
    let hidden = (status.daemon.sessions as usize).saturating_sub(shown);
    if hidden > 0 {
        let noun = if hidden == 1 { "session belongs" } else { "sessions belong" };
        parts.push(format!("{hidden} more {noun} to other users."));
    }
    parts.join("\n\n")
}

const WEDGED: &str = ", wedged: the GPU takes no work";

/// Nothing where nothing is known.
fn confinement_line(confinement: Option<&Confinement>) -> String {
    let Some(Confinement { system_calls, files }) = confinement else { return String::new() };
    let mut line = String::new();
    for (what, wall) in [("system calls", system_calls), ("files", files)] {
        line.push_str(if line.is_empty() { "\n" } else { ", " });
        line.push_str(what);
        line.push(' ');
        line.push_str(&match wall.holds {
            true => styled(GOOD, "confined"),
            false => format!("{} ({})", styled(BAD, "not confined"), wall.why),
        });
    }
    line
}

fn daemon_line(daemon: &Daemon) -> String {
    let confinement = confinement_line(daemon.confinement.as_ref());
    let wedged = if daemon.wedged { WEDGED } else { "" };
    format!(
        "{} {} on the {} device, pid {}, up {}{}\n\
         {} of at most {} ({} so far), {}, {}{confinement}",
        styled(HEADING, "gpu-brokerd"),
        daemon.version,
        daemon.driver,
        daemon.pid,
        duration(daemon.uptime_ns),
        styled(BAD, wedged),
        daemon.sessions,
        count(daemon.sessions_max, "session"),
        daemon.sessions_total,
        count(daemon.refusals, "refusal"),
        count(daemon.violations, "violation"),
    )
}

fn engine_table(status: &Status) -> String {
    let over = match status.busy_over.since_start {
        true => "busy since start".to_owned(),
        false => format!("busy in {}", duration(status.busy_over.ns)),
    };
    let mut table = Table::new(&[
        "engine",
        &format!(">{over}"),
        ">busy in all",
        ">queued",
        ">completed",
        ">faults",
    ]);
    let cells = |engine: &Engine| {
        [
            engine.name.clone(),
            per_cent(engine.busy_in_time_ns, status.busy_over.ns),
            duration(engine.busy_ns),
            engine.queued.to_string(),
            engine.completed.to_string(),
            engine.faults.to_string(),
        ]
    };
    status.engines.iter().for_each(|engine| table.row(cells(engine)));
    table.render(0)
}

fn session_block(session: &Session, busy_over: &BusyOver) -> String {
    let head = format!(
        "{} \"{}\", pid {}, uid {}, age {}: {} ({}), {}, {} in flight, {}",
        styled(HEADING, format!("session {}", session.session)),
        session.client,
        session.pid,
        session.uid,
        duration(session.age_ns),
        count(session.buffers, "buffer"),
        bytes(session.buffer_bytes),
        count(session.vms, "VM"),
        session.in_flight,
        count(session.submissions, "submission"),
    );
    let mut table =
        Table::new(&[">context", "state", "materialised by", ">priority", "engines", "had", ""]);
    session.contexts.iter().for_each(|context| table.row(context_cells(session, context)));
    let mut lines = vec![head];
    lines.extend(session.identity.as_ref().map(identity_line));
    lines.extend(engine_line(session, busy_over));
    lines.push(table.render(2));
    let hidden = (session.contexts_total as usize).saturating_sub(session.contexts.len());
    if hidden > 0 {
        lines.push(format!("  and {hidden} more"));
    }
    lines.join("\n")
}

fn identity_line(identity: &Identity) -> String {
    let Identity { class, listener, unit, container, app_id, .. } = identity;
    let mut line = format!("  class {class}, listener {listener}");
    for (name, value) in [("unit", unit), ("container", container), ("application", app_id)] {
        if !value.is_empty() {
            line = format!("{line}, {name} {value}");
        }
    }
    line
}

/// What the session had of the engines, if anything: of those of a class together.
fn engine_line(session: &Session, busy_over: &BusyOver) -> Option<String> {
    let had = session.engines.iter().filter(|engine| engine.busy_ns > 0).map(|engine| {
        let capacity_ns = busy_over.ns.saturating_mul(engine.capacity.into());
        let share = per_cent(engine.busy_in_time_ns, capacity_ns);
        format!("{} {share} ({} in all)", engine.class, duration(engine.busy_ns))
    });
    let had: Vec<_> = had.collect();
    (!had.is_empty()).then(|| format!("  had {}", had.join(", ")))
}

fn context_cells(session: &Session, context: &Context) -> [String; 7] {
    let had = session.engines.iter().zip(&context.busy_ns).filter(|(_, ns)| **ns > 0);
    let had: Vec<_> =
        had.map(|(engine, ns)| format!("{} {}", engine.class, duration(*ns))).collect();
    let unknown = matches!(context.state, State::Live) && context.busy_ns.is_empty();
    let state = match context.state {
        State::Proto => "proto",
        State::Live => "live",
    };
    [
        context.context.to_string(),
        state.to_owned(),
        context.materialised_by.map_or("-", super::MaterialisedBy::name).to_owned(),
        context.priority.to_string(),
        if context.user_engines { "own map" } else { "legacy" }.to_owned(),
        if unknown { "unknown".to_owned() } else { had.join(", ") },
        if context.banned { styled(BAD, "banned") } else { String::new() },
    ]
}

#[cfg(test)]
mod tests {
    use gpu_broker_client::protocol::ids::{ContextId, SessionId};
    use gpu_broker_client::protocol::param::EngineId;
    use gpu_broker_client::protocol::status as wire;
    use gpu_broker_client::protocol::usage::{ClassUsage, ContextUsage, MemoryUsage, SessionUsage};

    use super::*;

    fn engine(name: &str, class: u16, busy_ns: u64) -> wire::EngineStatus {
        wire::EngineStatus {
            engine: EngineId { class, instance: 0 },
            name: name.to_owned(),
            busy_ns,
            queued: 1,
            completed: 42,
            faults: 0,
        }
    }

    fn context(id: u32, state: wire::ContextState, priority: i32) -> wire::ContextStatus {
        let context = ContextId(id);
        wire::ContextStatus { context, state, priority, user_engines: id == 1, banned: id == 2 }
    }

    fn usage(busy_ns: u64) -> SessionUsage {
        let class = |class, capacity, busy_ns| ClassUsage { class, capacity, busy_ns };
        SessionUsage {
            session: SessionId(5),
            client_name: "evil".to_owned(),
            engines: vec![class(0, 1, busy_ns), class(1, 1, 0), class(2, 2, busy_ns)],
            memory: MemoryUsage { total: 12 << 10, ..MemoryUsage::default() },
            contexts: vec![
                ContextUsage { context: ContextId(0), busy_ns: vec![0; 3] },
                ContextUsage { context: ContextId(2), busy_ns: vec![busy_ns, 0, 5000] },
            ],
        }
    }

    fn page(uptime_ns: u64, busy_ns: u64) -> wire::StatusPage {
        use wire::{ContextState, MaterialisedBy};
        wire::StatusPage {
            daemon: wire::DaemonStatus {
                version: "0.1.0".to_owned(),
                driver: "soft".to_owned(),
                pid: 77,
                uptime_ns,
                sessions: 3,
                sessions_total: 9,
                sessions_max: 4096,
                refusals: 2,
                violations: 1,
            },
            engines: vec![engine("rcs0", 0, busy_ns), engine("bcs0", 1, 0)],
            sessions: vec![wire::SessionStatus {
                session: SessionId(5),
                client_name: "evil\x1b[2J".to_owned(),
                pid: 100,
                uid: 1000,
                gid: 1000,
                age_ns: 3_000_000_000,
                vms: 1,
                buffers: 2,
                buffer_bytes: 12 << 10,
                in_flight: 1,
                submissions: 6,
                contexts: vec![
                    context(0, ContextState::Live { by: MaterialisedBy::Open }, 0),
                    context(1, ContextState::Proto, -250),
                    context(2, ContextState::Live { by: MaterialisedBy::Execbuf }, 0),
                ],
                contexts_total: 5,
            }],
            more: false,
        }
    }

    #[test]
    fn the_text_is_as_agreed() {
        let status = Status::between(&page(1_000_000_000, 0), &page(1_200_000_000, 50_000_000));
        let status = status.with_usage(&[usage(10_000_000)], &[usage(50_000_000)]);
        let text = anstream::adapter::strip_str(&render(&status)).to_string();
        let expected = "\
gpu-brokerd 0.1.0 on the soft device, pid 77, up 1.2 s
3 of at most 4096 sessions (9 so far), 2 refusals, 1 violation

engine  busy in 200.0 ms  busy in all  queued  completed  faults
rcs0              25.0 %      50.0 ms       1         42       0
bcs0               0.0 %         0 ns       1         42       0

session 5 \"evil\u{fffd}[2J\", pid 100, uid 1000, age 3.0 s: 2 buffers (12 KiB), 1 VM, 1 in flight, 6 submissions
  had render 20.0 % (50.0 ms in all), video 10.0 % (50.0 ms in all)
  context  state  materialised by  priority  engines  had
        0  live   HELLO                   0  legacy
        1  proto  -                    -250  own map
        2  live   EXECBUF                 0  legacy   render 50.0 ms, video 5.0 µs  banned
  and 2 more

2 more sessions belong to other users.";
        assert_eq!(text, expected);
    }

    #[test]
    fn who_a_session_belongs_to_is_said_as_far_as_it_is_known() {
        let mut status = Status::since_start(&page(2_000_000_000, 0));
        status.sessions[0].identity = Some(Identity {
            class: "games".to_owned(),
            listener: "main".to_owned(),
            cgroup: "/x".to_owned(),
            unit: "app-pong.scope".to_owned(),
            container: String::new(),
            app_id: "org.games.Pong".to_owned(),
        });
        let text = anstream::adapter::strip_str(&render(&status)).to_string();
        let line =
            "\n  class games, listener main, unit app-pong.scope, application org.games.Pong\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn since_start_says_so() {
        let status = Status::since_start(&page(2_000_000_000, 500_000_000));
        let text = anstream::adapter::strip_str(&render(&status)).to_string();
        assert!(text.contains("busy since start"), "{text}");
        // Of none it was told how long it had the engines.
        assert_eq!(text.matches("legacy   unknown").count(), 2, "{text}");
        assert!(text.contains("25.0 %"), "{text}");
    }

    #[test]
    fn the_json_is_as_agreed() {
        let status = Status::between(&page(1_000_000_000, 0), &page(1_200_000_000, 50_000_000));
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["engines"][0]["busy_percent"], 25.0);
        assert_eq!(json["busy_over"]["since_start"], false);
        assert_eq!(json["sessions"][0]["contexts"][1]["state"], "proto");
        assert_eq!(json["sessions"][0]["contexts"][1]["materialised_by"], serde_json::Value::Null);
        assert_eq!(json["sessions"][0]["contexts"][2]["materialised_by"], "EXECBUF");
        assert_eq!(json["sessions"][0]["contexts"][2]["banned"], true);
    }
}
