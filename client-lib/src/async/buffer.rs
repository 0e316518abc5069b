//! Buffers on a tokio runtime.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gpu_broker_protocol::message::{BufferOf, Busy};
use gpu_broker_protocol::object::Tiling;
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::{BufferId, Reply};

use super::Connection;
use crate::buffer::{wait_request, waited};
use crate::calls;
use crate::error::Error;
use crate::map::Mapping;
use crate::proto::{Plain, answer};

/// Memory that the GPU and this process share; see [`crate::Buffer`].
#[derive(Debug)]
pub struct Buffer {
    connection: Connection,
    handle: BufferId,
    size: u64,
    mapping: tokio::sync::OnceCell<Mapping>,
    open: bool,
}

impl Buffer {
    pub(super) const fn new(connection: Connection, handle: BufferId, size: u64) -> Self {
        Self { connection, handle, size, mapping: tokio::sync::OnceCell::const_new(), open: true }
    }

    /// The session it belongs to.
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Its handle in this session.
    #[must_use]
    pub const fn handle(&self) -> BufferId {
        self.handle
    }

    /// Bytes, a multiple of 4096.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The buffer's memory in this process. Mapped the first time; later calls are free.
    ///
    /// # Errors
    /// As [`crate::Buffer::map`].
    pub async fn map(&self) -> Result<Mapping, Error> {
        let map = async || {
            let request = Plain::BufferMap(BufferOf { buffer: self.handle });
            let reply = self.connection.request(request).await?;
            let mapped = answer!(reply, Reply::BufferMap(mapped) => mapped)?;
            Mapping::new(&mapped.fd, mapped.offset, mapped.size)
        };
        self.mapping.get_or_try_init(map).await.cloned()
    }

    /// Which engines use the buffer now; 0 when it is idle.
    ///
    /// # Errors
    /// The connection's.
    pub async fn busy(&self) -> Result<Busy, Error> {
        let request = Plain::BufferBusy(BufferOf { buffer: self.handle });
        let reply = self.connection.request(request).await?;
        answer!(reply, Reply::BufferBusy(busy) => busy)
    }

    /// Waits until no submission uses the buffer; `None` waits for ever. Answers false when the
    /// time was over first.
    ///
    /// # Errors
    /// As [`crate::Buffer::wait`].
    pub async fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let request = Plain::BufferWait(wait_request(self.handle, timeout));
        waited(self.connection.request(request).await)
    }

    /// Waits until the CPU may access the buffer in these domains.
    ///
    /// # Errors
    /// As [`crate::Buffer::set_domain`].
    pub async fn set_domain(&self, read: u32, write: u32) -> Result<(), Error> {
        self.connection.call(calls::set_domain(self.handle, read, write)).await
    }

    /// Copies bytes out of the buffer once the GPU has written what it was told to (PREAD).
    ///
    /// # Errors
    /// As [`crate::Buffer::read`].
    pub async fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.connection.call(calls::access(self.handle, offset, into.len(), false)).await?;
        self.map().await?.read_at(offset, into)
    }

    /// Copies bytes into the buffer once the GPU no longer uses it (PWRITE).
    ///
    /// # Errors
    /// As [`crate::Buffer::read`].
    pub async fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.connection.call(calls::access(self.handle, offset, from.len(), true)).await?;
        self.map().await?.write_at(offset, from)
    }

    /// The caching mode.
    ///
    /// # Errors
    /// The connection's.
    pub async fn caching(&self) -> Result<u32, Error> {
        self.connection.call(calls::get_caching(self.handle)).await
    }

    /// Sets the caching mode.
    ///
    /// # Errors
    /// As [`crate::Buffer::set_caching`].
    pub async fn set_caching(&self, caching: u32) -> Result<(), Error> {
        self.connection.call(calls::set_caching(self.handle, caching)).await
    }

    /// The tiling mode.
    ///
    /// # Errors
    /// The connection's.
    pub async fn tiling(&self) -> Result<Tiling, Error> {
        self.connection.call(calls::get_tiling(self.handle)).await
    }

    /// Sets the tiling mode, and gives what is in force then.
    ///
    /// # Errors
    /// As [`crate::Buffer::set_tiling`].
    pub async fn set_tiling(&self, mode: u32, stride: u32) -> Result<Tiling, Error> {
        self.connection.call(calls::set_tiling(self.handle, mode, stride)).await
    }

    /// Says whether the memory is needed; answers whether it is still there.
    ///
    /// # Errors
    /// As [`crate::Buffer::madvise`].
    pub async fn madvise(&self, advice: u32) -> Result<bool, Error> {
        self.connection.call(calls::madvise(self.handle, advice)).await
    }

    /// An fd that stands for the buffer: for [`Connection::import_buffer`] of any session, or to
    /// be mapped by anybody.
    ///
    /// # Errors
    /// As [`crate::Buffer::export`].
    pub async fn export(&self) -> Result<OwnedFd, Error> {
        // Before the fd exists, so that nobody can import what does not count as shared yet.
        self.connection.shares().lock().await.export(self.handle);
        self.connection.call(calls::export_buffer(self.handle)).await
    }

    /// Closes the handle, and says whether that worked; see [`crate::Buffer::close`].
    ///
    /// # Errors
    /// The connection's.
    pub async fn close(mut self) -> Result<(), Error> {
        self.open = false;
        release(&self.connection, self.handle).await
    }
}

/// Lets go of a handle, and closes it if nobody else has it.
async fn release(connection: &Connection, buffer: BufferId) -> Result<(), Error> {
    let mut shares = connection.shares().lock().await;
    let shared = shares.contains(buffer);
    if shared && !shares.release(buffer) {
        return Ok(());
    }
    // For a shared one the lock is held until the answer is here: an import in between would be
    // given the handle that is about to go.
    let held = shared.then_some(shares);
    let reply = connection.request(Plain::BufferClose(BufferOf { buffer })).await?;
    drop(held);
    answer!(reply, Reply::BufferClose => ())
}

impl From<&Buffer> for BufferId {
    fn from(buffer: &Buffer) -> Self {
        buffer.handle
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (connection, handle) = (self.connection.clone(), self.handle);
            runtime.spawn(async move { release(&connection, handle).await });
        }
    }
}

impl Connection {
    /// Makes a buffer of zeroed memory; `size` in bytes, rounded up to pages of 4096.
    ///
    /// # Errors
    /// As [`crate::Connection::create_buffer`].
    pub async fn create_buffer(&self, size: u64) -> Result<Buffer, Error> {
        let made = self.call(calls::create_buffer(size, None)).await?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }

    /// Makes a buffer in one of these memory regions.
    ///
    /// # Errors
    /// As [`crate::Connection::create_buffer_in`].
    pub async fn create_buffer_in(&self, size: u64, regions: &[EngineId]) -> Result<Buffer, Error> {
        let made = self.call(calls::create_buffer(size, Some(regions))).await?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }

    /// The buffer behind an fd from [`Buffer::export`].
    ///
    /// # Errors
    /// As [`crate::Connection::import_buffer`].
    pub async fn import_buffer(&self, fd: impl AsFd) -> Result<Buffer, Error> {
        let mut shares = self.shares().lock().await;
        let made = self.call(calls::import_buffer(fd.as_fd())).await?;
        shares.import(made.buffer);
        drop(shares);
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }
}
