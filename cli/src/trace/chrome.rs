//! The Trace Event Format, as Chrome and Perfetto read it: times in microseconds, a process for the
//! engines and one for each session.

use std::collections::BTreeMap;

use gpu_broker_client::protocol::admin::{TraceRecord, TraceWhat};
use serde_json::{Value, json};

use super::Recording;
use crate::output::harmless;

/// The engines' process; a session's is its number and this.
const ENGINES: u64 = 1;

/// The whole file.
pub(super) fn trace(recording: &Recording) -> Value {
    let mut events = names(recording);
    let base = recording.tracing.now_ns;
    let mut queued = BTreeMap::new();
    for record in &recording.records {
        let at = micros(record.at_ns.saturating_sub(base));
        let key = (record.session.0, record.submission);
        match record.what {
            TraceWhat::Queued => {
                queued.insert(key, at);
            }
            TraceWhat::Ran { ns } => events.push(slice(recording, record, at, micros(ns))),
            TraceWhat::Done | TraceWhat::Cancelled | TraceWhat::Died => {
                // One that was queued before the trace began has no beginning in it.
                let began = queued.remove(&key).unwrap_or(0.0);
                events.extend(submission(record, began, at));
                if record.what == TraceWhat::Died {
                    events.push(instant(record, at, "hang, engine reset"));
                }
            }
            TraceWhat::Replayed => events.push(instant(record, at, "hit by a reset, runs again")),
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}

/// What the tracks are called.
fn names(recording: &Recording) -> Vec<Value> {
    let name = |what: &str, pid: u64, tid: u64, name: &str| {
        let args = json!({ "name": name });
        json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": args })
    };
    let mut events = vec![name("process_name", ENGINES, 0, "engines")];
    for ((class, instance), engine) in &recording.engines {
        events.push(name("thread_name", ENGINES, track(*class, *instance), engine));
    }
    for (session, client) in &recording.names {
        let title = format!("session {session}: {}", harmless(client));
        events.push(name("process_name", process(*session), 0, &title));
    }
    events
}

fn slice(recording: &Recording, record: &TraceRecord, at: f64, length: f64) -> Value {
    let session = record.session.0;
    let client = recording.names.get(&session).map_or("?", String::as_str);
    json!({
        "ph": "X",
        "name": format!("{} · context {}", harmless(client), record.context.0),
        "cat": "engine",
        "pid": ENGINES,
        "tid": track(record.engine.class, record.engine.instance),
        "ts": at,
        "dur": length,
        "args": { "session": session, "context": record.context.0, "submission": record.submission },
    })
}

/// From EXECBUF to the fence. Asynchronous, because a session has many at once.
fn submission(record: &TraceRecord, began: f64, ended: f64) -> [Value; 2] {
    let session = record.session.0;
    let how = match record.what {
        TraceWhat::Cancelled => "cancelled",
        TraceWhat::Died => "died",
        TraceWhat::Queued | TraceWhat::Ran { .. } | TraceWhat::Done | TraceWhat::Replayed => "done",
    };
    [("b", began), ("e", ended)].map(|(phase, at)| {
        json!({
            "ph": phase,
            "name": format!("context {}", record.context.0),
            "cat": "submission",
            "id": format!("{session}.{}", record.submission),
            "pid": process(session),
            "tid": record.context.0,
            "ts": at,
            "args": { "submission": record.submission, "ended": how },
        })
    })
}

fn instant(record: &TraceRecord, at: f64, name: &str) -> Value {
    json!({
        "ph": "i",
        "s": "t",
        "name": name,
        "cat": "reset",
        "pid": ENGINES,
        "tid": track(record.engine.class, record.engine.instance),
        "ts": at,
        "args": { "session": record.session.0, "context": record.context.0 },
    })
}

fn process(session: u64) -> u64 {
    session.saturating_add(ENGINES).saturating_add(1)
}

fn track(class: u16, instance: u16) -> u64 {
    u64::from(class) * 100 + u64::from(instance)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of an hour are far below 2^53")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use gpu_broker_client::protocol::admin::AdminTracing;
    use gpu_broker_client::protocol::param::EngineId;
    use gpu_broker_client::protocol::{ContextId, SessionId};

    use super::*;

    fn record(at_ns: u64, what: TraceWhat) -> TraceRecord {
        TraceRecord {
            at_ns,
            session: SessionId(7),
            context: ContextId(3),
            submission: 1,
            engine: EngineId { class: 1, instance: 0 },
            what,
        }
    }

    #[test]
    fn a_submission_is_a_slice_of_its_engine_and_a_span_of_its_session() {
        let recording = Recording {
            tracing: AdminTracing { now_ns: 1_000, next: 0, runs: true },
            records: vec![
                record(2_000, TraceWhat::Queued),
                record(3_000, TraceWhat::Ran { ns: 500 }),
                record(4_000, TraceWhat::Died),
            ],
            lost: 0,
            names: BTreeMap::from([(7, "cube\u{1b}".to_owned())]),
            engines: BTreeMap::from([((1, 0), "bcs0".to_owned())]),
        };
        let trace = trace(&recording);
        let events = trace["traceEvents"].as_array().unwrap();
        let find = |phase: &str| events.iter().find(|event| event["ph"] == phase).unwrap();
        let ran = find("X");
        assert_eq!((&ran["ts"], &ran["dur"]), (&json!(2.0), &json!(0.5)));
        assert_eq!(ran["name"], "cube\u{fffd} · context 3");
        let (begin, end) = (find("b"), find("e"));
        assert_eq!((&begin["ts"], &end["ts"]), (&json!(1.0), &json!(3.0)));
        assert_eq!((&begin["id"], &begin["pid"]), (&end["id"], &end["pid"]));
        assert_eq!(end["args"]["ended"], "died");
        assert_eq!((&find("i")["ts"], &find("i")["tid"]), (&json!(3.0), &ran["tid"]));
        let named = |name: &str| events.iter().any(|event| event["args"]["name"] == name);
        assert!(named("bcs0") && named("session 7: cube\u{fffd}"));
    }
}
