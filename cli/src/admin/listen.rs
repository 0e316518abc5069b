//! `gpu-broker admin listen` and `listeners`.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::ValueHint;
use gpu_broker_client::Connection;
use gpu_broker_client::protocol::admin::AdminListen;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;

use crate::output::{Failure, Out, Table, harmless};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Arguments of `gpu-broker admin listen`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to make the socket
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    path: PathBuf,

    /// The listener's name, for policy and status
    #[arg(long)]
    name: String,

    /// The class of everybody who connects; otherwise policy decides
    #[arg(long)]
    class: Option<String>,

    /// The application in the sandbox
    #[arg(long)]
    app_id: Option<String>,

    /// Tells this sandbox from another of the same application
    #[arg(long)]
    instance_id: Option<String>,
}

/// The socket's file, removed with the command.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Already gone, or not ours to remove any more.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the socket, hands it over, and waits for Ctrl-C or for the end of the daemon.
pub(super) fn run(connection: &Connection, args: Args, json: bool) -> Result<(), Failure> {
    let Args { path, name, class, app_id, instance_id } = args;
    let socket = bind(&path)?;
    let _file = File(path.clone());
    let failed = |doing: &str, error: std::io::Error| Failure::new(format!("{doing}: {error}"));
    let (mut ours, theirs) =
        UnixStream::pair().map_err(|error| failed("cannot make a socket pair", error))?;
    let close = theirs.into();
    let listen = AdminListen { socket, close, name: name.clone(), class, app_id, instance_id };
    connection.admin_listen(listen).map_err(|error| Failure::new(error.to_string()))?;
    let place = path.display().to_string();
    if json {
        Out::new().json(&json!({ "listener": name, "socket": place }))?;
    } else {
        Out::new().line(format!("{place} is served as \"{name}\" until this command ends"))?;
    }
    let interrupted = ours.try_clone().map_err(|error| failed("cannot wait", error))?;
    ctrlc::set_handler(move || {
        // The read below ends.
        let _ = interrupted.shutdown(std::net::Shutdown::Both);
    })
    .map_err(|error| Failure::new(format!("cannot wait for Ctrl-C: {error}")))?;
    // Ends with Ctrl-C, or when the daemon lets go of its end.
    let _ = ours.read(&mut [0]);
    Ok(())
}

fn bind(path: &std::path::Path) -> Result<OwnedFd, Failure> {
    let failed =
        |errno: rustix::io::Errno| Failure::new(format!("cannot make {}: {errno}", path.display()));
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
    Ok(socket)
}

pub(super) fn list(connection: &Connection, json: bool) -> Result<(), Failure> {
    let listeners = connection.admin_listeners();
    let listeners = listeners.map_err(|error| Failure::new(error.to_string()))?;
    if json {
        return Out::new().json(&listeners);
    }
    let mut table =
        Table::new(&["listener", "made", "class", "application", "instance", ">accepted"]);
    for listener in listeners {
        let said = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |it| harmless(&it));
        table.row([
            listener.name,
            if listener.made { "at run time" } else { "at start" }.to_owned(),
            said(listener.class),
            said(listener.app_id),
            said(listener.instance_id),
            listener.accepted.to_string(),
        ]);
    }
    Out::new().line(table.render(0))
}
