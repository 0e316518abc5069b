//! The sockets of the configuration: listeners, the administrators' one, and metrics.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, DEFAULT_SOCKET_MODE, NAME_RULE, is_name, value};
use crate::listeners::{ADMIN, MAIN};

/// Listeners of one file.
const LISTENERS_MAX: usize = 64;
/// Only its owner.
const ADMIN_MODE: u32 = 0o600;

/// A socket to listen on, beside the main one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerConfig {
    /// What policy calls it.
    pub name: String,
    /// Where.
    pub socket: PathBuf,
    /// Permission bits.
    pub mode: u32,
}

/// The administrators' socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminConfig {
    /// Where; `None` is `$RUNTIME_DIRECTORY/admin.sock`, or nowhere without that variable.
    pub socket: Option<PathBuf>,
    /// Permission bits.
    pub mode: u32,
    /// Who may use it, beside root and the daemon's user.
    pub uids: Vec<u32>,
    /// Members of which groups may use it.
    pub gids: Vec<u32>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { socket: None, mode: ADMIN_MODE, uids: Vec::new(), gids: Vec::new() }
    }
}

/// Where metrics are served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsAddress {
    /// A Unix socket; its permissions say who may read them.
    Unix {
        /// Where.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A loopback address: every local user may read them.
    Loopback(SocketAddr),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerFile {
    name: String,
    socket: PathBuf,
    socket_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminFile {
    socket: Option<PathBuf>,
    socket_mode: Option<String>,
    uids: Vec<u32>,
    gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MetricsFile {
    listen: Option<String>,
    socket_mode: Option<String>,
}

/// Permission bits.
pub(super) fn mode(key: &str, text: Option<&str>) -> Result<u32, ConfigError> {
    let Some(text) = text else { return Ok(DEFAULT_SOCKET_MODE) };
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| value(key, "be octal permission bits such as \"0660\"", &text))
}

pub(super) fn listeners(files: Vec<ListenerFile>) -> Result<Vec<ListenerConfig>, ConfigError> {
    if files.len() > LISTENERS_MAX {
        return Err(value("listener", &format!("be at most {LISTENERS_MAX}"), &files.len()));
    }
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    for ListenerFile { name, socket, socket_mode } in files {
        if !is_name(&name) {
            return Err(value("listener.name", NAME_RULE, &name));
        }
        let ours = [MAIN, ADMIN].contains(&&*name);
        if ours || listeners.iter().any(|other| other.name == name) {
            return Err(value(
                "listener.name",
                "be different for each, and not \"main\" or \"admin\"",
                &name,
            ));
        }
        let mode = mode("listener.socket_mode", socket_mode.as_deref())?;
        listeners.push(ListenerConfig { name, socket, mode });
    }
    Ok(listeners)
}

impl AdminFile {
    pub(super) fn checked(self) -> Result<AdminConfig, ConfigError> {
        let Self { socket, socket_mode, uids, gids } = self;
        let mode = match socket_mode {
            None => ADMIN_MODE,
            Some(text) => mode("admin.socket_mode", Some(&text))?,
        };
        Ok(AdminConfig { socket, mode, uids, gids })
    }
}

impl MetricsFile {
    pub(super) fn checked(self) -> Result<Option<MetricsAddress>, ConfigError> {
        let Some(listen) = self.listen else { return Ok(None) };
        let mode = mode("metrics.socket_mode", self.socket_mode.as_deref())?;
        if listen.starts_with('/') {
            return Ok(Some(MetricsAddress::Unix { path: listen.into(), mode }));
        }
        let address: Option<SocketAddr> = listen.parse().ok();
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => Ok(Some(MetricsAddress::Loopback(address))),
            None => {
                let must = "be a path, or a loopback address such as \"127.0.0.1:9469\"";
                Err(value("metrics.listen", must, &listen))
            }
        }
    }
}
