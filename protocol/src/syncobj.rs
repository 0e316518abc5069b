//! Synchronisation objects: containers of a fence, or of a timeline of fences
//! (`drivers/gpu/drm/drm_syncobj.c` is where the kernel's rules are).

use serde::{Deserialize, Serialize};

use crate::ids::SyncobjId;

/// Flags of syncobj requests.
pub mod flag {
    /// SYNCOBJ_CREATE: holds a signalled fence from the start.
    pub const CREATE_SIGNALED: u32 = 1 << 0;
    /// SYNCOBJ_WAIT: for all, not any.
    pub const WAIT_ALL: u32 = 1 << 0;
    /// SYNCOBJ_WAIT: also for a fence to be put in first.
    pub const WAIT_FOR_SUBMIT: u32 = 1 << 1;
    /// SYNCOBJ_TIMELINE_WAIT: only for the fence to be put in.
    pub const WAIT_AVAILABLE: u32 = 1 << 2;
    /// SYNCOBJ_QUERY: the last point submitted, not the last signalled.
    pub const QUERY_LAST_SUBMITTED: u32 = 1 << 0;
    /// SYNCOBJ_EXPORT and SYNCOBJ_IMPORT: a fence fd instead of the object.
    pub const SYNC_FILE: u32 = 1 << 0;
    /// SYNCOBJ_EXPORT and SYNCOBJ_IMPORT with SYNC_FILE: of a point of the timeline.
    pub const TIMELINE: u32 = 1 << 1;
    /// Flag of a fence array's entry: wait for it.
    pub const FENCE_WAIT: u32 = 1 << 0;
    /// Flag of a fence array's entry: signal it.
    pub const FENCE_SIGNAL: u32 = 1 << 1;
}

/// SYNCOBJ_CREATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjCreate {
    /// [`flag::CREATE_SIGNALED`]; others EINVAL.
    pub flags: u32,
}

/// Names one syncobj.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjOf {
    /// Its handle.
    pub syncobj: SyncobjId,
}

/// SYNCOBJ_DESTROY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjDestroy {
    /// Which; unknown is EINVAL.
    pub syncobj: SyncobjId,
    /// Must be 0.
    pub pad: u32,
}

/// SYNCOBJ_RESET and SYNCOBJ_SIGNAL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjArray {
    /// Which; none is EINVAL, unknown ENOENT.
    pub syncobjs: Vec<SyncobjId>,
    /// Must be 0.
    pub pad: u32,
}

/// SYNCOBJ_WAIT and, with `points`, SYNCOBJ_TIMELINE_WAIT. ETIME when the time is over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjWait {
    /// Which; none is no wait, unknown ENOENT.
    pub syncobjs: Vec<SyncobjId>,
    /// A point of each timeline, or `None` for binary objects.
    pub points: Option<Vec<u64>>,
    /// Bits WAIT_* of [`flag`].
    pub flags: u32,
    /// When to give up: nanoseconds of CLOCK_MONOTONIC; negative gives up at once.
    pub deadline_ns: i64,
}

/// The wait ended in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjWaited {
    /// Position of the first that signalled; `u32::MAX` after having waited for all.
    pub first_signaled: u32,
}

/// SYNCOBJ_TIMELINE_SIGNAL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjTimelineSignal {
    /// Which; none is EINVAL, unknown ENOENT.
    pub syncobjs: Vec<SyncobjId>,
    /// The point of each; 0 replaces the fence as SYNCOBJ_SIGNAL does.
    pub points: Vec<u64>,
    /// Must be 0.
    pub flags: u32,
}

/// SYNCOBJ_QUERY.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjQuery {
    /// Which; none is EINVAL, unknown ENOENT.
    pub syncobjs: Vec<SyncobjId>,
    /// [`flag::QUERY_LAST_SUBMITTED`] or 0.
    pub flags: u32,
}

/// Points of timelines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjPoints {
    /// In the order asked; 0 for binary objects.
    pub points: Vec<u64>,
}

/// SYNCOBJ_TRANSFER: puts the source's fence at `source_point` into the target at `target_point`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjTransfer {
    /// Where the fence is.
    pub source: SyncobjId,
    /// 0 for a binary object.
    pub source_point: u64,
    /// Where it goes.
    pub target: SyncobjId,
    /// 0 for a binary object.
    pub target_point: u64,
    /// [`flag::WAIT_FOR_SUBMIT`] or 0.
    pub flags: u32,
    /// Must be 0.
    pub pad: u32,
}

/// SYNCOBJ_HANDLE_TO_FD.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjExport {
    /// Which; unknown is EINVAL, with [`flag::SYNC_FILE`] ENOENT.
    pub syncobj: SyncobjId,
    /// 0, or [`flag::SYNC_FILE`] perhaps with [`flag::TIMELINE`].
    pub flags: u32,
    /// With TIMELINE.
    pub point: u64,
}

/// The object itself, or a fence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjExported<Fd> {
    /// For SYNCOBJ_IMPORT of any session, or a fence fd.
    pub fd: Fd,
}

/// SYNCOBJ_FD_TO_HANDLE.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncobjImport<Fd> {
    /// With SYNC_FILE: the object the fence goes into; else 0.
    pub syncobj: SyncobjId,
    /// As exported.
    pub flags: u32,
    /// With TIMELINE.
    pub point: u64,
    /// The object or the fence.
    pub fd: Fd,
}
