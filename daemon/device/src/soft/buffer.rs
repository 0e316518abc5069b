//! Buffers: memory that is a memfd once somebody needs it, and who uses it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use super::fence::Fence;
use super::limits::{Permit, Quota};
use super::order::Order;
use super::reaper::Reaper;
use super::shared::{FileId, SharedBuffers};
use super::signal::Signal;
use super::sys::{Mapping, OutOfRange};
use super::userptr::Userptr;
use crate::{BufferBusy, DeviceError};

/// Unit of memory.
const PAGE_BYTES: u64 = 4096;
/// Users of a buffer beside which no fence is added: merged ones are of no timeline, and cost nothing
/// to make.
const USERS_MAX: usize = 1024;
/// The kernel's errno for pages that are not there.
const EFAULT: i32 = 14;

/// The memory itself: a sealed memfd, mapped here. Freed when the buffer, every address space that
/// binds it and every request that sees it are gone.
#[derive(Debug)]
pub(super) struct Backing {
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    size: u64,
    quotas: Arc<Quotas>,
}

/// What is given back.
#[derive(Debug)]
pub(super) struct Memory {
    mapping: Mapping,
    file: OwnedFd,
    _permits: [Permit; 3],
}

/// What is bound at an address: memory, from an offset in it on.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) backing: Arc<Backing>,
    pub(super) offset: u64,
    pub(super) read_only: bool,
}

impl Backing {
    fn new(size: u64, quotas: &Arc<Quotas>) -> Result<Arc<Self>, DeviceError> {
        let permits = quotas.permits(size)?;
        let os = |doing| move |errno| refusal(errno, doing);
        let file = create_memfd().map_err(os("creating a memfd"))?;
        ftruncate(&file, size).map_err(os("sizing a memfd"))?;
        // A client that maps the file must not be able to take pages away under the mapping here.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(os("sealing a memfd"))?;
        let len = usize::try_from(size).map_err(|_| DeviceError::OutOfMemory)?;
        let mapping = Mapping::new(file.as_fd(), len).map_err(os("mapping a memfd"))?;
        let memory = Some(Memory { mapping, file, _permits: permits });
        Ok(Arc::new(Self { memory, size, quotas: Arc::clone(quotas) }))
    }

    /// A client's memfd: see [`crate::DeviceFile::map_user_memory`].
    ///
    /// # Errors
    /// Out of memory, mappings or fds; what mmap says.
    pub(super) fn of_client(
        file: OwnedFd,
        (size, writable): (u64, bool),
        quotas: &Arc<Quotas>,
    ) -> Result<Arc<Self>, DeviceError> {
        let permits = quotas.permits(size)?;
        let len = usize::try_from(size).map_err(|_| DeviceError::OutOfMemory)?;
        let mapping = Mapping::of_client(file.as_fd(), len, writable)
            .map_err(|errno| refusal(errno, "mapping a client's memory"))?;
        let memory = Some(Memory { mapping, file, _permits: permits });
        Ok(Arc::new(Self { memory, size, quotas: Arc::clone(quotas) }))
    }

    /// The same memory, mapped again.
    ///
    /// # Errors
    /// EFAULT if the file has become shorter; as [`Self::of_client`].
    pub(super) fn again(&self, writable: bool) -> Result<Arc<Self>, DeviceError> {
        let memory = self.memory.as_ref().ok_or(DeviceError::OutOfMemory)?;
        let os = |doing| move |errno| refusal(errno, doing);
        let stat = rustix::fs::fstat(&memory.file).map_err(os("looking at a file"))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes.next_multiple_of(PAGE_BYTES) < self.size {
            return Err(DeviceError::Os { errno: EFAULT, doing: "pinning a client's memory" });
        }
        let file = rustix::io::fcntl_dupfd_cloexec(&memory.file, 3)
            .map_err(os("keeping a client's memory"))?;
        Self::of_client(file, (self.size, writable), &self.quotas)
    }

