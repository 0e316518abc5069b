//! Synchronisation objects.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gpu_broker_protocol::SyncobjId;
use gpu_broker_protocol::syncobj::{SyncobjWait, flag};

use crate::calls::{self, in_time};
use crate::connection::Connection;
use crate::error::Error;
use crate::fence::Fence;

/// A container of a fence (binary), or of a timeline of fences: points that only grow. Submissions
/// wait for it and signal it ([`crate::Execbuf::wait_for`], [`crate::Execbuf::signal`]), and so do
/// programs. Dropping it gives the handle up; work in flight keeps the object.
#[derive(Debug)]
pub struct Syncobj {
    connection: Connection,
    id: SyncobjId,
    open: bool,
}

impl Syncobj {
    pub(crate) const fn new(connection: Connection, id: SyncobjId) -> Self {
        Self { connection, id, open: true }
    }

    /// Its handle in this session.
    #[must_use]
    pub const fn id(&self) -> SyncobjId {
        self.id
    }

    /// Takes the fence out. Who waits for it already goes on waiting for it.
    ///
    /// # Errors
    /// The connection's.
    pub fn reset(&self) -> Result<(), Error> {
        self.connection.call(calls::reset_syncobj(self.id))
    }

    /// Puts a signalled fence in.
    ///
    /// # Errors
    /// The connection's.
    pub fn signal(&self) -> Result<(), Error> {
        self.connection.call(calls::signal_syncobj(self.id))
    }

    /// Adds a signalled point to the timeline.
    ///
    /// # Errors
    /// The connection's.
    pub fn signal_point(&self, point: u64) -> Result<(), Error> {
        self.connection.call(calls::signal_point(self.id, point))
    }

    /// The last point that was signalled.
    ///
    /// # Errors
    /// The connection's.
    pub fn point(&self) -> Result<u64, Error> {
        self.connection.call(calls::query_point(self.id, 0))
    }

    /// The last point that was added, signalled or not.
    ///
    /// # Errors
    /// The connection's.
    pub fn last_submitted_point(&self) -> Result<u64, Error> {
        self.connection.call(calls::query_point(self.id, flag::QUERY_LAST_SUBMITTED))
    }

    /// Waits until the fence signals; `None` waits for ever. Answers false when the time was over
    /// first. [`SyncobjSet`] waits for several, for points, and for fences that are still to come.
    ///
    /// # Errors
    /// EINVAL while there is no fence in it; refused with `wait-limit` (EAGAIN).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        self.connection.wait_all(&SyncobjSet::new().with(self), timeout)
    }

    /// Waits until a point of the timeline signals, as [`Self::wait`].
    ///
    /// # Errors
    /// As [`Self::wait`], where the point must have been added.
    pub fn wait_point(&self, point: u64, timeout: Option<Duration>) -> Result<bool, Error> {
        self.connection.wait_all(&SyncobjSet::new().with_point(self, point), timeout)
    }

    /// Puts this object's fence, or that of a point of its timeline, into another object or point;
    /// 0 is the fence of a binary object.
    ///
    /// # Errors
    /// EINVAL while there is no such fence.
    pub fn transfer(&self, point: u64, target: &Self, target_point: u64) -> Result<(), Error> {
        self.connection.call(calls::transfer((self.id, point), (target.id, target_point), 0))
    }

    /// An fd that stands for the object, for [`Connection::import_syncobj`] of any session.
    ///
    /// # Errors
    /// EMFILE when too many are exported.
    pub fn export(&self) -> Result<OwnedFd, Error> {
        self.connection.call(calls::export_syncobj(self.id))
    }

    /// The fence that is in it now.
    ///
    /// # Errors
    /// EINVAL while there is none; refused with `fence-limit` (EMFILE).
    pub fn export_fence(&self) -> Result<Fence, Error> {
        self.connection.call(calls::export_fence(self.id, None))
    }

    /// The fence of a point of the timeline.
    ///
    /// # Errors
    /// As [`Self::export_fence`].
    pub fn export_fence_of(&self, point: u64) -> Result<Fence, Error> {
        self.connection.call(calls::export_fence(self.id, Some(point)))
    }

    /// Puts a fence in.
    ///
    /// # Errors
    /// EINVAL when it is no fence of that daemon.
    pub fn import_fence(&self, fence: &Fence) -> Result<(), Error> {
        self.connection.call(calls::import_fence(self.id, None, fence.as_fd()))
    }

    /// Puts a fence in as a point of the timeline.
    ///
    /// # Errors
    /// As [`Self::import_fence`].
    pub fn import_fence_at(&self, point: u64, fence: &Fence) -> Result<(), Error> {
        self.connection.call(calls::import_fence(self.id, Some(point), fence.as_fd()))
    }

    /// Gives the handle up, and says whether that worked.
    ///
    /// # Errors
    /// The connection's.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.open = false;
        self.connection.call(calls::destroy_syncobj(self.id))
    }
}

impl From<&Syncobj> for SyncobjId {
    fn from(syncobj: &Syncobj) -> Self {
        syncobj.id
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        if self.open {
            // Whoever wants to know calls `destroy`. A session that ended has no syncobjs left.
            let _ = self.connection.call(calls::destroy_syncobj(self.id));
        }
    }
}

