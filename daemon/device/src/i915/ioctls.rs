//! Which ioctls the back end may need, for who confines the process it runs in.

use gpu_broker_uapi::drm::*;
use gpu_broker_uapi::i915::*;
use gpu_broker_uapi::sync::*;

/// A number with another size of the structure in it. drm-rs has structures of newer kernels (`point`
/// behind a syncobj's handle, `deadline_nsec` behind a wait), which every kernel takes.
const fn sized(number: u32, bytes: u32) -> u32 {
    number & !(0x3fff << 16) | bytes << 16
}

/// Numbers of every ioctl on the DRM file, on sync_files and on dma-bufs, the frequent ones first: a
/// filter compares in this order.
///
/// Not here is what makes or names objects that other processes could open without an fd (FLINK,
/// OPEN), what belongs to displays (SET_MASTER), and what maps or copies memory without a dma-buf.
pub const IOCTLS: &[u32] = &[
    DRM_IOCTL_I915_GEM_EXECBUFFER2_WR,
    DRM_IOCTL_I915_GEM_BUSY,
    SYNC_IOC_FILE_INFO,
    DMA_BUF_IOCTL_EXPORT_SYNC_FILE,
    DMA_BUF_IOCTL_IMPORT_SYNC_FILE,
    DMA_BUF_IOCTL_SYNC,
    SYNC_IOC_MERGE,
    DRM_IOCTL_I915_GEM_CREATE,
    DRM_IOCTL_I915_GEM_CREATE_EXT,
    DRM_IOCTL_GEM_CLOSE,
    DRM_IOCTL_PRIME_HANDLE_TO_FD,
    DRM_IOCTL_PRIME_FD_TO_HANDLE,
    DRM_IOCTL_SYNCOBJ_CREATE,
    DRM_IOCTL_SYNCOBJ_DESTROY,
    DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD,
    sized(DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, 24),
    DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE,
    sized(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, 24),
    DRM_IOCTL_SYNCOBJ_WAIT,
    sized(DRM_IOCTL_SYNCOBJ_WAIT, 40),
    DRM_IOCTL_SYNCOBJ_RESET,
    DRM_IOCTL_SYNCOBJ_SIGNAL,
    DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT,
    sized(DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, 48),
    DRM_IOCTL_SYNCOBJ_QUERY,
    DRM_IOCTL_SYNCOBJ_TRANSFER,
    DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL,
    DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT,
    DRM_IOCTL_I915_GEM_CONTEXT_DESTROY,
    DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM,
    DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM,
    DRM_IOCTL_I915_GET_RESET_STATS,
    DRM_IOCTL_I915_GEM_VM_CREATE,
    DRM_IOCTL_I915_GEM_VM_DESTROY,
    DRM_IOCTL_I915_GEM_USERPTR,
    DRM_IOCTL_I915_GEM_WAIT,
    DRM_IOCTL_I915_GEM_SET_DOMAIN,
    DRM_IOCTL_I915_GEM_SET_CACHING,
    DRM_IOCTL_I915_GEM_GET_CACHING,
    DRM_IOCTL_I915_GEM_SET_TILING,
    DRM_IOCTL_I915_GEM_GET_TILING,
    DRM_IOCTL_I915_GEM_GET_APERTURE,
    DRM_IOCTL_I915_GEM_MADVISE,
    DRM_IOCTL_I915_GEM_THROTTLE,
    DRM_IOCTL_I915_GEM_MMAP_OFFSET,
    DRM_IOCTL_I915_REG_READ,
    DRM_IOCTL_I915_GETPARAM,
    DRM_IOCTL_I915_QUERY,
    DRM_IOCTL_VERSION,
    DRM_IOCTL_GET_CAP,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_size_of_its_structure_in_it() {
        assert_eq!(sized(DRM_IOCTL_SYNCOBJ_WAIT, 32), DRM_IOCTL_SYNCOBJ_WAIT);
        assert_eq!(sized(DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, 48), 0xc030_64ca);
    }
}
