//! `gpu-broker hang`: who hung the GPU, and in which command.

mod table;
mod view;

use std::path::PathBuf;

use gpu_broker_client::Connection;

use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{Failure, Out};

pub(crate) use table::last_hangs;
pub(crate) use view::Hang;

/// Arguments of `gpu-broker hang`.
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the hangs the daemon remembers, the last first
    List(List),
    /// Show what a batch died of: its commands, registers and memory
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    json: JsonFlag,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    json: JsonFlag,

    /// Number of the hang, as `gpu-broker hang list` says it [default: the last one]
    #[arg(value_name = "HANG")]
    hang: Option<u64>,
}

/// Lists or shows.
///
/// # Errors
/// The daemon cannot be reached, or does not remember the hang.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    match &args.command {
        Command::List(list) => {
            let hangs = all(&connect(socket)?)?;
            match list.json.json {
                true => Out::new().json(&hangs),
                false => Out::new().line(table::list(&hangs)),
            }
        }
        Command::Show(show) => {
            let dump = view::Dump::fetch(&connect(socket)?, show.hang)?;
            match show.json.json {
                true => Out::new().json(&dump),
                false => Out::new().line(table::show(&dump)),
            }
        }
    }
}

/// Every hang we may see, the last first.
///
/// # Errors
/// The daemon did not say.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Hang>, Failure> {
    let mut hangs: Vec<Hang> = Vec::new();
    let mut before = u64::MAX;
    loop {
        let page = connection
            .hangs(before)
            .map_err(|error| Failure::new(format!("the daemon did not list its hangs: {error}")))?;
        // A page must get ahead, or a daemon at fault could keep us here for ever.
        hangs.extend(page.hangs.iter().filter(|hang| hang.event.hang < before).map(Hang::new));
        match hangs.last() {
            Some(last) if page.more && last.hang < before => before = last.hang,
            _ => return Ok(hangs),
        }
    }
}
