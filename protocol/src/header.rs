//! The eight bytes before every body, and the table of opcodes.

use crate::limits::HEADER_BYTES;
use crate::violation::Violation;

/// What a packet is, little-endian on the wire: `opcode u16, flags u16, seq u32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which message the body is; a reply repeats its request's opcode.
    pub opcode: u16,
    /// [`HeaderFlags`].
    pub flags: u16,
    /// Chosen by the client and repeated by the reply; 0 in events.
    pub seq: u32,
}

/// Bits of [`Header::flags`]. A request has none set.
#[derive(Clone, Copy, Debug)]
pub struct HeaderFlags;

impl HeaderFlags {
    /// From the daemon: the answer to the request with the same `seq`.
    pub const REPLY: u16 = 1 << 0;
    /// With REPLY: the body is a [`crate::Refusal`].
    pub const REFUSED: u16 = 1 << 1;
    /// From the daemon, unasked; `seq` is 0.
    pub const EVENT: u16 = 1 << 2;
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&self.opcode.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes
    }

    /// Splits a packet into header and body.
    ///
    /// # Errors
    /// [`Violation::Short`] when the packet cannot hold a header.
    pub fn split(packet: &[u8]) -> Result<(Self, &[u8]), Violation> {
        let Some((head, body)) = packet.split_first_chunk::<HEADER_BYTES>() else {
            return Err(Violation::Short);
        };
        let header = Self {
            opcode: u16::from_le_bytes([head[0], head[1]]),
            flags: u16::from_le_bytes([head[2], head[3]]),
            seq: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
        };
        Ok((header, body))
    }
}

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Every message there is. Numbers are never reused.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Opcode { $($(#[$doc])* $name = $number,)* }

        impl Opcode {
            /// All opcodes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The opcode with this number.
            #[must_use]
            pub const fn from_u16(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

opcodes! {
    /// First message of a connection, and only there.
    Hello = 0x0001,
    /// Answers with the same payload, and with the same fd if one came.
    Ping = 0x0002,
    /// The device description again, as it is now.
    DeviceQuery = 0x0003,
    /// Sessions, contexts and engines, page by page.
    Status = 0x0004,
    /// i915 GETPARAM.
    GetParam = 0x0005,
    /// i915 QUERY.
    Query = 0x0006,
    /// i915 GEM_GET_APERTURE.
    GetAperture = 0x0007,
    /// i915 GEM_THROTTLE; the reply comes when the wait ends.
    Throttle = 0x0008,
    /// i915 REG_READ.
    RegRead = 0x0009,
    /// What the daemon has given up.
    Confinement = 0x000a,
    /// i915 CONTEXT_CREATE_EXT.
    ContextCreate = 0x0101,
    /// i915 CONTEXT_DESTROY.
    ContextDestroy = 0x0102,
    /// i915 CONTEXT_SETPARAM.
    ContextSetParam = 0x0103,
    /// i915 CONTEXT_GETPARAM.
    ContextGetParam = 0x0104,
    /// i915 GET_RESET_STATS.
    ContextResetStats = 0x0105,
    /// i915 VM_CREATE.
    VmCreate = 0x0201,
    /// i915 VM_DESTROY.
    VmDestroy = 0x0202,
    /// i915 GEM_CREATE.
    BufferCreate = 0x0301,
    /// An fd to map the buffer's memory with.
    BufferMap = 0x0302,
    /// GEM_CLOSE.
    BufferClose = 0x0303,
    /// i915 GEM_BUSY.
    BufferBusy = 0x0304,
    /// i915 GEM_WAIT; the reply comes when the wait ends.
    BufferWait = 0x0305,
    /// i915 GEM_SET_DOMAIN; the reply comes when the wait ends.
    BufferSetDomain = 0x0306,
    /// What GEM_PREAD and GEM_PWRITE check and wait for; the data moves through the mapping.
    BufferAccess = 0x0307,
    /// i915 GEM_SET_CACHING.
    BufferSetCaching = 0x0308,
    /// i915 GEM_GET_CACHING.
    BufferGetCaching = 0x0309,
    /// i915 GEM_SET_TILING.
    BufferSetTiling = 0x030a,
    /// i915 GEM_GET_TILING.
    BufferGetTiling = 0x030b,
    /// i915 GEM_MADVISE.
    BufferMadvise = 0x030c,
    /// PRIME_HANDLE_TO_FD: an fd that another session can import.
    BufferExport = 0x030d,
    /// PRIME_FD_TO_HANDLE.
    BufferImport = 0x030e,
    /// i915 GEM_USERPTR over a memfd.
    UserptrCreate = 0x0320,
    /// The pages of a range become others; the reply comes when no work uses the old ones.
    UserptrInvalidate = 0x0321,
    /// i915 GEM_EXECBUFFER2; fixed layout, see [`crate::execbuf`].
    Execbuf = 0x0401,
    /// Changes a list the daemon keeps, and runs it as an EXECBUF; see [`crate::execlist`].
    ExecbufList = 0x0410,
    /// Memory in which the daemon writes what clients poll; see [`crate::shared_status`].
    SharedStatus = 0x0420,
    /// DMA_BUF_IOCTL_EXPORT_SYNC_FILE: who uses a buffer, as a fence fd.
    BufferFenceExport = 0x0430,
    /// DMA_BUF_IOCTL_IMPORT_SYNC_FILE: what uses a buffer later waits for a fence.
    BufferFenceImport = 0x0431,
    /// State of a fence fd.
    FenceStatus = 0x0501,
    /// One fence fd that signals when two others have.
    FenceMerge = 0x0502,
    /// SYNCOBJ_CREATE.
    SyncobjCreate = 0x0510,
    /// SYNCOBJ_DESTROY.
    SyncobjDestroy = 0x0511,
    /// SYNCOBJ_RESET.
    SyncobjReset = 0x0512,
    /// SYNCOBJ_SIGNAL.
    SyncobjSignal = 0x0513,
    /// SYNCOBJ_WAIT and SYNCOBJ_TIMELINE_WAIT; the reply comes when the wait ends.
    SyncobjWait = 0x0514,
    /// SYNCOBJ_TIMELINE_SIGNAL.
    SyncobjTimelineSignal = 0x0515,
    /// SYNCOBJ_QUERY.
    SyncobjQuery = 0x0516,
    /// SYNCOBJ_TRANSFER.
    SyncobjTransfer = 0x0517,
    /// SYNCOBJ_HANDLE_TO_FD.
    SyncobjExport = 0x0518,
    /// SYNCOBJ_FD_TO_HANDLE.
    SyncobjImport = 0x0519,
    /// Event: a batch of the session hung or faulted.
    Hang = 0x0a10,
    /// The last hangs, page by page.
    HangList = 0x0a11,
    /// What is kept of one.
    HangShow = 0x0a12,
    /// Bytes of its dump.
    HangRead = 0x0a13,
    /// Engine time and memory of a session, as drm-usage-stats has them.
    Usage = 0x0a20,
    /// Who a session belongs to.
    Identity = 0x0b00,
    /// Administrators: let nobody new in, or let them in again.
    AdminDrain = 0x0b01,
    /// Administrators: take a session away.
    AdminRevoke = 0x0b02,
    /// Administrators: change a limit of a class.
    AdminLimit = 0x0b03,
    /// Administrators: the classes, what they hold and may hold.
    AdminClasses = 0x0b04,
    /// Administrators: all sessions, page by page.
    AdminList = 0x0b05,
    /// Administrators: everything about a session.
    AdminInspect = 0x0b06,
    /// Administrators: which events to send.
    AdminEvents = 0x0b07,
    /// Event, for administrators: something happened.
    AdminEvent = 0x0b08,
    /// Administrators: serve one more socket, whose clients are who the request says.
    AdminListen = 0x0b09,
    /// Administrators: the listeners.
    AdminListeners = 0x0b0a,
    /// Administrators: record what the engines do, or stop.
    AdminTrace = 0x0b0b,
    /// Administrators: what was recorded.
    AdminTraceRead = 0x0b0c,
    /// Event: why the daemon is about to close the connection.
    Epitaph = 0x0f01,
}
