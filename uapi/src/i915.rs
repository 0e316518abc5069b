//! Structures and ioctl numbers of `i915_drm.h`. User pointers are `u64`; a flexible array at the
//! end of a structure is not a field, and of a union the first member is.

use crate::ioctl::{DRM_COMMAND_BASE, abi, constants, ioctls};

abi! {
    i915_user_extension: 32 {
        0 next_extension: u64,
        8 name: u32,
        12 flags: u32,
        16 rsvd: [u32; 4],
    }
    i915_engine_class_instance: 4 {
        0 engine_class: u16,
        2 engine_instance: u16,
    }
    drm_i915_getparam: 16 {
        0 param: i32,
        8 value: u64,
    }
    drm_i915_gem_create: 16 {
        0 size: u64,
        8 handle: u32,
        12 pad: u32,
    }
    drm_i915_gem_pread: 32 {
        0 handle: u32,
        4 pad: u32,
        8 offset: u64,
        16 size: u64,
        24 data_ptr: u64,
    }
    drm_i915_gem_pwrite: 32 {
        0 handle: u32,
        4 pad: u32,
        8 offset: u64,
        16 size: u64,
        24 data_ptr: u64,
    }
    drm_i915_gem_mmap: 40 {
        0 handle: u32,
        4 pad: u32,
        8 offset: u64,
        16 size: u64,
        24 addr_ptr: u64,
        32 flags: u64,
    }
    drm_i915_gem_mmap_gtt: 16 {
        0 handle: u32,
        4 pad: u32,
        8 offset: u64,
    }
    drm_i915_gem_mmap_offset: 32 {
        0 handle: u32,
        4 pad: u32,
        8 offset: u64,
        16 flags: u64,
        24 extensions: u64,
    }
    drm_i915_gem_set_domain: 12 {
        0 handle: u32,
        4 read_domains: u32,
        8 write_domain: u32,
    }
    drm_i915_gem_sw_finish: 4 {
        0 handle: u32,
    }
    drm_i915_gem_relocation_entry: 32 {
        0 target_handle: u32,
        4 delta: u32,
        8 offset: u64,
        16 presumed_offset: u64,
        24 read_domains: u32,
        28 write_domain: u32,
    }
    drm_i915_gem_exec_object2: 56 {
        0 handle: u32,
        4 relocation_count: u32,
        8 relocs_ptr: u64,
        16 alignment: u64,
        24 offset: u64,
        32 flags: u64,
        40 rsvd1: u64,
        48 rsvd2: u64,
    }
    drm_i915_gem_exec_fence: 8 {
        0 handle: u32,
        4 flags: u32,
    }
    drm_i915_gem_execbuffer_ext_timeline_fences: 56 {
        0 base: i915_user_extension,
        32 fence_count: u64,
        40 handles_ptr: u64,
        48 values_ptr: u64,
    }
    drm_i915_gem_execbuffer2: 64 {
        0 buffers_ptr: u64,
        8 buffer_count: u32,
        12 batch_start_offset: u32,
        16 batch_len: u32,
        20 DR1: u32,
        24 DR4: u32,
        28 num_cliprects: u32,
        32 cliprects_ptr: u64,
        40 flags: u64,
        48 rsvd1: u64,
        56 rsvd2: u64,
    }
    drm_i915_gem_busy: 8 {
        0 handle: u32,
        4 busy: u32,
    }
    drm_i915_gem_caching: 8 {
        0 handle: u32,
        4 caching: u32,
    }
    drm_i915_gem_set_tiling: 16 {
        0 handle: u32,
        4 tiling_mode: u32,
        8 stride: u32,
        12 swizzle_mode: u32,
    }
    drm_i915_gem_get_tiling: 16 {
        0 handle: u32,
        4 tiling_mode: u32,
        8 swizzle_mode: u32,
        12 phys_swizzle_mode: u32,
    }
    drm_i915_gem_get_aperture: 16 {
        0 aper_size: u64,
        8 aper_available_size: u64,
    }
    drm_i915_gem_madvise: 12 {
        0 handle: u32,
        4 madv: u32,
        8 retained: u32,
    }
    drm_i915_gem_wait: 16 {
        0 bo_handle: u32,
        4 flags: u32,
        8 timeout_ns: i64,
    }
    drm_i915_gem_context_create: 8 {
        0 ctx_id: u32,
        4 pad: u32,
    }
    drm_i915_gem_context_create_ext: 16 {
        0 ctx_id: u32,
        4 flags: u32,
        8 extensions: u64,
    }
    drm_i915_gem_context_param: 24 {
        0 ctx_id: u32,
        4 size: u32,
        8 param: u64,
        16 value: u64,
    }
    drm_i915_gem_context_param_sseu: 32 {
        0 engine: i915_engine_class_instance,
        4 flags: u32,
        8 slice_mask: u64,
        16 subslice_mask: u64,
        24 min_eus_per_subslice: u16,
        26 max_eus_per_subslice: u16,
        28 rsvd: u32,
    }
    i915_context_engines_load_balance: 48 {
        0 base: i915_user_extension,
        32 engine_index: u16,
        34 num_siblings: u16,
        36 flags: u32,
        40 mbz64: u64,
    }
    i915_context_engines_bond: 80 {
        0 base: i915_user_extension,
        32 master: i915_engine_class_instance,
        36 virtual_index: u16,
        38 num_bonds: u16,
        40 flags: u64,
        48 mbz64: [u64; 4],
    }
    i915_context_engines_parallel_submit: 72 {
        0 base: i915_user_extension,
        32 engine_index: u16,
        34 width: u16,
        36 num_siblings: u16,
        38 mbz16: u16,
        40 flags: u64,
        48 mbz64: [u64; 3],
    }
    i915_context_param_engines: 8 {
        0 extensions: u64,
    }
    drm_i915_gem_context_create_ext_setparam: 56 {
        0 base: i915_user_extension,
        32 param: drm_i915_gem_context_param,
    }
    drm_i915_gem_context_destroy: 8 {
        0 ctx_id: u32,
        4 pad: u32,
    }
    drm_i915_gem_vm_control: 16 {
        0 extensions: u64,
        8 flags: u32,
        12 vm_id: u32,
    }
    drm_i915_reg_read: 16 {
        0 offset: u64,
        8 val: u64,
    }
    drm_i915_reset_stats: 24 {
        0 ctx_id: u32,
        4 flags: u32,
        8 reset_count: u32,
        12 batch_active: u32,
        16 batch_pending: u32,
        20 pad: u32,
    }
    drm_i915_gem_userptr: 24 {
        0 user_ptr: u64,
        8 user_size: u64,
        16 flags: u32,
        20 handle: u32,
    }
    drm_i915_query_item: 24 {
        0 query_id: u64,
        8 length: i32,
        12 flags: u32,
        16 data_ptr: u64,
    }
    drm_i915_query: 16 {
        0 num_items: u32,
        4 flags: u32,
        8 items_ptr: u64,
    }
    drm_i915_query_topology_info: 16 {
        0 flags: u16,
        2 max_slices: u16,
        4 max_subslices: u16,
        6 max_eus_per_subslice: u16,
        8 subslice_offset: u16,
        10 subslice_stride: u16,
        12 eu_offset: u16,
        14 eu_stride: u16,
    }
    drm_i915_engine_info: 56 {
        0 engine: i915_engine_class_instance,
        4 rsvd0: u32,
        8 flags: u64,
        16 capabilities: u64,
        24 logical_instance: u16,
        26 rsvd1: [u16; 3],
        32 rsvd2: [u64; 3],
    }
    drm_i915_query_engine_info: 16 {
        0 num_engines: u32,
        4 rsvd: [u32; 3],
    }
    drm_i915_gem_memory_class_instance: 4 {
        0 memory_class: u16,
        2 memory_instance: u16,
    }
    drm_i915_memory_region_info: 88 {
        0 region: drm_i915_gem_memory_class_instance,
        4 rsvd0: u32,
        8 probed_size: u64,
        16 unallocated_size: u64,
        24 rsvd1: [u64; 8],
    }
    drm_i915_query_memory_regions: 16 {
        0 num_regions: u32,
        4 rsvd: [u32; 3],
    }
    drm_i915_gem_create_ext: 24 {
        0 size: u64,
        8 handle: u32,
        12 flags: u32,
        16 extensions: u64,
    }
    drm_i915_gem_create_ext_memory_regions: 48 {
        0 base: i915_user_extension,
        32 pad: u32,
        36 num_regions: u32,
        40 regions: u64,
    }
    drm_i915_gem_create_ext_protected_content: 40 {
        0 base: i915_user_extension,
        32 flags: u32,
    }
}

