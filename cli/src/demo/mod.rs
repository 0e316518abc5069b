//! `gpu-broker demo`: a picture painted by several confined clients of a private daemon.
//!
//! Every process is real: the daemon, and a process per client, started from our own executable.
//! The clients paint a strip each; no pixel is written by a CPU. Between the steps the demo asks
//! the daemon for its status, so that what it prints about contexts is the daemon's own view.
//!
//! Start reading at [`run`], then [`painters`] for what is painted and [`confine`] for how the
//! clients are locked up.

mod batch;
pub(crate) mod client;
mod confine;
pub(crate) mod daemon;
mod painters;
mod picture;
mod process;
mod scene;
mod story;
mod studio;
mod talk;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueHint;
use gpu_broker_client::Connection;

use crate::args::JsonFlag;
use crate::output::{Failure, Out};
use crate::status::Status;
use daemon::Daemon;
use painters::Role;
use picture::Picture;
use process::Client;
use story::{Act, ClientStory, Story};
use talk::{Message, Order};

/// Paint a picture with confined clients of a private daemon
///
/// Starts a daemon with the software GPU, or the one that --device names, and a process per client,
/// each without access to any device node. Nothing needs to be installed or running, and --socket
/// does not matter.
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    /// Where to save the picture
    #[arg(long, value_name = "FILE", default_value = "demo.png", value_hint = ValueHint::FilePath)]
    out: PathBuf,

    /// GPU to paint with: soft, auto, or a render node that you may open
    #[arg(long, value_name = "DEVICE", default_value = "soft")]
    device: String,

    #[command(flatten)]
    json: JsonFlag,
}

/// Runs the demo. Daemon and clients have ended when it returns, whatever happens.
///
/// # Errors
/// The first thing that went wrong, with the daemon's log if the daemon may be the cause.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let begin = Instant::now();
    let (daemon, connection) = Daemon::start(&["--device", &args.device])?;
    let mut picture = Picture::new();
    let told = perform(&daemon, &connection, &mut picture).map_err(|sentence| {
        let complaints = match daemon.complaints().join("\n") {
            none if none.is_empty() => none,
            some => format!("\nThe daemon's log says:\n{some}"),
        };
        Failure::new(format!("the demo failed: {sentence}{complaints}"))
    });
    drop(connection);
    let mut story = told?;
    daemon.stop()?;
    picture.save(&args.out).map_err(|error| {
        Failure::new(format!("cannot save the picture to {}: {error}", args.out.display()))
    })?;
    story.picture = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    story.total_ms = begin.elapsed().as_secs_f64() * 1e3;
    if args.json.json { Out::new().json(&story) } else { Out::new().line(story.tell()) }
}

fn perform(
    daemon: &Daemon,
    connection: &Connection,
    picture: &mut Picture,
) -> Result<Story, String> {
    let socket = daemon.socket();
    let mut clients = Role::ALL
        .iter()
        .map(|role| Client::start(*role, &socket))
        .collect::<Result<Vec<_>, _>>()?;
    let mut stories =
        clients.iter_mut().map(introduce).collect::<Result<Vec<ClientStory>, String>>()?;
    for order in [Order::Create, Order::Configure, Order::Paint] {
        // All of them work at the same time; the answers are fetched one after the other.
        clients.iter_mut().try_for_each(|client| client.order(order))?;
        let mut answers = Vec::new();
        for client in &mut clients {
            let (answer, pixels) = client.answer()?;
            let (first, rows) = client.role.rows();
            if let Some(pixels) = pixels {
                picture.place(first, rows, &pixels)?;
            }
            answers.push(answer);
        }
        let status = status(connection)?;
        for (story, answer) in stories.iter_mut().zip(answers) {
            story.acts.push(Act::new(order, answer, story, &status)?);
        }
    }
    clients.iter_mut().try_for_each(|client| client.order(Order::Quit))?;
    let device = connection.hello().device.name.clone();
    Ok(Story::new(daemon, device, stories, &status(connection)?))
}

fn introduce(client: &mut Client) -> Result<ClientStory, String> {
    match client.message()? {
        Message::Ready { session, confinement, connect_us } => {
            Ok(ClientStory::new(client.role, client.pid(), session, confinement, connect_us))
        }
        Message::Done(_) | Message::Failed { .. } => {
            Err(format!("client {} does not introduce itself", client.role.name()))
        }
    }
}

fn status(connection: &Connection) -> Result<Status, String> {
    let page = connection.status().map_err(|error| format!("asking for the status: {error}"))?;
    Ok(Status::since_start(&page))
}
