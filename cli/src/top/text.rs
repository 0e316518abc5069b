//! A frame as plain text, and the words that the screen shares with it.

use super::model::{Column, Frame, Row};
use crate::output::{Table, bytes, count, duration};

/// Everything, however much: for `--once`.
pub(super) fn plain(frame: &Frame) -> String {
    let mut engines = Table::new(&["engine", ">busy", ">queued"]);
    for engine in &frame.engines {
        let busy = format!("{:.1} %", engine.busy_percent);
        engines.row([engine.name.clone(), busy, engine.queued.to_string()]);
    }
    let headings: Vec<_> = Column::ALL.into_iter().map(heading).collect();
    let headings: Vec<_> = headings.iter().map(String::as_str).collect();
    let mut sessions = Table::new(&headings);
    for row in &frame.sessions {
        sessions.row(Column::ALL.map(|column| cell(row, column)));
    }
    let text = [header(frame), engines.render(0), sessions.render(0)].join("\n\n");
    anstream::adapter::strip_str(&text).to_string()
}

fn heading(column: Column) -> String {
    let right = if column.is_number() { ">" } else { "" };
    format!("{right}{}", column.heading().to_lowercase())
}

/// The daemon in a line.
pub(super) fn header(frame: &Frame) -> String {
    let daemon = &frame.daemon;
    let hidden = u64::from(daemon.sessions).saturating_sub(frame.sessions.len() as u64);
    let hidden = if hidden == 0 { String::new() } else { format!(" ({hidden} not yours)") };
    format!(
        "gpu-brokerd {} on {}, up {}, {}{hidden}, {}, {}",
        daemon.version,
        daemon.driver,
        duration(daemon.uptime_ns),
        count(daemon.sessions, "session"),
        count(daemon.refusals, "refusal"),
        count(daemon.violations, "violation"),
    )
}

/// What a column says of a session.
pub(super) fn cell(row: &Row, column: Column) -> String {
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    match column {
        Column::Session => row.session.to_string(),
        Column::Pid => row.pid.to_string(),
        Column::Uid => row.uid.to_string(),
        Column::Name => row.client.clone(),
        Column::Class => row.class.clone().unwrap_or_else(|| "-".to_owned()),
        Column::Contexts => row.contexts.to_string(),
        Column::Memory => bytes(row.buffer_bytes),
        Column::Flight => row.in_flight.to_string(),
        Column::Busy => format!("{:.1}", row.busy_percent),
        Column::Refusals => known(row.refusals),
        Column::Hangs => known(row.hangs),
    }
}
