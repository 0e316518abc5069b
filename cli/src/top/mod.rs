//! `gpu-broker top`: who uses the GPU, as it happens.
//!
//! [`sample`] is what the daemon said at one moment, [`source`] asks it, [`model`] makes of two
//! samples what is shown, [`state`] is what the screen is in the middle of, [`draw`] and [`text`]
//! show it, [`screen`] has the [`terminal`] and its [`keys`].

mod draw;
mod keys;
mod model;
mod sample;
mod screen;
mod source;
mod state;
mod terminal;
mod text;

#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;

use crate::args::JsonFlag;
use crate::output::{Failure, Out};

use model::{Column, Frame, Order};
use source::{Sockets, Source};

/// Watch engines and sessions as they work, like intel_gpu_top; take sessions away
///
/// Shows the sessions you may see: your own, or all by the administrators' socket, which is used
/// where it can be opened. Busy% of a session is of one engine's time: who has two engines at once
/// has 200. Keys: q or Ctrl-C quits, the capital letter of a column or left and right sort by it, i
/// inverts the order, up and down choose a session, k takes it away (administrators only).
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    /// The administrators' socket [default: /run/gpu-broker/admin.sock, if the same daemon serves
    /// it]
    #[arg(
        long,
        value_name = "PATH",
        env = "GPU_BROKER_ADMIN_SOCKET",
        hide_env_values = true,
        value_hint = ValueHint::FilePath
    )]
    admin_socket: Option<PathBuf>,

    /// Time between two looks
    #[arg(
        long,
        value_name = "MILLISECONDS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(50..=60_000)
    )]
    interval: u64,

    /// Column to sort by
    #[arg(long, value_name = "COLUMN", value_enum, default_value = "busy")]
    sort: Column,

    /// Look twice, an interval apart, and print what is to be seen as text
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    json: JsonFlag,
}

/// Shows it.
///
/// # Errors
/// The daemon cannot be reached at first, or there is no terminal.
pub(crate) fn run(args: Args, socket: Option<PathBuf>) -> Result<(), Failure> {
    let sockets = Sockets { clients: socket, admin: args.admin_socket };
    let interval = Duration::from_millis(args.interval);
    let order = Order::by(args.sort);
    let mut source = sockets.open()?;
    if args.once || args.json.json {
        let frame = look(&mut source, interval, order)?;
        return match args.json.json {
            true => Out::new().json(&frame),
            false => Out::new().line(text::plain(&frame)),
        };
    }
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        return Err(Failure::new(
            "this is no terminal: `gpu-broker top --once` prints text, `--json` JSON",
        ));
    }
    screen::run(sockets, source, interval, order)
}

fn look(source: &mut Source, interval: Duration, order: Order) -> Result<Frame, Failure> {
    let before = source.sample()?;
    std::thread::sleep(interval);
    let mut frame = Frame::between(Some(&before), &source.sample()?);
    frame.sort(order);
    Ok(frame)
}
