//! Locks and the table of live contexts, so that the lookup dance can be run by the model checker:
//! with `--cfg loom` loom's take the place of the real ones.

use gpu_broker_protocol::{ContextId, SessionId};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, MutexGuard};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

/// A mutex that a panic elsewhere does not poison: what it guards is changed in one step at the end
/// of an operation, never left halfway by something that can panic.
#[derive(Debug)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `None` while somebody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// Names a context across sessions.
pub(crate) type ContextKey = (SessionId, ContextId);

/// Live contexts of all sessions. A reader takes no lock that a writer of another context could
/// hold for long, and never one that is held while a device is asked for something.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct LiveTable<L>(dashmap::DashMap<ContextKey, Arc<L>, crate::hash::BuildIdHasher>);

#[cfg(not(loom))]
impl<L> LiveTable<L> {
    pub(crate) fn new() -> Self {
        Self(dashmap::DashMap::default())
    }

    pub(crate) fn get(&self, key: ContextKey) -> Option<Arc<L>> {
        self.0.get(&key).map(|live| Arc::clone(live.value()))
    }

    pub(crate) fn insert(&self, key: ContextKey, live: Arc<L>) -> Option<Arc<L>> {
        self.0.insert(key, live)
    }

    pub(crate) fn remove(&self, key: ContextKey) -> Option<Arc<L>> {
        self.0.remove(&key).map(|(_, live)| live)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The same under loom, which cannot see inside a `DashMap`: one shard.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct LiveTable<L>(loom::sync::RwLock<std::collections::HashMap<ContextKey, Arc<L>>>);

#[cfg(loom)]
impl<L> LiveTable<L> {
    pub(crate) fn new() -> Self {
        Self(loom::sync::RwLock::new(std::collections::HashMap::new()))
    }

    pub(crate) fn get(&self, key: ContextKey) -> Option<Arc<L>> {
        self.0.read().unwrap().get(&key).cloned()
    }

    pub(crate) fn insert(&self, key: ContextKey, live: Arc<L>) -> Option<Arc<L>> {
        self.0.write().unwrap().insert(key, live)
    }

    pub(crate) fn remove(&self, key: ContextKey) -> Option<Arc<L>> {
        self.0.write().unwrap().remove(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap().len()
    }
}
