//! One client process of the demo: confines itself, connects, and carries out orders.

use std::io::{self, BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use gpu_broker_client::Connection;

use super::confine::confine;
use super::painters::Role;
use super::studio::{Studio, micros};
use super::talk::{Answer, Message, Order};

/// Arguments of the hidden `gpu-broker demo-client`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it paints
    role: Role,
}

/// Serves the demo until told to quit, or until the demo has gone away.
pub(crate) fn run(args: &Args, socket: Option<PathBuf>) -> ExitCode {
    let result = socket
        .ok_or_else(|| "demo-client is started by `gpu-broker demo`; run that".to_owned())
        .and_then(|socket| serve(args.role, &socket));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            let sentence = format!("client {}: {sentence}", args.role.name());
            // If the demo no longer listens, nobody is left to be told.
            let _ = say(&Message::Failed { sentence });
            ExitCode::FAILURE
        }
    }
}

fn serve(role: Role, socket: &std::path::Path) -> Result<(), String> {
    let confinement = confine();
    let (connection, connect_us) =
        micros(|| Connection::connect(socket, &format!("demo {}", role.name())));
    let connection = connection.map_err(|error| error.to_string())?;
    let session = connection.session().0;
    say(&Message::Ready { session, confinement, connect_us })?;
    let mut studio = Studio::new(connection);
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("cannot read orders: {error}"))?;
        let order = serde_json::from_str(&line).map_err(|e| format!("not an order: {e}"))?;
        let pixels = match order {
            Order::Create => role.create(&mut studio).map(|()| None)?,
            Order::Configure => role.configure(&mut studio).map(|()| None)?,
            Order::Paint => role.paint(&mut studio)?,
            Order::Quit => return Ok(()),
        };
        let answer = Answer {
            context: studio.context_id(),
            steps: studio.take_steps(),
            pixels: pixels.as_ref().map(Vec::len),
        };
        say(&Message::Done(answer))?;
        if let Some(pixels) = pixels {
            write(&pixels)?;
        }
    }
    Ok(())
}

fn say(message: &Message) -> Result<(), String> {
    let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    line.push(b'\n');
    write(&line)
}

fn write(bytes: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let result = out.write_all(bytes).and_then(|()| out.flush());
    result.map_err(|error| format!("cannot answer the demo: {error}"))
}
