//! Buffers: memory that the GPU and this process share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gpu_broker_protocol::message::{BufferOf, BufferWait, Busy};
use gpu_broker_protocol::refusal::Reason;
use gpu_broker_protocol::{BufferId, Reply};

use crate::connection::Connection;
use crate::error::Error;
use crate::map::Mapping;
use crate::proto::{Plain, answer};

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
    /// [`Error::Io`] when the kernel cannot map it; refused with `daemon-fds` (EMFILE); the
    /// connection's.
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

    /// Closes the handle, and says whether that worked.
    ///
    /// # Errors
    /// The connection's.
    pub fn close(mut self) -> Result<(), Error> {
        self.open = false;
        self.request_close()
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
            let _ = self.request_close();
        }
    }
}

/// BUFFER_WAIT with a Rust timeout. What does not fit in 63 bits of nanoseconds is for ever.
pub(crate) fn wait_request(buffer: BufferId, timeout: Option<Duration>) -> BufferWait {
    let timeout_ns =
        timeout.and_then(|timeout| i64::try_from(timeout.as_nanos()).ok()).unwrap_or(-1);
    BufferWait { buffer, flags: 0, timeout_ns }
}

/// What BUFFER_WAIT's answer means: a wait that took too long is an answer too.
pub(crate) fn waited<Fd>(result: Result<Reply<Fd>, Error>) -> Result<bool, Error> {
    match result {
        Ok(reply) => answer!(reply, Reply::BufferWait(_) => true),
        Err(error) if is_timeout(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_timeout(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.code == Reason::WaitTimeout as u16)
}
