//! `gpu-broker admin events`.

use clap::ValueEnum;
use gpu_broker_client::Connection;
use gpu_broker_client::protocol::admin::{AdminEvent, AdminNews, kind};

use crate::output::{Failure, Out, harmless};

/// Arguments of `gpu-broker admin events`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    only: Vec<Kind>,

    /// End after so many events
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Sessions that begin, end, or are not let in
    Sessions,
    /// Requests that are refused
    Refusals,
    /// Batches that hang, and those that a reset hits
    Hangs,
    /// What administrators do
    Admin,
    /// The configuration being read again
    Reloads,
}

impl Kind {
    const fn bit(self) -> u64 {
        match self {
            Self::Sessions => kind::SESSIONS,
            Self::Refusals => kind::REFUSALS,
            Self::Hangs => kind::HANGS,
            Self::Admin => kind::ADMIN,
            Self::Reloads => kind::RELOADS,
        }
    }
}

/// Prints events as they come, one a line; with `--json` each is an object.
pub(super) fn run(connection: &Connection, args: &Args, json: bool) -> Result<(), Failure> {
    let failed = |error: gpu_broker_client::Error| Failure::new(error.to_string());
    let kinds = args.only.iter().fold(0, |kinds, kind| kinds | kind.bit());
    connection.admin_events(if kinds == 0 { kind::ALL } else { kinds }).map_err(failed)?;
    let mut left = args.count;
    while left != Some(0) {
        let Some(event) = connection.admin_next_event(None).map_err(failed)? else { continue };
        let line = if json {
            serde_json::to_string(&event).map_err(|error| Failure::new(error.to_string()))?
        } else {
            line(&event)
        };
        Out::new().line(line)?;
        left = left.map(|left| left.saturating_sub(1));
    }
    Ok(())
}

fn line(event: &AdminEvent) -> String {
    let lost = match event.lost {
        0 => String::new(),
        lost => format!(" ({lost} events before this one were lost)"),
    };
    let ms = event.at_ns / 1_000_000;
    format!("{:>9}.{:03}  {}{lost}", ms / 1000, ms % 1000, harmless(&sentence(&event.what)))
}

fn sentence(news: &AdminNews) -> String {
    use AdminNews::*;
    match news {
        SessionBegan { session, class, listener, uid, pid, client_name } => format!(
            "session {session} began: \"{client_name}\", uid {uid}, pid {pid}, class {class}, \
             by {listener}"
        ),
        SessionEnded { session, why } => format!("session {session} ended: {why}"),
        TurnedAway { peer, why, count: 1 } => format!("turned away: {peer}: {why}"),
        TurnedAway { peer, why, count } => format!("turned away {count} times: {peer}: {why}"),
        Refused { session, reason, sentence, count: 1 } => {
            format!("session {session} was refused ({reason}): {sentence}")
        }
        Refused { session, reason, sentence, count } => {
            format!("session {session} was refused {count} times ({reason}): {sentence}")
        }
        Hang { session, hang } => format!(
            "session {session} hung engine {}:{}: {}: {} (hang {}, context {})",
            hang.engine.class,
            hang.engine.instance,
            hang.command,
            hang.what,
            hang.hang,
            hang.context
        ),
        Replayed { session } => {
            format!("a reset hit a batch of session {session}, which runs again")
        }
        Revoked { session, by } => format!("session {session} was taken away by {by}"),
        Reloaded { error: None } => "the configuration was read again".to_owned(),
        Reloaded { error: Some(error) } => format!("the configuration stays what it was: {error}"),
        Drained { on: true, by } => format!("nobody new is let in, by {by}"),
        Drained { on: false, by } => format!("clients are let in again, by {by}"),
        Limited { class, key, value, by } => {
            let value = value.map_or_else(|| "none".to_owned(), |value| value.to_string());
            format!("limits.{key} of class {class} is {value}, by {by}")
        }
        ListenerMade { listener, by } => format!("listener {listener} was made by {by}"),
        ListenerGone { listener } => format!("listener {listener} is gone"),
    }
}
