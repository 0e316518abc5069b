//! Userptr buffers of one session (rule table §14): made over memfds of the client, invalidated, and
//! what a submission does with them.
//!
//! What [`crate::userptr`] says of one buffer's pages happens here under the right locks. The table of
//! memfds has the part of the kernel's notifier lock: an invalidation holds it, and a submission holds
//! it from submit_done until the device has the request. An invalidation takes neither the memory lock
//! nor waits for a submission that is being prepared: that one is told to try again.

use std::collections::HashMap;
use std::sync::Arc;

use gpu_broker_protocol::limits::{
    PAGE_BYTES, USERPTR_MEMFD_BYTES_MAX, USERPTR_MEMFDS_PER_SESSION_MAX,
};
use gpu_broker_protocol::message::BufferCreated;
use gpu_broker_protocol::userptr::{UserptrCreate, UserptrInvalidate, flag};
use gpu_broker_protocol::{BufferId, Reason, Refusal};

use crate::buffer::Buffer;
use crate::class::{Hold, Resource};
use crate::hands::Hands;
use crate::memory::{Memory, Vm};
use crate::session::Session;
use crate::space::Space;
use crate::sync::{Mutex, MutexGuard};
use crate::userptr::{Held, Pages};

/// Names a file: device and inode number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileKey(pub u64, pub u64);

/// What the daemon found out about a memfd that a buffer may be over: it is shmem that cannot shrink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memfd {
    /// Which file it is.
    pub file: FileKey,
    /// Bytes of it.
    pub bytes: u64,
    /// Whether it may be written through the fd that came; otherwise why not.
    pub write: Result<(), Reason>,
}

/// What makes a buffer a userptr one.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) pages: Pages,
    /// Whether the GPU may not write it.
    pub(crate) read_only: bool,
    file: FileKey,
    /// Where it begins in the memfd.
    offset: u64,
}

/// The memfds of a session.
pub(crate) struct Userptrs<H: Hands>(Mutex<Files<H>>);

/// What the lock of [`Userptrs`] protects.
pub(crate) struct Files<H: Hands> {
    by_file: HashMap<FileKey, File<H>>,
    /// The file of each handle.
    by_handle: HashMap<u32, FileKey>,
    /// Bytes mapped, and in how many mappings.
    bytes: u64,
    mappings: u32,
}

struct File<H: Hands> {
    /// One, unless the file was first mapped for reading only, or has grown since.
    mappings: Vec<Mapping<H>>,
    /// Buffers by handle.
    open: HashMap<u32, Arc<Buffer<H>>>,
    /// Buffers without a handle that work in flight used when it was given up.
    closed: Vec<Arc<Buffer<H>>>,
}

struct Mapping<H: Hands> {
    memory: H::UserMemory,
    bytes: u64,
    writable: bool,
    /// What the class is charged for it.
    _charge: Hold,
}

impl<H: Hands> Userptrs<H> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Files::new()))
    }

    /// Gives everything up.
    pub(crate) fn clear(&self) -> Files<H> {
        std::mem::replace(&mut *self.0.lock(), Files::new())
    }

    /// As long as it is held no invalidation comes.
    pub(crate) fn hold_off(&self) -> MutexGuard<'_, Files<H>> {
        self.0.lock()
    }
}

impl<H: Hands> Files<H> {
    fn new() -> Self {
        let (by_file, by_handle) = (HashMap::new(), HashMap::new());
        Self { by_file, by_handle, bytes: 0, mappings: 0 }
    }

    /// A mapping that reaches to `end`; made with `map` if there is none.
    fn memory(
        &mut self,
        memfd: &Memfd,
        (end, writable): (u64, bool),
        room: &Memory<H>,
        map: impl FnOnce(u64, bool) -> Result<H::UserMemory, Refusal>,
    ) -> Result<H::UserMemory, Refusal> {
        let fits = |mapping: &&Mapping<H>| mapping.bytes >= end && mapping.writable >= writable;
        let known = self.by_file.get(&memfd.file);
        if let Some(mapping) = known.and_then(|file| file.mappings.iter().find(fits)) {
            return Ok(mapping.memory.clone());
        }
        let bytes = memfd.bytes.next_multiple_of(PAGE_BYTES);
        if self.mappings >= USERPTR_MEMFDS_PER_SESSION_MAX {
            return Err(Reason::UserptrFileLimit.into());
        }
        let limit = room.userptr_limit();
        let total = self.bytes.checked_add(bytes).filter(|total| *total <= limit);
        let Some(total) = total else {
            let detail = format!("{bytes} bytes more than {} would be above {limit}", self.bytes);
            return Err(Refusal::new(Reason::UserptrMemoryLimit).with_detail(detail));
        };
        let charge = room.class().hold(Resource::UserptrMemory, bytes)?;
        let memory = map(bytes, writable)?;
        let file = self.by_file.entry(memfd.file).or_insert_with(File::new);
        file.mappings.push(Mapping { memory: memory.clone(), bytes, writable, _charge: charge });
        (self.bytes, self.mappings) = (total, self.mappings.saturating_add(1));
        Ok(memory)
    }

