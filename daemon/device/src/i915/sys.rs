//! The only unsafe code of the i915 back end: the ioctls that drm-rs does not know.
//!
//! Every structure that reaches the kernel is made here, zeroed, from typed values; every pointer in
//! one leads to memory that is borrowed for the call.
#![expect(unsafe_code, reason = "ioctls, and fds that they answer with")]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use gpu_broker_uapi::drm::*;
use gpu_broker_uapi::i915::*;
use gpu_broker_uapi::sync::*;
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Updater, ioctl};
use rustix::mm::{MapFlags, ProtFlags};

/// A structure without pointers: the kernel touches nothing else.
trait Plain {}

macro_rules! plain {
    ($($name:ty),* $(,)?) => { $(impl Plain for $name {})* };
}
plain!(
    drm_i915_gem_busy,
    drm_i915_gem_caching,
    drm_i915_gem_context_destroy,
    drm_i915_gem_context_param,
    drm_i915_gem_create,
    drm_i915_gem_set_domain,
    drm_i915_gem_userptr,
    drm_i915_gem_vm_control,
    drm_i915_reg_read,
    drm_i915_reset_stats,
    drm_syncobj_handle,
    sync_merge_data,
    sync_file_info,
    dma_buf_export_sync_file,
);

/// An ioctl that a signal may interrupt any number of times.
///
/// # Safety
/// `OPCODE` takes a `T`, and every pointer in `argument` is 0 or leads to memory that the kernel may
/// read, or write where `OPCODE` says so, until this returns.
unsafe fn update<const OPCODE: Opcode, T>(
    fd: BorrowedFd<'_>,
    argument: &mut T,
) -> Result<(), Errno> {
    const { assert!((OPCODE >> 16 & 0x3fff) as usize == size_of::<T>(), "the size is encoded") };
    rustix::io::retry_on_intr(|| {
        // SAFETY: the caller's contract, and the size asserted above.
        let updater = unsafe { Updater::<OPCODE, T>::new(argument) };
        // SAFETY: as above.
        unsafe { ioctl(fd, updater) }
    })
}

/// The same for a structure without pointers.
fn plain<const OPCODE: Opcode, T: Plain>(
    fd: BorrowedFd<'_>,
    argument: &mut T,
) -> Result<(), Errno> {
    // SAFETY: `Plain` is private and implemented for structures without pointers that hold a user
    // address; each caller below pairs it with the number that the kernel's header gives it, whose
    // size is asserted. (A userptr's address is recorded by the kernel, not accessed in the call.)
    unsafe { update::<OPCODE, T>(fd, argument) }
}

/// An fd that an ioctl put into its answer.
fn owned(fd: i32) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: each caller passes the number of a file that the kernel has just opened for this
    // process in a call that succeeded; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The address of something that outlives the call it is passed to.
fn address_of<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<()>().expose_provenance() as u64
}

/// GETPARAM.
pub(super) fn getparam(fd: BorrowedFd<'_>, param: i32) -> Result<i32, Errno> {
    let mut value = 0_i32;
    let at = (&raw mut value).expose_provenance() as u64;
    // Bytes 4 to 7 are no field; the kernel does not look at them.
    let mut argument = drm_i915_getparam { param, value: at };
    // SAFETY: `value` leads to an i32 that the kernel writes.
    unsafe { update::<DRM_IOCTL_I915_GETPARAM, _>(fd, &mut argument) }?;
    // SAFETY: the kernel may have written it behind the compiler's back; it is an initialised i32.
    Ok(unsafe { (&raw const value).read_volatile() })
}