    /// Whether an access found no page and the kernel none to put there.
    pub(super) fn is_lost(&self) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.mapping.is_lost())
    }

    /// The mapping.
    ///
    /// # Errors
    /// Never while the backing lives.
    pub(super) fn mapping(&self) -> Result<&Mapping, OutOfRange> {
        self.memory.as_ref().map(|memory| &memory.mapping).ok_or(OutOfRange)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.quotas.reaper.take(memory, self.size);
        }
    }
}

/// What buffers take from the process, and where they give it back.
#[derive(Debug)]
pub(super) struct Quotas {
    pub(super) mappings: Arc<Quota>,
    pub(super) addresses: Arc<Quota>,
    pub(super) fds: Arc<Quota>,
    pub(super) syncobj_fds: Arc<Quota>,
    pub(super) reaper: Reaper<Memory>,
}

impl Quotas {
    /// Those of a process.
    ///
    /// # Errors
    /// A thread could not be started.
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            mappings: Quota::mappings(),
            addresses: Quota::addresses(),
            fds: Quota::fds(),
            syncobj_fds: Quota::syncobj_fds(),
            reaper: Reaper::start()?,
        }))
    }

    /// What memory of so many bytes takes.
    ///
    /// # Errors
    /// Out of memory, mappings or fds.
    fn permits(&self, size: u64) -> Result<[Permit; 3], DeviceError> {
        Ok([self.mappings.take()?, self.addresses.take_some(size)?, self.fds.take()?])
    }

    /// Those of a process that may have so many fds of syncobjs.
    #[cfg(test)]
    pub(super) fn with_syncobj_fds(count: u64) -> Self {
        Self {
            mappings: Quota::mappings(),
            addresses: Quota::addresses(),
            fds: Quota::fds(),
            syncobj_fds: Quota::of(count, DeviceError::OutOfFds),
            reaper: Reaper::start().unwrap(),
        }
    }
}

/// Memory of one session, or of several: the handle. The memory itself goes with its last user.
#[derive(Debug)]
pub struct Buffer(pub(super) Arc<Body>);

/// A buffer.
#[derive(Debug)]
pub(super) struct Body {
    size: u64,
    backing: OnceLock<Arc<Backing>>,
    /// Of a client's memory, in place of `backing`.
    user: Option<Userptr>,
    /// Whether `users` may hold anything: keeps the lock off the path of buffers nobody uses.
    used: AtomicBool,
    users: Mutex<Users>,
    quotas: Arc<Quotas>,
    /// The order of the file that made it.
    home: Arc<Order>,
    /// Another file uses it as well. Set with `home` locked.
    in_several_files: AtomicBool,
    /// How it is known in the table of shared buffers, once it is.
    file: OnceLock<FileId>,
    table: Arc<SharedBuffers>,
}

/// Requests in flight that use a buffer.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// In the order they were submitted. More than one only if all but the first are asynchronous.
    pub(super) writers: Vec<Arc<Signal>>,
    pub(super) readers: Vec<Arc<Signal>>,
}

impl Part {
    /// All of it, for writing.
    pub(super) const fn whole(backing: Arc<Backing>) -> Self {
        Self { backing, offset: 0, read_only: false }
    }
}

impl Buffer {
    pub(super) fn new(
        size: u64,
        quotas: &Arc<Quotas>,
        home: &Arc<Order>,
        table: &Arc<SharedBuffers>,
    ) -> Self {
        Self::with(size, None, quotas, home, table)
    }

    /// A range of a client's memory.
    pub(super) fn over(
        size: u64,
        user: Userptr,
        quotas: &Arc<Quotas>,
        home: &Arc<Order>,
        table: &Arc<SharedBuffers>,
    ) -> Self {
        Self::with(size, Some(user), quotas, home, table)
    }

