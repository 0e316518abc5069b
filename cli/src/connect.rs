//! Connecting, with an answer for people when that fails.

use std::io::ErrorKind;
use std::path::PathBuf;

use gpu_broker_client::{Connection, Error};

use crate::output::Failure;

/// Connects to the daemon on `socket`, or on the default socket.
///
/// # Errors
/// What to do about it; exit code 3 when nobody listens.
pub(crate) fn connect(socket: Option<PathBuf>) -> Result<Connection, Failure> {
    let path = socket.unwrap_or_else(gpu_broker_client::default_socket_path);
    Connection::connect(&path, "gpu-broker").map_err(|error| explain(&path, &error))
}

fn explain(path: &std::path::Path, error: &Error) -> Failure {
    let path = path.display();
    let kind = if let Error::Connect { source, .. } = error { Some(source.kind()) } else { None };
    match kind {
        Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Failure::no_daemon(format!(
            "no daemon listens on {path}; start one with `gpu-broker daemon`, or name its socket \
             with --socket or GPU_BROKER_SOCKET"
        )),
        Some(ErrorKind::PermissionDenied) => Failure::new(format!(
            "you may not connect to {path}; ask for membership in the group that owns the socket"
        )),
        _ => Failure::new(format!("cannot talk to the daemon on {path}: {error}")),
    }
}