ioctls! {
    DRM_IOCTL_I915_GETPARAM = 0xc0106446, iowr<drm_i915_getparam>(DRM_COMMAND_BASE + 0x06);
    DRM_IOCTL_I915_GEM_EXECBUFFER2 = 0x40406469, iow<drm_i915_gem_execbuffer2>(DRM_COMMAND_BASE + 0x29);
    DRM_IOCTL_I915_GEM_EXECBUFFER2_WR = 0xc0406469, iowr<drm_i915_gem_execbuffer2>(DRM_COMMAND_BASE + 0x29);
    DRM_IOCTL_I915_GEM_BUSY = 0xc0086457, iowr<drm_i915_gem_busy>(DRM_COMMAND_BASE + 0x17);
    DRM_IOCTL_I915_GEM_SET_CACHING = 0x4008646f, iow<drm_i915_gem_caching>(DRM_COMMAND_BASE + 0x2f);
    DRM_IOCTL_I915_GEM_GET_CACHING = 0xc0086470, iowr<drm_i915_gem_caching>(DRM_COMMAND_BASE + 0x30);
    DRM_IOCTL_I915_GEM_THROTTLE = 0x00006458, io(DRM_COMMAND_BASE + 0x18);
    DRM_IOCTL_I915_GEM_CREATE = 0xc010645b, iowr<drm_i915_gem_create>(DRM_COMMAND_BASE + 0x1b);
    DRM_IOCTL_I915_GEM_CREATE_EXT = 0xc018647c, iowr<drm_i915_gem_create_ext>(DRM_COMMAND_BASE + 0x3c);
    DRM_IOCTL_I915_GEM_PREAD = 0x4020645c, iow<drm_i915_gem_pread>(DRM_COMMAND_BASE + 0x1c);
    DRM_IOCTL_I915_GEM_PWRITE = 0x4020645d, iow<drm_i915_gem_pwrite>(DRM_COMMAND_BASE + 0x1d);
    DRM_IOCTL_I915_GEM_MMAP = 0xc028645e, iowr<drm_i915_gem_mmap>(DRM_COMMAND_BASE + 0x1e);
    DRM_IOCTL_I915_GEM_MMAP_GTT = 0xc0106464, iowr<drm_i915_gem_mmap_gtt>(DRM_COMMAND_BASE + 0x24);
    DRM_IOCTL_I915_GEM_MMAP_OFFSET = 0xc0206464, iowr<drm_i915_gem_mmap_offset>(DRM_COMMAND_BASE + 0x24);
    DRM_IOCTL_I915_GEM_SET_DOMAIN = 0x400c645f, iow<drm_i915_gem_set_domain>(DRM_COMMAND_BASE + 0x1f);
    DRM_IOCTL_I915_GEM_SW_FINISH = 0x40046460, iow<drm_i915_gem_sw_finish>(DRM_COMMAND_BASE + 0x20);
    DRM_IOCTL_I915_GEM_SET_TILING = 0xc0106461, iowr<drm_i915_gem_set_tiling>(DRM_COMMAND_BASE + 0x21);
    DRM_IOCTL_I915_GEM_GET_TILING = 0xc0106462, iowr<drm_i915_gem_get_tiling>(DRM_COMMAND_BASE + 0x22);
    DRM_IOCTL_I915_GEM_GET_APERTURE = 0x80106463, ior<drm_i915_gem_get_aperture>(DRM_COMMAND_BASE + 0x23);
    DRM_IOCTL_I915_GEM_MADVISE = 0xc00c6466, iowr<drm_i915_gem_madvise>(DRM_COMMAND_BASE + 0x26);
    DRM_IOCTL_I915_GEM_WAIT = 0xc010646c, iowr<drm_i915_gem_wait>(DRM_COMMAND_BASE + 0x2c);
    DRM_IOCTL_I915_GEM_CONTEXT_CREATE = 0xc008646d, iowr<drm_i915_gem_context_create>(DRM_COMMAND_BASE + 0x2d);
    DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT = 0xc010646d, iowr<drm_i915_gem_context_create_ext>(DRM_COMMAND_BASE + 0x2d);
    DRM_IOCTL_I915_GEM_CONTEXT_DESTROY = 0x4008646e, iow<drm_i915_gem_context_destroy>(DRM_COMMAND_BASE + 0x2e);
    DRM_IOCTL_I915_REG_READ = 0xc0106471, iowr<drm_i915_reg_read>(DRM_COMMAND_BASE + 0x31);
    DRM_IOCTL_I915_GET_RESET_STATS = 0xc0186472, iowr<drm_i915_reset_stats>(DRM_COMMAND_BASE + 0x32);
    DRM_IOCTL_I915_GEM_USERPTR = 0xc0186473, iowr<drm_i915_gem_userptr>(DRM_COMMAND_BASE + 0x33);
    DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM = 0xc0186474, iowr<drm_i915_gem_context_param>(DRM_COMMAND_BASE + 0x34);
    DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM = 0xc0186475, iowr<drm_i915_gem_context_param>(DRM_COMMAND_BASE + 0x35);
    DRM_IOCTL_I915_QUERY = 0xc0106479, iowr<drm_i915_query>(DRM_COMMAND_BASE + 0x39);
    DRM_IOCTL_I915_GEM_VM_CREATE = 0xc010647a, iowr<drm_i915_gem_vm_control>(DRM_COMMAND_BASE + 0x3a);
    DRM_IOCTL_I915_GEM_VM_DESTROY = 0x4010647b, iow<drm_i915_gem_vm_control>(DRM_COMMAND_BASE + 0x3b);
}

