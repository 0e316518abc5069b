//! Syncobjs of one session, with the answers of the kernel's `drm_syncobj`.
//!
//! The device keeps the fences; here are the handles, the checks and their order. Waiting is the
//! daemon's: [`Session::syncobj_wait_set`] says what to wait for.

use gpu_broker_protocol::syncobj::{
    SyncobjArray, SyncobjCreate, SyncobjDestroy, SyncobjExport, SyncobjOf, SyncobjPoints,
    SyncobjQuery, SyncobjTimelineSignal, SyncobjTransfer, SyncobjWait, flag,
};
use gpu_broker_protocol::{Reason, Refusal, SyncobjId, limits};

use crate::hands::Hands;
use crate::session::Session;
use crate::table::Table;

/// A session's syncobjs by handle.
pub(crate) struct Syncobjs<H: Hands> {
    table: Table<H::Syncobj>,
    limit: u32,
}

impl<H: Hands> Syncobjs<H> {
    pub(crate) fn new(limit: u32) -> Self {
        Self { table: Table::default(), limit }
    }

    pub(crate) fn len(&self) -> u32 {
        self.table.len()
    }

    /// The object, or ENOENT.
    pub(crate) fn find(&self, handle: u32) -> Result<&H::Syncobj, Refusal> {
        self.table.get(handle).ok_or_else(|| {
            Refusal::new(Reason::NoSuchSyncobj).with_detail(format!("handle {handle}"))
        })
    }

    fn all(&self, ids: &[SyncobjId]) -> Result<Vec<H::Syncobj>, Refusal> {
        ids.iter().map(|id| self.find(id.0).cloned()).collect()
    }
}

fn flags_within(flags: u32, known: u32) -> Result<(), Refusal> {
    if flags & !known != 0 {
        return Err(Refusal::new(Reason::SyncobjFlags).with_detail(format!("{flags:#x}")));
    }
    Ok(())
}

fn pad_zero(pad: u32) -> Result<(), Refusal> {
    if pad == 0 { Ok(()) } else { Err(Reason::ReservedNotZero.into()) }
}

fn count_within(ids: &[SyncobjId]) -> Result<(), Refusal> {
    if ids.is_empty() || ids.len() > limits::SYNCOBJS_PER_REQUEST_MAX {
        let detail = format!("{} syncobjs", ids.len());
        return Err(Refusal::new(Reason::SyncobjCount).with_detail(detail));
    }
    Ok(())
}

impl<H: Hands> Session<H> {
    /// SYNCOBJ_CREATE.
    ///
    /// # Errors
    /// EINVAL for unknown flags; ENOMEM at the limit of syncobjs or from the device.
    pub fn syncobj_create(&self, request: &SyncobjCreate) -> Result<SyncobjOf, Refusal> {
        flags_within(request.flags, flag::CREATE_SIGNALED)?;
        let signalled = request.flags & flag::CREATE_SIGNALED != 0;
        self.syncobj_add(|| self.hands.create_syncobj(signalled))
    }

    /// A handle for an object that SYNCOBJ_FD_TO_HANDLE brought: a new one each time, unlike for
    /// buffers.
    ///
    /// # Errors
    /// ENOMEM at the limit of syncobjs.
    pub fn syncobj_insert(&self, syncobj: H::Syncobj) -> Result<SyncobjId, Refusal> {
        self.syncobj_add(|| Ok(syncobj)).map(|of| of.syncobj)
    }

    fn syncobj_add(
        &self,
        make: impl FnOnce() -> Result<H::Syncobj, Refusal>,
    ) -> Result<SyncobjOf, Refusal> {
        let mut syncobjs = self.syncobjs.lock();
        if syncobjs.len() >= syncobjs.limit {
            return Err(Reason::SyncobjLimit.into());
        }
        let syncobj = make()?;
        let limit = syncobjs.limit;
        let id = syncobjs.table.insert(limit, syncobj).ok_or(Reason::SyncobjLimit)?;
        Ok(SyncobjOf { syncobj: SyncobjId(id) })
    }

    /// SYNCOBJ_DESTROY. Whoever waits for the object, or signals it, still holds it.
    ///
    /// # Errors
    /// EINVAL for pad and for an unknown handle.
    pub fn syncobj_destroy(&self, request: &SyncobjDestroy) -> Result<(), Refusal> {
        pad_zero(request.pad)?;
        // Bound to a name, so that the object goes after the lock.
        let removed = self.syncobjs.lock().table.remove(request.syncobj.0);
        removed.map(drop).ok_or_else(|| Reason::SyncobjHandle.into())
    }

