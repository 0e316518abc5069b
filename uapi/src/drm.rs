//! Structures and ioctl numbers of `drm.h`. User pointers are `u64`.

use crate::ioctl::{abi, constants, ioctls};

abi! {
    drm_version: 64 {
        0 version_major: i32,
        4 version_minor: i32,
        8 version_patchlevel: i32,
        16 name_len: usize,
        24 name: u64,
        32 date_len: usize,
        40 date: u64,
        48 desc_len: usize,
        56 desc: u64,
    }
    drm_unique: 16 {
        0 unique_len: usize,
        8 unique: u64,
    }
    drm_auth: 4 {
        0 magic: u32,
    }
    drm_set_version: 16 {
        0 drm_di_major: i32,
        4 drm_di_minor: i32,
        8 drm_dd_major: i32,
        12 drm_dd_minor: i32,
    }
    drm_gem_close: 8 {
        0 handle: u32,
        4 pad: u32,
    }
    drm_gem_flink: 8 {
        0 handle: u32,
        4 name: u32,
    }
    drm_gem_open: 16 {
        0 name: u32,
        4 handle: u32,
        8 size: u64,
    }
    drm_get_cap: 16 {
        0 capability: u64,
        8 value: u64,
    }
    drm_set_client_cap: 16 {
        0 capability: u64,
        8 value: u64,
    }
    drm_prime_handle: 12 {
        0 handle: u32,
        4 flags: u32,
        8 fd: i32,
    }
    drm_syncobj_create: 8 {
        0 handle: u32,
        4 flags: u32,
    }
    drm_syncobj_destroy: 8 {
        0 handle: u32,
        4 pad: u32,
    }
    drm_syncobj_handle: 16 {
        0 handle: u32,
        4 flags: u32,
        8 fd: i32,
        12 pad: u32,
    }
    drm_syncobj_transfer: 32 {
        0 src_handle: u32,
        4 dst_handle: u32,
        8 src_point: u64,
        16 dst_point: u64,
        24 flags: u32,
        28 pad: u32,
    }
    drm_syncobj_wait: 32 {
        0 handles: u64,
        8 timeout_nsec: i64,
        16 count_handles: u32,
        20 flags: u32,
        24 first_signaled: u32,
        28 pad: u32,
    }
    drm_syncobj_timeline_wait: 40 {
        0 handles: u64,
        8 points: u64,
        16 timeout_nsec: i64,
        24 count_handles: u32,
        28 flags: u32,
        32 first_signaled: u32,
        36 pad: u32,
    }
    drm_syncobj_array: 16 {
        0 handles: u64,
        8 count_handles: u32,
        12 pad: u32,
    }
    drm_syncobj_timeline_array: 24 {
        0 handles: u64,
        8 points: u64,
        16 count_handles: u32,
        20 flags: u32,
    }
}

ioctls! {
    DRM_IOCTL_VERSION = 0xc0406400, iowr<drm_version>(0x00);
    DRM_IOCTL_GET_UNIQUE = 0xc0106401, iowr<drm_unique>(0x01);
    DRM_IOCTL_GET_MAGIC = 0x80046402, ior<drm_auth>(0x02);
    DRM_IOCTL_SET_VERSION = 0xc0106407, iowr<drm_set_version>(0x07);
    DRM_IOCTL_GEM_CLOSE = 0x40086409, iow<drm_gem_close>(0x09);
    DRM_IOCTL_GEM_FLINK = 0xc008640a, iowr<drm_gem_flink>(0x0a);
    DRM_IOCTL_GEM_OPEN = 0xc010640b, iowr<drm_gem_open>(0x0b);
    DRM_IOCTL_GET_CAP = 0xc010640c, iowr<drm_get_cap>(0x0c);
    DRM_IOCTL_SET_CLIENT_CAP = 0x4010640d, iow<drm_set_client_cap>(0x0d);
    DRM_IOCTL_SET_MASTER = 0x0000641e, io(0x1e);
    DRM_IOCTL_PRIME_HANDLE_TO_FD = 0xc00c642d, iowr<drm_prime_handle>(0x2d);
    DRM_IOCTL_PRIME_FD_TO_HANDLE = 0xc00c642e, iowr<drm_prime_handle>(0x2e);
    DRM_IOCTL_SYNCOBJ_CREATE = 0xc00864bf, iowr<drm_syncobj_create>(0xbf);
    DRM_IOCTL_SYNCOBJ_DESTROY = 0xc00864c0, iowr<drm_syncobj_destroy>(0xc0);
    DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD = 0xc01064c1, iowr<drm_syncobj_handle>(0xc1);
    DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE = 0xc01064c2, iowr<drm_syncobj_handle>(0xc2);
    DRM_IOCTL_SYNCOBJ_WAIT = 0xc02064c3, iowr<drm_syncobj_wait>(0xc3);
    DRM_IOCTL_SYNCOBJ_RESET = 0xc01064c4, iowr<drm_syncobj_array>(0xc4);
    DRM_IOCTL_SYNCOBJ_SIGNAL = 0xc01064c5, iowr<drm_syncobj_array>(0xc5);
    DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT = 0xc02864ca, iowr<drm_syncobj_timeline_wait>(0xca);
    DRM_IOCTL_SYNCOBJ_QUERY = 0xc01864cb, iowr<drm_syncobj_timeline_array>(0xcb);
    DRM_IOCTL_SYNCOBJ_TRANSFER = 0xc02064cc, iowr<drm_syncobj_transfer>(0xcc);
    DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL = 0xc01864cd, iowr<drm_syncobj_timeline_array>(0xcd);
}

constants! { u64, CAPS:
    DRM_CAP_PRIME = 0x5;
    DRM_CAP_SYNCOBJ = 0x13;
    DRM_CAP_SYNCOBJ_TIMELINE = 0x14;
    DRM_PRIME_CAP_IMPORT = 0x1;
    DRM_PRIME_CAP_EXPORT = 0x2;
}

constants! { u32, FLAGS:
    DRM_RDWR = 0x2;
    DRM_CLOEXEC = 0o2000000;
    DRM_SYNCOBJ_CREATE_SIGNALED = 1;
    DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE = 1;
    DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE = 1;
    DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL = 1;
    DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT = 2;
    DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE = 4;
    DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED = 1;
}
