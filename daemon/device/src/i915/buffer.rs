//! Buffers: GEM objects, shared as dma-bufs.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use drm::buffer::Handle as GemHandle;
use drm::control::Device as _;
use gpu_broker_uapi::drm::{DRM_CLOEXEC, DRM_RDWR};
use gpu_broker_uapi::i915::{I915_CACHING_CACHED, I915_CACHING_DISPLAY, I915_CACHING_NONE};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::card::errno;
use super::fence::Fence;
use super::{FileShared, fds, os, sys};
use crate::{BufferBusy, BufferMemory, Caching, DeviceError, DeviceEvent, FenceState};

/// Memory, as one file knows it. Copies share the handle, which is closed with the last.
#[derive(Clone, Debug)]
pub struct Buffer(pub(super) Arc<Object>);

/// A GEM handle.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: Arc<FileShared>,
    pub(super) handle: GemHandle,
    /// Inode of its dma-buf, once there is one: the same for every file that has the memory.
    inode: OnceLock<u64>,
    /// It came from another file, or came back.
    imported: AtomicBool,
    coherence: Mutex<Coherence>,
    /// For the application's own memory, of which there is no dma-buf. Unmapped after the handle is
    /// closed: other memory at the same address must not become the buffer's.
    user: Option<User>,
}

/// Whether the GPU looks into the CPU's caches for a buffer. Every mapping that clients can have is of
/// a dma-buf, which is cached, and most write to it without a word. So from the moment there can be
/// one, the kernel is told "cached", whatever the client wants: past the caches, a GPU that shares none
/// with the CPU would not see the writes. Until then the memory is the GPU's alone, and the client may
/// have it otherwise.
#[derive(Debug, Default)]
struct Coherence {
    /// What the kernel does with it; `None` of what others made.
    told: Option<Caching>,
    /// Others may map it, or have it.
    lent: bool,
}

/// The application's own memory, and who uses it.
#[derive(Debug)]
struct User {
    _memory: UserMemory,
    users: Arc<Users>,
}

/// Requests in flight that use a buffer of the application's memory; whether they write.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<Vec<(Fence, bool)>>);

/// A client's memfd, mapped.
#[derive(Clone, Debug)]
pub struct UserMemory(Arc<sys::UserMapping>);

impl UserMemory {
    pub(super) fn map(memfd: &OwnedFd, size: u64, writable: bool) -> Result<Self, DeviceError> {
        let size = usize::try_from(size).map_err(|_| DeviceError::OutOfMemory)?;
        let mapping = sys::UserMapping::new(memfd, size, writable);
        mapping.map(Arc::new).map(Self).map_err(|errno| os(errno, "mapping a client's memory"))
    }
}

/// The handles of a file. The kernel gives the same one each time the same memory comes in, and
/// closing it once is closing it for all: the lock is held around both.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<HashMap<u32, Weak<Object>>>);

impl Buffer {
    pub(super) fn create(file: &Arc<FileShared>, size: u64) -> Result<Self, DeviceError> {
        let made = sys::gem_create(file.card.as_fd(), size);
        let handle = made.map_err(|errno| file.error(errno, "creating a buffer"))?;
        let buffer = Self(Self::known(file, &mut file.handles.lock(), handle, None)?);
        let mut coherence = buffer.0.coherence();
        if file.device.coherent {
            coherence.told = Some(Caching::Cached);
        } else {
            // Now, while nobody has to be waited for. Discrete devices cannot be told, and do so anyway.
            let _ = buffer.0.tell(&mut coherence, Caching::Cached);
        }
        drop(coherence);
        Ok(buffer)
    }

    /// As [`crate::DeviceFile::set_caching`].
    pub(super) fn set_caching(&self, caching: Caching) -> Result<(), DeviceError> {
        let mut coherence = self.0.coherence();
        if coherence.lent && caching != Caching::Cached {
            return Ok(());
        }
        self.0.tell(&mut coherence, caching).map_err(|errno| match errno {
            // A GPU that cannot, not one that is gone.
            Errno::NODEV => os(errno, "SET_CACHING"),
            errno => self.0.file.error(errno, "SET_CACHING"),
        })
    }

