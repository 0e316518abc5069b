//! Address spaces and buffers of one session (rule table §10, §17).
//!
//! A VM lives as long as a handle, a proto-context or a live context refers to it; the device keeps
//! it beyond that for work in flight. References are counted, so nothing here follows a pointer
//! that a close could have taken away.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use gpu_broker_protocol::limits::PAGE_BYTES;
use gpu_broker_protocol::message::{BufferCreate, BufferCreated, VmCreate, VmCreated, VmDestroy};
use gpu_broker_protocol::{BufferId, Reason, Refusal, VmId};

use crate::capabilities::Capabilities;
use crate::chain;
use crate::hands::Hands;
use crate::policy::SessionLimits;
use crate::session::Session;
use crate::space::Space;
use crate::sync::Mutex;
use crate::table::Table;

/// An address space.
pub(crate) struct Vm<H: Hands> {
    pub(crate) device: H::Vm,
    pub(crate) space: Mutex<Space>,
}

/// A buffer.
pub(crate) struct Buffer<H: Hands> {
    pub(crate) device: H::Buffer,
    /// Bytes; a positive multiple of the page size.
    pub(crate) size: u64,
    /// Number of the last submission that named it, so that one which names it twice is found
    /// without a set.
    pub(crate) last_submission: AtomicU64,
}

/// The session's handles, and every VM of it that is alive.
pub(crate) struct Memory<H: Hands> {
    pub(crate) buffers: Table<Arc<Buffer<H>>>,
    buffer_bytes: u64,
    vms: Table<Arc<Vm<H>>>,
    /// With and without a handle; entries of the dead are swept when the list has doubled.
    spaces: Vec<Weak<Vm<H>>>,
    sweep_at: usize,
    limits: SessionLimits,
    /// Number of the last submission.
    pub(crate) submission: u64,
}

impl<H: Hands> Memory<H> {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self {
            buffers: Table::default(),
            buffer_bytes: 0,
            vms: Table::default(),
            spaces: Vec::new(),
            sweep_at: 4,
            limits,
            submission: 0,
        }
    }

    /// A VM without a handle.
    pub(crate) fn new_vm(&mut self, hands: &H, caps: &Capabilities) -> Result<Arc<Vm<H>>, Refusal> {
        let device = hands.create_vm()?;
        let vm = Arc::new(Vm { device, space: Mutex::new(Space::new(caps.gtt_bytes)) });
        if self.spaces.len() >= self.sweep_at {
            self.spaces.retain(|space| space.strong_count() > 0);
            self.sweep_at = (2 * self.spaces.len()).max(4);
        }
        self.spaces.push(Arc::downgrade(&vm));
        Ok(vm)
    }

    /// The VM behind a handle.
    pub(crate) fn vm(&self, id: VmId) -> Result<Arc<Vm<H>>, Refusal> {
        self.vms.get(id.0).cloned().ok_or_else(|| Reason::NoSuchVm.into())
    }

    /// Another handle for a VM.
    pub(crate) fn insert_vm(&mut self, vm: Arc<Vm<H>>) -> Result<VmId, Refusal> {
        let id = self.vms.insert(self.limits.vms, vm).ok_or(Reason::VmLimit)?;
        Ok(VmId(id))
    }

    fn vm_limit_reached(&self) -> bool {
        self.vms.len() >= self.limits.vms
    }

    fn buffer(&self, id: BufferId) -> Result<&Arc<Buffer<H>>, Refusal> {
        self.buffers.get(id.0).ok_or_else(|| Reason::NoSuchBuffer.into())
    }

    /// Room for a buffer of `size` bytes?
    fn check_quota(&self, size: u64) -> Result<(), Refusal> {
        if self.buffers.len() >= self.limits.buffers {
            return Err(Reason::BufferLimit.into());
        }
        match self.buffer_bytes.checked_add(size) {
            Some(total) if total <= self.limits.buffer_memory_bytes => Ok(()),
            Some(_) | None => Err(Reason::BufferMemoryLimit.into()),
        }
    }

    /// Counts for status: VM handles, buffers, bytes of buffers.
    pub(crate) fn counts(&self) -> (u32, u32, u64) {
        (self.vms.len(), self.buffers.len(), self.buffer_bytes)
    }
}