    /// SYNCOBJ_RESET: takes the fences out.
    ///
    /// # Errors
    /// EINVAL for pad or no handles; ENOENT for an unknown handle, and nothing is reset then.
    pub fn syncobj_reset(&self, request: &SyncobjArray) -> Result<(), Refusal> {
        for syncobj in self.syncobj_array(request)? {
            self.hands.reset_syncobj(&syncobj);
        }
        Ok(())
    }

    /// SYNCOBJ_SIGNAL: puts signalled fences in, in place of what was there.
    ///
    /// # Errors
    /// As [`Self::syncobj_reset`]; what the device says, with those before signalled.
    pub fn syncobj_signal(&self, request: &SyncobjArray) -> Result<(), Refusal> {
        for syncobj in self.syncobj_array(request)? {
            self.hands.signal_syncobj(&syncobj, 0)?;
        }
        Ok(())
    }

    fn syncobj_array(&self, request: &SyncobjArray) -> Result<Vec<H::Syncobj>, Refusal> {
        pad_zero(request.pad)?;
        count_within(&request.syncobjs)?;
        self.syncobjs.lock().all(&request.syncobjs)
    }

    /// SYNCOBJ_TIMELINE_SIGNAL: puts points in that have signalled; point 0 stands for the binary
    /// object.
    ///
    /// # Errors
    /// EINVAL for flags, no handles or another number of points; ENOENT for an unknown handle;
    /// what the device says, with those before signalled.
    pub fn syncobj_timeline_signal(&self, request: &SyncobjTimelineSignal) -> Result<(), Refusal> {
        flags_within(request.flags, 0)?;
        count_within(&request.syncobjs)?;
        if request.points.len() != request.syncobjs.len() {
            return Err(Reason::SyncobjPoints.into());
        }
        let syncobjs = self.syncobjs.lock().all(&request.syncobjs)?;
        for (syncobj, point) in syncobjs.iter().zip(&request.points) {
            self.hands.signal_syncobj(syncobj, *point)?;
        }
        Ok(())
    }

    /// SYNCOBJ_QUERY: the last point of each that signalled, or with QUERY_LAST_SUBMITTED that was
    /// put in.
    ///
    /// # Errors
    /// EINVAL for unknown flags or no handles; ENOENT for an unknown handle.
    pub fn syncobj_query(&self, request: &SyncobjQuery) -> Result<SyncobjPoints, Refusal> {
        flags_within(request.flags, flag::QUERY_LAST_SUBMITTED)?;
        count_within(&request.syncobjs)?;
        let submitted = request.flags & flag::QUERY_LAST_SUBMITTED != 0;
        let syncobjs = self.syncobjs.lock().all(&request.syncobjs)?;
        let point = |syncobj: &H::Syncobj| self.hands.syncobj_point(syncobj, submitted);
        Ok(SyncobjPoints { points: syncobjs.iter().map(point).collect() })
    }

    /// SYNCOBJ_TRANSFER: puts the source's fence into the target. `false` says that there is none
    /// yet and the client asked to wait for it: the daemon calls again when there is one
    /// ([`Self::syncobj_transfer_source`] is what to wait for), and answers ETIME when it waited
    /// long enough.
    ///
    /// # Errors
    /// In the kernel's order: EINVAL for pad; ENOENT for an unknown target; EINVAL for unknown
    /// flags; ENOENT for an unknown source; EINVAL when the source holds no fence for the point
    /// and WAIT_FOR_SUBMIT is not set; what the device says.
    pub fn syncobj_transfer(&self, request: &SyncobjTransfer) -> Result<bool, Refusal> {
        let (source, target) = self.transfer_ends(request)?;
        let Some(fence) = self.hands.syncobj_fence(&source, request.source_point) else {
            if request.flags & flag::WAIT_FOR_SUBMIT != 0 {
                return Ok(false);
            }
            return Err(Reason::SyncobjEmpty.into());
        };
        self.hands.put_fence(&target, request.target_point, &fence)?;
        Ok(true)
    }

    /// The object and point whose fence a transfer with WAIT_FOR_SUBMIT waits for.
    ///
    /// # Errors
    /// As [`Self::syncobj_transfer`].
    pub fn syncobj_transfer_source(
        &self,
        request: &SyncobjTransfer,
    ) -> Result<(H::Syncobj, u64), Refusal> {
        let (source, _) = self.transfer_ends(request)?;
        Ok((source, request.source_point))
    }