constants! { i32, PARAMS:
    I915_PARAM_CHIPSET_ID = 4;
    I915_PARAM_NUM_FENCES_AVAIL = 6;
    I915_PARAM_HAS_BSD = 10;
    I915_PARAM_HAS_BLT = 11;
    I915_PARAM_HAS_LLC = 17;
    I915_PARAM_HAS_ALIASING_PPGTT = 18;
    I915_PARAM_HAS_WAIT_TIMEOUT = 19;
    I915_PARAM_HAS_VEBOX = 22;
    I915_PARAM_CMD_PARSER_VERSION = 28;
    I915_PARAM_MMAP_VERSION = 30;
    I915_PARAM_HAS_BSD2 = 31;
    I915_PARAM_REVISION = 32;
    I915_PARAM_SUBSLICE_TOTAL = 33;
    I915_PARAM_EU_TOTAL = 34;
    I915_PARAM_HAS_GPU_RESET = 35;
    I915_PARAM_HAS_EXEC_SOFTPIN = 37;
    I915_PARAM_MMAP_GTT_VERSION = 40;
    I915_PARAM_HAS_SCHEDULER = 41;
    I915_PARAM_HUC_STATUS = 42;
    I915_PARAM_HAS_EXEC_ASYNC = 43;
    I915_PARAM_HAS_EXEC_FENCE = 44;
    I915_PARAM_HAS_EXEC_CAPTURE = 45;
    I915_PARAM_SLICE_MASK = 46;
    I915_PARAM_SUBSLICE_MASK = 47;
    I915_PARAM_HAS_EXEC_BATCH_FIRST = 48;
    I915_PARAM_HAS_EXEC_FENCE_ARRAY = 49;
    I915_PARAM_HAS_CONTEXT_ISOLATION = 50;
    I915_PARAM_CS_TIMESTAMP_FREQUENCY = 51;
    I915_PARAM_HAS_EXEC_SUBMIT_FENCE = 53;
    I915_PARAM_HAS_EXEC_TIMELINE_FENCES = 55;
    I915_PARAM_HAS_USERPTR_PROBE = 56;
}