impl<H: Hands> Session<H> {
    /// i915 VM_CREATE (rule table §10).
    ///
    /// # Errors
    /// ENODEV without separate address spaces; EINVAL for flags, reserved fields or any extension;
    /// ENOMEM at the limit or from the device.
    pub fn vm_create(&self, request: &VmCreate) -> Result<VmCreated, Refusal> {
        if !self.caps.full_ppgtt {
            return Err(Reason::VmUnsupported.into());
        }
        if request.flags != 0 {
            return Err(Reason::VmFlags.into());
        }
        chain::walk(&request.extensions, |name, ()| Err(chain::unknown(name)))?;
        let mut memory = self.memory.lock();
        if memory.vm_limit_reached() {
            return Err(Reason::VmLimit.into());
        }
        let vm = memory.new_vm(&self.hands, &self.caps)?;
        Ok(VmCreated { vm: memory.insert_vm(vm)? })
    }

    /// i915 VM_DESTROY: gives the handle up. Contexts that use the VM keep it (rule table §10).
    ///
    /// # Errors
    /// EINVAL for flags or extensions; ENOENT for an unknown id.
    pub fn vm_destroy(&self, request: &VmDestroy) -> Result<(), Refusal> {
        if request.flags != 0 || !request.extensions.is_empty() {
            return Err(Reason::VmFlags.into());
        }
        // Bound to a name, so that the last reference goes after the lock.
        let vm = self.memory.lock().vms.remove(request.vm.0);
        vm.map(drop).ok_or_else(|| Reason::NoSuchVm.into())
    }

    /// i915 GEM_CREATE: a zeroed buffer, rounded up to pages.
    ///
    /// # Errors
    /// EINVAL for size 0 or flags; E2BIG above the limit of one buffer; ENOMEM at the limit of
    /// buffers or of their memory, or from the device.
    pub fn buffer_create(&self, request: &BufferCreate) -> Result<BufferCreated, Refusal> {
        if request.flags != 0 || request.size == 0 {
            return Err(Reason::BufferSize.into());
        }
        let size = request.size.checked_next_multiple_of(PAGE_BYTES);
        let Some(size) = size.filter(|size| *size <= self.limits.buffer_bytes) else {
            return Err(Reason::BufferTooLarge.into());
        };
        let mut memory = self.memory.lock();
        memory.check_quota(size)?;
        let device = self.hands.create_buffer(size)?;
        let buffer = Arc::new(Buffer { device, size, last_submission: AtomicU64::new(0) });
        let limit = memory.limits.buffers;
        let id = memory.buffers.insert(limit, buffer).ok_or(Reason::BufferLimit)?;
        memory.buffer_bytes = memory.buffer_bytes.saturating_add(size);
        Ok(BufferCreated { buffer: BufferId(id), size })
    }

    /// i915 GEM_CLOSE: gives the handle up and takes the buffer out of every address space. Work
    /// in flight still uses it.
    ///
    /// # Errors
    /// ENOENT for an unknown handle. (The kernel answers EINVAL to GEM_CLOSE of an unknown handle;
    /// the preload translates.)
    pub fn buffer_close(&self, buffer: BufferId) -> Result<(), Refusal> {
        let mut memory = self.memory.lock();
        let closed = memory.buffers.remove(buffer.0).ok_or(Reason::NoSuchBuffer)?;
        memory.buffer_bytes = memory.buffer_bytes.saturating_sub(closed.size);
        // Another thread may let go of a VM while we hold it; the end of one must not come under
        // the lock, so all are let go of after it.
        let vms: Vec<Arc<Vm<H>>> = memory.spaces.iter().filter_map(Weak::upgrade).collect();
        for vm in &vms {
            let place = vm.space.lock().remove(buffer.0);
            if let Some(place) = place.filter(|place| place.on_device) {
                self.hands.unbind(&vm.device, place.address, place.size);
            }
        }
        drop(memory);
        Ok(())
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
        let buffer = Arc::clone(self.memory.lock().buffer(buffer)?);
        Ok(f(&buffer.device, buffer.size))
    }
}
