//! `gpu-broker status`: sessions with their contexts, and engines with how busy they are.

mod table;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use gpu_broker_client::Connection;

use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{Failure, Out};

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
}

/// Prints the status.
///
/// # Errors
/// The daemon cannot be reached.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    let connection = connect(socket)?;
    let status = if args.sample == 0 {
        Status::since_start(&page(&connection)?)
    } else {
        let before = page(&connection)?;
        std::thread::sleep(Duration::from_millis(args.sample));
        Status::between(&before, &page(&connection)?)
    };
    if args.json.json { Out::new().json(&status) } else { Out::new().line(table::render(&status)) }
}

fn page(
    connection: &Connection,
) -> Result<gpu_broker_client::protocol::status::StatusPage, Failure> {
    connection
        .status()
        .map_err(|error| Failure::new(format!("the daemon did not say its status: {error}")))
}