constants! { u64, NUMBERS:
    I915_SCHEDULER_CAP_ENABLED = 1 << 0;
    I915_SCHEDULER_CAP_PRIORITY = 1 << 1;
    I915_SCHEDULER_CAP_PREEMPTION = 1 << 2;
    I915_SCHEDULER_CAP_SEMAPHORES = 1 << 3;
    I915_SCHEDULER_CAP_ENGINE_BUSY_STATS = 1 << 4;
    I915_SCHEDULER_CAP_STATIC_PRIORITY_MAP = 1 << 5;
    I915_EXEC_RING_MASK = 0x3f;
    I915_EXEC_DEFAULT = 0;
    I915_EXEC_RENDER = 1;
    I915_EXEC_BSD = 2;
    I915_EXEC_BLT = 3;
    I915_EXEC_VEBOX = 4;
    I915_EXEC_NO_RELOC = 1 << 11;
    I915_EXEC_HANDLE_LUT = 1 << 12;
    I915_EXEC_BSD_RING1 = 1 << 13;
    I915_EXEC_BSD_RING2 = 2 << 13;
    I915_EXEC_FENCE_IN = 1 << 16;
    I915_EXEC_FENCE_OUT = 1 << 17;
    I915_EXEC_BATCH_FIRST = 1 << 18;
    I915_EXEC_FENCE_ARRAY = 1 << 19;
    I915_EXEC_FENCE_SUBMIT = 1 << 20;
    I915_EXEC_USE_EXTENSIONS = 1 << 21;
    EXEC_OBJECT_NEEDS_FENCE = 1 << 0;
    EXEC_OBJECT_NEEDS_GTT = 1 << 1;
    EXEC_OBJECT_WRITE = 1 << 2;
    EXEC_OBJECT_SUPPORTS_48B_ADDRESS = 1 << 3;
    EXEC_OBJECT_PINNED = 1 << 4;
    EXEC_OBJECT_PAD_TO_SIZE = 1 << 5;
    EXEC_OBJECT_ASYNC = 1 << 6;
    EXEC_OBJECT_CAPTURE = 1 << 7;
    I915_CONTEXT_PARAM_GTT_SIZE = 0x3;
    I915_CONTEXT_PARAM_NO_ERROR_CAPTURE = 0x4;
    I915_CONTEXT_PARAM_BANNABLE = 0x5;
    I915_CONTEXT_PARAM_PRIORITY = 0x6;
    I915_CONTEXT_PARAM_SSEU = 0x7;
    I915_CONTEXT_PARAM_RECOVERABLE = 0x8;
    I915_CONTEXT_PARAM_VM = 0x9;
    I915_CONTEXT_PARAM_ENGINES = 0xa;
    I915_CONTEXT_PARAM_PERSISTENCE = 0xb;
    I915_CONTEXT_PARAM_PROTECTED_CONTENT = 0xd;
    I915_CONTEXT_SSEU_FLAG_ENGINE_INDEX = 1 << 0;
    DRM_I915_QUERY_TOPOLOGY_INFO = 1;
    DRM_I915_QUERY_ENGINE_INFO = 2;
    DRM_I915_QUERY_PERF_CONFIG = 3;
    DRM_I915_QUERY_MEMORY_REGIONS = 4;
    DRM_I915_QUERY_HWCONFIG_BLOB = 5;
    DRM_I915_QUERY_GEOMETRY_SUBSLICES = 6;
    I915_MEMORY_CLASS_SYSTEM = 0;
    I915_MEMORY_CLASS_DEVICE = 1;
    I915_MMAP_OFFSET_GTT = 0;
    I915_MMAP_OFFSET_WC = 1;
    I915_MMAP_OFFSET_WB = 2;
    I915_MMAP_OFFSET_UC = 3;
    I915_MMAP_OFFSET_FIXED = 4;
}

