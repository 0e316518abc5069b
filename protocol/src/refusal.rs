//! Refusals: an errno, a named reason and a sentence that tells the user what to do. The session
//! goes on after one.
//!
//! This table is the only place an errno comes from, so the daemon, the C library and the preload
//! cannot disagree. Reasons that restate a rule of the kernel name the section of the rule table.

pub use crate::message::RefusalBody;

/// Linux errno values that refusals use (the numbers are part of the kernel's interface).
pub mod errno {
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// No such object.
    pub const ENOENT: i32 = 2;
    /// Interrupted.
    pub const EINTR: i32 = 4;
    /// The device or the work on it is lost.
    pub const EIO: i32 = 5;
    /// No such device or address: not for this object.
    pub const ENXIO: i32 = 6;
    /// Too much.
    pub const E2BIG: i32 = 7;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// No memory, or a quota is used up.
    pub const ENOMEM: i32 = 12;
    /// Not allowed to this peer.
    pub const EACCES: i32 = 13;
    /// Bad address.
    pub const EFAULT: i32 = 14;
    /// In use.
    pub const EBUSY: i32 = 16;
    /// Occupied.
    pub const EEXIST: i32 = 17;
    /// The device cannot do this.
    pub const ENODEV: i32 = 19;
    /// An argument is wrong.
    pub const EINVAL: i32 = 22;
    /// Out of file descriptors.
    pub const EMFILE: i32 = 24;
    /// No room in the address space.
    pub const ENOSPC: i32 = 28;
    /// Timer expired.
    pub const ETIME: i32 = 62;
    /// Protocol version not supported.
    pub const EPROTONOSUPPORT: i32 = 93;
}
use errno::*;

