//! Who sessions belong to.

use gpu_broker_protocol::identity::{IdentityQuery, SessionIdentity};
use gpu_broker_protocol::{Reply, SessionId};

use crate::connection::Connection;
use crate::error::Error;
use crate::proto::{Plain, answer};

impl Connection {
    /// Who a session belongs to: one that [`Self::status`] lists, or with number 0 this one.
    ///
    /// # Errors
    /// ENOENT for an unknown one, or one of another user's.
    pub fn identity(&self, session: SessionId) -> Result<SessionIdentity, Error> {
        let reply = self.request(Plain::Identity(IdentityQuery { session }))?;
        answer!(reply, Reply::Identity(identity) => identity)
    }
}
