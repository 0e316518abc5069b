//! What administrators may ask, by their own socket.

use std::os::fd::OwnedFd;

use gpu_broker_protocol::admin::{
    AdminDrain, AdminEvents, AdminInspect, AdminInspection, AdminLimit, AdminList, AdminListQuery,
    AdminListen, AdminRevoke, AdminTrace, AdminTracePage, AdminTraceRead, AdminTracing,
    ClassStatus, ListenerStatus,
};
use gpu_broker_protocol::{Reply, Request, SessionId};

use crate::connection::Connection;
use crate::error::Error;
use crate::proto::{Plain, answer};

impl Connection {
    /// Lets nobody new in, or lets them in again; how many connections are open. This and the
    /// others below are for connections to the administrators' socket.
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

    /// Sessions with a number above `after`, whoever they belong to: one page.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_sessions(&self, after: SessionId) -> Result<AdminList, Error> {
        let reply = self.request(Plain::AdminList(AdminListQuery { after }))?;
        answer!(reply, Reply::AdminList(list) => list)
    }

    /// Everything about a session.
    ///
    /// # Errors
    /// ENOENT for an unknown one; EACCES as for [`Self::admin_drain`].
    pub fn admin_inspect(&self, session: SessionId) -> Result<AdminInspection, Error> {
        let reply = self.request(Plain::AdminInspect(AdminInspect { session }))?;
        answer!(reply, Reply::AdminInspect(inspection) => *inspection)
    }

    /// Asks for events of these kinds (bits of [`gpu_broker_protocol::admin::kind`]), in place of
    /// those asked for before; [`Self::admin_next_event`] gives them.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_events(&self, kinds: u64) -> Result<(), Error> {
        let reply = self.request(Plain::AdminEvents(AdminEvents { kinds }))?;
        answer!(reply, Reply::AdminEvents => ())
    }

    /// Has the daemon serve one more socket; see [`AdminListen`].
    ///
    /// # Errors
    /// EINVAL for a name, text or fd that will not do; ENOENT for an unknown class; EEXIST for a name
    /// that is taken; ENOMEM if there are as many as there may be; EACCES as for
    /// [`Self::admin_drain`].
    pub fn admin_listen(&self, listen: AdminListen<OwnedFd>) -> Result<(), Error> {
        let reply = self.request(Request::AdminListen(listen))?;
        answer!(reply, Reply::AdminListen => ())
    }

    /// Every listener.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_listeners(&self) -> Result<Vec<ListenerStatus>, Error> {
        let reply = self.request(Plain::AdminListeners)?;
        answer!(reply, Reply::AdminListeners(list) => list.listeners)
    }

    /// Has the daemon record what the engines do, or stop, for as long as this connection is there.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_trace(&self, on: bool) -> Result<AdminTracing, Error> {
        let reply = self.request(Plain::AdminTrace(AdminTrace { on }))?;
        answer!(reply, Reply::AdminTrace(tracing) => tracing)
    }

    /// Records from a number on: one page.
    ///
    /// # Errors
    /// EACCES as for [`Self::admin_drain`].
    pub fn admin_trace_read(&self, from: u64) -> Result<AdminTracePage, Error> {
        let reply = self.request(Plain::AdminTraceRead(AdminTraceRead { from }))?;
        answer!(reply, Reply::AdminTraceRead(page) => page)
    }
}
