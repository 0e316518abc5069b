//! `gpu-brokerd`, the process that owns the GPU: configuration, sockets, sessions, systemd.
//!
//! Clients that are not trusted with the device connect to a Unix socket. Each connection is a
//! session with a task of its own (`connection`), which receives a packet, has the request
//! decided by the rules (`gpu-broker-core`) and done by the device (`gpu-broker-device`), and
//! sends the answer before it reads on. Everything runs on one thread; the device's threads report
//! completions through a session's `directory::Entry`.
//!
//! This crate is the only one that knows sockets and tokio. It holds no rules of the i915
//! interface and nothing about batches.
//!
//! Start reading at [`main_with`], then `server`, `connection` and `requests`.
#![forbid(unsafe_code)]

pub mod args;
mod clock;
pub mod config;
mod connection;
mod deferred;
mod device;
mod directory;
mod fds;
mod fences;
mod hands;
mod hello;
mod limiter;
mod logging;
mod packet;
mod peer;
mod process;
mod requests;
mod server;
mod sharing;
pub mod socket;
mod status;
mod systemd;
mod throttle;
mod wait;
mod waits;

use std::process::ExitCode;
use std::sync::Arc;

use gpu_broker_core::Capabilities;
use gpu_broker_device::soft::{self, SoftDevice};

use args::Args;
use config::Config;
pub use device::DeviceChoice;
use server::Server;
use socket::{Listener, SocketError};

/// Exit code for a command line or configuration that is wrong.
const EXIT_CONFIG: u8 = 2;

/// Runs the daemon until SIGTERM or SIGINT. Says on stderr or in the log what went wrong.
///
/// Exit codes: 0 after a signal (or a good `--check-config`), 2 when the configuration is wrong, 1
/// for everything else.
///
/// Must be called before the process has other threads: it gives up capabilities, which belong to
/// threads.
#[must_use]
pub fn main_with(args: Args) -> ExitCode {
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => return wrong_config(&error),
    };
    if let Err(error) = logging::start(&config.log_level) {
        return wrong_config(&error);
    }
    if args.check_config {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::warn!("gpu-brokerd cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong_config(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("gpu-brokerd: {error}");
    ExitCode::from(EXIT_CONFIG)
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    config.device.resolve()?;
    process::drop_privileges();
    process::raise_fd_limit();
    let listeners = listen(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let device = SoftDevice::start(soft::Config::default())?;
    let server = Arc::new(Server::new(config, device, Capabilities::kaby_lake_gt3()));
    let result = runtime.block_on(server.run(listeners));
    // Dropping the device would wait for batches, which may be endless; the process ends anyway.
    std::mem::forget(server);
    Ok(result?)
}

/// What systemd passed, or else the configured socket, or else the default one.
fn listen(config: &Config) -> Result<Vec<Listener>, SocketError> {
    let activated = socket::activated()?;
    if !activated.is_empty() {
        return Ok(activated);
    }
    let path = match &config.socket {
        Some(path) => path.clone(),
        None => socket::default_path(|name| std::env::var_os(name))?,
    };
    Ok(vec![Listener::bind(&path, config.socket_mode)?])
}
