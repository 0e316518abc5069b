//! Buffers of one session: made, imported, closed, and what GEM lets clients ask of them (rule
//! table §17).
//!
//! Domains and caching are the device's business (the software GPU is coherent and has none of it).
//! Tiling and advice change nothing but what is answered later. The kernel keeps all of them with the
//! memory; what we answer is kept with the handle, so a session that imports a buffer starts with the
//! defaults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gpu_broker_protocol::limits::PAGE_BYTES;
use gpu_broker_protocol::message::{BufferCreate, BufferCreated};
use gpu_broker_protocol::object::{
    BufferAccess, BufferCaching, BufferExport, BufferMadvise, BufferSetDomain, BufferSetTiling,
    Caching, Retained, Tiling, advice, caching, export_flag, fence_flag, tiling,
};
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::{BufferId, Reason, Refusal};

use crate::hands::{self, Hands};
use crate::memory::{Memory, Room, Vm};
use crate::session::Session;
use crate::userptrs::{Gone, User};

/// Kernel's ENOTSUP for what newer devices lost.
const EOPNOTSUPP: i32 = 95;

/// A buffer.
pub(crate) struct Buffer<H: Hands> {
    pub(crate) device: H::Buffer,
    /// Bytes; a positive multiple of the page size.
    pub(crate) size: u64,
    /// Number of the last submission that named it, so that one which names it twice is found
    /// without a set.
    pub(crate) last_submission: AtomicU64,
    /// Set if it is an application's memory.
    pub(crate) user: Option<Box<User>>,
    /// [`Modes`] in one word: a submission reads each of its buffers from memory, so they are kept
    /// small.
    modes: AtomicU64,
}

/// A buffer whose handle may be closed meanwhile.
pub struct HeldBuffer<H: Hands>(Arc<Buffer<H>>);

impl<H: Hands> HeldBuffer<H> {
    /// The device's buffer.
    #[must_use]
    pub fn device(&self) -> &H::Buffer {
        &self.0.device
    }
}

/// What is only remembered.
#[derive(Clone, Copy)]
struct Modes {
    /// A mode of `caching`.
    caching: u32,
    /// A mode of `tiling`.
    tiling: u32,
    /// Bytes of a row; 0 without tiles.
    stride: u32,
}

impl Modes {
    /// As clients are told. From version 8 on no address bits are swizzled.
    fn tiling(self) -> Tiling {
        Tiling { mode: self.tiling, stride: self.stride, swizzle: 0 }
    }

    fn to_word(self) -> u64 {
        u64::from(self.stride) << 32 | u64::from(self.tiling) << 8 | u64::from(self.caching)
    }

    fn from_word(word: u64) -> Self {
        let [caching, tiling, _, _, stride @ ..] = word.to_le_bytes();
        Self { caching: caching.into(), tiling: tiling.into(), stride: u32::from_le_bytes(stride) }
    }
}

/// Bytes of a row of a tile: what a stride must be a multiple of.
const X_ROW_BYTES: u32 = 512;
const Y_ROW_BYTES: u32 = 128;
/// Largest stride, in units of 128 bytes, that a fence register holds from version 7 on.
const PITCH_MAX: u32 = 0x800;

/// Domains of the CPU are everything else.
const GPU_DOMAINS: u32 = 0x3e;
/// System memory.
const SYSTEM: EngineId = EngineId { class: 0, instance: 0 };

impl<H: Hands> Buffer<H> {
    fn new(device: H::Buffer, size: u64) -> Arc<Self> {
        Arc::new(Self::with(device, size, None))
    }

    /// Of an application's memory.
    pub(crate) fn over(device: H::Buffer, size: u64, user: User) -> Arc<Self> {
        Arc::new(Self::with(device, size, Some(Box::new(user))))
    }

    fn with(device: H::Buffer, size: u64, user: Option<Box<User>>) -> Self {
        let modes = Modes { caching: caching::CACHED, tiling: tiling::NONE, stride: 0 };
        let modes = AtomicU64::new(modes.to_word());
        Self { device, size, last_submission: AtomicU64::new(0), user, modes }
    }

    /// What it counts against the session's buffer memory: an application's memory does not.
    pub(crate) const fn charged_bytes(&self) -> u64 {
        if self.user.is_some() { 0 } else { self.size }
    }

    /// # Errors
    /// The reason, if it is an application's memory.
    fn not_user(&self, reason: Reason) -> Result<(), Refusal> {
        if self.user.is_some() { Err(reason.into()) } else { Ok(()) }
    }