    /// Forgets buffers that were closed and are idle now, and files that nothing is over any more.
    /// What is forgotten goes to `gone`, for when no lock is held.
    fn sweep(&mut self, hands: &H, gone: &mut Gone<H>) {
        for file in self.by_file.values_mut().filter(|file| !file.closed.is_empty()) {
            let idle = |buffer: &mut Arc<Buffer<H>>| !hands.is_busy(&buffer.device);
            gone.buffers.extend(file.closed.extract_if(.., idle));
        }
        let unused = |_: &FileKey, file: &mut File<H>| file.is_unused();
        let (mut bytes, mut mappings) = (0u64, 0u32);
        for (_, file) in self.by_file.extract_if(unused) {
            bytes =
                file.mappings.iter().fold(bytes, |sum, mapping| sum.saturating_add(mapping.bytes));
            mappings = file.mappings.iter().fold(mappings, |sum, _| sum.saturating_add(1));
            gone.mappings.extend(file.mappings);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.mappings = self.mappings.saturating_sub(mappings);
    }
}

impl<H: Hands> File<H> {
    fn new() -> Self {
        Self { mappings: Vec::new(), open: HashMap::new(), closed: Vec::new() }
    }

    fn is_unused(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }
}

/// What is let go of once no lock is held.
pub(crate) struct Gone<H: Hands> {
    buffers: Vec<Arc<Buffer<H>>>,
    mappings: Vec<Mapping<H>>,
}

impl<H: Hands> Gone<H> {
    pub(crate) const fn nothing() -> Self {
        Self { buffers: Vec::new(), mappings: Vec::new() }
    }
}

/// Takes hold of pages: what submit_init does with the device.
pub(crate) struct Pinner<'a, H: Hands> {
    pub(crate) hands: &'a H,
    /// Address spaces that were looked at, to be let go of once no lock is held.
    pub(crate) vms: &'a mut Vec<Arc<Vm<H>>>,
}

impl<H: Hands> Pinner<'_, H> {
    /// submit_init of one buffer. Pages are taken hold of anew after every address space has lost the
    /// old ones; the buffer stays where it lies. `own` is the address space that the caller has locked.
    ///
    /// # Errors
    /// As [`Pages::submit_init`].
    pub(crate) fn init<'b>(
        &mut self,
        memory: &Memory<H>,
        (handle, buffer, user): (u32, &Buffer<H>, &'b User),
        mut own: Option<(&H::Vm, &mut Space)>,
    ) -> Result<Held<'b>, Refusal> {
        user.pages.submit_init(|| {
            for vm in memory.living_vms() {
                let forgotten = match &mut own {
                    Some((device, space)) if std::ptr::eq(*device, &raw const vm.device) => {
                        space.set_off_device(handle)
                    }
                    Some(_) | None => vm.space.lock().set_off_device(handle),
                };
                if let Some(place) = forgotten {
                    self.hands.unbind(&vm.device, place.address, place.size);
                }
                self.vms.push(vm);
            }
            self.hands.pin_userptr(&buffer.device)
        })
    }
}

impl<H: Hands> Session<H> {
    /// i915 GEM_USERPTR over a memfd: `memfd` is what the daemon found out about the fd, and `map` maps
    /// so many bytes of it, for writing or not; it is called if the memfd is not mapped yet.
    ///
    /// PROBE asks for nothing more: a range inside a memfd that cannot shrink has pages.
    ///
    /// # Errors
    /// In the kernel's order: ENODEV without LLC or snooping; EINVAL for unknown flags; E2BIG above the
    /// limit of one buffer; EINVAL for length 0 or anything but whole pages; what is wrong with the fd;
    /// E2BIG for a memfd above 16 GiB; EFAULT for a range that is not inside; ENODEV for UNSYNCHRONIZED,
    /// and for READ_ONLY where there are no read-only pages; ENOMEM at the limits of buffers, memfds and
    /// their memory; what the device says.
    pub fn userptr_create<Fd>(
        &self,
        request: &UserptrCreate<Fd>,
        memfd: Result<Memfd, Refusal>,
        map: impl FnOnce(u64, bool) -> Result<H::UserMemory, Refusal>,
    ) -> Result<BufferCreated, Refusal> {
        let (memfd, end) = self.check_userptr(request, memfd)?;
        let read_only = request.flags & flag::READ_ONLY != 0;
        let (offset, size) = (request.offset, request.length);
        let mut gone = Gone::nothing();
        let mut memory = self.memory.lock();
        let room = memory.reserve(0)?;
        let mut files = self.userptrs.hold_off();
        files.sweep(&self.hands, &mut gone);
        let made = files.memory(&memfd, (end, !read_only), &memory, map).and_then(|mapped| {
            let device = self.hands.create_userptr(&mapped, offset, size, read_only)?;
            let user = User { pages: Pages::new(), read_only, file: memfd.file, offset };
            let buffer = Buffer::over(device, size, user);
            Ok((memory.insert_buffer(Arc::clone(&buffer), room)?, buffer))
        });
        match made {
            Ok((buffer, made)) => {
                if let Some(file) = files.by_file.get_mut(&memfd.file) {
                    file.open.insert(buffer.0, made);
                    files.by_handle.insert(buffer.0, memfd.file);
                }
                Ok(BufferCreated { buffer, size })
            }
            Err(refusal) => {
                // A mapping that was made for this buffer alone goes with it.
                files.sweep(&self.hands, &mut gone);
                Err(refusal)
            }
        }
    }

