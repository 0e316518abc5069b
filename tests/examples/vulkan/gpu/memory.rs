//! Buffers, their memory, and memory as an fd.

use std::marker::PhantomData;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::sync::atomic::AtomicU32;

use ash::vk;

use super::Gpu;

/// As what memory leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// An fd that only the same driver understands.
    Opaque,
    /// An fd for everybody.
    DmaBuf,
}

impl Kind {
    fn flag(self) -> vk::ExternalMemoryHandleTypeFlags {
        match self {
            Self::Opaque => vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD,
            Self::DmaBuf => vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT,
        }
    }
}

/// A buffer with memory, mapped.
pub(crate) struct Memory<'a> {
    pub(super) buffer: vk::Buffer,
    pub(super) bytes: u64,
    memory: vk::DeviceMemory,
    mapping: *mut u32,
    of: PhantomData<&'a Gpu>,
}

impl Memory<'_> {
    /// A word of it.
    ///
    /// # Panics
    /// When it has no such word.
    pub(crate) fn at(&self, word: usize) -> &AtomicU32 {
        assert!((word as u64) < self.bytes / 4, "{word} is out of bounds");
        // SAFETY: the mapping has the buffer's size, is page-aligned and lasts as long as the `Gpu`,
        // which is borrowed; who else writes to it, the GPU among them, is no Rust code of ours.
        unsafe { AtomicU32::from_ptr(self.mapping.wrapping_add(word)) }
    }
}

const TRANSFER: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);
/// What a mapping needs.
const VISIBLE: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw()
        | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw(),
);

impl Gpu {
    /// Whether buffers can be exported and imported so.
    pub(crate) fn offers(&self, kind: Kind) -> bool {
        let info = vk::PhysicalDeviceExternalBufferInfo::default()
            .usage(TRANSFER)
            .handle_type(kind.flag());
        let mut told = vk::ExternalBufferProperties::default();
        // SAFETY: the device is of this instance.
        unsafe {
            self.instance.get_physical_device_external_buffer_properties(
                self.physical,
                &info,
                &mut told,
            );
        }
        let wanted =
            vk::ExternalMemoryFeatureFlags::EXPORTABLE | vk::ExternalMemoryFeatureFlags::IMPORTABLE;
        told.external_memory_properties.external_memory_features.contains(wanted)
    }

    /// New memory, perhaps such as can be exported.
    pub(crate) fn memory(&self, bytes: u64, export: Option<Kind>) -> Memory<'_> {
        let kind = export.map(Kind::flag).unwrap_or_default();
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(kind);
        self.bound(
            bytes,
            kind,
            |info| {
                if kind.is_empty() { info } else { info.push_next(&mut export) }
            },
        )
    }

    /// The memory behind an fd, as other memory.
    pub(crate) fn import(&self, fd: OwnedFd, bytes: u64, kind: Kind) -> Memory<'_> {
        // An import that succeeds takes the fd; one that fails ends the program.
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(kind.flag()).fd(fd.into_raw_fd());
        self.bound(bytes, kind.flag(), |info| info.push_next(&mut import))
    }

    /// The memory as an fd.
    pub(crate) fn export(&self, memory: &Memory<'_>, kind: Kind) -> OwnedFd {
        let info = vk::MemoryGetFdInfoKHR::default().memory(memory.memory).handle_type(kind.flag());
        // SAFETY: the memory is of this device; one that was not made for export is refused.
        let fd = unsafe { self.memory_fd.get_memory_fd(&info) }.expect("an fd");
        // SAFETY: it was made for us just now.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    /// A buffer, with memory that is allocated as described.
    fn bound<'i>(
        &self,
        bytes: u64,
        kind: vk::ExternalMemoryHandleTypeFlags,
        describe: impl FnOnce(vk::MemoryAllocateInfo<'i>) -> vk::MemoryAllocateInfo<'i>,
    ) -> Memory<'_> {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(kind);
        let info =
            vk::BufferCreateInfo::default().size(bytes).usage(TRANSFER).push_next(&mut external);
        // SAFETY: `drop` destroys it before the device.
        let buffer = unsafe { self.device.create_buffer(&info, None) }.expect("a buffer");
        self.made.borrow_mut().buffers.push(buffer);
        // SAFETY: the buffer is of this device.
        let needs = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(self.mappable(needs.memory_type_bits));
        let info = describe(info);
        // SAFETY: the type is one of the device's; `drop` frees it before the device.
        let memory = unsafe { self.device.allocate_memory(&info, None) }.expect("memory");
        self.made.borrow_mut().memories.push(memory);
        // SAFETY: both are new, and the memory has the size the buffer needs.
        unsafe { self.device.bind_buffer_memory(buffer, memory, 0) }.expect("it can be bound");
        let (all, flags) = (vk::WHOLE_SIZE, vk::MemoryMapFlags::empty());
        // SAFETY: the memory is visible to the host, and not mapped yet.
        let mapped = unsafe { self.device.map_memory(memory, 0, all, flags) };
        let mapping = mapped.expect("it can be mapped").cast();
        Memory { buffer, bytes, memory, mapping, of: PhantomData }
    }

    fn mappable(&self, bits: u32) -> u32 {
        let types = self.memory_types.memory_types_as_slice();
        let fits = |(index, one): &(u32, &vk::MemoryType)| {
            bits >> index & 1 == 1 && one.property_flags.contains(VISIBLE)
        };
        let (index, _) = (0..).zip(types).find(fits).expect("some memory is visible to the host");
        index
    }
}