    /// Others will map it.
    pub(super) fn lend(&self) -> Result<(), DeviceError> {
        let mut coherence = self.0.coherence();
        coherence.lent = true;
        if coherence.told == Some(Caching::Cached) {
            return Ok(());
        }
        let uncached = coherence.told.is_some();
        match self.0.tell(&mut coherence, Caching::Cached) {
            Err(errno) if uncached => Err(self.0.file.error(errno, "SET_CACHING")),
            // What another program shows on a display, say, stays as it is: SET_DOMAIN brings the
            // CPU what the GPU wrote.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// As [`crate::DeviceFile::prepare_access`]. Whatever domain the client names, its mapping is the
    /// CPU's.
    pub(super) fn prepare_access(&self, write: bool) -> Result<(), DeviceError> {
        let Object { file, handle, .. } = &*self.0;
        let moved = sys::gem_to_cpu(file.card.as_fd(), (*handle).into(), write);
        moved.map_err(|errno| file.error(errno, "SET_DOMAIN"))
    }

    pub(super) fn of_user(
        file: &Arc<FileShared>,
        memory: &UserMemory,
        range: (u64, u64),
        read_only: bool,
    ) -> Result<Self, DeviceError> {
        let (offset, size) = range;
        let made = sys::userptr(file.card.as_fd(), &memory.0, offset, size, read_only);
        let handle = made.map_err(|errno| file.error(errno, "GEM_USERPTR"))?;
        let user = User { _memory: memory.clone(), users: Arc::default() };
        Ok(Self(Self::known(file, &mut file.handles.lock(), handle, Some(user))?))
    }

    pub(super) fn import(
        file: &Arc<FileShared>,
        fd: BorrowedFd<'_>,
    ) -> Result<(Self, u64), DeviceError> {
        if !fds::is_dma_buf(fd) {
            return Err(DeviceError::NotABuffer);
        }
        let size = rustix::fs::seek(fd, SeekFrom::End(0)).map_err(|_| DeviceError::NotABuffer)?;
        let mut handles = file.handles.lock();
        let handle = file.card.prime_fd_to_buffer(fd).map_err(|error| match errno(&error) {
            Errno::NOMEM => DeviceError::OutOfMemory,
            Errno::NODEV => file.error(Errno::NODEV, "importing a buffer"),
            _ => DeviceError::NotABuffer,
        })?;
        let object = Self::known(file, &mut handles, handle.into(), None)?;
        drop(handles);
        object.imported.store(true, Ordering::Relaxed);
        object.coherence().lent = true;
        if let Some(inode) = fds::inode(fd) {
            object.inode.get_or_init(|| inode);
        }
        Ok((Self(object), size))
    }

    /// The object of a handle that the kernel has just given.
    fn known(
        file: &Arc<FileShared>,
        handles: &mut HashMap<u32, Weak<Object>>,
        handle: u32,
        user: Option<User>,
    ) -> Result<Arc<Object>, DeviceError> {
        // One whose last owner has just gone, and waits for the lock to close the handle, finds
        // another in its place and leaves it alone.
        if let Some(object) = handles.get(&handle).and_then(Weak::upgrade) {
            return Ok(object);
        }
        let Some(raw) = drm::control::from_u32::<GemHandle>(handle) else {
            return Err(os(Errno::NOENT, "the kernel gave the handle 0"));
        };
        let object = Arc::new(Object {
            file: Arc::clone(file),
            handle: raw,
            inode: OnceLock::new(),
            imported: AtomicBool::new(false),
            coherence: Mutex::default(),
            user,
        });
        handles.insert(handle, Arc::downgrade(&object));
        Ok(object)
    }

    /// A dma-buf of it.
    pub(super) fn export(&self) -> Result<OwnedFd, DeviceError> {
        let Object { file, handle, inode, .. } = &*self.0;
        let made = file.card.buffer_to_prime_fd(*handle, DRM_CLOEXEC | DRM_RDWR);
        let fd = made.map_err(|error| file.error(errno(&error), "exporting a buffer"))?;
        if let Some(number) = fds::inode(fd.as_fd()) {
            inode.get_or_init(|| number);
        }
        Ok(fd)
    }

    /// The kernel does not tell whether the pages are there: they are from the first use on.
    pub(super) fn memory(&self) -> BufferMemory {
        BufferMemory { resident: true, shared: self.0.imported.load(Ordering::Relaxed) }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (one, other) = (&*self.0, &*other.0);
        if Arc::ptr_eq(&one.file, &other.file) {
            return one.handle == other.handle;
        }
        one.inode.get().is_some_and(|inode| Some(inode) == other.inode.get())
    }

    pub(super) fn busy(&self) -> BufferBusy {
        let Ok(busy) = sys::gem_busy(self.0.file.card.as_fd(), self.0.handle.into()) else {
            // The device is gone, and with it all work.
            return BufferBusy::default();
        };
        // Above, a bit for each class that reads or writes; below, the writer's class plus one.
        let [low, high] = [busy & 0xffff, busy >> 16];
        let class = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        BufferBusy { readers: class(high), writer: low.checked_sub(1).map(class) }
    }

    /// A request uses the buffer from now on, until [`Users::ended`] is told of its end; `None` for
    /// a buffer whose users the kernel knows.
    pub(super) fn used_by(&self, fence: &Fence, write: bool) -> Option<Arc<Users>> {
        let user = self.0.user.as_ref()?;
        user.users.lock().push((fence.clone(), write));
        Some(Arc::clone(&user.users))
    }

    /// The fence of the last writer, or with `all` of everybody who uses the buffer now; `None` if
    /// nobody does.
    ///
    /// # Errors
    /// No fd to spare, or the kernel does not tell (before 6.0).
    fn fence(&self, all: bool) -> Result<Option<Fence>, DeviceError> {
        let fence = match &self.0.user {
            None => {
                let dma_buf = self.export()?;
                let fences = sys::buffer_fences(dma_buf.as_fd(), all);
                Some(Fence::new(fences.map_err(|errno| os(errno, "asking for a buffer's fences"))?))
            }
            Some(user) => {
                let users = user.users.lock();
                let wanted = users.iter().filter(|(_, write)| all || *write);
                let fences: Vec<_> = wanted.map(|(fence, _)| fence.clone()).collect();
                drop(users);
                Fence::merge_all(&fences)?
            }
        };
        Ok(fence.filter(|fence| fence.state() == FenceState::Pending))
    }

    /// Reports that the last writer, or with `all` everybody, has let go of the memory; true if
    /// they have already.
    pub(super) fn watch(&self, all: bool, token: u64) -> bool {
        watch(&self.0.file, &[self], all, move |_| DeviceEvent::BufferIdle { token })
    }
}

/// Reports that the last writers of the buffers, or with `all` everybody, have let go of them, with
/// an event that is made knowing whether one of them was lost; true, and there is no event, if they
/// have already.
pub(super) fn watch(
    file: &Arc<FileShared>,
    buffers: &[&Buffer],
    all: bool,
    event: impl Fn(bool) -> DeviceEvent + Send + Clone + 'static,
) -> bool {
    let fences: Result<Vec<_>, _> = buffers.iter().map(|buffer| buffer.fence(all)).collect();
    let fences = fences.map(|fences| fences.into_iter().flatten().collect::<Vec<_>>());
    match fences.and_then(|fences| Fence::merge_all(&fences)) {
        Ok(None) => return true,
        Ok(Some(fence)) => {
            let (events, event) = (Arc::clone(&file.events), event.clone());
            let then = move |state| events.report(event(matches!(state, FenceState::Failed(_))));
            if file.watch(fence, Box::new(then)).is_ok() {
                return false;
            }
        }
        Err(_) => {}
    }
    // No fences from the kernel, or no fd to spare. Work that comes meanwhile is waited for as well.
    let busy = move |buffer: &Buffer| {
        let BufferBusy { readers, writer } = buffer.busy();
        writer.is_some() || (all && readers != 0)
    };
    let buffers: Vec<Buffer> =
        buffers.iter().copied().filter(|buffer| busy(buffer)).cloned().collect();
    if buffers.is_empty() {
        return true;
    }
    let events = Arc::clone(&file.events);
    file.device.poller.look(Box::new(move || {
        let over = !buffers.iter().any(busy);
        if over {
            events.report(event(false));
        }
        over
    }));
    false
}

impl Object {
    fn coherence(&self) -> MutexGuard<'_, Coherence> {
        self.coherence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the kernel, if it does not know.
    fn tell(&self, coherence: &mut Coherence, caching: Caching) -> Result<(), Errno> {
        if coherence.told == Some(caching) {
            return Ok(());
        }
        let mode = match caching {
            Caching::Uncached => I915_CACHING_NONE,
            Caching::Cached => I915_CACHING_CACHED,
            Caching::Display => I915_CACHING_DISPLAY,
        };
        sys::gem_set_caching(self.file.card.as_fd(), self.handle.into(), mode)?;
        coherence.told = Some(caching);
        Ok(())
    }
}

impl Users {
    /// A request has ended. Its fence is let go of: an idle buffer keeps no fd.
    pub(super) fn ended(&self, ended: &Fence) {
        // Dropped after the lock.
        let mut users = self.lock();
        let gone: Vec<_> = users.extract_if(.., |(fence, _)| fence.is(ended)).collect();
        drop(users);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Fence, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Weak<Object>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let mut handles = self.file.handles.lock();
        let number = u32::from(self.handle);
        let ours = handles.get(&number).is_some_and(|known| std::ptr::eq(known.as_ptr(), self));
        if ours {
            handles.remove(&number);
            // ENODEV after an unplug; the memory went with the device then.
            let _ = self.file.card.close_buffer(self.handle);
        }
    }
}