    fn transfer_ends(
        &self,
        request: &SyncobjTransfer,
    ) -> Result<(H::Syncobj, H::Syncobj), Refusal> {
        pad_zero(request.pad)?;
        let syncobjs = self.syncobjs.lock();
        let target = syncobjs.find(request.target.0)?.clone();
        flags_within(request.flags, flag::WAIT_FOR_SUBMIT)?;
        let source = syncobjs.find(request.source.0)?.clone();
        Ok((source, target))
    }

    /// The object behind a handle.
    ///
    /// # Errors
    /// ENOENT for an unknown handle.
    pub fn syncobj(&self, id: SyncobjId) -> Result<H::Syncobj, Refusal> {
        self.syncobjs.lock().find(id.0).cloned()
    }

    /// Checks SYNCOBJ_EXPORT and finds what it exports: the object itself without SYNC_FILE, else
    /// the fence for the point that goes with it.
    ///
    /// # Errors
    /// EINVAL for unknown flags, or a point without SYNC_FILE; an unknown handle is EINVAL, with
    /// SYNC_FILE ENOENT; with SYNC_FILE, EINVAL when there is no fence.
    pub fn syncobj_export(&self, request: &SyncobjExport) -> Result<Exported<H>, Refusal> {
        flags_within(request.flags, flag::SYNC_FILE | flag::TIMELINE)?;
        if request.flags & flag::SYNC_FILE == 0 {
            if request.point != 0 {
                return Err(Reason::SyncobjPoint.into());
            }
            let syncobj = self.syncobj(request.syncobj).map_err(|_| Reason::SyncobjHandle)?;
            return Ok(Exported::Object(syncobj));
        }
        let syncobj = self.syncobj(request.syncobj)?;
        let point = timeline_point(request.flags, request.point);
        let fence = self.hands.syncobj_fence(&syncobj, point).ok_or(Reason::SyncobjEmpty)?;
        Ok(Exported::Fence(fence))
    }

    /// Checks the flags of SYNCOBJ_IMPORT before its fd is looked at: `true` if the fd is a fence.
    ///
    /// # Errors
    /// EINVAL for unknown flags, or a point without SYNC_FILE.
    pub fn syncobj_import_is_fence(&self, flags: u32, point: u64) -> Result<bool, Refusal> {
        flags_within(flags, flag::SYNC_FILE | flag::TIMELINE)?;
        let is_fence = flags & flag::SYNC_FILE != 0;
        if !is_fence && point != 0 {
            return Err(Reason::SyncobjPoint.into());
        }
        Ok(is_fence)
    }

    /// SYNCOBJ_IMPORT with SYNC_FILE: puts the fence in, with TIMELINE at the point.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; what the device says.
    pub fn syncobj_import_fence(
        &self,
        id: SyncobjId,
        flags: u32,
        point: u64,
        fence: &H::Fence,
    ) -> Result<(), Refusal> {
        let syncobj = self.syncobj(id)?;
        self.hands.put_fence(&syncobj, timeline_point(flags, point), fence)
    }

    /// What SYNCOBJ_WAIT, or with points SYNCOBJ_TIMELINE_WAIT, waits for; point 0 is whatever
    /// fence is in the object. The daemon asks the device and keeps the time. Nothing to wait for
    /// is no error in the kernel: an empty answer means that the wait is over at once.
    ///
    /// # Errors
    /// EINVAL for unknown flags, for more objects than a request may name, or another number of
    /// points; ENOENT for an unknown handle.
    pub fn syncobj_wait_set(
        &self,
        request: &SyncobjWait,
    ) -> Result<Vec<(H::Syncobj, u64)>, Refusal> {
        let timeline = if request.points.is_some() { flag::WAIT_AVAILABLE } else { 0 };
        flags_within(request.flags, flag::WAIT_ALL | flag::WAIT_FOR_SUBMIT | timeline)?;
        if request.syncobjs.is_empty() {
            return Ok(Vec::new());
        }
        count_within(&request.syncobjs)?;
        let points = request.points.as_deref();
        if points.is_some_and(|points| points.len() != request.syncobjs.len()) {
            return Err(Reason::SyncobjPoints.into());
        }
        let syncobjs = self.syncobjs.lock().all(&request.syncobjs)?;
        let points = points.unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
        Ok(syncobjs.into_iter().zip(points).collect())
    }
}

/// What SYNCOBJ_EXPORT exports.
pub enum Exported<H: Hands> {
    /// The object itself.
    Object(H::Syncobj),
    /// A fence of it.
    Fence(H::Fence),
}

/// The point that a fence fd stands for: without TIMELINE the field is not looked at.
fn timeline_point(flags: u32, point: u64) -> u64 {
    if flags & flag::TIMELINE != 0 { point } else { 0 }
}
