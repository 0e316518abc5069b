//! What administrators may ask, by their own socket.

use gpu_broker_protocol::admin::{AdminDrain, AdminLimit, AdminRevoke, ClassStatus};
use gpu_broker_protocol::{Reply, SessionId};

use crate::connection::Connection;
use crate::error::Error;
use crate::proto::{Plain, answer};

impl Connection {
    /// Lets nobody new in, or lets them in again; how many connections are open. This and the
    /// three below are for connections to the administrators' socket.
    ///
    /// # Errors
    /// EACCES on any other.
    pub fn admin_drain(&self, on: bool) -> Result<u32, Error> {
        let reply = self.request(Plain::AdminDrain(AdminDrain { on }))?;
        answer!(reply, Reply::AdminDrain(drained) => drained.connections)
    }

    /// Takes a session away: its client gets an epitaph, its work ends at once.
    ///
    /// # Errors
    /// ENOENT for an unknown one; EACCES as for [`Self::admin_drain`].
    pub fn admin_revoke(&self, session: SessionId) -> Result<(), Error> {
        let reply = self.request(Plain::AdminRevoke(AdminRevoke { session }))?;
        answer!(reply, Reply::AdminRevoke => ())
    }

    /// Changes a limit of a class, until the configuration is read again; what it was. `None` is no
    /// limit.
    ///
    /// # Errors
    /// ENOENT for an unknown class or key; EACCES as for [`Self::admin_drain`].
    pub fn admin_limit(
        &self,
        class: &str,
        key: &str,
        value: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let limit = AdminLimit { class: class.to_owned(), key: key.to_owned(), value };
        let reply = self.request(Plain::AdminLimit(limit))?;
        answer!(reply, Reply::AdminLimit(limited) => limited.before)
    }

    /// Every class, what its sessions hold and may hold.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_classes(&self) -> Result<Vec<ClassStatus>, Error> {
        let reply = self.request(Plain::AdminClasses)?;
        answer!(reply, Reply::AdminClasses(list) => list.classes)
    }
}
