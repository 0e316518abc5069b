//! Synchronisation objects on a tokio runtime.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gpu_broker_protocol::SyncobjId;
use gpu_broker_protocol::syncobj::flag;

use super::Connection;
use super::objects::release_later;
use crate::calls::{self, in_time};
use crate::error::Error;
use crate::fence::Fence;
use crate::syncobj::SyncobjSet;

/// A container of a fence, or of a timeline of fences; see [`crate::Syncobj`].
#[derive(Debug)]
pub struct Syncobj {
    connection: Connection,
    id: SyncobjId,
    open: bool,
}

impl Syncobj {
    const fn new(connection: Connection, id: SyncobjId) -> Self {
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
    pub async fn reset(&self) -> Result<(), Error> {
        self.connection.call(calls::reset_syncobj(self.id)).await
    }

    /// Puts a signalled fence in.
    ///
    /// # Errors
    /// The connection's.
    pub async fn signal(&self) -> Result<(), Error> {
        self.connection.call(calls::signal_syncobj(self.id)).await
    }

    /// Adds a signalled point to the timeline.
    ///
    /// # Errors
    /// The connection's.
    pub async fn signal_point(&self, point: u64) -> Result<(), Error> {
        self.connection.call(calls::signal_point(self.id, point)).await
    }

    /// The last point that was signalled.
    ///
    /// # Errors
    /// The connection's.
    pub async fn point(&self) -> Result<u64, Error> {
        self.connection.call(calls::query_point(self.id, 0)).await
    }

    /// The last point that was added, signalled or not.
    ///
    /// # Errors
    /// The connection's.
    pub async fn last_submitted_point(&self) -> Result<u64, Error> {
        self.connection.call(calls::query_point(self.id, flag::QUERY_LAST_SUBMITTED)).await
    }

    /// Waits until the fence signals; `None` waits for ever. Answers false when the time was over
    /// first.
    ///
    /// # Errors
    /// As [`crate::Syncobj::wait`].
    pub async fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        self.connection.wait_all(&SyncobjSet::new().with(self), timeout).await
    }

    /// Waits until a point of the timeline signals.
    ///
    /// # Errors
    /// As [`crate::Syncobj::wait_point`].
    pub async fn wait_point(&self, point: u64, timeout: Option<Duration>) -> Result<bool, Error> {
        self.connection.wait_all(&SyncobjSet::new().with_point(self, point), timeout).await
    }

    /// Puts this object's fence, or that of a point of its timeline, into another object or point.
    ///
    /// # Errors
    /// As [`crate::Syncobj::transfer`].
    pub async fn transfer(
        &self,
        point: u64,
        target: &Self,
        target_point: u64,
    ) -> Result<(), Error> {
        let call = calls::transfer((self.id, point), (target.id, target_point), 0);
        self.connection.call(call).await
    }

    /// An fd that stands for the object, for [`Connection::import_syncobj`] of any session.
    ///
    /// # Errors
    /// As [`crate::Syncobj::export`].
    pub async fn export(&self) -> Result<OwnedFd, Error> {
        self.connection.call(calls::export_syncobj(self.id)).await
    }

    /// The fence that is in it now.
    ///
    /// # Errors
    /// As [`crate::Syncobj::export_fence`].
    pub async fn export_fence(&self) -> Result<Fence, Error> {
        self.connection.call(calls::export_fence(self.id, None)).await
    }

    /// The fence of a point of the timeline.
    ///
    /// # Errors
    /// As [`crate::Syncobj::export_fence`].
    pub async fn export_fence_of(&self, point: u64) -> Result<Fence, Error> {
        self.connection.call(calls::export_fence(self.id, Some(point))).await
    }

    /// Puts a fence in.
    ///
    /// # Errors
    /// As [`crate::Syncobj::import_fence`].
    pub async fn import_fence(&self, fence: &Fence) -> Result<(), Error> {
        self.connection.call(calls::import_fence(self.id, None, fence.as_fd())).await
    }

    /// Puts a fence in as a point of the timeline.
    ///
    /// # Errors
    /// As [`crate::Syncobj::import_fence`].
    pub async fn import_fence_at(&self, point: u64, fence: &Fence) -> Result<(), Error> {
        self.connection.call(calls::import_fence(self.id, Some(point), fence.as_fd())).await
    }

    /// Gives the handle up, and says whether that worked.
    ///
    /// # Errors
    /// The connection's.
    pub async fn destroy(mut self) -> Result<(), Error> {
        self.open = false;
        self.connection.call(calls::destroy_syncobj(self.id)).await
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
            release_later(&self.connection, calls::destroy_syncobj(self.id).request);
        }
    }
}

impl Connection {
    /// Makes a syncobj, empty or with a signalled fence in it.
    ///
    /// # Errors
    /// As [`crate::Connection::create_syncobj`].
    pub async fn create_syncobj(&self, signalled: bool) -> Result<Syncobj, Error> {
        let id = self.call(calls::create_syncobj(signalled)).await?;
        Ok(Syncobj::new(self.clone(), id))
    }

    /// The object behind an fd from [`Syncobj::export`], under a new handle.
    ///
    /// # Errors
    /// As [`crate::Connection::import_syncobj`].
    pub async fn import_syncobj(&self, fd: impl AsFd) -> Result<Syncobj, Error> {
        let id = self.call(calls::import_syncobj(fd.as_fd())).await?;
        Ok(Syncobj::new(self.clone(), id))
    }

    /// Waits until one of them signals, and says which.
    ///
    /// # Errors
    /// As [`crate::Connection::wait_any`].
    pub async fn wait_any(
        &self,
        set: &SyncobjSet,
        timeout: Option<Duration>,
    ) -> Result<Option<usize>, Error> {
        let first = in_time(self.call(calls::wait_syncobjs(set.request(0, timeout))).await)?;
        set.position(first)
    }

    /// Waits until all of them have signalled.
    ///
    /// # Errors
    /// As [`crate::Connection::wait_all`].
    pub async fn wait_all(
        &self,
        set: &SyncobjSet,
        timeout: Option<Duration>,
    ) -> Result<bool, Error> {
        let request = set.request(flag::WAIT_ALL, timeout);
        Ok(in_time(self.call(calls::wait_syncobjs(request)).await)?.is_some())
    }
}
