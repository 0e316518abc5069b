//! What clients cost each other: memory of idle ones, time of flooding ones.

use std::thread;
use std::time::{Duration, Instant};

use gpu_broker_client::Connection;

use super::failure::Failure;
use super::flood::Flood;
use super::rig::Rig;
use super::stats::Figure;

/// Clients that are there before memory is first looked at, so that what the daemon allocates once
/// is not counted.
const CLIENTS_BEFORE: u32 = 100;
/// Clients that are counted.
const CLIENTS_COUNTED: u32 = 1000;
/// Pause of the quiet client between its calls.
const PAUSE: Duration = Duration::from_millis(1);

/// Bytes by which the daemon grows per client that said HELLO and does nothing.
///
/// # Errors
/// The daemon refused a client, or its memory cannot be read.
pub(super) fn idle_client_bytes(rig: &Rig) -> Result<Figure, Failure> {
    let mut clients = connect_many(rig, CLIENTS_BEFORE)?;
    let before = rig.resident_bytes()?;
    clients.extend(connect_many(rig, CLIENTS_COUNTED)?);
    let after = rig.resident_bytes()?;
    let value = (after - before) / f64::from(CLIENTS_COUNTED);
    Ok(Figure { value, ratio: None })
}

fn connect_many(rig: &Rig, count: u32) -> Result<Vec<Connection>, Failure> {
    (0..count).map(|_| rig.connect()).collect()
}

/// Milliseconds of the slowest PING of a client that calls once in a while, with nobody else
/// connected: what the machine itself does to such a client.
///
/// # Errors
/// The daemon failed.
pub(super) fn lone_client_worst(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    worst_ping(&rig.connect()?, time)
}

/// The same beside a client that never stops sending.
///
/// # Errors
/// The daemon failed, or ended the flooding client.
pub(super) fn flooded_neighbour_worst(rig: &Rig, time: Duration) -> Result<Figure, Failure> {
    let flood = Flood::start(rig)?;
    let figure = worst_ping(&rig.connect()?, time);
    flood.end()?;
    figure
}

pub(super) fn worst_ping(quiet: &Connection, time: Duration) -> Result<Figure, Failure> {
    let deadline = Instant::now() + time;
    let mut worst = Duration::ZERO;
    while Instant::now() < deadline {
        thread::sleep(PAUSE);
        let started = Instant::now();
        quiet.ping(0).map_err(Failure::broker("PING of the quiet client"))?;
        worst = worst.max(started.elapsed());
    }
    Ok(Figure { value: worst.as_secs_f64() * 1e3, ratio: None })
}
