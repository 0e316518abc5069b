//! Memory of this process that is registered with a session: a buffer for the GPU.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use gpu_broker_protocol::BufferId;

use super::adopt::AdoptedMemory;
use super::fork::Generation;
use super::memory::UserMemory;
use super::share::{CpuAccess, GpuAccess, Kept, Shareable, sealed::INSIDE};
use crate::buffer::Buffer;
use crate::calls;
use crate::connection::Connection;
use crate::error::Error;
use crate::map::SharedBytes;

/// How long dropping registered memory waits for the GPU. A batch without an end is found and
/// stopped before that.
const DROP_PATIENCE: Duration = Duration::from_secs(30);

/// Memory of this process as a buffer of a session: name it in
/// [`Execbuf::object`](crate::Execbuf::object) and its like.
///
/// The GPU may write to it whenever submitted work runs, so it is not lent out as a slice:
/// [`Self::shared`] gives atomic access at any time, [`Self::cpu`] waits for the GPU and then gives
/// slices, [`Self::unregister`] makes it ordinary memory again. None of them copies.
///
/// ```no_run
/// use gpu_broker_client::{Connection, GpuAccess, UserMemory, gen9::Batch};
///
/// # fn main() -> Result<(), gpu_broker_client::Error> {
/// let broker = Connection::open("example")?;
/// let context = broker.context().create()?;
/// let mut memory = UserMemory::new(1 << 20)?;
/// memory.as_mut_slice::<u32>().fill(1);
///
/// let mut buffer = memory.register(&broker, GpuAccess::ReadWrite)?;
/// let batch = broker.create_buffer(4096)?;
/// let mut commands = Batch::new();
/// commands.store_dword(0x10_0000, 42).end();
/// batch.map()?.write_dwords(0, commands.dwords())?;
/// context.execbuf().object_at(&buffer, 0x10_0000).write().batch(&batch).submit()?;
///
/// let numbers = buffer.cpu(None)?;
/// assert_eq!(numbers.as_slice::<u32>()[..2], [42, 1]);
/// # Ok(())
/// # }
/// ```
///
/// Dropping it invalidates the memory and waits for that, at most thirty seconds.
#[derive(Debug)]
pub struct UserBuffer<M: Shareable = UserMemory> {
    registration: Registration,
    memory: M,
}

/// The buffer, which is invalidated before it is closed.
#[derive(Debug)]
struct Registration {
    buffer: Buffer,
    generation: Generation,
    /// Whether the daemon has said that the memory is not used.
    unused: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The child of a fork has nothing to say in its parent's session.
        if !self.unused && self.generation.is_current() {
            // Whoever wants to know calls `unregister`. The daemon keeps the pages it needs.
            let _ = self.buffer.invalidate_all(Some(DROP_PATIENCE));
        }
    }
}

impl UserMemory {
    /// Gives the memory to the GPU, as a buffer of the session.
    ///
    /// # Errors
    /// With the memory: refused with `userptr-memory-limit`, `userptr-file-limit`, `buffer-limit`
    /// (ENOMEM), `userptr-unsupported` (ENODEV), `userptr-read-only` (ENODEV); the connection's.
    pub fn register(
        self,
        connection: &Connection,
        access: GpuAccess,
    ) -> Result<UserBuffer, Box<Kept<Self>>> {
        UserBuffer::register(self, connection, access)
    }
}

impl AdoptedMemory {
    /// Gives the memory to the GPU, as a buffer of the session.
    ///
    /// # Errors
    /// As [`UserMemory::register`], and EFAULT for write access to read-only memory.
    pub fn register(
        self,
        connection: &Connection,
        access: GpuAccess,
    ) -> Result<UserBuffer<Self>, Box<Kept<Self>>> {
        UserBuffer::register(self, connection, access)
    }
}

