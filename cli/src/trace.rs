//! `gpu-broker trace`: what the engines do, as a trace that Perfetto and Chrome show.

mod chrome;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueHint;
use gpu_broker_client::Connection;
use gpu_broker_client::protocol::admin::{AdminTracing, TraceRecord};
use serde_json::json;

use crate::admin;
use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{Failure, Out, count};

/// How often records are fetched: the daemon keeps 65536, which is a second of a very busy GPU.
const RHYTHM: Duration = Duration::from_millis(50);

/// Longest trace, in seconds.
const SECONDS_MAX: u64 = 3600;

/// Record what the engines do, batch by batch, for Perfetto or chrome://tracing
///
/// The file has a track for each engine, with what ran on it, and for each session what it
/// submitted, from EXECBUF to the fence. Open it at ui.perfetto.dev or chrome://tracing.
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: admin::SocketArg,

    /// Where to write it
    #[arg(long, value_name = "FILE", default_value = "gpu-trace.json", value_hint = ValueHint::FilePath)]
    out: PathBuf,

    /// For how long; Ctrl-C ends it before
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX)
    )]
    seconds: u64,

    #[command(flatten)]
    json: JsonFlag,
}

/// What was recorded.
struct Recording {
    tracing: AdminTracing,
    records: Vec<TraceRecord>,
    /// Records the daemon dropped before they were fetched.
    lost: u64,
    /// Sessions by number, with their clients' names.
    names: BTreeMap<u64, String>,
    /// Engines by class and instance.
    engines: BTreeMap<(u16, u16), String>,
}

/// Records and writes.
///
/// # Errors
/// The daemon cannot be reached or refuses, or the file cannot be written.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let connection = connect(Some(args.admin.path()))?;
    let recording = record(&connection, Duration::from_secs(args.seconds))
        .map_err(|error| Failure::new(error.to_string()))?;
    let trace = chrome::trace(&recording);
    let written = serde_json::to_vec(&trace)
        .map_err(std::io::Error::from)
        .and_then(|text| std::fs::write(&args.out, text));
    let place = args.out.display();
    written.map_err(|error| Failure::new(format!("cannot write {place}: {error}")))?;
    let (records, lost, runs) =
        (recording.records.len() as u64, recording.lost, recording.tracing.runs);
    if args.json.json {
        let place = place.to_string();
        let summary = json!({ "file": place, "records": records, "lost": lost, "runs": runs });
        return Out::new().json(&summary);
    }
    let mut text = format!("{} in {place}; open it at ui.perfetto.dev", count(records, "record"));
    if lost > 0 {
        text.push_str(&format!("\n{} came too fast and are missing", count(lost, "record")));
    }
    if !runs {
        text.push_str(
            "\nthe kernel does not say when a batch runs: the engines' tracks are empty, each \
             session's has the time from EXECBUF to the fence",
        );
    }
    Out::new().line(text)
}

fn record(connection: &Connection, time: Duration) -> Result<Recording, gpu_broker_client::Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupted);
    // Without a handler, Ctrl-C ends the command at once and there is no file.
    let _ = ctrlc::set_handler(move || set.store(true, Ordering::Relaxed));
    let tracing = connection.admin_trace(true)?;
    let engines = connection.status()?.engines.into_iter();
    let engines = engines.map(|it| ((it.engine.class, it.engine.instance), it.name)).collect();
    let mut recording =
        Recording { tracing, records: Vec::new(), lost: 0, names: BTreeMap::new(), engines };
    let mut from = tracing.next;
    let end = Instant::now() + time;
    loop {
        let last = Instant::now() >= end || interrupted.load(Ordering::Relaxed);
        loop {
            let page = connection.admin_trace_read(from)?;
            recording.lost += page.first.saturating_sub(from);
            from = page.first + page.records.len() as u64;
            let stranger = |it: &TraceRecord| !recording.names.contains_key(&it.session.0);
            let strangers = page.records.iter().any(stranger);
            recording.records.extend(page.records);
            if strangers {
                for session in admin::sessions(connection)? {
                    recording.names.insert(session.session.0, session.client_name);
                }
            }
            if !page.more {
                break;
            }
        }
        if last {
            let _ = connection.admin_trace(false)?;
            return Ok(recording);
        }
        std::thread::sleep(RHYTHM);
    }
}
