//! The sockets that clients come in by, and what coming in by each says of a client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_broker_protocol::admin::ListenerStatus;
use gpu_broker_protocol::limits::LISTENERS_MADE_MAX;
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
    /// Tells two instances of the application apart.
    pub(crate) instance_id: Option<String>,
    /// Who comes in here may administer.
    pub(crate) admin: bool,
}

impl Origin {
    /// A listener that says nothing but its name, or the administrators'.
    pub(crate) fn named(name: &str) -> Self {
        let admin = name == ADMIN;
        // Policy is for clients: it must not keep out who is to mend it.
        let class = admin.then(|| DEFAULT.to_owned());
        Self { name: name.to_owned(), class, app_id: None, instance_id: None, admin }
    }
}

/// What accepts connections now.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) task: AbortHandle,
    /// Removed with it.
    pub(crate) _file: Option<SocketFile>,
    pub(crate) origin: Arc<Origin>,
    /// At run time, by an administrator.
    pub(crate) made: bool,
    /// Connections so far.
    pub(crate) accepted: Arc<AtomicU64>,
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

    /// The same for one made at run time.
    pub(crate) fn check_made(&self, name: &str) -> Result<(), Taken> {
        self.check(name)?;
        let made = self.running().values().filter(|it| it.made).count();
        if made >= LISTENERS_MADE_MAX { Err(Taken::Full) } else { Ok(()) }
    }

    pub(crate) fn add(&self, running: Running) {
        let name = running.origin.name.clone();
        let _ = self.running().insert(name, running);
    }

    /// Stops one. Sessions that came in by it go on.
    pub(crate) fn remove(&self, name: &str) {
        if let Some(running) = self.running().remove(name) {
            running.task.abort();
        }
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<ListenerStatus> {
        let status = |it: &Running| ListenerStatus {
            name: it.origin.name.clone(),
            made: it.made,
            class: it.origin.class.clone(),
            app_id: it.origin.app_id.clone(),
            instance_id: it.origin.instance_id.clone(),
            accepted: it.accepted.load(Ordering::Relaxed),
        };
        self.running().values().map(status).collect()
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
