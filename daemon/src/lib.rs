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

mod admin;
pub mod args;
mod audit;
mod classes;
mod clock;
pub mod config;
pub mod confine;
mod connection;
mod deferred;
mod device;
mod directory;
pub mod engine_config;
mod events;
mod fds;
mod fences;
mod hands;
mod hangs;
mod hello;
mod histogram;
mod identity;
mod lane;
mod limiter;
mod listeners;
mod lists;
mod logging;
mod metrics;
mod outbox;
mod packet;
pub mod policy;
mod process;
mod rate;
mod requests;
mod server;
mod shared_status;
mod sharing;
pub mod socket;
mod status;
mod systemd;
mod throttle;
mod trace;
mod userptr;
mod wait;
mod waits;

use std::process::ExitCode;
use std::sync::Arc;

use gpu_broker_device::Device;
use gpu_broker_device::soft::SoftDevice;

use args::Args;
use config::{Config, ListenerConfig};
use confine::{Confinement, Role};
pub use device::DeviceChoice;
use listeners::{ADMIN, MAIN};
use metrics::Bound;
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
    match run(config, &args) {
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

/// Threads for calls that may wait in the kernel, beside one for each session.
const SPARE_THREADS: usize = 16;

fn run(config: Config, args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    process::drop_privileges();
    process::raise_fd_limit();
    gpu_broker_device::soft::return_large_blocks();
    let doors = Doors::open(&config)?;
    let mut confinement = Confinement::begin(&config, args, doors.directories());
    match config.device.open()? {
        Some(device) => serve(config, args, device, doors, (confinement, Role::I915)),
        None => {
            confinement.narrow(&config, args, doors.directories());
            let device = SoftDevice::start(config.engines.for_soft())?;
            serve(config, args, device, doors, (confinement, Role::Soft))
        }
    }
}

/// Every socket that others come in by.
pub(crate) struct Doors {
    listeners: Vec<Listener>,
    metrics: Option<Bound>,
}

impl Doors {
    fn open(config: &Config) -> Result<Self, Box<dyn std::error::Error>> {
        let listeners = listen(config)?;
        let metrics = config.metrics.as_ref().map(Bound::open).transpose();
        let metrics = metrics.map_err(|error| format!("metrics: {error}"))?;
        Ok(Self { listeners, metrics })
    }

    /// Where files of theirs will be removed from.
    fn directories(&self) -> impl Iterator<Item = &std::path::Path> {
        let metrics = self.metrics.iter().filter_map(Bound::directory);
        self.listeners.iter().filter_map(Listener::directory).chain(metrics)
    }
}

fn serve<D: Device>(
    config: Config,
    args: &Args,
    device: D,
    doors: Doors,
    (mut confinement, role): (Confinement, Role),
) -> Result<(), Box<dyn std::error::Error>> {
    let description = device.description();
    device::warn_of_privileges(&description, &config.policy);
    // Identities are looked up, which comes in crowds; and of a device whose calls may wait a
    // session has at most two calls in the kernel, a request's and what follows a wait, so that none
    // waits for another's to return.
    let calls = if D::MAY_BLOCK {
        2 * config.daemon.sessions as usize + SPARE_THREADS
    } else {
        lists::LONG_AT_ONCE
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(identity::LOOKUPS_MAX.saturating_add(calls))
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()?;
    let server = Arc::new(Server::new(config, device, device::capabilities(&description)));
    let confine = || {
        confinement.complete(role);
        confinement
    };
    let result = runtime.block_on(server.run(doors, args, confine));
    // A look-up or a call in the kernel that hangs is not waited for.
    runtime.shutdown_background();
    // Dropping the device would wait for batches, which may be endless; the process ends anyway.
    std::mem::forget(server);
    Ok(result?)
}

/// What systemd passed, or else the configured socket, or else the default one; and the configured
/// listeners beside it.
fn listen(config: &Config) -> Result<Vec<Listener>, SocketError> {
    let mut listeners = socket::activated()?;
    if listeners.is_empty() {
        let path = match &config.socket {
            Some(path) => path.clone(),
            None => socket::default_path(|name| std::env::var_os(name))?,
        };
        listeners.push(Listener::bind(MAIN, &path, config.socket_mode)?);
    }
    for ListenerConfig { name, socket, mode } in &config.listeners {
        if !listeners.iter().any(|passed| passed.name == *name) {
            listeners.push(Listener::bind(name, socket, *mode)?);
        }
    }
    if let Some(path) = admin_socket(config)
        && !listeners.iter().any(|passed| passed.name == ADMIN)
    {
        listeners.push(Listener::bind(ADMIN, &path, config.admin.mode)?);
    }
    Ok(listeners)
}

/// Where administrators are listened to, if they are.
fn admin_socket(config: &Config) -> Option<std::path::PathBuf> {
    let default = || socket::in_runtime_directory(|name| std::env::var_os(name), "admin.sock");
    config.admin.socket.clone().or_else(default)
}