impl<M: Shareable> UserBuffer<M> {
    fn register(
        memory: M,
        connection: &Connection,
        access: GpuAccess,
    ) -> Result<Self, Box<Kept<M>>> {
        let registered = access.check(&memory).and_then(|flags| {
            connection.share_memfd(memory.fd(INSIDE), 0, memory.shared(INSIDE).size(), flags)
        });
        match registered {
            Ok(buffer) => {
                let generation = Generation::current();
                let registration = Registration { buffer, generation, unused: false };
                Ok(Self { registration, memory })
            }
            Err(error) => Err(Kept::new(error, memory)),
        }
    }

    /// The buffer, to look at its state and to wait for it.
    #[must_use]
    pub const fn buffer(&self) -> &Buffer {
        &self.registration.buffer
    }

    /// Its handle in the session.
    #[must_use]
    pub const fn handle(&self) -> BufferId {
        self.registration.buffer.handle()
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
    /// is dropped. `None`, and more than the daemon allows (a minute), is as long as it allows.
    ///
    /// # Errors
    /// Refused with `userptr-in-use` (ETIME) when the time was over first, with `userptr-lost`
    /// (EIO) when work of the session hung: what the GPU wrote is not whole then, and another call
    /// gives the memory. With `wait-limit` (EAGAIN); the connection's.
    pub fn cpu(&mut self, timeout: Option<Duration>) -> Result<CpuAccess<'_, M>, Error> {
        let buffer = &self.registration.buffer;
        let hold = buffer.connection().hold(buffer.handle());
        let acknowledged = buffer.invalidate_all(timeout)?;
        Ok(CpuAccess::new(&mut self.memory, hold, acknowledged))
    }

    /// Waits until the GPU no longer uses the memory, and closes the buffer.
    ///
    /// # Errors
    /// With the buffer, to try again or to [detach](Self::detach): as [`Self::cpu`].
    pub fn unregister(mut self, timeout: Option<Duration>) -> Result<M, Box<Kept<Self>>> {
        let connection = self.registration.buffer.connection().clone();
        let hold = connection.hold(self.handle());
        match self.registration.buffer.invalidate_all(timeout) {
            Ok(_acknowledged) => {
                self.registration.unused = true;
                let Self { registration, memory } = self;
                // Closed while it is held: no submission can slip in between.
                drop(registration);
                drop(hold);
                Ok(memory)
            }
            Err(error) => Err(Kept::new(error, self)),
        }
    }

    /// Takes the memory back at once, whatever the GPU does and the daemon says: copies it as it
    /// is now, and goes on with the copy at the same address. What the GPU writes later goes to
    /// the old pages, which nobody looks at.
    ///
    /// # Errors
    /// With the buffer: ENOMEM.
    pub fn detach(mut self) -> Result<M, Box<Kept<Self>>> {
        if let Err(errno) = self.memory.detach(INSIDE) {
            return Err(Kept::new(Error::io("copying memory from the GPU's pages", errno), self));
        }
        self.registration.unused = true;
        let Self { registration, memory } = self;
        drop(registration);
        Ok(memory)
    }
}

impl<M: Shareable> From<&UserBuffer<M>> for BufferId {
    fn from(buffer: &UserBuffer<M>) -> Self {
        buffer.handle()
    }
}

impl Connection {
    /// Makes a buffer of `length` bytes from `offset` on of a memfd that is sealed with
    /// F_SEAL_SHRINK, both multiples of 4096; `flags` are those of
    /// [`userptr`](gpu_broker_protocol::userptr::flag). What [`UserMemory::register`] does, for
    /// those who manage memory themselves; they call [`Buffer::invalidate`] before pages of it become
    /// others.
    ///
    /// # Errors
    /// Refused with a `userptr-…` reason that says which rule it was; ENODEV when the broker does
    /// not offer it; the connection's.
    pub fn share_memfd(
        &self,
        memfd: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        flags: u32,
    ) -> Result<Buffer, Error> {
        let request = calls::create_userptr(self.hello(), memfd, offset, length, flags)?;
        let made = self.call(request)?;
        Ok(Buffer::new(self.clone(), made.buffer, made.size))
    }
}