/// One item of QUERY, as 64-bit words with zeroes behind the end.
pub(super) fn query(fd: BorrowedFd<'_>, id: u64, flags: u32) -> Result<Vec<u8>, Errno> {
    /// No item comes near this; a kernel that asks for more is not believed.
    const ITEM_BYTES_MAX: usize = 1 << 20;
    let length = query_into(fd, id, flags, &mut [])?;
    if length > ITEM_BYTES_MAX {
        return Err(Errno::OVERFLOW);
    }
    let mut words = vec![0_u64; length.div_ceil(8)];
    let written = query_into(fd, id, flags, &mut words)?.min(length);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(written);
    Ok(bytes)
}

/// Asks for an item's bytes, or with no room for how many there are.
fn query_into(fd: BorrowedFd<'_>, id: u64, flags: u32, words: &mut [u64]) -> Result<usize, Errno> {
    let length = i32::try_from(words.len().saturating_mul(8)).map_err(|_| Errno::OVERFLOW)?;
    let data_ptr = if words.is_empty() { 0 } else { words.as_mut_ptr().expose_provenance() as u64 };
    let mut item = drm_i915_query_item { query_id: id, length, flags, data_ptr };
    let items_ptr = (&raw mut item).expose_provenance() as u64;
    let mut argument = drm_i915_query { num_items: 1, flags: 0, items_ptr };
    // SAFETY: one item, whose data is `length` zeroed bytes that the kernel may write; none of the
    // items asked for here holds pointers of its own.
    unsafe { update::<DRM_IOCTL_I915_QUERY, _>(fd, &mut argument) }?;
    // SAFETY: an initialised i32 that the kernel wrote behind the compiler's back.
    let length = unsafe { (&raw const item.length).read_volatile() };
    usize::try_from(length).map_err(|_| Errno::from_raw_os_error(length.saturating_neg()))
}

/// Most engines that one list of a context names: what a map holds.
pub(super) const ENGINES_MAX: usize = 64;

/// A structure with engines behind it, as the kernel lays out maps and their extensions.
#[repr(C)]
pub(super) struct WithEngines<T> {
    pub(super) head: T,
    pub(super) engines: [i915_engine_class_instance; ENGINES_MAX],
}

/// An extension of an engine map.
pub(super) enum MapExtension {
    LoadBalance(Box<WithEngines<i915_context_engines_load_balance>>),
    Parallel(Box<WithEngines<i915_context_engines_parallel_submit>>),
}

impl MapExtension {
    fn base(&mut self) -> &mut i915_user_extension {
        match self {
            Self::LoadBalance(extension) => &mut extension.head.base,
            Self::Parallel(extension) => &mut extension.head.base,
        }
    }

    fn address(&self) -> u64 {
        match self {
            Self::LoadBalance(extension) => address_of(&**extension),
            Self::Parallel(extension) => address_of(&**extension),
        }
    }
}

/// An engine map, boxed because the kernel follows its address.
pub(super) struct EngineMap {
    pub(super) slots: Vec<i915_engine_class_instance>,
    pub(super) extensions: Vec<MapExtension>,
}

/// A parameter of CONTEXT_CREATE_EXT.
pub(super) enum CreateParam {
    Scalar(u64, u64),
    Engines(EngineMap),
    /// Boxed because the kernel follows its address.
    Sseu(Box<drm_i915_gem_context_param_sseu>),
}