/// Syncobjs to wait for together, with [`Connection::wait_any`] or [`Connection::wait_all`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SyncobjSet {
    syncobjs: Vec<SyncobjId>,
    points: Vec<u64>,
    timeline: bool,
    flags: u32,
}

impl SyncobjSet {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, whose fence counts.
    #[must_use]
    pub fn with(self, syncobj: impl Into<SyncobjId>) -> Self {
        self.push(syncobj.into(), 0)
    }

    /// One more, of whose timeline a point counts.
    #[must_use]
    pub fn with_point(mut self, syncobj: impl Into<SyncobjId>, point: u64) -> Self {
        self.timeline = true;
        self.push(syncobj.into(), point)
    }

    /// Also waits for fences that are not there yet.
    #[must_use]
    pub const fn for_submit(mut self) -> Self {
        self.flags |= flag::WAIT_FOR_SUBMIT;
        self
    }

    /// Waits only until the fences of timelines are there, signalled or not. With points alone.
    #[must_use]
    pub const fn available(mut self) -> Self {
        self.flags |= flag::WAIT_AVAILABLE;
        self
    }

    fn push(mut self, syncobj: SyncobjId, point: u64) -> Self {
        self.syncobjs.push(syncobj);
        self.points.push(point);
        self
    }

    pub(crate) fn request(&self, flags: u32, timeout: Option<Duration>) -> SyncobjWait {
        SyncobjWait {
            syncobjs: self.syncobjs.clone(),
            points: self.timeline.then(|| self.points.clone()),
            flags: self.flags | flags,
            deadline_ns: calls::deadline_ns(timeout),
        }
    }

    /// Which signalled first, among those that are here.
    pub(crate) fn position(&self, first: Option<u32>) -> Result<Option<usize>, Error> {
        let Some(first) = first else { return Ok(None) };
        let position = usize::try_from(first).ok().filter(|first| *first < self.syncobjs.len());
        position.map(Some).ok_or(Error::Protocol(gpu_broker_protocol::Violation::Malformed))
    }
}

impl Connection {
    /// Makes a syncobj, empty or with a signalled fence in it.
    ///
    /// # Errors
    /// ENOMEM when the session has as many as it may.
    pub fn create_syncobj(&self, signalled: bool) -> Result<Syncobj, Error> {
        let id = self.call(calls::create_syncobj(signalled))?;
        Ok(Syncobj::new(self.clone(), id))
    }

    /// The object behind an fd from [`Syncobj::export`], under a new handle.
    ///
    /// # Errors
    /// EINVAL when the fd is no such object of that daemon.
    pub fn import_syncobj(&self, fd: impl AsFd) -> Result<Syncobj, Error> {
        let id = self.call(calls::import_syncobj(fd.as_fd()))?;
        Ok(Syncobj::new(self.clone(), id))
    }

    /// Waits until one of them signals, and says which; `None` waits for ever. `None` is the
    /// answer when the time was over first.
    ///
    /// # Errors
    /// EINVAL for an empty set, and while one has no fence unless the set is
    /// [`SyncobjSet::for_submit`]; refused with `wait-limit` (EAGAIN).
    pub fn wait_any(
        &self,
        set: &SyncobjSet,
        timeout: Option<Duration>,
    ) -> Result<Option<usize>, Error> {
        let first = in_time(self.call(calls::wait_syncobjs(set.request(0, timeout))))?;
        set.position(first)
    }

    /// Waits until all of them have signalled; `None` waits for ever. Answers false when the time
    /// was over first.
    ///
    /// # Errors
    /// As [`Self::wait_any`].
    pub fn wait_all(&self, set: &SyncobjSet, timeout: Option<Duration>) -> Result<bool, Error> {
        let request = set.request(flag::WAIT_ALL, timeout);
        Ok(in_time(self.call(calls::wait_syncobjs(request)))?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_with_a_point_has_points_for_all() {
        let set = SyncobjSet::new().with(SyncobjId(4)).for_submit();
        let wait = set.request(flag::WAIT_ALL, None);
        assert_eq!(wait.points, None);
        assert_eq!(wait.flags, flag::WAIT_ALL | flag::WAIT_FOR_SUBMIT);
        let wait = set.with_point(SyncobjId(2), 9).available().request(0, None);
        assert_eq!(wait.syncobjs, [SyncobjId(4), SyncobjId(2)]);
        assert_eq!(wait.points, Some(vec![0, 9]));
        assert_eq!(wait.flags, flag::WAIT_FOR_SUBMIT | flag::WAIT_AVAILABLE);
    }

    #[test]
    fn which_came_first_must_be_one_of_the_set() {
        let set = SyncobjSet::new().with(SyncobjId(4)).with(SyncobjId(5));
        assert_eq!(set.position(Some(1)).expect("in the set"), Some(1));
        assert_eq!(set.position(None).expect("too late"), None);
        assert!(set.position(Some(2)).is_err() && set.position(Some(u32::MAX)).is_err());
    }
}
