//! Every limit of the protocol and of what one session may hold, with the unit last in its name.
//!
//! These are ceilings. The daemon's configuration may lower the per-session ones; HELLO tells the
//! client what is in force ([`crate::message::Limits`]).

/// Bytes of [`crate::Header`].
pub const HEADER_BYTES: usize = 8;
/// Bytes of one message, header included. Half of what a default `SO_SNDBUF` can carry, so a
/// message and its reply never wait for each other.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a message's body.
pub const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - HEADER_BYTES;
/// File descriptors one message may carry.
pub const FDS_PER_MESSAGE_MAX: usize = 4;
/// Bytes of the name a client gives itself in HELLO (UTF-8).
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Nodes of an extension chain; one more is E2BIG (rule table §3).
pub const EXTENSIONS_PER_CHAIN_MAX: usize = 512;
/// Slots of an engine map (rule table §6).
pub const ENGINE_SLOTS_MAX: usize = 64;
/// Live and proto-contexts of one session, the default context not counted.
pub const CONTEXTS_PER_SESSION_MAX: u32 = 4096;
/// VM handles of one session.
pub const VMS_PER_SESSION_MAX: u32 = 1024;
/// Buffers of one session.
pub const BUFFERS_PER_SESSION_MAX: u32 = 64 * 1024;
/// Bytes of one buffer.
pub const BUFFER_BYTES_MAX: u64 = 1 << 34;
/// Bytes of all buffers of one session.
pub const BUFFER_MEMORY_PER_SESSION_BYTES_MAX: u64 = 1 << 36;
/// Bytes of an application's memory that one session may have mapped by the daemon: of each memfd
/// that buffers of the session are over, once, from its start to its end.
pub const USERPTR_MEMORY_PER_SESSION_BYTES_MAX: u64 = 1 << 36;
/// Memfds that buffers of one session may be over.
pub const USERPTR_MEMFDS_PER_SESSION_MAX: u32 = 1024;
/// Bytes of a memfd that a buffer may be over.
pub const USERPTR_MEMFD_BYTES_MAX: u64 = BUFFER_BYTES_MAX;
/// Milliseconds USERPTR_INVALIDATE may wait for the GPU.
pub const USERPTR_INVALIDATE_MS_MAX: u64 = 60_000;
/// Objects of one EXECBUF. Beside the fixed part a message has room for 1364; EXECBUF_LIST submits
/// more.
pub const OBJECTS_PER_EXECBUF_MAX: u32 = 16 * 1024;
/// Objects of one EXECBUF that need not be PINNED: as many addresses fit in the reply.
pub const UNPINNED_PER_EXECBUF_MAX: u32 = 8190;
/// Lists that the daemon keeps for a session (EXECBUF_LIST).
pub const EXECBUF_LISTS_PER_SESSION_MAX: usize = 4;
/// Bytes of one list.
pub const EXECBUF_LIST_BYTES_MAX: usize = 2 << 20;
/// Bytes of the lists of all sessions; beyond, the user who has most loses those used longest ago.
pub const EXECBUF_LISTS_BYTES_MAX: usize = 256 << 20;
/// Shared status pages of one session.
pub const SHARED_STATUS_PAGES_PER_SESSION_MAX: u32 = 1;
/// Requests accepted by EXECBUF and not completed yet, per session.
pub const SUBMISSIONS_IN_FLIGHT_PER_SESSION_MAX: u32 = 4096;
/// Syncobjs of one session.
pub const SYNCOBJS_PER_SESSION_MAX: u32 = 16 * 1024;
/// Syncobjs one request may name, with a point for each.
pub const SYNCOBJS_PER_REQUEST_MAX: usize = 2048;
/// Points of one syncobj's timeline that are not signalled yet.
pub const TIMELINE_POINTS_PENDING_MAX: usize = 4096;
/// Exported syncobj fds of one session that are still open somewhere.
pub const SYNCOBJ_EXPORTS_PER_SESSION_MAX: u32 = 256;
/// Items of one QUERY.
pub const QUERY_ITEMS_MAX: usize = 64;
/// Fences of one EXECBUF, array and timelines together.
pub const FENCES_PER_EXECBUF_MAX: usize = 1024;
/// Relocations of one EXECBUF. Beside a few dozen objects a message has room for 1900; EXECBUF_LIST
/// submits more.
pub const RELOCATIONS_PER_EXECBUF_MAX: usize = 32 * 1024;
/// Replies a session may be owed later (waits that have not ended).
pub const PENDING_WAITS_PER_SESSION_MAX: u32 = 256;
/// Out-fences of one session that are not signalled yet, where each costs the daemon one fd: on the
/// software GPU.
pub const FENCES_PER_SESSION_MAX: u32 = 1024;
/// HANG events a session has not been sent yet; of more, the oldest are dropped.
pub const HANG_EVENTS_PENDING_MAX: usize = 16;
/// Bytes of one answer to HANG_READ.
pub const HANG_READ_BYTES_MAX: usize = 32 * 1024;
/// Hangs of one session that the daemon remembers, with and without a dump.
pub const HANGS_PER_SESSION_MAX: usize = 16;
/// Hangs the daemon remembers.
pub const HANGS_MAX: usize = 256;
/// Dumps of one session that the daemon keeps.
pub const HANG_DUMPS_PER_SESSION_MAX: usize = 4;
/// Bytes of memory in the dumps of one session.
pub const HANG_DUMP_BYTES_PER_SESSION_MAX: usize = 1 << 20;
/// Bytes of memory in all dumps.
pub const HANG_DUMP_BYTES_MAX: usize = 16 << 20;
/// Characters of each text of a session's identity.
pub const IDENTITY_CHARS_MAX: usize = 256;
/// Administrators' events a connection has not been sent yet; of more, the oldest are dropped.
pub const ADMIN_EVENTS_PENDING_MAX: usize = 256;
/// Listeners made at run time.
pub const LISTENERS_MADE_MAX: usize = 256;
/// Records of what the engines do that the daemon keeps; of more, the oldest are dropped.
pub const TRACE_RECORDS_MAX: usize = 64 * 1024;
/// Records of one answer to ADMIN_TRACE_READ.
pub const TRACE_RECORDS_PER_READ_MAX: usize = 1024;
/// Connections the daemon serves at once unless configured otherwise.
pub const SESSIONS_MAX_DEFAULT: u32 = 4096;
/// Milliseconds a connection may take to say HELLO.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;