    fn modes(&self) -> Modes {
        Modes::from_word(self.modes.load(Ordering::Relaxed))
    }

    fn change_modes(&self, change: impl Fn(&mut Modes)) {
        let changed = |word| {
            let mut modes = Modes::from_word(word);
            change(&mut modes);
            Some(modes.to_word())
        };
        // The closure always answers `Some`, so there is no error to look at.
        let _ = self.modes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl<H: Hands> Session<H> {
    /// i915 GEM_CREATE and GEM_CREATE_EXT: a zeroed buffer, rounded up to pages.
    ///
    /// # Errors
    /// EINVAL for flags, for a list of regions other than system memory once, or for size 0, or
    /// one that is rounded up to 2⁶⁴; E2BIG above the limit of one buffer; ENOMEM at the limit of
    /// buffers or of their memory, or from the device.
    pub fn buffer_create(&self, request: &BufferCreate) -> Result<BufferCreated, Refusal> {
        // NEEDS_CPU_ACCESS, the only flag there is, is for buffers that may live elsewhere too.
        if request.flags != 0 {
            return Err(Reason::BufferSize.into());
        }
        if request.regions.as_ref().is_some_and(|regions| regions != &[SYSTEM]) {
            return Err(Reason::BufferRegions.into());
        }
        // The kernel's sum wraps around to 0 in the last page.
        let size = request.size.checked_next_multiple_of(PAGE_BYTES).unwrap_or(0);
        if size == 0 {
            return Err(Reason::BufferSize.into());
        }
        if size > self.buffer_bytes {
            return Err(Reason::BufferTooLarge.into());
        }
        let mut memory = self.memory.lock();
        let room = memory.reserve(size)?;
        let device = self.hands.create_buffer(size)?;
        self.add(&mut memory, room, device, size)
    }

    /// PRIME_FD_TO_HANDLE: a handle for a buffer of `size` bytes that the daemon imported. The same
    /// memory has one handle in a session, whoever made it, and counts once against its limits.
    ///
    /// # Errors
    /// ENOMEM at the limit of buffers or of their memory.
    pub fn buffer_insert(&self, device: H::Buffer, size: u64) -> Result<BufferCreated, Refusal> {
        let mut memory = self.memory.lock();
        let same = |buffer: &&Arc<Buffer<H>>| self.hands.same_buffer(&buffer.device, &device);
        let known = memory.buffers.iter().find(|(_, buffer)| same(buffer));
        if let Some((id, buffer)) = known {
            return Ok(BufferCreated { buffer: BufferId(id), size: buffer.size });
        }
        let room = memory.reserve(size)?;
        self.add(&mut memory, room, device, size)
    }

    fn add(
        &self,
        memory: &mut Memory<H>,
        room: Room,
        device: H::Buffer,
        size: u64,
    ) -> Result<BufferCreated, Refusal> {
        let buffer = Buffer::new(device, size);
        let id = memory.insert_buffer(buffer, room)?;
        Ok(BufferCreated { buffer: id, size })
    }

    /// i915 GEM_CLOSE: gives the handle up and takes the buffer out of every address space. Work
    /// in flight still uses it.
    ///
    /// # Errors
    /// ENOENT for an unknown handle. (The kernel answers EINVAL to GEM_CLOSE of an unknown handle;
    /// the preload translates.)
    pub fn buffer_close(&self, buffer: BufferId) -> Result<(), Refusal> {
        let mut gone = Gone::nothing();
        let mut memory = self.memory.lock();
        let closed = memory.remove_buffer(buffer)?;
        self.userptr_closed(buffer, &closed, &mut gone);
        // Another thread may let go of a VM while we hold it; the end of one must not come under
        // the lock, so all are let go of after it.
        let vms: Vec<Arc<Vm<H>>> = memory.living_vms();
        for vm in &vms {
            let place = vm.space.lock().remove(buffer.0);
            if let Some(place) = place.filter(|place| place.on_device) {
                self.hands.unbind(&vm.device, place.address, place.size);
            }
        }
        drop(memory);
        drop(closed);
        Ok(())
    }

    /// The buffer, which stays when its handle is closed.
    ///
    /// # Errors
    /// ENOENT for an unknown handle.
    pub fn hold_buffer(&self, buffer: BufferId) -> Result<HeldBuffer<H>, Refusal> {
        self.find_buffer(buffer).map(HeldBuffer)
    }

    /// Lets `f` look at the device's buffer and its size in bytes.
    ///
    /// # Errors
    /// ENOENT for an unknown handle.
    pub fn with_buffer<T>(
        &self,
        buffer: BufferId,
        f: impl FnOnce(&H::Buffer, u64) -> T,
    ) -> Result<T, Refusal> {
        let buffer = self.find_buffer(buffer)?;
        Ok(f(&buffer.device, buffer.size))
    }

    fn find_buffer(&self, buffer: BufferId) -> Result<Arc<Buffer<H>>, Refusal> {
        self.memory.lock().buffer(buffer).map(Arc::clone)
    }

    /// i915 GEM_SET_DOMAIN. Says what to wait for before the answer: `Some(true)` for everybody who
    /// uses the buffer, `Some(false)` for the last writer, `None` for nothing.
    ///
    /// # Errors
    /// ENODEV on discrete devices; EINVAL for GPU domains, or a write domain that is not the read
    /// domain; ENOENT for an unknown handle, which is not looked at without read domains; EFAULT or
    /// ENOMEM for an application's memory whose pages cannot be had.
    pub fn buffer_set_domain(&self, request: &BufferSetDomain) -> Result<Option<bool>, Refusal> {
        if self.caps.discrete {
            return Err(Reason::BufferUnsupported.into());
        }
        let &BufferSetDomain { buffer, read_domains, write_domain } = request;
        let mismatch = write_domain != 0 && write_domain != read_domains;
        if (read_domains | write_domain) & GPU_DOMAINS != 0 || mismatch {
            return Err(Reason::BufferDomain.into());
        }
        if read_domains == 0 {
            return Ok(None);
        }
        self.userptr_validate(buffer)?;
        Ok(Some(write_domain != 0))
    }

    /// What GEM_PREAD and GEM_PWRITE check. Says what to wait for before the answer, as
    /// [`Self::buffer_set_domain`] does.
    ///
    /// # Errors
    /// EOPNOTSUPP from version 12 on, Tiger Lake excepted; for a size above 0: ENOENT for an
    /// unknown handle, EINVAL for a range outside the buffer and for an application's memory.
    pub fn buffer_access(&self, request: &BufferAccess) -> Result<Option<bool>, Refusal> {
        // The devices that lost relocations lost these two with them.
        if !self.caps.has_relocations {
            return Err(Refusal::new(Reason::BufferUnsupported).with_errno(EOPNOTSUPP));
        }
        if request.size == 0 {
            return Ok(None);
        }
        let buffer = self.find_buffer(request.buffer)?;
        let end = request.offset.checked_add(request.size);
        if end.is_none_or(|end| end > buffer.size) {
            let detail = format!("{} + {} of {}", request.offset, request.size, buffer.size);
            return Err(Refusal::new(Reason::BufferRange).with_detail(detail));
        }
        buffer.not_user(Reason::UserptrTransfer)?;
        Ok(Some(request.write))
    }

    /// i915 GEM_SET_CACHING.
    ///
    /// # Errors
    /// ENODEV on discrete devices, EOPNOTSUPP from 12.70 on; EINVAL for an unknown mode; ENOENT for
    /// an unknown handle; ENXIO for an application's memory and any mode but cached; what the device
    /// says.
    pub fn buffer_set_caching(&self, request: &BufferCaching) -> Result<(), Refusal> {
        if self.caps.discrete {
            return Err(Reason::BufferUnsupported.into());
        }
        if (self.caps.graphics_version, self.caps.graphics_release) >= (12, 70) {
            return Err(Refusal::new(Reason::BufferUnsupported).with_errno(EOPNOTSUPP));
        }
        let (mode, wanted) = match request.caching {
            caching::CACHED => (caching::CACHED, hands::Caching::Cached),
            caching::NONE => (caching::NONE, hands::Caching::Uncached),
            // Without write-through, display memory is uncached.
            caching::DISPLAY => (caching::NONE, hands::Caching::Display),
            other => {
                return Err(Refusal::new(Reason::BufferCaching).with_detail(other.to_string()));
            }
        };
        let buffer = self.find_buffer(request.buffer)?;
        if request.caching != caching::CACHED {
            buffer.not_user(Reason::UserptrCaching)?;
        }
        if buffer.user.is_none() {
            self.hands.set_caching(&buffer.device, wanted)?;
        }
        buffer.change_modes(|modes| modes.caching = mode);
        Ok(())
    }

    /// i915 GEM_GET_CACHING: cached unless it was set otherwise, as on every device whose CPU and
    /// GPU share the last level of cache.
    ///
    /// # Errors
    /// ENODEV on discrete devices; ENOENT for an unknown handle.
    pub fn buffer_get_caching(&self, buffer: BufferId) -> Result<Caching, Refusal> {
        if self.caps.discrete {
            return Err(Reason::BufferUnsupported.into());
        }
        let caching = self.find_buffer(buffer)?.modes().caching;
        Ok(Caching { caching })
    }

    /// i915 GEM_SET_TILING: recorded, for whoever asks; no access through it is offered.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; ENXIO for an application's memory; EINVAL for an unknown mode, or
    /// a stride that the mode cannot have.
    pub fn buffer_set_tiling(&self, request: &BufferSetTiling) -> Result<Tiling, Refusal> {
        let buffer = self.find_buffer(request.buffer)?;
        buffer.not_user(Reason::UserptrTiling)?;
        let row = match request.mode {
            tiling::NONE => {
                buffer.change_modes(|modes| (modes.tiling, modes.stride) = (tiling::NONE, 0));
                return Ok(buffer.modes().tiling());
            }
            tiling::X => X_ROW_BYTES,
            tiling::Y => Y_ROW_BYTES,
            other => {
                return Err(Refusal::new(Reason::BufferTiling).with_detail(format!("mode {other}")));
            }
        };
        let stride = request.stride;
        if stride == 0 || !stride.is_multiple_of(row) || stride / 128 > PITCH_MAX {
            return Err(Refusal::new(Reason::BufferTiling).with_detail(format!("stride {stride}")));
        }
        buffer.change_modes(|modes| (modes.tiling, modes.stride) = (request.mode, stride));
        Ok(buffer.modes().tiling())
    }

    /// i915 GEM_GET_TILING.
    ///
    /// # Errors
    /// ENOENT for an unknown handle.
    pub fn buffer_get_tiling(&self, buffer: BufferId) -> Result<Tiling, Refusal> {
        Ok(self.find_buffer(buffer)?.modes().tiling())
    }

    /// i915 GEM_MADVISE. Memory is never taken back, so it is always retained.
    ///
    /// # Errors
    /// EINVAL for unknown advice; ENOENT for an unknown handle.
    pub fn buffer_madvise(&self, request: &BufferMadvise) -> Result<Retained, Refusal> {
        if !matches!(request.advice, advice::WILL_NEED | advice::DONT_NEED) {
            let detail = request.advice.to_string();
            return Err(Refusal::new(Reason::BufferAdvice).with_detail(detail));
        }
        self.find_buffer(request.buffer)?;
        Ok(Retained { retained: 1 })
    }

    /// Checks PRIME_HANDLE_TO_FD.
    ///
    /// # Errors
    /// EINVAL for unknown flags; ENOENT for an unknown handle; EINVAL for an application's memory.
    pub fn buffer_export(&self, request: &BufferExport) -> Result<(), Refusal> {
        if request.flags & !(export_flag::CLOEXEC | export_flag::RDWR) != 0 {
            return Err(Reason::BufferExportFlags.into());
        }
        self.find_buffer(request.buffer)?.not_user(Reason::UserptrExport)
    }

    /// Checks BUFFER_FENCE_EXPORT and BUFFER_FENCE_IMPORT; whether they are about all that uses the
    /// buffer, for who reads and writes.
    ///
    /// # Errors
    /// EINVAL for unknown flags and for none; ENOENT for an unknown handle; EINVAL for an application's
    /// memory, which has no fd that could be asked.
    pub fn buffer_fences(&self, buffer: BufferId, flags: u32) -> Result<bool, Refusal> {
        if flags == 0 || flags & !(fence_flag::READ | fence_flag::WRITE) != 0 {
            return Err(Reason::BufferFenceFlags.into());
        }
        self.find_buffer(buffer)?.not_user(Reason::UserptrExport)?;
        Ok(flags & fence_flag::WRITE != 0)
    }

    /// Lets `f` look at the device's buffer and its size in bytes, in order to map it.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; ENODEV for an application's memory.
    pub fn buffer_map<T>(
        &self,
        buffer: BufferId,
        f: impl FnOnce(&H::Buffer, u64) -> T,
    ) -> Result<T, Refusal> {
        let buffer = self.find_buffer(buffer)?;
        buffer.not_user(Reason::UserptrMap)?;
        Ok(f(&buffer.device, buffer.size))
    }
}