/// CONTEXT_CREATE_EXT with a SETPARAM node for each parameter, in order. Answers the context's id.
pub(super) fn context_create(
    fd: BorrowedFd<'_>,
    single_timeline: bool,
    params: &mut [CreateParam],
) -> Result<u32, Errno> {
    let mut maps = Vec::new();
    let mut nodes: Vec<_> = params
        .iter_mut()
        .map(|param| {
            let mut node = drm_i915_gem_context_create_ext_setparam::default();
            node.base.name = I915_CONTEXT_CREATE_EXT_SETPARAM;
            match param {
                CreateParam::Scalar(param, value) => {
                    (node.param.param, node.param.value) = (*param, *value);
                }
                CreateParam::Engines(map) => {
                    let map = lay_out(map)?;
                    node.param.param = I915_CONTEXT_PARAM_ENGINES;
                    (node.param.size, node.param.value) = (map.1, address_of(&*map.0));
                    maps.push(map.0);
                }
                CreateParam::Sseu(sseu) => {
                    node.param.param = I915_CONTEXT_PARAM_SSEU;
                    (node.param.size, node.param.value) = (SSEU_BYTES, address_of(&**sseu));
                }
            }
            Ok(node)
        })
        .collect::<Result<_, Errno>>()?;
    let mut next = 0;
    for node in nodes.iter_mut().rev() {
        node.base.next_extension = next;
        next = address_of(node);
    }
    let shared = if single_timeline { I915_CONTEXT_CREATE_FLAGS_SINGLE_TIMELINE } else { 0 };
    let flags = I915_CONTEXT_CREATE_FLAGS_USE_EXTENSIONS | shared;
    let mut argument = drm_i915_gem_context_create_ext { ctx_id: 0, flags, extensions: next };
    // SAFETY: `extensions` leads through the nodes, which are not moved any more, to the end; the
    // engine node leads to a map of the size it says, and that to the extensions in `params`; an
    // SSEU node leads to the structure in `params`, of the size it says, which is only read.
    let made = unsafe { update::<DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT, _>(fd, &mut argument) };
    drop((nodes, maps));
    made.map(|()| argument.ctx_id)
}

/// A map as the kernel reads it, and its size in bytes; the extensions are linked.
fn lay_out(
    map: &mut EngineMap,
) -> Result<(Box<WithEngines<i915_context_param_engines>>, u32), Errno> {
    let mut next = 0;
    for extension in map.extensions.iter_mut().rev() {
        extension.base().next_extension = next;
        next = extension.address();
    }
    let mut laid = Box::new(WithEngines {
        head: i915_context_param_engines { extensions: next },
        engines: [i915_engine_class_instance::default(); ENGINES_MAX],
    });
    let room = laid.engines.get_mut(..map.slots.len()).ok_or(Errno::INVAL)?;
    room.copy_from_slice(&map.slots);
    let slots = u32::try_from(map.slots.len()).map_err(|_| Errno::INVAL)?;
    Ok((laid, 8 + 4 * slots))
}

/// CONTEXT_SETPARAM of a parameter that is a number.
pub(super) fn context_setparam(
    fd: BorrowedFd<'_>,
    ctx_id: u32,
    param: u64,
    value: u64,
) -> Result<(), Errno> {
    // The parameters with pointers are set when the context is made.
    let mut argument = drm_i915_gem_context_param { ctx_id, size: 0, param, value };
    plain::<DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM, _>(fd, &mut argument)
}

const SSEU_BYTES: u32 = 32;
const _: () = assert!(SSEU_BYTES as usize == size_of::<drm_i915_gem_context_param_sseu>());

/// CONTEXT_SETPARAM of SSEU.
pub(super) fn context_set_sseu(
    fd: BorrowedFd<'_>,
    ctx_id: u32,
    sseu: &drm_i915_gem_context_param_sseu,
) -> Result<(), Errno> {
    let (param, value) = (I915_CONTEXT_PARAM_SSEU, address_of(sseu));
    let mut argument = drm_i915_gem_context_param { ctx_id, size: SSEU_BYTES, param, value };
    // SAFETY: `value` leads to a structure of the size that the argument says, which the kernel reads.
    unsafe { update::<DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM, _>(fd, &mut argument) }
}

/// CONTEXT_GETPARAM of a parameter that is a number.
pub(super) fn context_getparam(fd: BorrowedFd<'_>, ctx_id: u32, param: u64) -> Result<u64, Errno> {
    let mut argument = drm_i915_gem_context_param { ctx_id, size: 0, param, value: 0 };
    plain::<DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM, _>(fd, &mut argument)?;
    Ok(argument.value)
}

