//! Buffers: memory that the GPU and this process share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gpu_broker_protocol::message::{BufferOf, BufferWait, Busy};
use gpu_broker_protocol::object::Tiling;
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::userptr::UserptrInvalidate;
use gpu_broker_protocol::{BufferId, Reply};

use crate::calls::{self, in_time};
use crate::connection::Connection;
use crate::error::Error;
use crate::map::Mapping;
use crate::proto::{Plain, answer};
use crate::usermem::share::Acknowledged;

/// Memory that the GPU and this process share. Dropping it closes the handle; work in flight keeps
/// the memory.
#[derive(Debug)]
pub struct Buffer {
    connection: Connection,
    handle: BufferId,
    size: u64,
    mapping: Mutex<Option<Mapping>>,
    open: bool,
}

impl Buffer {
    pub(crate) const fn new(connection: Connection, handle: BufferId, size: u64) -> Self {
        Self { connection, handle, size, mapping: Mutex::new(None), open: true }
    }

    /// The session it belongs to.
    pub(crate) const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// For a buffer that is memory of an application ([`Connection::share_memfd`]): says that
    /// bytes of the memfd are about to become others or to be used for something else, before they
    /// are unmapped or punched out, and waits until no work of the session uses them. Work submitted
    /// later uses what is there then. `None`, and more than a minute, is a minute.
    ///
    /// # Errors
    /// As [`UserBuffer::cpu`](crate::UserBuffer::cpu), and EINVAL for another kind of buffer.
    pub fn invalidate(
        &self,
        offset: u64,
        length: u64,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let timeout_ns = calls::timeout_ns(timeout);
        let buffer = self.handle;
        let request = UserptrInvalidate { buffer, offset, length, timeout_ns };
        self.connection.call(calls::invalidate(request)).map(drop)
    }

    /// The same for all of it.
    pub(crate) fn invalidate_all(&self, timeout: Option<Duration>) -> Result<Acknowledged, Error> {
        self.connection.call(calls::invalidate_all(self.handle, timeout))
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
    /// [`Error::Io`] when the kernel cannot map it, with EPROTO when there is less memory than the
    /// daemon said; refused with `daemon-fds` (EMFILE); the connection's.
    pub fn map(&self) -> Result<Mapping, Error> {
        let mut cached = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapping) = &*cached {
            return Ok(mapping.clone());
        }
        let request = Plain::BufferMap(BufferOf { buffer: self.handle });
        let reply = self.connection.request(request)?;
        let mapped = answer!(reply, Reply::BufferMap(mapped) => mapped)?;
        let mapping = Mapping::new(&mapped.fd, mapped.offset, mapped.size)?;
        Ok(cached.insert(mapping).clone())
    }

    /// Which engines use the buffer now, in i915's encoding; 0 when it is idle.
    ///
    /// # Errors
    /// The connection's.
    pub fn busy(&self) -> Result<Busy, Error> {
        let request = Plain::BufferBusy(BufferOf { buffer: self.handle });
        let reply = self.connection.request(request)?;
        answer!(reply, Reply::BufferBusy(busy) => busy)
    }