    fn with(
        size: u64,
        user: Option<Userptr>,
        quotas: &Arc<Quotas>,
        home: &Arc<Order>,
        table: &Arc<SharedBuffers>,
    ) -> Self {
        Self(Arc::new(Body {
            size,
            user,
            backing: OnceLock::new(),
            used: AtomicBool::new(false),
            users: Mutex::default(),
            quotas: Arc::clone(quotas),
            home: Arc::clone(home),
            in_several_files: AtomicBool::new(false),
            file: OnceLock::new(),
            table: Arc::clone(table),
        }))
    }

    /// An fd of the memory for another process.
    ///
    /// # Errors
    /// As [`Body::backing`]; [`DeviceError::NotABuffer`] for a client's memory.
    pub(super) fn share(&self) -> Result<OwnedFd, DeviceError> {
        let body = &self.0;
        if body.user.is_some() {
            return Err(DeviceError::NotABuffer);
        }
        let backing = body.backing()?;
        let memory = backing.memory.as_ref().ok_or(DeviceError::OutOfMemory)?;
        if body.file.get().is_none() {
            let file = FileId::of(memory.file.as_fd())?;
            body.table.insert(*body.file.get_or_init(|| file), body);
        }
        rustix::io::fcntl_dupfd_cloexec(&memory.file, 3)
            .map_err(|errno| refusal(errno, "sharing a buffer"))
    }

    /// A buffer of `table` as a file with the order `importer` uses it.
    ///
    /// # Errors
    /// [`DeviceError::NotABuffer`].
    pub(super) fn import(
        table: &SharedBuffers,
        fd: BorrowedFd<'_>,
        importer: &Arc<Order>,
    ) -> Result<Self, DeviceError> {
        let body = table.find(fd)?;
        if !Arc::ptr_eq(&body.home, importer) {
            // A request that is being entered just now, with `home` locked, is entered before any
            // of the importer's: see `order.rs`.
            let _home = body.home.lock();
            body.in_several_files.store(true, Ordering::Relaxed);
        }
        Ok(Self(body))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(file) = self.file.get() {
            self.table.remove(*file);
        }
    }
}

impl Body {
    /// Bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Whether more than one file uses it. To be asked with the order of a file that does locked.
    pub(super) fn is_in_several_files(&self) -> bool {
        self.in_several_files.load(Ordering::Relaxed)
    }

    /// The memory; made at the first call.
    ///
    /// # Errors
    /// Out of memory, mappings or fds.
    pub(super) fn backing(&self) -> Result<&Arc<Backing>, DeviceError> {
        if let Some(backing) = self.backing.get() {
            return Ok(backing);
        }
        // Two threads may get here at once; the loser's memfd is dropped unused.
        let made = Backing::new(self.size, &self.quotas)?;
        Ok(self.backing.get_or_init(|| made))
    }

    /// Whether somebody has needed the memory.
    pub(super) fn is_resident(&self) -> bool {
        self.backing.get().is_some()
    }

    /// Takes hold of the pages of a client's memory; nothing for other buffers.
    ///
    /// # Errors
    /// The pages cannot be had.
    pub(super) fn pin(&self) -> Result<(), DeviceError> {
        self.user.as_ref().map_or(Ok(()), Userptr::pin)
    }

    /// Makes sure that there is memory to bind.
    ///
    /// # Errors
    /// As [`Self::backing`]; [`DeviceError::PagesGone`].
    pub(super) fn prepare(&self) -> Result<(), DeviceError> {
        match &self.user {
            None => self.backing().map(|_| ()),
            Some(user) => user.part().map(|_| ()),
        }
    }

