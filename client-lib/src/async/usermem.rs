//! Memory of this process as a buffer, on a tokio runtime.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use gpu_broker_protocol::BufferId;
use gpu_broker_protocol::userptr::UserptrInvalidate;

use super::{Buffer, Connection};
use crate::calls;
use crate::error::Error;
use crate::map::SharedBytes;
use crate::usermem::UserMemory;
use crate::usermem::share::{CpuAccess, GpuAccess, Kept, Shareable, sealed::INSIDE};

/// Memory of this process as a buffer of a session; see [`crate::UserBuffer`].
///
/// Dropping it waits for nothing: the memory is gone, or the program's own again, at once, and work
/// in flight goes on with the old pages. [`Self::unregister`] waits.
#[derive(Debug)]
pub struct UserBuffer<M: Shareable = UserMemory> {
    buffer: Buffer,
    memory: M,
}

impl<M: Shareable> UserBuffer<M> {
    /// Gives memory to the GPU.
    ///
    /// # Errors
    /// As [`UserMemory::register`](crate::UserMemory::register).
    pub async fn register(
        memory: M,
        connection: &Connection,
        access: GpuAccess,
    ) -> Result<Self, Box<Kept<M>>> {
        let register = async {
            let flags = access.check(&memory)?;
            let size = memory.shared(INSIDE).size();
            connection.share_memfd(memory.fd(INSIDE), 0, size, flags).await
        };
        match register.await {
            Ok(buffer) => Ok(Self { buffer, memory }),
            Err(error) => Err(Kept::new(error, memory)),
        }
    }

    /// The buffer, to look at its state and to wait for it.
    #[must_use]
    pub const fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its handle in the session.
    #[must_use]
    pub const fn handle(&self) -> BufferId {
        self.buffer.handle()
    }

    /// Bytes, a multiple of 4096.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.memory.shared(INSIDE).size()
    }

    /// The memory, for access through atomics at any time.
    #[must_use]
    pub fn shared(&self) -> &SharedBytes {
        self.memory.shared(INSIDE)
    }

    /// Waits until the GPU no longer uses the memory, and keeps it from doing so until the result
    /// is dropped.
    ///
    /// # Errors
    /// As [`crate::UserBuffer::cpu`].
    pub async fn cpu(&mut self, timeout: Option<Duration>) -> Result<CpuAccess<'_, M>, Error> {
        let (connection, handle) = (self.buffer.connection(), self.buffer.handle());
        let hold = connection.hold(handle).await;
        let acknowledged = connection.call(calls::invalidate_all(handle, timeout)).await?;
        Ok(CpuAccess::new(&mut self.memory, hold, acknowledged))
    }

    /// Waits until the GPU no longer uses the memory, and closes the buffer. Dropping the future
    /// drops the memory.
    ///
    /// # Errors
    /// As [`crate::UserBuffer::unregister`].
    pub async fn unregister(self, timeout: Option<Duration>) -> Result<M, Box<Kept<Self>>> {
        let connection = self.buffer.connection().clone();
        let hold = connection.hold(self.handle()).await;
        let invalidate = calls::invalidate_all(self.handle(), timeout);
        if let Err(error) = connection.call(invalidate).await {
            return Err(Kept::new(error, self));
        }
        let Self { buffer, memory } = self;
        // Closed while it is held: no submission can slip in between. A session that ended has no
        // buffers left.
        let _ = buffer.close().await;
        drop(hold);
        Ok(memory)
    }

    /// Takes the memory back at once, as a copy of what it is now; see
    /// [`crate::UserBuffer::detach`].
    ///
    /// # Errors
    /// With the buffer: ENOMEM.
    pub fn detach(mut self) -> Result<M, Box<Kept<Self>>> {
        match self.memory.detach(INSIDE) {
            Ok(()) => Ok(self.memory),
            Err(errno) => {
                Err(Kept::new(Error::io("copying memory from the GPU's pages", errno), self))
            }
        }
    }
}

impl<M: Shareable> From<&UserBuffer<M>> for BufferId {
    fn from(buffer: &UserBuffer<M>) -> Self {
        buffer.handle()
    }
}

impl Buffer {
    /// Says that bytes of the application's memory behind the buffer are about to become others,
    /// and waits until no work of the session uses them.
    ///
    /// # Errors
    /// As [`crate::Buffer::invalidate`].
    pub async fn invalidate(
        &self,
        offset: u64,
        length: u64,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let (buffer, timeout_ns) = (self.handle(), calls::timeout_ns(timeout));
        let request = UserptrInvalidate { buffer, offset, length, timeout_ns };
        self.connection().call(calls::invalidate(request)).await.map(drop)
    }
}

impl Connection {
    /// Makes a buffer of a range of a sealed memfd.
    ///
    /// # Errors
    /// As [`crate::Connection::share_memfd`].
    pub async fn share_memfd(
        &self,
        memfd: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> Result<Buffer, Error> {
        let request = calls::create_userptr(self.hello(), memfd, offset, length, flags)?;
        let made = self.call(request).await?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }
}
