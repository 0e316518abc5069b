//! GPU address spaces.

use gpu_broker_protocol::message::VmDestroy;
use gpu_broker_protocol::{Reply, VmId};

use crate::connection::Connection;
use crate::error::Error;
use crate::proto::{Plain, answer};

/// A GPU address space that several contexts can share. Dropping it gives the handle up; contexts
/// that use the address space keep it.
#[derive(Debug)]
pub struct Vm {
    connection: Connection,
    id: VmId,
    open: bool,
}

impl Vm {
    pub(crate) const fn new(connection: Connection, id: VmId) -> Self {
        Self { connection, id, open: true }
    }

    /// Its id in this session.
    #[must_use]
    pub const fn id(&self) -> VmId {
        self.id
    }

    /// Gives the handle up, and says whether that worked.
    ///
    /// # Errors
    /// The connection's.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.open = false;
        self.request_destroy()
    }

    fn request_destroy(&self) -> Result<(), Error> {
        let request = VmDestroy { vm: self.id, flags: 0, extensions: Vec::new() };
        let reply = self.connection.request(Plain::VmDestroy(request))?;
        answer!(reply, Reply::VmDestroy => ())
    }
}

impl From<&Vm> for VmId {
    fn from(vm: &Vm) -> Self {
        vm.id
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.open {
            // Whoever wants to know calls `destroy`. A session that ended has no VMs left.
            let _ = self.request_destroy();
        }
    }
}