/// CONTEXT_DESTROY.
pub(super) fn context_destroy(fd: BorrowedFd<'_>, ctx_id: u32) -> Result<(), Errno> {
    let mut argument = drm_i915_gem_context_destroy { ctx_id, pad: 0 };
    plain::<DRM_IOCTL_I915_GEM_CONTEXT_DESTROY, _>(fd, &mut argument)
}

/// GET_RESET_STATS.
pub(super) fn reset_stats(fd: BorrowedFd<'_>, ctx_id: u32) -> Result<drm_i915_reset_stats, Errno> {
    let mut argument = drm_i915_reset_stats { ctx_id, ..Default::default() };
    plain::<DRM_IOCTL_I915_GET_RESET_STATS, _>(fd, &mut argument)?;
    Ok(argument)
}

/// VM_CREATE.
pub(super) fn vm_create(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut argument = drm_i915_gem_vm_control::default();
    plain::<DRM_IOCTL_I915_GEM_VM_CREATE, _>(fd, &mut argument)?;
    Ok(argument.vm_id)
}

/// VM_DESTROY.
pub(super) fn vm_destroy(fd: BorrowedFd<'_>, vm_id: u32) -> Result<(), Errno> {
    let mut argument = drm_i915_gem_vm_control { vm_id, ..Default::default() };
    plain::<DRM_IOCTL_I915_GEM_VM_DESTROY, _>(fd, &mut argument)
}

/// GEM_CREATE. Answers the handle.
pub(super) fn gem_create(fd: BorrowedFd<'_>, size: u64) -> Result<u32, Errno> {
    let mut argument = drm_i915_gem_create { size, ..Default::default() };
    plain::<DRM_IOCTL_I915_GEM_CREATE, _>(fd, &mut argument)?;
    Ok(argument.handle)
}

/// SET_CACHING: one of `I915_CACHING_*`.
pub(super) fn gem_set_caching(fd: BorrowedFd<'_>, handle: u32, caching: u32) -> Result<(), Errno> {
    let mut argument = drm_i915_gem_caching { handle, caching };
    plain::<DRM_IOCTL_I915_GEM_SET_CACHING, _>(fd, &mut argument)
}

/// SET_DOMAIN to the CPU's.
pub(super) fn gem_to_cpu(fd: BorrowedFd<'_>, handle: u32, write: bool) -> Result<(), Errno> {
    let read_domains = I915_GEM_DOMAIN_CPU;
    let write_domain = if write { I915_GEM_DOMAIN_CPU } else { 0 };
    let mut argument = drm_i915_gem_set_domain { handle, read_domains, write_domain };
    plain::<DRM_IOCTL_I915_GEM_SET_DOMAIN, _>(fd, &mut argument)
}

/// GEM_BUSY.
pub(super) fn gem_busy(fd: BorrowedFd<'_>, handle: u32) -> Result<u32, Errno> {
    let mut argument = drm_i915_gem_busy { handle, busy: 0 };
    plain::<DRM_IOCTL_I915_GEM_BUSY, _>(fd, &mut argument)?;
    Ok(argument.busy)
}

/// GEM_THROTTLE: EIO when the device is wedged. Waits for nothing on a file without requests.
pub(super) fn gem_throttle(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the number has no argument.
    let throttle = unsafe { NoArg::<DRM_IOCTL_I915_GEM_THROTTLE>::new() };
    // SAFETY: as above.
    unsafe { ioctl(fd, throttle) }
}

/// REG_READ.
pub(super) fn reg_read(fd: BorrowedFd<'_>, offset: u64) -> Result<u64, Errno> {
    let mut argument = drm_i915_reg_read { offset, val: 0 };
    plain::<DRM_IOCTL_I915_REG_READ, _>(fd, &mut argument)?;
    Ok(argument.val)
}