macro_rules! reasons {
    ($(
        $(#[$doc:meta])*
        $variant:ident = $code:literal, $errno:ident, $name:literal, $sentence:literal;
    )*) => {
        /// Why a request was refused. Codes are never reused.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $($(#[$doc])* $variant = $code,)* }

        impl Reason {
            /// All reasons, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The errno a kernel client sees, positive.
            #[must_use]
            pub const fn errno(self) -> i32 { match self { $(Self::$variant => $errno,)* } }

            /// Stable name for logs, metrics and tests, `no-such-context`.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// What to do about it, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// The reason with this code.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    // 1..: the protocol and the daemon
    /// No common version.
    VersionUnsupported = 1, EPROTONOSUPPORT, "version-unsupported",
        "the daemon does not speak any version the client offered; update the older of the two";
    /// The client's name is too long or not text.
    ClientName = 2, EINVAL, "client-name", "the client name must be at most 64 bytes of printable UTF-8";
    /// An fd is not what the request takes.
    WrongFdKind = 3, EINVAL, "wrong-fd-kind", "the file descriptor is not of the kind this request takes";
    /// The daemon has no file descriptors left.
    DaemonFds = 4, EMFILE, "daemon-fds",
        "the daemon is out of file descriptors; close some objects or raise LimitNOFILE";
    /// The daemon or device has no memory left.
    OutOfMemory = 5, ENOMEM, "out-of-memory",
        "the daemon or the device is out of memory; free some buffers and try again";
    /// Not for this peer.
    Denied = 6, EACCES, "denied", "the daemon's policy does not allow this to the peer";
    /// The device failed in a way that has no better name.
    DeviceError = 7, EIO, "device-error", "the device failed; the daemon's log says how";

    /// No such session, or not for this peer.
    NoSuchSession = 8, ENOENT, "no-such-session",
        "no session has that number, or it is another user's; status lists those there are";
    /// No such class or limit.
    NoSuchClass = 9, ENOENT, "no-such-class", "the policy has no class, or no limit, of that name";
    /// §12
    DeviceGone = 10, ENODEV, "device-gone",
        "the GPU is gone: it was unplugged, or its driver was unloaded; open a new session when it is back";

    /// ADMIN_LISTEN
    ListenerName = 16, EEXIST, "listener-name",
        "a listener of that name exists; choose another, or end that one first";
    /// ADMIN_LISTEN
    ListenerLimit = 17, ENOMEM, "listener-limit",
        "there are as many listeners as there may be; end one first";
    /// ADMIN_LISTEN
    ListenerText = 18, EINVAL, "listener-text",
        "the name is not one, or the application or instance is too long or would not print";
    /// ADMIN_LISTEN
    ListenerSocket = 19, EINVAL, "listener-socket",
        "pass a Unix SEQPACKET socket that listens, and the reading end of a pipe or one of a socket pair";

    // 20..: limits
    /// Too many contexts.
    ContextLimit = 20, ENOMEM, "context-limit",
        "the session or its class has as many contexts as it may; destroy one first";
    /// Too many VMs.
    VmLimit = 21, ENOMEM, "vm-limit", "the session or its class has as many VMs as it may; destroy one first";
    /// Too many buffers.
    BufferLimit = 22, ENOMEM, "buffer-limit",
        "the session or its class has as many buffers as it may; close one first";
    /// Too much buffer memory.
    BufferMemoryLimit = 23, ENOMEM, "buffer-memory-limit",
        "the buffers of the session or of its class would exceed the memory limit; close some first";
    /// Too many submissions in flight.
    InFlightLimit = 24, EAGAIN, "in-flight-limit",
        "the session or its class has as many submissions in flight as it may; wait for one to complete";
    /// Too many waits.
    WaitLimit = 25, EAGAIN, "wait-limit",
        "the session has as many waits pending as it may; let one end first";
    /// Too many fences.
    FenceLimit = 26, EMFILE, "fence-limit",
        "the session has as many unsignalled fences as it may; wait for one to signal";
    /// A second page.
    SharedStatusGiven = 27, EBUSY, "shared-status-given", "the session has its shared status page; map that";

    // 100..: contexts
    /// Unknown context, or the default one where it is not accepted.
    NoSuchContext = 100, ENOENT, "no-such-context",
        "no context of this session has that id (the default context 0 cannot be destroyed)";
    /// §2.2
    ContextFlags = 101, EINVAL, "context-flags",
        "only USE_EXTENSIONS and SINGLE_TIMELINE are flags of context creation";
    /// §2.3, §12
    DeviceWedged = 102, EIO, "device-wedged",
        "the device could not be recovered from a hang; nothing runs until it is reset";
    /// §2.4
    SessionBanned = 103, EIO, "session-banned",
        "this session hung the device too often; open a new session to create contexts";
    /// §2.6
    SingleTimelineUnsupported = 104, EINVAL, "single-timeline-unsupported",
        "this device has no execution lists, which SINGLE_TIMELINE needs";
    /// A field that must be zero is not.
    ReservedNotZero = 105, EINVAL, "reserved-not-zero", "a reserved field must be 0";
    /// §3
    ExtensionUnknown = 106, EINVAL, "extension-unknown", "this request has no extension with that name";
    /// §3
    ExtensionChainTooLong = 107, E2BIG, "extension-chain-too-long",
        "an extension chain has at most 512 nodes";
    /// §2
    ExtensionContextId = 108, EINVAL, "extension-context-id",
        "the context id inside a creation extension must be 0";
    /// §4
    ParamUnknown = 109, EINVAL, "param-unknown", "no context parameter with that number can be used this way";
    /// §4
    ParamSize = 110, EINVAL, "param-size", "the size does not go with this context parameter";
    /// §4
    ParamFrozen = 111, EINVAL, "param-frozen",
        "this parameter can be set only before the context is first used";
    /// §4 BANNABLE
    BannablePrivilege = 112, EPERM, "bannable-privilege",
        "clearing BANNABLE needs a privilege that the policy does not give this peer";
    /// §4 PRIORITY
    PriorityRange = 113, EINVAL, "priority-range", "a priority lies between -1023 and 1023";
    /// §4 PRIORITY
    PriorityPrivilege = 114, EPERM, "priority-privilege",
        "the policy does not give this peer that priority; above 0 nobody has it unless told so";
    /// §4 PRIORITY
    PriorityUnsupported = 115, ENODEV, "priority-unsupported", "the device's scheduler has no priorities";
    /// §4 PERSISTENCE
    PersistenceNeedsHangcheck = 116, EINVAL, "persistence-needs-hangcheck",
        "persistent contexts need hang checking, which is off";
    /// §4 PERSISTENCE
    PersistenceUnsupported = 117, ENODEV, "persistence-unsupported",
        "the device can neither preempt nor reset single engines, which non-persistence needs";
    /// §4 PROTECTED_CONTENT
    ProtectedUnsupported = 118, ENODEV, "protected-unsupported",
        "the device has no protected content";
    /// §4 PROTECTED_CONTENT, BANNABLE, RECOVERABLE
    ProtectedPermission = 119, EPERM, "protected-permission",
        "a protected context must stay bannable and not recoverable; set those first";
    /// §4 LOW_LATENCY
    LowLatencyUnsupported = 120, EINVAL, "low-latency-unsupported",
        "the low-latency hint needs submission through the GuC";
    /// The payload is not of the kind the parameter takes.
    ParamPayload = 121, EFAULT, "param-payload",
        "the payload that goes with this parameter is missing";
    /// §5
    SseuUnsupported = 122, ENODEV, "sseu-unsupported",
        "slice configuration is not supported by this device or engine";
    /// §5
    SseuEngine = 123, EINVAL, "sseu-engine",
        "the engine selector names no render engine of the context";
    /// §5
    SseuValue = 124, EINVAL, "sseu-value",
        "the device cannot run with these slices, subslices and execution units";
    /// §5
    SseuFlags = 125, EINVAL, "sseu-flags", "only ENGINE_INDEX is a flag of SSEU";
    /// §2.1
    ContextsUnsupported = 126, ENODEV, "contexts-unsupported",
        "the device has no logical contexts beside the default one";

    // 140..: engine maps (§6)
    /// §6
    EnginesAlreadySet = 140, EINVAL, "engines-already-set",
        "the engine map can be set once; create another context";
    /// §6
    TooManyEngines = 141, EINVAL, "too-many-engines", "an engine map has at most 64 slots";
    /// §6
    NoSuchEngine = 142, ENOENT, "no-such-engine",
        "the device has no engine of that class and instance";
    /// §6.0–§6.2
    EngineSlotRange = 143, EINVAL, "engine-slot-range", "the slot is not in the engine map";
    /// §6.0
    EngineSlotOccupied = 144, EEXIST, "engine-slot-occupied",
        "a virtual engine needs a slot that is a gap";
    /// §6.0–§6.2
    SiblingUnknown = 145, EINVAL, "sibling-unknown",
        "a sibling, master or bond names an engine the device does not have";
    /// §6.0
    BalancingUnsupported = 146, ENODEV, "balancing-unsupported",
        "the device has no execution lists, which load balancing needs";
    /// §6.1
    BondUnsupported = 147, ENODEV, "bond-unsupported",
        "the device does not bond engines; use PARALLEL_SUBMIT";
    /// §6.1
    BondSlot = 148, EINVAL, "bond-slot", "only a physical engine's slot can be bonded";
    /// §6.2
    ParallelShape = 149, EINVAL, "parallel-shape",
        "width and siblings of the parallel slot are not possible on this device";
    /// §6.2
    ParallelSlotOccupied = 150, EINVAL, "parallel-slot-occupied",
        "a parallel engine needs a slot that is a gap";
    /// §6.2
    ParallelEngine = 151, EINVAL, "parallel-engine",
        "parallel engines are video or copy engines of one class with neighbouring instances";
    /// §7
    SiblingsInvalid = 152, EINVAL, "siblings-invalid",
        "siblings of a virtual engine must be different engines of one class";
    /// §6.2
    ParallelSingleTimeline = 153, EINVAL, "parallel-single-timeline",
        "a SINGLE_TIMELINE context cannot submit in parallel";

    // 170..: CLONE (§16)
    /// §16
    CloneFlags = 170, EINVAL, "clone-flags", "CLONE knows the bits 0x3f";
    /// §16
    CloneSource = 171, ENOENT, "clone-source", "no context of this session has the source's id";
    /// §16
    CloneEngines = 172, EINVAL, "clone-engines",
        "slice configuration can only be cloned between equal engine maps";

    // 200..: VMs (§10)
    /// §10
    NoSuchVm = 200, ENOENT, "no-such-vm", "no VM of this session has that id";
    /// §10
    VmFlags = 201, EINVAL, "vm-flags", "VM requests take neither flags nor extensions";
    /// §4, §10
    VmUnsupported = 202, ENODEV, "vm-unsupported", "the device has no separate address spaces";

    // 300..: buffers (§17)
    /// Unknown handle.
    NoSuchBuffer = 300, ENOENT, "no-such-buffer", "no buffer of this session has that handle";
    /// Size 0 or flags.
    BufferSize = 301, EINVAL, "buffer-size", "a buffer has at least one byte and no flags";
    /// Too large for an object.
    BufferTooLarge = 302, E2BIG, "buffer-too-large", "the buffer is larger than the limit in HELLO";
    /// §17
    WaitFlags = 303, EINVAL, "wait-flags", "a wait takes no flags";
    /// §17
    WaitTimeout = 304, ETIME, "wait-timeout", "the buffer was still busy when the time was over";

    /// GEM_CREATE_EXT's placement list
    BufferRegions = 305, EINVAL, "buffer-regions",
        "a buffer lives in system memory, named exactly once, and nowhere else";
    /// §17 SET_DOMAIN
    BufferDomain = 310, EINVAL, "buffer-domain",
        "only CPU domains can be asked for, and the write domain must be the read domain";
    /// PREAD, PWRITE
    BufferRange = 311, EINVAL, "buffer-range", "the range lies outside the buffer";
    /// §17 SET_CACHING
    BufferCaching = 312, EINVAL, "buffer-caching", "the caching modes are 0, 1 and 2";
    /// §17: not on discrete or newer devices.
    BufferUnsupported = 313, ENODEV, "buffer-unsupported",
        "the device does not offer this for its buffers";
    /// SET_TILING
    BufferTiling = 314, EINVAL, "buffer-tiling", "the device cannot tile with this mode and stride";
    /// MADVISE
    BufferAdvice = 315, EINVAL, "buffer-advice", "the advice is 0 or 1";
    /// PRIME_HANDLE_TO_FD
    BufferExportFlags = 316, EINVAL, "buffer-export-flags",
        "only CLOEXEC and RDWR are flags of a buffer's export";
    /// DMA_BUF_IOCTL_EXPORT_SYNC_FILE, DMA_BUF_IOCTL_IMPORT_SYNC_FILE
    BufferFenceFlags = 317, EINVAL, "buffer-fence-flags",
        "a buffer's fences are asked for with READ (1), WRITE (2) or both";
    /// A limit of ours.
    BufferFenceLimit = 318, ENOMEM, "buffer-fence-limit",
        "too much that is not done uses the buffer; wait for some of it";

    // 340..: userptr (§14)
    /// §14: no LLC and no snooping.
    UserptrUnsupported = 340, ENODEV, "userptr-unsupported",
        "the device cannot use an application's memory; copy into a buffer";
    /// §14
    UserptrFlags = 341, EINVAL, "userptr-flags",
        "only READ_ONLY and PROBE are flags of an application's memory";
    /// §14
    UserptrUnsynchronized = 342, ENODEV, "userptr-unsynchronized",
        "memory is never shared without invalidation; leave UNSYNCHRONIZED out";
    /// §14: size 0 or not whole pages.
    UserptrAlignment = 343, EINVAL, "userptr-alignment",
        "offset and length must be multiples of the page size, the length at least one page";
    /// §14: outside the memory there is.
    UserptrRange = 344, EFAULT, "userptr-range",
        "the range does not lie inside the memfd; size it first";
    /// §14
    UserptrReadOnly = 345, ENODEV, "userptr-read-only",
        "the device cannot keep the GPU from writing; leave READ_ONLY out";
    /// Not from `memfd_create`.
    UserptrNotMemfd = 346, EINVAL, "userptr-not-memfd",
        "only memory from memfd_create with MFD_ALLOW_SEALING can be shared with the GPU";
    /// `memfd_secret`
    UserptrSecret = 347, EINVAL, "userptr-secret",
        "secret memory cannot be shared with the GPU; use memfd_create";
    /// `MFD_HUGETLB`
    UserptrHugetlb = 348, EINVAL, "userptr-hugetlb",
        "a memfd of hugetlb pages cannot be shared; leave MFD_HUGETLB out, transparent ones are fine";
    /// It could be cut off under the GPU, or is sealed against what was asked.
    UserptrSeals = 349, EINVAL, "userptr-seals",
        "the memfd must be sealed with F_SEAL_SHRINK, and against writing only with READ_ONLY";
    /// The fd does not allow it.
    UserptrAccess = 350, EACCES, "userptr-access",
        "the memfd must be open for reading and, without READ_ONLY, for writing";
    /// A larger file than the daemon maps.
    UserptrFileTooLarge = 351, E2BIG, "userptr-file-too-large",
        "the memfd is larger than 16 GiB; share memory in several";
    /// Quota.
    UserptrMemoryLimit = 352, ENOMEM, "userptr-memory-limit",
        "the session shares as much of its memory as it may; close some of those buffers";
    /// Quota.
    UserptrFileLimit = 353, ENOMEM, "userptr-file-limit",
        "the session shares as many memfds as it may; share larger ones";
    /// §14 MMAP_OFFSET
    UserptrMap = 354, ENODEV, "userptr-map",
        "the buffer is the application's memory; map the memfd";
    /// §14 PREAD, PWRITE
    UserptrTransfer = 355, EINVAL, "userptr-transfer",
        "the buffer is the application's memory; read and write that, after BUFFER_SET_DOMAIN";
    /// §14 PRIME
    UserptrExport = 356, EINVAL, "userptr-export",
        "the buffer is the application's memory; pass the memfd on";
    /// §14 SET_TILING
    UserptrTiling = 357, ENXIO, "userptr-tiling", "an application's memory is not tiled";
    /// §14 SET_CACHING
    UserptrCaching = 358, ENXIO, "userptr-caching", "an application's memory is always cached";
    /// §14 submit_init, submit_done
    UserptrInvalidated = 359, EAGAIN, "userptr-invalidated",
        "the memory was invalidated meanwhile; submit again";
    /// §14: its pages cannot be had.
    UserptrPages = 360, EFAULT, "userptr-pages",
        "the application's memory cannot be reached; it was cut off, or the machine is out of memory";
    /// INVALIDATE of another buffer.
    UserptrExpected = 361, EINVAL, "userptr-expected", "the buffer is not an application's memory";
    /// INVALIDATE took too long.
    UserptrInUse = 362, ETIME, "userptr-in-use",
        "the GPU still uses the old pages; keep them and invalidate again";
    /// INVALIDATE, and the GPU hung meanwhile.
    UserptrLost = 363, EIO, "userptr-lost",
        "work with the old pages hung or was cancelled; they are free, but what it wrote is not whole";

    // 400..: EXECBUF (§13)
    /// §13.1
    ExecCount = 400, EINVAL, "exec-count",
        "a submission has at least one and at most the limit's objects";
    /// §13.2
    ExecFlags = 401, EINVAL, "exec-flags", "the submission has flags that do not exist";
    /// §13.3
    ExecCliprects = 402, EINVAL, "exec-cliprects",
        "cliprects may only be used for fences, with the flag that says so";
    /// §13.4
    ExecDr = 403, EINVAL, "exec-dr", "DR1 and DR4 must be 0";
    /// §13.5
    ExecBatchAlignment = 404, EINVAL, "exec-batch-alignment",
        "batch start and length must be multiples of 8";
    /// §13.7
    ExecSecure = 405, EPERM, "exec-secure", "secure batches are not for clients of the broker";
    /// §13.11
    ExecTwoInFences = 406, EINVAL, "exec-two-in-fences",
        "FENCE_IN and FENCE_SUBMIT exclude each other";
    /// §13.12
    ExecInFence = 407, EINVAL, "exec-in-fence", "the in-fence is not a fence of this daemon";
    /// §13.1
    ExecEngine = 408, EINVAL, "exec-engine", "the submission selects no engine of the context";
    /// §13.20, §12
    ContextBanned = 409, EIO, "context-banned",
        "this context hung the device and is banned; create a new one";
    /// §13.21
    ExecNoSpace = 410, ENOSPC, "exec-no-space",
        "the objects do not fit in the address space, or pinned ones overlap";
    /// §13.2
    ObjectFlags = 411, EINVAL, "object-flags",
        "an object has flags that do not exist or do not apply";
    /// §13.2
    ObjectAlignment = 412, EINVAL, "object-alignment", "an alignment must be a power of two";
    /// §13.2
    ObjectAddress = 413, EINVAL, "object-address",
        "a pinned object's address must be page aligned and canonical";
    /// §13.2
    ObjectPad = 414, EINVAL, "object-pad", "pad_to_size must be a multiple of the page size";
    /// §13.2
    BatchWritten = 415, EINVAL, "batch-written", "the batch buffer cannot have the WRITE flag";
    /// §13.2
    BatchRange = 416, EINVAL, "batch-range", "the batch lies outside its buffer or is empty";
    /// §13.2
    ObjectDuplicate = 417, EINVAL, "object-duplicate", "a buffer may appear once per submission";
    /// §13.1
    ParallelBatches = 418, EINVAL, "parallel-batches",
        "a parallel slot takes one batch per width and no batch start or length";
    /// §13.24
    CaptureRecoverable = 419, EINVAL, "capture-recoverable",
        "this device captures objects for contexts that are not recoverable only";
    /// §13.22
    RelocationInvalid = 420, EINVAL, "relocation-invalid",
        "a relocation lies outside its object, is misaligned or has impossible domains";
    /// §13.22
    RelocationTarget = 421, ENOENT, "relocation-target",
        "a relocation's target is not among the submission's objects";
    /// §13.22
    RelocationsMissing = 423, EFAULT, "relocations-missing",
        "an object has more relocations than came with the submission";
    /// §13.3
    ExecFences = 424, EINVAL, "exec-fences",
        "a fence entry has flags that do not exist, or there are too many of them";
    /// §13.3
    ExecFenceEmpty = 425, EINVAL, "exec-fence-empty",
        "a syncobj to wait for holds no fence, or not the point";
    /// §13.3
    ExecFencePoint = 426, EINVAL, "exec-fence-point",
        "one submission cannot wait for a point of a timeline and signal it";
    /// EXECBUF_LIST: another base, or the daemon needed the room.
    ExecListStale = 427, EAGAIN, "exec-list-stale",
        "the daemon does not have the list as it was; send all of it, from nothing";
    /// EXECBUF_LIST
    ExecListRange = 428, EINVAL, "exec-list-range",
        "no such list, it would be too long, or a change of it lies beyond its end";
    /// EXECBUF_LIST
    ExecListMemory = 429, ENOMEM, "exec-list-memory",
        "the daemon has no room for lists at the moment; use fewer objects or try again";
    /// More objects than a reply has room for addresses.
    ExecUnpinned = 430, EINVAL, "exec-unpinned",
        "of more than 8190 objects every one must be PINNED: a reply has no room for more addresses";

    // 520..: syncobjs
    /// Flags that a syncobj request does not have.
    SyncobjFlags = 520, EINVAL, "syncobj-flags", "the syncobj request has flags that do not exist";
    /// Unknown handle.
    NoSuchSyncobj = 521, ENOENT, "no-such-syncobj", "no syncobj of this session has that handle";
    /// Unknown handle where the kernel says EINVAL.
    SyncobjHandle = 522, EINVAL, "syncobj-handle", "no syncobj of this session has that handle";
    /// None, or too many.
    SyncobjCount = 523, EINVAL, "syncobj-count",
        "the request must name at least one syncobj and at most the limit's";
    /// Too many syncobjs.
    SyncobjLimit = 524, ENOMEM, "syncobj-limit",
        "the session has as many syncobjs as it may; destroy one first";
    /// Nothing was put in.
    SyncobjEmpty = 525, EINVAL, "syncobj-empty", "the syncobj holds no fence, or not the point";
    /// The wait's time is over.
    SyncobjTimeout = 526, ETIME, "syncobj-timeout",
        "the syncobjs were not signalled when the time was over";
    /// Points must go with the objects.
    SyncobjPoints = 527, EINVAL, "syncobj-points", "there must be one point for each syncobj";
    /// A point where none is taken.
    SyncobjPoint = 528, EINVAL, "syncobj-point",
        "a point goes only with a fence of a timeline; see SYNC_FILE and TIMELINE";

    // 600..: asking the device
    /// §17 GETPARAM
    DeviceParamUnknown = 600, EINVAL, "device-param-unknown",
        "the device has no parameter with that number";
    /// §17 GETPARAM
    DeviceParamGone = 601, ENODEV, "device-param-gone",
        "this parameter is obsolete or the device lacks what it tells of";
    /// §17 QUERY
    QueryFlags = 602, EINVAL, "query-flags",
        "a query has no flags of its own and no item with number 0";
    /// REG_READ
    RegisterUnknown = 603, EINVAL, "register-unknown",
        "only the render engine's timestamp can be read";
    /// HANG_SHOW, HANG_READ
    NoSuchHang = 700, ENOENT, "no-such-hang",
        "no hang with that number is remembered, or it is another user's, or it left no such dump";
}

/// An answer of "no". The session goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which rule.
    pub reason: Reason,
    /// Overrides the reason's errno where one rule has several (a device's own error).
    errno: Option<i32>,
    /// Added to the reason's sentence: the value at fault.
    detail: Option<Box<str>>,
}

impl Refusal {
    /// A refusal with the reason's own errno and sentence.
    #[must_use]
    pub const fn new(reason: Reason) -> Self {
        Self { reason, errno: None, detail: None }
    }

    /// Adds the value at fault.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A device's own errno (positive).
    #[must_use]
    pub const fn with_errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Positive errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno.unwrap_or_else(|| self.reason.errno())
    }

    /// The sentence for the user.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.detail {
            None => self.reason.sentence().to_owned(),
            Some(detail) => format!("{} ({detail})", self.reason.sentence()),
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn to_body(&self) -> RefusalBody {
        RefusalBody {
            errno: self.errno(),
            code: self.reason as u16,
            name: self.reason.name().to_owned(),
            sentence: self.sentence(),
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (errno {})", self.reason.name(), self.sentence(), self.errno())
    }
}

impl std::error::Error for Refusal {}