    /// Waits until no submission uses the buffer; `None` waits for ever. Answers false when the
    /// time was over first.
    ///
    /// # Errors
    /// Refused with `wait-limit` (EAGAIN); the connection's.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let request = wait_request(self.handle, timeout);
        waited(self.connection.request(Plain::BufferWait(request)))
    }

    /// Waits until the CPU may access the buffer in these domains, bits of
    /// [`domain`](gpu_broker_protocol::object::domain); `write` is 0 or equal to `read`.
    ///
    /// # Errors
    /// EINVAL for domains of the GPU, or when `write` is another than `read`; refused with
    /// `wait-limit` (EAGAIN).
    pub fn set_domain(&self, read: u32, write: u32) -> Result<(), Error> {
        self.connection.call(calls::set_domain(self.handle, read, write))
    }

    /// Copies bytes out of the buffer once the GPU has written what it was told to (PREAD).
    ///
    /// # Errors
    /// EINVAL for bytes outside of the buffer; refused with `wait-limit` (EAGAIN); as
    /// [`Self::map`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.connection.call(calls::access(self.handle, offset, into.len(), false))?;
        self.map()?.read_at(offset, into)
    }

    /// Copies bytes into the buffer once the GPU no longer uses it (PWRITE).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.connection.call(calls::access(self.handle, offset, from.len(), true))?;
        self.map()?.write_at(offset, from)
    }

    /// The caching mode, one of [`caching`](gpu_broker_protocol::object::caching).
    ///
    /// # Errors
    /// The connection's.
    pub fn caching(&self) -> Result<u32, Error> {
        self.connection.call(calls::get_caching(self.handle))
    }

    /// Sets the caching mode.
    ///
    /// # Errors
    /// EINVAL for another mode.
    pub fn set_caching(&self, caching: u32) -> Result<(), Error> {
        self.connection.call(calls::set_caching(self.handle, caching))
    }

    /// The tiling mode.
    ///
    /// # Errors
    /// The connection's.
    pub fn tiling(&self) -> Result<Tiling, Error> {
        self.connection.call(calls::get_tiling(self.handle))
    }

    /// Sets the tiling mode, one of [`tiling`](gpu_broker_protocol::object::tiling), with the
    /// bytes of a row, and gives what is in force then.
    ///
    /// # Errors
    /// EINVAL for another mode or an impossible stride.
    pub fn set_tiling(&self, mode: u32, stride: u32) -> Result<Tiling, Error> {
        self.connection.call(calls::set_tiling(self.handle, mode, stride))
    }

    /// Says whether the memory is needed, with one of
    /// [`advice`](gpu_broker_protocol::object::advice); answers whether it is still there.
    ///
    /// # Errors
    /// EINVAL for other advice.
    pub fn madvise(&self, advice: u32) -> Result<bool, Error> {
        self.connection.call(calls::madvise(self.handle, advice))
    }

    /// An fd that stands for the buffer: for [`Connection::import_buffer`] of any session, or to
    /// be mapped by anybody.
    ///
    /// # Errors
    /// Refused with `daemon-fds` (EMFILE).
    pub fn export(&self) -> Result<OwnedFd, Error> {
        // Before the fd exists, so that nobody can import what does not count as shared yet.
        self.connection.shares().export(self.handle);
        self.connection.call(calls::export_buffer(self.handle))
    }

    /// Closes the handle, and says whether that worked. A buffer that was imported into the
    /// session that made it keeps the handle for its other owner.
    ///
    /// # Errors
    /// The connection's.
    pub fn close(mut self) -> Result<(), Error> {
        self.open = false;
        self.release()
    }

    fn release(&self) -> Result<(), Error> {
        self.connection.check_process()?;
        let mut shares = self.connection.shares();
        if !shares.contains(self.handle) {
            drop(shares);
            return self.request_close();
        }
        // The lock is held until the answer is here: an import in between would be given the
        // handle that is about to go.
        if shares.release(self.handle) { self.request_close() } else { Ok(()) }
    }

    fn request_close(&self) -> Result<(), Error> {
        let request = Plain::BufferClose(BufferOf { buffer: self.handle });
        let reply = self.connection.request(request)?;
        answer!(reply, Reply::BufferClose => ())
    }
}

impl From<&Buffer> for BufferId {
    fn from(buffer: &Buffer) -> Self {
        buffer.handle
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.open {
            // Whoever wants to know calls `close`. A session that ended has no buffers left.
            let _ = self.release();
        }
    }
}

impl Connection {
    /// Makes a buffer of zeroed memory; `size` in bytes, rounded up to pages of 4096.
    ///
    /// # Errors
    /// Refused with `buffer-size` (EINVAL), `buffer-too-large` (E2BIG), `buffer-limit` or
    /// `buffer-memory-limit` (ENOMEM).
    pub fn create_buffer(&self, size: u64) -> Result<Buffer, Error> {
        let made = self.call(calls::create_buffer(size, None))?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }

    /// Makes a buffer in one of these memory regions, as [`QueryAnswer::Regions`] numbers them.
    ///
    /// [`QueryAnswer::Regions`]: gpu_broker_protocol::object::QueryAnswer::Regions
    ///
    /// # Errors
    /// As [`Self::create_buffer`], and EINVAL for an empty list or a region that does not exist.
    pub fn create_buffer_in(&self, size: u64, regions: &[EngineId]) -> Result<Buffer, Error> {
        let made = self.call(calls::create_buffer(size, Some(regions)))?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }

    /// The buffer behind an fd from [`Buffer::export`]. Within the session that has it already it
    /// has the same handle, which closes with the last of its owners.
    ///
    /// # Errors
    /// EINVAL when the fd is no buffer of that daemon; refused with `buffer-limit` or
    /// `buffer-memory-limit` (ENOMEM).
    pub fn import_buffer(&self, fd: impl AsFd) -> Result<Buffer, Error> {
        let mut shares = self.shares();
        let made = self.call(calls::import_buffer(fd.as_fd()))?;
        shares.import(made.buffer);
        drop(shares);
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }
}

/// BUFFER_WAIT with a Rust timeout.
pub(crate) fn wait_request(buffer: BufferId, timeout: Option<Duration>) -> BufferWait {
    BufferWait { buffer, flags: 0, timeout_ns: calls::timeout_ns(timeout) }
}

/// What BUFFER_WAIT's answer means: a wait that took too long is an answer too.
pub(crate) fn waited<Fd>(result: Result<Reply<Fd>, Error>) -> Result<bool, Error> {
    match in_time(result)? {
        Some(reply) => answer!(reply, Reply::BufferWait(_) => true),
        None => Ok(false),
    }
}