/// What EXECBUFFER2 is asked.
pub(super) struct Exec<'a> {
    pub(super) context: u32,
    /// The batches last.
    pub(super) objects: &'a mut [drm_i915_gem_exec_object2],
    /// Position of an object, and what is written into it before the batch starts.
    pub(super) relocations: &'a mut [(usize, Vec<drm_i915_gem_relocation_entry>)],
    pub(super) batch_start: u32,
    /// 0: the rest of the object.
    pub(super) batch_bytes: u32,
    /// Engine, and flags without those that follow from the other fields.
    pub(super) flags: u64,
    /// Start after it, or with FENCE_SUBMIT in `flags` along with it.
    pub(super) in_fence: Option<BorrowedFd<'a>>,
    /// Syncobjs of this file, with flags of `I915_EXEC_FENCE_*`; all points are 0, or as many
    /// points as syncobjs.
    pub(super) syncobjs: &'a [drm_i915_gem_exec_fence],
    pub(super) points: &'a [u64],
}

/// EXECBUFFER2_WR with an out-fence.
pub(super) fn execbuf(fd: BorrowedFd<'_>, exec: Exec<'_>) -> Result<OwnedFd, Errno> {
    let Exec { context, objects, relocations, .. } = exec;
    for (object, entries) in relocations.iter_mut() {
        let object = objects.get_mut(*object).ok_or(Errno::INVAL)?;
        object.relocation_count = u32::try_from(entries.len()).map_err(|_| Errno::INVAL)?;
        object.relocs_ptr = entries.as_mut_ptr().expose_provenance() as u64;
    }
    let no_relocations = if relocations.is_empty() { I915_EXEC_NO_RELOC } else { 0 };
    let mut argument = drm_i915_gem_execbuffer2 {
        buffers_ptr: objects.as_mut_ptr().expose_provenance() as u64,
        buffer_count: u32::try_from(objects.len()).map_err(|_| Errno::INVAL)?,
        batch_start_offset: exec.batch_start,
        batch_len: exec.batch_bytes,
        flags: exec.flags | no_relocations | I915_EXEC_HANDLE_LUT | I915_EXEC_FENCE_OUT,
        rsvd1: context.into(),
        ..Default::default()
    };
    if let Some(fence) = exec.in_fence {
        if argument.flags & I915_EXEC_FENCE_SUBMIT == 0 {
            argument.flags |= I915_EXEC_FENCE_IN;
        }
        argument.rsvd2 = u64::from(fence.as_raw_fd().cast_unsigned());
    }
    let mut timeline = drm_i915_gem_execbuffer_ext_timeline_fences::default();
    if !exec.points.is_empty() {
        if exec.points.len() != exec.syncobjs.len() {
            return Err(Errno::INVAL);
        }
        timeline.base.name = DRM_I915_GEM_EXECBUFFER_EXT_TIMELINE_FENCES;
        timeline.fence_count = exec.syncobjs.len() as u64;
        timeline.handles_ptr = address_of(exec.syncobjs);
        timeline.values_ptr = address_of(exec.points);
        argument.flags |= I915_EXEC_USE_EXTENSIONS;
        argument.cliprects_ptr = address_of(&timeline);
    } else if !exec.syncobjs.is_empty() {
        argument.flags |= I915_EXEC_FENCE_ARRAY;
        argument.num_cliprects = u32::try_from(exec.syncobjs.len()).map_err(|_| Errno::INVAL)?;
        argument.cliprects_ptr = address_of(exec.syncobjs);
    }
    // SAFETY: the objects and their relocations are borrowed mutably, because the kernel writes
    // addresses to both; the syncobjs, their points and the extension are only read. All outlive
    // the call, and the counts are those of the slices.
    unsafe { update::<DRM_IOCTL_I915_GEM_EXECBUFFER2_WR, _>(fd, &mut argument) }?;
    let fence = u32::try_from(argument.rsvd2 >> 32).unwrap_or(u32::MAX);
    owned(fence.cast_signed())
}

