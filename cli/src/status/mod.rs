//! `gpu-broker status`: sessions with their contexts, and engines with how busy they are.

mod table;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use gpu_broker_client::Connection;
use gpu_broker_client::protocol::SessionId;
use gpu_broker_client::protocol::refusal::errno::ENOENT;
use gpu_broker_client::protocol::status::StatusPage;
use gpu_broker_client::protocol::usage::SessionUsage;

use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{Failure, Out};

use view::{Confinement, Identity};
pub(crate) use view::{Context, MaterialisedBy, State, Status};

/// Longest time between the two samples, in milliseconds.
const SAMPLE_MS_MAX: u64 = 60_000;

/// Arguments of `gpu-broker status`.
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    json: JsonFlag,

    /// Measure how busy the engines are over this time; 0 = since the daemon started
    #[arg(
        long,
        value_name = "MILLISECONDS",
        default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(..=SAMPLE_MS_MAX)
    )]
    sample: u64,

    /// Print the sessions' accounts with the keys of drm-usage-stats, as /proc/PID/fdinfo has them
    #[arg(long, conflicts_with = "json")]
    fdinfo: bool,
}

/// Prints the status.
///
/// # Errors
/// The daemon cannot be reached.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    let connection = connect(socket)?;
    if args.fdinfo {
        let page = page(&connection)?;
        let usages = usages(&connection, &page)?;
        let blocks: Vec<_> = usages.iter().map(|usage| usage.fdinfo(&page.daemon.driver)).collect();
        return Out::new().line(blocks.join("\n").trim_end());
    }
    let mut status = if args.sample == 0 {
        let page = page(&connection)?;
        Status::since_start(&page).with_usage(&[], &usages(&connection, &page)?)
    } else {
        let before = page(&connection)?;
        let usages_before = usages(&connection, &before)?;
        std::thread::sleep(Duration::from_millis(args.sample));
        let after = page(&connection)?;
        let usages_after = usages(&connection, &after)?;
        Status::between(&before, &after).with_usage(&usages_before, &usages_after)
    };
    for session in &mut status.sessions {
        // One that has ended meanwhile has no identity any more.
        let identity = connection.identity(SessionId(session.session)).ok();
        session.identity = identity.as_ref().map(Identity::new);
    }
    status.daemon.confinement = connection.confinement().ok().map(|it| Confinement::new(&it));
    status.daemon.wedged = connection.hello().device.wedged;
    status.last_hangs = crate::hang::all(&connection)?;
    if args.json.json { Out::new().json(&status) } else { Out::new().line(table::render(&status)) }
}

/// What the sessions of a page used; those that are gone by now are left out.
fn usages(connection: &Connection, page: &StatusPage) -> Result<Vec<SessionUsage>, Failure> {
    let mut usages = Vec::with_capacity(page.sessions.len());
    for session in &page.sessions {
        match connection.usage(Some(session.session)) {
            Ok(usage) => usages.push(usage),
            Err(error) if error.errno() == ENOENT => {}
            Err(error) => {
                let sentence = format!("the daemon did not say what sessions used: {error}");
                return Err(Failure::new(sentence));
            }
        }
    }
    Ok(usages)
}

fn page(connection: &Connection) -> Result<StatusPage, Failure> {
    connection
        .status()
        .map_err(|error| Failure::new(format!("the daemon did not say its status: {error}")))
}
