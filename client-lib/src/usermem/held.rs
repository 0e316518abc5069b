//! Buffers that the CPU has for itself: no submission of this process may name them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gpu_broker_protocol::BufferId;
use gpu_broker_protocol::execbuf::ExecObject;

use crate::error::Error;

/// The handles that are held. Empty as a rule.
///
/// To hold a handle is to enter it, and then to let all EXECBUFs go by that looked before; the
/// clients have locks for that. An INVALIDATE sent then comes behind everything that could still
/// use the memory.
#[derive(Debug, Default)]
pub(crate) struct Held {
    handles: Mutex<Vec<BufferId>>,
}

impl Held {
    fn handles(&self) -> MutexGuard<'_, Vec<BufferId>> {
        // Nothing panics while the lock is held.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a handle for as long as what is returned lives.
    pub(crate) fn enter(&self, handle: BufferId) -> Hold<'_> {
        self.handles().push(handle);
        Hold { held: self, handle }
    }

    /// Refuses objects of which the CPU has one.
    ///
    /// # Errors
    /// [`Error::HeldByCpu`].
    pub(crate) fn check(&self, objects: &[ExecObject]) -> Result<(), Error> {
        let handles = self.handles();
        if handles.is_empty() {
            return Ok(());
        }
        match objects.iter().find(|object| handles.contains(&BufferId(object.handle))) {
            Some(object) => Err(Error::HeldByCpu { buffer: BufferId(object.handle) }),
            None => Ok(()),
        }
    }
}

/// A handle that no submission may name.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    held: &'a Held,
    handle: BufferId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut handles = self.held.handles();
        if let Some(position) = handles.iter().position(|handle| *handle == self.handle) {
            handles.swap_remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_refused_until_it_is_let_go() {
        let held = Held::default();
        let objects = [7, 9].map(|handle| ExecObject { handle, ..ExecObject::default() });
        held.check(&objects).expect("nothing is held");
        let (first, second) = (held.enter(BufferId(9)), held.enter(BufferId(9)));
        drop(first);
        let error = held.check(&objects).expect_err("one is held");
        assert!(matches!(error, Error::HeldByCpu { buffer: BufferId(9) }), "{error}");
        assert_eq!(error.errno(), 16);
        held.check(&objects[..1]).expect("not that one");
        drop(second);
        held.check(&objects).expect("nothing is held");
    }
}
