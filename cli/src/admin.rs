//! `gpu-broker admin`: what only administrators may do, by their own socket.

mod events;
mod listen;
mod sessions;

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};
use gpu_broker_client::Connection;
use gpu_broker_client::protocol::SessionId;
use gpu_broker_client::protocol::admin::ClassStatus;
use serde_json::json;

use crate::args::JsonFlag;
use crate::connect::connect;
use crate::output::{Failure, Out, Table};

pub(crate) use sessions::all as sessions;

/// Where the socket unit puts the administrators' socket.
pub(crate) const DEFAULT_SOCKET: &str = "/run/gpu-broker/admin.sock";

/// Look at all sessions and what happens to them, take them away, change limits
#[derive(Debug, clap::Args)]
#[command(after_help = crate::args::EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: SocketArg,

    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    json: JsonFlag,
}

/// `--admin-socket`, the same for every command of administrators.
#[derive(Debug, clap::Args)]
pub(crate) struct SocketArg {
    /// The administrators' socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "GPU_BROKER_ADMIN_SOCKET",
        default_value = DEFAULT_SOCKET,
        value_hint = ValueHint::FilePath
    )]
    admin_socket: PathBuf,
}

impl SocketArg {
    pub(crate) fn path(&self) -> PathBuf {
        self.admin_socket.clone()
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all sessions, whoever they belong to
    List,
    /// Show everything about a session
    Inspect {
        /// Its number, as `list` has it
        session: u64,
    },
    /// Print what happens, until interrupted: sessions, refusals, hangs, what administrators do
    Events(events::Args),
    /// Make a socket for one sandbox, and say who comes in by it; it goes when this command ends
    Listen(listen::Args),
    /// List the sockets that clients come in by
    Listeners,
    /// List the classes: what their sessions hold and may hold
    Classes,
    /// Let nobody new in; sessions that are open go on
    Drain,
    /// Let clients in again
    Resume,
    /// Take a session away: its client gets an epitaph, its work ends at once
    Revoke {
        /// Its number, as `gpu-broker status` lists it
        session: u64,
    },
    /// Change a limit of a class, until the configuration is read again
    Limit {
        /// The class
        class: String,
        /// The key below `limits` in the configuration
        key: String,
        /// The new limit, or "none"
        value: String,
    },
}

/// Does it.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let connection = connect(Some(args.socket.path()))?;
    let json = args.json.json;
    let refused = |error: gpu_broker_client::Error| Failure::new(error.to_string());
    match args.action {
        Action::List => sessions::list(&connection, json),
        Action::Inspect { session } => sessions::inspect(&connection, SessionId(session), json),
        Action::Events(events) => events::run(&connection, &events, json),
        Action::Listen(listen) => listen::run(&connection, listen, json),
        Action::Listeners => listen::list(&connection, json),
        Action::Classes => {
            let classes = connection.admin_classes().map_err(refused)?;
            if json { Out::new().json(&classes) } else { Out::new().line(table(&classes)) }
        }
        Action::Drain => drain(&connection, true, json),
        Action::Resume => drain(&connection, false, json),
        Action::Revoke { session } => {
            connection.admin_revoke(SessionId(session)).map_err(refused)?;
            say(json, &json!({ "revoked": session }), format!("session {session} is taken away"))
        }
        Action::Limit { class, key, value } => {
            let new = match &*value {
                "none" => None,
                number => Some(number.parse().map_err(|_| {
                    Failure::new(format!("\"{number}\" is neither a number nor \"none\""))
                })?),
            };
            let before = connection.admin_limit(&class, &key, new).map_err(refused)?;
            let was = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
            let text = format!("limits.{key} of class \"{class}\" is {value}; it was {was}");
            say(json, &json!({ "class": class, "key": key, "before": before, "now": new }), text)
        }
    }
}

fn say(json: bool, value: &serde_json::Value, text: String) -> Result<(), Failure> {
    if json { Out::new().json(value) } else { Out::new().line(text) }
}

fn drain(connection: &Connection, on: bool, json: bool) -> Result<(), Failure> {
    let left = connection.admin_drain(on).map_err(|error| Failure::new(error.to_string()))?;
    let text = match on {
        true => format!("nobody new is let in; {left} connections are open, this one included"),
        false => "clients are let in again".to_owned(),
    };
    say(json, &json!({ "draining": on, "connections": left }), text)
}

fn table(classes: &[ClassStatus]) -> String {
    let mut table = Table::new(&["class", "key", ">held", ">limit"]);
    for class in classes {
        for limit in &class.limits {
            let most = limit.most.map_or_else(|| "none".to_owned(), |most| most.to_string());
            table.row([class.name.clone(), limit.key.clone(), limit.held.to_string(), most]);
        }
    }
    table.render(0)
}