    /// What is bound.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(super) fn part(&self) -> Result<Part, DeviceError> {
        match &self.user {
            None => Ok(Part::whole(Arc::clone(self.backing()?))),
            Some(user) => user.part(),
        }
    }

    /// Whether batches may not write it.
    pub(super) fn is_read_only(&self) -> bool {
        self.user.as_ref().is_some_and(Userptr::is_read_only)
    }

    /// Calls `f` with the requests that use the buffer, those that completed dropped. `None` if
    /// there are none.
    pub(super) fn with_users<T>(&self, f: impl FnOnce(&Users) -> T) -> Option<T> {
        if !self.used.load(Ordering::Acquire) {
            return None;
        }
        let mut users = self.lock();
        users.prune();
        if users.is_empty() {
            self.used.store(false, Ordering::Release);
            return None;
        }
        Some(f(&users))
    }

    /// Enters a request as a user. `waits`: it waits for those it has to, and so stands for them.
    pub(super) fn enter(&self, signal: &Arc<Signal>, write: bool, waits: bool) {
        let mut users = self.lock();
        self.used.store(true, Ordering::Release);
        if write && waits {
            users.writers.clear();
            users.readers.clear();
        }
        let list = if write { &mut users.writers } else { &mut users.readers };
        // The requests of one timeline end in order: the last one stands for them all. Those that are
        // over are forgotten here too: of asynchronous users nobody may ever look.
        list.retain(|other| other.state().is_none() && !signal.is_after(other));
        list.push(Arc::clone(signal));
    }

    /// A fence of those that use the buffer now and that a reader, or with `all` a writer, waits for.
    pub(super) fn fence(&self, all: bool) -> Fence {
        let users: Option<Vec<_>> = self.with_users(|users| users.before(all).cloned().collect());
        let fences = users.unwrap_or_default().into_iter().map(Fence::of);
        fences.reduce(|one, other| Fence::merge(&one, &other)).unwrap_or_else(|| Fence::done(0))
    }

    /// Enters what is pending as a user, which with `all` writes: it waits for nobody. What is entered
    /// twice counts once.
    ///
    /// # Errors
    /// [`DeviceError::ManyUsers`].
    pub(super) fn add(&self, signal: &Arc<Signal>, all: bool) -> Result<(), DeviceError> {
        let mut users = self.lock();
        users.prune();
        if users.before(!all).any(|other| Arc::ptr_eq(other, signal)) {
            return Ok(());
        }
        if users.all().count() >= USERS_MAX {
            return Err(DeviceError::ManyUsers);
        }
        self.used.store(true, Ordering::Release);
        if all { &mut users.writers } else { &mut users.readers }.push(Arc::clone(signal));
        Ok(())
    }

    pub(super) fn busy(&self) -> BufferBusy {
        self.with_users(|users| BufferBusy {
            readers: users.all().fold(0, |classes, signal| classes | signal.classes()),
            writer: users
                .writers
                .last()
                .map(|writer| u16::try_from(writer.classes().trailing_zeros()).unwrap_or_default()),
        })
        .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    /// Everybody.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Signal>> {
        self.writers.iter().chain(&self.readers)
    }

    /// Those that a request has to wait for.
    pub(super) fn before(&self, write: bool) -> impl Iterator<Item = &Arc<Signal>> {
        let readers = if write { self.readers.as_slice() } else { &[] };
        self.writers.iter().chain(readers)
    }

    fn prune(&mut self) {
        self.writers.retain(|writer| writer.state().is_none());
        self.readers.retain(|reader| reader.state().is_none());
    }

    fn is_empty(&self) -> bool {
        self.writers.is_empty() && self.readers.is_empty()
    }
}

fn create_memfd() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the second flag, and need not be told.
    match memfd_create("gpu-broker", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("gpu-broker", flags),
        made => made,
    }
}

/// An errno of the kernel as a device's refusal.
pub(crate) fn refusal(errno: Errno, doing: &'static str) -> DeviceError {
    match errno {
        Errno::NOMEM | Errno::NOSPC => DeviceError::OutOfMemory,
        Errno::MFILE | Errno::NFILE => DeviceError::OutOfFds,
        errno => DeviceError::Os { errno: errno.raw_os_error(), doing },
    }
}