    /// What can be wrong with USERPTR_CREATE by itself. Answers the end of the range, too.
    fn check_userptr<Fd>(
        &self,
        request: &UserptrCreate<Fd>,
        memfd: Result<Memfd, Refusal>,
    ) -> Result<(Memfd, u64), Refusal> {
        if !self.caps.has_llc_or_snoop {
            return Err(Reason::UserptrUnsupported.into());
        }
        let &UserptrCreate { offset, length, flags, .. } = request;
        if flags & flag::UNKNOWN != 0 {
            return Err(Refusal::new(Reason::UserptrFlags).with_detail(format!("{flags:#x}")));
        }
        if length > self.buffer_bytes {
            return Err(Reason::BufferTooLarge.into());
        }
        if length == 0 || !(offset | length).is_multiple_of(PAGE_BYTES) {
            let detail = format!("{length} bytes at {offset}");
            return Err(Refusal::new(Reason::UserptrAlignment).with_detail(detail));
        }
        let memfd = memfd?;
        let read_only = flags & flag::READ_ONLY != 0;
        if !read_only {
            memfd.write?;
        }
        if memfd.bytes > USERPTR_MEMFD_BYTES_MAX {
            return Err(Reason::UserptrFileTooLarge.into());
        }
        let inside = |end: &u64| *end <= memfd.bytes.next_multiple_of(PAGE_BYTES);
        let Some(end) = offset.checked_add(length).filter(inside) else {
            let detail = format!("{offset} + {length} of {}", memfd.bytes);
            return Err(Refusal::new(Reason::UserptrRange).with_detail(detail));
        };
        if flags & flag::UNSYNCHRONIZED != 0 {
            return Err(Reason::UserptrUnsynchronized.into());
        }
        if read_only && !self.caps.has_read_only_pages {
            return Err(Reason::UserptrReadOnly.into());
        }
        Ok((memfd, end))
    }

    /// Stands for the mmu notifier: the pages of a range of a memfd become others. Submissions from now
    /// on take hold of the new ones; `f` is given every buffer that overlaps, to wait for the work that
    /// still uses the old ones.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; EINVAL if it is not a userptr buffer.
    pub fn userptr_invalidate<T>(
        &self,
        request: &UserptrInvalidate,
        f: impl FnOnce(&[&H::Buffer]) -> T,
    ) -> Result<T, Refusal> {
        let end = request.offset.saturating_add(request.length);
        let overlaps = |buffer: &&Arc<Buffer<H>>| {
            buffer.user.as_ref().is_some_and(|user| {
                user.offset < end && request.offset < user.offset.saturating_add(buffer.size)
            })
        };
        let mut gone = Gone::nothing();
        let mut files = self.userptrs.hold_off();
        let Some(file) = files.by_handle.get(&request.buffer.0).copied() else {
            drop(files);
            let known = self.memory.lock().buffer(request.buffer).is_ok();
            let reason = if known { Reason::UserptrExpected } else { Reason::NoSuchBuffer };
            return Err(reason.into());
        };
        files.sweep(&self.hands, &mut gone);
        let file = files.by_file.get(&file);
        let buffers = file.into_iter().flat_map(|file| file.open.values().chain(&file.closed));
        let found: Vec<_> = buffers.filter(overlaps).map(Arc::clone).collect();
        for user in found.iter().filter_map(|buffer| buffer.user.as_ref()) {
            user.pages.invalidate();
        }
        drop(files);
        let devices: Vec<_> = found.iter().map(|buffer| &buffer.device).collect();
        Ok(f(&devices))
    }

    /// A userptr handle was given up; the caller holds the memory lock. If work in flight uses the
    /// buffer, invalidations go on waiting for it.
    pub(crate) fn userptr_closed(&self, id: BufferId, closed: &Arc<Buffer<H>>, gone: &mut Gone<H>) {
        let Some(user) = &closed.user else { return };
        let mut files = self.userptrs.hold_off();
        files.by_handle.remove(&id.0);
        if let Some(file) = files.by_file.get_mut(&user.file) {
            file.open.remove(&id.0);
            file.closed.push(Arc::clone(closed));
        }
        files.sweep(&self.hands, gone);
    }

    /// Whether a buffer's pages can be had (the kernel's validate, of SET_DOMAIN); nothing if it is not
    /// a userptr one.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; as [`Pages::submit_init`].
    pub(crate) fn userptr_validate(&self, id: BufferId) -> Result<(), Refusal> {
        let mut vms = Vec::new();
        let memory = self.memory.lock();
        let buffer = memory.buffer(id)?;
        if let Some(user) = &buffer.user {
            let mut pinner = Pinner { hands: &*self.hands, vms: &mut vms };
            pinner.init(&memory, (id.0, buffer, user), None)?;
        }
        Ok(())
    }
}
