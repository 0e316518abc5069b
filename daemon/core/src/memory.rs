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
use crate::class::{Class, Hold, Resource};
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
    /// Charged for every handle there is.
    class: Arc<Class>,
    /// Number of the last submission, queued or refused.
    pub(crate) submission: u64,
    /// How many were queued. Counted here because the lock is held anyway, and an atomic of its own
    /// costs every submission some five nanoseconds.
    pub(crate) submissions: u64,
}

impl<H: Hands> Memory<H> {
    pub(crate) fn new(limits: SessionLimits, class: Arc<Class>) -> Self {
        Self {
            buffers: Table::default(),
            buffer_bytes: 0,
            vms: Table::default(),
            spaces: Vec::new(),
            sweep_at: 4,
            limits,
            class,
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
        let room = self.reserve_vm()?;
        let id = self.vms.insert(self.limits.vms, vm).ok_or(Reason::VmLimit)?;
        room.keep();
        Ok(VmId(id))
    }

    /// Room for another handle?
    fn reserve_vm(&self) -> Result<Hold, Refusal> {
        if self.vms.len() >= self.limits.vms {
            return Err(full(Reason::VmLimit, "vms", self.limits.vms));
        }
        self.class.hold(Resource::Vms, 1)
    }

    /// Changes the limits; closed for good once they are zero.
    pub(crate) fn set_limits(&mut self, limits: SessionLimits) {
        if self.limits.buffers != 0 {
            self.limits = limits;
        }
    }

    pub(crate) fn buffer(&self, id: BufferId) -> Result<&Arc<Buffer<H>>, Refusal> {
        self.buffers.get(id.0).ok_or_else(|| Reason::NoSuchBuffer.into())
    }

    /// Room for a buffer of `size` bytes, in the session and in its class?
    pub(crate) fn reserve(&self, size: u64) -> Result<Room, Refusal> {
        let SessionLimits { buffers, buffer_memory_bytes, .. } = self.limits;
        if self.buffers.len() >= buffers {
            return Err(full(Reason::BufferLimit, "buffers", buffers));
        }
        let total = self.buffer_bytes.checked_add(size);
        if total.is_none_or(|total| total > buffer_memory_bytes) {
            let key = "buffer_memory_bytes";
            return Err(full(Reason::BufferMemoryLimit, key, buffer_memory_bytes));
        }
        let count = self.class.hold(Resource::Buffers, 1)?;
        Ok(Room { count, bytes: self.class.hold(Resource::BufferMemory, size)? })
    }

    /// Who is charged.
    pub(crate) const fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// Bytes of memfds that userptr buffers may be over.
    pub(crate) const fn userptr_limit(&self) -> u64 {
        self.limits.userptr_memory_bytes
    }

    /// A handle for a buffer that [`Self::reserve`] has found room for.
    pub(crate) fn insert_buffer(
        &mut self,
        buffer: Arc<Buffer<H>>,
        room: Room,
    ) -> Result<BufferId, Refusal> {
        let size = buffer.charged_bytes();
        let id = self.buffers.insert(self.limits.buffers, buffer).ok_or(Reason::BufferLimit)?;
        self.buffer_bytes = self.buffer_bytes.saturating_add(size);
        room.count.keep();
        room.bytes.keep();
        Ok(BufferId(id))
    }

    /// Takes a handle away.
    pub(crate) fn remove_buffer(&mut self, id: BufferId) -> Result<Arc<Buffer<H>>, Refusal> {
        let buffer = self.buffers.remove(id.0).ok_or(Reason::NoSuchBuffer)?;
        self.buffer_bytes = self.buffer_bytes.saturating_sub(buffer.charged_bytes());
        self.class.release(Resource::Buffers, 1);
        self.class.release(Resource::BufferMemory, buffer.charged_bytes());
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

impl<H: Hands> Drop for Memory<H> {
    fn drop(&mut self) {
        self.class.release(Resource::Vms, self.vms.len().into());
        self.class.release(Resource::Buffers, self.buffers.len().into());
        self.class.release(Resource::BufferMemory, self.buffer_bytes);
    }
}

/// A place for a buffer, given back unless the buffer got there.
pub(crate) struct Room {
    count: Hold,
    bytes: Hold,
}

/// The session itself has as much as it may.
fn full(reason: Reason, key: &str, most: impl std::fmt::Display) -> Refusal {
    Refusal::new(reason).with_detail(format!("session.{key} = {most}"))
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
        // Asked before the device is, which is not asked for what has no room.
        drop(memory.reserve_vm()?);
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
        let vm = self.memory.lock().vms.remove(request.vm.0).ok_or(Reason::NoSuchVm)?;
        self.class.release(Resource::Vms, 1);
        drop(vm);
        Ok(())
    }
}