constants! { u32, NAMES:
    I915_EXEC_FENCE_WAIT = 1;
    I915_EXEC_FENCE_SIGNAL = 2;
    DRM_I915_GEM_EXECBUFFER_EXT_TIMELINE_FENCES = 0;
    I915_CONTEXT_CREATE_FLAGS_USE_EXTENSIONS = 1 << 0;
    I915_CONTEXT_CREATE_FLAGS_SINGLE_TIMELINE = 1 << 1;
    I915_CONTEXT_CREATE_EXT_SETPARAM = 0;
    I915_CONTEXT_ENGINES_EXT_LOAD_BALANCE = 0;
    I915_CONTEXT_ENGINES_EXT_BOND = 1;
    I915_CONTEXT_ENGINES_EXT_PARALLEL_SUBMIT = 2;
    I915_USERPTR_READ_ONLY = 0x1;
    I915_USERPTR_PROBE = 0x2;
    I915_USERPTR_UNSYNCHRONIZED = 0x80000000;
    I915_GEM_DOMAIN_CPU = 0x1;
    I915_GEM_DOMAIN_GTT = 0x40;
    I915_GEM_DOMAIN_WC = 0x80;
    I915_CACHING_NONE = 0;
    I915_CACHING_CACHED = 1;
    I915_CACHING_DISPLAY = 2;
    I915_TILING_NONE = 0;
    I915_TILING_X = 1;
    I915_TILING_Y = 2;
    I915_MADV_WILLNEED = 0;
    I915_MADV_DONTNEED = 1;
}

constants! { u16, CLASSES:
    I915_ENGINE_CLASS_RENDER = 0;
    I915_ENGINE_CLASS_COPY = 1;
    I915_ENGINE_CLASS_VIDEO = 2;
    I915_ENGINE_CLASS_VIDEO_ENHANCE = 3;
    I915_ENGINE_CLASS_COMPUTE = 4;
}

/// Class and instance of a gap in an engine map (-1 and -1 in C).
pub const I915_ENGINE_CLASS_INVALID: u16 = u16::MAX;
/// See [`I915_ENGINE_CLASS_INVALID`].
pub const I915_ENGINE_CLASS_INVALID_NONE: u16 = u16::MAX;
/// Item 7 of QUERY, which older headers do not have: the version of the GuC's submission interface.
pub const DRM_I915_QUERY_GUC_SUBMISSION_VERSION: u64 = 7;
/// Parameter 14 of a context, which older headers do not have: it asks for high frequencies.
pub const I915_CONTEXT_PARAM_LOW_LATENCY: u64 = 0xe;
/// GETPARAM 59, which older headers do not have: the kernel knows LOW_LATENCY.
pub const I915_PARAM_HAS_CONTEXT_FREQ_HINT: i32 = 59;
