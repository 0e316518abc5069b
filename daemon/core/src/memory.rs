//! Address spaces of one session (rule table §10), and the tables of all its memory.
//!
//! A VM lives as long as a handle, a proto-context or a live context refers to it; the device keeps
//! it beyond that for work in flight. References are counted, so nothing here follows a pointer
//! that a close could have taken away.

use std::sync::{Arc, Weak};

use gpu_broker_protocol::message::{VmCreate, VmCreated, VmDestroy};
use gpu_broker_protocol::{BufferId, Reason, Refusal, VmId};

use crate::buffer::Buffer;
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

/// The session's handles, and every VM of it that is alive.
pub(crate) struct Memory<H: Hands> {
    pub(crate) buffers: Table<Arc<Buffer<H>>>,
    buffer_bytes: u64,
    vms: Table<Arc<Vm<H>>>,
    /// With and without a handle; entries of the dead are swept when the list has doubled.
    spaces: Vec<Weak<Vm<H>>>,
    sweep_at: usize,
    limits: SessionLimits,
    /// Number of the last submission, queued or refused.
    pub(crate) submission: u64,
    /// How many were queued. Counted here because the lock is held anyway, and an atomic of its own
    /// costs every submission some five nanoseconds.
    pub(crate) submissions: u64,
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
            submissions: 0,
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

    pub(crate) fn buffer(&self, id: BufferId) -> Result<&Arc<Buffer<H>>, Refusal> {
        self.buffers.get(id.0).ok_or_else(|| Reason::NoSuchBuffer.into())
    }

    /// Room for a buffer of `size` bytes?
    pub(crate) fn check_quota(&self, size: u64) -> Result<(), Refusal> {
        if self.buffers.len() >= self.limits.buffers {
            return Err(Reason::BufferLimit.into());
        }
        match self.buffer_bytes.checked_add(size) {
            Some(total) if total <= self.limits.buffer_memory_bytes => Ok(()),
            Some(_) | None => Err(Reason::BufferMemoryLimit.into()),
        }
    }

    /// A handle for a buffer that [`Self::check_quota`] has room for.
    pub(crate) fn insert_buffer(&mut self, buffer: Arc<Buffer<H>>) -> Result<BufferId, Refusal> {
        let size = buffer.size;
        let id = self.buffers.insert(self.limits.buffers, buffer).ok_or(Reason::BufferLimit)?;
        self.buffer_bytes = self.buffer_bytes.saturating_add(size);
        Ok(BufferId(id))
    }

    /// Takes a handle away.
    pub(crate) fn remove_buffer(&mut self, id: BufferId) -> Result<Arc<Buffer<H>>, Refusal> {
        let buffer = self.buffers.remove(id.0).ok_or(Reason::NoSuchBuffer)?;
        self.buffer_bytes = self.buffer_bytes.saturating_sub(buffer.size);
        Ok(buffer)
    }

    /// Every VM of the session that something refers to.
    pub(crate) fn living_vms(&self) -> Vec<Arc<Vm<H>>> {
        self.spaces.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn all_buffers(&self) -> impl Iterator<Item = &Arc<Buffer<H>>> {
        self.buffers.iter().map(|(_, buffer)| buffer)
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
}
