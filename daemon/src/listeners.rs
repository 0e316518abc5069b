//! The sockets that clients come in by, and what coming in by each says of a client.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::policy::DEFAULT;
use crate::socket::SocketFile;

/// The listener that `socket`, `--socket` or a socket unit without a name makes.
pub(crate) const MAIN: &str = "main";

/// The administrators' listener: in the configuration, or by that FileDescriptorName=.
pub(crate) const ADMIN: &str = "admin";

/// Listeners at once, those made at run time included.
pub(crate) const LISTENERS_MAX: usize = 512;

/// How a client came in. A sandbox engine that makes a listener for one sandbox vouches for what
/// connects to it, so what it says counts more than what is found in the process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Origin {
    /// Name of the listener.
    pub(crate) name: String,
    /// The class of everybody who comes in here; `None`: policy decides.
    pub(crate) class: Option<String>,
    /// The application of everybody who comes in here.
    pub(crate) app_id: Option<String>,
    /// Who comes in here may administer.
    pub(crate) admin: bool,
}

impl Origin {
    /// A listener that says nothing but its name, or the administrators'.
    pub(crate) fn named(name: &str) -> Self {
        let admin = name == ADMIN;
        // Policy is for clients: it must not keep out who is to mend it.
        let class = admin.then(|| DEFAULT.to_owned());
        Self { name: name.to_owned(), class, app_id: None, admin }
    }
}

/// What accepts connections now.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Debug)]
struct Running {
    task: AbortHandle,
    /// Removed with it.
    _file: Option<SocketFile>,
}

/// Why there is no such listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Taken {
    #[error("a listener of that name exists")]
    Name,
    #[error("there are as many listeners as there may be")]
    Full,
}

impl Listeners {
    /// Whether a listener of that name can be added.
    pub(crate) fn check(&self, name: &str) -> Result<(), Taken> {
        let running = self.running();
        if running.contains_key(name) {
            return Err(Taken::Name);
        }
        if running.len() >= LISTENERS_MAX { Err(Taken::Full) } else { Ok(()) }
    }

    pub(crate) fn add(&self, name: &str, task: AbortHandle, file: Option<SocketFile>) {
        let _ = self.running().insert(name.to_owned(), Running { task, _file: file });
    }

    /// Stops all of it.
    pub(crate) fn clear(&self) {
        let running = std::mem::take(&mut *self.running());
        running.values().for_each(|it| it.task.abort());
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