/// SYNCOBJ_FD_TO_HANDLE with a sync_file: puts its fence into the syncobj, in place of what is there.
pub(super) fn syncobj_put(
    fd: BorrowedFd<'_>,
    handle: u32,
    fence: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let flags = DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE;
    let mut argument = drm_syncobj_handle { handle, flags, fd: fence.as_raw_fd(), pad: 0 };
    plain::<DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, _>(fd, &mut argument)
}

/// State of a sync_file: 0 pending, 1 signalled, else a negative errno.
pub(super) fn fence_status(fence: BorrowedFd<'_>) -> Result<i32, Errno> {
    // Without room for the single fences the kernel follows no pointer.
    let mut argument = sync_file_info::default();
    plain::<SYNC_IOC_FILE_INFO, _>(fence, &mut argument)?;
    Ok(argument.status)
}

/// A sync_file that signals when both have.
pub(super) fn fence_merge(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut argument = sync_merge_data { fd2: second.as_raw_fd(), ..Default::default() };
    plain::<SYNC_IOC_MERGE, _>(first, &mut argument)?;
    owned(argument.fence)
}

/// The fences that use a dma-buf, as a sync_file: the writers', or with `all` everybody's.
pub(super) fn buffer_fences(buffer: BorrowedFd<'_>, all: bool) -> Result<OwnedFd, Errno> {
    let flags = if all { DMA_BUF_SYNC_RW } else { DMA_BUF_SYNC_READ };
    let mut argument = dma_buf_export_sync_file { flags, fd: -1 };
    plain::<DMA_BUF_IOCTL_EXPORT_SYNC_FILE, _>(buffer, &mut argument)?;
    owned(argument.fd)
}

/// A client's memfd, mapped so that the kernel can take its pages for the GPU. Never accessed here:
/// the client may have taken pages away.
#[derive(Debug)]
pub(super) struct UserMapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is not bound to a thread, and nothing here reads or writes it.
unsafe impl Send for UserMapping {}
// SAFETY: as above.
unsafe impl Sync for UserMapping {}

impl UserMapping {
    /// Maps the first `len` bytes.
    pub(super) fn new(memfd: &OwnedFd, len: usize, writable: bool) -> Result<Self, Errno> {
        let write = if writable { ProtFlags::WRITE } else { ProtFlags::empty() };
        let map = |flags| {
            // SAFETY: a fresh mapping at an address the kernel chooses replaces nothing.
            unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | write,
                    flags,
                    memfd.as_fd(),
                    0,
                )
            }
        };
        let base = match map(MapFlags::SHARED) {
            // Before Linux 6.7 a memfd sealed against writing cannot be mapped shared at all.
            // Mapped private and read-only, its pages are the same.
            Err(Errno::PERM) if !writable => map(MapFlags::PRIVATE)?,
            mapped => mapped?,
        };
        NonNull::new(base).map(|base| Self { base, len }).ok_or(Errno::NOMEM)
    }
}

impl Drop for UserMapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and nothing borrows from it.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping cannot fail: {unmapped:?}");
    }
}

/// GEM_USERPTR of part of a client's memory. Answers the handle.
pub(super) fn userptr(
    fd: BorrowedFd<'_>,
    memory: &UserMapping,
    offset: u64,
    size: u64,
    read_only: bool,
) -> Result<u32, Errno> {
    if offset.checked_add(size).is_none_or(|end| end > memory.len as u64) {
        return Err(Errno::FAULT);
    }
    let start = memory.base.as_ptr().expose_provenance() as u64;
    let flags = if read_only { I915_USERPTR_READ_ONLY } else { 0 };
    let mut argument =
        drm_i915_gem_userptr { user_ptr: start + offset, user_size: size, flags, handle: 0 };
    plain::<DRM_IOCTL_I915_GEM_USERPTR, _>(fd, &mut argument)?;
    Ok(argument.handle)
}