/// Unit of buffer sizes and GPU addresses, in bytes.
pub const PAGE_BYTES: u64 = 4096;

// What a request may name fits in a message, or in a list if it is an EXECBUF, and so does the answer,
// so that a client that stays within the limits is never hung up on, and the daemon never owes a reply
// it cannot send. One too many fits as well, so that it is refused with an errno.
const _: () = {
    use crate::execbuf::{
        EXTENSION_BYTES, FENCE_BYTES, FIXED_BYTES, OBJECT_BYTES, POINT_BYTES, RELOCATION_BYTES,
    };
    let unpinned = UNPINNED_PER_EXECBUF_MAX as usize;
    assert!(8 + unpinned * 8 <= BODY_BYTES_MAX, "EXECBUF's reply: an address for each object");
    let objects = OBJECTS_PER_EXECBUF_MAX as usize + 1;
    let relocations = RELOCATIONS_PER_EXECBUF_MAX + 1;
    let lists = FIXED_BYTES + objects * OBJECT_BYTES + relocations * RELOCATION_BYTES;
    let fences = (FENCES_PER_EXECBUF_MAX + 1) * (FENCE_BYTES + POINT_BYTES);
    let chain = (EXTENSIONS_PER_CHAIN_MAX + 1) * EXTENSION_BYTES;
    assert!(lists + fences + chain <= EXECBUF_LIST_BYTES_MAX);
    assert!(EXECBUF_LISTS_PER_SESSION_MAX * EXECBUF_LIST_BYTES_MAX < EXECBUF_LISTS_BYTES_MAX);
    // Beside the other lists there is room for the one or two objects every batch has.
    let batch = FIXED_BYTES + 2 * OBJECT_BYTES;
    assert!(batch + FENCES_PER_EXECBUF_MAX * FENCE_BYTES <= BODY_BYTES_MAX);
    let nodes = EXTENSIONS_PER_CHAIN_MAX * EXTENSION_BYTES;
    assert!(batch + nodes + FENCES_PER_EXECBUF_MAX * POINT_BYTES <= BODY_BYTES_MAX);
    // SYNCOBJ_WAIT: two lists, a byte that says there are points, flags and deadline.
    assert!(
        8 + SYNCOBJS_PER_REQUEST_MAX * 4 + 1 + 8 + SYNCOBJS_PER_REQUEST_MAX * 8 + 12
            <= BODY_BYTES_MAX
    );
    assert!(8 + SYNCOBJS_PER_REQUEST_MAX * 8 <= BODY_BYTES_MAX, "SYNCOBJ_QUERY's reply");
    assert!(4 + 8 + QUERY_ITEMS_MAX * 12 <= BODY_BYTES_MAX);
    // A record that ran: four numbers, an engine, a tag and how long.
    assert!(8 + 8 + TRACE_RECORDS_PER_READ_MAX * 44 < BODY_BYTES_MAX);
};
// One too many fits here too.
const _: () = {
    // CONTEXT_CREATE with nodes that set a scalar, 56 bytes each; an engine map's slots.
    assert!(4 + 8 + (EXTENSIONS_PER_CHAIN_MAX + 1) * 56 <= BODY_BYTES_MAX);
    assert!(4 + 12 + 4 + 8 + (ENGINE_SLOTS_MAX + 1) * 4 + 8 <= BODY_BYTES_MAX);
};
const _: () = assert!(SYNCOBJS_PER_REQUEST_MAX <= SYNCOBJS_PER_SESSION_MAX as usize);
const _: () = assert!(OBJECTS_PER_EXECBUF_MAX <= BUFFERS_PER_SESSION_MAX);
const _: () = assert!(BUFFER_BYTES_MAX <= BUFFER_MEMORY_PER_SESSION_BYTES_MAX);
const _: () = assert!(USERPTR_MEMFD_BYTES_MAX <= USERPTR_MEMORY_PER_SESSION_BYTES_MAX);
const _: () = assert!(USERPTR_MEMFDS_PER_SESSION_MAX <= BUFFERS_PER_SESSION_MAX);
const _: () = assert!(BUFFER_BYTES_MAX.is_multiple_of(PAGE_BYTES));
const _: () = assert!(ENGINE_SLOTS_MAX <= 64, "execbuf selects a slot with six bits");
const _: () = assert!(FDS_PER_MESSAGE_MAX < 253, "SCM_MAX_FD");
